//! Character properties as the published pre-tokenizer patterns mean them, one flag word per character.
//!
//! The Unicode version is part of a tokenizer's behaviour: a code point that became a letter in a later version
//! splits differently from then on. The tables are those of Unicode 16, which equal, for every code point, what the
//! regex engine of the PyPI package `tokenizers` 0.23 answers for `\p{L} \p{N} \p{M} \p{P} \p{S} \p{Lu} \p{Han} \d \w` and `\s`.

use unicode_general_category::{GeneralCategory as G, get_general_category};

/// A set of character properties; a character has several at once.
pub type Flags = u16;

/// `\p{L}`
pub const LETTER: Flags = 1;
/// `\p{N}`
pub const NUMBER: Flags = 1 << 1;
/// `\p{M}`
pub const MARK: Flags = 1 << 2;
/// `\p{P}`
pub const PUNCTUATION: Flags = 1 << 3;
/// `\p{S}`
pub const SYMBOL: Flags = 1 << 4;
/// `\s` (the `White_Space` property)
pub const SPACE: Flags = 1 << 5;
/// `[\r\n]`
pub const NEWLINE: Flags = 1 << 6;
/// `\p{Lu}` and `\p{Lt}`: letters that begin a capitalized word.
pub const UPPERCASE: Flags = 1 << 7;
/// `\p{Ll}`
pub const LOWERCASE: Flags = 1 << 8;
/// `\p{Lm}` and `\p{Lo}`: letters without case.
pub const UNCASED: Flags = 1 << 9;
/// `\p{Nd}`, which is also `\d`.
pub const DECIMAL: Flags = 1 << 10;
/// `\w`
pub const WORD: Flags = 1 << 11;
/// `\p{Han}`
pub const HAN: Flags = 1 << 12;

/// The properties of the character at `pos` and its length in bytes; `None` at the end of the text.
#[inline]
pub fn flags_at(text: &str, pos: usize) -> Option<(Flags, usize)> {
    let first = *text.as_bytes().get(pos)?;
    if first < 0x80 {
        return Some((ASCII[first as usize], 1));
    }
    let c = text[pos..].chars().next()?;
    Some((flags_beyond_ascii(c), c.len_utf8()))
}

static ASCII: [Flags; 128] = {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = flags_of_ascii(byte as u8);
        byte += 1;
    }
    table
};

/// The properties of an ASCII character.
pub const fn flags_of_ascii(byte: u8) -> Flags {
    match byte {
        b'A'..=b'Z' => LETTER | UPPERCASE | WORD,
        b'a'..=b'z' => LETTER | LOWERCASE | WORD,
        b'0'..=b'9' => NUMBER | DECIMAL | WORD,
        b'\r' | b'\n' => SPACE | NEWLINE,
        b'\t' | 0x0B | 0x0C | b' ' => SPACE,
        b'_' => PUNCTUATION | WORD,
        b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => SYMBOL,
        b'!'..=b'/' | b':'..=b'@' | b'['..=b']' | b'{'..=b'}' => PUNCTUATION,
        _ => 0,
    }
}

fn flags_beyond_ascii(c: char) -> Flags {
    let flags = match get_general_category(c) {
        G::UppercaseLetter | G::TitlecaseLetter => LETTER | UPPERCASE | WORD,
        G::LowercaseLetter => LETTER | LOWERCASE | WORD,
        G::ModifierLetter | G::OtherLetter => LETTER | UNCASED | WORD,
        G::DecimalNumber => NUMBER | DECIMAL | WORD,
        G::LetterNumber => NUMBER | WORD,
        G::OtherNumber => NUMBER,
        G::NonspacingMark | G::SpacingMark | G::EnclosingMark => MARK | WORD,
        G::ConnectorPunctuation => PUNCTUATION | WORD,
        G::DashPunctuation
        | G::OpenPunctuation
        | G::ClosePunctuation
        | G::InitialPunctuation
        | G::FinalPunctuation
        | G::OtherPunctuation => PUNCTUATION,
        G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol => SYMBOL,
        // White space is found only among separators and, U+0085, controls.
        _ if c.is_whitespace() => SPACE,
        _ => 0,
    };
    let more = |flag, ranges: &[(char, char)]| if in_ranges(ranges, c) { flag } else { 0 };
    // Neither set reaches below these code points, nor in between.
    match c {
        '\u{B2}'..='\u{BE}' | '\u{24B6}'..='\u{24E9}' | '\u{1F130}'..='\u{1F189}' => flags | more(WORD, MORE_WORD),
        '\u{2E80}'.. => flags | more(HAN, HAN_RANGES),
        _ => flags,
    }
}

