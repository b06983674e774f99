//! Importance matrices: which columns of a model's matrices a text uses, and how much.
//!
//! For each matrix that a model multiplies with its activations, an importance matrix holds the sum of squares of every
//! input column over a text, and the number of rows summed up. A quantizer that knows them spends its bits where they
//! count. Two formats of llama.cpp are read and the first is written: GGUF files whose `general.type` is `imatrix`,
//! with two tensors per matrix (`NAME.in_sum2` and `NAME.counts`), and the older binary `.dat`.
//!
//! This file refuses to know models: names and sums come from `importance_collection.rs`, and what a quantizer makes of
//! them is its own business.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read};
use std::path::Path;

use hublabio_gguf::{GgmlType, GgufFile, Metadata, TensorView, Writer};

use crate::error::{Error, Result};

const TYPE: &str = "general.type";
const TYPE_IMATRIX: &str = "imatrix";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
/// What to do about a GGUF file of another kind.
const ADVICE: &str = "give a file that `hublab imatrix` or llama-imatrix wrote";
const SUMS_SUFFIX: &str = ".in_sum2";
const COUNTS_SUFFIX: &str = ".counts";

/// Longest name that a `.dat` file may hold. Tensor names have at most 64 bytes, data sets are named by a path.
const MAX_NAME_BYTES: u64 = 4096;
/// An entry of a `.dat` file without its name and values: three numbers of 4 bytes.
const DAT_ENTRY_BYTES: u64 = 12;

/// What is known of one matrix.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// Sums of squares of the input columns, `[counts.len(), columns]`.
    sums: Vec<f64>,
    /// Rows that were summed up: one number for a matrix, or one for each expert.
    counts: Vec<u64>,
}

/// For each matrix by name, how strongly a text used its input columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    entries: BTreeMap<String, Entry>,
    datasets: Vec<String>,
    chunk_count: u64,
    /// Tokens in a chunk; 0 where the file does not say, as `.dat` files never do.
    chunk_size: u64,
    /// Whether counts are chunks, not rows: in `.dat` files. Means are right all the same.
    counts_chunks: bool,
}

impl ImportanceMatrix {
    /// Nothing yet, to be filled from chunks of `chunk_size` tokens.
    #[must_use]
    pub fn new(chunk_size: u64) -> Self {
        Self { chunk_size, ..Self::default() }
    }

