//! `run`, `chat`, `ps` and `stop` with a service that runs.

use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::program::{Outcome, command, folder, hublab, hublab_with, wait};
use crate::serve::{end, started};

/// A service, ended with the test.
struct Service {
    child: Option<Child>,
    flag: String,
}

impl Service {
    fn start(arguments: &[&str]) -> Self {
        Self::start_at("http", arguments)
    }

    /// One with a data folder of its own: two services do not share one.
    fn start_at(scheme: &str, arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let data = folder(&format!("data-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let mut serve = command(&[&["serve", "--port", "0"], arguments].concat());
        let (child, address) = started(serve.env("XDG_DATA_HOME", data), scheme);
        Self { child: Some(child), flag: format!("--service={scheme}://{address}") }
    }

    fn ask(&self, arguments: &[&str], input: &str) -> Outcome {
        hublab_with(&[arguments, &[&self.flag]].concat(), input.as_bytes())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(&child);
            wait(child);
        }
    }
}

#[test]
fn a_service_answers_as_the_program_does() {
    let service = Service::start(&[]);
    let question = "What does tar do?";
    let (here, there) = (hublab(&["run", question]), service.ask(&["run", question, "--preset", "greedy"], ""));
    assert_eq!(there.code, 0, "{}", there.stderr);
    assert_eq!(there.text(), here.text());
    // A lone argument that is a model's name is one, and the prompt comes from standard input.
    let piped = service.ask(&["run", "default", "--preset", "greedy"], question);
    assert_eq!(piped.text(), here.text(), "{}", piped.stderr);
    let line = service.ask(&["run", "swarm", "How do I reverse a list in Python?", "--json", "--stats"], "").json();
    assert_eq!(line["answered_by"][0]["expert"], "python");
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":9}},"required":["n"],"additionalProperties":false}"#;
    let answer = service.ask(&["run", "Give a number.", "--json-schema", schema], "").json();
    assert!(answer["n"].is_u64(), "{answer}");
}

#[test]
fn a_conversation_with_a_service_remembers() {
    let service = Service::start(&[]);
    let lines = "What does tar do?\n/reset\nWhat does tar do?\n";
    let chat = service.ask(&["chat", "--preset", "greedy"], lines);
    assert_eq!(chat.code, 0, "{}", chat.stderr);
    assert_eq!(chat.text(), "An archiving utility.\nAn archiving utility.\n");
    let unknown = service.ask(&["chat", "no-such-model"], "hello\n");
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("the service has no model `no-such-model`"), "{}", unknown.stderr);
}

#[test]
fn models_are_listed_and_freed() {
    let service = Service::start(&[]);
    let nothing = service.ask(&["ps"], "");
    assert!(nothing.stderr.contains("no model is in memory"), "{}", nothing.stderr);
    assert_eq!(service.ask(&["stop", "default"], "").code, 1, "it is not in memory");
    service.ask(&["run", "Hello"], "");
    let listed = service.ask(&["ps", "--json"], "").json();
    assert_eq!(listed["models"][0]["name"], "default");
    let table = service.ask(&["ps"], "");
    assert!(table.text().starts_with("NAME") && table.text().contains("default"), "{}", table.text());
    let stopped = service.ask(&["stop", "default"], "");
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
}

#[test]
fn what_a_service_has_no_ear_for_is_refused() {
    // No service is asked: the flags are looked at first.
    for flags in [&["--threads", "2"][..], &["--ctx", "64"], &["--raw"], &["--kv", "f32"], &["--regex", "a+"]] {
        let refused = hublab(&[&["run", "Hello", "--service=http://127.0.0.1:9"], flags].concat());
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(
            refused.stderr.contains(flags[0]) && refused.stderr.contains("a service answers here"),
            "{}",
            refused.stderr
        );
    }
    let nobody = hublab(&["ps", "--service=http://127.0.0.1:9"]);
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("127.0.0.1:9") && nobody.stderr.contains("hublab serve"), "{}", nobody.stderr);
    for flags in [&["--ca-file", "x.pem"][..], &["--ca-file", "x.pem", "--service=http://127.0.0.1:9"]] {
        let refused = hublab(&[&["ps"], flags].concat());
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains("--ca-file is for a service at https://"), "{}", refused.stderr);
    }
    let nonsense = hublab(&["ps", "--service=ftp://x"]);
    assert_eq!(nonsense.code, 2, "{}", nonsense.stderr);
}

