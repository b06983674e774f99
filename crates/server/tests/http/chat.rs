//! `/v1/chat/completions`: answers, streams, their ends.

use std::io::{Read, Write};

use serde_json::{Value as Json, json};

use crate::client::{Service, post_request, question};
use crate::tiny::{EOS, Tiny};

/// The text of a streamed answer.
fn text(chunks: &[Json], index: usize) -> String {
    let of_choice = |chunk: &Json| {
        chunk["choices"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|choice| choice["index"] == index)
            .cloned()
            .collect::<Vec<_>>()
    };
    chunks
        .iter()
        .flat_map(of_choice)
        .filter_map(|choice| choice["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

fn finishes(chunks: &[Json]) -> Vec<String> {
    let of_chunk = |chunk: &Json| chunk["choices"].as_array().unwrap().clone();
    let choices = chunks.iter().flat_map(of_chunk);
    choices.filter_map(|choice| choice["finish_reason"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_question_gets_its_answer_whole_and_in_pieces() {
    let service = Service::start();
    let body = question("What does tar do?");
    let whole = service.chat(&body).ok();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "default");
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["content"], "An archiving utility.");
    assert_eq!((&choice["finish_reason"], &choice["message"]["role"]), (&json!("stop"), &json!("assistant")));
    let usage = &whole["usage"];
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 3);
    let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"].as_u64(), Some(sum));

    let chunks = service.stream("/v1/chat/completions", &body);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(text(&chunks, 0), "An archiving utility.");
    assert_eq!(finishes(&chunks), ["stop"]);
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["id"] == chunks[0]["id"]));
    assert!(chunks.last().unwrap()["hublab"]["timings"]["decode_s"].is_number());

    let mut with_usage = body.clone();
    with_usage["stream_options"] = json!({ "include_usage": true });
    let chunks = service.stream("/v1/chat/completions", &with_usage);
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], usage["completion_tokens"]);
}

#[test]
fn the_end_of_an_answer_has_a_reason() {
    let service = Service::start();
    let with = |more: Json| {
        let mut body = question("What does tar do?");
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service.chat(&body).ok()["choices"][0].clone()
    };
    let cut = with(json!({ "max_tokens": 2 }));
    assert_eq!(cut["finish_reason"], "length");
    assert!("An archiving utility.".starts_with(cut["message"]["content"].as_str().unwrap()));
    assert_eq!(with(json!({ "max_completion_tokens": 2 })), cut);
    let stopped = with(json!({ "stop": [" utility"] }));
    assert_eq!((&stopped["finish_reason"], &stopped["message"]["content"]), (&json!("stop"), &json!("An archiving")));
    assert_eq!(with(json!({ "stop": " utility", "max_tokens": -1 })), stopped);
    // Two names for one thing may only say the same.
    assert_eq!(with(json!({ "max_completion_tokens": 2, "max_tokens": 2 })), cut);
    let mut both = question("What does tar do?");
    both["max_completion_tokens"] = json!(-1);
    both["max_tokens"] = json!(2);
    assert_eq!(service.chat(&both).error(400)["param"], "max_tokens");
}

#[test]
fn several_answers_differ_by_their_seeds_and_repeat_with_them() {
    let service = Service::of("several", &[("tiny", &Tiny::new())]);
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "n": 3, "seed": 5,
        "temperature": 1, "max_tokens": 12, "logit_bias": { EOS.to_string(): -100 } });
    let whole = service.chat(&body).ok();
    let texts: Vec<_> = whole["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].clone()).collect();
    assert_eq!(texts.len(), 3);
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    assert_eq!(whole["usage"]["completion_tokens"], 36);
    let again = service.chat(&body).ok();
    assert_eq!(again["choices"], whole["choices"]);
    let chunks = service.stream("/v1/chat/completions", &body);
    for (index, whole) in texts.iter().enumerate() {
        assert_eq!(text(&chunks, index), whole.as_str().unwrap());
    }
    assert_eq!(finishes(&chunks), ["length"; 3]);
    for n in [0, 9] {
        let mut body = body.clone();
        body["n"] = n.into();
        assert_eq!(service.chat(&body).error(400)["param"], "n");
    }
}

