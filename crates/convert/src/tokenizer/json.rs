//! `tokenizer.json`, the format of the `tokenizers` library: BPE and Unigram. WordPiece, which only encoders have, is
//! in `wordpiece.rs`.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{AddedToken, pre};
use crate::error::Error;

pub(super) const BAD_FILE: &str = "this does not follow the format of the `tokenizers` library, fetch the file again";

/// How bytes without a token of their own are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every byte is a character of an alphabet of 256, and merges start from those (GPT-2).
    ByteLevel,
    /// Characters are as they are, spaces are `▁`, and what has no token becomes `<0x00>` … `<0xFF>` (SentencePiece).
    ByteFallback,
    /// The likeliest pieces by their scores (T5).
    Unigram,
}

/// What a file says beside its model: all that is read of it where `tokenizer.model` is the model.
#[derive(Debug)]
pub struct Beside {
    /// Tokens beside the merges.
    pub added: Vec<AddedToken>,
    /// The post-processor, which `specials.rs` reads.
    pub(super) post_processor: Option<Value>,
}

impl Beside {
    /// Reads a file, whatever its model is.
    ///
    /// # Errors
    /// [`Error::Json`], and [`Error::Malformed`] for `added_tokens` that are none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::read(&serde_json::from_slice(bytes).map_err(|cause| Error::Json { cause })?)
    }

    fn read(document: &Value) -> Result<Self, Error> {
        let part = |name: &str| document.get(name).filter(|part| !part.is_null());
        Ok(Self { added: added(part("added_tokens"))?, post_processor: part("post_processor").cloned() })
    }
}

