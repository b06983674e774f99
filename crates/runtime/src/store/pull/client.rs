//! Requests of HTTP. The one place that opens a connection out.
//!
//! Redirects are followed here, not by the library: a bounded number, never from https to http, with the login for one server
//! never sent to another, and with what the first answer said about the file.

use std::io::{self, Read as _};
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, ProxyProtocol};

use super::super::error::StoreError;
use super::super::is_sha256;
use super::PullConfig;
use super::reference::Url;

const REDIRECTS_MAX: usize = 8;
/// The longest wait that a server may ask for before it is not worth it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// Why a request did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may the next time.
    Transient { problem: String, status: Option<u16>, wait: Option<Duration> },
    /// The host has no address: a slip of the pen, or a network that is not there at the moment.
    Unresolved { host: String },
    /// It will not.
    Fatal(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Fatal(error)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
}

/// An answer: 200, 206 or 416.
pub(super) struct Answer {
    pub status: u16,
    pub response: Response<Body>,
    /// SHA-256 and size of the file, as Hugging Face's first answer has them.
    pub linked_sha256: Option<String>,
    pub linked_bytes: Option<u64>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }

    pub fn etag(&self) -> Option<String> {
        self.header("etag").map(str::to_owned)
    }

    pub fn last_modified(&self) -> Option<String> {
        self.header("last-modified").map(str::to_owned)
    }

    /// Bytes of the body, where the answer says so.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Of a 206 or 416: the first byte and the total.
    pub fn content_range(&self) -> Option<(Option<u64>, Option<u64>)> {
        self.header("content-range").and_then(parse_content_range)
    }
}

/// The first byte and the total of a `Content-Range`, `bytes FIRST-LAST/TOTAL` or `bytes */TOTAL` (RFC 9110, section 14.4).
pub(super) fn parse_content_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
    Some((first, total.trim().parse().ok()))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) struct Client<'a> {
    agent: Agent,
    config: &'a PullConfig,
    hf_endpoint: Url,
}

impl<'a> Client<'a> {
    pub fn new(config: &'a PullConfig, hf_endpoint: Url) -> Result<Self, StoreError> {
        if config.environment_proxy {
            check_proxy()?;
        }
        let builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(config.connect_timeout))
            .timeout_connect(Some(config.connect_timeout))
            .timeout_per_read(Some(config.read_timeout))
            .timeout_per_write(Some(config.read_timeout))
            .user_agent(concat!("hublab/", env!("CARGO_PKG_VERSION")));
        let builder = if config.environment_proxy { builder } else { builder.proxy(None) };
        Ok(Self { agent: Agent::new_with_config(builder.build()), config, hf_endpoint })
    }

    /// Ends what waits for a server, from another thread.
    pub fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// Asks, and follows where it is sent to. With `Head`, an answer that says all about the file is not followed further.
    pub fn ask(&self, method: Method, url: &Url, headers: &[(&str, &str)]) -> Result<Answer, Failure> {
        let mut at = url.clone();
        let (mut linked_sha256, mut linked_bytes) = (None, None);
        for _ in 0..=REDIRECTS_MAX {
            let response = self.ask_once(method, &at, headers)?;
            let status = response.status().as_u16();
            let found = response.headers();
            if at.is_same_origin(&self.hf_endpoint) || at.is_same_origin(url) {
                let linked = header(found, "x-linked-etag").map(|etag| etag.trim_matches('"'));
                let hash = linked.filter(|etag| is_sha256(etag)).map(str::to_ascii_lowercase);
                linked_sha256 = linked_sha256.or(hash);
                linked_bytes = linked_bytes.or(header(found, "x-linked-size").and_then(|size| size.parse().ok()));
            }
            let is_redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
            let enough = method == Method::Head && linked_sha256.is_some() && linked_bytes.is_some();
            if !is_redirect || enough {
                if !is_redirect {
                    check_status(url, status, found, &self.hf_endpoint)?;
                }
                return Ok(Answer { status, response, linked_sha256, linked_bytes });
            }
            at = follow(&at, header(found, "location"))?;
        }
        let problem = format!("it redirects more than {REDIRECTS_MAX} times");
        Err(StoreError::BadAnswer { url: url.without_query(), problem }.into())
    }

    fn ask_once(&self, method: Method, url: &Url, headers: &[(&str, &str)]) -> Result<Response<Body>, Failure> {
        if url.tls && !cfg!(feature = "tls") {
            return Err(StoreError::BadAnswer {
                url: url.without_query(),
                problem: "this program was built without TLS (feature `tls`): https cannot be fetched".into(),
            }
            .into());
        }
        let mut request = match method {
            Method::Get => self.agent.get(url.to_string()),
            Method::Head => self.agent.head(url.to_string()),
        };
        // A length counts only if nobody packs the bytes on the way.
        request = request.header("accept-encoding", "identity");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.config.hf_token.as_deref().filter(|_| url.is_same_origin(&self.hf_endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|error| failure(url, error))
    }

    /// A small document.
    pub fn document(&self, url: &Url, accept: &str, bytes_max: u64) -> Result<Vec<u8>, Failure> {
        let answer = self.ask(Method::Get, url, &[("accept", accept)])?;
        let mut bytes = Vec::new();
        let read = answer.response.into_body().into_reader().take(bytes_max + 1).read_to_end(&mut bytes);
        read.map_err(|cause| broken_off(&cause))?;
        if bytes.len() as u64 > bytes_max {
            let problem = format!("its answer is longer than {bytes_max} bytes");
            return Err(StoreError::BadAnswer { url: url.without_query(), problem }.into());
        }
        Ok(bytes)
    }
}

