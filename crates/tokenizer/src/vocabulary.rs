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
    /// BPE driven by a list of merges, over bytes unless its `pre` says otherwise: GGUF `gpt2`.
    Bpe,
    /// BPE driven by a list of merges, over characters with `▁` for a space and byte fallback: GGUF `gemma4`.
    Gemma4,
    /// WordPiece, the longest piece first: GGUF `bert`.
    WordPiece,
    /// The most likely pieces by their scores: GGUF `t5`.
    Unigram,
}

impl VocabularyKind {
    /// The kind for a GGUF `tokenizer.ggml.model` value, if it is one that this crate implements.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Spm),
            // The second is `gpt2` with the `pre` of the same name.
            "gpt2" | "whitespace" => Some(Self::Bpe),
            "gemma4" => Some(Self::Gemma4),
            "bert" => Some(Self::WordPiece),
            "t5" => Some(Self::Unigram),
            _ => None,
        }
    }

    /// The GGUF spelling of this kind.
    pub const fn gguf_name(self) -> &'static str {
        match self {
            Self::Spm => "llama",
            Self::Bpe => "gpt2",
            Self::Gemma4 => "gemma4",
            Self::WordPiece => "bert",
            Self::Unigram => "t5",
        }
    }

    /// Whether tokens have scores that decide.
    pub(crate) const fn has_scores(self) -> bool {
        matches!(self, Self::Spm | Self::Unigram)
    }

    /// Whether tokens come of a list of merges.
    pub(crate) const fn has_merges(self) -> bool {
        matches!(self, Self::Bpe | Self::Gemma4)
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
    /// Token texts by id. Byte-level BPE texts are in GPT-2's alphabet; the other kinds write spaces as `▁`, WordPiece
    /// before every piece that begins a word.
    pub tokens: Vec<String>,
    /// SPM: merge priority by id, higher merges first. Unigram: logarithm of a piece's probability. Else ignored.
    pub scores: Vec<f32>,
    /// Token types by id; empty when the file has none.
    pub types: Vec<TokenType>,
    /// BPE merges, best first, each "left right". Other kinds ignore it.
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
    /// Classification: what WordPiece has for BOS.
    pub cls: Option<TokenId>,
    /// Separator: what WordPiece has for EOS.
    pub sep: Option<TokenId>,
    /// Stands for what is to be guessed.
    pub mask: Option<TokenId>,
    /// Whether prompts start with BOS.
    pub add_bos: Option<bool>,
    /// Whether prompts end with EOS.
    pub add_eos: Option<bool>,
    /// Whether prompts end with SEP.
    pub add_sep: Option<bool>,
    /// Whether SPM and Unigram put a space before the text (and before text that follows a special token).
    pub add_space_prefix: Option<bool>,
    /// Whether the model's own decoder takes the spaces before punctuation away. Not in GGUF.
    pub clean_spaces: Option<bool>,
    /// Unigram: whether spaces at both ends go and runs of them become one.
    pub remove_extra_whitespaces: Option<bool>,
    /// Unigram: whether the space that is added goes behind the text. Not in GGUF.
    pub whitespace_as_suffix: Option<bool>,
    /// Unigram: SentencePiece's character map, as the file has it; empty for none.
    pub precompiled_charsmap: Vec<u8>,
    /// WordPiece: whether letters become small ones.
    pub lowercase: Option<bool>,
    /// WordPiece: whether letters lose their accents; as `lowercase` where the file is silent.
    pub strip_accents: Option<bool>,
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
            cls: None,
            sep: None,
            mask: None,
            add_bos: None,
            add_eos: None,
            add_sep: None,
            add_space_prefix: None,
            clean_spaces: None,
            remove_extra_whitespaces: None,
            whitespace_as_suffix: None,
            precompiled_charsmap: Vec::new(),
            lowercase: None,
            strip_accents: None,
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
