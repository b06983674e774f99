//! Swarms as models.

use serde_json::json;

use crate::client::Service;

#[test]
fn a_swarm_answers_and_says_who_did() {
    let service = Service::start();
    let body = json!({ "model": "swarm", "messages": [{ "role": "user", "content": "How do I reverse a list in Python?" }],
        "max_tokens": 40 });
    let whole = service.chat(&body).ok();
    let who = &whole["hublab"]["answered_by"][0];
    assert_eq!(who["expert"], "python", "{whole}");
    assert!(who["weight"].as_f64().unwrap() > 0.0 && !who["why"].as_str().unwrap().is_empty());
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(!text.is_empty());
    assert_eq!(whole["model"], "swarm");
    let chunks = service.stream("/v1/chat/completions", &body);
    let streamed: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(streamed, text);
    assert_eq!(chunks.last().unwrap()["hublab"]["answered_by"][0]["expert"], "python");
    let mut pinned = body.clone();
    pinned["hublab"] = json!({ "expert": "rust", "session": 3 });
    assert_eq!(service.chat(&pinned).ok()["hublab"]["answered_by"][0]["expert"], "rust");
    pinned["hublab"]["expert"] = "nobody".into();
    assert_eq!(service.chat(&pinned).error(400)["param"], "hublab.expert");
}

#[test]
fn what_only_a_swarm_can_do_is_refused_for_a_single_model() {
    let service = Service::start();
    let messages = json!([{ "role": "user", "content": "x" }]);
    for (path, body) in [
        ("/v1/chat/completions", json!({ "messages": messages })),
        ("/v1/responses", json!({ "input": "x" })),
        ("/v1/messages", json!({ "messages": messages, "max_tokens": 4 })),
        ("/v1/messages/count_tokens", json!({ "messages": messages })),
        ("/api/chat", json!({ "messages": messages })),
        ("/api/generate", json!({ "prompt": "x" })),
    ] {
        for (wish, named) in [("expert", json!("python")), ("session", json!(3)), ("colour", json!("red"))] {
            let mut body = body.clone();
            body["model"] = "default".into();
            body["hublab"][wish] = named;
            let reply = service.post(path, &body);
            assert_eq!(reply.status, 400, "{path} {wish}: {}", reply.text());
            assert!(reply.text().contains(&format!("`hublab.{wish}`")), "{}", reply.text());
        }
        let mut body = body.clone();
        body["model"] = "default".into();
        body["hublab"] = json!({});
        assert_eq!(service.post(path, &body).status, 200, "{path}");
    }
}

#[test]
fn what_a_swarm_cannot_do_is_refused_by_name() {
    let service = Service::start();
    for (name, value) in [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("tools", json!([{ "type": "function", "function": { "name": "f" } }])),
        ("response_format", json!({ "type": "json_object" })),
        ("logit_bias", json!({ "1": 1 })),
        ("messages", json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }])),
        ("messages", json!([{ "role": "user", "content": " " }])),
    ] {
        let mut body = json!({ "model": "swarm", "messages": [{ "role": "user", "content": "x" }] });
        body[name] = value;
        assert_eq!(service.chat(&body).error(400)["param"], name);
    }
    let mut body = json!({ "model": "swarm:nothing", "messages": [{ "role": "user", "content": "x" }] });
    assert_eq!(service.chat(&body).error(404)["code"], "model_not_found");
    body["model"] = "swarm".into();
    assert_eq!(service.post("/api/load", &json!({ "model": "swarm" })).ok()["model"], "swarm");
}
