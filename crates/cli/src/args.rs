//! The flag table: every verb, flag and range of `hublab`.
//!
//! Parser, `--help`, `docs/CLI.md` and the shell completions are all made from it. A number out of range is refused
//! here, with the flag's name, before any file is opened. What the verbs do is in the file of each verb's name; the flags
//! that several verbs share are in `args/shared.rs`, those of `serve` in `args/serve.rs`, of `swarm` in `args/swarm.rs`, of the
//! model store in `args/store.rs`, of `doctor` and `man` in `args/system.rs`, those that name a service in
//! `args/service.rs`, the values that flags take in `args/values.rs`.

mod serve;
mod service;
mod shared;
mod store;
mod swarm;
mod system;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hublabio_convert::OutputType;
use hublabio_runtime::ai::Pooling;
use hublabio_runtime::ai::quantization::{GgmlType, Mix, SplitLimit, TensorTypeRule, tensor_type};

pub use serve::ServeArgs;
pub use service::{PsArgs, ServiceArgs, StopArgs};
pub use shared::{ConstraintArgs, GenerationArgs, MachineArgs, Preset, PromptArgs, Samplers, SamplingArgs};
pub use store::{CpArgs, LsArgs, PullArgs, RmArgs};
pub use swarm::{
    AskArgs, FleetArgs, FolderArgs, SwarmAddArgs, SwarmArgs, SwarmCalibrateArgs, SwarmChatArgs, SwarmEvalArgs,
    SwarmFeedbackArgs, SwarmLsArgs, SwarmQueryArgs, SwarmRmArgs, SwarmRouteArgs, SwarmVerb, Verdict, routing_name,
};
pub use system::{DoctorArgs, ManArgs};

use crate::model::ModelName;
use values::{at_least_one, byte_count, chunk, logprobs, mix, repeat, threads, whole, window};

