//! BPE (Sennrich et al. 2016, arXiv:1508.07909): merges in the order of a list, over bytes or over characters.
//!
//! Byte-level vocabularies write their tokens in GPT-2's alphabet, one printable character per byte. They are turned
//! into bytes once, at load; encoding then works on the bytes of the text alone. Others have the characters as they are
//! (Gemma 4: with `▁` for a space); what has no token becomes bytes (`<0x0A>`), or the unknown token.

use hashbrown::HashMap;

use crate::cache::WordCache;
use crate::merge::{Join, Merger, Rule, Symbol};
use crate::pre::{Alphabet, PreTokenizer};
use crate::spm::{SPACE_MARK, byte_of_piece, first_word};
use crate::texts::{TextIndex, Texts};
use crate::vocabulary::TokenType;
use crate::{Error, TokenId};

/// BPE over one vocabulary.
#[derive(Debug)]
pub struct Bpe {
    /// The symbol of each byte: a token, or a stand-in.
    byte_symbols: [u32; 256],
    /// The token of each character; empty for byte-level vocabularies.
    characters: HashMap<char, u32>,
    /// For characters without a token or byte tokens.
    unk: Option<TokenId>,
    /// No merge crosses the start of a run of `▁`, so that words can be merged alone.
    words_are_separate: bool,
    /// (left symbol, right symbol) → join.
    pairs: HashMap<(u32, u32), Join>,
    /// Tokens by their bytes, those that are taken for a whole word before merging.
    words: TextIndex,
    /// Strings that merges mention and the vocabulary lacks; symbol = number of tokens + position.
    stand_ins: Texts,
    n_tokens: u32,
    pre: &'static PreTokenizer,
}

impl Bpe {
    /// Reads the merges. `tokens` are the texts as the file has them, `bytes` what they stand for.
    pub fn new(
        tokens: &[String],
        bytes: &Texts,
        type_of: impl Fn(u32) -> TokenType,
        merges: &[String],
        pre: &'static PreTokenizer,
        unk: Option<TokenId>,
    ) -> Result<Self, Error> {
        let mut symbols = SymbolNames::new(tokens);
        let n_tokens = symbols.n_tokens;
        let byte_level = pre.alphabet == Alphabet::Bytes;
        let mut characters = HashMap::new();
        let byte_symbols = if byte_level {
            std::array::from_fn(|byte| symbols.get_or_add(byte_to_char(byte as u8).encode_utf8(&mut [0; 4])))
        } else {
            characters = single_characters(tokens, &type_of);
            byte_tokens(tokens, &type_of)
        };
        let mut words_are_separate = true;
        let mut merges_newlines = false;

        let mut pairs = HashMap::with_capacity(merges.len());
        let mut joined = String::new();
        for (index, merge) in merges.iter().enumerate() {
            let bad = || Error::BadMerge { index, text: merge.chars().take(40).collect() };
            // The first character may itself be a space in vocabularies that are not byte-level.
            let first_len = merge.chars().next().ok_or_else(bad)?.len_utf8();
            let space = first_len + merge[first_len..].find(' ').ok_or_else(bad)?;
            let (left, right) = (&merge[..space], &merge[space + 1..]);
            if right.is_empty() {
                return Err(bad());
            }
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = symbols.get_or_add(&joined);
            // No text becomes a control token by merging.
            let special = |kind| matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::Byte);
            if id < n_tokens && special(type_of(id)) {
                continue;
            }
            merges_newlines |= joined.bytes().all(|byte| byte == b'\n');
            words_are_separate &= !joined.trim_start_matches(SPACE_MARK).contains(SPACE_MARK);
            let pair = (symbols.get_or_add(left), symbols.get_or_add(right));
            // Of two equal merges the earlier one counts.
            pairs.entry(pair).or_insert(Join { priority: index as u32, id });
        }

