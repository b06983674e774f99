//! TOML texts: reading them from files of bounded length, and what is wrong with one, on one line, with its place.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The text of a file that is at most `bytes_max` long.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> std::result::Result<String, String> {
    let mut text = String::new();
    // One byte more than allowed shows that it is too long; a device has no end.
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_string(&mut text))
        .map_err(|cause| format!("{} cannot be read: {cause}", path.display()))?;
    if text.len() as u64 > bytes_max {
        return Err(format!("{} is longer than {bytes_max} bytes", path.display()));
    }
    Ok(text)
}

/// The message with line, column and, where the error is about a value, its key.
pub(crate) fn problem(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', " ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start..].chars().count() + 1;
    match before[start..].split_once('=').map(|(key, _)| key.trim()) {
        Some(key) if !key.is_empty() => format!("line {line}, column {column}, key `{key}`: {message}"),
        _ => format!("line {line}, column {column}: {message}"),
    }
}
