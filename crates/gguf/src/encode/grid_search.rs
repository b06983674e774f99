//! The search that all packers of grid quants share: 256 weights in sub-blocks with small odd multiples of one scale, and
//! units of eight weights, each of which is one or two points of a code book.
//!
//! For a unit of weights `w`, importances `a` and a scale `s`, a point `g` costs `Σ a·(w - s·g)² = Σ a·w² + s·p + s²·q`
//! with `p = -2·Σ a·w·g` and `q = Σ a·g²`, neither of which depends on the scale. So both are made once for *all* points
//! of the code book, and all trial scales are one pass over them. The winners at a few scales around the best one, a
//! [`Candidate`] each, are all that is kept; from then on every scale costs a few operations per unit, and the scale of
//! the block and the multiples of the sub-blocks are chosen together, always with the scale as it is stored.
//!
//! Knows points, scales and errors. What a code means, and which bits it becomes, is the business of the packers.

use crate::blocks::K_BLOCK_LEN;
use crate::half::F16;

/// Weights that share a candidate.
pub(super) const UNIT: usize = 8;
/// Units in a block.
pub(super) const UNITS: usize = K_BLOCK_LEN / UNIT;

/// Trial scales of the rough search, which ignores the code book.
const ROUGH_TRIALS: usize = 24;
/// Where they begin: the largest level at this many times the root mean square of the sub-block.
const ROUGH_FIRST: f32 = 0.9;
/// And their ratio: they end at 5.9, where a single weight in 32 becomes the largest level.
const ROUGH_RATIO: f32 = 1.085;

/// Weights above this many times the mean magnitude are outliers to the question whether the others are alike.
const OUTLIER: f32 = 1.5;
/// Weights are alike when the square of their mean magnitude is at least this share of their mean square. It is 0.64 for
/// normal ones, and 0.72 for those of them that are no outliers.
const ALIKE: f32 = 0.9;
/// What another search of a sub-block must take off its error, compared with the one before it, to be kept. Several levels
/// are often equally good; sub-blocks should then take the same, as their multiples of the block's scale are the same then.
const BETTER: f32 = 1.001;

/// Trial scales of the block.
const BLOCK_TRIALS: usize = 24;
/// Rounds of fitting the block's scale to the choice and choosing again.
const REFITS: usize = 3;
/// Blocks whose largest magnitude is below become zero: the smallest half-precision scale makes more of them.
const TOO_SMALL: f32 = 1e-12;

/// Points side by side.
pub(super) const LANES: usize = 16;

/// A code book for search: points in groups, and for each dimension the levels of a group, so that loops over points are
/// loops over vectors and the whole is read from front to back. (Whole rows of levels would lie a power of two apart and
/// push each other out of the cache.)
pub(super) struct Book<const DIM: usize, const POINTS: usize> {
    pub groups: Box<[[[f32; LANES]; DIM]]>,
    /// `Σ g²`: what `q` is where nothing has an importance.
    pub squares: [f32; POINTS],
}

impl<const DIM: usize, const POINTS: usize> Book<DIM, POINTS> {
    pub fn new(grid: &[[i8; DIM]; POINTS]) -> Self {
        let mut groups = vec![[[0.0; LANES]; DIM]; POINTS / LANES].into_boxed_slice();
        let mut squares = [0.0; POINTS];
        for (i, point) in grid.iter().enumerate() {
            for (d, &level) in point.iter().enumerate() {
                groups[i / LANES][d][i % LANES] = f32::from(level);
                squares[i] += f32::from(level) * f32::from(level);
            }
        }
        Self { groups, squares }
    }

    /// `p` of all points.
    #[inline(always)]
    pub fn products(&self, moments: &[f32; DIM], out: &mut [f32; POINTS]) {
        for (group, p) in self.groups.iter().zip(out.as_chunks_mut::<LANES>().0) {
            let mut sums = [0.0; LANES];
            for d in 0..DIM {
                for l in 0..LANES {
                    sums[l] += moments[d] * group[d][l];
                }
            }
            *p = sums;
        }
    }

