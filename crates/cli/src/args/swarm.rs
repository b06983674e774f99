//! The flags of `hublab swarm` and of its verbs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use hublabio_runtime::ai::GenerationConfig;
use hublabio_runtime::ai::sampling::SamplingConfig;
use hublabio_runtime::moe::{
    DEBATE_ROUNDS_MAX, RoutingStrategy, SynthesisStrategy, parse_bytes, parse_routing, parse_synthesis,
};

use super::shared::Preset;
use super::values::{at_least_one, min_p, seed, temperature, threads, top_p, up_to, whole};
use crate::model::ModelName;

/// Ask several expert models behind one router
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    subcommand_required = true,
    long_about = "A swarm: several expert models, a router that chooses who answers a question, and ways to make one\n\
        answer of several. Experts are described in files, one each; docs/SWARM.md has every key.\n\n\
        The folder of these files is --experts, else $HUBLAB_EXPERTS, else hublab/experts in\n\
        $XDG_CONFIG_HOME (~/.config) if it exists. The experts that are built in (rust, python, linux and\n\
        the generalist `general`) belong to each swarm unless its swarm.toml says otherwise.",
    after_long_help = "Examples:\n  \
        hublab swarm query \"How do I reverse a list in Python?\"\n  \
        hublab swarm route \"How do I reverse a list in Python?\" --explain\n  \
        hublab swarm add sql --model sql-expert.gguf --keywords sql,select,join --examples sql-questions.txt\n  \
        hublab swarm ls\n  \
        hublab swarm chat"
)]
pub struct SwarmArgs {
    #[command(subcommand)]
    pub verb: SwarmVerb,
}

#[derive(Debug, Subcommand)]
pub enum SwarmVerb {
    Ls(SwarmLsArgs),
    Route(SwarmRouteArgs),
    Query(SwarmQueryArgs),
    Chat(SwarmChatArgs),
    Add(SwarmAddArgs),
    Rm(SwarmRmArgs),
    Feedback(SwarmFeedbackArgs),
    Calibrate(SwarmCalibrateArgs),
    Eval(SwarmEvalArgs),
}

/// Which swarm.
#[derive(Debug, Args)]
pub struct FolderArgs {
    /// Folder with the experts' files [default: see `hublab help swarm`]
    #[arg(long, value_name = "DIR")]
    pub experts: Option<PathBuf>,
}

/// What a swarm's models run on.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Machine")]
pub struct FleetArgs {
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Bytes that experts in memory may take together, such as 2GiB [default: as swarm.toml says]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<u64>,
}

/// Who is asked, and how answers become one: shared by `query` and `chat`.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// Who answers: single, all, top:N or threshold:P [default: as swarm.toml says, else single]
    #[arg(long, value_name = "STRATEGY", value_parser = parse_routing)]
    pub strategy: Option<RoutingStrategy>,
    /// How answers become one: best, mixture, voting, concatenate, summarize [default: as swarm.toml says]
    #[arg(long, value_name = "STRATEGY", value_parser = parse_synthesis)]
    pub synthesis: Option<SynthesisStrategy>,
    /// Ask this expert, whatever the router thinks
    #[arg(long, value_name = "NAME", conflicts_with = "strategy")]
    pub expert: Option<String>,
    /// Rounds in which experts see each other's answers before they vote
    #[arg(long, value_name = "N", value_parser = rounds, allow_negative_numbers = true)]
    pub debate: Option<usize>,
    /// Longest answer of an expert in tokens [default: as the expert's file says]
    #[arg(short = 'n', long = "max-tokens", value_name = "N", value_parser = at_least_one,
        allow_negative_numbers = true)]
    pub max_tokens: Option<usize>,
    /// Print each answer as one line of JSON, with who took part, the weights and the reasons
    #[arg(long)]
    pub json: bool,
    /// Print on standard error who answered, with weights, probabilities, times and reasons
    #[arg(long)]
    pub who: bool,
    /// Print tokens, times and loads on standard error
    #[arg(long)]
    pub stats: bool,
    #[command(flatten)]
    pub sampling: ExpertSamplingArgs,
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// How every expert chooses tokens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling (for all experts; without any of these each does as its file says)")]
pub struct ExpertSamplingArgs {
    /// Named settings, which the flags below change [default: default]
    #[arg(long, value_name = "NAME", value_enum)]
    pub preset: Option<Preset>,
    /// Temperature: 0 always takes the likeliest token
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Keep the likeliest tokens that together have this probability (1: all)
    #[arg(long, value_name = "P", value_parser = top_p, allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep the N likeliest tokens (0: all)
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Drop tokens less likely than this share of the likeliest (0: none)
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Seed of the random numbers: the same seed gives the same answer
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Option<u64>,
}

