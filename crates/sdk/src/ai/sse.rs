//! Server-sent events, byte by byte (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! However the bytes are cut, the events are the same. Lines and events have a limit, so that a service that never ends one
//! cannot fill the memory.

use std::mem;

/// Most bytes of a line.
pub(crate) const LINE_BYTES_MAX: usize = 4 << 20;
/// Most bytes of an event's data.
pub(crate) const DATA_BYTES_MAX: usize = 16 << 20;

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its kind; empty where none is named.
    pub name: String,
    /// What it carries; several lines are joined by line breaks.
    pub data: String,
}

/// What is wrong with a stream. It stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("a line has more than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("an event has more than {DATA_BYTES_MAX} bytes")]
    EventTooLong,
    #[error("a line is no UTF-8")]
    NotUtf8,
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed belongs to it.
    after_return: bool,
    /// A first line has been seen: what looks like a byte order mark is none.
    begun: bool,
    name: String,
    data: String,
    has_data: bool,
    problem: Option<Problem>,
}

impl Parser {
    /// Takes more bytes; what they complete is pushed to `events`.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut impl Extend<Event>) -> Result<(), Problem> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        while let Some(&first) = bytes.first() {
            if mem::take(&mut self.after_return) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > LINE_BYTES_MAX {
                return self.fail(Problem::LineTooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if let Err(problem) = self.end_line(events) {
                return self.fail(problem);
            }
        }
        Ok(())
    }

    fn fail(&mut self, problem: Problem) -> Result<(), Problem> {
        *self = Self { problem: Some(problem), ..Self::default() };
        Err(problem)
    }

    fn end_line(&mut self, events: &mut impl Extend<Event>) -> Result<(), Problem> {
        let line = mem::take(&mut self.line);
        let mut text = str::from_utf8(&line).map_err(|_| Problem::NotUtf8)?;
        if !mem::replace(&mut self.begun, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            let event = Event { name: mem::take(&mut self.name), data: mem::take(&mut self.data) };
            if mem::take(&mut self.has_data) {
                events.extend([event]);
            }
            return Ok(());
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.data.len() + value.len() >= DATA_BYTES_MAX {
                    return Err(Problem::EventTooLong);
                }
                if mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.name),
            // A comment has an empty field. Nothing here is resumed, so `id` and `retry` say nothing.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Problem>) {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in pieces {
            if let Err(problem) = parser.push(piece, &mut events) {
                assert_eq!(parser.push(b"data: x\n\n", &mut events), Err(problem), "a problem stays");
                return (events, Some(problem));
            }
        }
        (events, None)
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let (events, problem) = parse([text.as_bytes()]);
        let found: Vec<_> = events.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
        assert_eq!((found.as_slice(), problem), (expected, None), "{text:?}");
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        check("data: a\n\ndata:b\r\n\r\ndata:  c\r\r", &[("", "a"), ("", "b"), ("", " c")]);
        check(": ping\n\n:\n\ndata: a\n: ping\ndata: b\n\n", &[("", "a\nb")]);
        check("event: error\ndata: {}\nid: 1\nretry: 5\nunknown\n\ndata: a\n\n", &[("error", "{}"), ("", "a")]);
        check("\u{feff}data: a\n\n\u{feff}data: b\n\ndata: [DONE]\n\n", &[("", "a"), ("", "[DONE]")]);
        check("data\n\ndata\ndata\n\nevent: x\n\n\n\n", &[("", ""), ("", "\n")]);
        check("data: never ended", &[]);
        check("data: never ended\n", &[]);
        check("data: a\r\n\ndata: b\n\r\n", &[("", "a"), ("", "b")]);
    }

    #[test]
    fn what_is_too_long_or_no_text_ends_the_stream() {
        let endless = vec![b'a'; 1 << 20];
        let pieces = std::iter::once(&b"data: a\n\ndata: "[..]).chain(std::iter::repeat_n(&endless[..], 5));
        let (events, problem) = parse(pieces);
        assert_eq!((events.len(), problem), (1, Some(Problem::LineTooLong)));
        let mut line = b"data: ".to_vec();
        line.extend_from_slice(&endless);
        line.push(b'\n');
        let (events, problem) = parse(std::iter::repeat_n(&line[..], 17));
        assert_eq!((events.len(), problem), (0, Some(Problem::EventTooLong)));
        let (events, problem) = parse([&b"data: a\n\ndata: \xff\n\n"[..]]);
        assert_eq!((events.len(), problem), (1, Some(Problem::NotUtf8)));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            lines in prop::collection::vec(prop_oneof![
                "(data|event|id|:)?:? ?[a-zé\u{feff}🦀: ]{0,6}(\n|\r|\r\n){0,3}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..4),
            ], 0..30),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let text = lines.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let whole = parse([&text[..]]);
            prop_assert_eq!(&parse(cuts.windows(2).map(|cut| &text[cut[0]..cut[1]])), &whole);
            prop_assert_eq!(&parse(text.chunks(1)), &whole);
        }
    }
}
