//! The tokenizer itself: checks a vocabulary once, then translates in both directions.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use crate::bpe::{Bpe, byte_level_to_bytes};
use crate::cache::WordCache;
use crate::decode::{DecodeOptions, StreamDecoder, clean_spaces};
use crate::merge::{Merger, Work};
use crate::pre::{self, Alphabet};
use crate::specials::{Fragment, Shield, SpecialIds, SpecialMatcher, ends_of_generation, resolve_types, unshield};
use crate::spm::{SPACE_MARK, Spm, byte_of_piece};
use crate::texts::Texts;
use crate::unigram::{Lattice, Unigram};
use crate::vocabulary::{TokenType, Vocabulary, VocabularyKind};
use crate::wordpiece::WordPiece;
use crate::{Error, TokenId};

/// Largest vocabulary and merge list; far above any model's, far below where 32-bit positions end.
const TOKENS_MAX: usize = 1 << 24;
/// Longest text in bytes of one call. SPM's `▁` triples a space, and positions have 32 bits.
const TEXT_BYTES_MAX: usize = 1 << 30;

/// What [`Tokenizer::encode`] adds to a text and recognises in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Start with BOS: `None` does what the model wants, unless the text itself starts with BOS.
    pub add_bos: Option<bool>,
    /// End with EOS, or with SEP where the model has that instead (BERT): `None` does what the model wants.
    pub add_eos: Option<bool>,
    /// Recognise control tokens by their text. For text from a template; a user's words in it go through
    /// [`Tokenizer::shield`] before.
    pub parse_special: bool,
}

impl EncodeOptions {
    /// The text alone: no BOS, no EOS, control tokens are ordinary text.
    pub const fn plain() -> Self {
        Self { add_bos: Some(false), add_eos: Some(false), parse_special: false }
    }

    /// A rendered template: control tokens are recognised, BOS and EOS as the model wants.
    pub const fn template() -> Self {
        Self { add_bos: None, add_eos: None, parse_special: true }
    }
}

/// Text to token ids and back, over one vocabulary. Shared freely between threads.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one switch of the file's own metadata")]
pub struct Tokenizer {
    vocabulary_kind: VocabularyKind,
    tokens: Vec<String>,
    types: Vec<TokenType>,
    /// What each token stands for, in bytes.
    bytes: Texts,
    special: SpecialIds,
    /// Sorted.
    ends: Vec<TokenId>,
    add_bos: bool,
    add_eos: bool,
    add_sep: bool,
    add_space_prefix: bool,
    clean_spaces: bool,
    algorithm: Algorithm,
    /// Matches what is always special, and what is special where control tokens are parsed.
    user_defined: SpecialMatcher,
    all_special: SpecialMatcher,
    shield: Shield,
    warnings: Vec<String>,
    /// Buffers and word cache of the latest call; a concurrent call makes its own.
    scratch: Mutex<Option<Box<Scratch>>>,
}

#[derive(Debug)]
enum Algorithm {
    Spm(Box<Spm>),
    Bpe(Box<Bpe>),
    WordPiece(Box<WordPiece>),
    Unigram(Box<Unigram>),
}

#[derive(Debug, Default)]
struct Scratch {
    merger: Merger,
    cache: WordCache,
    escaped: String,
    lattice: Lattice,
}

/// What a kind, and for BPE a `pre`, implies where the file is silent.
#[derive(Debug, Clone, Copy, Default)]
struct Defaults {
    add_bos: bool,
    add_eos: bool,
    add_sep: bool,
    clean_spaces: bool,
}

