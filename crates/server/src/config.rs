//! What a service is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hublabio_runtime::ai::{DEFAULT_MODEL_NAME, SamplingConfig};
use hublabio_runtime::store::pull::PullConfig;

/// Where the service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP; port 0 for one that is free.
    Tcp(SocketAddr),
    /// A socket file, for clients of this machine that may write to it.
    Unix {
        /// Where.
        path: PathBuf,
        /// Its permissions: 0o600 for the same user, 0o660 for a group, too.
        mode: u32,
    },
    /// The sockets that systemd opened.
    Systemd,
}

/// The files of a certificate, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, those that vouch for it behind it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A swarm that is offered as a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmSource {
    /// `None` for the model `swarm`, else the `NAME` of `swarm:NAME`.
    pub name: Option<String>,
    /// Its folder; `None` for the swarm of the binary.
    pub folder: Option<PathBuf>,
}

impl SwarmSource {
    /// The name that requests give.
    pub fn model_name(&self) -> String {
        match &self.name {
            Some(name) => format!("swarm:{name}"),
            None => "swarm".into(),
        }
    }
}

/// What a client may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Bytes that bodies and what is made of them, unread events and kept history may hold together.
    pub heap_bytes: usize,
    /// How long a body may take.
    pub body_time: Duration,
    /// How long a client may take nothing of what is there for it, before its connection is ended.
    pub write_time: Duration,
    /// Connections at once; more are turned away.
    pub connections: usize,
    /// How long a request's header may take, and how long a connection stays open without a request.
    pub header_time: Duration,
    /// Header lines of a request.
    pub headers: usize,
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// Answers to one request.
    pub choices: usize,
    /// Messages of a conversation.
    pub messages: usize,
    /// Texts of one request for embeddings.
    pub embedding_inputs: usize,
    /// Tokens of an answer where the request names no limit; `None` for as many as the context holds.
    pub answer_tokens: Option<usize>,
    /// How often a stream that has nothing to say says so.
    pub ping: Duration,
    /// Answers of `/v1/responses` that are kept; the oldest go first.
    pub stored_responses: usize,
    /// Bytes of them, as JSON, each with the conversation before it; where there is no data folder, a quarter of
    /// [`heap_bytes`](Self::heap_bytes) at most.
    pub stored_bytes: usize,
}

impl Default for Limits {
    /// 16 MiB a body and 256 MiB for all that requests hold, 60 s for a body and for a client that does not read; 4096 connections, 30 s for a header; 8 answers, 4096 messages, 2048 texts; 1024 stored
    /// answers in 64 MiB.
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            heap_bytes: 256 << 20,
            body_time: Duration::from_secs(60),
            write_time: Duration::from_secs(60),
            connections: 4096,
            header_time: Duration::from_secs(30),
            headers: 100,
            header_bytes: 64 << 10,
            choices: 8,
            messages: 4096,
            embedding_inputs: 2048,
            answer_tokens: None,
            ping: Duration::from_secs(15),
            stored_responses: 1024,
            stored_bytes: 64 << 20,
        }
    }
}

/// What a service is told at its start.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: Vec<Listen>,
    /// Who may ask: lines `NAME KEY [requests_per_minute=N]`. Without it, anyone who reaches the service.
    pub api_key_file: Option<PathBuf>,
    /// Names under which the service may be called, beside those of this machine and addresses in figures.
    pub allowed_hosts: Vec<String>,
    /// Pages of which origins may call it, `*` for all; by default none but its own.
    pub cors_origins: Vec<String>,
    /// HTTPS on the TCP sockets.
    pub tls: Option<TlsFiles>,
    /// What a client may take.
    pub limits: Limits,
    /// How long running answers may go on when the service ends.
    pub drain: Duration,
    /// The model of requests that name none.
    pub default_model: String,
    /// How tokens are chosen where a request says nothing; the built-in model is greedy then.
    pub sampling: SamplingConfig,
    /// Where conversations of the web page and responses are kept; `None` keeps no conversations, and responses in memory.
    pub data_folder: Option<PathBuf>,
    /// Swarms that are models.
    pub swarms: Vec<SwarmSource>,
    /// Where clients may have models fetched from, if at all. By default nothing that a client sends opens a connection out.
    pub pull: Option<PullConfig>,
}

impl Default for ServerConfig {
    /// Loopback, port 11434, no keys, the built-in model and the built-in swarm.
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))],
            api_key_file: None,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            tls: None,
            limits: Limits::default(),
            drain: Duration::from_secs(30),
            default_model: DEFAULT_MODEL_NAME.into(),
            sampling: SamplingConfig::default(),
            data_folder: None,
            swarms: vec![SwarmSource { name: None, folder: None }],
            pull: None,
        }
    }
}

/// The port of a service that was given none: Ollama's, so that its clients find it.
pub const DEFAULT_PORT: u16 = 11434;

/// What keeps a service from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address that others reach, and no keys.
    #[error(
        "{address} can be reached from other machines: give --api-key-file FILE with a line `NAME KEY` for each client, \
         or listen on 127.0.0.1"
    )]
    OpenToAll {
        /// The address.
        address: SocketAddr,
    },
    /// Nothing to listen on.
    #[error("there is nothing to listen on: give --host ADDRESS, or --socket FILE")]
    NothingToListenOn,
    /// An address cannot be had.
    #[error("cannot listen on {place}: {cause}")]
    Listen {
        /// Which.
        place: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// Another service has the socket file.
    #[error("{} is the socket of a service that runs: stop it, or give another --socket", path.display())]
    SocketInUse {
        /// The file.
        path: PathBuf,
    },
    /// Something else has the name of the socket file.
    #[error("{} exists and is no socket: give another --socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// No socket came from systemd.
    #[error(
        "systemd handed over no socket that can be listened on: start through the .socket unit, or unset LISTEN_FDS"
    )]
    NoSystemdSockets,
    /// The file of keys cannot be used.
    #[error("{}: {problem}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        problem: String,
    },
    /// The certificate cannot be used.
    #[error("{}: {problem}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No threads.
    #[error("cannot start the service's threads: {0}")]
    Threads(std::io::Error),
}
