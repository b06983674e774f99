//! The configuration of a node: `system.toml`, environment variables and flags become one [`SystemConfig`].
//!
//! A flag wins over an environment variable, that over the file, that over the default; each value knows where it came from
//! ([`Origin`]). What no key is, or no value of a key can be, is an error with its place: nothing is ignored.
//! `docs/CONFIG.md` is the page for users, `config/system.toml` the commented file with every key at its default.
//!
//! ```
//! use hublabio_runtime::config::{ConfigSource, Origin, SystemConfig};
//!
//! let mut source = ConfigSource::new([("HUBLAB_RUNTIME_MAX_MEMORY", "2GiB")]);
//! source.flag("server.port", "--port", "8080");
//! let effective = SystemConfig::load(&source)?;
//! assert_eq!(effective.config.runtime.max_memory, 2 << 30);
//! assert_eq!(effective.config.server.port, 8080);
//! assert_eq!(effective.origin("server.port"), &Origin::Flag("--port".into()));
//! # Ok::<(), hublabio_runtime::Error>(())
//! ```
//!
//! Where to go next: `keys.rs` is the table of keys, `load.rs` puts the sources together, `values.rs` reads single values.

mod keys;
mod load;
#[cfg(test)]
mod tests;
mod values;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use keys::{KEYS, Key};
pub use load::{ConfigSource, EffectiveConfig, EffectiveValue, Origin};
pub use values::{LogLevel, byte_text, parse_bytes, parse_keep_alive};

use crate::RuntimeConfig;
use crate::node::NodeConfig;

/// Everything that `system.toml` says, table by table. `[ai] temperature` and `top_p` are in `runtime`, whose fields they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SystemConfig {
    /// `[kernel]`
    pub kernel: KernelConfig,
    /// `[scheduler]`
    pub scheduler: SchedulerConfig,
    /// `[runtime]`, and temperature and top-p of `[ai]`
    pub runtime: RuntimeConfig,
    /// `[ai]`, but for temperature and top-p
    pub ai: AiConfig,
    /// `[server]`
    pub server: ServerConfig,
    /// `[store]`
    pub store: StoreConfig,
}

/// What the program as a whole does.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelConfig {
    /// How much is logged on standard error.
    pub log_level: LogLevel,
    /// Bytes that requests and history hold in memory, all together: bodies and what is made of them until the answer is sent,
    /// events that a client has not read, kept answers, and pages of the store of conversations. Models and their keys and
    /// values have [`RuntimeConfig::max_memory`].
    pub heap_size: u64,
}

impl Default for KernelConfig {
    /// Warnings, 256 MiB.
    fn default() -> Self {
        Self { log_level: LogLevel::Warn, heap_size: 256 << 20 }
    }
}

/// The scheduler of processes. No effect in this version: there is none yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulerConfig {
    /// Whether a network predicts what processes will do (no effect in this version).
    pub ai_enabled: bool,
    /// Its weights, a GGUF file (no effect in this version).
    pub model_path: Option<PathBuf>,
}

/// What answers where nothing is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AiConfig {
    /// A GGUF file or the name of a model in the store; `None` for the model of the binary. It is looked for when it is needed.
    pub default_model: Option<String>,
}

