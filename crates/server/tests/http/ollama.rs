//! Ollama's dialect: questions, conversations, lines, models.
#![allow(clippy::needless_pass_by_value)] // `json!(…)` is read better than `&json!(…)`

use std::path::Path;
use std::sync::Arc;

use hublabio_runtime::node::{Node, NodeConfig};
use hublabio_runtime::store::pull::PullConfig;
use hublabio_runtime::store::{ModelStore, StoreConfig};
use hublabio_server::ServerConfig;
use serde_json::{Value as Json, json};

use crate::client::{Reply, Service, folder};
use crate::elsewhere;
use crate::tiny::Tiny;

const QUESTION: &str = "What does tar do?";
const ANSWER: &str = "An archiving utility.";

fn with(mut body: Json, more: &Json) -> Json {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn generate(more: Json) -> Json {
    with(json!({ "model": "default", "prompt": QUESTION, "stream": false }), &more)
}

fn chat(more: Json) -> Json {
    with(json!({ "model": "default", "messages": [{ "role": "user", "content": QUESTION }], "stream": false }), &more)
}

/// The lines of a streamed answer: each is one object and ends with a line break, the last one, too.
fn lines(reply: &Reply) -> Vec<Json> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let text = reply.text();
    let text = text.strip_suffix('\n').unwrap_or_else(|| panic!("the last line has no end: {text}"));
    let line = |line: &str| -> Json {
        let found: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(found.is_object(), "{line}");
        found
    };
    text.split('\n').map(line).collect()
}

/// Checks the lines of `/api/generate` or `/api/chat` one by one; `place` is where their text stands.
fn check_lines(found: &[Json], place: &str) {
    let (last, pieces) = found.split_last().unwrap();
    for line in found {
        assert_eq!(line["model"], found[0]["model"], "{line}");
        assert!(line["created_at"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(line.pointer(place).unwrap().is_string(), "{line}");
        assert!(place != "/message/content" || line["message"]["role"] == "assistant", "{line}");
    }
    for line in pieces {
        assert_eq!(line["done"], false, "{line}");
        for name in ["done_reason", "total_duration", "eval_count", "hublab"] {
            assert!(line.get(name).is_none(), "{line}");
        }
    }
    assert_eq!(last["done"], true, "{last}");
    assert!(
        last["done_reason"].is_string() && last["eval_count"].is_u64() && last["total_duration"].is_u64(),
        "{last}"
    );
}

fn refused(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    let body = reply.json();
    body["error"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}

fn joined(lines: &[Json], path: &str) -> String {
    lines.iter().filter_map(|line| line.pointer(path)?.as_str()).collect()
}

fn delete(service: &Service, body: &Json) -> Reply {
    let (body, head) = (body.to_string(), "DELETE /api/delete HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    Reply::parse(&service.raw(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())))
}

#[test]
fn a_question_is_answered_whole_and_in_lines() {
    let service = Service::start();
    let whole = service.post("/api/generate", &generate(json!({}))).ok();
    assert_eq!(
        (&whole["response"], &whole["done"], &whole["done_reason"]),
        (&json!(ANSWER), &json!(true), &json!("stop"))
    );
    for name in
        ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"]
    {
        assert!(whole[name].is_u64(), "{name}: {whole}");
    }
    assert!(whole["created_at"].as_str().unwrap().ends_with('Z'));
    // Lines are what comes where nothing is said.
    let found = lines(&service.post("/api/generate", &json!({ "model": "default:latest", "prompt": QUESTION })));
    assert_eq!(joined(&found, "/response"), ANSWER);
    check_lines(&found, "/response");
    assert_eq!(found.last().unwrap()["eval_count"], whole["eval_count"]);
    let raw = service.post("/api/generate", &generate(json!({ "raw": true, "options": { "num_predict": 3 } }))).ok();
    assert_eq!(raw["done_reason"], "length");
    assert_eq!(raw["eval_count"], 3);
    let stopped =
        service.post("/api/generate", &generate(json!({ "options": { "stop": ["utility"] }, "system": "" }))).ok();
    assert_eq!(stopped["response"], "An archiving ");
}

#[test]
fn a_conversation_is_answered_whole_and_in_lines() {
    let service = Service::start();
    let whole = service.post("/api/chat", &chat(json!({ "logprobs": true, "top_logprobs": 2 }))).ok();
    assert_eq!((&whole["message"]["role"], &whole["message"]["content"]), (&json!("assistant"), &json!(ANSWER)));
    assert_eq!(whole["logprobs"][0]["top_logprobs"].as_array().unwrap().len(), 2);
    let found = lines(&service.post("/api/chat", &chat(json!({ "stream": null, "think": false }))));
    assert_eq!(joined(&found, "/message/content"), ANSWER);
    check_lines(&found, "/message/content");
}

#[test]
fn forms_of_answers_are_enforced() {
    let service = Service::start();
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 1, "maximum": 3 } },
        "required": ["n"], "additionalProperties": false });
    for (path, body, place) in
        [("/api/generate", generate(json!({})), "/response"), ("/api/chat", chat(json!({})), "/message/content")]
    {
        let whole = service.post(path, &with(body.clone(), &json!({ "format": schema }))).ok();
        let answer: Json = serde_json::from_str(whole.pointer(place).unwrap().as_str().unwrap()).unwrap();
        assert!((1..=3).contains(&answer["n"].as_i64().unwrap()));
        let free = with(body, &json!({ "format": "json", "options": { "num_predict": 40 } }));
        let whole = service.post(path, &free).ok();
        assert!(whole.pointer(place).unwrap().as_str().unwrap().starts_with('{'), "{whole}");
    }
}

