//! One answer: generated, streamed, measured. Shared by `run` and `chat`.

use std::ops::ControlFlow;

use anyhow::Result;
use hublabio_runtime::ai::tokenizer::TokenId;
use hublabio_runtime::ai::{Finish, Generation, GenerationConfig, Stats};
use serde_json::{Value, json};

use crate::args::GenerationArgs;
use crate::interrupt::Interrupt;
use crate::model::{ModelName, OpenModel};
use crate::output::{self, AnswerWriter};

impl GenerationArgs {
    pub fn open(&self, name: &ModelName) -> Result<OpenModel> {
        name.open(&self.machine.model_config(self.ctx), "--ctx")
    }

    /// The settings, with the files that they name.
    ///
    /// # Errors
    /// When flags contradict each other, or a file cannot be read.
    pub fn generation_config(&self, model: &ModelName) -> Result<GenerationConfig> {
        let mut config = GenerationConfig {
            sampling: self.sampling.config(model)?,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            constraint: self.constraint.config()?,
            ..GenerationConfig::default()
        };
        if !self.sampling.dry_breaker.is_empty() {
            config.dry_breakers.clone_from(&self.sampling.dry_breaker);
        }
        Ok(config)
    }
}

/// The model's answer, of which nothing is shown.
pub fn silent_answer(
    model: &mut OpenModel,
    prompt: &[TokenId],
    config: &GenerationConfig,
    interrupt: &Interrupt,
) -> Result<Generation> {
    let generation = model.engine.generate(prompt, config, &mut |_| {
        if interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    model.say_notices();
    Ok(generation)
}

/// An answer as `run --json` prints it.
pub fn as_json(model: &OpenModel, generation: &Generation, config: &GenerationConfig) -> Result<Value> {
    let tokenizer = model.engine.tokenizer()?;
    let token = |id: TokenId, logprob: f32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        json!({ "id": id.0, "token": String::from_utf8_lossy(bytes), "bytes": bytes, "logprob": logprob })
    };
    let (finish, stop) = match generation.finish {
        Finish::EndOfText => ("end", None),
        Finish::Stop(index) => ("stop", config.stop.get(index)),
        Finish::Length => ("length", None),
        Finish::Context => ("context", None),
        Finish::Cancelled => ("cancelled", None),
    };
    let mut answer = json!({
        "text": generation.text,
        "finish": finish,
        "stop": stop,
        "ids": generation.tokens.iter().map(|id| id.0).collect::<Vec<_>>(),
        "prompt_tokens": generation.stats.prompt_tokens,
    });
    if config.logprobs.is_some() {
        let entries = generation.logprobs.iter().map(|found| {
            let mut entry = token(found.token, found.logprob);
            entry["top"] = found.top.iter().map(|&(id, logprob)| token(id, logprob)).collect();
            entry
        });
        answer["logprobs"] = entries.collect();
    }
    Ok(answer)
}

/// Streams the model's answer to standard output, up to and including the end of its last line.
pub fn answer(
    model: &mut OpenModel,
    prompt: &[TokenId],
    config: &GenerationConfig,
    interrupt: &Interrupt,
) -> Result<Generation> {
    let mut out = AnswerWriter::new();
    let mut written = Ok(());
    let generation = model.engine.generate(prompt, config, &mut |text| {
        written = out.piece(text);
        if written.is_err() || interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // Whatever happened, the cursor does not stay in the middle of a line.
    let ended = out.end_line();
    written?;
    let generation = generation?;
    ended?;
    model.say_notices();
    if generation.finish == Finish::Context {
        let (context, trained) = (model.engine.context(), model.engine.model().hyperparameters().context_length);
        let advice = if context < trained { "raise --ctx" } else { "the model was trained for no more" };
        output::note(&format!("the answer was cut, because the context of {context} tokens is full: {advice}"));
    }
    Ok(generation)
}

/// The lines of `--stats`.
pub fn print_stats(model: &OpenModel, stats: &Stats) {
    output::message(&format!("load    {:>8.3} s", model.engine.load_s()));
    output::message(&format!(
        "prompt  {:>8.3} s  {:>6} tokens  {:>8.1} tokens/s  {} from cache",
        stats.prompt_s,
        stats.prompt_tokens,
        stats.prompt_tokens_per_s(),
        stats.cached_tokens,
    ));
    output::message(&format!(
        "decode  {:>8.3} s  {:>6} tokens  {:>8.1} tokens/s  {:.2} GB/s",
        stats.decode_s,
        stats.generated_tokens,
        stats.decode_tokens_per_s(),
        stats.gb_per_s(),
    ));
}
