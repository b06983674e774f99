//! Sockets: opening them, taking connections within the limits, and closing all of it in order.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower_service::Service as _;

use crate::config::{Limits, Listen, ServerConfig, StartError};
use crate::patience::Patient;
use crate::security::Peer;
use crate::state::App;
#[cfg(feature = "tls")]
use crate::tls::Acceptor;

/// How long a TLS handshake may take.
#[cfg(feature = "tls")]
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What a connection over the limit hears.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    Connection: close\r\nContent-Length: 110\r\n\r\n{\"error\":{\"message\":\"too many connections: try again\",\
    \"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}";

/// An open socket.
pub enum Socket {
    /// TCP, with TLS where there is a certificate.
    Tcp(TcpListener),
    /// A socket file; the path of one that is taken away at the end.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener, Option<SocketFile>),
}

/// A socket's file, taken away when the service ends.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens all sockets.
///
/// # Errors
/// When one cannot be had, or others could reach the service without a key.
pub fn open(config: &ServerConfig) -> Result<Vec<Socket>, StartError> {
    let mut sockets = Vec::new();
    for listen in &config.listen {
        match listen {
            Listen::Tcp(address) => sockets.push(tcp(*address, config)?),
            #[cfg(unix)]
            Listen::Unix { path, mode } => sockets.push(unix(path, *mode)?),
            #[cfg(unix)]
            Listen::Systemd => sockets.extend(systemd(config)?),
            #[cfg(not(unix))]
            Listen::Unix { path, .. } => {
                let cause = std::io::Error::from(std::io::ErrorKind::Unsupported);
                return Err(StartError::Listen { place: path.display().to_string(), cause });
            }
            #[cfg(not(unix))]
            Listen::Systemd => return Err(StartError::NoSystemdSockets),
        }
    }
    if sockets.is_empty() { Err(StartError::NothingToListenOn) } else { Ok(sockets) }
}

/// The rule that nothing is open to other machines without a key.
fn check_address(address: SocketAddr, config: &ServerConfig) -> Result<(), StartError> {
    let ip = address.ip().to_canonical();
    if ip.is_loopback() || config.api_key_file.is_some() { Ok(()) } else { Err(StartError::OpenToAll { address }) }
}

fn tcp(address: SocketAddr, config: &ServerConfig) -> Result<Socket, StartError> {
    check_address(address, config)?;
    let failed = |cause| StartError::Listen { place: address.to_string(), cause };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Socket::Tcp(listener))
}

#[cfg(unix)]
fn unix(path: &Path, mode: u32) -> Result<Socket, StartError> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    let failed = |cause| StartError::Listen { place: path.display().to_string(), cause };
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(StartError::NotASocket { path: path.to_owned() });
        }
        if UnixStream::connect(path).is_ok() {
            return Err(StartError::SocketInUse { path: path.to_owned() });
        }
        // Nobody answers: it was left behind by a service that was killed.
        std::fs::remove_file(path).map_err(failed)?;
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // Under another name until its permissions are right, so that nobody can connect before.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let _ = std::fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft).map_err(failed)?;
    let made = std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(&draft, path))
        .and_then(|()| listener.set_nonblocking(true));
    if let Err(cause) = made {
        let _ = std::fs::remove_file(&draft);
        return Err(failed(cause));
    }
    Ok(Socket::Unix(listener, Some(SocketFile(path.to_owned()))))
}

#[cfg(unix)]
fn systemd(config: &ServerConfig) -> Result<Vec<Socket>, StartError> {
    let mut handed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..handed.len() {
        let failed = |cause| StartError::Listen { place: format!("socket {at} of systemd"), cause };
        if let Ok(Some(listener)) = handed.take_unix_listener(at) {
            listener.set_nonblocking(true).map_err(failed)?;
            // The file is systemd's.
            sockets.push(Socket::Unix(listener, None));
        } else if let Some(listener) = handed.take_tcp_listener(at).map_err(failed)? {
            check_address(listener.local_addr().map_err(failed)?, config)?;
            listener.set_nonblocking(true).map_err(failed)?;
            sockets.push(Socket::Tcp(listener));
        }
    }
    if sockets.is_empty() { Err(StartError::NoSystemdSockets) } else { Ok(sockets) }
}

/// What every connection needs.
#[derive(Clone)]
struct Context {
    app: App,
    router: Router,
    permits: Arc<Semaphore>,
    /// Becomes true when the service ends.
    end: watch::Receiver<bool>,
    #[cfg(feature = "tls")]
    tls: Option<Acceptor>,
}

