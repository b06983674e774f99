//! Packers of the formats with a code book.
//!
//! The book is not symmetric, so a scale of either sign may be the better one. The search knows positive scales only and
//! looks at the block and at its mirror image.

use super::lanes::{
    Fits, Grid, LANES, Lanes, Normal, TOO_SMALL_FOR_F16, Whole, check_f16, inverse, largest_magnitude, round, smallest,
    spread,
};
use super::legacy::nibbles;
use crate::blocks::{BlockIQ4NL, BlockIQ4XS, IQ4_VALUES, K_BLOCK_LEN, LEGACY_BLOCK_LEN};
use crate::half::F16;

type Block = Normal<LEGACY_BLOCK_LEN>;

/// The code book, for positive scales: the side of zero of a weight is known before its size, so half of the book is
/// compared with.
struct CodeBook;

/// The values from 1 on to one side.
struct Half {
    /// Magnitudes where the next value becomes the nearest.
    thresholds: [f32; 8],
    /// From one value to the next.
    steps: [f32; 8],
}

/// The place of the value 1 in the book.
const ONE: usize = 8;

/// For weights from zero on, and for negative ones.
static HALVES: [Half; 2] = [half(1), half(-1)];

const fn half(direction: i32) -> Half {
    // The positive side has one value less.
    let mut half = Half { thresholds: [f32::INFINITY; 8], steps: [0.0; 8] };
    let mut i = 0;
    while i < if direction > 0 { 7 } else { 8 } {
        let at = ONE as i32 + direction * i as i32;
        let (value, next) = (IQ4_VALUES[at as usize] as f32, IQ4_VALUES[(at + direction) as usize] as f32);
        half.thresholds[i] = direction as f32 * (value + next) / 2.0;
        half.steps[i] = next - value;
        i += 1;
    }
    half
}

impl Grid for CodeBook {
    const LARGEST: f32 = 127.0;
    type Side = &'static Half;

    #[inline(always)]
    fn side(weight: f32) -> Self::Side {
        &HALVES[usize::from(weight < 0.0)]
    }

    #[inline(always)]
    fn nearest(side: Self::Side, weights: Lanes) -> Lanes {
        let mut values = [f32::from(IQ4_VALUES[ONE]); LANES];
        for i in 0..8 {
            let (threshold, step) = (side.thresholds[i], side.steps[i]);
            for lane in 0..LANES {
                values[lane] += if weights[lane].abs() > threshold { step } else { 0.0 };
            }
        }
        values
    }
}

/// Indices of the nearest values, for weights in units of a scale of either sign.
#[inline(always)]
fn indices(weights: &[f32; LEGACY_BLOCK_LEN], inverse: f32) -> [u8; LEGACY_BLOCK_LEN] {
    weights.map(|weight| {
        let value = weight * inverse;
        let mut index = 0;
        for pair in IQ4_VALUES.windows(2) {
            index += u8::from(value > f32::midpoint(f32::from(pair[0]), f32::from(pair[1])));
        }
        index
    })
}

/// The mirror image.
#[inline(always)]
fn mirrored(block: &Block) -> Block {
    Block { weights: block.weights.map(|weight| -weight), largest: -block.largest, ..*block }
}

/// Good scales, and whether they are for the mirror image.
#[inline(always)]
fn search(block: &Block, refits: usize) -> (Fits, bool) {
    // With the largest magnitude on the longer side of the book, and on the shorter.
    const LONG: [Lanes; 1] = spread(-104.0, -150.0);
    const SHORT: [Lanes; 1] = spread(92.0, 132.0);
    let mirror = mirrored(block);
    let (long, short) = if block.largest < 0.0 { (block, &mirror) } else { (&mirror, block) };
    let (on_long, on_short) = (long.search::<CodeBook>(&LONG, 0), short.search::<CodeBook>(&SHORT, 0));
    let (mut fits, chosen, is_mirror) = if on_long.gains[on_long.best()] >= on_short.gains[on_short.best()] {
        (on_long, long, block.largest >= 0.0)
    } else {
        (on_short, short, block.largest < 0.0)
    };
    chosen.refit::<CodeBook>(&mut fits, refits);
    (fits, is_mirror)
}

