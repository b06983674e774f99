//! The tokenizer of a checkpoint folder as `tokenizer.*` metadata.
//!
//! | files | `tokenizer.ggml.model` |
//! |---|---|
//! | `tokenizer.model` (SentencePiece, BPE) | `llama`, with its own scores |
//! | `tokenizer.model` (SentencePiece, unigram) | `t5`, with its scores and its character map |
//! | `tokenizer.json`, BPE over bytes | `gpt2`, with merges and the name of the pre-tokenizer |
//! | `tokenizer.json`, BPE with bytes as a way out | `llama`, with scores from the order of the merges |
//! | `tokenizer.json`, Unigram | `t5`, with its scores and its character map |
//! | `tokenizer.json`, WordPiece, or `vocab.txt` (encoders) | `bert`, with `▁` before words instead of `##` before the rest |
//!
//! `tokenizer.model` comes first, as it is what the other was made from; `vocab.txt` last, as it says least.
//! `tokenizer_config.json`, `added_tokens.json`, `special_tokens_map.json` and `chat_template.jinja` add what they know.

pub mod json;
pub mod pre;
pub mod sentencepiece;
mod specials;
mod wordpiece;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use hublabio_gguf::{Array, Value};
use serde_json::Value as Json;

use crate::checkpoint::{read_file, read_json, read_text};
use crate::config::Config;
use crate::error::Error;
use crate::family::Family;
use json::{Beside, Kind, TokenizerJson};
use sentencepiece::{PieceType, SentencePiece};

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// Made by merges.
    Normal = 1,
    /// What stands for text that has no token.
    Unknown = 2,
    /// Never made from text.
    Control = 3,
    /// Found in text as a whole, before any merge.
    UserDefined = 4,
    /// An id without a meaning.
    Unused = 5,
    /// One byte.
    Byte = 6,
}

/// Score of a token that was added behind the vocabulary, and of an id without a token; llama.cpp writes the same.
const SCORE_ADDED: f32 = -1000.0;
const SCORE_UNUSED: f32 = -10000.0;

/// The tokens of a file, one for each row of the embeddings.
#[derive(Debug)]
struct Tokens {
    texts: Vec<String>,
    scores: Vec<f32>,
    types: Vec<TokenType>,
}

/// A token that a configuration adds or describes anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Whether text never makes it.
    pub special: bool,
}

/// Metadata entries, and what the user should know.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub entries: Vec<(String, Value)>,
    pub notes: Vec<String>,
}

impl Entries {
    fn push(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.push((format!("tokenizer.ggml.{key}"), value.into()));
    }
}

