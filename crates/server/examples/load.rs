//! Puts a running service under load and says how it fares.
//!
//! ```sh
//! hublab serve --port 11500 &
//! cargo run --release -p hublabio-server --example load -- 127.0.0.1:11500 --connections 64 --seconds 60 --pid $!
//! ```
//!
//! Each connection asks one streamed chat question after the other (`--plain`: unstreamed) and measures the time to the first
//! token and to the end. With `--pid` the service's resident memory is sampled each second. The last line is JSON.
//!
//! `--idle N` keeps N more streams open meanwhile. What they ask has no end but that of the context: the tokens of
//! `--end-tokens` (those of the built-in model, unless said otherwise) are forbidden, and a stream whose context is full asks
//! again. At the end those count that are open and have been told something lately, a piece or a `: ping`; fewer than N are a
//! failure. Streams beyond the service's `running_max` wait and are pinged, and the measured questions wait behind them, so
//! give it room for all:
//!
//! ```sh
//! HUBLAB_SERVER_RUNNING_MAX=600 HUBLAB_SERVER_QUEUE_MAX=1000 hublab serve --port 11500 &
//! cargo run --release -p hublabio-server --example load -- 127.0.0.1:11500 --connections 64 --idle 500
//! ```

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const QUESTIONS: [&str; 6] = [
    "What does tar do?",
    "How do I list files in a folder?",
    "What is a slice in Rust?",
    "How do I reverse a list in Python?",
    "What does the command grep do?",
    "Why is the sky blue?",
];

#[derive(Clone)]
struct Options {
    address: String,
    model: String,
    connections: usize,
    idle: usize,
    end_tokens: Vec<u32>,
    seconds: u64,
    max_tokens: usize,
    stream: bool,
    pid: Option<u32>,
    requests: usize,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            address: String::new(),
            model: "default".into(),
            connections: 64,
            idle: 0,
            end_tokens: vec![2, 7],
            seconds: 60,
            max_tokens: 48,
            stream: true,
            pid: None,
            requests: usize::MAX,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            let number = |text: String| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
            match word.as_str() {
                "--model" => options.model = value()?,
                "--connections" => options.connections = number(value()?)?,
                "--idle" => options.idle = number(value()?)?,
                "--end-tokens" => {
                    let ids = value()?;
                    let ids = ids.split(',').map(str::parse).collect::<Result<_, _>>();
                    options.end_tokens = ids.map_err(|error| format!("--end-tokens: {error}"))?;
                }
                "--seconds" => options.seconds = number(value()?)? as u64,
                "--max-tokens" => options.max_tokens = number(value()?)?,
                "--requests" => options.requests = number(value()?)?,
                "--pid" => options.pid = Some(number(value()?)? as u32),
                "--plain" => options.stream = false,
                _ if word.starts_with('-') => return Err(format!("there is no option {word}")),
                _ => options.address = word,
            }
        }
        if options.address.is_empty() {
            return Err("give the address of a service, such as 127.0.0.1:11434".into());
        }
        Ok(options)
    }
}

/// What was seen of one request.
struct Seen {
    first: Duration,
    whole: Duration,
    tokens: usize,
}

