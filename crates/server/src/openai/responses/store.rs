//! Answers that are kept for later questions, within limits, the oldest out first: on disk where the service has a data
//! folder, else in memory.
//!
//! Both are a `redb` database. On disk a change is one transaction that ends with the data on the disk, so a service that is
//! killed loses only what no client was told, and the next start finds the last consistent state. All calls block.
//!
//! ```text
//! responses  (owner, id) -> (number, the record as JSON)
//! order      number      -> (owner, id), the oldest first
//! totals     name        -> format, bytes of all records
//! ```
//!
//! A record holds its whole conversation, so it outlives the answers that it went on from. The owner is the name of the key that a
//! client came with, empty where no keys are wanted; limits count all owners together.

use std::path::Path;
use std::sync::Arc;

use hublabio_runtime::ai::Json;
use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::limits::bytes_as_json;
use crate::storage::{Storage, StorageError, is_full, open_distrusted};

/// The name of the file in the data folder.
pub const FILE_NAME: &str = "responses.redb";
/// The format of the records. Raise it when an older program could not read them.
const FORMAT: u64 = 1;
/// Memory for the database's pages, at most.
const CACHE_BYTES_MAX: usize = 4 << 20;

const RESPONSES: TableDefinition<(&str, &str), (u64, &[u8])> = TableDefinition::new("responses");
const ORDER: TableDefinition<u64, (&str, &str)> = TableDefinition::new("order");
const TOTALS: TableDefinition<&str, u64> = TableDefinition::new("totals");

/// Whose an answer is: the name of a client with a key, or nobody's in particular.
pub type Owner = Option<Arc<str>>;

/// Why an answer is not kept, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is larger than all room there is.
    #[error("it takes {bytes} bytes with its conversation, and at most {bytes_max} are kept")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// The file cannot be used.
    #[error(transparent)]
    Unusable(StorageError),
    /// The file comes from another version.
    #[error("{FILE_NAME} has format {found}, this version reads {FORMAT}: move it away to begin a new one")]
    Version { found: u64 },
    /// There is no room on the disk.
    #[error("the disk is full: free some space and try again; what was kept before is still there")]
    DiskFull,
    /// Reading or writing failed.
    #[error("the store of responses failed: {0}")]
    Storage(Box<redb::Error>),
    /// A record is not what was written.
    #[error("the kept response `{0}` is damaged")]
    Damaged(String),
}

type Result<T> = std::result::Result<T, StoreError>;

/// Any of the database's errors as ours.
fn storage(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    if is_full(&error) { StoreError::DiskFull } else { StoreError::Storage(Box::new(error)) }
}

impl From<StorageError> for StoreError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Database(error) => storage(*error),
            error => Self::Unusable(error),
        }
    }
}

/// A kept answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// As it was given.
    pub response: Json,
    /// What was before the question: questions and answers in their order.
    pub before: Vec<Json>,
    /// What was asked.
    pub input: Vec<Json>,
}

impl Stored {
    /// What was asked and what was before it, in its order.
    pub fn asked(&self) -> impl Iterator<Item = &Json> {
        self.before.iter().chain(&self.input)
    }

    /// Everything up to the end of the answer.
    pub fn into_items(mut self) -> Vec<Json> {
        let mut items = self.before;
        items.extend(self.input);
        if let Json::Array(output) = self.response["output"].take() {
            items.extend(output);
        }
        items
    }

    fn id(&self) -> &str {
        self.response["id"].as_str().unwrap_or_default()
    }
}

/// The answers that are kept.
pub struct ResponseStore {
    storage: Storage,
    count_max: usize,
    bytes_max: usize,
    memory_bytes: usize,
}

