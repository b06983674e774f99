//! Conversations on disk: one file, one process, and every change durable before it is acknowledged.
//!
//! The file is a `redb` database. A change is one transaction that ends with the data on the disk, so a service that is killed
//! loses only what was not yet acknowledged, and the next start finds the last consistent state. All calls block; the
//! interface runs them on threads for that. The clock is the caller's.
//!
//! ```text
//! heads      (owner, conversation)           -> its head, JSON
//! messages   (conversation, message)         -> the message, JSON
//! recent     (owner, updated, conversation)  -> (), the order of the list
//! totals     name                            -> format, bytes
//! ```
//!
//! The owner is the name of the key that a client came with, empty where no keys are wanted. Nobody sees what belongs to
//! another owner; limits count all of them together.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Result, StoreError, storage};
use super::record::{
    Conversation, ConversationChange, ConversationHead, ConversationId, Message, MessageId, NewConversation, Role,
    StoreLimits, title_of,
};
use crate::storage::{Storage, open_distrusted};

/// The name of the file in the data folder.
pub const FILE_NAME: &str = "conversations.redb";
/// The format of the records. Raise it when an older program could not read them.
const FORMAT: u64 = 1;
/// After every id, whose characters are digits and the letters to f.
const LAST: &str = "~";
/// Files that have so much more than what is kept are made smaller at the start.
const SLACK_BYTES: u64 = 32 << 20;

const HEADS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("heads");
const MESSAGES: TableDefinition<(&str, MessageId), &[u8]> = TableDefinition::new("messages");
const RECENT: TableDefinition<(&str, u64, &str), ()> = TableDefinition::new("recent");
const TOTALS: TableDefinition<&str, u64> = TableDefinition::new("totals");

/// The conversations of one owner; cheap to clone.
#[derive(Clone)]
pub struct ConversationStore {
    shared: Arc<Shared>,
    owner: Arc<str>,
}

/// The file, which all owners share.
struct Shared {
    path: PathBuf,
    disk: Storage,
    limits: StoreLimits,
}

/// A part of the list, the latest first.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = conversations::ConversationPage)]
pub struct ConversationPage {
    /// Conversations without their messages.
    pub conversations: Vec<ConversationHead>,
    /// Where the next part begins; absent at the end.
    pub next: Option<PageCursor>,
}

/// A place in the list: after a conversation that had this time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
#[schema(as = conversations::PageCursor)]
pub struct PageCursor(String);

impl PageCursor {
    /// One that a client sends back.
    pub fn parse(text: &str) -> Option<Self> {
        let cursor = Self(text.to_owned());
        cursor.place().map(|_| ()).map(|()| cursor)
    }

    fn place(&self) -> Option<(u64, &str)> {
        let (updated, id) = self.0.split_once('-')?;
        ConversationId::parse(id)?;
        Some((updated.parse().ok()?, id))
    }
}

impl ConversationStore {
    /// Opens the store of a folder, or begins one. Both are readable by their owner only.
    pub fn open(folder: &Path, limits: StoreLimits) -> Result<Self> {
        let path = folder.join(FILE_NAME);
        open_distrusted(&path, || Self::open_file(&path, limits))
    }

    fn open_file(path: &Path, limits: StoreLimits) -> Result<Self> {
        let file_bytes = std::fs::metadata(path).map_or(0, |file| file.len());
        let shared = Shared { path: path.to_owned(), disk: Storage::open(path, limits.cache_bytes)?, limits };
        let stored_bytes = shared.prepare().map_err(|error| match error {
            StoreError::Storage(error) => StoreError::NotAStore { path: path.to_owned(), reason: error.to_string() },
            error => error,
        })?;
        if file_bytes > SLACK_BYTES && file_bytes / 4 > stored_bytes {
            // A file that stays large is no reason to keep nothing: moving its pages takes room that the disk may not have.
            if let Err(error) = shared.disk.compact() {
                tracing::warn!(%error, "{} could not be made smaller", path.display());
            }
        }
        Ok(Self { shared: Arc::new(shared), owner: Arc::from("") })
    }

