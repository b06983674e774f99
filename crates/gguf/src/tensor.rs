//! What a file says about a tensor, and a borrowed view of its bytes.

use crate::error::Error;
use crate::rows::decode_row;
use crate::types::GgmlType;

/// Name, shape, type and place of one tensor. Checked when the file was opened: the sizes below cannot overflow
/// and the bytes lie inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Unique in the file.
    pub name: String,
    /// Weights along each dimension, at most four, none zero; `dims[0]` is contiguous in memory (the reverse of a
    /// PyTorch shape). Empty for a scalar.
    pub dims: Vec<u64>,
    /// How the weights are packed.
    pub ty: GgmlType,
    pub(crate) part: usize,
    /// From the start of the part's file.
    pub(crate) file_offset: u64,
    pub(crate) n_bytes: u64,
}

impl TensorInfo {
    /// Weights in the tensor.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bytes in the file.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Weights in one row (`dims[0]`; 1 for a scalar).
    pub fn row_len(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all dimensions but the first.
    pub fn n_rows(&self) -> u64 {
        self.dims.iter().skip(1).product()
    }

    /// Which part of a split model holds the bytes (0 for a single file).
    pub fn part(&self) -> usize {
        self.part
    }

    /// Where the bytes start in the part's file.
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }
}

/// A tensor whose bytes are borrowed from the file.
///
/// In a mapped file the bytes start at a multiple of the file's alignment (32 or more); in bytes that the caller
/// supplied they may start anywhere, so readers must not assume an alignment.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Name, shape and type.
    pub info: &'a TensorInfo,
    /// The packed weights, exactly `info.n_bytes()` of them, rows one after the other.
    pub data: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        // n_rows is at least 1, because no dimension is zero.
        self.data.len() / self.info.n_rows() as usize
    }

    /// The packed bytes of row `row`, `None` past the last.
    pub fn row(&self, row: usize) -> Option<&'a [u8]> {
        let bytes = self.row_bytes();
        let start = row.checked_mul(bytes)?;
        self.data.get(start..start.checked_add(bytes)?)
    }

    /// Decodes all weights, in memory order.
    ///
    /// # Errors
    /// [`Error::CannotDecode`], with the tensor's name, for types without a decoder.
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        let named = |error: Error| error.in_tensor(&self.info.name);
        if !self.info.ty.can_decode() {
            return Err(named(Error::CannotDecode { ty: self.info.ty }));
        }
        let mut weights = vec![0.0; self.info.n_elements() as usize];
        decode_row(self.info.ty, self.data, &mut weights).map_err(named)?;
        Ok(weights)
    }
}
