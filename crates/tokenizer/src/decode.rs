//! From bytes of tokens to text: characters come out when they are complete, never in halves.

use crate::{Error, TokenId, Tokenizer};

/// How ids become text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Write control and unknown tokens as their texts (`<s>`); otherwise they leave nothing.
    pub control_text: bool,
    /// Keep the space that encoding puts before a text (SPM and Unigram with a space prefix, WordPiece).
    pub keep_space_prefix: bool,
    /// Take the space before punctuation and English contractions away (`clean_up_tokenization_spaces`). `None` does
    /// so for WordPiece only, which has no other way to know where there were none; for the other kinds decoding is
    /// then the inverse of encoding. What a model's own decoder does says
    /// [`Tokenizer::cleans_spaces`](crate::Tokenizer::cleans_spaces). Has no effect on streams.
    pub clean_spaces: Option<bool>,
}

/// Takes the space out of ` .`, ` ?`, ` !`, ` ,`, ` ' `, ` n't`, ` 'm`, ` 's`, ` 've` and ` 're`, as `transformers` does.
pub(crate) fn clean_spaces(text: &[u8]) -> Vec<u8> {
    const AFTER_SPACE: [&[u8]; 9] = [b".", b"?", b"!", b",", b"n't", b"'m", b"'s", b"'ve", b"'re"];
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b' ' && after.starts_with(b"' ") {
            out.push(b'\'');
            rest = &after[2..];
            continue;
        }
        if byte != b' ' || !AFTER_SPACE.iter().any(|mark| after.starts_with(mark)) {
            out.push(byte);
        }
        rest = after;
    }
    out
}

/// Turns a stream of bytes into a stream of text.
///
/// Bytes that are part of a character wait until it is complete. Bytes that cannot become one any more are replaced by
/// U+FFFD, one for each maximal invalid sequence, as [`String::from_utf8_lossy`] does: the pieces of a stream put
/// together are what that function makes of all the bytes.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The start of a character, up to three bytes.
    pending: Vec<u8>,
    text: String,
}

impl Utf8Stream {
    /// A stream at its beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and returns the text that they complete, which may be empty.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.text.clear();
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
                    rest = after;
                    let Some(invalid) = error.error_len() else { break };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
        &self.text
    }

    /// Ends the stream: what is left of an incomplete character becomes U+FFFD. The stream is then at its beginning.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.pending.is_empty() {
            self.pending.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }

    /// How many bytes wait for the rest of their character: 0 to 3.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }
}

/// Decodes tokens as a model generates them. Made by [`Tokenizer::stream`].
#[derive(Debug, Clone)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    options: DecodeOptions,
    utf8: Utf8Stream,
}

impl<'t> StreamDecoder<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, options: DecodeOptions) -> Self {
        Self { tokenizer, options, utf8: Utf8Stream::new() }
    }

    /// Takes the next token and returns the text that it completes, which may be empty.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for an id outside of the vocabulary; the stream is unchanged then.
    pub fn push(&mut self, id: TokenId) -> Result<&str, Error> {
        let bytes = self.tokenizer.bytes_shown(id, self.options.control_text)?;
        Ok(self.utf8.push(bytes))
    }

    /// Ends the stream and returns what is left: U+FFFD for an incomplete character, otherwise nothing.
    pub fn finish(&mut self) -> &str {
        self.utf8.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_comes_out_with_its_last_byte() {
        let mut stream = Utf8Stream::new();
        let mut seen = Vec::new();
        for byte in "a🦙é".bytes() {
            seen.push(stream.push(&[byte]).to_owned());
        }
        assert_eq!(seen, ["a", "", "", "", "🦙", "", "é"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn a_broken_character_is_replaced_as_soon_as_it_cannot_be_completed() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(b"\xF0\x9F"), "");
        assert_eq!(stream.push(b"x"), "\u{FFFD}x");
        // No character starts with FF, nor with ED A0 (a surrogate): they do not wait.
        assert_eq!(stream.push(b"\xFF"), "\u{FFFD}");
        assert_eq!(stream.push(b"\xED"), "");
        assert_eq!(stream.push(b"\xA0"), "\u{FFFD}\u{FFFD}");
        assert_eq!(stream.push(b"\xE2\x96"), "");
        assert_eq!(stream.pending_bytes(), 2);
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.push(b"y"), "y");
    }

    #[test]
    fn spaces_before_punctuation_and_contractions_go() {
        for (text, expected) in [
            ("hello , world . !", "hello, world.!"),
            ("it 's n't 've d ' x", "it'sn't've d'x"),
            ("a 'b  .", "a 'b ."),
            (" ", " "),
        ] {
            assert_eq!(clean_spaces(text.as_bytes()), expected.as_bytes(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_pieces_together_are_the_lossy_text(chunks in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..6),
                // Mostly valid text, cut anywhere.
                "\\PC{0,3}".prop_map(|text| text.into_bytes().into_iter().skip(1).collect()),
            ],
            0..20,
        )) {
            let mut stream = Utf8Stream::new();
            let mut text = String::new();
            for chunk in &chunks {
                text += stream.push(chunk);
                prop_assert!(stream.pending_bytes() <= 3);
            }
            text += stream.finish();
            let all = chunks.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&all));
        }
    }
}
