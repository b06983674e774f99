//! Quantizing: the types that tensors get against llama.cpp's choices (`fixtures/tensor_types.json`, made by
//! `tests/oracles/tensor_types.py`), and files that appear whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hublabio_gguf::{GgmlType, GgufFile, Metadata, SplitLimit, Writer, decode_row};
use hublabio_runtime::Error;
use hublabio_runtime::ai::ImportanceMatrix;
use hublabio_runtime::ai::quantization::{
    Mix, QuantizeOptions, QuantizePlan, QuantizeReport, TensorTypeRule, quantize,
};
use serde_json::Value;

/// An empty folder.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quantize").join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mix(name: &str) -> &'static Mix {
    Mix::from_name(name).unwrap_or_else(|| panic!("no mix {name}"))
}

/// The names of `types → names → layers` as type by name: layers are `0-3,7`, nothing for tensors outside of them.
fn unfolded(types: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (ty, names) in types.as_object().unwrap() {
        for (name, layers) in names.as_object().unwrap() {
            for run in layers.as_str().unwrap().split(',') {
                let (first, last) = run.split_once('-').unwrap_or((run, run));
                let Ok(first) = first.parse::<usize>() else {
                    found.insert(name.clone(), ty.clone());
                    continue;
                };
                for layer in first..=last.parse().unwrap() {
                    found.insert(format!("blk.{layer}.{name}"), ty.clone());
                }
            }
        }
    }
    found
}

/// The model of which only the description matters, as the script made it.
fn described(model: &Value, tensors: impl Iterator<Item = String>) -> GgufFile {
    let number = |key: &str| model[key].as_u64().unwrap_or(0);
    let architecture = model["arch"].as_str().unwrap();
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", architecture);
    for (key, field) in [
        ("block_count", "layers"),
        ("attention.head_count", "heads"),
        ("attention.head_count_kv", "kv_heads"),
        ("expert_count", "experts"),
    ] {
        metadata.insert(format!("{architecture}.{key}"), number(field) as u32);
    }
    let (width, ffn, experts) = (number("width"), number("ffn"), number("experts"));
    let mut writer = Writer::with_metadata(metadata);
    let mut bytes = Vec::new();
    for name in tensors {
        let row = if name.contains("ffn_down") { ffn } else { width };
        let (dims, ty) = match name.as_str() {
            name if name.contains("norm") => (vec![width], GgmlType::F32),
            name if name.contains("_exps") => (vec![row, 2, experts], GgmlType::F16),
            _ => (vec![row, 2], GgmlType::F16),
        };
        writer.add_tensor(&name, &dims, ty).unwrap();
        bytes.push(vec![0u8; ty.row_bytes(dims.iter().product::<u64>() as usize).unwrap()]);
    }
    GgufFile::from_vec(writer.to_bytes(bytes.iter().map(Vec::as_slice)).unwrap()).unwrap()
}

