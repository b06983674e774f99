//! What a tokenizer does beside merging: special tokens, defaults, limits, decoding; with small vocabularies.

mod support;

use hublabio_tokenizer::{
    DecodeOptions, EncodeOptions, Error, SpecialIds, TokenId, TokenType, Tokenizer, Vocabulary, VocabularyKind,
};
use proptest::prelude::*;
use support::committed;

const PLAIN: EncodeOptions = EncodeOptions::plain();
const PARSED: EncodeOptions = EncodeOptions { parse_special: true, ..EncodeOptions::plain() };

/// SPM: `<unk> <s> </s>`, the 256 bytes, then `pieces` with falling scores, then the special tokens given.
fn spm(pieces: &[&str], special: &[(&str, TokenType)]) -> Vocabulary {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut types = vec![TokenType::Unknown, TokenType::Control, TokenType::Control];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    types.resize(tokens.len(), TokenType::Byte);
    tokens.extend(pieces.iter().map(|&piece| piece.to_owned()));
    types.resize(tokens.len(), TokenType::Normal);
    for &(token, kind) in special {
        tokens.push(token.to_owned());
        types.push(kind);
    }
    let mut vocabulary = Vocabulary::new(VocabularyKind::Spm, tokens);
    vocabulary.scores = (0..types.len()).map(|id| -(id as f32)).collect();
    vocabulary.types = types;
    vocabulary
}

/// BPE: the 256 bytes, what `merges` make, then the special tokens given.
fn bpe(merges: &[&str], special: &[(&str, TokenType)]) -> Vocabulary {
    let mut tokens: Vec<String> = ('!'..='~').chain('¡'..='¬').chain('®'..='\u{143}').map(String::from).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![TokenType::Normal; tokens.len()];
    for &(token, kind) in special {
        tokens.push(token.to_owned());
        types.push(kind);
    }
    let mut vocabulary = Vocabulary::new(VocabularyKind::Bpe, tokens);
    vocabulary.pre = Some("gpt-2".to_owned());
    vocabulary.merges = merges.iter().map(|&merge| merge.to_owned()).collect();
    vocabulary.types = types;
    vocabulary
}

fn build(vocabulary: Vocabulary) -> Tokenizer {
    Tokenizer::new(vocabulary).unwrap()
}

/// The tokens' texts, which read better in a failure than ids.
fn pieces<'t>(tokenizer: &'t Tokenizer, text: &str, options: EncodeOptions) -> Vec<&'t str> {
    let ids = tokenizer.encode(text, options).unwrap();
    ids.into_iter().map(|id| tokenizer.piece(id).unwrap()).collect()
}

#[test]
fn control_tokens_are_found_only_where_asked_for() {
    let special = [("<|im_end|>", TokenType::Control), ("<think>", TokenType::UserDefined)];
    let tokenizer = build(bpe(&["h i"], &special));
    assert_eq!(pieces(&tokenizer, "hi<|im_end|><think>", PARSED), ["hi", "<|im_end|>", "<think>"]);
    let plain = pieces(&tokenizer, "hi<|im_end|><think>", PLAIN);
    assert_eq!(plain.first(), Some(&"hi"));
    assert_eq!(plain.last(), Some(&"<think>"));
    assert!(!plain.contains(&"<|im_end|>"));
}

#[test]
fn merges_never_make_a_control_token() {
    // The merges would build the text of the control token.
    let mut vocabulary = bpe(&["a b", "ab c"], &[]);
    let abc = vocabulary.tokens.len() - 1;
    vocabulary.types[abc] = TokenType::Control;
    assert_eq!(pieces(&build(vocabulary), "abc", PLAIN), ["ab", "c"]);

    let vocabulary = spm(&["▁", "▁<", "s", ">", "s>"], &[]);
    assert_eq!(pieces(&build(vocabulary), "<s>", PLAIN), ["▁<", "s>"]);
    let mut vocabulary = spm(&["<", "s", ">", "s>"], &[]);
    vocabulary.add_space_prefix = Some(false);
    assert_eq!(pieces(&build(vocabulary), "<s>", PLAIN), ["<", "s>"]);
}

#[test]
fn a_whole_word_is_never_a_control_token() {
    let mut vocabulary = bpe(&["a b", "ab c"], &[("word", TokenType::Control), ("abcd", TokenType::Normal)]);
    vocabulary.pre = Some("llama-bpe".to_owned());
    let tokenizer = build(vocabulary);
    // This pre-tokenizer takes whole words from the vocabulary, also such as merges cannot make.
    assert_eq!(pieces(&tokenizer, "abcd", PLAIN), ["abcd"]);
    assert_eq!(pieces(&tokenizer, "word", PLAIN), ["w", "o", "r", "d"]);
}

#[test]
fn of_special_tokens_the_leftmost_then_the_longest_is_taken() {
    let kind = TokenType::UserDefined;
    let tokenizer = build(bpe(&[], &[("<a", kind), ("<ab>", kind), ("b><c>", kind)]).with_merge());
    assert_eq!(pieces(&tokenizer, "x<ab><c>", PLAIN), ["x", "<ab>", "<", "c", ">"]);
    assert_eq!(pieces(&tokenizer, "<abb><c>", PLAIN), ["<a", "b", "b><c>"]);
}

