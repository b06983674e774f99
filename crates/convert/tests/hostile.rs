//! Every way in which a folder can be wrong ends with an error that says what and where, and leaves no file behind.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hublabio_convert::{Error, OutputType, Plan};
use hublabio_gguf::Value;
use serde_json::{Value as Json, json};

/// A copy of a committed checkpoint, to be broken.
struct Copy(PathBuf);

impl Copy {
    fn of(fixture: &str, test: &str) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/convert/fixtures").join(fixture);
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile").join(test);
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(to.join("out")).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        Self(to)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Json)) {
        let mut document = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        edit(&mut document);
        fs::write(self.path(name), document.to_string()).unwrap();
    }

    fn edit_bytes(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        edit(&mut bytes);
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Replaces text in the header of the weights by text of the same length.
    fn edit_header(&self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        self.edit_bytes("model.safetensors", |bytes| {
            let at =
                bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("it is in the header");
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        });
    }

    fn convert(&self) -> Result<(), Error> {
        let plan = Plan::new(&self.0, OutputType::Auto)?;
        plan.write(&self.path("out/model.gguf"), false, &mut |_| ControlFlow::Continue(()))
    }

    #[track_caller]
    fn fails(&self, parts: &[&str]) {
        let error = self.convert().expect_err("this folder is broken").to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert_eq!(fs::read_dir(self.path("out")).unwrap().count(), 0, "a file is left behind: {error}");
    }
}

#[test]
fn files_that_are_missing() {
    let copy = Copy::of("qwen2", "missing");
    assert!(copy.convert().is_ok());
    fs::remove_file(copy.path("out/model.gguf")).unwrap();
    fs::remove_file(copy.path("tokenizer.json")).unwrap();
    copy.fails(&["neither tokenizer.json nor tokenizer.model"]);
    fs::remove_file(copy.path("model.safetensors")).unwrap();
    copy.fails(&["neither model.safetensors nor model.safetensors.index.json", "save_pretrained"]);
    fs::remove_file(copy.path("config.json")).unwrap();
    copy.fails(&["there is no config.json in", "checkpoint"]);
}

