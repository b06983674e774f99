//! A checkpoint folder: its JSON files, and its tensors wherever they lie.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::Error;
use crate::safetensors::{SafetensorsFile, TensorInfo};

/// Most bytes of a file that is read whole. The largest published `tokenizer.json` has some 40 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Most files that the weights are in, all open at once. Published models have some 200.
const MAX_SHARDS: usize = 1000;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Where a tensor lies: in which file, and as which of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    file: usize,
    tensor: usize,
}

/// The safetensors files of a folder as one set of tensors.
#[derive(Debug)]
pub struct Weights {
    files: Vec<SafetensorsFile>,
    places: BTreeMap<String, Place>,
}

impl Weights {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let index_path = folder.join(INDEX);
        let index = read_json(&index_path)?;
        let names = match &index {
            Some(index) => shard_names(index).map_err(|error| error.in_file(&index_path))?,
            None if folder.join(SINGLE).exists() => vec![SINGLE.to_owned()],
            None => {
                let problem = format!("there is neither {SINGLE} nor {INDEX} in {}", folder.display());
                let advice = "give the folder of a checkpoint in safetensors format; \
                              .bin files can be saved anew with `save_pretrained(safe_serialization=True)`";
                return Err(Error::malformed(problem, advice));
            }
        };
        let files: Vec<_> =
            names.iter().map(|name| SafetensorsFile::open(&folder.join(name))).collect::<Result<_, _>>()?;
        let weights = Self::of(files)?;
        if let Some(index) = &index {
            weights.check_index(index, &names).map_err(|error| error.in_file(&index_path))?;
        }
        Ok(weights)
    }

    /// Opens one file by its own name.
    pub fn open_file(path: &Path) -> Result<Self, Error> {
        Self::of(vec![SafetensorsFile::open(path)?])
    }

    fn of(files: Vec<SafetensorsFile>) -> Result<Self, Error> {
        let mut places = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for (tensor, info) in file.tensors().iter().enumerate() {
                if places.insert(info.name.clone(), Place { file: number, tensor }).is_some() {
                    let problem = format!("tensor `{}` is in another file of the checkpoint, too", info.name);
                    return Err(Error::malformed(problem, "fetch the checkpoint again").in_file(file.path()));
                }
            }
        }
        Ok(Self { files, places })
    }

    fn check_index(&self, index: &Value, names: &[String]) -> Result<(), Error> {
        let map = index.get("weight_map").and_then(Value::as_object).expect("shard_names has read it");
        for (tensor, file) in map {
            let there = self.places.get(tensor).map(|place| names[place.file].as_str());
            if there != file.as_str() {
                let problem = format!("tensor `{tensor}` is said to be in {file}, but is not there");
                return Err(Error::malformed(problem, "a file is missing or damaged, fetch the checkpoint again"));
            }
        }
        if let Some(name) = self.places.keys().find(|name| !map.contains_key(*name)) {
            let problem = format!("tensor `{name}` is in a file, but not in the index");
            return Err(Error::malformed(problem, "files of two checkpoints are mixed, fetch the checkpoint again"));
        }
        Ok(())
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Where a tensor lies.
    pub fn find(&self, name: &str) -> Option<Place> {
        self.places.get(name).copied()
    }

    /// A tensor's description.
    pub fn info(&self, place: Place) -> &TensorInfo {
        &self.files[place.file].tensors()[place.tensor]
    }

    /// Fills `bytes` from `offset` bytes behind the tensor's beginning.
    pub fn read(&self, place: Place, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.files[place.file].read(self.info(place), offset, bytes)
    }
}

/// The file names of an index, each once, sorted.
fn shard_names(index: &Value) -> Result<Vec<String>, Error> {
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| {
        Error::malformed("there is no `weight_map`", "this is no index of a checkpoint, fetch it again")
    })?;
    let mut names = Vec::with_capacity(map.len());
    for (tensor, file) in map {
        let name = file.as_str().unwrap_or_default();
        // A name that leads out of the folder is no shard.
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain {
            let problem = format!("tensor `{tensor}` is said to be in {file}, which is no file name");
            return Err(Error::malformed(problem, "fetch the checkpoint again"));
        }
        names.push(name.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    if names.len() > MAX_SHARDS {
        let problem = format!("the weights are in {} files, at most {MAX_SHARDS} are read", names.len());
        let advice = "save the checkpoint anew with larger files: `save_pretrained(max_shard_size=…)`";
        return Err(Error::malformed(problem, advice));
    }
    Ok(names)
}

/// The files that a conversion reads beside the weights.
const TEXTS: [&str; 13] = [
    INDEX,
    "adapter_config.json",
    "modules.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Whether a file is one of those that a conversion of this folder reads, under whatever path.
pub fn is_input(folder: &Path, weights: &Weights, file: &Path) -> bool {
    let Ok(file) = fs::canonicalize(file) else { return false };
    let texts = TEXTS.iter().map(|name| folder.join(name));
    let shards = weights.files.iter().map(|shard| shard.path().to_path_buf());
    texts.chain(shards).any(|input| fs::canonicalize(input).is_ok_and(|input| input == file))
}

/// Opens a regular file. Anything else is refused before it is opened: opening a pipe waits for a writer.
pub fn open_regular(path: &Path) -> Result<File, Error> {
    if !fs::metadata(path).map_err(Error::io("open", path))?.is_file() {
        return Err(Error::malformed("not a regular file", "give the folder of a checkpoint").in_file(path));
    }
    File::open(path).map_err(Error::io("open", path))
}

/// A file's bytes. `None` where there is no such file.
pub fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match open_regular(path) {
        Err(Error::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        let problem = format!("more than {MAX_TEXT_BYTES} bytes");
        return Err(Error::malformed(problem, "no file of this kind is as large, fetch it again").in_file(path));
    }
    Ok(Some(bytes))
}

/// A JSON document. `None` where there is no such file.
pub fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    let Some(bytes) = read_file(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|cause| Error::Json { cause }.in_file(path))
}

/// A text. `None` where there is no such file.
pub fn read_text(path: &Path) -> Result<Option<String>, Error> {
    let Some(bytes) = read_file(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Error::malformed("not UTF-8", "fetch the file again").in_file(path))
}

/// The folder's own name, for `general.name`. Caches call a folder by the 40 digits of a commit, which is no name.
pub fn folder_name(folder: &Path) -> Option<String> {
    let whole: PathBuf = fs::canonicalize(folder).ok()?;
    let name = whole.file_name()?.to_string_lossy().into_owned();
    let is_commit = name.len() == 40 && name.bytes().all(|digit| digit.is_ascii_hexdigit());
    (!is_commit).then_some(name)
}
