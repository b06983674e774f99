//! `hublab embed`: texts in, vectors out.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hublabio_runtime::ai::Pooling;
use hublabio_runtime::ai::tokenizer::TokenId;
use serde::Serialize;

use crate::args::{EmbedArgs, PoolingName};
use crate::{input, output};

#[derive(Serialize)]
struct Vectors {
    dimensions: usize,
    pooling: &'static str,
    embeddings: Vec<Vec<f32>>,
}

pub fn embed(args: &EmbedArgs) -> Result<ExitCode> {
    let mut model = args.model.open(&args.machine.model_config(args.ctx), "--ctx")?;
    let texts: Vec<Vec<TokenId>> = if args.texts.is_empty() {
        let bytes = input::bytes()?;
        if bytes.trim_ascii_start().starts_with(b"{") {
            vec![input::parse_ids(&bytes, true)?]
        } else {
            let text = std::str::from_utf8(&bytes).context("standard input is not UTF-8: convert it first")?;
            let lines = text.lines().filter(|line| !line.is_empty());
            lines.map(|line| model.engine.embedding_prompt(line)).collect::<Result<_, _>>()?
        }
    } else {
        args.texts.iter().map(|text| model.engine.embedding_prompt(text)).collect::<Result<_, _>>()?
    };
    if texts.is_empty() {
        bail!("there is no text: give some, or one on each line of standard input");
    }
    let pooling = args.pooling.map_or_else(|| model.engine.default_pooling(), PoolingName::pooling);
    let embeddings: Vec<Vec<f32>> =
        texts.iter().map(|ids| model.engine.embed(ids, pooling)).collect::<Result<_, _>>()?;
    let pooling = match pooling {
        Pooling::Mean => "mean",
        Pooling::First => "first",
        Pooling::Last => "last",
    };
    output::json(&Vectors { dimensions: embeddings.first().map_or(0, Vec::len), pooling, embeddings })?;
    Ok(ExitCode::SUCCESS)
}
