//! An expert in memory: its lane, and what makes prompts and answers of questions.

use std::ops::Range;
use std::time::Instant;

use super::expert_file::ExpertSpec;
use super::speaker::{Question, Said};
use crate::ai::decode::AnswerState;
use crate::ai::{AdapterConfig, ChatPrompt, InferenceEngine, LOGIT_ROWS, ModelText};
use crate::error::{Error, Result};
use crate::node::lane::{Lane, LaneConfig};

/// An expert in memory, as it was when it was loaded.
pub(super) struct Resident {
    pub lane: Lane,
    /// `None` where the file has no tokenizer.
    text: Option<ModelText>,
    /// Since when nobody asks it.
    pub idle_since: Instant,
}

impl Resident {
    /// Of a base and the adapter that makes it this expert; its conversations may take so many bytes of keys and values.
    ///
    /// # Errors
    /// When the adapter cannot be used.
    pub fn new(mut engine: InferenceEngine, adapter: Option<&AdapterConfig>, kv_bytes_max: u64) -> Result<Self> {
        engine.set_adapters(adapter.map_or(&[], std::slice::from_ref))?;
        let text = engine.text().ok().cloned();
        let (context, kv) = (engine.context(), engine.model().default_kv());
        // Who only reads beside the answers must not wait for a place: memory is its limit.
        let config = LaneConfig { context, kv, kv_bytes_max, running_max: LOGIT_ROWS };
        Ok(Self { lane: Lane::new(engine.into_runner(), &config), text, idle_since: Instant::now() })
    }

    fn text(&self) -> Result<&ModelText> {
        self.text.as_ref().ok_or(Error::NoTokenizer)
    }

    /// What it is asked, as its template writes it.
    pub fn prompt(&self, question: &Question, spec: &ExpertSpec) -> Result<ChatPrompt> {
        question.prompt(self.text()?, spec)
    }

    /// A prompt that fits, and where the question is in it.
    pub fn question(&self, question: &Question, spec: &ExpertSpec) -> Result<(ChatPrompt, Range<usize>)> {
        let prompt = self.prompt(question, spec)?;
        self.lane.check(&prompt.tokens)?;
        let span = question.span(self.text()?, spec, &prompt)?;
        Ok((prompt, span))
    }

    /// An answer of which nothing is said yet.
    pub fn begin(&self, question: &Question, spec: &ExpertSpec, prompt: &ChatPrompt) -> Result<(AnswerState, Said)> {
        let text = self.text()?;
        let mut config = question.config(spec);
        config.logprobs = Some(0);
        let said = Said::of(text, prompt, &mut config)?;
        Ok((AnswerState::new(text, &prompt.tokens, &config)?, said))
    }
}