#[test]
fn calls_are_told_whole() {
    // A model that writes nothing but a call: its constraint lets it do nothing else.
    let service = Service::of("ollama-tools", &[("tiny", &Tiny::new())]);
    let tool = json!({ "type": "function", "function": { "name": "clock", "parameters": { "type": "object", "properties": {} } } });
    let schema = json!({ "type": "string", "maxLength": 2 });
    let body = chat(
        json!({ "model": "tiny", "tools": [tool], "format": schema, "options": { "temperature": 1.0, "top_k": 0, "num_predict": 200 } }),
    );
    let mut called = 0;
    for seed in 0..12 {
        let mut body = body.clone();
        body["options"]["seed"] = seed.into();
        let whole = service.post("/api/chat", &body).ok();
        body["stream"] = true.into();
        let found = lines(&service.post("/api/chat", &body));
        let calls: Vec<&Json> = found.iter().filter_map(|line| line["message"]["tool_calls"].get(0)).collect();
        if let Some(call) = whole["message"]["tool_calls"].get(0) {
            called += 1;
            assert_eq!((&call["function"]["name"], &call["function"]["arguments"]), (&json!("clock"), &json!({})));
            assert_eq!(calls.len(), 1);
            assert_eq!(calls[0]["function"], call["function"]);
        } else {
            assert!(calls.is_empty());
        }
    }
    assert!(called > 0, "no call in twelve tries");
    let conversation = json!([
        { "role": "user", "content": "x" },
        { "role": "assistant", "content": "", "tool_calls": [{ "function": { "name": "clock", "arguments": {} } }] },
        { "role": "tool", "content": "12:00", "tool_name": "clock" },
    ]);
    service.post("/api/chat", &with(body, &json!({ "messages": conversation }))).ok();
}

#[test]
fn a_request_without_a_question_loads_and_frees() {
    let service = Service::start();
    for (path, empty) in
        [("/api/generate", json!({ "model": "default" })), ("/api/chat", json!({ "model": "default", "messages": [] }))]
    {
        let loaded = service.post(path, &with(empty.clone(), &json!({ "keep_alive": "5m" }))).ok();
        assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")));
        let freed = service.post(path, &with(empty, &json!({ "keep_alive": 0 }))).ok();
        assert_eq!(freed["done_reason"], "unload");
    }
    for stay in [json!(0), json!(-1), json!("1h30m"), json!(300)] {
        service.post("/api/generate", &generate(json!({ "keep_alive": stay }))).ok();
    }
    assert!(
        refused(&service.post("/api/generate", &generate(json!({ "keep_alive": "soon" }))), 400).contains("keep_alive")
    );
}

