//! A bounded memory of how recent words were tokenized.
//!
//! Text repeats its words; a hit replaces the merge loop by one comparison. The cache is direct-mapped: a word has one
//! slot, and a newer word simply takes it. So the size is fixed and no choice of words can make a look-up slow.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;

use crate::TokenId;

/// Longest word, in bytes, and most tokens that a slot holds; others are not remembered.
const WORD_BYTES_MAX: usize = 27;
const WORD_TOKENS_MAX: usize = 6;
/// A power of two; with 52 bytes a slot this is 416 KiB, about the size of a level-2 cache.
const SLOTS: usize = 1 << 13;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    word: [u8; WORD_BYTES_MAX],
    /// Both lengths in one byte: 5 bits of word length, 3 bits of token count. 0 is an empty slot.
    lengths: u8,
    tokens: [u32; WORD_TOKENS_MAX],
}

/// Words and their tokens.
#[derive(Debug, Default)]
pub struct WordCache {
    slots: Vec<Slot>,
    hasher: DefaultHashBuilder,
}

/// Where a word that was not found goes once its tokens are known.
#[derive(Debug, Clone, Copy)]
pub struct Vacancy(usize);

impl WordCache {
    /// The tokens of `word`, or the place for them; `Err(None)` if the word is too long to be remembered.
    #[inline]
    pub fn get(&mut self, word: &[u8]) -> Result<&[u32], Option<Vacancy>> {
        if word.is_empty() || word.len() > WORD_BYTES_MAX {
            return Err(None);
        }
        if self.slots.is_empty() {
            self.slots = vec![Slot::default(); SLOTS];
        }
        let at = self.hasher.hash_one(word) as usize % SLOTS;
        let slot = &self.slots[at];
        let (length, count) = (usize::from(slot.lengths >> 3), usize::from(slot.lengths & 7));
        if length == word.len() && &slot.word[..length] == word {
            return Ok(&slot.tokens[..count]);
        }
        Err(Some(Vacancy(at)))
    }

    /// Remembers `tokens` for `word`, for which [`WordCache::get`] returned `vacancy`.
    pub fn put(&mut self, vacancy: Vacancy, word: &[u8], tokens: &[u32]) {
        if tokens.len() > WORD_TOKENS_MAX {
            return;
        }
        let slot = &mut self.slots[vacancy.0];
        slot.word[..word.len()].copy_from_slice(word);
        slot.lengths = (word.len() as u8) << 3 | tokens.len() as u8;
        slot.tokens[..tokens.len()].copy_from_slice(tokens);
    }

    /// As [`WordCache::put`], for tokens as they stand in an output.
    pub fn put_tokens(&mut self, vacancy: Vacancy, word: &[u8], tokens: &[TokenId]) {
        let mut ids = [0; WORD_TOKENS_MAX];
        if let Some(ids) = ids.get_mut(..tokens.len()) {
            ids.iter_mut().zip(tokens).for_each(|(id, token)| *id = token.0);
            self.put(vacancy, word, ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_back_with_its_tokens_and_no_other_word_does() {
        let mut cache = WordCache::default();
        let Err(Some(vacancy)) = cache.get(b"word") else { panic!("the cache is empty") };
        cache.put(vacancy, b"word", &[7, 8]);
        assert_eq!(cache.get(b"word").ok(), Some(&[7, 8][..]));
        assert!(cache.get(b"wor").is_err());
        assert!(cache.get(b"words").is_err());
    }

    #[test]
    fn long_words_and_many_tokens_are_not_remembered() {
        let mut cache = WordCache::default();
        assert!(matches!(cache.get(&[b'x'; WORD_BYTES_MAX + 1]), Err(None)));
        let Err(Some(vacancy)) = cache.get(b"abcdefgh") else { panic!("the cache is empty") };
        cache.put(vacancy, b"abcdefgh", &[1; WORD_TOKENS_MAX + 1]);
        assert!(cache.get(b"abcdefgh").is_err());
    }

    #[test]
    fn the_size_does_not_grow_with_the_number_of_words() {
        let mut cache = WordCache::default();
        for number in 0..10 * SLOTS as u32 {
            let word = number.to_le_bytes();
            if let Err(Some(vacancy)) = cache.get(&word) {
                cache.put(vacancy, &word, &[number]);
            }
            assert_eq!(cache.get(&word).ok(), Some(&[number][..]));
        }
        assert_eq!(cache.slots.len(), SLOTS);
    }
}
