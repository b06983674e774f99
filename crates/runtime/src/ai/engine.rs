//! A model with its tokenizer: prompts in, text out.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hublabio_chat::constraint::{Constraint, ConstraintConfig};
use hublabio_engine::sampling::{LogProbs, SamplingConfig};
use hublabio_engine::{
    Architecture, Input, Isa, KvCache, KvType, Model, ProductObserver, Row, Runner, SequenceId, Shard, ThreadTeam,
};
use hublabio_gguf::GgufFile;
use hublabio_tokenizer::{TokenId, Tokenizer};

use super::AdapterConfig;
use super::chat::ModelText;
use super::decode::AnswerState;
use super::description::find_description;
use crate::error::{Error, Result};

/// Rows of a prompt that one forward pass takes.
pub(super) const PREFILL_ROWS: usize = 256;
/// Rows of one pass where every row's logits are wanted: they are as wide as the vocabulary.
pub(crate) const LOGIT_ROWS: usize = 64;
/// Context where nothing is asked for and the model would take more. Memory follows use, not this limit.
pub(crate) const DEFAULT_CONTEXT_MAX: usize = 32 * 1024;
/// Most alternatives whose log probability can be asked for.
pub const LOGPROBS_MAX: usize = 100;

/// How a model is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelConfig {
    /// Positions, prompt and answer together; by default what the model was trained for, at most 32,768.
    pub context: Option<usize>,
    /// Threads; by default one per core.
    pub threads: Option<usize>,
    /// Instruction set; by default the fastest that the CPU has. Results do not depend on it.
    pub isa: Option<Isa>,
    /// Precision of keys and values; by default single for a file of single-precision weights, else half.
    pub kv: Option<KvType>,
    /// What the file's architecture is, in place of the built-in description, of the one beside the file and of the one in its
    /// metadata.
    pub architecture: Option<Architecture>,
    /// LoRA adapters to begin with; [`InferenceEngine::set_adapters`] changes them.
    pub adapters: Vec<AdapterConfig>,
}

/// How an answer is generated.
///
/// ```
/// use hublabio_runtime::ai::{Finish, GenerationConfig, InferenceEngine, ModelConfig, sampling::SamplingConfig};
/// use std::ops::ControlFlow;
///
/// let mut engine = InferenceEngine::open_default(&ModelConfig::default())?;
/// let config = GenerationConfig {
///     sampling: SamplingConfig { min_p: 0.1, seed: Some(7), ..SamplingConfig::precise() },
///     max_tokens: Some(8),
///     stop: vec!["\n\n".into()],
///     logprobs: Some(2),
///     ..GenerationConfig::default()
/// };
/// let prompt = engine.raw_prompt("The command tar")?;
/// let answer = engine.generate(&prompt, &config, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(answer.logprobs.len(), answer.tokens.len());
/// assert!(answer.logprobs.iter().all(|l| l.logprob <= 0.0 && l.top.len() == 2));
/// assert!(answer.finish != Finish::Cancelled);
/// # Ok::<(), hublabio_runtime::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// How each token is chosen.
    pub sampling: SamplingConfig,
    /// At most so many new tokens; by default as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer: it is cut before the first that is complete, and no part of one is shown. At most
    /// [`STOP_STRINGS_MAX`](super::STOP_STRINGS_MAX) of [`STOP_BYTES_MAX`](super::STOP_BYTES_MAX) bytes.
    pub stop: Vec<String>,
    /// Log probabilities of the tokens, and of so many of the likeliest alternatives, at most [`LOGPROBS_MAX`].
    pub logprobs: Option<usize>,
    /// Texts over which DRY's repetitions do not reach, in addition to the sequences of tokens in `sampling.dry`.
    /// By default those of llama.cpp: line break, colon, quotation mark, asterisk.
    pub dry_breakers: Vec<String>,
    /// What the answer must look like; by default anything. An answer that is cut off, by `max_tokens`, the context or
    /// a text in `stop`, is only the beginning of what was asked for.
    pub constraint: Option<ConstraintConfig>,
    /// Control tokens that the answer shows as their texts, the others leaving nothing: the marks of tool calls and
    /// reasoning ([`InferenceEngine::marks`](InferenceEngine::marks)).
    pub shown_tokens: Vec<TokenId>,
}

