//! The grid quants of about two bits: eight magnitudes at a time are a point of a code book, their signs are beside it.
//!
//! The magnitudes are 8, 25 or 43, the scales odd multiples of an eighth of the block's. Where signs have seven bits, the
//! eighth is such that the number of negative weights is even. The code books are in [`grids`](super::grids), the packers
//! in `crate::encode::iq2`.

use super::grids::{IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID};
use super::{Integers, K_BLOCK_LEN, block_format, layout};
use crate::encode::iq2::{quantize_iq2_s, quantize_iq2_xs, quantize_iq2_xxs};
use crate::half::F16;

layout! {
    /// IQ2_XXS: eight sub-blocks of 32, `w = scale / 8 * (2 * s + 1) * ±grid[point]`.
    /// ```text
    /// 0      2                                          66
    /// | scale | 8 × (4 words of points, signs, step; u16) |
    /// ```
    /// The four words of a sub-block, as one little-endian number of 64 bits:
    /// ```text
    /// bits 0-7    8-15   16-23  24-31  32-38  39-45  46-52  53-59  60-63
    ///      p[0]   p[1]   p[2]   p[3]   ±[0]   ±[1]   ±[2]   ±[3]   s
    /// ```
    pub struct BlockIQ2XXS: 66 {
        /// Scale of all 256 weights.
        pub scale: F16,
        /// Grid points, signs and steps.
        pub quants: [u16; 32],
    }

    /// IQ2_XS: sixteen sub-blocks of 16, `w = scale / 8 * (2 * s + 1) * ±grid[point]`.
    /// ```text
    /// 0      2                                                   66                    74
    /// | scale | 32 × (bits 0-8 point, bits 9-15 signs; u16)        | s, two in each byte  |
    /// ```
    /// The low nibble of a byte of `scales` belongs to the first 16 weights of its 32.
    pub struct BlockIQ2XS: 74 {
        /// Scale of all 256 weights.
        pub scale: F16,
        /// Eight weights each: grid point and signs.
        pub quants: [u16; 32],
        /// Steps of 16 weights each.
        pub scales: [u8; 8],
    }

    /// IQ2_S: sixteen sub-blocks of 16, `w = scale / 8 * (2 * s + 1) * ±grid[point]`.
    /// ```text
    /// 0      2                     34             66                       74                    82
    /// | scale | points, bits 0-7    | signs (u8)   | points, bits 8 and 9    | s, two in each byte |
    /// ```
    /// Byte `b` of `high_bits` holds the top of the points `4b` to `4b + 3`, lowest bits first.
    pub struct BlockIQ2S: 82 {
        /// Scale of all 256 weights.
        pub scale: F16,
        /// The low bits of the points of eight weights each.
        pub points: [u8; 32],
        /// Eight signs each; a set bit is a negative weight.
        pub signs: [u8; 32],
        /// The high bits of the points.
        pub high_bits: [u8; 8],
        /// Steps of 16 weights each.
        pub scales: [u8; 8],
    }
}

block_format!(BlockIQ2XXS = IQ2_XXS, dequantize_iq2_xxs, unpack_iq2_xxs, quantize_iq2_xxs);
block_format!(BlockIQ2XS = IQ2_XS, dequantize_iq2_xs, unpack_iq2_xs, quantize_iq2_xs);
block_format!(BlockIQ2S = IQ2_S, dequantize_iq2_s, unpack_iq2_s, quantize_iq2_s);

/// The signs of eight weights from seven bits: the eighth makes the number of set bits even.
#[inline(always)]
pub(crate) const fn even_signs(bits: u32) -> u8 {
    let seven = bits & 127;
    (seven | (seven.count_ones() & 1) << 7) as u8
}

/// A grid point, negative where `signs` has a bit set.
#[inline(always)]
pub(crate) fn signed<const N: usize>(point: &[i8; N], signs: u8) -> [i8; N] {
    std::array::from_fn(|j| {
        let negative = ((signs >> j & 1) as i8).wrapping_neg();
        (point[j] ^ negative) - negative
    })
}