    /// `p` of all points when one sign must be wrong: that of the weight that matters least.
    #[inline(always)]
    pub fn products_flipped(&self, moments: &[f32; DIM], out: &mut [f32; POINTS]) {
        for (group, p) in self.groups.iter().zip(out.as_chunks_mut::<LANES>().0) {
            // Moments are negative here, so the largest product is the one nearest to zero.
            let (mut sums, mut least) = ([0.0; LANES], [f32::MIN; LANES]);
            for d in 0..DIM {
                for l in 0..LANES {
                    let product = moments[d] * group[d][l];
                    sums[l] += product;
                    least[l] = if product > least[l] { product } else { least[l] };
                }
            }
            for l in 0..LANES {
                p[l] = sums[l] - 2.0 * least[l];
            }
        }
    }

    /// `q` of all points.
    #[inline(always)]
    pub fn norms(&self, importance: &[f32; DIM], out: &mut [f32; POINTS]) {
        for (group, q) in self.groups.iter().zip(out.as_chunks_mut::<LANES>().0) {
            let mut sums = [0.0; LANES];
            for d in 0..DIM {
                for l in 0..LANES {
                    sums[l] += importance[d] * (group[d][l] * group[d][l]);
                }
            }
            *q = sums;
        }
    }
}

/// The cheapest point at each of the scales and its cost, `offset + scale · p + scale² · q`. The offset is a little more
/// than the power, so that all costs are positive: their bits then order as they do, the low ones give way to the number
/// of the point, and one minimum finds both. What that cuts off is at most 2^-12 of a cost.
#[inline(always)]
pub(super) fn cheapest<const POINTS: usize, const TRIALS: usize>(
    p: &[f32; POINTS],
    q: &[f32; POINTS],
    scales: &[f32; TRIALS],
    offsets: &[f32; TRIALS],
) -> [(usize, f32); TRIALS] {
    const { assert!(POINTS.is_power_of_two() && POINTS <= 2048) };
    let mask = POINTS as u32 - 1;
    // Costs are compared after division by the scale, which saves an operation.
    let mut shares = [0.0; TRIALS];
    for k in 0..TRIALS {
        shares[k] = offsets[k] / scales[k];
    }
    let mut best = [u32::MAX; TRIALS];
    for i in 0..POINTS {
        for k in 0..TRIALS {
            let cost = (shares[k] + scales[k] * q[i]) + p[i];
            best[k] = best[k].min(cost.to_bits() & !mask | i as u32);
        }
    }
    let mut found = [(0, 0.0); TRIALS];
    for k in 0..TRIALS {
        found[k] = ((best[k] & mask) as usize, f32::from_bits(best[k] & !mask) * scales[k]);
    }
    found
}

/// Eight weights, scaled so that the largest of the block is 1.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    pub weights: [f32; UNIT],
    pub importance: [f32; UNIT],
    /// Whether importances differ from 1.
    pub weighted: bool,
    /// `Σ a·w²`.
    pub power: f32,
}

impl Unit {
    /// The offset of [`cheapest`].
    #[inline(always)]
    pub fn offset(&self) -> f32 {
        self.power * 1.0001
    }

    /// `-2·a·|w|`.
    #[inline(always)]
    pub fn moments(&self) -> [f32; UNIT] {
        let mut moments = [0.0; UNIT];
        for i in 0..UNIT {
            moments[i] = -2.0 * (self.importance[i] * self.weights[i].abs());
        }
        moments
    }

    /// A set bit is a negative weight.
    #[inline(always)]
    pub fn signs(&self) -> u8 {
        let mut signs = 0;
        for (i, weight) in self.weights.iter().enumerate() {
            signs |= u8::from(*weight < 0.0) << i;
        }
        signs
    }

    /// The signs with an even number of negative ones: if need be, that of the weight is wrong whose `a·w·level` is least.
    #[inline(always)]
    pub fn even_signs(&self, levels: &[f32; UNIT]) -> u8 {
        let signs = self.signs();
        if signs.count_ones().is_multiple_of(2) {
            return signs;
        }
        let moments = self.moments();
        let mut least = 0;
        for i in 1..UNIT {
            if moments[i] * levels[i] > moments[least] * levels[least] {
                least = i;
            }
        }
        signs ^ 1 << least
    }
}

/// A choice for one unit.
#[derive(Clone, Copy, Default)]
pub(super) struct Candidate {
    /// `-2·Σ a·w·g`.
    pub p: f32,
    /// `Σ a·g²`.
    pub q: f32,
    /// Which point or points: for the packer.
    pub code: u32,
}

