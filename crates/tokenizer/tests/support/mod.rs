//! Reading vocabularies and cases for the tests of this crate.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use hublabio_gguf::{GgufFile, Metadata};
use hublabio_tokenizer::{EncodeOptions, TokenId, TokenType, Tokenizer, Vocabulary, VocabularyKind};

/// The folder of vocabularies that is not part of the repository: `HUBLAB_VOCAB_DIR`, else `../shared/vocab` beside
/// the workspace. `None`, said aloud, where it is absent; a failure where `HUBLAB_REQUIRE_VOCAB=1` wants it.
pub fn shared_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("HUBLAB_VOCAB_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vocab"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var("HUBLAB_REQUIRE_VOCAB").is_ok_and(|value| value == "1");
    assert!(!required, "HUBLAB_REQUIRE_VOCAB=1, but {} is not a folder", folder.display());
    // Straight to the stream: the test harness swallows what `eprintln!` writes.
    let _ = writeln!(std::io::stderr(), "skipped: no {} (HUBLAB_VOCAB_DIR names another place)", folder.display());
    None
}

/// Reads the vocabulary of a model file.
pub fn read_gguf(path: &Path) -> Vocabulary {
    read_metadata(GgufFile::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).metadata())
}

fn read_metadata(metadata: &Metadata) -> Vocabulary {
    let model = metadata.str("tokenizer.ggml.model").unwrap().expect("a vocabulary file");
    let tokens = metadata.str_array("tokenizer.ggml.tokens").unwrap().unwrap().to_vec();
    let mut vocabulary = Vocabulary::new(VocabularyKind::from_gguf_name(model).unwrap(), tokens);
    vocabulary.pre = metadata.str("tokenizer.ggml.pre").unwrap().map(str::to_owned);
    vocabulary.scores = metadata.f32_array("tokenizer.ggml.scores").unwrap().unwrap_or_default().to_vec();
    let types = metadata.i32_array("tokenizer.ggml.token_type").unwrap().unwrap_or_default();
    vocabulary.types = types.iter().map(|&value| TokenType::from_gguf(value)).collect();
    vocabulary.merges = metadata.str_array("tokenizer.ggml.merges").unwrap().unwrap_or_default().to_vec();
    let id = |key: &str| metadata.u32(&format!("tokenizer.ggml.{key}_token_id")).unwrap().map(TokenId);
    vocabulary.bos = id("bos");
    vocabulary.eos = id("eos");
    vocabulary.unk = id("unknown");
    vocabulary.pad = id("padding");
    vocabulary.cls = id("cls");
    vocabulary.sep = id("seperator");
    vocabulary.mask = id("mask");
    vocabulary.add_bos = metadata.bool("tokenizer.ggml.add_bos_token").unwrap();
    vocabulary.add_eos = metadata.bool("tokenizer.ggml.add_eos_token").unwrap();
    vocabulary.add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap();
    vocabulary.remove_extra_whitespaces = metadata.bool("tokenizer.ggml.remove_extra_whitespaces").unwrap();
    vocabulary.lowercase = metadata.bool("tokenizer.ggml.normalizer.lowercase").unwrap();
    let charsmap = metadata.i32_array("tokenizer.ggml.precompiled_charsmap").unwrap().unwrap_or_default();
    vocabulary.precompiled_charsmap = charsmap.iter().map(|&byte| byte as u8).collect();
    vocabulary
}

/// The texts of an `.inp` file and the ids of its `.out` file.
pub fn read_cases(inp: &str, out: &str) -> Vec<(String, Vec<TokenId>)> {
    let mut texts: Vec<&str> = inp.split("\n__ggml_vocab_test__\n").collect();
    // The separator also follows the last text.
    assert_eq!(texts.pop(), Some(""));
    let ids: Vec<Vec<TokenId>> =
        out.lines().map(|line| line.split_whitespace().map(|id| TokenId(id.parse().unwrap())).collect()).collect();
    assert_eq!(texts.len(), ids.len(), "as many lines of ids as texts");
    texts.into_iter().map(str::to_owned).zip(ids).collect()
}