/// Reads the tokenizer of a folder; the model has `n_vocab` embeddings.
pub(crate) fn read(folder: &Path, config: &Config, family: Family, n_vocab: u32) -> Result<Entries, Error> {
    let object = |name: &str| -> Result<Option<Config>, Error> {
        let path = folder.join(name);
        read_json(&path)?.map(Config::new).transpose().map_err(|error| error.in_file(&path))
    };
    let settings = object("tokenizer_config.json")?;
    if family.is_encoder() {
        return wordpiece::read(folder, settings.as_ref(), n_vocab);
    }
    let map = object("special_tokens_map.json")?;
    let mut added = Vec::new();
    let settings_path = folder.join("tokenizer_config.json");
    let in_settings = |error: Error| error.in_file(&settings_path);
    let added_path = folder.join("added_tokens.json");
    if let Some(document) = read_json(&added_path)? {
        added.extend(added_tokens_json(&document).map_err(|error| error.in_file(&added_path))?);
    }
    if let Some(settings) = &settings {
        added.extend(added_tokens_decoder(settings).map_err(in_settings)?);
    }

    let piece_path = folder.join("tokenizer.model");
    let class = settings.as_ref().and_then(|settings| settings.get("tokenizer_class")).and_then(Json::as_str);
    // Phi-4 has the class of GPT-2, whatever other files lie beside.
    let pieces = match read_file(&piece_path)? {
        Some(bytes) if class != Some("GPT2Tokenizer") => {
            Some(SentencePiece::parse(&bytes).map_err(|error| error.in_file(&piece_path))?)
        }
        _ => None,
    };
    // Beside a SentencePiece model, the model in tokenizer.json is not used, and may be one that cannot be.
    let json_path = folder.join("tokenizer.json");
    let in_json = |error: Error| error.in_file(&json_path);
    let (tokenizer_json, beside) = match read_file(&json_path)? {
        Some(bytes) if pieces.is_some() => (None, Some(Beside::parse(&bytes).map_err(in_json)?)),
        Some(bytes) => (Some(TokenizerJson::parse(&bytes).map_err(in_json)?), None),
        None => (None, None),
    };
    let beside = tokenizer_json.as_ref().map(|json| &json.beside).or(beside.as_ref());

    let mut out = Entries::default();
    let tokens = match (&pieces, &tokenizer_json) {
        (Some(pieces), _) => {
            let tokens = from_pieces(pieces, beside, &added, n_vocab).map_err(|e| e.in_file(&piece_path))?;
            if pieces.is_bpe {
                write_scored(&mut out, "llama", &tokens);
            } else {
                write_scored(&mut out, "t5", &tokens);
                write_unigram(&mut out, &pieces.charsmap, pieces.remove_extra_whitespaces);
            }
            tokens
        }
        (None, Some(json)) => from_json(json, &added, n_vocab, &mut out).map_err(in_json)?,
        (None, None) => {
            let problem = format!("there is neither tokenizer.json nor tokenizer.model in {}", folder.display());
            let advice = "fetch the tokenizer's files, too; an older tokenizer can be saved anew as tokenizer.json";
            return Err(Error::malformed(problem, advice));
        }
    };
    let listed = added.iter().chain(beside.map_or(&[][..], |beside| &beside.added));
    out.notes.extend(without_row(listed, n_vocab));
    let space_prefix =
        space_prefix(family, settings.as_ref(), pieces.as_ref(), tokenizer_json.as_ref()).map_err(in_settings)?;
    if let Some(add) = space_prefix {
        out.push("add_space_prefix", add);
    }

    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokens.texts.len());
    for (id, text) in tokens.texts.iter().enumerate() {
        ids.entry(text).or_insert(id as u32);
    }
    let sources = specials::Sources {
        config,
        settings: settings.as_ref(),
        map: map.as_ref(),
        beside,
        pieces: pieces.as_ref(),
        ids: &ids,
        tokens: &tokens,
    };
    specials::write(&sources, &mut out).map_err(in_settings)?;
    write_chat_template(folder, settings.as_ref(), &mut out)?;
    Ok(out)
}

fn write_scored(out: &mut Entries, model: &str, tokens: &Tokens) {
    out.push("model", model);
    out.push("pre", "default");
    out.push("tokens", tokens.texts.clone());
    out.push("scores", tokens.scores.clone());
    out.push("token_type", type_ids(tokens));
}

/// What `t5` has beside its pieces. A model without a character map leaves text as it is.
fn write_unigram(out: &mut Entries, charsmap: &[u8], merges_spaces: bool) {
    if !charsmap.is_empty() {
        out.push("precompiled_charsmap", Value::Array(Array::U8(charsmap.to_vec())));
    }
    out.push("remove_extra_whitespaces", merges_spaces);
}

fn type_ids(tokens: &Tokens) -> Vec<i32> {
    tokens.types.iter().map(|&ty| ty as i32).collect()
}

impl Tokens {
    /// `[PAD0]`, `[PAD1]`, …: what ids without a token are called.
    fn unused(n_vocab: u32) -> Self {
        Self {
            texts: (0..n_vocab).map(|id| format!("[PAD{id}]")).collect(),
            scores: vec![SCORE_UNUSED; n_vocab as usize],
            types: vec![TokenType::Unused; n_vocab as usize],
        }
    }

