//! The flags that several verbs share: how a prompt is made, how an answer is chosen, and what runs it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hublabio_runtime::ai::sampling::{Dry, DynamicTemperature, Mirostat, SamplerStep, SamplingConfig, Xtc};
use hublabio_runtime::ai::{AdapterConfig, Architecture, Isa, Json, KvType, ToolFormat};

use super::values::{
    additive_penalty, at_least_one, description, dry_base, dry_multiplier, exponent, isa, kv, last_n, logit_bias, lora,
    min_p, repeat_penalty, samplers, seed, temperature, threads, top_n_sigma, top_p, whole, xtc_threshold,
};
use crate::Usage;
use crate::model::ModelName;

/// How messages become a prompt, and how an answer is shown: shared by `run` and `chat`.
#[derive(Debug, Args)]
pub struct PromptArgs {
    /// Jinja chat template to use instead of the model's
    #[arg(long, value_name = "FILE", conflicts_with = "template_name")]
    pub template: Option<PathBuf>,
    /// Chat template to use by its name: one of the file's (`tool_use`), or a built-in one (`chatml`)
    #[arg(long, value_name = "NAME")]
    pub template_name: Option<String>,
    /// What the chat template should know besides: enable_thinking=false; may be given several times
    #[arg(long = "template-var", value_name = "KEY=JSON", value_parser = crate::prompt::template_var)]
    pub template_vars: Vec<(String, Json)>,
    /// JSON list of tools that the model may call, in OpenAI's form
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// How the model writes tool calls [default: as its template says]
    #[arg(long, value_name = "FORMAT")]
    pub tool_format: Option<ToolFormat>,
    /// Leave out what the model thinks before it answers
    #[arg(long)]
    pub hide_reasoning: bool,
    /// Print each answer as one line of JSON: content, reasoning and tool calls apart
    #[arg(long)]
    pub json: bool,
}

/// How to generate text: shared by `run` and `chat`.
#[derive(Debug, Args)]
pub struct GenerationArgs {
    /// Longest answer in tokens; without it, until the model ends or the context is full
    #[arg(short = 'n', long = "max-tokens", value_name = "N", value_parser = at_least_one,
        allow_negative_numbers = true)]
    pub max_tokens: Option<usize>,
    /// Context length in tokens: prompt and answer together [default: the model's, at most 32768]
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub ctx: Option<usize>,
    /// Text that ends the answer and is not shown; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new(),
        allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Print load time, tokens/s and GB/s on standard error
    #[arg(long)]
    pub stats: bool,
    // The groups with a heading of their own come last, here and in each verb: a heading goes on until the next.
    #[command(flatten)]
    pub constraint: ConstraintArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// What the answer must look like.
#[derive(Debug, Args)]
#[command(next_help_heading = "Constraints")]
pub struct ConstraintArgs {
    /// Answer in JSON that obeys this JSON Schema: a file, or the schema itself
    #[arg(long, value_name = "SCHEMA", group = "constraint")]
    pub json_schema: Option<String>,
    /// Answer in text that all of this regular expression matches
    #[arg(long, value_name = "REGEX", group = "constraint")]
    pub regex: Option<String>,
    /// Answer in text of this grammar: a .gbnf file (llama.cpp's form) or a .lark file (llguidance's)
    #[arg(long, value_name = "FILE", group = "constraint")]
    pub grammar: Option<PathBuf>,
    /// Leave the answer free until this text, such as `</think>`
    #[arg(long, value_name = "TEXT", requires = "constraint")]
    pub constrain_after: Option<String>,
}

