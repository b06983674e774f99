//! Vocabularies of well-known models with the ids that their own tokenizers gave, as llama.cpp ships them.

mod support;

use hublabio_tokenizer::Tokenizer;
use support::{check_cases, committed, read_cases, read_gguf, shared_folder};

fn check(name: &str) {
    let Some(folder) = shared_folder() else { return };
    let path = folder.join(format!("ggml-vocab-{name}.gguf"));
    let tokenizer = Tokenizer::new(read_gguf(&path)).unwrap();
    // StarCoder's vocabulary lacks the bytes of characters that its training text did not have.
    let complete = name != "starcoder";
    assert_eq!(tokenizer.warnings().is_empty(), complete, "{name}: {:?}", tokenizer.warnings());
    let read = |end: &str| std::fs::read_to_string(folder.join(format!("ggml-vocab-{name}.gguf.{end}"))).unwrap();
    check_cases(name, &tokenizer, &read_cases(&read("inp"), &read("out")));
}

#[test]
fn llama_spm() {
    check("llama-spm");
}

#[test]
fn llama_bpe() {
    check("llama-bpe");
}

#[test]
fn qwen2() {
    check("qwen2");
}

#[test]
fn gpt2() {
    check("gpt-2");
}

#[test]
fn phi3() {
    check("phi-3");
}

#[test]
fn mpt() {
    check("mpt");
}

#[test]
fn starcoder() {
    check("starcoder");
}

#[test]
fn deepseek_llm() {
    check("deepseek-llm");
}

#[test]
fn bert_bge() {
    check("bert-bge");
}

#[test]
fn the_committed_vocabularies_pass_their_cases_everywhere() {
    let cases = [
        ("llama-spm", include_str!("data/vocab/llama-spm.inp"), include_str!("data/vocab/llama-spm.out")),
        ("gpt-2", include_str!("data/vocab/gpt-2.inp"), include_str!("data/vocab/gpt-2.out")),
    ];
    for (name, inp, out) in cases {
        check_cases(name, &Tokenizer::new(committed(name)).unwrap(), &read_cases(inp, out));
    }
}

#[test]
fn the_committed_vocabularies_are_those_of_the_files() {
    let Some(folder) = shared_folder() else { return };
    for name in ["llama-spm", "gpt-2"] {
        assert_eq!(committed(name), read_gguf(&folder.join(format!("ggml-vocab-{name}.gguf"))), "{name}");
    }
}
