//! The shapes that pre-tokenizer patterns are made of, and a matcher for them that never backtracks far.
//!
//! Every published pattern is an ordered choice of a few shapes (contractions, runs of a class with an optional lead,
//! words by letter case, white space before or after line ends), so a pattern is data: a list of [`Alternative`]s tried
//! in order at each position, with the meaning of the backtracking regex that the models publish. Text that no
//! alternative matches becomes a piece of its own, as `Split(…, behavior="isolated")` does.
//!
//! Each alternative looks at no more than the text it takes, plus at most one run that the next match takes: a text is
//! cut in linear time. The patterns themselves are in `patterns.rs`.

use crate::unicode::{DECIMAL, Flags, SPACE, WORD, flags_at, flags_of_ascii, in_ranges};

/// One pass over a text.
#[derive(Debug, Clone, Copy)]
pub enum Stage {
    /// Matches of an ordered choice, each a piece, and what is between them.
    Pattern(&'static [Alternative]),
    /// Runs of the class in groups of three from the right, the first one shorter; with `before_boundary` only runs of
    /// decimal digits that end at a word boundary: `\d{1,3}(?=(?:\d{3})*\b)`.
    Triples {
        /// What is grouped.
        class: Class,
        /// Whether a letter after the run leaves it whole.
        before_boundary: bool,
    },
    /// Runs without white space; the white space is dropped.
    Words,
}

/// One branch of a pattern's ordered choice.
#[derive(Debug, Clone, Copy)]
pub enum Alternative {
    /// `'s|'t|'re|'ve|'m|'ll|'d`
    Contraction,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
    ContractionAnyCase,
    /// `lead? class{min,max} trail{0,trail_max}`
    Run { lead: Class, class: Class, min: usize, max: usize, trail: Class, trail_max: usize },
    /// `first then+`
    Pair { first: Class, then: Class },
    /// `lead? upper* lower+ suffix? | lead? upper+ lower* suffix?`, where the suffix is a contraction in any case.
    Cased { lead: Class, upper: Class, lower: Class, contraction: bool },
    /// `lead?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`: words with single spaces between them.
    JoinedWords { lead: Class, letter: Class, mark: Class },
    /// `\s*[\r\n]+`, which is also `\s*[\r\n]`
    SpaceToNewline,
    /// `\s+(?!\S)`
    SpaceNotBeforeText,
    /// `\s+`
    Space,
    /// `\s+$`, in a text without line ends
    SpaceAtEnd,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|…|\s{4}(?!\S)|\s{1,2}(?!\S)|\s`
    SpaceByPowers,
    /// These very characters.
    Literal(&'static str),
    /// `open class{min,max} close`; the class has no character of `close`.
    Between { open: &'static str, class: Class, min: usize, max: usize, close: &'static str },
}

/// A character class.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// Which ASCII characters are in it, one bit each.
    ascii: u128,
    /// Beyond ASCII: characters with one of these properties …
    any: Flags,
    /// … and none of these, …
    none: Flags,
    /// … or in one of these ranges, which are in order; …
    ranges: &'static [(char, char)],
    /// … or the opposite of all that.
    negated: bool,
}

impl Class {
    /// `[…]`
    pub const fn of(any: Flags) -> Self {
        let mut ascii = 0;
        let mut byte = 0;
        while byte < 128 {
            if flags_of_ascii(byte) & any != 0 {
                ascii |= 1 << byte;
            }
            byte += 1;
        }
        Self { ascii, any, none: 0, ranges: &[], negated: false }
    }

    /// `[^…]`
    pub const fn not(none: Flags) -> Self {
        Self::of(none).negate()
    }

    /// Exactly these ASCII characters.
    pub const fn chars(chars: &str) -> Self {
        Self::of(0).with(chars)
    }

    /// Exactly these characters, in order; single ones are ranges, too. ASCII ones only through [`Class::with`].
    pub const fn ranges(ranges: &'static [(char, char)]) -> Self {
        Self::of(0).with_ranges(ranges)
    }

    /// Also these ASCII characters.
    pub const fn with(mut self, chars: &str) -> Self {
        let bytes = chars.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at] < 128, "other characters are given as ranges");
            self.ascii |= 1 << bytes[at];
            at += 1;
        }
        self
    }

    /// Also these characters beyond ASCII.
    pub const fn with_ranges(mut self, ranges: &'static [(char, char)]) -> Self {
        let mut at = 0;
        while at < ranges.len() {
            assert!(ranges[at].0 as u32 > 127 && ranges[at].0 as u32 <= ranges[at].1 as u32, "a range beyond ASCII");
            assert!(at == 0 || (ranges[at - 1].1 as u32) < ranges[at].0 as u32, "ranges are in order");
            at += 1;
        }
        self.ranges = ranges;
        self
    }

    /// Without characters that have one of these properties, of those beyond ASCII.
    pub const fn without(mut self, none: Flags) -> Self {
        self.none = none;
        self
    }

    /// Everything else.
    pub const fn negate(mut self) -> Self {
        self.ascii = !self.ascii;
        self.negated = !self.negated;
        self
    }

    /// No character.
    pub const NOTHING: Self = Self::of(0);

    /// Length of the character at `pos` if it is in the class.
    #[inline]
    pub fn match_at(self, text: &str, pos: usize) -> Option<usize> {
        let first = *text.as_bytes().get(pos)?;
        if first < 0x80 {
            return (self.ascii >> first & 1 == 1).then_some(1);
        }
        let (flags, len) = flags_at(text, pos)?;
        let mut inside = flags & self.any != 0 && flags & self.none == 0;
        if !inside && !self.ranges.is_empty() {
            inside = text[pos..].chars().next().is_some_and(|c| in_ranges(self.ranges, c));
        }
        (inside != self.negated).then_some(len)
    }

    /// End of the run of at most `max` characters of the class that starts at `pos`, and its length in characters.
    #[inline]
    pub fn run_from(self, text: &str, mut pos: usize, max: usize) -> (usize, usize) {
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
    pub const fn spaced(class: Class) -> Self {
        Self::led(Class::chars(" "), class)
    }

    /// `[class]{min,max}`
    pub const fn run(class: Class, min: usize, max: usize) -> Self {
        Self::Run { lead: Class::NOTHING, class, min, max, trail: Class::NOTHING, trail_max: 0 }
    }

    /// ` ?[class]+[trail]*`
    pub const fn spaced_then(class: Class, trail: Class) -> Self {
        Self::Run { lead: Class::chars(" "), class, min: 1, max: usize::MAX, trail, trail_max: usize::MAX }
    }

    /// `lead?[class]+`
    pub const fn led(lead: Class, class: Class) -> Self {
        Self::Run { lead, class, min: 1, max: usize::MAX, trail: Class::NOTHING, trail_max: 0 }
    }

    /// End of this branch's match at `start`. A match is never empty.
    #[inline]
    fn match_at(&self, text: &str, start: usize) -> Option<usize> {
        match *self {
            Self::Contraction => contraction(text, start, false),
            Self::ContractionAnyCase => contraction(text, start, true),
            Self::Run { lead, class, min, max, trail, trail_max } => {
                // The lead is optional and greedy: with it first, without it if the rest then fails.
                let led = lead.match_at(text, start).map_or(start, |len| start + len);
                let (mut end, mut count) = class.run_from(text, led, max);
                if count < min && led != start {
                    (end, count) = class.run_from(text, start, max);
                }
                (count >= min).then(|| trail.run_from(text, end, trail_max).0)
            }
            Self::Pair { first, then } => {
                let after = start + first.match_at(text, start)?;
                let (end, count) = then.run_from(text, after, usize::MAX);
                (count > 0).then_some(end)
            }
            Self::Cased { lead, upper, lower, contraction: suffix } => {
                let led = lead.match_at(text, start).map(|len| start + len);
                let rising = |from| rising(text, from, upper, lower);
                let capitals = |from| upper.match_at(text, from).map(|_| upper.run_from(text, from, usize::MAX).0);
                // `upper+ lower*` is reached only where no lower letter follows, so the run of upper ones is all of it.
                let end = led
                    .and_then(rising)
                    .or_else(|| rising(start))
                    .or_else(|| led.and_then(capitals))
                    .or_else(|| capitals(start))?;
                Some(if suffix { contraction(text, end, true).unwrap_or(end) } else { end })
            }
            Self::JoinedWords { lead, letter, mark } => {
                let led = lead.match_at(text, start).map_or(start, |len| start + len);
                let from = if letter.match_at(text, led).is_some() { led } else { start };
                joined_words(text, from, letter, mark)
            }
            Self::SpaceToNewline => {
                let (end, _) = SPACES.run_from(text, start, usize::MAX);
                let last_newline = text.as_bytes()[start..end].iter().rposition(|b| matches!(b, b'\r' | b'\n'))?;
                Some(start + last_newline + 1)
            }
            Self::SpaceNotBeforeText => {
                let (end, count) = SPACES.run_from(text, start, usize::MAX);
                if end == text.len() && count > 0 {
                    return Some(end);
                }
                // The look-ahead gives the last white space back to the text that follows.
                let last = text[start..end].chars().next_back()?;
                (count > 1).then(|| end - last.len_utf8())
            }
            Self::Space => {
                let (end, count) = SPACES.run_from(text, start, usize::MAX);
                (count > 0).then_some(end)
            }
            Self::SpaceAtEnd => space_at_end(text, start),
            Self::SpaceByPowers => space_by_powers(text, start),
            Self::Literal(literal) => text[start..].starts_with(literal).then(|| start + literal.len()),
            Self::Between { open, class, min, max, close } => {
                let inner = text[start..].starts_with(open).then(|| start + open.len())?;
                let (end, count) = class.run_from(text, inner, max);
                (count >= min && text[end..].starts_with(close)).then(|| end + close.len())
            }
        }
    }
}

const SPACES: Class = Class::of(SPACE);

/// An English contraction after an apostrophe. Case-insensitive matching folds U+017F (long s) to `s`, as regex
/// engines do; no other character folds to a letter of these suffixes.
#[inline]
fn contraction(text: &str, start: usize, any_case: bool) -> Option<usize> {
    if text.as_bytes().get(start) != Some(&b'\'') {
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

/// `upper* lower+`: the classes overlap, so what `upper*` has taken is given back up to its last character that is also
/// a lower one.
fn rising(text: &str, from: usize, upper: Class, lower: Class) -> Option<usize> {
    let (mut pos, mut last_lower) = (from, None);
    while let Some(len) = upper.match_at(text, pos) {
        if lower.match_at(text, pos).is_some() {
            last_lower = Some(pos + len);
        }
        pos += len;
    }
    let (end, count) = lower.run_from(text, pos, usize::MAX);
    if count > 0 { Some(end) } else { last_lower }
}

fn joined_words(text: &str, from: usize, letter: Class, mark: Class) -> Option<usize> {
    let mut end = from + letter.match_at(text, from)?;
    loop {
        end = mark.run_from(text, end, usize::MAX).0;
        let space = usize::from(text.as_bytes().get(end) == Some(&b' '));
        let Some(len) = letter.match_at(text, end + space) else { return Some(end) };
        end += space + len;
    }
}

fn space_at_end(text: &str, start: usize) -> Option<usize> {
    // Where the character before is white space, too, its run has already been found not to reach the end: a match
    // would have begun there. So every run is walked once.
    if text[..start].chars().next_back().is_some_and(char::is_whitespace) {
        return None;
    }
    let (end, count) = SPACES.run_from(text, start, usize::MAX);
    (count > 0 && end == text.len()).then_some(end)
}

fn space_by_powers(text: &str, start: usize) -> Option<usize> {
    const LARGEST: usize = 512;
    let (end, count) = SPACES.run_from(text, start, LARGEST + 1);
    // `(?!\S)` holds inside a run, and after it at the end of the text only.
    let fits = if end == text.len() { count } else { count.saturating_sub(1) };
    let take = match fits {
        _ if count == 0 => return None,
        0 => 1,
        1..4 => fits.min(2),
        _ => 1 << fits.min(LARGEST).ilog2(),
    };
    Some(SPACES.run_from(text, start, take).0)
}

/// Calls `each` with the pieces of `text` in order. Each stage cuts the pieces of the one before; together they are the
/// whole text, but for what [`Stage::Words`] drops.
pub fn split<'t>(stages: &[Stage], text: &'t str, each: &mut impl FnMut(&'t str)) {
    let Some((stage, later)) = stages.split_first() else {
        each(text);
        return;
    };
    let mut pos = 0;
    // Start of the text since the last match, which nothing has matched so far.
    let mut unmatched = 0;
    let mut found = |range: std::ops::Range<usize>, unmatched: &mut usize| {
        if *unmatched < range.start {
            split(later, &text[*unmatched..range.start], each);
        }
        *unmatched = range.end;
        split(later, &text[range], each);
    };
    match *stage {
        Stage::Pattern(pattern) => {
            while let Some((_, len)) = flags_at(text, pos) {
                match pattern.iter().find_map(|alternative| alternative.match_at(text, pos)) {
                    Some(end) => {
                        found(pos..end, &mut unmatched);
                        pos = end;
                    }
                    None => pos += len,
                }
            }
        }
        Stage::Triples { class, before_boundary } => {
            while let Some((_, len)) = flags_at(text, pos) {
                let (end, mut count) = class.run_from(text, pos, usize::MAX);
                if count == 0 {
                    pos += len;
                } else if before_boundary && flags_at(text, end).is_some_and(|(flags, _)| flags & WORD != 0) {
                    pos = end;
                } else {
                    while count > 0 {
                        let (group_end, taken) = class.run_from(text, pos, (count - 1) % 3 + 1);
                        found(pos..group_end, &mut unmatched);
                        count -= taken;
                        pos = group_end;
                    }
                }
            }
        }
        Stage::Words => {
            text.split(|c: char| c.is_whitespace()).filter(|word| !word.is_empty()).for_each(|word| {
                split(later, word, each);
            });
            return;
        }
    }
    if unmatched < text.len() {
        split(later, &text[unmatched..], each);
    }
}

/// `\d`, for [`Stage::Triples`].
pub const DECIMALS: Class = Class::of(DECIMAL);
