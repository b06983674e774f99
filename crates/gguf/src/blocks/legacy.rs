//! The older formats: 32 weights, one scale and in some a minimum.
//!
//! In all 4-bit parts, byte `j` holds weight `j` in its low and weight `j + 16` in its high nibble:
//! ```text
//! byte:        0         1              15
//! bits 0-3:  w[0]      w[1]    …     w[15]
//! bits 4-7:  w[16]     w[17]   …     w[31]
//! ```

use super::{Integers, LEGACY_BLOCK_LEN, block_format, layout};
use crate::encode::legacy::{quantize_q4_0, quantize_q4_1, quantize_q5_0, quantize_q5_1, quantize_q8_0};
use crate::half::F16;

layout! {
    /// Q8_0: `w[i] = scale * quants[i]`.
    /// ```text
    /// 0      2                     34
    /// | scale | q[0] … q[31] (i8)   |
    /// ```
    pub struct BlockQ8_0: 34 {
        /// Scale of all 32 weights.
        pub scale: F16,
        /// Signed 8-bit weights.
        pub quants: [i8; 32],
    }

    /// Q4_0: `w[i] = scale * (q[i] - 8)`, `q` in 0..16.
    /// ```text
    /// 0      2                                  18
    /// | scale | nibbles, see the module's picture |
    /// ```
    pub struct BlockQ4_0: 18 {
        /// Scale of all 32 weights.
        pub scale: F16,
        /// Two weights per byte.
        pub quants: [u8; 16],
    }

    /// Q5_0: `w[i] = scale * (q[i] - 16)`, `q` in 0..32; its fifth bit is bit `i` of the little-endian word `high_bits`.
    /// ```text
    /// 0      2           6                                  22
    /// | scale | high_bits | nibbles, see the module's picture |
    /// ```
    pub struct BlockQ5_0: 22 {
        /// Scale of all 32 weights.
        pub scale: F16,
        /// Bit 4 of every weight.
        pub high_bits: [u8; 4],
        /// Bits 0 to 3, two weights per byte.
        pub quants: [u8; 16],
    }

    /// Q4_1: `w[i] = scale * q[i] + min`, `q` in 0..16.
    /// ```text
    /// 0      2     4                                  20
    /// | scale | min | nibbles, see the module's picture |
    /// ```
    pub struct BlockQ4_1: 20 {
        /// Scale of all 32 weights.
        pub scale: F16,
        /// What `q = 0` stands for; usually negative.
        pub min: F16,
        /// Two weights per byte.
        pub quants: [u8; 16],
    }

    /// Q5_1: `w[i] = scale * q[i] + min`, `q` in 0..32; `high_bits` as in [`BlockQ5_0`].
    /// ```text
    /// 0      2     4           8                                  24
    /// | scale | min | high_bits | nibbles, see the module's picture |
    /// ```
    pub struct BlockQ5_1: 24 {
        /// Scale of all 32 weights.
        pub scale: F16,
        /// What `q = 0` stands for; usually negative.
        pub min: F16,
        /// Bit 4 of every weight.
        pub high_bits: [u8; 4],
        /// Bits 0 to 3, two weights per byte.
        pub quants: [u8; 16],
    }

    /// Q8_1: `w[i] = scale * quants[i]`. Made for activations: `sum` saves their dot products with a minimum a pass, and
    /// the weights do not depend on it.
    /// ```text
    /// 0      2     4                     36
    /// | scale | sum | q[0] … q[31] (i8)   |
    /// ```
    pub struct BlockQ8_1: 36 {
        /// Scale of all 32 weights.
        pub scale: F16,
        /// `scale * Σ quants`, rounded.
        pub sum: F16,
        /// Signed 8-bit weights.
        pub quants: [i8; 32],
    }
}

block_format!(BlockQ8_0 = Q8_0, dequantize_q8_0, unpack_q8_0, quantize_q8_0);
block_format!(BlockQ8_1 = Q8_1, dequantize_q8_1, unpack_q8_1);
block_format!(BlockQ4_0 = Q4_0, dequantize_q4_0, unpack_q4_0, quantize_q4_0);
block_format!(BlockQ4_1 = Q4_1, dequantize_q4_1, unpack_q4_1, quantize_q4_1);
block_format!(BlockQ5_0 = Q5_0, dequantize_q5_0, unpack_q5_0, quantize_q5_0);
block_format!(BlockQ5_1 = Q5_1, dequantize_q5_1, unpack_q5_1, quantize_q5_1);

