//! `hublab convert`: a folder in, a file out that the other verbs take, and clear errors.

use std::fs;
use std::path::Path;

use crate::program::{fails, folder, hublab, succeeds, succeeds_with};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/convert/fixtures").join(name);
    path.to_str().expect("the repository's path is text").to_owned()
}

/// A path in a folder of the test's own, where no file is yet.
fn output(test: &str) -> String {
    let path = folder(test).join("model.gguf");
    let _ = fs::remove_file(&path);
    path.to_str().expect("the folder's path is text").to_owned()
}

#[test]
fn a_checkpoint_becomes_a_model_that_runs() {
    let out = output("convert_runs");
    for (name, arch) in [("llama3", "llama"), ("qwen2", "qwen2")] {
        let outcome = succeeds(&["convert", &fixture(name), &out, "--force"]);
        assert!(outcome.text().contains(arch) && outcome.text().contains("tensors"), "{}", outcome.text());
        assert_eq!(outcome.stderr, "");
        let ids = succeeds_with(&["tokenize", &out, "--json"], b"Hello, world").stdout;
        let logits = succeeds_with(&["logits", &out], &ids).json();
        let logits = logits["logits"].as_array().unwrap().clone();
        assert!(!logits.is_empty() && logits.iter().all(serde_json::Value::is_number));
    }
}

#[test]
fn every_family_can_be_shown() {
    let out = output("convert_shown");
    for name in [
        "llama",
        "mistral",
        "mixtral",
        "qwen2moe",
        "qwen3",
        "qwen3moe",
        "phi3",
        "gemma",
        "gemma2",
        "gemma3",
        "olmo2",
        "granite",
        "granitemoe",
        "stablelm",
        "bert",
        "nomic-bert",
    ] {
        succeeds(&["convert", &fixture(name), &out, "--force", "--type", "q8_0"]);
        succeeds(&["show", &out]);
    }
}

#[test]
fn an_adapter_becomes_a_file_for_its_base() {
    let out = output("convert_adapter");
    let adapter = fixture("../adapters/llama");
    let outcome = succeeds(&["convert", &adapter, &out, "--base", &fixture("llama")]);
    assert!(outcome.text().contains("llama, 20 tensors, F32"), "{}", outcome.text());
    let fails = |base: &str, parts: &[&str]| {
        fails(&["convert", &adapter, &out, "--force", "--base", &fixture(base)], b"", 1, parts);
    };
    fails("qwen2moe", &["tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`", "another base"]);
    fails("nowhere", &["no config.json", "--base"]);
}

#[test]
fn what_is_left_out_is_said_aloud() {
    let outcome = succeeds(&["convert", &fixture("gemma3-vision"), &output("convert_vision")]);
    assert!(outcome.stderr.contains("note:") && outcome.stderr.contains("vision model"), "{}", outcome.stderr);
}

#[test]
fn a_file_is_not_replaced_unless_asked_for() {
    let out = output("convert_exists");
    fs::write(&out, "mine").unwrap();
    fails(&["convert", &fixture("qwen2"), &out], b"", 1, &[&out, "exists", "--force"]);
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    succeeds(&["convert", &fixture("qwen2"), &out, "--force"]);
    assert_eq!(&fs::read(&out).unwrap()[..4], b"GGUF");
}

#[test]
fn what_cannot_be_converted_is_refused() {
    let out = output("convert_refused");
    fails(&["convert", "no/such/folder", &out], b"", 1, &["there is no config.json in no/such/folder"]);
    let outcome = hublab(&["convert", &fixture("qwen2"), &out, "--type", "Q4_K"]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("hublab quantize"), "{}", outcome.stderr);
    assert!(!Path::new(&out).exists());
}
