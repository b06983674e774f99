//! Packers of one and two bits a weight.

use super::lanes::{LANES, Lanes, Normal, TOO_SMALL_FOR_F16, Whole, at_least, at_most, best_f16_scale, check_f16};
use super::lanes::{inverse, round, spread};
use crate::blocks::{BlockQ1_0, BlockQ2_0, Q1_0_BLOCK_LEN, Q2_0_BLOCK_LEN};
use crate::half::F16;

/// Packs the signs of 128 weights; the best scale is the mean magnitude.
///
/// # Errors
/// The index of a weight that is not finite, or of the largest when the mean does not fit half precision.
#[inline(always)]
pub fn quantize_q1_0(
    weights: &[f32; Q1_0_BLOCK_LEN],
    importance: Option<&[f32; Q1_0_BLOCK_LEN]>,
) -> Result<BlockQ1_0, usize> {
    let Some(block) = Normal::new(weights, importance, TOO_SMALL_FOR_F16)? else {
        return Ok(BlockQ1_0 { scale: F16::default(), quants: [0; 16] });
    };
    let (mut sum, mut total) = ([0.0; LANES], [0.0; LANES]);
    for start in (0..Q1_0_BLOCK_LEN).step_by(LANES) {
        for lane in 0..LANES {
            sum[lane] += block.importance[start + lane] * block.weights[start + lane].abs();
            total[lane] += block.importance[start + lane];
        }
    }
    let (_, stored) = block.stored(sum.iter().sum::<f32>() / total.iter().sum::<f32>());
    check_f16(stored, block.index)?;
    let quants =
        std::array::from_fn(|byte| (0..8).fold(0, |bits, i| bits | u8::from(block.weights[8 * byte + i] >= 0.0) << i));
    Ok(BlockQ1_0 { scale: stored, quants })
}

/// Packs 64 weights to -1, 0, 1 and 2 times a scale of either sign.
///
/// # Errors
/// As [`quantize_q1_0`].
#[inline(always)]
pub fn quantize_q2_0(
    weights: &[f32; Q2_0_BLOCK_LEN],
    importance: Option<&[f32; Q2_0_BLOCK_LEN]>,
) -> Result<BlockQ2_0, usize> {
    const STARTS: [Lanes; 2] = [spread::<1>(1.0, 4.0)[0], spread::<1>(-0.8, -4.0)[0]];
    let Some(block) = Normal::new(weights, importance, TOO_SMALL_FOR_F16)? else {
        return Ok(BlockQ2_0 { scale: F16::default(), quants: [0b0101_0101; 16] });
    };
    let (scale, stored) = best_f16_scale::<Whole<-1, 2>, Q2_0_BLOCK_LEN>(&block, &STARTS, 3)?;
    let inverse = inverse(scale);
    let quant = |i: usize| (at_most(at_least(round(block.weights[i] * inverse), -1.0), 2.0) as i32 + 1) as u8;
    let quants = std::array::from_fn(|byte| (0..4).fold(0, |bits, i| bits | quant(4 * byte + i) << (2 * i)));
    Ok(BlockQ2_0 { scale: stored, quants })
}

#[cfg(test)]
mod tests {
    use super::super::lanes::samples;
    use super::*;

    /// The mean magnitude is the best scale: no other on a fine grid is better.
    #[test]
    fn no_scale_of_signs_is_better() {
        let (weights, importance) = (samples::weights(128 * 20, 3), samples::importance(128 * 20, 4));
        for importance in [None, Some(&importance[..])] {
            let decoded = samples::round_trip::<BlockQ1_0>(&weights, importance);
            for at in (0..weights.len()).step_by(128) {
                let (weights, decoded) = (&weights[at..at + 128], &decoded[at..at + 128]);
                let importance = importance.map(|importance| &importance[at..at + 128]);
                let found = samples::error(weights, decoded, importance);
                for i in 0..500 {
                    let scale = samples::largest(weights).abs() * i as f32 / 500.0;
                    let other = samples::to_nearest(weights, &[-scale, scale]);
                    assert!(found <= 1.00001 * samples::error(weights, &other, importance), "block at {at}: {scale}");
                }
            }
        }
    }

    /// Neither than the largest magnitude as scale, nor than half of it on the longer side.
    #[test]
    fn q2_0_is_never_worse_than_a_scale_that_covers_the_block() {
        let values = |scale: f32| [-scale, 0.0, scale, 2.0 * scale];
        samples::check::<BlockQ2_0>(|weights| samples::to_nearest(weights, &values(samples::largest(weights).abs())));
        samples::check::<BlockQ2_0>(|weights| samples::to_nearest(weights, &values(samples::largest(weights) / 2.0)));
    }

    #[test]
    fn weights_trained_for_the_formats_come_back() {
        let signs: Vec<f32> = (0..256).map(|i| if i * i / 5 % 2 == 0 { 0.375 } else { -0.375 }).collect();
        assert_eq!(samples::round_trip::<BlockQ1_0>(&signs, None), signs);
        let ternary: Vec<f32> = (0..256).map(|i| 0.375 * ((i * i / 7 + i) % 3 - 1) as f32).collect();
        assert_eq!(samples::round_trip::<BlockQ2_0>(&ternary, None), ternary);
        let four: Vec<f32> = (0..256).map(|i| -0.375 * ((i * i / 7 + i) % 4 - 1) as f32).collect();
        assert_eq!(samples::round_trip::<BlockQ2_0>(&four, None), four);
    }

    #[test]
    fn packing_again_loses_nothing() {
        samples::check_again::<BlockQ1_0>(0.0);
        samples::check_again::<BlockQ2_0>(0.0);
    }
}
