//! The format-generic doors: rows of packed bytes to `f32` and back.

use crate::blocks::{Encode, Format, simple};
use crate::error::Error;
use crate::importance::Importance;
use crate::types::GgmlType;
use crate::{with_encoder, with_format};

/// Decodes packed weights: the scalar reference of every type for which [`GgmlType::can_decode`] holds.
///
/// `bytes` are whole blocks, `out` receives exactly their weights; several rows that follow each other in memory
/// decode in one call. The results are bit-equal to `gguf.quants.dequantize` of the PyPI package `gguf` for the formats that
/// it has, and to llama.cpp's for the others. Integers and double precision are rounded to the nearest `f32`.
///
/// # Errors
/// [`Error::CannotDecode`], or [`Error::RowSize`] when the two lengths do not fit together.
pub fn decode_row(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::RowSize { ty, bytes: bytes.len(), weights: out.len() });
    }
    with_format!(ty, F => decode_blocks::<F>(bytes, out), else return simple::decode(ty, bytes, out));
    Ok(())
}

/// Packs weights and appends the bytes to `out`. Several rows may follow each other; `importance` has one entry for each
/// column of a row, and `weights` is then a whole number of such rows.
///
/// # Errors
/// [`Error::CannotEncode`]; [`Error::RowSize`] when `weights` is no whole number of blocks;
/// [`Error::ImportanceSize`]; [`Error::NotEncodable`] for the first weight that a block format cannot hold (not finite, or
/// its block's scale would overflow). Plain number types take every value, as a conversion does. On error `out` is as it
/// was.
pub fn encode_row(
    ty: GgmlType,
    weights: &[f32],
    importance: Option<&Importance>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let Some(n_bytes) = ty.row_bytes(weights.len()) else {
        return Err(Error::RowSize { ty, bytes: 0, weights: weights.len() });
    };
    if let Some(columns) = importance.map(|importance| importance.values().len())
        && !weights.len().is_multiple_of(columns)
    {
        return Err(Error::ImportanceSize { found: columns, expected: weights.len() });
    }
    let before = out.len();
    out.resize(before + n_bytes, 0);
    let bytes = &mut out[before..];
    let result = with_encoder!(
        ty, F => encode_blocks::<F>(weights, importance, bytes), else simple::encode(ty, weights, bytes)
    );
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// Decodes whole blocks: `n · block_bytes` bytes to `n · block_len` weights. What is left over on either side stays.
#[inline(always)]
pub fn decode_blocks<F: Format>(bytes: &[u8], weights: &mut [f32]) {
    let (block_bytes, block_len) = const { (F::TYPE.block_bytes(), F::TYPE.block_len()) };
    for (packed, block) in bytes.chunks_exact(block_bytes).zip(weights.chunks_exact_mut(block_len)) {
        F::decode(packed, block);
    }
}

/// Packs whole blocks: `n · block_len` weights to `n · block_bytes` bytes.
///
/// # Errors
/// As [`encode_row`]; the bytes written by then stay.
///
/// # Panics
/// When the two lengths do not fit together.
#[inline(always)]
pub fn encode_blocks<F: Encode>(
    weights: &[f32],
    importance: Option<&Importance>,
    bytes: &mut [u8],
) -> Result<(), Error> {
    let (block_bytes, block_len) = const { (F::TYPE.block_bytes(), F::TYPE.block_len()) };
    assert_eq!(Some(bytes.len()), F::TYPE.row_bytes(weights.len()), "bytes for exactly these weights");
    let importance = importance.map(Importance::values);
    if let Some(columns) = importance
        && (!columns.len().is_multiple_of(block_len) || !weights.len().is_multiple_of(columns.len()))
    {
        return Err(Error::ImportanceSize { found: columns.len(), expected: weights.len() });
    }
    for (block, (packed, chunk)) in bytes.chunks_exact_mut(block_bytes).zip(weights.chunks_exact(block_len)).enumerate()
    {
        let at = block * block_len;
        let columns = importance.map(|columns| &columns[at % columns.len()..][..block_len]);
        if let Err(index) = F::encode(chunk, columns, packed) {
            return Err(Error::NotEncodable { ty: F::TYPE, index: at + index, value: chunk[index] });
        }
    }
    Ok(())
}
