//! The flags of `ls`, `pull`, `cp` and `rm`.

use clap::Args;

/// List the models of this machine
#[derive(Debug, Args)]
#[command(
    long_about = "Lists the models of this machine by the names that every verb takes for MODEL: the built-in one, the .gguf\n\
        files in the folder for models and below it, their aliases, and what Ollama has fetched.\n\n\
        The folder is $HUBLAB_MODELS, else $XDG_DATA_HOME/hublab/models, else ~/.local/share/hublab/models.\n\
        HUBLAB_MODELS may name several, as PATH does: the first is written to, the others are only read.\n\
        Ollama's models are read where they lie: $OLLAMA_MODELS, else ~/.ollama/models.\n\n\
        What cannot be used is listed too, with the reason.",
    after_long_help = "Examples:\n  \
        hublab ls\n  \
        hublab ls --json\n\n\
        With --json: [{\"name\":…,\"kind\":\"built in\"|\"file\"|\"alias\"|\"ollama\"|\"unfinished\",\"alias_of\":…,\"path\":…,\n  \
        \"bytes\":…,\"modified\":seconds since 1970,\"architecture\":…,\"quantization\":…,\"parameters\":…,\"sha256\":…,\n  \
        \"problem\":…}]. docs/MODELS.md says more."
)]
pub struct LsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Fetch a model
#[derive(Debug, Args)]
#[command(
    long_about = "Fetches a model into the folder for models. This is the only verb that connects to another machine\n\
        by itself; `run`, `chat`, `ps` and `stop` speak to the service that you name.\n\n\
        REFERENCE is one of\n  \
          hf://OWNER/REPO/FILE.gguf[@REVISION]   a file on Hugging Face; of a split model, any part\n  \
          https://…/FILE.gguf                    any other place; http:// too\n  \
          NAME[:TAG], ollama://NAME[:TAG]        a model of Ollama's registry\n\n\
        The size is compared with the free disk and with this machine's memory before anything is fetched. The\n\
        beginning of the file comes first: it says what the model is, whether this program can run it, and what\n\
        memory that takes. A model that does not fit is not fetched further.\n\
        What breaks off is tried again, and goes on where it stopped, after Ctrl-C and a crash, too. A model\n\
        appears under its name when it is whole, its SHA-256 is the right one where that is known, and it can\n\
        be read.",
    after_long_help = "Examples:\n  \
        hublab pull hf://Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf\n  \
        hublab pull qwen2.5:0.5b\n  \
        hublab pull https://example.org/model.gguf --name mine --sha256 0123…cdef\n\n\
        Environment: HUBLAB_HF_ENDPOINT and HUBLAB_OLLAMA_REGISTRY name mirrors, HF_TOKEN is sent to Hugging Face\n\
        for models that need a login, HTTPS_PROXY and its like are followed.\n\n\
        With --json: {\"name\":…,\"from\":…,\"files\":[…],\"bytes\":…,\"bytes_fetched\":…,\"sha256\":[…],\n  \
        \"model\":{\"architecture\":…,\"parameters\":…,\"quantization\":…,\"context_length\":…,\"weight_bytes\":…,\n  \
        \"kv_bytes\":…,\"context\":…,\"problem\":…},\"already_there\":…,\"seconds\":…}. docs/MODELS.md says more."
)]
pub struct PullArgs {
    /// What to fetch
    pub reference: String,
    /// What to call it [default: as its file, or as Ollama calls it]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Take nothing else than the file with this SHA-256
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// Fetch a model that needs more memory than this machine has
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Give a model one more name
#[derive(Debug, Args)]
#[command(
    long_about = "Makes TO another name for the model FROM. No file is copied: an alias is a line in the folder for models.",
    after_long_help = "Examples:\n  \
        hublab cp qwen2.5-0.5b-instruct-q4_k_m small\n  \
        hublab run small \"Why is the sky blue?\""
)]
pub struct CpArgs {
    /// A name that `hublab ls` lists
    pub from: String,
    /// The new name
    pub to: String,
}

/// Remove models
#[derive(Debug, Args)]
#[command(
    long_about = "Removes models by their names: the file, and the aliases that would lead nowhere without it; of an alias, the\n\
        alias alone. What lies in folders that are only read, and what belongs to Ollama, is not touched.",
    after_long_help = "Examples:\n  \
        hublab rm qwen2.5-0.5b-instruct-q4_k_m\n  \
        hublab rm small"
)]
pub struct RmArgs {
    /// Names that `hublab ls` lists
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}
