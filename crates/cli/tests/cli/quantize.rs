//! `hublab quantize`: what it writes, says and refuses, and that what fails leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{command, fails, file, folder, hublab, succeeds, wait};
use crate::tiny::Tiny;

/// The built-in model's file: matrices of Q8_0.
const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/default.gguf");

/// Where a test writes, empty at first.
struct Out(PathBuf);

impl Out {
    fn new(test: &str) -> Self {
        let path = folder(test).join("out");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the build folder can be written");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().expect("the path is text")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder is there");
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// An importance matrix of the built-in model.
fn importance(test: &str) -> String {
    let text = file(test, "calibration.txt", "What does the command tar do? It packs files. ".repeat(20).as_bytes());
    let out = folder(test).join("importance.gguf").into_os_string().into_string().unwrap();
    succeeds(&["imatrix", "default", &text, "-o", &out, "--force", "--ctx", "32", "--chunks", "4"]);
    out
}

fn number(json: &Value) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("no whole number: {json}"))
}

fn product(dims: &Value) -> u64 {
    dims.as_array().unwrap().iter().map(number).product()
}

/// The type that each tensor of a report got, by name.
fn types(report: &Value) -> Vec<(&str, &str)> {
    let tensors = report["tensors"].as_array().unwrap();
    tensors.iter().map(|tensor| (tensor["name"].as_str().unwrap(), tensor["to"].as_str().unwrap())).collect()
}

#[test]
fn a_packed_model_still_answers_and_the_report_adds_up() {
    let test = "quantize_answers";
    let (out, importance) = (Out::new(test), importance(test));
    let sentences: Vec<_> = (0..100).map(|i| format!("The function returns the number {i}.")).collect();
    let text = file(test, "text.txt", sentences.join(" ").as_bytes());
    let perplexity =
        |model: &str| succeeds(&["perplexity", model, &text, "--ctx", "64", "--json"]).json()["perplexity"].as_f64();
    // Two bits cannot keep much of so small a model that has lost precision before: it must only stay sane.
    for (mix, ratio) in [("q4_k_m", 2.0), ("IQ2_XS", 200.0)] {
        let path = out.path(&format!("{mix}.gguf"));
        let arguments = ["quantize", BUILT_IN, &path, mix, "--allow-requantize", "--imatrix", &importance];
        let report = succeeds(&[&arguments[..], &["--json"]].concat()).json();
        let tensors = report["tensors"].as_array().unwrap();
        let shown = succeeds(&["show", &path, "--json", "--tensors"]).json();
        let bytes: u64 = shown["tensors"].as_array().unwrap().iter().map(|tensor| number(&tensor["bytes"])).sum();
        assert_eq!(number(&report["bytes_after"]), bytes);
        assert_eq!(number(&report["parameters"]), tensors.iter().map(|tensor| product(&tensor["dims"])).sum::<u64>());
        let bits: f64 =
            tensors.iter().map(|t| product(&t["dims"]) as f64 * t["bits_per_weight"].as_f64().unwrap()).sum();
        assert!((bits / 8.0 - bytes as f64).abs() < 1.0, "{bits} bits, {bytes} bytes");
        let mean = report["bits_per_weight"].as_f64().unwrap();
        assert!((mean - bits / report["parameters"].as_f64().unwrap()).abs() < 1e-9, "{mean}");
        assert_eq!(number(&report["file_bytes"]), fs::metadata(&path).unwrap().len());
        assert!(bytes < number(&report["bytes_before"]));
        assert_eq!((&report["files"][0], report["type"].as_str()), (&path.as_str().into(), Some(&*mix.to_uppercase())));
        let weighted =
            tensors.iter().filter(|tensor| tensor["weighted_rmse"].as_f64().is_some_and(|e| e > 0.0)).count();
        assert!(weighted > 10, "{weighted} of {}", tensors.len());

        assert!(!succeeds(&["run", &path, "What does tar do?", "-n", "8"]).text().trim().is_empty());
        let (before, after) = (perplexity(BUILT_IN).unwrap(), perplexity(&path).unwrap());
        assert!(after.is_finite() && after < before * ratio, "{mix}: {before} became {after}");

        // The same for people, and the same bytes whoever computes them.
        let again = out.path("again.gguf");
        let arguments = ["quantize", "default", &again, mix, "--allow-requantize", "--imatrix", &importance, "--force"];
        let people = succeeds(&[&arguments[..], &["--threads", "1"]].concat());
        for part in ["TENSOR", "BY IMPORTANCE", "bits per weight", "token_embd.weight", &again] {
            assert!(people.text().contains(part), "{part} is not in: {}", people.text());
        }
        assert!(fs::read(&again).unwrap() == fs::read(&path).unwrap(), "{mix}");
    }
}

