//! The k-quants: super-blocks of 256 weights, cut into sub-blocks with small integer scales of their own.

use super::{Integers, K_BLOCK_LEN, block_format, layout};
use crate::encode::k_quants::{quantize_q2_k, quantize_q3_k, quantize_q4_k, quantize_q5_k, quantize_q6_k};
use crate::half::F16;

layout! {
    /// Q2_K: sixteen sub-blocks of 16, `w = (scale * s[b]) * q - (min_scale * m[b])`, `q` in 0..4.
    /// ```text
    /// 0                                        16                   80      82          84
    /// | s[b] (bits 0-3), m[b] (bits 4-7), b < 16 | 64 bytes of 2-bit q | scale | min_scale |
    /// ```
    /// Two bits each: 32 bytes per 128 weights.
    /// ```text
    /// bytes:      0 … 31         32 … 63
    /// bits 0-1:   w[0..32]       w[128..160]
    /// bits 2-3:   w[32..64]      w[160..192]
    /// bits 4-5:   w[64..96]      w[192..224]
    /// bits 6-7:   w[96..128]     w[224..256]
    /// ```
    pub struct BlockQ2K: 84 {
        /// Scale and minimum of every 16 weights.
        pub scales: [u8; 16],
        /// Four weights per byte.
        pub quants: [u8; 64],
        /// Scale of the sub-block scales.
        pub scale: F16,
        /// Scale of the sub-block minimums.
        pub min_scale: F16,
    }

    /// Q3_K: sixteen sub-blocks of 16, `w = (scale * (s[b] - 32)) * (q - 4)`, `q` in 0..8.
    /// ```text
    /// 0                       32                           96                           108    110
    /// | high bit of q (8 / byte) | low 2 bits of q (4 / byte) | 16 × 6-bit s, packed | scale |
    /// ```
    /// The low bits lie as in [`BlockQ2K`]. Bit `i` of `high[j]` belongs to `w[32 * i + j]`.
    /// Scales: see [`scales_k3`].
    pub struct BlockQ3K: 110 {
        /// Bit 2 of the weights.
        pub high: [u8; 32],
        /// Bits 0 and 1 of the weights.
        pub low: [u8; 64],
        /// Packed 6-bit scales.
        pub scales: [u8; 12],
        /// Scale of the scales.
        pub scale: F16,
    }

    /// Q4_K: eight sub-blocks of 32, `w = (scale * s[b]) * q - (min_scale * m[b])`, `q` in 0..16.
    /// ```text
    /// 0      2           4                                16                   144
    /// | scale | min_scale | 8 × (6-bit s, 6-bit m), packed | 128 bytes of nibbles |
    /// ```
    /// Nibbles: 32 bytes per 64 weights; low nibbles are the first 32 weights, high nibbles the next 32.
    /// ```text
    /// bytes:      0 … 31         32 … 63         64 … 95         96 … 127
    /// bits 0-3:   w[0..32]       w[64..96]       w[128..160]     w[192..224]
    /// bits 4-7:   w[32..64]      w[96..128]      w[160..192]     w[224..256]
    /// ```
    /// Scales and minimums: see [`scales_and_mins_k4`].
    pub struct BlockQ4K: 144 {
        /// Scale of the sub-block scales.
        pub scale: F16,
        /// Scale of the sub-block minimums.
        pub min_scale: F16,
        /// Packed 6-bit scales and minimums.
        pub scales: [u8; 12],
        /// Two weights per byte.
        pub quants: [u8; 128],
    }

    /// Q5_K: eight sub-blocks of 32, `w = (scale * s[b]) * q - (min_scale * m[b])`, `q` in 0..32.
    /// ```text
    /// 0      2           4                                16                       48                   176
    /// | scale | min_scale | 8 × (6-bit s, 6-bit m), packed | high bit of q (8 / byte) | 128 bytes of nibbles |
    /// ```
    /// Scales, minimums and nibbles lie as in [`BlockQ4K`]. Bit `i` of `high[j]` belongs to `w[32 * i + j]`.
    pub struct BlockQ5K: 176 {
        /// Scale of the sub-block scales.
        pub scale: F16,
        /// Scale of the sub-block minimums.
        pub min_scale: F16,
        /// Packed 6-bit scales and minimums.
        pub scales: [u8; 12],
        /// Bit 4 of the weights.
        pub high: [u8; 32],
        /// Bits 0 to 3, two weights per byte.
        pub quants: [u8; 128],
    }

    /// Q6_K: sixteen sub-blocks of 16, `w = (scale * scales[b]) * (q - 32)`, `q` in 0..64.
    /// ```text
    /// 0                      128                     192            208    210
    /// | low 4 bits (2 / byte) | high 2 bits (4 / byte) | scales (i8) | scale |
    /// ```
    /// Each half of 128 weights takes 64 bytes of `low` and 32 of `high`; for `j` in 0..32 of a half:
    /// ```text
    /// w[j]      = low[j]      bits 0-3  and  high[j] bits 0-1
    /// w[j + 32] = low[j + 32] bits 0-3  and  high[j] bits 2-3
    /// w[j + 64] = low[j]      bits 4-7  and  high[j] bits 4-5
    /// w[j + 96] = low[j + 32] bits 4-7  and  high[j] bits 6-7
    /// ```
    pub struct BlockQ6K: 210 {
        /// Bits 0 to 3 of the weights.
        pub low: [u8; 128],
        /// Bits 4 and 5 of the weights.
        pub high: [u8; 64],
        /// Scale of every 16 weights.
        pub scales: [i8; 16],
        /// Scale of the scales.
        pub scale: F16,
    }

    /// Q8_K: `w = scale * quants[i]`. An intermediate form of activations in ggml, not meant for files.
    /// ```text
    /// 0            4                     260                                      292
    /// | scale (f32) | q[0] … q[255] (i8) | Σ of every 16 q, 16 × i16 (not needed) |
    /// ```
    pub struct BlockQ8K: 292 {
        /// Scale of all 256 weights.
        pub scale: f32,
        /// Signed 8-bit weights.
        pub quants: [i8; 256],
        /// Sums of every 16 of `quants`; decoding does not use them.
        pub sums: [i16; 16],
    }
}

