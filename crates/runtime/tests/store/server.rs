//! A server of HTTP that does as it is told, on this machine alone.
//!
//! Each request takes the next [`Reply`] of its path; the last one stays. What was asked is kept.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What one request gets.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
    /// Whether a range is honoured.
    pub ranges: bool,
    /// The length that is claimed, if it is not the true one.
    pub claimed_length: Option<u64>,
    /// No length at all: the end of the connection is the end of the body.
    pub no_length: bool,
    /// After so many bytes of the body the connection is closed.
    pub cut_after: Option<usize>,
    /// After so many bytes of the body nothing comes any more, for this long.
    pub stall: Option<(usize, Duration)>,
    /// Whether HEAD is answered with this instead.
    pub head_status: Option<u16>,
    /// Where a range is said to begin, if not where it does.
    pub claimed_first: Option<u64>,
    /// Pauses after each piece of 16 KiB.
    pub pause: Duration,
}

impl Reply {
    /// A file, in ranges if they are asked for.
    pub fn file(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ranges: true, ..Self::default() }.header("etag", "\"one\"")
    }

    /// Nothing but a status.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("location", location)
    }

    /// Adds a header, or replaces it.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn without_header(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in small letters.
    pub headers: HashMap<String, String>,
}

type Routes = HashMap<String, Vec<Reply>>;

pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(routes: &[(&str, Vec<Reply>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let routes: Routes = routes.iter().map(|(path, replies)| ((*path).to_owned(), replies.clone())).collect();
        let routes = Arc::new(Mutex::new(routes));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (routes, kept, stopped) = (Arc::clone(&routes), Arc::clone(&kept), Arc::clone(&stopped));
                thread::spawn(move || drop(serve(&stream, &routes, &kept, &stopped)));
            }
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The first bytes that were asked for, of each GET: 0 without a range.
    pub fn ranges(&self) -> Vec<u64> {
        let gets = self.requests().into_iter().filter(|request| request.method == "GET");
        gets.map(|request| request.headers.get("range").map_or(0, |range| first_of(range).unwrap())).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn first_of(range: &str) -> Option<u64> {
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

/// Answers one request and closes.
fn serve(
    stream: &TcpStream,
    routes: &Mutex<Routes>,
    kept: &Mutex<Vec<Request>>,
    stopped: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let is_head = method == "HEAD";
    kept.lock().unwrap().push(Request { method, path: path.clone(), headers: headers.clone() });
    let reply = {
        let mut routes = routes.lock().unwrap();
        match routes.get_mut(&path) {
            // HEAD asks what a GET would get, and takes nothing from the queue but failures.
            Some(replies) if replies.len() > 1 && (!is_head || replies[0].status != 200) => replies.remove(0),
            Some(replies) => replies[0].clone(),
            None => Reply::status(404),
        }
    };
    let sent = send(stream, &reply, is_head, &headers, stopped);
    // What the client still sends is taken, so that closing is no reset, which could overtake the answer.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = reader.read(&mut [0; 64]);
    sent
}

fn send(
    mut stream: &TcpStream,
    reply: &Reply,
    is_head: bool,
    headers: &HashMap<String, String>,
    stopped: &AtomicBool,
) -> std::io::Result<()> {
    let etag = reply.headers.iter().find(|(name, _)| *name == "etag").map(|(_, value)| value);
    let is_current = headers.get("if-range").is_none_or(|wanted| Some(wanted) == etag);
    let wanted = headers
        .get("range")
        .and_then(|range| first_of(range))
        .filter(|_| reply.ranges && reply.status == 200 && is_current);
    let total = reply.body.len() as u64;
    let (mut status, mut body) = (reply.status, reply.body.as_slice());
    let mut head = String::new();
    if let Some(first) = wanted {
        if first >= total {
            status = 416;
            body = &[];
            write!(head, "content-range: bytes */{total}\r\n").expect("a String takes any text");
        } else {
            status = 206;
            body = &body[first as usize..];
            let claimed = reply.claimed_first.unwrap_or(first);
            write!(head, "content-range: bytes {claimed}-{}/{total}\r\n", total - 1).expect("a String takes any text");
        }
    }
    if is_head {
        status = reply.head_status.unwrap_or(status);
    }
    if !reply.no_length {
        let length = reply.claimed_length.unwrap_or(body.len() as u64);
        write!(head, "content-length: {length}\r\n").expect("a String takes any text");
    }
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").expect("a String takes any text");
    }
    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n{head}\r\n")?;
    if is_head {
        return Ok(());
    }
    let mut sent = 0;
    for piece in body.chunks(16 << 10) {
        let mut piece = piece;
        if let Some(cut) = reply.cut_after {
            piece = &piece[..piece.len().min(cut.saturating_sub(sent))];
        }
        if let Some((at, long)) = reply.stall.filter(|(at, _)| sent + piece.len() > *at) {
            stream.write_all(&piece[..at.saturating_sub(sent)])?;
            let end = std::time::Instant::now() + long;
            while std::time::Instant::now() < end && !stopped.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            return Ok(());
        }
        stream.write_all(piece)?;
        sent += piece.len();
        if reply.cut_after == Some(sent) {
            return Ok(());
        }
        thread::sleep(reply.pause);
    }
    Ok(())
}
