//! How alike two texts are, as far as their words tell.

use std::collections::BTreeMap;

/// Words of a text that are compared; what is beyond is not read.
const WORDS_MAX: usize = 4096;

/// How alike two texts are, 0 to 1: the F1 measure over their words and pairs of neighbouring words, each as often as
/// it stands there, case and punctuation aside. Texts without words are alike if both have none.
///
/// ```
/// assert_eq!(hublabio_moe::similarity("Use `sorted`.", "use sorted"), 1.0);
/// assert_eq!(hublabio_moe::similarity("one", "two"), 0.0);
/// ```
pub fn similarity(a: &str, b: &str) -> f32 {
    overlap(&grams(a), &grams(b)) as f32
}

type Grams = BTreeMap<String, usize>;

/// Words and pairs of words with their counts. Letters and digits make words, `_`, `+` and `#` too: names in code.
pub(super) fn grams(text: &str) -> Grams {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '+' | '#');
    let words: Vec<String> =
        text.split(|c| !inside(c)).filter(|word| !word.is_empty()).take(WORDS_MAX).map(str::to_lowercase).collect();
    let mut grams = Grams::new();
    for pair in words.windows(2) {
        *grams.entry(pair.join(" ")).or_default() += 1;
    }
    for word in words {
        *grams.entry(word).or_default() += 1;
    }
    grams
}

pub(super) fn overlap(a: &Grams, b: &Grams) -> f64 {
    let (count_a, count_b): (usize, usize) = (a.values().sum(), b.values().sum());
    if count_a + count_b == 0 {
        return 1.0;
    }
    let shared: usize = a.iter().filter_map(|(gram, &count)| b.get(gram).map(|&other| count.min(other))).sum();
    2.0 * shared as f64 / (count_a + count_b) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_is_the_f1_of_words_and_pairs() {
        let check = |a, b, expected: f32| {
            assert_eq!(similarity(a, b), expected, "{a} ~ {b}");
            assert_eq!(similarity(b, a), expected);
        };
        check("", "", 1.0);
        check("", "a", 0.0);
        check("the list", "the list", 1.0);
        // Words the, list | the, set; pairs `the list` | `the set`: 1 of 3 and 3.
        check("the list", "the set", 1.0 / 3.0);
        // A word that stands there twice counts twice only where it does in both.
        check("a a", "a", 2.0 / 4.0);
        check("C++", "c", 0.0);
    }
}