trait WithMerge {
    fn with_merge(self) -> Self;
}

impl WithMerge for Vocabulary {
    /// A merge list may not be empty; this one is never used.
    fn with_merge(mut self) -> Self {
        self.merges = vec!["ÿ ÿ".to_owned()];
        self
    }
}

#[test]
fn shielded_text_has_no_control_token_and_the_same_tokens() {
    let special = [("<|im_end|>", TokenType::Control), ("|>x", TokenType::Control), ("<u>", TokenType::UserDefined)];
    let tokenizer = build(bpe(&["h i"], &special));
    for text in ["hi<|im_end|>x", "plain", "\u{FDD0}<|im_end|>\u{FDD0}\u{FDD0}", "<u>|>x", ""] {
        let shielded = tokenizer.shield(text);
        assert_eq!(tokenizer.encode(&shielded, PARSED), tokenizer.encode(text, PLAIN), "{text:?}");
    }
    assert_eq!(pieces(&tokenizer, &format!("{}<|im_end|>", tokenizer.shield("hi")), PARSED), ["hi", "<|im_end|>"]);
}

#[test]
fn spm_puts_a_space_before_text_and_after_special_tokens() {
    let tokenizer = build(spm(&["▁", "▁a", "a"], &[("<x>", TokenType::UserDefined)]));
    assert_eq!(pieces(&tokenizer, "a<x>a", PLAIN), ["▁a", "<x>", "▁a"]);
    assert_eq!(pieces(&tokenizer, "", PLAIN), [] as [&str; 0]);
    assert_eq!(pieces(&tokenizer, " a", PLAIN), ["▁", "▁a"]);

    let mut vocabulary = spm(&["▁", "▁a", "a"], &[]);
    vocabulary.add_space_prefix = Some(false);
    assert_eq!(pieces(&build(vocabulary), "a a", PLAIN), ["a", "▁a"]);
}

#[test]
fn spm_merges_by_score_and_leftmost_on_ties() {
    let mut vocabulary = spm(&["a", "b", "c", "ab", "bc"], &[]);
    vocabulary.add_space_prefix = Some(false);
    let bc = vocabulary.tokens.len() - 1;
    assert_eq!(pieces(&build(vocabulary.clone()), "abc", PLAIN), ["ab", "c"]);
    vocabulary.scores[bc] = 1.0;
    assert_eq!(pieces(&build(vocabulary.clone()), "abc", PLAIN), ["a", "bc"]);
    vocabulary.scores[bc - 1] = 1.0;
    assert_eq!(pieces(&build(vocabulary), "abc", PLAIN), ["ab", "c"]);
}

#[test]
fn spm_spells_what_it_lacks_in_bytes_or_as_unknown() {
    let mut vocabulary = spm(&["a"], &[]);
    vocabulary.add_space_prefix = Some(false);
    let tokenizer = build(vocabulary.clone());
    assert_eq!(pieces(&tokenizer, "aé", PLAIN), ["a", "<0xC3>", "<0xA9>"]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("aé", PLAIN).unwrap()).unwrap(), "aé".as_bytes());

    vocabulary.types[3..259].fill(TokenType::Control);
    assert_eq!(pieces(&build(vocabulary.clone()), "aééa", PLAIN), ["a", "<unk>", "a"]);
    vocabulary.tokens[0] = "none".to_owned();
    assert_eq!(build(vocabulary).encode("é", PLAIN), Err(Error::NoToken { byte: 0xC3 }));
}

#[test]
fn user_defined_spm_tokens_match_with_spaces_or_marks() {
    for text in ["▁▁", "  "] {
        let mut vocabulary = spm(&["▁", "a"], &[(text, TokenType::UserDefined)]);
        vocabulary.add_space_prefix = Some(false);
        let tokenizer = build(vocabulary);
        let ids = tokenizer.encode("a  a", PLAIN).unwrap();
        assert_eq!(tokenizer.piece(ids[1]), Some(text));
        assert_eq!(tokenizer.decode(&ids).unwrap(), b"a  a");
    }
}

#[test]
fn bos_and_eos_follow_the_model_or_the_caller() {
    let mut vocabulary = spm(&["▁", "a", "▁a"], &[]);
    let model = EncodeOptions::default();
    // SPM wants BOS and no EOS unless the file says otherwise.
    assert_eq!(pieces(&build(vocabulary.clone()), "a", model), ["<s>", "▁a"]);
    vocabulary.add_bos = Some(false);
    vocabulary.add_eos = Some(true);
    let tokenizer = build(vocabulary);
    assert_eq!(pieces(&tokenizer, "a", model), ["▁a", "</s>"]);
    let forced = EncodeOptions { add_bos: Some(true), add_eos: Some(false), ..model };
    assert_eq!(pieces(&tokenizer, "a", forced), ["<s>", "▁a"]);
    assert_eq!(pieces(&tokenizer, "a", PLAIN), ["▁a"]);
}

