//! WordPiece, the tokenizer of BERT, from `tokenizer.json`: `tokenizer.ggml.model` is `bert`.
//!
//! A checkpoint writes the beginning of a word as it is and what follows with `##` in front; a file writes the beginning
//! with `▁` in front and what follows as it is. Control tokens keep their text. A prompt is between the class token and
//! the separator, which are the file's first and last token.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::json::{flattened, kind};
use super::{AddedToken, Entries, TokenType, Tokens, too_many, type_ids};
use crate::checkpoint::read_file;
use crate::config::Config;
use crate::error::Error;

/// What stands before a piece that does not begin a word.
const CONTINUATION: &str = "##";

/// Words with more characters become one unknown token, in every reader.
const MAX_WORD_CHARS: u64 = 100;

/// Roles of tokens: in the configurations, their usual text, and in a file (`seperator` is how the key is spelled).
const ROLES: [(&str, &str, &[&str]); 5] = [
    ("cls", "[CLS]", &["bos"]),
    ("sep", "[SEP]", &["eos", "seperator"]),
    ("unk", "[UNK]", &["unknown"]),
    ("pad", "[PAD]", &["padding"]),
    ("mask", "[MASK]", &["mask"]),
];

/// Reads the tokenizer of an encoder's folder; the model has `n_vocab` embeddings.
pub(super) fn read(folder: &Path, settings: Option<&Config>, n_vocab: u32) -> Result<Entries, Error> {
    let path = folder.join("tokenizer.json");
    let Some(bytes) = read_file(&path)? else {
        let problem = format!("there is no tokenizer.json in {}", folder.display());
        let advice =
            "a tokenizer of vocab.txt alone can be saved anew: `AutoTokenizer.from_pretrained(…).save_pretrained(…)`";
        return Err(Error::malformed(problem, advice));
    };
    read_document(&bytes, settings, n_vocab).map_err(|error| error.in_file(&path))
}

fn read_document(bytes: &[u8], settings: Option<&Config>, n_vocab: u32) -> Result<Entries, Error> {
    let document: Value = serde_json::from_slice(bytes).map_err(|cause| Error::Json { cause })?;
    let malformed = |problem: &str| Error::malformed(problem, "fetch the file again");
    let model = document.get("model").ok_or_else(|| malformed("there is no `model`"))?;
    let model_kind = kind(model);
    if model_kind != "WordPiece" {
        let problem = format!("a tokenizer of the type {model_kind}");
        return Err(Error::malformed(problem, "of encoders, only those with WordPiece can be converted"));
    }
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or(CONTINUATION);
    if prefix != CONTINUATION {
        let problem = format!("WordPiece with {prefix:?} before what follows");
        return Err(Error::malformed(problem, "GGUF means ##"));
    }
    let mut out = Entries::default();
    if let Some(max) =
        model.get("max_input_chars_per_word").and_then(Value::as_u64).filter(|&max| max != MAX_WORD_CHARS)
    {
        out.notes
            .push(format!("words are unknown from {MAX_WORD_CHARS} characters on, not from {max}: GGUF cannot say it"));
    }

    let mut tokens = Tokens::unused(n_vocab);
    let vocabulary = model.get("vocab").and_then(Value::as_object).ok_or_else(|| malformed("`vocab` is no object"))?;
    let mut ids = HashMap::with_capacity(vocabulary.len());
    for (text, id) in vocabulary {
        let id = id.as_u64().ok_or_else(|| malformed("an id in `vocab` is no whole number"))?;
        let row = u32::try_from(id).ok().filter(|&id| id < n_vocab).ok_or_else(|| too_many(id, n_vocab))?;
        let piece = text.strip_prefix(CONTINUATION).map_or_else(|| format!("▁{text}"), str::to_owned);
        tokens.set(row, &piece, 0.0, TokenType::Normal);
        ids.insert(text.as_str(), row);
    }
    let added = super::json::Beside::parse(bytes)?.added;
    for AddedToken { id, text, special } in added.iter().filter(|token| token.id < n_vocab) {
        let ty = if *special { TokenType::Control } else { TokenType::UserDefined };
        tokens.set(*id, text, 0.0, ty);
        ids.insert(text, *id);
    }
    out.push("model", "bert");
    out.push("pre", "default");
    out.push("tokens", tokens.texts.clone());
    out.push("token_type", type_ids(&tokens));
    for (role, usual, keys) in ROLES {
        let entry = settings.and_then(|settings| settings.get(&format!("{role}_token")));
        let text = entry.and_then(|entry| entry.as_str().or_else(|| entry.get("content")?.as_str())).unwrap_or(usual);
        for key in keys {
            if let Some(&id) = ids.get(text) {
                out.push(&format!("{key}_token_id"), id);
            }
        }
    }
    write_template(document.get("post_processor"), &mut out);
    write_normalizer(document.get("normalizer"), &mut out);
    Ok(out)
}

/// Which tokens stand around a text. `BertProcessing` and the template of every published BERT have both.
fn write_template(processor: Option<&Value>, out: &mut Entries) {
    let mut around = [false, false];
    for step in flattened(processor, "processors") {
        match kind(step) {
            "BertProcessing" | "RobertaProcessing" => around = [true, true],
            "TemplateProcessing" => {
                let single = step.get("single").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let is_token = |piece: Option<&Value>| piece.is_some_and(|piece| piece.get("SpecialToken").is_some());
                around = [is_token(single.first()), single.len() > 1 && is_token(single.last())];
            }
            _ => {}
        }
    }
    out.push("add_bos_token", around[0]);
    out.push("add_eos_token", around[1]);
    out.push("add_sep_token", false);
}

fn write_normalizer(normalizer: Option<&Value>, out: &mut Entries) {
    let (mut lowercase, mut strip_accents) = (None, None);
    for step in flattened(normalizer, "normalizers") {
        match kind(step) {
            "Lowercase" => lowercase = Some(true),
            "StripAccents" => strip_accents = Some(true),
            "BertNormalizer" => {
                let flag = |name: &str| step.get(name).and_then(Value::as_bool);
                lowercase = flag("lowercase").or(lowercase);
                strip_accents = flag("strip_accents").or(strip_accents);
                for name in ["clean_text", "handle_chinese_chars"] {
                    if flag(name) == Some(false) {
                        out.notes.push(format!("`{name}` of tokenizer.json is off; GGUF cannot say it, readers do it"));
                    }
                }
            }
            "NFD" | "NFC" | "NFKC" | "NFKD" => {}
            other => out.notes.push(format!(
                "GGUF has no place for the normalizer {other} of tokenizer.json: some texts become other tokens"
            )),
        }
    }
    if let Some(on) = lowercase {
        out.push("normalizer.lowercase", on);
    }
    if let Some(on) = strip_accents {
        out.push("normalizer.strip_accents", on);
    }
}
