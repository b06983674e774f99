//! Unigram (Kudo 2018, arXiv:1804.10959): of all ways to cut a text into pieces, the one with the highest sum of scores.
//!
//! SentencePiece's library (0.2.3) is the reference, down to its arithmetic: scores add up in single precision, which
//! decides between paths that score the same in exact numbers. (Older versions of it, llama.cpp and PyPI `tokenizers`
//! add in double precision, and the last one normalizes by grapheme; they differ in such cases.)
//!
//! The sum runs through the whole text, so what rounding does to a word depends on all that is before it, and the tokens
//! of a word cannot simply be remembered. They can together with how far the sum may have gone: where the best path wins
//! at each of its positions by more than rounding can turn, it is the best after any such sum (see `Reach::of`).

use crate::cache::WordCache;
use crate::charsmap::CharsMap;
use crate::spm::{SPACE_MARK, byte_of_piece, first_word};
use crate::trie::Trie;
use crate::vocabulary::{TokenType, Vocabulary};
use crate::{Error, TokenId};

/// How much worse than the worst piece an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;
/// Longest text after normalization, in bytes.
const NORMALIZED_BYTES_MAX: usize = 1 << 30;

/// The most likely segmentation over one vocabulary.
#[derive(Debug)]
pub struct Unigram {
    trie: Trie,
    /// What taking a piece adds to a path's score, by id.
    scores: Vec<f32>,
    score_unknown: f32,
    /// No step of a path adds or takes more than this.
    step_max: f32,
    /// No piece continues past the start of a run of `▁`, so every path goes through the start of every word.
    words_are_separate: bool,
    unk: Option<TokenId>,
    byte_tokens: [Option<TokenId>; 256],
    charsmap: Option<CharsMap>,
    space_prefix: bool,
    merge_spaces: bool,
    space_as_suffix: bool,
}

/// The best way to one position.
#[derive(Debug, Clone, Copy)]
struct Best {
    score: f32,
    /// The last piece; [`UNKNOWN`] for a character without one, [`NO_PATH`] where no way leads.
    id: u32,
    /// Where it starts, relative to the last cut.
    start: u32,
    /// By how much the second best last piece scores less.
    margin: f32,
}

impl Best {
    /// A position that the table begins with (`score` is what led here), or that nothing has reached.
    const fn unreached(score: f32) -> Self {
        Self { score, id: NO_PATH, start: 0, margin: f32::INFINITY }
    }
}

const UNKNOWN: u32 = u32::MAX;
const NO_PATH: u32 = u32::MAX - 1;

/// How far a table goes before it begins anew, in bytes: shorter ones would be more work, not less memory.
const TABLE_MIN: usize = 256;

/// How a stretch of text was cut.
#[derive(Debug, Clone, Copy)]
struct Segmented {
    /// The sum of scores, with what was before.
    score: f32,
    /// The smallest [`Best::margin`] on the path.
    margin: f32,
    has_unknown: bool,
}

/// Most tokens of a word that is remembered: the cache's places, of which one holds the [`Reach`].
const WORD_TOKENS_MAX: usize = 5;

/// The sum of scores, without its sign, up to which a word's tokens are what they were from zero.
#[derive(Debug, Clone, Copy)]
struct Reach(f32);

/// Memory that is reused from text to text.
#[derive(Debug, Default)]
pub struct Lattice {
    normalized: String,
    best: Vec<Best>,
    path: Vec<(u32, u32, u32)>,
}