/// Packs 32 weights with one scale.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
#[inline(always)]
pub fn quantize_iq4_nl(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<BlockIQ4NL, usize> {
    let Some(block) = Block::new(weights, importance, TOO_SMALL_FOR_F16)? else {
        return Ok(BlockIQ4NL { scale: F16::default(), quants: [0; 16] });
    };
    check_f16(block.stored(block.largest / CodeBook::LARGEST).1, block.index)?;
    let (fits, is_mirror) = search(&block, 2);
    let scales = fits.scales.map(|scale| block.stored(scale).0);
    let errors = if is_mirror { mirrored(&block) } else { block }.errors::<CodeBook>(&scales);
    let lane = smallest(&errors).ok_or(block.index)?;
    let (scale, stored) = block.stored(if is_mirror { -fits.scales[lane] } else { fits.scales[lane] });
    Ok(BlockIQ4NL { scale: stored, quants: nibbles(&indices(&block.weights, inverse(scale))) })
}

/// Packs 256 weights: eight scales of 6 bits and one for them.
///
/// # Errors
/// As [`quantize_iq4_nl`].
#[inline(always)]
pub fn quantize_iq4_xs(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ4XS, usize> {
    const ROUNDS: usize = 2;
    let mut packed = BlockIQ4XS { scale: F16::default(), scales_high: 0, scales_low: [0; 4], quants: [0; 128] };
    let Some(block) = Normal::new(weights, importance, TOO_SMALL_FOR_F16)? else {
        return Ok(packed);
    };
    // 1. The best scale of each sub-block, and what a deviation from it costs.
    let subs: [Block; 8] = std::array::from_fn(|sub| sub_block(&block, sub));
    let (mut wanted, mut costs) = ([0.0; 8], [0.0; 8]);
    for (sub, part) in subs.iter().enumerate() {
        let (fits, is_mirror) = search(part, 1);
        let lane = fits.best();
        let scale = fits.scales[lane];
        wanted[sub] = if is_mirror { -scale } else { scale };
        costs[sub] = if scale == 0.0 { 0.0 } else { fits.gains[lane] / scale / scale };
    }
    // 2. A scale for these scales: the same search, on eight numbers.
    const STARTS: [Lanes; 2] = [spread::<1>(-33.0, -25.0)[0], spread::<1>(32.0, 24.0)[0]];
    let index = largest_magnitude(&wanted).expect("scales within a normal block are finite");
    let scales = Normal {
        weights: wanted,
        importance: costs,
        largest: wanted[index],
        index: block.index,
        exponent: block.exponent,
    };
    let fits = scales.search::<Whole<-32, 31>>(&STARTS, 2);
    let mut unit = fits.scales[fits.best()];
    // 3. With the stored scale, the best steps near the wanted ones; with these, the best scale; and again.
    let mut best = (f32::INFINITY, F16::default(), [0; 8]);
    for _ in 0..ROUNDS {
        let (scale, stored) = block.stored(unit);
        if let Err(index) = check_f16(stored, block.index) {
            // Later rounds only improve on what is there.
            if best.0.is_finite() {
                break;
            }
            return Err(index);
        }
        let (mut error, mut steps, mut dot, mut power) = (0.0, [0; 8], 0.0, 0.0);
        for (sub, part) in subs.iter().enumerate() {
            let (step, sub_error) = best_step(part, scale, wanted[sub]);
            error += sub_error;
            steps[sub] = step;
            let (sub_dot, sub_power) = fixed_products(part, scale * step as f32);
            dot += step as f32 * sub_dot;
            power += (step * step) as f32 * sub_power;
        }
        if error < best.0 {
            best = (error, stored, steps);
        }
        unit = if power > 0.0 { dot / power } else { 0.0 };
    }
    let (_, stored, steps) = best;
    packed.scale = stored;
    let scale = block.in_units(stored);
    for (sub, part) in subs.iter().enumerate() {
        let quants = indices(&part.weights, inverse(scale * steps[sub] as f32));
        packed.quants[16 * sub..16 * (sub + 1)].copy_from_slice(&nibbles(&quants));
        let step = (steps[sub] + 32) as u8;
        packed.scales_low[sub / 2] |= (step & 15) << (4 * (sub % 2));
        packed.scales_high |= u16::from(step >> 4) << (2 * sub);
    }
    Ok(packed)
}

/// Thirty-two weights of a super-block, in its units.
#[inline(always)]
fn sub_block(block: &Normal<K_BLOCK_LEN>, sub: usize) -> Block {
    let weights: [f32; 32] = std::array::from_fn(|j| block.weights[32 * sub + j]);
    let importance = std::array::from_fn(|j| block.importance[32 * sub + j]);
    let index = largest_magnitude(&weights).expect("a normal block is finite");
    Block { weights, importance, largest: weights[index], index, exponent: block.exponent }
}

/// The best of sixteen steps around `wanted / scale`, all of its sign, and the error with it.
#[inline(always)]
fn best_step(part: &Block, scale: f32, wanted: f32) -> (i32, f32) {
    // Steps end at 32; the bound, eight beyond, keeps whole numbers far from overflow however small the scale is.
    let middle = round(wanted * inverse(scale)).clamp(-40.0, 39.0) as i32;
    let (low, high) = if middle < 0 { (-32, 0) } else { (0, 31) };
    let is_mirror = (middle < 0) != (scale < 0.0);
    let (mut steps, mut scales) = ([0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        steps[lane] = (middle + lane as i32 - LANES as i32 / 2).clamp(low, high);
        scales[lane] = (scale * steps[lane] as f32).abs();
    }
    let errors = if is_mirror { mirrored(part) } else { *part }.errors::<CodeBook>(&scales);
    let lane = smallest(&errors).unwrap_or(0);
    (steps[lane], errors[lane])
}

/// `Σ importance · weight · value` and `Σ importance · value²` for one scale of either sign.
#[inline(always)]
fn fixed_products(part: &Block, scale: f32) -> (f32, f32) {
    let (mut dot, mut power) = ([0.0; LANES], [0.0; LANES]);
    let inverse = inverse(scale);
    for start in [0, LANES] {
        for lane in 0..LANES {
            let (weight, importance) = (part.weights[start + lane], part.importance[start + lane]);
            let scaled = weight * inverse;
            let mut value = f32::from(IQ4_VALUES[0]);
            for pair in IQ4_VALUES.windows(2) {
                let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
                value += if scaled > f32::midpoint(low, high) { high - low } else { 0.0 };
            }
            dot[lane] += importance * weight * value;
            power[lane] += importance * value * value;
        }
    }
    (dot.iter().sum(), power.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::super::lanes::samples;
    use super::*;

    #[test]
    fn the_nearest_value_is_the_nearest() {
        for i in -1200..=1200 {
            let weight = i as f32 / 8.0;
            let distance = |value: f32| (value - weight).abs();
            let least = IQ4_VALUES.iter().map(|&value| distance(f32::from(value))).fold(f32::INFINITY, f32::min);
            let found = CodeBook::nearest(CodeBook::side(weight), [weight; LANES]);
            assert_eq!(found.map(distance), [least; LANES], "{weight}");
            let index = indices(&[weight; 32], 1.0)[31];
            assert_eq!(distance(f32::from(IQ4_VALUES[usize::from(index)])), least, "{weight}");
        }
    }

    /// The largest weight becomes the end of the book, whichever side it is on.
    #[test]
    fn never_worse_than_the_scale_that_covers_the_block() {
        let plain = |weights: &[f32]| {
            let scale = samples::largest(weights) / -127.0;
            samples::to_nearest(weights, &IQ4_VALUES.map(|value| scale * f32::from(value)))
        };
        samples::check::<BlockIQ4NL>(plain);
        samples::check::<BlockIQ4XS>(|weights| {
            // As IQ4_NL, each scale then to a whole number of 32nds of the largest: the format's own plain way.
            let scales: Vec<f32> = weights.chunks(32).map(|part| samples::largest(part) / -127.0).collect();
            let unit = samples::largest(&scales) / -32.0;
            let step = |scale: f32| unit * (scale / unit).round().clamp(-32.0, 31.0);
            let parts = weights.chunks(32).zip(&scales);
            parts
                .flat_map(|(part, &scale)| {
                    samples::to_nearest(part, &IQ4_VALUES.map(|value| step(scale) * f32::from(value)))
                })
                .collect()
        });
    }

    #[test]
    fn steps_end_where_the_format_does() {
        let weights: [f32; 32] = std::array::from_fn(|i| f32::from(IQ4_VALUES[i % 16]));
        let part = Block::new(&weights, None, 0.0).unwrap().unwrap();
        for scale in [1e-3, 1e-12, 1e-30] {
            assert_eq!([best_step(&part, scale, 1.0).0, best_step(&part, scale, -1.0).0], [31, -32], "{scale}");
        }
    }

    #[test]
    fn weights_on_the_book_come_back() {
        // Steps 16, -32 and 8 of a scale of 1/256: the longer side of their range is the negative one.
        let step = |sub: usize| [0.0625, -0.125, 0.03125][sub % 3];
        let weights: [f32; 256] = std::array::from_fn(|i| step(i / 32) * f32::from(IQ4_VALUES[i % 16]));
        assert_eq!(samples::round_trip::<BlockIQ4NL>(&weights, None), weights);
        assert_eq!(samples::round_trip::<BlockIQ4XS>(&weights, None), weights);
    }

    #[test]
    fn packing_again_loses_nothing() {
        samples::check_again::<BlockIQ4NL>(0.0);
        samples::check_again::<BlockIQ4XS>(2e-5);
    }
}