/// Whether `c` is in one of the ranges, which are in order.
#[inline]
pub fn in_ranges(ranges: &[(char, char)], c: char) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= c);
    after > 0 && c <= ranges[after - 1].1
}

/// What the regex engine takes as `\w` beyond letters, marks, decimal and letter numbers and connectors.
const MORE_WORD: &[(char, char)] = &[
    ('\u{B2}', '\u{B3}'),
    ('\u{B9}', '\u{B9}'),
    ('\u{BC}', '\u{BE}'),
    ('\u{24B6}', '\u{24E9}'),
    ('\u{1F130}', '\u{1F149}'),
    ('\u{1F150}', '\u{1F169}'),
    ('\u{1F170}', '\u{1F189}'),
];

/// The script Han (`Scripts.txt` of Unicode 16).
#[rustfmt::skip]
const HAN_RANGES: &[(char, char)] = &[
    ('\u{2E80}', '\u{2E99}'), ('\u{2E9B}', '\u{2EF3}'), ('\u{2F00}', '\u{2FD5}'), ('\u{3005}', '\u{3005}'),
    ('\u{3007}', '\u{3007}'), ('\u{3021}', '\u{3029}'), ('\u{3038}', '\u{303B}'), ('\u{3400}', '\u{4DBF}'),
    ('\u{4E00}', '\u{9FFF}'), ('\u{F900}', '\u{FA6D}'), ('\u{FA70}', '\u{FAD9}'), ('\u{16FE2}', '\u{16FE3}'),
    ('\u{16FF0}', '\u{16FF1}'), ('\u{20000}', '\u{2A6DF}'), ('\u{2A700}', '\u{2B739}'), ('\u{2B740}', '\u{2B81D}'),
    ('\u{2B820}', '\u{2CEA1}'), ('\u{2CEB0}', '\u{2EBE0}'), ('\u{2EBF0}', '\u{2EE5D}'), ('\u{2F800}', '\u{2FA1D}'),
    ('\u{30000}', '\u{3134A}'), ('\u{31350}', '\u{323AF}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(c: char) -> Flags {
        let (flags, len) = flags_at(c.encode_utf8(&mut [0; 4]), 0).expect("there is a character");
        assert_eq!(len, c.len_utf8());
        flags
    }

    #[test]
    fn the_ascii_table_agrees_with_the_general_categories() {
        for c in '\0'..='\x7F' {
            let mut expected = flags_beyond_ascii(c);
            if matches!(c, '\r' | '\n') {
                expected |= NEWLINE;
            }
            assert_eq!(flags(c), expected, "{c:?}");
        }
    }

    #[test]
    fn white_space_has_no_other_property_beyond_ascii() {
        for c in ('\u{80}'..=char::MAX).filter(|c| c.is_whitespace()) {
            assert_eq!(flags(c), SPACE, "{c:?}");
        }
    }

    /// Counts measured with PyPI `tokenizers` 0.23.3 over all code points (see tests/oracle_tokenizers.py).
    #[test]
    fn the_classes_have_the_sizes_that_the_oracle_counted() {
        let count = |flag| (char::MIN..=char::MAX).filter(|&c| flags(c) & flag != 0).count();
        assert_eq!(unicode_general_category::UNICODE_VERSION, (16, 0, 0));
        let sizes = [LETTER, NUMBER, MARK, PUNCTUATION, SYMBOL, SPACE].map(count);
        assert_eq!(sizes, [141028, 1911, 2501, 855, 8514, 25]);
        let sizes = [UPPERCASE, LOWERCASE, UNCASED, DECIMAL, WORD, HAN].map(count);
        assert_eq!(sizes, [1858 + 31, 2258, 404 + 136477, 760, 144671, 99030]);
    }
}
