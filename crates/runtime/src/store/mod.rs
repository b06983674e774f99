//! The models of this machine, by name: folders of GGUF files, aliases, what Ollama has fetched, and the model of the binary.
//!
//! A model's name is the path of its file below the folder, with `/` and without `.gguf`; of a split one, without the number of
//! the part. A name never leads out of the folders. `docs/MODELS.md` is the page for users.
//!
//! Where to go next: `folder.rs` finds files, `records.rs` keeps aliases, `ollama.rs` reads Ollama's store, `pull` fetches: the
//! only place of this program that opens a connection out.

// Names are compared exactly, and so is how a file's name ends.
#![allow(clippy::case_sensitive_file_extension_comparisons)]

mod error;
mod folder;
mod name;
mod ollama;
pub mod pull;
mod records;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hublabio_gguf::{GgufFile, TensorInfo, Value, parse_split_name};
use sha2::{Digest as _, Sha256};

use crate::ai::quantization::MIXES;
use crate::ai::{DEFAULT_MODEL, DEFAULT_MODEL_NAME};
use crate::error::{Error, Result};
use crate::moe::ModelSource;
use crate::node::{BuiltinCatalog, CatalogModel, ModelCatalog};

use folder::{Found, State};
use ollama::OllamaModel;
use records::Records;

pub use error::StoreError;

/// Names the folder for models; several, as in `PATH`, of which the first is written to.
pub const FOLDER_VARIABLE: &str = "HUBLAB_MODELS";
/// What the name of a model's file ends with.
const SUFFIX: &str = ".gguf";
/// Descriptions that are kept in memory.
const FACTS_MAX: usize = 4096;

/// Where models lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where `pull` and `cp` write; looked at first. It need not be there yet.
    pub folder: Option<PathBuf>,
    /// More folders, which are only read; of two models of one name, the first counts.
    pub more_folders: Vec<PathBuf>,
    /// Stores of Ollama, which are only read.
    pub ollama: Vec<PathBuf>,
}

impl StoreConfig {
    /// What an environment says: `HUBLAB_MODELS`, else `XDG_DATA_HOME/hublab/models`, else `HOME/.local/share/hublab/models`; and
    /// `OLLAMA_MODELS`, else `HOME/.ollama/models` and where Ollama's service keeps its models.
    ///
    /// ```
    /// use hublabio_runtime::store::StoreConfig;
    /// let config = StoreConfig::from_environment(|name| (name == "HOME").then(|| "/home/ada".into()));
    /// assert_eq!(config.folder.unwrap(), std::path::Path::new("/home/ada/.local/share/hublab/models"));
    /// ```
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let absolute = |name: &str| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
        // What is given relative means the folder that the program was started in, wherever it goes later.
        let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let home = absolute("HOME");
        let mut folders: Vec<PathBuf> = set(FOLDER_VARIABLE)
            .map(|folders| std::env::split_paths(&folders).filter(|path| !path.as_os_str().is_empty()).collect())
            .unwrap_or_default();
        if folders.is_empty() {
            let data = absolute("XDG_DATA_HOME").or_else(|| Some(home.as_ref()?.join(".local/share")));
            folders.extend(data.map(|data| data.join("hublab/models")));
        }
        let ollama = match set("OLLAMA_MODELS") {
            Some(folder) => vec![whole(folder.into())],
            None => home
                .map(|home| home.join(".ollama/models"))
                .into_iter()
                .chain(cfg!(target_os = "linux").then(|| "/usr/share/ollama/.ollama/models".into()))
                .collect(),
        };
        let mut folders = folders.into_iter().map(whole);
        Self { folder: folders.next(), more_folders: folders.collect(), ollama }
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.folder.iter().chain(&self.more_folders)
    }
}

/// What a listed model is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelKind {
    /// It comes with the binary.
    Builtin,
    /// A file in a folder.
    File,
    /// Another name for a model.
    Alias {
        /// That model's name.
        of: String,
    },
    /// Ollama fetched it; it is only read.
    Ollama,
    /// A download that was not finished.
    Unfinished,
}

impl ModelKind {
    /// In one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Builtin => "built in",
            Self::File => "file",
            Self::Alias { .. } => "alias",
            Self::Ollama => "ollama",
            Self::Unfinished => "unfinished",
        }
    }
}

