//! An open model: one file, all parts of a split one, or bytes in memory.

use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::Error;
use crate::metadata::Metadata;
use crate::mmap::{map_file, map_nothing};
use crate::parse::{Parsed, parse, parse_head};
use crate::split::{self, SplitKeys};
use crate::tensor::{TensorInfo, TensorView};

/// An open GGUF model. Tensors are borrowed from it without a copy; it can be shared between threads.
#[derive(Debug)]
pub struct GgufFile {
    version: u32,
    alignment: u64,
    metadata: Metadata,
    /// In the file's order, parts concatenated.
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
    parts: Vec<Part>,
}

/// One file of a model.
#[derive(Debug)]
pub struct Part {
    path: Option<PathBuf>,
    bytes: Storage,
    n_tensors: usize,
}

#[derive(Debug)]
enum Storage {
    Map(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
    /// Zeros in place of a file of which only the description is known.
    Absent(Mmap),
}

impl Storage {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Map(map) | Self::Absent(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Part {
    /// Where the part lies; `None` for bytes in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Size of the file in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// Tensors whose weights lie in this part.
    pub fn n_tensors(&self) -> usize {
        self.n_tensors
    }
}

/// The description of a file that is not here: what its first bytes say.
#[derive(Debug)]
pub struct Head {
    parsed: Parsed,
    file_bytes: u64,
}

impl Head {
    /// Reads the first bytes of a file that has `file_bytes` bytes in all.
    ///
    /// # Errors
    /// As [`GgufFile::open`]. Where `bytes` end before the description does, more of them may be the cure.
    pub fn parse(bytes: &[u8], file_bytes: u64) -> Result<Self, Error> {
        Ok(Self { parsed: parse_head(bytes, file_bytes)?, file_bytes })
    }
}

impl GgufFile {
    /// Opens and checks the model at `path`, memory-mapped. Of a split model, any part opens the whole.
    ///
    /// Only the description is read; weights are paged in when they are used. While the model is open its files
    /// must not be truncated: the operating system ends a process that reads a page which no longer exists.
    ///
    /// # Errors
    /// Every kind of [`Error`] about reading; those about the content are wrapped in [`Error::InFile`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = Self::map_part(path)?;
        let Some(keys) = split::split_keys(&opened.1.metadata).map_err(|error| error.in_file(path))? else {
            return Self::join(vec![opened]).map_err(|error| error.in_file(path));
        };
        let paths = split::part_paths(path, keys).map_err(|error| error.in_file(path))?;
        Self::open_split(&paths, keys, Some(opened))
    }

    /// As [`open`](Self::open), of files whose names say nothing: all parts of a model, in order.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when there are more or fewer files than the model has parts.
    pub fn open_parts(paths: &[PathBuf]) -> Result<Self, Error> {
        let [first, others @ ..] = paths else {
            return Err(Error::Split { problem: "a model of no files".into(), advice: "give its files" });
        };
        let opened = Self::map_part(first)?;
        let keys = split::split_keys(&opened.1.metadata).map_err(|error| error.in_file(first))?;
        let count = keys.map_or(1, |keys| keys.count);
        if count != paths.len() as u64 {
            let problem = format!("there are {} files of a model that has {count} parts", paths.len());
            return Err(Error::Split { problem, advice: "fetch all its parts, and no others" }.in_file(first));
        }
        match keys {
            Some(keys) if !others.is_empty() => Self::open_split(paths, SplitKeys { part: 0, ..keys }, Some(opened)),
            _ => Self::join(vec![opened]).map_err(|error| error.in_file(first)),
        }
    }

    /// All parts in order, of which part `keys.part` is open already.
    fn open_split(paths: &[PathBuf], keys: SplitKeys, mut opened: Option<(Part, Parsed)>) -> Result<Self, Error> {
        let mut parts = Vec::with_capacity(paths.len());
        for (index, part_path) in paths.iter().enumerate() {
            let mut part = match opened.take_if(|_| index as u64 == keys.part) {
                Some(part) => part,
                None => Self::map_part(part_path)?,
            };
            check_part(&part.1.metadata, index as u64, keys).map_err(|error| error.in_file(part_path))?;
            for tensor in &mut part.1.tensors {
                tensor.part = index;
            }
            parts.push(part);
        }
        let path = &paths[keys.part as usize];
        let file = Self::join(parts).map_err(|error| error.in_file(path))?;
        match keys.n_tensors {
            Some(expected) if expected != file.tensors.len() as u64 => Err(Error::Split {
                problem: format!("the parts hold {} tensors, {} says {expected}", file.tensors.len(), split::TENSORS),
                advice: "a part is damaged or belongs to another model, fetch all parts again",
            }
            .in_file(path)),
            _ => Ok(file),
        }
    }

    /// Opens bytes that live as long as the program, such as `include_bytes!`.
    ///
    /// # Errors
    /// As [`Self::open`]; a part of a split model is refused, because the others cannot be found.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, Error> {
        Self::from_storage(Storage::Static(bytes))
    }

