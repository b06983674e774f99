//! `/v1/completions` and `/v1/embeddings`.

use hublabio_runtime::node::NodeConfig;
use hublabio_server::{Limits, ServerConfig};
use serde_json::{Value as Json, json};

use crate::client::Service;
use crate::tiny::Tiny;

/// Takes what is written down in place.
#[allow(clippy::needless_pass_by_value)]
fn asked(prompt: Json, more: Json) -> Json {
    let mut body = json!({ "model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 6 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn texts_and_tokens_go_on() {
    let service = Service::of("completions", &[("tiny", &Tiny::new())]);
    let ask = |body: Json| service.post("/v1/completions", &body).ok();
    let one = ask(asked(json!("abc"), json!({})));
    assert_eq!(one["object"], "text_completion");
    let text = one["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(
        (&one["choices"][0]["finish_reason"], &one["usage"]["completion_tokens"]),
        (&json!("length"), &json!(6))
    );
    // The same as tokens, BOS first.
    let ids =
        service.post("/api/tokenize", &json!({ "model": "tiny", "text": "abc", "add_special": true })).ok()["ids"]
            .clone();
    assert_eq!(ask(asked(ids.clone(), json!({})))["choices"][0]["text"], text.as_str());
    let several = ask(asked(json!(["abc", "xyz"]), json!({ "n": 2 })));
    let choices = several["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!((&choices[0]["text"], &choices[1]["text"]), (&json!(text), &json!(text)));
    let lists = ask(asked(json!([ids, ids]), json!({})));
    assert_eq!(lists["choices"][1]["text"], text.as_str());
    let echoed = ask(asked(json!("abc"), json!({ "echo": true })));
    assert_eq!(echoed["choices"][0]["text"], format!("abc{text}"));
    let likely = ask(asked(json!("abc"), json!({ "logprobs": 2 })));
    let logprobs = &likely["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(logprobs["top_logprobs"].as_array().unwrap().len(), 6);
    assert_eq!(logprobs["text_offset"][0], 0);
    let chunks =
        service.stream("/v1/completions", &asked(json!("abc"), json!({ "stream_options": { "include_usage": true } })));
    let streamed: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 6);
    // Without a limit sixteen tokens, as OpenAI has it.
    let mut unbounded = asked(json!("abc"), json!({ "logit_bias": { "2": -100 } }));
    unbounded.as_object_mut().unwrap().remove("max_tokens");
    assert_eq!(ask(unbounded)["usage"]["completion_tokens"], 16);
}

#[test]
fn what_a_completion_cannot_do_is_refused_by_name() {
    let service = Service::of("refusals", &[("tiny", &Tiny::new())]);
    for (name, value) in [
        ("suffix", json!("end")),
        ("best_of", json!(3)),
        ("messages", json!([])),
        ("prompt", json!({})),
        ("prompt", json!([])),
        ("prompt", json!([1, "a"])),
        ("prompt", json!([100000])),
    ] {
        let mut body = asked(json!("abc"), json!({}));
        body[name] = value.clone();
        let error = service.post("/v1/completions", &body).error(400);
        assert_eq!(error["param"], name, "{value}: {error}");
    }
    service.post("/v1/completions", &asked(json!("abc"), json!({ "echo": true, "logprobs": 1 }))).error(400);
    service.post("/v1/completions", &json!({ "model": "tiny" })).error(400);
}

#[test]
fn embeddings_are_vectors_in_two_forms() {
    let service = Service::of("embeddings", &[("tiny", &Tiny::new())]);
    let ask = |body: Json| service.post("/v1/embeddings", &body);
    let both = ask(json!({ "model": "tiny", "input": ["abc", "xyz"] })).ok();
    let vector = |at: usize| -> Vec<f64> {
        both["data"][at]["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    assert_eq!((vector(0).len(), both["data"][1]["index"].clone()), (64, json!(1)));
    let length: f64 = vector(0).iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-4 && vector(0) != vector(1));
    assert!(both["usage"]["prompt_tokens"].as_u64().unwrap() >= 6);
    let one = ask(json!({ "model": "tiny", "input": "xyz", "dimensions": 64 })).ok();
    assert_eq!(one["data"][0]["embedding"], both["data"][1]["embedding"]);
    let packed = ask(json!({ "model": "tiny", "input": "xyz", "encoding_format": "base64" })).ok();
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 344);
    let ids =
        service.post("/api/tokenize", &json!({ "model": "tiny", "text": "xyz", "add_special": true })).ok()["ids"]
            .clone();
    assert_eq!(
        ask(json!({ "model": "tiny", "input": ids })).ok()["data"][0]["embedding"],
        both["data"][1]["embedding"]
    );
    for (body, param) in [
        (json!({ "model": "tiny", "input": "x", "dimensions": 8 }), "dimensions"),
        (json!({ "model": "tiny", "input": "x", "encoding_format": "int8" }), "encoding_format"),
        (json!({ "model": "tiny", "input": 5 }), "input"),
        (json!({ "model": "tiny", "input": [] }), "input"),
        (json!({ "model": "tiny" }), "input"),
        (json!({ "model": "tiny", "input": "x", "truncate": true }), "truncate"),
        (json!({ "model": "tiny", "input": [[99999]] }), "input[0]"),
        (json!({ "model": "swarm", "input": "x" }), "model"),
    ] {
        assert_eq!(ask(body.clone()).error(400)["param"], param, "{body}");
    }
    let error = ask(json!({ "model": "tiny", "input": "a".repeat(6000) })).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
}

#[test]
fn several_prompts_are_read_as_they_are_answered() {
    // Every answer has more to say than may wait unread, and all are computed at once: by the built-in model, as one of no
    // size would be faster than anybody reads.
    let limits = Limits { heap_bytes: 1 << 20, ..Limits::default() };
    let service = Service::with(ServerConfig { limits, ..ServerConfig::default() }, NodeConfig::default(), &[]);
    let mut body = asked(json!(["abc", "xyz", "one", "two"]), json!({ "max_tokens": 400 }));
    body["model"] = "default".into();
    body["logit_bias"] = json!({ "2": -100, "7": -100 });
    let whole = service.post("/v1/completions", &body).ok();
    let whole: Vec<_> = whole["choices"].as_array().unwrap().iter().map(|choice| choice["text"].clone()).collect();
    assert_eq!(whole.len(), 4);
    let chunks = service.stream("/v1/completions", &body);
    let choices: Vec<_> = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).collect();
    for (index, whole) in whole.iter().enumerate() {
        let of_it = choices.iter().filter(|choice| choice["index"] == index);
        let text: String = of_it.map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(text, whole.as_str().unwrap());
    }
    // They come beside each other.
    let first = |index: usize| choices.iter().position(|choice| choice["index"] == index).unwrap();
    let end_of_first = choices.iter().position(|c| c["index"] == 0 && c["finish_reason"].is_string()).unwrap();
    assert!(first(3) < end_of_first, "{} {end_of_first}", first(3));
}

#[test]
fn what_was_cached_of_a_prompt_is_told_while_it_is_read() {
    let service = Service::of("cached-progress", &[("tiny", &Tiny::new())]);
    let long = "abc ".repeat(300);
    service.post("/v1/completions", &asked(json!(long), json!({}))).ok();
    let body = asked(json!(long.clone() + &"xyz ".repeat(500)), json!({ "return_progress": true }));
    let chunks = service.stream("/v1/completions", &body);
    let told: Vec<&Json> = chunks.iter().map(|chunk| &chunk["prompt_progress"]).filter(|it| it.is_object()).collect();
    assert!(!told.is_empty());
    for progress in told {
        let number = |name: &str| progress[name].as_u64().unwrap();
        assert!(number("cache") > 500 && number("cache") < number("processed"), "{progress}");
        assert!(number("processed") <= number("total"), "{progress}");
    }
}