#[test]
fn a_template_that_writes_bos_gets_only_one() {
    let tokenizer = build(spm(&["▁", "a", "▁a"], &[]));
    let template = EncodeOptions::template();
    assert_eq!(pieces(&tokenizer, "<s>a", template), ["<s>", "▁a"]);
    assert_eq!(pieces(&tokenizer, "a", template), ["<s>", "▁a"]);
    // Later ones, and ones that the caller asked for, are meant.
    assert_eq!(pieces(&tokenizer, "<s><s>a", template), ["<s>", "<s>", "▁a"]);
    let forced = EncodeOptions { add_bos: Some(true), ..template };
    assert_eq!(pieces(&tokenizer, "<s>a", forced), ["<s>", "<s>", "▁a"]);
}

#[test]
fn conventional_ids_count_only_with_the_conventional_texts() {
    let ids = |texts: [&str; 5], kind| {
        let mut vocabulary = match kind {
            VocabularyKind::Bpe => Vocabulary::new(kind, texts.map(str::to_owned).to_vec()).with_merge(),
            _ => Vocabulary::new(kind, texts.map(str::to_owned).to_vec()),
        };
        vocabulary.scores = vec![0.0; 5];
        build(vocabulary).special_ids()
    };
    let id = |id| Some(TokenId(id));
    let mut expected = SpecialIds::default();
    assert_eq!(ids(["!", "a", "b", "c", "d"], VocabularyKind::Bpe), expected);
    (expected.pad, expected.bos, expected.eos, expected.unk) = (id(0), id(1), id(2), id(3));
    assert_eq!(ids(["<pad>", "<s>", "</s>", "<unk>", "d"], VocabularyKind::Bpe), expected);
    assert_eq!(ids(["<pad>", "<s>", "</s>", "<unk>", "d"], VocabularyKind::Spm), expected);
    (expected.pad, expected.unk) = (None, id(0));
    assert_eq!(ids(["<unk>", "<s>", "</s>", "c", "d"], VocabularyKind::Spm), expected);
    expected.unk = None;
    assert_eq!(ids(["<unk>", "<s>", "</s>", "c", "d"], VocabularyKind::Bpe), expected);
}

#[test]
fn named_ids_go_before_conventional_ones() {
    let mut vocabulary = spm(&["a"], &[("<eos>", TokenType::Control)]);
    vocabulary.eos = Some(TokenId(260));
    let tokenizer = build(vocabulary);
    assert_eq!(tokenizer.eos(), Some(TokenId(260)));
    assert_eq!(tokenizer.bos(), Some(TokenId(1)));
}

#[test]
fn ids_beyond_the_vocabulary_are_reported_and_not_used() {
    let mut vocabulary = spm(&["a"], &[]);
    vocabulary.pad = Some(TokenId(u32::MAX));
    let tokenizer = build(vocabulary);
    assert_eq!(tokenizer.pad(), None);
    assert!(tokenizer.warnings()[0].contains("PAD"), "{:?}", tokenizer.warnings());
}

#[test]
fn generation_ends_at_named_tokens_and_at_well_known_ones() {
    let special = [
        ("<|eot_id|>", TokenType::Control),
        ("<|im_end|>", TokenType::UserDefined),
        ("<|python_tag|>", TokenType::Control),
        ("my-turn", TokenType::Control),
    ];
    let mut vocabulary = bpe(&["h i"], &special);
    let first = vocabulary.tokens.len() as u32 - 4;
    vocabulary.eot = Some(TokenId(first + 3));
    vocabulary.eos = Some(TokenId(0));
    let tokenizer = build(vocabulary);
    let ends: Vec<_> = tokenizer.ends_of_generation().iter().map(|id| tokenizer.piece(*id).unwrap()).collect();
    assert_eq!(ends, ["!", "<|eot_id|>", "<|im_end|>", "my-turn"]);
    assert!(tokenizer.is_end_of_generation(TokenId(first)));
    assert!(!tokenizer.is_end_of_generation(TokenId(first + 2)));
    // A marker that the file calls user-defined cannot be typed by a user all the same.
    assert_eq!(tokenizer.token_type(TokenId(first + 1)), Some(TokenType::Control));
    assert!(!tokenizer.encode("<|im_end|>", PLAIN).unwrap().contains(&TokenId(first + 1)));
}

