//! The flags of verbs that talk with a running service.

use std::path::PathBuf;

use clap::Args;

/// Which service.
#[derive(Debug, Args)]
#[command(next_help_heading = "Service")]
pub struct ServiceArgs {
    /// Ask a running service at http(s)://HOST:PORT or unix:PATH, without a value that of this machine
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub service: Option<String>,
    /// Certificates (PEM) to trust in place of the system's, for https:// [env: HUBLAB_CA_FILE]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// List what a running service has in memory
#[derive(Debug, Args)]
#[command(
    long_about = "Lists the models that a running service has in memory: bytes with keys and values, context, answers\n\
        that run, and how long each stays if nobody asks.",
    after_long_help = "Examples:\n  \
        hublab ps\n  \
        hublab ps --service=http://192.168.1.20:11434 --json\n\n\
        Without --service, HUBLAB_HOST says where the service is; without that, this machine is tried."
)]
pub struct PsArgs {
    /// Print JSON, as the service gives it
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// Free a model of a running service
#[derive(Debug, Args)]
#[command(
    long_about = "Frees a model of a running service, when the answers that it is giving have ended. The next request\n\
        loads it again.",
    after_long_help = "Examples:\n  \
        hublab stop qwen2.5:0.5b"
)]
pub struct StopArgs {
    /// Name of the model, as `hublab ps` lists it
    pub model: String,
    #[command(flatten)]
    pub service: ServiceArgs,
}