    fn set(&mut self, id: u32, text: &str, score: f32, ty: TokenType) {
        let id = id as usize;
        text.clone_into(&mut self.texts[id]);
        self.scores[id] = score;
        self.types[id] = ty;
    }

    fn add(&mut self, token: &AddedToken) {
        let control = token.special || looks_special(&token.text);
        // A token that is found in text is compared with text, where a space is a space.
        let text = if control { token.text.clone() } else { token.text.replace('▁', " ") };
        let ty = if control { TokenType::Control } else { TokenType::UserDefined };
        self.set(token.id, &text, SCORE_ADDED, ty);
    }
}

/// Whether a token is a control token although nothing says so: the padding and the unused tokens of some families, and
/// two tokens of the Gemmas (`<2mass>`, `[@BOS@]`) which their files list as plain ones.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| {
        text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
    };
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

fn too_many(id: u64, n_vocab: u32) -> Error {
    let problem = format!("token {id} is beyond the {n_vocab} embeddings of config.json");
    Error::malformed(problem, "tokenizer and weights are of two models, fetch the checkpoint again")
}

/// What to say of added tokens that the model has no row for. They cannot be used: Gemma 3 without the vision model
/// lists the token that stands for an image.
fn without_row<'a>(listed: impl Iterator<Item = &'a AddedToken>, n_vocab: u32) -> Option<String> {
    let beyond: BTreeMap<u32, &str> =
        listed.filter(|token| token.id >= n_vocab).map(|token| (token.id, token.text.as_str())).collect();
    let (id, text) = beyond.first_key_value()?;
    let more = if beyond.len() > 1 { format!(" and {} more", beyond.len() - 1) } else { String::new() };
    Some(format!(
        "the added token {text:?} ({id}){more} is left out: the model has {n_vocab} embeddings, and none for it"
    ))
}

fn from_pieces(
    pieces: &SentencePiece,
    beside: Option<&Beside>,
    added: &[AddedToken],
    n_vocab: u32,
) -> Result<Tokens, Error> {
    if pieces.pieces.len() > n_vocab as usize {
        return Err(too_many(pieces.pieces.len() as u64 - 1, n_vocab));
    }
    let mut tokens = Tokens::unused(n_vocab);
    for (id, piece) in (0..).zip(&pieces.pieces) {
        let (text, ty) = match piece.ty {
            PieceType::Normal => (piece.text.clone(), TokenType::Normal),
            PieceType::Unknown => (piece.text.clone(), TokenType::Unknown),
            PieceType::Control => (piece.text.clone(), TokenType::Control),
            PieceType::UserDefined => (piece.text.replace('▁', " "), TokenType::UserDefined),
            PieceType::Unused => (piece.text.clone(), TokenType::Unused),
            PieceType::Byte => (piece.text.clone(), TokenType::Byte),
        };
        tokens.set(id, &text, piece.score, ty);
    }
    // `without_row` tells of the others.
    for token in added.iter().filter(|token| token.id < n_vocab) {
        tokens.add(token);
    }
    for token in beside.map_or(&[][..], |beside| &beside.added) {
        if token.id < n_vocab && tokens.texts[token.id as usize] == format!("[PAD{}]", token.id) {
            tokens.add(token);
        }
    }
    Ok(tokens)
}

