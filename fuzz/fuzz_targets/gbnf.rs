//! Any text as a GBNF grammar: refused with a place inside of it, or turned into Lark, within the limits.
#![no_main]

use hublabio_chat::constraint::{ConstraintError, ConstraintSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(ConstraintError::Gbnf { line, column, problem }) = ConstraintSource::Gbnf(text.to_owned()).check() {
        let length = text.split('\n').nth(line - 1).expect("a line of the grammar").chars().count();
        assert!((1..=length + 1).contains(&column), "line {line}, column {column}: {problem}");
    }
});
