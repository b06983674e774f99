//! Tools: calls that are enforced, forms of answers, conversations with calls in them.

use serde_json::{Value as Json, json};

use crate::client::Service;
use crate::tiny::Tiny;

fn weather() -> Json {
    json!({ "type": "function", "function": { "name": "weather", "description": "Tells the weather", "parameters": {
        "type": "object",
        "properties": {
            "city": { "type": "string", "maxLength": 8 },
            "unit": { "type": "string", "enum": ["celsius", "fahrenheit"] },
            "days": { "type": "integer", "minimum": 1, "maximum": 7 },
        },
        "required": ["city", "unit", "days"],
    } } })
}

fn clock() -> Json {
    json!({ "type": "function", "function": { "name": "clock" } })
}

/// Takes what is written down in place.
#[allow(clippy::needless_pass_by_value)]
fn asked(more: Json) -> Json {
    let mut body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "temperature": 1, "top_p": 1,
        "top_k": 0, "max_tokens": 400 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What a model says that calls a tool of its own accord, a token each.
const CALLING: [&str; 9] = [
    "One moment.",
    "<tool_call>",
    "{\"name\": \"clock\"",
    ", \"arguments\": ",
    "{\"zone\"",
    ": \"Eur",
    "ope\"}",
    "}\n",
    "</tool_call>",
];

/// A question to a model that was told what to say.
fn free(more: &Json) -> Json {
    let body = json!({ "model": "scripted", "temperature": 0, "tools": [clock()] });
    let mut body = asked(body);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The pieces in which the arguments of a stream's calls come, the empty one of the beginning first.
fn pieces(chunks: &[Json]) -> Vec<String> {
    let calls = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten();
    calls.map(|call| call["function"]["arguments"].as_str().unwrap().to_owned()).collect()
}

/// Whether a call obeys the schema of its tool.
fn check_call(call: &Json) {
    assert_eq!(call["type"], "function");
    assert!(call["id"].as_str().is_some_and(|id| id.len() == 9), "{call}");
    let arguments: Json = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    let arguments = arguments.as_object().unwrap();
    match call["function"]["name"].as_str().unwrap() {
        "clock" => assert!(arguments.is_empty(), "{call}"),
        "weather" => {
            assert_eq!(arguments.len(), 3, "{call}");
            assert!(arguments["city"].as_str().unwrap().chars().count() <= 8);
            assert!(["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().unwrap()));
            assert!((1..=7).contains(&arguments["days"].as_i64().unwrap()));
        }
        other => panic!("there is no tool {other}"),
    }
}

/// The calls of a streamed answer, put together.
fn joined(chunks: &[Json]) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for chunk in chunks {
        for choice in chunk["choices"].as_array().unwrap() {
            for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let at = delta["index"].as_u64().unwrap() as usize;
                if let Some(name) = delta["function"]["name"].as_str() {
                    assert_eq!(at, calls.len());
                    assert!(delta["id"].is_string());
                    calls.push((name.to_owned(), String::new()));
                }
                calls[at].1.push_str(delta["function"]["arguments"].as_str().unwrap_or_default());
            }
        }
    }
    calls
}

#[test]
fn an_untrained_model_calls_as_the_schema_has_it_a_hundred_times_of_a_hundred() {
    let service = Service::of("required", &[("tiny", &Tiny::new())]);
    let mut names = Vec::new();
    for seed in 0..100 {
        let body = asked(json!({ "tools": [weather(), clock()], "tool_choice": "required", "seed": seed }));
        let whole = service.chat(&body).ok();
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "seed {seed}: {whole}");
        assert_eq!(choice["message"]["content"], Json::Null);
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        check_call(&calls[0]);
        let function = &calls[0]["function"];
        names.push(function["name"].as_str().unwrap().to_owned());
        if seed < 10 {
            let chunks = service.stream("/v1/chat/completions", &body);
            let text = |value: &Json| value.as_str().unwrap().to_owned();
            assert_eq!(joined(&chunks), [(text(&function["name"]), text(&function["arguments"]))]);
            assert!(function["name"] == "clock" || pieces(&chunks).len() > 4, "{chunks:?}");
            assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        }
    }
    assert!(names.contains(&"weather".to_owned()) && names.contains(&"clock".to_owned()));
}

#[test]
fn a_named_tool_is_the_one_that_is_called() {
    let service = Service::of("named", &[("tiny", &Tiny::new())]);
    for name in ["weather", "clock"] {
        for choice in
            [json!({ "type": "function", "function": { "name": name } }), json!({ "type": "function", "name": name })]
        {
            let body = asked(json!({ "tools": [weather(), clock()], "tool_choice": choice, "seed": 1 }));
            let whole = service.chat(&body).ok();
            let call = &whole["choices"][0]["message"]["tool_calls"][0];
            assert_eq!(call["function"]["name"], name);
            check_call(call);
        }
    }
    let choice = json!({ "type": "function", "function": { "name": "nobody" } });
    let error = service.chat(&asked(json!({ "tools": [clock()], "tool_choice": choice }))).error(400);
    assert_eq!(error["param"], "tool_choice");
}

#[test]
fn a_tool_without_parameters_is_called_without_arguments() {
    let service = Service::of("no-parameters", &[("tiny", &Tiny::new())]);
    let mut tool = clock();
    // The last is how clients in Go write it.
    for parameters in [json!(null), json!({ "properties": {} }), json!({ "type": "object", "properties": null })] {
        tool["function"]["parameters"] = parameters;
        let whole = service.chat(&asked(json!({ "tools": [tool], "tool_choice": "required", "seed": 1 }))).ok();
        assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{}", "{whole}");
    }
}

#[test]
fn several_calls_come_where_they_are_allowed() {
    let service = Service::of("parallel", &[("tiny", &Tiny::new())]);
    let mut most = 0;
    for seed in 0..20 {
        let body =
            asked(json!({ "tools": [clock()], "tool_choice": "required", "parallel_tool_calls": true, "seed": seed,
            "max_tokens": 900 }));
        let whole = service.chat(&body).ok();
        let calls = whole["choices"][0]["message"]["tool_calls"].as_array().unwrap().clone();
        assert!((1..=8).contains(&calls.len()), "{whole}");
        calls.iter().for_each(check_call);
        let streamed = joined(&service.stream("/v1/chat/completions", &body));
        assert_eq!(streamed.len(), calls.len());
        most = most.max(calls.len());
    }
    assert!(most > 1, "no answer had several calls");
}

#[test]
fn a_call_that_is_cut_is_told_as_cut() {
    let service = Service::of("cut", &[("tiny", &Tiny::new())]);
    for max_tokens in [1, 10, 30, 60] {
        let body =
            asked(json!({ "tools": [weather()], "tool_choice": "required", "seed": 1, "max_tokens": max_tokens }));
        let whole = service.chat(&body).ok();
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "length");
        assert!(choice["message"].get("tool_calls").is_none(), "{whole}");
        let chunks = service.stream("/v1/chat/completions", &body);
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
        // What was written of it came, and is no JSON.
        let begun = joined(&chunks);
        assert_eq!(begun.len(), usize::from(max_tokens > 40), "{chunks:?}");
        for (_, arguments) in begun {
            assert!(serde_json::from_str::<Json>(&arguments).is_err(), "{arguments}");
        }
    }
}

