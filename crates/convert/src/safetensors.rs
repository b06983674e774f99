//! Safetensors files: the header, checked to the last byte, and reads of parts of a tensor.
//!
//! ```text
//! | n: u64 LE | header: n bytes of JSON, padded with spaces | data …                        |
//!               {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, …}
//! ```
//! Offsets count from the first byte of the data. As the format demands, the tensors lie one behind the other without
//! holes, without overlaps, and fill the file. Source: the format section of the README of huggingface/safetensors.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::open_regular;
use crate::error::Error;

/// Longest header that is read; the reference implementation has the same limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Most dimensions of a tensor. No checkpoint needs as many; a limit keeps hostile shapes short.
const MAX_DIMS: usize = 8;

const FETCH_AGAIN: &str = "the file is incomplete or damaged, fetch it again";
const NOT_SAFETENSORS: &str = "this does not follow the safetensors format, save the checkpoint again";

/// The number types that the format knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the format's own names
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    F8E4M3,
    F8E5M2,
}

impl DType {
    const ALL: [(&'static str, Self, u64); 15] = [
        ("F64", Self::F64, 8),
        ("F32", Self::F32, 4),
        ("F16", Self::F16, 2),
        ("BF16", Self::BF16, 2),
        ("I64", Self::I64, 8),
        ("I32", Self::I32, 4),
        ("I16", Self::I16, 2),
        ("I8", Self::I8, 1),
        ("U64", Self::U64, 8),
        ("U32", Self::U32, 4),
        ("U16", Self::U16, 2),
        ("U8", Self::U8, 1),
        ("BOOL", Self::Bool, 1),
        ("F8_E4M3", Self::F8E4M3, 1),
        ("F8_E5M2", Self::F8E5M2, 1),
    ];

    fn row(self) -> &'static (&'static str, Self, u64) {
        Self::ALL.iter().find(|row| row.1 == self).expect("the table holds every variant")
    }

    /// The type's name in a header.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        self.row().2
    }

    /// Whether it is a plain float, which can be decoded to `f32`.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }
}

/// The description of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its number type.
    pub dtype: DType,
    /// Its shape, slowest dimension first (as in PyTorch; a GGUF file has it the other way round).
    pub shape: Vec<u64>,
    /// First byte, from the start of the data.
    pub begin: u64,
    /// One past the last byte.
    pub end: u64,
}

/// What a file's header says.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Where the data begins in the file.
    pub data_start: u64,
}

impl Header {
    /// How long the header is, from the first eight bytes of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it cannot be.
    pub fn length(first: [u8; 8], file_bytes: u64) -> Result<u64, Error> {
        let length = u64::from_le_bytes(first);
        if length > MAX_HEADER_BYTES {
            let problem = format!("the header would have {length} bytes, at most {MAX_HEADER_BYTES} are read");
            return Err(Error::malformed(problem, "this is no safetensors file, or a damaged one: fetch it again"));
        }
        if length.saturating_add(8) > file_bytes {
            let problem = format!("truncated: the header has {length} bytes, the file {file_bytes}");
            return Err(Error::malformed(problem, FETCH_AGAIN));
        }
        Ok(length)
    }

    /// Reads the JSON of a header; the file has `file_bytes` bytes in all.
    ///
    /// # Errors
    /// [`Error::Json`] and [`Error::Malformed`], the latter with the tensor's name.
    pub fn parse(json: &[u8], file_bytes: u64) -> Result<Self, Error> {
        let data_start = json.len() as u64 + 8;
        let data_bytes = file_bytes.checked_sub(data_start).ok_or_else(|| {
            Error::malformed(format!("truncated: {file_bytes} bytes do not hold the header"), FETCH_AGAIN)
        })?;
        let document: Value = serde_json::from_slice(json).map_err(|cause| Error::Json { cause })?;
        let Value::Object(entries) = document else {
            return Err(Error::malformed("the header is no JSON object", NOT_SAFETENSORS));
        };
        let mut tensors = Vec::with_capacity(entries.len());
        for (name, entry) in entries {
            if name != "__metadata__" {
                tensors.push(tensor(name, &entry)?);
            }
        }
        // An empty tensor comes before the one that begins at the same place.
        tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
        let mut expected = 0;
        for TensorInfo { name, begin, end, .. } in &tensors {
            if *begin != expected {
                let what = if *begin < expected { "overlaps the one before" } else { "leaves a hole before it" };
                let problem = format!("tensor `{name}` begins at byte {begin}, {what} (expected {expected})");
                return Err(Error::malformed(problem, NOT_SAFETENSORS));
            }
            expected = *end;
        }
        if expected > data_bytes {
            let problem = format!("truncated: the tensors have {expected} bytes, the file holds {data_bytes} of them");
            return Err(Error::malformed(problem, FETCH_AGAIN));
        }
        if expected < data_bytes {
            let problem = format!("{} bytes at the end belong to no tensor", data_bytes - expected);
            return Err(Error::malformed(problem, NOT_SAFETENSORS));
        }
        Ok(Self { tensors, data_start })
    }
}

