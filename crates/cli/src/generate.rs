//! One answer: generated, streamed, measured. Shared by `run` and `chat`.

use std::ops::ControlFlow;

use anyhow::Result;
use hublabio_runtime::ai::tokenizer::TokenId;
use hublabio_runtime::ai::{Answer, Finish, Generation, GenerationConfig, Stats};

use crate::args::GenerationArgs;
use crate::interrupt::Interrupt;
use crate::model::{ModelName, OpenModel};
use crate::output;
use crate::prompt::AnswerView;

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

/// Streams the model's answer to `view`, up to and including the end of its last line. `calls_before`: how many tool
/// calls the conversation has.
pub fn answer(
    model: &mut OpenModel,
    prompt: &[TokenId],
    config: &GenerationConfig,
    interrupt: &Interrupt,
    mut view: AnswerView,
    calls_before: usize,
) -> Result<(Generation, Answer)> {
    let mut written = Ok(());
    let generation = model.engine.generate(prompt, config, &mut |text| {
        written = view.piece(text);
        if written.is_err() || interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // Whatever happened, the cursor does not stay in the middle of a line.
    let (answer, ended) = view.finish(calls_before);
    written?;
    let generation = generation?;
    ended?;
    model.say_notices();
    if generation.finish == Finish::Context {
        let (context, trained) = (model.engine.context(), model.engine.model().hyperparameters().context_length);
        let advice = if context < trained { "raise --ctx" } else { "the model was trained for no more" };
        output::note(&format!("the answer was cut, because the context of {context} tokens is full: {advice}"));
    }
    Ok((generation, answer))
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