#[test]
fn in_the_harmony_format_a_message_end_is_no_end() {
    let control = TokenType::Control;
    let with = |special: &[(&str, TokenType)]| {
        let tokenizer = build(bpe(&["h i"], special));
        tokenizer.ends_of_generation().iter().map(|id| tokenizer.piece(*id).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(with(&[("<|end|>", control)]), ["<|end|>"]);
    let harmony = [("<|end|>", control), ("<|return|>", control), ("<|call|>", control)];
    assert_eq!(with(&harmony), ["<|return|>", "<|call|>"]);
}

#[test]
fn special_tokens_can_swallow_white_space_around_them() {
    let control = TokenType::Control;
    let mut vocabulary = spm(&["▁", "a", "▁a"], &[("<|user|>", control), ("<|end|>", control)]);
    vocabulary.strip_after_as_phi3();
    assert_eq!(
        pieces(&build(vocabulary.clone()), "<|user|>\n a<|end|>\n<|end|> \n", PARSED),
        ["<|user|>", "▁a", "<|end|>", "<|end|>"]
    );
    // BOS is not among those of Phi-3.
    assert_eq!(pieces(&build(vocabulary.clone()), "<s> a", PARSED), ["<s>", "▁", "▁a"]);
    vocabulary.strip_before = vec![TokenId(vocabulary.tokens.len() as u32 - 1)];
    assert_eq!(pieces(&build(vocabulary), "a \n<|end|>", PARSED), ["▁a", "<|end|>"]);
}

#[test]
fn an_unknown_pre_tokenizer_is_said_aloud() {
    let mut vocabulary = bpe(&["1 2"], &[]);
    vocabulary.pre = Some("no-such-pre".to_owned());
    let tokenizer = build(vocabulary.clone());
    assert!(tokenizer.warnings()[0].contains("\"no-such-pre\""), "{:?}", tokenizer.warnings());
    vocabulary.pre = None;
    assert_eq!(build(vocabulary.clone()).warnings().len(), 1);
    vocabulary.pre = Some("default".to_owned());
    assert_eq!(build(vocabulary).warnings().len(), 0);
}

#[test]
fn a_vocabulary_without_some_bytes_is_said_aloud() {
    let mut vocabulary = bpe(&["h i"], &[]);
    let at = vocabulary.tokens.iter().position(|token| token == "Ã").unwrap();
    vocabulary.tokens[at] = "hole".to_owned();
    let tokenizer = build(vocabulary);
    assert!(tokenizer.warnings()[0].contains("0xC3"), "{:?}", tokenizer.warnings());
    assert_eq!(pieces(&tokenizer, "é", PLAIN), ["©"]);
}

#[test]
fn merges_may_pass_through_strings_that_are_no_tokens() {
    let mut vocabulary = bpe(&["a b", "ab c"], &[]);
    let ab = vocabulary.tokens.iter().position(|token| token == "ab").unwrap();
    vocabulary.tokens[ab] = "gap".to_owned();
    let tokenizer = build(vocabulary);
    assert_eq!(pieces(&tokenizer, "abc", PLAIN), ["abc"]);
    assert_eq!(pieces(&tokenizer, "ab", PLAIN), ["a", "b"]);
}

#[test]
fn files_without_types_get_the_obvious_ones() {
    let mut vocabulary = spm(&["▁", "a"], &[]);
    vocabulary.types.clear();
    let tokenizer = build(vocabulary);
    assert_eq!(tokenizer.token_type(TokenId(0)), Some(TokenType::Unknown));
    assert_eq!(tokenizer.token_type(TokenId(1)), Some(TokenType::Control));
    assert_eq!(tokenizer.token_type(TokenId(13)), Some(TokenType::Byte));
    assert_eq!(tokenizer.decode(&tokenizer.encode("a\n", PLAIN).unwrap()).unwrap(), b"a\n");
}

#[test]
fn damaged_vocabularies_are_refused_by_name() {
    let refuse = |change: &dyn Fn(&mut Vocabulary), kind| {
        let mut vocabulary = match kind {
            VocabularyKind::Bpe => bpe(&["a b"], &[]),
            _ => spm(&["a"], &[]),
        };
        change(&mut vocabulary);
        Tokenizer::new(vocabulary).err()
    };
    let (spm, bpe) = (VocabularyKind::Spm, VocabularyKind::Bpe);
    assert_eq!(refuse(&|v| v.tokens.clear(), bpe), Some(Error::EmptyVocabulary));
    assert_eq!(refuse(&|v| v.scores.clear(), spm), Some(Error::MissingList { kind: "llama", list: "scores" }));
    assert_eq!(refuse(&|v| v.merges.clear(), bpe), Some(Error::MissingList { kind: "gpt2", list: "merges" }));
    let lengths = |list, found| Some(Error::LengthMismatch { list, tokens: 260, found });
    assert_eq!(refuse(&|v| v.scores.truncate(258), spm), lengths("scores", 258));
    assert_eq!(refuse(&|v| v.types.push(TokenType::Normal), spm), lengths("token types", 261));
    assert_eq!(refuse(&|v| v.scores[7] = f32::NAN, spm), Some(Error::BadScore { id: 7 }));
    for bad in ["ab", "", " ", "a ", "é"] {
        let found = refuse(&|v| v.merges.push(bad.to_owned()), bpe);
        assert_eq!(found, Some(Error::BadMerge { index: 1, text: bad.to_owned() }), "{bad:?}");
    }
    assert_eq!(refuse(&|v| v.add_bos = Some(true), bpe), Some(Error::MissingSpecial { role: "BOS", key: "bos" }));
    assert_eq!(refuse(&|v| v.add_eos = Some(true), bpe), Some(Error::MissingSpecial { role: "EOS", key: "eos" }));
}

#[test]
fn asking_for_what_a_vocabulary_lacks_fails_by_name() {
    let tokenizer = build(bpe(&["a b"], &[]));
    let with_bos = EncodeOptions { add_bos: Some(true), ..PLAIN };
    assert_eq!(tokenizer.encode("a", with_bos), Err(Error::MissingSpecial { role: "BOS", key: "bos" }));
    let id = TokenId(257);
    assert_eq!(tokenizer.decode(&[id]), Err(Error::UnknownId { id, n_tokens: 257 }));
    assert_eq!(tokenizer.stream().push(id).err(), Some(Error::UnknownId { id, n_tokens: 257 }));
    assert_eq!(tokenizer.piece(id), None);
}

#[test]
fn text_that_is_not_utf8_is_refused_with_the_place() {
    let tokenizer = build(bpe(&["a b"], &[]));
    assert_eq!(tokenizer.encode_bytes("aé".as_bytes(), PLAIN), tokenizer.encode("aé", PLAIN));
    assert_eq!(tokenizer.encode_bytes(b"ab\xC3\xA9\xFFc", PLAIN), Err(Error::InvalidUtf8 { offset: 4 }));
    assert_eq!(tokenizer.encode_bytes(b"ab\xC3", PLAIN), Err(Error::InvalidUtf8 { offset: 2 }));
}

#[test]
fn a_stream_joins_the_bytes_of_characters_and_hides_control_tokens() {
    let tokenizer = build(bpe(&["a b"], &[("<|im_end|>", TokenType::Control)]));
    let mut ids = tokenizer.encode("🦙!", PLAIN).unwrap();
    ids.push(tokenizer.special_token("<|im_end|>").unwrap());
    assert_eq!(ids.len(), 6);
    let mut stream = tokenizer.stream();
    let shown: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap().to_owned()).collect();
    assert_eq!(shown, ["", "", "", "🦙", "!", ""]);
    let mut stream = tokenizer.stream_with(DecodeOptions { control_text: true, ..DecodeOptions::default() });
    assert_eq!(stream.push(ids[5]).unwrap(), "<|im_end|>");
    stream.push(ids[0]).unwrap();
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn decoding_undoes_the_space_prefix_and_a_stream_does_not() {
    let tokenizer = build(spm(&["▁", "a", "▁a"], &[]));
    let ids = tokenizer.encode("a a", EncodeOptions::default()).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), b"a a");
    let whole = DecodeOptions { control_text: true, keep_space_prefix: true, ..DecodeOptions::default() };
    assert_eq!(tokenizer.decode_with(&ids, whole).unwrap(), b"<s> a a");
    let mut stream = tokenizer.stream();
    assert_eq!(ids.iter().map(|&id| stream.push(id).unwrap().to_owned()).collect::<String>(), " a a");
}

