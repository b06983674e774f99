//! Elementary functions with the same bits on every machine: the system's `libm` has its own last
//! digit on each platform, ours is one polynomial over the sixteen lanes.

use crate::simd::{Isa, LANES, Operation, Simd};

/// `exp` of values below this is 0: the smallest normal number is e^-87.34.
const EXP_MIN: f32 = -87.33;
/// `exp` stays at e^88.02 = 1.68e38 above this.
const EXP_MAX: f32 = 88.02;

/// e^x. Relative error below 2e-7 in [-87.33, 88.02]; 0 below, clamped above, NaN stays NaN.
///
/// Reduction x = n·ln 2 + r with ln 2 in two parts, then a polynomial in r (the coefficients of
/// Cephes' `expf`, S. Moshier), then the exponent.
#[inline(always)]
pub(crate) fn exp_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    let (min, max) = (s.fsplat(EXP_MIN), s.fsplat(EXP_MAX));
    let clamped = s.fmax(min, x);
    let clamped = s.select_lt(max, clamped, max, clamped);
    let n = s.to_i32(s.fmul(clamped, s.fsplat(std::f32::consts::LOG2_E)));
    let nf = s.to_f32(n);
    let r = s.fma(nf, s.fsplat(-0.693_359_4), clamped);
    let r = s.fma(nf, s.fsplat(2.121_944_4e-4), r);
    let mut p = s.fsplat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.fsplat(c));
    }
    let y = s.fadd(s.fma(p, s.fmul(r, r), r), s.fsplat(1.0));
    let exponent = s.shl::<23>(s.add(n, s.splat(127)));
    let y = s.fmul(y, s.as_float(exponent));
    s.select_lt(x, min, s.fsplat(0.0), y)
}

/// One lane of [`exp_lanes`].
#[inline(always)]
pub(crate) fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    // SAFETY: 16 values.
    unsafe { s.fstore(lanes.as_mut_ptr(), exp_lanes(s, s.fsplat(x))) };
    lanes[0]
}

/// Replaces each vector `$v` of `$x` by `$body`; a tail is padded with `$pad`, and the padding is not written back.
///
/// A macro and not a function with a closure, because a closure does not inherit `#[target_feature]`.
macro_rules! map_lanes {
    ($s:expr, $x:expr, $pad:expr, $v:ident => $body:expr) => {{
        let mut chunks = $x.chunks_exact_mut($crate::simd::LANES);
        for chunk in &mut chunks {
            // SAFETY: 16 values.
            let $v = unsafe { $s.fload(chunk.as_ptr()) };
            let mapped = $body;
            // SAFETY: 16 values.
            unsafe { $s.fstore(chunk.as_mut_ptr(), mapped) };
        }
        let tail = chunks.into_remainder();
        if !tail.is_empty() {
            let mut lanes = [$pad; $crate::simd::LANES];
            lanes[..tail.len()].copy_from_slice(tail);
            // SAFETY: 16 values.
            let $v = unsafe { $s.fload(lanes.as_ptr()) };
            let mapped = $body;
            // SAFETY: 16 values.
            unsafe { $s.fstore(lanes.as_mut_ptr(), mapped) };
            tail.copy_from_slice(&lanes[..tail.len()]);
        }
    }};
}

/// Runs `$body` for each vector `$v` of `$x`; a tail is padded with `$pad`.
macro_rules! each_lanes {
    ($s:expr, $x:expr, $pad:expr, $v:ident => $body:expr) => {{
        let chunks = $x.chunks_exact($crate::simd::LANES);
        let tail = chunks.remainder();
        for chunk in chunks {
            // SAFETY: 16 values.
            let $v = unsafe { $s.fload(chunk.as_ptr()) };
            $body;
        }
        if !tail.is_empty() {
            let mut lanes = [$pad; $crate::simd::LANES];
            lanes[..tail.len()].copy_from_slice(tail);
            // SAFETY: 16 values.
            let $v = unsafe { $s.fload(lanes.as_ptr()) };
            $body;
        }
    }};
}

pub(crate) use each_lanes;

struct Exp<'a>(&'a mut [f32]);

impl Operation for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        map_lanes!(s, self.0, 0.0, x => exp_lanes(s, x));
    }
}

/// e^x of each value, in place. Relative error below 2e-7; below -87.33 exactly 0, clamped above 88.02.
pub fn exp(isa: Isa, x: &mut [f32]) {
    isa.run(Exp(x));
}

struct Softmax<'a>(&'a mut [f32]);

impl Operation for Softmax<'_> {
    /// The logarithm of the sum is `max + ln(sum)`.
    type Output = (f32, f32);
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) -> (f32, f32) {
        let mut max = s.fsplat(f32::NEG_INFINITY);
        each_lanes!(s, self.0, f32::NEG_INFINITY, x => max = s.fmax(max, x));
        let max = s.fold_max(max);
        let mut sum = s.fsplat(0.0);
        map_lanes!(s, self.0, f32::NEG_INFINITY, x => {
            let e = exp_lanes(s, s.fsub(x, s.fsplat(max)));
            sum = s.fadd(sum, e);
            e
        });
        (max, s.fold_add(sum))
    }
}

struct Scale<'a>(&'a mut [f32], f32);

impl Operation for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        map_lanes!(s, self.0, 0.0, x => s.fmul(x, s.fsplat(self.1)));
    }
}

/// Turns logits into probabilities, in place. Values of -∞ get exactly 0. Empty input stays empty.
pub fn softmax(isa: Isa, x: &mut [f32]) {
    let (_, sum) = isa.run(Softmax(x));
    isa.run(Scale(x, 1.0 / sum));
}

/// `ln Σ e^x`, without overflow; `scratch` is overwritten.
#[must_use]
pub fn log_sum_exp(isa: Isa, x: &[f32], scratch: &mut Vec<f32>) -> f64 {
    scratch.clear();
    scratch.extend_from_slice(x);
    let (max, sum) = isa.run(Softmax(scratch));
    f64::from(max) + libm::log(f64::from(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_and_equal_on_every_isa() {
        let inputs: Vec<f32> = (-9000..9000).map(|i| i as f32 * 0.009_87).collect();
        let mut first: Option<Vec<u32>> = None;
        for isa in Isa::available() {
            let mut out = inputs.clone();
            exp(isa, &mut out);
            for (&x, &y) in inputs.iter().zip(&out) {
                if (EXP_MIN..EXP_MAX).contains(&x) {
                    let exact = f64::from(x).exp();
                    assert!(((f64::from(y) - exact) / exact).abs() < 2e-7, "{} exp({x}) = {y}", isa.name());
                } else if x < EXP_MIN {
                    assert_eq!(y, 0.0);
                }
            }
            let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
            assert_eq!(*first.get_or_insert(bits.clone()), bits, "{}", isa.name());
        }
    }

    #[test]
    fn exp_of_the_special_values() {
        for isa in Isa::available() {
            let mut x = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0];
            exp(isa, &mut x);
            assert_eq!(x[0], 0.0);
            assert!(x[1] > 1e38 && x[2].is_nan() && x[3] == 1.0, "{x:?}");
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_impossible_values_at_zero() {
        for isa in Isa::available() {
            for n in [1usize, 2, 15, 16, 17, 1000] {
                let mut x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 9.0).collect();
                if n > 2 {
                    x[1] = f32::NEG_INFINITY;
                }
                let expected: f64 = x.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln();
                assert!((log_sum_exp(isa, &x, &mut Vec::new()) - expected).abs() < 1e-5);
                softmax(isa, &mut x);
                assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                assert!(n <= 2 || x[1] == 0.0);
            }
        }
    }
}