impl Tokenizer {
    /// Checks a vocabulary and builds its tables.
    ///
    /// Where the file is silent: `pre` is llama.cpp's "default" (also for names that are not known; see
    /// [`Tokenizer::warnings`]). BOS, EOS, UNK and PAD are `<s>` 1, `</s>` 2, `<unk>` 3 (SPM: 0) and `<pad>` 0 if those
    /// tokens have these very texts; Unigram looks for `<pad>` 0, `</s>` 1, `<unk>` 2 first, WordPiece for `[PAD]` 0,
    /// `[UNK]` 100, `[CLS]` 101 and `[SEP]` 102. BOS is added for SPM, Gemma 4, WordPiece (it is CLS there) and where
    /// `pre` implies it, EOS for Unigram, SEP for WordPiece and where `pre` implies it. SPM and Unigram add a space
    /// prefix, Unigram merges spaces, WordPiece lowercases and strips accents.
    ///
    /// # Errors
    /// Lists that are missing, too long, or of different lengths; scores that are no numbers; merges that are no pairs;
    /// a damaged character map; `add_bos`, `add_eos` or `add_sep` without such a token.
    pub fn new(mut vocabulary: Vocabulary) -> Result<Self, Error> {
        check_lists(&vocabulary)?;
        let mut warnings = Vec::new();
        let special = SpecialIds::resolve(&vocabulary, &mut warnings);
        let types = resolve_types(&vocabulary, &special);
        let ends = ends_of_generation(&vocabulary.tokens, &types, &special);
        let type_of = |id: u32| types[id as usize];

        let pre = match vocabulary.kind {
            VocabularyKind::Bpe => Some(pre_or_default(vocabulary.pre.as_deref(), &mut warnings)),
            VocabularyKind::Gemma4 => Some(&pre::GEMMA4),
            _ => None,
        };
        if pre.is_some_and(|pre| std::ptr::eq(pre, &raw const pre::GEMMA4)) && vocabulary.add_bos == Some(false) {
            warnings.push("the file says that no BOS is added, Gemma's own tokenizer adds one: it is added".to_owned());
            vocabulary.add_bos = special.bos.map(|_| true);
        }
        let form = Form::of(vocabulary.kind, pre.map(|pre| pre.alphabet));
        let mut bytes = Texts::with_capacity(vocabulary.tokens.len());
        for (token, &kind) in vocabulary.tokens.iter().zip(&types) {
            bytes.push(&token_bytes(form, token, kind));
        }
        let takes_prefix = matches!(vocabulary.kind, VocabularyKind::Spm | VocabularyKind::Unigram);
        if vocabulary.add_space_prefix == Some(true) && !takes_prefix {
            let kind = if pre.is_some() { "BPE" } else { "WordPiece" };
            warnings.push(format!("add_space_prefix has no meaning for {kind} and is not applied"));
        }
        let add_space_prefix = takes_prefix && vocabulary.add_space_prefix.unwrap_or(true);
        let (algorithm, defaults) = match vocabulary.kind {
            VocabularyKind::Spm => {
                let spm = Spm::new(&vocabulary.tokens, &vocabulary.scores, type_of, special.unk);
                (Algorithm::Spm(Box::new(spm)), Defaults { add_bos: true, ..Defaults::default() })
            }
            VocabularyKind::WordPiece => {
                let wordpiece = WordPiece::new(&vocabulary, type_of, special.unk);
                let defaults = Defaults { add_bos: true, add_sep: true, clean_spaces: true, add_eos: false };
                (Algorithm::WordPiece(Box::new(wordpiece)), defaults)
            }
            VocabularyKind::Unigram => {
                let unigram = Unigram::new(&vocabulary, type_of, special.unk, add_space_prefix)?;
                (Algorithm::Unigram(Box::new(unigram)), Defaults { add_eos: true, ..Defaults::default() })
            }
            VocabularyKind::Bpe | VocabularyKind::Gemma4 => {
                let pre = pre.expect("both kinds have one");
                let bpe = Bpe::new(&vocabulary.tokens, &bytes, type_of, &vocabulary.merges, pre, special.unk)?;
                warnings.extend(missing_bytes(&bpe));
                let defaults = Defaults {
                    add_bos: pre.add_bos,
                    add_sep: pre.add_sep,
                    clean_spaces: pre.clean_spaces,
                    add_eos: false,
                };
                (Algorithm::Bpe(Box::new(bpe)), defaults)
            }
        };
        wanted(vocabulary.add_bos == Some(true), special.bos, "BOS", "bos")?;
        wanted(vocabulary.add_eos == Some(true), special.eos, "EOS", "eos")?;
        wanted(vocabulary.add_sep == Some(true), special.sep, "SEP", "sep")?;
        let user_defined = SpecialMatcher::new(&vocabulary, &types, |kind| kind == TokenType::UserDefined)?;
        let all_special = SpecialMatcher::new(&vocabulary, &types, |kind| {
            matches!(kind, TokenType::UserDefined | TokenType::Control | TokenType::Unknown)
        })?;
        let shield = Shield::new(&vocabulary, &types)?;
        Ok(Self {
            vocabulary_kind: vocabulary.kind,
            tokens: vocabulary.tokens,
            types,
            bytes,
            special,
            ends,
            add_bos: vocabulary.add_bos.unwrap_or(defaults.add_bos && special.bos.is_some()),
            add_eos: vocabulary.add_eos.unwrap_or(defaults.add_eos && special.eos.is_some()),
            add_sep: vocabulary.add_sep.unwrap_or(defaults.add_sep && special.sep.is_some()),
            add_space_prefix,
            clean_spaces: vocabulary.clean_spaces.unwrap_or(defaults.clean_spaces),
            algorithm,
            user_defined,
            all_special,
            shield,
            warnings,
            scratch: Mutex::new(None),
        })
    }

