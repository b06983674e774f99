//! Names of models: which there can be, and which one was probably meant.

use super::error::StoreError;

/// Longest name in bytes.
pub(super) const NAME_BYTES_MAX: usize = 512;
/// Longest piece between two `/`: with `.gguf.part.json` behind it, it must be a file's name.
const PIECE_BYTES_MAX: usize = 200;
/// So many names are told of those that there are.
const KNOWN_MAX: usize = 5;
/// Names are compared up to this length.
const COMPARED_CHARS_MAX: usize = 64;

/// Refuses what cannot be a model's name. What passes, joined to a folder, lies below that folder.
pub(super) fn check(name: &str) -> Result<(), StoreError> {
    match problem(name) {
        None => Ok(()),
        Some(problem) => Err(StoreError::BadName { name: shortened(name), problem }),
    }
}

fn problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return Some("it is longer than 512 bytes");
    }
    if name.contains(char::is_control) {
        return Some("it has control characters");
    }
    if name.starts_with('/') {
        return Some("it is a path; names are relative to the store's folder");
    }
    // On Windows `C:` leads elsewhere, and a colon is not possible in a file's name.
    if name.contains('\\') || (cfg!(windows) && name.contains(':')) {
        return Some("it has a character that names cannot have");
    }
    name.split('/').find_map(|piece| match piece {
        "" => Some("it has two `/` in a row, or one at the end"),
        "." | ".." => Some("`.` and `..` lead out of the store"),
        piece if piece.starts_with('.') => Some("a piece of it begins with a dot, as hidden files do"),
        piece if piece.len() > PIECE_BYTES_MAX => Some("a piece of it is longer than 200 bytes"),
        _ => None,
    })
}

/// A foreign text, short enough for an error.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(120).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The names that are nearest to what was asked for, for an error.
pub(super) fn nearest(asked: &str, names: Vec<String>) -> String {
    let asked = folded(asked);
    let mut ranked: Vec<(usize, String)> =
        names.into_iter().map(|name| (distance(&asked, &folded(&name)), name)).collect();
    ranked.sort();
    let more = ranked.len().saturating_sub(KNOWN_MAX);
    let nearest: Vec<String> =
        ranked.iter().take(KNOWN_MAX).map(|(_, name)| format!("`{}`", shortened(name))).collect();
    let nearest = nearest.join(", ");
    if more > 0 { format!("{nearest} and {more} more") } else { nearest }
}

fn folded(name: &str) -> Vec<char> {
    name.chars().flat_map(char::to_lowercase).take(COMPARED_CHARS_MAX).collect()
}

/// Levenshtein's distance; less where one begins or ends with the other, as with a tag or an owner left out.
fn distance(a: &[char], b: &[char]) -> usize {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    if !short.is_empty() && (long.starts_with(short) || long.ends_with(short)) {
        return usize::from(short.len() != long.len());
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_folder() {
        for fine in
            ["a", "qwen2.5-0.5b-q4_k_m", "org/model", "qwen2.5:0.5b", "Modell mit Leerzeichen", "ü", "-x", "a.gguf"]
        {
            assert_eq!(problem(fine), None, "{fine}");
        }
        for bad in
            ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.b", "a\0b", "a\nb", "a\\b"]
        {
            assert!(problem(bad).is_some(), "{bad:?}");
        }
        assert!(problem(&"a".repeat(200)).is_none());
        assert!(problem(&"a".repeat(201)).is_some());
        assert!(problem(&["a"; 257].join("/")).is_some());
    }

    #[test]
    fn the_nearest_name_is_told_first() {
        let names = || ["default", "org/Phi-3", "qwen2.5:0.5b"].map(str::to_owned).to_vec();
        for (asked, first) in [("qwen2.5", "qwen2.5:0.5b"), ("phi-3", "org/Phi-3"), ("defualt", "default")] {
            let told = nearest(asked, names());
            assert!(told.starts_with(&format!("`{first}`")), "{asked}: {told}");
        }
        let many = (0..9).map(|i| format!("m{i}")).collect();
        assert!(nearest("m3", many).ends_with("and 4 more"));
    }
}