impl ExpertSamplingArgs {
    /// The settings; `None` where no flag is given, so that each expert keeps its own.
    pub fn generation(&self) -> Option<GenerationConfig> {
        let Self { preset, temp, top_p, top_k, min_p, seed } = *self;
        if (preset, temp, top_p, top_k, min_p, seed) == (None, None, None, None, None, None) {
            return None;
        }
        let mut sampling: SamplingConfig = preset.unwrap_or(Preset::Default).sampling();
        sampling.temperature = temp.unwrap_or(sampling.temperature);
        sampling.top_p = top_p.unwrap_or(sampling.top_p);
        sampling.top_k = top_k.unwrap_or(sampling.top_k);
        sampling.min_p = min_p.unwrap_or(sampling.min_p);
        sampling.seed = seed.or(sampling.seed);
        Some(GenerationConfig { sampling, ..GenerationConfig::default() })
    }
}

fn rounds(text: &str) -> Result<usize, String> {
    up_to(text, DEBATE_ROUNDS_MAX)
}

/// List the experts
#[derive(Debug, Args)]
#[command(
    long_about = "Lists the experts of a swarm. Their files are opened as far as it takes to know that they can be used\n\
        and how much memory they need; one that cannot be used is listed with the reason.",
    after_long_help = "Examples:\n  \
        hublab swarm ls\n  \
        hublab swarm ls --experts ./experts --json\n\n\
        With --json: {\"folder\":…,\"strategy\":…,\"synthesis\":…,\"memory_bytes_max\":…,\"experts\":[{\"id\":…,\"name\":…,\n  \
        \"domain\":…,\"description\":…,\"model\":…,\"adapter\":…,\"bytes\":…,\"priority\":…,\"node\":…,\"threshold\":…,\n  \
        \"keywords\":…,\"examples\":…,\"generalist\":…,\"fallback\":…,\"pinned\":…,\"file\":…,\"available\":…,\n  \
        \"unavailable\":…}]}; keywords and examples are counts, bytes what the expert takes in memory"
)]
pub struct SwarmLsArgs {
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Say who would answer a question, and why
#[derive(Debug, Args)]
#[command(
    long_about = "Says who would answer a question: the probability that each expert is the right one, those chosen, and\n\
        the reasons. Nobody answers. Without a QUERY it is read from standard input.",
    after_long_help = "Examples:\n  \
        hublab swarm route \"How do I reverse a list in Python?\"\n  \
        hublab swarm route \"Why does my program not link?\" --strategy threshold:0.2 --explain\n  \
        hublab swarm route --json < question.txt\n\n\
        With --json: {\"strategy\":…,\"selected\":[{\"id\":…,\"name\":…}],\"fallback\":…,\n  \
        \"experts\":[{\"id\":…,\"name\":…,\"probability\":…,\"threshold\":…}],\"reasons\":[…],\"stages\":[{\"stage\":…,\n  \
        \"status\":\"ran\"|\"off\"|\"skipped\",\"why\":…,\"scores\":[{\"id\":…,\"name\":…,\"score\":…}],\n  \
        \"matches\":[{\"id\":…,\"name\":…,\"what\":…,\"weight\":…}]}]}; stages only with --explain"
)]
pub struct SwarmRouteArgs {
    /// The question; standard input if left out
    pub query: Option<String>,
    /// How many are chosen: single, all, top:N or threshold:P [default: as swarm.toml says, else single]
    #[arg(long, value_name = "STRATEGY", value_parser = parse_routing)]
    pub strategy: Option<RoutingStrategy>,
    /// Print what every stage found: its scores and what matched
    #[arg(long)]
    pub explain: bool,
    /// Load the likeliest experts, so that their models have a say where there is doubt
    #[arg(long)]
    pub models: bool,
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// Let the swarm answer one question
#[derive(Debug, Args)]
#[command(
    long_about = "Answers one question. The text streams to standard output where the strategy allows it (best, mixture,\n\
        concatenate); the others write when they have decided. On a terminal a line on standard error says\n\
        who answered and why. Without a QUERY it is read from standard input.",
    after_long_help = "Examples:\n  \
        hublab swarm query \"How do I reverse a list in Python?\"\n  \
        hublab swarm query \"What does errno 13 mean in Rust?\" --strategy top:2 --synthesis concatenate\n  \
        hublab swarm query \"Is tar a compressor? Yes or no?\" --strategy all --synthesis voting --who\n  \
        hublab swarm query \"What does ls do?\" --expert linux --json\n\n\
        With --json: {\"text\":…,\"synthesis\":…,\"contributions\":[{\"id\":…,\"name\":…,\"weight\":…,\"why\":…}],\n  \
        \"agreement\":…,\"notes\":[…],\"routing\":{…},\"usage\":[{\"id\":…,\"name\":…,\"calls\":…,\"tokens\":…,\n  \
        \"latency_ms\":…,\"failure\":…}]}; \"routing\" is as `hublab swarm route --json` prints it\n\n\
        Ctrl-C stops the answer: what was written stays, and the exit code is 130."
)]
pub struct SwarmQueryArgs {
    /// The question; standard input if left out
    pub query: Option<String>,
    #[command(flatten)]
    pub folder: FolderArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Talk with the swarm
#[derive(Debug, Args)]
#[command(
    long_about = "A conversation: each line is a question, and whoever answers it sees all of the conversation. It stays\n\
        with the expert that answered last until a question clearly belongs to another. The experts' files\n\
        are read again when they change.",
    after_long_help = "Commands in the conversation:\n  \
        /experts        list the experts\n  \
        /expert NAME    ask this expert from now on; /expert alone: let the router choose again\n  \
        /why            say why the last answer came from whom it came\n  \
        /good, /bad     tell the router that its last choice was right, or wrong\n  \
        /clear          forget the conversation\n  \
        /help           list the commands\n  \
        /exit           end; so does Ctrl-D\n\n\
        A line that starts with a space is a question even if a / follows.\n\
        Ctrl-C stops an answer, not the program.\n\n\
        Examples:\n  \
        hublab swarm chat\n  \
        hublab swarm chat --synthesis mixture --who"
)]
pub struct SwarmChatArgs {
    #[command(flatten)]
    pub folder: FolderArgs,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Add an expert
#[derive(Debug, Args)]
#[command(
    long_about = "Writes NAME.toml into the experts folder, which is made if it is not there. The swarm is read as it\n\
        would then be, and the expert's model is looked at; if anything is wrong nothing is added.",
    after_long_help = "Examples:\n  \
        hublab swarm add sql --model sql.gguf --keywords sql,select,join --examples sql-questions.txt\n  \
        hublab swarm add sql --base llama.gguf --adapter sql-lora.gguf --fallback general\n  \
        hublab swarm add rust --model my-rust.gguf --force            # in place of the built-in one"
)]
pub struct SwarmAddArgs {
    /// The expert's name
    pub name: String,
    /// Its model: a GGUF file, a name that `hublab ls` lists, or builtin:NAME
    #[arg(long, value_name = "MODEL", required_unless_present = "base", conflicts_with_all = ["base", "adapter"])]
    pub model: Option<String>,
    /// The model that its adapter is for, named as for --model
    #[arg(long, value_name = "MODEL", requires = "adapter")]
    pub base: Option<String>,
    /// Its LoRA adapter
    #[arg(long, value_name = "FILE", requires = "base")]
    pub adapter: Option<String>,
    /// What it knows about, in a word [default: its name]
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// Words and phrases that speak for it, with commas between
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    pub keywords: Vec<String>,
    /// Text file with questions that it should answer, one a line; it stays where it is
    #[arg(long, value_name = "FILE")]
    pub examples: Option<PathBuf>,
    /// What it is, in a line
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// The first message of its conversations
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// Least probability with which it is chosen [default: 0.5]
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true)]
    pub threshold: Option<f32>,
    /// Breaks ties, the higher first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Number of the cluster's node that it is pinned to
    #[arg(long, value_name = "N")]
    pub node: Option<u32>,
    /// The expert that answers where this one cannot [default: the generalist]
    #[arg(long, value_name = "NAME")]
    pub fallback: Option<String>,
    /// It answers where no expert fits, and takes part in every mixture
    #[arg(long)]
    pub generalist: bool,
    /// Replace an expert of this name
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// Remove an expert
#[derive(Debug, Args)]
#[command(
    long_about = "Removes the file that describes an expert; its model stays. A built-in expert is switched off by a\n\
        file with `enabled = false`, which `hublab swarm add` replaces.",
    after_long_help = "Examples:\n  hublab swarm rm sql\n  hublab swarm rm rust"
)]
pub struct SwarmRmArgs {
    /// The expert's name
    pub name: String,
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// Tell the router whether an expert is the right one for a question
#[derive(Debug, Args)]
#[command(
    long_about = "The router learns from it at once, and keeps it in feedback.jsonl in the experts folder. Without a QUERY\n\
        it is read from standard input.",
    after_long_help = "Examples:\n  \
        hublab swarm feedback linux good \"How do I see who is logged in?\"\n  \
        hublab swarm feedback python bad \"What do pythons eat?\""
)]
pub struct SwarmFeedbackArgs {
    /// The expert's name
    pub expert: String,
    /// Whether it is the right one
    #[arg(value_enum)]
    pub verdict: Verdict,
    /// The question; standard input if left out
    pub query: Option<String>,
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// What feedback says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// It should answer such questions
    Good,
    /// It should not
    Bad,
}

