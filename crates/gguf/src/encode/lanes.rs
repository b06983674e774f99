//! The search for a scale, sixteen candidates side by side.
//!
//! A candidate is a lane: each weight of the block meets all sixteen at once, so sums need no reduction over vectors, and
//! their order is the same whatever the width of the registers. Knows grids of values and blocks of numbers; which
//! candidates are worth a try, and what is stored, is the business of the packers.

pub(super) use crate::blocks::power_of_two;
use crate::half::F16;

/// Candidates that are tried side by side.
pub(super) const LANES: usize = 16;

/// One number for each candidate.
pub(super) type Lanes = [f32; LANES];

/// Half of the smallest half-precision number: where the largest weight lies below, the best scale is zero.
pub(super) const TOO_SMALL_FOR_F16: f32 = 1.0 / (1 << 25) as f32;

/// The values that a weight can take, in units of the scale.
pub(super) trait Grid {
    /// The largest magnitude of them.
    const LARGEST: f32;
    /// What [`Grid::nearest`] wants to know about a weight, made once for all candidates.
    type Side: Copy;

    /// What to know about this weight.
    fn side(weight: f32) -> Self::Side;

    /// The values nearest to one weight in units of each scale.
    fn nearest(side: Self::Side, weights: Lanes) -> Lanes;
}

/// The whole numbers `LOW` to `HIGH`.
pub(super) struct Whole<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Grid for Whole<LOW, HIGH> {
    const LARGEST: f32 = if -LOW > HIGH { -LOW as f32 } else { HIGH as f32 };
    type Side = ();

    #[inline(always)]
    fn side(_: f32) {}

    #[inline(always)]
    fn nearest((): (), weights: Lanes) -> Lanes {
        let mut values = weights;
        for value in &mut values {
            *value = at_most(at_least(round(*value), LOW as f32), HIGH as f32);
        }
        values
    }
}

/// The nearest whole number, ties to even, for magnitudes below 2^22; larger ones stay large. There is no call to the
/// mathematics library in it, as there is in `f32::round` on plain x86-64.
#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2^23: from here on the unit of a float is 1
    (value + MAGIC) - MAGIC
}

/// The smaller one; unlike `f32::min` it is one instruction, as NaN need not be handled.
#[inline(always)]
pub(super) fn at_most(value: f32, high: f32) -> f32 {
    if value < high { value } else { high }
}

/// The larger one.
#[inline(always)]
pub(super) fn at_least(value: f32, low: f32) -> f32 {
    if value > low { value } else { low }
}

/// Index of the largest magnitude.
///
/// # Errors
/// The index of the first weight that is not finite.
#[inline(always)]
pub(super) fn largest_magnitude(weights: &[f32]) -> Result<usize, usize> {
    const INFINITE: u32 = 0x7f80_0000;
    // Magnitudes have the order of their bits.
    let magnitude = |weight: &f32| weight.to_bits() & 0x7fff_ffff;
    let largest = weights.iter().map(magnitude).fold(0, u32::max);
    if largest >= INFINITE {
        return Err(weights.iter().position(|weight| !weight.is_finite()).expect("the largest is not finite"));
    }
    Ok(weights.iter().position(|weight| magnitude(weight) == largest).unwrap_or(0))
}

/// A block to search in, multiplied by a power of two: the largest magnitude is from 1 to 2, and squares neither overflow
/// nor vanish.
#[derive(Clone, Copy)]
pub(super) struct Normal<const N: usize> {
    pub weights: [f32; N],
    pub importance: [f32; N],
    /// The weight of largest magnitude, with its sign.
    pub largest: f32,
    /// Where it is.
    pub index: usize,
    /// A weight is the normal weight times two to this power.
    pub exponent: i32,
}

impl<const N: usize> Normal<N> {
    /// `None` when no weight reaches the magnitude `smallest`, so that all decode to zero.
    ///
    /// # Errors
    /// The index of the first weight that is not finite.
    #[inline(always)]
    pub fn new(weights: &[f32; N], importance: Option<&[f32; N]>, smallest: f32) -> Result<Option<Self>, usize> {
        let index = largest_magnitude(weights)?;
        if weights[index].abs() < smallest {
            return Ok(None);
        }
        let exponent = ((weights[index].to_bits() >> 23 & 255) as i32 - 127).max(-126);
        let factor = power_of_two(-exponent);
        let weights = weights.map(|weight| weight * factor);
        let importance = importance.copied().unwrap_or([1.0; N]);
        Ok(Some(Self { weights, importance, largest: weights[index], index, exponent }))
    }

