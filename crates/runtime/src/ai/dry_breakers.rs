//! Texts over which DRY's repetitions do not reach, as the sequences of tokens that spell them.
//!
//! A text can hide in tokens in many ways: inside of one, or from the end of one on. The engine knows no text, so that all
//! ways are listed here, as llama.cpp lists them.

use hublabio_engine::TokenIndex;
use hublabio_tokenizer::{EncodeOptions, TokenId, Tokenizer};

use crate::error::{Error, Result};

/// Most breakers of a request.
pub const DRY_BREAKERS_MAX: usize = 64;
/// Longest breaker, in bytes: the bound that llama.cpp cuts at. Here a longer one is refused.
pub const DRY_BREAKER_BYTES_MAX: usize = 40;

/// Every token that holds one of `texts`, as a sequence of its own; every token that ends with a beginning of one,
/// followed by the tokens of the rest; and the tokens of each text as it stands, since a rest that starts within a
/// character is no text, and has no tokens.
///
/// # Errors
/// When there are too many texts, or one is empty or too long.
pub(super) fn dry_breakers(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<TokenIndex>>> {
    let bad = |problem| Err(Error::BadDryBreaker { problem });
    if texts.len() > DRY_BREAKERS_MAX {
        return bad(format!("there are {}, at most {DRY_BREAKERS_MAX} are possible", texts.len()));
    }
    let mut sequences = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        if text.is_empty() {
            return bad(format!("number {} is empty", i + 1));
        }
        if text.len() > DRY_BREAKER_BYTES_MAX {
            return bad(format!(
                "number {} has {} bytes, at most {DRY_BREAKER_BYTES_MAX} are possible",
                i + 1,
                text.len()
            ));
        }
        // The rest after a beginning of so many bytes is the same for every token that ends with it.
        let rests = (1..text.len())
            .map(|n| text.get(n..).map(|rest| tokens_of(tokenizer, rest)).transpose())
            .collect::<Result<Vec<_>>>()?;
        sequences.push(tokens_of(tokenizer, text)?);
        for token in 0..tokenizer.n_tokens() as TokenIndex {
            let bytes = tokenizer.token_bytes(TokenId(token)).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                sequences.push(vec![token]);
                continue;
            }
            for (n, rest) in (1..).zip(&rests) {
                if let Some(rest) = rest
                    && bytes.ends_with(&text.as_bytes()[..n])
                {
                    sequences.push([&[token], rest.as_slice()].concat());
                }
            }
        }
    }
    sequences.retain(|sequence| !sequence.is_empty());
    sequences.sort_unstable();
    sequences.dedup();
    Ok(sequences)
}

fn tokens_of(tokenizer: &Tokenizer, text: &str) -> Result<Vec<TokenIndex>> {
    let options = EncodeOptions { add_bos: Some(false), add_eos: Some(false), parse_special: false };
    Ok(tokenizer.encode(text, options)?.into_iter().map(|id| id.0).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{InferenceEngine, ModelConfig};
    use super::*;

    #[test]
    fn every_way_in_which_tokens_spell_a_breaker_is_found() {
        let engine = InferenceEngine::open_default(&ModelConfig::default()).unwrap();
        let tokenizer = engine.tokenizer().unwrap();
        let bytes = |token: TokenIndex| tokenizer.token_bytes(TokenId(token)).unwrap();
        for text in ["\n", ":", "the", "é"] {
            let found = dry_breakers(tokenizer, &[text.to_owned()]).unwrap();
            assert!(!found.is_empty(), "{text:?}");
            let mut alone = 0;
            for sequence in &found {
                let spelled: Vec<u8> = sequence.iter().flat_map(|&t| bytes(t).to_vec()).collect();
                let holds = spelled.windows(text.len()).any(|w| w == text.as_bytes());
                // A tokenizer may put a space before what it takes for the start of a text.
                assert!(holds || tokenizer.adds_space_prefix(), "{text:?} in {spelled:?}");
                alone += usize::from(sequence.len() == 1);
            }
            let holding = (0..tokenizer.n_tokens() as TokenIndex)
                .filter(|&t| bytes(t).windows(text.len()).any(|w| w == text.as_bytes()));
            assert_eq!(alone, holding.count(), "{text:?}");
        }
        assert!(dry_breakers(tokenizer, &["t".to_owned(), "the".to_owned()]).unwrap().iter().any(|s| s.len() == 1));
        for bad in [vec![String::new()], vec!["x".repeat(41)], vec!["x".to_owned(); 65]] {
            assert!(matches!(dry_breakers(tokenizer, &bad), Err(Error::BadDryBreaker { .. })));
        }
    }
}
