//! The loops over vocabularies: exponentials, logarithms and sums of logits, as plain code that compilers turn into
//! vector instructions. They know nothing of experts and weights; those are in the file above.

/// Numbers that are computed side by side.
const LANES: usize = 16;
/// Tokens whose mixture is summed before the logarithm is taken: the sums stay in the first cache.
const CHUNK: usize = 256;
/// Below this sum the logarithm in single precision is not taken: the mixture is computed there from logarithms.
const SUM_MIN: f32 = 1e-30;

/// What a softmax needs to know of a member's logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Normalizer {
    /// The largest logit.
    pub max: f32,
    /// Sum of exp(logit − max), at least 1.
    pub sum: f64,
}

/// Why logits are not a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogitFault {
    /// A logit is not a number, or plus infinity.
    NotFinite,
    /// Every logit is minus infinity, or there is none.
    NoToken,
}

impl std::fmt::Display for LogitFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotFinite => "a logit is not a number or plus infinity",
            Self::NoToken => "no token has a probability",
        })
    }
}

/// e^x for x ≤ 0, relative error below 2 · 10⁻⁷; 0 below −87, where single precision ends.
///
/// x = n · ln 2 + r with |r| ≤ ln 2 / 2, the series of e^r up to r⁷ (the rest is below 6 · 10⁻⁹), and n into the
/// exponent's bits. ln 2 is subtracted in two parts of which the first times n is exact (Cody and Waite 1980).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to the nearest integer.
    const LN_2_HIGH: f32 = 0.693_359_4; // 355 / 512
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let bounded = if x < -87.0 { -87.0 } else { x };
    let shifted = bounded * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (bounded - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut series = 1.0 / 5040.0;
    series = series * r + 1.0 / 720.0;
    series = series * r + 1.0 / 120.0;
    series = series * r + 1.0 / 24.0;
    series = series * r + 1.0 / 6.0;
    series = series * r + 0.5;
    series = series * r + 1.0;
    series = series * r + 1.0;
    // The low bits of `shifted` are n in two's complement; the shift drops all above the eight bits of an exponent.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { series * power }
}