/// A model as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredModel {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ModelKind,
    /// Its file; of a split model the first part, of one of the binary none.
    pub path: Option<PathBuf>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When they were last changed.
    pub modified: Option<SystemTime>,
    /// SHA-256 of its file, in hexadecimal, where it is known.
    pub sha256: Option<String>,
    /// Its architecture, where the file can be read.
    pub architecture: Option<String>,
    /// The type of most of its weights, as `quantize` names it.
    pub quantization: Option<String>,
    /// Weights.
    pub parameters: Option<u64>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// All models, and what could not be looked at.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By name.
    pub models: Vec<StoredModel>,
    /// Folders and files that could not be read, in sentences.
    pub notices: Vec<String>,
}

/// What `remove` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files that are gone.
    pub files: Vec<PathBuf>,
    /// Bytes that they had.
    pub bytes: u64,
    /// Aliases that are gone.
    pub aliases: Vec<String>,
}

/// The models of this machine. Looks at the folders each time it is asked, so that files may come and go.
#[derive(Debug)]
pub struct ModelStore {
    config: StoreConfig,
    facts: Mutex<HashMap<PathBuf, Known>>,
}

/// What was read of a file, as long as it has this size and date.
#[derive(Debug)]
struct Known {
    bytes: u64,
    modified: Option<SystemTime>,
    facts: Arc<std::result::Result<Facts, String>>,
}

/// What a listing says of a file's content.
#[derive(Clone, Debug, Default)]
struct Facts {
    architecture: Option<String>,
    quantization: Option<String>,
    parameters: u64,
}

/// The name that a file at `path` would have in a folder of models: the file's, without `.gguf` and the number of a part.
#[must_use]
pub fn name_of_path(path: &str) -> &str {
    let file = path.rsplit(['/', '\\']).next().unwrap_or_default();
    parse_split_name(file).map_or_else(|| without_suffix(file), |(stem, ..)| stem)
}

fn without_suffix(path: &str) -> &str {
    let Some(at) = path.len().checked_sub(SUFFIX.len()) else { return path };
    match path.get(at..) {
        Some(ending) if ending.eq_ignore_ascii_case(SUFFIX) => &path[..at],
        _ => path,
    }
}

/// Where a name leads.
enum Place {
    Builtin,
    /// In the folder of this number.
    Files(usize, Vec<PathBuf>),
    Ollama(OllamaModel),
}

impl ModelStore {
    /// A store of these folders. Looks at none of them yet.
    #[must_use]
    pub fn open(config: StoreConfig) -> Self {
        Self { config, facts: Mutex::new(HashMap::new()) }
    }

    /// Its folders.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Everything that is there, what cannot be used included, by name. Reads the descriptions in the files, and no weights.
    #[must_use]
    pub fn list(&self) -> Listing {
        let mut listing = Listing::default();
        let mut taken: HashMap<String, String> = HashMap::new();
        listing.models.push(builtin());
        taken.insert(DEFAULT_MODEL_NAME.into(), "the built-in model".into());
        let records = self.records().unwrap_or_else(|error| {
            listing.notices.push(error.to_string());
            Records::default()
        });
        for folder in self.config.folders() {
            let (found, notices) = folder::scan(folder);
            listing.notices.extend(notices);
            for found in found {
                let mut model = self.describe_found(&found, &records);
                if model.kind == ModelKind::File {
                    claim(&mut taken, &mut model, &folder.display().to_string());
                }
                listing.models.push(model);
            }
        }
        for (alias, of) in &records.aliases {
            let mut model = self.describe_alias(alias, of, &records);
            claim(&mut taken, &mut model, "an alias");
            listing.models.push(model);
        }
        for store in &self.config.ollama {
            let (found, notices) = ollama::scan(store);
            listing.notices.extend(notices);
            for found in found {
                let mut model = self.describe_ollama(&found);
                claim(&mut taken, &mut model, "Ollama");
                listing.models.push(model);
            }
        }
        listing.models.sort_by(|a, b| a.name.cmp(&b.name));
        listing
    }

