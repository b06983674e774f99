//! The beginning of a JSON object, checked as it comes: what is passed on of it can always still become valid JSON.

/// Deepest nesting, as `serde_json` has it.
const DEPTH_MAX: usize = 127;
/// A number or a literal that is longer is none.
const WORD_BYTES_MAX: usize = 512;

/// A reader of one object, from its opening brace to the closing one.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonPrefix {
    /// The closing brackets that are to come, the innermost last.
    open: Vec<u8>,
    expected: Expected,
}

/// What may come next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Expected {
    /// A value.
    #[default]
    Value,
    /// A value or the end of the list that was just opened.
    FirstItem,
    /// A key or the end of the object that was just opened.
    FirstKey,
    /// A key.
    Key,
    Colon,
    /// Behind a value.
    CommaOrEnd,
    /// Within a string.
    Text {
        is_key: bool,
    },
    /// Behind a backslash in a string.
    Escape {
        is_key: bool,
    },
    /// So many more digits of `\uXXXX`.
    Hex {
        is_key: bool,
        digits: u8,
    },
}

/// How far an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    More,
    /// It is complete.
    Complete,
    /// What follows cannot be JSON.
    Broken,
}

enum Step {
    Taken(usize),
    Complete,
    Wait,
    Broken,
}

impl JsonPrefix {
    /// Takes more of the text and says how many of its bytes are certain to be part of the object. What follows them must be
    /// given again: numbers and literals are certain only when something stands behind them.
    pub fn read(&mut self, text: &str) -> (usize, Progress) {
        let mut at = 0;
        while let Some(&byte) = text.as_bytes().get(at) {
            let is_value = matches!(self.expected, Expected::Value | Expected::FirstItem);
            let step = if is_value && is_word(byte) { self.word(&text[at..]) } else { self.byte(byte) };
            match step {
                Step::Taken(bytes) => at += bytes,
                Step::Complete => return (at + 1, Progress::Complete),
                Step::Wait => return (at, Progress::More),
                Step::Broken => return (at, Progress::Broken),
            }
        }
        (at, Progress::More)
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self, text: &str) -> Step {
        let end = text.bytes().position(|byte| !is_word(byte));
        let is_inside = !self.open.is_empty();
        match end {
            None if text.len() <= WORD_BYTES_MAX => Step::Wait,
            Some(end) if is_inside && serde_json::from_str::<serde_json::Value>(&text[..end]).is_ok() => {
                self.expected = Expected::CommaOrEnd;
                Step::Taken(end)
            }
            _ => Step::Broken,
        }
    }

