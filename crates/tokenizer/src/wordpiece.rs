//! WordPiece (Schuster and Nakajima 2012; as BERT uses it, Devlin et al. 2019, arXiv:1810.04805): words are cleaned and
//! cut from left to right into the longest pieces there are.
//!
//! GGUF writes a piece that begins a word with `▁` and one that goes on without BERT's `##`. The reference is the
//! `BertNormalizer`, `BertPreTokenizer` and `WordPiece` of PyPI `tokenizers`, with its Unicode tables. (llama.cpp has no
//! longest word, and newer tables.)

use unicode_normalization::UnicodeNormalization as _;

use crate::bert_tables::{ACCENTS, IDEOGRAPHS, PUNCTUATION, REMOVED};
use crate::cache::WordCache;
use crate::spm::SPACE_MARK;
use crate::trie::Trie;
use crate::vocabulary::{TokenType, Vocabulary};
use crate::{Error, TokenId};

/// Longer words are unknown, in characters: `max_input_chars_per_word` of every published BERT.
const WORD_CHARS_MAX: usize = 100;

/// Characters with a decomposition that came to Unicode later than to the reference's tables.
#[rustfmt::skip]
const NOT_DECOMPOSED: &[char] = &[
    '\u{105C9}', '\u{105E4}', '\u{11383}', '\u{11385}', '\u{1138E}', '\u{11391}', '\u{113C5}', '\u{113C7}',
    '\u{113C8}', '\u{11938}', '\u{16121}', '\u{16122}', '\u{16123}', '\u{16124}', '\u{16125}', '\u{16126}',
    '\u{16127}', '\u{16128}', '\u{16D68}', '\u{16D69}', '\u{16D6A}',
];

/// WordPiece over one vocabulary.
#[derive(Debug)]
pub struct WordPiece {
    /// Pieces that begin a word, without their mark.
    beginnings: Trie,
    /// Pieces that go on.
    continuations: Trie,
    unk: Option<TokenId>,
    lowercase: bool,
    strip_accents: bool,
}

impl WordPiece {
    /// The pieces are the vocabulary's tokens of ordinary types.
    pub fn new(vocabulary: &Vocabulary, type_of: impl Fn(u32) -> TokenType, unk: Option<TokenId>) -> Self {
        let is_piece = |&(id, _): &(u32, _)| {
            matches!(type_of(id), TokenType::Normal | TokenType::UserDefined) && Some(TokenId(id)) != unk
        };
        let pieces = || (0..).zip(&vocabulary.tokens).filter(is_piece);
        let beginnings = pieces().filter_map(|(id, token)| Some((token.strip_prefix(SPACE_MARK)?.as_bytes(), id)));
        let continuations = pieces().filter(|(_, token)| !token.starts_with(SPACE_MARK));
        let lowercase = vocabulary.lowercase.unwrap_or(true);
        Self {
            beginnings: Trie::new(beginnings),
            continuations: Trie::new(continuations.map(|(id, token)| (token.as_bytes(), id))),
            unk,
            lowercase,
            strip_accents: vocabulary.strip_accents.unwrap_or(lowercase),
        }
    }

    /// Appends the tokens of `text`. `word` is a buffer.
    pub fn encode(
        &self,
        text: &str,
        word: &mut String,
        cache: &mut WordCache,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        word.clear();
        // Long words are unknown whatever they are, so that no more of them is kept than that takes.
        let mut word_chars = 0;
        let mut result = Ok(());
        self.normalize(text, |c| {
            let class = CharClass::of(c);
            if class == CharClass::Inner {
                if word_chars <= WORD_CHARS_MAX {
                    word.push(c);
                }
                word_chars += 1;
                return;
            }
            for alone in [false, true] {
                if alone && class == CharClass::Alone {
                    word.push(c);
                    word_chars = 1;
                }
                if word_chars > 0 && result.is_ok() {
                    result = self.push_word(word, word_chars, cache, out);
                }
                word.clear();
                word_chars = 0;
            }
        });
        if word_chars > 0 && result.is_ok() {
            result = self.push_word(word, word_chars, cache, out);
        }
        result
    }