impl Default for GenerationConfig {
    /// For conversation.
    fn default() -> Self {
        Self {
            sampling: SamplingConfig::default(),
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            dry_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            constraint: None,
            shown_tokens: Vec::new(),
        }
    }
}

impl GenerationConfig {
    /// Always the most likely token.
    #[must_use]
    pub fn greedy() -> Self {
        Self { sampling: SamplingConfig::greedy(), ..Self::default() }
    }
    /// For facts and code.
    #[must_use]
    pub fn precise() -> Self {
        Self { sampling: SamplingConfig::precise(), ..Self::default() }
    }
    /// For stories.
    #[must_use]
    pub fn creative() -> Self {
        Self { sampling: SamplingConfig::creative(), ..Self::default() }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// The stop string of this index in [`GenerationConfig::stop`] was complete.
    Stop(usize),
    /// `max_tokens` was reached.
    Length,
    /// The context is full.
    Context,
    /// The caller broke off.
    Cancelled,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Generation {
    /// All of its text, as it was streamed.
    pub text: String,
    /// Its tokens, the one that ended it and those that spell a stop string included.
    pub tokens: Vec<TokenId>,
    /// For each of the tokens, where [`GenerationConfig::logprobs`] asks for them; else empty.
    pub logprobs: Vec<TokenLogProbs>,
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub stats: Stats,
}

/// How likely a token was: natural logarithms, in the model's own distribution, before constraint, biases, penalties,
/// filters and temperature (see [`LogProbs`]). As in OpenAI's interface, `top` holds the likeliest tokens, the chosen one
/// only if it is one of them.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogProbs {
    /// The token that was chosen.
    pub token: TokenId,
    /// Its log probability.
    pub logprob: f32,
    /// The likeliest tokens with their log probabilities, likeliest first.
    pub top: Vec<(TokenId, f32)>,
}

impl TokenLogProbs {
    pub(super) fn of(logits: &[f32], token: TokenId, n_top: usize) -> Self {
        let found = LogProbs::of(logits, token.0, n_top);
        Self { token, logprob: found.chosen, top: found.top.into_iter().map(|(id, l)| (TokenId(id), l)).collect() }
    }
}

/// A part of an answer as it is streamed.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// What text became certain, in whole characters; it may be empty, and may hold text of tokens before.
    pub text: &'a str,
    /// The token that was chosen; `None` between the steps of a long prompt, and for what is left at the end.
    pub token: Option<TokenId>,
    /// That token's log probabilities, where they are asked for.
    pub logprobs: Option<&'a TokenLogProbs>,
}

/// What an answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Those whose keys and values were still there from the call before.
    pub cached_tokens: usize,
    /// Seconds until the first token was known.
    pub prompt_s: f64,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Seconds for all tokens after the first.
    pub decode_s: f64,
    /// Bytes of weights and of keys and values that one token of this answer streamed from memory, on average.
    pub bytes_per_token: u64,
}

impl Stats {
    /// Prompt tokens computed per second.
    #[must_use]
    pub fn prompt_tokens_per_s(&self) -> f64 {
        (self.prompt_tokens - self.cached_tokens) as f64 / self.prompt_s.max(1e-9)
    }
    /// Tokens generated per second, the first one (which the prompt pays for) left out.
    #[must_use]
    pub fn decode_tokens_per_s(&self) -> f64 {
        self.generated_tokens.saturating_sub(1) as f64 / self.decode_s.max(1e-9)
    }
    /// Memory traffic of decoding, in 10⁹ bytes per second.
    #[must_use]
    pub fn gb_per_s(&self) -> f64 {
        self.decode_tokens_per_s() * self.bytes_per_token as f64 / 1e9
    }
}

