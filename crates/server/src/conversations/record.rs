//! What a conversation is made of: its head, and a tree of messages.
//!
//! Editing a message or asking for another answer never overwrites: it adds a branch. The *active* message is the end of
//! the branch that the reader looks at; the way from it to the root is what a model is given.
//!
//! These types are the JSON of the interface, of exported files and of the store at once. Unknown fields are refused in
//! what comes from outside.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::error::{Result, StoreError};

/// A struct from a JSON object. Left to itself, serde takes an array for a list of fields, which no schema of ours allows.
pub(super) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> std::result::Result<T, D::Error> {
    let fields = serde_json::Map::deserialize(from)?;
    serde_json::from_value(fields.into()).map_err(D::Error::custom)
}

/// The same for a list.
pub(super) fn objects<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> std::result::Result<Vec<T>, D::Error> {
    let list = Vec::<serde_json::Map<String, serde_json::Value>>::deserialize(from)?;
    list.into_iter().map(|fields| serde_json::from_value(fields.into()).map_err(D::Error::custom)).collect()
}

/// The same for what may be absent.
pub(super) fn optional_object<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> std::result::Result<Option<T>, D::Error> {
    let fields = Option::<serde_json::Map<String, serde_json::Value>>::deserialize(from)?;
    fields.map(|fields| serde_json::from_value(fields.into()).map_err(D::Error::custom)).transpose()
}

/// Which conversation: 128 random bits in hexadecimal, so that nobody finds one by counting.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
#[schema(as = conversations::ConversationId)]
pub struct ConversationId(String);

impl ConversationId {
    /// A new one from the system's source of random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0_u8; 16];
        getrandom::getrandom(&mut bytes).map_err(|error| StoreError::Random(error.to_string()))?;
        let mut text = String::with_capacity(32);
        for byte in bytes {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).expect("a nibble is below 16"));
            }
        }
        Ok(Self(text))
    }

    /// One that a client names; `None` if no conversation can have that name.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 32 && text.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which message of a conversation; a parent's is smaller than its children's.
pub type MessageId = u32;

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = conversations::Role)]
pub enum Role {
    /// The reader.
    User,
    /// A model.
    Assistant,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = conversations::Finish)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// The limit of tokens or of the context was reached.
    Length,
    /// The reader stopped it, or went away.
    Stopped,
    /// An error ended it; what was written before is kept.
    Failed,
}

/// How answers of a conversation are generated. What is absent is the model's or the service's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = conversations::Settings)]
pub struct Settings {
    /// The system prompt; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// 0 takes the likeliest token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// The share of probability that tokens are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// How many tokens are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The same seed gives the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The longest answer, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The expert of a swarm that must answer; absent for whom the router chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert: Option<String>,
}

impl Settings {
    /// Refuses what no model can honour.
    pub fn check(&self, limits: &StoreLimits) -> Result<()> {
        check_bytes("the system prompt", self.system.len(), limits.system_bytes)?;
        check_bytes("the name of an expert", self.expert.as_ref().map_or(0, String::len), limits.name_bytes)?;
        if self.temperature.is_some_and(|value| !(0.0..=5.0).contains(&value)) {
            return Err(StoreError::invalid("`temperature` must be between 0 and 5"));
        }
        if self.top_p.is_some_and(|value| !(value > 0.0 && value <= 1.0)) {
            return Err(StoreError::invalid("`top_p` must be above 0 and at most 1"));
        }
        if self.max_tokens == Some(0) {
            return Err(StoreError::invalid("`max_tokens` must be at least 1"));
        }
        // JavaScript's numbers are exact up to here; a seed beyond would come back as another.
        if self.seed.is_some_and(|seed| seed > (1 << 53) - 1) {
            return Err(StoreError::invalid("`seed` must be at most 9007199254740991"));
        }
        Ok(())
    }
}