/// How to choose the next token.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Named settings, which the flags below change
    /// [default: greedy for the built-in model, else default]
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
    /// Keep the tokens of the most usual surprise that together have this probability (1: all)
    #[arg(long, value_name = "P", value_parser = top_p, allow_negative_numbers = true)]
    pub typical: Option<f32>,
    /// Keep tokens whose logit is within so many standard deviations of the largest (0: all)
    #[arg(long, value_name = "N", value_parser = top_n_sigma, allow_negative_numbers = true)]
    pub top_n_sigma: Option<f32>,
    /// With this probability, leave out all likely tokens but the least likely of them (0: never)
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true)]
    pub xtc_probability: Option<f32>,
    /// What is likely for --xtc-probability, at most 0.5 [default: 0.1]
    #[arg(long, value_name = "P", requires = "xtc_probability", value_parser = xtc_threshold,
        allow_negative_numbers = true)]
    pub xtc_threshold: Option<f32>,
    /// Let the temperature vary by so much with the entropy (0: off)
    #[arg(long, value_name = "X", value_parser = temperature, allow_negative_numbers = true)]
    pub dynatemp_range: Option<f32>,
    /// Power of the entropy for --dynatemp-range [default: 1]
    #[arg(long, value_name = "X", requires = "dynatemp_range", value_parser = exponent, allow_negative_numbers = true)]
    pub dynatemp_exponent: Option<f32>,
    /// Hold the surprise of each token at a target, instead of any filter (mirostat 2)
    #[arg(long, conflicts_with_all = ["top_p", "top_k", "min_p", "typical", "top_n_sigma", "xtc_probability",
        "min_keep"])]
    pub mirostat: bool,
    /// That target, in bits [default: 5]
    #[arg(long, value_name = "BITS", requires = "mirostat", value_parser = exponent, allow_negative_numbers = true)]
    pub mirostat_target: Option<f32>,
    /// How fast --mirostat follows, from 0 to 1 [default: 0.1]
    #[arg(long, value_name = "X", requires = "mirostat", value_parser = min_p, allow_negative_numbers = true)]
    pub mirostat_rate: Option<f32>,
    /// Filters other than top-k keep at least so many tokens [default: 1]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub min_keep: Option<usize>,
    /// Divide the logits of tokens that occurred by this (1: off)
    #[arg(long, value_name = "X", value_parser = repeat_penalty, allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Subtract this from a token's logit for each time it occurred (0: off)
    #[arg(long, value_name = "X", value_parser = additive_penalty, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Subtract this from a token's logit if it occurred (0: off)
    #[arg(long, value_name = "X", value_parser = additive_penalty, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// How many of the last tokens these three penalties look at (-1: all) [default: 64]
    #[arg(long, value_name = "N", value_parser = last_n, allow_negative_numbers = true)]
    pub repeat_last_n: Option<usize>,
    /// Penalize what would go on with a repetition, by this for the shortest (DRY; 0: off)
    #[arg(long, value_name = "X", value_parser = dry_multiplier, allow_negative_numbers = true)]
    pub dry_multiplier: Option<f32>,
    /// By how much the penalty of DRY grows with each token [default: 1.75]
    #[arg(long, value_name = "X", requires = "dry_multiplier", value_parser = dry_base, allow_negative_numbers = true)]
    pub dry_base: Option<f32>,
    /// Shortest repetition that counts for DRY, in tokens [default: 2]
    #[arg(long, value_name = "N", requires = "dry_multiplier", value_parser = whole, allow_negative_numbers = true)]
    pub dry_allowed_length: Option<usize>,
    /// How many of the last tokens DRY searches (-1: all) [default: -1]
    #[arg(long, value_name = "N", requires = "dry_multiplier", value_parser = last_n, allow_negative_numbers = true)]
    pub dry_last_n: Option<usize>,
    /// Text that no repetition reaches over; may repeat [default: line break, `:`, `"` and `*`]
    #[arg(long, value_name = "TEXT", requires = "dry_multiplier", allow_hyphen_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub dry_breaker: Vec<String>,
    /// Add to the logit of a token (-inf: never choose it); may be given several times
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Order [default: penalties,dry,top_n_sigma,top_k,typ_p,top_p,min_p,xtc,temperature]; others are off
    #[arg(long, value_name = "NAMES", value_parser = samplers)]
    pub samplers: Option<Samplers>,
    /// Seed of the random numbers: the same seed gives the same answer
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Option<u64>,
}

/// The steps of sampling in their order. (A list of its own, as clap takes a `Vec` for a flag that repeats.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samplers(pub Vec<SamplerStep>);

/// How a model is opened, and what it runs on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine and model")]
pub struct MachineArgs {
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Instruction set to compute with [default: the fastest of this CPU]
    #[arg(long, value_name = "NAME", value_parser = isa)]
    pub isa: Option<Isa>,
    /// Precision of the context's keys and values, f16 or f32 [default: f32 if all weights are, else f16]
    #[arg(long, value_name = "TYPE", value_parser = kv)]
    pub kv: Option<KvType>,
    /// LoRA adapter to add to the model, and how much of it [default scale: 1]; may be repeated
    #[arg(long, value_name = "FILE[:SCALE]", value_parser = lora)]
    pub lora: Vec<AdapterConfig>,
    /// Description of the model's architecture, TOML, for those that are not built in (docs/CUSTOM.md)
    #[arg(long, value_name = "FILE", value_parser = description)]
    pub arch: Option<Architecture>,
}

/// Sampling settings by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Always the likeliest token
    Greedy,
    /// Temperature 0.2, top-p 0.8, top-k 20
    Precise,
    /// Temperature 0.7, top-p 0.9, top-k 40
    Default,
    /// Temperature 1, top-p 0.95, top-k 50
    Creative,
}

impl Preset {
    /// The settings of this name.
    pub fn sampling(self) -> SamplingConfig {
        match self {
            Self::Greedy => SamplingConfig::greedy(),
            Self::Precise => SamplingConfig::precise(),
            Self::Default => SamplingConfig::default(),
            Self::Creative => SamplingConfig::creative(),
        }
    }
}