block_format!(BlockQ2K = Q2_K, dequantize_q2_k, unpack_q2_k, quantize_q2_k);
block_format!(BlockQ3K = Q3_K, dequantize_q3_k, unpack_q3_k, quantize_q3_k);
block_format!(BlockQ4K = Q4_K, dequantize_q4_k, unpack_q4_k, quantize_q4_k);
block_format!(BlockQ5K = Q5_K, dequantize_q5_k, unpack_q5_k, quantize_q5_k);
block_format!(BlockQ6K = Q6_K, dequantize_q6_k, unpack_q6_k, quantize_q6_k);
block_format!(BlockQ8K = Q8_K, dequantize_q8_k, unpack_q8_k);

/// The sixteen 6-bit scales of Q3_K, unpacked from 12 bytes and shifted to -32..32.
/// ```text
/// byte 0-7:    bits 0-3  low nibble of s[0..8]   bits 4-7  low nibble of s[8..16]
/// byte 8-11:   bits 0-1  top of s[0..4]          bits 2-3  top of s[4..8]
///              bits 4-5  top of s[8..12]         bits 6-7  top of s[12..16]
/// ```
#[inline]
pub const fn scales_k3(packed: &[u8; 12]) -> [i8; 16] {
    let mut scales = [0; 16];
    let mut j = 0;
    while j < 16 {
        let low = packed[j % 8] >> (4 * (j / 8)) & 15;
        let top = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
        scales[j] = (low | top << 4) as i8 - 32;
        j += 1;
    }
    scales
}