/// Thirty-two 4-bit numbers, as in the module's picture.
#[inline(always)]
pub(super) fn nibbles(quants: &[u8; 16]) -> [i8; 32] {
    std::array::from_fn(|i| (if i < 16 { quants[i] & 15 } else { quants[i - 16] >> 4 }) as i8)
}

/// Thirty-two 5-bit numbers: nibbles, and the fifth bit of number `i` as bit `i` of a little-endian word.
#[inline(always)]
fn five_bits(quants: &[u8; 16], high_bits: [u8; 4]) -> [i8; 32] {
    let (low, high_bits) = (nibbles(quants), u32::from_le_bytes(high_bits));
    std::array::from_fn(|i| low[i] | ((high_bits >> i & 1) << 4) as i8)
}

/// Decodes one block.
#[inline]
pub fn dequantize_q8_0(block: &BlockQ8_0, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    scaled(block.scale, &block.quants, out);
}

/// Decodes one block.
#[inline]
pub fn dequantize_q8_1(block: &BlockQ8_1, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    scaled(block.scale, &block.quants, out);
}

/// Decodes one block.
#[inline]
pub fn dequantize_q4_0(block: &BlockQ4_0, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    scaled(block.scale, &nibbles(&block.quants).map(|quant| quant - 8), out);
}

/// Decodes one block.
#[inline]
pub fn dequantize_q5_0(block: &BlockQ5_0, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    scaled(block.scale, &five_bits(&block.quants, block.high_bits).map(|quant| quant - 16), out);
}

/// Decodes one block.
#[inline]
pub fn dequantize_q4_1(block: &BlockQ4_1, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    scaled(block.scale, &nibbles(&block.quants), out);
    add(block.min, out);
}

/// Decodes one block.
#[inline]
pub fn dequantize_q5_1(block: &BlockQ5_1, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    scaled(block.scale, &five_bits(&block.quants, block.high_bits), out);
    add(block.min, out);
}

#[inline(always)]
fn scaled(scale: F16, quants: &[i8; LEGACY_BLOCK_LEN], out: &mut [f32; LEGACY_BLOCK_LEN]) {
    let scale = scale.to_f32();
    for (weight, &quant) in out.iter_mut().zip(quants) {
        *weight = scale * f32::from(quant);
    }
}

#[inline(always)]
fn add(min: F16, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    let min = min.to_f32();
    for weight in out {
        *weight += min;
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q8_0(block: &BlockQ8_0, out: &mut [Integers; 1]) {
    out[0] = Integers { quants: block.quants, scale: block.scale.to_f32(), ..Integers::default() };
}

/// The integer form.
#[inline(always)]
pub fn unpack_q8_1(block: &BlockQ8_1, out: &mut [Integers; 1]) {
    out[0] = Integers { quants: block.quants, scale: block.scale.to_f32(), ..Integers::default() };
}

/// The integer form.
#[inline(always)]
pub fn unpack_q4_0(block: &BlockQ4_0, out: &mut [Integers; 1]) {
    let quants = nibbles(&block.quants).map(|quant| quant - 8);
    out[0] = Integers { quants, scale: block.scale.to_f32(), ..Integers::default() };
}

/// The integer form.
#[inline(always)]
pub fn unpack_q5_0(block: &BlockQ5_0, out: &mut [Integers; 1]) {
    let quants = five_bits(&block.quants, block.high_bits).map(|quant| quant - 16);
    out[0] = Integers { quants, scale: block.scale.to_f32(), ..Integers::default() };
}

/// The integer form.
#[inline(always)]
pub fn unpack_q4_1(block: &BlockQ4_1, out: &mut [Integers; 1]) {
    let (scale, min_scale) = (block.scale.to_f32(), block.min.to_f32());
    out[0] = Integers { quants: nibbles(&block.quants), steps: [1; 2], mins: [1; 2], scale, min_scale };
}

/// The integer form.
#[inline(always)]
pub fn unpack_q5_1(block: &BlockQ5_1, out: &mut [Integers; 1]) {
    let (scale, min_scale) = (block.scale.to_f32(), block.min.to_f32());
    let quants = five_bits(&block.quants, block.high_bits);
    out[0] = Integers { quants, steps: [1; 2], mins: [1; 2], scale, min_scale };
}