impl ResponseStore {
    /// A store that keeps as many answers and bytes as `limits` say: in a folder, or in memory without one. Where the folder cannot be
    /// used they are kept in memory, too, which the log says: it is no reason not to serve.
    pub fn open(folder: Option<&Path>, limits: &Limits) -> Self {
        let cache_bytes = CACHE_BYTES_MAX.min(limits.heap_bytes / 16);
        let on_disk = folder.map(|folder| folder.join(FILE_NAME)).and_then(|path| {
            let opened = open_distrusted(&path, || prepared(Storage::open(&path, cache_bytes)?));
            opened.map_err(|error: StoreError| tracing::warn!(%error, "responses are kept in memory only")).ok()
        });
        let kept_in_memory = if on_disk.is_some() { 0 } else { limits.stored_bytes.min(limits.heap_bytes / 4) };
        let bytes_max = if on_disk.is_some() { limits.stored_bytes } else { kept_in_memory };
        let storage = on_disk.unwrap_or_else(|| {
            let memory = Storage::in_memory(cache_bytes).map_err(StoreError::from).and_then(prepared);
            memory.expect("there is nothing in it that could be wrong")
        });
        let memory_bytes = cache_bytes + kept_in_memory;
        Self { storage, count_max: limits.stored_responses, bytes_max, memory_bytes }
    }

    /// Bytes of memory that it may hold.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Keeps an answer; the oldest go where there is no room. When this returns, it is on the disk.
    ///
    /// # Errors
    /// When it is larger than all room, or cannot be written.
    pub fn put(&self, owner: &Owner, stored: &Stored) -> Result<()> {
        let (owner, id) = (name_of(owner), stored.id());
        let record = serde_json::to_vec(stored).map_err(|_| StoreError::Damaged(id.to_owned()))?;
        if record.len() > self.bytes_max || self.count_max == 0 {
            return Err(StoreError::TooLarge { bytes: record.len(), bytes_max: self.bytes_max });
        }
        let transaction = self.storage.begin_write()?;
        {
            let mut tables = Tables::open(&transaction)?;
            let room = self.bytes_max - record.len();
            while tables.responses.len().map_err(storage)? >= self.count_max as u64 || tables.bytes()? > room as u64 {
                if !tables.forget_oldest()? {
                    break;
                }
            }
            tables.add(owner, id, &record)?;
        }
        transaction.commit().map_err(storage)
    }

    /// An answer, for the client whose it is. Before it is read, `admit` hears how many bytes it takes in memory, and refuses it
    /// with an error of its own.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get<E: From<StoreError>>(
        &self,
        owner: &Owner,
        id: &str,
        admit: impl FnOnce(usize) -> std::result::Result<(), E>,
    ) -> std::result::Result<Option<Stored>, E> {
        let transaction = self.storage.begin_read().map_err(StoreError::from)?;
        let responses = transaction.open_table(RESPONSES).map_err(storage)?;
        let Some(found) = responses.get((name_of(owner), id)).map_err(storage)? else { return Ok(None) };
        let record = found.value().1;
        admit(bytes_as_json(record))?;
        Ok(Some(serde_json::from_slice(record).map_err(|_| StoreError::Damaged(id.to_owned()))?))
    }

    /// Forgets an answer. Whether there was one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove(&self, owner: &Owner, id: &str) -> Result<bool> {
        let transaction = self.storage.begin_write()?;
        let found = Tables::open(&transaction)?.forget(name_of(owner), id)?;
        transaction.commit().map_err(storage)?;
        Ok(found)
    }

    /// How many are kept, and their bytes.
    #[cfg(test)]
    fn size(&self) -> (u64, u64) {
        let transaction = self.storage.begin_read().unwrap();
        let (responses, order) = (transaction.open_table(RESPONSES).unwrap(), transaction.open_table(ORDER).unwrap());
        let bytes = responses.iter().unwrap().map(|entry| entry.unwrap().1.value().1.len() as u64).sum();
        let total = transaction.open_table(TOTALS).unwrap().get("bytes").unwrap().map_or(0, |total| total.value());
        assert_eq!((responses.len().unwrap(), bytes), (order.len().unwrap(), total));
        (responses.len().unwrap(), bytes)
    }
}

fn name_of(owner: &Owner) -> &str {
    owner.as_deref().unwrap_or_default()
}

