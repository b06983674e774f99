//! Who may ask: keys, the names by which the service is called, and pages of other origins.
//!
//! A service on loopback is reached by every page that the user's browser shows. A page of another origin cannot read the answer,
//! but it can send a request; and a name that is made to point to 127.0.0.1 makes the page one of the same origin. So the name is
//! looked at, and a request that says it comes from another origin must change nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::config::{ServerConfig, StartError};
use crate::error::ApiError;
use crate::state::App;

/// Shorter keys can be guessed.
const KEY_BYTES_MIN: usize = 16;
/// Keys in a file, and bytes of it.
const KEYS_MAX: usize = 1000;
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;
/// How often a changed file of keys is looked for.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// What is answered without a key: that the service is there, and pages that hold no secret.
const OPEN_PATHS: [&str; 4] = ["/", "/health", "/ready", "/favicon.svg"];
const OPEN_FOLDER: &str = "/assets/";

/// From where a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Through the socket file, whose permissions have decided already.
    Unix,
}

/// A client with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name in the file of keys.
    pub name: Arc<str>,
}

struct Key {
    client: Client,
    secret: Vec<u8>,
    per_minute: Option<u32>,
    bucket: Mutex<Bucket>,
}

/// What is left of a limit, and since when.
struct Bucket {
    left: f64,
    at: Instant,
}

/// The keys of a file, read again when it changes.
pub struct KeyRing {
    path: PathBuf,
    state: Mutex<Keys>,
}

struct Keys {
    ring: Arc<Vec<Key>>,
    modified: Option<SystemTime>,
    looked: Instant,
}

impl KeyRing {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, holds no key, or a line is none.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let bad = |problem| StartError::Keys { path: path.to_owned(), problem };
        let modified = modified(path);
        let keys = read_keys(path).map_err(bad)?;
        let state = Keys { ring: Arc::new(keys), modified, looked: Instant::now() };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// The keys as the file has them now; a file that became unreadable changes nothing.
    fn current(&self) -> Arc<Vec<Key>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= RELOAD_INTERVAL {
            state.looked = Instant::now();
            let now = modified(&self.path);
            if now != state.modified {
                state.modified = now;
                match read_keys(&self.path) {
                    Ok(keys) => state.ring = Arc::new(keys),
                    Err(problem) => {
                        tracing::error!("{}: {problem}; the keys stay as they were", self.path.display());
                    }
                }
            }
        }
        Arc::clone(&state.ring)
    }

    /// Whose key this is, its limit observed.
    fn check(&self, given: Option<&[u8]>) -> Result<Client, ApiError> {
        let refuse = |message: &str| ApiError::new(StatusCode::UNAUTHORIZED, message).coded("invalid_api_key");
        let given = given.ok_or_else(|| {
            refuse("this service wants a key: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`")
        })?;
        let keys = self.current();
        // Every key is compared, each in a time that does not depend on where it differs.
        let mut found = None;
        for key in keys.iter() {
            if bool::from(key.secret.ct_eq(given)) {
                found = Some(key);
            }
        }
        let key = found.ok_or_else(|| refuse("this service does not know that key"))?;
        key.take()?;
        Ok(key.client.clone())
    }
}

impl Key {
    /// Takes one request from the limit.
    fn take(&self) -> Result<(), ApiError> {
        let Some(per_minute) = self.per_minute else { return Ok(()) };
        let rate = f64::from(per_minute) / 60.0;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        bucket.left = (bucket.left + now.duration_since(bucket.at).as_secs_f64() * rate).min(f64::from(per_minute));
        bucket.at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let wait = ((1.0 - bucket.left) / rate).ceil().max(1.0) as u64;
        let message = format!("the key of `{}` allows {per_minute} requests a minute: wait {wait} s", self.client.name);
        Err(ApiError {
            retry_after_s: Some(wait),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).coded("rate_limit_exceeded")
        })
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|data| data.modified()).ok()
}

fn read_keys(path: &Path) -> Result<Vec<Key>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut text = String::new();
    let read = file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let bytes = read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes as u64 > KEY_FILE_BYTES_MAX {
        return Err(format!("is longer than {KEY_FILE_BYTES_MAX} bytes"));
    }
    parse_keys(&text)
}

fn parse_keys(text: &str) -> Result<Vec<Key>, String> {
    let mut keys: Vec<Key> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |problem: String| Err(format!("line {}: {problem}", at + 1));
        let mut words = line.split_whitespace();
        let (Some(name), Some(secret)) = (words.next(), words.next()) else {
            return bad("it is not `NAME KEY [requests_per_minute=N]`".into());
        };
        if secret.len() < KEY_BYTES_MIN {
            return bad(format!("the key of `{name}` is shorter than {KEY_BYTES_MIN} characters: make a random one"));
        }
        let mut per_minute = None;
        for word in words {
            let limit = word.strip_prefix("requests_per_minute=").and_then(|number| number.parse::<u32>().ok());
            match limit.filter(|&limit| limit > 0) {
                Some(limit) => per_minute = Some(limit),
                None => return bad(format!("`{word}` is no limit: write requests_per_minute=N")),
            }
        }
        if keys.iter().any(|key| *key.client.name == *name) {
            return bad(format!("there are two keys called `{name}`"));
        }
        if keys.len() == KEYS_MAX {
            return bad(format!("there are more than {KEYS_MAX} keys"));
        }
        keys.push(Key {
            client: Client { name: name.into() },
            secret: secret.as_bytes().to_vec(),
            per_minute,
            bucket: Mutex::new(Bucket { left: f64::from(per_minute.unwrap_or(0)), at: Instant::now() }),
        });
    }
    if keys.is_empty() { Err("it holds no key: write lines `NAME KEY`".into()) } else { Ok(keys) }
}

