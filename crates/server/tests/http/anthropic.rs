//! Anthropic's dialect: messages, streams, tools, counts, errors.
#![allow(clippy::needless_pass_by_value)] // `json!(…)` is read better than `&json!(…)`

use hublabio_runtime::node::NodeConfig;
use hublabio_server::{Limits, ServerConfig};
use serde_json::{Value as Json, json};

use crate::client::{Reply, Service, folder};
use crate::tiny::{CONTEXT, Tiny};

fn asked(more: Json) -> Json {
    let mut body = json!({ "model": "default", "max_tokens": 64, "messages": [{ "role": "user", "content": "What does tar do?" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn weather() -> Json {
    json!({ "name": "weather", "description": "Tells the weather", "input_schema": {
        "type": "object",
        "properties": { "city": { "type": "string", "maxLength": 8 }, "days": { "type": "integer", "minimum": 1, "maximum": 7 } },
        "required": ["city", "days"],
    } })
}

/// To the untrained model, which only calls what it must.
fn called(more: Json) -> Json {
    let mut body = asked(json!({ "model": "tiny", "max_tokens": 400, "temperature": 1, "top_p": 1, "top_k": 0,
        "tools": [weather(), { "name": "clock", "input_schema": { "type": "object", "properties": {} } }] }));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The events of a stream: names and what they say.
pub fn named_events(reply: &Reply) -> Vec<(String, Json)> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
        Some((name.to_owned(), serde_json::from_str(data).unwrap()))
    };
    reply.text().split("\n\n").filter_map(event).collect()
}

fn stream(service: &Service, mut body: Json) -> Vec<(String, Json)> {
    body["stream"] = true.into();
    let events = named_events(&service.post("/v1/messages", &body));
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    events
}

/// An error's message; its form is checked.
fn refused(reply: &Reply, status: u16, class: &str) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    let body = reply.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(class)), "{body}");
    assert_eq!(body["request_id"], reply.header("request-id"));
    assert!(reply.header("request-id").starts_with("req_"));
    body["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_conversation_is_answered_whole_and_in_events() {
    let service = Service::start();
    let reply = service
        .post("/v1/messages", &asked(json!({ "metadata": { "user_id": "x" }, "system": "", "service_tier": "auto" })));
    let whole = reply.ok();
    assert!(reply.header("request-id").starts_with("req_"));
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["model"]),
        (&json!("message"), &json!("assistant"), &json!("default"))
    );
    assert_eq!(whole["content"], json!([{ "type": "text", "text": "An archiving utility." }]));
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("end_turn"), &Json::Null));
    let usage = &whole["usage"];
    assert!(usage["output_tokens"].as_u64().unwrap() > 0 && usage["input_tokens"].as_u64().unwrap() > 0);

    let events = stream(&service, asked(json!({})));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..4], ["message_start", "content_block_start", "ping", "content_block_delta"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();
    assert_eq!(text, "An archiving utility.");
    assert_eq!(events[0].1["message"]["content"], json!([]));
    let last = &events[events.len() - 2].1;
    assert_eq!(
        (&last["delta"]["stop_reason"], &last["usage"]["output_tokens"]),
        (&json!("end_turn"), &usage["output_tokens"])
    );
}

#[test]
fn an_answer_says_why_it_ended() {
    let service = Service::start();
    let cut = service.post("/v1/messages", &asked(json!({ "max_tokens": 1 }))).ok();
    assert_eq!(cut["stop_reason"], "max_tokens");
    let stopped = service.post("/v1/messages", &asked(json!({ "stop_sequences": ["nothing", "utility"] }))).ok();
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!("utility")));
    assert_eq!(stopped["content"][0]["text"], "An archiving ");
    let events = stream(&service, asked(json!({ "stop_sequences": ["utility"] })));
    assert_eq!(
        events[events.len() - 2].1["delta"],
        json!({ "stop_reason": "stop_sequence", "stop_sequence": "utility" })
    );
}

