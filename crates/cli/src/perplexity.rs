//! `hublab perplexity`: how well a model predicts a text.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use hublabio_runtime::Error;
use hublabio_runtime::ai::tokenizer::EncodeOptions;
use serde::Serialize;

use crate::args::PerplexityArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, Progress};
use crate::{EXIT_INTERRUPTED, input};

/// The JSON of `--json`.
#[derive(Serialize)]
struct Report {
    perplexity: f64,
    nll_mean: f64,
    tokens_scored: usize,
    bits_per_byte: f64,
}

pub fn perplexity(args: &PerplexityArgs) -> Result<ExitCode> {
    let mut model = args.model.open(&args.machine.model_config(Some(args.ctx)), "--ctx")?;
    let text = read_text(&args.file)?;
    // The text as a prompt would be, as llama.cpp does it: with BOS where the model wants it.
    let options = EncodeOptions { add_eos: Some(false), ..EncodeOptions::default() };
    let tokens = model
        .engine
        .tokenizer()
        .map_err(|error| args.model.in_file(error))?
        .encode_bytes(&text, options)
        .with_context(|| format!("cannot tokenize {}", args.file.display()))?;
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new();
    let measured = model.engine.perplexity(&tokens, args.ctx, &mut |done, windows| {
        progress.show(&format!("window {done} of {windows}"));
        if interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(progress);
    if interrupt.requested() {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    let measured = measured.map_err(|error| match error {
        Error::TooFewTokens { .. } => anyhow!("{}: {error}: give a longer text or lower --ctx", args.file.display()),
        error => error.into(),
    })?;
    let report = Report {
        perplexity: measured.perplexity,
        nll_mean: measured.nll_mean,
        tokens_scored: measured.tokens_scored,
        bits_per_byte: measured.bits_per_byte,
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::bytes(
            format!(
                "perplexity     {:.4}\nnll mean       {:.5} nats a token\nbits per byte  {:.4}\ntokens scored  {}\n",
                report.perplexity, report.nll_mean, report.bits_per_byte, report.tokens_scored
            )
            .as_bytes(),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read_text(file: &Path) -> Result<Vec<u8>> {
    if file == Path::new("-") {
        return input::bytes();
    }
    fs::read(file).with_context(|| format!("cannot read the text {}", file.display()))
}