/// Serves all sockets until `end` says so, then waits for what runs, at most as long as the configuration has it.
pub async fn serve(
    app: App,
    router: Router,
    sockets: Vec<Socket>,
    #[cfg(feature = "tls")] tls: Option<Acceptor>,
    end: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let limits = app.config().limits.clone();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let (ended, end_seen) = watch::channel(false);
    let context = Context {
        app: app.clone(),
        router,
        permits: Arc::clone(&permits),
        end: end_seen,
        #[cfg(feature = "tls")]
        tls,
    };
    let mut files = Vec::new();
    let mut loops = Vec::new();
    for socket in sockets {
        match socket {
            Socket::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                loops.push(tokio::spawn(accept_tcp(listener, context.clone())));
            }
            #[cfg(unix)]
            Socket::Unix(listener, file) => {
                files.extend(file);
                let listener = tokio::net::UnixListener::from_std(listener)?;
                loops.push(tokio::spawn(accept_unix(listener, context.clone())));
            }
        }
    }
    end.await;
    app.set_ending();
    for task in loops {
        task.abort();
        // It ends with what it holds, the files of the service among it.
        let _ = task.await;
    }
    drop(files);
    let _ = ended.send(true);
    drop(context);
    // All permits are there again when all connections are closed.
    let all = permits.acquire_many(u32::try_from(limits.connections).unwrap_or(u32::MAX));
    if tokio::time::timeout(app.config().drain, all).await.is_err() {
        tracing::warn!("some answers did not end within {:?} and are cut", app.config().drain);
    }
    Ok(())
}

async fn accept_tcp(listener: tokio::net::TcpListener, context: Context) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Tokens are small and must not wait for each other.
                let _ = stream.set_nodelay(true);
                take_tcp(stream, address, &context).await;
            }
            Err(error) => pause(&error).await,
        }
    }
}

#[cfg(feature = "tls")]
async fn take_tcp(stream: tokio::net::TcpStream, address: SocketAddr, context: &Context) {
    let Some(tls) = context.tls.clone() else { return take(stream, Peer::Tcp(address), context).await };
    let Some(permit) = permit(context) else { return };
    let context = context.clone();
    tokio::spawn(async move {
        if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
            connection(stream, Peer::Tcp(address), context, permit).await;
        }
    });
}

#[cfg(not(feature = "tls"))]
async fn take_tcp(stream: tokio::net::TcpStream, address: SocketAddr, context: &Context) {
    take(stream, Peer::Tcp(address), context).await;
}

#[cfg(unix)]
async fn accept_unix(listener: tokio::net::UnixListener, context: Context) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => take(stream, Peer::Unix, &context).await,
            Err(error) => pause(&error).await,
        }
    }
}

/// Out of file descriptors, or a client that was gone already: neither ends the service.
async fn pause(error: &std::io::Error) {
    tracing::warn!("a connection could not be taken: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn permit(context: &Context) -> Option<OwnedSemaphorePermit> {
    let permit = Arc::clone(&context.permits).try_acquire_owned().ok();
    context.app.metrics().connection(permit.is_some());
    permit
}

async fn take<S>(mut stream: S, peer: Peer, context: &Context)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(permit) = permit(context) else {
        // A line that fits the socket's buffer: nobody waits for it.
        let _ = tokio::time::timeout(Duration::from_millis(100), stream.write_all(FULL)).await;
        return;
    };
    tokio::spawn(connection(stream, peer, context.clone(), permit));
}

/// One connection; its permit is there again when nothing is left of it, so that who waits for all permits has the files of the
/// service to itself.
async fn connection<S>(stream: S, peer: Peer, context: Context, permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    requests(stream, peer, context).await;
    drop(permit);
}

/// A connection that is counted as open as long as this is there.
struct Open(App);

impl Open {
    fn count(app: &App) -> Self {
        app.connections().fetch_add(1, Ordering::Relaxed);
        Self(app.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections().fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request after the other.
async fn requests<S>(stream: S, peer: Peer, mut context: Context)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _open = Open::count(&context.app);
    let router = context.router;
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let builder = builder(&context.app.config().limits);
    let stream = Patient::new(stream, context.app.config().limits.write_time);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = async move {
        // Without a sender there is no service any more.
        let _ = context.end.wait_for(|end| *end).await;
    };
    tokio::select! {
        // What went wrong was between the client and hyper, and the client has heard it.
        _ = served.as_mut() => {}
        () = ended => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
    }
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(limits.headers)
        .max_buf_size(limits.header_bytes.max(8192));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_open_to_others_without_a_key() {
        let open = |address: &str, keys: bool| {
            let config = ServerConfig { api_key_file: keys.then(|| PathBuf::from("keys")), ..ServerConfig::default() };
            check_address(address.parse().unwrap(), &config).is_ok()
        };
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(open(address, false), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "192.168.1.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(!open(address, false), "{address}");
            assert!(open(address, true), "{address}");
        }
    }

    #[test]
    fn the_line_for_one_too_many_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