#[test]
fn configurations_that_cannot_be() {
    let cases: [(&str, Json, &[&str]); 20] = [
        ("architectures", json!(["T5Model"]), &["`T5Model` cannot be converted", "Gemma3ForConditionalGeneration"]),
        ("architectures", json!("LlamaForCausalLM"), &["`architectures`", "expected a list of names"]),
        ("hidden_size", Json::Null, &["`hidden_size` is missing"]),
        ("hidden_size", json!("32"), &["`hidden_size` is \"32\"", "expected a whole number"]),
        ("hidden_size", json!(64), &["tensor `model.embed_tokens.weight`", "its shape is [390, 32]"]),
        ("num_attention_heads", json!(0), &["`num_attention_heads` is 0", "above 0"]),
        ("head_dim", json!(4_000_000_000u32), &["`head_dim` is 4000000000", "2^32"]),
        ("num_key_value_heads", json!(3), &["`num_key_value_heads` is 3", "divisor"]),
        ("num_hidden_layers", json!(1), &["the checkpoint has 12 tensors", "`model.layers.1.", "and 7 more"]),
        ("num_hidden_layers", json!(4_000_000_000u32), &["`num_hidden_layers`", "at most"]),
        ("vocab_size", json!(4_000_000_000u32), &["`vocab_size` is 4000000000", "at most 4194304"]),
        ("rope_parameters", json!({"rope_theta": 0}), &["`rope_theta` is 0", "above 0"]),
        ("rope_parameters", json!({"rope_theta": 1e-60}), &["`rope_theta`", "above 0"]),
        ("rope_parameters", json!({"rope_theta": 1e60}), &["`rope_parameters.rope_theta`", "fits F32"]),
        ("rope_parameters", json!({"partial_rotary_factor": 2}), &["`partial_rotary_factor` is 2", "at most 1"]),
        ("rope_parameters", json!({"rope_type": "linear", "factor": 0}), &["`rope_parameters.factor` is 0", "above 0"]),
        ("hidden_act", json!("relu"), &["`hidden_act` is `relu`", "silu"]),
        ("quantization_config", json!({"quant_method": "gptq"}), &["`gptq`", "F16, BF16 or F32"]),
        ("rope_parameters", json!({"rope_type": "dynamic"}), &["`rope_parameters.rope_type` is `dynamic`", "longrope"]),
        ("rope_parameters", json!({"rope_type": "yarn"}), &["`rope_parameters.factor` is missing"]),
    ];
    for (key, value, parts) in cases {
        let copy = Copy::of("qwen2", "configurations");
        copy.edit_json("config.json", |config| config[key] = value);
        copy.fails(parts);
    }
    let copy = Copy::of("qwen2", "configurations");
    copy.edit_bytes("config.json", |bytes| bytes.truncate(40));
    copy.fails(&["config.json", "not valid JSON"]);
    let copy = Copy::of("gemma3", "configurations");
    copy.edit_json("config.json", |config| config["query_pre_attn_scalar"] = json!(-32));
    copy.fails(&["`query_pre_attn_scalar` is -32", "above 0"]);
    copy.edit_json("config.json", |config| {
        config["query_pre_attn_scalar"] = json!(16);
        config["layer_types"][0] = json!("full_attention");
    });
    copy.fails(&["`layer_types`", "every n-th layer"]);
    let copy = Copy::of("phi3", "configurations");
    copy.edit_json("config.json", |config| config["rope_parameters"]["long_factor"] = json!([1.0]));
    copy.fails(&["`long_factor` is a list of 1 numbers", "expected 4"]);
    copy.edit_json("config.json", |config| config["rope_parameters"]["long_factor"] = json!([1, 0, 1, 1]));
    copy.fails(&["`rope_parameters.long_factor` is 0", "above 0"]);
    let copy = Copy::of("gemma", "configurations");
    copy.edit_json("config.json", |config| config["hidden_activation"] = json!("gelu"));
    copy.fails(&["`hidden_activation` is `gelu`", "gelu_pytorch_tanh"]);
    let copy = Copy::of("llama3", "configurations");
    copy.edit_json("config.json", |config| config["rope_scaling"]["high_freq_factor"] = json!(1));
    copy.fails(&["`rope_scaling.high_freq_factor` is 1", "more than low_freq_factor"]);
    let copy = Copy::of("gemma3", "configurations");
    copy.edit_json("config.json", |config| {
        config["rope_parameters"]["sliding_attention"] = json!({"rope_type": "linear", "factor": 2, "rope_theta": 1e4});
    });
    copy.fails(&["`rope_parameters.sliding_attention.rope_type`", "remove it"]);
}

/// `null` says "none"; a missing key means the default.
#[test]
fn none_is_not_the_default() {
    for (fixture, key, default) in [
        ("gemma2", "attn_logit_softcapping", 50.0),
        ("gemma2", "final_logit_softcapping", 30.0),
        ("gemma2", "sliding_window", 4096.0),
        ("gemma3", "sliding_window", 4096.0),
    ] {
        let copy = Copy::of(fixture, "none");
        copy.edit_json("config.json", |config| config[key] = Json::Null);
        copy.fails(&[&format!("`{key}` is null"), &default.to_string(), "remove the key"]);
        copy.edit_json("config.json", |config| config[key] = json!(0));
        copy.fails(&[&format!("`{key}` is 0")]);
        copy.edit_json("config.json", |config| {
            config.as_object_mut().unwrap().remove(key);
        });
        let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
        let ours = if key == "sliding_window" { "attention.sliding_window" } else { key };
        let found = plan.metadata().get(&format!("{fixture}.{ours}")).unwrap();
        assert!(
            matches!(*found, Value::F32(cap) if f64::from(cap) == default) || *found == Value::U32(4096),
            "{found:?}"
        );
    }
}

#[test]
fn the_original_context_of_phi3_is_found_in_both_places() {
    let original = |copy: &Copy| {
        let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
        plan.metadata().u32("phi3.rope.scaling.original_context_length").unwrap()
    };
    let key = "original_max_position_embeddings";
    let copy = Copy::of("phi3", "original");
    copy.edit_json("config.json", |config| config["rope_parameters"][key] = json!(32));
    assert_eq!(original(&copy), Some(32));
    copy.edit_json("config.json", |config| config["rope_parameters"][key] = Json::Null);
    assert_eq!(original(&copy), Some(64));
    copy.edit_json("config.json", |config| config[key] = Json::Null);
    copy.fails(&["`original_max_position_embeddings` is missing"]);
}