        // Where no merge makes runs of line ends (converters leave those merges out), a run is still its own token.
        let newlines = |text: &[u8]| !byte_level && !merges_newlines && text.iter().all(|&byte| byte == b'\n');
        let mut words = TextIndex::default();
        for id in 0..n_tokens {
            let text = bytes.get(id);
            let ordinary = matches!(type_of(id), TokenType::Normal | TokenType::UserDefined) && !text.is_empty();
            if ordinary && (pre.ignore_merges || newlines(text)) {
                words.insert(bytes, id);
            }
        }
        let mut stand_ins = Texts::default();
        for at in n_tokens..symbols.texts.len() as u32 {
            let name = std::str::from_utf8(symbols.texts.get(at)).expect("names were pushed as str");
            if byte_level {
                stand_ins.push(&byte_level_to_bytes(name));
            } else {
                stand_ins.push(name.as_bytes());
            }
        }
        Ok(Self { byte_symbols, characters, unk, words_are_separate, pairs, words, stand_ins, n_tokens, pre })
    }

    /// How text is written in tokens.
    pub fn alphabet(&self) -> Alphabet {
        self.pre.alphabet
    }

    /// Appends the tokens of `text`, in which spaces are already written as the alphabet says.
    pub fn encode(
        &self,
        text: &str,
        bytes: &Texts,
        merger: &mut Merger,
        cache: &mut WordCache,
        out: &mut Vec<TokenId>,
    ) {
        let start = out.len();
        self.pre.split(text, &mut |mut piece| {
            while !piece.is_empty() {
                let separate = self.pre.alphabet == Alphabet::Marked && self.words_are_separate;
                let word = if separate { first_word(piece) } else { piece };
                self.encode_word(word, bytes, merger, cache, start, out);
                piece = &piece[word.len()..];
            }
        });
        merger.shrink();
    }

    fn encode_word(
        &self,
        text: &str,
        bytes: &Texts,
        merger: &mut Merger,
        cache: &mut WordCache,
        start: usize,
        out: &mut Vec<TokenId>,
    ) {
        let word = text.as_bytes();
        let vacancy = match cache.get(word) {
            Ok(tokens) => {
                out.extend(tokens.iter().map(|&id| TokenId(id)));
                return;
            }
            Err(vacancy) => vacancy,
        };
        merger.symbols.clear();
        if let Some(id) = self.words.find(bytes, word) {
            merger.symbols.push(Symbol { id, start: 0, end: word.len() as u32 });
        } else if self.pre.alphabet != Alphabet::Bytes {
            self.push_characters(text, &mut merger.symbols);
            merger.merge(&mut Pairs(&self.pairs));
        } else {
            merger.symbols.extend(word.iter().enumerate().filter_map(|(at, &byte)| {
                let id = self.byte_symbols[usize::from(byte)];
                // Bytes without a token vanish before the merges, so that what was around them may meet.
                (id < self.n_tokens).then_some(Symbol { id, start: at as u32, end: at as u32 + 1 })
            }));
            merger.merge(&mut Pairs(&self.pairs));
        }
        let before = out.len();
        let mut has_unknown = false;
        for &symbol in &merger.symbols {
            if symbol.id == UNKNOWN {
                has_unknown = true;
                self.push_unknown(start, out);
            } else {
                self.push_symbol(symbol.id, out);
            }
        }
        // An unknown token is one with that of the word before.
        if let (Some(vacancy), false) = (vacancy, has_unknown) {
            cache.put_tokens(vacancy, word, &out[before..]);
        }
    }

    /// One symbol for each character, or one for each of its bytes where it has no token.
    fn push_characters(&self, word: &str, symbols: &mut Vec<Symbol>) {
        for (start, c) in word.char_indices() {
            let end = start + c.len_utf8();
            if let Some(&id) = self.characters.get(&c) {
                symbols.push(Symbol { id, start: start as u32, end: end as u32 });
                continue;
            }
            let ids = word.as_bytes()[start..end].iter().map(|&byte| self.byte_symbols[usize::from(byte)]);
            if ids.clone().all(|id| id < self.n_tokens) {
                symbols.extend((start as u32..).zip(ids).map(|(at, id)| Symbol { id, start: at, end: at + 1 }));
            } else {
                symbols.push(Symbol { id: UNKNOWN, start: start as u32, end: end as u32 });
            }
        }
    }

    /// Neighbouring unknown characters are one unknown token, and leave nothing where there is none.
    fn push_unknown(&self, start: usize, out: &mut Vec<TokenId>) {
        let Some(unk) = self.unk else { return };
        if out.len() == start || out.last() != Some(&unk) {
            out.push(unk);
        }
    }

    /// A symbol that merges make and the vocabulary lacks is written byte by byte.
    fn push_symbol(&self, symbol: u32, out: &mut Vec<TokenId>) {
        if symbol < self.n_tokens {
            out.push(TokenId(symbol));
            return;
        }
        let bytes = self.stand_ins.get(symbol - self.n_tokens).iter();
        let tokens = bytes.map(|&byte| self.byte_symbols[usize::from(byte)]).filter(|&id| id < self.n_tokens);
        out.extend(tokens.map(TokenId));
    }

    /// Byte values that have no token, among those that UTF-8 uses. As in PyPI `tokenizers`, they vanish from a
    /// text, which the user should know.
    pub fn bytes_without_token(&self) -> Vec<u8> {
        if self.pre.alphabet != Alphabet::Bytes && self.unk.is_some() {
            return Vec::new();
        }
        let in_utf8 = |byte: &u8| !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        (0..=u8::MAX).filter(in_utf8).filter(|&byte| self.byte_symbols[usize::from(byte)] >= self.n_tokens).collect()
    }
}

