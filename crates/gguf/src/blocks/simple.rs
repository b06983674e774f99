//! F32, F16 and BF16: one weight after the other, little-endian.

use crate::half::{BF16, F16};

/// Copies `bytes.len() / 4` weights.
pub(crate) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    let (chunks, _) = bytes.as_chunks();
    for (weight, &chunk) in out.iter_mut().zip(chunks) {
        *weight = f32::from_le_bytes(chunk);
    }
}

/// Widens `bytes.len() / 2` weights.
pub(crate) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let (chunks, _) = bytes.as_chunks();
    for (weight, &chunk) in out.iter_mut().zip(chunks) {
        *weight = F16::from_le_bytes(chunk).to_f32();
    }
}

/// Widens `bytes.len() / 2` weights.
pub(crate) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    let (chunks, _) = bytes.as_chunks();
    for (weight, &chunk) in out.iter_mut().zip(chunks) {
        *weight = BF16::from_le_bytes(chunk).to_f32();
    }
}
