//! `/v1/completions`: a text that goes on, without a conversation's form.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use axum::Json as JsonResponse;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};
use hublabio_runtime::ai::Json;
use hublabio_sdk::wire::openai::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, DONE, FinishReason, Hublab, PromptProgress,
    Usage,
};

use super::embeddings::{Piece, pieces};
use super::request::{self, Delivery, INERT};
use super::write::{self, Spent};
use crate::chat::{self, ChatDone, ChatEvent, ChatRequest, ChatStream, Input, TokenProbability};
use crate::error::{ApiError, Dialect};
use crate::fields::Fields;
use crate::limits::JsonBody;
use crate::sse::{self, EventSource};
use crate::state::App;

/// Tokens of an answer where nothing is said, as OpenAI has it.
const MAX_TOKENS: usize = 16;
/// Prompts of one request.
const PROMPTS_MAX: usize = 64;

/// Goes on with a text.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "openai",
    request_body = CompletionRequest,
    responses((status = 200, description = "The text that follows; with `stream`, pieces as server-sent events", content(
        (Completion = "application/json"),
        (Completion = "text/event-stream"),
    )))
)]
pub async fn completions(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let asked = read(&body)?;
    let n = asked.requests[0].n;
    let mut streams = Vec::with_capacity(asked.requests.len());
    for request in asked.requests {
        // All are begun before the first is read, so that they run together.
        streams.push(chat::start(&app, request).await?);
    }
    let answers = Answers {
        id: app.new_id("cmpl-"),
        created: App::now_s(),
        model: streams[0].model().to_owned(),
        delivery: asked.delivery,
        echo: asked.echo,
        logprobs: asked.logprobs,
        n,
        prompts: streams.into_iter().map(Prompt::new).collect(),
        next: 0,
        begun: Instant::now(),
        offsets: BTreeMap::new(),
        tokens: BTreeMap::new(),
        done: BTreeMap::new(),
        ended: false,
    };
    if asked.delivery.stream {
        return Ok(sse::response(&app, answers));
    }
    Ok(JsonResponse(answers.collect().await?).into_response())
}

/// What was asked.
struct Asked {
    requests: Vec<ChatRequest>,
    delivery: Delivery,
    /// The prompts' texts, where they come before the answers.
    echo: Option<Vec<String>>,
    logprobs: bool,
}

fn read(body: &Json) -> Result<Asked, ApiError> {
    let fields = Fields::of_body(body)?;
    let prompts = pieces("prompt", fields.required("prompt", fields.get("prompt"))?, PROMPTS_MAX)?;
    let logprobs = fields.count("logprobs")?;
    let n = request::n(&fields)?;
    let sent = ChatRequest {
        format: request::answer_format(&fields)?,
        sampling: request::sampling(&fields)?,
        max_tokens: match fields.get("max_tokens").or(fields.get("n_predict")) {
            None => Some(MAX_TOKENS),
            Some(_) => request::max_tokens(&fields, &["max_tokens", "n_predict"])?,
        },
        stop: fields.texts("stop")?.unwrap_or_default(),
        n,
        logprobs,
        ..ChatRequest::new(request::model(&fields)?, Input::Text(String::new()))
    };
    let delivery = Delivery::read(&fields)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    if let Some(best_of) = fields.count("best_of")?
        && best_of != n
    {
        let message =
            format!("`best_of` is {best_of} and `n` is {n}: all answers are returned, so give the same for both");
        return Err(ApiError::field("best_of", message).coded("unsupported_value"));
    }
    if let Some(suffix) = fields.text("suffix")?.filter(|suffix| !suffix.is_empty()) {
        let _ = suffix;
        let message = "`suffix` is not supported: no model here fills gaps";
        return Err(ApiError::field("suffix", message).coded("unsupported_parameter"));
    }
    fields.finish(&INERT)?;
    if echo && logprobs.is_some() {
        let message =
            "`echo` with `logprobs` would need log probabilities of the prompt, which are not computed: take one out";
        return Err(ApiError::field("echo", message).coded("unsupported_value"));
    }
    let texts: Option<Vec<String>> = prompts
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            Piece::Tokens(_) => None,
        })
        .collect();
    let echo = match (echo, texts) {
        (false, _) => None,
        (true, Some(texts)) => Some(texts),
        (true, None) => {
            let message = "`echo` needs prompts that are texts";
            return Err(ApiError::field("echo", message).coded("unsupported_value"));
        }
    };
    let requests = prompts.into_iter().map(|piece| ChatRequest {
        input: match piece {
            Piece::Text(text) => Input::Text(text),
            Piece::Tokens(tokens) => Input::Tokens(tokens),
        },
        ..sent.clone()
    });
    Ok(Asked { requests: requests.collect(), delivery, echo, logprobs: logprobs.is_some() })
}