/// What a file says.
#[derive(Debug)]
pub struct TokenizerJson {
    /// How bytes are written.
    pub kind: Kind,
    /// Tokens and their ids, without the added ones.
    pub vocabulary: BTreeMap<String, u32>,
    /// Pairs, the first to be merged first; of BPE only.
    pub merges: Vec<(String, String)>,
    /// Scores by id; of Unigram only.
    pub scores: Vec<f32>,
    /// SentencePiece's character map, where Unigram has one.
    pub charsmap: Vec<u8>,
    /// Whether runs of spaces become one and those at the ends go; of Unigram only.
    pub merges_spaces: bool,
    /// The rest of the file.
    pub beside: Beside,
    /// The token for what has none.
    pub unknown: Option<String>,
    /// The name that GGUF has for the pre-tokenizer, where one is known.
    pub pre: Option<&'static str>,
    /// Whether a space is put before a text.
    pub adds_space_prefix: bool,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl TokenizerJson {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Malformed`] for what is wrong, and for what GGUF cannot say.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let document: Value = serde_json::from_slice(bytes).map_err(|cause| Error::Json { cause })?;
        let part = |name: &str| document.get(name).filter(|part| !part.is_null());
        let model = part("model").ok_or_else(|| Error::malformed("there is no `model`", BAD_FILE))?;
        // The first files had no type; BPE is the one with merges.
        let untyped = if model.get("merges").is_some() { "BPE" } else { "unknown" };
        let model_type = model.get("type").and_then(Value::as_str).unwrap_or(untyped);
        match model_type {
            "BPE" => {}
            "Unigram" => return Self::unigram(&document, model),
            _ => {
                let problem = format!("a tokenizer of the type {model_type}");
                return Err(Error::malformed(
                    problem,
                    "only BPE and Unigram can be converted, and WordPiece for encoders",
                ));
            }
        }
        let steps = pre::steps(part("pre_tokenizer"));
        let byte_level = steps.iter().any(|step| step.kind == "ByteLevel")
            || flattened(part("decoder"), "decoders").iter().any(|step| kind(step) == "ByteLevel");
        let flag = |name: &str| model.get(name).and_then(Value::as_bool).unwrap_or(false);
        let kind = match (byte_level, flag("byte_fallback")) {
            (true, _) => Kind::ByteLevel,
            (false, true) => Kind::ByteFallback,
            (false, false) => {
                let problem = "BPE neither over bytes nor with bytes as a way out";
                return Err(Error::malformed(problem, "GGUF has no tokenizer of this kind"));
            }
        };
        let normalizers = flattened(part("normalizer"), "normalizers");
        let mut notes = Vec::new();
        let text_of = |step: &Value, name: &str| step.get(name).and_then(Value::as_str).map(str::to_owned);
        let harmless = |step: &&Value| match self::kind(step) {
            "NFC" | "Metaspace" => true,
            // What programs do by themselves for a vocabulary in the manner of SentencePiece.
            "Prepend" => kind == Kind::ByteFallback && text_of(step, "prepend").as_deref() == Some("▁"),
            "Replace" => {
                let space = step.get("pattern").and_then(|pattern| text_of(pattern, "String"));
                let mark = text_of(step, "content");
                kind == Kind::ByteFallback && space.as_deref() == Some(" ") && mark.as_deref() == Some("▁")
            }
            _ => false,
        };
        for normalizer in normalizers.iter().filter(|step| !harmless(step)).map(|step| self::kind(step)) {
            notes.push(format!(
                "GGUF has no place for the normalizer {normalizer} of tokenizer.json: text is not normalized"
            ));
        }
        for ending in ["end_of_word_suffix", "continuing_subword_prefix"] {
            if model.get(ending).and_then(Value::as_str).is_some_and(|text| !text.is_empty()) {
                let problem = format!("BPE with {ending}");
                return Err(Error::malformed(problem, "GGUF has no tokenizer of this kind"));
            }
        }
        let prepends = normalizers.iter().any(|step| self::kind(step) == "Prepend");
        let metaspace = |step: &&pre::Step<'_>| step.kind == "Metaspace";
        Ok(Self {
            kind,
            vocabulary: vocabulary(model)?,
            merges: merges(model)?,
            scores: Vec::new(),
            charsmap: Vec::new(),
            merges_spaces: false,
            beside: Beside::read(&document)?,
            unknown: model.get("unk_token").and_then(Value::as_str).map(str::to_owned),
            pre: pre::name(&steps, flag("ignore_merges")),
            adds_space_prefix: prepends || steps.iter().find(metaspace).is_some_and(pre::Step::prepends),
            notes,
        })
    }

    /// T5's and XLM-R's: SentencePiece's unigram model, with its character map as the normalizer `Precompiled`.
    fn unigram(document: &Value, model: &Value) -> Result<Self, Error> {
        let part = |name: &str| document.get(name).filter(|part| !part.is_null());
        let (mut charsmap, mut merges_spaces) = (Vec::new(), false);
        let mut notes = Vec::new();
        for step in flattened(part("normalizer"), "normalizers") {
            let text_of = |name: &str| step.get(name).and_then(Value::as_str);
            let regex = step.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
            match kind(step) {
                "Precompiled" => {
                    let text = text_of("precompiled_charsmap").unwrap_or_default();
                    charsmap = base64(text)
                        .ok_or_else(|| Error::malformed("`precompiled_charsmap` is not base64", BAD_FILE))?;
                }
                "Replace" if regex == Some(" {2,}") => merges_spaces = true,
                "Strip" => {}
                other => notes.push(format!(
                    "GGUF has no place for the normalizer {other} of tokenizer.json: text is not normalized by it"
                )),
            }
        }
        let steps = pre::steps(part("pre_tokenizer"));
        // Splitting at white space also drops it, which leaves single spaces.
        merges_spaces |= steps.iter().any(|step| step.kind == "WhitespaceSplit");
        let metaspace = steps.iter().find(|step| step.kind == "Metaspace");
        let list = model.get("vocab").and_then(Value::as_array);
        let list = list.ok_or_else(|| Error::malformed("there is no `model.vocab`", BAD_FILE))?;
        let mut vocabulary = BTreeMap::new();
        let mut scores = Vec::with_capacity(list.len());
        for (id, entry) in (0..).zip(list) {
            let bad = || Error::malformed(format!("piece {id} is not a text and a score"), BAD_FILE);
            let text = entry.get(0).and_then(Value::as_str).ok_or_else(bad)?;
            let score = entry.get(1).and_then(Value::as_f64).ok_or_else(bad)?;
            if let Some(other) = vocabulary.insert(text.to_owned(), id) {
                return Err(Error::malformed(format!("pieces {other} and {id} are both {text:?}"), BAD_FILE));
            }
            scores.push(score as f32);
        }
        let unknown = model.get("unk_id").and_then(Value::as_u64).and_then(|id| list.get(usize::try_from(id).ok()?));
        Ok(Self {
            kind: Kind::Unigram,
            vocabulary,
            merges: Vec::new(),
            scores,
            charsmap,
            merges_spaces,
            beside: Beside::read(document)?,
            unknown: unknown.and_then(|entry| entry.get(0)?.as_str()).map(str::to_owned),
            pre: Some("default"),
            adds_space_prefix: metaspace.is_some_and(pre::Step::prepends),
            notes,
        })
    }

    /// The merges as GGUF has them: both parts with a space between. A space in a part, which only files that no
    /// byte-level tokenizer made can have, is written as its byte-level letter.
    pub fn merge_lines(&self) -> Vec<String> {
        let part = |text: &str| text.replace(' ', "Ġ");
        self.merges.iter().map(|(left, right)| format!("{} {}", part(left), part(right))).collect()
    }

    /// Scores from the merges: the earlier a pair is merged, the higher the score of what comes of it. If the merges
    /// were made from a SentencePiece model, its scores have the same order, and merging by score does what the merges
    /// say. Merges that were learned elsewhere can differ: GGUF's `llama` joins any two pieces that make a token, not
    /// only the pairs that are listed.
    pub fn merge_scores(&self) -> HashMap<String, f32> {
        let mut scores = HashMap::with_capacity(self.merges.len());
        for (rank, (left, right)) in self.merges.iter().enumerate() {
            // Subtracted, as the negative of zero is another zero.
            scores.entry(format!("{left}{right}")).or_insert(0.0 - rank as f32);
        }
        scores
    }
}

/// `model.vocab`: texts and their ids, no id twice.
pub(super) fn vocabulary(model: &Value) -> Result<BTreeMap<String, u32>, Error> {
    let vocabulary = model.get("vocab").and_then(Value::as_object);
    let vocabulary = vocabulary.ok_or_else(|| Error::malformed("there is no `model.vocab`", BAD_FILE))?;
    let mut owners: HashMap<u32, &str> = HashMap::with_capacity(vocabulary.len());
    let mut tokens = BTreeMap::new();
    for (text, id) in vocabulary {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| Error::malformed(format!("token {text:?} has no id"), BAD_FILE))?;
        if let Some(other) = owners.insert(id, text) {
            return Err(Error::malformed(format!("id {id} stands for {other:?} and {text:?}"), BAD_FILE));
        }
        tokens.insert(text.clone(), id);
    }
    Ok(tokens)
}

/// Bytes written in the usual alphabet of 64 letters; `None` if a letter is none of them.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

/// Merges come as `"left right"`, or as `["left", "right"]`.
fn merges(model: &Value) -> Result<Vec<(String, String)>, Error> {
    let bad = |entry: &Value| Error::malformed(format!("the merge {entry} is no pair"), BAD_FILE);
    let list = model.get("merges").and_then(Value::as_array);
    let list = list.ok_or_else(|| Error::malformed("there is no `model.merges`", BAD_FILE))?;
    list.iter()
        .map(|entry| match entry {
            Value::String(line) => {
                let (left, right) = line.split_once(' ').ok_or_else(|| bad(entry))?;
                Ok((left.to_owned(), right.to_owned()))
            }
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Ok((left.clone(), right.clone())),
                _ => Err(bad(entry)),
            },
            _ => Err(bad(entry)),
        })
        .collect()
}

fn added(tokens: Option<&Value>) -> Result<Vec<AddedToken>, Error> {
    let Some(tokens) = tokens else { return Ok(Vec::new()) };
    let bad = || Error::malformed("`added_tokens` is not a list of tokens with `id` and `content`", BAD_FILE);
    let token = |entry: &Value| {
        let id = entry.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).ok_or_else(bad)?;
        let text = entry.get("content").and_then(Value::as_str).ok_or_else(bad)?.to_owned();
        Ok(AddedToken { id, text, special: entry.get("special").and_then(Value::as_bool).unwrap_or(false) })
    };
    tokens.as_array().ok_or_else(bad)?.iter().map(token).collect()
}

/// The type of a step of any of the pipelines.
pub(super) fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or("unknown")
}

/// The steps of a pipeline: a `Sequence` (possibly of sequences) holds them under `list`, anything else is one step.
pub(super) fn flattened<'a>(step: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    let Some(step) = step else { return Vec::new() };
    match step.get(list).and_then(Value::as_array) {
        Some(steps) if kind(step) == "Sequence" => steps.iter().flat_map(|step| flattened(Some(step), list)).collect(),
        _ => vec![step],
    }
}

/// Whether a token is `<0x00>` … `<0xFF>`.
pub(super) fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let error = TokenizerJson::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }

    #[test]
    fn merges_are_read_in_both_spellings() {
        for merges in [r#"["a b", "ab c"]"#, r#"[["a", "b"], ["ab", "c"]]"#] {
            let text = format!(
                r#"{{"model":{{"type":"BPE","byte_fallback":true,"vocab":{{"a":0,"ab":1}},"merges":{merges}}},
                "added_tokens":[{{"id":7,"content":"<s>","special":true}}]}}"#
            );
            let tokenizer = TokenizerJson::parse(text.as_bytes()).unwrap();
            assert_eq!(tokenizer.kind, Kind::ByteFallback);
            assert_eq!(tokenizer.merge_lines(), ["a b", "ab c"]);
            assert_eq!(tokenizer.merge_scores()["ab"], 0.0);
            assert_eq!(tokenizer.merge_scores()["abc"], -1.0);
            assert_eq!(tokenizer.beside.added, [AddedToken { id: 7, text: "<s>".into(), special: true }]);
        }
    }

    #[test]
    fn a_space_in_a_merge_is_written_as_its_byte_level_letter() {
        let text = r#"{"model":{"vocab":{},"merges":[["a b","c"]],"byte_fallback":true}}"#;
        assert_eq!(TokenizerJson::parse(text.as_bytes()).unwrap().merge_lines(), ["aĠb c"]);
    }

    #[test]
    fn what_is_no_known_model_is_refused_by_name() {
        refused("", "not valid JSON");
        refused("[]", "no `model`");
        refused(r#"{"model":null}"#, "no `model`");
        refused(r#"{"model":{"type":"WordLevel"}}"#, "WordLevel");
        refused(r#"{"model":{"type":"Unigram"}}"#, "no `model.vocab`");
        refused(r#"{"model":{"type":"Unigram","vocab":[["a"]]}}"#, "piece 0");
        refused(r#"{"model":{"type":"Unigram","vocab":[["a",0],["a",1]]}}"#, "both");
        let normalizer = r#""normalizer":{"type":"Precompiled","precompiled_charsmap":"?"}"#;
        refused(&format!(r#"{{{normalizer},"model":{{"type":"Unigram","vocab":[]}}}}"#), "base64");
        refused(r#"{"model":{"type":"WordPiece","vocab":{}}}"#, "WordPiece for encoders");
        refused(r#"{"model":{"type":"BPE","vocab":{},"merges":[]}}"#, "neither over bytes");
        let bpe = |rest: &str| format!(r#"{{"model":{{"type":"BPE","byte_fallback":true,{rest}}}}}"#);
        refused(&bpe(r#""merges":[]"#), "no `model.vocab`");
        refused(&bpe(r#""vocab":{}"#), "no `model.merges`");
        refused(&bpe(r#""vocab":{"a":0,"b":0},"merges":[]"#), "id 0 stands for");
        refused(&bpe(r#""vocab":{"a":-1},"merges":[]"#), "has no id");
        refused(&bpe(r#""vocab":{},"merges":["ab"]"#), "is no pair");
        refused(&bpe(r#""vocab":{},"merges":[["a"]]"#), "is no pair");
        refused(&bpe(r#""vocab":{},"merges":[1]"#), "is no pair");
        refused(&bpe(r#""vocab":{},"merges":[],"end_of_word_suffix":"</w>""#), "end_of_word_suffix");
        refused(r#"{"model":{"byte_fallback":true,"vocab":{},"merges":[]},"added_tokens":[{"id":1}]}"#, "added_tokens");
    }

    #[test]
    fn unigram_is_read() {
        let text = r#"{"normalizer":{"type":"Sequence","normalizers":[
            {"type":"Precompiled","precompiled_charsmap":"AQIDBA=="},
            {"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}]},
            "pre_tokenizer":{"type":"Metaspace","prepend_scheme":"always"},
            "model":{"type":"Unigram","unk_id":1,"vocab":[["<pad>",0.0],["<unk>",0.0],["a",-1.5]]}}"#;
        let tokenizer = TokenizerJson::parse(text.as_bytes()).unwrap();
        assert_eq!((tokenizer.kind, tokenizer.charsmap.as_slice()), (Kind::Unigram, &[1, 2, 3, 4][..]));
        assert_eq!((tokenizer.scores[2], tokenizer.unknown.as_deref()), (-1.5, Some("<unk>")));
        assert!(tokenizer.adds_space_prefix && tokenizer.merges_spaces && tokenizer.notes.is_empty());
    }

    #[test]
    fn a_replacement_is_silent_only_if_programs_do_it_themselves() {
        let notes = |pattern: &str, content: &str, model: &str| {
            let text = format!(
                r#"{{"normalizer":{{"type":"Replace","pattern":{pattern},"content":"{content}"}},{model}
                "model":{{"vocab":{{}},"merges":[],"byte_fallback":true}}}}"#
            );
            TokenizerJson::parse(text.as_bytes()).unwrap().notes
        };
        let byte_level = r#""decoder":{"type":"ByteLevel"},"#;
        assert!(notes(r#"{"String":" "}"#, "▁", "").is_empty());
        for (pattern, content, model) in
            [(r#"{"String":" "}"#, "_", ""), (r#"{"Regex":" "}"#, "▁", ""), (r#"{"String":" "}"#, "▁", byte_level)]
        {
            assert!(notes(pattern, content, model)[0].contains("normalizer Replace"), "{pattern} {content}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_by_the_parser() {
        let deep = format!(r#"{{"model":{{}},"decoder":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        refused(&deep, "not valid JSON");
    }
}
