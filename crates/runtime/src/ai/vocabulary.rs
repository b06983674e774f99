//! The tokenizer of a GGUF file: `tokenizer.ggml.*` keys → [`Vocabulary`] → [`Tokenizer`].

use hublabio_gguf::{Array, GgufFile, Metadata, Value};
use hublabio_tokenizer::{TokenId, TokenType, Tokenizer, Vocabulary, VocabularyKind};

use crate::error::{Error, Result};

/// Builds the tokenizer that a file describes. Works for vocabulary-only files too.
///
/// # Errors
/// When the file holds none, one of a kind that is not implemented, or a broken one.
pub fn read_tokenizer(file: &GgufFile) -> Result<Tokenizer> {
    let metadata = file.metadata();
    let strings = |key: &str| -> Result<Option<Vec<String>>> { Ok(metadata.str_array(key)?.map(<[String]>::to_vec)) };
    let (tokens, merges) = (strings(TOKENS)?, strings(MERGES)?);
    build(metadata, tokens, merges)
}

/// As [`read_tokenizer`], but takes the tokens and merges out of the file's metadata: the largest vocabularies
/// have half a million strings, and an engine needs them once.
pub(super) fn take_tokenizer(file: &mut GgufFile) -> Result<Tokenizer> {
    let mut strings = |key: &str| match file.metadata_mut().remove(key) {
        Some(Value::Array(Array::String(strings))) => Some(strings),
        // Anything else is put back for `build` to complain about.
        Some(other) => {
            file.metadata_mut().insert(key, other);
            None
        }
        None => None,
    };
    let (tokens, merges) = (strings(TOKENS), strings(MERGES));
    for key in [TOKENS, MERGES] {
        file.metadata().str_array(key)?;
    }
    build(file.metadata(), tokens, merges)
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

fn build(metadata: &Metadata, tokens: Option<Vec<String>>, merges: Option<Vec<String>>) -> Result<Tokenizer> {
    // Converters write `none` for a model without a vocabulary.
    let kind = metadata.str("tokenizer.ggml.model")?.filter(|&kind| kind != "none").ok_or(Error::NoTokenizer)?;
    let kind = VocabularyKind::from_gguf_name(kind).ok_or_else(|| Error::UnknownTokenizer { kind: kind.to_owned() })?;
    let tokens = tokens.ok_or_else(|| Error::IncompleteTokenizer { key: TOKENS.to_owned() })?;
    let mut vocabulary = Vocabulary::new(kind, tokens);
    vocabulary.pre = metadata.str(&key("pre"))?.map(str::to_owned);
    vocabulary.scores = metadata.f32_array(&key("scores"))?.unwrap_or_default().into_owned();
    vocabulary.types =
        metadata.i32_array(&key("token_type"))?.unwrap_or_default().iter().map(|&t| TokenType::from_gguf(t)).collect();
    vocabulary.merges = merges.unwrap_or_default();
    vocabulary.bos = token(metadata, "bos")?;
    vocabulary.eos = token(metadata, "eos")?;
    vocabulary.eot = token(metadata, "eot")?;
    vocabulary.eom = token(metadata, "eom")?;
    vocabulary.unk = token(metadata, "unknown")?;
    vocabulary.pad = token(metadata, "padding")?;
    vocabulary.cls = token(metadata, "cls")?;
    // The key is spelled so.
    vocabulary.sep = token(metadata, "seperator")?;
    vocabulary.mask = token(metadata, "mask")?;
    vocabulary.add_bos = metadata.bool(&key("add_bos_token"))?;
    vocabulary.add_eos = metadata.bool(&key("add_eos_token"))?;
    vocabulary.add_sep = metadata.bool(&key("add_sep_token"))?;
    vocabulary.add_space_prefix = metadata.bool(&key("add_space_prefix"))?;
    vocabulary.remove_extra_whitespaces = metadata.bool(&key("remove_extra_whitespaces"))?;
    vocabulary.lowercase = metadata.bool(&key("normalizer.lowercase"))?;
    vocabulary.strip_accents = metadata.bool(&key("normalizer.strip_accents"))?;
    vocabulary.precompiled_charsmap = charsmap(metadata)?;
    // Phi-3's tokenizer.json strips white space after its special tokens; GGUF cannot say so, and llama.cpp goes by the name too.
    let name = metadata.str("general.name")?.unwrap_or_default().to_ascii_lowercase();
    if name.contains("phi-3") || name.contains("phi3") {
        vocabulary.strip_after_as_phi3();
    }
    Ok(Tokenizer::new(vocabulary)?)
}

/// Bytes, which converters write as either kind of 8-bit integers.
fn charsmap(metadata: &Metadata) -> Result<Vec<u8>> {
    let key = key("precompiled_charsmap");
    Ok(match metadata.get(&key) {
        Some(Value::Array(Array::U8(bytes))) => bytes.clone(),
        Some(Value::Array(Array::I8(bytes))) => bytes.iter().map(|byte| byte.cast_unsigned()).collect(),
        // Anything else is for the reader of integers to complain about, or an odd way to write them.
        _ => {
            let wider = metadata.i32_array(&key)?.unwrap_or_default();
            wider.iter().map(|&byte| byte as u8).collect()
        }
    })
}

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

fn token(metadata: &Metadata, role: &str) -> Result<Option<TokenId>> {
    Ok(metadata.u32(&key(&format!("{role}_token_id")))?.map(TokenId))
}
