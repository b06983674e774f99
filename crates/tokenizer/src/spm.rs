//! SentencePiece-style BPE (Kudo and Richardson 2018, arXiv:1808.06226): merges in the order of the pieces' scores.
//!
//! The text is one unit with `▁` for each space. Two neighbours join when their concatenation is a piece; the piece
//! with the highest score goes first, the leftmost on ties. What is left without a piece becomes bytes (`<0x0A>`), or
//! the unknown token where the vocabulary has no bytes.

use hashbrown::HashMap;

use crate::cache::WordCache;
use crate::merge::{Join, Merger, Rule, Symbol};
use crate::texts::{TextIndex, Texts};
use crate::vocabulary::TokenType;
use crate::{Error, TokenId};

/// How a space is written in pieces: U+2581.
pub const SPACE_MARK: &str = "\u{2581}";

const NO_PIECE: u32 = u32::MAX;

/// SentencePiece-style merges over one vocabulary.
#[derive(Debug)]
pub struct Spm {
    /// Piece texts as the file has them, by id.
    pieces: Texts,
    /// Pieces that text can become: no control, unknown or byte token.
    index: TextIndex,
    /// Merge priority by id, smaller first.
    priorities: Vec<u32>,
    unused: Vec<bool>,
    byte_tokens: [Option<TokenId>; 256],
    unk: Option<TokenId>,
    /// No piece continues past the start of a run of `▁`, so no merge does either and words can be merged alone.
    words_are_separate: bool,
}

impl Spm {
    /// `type_of` must already know byte tokens; `scores` are checked numbers, one per token.
    pub fn new(tokens: &[String], scores: &[f32], type_of: impl Fn(u32) -> TokenType, unk: Option<TokenId>) -> Self {
        let mut pieces = Texts::with_capacity(tokens.len());
        let mut index = TextIndex::with_capacity(tokens.len());
        let mut byte_tokens = [None; 256];
        let mut words_are_separate = true;
        let mut unused = vec![false; tokens.len()];
        for (id, token) in tokens.iter().enumerate() {
            let id = id as u32;
            pieces.push(token.as_bytes());
            match type_of(id) {
                TokenType::Control | TokenType::Unknown => {}
                TokenType::Byte => {
                    if let Some(byte) = byte_of_piece(token) {
                        byte_tokens[usize::from(byte)].get_or_insert(TokenId(id));
                    }
                }
                _ if token.is_empty() => {}
                kind => {
                    index.insert(&pieces, id);
                    unused[id as usize] = kind == TokenType::Unused;
                    words_are_separate &= !token.trim_start_matches(SPACE_MARK).contains(SPACE_MARK);
                }
            }
        }
        let priorities = scores.iter().map(|&score| priority_of_score(score)).collect();
        Self { pieces, index, priorities, unused, byte_tokens, unk, words_are_separate }
    }

    /// Appends the tokens of `text`, in which spaces are already written as `▁`.
    pub fn encode(
        &self,
        text: &str,
        merger: &mut Merger,
        cache: &mut WordCache,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        let start = out.len();
        let mut rest = text;
        while !rest.is_empty() {
            let word = if self.words_are_separate { first_word(rest) } else { rest };
            self.encode_word(word, merger, cache, start, out)?;
            rest = &rest[word.len()..];
        }
        merger.shrink();
        Ok(())
    }

    fn encode_word(
        &self,
        word: &str,
        merger: &mut Merger,
        cache: &mut WordCache,
        start: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        let vacancy = match cache.get(word.as_bytes()) {
            Ok(tokens) => {
                out.extend(tokens.iter().map(|&id| TokenId(id)));
                return Ok(());
            }
            Err(vacancy) => vacancy,
        };
        merger.symbols.clear();
        merger.symbols.extend(word.char_indices().map(|(at, c)| {
            let end = at + c.len_utf8();
            let id = self.index.find(&self.pieces, &word.as_bytes()[at..end]).unwrap_or(NO_PIECE);
            Symbol { id, start: at as u32, end: end as u32 }
        }));
        let mut rule = ByScore { spm: self, text: word.as_bytes(), unused_splits: HashMap::new() };
        merger.merge(&mut rule);
        let splits = rule.unused_splits;

        let before = out.len();
        let mut ends_unknown = false;
        for &symbol in &merger.symbols {
            let text = &word.as_bytes()[symbol.start as usize..symbol.end as usize];
            ends_unknown |= self.push_piece(symbol.id, text, &splits, start, out)?;
        }
        if let (Some(vacancy), false) = (vacancy, ends_unknown) {
            cache.put_tokens(vacancy, word.as_bytes(), &out[before..]);
        }
        Ok(())
    }

