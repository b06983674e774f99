//! What the store writes down beside the models: aliases, and where pulled models came from.
//!
//! One JSON file in the folder that is written to. Several processes may change it: a change is made under a lock (on a file
//! beside it) and appears by a rename, so that readers see the old or the new, and never wait.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::error::StoreError;

const FILE: &str = ".hublab-store.json";
const LOCK: &str = ".hublab-store.lock";
/// Far above what thousands of models need.
const BYTES_MAX: u64 = 8 << 20;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Records {
    /// Alias to name.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    /// By name.
    #[serde(default)]
    pub pulled: BTreeMap<String, Pulled>,
}

/// Where a model came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pulled {
    /// The reference, as `pull` understood it.
    pub from: String,
    /// SHA-256 of each file, in hexadecimal.
    pub sha256: Vec<String>,
    /// What the server called this version of each file, where it did.
    #[serde(default)]
    pub etags: Vec<Option<String>>,
    /// Bytes of all files.
    pub bytes: u64,
    /// When the first file was last changed, in milliseconds since 1970. With the bytes it tells whether all this is still true.
    pub modified_ms: u64,
}

impl Pulled {
    /// Whether the files are still those that were pulled.
    pub fn is_of(&self, bytes: u64, modified: Option<SystemTime>) -> bool {
        self.bytes == bytes && modified.map(milliseconds) == Some(self.modified_ms)
    }
}

pub(super) fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Records {
    /// Those of a folder; none where there is no file.
    pub fn read(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        match bounded(&path, BYTES_MAX) {
            Ok(bytes) => Self::parse(&bytes).map_err(|problem| StoreError::BadRecord {
                origin: path.display().to_string(),
                problem: format!("{problem}; mend it, or delete it: it holds aliases and where models came from"),
            }),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(StoreError::Io { action: "read", path, cause }),
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// Changes those of a folder, which is made if it is not there. Nothing is written if `change` fails.
    pub fn update<T>(folder: &Path, change: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        fs::create_dir_all(folder).map_err(StoreError::io("make", folder))?;
        let path = folder.join(LOCK);
        let lock = File::options().create(true).append(true).open(&path).map_err(StoreError::io("open", &path))?;
        match lock.lock() {
            Ok(()) => {}
            // Some network file systems have no locks. The rename still keeps the file whole.
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => {}
            Err(cause) => return Err(StoreError::Io { action: "lock", path, cause }),
        }
        let mut records = Self::read(folder)?;
        let before = records.clone();
        let result = change(&mut records)?;
        if records != before {
            let mut text = serde_json::to_vec_pretty(&records).expect("names and numbers are JSON");
            text.push(b'\n');
            write_atomically(&folder.join(FILE), &text)?;
        }
        Ok(result)
    }
}

/// A file's bytes, if it is a regular one and they are not more than `bytes_max`.
pub(super) fn bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    // Opening a named pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Puts a file in its place, whole.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(&name);
    // Whatever is left there, it is neither written into nor followed.
    let _ = fs::remove_file(&beside);
    let written = File::create_new(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.map_err(StoreError::io("write", path))?;
    sync_folder_of(path);
    Ok(())
}

/// Makes a rename last through a power failure, where the system lets a folder be synced.
pub(super) fn sync_folder_of(path: &Path) {
    if let Some(folder) = path.parent() {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}
