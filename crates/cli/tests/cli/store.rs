//! The store of models: `ls`, `cp`, `rm`, `pull`, and names where a MODEL is asked for.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Outcome, PATIENCE, command, folder, wait};
use crate::server::{Reply, Server};
use crate::tiny::Tiny;

/// A store of its own for each test.
struct Store(PathBuf);

impl Store {
    fn new(test: &str) -> Self {
        let path = folder("store").join(test);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the build folder can be written");
        Self(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("HUBLAB_MODELS", &self.0);
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        wait(self.command(arguments).spawn().expect("the program starts"))
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
        outcome
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], words: &[&str]) {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 1, "{arguments:?}: {}", outcome.stderr);
        for word in words {
            assert!(outcome.stderr.contains(word), "{arguments:?}: {word:?} is not in: {}", outcome.stderr);
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).expect("the build folder can be written");
    }
}

#[test]
fn names_are_models_wherever_one_is_asked_for() {
    let store = Store::new("names");
    store.write("tiny.gguf", &Tiny::new().bytes());
    store.succeeds(&["cp", "tiny", "short"]);
    for name in ["tiny", "short"] {
        assert!(store.succeeds(&["show", name]).text().contains("llama"));
        assert!(!store.succeeds(&["run", name, "Hello", "-n", "3"]).stdout.is_empty());
        store.succeeds(&["tokenize", name]);
    }
    let json = store.succeeds(&["show", "tiny", "--json"]).json();
    assert!(json["path"].as_str().unwrap().ends_with("tiny.gguf"));
    store.fails(&["show", "tiyn"], &["neither a file tiyn nor a model", "`tiny`"]);
    store.fails(&["show", "no/such.gguf"], &["there is no file no/such.gguf", "hublab ls"]);
    store.fails(&["show", "../tiny"], &["there is no file ../tiny", "lead out"]);
    store.fails(&["run", "tiyn", "Hello"], &["neither a model file tiyn", "quotes"]);
}

#[test]
fn every_verb_that_takes_a_model_takes_a_name() {
    let store = Store::new("everywhere");
    store.write("tiny.gguf", &Tiny::new().bytes());
    store.succeeds(&["cp", "tiny", "short"]);
    let beside = |name: &str| store.0.join("work").join(name).to_str().unwrap().to_owned();
    std::fs::create_dir_all(store.0.join("work")).unwrap();
    let (text, experts) = (beside("text.txt"), beside("experts"));
    std::fs::write(&text, "What does tar do? ".repeat(40)).unwrap();
    let (matrix, smaller) = (beside("imatrix.bin"), beside("smaller.bin"));
    for name in ["tiny", "short"] {
        store.succeeds(&["perplexity", name, &text, "--ctx", "64"]);
        store.succeeds(&["imatrix", name, &text, "-o", &matrix, "--force", "--ctx", "64"]);
        store.succeeds(&["quantize", name, &smaller, "Q8_0", "--force"]);
        store.succeeds(&["embed", name, "Hello"]);
        store.succeeds(&["swarm", "add", name, "--model", name, "--experts", &experts]);
        let report = store.succeeds(&["doctor", name, "--json"]).json();
        let models = report["models"].as_array().unwrap();
        assert!(models.iter().any(|model| model["name"] == "tiny"), "{report}");
        assert!(report["problems"].as_array().unwrap().is_empty(), "{report}");
    }
    let listed = store.succeeds(&["swarm", "ls", "--json", "--experts", &experts]).json();
    let expert = listed["experts"].as_array().unwrap().iter().find(|expert| expert["name"] == "short").unwrap();
    assert!(expert["model"].as_str().unwrap().ends_with("tiny.gguf"), "{expert}");
    // What is no model's name is told so, and a lone name of `imatrix` is no text.
    for verb in [
        &["swarm", "add", "x", "--model", "tinny", "--experts", &experts][..],
        &["swarm", "eval", "--text", &experts, "--generalist", "tinny", "--experts", &experts],
        &["imatrix", "tinny", &text, "-o", &smaller, "--force"],
        &["quantize", "tinny", &smaller, "Q8_0", "--force"],
    ] {
        store.fails(verb, &["tinny", "`tiny`"]);
    }
    let lone = store.run(&["imatrix", "tiny"]);
    assert!(lone.code == 2 && lone.stderr.contains("there is no text for tiny"), "{}", lone.stderr);
    let report = store.succeeds(&["doctor", "tinny", "--json"]).json();
    assert!(report["problems"][0]["problem"].as_str().unwrap().contains("tinny"), "{report}");
}