#[test]
fn tensors_get_the_types_that_llama_cpp_gives_them() {
    let text = include_str!("fixtures/tensor_types.json");
    let models: Value = serde_json::from_str(text).unwrap();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (name, model) in models.as_object().unwrap() {
        let kinds = model["types"].as_object().unwrap();
        let file = described(&model["model"], unfolded(kinds.values().next().unwrap()).into_keys());
        for (kind, types) in kinds {
            let (kind_name, with_importance) =
                kind.split_once('+').map_or((kind.as_str(), false), |(name, _)| (name, true));
            let mix = mix(kind_name);
            let importance = with_importance.then(|| (PathBuf::from("nothing"), ImportanceMatrix::new(512)));
            let plan = QuantizePlan::new(&file, &QuantizeOptions { importance, ..QuantizeOptions::new(mix) }).unwrap();
            let expected = unfolded(types);
            assert_eq!(plan.tensors.len(), expected.len(), "{name} {kind}");
            for tensor in &plan.tensors {
                if tensor.to.name() != expected[&tensor.name] {
                    wrong.push(format!("{name} {kind} {}: {}, not {}", tensor.name, tensor.to, expected[&tensor.name]));
                }
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{} wrong, such as {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert_eq!(checked, 267, "kinds of files");
}

/// Two matrices, three experts and a norm, of arbitrary weights.
fn small_model(spoil: Option<usize>) -> Vec<u8> {
    let weights = |n: usize, seed: usize| -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919 % 1009) as f32 - 504.0) / 2048.0).collect()
    };
    let tensors = [
        ("token_embd.weight", vec![64u64, 40]),
        ("blk.0.ffn_down_exps.weight", vec![64, 16, 3]),
        ("blk.0.ffn_norm.weight", vec![64]),
        ("output.weight", vec![64, 40]),
    ];
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    let mut writer = Writer::with_metadata(metadata);
    let mut bytes = Vec::new();
    for (seed, (name, dims)) in tensors.iter().enumerate() {
        writer.add_tensor(name, dims, GgmlType::F32).unwrap();
        let mut weights = weights(dims.iter().product::<u64>() as usize, seed);
        if let Some(index) = spoil.filter(|_| name.contains("exps")) {
            weights[index] = f32::NAN;
        }
        bytes.push(weights.iter().flat_map(|weight| weight.to_le_bytes()).collect::<Vec<u8>>());
    }
    writer.to_bytes(bytes.iter().map(Vec::as_slice)).unwrap()
}