    /// Whether there is a model of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        matches!(self.locate(name), Ok(Some(_)))
    }

    /// The model that a path means for a client that may not name files: that of the store, if the path lies in one of its
    /// folders, or else the one that is called like the file. `/models/qwen.gguf` is the model `qwen`.
    ///
    /// # Errors
    /// When there is none, or the path is none: then it is refused, and nothing outside the store is looked at.
    pub fn find_for_path(&self, path: &str) -> Result<CatalogModel> {
        let whole = without_suffix(path);
        for folder in self.config.folders().filter_map(|folder| folder.to_str()) {
            let below = whole.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            if let Some(model) = below.and_then(|name| self.find_checked(name).transpose()) {
                return model;
            }
        }
        let stem = name_of_path(path);
        match self.find_checked(stem).transpose() {
            Some(model) => model,
            None => Err(StoreError::OutsideStore { path: name::shortened(path), name: name::shortened(stem) }.into()),
        }
    }

    /// As [`find`](ModelCatalog::find), with nothing for what is no name or no model's.
    fn find_checked(&self, name: &str) -> Result<Option<CatalogModel>> {
        if name::check(name).is_err() || !self.contains(name) { Ok(None) } else { self.find(name).map(Some) }
    }

    /// Gives the model `from` one more name. No file is copied.
    ///
    /// # Errors
    /// When there is no model `from`, `to` is no name or taken, or the records cannot be written.
    pub fn add_alias(&self, from: &str, to: &str) -> Result<()> {
        name::check(to)?;
        // An alias of an alias is one of the model: it stays when the other goes.
        let of = self.find(from)?.name;
        if let Some(place) = self.place_of(to)? {
            return Err(StoreError::Exists { name: to.into(), place }.into());
        }
        let folder = self.write_folder()?;
        Records::update(folder, |records| {
            if let Some(other) = records.aliases.get(to) {
                return Err(StoreError::Exists { name: to.into(), place: format!("an alias of `{other}`") });
            }
            records.aliases.insert(to.into(), of);
            Ok(())
        })?;
        Ok(())
    }

    /// Removes an alias; or a model's files, and the aliases that would lead nowhere without them; or what there is of an unfinished
    /// download. A linked file is not touched, its link is.
    ///
    /// # Errors
    /// When there is no such model, it is not this store's to remove, or the system refuses.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        name::check(name)?;
        let refused = |why: String| Err(StoreError::NotRemovable { name: name.into(), why }.into());
        if name == DEFAULT_MODEL_NAME {
            return refused("it is built into the program".into());
        }
        let files = match self.in_folders(name) {
            Some((0, files)) if self.config.folder.is_some() => files,
            Some((_, files)) => {
                let shown = files[0].display();
                return refused(format!("{shown} is in a folder that is only read: delete the file there"));
            }
            None => Vec::new(),
        };
        let Ok(folder) = self.write_folder() else { return Err(self.no_such_model(name)) };
        let files = if files.is_empty() { remains(folder, name) } else { files };
        if files.is_empty() {
            let is_alias = self.records()?.aliases.contains_key(name);
            if is_alias {
                Records::update(folder, |records| Ok(records.aliases.remove(name)))?;
                return Ok(Removed { aliases: vec![name.into()], ..Removed::default() });
            }
            if self.in_ollama(name).is_some() {
                return refused("it belongs to Ollama, whose store is only read: use `ollama rm`".into());
            }
            return Err(self.no_such_model(name));
        }
        // What is being pulled is not taken from under the download.
        let lock = pull::lock(folder, name)?;
        let mut removed = Removed::default();
        for file in files {
            removed.bytes += fs::symlink_metadata(&file).map_or(0, |found| found.len());
            fs::remove_file(&file).map_err(StoreError::io("remove", &file))?;
            removed.files.push(file);
        }
        removed.aliases = Records::update(folder, |records| {
            records.pulled.remove(name);
            let gone: Vec<String> =
                records.aliases.iter().filter(|(_, of)| *of == name).map(|(alias, _)| alias.clone()).collect();
            records.aliases.retain(|_, of| of != name);
            Ok(gone)
        })?;
        drop(lock);
        // Folders of owners that have nothing left go too; one with something in it stays by itself.
        let mut owner = folder.join(name);
        while owner.pop() && owner != *folder && fs::remove_dir(&owner).is_ok() {}
        Ok(removed)
    }

    /// Where a name leads, with the model's own name: another one for an alias.
    fn locate(&self, name: &str) -> Result<Option<(String, Place)>> {
        name::check(name)?;
        if let Some(place) = self.at_home(name) {
            return Ok(Some((name.to_owned(), place)));
        }
        let records = self.records()?;
        Ok(match records.aliases.get(name) {
            // The records may have been written by hand: what they name is as foreign as any name.
            Some(of) => self.locate_target(of).map(|place| (of.clone(), place)),
            None => self.in_ollama(name).map(|found| (found.name.clone(), Place::Ollama(found))),
        })
    }

    /// Where an alias leads.
    fn locate_target(&self, of: &str) -> Option<Place> {
        name::check(of).ok()?;
        self.at_home(of).or_else(|| self.in_ollama(of).map(Place::Ollama))
    }

    fn at_home(&self, name: &str) -> Option<Place> {
        if name == DEFAULT_MODEL_NAME {
            return Some(Place::Builtin);
        }
        self.in_folders(name).map(|(number, files)| Place::Files(number, files))
    }

    fn in_folders(&self, name: &str) -> Option<(usize, Vec<PathBuf>)> {
        let mut folders = self.config.folders().enumerate();
        folders.find_map(|(number, folder)| Some((number, folder::locate(folder, name)?)))
    }

    fn in_ollama(&self, name: &str) -> Option<OllamaModel> {
        self.config.ollama.iter().find_map(|store| ollama::locate(store, name))
    }

    /// What has this name, in words; `None` if nothing has.
    fn place_of(&self, name: &str) -> Result<Option<String>> {
        Ok(self.locate(name)?.map(|(own, place)| match place {
            _ if own != name && !matches!(place, Place::Ollama(_)) => format!("an alias of `{own}`"),
            Place::Builtin => "the built-in one".into(),
            Place::Files(_, files) => files[0].display().to_string(),
            Place::Ollama(_) => "one of Ollama's".into(),
        }))
    }

    fn records(&self) -> std::result::Result<Records, StoreError> {
        self.config.folder.as_deref().map_or_else(|| Ok(Records::default()), Records::read)
    }

    fn write_folder(&self) -> std::result::Result<&PathBuf, StoreError> {
        self.config.folder.as_ref().ok_or(StoreError::NoFolder)
    }

    fn no_such_model(&self, name: &str) -> Error {
        let usable = self.list().models.into_iter().filter(|model| model.kind != ModelKind::Unfinished);
        let names: HashSet<String> = usable.map(|model| model.name).collect();
        Error::NoSuchModel { name: name::shortened(name), known: name::nearest(name, names.into_iter().collect()) }
    }

    fn describe_found(&self, found: &Found, records: &Records) -> StoredModel {
        let (kind, facts) = match &found.state {
            State::Whole => (ModelKind::File, self.facts(&found.files[0], found.bytes, found.modified)),
            State::Unfinished => (ModelKind::Unfinished, Err(pull::unfinished(&found.files[0]))),
            State::Broken(problem) => (ModelKind::File, Err(problem.clone())),
        };
        let pulled = records.pulled.get(&found.name).filter(|pulled| pulled.is_of(found.bytes, found.modified));
        let sha256 = pulled.filter(|_| kind == ModelKind::File).and_then(|pulled| only(&pulled.sha256));
        StoredModel {
            path: found.files.first().cloned(),
            bytes: found.bytes,
            modified: found.modified,
            sha256,
            ..StoredModel::new(found.name.clone(), kind, facts)
        }
    }

    fn describe_alias(&self, alias: &str, of: &str, records: &Records) -> StoredModel {
        let kind = ModelKind::Alias { of: of.to_owned() };
        let broken = |problem: String| StoredModel::new(alias.to_owned(), kind.clone(), Err(problem));
        if let Err(error) = name::check(alias).and_then(|()| name::check(of)) {
            return broken(error.to_string());
        }
        let model = match self.locate_target(of) {
            None => return broken(format!("there is no model `{of}` any more: `hublab rm {alias}` removes the alias")),
            Some(Place::Builtin) => builtin(),
            Some(Place::Files(_, files)) => {
                let (bytes, modified) = size_and_date(&files).unwrap_or_default();
                let found = Found { name: of.to_owned(), state: State::Whole, files, bytes, modified };
                self.describe_found(&found, records)
            }
            Some(Place::Ollama(found)) => self.describe_ollama(&found),
        };
        StoredModel { name: alias.to_owned(), kind, ..model }
    }

    fn describe_ollama(&self, found: &OllamaModel) -> StoredModel {
        match &found.file {
            Err(problem) => StoredModel::new(found.name.clone(), ModelKind::Ollama, Err(problem.clone())),
            Ok((path, layer)) => {
                let modified = fs::metadata(path).and_then(|found| found.modified()).ok();
                StoredModel {
                    path: Some(path.clone()),
                    bytes: layer.bytes,
                    modified,
                    sha256: Some(layer.sha256.clone()),
                    ..StoredModel::new(found.name.clone(), ModelKind::Ollama, self.facts(path, layer.bytes, modified))
                }
            }
        }
    }

    /// What a file says of itself, read again when it changes.
    fn facts(&self, path: &Path, bytes: u64, modified: Option<SystemTime>) -> std::result::Result<Facts, String> {
        let cache = || self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&Known| known.bytes == bytes && known.modified == modified;
        if let Some(known) = cache().get(path).filter(same) {
            return (*known.facts).clone();
        }
        let facts = GgufFile::open(path).map_err(|error| error.to_string()).and_then(|file| {
            // Adapters and importance matrices are GGUF files too.
            match file.metadata().get("general.type").and_then(Value::as_str) {
                Some("adapter") => Err("it is an adapter, for --lora, and no model".to_owned()),
                Some("imatrix") => Err("it is an importance matrix, for `hublab quantize`, and no model".to_owned()),
                _ => Ok(Facts::of(&file)),
            }
        });
        let mut cache = cache();
        if cache.len() >= FACTS_MAX {
            cache.clear();
        }
        cache.insert(path.to_path_buf(), Known { bytes, modified, facts: Arc::new(facts.clone()) });
        facts
    }
}

