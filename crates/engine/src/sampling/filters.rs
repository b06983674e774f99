//! The steps that take tokens away, and the temperature. Each sees the probabilities of what the steps before it left.
//!
//! "At least `min_keep`" means: if the filter would leave fewer tokens, it leaves that many of those it likes best,
//! or all that there are.

use super::candidates::Candidates;
use super::config::{DynamicTemperature, Xtc};

/// Top-k (Fan, Lewis and Dauphin, "Hierarchical Neural Story Generation", ACL 2018): the `k` most likely tokens.
pub(super) fn top_k(candidates: &mut Candidates, k: usize) {
    if k > 0 {
        candidates.keep_largest(k);
    }
}

/// Top-p or nucleus sampling (Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020): the shortest
/// list of the most likely tokens that together have a probability of at least `p`.
pub(super) fn top_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p >= 1.0 {
        return;
    }
    candidates.keep_share(p, min_keep);
}

/// Min-p (Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", 2024): tokens at
/// least `p` times as likely as the most likely one.
pub(super) fn min_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p > 0.0 {
        let least = f64::from(candidates.max()) + libm::log(f64::from(p));
        candidates.keep_from(at_least(least), min_keep.max(1));
    }
}

/// Top-nσ (Tang et al., "Top-nσ: Not All Logits Are You Need", 2024): tokens whose logit is at most `n` standard
/// deviations of all logits below the largest.
pub(super) fn top_n_sigma(candidates: &mut Candidates, n: f32, min_keep: usize) {
    if n > 0.0 {
        let least = f64::from(candidates.max()) - f64::from(n) * candidates.standard_deviation();
        candidates.keep_from(at_least(least), min_keep.max(1));
    }
}

/// Locally typical sampling (Meister et al., "Locally Typical Sampling", TACL 2023, first of 2022): the shortest list of
/// the tokens whose surprise -ln p is nearest to its expectation, the entropy, that together have a probability of at
/// least `p`. Of equals, the likelier is taken first. The most likely token need not be among them.
pub(super) fn typical_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p >= 1.0 {
        return;
    }
    let (entropy, log_sum) = candidates.entropy();
    candidates.keep_share_by(p, min_keep, |logit| (log_sum - f64::from(logit) - entropy).abs());
}

/// Exclude Top Choices; see [`Xtc`]. `chance` is uniform in [0, 1). Where fewer than `min_keep` tokens would be left,
/// nothing happens.
pub(super) fn xtc(candidates: &mut Candidates, xtc: Xtc, min_keep: usize, chance: f64) {
    if chance >= f64::from(xtc.probability) {
        return;
    }
    let least = candidates.log_sum_exp() + libm::log(f64::from(xtc.threshold));
    // At most 1 / threshold tokens can be so likely.
    let list = candidates.sorted_list();
    let likely = list.iter().take_while(|c| f64::from(c.1) >= least).count();
    if likely >= 2 && list.len() - (likely - 1) >= min_keep {
        list.drain(..likely - 1);
    }
}

/// What mirostat leaves: tokens whose surprise -log₂ p is at most `limit` bits, but at least the most likely one.
pub(super) fn at_most_surprise(candidates: &mut Candidates, limit: f32) {
    let least = candidates.log_sum_exp() - f64::from(limit) * std::f64::consts::LN_2;
    candidates.keep_from(at_least(least), 1);
}

/// Temperature: logits divided by it, as in a Boltzmann distribution; 0 leaves the most likely token only.
pub(super) fn temperature(candidates: &mut Candidates, temperature: f32, dynamic: Option<DynamicTemperature>) {
    let temperature = match dynamic {
        Some(dynamic) if temperature > 0.0 => {
            let n = candidates.list().len();
            if n < 2 {
                return;
            }
            let (least, most) = ((temperature - dynamic.range).max(0.0), temperature + dynamic.range);
            let relative = (candidates.entropy().0 / libm::log(n as f64)).clamp(0.0, 1.0);
            least + (most - least) * libm::pow(relative, f64::from(dynamic.exponent)) as f32
        }
        _ => temperature,
    };
    if temperature == 0.0 {
        candidates.keep_largest(1);
    } else if temperature != 1.0 {
        candidates.divide(temperature);
    }
}

/// The smallest f32 that is not below `least`, so that comparing logits decides as the exact bound would.
fn at_least(least: f64) -> f32 {
    let rounded = least as f32;
    if f64::from(rounded) < least { rounded.next_up() } else { rounded }
}
