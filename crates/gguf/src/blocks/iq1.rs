//! The grid quants of less than two bits: eight weights at a time are a point of a code book of -1, 0 and 1, all of it
//! moved by an eighth up or down.
//!
//! The code book is in [`grids`](super::grids), the packers in `crate::encode::iq1`.

use super::grids::IQ1_S_GRID;
use super::{Integers, K_BLOCK_LEN, block_format, layout};
use crate::encode::iq1::{quantize_iq1_m, quantize_iq1_s};
use crate::half::F16;

layout! {
    /// IQ1_S: eight sub-blocks of 32, `w = scale * (2 * s + 1) * (grid[point] ± 1/8)`.
    /// ```text
    /// 0      2                   34                                                     50
    /// | scale | points, bits 0-7  | 8 × (points, bits 8-10; s; direction of the shift; u16) |
    /// ```
    /// A word of `high_bits`; its top bit is set when the sub-block is moved down:
    /// ```text
    /// bits 0-2        3-5         6-8         9-11        12-14  15
    ///      top p[0]   top p[1]    top p[2]    top p[3]    s      ±
    /// ```
    pub struct BlockIQ1S: 50 {
        /// Scale of all 256 weights.
        pub scale: F16,
        /// The low bits of the points of eight weights each.
        pub points: [u8; 32],
        /// What else there is to 32 weights each.
        pub high_bits: [u16; 8],
    }

    /// IQ1_M: sixteen sub-blocks of 16, `w = scale * (2 * s + 1) * (grid[point] ± 1/8)`; each point has its own shift.
    /// ```text
    /// 0                  32                                      48                    56
    /// | points, bits 0-7  | points, bits 8-10 and direction       | s and scale (u16)   |
    /// ```
    /// A byte of `high_bits` holds in bits 0 to 2 the top of point `2b` and in bit 3 whether it is moved down, in bits 4
    /// to 7 those of point `2b + 1`. Word `q` of `scales` holds four `s` of three bits and a nibble of the scale:
    /// ```text
    /// bits 0-2     3-5         6-8         9-11        12-15
    ///      s[4q]   s[4q + 1]   s[4q + 2]   s[4q + 3]   bits 4q to 4q + 3 of the scale
    /// ```
    pub struct BlockIQ1M: 56 {
        /// The low bits of the points of eight weights each.
        pub points: [u8; 32],
        /// The high bits and directions of two points each.
        pub high_bits: [u8; 16],
        /// Steps of 16 weights each, and the scale of all 256.
        pub scales: [u16; 4],
    }
}

block_format!(BlockIQ1S = IQ1_S, dequantize_iq1_s, unpack_iq1_s, quantize_iq1_s);
block_format!(BlockIQ1M = IQ1_M, dequantize_iq1_m, unpack_iq1_m, quantize_iq1_m);

/// Four points, each with the direction of its shift, and the `s` of both halves.
type Part = ([(&'static [i8; 8], bool); 4], [u8; 2]);

impl BlockIQ1S {
    #[inline(always)]
    fn part(&self, sub: usize) -> Part {
        let word = usize::from(self.high_bits[sub]);
        let points = std::array::from_fn(|l| {
            let point = usize::from(self.points[4 * sub + l]) | (word >> (3 * l) & 7) << 8;
            (&IQ1_S_GRID[point], word & 0x8000 != 0)
        });
        (points, [(word >> 12 & 7) as u8; 2])
    }
}

impl BlockIQ1M {
    /// The scale of all weights, put together from its nibbles.
    #[inline(always)]
    pub fn scale(&self) -> F16 {
        let [a, b, c, d] = self.scales;
        F16(a >> 12 | b >> 8 & 0xf0 | c >> 4 & 0xf00 | d & 0xf000)
    }

    #[inline(always)]
    fn part(&self, part: usize) -> Part {
        let points = std::array::from_fn(|l| {
            let high = usize::from(self.high_bits[2 * part + l / 2] >> (4 * (l % 2)));
            (&IQ1_S_GRID[usize::from(self.points[4 * part + l]) | (high & 7) << 8], high & 8 != 0)
        });
        let six = self.scales[part / 2] >> (6 * (part % 2));
        (points, [(six & 7) as u8, (six >> 3 & 7) as u8])
    }
}

/// Decodes 32 weights.
#[inline(always)]
fn dequantize_part(scale: f32, (points, steps): Part, out: &mut [f32]) {
    for (l, (weights, (point, down))) in out.chunks_exact_mut(8).zip(points).enumerate() {
        let step = scale * f32::from(2 * steps[l / 2] + 1);
        let shift = if down { -0.125 } else { 0.125 };
        for (weight, &level) in weights.iter_mut().zip(point) {
            *weight = step * (f32::from(level) + shift);
        }
    }
}

/// The integer form of 32 weights.
#[inline(always)]
fn unpack_part(scale: F16, (points, steps): Part) -> Integers {
    let quants = points.map(|(point, down)| point.map(|level| 8 * level + if down { -1 } else { 1 }));
    let quants = quants.as_flattened();
    Integers {
        quants: std::array::from_fn(|i| quants[i]),
        steps: steps.map(|s| 2 * i32::from(s) + 1),
        scale: scale.to_f32() * 0.125,
        ..Integers::default()
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq1_s(block: &BlockIQ1S, out: &mut [f32; K_BLOCK_LEN]) {
    for (part, weights) in out.chunks_exact_mut(32).enumerate() {
        dequantize_part(block.scale.to_f32(), block.part(part), weights);
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_iq1_m(block: &BlockIQ1M, out: &mut [f32; K_BLOCK_LEN]) {
    let scale = block.scale().to_f32();
    for (part, weights) in out.chunks_exact_mut(32).enumerate() {
        dequantize_part(scale, block.part(part), weights);
    }
}

/// The integer form: eight times the levels with the shift added, steps `2 * s + 1`, an eighth of the scale.
#[inline(always)]
pub fn unpack_iq1_s(block: &BlockIQ1S, out: &mut [Integers; 8]) {
    for (i, part) in out.iter_mut().enumerate() {
        *part = unpack_part(block.scale, block.part(i));
    }
}

/// The integer form, as that of IQ1_S.
#[inline(always)]
pub fn unpack_iq1_m(block: &BlockIQ1M, out: &mut [Integers; 8]) {
    for (i, part) in out.iter_mut().enumerate() {
        *part = unpack_part(block.scale(), block.part(i));
    }
}