impl Unigram {
    /// `type_of` must already know byte tokens; the vocabulary's scores are checked numbers, one per token.
    pub fn new(
        vocabulary: &Vocabulary,
        type_of: impl Fn(u32) -> TokenType,
        unk: Option<TokenId>,
        space_prefix: bool,
    ) -> Result<Self, Error> {
        let charsmap = match vocabulary.precompiled_charsmap.as_slice() {
            [] => None,
            bytes => Some(CharsMap::new(bytes)?),
        };
        let mut byte_tokens = [None; 256];
        let mut pieces = Vec::with_capacity(vocabulary.tokens.len());
        let mut words_are_separate = true;
        let (mut score_min, mut score_max) = (f32::MAX, f32::MIN);
        for (id, (token, &score)) in (0..).zip(vocabulary.tokens.iter().zip(&vocabulary.scores)) {
            match type_of(id) {
                TokenType::Byte => {
                    if let Some(byte) = byte_of_piece(token) {
                        byte_tokens[usize::from(byte)].get_or_insert(TokenId(id));
                    }
                }
                TokenType::Normal => {
                    score_min = score_min.min(score);
                    score_max = score_max.max(score);
                    pieces.push((token.as_bytes(), id));
                }
                TokenType::UserDefined => pieces.push((token.as_bytes(), id)),
                // No text becomes one of these.
                TokenType::Control | TokenType::Unknown | TokenType::Unused => continue,
            }
            words_are_separate &= !token.trim_start_matches(SPACE_MARK).contains(SPACE_MARK);
        }
        let mut scores = vocabulary.scores.clone();
        for &(token, id) in &pieces {
            if type_of(id) == TokenType::UserDefined {
                // Close to nothing, so that such a piece is nearly always taken.
                scores[id as usize] = token.len() as f32 * score_max - 0.1;
            }
        }
        let score_unknown = score_min - UNKNOWN_PENALTY;
        let step_max = pieces.iter().map(|&(_, id)| scores[id as usize].abs()).fold(score_unknown.abs(), f32::max);
        Ok(Self {
            trie: Trie::new(pieces.into_iter()),
            scores,
            score_unknown,
            step_max,
            words_are_separate,
            unk,
            byte_tokens,
            charsmap,
            space_prefix,
            merge_spaces: vocabulary.remove_extra_whitespaces.unwrap_or(true),
            space_as_suffix: vocabulary.whitespace_as_suffix.unwrap_or(false),
        })
    }

    /// Appends the tokens of `text`.
    pub fn encode(
        &self,
        text: &str,
        lattice: &mut Lattice,
        cache: &mut WordCache,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        let mut normalized = std::mem::take(&mut lattice.normalized);
        let result = self.normalize(text, &mut normalized).and_then(|()| {
            let first_out = out.len();
            if !self.words_are_separate {
                return self.segment(normalized.as_bytes(), 0.0, lattice, first_out, out).map(drop);
            }
            let (mut rest, mut score) = (normalized.as_str(), 0.0);
            while !rest.is_empty() {
                let (word, others) = rest.split_at(first_word(rest).len());
                score = self.encode_word(word.as_bytes(), score, lattice, cache, first_out, out)?;
                rest = others;
            }
            Ok(())
        });
        // A long text's buffers are not kept.
        normalized.clear();
        normalized.shrink_to(1 << 16);
        lattice.normalized = normalized;
        lattice.best.clear();
        lattice.best.shrink_to(1 << 14);
        lattice.path.clear();
        lattice.path.shrink_to(1 << 14);
        result
    }

