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
use std::fs::{File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable};
use redb::{ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Result, StoreError, storage};
use super::record::{
    Conversation, ConversationChange, ConversationHead, ConversationId, Message, MessageId, NewConversation, Role,
    StoreLimits, title_of,
};

/// The name of the file in the data folder.
pub const FILE_NAME: &str = "conversations.redb";
/// The format of the records. Raise it when an older program could not read them.
const FORMAT: u64 = 1;
/// Memory for the database's pages. Its default of 1 GiB is more than many machines have.
const CACHE_BYTES: usize = 8 << 20;
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
    database: Database,
    limits: StoreLimits,
    path: PathBuf,
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
        create_folder(folder)?;
        let path = folder.join(FILE_NAME);
        let file = open_file(&path)?;
        // The database was not written for files that somebody made: what it asserts of a page must not end the service.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_file(file, &path, limits)));
        opened.unwrap_or_else(|_| {
            Err(StoreError::NotAStore { path: path.clone(), reason: String::from("its pages contradict each other") })
        })
    }

    fn open_file(file: File, path: &Path, limits: StoreLimits) -> Result<Self> {
        let file_bytes = file.metadata().map_err(|source| StoreError::File { path: path.to_owned(), source })?.len();
        let not_a_store =
            |error: redb::Error| StoreError::NotAStore { path: path.to_owned(), reason: error.to_string() };
        let database = Builder::new().set_cache_size(CACHE_BYTES).create_file(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
            error => not_a_store(error.into()),
        })?;
        let mut shared = Shared { database, limits, path: path.to_owned() };
        let stored_bytes = shared.prepare().map_err(|error| match error {
            StoreError::Storage(error) => not_a_store(*error),
            error => error,
        })?;
        if file_bytes > SLACK_BYTES && file_bytes / 4 > stored_bytes {
            shared.database.compact().map_err(storage)?;
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
        self.insert(vec![Conversation { head: head.clone(), messages: Vec::new() }])?;
        Ok(head)
    }

    /// Adds whole conversations under ids that are new, all or none.
    pub(super) fn insert(&self, conversations: Vec<Conversation>) -> Result<()> {
        let transaction = self.shared.write()?;
        {
            let mut tables = self.tables(&transaction)?;
            tables.reserve_conversations(conversations.len() as u64)?;
            for Conversation { mut head, messages } in conversations {
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
            let (_, _, id) = entry.0.value();
            if page.conversations.len() == limit {
                page.next = page.conversations.last().map(|head| PageCursor(format!("{}-{}", head.updated, head.id)));
                break;
            }
            page.conversations.push(read_head(&heads, &self.owner, id)?);
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
        let transaction = self.shared.write()?;
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
        let transaction = self.shared.write()?;
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

    /// Takes a conversation away.
    pub fn delete(&self, id: &ConversationId) -> Result<()> {
        let transaction = self.shared.write()?;
        {
            let mut tables = self.tables(&transaction)?;
            let head = read_head(&tables.heads, &self.owner, id.as_str())?;
            tables.remove(&head)?;
        }
        transaction.commit().map_err(storage)
    }

    /// Takes all conversations of the owner away and says how many there were.
    pub fn delete_all(&self) -> Result<u64> {
        let ids = self.ids()?;
        let transaction = self.shared.write()?;
        let mut count = 0;
        {
            let mut tables = self.tables(&transaction)?;
            for id in ids {
                match read_head(&tables.heads, &self.owner, id.as_str()) {
                    Ok(head) => tables.remove(&head)?,
                    Err(StoreError::NoConversation(_)) => continue,
                    Err(error) => return Err(error),
                }
                count += 1;
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
        self.shared.database.begin_read().map_err(storage)
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
        let transaction = self.write()?;
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
                Some(found) => return Err(StoreError::Version { path: self.path.clone(), found, expected: FORMAT }),
            }
            stored_bytes = totals.get("bytes").map_err(storage)?.map_or(0, |value| value.value());
        }
        transaction.commit().map_err(storage)?;
        Ok(stored_bytes)
    }

    fn write(&self) -> Result<WriteTransaction> {
        let mut transaction = self.database.begin_write().map_err(storage)?;
        transaction.set_durability(Durability::Immediate).map_err(storage)?;
        Ok(transaction)
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
        let begin_another = "begin a new conversation";
        let too_large = |what, amount, limit, advice| Err(StoreError::TooLarge { what, amount, limit, advice });
        if head.message_count > limits.messages {
            let (amount, limit) = (u64::from(head.message_count), u64::from(limits.messages));
            return too_large("messages of a conversation", amount, limit, begin_another);
        }
        if head.bytes > limits.conversation_bytes {
            return too_large("bytes of a conversation", head.bytes, limits.conversation_bytes, begin_another);
        }
        let total = self.total()? + json.len() as u64;
        if total > limits.total_bytes {
            let advice = "export and delete conversations that you no longer need";
            return too_large("bytes of all conversations", total, limits.total_bytes, advice);
        }
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

    fn remove(&mut self, head: &ConversationHead) -> Result<()> {
        let id = head.id.as_str();
        self.messages.retain_in((id, 0)..=(id, MessageId::MAX), |_, _| false).map_err(storage)?;
        self.recent.remove((self.owner, head.updated, id)).map_err(storage)?;
        self.heads.remove((self.owner, id)).map_err(storage)?;
        let total = self.total()?.saturating_sub(head.bytes);
        self.totals.insert("bytes", total).map_err(storage)?;
        Ok(())
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

fn create_folder(folder: &Path) -> Result<()> {
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
