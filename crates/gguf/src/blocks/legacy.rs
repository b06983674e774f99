//! The older formats: 32 weights and one scale.
//!
//! In all 4-bit parts, byte `j` holds weight `j` in its low and weight `j + 16` in its high nibble:
//! ```text
//! byte:        0         1              15
//! bits 0-3:  w[0]      w[1]    …     w[15]
//! bits 4-7:  w[16]     w[17]   …     w[31]
//! ```

use super::{LEGACY_BLOCK_LEN, field};
use crate::half::F16;

/// Q8_0: `w[i] = scale * quants[i]`.
/// ```text
/// 0      2                     34
/// | scale | q[0] … q[31] (i8)   |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale of all 32 weights.
    pub scale: F16,
    /// Signed 8-bit weights.
    pub quants: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

/// Q4_0: `w[i] = scale * (q[i] - 8)`, `q` in 0..16.
/// ```text
/// 0      2                                  18
/// | scale | nibbles, see the module's picture |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale of all 32 weights.
    pub scale: F16,
    /// Two weights per byte.
    pub quants: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_0>() == 18);

/// Q5_0: `w[i] = scale * (q[i] - 16)`, `q` in 0..32; its fifth bit is bit `i` of the little-endian word `high_bits`.
/// ```text
/// 0      2           6                                  22
/// | scale | high_bits | nibbles, see the module's picture |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale of all 32 weights.
    pub scale: F16,
    /// Bit 4 of every weight.
    pub high_bits: [u8; 4],
    /// Bits 0 to 3, two weights per byte.
    pub quants: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl BlockQ8_0 {
    /// From the bytes of a file.
    #[inline]
    pub const fn from_bytes(bytes: &[u8; 34]) -> Self {
        let raw: [u8; 32] = field(bytes, 2);
        let mut quants = [0i8; 32];
        let mut i = 0;
        while i < 32 {
            quants[i] = raw[i].cast_signed();
            i += 1;
        }
        Self { scale: F16::from_le_bytes(field(bytes, 0)), quants }
    }

    /// As the bytes of a file.
    pub fn to_bytes(&self) -> [u8; 34] {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&self.scale.to_le_bytes());
        for (byte, &quant) in bytes[2..].iter_mut().zip(&self.quants) {
            *byte = quant.cast_unsigned();
        }
        bytes
    }
}

impl BlockQ4_0 {
    /// From the bytes of a file.
    #[inline]
    pub const fn from_bytes(bytes: &[u8; 18]) -> Self {
        Self { scale: F16::from_le_bytes(field(bytes, 0)), quants: field(bytes, 2) }
    }

    /// As the bytes of a file.
    pub fn to_bytes(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..2].copy_from_slice(&self.scale.to_le_bytes());
        bytes[2..].copy_from_slice(&self.quants);
        bytes
    }
}

impl BlockQ5_0 {
    /// From the bytes of a file.
    #[inline]
    pub const fn from_bytes(bytes: &[u8; 22]) -> Self {
        Self { scale: F16::from_le_bytes(field(bytes, 0)), high_bits: field(bytes, 2), quants: field(bytes, 6) }
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q8_0(block: &BlockQ8_0, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (weight, &quant) in out.iter_mut().zip(&block.quants) {
        *weight = scale * f32::from(quant);
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q4_0(block: &BlockQ4_0, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    for (j, &byte) in block.quants.iter().enumerate() {
        out[j] = scale * f32::from((byte & 15) as i8 - 8);
        out[j + 16] = scale * f32::from((byte >> 4) as i8 - 8);
    }
}

/// Decodes one block.
#[inline]
pub fn dequantize_q5_0(block: &BlockQ5_0, out: &mut [f32; LEGACY_BLOCK_LEN]) {
    let scale = block.scale.to_f32();
    let high_bits = u32::from_le_bytes(block.high_bits);
    let high = |i: usize| ((high_bits >> i) as u8 & 1) << 4;
    for (j, &byte) in block.quants.iter().enumerate() {
        out[j] = scale * f32::from((byte & 15 | high(j)) as i8 - 16);
        out[j + 16] = scale * f32::from((byte >> 4 | high(j + 16)) as i8 - 16);
    }
}

/// Packs 32 weights: the largest magnitude becomes ±127.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
pub fn quantize_q8_0(weights: &[f32; LEGACY_BLOCK_LEN]) -> Result<BlockQ8_0, usize> {
    let largest = largest_magnitude(weights)?;
    let scale = weights[largest].abs() / 127.0;
    let stored = F16::from_f32(scale);
    if !stored.to_f32().is_finite() {
        return Err(largest);
    }
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut quants = [0; 32];
    for (quant, &weight) in quants.iter_mut().zip(weights) {
        // Halves round away from zero, as in ggml. The cast saturates where 1/scale overflowed to infinity.
        *quant = (weight * inverse).round() as i8;
    }
    Ok(BlockQ8_0 { scale: stored, quants })
}

/// Packs 32 weights: the one of largest magnitude becomes -8 times the scale, whose sign is chosen for that.
///
/// # Errors
/// As [`quantize_q8_0`].
pub fn quantize_q4_0(weights: &[f32; LEGACY_BLOCK_LEN]) -> Result<BlockQ4_0, usize> {
    let largest = largest_magnitude(weights)?;
    let scale = weights[largest] / -8.0;
    let stored = F16::from_f32(scale);
    if !stored.to_f32().is_finite() {
        return Err(largest);
    }
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    // Adding 8.5 and truncating rounds the shifted value to nearest; the cast saturates at 0.
    let quant = |weight: f32| ((weight * inverse + 8.5) as u8).min(15);
    let mut quants = [0; 16];
    for (j, byte) in quants.iter_mut().enumerate() {
        *byte = quant(weights[j]) | quant(weights[j + 16]) << 4;
    }
    Ok(BlockQ4_0 { scale: stored, quants })
}

/// Index of the first weight with the largest magnitude; the error is the index of one that is not finite.
fn largest_magnitude(weights: &[f32; LEGACY_BLOCK_LEN]) -> Result<usize, usize> {
    let mut largest = 0;
    for (i, weight) in weights.iter().enumerate() {
        if !weight.is_finite() {
            return Err(i);
        }
        if weight.abs() > weights[largest].abs() {
            largest = i;
        }
    }
    Ok(largest)
}
