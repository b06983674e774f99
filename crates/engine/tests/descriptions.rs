//! Descriptions that are not built in: their numbers count, what cannot be meant is refused, and pieces go together that no
//! built-in family puts together.

mod support;

use std::sync::Arc;

use hublabio_engine::architecture::{KeySource, Presence};
use hublabio_engine::{Architecture, Error, Model, Pooling, Shard, find_architecture};
use hublabio_gguf::{Array, GgmlType, Value};
use support::{Parts, Setup, Tensor, logits_of};

fn family(parts: &Parts) -> Architecture {
    find_architecture(parts.metadata.str("general.architecture").unwrap().unwrap()).unwrap()
}

fn open(parts: &Parts, description: Architecture) -> Result<Model, Error> {
    Model::open_described(Arc::new(parts.build()), &Shard::whole(), Some(description))
}

/// Opens `fixture` with `keys.{key}` in its description.
fn with_key(fixture: &str, key: &str, source: KeySource) -> Result<Model, Error> {
    let parts = Parts::fixture(fixture);
    let mut description = family(&parts);
    description.keys.insert(key.into(), source);
    open(&parts, description)
}

#[test]
fn numbers_of_a_description_win_over_those_of_the_file() {
    use KeySource::{Float, Integer};
    let pooling = with_key("bert-mean-F32", "pooling_type", Integer(2)).unwrap().hyperparameters().pooling;
    assert_eq!(pooling, Some(Pooling::First));

    // All but every n-th layer see a window: with 1 that is none of them, and 0 stands for all.
    for (every, all) in [(0, true), (1, false)] {
        let model = with_key("gemma3-two-F32", "attention.sliding_window_pattern", Integer(every)).unwrap();
        let mut windows = model.hyperparameters().layer_windows();
        assert!(windows.all(|window| window.is_some() == all), "pattern {every}");
    }

    // Over a list of one value per layer, too.
    let mut parts = Parts::fixture("qwen2-gqa-F32");
    parts.metadata.insert("qwen2.attention.head_count", Value::Array(Array::U32(vec![3, 3])));
    let mut description = family(&parts);
    description.keys.insert("attention.head_count".into(), Integer(6));
    assert_eq!(open(&parts, description).unwrap().hyperparameters().n_heads, 6);

    let refused = |key: &str, source: KeySource, says: &str| {
        let message = with_key("mixtral-4of2-F32", key, source).err().expect("it is refused").to_string();
        assert!(message.contains(key) && message.contains(says), "{message}");
    };
    refused("expert_gating_func", Integer(2), "only 1");
    refused("rope.dimension_count", Float(4.5), "whole number");
    refused("rope.scaling.type", Integer(1), "no word");
    refused("attention.causal", Float(0.5), "whole number");
}

#[test]
fn what_a_description_cannot_mean_is_refused() {
    let check = |change: &dyn Fn(&mut Architecture), says: &[&str]| {
        let parts = Parts::fixture("gemma3-two-F32");
        let mut description = family(&parts);
        change(&mut description);
        let message = open(&parts, description).err().expect("it is refused").to_string();
        for part in says {
            assert!(message.contains(part), "`{message}` does not say `{part}`");
        }
    };
    check(&|a| a.attention.soft_cap = Some(-1.0), &["attention.soft-cap", "-1"]);
    check(&|a| a.head.soft_cap = Some(f32::NAN), &["head.soft-cap", "NaN"]);
    check(&|a| a.rope.local_base = Some(0.0), &["rope.local-base", "0"]);
    check(
        &|a| drop(a.keys.insert("attention.heads".into(), KeySource::Integer(1))),
        &["attention.heads", "attention.head_count"],
    );
}

/// Halves side by side with a norm of the stream between them: the second reads what attention read, not the stream.
#[test]
fn a_parallel_half_reads_what_attention_read() {
    let mut parts = Parts::fixture("stablelm-parallel-F32");
    let mut description = family(&parts);
    description.attention.output_norm = Presence::Required;
    let d = parts.tensor("blk.0.attn_norm.weight").data.len() / 4;
    for i in 0..2 {
        let ones = std::iter::repeat_n(1f32.to_le_bytes(), d).flatten().collect();
        let name = format!("blk.{i}.attn_output_norm.weight");
        parts.tensors.push(Tensor { name, dims: vec![d as u64], ty: GgmlType::F32, data: ones });
    }
    let run = |parts: &Parts| {
        let model = Arc::new(open(parts, description.clone()).unwrap());
        logits_of(&model, &[1, 2, 3, 4, 5], Setup::default()).unwrap()
    };
    let before = run(&parts);
    // Twice the norm and half the projections: attention stays as it is, to the bit. The other half must see it.
    for i in 0..2 {
        for part in ["weight", "bias"] {
            let name = format!("blk.{i}.attn_norm.{part}");
            if parts.tensors.iter().any(|t| t.name == name) {
                parts.map_f32(&name, |_, w| 2.0 * w);
            }
        }
        for name in ["attn_q", "attn_k", "attn_v"] {
            parts.map_f32(&format!("blk.{i}.{name}.weight"), |_, w| 0.5 * w);
        }
    }
    assert!(support::max_difference(&before, &run(&parts)) > 1e-3);
}