#[test]
fn texts_become_vectors() {
    let service = Service::start();
    let found = service.post("/api/embed", &json!({ "model": "default", "input": ["a cat", "a dog"] })).ok();
    let vectors = found["embeddings"].as_array().unwrap();
    assert_eq!(vectors.len(), 2);
    let length: f64 = vectors[0].as_array().unwrap().iter().map(|n| n.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-3);
    let one = service.post("/api/embed", &json!({ "model": "default", "input": "a cat", "truncate": false })).ok();
    assert_eq!(one["embeddings"][0], vectors[0]);
    let older = service.post("/api/embeddings", &json!({ "model": "default", "prompt": "a cat" })).ok();
    assert_eq!(older["embedding"], vectors[0]);
    let long = "cat ".repeat(40_000);
    service.post("/api/embed", &json!({ "model": "default", "input": long })).ok();
    let whole = json!({ "model": "default", "input": long, "truncate": false });
    assert!(refused(&service.post("/api/embed", &whole), 400).contains("tokens"));
    assert_eq!(service.post("/api/embed", &json!({ "model": "default", "input": [] })).ok()["embeddings"], json!([]));
    assert!(refused(&service.post("/api/embed", &json!({ "model": "swarm", "input": "a" })), 400).contains("swarm"));
}

#[test]
fn models_are_listed_and_described() {
    let service = Service::of("ollama-models", &[("tiny", &Tiny::new())]);
    let tags = service.get("/api/tags").ok();
    let names: Vec<&str> =
        tags["models"].as_array().unwrap().iter().map(|tag| tag["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "tiny", "swarm"]);
    assert_eq!(tags["models"][1]["details"]["family"], "llama");
    let shown = service.post("/api/show", &json!({ "model": "tiny:latest" })).ok();
    assert_eq!(shown["model_info"]["general.architecture"], "llama");
    assert_eq!(shown["model_info"]["llama.context_length"], 4096);
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "embedding"]));
    assert!(shown["template"].as_str().unwrap().contains("messages"));
    assert_eq!(shown["model_info"].get("tokenizer.ggml.tokens"), None, "only where `verbose` asks for it");
    assert_eq!(shown.get("tensors"), None);
    assert_eq!(service.post("/api/show", &json!({ "name": "swarm" })).ok()["details"]["family"], "swarm");
    // As Ollama's own client asks.
    let asked = json!({ "model": "tiny", "system": "", "template": "", "verbose": false, "options": null, "name": "" });
    assert_eq!(service.post("/api/show", &asked).status, 200);
    let verbose = service.post("/api/show", &with(asked.clone(), &json!({ "verbose": true }))).ok();
    let tokens = verbose["model_info"]["tokenizer.ggml.tokens"].as_array().unwrap();
    assert!(tokens.len() > 256 && tokens.iter().all(serde_json::Value::is_string));
    assert_eq!(tokens.len(), verbose["model_info"]["tokenizer.ggml.token_type"].as_array().unwrap().len());
    let tensors = verbose["tensors"].as_array().unwrap();
    let embedding = tensors.iter().find(|tensor| tensor["name"] == "token_embd.weight").unwrap();
    assert_eq!(embedding["type"], "F32");
    assert_eq!(embedding["shape"][1], tokens.len());
    for (name, value) in [("system", json!("x")), ("template", json!("x")), ("options", json!({ "seed": 1 }))] {
        let reply = service.post("/api/show", &with(asked.clone(), &json!({ name: value })));
        assert!(refused(&reply, 400).contains(&format!("`{name}` is not supported")), "{}", reply.text());
    }
    assert!(service.get("/api/ps").ok()["models"].is_array());
    assert!(service.get("/api/version").ok()["version"].is_string());
    assert!(refused(&service.post("/api/show", &json!({ "model": "nobody" })), 404).contains("nobody"));
}

