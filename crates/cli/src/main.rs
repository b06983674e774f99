//! `hublab`: the command line of HubLab IO.
//!
//! This room turns words on a command line into calls of the runtime, and results into text or JSON. It refuses to know
//! models, tensors and templates: what it says about them comes from the rooms below.
//!
//! Where to go next: `args.rs` is the flag table; each verb has a file of its name; `output.rs` and `input.rs` are the
//! only places that touch the standard streams; `interrupt.rs` is Ctrl-C; `defaults.rs` is what the configuration fills in.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. A reader that closes the pipe has seen enough:
//! that ends the program quietly, with 0.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod chat;
mod constraint;
mod convert;
mod defaults;
mod doctor;
mod embed;
mod generate;
mod imatrix;
mod input;
mod interrupt;
mod logits;
mod man;
mod model;
mod output;
mod perplexity;
mod prompt;
mod pull;
mod quantize;
#[cfg(test)]
mod reference;
mod remote;
mod run;
mod serve;
mod show;
mod store;
mod swarm;
mod tokenize;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches};
use hublabio_runtime::config::SystemConfig;
use hublabio_runtime::machine::Memory;

use crate::args::{Cli, Verb};

/// What Ctrl-C gives, as shells expect it: 128 and the signal's number.
const EXIT_INTERRUPTED: u8 = 130;
const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let result = match parse() {
        Ok((cli, matches)) => start(cli, &matches),
        Err(message) => output::clap_message(&message),
    };
    match result {
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::from(if error.is::<Usage>() { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

/// The command line as the flag table reads it, and what tells a flag that was given from one that was left out.
fn parse() -> Result<(Cli, ArgMatches), clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    Ok((Cli::from_arg_matches(&matches)?, matches))
}

fn start(mut cli: Cli, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let source = defaults::source(cli.config.as_deref());
    match &cli.verb {
        // What is wrong with the configuration is what it is asked for.
        Verb::Doctor(args) => return doctor::doctor(args, &source.with_memory(Memory::read())),
        // Its flags are part of the configuration.
        Verb::Serve(args) => return serve::serve(args, source.with_memory(Memory::read())),
        // These say the same whatever is configured.
        Verb::Completions(_) | Verb::Man(_) => return dispatch(&cli.verb),
        _ => {}
    }
    let effective = SystemConfig::load(&source)?;
    output::start_logging(effective.config.kernel.log_level);
    if let Some(file) = &effective.file {
        tracing::debug!(file = %file.display(), "configuration is read");
    }
    store::configure(&effective);
    defaults::fill_in(&mut cli.verb, matches, &effective)?;
    dispatch(&cli.verb)
}

fn dispatch(verb: &Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(args) => run::run(args),
        Verb::Chat(args) => chat::chat(args),
        Verb::Serve(args) => serve::serve(args, defaults::source(None)),
        Verb::Swarm(args) => swarm::swarm(args),
        Verb::Ls(args) => store::list(args),
        Verb::Pull(args) => pull::pull(args),
        Verb::Cp(args) => store::copy(args),
        Verb::Rm(args) => store::remove(args),
        Verb::Ps(args) => remote::ps(args),
        Verb::Stop(args) => remote::stop(args),
        Verb::Show(args) => show::show(args),
        Verb::Tokenize(args) => tokenize::tokenize(args),
        Verb::Perplexity(args) => perplexity::perplexity(args),
        Verb::Imatrix(args) => imatrix::imatrix(args),
        Verb::Quantize(args) => quantize::quantize(args),
        Verb::Bench(args) => bench::bench(args),
        Verb::Logits(args) => logits::logits(args),
        Verb::Embed(args) => embed::embed(args),
        Verb::Convert(args) => convert::convert(args),
        Verb::Doctor(args) => doctor::doctor(args, &defaults::source(None)),
        Verb::Man(args) => man::man(args),
        Verb::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "hublab", &mut script);
            output::bytes(&script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A command line that the flag table alone cannot refuse.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
