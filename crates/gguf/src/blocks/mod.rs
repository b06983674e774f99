//! The packed layouts, one struct and one scalar decoder per format, with a picture of the bits beside each.
//!
//! The structs mirror the C structs of `ggml-common.h` field by field and byte by byte; fast kernels read the
//! same layouts from the file's bytes. Floating-point operations run in the order of ggml's reference decoders,
//! so the results are equal to theirs to the last bit.
//!
//! A new format is a struct, a size assert, `from_bytes`, a decoder, one line in [`crate::decode_row`] and one in
//! [`crate::GgmlType::can_decode`].

pub mod k_quants;
pub mod legacy;
pub mod simple;

pub use k_quants::{BlockQ4K, BlockQ6K, dequantize_q4_k, dequantize_q6_k, scales_and_mins_k4};
pub use legacy::{
    BlockQ4_0, BlockQ5_0, BlockQ8_0, dequantize_q4_0, dequantize_q5_0, dequantize_q8_0, quantize_q4_0, quantize_q8_0,
};

/// Weights in a block of the older formats.
pub const LEGACY_BLOCK_LEN: usize = 32;
/// Weights in a super-block of the k-quants.
pub const K_BLOCK_LEN: usize = 256;

/// `N` bytes of `bytes` from `at`, for the `from_bytes` of blocks, where the range is a constant.
#[inline(always)]
const fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    let mut i = 0;
    while i < N {
        out[i] = bytes[at + i];
        i += 1;
    }
    out
}