    fn byte(&mut self, byte: u8) -> Step {
        use Expected::{Colon, CommaOrEnd, Escape, FirstItem, FirstKey, Hex, Key, Text, Value};
        let closes = self.open.last() == Some(&byte);
        self.expected = match (self.expected, byte) {
            (Text { is_key: true }, b'"') => Colon,
            (Text { is_key: false }, b'"') => CommaOrEnd,
            (Text { is_key }, b'\\') => Escape { is_key },
            (Text { .. }, 0..0x20) => return Step::Broken,
            (text @ Text { .. }, _) => text,
            (Escape { is_key }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Text { is_key },
            (Escape { is_key }, b'u') => Hex { is_key, digits: 4 },
            (Hex { is_key, digits: 1 }, digit) if digit.is_ascii_hexdigit() => Text { is_key },
            (Hex { is_key, digits }, digit) if digit.is_ascii_hexdigit() => Hex { is_key, digits: digits - 1 },
            (unchanged, b' ' | b'\t' | b'\n' | b'\r') if !matches!(unchanged, Escape { .. } | Hex { .. }) => unchanged,
            (Value | FirstItem, b'"') if !self.open.is_empty() => Text { is_key: false },
            (FirstKey | Key, b'"') => Text { is_key: true },
            (Value | FirstItem, b'{') if self.open.len() < DEPTH_MAX => {
                self.open.push(b'}');
                FirstKey
            }
            (Value | FirstItem, b'[') if (1..DEPTH_MAX).contains(&self.open.len()) => {
                self.open.push(b']');
                FirstItem
            }
            (CommaOrEnd, b',') if self.open.last() == Some(&b'}') => Key,
            (Colon, b':') | (CommaOrEnd, b',') => Value,
            (CommaOrEnd | FirstItem | FirstKey, _) if closes => {
                self.open.pop();
                if self.open.is_empty() {
                    return Step::Complete;
                }
                CommaOrEnd
            }
            _ => return Step::Broken,
        };
        Step::Taken(1)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is certain of a text that comes in pieces of `size` characters.
    fn read(text: &str, size: usize) -> (String, Progress) {
        let (mut json, mut certain, mut given) = (JsonPrefix::default(), 0, 0);
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        while given < text.len() {
            given = ends[(ends.iter().position(|&end| end == given).unwrap() + size).min(ends.len() - 1)];
            let (bytes, progress) = json.read(&text[certain..given]);
            certain += bytes;
            if progress != Progress::More {
                return (text[..certain].to_owned(), progress);
            }
        }
        (text[..certain].to_owned(), Progress::More)
    }

    #[test]
    fn the_certain_part_is_the_beginning_of_an_object() {
        use Progress::{Broken, Complete, More};
        for (text, certain, progress) in [
            ("{}", "{}", Complete),
            ("{ } x", "{ }", Complete),
            (
                r#"{"a": [1, -2.5e3, {"ü": "\u00fc\n"}, [], true, null]}]"#,
                r#"{"a": [1, -2.5e3, {"ü": "\u00fc\n"}, [], true, null]}"#,
                Complete,
            ),
            (r#"{"a": "}"#, r#"{"a": "}"#, More),
            (r#"{"a": 12"#, r#"{"a": "#, More),
            (r#"{"a": True}"#, r#"{"a": "#, Broken),
            (r#"{"a": 01}"#, r#"{"a": "#, Broken),
            (r#"{"a": x"y"}"#, r#"{"a": "#, Broken),
            (r"{'a': 1}", "{", Broken),
            (r#"{"a": 1,}"#, r#"{"a": 1,"#, Broken),
            (r#"{"a": [1}"#, r#"{"a": [1"#, Broken),
            (r#"{"a" 1}"#, r#"{"a" "#, Broken),
            ("{\"a\": \"\n", "{\"a\": \"", Broken),
            (r#"{"a": "\x"#, r#"{"a": "\"#, Broken),
            (r#"{"a": "\u00g"#, r#"{"a": "\u00"#, Broken),
            ("[1]", "", Broken),
            ("1", "", More),
            ("1 ", "", Broken),
        ] {
            for size in [1, 2, 3, 100] {
                assert_eq!(read(text, size), (certain.to_owned(), progress), "{text} in pieces of {size}");
            }
        }
        let deep = |levels: usize| format!("{{\"a\": {}1{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(read(&deep(DEPTH_MAX - 1), 50).1, Complete);
        assert_eq!(read(&deep(DEPTH_MAX), 50).1, Broken);
        assert_eq!(read(&format!("{{\"a\": {}", "1".repeat(2 * WORD_BYTES_MAX)), 7).1, Broken);
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_the_parser(picks in proptest::collection::vec(0..16usize, 0..24), size in 1..5usize) {
            const PARTS: [&str; 16] = ["{", "}", "[", "]", ",", ":", "\"", "\\", " ", "a", "1", "-", "true", "null", "\"b\":", "u00e9"];
            let text = format!("{{{}", picks.iter().map(|&at| PARTS[at]).collect::<String>());
            let (certain, progress) = read(&text, size);
            match progress {
                // A lone surrogate is what the parser refuses and this does not; none can be made of these parts.
                Progress::Complete => proptest::prop_assert!(serde_json::from_str::<serde_json::Value>(&certain).is_ok(), "{}", certain),
                Progress::More | Progress::Broken => {
                    proptest::prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_err(), "{}", text);
                }
            }
        }
    }
}