/// Runs language models on this machine
#[derive(Debug, Parser)]
#[command(
    name = "hublab",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    long_about = "Runs language models on this machine: any GGUF file, or the small model that is built in.\n\n\
        MODEL is the path of a .gguf file (of a split model: any part) or the name of a model as `hublab ls`\n\
        lists it. What is a file or ends in .gguf is a path. Given as the word `default`, it is the built-in\n\
        model; left out, it is the default model of the configuration (docs/CONFIG.md) if that names one, else\n\
        the built-in model.",
    after_long_help = "Examples:\n  \
        hublab run \"What does the command tar do?\"\n  \
        hublab run model.gguf \"Why is the sky blue?\" --preset precise -n 200\n  \
        hublab chat model.gguf\n  \
        hublab pull qwen2.5:0.5b\n  \
        hublab swarm query \"How do I reverse a list in Python?\"\n  \
        hublab show model.gguf --tensors\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.\n\
        Answers and data go to standard output; errors, notes, statistics and progress to standard error.\n\
        NO_COLOR=1 turns colours off; output that is no terminal never has any."
)]
pub struct Cli {
    /// Configuration to read, in place of those that are looked for [default: see docs/CONFIG.md]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(RunArgs),
    Chat(ChatArgs),
    Serve(ServeArgs),
    Swarm(SwarmArgs),
    Ls(LsArgs),
    Pull(PullArgs),
    Cp(CpArgs),
    Rm(RmArgs),
    Ps(PsArgs),
    Stop(StopArgs),
    Show(ShowArgs),
    Tokenize(TokenizeArgs),
    Perplexity(PerplexityArgs),
    Imatrix(ImatrixArgs),
    Quantize(QuantizeArgs),
    Bench(BenchArgs),
    Logits(LogitsArgs),
    Embed(EmbedArgs),
    Convert(ConvertArgs),
    Doctor(DoctorArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Answer one prompt
#[derive(Debug, Args)]
#[command(
    long_about = "Answers one prompt: the text streams to standard output as it is generated.\n\n\
        A single argument is the MODEL if it is `default`, ends in .gguf, or names an existing file or a model\n\
        that `hublab ls` lists; otherwise it is the PROMPT for the built-in model.\n\
        Without a PROMPT it is read from standard input.",
    after_long_help = "Examples:\n  \
        hublab run \"What does the command tar do?\"\n  \
        hublab run model.gguf \"Write a haiku about rain.\" --temp 0.9 --seed 7\n  \
        git diff | hublab run model.gguf --system \"Summarise this change in one sentence.\"\n  \
        hublab run model.gguf --raw \"Once upon a time\" -n 100 --stats\n  \
        hublab run model.gguf \"Yes or no?\" -n 1 --json --logprobs 5\n  \
        hublab run model.gguf \"Weather in Paris?\" --tools tools.json --json\n  \
        hublab run model.gguf \"Hello\" --dry-run --template-var enable_thinking=false\n\n\
        With --json: {\"message\":{\"role\":\"assistant\",\"content\":…,\"reasoning_content\":…,\"tool_calls\":[…]},\n  \
        \"finish\":\"end\"|\"tool_calls\"|\"stop\"|\"length\"|\"context\"|\"cancelled\",\"stop\":…,\n  \
        \"malformed_tool_calls\":[{\"raw\":…,\"reason\":…}],\"text\":…,\"ids\":[…],\"prompt_tokens\":…,\n  \
        \"logprobs\":[{\"id\":…,\"token\":…,\"bytes\":[…],\"logprob\":…,\"top\":[…]}]};\n  \
        with --dry-run: {\"prompt\":…,\"ids\":[…]}. docs/CHAT.md says more.\n\n\
        With --service, or where HUBLAB_HOST names one, a running service answers (`hublab serve`): MODEL is\n\
        then a name that it knows, and flags about files and this machine are refused.\n\n\
        Ctrl-C stops the answer: what was written stays, and the exit code is 130."
)]
pub struct RunArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    pub model: Option<OsString>,
    /// What to answer; standard input if left out
    pub prompt: Option<OsString>,
    /// Who answers where the command line names no model: the configuration's default.
    #[arg(skip)]
    pub default_model: Option<ModelName>,
    /// System message, in front of the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    pub raw: bool,
    /// With --raw: read control tokens such as BOS in the prompt as tokens, not as text
    #[arg(long, requires = "raw")]
    pub parse_special: bool,
    /// With --json: log probabilities of the tokens, and of so many of the likeliest alternatives
    #[arg(long, value_name = "N", requires = "json", value_parser = logprobs, allow_negative_numbers = true)]
    pub logprobs: Option<usize>,
    /// JSON list of messages to continue, in OpenAI's form; the PROMPT, if any, comes behind them
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub messages: Option<PathBuf>,
    /// Print the prompt as the model would get it, with --json its token ids too, and stop
    #[arg(long)]
    pub dry_run: bool,
    // Its heading goes on until the next, which is in `generation`.
    #[command(flatten)]
    pub template: PromptArgs,
    #[command(flatten)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// Talk with a model
#[derive(Debug, Args)]
#[command(
    long_about = "A conversation: each line is a message, and the model sees all of them.\n\n\
        On a terminal there is line editing, and a history in\n\
        $XDG_STATE_HOME/hublab/chat_history (~/.local/state/hublab/chat_history).\n\
        Otherwise the lines of standard input are answered one after the other.",
    after_long_help = "Commands in the conversation:\n  \
        /reset      forget the conversation, keep the system message\n  \
        /save FILE  write the conversation to FILE: JSON if it ends in .json, else text\n  \
        /result X   answer the first tool call that is open with X\n  \
        /help       list the commands\n  \
        /exit       end; so does Ctrl-D\n\n\
        A line that starts with a space is a message even if a / follows.\n\
        Ctrl-C stops an answer, not the program.\n\n\
        Examples:\n  \
        hublab chat\n  \
        hublab chat model.gguf --system \"Answer in one sentence.\" --preset precise\n  \
        printf 'My name is Ada.\\nWhat is my name?\\n' | hublab chat model.gguf"
)]
pub struct ChatArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(default_value = "default", hide_default_value = true)]
    pub model: ModelName,
    /// System message, in front of the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub template: PromptArgs,
    #[command(flatten)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// Describe a model file
