//! `/v1/chat/completions`.

use std::time::Instant;

use axum::Json as JsonResponse;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};
use hublabio_runtime::ai::Json;
use hublabio_sdk::wire::openai::{
    ChatChoice, ChatChunkChoice, ChatCompletion, ChatCompletionChunk, ChatLogprobs, DONE, Delta, FinishReason,
    FunctionCall, FunctionCallDelta, ResponseMessage, ToolCall, ToolCallDelta,
};

use super::request::{self, Delivery, INERT};
use super::write::{self, Spent};
use crate::chat::{self, ChatAnswer, ChatDone, ChatEvent, ChatRequest, ChatStream, Input, TokenProbability};
use crate::error::{ApiError, Dialect};
use crate::fields::Fields;
use crate::limits::JsonBody;
use crate::sse::{self, EventSource};
use crate::state::App;
use crate::thinking::{self, Thinking};

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    request_body = hublabio_sdk::wire::openai::ChatCompletionRequest,
    responses((status = 200, description = "The answer; with `stream`, chunks as server-sent events", content(
        (ChatCompletion = "application/json"),
        (ChatCompletionChunk = "text/event-stream"),
    )))
)]
pub async fn completions(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let Asked { mut request, delivery, thinking } = read(&app, &body)?;
    thinking::apply(&app, &mut request, thinking, "reasoning_effort").await?;
    let with_logprobs = request.logprobs.is_some();
    let stream = chat::start(&app, request).await?;
    let id = app.new_id("chatcmpl-");
    let created = App::now_s();
    if delivery.stream {
        let chunks = Chunks::new(stream, delivery, id, created);
        return Ok(sse::response(&app, chunks));
    }
    let model = stream.model().to_owned();
    let answers = stream.collect().await?;
    let mut spent = Spent::default();
    answers.iter().for_each(|answer| spent.add(&answer.done));
    let hublab = write::joined(answers.iter().map(|answer| &answer.done));
    let choices = answers.into_iter().enumerate().map(|(index, answer)| choice(index, answer, with_logprobs));
    Ok(JsonResponse(ChatCompletion {
        id,
        object: "chat.completion".into(),
        created,
        model,
        choices: choices.collect(),
        usage: Some(spent.usage()),
        system_fingerprint: Some(write::fingerprint()),
        hublab,
    })
    .into_response())
}

/// A question, how its answer is handed over, and what is said about thinking.
struct Asked {
    request: ChatRequest,
    delivery: Delivery,
    thinking: Option<Thinking>,
}

/// Reads a request's fields, every one of them.
fn read(app: &App, body: &Json) -> Result<Asked, ApiError> {
    let fields = Fields::of_body(body)?;
    let model = request::model(&fields)?;
    let messages = request::messages(app, &fields)?;
    let swarm = request::hublab(&fields)?;
    let tools = request::tools(&fields)?;
    let tool_choice = request::tool_choice(&fields)?;
    let request = ChatRequest {
        notes: request::strict_note(&tools, &tool_choice).into_iter().collect(),
        tools,
        tool_choice,
        parallel_tool_calls: fields.flag("parallel_tool_calls")?,
        format: request::answer_format(&fields)?,
        template_variables: template_variables(&fields)?,
        sampling: request::sampling(&fields)?,
        max_tokens: request::max_tokens(&fields, &["max_completion_tokens", "max_tokens", "n_predict"])?,
        stop: fields.texts("stop")?.unwrap_or_default(),
        n: request::n(&fields)?,
        logprobs: logprobs(&fields)?,
        swarm,
        ..ChatRequest::new(model, Input::Messages(messages))
    };
    let delivery = Delivery::read(&fields)?;
    let thinking = fields.text("reasoning_effort")?.map(Thinking::of_effort);
    request::no_verbosity(&fields)?;
    if let Some(modalities) = fields.texts("modalities")?
        && modalities != ["text"]
    {
        let message = "`modalities` must be [\"text\"]: other answers than text are not supported";
        return Err(ApiError::field("modalities", message).coded("unsupported_value"));
    }
    fields.finish(&INERT)?;
    Ok(Asked { request, delivery, thinking })
}

fn template_variables(fields: &Fields<'_>) -> Result<Vec<(String, Json)>, ApiError> {
    match fields.get("chat_template_kwargs") {
        None => Ok(Vec::new()),
        Some(Json::Object(map)) => Ok(map.iter().map(|(name, value)| (name.clone(), value.clone())).collect()),
        Some(other) => Err(crate::fields::wrong_type("chat_template_kwargs", "an object", other)),
    }
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs")?;
    match top {
        Some(n) if !wanted && n > 0 => {
            let message = "`top_logprobs` needs `logprobs`: true";
            Err(ApiError::field("top_logprobs", message).coded("invalid_value"))
        }
        top => Ok(wanted.then_some(top.unwrap_or(0))),
    }
}

fn choice(index: usize, answer: ChatAnswer, with_logprobs: bool) -> ChatChoice {
    let finish_reason = Some(write::finish_reason(&answer.done.finish));
    let calls: Vec<ToolCall> = answer
        .tool_calls
        .into_iter()
        .map(|call| ToolCall {
            id: call.id,
            kind: "function".into(),
            function: FunctionCall { name: call.name, arguments: call.arguments },
        })
        .collect();
    let content = (!answer.text.is_empty() || calls.is_empty()).then_some(answer.text);
    ChatChoice {
        index: index as u32,
        message: ResponseMessage {
            role: "assistant".into(),
            content,
            reasoning_content: answer.reasoning,
            refusal: None,
            tool_calls: calls,
        },
        logprobs: with_logprobs.then(|| write::chat_logprobs(&answer.logprobs)),
        finish_reason,
    }
}