#[test]
fn a_call_comes_while_it_is_written() {
    let service = Service::of("growing", &[("scripted", &Tiny::saying(&CALLING))]);
    let whole = service.chat(&free(&json!({}))).ok();
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!("One moment."), &json!("tool_calls"))
    );
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(*function, json!({ "name": "clock", "arguments": "{\"zone\": \"Europe\"}" }));
    let chunks = service.stream("/v1/chat/completions", &free(&json!({})));
    assert_eq!(joined(&chunks), [("clock".to_owned(), "{\"zone\": \"Europe\"}".to_owned())]);
    assert_eq!(pieces(&chunks), ["", "{\"zone\"", ": \"Eur", "ope\"}"]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    // The same cut within the arguments.
    let cut = free(&json!({ "max_tokens": 6 }));
    let choice = service.chat(&cut).ok()["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], choice["message"].get("tool_calls")), (&json!("length"), None));
    let chunks = service.stream("/v1/chat/completions", &cut);
    assert_eq!(pieces(&chunks), ["", "{\"zone\"", ": \"Eur"]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_call_before_a_stop_string_is_one() {
    let service = Service::of("stopped-call", &[("scripted", &Tiny::saying(&CALLING))]);
    let choice = service.chat(&free(&json!({ "stop": "</tool_call>" }))).ok()["choices"][0].clone();
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("One moment."))
    );
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "clock");
    let choice = service.chat(&free(&json!({ "stop": "ope" }))).ok()["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], choice["message"].get("tool_calls")), (&json!("stop"), None));
}

#[test]
fn a_call_that_cannot_be_read_is_none() {
    let script = ["<tool_call>{\"name\": \"clock\", \"arguments\": {\"zone\": ", "True}}</tool_call>"];
    let service = Service::of("unreadable", &[("scripted", &Tiny::saying(&script))]);
    let whole = service.chat(&free(&json!({}))).ok();
    let choice = &whole["choices"][0];
    assert_eq!((&choice["finish_reason"], choice["message"].get("tool_calls")), (&json!("stop"), None));
    assert_eq!(choice["message"]["content"], script.concat());
    assert!(whole["hublab"]["notes"][0].as_str().unwrap().contains("cannot be read"), "{whole}");
    let chunks = service.stream("/v1/chat/completions", &free(&json!({})));
    assert_eq!(pieces(&chunks), ["", "{\"zone\": "]);
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["hublab"]["notes"], whole["hublab"]["notes"]);
}