#[test]
fn special_tokens_are_found_by_their_text() {
    let tokenizer = build(bpe(&["a b"], &[("<|im_end|>", TokenType::Control)]));
    assert_eq!(tokenizer.special_token("<|im_end|>"), Some(TokenId(257)));
    for other in ["ab", "<|im_end|>x", "<|im_end|><|im_end|>", ""] {
        assert_eq!(tokenizer.special_token(other), None, "{other:?}");
    }
}

/// The bound is on counted work; a clock would measure the machine.
#[test]
fn work_is_linear_in_the_length_of_one_word() {
    const LENGTH: usize = 1_000_000;
    for name in ["gpt-2", "llama-spm"] {
        let tokenizer = build(committed(name));
        for unit in ["a", " ", "\n", "=", "é", "ab", "0"] {
            let text = unit.repeat(LENGTH / unit.len());
            let (ids, work) = tokenizer.encode_measured(&text, PLAIN).unwrap();
            let bound = 3 * text.len() as u64 + 16;
            assert!(work.lookups <= bound, "{name}, {unit:?}: {work:?}");
            assert!(work.agenda_entries <= bound, "{name}, {unit:?}: {work:?}");
            assert!(work.scanned <= 64 * bound, "{name}, {unit:?}: {work:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_bytes(), "{name}, {unit:?}");
        }
    }
}

#[test]
fn one_tokenizer_serves_many_threads() {
    let tokenizer = build(committed("gpt-2"));
    let expected = tokenizer.encode("Hello world, hello threads", PLAIN).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(tokenizer.encode("Hello world, hello threads", PLAIN).unwrap(), expected);
                }
            });
        }
    });
}

/// Any text, with more of what tokenizers trip over than chance would give.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[a-zA-Z ]{0,12}",
        "[ \\t\\r\\n\u{a0}\u{3000}]{0,6}",
        "[0-9²٣]{0,8}",
        "('[a-zſ]{1,2}){0,3}",
        Just("<|endoftext|>".to_owned()),
        Just("</s>".to_owned()),
        Just("\u{FDD0}".to_owned()),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn check_round_trip(tokenizer: &Tokenizer, text: &str) -> Result<(), TestCaseError> {
    let ids = tokenizer.encode(text, PLAIN).unwrap();
    prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_bytes());
    // Shielding changes nothing but what is taken for a control token.
    prop_assert_eq!(&tokenizer.encode(&tokenizer.shield(text), PARSED).unwrap(), &ids);
    let mut stream = tokenizer.stream();
    let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap().to_owned()).collect();
    streamed += stream.finish();
    let prefix = if tokenizer.adds_space_prefix() && !text.is_empty() { " " } else { "" };
    prop_assert_eq!(streamed, format!("{prefix}{text}"));
    Ok(())
}