#[test]
fn hints_that_cannot_be_used_are_left_out() {
    let copy = Copy::of("qwen2", "hints");
    copy.edit_json("generation_config.json", |settings| {
        settings["top_k"] = json!(-1);
        settings["temperature"] = json!("warm");
    });
    let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
    assert!(plan.metadata().get("general.sampling.top_k").is_none());
    assert!(plan.metadata().get("general.sampling.temp").is_none());
    assert!(plan.metadata().get("general.sampling.top_p").is_some());
    assert!(plan.notes()[0].contains("`top_k` in generation_config.json is -1"), "{:?}", plan.notes());
    assert!(plan.notes()[1].contains("`temperature`"), "{:?}", plan.notes());
}

#[test]
fn added_tokens_without_an_embedding_are_left_out() {
    let copy = Copy::of("qwen2", "beyond");
    copy.edit_json("tokenizer.json", |tokenizer| {
        let more = json!({"id": 390, "content": "<image_soft_token>", "special": true});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(more);
        tokenizer["model"]["vocab"]["<image_soft_token>"] = json!(390);
    });
    let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
    assert_eq!(plan.notes().len(), 1, "{:?}", plan.notes());
    assert!(plan.notes()[0].contains("\"<image_soft_token>\" (390) is left out"), "{:?}", plan.notes());
    assert!(copy.convert().is_ok());
}

#[test]
fn beside_a_sentencepiece_model_only_the_rest_of_tokenizer_json_is_read() {
    let copy = Copy::of("gemma", "beside");
    let unigram = json!({"model": {"type": "Unigram", "vocab": []}, "added_tokens": [], "post_processor": null});
    fs::write(copy.path("tokenizer.json"), unigram.to_string()).unwrap();
    assert!(copy.convert().is_ok());
    fs::remove_file(copy.path("out/model.gguf")).unwrap();
    fs::write(copy.path("tokenizer.json"), r#"{"added_tokens": [{}]}"#).unwrap();
    copy.fails(&["tokenizer.json", "`added_tokens`"]);
}

#[test]
fn the_file_of_the_chat_template_comes_first() {
    let copy = Copy::of("qwen2", "template");
    copy.edit_json("tokenizer_config.json", |config| config["chat_template"] = json!("old"));
    fs::write(copy.path("chat_template.jinja"), "new").unwrap();
    let template = || {
        let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
        plan.metadata().str("tokenizer.chat_template").unwrap().map(str::to_owned)
    };
    assert_eq!(template().as_deref(), Some("new"));
    fs::remove_file(copy.path("chat_template.jinja")).unwrap();
    assert_eq!(template().as_deref(), Some("old"));
}

#[test]
fn a_commit_is_no_name() {
    let name = |folder: &str| {
        let copy = Copy::of("qwen2", folder);
        let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
        plan.metadata().str("general.name").unwrap().map(str::to_owned)
    };
    assert_eq!(name("named").as_deref(), Some("named"));
    assert_eq!(name("7ae557604adf67be50417f59c2c2f167def9a775"), None);
}

/// Opening a pipe would wait for a writer, and a device never ends.
#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    for name in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        let copy = Copy::of("qwen2", "regular");
        fs::remove_file(copy.path(name)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", copy.path(name)).unwrap();
        copy.fails(&[name, "not a regular file"]);
    }
}

#[test]
fn a_file_of_the_checkpoint_is_never_replaced() {
    let copy = Copy::of("qwen2", "inputs");
    let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
    for name in ["model.safetensors", "config.json", "out/../tokenizer.json"] {
        let before = fs::read(copy.path(name)).unwrap();
        let error = plan.write(&copy.path(name), true, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains("is a file of the checkpoint"), "{error}");
        assert_eq!(fs::read(copy.path(name)).unwrap(), before);
    }
}