/// The service: where it listens, whom it serves, what it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Addresses to listen at, each at `port`. Others than the loopback ones need `api_key_file`.
    pub address: Vec<IpAddr>,
    /// Port.
    pub port: u16,
    /// File with the keys that clients must show.
    pub api_key_file: Option<PathBuf>,
    /// Names that a request's `Host` may have besides the addresses listened at and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may ask; none by default.
    pub cors_origins: Vec<String>,
    /// Certificate chain in PEM; with it the service speaks TLS only.
    pub tls_cert: Option<PathBuf>,
    /// Private key in PEM.
    pub tls_key: Option<PathBuf>,
    /// Path of a Unix socket to listen at, too.
    pub unix_socket: Option<PathBuf>,
    /// Longest body of a request.
    pub body_bytes_max: u64,
    /// Connections that may be open.
    pub connections_max: usize,
    /// Requests that may wait.
    pub queue_max: usize,
    /// Answers that are generated at once.
    pub running_max: usize,
    /// How long a model stays in memory after its last answer; `None` for as long as no other needs the memory.
    pub keep_alive: Option<Duration>,
    /// Positions of a conversation; 0 for what the model was trained for, at most 32,768.
    pub context: usize,
    /// Seconds that a client may take for the head of a request.
    pub header_timeout_s: u64,
    /// Whether clients may have models fetched; else nothing that they send opens a connection out.
    pub allow_pull: bool,
    /// Whether conversations and responses are kept on disk.
    pub storage: bool,
    /// Where they are kept; by default [`EffectiveConfig::data_folder`] finds a place.
    pub data_folder: Option<PathBuf>,
}

/// Where Ollama listens, so that its clients find this service without being told.
const DEFAULT_PORT: u16 = 11434;

impl Default for ServerConfig {
    fn default() -> Self {
        let node = NodeConfig::default();
        Self {
            address: vec![IpAddr::from([127, 0, 0, 1])],
            port: DEFAULT_PORT,
            api_key_file: None,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            tls_cert: None,
            tls_key: None,
            unix_socket: None,
            body_bytes_max: 16 << 20,
            connections_max: 2048,
            queue_max: node.queue_max,
            running_max: node.running_max,
            keep_alive: node.keep_alive,
            context: 0,
            header_timeout_s: 10,
            allow_pull: false,
            storage: true,
            data_folder: None,
        }
    }
}

impl ServerConfig {
    /// The addresses that other machines can reach.
    pub fn exposed(&self) -> impl Iterator<Item = &IpAddr> {
        self.address.iter().filter(|address| !address.to_canonical().is_loopback())
    }
}

/// Where models are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreConfig {
    /// Folders with models; new ones go into the first. By default [`EffectiveConfig::model_folders`] finds a place.
    pub folders: Vec<PathBuf>,
}

impl SystemConfig {
    /// What a node may use.
    #[must_use]
    pub fn node_config(&self) -> NodeConfig {
        NodeConfig {
            threads: (self.runtime.num_threads > 0).then_some(self.runtime.num_threads),
            max_memory: self.runtime.max_memory as u64,
            context: (self.server.context > 0).then_some(self.server.context),
            running_max: self.server.running_max,
            queue_max: self.server.queue_max,
            keep_alive: self.server.keep_alive,
            ..NodeConfig::default()
        }
    }

    /// What each value alone cannot tell.
    fn check(&self) -> Result<(), Conflict> {
        let server = &self.server;
        let conflict = |keys: &[&'static str], problem: String| Err(Conflict { keys: keys.to_vec(), problem });
        match (&server.tls_cert, &server.tls_key) {
            (Some(_), None) => {
                return conflict(&["server.tls_cert"], "a certificate needs its key: set `server.tls_key`, too".into());
            }
            (None, Some(_)) => {
                return conflict(&["server.tls_key"], "a key needs its certificate: set `server.tls_cert`, too".into());
            }
            _ => {}
        }
        if server.body_bytes_max > self.kernel.heap_size {
            return conflict(
                &["server.body_bytes_max", "kernel.heap_size"],
                format!(
                    "`server.body_bytes_max` ({}) is more than `kernel.heap_size` ({}), which bounds all bodies together",
                    byte_text(server.body_bytes_max),
                    byte_text(self.kernel.heap_size)
                ),
            );
        }
        if server.address.is_empty() && server.unix_socket.is_none() {
            let problem = "there is nothing to listen at: give an address, or set `server.unix_socket`".into();
            return conflict(&["server.address"], problem);
        }
        Ok(())
    }
}

/// Values that cannot be together.
struct Conflict {
    keys: Vec<&'static str>,
    problem: String,
}