    /// Translates `text` into token ids.
    ///
    /// User-defined tokens are matched first and always, control tokens only with `parse_special`; of several that
    /// match, the leftmost, of those the longest.
    ///
    /// # Errors
    /// A text over 1 GiB; BOS or EOS asked for where there is none; SPM text that no token can express.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<TokenId>, Error> {
        self.encode_measured(text, options).map(|(ids, _)| ids)
    }

    /// As [`Tokenizer::encode`], for bytes that should be UTF-8.
    ///
    /// # Errors
    /// Also [`Error::InvalidUtf8`], with the offset of the first byte that is not.
    pub fn encode_bytes(&self, text: &[u8], options: EncodeOptions) -> Result<Vec<TokenId>, Error> {
        let text = std::str::from_utf8(text).map_err(|error| Error::InvalidUtf8 { offset: error.valid_up_to() })?;
        self.encode(text, options)
    }

    /// As [`Tokenizer::encode`], and says how much work the merges were.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_measured(&self, text: &str, options: EncodeOptions) -> Result<(Vec<TokenId>, Work), Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TextTooLong { bytes: text.len(), max: TEXT_BYTES_MAX });
        }
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        scratch.merger.work = Work::default();
        let ids = self.encode_with(&mut scratch, text, options);
        let work = scratch.merger.work;
        *self.scratch.lock().unwrap_or_else(PoisonError::into_inner) = Some(scratch);
        Ok((ids?, work))
    }

    fn encode_with(&self, scratch: &mut Scratch, text: &str, options: EncodeOptions) -> Result<Vec<TokenId>, Error> {
        let bos = wanted(options.add_bos.unwrap_or(self.add_bos), self.special.bos, "BOS", "bos")?;
        let (eos, sep) = self.closing(options.add_eos)?;
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        ids.extend(bos);
        let matcher = if options.parse_special { &self.all_special } else { &self.user_defined };
        let mut after_special = true;
        let mut first = true;
        matcher.split(text, |fragment| {
            let first = std::mem::take(&mut first);
            match fragment {
                Fragment::Token(id) => {
                    // A template that writes BOS itself means the same BOS that the model wants.
                    if !(first && options.add_bos.is_none() && bos == Some(id)) {
                        ids.push(id);
                    }
                    after_special = true;
                    Ok(())
                }
                Fragment::Text(fragment) => {
                    let prefix = self.add_space_prefix && after_special;
                    let text = if options.parse_special { unshield(fragment) } else { Cow::Borrowed(fragment) };
                    after_special &= text.is_empty();
                    self.encode_fragment(scratch, &text, prefix && !text.is_empty(), &mut ids)
                }
            }
        })?;
        ids.extend(eos);
        ids.extend(sep);
        Ok(ids)
    }

    /// EOS and SEP as far as they end a text. Where both are one token it is written once.
    fn closing(&self, add: Option<bool>) -> Result<(Option<TokenId>, Option<TokenId>), Error> {
        // Whoever asks for an end gets the one that the model has.
        let instead = self.add_sep || self.special.eos.is_none() && self.special.sep.is_some();
        let add_eos = add.map_or(self.add_eos, |add| add && !instead);
        let add_sep = add.map_or(self.add_sep, |add| add && instead);
        let eos = wanted(add_eos, self.special.eos, "EOS", "eos")?;
        let sep = wanted(add_sep, self.special.sep, "SEP", "sep")?;
        Ok((eos, sep.filter(|_| sep != eos)))
    }

    fn encode_fragment(
        &self,
        scratch: &mut Scratch,
        text: &str,
        space_prefix: bool,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        let Scratch { merger, cache, escaped, lattice } = scratch;
        let result = match &self.algorithm {
            Algorithm::Bpe(bpe) => {
                let marked = bpe.alphabet() == Alphabet::Marked;
                let text = if marked { escape(text, false, escaped) } else { text };
                bpe.encode(text, &self.bytes, merger, cache, ids);
                Ok(())
            }
            Algorithm::Spm(spm) => spm.encode(escape(text, space_prefix, escaped), merger, cache, ids),
            Algorithm::WordPiece(wordpiece) => wordpiece.encode(text, escaped, cache, ids),
            Algorithm::Unigram(unigram) => unigram.encode(text, lattice, cache, ids),
        };
        // A long text's buffer is not kept.
        escaped.clear();
        escaped.shrink_to(1 << 16);
        result
    }

    /// `text` written so that [`Tokenizer::encode`] with `parse_special` sees no control token in it, and otherwise the
    /// same tokens: whoever puts a user's words into a template shields them first, so that they cannot close their own
    /// turn. Borrowed where nothing in the text looks like a control token.
    pub fn shield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.shield.shield(text, &self.user_defined)
    }

    /// As [`Tokenizer::shield`], and no control token comes about either when parts of the text are cut out afterwards
    /// (`<|e/thinknd|>` without `/think`). This hides more of the text from whoever looks for tags in it.
    pub fn shield_cuts(&self, text: &str) -> String {
        self.shield.shield_cuts(&self.shield(text))
    }

    /// A text that holds shielded ones as the model will see it: the inverse of [`Tokenizer::shield`].
    pub fn unshield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        unshield(text)
    }

    /// The bytes that `ids` stand for; the inverse of [`Tokenizer::encode`] with default options, as far as there is one:
    /// WordPiece and Unigram normalize text, and unknown tokens stand for nothing.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for an id outside of the vocabulary.
    pub fn decode(&self, ids: &[TokenId]) -> Result<Vec<u8>, Error> {
        self.decode_with(ids, DecodeOptions::default())
    }

    /// As [`Tokenizer::decode`], with a say in control tokens and the space prefix.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for an id outside of the vocabulary.
    pub fn decode_with(&self, ids: &[TokenId], options: DecodeOptions) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut after_special = true;
        let wordpiece = self.vocabulary_kind == VocabularyKind::WordPiece;
        let has_prefix = self.add_space_prefix || wordpiece;
        for &id in ids {
            let mut bytes = self.bytes_shown(id, options.control_text)?;
            let special =
                matches!(self.types[id.0 as usize], TokenType::Control | TokenType::Unknown | TokenType::UserDefined);
            if after_special && !special && has_prefix && !options.keep_space_prefix {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
            after_special = special;
            out.extend_from_slice(bytes);
        }
        Ok(if options.clean_spaces.unwrap_or(wordpiece && self.clean_spaces) { clean_spaces(&out) } else { out })
    }

    /// Decodes tokens one by one, as a continuation of other text: control tokens leave nothing, spaces stay.
    pub fn stream(&self) -> StreamDecoder<'_> {
        self.stream_with(DecodeOptions { keep_space_prefix: true, ..DecodeOptions::default() })
    }

    /// As [`Tokenizer::stream`], with a say in control tokens. A stream always keeps spaces.
    pub fn stream_with(&self, options: DecodeOptions) -> StreamDecoder<'_> {
        StreamDecoder::new(self, options)
    }

    /// The bytes that a token leaves in a text; a control or unknown token leaves its own text with `control_text`, else none.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for an id outside of the vocabulary.
    pub fn bytes_shown(&self, id: TokenId, control_text: bool) -> Result<&[u8], Error> {
        let kind = self.token_type(id).ok_or(Error::UnknownId { id, n_tokens: self.n_tokens() })?;
        let hidden = matches!(kind, TokenType::Control | TokenType::Unknown) && !control_text;
        Ok(if hidden { &[] } else { self.bytes.get(id.0) })
    }

    /// Number of tokens. Ids are below it.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The algorithm.
    pub fn kind(&self) -> VocabularyKind {
        self.vocabulary_kind
    }

    /// A token's text as the file has it, or `None` outside of the vocabulary.
    pub fn piece(&self, id: TokenId) -> Option<&str> {
        self.tokens.get(id.0 as usize).map(String::as_str)
    }

    /// The bytes that a token stands for (a control token: its text), or `None` outside of the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        ((id.0 as usize) < self.tokens.len()).then(|| self.bytes.get(id.0))
    }

    /// A token's type, or `None` outside of the vocabulary.
    pub fn token_type(&self, id: TokenId) -> Option<TokenType> {
        self.types.get(id.0 as usize).copied()
    }

    /// The id of the special token (control, unknown or user-defined) that is written `text`.
    pub fn special_token(&self, text: &str) -> Option<TokenId> {
        let mut found = None;
        let walk = self.all_special.split(text, |fragment| {
            found = match fragment {
                Fragment::Token(id) if self.piece(id) == Some(text) => Some(id),
                _ => None,
            };
            Ok(())
        });
        walk.ok().and(found)
    }

    /// The special tokens.
    pub fn special_ids(&self) -> SpecialIds {
        self.special
    }

    /// Beginning of sequence.
    pub fn bos(&self) -> Option<TokenId> {
        self.special.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<TokenId> {
        self.special.eos
    }

    /// End of turn, if the file names one.
    pub fn eot(&self) -> Option<TokenId> {
        self.special.eot
    }

    /// Unknown text.
    pub fn unk(&self) -> Option<TokenId> {
        self.special.unk
    }

    /// Padding.
    pub fn pad(&self) -> Option<TokenId> {
        self.special.pad
    }

    /// Whether generation ends at this token: EOS, EOT, EOM, or a control token with a well-known end text.
    pub fn is_end_of_generation(&self, id: TokenId) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// All tokens at which generation ends, in order.
    pub fn ends_of_generation(&self) -> &[TokenId] {
        &self.ends
    }

    /// Whether the model wants BOS before a prompt.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the model wants EOS after a prompt.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether the model wants SEP after a prompt.
    pub fn adds_sep(&self) -> bool {
        self.add_sep
    }

    /// Whether the model's own decoder takes the spaces before punctuation away (see [`DecodeOptions::clean_spaces`]).
    pub fn cleans_spaces(&self) -> bool {
        self.clean_spaces
    }

    /// Whether a space is put before a text.
    pub fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// What the user should be told about this vocabulary, such as a fallback that was taken. Usually empty.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// A special token that is to be added, if it is.
fn wanted(add: bool, id: Option<TokenId>, role: &'static str, key: &'static str) -> Result<Option<TokenId>, Error> {
    if add { id.map(Some).ok_or(Error::MissingSpecial { role, key }) } else { Ok(None) }
}

fn check_lists(vocabulary: &Vocabulary) -> Result<(), Error> {
    let n_tokens = vocabulary.tokens.len();
    if n_tokens == 0 {
        return Err(Error::EmptyVocabulary);
    }
    for (list, found) in [("tokens", n_tokens), ("merges", vocabulary.merges.len())] {
        if found > TOKENS_MAX {
            return Err(Error::TooMany { list, found, max: TOKENS_MAX });
        }
    }
    let (has_scores, has_merges) = (vocabulary.kind.has_scores(), vocabulary.kind.has_merges());
    let kind = vocabulary.kind.gguf_name();
    if has_scores && vocabulary.scores.is_empty() {
        return Err(Error::MissingList { kind, list: "scores" });
    }
    if has_merges && vocabulary.merges.is_empty() {
        return Err(Error::MissingList { kind, list: "merges" });
    }
    for (list, found) in [("scores", vocabulary.scores.len()), ("token types", vocabulary.types.len())] {
        if found != 0 && found != n_tokens {
            return Err(Error::LengthMismatch { list, tokens: n_tokens, found });
        }
    }
    match vocabulary.scores.iter().position(|score| score.is_nan()) {
        Some(id) if has_scores => Err(Error::BadScore { id: id as u32 }),
        _ => Ok(()),
    }
}

fn pre_or_default(name: Option<&str>, warnings: &mut Vec<String>) -> &'static pre::PreTokenizer {
    let found = name.and_then(pre::find);
    if found.is_none() {
        warnings.push(match name {
            None => "the file names no pre-tokenizer: using \"default\", tokens may differ from the model's own".into(),
            Some(name) => {
                format!("unknown pre-tokenizer {name:?}: using \"default\", tokens may differ from the model's own")
            }
        });
    }
    found.unwrap_or(&pre::DEFAULT)
}

