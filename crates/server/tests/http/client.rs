//! A service on a free port, and a client that can send anything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hublabio_runtime::Error;
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::{BuiltinCatalog, CatalogModel, ModelCatalog, Node, NodeConfig};
use hublabio_server::{Listen, Server, ServerConfig, Stopper};
use serde_json::{Value as Json, json};

use crate::tiny::Tiny;

/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The built-in model, and files of the test.
pub struct Files(Vec<CatalogModel>);

impl ModelCatalog for Files {
    fn find(&self, name: &str) -> Result<CatalogModel, Error> {
        let own = self.0.iter().find(|model| model.name == name);
        own.cloned().map_or_else(|| BuiltinCatalog.find(name), Ok)
    }

    fn list(&self) -> Result<Vec<CatalogModel>, Error> {
        Ok([BuiltinCatalog.list()?, self.0.clone()].concat())
    }
}

/// A folder of a test, empty.
pub fn folder(test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hublab-server-{}-{test}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A running service.
pub struct Service {
    pub address: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// With the built-in model.
    pub fn start() -> Self {
        Self::with(ServerConfig::default(), NodeConfig::default(), &[])
    }

    /// With these model files beside it, each under its name.
    pub fn of(test: &str, files: &[(&str, &Tiny)]) -> Self {
        Self::of_with(test, files, NodeConfig::default())
    }

    /// The same on a node with other limits.
    pub fn of_with(test: &str, files: &[(&str, &Tiny)], node: NodeConfig) -> Self {
        let folder = folder(test);
        let mut saved = Vec::new();
        for (name, tiny) in files {
            let path = folder.join(format!("{name}.gguf"));
            std::fs::write(&path, tiny.bytes()).unwrap();
            saved.push((*name, path));
        }
        Self::with(ServerConfig::default(), node, &saved)
    }

    pub fn with(config: ServerConfig, node: NodeConfig, files: &[(&str, PathBuf)]) -> Self {
        let model = |(name, path): &(&str, PathBuf)| CatalogModel {
            name: (*name).to_owned(),
            source: ModelSource::File(path.clone()),
            bytes: std::fs::metadata(path).unwrap().len(),
            modified: None,
            sha256: None,
        };
        Self::of_node(config, Node::start(Arc::new(Files(files.iter().map(model).collect())), node).unwrap())
    }

    /// With a node that has models of its own.
    pub fn of_node(config: ServerConfig, node: Node) -> Self {
        let mut listen = vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
        listen.extend(config.listen.iter().filter(|listen| matches!(listen, Listen::Unix { .. })).cloned());
        let server = Server::bind(ServerConfig { listen, ..config }, node).unwrap();
        let (address, stopper) = (server.addresses()[0], server.stopper());
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self { address, stopper, thread: Some(thread) }
    }

    /// Asks the service to end.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// Whether it has ended.
    pub fn wait(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes as they are, and reads until the service closes.
    pub fn raw(&self, request: impl AsRef<[u8]>) -> Vec<u8> {
        let mut stream = self.connect();
        // The service may say no before it has read all.
        let _ = stream.write_all(request.as_ref());
        read_all(&mut stream)
    }

    pub fn get(&self, path: &str) -> Reply {
        Reply::parse(&self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")))
    }

    pub fn post(&self, path: &str, body: &Json) -> Reply {
        self.post_with(path, "", body.to_string().as_bytes())
    }

    /// With more header lines, each ended by a line break.
    pub fn post_with(&self, path: &str, headers: &str, body: &[u8]) -> Reply {
        Reply::parse(&self.raw(post_request(path, headers, body)))
    }

    /// What `/metrics` says of a name without labels.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no `{name}` in\n{text}")).parse().unwrap()
    }

    /// Waits until a metric has this value.
    pub fn wait_for(&self, name: &str, value: u64) {
        let end = Instant::now() + PATIENCE;
        while self.metric(name) != value {
            assert!(Instant::now() < end, "{name} is {}, not {value}", self.metric(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn chat(&self, body: &Json) -> Reply {
        self.post("/v1/chat/completions", body)
    }

    /// The chunks of a streamed answer, without the last event.
    pub fn stream(&self, path: &str, body: &Json) -> Vec<Json> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let reply = self.post(path, &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.header("content-type").starts_with("text/event-stream"));
        let mut events = reply.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", reply.text());
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A question to the built-in model.
pub fn question(text: &str) -> Json {
    json!({ "model": "default", "messages": [{ "role": "user", "content": text }] })
}

pub fn post_request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let kind =
        if headers.to_ascii_lowercase().contains("content-type") { "" } else { "Content-Type: application/json\r\n" };
    let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\n{host}{kind}{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

pub fn read_all(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut part = vec![0; 65536];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return bytes,
            Ok(n) => bytes.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
}

/// Says that nothing more is sent.
pub fn half_close(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// An answer.
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no answer of HTTP: {:?}", String::from_utf8_lossy(bytes));
        });
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let headers: Vec<_> = lines.map(header).collect();
        let body = &bytes[end + 4..];
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { unchunked(body) } else { body.to_vec() };
        Self { status, headers, body }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body of an answer that went well.
    pub fn ok(&self) -> Json {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The error of an answer with this status.
    pub fn error(&self, status: u16) -> Json {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.header("content-type").starts_with("application/json"), "{}", self.text());
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        error
    }

    /// The data of its events.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        body = &body[end + 2..];
        if length == 0 {
            break;
        }
        whole.extend_from_slice(&body[..length.min(body.len())]);
        body = &body[(length + 2).min(body.len())..];
    }
    whole
}