/// ln x for positive normal x, error below 2 · 10⁻⁷ · max(1, |ln x|).
///
/// x = 2^k · m with √½ ≤ m < √2, and ln m = 2 artanh((m − 1) / (m + 1)) by its series up to the 9th power (the rest is
/// below 10⁻⁹).
#[inline(always)]
fn ln(x: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    let bits = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let k = ((bits as i32) >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut series = 2.0 / 9.0;
    series = series * z + 2.0 / 7.0;
    series = series * z + 2.0 / 5.0;
    series = series * z + 2.0 / 3.0;
    series = series * z + 2.0;
    k * -2.121_944_4e-4 + series * s + k * 0.693_359_4
}

/// The largest logit.
pub(super) fn largest(logits: &[f32]) -> Result<f32, LogitFault> {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut strange = [0_u32; LANES];
    let (lanes, rest) = logits.as_chunks::<LANES>();
    for lane in lanes {
        for i in 0..LANES {
            max[i] = if lane[i] > max[i] { lane[i] } else { max[i] };
            strange[i] |= u32::from(lane[i].is_nan());
        }
    }
    max[0] = rest.iter().fold(max[0], |max, &x| max.max(x));
    strange[0] |= u32::from(rest.iter().any(|x| x.is_nan()));
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if strange.iter().any(|&s| s != 0) || max == f32::INFINITY {
        return Err(LogitFault::NotFinite);
    }
    if max == f32::NEG_INFINITY { Err(LogitFault::NoToken) } else { Ok(max) }
}

/// Writes exp(logit − max) to `exponentials` (as long as `logits`) and sums them.
pub(super) fn exponentiate(logits: &[f32], exponentials: &mut Vec<f32>) -> Result<Normalizer, LogitFault> {
    let max = largest(logits)?;
    exponentials.resize(logits.len(), 0.0);
    let mut sum = 0.0;
    for (from, to) in logits.chunks(CHUNK).zip(exponentials.chunks_mut(CHUNK)) {
        sum += exponentiate_chunk(from, max, to);
    }
    Ok(Normalizer { max, sum })
}

/// The same for a chunk; returns its sum. Two plain loops, which compilers vectorise where they do not one.
fn exponentiate_chunk(logits: &[f32], max: f32, exponentials: &mut [f32]) -> f64 {
    for (&x, e) in logits.iter().zip(exponentials.iter_mut()) {
        *e = exp(x - max);
    }
    let mut sums = [0_f64; LANES];
    let (lanes, rest) = exponentials.as_chunks::<LANES>();
    for lane in lanes {
        for i in 0..LANES {
            sums[i] += f64::from(lane[i]);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&e| f64::from(e)).sum::<f64>()
}

/// The natural log probability of `token` under a softmax of `logits`; minus infinity for a token beyond them.
pub(super) fn log_probability(logits: &[f32], normalizer: Normalizer, token: u32) -> f64 {
    let logit = logits.get(token as usize).map_or(f64::NEG_INFINITY, |&x| f64::from(x));
    logit - f64::from(normalizer.max) - normalizer.sum.ln()
}

/// What [`exponentiate`] returns, without keeping the exponentials.
pub(super) fn normalize(logits: &[f32]) -> Result<Normalizer, LogitFault> {
    let max = largest(logits)?;
    let mut scratch = [0_f32; CHUNK];
    let sum = logits.chunks(CHUNK).map(|from| exponentiate_chunk(from, max, &mut scratch[..from.len()])).sum();
    Ok(Normalizer { max, sum })
}

/// A member's part in a sum of distributions.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// Its weight, above 0.
    pub weight: f64,
    /// Its logits.
    pub logits: &'a [f32],
    /// What [`exponentiate`] made of them.
    pub exponentials: &'a [f32],
    /// And its normaliser.
    pub normalizer: Normalizer,
}

/// Writes ln Σ weight · probability to `mixed`, a number for each token of the longest member; a token that a member
/// does not have is one to which it gives no probability.
pub(super) fn mix(parts: &[Part<'_>], mixed: &mut Vec<f32>) {
    let length = parts.iter().map(|part| part.logits.len()).max().unwrap_or(0);
    mixed.resize(length, f32::NEG_INFINITY);
    let mut sums = [0_f64; CHUNK];
    for (index, chunk) in mixed.chunks_mut(CHUNK).enumerate() {
        let begin = index * CHUNK;
        let sums = &mut sums[..chunk.len()];
        sums.fill(0.0);
        for part in parts {
            let scale = part.weight / part.normalizer.sum;
            let exponentials = part.exponentials.get(begin..).unwrap_or_default();
            for (sum, &e) in sums.iter_mut().zip(exponentials) {
                *sum += scale * f64::from(e);
            }
        }
        for (out, &sum) in chunk.iter_mut().zip(sums.iter()) {
            *out = sum as f32;
        }
        let tiny = chunk.iter().fold(0_u32, |tiny, &sum| tiny | u32::from(sum < SUM_MIN));
        chunk.iter_mut().for_each(|out| *out = ln(*out));
        if tiny != 0 {
            for (offset, (out, _)) in
                chunk.iter_mut().zip(sums.iter()).enumerate().filter(|(_, (_, s))| (**s as f32) < SUM_MIN)
            {
                *out = mix_one(parts, begin + offset);
            }
        }
    }
}

/// The same for one token, from logarithms: for probabilities that are too small for single precision.
fn mix_one(parts: &[Part<'_>], token: usize) -> f32 {
    let logarithm = |part: &Part<'_>| {
        let logit = part.logits.get(token).map_or(f64::NEG_INFINITY, |&x| f64::from(x));
        part.weight.ln() + logit - f64::from(part.normalizer.max) - part.normalizer.sum.ln()
    };
    let max = parts.iter().map(logarithm).fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return f32::NEG_INFINITY;
    }
    (max + parts.iter().map(|part| (logarithm(part) - max).exp()).sum::<f64>().ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_and_logarithms_are_those_of_the_standard_library() {
        let mut x = 0_f32;
        while x > -87.0 {
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 2e-7 * exact, "exp {x}");
            x -= 0.000_37;
        }
        assert_eq!((exp(0.0), exp(-87.1), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        let mut x = 1e-30_f32;
        while x < 2.0 {
            let exact = f64::from(x).ln();
            assert!((f64::from(ln(x)) - exact).abs() <= 2e-7 * exact.abs().max(1.0), "ln {x}");
            x *= 1.000_37;
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn every_tail_length_is_summed() {
        for length in 1..70 {
            let logits: Vec<f32> = (0..length).map(|i| (i * 7 % 11) as f32 / 3.0).collect();
            let mut exponentials = Vec::new();
            let normalizer = exponentiate(&logits, &mut exponentials).unwrap();
            let exact: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(normalizer.max)).exp()).sum();
            assert!((normalizer.sum - exact).abs() < 1e-6 * exact);
        }
    }

    #[test]
    fn logits_that_are_no_distribution_are_told_apart() {
        let check = |logits: &[f32], fault| assert_eq!(exponentiate(logits, &mut Vec::new()), Err(fault), "{logits:?}");
        check(&[], LogitFault::NoToken);
        check(&[f32::NEG_INFINITY; 40], LogitFault::NoToken);
        for at in [0, 15, 16, 39] {
            for strange in [f32::NAN, f32::INFINITY] {
                let mut logits = [1.0; 40];
                logits[at] = strange;
                check(&logits, LogitFault::NotFinite);
            }
        }
    }
}
