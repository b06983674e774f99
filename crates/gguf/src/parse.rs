//! One GGUF file's bytes to metadata and tensor descriptions. Trusts nothing.
//!
//! ```text
//! "GGUF"  version u32  n_tensors u64  n_entries u64
//! n_entries × { key string, kind u32, value }
//! n_tensors × { name string, n_dims u32, dims u64 × n_dims, type u32, offset u64 }
//! padding to the alignment
//! tensor data; the offsets above count from here
//! ```
//! All numbers are little-endian. A string is a u64 length and that many bytes. An array value is its element
//! kind (u32), a u64 count and the elements. Version 3 differs from version 2 only in that big-endian files exist.
//!
//! Memory: counts are compared with the bytes that are left before anything is reserved for them, so a file
//! makes this parser allocate at most a small multiple of its own size (about 8; the worst is one-letter strings).

use crate::cursor::Cursor;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::tensor::TensorInfo;
use crate::types::GgmlType;
use crate::value::{Array, Value, ValueKind};

/// Metadata entries allowed in one file; real models have fewer than a hundred.
const MAX_ENTRIES: u64 = 1 << 16;
/// Tensors allowed in one file; the largest real models have some ten thousand.
const MAX_TENSORS: u64 = 1 << 20;
/// Longest metadata key (GGUF specification: 2^16 - 1).
pub(crate) const MAX_KEY_BYTES: usize = (1 << 16) - 1;
/// Longest tensor name (GGUF specification).
const MAX_NAME_BYTES: usize = 64;
/// Most dimensions of a tensor (GGUF specification).
pub(crate) const MAX_DIMS: u32 = 4;
/// Arrays inside arrays: real files have one level.
pub(crate) const MAX_ARRAY_DEPTH: usize = 4;
/// Largest accepted `general.alignment`; beyond a huge page it only serves to waste space.
pub(crate) const MAX_ALIGNMENT: u64 = 1 << 30;

const DAMAGED: &str = "the file is damaged, fetch or convert it again";

/// The content of one file. Tensor offsets are from the start of the file.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub version: u32,
    pub alignment: u64,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
}

/// Parses a whole file. The tensors say part 0; the caller knows better.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    parse_head(bytes, bytes.len() as u64)
}

/// As [`parse`], of the first bytes of a file that has `file_bytes`: as many as its description takes.
pub(crate) fn parse_head(bytes: &[u8], file_bytes: u64) -> Result<Parsed, Error> {
    let mut cursor = Cursor::new(bytes);
    let version = header(&mut cursor, bytes)?;
    let n_tensors = cursor.u64("the tensor count")?;
    let n_entries = cursor.u64("the metadata count")?;
    // The smallest entry: an empty key, a kind and one byte; the smallest tensor: no name and no dimension.
    check_count(&cursor, n_tensors, "tensors", 8 + 4 + 4 + 8, MAX_TENSORS)?;
    check_count(&cursor, n_entries, "metadata entries", 8 + 4 + 1, MAX_ENTRIES)?;

    let mut metadata = Metadata::new();
    for _ in 0..n_entries {
        entry(&mut cursor, &mut metadata)?;
    }
    let alignment = alignment(&metadata)?;

    let mut tensors = Vec::with_capacity(n_tensors as usize);
    for _ in 0..n_tensors {
        tensors.push(tensor_info(&mut cursor, alignment)?);
    }
    place_tensors(&mut tensors, cursor.offset().next_multiple_of(alignment), file_bytes)?;
    Ok(Parsed { version, alignment, metadata, tensors })
}

fn header(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<u32, Error> {
    let magic = bytes.get(..4).unwrap_or(bytes);
    // A big-endian writer may also have swapped the magic itself.
    let swapped_magic = magic == b"FUGG";
    if magic != b"GGUF" && !swapped_magic {
        return Err(Error::NotGguf { found: magic.to_vec() });
    }
    cursor.take(4, "the magic")?;
    let version = cursor.u32("the version")?;
    // Versions are small numbers; one with only high bits is a small number with its bytes swapped.
    if swapped_magic || (version != 0 && version.trailing_zeros() >= 16) {
        return Err(Error::BigEndian { version: version.swap_bytes() });
    }
    match version {
        2 | 3 => Ok(version),
        1 => Err(Error::UnsupportedVersion {
            version,
            advice: "this is the first draft of the format from August 2023; convert the original model again",
        }),
        0 => Err(Error::UnsupportedVersion { version, advice: DAMAGED }),
        _ => Err(Error::UnsupportedVersion {
            version,
            advice: "the file is newer than this program (update it) or damaged (fetch it again)",
        }),
    }
}

/// Refuses a count that the rest of the file cannot hold.
fn check_count(cursor: &Cursor<'_>, count: u64, what: &str, min_bytes: u64, limit: u64) -> Result<(), Error> {
    let fits = cursor.remaining() as u64 / min_bytes;
    if count > limit.min(fits) {
        let problem = if count > fits {
            format!("{count} {what} cannot fit in the {} bytes left", cursor.remaining())
        } else {
            format!("{count} {what} are more than the limit of {limit}")
        };
        return Err(Error::Malformed { problem, offset: cursor.offset(), advice: DAMAGED });
    }
    Ok(())
}

fn entry(cursor: &mut Cursor<'_>, metadata: &mut Metadata) -> Result<(), Error> {
    let at = cursor.offset();
    let key = cursor.string("a metadata key")?;
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Error::Malformed {
            problem: format!("a metadata key of {} bytes (allowed: 1 to {MAX_KEY_BYTES})", key.len()),
            offset: at,
            advice: DAMAGED,
        });
    }
    if metadata.contains(key) {
        return Err(Error::DuplicateKey { key: key.to_owned() });
    }
    let value = value_kind(cursor).and_then(|kind| value(cursor, kind)).map_err(|error| error.in_key(key))?;
    metadata.insert(key, value);
    Ok(())
}

