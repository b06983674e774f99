//! An engine in this process in place of a service: the same requests, the same answers, no sockets.
//!
//! What it does with a request is what the service does, as far as the client asks for it: prompts, forms and tool calls are made
//! by the same code of the runtime. It has no swarms, and refuses by name what only those understand.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hublabio_runtime::ai::constraint::ConstraintSource;
use hublabio_runtime::ai::sampling::{Dry, DynamicTemperature, Mirostat, SamplerStep, SamplingConfig, Xtc};
use hublabio_runtime::ai::tokenizer::EncodeOptions;
use hublabio_runtime::ai::{
    ChatQuestion, DEFAULT_MODEL_NAME, Event, Finish, Generation, GenerationConfig, Message, ModelText, OutputParser,
    TokenId, TokenLogProbs, Tool, ToolChoice,
};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::{
    AnswerEvent, AnswerSink, BuiltinCatalog, CatalogModel, EmbedRequest, GenerationRequest, KeepAlive, ModelCatalog,
    Node, NodeConfig, ServedModel,
};
use serde_json::Value as Json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::error::{Error, Result};
use crate::wire::openai as wire;
use crate::wire::own;

/// The chunks of an answer, and what tells the engine that nobody listens.
type Chunks = (UnboundedReceiver<Result<wire::ChatCompletionChunk>>, Arc<AtomicBool>);

/// Work that waits, away from the thread that asks for it.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Error::Thread(error.to_string())))
}

/// The built-in model by its name, and files by their paths.
struct FileCatalog;

impl ModelCatalog for FileCatalog {
    fn find(&self, name: &str) -> hublabio_runtime::Result<CatalogModel> {
        let path = PathBuf::from(name);
        match path.metadata() {
            Ok(metadata) if metadata.is_file() && name != DEFAULT_MODEL_NAME => Ok(CatalogModel {
                name: name.into(),
                source: ModelSource::File(path),
                bytes: metadata.len(),
                modified: metadata.modified().ok(),
                sha256: None,
            }),
            _ => BuiltinCatalog.find(name),
        }
    }

    fn list(&self) -> hublabio_runtime::Result<Vec<CatalogModel>> {
        BuiltinCatalog.list()
    }
}

/// An engine in this process.
pub(crate) struct Embedded {
    node: Node,
}

#[allow(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    clippy::unused_self,
    reason = "endpoints have one form: a request in, a result out"
)]
impl Embedded {
    pub fn start() -> Result<Self> {
        let node = Node::start(Arc::new(FileCatalog), NodeConfig::default()).map_err(of_runtime)?;
        Ok(Self::on(node))
    }

    pub fn on(node: Node) -> Self {
        Self { node }
    }

    fn model(&self, name: &str) -> Result<Arc<ServedModel>> {
        self.node.model(name_of(name)).map_err(of_runtime)
    }

    pub fn load(&self, request: own::LoadRequest) -> Result<own::LoadResponse> {
        let keep_alive = match request.keep_alive {
            None => KeepAlive::AsBefore,
            // What is negative means for as long as no other needs the memory.
            Some(own::KeepAlive::Seconds(seconds)) => u64::try_from(seconds)
                .map_or(KeepAlive::Forever, |seconds| KeepAlive::For(Duration::from_secs(seconds))),
            Some(own::KeepAlive::Text(_)) => return Err(refused("keep_alive", "give a number of seconds")),
        };
        let begun = Instant::now();
        self.node.load(name_of(&request.model), keep_alive).map_err(of_runtime)?;
        Ok(own::LoadResponse { model: request.model, load_s: begun.elapsed().as_secs_f64() })
    }

    pub fn unload(&self, request: own::UnloadRequest) -> Result<own::UnloadResponse> {
        // A name that does not exist is a slip of the pen, as it is for a service.
        let model = self.node.model(name_of(&request.model)).map_err(of_runtime)?;
        let was_loaded = self.node.unload(model.name()).map_err(of_runtime)?;
        Ok(own::UnloadResponse { model: request.model, was_loaded })
    }