#[test]
fn weights_that_are_broken() {
    let broken = |edit: &dyn Fn(&Copy), parts: &[&str]| {
        let copy = Copy::of("qwen2", "weights");
        edit(&copy);
        copy.fails(parts);
    };
    let weights = "model.safetensors";
    broken(
        &|copy| copy.edit_header("model.norm.weight", "model.morn.weight"),
        &["the checkpoint lacks 1 tensor", "`model.norm.weight`"],
    );
    broken(&|copy| copy.edit_header("F32", "I32"), &["its numbers are I32"]);
    broken(&|copy| copy.edit_header("F32", "F64"), &["data_offsets"]);
    broken(&|copy| copy.edit_header("F32", "Q99"), &["`Q99`"]);
    broken(&|copy| copy.edit_header("data_offsets\":[0,", "data_offsets\":[4,"), &["data_offsets"]);
    broken(&|copy| copy.edit_bytes(weights, |bytes| bytes.truncate(bytes.len() - 1)), &[weights, "truncated"]);
    broken(&|copy| copy.edit_bytes(weights, |bytes| bytes.truncate(100)), &[weights, "truncated"]);
    broken(&|copy| copy.edit_bytes(weights, |bytes| bytes.truncate(7)), &[weights, "truncated: a file of 7 bytes"]);
    broken(&|copy| copy.edit_bytes(weights, |bytes| bytes.push(0)), &[weights, "belong to no tensor"]);
    broken(&|copy| copy.edit_bytes(weights, |bytes| bytes[7] = 1), &[weights, "the header would have"]);
    broken(&|copy| copy.edit_bytes(weights, |bytes| bytes[8] = b'x'), &[weights, "not valid JSON"]);
    let last = |bytes: &mut Vec<u8>, value: f32| {
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&value.to_le_bytes());
    };
    broken(&|copy| copy.edit_bytes(weights, |bytes| last(bytes, f32::NAN)), &["weight 31 is NaN", "damaged"]);
}

#[test]
fn shards_that_do_not_fit_together() {
    let first = "model-00001-of-00003.safetensors";
    let index = "model.safetensors.index.json";
    let copy = Copy::of("llama", "shards");
    copy.edit_json(index, |index| index["weight_map"]["model.norm.weight"] = json!(first));
    copy.fails(&[index, "`model.norm.weight` is said to be in"]);
    copy.edit_json(index, |index| {
        for number in 0..1001 {
            index["weight_map"][format!("tensor{number}")] = json!(format!("{number}.safetensors"));
        }
    });
    copy.fails(&[index, "the weights are in 1004 files, at most 1000 are read", "max_shard_size"]);
    for name in ["../model.safetensors", "/etc/passwd", "", ".."] {
        copy.edit_json(index, |index| index["weight_map"]["model.norm.weight"] = json!(name));
        copy.fails(&[index, "which is no file name"]);
    }
    copy.edit_json(index, |index| *index = json!({}));
    copy.fails(&[index, "weight_map"]);
    let copy = Copy::of("llama", "shards");
    fs::remove_file(copy.path(first)).unwrap();
    copy.fails(&["cannot open", first]);
    let copy = Copy::of("llama", "shards");
    copy.edit_json(index, |index| {
        index["weight_map"].as_object_mut().unwrap().remove("model.norm.weight");
    });
    copy.fails(&[index, "`model.norm.weight` is in a file, but not in the index"]);
    let copy = Copy::of("llama", "shards");
    fs::copy(copy.path(first), copy.path("model-00002-of-00003.safetensors")).unwrap();
    copy.fails(&["is in another file of the checkpoint, too"]);
}

