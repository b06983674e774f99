//! Writes GGUF version 3, streaming: all descriptions first, then the tensors' bytes in the same order.
//!
//! Entry for entry and byte for byte this is what the PyPI package `gguf` writes for the same content.

use std::io::Write;

use crate::error::Error;
use crate::metadata::Metadata;
use crate::parse::{MAX_ALIGNMENT, MAX_ARRAY_DEPTH, MAX_DIMS, MAX_KEY_BYTES, tensor_bytes};
use crate::split;
use crate::types::GgmlType;
use crate::value::{Array, Value};

/// Longest tensor name that is written. The specification allows 64 bytes, but ggml keeps names in 64 bytes
/// with a terminating zero and refuses longer ones.
const MAX_WRITTEN_NAME_BYTES: usize = 63;

/// The version that is written.
const VERSION: u32 = 3;

/// The description of a file to be: metadata and tensors without their bytes.
///
/// ```
/// use hublabio_gguf::{GgmlType, GgufFile, Writer};
///
/// let mut writer = Writer::new();
/// writer.metadata_mut().insert("general.architecture", "llama");
/// writer.add_tensor("output_norm.weight", &[4], GgmlType::F32)?;
/// let mut data = writer.begin(Vec::new())?;
/// data.tensor(&[0; 16])?;
/// let bytes = data.finish()?;
///
/// let file = GgufFile::from_vec(bytes)?;
/// assert_eq!(file.metadata().str("general.architecture")?, Some("llama"));
/// assert_eq!(file.tensor("output_norm.weight").unwrap().data, [0; 16]);
/// # Ok::<(), hublabio_gguf::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Writer {
    metadata: Metadata,
    tensors: Vec<Planned>,
    names: std::collections::HashSet<String>,
    split: Option<SplitPosition>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    n_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct SplitPosition {
    part: usize,
    count: usize,
    n_tensors: usize,
}

/// When a split model starts a new part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitLimit {
    /// At most so many tensors in a part.
    Tensors(usize),
    /// At most so many bytes of weights in a part; a tensor larger than that gets a part of its own.
    Bytes(u64),
}

impl Writer {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer with the given metadata.
    pub fn with_metadata(metadata: Metadata) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// The metadata so far.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata, to be filled. `general.alignment` sets the alignment (32 without it).
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// Number of tensors so far.
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Describes the next tensor; its bytes follow in the same order after [`Self::begin`]. `dims[0]` is contiguous.
    ///
    /// # Errors
    /// [`Error::InTensor`] with the reason, [`Error::DuplicateTensor`].
    pub fn add_tensor(&mut self, name: &str, dims: &[u64], ty: GgmlType) -> Result<(), Error> {
        if name.is_empty() || name.len() > MAX_WRITTEN_NAME_BYTES {
            let problem = format!("a tensor name of {} bytes (allowed: 1 to {MAX_WRITTEN_NAME_BYTES})", name.len());
            return Err(Error::Writer { problem, advice: "shorten the name" }.in_tensor(name));
        }
        if dims.len() > MAX_DIMS as usize {
            let problem = format!("{} dimensions, at most {MAX_DIMS} are allowed", dims.len());
            return Err(Error::Writer { problem, advice: "merge dimensions" }.in_tensor(name));
        }
        let n_bytes = tensor_bytes(dims, ty).map_err(|error| error.in_tensor(name))?;
        if !self.names.insert(name.to_owned()) {
            return Err(Error::DuplicateTensor { name: name.to_owned() });
        }
        self.tensors.push(Planned { name: name.to_owned(), dims: dims.to_vec(), ty, n_bytes });
        Ok(())
    }

    /// Writes everything up to the tensors' bytes, which the returned value takes. Wrap a file in a `BufWriter`.
    ///
    /// # Errors
    /// [`Error::Writer`] or [`Error::InKey`] for metadata that no reader would accept, [`Error::Write`].
    pub fn begin<W: Write>(&self, out: W) -> Result<DataWriter<W>, Error> {
        let alignment = self.alignment()?;
        let header = self.header_bytes(alignment)?;
        let mut data = DataWriter {
            out,
            alignment,
            pending: self.tensors.iter().rev().map(|t| (t.name.clone(), t.n_bytes)).collect(),
            written: 0,
        };
        data.put(&header)?;
        data.pad()?;
        Ok(data)
    }

