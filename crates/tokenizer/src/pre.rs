//! Pre-tokenizers: where byte-level BPE cuts a text before it merges.
//!
//! Every published pattern is an ordered choice of a few shapes (contractions, runs of a class with an optional lead,
//! white space before or after line ends), so a pattern is data here: a list of [`Alternative`]s tried in order at
//! each position, in the meaning of a backtracking regex but without one. Text that no alternative matches becomes a
//! piece of its own, as `Split(…, behavior="isolated")` does. A pre-tokenizer is one pattern or several, each applied
//! to the pieces of the one before.
//!
//! A new `pre` is a new row in [`find`]; a shape that no row has used yet is a new [`Alternative`].

use crate::unicode::{ASCII_DIGIT, Flags, LETTER, MARK, NEWLINE, NUMBER, PUNCTUATION, SPACE, flags_at};

/// A pre-tokenizer and what its name implies beyond the pattern.
#[derive(Debug)]
pub struct PreTokenizer {
    patterns: &'static [Pattern],
    /// A word that is a token as a whole is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Prompts start with BOS unless the file says otherwise.
    pub add_bos: bool,
}

type Pattern = &'static [Alternative];

/// One branch of a pattern's ordered choice.
#[derive(Debug, Clone, Copy)]
enum Alternative {
    /// `'s|'t|'re|'ve|'m|'ll|'d`
    Contraction,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
    ContractionAnyCase,
    /// `lead? class{min,max} trail*`
    Run { lead: Class, class: Class, min: usize, max: usize, trail: Class },
    /// `\s*[\r\n]+`
    SpaceToNewline,
    /// `\s+(?!\S)`
    SpaceNotBeforeText,
    /// `\s+`
    Space,
}

/// A character class: characters with one of `any` (or whatever, where `any` is 0) and none of `none`, or in `extra`.
#[derive(Debug, Clone, Copy)]
struct Class {
    any: Flags,
    none: Flags,
    extra: &'static str,
}

impl Class {
    /// `[…]`
    const fn of(any: Flags) -> Self {
        Self { any, none: 0, extra: "" }
    }

    /// `[^…]`
    const fn not(none: Flags) -> Self {
        Self { any: 0, none, extra: "" }
    }

    /// Exactly these (ASCII) characters.
    const fn chars(extra: &'static str) -> Self {
        Self { any: Flags::MAX, none: Flags::MAX, extra }
    }

    const NOTHING: Self = Self::chars("");

    /// Length of the character at `pos` if it is in the class.
    #[inline]
    fn match_at(self, text: &str, pos: usize) -> Option<usize> {
        let (flags, len) = flags_at(text, pos)?;
        let by_flags = (self.any == 0 || flags & self.any != 0) && flags & self.none == 0;
        (by_flags || self.extra.as_bytes().contains(&text.as_bytes()[pos])).then_some(len)
    }

    /// End of the run of at most `max` characters of the class that starts at `pos`, and its length in characters.
    #[inline]
    fn run_from(self, text: &str, mut pos: usize, max: usize) -> (usize, usize) {
        let mut count = 0;
        while count < max {
            let Some(len) = self.match_at(text, pos) else { break };
            pos += len;
            count += 1;
        }
        (pos, count)
    }
}

impl Alternative {
    /// ` ?[class]+`
    const fn spaced(class: Class) -> Self {
        Self::Run { lead: Class::chars(" "), class, min: 1, max: usize::MAX, trail: Class::NOTHING }
    }

    /// `[class]{min,max}`
    const fn run(class: Class, min: usize, max: usize) -> Self {
        Self::Run { lead: Class::NOTHING, class, min, max, trail: Class::NOTHING }
    }

    /// ` ?[class]+[trail]*`
    const fn spaced_then(class: Class, trail: Class) -> Self {
        Self::Run { lead: Class::chars(" "), class, min: 1, max: usize::MAX, trail }
    }

    /// `lead?[class]+`
    const fn led(lead: Class, class: Class) -> Self {
        Self::Run { lead, class, min: 1, max: usize::MAX, trail: Class::NOTHING }
    }

