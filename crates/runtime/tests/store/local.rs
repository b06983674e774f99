//! What is on the disk: listing, finding, aliases, removing.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use hublabio_runtime::Error;
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::ModelCatalog as _;
use hublabio_runtime::store::{ModelKind, ModelStore, Removed, StoreConfig};

use crate::folder::{Folder, model_bytes, part_bytes, sha256};

/// Name, kind and a word of the problem of everything that is listed.
fn listed(store: &ModelStore) -> Vec<(String, &'static str, String)> {
    let models = store.list().models.into_iter();
    models.map(|model| (model.name, model.kind.word(), model.problem.unwrap_or_default())).collect()
}

#[track_caller]
fn check_listed(store: &ModelStore, expected: &[(&str, &str, &str)]) {
    let found = listed(store);
    let same = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, (name, kind, problem))| {
            found.0 == *name
                && found.1 == *kind
                && found.2.is_empty() == problem.is_empty()
                && found.2.contains(problem)
        });
    assert!(same, "found {found:#?}\nexpected {expected:#?}");
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(result: Result<T, Error>, words: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn everything_is_listed_and_what_is_broken_says_why() {
    let folder = Folder::new("listed");
    let bytes = model_bytes(1, 0);
    folder.write("models/plain.gguf", &bytes);
    folder.write("models/org/model.gguf", &bytes);
    folder.write("models/notes.txt", b"no model");
    folder.write("models/.hidden.gguf", &bytes);
    folder.write("models/empty.gguf", b"");
    folder.write("models/page.gguf", b"<!doctype html>");
    folder.write("models/cut.gguf", &bytes[..bytes.len() - 1]);
    folder.write("models/SHOUTED.GGUF", &bytes);
    folder.write("models/split-00001-of-00002.gguf", &part_bytes(1, 0, Some((0, 2))));
    folder.write("models/split-00002-of-00002.gguf", &part_bytes(2, 0, Some((1, 2))));
    folder.write("models/half-00001-of-00002.gguf", &part_bytes(1, 0, Some((0, 2))));
    folder.write("models/default.gguf", &bytes);
    folder.write("models/begun.gguf.part", b"GGUF");
    folder.write("more/plain.gguf", &bytes);
    folder.write("more/other.gguf", &bytes);
    let blob = folder.ollama("registry.ollama.ai/library/llama/1b", &model_bytes(1, 1));
    folder.ollama("registry.ollama.ai/ada/own/latest", &model_bytes(1, 2));
    fs::remove_file(folder.ollama("hf.co/owner/repo/Q4_K_M", &model_bytes(1, 3))).unwrap();
    folder.write("ollama/manifests/registry.ollama.ai/library/llama/bad", b"{");
    let store = folder.store();
    store.add_alias("plain", "p").unwrap();
    check_listed(
        &store,
        &[
            ("SHOUTED", "file", "small letters"),
            ("ada/own:latest", "ollama", ""),
            ("begun", "unfinished", "not finished"),
            ("cut", "file", "truncated"),
            ("default", "built in", ""),
            ("default", "file", "hidden by the built-in model"),
            ("empty", "file", "GGUF"),
            ("half", "file", "1 of 2 parts"),
            ("hf.co/owner/repo:Q4_K_M", "ollama", "cannot open"),
            ("llama:1b", "ollama", ""),
            ("llama:bad", "ollama", "manifest"),
            ("org/model", "file", ""),
            ("other", "file", ""),
            ("p", "alias", ""),
            ("page", "file", "not a GGUF"),
            ("plain", "file", ""),
            ("plain", "file", "hidden by"),
            ("split", "file", ""),
        ],
    );
    let models = store.list().models;
    let get = |name: &str| models.iter().find(|model| model.name == name && model.problem.is_none()).unwrap();
    assert_eq!(get("plain").architecture.as_deref(), Some("llama"));
    assert_eq!(get("plain").quantization.as_deref(), Some("Q4_K_M"));
    assert_eq!((get("plain").bytes, get("plain").parameters), (bytes.len() as u64, Some(256)));
    assert_eq!(get("split").parameters, Some(768));
    assert_eq!(get("p").kind, ModelKind::Alias { of: "plain".into() });
    assert_eq!((get("p").bytes, &get("p").path), (get("plain").bytes, &get("plain").path));
    assert_eq!(get("llama:1b").path.as_deref(), Some(blob.as_path()));
    assert_eq!(get("llama:1b").sha256.as_deref(), Some(sha256(&model_bytes(1, 1)).as_str()));
    assert_eq!(get("default").path, None);
    // The catalogue has what can be used, each name once.
    let catalog: Vec<String> = store.list_usable();
    assert_eq!(catalog, ["ada/own:latest", "default", "llama:1b", "org/model", "other", "p", "plain", "split"]);
    for name in catalog {
        store.find(&name).unwrap();
    }
}

/// The catalogue's names.
trait Usable {
    fn list_usable(&self) -> Vec<String>;
}

impl Usable for ModelStore {
    fn list_usable(&self) -> Vec<String> {
        hublabio_runtime::node::ModelCatalog::list(self).unwrap().into_iter().map(|model| model.name).collect()
    }
}

#[test]
fn a_store_without_folders_has_the_built_in_model() {
    let store = ModelStore::open(StoreConfig::default());
    check_listed(&store, &[("default", "built in", "")]);
    assert!(matches!(store.find("default").unwrap().source, ModelSource::Builtin(_)));
    check_refused(store.find("x"), &["no model `x`", "`default`"]);
    check_refused(store.add_alias("default", "d"), &["HUBLAB_MODELS"]);
    check_refused(store.remove("x"), &["no model `x`"]);
    let folder = Folder::new("absent");
    let absent = StoreConfig { folder: Some(folder.0.join("no/such")), ..StoreConfig::default() };
    let store = ModelStore::open(absent);
    check_listed(&store, &[("default", "built in", "")]);
    assert!(store.list().notices.is_empty());
    // It is made when something is to be kept.
    store.add_alias("default", "d").unwrap();
    assert_eq!(store.find("d").unwrap().name, "default");
}

#[test]
fn names_are_exact_and_errors_name_the_nearest() {
    let folder = Folder::new("names");
    let path = folder.write("models/Qwen2.5-0.5B.gguf", &model_bytes(1, 0));
    let store = folder.store();
    let found = store.find("Qwen2.5-0.5B").unwrap();
    assert_eq!((found.name.as_str(), found.source), ("Qwen2.5-0.5B", ModelSource::File(path)));
    assert!(found.modified.unwrap() <= SystemTime::now());
    check_refused(store.find("qwen2.5-0.5b"), &["there are `Qwen2.5-0.5B`, `default`"]);
    check_refused(store.find("qwen"), &["there are `Qwen2.5-0.5B`"]);
    for (name, word) in
        [("", "empty"), ("../x", "lead out"), ("/etc/passwd", "path"), ("a\0", "control"), ("a//b", "in a row")]
    {
        check_refused(store.find(name), &["no name", word]);
    }
}

#[cfg(unix)]
#[test]
fn linked_files_are_models_and_linked_folders_are_not() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new("links");
    let file = folder.write("elsewhere/big.gguf", &model_bytes(1, 0));
    symlink(&file, folder.models().join("linked.gguf")).unwrap();
    symlink(folder.0.join("elsewhere"), folder.models().join("folder")).unwrap();
    symlink(folder.0.join("gone.gguf"), folder.models().join("gone.gguf")).unwrap();
    symlink(folder.models(), folder.models().join("loop")).unwrap();
    let store = folder.store();
    check_listed(&store, &[("default", "built in", ""), ("gone", "file", "cannot open"), ("linked", "file", "")]);
    store.find("linked").unwrap();
    for name in ["folder/big", "gone", "loop/linked"] {
        check_refused(store.find(name), &["no model"]);
    }
    // The link goes, the file stays.
    store.remove("linked").unwrap();
    assert!(file.exists());
    store.remove("gone").unwrap();
    check_listed(&store, &[("default", "built in", "")]);
}