/// The eight 6-bit scales and eight 6-bit minimums of Q4_K (and Q5_K), unpacked from 12 bytes.
/// ```text
/// byte 0-3:    bits 0-5  s[0..4]                bits 6-7  top of s[4..8]
/// byte 4-7:    bits 0-5  m[0..4]                bits 6-7  top of m[4..8]
/// byte 8-11:   bits 0-3  low nibble of s[4..8]  bits 4-7  low nibble of m[4..8]
/// ```
#[inline]
pub const fn scales_and_mins_k4(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    let mut j = 0;
    while j < 4 {
        scales[j] = packed[j] & 63;
        mins[j] = packed[j + 4] & 63;
        scales[j + 4] = packed[j + 8] & 15 | (packed[j] >> 6) << 4;
        mins[j + 4] = packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4;
        j += 1;
    }
    (scales, mins)
}

/// Decodes one block.
#[inline]
pub fn dequantize_q2_k(block: &BlockQ2K, out: &mut [f32; K_BLOCK_LEN]) {
    let (scale, min_scale) = (block.scale.to_f32(), block.min_scale.to_f32());
    for (sub, weights) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let step = scale * f32::from(block.scales[sub] & 15);
        let min = min_scale * f32::from(block.scales[sub] >> 4);
        let bytes = &block.quants[32 * (sub / 8) + 16 * (sub % 2)..][..16];
        for (weight, &byte) in weights.iter_mut().zip(bytes) {
            *weight = step * f32::from(byte >> (2 * (sub % 8 / 2)) & 3) - min;
        }
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q3_k(block: &BlockQ3K, out: &mut [f32; K_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    let scales = scales_k3(&block.scales);
    for (sub, weights) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let step = scale * f32::from(scales[sub]);
        let low = &block.low[32 * (sub / 8) + 16 * (sub % 2)..][..16];
        let high = &block.high[16 * (sub % 2)..][..16];
        for (j, weight) in weights.iter_mut().enumerate() {
            let quant = low[j] >> (2 * (sub % 8 / 2)) & 3 | (high[j] >> (sub / 2) & 1) << 2;
            *weight = step * f32::from(quant as i8 - 4);
        }
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q4_k(block: &BlockQ4K, out: &mut [f32; K_BLOCK_LEN]) {
    let (scale, min_scale) = (block.scale.to_f32(), block.min_scale.to_f32());
    let (scales, mins) = scales_and_mins_k4(&block.scales);
    for pair in 0..4 {
        let bytes = &block.quants[32 * pair..32 * (pair + 1)];
        for (shift, sub) in [(0, 2 * pair), (4, 2 * pair + 1)] {
            let step = scale * f32::from(scales[sub]);
            let min = min_scale * f32::from(mins[sub]);
            for (weight, &byte) in out[32 * sub..32 * (sub + 1)].iter_mut().zip(bytes) {
                *weight = step * f32::from((byte >> shift) & 15) - min;
            }
        }
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q5_k(block: &BlockQ5K, out: &mut [f32; K_BLOCK_LEN]) {
    let (scale, min_scale) = (block.scale.to_f32(), block.min_scale.to_f32());
    let (scales, mins) = scales_and_mins_k4(&block.scales);
    for (sub, weights) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let step = scale * f32::from(scales[sub]);
        let min = min_scale * f32::from(mins[sub]);
        let bytes = &block.quants[32 * (sub / 2)..][..32];
        for (j, weight) in weights.iter_mut().enumerate() {
            let quant = bytes[j] >> (4 * (sub % 2)) & 15 | (block.high[j] >> sub & 1) << 4;
            *weight = step * f32::from(quant) - min;
        }
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q6_k(block: &BlockQ6K, out: &mut [f32; K_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for half in 0..2 {
        let low = &block.low[64 * half..64 * (half + 1)];
        let high = &block.high[32 * half..32 * (half + 1)];
        for quarter in 0..4 {
            let low = &low[32 * (quarter % 2)..];
            let (low_shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
            let start = 128 * half + 32 * quarter;
            for j in 0..32 {
                let quant = (low[j] >> low_shift) & 15 | ((high[j] >> high_shift) & 3) << 4;
                let step = scale * f32::from(block.scales[(start + j) / 16]);
                out[start + j] = step * f32::from(quant as i8 - 32);
            }
        }
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q8_k(block: &BlockQ8K, out: &mut [f32; K_BLOCK_LEN]) {
    for (weight, &quant) in out.iter_mut().zip(&block.quants) {
        *weight = block.scale * f32::from(quant);
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q2_k(block: &BlockQ2K, out: &mut [Integers; 8]) {
    let (scale, min_scale) = (block.scale.to_f32(), -block.min_scale.to_f32());
    for (i, part) in out.iter_mut().enumerate() {
        let bytes = &block.quants[32 * (i / 4)..][..32];
        let quants = std::array::from_fn(|j| (bytes[j] >> (2 * (i % 4)) & 3) as i8);
        let packed = [block.scales[2 * i], block.scales[2 * i + 1]];
        let (steps, mins) = (packed.map(|both| i32::from(both & 15)), packed.map(|both| i32::from(both >> 4)));
        *part = Integers { quants, steps, mins, scale, min_scale };
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q3_k(block: &BlockQ3K, out: &mut [Integers; 8]) {
    let scale = block.scale.to_f32();
    let scales = scales_k3(&block.scales);
    for (i, part) in out.iter_mut().enumerate() {
        let low = &block.low[32 * (i / 4)..][..32];
        let quant = |j: usize| low[j] >> (2 * (i % 4)) & 3 | (block.high[j] >> i & 1) << 2;
        let steps = [i32::from(scales[2 * i]), i32::from(scales[2 * i + 1])];
        *part = Integers { quants: std::array::from_fn(|j| quant(j) as i8 - 4), steps, scale, ..Integers::default() };
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q4_k(block: &BlockQ4K, out: &mut [Integers; 8]) {
    let (scale, min_scale) = (block.scale.to_f32(), -block.min_scale.to_f32());
    let (scales, mins) = scales_and_mins_k4(&block.scales);
    for (sub, part) in out.iter_mut().enumerate() {
        let bytes = &block.quants[32 * (sub / 2)..][..32];
        let quants = std::array::from_fn(|j| (bytes[j] >> (4 * (sub % 2)) & 15) as i8);
        let (step, min) = (i32::from(scales[sub]), i32::from(mins[sub]));
        *part = Integers { quants, steps: [step; 2], mins: [min; 2], scale, min_scale };
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q5_k(block: &BlockQ5K, out: &mut [Integers; 8]) {
    let (scale, min_scale) = (block.scale.to_f32(), -block.min_scale.to_f32());
    let (scales, mins) = scales_and_mins_k4(&block.scales);
    for (sub, part) in out.iter_mut().enumerate() {
        let bytes = &block.quants[32 * (sub / 2)..][..32];
        let quant = |j: usize| bytes[j] >> (4 * (sub % 2)) & 15 | (block.high[j] >> sub & 1) << 4;
        let quants = std::array::from_fn(|j| quant(j) as i8);
        let (step, min) = (i32::from(scales[sub]), i32::from(mins[sub]));
        *part = Integers { quants, steps: [step; 2], mins: [min; 2], scale, min_scale };
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q6_k(block: &BlockQ6K, out: &mut [Integers; 8]) {
    let scale = block.scale.to_f32();
    for (i, part) in out.iter_mut().enumerate() {
        let (half, quarter) = (i / 4, i % 4);
        let low = &block.low[64 * half + 32 * (quarter % 2)..][..32];
        let high = &block.high[32 * half..][..32];
        let quant = |j: usize| (low[j] >> (4 * (quarter / 2))) & 15 | ((high[j] >> (2 * quarter)) & 3) << 4;
        let steps = [i32::from(block.scales[2 * i]), i32::from(block.scales[2 * i + 1])];
        *part = Integers { quants: std::array::from_fn(|j| quant(j) as i8 - 32), steps, scale, ..Integers::default() };
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_q8_k(block: &BlockQ8K, out: &mut [Integers; 8]) {
    for (part, quants) in out.iter_mut().zip(block.quants.as_chunks::<32>().0) {
        *part = Integers { quants: *quants, scale: block.scale, ..Integers::default() };
    }
}