#[cfg(unix)]
#[test]
fn the_first_model_that_a_service_is_given_answers() {
    let store = Store::new("serve");
    store.write("tiny.gguf", &Tiny::new().bytes());
    let mut serve = store.command(&["serve", "--port", "0", "tiny"]);
    let (child, address) = crate::serve::started(serve.env("XDG_DATA_HOME", store.0.join("data")), "http");
    let asked = store.run(&["run", "Hello", "-n", "2", "--json", &format!("--service=http://{address}")]);
    crate::serve::end(&child);
    wait(child);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    assert_eq!(asked.json()["model"], "tiny");
    let none = store.run(&["serve", "--port", "0", "tinny"]);
    assert!(none.code == 1 && none.stderr.contains("`tiny`"), "{}", none.stderr);
}

#[test]
fn a_lone_word_is_a_model_only_if_there_is_one() {
    let store = Store::new("lone");
    store.write("tiny.gguf", &Tiny::new().bytes());
    // The model: then there is no prompt, as nothing stands on standard input.
    let outcome = store.run(&["run", "tiny"]);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("prompt is empty"), "{}", outcome.stderr);
    // No model: the prompt for the built-in one.
    let answer = store.succeeds(&["run", "What does tar do?"]);
    assert_eq!(answer.text(), "An archiving utility.\n");
    store.succeeds(&["run", "tinier", "-n", "1"]);
}

