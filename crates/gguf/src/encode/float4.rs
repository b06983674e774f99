//! Packers of the 4-bit float formats.
//!
//! Their scales have few values, so all that can be good are tried: sixteen powers of two, or the stored scales from far
//! below to far above the one that just covers the block.

use super::lanes::{Grid, LANES, Lanes, Normal, at_most, inverse, power_of_two, round, smallest};
use super::legacy::nibbles;
use crate::blocks::{BlockMXFP4, BlockNVFP4, LEGACY_BLOCK_LEN, NVFP4_BLOCK_LEN, NVFP4_UNIT, mxfp4_scale, nvfp4_step};

/// Weights that share a scale of NVFP4.
const SUB_BLOCK: usize = 16;
/// Beyond it, the largest value would be infinite: 12 · 2^124 is the largest weight.
const MXFP4_EXPONENT_MAX: i32 = 252;
/// The largest UE4M3 number is 448.
const NVFP4_SCALE_MAX: u8 = 0x7e;

/// Doubled E2M1 numbers.
struct Float4;

impl Grid for Float4 {
    const LARGEST: f32 = 12.0;
    type Side = ();

    #[inline(always)]
    fn side(_: f32) {}

    /// The steps are 1 to 4, 2 to 8 and 4 to 12.
    #[inline(always)]
    fn nearest((): (), weights: Lanes) -> Lanes {
        let mut values = weights;
        for value in &mut values {
            let magnitude = value.abs();
            let unit = if magnitude < 4.0 { 1.0 } else { 2.0 };
            let unit = if magnitude < 8.0 { unit } else { 4.0 };
            let inverse = if magnitude < 4.0 { 1.0 } else { 0.5 };
            let inverse = if magnitude < 8.0 { inverse } else { 0.25 };
            *value = at_most(round(magnitude * inverse) * unit, Self::LARGEST).copysign(*value);
        }
        values
    }
}

/// The bits of the E2M1 number nearest to half of `weight`; zero has no sign.
#[inline(always)]
fn index(weight: f32) -> u8 {
    let magnitude = weight.abs();
    let mut index = 0;
    for threshold in [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0] {
        index += u8::from(magnitude > threshold);
    }
    if index > 0 && weight < 0.0 { index | 8 } else { index }
}

/// Packs 32 weights with a power of two as scale.
///
/// # Errors
/// The index of a weight that is not finite or is beyond 12 · 2^124.
#[inline(always)]
pub fn quantize_mxfp4(
    weights: &[f32; LEGACY_BLOCK_LEN],
    importance: Option<&[f32; LEGACY_BLOCK_LEN]>,
) -> Result<BlockMXFP4, usize> {
    let Some(block) = Normal::new(weights, importance, mxfp4_scale(0) / 2.0)? else {
        return Ok(BlockMXFP4 { exponent: 0, quants: [0; 16] });
    };
    if weights[block.index].abs() > Float4::LARGEST * mxfp4_scale(MXFP4_EXPONENT_MAX as u8) {
        return Err(block.index);
    }
    let mut exponents = [0; LANES];
    for (lane, exponent) in exponents.iter_mut().enumerate() {
        // Two to the power of `block.exponent - 2` covers every block; most others are for lopsided importance.
        *exponent = (block.exponent + 128 - 10 + lane as i32).clamp(0, MXFP4_EXPONENT_MAX);
    }
    let scales = exponents.map(|exponent| power_of_two(exponent - 128 - block.exponent));
    let lane = smallest(&block.errors::<Float4>(&scales)).ok_or(block.index)?;
    let inverse = inverse(scales[lane]);
    let quants = nibbles(&block.weights.map(|weight| index(weight * inverse)));
    Ok(BlockMXFP4 { exponent: exponents[lane] as u8, quants })
}

/// Packs 64 weights with four UE4M3 scales.
///
/// # Errors
/// The index of a weight that is not finite or is beyond 2688.
#[inline(always)]
pub fn quantize_nvfp4(
    weights: &[f32; NVFP4_BLOCK_LEN],
    importance: Option<&[f32; NVFP4_BLOCK_LEN]>,
) -> Result<BlockNVFP4, usize> {
    let mut packed = BlockNVFP4 { scales: [0; 4], quants: [0; 32] };
    for sub in 0..NVFP4_BLOCK_LEN / SUB_BLOCK {
        let start = SUB_BLOCK * sub;
        let part = |from: &[f32; NVFP4_BLOCK_LEN]| -> [f32; SUB_BLOCK] { std::array::from_fn(|j| from[start + j]) };
        let (scale, quants) =
            nvfp4_sub_block(&part(weights), importance.map(part).as_ref()).map_err(|at| start + at)?;
        packed.scales[sub] = scale;
        for j in 0..SUB_BLOCK / 2 {
            packed.quants[8 * sub + j] = quants[j] | quants[j + 8] << 4;
        }
    }
    Ok(packed)
}