fn missing_bytes(bpe: &Bpe) -> Option<String> {
    let missing = bpe.bytes_without_token();
    let first = missing.first()?;
    Some(format!(
        "the vocabulary has no token for {} of the byte values that text has (0x{first:02X} is the first): rare \
         characters lose bytes",
        missing.len(),
    ))
}

/// `text` with `▁` for each space, and one in front if there is a prefix. `escaped` is a buffer.
fn escape<'b>(text: &str, prefix: bool, escaped: &'b mut String) -> &'b str {
    escaped.clear();
    if prefix {
        escaped.push_str(SPACE_MARK);
    }
    for (at, part) in text.split(' ').enumerate() {
        if at > 0 {
            escaped.push_str(SPACE_MARK);
        }
        escaped.push_str(part);
    }
    escaped
}

/// How a file writes the texts of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In GPT-2's byte alphabet.
    ByteLevel,
    /// As they are, with `▁` for a space.
    Marked,
    /// As they are.
    Plain,
}

impl Form {
    fn of(kind: VocabularyKind, alphabet: Option<Alphabet>) -> Self {
        match (kind, alphabet) {
            (_, Some(Alphabet::Bytes)) => Self::ByteLevel,
            (_, Some(Alphabet::Plain)) => Self::Plain,
            _ => Self::Marked,
        }
    }
}

fn token_bytes(form: Form, token: &str, kind: TokenType) -> Vec<u8> {
    match (kind, form) {
        (TokenType::Byte, _) => match byte_of_piece(token) {
            Some(byte) => vec![byte],
            None => token.as_bytes().to_vec(),
        },
        (TokenType::Control | TokenType::Unknown, _) | (TokenType::UserDefined, Form::ByteLevel) | (_, Form::Plain) => {
            token.as_bytes().to_vec()
        }
        (_, Form::Marked) => token.replace(SPACE_MARK, " ").into_bytes(),
        (_, Form::ByteLevel) => byte_level_to_bytes(token),
    }
}
