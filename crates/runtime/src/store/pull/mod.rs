//! Fetches models: the only place of this program that opens a connection out, and only when a user asks for a model.
//!
//! A file comes as `NAME.gguf.part` and gets its name when it is whole, its hash is right and it can be read. What breaks off goes
//! on where it stopped, if the server can say that it is still the same file. Sizes are compared with the disk and the memory first.
//!
//! Where to go next: `reference.rs` is what can be asked for, `download.rs` brings one file, `part.rs` is a file that is not whole,
//! `client.rs` speaks HTTP, `describe.rs` reads what a model is from its beginning, `fit.rs` compares it with the machine.

mod client;
mod describe;
mod download;
mod fit;
#[cfg(fuzzing)]
pub mod fuzzing;
mod part;
mod reference;

use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hublabio_gguf::{GgufFile, parse_split_name, split_file_name};

use super::error::StoreError;
use super::ollama::{self, OllamaName};
use super::records::{Pulled, Records, milliseconds, sync_folder_of};
use super::{ModelStore, Place, is_sha256, name, size_and_date};
use crate::ai::DEFAULT_MODEL_NAME;
use crate::error::Result;

use client::{Client, Failure, Method};
use download::Downloader;
use part::{Lock, Part, Version};
use reference::{Reference, Source, Url};

pub use describe::Description;
pub use fit::PullLimits;

/// Where to fetch from, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullConfig {
    /// Answers for `hf://`.
    pub hf_endpoint: String,
    /// Answers for Ollama's names.
    pub ollama_registry: String,
    /// Sent to `hf_endpoint`, and to no other server.
    pub hf_token: Option<String>,
    /// Whether the proxies that the environment names are used.
    pub environment_proxy: bool,
    /// How long finding and reaching a server may take.
    pub connect_timeout: Duration,
    /// How long nothing may come.
    pub read_timeout: Duration,
    /// How often in a row something may go wrong before it is given up.
    pub attempts: u32,
    /// The first wait after a failure; it doubles up to 32 times as much.
    pub backoff: Duration,
}

impl Default for PullConfig {
    /// The public servers, 15 s to reach them, 30 s without a byte, six attempts, waits from 1 s.
    fn default() -> Self {
        Self {
            hf_endpoint: "https://huggingface.co".into(),
            ollama_registry: "https://registry.ollama.ai".into(),
            hf_token: None,
            environment_proxy: true,
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(30),
            attempts: 6,
            backoff: Duration::from_secs(1),
        }
    }
}

impl PullConfig {
    /// The defaults, with what an environment says: `HUBLAB_HF_ENDPOINT`, `HUBLAB_OLLAMA_REGISTRY`, `HF_TOKEN`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| variable(name)?.into_string().ok().filter(|value| !value.trim().is_empty());
        let default = Self::default();
        Self {
            hf_endpoint: text("HUBLAB_HF_ENDPOINT").unwrap_or(default.hf_endpoint),
            ollama_registry: text("HUBLAB_OLLAMA_REGISTRY").unwrap_or(default.ollama_registry),
            hf_token: text("HF_TOKEN").map(|token| token.trim().to_owned()),
            ..default
        }
    }
}

/// How a model is fetched.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// What to call it; by default as its file, or as Ollama does.
    pub name: Option<String>,
    /// The only SHA-256 that is taken, in hexadecimal.
    pub sha256: Option<String>,
    /// Fetch what this machine has too little memory for.
    pub force: bool,
    /// Where from.
    pub config: PullConfig,
    /// What the machine has.
    pub limits: PullLimits,
    /// Set from outside, it ends the download at once, also one that waits for a server. What has come is kept.
    pub stop: Option<Arc<AtomicBool>>,
}

