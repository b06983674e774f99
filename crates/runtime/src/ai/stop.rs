//! Stop strings: texts that end an answer, and of which no part is ever shown.
//!
//! A stop string may come in pieces: what could be the beginning of one is held back until it is clear whether it is. This
//! file sees text only, in whole characters; tokens and their bytes are `engine.rs`'s and the tokenizer's business.

use crate::error::{Error, Result};

/// Most stop strings of a request.
pub const STOP_STRINGS_MAX: usize = 64;
/// Longest stop string, in bytes.
pub const STOP_BYTES_MAX: usize = 1024;

/// What a piece of text leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What can be shown now.
    pub text: String,
    /// The index of the stop string that ended the text. Nothing must follow.
    pub stop: Option<usize>,
}

/// Looks for several stop strings in a stream of text. The one that is complete first ends the text; of those that end at
/// the same place, the longest, then the first in the list. Time is linear in the text, whatever it is
/// (Knuth, Morris and Pratt, "Fast Pattern Matching in Strings", 1977), for each of the stop strings.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that was not shown: the longest end of all text so far that begins a stop string.
    held: String,
}

impl StopMatcher {
    /// # Errors
    /// When there are too many strings, or one is empty or too long.
    pub(crate) fn new(stop: &[String]) -> Result<Self> {
        let bad = |problem| Err(Error::BadStop { problem });
        if stop.len() > STOP_STRINGS_MAX {
            return bad(format!("there are {}, at most {STOP_STRINGS_MAX} are possible", stop.len()));
        }
        for (i, text) in stop.iter().enumerate() {
            if text.is_empty() {
                return bad(format!("number {} is empty: every answer would end at once", i + 1));
            }
            if text.len() > STOP_BYTES_MAX {
                return bad(format!(
                    "number {} has {} bytes, at most {STOP_BYTES_MAX} are possible",
                    i + 1,
                    text.len()
                ));
            }
        }
        Ok(Self { patterns: stop.iter().map(|text| Pattern::new(text)).collect(), held: String::new() })
    }

    /// Takes the next piece of text.
    pub(crate) fn push(&mut self, text: &str) -> Step {
        let before = self.held.len();
        self.held.push_str(text);
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            self.patterns.iter_mut().for_each(|pattern| pattern.advance(byte));
            let complete = self.patterns.iter().enumerate().filter(|(_, pattern)| pattern.is_complete());
            if let Some((stop, pattern)) = complete.max_by_key(|(i, p)| (p.bytes.len(), std::cmp::Reverse(*i))) {
                // A stop string starts at a character, so it is cut at one.
                self.held.truncate(before + i + 1 - pattern.bytes.len());
                return Step { text: std::mem::take(&mut self.held), stop: Some(stop) };
            }
        }
        let begun = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - begun);
        Step { text: std::mem::replace(&mut self.held, kept), stop: None }
    }

    /// The end of the text: what was held back after all.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each beginning, the length of its longest proper end that is a beginning too.
    borders: Vec<usize>,
    /// How much of it the text so far ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pattern = Self { bytes: text.as_bytes().to_vec(), borders: vec![0], matched: 0 };
        for i in 1..pattern.bytes.len() {
            pattern.advance(pattern.bytes[i]);
            pattern.borders.push(pattern.matched);
        }
        pattern.matched = 0;
        pattern
    }

    fn is_complete(&self) -> bool {
        self.matched == self.bytes.len()
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// What is shown of a text that comes in these pieces, and which string stopped it.
    fn shown(stop: &[String], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = StopMatcher::new(stop).unwrap();
        let mut out = Vec::new();
        for piece in pieces {
            let step = matcher.push(piece);
            out.push(step.text);
            if step.stop.is_some() {
                return (out, step.stop);
            }
        }
        out.push(matcher.finish());
        (out, None)
    }

    /// The definition: the end that comes first, then the longest, then the first in the list.
    fn cut<'t>(stop: &[String], text: &'t str) -> (&'t str, Option<usize>) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ending = stop.iter().enumerate().filter(|(_, s)| text[..end].ends_with(s.as_str()));
            if let Some((i, s)) = ending.max_by_key(|(i, s)| (s.len(), std::cmp::Reverse(*i))) {
                return (&text[..end - s.len()], Some(i));
            }
        }
        (text, None)
    }

    #[test]
    fn beginnings_are_held_back_until_it_is_clear_what_they_are() {
        let stop = strings(&["\nUser:", "END"]);
        let (pieces, found) = shown(&stop, &["Hi", "\n", "Us", "age", ".\nUs", "er", ": x"]);
        assert_eq!((pieces.as_slice(), found), (strings(&["Hi", "", "", "\nUsage", ".", "", ""]).as_slice(), Some(0)));
        let (pieces, found) = shown(&stop, &["a EN"]);
        assert_eq!((pieces.as_slice(), found), (strings(&["a ", "EN"]).as_slice(), None));
        let (pieces, found) = shown(&stop, &["a E", "NEND!"]);
        assert_eq!((pieces.as_slice(), found), (strings(&["a ", "EN"]).as_slice(), Some(1)));
        assert_eq!(shown(&[], &["a", "b"]).0, ["a", "b", ""]);
    }

    #[test]
    fn lists_that_cannot_be_are_refused_by_name() {
        let refused = |stop: &[String]| StopMatcher::new(stop).unwrap_err().to_string();
        assert!(refused(&strings(&["a", ""])).contains("number 2 is empty"));
        assert!(refused(&["a".repeat(STOP_BYTES_MAX + 1)]).contains("1025 bytes"));
        assert!(refused(&vec!["a".to_owned(); STOP_STRINGS_MAX + 1]).contains("there are 65"));
    }

    #[test]
    fn hostile_texts_take_linear_time() {
        // A naive search would compare 4 · 10⁹ bytes here.
        let stop = vec![format!("{}b", "a".repeat(STOP_BYTES_MAX - 1)); 4];
        let text = "a".repeat(1 << 20);
        let mut matcher = StopMatcher::new(&stop).unwrap();
        let n: usize =
            text.as_bytes().chunks(7).map(|c| matcher.push(std::str::from_utf8(c).unwrap()).text.len()).sum();
        assert_eq!(n + matcher.finish().len(), text.len());
    }

    proptest! {
        /// However a text is cut into pieces, what is shown is what the definition leaves of the whole.
        #[test]
        fn pieces_do_not_matter(
            stop in proptest::collection::vec("[abé🦙]{1,4}", 0..4),
            text in "[abé🦙]{0,40}",
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.retain(|&cut| text.is_char_boundary(cut));
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let (expected, expected_stop) = cut(&stop, &text);
            let (found, found_stop) = shown(&stop, &pieces);
            prop_assert_eq!(found.concat(), expected);
            prop_assert_eq!(found_stop, expected_stop);
        }

        /// Nothing is shown that a later piece could still make a part of a stop string, and nothing else is held back.
        #[test]
        fn no_more_is_held_back_than_needed(stop in proptest::collection::vec("[ab]{1,4}", 1..3), text in "[ab]{0,12}") {
            let mut matcher = StopMatcher::new(&stop).unwrap();
            let mut shown = String::new();
            for (i, c) in text.char_indices() {
                let step = matcher.push(&c.to_string());
                shown += &step.text;
                if step.stop.is_some() {
                    break;
                }
                let so_far = &text[..=i];
                let begun = |n: &usize| stop.iter().any(|s| s.starts_with(&so_far[so_far.len() - n..]));
                let held = (1..=so_far.len()).rev().find(begun).unwrap_or(0);
                prop_assert_eq!(shown.len(), so_far.len() - held);
            }
        }
    }
}
