//! Packers of the ternary formats.
//!
//! For a given scale, the weights beyond half of it are not zero, whatever their importance. So the best scale belongs to a
//! run of the weights sorted by magnitude, and all 256 runs are tried.

use super::lanes::{Normal, TOO_SMALL_FOR_F16, check_f16};
use crate::blocks::{BlockTQ1_0, BlockTQ2_0, K_BLOCK_LEN};
use crate::half::F16;

/// Packs 256 weights, five to a byte.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
#[inline(always)]
pub fn quantize_tq1_0(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockTQ1_0, usize> {
    let (scale, digits) = ternary(weights, importance)?;
    let mut block = BlockTQ1_0 { quants: [0; 48], last: [0; 4], scale };
    let (first, second) = block.quants.split_at_mut(32);
    pack_digits(&digits[..160], first);
    pack_digits(&digits[160..240], second);
    pack_digits(&digits[240..], &mut block.last);
    Ok(block)
}

/// Packs 256 weights, four to a byte.
///
/// # Errors
/// As [`quantize_tq1_0`].
#[inline(always)]
pub fn quantize_tq2_0(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockTQ2_0, usize> {
    let (scale, digits) = ternary(weights, importance)?;
    let quants = std::array::from_fn(|at| {
        let digit = |i: usize| digits[at / 32 * 128 + 32 * i + at % 32] << (2 * i);
        digit(0) | digit(1) | digit(2) | digit(3)
    });
    Ok(BlockTQ2_0 { quants, scale })
}

/// Packs the digits of a byte as a fraction in base 3, in units of 1/256 and rounded up, so that multiplying by three
/// brings them back. The first digits of all bytes come first; a missing fifth digit is zero.
#[inline(always)]
fn pack_digits(digits: &[u8], bytes: &mut [u8]) {
    let n = bytes.len();
    for (at, byte) in bytes.iter_mut().enumerate() {
        let number = (0..5).fold(0, |number, i| number * 3 + u16::from(*digits.get(i * n + at).unwrap_or(&0)));
        *byte = (number * 256).div_ceil(243) as u8;
    }
}

/// The scale, and 0, 1 or 2 for minus the scale, zero and the scale.
#[inline(always)]
fn ternary(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<(F16, [u8; K_BLOCK_LEN]), usize> {
    let Some(block) = Normal::new(weights, importance, TOO_SMALL_FOR_F16)? else {
        return Ok((F16::default(), [1; K_BLOCK_LEN]));
    };
    // Largest first. Magnitudes have the order of their bits; the index makes all keys different.
    let mut keys: [u64; K_BLOCK_LEN] =
        std::array::from_fn(|i| u64::from(!(block.weights[i].to_bits() & 0x7fff_ffff)) << 32 | i as u64);
    keys.sort_unstable();
    let (mut dot, mut power, mut best_gain, mut best_scale) = (0.0, 0.0, 0.0, 0.0);
    for key in keys {
        let i = key as u32 as usize;
        dot += block.importance[i] * block.weights[i].abs();
        power += block.importance[i];
        let scale = dot / power;
        if scale * dot > best_gain {
            (best_gain, best_scale) = (scale * dot, scale);
        }
    }
    let (scale, stored) = block.stored(best_scale);
    check_f16(stored, block.index)?;
    let half = scale / 2.0;
    Ok((stored, block.weights.map(|weight| 1 + u8::from(weight > half) - u8::from(weight < -half))))
}

#[cfg(test)]
mod tests {
    use super::super::lanes::samples;
    use super::*;

    /// The search is exact but for the rounding of the scale: no scale on a fine grid is better.
    #[test]
    fn no_scale_is_better() {
        let (weights, importance) = (samples::weights(256 * 20, 3), samples::importance(256 * 20, 4));
        for importance in [None, Some(&importance[..])] {
            let decoded = samples::round_trip::<BlockTQ2_0>(&weights, importance);
            assert_eq!(samples::round_trip::<BlockTQ1_0>(&weights, importance), decoded, "one search, two packings");
            for at in (0..weights.len()).step_by(256) {
                let (weights, decoded) = (&weights[at..at + 256], &decoded[at..at + 256]);
                let importance = importance.map(|importance| &importance[at..at + 256]);
                let found = samples::error(weights, decoded, importance);
                for i in 1..500 {
                    let scale = samples::largest(weights).abs() * i as f32 / 500.0;
                    let other = samples::to_nearest(weights, &[-scale, 0.0, scale]);
                    assert!(found <= 1.00001 * samples::error(weights, &other, importance), "block at {at}: {scale}");
                }
            }
        }
    }

    /// Models trained with ternary weights lose nothing.
    #[test]
    fn ternary_weights_come_back() {
        let weights: Vec<f32> = (0..512).map(|i| 0.625 * ((i * i / 7 + i) % 3 - 1) as f32).collect();
        assert_eq!(samples::round_trip::<BlockTQ1_0>(&weights, None), weights);
        assert_eq!(samples::round_trip::<BlockTQ2_0>(&weights, None), weights);
    }

    #[test]
    fn importance_moves_the_threshold() {
        let (weights, importance) = (samples::weights(25_600, 3), samples::importance(25_600, 4));
        let error =
            |with| samples::error(&weights, &samples::round_trip::<BlockTQ2_0>(&weights, with), Some(&importance));
        assert!(error(Some(&importance)) < 0.995 * error(None));
    }

    #[test]
    fn packing_again_loses_nothing() {
        samples::check_again::<BlockTQ1_0>(0.0);
        samples::check_again::<BlockTQ2_0>(0.0);
    }
}
