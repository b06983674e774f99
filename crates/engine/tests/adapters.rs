//! LoRA adapters against the merged models, computed elsewhere; and adapters that do not fit.

mod support;

use std::sync::Arc;

use hublabio_engine::{ActiveAdapter, Adapter, Error, Input, Isa, Model, Runner, Shard};
use hublabio_gguf::{GgmlType, GgufFile, Value};
use support::{Expected, Parts, fixtures, max_difference, open_fixture, rows};

/// (base, adapter)
const PAIRS: [(&str, &str); 2] = [("llama-gqa-F32", "lora/llama-gqa-lora"), ("qwen2-gqa-F32", "lora/qwen2-gqa-lora")];

fn model(base: &str) -> Arc<Model> {
    Arc::new(Model::open(Arc::new(open_fixture(base)), &Shard::whole()).unwrap())
}

fn adapter(file: GgufFile, model: &Model) -> Result<Arc<Adapter>, Error> {
    Adapter::open(Arc::new(file), model).map(Arc::new)
}

/// Logits with each of `adapters` at its scale.
fn logits(model: &Arc<Model>, adapters: &[(&Arc<Adapter>, f32)], ids: &[u32], chunk: usize, isa: Isa) -> Vec<Vec<f32>> {
    let vocab = model.hyperparameters().vocab_size;
    let mut cache = model.new_cache(ids.len(), model.default_kv());
    let mut runner = Runner::new(Arc::clone(model), 2, isa);
    let active = |&(adapter, scale): &(&Arc<Adapter>, f32)| ActiveAdapter { adapter: Arc::clone(adapter), scale };
    runner.set_adapters(adapters.iter().map(active).collect());
    let sequence = cache.create();
    let mut out = Vec::new();
    for chunk in ids.chunks(chunk) {
        let logits = runner.forward(&mut cache, &rows(sequence, out.len(), chunk), Input::Tokens).unwrap();
        out.extend(logits.chunks_exact(vocab).map(<[f32]>::to_vec));
    }
    out
}