#[derive(Debug, Args)]
#[command(
    long_about = "Describes a model file: metadata, architecture, parameters, size by tensor type, context,\n\
        tokenizer, chat template. Only the description is read, so this is quick for files of any size,\n\
        and works for architectures that cannot be run and for files that hold only a vocabulary.",
    after_long_help = "Examples:\n  \
        hublab show model.gguf\n  \
        hublab show model.gguf --tensors\n  \
        hublab show model.gguf --template > chat.jinja\n  \
        hublab show model.gguf --template=tool_use\n  \
        hublab show default --json\n  \
        hublab show --types"
)]
pub struct ShowArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(default_value = "default", hide_default_value = true)]
    pub model: ModelName,
    /// List every tensor with its type and shape (contiguous dimension first)
    #[arg(long)]
    pub tensors: bool,
    /// Print the chat template that is used, or the named one, as it stands
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "",
        conflicts_with_all = ["tensors", "types"])]
    pub template: Option<String>,
    /// List all tensor types instead: id, size, and whether they can be read and written
    #[arg(long, conflicts_with_all = ["model", "tensors"])]
    pub types: bool,
    /// Print JSON, with all metadata in full
    #[arg(long)]
    pub json: bool,
}

/// Turn text into token ids, or back
#[derive(Debug, Args)]
#[command(
    long_about = "Turns standard input into token ids, or token ids back into bytes.\n\n\
        The text is taken byte for byte: no BOS or EOS is added and control tokens are not recognised\n\
        unless asked for. Only the vocabulary is read, so files without weights are fine.",
    after_long_help = "Examples:\n  \
        printf 'Hello world' | hublab tokenize model.gguf\n  \
        printf 'Hello world' | hublab tokenize model.gguf --json        # {\"ids\":[9906,1917]}\n  \
        hublab tokenize model.gguf --json < a.txt | hublab tokenize model.gguf --decode | cmp - a.txt\n  \
        echo 9906 1917 | hublab tokenize model.gguf --decode"
)]
pub struct TokenizeArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(default_value = "default", hide_default_value = true)]
    pub model: ModelName,
    /// Begin with the BOS token
    #[arg(long, conflicts_with = "decode")]
    pub bos: bool,
    /// End with the EOS token
    #[arg(long, conflicts_with = "decode")]
    pub eos: bool,
    /// Read control tokens such as BOS as tokens; with --decode, write them as text
    #[arg(long)]
    pub parse_special: bool,
    /// Read ids (the JSON that --json prints, or plain numbers) and write the bytes they stand for
    #[arg(long)]
    pub decode: bool,
    /// Print {"ids":[…]} instead of plain numbers; with --decode, take nothing but such JSON
    #[arg(long)]
    pub json: bool,
}

/// Measure how well a model predicts a text
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    long_about = "Measures how well a model predicts a text: the lower the perplexity, the better.\n\n\
        The text is cut into windows of --ctx tokens, each beginning with BOS where the model wants one;\n\
        the second half of each window is scored, as llama.cpp does it. An incomplete last window is left out.",
    after_long_help = "Examples:\n  \
        hublab perplexity model.gguf wiki.test.raw\n  \
        hublab perplexity model.gguf wiki.test.raw --ctx 2048 --json\n  \
        hublab perplexity README.md              # the built-in model\n\n\
        With --json: {\"perplexity\":…,\"nll_mean\":…,\"tokens_scored\":…,\"bits_per_byte\":…}"
)]
pub struct PerplexityArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(default_value = "default", hide_default_value = true)]
    pub model: ModelName,
    /// UTF-8 text, `-` for standard input
    #[arg(required = true)]
    pub file: PathBuf,
    /// Tokens in a window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = window, allow_negative_numbers = true)]
    pub ctx: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Measure which columns of a model's matrices a text uses
