//! The steps of a forward pass that work value by value: activation functions and gating, soft-capping, addition; and
//! rotary embedding. The norms are in `norm.rs`.

use std::marker::PhantomData;

use crate::math::{erf_lanes, map_lanes, one_plus_exp_neg, tanh_lanes};
use crate::simd::{Isa, LANES, Operation, Simd};
use crate::team::{SharedMut, ThreadTeam};

/// Fewer values than this are done by the caller alone.
pub(crate) const PARALLEL_MIN: usize = 16 * 1024;

/// Rows of `width` in `data`, spread over the team where there are enough of them.
pub(crate) fn rows_mut(team: &ThreadTeam, data: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if data.len() < PARALLEL_MIN {
        data.chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        team.run_chunks_mut(data, width, f);
    }
}

/// What a feed-forward layer bends its values with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// `x · sigmoid(x)`: the gate of SwiGLU (Elfwing et al., 2017; Shazeer, 2020).
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, the approximation of GELU (Hendrycks and Gimpel, 2016).
    GeluTanh,
    /// `x/2 · (1 + erf(x/√2))`, GELU itself.
    GeluErf,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²` (So et al., 2021).
    ReluSquared,
}

/// An [`Activation`] as a type: each gets a loop of its own.
trait Curve {
    fn at<S: Simd>(s: S, x: S::F) -> S::F;
}

struct Silu;
struct GeluTanh;
struct GeluErf;
struct Relu;
struct ReluSquared;

impl Curve for Silu {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::F) -> S::F {
        s.fdiv(x, one_plus_exp_neg(s, x))
    }
}

impl Curve for GeluTanh {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::F) -> S::F {
        const SQRT_2_OVER_PI: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
        let cubic = s.fma(s.fmul(s.fmul(x, x), s.fsplat(0.044_715)), x, x);
        half_one_plus(s, x, tanh_lanes(s, s.fmul(cubic, s.fsplat(SQRT_2_OVER_PI))))
    }
}

impl Curve for GeluErf {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::F) -> S::F {
        half_one_plus(s, x, erf_lanes(s, s.fmul(x, s.fsplat(std::f32::consts::FRAC_1_SQRT_2))))
    }
}

impl Curve for Relu {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::F) -> S::F {
        s.fmax(s.fsplat(0.0), x)
    }
}

impl Curve for ReluSquared {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::F) -> S::F {
        let x = Relu::at(s, x);
        s.fmul(x, x)
    }
}

/// `x/2 · (1 + y)`
#[inline(always)]
fn half_one_plus<S: Simd>(s: S, x: S::F, y: S::F) -> S::F {
    s.fmul(s.fmul(x, s.fsplat(0.5)), s.fadd(s.fsplat(1.0), y))
}

/// An operation on values that are bent by the curve `C`.
struct Curved<O, C>(O, PhantomData<C>);

struct Gate<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl<C: Curve> Operation for Curved<Gate<'_>, C> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Gate { gate, up } = self.0;
        let mut gates = gate.chunks_exact_mut(LANES);
        let ups = up.chunks_exact(LANES);
        let up_tail = ups.remainder();
        for (g, u) in (&mut gates).zip(ups) {
            // SAFETY: `chunks_exact` gives 16 values of each.
            unsafe { s.fstore(g.as_mut_ptr(), s.fmul(C::at(s, s.fload(g.as_ptr())), s.fload(u.as_ptr()))) };
        }
        let gate_tail = gates.into_remainder();
        if gate_tail.is_empty() {
            return;
        }
        let (mut g, mut u) = ([0.0f32; LANES], [0.0f32; LANES]);
        g[..gate_tail.len()].copy_from_slice(gate_tail);
        u[..up_tail.len()].copy_from_slice(up_tail);
        // SAFETY: 16 values of each.
        unsafe { s.fstore(g.as_mut_ptr(), s.fmul(C::at(s, s.fload(g.as_ptr())), s.fload(u.as_ptr()))) };
        gate_tail.copy_from_slice(&g[..gate_tail.len()]);
    }
}

struct Bend<'a>(&'a mut [f32]);

impl<C: Curve> Operation for Curved<Bend<'_>, C> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        map_lanes!(s, self.0.0, 0.0, x => C::at(s, x));
    }
}

/// Runs `op` with the curve of `activation`.
fn run_curved<O>(isa: Isa, activation: Activation, op: O)
where
    Curved<O, Silu>: Operation<Output = ()>,
    Curved<O, GeluTanh>: Operation<Output = ()>,
    Curved<O, GeluErf>: Operation<Output = ()>,
    Curved<O, Relu>: Operation<Output = ()>,
    Curved<O, ReluSquared>: Operation<Output = ()>,
{
    match activation {
        Activation::Silu => isa.run(Curved(op, PhantomData::<Silu>)),
        Activation::GeluTanh => isa.run(Curved(op, PhantomData::<GeluTanh>)),
        Activation::GeluErf => isa.run(Curved(op, PhantomData::<GeluErf>)),
        Activation::Relu => isa.run(Curved(op, PhantomData::<Relu>)),
        Activation::ReluSquared => isa.run(Curved(op, PhantomData::<ReluSquared>)),
    }
}

/// `gate = activation(gate) · up`, element by element (Shazeer, 2020). Both are `[n, width]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn gated(team: &ThreadTeam, isa: Isa, activation: Activation, gate: &mut [f32], up: &[f32], width: usize) {
    assert!(width > 0 && gate.len() == up.len() && gate.len().is_multiple_of(width), "a gate for each value");
    rows_mut(team, gate, width, |i, gate| {
        run_curved(isa, activation, Gate { up: &up[i * width..(i + 1) * width], gate });
    });
}

