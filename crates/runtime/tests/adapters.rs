//! Adapters come and go on a running engine, and leave nothing behind.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hublabio_runtime::ai::tokenizer::TokenId;
use hublabio_runtime::ai::{AdapterConfig, GenerationConfig, InferenceEngine, ModelConfig};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/fixtures").join(name)
}

fn lora(scale: f32) -> AdapterConfig {
    AdapterConfig { path: fixture("lora/qwen2-gqa-lora.gguf"), scale }
}

fn open(adapters: Vec<AdapterConfig>) -> InferenceEngine {
    let config = ModelConfig { adapters, ..ModelConfig::default() };
    InferenceEngine::open(&fixture("qwen2-gqa-F32.gguf"), &config).unwrap()
}

/// A few greedy tokens, with what a callback sees.
fn answer(engine: &mut InferenceEngine, prompt: &[TokenId]) -> (Vec<TokenId>, usize) {
    let config = GenerationConfig { max_tokens: Some(12), ..GenerationConfig::greedy() };
    let generation = engine.generate(prompt, &config, &mut |_| ControlFlow::Continue(())).unwrap();
    (generation.tokens, generation.stats.cached_tokens)
}

#[test]
fn switching_adapters_forgets_what_the_others_computed() {
    let prompt: Vec<TokenId> = (0..40).map(|i| TokenId(i * 3 % 149)).collect();
    let plain = answer(&mut open(Vec::new()), &prompt).0;
    let adapted = answer(&mut open(vec![lora(1.0)]), &prompt).0;
    assert_ne!(plain, adapted);

    let mut engine = open(Vec::new());
    assert_eq!(answer(&mut engine, &prompt), (plain.clone(), 0));
    assert_eq!(answer(&mut engine, &prompt), (plain.clone(), 39), "nothing changed: the prompt is still there");
    engine.set_adapters(&[lora(1.0)]).unwrap();
    assert_eq!(answer(&mut engine, &prompt), (adapted.clone(), 0));
    engine.set_adapters(&[lora(0.25), lora(0.75)]).unwrap();
    assert_eq!(answer(&mut engine, &prompt).1, 0);
    engine.set_adapters(&[]).unwrap();
    assert_eq!(answer(&mut engine, &prompt), (plain, 0));

    // What cannot be used changes nothing.
    engine.set_adapters(&[lora(1.0)]).unwrap();
    for (bad, says) in [
        (AdapterConfig { path: fixture("no-such.gguf"), scale: 1.0 }, "no-such.gguf"),
        (AdapterConfig { path: fixture("lora/llama-gqa-lora.gguf"), scale: 1.0 }, "`llama`"),
        (lora(f32::NAN), "NaN"),
    ] {
        let error = engine.set_adapters(&[lora(0.5), bad]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(answer(&mut engine, &prompt).0, adapted);
}