#[test]
fn log_probabilities_come_with_the_tokens() {
    let service = Service::start();
    let mut body = question("What does tar do?");
    body["logprobs"] = true.into();
    body["top_logprobs"] = 3.into();
    let whole = service.chat(&body).ok();
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap());
    for token in &content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // The answer is greedy: the token is the likeliest.
        assert_eq!(token["logprob"], top[0]["logprob"]);
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        assert!(token["bytes"].is_array());
    }
    let chunks = service.stream("/v1/chat/completions", &body);
    let streamed: Vec<Json> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap())
        .filter_map(|choice| choice["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed, content);
    body["logprobs"] = false.into();
    assert_eq!(service.chat(&body).error(400)["param"], "top_logprobs");
    body["logprobs"] = true.into();
    body["top_logprobs"] = 1000.into();
    assert_eq!(service.chat(&body).error(400)["param"], "top_logprobs");
}

#[test]
fn settings_change_the_answer() {
    let service = Service::of("settings", &[("tiny", &Tiny::new())]);
    let ask = |more: Json| {
        let mut body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "max_tokens": 20,
            "logit_bias": { EOS.to_string(): -100 } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service.chat(&body).ok()["choices"][0]["message"]["content"].clone()
    };
    let greedy = ask(json!({ "temperature": 0 }));
    assert_eq!(ask(json!({ "top_k": 1, "seed": 3 })), greedy);
    assert_eq!(ask(json!({ "temperature": 0, "seed": 9 })), greedy);
    let drawn = ask(json!({ "temperature": 1.5, "top_p": 1, "top_k": 0, "seed": 1 }));
    assert_ne!(drawn, greedy);
    assert_eq!(ask(json!({ "temperature": 1.5, "top_p": 1, "top_k": 0, "seed": 1 })), drawn);
    assert_ne!(ask(json!({ "temperature": 0, "frequency_penalty": 50 })), greedy);
    // The token "q" and nothing else.
    let q = service.post("/api/tokenize", &json!({ "model": "tiny", "text": "q" })).ok()["ids"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    let only = ask(json!({ "temperature": 0, "logit_bias": { q.to_string(): 100 }, "max_tokens": 5 }));
    assert_eq!(only, "qqqqq");
}

#[test]
fn who_leaves_ends_the_work() {
    let service = Service::of("leaves", &[("tiny", &Tiny::new())]);
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "stream": true,
        "logit_bias": { EOS.to_string(): -100 } });
    // All in one: a client that reads a little of a stream, and one that waits for a whole answer.
    for streamed in [true, false] {
        let mut body = body.clone();
        body["stream"] = streamed.into();
        let mut stream = service.connect();
        stream.write_all(&post_request("/v1/chat/completions", "", body.to_string().as_bytes())).unwrap();
        if streamed {
            let mut some = [0; 200];
            stream.read_exact(&mut some).unwrap();
        } else {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        drop(stream);
    }
    // Nobody is computed for any more.
    let done = service.chat(&question("What does tar do?")).ok();
    assert_eq!(done["choices"][0]["message"]["content"], "An archiving utility.");
}

#[test]
fn what_fails_while_it_computes_is_an_error_and_the_service_lives_on() {
    let service = Service::of("fails", &[("broken", &Tiny::new().poisoned())]);
    let body = json!({ "model": "broken", "messages": [{ "role": "user", "content": "x" }] });
    let error = service.chat(&body).error(500);
    assert_eq!(error["type"], "server_error");
    assert!(error["message"].as_str().unwrap().contains("output"), "{error}");
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let events = service.chat(&streamed).events();
    let last: Json = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["type"], "server_error");
    service.chat(&question("What does tar do?")).ok();
}

#[test]
fn a_service_that_ends_lets_answers_come_to_their_end() {
    let service = Service::of("ends", &[("tiny", &Tiny::new())]);
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "stream": true,
        "max_tokens": 300, "logit_bias": { EOS.to_string(): -100 } });
    let mut stream = service.connect();
    stream.write_all(&post_request("/v1/chat/completions", "", body.to_string().as_bytes())).unwrap();
    let mut some = [0; 100];
    stream.read_exact(&mut some).unwrap();
    service.stop();
    let rest = String::from_utf8_lossy(&crate::client::read_all(&mut stream)).into_owned();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    let address = service.address;
    service.wait();
    assert!(std::net::TcpStream::connect(address).is_err());
}