/// `x = activation(x)`, element by element, of `[n, width]`.
///
/// # Panics
/// When `x` is no whole number of rows.
pub fn activate(team: &ThreadTeam, isa: Isa, activation: Activation, x: &mut [f32], width: usize) {
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of {width}");
    rows_mut(team, x, width, |_, x| run_curved(isa, activation, Bend(x)));
}

/// `x = cap · tanh(x / cap)` on one thread.
pub(crate) struct SoftCap<'a> {
    pub x: &'a mut [f32],
    pub cap: f32,
}

impl Operation for SoftCap<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let cap = s.fsplat(self.cap);
        map_lanes!(s, self.x, 0.0, x => s.fmul(cap, tanh_lanes(s, s.fdiv(x, cap))));
    }
}

/// `x = cap · tanh(x / cap)`, element by element: values stay within ±cap (Gemma 2). ±∞ becomes ±cap, NaN stays.
pub fn soft_cap(team: &ThreadTeam, isa: Isa, x: &mut [f32], cap: f32) {
    pieces_mut(team, x, |_, x| isa.run(SoftCap { x, cap }));
}

/// `x = factor · x`, element by element.
pub fn scale(team: &ThreadTeam, x: &mut [f32], factor: f32) {
    pieces_mut(team, x, |_, x| x.iter_mut().for_each(|x| *x *= factor));
}

/// Pieces of `data` for work that goes value by value, with the place where each begins.
fn pieces_mut(team: &ThreadTeam, data: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    const PIECE: usize = 8 * 1024;
    if data.len() < PARALLEL_MIN {
        f(0, data);
    } else {
        team.run_chunks_mut(data, PIECE, |i, piece| f(i * PIECE, piece));
    }
}

/// `x += y`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(team: &ThreadTeam, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "two equal shapes");
    pieces_mut(team, x, |at, x| x.iter_mut().zip(&y[at..]).for_each(|(x, y)| *x += y));
}

/// `x += factor · y`, element by element; product and sum are rounded each.
///
/// # Panics
/// When the lengths differ.
pub fn add_scaled(team: &ThreadTeam, x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len(), "two equal shapes");
    pieces_mut(team, x, |at, x| add_product(x, &y[at..], factor));
}

fn add_product(x: &mut [f32], y: &[f32], factor: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
}