    /// Reads a file: GGUF where it begins with that magic, else `.dat`.
    ///
    /// # Errors
    /// When the file cannot be read, is no importance matrix, or holds a number that no sum of squares can be.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |cause| hublabio_gguf::Error::Io { action: "open", path: path.to_owned(), cause };
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(hublabio_gguf::Error::NotAFile { path: path.to_owned() }.into());
        }
        let mut magic = [0; 4];
        let matrix = match file.read_exact(&mut magic) {
            Ok(()) if magic == *b"GGUF" => from_gguf(&GgufFile::open(path)?),
            Ok(()) => {
                let rest = BufReader::with_capacity(1 << 16, file);
                from_dat(&mut DatReader { input: rest, left: metadata.len().saturating_sub(4) }, magic)
            }
            Err(_) => Err("the file is empty or shorter than any importance matrix".to_owned()),
        };
        matrix.map_err(|problem| Error::ImportanceMatrix { path: path.to_owned(), problem })
    }

    /// Writes a GGUF file, entry for entry as llama.cpp does. The file appears whole or not at all: it is written
    /// beside `path` under another name, flushed to the disk, then renamed. What was at `path` is replaced.
    ///
    /// # Errors
    /// When there is nothing to write, a sum exceeds single precision, or the disk refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        let bad = |problem: String| Error::ImportanceMatrix { path: path.to_owned(), problem };
        let io = |action, path: &Path, cause| hublabio_gguf::Error::Io { action, path: path.to_owned(), cause };
        if self.entries.is_empty() {
            return Err(bad("there are no entries to write".to_owned()));
        }
        let (writer, data) = self.gguf().map_err(bad)?;
        let failed = |error| match error {
            hublabio_gguf::Error::Write { cause } => io("write", path, cause),
            other => other,
        };
        let partial = super::quantize::partial_name(path);
        let written = (|| {
            let file = File::create(&partial).map_err(|cause| io("create", path, cause))?;
            let mut out = writer.begin(BufWriter::new(file)).map_err(failed)?;
            for values in &data {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                out.tensor(&bytes).map_err(failed)?;
            }
            let out = out.finish().map_err(failed)?;
            let file = out.into_inner().map_err(|error| io("write", path, error.into_error()))?;
            file.sync_all().map_err(|cause| io("write", path, cause))?;
            fs::rename(&partial, path).map_err(|cause| io("create", path, cause))
        })();
        if written.is_err() {
            // The error that led here is the one to tell.
            let _ = fs::remove_file(&partial);
        }
        Ok(written?)
    }

    /// The mean square of each input column of `tensor`: one list for each count that is known of it. That is one list
    /// for a matrix and one for each expert; an expert that the text never reached has 1 everywhere, as llama.cpp has
    /// it: nothing is known, so that all columns matter alike.
    ///
    /// A `.dat` file does not say where an expert ends and gives one list of all; [`Self::mean_squares_by_columns`]
    /// cuts it.
    #[must_use]
    pub fn mean_squares(&self, tensor: &str) -> Option<Vec<Vec<f32>>> {
        let entry = self.entries.get(tensor)?;
        let columns = entry.sums.len() / entry.counts.len();
        let means = entry.sums.chunks_exact(columns).zip(&entry.counts).map(|(sums, &count)| match count {
            0 => vec![1.0; columns],
            count => sums.iter().map(|sum| (sum / count as f64) as f32).collect(),
        });
        Some(means.collect())
    }

    /// As [`Self::mean_squares`], for a tensor of `matrices` matrices with `columns` columns each: one list for each
    /// matrix, also where one count was kept for all of them.
    ///
    /// # Errors
    /// [`Error::ImportanceShape`] when the entry was made for another shape.
    pub fn mean_squares_by_columns(
        &self,
        tensor: &str,
        columns: usize,
        matrices: usize,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(lists) = self.mean_squares(tensor) else { return Ok(None) };
        let found = lists.iter().map(Vec::len).sum();
        if columns == 0 || columns.checked_mul(matrices) != Some(found) || lists[0].len() % columns != 0 {
            return Err(Error::ImportanceShape { tensor: tensor.to_owned(), found, columns, matrices });
        }
        Ok(Some(lists.iter().flat_map(|list| list.chunks_exact(columns).map(<[f32]>::to_vec)).collect()))
    }

    /// Names of the texts, in the order in which they were taken in.
    #[must_use]
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Chunks of text that were taken in.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.chunk_count
    }

    /// Tokens in a chunk; 0 where the file does not say.
    #[must_use]
    pub fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// Whether counts are chunks, not rows: in `.dat` files.
    #[must_use]
    pub fn counts_chunks(&self) -> bool {
        self.counts_chunks
    }

    /// Matrices that something is known of.
    #[must_use]
    pub fn n_entries(&self) -> usize {
        self.entries.len()
    }

    /// Names of the matrices, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The sums of squares `[counts, columns]` and the counts of a matrix. Of a `.dat` file, counts are chunks and the
    /// sums are scaled to them.
    #[must_use]
    pub fn sums(&self, tensor: &str) -> Option<(&[f64], &[u64])> {
        self.entries.get(tensor).map(|entry| (entry.sums.as_slice(), entry.counts.as_slice()))
    }

    /// Adds rows that went into a matrix: `sums[c]` is the sum of the squares of their column `c`. `matrix` counts
    /// within the tensor, 0 of 1 unless it holds experts.
    ///
    /// # Errors
    /// [`Error::ImportanceShape`] when the tensor had another shape before.
    pub fn record(&mut self, tensor: &str, (matrix, matrices): (usize, usize), sums: &[f64], rows: u64) -> Result<()> {
        assert!(matrix < matrices, "matrix {matrix} of {matrices}");
        if !self.entries.contains_key(tensor) {
            let entry = Entry { sums: vec![0.0; sums.len() * matrices], counts: vec![0; matrices] };
            self.entries.insert(tensor.to_owned(), entry);
        }
        let entry = self.entries.get_mut(tensor).expect("inserted above");
        if entry.counts.len() != matrices || entry.sums.len() != sums.len() * matrices {
            let (found, columns) = (entry.sums.len(), sums.len());
            return Err(Error::ImportanceShape { tensor: tensor.to_owned(), found, columns, matrices });
        }
        let start = matrix * sums.len();
        for (total, sum) in entry.sums[start..].iter_mut().zip(sums) {
            *total += sum;
        }
        entry.counts[matrix] += rows;
        Ok(())
    }

    /// Notes that `chunks` chunks of the text called `dataset` have been recorded.
    pub fn finish_dataset(&mut self, dataset: &str, chunks: u64) {
        self.datasets.push(dataset.to_owned());
        self.chunk_count += chunks;
    }

    /// Adds what another text gave. Sums and counts add up, so that each text weighs by its rows. A `.dat` file counts
    /// chunks only: they are taken to have this matrix's chunk size, as llama.cpp takes them.
    ///
    /// # Errors
    /// [`Error::ImportanceShape`] when a tensor has different shapes in the two. Nothing is then added.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        let mut other = other.clone();
        if self.chunk_size == 0 {
            self.chunk_size = other.chunk_size;
        }
        // Two that both count chunks can be added as they are.
        let both = self.counts_chunks && other.counts_chunks;
        if !both && (other.counts_chunks || self.counts_chunks) {
            let size = self.chunk_size.max(1);
            self.count_rows(size);
            other.count_rows(size);
        }
        for (name, theirs) in &other.entries {
            if let Some(ours) = self.entries.get(name).filter(|ours| !ours.joins(theirs)) {
                let matrices = theirs.counts.len();
                let columns = theirs.sums.len() / matrices;
                let tensor = name.clone();
                return Err(Error::ImportanceShape { tensor, found: ours.sums.len(), columns, matrices });
            }
        }
        if self.entries.is_empty() {
            self.counts_chunks = other.counts_chunks;
        }
        for (name, theirs) in other.entries {
            match self.entries.get_mut(&name) {
                Some(ours) => ours.join(theirs),
                None => {
                    self.entries.insert(name, theirs);
                }
            }
        }
        self.datasets.append(&mut other.datasets);
        // In chunks of one size: the text that reached most rows, as llama.cpp counts.
        let rows = self.entries.values().flat_map(|entry| entry.counts.iter().copied()).max().unwrap_or(0);
        self.chunk_count = if self.counts_chunks { rows } else { rows / self.chunk_size.max(1) };
        Ok(())
    }

    /// Turns counts of chunks into counts of rows.
    fn count_rows(&mut self, chunk_size: u64) {
        if !std::mem::take(&mut self.counts_chunks) {
            return;
        }
        for entry in self.entries.values_mut() {
            for sum in &mut entry.sums {
                *sum *= chunk_size as f64;
            }
            for count in &mut entry.counts {
                *count = count.saturating_mul(chunk_size);
            }
        }
    }

    /// The file to be, and the values of its tensors.
    fn gguf(&self) -> std::result::Result<(Writer, Vec<Vec<f32>>), String> {
        let as_u32 = |value: u64, what| u32::try_from(value).map_err(|_| format!("{value} {what} are too many"));
        let mut metadata = Metadata::new();
        metadata.insert(TYPE, TYPE_IMATRIX);
        metadata.insert(DATASETS, self.datasets.clone());
        metadata.insert(CHUNK_COUNT, as_u32(self.chunk_count, "chunks")?);
        // Where counts are chunks, a chunk is the unit.
        metadata.insert(CHUNK_SIZE, as_u32(self.chunk_size.max(1), "tokens in a chunk")?);
        let mut writer = Writer::with_metadata(metadata);
        let mut data = Vec::with_capacity(2 * self.entries.len());
        for (name, entry) in &self.entries {
            let matrices = entry.counts.len() as u64;
            let columns = entry.sums.len() as u64 / matrices;
            let sums: Vec<f32> = entry.sums.iter().map(|&sum| sum as f32).collect();
            if !sums.iter().all(|sum| sum.is_finite()) {
                return Err(format!("a sum of `{name}` exceeds single precision"));
            }
            let counts = entry.counts.iter().map(|&count| count as f32).collect();
            for (suffix, columns, values) in [(SUMS_SUFFIX, columns, sums), (COUNTS_SUFFIX, 1, counts)] {
                // ggml leaves out trailing dimensions of 1.
                let dims = [columns, matrices];
                let dims = if matrices == 1 { &dims[..1] } else { &dims[..] };
                writer
                    .add_tensor(&format!("{name}{suffix}"), dims, GgmlType::F32)
                    .map_err(|error| error.to_string())?;
                data.push(values);
            }
        }
        Ok((writer, data))
    }
}

