//! The steps of a forward pass that work row by row: norm, rotary embedding, gating, addition.

use crate::math::{each_lanes, exp_lanes};
use crate::simd::{Isa, LANES, Operation, Simd};
use crate::team::ThreadTeam;

/// Fewer values than this are done by the caller alone.
const PARALLEL_MIN: usize = 16 * 1024;

/// Rows of `width` in `data`, spread over the team where there are enough of them.
fn rows_mut(team: &ThreadTeam, data: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if data.len() < PARALLEL_MIN {
        data.chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        team.run_chunks_mut(data, width, f);
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Operation for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Self { x, weight, eps, out } = self;
        let mut squares = s.fsplat(0.0);
        each_lanes!(s, x, 0.0, v => squares = s.fma(v, v, squares));
        let mean = s.fold_add(squares) / x.len() as f32;
        // Squares that overflow would make a row of zeros, and nobody would see it.
        let inverse = if mean.is_finite() { 1.0 / (mean + eps).sqrt() } else { f32::NAN };
        for ((o, &v), &w) in out.iter_mut().zip(x).zip(weight) {
            *o = v * inverse * w;
        }
    }
}

/// Root-mean-square norm of each row: `out = x / sqrt(mean(x²) + eps) · weight`
/// (Zhang and Sennrich, 2019). `x` and `out` are `[n, d]`, `weight` is `[d]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn rms_norm(team: &ThreadTeam, isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    assert!(d > 0 && x.len() == out.len() && x.len().is_multiple_of(d), "rows of {d} in and out");
    rows_mut(team, out, d, |i, out| isa.run(RmsNorm { x: &x[i * d..(i + 1) * d], weight, eps, out }));
}

/// `g / (1 + e^-g) · u`
#[inline(always)]
fn silu_times<S: Simd>(s: S, g: S::F, u: S::F) -> S::F {
    let e = exp_lanes(s, s.fsub(s.fsplat(0.0), g));
    s.fmul(s.fdiv(g, s.fadd(s.fsplat(1.0), e)), u)
}

struct SwiGlu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Operation for SwiGlu<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let mut gates = self.gate.chunks_exact_mut(LANES);
        let ups = self.up.chunks_exact(LANES);
        let up_tail = ups.remainder();
        for (g, u) in (&mut gates).zip(ups) {
            // SAFETY: `chunks_exact` gives 16 values of each.
            unsafe { s.fstore(g.as_mut_ptr(), silu_times(s, s.fload(g.as_ptr()), s.fload(u.as_ptr()))) };
        }
        let gate_tail = gates.into_remainder();
        let (mut g, mut u) = ([0.0f32; LANES], [0.0f32; LANES]);
        g[..gate_tail.len()].copy_from_slice(gate_tail);
        u[..up_tail.len()].copy_from_slice(up_tail);
        // SAFETY: 16 values of each.
        unsafe { s.fstore(g.as_mut_ptr(), silu_times(s, s.fload(g.as_ptr()), s.fload(u.as_ptr()))) };
        gate_tail.copy_from_slice(&g[..gate_tail.len()]);
    }
}

/// `gate = silu(gate) · up`, element by element (Shazeer, 2020). Both are `[n, width]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn swiglu(team: &ThreadTeam, isa: Isa, gate: &mut [f32], up: &[f32], width: usize) {
    assert!(width > 0 && gate.len() == up.len() && gate.len().is_multiple_of(width), "a gate for each value");
    rows_mut(team, gate, width, |i, gate| isa.run(SwiGlu { gate, up: &up[i * width..(i + 1) * width] }));
}

/// `x += y`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(team: &ThreadTeam, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "two equal shapes");
    const PIECE: usize = 8 * 1024;
    let add = |x: &mut [f32], y: &[f32]| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    if x.len() < PARALLEL_MIN {
        add(x, y);
    } else {
        team.run_chunks_mut(x, PIECE, |i, x| add(x, &y[i * PIECE..i * PIECE + x.len()]));
    }
}

/// Which two values of a head turn together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RopePairing {
    /// Neighbours: (0, 1), (2, 3), … The original paper and Llama files in GGUF.
    Adjacent,
    /// Halves: (0, d/2), (1, d/2 + 1), … GPT-NeoX, Qwen and most others.
    Halves,
}

/// Cosines and sines for the positions of a batch, computed once and used by every layer and head.
#[derive(Default, Debug)]
pub struct RopeTable {
    pairs: usize,
    /// `[n, pairs]` of (cos, sin).
    turns: Vec<(f32, f32)>,
}

impl RopeTable {
    /// Fills the table: the angle of pair i at position p is `p · inverse_frequencies[i]`, in f32 as the
    /// training code has it, its cosine and sine scaled by `magnitude` (1 but for YaRN-like scalings).
    pub fn set(&mut self, positions: impl Iterator<Item = u32>, inverse_frequencies: &[f32], magnitude: f32) {
        self.pairs = inverse_frequencies.len();
        self.turns.clear();
        for position in positions {
            self.turns.extend(inverse_frequencies.iter().map(|&frequency| {
                let angle = f64::from(position as f32 * frequency);
                (libm::cos(angle) as f32 * magnitude, libm::sin(angle) as f32 * magnitude)
            }));
        }
    }
}

