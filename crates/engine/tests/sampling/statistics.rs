//! Draws follow the distributions that the definitions give: Pearson's chi-square test for each sampler.
//!
//! Seeds are fixed, so that a result never changes. The critical value is the 99.9 % quantile of chi-square with
//! (possible tokens - 1) degrees of freedom: a right sampler with another seed would fail once in a thousand times.
//! Each case also names settings that are a little wrong, and the same test has to refuse their draws.

use hublabio_engine::TokenIndex;
use hublabio_engine::sampling::{Dry, DynamicTemperature, Mirostat, Sampler, SamplingConfig, TokenMask, Xtc};

/// The model's distribution.
const P: [f64; 8] = [0.06, 0.30, 0.02, 0.22, 0.12, 0.08, 0.16, 0.04];
/// Added to all logits, so that some are positive and some negative.
const SHIFT: f64 = 2.5;
const DRAWS: usize = 50_000;

fn logits() -> Vec<f32> {
    P.iter().map(|p| (p.ln() + SHIFT) as f32).collect()
}

fn normalized(weights: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let weights: Vec<f64> = weights.into_iter().collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// The distribution of these tokens alone.
fn only(tokens: &[usize]) -> Vec<f64> {
    normalized((0..P.len()).map(|t| if tokens.contains(&t) { P[t] } else { 0.0 }))
}

fn at_temperature(t: f64) -> Vec<f64> {
    normalized(P.iter().map(|p| p.powf(1.0 / t)))
}

fn of_logits(changed: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    normalized(P.iter().enumerate().map(|(t, p)| changed(t, p.ln() + SHIFT).exp()))
}

fn entropy() -> f64 {
    -P.iter().map(|p| p * p.ln()).sum::<f64>()
}

/// The 99.9 % quantiles of chi-square with 1 to 7 degrees of freedom.
const CRITICAL: [f64; 7] = [10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322];

/// Chi-square over its critical value; infinite where a token was drawn that is not possible.
fn deviation(config: &SamplingConfig, history: &[TokenIndex], mask: Option<TokenMask<'_>>, expected: &[f64]) -> f64 {
    let mut sampler = Sampler::new(SamplingConfig { seed: Some(20_231), ..config.clone() }).unwrap();
    history.iter().for_each(|&token| sampler.accept(token));
    let logits = logits();
    let mut counts = [0usize; P.len()];
    for _ in 0..DRAWS {
        counts[sampler.sample(&logits, mask).unwrap() as usize] += 1;
    }
    let mut chi_square = 0.0;
    for (&count, &p) in counts.iter().zip(expected) {
        if p > 0.0 {
            let n = p * DRAWS as f64;
            chi_square += (count as f64 - n).powi(2) / n;
        } else if count > 0 {
            return f64::INFINITY;
        }
    }
    chi_square / CRITICAL[expected.iter().filter(|p| **p > 0.0).count() - 2]
}

/// `right` draws from `expected`, and `wrong` does not.
fn check(name: &str, history: &[TokenIndex], expected: &[f64], right: &SamplingConfig, wrong: &SamplingConfig) {
    assert!((expected.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{name}");
    let found = deviation(right, history, None, expected);
    assert!(found < 1.0, "{name}: chi-square is {found} times its critical value");
    let found = deviation(wrong, history, None, expected);
    assert!(found > 1.0, "{name}: settings that are wrong pass the test ({found})");
}

fn plain(f: impl Fn(&mut SamplingConfig)) -> SamplingConfig {
    let mut config = SamplingConfig::plain();
    f(&mut config);
    config
}

#[test]
fn temperature() {
    let at = |t: f32| plain(|c| c.temperature = t);
    check("1", &[], &P, &at(1.0), &at(1.04));
    check("0.5", &[], &at_temperature(0.5), &at(0.5), &at(0.52));
    check("2", &[], &at_temperature(2.0), &at(2.0), &at(1.9));
    let dynamic = |range, exponent| plain(|c| c.dynamic_temperature = Some(DynamicTemperature { range, exponent }));
    let relative = entropy() / 8f64.ln();
    check("dynamic", &[], &at_temperature(0.2 + 1.6 * relative.powf(2.0)), &dynamic(0.8, 2.0), &dynamic(0.8, 1.0));
}

#[test]
fn filters_of_the_likeliest() {
    check("top-k", &[], &only(&[1, 3, 6]), &plain(|c| c.top_k = 3), &plain(|c| c.top_k = 4));
    // 0.30, 0.52, 0.68, 0.80
    check("top-p", &[], &only(&[1, 3, 6, 4]), &plain(|c| c.top_p = 0.7), &plain(|c| c.top_p = 0.67));
    // 0.25 · 0.30 = 0.075
    check("min-p", &[], &only(&[1, 3, 6, 4, 5]), &plain(|c| c.min_p = 0.25), &plain(|c| c.min_p = 0.28));
    let logits: Vec<f64> = P.iter().map(|p| p.ln()).collect();
    let mean = logits.iter().sum::<f64>() / 8.0;
    let deviation = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / 8.0).sqrt();
    let within: Vec<usize> = (0..8).filter(|&t| logits[t] >= 0.30f64.ln() - deviation).collect();
    assert_eq!(within, [1, 3, 6], "by hand: the deviation is 0.87, so that all above 0.126 are left");
    check("top-n-sigma", &[], &only(&within), &plain(|c| c.top_n_sigma = 1.0), &plain(|c| c.top_n_sigma = 1.2));
}

#[test]
fn locally_typical() {
    // The entropy is 1.82 nats: nearest are 0.16 (1.83), 0.12 (2.12), 0.22 (1.51), 0.30 (1.20), 0.08 (2.53), …
    assert!((entropy() - 1.82).abs() < 0.01);
    check("0.5", &[], &only(&[6, 4, 3]), &plain(|c| c.typical_p = 0.45), &plain(|c| c.typical_p = 0.55));
    check("0.25", &[], &only(&[6, 4]), &plain(|c| c.typical_p = 0.25), &plain(|c| c.typical_p = 0.15));
}

#[test]
fn exclude_top_choices() {
    let xtc = |probability, threshold| plain(|c| c.xtc = Some(Xtc { probability, threshold }));
    let without = only(&[6, 4, 5, 0, 7, 2]);
    let mixed = |share: f64| P.iter().zip(&without).map(|(p, w)| (1.0 - share) * p + share * w).collect::<Vec<_>>();
    check("always", &[], &mixed(1.0), &xtc(1.0, 0.15), &xtc(0.99, 0.15));
    check("sometimes", &[], &mixed(0.4), &xtc(0.4, 0.15), &xtc(0.4, 0.2));
    check("as often as said", &[], &mixed(0.4), &xtc(0.4, 0.15), &xtc(0.37, 0.15));
    check("one is likely enough", &[], &P, &xtc(1.0, 0.25), &xtc(1.0, 0.22));
}

#[test]
fn penalties_and_biases() {
    let history = [1, 1, 7, 3, 1];
    let penalized = |repetition, frequency, presence| {
        plain(|c| {
            (c.repetition_penalty, c.frequency_penalty, c.presence_penalty) = (repetition, frequency, presence);
            c.penalty_window = 4;
        })
    };
    // The window has 1 7 3 1: the first 1 is forgotten.
    let count = |t| f64::from([0u8, 2, 0, 1, 0, 0, 0, 1][t]);
    let repeated = |t, l: f64| {
        if count(t) == 0.0 {
            l
        } else if l > 0.0 {
            l / 1.3
        } else {
            l * 1.3
        }
    };
    let all = of_logits(|t, l| repeated(t, l) - 0.2 * count(t) - 0.3 * count(t).min(1.0));
    check("all three", &history, &all, &penalized(1.3, 0.2, 0.3), &penalized(1.3, 0.25, 0.3));
    let frequency = of_logits(|t, l| l - 0.4 * count(t));
    check("frequency", &history, &frequency, &penalized(1.0, 0.4, 0.0), &penalized(1.0, 0.0, 0.4));
    let presence = of_logits(|t, l| l - 0.4 * count(t).min(1.0));
    check("presence", &history, &presence, &penalized(1.0, 0.0, 0.4), &penalized(1.0, 0.4, 0.0));
    check("repetition", &history, &of_logits(repeated), &penalized(1.3, 0.0, 0.0), &penalized(1.2, 0.0, 0.0));
    let biased = |bias| plain(|c| c.logit_bias = vec![(2, bias), (1, f32::NEG_INFINITY)]);
    let expected = of_logits(|t, l| [l, f64::NEG_INFINITY, l + 1.5][usize::min(t, 3) % 3]);
    check("bias", &[], &expected, &biased(1.5), &biased(1.3));
}

#[test]
fn dry() {
    // After 1 3 6 1 3, a 6 would repeat three tokens; two are in the context.
    let history = [1, 3, 6, 1, 3];
    let dry = |f: fn(&mut Dry)| {
        plain(|c| {
            let mut dry = Dry { multiplier: 0.8, base: 1.75, allowed_length: 1, ..Dry::default() };
            f(&mut dry);
            c.dry = Some(dry);
        })
    };
    let penalized = of_logits(|t, l| if t == 6 { l - 0.8 * 1.75 } else { l });
    check("length 2 of 1", &history, &penalized, &dry(|_| ()), &dry(|d| d.base = 1.5));
    let penalized = of_logits(|t, l| if t == 6 { l - 0.8 } else { l });
    check("length 2 of 2", &history, &penalized, &dry(|d| d.allowed_length = 2), &dry(|_| ()));
    let broken = |d: &mut Dry| (d.breakers, d.allowed_length) = (vec![vec![3]], 1);
    check("broken", &history, &P, &dry(broken), &dry(|_| ()));
}

#[test]
fn mirostat_with_a_limit_that_stands_still() {
    // The limit is 3.2 bits: a probability of 0.109.
    let mirostat = |target, rate| plain(|c| c.mirostat = Some(Mirostat { target, rate }));
    check("rate 0", &[], &only(&[1, 3, 6, 4]), &mirostat(1.6, 0.0), &mirostat(1.6, 0.1));
    // It takes the place of the filters.
    let with_filters = SamplingConfig { top_k: 1, min_p: 1.0, ..mirostat(1.6, 0.0) };
    check("with filters", &[], &only(&[1, 3, 6, 4]), &with_filters, &mirostat(2.0, 0.0));
}

#[test]
fn a_mask() {
    let words = [0b1010_0110];
    let expected = only(&[1, 2, 5, 7]);
    assert!(deviation(&plain(|_| ()), &[], Some(TokenMask::new(&words)), &expected) < 1.0);
    assert!(deviation(&plain(|_| ()), &[], None, &expected) > 1.0);
}
