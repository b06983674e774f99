//! Requests that are too large, too deep, too slow, broken off, or no requests at all.

use std::io::{Read, Write};
use std::time::Duration;

use hublabio_runtime::node::NodeConfig;
use hublabio_server::{Limits, ServerConfig};
use serde_json::{Value as Json, json};

use crate::client::{Reply, Service, half_close, post_request, question, read_all};
use crate::tiny::{CONTEXT, EOS, Tiny};

fn limited(limits: Limits) -> Service {
    Service::with(ServerConfig { limits, ..ServerConfig::default() }, NodeConfig::default(), &[])
}

fn alive(service: &Service) {
    assert_eq!(service.get("/health").ok()["status"], "ok");
}

#[test]
fn a_body_over_the_limit_is_refused_while_it_is_sent() {
    let service = limited(Limits { body_bytes: 1 << 20, ..Limits::default() });
    let error = Reply::parse(&service.raw(post_request("/v1/chat/completions", "", &vec![b' '; 100 << 20]))).error(413);
    assert_eq!(error["code"], "body_too_large");
    // Who asks first sends nothing.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n";
    Reply::parse(&service.raw(head)).error(413);
    // Without a length it is known when it comes.
    let mut chunked =
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..40 {
        chunked.extend(b"10000\r\n");
        chunked.extend(vec![b' '; 0x10000]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    Reply::parse(&service.raw(chunked)).error(413);
    alive(&service);
}

#[test]
fn what_is_no_json_is_refused() {
    let service = Service::start();
    let post = |body: &[u8]| service.post_with("/v1/chat/completions", "", body);
    let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
    let objects = "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000);
    for body in [
        &b""[..],
        b"   ",
        b"{",
        b"{\"model\": \"default\"} x",
        b"[]",
        b"\"text\"",
        b"nonsense",
        b"{\"model\": \"\xff\xfe\"}",
        b"\xef\xbb\xbf{}",
        &deep,
        objects.as_bytes(),
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
    ] {
        assert_eq!(
            post(body).error(400)["code"],
            "invalid_json",
            "{:?}",
            String::from_utf8_lossy(&body[..body.len().min(40)])
        );
    }
    alive(&service);
}

#[test]
fn content_types_that_clients_send_are_taken() {
    let service = Service::start();
    let mut body = question("What does tar do?");
    body["max_tokens"] = 2.into();
    let post = |kind: &str| {
        service.post_with("/v1/chat/completions", &format!("Content-Type: {kind}\r\n"), body.to_string().as_bytes())
    };
    for kind in ["application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded"] {
        post(kind).ok();
    }
    for kind in ["text/plain", "multipart/form-data; boundary=x", "application/octet-stream"] {
        assert_eq!(post(kind).error(415)["code"], "unsupported_media_type", "{kind}");
    }
}

#[test]
fn paths_and_methods_that_are_not_there_are_told_in_json() {
    let service = Service::start();
    assert_eq!(service.get("/v1/nothing").error(404)["code"], "unknown_path");
    let wrong = service.get("/v1/chat/completions");
    assert_eq!(wrong.error(405)["code"], "method_not_allowed");
    assert!(wrong.header("allow").contains("POST"), "{}", wrong.header("allow"));
    service.post("/health", &json!({})).error(405);
    // Nothing that changes something is a GET.
    for path in ["/api/load", "/api/unload"] {
        service.get(path).error(405);
    }
    // In the words of the dialect.
    assert_eq!(service.get("/v1/messages/nothing").json()["type"], "error");
}

#[test]
fn what_can_be_got_can_be_asked_for_without_its_body() {
    let service = Service::start();
    // Ollama's client asks for the first of them before anything else.
    for path in
        ["/", "/health", "/api/tags", "/api/version", "/api/ps", "/v1/models", "/v1/models/default", "/openapi.json"]
    {
        let ask = |method: &str| {
            service.raw(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
        };
        let (whole, head) = (Reply::parse(&ask("GET")), Reply::parse(&ask("HEAD")));
        assert_eq!((whole.status, head.status), (200, 200), "{path}");
        assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
        assert!(head.body.is_empty() && !whole.body.is_empty(), "{path}");
        assert_eq!(head.header("content-length"), whole.body.len().to_string(), "{path}");
    }
    let head = |path: &str| {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        Reply::parse(&service.raw(request)).status
    };
    assert_eq!((head("/v1/models/nobody"), head("/v1/chat/completions"), head("/nothing")), (404, 405, 404));
}

#[test]
fn what_is_no_http_closes_the_connection_and_nothing_else() {
    let service = Service::start();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"nonsense nonsense nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        let answer = String::from_utf8_lossy(&service.raw(bytes)).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20));
    let answer = String::from_utf8_lossy(&service.raw(long)).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(500));
    assert!(String::from_utf8_lossy(&service.raw(many)).starts_with("HTTP/1.1 431"));
    alive(&service);
}

#[test]
fn who_is_too_slow_is_not_waited_for() {
    let limits =
        Limits { header_time: Duration::from_millis(200), body_time: Duration::from_millis(200), ..Limits::default() };
    let service = limited(limits);
    let mut slow = service.connect();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: loc").unwrap();
    // The service closes; nothing is sent any more.
    read_all(&mut slow);
    let mut idle = service.connect();
    assert!(read_all(&mut idle).is_empty());
    let mut body = service.connect();
    body.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").unwrap();
    let mut answer = vec![0; 12];
    body.read_exact(&mut answer).unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    alive(&service);
}

#[test]
fn who_closes_half_of_the_connection_harms_nobody() {
    let service = Service::start();
    let mut stream = service.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    half_close(&stream);
    let answer = read_all(&mut stream);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"));
    let mut stream = service.connect();
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").unwrap();
    half_close(&stream);
    let answer = read_all(&mut stream);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    drop(service.connect());
    alive(&service);
}

#[test]
fn connections_over_the_limit_are_turned_away() {
    let service = limited(Limits { connections: 2, ..Limits::default() });
    let mut held: Vec<_> = (0..2).map(|_| service.connect()).collect();
    for stream in &mut held {
        // So that the service has taken it.
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut some = [0; 12];
        stream.read_exact(&mut some).unwrap();
    }
    let refused = Reply::parse(&read_all(&mut service.connect()));
    assert_eq!(refused.error(503)["code"], "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    drop(held);
    // The service notices that they are gone when it has read their ends.
    for _ in 0..100 {
        let answer = service.raw("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        if answer.starts_with(b"HTTP/1.1 200") {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the connections are still held");
}

#[test]
fn who_reads_nothing_does_not_keep_its_connection() {
    let service = limited(Limits { write_time: Duration::from_millis(100), ..Limits::default() });
    let open = || {
        let text = service.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix("hublab_connections_open ").map(str::to_owned));
        line.unwrap().parse::<usize>().unwrap()
    };
    let mut stream = service.connect();
    // Far more answers than all buffers on the way can take.
    stream.write_all("GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200).as_bytes()).unwrap();
    // The service has taken it; from now on nothing is read.
    stream.read_exact(&mut [0; 12]).unwrap();
    // The connection that asks counts, too.
    until("the connection is ended", || open() == 1);
    assert!(read_all(&mut stream).len() < 200 * service.get("/openapi.json").text().len());
    alive(&service);
}

#[test]
fn what_all_requests_hold_together_is_bounded() {
    let service = limited(Limits { heap_bytes: 4 << 20, body_bytes: 1 << 20, ..Limits::default() });
    let held = || {
        let text = service.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix("hublab_heap_bytes ").map(str::to_owned));
        line.unwrap().parse::<usize>().unwrap()
    };
    // Kept answers and the pages of their store have their part from the start.
    let reserved = held();
    assert_eq!(reserved, (1 << 20) + (256 << 10));
    // A body that is small as text and large as a tree.
    let mut body = question("x");
    body["prompt"] = vec![1; 100_000].into();
    let refused = service.post("/v1/completions", &body);
    let error = refused.error(413);
    assert_eq!(error["code"], "body_too_large");
    assert!(error["message"].as_str().unwrap().contains("heap_size"), "{error}");
    assert_eq!(held(), reserved);
    // Bodies that are on their way.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\n\r\n{";
    let mut open: Vec<_> = (0..2).map(|_| service.connect()).collect();
    for (at, stream) in open.iter_mut().enumerate() {
        stream.write_all(head.as_bytes()).unwrap();
        until("the body is being read", || held() == reserved + (at + 1) * 1_200_000);
    }
    let refused = Reply::parse(&service.raw(head));
    assert_eq!(refused.error(503)["code"], "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    alive(&service);
    drop(open);
    until("they are gone", || held() == reserved);
    // A question holds its part until its answer has been read.
    let mut body = question("What does tar do?");
    body["stream"] = true.into();
    body["n"] = 8.into();
    body["temperature"] = 2.into();
    let request = chat_request(&body);
    let mut stream = service.connect();
    stream.write_all(request.as_bytes()).unwrap();
    until("it is asked", || held() > reserved);
    stream.read_exact(&mut [0; 12]).unwrap();
    drop(stream);
    until("it is given up", || held() == reserved);
}

/// A question as it goes over the wire, for sockets that are left as they are afterwards.
fn chat_request(body: &Json) -> String {
    let text = body.to_string();
    let length = text.len();
    format!("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{text}")
}

/// Waits until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..5000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("never: {what}");
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let node = NodeConfig { running_max: 1, queue_max: 1, ..NodeConfig::default() };
    let service = Service::of_with("full", &[("tiny", &Tiny::new())], node);
    let endless = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "stream": true,
        "logit_bias": { EOS.to_string(): -100 } });
    let begin = || {
        let mut stream = service.connect();
        stream.write_all(&post_request("/v1/chat/completions", "", endless.to_string().as_bytes())).unwrap();
        stream
    };
    let runs = begin();
    service.wait_for("hublab_running", 1);
    let waits = begin();
    service.wait_for("hublab_waiting", 1);
    assert_eq!(service.get("/ready").status, 503);
    let messages = json!([{ "role": "user", "content": "x" }]);
    for (path, body, class) in [
        ("/v1/chat/completions", json!({ "messages": messages }), "rate_limit_error"),
        ("/v1/completions", json!({ "prompt": "x" }), "rate_limit_error"),
        ("/v1/responses", json!({ "input": "x" }), "rate_limit_error"),
        ("/v1/messages", json!({ "messages": messages, "max_tokens": 4 }), "rate_limit_error"),
        ("/api/chat", json!({ "messages": messages }), ""),
        ("/api/generate", json!({ "prompt": "x" }), ""),
    ] {
        for streamed in [false, true] {
            let mut body = body.clone();
            body["model"] = "tiny".into();
            body["stream"] = streamed.into();
            let reply = service.post(path, &body);
            assert_eq!((reply.status, reply.header("retry-after")), (429, "1"), "{path}: {}", reply.text());
            let error = reply.json()["error"].clone();
            assert_eq!(error["type"].as_str().unwrap_or_default(), class, "{path}: {error}");
        }
    }
    drop((runs, waits));
    service.wait_for("hublab_answers_cancelled_total", 2);
    service.chat(&question("What does tar do?")).ok();
}

#[test]
fn who_leaves_is_counted_as_cancelled_and_nothing_is_computed_for_them() {
    let service = Service::of("cancelled", &[("tiny", &Tiny::new())]);
    let ask = |path: &str, body: serde_json::Value| {
        let mut stream = service.connect();
        stream.write_all(&post_request(path, "", body.to_string().as_bytes())).unwrap();
        stream
    };
    let messages = json!([{ "role": "user", "content": "x" }]);
    let bias = json!({ EOS.to_string(): -100 });
    let streamed = ask(
        "/v1/chat/completions",
        json!({ "model": "tiny", "messages": messages, "stream": true, "logit_bias": bias }),
    );
    let whole = ask("/v1/chat/completions", json!({ "model": "tiny", "messages": messages, "logit_bias": bias }));
    let responses = ask("/v1/responses", json!({ "model": "tiny", "input": "x", "logit_bias": bias, "stream": true }));
    service.wait_for("hublab_running", 3);
    for (left, connection) in [streamed, whole, responses].into_iter().enumerate() {
        drop(connection);
        service.wait_for("hublab_answers_cancelled_total", left as u64 + 1);
        assert_eq!(service.metric("hublab_running"), 2 - left as u64);
    }
    let computed = service.metric("hublab_generated_tokens_total");
    assert!(computed < 3 * u64::from(CONTEXT), "{computed} tokens were computed: these were whole answers");
    assert_eq!(service.metric("hublab_answers_done_total"), 0);
    service.chat(&question("What does tar do?")).ok();
    service.wait_for("hublab_answers_done_total", 1);
}

#[test]
fn a_stream_that_has_nothing_to_say_says_so() {
    let limits = Limits { ping: Duration::from_millis(1), ..Limits::default() };
    let node = NodeConfig { running_max: 1, ..NodeConfig::default() };
    let service = Service::with(ServerConfig { limits, ..ServerConfig::default() }, node, &[]);
    // Others are before it, so that it has to wait for far longer than a ping takes.
    let mut body = question("What does tar do?");
    body["n"] = 8.into();
    body["temperature"] = 2.into();
    let request = chat_request(&body);
    let mut before: Vec<_> = (0..24).map(|_| service.connect()).collect();
    for stream in &mut before {
        stream.write_all(request.as_bytes()).unwrap();
    }
    let waiting = || service.get("/api/ps").ok()["hublab"]["waiting"].as_u64().unwrap();
    for _ in 0..1000 {
        if waiting() >= 32 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut body = question("What does tar do?");
    body["stream"] = true.into();
    let text = service.chat(&body).text();
    assert!(text.contains(": ping\n\n") || text.contains(":ping\n\n"), "{text}");
}