/// The layer that every request passes first.
pub async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let origin = headers.get(header::ORIGIN).cloned();
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::Unix);
    let allowed = match judge(&app, peer, &request) {
        Ok(allowed) => allowed,
        Err(error) => return error.into_response(),
    };
    if request.method() == Method::OPTIONS && allowed && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        let mut response = StatusCode::NO_CONTENT.into_response();
        allow_origin(response.headers_mut(), origin.as_ref());
        let headers = response.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, authorization"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        return response;
    }
    let path = request.uri().path();
    let is_open = OPEN_PATHS.contains(&path) || path.starts_with(OPEN_FOLDER);
    if let Some(keys) = app.keys()
        && peer != Peer::Unix
        && !is_open
    {
        match keys.check(given_key(request.headers())) {
            Ok(client) => {
                request.extensions_mut().insert(client);
            }
            Err(error) => {
                let mut response = error.into_response();
                if allowed {
                    allow_origin(response.headers_mut(), origin.as_ref());
                }
                return response;
            }
        }
    }
    let mut response = next.run(request).await;
    if allowed {
        allow_origin(response.headers_mut(), origin.as_ref());
    }
    response
}

/// Whether the page that sends the request may read the answer (`false` where no page of another origin does).
fn judge(app: &App, peer: Peer, request: &Request) -> Result<bool, ApiError> {
    let config = app.config();
    let headers = request.headers();
    let refuse = |message: String| Err(ApiError::new(StatusCode::FORBIDDEN, message));
    // A browser cannot reach a socket file.
    let Peer::Tcp(_) = peer else { return Ok(false) };
    // A request line may hold the whole address, and then that counts.
    let host = request.uri().host().or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()));
    if let Some(host) = host
        && !is_allowed_host(host, &config.allowed_hosts)
    {
        return refuse(format!(
            "this service is not called `{host}`: start it with --allow-host {}",
            without_port(host)
        ))
        .map_err(|error| error.coded("host_not_allowed"));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(false) };
    let origin = origin.to_str().unwrap_or_default();
    if is_allowed_origin(origin, config) {
        return Ok(true);
    }
    let same = host.is_some_and(|host| {
        origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
    });
    if same || matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(false);
    }
    refuse(format!("pages of `{origin}` may not call this service: start it with --cors-origin {origin}"))
        .map_err(|error| error.coded("origin_not_allowed"))
}

/// Whether a browser says (`Sec-Fetch-Site`) that the request comes from a page of another origin that is not allowed. A
/// request that changes nothing comes through without being asked about, and its answer is hidden from the page; the time
/// that it takes is not.
pub fn is_of_foreign_page(headers: &HeaderMap, config: &ServerConfig) -> bool {
    let from = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_foreign = matches!(from("sec-fetch-site"), Some("cross-site" | "same-site"));
    is_foreign && !from("origin").is_some_and(|origin| is_allowed_origin(origin, config))
}

fn is_allowed_origin(origin: &str, config: &ServerConfig) -> bool {
    config.cors_origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

fn given_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked("Bearer ".len())?;
        return scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii());
    }
    headers.get("x-api-key").map(HeaderValue::as_bytes)
}

fn allow_origin(headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Names that are this machine's own, addresses in figures (which no name server can point elsewhere), and those that were allowed.
fn is_allowed_host(host: &str, allowed: &[String]) -> bool {
    let name = without_port(host).trim_end_matches('.');
    let figures = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || figures.parse::<IpAddr>().is_ok()
        || allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_keys_is_read_line_by_line() {
        let keys = parse_keys("# ours\n\nada 0123456789abcdef\nbob fedcba9876543210 requests_per_minute=2\n").unwrap();
        assert_eq!(
            keys.iter().map(|key| (&*key.client.name, key.per_minute)).collect::<Vec<_>>(),
            [("ada", None), ("bob", Some(2))]
        );
        for (text, said) in [
            ("", "no key"),
            ("ada", "line 1: it is not"),
            ("ada short", "line 1: the key of `ada` is shorter"),
            ("a 0123456789abcdef\na 0123456789abcdeg", "line 2: there are two keys"),
            ("a 0123456789abcdef rpm=2", "`rpm=2` is no limit"),
            ("a 0123456789abcdef requests_per_minute=0", "is no limit"),
        ] {
            let problem = parse_keys(text).err().unwrap();
            assert!(problem.contains(said), "{problem}");
        }
    }

    #[test]
    fn a_limit_lets_so_many_pass() {
        let keys = parse_keys("bob fedcba9876543210 requests_per_minute=2").unwrap();
        keys[0].take().unwrap();
        keys[0].take().unwrap();
        let error = keys[0].take().unwrap_err();
        assert_eq!(error.status, 429);
        assert!(error.retry_after_s.unwrap() >= 1);
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        let own = ["hub.lan".to_owned()];
        for host in [
            "localhost",
            "localhost:80",
            "a.localhost",
            "127.0.0.1:1",
            "[::1]:8",
            "192.168.1.4",
            "HUB.lan:1",
            "localhost.",
        ] {
            assert!(is_allowed_host(host, &own), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "", "lan"] {
            assert!(!is_allowed_host(host, &own), "{host}");
        }
    }
}