    /// What a stored scale multiplies the grid with, in the units of this block, and the stored scale.
    #[inline(always)]
    pub fn stored(&self, scale: f32) -> (f32, F16) {
        let stored = F16::from_f32(scale * power_of_two(self.exponent));
        (self.in_units(stored), stored)
    }

    /// As [`Normal::stored`], but with the largest half-precision number in place of what is beyond it.
    #[inline(always)]
    pub fn stored_capped(&self, scale: f32) -> (f32, F16) {
        let stored = capped_f16(scale * power_of_two(self.exponent));
        (self.in_units(stored), stored)
    }

    /// A stored scale in the units of this block.
    #[inline(always)]
    pub fn in_units(&self, stored: F16) -> f32 {
        stored.to_f32() * power_of_two(-self.exponent)
    }

    /// `Σ importance · weight · value` and `Σ importance · value²` for the values nearest to `weight * inverse`.
    #[inline(always)]
    fn products<G: Grid>(&self, inverse: &Lanes) -> (Lanes, Lanes) {
        let (mut dot, mut power) = ([0.0; LANES], [0.0; LANES]);
        for (&weight, &importance) in self.weights.iter().zip(&self.importance) {
            let (side, weighted) = (G::side(weight), importance * weight);
            let values = G::nearest(side, times(inverse, weight));
            for lane in 0..LANES {
                dot[lane] += weighted * values[lane];
                power[lane] += importance * values[lane] * values[lane];
            }
        }
        (dot, power)
    }

    /// `Σ importance · (weight - scale · value)²` for the nearest values. Scale zero means that all decode to zero.
    #[inline(always)]
    pub fn errors<G: Grid>(&self, scales: &Lanes) -> Lanes {
        let inverse = inverses(scales);
        let mut errors = [0.0; LANES];
        for (&weight, &importance) in self.weights.iter().zip(&self.importance) {
            let side = G::side(weight);
            let values = G::nearest(side, times(&inverse, weight));
            for lane in 0..LANES {
                let error = weight - scales[lane] * values[lane];
                errors[lane] += importance * error * error;
            }
        }
        errors
    }

    /// Scales that are good in their neighbourhood. Every start says what the largest weight becomes in units of the scale;
    /// of the starts in a lane the best is fitted to its own rounding, `refits` times.
    #[inline(always)]
    pub fn search<G: Grid>(&self, starts: &[Lanes], refits: usize) -> Fits {
        let mut best = Fits { scales: [0.0; LANES], gains: [0.0; LANES] };
        for start in starts {
            best.improve(self.products::<G>(&times(start, 1.0 / self.largest)));
        }
        self.refit::<G>(&mut best, refits);
        best
    }

    /// Fits each scale to the rounding that it makes, `refits` times.
    #[inline(always)]
    pub fn refit<G: Grid>(&self, fits: &mut Fits, refits: usize) {
        for _ in 0..refits {
            fits.improve(self.products::<G>(&inverses(&fits.scales)));
        }
    }
}

/// The best scale found in each lane, and by how much it lowers the error below `Σ importance · weight²`.
pub(super) struct Fits {
    pub scales: Lanes,
    pub gains: Lanes,
}

impl Fits {
    /// With the values fixed, `dot / power` is the best scale and lowers the error by `dot² / power`.
    #[inline(always)]
    fn improve(&mut self, (dot, power): (Lanes, Lanes)) {
        for lane in 0..LANES {
            let scale = dot[lane] / power[lane];
            let gain = scale * dot[lane];
            // Not so when all values are zero, which makes the quotient NaN.
            let better = gain > self.gains[lane];
            self.scales[lane] = if better { scale } else { self.scales[lane] };
            self.gains[lane] = if better { gain } else { self.gains[lane] };
        }
    }
}

impl Fits {
    /// The lane with the largest gain, the first one of equals.
    #[inline(always)]
    pub fn best(&self) -> usize {
        let mut best = 0;
        for lane in 1..LANES {
            if self.gains[lane] > self.gains[best] {
                best = lane;
            }
        }
        best
    }
}