impl ModelCatalog for ModelStore {
    /// The model of this name. An alias gives the model that it stands for, under that model's own name; a name of Ollama's may
    /// leave out `:latest`.
    ///
    /// # Errors
    /// When it is no name, there is no such model, or what is known of it says that it cannot be used.
    fn find(&self, name: &str) -> Result<CatalogModel> {
        match self.locate(name)? {
            None => {
                let records = self.records()?;
                match records.aliases.get(name) {
                    Some(of) => Err(StoreError::BadRecord {
                        origin: format!("the alias `{name}`"),
                        problem: format!("there is no model `{of}` any more: `hublab rm {name}` removes the alias"),
                    }
                    .into()),
                    None => Err(self.no_such_model(name)),
                }
            }
            Some((_, Place::Builtin)) => Ok(BuiltinCatalog::default_model()),
            Some((name, Place::Files(number, files))) => {
                let (bytes, modified) = size_and_date(&files)?;
                let records = self.records()?;
                let pulled = records.pulled.get(&name).filter(|pulled| number == 0 && pulled.is_of(bytes, modified));
                let sha256 = pulled.and_then(|pulled| only(&pulled.sha256));
                let source = ModelSource::File(files.into_iter().next().expect("a model has a file"));
                Ok(CatalogModel { name, source, bytes, modified, sha256 })
            }
            Some((_, Place::Ollama(OllamaModel { name, file }))) => {
                let (path, layer) = file.map_err(|problem| StoreError::BadRecord { origin: name.clone(), problem })?;
                let modified = fs::metadata(&path).and_then(|found| found.modified()).ok();
                let source = ModelSource::File(path);
                Ok(CatalogModel { name, source, bytes: layer.bytes, modified, sha256: Some(layer.sha256) })
            }
        }
    }