    /// The bytes of the whole file, for small ones; `data` gives each tensor's bytes in order.
    ///
    /// # Errors
    /// As [`Self::begin`], [`DataWriter::tensor`] and [`DataWriter::finish`].
    pub fn to_bytes<'a>(&self, data: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, Error> {
        let mut out = self.begin(Vec::new())?;
        for bytes in data {
            out.tensor(bytes)?;
        }
        out.finish()
    }

    /// Cuts the model into parts, each a writer for one file, to be named by [`crate::split_file_name`]. All
    /// metadata goes into the first; tensors keep their order. One part comes back unchanged.
    ///
    /// # Errors
    /// [`Error::Writer`] for a limit of zero, or more than 99,999 parts.
    pub fn split(self, limit: SplitLimit) -> Result<Vec<Self>, Error> {
        if matches!(limit, SplitLimit::Tensors(0) | SplitLimit::Bytes(0)) {
            return Err(Error::Writer { problem: format!("split limit {limit:?}"), advice: "give a limit above zero" });
        }
        let n_tensors = self.tensors.len();
        let mut groups: Vec<Vec<Planned>> = vec![Vec::new()];
        let mut group_bytes = 0u64;
        for tensor in self.tensors {
            let group = groups.last().expect("groups starts with one");
            let full = match limit {
                SplitLimit::Tensors(limit) => group.len() >= limit,
                SplitLimit::Bytes(limit) => !group.is_empty() && group_bytes.saturating_add(tensor.n_bytes) > limit,
            };
            if full {
                groups.push(Vec::new());
                group_bytes = 0;
            }
            group_bytes = group_bytes.saturating_add(tensor.n_bytes);
            groups.last_mut().expect("groups starts with one").push(tensor);
        }
        let count = groups.len();
        // split.no and split.count are 16-bit in files that others write.
        if count > usize::from(u16::MAX) {
            return Err(Error::Writer { problem: format!("{count} parts"), advice: "give a larger limit" });
        }
        let alignment = self.metadata.get("general.alignment").cloned();
        let mut metadata = Some(self.metadata);
        let part = |(part, tensors): (usize, Vec<Planned>)| {
            let metadata = metadata.take().unwrap_or_else(|| {
                // Each part is aligned by what it says itself.
                let mut later = Metadata::new();
                if let Some(alignment) = &alignment {
                    later.insert("general.alignment", alignment.clone());
                }
                later
            });
            let names = tensors.iter().map(|tensor| tensor.name.clone()).collect();
            let split = (count > 1).then_some(SplitPosition { part, count, n_tensors });
            Self { metadata, tensors, names, split }
        };
        Ok(groups.into_iter().enumerate().map(part).collect())
    }

    fn alignment(&self) -> Result<u64, Error> {
        let Some(value) = self.metadata.get("general.alignment") else {
            return Ok(crate::DEFAULT_ALIGNMENT.into());
        };
        match *value {
            // The specification fixes the type; ggml accepts powers of two only.
            Value::U32(alignment)
                if alignment >= 8 && alignment.is_power_of_two() && u64::from(alignment) <= MAX_ALIGNMENT =>
            {
                Ok(alignment.into())
            }
            _ => Err(Error::Writer {
                problem: format!("general.alignment is {value} ({})", value.kind()),
                advice: "use a u32 that is a power of two from 8 to 2^30",
            }),
        }
    }

    fn header_bytes(&self, alignment: u64) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let split = self.split_entries()?;
        out.extend_from_slice(b"GGUF");
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&((self.metadata.len() + split.len()) as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            if self.split.is_some() && key.starts_with("split.") {
                let advice = "remove the key: the writer sets it itself";
                return Err(Error::Writer { problem: format!("metadata key `{key}` in a split model"), advice });
            }
            put_entry(&mut out, key, value)?;
        }
        for (key, value) in &split {
            put_entry(&mut out, key, value)?;
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                out.extend_from_slice(&dim.to_le_bytes());
            }
            out.extend_from_slice(&tensor.ty.id().to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
            offset =
                offset.checked_add(tensor.n_bytes).and_then(|end| end.checked_next_multiple_of(alignment)).ok_or_else(
                    || Error::Writer { problem: "the tensors exceed 2^64 bytes".into(), advice: "check their shapes" },
                )?;
        }
        Ok(out)
    }

    fn split_entries(&self) -> Result<Vec<(&'static str, Value)>, Error> {
        let Some(SplitPosition { part, count, n_tensors }) = self.split else {
            return Ok(Vec::new());
        };
        let too_many = |_| Error::Writer {
            problem: format!("{n_tensors} tensors in {count} parts"),
            advice: "split into fewer parts",
        };
        Ok(vec![
            (split::NO, Value::U16(u16::try_from(part).map_err(too_many)?)),
            (split::COUNT, Value::U16(u16::try_from(count).map_err(too_many)?)),
            (split::TENSORS, Value::I32(i32::try_from(n_tensors).map_err(too_many)?)),
        ])
    }
}