/// `x[rows[i]] += factors[i] · y[i]` for each i in turn: what several experts say to one token is added in the order given.
/// `x` is `[n, width]`, `y` is `[rows.len(), width]`; product and sum are rounded each.
///
/// # Panics
/// When the shapes do not fit, or a row lies outside `x`.
pub fn add_rows_scaled(team: &ThreadTeam, x: &mut [f32], rows: &[usize], y: &[f32], factors: &[f32], width: usize) {
    /// Columns that one thread takes at a time.
    const STRIP: usize = 256;
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of {width}");
    assert_eq!((y.len(), factors.len()), (rows.len() * width, rows.len()), "a row and a factor for each target");
    if y.len() < PARALLEL_MIN {
        for ((&row, y), &factor) in rows.iter().zip(y.chunks_exact(width)).zip(factors) {
            add_product(&mut x[row * width..][..width], y, factor);
        }
        return;
    }
    let x = SharedMut::new(x);
    // Threads share the columns: then every row can be anybody's target, and the order within a target is kept.
    team.run(width.div_ceil(STRIP), |strip| {
        let first = strip * STRIP;
        let n = STRIP.min(width - first);
        for ((&row, y), &factor) in rows.iter().zip(y.chunks_exact(width)).zip(factors) {
            // SAFETY: strips are disjoint columns, and this thread holds one slice at a time; the range is checked.
            let x = unsafe { x.slice(row * width + first, n) };
            add_product(x, &y[first..], factor);
        }
    });
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

    const ACTIVATIONS: [Activation; 5] =
        [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu, Activation::ReluSquared];

    fn definition(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + libm::tanh(inner))
            }
            Activation::GeluErf => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
            Activation::Relu => x.max(0.0),
            Activation::ReluSquared => x.max(0.0).powi(2),
        }
    }

    #[test]
    fn activations_are_their_formulas_and_equal_on_every_isa() {
        for activation in ACTIVATIONS {
            for (rows, width) in [(3, 1usize), (2, 7), (1, 16), (3, 33), (2, 896), (2, 20_000)] {
                // Up to ±8: both tails of every function.
                let x: Vec<f32> = wave(rows * width, 0.91).iter().map(|x| x * 4.0).collect();
                let up = wave(rows * width, 0.13);
                let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
                for isa in Isa::available() {
                    let team = ThreadTeam::new(2);
                    let (mut gate, mut alone) = (x.clone(), x.clone());
                    gated(&team, isa, activation, &mut gate, &up, width);
                    activate(&team, isa, activation, &mut alone, width);
                    for i in 0..x.len() {
                        let exact = definition(activation, f64::from(x[i]));
                        let allowed = 1e-6 * exact.abs().max(1.0);
                        let name = isa.name();
                        assert!(
                            (f64::from(alone[i]) - exact).abs() < allowed,
                            "{name} {activation:?}({}) = {}",
                            x[i],
                            alone[i]
                        );
                        assert_eq!(gate[i], alone[i] * up[i], "{name} {activation:?}");
                    }
                    assert!(*first.get_or_insert((gate.clone(), alone.clone())) == (gate, alone), "{}", isa.name());
                }
            }
        }
    }

    #[test]
    fn activations_do_not_lose_what_is_not_finite() {
        for activation in ACTIVATIONS {
            for isa in Isa::available() {
                let mut x = [f32::NAN, f32::INFINITY];
                activate(&ThreadTeam::new(1), isa, activation, &mut x, 2);
                assert!(x[0].is_nan() && x[1] == f32::INFINITY, "{activation:?}: {x:?}");
            }
        }
    }

    #[test]
    fn soft_cap_is_the_formula_and_equal_on_every_isa() {
        let team = ThreadTeam::new(2);
        for (n, cap) in [(1usize, 30.0f32), (7, 0.5), (16, 50.0), (33, 2.0), (896, 30.0), (40_000, 1.5)] {
            let x: Vec<f32> = wave(n, 0.37).iter().map(|x| x * cap).collect();
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = x.clone();
                soft_cap(&team, isa, &mut out, cap);
                for (&x, &y) in x.iter().zip(&out) {
                    let exact = f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh();
                    assert!((f64::from(y) - exact).abs() <= 4e-7 * f64::from(cap), "{x} → {y}");
                }
                assert_eq!(*first.get_or_insert(out.clone()), out, "{}", isa.name());
            }
        }
        let mut x = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        soft_cap(&team, Isa::best(), &mut x, 30.0);
        assert!(x[0] == 30.0 && x[1] == -30.0 && x[2].is_nan(), "{x:?}");
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
    fn sums_and_factors_cover_every_element() {
        let team = ThreadTeam::new(2);
        for n in [1usize, 100, 40_000] {
            let (x, y) = (wave(n, 0.1), wave(n, 0.2));
            let each = |f: fn(f32, f32) -> f32| -> Vec<f32> { x.iter().zip(&y).map(|(&a, &b)| f(a, b)).collect() };
            let mut out = x.clone();
            add_assign(&team, &mut out, &y);
            assert_eq!(out, each(|a, b| a + b));
            let mut out = x.clone();
            add_scaled(&team, &mut out, &y, 0.3);
            assert_eq!(out, each(|a, b| a + 0.3 * b));
            let mut out = x.clone();
            scale(&team, &mut out, 0.3);
            assert_eq!(out, each(|a, _| a * 0.3));
        }
    }

    #[test]
    fn rows_are_added_to_their_targets_in_order() {
        for (width, n, per_target) in [(1usize, 3usize, 2usize), (33, 5, 3), (896, 7, 8), (1000, 20, 4)] {
            // Targets in the order of experts, not of tokens, as the engine gives them.
            let rows: Vec<usize> = (0..n * per_target).map(|i| i * 5 % n).collect();
            let (x, y) = (wave(n * width, 0.1), wave(rows.len() * width, 0.2));
            let factors = wave(rows.len(), 0.7);
            let mut expected = x.clone();
            for (i, &row) in rows.iter().enumerate() {
                for c in 0..width {
                    expected[row * width + c] += factors[i] * y[i * width + c];
                }
            }
            for threads in [1, 2, 4] {
                let mut out = x.clone();
                add_rows_scaled(&ThreadTeam::new(threads), &mut out, &rows, &y, &factors, width);
                assert!(out == expected, "{threads} threads, {n} rows of {width}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "chunk stays inside")]
    fn a_target_outside_is_refused() {
        add_rows_scaled(&ThreadTeam::new(1), &mut [0.0; 1024], &[1; 20], &vec![0.0; 20 * 1024], &[1.0; 20], 1024);
    }
}