#[test]
fn a_path_means_the_model_that_is_called_like_the_file() {
    let folder = Folder::new("paths");
    folder.write("models/qwen.gguf", &model_bytes(1, 0));
    folder.write("models/org/phi.gguf", &model_bytes(1, 0));
    folder.write("outside.gguf", &model_bytes(1, 0));
    folder.ollama("registry.ollama.ai/library/llama/latest", &model_bytes(1, 1));
    let store = folder.store();
    store.add_alias("org/phi", "phi-alias").unwrap();
    let own = folder.models().join("org/phi.gguf");
    for (path, name) in [
        ("/models/qwen.gguf", "qwen"),
        ("/models/qwen", "qwen"),
        ("/models/qwen.GGUF", "qwen"),
        ("models/qwen.gguf", "qwen"),
        ("qwen", "qwen"),
        ("/x/../qwen.gguf", "qwen"),
        ("C:\\models\\qwen.gguf", "qwen"),
        ("/models/phi-alias.gguf", "org/phi"),
        ("/models/llama.gguf", "llama:latest"),
        ("/models/default.gguf", "default"),
        ("/models/qwen-00001-of-00002.gguf", "qwen"),
        (own.to_str().unwrap(), "org/phi"),
    ] {
        assert_eq!(store.find_for_path(path).unwrap().name, name, "{path}");
    }
    let outside = folder.0.join("outside.gguf");
    for path in
        [outside.to_str().unwrap(), "/models/phi.gguf", "/etc/passwd", "/", "", "/models/..", "/\0", "/models/.gguf"]
    {
        check_refused(store.find_for_path(path), &["outside the store"]);
    }
}