    /// End of this branch's match at `start`. A match is never empty.
    #[inline]
    fn match_at(self, text: &str, start: usize) -> Option<usize> {
        match self {
            Self::Contraction => contraction(text, start, false),
            Self::ContractionAnyCase => contraction(text, start, true),
            Self::Run { lead, class, min, max, trail } => {
                // The lead is optional and greedy: with it first, without it if the rest then fails.
                let led = lead.match_at(text, start).map_or(start, |len| start + len);
                let (mut end, mut count) = class.run_from(text, led, max);
                if count < min && led != start {
                    (end, count) = class.run_from(text, start, max);
                }
                (count >= min).then(|| trail.run_from(text, end, usize::MAX).0)
            }
            Self::SpaceToNewline => {
                let (end, _) = Class::of(SPACE).run_from(text, start, usize::MAX);
                let last_newline = text.as_bytes()[start..end].iter().rposition(|b| matches!(b, b'\r' | b'\n'))?;
                Some(start + last_newline + 1)
            }
            Self::SpaceNotBeforeText => {
                let (end, count) = Class::of(SPACE).run_from(text, start, usize::MAX);
                if end == text.len() && count > 0 {
                    return Some(end);
                }
                // The look-ahead gives the last white space back to the text that follows.
                let last = text[start..end].chars().next_back()?;
                (count > 1).then(|| end - last.len_utf8())
            }
            Self::Space => {
                let (end, count) = Class::of(SPACE).run_from(text, start, usize::MAX);
                (count > 0).then_some(end)
            }
        }
    }
}

/// An English contraction after an apostrophe. Case-insensitive matching folds U+017F (long s) to `s`, as regex
/// engines do; no other character folds to a letter of these suffixes.
#[inline]
fn contraction(text: &str, start: usize, any_case: bool) -> Option<usize> {
    if text.as_bytes()[start] != b'\'' {
        return None;
    }
    let fold = |c: char| match c {
        'ſ' if any_case => 's',
        c if any_case => c.to_ascii_lowercase(),
        c => c,
    };
    let mut rest = text[start + 1..].chars();
    let first = rest.next()?;
    match (fold(first), rest.next().map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(start + 1 + first.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(start + 3),
        _ => None,
    }
}

/// `[^\s\p{L}\p{N}]`
const OTHER: Class = Class::not(SPACE | LETTER | NUMBER);
/// `[^\r\n\p{L}\p{N}]`
const WORD_LEAD: Class = Class::not(NEWLINE | LETTER | NUMBER);

/// GPT-2's pattern (Radford et al. 2019, `encoder.py` of the released code).
const GPT2: Pattern = &[
    Alternative::Contraction,
    Alternative::spaced(Class::of(LETTER)),
    Alternative::spaced(Class::of(NUMBER)),
    Alternative::spaced(OTHER),
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
];

/// The pattern of Llama 3 and its relatives (it is tiktoken's `cl100k_base`), with `digits` numbers to a group.
const fn cl100k(digits: usize) -> [Alternative; 7] {
    [
        Alternative::ContractionAnyCase,
        Alternative::led(WORD_LEAD, Class::of(LETTER)),
        Alternative::run(Class::of(NUMBER), 1, digits),
        Alternative::spaced_then(OTHER, Class::of(NEWLINE)),
        Alternative::SpaceToNewline,
        Alternative::SpaceNotBeforeText,
        Alternative::Space,
    ]
}
const LLAMA3: Pattern = &cl100k(3);
const QWEN2: Pattern = &cl100k(1);

/// Qwen 3.5: letters with their combining marks.
const QWEN35: Pattern = &[
    Alternative::ContractionAnyCase,
    Alternative::led(WORD_LEAD, Class::of(LETTER | MARK)),
    Alternative::run(Class::of(NUMBER), 1, 1),
    Alternative::spaced_then(Class::not(SPACE | LETTER | MARK | NUMBER), Class::of(NEWLINE)),
    Alternative::SpaceToNewline,
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
];

/// `\p{N}`: every number character alone.
const SINGLE_NUMBERS: Pattern = &[Alternative::run(Class::of(NUMBER), 1, 1)];
/// `[0-9][0-9][0-9]`
const TRIPLES: Pattern = &[Alternative::run(Class::of(ASCII_DIGIT), 3, 3)];
/// `\p{N}+`
const NUMBERS: Pattern = &[Alternative::run(Class::of(NUMBER), 1, usize::MAX)];
/// `[\p{P}\$\+<=>\^~\|]+`
const PUNCTUATION_RUNS: Pattern =
    &[Alternative::run(Class { any: PUNCTUATION, none: 0, extra: "$+<=>^~|" }, 1, usize::MAX)];
/// `[\p{P}\$\+<=>\^~\|`]+`
const FALCON_PUNCTUATION_RUNS: Pattern =
    &[Alternative::run(Class { any: PUNCTUATION, none: 0, extra: "$+<=>^~|`" }, 1, usize::MAX)];

/// The pre-tokenizer called `name`, if this crate knows it. Names and groups are those of llama.cpp's table.
pub fn find(name: &str) -> Option<&'static PreTokenizer> {
    static LLAMA_BPE: PreTokenizer = PreTokenizer { patterns: &[LLAMA3], ignore_merges: true, add_bos: true };
    static DBRX: PreTokenizer = pre(&[LLAMA3]);
    static QWEN2_LIKE: PreTokenizer = pre(&[QWEN2]);
    static QWEN35_LIKE: PreTokenizer = pre(&[QWEN35]);
    static GPT2_LIKE: PreTokenizer = pre(&[GPT2]);
    static STARCODER: PreTokenizer = pre(&[SINGLE_NUMBERS, GPT2]);
    static FALCON: PreTokenizer = pre(&[FALCON_PUNCTUATION_RUNS, GPT2, TRIPLES]);
    Some(match name {
        "default" => &DEFAULT,
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => &LLAMA_BPE,
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => &DBRX,
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" | "hunyuan" | "grok-2" => &QWEN2_LIKE,
        "qwen35" => &QWEN35_LIKE,
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "gigachat" | "mellum" | "exaone4" => &GPT2_LIKE,
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" => &STARCODER,
        "falcon" => &FALCON,
        _ => return None,
    })
}