impl BlockIQ2XXS {
    /// The 32 signed levels of sub-block `sub`, and its `s`.
    #[inline(always)]
    fn levels(&self, sub: usize) -> ([[i8; 8]; 4], [u8; 2]) {
        let [a, b, c, d] = *self.quants[4 * sub..].first_chunk().expect("eight times four words");
        let points = [a as u8, (a >> 8) as u8, b as u8, (b >> 8) as u8];
        let rest = u32::from(c) | u32::from(d) << 16;
        let levels =
            std::array::from_fn(|l| signed(&IQ2_XXS_GRID[usize::from(points[l])], even_signs(rest >> (7 * l))));
        (levels, [(rest >> 28) as u8; 2])
    }
}

impl BlockIQ2XS {
    /// The signed levels of the 32 weights from `32 * part`, and the `s` of its halves.
    #[inline(always)]
    fn levels(&self, part: usize) -> ([[i8; 8]; 4], [u8; 2]) {
        let levels = std::array::from_fn(|l| {
            let word = self.quants[4 * part + l];
            signed(&IQ2_XS_GRID[usize::from(word & 511)], even_signs(u32::from(word >> 9)))
        });
        (levels, [self.scales[part] & 15, self.scales[part] >> 4])
    }
}

impl BlockIQ2S {
    /// As [`BlockIQ2XS::levels`].
    #[inline(always)]
    fn levels(&self, part: usize) -> ([[i8; 8]; 4], [u8; 2]) {
        let levels = std::array::from_fn(|l| {
            let high = usize::from(self.high_bits[part] >> (2 * l) & 3);
            let point = usize::from(self.points[4 * part + l]) | high << 8;
            signed(&IQ2_S_GRID[point], self.signs[4 * part + l])
        });
        (levels, [self.scales[part] & 15, self.scales[part] >> 4])
    }
}

/// Decodes 32 weights.
#[inline(always)]
fn dequantize_part(scale: f32, (levels, steps): ([[i8; 8]; 4], [u8; 2]), out: &mut [f32]) {
    let steps = steps.map(|s| scale * (0.5 + f32::from(s)) * 0.25);
    for (i, (weight, &level)) in out.iter_mut().zip(levels.as_flattened()).enumerate() {
        *weight = steps[i / 16] * f32::from(level);
    }
}

/// The integer form of 32 weights.
#[inline(always)]
fn unpack_part(scale: F16, (levels, steps): ([[i8; 8]; 4], [u8; 2])) -> Integers {
    let levels = levels.as_flattened();
    Integers {
        quants: std::array::from_fn(|i| levels[i]),
        steps: steps.map(|s| 2 * i32::from(s) + 1),
        scale: scale.to_f32() * 0.125,
        ..Integers::default()
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq2_xxs(block: &BlockIQ2XXS, out: &mut [f32; K_BLOCK_LEN]) {
    for (part, weights) in out.chunks_exact_mut(32).enumerate() {
        dequantize_part(block.scale.to_f32(), block.levels(part), weights);
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq2_xs(block: &BlockIQ2XS, out: &mut [f32; K_BLOCK_LEN]) {
    for (part, weights) in out.chunks_exact_mut(32).enumerate() {
        dequantize_part(block.scale.to_f32(), block.levels(part), weights);
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq2_s(block: &BlockIQ2S, out: &mut [f32; K_BLOCK_LEN]) {
    for (part, weights) in out.chunks_exact_mut(32).enumerate() {
        dequantize_part(block.scale.to_f32(), block.levels(part), weights);
    }
}

/// The integer form: levels as they are, steps `2 * s + 1`, an eighth of the scale.
#[inline(always)]
pub fn unpack_iq2_xxs(block: &BlockIQ2XXS, out: &mut [Integers; 8]) {
    for (i, part) in out.iter_mut().enumerate() {
        *part = unpack_part(block.scale, block.levels(i));
    }
}

/// The integer form, as that of IQ2_XXS.
#[inline(always)]
pub fn unpack_iq2_xs(block: &BlockIQ2XS, out: &mut [Integers; 8]) {
    for (i, part) in out.iter_mut().enumerate() {
        *part = unpack_part(block.scale, block.levels(i));
    }
}

/// The integer form, as that of IQ2_XXS.
#[inline(always)]
pub fn unpack_iq2_s(block: &BlockIQ2S, out: &mut [Integers; 8]) {
    for (i, part) in out.iter_mut().enumerate() {
        *part = unpack_part(block.scale, block.levels(i));
    }
}
