//! Unigram (Kudo 2018, arXiv:1804.10959): of all ways to cut a text into pieces, the one with the highest sum of scores.
//!
//! SentencePiece's library (0.2.3) is the reference, down to its arithmetic: scores add up in single precision, which
//! decides between paths that score the same in exact numbers. (Older versions of it, llama.cpp and PyPI `tokenizers`
//! add in double precision, and the last one normalizes by grapheme; they differ in such cases.)

use crate::charsmap::CharsMap;
use crate::spm::{SPACE_MARK, byte_of_piece};
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
    /// Score by id.
    scores: Vec<f32>,
    user_defined: Vec<bool>,
    score_max: f32,
    score_unknown: f32,
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
}

const UNKNOWN: u32 = u32::MAX;
const NO_PATH: u32 = u32::MAX - 1;

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
                TokenType::Control | TokenType::Unknown | TokenType::Unused => {}
            }
        }
        let user_defined =
            (0..vocabulary.tokens.len() as u32).map(|id| type_of(id) == TokenType::UserDefined).collect();
        Ok(Self {
            trie: Trie::new(pieces.into_iter()),
            scores: vocabulary.scores.clone(),
            user_defined,
            score_max,
            score_unknown: score_min - UNKNOWN_PENALTY,
            unk,
            byte_tokens,
            charsmap,
            space_prefix,
            merge_spaces: vocabulary.remove_extra_whitespaces.unwrap_or(true),
            space_as_suffix: vocabulary.whitespace_as_suffix.unwrap_or(false),
        })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, lattice: &mut Lattice, out: &mut Vec<TokenId>) -> Result<(), Error> {
        self.normalize(text, &mut lattice.normalized)?;
        let result = self.segment(lattice, out);
        // A long text's buffers are not kept.
        lattice.normalized.shrink_to(1 << 16);
        lattice.best.clear();
        lattice.best.shrink_to(1 << 14);
        result
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
            let (plain, others) = rest.split_at(self.plain_prefix(rest));
            if !plain.is_empty() {
                out.push_str(plain);
                after_space = false;
                rest = others;
                continue;
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
            if out.len() > NORMALIZED_BYTES_MAX {
                return Err(Error::TextTooLong { bytes: out.len(), max: NORMALIZED_BYTES_MAX });
            }
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

    /// What comes next of a text that is not empty, and how many bytes it was before.
    #[inline]
    fn next_mapped<'t>(&'t self, text: &'t str) -> (&'t str, usize) {
        self.charsmap.as_ref().and_then(|map| map.longest_prefix(text)).unwrap_or_else(|| {
            let len = char_len(text.as_bytes()[0]);
            (&text[..len], len)
        })
    }

    /// Viterbi's algorithm, from left to right. Where no piece crosses a position, every path goes through it: what is
    /// before is decided there, and the table begins anew with the score so far.
    fn segment(&self, lattice: &mut Lattice, out: &mut Vec<TokenId>) -> Result<(), Error> {
        let Lattice { normalized, best, path } = lattice;
        let text = normalized.as_bytes();
        let first_out = out.len();
        best.clear();
        best.push(Best { score: 0.0, id: NO_PATH, start: 0 });
        // Where the table begins, and the furthest position that a path leads to.
        let (mut cut, mut reach) = (0, 0);
        let mut pos = 0;
        while pos < text.len() {
            if pos == reach && pos > cut {
                self.push_path(text, cut, best, path, first_out, out)?;
                let score = best[pos - cut].score;
                best.clear();
                best.push(Best { score, id: NO_PATH, start: 0 });
                cut = pos;
            }
            let start = (pos - cut) as u32;
            let score_here = best[pos - cut].score;
            let one = char_len(text[pos]);
            let mut has_character = false;
            let mut arrive = |end: usize, score: f32, id: u32| {
                reach = reach.max(end);
                let at = end - cut;
                if at >= best.len() {
                    best.resize(at + 1, Best { score: 0.0, id: NO_PATH, start: 0 });
                }
                let there = &mut best[at];
                if there.id == NO_PATH || score > there.score {
                    *there = Best { score, id, start };
                }
            };
            let mut node = self.trie.root(text[pos]);
            let mut end = pos + 1;
            while let Some(here) = node {
                if let Some(id) = self.trie.value(here) {
                    arrive(end, self.score(id, end - pos) + score_here, id);
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
        self.push_path(text, cut, best, path, first_out, out)
    }

    #[inline]
    fn score(&self, id: u32, bytes: usize) -> f32 {
        if self.user_defined[id as usize] {
            // Close to nothing, so that such a piece is nearly always taken.
            return bytes as f32 * self.score_max - 0.1;
        }
        self.scores[id as usize]
    }

    /// Appends the tokens of the best path to the end of the table.
    fn push_path(
        &self,
        text: &[u8],
        cut: usize,
        best: &[Best],
        path: &mut Vec<(u32, u32, u32)>,
        first_out: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        path.clear();
        let mut end = best.len() as u32 - 1;
        while end > 0 {
            let Best { id, start, .. } = best[end as usize];
            path.push((id, start, end));
            end = start;
        }
        for &(id, start, end) in path.iter().rev() {
            if id == UNKNOWN {
                self.push_unknown(&text[cut + start as usize..cut + end as usize], first_out, out)?;
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
