//! `ARCHITECTURE.md` is true where a test can tell: paths, arrows, dependencies, and what is absent. And no page that
//! users read has a blank left in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// The pieces of a text between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The lines under the heading `## title`, up to the next one.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let heading = format!("\n## {title}\n");
    let (_, rest) = text.split_once(&heading).unwrap_or_else(|| panic!("no heading `{title}`"));
    rest.split("\n## ").next().expect("a split has a first piece")
}

/// The rooms: folders under `crates`.
fn rooms() -> Vec<String> {
    let entries = fs::read_dir(root().join("crates")).unwrap();
    let mut rooms: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    rooms.sort();
    rooms
}

/// Names of the packages that a room depends on, those of its tests only if `tests`.
fn dependencies(room: &str, tests: bool) -> Vec<String> {
    let manifest = read(&format!("crates/{room}/Cargo.toml"));
    let mut wanted = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            wanted = table.ends_with("dependencies]") && (tests || !table.ends_with("dev-dependencies]"));
        } else if wanted && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            names.extend(line.split(['.', '=', ' ']).next().map(str::to_owned));
        }
    }
    names
}

/// Every `.rs` file under a folder, with its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(sources(&path));
        } else if has_extension(&path, "rs") {
            let text = read(&path);
            found.push((path, text));
        }
    }
    found
}

#[test]
fn every_path_exists() {
    const FOLDERS: [&str; 11] = [
        "crates/",
        "config/",
        "packaging/",
        "experts/",
        "training/",
        "tests/",
        "bench/",
        "fuzz/",
        "docs/",
        "models/",
        ".ci/",
    ];
    let check = |text: &str, at_least: usize| {
        let paths: BTreeSet<&str> = quoted(text).filter(|piece| FOLDERS.iter().any(|f| piece.starts_with(f))).collect();
        let missing: Vec<_> = paths.iter().filter(|path| !root().join(path).exists()).collect();
        assert!(missing.is_empty(), "ARCHITECTURE.md names what does not exist: {missing:?}");
        assert!(paths.len() >= at_least, "only {} paths: are they still in backticks?", paths.len());
    };
    let page = read("ARCHITECTURE.md");
    check(&page, 50);
    check(section(&page, "The path of one token"), 20);
}

#[test]
fn rooms_depend_on_each_other_as_drawn() {
    let page = read("ARCHITECTURE.md");
    let arrows = section(&page, "The rooms").lines().filter_map(|line| line.strip_prefix("- `")?.split_once("` → "));
    let mut drawn = Vec::new();
    for (room, below) in arrows {
        let below: BTreeSet<&str> = quoted(below).collect();
        let names = dependencies(room, false);
        let real: BTreeSet<&str> = names.iter().filter_map(|name| name.strip_prefix("hublabio-")).collect();
        assert_eq!(below, real, "what `{room}` depends on");
        drawn.push(room);
    }
    drawn.sort_unstable();
    assert_eq!(drawn, rooms(), "the page and the folder have the same rooms");
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let page = read("ARCHITECTURE.md");
    let lines = section(&page, "Dependencies").lines();
    let listed: BTreeSet<String> =
        lines.filter_map(|line| Some(line.strip_prefix("- `")?.split_once('`')?.0.to_owned())).collect();
    let used: BTreeSet<String> = rooms()
        .iter()
        .flat_map(|room| dependencies(room, true))
        .filter(|name| !name.starts_with("hublabio-"))
        .collect();
    assert_eq!(listed, used);
}

#[test]
fn what_is_said_to_be_absent_is_absent() {
    const UNSAFE_ALLOWED: &str = "allow(unsafe_code)";
    // The library that opens connections out, and where it may.
    const CLIENT: &str = "ureq::";
    const PULL: &str = "crates/runtime/src/store/pull/";
    for room in rooms() {
        let src = format!("crates/{room}/src");
        let source = sources(&src);
        assert!(!root().join(format!("crates/{room}/build.rs")).exists(), "{room} has a build script");
        let mut absent = vec![CLIENT];
        // Addresses as values are no connections.
        let networks =
            ["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "UnixDatagram", "tokio::net"];
        if !["server", "sdk"].contains(&room.as_str()) {
            absent.extend(networks);
        }
        if ["tokenizer", "chat", "kernels", "engine", "moe"].contains(&room.as_str()) {
            absent.extend(["std::fs", "env::var"]);
        }
        if ["tokenizer", "chat", "engine", "moe"].contains(&room.as_str()) {
            absent.push("std::time");
        }
        if room != "kernels" {
            absent.push(UNSAFE_ALLOWED);
            let (_, top) = source
                .iter()
                .find(|(path, _)| [format!("{src}/lib.rs"), format!("{src}/main.rs")].contains(path))
                .expect("a crate has a root");
            // gguf has one file that may: `forbid` could not be lifted there.
            let lint = if room == "gguf" { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
            assert!(top.contains(lint), "{room} lacks {lint}");
        }
        for (path, text) in &source {
            for word in absent.iter().filter(|word| text.contains(**word)) {
                let is_the_map = path == "crates/gguf/src/mmap.rs" && *word == UNSAFE_ALLOWED;
                let is_pull = path.starts_with(PULL) && *word == CLIENT;
                assert!(is_the_map || is_pull, "{path} holds `{word}`");
            }
        }
    }
}

#[test]
fn no_page_has_a_blank_left() {
    let mut pages: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(str::to_owned).to_vec();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        pages.push(format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()));
    }
    for page in pages.iter().filter(|page| has_extension(page, "md")) {
        let text = read(page);
        let blank = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '@').find(|word| {
            let inner = word.strip_prefix('@').and_then(|word| word.strip_suffix('@'));
            *word == "TODO" || inner.is_some_and(|inner| !inner.is_empty())
        });
        assert_eq!(blank, None, "{page} is not finished");
    }
}