/// Every case must give exactly its ids, and decode back to its text where the kind does not normalize.
pub fn check_cases(name: &str, tokenizer: &Tokenizer, cases: &[(String, Vec<TokenId>)]) {
    assert!(cases.len() > 30, "{name} has only {} cases", cases.len());
    for (text, expected) in cases {
        let ids = tokenizer.encode(text, EncodeOptions::plain()).unwrap();
        assert_eq!(&ids, expected, "{name}: {text:?}");
        let bytes = tokenizer.decode(&ids).unwrap();
        if tokenizer.kind() != VocabularyKind::WordPiece {
            assert_eq!(String::from_utf8_lossy(&bytes), *text, "{name}");
        }
    }
}

/// The vocabularies that are committed beside the tests (see `data/vocab/README.md`).
pub const COMMITTED: &[&str] =
    &["gpt-2", "llama-spm", "wordpiece", "wordpiece-cased", "unigram", "unigram-identity", "gemma4"];

/// A committed vocabulary.
pub fn committed(name: &str) -> Vocabulary {
    let packed: &[u8] = match name {
        "wordpiece" => include_bytes!("../data/vocab/wordpiece.gguf.zlib"),
        "wordpiece-cased" => include_bytes!("../data/vocab/wordpiece-cased.gguf.zlib"),
        "unigram" => include_bytes!("../data/vocab/unigram.gguf.zlib"),
        "unigram-identity" => include_bytes!("../data/vocab/unigram-identity.gguf.zlib"),
        "gemma4" => include_bytes!("../data/vocab/gemma4.gguf.zlib"),
        "gpt-2" => include_bytes!("../data/vocab/gpt-2.zlib"),
        "llama-spm" => include_bytes!("../data/vocab/llama-spm.zlib"),
        _ => panic!("no vocabulary {name} is committed"),
    };
    let text = miniz_oxide::inflate::decompress_to_vec_zlib(packed).expect("the file is whole");
    if !matches!(name, "gpt-2" | "llama-spm") {
        return read_metadata(GgufFile::from_vec(text).expect("a sound file").metadata());
    }
    let text = String::from_utf8(text).expect("the file is text");
    if name == "gpt-2" { unpack_gpt2(&text) } else { unpack_llama_spm(&text) }
}

fn unpack_gpt2(text: &str) -> Vocabulary {
    let alphabet = ('!'..='~').chain('¡'..='¬').chain('®'..='\u{143}').map(String::from);
    let merges: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let merged = merges.iter().map(|merge| merge.replace(' ', ""));
    let tokens: Vec<String> = alphabet.chain(merged).chain(["<|endoftext|>".to_owned()]).collect();
    let last = tokens.len() - 1;
    let mut vocabulary = Vocabulary::new(VocabularyKind::Bpe, tokens);
    vocabulary.pre = Some("gpt-2".to_owned());
    vocabulary.merges = merges;
    vocabulary.types = vec![TokenType::Normal; last + 1];
    vocabulary.types[last] = TokenType::Control;
    vocabulary.bos = Some(TokenId(last as u32));
    vocabulary.eos = vocabulary.bos;
    vocabulary
}

fn unpack_llama_spm(text: &str) -> Vocabulary {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut types = vec![TokenType::Unknown, TokenType::Control, TokenType::Control];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    types.resize(tokens.len(), TokenType::Byte);
    let mut scores = vec![0.0; tokens.len()];
    for (at, line) in text.split('\n').enumerate() {
        let (piece, score) = line.split_once('\t').unwrap_or((line, ""));
        tokens.push(piece.to_owned());
        scores.push(if score.is_empty() { -(at as f32) } else { score.parse().expect("a score") });
    }
    types.resize(tokens.len(), TokenType::Normal);
    let mut vocabulary = Vocabulary::new(VocabularyKind::Spm, tokens);
    vocabulary.types = types;
    vocabulary.scores = scores;
    vocabulary.pre = Some("default".to_owned());
    vocabulary.bos = Some(TokenId(1));
    vocabulary.eos = Some(TokenId(2));
    vocabulary.unk = Some(TokenId(0));
    vocabulary.add_bos = Some(true);
    vocabulary.add_eos = Some(false);
    vocabulary
}