#[derive(Debug, Args)]
#[command(
    long_about = "Collects an importance matrix: the text runs through the model, and for every weight matrix the\n\
        squares of its input columns are summed up. `hublab quantize` and llama.cpp's llama-quantize read it to\n\
        spend bits where they count.\n\n\
        The text is cut into chunks of --ctx tokens, each beginning with BOS where the model wants one, as\n\
        llama.cpp does it. An incomplete last chunk is left out. A single argument is the TEXT, for the\n\
        built-in model. With --in and no TEXT, files are joined and no model runs.",
    after_long_help = "Examples:\n  \
        hublab imatrix model.gguf calibration.txt -o model.imatrix.gguf\n  \
        hublab imatrix model.gguf more.txt --in model.imatrix.gguf -o both.gguf\n  \
        hublab imatrix --in a.gguf --in b.dat -o joined.gguf\n  \
        hublab imatrix --show model.imatrix.gguf\n\n\
        Files are GGUF as llama.cpp writes them; its older .dat format is read too.\n\
        With --json: {\"path\":…,\"entries\":…,\"chunks\":…,\"chunk_size\":…,\"datasets\":[…],\"tokens\":…,\n  \
        \"tokens_left_out\":…}; with --show: a list \"tensors\" instead of the tokens"
)]
pub struct ImatrixArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(conflicts_with = "show")]
    pub model: Option<OsString>,
    /// UTF-8 text, `-` for standard input
    pub text: Option<OsString>,
    /// Where to write [default: imatrix.gguf]
    #[arg(short = 'o', long = "output", value_name = "OUT", conflicts_with = "show")]
    pub output: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Tokens in a chunk; the size of a chunk of .dat files, too
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = chunk, allow_negative_numbers = true)]
    pub ctx: usize,
    /// Most chunks to take [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub chunks: Option<usize>,
    /// Collect the output head too, where it is a matrix of its own
    #[arg(long)]
    pub process_output: bool,
    /// Read control tokens such as BOS in the text as tokens, not as text
    #[arg(long)]
    pub parse_special: bool,
    /// Add what this importance matrix holds; may be given several times
    #[arg(long = "in", value_name = "FILE", conflicts_with = "show")]
    pub inputs: Vec<PathBuf>,
    /// Print what this importance matrix holds, and do nothing else
    #[arg(long, value_name = "FILE")]
    pub show: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Write a model in smaller types
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    long_about = "Writes a model with its matrices packed into smaller types, and says for each how much that cost.\n\n\
        TYPE is a mix as llama.cpp knows it: most matrices get the type that it is named after, a few that suffer\n\
        most get more bits. Vectors, norms and routers stay as they are. Where rows are no whole number of\n\
        blocks, the nearest type that fits is taken instead, and the report says so.\n\n\
        Types: Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, MXFP4_MOE,\n\
        MXFP4, NVFP4, Q3_K_L, Q3_K_M, Q3_K_S, IQ3_M, IQ3_S, IQ3_XS, IQ3_XXS, Q2_K, Q2_K_S, IQ2_M, IQ2_S, IQ2_XS,\n\
        IQ2_XXS, TQ2_0, TQ1_0, IQ1_M, IQ1_S, Q2_0, Q1_0, F16, BF16, F32.\n\n\
        The model streams from file to file: memory holds a few rows. OUT appears when it is complete.",
    after_long_help = "Examples:\n  \
        hublab quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M\n  \
        hublab quantize model-F16.gguf small.gguf IQ3_M --imatrix model.imatrix.gguf\n  \
        hublab quantize model-F16.gguf out.gguf Q4_K_M --tensor-type 'ffn_down=Q6_K' --output-type Q8_0\n  \
        hublab quantize model-F16.gguf out.gguf Q8_0 --split-max-size 2G\n  \
        hublab quantize model-F16.gguf Q4_K_M --dry-run\n\n\
        The error is the root mean square of the differences, relative to that of the weights; BY IMPORTANCE\n\
        counts columns as the importance matrix does.\n\
        With --json: {\"input\":…,\"files\":[…],\"type\":…,\"parameters\":…,\"bytes_before\":…,\"bytes_after\":…,\n  \
        \"bits_per_weight_before\":…,\"bits_per_weight\":…,\"file_bytes\":…,\"seconds\":…,\"notices\":[…],\n  \
        \"tensors\":[{\"name\":…,\"dims\":[…],\"from\":…,\"to\":…,\"bits_per_weight\":…,\"instead_of\":…,\"kept\":…,\n  \
        \"rmse\":…,\"weighted_rmse\":…}]}"
)]
pub struct QuantizeArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(value_name = "IN")]
    pub input: ModelName,
    /// Where to write; not needed with --dry-run
    #[arg(value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// What to make of it, in any letter case
    #[arg(value_name = "TYPE", required = true, value_parser = mix)]
    pub mix: &'static Mix,
    /// Which columns matter how much: a file made by `hublab imatrix` or llama-imatrix
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Type of the matrices whose name the expression finds; of several, the first that matches
    #[arg(long = "tensor-type", value_name = "REGEX=TYPE", value_parser = TensorTypeRule::parse)]
    pub tensor_types: Vec<TensorTypeRule>,
    /// Type of the output (of the token embedding, where it is the output too)
    #[arg(long, visible_alias = "output-tensor-type", value_name = "TYPE", value_parser = tensor_type)]
    pub output_type: Option<GgmlType>,
    /// Type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    pub token_embedding_type: Option<GgmlType>,
    /// One type for all matrices
    #[arg(long)]
    pub pure: bool,
    /// Pack matrices again that are packed already: they lose precision twice
    #[arg(long)]
    pub allow_requantize: bool,
    /// Split the output into files of at most so many bytes of weights: 2G, 500M
    #[arg(long, value_name = "SIZE", value_parser = byte_count, conflicts_with = "split_max_tensors")]
    pub split_max_size: Option<u64>,
    /// Split the output into files of at most so many tensors
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub split_max_tensors: Option<usize>,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

