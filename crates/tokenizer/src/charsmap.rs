//! SentencePiece's normalizer as the file carries it (`precompiled_charsmap`): which characters become which.
//!
//! ```text
//! u32          size of the trie in bytes, little endian
//! [u32; …]     a double array (darts-clone), its strings being what is replaced; a value is an offset into …
//! bytes        … the replacements, each ended by a zero byte
//!
//! a unit of the double array:
//!    31            30 … 10        9               8          7 … 0
//!    1 on values   offset         offset << 8     has value  label
//! ```
//!
//! The trie comes from a file, so nothing in it is believed: every index is checked, a walk ends after
//! [`KEY_BYTES_MAX`] bytes, and replacements are checked to be text when the map is built.

use crate::Error;

/// Longest string that is looked up in the trie. SentencePiece's own rules have keys of up to 18 bytes.
const KEY_BYTES_MAX: usize = 128;
/// Longest replacement. The longest of NFKC has 33 bytes.
const REPLACEMENT_BYTES_MAX: usize = 1024;
/// Largest map; those of the published models have about 240 kB.
const MAP_BYTES_MAX: usize = 1 << 26;

/// Replacements by the longest string that a text begins with.
#[derive(Debug)]
pub struct CharsMap {
    units: Vec<u32>,
    /// Offsets into this are what the trie's values are.
    replacements: String,
    /// Bytes that no key begins with are copied without a walk.
    begins: [bool; 256],
    /// ASCII characters that stay as they are where another one follows: no key is the one alone or begins with both.
    stays: [bool; 128],
}

impl CharsMap {
    /// Reads a map.
    ///
    /// # Errors
    /// [`Error::BadCharsMap`].
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        let bad = |reason: &'static str| Error::BadCharsMap { reason };
        if bytes.len() > MAP_BYTES_MAX {
            return Err(bad("it is larger than 64 MiB"));
        }
        let (size, rest) = bytes.split_first_chunk().ok_or_else(|| bad("it is shorter than its header"))?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, replacements) = rest.split_at_checked(size).ok_or_else(|| bad("its trie is cut off"))?;
        let units: Vec<u32> = trie
            .chunks_exact(4)
            .map(|unit| u32::from_le_bytes(unit.try_into().expect("chunks have four bytes")))
            .collect();
        let replacements = std::str::from_utf8(replacements).map_err(|_| bad("its replacements are not UTF-8"))?;
        if replacements.split('\0').any(|replacement| replacement.len() > REPLACEMENT_BYTES_MAX) {
            return Err(bad("a replacement is longer than 1024 bytes"));
        }
        let mut map = Self { units, replacements: replacements.to_owned(), begins: [true; 256], stays: [false; 128] };
        map.begins = std::array::from_fn(|byte| map.step(0, byte as u8).is_some());
        map.stays = std::array::from_fn(|byte| {
            let Some(node) = map.step(0, byte as u8) else { return true };
            map.units[node] >> 8 & 1 == 0 && (0..128).all(|next| map.step(node, next).is_none())
        });
        Ok(map)
    }

    /// The node that `byte` leads to.
    #[inline]
    fn step(&self, node: usize, byte: u8) -> Option<usize> {
        let next = node ^ offset(*self.units.get(node)?) ^ usize::from(byte);
        let unit = *self.units.get(next)?;
        (unit & (1 << 31 | 0xFF) == u32::from(byte)).then_some(next)
    }

    /// How many bytes at the start of `text` are ASCII characters other than spaces that stay as they are.
    #[inline]
    pub fn plain_prefix(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
        pairs
            .take_while(|&(&byte, &next)| byte < 128 && next < 128 && byte != b' ' && self.stays[usize::from(byte)])
            .count()
    }

    /// Whether `text` begins with two ASCII characters of which the first stays as it is.
    #[inline]
    pub fn keeps_first(&self, text: &str) -> bool {
        matches!(*text.as_bytes(), [byte @ ..128, ..128, ..] if self.stays[usize::from(byte)])
    }

    /// What the longest key at the start of `text` becomes, and the key's length; `None` where no key is there.
    #[inline]
    pub fn longest_prefix(&self, text: &str) -> Option<(&str, usize)> {
        let bytes = text.as_bytes();
        if !self.begins[usize::from(*bytes.first()?)] {
            return None;
        }
        let (mut node, mut found) = (0, None);
        for (at, &byte) in bytes.iter().take(KEY_BYTES_MAX).enumerate() {
            let Some(next) = self.step(node, byte) else { break };
            node = next;
            let unit = self.units[node];
            if unit >> 8 & 1 == 1
                && text.is_char_boundary(at + 1)
                && let Some(&value) = self.units.get(node ^ offset(unit))
            {
                found = Some(((value & !(1 << 31)) as usize, at + 1));
            }
        }
        let (start, len) = found?;
        let rest = self.replacements.get(start..)?;
        let end = rest.find('\0').unwrap_or(rest.len());
        Some((&rest[..end], len))
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(units: &[u32], replacements: &str) -> Vec<u8> {
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        units.iter().for_each(|unit| bytes.extend(unit.to_le_bytes()));
        bytes.extend(replacements.as_bytes());
        bytes
    }

    /// The trie of one key, "A", that becomes "a": the root leads to unit `256 ^ 'A'`, whose value is at offset 0 of it.
    fn lowercase_a() -> Vec<u8> {
        let mut units = vec![0; 512];
        units[0] = 256 << 10;
        units[256 ^ 0x41] = 1 << 10 | 1 << 8 | 0x41;
        units[256 ^ 0x41 ^ 1] = 1 << 31;
        map(&units, "a\0")
    }

    #[test]
    fn a_key_is_replaced_and_other_text_is_not() {
        let map = CharsMap::new(&lowercase_a()).unwrap();
        assert_eq!(map.longest_prefix("AB"), Some(("a", 1)));
        assert_eq!(map.longest_prefix("B"), None);
        assert_eq!(map.plain_prefix("bcAb"), 2);
        assert_eq!(map.plain_prefix("bc é"), 2);
        assert_eq!(map.plain_prefix("bé"), 0);
        assert_eq!(map.longest_prefix(""), None);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for (bytes, part) in [
            (&b""[..], "shorter than its header"),
            (&[9, 0, 0, 0, 1], "cut off"),
            (&[0, 0, 0, 0, 0xFF], "not UTF-8"),
            (&[&[0; 4][..], &[b'x'; 1025]].concat(), "1024 bytes"),
        ] {
            let error = CharsMap::new(bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        /// Any trie, also one with loops: the walk ends, and what it gives is in the map.
        #[test]
        fn a_hostile_map_cannot_lead_astray(
            units in proptest::collection::vec(any::<u32>(), 0..300),
            dense in proptest::collection::vec(0u32..2048, 0..300),
            text in "\\PC{0,20}",
        ) {
            for units in [units, dense.iter().map(|unit| unit | 1 << 8).collect()] {
                let map = CharsMap::new(&map(&units, "é\0日本\0x")).unwrap();
                if let Some((_, len)) = map.longest_prefix(&text) {
                    prop_assert!(len > 0 && text.is_char_boundary(len));
                }
            }
        }
    }
}
