//! The plain data that a tokenizer is built from. Whoever reads the model file fills it in.

use std::fmt;

/// A token's number: its position in the vocabulary and in the model's embedding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which algorithm turns text into tokens (`tokenizer.ggml.model` in GGUF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VocabularyKind {
    /// SentencePiece-style merges driven by scores, with byte fallback: GGUF `llama`.
    Spm,
    /// Byte-level BPE driven by a list of merges: GGUF `gpt2`.
    Bpe,
}

impl VocabularyKind {
    /// The kind for a GGUF `tokenizer.ggml.model` value, if it is one that this crate implements.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Spm),
            "gpt2" => Some(Self::Bpe),
            _ => None,
        }
    }

    /// The GGUF spelling of this kind.
    pub const fn gguf_name(self) -> &'static str {
        match self {
            Self::Spm => "llama",
            Self::Bpe => "gpt2",
        }
    }
}

/// What a token is for (`tokenizer.ggml.token_type` in GGUF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TokenType {
    /// Ordinary text.
    Normal = 1,
    /// Stands for text that has no token.
    Unknown = 2,
    /// Steers the model (BOS, EOS, turn markers): never made from a user's text.
    Control = 3,
    /// Added by hand: always matched as a whole, before anything else.
    UserDefined = 4,
    /// In the vocabulary, but not to be produced.
    Unused = 5,
    /// One byte, for text that has no token (`<0x0A>`).
    Byte = 6,
}

impl TokenType {
    /// The type for a GGUF `token_type` entry. Unknown numbers count as ordinary text.
    pub const fn from_gguf(value: i32) -> Self {
        match value {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// A vocabulary as plain data, in the terms of GGUF's `tokenizer.ggml.*` keys.
///
/// `None` means "the file does not say"; [`Tokenizer::new`](crate::Tokenizer::new) documents what holds then.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Vocabulary {
    /// The algorithm.
    pub kind: VocabularyKind,
    /// Name of the pre-tokenizer (BPE only): `llama-bpe`, `qwen2`, `gpt-2`, …
    pub pre: Option<String>,
    /// Token texts by id. BPE texts are in the byte-level alphabet, SPM texts write spaces as `▁`.
    pub tokens: Vec<String>,
    /// Merge priority by id, higher merges first. SPM needs it, BPE ignores it.
    pub scores: Vec<f32>,
    /// Token types by id; empty when the file has none.
    pub types: Vec<TokenType>,
    /// BPE merges, best first, each "left right". SPM ignores it.
    pub merges: Vec<String>,
    /// Beginning of sequence.
    pub bos: Option<TokenId>,
    /// End of sequence.
    pub eos: Option<TokenId>,
    /// End of turn.
    pub eot: Option<TokenId>,
    /// End of message.
    pub eom: Option<TokenId>,
    /// Unknown text.
    pub unk: Option<TokenId>,
    /// Padding.
    pub pad: Option<TokenId>,
    /// Whether prompts start with BOS.
    pub add_bos: Option<bool>,
    /// Whether prompts end with EOS.
    pub add_eos: Option<bool>,
    /// Whether SPM puts a space before the text (and before text that follows a special token).
    pub add_space_prefix: Option<bool>,
    /// Special tokens that swallow the white space before them (`lstrip` in tokenizer.json). Not in GGUF.
    pub strip_before: Vec<TokenId>,
    /// Special tokens that swallow the white space after them (`rstrip` in tokenizer.json). Not in GGUF.
    pub strip_after: Vec<TokenId>,
}

impl Vocabulary {
    /// A vocabulary of `kind` with `tokens` and nothing else said.
    pub fn new(kind: VocabularyKind, tokens: Vec<String>) -> Self {
        Self {
            kind,
            pre: None,
            tokens,
            scores: Vec::new(),
            types: Vec::new(),
            merges: Vec::new(),
            bos: None,
            eos: None,
            eot: None,
            eom: None,
            unk: None,
            pad: None,
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
            strip_before: Vec::new(),
            strip_after: Vec::new(),
        }
    }

    /// Marks the special tokens that swallow the white space after them in Phi-3's tokenizer.json: all but `<unk>`,
    /// `<s>` and `<|endoftext|>`. GGUF does not carry this; llama.cpp goes by the model's name, and so may the caller.
    pub fn strip_after_as_phi3(&mut self) {
        let special = |kind| matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        self.strip_after = tokens
            .filter(|(_, (token, kind))| {
                special(**kind) && !["<unk>", "<s>", "<|endoftext|>"].contains(&token.as_str())
            })
            .map(|(id, _)| TokenId(id as u32))
            .collect();
    }
}
