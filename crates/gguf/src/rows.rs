//! The format-generic doors: a row of packed bytes to `f32` and back.

use crate::blocks::{
    BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ6K, BlockQ8_0, dequantize_q4_0, dequantize_q4_k, dequantize_q5_0,
    dequantize_q6_k, dequantize_q8_0, quantize_q4_0, quantize_q8_0, simple,
};
use crate::error::Error;
use crate::types::GgmlType;

/// Decodes packed weights: the scalar reference of every type for which [`GgmlType::can_decode`] holds.
///
/// `bytes` are whole blocks, `out` receives exactly their weights; several rows that follow each other in memory
/// decode in one call. The results are bit-equal to `gguf.quants.dequantize` of the PyPI package `gguf`.
///
/// # Errors
/// [`Error::CannotDecode`], or [`Error::RowSize`] when the two lengths do not fit together.
pub fn decode_row(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    if !ty.can_decode() {
        return Err(Error::CannotDecode { ty });
    }
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::RowSize { ty, bytes: bytes.len(), weights: out.len() });
    }
    match ty {
        GgmlType::F32 => simple::decode_f32(bytes, out),
        GgmlType::F16 => simple::decode_f16(bytes, out),
        GgmlType::BF16 => simple::decode_bf16(bytes, out),
        GgmlType::Q4_0 => decode_blocks(bytes, out, BlockQ4_0::from_bytes, dequantize_q4_0),
        GgmlType::Q5_0 => decode_blocks(bytes, out, BlockQ5_0::from_bytes, dequantize_q5_0),
        GgmlType::Q8_0 => decode_blocks(bytes, out, BlockQ8_0::from_bytes, dequantize_q8_0),
        GgmlType::Q4_K => decode_blocks(bytes, out, BlockQ4K::from_bytes, dequantize_q4_k),
        GgmlType::Q6_K => decode_blocks(bytes, out, BlockQ6K::from_bytes, dequantize_q6_k),
        _ => return Err(Error::CannotDecode { ty }),
    }
    Ok(())
}

/// Decodes block by block: `B` bytes to `W` weights.
fn decode_blocks<const B: usize, const W: usize, Block>(
    bytes: &[u8],
    out: &mut [f32],
    from_bytes: impl Fn(&[u8; B]) -> Block,
    dequantize: impl Fn(&Block, &mut [f32; W]),
) {
    let (packed, _) = bytes.as_chunks::<B>();
    let (weights, _) = out.as_chunks_mut::<W>();
    for (packed, weights) in packed.iter().zip(weights) {
        dequantize(&from_bytes(packed), weights);
    }
}

/// Packs weights, rounding to nearest, and appends the bytes to `out`.
///
/// # Errors
/// [`Error::CannotEncode`]; [`Error::RowSize`] when `weights` is no whole number of blocks;
/// [`Error::NotEncodable`] for the first weight that a block format cannot hold (not finite, or its block's scale
/// would overflow). F32, F16 and BF16 take every value, as a conversion does. On error `out` is as it was.
pub fn encode_row(ty: GgmlType, weights: &[f32], out: &mut Vec<u8>) -> Result<(), Error> {
    if !ty.can_encode() {
        return Err(Error::CannotEncode { ty });
    }
    let Some(bytes) = ty.row_bytes(weights.len()) else {
        return Err(Error::RowSize { ty, bytes: 0, weights: weights.len() });
    };
    out.reserve(bytes);
    match ty {
        GgmlType::F32 => weights.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes())),
        GgmlType::F16 => weights.iter().for_each(|&w| out.extend_from_slice(&crate::F16::from_f32(w).to_le_bytes())),
        GgmlType::BF16 => weights.iter().for_each(|&w| out.extend_from_slice(&crate::BF16::from_f32(w).to_le_bytes())),
        GgmlType::Q4_0 => encode_blocks(ty, weights, out, |w| quantize_q4_0(w).map(|block| block.to_bytes()))?,
        GgmlType::Q8_0 => encode_blocks(ty, weights, out, |w| quantize_q8_0(w).map(|block| block.to_bytes()))?,
        _ => return Err(Error::CannotEncode { ty }),
    }
    Ok(())
}

/// Runs `encode` over blocks of `W` weights; its error is the index of the bad weight in the block.
fn encode_blocks<const B: usize, const W: usize>(
    ty: GgmlType,
    weights: &[f32],
    out: &mut Vec<u8>,
    encode: impl Fn(&[f32; W]) -> Result<[u8; B], usize>,
) -> Result<(), Error> {
    let before = out.len();
    let (chunks, _) = weights.as_chunks::<W>();
    for (block, chunk) in chunks.iter().enumerate() {
        match encode(chunk) {
            Ok(packed) => out.extend_from_slice(&packed),
            Err(at) => {
                out.truncate(before);
                return Err(Error::NotEncodable { ty, index: block * W + at, value: chunk[at] });
            }
        }
    }
    Ok(())
}