#[test]
fn packing_twice_needs_leave() {
    let out = Out::new("quantize_leave");
    let parts = ["token_embd.weight", "is Q8_0 already", "--allow-requantize"];
    fails(&["quantize", BUILT_IN, &out.path("x.gguf"), "Q4_K_M"], b"", 1, &parts);
    assert!(out.names().is_empty());
}

#[test]
fn a_dry_run_tells_all_and_writes_nothing() {
    let test = "quantize_dry";
    let (model, out) = (Tiny::new().save(test), Out::new(test));
    let dry = ["quantize", &model, "Q4_0", "--dry-run", "--json"];
    let report = succeeds(&dry).json();
    assert_eq!(report["files"].as_array().unwrap().len(), 0);
    assert!(report.get("seconds").is_none() && report.get("file_bytes").is_none());
    let path = out.path("x.gguf");
    assert_eq!(succeeds(&["quantize", &model, &path, "Q4_0", "--dry-run", "--json"]).json(), report);
    assert!(succeeds(&["quantize", &model, "Q4_0", "--dry-run"]).text().contains("bits per weight"));
    assert!(out.names().is_empty());
    let done = succeeds(&["quantize", &model, &path, "Q4_0", "--json"]).json();
    assert_eq!(types(&done), types(&report));
    assert_eq!(done["bytes_after"], report["bytes_after"]);
    assert_eq!(out.names(), ["x.gguf"]);
}

#[test]
fn types_can_be_chosen() {
    let test = "quantize_types";
    let (model, out) = (Tiny::new().save(test), Out::new(test));
    let report = |more: &[&str]| {
        succeeds(&[&["quantize", &model, &out.path("x.gguf"), "Q4_0", "--json", "--force"], more].concat()).json()
    };
    let to = |report: &Value, name: &str| {
        types(report).iter().find(|(found, _)| *found == name).expect("the tensor is there").1.to_owned()
    };
    let chosen = report(&[
        "--tensor-type",
        "ffn_down=q8_0",
        "--tensor-type",
        r"blk\.0\.ffn=IQ4_NL",
        "--output-type",
        "F16",
        "--token-embedding-type",
        "Q5_1",
    ]);
    for (name, ty) in [
        ("blk.0.ffn_down.weight", "Q8_0"),
        ("blk.0.ffn_up.weight", "IQ4_NL"),
        ("blk.1.ffn_up.weight", "Q4_0"),
        ("output.weight", "F16"),
        ("token_embd.weight", "Q5_1"),
        ("output_norm.weight", "F32"),
    ] {
        assert_eq!(to(&chosen, name), ty, "{name}");
    }
    let pure = report(&["--pure"]);
    for tensor in pure["tensors"].as_array().unwrap() {
        assert_eq!(tensor["to"], if tensor["kept"].is_null() { "Q4_0" } else { "F32" }, "{tensor}");
    }
    assert_ne!(to(&report(&[]), "output.weight"), "Q4_0");

    fs::remove_file(out.path("x.gguf")).unwrap();
    let path = out.path("y.gguf");
    let fails = |more: &[&str], code: i32, parts: &[&str]| {
        fails(&[&["quantize", &model, &path, "Q4_0"], more].concat(), b"", code, parts);
    };
    fails(&["--tensor-type", "nose=Q8_0"], 1, &["`nose` matches no matrix", "--tensors"]);
    fails(&["--tensor-type", "(=Q8_0"], 2, &["--tensor-type", "no regular expression"]);
    fails(&["--tensor-type", "ffn"], 2, &["--tensor-type", "REGEX=TYPE"]);
    fails(&["--tensor-type", "ffn=Q9"], 2, &["`Q9` is no type", "Q4_K", "IQ2_XXS", "TQ1_0", "MXFP4"]);
    fails(&["--output-type", "Q8_1"], 2, &["--output-type", "`Q8_1` is no type"]);
    self::fails(&["quantize", &model, &path, "Q9"], b"", 2, &["'Q9'", "Q4_K_M", "IQ2_XS"]);
    self::fails(&["quantize", &model, "Q4_0"], b"", 2, &["there is no output", "--dry-run"]);
    assert!(out.names().is_empty());
}