#[test]
fn one_call_comes_where_one_is_allowed() {
    let script = [
        "<tool_call>{\"name\": \"clock\", \"arguments\": {\"n\": 1}}</tool_call>",
        "\n<tool_call>{\"name\": \"clock\", \"arguments\": {\"n\": 2}}</tool_call>",
    ];
    let service = Service::of("one-call", &[("scripted", &Tiny::saying(&script))]);
    for (parallel, expected) in [(json!(null), 2), (json!(true), 2), (json!(false), 1)] {
        let body = free(&json!({ "tool_choice": "auto", "parallel_tool_calls": parallel }));
        let whole = service.chat(&body).ok();
        let calls = whole["choices"][0]["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), expected, "{whole}");
        assert_eq!(whole["hublab"]["notes"].is_array(), expected == 1, "{whole}");
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
        let chunks = service.stream("/v1/chat/completions", &body);
        let arguments: Vec<_> = calls.iter().map(|call| call["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!(joined(&chunks).iter().map(|(_, arguments)| arguments).collect::<Vec<_>>(), arguments);
    }
}

#[test]
fn tools_that_must_not_be_called_are_not_there() {
    let service = Service::of("none", &[("tiny", &Tiny::new())]);
    let with =
        service.chat(&asked(json!({ "tools": [weather()], "tool_choice": "none", "seed": 3, "max_tokens": 9 }))).ok();
    let without = service.chat(&asked(json!({ "seed": 3, "max_tokens": 9 }))).ok();
    assert_eq!(with["choices"], without["choices"]);
    assert_eq!(with["usage"]["prompt_tokens"], without["usage"]["prompt_tokens"]);
    let offered = service.chat(&asked(json!({ "tools": [weather()], "seed": 3, "max_tokens": 9 }))).ok();
    assert!(offered["usage"]["prompt_tokens"].as_u64() > with["usage"]["prompt_tokens"].as_u64());
}

#[test]
fn json_is_what_was_asked_for() {
    let service = Service::of("json", &[("tiny", &Tiny::new())]);
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" }, "n": { "type": "integer", "minimum": 0,
        "maximum": 99 } }, "required": ["ok", "n"], "additionalProperties": false });
    for seed in 0..10 {
        let format =
            json!({ "type": "json_schema", "json_schema": { "name": "answer", "strict": true, "schema": schema } });
        let whole = service.chat(&asked(json!({ "response_format": format, "seed": seed }))).ok();
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        let answer: Json = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(answer["ok"].is_boolean() && (0..100).contains(&answer["n"].as_i64().unwrap()), "{answer}");
    }
    let format = json!({ "type": "json_object" });
    let whole = service.chat(&asked(json!({ "response_format": format, "seed": 1, "max_tokens": 3000 }))).ok();
    let choice = &whole["choices"][0];
    if choice["finish_reason"] == "stop" {
        let answer: Json = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(answer.is_object());
    }
    let grammar = service.chat(&asked(json!({ "grammar": "root ::= \"yes\" | \"no\"", "seed": 2 }))).ok();
    assert!(["yes", "no"].contains(&grammar["choices"][0]["message"]["content"].as_str().unwrap()));
    // Beside tools either will do.
    let format = json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
    let either = service.chat(&asked(json!({ "response_format": format, "tools": [clock()], "seed": 4 }))).ok();
    let message = &either["choices"][0]["message"];
    assert!(message["content"].is_string() != message["tool_calls"].is_array(), "{either}");
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let service = Service::of("refused", &[("tiny", &Tiny::new())]);
    let format = json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": { "type": "array", "uniqueItems": true } } });
    let error = service.chat(&asked(json!({ "response_format": format }))).error(400);
    assert!(error["message"].as_str().unwrap().contains("`uniqueItems` at #"), "{error}");
    service.chat(&asked(json!({ "grammar": "root ::= (" }))).error(400);
    let list = json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "array" } } });
    let error = service.chat(&asked(json!({ "tools": [list], "tool_choice": "required" }))).error(400);
    assert_eq!(error["param"], "tools[0].function.parameters");
    let twice = service.chat(&asked(json!({ "tools": [clock(), clock()], "tool_choice": "required" }))).error(400);
    assert!(twice["message"].as_str().unwrap().contains("two tools"), "{twice}");
}