/// A model, its tokenizer and one conversation's keys and values.
pub struct InferenceEngine {
    pub(super) runner: Runner,
    pub(super) cache: KvCache,
    model: Arc<Model>,
    /// `None` where the file holds no tokenizer.
    pub(super) text: Option<ModelText>,
    pub(super) notices: Vec<String>,
    context: usize,
    /// The sequence of the conversation, and its tokens.
    sequence: SequenceId,
    pub(super) tokens: Vec<TokenId>,
    pub(super) load_s: f64,
}

impl InferenceEngine {
    /// Opens a GGUF file (of a split model, any part).
    ///
    /// # Errors
    /// When the file, the model in it or its tokenizer is broken or not supported; a file without a tokenizer opens.
    pub fn open(path: &Path, config: &ModelConfig) -> Result<Self> {
        Self::open_on(path, config, None)
    }

    /// As [`open`](Self::open), computing on a team that other engines use, too (and that has its number of threads).
    pub(crate) fn open_on(path: &Path, config: &ModelConfig, team: Option<&Arc<ThreadTeam>>) -> Result<Self> {
        let start = Instant::now();
        Self::new(GgufFile::open(path)?, config, team, start)
    }

    /// As [`open_on`](Self::open_on), for a file that is part of the binary.
    pub(crate) fn open_static(
        file: &'static [u8],
        config: &ModelConfig,
        team: Option<&Arc<ThreadTeam>>,
    ) -> Result<Self> {
        let start = Instant::now();
        Self::new(GgufFile::from_static(file)?, config, team, start)
    }

    /// Opens the model that comes with the binary.
    ///
    /// # Errors
    /// When `config` asks for what the model cannot do.
    pub fn open_default(config: &ModelConfig) -> Result<Self> {
        Self::open_static(super::DEFAULT_MODEL, config, None)
    }

    fn new(mut file: GgufFile, config: &ModelConfig, team: Option<&Arc<ThreadTeam>>, start: Instant) -> Result<Self> {
        let mut notices = Vec::new();
        let text = ModelText::take(&mut file, &mut notices)?;
        let file = Arc::new(file);
        let description = match &config.architecture {
            Some(description) => Some(description.clone()),
            None => find_description(&file)?,
        };
        let model = Arc::new(Model::open_described(Arc::clone(&file), &Shard::whole(), description)?);
        let trained = model.hyperparameters().context_length;
        let context = config.context.unwrap_or(trained.min(DEFAULT_CONTEXT_MAX));
        if context > trained {
            return Err(Error::ContextTooLong { asked: context, trained });
        }
        // A model may have more rows than its vocabulary has tokens, but not fewer.
        let vocab_size = model.hyperparameters().vocab_size;
        if let Some(n_tokens) = text.as_ref().map(|text| text.tokenizer().n_tokens()).filter(|&n| n > vocab_size) {
            return Err(Error::VocabularyTooLarge { n_tokens, vocab_size });
        }
        let team = match (team, config.threads) {
            (Some(team), _) => Arc::clone(team),
            (None, Some(threads)) => Arc::new(ThreadTeam::new(threads)),
            (None, None) => Arc::new(ThreadTeam::with_all_cores()),
        };
        let runner = Runner::on_team(Arc::clone(&model), team, config.isa.unwrap_or_else(Isa::best));
        let mut cache = model.new_cache(context, config.kv.unwrap_or_else(|| model.default_kv()));
        let sequence = cache.create_for(context);
        let mut engine =
            Self { runner, cache, model, text, notices, context, sequence, tokens: Vec::new(), load_s: 0.0 };
        engine.set_adapters(&config.adapters)?;
        engine.load_s = start.elapsed().as_secs_f64();
        Ok(engine)
    }