    /// Opens bytes in memory.
    ///
    /// # Errors
    /// As [`Self::from_static`].
    pub fn from_vec(bytes: Vec<u8>) -> Result<Self, Error> {
        Self::from_storage(Storage::Owned(bytes))
    }

    /// A model of which only the descriptions of its files are here, in order, for programs that ask what it is and what it would
    /// need. Its weights read as zeros and take no memory; [`has_weights`](Self::has_weights) tells.
    ///
    /// # Errors
    /// When the descriptions do not belong together, or the system has not enough addresses for the whole.
    pub fn from_heads(heads: Vec<Head>) -> Result<Self, Error> {
        let first = heads.first().map(|head| split::split_keys(&head.parsed.metadata)).transpose()?.flatten();
        let count = first.map_or(1, |keys| keys.count);
        if count != heads.len() as u64 {
            let problem = format!("there are {} files of a model that has {count} parts", heads.len());
            return Err(Error::Split { problem, advice: "give all its parts, and no others" });
        }
        let mut parts = Vec::with_capacity(heads.len());
        for (index, Head { mut parsed, file_bytes }) in heads.into_iter().enumerate() {
            if let Some(keys) = first {
                check_part(&parsed.metadata, index as u64, keys)?;
            }
            parsed.tensors.iter_mut().for_each(|tensor| tensor.part = index);
            let bytes = Storage::Absent(map_nothing(file_bytes)?);
            parts.push((Part { path: None, bytes, n_tensors: parsed.tensors.len() }, parsed));
        }
        Self::join(parts)
    }

    fn from_storage(bytes: Storage) -> Result<Self, Error> {
        let parsed = parse(bytes.as_slice())?;
        if let Some(keys) = split::split_keys(&parsed.metadata)? {
            return Err(Error::Split {
                problem: format!("these bytes are part {} of {}", keys.part + 1, keys.count),
                advice: "open the files by path, or merge them into one first",
            });
        }
        Self::join(vec![(Part { path: None, bytes, n_tensors: parsed.tensors.len() }, parsed)])
    }

    fn map_part(path: &Path) -> Result<(Part, Parsed), Error> {
        let map = map_file(path)?;
        let parsed = parse(&map).map_err(|error| error.in_file(path))?;
        let n_tensors = parsed.tensors.len();
        Ok((Part { path: Some(path.to_path_buf()), bytes: Storage::Map(map), n_tensors }, parsed))
    }