fn value_kind(cursor: &mut Cursor<'_>) -> Result<ValueKind, Error> {
    let offset = cursor.offset();
    let id = cursor.u32("a value type")?;
    ValueKind::from_id(id).ok_or_else(|| Error::Malformed {
        problem: format!("value type {id} does not exist (0 to 12 do)"),
        offset,
        advice: "the file is damaged or newer than this program",
    })
}

fn value(cursor: &mut Cursor<'_>, kind: ValueKind) -> Result<Value, Error> {
    const WHAT: &str = "a value";
    Ok(match kind {
        ValueKind::U8 => Value::U8(u8::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::I8 => Value::I8(i8::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::U16 => Value::U16(u16::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::I16 => Value::I16(i16::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::U32 => Value::U32(u32::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::I32 => Value::I32(i32::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::U64 => Value::U64(u64::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::I64 => Value::I64(i64::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
        ValueKind::Bool => {
            let offset = cursor.offset();
            let [byte] = cursor.array(WHAT)?;
            Value::Bool(bool_from(byte, offset)?)
        }
        ValueKind::String => Value::String(cursor.string("a string value")?.to_owned()),
        ValueKind::Array => Value::Array(array(cursor, 1)?),
    })
}

fn bool_from(byte: u8, offset: u64) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::Malformed { problem: format!("a bool is {byte}, not 0 or 1"), offset, advice: DAMAGED }),
    }
}

fn array(cursor: &mut Cursor<'_>, depth: usize) -> Result<Array, Error> {
    /// `n` numbers of `N` bytes: one check, then a plain copy.
    fn numbers<const N: usize, T>(
        cursor: &mut Cursor<'_>,
        n: u64,
        from_le_bytes: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let bytes = cursor.take(n.saturating_mul(N as u64), "an array")?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| from_le_bytes(chunk)).collect())
    }

    if depth > MAX_ARRAY_DEPTH {
        return Err(Error::Malformed {
            problem: format!("arrays are nested deeper than {MAX_ARRAY_DEPTH} levels"),
            offset: cursor.offset(),
            advice: DAMAGED,
        });
    }
    let kind = value_kind(cursor)?;
    let n = cursor.u64("an array's length")?;
    check_count(cursor, n, "array elements", kind.min_bytes() as u64, u64::MAX)?;
    Ok(match kind {
        ValueKind::U8 => Array::U8(numbers(cursor, n, u8::from_le_bytes)?),
        ValueKind::I8 => Array::I8(numbers(cursor, n, i8::from_le_bytes)?),
        ValueKind::U16 => Array::U16(numbers(cursor, n, u16::from_le_bytes)?),
        ValueKind::I16 => Array::I16(numbers(cursor, n, i16::from_le_bytes)?),
        ValueKind::U32 => Array::U32(numbers(cursor, n, u32::from_le_bytes)?),
        ValueKind::I32 => Array::I32(numbers(cursor, n, i32::from_le_bytes)?),
        ValueKind::F32 => Array::F32(numbers(cursor, n, f32::from_le_bytes)?),
        ValueKind::U64 => Array::U64(numbers(cursor, n, u64::from_le_bytes)?),
        ValueKind::I64 => Array::I64(numbers(cursor, n, i64::from_le_bytes)?),
        ValueKind::F64 => Array::F64(numbers(cursor, n, f64::from_le_bytes)?),
        ValueKind::Bool => {
            let start = cursor.offset();
            let bytes = cursor.take(n, "an array")?;
            Array::Bool((start..).zip(bytes).map(|(at, &byte)| bool_from(byte, at)).collect::<Result<_, _>>()?)
        }
        ValueKind::String => {
            // n is at most an eighth of the bytes left, so this reserves at most three times those.
            let mut items = Vec::with_capacity(n as usize);
            for _ in 0..n {
                items.push(cursor.string("a string in an array")?.to_owned());
            }
            Array::String(items)
        }
        ValueKind::Array => {
            // Not reserved: each nesting level could claim the same bytes again.
            let mut items = Vec::new();
            for _ in 0..n {
                items.push(array(cursor, depth + 1)?);
            }
            Array::Array(items)
        }
    })
}

fn alignment(metadata: &Metadata) -> Result<u64, Error> {
    let alignment = metadata.u64("general.alignment")?.unwrap_or(crate::DEFAULT_ALIGNMENT.into());
    if alignment == 0 || !alignment.is_multiple_of(8) || alignment > MAX_ALIGNMENT {
        return Err(Error::ValueOutOfRange {
            key: "general.alignment".to_owned(),
            value: alignment.to_string(),
            expected: "a multiple of 8 up to 2^30",
        });
    }
    Ok(alignment)
}

/// One tensor description; `file_offset` still counts from the start of the data.
fn tensor_info(cursor: &mut Cursor<'_>, alignment: u64) -> Result<TensorInfo, Error> {
    let at = cursor.offset();
    let name = cursor.string("a tensor name")?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(Error::Malformed {
            problem: format!("a tensor name of {} bytes (allowed: 1 to {MAX_NAME_BYTES})", name.len()),
            offset: at,
            advice: DAMAGED,
        });
    }
    tensor_body(cursor, name, alignment).map_err(|error| error.in_tensor(name))
}

fn tensor_body(cursor: &mut Cursor<'_>, name: &str, alignment: u64) -> Result<TensorInfo, Error> {
    let n_dims = cursor.u32("the number of dimensions")?;
    if n_dims > MAX_DIMS {
        let problem = format!("{n_dims} dimensions, at most {MAX_DIMS} are allowed");
        return Err(Error::BadTensor { problem, advice: DAMAGED });
    }
    let mut dims = Vec::with_capacity(n_dims as usize);
    for _ in 0..n_dims {
        dims.push(cursor.u64("a dimension")?);
    }
    let ty = GgmlType::from_id(cursor.u32("the tensor's type")?)?;
    let offset = cursor.u64("the tensor's offset")?;
    if !offset.is_multiple_of(alignment) {
        let problem = format!("offset {offset} is not a multiple of the alignment {alignment}");
        return Err(Error::BadTensor { problem, advice: DAMAGED });
    }
    let n_bytes = tensor_bytes(&dims, ty)?;
    Ok(TensorInfo { name: name.to_owned(), dims, ty, part: 0, file_offset: offset, n_bytes })
}

/// Bytes of a tensor of this shape, every multiplication checked.
pub(crate) fn tensor_bytes(dims: &[u64], ty: GgmlType) -> Result<u64, Error> {
    let bad = |problem| Error::BadTensor { problem, advice: DAMAGED };
    if dims.contains(&0) {
        return Err(bad(format!("shape {dims:?} has an empty dimension")));
    }
    let row = dims.first().copied().unwrap_or(1);
    if !row.is_multiple_of(ty.block_len() as u64) {
        return Err(Error::BadTensor {
            problem: format!("rows of {row} weights do not divide into {ty} blocks of {}", ty.block_len()),
            advice: "quantize the model again, to a type whose blocks fit its rows",
        });
    }
    let too_large = || bad(format!("shape {dims:?} is too large"));
    let n_elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim)).ok_or_else(too_large)?;
    // The weights must be countable in memory too, where decoders index them with usize and f32 takes 4 bytes.
    if n_elements > isize::MAX as u64 / 8 {
        return Err(too_large());
    }
    (n_elements / ty.block_len() as u64).checked_mul(ty.block_bytes() as u64).ok_or_else(too_large)
}

