//! 4-bit floats (E2M1: sign, two exponent bits, one fraction bit) with small scales.
//!
//! Both formats use the sixteen values of [`FLOAT4_DOUBLED`]; the scales are halved in return, which is exact. Scale bytes
//! that the standards call NaN decode as llama.cpp decodes them, see [`mxfp4_scale`] and [`nvfp4_step`].

use super::legacy::nibbles;
use super::{Integers, LEGACY_BLOCK_LEN, block_format, layout};
use crate::encode::float4::{quantize_mxfp4, quantize_nvfp4};

/// Weights in a block of NVFP4.
pub const NVFP4_BLOCK_LEN: usize = 64;

/// Twice the value of every E2M1 number, by its bits. Minus zero is zero.
pub const FLOAT4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// What [`nvfp4_step`] counts: half of the smallest UE4M3 number, `2^-9`.
pub const NVFP4_UNIT: f32 = 1.0 / 1024.0;

layout! {
    /// MXFP4 (OCP Microscaling Formats 1.0): `w[i] = 2^(exponent - 128) * FLOAT4_DOUBLED[q[i]]`.
    /// ```text
    /// 0         1                                            17
    /// | exponent | nibbles, as in the picture of `legacy.rs`   |
    /// ```
    pub struct BlockMXFP4: 17 {
        /// E8M0: a power of two, biased by 127. See [`mxfp4_scale`].
        pub exponent: u8,
        /// Two weights per byte.
        pub quants: [u8; 16],
    }

    /// NVFP4: four sub-blocks of 16 with a scale in UE4M3 (no sign, four exponent bits of bias 7, three fraction bits).
    /// ```text
    /// 0              4          12         20         28         36
    /// | s[0] … s[3]   | w[0..16] | w[16..32]| w[32..48]| w[48..64]|
    /// ```
    /// Byte `j` of a sub-block's eight holds its weight `j` in the low and `j + 8` in the high nibble. Many files have one
    /// more scale for the whole tensor, a tensor of its own.
    pub struct BlockNVFP4: 36 {
        /// Scale of every 16 weights. See [`nvfp4_step`].
        pub scales: [u8; 4],
        /// Two weights per byte.
        pub quants: [u8; 32],
    }
}

block_format!(BlockMXFP4 = MXFP4, dequantize_mxfp4, unpack_mxfp4, quantize_mxfp4);
block_format!(BlockNVFP4 = NVFP4, dequantize_nvfp4, unpack_nvfp4, quantize_nvfp4);

/// What MXFP4 multiplies the doubled values with: `2^(exponent - 128)`, for 0 and 1 a subnormal number. The standard calls
/// exponent 255 NaN; it is taken as the power of two that it spells, as in llama.cpp, and then all but the smallest value
/// overflow to infinity.
#[inline(always)]
pub const fn mxfp4_scale(exponent: u8) -> f32 {
    power_of_two(exponent as i32 - 128)
}

/// A power of two, subnormal ones included: `exponent` from -149 to 127.
#[inline(always)]
pub(crate) const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(if exponent < -126 { 1 << (exponent + 149) } else { ((exponent + 127) as u32) << 23 })
}

/// What NVFP4 multiplies the doubled values with, in units of [`NVFP4_UNIT`]: up to 2^18, so that every scale is a whole
/// number. As in llama.cpp, 0x7F (the standard's NaN) is zero and the unused top bit does not count, except that 0xFF is not
/// 0x7F and stands for the 480 that it spells.
#[inline(always)]
pub const fn nvfp4_step(scale: u8) -> i32 {
    let (exponent, fraction) = (scale as i32 >> 3 & 15, scale as i32 & 7);
    if scale == 0x7f {
        0
    } else if exponent == 0 {
        fraction
    } else {
        (8 + fraction) << (exponent - 1)
    }
}

/// Doubled values of sub-blocks `2 * part` and `2 * part + 1`.
#[inline(always)]
fn nvfp4_values(block: &BlockNVFP4, part: usize) -> [i8; 32] {
    let bytes: &[u8; 16] = block.quants[16 * part..][..16].try_into().expect("sixteen bytes");
    std::array::from_fn(|i| {
        let byte = bytes[i / 16 * 8 + i % 8];
        FLOAT4_DOUBLED[usize::from(if i % 16 < 8 { byte & 15 } else { byte >> 4 })]
    })
}