/// A streamed answer in chunks.
struct Chunks {
    stream: ChatStream,
    delivery: Delivery,
    id: String,
    created: u64,
    begun: Instant,
    /// Which answers have said who speaks.
    greeted: Vec<bool>,
    /// Tokens whose text is not told yet.
    logprobs: Vec<Vec<TokenProbability>>,
    spent: Spent,
    done: Vec<ChatDone>,
    ended: bool,
}

impl Chunks {
    fn new(stream: ChatStream, delivery: Delivery, id: String, created: u64) -> Self {
        let n = stream.choices();
        Self {
            stream,
            delivery,
            id,
            created,
            begun: Instant::now(),
            greeted: vec![false; n],
            logprobs: vec![Vec::new(); n],
            spent: Spent::default(),
            done: Vec::new(),
            ended: false,
        }
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.stream.model().to_owned(),
            choices,
            usage: None,
            system_fingerprint: Some(write::fingerprint()),
            hublab: None,
            prompt_progress: None,
        }
    }

    fn delta(&mut self, index: usize, delta: Delta, finish_reason: Option<FinishReason>) -> Event {
        let tokens = std::mem::take(&mut self.logprobs[index]);
        let logprobs: Option<ChatLogprobs> = (!tokens.is_empty()).then(|| write::chat_logprobs(&tokens));
        let choice = ChatChunkChoice { index: index as u32, delta, logprobs, finish_reason };
        sse::json_event(&self.chunk(vec![choice]))
    }

    fn write(&mut self, index: usize, event: ChatEvent) -> Vec<Event> {
        let mut out = Vec::new();
        let says_nothing = matches!(event, ChatEvent::Progress { .. } | ChatEvent::Experts(_) | ChatEvent::Failed(_));
        if !says_nothing && !self.greeted[index] {
            self.greeted[index] = true;
            let delta = Delta { role: Some("assistant".into()), content: Some(String::new()), ..Delta::default() };
            out.push(self.delta(index, delta, None));
        }
        match event {
            ChatEvent::Progress { read, cached, total } => {
                if self.delivery.progress {
                    let mut chunk = self.chunk(Vec::new());
                    chunk.prompt_progress = Some(write::prompt_progress(read, cached, total, self.begun));
                    out.push(sse::json_event(&chunk));
                }
            }
            ChatEvent::Text(text) => {
                out.push(self.delta(index, Delta { content: Some(text), ..Delta::default() }, None));
            }
            ChatEvent::Reasoning(text) => {
                out.push(self.delta(index, Delta { reasoning_content: Some(text), ..Delta::default() }, None));
            }
            ChatEvent::ToolCallBegin { index: call, id, name } => {
                let function = FunctionCallDelta { name: Some(name), arguments: Some(String::new()) };
                let call = ToolCallDelta {
                    index: call as u32,
                    id: Some(id),
                    kind: Some("function".into()),
                    function: Some(function),
                };
                out.push(self.delta(index, Delta { tool_calls: vec![call], ..Delta::default() }, None));
            }
            ChatEvent::ToolCallArguments { index: call, delta } => {
                let function = FunctionCallDelta { name: None, arguments: Some(delta) };
                let call = ToolCallDelta { index: call as u32, id: None, kind: None, function: Some(function) };
                out.push(self.delta(index, Delta { tool_calls: vec![call], ..Delta::default() }, None));
            }
            // The form has no end of a call, nor a word for one that breaks off but the reason of the end.
            ChatEvent::Experts(_) | ChatEvent::ToolCallEnd { .. } | ChatEvent::ToolCallBroken { .. } => {}
            ChatEvent::LogProbs(found) => self.logprobs[index].extend(found),
            ChatEvent::Done(done) => {
                self.spent.add(&done);
                let finish = write::finish_reason(&done.finish);
                self.done.push(*done);
                if self.done.len() == self.stream.choices() && !self.delivery.include_usage {
                    let choice = ChatChunkChoice {
                        index: index as u32,
                        delta: Delta::default(),
                        logprobs: self.rest_of_logprobs(index),
                        finish_reason: Some(finish),
                    };
                    let mut chunk = self.chunk(vec![choice]);
                    chunk.hublab = write::joined(self.done.iter());
                    out.push(sse::json_event(&chunk));
                } else {
                    out.push(self.delta(index, Delta::default(), Some(finish)));
                }
            }
            ChatEvent::Failed(error) => {
                // Who reads on would wait for answers that nobody wants any more.
                self.ended = true;
                out.push(sse::json_event(&error.body(Dialect::OpenAi)));
            }
        }
        out
    }

    fn rest_of_logprobs(&mut self, index: usize) -> Option<ChatLogprobs> {
        let tokens = std::mem::take(&mut self.logprobs[index]);
        (!tokens.is_empty()).then(|| write::chat_logprobs(&tokens))
    }

    fn last(&mut self) -> Vec<Event> {
        self.ended = true;
        let mut out = Vec::new();
        if self.delivery.include_usage {
            let mut chunk = self.chunk(Vec::new());
            chunk.usage = Some(self.spent.usage());
            chunk.hublab = write::joined(self.done.iter());
            out.push(sse::json_event(&chunk));
        }
        out.push(Event::default().data(DONE));
        out
    }
}

impl EventSource for Chunks {
    async fn next(&mut self) -> Option<Vec<Event>> {
        if self.ended {
            return None;
        }
        Some(match self.stream.next().await {
            Some((index, event)) => self.write(index, event),
            None => self.last(),
        })
    }
}