/// Makes the tables of a new database and checks the format of an old one.
fn prepared(storage: Storage) -> Result<Storage> {
    let transaction = storage.begin_write()?;
    {
        let mut totals = Tables::open(&transaction)?.totals;
        let format = totals.get("format").map_err(self::storage)?.map(|format| format.value());
        match format {
            None => drop(totals.insert("format", FORMAT).map_err(self::storage)?),
            Some(FORMAT) => {}
            Some(found) => return Err(StoreError::Version { found }),
        }
    }
    transaction.commit().map_err(self::storage)?;
    Ok(storage)
}

/// The tables of a transaction that writes.
struct Tables<'t> {
    responses: Table<'t, (&'static str, &'static str), (u64, &'static [u8])>,
    order: Table<'t, u64, (&'static str, &'static str)>,
    totals: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            responses: transaction.open_table(RESPONSES).map_err(storage)?,
            order: transaction.open_table(ORDER).map_err(storage)?,
            totals: transaction.open_table(TOTALS).map_err(storage)?,
        })
    }

    fn bytes(&self) -> Result<u64> {
        Ok(self.totals.get("bytes").map_err(storage)?.map_or(0, |bytes| bytes.value()))
    }

    fn add(&mut self, owner: &str, id: &str, record: &[u8]) -> Result<()> {
        let last = self.order.last().map_err(storage)?.map_or(0, |(number, _)| number.value());
        let number = last + 1;
        self.order.insert(number, (owner, id)).map_err(storage)?;
        self.responses.insert((owner, id), (number, record)).map_err(storage)?;
        let bytes = self.bytes()? + record.len() as u64;
        self.totals.insert("bytes", bytes).map_err(storage)?;
        Ok(())
    }

    /// Whether there was one.
    fn forget(&mut self, owner: &str, id: &str) -> Result<bool> {
        let found = self.responses.remove((owner, id)).map_err(storage)?;
        let found = found.map(|record| (record.value().0, record.value().1.len() as u64));
        let Some((number, record_bytes)) = found else { return Ok(false) };
        self.order.remove(number).map_err(storage)?;
        let bytes = self.bytes()?.saturating_sub(record_bytes);
        self.totals.insert("bytes", bytes).map_err(storage)?;
        Ok(true)
    }

    /// Whether there was one.
    fn forget_oldest(&mut self) -> Result<bool> {
        let oldest = self.order.first().map_err(storage)?.map(|(_, place)| {
            let (owner, id) = place.value();
            (owner.to_owned(), id.to_owned())
        });
        match oldest {
            Some((owner, id)) => self.forget(&owner, &id),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::IS_FULL;
    use redb::Database;
    use serde_json::json;

    fn stored(id: &str, text: &str) -> Stored {
        Stored {
            response: json!({ "id": id, "output": [{ "a": text }] }),
            before: vec![json!({ "b": text })],
            input: vec![json!({ "q": text })],
        }
    }

    fn limits(stored_responses: usize, stored_bytes: usize) -> Limits {
        Limits { stored_responses, stored_bytes, ..Limits::default() }
    }

    fn in_memory(count_max: usize, bytes_max: usize) -> ResponseStore {
        ResponseStore::open(None, &limits(count_max, bytes_max))
    }

    fn find(store: &ResponseStore, owner: &Owner, id: &str) -> Option<Stored> {
        store.get::<StoreError>(owner, id, |_| Ok(())).unwrap()
    }

    fn has(store: &ResponseStore, id: &str) -> bool {
        find(store, &None, id).is_some()
    }

    #[test]
    fn the_oldest_goes_first() {
        let store = in_memory(2, 1 << 20);
        for id in ["c", "b", "a"] {
            store.put(&None, &stored(id, "x")).unwrap();
        }
        assert!(!has(&store, "c") && has(&store, "b") && has(&store, "a"));
        assert!(store.remove(&None, "b").unwrap() && !store.remove(&None, "b").unwrap());
        store.put(&None, &stored("d", "x")).unwrap();
        assert!(has(&store, "a"));
        assert_eq!(store.size().0, 2);
        assert!(matches!(in_memory(0, 100).put(&None, &stored("a", "")), Err(StoreError::TooLarge { .. })));
    }

    #[test]
    fn bytes_are_bounded_and_counted_back() {
        let text = "x".repeat(1000);
        let one = serde_json::to_vec(&stored("a", &text)).unwrap().len();
        let store = in_memory(100, 3 * one);
        for id in ["a", "b", "c", "d", "e"] {
            store.put(&None, &stored(id, &text)).unwrap();
        }
        assert_eq!(store.size(), (3, 3 * one as u64));
        let large = store.put(&None, &stored("large", &"x".repeat(10 * one)));
        assert!(matches!(large, Err(StoreError::TooLarge { .. })));
        assert!(!has(&store, "large") && has(&store, "e"));
        for id in ["c", "d", "e"] {
            assert!(store.remove(&None, id).unwrap());
        }
        assert_eq!(store.size(), (0, 0));
    }

    #[test]
    fn an_answer_is_its_owners_and_holds_its_conversation() {
        let store = in_memory(10, 1 << 20);
        let owner: Owner = Some("ada".into());
        store.put(&owner, &stored("a", "1")).unwrap();
        assert!(!has(&store, "a") && !store.remove(&Some("bob".into()), "a").unwrap());
        let found = find(&store, &owner, "a").unwrap();
        assert_eq!(found, stored("a", "1"));
        // It is not read where there is no room for it.
        let bytes_min = serde_json::to_vec(&found).unwrap().len();
        let admit = |bytes| if bytes > bytes_min { Err(StoreError::DiskFull) } else { Ok(()) };
        assert!(matches!(store.get(&owner, "a", admit), Err(StoreError::DiskFull)));
        assert_eq!(found.asked().collect::<Vec<_>>(), [&json!({ "b": "1" }), &json!({ "q": "1" })]);
        assert_eq!(found.into_items(), [json!({ "b": "1" }), json!({ "q": "1" }), json!({ "a": "1" })]);
    }

    #[test]
    fn what_is_on_disk_is_there_at_the_next_start() {
        let folder = std::env::temp_dir().join(format!("hublab-responses-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let open = |count_max| ResponseStore::open(Some(&folder), &limits(count_max, 1 << 20));
        let store = open(3);
        for id in ["a", "b", "c"] {
            store.put(&None, &stored(id, id)).unwrap();
        }
        // Another service with the same folder has a memory of its own.
        let other = open(3);
        assert!(!has(&other, "a"));
        drop(store);
        let store = open(2);
        assert_eq!(find(&store, &None, "b"), Some(stored("b", "b")));
        store.put(&None, &stored("d", "d")).unwrap();
        assert!(!has(&store, "a") && !has(&store, "b") && has(&store, "c") && has(&store, "d"));
        drop(store);
        // What is no store, or one of a later version, is left alone.
        let path = folder.join(FILE_NAME);
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TOTALS).unwrap().insert("format", FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let written = std::fs::read(&path).unwrap();
        assert!(!has(&open(2), "d"));
        std::fs::write(&path, &written[..written.len() / 2]).unwrap();
        assert!(!has(&open(2), "d"));
        std::fs::write(&path, "nothing of the kind").unwrap();
        let memory = open(2);
        memory.put(&None, &stored("e", "e")).unwrap();
        assert!(has(&memory, "e"));
        assert_eq!(std::fs::read(&path).unwrap(), b"nothing of the kind");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_disk_that_was_full_for_a_while_loses_nothing_and_is_used_again() {
        let folder = std::env::temp_dir().join(format!("hublab-responses-full-{}", std::process::id()));
        let open = || ResponseStore::open(Some(&folder), &limits(100, 1 << 20));
        let store = open();
        store.put(&None, &stored("a", "1")).unwrap();
        IS_FULL.set(true);
        for _ in 0..3 {
            let error = store.put(&None, &stored("b", &"x".repeat(100_000))).unwrap_err();
            assert!(matches!(error, StoreError::DiskFull), "{error}");
        }
        IS_FULL.set(false);
        assert!(has(&store, "a") && !has(&store, "b"));
        store.put(&None, &stored("c", "2")).unwrap();
        drop(store);
        assert!(has(&open(), "a") && has(&open(), "c"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