    /// Another engine on the same weights, without adapters and with a conversation of its own: what a LoRA expert needs.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let mut cache = self.model.new_cache(self.context, self.cache.kv_type());
        let sequence = cache.create_for(self.context);
        let team = Arc::clone(self.runner.team());
        Self {
            runner: Runner::on_team(Arc::clone(&self.model), team, self.runner.isa()),
            cache,
            model: Arc::clone(&self.model),
            text: self.text.clone(),
            notices: Vec::new(),
            context: self.context,
            sequence,
            tokens: Vec::new(),
            load_s: 0.0,
        }
    }

    /// What computes, without the conversation.
    pub(crate) fn into_runner(self) -> Runner {
        self.runner
    }

    /// The open file. The tokenizer took the tokens and merges out of its metadata.
    #[must_use]
    pub fn file(&self) -> &GgufFile {
        self.model.file()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions in the context.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// Seconds that opening took.
    #[must_use]
    pub fn load_s(&self) -> f64 {
        self.load_s
    }

    /// Threads that compute.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.runner.n_threads()
    }

    /// What the user should know about how this file is read: a fallback that was taken, a setting without meaning.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Bytes of weights that one generated token streams from memory.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.model.bytes_per_token()
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When the file holds none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        Ok(self.text()?.tokenizer())
    }

    /// The model without its weights: tokenizer, chat template, constraints.
    ///
    /// # Errors
    /// When the file holds no tokenizer.
    pub fn text(&self) -> Result<&ModelText> {
        self.text.as_ref().ok_or(Error::NoTokenizer)
    }

    /// A text as it stands as a prompt; BOS first where the model wants it.
    ///
    /// # Errors
    /// When the file holds no tokenizer, or the text cannot be expressed.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<TokenId>> {
        self.text()?.raw_prompt(text)
    }

    /// Compiles a constraint, as [`generate`](Self::generate) does before it computes anything.
    ///
    /// # Errors
    /// When it cannot be honoured, or the file holds no tokenizer.
    pub fn compile_constraint(&self, config: &ConstraintConfig) -> Result<Constraint> {
        self.text()?.compile_constraint(config)
    }

    /// Generates a continuation of `prompt`, handing over text as it becomes known, in whole characters.
    /// Keys and values of the beginning that `prompt` shares with the call before are kept, which changes no bit of the result.
    ///
    /// `on_text` is also called with an empty text between the steps of a long prompt; `Break` ends the answer there.
    ///
    /// # Errors
    /// When the prompt is empty or too long, a setting is out of range, or the model computes numbers that are not finite.
    pub fn generate(
        &mut self,
        prompt: &[TokenId],
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.generate_pieces(prompt, config, &mut |piece| on_text(piece.text))
    }

    /// As [`generate`](Self::generate), but the callback learns of every token and its log probabilities, too.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_pieces(
        &mut self,
        prompt: &[TokenId],
        config: &GenerationConfig,
        on_piece: &mut dyn FnMut(&Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.check_length(prompt)?;
        let mut answer = AnswerState::new(self.text()?, prompt, config)?;
        let start = Instant::now();
        let shared = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is always computed: its logits are needed.
        let cached = self.keep(shared.min(prompt.len() - 1))?;
        answer.so_far().stats.cached_tokens = cached;

        let mut logits = Vec::new();
        for (i, rows) in prompt[cached..].chunks(PREFILL_ROWS).enumerate() {
            if i > 0 && on_piece(&Piece { text: "", token: None, logprobs: None }).is_break() {
                let mut out = answer.into_generation();
                out.finish = Finish::Cancelled;
                out.stats.prompt_tokens = cached + i * PREFILL_ROWS;
                out.stats.prompt_s = start.elapsed().as_secs_f64();
                return Ok(out);
            }
            logits = self.append(rows)?;
        }
        let mut prompt_done = None;
        self.decode(&mut answer, logits, &mut |piece| {
            prompt_done.get_or_insert_with(Instant::now);
            on_piece(piece)
        })?;
        let mut out = answer.into_generation();
        let prompt_done = prompt_done.unwrap_or_else(Instant::now);
        out.stats.generated_tokens = out.tokens.len();
        out.stats.prompt_s = (prompt_done - start).as_secs_f64();
        out.stats.decode_s = prompt_done.elapsed().as_secs_f64();
        let mean_length = prompt.len() + out.tokens.len() / 2;
        out.stats.bytes_per_token = self.weight_bytes() + self.cache.bytes_read_at(mean_length) as u64;
        Ok(out)
    }

    /// Generates from `logits`, those after the prompt, to the answer's end.
    fn decode(
        &mut self,
        answer: &mut AnswerState,
        mut logits: Vec<f32>,
        on_piece: &mut dyn FnMut(&Piece<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        if answer.is_over() {
            answer.end(Finish::Length, on_piece);
            return Ok(());
        }
        while let Some(token) = answer.choose(&logits, self.tokens.len() >= self.context, on_piece)? {
            logits = self.append(&[token])?;
        }
        Ok(())
    }

    /// The logits after the last of `ids`, or after each of them, `[vocab_size]` each.
    ///
    /// # Errors
    /// When there are no ids or too many, one is out of the vocabulary, or a number is not finite.
    pub fn logits(&mut self, ids: &[TokenId], all: bool) -> Result<Vec<Vec<f32>>> {
        self.check_fits(ids)?;
        self.check_logits()?;
        self.keep(0)?;
        let mut out = Vec::new();
        let vocab = self.model.hyperparameters().vocab_size;
        for chunk in ids.chunks(if all { LOGIT_ROWS } else { PREFILL_ROWS }) {
            let logits = self.append_wanting(chunk, |i| all || i + 1 == chunk.len())?;
            if all {
                out.extend(logits.chunks_exact(vocab).map(<[f32]>::to_vec));
            } else {
                out = vec![logits];
            }
        }
        Ok(out)
    }

    /// Refuses an encoder, which has states but no logits.
    pub(super) fn check_logits(&self) -> Result<()> {
        let architecture = &self.model.hyperparameters().architecture.name;
        if self.model.has_logits() { Ok(()) } else { Err(Error::NoLogits { architecture: architecture.to_string() }) }
    }

    pub(super) fn check_length(&self, prompt: &[TokenId]) -> Result<()> {
        self.check_logits()?;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() >= self.context {
            let trained = self.model.hyperparameters().context_length;
            return Err(Error::PromptTooLong { prompt: prompt.len(), context: self.context, trained });
        }
        Ok(())
    }

    /// Forgets all but the first `n` tokens of the conversation. Where a sliding window has moved on too far to go on from
    /// there, all are forgotten. Returns how many are left.
    pub(super) fn keep(&mut self, n: usize) -> Result<usize> {
        let kept = self.cache.truncate(self.sequence, n)?;
        self.tokens.truncate(kept);
        Ok(kept)
    }

    /// Appends tokens to the conversation; the logits of the last.
    pub(super) fn append(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>> {
        self.append_wanting(tokens, |i| i + 1 == tokens.len())
    }

    /// Appends tokens to the conversation; the logits of those that are wanted, one row after the other.
    pub(super) fn append_wanting(&mut self, tokens: &[TokenId], wanted: impl Fn(usize) -> bool) -> Result<Vec<f32>> {
        let rows = self.rows(tokens, wanted);
        let logits = self.runner.forward(&mut self.cache, &rows, Input::Tokens)?.to_vec();
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }

    /// Appends tokens to the conversation, showing the input of every product to `observer`.
    pub(super) fn append_observed(&mut self, tokens: &[TokenId], observer: &mut dyn ProductObserver) -> Result<()> {
        let rows = self.rows(tokens, |_| true);
        self.runner.observe(&mut self.cache, &rows, Input::Tokens, observer)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// The rows that continue the conversation.
    pub(super) fn rows(&self, tokens: &[TokenId], wanted: impl Fn(usize) -> bool) -> Vec<Row> {
        let first = self.tokens.len();
        let row = |(i, token): (usize, &TokenId)| Row {
            sequence: self.sequence,
            position: (first + i) as u32,
            token: token.0,
            wanted: wanted(i),
        };
        tokens.iter().enumerate().map(row).collect()
    }
}