/// A text file that came with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = conversations::Attachment)]
pub struct Attachment {
    /// Its name, without folders.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// What an answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = conversations::Usage)]
pub struct Usage {
    /// Tokens of the prompt, the kept ones included.
    pub prompt_tokens: u64,
    /// Tokens of the prompt that were still in memory.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Tokens of the answer per second of generating; absent if there were too few to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// From the request to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// How many tokens the model can hold, question and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
}

/// One expert of a swarm that had a part in an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = conversations::Answerer)]
pub struct Answerer {
    /// Its name.
    pub name: String,
    /// Its share, 0 to 1.
    pub weight: f64,
    /// Why it was asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A message as it is kept. One that is not yet kept has the id 0, which the store replaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = conversations::Message)]
pub struct Message {
    /// Which.
    pub id: MessageId,
    /// What it follows; absent for the beginning of a conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<MessageId>,
    /// When it was finished, in milliseconds since 1970.
    pub created: u64,
    /// Who wrote it.
    pub role: Role,
    /// What it says.
    pub text: String,
    /// What the model thought before it answered; not given to models again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Files that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub attachments: Vec<Attachment>,
    /// The model or swarm that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why an answer ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
    /// What an answer cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Which experts of a swarm answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<Answerer>,
    /// What else must be told: an expert that failed, a strategy that could not be honoured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Message {
    /// What a reader writes to follow `parent`.
    pub fn user(parent: Option<MessageId>, text: impl Into<String>) -> Self {
        Self::new(parent, Role::User, text.into())
    }

    /// What a model answers to `parent`.
    pub fn assistant(parent: MessageId, text: impl Into<String>) -> Self {
        Self::new(Some(parent), Role::Assistant, text.into())
    }

    fn new(parent: Option<MessageId>, role: Role, text: String) -> Self {
        Self {
            id: 0,
            parent,
            created: 0,
            role,
            text,
            reasoning: String::new(),
            attachments: Vec::new(),
            model: None,
            finish: None,
            usage: None,
            experts: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Bytes of all that is said in it, its files included.
    pub(super) fn content_bytes(&self) -> usize {
        let files: usize = self.attachments.iter().map(|file| file.name.len() + file.text.len()).sum();
        self.text.len() + self.reasoning.len() + files
    }

    /// Refuses what is too large, and what its role cannot have.
    pub fn check(&self, limits: &StoreLimits) -> Result<()> {
        check_bytes("the message", self.content_bytes(), limits.message_bytes)?;
        if self.attachments.len() > limits.attachments {
            return Err(StoreError::too_large("attachments of a message", self.attachments.len(), limits.attachments));
        }
        for file in &self.attachments {
            check_bytes("the name of an attachment", file.name.len(), limits.name_bytes)?;
            if file.name.is_empty() || file.name.contains(['/', '\\', '\n', '\r', '`']) {
                return Err(StoreError::invalid("the name of an attachment is a plain file name, without a path"));
            }
        }
        if let Some(model) = &self.model {
            check_bytes("the name of a model", model.len(), limits.name_bytes)?;
        }
        if self.experts.len() > 64 || self.notes.len() > 64 {
            return Err(StoreError::too_large("experts or notes", self.experts.len().max(self.notes.len()), 64));
        }
        for text in self.notes.iter().chain(self.experts.iter().flat_map(|e| [&e.name, &e.reason])) {
            check_bytes("a note or the name of an expert", text.len(), limits.note_bytes)?;
        }
        if self.role == Role::User && self.text.trim().is_empty() && self.attachments.is_empty() {
            return Err(StoreError::invalid("a message of the user must not be empty"));
        }
        Ok(())
    }
}

/// Everything of a conversation but its messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = conversations::ConversationHead)]
pub struct ConversationHead {
    /// Which.
    pub id: ConversationId,
    /// How it is listed.
    pub title: String,
    /// When it began, in milliseconds since 1970.
    pub created: u64,
    /// When it last changed.
    pub updated: u64,
    /// The model or swarm that is asked; empty for the service's default.
    #[serde(default)]
    pub model: String,
    /// How answers are generated.
    #[serde(default)]
    pub settings: Settings,
    /// The end of the branch that is shown.
    #[serde(default)]
    pub active: Option<MessageId>,
    /// How many messages it has, all branches together.
    #[serde(default)]
    pub message_count: u32,
    /// Bytes that the messages take in the store.
    #[serde(default)]
    pub bytes: u64,
}

impl ConversationHead {
    /// What stands in the list for a head that cannot be read.
    pub(super) fn damaged(id: &str, updated: u64) -> Result<Self> {
        let id = ConversationId::parse(id).ok_or_else(|| StoreError::Damaged(id.to_owned()))?;
        let (title, model, settings) = ("(damaged)".into(), String::new(), Settings::default());
        Ok(Self { id, title, created: updated, updated, model, settings, active: None, message_count: 0, bytes: 0 })
    }
}

/// A whole conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = conversations::Conversation)]
pub struct Conversation {
    /// All but the messages.
    #[serde(flatten)]
    pub head: ConversationHead,
    /// The tree, parents before their children.
    pub messages: Vec<Message>,
}

impl Conversation {
    /// The messages from the beginning to `leaf`, which is what a model is given to answer.
    pub fn path(&self, leaf: Option<MessageId>) -> Result<Vec<&Message>> {
        let by_id: HashMap<MessageId, &Message> = self.messages.iter().map(|message| (message.id, message)).collect();
        let mut path = Vec::new();
        let mut next = leaf;
        while let Some(id) = next {
            let message = by_id.get(&id).ok_or_else(|| StoreError::NoMessage(self.head.id.clone(), id))?;
            path.push(*message);
            // Parents are smaller than children, so the way up ends even in a damaged store.
            next = message.parent.filter(|parent| *parent < id);
        }
        path.reverse();
        Ok(path)
    }
}

/// A new conversation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = conversations::NewConversation)]
pub struct NewConversation {
    /// Empty: it will be named after its first message.
    pub title: String,
    /// Empty: the service's default.
    pub model: String,
    /// How answers are generated.
    #[serde(deserialize_with = "object")]
    pub settings: Settings,
}

/// What of a conversation is to be another; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = conversations::ConversationChange)]
pub struct ConversationChange {
    /// A new title.
    pub title: Option<String>,
    /// A new model.
    pub model: Option<String>,
    /// New settings, all of them.
    #[serde(deserialize_with = "optional_object")]
    pub settings: Option<Settings>,
    /// Another branch.
    pub active: Option<MessageId>,
}

/// What the store holds at most. More is refused, and nothing is thrown away to make room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = conversations::StoreLimits)]
pub struct StoreLimits {
    /// Bytes of a message, its attachments included.
    pub message_bytes: usize,
    /// Files with a message.
    pub attachments: usize,
    /// Messages of a conversation, all branches together.
    pub messages: u32,
    /// Bytes of a conversation in the store.
    pub conversation_bytes: u64,
    /// Conversations.
    pub conversations: u64,
    /// Bytes of all messages in the store.
    pub total_bytes: u64,
    /// Bytes of a title.
    pub title_bytes: usize,
    /// Bytes of a system prompt.
    pub system_bytes: usize,
    /// Bytes of the name of a model or a file.
    pub name_bytes: usize,
    /// Bytes of a note.
    pub note_bytes: usize,
    /// Bytes of the store's pages in memory.
    #[serde(skip)]
    #[schema(ignore)]
    pub cache_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            message_bytes: 1 << 20,
            attachments: 16,
            messages: 4_000,
            // A file that holds one fits into the body of an import, a quarter of `kernel.heap_size`, from 50 MiB of that on.
            conversation_bytes: 12 << 20,
            conversations: 10_000,
            total_bytes: 512 << 20,
            title_bytes: 400,
            system_bytes: 64 << 10,
            name_bytes: 400,
            note_bytes: 4_000,
            cache_bytes: 8 << 20,
        }
    }
}

impl StoreLimits {
    /// Refuses a title or a model's name that cannot be.
    pub(super) fn check_names(&self, title: &str, model: &str) -> Result<()> {
        check_bytes("the title", title.len(), self.title_bytes)?;
        check_bytes("the name of a model", model.len(), self.name_bytes)
    }

