//! The flags of the verbs that are about the program itself: `doctor` and `man`.

use std::path::PathBuf;

use clap::Args;

use crate::model::ModelName;

/// Say what this machine and its configuration are good for
#[derive(Debug, Args)]
#[command(
    long_about = "Prints the configuration that is in force, and where each value came from; what this machine has;\n\
        which models it can hold; and what is wrong, with advice. Nothing is changed and nothing is sent anywhere.\n\n\
        A model fits if its weights and the keys and values of a conversation of 4096 tokens (or of as many as\n\
        `server.context` says) find room in the memory that is available now; it is tight if other programs would\n\
        have to give some of theirs back. The typical models are Qwen 2.5 (0.5B) and Llama 3 (1B, 3B, 8B).",
    after_long_help = "Examples:\n  \
        hublab doctor\n  \
        hublab doctor ./model.gguf\n  \
        hublab doctor --config ./system.toml --json\n\n\
        With --json: {\"version\":…,\"cores\":…,\"threads\":…,\"isa\":…,\"isas\":[…],\"memory\":{\"total_bytes\":…,\n  \
        \"available_bytes\":…},\"folders\":[{\"path\":…,\"exists\":…,\"free_bytes\":…}],\"config\":{\"file\":…,\n  \
        \"values\":[{\"key\":…,\"value\":…,\"origin\":…}]},\"models\":[{\"name\":…,\"typical\":…,\"weight_bytes\":…,\n  \
        \"kv_bytes\":…,\"context\":…,\"fit\":\"fits\"|\"tight\"|\"does not fit\",\"within_max_memory\":…}],\n  \
        \"problems\":[{\"problem\":…,\"advice\":…,\"fatal\":…}]}\n\n\
        The exit code is 1 if a problem keeps the program from working, such as a file that cannot be read."
)]
pub struct DoctorArgs {
    /// GGUF files to look at, besides the models of this machine
    #[arg(value_name = "MODEL")]
    pub models: Vec<ModelName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Print the manual page, or write those of all verbs
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
    hublab man | man -l -\n  \
    hublab man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Folder to write a page for each verb into; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
