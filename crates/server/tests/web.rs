//! Conversations and the page over HTTP, against a service on a free port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hublabio_runtime::node::{BuiltinCatalog, Node, NodeConfig};
use hublabio_server::conversations::FILE_NAME;
use hublabio_server::{Listen, Server, ServerConfig, Stopper};
use serde_json::{Value as Json, json};

/// A service that ends with the test.
struct Service {
    address: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
    key: &'static str,
}

impl Service {
    fn start(config: ServerConfig) -> Self {
        let node = Node::start(Arc::new(BuiltinCatalog), NodeConfig::default()).unwrap();
        let listen = vec![Listen::Tcp(([127, 0, 0, 1], 0).into())];
        let server = Server::bind(ServerConfig { listen, drain: Duration::ZERO, ..config }, node).unwrap();
        let (address, stopper) = (server.addresses()[0], server.stopper());
        let thread = Some(std::thread::spawn(move || server.run().unwrap()));
        Self { address, stopper, thread, key: "" }
    }

    fn kept(name: &str) -> Self {
        Self::start(ServerConfig { data_folder: Some(folder(name)), ..ServerConfig::default() })
    }

    /// Sends a request and leaves the answer to be read.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        // A service that hangs fails the test instead of hanging it.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let key = if self.key.is_empty() { String::new() } else { format!("Authorization: Bearer {}\r\n", self.key) };
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}{headers}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// Status, headers and body.
    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut bytes = Vec::new();
        self.send(method, path, headers, body).read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, head.to_owned(), if chunked { unchunk(body) } else { body.to_owned() })
    }

    #[track_caller]
    fn json(&self, method: &str, path: &str, body: &Json, status: u16) -> Json {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (found, _, text) = self.request(method, path, "Content-Type: application/json\r\n", &body);
        assert_eq!(found, status, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or(Json::Null)
    }

    fn begin(&self, body: &Json) -> String {
        let head = self.json("POST", "/api/conversations", body, 201);
        format!("/api/conversations/{}", head["id"].as_str().unwrap())
    }

    /// The events of an answer.
    #[track_caller]
    fn ask(&self, path: &str, body: &Json) -> Vec<(String, Json)> {
        let (status, _, text) = self.request("POST", path, "Content-Type: application/json\r\n", &body.to_string());
        assert_eq!(status, 200, "{text}");
        events(&text)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopper.stop();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("web-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    text
}

fn events(text: &str) -> Vec<(String, Json)> {
    let event = |block: &str| {
        let name = block.lines().find_map(|line| line.strip_prefix("event: "))?;
        let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
        Some((name.to_owned(), serde_json::from_str(data).unwrap()))
    };
    text.split("\n\n").filter_map(event).collect()
}

fn said(events: &[(String, Json)]) -> String {
    events.iter().filter(|(name, _)| name == "delta").filter_map(|(_, data)| data["text"].as_str()).collect()
}

#[test]
fn a_question_and_its_answer_are_kept_and_told() {
    let service = Service::kept("kept");
    let path = service.begin(&json!({}));
    let heard = service.ask(&format!("{path}/answer"), &json!({"text": "What does tar do?"}));
    assert_eq!(said(&heard), "An archiving utility.");
    let (first, last) = (&heard[0], heard.last().unwrap());
    assert_eq!((first.0.as_str(), &first.1["user"]["text"]), ("start", &json!("What does tar do?")));
    assert_eq!((last.0.as_str(), &last.1["message"]["finish"]), ("done", &json!("stop")));
    let usage = &last.1["message"]["usage"];
    assert!(usage["completion_tokens"].as_u64().unwrap() > 2, "{usage}");
    assert!(usage["context_tokens"].as_u64().unwrap() > usage["prompt_tokens"].as_u64().unwrap(), "{usage}");

    let kept = service.json("GET", &path, &Json::Null, 200);
    assert_eq!(kept["title"], "What does tar do?");
    assert_eq!(kept["messages"][1], last.1["message"]);
    assert_eq!(kept["active"], 1);

    // Again: a branch beside the answer.
    let heard = service.ask(&format!("{path}/answer"), &json!({"parent": 0, "settings": {"max_tokens": 2}}));
    let answer = &heard.last().unwrap().1["message"];
    assert_eq!((&answer["parent"], &answer["finish"], &answer["id"]), (&json!(0), &json!("length"), &json!(2)));
    // Another question after the first answer, which the model is given with what went before.
    let heard = service.ask(
        &format!("{path}/answer"),
        &json!({"parent": 1, "text": "And zip?", "attachments": [{"name": "a.txt", "text": "x"}]}),
    );
    let more = &heard.last().unwrap().1["message"]["usage"]["prompt_tokens"];
    assert!(more.as_u64() > usage["prompt_tokens"].as_u64(), "{more} {usage}");
    assert_eq!(service.json("GET", &path, &Json::Null, 200)["messages"].as_array().unwrap().len(), 5);
}

#[test]
fn a_swarm_says_who_answered() {
    let service = Service::kept("swarm");
    let about = service.json("GET", "/api/web", &Json::Null, 200);
    assert_eq!((&about["storage"]["state"], &about["swarms"][0]["model"]), (&json!("on"), &json!("swarm")));
    let expert = about["swarms"][0]["experts"][0]["name"].as_str().unwrap();
    let path = service.begin(&json!({"model": "swarm", "settings": {"expert": expert}}));
    let heard = service.ask(&format!("{path}/answer"), &json!({"text": "What is a Vec?"}));
    let message = &heard.last().unwrap().1["message"];
    assert_eq!((&message["model"], &message["experts"][0]["name"]), (&json!("swarm"), &json!(expert)), "{message}");
    // It is told before the first word.
    let at = |name: &str| heard.iter().position(|(found, _)| found == name).unwrap();
    assert_eq!(heard[at("experts")].1, json!({"names": [expert]}));
    assert!(at("experts") < at("delta"), "{heard:?}");
}

#[test]
fn a_question_whose_answer_could_not_be_kept_is_not_asked() {
    let service = Service::kept("room");
    let message = |id: usize| {
        let role = ["user", "assistant"][id % 2];
        let mut message = json!({"id": id, "created": 1, "role": role, "text": "x"});
        if id > 0 {
            message["parent"] = json!(id - 1);
        }
        message
    };
    let messages: Vec<Json> = (0..3_999).map(message).collect();
    let conversation = json!({"title": "", "created": 1, "updated": 1, "messages": messages});
    let file = json!({"format": "hublab-conversations", "version": 1, "conversations": [conversation]});
    let ids = service.json("POST", "/api/conversations/import", &file, 201);
    let path = format!("/api/conversations/{}", ids["ids"][0].as_str().unwrap());
    let error = service.json("POST", &format!("{path}/answer"), &json!({"parent": 3_997, "text": "And zip?"}), 400);
    assert!(error["error"]["message"].as_str().unwrap().contains("4001, and at most 4000"), "{error}");
    assert_eq!(service.json("GET", &path, &Json::Null, 200)["message_count"], 3_999);
}

#[test]
fn a_page_of_another_origin_cannot_search_by_the_clock() {
    let allowed = "http://friend.example";
    let config = ServerConfig { cors_origins: vec![allowed.into()], ..ServerConfig::default() };
    let service = Service::start(ServerConfig { data_folder: Some(folder("foreign-page")), ..config });
    let look = |headers: &str| service.request("GET", "/api/conversations?search=secret", headers, "").0;
    assert_eq!(look("Sec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(look("Sec-Fetch-Site: same-site\r\nOrigin: http://localhost:1\r\n"), 403);
    for own in ["", "Sec-Fetch-Site: none\r\n", "Sec-Fetch-Site: same-origin\r\n"] {
        assert_eq!(look(own), 200, "{own}");
    }
    assert_eq!(look(&format!("Sec-Fetch-Site: cross-site\r\nOrigin: {allowed}\r\n")), 200);
}

#[test]
fn what_cannot_be_asked_is_refused_and_not_kept() {
    let service = Service::kept("refused");
    let path = service.begin(&json!({}));
    let answer = format!("{path}/answer");
    let none = "/api/conversations/00000000000000000000000000000000";
    let long = "word ".repeat(60_000);
    for (path, body, status, words) in [
        (&*answer, json!({"text": " "}), 400, "must not be empty"),
        (&*answer, json!({"text": "x", "colour": 1}), 400, "colour"),
        (&*answer, json!({"text": 1}), 400, "invalid type"),
        (&*answer, json!([]), 400, "no JSON object"),
        (&*answer, json!({"text": "x", "settings": []}), 400, "sequence"),
        (&*answer, json!({"text": "x", "attachments": [["a", "b"]]}), 400, "sequence"),
        (&*answer, json!({"text": "x", "parent": 7}), 404, "no message 7"),
        (&*answer, json!({}), 400, "`parent` must be a message of the user"),
        (&*answer, json!({"attachments": [{"name": "a", "text": "b"}]}), 400, "files come with a question"),
        (&*answer, json!({"text": "x", "model": "nobody"}), 404, "nobody"),
        (&*answer, json!({"text": "x", "settings": {"temperature": -1}}), 400, "temperature"),
        (&*answer, json!({"text": long}), 400, "tokens"),
        (&*answer, json!({"text": "x".repeat((1 << 20) + 1)}), 400, "at most 1048576"),
        (&format!("{none}/answer"), json!({"text": "x"}), 404, "no conversation"),
        ("/api/conversations/1/answer", json!({"text": "x"}), 404, "no conversation"),
        ("/api/conversations", json!({"title": "x".repeat(500)}), 400, "the title"),
        ("/api/conversations/import", json!({"format": "x"}), 400, "exported conversations"),
        (&format!("{none}/stop"), Json::Null, 404, "no conversation"),
    ] {
        let error = service.json("POST", path, &body, status);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    for (method, path, status) in [
        ("GET", none, 404),
        ("DELETE", none, 404),
        ("DELETE", "/api/conversations", 400),
        ("DELETE", "/api/conversations?all=false", 400),
        ("GET", "/api/conversations?limit=0", 400),
        ("GET", "/api/conversations?limit=many", 400),
        ("GET", "/api/conversations?cursor=x", 400),
        ("GET", "/api/conversations?colour=red", 400),
        ("GET", &format!("{path}/export?format=pdf"), 400),
        ("PUT", none, 405),
    ] {
        service.json(method, path, &Json::Null, status);
    }
    let kept = service.json("GET", &path, &Json::Null, 200);
    assert_eq!(kept["messages"], json!([]));
}

#[test]
fn conversations_are_listed_changed_searched_and_deleted() {
    let service = Service::kept("list");
    let first = service.begin(&json!({"title": "About archives"}));
    let second = service.begin(&json!({"title": "About lists"}));
    service.json("PATCH", &first, &json!({"title": "About tar", "settings": {"top_k": 3}, "model": "swarm"}), 200);
    service.json("PATCH", &first, &json!({"active": 9}), 404);
    service.json("PATCH", &first, &json!({"id": "x"}), 400);
    let listed = |query: &str| service.json("GET", &format!("/api/conversations{query}"), &Json::Null, 200);
    let page = listed("?limit=1");
    assert_eq!(page["conversations"][0]["title"], "About tar");
    let next = listed(&format!("?limit=1&cursor={}", page["next"].as_str().unwrap()));
    assert_eq!((&next["conversations"][0]["title"], &next["next"]), (&json!("About lists"), &Json::Null));
    assert_eq!(listed("?search=LISTS")["hits"][0]["title"], "About lists");
    assert_eq!(listed("?search=nothing")["hits"], json!([]));

    let file = service.json("GET", "/api/conversations/export", &Json::Null, 200);
    assert_eq!(file["conversations"].as_array().unwrap().len(), 2);
    let (_, head, text) = service.request("GET", &format!("{first}/export?format=markdown"), "", "");
    assert!(head.contains("attachment") && text.starts_with("# About tar"), "{head}{text}");
    assert_eq!(service.request("DELETE", &second, "", "").0, 204);
    service.json("GET", &second, &Json::Null, 404);
    assert_eq!(service.json("DELETE", "/api/conversations?all=true", &Json::Null, 200)["deleted"], 1);
    let empty = service.json("GET", "/api/conversations/export", &Json::Null, 200);
    assert_eq!(empty["conversations"], json!([]));
    let ids = service.json("POST", "/api/conversations/import", &file, 201);
    assert_eq!(ids["ids"].as_array().unwrap().len(), 2);
    assert_eq!(listed("")["conversations"].as_array().unwrap().len(), 2);
}

/// The start of an answer that goes on for long, and the connection that it comes by.
fn long_answer(service: &Service, path: &str) -> TcpStream {
    let body =
        json!({"text": "What does tar do?", "settings": {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "seed": 7}});
    let mut stream =
        service.send("POST", &format!("{path}/answer"), "Content-Type: application/json\r\n", &body.to_string());
    let mut read = Vec::new();
    let mut piece = [0; 512];
    while !String::from_utf8_lossy(&read).contains("event: delta") {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&piece[..count]);
    }
    stream
}

/// The finish of the only answer, once it is kept.
fn finish_of(service: &Service, path: &str) -> Json {
    for _ in 0..600 {
        let kept = service.json("GET", path, &Json::Null, 200);
        if let Some(answer) = kept["messages"].get(1) {
            assert_ne!(answer["text"], "");
            return answer["finish"].clone();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the answer was not kept");
}

#[test]
fn an_answer_that_is_stopped_is_kept_as_far_as_it_came() {
    let service = Service::kept("stop");
    // The model is fast: an answer may end before the stop arrives. One of many does not.
    let stopped = (0..20).any(|_| {
        let path = service.begin(&json!({}));
        let mut stream = long_answer(&service, &path);
        // Told, or the answer has ended and is there.
        let open = service.json("GET", &path, &Json::Null, 200);
        assert!(open["writing"] == true || open["messages"].as_array().unwrap().len() == 2, "{open}");
        service.json("POST", &format!("{path}/stop"), &Json::Null, 200);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("event: done"), "{rest}");
        assert_eq!(service.json("POST", &format!("{path}/stop"), &Json::Null, 200)["stopped"], 0);
        assert_eq!(service.json("GET", &path, &Json::Null, 200)["writing"], false);
        finish_of(&service, &path) == "stopped"
    });
    assert!(stopped);
}

#[test]
fn a_client_that_goes_away_stops_its_answer() {
    let service = Service::kept("gone");
    // The model is fast: an answer may end before anyone notices. One of many does not.
    let stopped = (0..20).any(|_| {
        let path = service.begin(&json!({}));
        drop(long_answer(&service, &path));
        finish_of(&service, &path) == "stopped"
    });
    assert!(stopped);
}

#[test]
fn a_service_without_storage_answers_and_says_so() {
    let service = Service::start(ServerConfig::default());
    assert_eq!(service.json("GET", "/api/web", &Json::Null, 200)["storage"]["state"], "off");
    let error = service.json("GET", "/api/conversations", &Json::Null, 503);
    assert_eq!(error["error"]["code"], "storage_off");
    let turns = |messages: Json| json!({"messages": messages});
    let question = json!({"role": "user", "text": "What does tar do?"});
    let heard = service.ask("/api/answer", &turns(json!([question])));
    assert_eq!(said(&heard), "An archiving utility.");
    assert_eq!(heard.last().unwrap().1["conversation"], Json::Null);
    for (body, words) in [
        (turns(json!([])), "last message"),
        (turns(json!([question, question])), "cannot follow"),
        (turns(json!([question, {"role": "assistant", "text": "x"}])), "last message"),
        (turns(json!([{"role": "user", "text": ""}])), "empty"),
    ] {
        let error = service.json("POST", "/api/answer", &body, 400);
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{error}");
    }
}

#[test]
fn a_store_that_cannot_be_opened_is_told_and_the_service_runs() {
    let folder = folder("foreign");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(FILE_NAME), "a letter".repeat(2000)).unwrap();
    let config = || ServerConfig { data_folder: Some(folder.clone()), ..ServerConfig::default() };
    {
        let service = Service::start(config());
        let storage = &service.json("GET", "/api/web", &Json::Null, 200)["storage"];
        assert_eq!(storage["state"], "unavailable");
        assert!(storage["reason"].as_str().unwrap().contains("move it away"), "{storage}");
        assert_eq!(service.json("POST", "/api/conversations", &json!({}), 503)["error"]["code"], "storage_unavailable");
    }
    std::fs::remove_file(folder.join(FILE_NAME)).unwrap();
    let first = Service::start(config());
    let second = Service::start(config());
    let storage = &second.json("GET", "/api/web", &Json::Null, 200)["storage"];
    assert!(storage["reason"].as_str().unwrap().contains("in use by another process"), "{storage}");
    first.begin(&json!({}));
}

#[test]
fn each_key_has_its_own_conversations_and_the_page_needs_none() {
    let folder = folder("keys");
    std::fs::create_dir_all(&folder).unwrap();
    let keys = folder.join("keys");
    std::fs::write(&keys, "ada 0123456789abcdef\nbob fedcba9876543210\n").unwrap();
    let config = ServerConfig { data_folder: Some(folder), api_key_file: Some(keys), ..ServerConfig::default() };
    let mut service = Service::start(config);
    assert_eq!(service.request("GET", "/", "", "").0, 200);
    assert_eq!(service.request("GET", "/assets/app.js", "", "").0, 200);
    service.json("GET", "/api/web", &Json::Null, 401);
    service.key = "0123456789abcdef";
    let path = service.begin(&json!({"title": "Ada's"}));
    service.key = "fedcba9876543210";
    assert_eq!(service.json("GET", "/api/conversations", &Json::Null, 200)["conversations"], json!([]));
    service.json("GET", &path, &Json::Null, 404);
    assert_eq!(service.json("DELETE", "/api/conversations?all=true", &Json::Null, 200)["deleted"], 0);
    service.key = "0123456789abcdef";
    service.json("GET", &path, &Json::Null, 200);
}

#[test]
fn the_page_comes_with_its_policy_and_once() {
    let service = Service::start(ServerConfig::default());
    let (status, head, body) = service.request("GET", "/", "", "");
    assert!(status == 200 && body.starts_with("<!doctype html>"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let (status, _, body) = service.request("GET", "/", &format!("If-None-Match: {tag}\r\n"), "");
    assert_eq!((status, body.as_str()), (304, ""));
    assert_eq!(service.request("GET", "/assets/nothing.js", "", "").0, 404);
    assert_eq!(service.request("GET", "/assets/..%2fCargo.toml", "", "").0, 404);
}
