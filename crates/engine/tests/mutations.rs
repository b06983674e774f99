//! Each feature of each family, switched off, must move the logits by a hundred times the tolerance: else a bug in it
//! could hide behind the tests against `transformers`.

mod support;

use std::sync::Arc;

use hublabio_engine::architecture::{Factor, Pairing, Presence};
use hublabio_engine::{Architecture, Model, Shard, find_architecture};
use hublabio_gguf::Value;
use hublabio_kernels::Activation;
use support::{Parts, Setup, expected, expected_states, is_encoder, logits_of, max_difference};

const TOLERANCE: f32 = 1e-3;

/// What is changed: the file, or the description of its family.
enum Change {
    File(fn(&mut Parts)),
    Description(fn(&mut Architecture)),
}
use Change::{Description, File};

fn set_f32(parts: &mut Parts, key: &str, value: f32) {
    assert!(parts.metadata.insert(key, Value::F32(value)).is_some(), "{key} was there");
}

fn remove_key(parts: &mut Parts, key: &str) {
    assert!(parts.metadata.remove(key).is_some(), "{key} was there");
}

/// Expert i does the work of expert i + 1.
fn rotate_experts(parts: &mut Parts, name: &str) {
    let tensor = parts.tensor(name);
    let one = tensor.data.len() / *tensor.dims.last().unwrap() as usize;
    tensor.data.rotate_left(one);
}

type Row = (&'static str, &'static str, Change);

fn table() -> Vec<Row> {
    let mut rows = plain();
    rows.extend(mixtures());
    rows.extend(rotations());
    rows.extend(norms_and_factors());
    rows.extend(encoders());
    rows
}

fn plain() -> Vec<Row> {
    vec![
        ("qwen2-gqa", "query bias", File(|p| p.map_f32("blk.1.attn_q.bias", |_, _| 0.0))),
        ("qwen2-gqa", "key bias", File(|p| p.map_f32("blk.1.attn_k.bias", |_, _| 0.0))),
        ("qwen2-mqa-tied", "value bias", File(|p| p.map_f32("blk.0.attn_v.bias", |_, _| 0.0))),
        ("llama-biased", "output bias", File(|p| p.map_f32("blk.0.attn_output.bias", |_, _| 0.0))),
        ("llama-biased", "feed-forward biases", File(|p| p.map_f32("blk.1.ffn_up.bias", |_, _| 0.0))),
        ("llama-wide-head", "norm eps", File(|p| set_f32(p, "llama.attention.layer_norm_rms_epsilon", 1e-12))),
        (
            "llama-gqa",
            "GQA mapping",
            // Queries of one group meet the keys of the other.
            File(|p| {
                let key = p.tensor("blk.0.attn_k.weight");
                let middle = key.data.len() / 2;
                key.data.rotate_left(middle);
            }),
        ),
        (
            "llama-mha-tied",
            "tied output",
            File(|p| {
                let mut output = p.tensor("token_embd.weight").clone();
                output.name = "output.weight".into();
                let middle = output.data.len() / 2;
                output.data.rotate_left(middle / 256 * 256);
                p.tensors.push(output);
            }),
        ),
        ("llama-gqa", "norm weight", File(|p| p.map_f32("blk.1.ffn_norm.weight", |_, _| 1.0))),
        ("mistral-window", "window", File(|p| remove_key(p, "llama.attention.sliding_window"))),
        ("phi-window", "window", File(|p| remove_key(p, "phi3.attention.sliding_window"))),
        ("starcoder2-window", "window", File(|p| remove_key(p, "starcoder2.attention.sliding_window"))),
        ("starcoder2-window", "value bias", File(|p| p.map_f32("blk.0.attn_v.bias", |_, _| 0.0))),
        ("starcoder2-tied", "output bias", File(|p| p.map_f32("blk.1.attn_output.bias", |_, _| 0.0))),
        ("starcoder2-tied", "feed-forward biases", File(|p| p.map_f32("blk.0.ffn_down.bias", |_, _| 0.0))),
        ("starcoder2-tied", "activation", Description(|a| a.feed_forward.activation = Activation::Silu)),
        ("phi2-half", "query bias", File(|p| p.map_f32("blk.0.attn_q.bias", |_, _| 0.0))),
        ("phi2-half", "feed-forward biases", File(|p| p.map_f32("blk.1.ffn_up.bias", |_, _| 0.0))),
        ("phi2-half", "bias of the logits", File(|p| p.map_f32("output.bias", |_, _| 0.0))),
        ("phi-window", "activation", Description(|a| a.feed_forward.activation = Activation::GeluTanh)),
    ]
}

