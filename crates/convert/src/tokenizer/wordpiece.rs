//! WordPiece, the tokenizer of BERT: `tokenizer.ggml.model` is `bert`.
//!
//! A checkpoint writes the beginning of a word as it is and what follows with `##` in front; a file writes the beginning
//! with `▁` in front and what follows as it is. Control tokens keep their text. A prompt is between the class token and
//! the separator, which are the file's first and last token. Words are those of BERT's normalizer and pre-tokenizer,
//! which the file's `bert` means; another pre-tokenizer is refused.
//!
//! `tokenizer.json` says all of this. `vocab.txt`, one piece a line, which older checkpoints have alone, holds the pieces
//! only; the rest is BERT's and in `tokenizer_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::json::{BAD_FILE, Beside, flattened, kind, vocabulary};
use super::{AddedToken, Entries, TokenType, Tokens, pre, too_many, type_ids};
use crate::checkpoint::{read_file, read_text};
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

/// What the files of a checkpoint say of a tokenizer.
struct WordPiece {
    /// Pieces as the checkpoint writes them, and their ids.
    vocabulary: BTreeMap<String, u32>,
    added: Vec<AddedToken>,
    /// Whether the class token stands before a text, and the separator behind it.
    around: [bool; 2],
    lowercase: bool,
    strip_accents: bool,
    notes: Vec<String>,
}

/// Reads the tokenizer of an encoder's folder; the model has `n_vocab` embeddings.
pub(super) fn read(folder: &Path, settings: Option<&Config>, n_vocab: u32) -> Result<Entries, Error> {
    let path = folder.join("tokenizer.json");
    if let Some(bytes) = read_file(&path)? {
        let written = WordPiece::parse(&bytes).and_then(|pieces| pieces.write(settings, n_vocab));
        return written.map_err(|error| error.in_file(&path));
    }
    let path = folder.join("vocab.txt");
    let Some(text) = read_text(&path)? else {
        let problem = format!("there is neither tokenizer.json nor vocab.txt in {}", folder.display());
        return Err(Error::malformed(problem, "fetch the tokenizer's files, too"));
    };
    let pieces =
        WordPiece::of_lines(&text, settings).map_err(|error| error.in_file(&folder.join("tokenizer_config.json")))?;
    pieces.write(settings, n_vocab).map_err(|error| error.in_file(&path))
}

/// The text of the token in a role, as the settings say it.
fn role_token<'a>(settings: Option<&'a Config>, role: &str, usual: &'a str) -> &'a str {
    let entry = settings.and_then(|settings| settings.get(&format!("{role}_token")));
    entry.and_then(|entry| entry.as_str().or_else(|| entry.get("content")?.as_str())).unwrap_or(usual)
}

