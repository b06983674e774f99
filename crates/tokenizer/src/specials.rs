//! Special tokens: which ids they have, which end a generation, and where they stand in a text.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::spm::{SPACE_MARK, byte_of_piece};
use crate::vocabulary::{TokenType, Vocabulary, VocabularyKind};
use crate::{Error, TokenId};

/// The special tokens of a vocabulary after defaults and checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialIds {
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
    /// Separator.
    pub sep: Option<TokenId>,
    /// Stands for what is to be guessed.
    pub mask: Option<TokenId>,
}

impl SpecialIds {
    /// The ids that the file names, or the conventional ones where the token there has the conventional text.
    pub fn resolve(vocabulary: &Vocabulary, warnings: &mut Vec<String>) -> Self {
        let tokens = &vocabulary.tokens;
        let mut named = |role: &str, id: Option<TokenId>| {
            let id = id?;
            let in_range = (id.0 as usize) < tokens.len();
            if !in_range {
                warnings.push(format!(
                    "the {role} token is {id}, but the vocabulary has {} tokens: taken as not named",
                    tokens.len()
                ));
            }
            in_range.then_some(id)
        };
        let bos = named("BOS", vocabulary.bos);
        let eos = named("EOS", vocabulary.eos);
        let unk = named("UNK", vocabulary.unk);
        let pad = named("PAD", vocabulary.pad);
        let (eot, eom) = (named("EOT", vocabulary.eot), named("EOM", vocabulary.eom));
        let (cls, sep, mask) =
            (named("CLS", vocabulary.cls), named("SEP", vocabulary.sep), named("MASK", vocabulary.mask));
        let conventional = |id: u32, text: &str| (tokens.get(id as usize)? == text).then_some(TokenId(id));
        let at = |places: &[(u32, &str)]| places.iter().find_map(|&(id, text)| conventional(id, text));
        match vocabulary.kind {
            // BERT's own numbers.
            VocabularyKind::WordPiece => Self {
                bos: bos.or(cls).or_else(|| at(&[(101, "[CLS]")])),
                eos,
                eot,
                eom,
                unk: unk.or_else(|| at(&[(100, "[UNK]")])),
                pad: pad.or_else(|| at(&[(0, "[PAD]")])),
                sep: sep.or_else(|| at(&[(102, "[SEP]")])),
                mask: mask.or_else(|| at(&[(103, "[MASK]")])),
            },
            VocabularyKind::Unigram => Self {
                bos,
                eos: eos.or_else(|| at(&[(1, "</s>"), (2, "</s>")])),
                eot,
                eom,
                unk: unk.or_else(|| at(&[(2, "<unk>"), (0, "<unk>"), (3, "<unk>")])),
                pad: pad.or_else(|| at(&[(0, "<pad>"), (1, "<pad>")])),
                sep,
                mask,
            },
            kind => Self {
                bos: bos.or_else(|| at(&[(1, "<s>")])),
                eos: eos.or_else(|| at(&[(2, "</s>")])),
                eot,
                eom,
                unk: unk
                    .or_else(|| if kind == VocabularyKind::Spm { at(&[(0, "<unk>")]) } else { None })
                    .or_else(|| at(&[(3, "<unk>")])),
                pad: pad.or_else(|| at(&[(0, "<pad>")])),
                sep,
                mask,
            },
        }
    }

    fn contains(&self, id: TokenId) -> bool {
        [self.bos, self.eos, self.eot, self.eom, self.pad, self.sep, self.mask].contains(&Some(id))
    }
}

/// Texts of tokens at which generation ends in the models that have them (the list is llama.cpp's).
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<turn|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<eos>",
    "[e~[",
    // Marks between files in code models: what follows is another document.
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Every token's type. Files are not always right about the tokens that end a generation: where one of those is listed
/// as ordinary or user-defined text, it is a control token all the same, so that no text can contain it.
pub fn resolve_types(vocabulary: &Vocabulary, ids: &SpecialIds) -> Vec<TokenType> {
    let mut types = if vocabulary.types.is_empty() { guess_types(vocabulary, ids) } else { vocabulary.types.clone() };
    for (token, kind) in vocabulary.tokens.iter().zip(&mut types) {
        let mistaken = match kind {
            TokenType::UserDefined => END_TEXTS.contains(&token.as_str()),
            // Ordinary words can look like `</s>`; nothing but a marker looks like `<|…|>`.
            TokenType::Normal => token.starts_with("<|") && END_TEXTS.contains(&token.as_str()),
            _ => false,
        };
        if mistaken {
            *kind = TokenType::Control;
        }
    }
    types
}