#[test]
fn aliases_copy_nothing_and_go_with_their_model() {
    let folder = Folder::new("aliases");
    let path = folder.write("models/a.gguf", &model_bytes(1, 0));
    folder.ollama("registry.ollama.ai/library/llama/latest", &model_bytes(1, 1));
    let store = folder.store();
    store.add_alias("a", "b").unwrap();
    store.add_alias("b", "org/c").unwrap();
    store.add_alias("llama", "l").unwrap();
    assert_eq!(folder.files(), ["a.gguf"]);
    assert_eq!(store.find("org/c").unwrap().name, "a");
    assert_eq!(store.find("l").unwrap().name, "llama:latest");
    for (from, to, words) in [
        ("none", "x", &["no model `none`"][..]),
        ("a", "b", &["already", "alias of `a`"]),
        ("a", "a", &["already", "a.gguf"]),
        ("a", "default", &["already", "built-in"]),
        ("a", "llama", &["already", "Ollama"]),
        ("a", "../x", &["no name"]),
        ("a", "x/", &["no name"]),
    ] {
        check_refused(store.add_alias(from, to), words);
    }
    // An alias alone, then the model with what is left.
    assert_eq!(store.remove("b").unwrap(), Removed { aliases: vec!["b".into()], ..Removed::default() });
    let removed = store.remove("a").unwrap();
    assert_eq!((removed.files, removed.aliases), (vec![path], vec!["org/c".to_owned()]));
    assert_eq!(folder.files(), [""; 0]);
    // One that leads nowhere because a file was deleted by hand.
    folder.write("models/d.gguf", &model_bytes(1, 0));
    store.add_alias("d", "e").unwrap();
    fs::remove_file(folder.models().join("d.gguf")).unwrap();
    check_refused(store.find("e"), &["alias `e`", "no model `d` any more", "hublab rm e"]);
    check_listed(
        &store,
        &[
            ("default", "built in", ""),
            ("e", "alias", "no model `d` any more"),
            ("l", "alias", ""),
            ("llama:latest", "ollama", ""),
        ],
    );
    store.remove("e").unwrap();
}

#[test]
fn what_is_not_the_stores_is_not_removed() {
    let folder = Folder::new("remove");
    folder.write("models/org/a-00001-of-00002.gguf", &part_bytes(1, 0, Some((0, 2))));
    folder.write("models/org/a-00002-of-00002.gguf", &part_bytes(1, 0, Some((1, 2))));
    folder.write("models/half-00002-of-00003.gguf", &part_bytes(1, 0, Some((1, 3))));
    folder.write("models/begun.gguf.part", b"GGUF");
    folder.write("models/begun.gguf.part.json", b"{}");
    let shared = folder.write("more/shared.gguf", &model_bytes(1, 0));
    let blob = folder.ollama("registry.ollama.ai/library/llama/latest", &model_bytes(1, 1));
    let store = folder.store();
    check_refused(store.remove("shared"), &["only read", "shared.gguf"]);
    check_refused(store.remove("llama"), &["Ollama", "ollama rm"]);
    check_refused(store.remove("llama:latest"), &["Ollama"]);
    check_refused(store.remove("default"), &["built into"]);
    check_refused(store.remove("../more/shared"), &["no name"]);
    check_refused(store.remove("a"), &["no model `a`", "`org/a`"]);
    assert!(shared.exists() && blob.exists());
    assert_eq!(store.remove("org/a").unwrap().files.len(), 2);
    assert!(!folder.models().join("org").exists(), "the owner's folder is empty");
    store.remove("half").unwrap();
    assert_eq!(store.remove("begun").unwrap().files.len(), 2);
    assert_eq!(folder.files(), [""; 0]);
}

