//! The wire types write and read what OpenAI's and Ollama's clients write and read.
#![recursion_limit = "256"] // of `json!`

use hublabio_sdk::wire::openai::*;
use hublabio_sdk::wire::own::{KeepAlive, LoadRequest, ProcessList};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};

/// Reads `json` and writes it again, to the byte.
fn check<T: Serialize + DeserializeOwned>(json: &Json) -> T {
    let value: T = serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(serde_json::to_string(&value).unwrap(), json.to_string());
    value
}

#[test]
fn requests_leave_out_what_is_not_set() {
    let plain = ChatCompletionRequest { model: "m".into(), ..ChatCompletionRequest::default() };
    assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"model":"m","messages":[]}"#);
    let load = LoadRequest { model: "m".into(), keep_alive: Some(KeepAlive::Text("5m".into())) };
    assert_eq!(serde_json::to_string(&load).unwrap(), r#"{"model":"m","keep_alive":"5m"}"#);
}

#[test]
fn a_request_with_everything_comes_back() {
    let request: ChatCompletionRequest = check(&json!({
        "model": "m",
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "assistant", "reasoning_content": "hm", "tool_calls": [
                { "id": "call_1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } }
            ] },
            { "role": "tool", "content": "1", "tool_call_id": "call_1" },
        ],
        "max_completion_tokens": 7, "n": 2, "logprobs": true, "top_logprobs": 3, "stop": ["a", "b"], "stream": true,
        "stream_options": { "include_usage": true },
        "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" }, "strict": true } }],
        "tool_choice": { "type": "function", "function": { "name": "f" } },
        "parallel_tool_calls": false,
        "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": { "type": "string" } } },
        "chat_template_kwargs": { "enable_thinking": false }, "return_progress": true,
        "temperature": 0.5, "top_p": 0.25, "seed": 3, "frequency_penalty": 1.0, "presence_penalty": 0.5,
        "logit_bias": { "15": -100.0 }, "top_k": 4, "min_p": 0.125, "typical_p": 0.5, "top_n_sigma": 1.0,
        "xtc_probability": 0.5, "xtc_threshold": 0.25, "repeat_penalty": 1.5, "repeat_last_n": 64,
        "dry_multiplier": 0.75, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1,
        "dry_sequence_breakers": ["\n"], "mirostat": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.125,
        "dynatemp_range": 0.5, "dynatemp_exponent": 1.0, "min_keep": 1, "samplers": ["top_k", "temperature"],
    }));
    assert_eq!(request.sampling.top_k, Some(4));
    for (choice, expected) in [("none", ToolChoiceMode::None), ("auto", ToolChoiceMode::Auto)] {
        assert_eq!(check::<ToolChoice>(&json!(choice)), ToolChoice::Mode(expected));
    }
    assert_eq!(check::<Stop>(&json!("x")), Stop::Text("x".into()));
    assert_eq!(check::<ResponseFormat>(&json!({ "type": "json_object" })), ResponseFormat::JsonObject);
    check::<CompletionRequest>(
        &json!({ "model": "m", "prompt": [[1, 2], [3]], "max_tokens": 1, "echo": true, "seed": 1 }),
    );
    check::<EmbeddingRequest>(&json!({ "model": "m", "input": ["a", "b"], "encoding_format": "base64" }));
}

#[test]
fn answers_come_back() {
    let answer: ChatCompletion = check(&json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m",
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": null, "reasoning_content": "hm", "refusal": null, "tool_calls": [
                { "id": "call_1", "type": "function", "function": { "name": "f", "arguments": "{}" } }
            ] },
            "logprobs": { "content": [{ "token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
                { "token": "a", "logprob": -0.5, "bytes": [97] }
            ] }], "refusal": null },
            "finish_reason": "tool_calls",
        }],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
            "prompt_tokens_details": { "cached_tokens": 1 }, "completion_tokens_details": { "reasoning_tokens": 1 },
        },
        "system_fingerprint": "fp",
        "hublab": {
            "answered_by": [{ "expert": "python", "weight": 0.75, "why": "keyword `python`" }],
            "notes": ["rust failed"],
            "timings": { "prompt_s": 0.25, "decode_s": 0.5, "tokens_per_s": 4.0 },
        },
    }));
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::ToolCalls));
    check::<ChatCompletionChunk>(&json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m",
        "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "", "tool_calls": [
            { "index": 0, "id": "call_1", "type": "function", "function": { "name": "f", "arguments": "" } }
        ] }, "logprobs": null, "finish_reason": null }],
        "system_fingerprint": null,
        "prompt_progress": { "total": 9, "processed": 5, "cache": 2, "time_ms": 10 },
    }));
    check::<Completion>(&json!({
        "id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m",
        "choices": [{ "text": "a", "index": 0, "logprobs": {
            "tokens": ["a"], "token_logprobs": [null], "top_logprobs": [{ "a": -0.5 }], "text_offset": [0],
        }, "finish_reason": "length" }],
        "system_fingerprint": null,
    }));
    check::<EmbeddingList>(&json!({
        "object": "list", "data": [{ "object": "embedding", "index": 0, "embedding": [0.5, -1.0] }],
        "model": "m", "usage": { "prompt_tokens": 2, "total_tokens": 2 },
    }));
    check::<ModelList>(&json!({ "object": "list", "data": [
        { "id": "m", "object": "model", "created": 0, "owned_by": "hublab", "hublab": { "kind": "swarm" } }
    ] }));
    check::<ErrorBody>(&json!({ "error": {
        "message": "x", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
        "prompt_tokens": 9, "context_tokens": 8,
    } }));
}

#[test]
fn what_another_version_says_is_read() {
    let choice: ChatChoice = serde_json::from_value(json!({
        "message": { "role": "assistant", "content": "a", "annotations": [] }, "finish_reason": "tired",
    }))
    .unwrap();
    assert_eq!(choice.finish_reason, Some(FinishReason::Other("tired".into())));
    let list: ProcessList = serde_json::from_value(json!({ "models": [{ "name": "m", "future": 1 }] })).unwrap();
    assert_eq!(list.models[0].name, "m");
}
