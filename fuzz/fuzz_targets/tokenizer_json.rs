//! Any bytes as a checkpoint's tokenizer, in both formats: refused with a message, or everything in it can be walked.
#![no_main]

use hublabio_convert::tokenizer::{json::TokenizerJson, sentencepiece::SentencePiece};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match TokenizerJson::parse(data) {
        Ok(tokenizer) => {
            assert_eq!(tokenizer.merge_lines().len(), tokenizer.merges.len());
            assert!(tokenizer.merge_scores().len() <= tokenizer.merges.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match SentencePiece::parse(data) {
        Ok(model) => {
            assert!(!model.pieces.is_empty() && model.pieces.iter().all(|piece| piece.score.is_finite()));
            let ids = model.special_ids.iter().filter_map(|entry| entry.1);
            assert!(ids.into_iter().all(|id| (id as usize) < model.pieces.len()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