#[test]
fn a_split_model_is_shown_and_runs() {
    let test = "quantize_split";
    let (model, out) = (Tiny::new().save(test), Out::new(test));
    succeeds(&["quantize", &model, &out.path("whole.gguf"), "Q4_0"]);
    let report =
        succeeds(&["quantize", &model, &out.path("parts.gguf"), "Q4_0", "--split-max-tensors", "8", "--json"]).json();
    let files = report["files"].as_array().unwrap();
    assert_eq!((files.len(), out.names().len()), (3, 4), "{:?}", out.names());
    let first = files[0].as_str().unwrap();
    assert!(first.ends_with("parts-00001-of-00003.gguf"), "{first}");
    let shown = succeeds(&["show", first, "--json"]).json();
    assert_eq!((number(&shown["parts"]), number(&shown["tensor_count"])), (3, 21));
    assert_eq!(shown["bytes"], report["file_bytes"]);
    let answer = |model: &str| succeeds(&["run", model, "abc", "--raw", "-n", "8", "--temp", "0"]).text().to_owned();
    assert_eq!(answer(first), answer(&out.path("whole.gguf")));
    fails(&["quantize", &model, &out.path("parts.gguf"), "Q4_0", "--split-max-tensors", "8"], b"", 1, &["--force"]);
    assert_eq!(out.names().len(), 4);
}

#[test]
fn what_is_there_stays_unless_it_may_go() {
    let test = "quantize_exists";
    let (model, out) = (Tiny::new().save(test), Out::new(test));
    let before = fs::read(&model).unwrap();
    let existing = out.path("x.gguf");
    fs::write(&existing, "precious").unwrap();
    fails(&["quantize", &model, &existing, "Q4_0"], b"", 1, &["x.gguf exists", "--force"]);
    assert_eq!(fs::read(&existing).unwrap(), b"precious");
    for force in [&[][..], &["--force"]] {
        fails(&[&["quantize", &model, &model, "Q4_0"], force].concat(), b"", 1, &["is the input"]);
        let folder = out.0.to_str().unwrap();
        fails(&[&["quantize", &model, folder, "Q4_0"], force].concat(), b"", 1, &["no regular file"]);
    }
    #[cfg(unix)]
    {
        let dot = out.0.join("../out/../tiny.gguf");
        let link = out.path("link.gguf");
        std::os::unix::fs::symlink(&model, &link).unwrap();
        for same in [dot.to_str().unwrap(), &link] {
            fails(&["quantize", &model, same, "Q4_0", "--force"], b"", 1, &["is the input"]);
        }
        fs::remove_file(&link).unwrap();
    }
    assert!(fs::read(&model).unwrap() == before);
    fails(&["quantize", &model, &out.path("none/x.gguf"), "Q4_0"], b"", 1, &["cannot create", "none"]);
    assert_eq!(out.names(), ["x.gguf"]);
    succeeds(&["quantize", &model, &existing, "Q4_0", "--force"]);
    assert_eq!(&fs::read(&existing).unwrap()[..4], b"GGUF");
    assert_eq!(out.names(), ["x.gguf"]);
}

#[test]
fn importance_must_be_this_models() {
    let test = "quantize_importance";
    let (model, out, other) = (Tiny::new().save(test), Out::new(test), importance(test));
    let garbage = file(test, "garbage.dat", &[7; 100]);
    let fails = |importance: &str, parts: &[&str]| {
        fails(&["quantize", &model, &out.path("x.gguf"), "Q4_0", "--imatrix", importance], b"", 1, parts);
    };
    fails("no/such/file.gguf", &["cannot open no/such/file.gguf"]);
    fails(&garbage, &["garbage.dat", "begins like neither"]);
    fails(&model, &["tiny.gguf", "holds no entries"]);
    fails(&other, &["blk.0.", "made for another model"]);
    assert!(out.names().is_empty());
    // Nothing in common at all.
    let mut renamed = Tiny::new();
    for layer in 0..2 {
        for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
            renamed.remove(&format!("blk.{layer}.{name}.weight"));
        }
    }
    let renamed = file(test, "bare.gguf", &renamed.bytes());
    let arguments = ["quantize", &renamed, &out.path("x.gguf"), "Q4_0", "--imatrix", &other];
    crate::program::fails(&arguments, b"", 1, &["importance.gguf", "names no matrix of this model"]);
    assert!(out.names().is_empty());
}

#[test]
fn a_type_that_does_not_fit_is_replaced_aloud() {
    let test = "quantize_fallback";
    let (model, out) = (Tiny::new().save(test), Out::new(test));
    let outcome = succeeds(&["quantize", &model, &out.path("x.gguf"), "Q4_K_M", "--json"]);
    assert!(outcome.stderr.contains("note:") && outcome.stderr.contains("rows of 64"), "{}", outcome.stderr);
    let report = outcome.json();
    assert_eq!(report["notices"].as_array().unwrap().len(), 1);
    let tensors = report["tensors"].as_array().unwrap();
    let up = tensors.iter().find(|tensor| tensor["name"] == "blk.1.ffn_up.weight").unwrap();
    assert_eq!((&up["instead_of"], &up["to"]), (&"Q4_K".into(), &"Q5_0".into()));
    let people = succeeds(&["quantize", &model, "Q4_K_M", "--dry-run"]);
    assert!(people.text().contains("rows of 64 are no whole Q4_K blocks"), "{}", people.text());
}

