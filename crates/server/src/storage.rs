//! The database under what the service keeps, and what to do when the disk fails it.
//!
//! After one failed read or write `redb` refuses everything until the file is opened anew. A disk that was full for a
//! moment would so end the keeping for good; here the next transaction opens the file again.

use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase};
use redb::{StorageBackend, TransactionError, WriteTransaction};

/// Why there is no database, or no transaction of it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process has the file.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The file is something else, or broken.
    #[error("{path} cannot be read ({reason}): move it away to begin a new one")]
    NotADatabase { path: PathBuf, reason: String },
    /// The file or its folder could not be made or opened.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// Reading or writing failed.
    #[error(transparent)]
    Database(Box<redb::Error>),
}

type Result<T> = std::result::Result<T, StorageError>;

/// Opens a store over the file at `path`. The database was not written for files that somebody made: what it asserts of a page
/// must not end the service.
pub(crate) fn open_distrusted<T, E: From<StorageError>>(
    path: &Path,
    open: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        let reason = String::from("its pages contradict each other");
        Err(StorageError::NotADatabase { path: path.to_owned(), reason }.into())
    })
}

/// Whether the disk, or what of it may be used, is full.
pub(crate) fn is_full(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error, redb::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
}

/// A database in a file that only its owner can read, or in memory.
pub(crate) struct Storage {
    /// `None` in memory.
    path: Option<PathBuf>,
    /// Memory for the database's pages. The library's default of 1 GiB is more than many machines have.
    cache_bytes: usize,
    /// `None` between a failure and a successful opening.
    opened: RwLock<Option<Opened>>,
}

struct Opened {
    database: Database,
    failed: Arc<AtomicBool>,
}

impl Storage {
    /// Opens the file, or makes it, and its folder if need be, so that only their owner sees into them.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let opened = Opened::open(path, cache_bytes)?;
        Ok(Self { path: Some(path.to_owned()), cache_bytes, opened: RwLock::new(Some(opened)) })
    }

    /// A database that ends with the process.
    pub fn in_memory(cache_bytes: usize) -> Result<Self> {
        let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(InMemoryBackend::new());
        let database = database.map_err(|error| StorageError::Database(Box::new(error.into())))?;
        let opened = Opened { database, failed: Arc::new(AtomicBool::new(false)) };
        Ok(Self { path: None, cache_bytes, opened: RwLock::new(Some(opened)) })
    }

    pub fn begin_read(&self) -> Result<ReadTransaction> {
        self.begin(Database::begin_read)
    }

    /// A transaction whose end is on the disk when it is told.
    pub fn begin_write(&self) -> Result<WriteTransaction> {
        let mut transaction = self.begin(Database::begin_write)?;
        let durable = transaction.set_durability(Durability::Immediate);
        durable.map_err(|error| StorageError::Database(Box::new(error.into())))?;
        Ok(transaction)
    }

    /// Makes the file smaller, as far as that goes without other transactions.
    pub fn compact(&self) -> Result<()> {
        let mut held = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        let compacted = held.as_mut().map(|opened| opened.database.compact());
        compacted.transpose().map(drop).map_err(|error| StorageError::Database(Box::new(error.into())))
    }

    fn begin<T>(&self, begin: fn(&Database) -> std::result::Result<T, TransactionError>) -> Result<T> {
        let begin =
            |opened: &Opened| begin(&opened.database).map_err(|error| StorageError::Database(Box::new(error.into())));
        let held = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = held.as_ref().filter(|opened| !opened.has_failed()) {
            return begin(opened);
        }
        drop(held);
        let mut held = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path
            && held.as_ref().is_none_or(Opened::has_failed)
        {
            // Closed first, because a file can be open only once.
            *held = None;
            *held = Some(Opened::open(path, self.cache_bytes)?);
            tracing::warn!("{} was opened again after the disk had failed", path.display());
        }
        begin(held.as_ref().expect("it was opened above, and memory does not fail"))
    }
}

impl Opened {
    fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        let refuse = |error: DatabaseError| match error {
            DatabaseError::DatabaseAlreadyOpen => StorageError::InUse(path.to_owned()),
            error => match redb::Error::from(error) {
                error if is_full(&error) => StorageError::Database(Box::new(error)),
                error => StorageError::NotADatabase { path: path.to_owned(), reason: error.to_string() },
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
fn create_folder(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|source| StorageError::File { path: folder.to_owned(), source })
}

/// The file, made if need be so that only its owner can read it.
fn open_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|source| StorageError::File { path: path.to_owned(), source })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// Whether writing fails on this thread, as on a full disk.
        pub(crate) static IS_FULL: Cell<bool> = const { Cell::new(false) };
    }
}