impl Entry {
    /// Whether the two can be added: as many sums, and as many counts unless one has a single count for all.
    fn joins(&self, other: &Self) -> bool {
        let counts = (self.counts.len(), other.counts.len());
        self.sums.len() == other.sums.len() && (counts.0 == counts.1 || counts.0 == 1 || counts.1 == 1)
    }

    fn join(&mut self, mut other: Self) {
        let matrices = self.counts.len().max(other.counts.len());
        for counts in [&mut self.counts, &mut other.counts] {
            if counts.len() < matrices {
                *counts = vec![counts[0]; matrices];
            }
        }
        for (ours, theirs) in self.sums.iter_mut().zip(&other.sums) {
            *ours += theirs;
        }
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours = ours.saturating_add(*theirs);
        }
    }
}

type Parsed<T> = std::result::Result<T, String>;

/// A sum of squares as a file has it.
fn check_sum(tensor: &str, sum: f32) -> Parsed<f64> {
    if sum.is_finite() && sum >= 0.0 {
        Ok(f64::from(sum))
    } else {
        Err(format!("`{tensor}` holds {sum}, which is no sum of squares: make the file again"))
    }
}

fn from_gguf(file: &GgufFile) -> Parsed<ImportanceMatrix> {
    let metadata = file.metadata();
    let told = |error: hublabio_gguf::Error| error.to_string();
    if let Some(found) = metadata.str(TYPE).map_err(told)?.filter(|&found| found != TYPE_IMATRIX) {
        return Err(format!("its `{TYPE}` is `{found}`: {ADVICE}"));
    }
    let mut matrix = ImportanceMatrix {
        datasets: metadata.str_array(DATASETS).map_err(told)?.unwrap_or_default().to_vec(),
        chunk_count: metadata.u64(CHUNK_COUNT).map_err(told)?.unwrap_or(0),
        chunk_size: metadata.u64(CHUNK_SIZE).map_err(told)?.unwrap_or(0),
        ..ImportanceMatrix::default()
    };
    for view in file.views() {
        let name = &view.info.name;
        if let Some(tensor) = name.strip_suffix(SUMS_SUFFIX).filter(|tensor| !tensor.is_empty()) {
            let Some(counts) = file.tensor(&format!("{tensor}{COUNTS_SUFFIX}")) else {
                return Err(format!("`{name}` has no `{tensor}{COUNTS_SUFFIX}`: the file is incomplete"));
            };
            matrix.entries.insert(tensor.to_owned(), gguf_entry(tensor, view, counts)?);
        } else if let Some(tensor) = name.strip_suffix(COUNTS_SUFFIX)
            && file.tensor(&format!("{tensor}{SUMS_SUFFIX}")).is_none()
        {
            return Err(format!("`{name}` has no `{tensor}{SUMS_SUFFIX}`: the file is incomplete"));
        }
    }
    if matrix.entries.is_empty() {
        return Err(format!("it holds no entries (tensors NAME.in_sum2 and NAME.counts): {ADVICE}"));
    }
    Ok(matrix)
}