    /// Calls `each` with the characters of the cleaned text.
    fn normalize(&self, text: &str, mut each: impl FnMut(char)) {
        let mut lower = |c: char| {
            if !self.lowercase {
                each(c);
            } else if c.is_ascii() {
                each(c.to_ascii_lowercase());
            } else {
                c.to_lowercase().for_each(&mut each);
            }
        };
        // Decomposition leaves ASCII as it is, and marks stay behind their letter.
        let mut rest = text;
        while !rest.is_empty() {
            let (plain, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii).count());
            plain.chars().filter(|&c| matches!(c, '\t' | '\n' | '\r') || !c.is_ascii_control()).for_each(&mut lower);
            let whole = |c: char| c.is_ascii() || NOT_DECOMPOSED.contains(&c);
            let (marked, after) = after.split_at(after.find(whole).unwrap_or(after.len()));
            let cleaned = marked.chars().filter(|&c| !in_table(REMOVED, c)).flat_map(isolated);
            if self.strip_accents {
                cleaned.nfd().filter(|&c| !in_table(ACCENTS, c)).for_each(&mut lower);
            } else {
                cleaned.for_each(&mut lower);
            }
            rest = after;
            while let Some(c) = rest.chars().next().filter(|c| NOT_DECOMPOSED.contains(c)) {
                lower(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }

    fn push_word(
        &self,
        word: &str,
        word_chars: usize,
        cache: &mut WordCache,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        let vacancy = match cache.get(word.as_bytes()) {
            Ok(tokens) => {
                out.extend(tokens.iter().map(|&id| TokenId(id)));
                return Ok(());
            }
            Err(vacancy) => vacancy,
        };
        let before = out.len();
        let mut rest = word.as_bytes();
        let mut known = word_chars <= WORD_CHARS_MAX;
        while known && !rest.is_empty() {
            let trie = if rest.len() == word.len() { &self.beginnings } else { &self.continuations };
            // Pieces are whole characters, so that a piece that a word begins with ends between two of its own.
            match trie.longest_prefix(rest) {
                Some((id, len)) => {
                    out.push(TokenId(id));
                    rest = &rest[len..];
                }
                None => known = false,
            }
        }
        if !known {
            out.truncate(before);
            out.push(self.unk.ok_or(Error::NoToken { byte: word.as_bytes()[0] })?);
        }
        if let Some(vacancy) = vacancy {
            cache.put_tokens(vacancy, word.as_bytes(), &out[before..]);
        }
        Ok(())
    }
}

/// What a character of a cleaned text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharClass {
    /// Between words.
    Space,
    /// A word by itself.
    Alone,
    /// Part of a word.
    Inner,
}

impl CharClass {
    #[inline]
    fn of(c: char) -> Self {
        match c {
            c if c.is_ascii_alphanumeric() => Self::Inner,
            c if c.is_whitespace() => Self::Space,
            c if in_table(PUNCTUATION, c) => Self::Alone,
            _ => Self::Inner,
        }
    }
}

/// A character, with spaces around it if it is Chinese.
fn isolated(c: char) -> impl Iterator<Item = char> {
    let space = in_table(IDEOGRAPHS, c).then_some(' ');
    space.into_iter().chain([c]).chain(space)
}

#[inline]
fn in_table(table: &[(u32, u32)], c: char) -> bool {
    let code = u32::from(c);
    let after = table.partition_point(|&(first, _)| first <= code);
    after > 0 && code <= table[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::VocabularyKind;

    fn wordpiece(pieces: &[&str], lowercase: bool) -> WordPiece {
        let tokens = ["[UNK]"].iter().chain(pieces).map(|&piece| piece.to_owned()).collect();
        let mut vocabulary = Vocabulary::new(VocabularyKind::WordPiece, tokens);
        vocabulary.lowercase = Some(lowercase);
        vocabulary.strip_accents = Some(true);
        WordPiece::new(&vocabulary, |_| TokenType::Normal, Some(TokenId(0)))
    }

    fn encode(wordpiece: &WordPiece, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        wordpiece.encode(text, &mut String::new(), &mut WordCache::default(), &mut out).unwrap();
        out.iter().map(|id| id.0).collect()
    }

    #[track_caller]
    fn check(text: &str, expected: &[u32]) {
        let wordpiece = wordpiece(&["▁un", "able", "▁a", "▁,", "b", "▁▁", "▁日"], true);
        assert_eq!(encode(&wordpiece, text), expected, "{text:?}");
    }

    #[test]
    fn the_longest_piece_comes_first_and_a_rest_makes_the_word_unknown() {
        check("unable", &[1, 2]);
        check("unablex", &[0]);
        check("able", &[0]);
        check("a,ab", &[3, 4, 3, 5]);
        check("", &[]);
        check(" \t\n ", &[]);
        // A mark in a text is a character, not the start of a word.
        check("▁", &[6]);
        check("a▁a", &[0]);
    }

    #[test]
    fn text_is_cleaned_first() {
        check("ÀB", &[3, 5]);
        check("a\u{301}b", &[3, 5]);
        check("a\u{0}\u{200D}b", &[3, 5]);
        check("a日b日", &[3, 7, 0, 7]);
        check("a\u{3000}a", &[3, 3]);
    }

    #[test]
    fn words_of_more_than_a_hundred_characters_are_unknown() {
        let wordpiece = wordpiece(&["▁a", "a"], true);
        assert_eq!(encode(&wordpiece, &"a".repeat(100)).len(), 100);
        assert_eq!(encode(&wordpiece, &"a".repeat(101)), [0]);
        assert_eq!(encode(&wordpiece, &"é".repeat(1_000_000)), [0]);
    }

    /// Measured with PyPI `tokenizers` 0.23.3: `BertNormalizer(lowercase=False, strip_accents=True)` on every code point.
    #[test]
    fn every_code_point_is_cleaned_as_the_oracle_does() {
        let wordpiece = wordpiece(&[], false);
        let (mut changed, mut characters, mut sum) = (0, 0, 0);
        for c in char::MIN..=char::MAX {
            let mut cleaned = String::new();
            wordpiece.normalize(c.encode_utf8(&mut [0; 4]), |c| cleaned.push(if c.is_whitespace() { ' ' } else { c }));
            changed += usize::from(cleaned != c.to_string());
            characters += cleaned.chars().count();
            sum += cleaned.chars().map(|c| u64::from(u32::from(c))).sum::<u64>();
        }
        assert_eq!((changed, characters, sum), (232_743, 1_157_340, 481_833_700_692));
    }
}