/// One of the prompts, and the answers to it.
struct Prompt {
    stream: ChatStream,
    read: usize,
    cached: usize,
    total: usize,
}

impl Prompt {
    fn new(stream: ChatStream) -> Self {
        Self { read: 0, cached: 0, total: stream.prompt_tokens(), stream }
    }
}

/// The answers to all prompts, each piece as it comes: they are computed together, and what is not read is given up.
struct Answers {
    id: String,
    created: u64,
    model: String,
    delivery: Delivery,
    echo: Option<Vec<String>>,
    logprobs: bool,
    n: usize,
    prompts: Vec<Prompt>,
    /// The prompt that is listened to first, each in its turn: one that always has something must not silence the others.
    next: usize,
    begun: Instant,
    /// Characters that each answer has so far.
    offsets: BTreeMap<usize, u64>,
    /// Tokens of each answer whose text is not told yet.
    tokens: BTreeMap<usize, Vec<TokenProbability>>,
    /// How each answer ended.
    done: BTreeMap<usize, ChatDone>,
    ended: bool,
}

/// What an answer grows by.
struct Growth {
    index: usize,
    text: String,
    finish: Option<FinishReason>,
}

enum Turn {
    Growth(Growth),
    Progress,
    Failed(ApiError),
    Nothing,
    End,
}

