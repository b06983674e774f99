//! 4-bit formats with a code book: sixteen values that lie closer together near zero, where most weights are.

use super::legacy::nibbles;
use super::{Integers, K_BLOCK_LEN, LEGACY_BLOCK_LEN, block_format, layout};
use crate::encode::iq4::{quantize_iq4_nl, quantize_iq4_xs};
use crate::half::F16;

/// The code book (`kvalues_iq4nl` of `ggml-common.h`, MIT). It is not symmetric: the sign of a scale matters.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

layout! {
    /// IQ4_NL: `w[i] = scale * IQ4_VALUES[q[i]]`, `q` in 0..16.
    /// ```text
    /// 0      2                                            18
    /// | scale | nibbles, as in the picture of `legacy.rs`   |
    /// ```
    pub struct BlockIQ4NL: 18 {
        /// Scale of all 32 weights.
        pub scale: F16,
        /// Two weights per byte.
        pub quants: [u8; 16],
    }

    /// IQ4_XS: eight sub-blocks of 32, `w = (scale * (s[b] - 32)) * IQ4_VALUES[q]`, `s` in 0..64.
    /// ```text
    /// 0      2              4             8                                                  136
    /// | scale | high 2 bits  | low 4 bits  | 8 × 16 bytes of nibbles, each as in `legacy.rs`    |
    /// |       | of s (u16)   | of s        |                                                    |
    /// ```
    /// The high bits of `s[b]` are bits `2b` and `2b + 1` of the word; the low ones of `s[2j]` and `s[2j + 1]` the low and
    /// the high nibble of byte `j`.
    pub struct BlockIQ4XS: 136 {
        /// Scale of the sub-block scales.
        pub scale: F16,
        /// Bits 4 and 5 of the sub-block scales.
        pub scales_high: u16,
        /// Bits 0 to 3 of the sub-block scales, two per byte.
        pub scales_low: [u8; 4],
        /// Two weights per byte.
        pub quants: [u8; 128],
    }
}

block_format!(BlockIQ4NL = IQ4_NL, dequantize_iq4_nl, unpack_iq4_nl, quantize_iq4_nl);
block_format!(BlockIQ4XS = IQ4_XS, dequantize_iq4_xs, unpack_iq4_xs, quantize_iq4_xs);

impl BlockIQ4XS {
    /// Scale of sub-block `sub` of 0..8, in units of the block's scale: -32 to 31.
    #[inline(always)]
    pub const fn step(&self, sub: usize) -> i32 {
        let low = self.scales_low[sub / 2] >> (4 * (sub % 2)) & 15;
        let high = (self.scales_high >> (2 * sub) & 3) as u8;
        (low | high << 4) as i32 - 32
    }
}

/// The code book's values of sub-block `sub`.
#[inline(always)]
fn sub_block_values(block: &BlockIQ4XS, sub: usize) -> [i8; 32] {
    values(block.quants[16 * sub..][..16].try_into().expect("sixteen bytes"))
}

#[inline(always)]
fn values(quants: &[u8; 16]) -> [i8; 32] {
    nibbles(quants).map(|index| IQ4_VALUES[index as usize])
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq4_nl(block: &BlockIQ4NL, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (weight, value) in out.iter_mut().zip(values(&block.quants)) {
        *weight = scale * f32::from(value);
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq4_xs(block: &BlockIQ4XS, out: &mut [f32; K_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (sub, weights) in out.chunks_exact_mut(32).enumerate() {
        let step = scale * block.step(sub) as f32;
        for (weight, value) in weights.iter_mut().zip(sub_block_values(block, sub)) {
            *weight = step * f32::from(value);
        }
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_iq4_nl(block: &BlockIQ4NL, out: &mut [Integers; 1]) {
    out[0] = Integers { quants: values(&block.quants), scale: block.scale.to_f32(), ..Integers::default() };
}

/// The integer form.
#[inline(always)]
pub fn unpack_iq4_xs(block: &BlockIQ4XS, out: &mut [Integers; 8]) {
    let scale = block.scale.to_f32();
    for (sub, part) in out.iter_mut().enumerate() {
        let quants = sub_block_values(block, sub);
        *part = Integers { quants, steps: [block.step(sub); 2], scale, ..Integers::default() };
    }
}