/// One connection that is kept open.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    fn send(&mut self, options: &Options, question: &str) -> std::io::Result<()> {
        let body = serde_json::json!({
            "model": options.model,
            "messages": [{ "role": "user", "content": question }],
            "max_tokens": options.max_tokens,
            "stream": options.stream,
        });
        // One write, so that it is one packet.
        self.stream.get_mut().write_all(&request(options, &body))
    }

    /// Status, whether the body is chunked, and its length if not.
    fn head(&mut self) -> Result<(u16, Option<usize>), String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| error.to_string())?;
        let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| format!("no status in {line:?}"))?;
        let mut length = None;
        loop {
            line.clear();
            self.stream.read_line(&mut line).map_err(|error| error.to_string())?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                return Ok((status, length));
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
        }
    }

    /// The next piece of a chunked body; empty at its end.
    fn chunk(&mut self) -> Result<Vec<u8>, String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| error.to_string())?;
        let len = usize::from_str_radix(line.trim(), 16).map_err(|error| format!("chunk length {line:?}: {error}"))?;
        let mut data = vec![0; len + 2];
        self.stream.read_exact(&mut data).map_err(|error| error.to_string())?;
        data.truncate(len);
        Ok(data)
    }

    fn ask(&mut self, options: &Options, question: &str) -> Result<Seen, String> {
        let start = Instant::now();
        self.send(options, question).map_err(|error| error.to_string())?;
        let (status, length) = self.head()?;
        let mut body = Vec::new();
        let mut first = None;
        if let Some(length) = length {
            body.resize(length, 0);
            self.stream.read_exact(&mut body).map_err(|error| error.to_string())?;
        } else {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                body.extend_from_slice(&chunk);
                if first.is_none() && String::from_utf8_lossy(&body).contains("\"content\":\"") {
                    first = Some(start.elapsed());
                }
            }
        }
        let text = String::from_utf8_lossy(&body);
        if status != 200 {
            return Err(format!("status {status}: {}", text.chars().take(200).collect::<String>()));
        }
        if options.stream && !text.trim_end().ends_with("data: [DONE]") {
            return Err(format!("the stream was cut: …{}", text.chars().rev().take(80).collect::<String>()));
        }
        if text.contains("\"error\":") {
            return Err(text.chars().take(300).collect());
        }
        let whole = start.elapsed();
        Ok(Seen { first: first.unwrap_or(whole), whole, tokens: text.matches("\"content\":\"").count() })
    }
}

