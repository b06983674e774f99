//! What `fuzz/fuzz_targets/sse.rs` asks of the parser of streams, which nobody else outside may call.

use super::sse::{DATA_BYTES_MAX, Event, Parser, Problem};

/// Any bytes as a stream: whole, in two pieces cut at `at`, and byte by byte it is the same events and the same end.
pub fn events(bytes: &[u8], at: usize) {
    let whole = read([bytes]);
    let (head, tail) = bytes.split_at(at.min(bytes.len()));
    assert_eq!(read([head, tail]), whole);
    assert_eq!(read(bytes.chunks(1)), whole);
    let (events, _) = whole;
    assert!(events.iter().all(|event| !event.name.contains(['\n', '\r']) && !event.data.contains('\r')));
    assert!(events.iter().map(|event| event.data.len()).sum::<usize>() <= bytes.len().min(DATA_BYTES_MAX));
    // An event that is written again, line by line, is the same event.
    for event in events {
        let lines: String = event.data.split('\n').map(|line| format!("data: {line}\n")).collect();
        let written = format!("event: {}\n{lines}\n", event.name);
        assert_eq!(read([written.as_bytes()]), (vec![event], None));
    }
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Problem>) {
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    let mut ends = pieces.into_iter().map(|piece| parser.push(piece, &mut events));
    let problem = ends.find_map(Result::err);
    (events, problem)
}
