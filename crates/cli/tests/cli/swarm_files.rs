//! The files of a swarm: written by `add` and `rm`, broken by hand, and as `docs/SWARM.md` shows them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::program::{Outcome, fails, file, hublab, succeeds};
use crate::swarm::{experts, names, told, write};
use crate::tiny::Tiny;

fn listed(folder: &str) -> serde_json::Value {
    succeeds(&["swarm", "ls", "--json", "--experts", folder]).json()
}

fn expert(listed: &serde_json::Value, name: &str) -> serde_json::Value {
    let found = listed["experts"].as_array().unwrap().iter().find(|expert| expert["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {listed}")).clone()
}

/// The files of a folder.
fn files(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_expert_comes_and_goes() {
    let folder = format!("{}/made/by/add", experts("swarm_add"));
    let model = Tiny::new().save("swarm_add");
    let examples = file("swarm_add", "examples.txt", b"How do I join two tables?\nWhat is a primary key?\n");
    let add = ["swarm", "add", "sql", "--model", &model, "--experts", &folder];
    let described = [
        "--domain",
        "databases",
        "--keywords",
        "sql, primary key,join",
        "--examples",
        &examples,
        "--description",
        "Knows \"SQL\"",
        "--system-prompt",
        "Answer in\none line.",
        "--threshold",
        "0.25",
        "--priority",
        "-3",
        "--node",
        "2",
        "--fallback",
        "general",
    ];
    let added = succeeds(&[&add[..], &described].concat());
    assert!(added.text().is_empty() && added.stderr.contains("sql.toml"), "{}", added.stderr);
    let sql = expert(&listed(&folder), "sql");
    let expected: [(&str, serde_json::Value); 10] = [
        ("domain", "databases".into()),
        ("description", "Knows \"SQL\"".into()),
        ("model", model.as_str().into()),
        ("threshold", 0.25.into()),
        ("priority", (-3).into()),
        ("node", 2.into()),
        ("fallback", "general".into()),
        ("keywords", 3.into()),
        ("examples", 2.into()),
        ("available", true.into()),
    ];
    for (key, value) in expected {
        assert_eq!(sql[key], value, "{key}: {sql}");
    }
    let route = succeeds(&["swarm", "route", "What is a primary key in SQL?", "--json", "--experts", &folder]).json();
    assert_eq!(names(&route["selected"]), ["sql"], "{route}");
    let table = succeeds(&["swarm", "ls", "--experts", &folder]);
    assert!(table.text().contains("falls back to general"), "{}", table.text());

    fails(&add, b"", 1, &["there is an expert `sql` already", "sql.toml", "--force"]);
    succeeds(&[&add[..], &["--force"]].concat());
    assert_eq!(expert(&listed(&folder), "sql")["domain"], "sql");

    succeeds(&["swarm", "rm", "sql", "--experts", &folder]);
    assert_eq!(names(&listed(&folder)["experts"]), ["general", "linux", "python", "rust"]);
    assert_eq!(files(&folder), BTreeSet::new(), "nothing is left behind");
    fails(&["swarm", "rm", "sql", "--experts", &folder], b"", 1, &["there is no expert `sql`", "general, linux"]);
}

#[test]
fn a_built_in_expert_is_switched_off_and_replaced() {
    let folder = experts("swarm_builtin");
    let rm = ["swarm", "rm", "rust", "--experts", &folder];
    let replace = ["swarm", "add", "rust", "--model", "builtin:rust", "--keywords", "cargo", "--experts", &folder];
    // It is there: it is not replaced unasked.
    fails(&replace, b"", 1, &["there is an expert `rust` already", "built in", "--force"]);
    succeeds(&rm);
    assert_eq!(names(&listed(&folder)["experts"]), ["general", "linux", "python"]);
    fails(&rm, b"", 1, &["`rust` is switched off already"]);
    succeeds(&replace);
    let rust = expert(&listed(&folder), "rust");
    assert_eq!((&rust["model"], &rust["keywords"]), (&"builtin:rust".into(), &1.into()));
    let removed = succeeds(&rm);
    assert!(removed.stderr.contains("the built-in expert `rust` is back"), "{}", removed.stderr);
    assert_eq!(expert(&listed(&folder), "rust")["file"], serde_json::Value::Null);
}

#[test]
fn what_would_break_the_swarm_is_not_added() {
    let folder = experts("swarm_refused");
    let model = Tiny::new().save("swarm_refused");
    let text = file("swarm_refused", "text.gguf", b"This is no model, but a text that is long enough.");
    let check = |arguments: &[&str], code: i32, parts: &[&str]| {
        fails(&[&["swarm", "add"], arguments, &["--experts", &folder]].concat(), b"", code, parts);
        assert_eq!(files(&folder), BTreeSet::new(), "{arguments:?}");
    };
    check(&["a", "--model", "no/such.gguf"], 1, &["there is no file no/such.gguf"]);
    check(&["a", "--model", &text], 1, &["`a` was not added", "text.gguf", "not a GGUF file"]);
    check(&["a", "--model", "builtin:none"], 1, &["a.toml", "`model`", "`none`", "linux, python, rust"]);
    check(&["a", "--model", &model, "--fallback", "nobody"], 1, &["a.toml", "`fallback`", "`nobody`"]);
    check(&["a", "--model", &model, "--generalist"], 1, &["`generalist`", "general"]);
    check(&["a", "--model", &model, "--examples", "no/such.txt"], 1, &["there is no file no/such.txt"]);
    check(&["a", "--base", &model, "--adapter", "no/lora.gguf"], 1, &["there is no file no/lora.gguf"]);
    check(&["a"], 2, &["--model"]);
    check(&["a", "--base", &model], 2, &["--adapter"]);
    check(&["a", "--model", &model, "--base", &model, "--adapter", &model], 2, &["--model"]);
    check(&["a", "--model", &model, "--threshold", "2"], 2, &["--threshold", "0 to 1"]);
    check(&["../a", "--model", &model], 2, &["is no name for an expert"]);
    check(&["swarm", "--model", &model], 2, &["swarm.toml is the swarm's own file"]);

    // With --force, what was there comes back when the new one is refused.
    write(&folder, "b.toml", &format!("name = \"b\"\nmodel = \"{model}\"\n[domain]\nname = \"kept\"\n"));
    let force = ["swarm", "add", "b", "--model", &model, "--fallback", "b", "--force", "--experts", &folder];
    fails(&force, b"", 1, &["b.toml", "circle"]);
    assert_eq!(expert(&listed(&folder), "b")["domain"], "kept");
    // An expert that others fall back to stays.
    write(&folder, "c.toml", &format!("name = \"c\"\nmodel = \"{model}\"\nfallback = \"b\"\n[domain]\nname = \"c\"\n"));
    fails(&["swarm", "rm", "b", "--experts", &folder], b"", 1, &["`b` was not removed", "c.toml", "no expert `b`"]);
    assert_eq!(files(&folder), BTreeSet::from(["b.toml".to_owned(), "c.toml".to_owned()]));
}

#[test]
fn broken_files_are_named_with_line_and_key() {
    let check = |files: &[(&str, &str)], parts: &[&str]| {
        let folder = experts("swarm_broken");
        for (name, text) in files {
            write(&folder, name, text);
        }
        for verb in [&["ls"][..], &["route", "hello"], &["query", "hello"], &["chat"]] {
            fails(&[&["swarm"], verb, &["--experts", &folder]].concat(), b"", 1, parts);
        }
    };
    let a = "name = \"a\"\nmodel = \"builtin:rust\"\n";
    let domain = "[domain]\nname = \"a\"\n";
    check(&[("sub/a.toml", &format!("{a}{domain}keyword = []\n"))], &["sub/a.toml", "line 5", "keyword"]);
    check(&[("a.toml", "name = \"a\"\nmodel = \n")], &["a.toml", "line 2"]);
    check(&[("a.toml", &format!("{a}max_tokens = \"many\"\n{domain}"))], &["a.toml", "line 3", "max_tokens"]);
    check(&[("a.toml", &format!("{a}{domain}threshold = 3.0\n"))], &["a.toml", "domain.threshold", "0 to 1"]);
    check(&[("a.toml", &format!("{a}{domain}examples_file = \"no.txt\"\n"))], &["a.toml", "examples_file", "no.txt"]);
    check(&[("swarm.toml", "[memory]\nmax = \"much\"\n")], &["swarm.toml", "memory.max", "GiB"]);
    check(&[("swarm.toml", "[routing]\nstages = [\"luck\"]\n")], &["swarm.toml", "routing.stages", "luck", "keywords"]);
    check(&[("calibration.toml", "version = 99\n")], &["calibration"]);
    check(&[("feedback.jsonl", "{\"question\":\"a\"}\n")], &["feedback.jsonl", "line 1"]);
    let falls = |name: &str, to: &str| {
        format!("name = \"{name}\"\nmodel = \"builtin:rust\"\nfallback = \"{to}\"\n[domain]\nname = \"{name}\"\n")
    };
    check(&[("a.toml", &falls("a", "b")), ("b.toml", &falls("b", "a"))], &["fallback", "circle", "a → b → a"]);
    check(&[("a.toml", &falls("a", "b"))], &["a.toml", "`fallback`", "no expert `b`"]);
    check(&[("a.toml", &format!("{a}{domain}")), ("b.toml", &format!("{a}{domain}"))], &["b.toml", "`name`", "a.toml"]);
}

#[test]
fn an_expert_without_its_model_does_not_stop_the_others() {
    let folder = experts("swarm_missing");
    let text = "name = \"zork\"\nmodel = \"gone.gguf\"\n[domain]\nname = \"zork\"\nkeywords = [\"zorkmid\"]\nthreshold = 0.1\n";
    write(&folder, "zork.toml", text);
    let zork = expert(&listed(&folder), "zork");
    assert_eq!(zork["available"], false);
    assert!(zork["unavailable"].as_str().unwrap().contains("gone.gguf"), "{zork}");
    assert!(succeeds(&["swarm", "ls", "--experts", &folder]).text().contains("unavailable: "));
    let ask = |question: &str| -> Outcome {
        hublab(&["swarm", "query", question, "-n", "4", "--json", "--experts", &folder])
    };
    // Its questions are answered by the generalist, and that is said.
    let answer = ask("What is a zorkmid?");
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(answer.stderr.contains("zork did not answer") && answer.stderr.contains("gone.gguf"), "{}", answer.stderr);
    assert_eq!(names(&answer.json()["contributions"]), ["general"]);
    // Others are asked as ever.
    let answer = ask("How do I reverse a list in Python?");
    assert_eq!((names(&answer.json()["contributions"]), told(&answer).as_str()), (vec!["python"], ""));
}

/// The blocks of TOML in `docs/SWARM.md`, each with the file that its first line names.
fn documented() -> Vec<(String, String)> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SWARM.md")).unwrap();
    let blocks = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let named = |block: &str| {
        let first = block.lines().next().unwrap();
        let name = first.strip_prefix("# ").and_then(|name| name.split([',', ' ']).next()).unwrap();
        assert!(
            Path::new(name).extension().is_some_and(|ending| ending == "toml"),
            "a block begins with the name of its file: {first}"
        );
        (name.to_owned(), block.to_owned())
    };
    blocks.map(named).collect()
}