#[test]
fn calls_and_results_are_part_of_the_conversation() {
    let service = Service::of(
        "history",
        &[
            ("tiny", &Tiny::new()),
            (
                "plain",
                &Tiny::with_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"),
            ),
        ],
    );
    let history = json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "call00001", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Ulm\"}" } } ] },
        { "role": "tool", "tool_call_id": "call00001", "content": "rain" },
    ]);
    for model in ["tiny", "plain"] {
        let whole = service
            .chat(&asked(json!({ "model": model, "messages": history, "tools": [weather()], "max_tokens": 5 })))
            .ok();
        assert!(whole["usage"]["prompt_tokens"].as_u64().unwrap() > 40);
        let notes = &whole["hublab"]["notes"];
        // A template that knows no tools has them described in words, which is said.
        assert_eq!(notes.is_array(), model == "plain", "{whole}");
        let forced =
            service.chat(&asked(json!({ "model": model, "tools": [weather()], "tool_choice": "required" }))).ok();
        check_call(&forced["choices"][0]["message"]["tool_calls"][0]);
    }
}

#[test]
fn a_strict_tool_that_nobody_forces_is_noted() {
    let service = Service::of("strict", &[("scripted", &Tiny::saying(&CALLING))]);
    let mut strict = clock();
    strict["function"]["strict"] = true.into();
    let notes = |body: &Json| service.chat(body).ok()["hublab"]["notes"].to_string();
    let found = notes(&free(&json!({ "tools": [strict] })));
    assert!(found.contains("`strict` of the tool `clock`"), "{found}");
    assert!(!notes(&free(&json!({ "tools": [clock()] }))).contains("strict"));
    assert!(!notes(&free(&json!({ "tools": [strict], "tool_choice": "none" }))).contains("strict"));
}