/// What files without a known `pre` get: llama.cpp's "default".
pub static DEFAULT: PreTokenizer = pre(&[PUNCTUATION_RUNS, GPT2, NUMBERS, TRIPLES]);

const fn pre(patterns: &'static [Pattern]) -> PreTokenizer {
    PreTokenizer { patterns, ignore_merges: false, add_bos: false }
}

impl PreTokenizer {
    /// Calls `each` with the words of `text` in order; together they are the whole text.
    pub fn split<'t>(&self, text: &'t str, each: &mut impl FnMut(&'t str)) {
        split_stage(self.patterns, text, each);
    }
}

fn split_stage<'t>(patterns: &[Pattern], text: &'t str, each: &mut impl FnMut(&'t str)) {
    let Some((pattern, later)) = patterns.split_first() else {
        each(text);
        return;
    };
    let mut pos = 0;
    // Start of the text since the last match, which nothing has matched so far.
    let mut unmatched = 0;
    while let Some((_, len)) = flags_at(text, pos) {
        match pattern.iter().find_map(|alternative| alternative.match_at(text, pos)) {
            Some(end) => {
                if unmatched < pos {
                    split_stage(later, &text[unmatched..pos], each);
                }
                split_stage(later, &text[pos..end], each);
                pos = end;
                unmatched = end;
            }
            None => pos += len,
        }
    }
    if unmatched < pos {
        split_stage(later, &text[unmatched..pos], each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pre: &str, text: &str, expected: &[&str]) {
        let mut words = Vec::new();
        find(pre).expect("the test names a known pre").split(text, &mut |word| words.push(word));
        assert_eq!(words, expected, "{pre}: {text:?}");
        assert_eq!(words.concat(), text);
    }

    #[test]
    fn gpt2_keeps_a_space_with_its_word() {
        check("gpt-2", "Hello  world's 12 é!", &["Hello", " ", " world", "'s", " 12", " é", "!"]);
        check("gpt-2", "a \n\n b", &["a", " \n\n", " b"]);
        check("gpt-2", "WE'RE", &["WE", "'", "RE"]);
        check("gpt-2", "end  ", &["end", "  "]);
        check("gpt-2", "a\u{3000}b", &["a", "\u{3000}", "b"]);
    }

    #[test]
    fn llama3_groups_three_digits_and_takes_line_ends_with_punctuation() {
        check("llama-bpe", "12345 WE'RE", &["123", "45", " WE", "'RE"]);
        check("llama-bpe", "x) {\r\n\n  y", &["x", ")", " {\r\n\n", " ", " y"]);
        check("llama-bpe", "  \n  \n  z", &["  \n  \n", " ", " z"]);
        check("llama-bpe", "\tword\u{a0}x", &["\tword", "\u{a0}x"]);
        check("llama-bpe", "½²٣४", &["½²٣", "४"]);
    }

    #[test]
    fn contractions_fold_the_long_s_where_case_is_ignored() {
        check("qwen2", "'ſt", &["'ſ", "t"]);
        check("gpt-2", "'ſt", &["'", "ſt"]);
        check("qwen2", "'", &["'"]);
        check("qwen2", "'l 'LLx", &["'l", " '", "LLx"]);
        check("qwen2", "y'LLx", &["y", "'LL", "x"]);
    }

    #[test]
    fn qwen2_takes_numbers_one_by_one() {
        check("qwen2", " 123", &[" ", "1", "2", "3"]);
    }

    #[test]
    fn several_patterns_cut_the_pieces_of_the_ones_before() {
        check("starcoder", "v12 3", &["v", "1", "2", " ", "3"]);
        check("default", "a,b 12345", &["a", ",", "b", " ", "123", "45"]);
    }

    #[test]
    fn combining_marks_stay_with_letters_only_where_the_pattern_says_so() {
        check("qwen2", "e\u{301}a", &["e", "\u{301}a"]);
        check("qwen35", "e\u{301}a", &["e\u{301}a"]);
    }

    #[test]
    fn an_unknown_name_is_not_guessed() {
        assert!(find("no-such-pre").is_none());
    }
}