#[test]
fn decoding_is_the_inverse_of_encoding() {
    let mut runner = proptest::test_runner::TestRunner::default();
    let mut tokenizers = vec![build(committed("gpt-2"))];
    for pre in ["llama-bpe", "qwen2", "qwen35", "starcoder", "falcon", "default"] {
        let mut vocabulary = committed("gpt-2");
        vocabulary.pre = Some(pre.to_owned());
        tokenizers.push(build(vocabulary));
    }
    runner.run(&text(), |text| tokenizers.iter().try_for_each(|tokenizer| check_round_trip(tokenizer, &text))).unwrap();
}

#[test]
fn decoding_is_the_inverse_of_encoding_for_spm() {
    let mut runner = proptest::test_runner::TestRunner::default();
    let with_prefix = build(committed("llama-spm"));
    let mut vocabulary = committed("llama-spm");
    vocabulary.add_space_prefix = Some(false);
    let without = build(vocabulary);
    // The scheme has one spelling for a space and for U+2581: texts with the latter come back with spaces.
    let text = text().prop_filter("no literal space mark", |text| !text.contains('▁'));
    runner
        .run(&text, |text| {
            check_round_trip(&with_prefix, &text)?;
            check_round_trip(&without, &text)
        })
        .unwrap();
}

proptest! {
    /// Whatever a file lists, building and using its tokenizer ends in an answer or an error.
    #[test]
    fn any_vocabulary_is_built_or_refused(
        kind in prop_oneof![Just(VocabularyKind::Spm), Just(VocabularyKind::Bpe)],
        tokens in proptest::collection::vec("(<0x[0-9A-F]{2}>|▁?[ab]{0,3}|</?s>|<unk>|Ġ?[ab]{1,2}|.{0,3})", 0..30),
        types in proptest::collection::vec(0i32..8, 0..30),
        merges in proptest::collection::vec("[ab]{1,2} [ab]{1,2}|.{0,4}", 0..10),
        scores in proptest::collection::vec(any::<f32>(), 0..30),
        pad_lists in any::<bool>(),
        text in "[ab ▁é<>s/]{0,20}",
    ) {
        let mut vocabulary = Vocabulary::new(kind, tokens);
        vocabulary.types = types.into_iter().map(TokenType::from_gguf).collect();
        vocabulary.scores = scores;
        vocabulary.merges = merges;
        vocabulary.pre = Some("llama-bpe".to_owned());
        vocabulary.bos = Some(TokenId(7));
        if pad_lists {
            vocabulary.types.resize(vocabulary.tokens.len(), TokenType::Normal);
            vocabulary.scores.resize(vocabulary.tokens.len(), 0.0);
        }
        if let Ok(tokenizer) = Tokenizer::new(vocabulary)
            && let Ok(ids) = tokenizer.encode(&text, EncodeOptions::template())
        {
            prop_assert!(tokenizer.decode(&ids).is_ok());
        }
    }
}

/// WordPiece: `[PAD] [UNK] [CLS] [SEP] [MASK]`, then `pieces`.
fn wordpiece(pieces: &[&str]) -> Vocabulary {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let tokens = special.iter().chain(pieces).map(|&token| token.to_owned()).collect::<Vec<_>>();
    let control = |id| if id < special.len() { TokenType::Control } else { TokenType::Normal };
    let types = (0..tokens.len()).map(control).collect();
    let mut vocabulary = Vocabulary::new(VocabularyKind::WordPiece, tokens);
    vocabulary.types = types;
    (vocabulary.unk, vocabulary.cls, vocabulary.sep) = (Some(TokenId(1)), Some(TokenId(2)), Some(TokenId(3)));
    vocabulary
}

/// Unigram: `<pad> </s> <unk>`, then `pieces` with their scores, then the special tokens given.
fn unigram(pieces: &[(&str, f32)], special: &[(&str, TokenType)]) -> Vocabulary {
    let mut tokens = vec!["<pad>".to_owned(), "</s>".to_owned(), "<unk>".to_owned()];
    let mut types = vec![TokenType::Control, TokenType::Control, TokenType::Unknown];
    let mut scores = vec![0.0; 3];
    for &(piece, score) in pieces {
        tokens.push(piece.to_owned());
        types.push(TokenType::Normal);
        scores.push(score);
    }
    for &(token, kind) in special {
        tokens.push(token.to_owned());
        types.push(kind);
        scores.push(0.0);
    }
    let mut vocabulary = Vocabulary::new(VocabularyKind::Unigram, tokens);
    (vocabulary.types, vocabulary.scores) = (types, scores);
    vocabulary
}

