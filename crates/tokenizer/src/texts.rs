//! Byte strings by number, in one allocation, with an index from string to number.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Byte strings numbered from 0, stored end to end.
#[derive(Debug, Default)]
pub struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    /// Room for `strings` strings without growing.
    pub fn with_capacity(strings: usize) -> Self {
        Self { bytes: Vec::new(), ends: Vec::with_capacity(strings) }
    }

    /// Appends a string and returns its number.
    pub fn push(&mut self, text: &[u8]) -> u32 {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
        self.ends.len() as u32 - 1
    }

    /// String number `at`; empty when there is none.
    #[inline]
    pub fn get(&self, at: u32) -> &[u8] {
        let at = at as usize;
        let Some(&end) = self.ends.get(at) else { return &[] };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..end]
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Finds the number of a string among some of the strings of a [`Texts`].
#[derive(Debug, Default)]
pub struct TextIndex {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl TextIndex {
    /// Room for `strings` strings without growing, which would hash all of them again.
    pub fn with_capacity(strings: usize) -> Self {
        Self { table: HashTable::with_capacity(strings), ..Self::default() }
    }

    /// Indexes string `at`. When the same string is there already, that one stays; says whether the new one went in.
    pub fn insert(&mut self, texts: &Texts, at: u32) -> bool {
        let text = texts.get(at);
        let hash = self.hasher.hash_one(text);
        if self.table.find(hash, |&other| texts.get(other) == text).is_some() {
            return false;
        }
        self.longest = self.longest.max(text.len());
        self.table.insert_unique(hash, at, |&other| self.hasher.hash_one(texts.get(other)));
        true
    }

    /// The number of `text`.
    #[inline]
    pub fn find(&self, texts: &Texts, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(text);
        self.table.find(hash, |&at| texts.get(at) == text).copied()
    }
}