impl Answers {
    /// The next event of any prompt: the prompt's number, its answer's, and the event.
    async fn event(&mut self) -> Option<(usize, usize, ChatEvent)> {
        let Self { prompts, next, .. } = self;
        let n = prompts.len();
        poll_fn(|context| {
            let mut all_ended = true;
            for at in (0..n).map(|step| (*next + step) % n) {
                // A stream loses nothing when its future is dropped.
                match pin!(prompts[at].stream.next()).poll(context) {
                    Poll::Ready(Some((choice, event))) => {
                        *next = (at + 1) % n;
                        return Poll::Ready(Some((at, choice, event)));
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => all_ended = false,
                }
            }
            if all_ended { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    async fn turn(&mut self) -> Turn {
        let Some((at, choice, event)) = self.event().await else { return Turn::End };
        let index = at * self.n + choice;
        let prompt = &mut self.prompts[at];
        match event {
            ChatEvent::Progress { read, cached, total } => {
                (prompt.read, prompt.cached, prompt.total) = (prompt.read.max(read), cached, total);
                Turn::Progress
            }
            ChatEvent::Text(text) | ChatEvent::Reasoning(text) => {
                // The end of a prompt is not told by itself.
                prompt.read = prompt.total;
                Turn::Growth(Growth { index, text, finish: None })
            }
            ChatEvent::LogProbs(found) => {
                self.tokens.entry(index).or_default().extend(found);
                Turn::Nothing
            }
            ChatEvent::Done(done) => {
                let finish = Some(write::finish_reason(&done.finish));
                self.done.insert(index, *done);
                Turn::Growth(Growth { index, text: String::new(), finish })
            }
            ChatEvent::Failed(error) => Turn::Failed(error),
            // No tools are offered, so none is called; who is asked is told at the end.
            ChatEvent::Experts(_)
            | ChatEvent::ToolCallBegin { .. }
            | ChatEvent::ToolCallArguments { .. }
            | ChatEvent::ToolCallEnd { .. }
            | ChatEvent::ToolCallBroken { .. } => Turn::Nothing,
        }
    }

    /// What all answers took; each prompt counts once.
    fn usage(&self) -> Usage {
        let mut spent = Spent::default();
        for at in 0..self.prompts.len() {
            let mut here = Spent::default();
            self.done.range(at * self.n..(at + 1) * self.n).for_each(|(_, done)| here.add(done));
            spent.join(&here);
        }
        spent.usage()
    }

    fn hublab(&self) -> Option<Hublab> {
        write::joined(self.done.values())
    }

    /// How much of all prompts has been read.
    fn progress(&self) -> PromptProgress {
        let sum = |of: fn(&Prompt) -> usize| self.prompts.iter().map(of).sum();
        write::prompt_progress(sum(|it| it.read), sum(|it| it.cached), sum(|it| it.total), self.begun)
    }

    fn choice(&mut self, growth: Growth) -> CompletionChoice {
        let Growth { index, mut text, finish } = growth;
        let is_first = !self.offsets.contains_key(&index);
        let offset = self.offsets.entry(index).or_default();
        if let Some(prompts) = self.echo.as_ref().filter(|_| is_first) {
            text.insert_str(0, &prompts[index / self.n]);
        }
        let tokens = self.tokens.remove(&index).unwrap_or_default();
        let logprobs = self.logprobs.then(|| in_lists(&tokens, offset));
        CompletionChoice { text, index: index as u32, logprobs, finish_reason: finish }
    }

    fn completion(&self, choices: Vec<CompletionChoice>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: None,
            system_fingerprint: Some(write::fingerprint()),
            hublab: None,
            prompt_progress: None,
        }
    }

    async fn collect(mut self) -> Result<Completion, ApiError> {
        let mut whole: Vec<CompletionChoice> = Vec::new();
        loop {
            match self.turn().await {
                Turn::Growth(growth) => {
                    let grown = self.choice(growth);
                    match whole.iter_mut().find(|choice| choice.index == grown.index) {
                        Some(choice) => join(choice, grown),
                        None => whole.push(grown),
                    }
                }
                Turn::Failed(error) => return Err(error),
                Turn::Progress | Turn::Nothing => {}
                Turn::End => break,
            }
        }
        whole.sort_by_key(|choice| choice.index);
        let mut completion = self.completion(whole);
        completion.usage = Some(self.usage());
        completion.hublab = self.hublab();
        Ok(completion)
    }
}

fn join(choice: &mut CompletionChoice, grown: CompletionChoice) {
    choice.text.push_str(&grown.text);
    choice.finish_reason = choice.finish_reason.take().or(grown.finish_reason);
    if let (Some(all), Some(new)) = (&mut choice.logprobs, grown.logprobs) {
        all.tokens.extend(new.tokens);
        all.token_logprobs.extend(new.token_logprobs);
        all.top_logprobs.extend(new.top_logprobs);
        all.text_offset.extend(new.text_offset);
    }
}

fn in_lists(tokens: &[TokenProbability], offset: &mut u64) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    for found in tokens {
        let text = found.token.text();
        lists.text_offset.push(*offset);
        *offset += text.chars().count() as u64;
        lists.tokens.push(text);
        lists.token_logprobs.push(Some(f64::from(found.logprob)));
        let top = found.top.iter().map(|(token, logprob)| (token.text(), f64::from(*logprob))).collect();
        lists.top_logprobs.push(Some(top));
    }
    lists
}

impl EventSource for Answers {
    async fn next(&mut self) -> Option<Vec<Event>> {
        if self.ended {
            return None;
        }
        Some(match self.turn().await {
            Turn::Growth(growth) => {
                let choice = self.choice(growth);
                let is_last = self.done.len() == self.prompts.len() * self.n;
                let mut piece = self.completion(vec![choice]);
                if is_last && !self.delivery.include_usage {
                    piece.hublab = self.hublab();
                }
                vec![sse::json_event(&piece)]
            }
            Turn::Progress if self.delivery.progress => {
                let mut piece = self.completion(Vec::new());
                piece.prompt_progress = Some(self.progress());
                vec![sse::json_event(&piece)]
            }
            Turn::Progress | Turn::Nothing => Vec::new(),
            Turn::Failed(error) => {
                self.ended = true;
                vec![sse::json_event(&error.body(Dialect::OpenAi))]
            }
            Turn::End => {
                self.ended = true;
                let mut events = Vec::new();
                if self.delivery.include_usage {
                    let mut piece = self.completion(Vec::new());
                    piece.usage = Some(self.usage());
                    piece.hublab = self.hublab();
                    events.push(sse::json_event(&piece));
                }
                events.push(Event::default().data(DONE));
                events
            }
        })
    }
}
