//! Files and batches that cannot run: each is refused by name.

mod support;

use std::sync::Arc;

use hublabio_engine::{Error, Input, Isa, Model, Row, Runner, Shard};
use hublabio_gguf::{GgmlType, Value};
use support::{Parts, Setup, Tensor, expected, logits, rows};

fn open(parts: &Parts) -> Result<Model, Error> {
    Model::open(Arc::new(parts.build()), &Shard::whole())
}

fn check(change: impl FnOnce(&mut Parts), message_has: &[&str]) {
    let mut parts = Parts::fixture("qwen2-gqa-F32");
    change(&mut parts);
    let message = open(&parts).err().expect("a broken file is refused").to_string();
    for part in message_has {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

#[test]
fn broken_files_are_refused_by_name() {
    let set = |key: &'static str, value: Value| move |p: &mut Parts| drop(p.metadata.insert(key, value));
    check(|p| drop(p.metadata.remove("general.architecture")), &["general.architecture"]);
    check(set("general.architecture", Value::String("mamba".into())), &["`mamba`", "llama", "qwen2"]);
    check(|p| drop(p.metadata.remove("qwen2.block_count")), &["qwen2.block_count", "missing"]);
    check(set("qwen2.block_count", Value::U32(3)), &["blk.2.", "missing"]);
    check(set("qwen2.block_count", Value::U32(1)), &["blk.1.", "not supported"]);
    check(set("qwen2.block_count", Value::U32(0)), &["qwen2.block_count", "0"]);
    check(set("qwen2.block_count", Value::U32(1_000_000)), &["qwen2.block_count", "1000000"]);
    check(set("qwen2.embedding_length", Value::U32(144)), &["[72, 149]", "[144, 149]"]);
    check(set("qwen2.feed_forward_length", Value::U32(96)), &["blk.0.ffn_gate.weight"]);
    check(set("qwen2.attention.head_count_kv", Value::U32(4)), &["qwen2.attention.head_count_kv", "6", "4"]);
    check(set("qwen2.attention.head_count", Value::String("six".into())), &["qwen2.attention.head_count"]);
    check(set("qwen2.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)), &["layer_norm_rms_epsilon"]);
    check(set("qwen2.rope.dimension_count", Value::U32(13)), &["qwen2.rope.dimension_count", "13"]);
    check(set("qwen2.rope.scaling.type", Value::String("dynamic".into())), &["qwen2.rope.scaling.type", "dynamic"]);
    check(
        |p| {
            p.metadata.insert("qwen2.attention.causal", Value::Bool(false));
            p.metadata.insert("qwen2.attention.sliding_window", Value::U32(4));
        },
        &["qwen2.attention.sliding_window", "both directions"],
    );
    check(
        |p| {
            p.metadata.insert("qwen2.attention.key_length", Value::U32(1 << 24));
        },
        &["qwen2.attention.key_length", "6 heads", "16777216"],
    );
    check(|p| p.remove("token_embd.weight"), &["token_embd.weight", "missing"]);
    check(|p| p.remove("blk.1.attn_q.bias"), &["blk.1.attn_q.bias", "missing"]);
    check(|p| p.remove("output_norm.weight"), &["output_norm.weight", "missing"]);
    check(|p| p.tensor("blk.0.attn_k.weight").dims.reverse(), &["blk.0.attn_k.weight", "[24, 72]", "[72, 24]"]);
    check(
        |p| {
            let extra =
                Tensor { name: "blk.0.attn_q_norm.weight".into(), ..p.tensor("blk.0.attn_norm.weight").clone() };
            p.tensors.push(extra);
        },
        &["blk.0.attn_q_norm.weight", "qwen2"],
    );
    check(
        |p| {
            let tensor = p.tensor("blk.0.ffn_up.weight");
            (tensor.ty, tensor.data) = (GgmlType::I64, vec![0; 8 * 72 * 104]);
        },
        &["blk.0.ffn_up.weight", "I64"],
    );
}

#[test]
fn shards_out_of_range_are_refused() {
    for (layers, says) in [(0..0, "0..0"), (1..3, "2 layers"), (5..6, "2 layers")] {
        let file = Arc::new(Parts::fixture("qwen2-gqa-F32").build());
        let message = Model::open(file, &Shard::of_layers(layers)).err().unwrap().to_string();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn the_first_bad_weight_is_named_when_logits_turn_non_finite() {
    let ids = expected("qwen2-gqa-F32").ids;
    for (tensor, bad) in [
        ("blk.1.ffn_down.weight", f32::NAN),
        ("blk.0.attn_q.weight", f32::INFINITY),
        ("blk.1.attn_v.bias", f32::NEG_INFINITY),
        ("output.weight", f32::NAN),
        ("blk.0.attn_norm.weight", f32::NAN),
    ] {
        let mut parts = Parts::fixture("qwen2-gqa-F32");
        parts.map_f32(tensor, |i, w| if i % 7 == 3 { bad } else { w });
        open(&parts).expect("nothing is scanned when a file is opened");
        let error = logits(parts.build(), &ids, Setup::default()).expect_err("non-finite logits are an error");
        assert!(matches!(&error, Error::NonFinite { tensor: Some(name) } if name == tensor), "{tensor}: {error}");
    }
    // Finite weights can overflow too: no tensor is to blame.
    let mut parts = Parts::fixture("qwen2-gqa-F32");
    parts.map_f32("blk.0.ffn_down.weight", |_, _| 3e38);
    let error = logits(parts.build(), &ids, Setup::default()).unwrap_err();
    assert!(matches!(error, Error::NonFinite { tensor: None }), "{error}");
}

#[test]
fn batches_that_make_no_sense_are_refused_and_leave_the_cache_as_it_was() {
    let model = Arc::new(open(&Parts::fixture("qwen2-gqa-F32")).unwrap());
    let mut cache = model.new_cache(64, model.default_kv());
    let mut runner = Runner::new(Arc::clone(&model), 1, Isa::best());
    let sequence = cache.create();
    let mut refused = |cache: &mut _, rows: &[Row], says: &str| {
        let message = runner.forward(cache, rows, Input::Tokens).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    refused(&mut cache, &rows(sequence, 0, &[1, 149]), "row 1: token 149");
    refused(&mut cache, &rows(sequence, 1, &[1]), "position 1");
    refused(&mut cache, &rows(sequence, 0, &[5; 65]), "cache is full");
    let gone = cache.create();
    cache.remove(gone).unwrap();
    refused(&mut cache, &rows(gone, 0, &[1]), "no sequence");
    assert_eq!(cache.len(sequence).unwrap(), 0);
    runner.forward(&mut cache, &rows(sequence, 0, &[5; 64]), Input::Tokens).unwrap();
}

#[test]
fn a_pass_that_fails_leaves_no_pages_behind() {
    let mut parts = Parts::fixture("qwen2-gqa-F32");
    parts.map_f32("output.weight", |_, _| f32::NAN);
    let model = Arc::new(open(&parts).unwrap());
    let mut cache = model.new_cache(64, model.default_kv());
    let mut runner = Runner::new(Arc::clone(&model), 1, Isa::best());
    let sequence = cache.create();
    runner.forward(&mut cache, &rows(sequence, 0, &[5; 64]), Input::Tokens).unwrap_err();
    assert_eq!((cache.len(sequence).unwrap(), cache.pages_in_use()), (0, 0));
}

/// Overflow must be seen even where infinity would quietly turn into a weight of zero.
#[test]
fn overflow_is_not_hidden_by_softmax_or_norm() {
    let ids = expected("qwen2-gqa-F32").ids;
    let half = Setup { kv: Some(hublabio_engine::KvType::F16), ..Setup::default() };
    let mut parts = Parts::fixture("qwen2-gqa-F32");
    parts.map_f32("blk.0.attn_k.bias", |i, w| if i == 0 { 7e4 } else { w });
    assert!(matches!(logits(parts.build(), &ids, half), Err(Error::NonFinite { tensor: None })));
    let mut parts = Parts::fixture("qwen2-gqa-F32");
    parts.map_f32("token_embd.weight", |_, w| w * 1e25);
    assert!(matches!(logits(parts.build(), &ids, half), Err(Error::NonFinite { tensor: None })));
}

#[test]
fn linear_scaling_is_read_in_every_spelling() {
    let ids = expected("llama-gqa-F32").ids;
    let run = |keys: &[(&str, Value)]| {
        let mut parts = Parts::fixture("llama-gqa-F32");
        for (key, value) in keys {
            parts.metadata.insert(*key, value.clone());
        }
        logits(parts.build(), &ids, Setup::default()).unwrap()
    };
    let linear = ("llama.rope.scaling.type", Value::String("linear".into()));
    let factor = ("llama.rope.scaling.factor", Value::F32(4.0));
    let scaled = run(&[linear, factor.clone()]);
    assert_ne!(scaled, run(&[]));
    assert_eq!(scaled, run(&[factor]));
    assert_eq!(scaled, run(&[("llama.rope.scale_linear", Value::F32(4.0))]));
}
