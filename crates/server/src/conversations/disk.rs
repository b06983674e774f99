//! The file under the store, and what to do when the disk fails it.
//!
//! After one failed read or write `redb` refuses everything until the file is opened anew. A disk that was full for a
//! moment would so end the keeping of conversations for good; here the next transaction opens the file again.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase};
use redb::{StorageBackend, TransactionError, WriteTransaction};

use super::error::{Result, StoreError, is_full, storage};

/// The database of a file.
pub(super) struct Disk {
    path: PathBuf,
    /// Memory for the database's pages. The library's default of 1 GiB is more than many machines have.
    cache_bytes: usize,
    /// `None` between a failure and a successful opening.
    opened: RwLock<Option<Opened>>,
}

struct Opened {
    database: Database,
    failed: Arc<AtomicBool>,
}

impl Disk {
    /// Opens a file, or makes one that only its owner can read.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        let opened = Opened::open(path, cache_bytes)?;
        Ok(Self { path: path.to_owned(), cache_bytes, opened: RwLock::new(Some(opened)) })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn begin_read(&self) -> Result<ReadTransaction> {
        self.begin(Database::begin_read)
    }

    /// A transaction whose end is on the disk when it is told.
    pub fn begin_write(&self) -> Result<WriteTransaction> {
        let mut transaction = self.begin(Database::begin_write)?;
        transaction.set_durability(Durability::Immediate).map_err(storage)?;
        Ok(transaction)
    }

    /// Makes the file smaller, as far as that goes without other transactions.
    pub fn compact(&self) -> Result<()> {
        let mut held = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        held.as_mut().map_or(Ok(()), |opened| opened.database.compact().map(drop).map_err(storage))
    }

    fn begin<T>(&self, begin: fn(&Database) -> std::result::Result<T, TransactionError>) -> Result<T> {
        let held = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = held.as_ref().filter(|opened| !opened.has_failed()) {
            return begin(&opened.database).map_err(storage);
        }
        drop(held);
        let mut held = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(Opened::has_failed) {
            // Closed first, because a file can be open only once.
            *held = None;
            *held = Some(Opened::open(&self.path, self.cache_bytes)?);
            tracing::warn!("{} was opened again after the disk had failed", self.path.display());
        }
        let opened = held.as_ref().expect("it was opened above");
        begin(&opened.database).map_err(storage)
    }
}

impl Opened {
    fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        let refuse = |error: DatabaseError| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
            error => match redb::Error::from(error) {
                error if is_full(&error) => storage(error),
                error => StoreError::NotAStore { path: path.to_owned(), reason: error.to_string() },
            },
        };
        let failed = Arc::new(AtomicBool::new(false));
        let file = FileBackend::new(open_file(path)?).map_err(refuse)?;
        let watched = WatchedFile { file, failed: Arc::clone(&failed) };
        let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(watched).map_err(refuse)?;
        Ok(Self { database, failed })
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

/// A file that remembers whether it failed.
#[derive(Debug)]
struct WatchedFile {
    file: FileBackend,
    failed: Arc<AtomicBool>,
}

impl WatchedFile {
    fn watch<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }
}

impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.watch(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.watch(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.watch(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watch(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if tests::IS_FULL.get() {
            return self.watch(Err(io::ErrorKind::StorageFull.into()));
        }
        self.watch(self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// The folder, made if need be so that only its owner sees into it.
pub(super) fn create_folder(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|source| StoreError::File { path: folder.to_owned(), source })
}

/// The file, made if need be so that only its owner can read it.
fn open_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|source| StoreError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::{ConversationStore, Message, NewConversation, StoreError, StoreLimits};

    thread_local! {
        /// Whether writing fails on this thread, as on a full disk.
        pub(super) static IS_FULL: Cell<bool> = const { Cell::new(false) };
    }

    #[test]
    fn a_disk_that_was_full_for_a_while_loses_nothing_and_is_used_again() {
        let folder = std::env::temp_dir().join(format!("hublab-full-{}", std::process::id()));
        let store = ConversationStore::open(&folder, StoreLimits::default()).unwrap();
        let id = store.create(NewConversation::default(), 1).unwrap().id;
        let kept = store.append(&id, Message::user(None, "What does tar do?"), 2).unwrap().1;
        IS_FULL.set(true);
        for _ in 0..3 {
            let error = store.append(&id, Message::assistant(kept.id, "x".repeat(100_000)), 3).unwrap_err();
            assert!(matches!(error, StoreError::DiskFull), "{error}");
        }
        IS_FULL.set(false);
        assert_eq!(store.get(&id).unwrap().messages, std::slice::from_ref(&kept));
        let answer = store.append(&id, Message::assistant(kept.id, "An archiving utility."), 4).unwrap().1;
        store.check().unwrap();
        drop(store);
        let store = ConversationStore::open(&folder, StoreLimits::default()).unwrap();
        assert_eq!(store.get(&id).unwrap().messages, [kept, answer]);
        drop(store);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
