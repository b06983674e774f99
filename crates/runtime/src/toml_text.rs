//! What is wrong with a TOML text, on one line, with its place.

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
