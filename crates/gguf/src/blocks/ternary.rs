//! Ternary formats: a weight is minus the scale, zero or the scale.

use super::{Integers, K_BLOCK_LEN, block_format, layout};
use crate::encode::ternary::{quantize_tq1_0, quantize_tq2_0};
use crate::half::F16;

layout! {
    /// TQ1_0: `w[i] = scale * (t[i] - 1)`, `t` in 0..3, five of them in a byte.
    /// ```text
    /// 0                         32                        48                52     54
    /// | w[0..160], 5 per byte    | w[160..240], 5 per byte | w[240..256], 4   | scale |
    /// ```
    /// A byte is the fraction `0.t₀t₁t₂t₃t₄` in base 3, in units of 1/256 and rounded up: the integer part of three times
    /// the fraction is the next digit. In each part, the first digits of all bytes are the first weights:
    /// ```text
    /// byte:          0        1              31            32       …      47             48      …     51
    /// digit 0:     w[0]     w[1]     …     w[31]         w[160]     …    w[175]         w[240]    …   w[243]
    /// digit 1:     w[32]    w[33]    …     w[63]         w[176]     …    w[191]         w[244]    …   w[247]
    ///   …
    /// digit 4:     w[128]   w[129]   …     w[159]        w[224]     …    w[239]         (none)
    /// ```
    pub struct BlockTQ1_0: 54 {
        /// Five weights per byte.
        pub quants: [u8; 48],
        /// Four weights per byte.
        pub last: [u8; 4],
        /// Scale of all 256 weights.
        pub scale: F16,
    }

    /// TQ2_0: `w[i] = scale * (q[i] - 1)`, `q` in 0..4 (this program writes no 3).
    /// ```text
    /// 0                                   64     66
    /// | 2 × 32 bytes of 2-bit numbers      | scale |
    /// ```
    /// ```text
    /// bytes:      0 … 31          32 … 63
    /// bits 0-1:   w[0..32]        w[128..160]
    /// bits 2-3:   w[32..64]       w[160..192]
    /// bits 4-5:   w[64..96]       w[192..224]
    /// bits 6-7:   w[96..128]      w[224..256]
    /// ```
    pub struct BlockTQ2_0: 66 {
        /// Four weights per byte.
        pub quants: [u8; 64],
        /// Scale of all 256 weights.
        pub scale: F16,
    }
}

block_format!(BlockTQ1_0 = TQ1_0, dequantize_tq1_0, unpack_tq1_0, quantize_tq1_0);
block_format!(BlockTQ2_0 = TQ2_0, dequantize_tq2_0, unpack_tq2_0, quantize_tq2_0);

/// The digits less one, in the order of the weights.
#[inline(always)]
fn tq1_0_values(block: &BlockTQ1_0) -> [i8; K_BLOCK_LEN] {
    let mut values = [0; K_BLOCK_LEN];
    let (first, rest) = values.split_at_mut(160);
    let (second, last) = rest.split_at_mut(80);
    digits::<5>(&block.quants[..32], first);
    digits::<5>(&block.quants[32..], second);
    digits::<4>(&block.last, last);
    values
}

/// `N` digits of every byte, less one: all first ones, then all second ones.
#[inline(always)]
fn digits<const N: usize>(bytes: &[u8], values: &mut [i8]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    for (values, power) in values.chunks_exact_mut(bytes.len()).zip(&POWERS[..N]) {
        for (value, byte) in values.iter_mut().zip(bytes) {
            // Wrapping drops the digits before this one, the shift those behind it.
            let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
            *value = digit as i8 - 1;
        }
    }
}

/// The 2-bit numbers less one of weights `32 * part` to `32 * part + 31`.
#[inline(always)]
fn tq2_0_values(block: &BlockTQ2_0, part: usize) -> [i8; 32] {
    let bytes = &block.quants[part / 4 * 32..][..32];
    std::array::from_fn(|j| (bytes[j] >> (2 * (part % 4)) & 3) as i8 - 1)
}

/// Decodes one block.
#[inline]
pub fn dequantize_tq1_0(block: &BlockTQ1_0, out: &mut [f32; K_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (weight, value) in out.iter_mut().zip(tq1_0_values(block)) {
        *weight = f32::from(value) * scale;
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_tq2_0(block: &BlockTQ2_0, out: &mut [f32; K_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (part, weights) in out.chunks_exact_mut(32).enumerate() {
        for (weight, value) in weights.iter_mut().zip(tq2_0_values(block, part)) {
            *weight = f32::from(value) * scale;
        }
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_tq1_0(block: &BlockTQ1_0, out: &mut [Integers; 8]) {
    let scale = block.scale.to_f32();
    let values = tq1_0_values(block);
    for (part, quants) in out.iter_mut().zip(values.as_chunks().0) {
        *part = Integers { quants: *quants, scale, ..Integers::default() };
    }
}

/// The integer form.
#[inline(always)]
pub fn unpack_tq2_0(block: &BlockTQ2_0, out: &mut [Integers; 8]) {
    let scale = block.scale.to_f32();
    for (part, integers) in out.iter_mut().enumerate() {
        *integers = Integers { quants: tq2_0_values(block, part), scale, ..Integers::default() };
    }
}