fn request(options: &Options, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        options.address,
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// A service that is well says something this often, if only a ping (every 15 s).
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// What an answer that is streamed begins and ends with.
const BEGIN: &[u8] = b"HTTP/1.1 200 ";
const END: &[u8] = b"\r\n0\r\n\r\n";

/// A stream that is kept open.
struct Idle {
    stream: TcpStream,
    /// The first bytes of the present answer, and the last ones.
    begin: Vec<u8>,
    end: Vec<u8>,
    heard: Option<Instant>,
    problem: Option<String>,
}

impl Idle {
    fn open(options: &Options) -> std::io::Result<Self> {
        let stream = TcpStream::connect(&options.address)?;
        let mut idle = Self { stream, begin: Vec::new(), end: Vec::new(), heard: None, problem: None };
        idle.ask(options)?;
        Ok(idle)
    }

    fn ask(&mut self, options: &Options) -> std::io::Result<()> {
        let never: serde_json::Map<_, _> =
            options.end_tokens.iter().map(|id| (id.to_string(), (-100).into())).collect();
        let body = serde_json::json!({
            "model": options.model,
            "messages": [{ "role": "user", "content": QUESTIONS[0] }],
            "max_tokens": 1_000_000,
            "logit_bias": never,
            "stream": true,
        });
        (self.begin, self.end) = (Vec::new(), Vec::new());
        self.stream.set_nonblocking(false)?;
        self.stream.write_all(&request(options, &body))?;
        self.stream.set_nonblocking(true)
    }

    /// Takes what has come, and asks again where an answer has ended.
    fn listen(&mut self, options: &Options) {
        if self.problem.is_none()
            && let Err(problem) = self.read(options)
        {
            self.problem = Some(problem);
        }
    }

    fn read(&mut self, options: &Options) -> Result<(), String> {
        let mut part = [0; 16 << 10];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Err("it was closed".into()),
                Ok(n) => {
                    self.heard = Some(Instant::now());
                    let wanted = BEGIN.len() - self.begin.len();
                    self.begin.extend_from_slice(&part[..n.min(wanted)]);
                    if !BEGIN.starts_with(&self.begin) {
                        return Err(String::from_utf8_lossy(&part[..n.min(400)]).into_owned());
                    }
                    self.end.extend_from_slice(&part[n.saturating_sub(END.len())..n]);
                    self.end.drain(..self.end.len().saturating_sub(END.len()));
                    if self.end == END {
                        self.ask(options).map_err(|error| error.to_string())?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn is_held(&self) -> bool {
        self.problem.is_none() && self.heard.is_some_and(|heard| heard.elapsed() < SILENCE_MAX)
    }
}

/// Resident memory in MiB, on Linux.
fn resident_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()? / 1024.0)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn run(options: &Options) -> ExitCode {
    let mut idle = Vec::new();
    for number in 0..options.idle {
        match Idle::open(options) {
            Ok(stream) => idle.push(stream),
            Err(error) => {
                eprintln!("idle connection {number}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let errors: Arc<Mutex<Vec<String>>> = Arc::default();
    let start = Instant::now();
    let mut memory: Vec<f64> = Vec::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                idle.iter_mut().for_each(|stream| stream.listen(options));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        std::thread::scope(|scope| {
            for number in 0..options.connections {
                let (stop, asked, seen, errors) = (&stop, &asked, &seen, &errors);
                scope.spawn(move || {
                    let mut connection = None;
                    let mut turn = number;
                    while !stop.load(Ordering::Relaxed) && asked.fetch_add(1, Ordering::Relaxed) < options.requests {
                        turn += 1;
                        let result = match &mut connection {
                            Some(connection) => Ok(connection),
                            none => Connection::open(&options.address).map(|opened| none.insert(opened)),
                        };
                        let result = result.map_err(|error| error.to_string());
                        match result.and_then(|connection| connection.ask(options, QUESTIONS[turn % QUESTIONS.len()])) {
                            Ok(one) => seen.lock().expect("no thread panics").push(one),
                            Err(error) => {
                                errors.lock().expect("no thread panics").push(error);
                                connection = None;
                            }
                        }
                    }
                });
            }
            while start.elapsed() < Duration::from_secs(options.seconds)
                && asked.load(Ordering::Relaxed) < options.requests
            {
                std::thread::sleep(Duration::from_millis(if options.requests == usize::MAX { 1000 } else { 20 }));
                memory.extend(options.pid.and_then(resident_mib));
            }
            stop.store(true, Ordering::Relaxed);
        });
        done.store(true, Ordering::Relaxed);
    });
    let elapsed = start.elapsed().as_secs_f64();
    let held = idle.iter().filter(|stream| stream.is_held()).count();
    for problem in idle.iter().filter_map(|stream| stream.problem.as_ref()).take(5) {
        eprintln!("idle stream: {problem}");
    }
    report(
        options,
        elapsed,
        held,
        &seen.lock().expect("no thread panics"),
        &errors.lock().expect("no thread panics"),
        &memory,
    );
    if held < options.idle || !errors.lock().expect("no thread panics").is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn report(options: &Options, elapsed: f64, held: usize, seen: &[Seen], errors: &[String], memory: &[f64]) {
    let sorted = |of: fn(&Seen) -> Duration| {
        let mut found: Vec<f64> = seen.iter().map(|one| of(one).as_secs_f64() * 1e3).collect();
        found.sort_by(f64::total_cmp);
        found
    };
    let (first, whole) = (sorted(|one| one.first), sorted(|one| one.whole));
    for error in errors.iter().take(5) {
        eprintln!("error: {error}");
    }
    let middle = memory.len() / 2;
    let highest = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let figures = serde_json::json!({
        "connections": options.connections,
        "idle": options.idle,
        "idle_held": held,
        "seconds": elapsed,
        "requests": seen.len(),
        "errors": errors.len(),
        "requests_per_s": seen.len() as f64 / elapsed,
        "tokens_per_s": seen.iter().map(|one| one.tokens).sum::<usize>() as f64 / elapsed,
        "first_token_ms": { "p50": percentile(&first, 0.5), "p95": percentile(&first, 0.95), "p99": percentile(&first, 0.99) },
        "whole_ms": { "p50": percentile(&whole, 0.5), "p95": percentile(&whole, 0.95), "p99": percentile(&whole, 0.99) },
        "resident_mib": { "first_half": highest(&memory[..middle]), "second_half": highest(&memory[middle..]) },
    });
    println!("{figures}");
}

fn main() -> ExitCode {
    match Options::parse() {
        Ok(options) => run(&options),
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(2)
        }
    }
}
