//! The plain number types: one weight after the other, little-endian, no scale.

use crate::error::Error;
use crate::half::{BF16, F16};
use crate::types::GgmlType;

/// Decodes plain numbers, rounded to the nearest `f32`. The lengths fit together.
#[inline(always)]
pub fn decode(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    match ty {
        GgmlType::F32 => each(bytes, out, f32::from_le_bytes),
        GgmlType::F16 => each(bytes, out, |bytes| F16::from_le_bytes(bytes).to_f32()),
        GgmlType::BF16 => each(bytes, out, |bytes| BF16::from_le_bytes(bytes).to_f32()),
        GgmlType::F64 => each(bytes, out, |bytes| f64::from_le_bytes(bytes) as f32),
        GgmlType::I8 => each(bytes, out, |bytes| f32::from(i8::from_le_bytes(bytes))),
        GgmlType::I16 => each(bytes, out, |bytes| f32::from(i16::from_le_bytes(bytes))),
        GgmlType::I32 => each(bytes, out, |bytes| i32::from_le_bytes(bytes) as f32),
        GgmlType::I64 => each(bytes, out, |bytes| i64::from_le_bytes(bytes) as f32),
        _ => return Err(Error::CannotDecode { ty }),
    }
    Ok(())
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (weight, &chunk) in out.iter_mut().zip(chunks) {
        *weight = value(chunk);
    }
}

/// Writes plain numbers, rounded to nearest, ties to even. The lengths fit together.
#[inline(always)]
pub fn encode(ty: GgmlType, weights: &[f32], out: &mut [u8]) -> Result<(), Error> {
    match ty {
        GgmlType::F32 => each_back(weights, out, f32::to_le_bytes),
        GgmlType::F16 => each_back(weights, out, |weight| F16::from_f32(weight).to_le_bytes()),
        GgmlType::BF16 => each_back(weights, out, |weight| BF16::from_f32(weight).to_le_bytes()),
        GgmlType::F64 => each_back(weights, out, |weight| f64::from(weight).to_le_bytes()),
        _ => return Err(Error::CannotEncode { ty }),
    }
    Ok(())
}

#[inline(always)]
fn each_back<const N: usize>(weights: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    let (chunks, _) = out.as_chunks_mut::<N>();
    for (chunk, &weight) in chunks.iter_mut().zip(weights) {
        *chunk = bytes(weight);
    }
}
