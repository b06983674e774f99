//! The configuration on the command line: what flags leave open is filled in, before any verb sees it.
//!
//! A value that is the default counts as not said: a file with every key at its default changes nothing.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ArgMatches;
use clap::parser::ValueSource;
use hublabio_runtime::config::{ConfigSource, EffectiveConfig, SystemConfig};

use crate::args::{AskArgs, FleetArgs, MachineArgs, RunArgs, SamplingArgs, SwarmVerb, Verb};
use crate::model::ModelName;

/// What a configuration is made from here: the file of `--config`, and the environment.
pub fn source(file: Option<&Path>) -> ConfigSource {
    let source = ConfigSource::new(std::env::vars_os());
    match file {
        Some(file) => source.with_file(file),
        None => source,
    }
}

/// Fills in what the flags of `verb`, parsed from `matches`, leave open.
///
/// # Errors
/// When the default model is needed and cannot be found.
pub fn fill_in(verb: &mut Verb, matches: &ArgMatches, effective: &EffectiveConfig) -> Result<()> {
    let Said { threads, .. } = Said::of(&effective.config);
    // `default_value` of the flag table: MODEL was left out. The word `default` on the command line is the built-in model.
    let left_out = || {
        let of_verb = matches.subcommand().map(|(_, of_verb)| of_verb);
        of_verb.is_some_and(|of_verb| of_verb.value_source("model") == Some(ValueSource::DefaultValue))
    };
    let model = |model: &mut ModelName| -> Result<()> {
        if left_out() {
            *model = default_model(effective)?;
        }
        Ok(())
    };
    match verb {
        Verb::Run(args) => {
            if leaves_model_out(args) {
                args.default_model = Some(default_model(effective)?);
            }
            sampling(&mut args.generation.sampling, &effective.config);
            machine(&mut args.generation.machine, threads);
        }
        Verb::Chat(args) => {
            model(&mut args.model)?;
            sampling(&mut args.generation.sampling, &effective.config);
            machine(&mut args.generation.machine, threads);
        }
        Verb::Swarm(args) => match &mut args.verb {
            SwarmVerb::Query(args) => ask(&mut args.ask, &effective.config),
            SwarmVerb::Chat(args) => ask(&mut args.ask, &effective.config),
            SwarmVerb::Route(args) => fleet(&mut args.fleet, &effective.config),
            SwarmVerb::Calibrate(args) => fleet(&mut args.fleet, &effective.config),
            SwarmVerb::Eval(args) => fleet(&mut args.fleet, &effective.config),
            SwarmVerb::Ls(_) | SwarmVerb::Add(_) | SwarmVerb::Rm(_) | SwarmVerb::Feedback(_) => {}
        },
        Verb::Show(args) if args.types => {}
        Verb::Show(args) => model(&mut args.model)?,
        Verb::Tokenize(args) => model(&mut args.model)?,
        Verb::Perplexity(args) => {
            model(&mut args.model)?;
            machine(&mut args.machine, threads);
        }
        Verb::Bench(args) => {
            model(&mut args.model)?;
            machine(&mut args.machine, threads);
        }
        Verb::Logits(args) => {
            model(&mut args.model)?;
            machine(&mut args.machine, threads);
        }
        Verb::Imatrix(args) => machine(&mut args.machine, threads),
        Verb::Embed(args) => machine(&mut args.machine, threads),
        Verb::Quantize(args) => args.threads = args.threads.or(threads),
        // Those that compute nothing here, and `serve`, which reads the configuration by itself.
        Verb::Serve(_)
        | Verb::Ls(_)
        | Verb::Pull(_)
        | Verb::Cp(_)
        | Verb::Rm(_)
        | Verb::Ps(_)
        | Verb::Stop(_)
        | Verb::Convert(_)
        | Verb::Completions(_)
        | Verb::Doctor(_)
        | Verb::Man(_) => {}
    }
    Ok(())
}

/// What a configuration says that the defaults do not.
struct Said {
    threads: Option<usize>,
    max_memory: Option<u64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
}

impl Said {
    fn of(config: &SystemConfig) -> Self {
        let (said, default) = (&config.runtime, SystemConfig::default().runtime);
        Self {
            threads: (said.num_threads != default.num_threads).then_some(said.num_threads),
            max_memory: (said.max_memory != default.max_memory).then_some(said.max_memory as u64),
            temperature: (said.temperature != default.temperature).then_some(said.temperature),
            top_p: (said.top_p != default.top_p).then_some(said.top_p),
        }
    }
}

fn machine(args: &mut MachineArgs, threads: Option<usize>) {
    args.threads = args.threads.or(threads);
}

fn fleet(args: &mut FleetArgs, config: &SystemConfig) {
    let said = Said::of(config);
    args.threads = args.threads.or(said.threads);
    args.max_memory = args.max_memory.or(said.max_memory);
}

fn ask(args: &mut AskArgs, config: &SystemConfig) {
    let said = Said::of(config);
    let sampling = &mut args.sampling;
    if sampling.preset.is_none() {
        sampling.temp = sampling.temp.or(said.temperature);
        sampling.top_p = sampling.top_p.or(said.top_p);
    }
    fleet(&mut args.fleet, config);
}

/// A preset, an order of samplers and mirostat are choices of their own, into which the configuration does not interfere.
fn sampling(args: &mut SamplingArgs, config: &SystemConfig) {
    let said = Said::of(config);
    if args.preset.is_none() && args.samplers.is_none() && !args.mirostat {
        args.temp = args.temp.or(said.temperature);
        args.top_p = args.top_p.or(said.top_p);
    }
}

/// Whether the built-in model would answer because the command line names none.
fn leaves_model_out(args: &RunArgs) -> bool {
    match (&args.model, &args.prompt) {
        (None, _) => true,
        (Some(lone), None) => !ModelName::is_meant_by(lone),
        (Some(_), Some(_)) => false,
    }
}

/// The model that answers where none is named.
///
/// # Errors
/// With the key and its origin, when it is configured and is not there.
pub fn default_model(effective: &EffectiveConfig) -> Result<ModelName> {
    let Some(name) = &effective.config.ai.default_model else { return Ok(ModelName::Default) };
    let model = ModelName::from(OsStr::new(name));
    let origin = effective.origin("ai.default_model");
    model.check().with_context(|| format!("the default model `{name}` (key `ai.default_model`, {origin})"))?;
    Ok(model)
}
