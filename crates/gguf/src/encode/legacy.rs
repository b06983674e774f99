//! Packers of the older formats.
//!
//! With one scale the candidates are scales; with a minimum besides, they are cut-off ranges, whose scale and minimum are
//! then fitted to their rounding by weighted least squares, in turns with the rounding.

use super::lanes::{
    LANES, Lanes, Normal, TOO_SMALL_FOR_F16, Whole, at_least, at_most, best_f16_scale, capped_f16, inverse, inverses,
    power_of_two, round, smallest, spread,
};
use crate::blocks::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, LEGACY_BLOCK_LEN};
use crate::half::F16;

type Block = Normal<LEGACY_BLOCK_LEN>;

/// Packs 32 weights to -127 … 127.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
#[inline(always)]
pub fn quantize_q8_0(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<BlockQ8_0, usize> {
    // Each step that the largest weight loses makes the others a little coarser, and turns the dice once more.
    const STARTS: [Lanes; 4] = spread(108.0, 127.4);
    let (scale, quants) = symmetric::<-127, 127>(weights, importance, &STARTS, 1)?;
    Ok(BlockQ8_0 { scale, quants })
}

/// Packs 32 weights to -8 … 7 with a scale of either sign.
///
/// # Errors
/// As [`quantize_q8_0`].
#[inline(always)]
pub fn quantize_q4_0(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<BlockQ4_0, usize> {
    const STARTS: [Lanes; 4] = both_signs([(-9.0, -6.0), (8.0, 5.5)], [(-12.0, -5.0), (11.0, 4.5)]);
    let (scale, quants) = symmetric::<-8, 7>(weights, importance, &STARTS, 2)?;
    Ok(BlockQ4_0 { scale, quants: nibbles(&quants.map(|quant| (quant + 8) as u8)) })
}

/// Packs 32 weights to -16 … 15 with a scale of either sign.
///
/// # Errors
/// As [`quantize_q8_0`].
#[inline(always)]
pub fn quantize_q5_0(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<BlockQ5_0, usize> {
    const STARTS: [Lanes; 4] = both_signs([(-17.0, -13.0), (16.0, 12.0)], [(-20.0, -11.0), (19.0, 10.0)]);
    let (scale, quants) = symmetric::<-16, 15>(weights, importance, &STARTS, 2)?;
    let quants = quants.map(|quant| (quant + 16) as u8);
    Ok(BlockQ5_0 { scale, high_bits: fifth_bits(&quants), quants: nibbles(&quants) })
}

/// Packs 32 weights to a minimum plus 0 … 15 times a scale.
///
/// # Errors
/// As [`quantize_q8_0`].
#[inline(always)]
pub fn quantize_q4_1(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<BlockQ4_1, usize> {
    let (scale, min, quants) = affine::<15>(weights, importance)?;
    Ok(BlockQ4_1 { scale, min, quants: nibbles(&quants) })
}

/// Packs 32 weights to a minimum plus 0 … 31 times a scale.
///
/// # Errors
/// As [`quantize_q8_0`].
#[inline(always)]
pub fn quantize_q5_1(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<BlockQ5_1, usize> {
    let (scale, min, quants) = affine::<31>(weights, importance)?;
    Ok(BlockQ5_1 { scale, min, high_bits: fifth_bits(&quants), quants: nibbles(&quants) })
}

/// Two numbers of 4 bits a byte: `j` and `j + 16`. Higher bits are left out.
#[inline(always)]
pub(super) fn nibbles(quants: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| quants[j] & 15 | quants[j + 16] << 4)
}

/// Bit 4 of every number.
#[inline(always)]
fn fifth_bits(quants: &[u8; 32]) -> [u8; 4] {
    std::array::from_fn(|byte| (0..8).fold(0, |bits, i| bits | (quants[8 * byte + i] >> 4 & 1) << i))
}

/// Starts of which the even lanes take the first range of a pair and the odd lanes the second.
const fn both_signs<const N: usize>(narrow: [(f32, f32); 2], wide: [(f32, f32); 2]) -> [Lanes; N] {
    let mut starts = [[0.0; LANES]; N];
    let mut i = 0;
    while i < N * LANES {
        let ranges = if (i / LANES).is_multiple_of(2) { narrow } else { wide };
        let (from, to) = ranges[i % 2];
        let at = (i % LANES / 2 + i / LANES / 2 * (LANES / 2)) as f32 / (N * LANES / 4 - 1) as f32;
        starts[i / LANES][i % LANES] = from + (to - from) * at;
        i += 1;
    }
    starts
}

/// Scale and quants of a format without minimum.
#[inline(always)]
fn symmetric<const LOW: i32, const HIGH: i32>(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
    starts: &[Lanes],
    refits: usize,
) -> Result<(F16, [i8; LEGACY_BLOCK_LEN]), usize> {
    let Some(block) = Block::new(weights, importance, TOO_SMALL_FOR_F16)? else {
        return Ok((F16::default(), [0; LEGACY_BLOCK_LEN]));
    };
    let (scale, stored) = best_f16_scale::<Whole<LOW, HIGH>, LEGACY_BLOCK_LEN>(&block, starts, refits)?;
    let inverse = inverse(scale);
    let quants =
        block.weights.map(|weight| at_most(at_least(round(weight * inverse), LOW as f32), HIGH as f32) as i32 as i8);
    Ok((stored, quants))
}

/// Scale, minimum and quants of a format with levels 0 to `HIGH`.
#[inline(always)]
fn affine<const HIGH: i32>(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<(F16, F16, [u8; LEGACY_BLOCK_LEN]), usize> {
    let Some(block) = Block::new(weights, importance, TOO_SMALL_FOR_F16)? else {
        return Ok((F16::default(), F16::default(), [0; LEGACY_BLOCK_LEN]));
    };
    let (scale, min) = Ranges::search::<HIGH>(&block);
    let factor = power_of_two(block.exponent);
    let overflows = |values: [f32; 2]| values.iter().any(|value| F16::from_f32(value * factor).to_f32().is_infinite());
    if overflows([scale, min]) {
        let (low, high) = ends(&block.weights);
        if overflows([(high - low) / HIGH as f32, low]) {
            return Err(block.index);
        }
    }
    let (scale, min) = (capped_f16(scale * factor), capped_f16(min * factor));

    // Rounding to half precision may move the minimum by more than is good for the scale, and the other way round: of the
    // neighbours of both, three scales and five minimums, the best pair. Or zeros.
    let mut best = Best { error: f32::INFINITY, scale: F16::default(), min: F16::default() };
    best.improve::<HIGH>(&block, |lane| {
        if lane < 15 {
            (neighbour(scale, lane as i32 % 3 - 1), neighbour(min, lane as i32 / 3 - 2))
        } else {
            (F16::default(), F16::default())
        }
    });
    if let Some(only) = dominant(&block.importance) {
        best.improve_around::<HIGH>(&block, only, scale, min);
    }
    let min = block.in_units(best.min);
    let inverse = inverse(block.in_units(best.scale));
    let quants =
        block.weights.map(|weight| at_most(at_least(round((weight - min) * inverse), 0.0), HIGH as f32) as i32 as u8);
    Ok((best.scale, best.min, quants))
}

/// The smallest and the largest weight.
#[inline(always)]
fn ends(weights: &[f32; LEGACY_BLOCK_LEN]) -> (f32, f32) {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for &weight in weights {
        low = at_most(weight, low);
        high = at_least(weight, high);
    }
    (low, high)
}

/// The column that is more important than all others together.
#[inline(always)]
fn dominant(importance: &[f32; LEGACY_BLOCK_LEN]) -> Option<usize> {
    let (mut largest, mut total) = (0, 0.0);
    for (i, &value) in importance.iter().enumerate() {
        total += value;
        if value > importance[largest] {
            largest = i;
        }
    }
    (2.0 * importance[largest] > total).then_some(largest)
}

/// The best stored scale and minimum so far.
struct Best {
    error: f32,
    scale: F16,
    min: F16,
}

impl Best {
    /// Takes the best of these pairs if it is better.
    #[inline(always)]
    fn improve<const HIGH: i32>(&mut self, block: &Block, pair: impl Fn(usize) -> (F16, F16)) {
        let (mut scales, mut mins) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            let (scale, min) = pair(lane);
            (scales[lane], mins[lane]) = (block.in_units(scale), block.in_units(min));
        }
        let errors = affine_errors::<HIGH>(block, &scales, &mins);
        if let Some(lane) = smallest(&errors)
            && errors[lane] < self.error
        {
            self.error = errors[lane];
            (self.scale, self.min) = pair(lane);
        }
    }

    /// Where nearly only the weight `only` matters, it is the digits of half precision that count: pairs that meet it.
    #[inline(never)]
    fn improve_around<const HIGH: i32>(&mut self, block: &Block, only: usize, scale: F16, min: F16) {
        let factor = power_of_two(block.exponent);
        let weight = block.weights[only];
        // With a scale nearby, the minimum that is left for this weight. Multiples of scales that end in zeros, of which
        // lanes 8 to 15 are, need no rounding.
        self.improve::<HIGH>(block, |lane| {
            let steps = lane as i32 % 8 - 4;
            let scale = if lane < 8 { neighbour(scale, steps) } else { neighbour(F16(scale.0 & !31), 32 * steps) };
            let step = block.in_units(scale);
            let quant = round((weight - block.in_units(min)) * inverse(step));
            (scale, capped_f16((weight - step * at_most(at_least(quant, 0.0), HIGH as f32)) * factor))
        });
        // This weight as the minimum, and what is above or below it in steps.
        let (low, high) = ends(&block.weights);
        self.improve::<HIGH>(block, |lane| {
            let range = if lane < 8 { high - weight } else { low - weight };
            let share = (lane % 8 + 1) as f32 / (8 * HIGH) as f32;
            (capped_f16(range * share * factor), capped_f16(weight * factor))
        });
    }
}

/// The half-precision number `steps` away in magnitude; not beyond zero or the largest.
#[inline(always)]
fn neighbour(value: F16, steps: i32) -> F16 {
    let magnitude = (i32::from(value.0 & 0x7fff) + steps).clamp(0, 0x7bff);
    F16(value.0 & 0x8000 | magnitude as u16)
}

#[inline(always)]
fn affine_errors<const HIGH: i32>(block: &Block, scales: &Lanes, mins: &Lanes) -> Lanes {
    let inverse = inverses(scales);
    let mut errors = [0.0; LANES];
    for (&weight, &importance) in block.weights.iter().zip(&block.importance) {
        for lane in 0..LANES {
            let quant = at_most(at_least(round((weight - mins[lane]) * inverse[lane]), 0.0), HIGH as f32);
            let error = weight - (quant * scales[lane] + mins[lane]);
            errors[lane] += importance * error * error;
        }
    }
    errors
}

/// Candidates of an affine format.
#[derive(Clone, Copy)]
struct Ranges {
    scales: Lanes,
    mins: Lanes,
}

impl Ranges {
    /// Scale and minimum with the smallest error found, in the units of the block.
    #[inline(always)]
    fn search<const HIGH: i32>(block: &Block) -> (f32, f32) {
        // How many steps of the range are cut off below and above: all pairs of four numbers, twice. A range
        // one step short, with its middle on a level, suits weights of three values.
        const CUTS: [[f32; 4]; 2] = [[-0.53, 0.3, 0.9, 1.8], [0.0, 0.6, 1.3, 2.6]];
        const REFITS: usize = 3;
        // Around their mean, so that a large common part costs no digits in the sums.
        let (mut total, mut sum) = (0.0, 0.0);
        for (weight, importance) in block.weights.iter().zip(&block.importance) {
            total += importance;
            sum += importance * weight;
        }
        let mean = sum / total;
        let mut centred = *block;
        centred.weights = block.weights.map(|weight| weight - mean);
        let (low, high) = ends(&centred.weights);
        let range = high - low;
        let mut best = Self { scales: [0.0; LANES], mins: [0.0; LANES] };
        let mut gains = [0.0; LANES];
        for cuts in CUTS {
            let mut ranges = Self { scales: [0.0; LANES], mins: [0.0; LANES] };
            for lane in 0..LANES {
                let (below, above) = (cuts[lane % 4] / HIGH as f32, cuts[lane / 4] / HIGH as f32);
                ranges.scales[lane] = range * (1.0 - below - above) / HIGH as f32;
                ranges.mins[lane] = low + range * below;
            }
            best.improve::<HIGH>(&ranges, &centred, total, &mut gains);
        }
        for _ in 0..REFITS {
            let ranges = best;
            best.improve::<HIGH>(&ranges, &centred, total, &mut gains);
        }
        let mut chosen = 0;
        for lane in 1..LANES {
            if gains[lane] > gains[chosen] {
                chosen = lane;
            }
        }
        (best.scales[chosen], best.mins[chosen] + mean)
    }

    /// Where the least-squares scale and minimum for the rounding of `ranges` lower the error more than what is there,
    /// takes them. Gains are below `Σ importance · weight²`.
    #[inline(always)]
    fn improve<const HIGH: i32>(&mut self, ranges: &Self, block: &Block, total: f32, gains: &mut Lanes) {
        let inverse = inverses(&ranges.scales);
        // Quants are counted from the one nearest to the mean: where one weight is nearly all that matters, it is the mean,
        // counts as zero, and the determinant below is no difference of large numbers.
        let (mut origins, mut lows, mut highs) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            lows[lane] = -at_most(at_least(round(-ranges.mins[lane] * inverse[lane]), 0.0), HIGH as f32);
            highs[lane] = HIGH as f32 + lows[lane];
            origins[lane] = ranges.mins[lane] - lows[lane] * ranges.scales[lane];
        }
        let (mut ones, mut squares, mut dot) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (&weight, &importance) in block.weights.iter().zip(&block.importance) {
            let weighted = importance * weight;
            for lane in 0..LANES {
                let quant = at_most(at_least(round((weight - origins[lane]) * inverse[lane]), lows[lane]), highs[lane]);
                let part = importance * quant;
                ones[lane] += part;
                squares[lane] += part * quant;
                dot[lane] += weighted * quant;
            }
        }
        // The weights are centred: their weighted sum is zero but for rounding.
        for lane in 0..LANES {
            let determinant = total * squares[lane] - ones[lane] * ones[lane];
            let scale = total * dot[lane] / determinant;
            let gain = scale * dot[lane];
            // Not so when all quants are the same, which makes the quotient NaN or infinite.
            let better = determinant > 0.0 && gain > gains[lane];
            gains[lane] = if better { gain } else { gains[lane] };
            self.scales[lane] = if better { scale } else { self.scales[lane] };
            self.mins[lane] = if better { scale * (lows[lane] - ones[lane] / total) } else { self.mins[lane] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::samples;
    use super::*;
    use crate::blocks::Encode;

    fn scaled(scale: f32, values: std::ops::RangeInclusive<i32>) -> Vec<f32> {
        values.map(|value| scale * value as f32).collect()
    }

    /// The usual recipe: the largest weight becomes the end of the range.
    #[test]
    fn never_worse_than_the_scale_that_covers_the_block() {
        fn plain(end: f32, levels: std::ops::RangeInclusive<i32>) -> impl Fn(&[f32]) -> Vec<f32> {
            move |weights| samples::to_nearest(weights, &scaled(samples::largest(weights) / end, levels.clone()))
        }
        samples::check::<BlockQ8_0>(plain(127.0, -127..=127));
        samples::check::<BlockQ4_0>(plain(-8.0, -8..=7));
        samples::check::<BlockQ5_0>(plain(-16.0, -16..=15));
    }

    #[test]
    fn never_worse_than_the_range_of_the_block() {
        fn plain(levels: i32) -> impl Fn(&[f32]) -> Vec<f32> {
            move |weights| {
                let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
                let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let values = scaled((high - low) / levels as f32, 0..=levels);
                samples::to_nearest(weights, &values.iter().map(|value| value + low).collect::<Vec<_>>())
            }
        }
        samples::check::<BlockQ4_1>(plain(15));
        samples::check::<BlockQ5_1>(plain(31));
    }

    /// The minimum is free: numbers far from zero are as good as those around it, up to the digits of half precision.
    #[test]
    fn a_common_part_costs_nothing() {
        let weights = samples::weights(3200, 5);
        for (offset, allowed) in [(0.0, 1.001), (0.05, 1.02), (-0.05, 1.02)] {
            let moved: Vec<f32> = weights.iter().map(|weight| weight + offset).collect();
            let error =
                |weights: &[f32]| samples::error(weights, &samples::round_trip::<BlockQ5_1>(weights, None), None);
            assert!(error(&moved) <= allowed * error(&weights), "{offset}");
        }
        assert_eq!(samples::round_trip::<BlockQ4_1>(&[0.75; 32], None), [0.75; 32]);
        assert_eq!(samples::round_trip::<BlockQ5_1>(&[-3.0; 32], None), [-3.0; 32]);
    }

    /// One column is all that matters, and then some of the others do.
    #[test]
    fn a_dominant_column_is_met() {
        fn check<F: Encode>() {
            let weights = samples::weights(3200, 6);
            let mut importance = vec![1e-4; weights.len()];
            for (at, important) in importance.iter_mut().enumerate().filter(|(at, _)| at % 32 == at / 32 % 32) {
                *important = if at < 1600 { 32.0 } else { 0.01 };
            }
            let decoded = samples::round_trip::<F>(&weights, Some(&importance));
            for at in (0..weights.len()).step_by(32) {
                let (weights, decoded) = (&weights[at..at + 32], &decoded[at..at + 32]);
                let importance = Some(&importance[at..at + 32]);
                let (found, zeros) =
                    (samples::error(weights, decoded, importance), samples::error(weights, &[0.0; 32], importance));
                assert!(found <= zeros, "{} block at {at}: {found}, zeros {zeros}", F::TYPE);
            }
            let equal = samples::error(&weights, &samples::round_trip::<F>(&weights, None), Some(&importance));
            let found = samples::error(&weights, &decoded, Some(&importance));
            assert!(found < 0.05 * equal, "{}: {found}, without importance {equal}", F::TYPE);
        }
        check::<BlockQ4_1>();
        check::<BlockQ5_1>();
    }

    /// -128 would double the range of sums in integer kernels.
    #[test]
    fn q8_0_uses_a_symmetric_range() {
        for weights in samples::weights(32_000, 9).as_chunks().0 {
            assert!(quantize_q8_0(weights, None).unwrap().quants.iter().all(|&quant| quant > -128));
        }
    }

    #[test]
    fn scales_beyond_half_precision_are_refused() {
        let mut weights = [1.0; 32];
        weights[7] = -600_000.0;
        assert_eq!(quantize_q4_0(&weights, None).err(), Some(7));
        assert!(quantize_q8_0(&weights, None).is_ok(), "-600,000 / 127 fits");
        assert_eq!(quantize_q4_1(&weights, None).err(), Some(7));
    }

    #[test]
    fn packing_again_loses_nothing() {
        samples::check_again::<BlockQ4_0>(0.0);
        samples::check_again::<BlockQ4_1>(1e-7);
        samples::check_again::<BlockQ5_0>(0.0);
        samples::check_again::<BlockQ5_1>(1e-5);
        samples::check_again::<BlockQ8_0>(0.0);
    }
}