#[test]
fn an_adapted_model_equals_the_merged_one() {
    for (base, name) in PAIRS {
        let Expected { ids, logits: expected } = support::expected(name);
        let model = model(base);
        let lora = adapter(open_fixture(name), &model).unwrap();
        assert_eq!(lora.n_matrices(), 7 * model.hyperparameters().n_layers);
        let run = |adapters: &[(&Arc<Adapter>, f32)], chunk| logits(&model, adapters, &ids, chunk, Isa::best());
        let adapted = run(&[(&lora, 1.0)], 64);
        let difference = max_difference(&adapted, &expected);
        let plain = max_difference(&run(&[], 64), &expected);
        println!("{name}: largest difference {difference:.2e}; without the adapter {plain:.2e}");
        assert!(difference <= 1e-3 && plain >= 0.1, "{name}: {difference}, without {plain}");
        // Halves add up, opposites cancel, nothing is nothing.
        assert!(max_difference(&run(&[(&lora, 0.5), (&lora, 0.5)], 64), &adapted) <= 1e-3);
        assert!(max_difference(&run(&[(&lora, 1.0), (&lora, -1.0)], 64), &run(&[], 64)) <= 1e-3);
        assert_eq!(run(&[(&lora, 0.0)], 64), run(&[], 64));
        // The promise of equal bits holds with adapters, too.
        assert_eq!(run(&[(&lora, 1.0)], 1), adapted);
        for isa in Isa::available() {
            assert_eq!(logits(&model, &[(&lora, 1.0)], &ids, 7, isa), adapted, "{}", isa.name());
        }
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let model = model("qwen2-gqa-F32");
    let check = |edit: &dyn Fn(&mut Parts), says: &[&str]| {
        let mut parts = Parts::of(&GgufFile::open(&fixtures().join("lora/qwen2-gqa-lora.gguf")).unwrap());
        edit(&mut parts);
        let error = adapter(parts.build(), &model).err().expect("it is refused").to_string();
        for part in says {
            assert!(error.contains(part), "`{error}` does not say `{part}`");
        }
    };
    let set = |key: &'static str, value: Value| move |p: &mut Parts| drop(p.metadata.insert(key, value.clone()));
    check(&set("general.type", Value::String("model".into())), &["`model`", "adapter"]);
    check(&set("adapter.type", Value::String("dora".into())), &["adapter.type", "dora"]);
    check(&set("general.architecture", Value::String("llama".into())), &["`llama`", "`qwen2`"]);
    check(&set("adapter.lora.alpha", Value::F32(f32::NAN)), &["alpha"]);
    check(&|p| p.remove("blk.0.attn_q.weight.lora_b"), &["blk.0.attn_q.weight", "lora_b"]);
    check(&|p| p.remove("blk.0.attn_q.weight.lora_a"), &["blk.0.attn_q.weight", "lora_a"]);
    check(&|p| p.tensors.clear(), &["no matrices"]);
    let rename = |from: &'static str, to: &'static str| {
        move |p: &mut Parts| {
            for part in ["lora_a", "lora_b"] {
                p.tensor(&format!("{from}.weight.{part}")).name = format!("{to}.weight.{part}");
            }
        }
    };
    check(&rename("blk.1.ffn_up", "blk.9.ffn_up"), &["blk.9.ffn_up.weight", "another base"]);
    check(&rename("blk.1.ffn_up", "token_embd"), &["token_embd.weight"]);
    check(&rename("blk.1.ffn_up", "blk.1.attn_norm"), &["blk.1.attn_norm.weight"]);
    check(
        &|p| p.tensor("blk.1.ffn_up.weight.lora_b").dims.reverse(),
        &["blk.1.ffn_up.weight", "[72, 104]", "another base"],
    );
    check(&|p| p.tensor("blk.0.ffn_up.weight.lora_a").name = "extra.weight".into(), &["extra.weight"]);
    check(
        &|p| {
            let tensor = p.tensor("blk.0.ffn_up.weight.lora_a");
            (tensor.ty, tensor.data) = (GgmlType::I32, tensor.data.clone());
        },
        &["blk.0.ffn_up.weight.lora_a", "I32"],
    );
    // A model as an adapter.
    let error = adapter(open_fixture("qwen2-gqa-F32"), &model).err().unwrap().to_string();
    assert!(error.contains("adapter"), "{error}");
}

#[test]
fn a_weight_of_an_adapter_that_is_not_finite_is_named() {
    let model = model("qwen2-gqa-F32");
    let mut parts = Parts::of(&GgufFile::open(&fixtures().join("lora/qwen2-gqa-lora.gguf")).unwrap());
    let name = "blk.1.ffn_up.weight.lora_b";
    parts.map_f32(name, |i, w| if i == 5 { f32::NAN } else { w });
    let adapter = adapter(parts.build(), &model).unwrap();
    let mut runner = Runner::new(Arc::clone(&model), 1, Isa::best());
    runner.set_adapters(vec![ActiveAdapter { adapter, scale: 1.0 }]);
    let mut cache = model.new_cache(32, model.default_kv());
    let sequence = cache.create();
    let error = runner.forward(&mut cache, &rows(sequence, 0, &[1, 2, 3]), Input::Tokens).unwrap_err();
    assert!(matches!(&error, Error::NonFinite { tensor: Some(tensor) } if tensor == name), "{error}");
}

#[test]
#[should_panic(expected = "another model")]
fn an_adapter_of_another_model_is_refused() {
    let adapter = adapter(open_fixture("lora/qwen2-gqa-lora"), &model("qwen2-gqa-F32")).unwrap();
    Runner::new(model("llama-gqa-F32"), 1, Isa::best()).set_adapters(vec![ActiveAdapter { adapter, scale: 1.0 }]);
}