    pub fn embed(&self, request: wire::EmbeddingRequest) -> Result<wire::EmbeddingList> {
        let wire::EmbeddingInput::Texts(texts) = request.input else {
            return Err(refused("input", "give a list of texts"));
        };
        let model = self.model(&request.model)?;
        let text = model.text().map_err(of_runtime)?;
        let prompts: hublabio_runtime::Result<Vec<_>> = texts.iter().map(|it| text.embedding_prompt(it)).collect();
        let prompts = prompts.map_err(of_runtime)?;
        let tokens = prompts.iter().map(|prompt| prompt.len() as u64).sum();
        let request = EmbedRequest::new(Arc::clone(&model), prompts);
        let vectors = self.node.embed(request).map_err(of_runtime)?;
        let data = vectors.into_iter().zip(0..).map(|(vector, index)| wire::Embedding {
            object: "embedding".into(),
            index,
            embedding: wire::EmbeddingVector::Float(vector),
        });
        Ok(wire::EmbeddingList {
            object: "list".into(),
            data: data.collect(),
            model: model.name().into(),
            usage: wire::EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        })
    }

    pub fn tokenize(&self, request: own::TokenizeRequest) -> Result<own::TokenizeResponse> {
        let model = self.model(&request.model)?;
        let ends = if request.add_special == Some(true) { None } else { Some(false) };
        let parse_special = request.parse_special == Some(true);
        let options = EncodeOptions { add_bos: ends, add_eos: ends, parse_special };
        let ids = model.text().map_err(of_runtime)?.tokenizer().encode(&request.text, options);
        let ids = ids.map_err(|error| of_runtime(error.into()))?;
        Ok(own::TokenizeResponse { ids: ids.into_iter().map(|id| id.0).collect() })
    }