#[test]
fn wordpiece_puts_cls_and_sep_around_a_text() {
    let tokenizer = build(wordpiece(&["▁hi", "▁,", "▁you", "r"]));
    let all = EncodeOptions::default();
    assert_eq!(pieces(&tokenizer, "Hi, YOUR", all), ["[CLS]", "▁hi", "▁,", "▁you", "r", "[SEP]"]);
    let without_end = EncodeOptions { add_eos: Some(false), ..all };
    assert_eq!(pieces(&tokenizer, "hi", without_end), ["[CLS]", "▁hi"]);
    assert_eq!(pieces(&tokenizer, "hi", PLAIN), ["▁hi"]);
    assert_eq!(pieces(&tokenizer, "hi", EncodeOptions { add_eos: Some(true), ..PLAIN }), ["▁hi", "[SEP]"]);
    assert!(tokenizer.adds_sep() && tokenizer.adds_bos() && !tokenizer.adds_eos());

    let mut silent = wordpiece(&["▁hi"]);
    (silent.add_sep, silent.add_bos) = (Some(false), Some(false));
    assert_eq!(pieces(&build(silent), "hi", all), ["▁hi"]);
    let mut none = wordpiece(&["▁hi"]);
    (none.sep, none.add_sep) = (None, Some(true));
    assert_eq!(Tokenizer::new(none).unwrap_err(), Error::MissingSpecial { role: "SEP", key: "sep" });
}

#[test]
fn wordpiece_decodes_to_words_with_spaces_where_text_has_them() {
    let tokenizer = build(wordpiece(&["▁hi", "▁,", "▁you", "r", "▁!"]));
    let ids = tokenizer.encode("hi , your!", EncodeOptions::default()).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), b"hi, your!");
    let plain = DecodeOptions { clean_spaces: Some(false), ..DecodeOptions::default() };
    assert_eq!(tokenizer.decode_with(&ids, plain).unwrap(), b"hi , your !");
}

#[test]
fn spaces_are_cleaned_for_other_kinds_only_where_asked_for() {
    let tokenizer = build(bpe(&["a b"], &[]));
    assert!(tokenizer.cleans_spaces());
    let ids = tokenizer.encode("ab , ab", PLAIN).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), b"ab , ab");
    let clean = DecodeOptions { clean_spaces: Some(true), ..DecodeOptions::default() };
    assert_eq!(tokenizer.decode_with(&ids, clean).unwrap(), b"ab, ab");
    let mut qwen = bpe(&["a b"], &[]);
    qwen.pre = Some("qwen2".to_owned());
    assert!(!build(qwen).cleans_spaces());
}

#[test]
fn unigram_takes_the_likeliest_pieces() {
    let vocabulary = unigram(&[("▁", -3.0), ("▁a", -1.0), ("a", -2.0), ("b", -2.0), ("ab", -3.5), ("▁ab", -4.0)], &[]);
    let tokenizer = build(vocabulary.clone());
    assert_eq!(pieces(&tokenizer, "ab", EncodeOptions::default()), ["▁a", "b", "</s>"]);
    assert_eq!(pieces(&tokenizer, "aab", PLAIN), ["▁a", "ab"]);
    // Runs of spaces are one, those at the ends go, and what has no piece is one unknown token.
    assert_eq!(pieces(&tokenizer, "  ab   xyz b ", PLAIN), ["▁a", "b", "▁", "<unk>", "▁", "b"]);
    assert_eq!(pieces(&tokenizer, "   ", PLAIN), [""; 0]);
    let mut kept = vocabulary.clone();
    (kept.remove_extra_whitespaces, kept.add_space_prefix) = (Some(false), Some(false));
    assert_eq!(pieces(&build(kept), " b  ", PLAIN), ["▁", "b", "▁", "▁"]);
    let mut suffix = vocabulary;
    suffix.whitespace_as_suffix = Some(true);
    assert_eq!(pieces(&build(suffix), "b", PLAIN), ["b", "▁"]);
}