fn run(file: &GgufFile, out: &Path, options: &QuantizeOptions) -> Result<QuantizeReport, Error> {
    quantize(file, out, options, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_file_is_written_and_says_how_well() {
    let folder = folder("written");
    let input = folder.join("in.gguf");
    fs::write(&input, small_model(None)).unwrap();
    let file = GgufFile::open(&input).unwrap();
    let out = folder.join("out.gguf");
    let mut importance = ImportanceMatrix::new(512);
    for expert in 0..3 {
        let sums: Vec<f64> = (0..64).map(|column| f64::from(column % 5) + 0.5).collect();
        importance.record("blk.0.ffn_down_exps.weight", (expert, 3), &sums, 7).unwrap();
    }
    importance.finish_dataset("text.txt", 2);
    let options = QuantizeOptions {
        importance: Some((PathBuf::from("some.gguf"), importance)),
        tensor_types: vec![TensorTypeRule::parse("^output=F16").unwrap()],
        ..QuantizeOptions::new(mix("Q8_0"))
    };
    let report = run(&file, &out, &options).unwrap();
    assert_eq!(names(&folder), ["in.gguf", "out.gguf"]);
    let written = GgufFile::open(&out).unwrap();
    assert_eq!(written.metadata().u32("general.file_type").unwrap(), Some(7));
    assert_eq!(written.metadata().u32("general.quantization_version").unwrap(), Some(2));
    assert_eq!(written.metadata().str("quantize.imatrix.file").unwrap(), Some("some.gguf"));
    assert_eq!(written.metadata().str("quantize.imatrix.dataset").unwrap(), Some("text.txt"));
    assert_eq!(written.metadata().u32("quantize.imatrix.entries_count").unwrap(), Some(1));
    assert_eq!(written.metadata().u32("quantize.imatrix.chunks_count").unwrap(), Some(2));
    let types: Vec<_> = written.tensors().iter().map(|tensor| tensor.ty).collect();
    assert_eq!(types, [GgmlType::Q8_0, GgmlType::Q8_0, GgmlType::F32, GgmlType::F16]);
    for ((before, after), error) in file.views().zip(written.views()).zip(&report.errors) {
        let (before, mut decoded) = (before.to_f32().unwrap(), vec![0.0; after.info.n_elements() as usize]);
        decode_row(after.info.ty, after.data, &mut decoded).unwrap();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let errors: f64 = before.iter().zip(&decoded).map(|(a, b)| square(a - b)).sum();
        let squares: f64 = before.iter().map(|&a| square(a)).sum();
        match error {
            Some(error) => assert!((error.rmse - (errors / squares).sqrt()).abs() < 1e-9, "{}", after.info.name),
            None => assert_eq!(errors, 0.0, "{}", after.info.name),
        }
        let known = after.info.name.contains("exps");
        assert_eq!(error.is_some_and(|error| error.weighted_rmse.is_some()), known, "{}", after.info.name);
    }

    // Packed once: again only with leave, unless the type is the same.
    let again = folder.join("again.gguf");
    let refused = run(&written, &again, &QuantizeOptions::new(mix("Q4_0"))).unwrap_err();
    assert!(matches!(&refused, Error::Requantize { tensor, .. } if tensor == "token_embd.weight"), "{refused}");
    let options = QuantizeOptions { allow_requantize: true, ..QuantizeOptions::new(mix("Q4_0")) };
    run(&written, &again, &options).unwrap();
    let copied = folder.join("copied.gguf");
    let rule = vec![TensorTypeRule::parse("^output=F16").unwrap()];
    let options = QuantizeOptions { tensor_types: rule, ..QuantizeOptions::new(mix("Q8_0")) };
    run(&written, &copied, &options).unwrap();
    let copied = GgufFile::open(&copied).unwrap();
    assert!(written.views().zip(copied.views()).all(|(a, b)| a.data == b.data));
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let folder = folder("fails");
    let input = folder.join("in.gguf");
    fs::write(&input, small_model(Some(1500))).unwrap();
    let file = GgufFile::open(&input).unwrap();
    let out = folder.join("out.gguf");
    for name in ["Q8_0", "F16", "F32"] {
        let error = run(&file, &out, &QuantizeOptions::new(mix(name))).unwrap_err();
        let told = matches!(&error, Error::BadWeight { tensor, index: 1500, .. } if tensor.contains("exps"));
        assert!(told, "{name}: {error}");
    }
    let options = QuantizeOptions::new(mix("Q8_0"));
    let stopped = quantize(&file, &out, &options, &mut |at| match at.number {
        2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let error = run(&file, &folder.join("nowhere/out.gguf"), &options).unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
    let over_itself = QuantizeOptions { overwrite: true, ..QuantizeOptions::new(mix("Q8_0")) };
    assert!(matches!(run(&file, &input, &over_itself), Err(Error::OutputIsInput { .. })));
    fs::write(&out, "precious").unwrap();
    assert!(matches!(run(&file, &out, &options), Err(Error::OutputExists { .. })));
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    let unused = QuantizeOptions {
        tensor_types: vec![TensorTypeRule::parse("nose=Q8_0").unwrap()],
        ..QuantizeOptions::new(mix("Q8_0"))
    };
    assert!(matches!(run(&file, &out, &unused), Err(Error::TensorRuleUnused { .. })));
    assert_eq!(names(&folder), ["in.gguf", "out.gguf"]);
}

#[test]
fn split_files_appear_together_and_read_as_one() {
    let folder = folder("split");
    let input = folder.join("in.gguf");
    fs::write(&input, small_model(None)).unwrap();
    let file = GgufFile::open(&input).unwrap();
    let whole = folder.join("whole.gguf");
    run(&file, &whole, &QuantizeOptions::new(mix("Q4_0"))).unwrap();
    let split = QuantizeOptions { split: Some(SplitLimit::Tensors(3)), ..QuantizeOptions::new(mix("Q4_0")) };
    let report = run(&file, &folder.join("parts.gguf"), &split).unwrap();
    assert_eq!(report.files.len(), 2);
    assert_eq!(names(&folder), ["in.gguf", "parts-00001-of-00002.gguf", "parts-00002-of-00002.gguf", "whole.gguf"]);
    let (whole, parts) = (GgufFile::open(&whole).unwrap(), GgufFile::open(&report.files[0]).unwrap());
    assert!(whole.views().zip(parts.views()).all(|(a, b)| a.info.name == b.info.name && a.data == b.data));
}
