//! `hublab logits`: token ids in, raw predictions out. The door through which other engines check this one.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::args::LogitsArgs;
use crate::{input, output};

#[derive(Serialize)]
struct Logits<T> {
    vocab: usize,
    logits: T,
}

pub fn logits(args: &LogitsArgs) -> Result<ExitCode> {
    let ids = input::ids(false)?;
    if ids.is_empty() {
        bail!("standard input holds no token id: give at least one, as in {{\"ids\":[1,15043]}}");
    }
    let config = args.machine.model_config(Some(ids.len()));
    let mut rows = args.model.open(&config, "the number of ids")?.engine.logits(&ids, args.all)?;
    let vocab = rows.first().map_or(0, Vec::len);
    if args.all {
        output::json(&Logits { vocab, logits: rows })?;
    } else {
        output::json(&Logits { vocab, logits: rows.pop().unwrap_or_default() })?;
    }
    Ok(ExitCode::SUCCESS)
}
