//! Norms of rows and of the heads within a row.
//!
//! Sums run over sixteen lanes and are folded in the one order; what follows is value by value.

use crate::math::each_lanes;
use crate::ops::{PARALLEL_MIN, rows_mut};
use crate::simd::{Isa, Operation, Simd};
use crate::team::ThreadTeam;

/// Which norm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NormKind {
    /// By the root of the mean square (Zhang and Sennrich, 2019).
    Rms,
    /// By mean and standard deviation (Ba et al., 2016).
    Layer,
}

/// What a norm subtracts from each value, and multiplies it with then.
#[derive(Clone, Copy)]
struct Moments {
    mean: f32,
    inverse: f32,
}

impl Moments {
    #[inline(always)]
    fn of<S: Simd>(s: S, kind: NormKind, x: &[f32], eps: f32) -> Self {
        let n = x.len() as f32;
        let mean = match kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => {
                let mut sum = s.fsplat(0.0);
                each_lanes!(s, x, 0.0, v => sum = s.fadd(sum, v));
                s.fold_add(sum) / n
            }
        };
        // Around the mean and not as a difference of sums, which would cancel. The padding is the mean, so it adds nothing.
        let center = s.fsplat(mean);
        let mut squares = s.fsplat(0.0);
        each_lanes!(s, x, mean, v => {
            let v = s.fsub(v, center);
            squares = s.fma(v, v, squares);
        });
        let variance = s.fold_add(squares) / n;
        // Squares that overflow would make a row of zeros, and nobody would see it.
        let inverse = if variance.is_finite() { 1.0 / (variance + eps).sqrt() } else { f32::NAN };
        Self { mean, inverse }
    }

    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        (x - self.mean) * self.inverse
    }
}

struct NormRow<'a> {
    kind: NormKind,
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [f32],
}

impl Operation for NormRow<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Self { kind, x, weight, bias, eps, out } = self;
        let moments = Moments::of(s, kind, x, eps);
        for ((o, &v), &w) in out.iter_mut().zip(x).zip(weight) {
            *o = moments.apply(v) * w;
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(bias).for_each(|(o, &b)| *o += b);
        }
    }
}

/// Root-mean-square norm of each row: `out = x / sqrt(mean(x²) + eps) · weight`
/// (Zhang and Sennrich, 2019). `x` and `out` are `[n, d]`, `weight` is `[d]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn rms_norm(team: &ThreadTeam, isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    norm_rows(team, isa, NormKind::Rms, (x, weight, None), eps, out);
}

/// Layer norm of each row: `out = (x - mean) / sqrt(variance + eps) · weight + bias` (Ba et al., 2016), the variance
/// being the mean square around the mean. `x` and `out` are `[n, d]`, `weight` and `bias` are `[d]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn layer_norm(
    team: &ThreadTeam,
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    norm_rows(team, isa, NormKind::Layer, (x, weight, bias), eps, out);
}

fn norm_rows(
    team: &ThreadTeam,
    isa: Isa,
    kind: NormKind,
    (x, weight, bias): (&[f32], &[f32], Option<&[f32]>),
    eps: f32,
    out: &mut [f32],
) {
    let d = weight.len();
    assert!(d > 0 && x.len() == out.len() && x.len().is_multiple_of(d), "rows of {d} in and out");
    assert!(bias.is_none_or(|b| b.len() == d), "a bias for each value of a row");
    rows_mut(team, out, d, |i, out| isa.run(NormRow { kind, x: &x[i * d..(i + 1) * d], weight, bias, eps, out }));
}

struct NormHeads<'a> {
    kind: NormKind,
    x: &'a mut [f32],
    weight: &'a [f32],
    dim: usize,
    eps: f32,
}

impl Operation for NormHeads<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Self { kind, x, weight, dim, eps } = self;
        for part in x.chunks_exact_mut(weight.len()) {
            for (head, weight) in part.chunks_exact_mut(dim).zip(weight.chunks_exact(dim)) {
                let moments = Moments::of(s, kind, head, eps);
                head.iter_mut().zip(weight).for_each(|(x, &w)| *x = moments.apply(*x) * w);
            }
        }
    }
}

