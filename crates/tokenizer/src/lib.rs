//! Text to token ids and back.
//!
//! This room knows vocabularies: SentencePiece-style merges by score (GGUF `llama`), BPE by a merge list (GGUF `gpt2`
//! and `gemma4`) with the pre-tokenizers that published models use, WordPiece (`bert`), Unigram (`t5`), special tokens,
//! and decoding that never splits a character. It refuses to know files (a [`Vocabulary`] is plain data that the caller fills in), models and prompts
//! (templates are in `hublabio-chat`).
//!
//! ```
//! use hublabio_tokenizer::{EncodeOptions, Tokenizer, Vocabulary, VocabularyKind};
//!
//! let tokens = ["<unk>", "<s>", "</s>", "▁", "h", "i", "hi", "▁hi"].map(str::to_owned).to_vec();
//! let mut vocabulary = Vocabulary::new(VocabularyKind::Spm, tokens);
//! vocabulary.scores = vec![0.0, 0.0, 0.0, -5.0, -4.0, -3.0, -2.0, -1.0];
//! let tokenizer = Tokenizer::new(vocabulary)?;
//!
//! let ids = tokenizer.encode("hi hi", EncodeOptions::default())?;
//! let pieces: Vec<_> = ids.iter().filter_map(|&id| tokenizer.piece(id)).collect();
//! assert_eq!(pieces, ["<s>", "▁hi", "▁hi"]);
//! assert_eq!(tokenizer.decode(&ids)?, b"hi hi");
//! # Ok::<(), hublabio_tokenizer::Error>(())
//! ```
//!
//! Where to go next: [`Tokenizer`] in `tokenizer.rs` is the whole public surface; `merge.rs` is the algorithm that SPM
//! and BPE share; `pre.rs` has the names of pre-tokenizers, `patterns.rs` their patterns as data; `wordpiece.rs` and
//! `unigram.rs` are the other two algorithms; `specials.rs` decides what a special token is.
#![forbid(unsafe_code)]

mod bert_tables;
mod bpe;
mod cache;
mod charsmap;
mod decode;
mod error;
mod merge;
mod pattern;
mod patterns;
mod pre;
mod specials;
mod spm;
mod texts;
mod tokenizer;
mod trie;
mod unicode;
mod unigram;
mod vocabulary;
mod wordpiece;

pub use decode::{DecodeOptions, StreamDecoder, Utf8Stream};
pub use error::Error;
pub use merge::Work;
pub use specials::SpecialIds;
pub use tokenizer::{EncodeOptions, Tokenizer};
pub use vocabulary::{TokenId, TokenType, Vocabulary, VocabularyKind};
