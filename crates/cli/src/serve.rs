//! `hublab serve`: flags and configuration become a node and a service.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hublabio_runtime::Error;
use hublabio_runtime::ai::DEFAULT_MODEL_NAME;
use hublabio_runtime::config::{ConfigSource, EffectiveConfig, SystemConfig};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::{CatalogModel, ModelCatalog, Node};
use hublabio_runtime::store::ModelStore;
use hublabio_runtime::store::pull::PullConfig;
use hublabio_server::{Limits, Listen, Server, ServerConfig, SwarmSource, TlsFiles};

use crate::args::ServeArgs;
use crate::model::ModelName;
use crate::{Usage, output, store};

/// Permissions of the socket file: the user's own, or its group's, too.
const SOCKET_MODE: u32 = 0o600;
const SOCKET_GROUP_MODE: u32 = 0o660;

pub fn serve(args: &ServeArgs, source: ConfigSource) -> Result<ExitCode> {
    let effective = SystemConfig::load(&args.over(source))?;
    output::start_logging(effective.config.kernel.log_level);
    let store = ModelStore::open(store::config(&effective));
    let (files, first) = args.models(&store, &effective)?;
    let catalog = Catalog { files, store };
    let config = args.server_config(&effective, first);
    let tls = config.tls.is_some();
    let node = Node::start(Arc::new(catalog), effective.config.node_config())?;
    // No model is opened before the service listens: who waits for it hears at once that it is there.
    let sockets = config.listen.clone();
    let server = Server::bind(config, node)?;
    for address in server.addresses() {
        output::message(&format!("listening on {}://{address}", if tls { "https" } else { "http" }));
    }
    for socket in &sockets {
        if let Listen::Unix { path, .. } = socket {
            output::message(&format!("listening on {}", path.display()));
        }
    }
    server.run()?;
    Ok(ExitCode::SUCCESS)
}

impl ServeArgs {
    /// The configuration with the flags over it.
    fn over(&self, mut source: ConfigSource) -> ConfigSource {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let list = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        for (key, flag, value) in [
            ("server.address", "--host", list(&self.host)),
            ("server.port", "--port", self.port.clone()),
            ("server.unix_socket", "--socket", path(&self.socket)),
            ("server.api_key_file", "--api-key-file", path(&self.api_key_file)),
            ("server.allowed_hosts", "--allow-host", list(&self.allow_host)),
            ("server.cors_origins", "--cors-origin", list(&self.cors_origin)),
            ("server.tls_cert", "--tls-cert", path(&self.tls_cert)),
            ("server.tls_key", "--tls-key", path(&self.tls_key)),
            ("server.context", "--ctx", self.ctx.clone()),
            ("runtime.num_threads", "--threads", self.threads.clone()),
            ("runtime.max_memory", "--max-memory", self.max_memory.clone()),
            ("server.keep_alive", "--keep-alive", self.keep_alive.clone()),
            ("server.allow_pull", "--allow-pull", self.allow_pull.then(|| "true".to_owned())),
        ] {
            if let Some(value) = value {
                source.flag(key, flag, value);
            }
        }
        source
    }

    /// The models that are files, and the name of the one that answers where a request names none: the first of the command line,
    /// else the configured one.
    fn models(&self, store: &ModelStore, effective: &EffectiveConfig) -> Result<(Vec<CatalogModel>, Option<String>)> {
        let (mut files, mut first) = (Vec::<CatalogModel>::new(), None);
        for argument in &self.models {
            let name = match ModelName::from(argument.as_os_str()) {
                ModelName::Default => DEFAULT_MODEL_NAME.to_owned(),
                // An alias stands for its model, and is asked for by its own name.
                ModelName::Stored(name) => store.find(&name).map(|_| name)?,
                ModelName::File(path) => {
                    let file = file_model(path)?;
                    if files.iter().any(|other| other.name == file.name) {
                        return Err(Usage(format!("there are two files called {}: rename one", file.name)).into());
                    }
                    let name = file.name.clone();
                    files.push(file);
                    name
                }
            };
            first.get_or_insert(name);
        }
        if let (None, Some(configured)) = (&first, &effective.config.ai.default_model) {
            let is_swarm = self.swarms().iter().any(|swarm| swarm.model_name() == *configured);
            let name = match ModelName::from(OsStr::new(configured)) {
                ModelName::File(path) if !is_swarm => {
                    let origin = effective.origin("ai.default_model");
                    let file = file_model(path);
                    let file = file.with_context(|| format!("the default model (key `ai.default_model`, {origin})"))?;
                    let name = file.name.clone();
                    files.push(file);
                    name
                }
                // One that is not in the store may still be pulled: until then requests are told so.
                _ => configured.clone(),
            };
            first = Some(name);
        }
        Ok((files, first))
    }