impl SamplingArgs {
    /// The settings for a model: the preset, changed by the single flags.
    ///
    /// The built-in model recites facts, so that it is greedy unless a flag asks for chance.
    ///
    /// # Errors
    /// When a flag is given for a sampler that `--samplers` leaves out.
    pub fn config(&self, model: &ModelName) -> Result<SamplingConfig, Usage> {
        self.check_samplers()?;
        let chance = self.temp.is_some()
            || self.seed.is_some()
            || self.samplers.is_some()
            || self.mirostat
            || self.flags().iter().any(|(_, step, given)| *given && *step != SamplerStep::Penalties);
        let own = if *model == ModelName::Default && !chance { Preset::Greedy } else { Preset::Default };
        let mut config = self.preset.unwrap_or(own).sampling();
        config.temperature = self.temp.unwrap_or(config.temperature);
        config.top_p = self.top_p.unwrap_or(config.top_p);
        config.top_k = self.top_k.unwrap_or(config.top_k);
        config.min_p = self.min_p.unwrap_or(config.min_p);
        config.typical_p = self.typical.unwrap_or(config.typical_p);
        config.top_n_sigma = self.top_n_sigma.unwrap_or(config.top_n_sigma);
        config.min_keep = self.min_keep.unwrap_or(config.min_keep);
        config.repetition_penalty = self.repeat_penalty.unwrap_or(config.repetition_penalty);
        config.frequency_penalty = self.frequency_penalty.unwrap_or(config.frequency_penalty);
        config.presence_penalty = self.presence_penalty.unwrap_or(config.presence_penalty);
        config.penalty_window = self.repeat_last_n.unwrap_or(config.penalty_window);
        config.xtc =
            self.xtc_probability.map(|probability| Xtc { probability, threshold: self.xtc_threshold.unwrap_or(0.1) });
        config.dynamic_temperature = self
            .dynatemp_range
            .filter(|range| *range > 0.0)
            .map(|range| DynamicTemperature { range, exponent: self.dynatemp_exponent.unwrap_or(1.0) });
        config.mirostat = self.mirostat.then(|| Mirostat {
            target: self.mirostat_target.unwrap_or(Mirostat::default().target),
            rate: self.mirostat_rate.unwrap_or(Mirostat::default().rate),
        });
        config.dry = self.dry_multiplier.filter(|multiplier| *multiplier > 0.0).map(|multiplier| {
            let default = Dry::default();
            Dry {
                multiplier,
                base: self.dry_base.unwrap_or(default.base),
                allowed_length: self.dry_allowed_length.unwrap_or(default.allowed_length),
                range: self.dry_last_n,
                breakers: Vec::new(),
            }
        });
        config.logit_bias.clone_from(&self.logit_bias);
        if let Some(Samplers(order)) = &self.samplers {
            config.order.clone_from(order);
        }
        config.seed = self.seed.or(config.seed);
        Ok(config)
    }

    /// Flags that set something of a sampler, and whether they are given.
    fn flags(&self) -> [(&'static str, SamplerStep, bool); 12] {
        [
            ("--temp", SamplerStep::Temperature, self.temp.is_some()),
            ("--dynatemp-range", SamplerStep::Temperature, self.dynatemp_range.is_some()),
            ("--top-k", SamplerStep::TopK, self.top_k.is_some()),
            ("--top-p", SamplerStep::TopP, self.top_p.is_some()),
            ("--min-p", SamplerStep::MinP, self.min_p.is_some()),
            ("--typical", SamplerStep::TypicalP, self.typical.is_some()),
            ("--top-n-sigma", SamplerStep::TopNSigma, self.top_n_sigma.is_some()),
            ("--xtc-probability", SamplerStep::Xtc, self.xtc_probability.is_some()),
            ("--repeat-penalty", SamplerStep::Penalties, self.repeat_penalty.is_some()),
            ("--frequency-penalty", SamplerStep::Penalties, self.frequency_penalty.is_some()),
            ("--presence-penalty", SamplerStep::Penalties, self.presence_penalty.is_some()),
            ("--dry-multiplier", SamplerStep::Dry, self.dry_multiplier.is_some()),
        ]
    }

    /// Refuses a flag for a sampler that `--samplers` leaves out.
    pub fn check_samplers(&self) -> Result<(), Usage> {
        let Some(Samplers(order)) = &self.samplers else { return Ok(()) };
        match self.flags().into_iter().find(|(_, step, given)| *given && !order.contains(step)) {
            Some((flag, step, _)) => {
                Err(Usage(format!("{flag} would do nothing, as --samplers leaves `{step}` out: add it there")))
            }
            None if self.preset == Some(Preset::Greedy) && !order.contains(&SamplerStep::Temperature) => {
                Err(Usage("--preset greedy would draw, as --samplers leaves `temperature` out: add it there".into()))
            }
            None => Ok(()),
        }
    }
}
