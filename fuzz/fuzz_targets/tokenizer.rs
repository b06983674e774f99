//! Any vocabulary, any text: building, encoding and decoding end in an answer or an error, and what is encoded decodes
//! back. The input is a vocabulary in miniature, then the text.
#![no_main]

use hublabio_tokenizer::{
    DecodeOptions, EncodeOptions, Error, TokenId, TokenType, Tokenizer, Utf8Stream, Vocabulary, VocabularyKind,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const PRE: [&str; 28] = [
    "gpt-2", "llama-bpe", "qwen2", "qwen35", "starcoder", "falcon", "default", "unknown", "jais-2", "exaone-moe",
    "gpt-4o", "tekken", "tiny_aya", "youtu", "kimi-k2", "deepseek-llm", "deepseek-coder", "deepseek-v3", "spark2_5",
    "afmoe", "bloom", "viking", "superbpe", "chameleon", "laguna", "seed-coder", "sarvam-moe", "whitespace",
];
const KINDS: [VocabularyKind; 5] = [
    VocabularyKind::Bpe,
    VocabularyKind::Spm,
    VocabularyKind::Gemma4,
    VocabularyKind::WordPiece,
    VocabularyKind::Unigram,
];

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    if let Ok((vocabulary, complete)) = vocabulary(&mut input) {
        check(vocabulary, complete, input.take_rest());
    }
});

/// A small vocabulary, and whether every text can be expressed in it and comes back.
fn vocabulary(input: &mut Unstructured<'_>) -> Result<(Vocabulary, bool)> {
    // The first two numbers mean what the first byte of older seeds meant.
    let kind = KINDS[usize::from(input.arbitrary::<u8>()?) % KINDS.len()];
    let complete: bool = input.arbitrary()?;
    let with_bytes = !matches!(kind, VocabularyKind::Bpe | VocabularyKind::WordPiece);
    let mut tokens = Vec::new();
    let mut types = Vec::new();
    if complete {
        if with_bytes {
            tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
            types.resize(256, TokenType::Byte);
            tokens.push("▁".to_owned());
            types.push(TokenType::Normal);
        } else {
            tokens.extend(('!'..='~').chain('¡'..='¬').chain('®'..='\u{143}').map(String::from));
            types.resize(256, TokenType::Normal);
        }
    }
    for _ in 0..input.int_in_range(0..=24)? {
        tokens.push(input.arbitrary::<&str>()?.chars().take(12).collect());
        types.push(TokenType::from_gguf(input.int_in_range(0..=7)?));
    }
    let mut vocabulary = Vocabulary::new(kind, tokens);
    let n_tokens = vocabulary.tokens.len();
    let pre = *input.choose(&PRE)?;
    vocabulary.pre = Some(pre.to_owned());
    vocabulary.scores = (0..n_tokens).map(|_| input.int_in_range(-9i8..=9).map(f32::from)).collect::<Result<_>>()?;
    if complete || input.arbitrary()? {
        vocabulary.types.clone_from(&types);
    }
    // Merges of the tokens at hand; a complete vocabulary keeps its single bytes reachable whatever they say.
    vocabulary.merges.push("! !".to_owned());
    let mut ambiguous = false;
    for _ in 0..input.int_in_range(0..=16)? {
        let (left, right) = (input.choose_index(n_tokens)?, input.choose_index(n_tokens)?);
        let (left, right) = (&vocabulary.tokens[left], &vocabulary.tokens[right]);
        // A token that is matched literally and also made by merges stands for two texts.
        let joined = format!("{left}{right}");
        let made = vocabulary.tokens.iter().position(|token| *token == joined);
        ambiguous |= made.is_some_and(|id| types.get(id) == Some(&TokenType::UserDefined));
        vocabulary.merges.push(format!("{left} {right}"));
    }
    for id in [&mut vocabulary.bos, &mut vocabulary.eos, &mut vocabulary.unk, &mut vocabulary.pad] {
        *id = input.arbitrary::<Option<u8>>()?.map(|id| TokenId(u32::from(id)));
    }
    vocabulary.add_bos = input.arbitrary()?;
    vocabulary.add_eos = input.arbitrary()?;
    vocabulary.add_space_prefix = input.arbitrary()?;
    let mut reversible = complete && !ambiguous;
    if !matches!(kind, VocabularyKind::Bpe | VocabularyKind::Spm) || matches!(pre, "sarvam-moe" | "whitespace") {
        // The other kinds change texts, or write `▁` for two characters.
        reversible = false;
        vocabulary.sep = input.arbitrary::<Option<u8>>()?.map(|id| TokenId(u32::from(id)));
        vocabulary.add_sep = input.arbitrary()?;
        vocabulary.lowercase = input.arbitrary()?;
        vocabulary.strip_accents = input.arbitrary()?;
        vocabulary.remove_extra_whitespaces = input.arbitrary()?;
        vocabulary.whitespace_as_suffix = input.arbitrary()?;
        vocabulary.precompiled_charsmap = charsmap(input)?;
    }
    Ok((vocabulary, reversible))
}

/// Nothing, any bytes, or a header that fits a trie of any units, most of which lead somewhere.
fn charsmap(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if input.arbitrary()? {
        return input.arbitrary();
    }
    let units = (0..input.int_in_range(0..=600)?).map(|_| input.arbitrary::<u32>()).collect::<Result<Vec<_>>>()?;
    let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
    bytes.extend(units.iter().flat_map(|unit| (unit & 0x1F_FFFF | 1 << 8).to_le_bytes()));
    bytes.extend("a\0é \0  \0[CLS]\0".as_bytes());
    Ok(bytes)
}

fn check(vocabulary: Vocabulary, complete: bool, text: &[u8]) {
    let spm = vocabulary.kind == VocabularyKind::Spm;
    let Ok(tokenizer) = Tokenizer::new(vocabulary) else { return };
    let plain = tokenizer.encode_bytes(text, EncodeOptions::plain());
    let Ok(text) = std::str::from_utf8(text) else {
        assert!(matches!(plain, Err(Error::InvalidUtf8 { .. })));
        return;
    };
    if let Ok(ids) = tokenizer.encode(text, EncodeOptions::template()) {
        assert!(ids.iter().all(|&id| tokenizer.piece(id).is_some()));
        let all = DecodeOptions { control_text: true, keep_space_prefix: true, clean_spaces: Some(false) };
        let bytes = tokenizer.decode_with(&ids, all).expect("these ids are in the vocabulary");
        let mut stream = tokenizer.stream_with(all);
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).expect("as above").to_owned()).collect();
        streamed += stream.finish();
        assert_eq!(streamed, String::from_utf8_lossy(&bytes));
        let mut whole = Utf8Stream::new();
        assert_eq!(format!("{}", whole.push(&bytes).to_owned() + whole.finish()), streamed);
    }
    let Ok(ids) = plain else { return };
    let parse_special = EncodeOptions { parse_special: true, ..EncodeOptions::plain() };
    assert_eq!(tokenizer.encode(&tokenizer.shield(text), parse_special).as_ref(), Ok(&ids));
    // SPM has one spelling for a space and for U+2581.
    if complete && !(spm && text.contains('▁')) {
        assert_eq!(tokenizer.decode(&ids).expect("these ids are in the vocabulary"), text.as_bytes());
    }
}