fn from_json(json: &TokenizerJson, added: &[AddedToken], n_vocab: u32, out: &mut Entries) -> Result<Tokens, Error> {
    let mut tokens = Tokens::unused(n_vocab);
    let scores = if json.kind == Kind::ByteFallback { json.merge_scores() } else { HashMap::new() };
    let unreached = 0.0 - json.merges.len() as f32;
    let is_unknown = |text: &str| json.unknown.as_deref() == Some(text);
    let with_unknown = matches!(json.kind, Kind::ByteFallback | Kind::Unigram);
    let told: HashSet<u32> = json.beside.added.iter().map(|token| token.id).collect();
    for (text, &id) in &json.vocabulary {
        if id >= n_vocab && told.contains(&id) {
            continue;
        }
        if id >= n_vocab {
            return Err(too_many(id.into(), n_vocab));
        }
        let (score, ty) = match json.kind {
            Kind::ByteLevel => (0.0, TokenType::Normal),
            _ if json::is_byte(text) => (0.0, TokenType::Byte),
            _ if is_unknown(text) => (0.0, TokenType::Unknown),
            Kind::Unigram => (json.scores.get(id as usize).copied().unwrap_or_default(), TokenType::Normal),
            Kind::ByteFallback => (scores.get(text).copied().unwrap_or(unreached), TokenType::Normal),
        };
        tokens.set(id, text, score, ty);
    }
    // What tokenizer.json says of a token is what its tokenizer does.
    let others = added.iter().filter(|token| !told.contains(&token.id));
    for token in others.chain(&json.beside.added).filter(|token| token.id < n_vocab) {
        tokens.add(token);
        if with_unknown && is_unknown(&token.text) {
            tokens.set(token.id, &token.text, 0.0, TokenType::Unknown);
        }
    }
    out.notes.extend(json.notes.iter().cloned());
    match json.kind {
        Kind::ByteLevel => write_byte_level(json, &tokens, out),
        Kind::ByteFallback => write_scored(out, "llama", &tokens),
        Kind::Unigram => {
            write_scored(out, "t5", &tokens);
            write_unigram(out, &json.charsmap, json.merges_spaces);
        }
    }
    Ok(tokens)
}

fn write_byte_level(json: &TokenizerJson, tokens: &Tokens, out: &mut Entries) {
    out.push("model", "gpt2");
    if json.pre.is_none() {
        out.notes.push(
            "the pre-tokenizer of tokenizer.json is not one that GGUF has a name for: the file says `default`, \
             and some texts will be cut into other tokens than the model was trained with"
                .to_owned(),
        );
    }
    out.push("pre", json.pre.unwrap_or("default"));
    out.push("tokens", tokens.texts.clone());
    out.push("token_type", type_ids(tokens));
    out.push("merges", json.merge_lines());
}

/// Whether text gets a space in front; `None` leaves it to what readers do with `llama`: it does.
fn space_prefix(
    family: Family,
    settings: Option<&Config>,
    pieces: Option<&SentencePiece>,
    json: Option<&TokenizerJson>,
) -> Result<Option<bool>, Error> {
    if family.is_gemma() {
        return Ok(Some(false));
    }
    if (matches!(family, Family::Llama | Family::Mistral | Family::Mixtral) || family.is_granite())
        && let Some(add) = settings.map(|settings| settings.bool_opt("add_prefix_space")).transpose()?.flatten()
    {
        return Ok(Some(add));
    }
    let adds = match (pieces, json) {
        (Some(pieces), _) => pieces.add_dummy_prefix,
        (None, Some(json)) => json.kind == Kind::ByteLevel || json.adds_space_prefix,
        (None, None) => true,
    };
    Ok((!adds).then_some(false))
}

/// `added_tokens.json`: `{"text": id}`.
fn added_tokens_json(document: &Json) -> Result<Vec<AddedToken>, Error> {
    let bad = || Error::malformed("expected an object of texts and ids", "fetch the file again");
    let tokens = document.as_object().ok_or_else(bad)?.iter();
    tokens
        .map(|(text, id)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(bad)?;
            Ok(AddedToken { id, text: text.clone(), special: false })
        })
        .collect()
}

/// `added_tokens_decoder` in `tokenizer_config.json`: `{"id": {"content": text, "special": bool, …}}`.
fn added_tokens_decoder(settings: &Config) -> Result<Vec<AddedToken>, Error> {
    let Some(decoder) = settings.get("added_tokens_decoder") else { return Ok(Vec::new()) };
    let bad = || Error::bad_key("added_tokens_decoder", "not what it should be", "expected ids with `content`");
    let tokens = decoder.as_object().ok_or_else(bad)?.iter();
    tokens
        .map(|(id, token)| {
            let text = token.get("content").and_then(Json::as_str).ok_or_else(bad)?.to_owned();
            let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
            Ok(AddedToken { id: id.parse().map_err(|_| bad())?, text, special })
        })
        .collect()
}

