//! Requests over HTTP/1.1, on a TCP or Unix socket, through TLS where the address says so.
//!
//! Every request has a connection of its own. To a service on the same machine that costs some tens of microseconds, and it makes
//! one thing certain: when the answer is dropped the connection is closed, and that is how the service learns that nobody waits.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::address::Address;
use super::error::{Attempt, Error, Result};
#[cfg(feature = "tls")]
use super::tls::Trust;

/// Most bytes of an answer that is read whole.
const BODY_BYTES_MAX: usize = 256 << 20;
/// Most bytes of an error that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A service and how to speak to it. Not `Debug`: it holds a key.
#[derive(Clone)]
pub(crate) struct Http {
    pub address: Address,
    pub key: Option<String>,
    #[cfg(feature = "tls")]
    pub trust: Trust,
    /// How long a connection may take.
    pub connect_max: Duration,
    /// How long nothing may come.
    pub silence_max: Duration,
}

/// A connection, closed when this is dropped.
pub(crate) struct Connection(JoinHandle<()>);

impl Connection {
    /// Closes it from another thread.
    pub fn abort_handle(&self) -> AbortHandle {
        self.0.abort_handle()
    }
}

/// What sends requests on a connection, and the connection.
type Connected = (http1::SendRequest<Full<Bytes>>, Connection);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Http {
    pub fn new(address: Address) -> Self {
        let (connect_max, silence_max) = (Duration::from_secs(5), Duration::from_secs(600));
        Self {
            address,
            key: None,
            #[cfg(feature = "tls")]
            trust: Trust::default(),
            connect_max,
            silence_max,
        }
    }

    /// Asks with GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json(Method::GET, path, Vec::new()).await
    }

    /// Asks with POST.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| Error::broken(format!("the request to {path}"), error))?;
        self.json(Method::POST, path, body).await
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T> {
        let (response, _connection) = self.send(method, path, body).await?;
        let bytes = self.read(response, BODY_BYTES_MAX, path).await?;
        serde_json::from_slice(&bytes).map_err(|error| Error::broken(path, error))
    }

    /// Asks with POST for a stream of events.
    pub async fn events(&self, path: &str, body: &impl Serialize) -> Result<(Incoming, Connection)> {
        let body = serde_json::to_vec(body).map_err(|error| Error::broken(format!("the request to {path}"), error))?;
        let (response, connection) = self.send(Method::POST, path, body).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("none");
        if !kind.starts_with("text/event-stream") {
            return Err(Error::broken(path, format!("its content type is {kind}, not text/event-stream")));
        }
        Ok((response.into_body(), connection))
    }

    /// Sends a request and reads the head of its answer; an answer that is an error is read whole and becomes one.
    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(hyper::Response<Incoming>, Connection)> {
        let request = self.request(method, path, body)?;
        let (mut sender, connection) = self.connect().await?;
        let place = || format!("before the answer of {path}");
        let sent = timeout(self.silence_max, sender.send_request(request)).await;
        let sent = sent.map_err(|_| Error::TimedOut { place: place(), after: self.silence_max })?;
        let response = sent.map_err(|error| Error::Interrupted { place: place(), problem: text_of(&error) })?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok((response, connection));
        }
        let retry_after = retry_after(response.headers());
        // What an error says is worth less than that it is one.
        let body = self.read(response, ERROR_BYTES_MAX, path).await.unwrap_or_default();
        Err(Error::of_status(status.as_u16(), retry_after, &body))
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.host())
            .header(header::USER_AGENT, concat!("hublabio-sdk/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| Error::BadKey)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let address = self.address.to_string();
        request.body(Full::from(body)).map_err(|error| Error::BadAddress { address, problem: error.to_string() })
    }

    async fn connect(&self) -> Result<Connected> {
        let failed = |problem: String| {
            let tried = vec![Attempt { address: self.address.to_string(), problem }];
            Error::CannotConnect { tried }
        };
        let connecting = async {
            match &self.address {
                Address::Tcp { host, port, tls } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    // Requests are single writes that should leave at once.
                    stream.set_nodelay(true)?;
                    if *tls { self.secured(stream, host).await } else { handshake(TokioIo::new(stream)).await }
                }
                Address::Unix(path) => connect_unix(path).await,
            }
        };
        match timeout(self.connect_max, connecting).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no connection within {} s", self.connect_max.as_secs_f64()))),
        }
    }

    #[cfg(feature = "tls")]
    async fn secured(&self, stream: TcpStream, host: &str) -> std::io::Result<Connected> {
        handshake(TokioIo::new(self.trust.connect(stream, host).await?)).await
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_async, clippy::unused_self, reason = "the twin with TLS needs both")]
    async fn secured(&self, _: TcpStream, _: &str) -> std::io::Result<Connected> {
        Err(std::io::Error::other("this program was built without TLS (feature `tls`)"))
    }

    async fn read(&self, response: hyper::Response<Incoming>, bytes_max: usize, path: &str) -> Result<Bytes> {
        let mut body = pin!(Limited::new(response.into_body(), bytes_max));
        let mut bytes = Vec::new();
        let place = || format!("in the answer of {path}");
        loop {
            let frame = timeout(self.silence_max, body.frame()).await;
            let frame = frame.map_err(|_| Error::TimedOut { place: place(), after: self.silence_max })?;
            let Some(frame) = frame else { return Ok(bytes.into()) };
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                    return Err(Error::broken(path, format!("it has more than {bytes_max} bytes")));
                }
                Err(error) => {
                    return Err(Error::Interrupted { place: place(), problem: text_of(&*error) });
                }
            }
        }
    }
}

async fn handshake(stream: impl Read + Write + Send + Unpin + 'static) -> std::io::Result<Connected> {
    let (sender, connection) = http1::handshake(stream).await.map_err(std::io::Error::other)?;
    // What ends a connection is told to the request that it belongs to.
    let task = tokio::spawn(async move { drop(connection.await) });
    Ok((sender, Connection(task)))
}

#[cfg(unix)]
async fn connect_unix(path: &Path) -> std::io::Result<Connected> {
    handshake(TokioIo::new(tokio::net::UnixStream::connect(path).await?)).await
}

#[cfg(not(unix))]
async fn connect_unix(_: &Path) -> std::io::Result<Connected> {
    Err(std::io::Error::other("this system has no Unix sockets"))
}

/// Seconds only: a date is not what this service sends.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// An error and what is behind it: hyper's own text says little.
pub(crate) fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