    fn swarms(&self) -> Vec<SwarmSource> {
        let mut swarms: Vec<SwarmSource> = self
            .swarm
            .iter()
            .map(|(name, folder)| SwarmSource { name: name.clone(), folder: Some(folder.clone()) })
            .collect();
        if swarms.iter().all(|swarm| swarm.name.is_some()) {
            swarms.insert(0, SwarmSource { name: None, folder: None });
        }
        swarms
    }

    fn server_config(&self, effective: &EffectiveConfig, first: Option<String>) -> ServerConfig {
        let system = &effective.config;
        let server = &system.server;
        let limits = Limits {
            body_bytes: usize::try_from(server.body_bytes_max).unwrap_or(usize::MAX),
            heap_bytes: usize::try_from(system.kernel.heap_size).unwrap_or(usize::MAX),
            connections: server.connections_max,
            header_time: Duration::from_secs(server.header_timeout_s),
            ..Limits::default()
        };
        let defaults = ServerConfig::default();
        ServerConfig {
            listen: self.listen(system),
            api_key_file: server.api_key_file.clone(),
            allowed_hosts: server.allowed_hosts.clone(),
            cors_origins: server.cors_origins.clone(),
            tls: match (&server.tls_cert, &server.tls_key) {
                (Some(certificate), Some(key)) => Some(TlsFiles { certificate: certificate.clone(), key: key.clone() }),
                _ => None,
            },
            limits,
            drain: Duration::from_secs(self.drain),
            default_model: first.unwrap_or(defaults.default_model),
            sampling: system.runtime.generation_config().sampling,
            data_folder: server.storage.then(|| effective.data_folder()).flatten(),
            swarms: self.swarms(),
            pull: server.allow_pull.then(|| PullConfig::from_environment(|name| std::env::var_os(name))),
        }
    }

    /// Where to listen; where systemd opened the sockets, there and nowhere else.
    fn listen(&self, system: &SystemConfig) -> Vec<Listen> {
        if sockets_are_handed_over() {
            return vec![Listen::Systemd];
        }
        let server = &system.server;
        let tcp = server.address.iter().map(|address| Listen::Tcp((*address, server.port).into()));
        let mode = if self.socket_group { SOCKET_GROUP_MODE } else { SOCKET_MODE };
        let unix = server.unix_socket.iter().map(|path| Listen::Unix { path: path.clone(), mode });
        tcp.chain(unix).collect()
    }
}

/// A file as a model that is called like it.
fn file_model(path: PathBuf) -> Result<CatalogModel> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    if name.is_empty() || name.contains([':', '/', '\\']) {
        return Err(Usage(format!("{}: give a .gguf file with a plain name", path.display())).into());
    }
    let facts = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(CatalogModel {
        name,
        bytes: facts.len(),
        modified: facts.modified().ok(),
        sha256: None,
        source: ModelSource::File(path),
    })
}

/// Whether systemd handed sockets to this program, and not to the one that started it (sd_listen_fds(3)).
fn sockets_are_handed_over() -> bool {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is_ours = |pid: String| pid.parse() == Ok(std::process::id());
    variable("LISTEN_FDS").is_some() && variable("LISTEN_PID").is_none_or(is_ours)
}

/// The files of the command line, then the models of the store.
struct Catalog {
    files: Vec<CatalogModel>,
    store: ModelStore,
}

impl ModelCatalog for Catalog {
    fn store(&self) -> Option<&ModelStore> {
        Some(&self.store)
    }

    fn find(&self, name: &str) -> Result<CatalogModel, Error> {
        match self.files.iter().find(|file| file.name == name) {
            Some(file) => Ok(file.clone()),
            None => self.store.find(name),
        }
    }

    fn list(&self) -> Result<Vec<CatalogModel>, Error> {
        let mut models = self.files.clone();
        models.extend(ModelCatalog::list(&self.store)?.into_iter().filter(|model| {
            // A file of the command line hides the model of its name.
            self.files.iter().all(|file| file.name != model.name)
        }));
        Ok(models)
    }
}
