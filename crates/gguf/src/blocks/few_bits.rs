//! One and two bits a weight with one scale, for models trained that way.

use super::{Integers, block_format, layout};
use crate::encode::few_bits::{quantize_q1_0, quantize_q2_0};
use crate::half::F16;

/// Weights in a block of Q1_0.
pub const Q1_0_BLOCK_LEN: usize = 128;
/// Weights in a block of Q2_0.
pub const Q2_0_BLOCK_LEN: usize = 64;

layout! {
    /// Q1_0: `w[i]` is `scale` where bit `i % 8` of byte `i / 8` is set, `-scale` elsewhere.
    /// ```text
    /// 0      2                              18
    /// | scale | 128 bits, the lowest first    |
    /// ```
    pub struct BlockQ1_0: 18 {
        /// Magnitude of all 128 weights.
        pub scale: F16,
        /// Eight weights per byte.
        pub quants: [u8; 16],
    }

    /// Q2_0: `w[i] = scale * (q[i] - 1)`, `q` in 0..4 and in bits `2 · (i % 4)` of byte `i / 4`.
    /// ```text
    /// 0      2                                      18
    /// | scale | 64 2-bit numbers, the lowest first    |
    /// ```
    pub struct BlockQ2_0: 18 {
        /// Scale of all 64 weights.
        pub scale: F16,
        /// Four weights per byte.
        pub quants: [u8; 16],
    }
}

block_format!(BlockQ1_0 = Q1_0, dequantize_q1_0, unpack_q1_0, quantize_q1_0);
block_format!(BlockQ2_0 = Q2_0, dequantize_q2_0, unpack_q2_0, quantize_q2_0);

#[inline(always)]
fn q1_0_value(block: &BlockQ1_0, i: usize) -> i8 {
    (block.quants[i / 8] >> (i % 8) & 1) as i8 * 2 - 1
}

#[inline(always)]
fn q2_0_value(block: &BlockQ2_0, i: usize) -> i8 {
    (block.quants[i / 4] >> (2 * (i % 4)) & 3) as i8 - 1
}

/// Decodes one block.
#[inline]
pub fn dequantize_q1_0(block: &BlockQ1_0, out: &mut [f32; Q1_0_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (i, weight) in out.iter_mut().enumerate() {
        *weight = f32::from(q1_0_value(block, i)) * scale;
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q2_0(block: &BlockQ2_0, out: &mut [f32; Q2_0_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (i, weight) in out.iter_mut().enumerate() {
        *weight = f32::from(q2_0_value(block, i)) * scale;
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q1_0(block: &BlockQ1_0, out: &mut [Integers; 4]) {
    let scale = block.scale.to_f32();
    for (part, integers) in out.iter_mut().enumerate() {
        let quants = std::array::from_fn(|j| q1_0_value(block, 32 * part + j));
        *integers = Integers { quants, scale, ..Integers::default() };
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q2_0(block: &BlockQ2_0, out: &mut [Integers; 2]) {
    let scale = block.scale.to_f32();
    for (part, integers) in out.iter_mut().enumerate() {
        let quants = std::array::from_fn(|j| q2_0_value(block, 32 * part + j));
        *integers = Integers { quants, scale, ..Integers::default() };
    }
}
