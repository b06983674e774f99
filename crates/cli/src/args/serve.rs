//! The flags of `serve`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// Serve models to other programs
#[derive(Debug, Args)]
#[command(
    long_about = "Serves models over HTTP, in the dialects that other programs speak already: OpenAI's, Anthropic's and\n\
        Ollama's (docs/API.md). Models of the store are loaded when they are asked for; the swarm of experts is\n\
        the model `swarm`. Without flags the service listens on this machine only.\n\n\
        Flags win over the configuration (docs/CONFIG.md), whose table [server] has the same settings.",
    after_long_help = "Examples:\n  \
        hublab serve\n  \
        hublab serve model.gguf --port 8080\n  \
        hublab serve --host 0.0.0.0 --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem\n  \
        hublab serve --socket /run/user/1000/hublab.sock\n  \
        hublab serve --swarm law=experts/law\n  \
        curl http://127.0.0.1:11434/v1/chat/completions -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}'\n\n\
        Ctrl-C ends the service when running answers have ended, a second one at once.\n\
        A file of keys has lines NAME KEY [requests_per_minute=N]; it is read again when it changes."
)]
pub struct ServeArgs {
    /// GGUF files to serve beside the store's models, or names of those; the first answers by default
    #[arg(value_name = "MODEL")]
    pub models: Vec<OsString>,
    /// Address to listen at; may be given several times [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub host: Vec<String>,
    /// Port to listen at, 0 for a free one [default: 11434]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Socket file to listen at, too, for programs of this machine
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Let the group of the socket file use it
    #[arg(long, requires = "socket")]
    pub socket_group: bool,
    /// File with the keys that clients must show
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Name under which clients may call the service; may be given several times
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Origin of web pages that may use the service, * for all; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// Certificate in PEM: the service speaks HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Folder of a swarm, as the model `swarm:NAME`; without NAME= as `swarm`; may be given several times
    #[arg(long, value_name = "[NAME=]DIR", value_parser = swarm)]
    pub swarm: Vec<(Option<String>, PathBuf)>,
    /// Let clients have models fetched (/api/pull); else nothing that they send opens a connection out
    #[arg(long)]
    pub allow_pull: bool,
    /// Context length in tokens: prompt and answer together [default: the model's, at most 32768]
    #[arg(long, value_name = "N")]
    pub ctx: Option<String>,
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// Memory for models together, such as 4GiB
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<String>,
    /// How long a model stays in memory after its last answer, such as 5m; -1 for as long as it can
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_alive: Option<String>,
    /// How long running answers may go on when the service ends, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
}

fn swarm(text: &str) -> Result<(Option<String>, PathBuf), String> {
    let (name, folder) = match text.split_once('=') {
        Some((name, folder)) => (Some(name.to_owned()), folder),
        None => (None, text),
    };
    let is_name = |name: &String| {
        !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if folder.is_empty() || name.as_ref().is_some_and(|name| !is_name(name)) {
        return Err("give a folder, or NAME=FOLDER with a name of letters, digits, `-`, `_` and `.`".into());
    }
    Ok((name, folder.into()))
}
