//! Conversations in files: out as JSON or Markdown, in as JSON.
//!
//! A file holds any number of conversations and is taken whole or not at all. What it brings gets new ids, so that
//! nothing that exists is overwritten.

use std::collections::HashMap;
use std::fmt::Write;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::error::{Result, StoreError};
use super::record::{
    Attachment, Conversation, ConversationHead, ConversationId, Message, MessageId, Role, Settings, object, title_of,
};
use super::store::{ConversationStore, check_place};

/// What every such file says it is.
const FORMAT: &str = "hublab-conversations";
/// The version that is written and read.
const VERSION: u32 = 1;
/// How much longer a conversation may be in a file than in the store: other programs write letters as `\u00fc`.
const ESCAPED: u64 = 3;
/// The last millisecond of the year 9999. A later time would stay at the top of the list for ever.
const TIME_MAX: u64 = 253_402_300_799_999;

/// How a file begins and ends; between them come conversations with commas. So the largest store can be written without
/// being in memory.
pub(super) fn envelope() -> (String, &'static str) {
    (format!("{{\"format\":\"{FORMAT}\",\"version\":{VERSION},\"conversations\":[\n"), "\n]}\n")
}

/// One conversation as a file.
pub fn export_json(conversation: &Conversation) -> Result<String> {
    let json = serde_json::to_string(conversation)
        .map_err(|_| StoreError::Damaged(conversation.head.id.as_str().to_owned()))?;
    let (head, tail) = envelope();
    Ok(head + &json + tail)
}

/// The branch of a conversation that is shown, to be read.
pub fn export_markdown(conversation: &Conversation) -> Result<String> {
    let mut page = format!("# {}\n", conversation.head.title.replace('\n', " "));
    if !conversation.head.settings.system.is_empty() {
        page.push_str("\n## System prompt\n\n");
        page.push_str(conversation.head.settings.system.trim_end());
        page.push('\n');
    }
    for message in conversation.path(conversation.head.active)? {
        let author = match message.role {
            Role::User => "You",
            Role::Assistant => message.model.as_deref().filter(|name| !name.is_empty()).unwrap_or("Model"),
        };
        let _ = write!(page, "\n## {author}\n\n{}\n", with_attachments(message).trim_end());
        if !message.experts.is_empty() {
            let names = message.experts.iter().map(|e| format!("{} ({:.0} %)", e.name, e.weight * 100.0));
            let _ = write!(page, "\n*Answered by {}.*\n", names.collect::<Vec<_>>().join(", "));
        }
    }
    Ok(page)
}

/// A message as a model gets it: its text, then each file between fences.
pub fn with_attachments(message: &Message) -> String {
    let mut text = message.text.clone();
    for Attachment { name, text: content } in &message.attachments {
        let fence = fence_for(content);
        let end = if content.ends_with('\n') { "" } else { "\n" };
        let gap = if text.is_empty() { "" } else { "\n\n" };
        let _ = write!(text, "{gap}File `{name}`:\n\n{fence}\n{content}{end}{fence}");
    }
    text
}

/// More backticks than stand together anywhere in the text, and at least three.
fn fence_for(text: &str) -> String {
    let (mut longest, mut run) = (2, 0);
    for byte in text.bytes() {
        run = if byte == b'`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    "`".repeat(longest + 1)
}

/// Conversations are read one by one: a file of them is larger than what one should hold in memory at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportFile<'f> {
    format: String,
    version: u32,
    #[serde(borrow)]
    conversations: Vec<&'f RawValue>,
}

impl<'f> ImportFile<'f> {
    fn read(file: &'f [u8]) -> Result<Self> {
        let file: Self = serde_json::from_slice(file)
            .map_err(|error| StoreError::invalid(format!("this is not a file of exported conversations: {error}")))?;
        if file.format != FORMAT || file.version != VERSION {
            return Err(StoreError::invalid(format!(
                "the file has format `{}` version {}; `{FORMAT}` version {VERSION} is read",
                title_of(&file.format),
                file.version
            )));
        }
        Ok(file)
    }
}