#[test]
fn models_are_listed_renamed_and_removed() {
    let store = Store::new("verbs");
    store.write("tiny.gguf", &Tiny::new().bytes());
    store.write("bad.gguf", b"no model");
    store.succeeds(&["cp", "tiny", "alias"]);
    let text = store.succeeds(&["ls"]);
    for word in ["NAME", "PROBLEM", "tiny", "alias of tiny", "not a GGUF", "built in", "llama F32", "just now"] {
        assert!(text.text().contains(word), "{word:?} is not in: {}", text.text());
    }
    let json = store.succeeds(&["ls", "--json"]).json();
    let names: Vec<&str> = json.as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["alias", "bad", "default", "tiny"]);
    assert_eq!((&json[0]["kind"], &json[0]["alias_of"]), (&"alias".into(), &"tiny".into()));
    assert!(json[1]["problem"].is_string() && json[3]["problem"].is_null());
    assert!(json[3]["bytes"].as_u64() > Some(1000) && json[3]["modified"].as_u64() > Some(1_600_000_000));
    store.fails(&["cp", "tiny", "bad"], &["already"]);
    store.fails(&["cp", "none", "x"], &["no model `none`"]);
    store.fails(&["rm", "default"], &["built into"]);
    store.fails(&["rm", "none"], &["no model `none`"]);
    let removed = store.succeeds(&["rm", "tiny", "bad"]).stderr;
    assert!(removed.contains("tiny.gguf is removed") && removed.contains("gone with it: alias"), "{removed}");
    assert_eq!(store.succeeds(&["ls", "--json"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn a_model_is_pulled_and_runs() {
    let store = Store::new("pull");
    let bytes = Tiny::new().bytes();
    let server = Server::start(&[("/o/r/resolve/main/tiny.gguf", vec![Reply::file(&bytes)])]);
    let pull = |arguments: &[&str]| {
        let mut all = vec!["pull", "hf://o/r/tiny.gguf"];
        all.extend(arguments);
        wait(store.command(&all).env("HUBLAB_HF_ENDPOINT", &server.address).spawn().expect("the program starts"))
    };
    let wrong = "0".repeat(64);
    let outcome = pull(&["--sha256", &wrong]);
    assert!(outcome.code == 1 && outcome.stderr.contains("SHA-256"), "{}", outcome.stderr);
    assert_eq!(store.succeeds(&["ls", "--json"]).json().as_array().unwrap().len(), 1);
    let report = pull(&["--json"]);
    assert_eq!(report.code, 0, "{}", report.stderr);
    let json = report.json();
    assert_eq!((&json["name"], &json["already_there"]), (&"tiny".into(), &false.into()));
    assert_eq!(json["bytes_fetched"].as_u64(), Some(bytes.len() as u64));
    // Where nobody watches, progress is plain lines.
    assert!(report.stderr.contains("Pulling `tiny`") && !report.stderr.contains('\r'), "{}", report.stderr);
    let again = pull(&[]);
    assert!(again.code == 0 && again.stderr.contains("there already"), "{}", again.stderr);
    store.succeeds(&["run", "tiny", "Hello", "-n", "2"]);
    store.fails(&["pull", "hf://o/r"], &["name the file"]);
    assert!(server.requests().iter().all(|request| request.path.ends_with("/tiny.gguf")));
}

#[test]
fn a_proxy_that_cannot_be_used_is_not_gone_around() {
    let store = Store::new("proxy");
    let server = Server::start(&[("/tiny.gguf", vec![Reply::file(&Tiny::new().bytes())])]);
    let url = format!("{}/tiny.gguf", server.address);
    for (variable, value) in
        [("ALL_PROXY", "socks5://127.0.0.1:9"), ("https_proxy", "nonsense://127.0.0.1:9"), ("HTTP_PROXY", "http://")]
    {
        let mut pull = store.command(&["pull", &url]);
        pull.env_remove("NO_PROXY").env_remove("no_proxy").env(variable, value);
        let outcome = wait(pull.spawn().expect("the program starts"));
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(variable), "{}", outcome.stderr);
    }
    assert!(server.requests().is_empty());
    // An empty variable names none.
    let mut plain = store.command(&["pull", &url]);
    plain.env("ALL_PROXY", "");
    assert_eq!(wait(plain.spawn().expect("the program starts")).code, 0);
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    let store = Store::new("kill");
    let bytes = Tiny::new().with("padding", &"x".repeat(4 << 20)).bytes();
    let slow = Reply { pause: Duration::from_millis(20), ..Reply::file(&bytes) };
    let server = Server::start(&[("/tiny.gguf", vec![slow, Reply::file(&bytes)])]);
    let url = format!("{}/tiny.gguf", server.address);
    let mut child = store.command(&["pull", &url]).stderr(Stdio::null()).spawn().expect("the program starts");
    let part = store.0.join("tiny.gguf.part");
    let start = Instant::now();
    while std::fs::metadata(&part).map_or(0, |part| part.len()) < 100_000 {
        assert!(start.elapsed() < PATIENCE, "nothing comes");
        std::thread::sleep(Duration::from_millis(2));
    }
    // SIGKILL: nothing is tidied up.
    child.kill().expect("the program can be killed");
    child.wait().expect("the program can be waited for");
    assert!(!store.0.join("tiny.gguf").exists());
    let there = std::fs::metadata(&part).unwrap().len();
    assert!(store.succeeds(&["ls"]).text().contains("goes on with it"));
    let report = store.succeeds(&["pull", &url, "--json"]);
    assert_eq!(report.json()["bytes_fetched"].as_u64(), Some(bytes.len() as u64 - there), "{}", report.stderr);
    assert_eq!(server.ranges(), [0, there]);
    assert!(std::fs::read(store.0.join("tiny.gguf")).unwrap() == bytes);
    assert!(!part.exists() && !store.0.join("tiny.gguf.part.json").exists());
    store.succeeds(&["run", "tiny", "Hello", "-n", "2"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_has_come() {
    use nix::sys::signal::{Signal, kill};
    let store = Store::new("ctrl-c");
    let bytes = Tiny::new().with("padding", &"x".repeat(1 << 20)).bytes();
    let stall = Reply { stall: Some((100_000, PATIENCE)), ..Reply::file(&bytes) };
    let server = Server::start(&[("/tiny.gguf", vec![stall])]);
    let child = store.command(&["pull", &format!("{}/tiny.gguf", server.address)]).spawn().expect("the program starts");
    let start = Instant::now();
    while std::fs::metadata(store.0.join("tiny.gguf.part")).map_or(0, |part| part.len()) < 100_000 {
        assert!(start.elapsed() < PATIENCE, "nothing comes");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("the signal can be sent");
    let outcome = wait(child);
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("what has come is kept"), "{}", outcome.stderr);
    assert!(store.0.join("tiny.gguf.part").exists());
}