    /// The same file, seen by another owner.
    #[must_use]
    pub fn for_owner(&self, owner: &str) -> Self {
        Self { shared: Arc::clone(&self.shared), owner: Arc::from(owner) }
    }

    /// What is kept at most.
    pub fn limits(&self) -> &StoreLimits {
        &self.shared.limits
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Bytes of all messages.
    pub fn stored_bytes(&self) -> Result<u64> {
        let totals = self.read()?.open_table(TOTALS).map_err(storage)?;
        Ok(totals.get("bytes").map_err(storage)?.map_or(0, |value| value.value()))
    }

    /// Begins a conversation.
    pub fn create(&self, new: NewConversation, now_ms: u64) -> Result<ConversationHead> {
        let head = ConversationHead {
            id: ConversationId::random()?,
            title: new.title.trim().to_owned(),
            created: now_ms,
            updated: now_ms,
            model: new.model,
            settings: new.settings,
            active: None,
            message_count: 0,
            bytes: 0,
        };
        let conversation = Conversation { head: head.clone(), messages: Vec::new() };
        self.insert(std::iter::once(Ok(conversation)))?;
        Ok(head)
    }

    /// Adds whole conversations under ids that are new, all or none.
    pub(super) fn insert(&self, conversations: impl ExactSizeIterator<Item = Result<Conversation>>) -> Result<()> {
        let transaction = self.shared.disk.begin_write()?;
        {
            let mut tables = self.tables(&transaction)?;
            tables.reserve_conversations(conversations.len() as u64)?;
            for conversation in conversations {
                let Conversation { mut head, messages } = conversation?;
                self.shared.limits.check_names(&head.title, &head.model)?;
                head.settings.check(&self.shared.limits)?;
                (head.message_count, head.bytes) = (0, 0);
                for message in messages {
                    tables.put_message(&mut head, &message)?;
                }
                tables.put_head(&head, None)?;
            }
        }
        transaction.commit().map_err(storage)
    }

    /// A part of the list: `limit` conversations after `cursor`.
    pub fn list(&self, cursor: Option<&PageCursor>, limit: usize) -> Result<ConversationPage> {
        let transaction = self.read()?;
        let heads = transaction.open_table(HEADS).map_err(storage)?;
        let recent = transaction.open_table(RECENT).map_err(storage)?;
        let range = match cursor.and_then(PageCursor::place) {
            Some((updated, id)) => recent.range((&*self.owner, 0, "")..(&*self.owner, updated, id)),
            None => recent.range((&*self.owner, 0, "")..=(&*self.owner, u64::MAX, LAST)),
        };
        let mut page = ConversationPage { conversations: Vec::new(), next: None };
        for entry in range.map_err(storage)?.rev() {
            let entry = entry.map_err(storage)?;
            let (_, updated, id) = entry.0.value();
            if page.conversations.len() == limit {
                page.next = page.conversations.last().map(|head| PageCursor(format!("{}-{}", head.updated, head.id)));
                break;
            }
            let head = match read_head(&heads, &self.owner, id) {
                // Those beside it can be read all the same, and this one can be deleted.
                Err(StoreError::Damaged(_)) => ConversationHead::damaged(id, updated)?,
                head => head?,
            };
            page.conversations.push(head);
        }
        Ok(page)
    }

    /// Every id, the latest first.
    pub fn ids(&self) -> Result<Vec<ConversationId>> {
        let recent = self.read()?.open_table(RECENT).map_err(storage)?;
        let mut ids = Vec::new();
        for entry in recent.range((&*self.owner, 0, "")..=(&*self.owner, u64::MAX, LAST)).map_err(storage)?.rev() {
            ids.extend(ConversationId::parse(entry.map_err(storage)?.0.value().2));
        }
        Ok(ids)
    }

    /// A conversation without its messages.
    pub fn head(&self, id: &ConversationId) -> Result<ConversationHead> {
        read_head(&heads(&self.read()?)?, &self.owner, id.as_str())
    }

    /// A conversation with all its messages.
    pub fn get(&self, id: &ConversationId) -> Result<Conversation> {
        let transaction = self.read()?;
        let head = read_head(&transaction.open_table(HEADS).map_err(storage)?, &self.owner, id.as_str())?;
        let mut messages = Vec::new();
        each_message(&transaction, id, &mut |message| {
            messages.push(message);
            true
        })?;
        Ok(Conversation { head, messages })
    }

    /// Changes title, model, settings or the branch that is shown. Choosing a branch is not news: it does not move the
    /// conversation to the top of the list.
    pub fn update(&self, id: &ConversationId, change: ConversationChange, now_ms: u64) -> Result<ConversationHead> {
        let transaction = self.shared.disk.begin_write()?;
        let head = {
            let mut tables = self.tables(&transaction)?;
            let mut head = read_head(&tables.heads, &self.owner, id.as_str())?;
            let before = head.updated;
            if let Some(title) = change.title {
                title.trim().clone_into(&mut head.title);
                head.updated = now_ms;
            }
            if let Some(model) = change.model {
                head.model = model;
            }
            if let Some(settings) = change.settings {
                settings.check(&self.shared.limits)?;
                head.settings = settings;
            }
            if let Some(active) = change.active {
                tables.message(id, active)?;
                head.active = Some(active);
            }
            self.shared.limits.check_names(&head.title, &head.model)?;
            tables.put_head(&head, Some(before))?;
            head
        };
        transaction.commit().map_err(storage)?;
        Ok(head)
    }

    /// Keeps a finished message and makes it the active one. When this returns, it is on the disk.
    pub fn append(
        &self,
        id: &ConversationId,
        mut message: Message,
        now_ms: u64,
    ) -> Result<(ConversationHead, Message)> {
        let transaction = self.shared.disk.begin_write()?;
        let head = {
            let mut tables = self.tables(&transaction)?;
            let mut head = read_head(&tables.heads, &self.owner, id.as_str())?;
            let before = head.updated;
            let parent = message.parent.map(|parent| tables.message(id, parent)).transpose()?;
            check_place(message.role, parent.as_ref().map(|parent| parent.role))?;
            message.id = tables.last_message(id)?.map_or(Some(0), |last| last.checked_add(1)).ok_or_else(|| {
                StoreError::too_large("messages of a conversation", usize::MAX, self.shared.limits.messages as usize)
            })?;
            message.created = now_ms;
            if head.title.is_empty() && message.role == Role::User {
                head.title = title_of(&message.text);
            }
            if let (Role::User, true) = (message.role, head.title.is_empty()) {
                head.title = message.attachments.first().map(|file| title_of(&file.name)).unwrap_or_default();
            }
            head.active = Some(message.id);
            head.updated = now_ms;
            tables.put_message(&mut head, &message)?;
            tables.put_head(&head, Some(before))?;
            head
        };
        transaction.commit().map_err(storage)?;
        Ok((head, message))
    }

    /// Refuses so many more messages and bytes, if a conversation or the store has no room for them.
    pub(super) fn check_room(&self, head: &ConversationHead, messages: u32, bytes: u64) -> Result<()> {
        let count = head.message_count.saturating_add(messages);
        self.shared.limits.check_size(count, head.bytes + bytes, self.stored_bytes()? + bytes)
    }

    /// Takes a conversation away.
    pub fn delete(&self, id: &ConversationId) -> Result<()> {
        let transaction = self.shared.disk.begin_write()?;
        self.tables(&transaction)?.remove(id)?;
        transaction.commit().map_err(storage)
    }

    /// Takes all conversations of the owner away and says how many there were.
    pub fn delete_all(&self) -> Result<u64> {
        let ids = self.ids()?;
        let transaction = self.shared.disk.begin_write()?;
        let mut count = 0;
        {
            let mut tables = self.tables(&transaction)?;
            for id in ids {
                match tables.remove(&id) {
                    Ok(()) => count += 1,
                    Err(StoreError::NoConversation(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        transaction.commit().map_err(storage)?;
        Ok(count)
    }

    /// Whether heads, messages, order and totals agree; tests ask after a crash.
    pub fn check(&self) -> Result<()> {
        let transaction = self.read()?;
        let messages = transaction.open_table(MESSAGES).map_err(storage)?;
        let (mut total, mut count) = (0, 0);
        let (mut listed, mut owned) = (0, Vec::new());
        for entry in transaction.open_table(HEADS).map_err(storage)?.iter().map_err(storage)? {
            let (owner, id) = entry.as_ref().map_err(|_| StoreError::Damaged(String::from("any")))?.0.value();
            let id = ConversationId::parse(id).ok_or_else(|| StoreError::Damaged(id.to_owned()))?;
            listed += u64::from(self.for_owner(owner).ids()?.contains(&id));
            owned.push((owner.to_owned(), id));
        }
        for (owner, id) in &owned {
            let broken = || StoreError::Damaged(id.as_str().to_owned());
            let Conversation { head, messages: decoded } = self.for_owner(owner).get(id)?;
            let mut bytes = 0;
            for entry in messages.range((id.as_str(), 0)..=(id.as_str(), MessageId::MAX)).map_err(storage)? {
                bytes += entry.map_err(storage)?.1.value().len() as u64;
            }
            let mut roles = HashMap::new();
            for message in &decoded {
                let parent = message.parent.map(|parent| roles.get(&parent).copied().ok_or_else(broken)).transpose()?;
                check_place(message.role, parent)?;
                roles.insert(message.id, message.role);
            }
            let active = head.active.is_none_or(|active| roles.contains_key(&active));
            if !active || bytes != head.bytes || decoded.len() != head.message_count as usize {
                return Err(broken());
            }
            total += bytes;
            count += decoded.len() as u64;
        }
        let recent = transaction.open_table(RECENT).map_err(storage)?.len().map_err(storage)?;
        let stored = messages.len().map_err(storage)?;
        if total != self.stored_bytes()? || count != stored || listed != recent || recent != owned.len() as u64 {
            return Err(StoreError::Damaged(String::from("any")));
        }
        Ok(())
    }

    pub(super) fn read(&self) -> Result<ReadTransaction> {
        Ok(self.shared.disk.begin_read()?)
    }

    fn tables<'t>(&'t self, transaction: &'t WriteTransaction) -> Result<Tables<'t>> {
        Ok(Tables {
            heads: transaction.open_table(HEADS).map_err(storage)?,
            messages: transaction.open_table(MESSAGES).map_err(storage)?,
            recent: transaction.open_table(RECENT).map_err(storage)?,
            totals: transaction.open_table(TOTALS).map_err(storage)?,
            limits: &self.shared.limits,
            owner: &self.owner,
        })
    }

    /// Whose conversations these are.
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

impl Shared {
    /// Makes the tables of a new file and checks the format of an old one; gives the bytes of all messages.
    fn prepare(&self) -> Result<u64> {
        let transaction = self.disk.begin_write()?;
        let stored_bytes;
        {
            transaction.open_table(HEADS).map_err(storage)?;
            transaction.open_table(MESSAGES).map_err(storage)?;
            transaction.open_table(RECENT).map_err(storage)?;
            let mut totals = transaction.open_table(TOTALS).map_err(storage)?;
            let found = totals.get("format").map_err(storage)?.map(|value| value.value());
            match found {
                None => {
                    totals.insert("format", FORMAT).map_err(storage)?;
                }
                Some(FORMAT) => {}
                Some(found) => {
                    return Err(StoreError::Version { path: self.path.clone(), found, expected: FORMAT });
                }
            }
            stored_bytes = totals.get("bytes").map_err(storage)?.map_or(0, |value| value.value());
        }
        transaction.commit().map_err(storage)?;
        Ok(stored_bytes)
    }
}

/// Hands over the messages of a conversation in order, until one is answered with `false`.
pub(super) fn each_message(
    transaction: &ReadTransaction,
    id: &ConversationId,
    take: &mut dyn FnMut(Message) -> bool,
) -> Result<()> {
    let messages = transaction.open_table(MESSAGES).map_err(storage)?;
    for entry in messages.range((id.as_str(), 0)..=(id.as_str(), MessageId::MAX)).map_err(storage)? {
        let entry = entry.map_err(storage)?;
        let message =
            serde_json::from_slice(entry.1.value()).map_err(|_| StoreError::Damaged(id.as_str().to_owned()))?;
        if !take(message) {
            break;
        }
    }
    Ok(())
}

/// Users and models take turns: an answer follows a question, a question begins or follows an answer.
pub(super) fn check_place(role: Role, parent: Option<Role>) -> Result<()> {
    match (role, parent) {
        (Role::User, None | Some(Role::Assistant)) | (Role::Assistant, Some(Role::User)) => Ok(()),
        (Role::User, Some(Role::User)) => Err(StoreError::invalid("a message of the user cannot follow another one")),
        (Role::Assistant, _) => Err(StoreError::invalid("an answer must follow a message of the user")),
    }
}

/// The tables of a transaction that writes.
struct Tables<'t> {
    heads: Table<'t, (&'static str, &'static str), &'static [u8]>,
    messages: Table<'t, (&'static str, MessageId), &'static [u8]>,
    recent: Table<'t, (&'static str, u64, &'static str), ()>,
    totals: Table<'t, &'static str, u64>,
    limits: &'t StoreLimits,
    owner: &'t str,
}

impl Tables<'_> {
    fn reserve_conversations(&self, more: u64) -> Result<()> {
        let amount = self.heads.len().map_err(storage)?.saturating_add(more);
        let limit = self.limits.conversations;
        if amount <= limit {
            return Ok(());
        }
        Err(StoreError::TooLarge { what: "conversations", amount, limit, advice: "delete some that you have exported" })
    }

    fn message(&self, id: &ConversationId, message: MessageId) -> Result<Message> {
        let found = self.messages.get((id.as_str(), message)).map_err(storage)?;
        let found = found.ok_or_else(|| StoreError::NoMessage(id.clone(), message))?;
        serde_json::from_slice(found.value()).map_err(|_| StoreError::Damaged(id.as_str().to_owned()))
    }

    fn last_message(&self, id: &ConversationId) -> Result<Option<MessageId>> {
        let range = (id.as_str(), 0)..=(id.as_str(), MessageId::MAX);
        let last = self.messages.range(range).map_err(storage)?.next_back();
        Ok(last.transpose().map_err(storage)?.map(|entry| entry.0.value().1))
    }

    /// Writes a message and counts it in the head and in the total.
    fn put_message(&mut self, head: &mut ConversationHead, message: &Message) -> Result<()> {
        let limits = self.limits;
        message.check(limits)?;
        let json = encode(message, head.id.as_str())?;
        head.message_count += 1;
        head.bytes += json.len() as u64;
        let total = self.total()? + json.len() as u64;
        limits.check_size(head.message_count, head.bytes, total)?;
        self.messages.insert((head.id.as_str(), message.id), json.as_slice()).map_err(storage)?;
        self.totals.insert("bytes", total).map_err(storage)?;
        Ok(())
    }

    /// Writes a head and moves it in the list from where it was.
    fn put_head(&mut self, head: &ConversationHead, updated_before: Option<u64>) -> Result<()> {
        let id = head.id.as_str();
        if let Some(before) = updated_before {
            self.recent.remove((self.owner, before, id)).map_err(storage)?;
        }
        self.recent.insert((self.owner, head.updated, id), ()).map_err(storage)?;
        self.heads.insert((self.owner, id), encode(head, id)?.as_slice()).map_err(storage)?;
        Ok(())
    }

    /// Takes a conversation away, also one whose head is damaged.
    fn remove(&mut self, id: &ConversationId) -> Result<()> {
        let updated = match read_head(&self.heads, self.owner, id.as_str()) {
            Ok(head) => Some(head.updated),
            Err(StoreError::Damaged(_)) => self.place_in_list(id)?,
            Err(error) => return Err(error),
        };
        let id = id.as_str();
        let mut bytes = 0;
        let messages = (id, 0)..=(id, MessageId::MAX);
        self.messages
            .retain_in(messages, |_, message| {
                bytes += message.len() as u64;
                false
            })
            .map_err(storage)?;
        if let Some(updated) = updated {
            self.recent.remove((self.owner, updated, id)).map_err(storage)?;
        }
        self.heads.remove((self.owner, id)).map_err(storage)?;
        let total = self.total()?.saturating_sub(bytes);
        self.totals.insert("bytes", total).map_err(storage)?;
        Ok(())
    }

    /// Under which time a conversation stands in the list, found without its head.
    fn place_in_list(&self, id: &ConversationId) -> Result<Option<u64>> {
        for entry in self.recent.range((self.owner, 0, "")..=(self.owner, u64::MAX, LAST)).map_err(storage)? {
            let entry = entry.map_err(storage)?;
            let (_, updated, other) = entry.0.value();
            if other == id.as_str() {
                return Ok(Some(updated));
            }
        }
        Ok(None)
    }

    fn total(&self) -> Result<u64> {
        Ok(self.totals.get("bytes").map_err(storage)?.map_or(0, |value| value.value()))
    }
}

fn encode(record: &impl Serialize, id: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|_| StoreError::Damaged(id.to_owned()))
}

pub(super) fn read_head(
    heads: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    owner: &str,
    id: &str,
) -> Result<ConversationHead> {
    let found = heads.get((owner, id)).map_err(storage)?;
    let Some(found) = found else {
        let id = ConversationId::parse(id).ok_or_else(|| StoreError::Damaged(id.to_owned()))?;
        return Err(StoreError::NoConversation(id));
    };
    serde_json::from_slice(found.value()).map_err(|_| StoreError::Damaged(id.to_owned()))
}

pub(super) fn heads(
    transaction: &ReadTransaction,
) -> Result<redb::ReadOnlyTable<(&'static str, &'static str), &'static [u8]>> {
    transaction.open_table(HEADS).map_err(storage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::IS_FULL;

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

    #[test]
    fn one_damaged_record_hides_no_other_and_can_be_deleted() {
        let folder = std::env::temp_dir().join(format!("hublab-damaged-{}", std::process::id()));
        let store = ConversationStore::open(&folder, StoreLimits::default()).unwrap();
        let [good, bad] = [1, 2].map(|now| store.create(NewConversation::default(), now).unwrap().id);
        store.append(&bad, Message::user(None, "lost"), 3).unwrap();
        let transaction = store.shared.disk.begin_write().unwrap();
        store.tables(&transaction).unwrap().heads.insert(("", bad.as_str()), &b"{"[..]).unwrap();
        transaction.commit().unwrap();

        let listed = store.list(None, 9).unwrap().conversations;
        assert_eq!(listed.iter().map(|head| &head.id).collect::<Vec<_>>(), [&bad, &good]);
        assert_eq!((listed[0].title.as_str(), listed[0].updated), ("(damaged)", 3));
        assert!(matches!(store.get(&bad), Err(StoreError::Damaged(_))));
        assert_eq!(store.search("", 9).unwrap().hits.len(), 1);
        store.delete(&bad).unwrap();
        assert_eq!(store.ids().unwrap(), [good]);
        store.check().unwrap();
        drop(store);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