/// What happens while a model is fetched.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PullEvent {
    /// It is known what will be fetched, and it fits.
    Planned {
        /// The model's name.
        name: String,
        /// Files.
        files: usize,
        /// Bytes of all of them, if the server says so.
        bytes: Option<u64>,
        /// Bytes that are there already.
        bytes_there: u64,
    },
    /// The beginning of the files has come, and says what the model is. The rest comes now, if it is not too large.
    Described(Description),
    /// What was there already is read, to go on from it.
    Checking {
        /// Bytes read.
        bytes_done: u64,
        /// Bytes to read.
        bytes_total: u64,
    },
    /// Bytes have come.
    Progress {
        /// Bytes that are there, of all files.
        bytes_done: u64,
        /// Bytes of all files, if known.
        bytes_total: Option<u64>,
        /// Bytes that come in a second.
        bytes_per_s: f64,
    },
    /// A file begins anew.
    Restarted {
        /// Why, in a sentence.
        reason: String,
    },
    /// Something went wrong, and is tried again.
    Waiting {
        /// What went wrong.
        problem: String,
        /// How long.
        wait: Duration,
        /// Which failure in a row this is.
        failures: u32,
        /// So many end it.
        failures_max: u32,
    },
}

/// A model that was fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct PullReport {
    /// Its name.
    pub name: String,
    /// Where it came from.
    pub from: String,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came this time.
    pub bytes_fetched: u64,
    /// SHA-256 of each file, in hexadecimal.
    pub sha256: Vec<String>,
    /// What it is, as [`PullEvent::Described`] said it.
    pub description: Option<Description>,
    /// Whether nothing had to be fetched.
    pub already_there: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Takes what happens; `Break` ends the download.
pub type PullSink<'a> = dyn FnMut(PullEvent) -> ControlFlow<()> + 'a;

/// A file to be fetched.
struct Remote {
    url: Url,
    /// What is known of it before it comes.
    version: Version,
}

/// What is to be fetched, and what it is called.
struct Order {
    name: String,
    reference: Reference,
    sha256: Option<String>,
    /// The whole files, in order.
    targets: Vec<PathBuf>,
    hf_endpoint: Url,
    ollama_registry: Url,
}

impl Order {
    /// As it is written down: any part of a split model stands for all of it.
    fn from(&self) -> String {
        self.reference.parts()[0].to_string()
    }
}

/// Whether `reference` leads to Hugging Face or Ollama's registry, or is none at all. Any other could be a server that only this
/// machine reaches: whoever lets others say what is fetched looks here first.
#[must_use]
pub fn names_known_registry(reference: &str) -> bool {
    Reference::parse(reference).map_or(true, |reference| reference.names_known_registry())
}

