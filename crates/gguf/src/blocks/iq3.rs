//! The grid quants of about three bits: four magnitudes at a time are a point of a code book, their signs are beside it.
//!
//! The code books are in [`grids`](super::grids), the packers in `crate::encode::iq3`.

use super::grids::{IQ3_S_GRID, IQ3_XXS_GRID};
use super::iq2::{even_signs, signed};
use super::{Integers, K_BLOCK_LEN, block_format, layout};
use crate::encode::iq3::{quantize_iq3_s, quantize_iq3_xxs};
use crate::half::F16;

layout! {
    /// IQ3_XXS: eight sub-blocks of 32, `w = scale / 4 * (2 * s + 1) * ±grid[point]`, magnitudes from 4 to 62.
    /// ```text
    /// 0      2                    66                                     98
    /// | scale | 64 points (u8)     | 8 × (signs and s; little-endian u32)  |
    /// ```
    /// Each point is four weights, seven sign bits are eight (the number of negative ones is even):
    /// ```text
    /// bits 0-6   7-13   14-20  21-27  28-31
    ///      ±[0]  ±[1]   ±[2]   ±[3]   s
    /// ```
    pub struct BlockIQ3XXS: 98 {
        /// Scale of all 256 weights.
        pub scale: F16,
        /// Four weights each.
        pub points: [u8; 64],
        /// Signs and step of 32 weights each.
        pub signs_and_scales: [[u8; 4]; 8],
    }

    /// IQ3_S: eight sub-blocks of 32, `w = scale * (2 * s + 1) * ±grid[point]`, magnitudes from 1 to 15.
    /// ```text
    /// 0      2                  66              74            106                   110
    /// | scale | points, bits 0-7 | points, bit 8 | signs (u8)  | s, two in each byte |
    /// ```
    /// Bit `j` of `high_bits[b]` belongs to point `8b + j`, the low nibble of a byte of `scales` to the first 32 weights
    /// of its 64.
    pub struct BlockIQ3S: 110 {
        /// Scale of all 256 weights.
        pub scale: F16,
        /// The low bits of the points of four weights each.
        pub points: [u8; 64],
        /// The ninth bit of the points.
        pub high_bits: [u8; 8],
        /// Eight signs each; a set bit is a negative weight.
        pub signs: [u8; 32],
        /// Steps of 32 weights each.
        pub scales: [u8; 4],
    }
}

block_format!(BlockIQ3XXS = IQ3_XXS, dequantize_iq3_xxs, unpack_iq3_xxs, quantize_iq3_xxs);
block_format!(BlockIQ3S = IQ3_S, dequantize_iq3_s, unpack_iq3_s, quantize_iq3_s);

impl BlockIQ3XXS {
    /// The 32 signed levels of sub-block `sub`, and its `s`.
    #[inline(always)]
    fn levels(&self, sub: usize) -> ([[i8; 4]; 8], u8) {
        let rest = u32::from_le_bytes(self.signs_and_scales[sub]);
        let levels = std::array::from_fn(|l| {
            let signs = even_signs(rest >> (7 * (l / 2))) >> (4 * (l % 2));
            signed(&IQ3_XXS_GRID[usize::from(self.points[8 * sub + l])], signs)
        });
        (levels, (rest >> 28) as u8)
    }
}

impl BlockIQ3S {
    /// The 32 signed levels of sub-block `sub`, and its `s`.
    #[inline(always)]
    fn levels(&self, sub: usize) -> ([[i8; 4]; 8], u8) {
        let levels = std::array::from_fn(|l| {
            let point = usize::from(self.points[8 * sub + l]) | usize::from(self.high_bits[sub] >> l & 1) << 8;
            signed(&IQ3_S_GRID[point], self.signs[4 * sub + l / 2] >> (4 * (l % 2)))
        });
        (levels, self.scales[sub / 2] >> (4 * (sub % 2)) & 15)
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq3_xxs(block: &BlockIQ3XXS, out: &mut [f32; K_BLOCK_LEN]) {
    for (sub, weights) in out.chunks_exact_mut(32).enumerate() {
        let (levels, s) = block.levels(sub);
        let step = block.scale.to_f32() * (0.5 + f32::from(s)) * 0.5;
        for (weight, &level) in weights.iter_mut().zip(levels.as_flattened()) {
            *weight = step * f32::from(level);
        }
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq3_s(block: &BlockIQ3S, out: &mut [f32; K_BLOCK_LEN]) {
    for (sub, weights) in out.chunks_exact_mut(32).enumerate() {
        let (levels, s) = block.levels(sub);
        let step = block.scale.to_f32() * f32::from(2 * s + 1);
        for (weight, &level) in weights.iter_mut().zip(levels.as_flattened()) {
            *weight = step * f32::from(level);
        }
    }
}

#[inline(always)]
fn unpack_part(scale: f32, (levels, s): ([[i8; 4]; 8], u8)) -> Integers {
    let levels = levels.as_flattened();
    let steps = [2 * i32::from(s) + 1; 2];
    Integers { quants: std::array::from_fn(|i| levels[i]), steps, scale, ..Integers::default() }
}

/// The integer form: levels as they are, steps `2 * s + 1`, a quarter of the scale.
#[inline(always)]
pub fn unpack_iq3_xxs(block: &BlockIQ3XXS, out: &mut [Integers; 8]) {
    for (sub, part) in out.iter_mut().enumerate() {
        *part = unpack_part(block.scale.to_f32() * 0.25, block.levels(sub));
    }
}

/// The integer form: levels as they are, steps `2 * s + 1`.
#[inline(always)]
pub fn unpack_iq3_s(block: &BlockIQ3S, out: &mut [Integers; 8]) {
    for (sub, part) in out.iter_mut().enumerate() {
        *part = unpack_part(block.scale.to_f32(), block.levels(sub));
    }
}
