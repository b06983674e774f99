//! The keyword index: which experts' words and phrases are in a question.
//!
//! A table from the hash of a phrase to the experts that have it, and one from the hash of a phrase's first atom to the
//! lengths of the phrases that begin so. A question costs one look-up for each of its atoms, and one more for each
//! length of phrase that could begin there (at most [`PHRASE_ATOMS_MAX`]): it does not depend on the number of
//! keywords. Adding or removing an expert touches that expert's keywords only.
//!
//! A phrase matches whole words: `java` is not in `javascript`, and `c` is neither in `c++` nor in `c#`.
//!
//! It knows nothing of probabilities: `super::signals` makes a score of the hits.

use super::words::{Atom, AtomKind, HashTable, Words, chain};

/// The longest phrase, in atoms (words and symbols).
pub const PHRASE_ATOMS_MAX: usize = 16;

/// A keyword of more experts than this speaks for none of them and is passed over.
pub const KEYWORD_EXPERTS_MAX: usize = 256;

/// The strength of a keyword that `owners` of `experts` have: ln((n + 1) / owners) / ln(n + 1).
///
/// Inverse document frequency, scaled so that a keyword of a single expert has strength 1 however many experts there
/// are, and one that all have goes to 0 as there are more. `owners` is at least 1; more than `experts` counts as all.
pub fn keyword_idf(owners: usize, experts: usize) -> f32 {
    let all = (experts.max(1) + 1) as f32;
    let owners = (owners.max(1) as f32).min(all - 1.0);
    (all / owners).ln() / all.ln()
}

/// One phrase and who has it.
#[derive(Debug, PartialEq)]
struct Phrase {
    /// Its folded atoms, with a space where there is a gap.
    text: Box<str>,
    /// Slots of the experts, ascending.
    experts: Vec<u32>,
    first: u64,
    atoms: u8,
    words: u8,
}

/// A phrase that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit<'a> {
    /// Folded.
    pub text: &'a str,
    /// Slots of those that have it, ascending.
    pub experts: &'a [u32],
    /// Its words (symbols do not count, but a phrase has at least one).
    pub words: u8,
}

/// All experts' keywords.
#[derive(Debug, Default, PartialEq)]
pub(super) struct KeywordIndex {
    phrases: HashTable<Phrase>,
    /// By first atom: how many phrases of each length, at length - 1.
    firsts: HashTable<[u32; PHRASE_ATOMS_MAX]>,
    /// How many experts have at least one keyword.
    experts: usize,
}

impl KeywordIndex {
    /// Experts with at least one keyword.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Adds an expert's keywords. Returns the hashes by which [`remove`](Self::remove) takes them out, and those
    /// keywords that can never match: without a word or symbol, or longer than [`PHRASE_ATOMS_MAX`].
    pub fn add(&mut self, slot: u32, keywords: &[String]) -> (Vec<u64>, Vec<String>) {
        let (mut hashes, mut refused) = (Vec::new(), Vec::new());
        for keyword in keywords {
            let words = Words::of(keyword);
            let atoms = words.atoms();
            if atoms.is_empty() || atoms.len() > PHRASE_ATOMS_MAX {
                refused.push(keyword.clone());
                continue;
            }
            let hash = phrase_hash(atoms);
            let phrase = self.phrases.entry(hash).or_insert_with(|| Phrase::new(&words));
            if !phrase.is(&words, atoms) {
                // Two phrases of one 64-bit hash: the one that was first stays.
                refused.push(keyword.clone());
                continue;
            }
            // The same keyword twice counts once.
            let Err(at) = phrase.experts.binary_search(&slot) else { continue };
            if phrase.experts.is_empty() {
                self.firsts.entry(phrase.first).or_default()[atoms.len() - 1] += 1;
            }
            phrase.experts.insert(at, slot);
            hashes.push(hash);
        }
        self.experts += usize::from(!hashes.is_empty());
        (hashes, refused)
    }

    /// Takes out what [`add`](Self::add) put in.
    pub fn remove(&mut self, slot: u32, hashes: &[u64]) {
        for hash in hashes {
            let Some(phrase) = self.phrases.get_mut(hash) else { continue };
            if let Ok(at) = phrase.experts.binary_search(&slot) {
                phrase.experts.remove(at);
            }
            if phrase.experts.is_empty() {
                let (first, atoms) = (phrase.first, phrase.atoms as usize);
                self.phrases.remove(hash);
                let lengths = self.firsts.get_mut(&first).expect("a phrase's first atom is counted");
                lengths[atoms - 1] -= 1;
                if lengths.iter().all(|count| *count == 0) {
                    self.firsts.remove(&first);
                }
            }
        }
        self.experts -= usize::from(!hashes.is_empty());
    }