/// Takes the tensors' bytes, in the order in which they were described.
#[derive(Debug)]
#[must_use = "the file is complete only after finish()"]
pub struct DataWriter<W: Write> {
    out: W,
    alignment: u64,
    /// Names and sizes of the tensors that are still to come, the next one last.
    pending: Vec<(String, u64)>,
    written: u64,
}

impl<W: Write> DataWriter<W> {
    /// Writes the next tensor and its padding.
    ///
    /// # Errors
    /// [`Error::Writer`] when `bytes` has another length than described, or no tensor is due; [`Error::Write`].
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.tensor_with(|sink| sink.write_all(bytes))
    }

    /// Lets `produce` write the next tensor piece by piece, for tensors that should not lie in memory whole.
    ///
    /// # Errors
    /// As [`Self::tensor`], and what `produce` returns, as [`Error::Write`].
    pub fn tensor_with(&mut self, produce: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Error> {
        let Some((name, expected)) = self.pending.pop() else {
            let problem = "bytes for one tensor more than described".to_owned();
            return Err(Error::Writer { problem, advice: "describe every tensor before begin()" });
        };
        let mut counted = Counted { out: &mut self.out, left: expected, excess: false };
        let result = produce(&mut counted);
        let Counted { left, excess, .. } = counted;
        if excess || (left > 0 && result.is_ok()) {
            let problem = if excess {
                format!("more than the described {expected} bytes were given")
            } else {
                format!("{} bytes were given, {expected} are described", expected - left)
            };
            return Err(Error::Writer { problem, advice: "encode it in the described type and shape" }.in_tensor(&name));
        }
        result.map_err(|cause| Error::Write { cause })?;
        self.written += expected;
        self.pad()
    }

    /// Ends the file, flushes, and returns the output.
    ///
    /// # Errors
    /// [`Error::Writer`] when tensors are missing, [`Error::Write`].
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, _)) = self.pending.last() {
            let problem = format!("the bytes of {} tensors are missing, first `{name}`", self.pending.len());
            return Err(Error::Writer { problem, advice: "write every tensor before finish()" });
        }
        self.out.flush().map_err(|cause| Error::Write { cause })?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|cause| Error::Write { cause })?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> Result<(), Error> {
        const ZEROS: [u8; 256] = [0; 256];
        let mut missing = self.written.next_multiple_of(self.alignment) - self.written;
        while missing > 0 {
            let n = missing.min(ZEROS.len() as u64);
            self.put(&ZEROS[..n as usize])?;
            missing -= n;
        }
        Ok(())
    }
}

/// Passes at most `left` bytes on.
struct Counted<'a, W: Write> {
    out: &'a mut W,
    left: u64,
    excess: bool,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.excess = true;
            return Err(std::io::Error::other("more bytes than the tensor has"));
        }
        let n = self.out.write(bytes)?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_entry(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), Error> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let problem = format!("a metadata key of {} bytes (allowed: 1 to {MAX_KEY_BYTES})", key.len());
        return Err(Error::Writer { problem, advice: "shorten the key" });
    }
    put_string(out, key);
    out.extend_from_slice(&value.kind().id().to_le_bytes());
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v, 1).map_err(|error| error.in_key(key))?,
    }
    Ok(())
}

fn put_array(out: &mut Vec<u8>, array: &Array, depth: usize) -> Result<(), Error> {
    if depth > MAX_ARRAY_DEPTH {
        let problem = format!("arrays are nested deeper than {MAX_ARRAY_DEPTH} levels");
        return Err(Error::Writer { problem, advice: "flatten them" });
    }
    out.extend_from_slice(&array.kind().id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(items) => out.extend_from_slice(items),
        Array::I8(items) => out.extend(items.iter().map(|v| v.cast_unsigned())),
        Array::U16(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::U64(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(items) => out.extend(items.iter().map(|&v| u8::from(v))),
        Array::String(items) => items.iter().for_each(|text| put_string(out, text)),
        Array::Array(items) => {
            for item in items {
                put_array(out, item, depth + 1)?;
            }
        }
    }
    Ok(())
}