/// What a format leaves open. `TRIALS` is the number of scales at which the code book is searched.
pub(super) trait GridFormat<const TRIALS: usize> {
    /// Units in a sub-block.
    const SUB_UNITS: usize;
    /// Multiples of the scale: 1, 3, 5, … `2 · STEPS - 1`.
    const STEPS: usize;
    /// The scale of a sub-block is this times the stored scale times the multiple.
    const FACTOR: f32;
    /// Magnitudes of the levels, for the rough search.
    const LEVELS: &'static [f32];
    /// Those worth a search where weights are alike: the code book has points of this level alone, or with one weight of
    /// another level. The rough search, which knows no points, may take a level without such points.
    const EVEN_LEVELS: &'static [f32];
    /// The first trial scale, relative to what the rough search says, and the ratio of each to the one before.
    const SPREAD: (f32, f32);
    /// Room for sums over all points.
    type Scratch;

    /// The room, made once for each block.
    fn scratch() -> Self::Scratch;

    /// The best choice at each of the scales for every unit of a sub-block.
    fn candidates(
        &self,
        units: &[Unit],
        scales: &[f32; TRIALS],
        scratch: &mut Self::Scratch,
        out: &mut [[Candidate; TRIALS]],
    );
}

/// A packed block, before its bits are put in place.
pub(super) struct Choice {
    pub scale: F16,
    /// `s` of every sub-block: the multiple is `2 · s + 1`.
    pub steps: [u8; 16],
    /// Of every unit.
    pub codes: [u32; UNITS],
    /// The scaled weights.
    pub units: [Unit; UNITS],
}