impl WordPiece {
    /// Reads a `tokenizer.json`.
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let document: Value = serde_json::from_slice(bytes).map_err(|cause| Error::Json { cause })?;
        let part = |name: &str| document.get(name).filter(|part| !part.is_null());
        let model = part("model").ok_or_else(|| Error::malformed("there is no `model`", BAD_FILE))?;
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
        for step in pre::steps(part("pre_tokenizer")) {
            if step.kind != "BertPreTokenizer" {
                let problem = format!("WordPiece with the pre-tokenizer {}", step.kind);
                return Err(Error::malformed(problem, "GGUF has no tokenizer of this kind"));
            }
        }
        let mut pieces = Self {
            vocabulary: vocabulary(model)?,
            added: Beside::parse(bytes)?.added,
            around: around(part("post_processor")),
            lowercase: false,
            strip_accents: false,
            notes: Vec::new(),
        };
        if let Some(max) =
            model.get("max_input_chars_per_word").and_then(Value::as_u64).filter(|&max| max != MAX_WORD_CHARS)
        {
            let note =
                format!("words are unknown from {MAX_WORD_CHARS} characters on, not from {max}: GGUF cannot say it");
            pieces.notes.push(note);
        }
        pieces.normalize(part("normalizer"));
        Ok(pieces)
    }

    /// Reads a `vocab.txt`: line i is piece i. Of a piece that is there twice, `transformers` knows the last.
    fn of_lines(text: &str, settings: Option<&Config>) -> Result<Self, Error> {
        let vocabulary: BTreeMap<String, u32> = text.lines().map(str::to_owned).zip(0..).collect();
        let controls = ROLES.iter().map(|&(role, usual, _)| role_token(settings, role, usual));
        let added = controls
            .filter_map(|text| Some(AddedToken { id: *vocabulary.get(text)?, text: text.to_owned(), special: true }))
            .collect();
        let flag = |name: &str| settings.map_or(Ok(None), |settings| settings.bool_opt(name));
        let lowercase = flag("do_lower_case")?.unwrap_or(true);
        let strip_accents = flag("strip_accents")?.unwrap_or(lowercase);
        let mut notes = Vec::new();
        if flag("tokenize_chinese_chars")? == Some(false) {
            notes.push(always_done("tokenize_chinese_chars", "tokenizer_config.json"));
        }
        Ok(Self { vocabulary, added, around: [true, true], lowercase, strip_accents, notes })
    }

    fn normalize(&mut self, normalizer: Option<&Value>) {
        let mut is_bert = false;
        for step in flattened(normalizer, "normalizers") {
            match kind(step) {
                "Lowercase" => self.lowercase = true,
                "StripAccents" => self.strip_accents = true,
                "BertNormalizer" => {
                    is_bert = true;
                    let flag = |name: &str| step.get(name).and_then(Value::as_bool);
                    let lowercase = flag("lowercase").unwrap_or(true);
                    self.lowercase |= lowercase;
                    self.strip_accents |= flag("strip_accents").unwrap_or(lowercase);
                    for name in ["clean_text", "handle_chinese_chars"] {
                        if flag(name) == Some(false) {
                            self.notes.push(always_done(name, "tokenizer.json"));
                        }
                    }
                }
                // The first half of taking accents off, which is done where they are.
                "NFD" => {}
                other => self.notes.push(format!(
                    "GGUF has no place for the normalizer {other} of tokenizer.json: some texts become other tokens"
                )),
            }
        }
        if !is_bert {
            self.notes.push(
                "tokenizer.json has no BertNormalizer: GGUF cannot say it, readers clean text and part Chinese \
                 characters"
                    .to_owned(),
            );
        }
    }

    fn write(self, settings: Option<&Config>, n_vocab: u32) -> Result<Entries, Error> {
        let mut tokens = Tokens::unused(n_vocab);
        let Self { vocabulary: mut ids, added, around, lowercase, strip_accents, notes } = self;
        for (text, &id) in &ids {
            if id >= n_vocab {
                return Err(too_many(id.into(), n_vocab));
            }
            tokens.set(id, &marked_piece(text), 0.0, TokenType::Normal);
        }
        for AddedToken { id, text, special } in added.into_iter().filter(|token| token.id < n_vocab) {
            let ty = if special { TokenType::Control } else { TokenType::UserDefined };
            tokens.set(id, &text, 0.0, ty);
            ids.insert(text, id);
        }
        let mut out = Entries { notes, ..Entries::default() };
        out.push("model", "bert");
        out.push("pre", "default");
        out.push("token_type", type_ids(&tokens));
        out.push("tokens", tokens.texts);
        for (role, usual, keys) in ROLES {
            if let Some(&id) = ids.get(role_token(settings, role, usual)) {
                for key in keys {
                    out.push(&format!("{key}_token_id"), id);
                }
            }
        }
        out.push("add_bos_token", around[0]);
        out.push("add_eos_token", around[1]);
        out.push("add_sep_token", false);
        out.push("normalizer.lowercase", lowercase);
        // Readers strip accents where they lowercase.
        if strip_accents != lowercase {
            out.push("normalizer.strip_accents", strip_accents);
        }
        Ok(out)
    }
}

/// A piece as GGUF writes it: `▁` before what begins a word, nothing before what goes on.
fn marked_piece(text: &str) -> String {
    text.strip_prefix(CONTINUATION).map_or_else(|| format!("▁{text}"), str::to_owned)
}

fn always_done(name: &str, file: &str) -> String {
    format!("`{name}` of {file} is off; GGUF cannot say it, readers do it")
}