fn mixtures() -> Vec<Row> {
    vec![
        ("mixtral-4of2", "gates of experts", File(|p| rotate_experts(p, "blk.0.ffn_gate_exps.weight"))),
        ("mixtral-4of2", "ups of experts", File(|p| rotate_experts(p, "blk.0.ffn_up_exps.weight"))),
        ("mixtral-window", "downs of experts", File(|p| rotate_experts(p, "blk.1.ffn_down_exps.weight"))),
        ("mixtral-4of2", "second expert", File(|p| drop(p.metadata.insert("llama.expert_used_count", Value::U32(1))))),
        ("mixtral-window", "normalised weights", Description(|a| a.feed_forward.normalize_expert_weights = false)),
        ("qwen2moe-shared", "gate of the shared expert", File(|p| p.remove("blk.0.ffn_gate_inp_shexp.weight"))),
        ("qwen2moe-shared", "shared expert", File(|p| p.map_f32("blk.1.ffn_down_shexp.weight", |_, _| 0.0))),
        (
            "qwen2moe-normed",
            "expert_weights_norm",
            File(|p| drop(p.metadata.insert("qwen2moe.expert_weights_norm", Value::Bool(false)))),
        ),
        (
            "qwen3moe-raw",
            "expert_weights_norm",
            File(|p| drop(p.metadata.insert("qwen3moe.expert_weights_norm", Value::Bool(true)))),
        ),
        ("granitemoe-six", "experts", File(|p| rotate_experts(p, "blk.0.ffn_up_exps.weight"))),
    ]
}

fn rotations() -> Vec<Row> {
    vec![
        ("llama-gqa", "RoPE", File(|p| drop(p.metadata.insert("llama.rope.dimension_count", Value::U32(0))))),
        ("qwen2-gqa", "RoPE base", File(|p| set_f32(p, "qwen2.rope.freq_base", 1e6))),
        ("llama-gqa", "RoPE pairing", Description(|a| a.rope.pairing = Pairing::Halves)),
        ("llama-rope3", "RoPE factors", File(|p| p.remove("rope_freqs.weight"))),
        ("qwen2-rope-linear", "linear factor", File(|p| set_f32(p, "qwen2.rope.scaling.factor", 1.0))),
        (
            "qwen2-rope-yarn",
            "ramp",
            File(|p| drop(p.metadata.insert("qwen2.rope.scaling.type", Value::String("linear".into())))),
        ),
        (
            "qwen2-rope-yarn",
            "original context",
            File(|p| drop(p.metadata.insert("qwen2.rope.scaling.original_context_length", Value::U32(1024)))),
        ),
        (
            "qwen2-rope-yarn",
            "magnitude",
            File(|p| {
                p.metadata.insert("qwen2.rope.scaling.yarn_attn_factor", Value::F32(0.7));
            }),
        ),
        (
            "phi-longrope",
            "long factors",
            File(|p| drop(p.metadata.insert("phi3.rope.scaling.original_context_length", Value::U32(1024)))),
        ),
        (
            "phi-shortrope",
            "short factors",
            File(|p| drop(p.metadata.insert("phi3.rope.scaling.original_context_length", Value::U32(8)))),
        ),
        ("phi-longrope", "attention factor", File(|p| set_f32(p, "phi3.rope.scaling.attn_factor", 1.0))),
        (
            "stablelm-biased",
            "part of a head that turns",
            File(|p| drop(p.metadata.insert("stablelm.rope.dimension_count", Value::U32(2)))),
        ),
        (
            "phi2-two-fifths",
            "part of a head that turns",
            File(|p| drop(p.metadata.insert("phi2.rope.dimension_count", Value::U32(20)))),
        ),
        ("smollm3-five", "layers that do not turn", Description(|a| a.rope.skip_every = 0)),
        ("smollm3-own-output", "which layers do not turn", Description(|a| a.rope.skip_every = 3)),
        ("smollm3-five", "RoPE pairing", Description(|a| a.rope.pairing = Pairing::Halves)),
        ("gemma3-six", "local base", File(|p| set_f32(p, "gemma3.rope.freq_base_swa", 77.0))),
        ("gemma3-two", "local base", Description(|a| a.rope.local_base = None)),
        ("gemma3-six", "window", File(|p| remove_key(p, "gemma3.attention.sliding_window"))),
        (
            "gemma3-two",
            "window pattern",
            File(|p| drop(p.metadata.insert("gemma3.attention.sliding_window_pattern", Value::U32(3)))),
        ),
        ("gemma2-caps", "window", File(|p| remove_key(p, "gemma2.attention.sliding_window"))),
        ("gemma3-six", "linear factor", File(|p| remove_key(p, "gemma3.rope.scaling.factor"))),
    ]
}

