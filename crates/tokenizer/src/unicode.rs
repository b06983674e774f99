//! Character properties as the published pre-tokenizer patterns mean them, one flag word per character.
//!
//! The Unicode version is part of a tokenizer's behaviour: a code point that became a letter in a later version
//! splits differently from then on. The tables are those of Unicode 16, which equal, for every code point, what the
//! regex engine of the PyPI package `tokenizers` 0.23 answers for `\p{L} \p{N} \p{M} \p{P} \p{S} \p{Lu}` and `\s`.

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
/// `[0-9]`
pub const ASCII_DIGIT: Flags = 1 << 7;

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

const fn flags_of_ascii(byte: u8) -> Flags {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => LETTER,
        b'0'..=b'9' => NUMBER | ASCII_DIGIT,
        b'\r' | b'\n' => SPACE | NEWLINE,
        b'\t' | 0x0B | 0x0C | b' ' => SPACE,
        b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => SYMBOL,
        b'!'..=b'/' | b':'..=b'@' | b'['..=b'_' | b'{'..=b'}' => PUNCTUATION,
        _ => 0,
    }
}

fn flags_beyond_ascii(c: char) -> Flags {
    match get_general_category(c) {
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter => LETTER,
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => NUMBER,
        G::NonspacingMark | G::SpacingMark | G::EnclosingMark => MARK,
        G::ConnectorPunctuation
        | G::DashPunctuation
        | G::OpenPunctuation
        | G::ClosePunctuation
        | G::InitialPunctuation
        | G::FinalPunctuation
        | G::OtherPunctuation => PUNCTUATION,
        G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol => SYMBOL,
        // White space is found only among separators and, U+0085, controls.
        _ if c.is_whitespace() => SPACE,
        _ => 0,
    }
}

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
            if c.is_ascii_digit() {
                expected |= ASCII_DIGIT;
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
    }
}