#[cfg(feature = "tls")]
#[test]
fn a_service_with_a_certificate_is_asked_by_https() {
    let fixture = |name: &str| format!("{}/../sdk/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key, authority) = (fixture("service.pem"), fixture("service.key"), fixture("authority.pem"));
    let service = Service::start_at("https", &["--tls-cert", &certificate, "--tls-key", &key]);
    let address = service.flag.strip_prefix("--service=").unwrap();
    let question = ["run", "What does tar do?", "--preset", "greedy"];
    let answer = service.ask(&[&question[..], &["--ca-file", &authority]].concat(), "");
    assert_eq!((answer.code, answer.text()), (0, "An archiving utility.\n"), "{}", answer.stderr);
    let stranger = service.ask(&[&question[..], &["--ca-file", &fixture("stranger.pem")]].concat(), "");
    assert_eq!(stranger.code, 1);
    assert!(stranger.stderr.contains("UnknownIssuer"), "{}", stranger.stderr);
    // The same from the environment.
    let mut named = command(&["ps", "--json"]);
    named.env("HUBLAB_HOST", address).env("HUBLAB_CA_FILE", &authority);
    let listed = wait(named.spawn().unwrap());
    assert_eq!(listed.code, 0, "{}", listed.stderr);
}

#[test]
fn all_that_a_service_can_do_about_sampling_reaches_it() {
    let service = Service::start(&[]);
    let ask = |flags: &[&str]| service.ask(&[&["run", "What does tar do?", "--json", "-n", "3"], flags].concat(), "");
    let line = ask(&["--preset", "greedy", "--logprobs", "2"]).json();
    let tokens = line["logprobs"].as_array().unwrap();
    assert_eq!(tokens.len(), 3, "{line}");
    assert!(tokens.iter().all(|token| token["top"].as_array().unwrap().len() == 2 && token["logprob"].is_number()));
    assert!(ask(&["--preset", "greedy"]).json()["logprobs"].is_null());
    // Of the likeliest token alone there is one answer, whatever the temperature.
    let hot = ["--temp", "5", "--top-k", "1", "--samplers", "top_k,temperature", "--seed", "1"];
    assert_eq!(ask(&hot).json()["message"], line["message"]);
    assert_eq!(ask(&[&hot[..], &["--min-keep", "1"]].concat()).json()["message"], line["message"]);
    let kept = ask(&["--temp", "5", "--min-p", "1", "--min-keep", "50", "--seed", "3"]);
    assert_eq!(kept.code, 0, "{}", kept.stderr);
    let nothing = ask(&["--samplers", "top_k,temperature", "--min-p", "0.5"]);
    assert_eq!(nothing.code, 2, "a flag that would do nothing: {}", nothing.stderr);
}

#[test]
fn a_name_means_what_it_means_to_the_service() {
    let data = folder("remote-names");
    // As Ollama keeps what it has fetched.
    let models = data.join("ollama");
    let (manifests, blobs) = (models.join("manifests/registry.ollama.ai/library/small"), models.join("blobs"));
    std::fs::create_dir_all(&manifests).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/default.gguf");
    let bytes = std::fs::copy(built_in, blobs.join(format!("sha256-{}", "0".repeat(64)))).unwrap();
    let layer = json!({ "mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{}", "0".repeat(64)),
        "size": bytes });
    let manifest = json!({ "schemaVersion": 2, "config": {}, "layers": [layer] });
    std::fs::write(manifests.join("latest"), manifest.to_string()).unwrap();
    let mut serve = command(&["serve", "--port", "0"]);
    let (child, address) = started(serve.env("XDG_DATA_HOME", data).env("OLLAMA_MODELS", models), "http");
    let service = Service { child: Some(child), flag: format!("--service=http://{address}") };
    let question = "What does tar do?";
    let here = hublab(&["run", question]);
    for name in ["small", "small:latest"] {
        let run = service.ask(&["run", name, "--preset", "greedy"], question);
        assert_eq!(run.text(), here.text(), "{}", run.stderr);
        let chat = service.ask(&["chat", name, "--preset", "greedy"], &format!("{question}\n"));
        assert_eq!(chat.code, 0, "{}", chat.stderr);
    }
}
