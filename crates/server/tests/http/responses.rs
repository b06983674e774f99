//! `/v1/responses`: answers, events, and what is kept of them.
#![allow(clippy::needless_pass_by_value)] // `json!(…)` is read better than `&json!(…)`

use hublabio_runtime::node::NodeConfig;
use hublabio_server::{Limits, ServerConfig};
use serde_json::{Value as Json, json};

use crate::anthropic::named_events;
use crate::client::{Reply, Service, folder};
use crate::tiny::Tiny;

const PATH: &str = "/v1/responses";
const ANSWER: &str = "An archiving utility.";

fn asked(more: Json) -> Json {
    let mut body = json!({ "model": "default", "input": "What does tar do?" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn called(more: Json) -> Json {
    let mut body =
        asked(json!({ "model": "tiny", "temperature": 1, "top_k": 0, "seed": 3, "max_output_tokens": 400, "tools": [
        { "type": "function", "name": "clock", "parameters": { "type": "object", "properties": {
            "zone": { "type": "string", "maxLength": 4 } }, "required": ["zone"] } },
    ], "tool_choice": "required" }));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn delete(service: &Service, path: &str) -> Reply {
    Reply::parse(&service.raw(format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")))
}

fn stream(service: &Service, mut body: Json) -> Vec<(String, Json)> {
    body["stream"] = true.into();
    let events = named_events(&service.post(PATH, &body));
    for (at, (name, data)) in events.iter().enumerate() {
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(at)));
    }
    events
}

/// An answer without what differs each time.
fn lasting(mut response: Json) -> Json {
    for name in ["id", "created_at", "completed_at", "hublab", "usage"] {
        response.as_object_mut().unwrap().remove(name);
    }
    for item in response["output"].as_array_mut().unwrap() {
        for name in ["id", "call_id"] {
            item.as_object_mut().unwrap().remove(name);
        }
    }
    response
}

#[test]
fn a_question_is_answered_whole_and_in_events() {
    let service = Service::start();
    let whole = service.post(PATH, &asked(json!({ "metadata": { "a": "b" }, "user": "x" }))).ok();
    assert_eq!(
        (&whole["object"], &whole["status"], &whole["error"]),
        (&json!("response"), &json!("completed"), &Json::Null)
    );
    let message = &whole["output"][0];
    assert_eq!(
        (&message["type"], &message["role"], &message["status"]),
        (&json!("message"), &json!("assistant"), &json!("completed"))
    );
    assert_eq!(
        message["content"],
        json!([{ "type": "output_text", "text": ANSWER, "annotations": [], "logprobs": [] }])
    );
    assert_eq!(whole["metadata"], json!({ "a": "b" }));
    assert!(whole["usage"]["total_tokens"].as_u64().unwrap() > whole["usage"]["input_tokens"].as_u64().unwrap());

    let events = stream(&service, asked(json!({ "metadata": { "a": "b" } })));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    );
    let end =
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"];
    assert_eq!(names[names.len() - 4..], end);
    assert!(names[4..names.len() - 4].iter().all(|name| *name == "response.output_text.delta"));
    let text: String = events.iter().filter_map(|(_, data)| data["delta"].as_str()).collect();
    assert_eq!(text, ANSWER);
    assert_eq!(lasting(events.last().unwrap().1["response"].clone()), lasting(whole));
}

#[test]
fn an_answer_that_is_cut_is_incomplete() {
    let service = Service::start();
    let whole = service.post(PATH, &asked(json!({ "max_output_tokens": 1 }))).ok();
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    let events = stream(&service, asked(json!({ "max_output_tokens": 1 })));
    assert_eq!(events.last().unwrap().0, "response.incomplete");
}

#[test]
fn a_conversation_goes_on_from_what_is_kept() {
    let service = Service::start();
    let first = service.post(PATH, &asked(json!({}))).ok();
    let id = first["id"].as_str().unwrap();
    assert_eq!(service.get(&format!("{PATH}/{id}")).ok(), first);
    let second = service.post(PATH, &asked(json!({ "input": "And gzip?", "previous_response_id": id }))).ok();
    assert_eq!(second["previous_response_id"], id);
    // The prompt holds both questions and the first answer.
    let whole = asked(json!({ "store": false, "input": [
        { "role": "user", "content": "What does tar do?" },
        { "role": "assistant", "content": ANSWER },
        { "role": "user", "content": [{ "type": "input_text", "text": "And gzip?" }] },
    ] }));
    let whole = service.post(PATH, &whole).ok();
    assert_eq!(second["usage"]["input_tokens"], whole["usage"]["input_tokens"]);
    assert_eq!(second["output"][0]["content"], whole["output"][0]["content"]);
    let items = service.get(&format!("{PATH}/{}/input_items?order=asc", second["id"].as_str().unwrap())).ok();
    let texts: Vec<&str> =
        items["data"].as_array().unwrap().iter().map(|item| item["content"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["What does tar do?", ANSWER, "And gzip?"]);
    let page = service.get(&format!("{PATH}/{}/input_items?limit=1", second["id"].as_str().unwrap())).ok();
    assert_eq!((&page["has_more"], &page["data"][0]["content"][0]["text"]), (&json!(true), &json!("And gzip?")));
    // What is not stored cannot be gone on from, nor what is forgotten.
    for gone in [whole["id"].as_str().unwrap(), "resp_x"] {
        assert_eq!(service.get(&format!("{PATH}/{gone}")).error(404)["code"], "response_not_found");
        let error = service.post(PATH, &asked(json!({ "previous_response_id": gone }))).error(404);
        assert_eq!(error["param"], "previous_response_id");
    }
    assert_eq!(delete(&service, &format!("{PATH}/{id}")).ok()["deleted"], true);
    delete(&service, &format!("{PATH}/{id}")).error(404);
    service.get(&format!("{PATH}/{id}")).error(404);
    let error = service.get(&format!("{PATH}/{}?stream=true", second["id"].as_str().unwrap())).error(400);
    assert_eq!(error["param"], "stream");
}

#[test]
fn what_is_kept_is_bounded_and_its_owners() {
    let keys = folder("responses-keys").join("keys");
    std::fs::write(&keys, "ada 0123456789abcdef\nbob fedcba9876543210\n").unwrap();
    let limits = Limits { stored_responses: 2, ..Limits::default() };
    let config = ServerConfig { api_key_file: Some(keys), limits, ..ServerConfig::default() };
    let service = Service::with(config, NodeConfig::default(), &[]);
    let ask = |key: &str, body: &Json| {
        service.post_with(PATH, &format!("Authorization: Bearer {key}\r\n"), body.to_string().as_bytes())
    };
    let get = |key: &str, id: &str| {
        let head =
            format!("GET {PATH}/{id} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\nConnection: close\r\n\r\n");
        Reply::parse(&service.raw(head))
    };
    let (ada, bob) = ("0123456789abcdef", "fedcba9876543210");
    let ids: Vec<String> =
        (0..3).map(|_| ask(ada, &asked(json!({}))).ok()["id"].as_str().unwrap().to_owned()).collect();
    get(ada, &ids[0]).error(404);
    get(ada, &ids[2]).ok();
    get(bob, &ids[2]).error(404);
    ask(bob, &asked(json!({ "previous_response_id": ids[2] }))).error(404);
}

#[test]
fn what_is_kept_outlives_the_service() {
    let folder = folder("responses-kept");
    let start = |limits| {
        let config = ServerConfig { data_folder: Some(folder.clone()), limits, ..ServerConfig::default() };
        Service::with(config, NodeConfig::default(), &[])
    };
    let service = start(Limits::default());
    let first = service.post(PATH, &asked(json!({}))).ok();
    let second = service.post(PATH, &asked(json!({ "input": "And gzip?", "previous_response_id": first["id"] }))).ok();
    let unkept = service.post(PATH, &asked(json!({ "store": false }))).ok();
    let path = |response: &Json| format!("{PATH}/{}", response["id"].as_str().unwrap());
    assert_eq!(delete(&service, &path(&first)).ok()["deleted"], true);
    drop(service);

    let service = start(Limits { stored_responses: 2, ..Limits::default() });
    assert_eq!(service.get(&path(&second)).ok(), second);
    service.get(&path(&first)).error(404);
    service.get(&path(&unkept)).error(404);
    // It holds its conversation although the beginning was deleted.
    let third = service.post(PATH, &asked(json!({ "input": "And zip?", "previous_response_id": second["id"] }))).ok();
    let items = service.get(&format!("{}/input_items?order=asc", path(&third))).ok();
    let texts: Vec<_> = items["data"].as_array().unwrap().iter().map(|item| &item["content"][0]["text"]).collect();
    assert_eq!((texts.len(), texts[0], texts[4]), (5, &json!("What does tar do?"), &json!("And zip?")));
    // The oldest leaves first.
    service.post(PATH, &asked(json!({}))).ok();
    service.get(&path(&second)).error(404);
    service.get(&path(&third)).ok();
    drop(service);

    // What is too large to be kept says so.
    let service = start(Limits { stored_bytes: 10, ..Limits::default() });
    let large = service.post(PATH, &asked(json!({}))).ok();
    assert_eq!(large["store"], false);
    assert!(large["hublab"]["notes"][0].as_str().unwrap().contains("not kept"), "{large}");
    service.get(&path(&large)).error(404);
}

#[test]
fn tools_that_must_be_called_are() {
    let service = Service::of("responses-tools", &[("tiny", &Tiny::new())]);
    for choice in [json!("required"), json!({ "type": "function", "name": "clock" })] {
        let body = called(json!({ "tool_choice": choice }));
        let whole = service.post(PATH, &body).ok();
        let call = &whole["output"][0];
        assert_eq!(
            (&call["type"], &call["name"], &call["status"]),
            (&json!("function_call"), &json!("clock"), &json!("completed"))
        );
        let arguments: Json = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["zone"].as_str().unwrap().chars().count() <= 4);
        let events = stream(&service, body);
        let text: String = events.iter().filter_map(|(_, data)| data["delta"].as_str()).collect();
        assert_eq!(text, call["arguments"].as_str().unwrap());
        assert!(
            events
                .iter()
                .any(|(name, data)| name == "response.function_call_arguments.done" && data["arguments"] == text)
        );
        assert_eq!(lasting(events.last().unwrap().1["response"].clone()), lasting(whole.clone()));
        // The result goes on from the call that is kept.
        let next = json!({ "previous_response_id": whole["id"], "tool_choice": "none", "max_output_tokens": 3, "input": [
            { "type": "function_call_output", "call_id": call["call_id"], "output": "12:00" },
        ] });
        service.post(PATH, &called(next)).ok();
    }
}

#[test]
fn a_call_comes_while_it_is_written() {
    let script = ["<tool_call>{\"name\": \"clock\", ", "\"arguments\": {\"zone\": \"x", "y\"", "}}", "</tool_call>"];
    let service = Service::of("responses-growing", &[("scripted", &Tiny::saying(&script))]);
    let body = |max_tokens: u32| {
        called(json!({ "model": "scripted", "temperature": 0, "tool_choice": "auto", "max_output_tokens": max_tokens }))
    };
    let deltas = |events: &[(String, Json)]| -> Vec<String> {
        let of_calls = events.iter().filter(|(name, _)| name == "response.function_call_arguments.delta");
        of_calls.map(|(_, data)| data["delta"].as_str().unwrap().to_owned()).collect()
    };
    let whole = service.post(PATH, &body(100)).ok();
    let events = stream(&service, body(100));
    assert_eq!(deltas(&events), ["{\"zone\": \"x", "y\"", "}"]);
    assert_eq!(lasting(events.last().unwrap().1["response"].clone()), lasting(whole));
    // Cut, it is text where the answer is whole, and an item that is not complete in a stream.
    let cut = service.post(PATH, &body(3)).ok();
    assert_eq!((&cut["status"], &cut["output"][0]["type"]), (&json!("incomplete"), &json!("message")));
    let events = stream(&service, body(3));
    assert_eq!(deltas(&events), ["{\"zone\": \"x", "y\""]);
    let last = &events.last().unwrap().1["response"];
    assert_eq!(last["status"], "incomplete");
    let item = &last["output"][0];
    assert_eq!((&item["type"], &item["status"]), (&json!("function_call"), &json!("incomplete")));
    // Who goes on from it has not called.
    let next = json!({ "previous_response_id": last["id"], "input": "Go on.", "model": "scripted", "temperature": 0,
        "tool_choice": "auto", "max_output_tokens": 1 });
    service.post(PATH, &called(next)).ok();
}

#[test]
fn forms_and_log_probabilities_are_honoured() {
    let service = Service::start();
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 1, "maximum": 3 } },
        "required": ["n"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "name": "n", "schema": schema, "strict": true });
    let whole = service.post(PATH, &asked(json!({ "text": { "format": format } }))).ok();
    let answer: Json = serde_json::from_str(whole["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!((1..=3).contains(&answer["n"].as_i64().unwrap()));
    assert_eq!(whole["text"]["format"]["type"], "json_schema");
    let more = json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let whole = service.post(PATH, &asked(more.clone())).ok();
    let tokens = whole["output"][0]["content"][0]["logprobs"].as_array().unwrap();
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert!(text.contains("archiving"), "{text}");
    assert_eq!(tokens[0]["top_logprobs"].as_array().unwrap().len(), 2);
    let events = stream(&service, asked(more));
    assert_eq!(lasting(events.last().unwrap().1["response"].clone()), lasting(whole));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let service = Service::start();
    for (more, param) in [
        (json!({ "background": true }), "background"),
        (json!({ "truncation": "auto" }), "truncation"),
        (json!({ "include": ["reasoning.encrypted_content"] }), "include"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].name"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "reasoning": { "effort": "high" } }), "reasoning.effort"),
        (json!({ "reasoning": { "summary": "auto" } }), "reasoning.summary"),
        (json!({ "text": { "verbosity": "low" } }), "text.verbosity"),
        (json!({ "text": { "format": { "type": "xml" } } }), "text.format.type"),
        (json!({ "metadata": { "a": 1 } }), "metadata"),
        (json!({ "conversation": "x" }), "conversation"),
        (json!({ "prompt": { "id": "x" } }), "prompt"),
        (json!({ "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": 5 }), "input"),
        (json!({ "input": [5] }), "input[0]"),
        (json!({ "input": [{ "content": "a" }] }), "input[0].type"),
        (json!({ "input": [{ "type": "item_reference", "id": "x" }] }), "input[0].type"),
        (json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }), "input[0].content[0].type"),
    ] {
        let error = service.post(PATH, &asked(more)).error(400);
        assert_eq!(error["param"], param, "{error}");
    }
    service.post(PATH, &asked(json!({ "model": "nobody" }))).error(404);
    let said =
        json!({ "background": false, "truncation": "disabled", "reasoning": {}, "text": { "verbosity": "medium" } });
    service.post(PATH, &asked(said)).ok();
}

#[test]
fn an_answer_that_fails_says_so() {
    let service = Service::of("responses-poison", &[("bad", &Tiny::new().poisoned())]);
    service.post(PATH, &asked(json!({ "model": "bad" }))).error(500);
    let events = stream(&service, asked(json!({ "model": "bad" })));
    let (name, data) = events.last().unwrap();
    assert_eq!((name.as_str(), &data["response"]["status"]), ("response.failed", &json!("failed")));
    assert!(data["response"]["error"]["message"].is_string());
}

#[test]
fn a_swarm_answers_and_says_who() {
    let whole = Service::start().post(PATH, &asked(json!({ "model": "swarm" }))).ok();
    assert!(!whole["hublab"]["answered_by"].as_array().unwrap().is_empty(), "{whole}");
}