/// Norm of each group of `dim` values by itself, in place: the query and key norms of attention. The weights, a multiple of
/// `dim`, are repeated along `x`: one `[dim]` that all heads share, `[heads, dim]`, or a group as wide as the row.
///
/// # Panics
/// When `weight` is no whole number of groups, or `x` is no whole number of repetitions of `weight`.
pub fn norm_heads(team: &ThreadTeam, isa: Isa, kind: NormKind, x: &mut [f32], weight: &[f32], dim: usize, eps: f32) {
    let period = weight.len();
    assert!(dim > 0 && period > 0 && period.is_multiple_of(dim), "weights for whole groups of {dim}");
    assert!(x.len().is_multiple_of(period), "{} values are no repetitions of {period} weights", x.len());
    // Heads are small: hand out a few thousand values at a time.
    let piece = (PARALLEL_MIN / 4).div_ceil(period) * period;
    if x.len() < PARALLEL_MIN {
        isa.run(NormHeads { kind, x, weight, dim, eps });
    } else {
        team.run_chunks_mut(x, piece, |_, x| isa.run(NormHeads { kind, x, weight, dim, eps }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin() * 2.0).collect()
    }

    /// Norm of one group in f64.
    fn definition(kind: NormKind, x: &[f32], eps: f64) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = match kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().map(|&v| f64::from(v)).sum::<f64>() / n,
        };
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        x.iter().map(|&v| (f64::from(v) - mean) / (variance + eps).sqrt()).collect()
    }

    fn assert_close(ours: f32, exact: f64) {
        assert!((f64::from(ours) - exact).abs() < 1e-5 * exact.abs().max(1.0), "{ours} is not {exact}");
    }

    #[test]
    fn norms_are_the_formulas_and_equal_on_every_isa() {
        let team = ThreadTeam::new(2);
        for (n, d) in [(3, 1usize), (3, 7), (3, 16), (2, 33), (3, 896), (20, 1000)] {
            // Off the origin, so that the mean matters.
            let x: Vec<f32> = wave(n * d, 0.37).iter().map(|x| x + 1.5).collect();
            let (weight, bias) = (wave(d, 1.1), wave(d, 0.6));
            let mut first: Option<[Vec<f32>; 3]> = None;
            for isa in Isa::available() {
                let mut outs = [vec![0.0; n * d], vec![0.0; n * d], vec![0.0; n * d]];
                rms_norm(&team, isa, &x, &weight, 1e-3, &mut outs[0]);
                layer_norm(&team, isa, &x, &weight, None, 1e-3, &mut outs[1]);
                layer_norm(&team, isa, &x, &weight, Some(&bias), 1e-3, &mut outs[2]);
                for (r, row) in x.chunks(d).enumerate() {
                    let (rms, layer) = (definition(NormKind::Rms, row, 1e-3), definition(NormKind::Layer, row, 1e-3));
                    for i in 0..d {
                        let (w, b) = (f64::from(weight[i]), f64::from(bias[i]));
                        assert_close(outs[0][r * d + i], rms[i] * w);
                        assert_close(outs[1][r * d + i], layer[i] * w);
                        assert_close(outs[2][r * d + i], layer[i] * w + b);
                    }
                }
                assert!(*first.get_or_insert(outs.clone()) == outs, "{}", isa.name());
            }
        }
    }

    #[test]
    fn heads_are_normalised_each_on_its_own() {
        let team = ThreadTeam::new(2);
        for kind in [NormKind::Rms, NormKind::Layer] {
            // (rows, heads of a row, dim, groups of weights)
            for (n, heads, dim, groups) in [
                (1usize, 1usize, 1usize, 1usize),
                (2, 3, 7, 1),
                (3, 4, 33, 4),
                (5, 6, 64, 3),
                (40, 8, 128, 1),
                (40, 8, 128, 8),
                (30, 1, 896, 1),
            ] {
                let x: Vec<f32> = wave(n * heads * dim, 0.37).iter().map(|x| x + 0.5).collect();
                let weight = wave(groups * dim, 1.1);
                let mut first: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    let mut out = x.clone();
                    norm_heads(&team, isa, kind, &mut out, &weight, dim, 1e-5);
                    for (g, (head, out)) in x.chunks(dim).zip(out.chunks(dim)).enumerate() {
                        for (i, exact) in definition(kind, head, 1e-5).into_iter().enumerate() {
                            assert_close(out[i], exact * f64::from(weight[g % heads % groups * dim + i]));
                        }
                    }
                    assert_eq!(*first.get_or_insert(out.clone()), out, "{}", isa.name());
                }
            }
        }
    }

    #[test]
    fn a_head_as_wide_as_the_row_is_a_row() {
        let team = ThreadTeam::new(1);
        let (x, weight) = (wave(5 * 70, 0.37), wave(70, 1.1));
        for isa in Isa::available() {
            let (mut rows, mut heads) = (vec![0.0; x.len()], x.clone());
            rms_norm(&team, isa, &x, &weight, 1e-5, &mut rows);
            norm_heads(&team, isa, NormKind::Rms, &mut heads, &weight, 70, 1e-5);
            assert_eq!(rows, heads);
        }
    }

    #[test]
    fn what_is_not_finite_is_not_lost() {
        let team = ThreadTeam::new(1);
        // Values that are not finite, and values whose squares are not.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            for place in [0, 20, 32] {
                let mut x = wave(33, 0.37);
                x[place] = bad;
                for isa in Isa::available() {
                    let mut out = vec![0.0; 33];
                    rms_norm(&team, isa, &x, &[1.0; 33], 1e-5, &mut out);
                    assert!(out.iter().all(|v| v.is_nan()), "{bad}");
                    layer_norm(&team, isa, &x, &[1.0; 33], None, 1e-5, &mut out);
                    assert!(out.iter().all(|v| v.is_nan()), "{bad}");
                    for kind in [NormKind::Rms, NormKind::Layer] {
                        let mut heads = x.clone();
                        norm_heads(&team, isa, kind, &mut heads, &[1.0; 11], 11, 1e-5);
                        for (g, head) in heads.chunks(11).enumerate() {
                            assert_eq!(head.iter().all(|v| v.is_nan()), g == place / 11, "{bad}");
                            assert_eq!(head.iter().any(|v| v.is_nan()), g == place / 11, "{bad}");
                        }
                    }
                }
            }
        }
    }
}
