//! Finding conversations by what was said in them.

use serde::Serialize;
use utoipa::ToSchema;

use super::error::{Result, StoreError};
use super::record::{ConversationHead, ConversationId, MessageId};
use super::store::{ConversationStore, each_message, heads, read_head};

/// Characters of a query.
const QUERY_CHARACTERS_MAX: usize = 200;
/// Text that one search looks at, the latest conversations first; so that nobody keeps the disk busy with one request.
const SCAN_BYTES_MAX: usize = 64 << 20;
/// Characters before and after what was found.
const AROUND: usize = 48;

/// A conversation that holds what was looked for.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = conversations::SearchHit)]
pub struct SearchHit {
    /// The conversation, without its messages.
    #[serde(flatten)]
    pub head: ConversationHead,
    /// The message that holds it; absent if the title does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageId>,
    /// The text around it.
    pub excerpt: String,
}

/// What a search found, the latest first.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = conversations::SearchResult)]
pub struct SearchResult {
    /// One hit for each conversation.
    pub hits: Vec<SearchHit>,
    /// Whether everything was looked at. If not, there may be more.
    pub complete: bool,
}

impl ConversationStore {
    /// Conversations whose title or text holds `query`, whatever the case; at most `limit`.
    pub fn search(&self, query: &str, limit: usize) -> Result<SearchResult> {
        let characters = query.chars().count();
        if characters > QUERY_CHARACTERS_MAX {
            return Err(StoreError::too_large("characters of a search", characters, QUERY_CHARACTERS_MAX));
        }
        let needle: String = lower(query.trim()).collect();
        let transaction = self.read()?;
        let heads = heads(&transaction)?;
        let mut result = SearchResult { hits: Vec::new(), complete: true };
        let mut scanned = 0;
        for id in self.ids()? {
            if result.hits.len() == limit || scanned > SCAN_BYTES_MAX {
                result.complete = false;
                break;
            }
            // One that was deleted since the list was made is no hit.
            let Ok(head) = read_head(&heads, self.owner(), id.as_str()) else { continue };
            if let Some(excerpt) = excerpt(&head.title, &needle) {
                result.hits.push(SearchHit { head, message: None, excerpt });
                continue;
            }
            if let Some((message, excerpt)) = Self::search_messages(&transaction, &id, &needle, &mut scanned)? {
                result.hits.push(SearchHit { head, message: Some(message), excerpt });
            }
        }
        Ok(result)
    }

    fn search_messages(
        transaction: &redb::ReadTransaction,
        id: &ConversationId,
        needle: &str,
        scanned: &mut usize,
    ) -> Result<Option<(MessageId, String)>> {
        let mut found = None;
        each_message(transaction, id, &mut |message| {
            let files = message.attachments.iter().flat_map(|file| [&file.name, &file.text]);
            for text in std::iter::once(&message.text).chain(files) {
                *scanned += text.len();
                if let Some(excerpt) = excerpt(text, needle) {
                    found = Some((message.id, excerpt));
                    return false;
                }
            }
            *scanned <= SCAN_BYTES_MAX
        })?;
        Ok(found)
    }
}

/// Letter by letter, so that places can be counted.
fn lower(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().flat_map(lower_letter)
}

/// A final sigma is a sigma; the end of a line is a blank, as it is where excerpts are shown.
fn lower_letter(letter: char) -> impl Iterator<Item = char> {
    let letter = if letter.is_whitespace() { ' ' } else { letter };
    letter.to_lowercase().map(|letter| if letter == 'ς' { 'σ' } else { letter })
}

/// The text around the first place of `needle`, which is in lower case, on one line.
fn excerpt(text: &str, needle: &str) -> Option<String> {
    let lowered: String = lower(text).collect();
    let at = lowered.find(needle)?;
    // Lower case may be longer or shorter than what was written: count characters of it until the place is reached.
    let (mut passed, mut begin, mut end) = (0, text.len(), text.len());
    for (index, character) in text.char_indices() {
        if passed >= at && begin == text.len() {
            begin = index;
        }
        if passed >= at + needle.len() {
            end = index;
            break;
        }
        passed += lower_letter(character).map(char::len_utf8).sum::<usize>();
    }
    let from = text[..begin].char_indices().rev().nth(AROUND).map_or(0, |(index, _)| index);
    let to = text[end..].char_indices().nth(AROUND).map_or(text.len(), |(index, _)| end + index);
    let line = text[from..to].split_whitespace().collect::<Vec<_>>().join(" ");
    Some(format!("{}{line}{}", if from > 0 { "…" } else { "" }, if to < text.len() { "…" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, query: &str, expected: Option<&str>) {
        let needle: String = lower(query).collect();
        assert_eq!(excerpt(text, &needle).as_deref(), expected);
    }

    #[test]
    fn excerpts_are_found_whatever_the_case() {
        check("How do I use TAR?", "tar", Some("How do I use TAR?"));
        check("How do I use TAR?", "zip", None);
        check("ΟΔΟΣ", "οδος", Some("ΟΔΟΣ"));
        check("one\n\ntwo", "O", Some("one two"));
        check("What does\ntar do?", "does tar", Some("What does tar do?"));
        check("100\u{a0}km", "100 KM", Some("100 km"));
    }

    #[test]
    fn letters_whose_cases_differ_in_length_keep_the_place() {
        // Each of these is two bytes, and three in lower case.
        let text = "İ".repeat(100) + "needle" + &"İ".repeat(100);
        let expected = format!("…{}needle{}…", "İ".repeat(49), "İ".repeat(48));
        check(&text, "NEEDLE", Some(&expected));
    }
}
