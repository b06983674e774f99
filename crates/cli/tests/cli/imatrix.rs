//! `hublab imatrix`: what it writes, joins, shows and refuses.

use std::path::Path;

use crate::program::{fails, file, folder, hublab, succeeds, succeeds_with};
use crate::tiny::Tiny;

/// A text of 200 tokens for the tiny model, which has a token for each letter; with BOS and the space in front, 202.
fn text(test: &str) -> String {
    file(test, "text.txt", "abcdefghij".repeat(20).as_bytes())
}

/// A name in a test's folder where no file is.
fn absent(test: &str, name: &str) -> String {
    let path = folder(test).join(name);
    let _ = std::fs::remove_file(&path);
    path.to_str().expect("the path is text").to_owned()
}

#[test]
fn imatrix_writes_what_show_tells() {
    let test = "imatrix_writes";
    let (model, text, out) = (Tiny::new().save(test), text(test), absent(test, "out.gguf"));
    let outcome = succeeds(&["imatrix", &model, &text, "-o", &out, "--ctx", "64", "--json"]);
    let report = outcome.json();
    assert_eq!(report["entries"], 14);
    assert_eq!((&report["chunks"], &report["chunk_size"]), (&3.into(), &64.into()));
    assert_eq!((&report["tokens"], &report["tokens_left_out"]), (&192.into(), &10.into()));
    assert!(outcome.stderr.contains("the last 10 tokens make no full chunk of 64"), "{}", outcome.stderr);

    let shown = succeeds(&["imatrix", "--show", &out, "--json"]).json();
    assert_eq!((&shown["counts"], &shown["datasets"][0]), (&"rows".into(), &text.as_str().into()));
    let tensors = shown["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 14);
    for tensor in tensors {
        assert_eq!(
            (&tensor["count_min"], &tensor["count_max"], &tensor["matrices"]),
            (&192.into(), &192.into(), &1.into())
        );
        assert!(tensor["mean_square"].as_f64().unwrap() > 0.0, "{tensor}");
    }
    // Norms without weights of their own leave mean squares of 1.
    let mean = tensors.iter().find(|t| t["name"] == "blk.1.attn_q.weight").unwrap()["mean_square"].as_f64().unwrap();
    assert!((mean - 1.0).abs() < 1e-2, "{mean}");
    let table = succeeds(&["imatrix", "--show", &out]);
    assert!(
        table.text().contains("blk.0.ffn_down.weight") && table.text().contains("3 of 64 tokens"),
        "{}",
        table.text()
    );

    // The same again, however it is computed and wherever the text comes from.
    let again = absent(test, "again.gguf");
    let stdin = std::fs::read(&text).unwrap();
    let base = ["imatrix", &model, &text, "-o", &again, "--force", "--ctx", "64"];
    for more in [&["--threads", "1"][..], &["--isa", "portable"]] {
        succeeds(&[&base[..], more].concat());
        assert!(std::fs::read(&again).unwrap() == std::fs::read(&out).unwrap(), "{more:?}");
    }
    let piped = absent(test, "piped.gguf");
    succeeds_with(&["imatrix", &model, "-", "-o", &piped, "--ctx", "64"], &stdin);
    let piped = succeeds(&["imatrix", "--show", &piped, "--json"]).json();
    assert_eq!(piped["tensors"], shown["tensors"]);
}

#[test]
fn imatrix_obeys_its_flags() {
    let test = "imatrix_flags";
    let (model, text, out) = (Tiny::new().save(test), text(test), absent(test, "out.gguf"));
    let run = |more: &[&str]| {
        succeeds(&[&["imatrix", &model, &text, "-o", &out, "--force", "--json", "--ctx", "50"], more].concat()).json()
    };
    let two = run(&["--chunks", "2"]);
    assert_eq!((&two["chunks"], &two["tokens"], &two["tokens_left_out"]), (&2.into(), &100.into(), &102.into()));
    assert_eq!(run(&["--process-output"])["entries"], 15);
    // Without a MODEL the text goes through the built-in one, whose chunks may be small.
    succeeds_with(&["imatrix", "-", "-o", &out, "--force", "--ctx", "16"], "What does tar do? ".repeat(20).as_bytes());
}

#[test]
fn imatrix_joins_files() {
    let test = "imatrix_joins";
    let (model, text) = (Tiny::new().save(test), text(test));
    let (one, more, both) = (absent(test, "one.gguf"), absent(test, "more.gguf"), absent(test, "both.gguf"));
    succeeds(&["imatrix", &model, &text, "-o", &one, "--ctx", "64"]);
    succeeds(&["imatrix", &model, &text, "-o", &more, "--ctx", "64", "--in", &one]);
    let joined = succeeds(&["imatrix", "--in", &one, "--in", &one, "-o", &both, "--ctx", "64", "--json"]).json();
    assert_eq!((&joined["chunks"], joined["datasets"].as_array().unwrap().len()), (&6.into(), 2));
    assert!(joined.get("tokens").is_none(), "no text was read");
    let tensors = |path: &str| succeeds(&["imatrix", "--show", path, "--json"]).json()["tensors"].clone();
    assert_eq!(tensors(&more), tensors(&both));
    assert_eq!(tensors(&both)[0]["count_max"], 384);
}

#[test]
fn imatrix_refuses() {
    let test = "imatrix_refuses";
    let (model, text, out) = (Tiny::new().save(test), text(test), absent(test, "out.gguf"));
    let existing = file(test, "existing.gguf", b"keep me");
    let short = file(test, "short.txt", b"abc");
    let garbage = file(test, "garbage.dat", &[7; 100]);
    let nowhere = absent(test, "none/out.gguf");
    fails(&["imatrix"], b"", 2, &["there is no text"]);
    fails(&["imatrix", &model], b"", 2, &["there is no text for", "tiny.gguf"]);
    fails(&["imatrix", "default"], b"", 2, &["there is no text"]);
    fails(&["imatrix", &model, &text, "-o", "out.dat"], b"", 2, &["out.dat", "only read"]);
    fails(&["imatrix", &model, &text, "-o", &existing], b"", 1, &["existing.gguf", "--force"]);
    fails(&["imatrix", &model, &text, "-o", &nowhere], b"", 1, &["there is no folder"]);
    fails(&["imatrix", &model, &text, "-o", test, "--force", "--ctx", "0"], b"", 2, &["--ctx"]);
    fails(&["imatrix", &model, &short, "-o", &out], b"", 1, &["short.txt", "512 tokens", "lower --ctx"]);
    fails(&["imatrix", &model, "no such file", "-o", &out], b"", 1, &["no such file"]);
    fails(&["imatrix", "no.gguf", &text, "-o", &out], b"", 1, &["there is no file no.gguf"]);
    fails(&["imatrix", "--in", &garbage, "-o", &out], b"", 1, &["garbage.dat", "begins like neither"]);
    fails(&["imatrix", "--show", &model], b"", 1, &["tiny.gguf", "holds no entries"]);
    fails(&["imatrix", "--show", &text, "-o", &out], b"", 2, &["--show"]);
    assert_eq!(std::fs::read(&existing).unwrap(), b"keep me");
    assert!(!Path::new(&out).exists(), "nothing is written by what fails");

    // A model with a part that is no number ends by naming it, and a matrix of another model is not mixed in.
    let mut poisoned = Tiny::new();
    poisoned.poison("blk.1.ffn_up.weight");
    let poisoned = file(test, "poisoned.gguf", &poisoned.bytes());
    fails(&["imatrix", &poisoned, &text, "-o", &out, "--ctx", "64"], b"", 1, &["blk.1.ffn_up.weight"]);
    let other = absent(test, "other.gguf");
    let prompt = "What does tar do? ".repeat(20);
    succeeds_with(&["imatrix", "-", "-o", &other, "--ctx", "16", "--chunks", "1"], prompt.as_bytes());
    let mixed = hublab(&["imatrix", &model, &text, "--in", &other, "-o", &out, "--ctx", "64"]);
    assert!(mixed.code == 1 && mixed.stderr.contains("made for another model"), "{}", mixed.stderr);
    assert!(!Path::new(&out).exists());
}
