//! Swarms as models.

use serde_json::{Value as Json, json};

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
    let running = service.get("/api/ps").ok();
    let swarm = running["models"].as_array().unwrap().iter().find(|model| model["name"] == "swarm");
    assert!(swarm.unwrap()["size"].as_u64().unwrap() > 0, "{running}");
    pinned["hublab"]["expert"] = "nobody".into();
    assert_eq!(service.chat(&pinned).error(400)["param"], "hublab.expert");
}

#[test]
fn what_a_swarm_counts_cuts_and_cannot_hold_is_told_as_for_a_single_model() {
    let service = Service::start();
    let mut body = json!({ "model": "swarm", "messages": [{ "role": "user", "content": "What does tar do?" }],
        "max_tokens": 2 });
    let cut = service.chat(&body).ok();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert!(cut["usage"]["prompt_tokens"].as_u64().unwrap() > 4, "{cut}");
    assert_eq!(cut["usage"]["completion_tokens"], 2);
    for (name, value) in [("answers_done_total", 1), ("generated_tokens_total", 2), ("running", 0), ("waiting", 0)] {
        assert_eq!(service.metric(&format!("hublab_{name}")), value, "{name}");
    }
    assert!(service.metric("hublab_prompt_tokens_total") >= cut["usage"]["prompt_tokens"].as_u64().unwrap());
    body["messages"][0]["content"] = "What does tar do? ".repeat(200).into();
    let error = service.chat(&body).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert!(error["prompt_tokens"].as_u64() > error["context_tokens"].as_u64(), "{error}");
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

#[test]
fn a_completion_says_who_answered() {
    let service = Service::start();
    let experts = |answer: &Json| -> Vec<String> {
        let by = answer["hublab"]["answered_by"].as_array().unwrap();
        by.iter().map(|part| part["expert"].as_str().unwrap().to_owned()).collect()
    };
    let (python, rust) = ("How do I reverse a list in Python?", "What is a slice in Rust?");
    let body = json!({ "model": "swarm", "prompt": python, "max_tokens": 8 });
    assert_eq!(experts(service.stream("/v1/completions", &body).last().unwrap()), ["python"]);
    let body = json!({ "model": "swarm", "prompt": [python, rust], "max_tokens": 8 });
    for answer in
        [&service.post("/v1/completions", &body).ok(), service.stream("/v1/completions", &body).last().unwrap()]
    {
        let found = experts(answer);
        assert!(found.contains(&"python".to_owned()) && found.contains(&"rust".to_owned()), "{found:?}");
    }
}

#[test]
fn what_changes_nothing_for_a_swarm_is_noted_or_refused() {
    let service = Service::start();
    let body = json!({ "model": "swarm", "prompt": "What is a slice in Rust?", "stream": false,
        "options": { "num_ctx": 8192, "num_predict": 4 } });
    let notes = service.post("/api/generate", &body).ok()["hublab"]["notes"].to_string();
    assert!(notes.contains("options.num_ctx"), "{notes}");
    let body = json!({ "model": "swarm", "keep_alive": "5m" });
    assert_eq!(service.post("/api/load", &body).error(400)["param"], "keep_alive");
    let freed = service.post("/api/generate", &json!({ "model": "swarm", "keep_alive": 0 }));
    assert!(freed.status == 400 && freed.text().contains("keep_alive"), "{}", freed.text());
}