/// Makes offsets count from the start of the file, and checks that every tensor lies inside the file and that no
/// two share bytes or a name.
fn place_tensors(tensors: &mut [TensorInfo], data_start: u64, file_bytes: u64) -> Result<(), Error> {
    for tensor in &mut *tensors {
        let start = data_start.checked_add(tensor.file_offset);
        let end = start.and_then(|start| start.checked_add(tensor.n_bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => tensor.file_offset = start,
            _ => {
                let problem = format!(
                    "its {} bytes at offset {} of the data (which starts at byte {data_start}) end beyond the file's {file_bytes} bytes",
                    tensor.n_bytes, tensor.file_offset
                );
                let advice = "the file is truncated or damaged, fetch it again";
                return Err(Error::BadTensor { problem, advice }.in_tensor(&tensor.name));
            }
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = order.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::DuplicateTensor { name: pair[0].name.clone() });
    }
    order.sort_unstable_by_key(|tensor| tensor.file_offset);
    if let Some(pair) = order.windows(2).find(|pair| pair[0].file_offset + pair[0].n_bytes > pair[1].file_offset) {
        let problem = format!("its bytes overlap those of tensor `{}`", pair[1].name);
        return Err(Error::BadTensor { problem, advice: DAMAGED }.in_tensor(&pair[0].name));
    }
    Ok(())
}
