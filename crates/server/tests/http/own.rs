//! The service's own endpoints.

use serde_json::json;

use crate::client::{Service, question};
use crate::tiny::Tiny;

#[test]
fn the_service_says_how_it_is() {
    let service = Service::start();
    assert_eq!(service.get("/health").ok()["status"], "ok");
    assert_eq!(service.get("/ready").ok()["status"], "ready");
    service.chat(&question("What does tar do?")).ok();
    service.get("/v1/nothing");
    let metrics = service.get("/metrics");
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let text = metrics.text();
    for line in [
        "hublab_http_requests_total{route=\"/v1/chat/completions\",method=\"POST\",status=\"200\"} 1",
        "hublab_http_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1",
        "hublab_first_token_seconds_count 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
}

#[test]
fn models_are_listed_loaded_and_freed_by_name() {
    let service = Service::of("load", &[("tiny", &Tiny::new())]);
    let list = service.get("/v1/models").ok();
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "tiny", "swarm"]);
    let one = service.get("/v1/models/tiny").ok();
    assert_eq!((&one["object"], &one["hublab"]["kind"]), (&json!("model"), &json!("model")));
    assert_eq!(one["hublab"]["context_tokens"], 4096);
    assert_eq!(service.get("/v1/models/swarm").ok()["hublab"]["kind"], "swarm");
    let load = |body| service.post("/api/load", &body);
    assert_eq!(load(json!({ "model": "tiny" })).ok()["model"], "tiny");
    assert_eq!(load(json!({ "model": "/models/tiny.gguf", "keep_alive": "5m" })).ok()["model"], "tiny");
    for outside in ["../tiny.gguf", "/models/../tiny.gguf", "models/tiny.gguf", "/models/tiny", "..\\tiny"] {
        let error = load(json!({ "model": outside })).error(400);
        assert_eq!(error["code"], "invalid_model_name", "{outside}");
    }
    load(json!({ "model": "/models/nothing.gguf" })).error(404);
    load(json!({ "model": "tiny", "keep_alive": "soon" })).error(400);
    load(json!({ "model": "tiny", "force": true })).error(400);
    load(json!({})).error(400);
    assert_eq!(service.post("/api/unload", &json!({ "model": "tiny" })).ok()["was_loaded"], true);
    service.post("/api/unload", &json!({ "model": "nothing" })).error(404);
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let service = Service::start();
    let text = "Tar, 3 × 4 — ok?";
    let ids = service.post("/api/tokenize", &json!({ "model": "default", "text": text })).ok()["ids"].clone();
    assert!(ids.as_array().is_some_and(|ids| ids.len() > 3));
    assert_eq!(service.post("/api/detokenize", &json!({ "ids": ids })).ok()["text"], text);
    service.post("/api/tokenize", &json!({ "model": "default" })).error(400);
    assert_eq!(service.post("/api/detokenize", &json!({ "ids": [99999999] })).error(400)["param"], "ids");
    assert_eq!(service.post("/api/detokenize", &json!({ "ids": ["a"] })).error(400)["param"], "ids");
    assert_eq!(service.post("/api/tokenize", &json!({ "model": "swarm", "text": "x" })).error(400)["param"], "model");
}
