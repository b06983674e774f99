//! What clients send to the service: a file of conversations, or the body of a request in any of its dialects. The first byte
//! says which. Requests go the whole way up to the weights, which do not fit into this node's memory.
#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hublabio_runtime::node::{BuiltinCatalog, Node, NodeConfig};
use hublabio_server::conversations::{export_json, export_markdown, import_json};
use hublabio_server::{Listen, Server, ServerConfig};
use libfuzzer_sys::fuzz_target;
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tower_service::Service as _;

const PATHS: [&str; 17] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/api/tokenize",
    "/api/detokenize",
    "/api/load",
    "/api/unload",
    "/api/create",
    "/api/pull",
];

struct Service {
    runtime: Runtime,
    router: Router,
}

static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let config = NodeConfig { threads: Some(1), max_memory: 1, ..NodeConfig::default() };
    let node = Node::start(Arc::new(BuiltinCatalog), config).expect("a node starts");
    let listen = vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let server = Server::bind(ServerConfig { listen, swarms: Vec::new(), ..ServerConfig::default() }, node);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    Service { runtime, router: server.expect("a port is free").router() }
});

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else { return };
    match PATHS.get(usize::from(kind)) {
        Some(path) => request(path, rest),
        None => conversations(rest),
    }
});

/// A request is answered with something that is no fault of the service, in JSON or in lines of it.
fn request(path: &str, body: &[u8]) {
    let request = Request::post(path).header(header::HOST, "localhost").body(Body::from(body.to_vec()));
    let service = &*SERVICE;
    let (status, kind, text) = service.runtime.block_on(async {
        let answer = service.router.clone().call(request.expect("a request")).await.expect("the table has no errors");
        let (head, body) = answer.into_parts();
        let text = body.collect().await.expect("the body has no errors").to_bytes();
        (head.status, head.headers.get(header::CONTENT_TYPE).cloned(), text)
    });
    let shown = String::from_utf8_lossy(&text);
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{path}: {shown}");
    if kind.is_some_and(|kind| kind == "application/json") {
        let answer: Json = serde_json::from_slice(&text).expect("the answer is JSON");
        assert_eq!(answer.get("error").is_some(), !status.is_success(), "{path}: {status}: {shown}");
    }
}

/// A file is refused with a message, or holds trees of messages, which a file of them holds again.
fn conversations(file: &[u8]) {
    let read = match import_json(file) {
        Ok(read) => read,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for conversation in read {
        for message in &conversation.messages {
            let path = conversation.path(Some(message.id)).expect("every message has a place");
            assert!(path.windows(2).all(|pair| pair[1].parent == Some(pair[0].id)));
        }
        assert!(export_markdown(&conversation).expect("the active message has a place").starts_with("# "));
        let again = import_json(export_json(&conversation).expect("it is JSON").as_bytes());
        let again = again.expect("what was exported is imported").pop().expect("there was one");
        let shape = |c: &hublabio_server::conversations::Conversation| {
            c.messages.iter().map(|m| (m.id, m.parent, m.role, m.text.clone())).collect::<Vec<_>>()
        };
        assert_eq!((shape(&again), again.head.active), (shape(&conversation), conversation.head.active));
    }
}