/// Refuses a proxy that is asked for and cannot be used. The library would leave it out, and connect in the way that was not wanted.
fn check_proxy() -> Result<(), StoreError> {
    // In the order in which the library looks for one.
    const VARIABLES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let Some(variable) = VARIABLES.into_iter().find(set) else { return Ok(()) };
    let proxy = std::env::var(variable).ok().and_then(|value| ureq::Proxy::new(&value).ok());
    match proxy.map(|proxy| proxy.protocol()) {
        Some(ProxyProtocol::Http | ProxyProtocol::Https) => Ok(()),
        _ => Err(StoreError::BadProxy { variable }),
    }
}

/// Where a redirect from `at` leads.
fn follow(at: &Url, location: Option<&str>) -> Result<Url, StoreError> {
    let bad = |problem: String| StoreError::BadAnswer { url: at.without_query(), problem };
    let location = location.ok_or_else(|| bad("it redirects, and leads nowhere".into()))?;
    let next = at.join(location).map_err(|problem| bad(format!("it redirects to what is no address: {problem}")))?;
    if at.tls && !next.tls {
        return Err(bad(format!(
            "it redirects from https to {}, where anyone on the way could change what comes: not followed",
            next.without_query()
        )));
    }
    Ok(next)
}

/// What a failed request means.
fn failure(url: &Url, error: ureq::Error) -> Failure {
    let transient = |problem: String| Failure::Transient { problem, status: None, wait: None };
    match error {
        ureq::Error::Timeout(_) => transient("the server does not answer in time".into()),
        // The standard library has no kind for it yet; with other words it is a failed connection like others.
        ureq::Error::Io(cause) if cause.to_string().starts_with("failed to lookup address") => {
            Failure::Unresolved { host: url.authority.clone() }
        }
        ureq::Error::Io(cause) => broken_off(&cause),
        ureq::Error::HostNotFound => Failure::Unresolved { host: url.authority.clone() },
        ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => transient(error.to_string()),
        // What is no HTTP may be a proxy's or a network's own page, and gone the next time.
        ureq::Error::Protocol(_) => transient(format!("the answer is no HTTP: {error}")),
        error => StoreError::BadAnswer { url: url.without_query(), problem: error.to_string() }.into(),
    }
}

/// What a connection that failed means.
pub(super) fn broken_off(cause: &io::Error) -> Failure {
    let problem = match cause.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "nothing comes any more".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection ended before the file".to_owned(),
        _ => match cause.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
            Some(ureq::Error::Timeout(_)) => "nothing comes any more".to_owned(),
            _ => format!("the connection failed: {cause}"),
        },
    };
    Failure::Transient { problem, status: None, wait: None }
}

/// Turns a refusal into advice.
fn check_status(url: &Url, status: u16, headers: &HeaderMap, hf_endpoint: &Url) -> Result<(), Failure> {
    let is_hf = url.is_same_origin(hf_endpoint);
    let advice = match status {
        200 | 206 | 416 => return Ok(()),
        408 | 425 | 429 | 500..=599 => {
            let reason = if status == 429 { "too many requests" } else { "not at the moment" };
            match header(headers, "retry-after").and_then(parse_retry_after) {
                Some(wait) if wait > RETRY_AFTER_MAX => {
                    format!("{reason}: try again in {} minutes", wait.as_secs().div_ceil(60))
                }
                wait => {
                    let problem = format!("the server answers {status}, {reason}");
                    return Err(Failure::Transient { problem, status: Some(status), wait });
                }
            }
        }
        401 | 403 if is_hf => "the repository is not there, or private, or its licence must be accepted first: check the name, accept the \
                         licence on its page, and set HF_TOKEN to a token from huggingface.co/settings/tokens"
            .into(),
        401 => "it asks for a login, which this program has none for: fetch the file with other means, and put it into the folder \
                for models"
            .into(),
        403 => "it does not give this file away: a signed address may have expired".into(),
        404 | 410 => "there is no such file: check owner, repository, file, revision and tag, letter case too".into(),
        _ => "that is no file".into(),
    };
    Err(StoreError::Refused { url: url.without_query(), status, advice }.into())
}

/// `Retry-After` in seconds; its form as a date is rare, and left to the ordinary wait.
pub(super) fn parse_retry_after(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_do_not_give_up_what_https_promises() {
        let check = |from: &str, to: &str| {
            let followed = follow(&Url::parse(from).unwrap(), Some(to));
            followed.map(|url| url.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(check("https://a/x", "https://b/y?z").unwrap(), "https://b/y?z");
        assert_eq!(check("https://a/x", "/y").unwrap(), "https://a/y");
        assert_eq!(check("https://a/x", "//b/y").unwrap(), "https://b/y");
        assert_eq!(check("http://a/x", "https://b/y").unwrap(), "https://b/y");
        let refused = check("https://a/x?secret", "http://a/y?secret").unwrap_err();
        assert!(refused.contains("http://a/y") && refused.contains("not followed"), "{refused}");
        assert!(!refused.contains("secret"));
        assert!(follow(&Url::parse("http://a/").unwrap(), None).is_err());
    }
}