#[test]
fn tokenizers_that_are_broken() {
    let copy = Copy::of("qwen2", "tokenizers");
    copy.edit_json("tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["far"] = json!(390));
    copy.fails(&["tokenizer.json", "token 390 is beyond the 390 embeddings"]);
    copy.edit_json("tokenizer.json", |tokenizer| tokenizer["model"]["type"] = json!("WordLevel"));
    copy.fails(&["tokenizer.json", "WordLevel", "only BPE"]);
    let copy = Copy::of("gemma", "tokenizers");
    copy.edit_bytes("tokenizer.model", |bytes| bytes.truncate(bytes.len() - 1));
    copy.fails(&["tokenizer.model", "cut off"]);
    let copy = Copy::of("gemma", "tokenizers");
    copy.edit_json("tokenizer_config.json", |config| config["added_tokens_decoder"]["x"] = json!({"content": "a"}));
    copy.fails(&["tokenizer_config.json", "added_tokens_decoder"]);
}

#[test]
fn a_pre_tokenizer_without_a_name_is_said_aloud() {
    let copy = Copy::of("qwen2", "pre");
    copy.edit_json("tokenizer.json", |tokenizer| {
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("\\w+");
    });
    let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
    assert_eq!(plan.metadata().str("tokenizer.ggml.pre").unwrap(), Some("default"));
    assert!(plan.notes()[0].contains("the file says `default`"), "{:?}", plan.notes());
}

#[test]
fn an_output_is_whole_or_not_there() {
    let copy = Copy::of("qwen2", "output");
    let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
    let out = copy.path("out/model.gguf");
    let mut go_on = |_: hublabio_convert::Progress<'_>| ControlFlow::Continue(());
    let mut left = 5;
    let stopped = plan.write(&out, false, &mut |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(fs::read_dir(copy.path("out")).unwrap().count(), 0);

    fs::write(&out, "mine").unwrap();
    assert!(matches!(plan.write(&out, false, &mut go_on), Err(Error::Exists { .. })));
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    plan.write(&out, true, &mut go_on).unwrap();
    assert_eq!(&fs::read(&out).unwrap()[..4], b"GGUF");
    assert_eq!(fs::read_dir(copy.path("out")).unwrap().count(), 1);

    let message = |out: &Path| plan.write(out, true, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(message(&copy.path("out")).contains("is a folder"));
    let missing = message(&copy.path("no/such/folder/model.gguf"));
    assert!(missing.contains("cannot create") && missing.contains("there is no folder"), "{missing}");

    // What a crash left behind under the temporary name is not in the way, and is not touched.
    let left = copy.path(&format!("out/.model.gguf.{}.0.part", std::process::id()));
    fs::write(&left, "left").unwrap();
    plan.write(&out, true, &mut go_on).unwrap();
    assert_eq!(fs::read(&left).unwrap(), b"left");
    assert_eq!(fs::read_dir(copy.path("out")).unwrap().count(), 2);
}

/// Experts: what the configuration says and what the checkpoint has must be the same, and nothing is allocated for a
/// count that only the configuration has.
#[test]
fn experts_that_do_not_fit() {
    let cases: [(&str, Json, &[&str]); 10] = [
        ("num_experts", json!(6), &["the checkpoint lacks", "`model.layers.0.mlp.experts.5.gate_proj.weight`"]),
        ("num_experts", json!(4096), &["tensor `model.layers.0.mlp.gate.weight`", "the configuration says [4096, 16]"]),
        ("num_experts", json!(4_000_000_000u32), &["`num_experts` is 4000000000", "at most 4096"]),
        ("num_experts", json!(0), &["`num_experts` is 0", "above 0"]),
        ("num_experts_per_tok", json!(6), &["`num_experts_per_tok` is 6", "there are 5 experts"]),
        ("num_experts_per_tok", json!(0), &["`num_experts_per_tok` is 0", "above 0"]),
        ("moe_intermediate_size", json!(9), &["its shape is [8, 16]", "the configuration says [9, 16]"]),
        ("shared_expert_intermediate_size", json!(0), &["`shared_expert_intermediate_size` is 0"]),
        ("decoder_sparse_step", json!(2), &["`decoder_sparse_step` is 2", "every layer has experts"]),
        ("mlp_only_layers", json!([1]), &["`mlp_only_layers` is [1]", "every layer has experts"]),
    ];
    for (key, value, parts) in cases {
        let copy = Copy::of("qwen2moe", "experts");
        // The router is looked up first, and says the same.
        copy.edit_json("config.json", |config| config[key] = value.clone());
        if key == "num_experts" && value == json!(6) {
            copy.fails(&["tensor `model.layers.0.mlp.gate.weight`", "its shape is [5, 16]"]);
            continue;
        }
        copy.fails(parts);
    }
    // Fewer than there are.
    let copy = Copy::of("qwen3moe", "experts");
    copy.edit_header("model.layers.1.mlp.experts.2.up_proj.weight", "model.layers.1.mlp.experts.9.up_proj.weight");
    copy.fails(&["the checkpoint lacks 1 tensor", "`model.layers.1.mlp.experts.2.up_proj.weight`"]);
    // The published name of the count.
    let copy = Copy::of("qwen3moe", "experts");
    copy.edit_json("config.json", |config| {
        let config = config.as_object_mut().unwrap();
        let count = config.remove("num_local_experts").unwrap();
        config.insert("num_experts".into(), count);
    });
    assert!(copy.convert().is_ok());
    // A stack of all experts, with a count or a half that does not fit.
    for (from, to, found) in [("[3,16,16]", "[4,16,12]", "[4, 16, 12]"), ("[3,16,8]", "[3,8,16]", "[3, 8, 16]")] {
        let copy = Copy::of("qwen2moe-fused", "experts");
        copy.edit_header(from, to);
        copy.fails(&["mlp.experts.", &format!("its shape is {found}")]);
    }
    let copy = Copy::of("stablelm", "experts");
    copy.edit_header("0.self_attn.q_layernorm.norms.3.weight", "0.self_attn.q_layernorm.norms.7.weight");
    copy.fails(&["the checkpoint lacks 1 tensor", "`model.layers.0.self_attn.q_layernorm.norms.3.weight`"]);
}

#[test]
fn windows_and_factors_that_cannot_be() {
    for (fixture, key, value, parts) in [
        ("mistral", "sliding_window", json!(0), &["`sliding_window` is 0", "above 0"]),
        ("qwen2moe-fused", "layer_types", json!(["full_attention"]), &["`layer_types`", "one entry for each layer"]),
        ("granite", "logits_scaling", json!(0.0), &["`logits_scaling` is 0", "cannot say zero"]),
        (
            "granite",
            "rope_parameters",
            json!({"rope_type": "longrope"}),
            &["`rope_parameters.short_factor`", "missing"],
        ),
        (
            "stablelm",
            "rope_parameters",
            json!({"partial_rotary_factor": 0}),
            &["`partial_rotary_factor` is 0", "above 0"],
        ),
        ("qwen3moe", "rope_parameters", json!({"rope_type": "yarn", "factor": 2, "truncate": false}), &["truncate"]),
        ("qwen3moe", "rope_parameters", json!({"rope_type": "yarn", "factor": 2, "attention_factor": 0}), &["above 0"]),
        ("smollm3", "no_rope_layers", json!([1, 1, 0, 1, 1]), &["`no_rope_layers`", "turn all layers but"]),
        ("smollm3", "no_rope_layers", json!(4), &["`no_rope_layers` is 4", "turn all layers but"]),
        ("starcoder2", "sliding_window", json!(0), &["`sliding_window` is 0", "above 0"]),
        ("starcoder2", "hidden_act", json!("silu"), &["`hidden_act`", "means gelu_pytorch_tanh"]),
        ("phi2", "qk_layernorm", json!(true), &["`qk_layernorm` is true", "no norms of queries and keys"]),
    ] as [(&str, &str, Json, &[&str]); 12]
    {
        let copy = Copy::of(fixture, "windows");
        copy.edit_json("config.json", |config| config[key] = value);
        copy.fails(parts);
    }
    // A missing key means the default, `null` that there is none.
    let window = |edit: &dyn Fn(&mut serde_json::Map<String, Json>)| {
        let copy = Copy::of("mistral", "windows");
        copy.edit_json("config.json", |config| edit(config.as_object_mut().unwrap()));
        let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
        plan.metadata().u32("llama.attention.sliding_window").unwrap()
    };
    assert_eq!(window(&|_| {}), Some(48));
    assert_eq!(window(&|config| config["sliding_window"] = Json::Null), None);
    assert_eq!(window(&|config| drop(config.remove("sliding_window"))), Some(4096));
}

/// Yarn: what a configuration gives is the whole factor on attention, what a file says multiplies the derived one.
#[test]
fn yarn_says_what_readers_multiply() {
    let attention = |rope: Json| {
        let copy = Copy::of("qwen2", "yarn");
        copy.edit_json("config.json", |config| config["rope_parameters"] = rope);
        let plan = Plan::new(&copy.0, OutputType::Auto).unwrap();
        assert_eq!(plan.metadata().u32("qwen2.rope.scaling.original_context_length").unwrap(), Some(256));
        plan.metadata().f32("qwen2.rope.scaling.yarn_attn_factor").unwrap()
    };
    let derived = 0.1 * 4f64.ln() + 1.0;
    assert_eq!(attention(json!({"rope_type": "yarn", "factor": 4})), None);
    let whole = attention(json!({"rope_type": "yarn", "factor": 4, "attention_factor": derived})).unwrap();
    assert!((whole - 1.0).abs() < 1e-6, "{whole}");
    let two = attention(json!({"rope_type": "yarn", "factor": 4, "mscale": 2, "mscale_all_dim": 1})).unwrap();
    let expected = (0.2 * 4f64.ln() + 1.0) / derived / derived;
    assert!((f64::from(two) - expected).abs() < 1e-6, "{two}");
}

/// A copy of a committed adapter, to be broken, and its base.
fn adapter(name: &str, test: &str, edit: &dyn Fn(&Copy)) -> Result<Plan, Error> {
    let copy = Copy::of(&format!("../adapters/{name}"), test);
    edit(&copy);
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/convert/fixtures").join(name);
    Plan::adapter(&copy.0, &base, OutputType::Auto)
}

#[test]
fn adapters_that_a_file_cannot_express() {
    for (key, value, advice) in [
        ("peft_type", json!("IA3"), "only LORA"),
        ("use_dora", json!(true), "magnitudes"),
        ("modules_to_save", json!(["lm_head"]), "whole layers"),
        ("lora_bias", json!(true), "biases"),
        ("bias", json!("all"), "biases"),
        ("fan_in_fan_out", json!(true), "transposed"),
        ("alpha_pattern", json!({"q_proj": 3}), "one alpha"),
        ("layer_replication", json!([[0, 1], [0, 1]]), "repeats no layers"),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"]), "experts"),
        ("trainable_token_indices", json!([3]), "single embeddings"),
        ("init_lora_weights", json!("pissa"), "changed base"),
        ("kasa_config", json!({"beta": 1}), "singular values"),
        ("r", json!(0), "above 0"),
        ("r", json!(4_000_000_000u32), "at most"),
        ("lora_alpha", json!("much"), "expected a number"),
        ("lora_alpha", json!(1e300), "fits F32"),
    ] {
        let edit = |copy: &Copy| copy.edit_json("adapter_config.json", |config| config[key] = value.clone());
        let error = adapter("llama", "inexpressible", &edit).expect_err("it cannot be expressed").to_string();
        assert!(error.contains(&format!("`{key}`")) && error.contains(advice), "{error}");
    }
    let several = |copy: &Copy| copy.edit_json("adapter_config.json", |config| config["use_rslora"] = json!(true));
    let error = adapter("gemma3", "inexpressible", &several).expect_err("its ranks differ").to_string();
    assert!(error.contains("`use_rslora`") && error.contains("several ranks"), "{error}");
}

#[test]
fn adapters_that_are_broken_or_of_another_base() {
    let fails = |name: &str, edit: &dyn Fn(&Copy), parts: &[&str]| {
        let error = adapter(name, "other_base", edit).expect_err("this adapter is broken").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let weights = "adapter_model.safetensors";
    let header = |copy: &Copy, from: &str, to: &str| {
        copy.edit_bytes(weights, |bytes| {
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("in the header");
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        });
    };
    fails("llama", &|copy| fs::remove_file(copy.path("adapter_config.json")).unwrap(), &["no adapter_config.json"]);
    fails("llama", &|copy| fs::remove_file(copy.path(weights)).unwrap(), &["cannot open", weights]);
    fails("llama", &|copy| copy.edit_bytes(weights, |bytes| bytes.truncate(99)), &[weights, "truncated"]);
    fails(
        "llama",
        &|copy| header(copy, "0.self_attn.q_proj.lora_A", "7.self_attn.q_proj.lora_A"),
        &["cannot be added to a matrix of this base", "layers.7.self_attn.q_proj.lora_A.weight"],
    );
    fails("llama", &|copy| header(copy, "q_proj.lora_A.weight", "q_proj.lora_C.weight"), &["q_proj.lora_C.weight"]);
    fails("llama", &|copy| header(copy, "[3,32]", "[32,3]"), &["its shape is [32, 3]", "another base"]);
    fails("llama", &|copy| header(copy, "[3,32]", "[2,48]"), &["its shape is [2, 48]", "another base"]);
    fails("llama", &|copy| header(copy, "F32", "I32"), &["its numbers are I32"]);

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/convert");
    let of = |base: &str| Plan::adapter(&folder.join("adapters/qwen2"), &folder.join(base), OutputType::Auto);
    let error = of("fixtures/qwen2moe").expect_err("another base").to_string();
    assert!(error.contains("another base"), "{error}");
    let error = of("adapters/qwen2").expect_err("no base at all").to_string();
    assert!(error.contains("no config.json") && error.contains("--base"), "{error}");
}

#[test]
fn encoders_that_a_file_cannot_express() {
    let broken = |fixture: &str, edit: &dyn Fn(&Copy), parts: &[&str]| {
        let copy = Copy::of(fixture, "encoders");
        fs::create_dir(copy.path("1_Pooling")).unwrap();
        let pooling = json!({"pooling_mode_cls_token": true});
        fs::write(copy.path("1_Pooling/config.json"), pooling.to_string()).unwrap();
        edit(&copy);
        copy.fails(parts);
    };
    for (key, value, advice) in [
        ("hidden_act", json!("relu"), "means gelu"),
        ("is_decoder", json!(true), "another graph"),
        ("position_embedding_type", json!("relative_key"), "another graph"),
        ("type_vocab_size", json!(0), "above 0"),
        ("max_position_embeddings", json!(65), "its shape is [64, 24]"),
    ] {
        broken("bert", &|copy| copy.edit_json("config.json", |config| config[key] = value.clone()), &[advice]);
    }
    for (key, value) in [("causal", json!(true)), ("qkv_proj_bias", json!(true)), ("rotary_emb_fraction", json!(0.5))] {
        let edit = |copy: &Copy| copy.edit_json("config.json", |config| config[key] = value.clone());
        broken("nomic-bert", &edit, &[&format!("`{key}`"), "another graph"]);
    }
    for path in ["../bert", "/etc", "", "a/b"] {
        broken(
            "bert",
            &|copy| copy.edit_json("modules.json", |modules| modules[1]["path"] = json!(path)),
            &["no folder"],
        );
    }
    broken("bert", &|copy| copy.edit_json("modules.json", |modules| modules[1]["path"] = json!("2")), &["there is no"]);
    let both = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
    for modes in [json!({"pooling_mode_max_tokens": true}), both] {
        let edit = |copy: &Copy| fs::write(copy.path("1_Pooling/config.json"), modes.to_string()).unwrap();
        broken("bert", &edit, &["pooling is none of", "one of these three"]);
    }
    let tokenizer = "tokenizer.json";
    let of_unigram = |copy: &Copy| copy.edit_json(tokenizer, |json| json["model"]["type"] = json!("Unigram"));
    broken("bert", &of_unigram, &[tokenizer, "Unigram", "only those with WordPiece"]);
    let other =
        |copy: &Copy| copy.edit_json(tokenizer, |json| json["model"]["continuing_subword_prefix"] = json!("@@"));
    broken("bert", &other, &[tokenizer, "@@", "GGUF means ##"]);
    let beyond =
        |copy: &Copy| copy.edit_json(tokenizer, |json| json["model"]["vocab"]["far"] = json!(4_000_000_000u32));
    broken("bert", &beyond, &[tokenizer, "token 4000000000 is beyond"]);
    broken(
        "bert",
        &|copy| copy.edit_json(tokenizer, |json| json["model"]["vocab"] = json!([])),
        &[tokenizer, "`model.vocab`"],
    );
    broken("bert", &|copy| fs::remove_file(copy.path(tokenizer)).unwrap(), &["neither tokenizer.json nor vocab.txt"]);
}

/// What older checkpoints have instead of a tokenizer.json says the same of a tokenizer that is BERT's.
#[test]
fn a_vocabulary_of_lines_gives_the_same_tokens() {
    let of = |edit: &dyn Fn(&Copy)| {
        let copy = Copy::of("bert", "lines");
        // A copy has no folder for the pooling.
        fs::remove_file(copy.path("modules.json")).unwrap();
        edit(&copy);
        Plan::new(&copy.0, OutputType::Auto).unwrap().metadata().clone()
    };
    let expected = of(&|_| ());
    let found = of(&|copy| {
        let document: Json = serde_json::from_slice(&fs::read(copy.path("tokenizer.json")).unwrap()).unwrap();
        let vocabulary = document["model"]["vocab"].as_object().unwrap();
        let mut lines: Vec<(u64, &str)> =
            vocabulary.iter().map(|(text, id)| (id.as_u64().unwrap(), text.as_str())).collect();
        lines.sort_unstable();
        let lines: Vec<&str> = lines.into_iter().map(|(_, text)| text).collect();
        fs::write(copy.path("vocab.txt"), lines.join("\n")).unwrap();
        fs::remove_file(copy.path("tokenizer.json")).unwrap();
    });
    assert!(expected.iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.")).count() >= 12);
    for (key, value) in expected.iter() {
        assert_eq!(found.get(key), Some(value), "{key}");
    }
    assert_eq!(found.len(), expected.len());
}