    fn store(&self) -> Option<&ModelStore> {
        Some(self)
    }

    /// All that can be used.
    fn list(&self) -> Result<Vec<CatalogModel>> {
        let usable = ModelStore::list(self).models.into_iter().filter(|model| model.problem.is_none());
        Ok(usable
            .map(|model| CatalogModel {
                name: model.name,
                source: model.path.map_or(ModelSource::Builtin(DEFAULT_MODEL_NAME), ModelSource::File),
                bytes: model.bytes,
                modified: model.modified,
                sha256: model.sha256,
            })
            .collect())
    }
}

impl StoredModel {
    fn new(name: String, kind: ModelKind, facts: std::result::Result<Facts, String>) -> Self {
        let (facts, problem) = match facts {
            Ok(facts) => (Some(facts), None),
            Err(problem) => (None, Some(problem)),
        };
        let parameters = facts.as_ref().map(|facts| facts.parameters);
        let (architecture, quantization) =
            facts.map(|facts| (facts.architecture, facts.quantization)).unwrap_or_default();
        Self {
            name,
            kind,
            path: None,
            bytes: 0,
            modified: None,
            sha256: None,
            architecture,
            quantization,
            parameters,
            problem,
        }
    }
}

impl Facts {
    fn of(file: &GgufFile) -> Self {
        let metadata = file.metadata();
        let declared = metadata.get("general.file_type").and_then(Value::as_u64);
        let mix = MIXES.iter().find(|mix| Some(u64::from(mix.file_type)) == declared).map(|mix| mix.name.to_owned());
        Self {
            architecture: metadata.get("general.architecture").and_then(Value::as_str).map(str::to_owned),
            quantization: mix.or_else(|| heaviest_type(file.tensors())),
            parameters: file.tensors().iter().map(TensorInfo::n_elements).sum(),
        }
    }
}

