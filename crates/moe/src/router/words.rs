//! Text → atoms: the words and symbols that keywords and the classifier see.
//!
//! An *atom* is a run of letters, digits and `_`, or one other character that is not white space. Letters of scripts
//! that write no spaces (Han, Hiragana, Katakana) are atoms by themselves, so that their phrases are found inside a
//! sentence. Whether white space stands before an atom is part of it, so `c++`, `std::vec`, `.bashrc` and `iter()` are
//! exact sequences of atoms and `c ++` is another one than `c++`.
//!
//! Case is folded by upper-casing and then lower-casing each character, which is Unicode's full case folding but for a
//! handful of letters (the dotless `ı` becomes `i`). Text is not normalised: a letter with its accent as one character
//! and as two are different words.
//!
//! It knows nothing of experts. Next: [`super::keywords`], [`super::classifier`].

/// What an atom is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AtomKind {
    /// Letters, digits, `_`.
    Word,
    /// One character of another kind.
    Symbol,
}

/// One word or symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Atom {
    /// Of its folded bytes.
    pub hash: u64,
    /// Where it is in the folded text.
    pub start: u32,
    /// Where it ends there.
    pub end: u32,
    /// What it is.
    pub kind: AtomKind,
    /// Whether white space or the beginning of the text stands before it.
    pub gap: bool,
}

/// A text in atoms, with its folded characters; buffers that are used again.
#[derive(Debug, Default)]
pub(super) struct Words {
    folded: String,
    atoms: Vec<Atom>,
}

impl Words {
    pub fn clear(&mut self) {
        self.folded.clear();
        self.atoms.clear();
    }

    /// The atoms of a text by itself.
    pub fn of(text: &str) -> Self {
        let mut words = Self::default();
        words.push(text);
        words
    }

    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }

    /// An atom's folded text.
    pub fn text(&self, atom: &Atom) -> &str {
        &self.folded[atom.start as usize..atom.end as usize]
    }

    /// Adds a text behind those before it, with a gap between. All texts together have less than 4 GiB.
    pub fn push(&mut self, text: &str) {
        let mut gap = true;
        // Where the word begins that is being read.
        let mut open: Option<usize> = None;
        for c in text.chars() {
            let single = writes_no_spaces(c);
            if is_word(c) && !single {
                open.get_or_insert(self.folded.len());
                fold_into(c, &mut self.folded);
                continue;
            }
            if let Some(start) = open.take() {
                self.end_atom(start, AtomKind::Word, gap);
                gap = false;
            }
            if c.is_whitespace() || c.is_control() {
                gap = true;
                continue;
            }
            let start = self.folded.len();
            fold_into(c, &mut self.folded);
            self.end_atom(start, if single { AtomKind::Word } else { AtomKind::Symbol }, gap);
            gap = false;
        }
        if let Some(start) = open {
            self.end_atom(start, AtomKind::Word, gap);
        }
    }

    fn end_atom(&mut self, start: usize, kind: AtomKind, gap: bool) {
        let hash = hash_bytes(&self.folded.as_bytes()[start..]);
        self.atoms.push(Atom { hash, start: start as u32, end: self.folded.len() as u32, kind, gap });
    }
}

fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    // Combining accents and joiners belong to the word that they are in.
    c.is_alphanumeric() || matches!(c, '\u{300}'..='\u{36f}' | '\u{200c}' | '\u{200d}')
}

/// Scripts in which words follow each other without a space.
fn writes_no_spaces(c: char) -> bool {
    matches!(c,
        '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3134f}')
}

fn fold_into(c: char, folded: &mut String) {
    if c.is_ascii() {
        folded.push(c.to_ascii_lowercase());
    } else {
        folded.extend(c.to_uppercase().flat_map(char::to_lowercase));
    }
}

/// An odd constant without a pattern (the fraction of the golden ratio), the multiplier of all hashes here.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every bit of a number over all of them.
pub(super) fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// Joins a hash to those before it; order counts.
pub(super) fn chain(before: u64, next: u64) -> u64 {
    mix(before.rotate_left(23).wrapping_mul(MULTIPLIER) ^ next)
}

/// The hash of bytes, the same on every machine. It need not resist attacks: only those who own the swarm insert.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = MULTIPLIER ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let eight = u64::from_le_bytes(chunk.try_into().expect("a chunk has 8 bytes"));
        hash = mix_fast(hash ^ eight);
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(hash ^ u64::from_le_bytes(last))
}

fn mix_fast(hash: u64) -> u64 {
    let hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 29)
}

/// Hashes what is a hash already: as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AsItIs(u64);

impl std::hash::Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash_bytes(bytes);
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A table by hash.
pub(super) type HashTable<V> = std::collections::HashMap<u64, V, std::hash::BuildHasherDefault<AsItIs>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(String, bool)> {
        let words = Words::of(text);
        words.atoms().iter().map(|atom| (words.text(atom).to_owned(), atom.gap)).collect()
    }

    fn check(text: &str, expected: &[(&str, bool)]) {
        let expected: Vec<_> = expected.iter().map(|(word, gap)| ((*word).to_owned(), *gap)).collect();
        assert_eq!(split(text), expected, "{text:?}");
    }

    #[test]
    fn atoms_are_words_and_symbols() {
        check("", &[]);
        check(" \t\n\u{0}", &[]);
        check("Use C++ now", &[("use", true), ("c", true), ("+", false), ("+", false), ("now", true)]);
        check("std::vec", &[("std", true), (":", false), (":", false), ("vec", false)]);
        check("~/.bashrc", &[("~", true), ("/", false), (".", false), ("bashrc", false)]);
        check("read_to_string()", &[("read_to_string", true), ("(", false), (")", false)]);
        check("x! y", &[("x", true), ("!", false), ("y", true)]);
    }

    #[test]
    fn case_is_folded_in_every_script() {
        check("STRASSE straße", &[("strasse", true), ("strasse", true)]);
        check("ΟΔΟΣ οδος οδοσ", &[("οδοσ", true), ("οδοσ", true), ("οδοσ", true)]);
        check("ÀÉ Ж", &[("àé", true), ("ж", true)]);
        check("e\u{301}té", &[("e\u{301}té", true)]);
    }

    #[test]
    fn scripts_without_spaces_are_single_characters() {
        check("用Rust写", &[("用", true), ("rust", false), ("写", false)]);
    }

    #[test]
    fn texts_pushed_one_after_the_other_have_a_gap_between() {
        let mut words = Words::of("ab");
        words.push("cd");
        assert_eq!(words.atoms().len(), 2);
        assert!(words.atoms()[1].gap);
        assert_eq!(words.text(&words.atoms()[1]), "cd");
    }

    #[test]
    fn hashes_differ() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..200_000u32 {
            assert!(seen.insert(hash_bytes(format!("w{n}").as_bytes())));
        }
        assert_ne!(hash_bytes(b"a"), hash_bytes(b"a\0"));
        assert_ne!(chain(1, 2), chain(2, 1));
    }
}