fn gguf_entry(tensor: &str, sums: TensorView<'_>, counts: TensorView<'_>) -> Parsed<Entry> {
    if sums.info.ty != GgmlType::F32 || counts.info.ty != GgmlType::F32 {
        return Err(format!("sums and counts of `{tensor}` are {} and {}, not F32", sums.info.ty, counts.info.ty));
    }
    let (n_sums, n_counts) = (sums.info.n_elements(), counts.info.n_elements());
    if n_counts == 0 || n_sums == 0 || n_sums % n_counts != 0 {
        return Err(format!("`{tensor}` has {n_sums} sums for {n_counts} counts"));
    }
    let values = |view: TensorView<'_>| view.to_f32().map_err(|error| error.to_string());
    let counts = values(counts)?.into_iter().map(|count| {
        // Larger counts are not exact in single precision, but may be written.
        if count.is_finite() && (0.0..=1e18).contains(&count) {
            Ok(count.round() as u64)
        } else {
            Err(format!("`{tensor}` holds {count}, which is no count: make the file again"))
        }
    });
    let counts = counts.collect::<Parsed<_>>()?;
    let sums = values(sums)?.into_iter().map(|sum| check_sum(tensor, sum)).collect::<Parsed<_>>()?;
    Ok(Entry { sums, counts })
}

