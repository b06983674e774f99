//! Atoms → hashed features: what the classifier counts.
//!
//! Words, pairs of neighbouring words, pieces of words (their beginnings and inner four letters, so that `iterators`
//! speaks for what `iterator` does), and symbols with what they touch (`::`, `-x`, `&mut`), which tell code apart.
//! Numbers are all the same word. A feature is a 64-bit hash; its kind is in the two lowest bits.
//!
//! It knows nothing of experts. Next: [`super::classifier`].

use super::words::{Atom, AtomKind, Words, chain};

/// Kinds of features.
pub(super) const KINDS: usize = 4;

/// What a feature is made of; its discriminant is the index of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FeatureKind {
    Word = 0,
    Pair = 1,
    Piece = 2,
    Symbol = 3,
}

/// The index of a feature's kind.
pub(super) fn kind_of(feature: u64) -> usize {
    (feature & 3) as usize
}

fn feature(kind: FeatureKind, hash: u64) -> u64 {
    (chain(kind as u64, hash) & !3) | kind as u64
}

/// What stands for a number.
const NUMBER: u64 = 1;

/// Words that are shorter have no pieces.
const PIECES_LETTERS_MIN: usize = 5;

/// Of longer words only so many letters are cut into pieces.
const PIECES_LETTERS_MAX: usize = 24;

/// Letters of a piece.
const PIECE_LETTERS: usize = 4;

/// The features of a text, each once, ascending.
pub(super) fn extract(words: &Words, features: &mut Vec<u64>) {
    features.clear();
    let atoms = words.atoms();
    let mut before: Option<u64> = None;
    for (at, atom) in atoms.iter().enumerate() {
        match atom.kind {
            AtomKind::Word => {
                let text = words.text(atom);
                let word = if text.bytes().all(|b| b.is_ascii_digit()) { NUMBER } else { atom.hash };
                features.push(feature(FeatureKind::Word, word));
                features.push(feature(FeatureKind::Pair, chain(before.unwrap_or(0), word)));
                before = Some(word);
                pieces(text, features);
            }
            AtomKind::Symbol => symbol(atoms, at, words, features),
        }
    }
    features.sort_unstable();
    features.dedup();
}

fn pieces(text: &str, features: &mut Vec<u64>) {
    let bytes = text.as_bytes();
    if bytes.len() < PIECES_LETTERS_MIN || !text.is_ascii() {
        return;
    }
    let bytes = &bytes[..bytes.len().min(PIECES_LETTERS_MAX)];
    for (at, piece) in bytes.windows(PIECE_LETTERS).enumerate() {
        let four = u32::from_le_bytes(piece.try_into().expect("a window has four bytes"));
        // The beginning of a word is another piece than its inside.
        let place = u64::from(at == 0) << 32;
        features.push(feature(FeatureKind::Piece, place | u64::from(four)));
    }
}

/// A symbol, alone and with what touches it on its right. The marks that end sentences are no feature.
fn symbol(atoms: &[Atom], at: usize, words: &Words, features: &mut Vec<u64>) {
    let atom = &atoms[at];
    let next = atoms.get(at + 1).filter(|next| !next.gap);
    if next.is_none() && matches!(words.text(atom), "." | "," | "?" | "!" | ":" | ";" | "\"" | "'" | "`") {
        return;
    }
    if matches!(words.text(atom), "'" | "`" | "\"" | ",") {
        return;
    }
    features.push(feature(FeatureKind::Symbol, atom.hash));
    if let Some(next) = next {
        features.push(feature(FeatureKind::Symbol, chain(atom.hash, next.hash)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(text: &str) -> Vec<u64> {
        let mut features = Vec::new();
        extract(&Words::of(text), &mut features);
        features
    }

    fn shared(a: &str, b: &str, kind: FeatureKind) -> usize {
        let b = features(b);
        features(a).iter().filter(|f| kind_of(**f) == kind as usize && b.contains(f)).count()
    }

    #[test]
    fn each_kind_finds_what_it_is_for() {
        assert_eq!(shared("Reverse a list", "a LIST, reversed", FeatureKind::Word), 2);
        assert_eq!(shared("reverse a list", "sort a list", FeatureKind::Pair), 1);
        assert!(shared("iterators", "iterator", FeatureKind::Piece) >= 4);
        assert_eq!(shared("a::b", "c::d", FeatureKind::Symbol), 2);
        assert_eq!(shared("tar -x", "ls -x", FeatureKind::Symbol), 2);
        assert_eq!(shared("done.", "ready.", FeatureKind::Symbol), 0);
        assert_eq!(shared("version 2024", "year 7", FeatureKind::Word), 1);
    }

    #[test]
    fn features_come_once_and_sorted() {
        let features = features("the the the list the list");
        assert!(features.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