/// A service of a store with one model.
fn of_store(folder: &Path) -> Service {
    std::fs::write(folder.join("one.gguf"), Tiny::new().bytes()).unwrap();
    let store = ModelStore::open(StoreConfig { folder: Some(folder.to_owned()), ..StoreConfig::default() });
    let node = Node::start(Arc::new(store), NodeConfig::default()).unwrap();
    Service::of_node(ServerConfig::default(), node)
}

#[test]
fn models_get_names_and_go() {
    let folder = folder("ollama-store");
    let service = of_store(&folder);
    assert_eq!(service.post("/api/copy", &json!({ "source": "one:latest", "destination": "two" })).status, 200);
    assert_eq!(service.post("/api/show", &json!({ "model": "two" })).status, 200);
    assert!(
        refused(&service.post("/api/copy", &json!({ "source": "one", "destination": "two" })), 400).contains("two")
    );
    refused(&service.post("/api/copy", &json!({ "source": "nobody", "destination": "x" })), 404);
    refused(&service.post("/api/copy", &json!({ "source": "one", "destination": "../x" })), 400);
    assert_eq!(delete(&service, &json!({ "model": "two" })).status, 200);
    assert!(folder.join("one.gguf").exists());
    assert_eq!(delete(&service, &json!({ "model": "one:latest" })).status, 200);
    assert!(!folder.join("one.gguf").exists());
    refused(&delete(&service, &json!({ "model": "one" })), 404);
    refused(&delete(&service, &json!({ "model": "default" })), 403);
    refused(&delete(&service, &json!({ "model": "swarm" })), 403);
    // Where models are not of a store, none can be renamed.
    refused(&Service::start().post("/api/copy", &json!({ "source": "default", "destination": "x" })), 403);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let service = Service::start();
    for (more, said) in [
        (json!({ "suffix": "x" }), "`suffix`"),
        (json!({ "template": "x" }), "`template`"),
        (json!({ "context": [1] }), "`context`"),
        (json!({ "images": ["x"] }), "`images`"),
        (json!({ "raw": true, "system": "x" }), "`system` would be ignored"),
        (json!({ "format": "xml" }), "`format` must be"),
        (json!({ "think": true }), "does not support thinking"),
        (json!({ "think": "high" }), "`high`"),
        (json!({ "shift": true }), "`shift` can only be false"),
        (json!({ "options": { "num_ctx": 10_000_000 } }), "`options.num_ctx`"),
        (json!({ "options": { "rope_frequency_base": 1.0 } }), "`options.rope_frequency_base`"),
        (json!({ "top_logprobs": 2 }), "`top_logprobs` needs"),
        (json!({ "colour": "red" }), "`colour` is not supported"),
        (json!({ "model": "" }), "`model` is missing"),
    ] {
        let message = refused(&service.post("/api/generate", &generate(more)), 400);
        assert!(message.contains(said), "{message}");
    }
    assert!(
        refused(&service.post("/api/chat", &chat(json!({ "messages": [{ "role": "critic" }] }))), 400)
            .contains("critic")
    );
    let last = json!({ "messages": [{ "role": "user", "content": "x" }, { "role": "assistant", "content": "y" }] });
    assert!(refused(&service.post("/api/chat", &chat(last)), 400).contains("cannot be begun"));
    for path in ["/api/create", "/api/push", "/api/blobs/sha256:0"] {
        assert!(refused(&service.post(path, &json!({ "model": "x" })), 403).contains("not supported"), "{path}");
    }
    refused(&service.post("/api/generate", &generate(json!({ "model": "nobody" }))), 404);
}

