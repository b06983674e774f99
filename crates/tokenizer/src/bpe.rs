//! Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; over bytes as in GPT-2): merges in the order of a list.
//!
//! Token texts in the file are written in GPT-2's byte alphabet, one printable character per byte. They are turned
//! into bytes once, at load; encoding then works on the bytes of the text alone.

use hashbrown::HashMap;

use crate::cache::WordCache;
use crate::merge::{Join, Merger, Rule, Symbol};
use crate::pre::PreTokenizer;
use crate::texts::{TextIndex, Texts};
use crate::vocabulary::TokenType;
use crate::{Error, TokenId};

/// Byte-level BPE over one vocabulary.
#[derive(Debug)]
pub struct Bpe {
    /// The symbol of each byte: a token, or a stand-in.
    byte_symbols: [u32; 256],
    /// (left symbol, right symbol) → join.
    pairs: HashMap<(u32, u32), Join>,
    /// Tokens by their bytes; empty unless whole words are looked up before merging.
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
    ) -> Result<Self, Error> {
        let mut symbols = SymbolNames::new(tokens);
        let n_tokens = symbols.n_tokens;
        let byte_symbols =
            std::array::from_fn(|byte| symbols.get_or_add(byte_to_char(byte as u8).encode_utf8(&mut [0; 4])));

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
            let pair = (symbols.get_or_add(left), symbols.get_or_add(right));
            // Of two equal merges the earlier one counts.
            pairs.entry(pair).or_insert(Join { priority: index as u32, id });
        }

        let mut words = TextIndex::default();
        if pre.ignore_merges {
            words = TextIndex::with_capacity(tokens.len());
            for id in 0..n_tokens {
                if matches!(type_of(id), TokenType::Normal | TokenType::UserDefined) && !bytes.get(id).is_empty() {
                    words.insert(bytes, id);
                }
            }
        }
        let mut stand_ins = Texts::default();
        for at in n_tokens..symbols.texts.len() as u32 {
            let name = std::str::from_utf8(symbols.texts.get(at)).expect("names were pushed as str");
            stand_ins.push(&byte_level_to_bytes(name));
        }
        Ok(Self { byte_symbols, pairs, words, stand_ins, n_tokens, pre })
    }

    /// Appends the tokens of `text`.
    pub fn encode(
        &self,
        text: &str,
        bytes: &Texts,
        merger: &mut Merger,
        cache: &mut WordCache,
        out: &mut Vec<TokenId>,
    ) {
        self.pre.split(text, &mut |word| self.encode_word(word.as_bytes(), bytes, merger, cache, out));
        merger.shrink();
    }

    fn encode_word(
        &self,
        word: &[u8],
        bytes: &Texts,
        merger: &mut Merger,
        cache: &mut WordCache,
        out: &mut Vec<TokenId>,
    ) {
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
        } else {
            merger.symbols.extend(word.iter().enumerate().filter_map(|(at, &byte)| {
                let id = self.byte_symbols[usize::from(byte)];
                // Bytes without a token vanish before the merges, so that what was around them may meet.
                (id < self.n_tokens).then_some(Symbol { id, start: at as u32, end: at as u32 + 1 })
            }));
            merger.merge(&mut Pairs(&self.pairs));
        }
        let before = out.len();
        for &symbol in &merger.symbols {
            self.push_symbol(symbol.id, out);
        }
        if let Some(vacancy) = vacancy {
            let mut ids = [0; 8];
            let tokens = &out[before..];
            if let Some(ids) = ids.get_mut(..tokens.len()) {
                ids.iter_mut().zip(tokens).for_each(|(id, token)| *id = token.0);
                cache.put(vacancy, word, ids);
            }
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
        let in_utf8 = |byte: &u8| !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        (0..=u8::MAX).filter(in_utf8).filter(|&byte| self.byte_symbols[usize::from(byte)] >= self.n_tokens).collect()
    }
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