#[inline(always)]
fn nvfp4_sub_block(
    weights: &[f32; SUB_BLOCK],
    importance: Option<&[f32; SUB_BLOCK]>,
) -> Result<(u8, [u8; SUB_BLOCK]), usize> {
    let Some(block) = Normal::new(weights, importance, NVFP4_UNIT / 2.0)? else {
        return Ok((0, [0; SUB_BLOCK]));
    };
    let largest = weights[block.index].abs();
    if largest > Float4::LARGEST * nvfp4_scale(NVFP4_SCALE_MAX) {
        return Err(block.index);
    }
    let covering = i32::from(scale_below(largest / (Float4::LARGEST * NVFP4_UNIT)));
    let unit = power_of_two(-block.exponent);
    let mut best = (f32::INFINITY, 0);
    // Eight scales are a factor of two.
    for first in [covering - 14, covering + 2] {
        let mut stored = [0; LANES];
        for (lane, scale) in stored.iter_mut().enumerate() {
            *scale = (first + lane as i32).clamp(1, i32::from(NVFP4_SCALE_MAX)) as u8;
        }
        let errors = block.errors::<Float4>(&stored.map(|scale| nvfp4_scale(scale) * unit));
        if let Some(lane) = smallest(&errors)
            && errors[lane] < best.0
        {
            best = (errors[lane], stored[lane]);
        }
    }
    let inverse = inverse(nvfp4_scale(best.1) * unit);
    Ok((best.1, block.weights.map(|weight| index(weight * inverse))))
}

#[inline(always)]
fn nvfp4_scale(scale: u8) -> f32 {
    nvfp4_step(scale) as f32 * NVFP4_UNIT
}

/// The stored scale whose step is the largest up to `step`, which is at most 2^18.
#[inline(always)]
fn scale_below(step: f32) -> u8 {
    if step < 8.0 {
        return step as u8;
    }
    // From 8 on, a step is a float with three fraction bits.
    let bits = step.to_bits() >> 20;
    (bits - ((127 + 2) << 3)) as u8
}

#[cfg(test)]
mod tests {
    use super::super::lanes::samples;
    use super::*;
    use crate::blocks::FLOAT4_DOUBLED;

    fn values(scale: f32) -> [f32; 16] {
        FLOAT4_DOUBLED.map(|value| scale * f32::from(value))
    }

    /// Every other exponent near, the one that just covers the largest weight included, has at least this error.
    #[test]
    fn no_power_of_two_is_better() {
        let (weights, importance) = (samples::weights(3200, 1), samples::importance(3200, 2));
        for importance in [None, Some(&importance[..])] {
            let decoded = samples::round_trip::<BlockMXFP4>(&weights, importance);
            for at in (0..weights.len()).step_by(32) {
                let (weights, decoded) = (&weights[at..at + 32], &decoded[at..at + 32]);
                let importance = importance.map(|importance| &importance[at..at + 32]);
                let found = samples::error(weights, decoded, importance);
                for exponent in 100..=150 {
                    let other = samples::to_nearest(weights, &values(mxfp4_scale(exponent)));
                    assert!(
                        found <= 1.00001 * samples::error(weights, &other, importance),
                        "block at {at}: {exponent}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_stored_scale_is_better() {
        let (weights, importance) = (samples::weights(3200, 1), samples::importance(3200, 2));
        for importance in [None, Some(&importance[..])] {
            let decoded = samples::round_trip::<BlockNVFP4>(&weights, importance);
            for at in (0..weights.len()).step_by(16) {
                let (weights, decoded) = (&weights[at..at + 16], &decoded[at..at + 16]);
                let importance = importance.map(|importance| &importance[at..at + 16]);
                let found = samples::error(weights, decoded, importance);
                for scale in 0..=NVFP4_SCALE_MAX {
                    let other = samples::to_nearest(weights, &values(nvfp4_scale(scale)));
                    assert!(found <= 1.00001 * samples::error(weights, &other, importance), "block at {at}: {scale}");
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        let mut weights = [0.0; 64];
        weights[20] = 2688.0;
        weights[21] = -1344.0;
        assert_eq!(samples::round_trip::<BlockNVFP4>(&weights, None), weights);
        weights[20] = 2700.0;
        assert_eq!(quantize_nvfp4(&weights, None).err(), Some(20));
        let large = 12.0 * 2f32.powi(124);
        let mut weights = [0.0; 32];
        (weights[3], weights[4]) = (-large, large / 2.0);
        assert_eq!(samples::round_trip::<BlockMXFP4>(&weights, None), weights);
        weights[3] = f32::MAX;
        assert_eq!(quantize_mxfp4(&weights, None).err(), Some(3));
        let mut weights = [0.0; 32];
        (weights[3], weights[4]) = (2f32.powi(-128), -12.0 * 2f32.powi(-128));
        assert_eq!(samples::round_trip::<BlockMXFP4>(&weights, None), weights);
    }

    #[test]
    fn the_nearest_value_is_the_nearest() {
        for i in -1000..=1000 {
            let weight = i as f32 / 64.0;
            let distance = |value: f32| (value - weight).abs();
            let least = FLOAT4_DOUBLED.iter().map(|&value| distance(f32::from(value))).fold(f32::INFINITY, f32::min);
            assert_eq!(distance(Float4::nearest((), [weight; LANES])[0]), least, "{weight}");
            assert_eq!(distance(f32::from(FLOAT4_DOUBLED[usize::from(index(weight))])), least, "{weight}");
        }
        assert_eq!(index(-0.1), 0, "no minus zero");
    }

    #[test]
    fn every_step_finds_its_scale() {
        for scale in 1..=NVFP4_SCALE_MAX {
            assert_eq!(scale_below(nvfp4_step(scale) as f32), scale);
            assert_eq!(scale_below((nvfp4_step(scale) as f32).next_down()), scale - 1);
        }
    }

    #[test]
    fn packing_again_loses_nothing() {
        samples::check_again::<BlockMXFP4>(0.0);
        samples::check_again::<BlockNVFP4>(0.0);
    }
}
