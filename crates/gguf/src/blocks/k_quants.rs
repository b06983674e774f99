//! The k-quants: super-blocks of 256 weights, cut into sub-blocks with small integer scales of their own.

use super::{K_BLOCK_LEN, field};
use crate::half::F16;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the sub-block scales.
    pub scale: F16,
    /// Scale of the sub-block minimums.
    pub min_scale: F16,
    /// Packed 6-bit scales and minimums.
    pub scales: [u8; 12],
    /// Two weights per byte.
    pub quants: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144);

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ6K {
    /// Bits 0 to 3 of the weights.
    pub low: [u8; 128],
    /// Bits 4 and 5 of the weights.
    pub high: [u8; 64],
    /// Scale of every 16 weights.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub scale: F16,
}
const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl BlockQ4K {
    /// From the bytes of a file.
    #[inline]
    pub const fn from_bytes(bytes: &[u8; 144]) -> Self {
        Self {
            scale: F16::from_le_bytes(field(bytes, 0)),
            min_scale: F16::from_le_bytes(field(bytes, 2)),
            scales: field(bytes, 4),
            quants: field(bytes, 16),
        }
    }
}

impl BlockQ6K {
    /// From the bytes of a file.
    #[inline]
    pub const fn from_bytes(bytes: &[u8; 210]) -> Self {
        let raw: [u8; 16] = field(bytes, 192);
        let mut scales = [0i8; 16];
        let mut i = 0;
        while i < 16 {
            scales[i] = raw[i].cast_signed();
            i += 1;
        }
        Self { low: field(bytes, 0), high: field(bytes, 128), scales, scale: F16::from_le_bytes(field(bytes, 208)) }
    }
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