#[test]
fn broken_models_leave_nothing() {
    let test = "quantize_broken";
    let out = Out::new(test);
    let whole = Tiny::new().bytes();
    for cut in [1, 5, 10, 20] {
        let path = file(test, "cut.gguf", &whole[..whole.len() * cut / 21]);
        fails(&["quantize", &path, &out.path("x.gguf"), "Q4_0"], b"", 1, &["cut.gguf", "truncated"]);
    }
    let mut tiny = Tiny::new();
    tiny.poison("blk.1.ffn_up.weight");
    let path = file(test, "poisoned.gguf", &tiny.bytes());
    let parts = ["poisoned.gguf", "blk.1.ffn_up.weight", "weight 100 is NaN"];
    fails(&["quantize", &path, &out.path("x.gguf"), "Q4_0"], b"", 1, &parts);
    fails(&["quantize", &path, &out.path("x.gguf"), "F32", "--split-max-tensors", "2"], b"", 1, &parts);
    fails(&["quantize", "no/such.gguf", &out.path("x.gguf"), "Q4_0"], b"", 1, &["there is no file no/such.gguf"]);
    assert!(out.names().is_empty());
}

/// A limit on the size of files stands for a disk that is full: writing fails in the same place.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing() {
    use std::process::{Command, Stdio};
    let test = "quantize_full";
    let (model, out) = (Tiny::new().save(test), Out::new(test));
    let text = file(test, "text.txt", "abcdefghij".repeat(20).as_bytes());
    let limited = |blocks: u32, arguments: &[&str]| {
        // In units of 512 or 1024 bytes, as the shell has it; without the signal writing returns an error.
        let script = format!("trap '' XFSZ; ulimit -f {blocks} && exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_hublab")).args(arguments);
        wait(shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("there is sh"))
    };
    let (x, importance) = (out.path("x.gguf"), out.path("importance.gguf"));
    for (blocks, arguments) in [
        (20, &["quantize", &model, &x, "F16"][..]),
        (20, &["quantize", &model, &x, "F16", "--split-max-tensors", "5"]),
        (20, &["quantize", BUILT_IN, &x, "Q8_0"]),
        (1, &["imatrix", &model, &text, "-o", &importance, "--ctx", "64"]),
    ] {
        let outcome = limited(blocks, arguments);
        assert_eq!(outcome.code, 1, "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.text(), "");
        let told = outcome.stderr.contains("cannot write") && outcome.stderr.contains("File too large");
        assert!(told && outcome.stderr.contains("out/"), "{arguments:?}: {}", outcome.stderr);
        assert!(out.names().is_empty(), "{arguments:?}: {:?}", out.names());
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let test = "quantize_ctrl_c";
    let out = Out::new(test);
    let x = out.path("x.gguf");
    let child = command(&["quantize", BUILT_IN, &x, "IQ2_XS", "--allow-requantize", "--threads", "1"]).spawn().unwrap();
    let start = std::time::Instant::now();
    // The file that becomes the output lies beside it as soon as the work begins.
    while out.names().is_empty() {
        assert!(start.elapsed() < crate::program::PATIENCE, "nothing is written");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(!Path::new(&x).exists());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("the program is there");
    let outcome = wait(child);
    assert_eq!((outcome.code, outcome.text()), (130, ""), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("error:"), "{}", outcome.stderr);
    assert!(out.names().is_empty(), "{:?}", out.names());
}

#[test]
fn show_lists_the_types() {
    let types = succeeds(&["show", "--types", "--json"]).json();
    let types = types.as_array().unwrap();
    assert!(types.len() >= 35, "{}", types.len());
    let people = succeeds(&["show", "--types"]);
    for ty in types {
        assert!(people.text().lines().any(|line| line.split(' ').next() == ty["name"].as_str()), "{ty}");
        let bits = number(&ty["block_bytes"]) as f64 * 8.0 / number(&ty["block_weights"]) as f64;
        assert!((ty["bits_per_weight"].as_f64().unwrap() - bits).abs() < 1e-9, "{ty}");
    }
    for name in ["Q4_K", "IQ1_S", "IQ2_XXS", "IQ3_S", "IQ4_NL", "TQ1_0", "MXFP4", "NVFP4", "Q1_0"] {
        let ty = types.iter().find(|ty| ty["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!((&ty["can_decode"], &ty["can_encode"]), (&true.into(), &true.into()), "{name}");
    }
    assert_eq!(hublab(&["show", "--types"]).stderr, "");
}