#[test]
fn a_context_that_is_full_is_no_limit_of_tokens() {
    let service =
        Service::of("anthropic-full", &[("scripted", &Tiny::saying(&["one", "two", "three", "four", "five"]))]);
    let body = |text: String| json!({ "model": "scripted", "messages": [{ "role": "user", "content": text }] });
    let count =
        |text: &str| service.post("/v1/messages/count_tokens", &body(text.into())).ok()["input_tokens"].as_u64();
    let room = u64::from(CONTEXT) - count("").unwrap();
    for (left, reason) in [(3, "model_context_window_exceeded"), (30, "end_turn")] {
        let mut body = body("x".repeat((room - left) as usize));
        body["max_tokens"] = 100.into();
        body["temperature"] = 0.into();
        assert_eq!(service.post("/v1/messages", &body).ok()["stop_reason"], reason);
    }
}

#[test]
fn tools_that_must_be_called_are() {
    let service = Service::of("anthropic-tools", &[("tiny", &Tiny::new())]);
    for (choice, name) in [
        (json!({ "type": "any" }), None),
        (json!({ "type": "tool", "name": "weather" }), Some("weather")),
        (json!({ "type": "tool", "name": "clock", "disable_parallel_tool_use": true }), Some("clock")),
    ] {
        let body = called(json!({ "tool_choice": choice }));
        let whole = service.post("/v1/messages", &body).ok();
        assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
        let blocks = whole["content"].as_array().unwrap();
        assert_eq!(blocks.len(), 1, "{whole}");
        assert_eq!(blocks[0]["type"], "tool_use");
        assert!(name.is_none_or(|name| blocks[0]["name"] == name), "{whole}");
        if blocks[0]["name"] == "weather" {
            assert!((1..=7).contains(&blocks[0]["input"]["days"].as_i64().unwrap()));
        } else {
            assert_eq!(blocks[0]["input"], json!({}));
        }
    }
    // Chance aside, a stream gives the same call.
    let body = called(json!({ "tool_choice": { "type": "any" }, "temperature": 0 }));
    let whole = service.post("/v1/messages", &body).ok();
    let events = stream(&service, body);
    let begun = &events.iter().find(|(name, _)| name == "content_block_start").unwrap().1["content_block"];
    assert_eq!((&begun["type"], &begun["input"]), (&json!("tool_use"), &json!({})));
    assert_eq!(begun["name"], whole["content"][0]["name"]);
    let text: String = events.iter().filter_map(|(_, data)| data["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), whole["content"][0]["input"]);
    let cut = service.post("/v1/messages", &called(json!({ "tool_choice": { "type": "any" }, "max_tokens": 2 }))).ok();
    assert_eq!(cut["stop_reason"], "max_tokens");
    assert!(cut["content"].as_array().unwrap().iter().all(|block| block["type"] == "text"), "{cut}");
}

#[test]
fn a_call_comes_while_it_is_written() {
    let script = ["<tool_call>{\"name\": \"clock\", ", "\"arguments\": {\"a\": \"x", "y\"", "}}", "</tool_call>"];
    let service = Service::of("anthropic-growing", &[("scripted", &Tiny::saying(&script))]);
    let body = |max_tokens: u32| called(json!({ "model": "scripted", "temperature": 0, "max_tokens": max_tokens }));
    let pieces = |events: &[(String, Json)]| -> Vec<String> {
        let json = events.iter().filter_map(|(_, data)| data["delta"]["partial_json"].as_str().map(str::to_owned));
        json.collect()
    };
    let whole = service.post("/v1/messages", &body(100)).ok();
    assert_eq!((&whole["content"][0]["input"], &whole["stop_reason"]), (&json!({ "a": "xy" }), &json!("tool_use")));
    assert_eq!(pieces(&stream(&service, body(100))), ["{\"a\": \"x", "y\"", "}"]);
    let cut = service.post("/v1/messages", &body(3)).ok();
    assert_eq!((&cut["content"][0]["type"], &cut["stop_reason"]), (&json!("text"), &json!("max_tokens")));
    let events = stream(&service, body(3));
    assert_eq!(pieces(&events), ["{\"a\": \"x", "y\""]);
    let names: Vec<&str> = events.iter().rev().take(3).map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["message_stop", "message_delta", "content_block_stop"]);
    assert_eq!(events[events.len() - 2].1["delta"]["stop_reason"], "max_tokens");
}

#[test]
fn conversations_with_calls_and_forms_of_answers_are_taken() {
    let service = Service::of("anthropic-forms", &[("tiny", &Tiny::new())]);
    let body = called(
        json!({ "max_tokens": 4, "system": [{ "type": "text", "text": "a", "cache_control": { "type": "ephemeral" } }],
        "tool_choice": { "type": "none" },
        "messages": [
            { "role": "user", "content": [{ "type": "text", "text": "x" }] },
            { "role": "assistant", "content": [{ "type": "tool_use", "id": "toolu_1", "name": "clock", "input": {} }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "toolu_1", "content": "12:00" }] },
        ] }),
    );
    service.post("/v1/messages", &body).ok();
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 1, "maximum": 3 } },
        "required": ["n"], "additionalProperties": false });
    let body = asked(json!({ "output_config": { "format": { "type": "json_schema", "schema": schema } } }));
    let whole = service.post("/v1/messages", &body).ok();
    let answer: Json = serde_json::from_str(whole["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!((1..=3).contains(&answer["n"].as_i64().unwrap()));
    service.post("/v1/messages", &asked(json!({ "thinking": { "type": "disabled" } }))).ok();
}

#[test]
fn prompts_are_counted_without_an_answer() {
    let service = Service::start();
    let count = |body: &Json| service.post("/v1/messages/count_tokens", body).ok()["input_tokens"].as_u64().unwrap();
    let messages = json!([{ "role": "user", "content": "What does tar do?" }]);
    let plain = count(&json!({ "model": "default", "messages": messages }));
    let usage = service.post("/v1/messages", &asked(json!({}))).ok()["usage"].clone();
    assert_eq!(plain, usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap());
    assert!(count(&json!({ "model": "default", "messages": messages, "tools": [weather()] })) > plain);
    let swarm = service.post("/v1/messages/count_tokens", &json!({ "model": "swarm", "messages": messages }));
    assert!(refused(&swarm, 400, "invalid_request_error").contains("each expert"));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let service = Service::start();
    for (more, said) in [
        (json!({ "max_tokens": null }), "`max_tokens` is missing"),
        (json!({ "max_tokens": 0 }), "at least one token"),
        (json!({ "container": "x" }), "`container` is not supported"),
        (json!({ "messages": [] }), "`messages` is empty"),
        (json!({ "messages": [{ "role": "system", "content": "x" }] }), "`messages[0].role` is `system`"),
        (
            json!({ "messages": [{ "role": "user", "content": "x" }, { "role": "assistant", "content": "y" }] }),
            "cannot be begun",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image", "source": {} }] }] }),
            "images and documents",
        ),
        (
            json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }),
            "`tools[0].type` is `web_search_20250305`",
        ),
        (json!({ "tools": [{ "name": "f" }] }), "`tools[0].input_schema` is missing"),
        (json!({ "tool_choice": { "type": "any" } }), "no `tools`"),
        (json!({ "tool_choice": { "type": "all" } }), "`tool_choice.type` is `all`"),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } }), "does not support thinking"),
        (json!({ "thinking": { "type": "enabled" } }), "`thinking.budget_tokens` is missing"),
        (json!({ "stop_sequences": "x" }), "`stop_sequences` must be a list"),
        (json!({ "temperature": "x" }), "`temperature` must be a number"),
    ] {
        let message = refused(&service.post("/v1/messages", &asked(more)), 400, "invalid_request_error");
        assert!(message.contains(said), "{message}");
    }
    let message = refused(&service.post("/v1/messages", &asked(json!({ "model": "nobody" }))), 404, "not_found_error");
    assert!(message.contains("nobody"));
    let long = asked(json!({ "messages": [{ "role": "user", "content": "tar ".repeat(20_000) }] }));
    assert!(refused(&service.post("/v1/messages", &long), 400, "invalid_request_error").contains("tokens"));
    refused(&service.post("/v1/messages/batches", &json!({})), 404, "not_found_error");
}

