//! Texts that must fit: cut at word boundaries, visibly, and with room shared fairly.

/// What stands where a text was cut.
const MARK: &str = " […]";

/// A text of at most `bytes_max` bytes: as it is where it fits, else cut after a whole word and marked with ` […]`.
/// Where not even a word fits, the cut is between characters; where the mark does not fit, nothing is left.
///
/// ```
/// assert_eq!(hublabio_moe::shorten("Sort the list first.", 19), "Sort the list […]");
/// assert_eq!(hublabio_moe::shorten("short", 19), "short");
/// ```
pub fn shorten(text: &str, bytes_max: usize) -> String {
    let text = text.trim();
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let Some(room) = bytes_max.checked_sub(MARK.len()).filter(|&room| room > 0) else { return String::new() };
    let end = boundary(text, room);
    let head = &text[..end];
    let next_is_space = text[end..].starts_with(char::is_whitespace);
    let whole = if next_is_space { head.len() } else { head.rfind(char::is_whitespace).unwrap_or(0) };
    let kept = head[..whole].trim_end();
    format!("{}{MARK}", if kept.is_empty() { head } else { kept })
}

/// The last place between characters that is not behind `at`.
pub(super) fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// How many of `bytes` each of several texts gets: short ones what they need, the rest equal shares of what is left.
pub(super) fn fair_shares(lengths: &[usize], bytes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    let mut shares = vec![0; lengths.len()];
    let mut left = bytes;
    for (served, &index) in order.iter().enumerate() {
        shares[index] = lengths[index].min(left / (lengths.len() - served));
        left -= shares[index];
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_words_and_never_within_characters() {
        let check = |text: &str, bytes: usize, expected: &str| assert_eq!(shorten(text, bytes), expected);
        check("one two three", 13, "one two three");
        check("one two three", 12, "one […]");
        check("one two three four", 13, "one two […]");
        check("  one  ", 3, "one");
        check("ääääääää", 11, "ää […]");
        check("ääääääää", 6, "");
        check("abc", 0, "");
        check("", 0, "");
        for bytes in 0..40 {
            assert!(shorten("Grüße an alle, die “das” hier lesen und prüfen", bytes).len() <= bytes);
        }
    }

    #[test]
    fn what_short_texts_leave_goes_to_the_long_ones() {
        assert_eq!(fair_shares(&[100, 10, 100], 110), [50, 10, 50]);
        assert_eq!(fair_shares(&[5, 5], 100), [5, 5]);
        assert_eq!(fair_shares(&[100, 100, 100], 10), [3, 3, 4]);
        assert_eq!(fair_shares(&[], 10), [0; 0]);
    }
}
