//! A file that is not whole yet: `NAME.gguf.part`, beside it `NAME.gguf.part.json`, which says what it is a part of.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::error::StoreError;
use super::super::hexadecimal;
use super::super::records::{bounded, write_atomically};

const SIDECAR_BYTES_MAX: u64 = 64 << 10;
const READ_PIECE: usize = 1 << 20;

/// What a part is a part of: enough to know that the rest, when it comes, fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    /// The reference that the file was asked for by.
    pub from: String,
    /// Bytes of the whole.
    pub bytes: Option<u64>,
    /// SHA-256 of the whole, where the server says it.
    pub sha256: Option<String>,
    /// What the server that sends the bytes calls this version.
    pub etag: Option<String>,
    /// When it was last changed there.
    pub last_modified: Option<String>,
}

impl Version {
    /// What `If-Range` takes (RFC 9110, section 13.1.5): a strong name, or a date.
    pub fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|etag| etag.starts_with('"'));
        strong.or(self.last_modified.as_deref())
    }

    /// Whether what is described is known to be of one version: neither says anything that the other contradicts, and at least
    /// something that both say tells versions apart.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| Some(a.as_ref()? == b.as_ref()?);
        let fields = [
            same(&self.sha256, &other.sha256),
            same(&self.etag, &other.etag),
            same(&self.last_modified, &other.last_modified),
        ];
        let sizes_differ = matches!((self.bytes, other.bytes), (Some(a), Some(b)) if a != b);
        !sizes_differ && !fields.contains(&Some(false)) && fields.contains(&Some(true))
    }
}

/// The part on the disk.
pub(super) struct Part {
    pub path: PathBuf,
    pub version: Version,
    file: File,
    hash: Sha256,
    /// Bytes that are there, and in `hash`.
    pub bytes: u64,
}

impl Part {
    /// Opens the part of the file `target`, with what is there of it.
    pub fn open(target: &Path) -> Result<Self, StoreError> {
        let path = part_path(target);
        // What is written goes into the store: a link leads elsewhere, and a named pipe nowhere.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            let cause = io::Error::other("a link or something else that is no file is in the way");
            return Err(StoreError::Io { action: "write", path, cause });
        }
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(StoreError::io("write", &path))?;
        let sidecar = bounded(&sidecar_path(&path), SIDECAR_BYTES_MAX).ok();
        let version = sidecar.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut part = Self { path, version: Version::default(), file, hash: Sha256::new(), bytes: 0 };
        match version {
            Some(version) => {
                part.version = version;
                part.bytes = part.file.metadata().map_err(StoreError::io("read", &part.path))?.len();
            }
            // Bytes of which nobody knows what they are, are no use.
            None => part.truncate()?,
        }
        Ok(part)
    }

    /// Computes the hash of what is there; `go_on` is asked between pieces. Whether all of it was read.
    pub fn hash(&mut self, go_on: &mut dyn FnMut(u64) -> bool) -> Result<bool, StoreError> {
        let error = |cause| StoreError::Io { action: "read", path: self.path.clone(), cause };
        let mut buffer = vec![0; READ_PIECE];
        let mut hash = Sha256::new();
        let mut done = 0;
        self.file.seek(SeekFrom::Start(0)).map_err(error)?;
        while done < self.bytes {
            let error = |cause| StoreError::Io { action: "read", path: self.path.clone(), cause };
            let n = self.file.read(&mut buffer).map_err(error)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            done += n as u64;
            if !go_on(done) {
                return Ok(false);
            }
        }
        self.bytes = done;
        self.hash = hash;
        Ok(true)
    }

    /// The first bytes, as many as there are up to `bytes_max`. What is written next goes to the end all the same.
    pub fn first(&mut self, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let error = |cause| StoreError::Io { action: "read", path: self.path.clone(), cause };
        let mut first = Vec::new();
        self.file.seek(SeekFrom::Start(0)).map_err(error)?;
        (&self.file).take(bytes_max).read_to_end(&mut first).map_err(error)?;
        self.file.seek(SeekFrom::Start(self.bytes)).map_err(error)?;
        Ok(first)
    }

    /// Begins anew, with the file that `version` describes.
    pub fn begin(&mut self, version: Version) -> Result<(), StoreError> {
        self.truncate()?;
        let text = serde_json::to_vec(&version).expect("texts and numbers are JSON");
        write_atomically(&sidecar_path(&self.path), &text)?;
        self.version = version;
        Ok(())
    }

    fn truncate(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(StoreError::io("write", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(StoreError::io("write", &self.path))?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    /// Adds bytes at the end.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// The hash of what is there, in hexadecimal.
    pub fn sha256(&self) -> String {
        hexadecimal(&self.hash.clone().finalize())
    }

    /// Makes the bytes last.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("write", &self.path))
    }

    /// Removes it and what describes it.
    pub fn delete(&self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(sidecar_path(&self.path));
    }
}

/// Nothing is left of what never came.
impl Drop for Part {
    fn drop(&mut self) {
        if self.bytes == 0 {
            self.delete();
        }
    }
}

pub(super) fn part_path(target: &Path) -> PathBuf {
    with_suffix(target, ".part")
}

/// The file that describes a part.
pub(super) fn sidecar_path(part: &Path) -> PathBuf {
    with_suffix(part, ".json")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// What is said of an unfinished download in a listing.
pub(super) fn describe(part: &Path) -> String {
    let sidecar = bounded(&sidecar_path(part), SIDECAR_BYTES_MAX).ok();
    match sidecar.and_then(|bytes| serde_json::from_slice::<Version>(&bytes).ok()) {
        Some(version) => {
            let of = version.bytes.map(|bytes| format!(" of {bytes} bytes")).unwrap_or_default();
            format!("its download{of} was not finished: `hublab pull {}` goes on with it", version.from)
        }
        None => "its download was not finished".to_owned(),
    }
}

/// Keeps others from fetching or removing the same model.
pub(in crate::store) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of the model whose first file is `target`.
    pub fn take(target: &Path, name: &str) -> Result<Self, StoreError> {
        let path = with_suffix(target, ".part.lock");
        // Whoever had the lock removes its file: then another one has to be made.
        for _ in 0..16 {
            let file = File::options().create(true).append(true).open(&path).map_err(StoreError::io("open", &path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, _file: file }),
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => break,
                Err(fs::TryLockError::Error(cause)) if cause.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Self { path, _file: file });
                }
                Err(fs::TryLockError::Error(cause)) => return Err(StoreError::Io { action: "lock", path, cause }),
            }
        }
        Err(StoreError::Locked { name: name.into() })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the open file is still the one of this path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_same_only_where_something_says_so() {
        let version = |bytes, etag: Option<&str>, date: Option<&str>| Version {
            bytes,
            etag: etag.map(Into::into),
            last_modified: date.map(Into::into),
            ..Version::default()
        };
        let one = version(Some(5), Some("\"a\""), None);
        assert!(one.is_same(&one));
        assert!(one.is_same(&version(None, Some("\"a\""), Some("today"))));
        assert!(!one.is_same(&version(Some(5), Some("\"b\""), None)));
        assert!(!one.is_same(&version(Some(6), Some("\"a\""), None)));
        assert!(!one.is_same(&version(Some(5), None, None)), "a size tells nothing apart");
        assert_eq!(one.validator(), Some("\"a\""));
        assert_eq!(version(None, Some("W/\"a\""), None).validator(), None);
        assert_eq!(version(None, Some("W/\"a\""), Some("today")).validator(), Some("today"));
    }
}