    /// Appends one merged stretch; says whether the unknown token was needed. Pieces that are not to be produced are
    /// taken apart again, as SentencePiece does.
    fn push_piece(
        &self,
        id: u32,
        text: &[u8],
        splits: &HashMap<u32, usize>,
        start: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<bool, Error> {
        let mut unknown = false;
        let mut pending = vec![];
        let mut piece = Some((id, text));
        while let Some((id, text)) = piece.take().or_else(|| pending.pop()) {
            if id != NO_PIECE && !self.unused[id as usize] {
                out.push(TokenId(id));
            } else if let Some(&middle) = splits.get(&id) {
                let id_of = |part: &[u8]| self.index.find(&self.pieces, part).unwrap_or(NO_PIECE);
                let (left, right) = text.split_at(middle);
                pending.push((id_of(right), right));
                piece = Some((id_of(left), left));
            } else {
                unknown |= self.push_bytes(text, start, out)?;
            }
        }
        Ok(unknown)
    }

    /// Appends the byte tokens of `text`, or the unknown token, of which neighbours are written once.
    fn push_bytes(&self, text: &[u8], start: usize, out: &mut Vec<TokenId>) -> Result<bool, Error> {
        let Some(&missing) = text.iter().find(|&&byte| self.byte_tokens[usize::from(byte)].is_none()) else {
            out.extend(text.iter().filter_map(|&byte| self.byte_tokens[usize::from(byte)]));
            return Ok(false);
        };
        let unk = self.unk.ok_or(Error::NoToken { byte: missing })?;
        if out.len() == start || out.last() != Some(&unk) {
            out.push(unk);
        }
        Ok(true)
    }
}

struct ByScore<'a> {
    spm: &'a Spm,
    text: &'a [u8],
    /// For pieces that are not to be produced: where their latest two parts meet.
    unused_splits: HashMap<u32, usize>,
}

impl Rule for ByScore<'_> {
    #[inline]
    fn join(&mut self, left: Symbol, right: Symbol) -> Option<Join> {
        let text = &self.text[left.start as usize..right.end as usize];
        let id = self.spm.index.find(&self.spm.pieces, text)?;
        if self.spm.unused[id as usize] {
            self.unused_splits.insert(id, (left.end - left.start) as usize);
        }
        Some(Join { priority: self.spm.priorities[id as usize], id })
    }
}

/// The text up to the next `▁` that follows something else.
pub fn first_word(text: &str) -> &str {
    // Words are short, so a loop over bytes beats a search for a string.
    let (bytes, mark) = (text.as_bytes(), SPACE_MARK.as_bytes());
    let mut end = 0;
    while bytes[end..].starts_with(mark) {
        end += mark.len();
    }
    while end < bytes.len() && !(bytes[end] == mark[0] && bytes[end..].starts_with(mark)) {
        end += 1;
    }
    &text[..end]
}

/// Maps scores to integers that order the other way round: the highest score is the smallest priority.
fn priority_of_score(score: f32) -> u32 {
    // Adding zero turns -0.0 into 0.0, which compare equal.
    let bits = (score + 0.0).to_bits();
    // Ascending order of floats as integers: flip the sign bit of positives, all bits of negatives.
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

/// The byte that a piece such as `<0x0A>` stands for.
pub fn byte_of_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_have_smaller_priorities() {
        let scores = [f32::INFINITY, 3.5, 0.0, -0.5, -1.0, -31740.0, -1e9, f32::NEG_INFINITY];
        let priorities = scores.map(priority_of_score);
        assert!(priorities.is_sorted_by(|a, b| a < b), "{priorities:?}");
        assert_eq!(priority_of_score(-0.0), priority_of_score(0.0));
        assert!(priorities.iter().all(|&priority| priority != u32::MAX));
    }

    #[test]
    fn words_begin_at_a_space_mark_after_something_else() {
        assert_eq!(first_word("▁▁ab▁c"), "▁▁ab");
        assert_eq!(first_word("ab▁c"), "ab");
        assert_eq!(first_word("▁▁"), "▁▁");
        assert_eq!(first_word("▁a▁▁"), "▁a");
        assert_eq!(first_word("▁▁▁a"), "▁▁▁a");
    }

    #[test]
    fn byte_pieces_are_two_hexadecimal_digits() {
        assert_eq!(byte_of_piece("<0x0A>"), Some(10));
        assert_eq!(byte_of_piece("<0xff>"), Some(255));
        for piece in ["<0x0>", "<0x0A0>", "<0x+1>", "0x0A", "<0xé>", "<0xGG>"] {
            assert_eq!(byte_of_piece(piece), None, "{piece}");
        }
    }
}