    pub fn detokenize(&self, request: own::DetokenizeRequest) -> Result<own::DetokenizeResponse> {
        let model = self.model(&request.model)?;
        let ids: Vec<TokenId> = request.ids.into_iter().map(TokenId).collect();
        let bytes = model.text().map_err(of_runtime)?.tokenizer().decode(&ids);
        let bytes = bytes.map_err(|error| of_runtime(error.into()))?;
        Ok(own::DetokenizeResponse { text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    pub fn models(&self) -> Result<wire::ModelList> {
        let loaded = self.loaded();
        let found = self.node.catalog().map_err(of_runtime)?.into_iter();
        Ok(wire::ModelList { object: "list".into(), data: found.map(|model| described(model, &loaded)).collect() })
    }

    pub fn describe_model(&self, name: &str) -> Result<wire::Model> {
        let served = self.model(name)?;
        let found = CatalogModel {
            name: served.name().to_owned(),
            source: served.source().clone(),
            bytes: served.bytes(),
            modified: served.modified(),
            sha256: None,
        };
        let mut model = described(found, &self.loaded());
        if let Some(facts) = &mut model.hublab {
            facts.context_tokens = Some(served.facts().context as u64);
        }
        Ok(model)
    }

    fn loaded(&self) -> Vec<String> {
        self.node.status().models.into_iter().map(|model| model.name).collect()
    }

    pub fn ps(&self) -> Result<own::ProcessList> {
        let status = self.node.status();
        let model = |found: hublabio_runtime::node::LoadedModel| own::RunningModel {
            model: found.name.clone(),
            size: found.file_bytes + found.kv_bytes,
            context_length: Some(found.context as u64),
            hublab: Some(own::RunningModelState {
                file_bytes: found.file_bytes,
                kv_bytes: found.kv_bytes,
                running: found.running as u64,
                expires_in_s: found.expires_in.map(|after| after.as_secs_f64()),
            }),
            name: found.name,
            ..own::RunningModel::default()
        };
        Ok(own::ProcessList {
            hublab: Some(own::ServiceState {
                max_memory: status.max_memory,
                running: status.work.running as u64,
                waiting: status.work.waiting as u64,
                requests_done: status.work.requests_done,
                requests_failed: status.work.requests_failed,
                requests_cancelled: status.work.requests_cancelled,
                prompt_tokens: status.work.prompt_tokens,
                generated_tokens: status.work.generated_tokens,
                loads: status.work.loads,
            }),
            models: status.models.into_iter().map(model).collect(),
        })
    }

    pub fn health(&self) -> Result<own::Health> {
        Ok(own::Health { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into() })
    }

    pub fn chat_stream(&self, request: wire::ChatCompletionRequest) -> Result<Chunks> {
        if let Some(asked) = &request.hublab {
            for (field, is_given) in
                [("hublab.expert", asked.expert.is_some()), ("hublab.session", asked.session.is_some())]
            {
                if is_given {
                    return Err(refused(field, "an engine in this process has no swarms; a service has"));
                }
            }
        }
        let model = self.model(&request.model)?;
        let text = model.text().map_err(of_runtime)?;
        let is_builtin = matches!(model.source(), ModelSource::Builtin(_));
        let mut config = generation_config(&request, is_builtin)?;
        let asked = text.prepare(&ChatQuestion {
            messages: &messages(&request)?,
            tools: &tools(&request)?,
            tool_choice: &tool_choice(&request),
            parallel_tool_calls: request.parallel_tool_calls,
            format: format(&request)?,
            variables: &request.chat_template_kwargs.clone().unwrap_or_default().into_iter().collect::<Vec<_>>(),
        });
        let asked = asked.map_err(of_runtime)?;
        (config.constraint, config.shown_tokens) = (asked.constraint, asked.shown_tokens);
        if let Some(constraint) = &config.constraint {
            // What cannot be honoured is refused before it waits for its turn.
            text.compile_constraint(constraint).map_err(of_runtime)?;
        }
        let (chunks, receiver) = unbounded_channel();
        let closed = Arc::new(AtomicBool::new(false));
        let sink = Sink {
            chunks,
            closed: Arc::clone(&closed),
            model: model.name().into(),
            text: text.clone(),
            parser: Some(asked.parser),
            tells_progress: request.return_progress == Some(true),
            in_pieces: request.stream == Some(true),
            call_is_open: false,
            call_is_forced: asked.call_is_forced,
            calls: 0,
            calls_max: if request.parallel_tool_calls == Some(false) { 1 } else { u32::MAX },
            thinks: false,
            reasoning_tokens: 0,
            notes: asked.notes,
        };
        let generation = GenerationRequest::new(Arc::clone(&model), asked.prompt.tokens, config);
        self.node.submit(generation, Box::new(sink)).map_err(of_runtime)?;
        Ok((receiver, closed))
    }
}

fn name_of(given: &str) -> &str {
    if given.is_empty() { DEFAULT_MODEL_NAME } else { given }
}

fn described(found: CatalogModel, loaded: &[String]) -> wire::Model {
    let since = found.modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    wire::Model {
        object: "model".into(),
        created: since.map_or(0, |since| since.as_secs()),
        owned_by: "hublab".into(),
        hublab: Some(wire::ModelFacts {
            kind: "model".into(),
            bytes: Some(found.bytes),
            context_tokens: None,
            loaded: Some(loaded.contains(&found.name)),
        }),
        id: found.name,
    }
}

fn of_runtime(error: hublabio_runtime::Error) -> Error {
    let message = error.to_string();
    match error {
        hublabio_runtime::Error::PromptTooLong { prompt, context, .. } => {
            Error::ContextTooLong { prompt_tokens: Some(prompt as u64), context_tokens: Some(context as u64), message }
        }
        hublabio_runtime::Error::Busy { .. } => Error::Busy { message, retry_after: None },
        hublabio_runtime::Error::BadQuestion { field, .. } => {
            Error::Refused { status: None, message, code: None, param: Some(field.into()) }
        }
        other => Error::Engine(other),
    }
}

fn refused(param: &str, problem: &str) -> Error {
    let message = format!("`{param}`: {problem}");
    Error::Refused { status: None, message, code: None, param: Some(param.into()) }
}

fn to_json(value: &impl serde::Serialize) -> Result<Json> {
    serde_json::to_value(value).map_err(|error| Error::broken("the request", error))
}

/// The conversation, in the roles that the service takes.
fn messages(request: &wire::ChatCompletionRequest) -> Result<Vec<Message>> {
    const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
    let mut messages =
        Message::list_from_json(&to_json(&request.messages)?).map_err(|error| of_runtime(error.into()))?;
    for (at, message) in messages.iter_mut().enumerate() {
        if !ROLES.contains(&message.role.as_str()) {
            let problem = format!("it is `{}`: give one of {}", message.role, ROLES.join(", "));
            return Err(refused(&format!("messages[{at}].role"), &problem));
        }
        if message.role == "developer" {
            // The newer name of the same role.
            message.role = "system".into();
        }
    }
    Ok(messages)
}

fn tools(request: &wire::ChatCompletionRequest) -> Result<Vec<Tool>> {
    if request.tools.is_empty() {
        return Ok(Vec::new());
    }
    Tool::list_from_json(&to_json(&request.tools)?).map_err(|error| of_runtime(error.into()))
}

fn tool_choice(request: &wire::ChatCompletionRequest) -> ToolChoice {
    use wire::ToolChoiceMode;
    match &request.tool_choice {
        None | Some(wire::ToolChoice::Mode(ToolChoiceMode::Auto)) => ToolChoice::Auto,
        Some(wire::ToolChoice::Mode(ToolChoiceMode::None)) => ToolChoice::None,
        Some(wire::ToolChoice::Mode(ToolChoiceMode::Required)) => ToolChoice::Required,
        Some(wire::ToolChoice::Named { function, .. }) => ToolChoice::Named(function.name.clone()),
    }
}

/// The form that the answer's text must have.
fn format(request: &wire::ChatCompletionRequest) -> Result<Option<ConstraintSource>> {
    Ok(match (&request.response_format, &request.grammar) {
        (None | Some(wire::ResponseFormat::Text), None) => None,
        (None | Some(wire::ResponseFormat::Text), Some(grammar)) => Some(ConstraintSource::Gbnf(grammar.clone())),
        (Some(wire::ResponseFormat::JsonObject), None) => Some(ConstraintSource::JsonObject),
        (Some(wire::ResponseFormat::JsonSchema { json_schema }), None) => {
            let schema = json_schema.schema.clone().unwrap_or(Json::Bool(true));
            Some(ConstraintSource::JsonSchema(schema))
        }
        (Some(_), Some(_)) => return Err(refused("grammar", "an answer has one form: leave `response_format` out")),
    })
}

/// Whether something asks for chance, so that a model which is greedy by default is not.
fn asks_for_chance(said: &wire::Sampling) -> bool {
    said.temperature.is_some()
        || said.seed.is_some()
        || said.top_p.is_some()
        || said.top_k.is_some()
        || said.min_p.is_some()
        || said.typical_p.is_some()
        || said.top_n_sigma.is_some()
        || said.xtc_probability.is_some()
        || said.mirostat.is_some_and(|version| version > 0)
        || said.dynatemp_range.is_some()
        || said.samplers.is_some()
}

/// The settings of the answer, but for its form.
fn generation_config(request: &wire::ChatCompletionRequest, is_builtin: bool) -> Result<GenerationConfig> {
    let said = &request.sampling;
    let greedy = is_builtin && !asks_for_chance(said);
    let base = if greedy { SamplingConfig::greedy() } else { SamplingConfig::default() };
    let default = GenerationConfig::default();
    Ok(GenerationConfig {
        sampling: sampling(said, &base)?,
        max_tokens: request.max_completion_tokens.or(request.max_tokens).map(|n| n as usize),
        stop: match &request.stop {
            None => Vec::new(),
            Some(wire::Stop::Text(text)) => vec![text.clone()],
            Some(wire::Stop::Texts(texts)) => texts.clone(),
        },
        logprobs: (request.logprobs == Some(true)).then(|| request.top_logprobs.unwrap_or(0) as usize),
        dry_breakers: said.dry_sequence_breakers.clone().unwrap_or(default.dry_breakers),
        constraint: None,
        shown_tokens: Vec::new(),
    })
}

fn sampling(said: &wire::Sampling, base: &SamplingConfig) -> Result<SamplingConfig> {
    let dry = Dry {
        multiplier: said.dry_multiplier.unwrap_or(0.0),
        base: said.dry_base.unwrap_or(Dry::default().base),
        allowed_length: said.dry_allowed_length.map_or(Dry::default().allowed_length, |n| n as usize),
        range: said.dry_penalty_last_n.and_then(|n| usize::try_from(n).ok()),
        breakers: Vec::new(),
    };
    let mirostat = Mirostat {
        target: said.mirostat_tau.unwrap_or(Mirostat::default().target),
        rate: said.mirostat_eta.unwrap_or(Mirostat::default().rate),
    };
    let has_mirostat = match said.mirostat {
        None | Some(0) => false,
        Some(2) => true,
        Some(_) => return Err(refused("mirostat", "give 2, or 0 for none")),
    };
    let xtc = Xtc { probability: said.xtc_probability.unwrap_or(0.0), threshold: said.xtc_threshold.unwrap_or(0.1) };
    let dynamic = DynamicTemperature {
        range: said.dynatemp_range.unwrap_or(0.0),
        exponent: said.dynatemp_exponent.unwrap_or(1.0),
    };
    let order = match &said.samplers {
        None => base.order.clone(),
        Some(names) => {
            SamplerStep::parse_order(&names.join(",")).map_err(|error| refused("samplers", &error.to_string()))?
        }
    };
    let bias = |(id, bias): (&String, &f32)| match id.parse() {
        Ok(id) => Ok((id, if *bias <= -100.0 { f32::NEG_INFINITY } else { *bias })),
        Err(_) => Err(refused("logit_bias", &format!("`{id}` is no token id"))),
    };
    Ok(SamplingConfig {
        temperature: said.temperature.unwrap_or(base.temperature),
        dynamic_temperature: (dynamic.range != 0.0).then_some(dynamic),
        top_k: said.top_k.map_or(base.top_k, |k| k as usize),
        top_p: said.top_p.unwrap_or(base.top_p),
        min_p: said.min_p.unwrap_or(base.min_p),
        typical_p: said.typical_p.unwrap_or(base.typical_p),
        top_n_sigma: said.top_n_sigma.unwrap_or(base.top_n_sigma),
        xtc: (xtc.probability != 0.0).then_some(xtc),
        repetition_penalty: said.repeat_penalty.unwrap_or(base.repetition_penalty),
        frequency_penalty: said.frequency_penalty.unwrap_or(base.frequency_penalty),
        presence_penalty: said.presence_penalty.unwrap_or(base.presence_penalty),
        penalty_window: said.repeat_last_n.map_or(base.penalty_window, |n| n as usize),
        dry: (dry.multiplier != 0.0).then_some(dry),
        mirostat: has_mirostat.then_some(mirostat),
        logit_bias: said.logit_bias.iter().flatten().map(bias).collect::<Result<_>>()?,
        min_keep: said.min_keep.map_or(base.min_keep, |n| n as usize),
        order,
        seed: said.seed,
    })
}

/// Turns the node's events into chunks, on the node's thread.
struct Sink {
    chunks: UnboundedSender<Result<wire::ChatCompletionChunk>>,
    closed: Arc<AtomicBool>,
    model: String,
    text: ModelText,
    parser: Option<OutputParser>,
    tells_progress: bool,
    /// Whether the answer is read as it comes.
    in_pieces: bool,
    /// A call has begun that is not complete.
    call_is_open: bool,
    call_is_forced: bool,
    calls: u32,
    /// More calls are left out, and that is noted.
    calls_max: u32,
    thinks: bool,
    reasoning_tokens: u64,
    notes: Vec<String>,
}

impl AnswerSink for Sink {
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()> {
        match event {
            AnswerEvent::Progress { read, cached, total } if self.tells_progress => {
                let progress = wire::PromptProgress {
                    total: total as u64,
                    processed: read as u64,
                    cache: cached as u64,
                    ..Default::default()
                };
                self.send(wire::ChatCompletionChunk { prompt_progress: Some(progress), ..self.chunk(None) });
            }
            AnswerEvent::Piece { text, token, logprobs } => {
                let events = self.parser.as_mut().map(|parser| parser.push(&text)).unwrap_or_default();
                if let Some(last) = events.last() {
                    self.thinks = matches!(last, Event::Reasoning(_));
                }
                self.reasoning_tokens += u64::from(token.is_some() && self.thinks);
                if let Some(found) = logprobs {
                    let content = Some(vec![self.logprob(&found)]);
                    let logprobs = Some(wire::ChatLogprobs { content, refusal: None });
                    let choice = wire::ChatChunkChoice { logprobs, ..empty_choice() };
                    self.send(self.chunk(Some(choice)));
                }
                self.tell(events);
            }
            AnswerEvent::Done(generation) => {
                let rest = self.parser.take().map(OutputParser::finish).unwrap_or_default();
                let is_cut = |event: &Event| matches!(event, Event::Malformed(cut) if !cut.raw.trim().is_empty());
                let call_is_cut = rest.iter().any(is_cut);
                self.tell(rest);
                self.end(&generation, call_is_cut);
            }
            AnswerEvent::Failed(error) => {
                // Who has gone needs no error.
                let _ = self.chunks.send(Err(of_runtime(error)));
            }
            _ => {}
        }
        if self.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// An id that no other call of this process has: results refer to calls of earlier turns, too.
fn new_call_id() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    format!("call_{}", CALLS.fetch_add(1, Ordering::Relaxed))
}

fn empty_choice() -> wire::ChatChunkChoice {
    wire::ChatChunkChoice { index: 0, delta: wire::Delta::default(), logprobs: None, finish_reason: None }
}

impl Sink {
    fn chunk(&self, choice: Option<wire::ChatChunkChoice>) -> wire::ChatCompletionChunk {
        wire::ChatCompletionChunk {
            id: String::new(),
            object: "chat.completion.chunk".into(),
            created: 0,
            model: self.model.clone(),
            choices: choice.into_iter().collect(),
            usage: None,
            system_fingerprint: None,
            hublab: None,
            prompt_progress: None,
        }
    }

    fn send(&self, chunk: wire::ChatCompletionChunk) {
        // Who has gone is seen by `is_closed`.
        let _ = self.chunks.send(Ok(chunk));
    }

    fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            let mut delta = wire::Delta::default();
            match event {
                Event::Content(text) => delta.content = Some(text),
                Event::Reasoning(text) => delta.reasoning_content = Some(text),
                Event::Malformed(malformed) => {
                    self.notes.push(malformed.to_string());
                    // Who reads in pieces has been told by a service that it is a call, and drops one that breaks off.
                    if std::mem::take(&mut self.call_is_open) && self.in_pieces {
                        continue;
                    }
                    delta.content = Some(malformed.raw);
                }
                // Calls come whole here.
                Event::CallBegin { .. } => {
                    self.call_is_open = self.calls < self.calls_max;
                    continue;
                }
                Event::CallArguments(_) => continue,
                Event::ToolCall(call) if self.calls >= self.calls_max => {
                    self.notes.push(format!("the model wanted to call `{}`, too: one call was allowed", call.name));
                    continue;
                }
                Event::ToolCall(call) => {
                    let index = self.calls;
                    self.calls += 1;
                    self.call_is_open = false;
                    let function =
                        wire::FunctionCallDelta { name: Some(call.name), arguments: Some(call.arguments.to_string()) };
                    delta.tool_calls.push(wire::ToolCallDelta {
                        index,
                        id: Some(call.id.unwrap_or_else(new_call_id)),
                        kind: Some("function".into()),
                        function: Some(function),
                    });
                }
            }
            self.send(self.chunk(Some(wire::ChatChunkChoice { delta, ..empty_choice() })));
        }
    }

    fn end(&mut self, generation: &Generation, call_is_cut: bool) {
        let finish = match generation.finish {
            Finish::EndOfText | Finish::Stop(_) if self.calls > 0 => wire::FinishReason::ToolCalls,
            Finish::EndOfText | Finish::Stop(_) => wire::FinishReason::Stop,
            // The calls that had to come are complete; only the token that ends the turn is missing.
            Finish::Length | Finish::Context if self.calls > 0 && self.call_is_forced && !call_is_cut => {
                wire::FinishReason::ToolCalls
            }
            Finish::Length | Finish::Context => wire::FinishReason::Length,
            Finish::Cancelled => {
                let _ = self.chunks.send(Err(Error::Cancelled));
                return;
            }
        };
        let stats = &generation.stats;
        let (prompt_tokens, completion_tokens) = (stats.prompt_tokens as u64, stats.generated_tokens as u64);
        let cached_tokens = stats.cached_tokens as u64;
        let notes = std::mem::take(&mut self.notes);
        let chunk = self.chunk(Some(wire::ChatChunkChoice { finish_reason: Some(finish), ..empty_choice() }));
        self.send(wire::ChatCompletionChunk {
            usage: Some(wire::Usage {
                prompt_tokens,
                completion_tokens,
                total_tokens: prompt_tokens + completion_tokens,
                prompt_tokens_details: Some(wire::PromptTokensDetails { cached_tokens }),
                completion_tokens_details: Some(wire::CompletionTokensDetails {
                    reasoning_tokens: self.reasoning_tokens,
                }),
            }),
            hublab: Some(wire::Hublab {
                answered_by: Vec::new(),
                notes,
                timings: Some(wire::Timings {
                    prompt_s: stats.prompt_s,
                    decode_s: stats.decode_s,
                    tokens_per_s: stats.decode_tokens_per_s(),
                }),
            }),
            ..chunk
        });
    }

    fn logprob(&self, found: &TokenLogProbs) -> wire::TokenLogprob {
        let bytes = |id| self.text.tokenizer().token_bytes(id).unwrap_or_default().to_vec();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let top = |&(id, logprob): &(TokenId, f32)| {
            let bytes = bytes(id);
            wire::TopLogprob { token: text(&bytes), logprob: logprob.into(), bytes: Some(bytes) }
        };
        let chosen = bytes(found.token);
        wire::TokenLogprob {
            token: text(&chosen),
            logprob: found.logprob.into(),
            bytes: Some(chosen),
            top_logprobs: found.top.iter().map(top).collect(),
        }
    }
}
