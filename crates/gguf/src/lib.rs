//! GGUF files and the ggml block formats.
//!
//! This room turns a file into metadata and tensors and back, and a row of packed weights into `f32` and back.
//! It is the only parser of model files: every byte is checked here, so that the rooms above may trust
//! names, shapes and offsets. The scalar decoders are the reference that every fast kernel is compared with.
//!
//! It refuses to know what a tensor means: no architecture, no tokenizer, no compute. It opens no network
//! connection and copies no weights; tensors are borrowed from a memory map.
//!
//! Where to go next: [`GgufFile`] reads, [`Writer`] writes, [`GgmlType`] lists the formats, [`blocks`] holds
//! the packed layouts with a picture of each, [`decode_row`] and [`encode_row`] are the format-generic doors.
//!
//! Sources: the GGUF specification (`docs/gguf.md` of ggml) and the `gguf` package on PyPI, which is the oracle
//! of the tests under `tests/`.

#![deny(unsafe_code)]

pub mod blocks;
mod cursor;
pub mod encode;
mod error;
mod file;
mod half;
mod importance;
mod metadata;
mod mmap;
mod parse;
mod rows;
mod split;
mod tensor;
mod types;
mod value;
mod writer;

pub use error::Error;
pub use file::{GgufFile, Head, Part};
pub use half::{BF16, F16};
pub use importance::Importance;
pub use metadata::Metadata;
pub use rows::{decode_blocks, decode_row, encode_blocks, encode_row};
pub use split::{parse_split_name, split_file_name};
pub use tensor::{TensorInfo, TensorView};
pub use types::GgmlType;
pub use value::{Array, Value, ValueKind};
pub use writer::{DataWriter, SplitLimit, Writer};

/// Bytes between aligned tensor offsets where a file says nothing else (GGUF specification).
pub const DEFAULT_ALIGNMENT: u32 = 32;