/// The template of `chat_template.jinja`, which `transformers` prefers, or that of `tokenizer_config.json`. A list of
/// templates gets a key for each.
fn write_chat_template(folder: &Path, settings: Option<&Config>, out: &mut Entries) -> Result<(), Error> {
    let key = "tokenizer.chat_template";
    let bad = |found: &Json| Error::bad_key("chat_template", found, "expected a text, or a list of named ones");
    let in_settings = || settings.and_then(|settings| settings.get("chat_template")).cloned();
    let template = match read_text(&folder.join("chat_template.jinja"))?.map(Json::String).or_else(in_settings) {
        None => {
            let document = read_json(&folder.join("chat_template.json"))?;
            document.and_then(|document| document.get("chat_template").cloned())
        }
        template => template,
    };
    match template {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) => out.entries.push((key.to_owned(), text.into())),
        Some(Json::Array(list)) => {
            let mut names = Vec::new();
            for entry in &list {
                let name = entry.get("name").and_then(Json::as_str).ok_or_else(|| bad(entry))?;
                let text = entry.get("template").and_then(Json::as_str).ok_or_else(|| bad(entry))?;
                let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                if name == "default" {
                    out.entries.push((key.to_owned(), text.into()));
                } else {
                    out.entries.push((format!("{key}.{name}"), text.into()));
                    names.push(name);
                }
            }
            if !names.is_empty() {
                out.entries.push(("tokenizer.chat_templates".to_owned(), names.into()));
            }
        }
        Some(other) => return Err(bad(&other)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_that_nobody_marked_are_known_by_their_looks() {
        for text in ["<pad>", "<|im_end|>", "<unused7>", "<｜begin｜>"] {
            assert!(looks_special(text), "{text}");
        }
        for text in ["<|>", "pad", "<unused", "|>", "<b>", "▁▁"] {
            assert!(!looks_special(text), "{text}");
        }
    }

    fn convert(text: &str, n_vocab: u32) -> (Tokens, Vec<(String, Value)>) {
        let mut out = Entries::default();
        let json = TokenizerJson::parse(text.as_bytes()).unwrap();
        let tokens = from_json(&json, &[], n_vocab, &mut out).unwrap();
        (tokens, out.entries)
    }

    fn entry<'a>(entries: &'a [(String, Value)], key: &str) -> Option<&'a Value> {
        entries.iter().find(|(name, _)| name == &format!("tokenizer.ggml.{key}")).map(|(_, value)| value)
    }

    #[test]
    fn unigram_becomes_t5() {
        let (tokens, entries) = convert(
            r#"{"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="},
            "added_tokens":[{"id":0,"content":"</s>","special":true}],
            "model":{"type":"Unigram","unk_id":1,"vocab":[["</s>",0.0],["<unk>",0.0],["▁a",-1.5],["<0x0A>",-2.0]]}}"#,
            4,
        );
        assert_eq!(tokens.types, [TokenType::Control, TokenType::Unknown, TokenType::Normal, TokenType::Byte]);
        assert_eq!(tokens.scores[2], -1.5);
        assert_eq!(entry(&entries, "model"), Some(&Value::from("t5")));
        assert_eq!(entry(&entries, "precompiled_charsmap"), Some(&Value::Array(Array::U8(vec![0; 4]))));
        assert_eq!(entry(&entries, "remove_extra_whitespaces"), Some(&Value::from(false)));
    }

    #[test]
    fn a_token_found_in_text_has_spaces_where_text_has_them() {
        let mut tokens = Tokens::unused(2);
        tokens.add(&AddedToken { id: 0, text: "▁▁".into(), special: false });
        tokens.add(&AddedToken { id: 1, text: "<▁>".into(), special: true });
        assert_eq!(tokens.texts, ["  ", "<▁>"]);
        assert_eq!(tokens.types, [TokenType::UserDefined, TokenType::Control]);
    }
}
