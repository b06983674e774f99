//! The packed layouts, one file per family: struct, picture of the bits, scalar decoder and integer form.
//!
//! The structs mirror the C structs of `ggml-common.h` field by field and byte by byte; fast kernels read the
//! same layouts from the file's bytes. Floating-point operations run in the order of ggml's reference decoders,
//! so the results are equal to theirs to the last bit.
//!
//! A new format is a struct declared by `layout!`, a decoder, an unpacker, one line of `block_format!` and one in
//! [`with_format!`](crate::with_format); an encoder in `crate::encode` and a line in
//! [`with_encoder!`](crate::with_encoder) if files are to be written in it.

pub mod few_bits;
pub mod float4;
mod format;
pub mod grids;
pub mod iq1;
pub mod iq2;
pub mod iq3;
pub mod iq4;
pub mod k_quants;
mod layout;
pub mod legacy;
pub mod simple;
pub mod ternary;

pub use few_bits::*;
pub use float4::*;
pub(crate) use format::block_format;
pub use format::{Encode, Format, Integers};
pub use iq1::*;
pub use iq2::*;
pub use iq3::*;
pub use iq4::*;
pub use k_quants::*;
pub(crate) use layout::layout;
pub use legacy::*;
pub use ternary::*;

/// Weights in a block of the older formats.
pub const LEGACY_BLOCK_LEN: usize = 32;
/// Weights in a super-block of the k-quants and i-quants.
pub const K_BLOCK_LEN: usize = 256;

/// Evaluates `$body` with `$format` naming the [`Format`] of a [`GgmlType`](crate::GgmlType), or `$otherwise` for the
/// plain number types, which have no blocks.
#[macro_export]
macro_rules! with_format {
    ($ty:expr, $format:ident => $body:expr, else $otherwise:expr) => {
        $crate::with_format!(@ $ty, $format, $body, $otherwise;
            Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Q8_0 BlockQ8_0, Q8_1 BlockQ8_1,
            IQ4_NL BlockIQ4NL, IQ4_XS BlockIQ4XS, MXFP4 BlockMXFP4, NVFP4 BlockNVFP4,
            TQ1_0 BlockTQ1_0, TQ2_0 BlockTQ2_0, Q1_0 BlockQ1_0, Q2_0 BlockQ2_0,
            IQ1_S BlockIQ1S, IQ1_M BlockIQ1M, IQ2_XXS BlockIQ2XXS, IQ2_XS BlockIQ2XS, IQ2_S BlockIQ2S,
            IQ3_XXS BlockIQ3XXS, IQ3_S BlockIQ3S,
            Q2_K BlockQ2K, Q3_K BlockQ3K, Q4_K BlockQ4K, Q5_K BlockQ5K, Q6_K BlockQ6K, Q8_K BlockQ8K
        )
    };
    (@ $ty:expr, $format:ident, $body:expr, $otherwise:expr; $($variant:ident $block:ident),+) => {
        match $ty {
            $($crate::GgmlType::$variant => {
                type $format = $crate::blocks::$block;
                $body
            })+
            _ => $otherwise,
        }
    };
}

/// As [`with_format!`](crate::with_format), for formats that can be written.
#[macro_export]
macro_rules! with_encoder {
    ($ty:expr, $format:ident => $body:expr, else $otherwise:expr) => {
        $crate::with_format!(@ $ty, $format, $body, $otherwise;
            Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Q8_0 BlockQ8_0,
            Q2_K BlockQ2K, Q3_K BlockQ3K, Q4_K BlockQ4K, Q5_K BlockQ5K, Q6_K BlockQ6K,
            IQ4_NL BlockIQ4NL, IQ4_XS BlockIQ4XS, MXFP4 BlockMXFP4, NVFP4 BlockNVFP4,
            IQ1_S BlockIQ1S, IQ1_M BlockIQ1M, IQ2_XXS BlockIQ2XXS, IQ2_XS BlockIQ2XS, IQ2_S BlockIQ2S,
            IQ3_XXS BlockIQ3XXS, IQ3_S BlockIQ3S,
            TQ1_0 BlockTQ1_0, TQ2_0 BlockTQ2_0, Q1_0 BlockQ1_0, Q2_0 BlockQ2_0
        )
    };
}