/// Rotary position embedding (Su et al., 2021) of each head in `x`, `[n, heads · head_dim]`. The
/// first `2 · pairs` values of a head turn, the rest stay.
///
/// # Panics
/// When the shapes do not fit.
pub fn rope(team: &ThreadTeam, x: &mut [f32], head_dim: usize, width: usize, table: &RopeTable, pairing: RopePairing) {
    let pairs = table.pairs;
    if pairs == 0 {
        return;
    }
    assert!(2 * pairs <= head_dim && width.is_multiple_of(head_dim), "{pairs} pairs fit in a head of {head_dim}");
    assert_eq!(x.len() / width, table.turns.len() / pairs, "a position for each row");
    rows_mut(team, x, width, |i, row| {
        let turns = &table.turns[i * pairs..(i + 1) * pairs];
        for head in row.chunks_exact_mut(head_dim) {
            match pairing {
                RopePairing::Adjacent => {
                    for (pair, &(cos, sin)) in head.chunks_exact_mut(2).zip(turns) {
                        let (a, b) = (pair[0], pair[1]);
                        pair[0] = a * cos - b * sin;
                        pair[1] = a * sin + b * cos;
                    }
                }
                RopePairing::Halves => {
                    let (first, second) = head[..2 * pairs].split_at_mut(pairs);
                    for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin() * 2.0).collect()
    }

    #[test]
    fn rms_norm_is_the_formula_and_equal_on_every_isa() {
        for d in [1usize, 7, 16, 33, 896] {
            let (x, weight) = (wave(3 * d, 0.37), wave(d, 1.1));
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = vec![0.0; 3 * d];
                rms_norm(&ThreadTeam::new(2), isa, &x, &weight, 1e-3, &mut out);
                for (row, out) in x.chunks(d).zip(out.chunks(d)) {
                    let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / d as f64;
                    for i in 0..d {
                        let exact = f64::from(row[i]) / (mean + 1e-3).sqrt() * f64::from(weight[i]);
                        assert!((f64::from(out[i]) - exact).abs() < 1e-5 * exact.abs().max(1.0));
                    }
                }
                assert_eq!(*first.get_or_insert(out.clone()), out, "{}", isa.name());
            }
        }
    }

    #[test]
    fn swiglu_is_the_formula_and_equal_on_every_isa() {
        for n in [1usize, 16, 45, 20_000] {
            let (gate, up) = (wave(n, 0.91), wave(n, 0.13));
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = gate.clone();
                swiglu(&ThreadTeam::new(2), isa, &mut out, &up, n);
                for i in 0..n {
                    let g = f64::from(gate[i]);
                    let exact = g / (1.0 + (-g).exp()) * f64::from(up[i]);
                    assert!((f64::from(out[i]) - exact).abs() < 1e-6);
                }
                assert_eq!(*first.get_or_insert(out.clone()), out, "{}", isa.name());
            }
        }
    }

    #[test]
    fn rope_turns_the_right_pairs() {
        let team = ThreadTeam::new(1);
        let mut table = RopeTable::default();
        let frequencies = [1.0f32, 0.1];
        table.set([0u32, 3].into_iter(), &frequencies, 1.0);
        let x = wave(2 * 12, 0.7); // two rows, two heads of 6, the last two values of each stay
        for pairing in [RopePairing::Adjacent, RopePairing::Halves] {
            let mut y = x.clone();
            rope(&team, &mut y, 6, 12, &table, pairing);
            assert_eq!(y[..12], x[..12], "position 0 turns nothing");
            for head in 0..2 {
                let at = 12 + head * 6;
                for (i, &f) in frequencies.iter().enumerate() {
                    let (a, b) = if pairing == RopePairing::Adjacent { (2 * i, 2 * i + 1) } else { (i, i + 2) };
                    let (cos, sin) = ((3.0 * f).cos(), (3.0 * f).sin());
                    assert!((y[at + a] - (x[at + a] * cos - x[at + b] * sin)).abs() < 1e-6);
                    assert!((y[at + b] - (x[at + a] * sin + x[at + b] * cos)).abs() < 1e-6);
                }
                assert_eq!(y[at + 4..at + 6], x[at + 4..at + 6]);
            }
        }
    }

    #[test]
    fn addition_covers_every_element() {
        let team = ThreadTeam::new(2);
        for n in [1usize, 100, 40_000] {
            let (mut x, y) = (wave(n, 0.1), wave(n, 0.2));
            let expected: Vec<f32> = x.iter().zip(&y).map(|(a, b)| a + b).collect();
            add_assign(&team, &mut x, &y);
            assert_eq!(x, expected);
        }
    }
}