#[test]
fn models_are_fetched_where_the_operator_allows_it() {
    let bytes = Tiny::new().bytes();
    let path = "/owner/repo/resolve/main/tiny.gguf";
    let elsewhere = elsewhere::Server::start(&[(path, vec![elsewhere::Reply::file(&bytes)])]);
    let folder = folder("ollama-pull");
    let store = ModelStore::open(StoreConfig { folder: Some(folder.clone()), ..StoreConfig::default() });
    let node = Node::start(Arc::new(store), NodeConfig::default()).unwrap();
    let pull = PullConfig {
        hf_endpoint: elsewhere.address.clone(),
        ollama_registry: elsewhere.address.clone(),
        environment_proxy: false,
        attempts: 1,
        ..PullConfig::default()
    };
    let service = Service::of_node(ServerConfig { pull: Some(pull), ..ServerConfig::default() }, node);
    let model = "hf://owner/repo/tiny.gguf";
    let lines = lines(&service.post("/api/pull", &json!({ "model": model })));
    assert!(lines[0]["status"].as_str().unwrap().starts_with("pulling"), "{lines:?}");
    let last = lines.last().unwrap();
    assert_eq!((&last["status"], &last["completed"]), (&json!("success"), &json!(bytes.len())));
    let name = service.get("/api/tags").ok()["models"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tag| tag["name"].as_str().unwrap().contains("tiny"))
        .unwrap()["name"]
        .clone();
    assert_eq!(service.post("/api/generate", &json!({ "model": name, "prompt": "abc", "stream": false })).status, 200);
    let again = service.post("/api/pull", &json!({ "model": model, "stream": false })).ok();
    assert_eq!(again["status"], "success");
    // What fails at once has a status; addresses, which could lead anywhere, are not taken from clients.
    refused(&service.post("/api/pull", &json!({ "model": "hf://owner/repo/none.gguf" })), 404);
    let address = format!("{}{path}", elsewhere.address);
    assert!(refused(&service.post("/api/pull", &json!({ "model": address })), 403).contains("hublab pull"));
}

#[test]
fn nothing_is_fetched_unless_the_operator_allows_it() {
    let service = Service::start();
    let message = refused(&service.post("/api/pull", &json!({ "model": "llama3", "stream": false })), 403);
    assert!(message.contains("hublab pull llama3"), "{message}");
    // As Ollama's own client asks.
    let asked = json!({ "model": "llama3", "username": "", "password": "", "name": "" });
    assert!(refused(&service.post("/api/pull", &asked), 403).contains("--allow-pull"));
    assert!(refused(&service.post("/api/pull", &with(asked, &json!({ "username": "x" }))), 400).contains("`username`"));
    assert!(
        refused(&service.post("/api/pull", &json!({ "model": "llama3", "insecure": true })), 400).contains("insecure")
    );
}

#[test]
fn an_answer_that_fails_ends_with_an_error() {
    let service = Service::of("ollama-poison", &[("bad", &Tiny::new().poisoned())]);
    refused(&service.post("/api/chat", &chat(json!({ "model": "bad" }))), 500);
    let found = lines(&service.post("/api/chat", &chat(json!({ "model": "bad", "stream": true }))));
    assert!(found.last().unwrap()["error"].is_string());
}

#[test]
fn a_swarm_answers_and_says_who() {
    let whole = Service::start().post("/api/chat", &chat(json!({ "model": "swarm:latest", "keep_alive": "5m" }))).ok();
    assert!(!whole["hublab"]["answered_by"].as_array().unwrap().is_empty(), "{whole}");
}

#[test]
fn a_path_into_the_store_means_its_model() {
    let folder = folder("ollama-paths");
    std::fs::create_dir(folder.join("org")).unwrap();
    std::fs::write(folder.join("org/phi.gguf"), Tiny::new().bytes()).unwrap();
    let service = of_store(&folder);
    let loaded = |path: &str| service.post("/api/load", &json!({ "model": path })).ok()["model"].clone();
    assert_eq!(loaded(folder.join("org/phi.gguf").to_str().unwrap()), "org/phi");
    assert_eq!(loaded("/models/one-00001-of-00002.gguf"), "one");
    assert_eq!(loaded("/models/one.GGUF"), "one");
    for missing in ["/models/phi.gguf", "/models/nobody-00001-of-00002.gguf"] {
        let error = service.post("/api/load", &json!({ "model": missing })).error(404);
        assert_eq!(error["code"], "model_not_found", "{missing}");
    }
}
