//! Encoders against `transformers`: the states of all tokens, and the embedding that they are pooled to.

use std::path::{Path, PathBuf};

use hublabio_runtime::ai::tokenizer::TokenId;
use hublabio_runtime::ai::{GenerationConfig, InferenceEngine, Isa, ModelConfig, Pooling};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/fixtures")
}

struct Expected {
    ids: Vec<TokenId>,
    /// `[d_model]`, of length 1.
    pooled: Vec<f32>,
    /// `[ids, d_model]`
    states: Vec<f32>,
}

/// Reads `NAME.expect`: `HLE1`, u32 n, u32 d, n ids, d and n·d numbers, little-endian.
fn expected(name: &str) -> Expected {
    let bytes = std::fs::read(fixtures().join(format!("{name}.expect"))).unwrap();
    assert_eq!(&bytes[..4], b"HLE1");
    let words: Vec<u32> = bytes[4..].chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
    let (n, d) = (words[0] as usize, words[1] as usize);
    let (ids, numbers) = words[2..].split_at(n);
    let numbers: Vec<f32> = numbers.iter().map(|&w| f32::from_bits(w)).collect();
    assert_eq!(numbers.len(), d + n * d);
    let ids = ids.iter().map(|&id| TokenId(id)).collect();
    Expected { ids, pooled: numbers[..d].to_vec(), states: numbers[d..].to_vec() }
}

fn names() -> Vec<String> {
    let names: Vec<String> = ["bert-cls", "bert-mean", "nomic-cls", "nomic-mean"].map(|n| format!("{n}-F32")).to_vec();
    assert!(names.iter().all(|name| fixtures().join(format!("{name}.gguf")).exists()));
    names
}

fn open(name: &str, config: &ModelConfig) -> InferenceEngine {
    InferenceEngine::open(&fixtures().join(format!("{name}.gguf")), config).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn states_and_embeddings_equal_transformers() {
    for name in names() {
        let Expected { ids, pooled, states } = expected(&name);
        let mut engine = open(&name, &ModelConfig::default());
        let ours = engine.states(&ids, |_| true).unwrap();
        let difference = ours.iter().zip(&states).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let embedding = engine.embed(&ids, engine.default_pooling()).unwrap();
        let distance = 1.0 - cosine(&embedding, &pooled);
        println!("{name}: states differ by {difference:.2e} over {} tokens, embeddings by {distance:.2e}", ids.len());
        assert_eq!(ours.len(), states.len());
        assert!(difference <= 1e-3 && distance <= 1e-4, "{name}: {difference}, {distance}");
        assert!((embedding.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        // Another pooling is another direction, outside of the limit: the figures above could not hide a wrong one. (All
        // tokens of a text have much in common in these random models.)
        let other = if engine.default_pooling() == Pooling::Mean { Pooling::First } else { Pooling::Mean };
        let elsewhere = 1.0 - cosine(&engine.embed(&ids, other).unwrap(), &pooled);
        assert!(elsewhere > 5e-4, "{name}: the other pooling is only {elsewhere:.2e} away");
    }
}

#[test]
fn embeddings_do_not_depend_on_threads_or_instruction_sets() {
    for name in names() {
        let ids = expected(&name).ids;
        let run = |threads, isa| {
            let config = ModelConfig { threads: Some(threads), isa: Some(isa), ..ModelConfig::default() };
            open(&name, &config).embed(&ids, Pooling::Mean).unwrap()
        };
        let first = run(1, Isa::best());
        for isa in Isa::available() {
            assert_eq!(run(3, isa), first, "{name} on {}", isa.name());
        }
    }
}

/// A token of an encoder sees what comes after it.
#[test]
fn an_encoder_reads_both_ways_and_generates_nothing() {
    let name = "bert-mean-F32";
    let mut ids = expected(name).ids;
    let mut engine = open(name, &ModelConfig::default());
    let before = engine.states(&ids, |i| i == 0).unwrap();
    let last = ids.last_mut().unwrap();
    last.0 = u32::from(last.0 == 0);
    assert_ne!(engine.states(&ids, |i| i == 0).unwrap(), before);
    let error = engine.generate(&ids, &GenerationConfig::greedy(), &mut |_| std::ops::ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("embed"));
    assert!(engine.logits(&ids, false).unwrap_err().to_string().contains("embeddings"));
}

/// What sees only what is before it can be cut anywhere.
#[test]
fn a_decoder_embeds_too() {
    let mut engine = open("qwen2-gqa-F32", &ModelConfig::default());
    let ids: Vec<TokenId> = (0..90).map(|i| TokenId(i % 149)).collect();
    assert_eq!(engine.default_pooling(), Pooling::Last);
    let last = engine.embed(&ids, Pooling::Last).unwrap();
    let mean = engine.embed(&ids, Pooling::Mean).unwrap();
    assert!(1.0 - cosine(&last, &mean) > 1e-3);
    assert!(engine.embed(&[], Pooling::Mean).is_err());
}