    /// Refuses a conversation of so many messages and bytes, or a store of so many bytes.
    pub(super) fn check_size(&self, messages: u32, bytes: u64, total_bytes: u64) -> Result<()> {
        let begin_another = "begin a new conversation";
        let make_room = "export and delete conversations that you no longer need";
        for (what, amount, limit, advice) in [
            ("messages of a conversation", u64::from(messages), u64::from(self.messages), begin_another),
            ("bytes of a conversation", bytes, self.conversation_bytes, begin_another),
            ("bytes of all conversations", total_bytes, self.total_bytes, make_room),
        ] {
            if amount > limit {
                return Err(StoreError::TooLarge { what, amount, limit, advice });
            }
        }
        Ok(())
    }
}

/// Refuses a text that is longer than its limit.
fn check_bytes(what: &'static str, bytes: usize, bytes_max: usize) -> Result<()> {
    if bytes > bytes_max { Err(StoreError::too_large(what, bytes, bytes_max)) } else { Ok(()) }
}

/// The title of a conversation that was given none: the beginning of its first message.
pub fn title_of(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= CHARACTERS_MAX {
        return words;
    }
    let cut: String = words.chars().take(CHARACTERS_MAX).collect();
    // At a word's end where there is one in the last third.
    let end = cut.rfind(' ').filter(|end| *end > cut.len() * 2 / 3).unwrap_or(cut.len());
    format!("{}…", cut[..end].trim_end())
}