fn norms_and_factors() -> Vec<Row> {
    vec![
        ("qwen3-wide-head", "query norm", File(|p| p.map_f32("blk.0.attn_q_norm.weight", |_, _| 1.0))),
        ("qwen3-own-output", "key norm", Description(|a| a.norm_weight_offset = 0.5)),
        ("olmo2-gqa", "query norm", File(|p| p.map_f32("blk.0.attn_q_norm.weight", |_, _| 1.0))),
        ("olmo2-mha", "post norm", File(|p| p.map_f32("blk.1.post_ffw_norm.weight", |_, _| 1.0))),
        ("stablelm-head-norms", "key norm", File(|p| p.map_f32("blk.0.attn_k_norm.weight", |_, _| 1.0))),
        ("stablelm-biased", "norm bias", File(|p| p.map_f32("blk.0.attn_norm.bias", |_, _| 0.0))),
        ("stablelm-parallel", "parallel halves", Description(|a| a.feed_forward.parallel = false)),
        ("phi2-half", "parallel halves", Description(|a| a.feed_forward.parallel = false)),
        ("phi2-two-fifths", "norm bias", File(|p| p.map_f32("blk.1.attn_norm.bias", |_, _| 0.0))),
        ("starcoder2-tied", "norm bias", File(|p| p.map_f32("blk.1.ffn_norm.bias", |_, _| 0.0))),
        ("gemma-mqa", "embedding scale", Description(|a| a.embedding.scale = Factor::One)),
        ("gemma-mqa", "activation", Description(|a| a.feed_forward.activation = Activation::Silu)),
        ("gemma-wide-head", "norm offset", Description(|a| a.norm_weight_offset = -1.0)),
        ("gemma2-caps", "soft cap of scores", File(|p| set_f32(p, "gemma2.attn_logit_softcapping", 0.0))),
        ("gemma2-caps", "soft cap of logits", File(|p| set_f32(p, "gemma2.final_logit_softcapping", 0.0))),
        ("gemma2-scaled", "scale of scores", File(|p| remove_key(p, "gemma2.attention.scale"))),
        ("gemma2-caps", "post norm", File(|p| p.map_f32("blk.0.post_attention_norm.weight", |_, _| 1.0))),
        ("granite-scaled", "embedding scale", File(|p| set_f32(p, "granite.embedding_scale", 1.0))),
        ("granite-scaled", "residual scale", File(|p| set_f32(p, "granite.residual_scale", 1.0))),
        ("granite-scaled", "logit scale", File(|p| set_f32(p, "granite.logit_scale", 1.0))),
        ("granite-scaled", "scale of scores", File(|p| remove_key(p, "granite.attention.scale"))),
    ]
}

fn encoders() -> Vec<Row> {
    vec![
        ("bert-mean", "both directions", File(|p| drop(p.metadata.insert("bert.attention.causal", Value::Bool(true))))),
        ("bert-mean", "positions", File(|p| p.map_f32("position_embd.weight", |_, _| 0.0))),
        ("bert-cls", "token types", File(|p| p.map_f32("token_types.weight", |_, _| 0.0))),
        ("bert-cls", "embedding norm", File(|p| p.map_f32("token_embd_norm.weight", |_, _| 1.0))),
        ("bert-mean", "norm bias", File(|p| p.map_f32("blk.0.layer_output_norm.bias", |_, _| 0.0))),
        ("bert-mean", "output norm", File(|p| p.map_f32("blk.0.attn_output_norm.weight", |_, _| 1.0))),
        ("bert-mean", "feed-forward bias", File(|p| p.map_f32("blk.0.ffn_up.bias", |_, _| 0.0))),
        ("nomic-mean", "RoPE", Description(|a| a.rope.pairing = Pairing::None)),
        ("nomic-mean", "activation", Description(|a| a.feed_forward.activation = Activation::GeluErf)),
        (
            "nomic-cls",
            "output norm",
            Description(|a| {
                a.norm_weight_offset = 0.3;
                a.embedding.norm = Presence::Required;
            }),
        ),
    ]
}

#[test]
fn every_feature_is_seen_by_the_fixtures() {
    for (name, feature, change) in table() {
        let name = format!("{name}-F32");
        let (ids, expected) = if is_encoder(&name) {
            expected_states(&name)
        } else {
            let expected = expected(&name);
            (expected.ids, expected.logits)
        };
        let setup = Setup { chunk: usize::MAX, ..Setup::default() };
        let mut parts = Parts::fixture(&name);
        let family = parts.metadata.str("general.architecture").unwrap().unwrap().to_owned();
        let mut description = find_architecture(&family).unwrap();
        let run = |parts: &Parts, description: &Architecture| {
            let model = Model::open_described(Arc::new(parts.build()), &Shard::whole(), Some(description.clone()));
            logits_of(&Arc::new(model.unwrap()), &ids, setup).unwrap()
        };
        let same = max_difference(&run(&parts, &description), &expected);
        assert!(same <= TOLERANCE, "{name} taken apart and put together: {same}");
        match change {
            File(change) => change(&mut parts),
            Description(change) => change(&mut description),
        }
        let moved = max_difference(&run(&parts, &description), &expected);
        println!("{name} without {feature}: {moved:.2}");
        assert!(moved >= 100.0 * TOLERANCE, "{name} without {feature} moved the logits by {moved} only");
    }
}