/// The type that most bytes have.
fn heaviest_type(tensors: &[TensorInfo]) -> Option<String> {
    let mut bytes: HashMap<_, u64> = HashMap::new();
    for tensor in tensors {
        *bytes.entry(tensor.ty).or_default() += tensor.n_bytes();
    }
    let heaviest = bytes.into_iter().max_by_key(|&(ty, bytes)| (bytes, ty));
    heaviest.map(|(ty, _)| ty.name().to_owned())
}

/// Takes a name for a model; one that is taken already makes the model one that nobody can ask for.
fn claim(taken: &mut HashMap<String, String>, model: &mut StoredModel, by: &str) {
    match taken.get(&model.name) {
        Some(other) => model.problem = Some(format!("it is hidden by {other}, which has the same name: rename it")),
        None => drop(taken.insert(model.name.clone(), by.to_owned())),
    }
}

/// The bytes of all files, and when the last was changed.
fn size_and_date(files: &[PathBuf]) -> std::result::Result<(u64, Option<SystemTime>), StoreError> {
    let (mut bytes, mut modified) = (0, None);
    for file in files {
        let found = fs::metadata(file).map_err(StoreError::io("open", file))?;
        bytes += found.len();
        modified = modified.max(found.modified().ok());
    }
    Ok((bytes, modified))
}

/// The hash of a model in one file.
fn only(hashes: &[String]) -> Option<String> {
    match hashes {
        [hash] => Some(hash.clone()),
        _ => None,
    }
}

/// The SHA-256 of bytes, in small hexadecimal digits.
#[must_use]
pub fn sha256_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a text is a SHA-256 in hexadecimal.
fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What lies in a folder under a name besides a whole model: a broken one, or a download that was not finished, with the file
/// that describes it.
fn remains(folder: &Path, name: &str) -> Vec<PathBuf> {
    let (found, _) = folder::scan(folder);
    let of_name = found.into_iter().filter(|found| found.name == name);
    let mut files: Vec<PathBuf> = of_name.flat_map(|found| found.files).collect();
    let beside: Vec<PathBuf> =
        files.iter().filter_map(|file| pull::beside_part(file)).filter(|file| file.exists()).collect();
    files.extend(beside);
    files
}

/// The model of the binary.
fn builtin() -> StoredModel {
    let facts = GgufFile::from_static(DEFAULT_MODEL).map(|file| Facts::of(&file)).unwrap_or_default();
    StoredModel {
        bytes: DEFAULT_MODEL.len() as u64,
        ..StoredModel::new(DEFAULT_MODEL_NAME.into(), ModelKind::Builtin, Ok(facts))
    }
}
