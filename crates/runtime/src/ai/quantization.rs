//! The block formats: structs, scalar decoders and sizes, as `hublabio-gguf` defines them.

pub use hublabio_gguf::blocks::*;
pub use hublabio_gguf::{BF16, F16, GgmlType, decode_row, encode_row};