/// Types for a file that lists none.
fn guess_types(vocabulary: &Vocabulary, ids: &SpecialIds) -> Vec<TokenType> {
    let with_bytes = !matches!(vocabulary.kind, VocabularyKind::Bpe | VocabularyKind::WordPiece);
    let guess = |(id, token): (usize, &String)| {
        let id = TokenId(id as u32);
        // A file may name an ordinary token, such as a line end, as its padding.
        let looks_special = token.starts_with(['<', '[']);
        if ids.unk == Some(id) {
            TokenType::Unknown
        } else if looks_special && ids.contains(id) {
            TokenType::Control
        } else if with_bytes && byte_of_piece(token).is_some() {
            TokenType::Byte
        } else {
            TokenType::Normal
        }
    };
    vocabulary.tokens.iter().enumerate().map(guess).collect()
}

/// Whether each token ends a generation: EOS, EOT, EOM, and control tokens with a well-known end text.
pub fn ends_of_generation(tokens: &[String], types: &[TokenType], ids: &SpecialIds) -> Vec<TokenId> {
    let ends = |(id, (token, &kind)): (usize, (&String, &TokenType))| {
        let id = TokenId(id as u32);
        let named = [ids.eos, ids.eot, ids.eom].contains(&Some(id));
        (named || kind == TokenType::Control && END_TEXTS.contains(&token.as_str())).then_some(id)
    };
    let mut found: Vec<TokenId> = tokens.iter().zip(types).enumerate().filter_map(ends).collect();

    // The harmony format closes each message of an answer with <|end|>; the answer itself ends with another token.
    let has = |text: &str| found.iter().any(|id| tokens[id.0 as usize] == text);
    let harmony = has("<|return|>") && has("<|call|>") || has("<|calls|>") && has("<|flush|>");
    if harmony {
        found.retain(|&id| tokens[id.0 as usize] != "<|end|>" || [ids.eos, ids.eot].contains(&Some(id)));
    }
    found
}

/// A stretch of text between special tokens, or one special token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment<'t> {
    /// Ordinary text, never empty.
    Text(&'t str),
    /// A special token.
    Token(TokenId),
}

/// Finds special tokens in a text: the leftmost first, the longest where several start together.
#[derive(Debug)]
pub struct SpecialMatcher {
    automaton: Option<AhoCorasick>,
    /// Token of each pattern.
    ids: Vec<TokenId>,
    strip_before: Vec<TokenId>,
    strip_after: Vec<TokenId>,
}

impl SpecialMatcher {
    /// A matcher for the tokens whose type `wanted` accepts.
    pub fn new(
        vocabulary: &Vocabulary,
        types: &[TokenType],
        wanted: impl Fn(TokenType) -> bool,
    ) -> Result<Self, Error> {
        let (patterns, ids) = patterns(vocabulary, types, wanted);
        let build = || {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&patterns)
                .map_err(|error| Error::SpecialTokens { reason: error.to_string() })
        };
        let automaton = if patterns.is_empty() { None } else { Some(build()?) };
        let sorted = |list: &[TokenId]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        Ok(Self {
            automaton,
            ids,
            strip_before: sorted(&vocabulary.strip_before),
            strip_after: sorted(&vocabulary.strip_after),
        })
    }

    /// Where special tokens stand in `text`.
    fn find<'s>(&'s self, text: &'s str) -> impl Iterator<Item = aho_corasick::Match> + 's {
        self.automaton.iter().flat_map(move |automaton| automaton.find_iter(text))
    }

    /// Cuts `text` into fragments, in order.
    ///
    /// # Errors
    /// The first error that `each` returns ends the walk.
    pub fn split<'t>(
        &self,
        text: &'t str,
        mut each: impl FnMut(Fragment<'t>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut pos = 0;
        for found in self.find(text) {
            let id = self.ids[found.pattern().as_usize()];
            // A token of white space may have been swallowed by the one before it.
            if found.start() < pos {
                continue;
            }
            let mut before = &text[pos..found.start()];
            if self.strip_before.binary_search(&id).is_ok() {
                before = before.trim_end();
            }
            if !before.is_empty() {
                each(Fragment::Text(before))?;
            }
            each(Fragment::Token(id))?;
            pos = found.end();
            if self.strip_after.binary_search(&id).is_ok() {
                pos = text.len() - text[pos..].trim_start().len();
            }
        }
        let rest = &text[pos..];
        if rest.is_empty() { Ok(()) } else { each(Fragment::Text(rest)) }
    }
}