#[test]
fn keys_sizes_and_queues_answer_in_their_own_form() {
    let test_folder = folder("anthropic-keys");
    let keys = test_folder.join("keys");
    std::fs::write(&keys, "ada 0123456789abcdef\n").unwrap();
    let limits = Limits { body_bytes: 10_000, ..Limits::default() };
    let config = ServerConfig { api_key_file: Some(keys), limits, ..ServerConfig::default() };
    let service = Service::with(config, NodeConfig::default(), &[]);
    refused(&service.post("/v1/messages", &asked(json!({}))), 401, "authentication_error");
    let body = asked(json!({})).to_string();
    let headers = "x-api-key: 0123456789abcdef\r\nanthropic-version: 2023-06-01\r\n";
    service.post_with("/v1/messages", headers, body.as_bytes()).ok();
    let large = asked(json!({ "messages": [{ "role": "user", "content": "x".repeat(20_000) }] })).to_string();
    refused(&service.post_with("/v1/messages", headers, large.as_bytes()), 413, "request_too_large");
    let full = Service::with(ServerConfig::default(), NodeConfig { queue_max: 1, ..NodeConfig::default() }, &[]);
    // Nothing waits yet, so this one is taken.
    full.post("/v1/messages", &asked(json!({}))).ok();
}

#[test]
fn models_are_listed_for_who_says_the_version() {
    let service = Service::start();
    let get = |path: &str| {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nanthropic-version: 2023-06-01\r\nConnection: close\r\n\r\n"
        );
        Reply::parse(&service.raw(head))
    };
    let list = get("/v1/models").ok();
    assert_eq!((&list["first_id"], &list["has_more"]), (&json!("default"), &json!(false)));
    assert_eq!(list["data"][0]["type"], "model");
    assert_eq!(list["data"][0]["created_at"], "1970-01-01T00:00:00.000000Z");
    let page = get("/v1/models?limit=1").ok();
    assert_eq!((&page["last_id"], &page["has_more"]), (&json!("default"), &json!(true)));
    assert_eq!(get("/v1/models/swarm").ok()["id"], "swarm");
    refused(&get("/v1/models/nobody"), 404, "not_found_error");
    refused(&get("/v1/models?limit=x"), 400, "invalid_request_error");
    assert_eq!(service.get("/v1/models").ok()["object"], "list");
}

#[test]
fn a_swarm_answers_and_says_who() {
    let service = Service::start();
    let body = asked(json!({ "model": "swarm", "hublab": { "session": 7 } }));
    let whole = service.post("/v1/messages", &body).ok();
    assert!(!whole["hublab"]["answered_by"].as_array().unwrap().is_empty(), "{whole}");
    let events = stream(&service, body);
    assert!(events[events.len() - 2].1["hublab"]["answered_by"].is_array());
}

#[test]
fn an_answer_that_fails_ends_with_an_error() {
    let service = Service::of("anthropic-poison", &[("bad", &Tiny::new().poisoned())]);
    refused(&service.post("/v1/messages", &asked(json!({ "model": "bad" }))), 500, "api_error");
    let events = stream(&service, asked(json!({ "model": "bad" })));
    let (name, data) = events.last().unwrap();
    assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("api_error")));
}
