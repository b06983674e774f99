// A service of a few lines, which says what a test wants it to say. Also part of the example in the client's documentation, which
// has no place for a module's header.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value as Json, json};

/// A request as it came.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "not every test looks at all of it")]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Json,
}

#[allow(dead_code, reason = "not every test looks at all of it")]
impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }
}

/// What the service says.
#[allow(dead_code, reason = "not every test has all of them")]
pub enum Reply {
    /// A status, more headers, and a body.
    Whole(u16, &'static str, String),
    /// Pieces of a stream, each a chunk and a write of its own, and what comes then.
    Pieces(Vec<Vec<u8>>, Then),
    /// The head of an answer, and not all of its body.
    Half,
    /// Nothing, until the client goes.
    Silence,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every test has all of them")]
pub enum Then {
    End,
    Cut,
    Silence,
}

/// What a service is given: it says what to answer.
pub type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running service. Its threads end with the test's process.
#[allow(dead_code, reason = "not every test looks at all of it")]
pub struct Service {
    pub address: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// Says so when a client has gone during a silence.
    pub gone: mpsc::Receiver<()>,
}

#[allow(dead_code, reason = "not every test starts one itself")]
impl Service {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(address, handler, move || listener.accept().map(|accepted| accepted.0).ok())
    }

    #[cfg(unix)]
    pub fn start_unix(path: &std::path::Path, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        let address = format!("unix:{}", path.display());
        Self::serve(address, handler, move || listener.accept().map(|accepted| accepted.0).ok())
    }

    fn serve<S: Connection>(
        address: String,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        accept: impl Fn() -> Option<S> + Send + 'static,
    ) -> Self {
        let (handler, requests): (Arc<Handler>, _) = (Arc::new(handler), Arc::new(Mutex::new(Vec::new())));
        let (is_gone, gone) = mpsc::channel();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            while let Some(stream) = accept() {
                let (handler, seen, is_gone) = (Arc::clone(&handler), Arc::clone(&seen), is_gone.clone());
                // What a client does to its connection is no matter of the service's.
                std::thread::spawn(move || answer(stream, &*handler, &seen, &is_gone).ok());
            }
        });
        Self { address, requests, gone }
    }

    pub fn last_request(&self) -> Request {
        self.requests.lock().unwrap().last().cloned().expect("a request came")
    }
}

trait Connection: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> std::io::Result<Self>;
}

impl Connection for TcpStream {
    fn twin(&self) -> std::io::Result<Self> {
        self.set_nodelay(true)?;
        self.try_clone()
    }
}

#[cfg(unix)]
impl Connection for std::os::unix::net::UnixStream {
    fn twin(&self) -> std::io::Result<Self> {
        self.try_clone()
    }
}

fn answer<S: Connection>(
    stream: S,
    handler: &Handler,
    seen: &Mutex<Vec<Request>>,
    is_gone: &mpsc::Sender<()>,
) -> std::io::Result<()> {
    let (mut writer, mut reader) = (stream.twin()?, BufReader::new(stream));
    let request = read_request(&mut reader)?;
    seen.lock().unwrap().push(request.clone());
    let mut then = Then::End;
    match handler(&request) {
        Reply::Whole(status, headers, body) => {
            let length = body.len();
            write!(writer, "HTTP/1.1 {status} S\r\n{headers}content-length: {length}\r\n\r\n{body}")?;
        }
        Reply::Half => write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{{")?,
        Reply::Silence => then = Then::Silence,
        Reply::Pieces(pieces, last) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            writer.write_all(head.as_bytes())?;
            for piece in pieces {
                write!(writer, "{:x}\r\n", piece.len())?;
                writer.write_all(&piece)?;
                writer.write_all(b"\r\n")?;
                writer.flush()?;
            }
            then = last;
            if then == Then::End {
                writer.write_all(b"0\r\n\r\n")?;
            }
        }
    }
    // Nothing more comes from a client but its end, which is an error where it has left something unread.
    if then == Then::Silence && matches!(reader.read(&mut [0]), Ok(0) | Err(_)) {
        is_gone.send(()).ok();
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|header| header.0 == "content-length").map_or(0, |h| h.1.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { line, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// Answers every endpoint: messages with the last one, token ids with the bytes of texts.
pub fn echo(request: &Request) -> Reply {
    let body = &request.body;
    let said = || body["messages"].as_array().and_then(|m| m.last()).map_or(Json::Null, |m| m["content"].clone());
    let whole = |json: Json| Reply::Whole(200, "", json.to_string());
    let model = body["model"].as_str().unwrap_or("default");
    match request.line.as_str() {
        "GET /health" => whole(json!({ "status": "ok", "version": "0.1.0" })),
        "POST /api/load" => {
            let name = model.rsplit('/').next().unwrap().trim_end_matches(".gguf");
            whole(json!({ "model": name, "load_s": 0.5 }))
        }
        "POST /api/unload" => whole(json!({ "model": body["model"], "was_loaded": true })),
        "POST /api/tokenize" => {
            whole(json!({ "ids": body["text"].as_str().unwrap().bytes().map(u32::from).collect::<Vec<_>>() }))
        }
        "POST /api/detokenize" => whole(json!({ "text": format!("{}", body["ids"]) })),
        "GET /v1/models" => whole(json!({ "object": "list", "data": [{ "id": "m", "object": "model" }] })),
        "GET /api/ps" => whole(json!({ "models": [{ "name": "m" }], "hublab": { "running": 2 } })),
        "POST /v1/embeddings" => {
            let texts = body["input"].as_array().unwrap();
            // In another order than asked for.
            let vector = |(at, text): (usize, &Json)| json!({ "object": "embedding", "index": at, "embedding": [text.as_str().unwrap().len(), 0.5] });
            let data: Vec<Json> = texts.iter().enumerate().map(vector).rev().collect();
            whole(json!({ "object": "list", "data": data, "model": model }))
        }
        "POST /v1/chat/completions" if body["stream"] == true => {
            let text = said().as_str().unwrap().to_owned();
            let mut events = vec![json!({ "delta": { "role": "assistant", "content": "" } })];
            events.extend(text.split_inclusive(' ').map(|word| json!({ "delta": { "content": word } })));
            events.push(json!({ "delta": {}, "finish_reason": "stop" }));
            Reply::Pieces(vec![events_of(&events).into_bytes()], Then::End)
        }
        "POST /v1/chat/completions" => whole(json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{ "message": { "role": "assistant", "content": said() }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 },
            "hublab": { "timings": { "prompt_s": 0.25, "decode_s": 0.5, "tokens_per_s": 4.0 } },
        })),
        other => Reply::Whole(404, "", json!({ "error": { "message": format!("no {other}") } }).to_string()),
    }
}

/// A whole stream with these choices, a chunk for each.
pub fn events_of(choices: &[Json]) -> String {
    let chunk = |choices: &[&Json]| json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": choices });
    let mut events: Vec<String> = choices.iter().map(|choice| format!("data: {}\n\n", chunk(&[choice]))).collect();
    let mut last = chunk(&[]);
    last["usage"] = json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 });
    events.push(format!(": ping\n\ndata: {last}\n\ndata: [DONE]\n\n"));
    events.concat()
}

/// Long enough for a machine that is busy, and far from forever.
#[allow(dead_code, reason = "not every test waits")]
pub const PATIENCE: Duration = Duration::from_secs(60);
