//! Every committed checkpoint becomes the file that an independent converter makes of it: all metadata, all tensors.
//!
//! `tests/oracles/convert` made the folders, and `expected.json` in each from what `reference.py` wrote.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hublabio_convert::{OutputType, Plan};
use hublabio_gguf::{Array, GgmlType, GgufFile, Value};
use serde_json::{Value as Json, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/convert/fixtures")
}

fn convert(name: &str, ty: OutputType) -> (Plan, GgufFile) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{ty:?}.gguf"));
    let plan = Plan::new(&fixtures().join(name), ty).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut steps = 0;
    let mut progress = |_: hublabio_convert::Progress<'_>| {
        steps += 1;
        ControlFlow::Continue(())
    };
    plan.write(&out, true, &mut progress).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(steps >= plan.n_tensors() - 2, "{name}: only computed tensors have no steps");
    (plan, GgufFile::open(&out).unwrap())
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> String {
    let step = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step))
}

fn described(value: &Value) -> Json {
    let scalar = |kind: &str, value: Json| json!({"type": kind, "value": value});
    let array = |kind: &str, length: usize, hash: String| json!({"type": kind, "length": length, "fnv1a": hash});
    match value {
        Value::U32(value) => scalar("UINT32", json!(value)),
        Value::I32(value) => scalar("INT32", json!(value)),
        Value::F32(value) => scalar("FLOAT32", json!(f64::from(*value))),
        Value::Bool(value) => scalar("BOOL", json!(value)),
        Value::String(value) => scalar("STRING", json!(value)),
        Value::Array(Array::String(items)) => {
            let bytes = items.iter().flat_map(|text| text.bytes().chain([0]));
            array("ARRAY STRING", items.len(), fnv1a(bytes))
        }
        Value::Array(Array::F32(items)) => {
            array("ARRAY FLOAT32", items.len(), fnv1a(items.iter().flat_map(|item| item.to_le_bytes())))
        }
        Value::Array(Array::I32(items)) => {
            array("ARRAY INT32", items.len(), fnv1a(items.iter().flat_map(|item| item.to_le_bytes())))
        }
        Value::Array(Array::Bool(items)) => {
            array("ARRAY BOOL", items.len(), fnv1a(items.iter().map(|&item| u8::from(item))))
        }
        other => panic!("no converter writes {other:?}"),
    }
}

/// Compares all metadata and all tensors with `expected.json` of the folder that the file was made of.
fn check(name: &str, folder: &Path, file: &GgufFile) {
    let text = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Json = serde_json::from_slice(&text).unwrap();
    let metadata: serde_json::Map<String, Json> =
        file.metadata().iter().map(|(key, value)| (key.to_owned(), described(value))).collect();
    for (key, value) in expected["metadata"].as_object().unwrap() {
        assert_eq!(metadata.get(key), Some(value), "{name}: {key}");
    }
    let more: Vec<_> = metadata.keys().filter(|key| expected["metadata"].get(key).is_none()).collect();
    assert!(more.is_empty(), "{name}: {more:?}");
    let tensors: serde_json::Map<String, Json> = file
        .views()
        .map(|view| {
            let hash = fnv1a(view.data.iter().copied());
            let dims = &view.info.dims;
            (view.info.name.clone(), json!({"type": view.info.ty.name(), "dims": dims, "fnv1a": hash}))
        })
        .collect();
    assert_eq!(Json::Object(tensors), expected["tensors"], "{name}");
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_fixture_becomes_what_the_reference_makes_of_it() {
    let names = names_in(&fixtures());
    assert_eq!(names.len(), 27);
    for name in names {
        let (_, file) = convert(&name, OutputType::Auto);
        check(&name, &fixtures().join(&name), &file);
    }
}

/// Adapters that `peft` saved, each named after its base.
#[test]
fn every_adapter_becomes_what_the_reference_makes_of_it() {
    let adapters = fixtures().join("../adapters");
    let names = names_in(&adapters);
    assert_eq!(names, ["gemma3", "llama", "qwen2"]);
    for name in names {
        let folder = adapters.join(&name);
        let plan = Plan::adapter(&folder, &fixtures().join(&name), OutputType::Auto).unwrap();
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("adapter-{name}.gguf"));
        plan.write(&out, true, &mut |_| ControlFlow::Continue(())).unwrap();
        check(&name, &folder, &GgufFile::open(&out).unwrap());
    }
}

#[test]
fn the_type_is_that_of_the_matrices_alone() {
    for (ty, expected, file_type) in [
        (OutputType::F32, GgmlType::F32, 0),
        (OutputType::F16, GgmlType::F16, 1),
        (OutputType::Q8_0, GgmlType::Q8_0, 7),
        (OutputType::Bf16, GgmlType::BF16, 32),
    ] {
        let (plan, file) = convert("qwen2", ty);
        assert_eq!(plan.ty(), expected);
        assert_eq!(file.metadata().u32("general.file_type").unwrap(), Some(file_type));
        for tensor in file.tensors() {
            let its = if tensor.dims.len() == 1 { GgmlType::F32 } else { expected };
            assert_eq!(tensor.ty, its, "{}", tensor.name);
        }
    }
}

#[test]
fn what_is_left_out_is_said() {
    let plan = Plan::new(&fixtures().join("gemma3-vision"), OutputType::Auto).unwrap();
    assert!(plan.notes()[0].contains("34 tensors of the vision model are left out"), "{:?}", plan.notes());
    let plan = Plan::new(&fixtures().join("bert-trained"), OutputType::Auto).unwrap();
    assert!(plan.notes()[0].contains("5 tensors of the training head are left out"), "{:?}", plan.notes());
    for name in ["llama", "llama3", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "qwen2moe", "qwen3moe"] {
        let plan = Plan::new(&fixtures().join(name), OutputType::Auto).unwrap();
        assert!(plan.notes().is_empty(), "{name}: {:?}", plan.notes());
    }
}

/// What `transformers` does and llama.cpp does not is in the file, and said.
#[test]
fn what_only_some_readers_know_is_said() {
    for (name, notes) in [
        ("mistral", &["the sliding window of 48 tokens"][..]),
        ("mixtral", &["the sliding window of 40 tokens"]),
        ("starcoder2", &["the sliding window of 40 tokens"]),
        ("granite", &["the longrope scaling of positions"]),
        ("granitemoe", &["the llama3 scaling of positions"]),
        ("qwen2moe-fused", &["`norm_topk_prob` is true", "the sliding window of 32 tokens"]),
    ] {
        let plan = Plan::new(&fixtures().join(name), OutputType::Auto).unwrap();
        assert_eq!(plan.notes().len(), notes.len(), "{name}: {:?}", plan.notes());
        for (found, expected) in plan.notes().iter().zip(notes) {
            assert!(found.contains(expected) && found.contains("llama.cpp does not"), "{name}: {found}");
        }
    }
}