#[test]
fn the_documented_files_are_read() {
    let folder = experts("swarm_documented");
    let model = Tiny::new().save("swarm_documented");
    let blocks = documented();
    assert!(blocks.iter().any(|(name, _)| name == "swarm.toml") && blocks.len() >= 3, "{}", blocks.len());
    for (name, text) in &blocks {
        write(&folder, name, text);
        // What the file names is there.
        for quoted in text.split('"').skip(1).step_by(2) {
            if Path::new(quoted).extension().is_some_and(|ending| ending == "txt") {
                write(&folder, quoted, "one line\n");
            }
            if Path::new(quoted).extension().is_some_and(|ending| ending == "gguf") {
                let path: PathBuf = Path::new(&folder).join(quoted);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::copy(&model, path).unwrap();
            }
        }
    }
    let listed = listed(&folder);
    let there: BTreeSet<&str> = names(&listed["experts"]).into_iter().collect();
    for (name, _) in blocks.iter().filter(|(name, text)| name != "swarm.toml" && !text.contains("enabled = false")) {
        let stem = Path::new(name).file_stem().unwrap().to_str().unwrap();
        assert!(there.contains(stem), "{stem} is not in {there:?}");
    }
}

/// The keys that an error about an unknown one lists.
fn keys_in(name: &str, text: &str) -> Vec<String> {
    let folder = experts("swarm_keys");
    write(&folder, name, text);
    let outcome = hublab(&["swarm", "ls", "--experts", &folder]);
    let (_, list) = outcome.stderr.split_once("expected").unwrap_or_else(|| panic!("no list: {}", outcome.stderr));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented() {
    let blocks = documented();
    let page: String = blocks.iter().map(|(_, text)| text.as_str()).collect();
    let is_there = |key: &str| page.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
    let mut count = 0;
    for (file, text, tables) in [
        ("a.toml", "x = 1\n", &["domain", "sampling"][..]),
        ("a.toml", "name = \"a\"\n[domain]\nx = 1\n", &[]),
        ("a.toml", "name = \"a\"\n[sampling]\nx = 1\n", &[]),
        ("swarm.toml", "x = 1\n", &["routing", "synthesis", "mixture", "memory"]),
        ("swarm.toml", "[routing]\nx = 1\n", &[]),
        ("swarm.toml", "[synthesis]\nx = 1\n", &[]),
        ("swarm.toml", "[mixture]\nx = 1\n", &[]),
        ("swarm.toml", "[memory]\nx = 1\n", &[]),
    ] {
        for key in keys_in(file, text) {
            let table = tables.contains(&key.as_str()) && page.contains(&format!("[{key}]"));
            assert!(table || is_there(&key), "docs/SWARM.md does not show `{key}` of {file}");
            count += 1;
        }
    }
    assert!(count > 40, "only {count} keys were found");
}
