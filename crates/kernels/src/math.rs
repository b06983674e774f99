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

/// tanh x. Absolute and relative error below 2e-7; ±1 for large values, -0 and NaN stay.
///
/// Below 0.625 an odd polynomial (the coefficients of Cephes' `tanhf`, S. Moshier), where `1 - 2 / (e^2x + 1)` would
/// cancel; above, that formula.
#[inline(always)]
pub(crate) fn tanh_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    let (a, sign) = magnitude_and_sign(s, x);
    let square = s.fmul(a, a);
    let mut p = s.fsplat(-5.704_988_7e-3);
    for c in [2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1] {
        p = s.fma(p, square, s.fsplat(c));
    }
    let small = s.fma(s.fmul(p, square), a, a);
    let e = exp_lanes(s, s.fadd(a, a));
    let one = s.fsplat(1.0);
    let large = s.fsub(one, s.fdiv(s.fsplat(2.0), s.fadd(e, one)));
    let y = s.select_lt(a, s.fsplat(0.625), small, large);
    s.as_float(s.or(s.bits(y), sign))
}

/// erf x = 2/√π ∫₀ˣ e^-t² dt. Absolute error below 2e-7; ±1 for large values, -0 and NaN stay.
///
/// Below 0.92 an odd polynomial, above `1 - e^p(x)` with a polynomial for ln erfc. Both were fitted for this file by
/// weighted least squares, repeated until the error was level: 7e-9 and 2e-9 at most before rounding. From 4 on
/// the result is 1 in single precision.
#[inline(always)]
pub(crate) fn erf_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    let (a, sign) = magnitude_and_sign(s, x);
    let square = s.fmul(a, a);
    let mut p = s.fsplat(-5.843_852_4e-4);
    for c in [4.958_278_5e-3, -2.673_641_2e-2, 1.128_066_85e-1, -3.761_231_6e-1, 1.283_790_8e-1] {
        p = s.fma(p, square, s.fsplat(c));
    }
    let small = s.fma(p, a, a);
    let end = s.fsplat(4.0);
    let clamped = s.select_lt(end, a, end, a);
    let mut p = s.fsplat(1.949_467_7e-4);
    for c in [-3.033_692_5e-3, 2.218_977_7e-2, -1.038_563_77e-1, -6.372_657_4e-1, -1.127_627_4, -2.070_084_9e-4] {
        p = s.fma(p, clamped, s.fsplat(c));
    }
    let large = s.fsub(s.fsplat(1.0), exp_lanes(s, p));
    let y = s.select_lt(a, s.fsplat(0.92), small, large);
    s.as_float(s.or(s.bits(y), sign))
}

/// `|x|`, and the sign bit of `x` alone.
#[inline(always)]
fn magnitude_and_sign<S: Simd>(s: S, x: S::F) -> (S::F, S::V) {
    let bits = s.bits(x);
    (s.as_float(s.and(bits, s.splat(0x7fff_ffff))), s.and(bits, s.splat(0x8000_0000)))
}

/// 1 + e^-x, what sigmoid and `SiLU` divide by.
#[inline(always)]
pub(crate) fn one_plus_exp_neg<S: Simd>(s: S, x: S::F) -> S::F {
    s.fadd(s.fsplat(1.0), exp_lanes(s, s.fsub(s.fsplat(0.0), x)))
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

pub(crate) use {each_lanes, map_lanes};

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

struct Sigmoid(f32);

impl Operation for Sigmoid {
    type Output = f32;
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) -> f32 {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: 16 values.
        unsafe { s.fstore(lanes.as_mut_ptr(), one_plus_exp_neg(s, s.fsplat(self.0))) };
        1.0 / lanes[0]
    }
}

/// `1 / (1 + e^-x)`, with the [`exp`] of this crate: the same bits on every machine.
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    Isa::best().run(Sigmoid(x))
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

    struct Tanh<'a>(&'a mut [f32]);
    impl Operation for Tanh<'_> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd>(self, s: S) {
            map_lanes!(s, self.0, 0.0, x => tanh_lanes(s, x));
        }
    }

    struct Erf<'a>(&'a mut [f32]);
    impl Operation for Erf<'_> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd>(self, s: S) {
            map_lanes!(s, self.0, 0.0, x => erf_lanes(s, x));
        }
    }

    /// A million floats of every sign and exponent, infinities and NaN among them.
    fn all_kinds_of_floats() -> Vec<f32> {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-45];
        special.into_iter().chain((0..u32::MAX).step_by(4099).map(f32::from_bits)).collect()
    }

    fn check_odd_function(name: &str, ours: impl Fn(Isa, &mut [f32]), exact: fn(f64) -> f64, relative: bool) {
        let inputs = all_kinds_of_floats();
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut out = inputs.clone();
            ours(isa, &mut out);
            for (&x, &y) in inputs.iter().zip(&out) {
                if x.is_nan() {
                    assert!(y.is_nan());
                    continue;
                }
                let exact = exact(f64::from(x));
                let scale = if relative && x.is_normal() { exact.abs() } else { 1.0 };
                assert!((f64::from(y) - exact).abs() <= 2e-7 * scale, "{} {name}({x:e}) = {y:e}", isa.name());
                assert_eq!(x.is_sign_negative(), y.is_sign_negative(), "{name}({x:e}) = {y:e}");
            }
            let first = first.get_or_insert_with(|| out.clone());
            let same = first.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
            assert!(same, "{} {name}", isa.name());
        }
    }

    #[test]
    fn tanh_is_close_and_equal_on_every_isa() {
        check_odd_function("tanh", |isa, x| isa.run(Tanh(x)), libm::tanh, true);
    }

    #[test]
    fn erf_is_close_and_equal_on_every_isa() {
        check_odd_function("erf", |isa, x| isa.run(Erf(x)), libm::erf, true);
    }

    #[test]
    fn sigmoid_is_the_formula() {
        for i in -2000..2000 {
            let x = i as f32 * 0.043;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let y = sigmoid(x);
            assert!((f64::from(y) - exact).abs() <= 4e-7 * exact, "sigmoid({x}) = {y}");
            // The one function on every instruction set.
            for isa in Isa::available() {
                assert_eq!(isa.run(Sigmoid(x)), y, "{}", isa.name());
            }
        }
        assert_eq!((sigmoid(f32::INFINITY), sigmoid(0.0)), (1.0, 0.5));
        assert!(sigmoid(f32::NEG_INFINITY) < 1e-38 && sigmoid(f32::NAN).is_nan());
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
