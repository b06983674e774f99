//! `embed`, `--lora` and `--arch`, as users have them, on the fixtures of the oracles.

use std::path::Path;

use crate::program::{fails, file, succeeds, succeeds_with};
use crate::tiny::Tiny;

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/fixtures").join(name);
    path.to_str().unwrap().to_owned()
}

/// Token ids of a fixture's expectation are small: these are in every vocabulary.
const IDS: &[u8] = b"{\"ids\":[5,9,2,17,40,3]}";

#[test]
fn embed_prints_vectors_of_length_one() {
    let check = |arguments: &[&str], stdin: &[u8], pooling: &str, texts: usize| {
        let outcome = succeeds_with(arguments, stdin).json();
        assert_eq!(outcome["pooling"], pooling);
        let embeddings = outcome["embeddings"].as_array().unwrap();
        assert_eq!(embeddings.len(), texts);
        for embedding in embeddings {
            let numbers: Vec<f64> = embedding.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(numbers.len() as u64, outcome["dimensions"].as_u64().unwrap());
            assert!((numbers.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
        }
    };
    check(&["embed", &fixture("bert-mean-F32.gguf")], IDS, "mean", 1);
    check(&["embed", &fixture("bert-cls-F32.gguf")], IDS, "first", 1);
    check(&["embed", &fixture("bert-cls-F32.gguf"), "--pooling", "mean"], IDS, "mean", 1);
    check(&["embed", "default", "What does tar do?", "and cp?"], b"", "last", 2);
    check(&["embed", "default"], b"one text\n\nanother\n", "last", 2);
}

#[test]
fn embed_says_what_it_cannot_do() {
    let bert = fixture("bert-mean-F32.gguf");
    fails(&["run", &bert, "hello"], b"", 1, &["`bert`", "hublab embed"]);
    fails(&["logits", &bert], IDS, 1, &["`bert`", "hublab embed"]);
    fails(&["embed", &bert, "--ctx", "4"], IDS, 1, &["6 tokens", "holds 4"]);
    fails(&["embed", "default"], b"", 1, &["no text"]);
    fails(&["embed", "default"], b"\xff\n", 1, &["UTF-8"]);
    fails(&["embed", "default"], b"{\"ids\":[]}", 1, &["empty"]);
    fails(&["embed", &bert], b"{\"ids\":[1000000]}", 1, &["1000000"]);
}

#[test]
fn adapters_change_the_answer_by_their_scale() {
    let (base, lora) = (fixture("qwen2-gqa-F32.gguf"), fixture("lora/qwen2-gqa-lora.gguf"));
    let run = |extra: &[&str]| succeeds_with(&[&["logits", base.as_str()], extra].concat(), IDS).text().to_owned();
    let plain = run(&[]);
    let whole = run(&["--lora", &lora]);
    assert_ne!(whole, plain);
    assert_eq!(run(&["--lora", &format!("{lora}:1")]), whole);
    assert_eq!(run(&["--lora", &format!("{lora}:0")]), plain);
    assert_ne!(run(&["--lora", &format!("{lora}:0.5")]), whole);
    assert_eq!(run(&["--lora", &format!("{lora}:1"), "--lora", &format!("{lora}:0")]), whole);
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let (base, lora) = (fixture("llama-gqa-F32.gguf"), fixture("lora/qwen2-gqa-lora.gguf"));
    fails(&["logits", &base, "--lora", &lora], IDS, 1, &["qwen2-gqa-lora.gguf", "`qwen2`", "`llama`"]);
    fails(&["logits", &base, "--lora", &base], IDS, 1, &["llama-gqa-F32.gguf", "adapter"]);
    fails(&["logits", &base, "--lora", "no/such.gguf"], IDS, 1, &["no/such.gguf"]);
    fails(&["logits", &base, "--lora", ":1"], IDS, 2, &["--lora", "FILE:SCALE"]);
    fails(&["run", &lora, "hello"], b"", 1, &["qwen2-gqa-lora.gguf"]);
}

#[test]
fn a_description_runs_what_is_not_built_in() {
    let mut tiny = Tiny::new();
    let ids = b"{\"ids\":[3,4,5]}";
    let expected = succeeds_with(&["logits", &file("arch", "built-in.gguf", &tiny.bytes())], ids).text().to_owned();
    let keys: Vec<(String, hublabio_gguf::Value)> =
        tiny.metadata.iter().map(|(key, value)| (key.replace("llama.", "ours."), value.clone())).collect();
    tiny.metadata = hublabio_gguf::Metadata::new();
    for (key, value) in keys {
        tiny.metadata.insert(key, value);
    }
    tiny.metadata.insert("general.architecture", "ours");
    let path = file("arch", "ours.gguf", &tiny.bytes());
    fails(&["logits", &path], ids, 1, &["`ours`", "not supported", "llama"]);
    let good = file("arch", "good.toml", b"base = \"llama\"\nname = \"ours\"\n");
    assert_eq!(succeeds_with(&["logits", &path, "--arch", &good], ids).text(), expected);
    let path_beside = file("arch_beside", "ours.gguf", &tiny.bytes());
    file("arch_beside", "ours.arch.toml", b"base = \"llama\"\nname = \"ours\"\n");
    assert_eq!(succeeds_with(&["logits", &path_beside], ids).text(), expected);
    let wrong =
        file("arch", "wrong.toml", b"base = \"llama\"\nname = \"ours\"\n[attention]\nqkv-bias = \"required\"\n");
    fails(&["logits", &path, "--arch", &wrong], ids, 1, &["blk.0.attn_q.bias", "missing"]);
    let broken = file("arch", "broken.toml", b"name = \"ours\"\n[rope]\nparing = \"halves\"\n");
    fails(&["logits", &path, "--arch", &broken], ids, 2, &["broken.toml", "line 3", "paring", "pairing"]);
    fails(&["logits", &path, "--arch", "no/such.toml"], ids, 2, &["no/such.toml"]);
}

#[test]
fn mixtures_and_windows_run_from_the_command_line() {
    for name in ["mixtral-window-F32", "gemma3-two-F32", "phi-longrope-F32", "qwen3moe-raw-F32"] {
        let outcome = succeeds_with(&["logits", &fixture(&format!("{name}.gguf"))], IDS).json();
        assert!(outcome["logits"].as_array().unwrap().iter().all(|x| x.as_f64().unwrap().is_finite()), "{name}");
    }
    assert!(succeeds(&["show", &fixture("mixtral-window-F32.gguf")]).text().contains("llama"));
}