/// Fit the router's probabilities to questions with known answers
#[derive(Debug, Args)]
#[command(
    long_about = "Fits the router's probabilities to questions whose right expert is known, and keeps the fit in\n\
        calibration.toml in the experts folder. Each line of FILE is {\"question\":…,\"label\":…}: the label is an\n\
        expert's name, or `general` where no expert fits. Lines with a \"set\" other than \"calibration\" are\n\
        left out, other keys are ignored. The questions must not be among the experts' examples.\n\n\
        Printed are the share of questions whose likeliest expert is the right one, and the expected\n\
        calibration error (mean distance of probability and truth), both of probabilities that were fitted\n\
        without the question: five parts, each measured by a fit of the other four.",
    after_long_help = "Examples:\n  \
        hublab swarm calibrate questions.jsonl\n  \
        hublab swarm calibrate questions.jsonl --models --json\n\n\
        With --json: {\"questions\":…,\"left_out\":…,\"accuracy\":…,\"ece_likeliest\":…,\"ece_all\":…,\"file\":…}"
)]
pub struct SwarmCalibrateArgs {
    /// Questions with labels, one JSON object a line
    #[arg(value_name = "FILE")]
    pub questions: PathBuf,
    /// Ask the models too, where there is doubt, as answering does; takes longer
    #[arg(long)]
    pub models: bool,
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// Measure whether the swarm pays
#[derive(Debug, Args)]
#[command(
    long_about = "Measures the experts alone, routed and joined, on held-out text (bits per byte) and on questions\n\
        whose answers can be checked, beside a generalist, with 95 % intervals, compute and time; and says in\n\
        plain words whether the swarm pays. Every expert is in memory meanwhile.",
    after_long_help = "Examples:\n  \
        hublab swarm eval --questions experts/eval/answers.jsonl\n  \
        hublab swarm eval --text held-out/ --generalist all.gguf --json\n\n\
        --text holds a file NAME.txt for each kind of text, its documents separated by empty lines. One that is\n\
        named like an expert's domain belongs to that expert. The first 32 tokens of each window are given.\n\n\
        A question is a line {\"question\":…,\"label\":DOMAIN,\"accept\":[…],\"kind\":short|choice|number|text}."
)]
pub struct SwarmEvalArgs {
    /// Folder with held-out text
    #[arg(long, value_name = "DIR", required_unless_present = "questions")]
    pub text: Option<PathBuf>,
    /// File with questions and what right answers have (can be given several times)
    #[arg(long, value_name = "FILE")]
    pub questions: Vec<PathBuf>,
    /// Model to compare with, trained on everything that the experts were trained on
    #[arg(long, value_name = "MODEL")]
    pub generalist: Option<ModelName>,
    /// Ways to join the answers of all experts: best, mixture, voting, concatenate, summarize
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_synthesis,
        default_value = "mixture,voting")]
    pub synthesis: Vec<SynthesisStrategy>,
    /// Bytes of each kind of text [default: all]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub text_bytes: Option<u64>,
    /// Questions of each file, spread over it [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub count: Option<usize>,
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// A routing strategy as `--strategy` reads it.
pub fn routing_name(strategy: RoutingStrategy) -> String {
    match strategy {
        RoutingStrategy::Single => "single".into(),
        RoutingStrategy::All => "all".into(),
        RoutingStrategy::TopK(n) => format!("top:{n}"),
        RoutingStrategy::Threshold(p) => format!("threshold:{p}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_named_as_they_are_read() {
        for name in ["single", "all", "top:3", "threshold:0.25"] {
            assert_eq!(routing_name(parse_routing(name).unwrap()), name);
        }
    }

    #[test]
    fn sampling_is_the_experts_own_unless_a_flag_is_given() {
        let none = ExpertSamplingArgs { preset: None, temp: None, top_p: None, top_k: None, min_p: None, seed: None };
        assert!(none.generation().is_none());
        let seeded = ExpertSamplingArgs { seed: Some(7), preset: Some(Preset::Creative), ..none };
        let sampling = seeded.generation().unwrap().sampling;
        assert_eq!((sampling.seed, sampling.temperature), (Some(7), SamplingConfig::creative().temperature));
    }
}