/// The texts by which tokens of the wanted types are recognised, and the token of each.
fn patterns(
    vocabulary: &Vocabulary,
    types: &[TokenType],
    wanted: impl Fn(TokenType) -> bool,
) -> (Vec<String>, Vec<TokenId>) {
    let mut patterns = Vec::new();
    let mut ids = Vec::new();
    let mut tokens: Vec<_> = vocabulary.tokens.iter().zip(types).enumerate().collect();
    // Of two tokens with one text the matcher takes the first: a user-defined one, since those are always matched.
    tokens.sort_by_key(|(_, (_, kind))| **kind != TokenType::UserDefined);
    for (id, (token, &kind)) in tokens {
        // A marker of one character could not be kept out of a user's text without losing the character.
        let recognisable = match kind {
            TokenType::UserDefined => !token.is_empty(),
            _ => token.chars().nth(1).is_some(),
        };
        if !recognisable || !wanted(kind) {
            continue;
        }
        patterns.push(token.clone());
        ids.push(TokenId(id as u32));
        // Converters differ in whether they spell the spaces of such a piece out.
        let marked = !matches!(vocabulary.kind, VocabularyKind::Bpe | VocabularyKind::WordPiece);
        if marked && token.contains(SPACE_MARK) {
            patterns.push(token.replace(SPACE_MARK, " "));
            ids.push(TokenId(id as u32));
        }
    }
    (patterns, ids)
}

/// A noncharacter, which no text that is meant for others contains; two stand for itself.
const GUARD: &str = "\u{FDD0}";

/// Writes text so that no control token is found in it until [`unshield`] takes the guards out again.
#[derive(Debug)]
pub struct Shield {
    /// Every place where a control token or a guard could be seen, overlapping ones too.
    dangers: AhoCorasick,
    /// What control tokens begin with, each once.
    starts: Vec<char>,
}

impl Shield {
    /// A shield against the control and unknown tokens of a vocabulary.
    pub fn new(vocabulary: &Vocabulary, types: &[TokenType]) -> Result<Self, Error> {
        let control = |kind| matches!(kind, TokenType::Control | TokenType::Unknown);
        let (mut patterns, _) = patterns(vocabulary, types, control);
        let mut starts: Vec<char> = patterns.iter().filter_map(|pattern| pattern.chars().next()).collect();
        starts.sort_unstable();
        starts.dedup();
        patterns.push(GUARD.to_owned());
        let dangers = AhoCorasick::new(patterns).map_err(|error| Error::SpecialTokens { reason: error.to_string() })?;
        Ok(Self { dangers, starts })
    }

    /// A shielded text with a guard behind every character that a control token could begin with, so that none comes
    /// about when something is cut out of the text either.
    pub fn shield_cuts(&self, shielded: &str) -> String {
        let mut out = String::with_capacity(shielded.len() + 16);
        let mut chars = shielded.chars().peekable();
        while let Some(c) = chars.next() {
            out.push(c);
            if self.starts.binary_search(&c).is_ok() && chars.peek() != Some(&'\u{FDD0}') {
                out.push_str(GUARD);
            }
        }
        out
    }

    /// `text` with a guard inside whatever looks like a control token, and guards doubled. User-defined tokens, which
    /// `user_defined` finds, stay whole: a control token that lies inside of one is not seen anyway.
    pub fn shield<'t>(&self, text: &'t str, user_defined: &SpecialMatcher) -> Cow<'t, str> {
        let mut guards: Vec<usize> = Vec::new();
        let mut whole = user_defined.find(text).peekable();
        // Overlapping matches come in the order of their ends; the walk over `whole` needs that of their starts.
        let mut dangers: Vec<_> = self.dangers.find_overlapping_iter(text).map(|found| found.range()).collect();
        if dangers.is_empty() {
            return Cow::Borrowed(text);
        }
        dangers.sort_unstable_by_key(|range| range.start);
        for danger in dangers {
            while whole.next_if(|found| found.end() <= danger.start).is_some() {}
            let first_end = danger.start + text[danger.start..].chars().next().map_or(0, char::len_utf8);
            // The guard goes behind the first character, or to the nearest edge of a user-defined token around there.
            let place = match whole.peek() {
                Some(found) if found.start() < first_end && first_end < found.end() => found.end(),
                _ => first_end,
            };
            let is_guard = &text[danger.clone()] == GUARD;
            if place < danger.end || is_guard && place == danger.end {
                guards.push(place);
            }
        }
        guards.sort_unstable();
        guards.dedup();
        let mut out = String::with_capacity(text.len() + guards.len() * GUARD.len());
        let mut pos = 0;
        for guard in guards {
            out.push_str(&text[pos..guard]);
            out.push_str(GUARD);
            pos = guard;
        }
        out.push_str(&text[pos..]);
        Cow::Owned(out)
    }
}

/// The text that was shielded: guards go, doubled guards become one.
pub fn unshield(text: &str) -> Cow<'_, str> {
    if !text.contains(GUARD) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{FDD0}' || chars.next_if_eq(&c).is_some() {
            out.push(c);
        }
    }
    Cow::Owned(out)
}
