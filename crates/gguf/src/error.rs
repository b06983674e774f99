//! The one error type of this room: what is wrong, where, and what to do about it.

use std::path::PathBuf;

use crate::types::GgmlType;
use crate::value::ValueKind;

/// Everything that can go wrong with a GGUF file or a row of packed weights.
///
/// The message of an outer variant ([`Error::InFile`], [`Error::InKey`], [`Error::InTensor`]) contains that of
/// the inner one, so printing the error once tells the whole story.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried, e.g. `open`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// Writing to a caller's `io::Write` failed.
    #[error("cannot write the GGUF output: {cause}")]
    Write {
        /// The writer's answer.
        cause: std::io::Error,
    },
    /// A model of which only the description is here is larger than what this program can address.
    #[error("cannot set {bytes} bytes of addresses aside: {cause}")]
    NoRoom {
        /// Bytes of a file.
        bytes: u64,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The path is a directory, a pipe or something else that cannot be mapped.
    #[error("{} is not a regular file: give the path of a .gguf file", path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// An error inside the named file.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file (one part, where the model is split).
        path: PathBuf,
        /// What is wrong in it.
        cause: Box<Error>,
    },
    /// An error inside the value of the named metadata key.
    #[error("metadata key `{key}`: {cause}")]
    InKey {
        /// The key.
        key: String,
        /// What is wrong with its value.
        cause: Box<Error>,
    },
    /// An error in the description of the named tensor.
    #[error("tensor `{name}`: {cause}")]
    InTensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        cause: Box<Error>,
    },
    /// The first four bytes are not `GGUF`.
    #[error(
        "not a GGUF file: it begins with {} instead of \"GGUF\"; check that the download is complete and \
         that this is a model in GGUF format",
        found.escape_ascii()
    )]
    NotGguf {
        /// The first bytes, at most four.
        found: Vec<u8>,
    },
    /// The version field is byte-swapped: the file was written for a big-endian machine.
    #[error(
        "big-endian GGUF (version {version} with its bytes swapped) is not supported: convert the model to little-endian"
    )]
    BigEndian {
        /// The version after swapping.
        version: u32,
    },
    /// Neither version 2 nor 3.
    #[error("GGUF version {version} is not supported, only 2 and 3 are: {advice}")]
    UnsupportedVersion {
        /// The version found.
        version: u32,
        /// What to do.
        advice: &'static str,
    },
    /// The file ends before what it promises.
    #[error(
        "truncated: {what} at byte {offset} needs {needed} bytes, {available} are left; \
         the file is incomplete or damaged, fetch it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Byte offset in the file.
        offset: u64,
        /// Bytes it needs.
        needed: u64,
        /// Bytes the file still has there.
        available: u64,
    },
    /// A field holds something that the format does not allow.
    #[error("{problem} (at byte {offset}): {advice}")]
    Malformed {
        /// What is wrong.
        problem: String,
        /// Byte offset in the file.
        offset: u64,
        /// What to do.
        advice: &'static str,
    },
    /// Two metadata entries have the same key.
    #[error("metadata key `{key}` appears twice: the file is damaged or was joined by hand, convert it again")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// Two tensors have the same name.
    #[error("tensor `{name}` appears twice: the file is damaged or was joined by hand, convert it again")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// A tensor type that ggml does not have, no longer has, or that only a fork has.
    #[error("ggml type {id} ({name}) is not supported: {advice}")]
    UnsupportedType {
        /// The id in the file.
        id: u32,
        /// Its name where one is known, else `unknown`.
        name: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A tensor's shape, size or place in the file is impossible.
    #[error("{problem}: {advice}")]
    BadTensor {
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
    /// A metadata value has another type than the reader of that key needs.
    #[error(
        "metadata key `{key}` holds {found}, expected {expected}: the file does not follow the GGUF specification, convert it again"
    )]
    WrongValueType {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What the file holds.
        found: ValueKind,
    },
    /// A metadata array has another element type than the reader of that key needs.
    #[error(
        "metadata key `{key}` holds an array of {found}, expected {expected}: the file does not follow the GGUF specification, convert it again"
    )]
    WrongElementType {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// The element type that the file holds.
        found: ValueKind,
    },
    /// A metadata value has the right type but does not fit the asked range.
    #[error(
        "metadata key `{key}` holds {value}, expected {expected}: the file does not follow the GGUF specification, convert it again"
    )]
    ValueOutOfRange {
        /// The key.
        key: String,
        /// The value, printed.
        value: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// The parts of a split model do not fit together.
    #[error("split model: {problem}: {advice}")]
    Split {
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
    /// No scalar decoder for this type yet.
    #[error("decoding {ty} is not supported by this version: get the model in another type, such as Q8_0 or Q4_K")]
    CannotDecode {
        /// The type.
        ty: GgmlType,
    },
    /// A type that files do not store weights in.
    #[error("weights are not stored as {ty}: choose a type such as Q4_K, Q8_0 or F16")]
    CannotEncode {
        /// The type.
        ty: GgmlType,
    },
    /// An importance matrix for another number of columns.
    #[error("importance for {found} columns does not fit {expected} weights: it was made for another model")]
    ImportanceSize {
        /// Columns of the importance.
        found: usize,
        /// Weights to pack.
        expected: usize,
    },
    /// An importance that is no weight of a sum.
    #[error("the importance of column {column} is {value}, expected a finite number of at least 0: collect it again")]
    BadImportance {
        /// Index of the column.
        column: usize,
        /// What is there.
        value: f32,
    },
    /// The buffers given to [`crate::decode_row`] or [`crate::encode_row`] do not fit the type.
    #[error("{ty}: {bytes} bytes and {weights} weights do not fit together (blocks of {} weights in {} bytes)", ty.block_len(), ty.block_bytes())]
    RowSize {
        /// The type.
        ty: GgmlType,
        /// Packed bytes given.
        bytes: usize,
        /// Weights given.
        weights: usize,
    },
    /// A weight that the type cannot hold: not finite, or so large that the block's scale overflows.
    #[error("weight {index} is {value}, which {ty} cannot hold: use F32 or BF16, or repair the weights")]
    NotEncodable {
        /// The type.
        ty: GgmlType,
        /// Index in the row.
        index: usize,
        /// The weight.
        value: f32,
    },
    /// The writer was asked for something that would not make a valid file.
    #[error("cannot write this GGUF file: {problem}: {advice}")]
    Writer {
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
}

impl Error {
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        Self::InFile { path: path.to_path_buf(), cause: Box::new(self) }
    }

    pub(crate) fn in_key(self, key: &str) -> Self {
        Self::InKey { key: key.to_owned(), cause: Box::new(self) }
    }

    pub(crate) fn in_tensor(self, name: &str) -> Self {
        Self::InTensor { name: name.to_owned(), cause: Box::new(self) }
    }
}