    /// Appends the tokens of a word before which the score is `score`, and returns the score behind it.
    fn encode_word(
        &self,
        word: &[u8],
        score: f32,
        lattice: &mut Lattice,
        cache: &mut WordCache,
        first_out: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<f32, Error> {
        let vacancy = match cache.get(word) {
            Ok(entry) => {
                if let Some((&reach, tokens)) = entry.split_last()
                    && Reach(f32::from_bits(reach)).holds(score)
                {
                    out.extend(tokens.iter().map(|&id| TokenId(id)));
                    return Ok(tokens.iter().fold(score, |sum, &id| self.scores[id as usize] + sum));
                }
                None
            }
            Err(vacancy) => vacancy,
        };
        if let Some(vacancy) = vacancy {
            let before = out.len();
            let segmented = self.segment(word, 0.0, lattice, first_out, out)?;
            let tokens = &out[before..];
            let reach = if segmented.has_unknown {
                Reach::NONE
            } else {
                Reach::of(segmented.margin, tokens.len(), word.len(), self.step_max)
            };
            let mut entry = [0; WORD_TOKENS_MAX + 1];
            if tokens.len() <= WORD_TOKENS_MAX {
                entry.iter_mut().zip(tokens).for_each(|(id, token)| *id = token.0);
                entry[tokens.len()] = reach.0.to_bits();
                cache.put(vacancy, word, &entry[..=tokens.len()]);
            } else {
                // Remembered as a word that zero says nothing about.
                cache.put(vacancy, word, &[Reach::NONE.0.to_bits()]);
            }
            if reach.holds(score) {
                return Ok(tokens.iter().fold(score, |sum, token| self.scores[token.0 as usize] + sum));
            }
            out.truncate(before);
        }
        self.segment(word, score, lattice, first_out, out).map(|segmented| segmented.score)
    }

    /// What the pieces are made of: characters mapped, spaces as `▁`, runs of them merged, one put in front.
    fn normalize(&self, text: &str, out: &mut String) -> Result<(), Error> {
        out.clear();
        let mut rest = text;
        if self.merge_spaces {
            while !rest.is_empty() {
                let (mapped, len) = self.next_mapped(rest);
                if mapped != " " {
                    break;
                }
                rest = &rest[len..];
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        if self.space_prefix && !self.space_as_suffix {
            out.push_str(SPACE_MARK);
        }
        let mut after_space = self.merge_spaces;
        while !rest.is_empty() {
            if out.len() > NORMALIZED_BYTES_MAX {
                return Err(Error::TextTooLong { bytes: out.len(), max: NORMALIZED_BYTES_MAX });
            }
            let (plain, others) = rest.split_at(self.plain_prefix(rest));
            if !plain.is_empty() {
                out.push_str(plain);
                after_space = false;
                rest = others;
            }
            if !after_space && self.is_plain_space(rest) {
                out.push_str(SPACE_MARK);
                after_space = self.merge_spaces;
                rest = &rest[1..];
                continue;
            }
            if rest.is_empty() {
                break;
            }
            let (mut mapped, len) = self.next_mapped(rest);
            rest = &rest[len..];
            if after_space {
                mapped = mapped.trim_start_matches(' ');
            }
            if mapped.is_empty() {
                continue;
            }
            for (at, part) in mapped.split(' ').enumerate() {
                if at > 0 {
                    out.push_str(SPACE_MARK);
                }
                out.push_str(part);
            }
            after_space = self.merge_spaces && mapped.ends_with(' ');
        }
        if self.merge_spaces {
            out.truncate(out.trim_end_matches(SPACE_MARK).len());
        }
        if self.space_prefix && self.space_as_suffix {
            out.push_str(SPACE_MARK);
        }
        Ok(())
    }

    /// How much of the text comes through as it is, at least.
    #[inline]
    fn plain_prefix(&self, text: &str) -> usize {
        match &self.charsmap {
            Some(map) => map.plain_prefix(text),
            None => text.find(' ').unwrap_or(text.len()),
        }
    }

    /// Whether the text begins with a space that stays one.
    #[inline]
    fn is_plain_space(&self, text: &str) -> bool {
        text.starts_with(' ') && self.charsmap.as_ref().is_none_or(|map| map.keeps_first(text))
    }

    /// What comes next of a text that is not empty, and how many bytes it was before.
    #[inline]
    fn next_mapped<'t>(&'t self, text: &'t str) -> (&'t str, usize) {
        self.charsmap.as_ref().and_then(|map| map.longest_prefix(text)).unwrap_or_else(|| {
            let len = char_len(text.as_bytes()[0]);
            (&text[..len], len)
        })
    }

    /// Viterbi's algorithm, from left to right, with `score` before the text. Where no piece crosses a position, every
    /// path goes through it: what is before is decided there, and the table begins anew with the score so far.
    fn segment(
        &self,
        text: &[u8],
        score: f32,
        lattice: &mut Lattice,
        first_out: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<Segmented, Error> {
        let Lattice { best, path, .. } = lattice;
        let mut segmented = Segmented { score, margin: f32::INFINITY, has_unknown: false };
        begin_table(best, score, text.len());
        // Where the table begins, and the furthest position that a path leads to.
        let (mut cut, mut reach) = (0, 0);
        let mut pos = 0;
        while pos < text.len() {
            if pos == reach && pos - cut >= TABLE_MIN {
                self.push_path(&text[cut..pos], best, path, &mut segmented, first_out, out)?;
                cut = pos;
                begin_table(best, segmented.score, text.len() - cut);
            }
            let start = (pos - cut) as u32;
            let score_here = best[pos - cut].score;
            let one = char_len(text[pos]);
            let mut has_character = false;
            let mut arrive = |end: usize, score: f32, id: u32| {
                reach = reach.max(end);
                let at = end - cut;
                if at >= best.len() {
                    best.resize(at + 1, Best::unreached(0.0));
                }
                let there = &mut best[at];
                if there.id == NO_PATH {
                    *there = Best { score, id, start, margin: f32::INFINITY };
                } else if score > there.score {
                    *there = Best { score, id, start, margin: score - there.score };
                } else {
                    there.margin = there.margin.min(there.score - score);
                }
            };
            let mut node = self.trie.root(text[pos]);
            let mut end = pos + 1;
            while let Some(here) = node {
                if let Some(id) = self.trie.value(here) {
                    arrive(end, self.scores[id as usize] + score_here, id);
                    has_character |= end - pos == one;
                }
                node = text.get(end).and_then(|&byte| self.trie.child(here, byte));
                end += 1;
            }
            if !has_character {
                arrive(pos + one, self.score_unknown + score_here, UNKNOWN);
            }
            pos += one;
        }
        self.push_path(&text[cut..], best, path, &mut segmented, first_out, out)?;
        Ok(segmented)
    }

    /// Appends the tokens of the best path through `text`, for which the table is.
    fn push_path(
        &self,
        text: &[u8],
        best: &[Best],
        path: &mut Vec<(u32, u32, u32)>,
        segmented: &mut Segmented,
        first_out: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        path.clear();
        let mut end = text.len() as u32;
        segmented.score = best[end as usize].score;
        while end > 0 {
            let Best { id, start, margin, .. } = best[end as usize];
            segmented.margin = segmented.margin.min(margin);
            path.push((id, start, end));
            end = start;
        }
        for &(id, start, end) in path.iter().rev() {
            if id == UNKNOWN {
                segmented.has_unknown = true;
                self.push_unknown(&text[start as usize..end as usize], first_out, out)?;
            } else {
                out.push(TokenId(id));
            }
        }
        Ok(())
    }

    /// Appends the byte tokens of a character, or the unknown token, of which neighbours are written once.
    fn push_unknown(&self, text: &[u8], first_out: usize, out: &mut Vec<TokenId>) -> Result<(), Error> {
        let Some(&missing) = text.iter().find(|&&byte| self.byte_tokens[usize::from(byte)].is_none()) else {
            out.extend(text.iter().filter_map(|&byte| self.byte_tokens[usize::from(byte)]));
            return Ok(());
        };
        let unk = self.unk.ok_or(Error::NoToken { byte: missing })?;
        if out.len() == first_out || out.last() != Some(&unk) {
            out.push(unk);
        }
        Ok(())
    }
}

impl Reach {
    /// After no sum.
    const NONE: Self = Self(-1.0);

    /// For a word of `bytes` bytes whose path, from zero, has `tokens` steps and wins everywhere by at least `margin`.
    ///
    /// Another path has at most `n = bytes` steps, and none is larger than `step_max`. With `|sum| <= r` before the word,
    /// no sum in it exceeds `m = r + n step_max`, so a path's rounded score is off by at most `2⁻²⁴ m` for each of its
    /// steps. Two paths that `margin` separates from zero are thus apart by `margin - (tokens + n) 2⁻²⁴ n step_max` in
    /// exact numbers, and after the sum they keep their order if that is more than `(tokens + n) 2⁻²⁴ m`. (Rounding is
    /// monotonic, so the best path to a position goes through the best ones before it.) Solved for `r`, with a
    /// hundredth left for the rounding of all this.
    fn of(margin: f32, tokens: usize, bytes: usize, step_max: f32) -> Self {
        let (n, steps) = (bytes as f32, (tokens + bytes) as f32);
        Self(0.99 * (margin / steps * (1 << 24) as f32) - 2.0 * n * step_max * 1.01)
    }

    /// Whether the word's tokens are the same after this sum. (No comparison with what is no number holds.)
    #[inline]
    fn holds(self, score: f32) -> bool {
        score.abs() < self.0
    }
}

/// A table in which no position but the first is reached, with room for a short text.
fn begin_table(best: &mut Vec<Best>, score: f32, bytes: usize) {
    best.clear();
    best.resize(bytes.min(TABLE_MIN) + 1, Best::unreached(0.0));
    best[0].score = score;
}

/// Length of the character that begins with `byte`.
#[inline]
fn char_len(byte: u8) -> usize {
    match byte {
        0..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VocabularyKind;
    use proptest::prelude::*;

    fn unigram(pieces: &[(&str, f32)]) -> Unigram {
        let mut vocabulary = Vocabulary::new(VocabularyKind::Unigram, vec!["<unk>".to_owned()]);
        vocabulary.scores.push(0.0);
        for &(piece, score) in pieces {
            vocabulary.tokens.push(piece.to_owned());
            vocabulary.scores.push(score);
        }
        let type_of = |id| if id == 0 { TokenType::Unknown } else { TokenType::Normal };
        Unigram::new(&vocabulary, type_of, Some(TokenId(0)), true).unwrap()
    }

    /// The tokens word by word, with the cache, and those of one walk over the text.
    fn both_ways(unigram: &Unigram, text: &str) -> (Vec<TokenId>, Vec<TokenId>) {
        let (mut lattice, mut by_word, mut whole) = (Lattice::default(), Vec::new(), Vec::new());
        unigram.encode(text, &mut lattice, &mut WordCache::default(), &mut by_word).unwrap();
        let mut normalized = String::new();
        unigram.normalize(text, &mut normalized).unwrap();
        unigram.segment(normalized.as_bytes(), 0.0, &mut lattice, 0, &mut whole).unwrap();
        (by_word, whole)
    }

    const PIECES: [&str; 10] = ["▁", "a", "b", "ab", "ba", "▁a", "▁ab", "aba", "bb", "▁b"];

    proptest! {
        /// Scores such that paths tie in exact numbers and rounding decides, otherwise after each sum.
        #[test]
        fn remembered_words_are_what_one_walk_finds(
            tenths in proptest::collection::vec(1u8..9, PIECES.len()),
            far in prop_oneof![Just(0), Just(10), Just(300), Just(3000), Just(10_000)],
            words in proptest::collection::vec("[abc]{1,6}", 1..8),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 1..400),
        ) {
            let scores = PIECES.iter().zip(&tenths).map(|(&piece, &tenth)| {
                (piece, -0.1 * f32::from(tenth) * piece.trim_start_matches('▁').len().max(1) as f32)
            });
            let unigram = unigram(&scores.chain([("▁z", -30.0)]).collect::<Vec<_>>());
            prop_assert!(unigram.words_are_separate);
            let words: Vec<_> = order.iter().map(|at| at.get(&words).as_str()).collect();
            let words = words.join(" ");
            // What is between makes the sum large.
            let (by_word, whole) = both_ways(&unigram, &format!("{words} {}{words}", "z ".repeat(far)));
            prop_assert_eq!(by_word, whole);
        }
    }

    /// "ab" is `a b` by a hair as long as the sum is small, and a tie, which the longer piece arrives at first, later.
    #[test]
    fn a_word_is_not_remembered_where_the_sum_has_grown() {
        let unigram = unigram(&[("▁", -1.0), ("a", -1.0), ("b", -1.0), ("ab", -2.0005), ("▁z", -10.0)]);
        let (by_word, whole) = both_ways(&unigram, &format!("ab ab {}ab", "z ".repeat(2000)));
        assert_eq!(by_word, whole);
        assert_eq!(by_word[..6], [1, 2, 3, 1, 2, 3].map(TokenId));
        assert_eq!(by_word[by_word.len() - 2..], [1, 4].map(TokenId));
    }

    #[test]
    fn reach_shrinks_with_the_margin_and_the_length_and_is_never_there_for_a_tie() {
        assert!(Reach::of(0.5, 2, 3, 10.0).holds(-1_500_000.0));
        assert!(!Reach::of(0.5, 2, 3, 10.0).holds(-2_000_000.0));
        assert!(!Reach::of(0.5, 5, 22, 10.0).holds(-400_000.0));
        assert!(!Reach::of(0.0, 2, 3, 10.0).holds(0.0));
        assert!(!Reach::of(f32::NAN, 2, 3, 10.0).holds(0.0));
        assert!(!Reach::of(1.0, 2, 3, f32::INFINITY).holds(0.0));
        assert!(!Reach::of(f32::INFINITY, 2, 3, 1.0).holds(f32::NAN));
        assert!(!Reach::NONE.holds(0.0));
    }

    /// No position that the table could begin anew at: every one has a piece across.
    #[test]
    fn a_text_without_words_is_one_walk() {
        let unigram = unigram(&[("▁", -1.0), ("a", -1.0), ("aa", -1.5), ("aaa", -2.0)]);
        let (by_word, whole) = both_ways(&unigram, &"a".repeat(1_000_000));
        assert_eq!(by_word, whole);
        assert!(by_word.len() <= 333_400, "{} tokens", by_word.len());
    }
}