/// Decodes one block.
#[inline]
pub fn dequantize_mxfp4(block: &BlockMXFP4, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    let scale = mxfp4_scale(block.exponent);
    for (weight, index) in out.iter_mut().zip(nibbles(&block.quants)) {
        *weight = scale * f32::from(FLOAT4_DOUBLED[index as usize]);
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_nvfp4(block: &BlockNVFP4, out: &mut [f32; NVFP4_BLOCK_LEN]) {
    for part in 0..2 {
        let values = nvfp4_values(block, part);
        for (i, value) in values.into_iter().enumerate() {
            let scale = nvfp4_step(block.scales[2 * part + i / 16]) as f32 * NVFP4_UNIT;
            out[32 * part + i] = scale * f32::from(value);
        }
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_mxfp4(block: &BlockMXFP4, out: &mut [Integers; 1]) {
    let quants = nibbles(&block.quants).map(|index| FLOAT4_DOUBLED[index as usize]);
    out[0] = Integers { quants, scale: mxfp4_scale(block.exponent), ..Integers::default() };
}

/// The integer form.
#[inline(always)]
pub fn unpack_nvfp4(block: &BlockNVFP4, out: &mut [Integers; 2]) {
    for (part, integers) in out.iter_mut().enumerate() {
        let steps = [nvfp4_step(block.scales[2 * part]), nvfp4_step(block.scales[2 * part + 1])];
        *integers = Integers { quants: nvfp4_values(block, part), steps, scale: NVFP4_UNIT, ..Integers::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact() {
        for exponent in -149..=127 {
            assert_eq!(f64::from(power_of_two(exponent)), 2f64.powi(exponent));
        }
    }

    /// Every exponent is the power of two that it spells, the ends included.
    #[test]
    fn mxfp4_scales_are_powers_of_two() {
        for exponent in 0..=255u8 {
            assert_eq!(f64::from(mxfp4_scale(exponent)), 2f64.powi(i32::from(exponent) - 128), "{exponent}");
        }
    }

    #[test]
    fn mxfp4_decodes_the_ends_of_its_range() {
        // Codes 0 … 15 in the low nibbles, zeros in the high ones.
        let quants = std::array::from_fn(|i| i as u8);
        let mut weights = [7.0; 32];
        dequantize_mxfp4(&BlockMXFP4 { exponent: 0, quants }, &mut weights);
        assert_eq!(weights[1], 2f32.powi(-128));
        assert_eq!(weights[15], -12.0 * 2f32.powi(-128));
        dequantize_mxfp4(&BlockMXFP4 { exponent: 255, quants }, &mut weights);
        assert_eq!((weights[0].to_bits(), weights[8].to_bits()), (0, 0), "zero and minus zero");
        assert_eq!((weights[1], weights[9]), (2f32.powi(127), -(2f32.powi(127))));
        assert_eq!((weights[2], weights[15]), (f32::INFINITY, f32::NEG_INFINITY));
    }

    /// From the definition of E4M3: fraction / 8 without a leading one in the lowest exponent.
    #[test]
    fn nvfp4_scales_follow_the_definition() {
        for scale in 0..=255u8 {
            let (exponent, fraction) = (i32::from(scale >> 3 & 15), f64::from(scale & 7) / 8.0);
            let value =
                if exponent == 0 { fraction * 2f64.powi(-6) } else { (1.0 + fraction) * 2f64.powi(exponent - 7) };
            let expected = if scale == 0x7f { 0.0 } else { value / 2.0 };
            assert_eq!(f64::from(nvfp4_step(scale)) * f64::from(NVFP4_UNIT), expected, "{scale:#04x}");
        }
        assert_eq!(nvfp4_step(0x7e) as f32 * NVFP4_UNIT, 224.0);
        assert_eq!(nvfp4_step(0xff) as f32 * NVFP4_UNIT, 240.0);
        assert_eq!(nvfp4_step(0x80), 0);
    }
}