/// As exported. What the store counts itself is read and not believed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportedConversation {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    #[serde(default, rename = "message_count")]
    _message_count: IgnoredAny,
    #[serde(default, rename = "bytes")]
    _bytes: IgnoredAny,
    title: String,
    created: u64,
    updated: u64,
    #[serde(default)]
    model: String,
    #[serde(default, deserialize_with = "object")]
    settings: Settings,
    #[serde(default)]
    active: Option<MessageId>,
    messages: Vec<Message>,
}

/// The conversations of a file, under new ids.
///
/// # Errors
/// When it is not such a file, or the messages of a conversation are no tree of turns. What a store holds at most is looked at
/// when they are added to one.
pub fn import_json(file: &[u8]) -> Result<Vec<Conversation>> {
    let raw = ImportFile::read(file)?.conversations;
    raw.into_iter().enumerate().map(|(index, raw)| imported(index, raw.get(), usize::MAX)).collect()
}

/// A conversation of a file, by its place there.
fn imported(index: usize, json: &str, bytes_max: usize) -> Result<Conversation> {
    let read = || {
        if json.len() > bytes_max {
            return Err(StoreError::too_large("bytes of a conversation in a file", json.len(), bytes_max));
        }
        let conversation: ImportedConversation = serde_json::from_str(json)
            .map_err(|error| StoreError::invalid(format!("it is not as exported: {error}")))?;
        conversation.renumbered()
    };
    read().map_err(|error| StoreError::invalid(format!("conversation {} of the file: {error}", index + 1)))
}

impl ConversationStore {
    /// Adds what a file holds, all of it or nothing, and says under which ids.
    pub fn import(&self, file: &[u8]) -> Result<Vec<ConversationId>> {
        let mut ids = Vec::new();
        let bytes_max = self.limits().conversation_bytes.saturating_mul(ESCAPED) as usize;
        let conversations = ImportFile::read(file)?.conversations.into_iter().enumerate().map(|(index, raw)| {
            let conversation = imported(index, raw.get(), bytes_max)?;
            ids.push(conversation.head.id.clone());
            Ok(conversation)
        });
        self.insert(conversations)?;
        Ok(ids)
    }
}

impl ImportedConversation {
    /// The same under new ids, if its messages are a tree of turns.
    fn renumbered(self) -> Result<Conversation> {
        if self.created > TIME_MAX || self.updated > TIME_MAX || self.messages.iter().any(|m| m.created > TIME_MAX) {
            return Err(StoreError::invalid("a time is after the year 9999"));
        }
        let mut places: HashMap<MessageId, (MessageId, Role)> = HashMap::new();
        let mut messages = Vec::new();
        for (index, mut message) in self.messages.into_iter().enumerate() {
            let parent = match message.parent {
                Some(id) => Some(*places.get(&id).ok_or_else(|| {
                    StoreError::invalid(format!("message {} follows {id}, which does not come before it", message.id))
                })?),
                None => None,
            };
            check_place(message.role, parent.map(|(_, role)| role))?;
            let id = MessageId::try_from(index)
                .map_err(|_| StoreError::too_large("messages of a conversation", index, MessageId::MAX as usize))?;
            if places.insert(message.id, (id, message.role)).is_some() {
                return Err(StoreError::invalid(format!("two messages have the id {}", message.id)));
            }
            message.id = id;
            message.parent = parent.map(|(id, _)| id);
            messages.push(message);
        }
        let active = self.active.map(|id| places.get(&id).map(|(id, _)| *id).ok_or(id)).transpose();
        let active = active.map_err(|id| StoreError::invalid(format!("the active message {id} does not exist")))?;
        let head = ConversationHead {
            id: ConversationId::random()?,
            title: self.title,
            created: self.created,
            updated: self.updated,
            model: self.model,
            settings: self.settings,
            active: active.or_else(|| messages.last().map(|message| message.id)),
            message_count: 0,
            bytes: 0,
        };
        Ok(Conversation { head, messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_longer_than_any_inside() {
        assert_eq!(fence_for("plain"), "```");
        assert_eq!(fence_for("a ```` b `"), "`````");
        let mut message = Message::user(None, "Look:");
        message.attachments.push(Attachment { name: "notes.md".into(), text: "```\nx\n```".into() });
        assert_eq!(with_attachments(&message), "Look:\n\nFile `notes.md`:\n\n````\n```\nx\n```\n````");
    }
}