/// One over the scale; zero for zero, which makes the weights zero.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// [`inverse`] of all lanes. Loops, not `map`: closures may be left out of the inlining that hot code depends on.
#[inline(always)]
pub(super) fn inverses(scales: &Lanes) -> Lanes {
    let mut inverses = [0.0; LANES];
    for lane in 0..LANES {
        inverses[lane] = inverse(scales[lane]);
    }
    inverses
}

#[inline(always)]
fn times(values: &Lanes, factor: f32) -> Lanes {
    let mut products = [0.0; LANES];
    for lane in 0..LANES {
        products[lane] = values[lane] * factor;
    }
    products
}

/// The lane with the smallest error, the first one of equals; `None` when no error is finite.
#[inline(always)]
pub(super) fn smallest(errors: &Lanes) -> Option<usize> {
    let (mut least, mut found) = (f32::INFINITY, None);
    for (lane, &error) in errors.iter().enumerate() {
        if error < least {
            (least, found) = (error, Some(lane));
        }
    }
    found
}

/// The whole search for formats with one half-precision scale: the stored scale, and it in the units of the block.
///
/// # Errors
/// The index of the largest weight when the scale overflows.
#[inline(always)]
pub(super) fn best_f16_scale<G: Grid, const N: usize>(
    block: &Normal<N>,
    starts: &[Lanes],
    refits: usize,
) -> Result<(f32, F16), usize> {
    let fits = block.search::<G>(starts, refits);
    check_f16(block.stored(block.largest / G::LARGEST).1, block.index)?;
    // A covering scale fits: then a better one that is larger is cut off to what fits.
    let scales = fits.scales.map(|scale| block.stored_capped(scale).0);
    let lane = smallest(&block.errors::<G>(&scales)).ok_or(block.index)?;
    Ok(block.stored_capped(fits.scales[lane]))
}

/// The nearest finite half-precision number.
#[inline(always)]
pub(super) fn capped_f16(value: f32) -> F16 {
    F16::from_f32(at_most(at_least(value, -65_504.0), 65_504.0))
}

/// # Errors
/// `index` when the scale is infinite.
#[inline(always)]
pub(super) fn check_f16(scale: F16, index: usize) -> Result<(), usize> {
    if scale.to_f32().is_finite() { Ok(()) } else { Err(index) }
}

/// `N` evenly spaced starts for each of 16 lanes; neighbours go to different lanes.
pub(super) const fn spread<const N: usize>(from: f32, to: f32) -> [Lanes; N] {
    let mut starts = [[0.0; LANES]; N];
    let mut i = 0;
    while i < N * LANES {
        starts[i / LANES][i % LANES] = from + (to - from) * i as f32 / (N * LANES - 1) as f32;
        i += 1;
    }
    starts
}

/// Weights, importance and errors for the tests of the packers.
#[cfg(test)]
pub(super) mod samples {
    use crate::blocks::Encode;