/// Reads no further than the file goes, and never makes room for more than is left of it.
struct DatReader<R> {
    input: R,
    left: u64,
}

impl<R: Read> DatReader<R> {
    fn take(&mut self, bytes: u64, what: &str) -> Parsed<Vec<u8>> {
        if bytes > self.left {
            return Err(format!(
                "{what}: {bytes} bytes are needed, {} are left: it is cut short, or no importance matrix",
                self.left
            ));
        }
        let mut out = vec![0; bytes as usize];
        self.input.read_exact(&mut out).map_err(|cause| format!("{what}: {cause}"))?;
        self.left -= bytes;
        Ok(out)
    }

    fn number(&mut self, what: &str) -> Parsed<i32> {
        let bytes = self.take(4, what)?;
        Ok(i32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    /// A length in front of UTF-8.
    fn text(&mut self, what: &str) -> Parsed<String> {
        let len = self.number(what)?;
        let bytes = u64::try_from(len).ok().filter(|&bytes| bytes <= MAX_NAME_BYTES);
        let Some(bytes) = bytes else { return Err(format!("{what}: a length of {len}: it is no importance matrix")) };
        let bytes = self.take(bytes, what)?;
        String::from_utf8(bytes).map_err(|_| format!("{what}: it is not UTF-8: it is no importance matrix"))
    }
}

/// The older format, little-endian: the number of entries; for each a name (length in front), the number of chunks,
/// the number of values and the values, which are mean squares times the number of chunks; then, optional, the number
/// of chunks in all and the name of the text.
fn from_dat(reader: &mut DatReader<impl Read>, first: [u8; 4]) -> Parsed<ImportanceMatrix> {
    let n_entries = i32::from_le_bytes(first);
    let possible = reader.left / DAT_ENTRY_BYTES;
    if u64::try_from(n_entries).ok().is_none_or(|n| n == 0 || n > possible) {
        return Err("it begins like neither a GGUF file nor an importance matrix of llama.cpp".to_owned());
    }
    let mut matrix = ImportanceMatrix { counts_chunks: true, ..ImportanceMatrix::default() };
    for index in 1..=n_entries {
        let name = reader.text(&format!("name of entry {index}"))?;
        if name.is_empty() {
            return Err(format!("entry {index} has no name: it is no importance matrix"));
        }
        let chunks = reader.number(&format!("chunks of `{name}`"))?;
        let n_values = reader.number(&format!("number of values of `{name}`"))?;
        let (Ok(chunks), Ok(n_values)) = (u64::try_from(chunks), u64::try_from(n_values)) else {
            return Err(format!("`{name}` has {n_values} values of {chunks} chunks: it is no importance matrix"));
        };
        if n_values == 0 {
            return Err(format!("`{name}` has no values: it is no importance matrix"));
        }
        let bytes = reader.take(n_values * 4, &format!("values of `{name}`"))?;
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four bytes")));
        let sums = values.map(|value| check_sum(&name, value)).collect::<Parsed<_>>()?;
        // Without a number of chunks the values are the means themselves.
        let entry = Entry { sums, counts: vec![chunks.max(1)] };
        if matrix.entries.insert(name.clone(), entry).is_some() {
            return Err(format!("`{name}` occurs twice: make the file again"));
        }
    }
    if reader.left > 0 {
        let chunks = reader.number("number of chunks")?;
        matrix.chunk_count =
            u64::try_from(chunks).map_err(|_| format!("{chunks} chunks: it is no importance matrix"))?;
        if reader.left > 0 {
            let dataset = reader.text("name of the text")?;
            if !dataset.is_empty() {
                matrix.datasets.push(dataset);
            }
        }
    }
    Ok(matrix)
}
