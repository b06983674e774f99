//! Ids of the tokens with a role, and which of them a prompt begins and ends with.
//!
//! A role's token is looked for in `tokenizer_config.json`, then in `special_tokens_map.json` (both name a text), then
//! in `config.json` and in `tokenizer.model` (both name an id). What is added to a prompt is what the post-processor of
//! `tokenizer.json` does, or else what `tokenizer_config.json` says.

use std::collections::HashMap;

use serde_json::Value;

use super::json::{Beside, flattened, kind};
use super::sentencepiece::SentencePiece;
use super::{Entries, TokenType, Tokens};
use crate::config::Config;
use crate::error::Error;

/// Where the answers may be.
pub struct Sources<'a> {
    pub config: &'a Config,
    pub settings: Option<&'a Config>,
    pub map: Option<&'a Config>,
    pub beside: Option<&'a Beside>,
    pub pieces: Option<&'a SentencePiece>,
    pub ids: &'a HashMap<&'a str, u32>,
    pub tokens: &'a Tokens,
}

/// A role's name in the configurations, and GGUF's (`seperator` is how the key is spelled).
const ROLES: [(&str, &str); 7] = [
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"),
    ("pad", "padding"),
    ("cls", "cls"),
    ("mask", "mask"),
];

/// Tokens that end a turn, in the families whose end of text is another one.
const ENDS_OF_TURN: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

/// Writes `*_token_id` and `add_*_token`.
pub fn write(sources: &Sources<'_>, out: &mut Entries) -> Result<(), Error> {
    let mut eos = None;
    for (role, ours) in ROLES {
        let id = sources.id(role);
        if role == "eos" {
            eos = id;
        }
        if let Some(id) = id {
            out.push(&format!("{ours}_token_id"), id);
        }
    }
    let control = |id: &u32| sources.tokens.types[*id as usize] == TokenType::Control;
    let eot = ENDS_OF_TURN.iter().filter_map(|text| sources.ids.get(text).copied()).find(control);
    if let Some(eot) = eot.filter(|&id| Some(id) != eos) {
        out.push("eot_token_id", eot);
    }
    let added = sources.added_by_template(out);
    for (role, by_template) in [("bos", added.bos), ("eos", added.eos), ("sep", added.sep)] {
        let key = format!("add_{role}_token");
        let by_settings = sources.settings.map(|settings| settings.bool_opt(&key)).transpose()?.flatten();
        if let Some(add) = by_template.or(by_settings) {
            out.push(&key, add);
        }
    }
    Ok(())
}

/// What a post-processor puts around a text, where it says.
#[derive(Default)]
struct Added {
    bos: Option<bool>,
    eos: Option<bool>,
    sep: Option<bool>,
}

impl Sources<'_> {
    fn id(&self, role: &str) -> Option<u32> {
        if let Some(&id) = self.text(role).and_then(|text| self.ids.get(text)) {
            return Some(id);
        }
        let key = format!("{role}_token_id");
        let n_vocab = self.tokens.texts.len() as u32;
        let number = match self.config.get(&key) {
            // Several ends: the first is the end of a text.
            Some(Value::Array(ids)) => ids.first().and_then(Value::as_u64),
            // Some configurations say -1 for none.
            Some(id) => id.as_u64(),
            None => None,
        };
        if let Some(id) = number.and_then(|id| u32::try_from(id).ok()).filter(|&id| id < n_vocab) {
            return Some(id);
        }
        let piece = |pieces: &SentencePiece| pieces.special_ids.iter().find(|entry| entry.0 == role)?.1;
        self.pieces.and_then(piece)
    }

    /// The text of a role's token: a string, or an object with the string as `content`.
    fn text(&self, role: &str) -> Option<&str> {
        let key = format!("{role}_token");
        let named = [self.settings, self.map].into_iter().flatten().find_map(|config| {
            let entry = config.get(&key)?;
            entry.as_str().or_else(|| entry.get("content")?.as_str())
        });
        named.or_else(|| self.conventional(role))
    }

    /// BERT's own names, for files that name none: control tokens with these texts have no other use.
    fn conventional(&self, role: &str) -> Option<&'static str> {
        let text = match role {
            "cls" => "[CLS]",
            "sep" => "[SEP]",
            "mask" => "[MASK]",
            "unk" => "[UNK]",
            "pad" => "[PAD]",
            _ => return None,
        };
        let id = *self.ids.get(text)?;
        (self.tokens.types[id as usize] == TokenType::Control).then_some(text)
    }

    fn added_by_template(&self, out: &mut Entries) -> Added {
        let mut added = Added::default();
        let processor = self.beside.and_then(|beside| beside.post_processor.as_ref());
        for step in flattened(processor, "processors") {
            match kind(step) {
                // It adds nothing, unless another step does.
                "ByteLevel" => {
                    added.bos.get_or_insert(false);
                    added.eos.get_or_insert(false);
                }
                "TemplateProcessing" => self.read_template(step, &mut added, out),
                "BertProcessing" | "RobertaProcessing" => {
                    added.bos = Some(true);
                    let text = step.get("sep").and_then(|sep| sep.get(0)).and_then(Value::as_str);
                    self.read_end(text, &mut added, out);
                }
                _ => {}
            }
        }
        added
    }

    fn read_template(&self, step: &Value, added: &mut Added, out: &mut Entries) {
        let single = step.get("single").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if single.len() < 2 {
            return;
        }
        let token = |piece: &Value| piece.get("SpecialToken")?.get("id")?.as_str().map(str::to_owned);
        if let Some(first) = single.first().and_then(token) {
            // BERT begins a text with its classification token, and has no other beginning.
            let begins = self.text("bos").is_none() && self.text("cls") == Some(first.as_str());
            added.bos = Some(begins || self.is_role(&first, "bos", out));
        }
        self.read_end(single.last().and_then(token).as_deref(), added, out);
    }

    /// What follows a text: EOS, or the separator where that is another token (BERT).
    fn read_end(&self, found: Option<&str>, added: &mut Added, out: &mut Entries) {
        let Some(found) = found else { return };
        if self.text("eos") != Some(found) && self.text("sep") == Some(found) {
            added.sep = Some(true);
        } else {
            added.eos = Some(self.is_role(found, "eos", out));
        }
    }

    fn is_role(&self, found: &str, role: &str, out: &mut Entries) -> bool {
        // Where nothing else says what the role's token is, it is this one.
        let same = self.text(role).is_none_or(|text| text == found);
        if !same {
            out.notes.push(format!("tokenizer.json puts {found} around a text, which is not its {role} token"));
        }
        same
    }
}