    /// The hashes of the phrases in a text, each once, in a fixed order that is not the text's.
    pub fn find(&self, words: &Words, found: &mut Vec<u64>) {
        found.clear();
        if self.phrases.is_empty() {
            return;
        }
        let atoms = words.atoms();
        for at in 0..atoms.len() {
            let Some(lengths) = self.firsts.get(&atoms[at].hash) else { continue };
            let mut hash = phrase_start(&atoms[at]);
            let longest = lengths.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
            for length in 1..=longest.min(atoms.len() - at) {
                if length > 1 {
                    hash = phrase_next(hash, &atoms[at + length - 1]);
                }
                if lengths[length - 1] > 0
                    && ends_here(atoms, at + length, words)
                    && self.phrases.get(&hash).is_some_and(|phrase| phrase.is(words, &atoms[at..at + length]))
                {
                    found.push(hash);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
    }

    /// What was found.
    pub fn hit(&self, hash: u64) -> Option<Hit<'_>> {
        let phrase = self.phrases.get(&hash)?;
        Some(Hit { text: &phrase.text, experts: &phrase.experts, words: phrase.words })
    }
}

impl Phrase {
    fn new(words: &Words) -> Self {
        let atoms = words.atoms();
        let mut text = String::new();
        for (at, atom) in atoms.iter().enumerate() {
            if at > 0 && atom.gap {
                text.push(' ');
            }
            text.push_str(words.text(atom));
        }
        let n_words = atoms.iter().filter(|atom| atom.kind == AtomKind::Word).count().max(1);
        Self {
            text: text.into(),
            experts: Vec::new(),
            first: atoms[0].hash,
            atoms: atoms.len() as u8,
            words: n_words as u8,
        }
    }

    /// Whether these atoms spell the phrase.
    fn is(&self, words: &Words, atoms: &[Atom]) -> bool {
        let mut rest = &*self.text;
        for (at, atom) in atoms.iter().enumerate() {
            if at > 0 && atom.gap {
                let Some(behind) = rest.strip_prefix(' ') else { return false };
                rest = behind;
            }
            let Some(behind) = rest.strip_prefix(words.text(atom)) else { return false };
            rest = behind;
        }
        rest.is_empty()
    }
}

/// A phrase may not end inside of `c++` or `c#`.
fn ends_here(atoms: &[Atom], end: usize, words: &Words) -> bool {
    if atoms[end - 1].kind == AtomKind::Symbol {
        return true;
    }
    let symbol = |at: usize| atoms.get(at).filter(|atom| !atom.gap).map_or("", |atom| words.text(atom));
    symbol(end) != "#" && !(symbol(end) == "+" && symbol(end + 1) == "+")
}

fn phrase_hash(atoms: &[Atom]) -> u64 {
    atoms[1..].iter().fold(phrase_start(&atoms[0]), phrase_next)
}

/// Whether there is a gap before its first atom is not part of a phrase.
fn phrase_start(first: &Atom) -> u64 {
    chain(0, first.hash)
}

fn phrase_next(before: u64, atom: &Atom) -> u64 {
    chain(before, atom.hash ^ u64::from(atom.gap))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(keywords: &[&str]) -> KeywordIndex {
        let mut index = KeywordIndex::default();
        let keywords: Vec<String> = keywords.iter().map(|k| (*k).to_owned()).collect();
        let (_, refused) = index.add(0, &keywords);
        assert!(refused.is_empty(), "{refused:?}");
        index
    }

    fn found(index: &KeywordIndex, text: &str) -> Vec<String> {
        let mut hashes = Vec::new();
        index.find(&Words::of(text), &mut hashes);
        let mut texts: Vec<_> = hashes.iter().map(|h| index.hit(*h).unwrap().text.to_owned()).collect();
        texts.sort();
        texts
    }

    fn check(keyword: &str, text: &str, expected: bool) {
        assert_eq!(!found(&index(&[keyword]), text).is_empty(), expected, "{keyword:?} in {text:?}");
    }

    #[test]
    fn whole_words_match_and_parts_do_not() {
        check("python", "How do I use Python?", true);
        check("python", "PYTHON's lists", true);
        check("python", "cpython", false);
        check("python", "pythonic", false);
        check("python", "my_python_file", false);
        check("python", "python-like", true);
        check("java", "javascript", false);
        check("rust", "trust", false);
        check("größe", "GRÖSSE? nein, GRÖẞE", true);
        check("naïve bayes", "a NAÏVE  Bayes\tclassifier", true);
        check("学习", "我在学习编程", true);
    }

    #[test]
    fn code_matches() {
        check("c++", "is C++ fast?", true);
        check("c++", "c + +", false);
        check("c", "is C++ fast?", false);
        check("c", "is C# fast?", false);
        check("c", "is C fast?", true);
        check("a", "a+b", true);
        check("std::vec", "use std::vec::Vec;", true);
        check("std::vec", "std::vector", false);
        check(".bashrc", "edit ~/.bashrc", true);
        check(".bashrc", "bashrc", false);
        check("iter()", "x.iter().map(f)", true);
        check("iter()", "iter", false);
        check("iter", "x.iter().map(f)", true);
        check("println!", "println!(\"hi\")", true);
        check("#[derive(", "#[derive(Debug)]", true);
        check("-xzf", "tar -xzf a.tgz", true);
    }

    #[test]
    fn phrases_match_in_order_and_all_that_overlap_are_found() {
        let index = index(&["borrow", "borrow checker", "checker", "borrow checker error", "error"]);
        assert_eq!(found(&index, "The borrow  checker"), ["borrow", "borrow checker", "checker"]);
        assert_eq!(found(&index, "checker borrow"), ["borrow", "checker"]);
        assert_eq!(found(&index, "borrow checker error").len(), 5);
        assert_eq!(found(&index, "borrow borrow borrow"), ["borrow"]);
    }

    #[test]
    fn keywords_that_cannot_match_are_returned() {
        let mut index = KeywordIndex::default();
        let long = "a ".repeat(PHRASE_ATOMS_MAX + 1);
        let (hashes, refused) = index.add(3, &[String::new(), "  ".into(), long.clone(), "ok".into(), "OK".into()]);
        assert_eq!(refused, [String::new(), "  ".to_owned(), long]);
        assert_eq!(hashes.len(), 1);
        assert!(found(&index, &"a ".repeat(PHRASE_ATOMS_MAX)).is_empty());
        assert_eq!(index.experts(), 1);
    }

    #[test]
    fn idf_is_as_documented() {
        for (owners, experts, expected) in [(1, 1, 1.0), (1, 1000, 1.0), (2, 4, 0.569_323), (4, 4, 0.138_647)] {
            assert!((keyword_idf(owners, experts) - expected).abs() < 1e-5, "{owners} of {experts}");
        }
        assert_eq!(keyword_idf(0, 0), 1.0);
        assert_eq!(keyword_idf(9, 4), keyword_idf(4, 4));
        for owners in 1..100 {
            assert!(keyword_idf(owners, 100) > keyword_idf(owners + 1, 100) || owners == 100);
        }
    }

    proptest! {
        #[test]
        fn adding_and_removing_restores_the_index(
            kept in proptest::collection::vec("[a-c]{1,2}( [a-c]{1,2}){0,3}", 0..8),
            gone in proptest::collection::vec("[a-c]{1,2}( [a-c]{1,2}){0,3}", 0..8),
        ) {
            let mut plain = KeywordIndex::default();
            plain.add(0, &kept);
            let mut index = KeywordIndex::default();
            index.add(0, &kept);
            let (hashes, _) = index.add(1, &gone);
            index.remove(1, &hashes);
            prop_assert_eq!(index, plain);
        }

        #[test]
        fn a_keyword_is_found_between_other_words(keyword in "\\PC{1,12}", before in "[a-z]{1,8}") {
            let mut index = KeywordIndex::default();
            let (hashes, _) = index.add(0, std::slice::from_ref(&keyword));
            prop_assume!(!hashes.is_empty());
            let text = format!("{before} {} {before}", keyword.to_uppercase().to_lowercase());
            let found_one = !found(&index, &text).is_empty();
            // Upper-casing changes some characters for good (`ŉ` to two), others on both ways alike.
            let same = Words::of(&keyword).atoms().len() == Words::of(&text).atoms().len() - 2;
            prop_assert!(found_one || !same, "{:?} in {:?}", keyword, text);
        }

        #[test]
        fn any_text_is_searched(text in "\\PC*", keywords in proptest::collection::vec("\\PC{0,6}", 0..6)) {
            let mut index = KeywordIndex::default();
            index.add(0, &keywords);
            found(&index, &text);
        }
    }
}