#[test]
fn gemma4_writes_characters_and_falls_back_to_bytes() {
    let mut tokens: Vec<String> = ["<pad>", "<eos>", "<bos>", "<unk>"].map(str::to_owned).to_vec();
    let mut types = vec![TokenType::Control, TokenType::Control, TokenType::Control, TokenType::Unknown];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    types.resize(tokens.len(), TokenType::Byte);
    tokens.extend(["▁", "a", "é", "\n", "▁a", "aé", "\n\n"].map(str::to_owned));
    types.resize(tokens.len(), TokenType::Normal);
    let mut vocabulary = Vocabulary::new(VocabularyKind::Gemma4, tokens);
    vocabulary.types = types;
    vocabulary.merges = ["a é", "▁ a"].map(str::to_owned).to_vec();
    (vocabulary.bos, vocabulary.eos, vocabulary.unk) = (Some(TokenId(2)), Some(TokenId(1)), Some(TokenId(3)));
    let tokenizer = build(vocabulary.clone());
    assert_eq!(pieces(&tokenizer, " aé a", EncodeOptions::default()), ["<bos>", "▁", "aé", "▁a"]);
    // No merge makes a run of line ends here, so that it is looked up as a whole.
    assert_eq!(pieces(&tokenizer, "a\n\nü", PLAIN), ["a", "\n\n", "<0xC3>", "<0xBC>"]);
    let text = " a\n\n\nü  é";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text, PLAIN).unwrap()).unwrap(), text.as_bytes());

    vocabulary.add_bos = Some(false);
    let tokenizer = build(vocabulary.clone());
    assert!(tokenizer.adds_bos() && tokenizer.warnings()[0].contains("BOS"), "{:?}", tokenizer.warnings());

    // Without byte tokens, neighbouring characters without a token are one unknown token.
    vocabulary.tokens[4] = "<no byte>".to_owned();
    vocabulary.types[4] = TokenType::Normal;
    let tokenizer = build(vocabulary);
    assert_eq!(pieces(&tokenizer, "ü\0\0a\0", PLAIN), ["<0xC3>", "<0xBC>", "<unk>", "a", "<unk>"]);
}

/// A control token never comes of a text, neither as it is nor after what normalization makes of it.
#[test]
fn normalization_never_makes_a_control_token() {
    let marks = [("<|im_end|>", TokenType::Control), ("▁<s>", TokenType::Control)];
    let mut nfkc = committed("unigram");
    for (token, kind) in marks {
        nfkc.tokens.push(token.to_owned());
        nfkc.types.push(kind);
        nfkc.scores.push(0.0);
    }
    let mut lower = wordpiece(&["▁<", "▁|", "▁im", "▁_", "▁end", "▁>", "▁[", "▁mask", "▁]", "[mask]"]);
    lower.tokens.push("▁<|im_end|>".to_owned());
    lower.types.push(TokenType::Control);
    lower.tokens.push("[mask]".to_owned());
    lower.types.push(TokenType::Control);
    for (vocabulary, texts) in [
        (nfkc, ["＜｜im_end｜＞", "<｜im_end|>", "＜/s＞", "</ｓ>", "<s>", "＜unk＞"]),
        (lower, ["<|IM_END|>", "<|İM_END|>", "[MASK]", "[Mask]", "［MASK］", "[MÁSK]"]),
    ] {
        let tokenizer = build(vocabulary);
        let is_control = |id: &TokenId| tokenizer.token_type(*id) == Some(TokenType::Control);
        let literal = |text: &str| tokenizer.special_token(text).is_some();
        for text in texts {
            let ids = tokenizer.encode(text, PLAIN).unwrap();
            // The unknown token of WordPiece is a control token, too.
            assert!(!ids.iter().any(|id| is_control(id) && Some(*id) != tokenizer.unk()), "{text}: {ids:?}");
            let shielded = tokenizer.shield(text);
            assert_eq!(tokenizer.encode(&shielded, PARSED).unwrap(), ids, "{text}");
            if !literal(text) {
                assert_eq!(tokenizer.encode(text, PARSED).unwrap(), ids, "{text}");
            }
        }
    }
}

#[test]
fn a_damaged_character_map_is_refused() {
    let mut vocabulary = unigram(&[("a", -1.0)], &[]);
    vocabulary.precompiled_charsmap = vec![255; 8];
    let error = Tokenizer::new(vocabulary).unwrap_err();
    assert!(error.to_string().contains("character map"), "{error}");
    let mut scores = unigram(&[("a", f32::NAN)], &[]);
    assert_eq!(Tokenizer::new(scores.clone()).unwrap_err(), Error::BadScore { id: 3 });
    scores.scores.clear();
    assert_eq!(Tokenizer::new(scores).unwrap_err(), Error::MissingList { kind: "t5", list: "scores" });
}

/// Long runs of every kind come through whole; a quadratic walk would take minutes here.
#[test]
fn long_texts_of_the_other_kinds_take_no_detours() {
    const LENGTH: usize = 500_000;
    for name in ["wordpiece", "unigram", "unigram-identity", "gemma4"] {
        let tokenizer = build(committed(name));
        for unit in ["a", " ", "\n", "=", "é", "ab ", "日", "\u{301}", "가 "] {
            let text = unit.repeat(LENGTH / unit.len());
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            assert!(ids.len() <= LENGTH + 1, "{name} {unit:?}");
        }
    }
    for pre in
        ["deepseek-llm", "tiny_aya", "superbpe", "afmoe", "jais-2", "gpt-4o", "exaone-moe", "kimi-k2", "chameleon"]
    {
        let mut vocabulary = bpe(&["q q"], &[]);
        vocabulary.pre = Some(pre.to_owned());
        let tokenizer = build(vocabulary);
        for unit in ["ʰA", "中 ", "A\u{301}", "1", "<sentinel:1", "  a", "a ", "A"] {
            let text = unit.repeat(LENGTH / 4 / unit.len()) + &" ".repeat(LENGTH / 8);
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            assert_eq!(ids.len(), text.len(), "{pre} {unit:?}");
        }
    }
}
