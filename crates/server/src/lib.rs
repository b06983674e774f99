//! The service of HubLab IO: what people's tools already speak, over HTTP.
//!
//! This room turns JSON into questions to a [`Node`] or a swarm, and their answers into JSON. It knows the dialects of OpenAI,
//! Ollama and Anthropic, sockets, keys and limits. It refuses to know tensors and tokenizers: what a prompt is made of is the
//! runtime's.
//!
//! ```no_run
//! use std::sync::Arc;
//! use hublabio_runtime::node::{BuiltinCatalog, Node, NodeConfig};
//! use hublabio_server::{Server, ServerConfig};
//!
//! let node = Node::start(Arc::new(BuiltinCatalog), NodeConfig::default())?;
//! let server = Server::bind(ServerConfig::default(), node)?;
//! println!("http://{}", server.addresses()[0]);
//! server.run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where to go next: `routes.rs` is the table of paths; `chat/mod.rs` the one way from a question to an answer, which all
//! dialects share; `openai/`, `anthropic/`, `ollama/`, `own/` what each makes of it; `conversations/` and `web/` the chat in the
//! browser; `listen.rs`, `limits.rs` and `security.rs` who gets in and how much
//! of it; `docs/API.md` is the user's page.
#![forbid(unsafe_code)]

mod anthropic;
pub mod chat;
mod clock;
mod config;
pub mod conversations;
mod embed;
pub mod error;
pub mod fields;
mod heap;
mod limits;
mod listen;
mod metrics;
mod notify;
mod ollama;
mod openai;
mod own;
mod patience;
mod pieces;
mod routes;
mod security;
pub mod sse;
mod state;
mod storage;
mod thinking;
#[cfg(feature = "tls")]
mod tls;
mod web;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use hublabio_runtime::node::Node;
use tokio::sync::Notify;

pub use config::{DEFAULT_PORT, Limits, Listen, ServerConfig, StartError, SwarmSource, TlsFiles};
pub use limits::JsonBody;
pub use own::openapi::openapi_text;
pub use security::{Client, Peer};
pub use state::{App, blocking};

use crate::security::KeyRing;

/// A service whose sockets are open.
pub struct Server {
    app: App,
    sockets: Vec<listen::Socket>,
    end: Arc<Notify>,
    #[cfg(feature = "tls")]
    tls: Option<tls::Acceptor>,
}

/// Ends a running service from another thread.
#[derive(Clone)]
pub struct Stopper {
    end: Arc<Notify>,
}

impl Stopper {
    /// Takes no more connections, and lets running answers come to their end.
    pub fn stop(&self) {
        self.end.notify_one();
    }
}

impl Server {
    /// Opens the sockets. No model is opened before one is asked for.
    ///
    /// # Errors
    /// [`StartError`]: an address that cannot be had or is open to others without a key, a file that cannot be used.
    pub fn bind(config: ServerConfig, node: Node) -> Result<Self, StartError> {
        let keys = config.api_key_file.as_deref().map(KeyRing::open).transpose()?;
        #[cfg(feature = "tls")]
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        #[cfg(not(feature = "tls"))]
        if let Some(files) = &config.tls {
            let problem = "this build has no HTTPS: build it with the feature `tls`".into();
            return Err(StartError::Tls { path: files.certificate.clone(), problem });
        }
        let sockets = listen::open(&config)?;
        Ok(Self {
            app: App::new(config, keys, node),
            sockets,
            end: Arc::new(Notify::new()),
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// The addresses of its TCP sockets.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |socket: &listen::Socket| match socket {
            listen::Socket::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            listen::Socket::Unix(..) => None,
        };
        self.sockets.iter().filter_map(address).collect()
    }

    /// What ends it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { end: Arc::clone(&self.end) }
    }

    /// What its handlers share.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// The table of paths without the sockets, for programs that bring requests of their own.
    pub fn router(&self) -> axum::Router {
        routes::table(self.app.clone())
    }

    /// Serves on threads of its own until a [`Stopper`], SIGINT or SIGTERM ends it. A second signal does not wait for answers.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn run(self) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            // The machine's cores belong to the models.
            .worker_threads(2)
            .thread_name("hublab-http")
            .build()
            .map_err(StartError::Threads)?;
        let result = runtime.block_on(async {
            let served = self.serve(signal());
            tokio::pin!(served);
            tokio::select! {
                result = &mut served => result,
                () = twice(signal) => Ok(()),
            }
        });
        // What hangs in a thread does not keep the program.
        runtime.shutdown_background();
        result.map_err(StartError::Threads)
    }

    /// Serves until `end`, or a [`Stopper`], says so; then lets running answers come to their end and ends the node.
    ///
    /// # Errors
    /// When a socket cannot be used.
    pub async fn serve(self, end: impl Future<Output = ()>) -> std::io::Result<()> {
        let Self { app, sockets, end: stop, .. } = self;
        let router = routes::table(app.clone());
        notify::notify("READY=1");
        let ended = async {
            tokio::select! {
                () = end => {}
                () = stop.notified() => {}
            }
            notify::notify("STOPPING=1");
        };
        listen::serve(
            app.clone(),
            router,
            sockets,
            #[cfg(feature = "tls")]
            self.tls,
            ended,
        )
        .await?;
        // Answers whose clients were cut off are written down before the models are let go.
        app.conversations().settle().await;
        let _ = tokio::task::spawn_blocking(move || app.node().shut_down(std::time::Duration::ZERO)).await;
        Ok(())
    }
}

async fn twice<F: Future<Output = ()>>(signal: impl Fn() -> F) {
    signal().await;
    signal().await;
}

/// Comes when the system asks the service to end. It listens from the call on, not from the first poll: who hears that the
/// service is ready may ask at once.
#[cfg(unix)]
fn signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let streams = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = streams else { return std::future::pending().await };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
async fn signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