/// The symbol of a character that the vocabulary cannot express. No merge has it.
const UNKNOWN: u32 = u32::MAX;

/// The ordinary tokens of one character.
fn single_characters(tokens: &[String], type_of: &impl Fn(u32) -> TokenType) -> HashMap<char, u32> {
    let mut found = HashMap::new();
    for (id, token) in (0..).zip(tokens) {
        let mut chars = token.chars();
        let ordinary = matches!(type_of(id), TokenType::Normal | TokenType::UserDefined | TokenType::Unused);
        if let (Some(c), None, true) = (chars.next(), chars.next(), ordinary) {
            found.entry(c).or_insert(id);
        }
    }
    found
}

/// The tokens `<0x00>` … `<0xFF>`, whether the file calls them bytes or not.
fn byte_tokens(tokens: &[String], type_of: &impl Fn(u32) -> TokenType) -> [u32; 256] {
    let mut found = [UNKNOWN; 256];
    for (id, token) in (0..).zip(tokens) {
        if let (Some(byte), TokenType::Byte | TokenType::Normal) = (byte_of_piece(token), type_of(id))
            && found[usize::from(byte)] == UNKNOWN
        {
            found[usize::from(byte)] = id;
        }
    }
    found
}

struct Pairs<'a>(&'a HashMap<(u32, u32), Join>);

impl Rule for Pairs<'_> {
    #[inline]
    fn join(&mut self, left: Symbol, right: Symbol) -> Option<Join> {
        self.0.get(&(left.id, right.id)).copied()
    }
}

/// Numbers for the strings that merges mention: token ids first, stand-ins after.
struct SymbolNames {
    texts: Texts,
    index: TextIndex,
    n_tokens: u32,
}

impl SymbolNames {
    fn new(tokens: &[String]) -> Self {
        let mut texts = Texts::with_capacity(tokens.len() + 256);
        let mut index = TextIndex::with_capacity(tokens.len() + 256);
        for token in tokens {
            let id = texts.push(token.as_bytes());
            // An empty token would match everywhere and is never produced.
            if !token.is_empty() {
                index.insert(&texts, id);
            }
        }
        Self { texts, index, n_tokens: tokens.len() as u32 }
    }

    fn get_or_add(&mut self, name: &str) -> u32 {
        self.index.find(&self.texts, name.as_bytes()).unwrap_or_else(|| {
            let symbol = self.texts.push(name.as_bytes());
            self.index.insert(&self.texts, symbol);
            symbol
        })
    }
}

/// GPT-2's alphabet: bytes that print in Latin-1 stand for themselves, the other 68 for U+0100 and up, in order.
fn byte_to_char(byte: u8) -> char {
    let code = match byte {
        0..=0x20 => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x121 + u32::from(byte - 0x7F),
        0xAD => 0x143,
        printable => u32::from(printable),
    };
    char::from_u32(code).expect("all codes are below the surrogates")
}

fn char_to_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes that a token text stands for; a text with a character outside of the alphabet stands for itself.
pub fn byte_level_to_bytes(text: &str) -> Vec<u8> {
    text.chars().map(char_to_byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_gpt2s_and_a_bijection() {
        assert_eq!([b' ', b'\n', b'A', 0x7F, 0xA0, 0xAD, 0xFF].map(byte_to_char), ['Ġ', 'Ċ', 'A', 'ġ', 'ł', 'Ń', 'ÿ']);
        for byte in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!((0..=u32::from(char::MAX)).filter_map(char::from_u32).filter_map(char_to_byte).count(), 256);
    }
}