impl QuantizeArgs {
    /// How the output is cut.
    pub fn split(&self) -> Option<SplitLimit> {
        self.split_max_size.map(SplitLimit::Bytes).or(self.split_max_tensors.map(SplitLimit::Tensors))
    }
}

/// Measure the speed of a model
#[derive(Debug, Args)]
#[command(
    long_about = "Measures how fast a model reads a prompt (prefill) and writes an answer (decode).\n\n\
        Each is repeated and the median counts. The tokens are arbitrary: only time is measured.",
    after_long_help = "Examples:\n  \
        hublab bench model.gguf\n  \
        hublab bench model.gguf --pp 2048 --tg 128 --depth 4096 --threads 4 --repeat 3\n  \
        hublab bench default --json\n\n\
        With --json: {\"threads\":…,\"prefill\":{\"tokens\":…,\"tokens_per_s\":[…],\"median\":…},\n  \
        \"decode\":{\"tokens\":…,\"tokens_per_s\":[…],\"median\":…,\"gb_per_s\":…},\n  \
        \"rss_peak_bytes\":…,\"load_s\":…,\"isa\":\"…\"}"
)]
pub struct BenchArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(default_value = "default", hide_default_value = true)]
    pub model: ModelName,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one, allow_negative_numbers = true)]
    pub pp: usize,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one, allow_negative_numbers = true)]
    pub tg: usize,
    /// Tokens that are in the context before either is measured
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole, allow_negative_numbers = true)]
    pub depth: usize,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = repeat, allow_negative_numbers = true)]
    pub repeat: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Print a model's raw predictions for token ids