fn tensor(name: String, entry: &Value) -> Result<TensorInfo, Error> {
    let bad = |problem: &str| Error::malformed(format!("tensor `{name}`: {problem}"), NOT_SAFETENSORS);
    let dtype = entry.get("dtype").and_then(Value::as_str).ok_or_else(|| bad("no dtype"))?;
    let &(_, dtype, _) = DType::ALL.iter().find(|row| row.0 == dtype).ok_or_else(|| {
        let problem = format!("tensor `{name}` has the number type `{dtype}`");
        Error::malformed(problem, "F64, F32, F16 and BF16 can be converted: get the checkpoint in one of them")
    })?;
    let shape = entry.get("shape").and_then(Value::as_array).ok_or_else(|| bad("no shape"))?;
    if shape.len() > MAX_DIMS {
        return Err(bad("too many dimensions"));
    }
    let shape: Vec<u64> = shape.iter().map(Value::as_u64).collect::<Option<_>>().ok_or_else(|| bad("a bad shape"))?;
    let n_bytes = shape
        .iter()
        .try_fold(dtype.bytes(), |product, &dim| product.checked_mul(dim))
        .ok_or_else(|| bad("its shape overflows"))?;
    let offsets = entry.get("data_offsets").and_then(Value::as_array).map(Vec::as_slice);
    let Some([begin, end]) = offsets else { return Err(bad("no data_offsets")) };
    let (Some(begin), Some(end)) = (begin.as_u64(), end.as_u64()) else { return Err(bad("bad data_offsets")) };
    if end.checked_sub(begin) != Some(n_bytes) {
        let problem = format!("its shape and type take {n_bytes} bytes, data_offsets are [{begin}, {end}]");
        return Err(bad(&problem));
    }
    Ok(TensorInfo { name, dtype, shape, begin, end })
}

/// An open file with a checked header.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    header: Header,
}

impl SafetensorsFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::InFile`] with what [`Header`] found.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = open_regular(path)?;
        let file_bytes = file.metadata().map_err(Error::io("read", path))?.len();
        let mut first = [0; 8];
        if file_bytes < 8 {
            let problem = format!("truncated: a file of {file_bytes} bytes");
            return Err(Error::malformed(problem, FETCH_AGAIN).in_file(path));
        }
        file.read_exact(&mut first).map_err(Error::io("read", path))?;
        let length = Header::length(first, file_bytes).map_err(|error| error.in_file(path))?;
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(Error::io("read", path))?;
        let header = Header::parse(&json, file_bytes).map_err(|error| error.in_file(path))?;
        Ok(Self { path: path.to_path_buf(), file, header })
    }

    /// The tensors, in the order of their bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `bytes` from `offset` bytes behind the tensor's beginning.
    ///
    /// # Errors
    /// [`Error::Io`].
    ///
    /// # Panics
    /// When that exceeds the tensor.
    pub fn read(&self, tensor: &TensorInfo, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        assert!(tensor.begin + offset + bytes.len() as u64 <= tensor.end, "a read beyond `{}`", tensor.name);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.header.data_start + tensor.begin + offset))
            .and_then(|_| file.read_exact(bytes))
            .map_err(Error::io("read", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data_bytes: u64) -> Result<Header, Error> {
        Header::parse(json.as_bytes(), json.len() as u64 + 8 + data_bytes)
    }

    #[track_caller]
    fn refused(json: &str, data_bytes: u64, part: &str) {
        let error = parse(json, data_bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }

    const A: &str = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;

    #[test]
    fn tensors_come_in_the_order_of_their_bytes() {
        let json = format!(
            r#"{{"__metadata__":{{"format":"pt"}},"b":{{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}},{A},
            "empty":{{"dtype":"F32","shape":[0],"data_offsets":[8,8]}}}}"#
        );
        let header = parse(&json, 12).unwrap();
        let names: Vec<&str> = header.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "empty", "b"]);
        assert_eq!(header.tensors[2].shape, [1, 2]);
        assert!(parse("{}", 0).unwrap().tensors.is_empty());
    }

    #[test]
    fn what_the_format_does_not_allow_is_refused_by_name() {
        refused("[]", 0, "no JSON object");
        refused("{", 0, "not valid JSON");
        refused(&format!("{{{A}}}"), 7, "truncated");
        refused(&format!("{{{A}}}"), 9, "1 bytes at the end belong to no tensor");
        for (b, part) in [
            (r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, "overlaps the one before"),
            (r#"{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#, "leaves a hole"),
            (r#"{"dtype":"F32","shape":[1],"data_offsets":[8,16]}"#, "take 4 bytes"),
            (r#"{"dtype":"F32","shape":[1],"data_offsets":[16,8]}"#, "take 4 bytes"),
            (r#"{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[8,16]}"#, "overflows"),
            (r#"{"dtype":"F32","shape":[-1],"data_offsets":[8,16]}"#, "bad shape"),
            (r#"{"dtype":"F32","shape":[1.5],"data_offsets":[8,16]}"#, "bad shape"),
            (r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[8,12]}"#, "too many dimensions"),
            (r#"{"dtype":"F32","shape":[1],"data_offsets":[8]}"#, "no data_offsets"),
            (r#"{"dtype":"F32","shape":[1],"data_offsets":["8",12]}"#, "bad data_offsets"),
            (r#"{"dtype":"F4","shape":[1],"data_offsets":[8,12]}"#, "`F4`"),
            (r#"{"shape":[1],"data_offsets":[8,12]}"#, "no dtype"),
            (r#"{"dtype":"F32","data_offsets":[8,12]}"#, "no shape"),
            ("1", "no dtype"),
        ] {
            refused(&format!(r#"{{{A},"b":{b}}}"#), 16, part);
        }
    }

    #[test]
    fn a_header_is_not_longer_than_its_file_or_the_limit() {
        assert_eq!(Header::length(16u64.to_le_bytes(), 24).unwrap(), 16);
        let error = |length: u64, file: u64| Header::length(length.to_le_bytes(), file).unwrap_err().to_string();
        assert!(error(17, 24).contains("truncated"));
        assert!(error(u64::MAX, 24).contains("at most 100000000 are read"));
        assert!(error(100_000_001, u64::MAX).contains("at most"));
    }
}