    /// One model out of parts, in order; the first part's metadata leads.
    fn join(parts: Vec<(Part, Parsed)>) -> Result<Self, Error> {
        let whole = parts.len() == 1;
        let mut joined = Self {
            version: 0,
            alignment: 0,
            metadata: Metadata::new(),
            tensors: Vec::new(),
            by_name: Vec::new(),
            parts: Vec::new(),
        };
        for (part, parsed) in parts {
            if joined.parts.is_empty() {
                joined.version = parsed.version;
                joined.alignment = parsed.alignment;
                joined.metadata = parsed.metadata;
            } else {
                join_metadata(&mut joined.metadata, &parsed.metadata)?;
            }
            joined.tensors.extend(parsed.tensors);
            joined.parts.push(part);
        }
        if !whole {
            // The joined model reads like one that was never split.
            for key in [split::NO, split::COUNT, split::TENSORS] {
                joined.metadata.remove(key);
            }
        }
        joined.by_name = (0..joined.tensors.len() as u32).collect();
        joined.by_name.sort_unstable_by_key(|&index| joined.tensors[index as usize].name.as_str());
        let name = |index: u32| &joined.tensors[index as usize].name;
        if let Some(pair) = joined.by_name.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            return Err(Error::DuplicateTensor { name: name(pair[0]).clone() });
        }
        Ok(joined)
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes between aligned tensors (of the first part, where the model is split).
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The key-value pairs. Of a split model, those of the first part without the `split.` keys.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The key-value pairs, to be taken out by a program that needs a large one for itself.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// All tensors in the file's order, parts concatenated.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Where the tensor with this name stands in [`tensors`](Self::tensors).
    pub fn tensor_index(&self, name: &str) -> Option<usize> {
        let found = self.by_name.binary_search_by(|&index| self.tensors[index as usize].name.as_str().cmp(name));
        Some(self.by_name[found.ok()?] as usize)
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensor_at(self.tensor_index(name)?)
    }

    /// The tensor at `index` of [`tensors`](Self::tensors): what a program that looked names up once uses after.
    pub fn tensor_at(&self, index: usize) -> Option<TensorView<'_>> {
        self.tensors.get(index).map(|info| self.view_of(info))
    }

    /// Views of all tensors, in the order of [`Self::tensors`].
    pub fn views(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|info| self.view_of(info))
    }

    /// Size of all parts in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(Part::n_bytes).sum()
    }

    /// Whether the weights are there, and not only what describes them ([`from_heads`](Self::from_heads)).
    pub fn has_weights(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part.bytes, Storage::Absent(_)))
    }

    /// The path of the file, or of the first part; `None` for bytes in memory.
    pub fn path(&self) -> Option<&Path> {
        self.parts.first().and_then(Part::path)
    }

    /// The files of the model, one unless it is split.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn view_of<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        let start = info.file_offset as usize;
        let data = &self.parts[info.part].bytes.as_slice()[start..start + info.n_bytes as usize];
        TensorView { info, data }
    }
}

/// Whether a part agrees with the keys of the part that was opened first.
fn check_part(metadata: &Metadata, part: u64, expected: SplitKeys) -> Result<(), Error> {
    let found = split::split_keys(metadata)?;
    let expected = SplitKeys { part, ..expected };
    if found != Some(expected) {
        return Err(Error::Split {
            problem: format!("the file says {}, expected {}", describe(found), describe(Some(expected))),
            advice: "a part belongs to another model, fetch all parts again",
        });
    }
    Ok(())
}

fn describe(keys: Option<SplitKeys>) -> String {
    match keys {
        None => "that it is not split".to_owned(),
        Some(SplitKeys { part, count, n_tensors: None }) => format!("part {} of {count}", part + 1),
        Some(SplitKeys { part, count, n_tensors: Some(n) }) => {
            format!("part {} of {count} with {n} tensors in all", part + 1)
        }
    }
}

/// Takes over what a later part says beyond the first. Writers put everything into the first part, so a
/// contradiction means that the parts do not belong together.
fn join_metadata(into: &mut Metadata, part: &Metadata) -> Result<(), Error> {
    for (key, value) in part.iter() {
        if key.starts_with("split.") || key == "general.alignment" {
            continue;
        }
        match into.get(key) {
            None => {
                into.insert(key, value.clone());
            }
            Some(first) if first == value => {}
            Some(_) => {
                return Err(Error::Split {
                    problem: format!("two parts give different values for metadata key `{key}`"),
                    advice: "a part belongs to another model, fetch all parts again",
                });
            }
        }
    }
    Ok(())
}
