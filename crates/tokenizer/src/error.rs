//! What can go wrong between text and tokens.

use crate::TokenId;

/// Why a tokenizer could not be built, or a text or a list of ids not be translated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The vocabulary lists no token at all.
    #[error("the vocabulary is empty: the model file carries no tokenizer, choose a file that does")]
    EmptyVocabulary,
    /// Two lists of the vocabulary that belong together differ in length.
    #[error("the vocabulary has {tokens} tokens but {found} {list}: the model file is damaged, convert it again")]
    LengthMismatch {
        /// The list that does not fit, in the words of the file ("scores", "token types").
        list: &'static str,
        /// Number of tokens.
        tokens: usize,
        /// Length of the list that does not fit.
        found: usize,
    },
    /// A list that this kind of vocabulary cannot do without is missing.
    #[error("a {kind} vocabulary needs {list}, the file has none: convert the model again")]
    MissingList {
        /// The vocabulary's kind, as the file spells it ("llama", "gpt2").
        kind: &'static str,
        /// What is missing ("scores", "merges").
        list: &'static str,
    },
    /// A score is not a number, so merges have no order.
    #[error("the score of token {id} is not a number: the model file is damaged, convert it again")]
    BadScore {
        /// The token with the bad score.
        id: u32,
    },
    /// An entry of the merge list is not two token texts with one space between them.
    #[error("merge {index} ({text:?}) is not two token texts with a space between them: convert the model again")]
    BadMerge {
        /// Position in the merge list.
        index: usize,
        /// The entry, shortened.
        text: String,
    },
    /// A list is longer than this crate is prepared to index.
    #[error("the vocabulary has {found} {list}, at most {max} are supported")]
    TooMany {
        /// The list that is too long.
        list: &'static str,
        /// Its length.
        found: usize,
        /// The most that is supported.
        max: usize,
    },
    /// The character map of a Unigram vocabulary cannot be used.
    #[error("the vocabulary's character map is damaged: {reason}; convert the model again")]
    BadCharsMap {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The special tokens could not be compiled into a matcher.
    #[error("the special tokens cannot be indexed: {reason}")]
    SpecialTokens {
        /// What the matcher's builder said.
        reason: String,
    },
    /// BOS, EOS or SEP was asked for (by the caller or by the file), and the vocabulary has none.
    #[error("a {role} token was asked for, but the vocabulary names none: turn add_{key} off")]
    MissingSpecial {
        /// "BOS", "EOS" or "SEP".
        role: &'static str,
        /// "bos", "eos" or "sep".
        key: &'static str,
    },
    /// The input is not UTF-8.
    #[error("the text is not UTF-8: byte {offset} starts no valid character, convert the text to UTF-8 first")]
    InvalidUtf8 {
        /// Offset of the first byte that belongs to no valid character.
        offset: usize,
    },
    /// The input is longer than positions can count.
    #[error("the text has {bytes} bytes, at most {max} are supported in one call: split it")]
    TextTooLong {
        /// Length of the text in bytes.
        bytes: usize,
        /// The most that one call takes.
        max: usize,
    },
    /// A piece of text has no token, no byte token and there is no unknown token.
    #[error("the vocabulary has no token for byte 0x{byte:02X} and no unknown token: this text cannot be represented")]
    NoToken {
        /// The first byte without a token.
        byte: u8,
    },
    /// An id that the vocabulary does not have was to be decoded.
    #[error("token id {} is not in the vocabulary, which has {n_tokens} tokens", id.0)]
    UnknownId {
        /// The id.
        id: TokenId,
        /// Size of the vocabulary.
        n_tokens: usize,
    },
}