/// Which tokens stand around a text. `BertProcessing` and the template of every published BERT have both.
fn around(processor: Option<&Value>) -> [bool; 2] {
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
    around
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(entries: &Entries, key: &str) -> Option<hublabio_gguf::Value> {
        let name = format!("tokenizer.ggml.{key}");
        entries.entries.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
    }

    /// What a tokenizer.json with this normalizer becomes.
    fn normalized(normalizer: &Value) -> Entries {
        let document = json!({
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "added_tokens": [{"id": 0, "content": "[UNK]", "special": true}, {"id": 4, "content": "<x>"}],
            "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "[unused]": 3}},
        });
        WordPiece::parse(document.to_string().as_bytes()).unwrap().write(None, 6).unwrap()
    }

    #[test]
    fn pieces_that_begin_a_word_are_marked() {
        let out = normalized(&json!({"type": "BertNormalizer"}));
        let texts = ["[UNK]", "▁a", "b", "▁[unused]", "<x>", "[PAD5]"].map(str::to_owned);
        assert_eq!(entry(&out, "tokens"), Some(texts.to_vec().into()));
        assert_eq!(entry(&out, "token_type"), Some(vec![3, 1, 1, 1, 4, 5].into()));
        assert_eq!(entry(&out, "unknown_token_id"), Some(0_u32.into()));
        assert_eq!(entry(&out, "bos_token_id"), None);
        assert_eq!(entry(&out, "scores"), None);
    }

    #[test]
    fn what_a_normalizer_does_is_said_where_readers_would_do_otherwise() {
        for (normalizer, lowercase, strip_accents, notes) in [
            (json!({"type": "BertNormalizer", "lowercase": true, "strip_accents": null}), true, None, 0),
            (json!({"type": "BertNormalizer", "lowercase": false, "strip_accents": true}), false, Some(true), 0),
            (json!({"type": "BertNormalizer", "strip_accents": false, "clean_text": false}), true, Some(false), 1),
            (
                json!({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}),
                true,
                Some(false),
                1,
            ),
            (json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "BertNormalizer"}]}), true, None, 1),
            (Value::Null, false, None, 1),
        ] {
            let out = normalized(&normalizer);
            assert_eq!(entry(&out, "normalizer.lowercase"), Some(lowercase.into()), "{normalizer}");
            assert_eq!(entry(&out, "normalizer.strip_accents"), strip_accents.map(Into::into), "{normalizer}");
            assert_eq!(out.notes.len(), notes, "{normalizer}: {:?}", out.notes);
        }
    }

    #[test]
    fn lines_of_a_vocabulary_are_pieces() {
        let lines = "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n<m>\na\r\n##b\n";
        let settings =
            json!({"do_lower_case": false, "mask_token": {"content": "<m>"}, "tokenize_chinese_chars": false});
        let settings = Config::new(settings).unwrap();
        let out = WordPiece::of_lines(lines, Some(&settings)).unwrap().write(Some(&settings), 8).unwrap();
        let texts = ["[PAD]", "▁[unused0]", "[UNK]", "[CLS]", "[SEP]", "<m>", "▁a", "b"].map(str::to_owned);
        assert_eq!(entry(&out, "tokens"), Some(texts.to_vec().into()));
        assert_eq!(entry(&out, "token_type"), Some(vec![3, 1, 3, 3, 3, 3, 1, 1].into()));
        for (key, id) in [("bos", 3_u32), ("eos", 4), ("seperator", 4), ("unknown", 2), ("padding", 0), ("mask", 5)] {
            assert_eq!(entry(&out, &format!("{key}_token_id")), Some(id.into()), "{key}");
        }
        assert_eq!(entry(&out, "add_bos_token"), Some(true.into()));
        assert_eq!(entry(&out, "normalizer.lowercase"), Some(false.into()));
        assert_eq!(out.notes.len(), 1, "{:?}", out.notes);

        let out = WordPiece::of_lines(lines, None).unwrap();
        assert!(out.lowercase && out.strip_accents);
        assert!(out.write(None, 7).unwrap_err().to_string().contains("token 7 is beyond the 7 embeddings"));
    }

    #[test]
    fn another_pre_tokenizer_is_refused() {
        let text = r#"{"pre_tokenizer":{"type":"Whitespace"},"model":{"type":"WordPiece","vocab":{}}}"#;
        let error = WordPiece::parse(text.as_bytes()).err().unwrap().to_string();
        assert!(error.contains("Whitespace"), "{error}");
    }
}