impl ModelStore {
    /// Fetches a model: `hf://OWNER/REPO/FILE.gguf[@REVISION]`, an address, or a name of Ollama's registry. One of several
    /// calls for the same model is served, the others are refused.
    ///
    /// # Errors
    /// When the reference cannot be understood, the name is taken, the model does not fit, the server refuses or fails too often,
    /// or what comes is not what was promised. [`Error::Cancelled`](crate::Error::Cancelled) when it is stopped.
    pub fn pull(&self, reference: &str, options: &PullOptions, on_event: &mut PullSink<'_>) -> Result<PullReport> {
        let order = self.order(reference, options)?;
        let folder = self.write_folder()?;
        let client = Client::new(&options.config, order.hf_endpoint.clone())?;
        make_owner(folder, &order.targets[0])?;
        let lock = lock(folder, &order.name)?;
        let done = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let watcher = options.stop.as_ref().map(|stop| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        if stop.load(Ordering::Relaxed) {
                            client.shut_down();
                        }
                        thread::park_timeout(Duration::from_millis(50));
                    }
                })
            });
            // Told if this thread panics, too: the scope waits for the watcher.
            let ending = SetOnDrop(&done);
            let mut downloader = Downloader::new(&client, options, &order.name, on_event);
            let result = self.fetch(&order, options, &mut downloader);
            drop(ending);
            if let Some(watcher) = watcher {
                watcher.thread().unpark();
            }
            result
        });
        drop(lock);
        if result.is_err() {
            // An owner's folder that was made for nothing goes again; one with something in it stays by itself.
            let mut owner = folder.join(&order.name);
            while owner.pop() && owner != *folder && fs::remove_dir(&owner).is_ok() {}
        }
        result
    }

    fn order(&self, text: &str, options: &PullOptions) -> Result<Order> {
        let reference = Reference::parse(text)?;
        let bad =
            |problem: &str| StoreError::BadReference { reference: name::shortened(text), problem: problem.into() };
        let endpoint = |variable: &'static str, url: &str| {
            Url::parse(url).map_err(|problem| StoreError::BadReference {
                reference: url.into(),
                problem: format!("{variable}: {problem}"),
            })
        };
        let name = options.name.clone().unwrap_or_else(|| reference.default_name());
        name::check(&name)?;
        if parse_split_name(&format!("{name}.gguf")).is_some() {
            let problem = "a file of that name is a part of a split model: give another with --name";
            return Err(StoreError::BadName { name, problem }.into());
        }
        if name == DEFAULT_MODEL_NAME {
            return Err(StoreError::BadName {
                name,
                problem: "it is that of the built-in model: give another with --name",
            }
            .into());
        }
        let given = options.sha256.as_ref().map(|hash| hash.to_ascii_lowercase());
        if given.as_deref().is_some_and(|hash| !is_sha256(hash)) {
            return Err(bad("--sha256 takes 64 hexadecimal digits").into());
        }
        if matches!((&given, &reference.sha256), (Some(a), Some(b)) if a != b) {
            return Err(bad("--sha256 and what follows `#sha256=` contradict each other").into());
        }
        let sha256 = given.or_else(|| reference.sha256.clone());
        let parts = reference.parts().len();
        if parts > 1 && sha256.is_some() {
            return Err(bad("a SHA-256 is that of one file, and this model has several").into());
        }
        let whole = self.write_folder()?.join(format!("{name}.gguf"));
        let file = name.rsplit('/').next().expect("a split has a last piece");
        let targets = match parts {
            1 => vec![whole],
            _ => (0..parts).map(|part| whole.with_file_name(split_file_name(file, part, parts))).collect(),
        };
        Ok(Order {
            name,
            reference,
            sha256,
            targets,
            hf_endpoint: endpoint("HUBLAB_HF_ENDPOINT", &options.config.hf_endpoint)?,
            ollama_registry: endpoint("HUBLAB_OLLAMA_REGISTRY", &options.config.ollama_registry)?,
        })
    }

    fn fetch(&self, order: &Order, options: &PullOptions, downloader: &mut Downloader<'_>) -> Result<PullReport> {
        let start = Instant::now();
        let before = self.replaceable(order)?;
        let remotes = remotes(order, downloader)?;
        let from = order.from();
        if let Some((files, hashes, etags)) = before {
            let same = |i: usize, remote: &Remote| match (&remote.version.sha256, hashes.get(i)) {
                (Some(expected), Some(hash)) => expected == hash,
                _ => remote.version.etag.is_some() && etags.get(i) == Some(&remote.version.etag),
            };
            if hashes.len() == remotes.len() && remotes.iter().enumerate().all(|(i, remote)| same(i, remote)) {
                let (bytes, _) = size_and_date(&files)?;
                let seconds = start.elapsed().as_secs_f64();
                let name = order.name.clone();
                return Ok(PullReport {
                    name,
                    from,
                    files,
                    bytes,
                    bytes_fetched: 0,
                    sha256: hashes,
                    description: None,
                    already_there: true,
                    seconds,
                });
            }
        }
        let mut parts = open_parts(order, &remotes, downloader)?;
        let total: Option<u64> = remotes.iter().map(|remote| remote.version.bytes).sum();
        let there: u64 = parts.iter().map(|part| part.bytes).sum();
        if let Some(total) = total {
            let folder = order.targets[0].parent().expect("it lies in the store's folder");
            options.limits.check_disk(&order.name, folder, total.saturating_sub(there))?;
            if !options.force {
                options.limits.check_memory(&order.name, total)?;
            }
        }
        downloader.plan(remotes.len(), total, there)?;
        for part in &mut parts {
            downloader.hash(part)?;
        }
        let description = describe::describe(&remotes, &mut parts, downloader)?;
        if let Some(description) = &description {
            downloader.say(PullEvent::Described(description.clone()))?;
            if let Some(needs) = description.needs.filter(|_| !options.force)
                && let Err(error) = options.limits.check_memory(&order.name, needs.bytes())
            {
                if there == 0 {
                    // Nobody had asked for more than to know.
                    parts.iter().for_each(Part::delete);
                }
                return Err(error.into());
            }
        }
        let mut sha256 = Vec::new();
        let mut etags = Vec::new();
        for (remote, part) in remotes.iter().zip(&mut parts) {
            sha256.push(downloader.file(remote, part)?);
            etags.push(part.version.etag.clone());
        }
        let paths: Vec<PathBuf> = parts.iter().map(|part| part.path.clone()).collect();
        if let Err(error) = GgufFile::open_parts(&paths) {
            parts.iter().for_each(Part::delete);
            return Err(StoreError::NotAModel { cause: error.to_string() }.into());
        }
        self.make_room(order)?;
        // The first part comes last: before that there is no model of this name.
        for (part, target) in parts.iter().zip(&order.targets).rev() {
            fs::rename(&part.path, target).map_err(StoreError::io("write", target))?;
            let _ = fs::remove_file(part::sidecar_path(&part.path));
        }
        sync_folder_of(&order.targets[0]);
        let (bytes, modified) = size_and_date(&order.targets)?;
        let modified_ms = modified.map_or(0, milliseconds);
        let pulled = Pulled { from: from.clone(), sha256: sha256.clone(), etags, bytes, modified_ms };
        Records::update(self.write_folder()?, |records| {
            records.pulled.insert(order.name.clone(), pulled);
            Ok(())
        })?;
        Ok(PullReport {
            name: order.name.clone(),
            from,
            files: order.targets.clone(),
            bytes,
            bytes_fetched: downloader.fetched(),
            sha256,
            description,
            already_there: false,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Looks once more at what has the order's name, as a download may take hours: what has come to be there meanwhile stays.
    fn make_room(&self, order: &Order) -> Result<()> {
        let before = self.replaceable(order)?;
        match order.targets.as_slice() {
            // One that was pulled is replaced; of its parts, none may be joined with those of another version.
            [first, _, ..] if before.is_some() && first.exists() => {
                fs::remove_file(first).map_err(StoreError::io("replace", first))?;
            }
            // Some file systems do not tell small letters from large ones.
            targets if before.is_none() => {
                if let Some(taken) = targets.iter().find(|target| fs::symlink_metadata(target).is_ok()) {
                    let place = taken.display().to_string();
                    return Err(StoreError::Exists { name: order.name.clone(), place }.into());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What has the order's name and may be replaced, because it came from the same place: its files, their hashes, and what the
    /// server called its version.
    fn replaceable(&self, order: &Order) -> Result<Option<Before>> {
        let located = self.locate(&order.name)?;
        let is_own = located.as_ref().is_some_and(|(own, _)| *own == order.name);
        match located {
            None => return Ok(None),
            Some((_, Place::Files(0, files))) if is_own => {
                let (bytes, modified) = size_and_date(&files)?;
                let pulled = self.records()?.pulled.remove(&order.name);
                let same = |pulled: &Pulled| pulled.from == order.from() && pulled.is_of(bytes, modified);
                if let Some(pulled) = pulled.filter(same) {
                    return Ok(Some((files, pulled.sha256, pulled.etags)));
                }
            }
            Some((own, Place::Ollama(found))) => {
                if matches!(&order.reference.source, Source::Ollama(asked) if asked.to_string() == own) {
                    // Broken, or another version: then a copy of the store's own is fetched.
                    return Ok(found.file.ok().map(|(path, layer)| (vec![path], vec![layer.sha256], Vec::new())));
                }
            }
            Some(_) => {}
        }
        let place = self.place_of(&order.name)?.unwrap_or_default();
        Err(StoreError::Exists { name: order.name.clone(), place }.into())
    }
}

/// Keeps others from fetching or removing a model of the store's own folder.
pub(super) fn lock(folder: &Path, name: &str) -> std::result::Result<Lock, StoreError> {
    Lock::take(&folder.join(format!("{name}.gguf")), name)
}

/// What has a name already: its files, their hashes, and what the server called its version.
type Before = (Vec<PathBuf>, Vec<String>, Vec<Option<String>>);

/// Sets a flag when it goes, in whatever way.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes the folder that a model goes to. A link below the store's own folder is not followed: it leads elsewhere.
fn make_owner(folder: &Path, target: &Path) -> Result<()> {
    let owner = target.parent().expect("it lies in the store's folder");
    let mut below = folder.to_path_buf();
    for piece in owner.strip_prefix(folder).into_iter().flatten() {
        below.push(piece);
        if fs::symlink_metadata(&below).is_ok_and(|found| !found.is_dir()) {
            let cause = std::io::Error::other("a file or a link is in the way");
            return Err(StoreError::Io { action: "make", path: below, cause }.into());
        }
    }
    fs::create_dir_all(owner).map_err(StoreError::io("make", owner))?;
    Ok(())
}

/// Asks for every file of the order: where it is, how large, which hash.
fn remotes(order: &Order, downloader: &mut Downloader<'_>) -> Result<Vec<Remote>> {
    let of = |reference: &Reference, downloader: &mut Downloader<'_>| -> Result<Remote> {
        let mut remote = if let Source::Ollama(name) = &reference.source {
            ollama_remote(order, name, downloader)?
        } else {
            let url = reference.url(&order.hf_endpoint).expect("it is no name of a registry");
            downloader.retrying(&url, |client| probe(client, &url))?
        };
        remote.version.from = reference.to_string();
        match (&order.sha256, &remote.version.sha256) {
            (Some(asked), Some(found)) if asked != found => {
                let problem = format!("its SHA-256 is {found}, not {asked}, which was asked for: nothing was fetched");
                return Err(StoreError::BadAnswer { url: remote.url.without_query(), problem }.into());
            }
            (Some(asked), None) => remote.version.sha256 = Some(asked.clone()),
            _ => {}
        }
        Ok(remote)
    };
    order.reference.parts().iter().map(|part| of(part, downloader)).collect()
}

/// What a server says of a file, without its bytes.
fn probe(client: &Client<'_>, url: &Url) -> std::result::Result<Remote, Failure> {
    let answer = match client.ask(Method::Head, url, &[]) {
        // Signed addresses are often good for one method, and some servers know no other.
        Err(
            Failure::Fatal(StoreError::Refused { status: 400 | 403 | 405, .. })
            | Failure::Transient { status: Some(500..), .. },
        ) => client.ask(Method::Get, url, &[])?,
        answer => answer?,
    };
    // Of an answer that was not followed to its end, the length and the names are those of the redirect.
    let is_file = answer.status == 200;
    let version = Version {
        from: String::new(),
        bytes: answer.linked_bytes.or_else(|| answer.length().filter(|_| is_file)),
        etag: answer.etag().filter(|_| is_file),
        last_modified: answer.last_modified().filter(|_| is_file),
        sha256: answer.linked_sha256,
    };
    Ok(Remote { url: url.clone(), version })
}

/// A registry names the file by its hash.
fn ollama_remote(order: &Order, name: &OllamaName, downloader: &mut Downloader<'_>) -> Result<Remote> {
    let base = name
        .base(&order.ollama_registry)
        .map_err(|problem| StoreError::BadReference { reference: name.to_string(), problem: problem.into() })?;
    let url = Url { path: format!("{}/manifests/{}", base.path, name.tag), ..base.clone() };
    let accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
    let bytes = downloader.retrying(&url, |client| client.document(&url, accept, ollama::MANIFEST_BYTES_MAX))?;
    let layer = ollama::parse_manifest(&bytes)
        .map_err(|problem| StoreError::BadRecord { origin: url.without_query(), problem })?;
    let url = Url { path: format!("{}/blobs/sha256:{}", base.path, layer.sha256), ..base };
    let version = Version { bytes: Some(layer.bytes), sha256: Some(layer.sha256), ..Version::default() };
    Ok(Remote { url, version })
}

/// Opens the parts of all files. One of another version begins anew.
fn open_parts(order: &Order, remotes: &[Remote], downloader: &mut Downloader<'_>) -> Result<Vec<Part>> {
    let mut parts = Vec::with_capacity(remotes.len());
    for (remote, target) in remotes.iter().zip(&order.targets) {
        let mut part = Part::open(target)?;
        let is_same = part.version.from == remote.version.from && part.version.is_same(&remote.version);
        let is_longer = remote.version.bytes.is_some_and(|bytes| part.bytes > bytes);
        if part.bytes > 0 && (!is_same || is_longer) {
            downloader
                .say(PullEvent::Restarted { reason: "what is there is of another version of the file".into() })?;
            part.begin(remote.version.clone())?;
        }
        parts.push(part);
    }
    Ok(parts)
}

/// The file that describes an unfinished download.
pub(super) fn beside_part(part: &Path) -> Option<PathBuf> {
    part.extension().is_some_and(|extension| extension == "part").then(|| part::sidecar_path(part))
}

/// What is said of an unfinished download.
pub(super) fn unfinished(part: &Path) -> String {
    part::describe(part)
}