/// Finds scale, steps and codes of a block.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
#[inline(always)]
pub(super) fn search<F: GridFormat<TRIALS>, const TRIALS: usize>(
    format: &F,
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<Choice, usize> {
    let largest = largest_magnitude(weights)?;
    let magnitude = weights[largest].abs();
    let units = cut(weights, importance, if magnitude < TOO_SMALL { 0.0 } else { 1.0 / magnitude });
    let mut choice = Choice { scale: F16(0), steps: [0; 16], codes: [0; UNITS], units };
    if magnitude < TOO_SMALL {
        return Ok(choice);
    }
    let mut scratch = F::scratch();
    let mut found = Found::<TRIALS> {
        list: [Lanes { p: [0.0; UNITS], q: [0.0; UNITS], code: [0; UNITS] }; TRIALS],
        power: [0.0; UNITS],
        sub_units: F::SUB_UNITS,
    };
    let subs = UNITS / F::SUB_UNITS;
    let mut ideal = [0.0f32; 16];
    for (sub, ideal) in ideal.iter_mut().enumerate().take(subs) {
        let units = &units[sub * F::SUB_UNITS..][..F::SUB_UNITS];
        let magnitude = if F::EVEN_LEVELS.is_empty() { None } else { common_magnitude(units) };
        let levels = if magnitude.is_some() { F::EVEN_LEVELS } else { &[] };
        let mut gain = -1.0;
        for attempt in 0..=levels.len() {
            let start = match magnitude {
                Some(magnitude) if attempt < levels.len() => magnitude / levels[attempt],
                _ => rough_scale::<F, TRIALS>(units),
            };
            let mut scales = [start * F::SPREAD.0; TRIALS];
            for k in 1..TRIALS {
                scales[k] = scales[k - 1] * F::SPREAD.1;
            }
            if let Some(better) = found.improve(format, sub, units, (&scales, gain * BETTER), &mut scratch) {
                (*ideal, gain) = better;
            }
        }
    }
    let largest_scale = ideal.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
    if largest_scale == 0.0 {
        return Ok(choice);
    }

    // The scale as stored, and as the scaled weights see it.
    let stored = |base: f32| {
        let scale = F16::from_f32(base * (magnitude / F::FACTOR));
        (scale, scale.to_f32() * (F::FACTOR / magnitude))
    };
    let widest = (2 * F::STEPS - 1) as f32;
    if !stored(largest_scale / widest).1.is_finite() {
        return Err(largest);
    }
    let mut best = (found.power.iter().sum::<f32>(), F16(0), [0u8; 16]);
    let mut best_base = 0.0;
    for trial in 0..BLOCK_TRIALS {
        // The largest sub-block's multiple, from two thirds of the widest to a little more than it: giving up on a
        // perfect scale for one sub-block can be good for the others.
        let multiple = widest * (0.64 + 0.52 * trial as f32 / BLOCK_TRIALS as f32);
        let (scale, base) = stored(largest_scale / multiple);
        if base == 0.0 || !base.is_finite() {
            continue;
        }
        let inverse = 1.0 / base;
        let (mut near, mut next) = ([0u8; 16], [0u8; 16]);
        for sub in 0..16 {
            let ratio = at_most(ideal[sub] * inverse, widest);
            near[sub] = ((ratio * 0.5) as i32).clamp(0, F::STEPS as i32 - 1) as u8;
            let above = ratio > (2 * near[sub] + 1) as f32;
            next[sub] = if above { (near[sub] + 1).min(F::STEPS as u8 - 1) } else { near[sub].saturating_sub(1) };
        }
        let (cost, steps) = found.better_steps(base, &[near, next]);
        if cost < best.0 {
            best = (cost, scale, steps);
            best_base = base;
        }
    }
    if best_base == 0.0 {
        return Ok(choice);
    }
    for _ in 0..REFITS {
        let (p, q) = found.select(best_base, &best.2, &mut choice);
        let (scale, base) = stored(-0.5 * p / q);
        if base.is_nan() || base <= 0.0 || !base.is_finite() {
            break;
        }
        let (mut below, mut above) = (best.2, best.2);
        for sub in 0..16 {
            below[sub] = below[sub].saturating_sub(1);
            above[sub] = (above[sub] + 1).min(F::STEPS as u8 - 1);
        }
        let (cost, steps) = found.better_steps(base, &[best.2, below, above]);
        if cost >= best.0 {
            break;
        }
        best = (cost, scale, steps);
        best_base = base;
    }
    choice.scale = best.1;
    choice.steps = best.2;
    found.select(best_base, &best.2, &mut choice);
    Ok(choice)
}

/// One candidate of each unit.
#[derive(Clone, Copy)]
struct Lanes {
    p: [f32; UNITS],
    q: [f32; UNITS],
    code: [u32; UNITS],
}

/// The candidates of a block.
struct Found<const TRIALS: usize> {
    list: [Lanes; TRIALS],
    /// `Σ a·w²` of the units.
    power: [f32; UNITS],
    sub_units: usize,
}

impl<const TRIALS: usize> Found<TRIALS> {
    /// Searches a sub-block at these scales and keeps the candidates if they take more off its error than `gain`. Then
    /// the result is its best scale, were that stored exactly, and what the candidates take off.
    #[inline(always)]
    fn improve<F: GridFormat<TRIALS>>(
        &mut self,
        format: &F,
        sub: usize,
        units: &[Unit],
        (scales, gain): (&[f32; TRIALS], f32),
        scratch: &mut F::Scratch,
    ) -> Option<(f32, f32)> {
        let first = sub * self.sub_units;
        let mut candidates = [[Candidate::default(); TRIALS]; 4];
        format.candidates(units, scales, scratch, &mut candidates[..self.sub_units]);
        // With the choices of a trial fixed, the best scale is -p / 2q and takes p² / 4q off the power.
        let (mut best, mut scale) = (0.0, 0.0);
        for k in 0..TRIALS {
            let (mut p, mut q) = (0.0, 0.0);
            for unit in &candidates[..self.sub_units] {
                p += unit[k].p;
                q += unit[k].q;
            }
            if p < 0.0 && p * p > best * q {
                best = p * p / q;
                scale = -0.5 * p / q;
            }
        }
        if best <= gain {
            return None;
        }
        for (i, unit) in units.iter().enumerate() {
            self.power[first + i] = unit.power;
            for (lanes, candidate) in self.list.iter_mut().zip(&candidates[i]) {
                lanes.p[first + i] = candidate.p;
                lanes.q[first + i] = candidate.q;
                lanes.code[first + i] = candidate.code;
            }
        }
        Some((scale, best))
    }

    /// The scale of every unit.
    #[inline(always)]
    fn unit_scales(&self, base: f32, steps: &[u8; 16]) -> [f32; UNITS] {
        let mut scales = [0.0; UNITS];
        for (unit, scale) in scales.iter_mut().enumerate() {
            *scale = base * f32::from(2 * steps[unit / self.sub_units] + 1);
        }
        scales
    }

    /// The least error of every sub-block.
    #[inline(always)]
    fn costs(&self, scales: &[f32; UNITS]) -> [f32; 16] {
        let mut costs = [f32::MAX; UNITS];
        for lanes in &self.list {
            for u in 0..UNITS {
                let cost = scales[u] * (scales[u] * lanes.q[u] + lanes.p[u]);
                costs[u] = at_most(cost, costs[u]);
            }
        }
        let mut sums = [0.0; 16];
        for u in 0..UNITS {
            sums[u / self.sub_units] += self.power[u] + costs[u];
        }
        sums
    }

    /// The better of several steps for every sub-block, and the error of all.
    #[inline(always)]
    fn better_steps(&self, base: f32, trials: &[[u8; 16]]) -> (f32, [u8; 16]) {
        let (mut best, mut steps) = ([f32::MAX; 16], [0; 16]);
        for trial in trials {
            let costs = self.costs(&self.unit_scales(base, trial));
            for sub in 0..16 {
                if costs[sub] < best[sub] {
                    best[sub] = costs[sub];
                    steps[sub] = trial[sub];
                }
            }
        }
        let mut sum = 0.0;
        for cost in &best[..UNITS / self.sub_units] {
            sum += cost;
        }
        (sum, steps)
    }

    /// Writes the codes for these scales into `choice`. The sums `Σ m·p` and `Σ m²·q` over the multiples `m`: half their
    /// ratio, negated, is the best scale for these codes.
    #[inline(always)]
    fn select(&self, base: f32, steps: &[u8; 16], choice: &mut Choice) -> (f32, f32) {
        let scales = self.unit_scales(base, steps);
        let mut sums = (0.0, 0.0);
        for u in 0..UNITS {
            let mut cheapest = (f32::MAX, 0.0, 0.0);
            for lanes in &self.list {
                let cost = scales[u] * (scales[u] * lanes.q[u] + lanes.p[u]);
                if cost < cheapest.0 {
                    cheapest = (cost, lanes.p[u], lanes.q[u]);
                    choice.codes[u] = lanes.code[u];
                }
            }
            let multiple = f32::from(2 * steps[u / self.sub_units] + 1);
            sums.0 += multiple * cheapest.1;
            sums.1 += multiple * multiple * cheapest.2;
        }
        sums
    }
}

/// The best scale of a sub-block if every weight could take any of the levels.
#[inline(always)]
fn rough_scale<F: GridFormat<TRIALS>, const TRIALS: usize>(units: &[Unit]) -> f32 {
    let (mut power, mut importance) = (0.0, 0.0);
    for unit in units {
        power += unit.power;
        for a in unit.importance {
            importance += a;
        }
    }
    if power == 0.0 {
        return 1.0;
    }
    let top = F::LEVELS[F::LEVELS.len() - 1];
    let mut scales = [(power / importance).sqrt() * ROUGH_FIRST / top; ROUGH_TRIALS];
    for k in 1..ROUGH_TRIALS {
        scales[k] = scales[k - 1] * ROUGH_RATIO;
    }
    let mut errors = [0.0; ROUGH_TRIALS];
    for unit in units {
        for i in 0..UNIT {
            let (weight, importance) = (unit.weights[i].abs(), unit.importance[i]);
            for k in 0..ROUGH_TRIALS {
                let mut least = f32::MAX;
                for &level in F::LEVELS {
                    let error = weight - scales[k] * level;
                    least = at_most(error * error, least);
                }
                errors[k] += importance * least;
            }
        }
    }
    let mut best = 0;
    for k in 1..ROUGH_TRIALS {
        if errors[k] < errors[best] {
            best = k;
        }
    }
    scales[best]
}

/// The magnitude of the weights of a sub-block if they are alike, but for outliers.
#[inline(always)]
fn common_magnitude(units: &[Unit]) -> Option<f32> {
    let (mut importance, mut sum) = (0.0, 0.0);
    for unit in units {
        for i in 0..UNIT {
            importance += unit.importance[i];
            sum += unit.importance[i] * unit.weights[i].abs();
        }
    }
    let bound = OUTLIER * sum / importance;
    let (mut importance, mut sum, mut power) = (0.0, 0.0, 0.0);
    for unit in units {
        for i in 0..UNIT {
            let (weight, a) = (unit.weights[i].abs(), unit.importance[i]);
            if weight <= bound {
                importance += a;
                sum += a * weight;
                power += a * weight * weight;
            }
        }
    }
    // Not so when all are zero.
    (sum > 0.0 && sum * sum >= ALIKE * importance * power).then(|| sum / importance)
}

/// The smaller one; unlike `f32::min` it is one instruction, as NaN need not be handled.
#[inline(always)]
pub(super) fn at_most(value: f32, high: f32) -> f32 {
    if value < high { value } else { high }
}

/// The weights in units.
#[inline(always)]
fn cut(weights: &[f32; K_BLOCK_LEN], importance: Option<&[f32; K_BLOCK_LEN]>, factor: f32) -> [Unit; UNITS] {
    let empty = Unit { weights: [0.0; UNIT], importance: [1.0; UNIT], weighted: importance.is_some(), power: 0.0 };
    let mut units = [empty; UNITS];
    for (u, unit) in units.iter_mut().enumerate() {
        if let Some(importance) = importance {
            unit.importance.copy_from_slice(&importance[u * UNIT..][..UNIT]);
        }
        for i in 0..UNIT {
            unit.weights[i] = weights[u * UNIT + i] * factor;
            unit.power += unit.importance[i] * (unit.weights[i] * unit.weights[i]);
        }
    }
    units
}

/// Index of the first weight with the largest magnitude; the error is the index of one that is not finite.
#[inline(always)]
fn largest_magnitude(weights: &[f32; K_BLOCK_LEN]) -> Result<usize, usize> {
    let mut largest = 0;
    for (i, weight) in weights.iter().enumerate() {
        if !weight.is_finite() {
            return Err(i);
        }
        if weight.abs() > weights[largest].abs() {
            largest = i;
        }
    }
    Ok(largest)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{GgmlType, Importance, decode_row, encode_row};

    const TYPES: [(GgmlType, f64); 7] = [
        (GgmlType::IQ1_S, 0.46),
        (GgmlType::IQ1_M, 0.43),
        (GgmlType::IQ2_XXS, 0.34),
        (GgmlType::IQ2_XS, 0.30),
        (GgmlType::IQ2_S, 0.25),
        (GgmlType::IQ3_XXS, 0.185),
        (GgmlType::IQ3_S, 0.135),
    ];

    /// About normal, of deviation 1.
    pub(in crate::encode) fn normals(n: usize, mut state: u64) -> Vec<f32> {
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    /// A unit of these weights.
    pub(in crate::encode) fn unit(weights: &[f32], importance: &[f32]) -> Unit {
        let power = (0..UNIT).map(|i| importance[i] * weights[i] * weights[i]).sum();
        let (weights, importance) = (weights.try_into().unwrap(), importance.try_into().unwrap());
        Unit { weights, importance, weighted: true, power }
    }

    /// The error of a unit at given levels.
    pub(in crate::encode) fn cost(unit: &Unit, scale: f32, level: impl Fn(usize) -> f32) -> f64 {
        (0..UNIT).map(|i| f64::from(unit.importance[i]) * f64::from(unit.weights[i] - scale * level(i)).powi(2)).sum()
    }

    fn packed(ty: GgmlType, weights: &[f32], importance: Option<&Importance>) -> Vec<u8> {
        let mut packed = Vec::new();
        encode_row(ty, weights, importance, &mut packed).unwrap();
        packed
    }

    /// Weighted by the importance of the columns.
    fn error(ty: GgmlType, bytes: &[u8], weights: &[f32], importance: &Importance) -> f64 {
        let mut decoded = vec![0.0; weights.len()];
        decode_row(ty, bytes, &mut decoded).unwrap();
        let columns = importance.values().iter().cycle();
        let pairs = weights.iter().zip(&decoded).zip(columns);
        pairs.map(|((w, d), a)| f64::from(*a) * f64::from(w - d).powi(2)).sum()
    }

    #[test]
    fn the_error_of_normal_weights_is_as_measured() {
        let weights = normals(8 * 1024, 1);
        let equal = Importance::new(&[1.0; 1024]).unwrap();
        let columns = Importance::new(&normals(1024, 2).iter().map(|x| x.exp()).collect::<Vec<_>>()).unwrap();
        let power: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        for (ty, bound) in TYPES {
            let plain = packed(ty, &weights, None);
            let relative = (error(ty, &plain, &weights, &equal) / power).sqrt();
            assert!(relative < bound && relative > 0.9 * bound, "{ty}: {relative}");
            assert!(plain == packed(ty, &weights, Some(&equal)), "{ty}: equal importance is none");
            let weighted = packed(ty, &weights, Some(&columns));
            let (with, without) = (error(ty, &weighted, &weights, &columns), error(ty, &plain, &weights, &columns));
            assert!(with < 0.93 * without, "{ty}: {with} with importance, {without} without");
        }
    }

    /// Weights of one magnitude are all at one level, so the code book decides which scale is good.
    #[test]
    fn weights_of_one_magnitude_find_the_points_of_one_level() {
        let signs: Vec<f32> = normals(8 * 1024, 5).iter().map(|x| 0.02f32.copysign(*x)).collect();
        let constant = vec![0.02; signs.len()];
        let outliers: Vec<f32> =
            signs.iter().zip(normals(signs.len(), 6)).map(|(w, x)| if x > 2.3 { 5.0 * w } else { *w }).collect();
        let factors = normals(signs.len() / 32, 7);
        let uneven = |(i, w): (usize, &f32)| w * (0.5 * factors[i / 32]).exp();
        let uneven: Vec<f32> = signs.iter().enumerate().map(uneven).collect();
        type Bounds<'a> = &'a [(GgmlType, f64)];
        let cases: [(&str, &[f32], Bounds); 4] = [
            ("constant", &constant, &TYPES.map(|(ty, _)| (ty, 0.01))),
            ("signs", &signs, &[(GgmlType::IQ2_XS, 0.33), (GgmlType::IQ2_S, 0.01), (GgmlType::IQ3_S, 0.01)]),
            ("outliers", &outliers, &[(GgmlType::IQ2_XS, 0.33), (GgmlType::IQ2_S, 0.05), (GgmlType::IQ3_S, 0.05)]),
            ("uneven", &uneven, &[(GgmlType::IQ2_XS, 0.35), (GgmlType::IQ2_S, 0.1), (GgmlType::IQ3_S, 0.05)]),
        ];
        let equal = Importance::new(&[1.0; 1024]).unwrap();
        for (name, weights, bounds) in cases {
            let power: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            for &(ty, bound) in bounds {
                let relative = (error(ty, &packed(ty, weights, None), weights, &equal) / power).sqrt();
                assert!(relative < bound, "{ty}, {name}: {relative}");
            }
        }
    }

    /// Small weights lose no more than half precision takes from the scale, large ones nothing.
    #[test]
    fn the_error_scales_with_the_weights() {
        let weights = normals(1024, 3);
        let equal = Importance::new(&[1.0; 1024]).unwrap();
        for (ty, bound) in TYPES {
            for factor in [1e-4f32, 1e-2, 1e3, 1e5] {
                let scaled: Vec<f32> = weights.iter().map(|w| w * factor).collect();
                let power: f64 = scaled.iter().map(|&w| f64::from(w).powi(2)).sum();
                let relative = (error(ty, &packed(ty, &scaled, None), &scaled, &equal) / power).sqrt();
                assert!(relative < 1.05 * bound, "{ty} times {factor}: {relative}");
            }
            let huge: Vec<f32> = (0..256).map(|i| if i == 77 { 1e30 } else { 1e29 }).collect();
            let result = encode_row(ty, &huge, None, &mut Vec::new());
            assert!(matches!(result, Err(crate::Error::NotEncodable { index: 77, .. })), "{ty}: {result:?}");
        }
    }

    /// Sub-blocks of very different size: the small ones cost little, whatever becomes of them.
    #[test]
    fn uneven_blocks_keep_their_large_parts() {
        let equal = Importance::new(&[1.0; 256]).unwrap();
        let mut weights = normals(256, 4);
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight *= [1.0, 1e-3, 0.1, 0.0][i / 32 % 4];
        }
        let power: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        for (ty, bound) in TYPES {
            let relative = (error(ty, &packed(ty, &weights, None), &weights, &equal) / power).sqrt();
            assert!(relative < 1.2 * bound, "{ty}: {relative}");
        }
    }
}