#[derive(Debug, Args)]
#[command(
    long_about = "Reads token ids from standard input, runs the model over them, and prints the logits of the\n\
        last position (of every position with --all) as JSON. For checking this engine against others.",
    after_long_help = "Examples:\n  \
        echo '{\"ids\":[1,15043]}' | hublab logits model.gguf            # {\"vocab\":32000,\"logits\":[…]}\n  \
        printf 'Hello' | hublab tokenize model.gguf --bos --json | hublab logits model.gguf --all"
)]
pub struct LogitsArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    #[arg(default_value = "default", hide_default_value = true)]
    pub model: ModelName,
    /// Print a list of rows, one for each position
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Turn texts into vectors
#[derive(Debug, Args)]
#[command(
    long_about = "Turns each text into a vector of length 1 whose direction stands for what the text says: texts that say\n\
        alike have a large dot product. Prints JSON. Made for embedding models (bert, nomic-bert); other models\n\
        give the state of their last token.\n\n\
        Without TEXT, each line of standard input is one; or JSON {\"ids\":[…]} is one text as token ids.",
    after_long_help = "Examples:\n  \
        hublab embed bge-small.gguf \"How do I list files?\" \"ls shows a folder\"\n  \
        hublab embed nomic-embed.gguf < lines.txt"
)]
pub struct EmbedArgs {
    /// GGUF file, a name that `hublab ls` lists, or `default` for the built-in model
    pub model: ModelName,
    /// Texts
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,
    /// Which tokens' states become the vector [default: as the file says]
    #[arg(long, value_enum, value_name = "NAME")]
    pub pooling: Option<PoolingName>,
    /// Tokens that a text may have [default: what the model was trained for, at most 32,768]
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub ctx: Option<usize>,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Which tokens' states become an embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolingName {
    /// The mean of all
    Mean,
    /// The first token's
    First,
    /// The last token's
    Last,
}

impl PoolingName {
    pub fn pooling(self) -> Pooling {
        match self {
            Self::Mean => Pooling::Mean,
            Self::First => Pooling::First,
            Self::Last => Pooling::Last,
        }
    }
}

/// Turn a Hugging Face checkpoint into a GGUF file
#[derive(Debug, Args)]
#[command(
    long_about = "Turns the folder of a Hugging Face checkpoint (config.json, safetensors, tokenizer) into one GGUF file.\n\n\
        Families: Llama, Mistral, Mixtral, Qwen2, Qwen3 and their mixtures of experts, Phi-1.5 to Phi-4, Gemma 1, 2\n\
        and 3 (the text part), SmolLM3, OLMo 2, Granite, StableLM, StarCoder2, and the encoders BERT and\n\
        nomic-embed-text. With --base, DIR is a PEFT (LoRA) adapter. Matrices get the type of --type; norms and\n\
        biases stay F32. Memory does not grow with the model. The file appears under its name when it is whole:\n\
        after an error or Ctrl-C there is none.",
    after_long_help = "Examples:\n  \
        hublab convert Llama-3.2-1B-Instruct llama.gguf\n  \
        hublab convert Qwen2.5-0.5B qwen.gguf --type Q8_0\n  \
        hublab convert my-adapter my-adapter.gguf --base Qwen2.5-0.5B\n\n\
        docs/CONVERT.md says what is read and what is refused."
)]
pub struct ConvertArgs {
    /// Folder of the checkpoint
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// GGUF file to write
    pub out: PathBuf,
    /// DIR is a PEFT (LoRA) adapter for this folder's model (its config.json is read); auto is F32
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Type of the matrices: F32, F16, BF16, Q8_0, or auto (BF16 where the checkpoint is BF16, else F16)
    #[arg(long = "type", value_name = "TYPE", default_value = "auto", value_parser = crate::convert::output_type)]
    pub ty: OutputType,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
}

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
    hublab completions bash > ~/.local/share/bash-completion/completions/hublab\n  \
    hublab completions zsh > ~/.zfunc/_hublab\n  \
    hublab completions fish > ~/.config/fish/completions/hublab.fish")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}