#[test]
fn records_that_cannot_be_read_break_nothing_else() {
    let folder = Folder::new("records");
    folder.write("models/a.gguf", &model_bytes(1, 0));
    let path = folder.write("models/.hublab-store.json", b"{\"aliases\":{\"x\":1}}");
    let store = folder.store();
    check_listed(&store, &[("a", "file", ""), ("default", "built in", "")]);
    assert!(store.list().notices[0].contains(path.to_str().unwrap()));
    assert_eq!(store.find("default").unwrap().name, "default");
    check_refused(store.add_alias("a", "b"), &["hublab-store.json", "mend it"]);
    // Nor do aliases lead out of the folder, whoever wrote them.
    folder.write("models/.hublab-store.json", br#"{"aliases":{"x":"../../outside","../y":"a","z":"z"}}"#);
    folder.write("outside.gguf", &model_bytes(1, 0));
    check_listed(
        &store,
        &[
            ("../y", "alias", "no name"),
            ("a", "file", ""),
            ("default", "built in", ""),
            ("x", "alias", "no name"),
            ("z", "alias", "no model `z`"),
        ],
    );
    check_refused(store.find("x"), &["any more"]);
}

#[cfg(unix)]
#[test]
fn named_pipes_do_not_stop_anybody() {
    let folder = Folder::new("pipes");
    folder.write("models/a.gguf", &model_bytes(1, 0));
    folder.write("ollama/manifests/registry.ollama.ai/library/m/ok", b"{}");
    for pipe in [
        "models/.hublab-store.json",
        "models/b.gguf",
        "models/c.gguf.part.json",
        "ollama/manifests/registry.ollama.ai/library/m/latest",
    ] {
        let made = std::process::Command::new("mkfifo").arg(folder.0.join(pipe)).status();
        assert!(made.is_ok_and(|status| status.success()), "{pipe}");
    }
    folder.write("models/c.gguf.part", b"GGUF");
    // In a thread, so that waiting for ever is a failure.
    let (store, (done, waits)) = (folder.store(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let found = (store.list().models.len(), store.find("m").is_err(), store.find("b").is_err());
        done.send(found)
    });
    let found = waits.recv_timeout(std::time::Duration::from_secs(60)).expect("nobody writes into a pipe");
    assert_eq!(found, (6, true, true));
}

#[test]
fn aliases_of_many_processes_are_all_kept() {
    let folder = Folder::new("many");
    folder.write("models/a.gguf", &model_bytes(1, 0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let folder = &folder;
            // A lock on a file counts between two openings in one process as it does between processes.
            scope.spawn(move || {
                let store = folder.store();
                (0..8).for_each(|i| store.add_alias("a", &format!("alias-{thread}-{i}")).unwrap());
            });
        }
    });
    let aliases =
        folder.store().list().models.into_iter().filter(|model| matches!(model.kind, ModelKind::Alias { .. }));
    assert_eq!(aliases.filter(|alias| alias.problem.is_none()).count(), 32);
}

#[test]
fn a_changed_file_is_read_again() {
    let folder = Folder::new("changed");
    folder.write("models/a.gguf", &model_bytes(1, 0));
    let store = folder.store();
    assert_eq!(store.list().models[0].parameters, Some(256));
    folder.write("models/a.gguf", &model_bytes(2, 0));
    assert_eq!(store.list().models[0].parameters, Some(512));
}

#[test]
fn the_environment_names_the_folders() {
    let check = |variables: &[(&str, &str)], folders: &[&str], ollama: &str| {
        let config = StoreConfig::from_environment(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into())
        });
        let all: Vec<&Path> = config.folder.iter().chain(&config.more_folders).map(AsRef::as_ref).collect();
        assert_eq!(all, folders.iter().map(Path::new).collect::<Vec<_>>(), "{variables:?}");
        assert_eq!(config.ollama.first().map(AsRef::as_ref), (!ollama.is_empty()).then(|| Path::new(ollama)));
    };
    check(&[("HOME", "/h"), ("OLLAMA_MODELS", "/o")], &["/h/.local/share/hublab/models"], "/o");
    check(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d")], &["/d/hublab/models"], "/h/.ollama/models");
    check(&[("HOME", "/h"), ("XDG_DATA_HOME", "d")], &["/h/.local/share/hublab/models"], "/h/.ollama/models");
    check(&[("HOME", "/h"), ("HUBLAB_MODELS", "")], &["/h/.local/share/hublab/models"], "/h/.ollama/models");
    #[cfg(unix)]
    check(&[("HOME", "/h"), ("HUBLAB_MODELS", "/a:/b")], &["/a", "/b"], "/h/.ollama/models");
    let relative = StoreConfig::from_environment(|name| (name == "HUBLAB_MODELS").then(|| "here".into()));
    assert!(relative.folder.unwrap().is_absolute());
    let nothing = StoreConfig::from_environment(|_| None);
    assert_eq!(nothing.folder, None);
}