    /// About normal, with some outliers; the same for the same seed.
    pub fn weights(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n)
            .map(|_| {
                let normal: f32 = (0..6).map(|_| uniform()).sum();
                if uniform() > 0.48 { normal * 0.1 } else { normal * 0.02 }
            })
            .collect()
    }

    /// From 2^-4 to 2^4.
    pub fn importance(n: usize, seed: u64) -> Vec<f32> {
        weights(n, seed).iter().map(|weight| (weight * 60.0).clamp(-4.0, 4.0).exp2()).collect()
    }

    /// The weights as they come back.
    pub fn round_trip<F: Encode>(weights: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
        let mut decoded = vec![0.0; weights.len()];
        let mut bytes = vec![0; F::TYPE.block_bytes()];
        let len = F::TYPE.block_len();
        for (block, at) in weights.chunks_exact(len).zip((0..).step_by(len)) {
            F::encode(block, importance.map(|importance| &importance[at..at + len]), &mut bytes).unwrap();
            F::decode(&bytes, &mut decoded[at..at + len]);
        }
        decoded
    }

    /// `Σ importance · (weight - decoded)²`.
    pub fn error(weights: &[f32], decoded: &[f32], importance: Option<&[f32]>) -> f64 {
        let square = |i: usize| f64::from(weights[i] - decoded[i]).powi(2);
        (0..weights.len()).map(|i| importance.map_or(1.0, |importance| f64::from(importance[i])) * square(i)).sum()
    }

    /// Checks that the search beats `plain`, which needs not round its scales: over all blocks, and up to a little luck in
    /// every single one, with and without importance; and that importance pays.
    pub fn check<F: Encode>(plain: impl Fn(&[f32]) -> Vec<f32>) {
        let len = F::TYPE.block_len();
        let n = 1000 * len;
        let (weights, importance) = (weights(n, 1), importance(n, 2));
        for importance in [None, Some(&importance[..])] {
            let decoded = round_trip::<F>(&weights, importance);
            let mut totals = [0.0; 2];
            for at in (0..n).step_by(len) {
                let range = at..at + len;
                let importance = importance.map(|importance| &importance[range.clone()]);
                let (weights, decoded) = (&weights[range.clone()], &decoded[range]);
                let (found, expected) =
                    (error(weights, decoded, importance), error(weights, &plain(weights), importance));
                assert!(found <= expected * 1.05, "{} block at {at}: {found}, plain {expected}", F::TYPE);
                totals = [totals[0] + found, totals[1] + expected];
            }
            assert!(totals[0] <= 0.95 * totals[1], "{}: {totals:?}", F::TYPE);
        }
        let aware = error(&weights, &round_trip::<F>(&weights, Some(&importance)), Some(&importance));
        let unaware = error(&weights, &round_trip::<F>(&weights, None), Some(&importance));
        assert!(aware < 0.995 * unaware, "{}: importance pays {aware} / {unaware}", F::TYPE);
    }

    /// Checks that weights of this format come back when they are packed again, even if importance differs, but for this
    /// share of their squares.
    pub fn check_again<F: Encode>(share: f64) {
        let n = 200 * F::TYPE.block_len();
        let (weights, columns) = (weights(n, 7), importance(n, 8));
        let once = round_trip::<F>(&weights, None);
        for importance in [None, Some(&columns[..])] {
            let again = round_trip::<F>(&once, importance);
            let (lost, power) = (error(&once, &again, importance), error(&once, &vec![0.0; n], importance));
            assert!(lost <= share * power, "{}: {lost} of {power}", F::TYPE);
        }
    }

    /// The weights rounded to the nearest of these values.
    pub fn to_nearest(weights: &[f32], values: &[f32]) -> Vec<f32> {
        let nearest = |weight: f32| {
            values.iter().copied().min_by(|a, b| (a - weight).abs().total_cmp(&(b - weight).abs())).unwrap()
        };
        weights.iter().map(|&weight| nearest(weight)).collect()
    }

    /// The one of largest magnitude.
    pub fn largest(weights: &[f32]) -> f32 {
        weights.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_the_nearest_whole_number() {
        for i in -2000..2000 {
            let value = i as f32 / 8.0;
            assert_eq!(round(value), value.round_ties_even());
        }
        assert!(round(1e20) >= 1e19 && round(-1e20) <= -1e19);
    }

    #[test]
    fn blocks_become_normal_without_rounding() {
        for largest in [1.0f32, 1.999, 65504.0, f32::MAX, 3e-8, f32::MIN_POSITIVE, 1e-40] {
            let block = Normal::new(&[0.0, -largest, largest / 4.0], None, 0.0).unwrap().unwrap();
            assert_eq!((block.index, block.importance), (1, [1.0; 3]));
            assert!(largest < f32::MIN_POSITIVE || (1.0..2.0).contains(&-block.largest), "{largest}");
            let back = f64::from(block.largest) * 2f64.powi(block.exponent);
            assert_eq!(back, f64::from(-largest));
        }
        assert!(Normal::new(&[1e-9, 0.0], None, TOO_SMALL_FOR_F16).unwrap().is_none());
        assert_eq!(largest_magnitude(&[1.0, f32::NAN, f32::INFINITY]), Err(1));
    }

    /// A refit never loses, and whole multiples of a scale are found exactly.
    #[test]
    fn the_search_finds_a_scale_without_error() {
        let weights: [f32; 32] = std::array::from_fn(|i| (i as f32 * 5.0 % 13.0 - 6.0) * 0.375);
        let block = Normal::new(&weights, None, TOO_SMALL_FOR_F16).unwrap().unwrap();
        let (scale, stored) = best_f16_scale::<Whole<-8, 7>, 32>(&block, &spread::<2>(-5.0, -8.0), 2).unwrap();
        assert_eq!(stored.to_f32().abs(), 0.375);
        assert_eq!(block.errors::<Whole<-8, 7>>(&[scale; LANES]), [0.0; LANES]);
    }
}
