//! A question in a conversation, and its answer as it comes.
//!
//! The order is what makes a crash harmless: the request waits for its turn; then the question is on the disk; then the
//! client is told (`start`), and the answer is read. When the answer ends, by itself, by `stop`, or because the client went
//! away, what was written is on the disk before the last event says so. A client that goes away stops the answer: nobody
//! reads it, and the machine has better things to do. What is written until then is kept as `stopped`.
//!
//! Events, each with a JSON object as data: `start {user, parent, conversation}`, `progress {read, total}`, `experts
//! {names}` (who of a swarm is at work, each time it changes), `reasoning {text}`, `delta {text}`, and last `done {message,
//! conversation}` or `error {error, message, conversation}`; `message` is null when nothing was written, `conversation`
//! when none is kept.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use hublabio_runtime::ai::Message as ChatMessage;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, mpsc};
use utoipa::ToSchema;

use super::http::{Id, Store, memory_of, now_ms, read_json};
use super::record::{object, objects, optional_object};
use super::store::check_place;
use super::{
    Answerer, Attachment, Conversation, ConversationHead, ConversationId, ConversationStore, Finish, Message,
    MessageId, Role, Settings, Usage, with_attachments,
};
use crate::chat::{self, ChatDone, ChatEvent, ChatFinish, ChatRequest, ChatStream, Input, SamplingChanges};
use crate::error::{ApiError, Dialect};
use crate::heap::HeldShare;
use crate::limits::JsonBody;
use crate::sse::{self, EventSource};
use crate::state::{App, blocking};

/// Room that there must be for an answer before it is asked for: what could not be kept would be lost.
const ANSWER_ROOM_BYTES: u64 = 64 << 10;
/// Events that wait for a slow client; the answer waits with them.
const EVENTS_MAX: usize = 64;

/// A question, or a wish for another answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = conversations::AnswerRequest)]
pub struct AnswerRequest {
    /// The message that the question follows; absent at the beginning. Without `text`, the question that is to be answered
    /// again.
    #[serde(default)]
    parent: Option<MessageId>,
    /// The question.
    #[serde(default)]
    text: Option<String>,
    /// Files that come with it.
    #[serde(default, deserialize_with = "objects")]
    attachments: Vec<Attachment>,
    /// Who is asked; absent: whom the conversation names.
    #[serde(default)]
    model: Option<String>,
    /// How; absent: as the conversation has it.
    #[serde(default, deserialize_with = "optional_object")]
    settings: Option<Settings>,
}

/// A question that nobody keeps.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = conversations::UnkeptRequest)]
pub struct UnkeptRequest {
    /// The conversation until now, the question last.
    #[serde(deserialize_with = "objects")]
    messages: Vec<UnkeptMessage>,
    /// Who is asked; absent: the service's default.
    #[serde(default)]
    model: Option<String>,
    /// How.
    #[serde(default, deserialize_with = "object")]
    settings: Settings,
}

/// A message of a conversation that the client keeps.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = conversations::UnkeptMessage)]
pub struct UnkeptMessage {
    role: Role,
    text: String,
    #[serde(default, deserialize_with = "objects")]
    attachments: Vec<Attachment>,
}

/// Asks in a conversation. The question and the answer are kept.
#[utoipa::path(post, path = "/api/conversations/{id}/answer", tag = "conversations", params(("id" = String, Path)),
    request_body = AnswerRequest, responses(
    (status = 200, content_type = "text/event-stream", body = String, description = "`start`, `progress`, `experts`, `reasoning`, `delta`, then `done` or `error`"),
    (status = 409, description = "Too many answers of this conversation are being written")))]
pub(crate) async fn answer(
    State(app): State<App>,
    Store(store): Store,
    held: HeldShare,
    Id(id): Id,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let request: AnswerRequest = read_json(body)?;
    let asker = store.clone();
    let conversation_id = id.clone();
    let memory = app.clone();
    let (question, mut asked) = blocking(move || {
        held.take(&memory, memory_of(&asker.head(&conversation_id)?), "to read the conversation")?;
        prepare(&asker, &conversation_id, request)
    })
    .await?;
    fit_to_model(&app, &mut asked)?;
    let stop = app.conversations().begin(&id)?;
    let running = Running { app: app.clone(), id: id.clone(), stop };
    let begun = Instant::now();
    let model = asked.model.clone();
    let context_tokens = context_of(&app, model.as_deref()).await;
    let stream = chat::start(&app, asked).await?;
    let (head, parent, user) = blocking({
        let (store, id) = (store.clone(), id.clone());
        move || keep_question(&store, &id, question)
    })
    .await?;
    let start = event("start", &json!({ "user": user, "parent": parent, "conversation": head }));
    let answer = Message { model: Some(stream.model().to_owned()), ..Message::assistant(parent, "") };
    let writer = Writer { begun, context_tokens, kept: Some((store, running)), ..Writer::new(stream, answer) };
    Ok(writer.respond(&app, Some(start)))
}

/// Asks without keeping anything.
#[utoipa::path(post, path = "/api/answer", tag = "conversations", request_body = UnkeptRequest, responses(
    (status = 200, content_type = "text/event-stream", body = String, description = "`progress`, `experts`, `reasoning`, `delta`, then `done` or `error`")))]
pub(crate) async fn answer_unkept(State(app): State<App>, body: JsonBody) -> Result<Response, ApiError> {
    let UnkeptRequest { messages, model, settings } = read_json(body)?;
    let limits = app.conversations().limits();
    settings.check(limits)?;
    if messages.len() > limits.messages as usize {
        let message = format!("{} messages, at most {} are taken", messages.len(), limits.messages);
        return Err(ApiError::field("messages", message).coded("limit_exceeded"));
    }
    let mut last = None;
    let mut turns = Vec::new();
    for (index, UnkeptMessage { role, text, attachments }) in messages.into_iter().enumerate() {
        check_place(role, last)?;
        let message = Message { attachments, ..Message { role, ..Message::user(None, text) } };
        message.check(limits).map_err(|error| ApiError::from(error).about(format!("messages[{index}]")))?;
        last = Some(role);
        turns.push(message);
    }
    if last != Some(Role::User) {
        return Err(ApiError::field("messages", "the last message must be the user's").coded("invalid_value"));
    }
    let begun = Instant::now();
    let mut asked = chat_request(&turns.iter().collect::<Vec<_>>(), model, &settings, None);
    fit_to_model(&app, &mut asked)?;
    let context_tokens = context_of(&app, asked.model.as_deref()).await;
    let stream = chat::start(&app, asked).await?;
    let answer = Message { model: Some(stream.model().to_owned()), ..Message::assistant(0, "") };
    Ok(Writer { begun, context_tokens, ..Writer::new(stream, answer) }.respond(&app, None))
}

/// What is asked: a new question, or the id of one that is there.
enum Question {
    New(Box<Message>),
    Again(MessageId),
}

/// Reads the conversation and makes the request for the model. Nothing is written yet.
fn prepare(
    store: &ConversationStore,
    id: &ConversationId,
    request: AnswerRequest,
) -> Result<(Question, ChatRequest), ApiError> {
    let AnswerRequest { parent, text, attachments, model, settings } = request;
    let conversation: Conversation = store.get(id)?;
    let settings = settings.unwrap_or_else(|| conversation.head.settings.clone());
    settings.check(store.limits())?;
    let mut turns = conversation.path(parent)?;
    let last = turns.last().map(|message| message.role);
    let question = match text {
        Some(text) => {
            let message = Message { attachments, ..Message::user(parent, text) };
            message.check(store.limits())?;
            check_place(message.role, last)?;
            Question::New(Box::new(message))
        }
        None if !attachments.is_empty() => {
            return Err(ApiError::field(
                "attachments",
                "files come with a question: give `text` too, empty if need be",
            ));
        }
        None => match parent {
            Some(parent) if last == Some(Role::User) => Question::Again(parent),
            _ => return Err(ApiError::field("text", "without `text`, `parent` must be a message of the user")),
        },
    };
    let (mut messages, mut bytes) = (1, ANSWER_ROOM_BYTES);
    if let Question::New(message) = &question {
        turns.push(message);
        messages += 1;
        bytes += message.content_bytes() as u64;
    }
    store.check_room(&conversation.head, messages, bytes)?;
    let model = model.filter(|name| !name.is_empty());
    let model = model.or_else(|| Some(conversation.head.model.clone()).filter(|name| !name.is_empty()));
    let request = chat_request(&turns, model, &settings, Some(id));
    Ok((question, request))
}

fn chat_request(
    turns: &[&Message],
    model: Option<String>,
    settings: &Settings,
    id: Option<&ConversationId>,
) -> ChatRequest {
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if !settings.system.is_empty() {
        messages.push(ChatMessage::new("system", settings.system.as_str()));
    }
    messages.extend(turns.iter().map(|turn| match turn.role {
        Role::User => ChatMessage::new("user", with_attachments(turn).as_str()),
        Role::Assistant => ChatMessage::new("assistant", turn.text.as_str()),
    }));
    let mut request = ChatRequest::new(model.filter(|name| !name.is_empty()), Input::Messages(messages));
    request.sampling = SamplingChanges {
        temperature: settings.temperature,
        top_p: settings.top_p,
        top_k: settings.top_k.map(|k| k as usize),
        seed: settings.seed,
        ..SamplingChanges::default()
    };
    request.max_tokens = settings.max_tokens.map(|n| n as usize);
    request.swarm.expert.clone_from(&settings.expert);
    // The ids are random, so half of one tells conversations apart.
    request.swarm.session = id.and_then(|id| u64::from_str_radix(&id.as_str()[..16], 16).ok());
    request
}

/// A conversation with a single model has no session, and no expert can answer in it.
fn fit_to_model(app: &App, asked: &mut ChatRequest) -> Result<(), ApiError> {
    let model = asked.model.as_deref().unwrap_or(&app.config().default_model);
    if app.swarm_source(model).is_some() {
        return Ok(());
    }
    asked.swarm.session = None;
    if asked.swarm.expert.is_some() {
        let message = format!("`settings.expert` is for swarms, and `{model}` is a single model: take it out");
        return Err(ApiError::field("settings.expert", message).coded("unsupported_parameter"));
    }
    Ok(())
}

/// Puts the question on the disk; gives the conversation, the id of the question, and the question if it is new.
fn keep_question(
    store: &ConversationStore,
    id: &ConversationId,
    question: Question,
) -> Result<(ConversationHead, MessageId, Option<Message>), ApiError> {
    match question {
        Question::New(message) => {
            let (head, message) = store.append(id, *message, now_ms())?;
            Ok((head, message.id, Some(message)))
        }
        Question::Again(message) => Ok((store.head(id)?, message, None)),
    }
}

/// How many tokens a model can hold; `None` for a swarm, whose experts differ.
async fn context_of(app: &App, model: Option<&str>) -> Option<u64> {
    let name = model.unwrap_or(&app.config().default_model).to_owned();
    if app.swarm_source(&name).is_some() {
        return None;
    }
    let worker = app.clone();
    let found = blocking(move || {
        let name = chat::model_name(&name, &worker)?;
        Ok(worker.node().model(&name)?.facts().context as u64)
    });
    // A model that is not there is refused where it is asked.
    found.await.ok()
}

/// An answer that is being written, as `stop` sees it.
struct Running {
    app: App,
    id: ConversationId,
    stop: Arc<Notify>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.app.conversations().ended(&self.id, &self.stop);
    }
}

/// Reads an answer to its end, whoever still listens, and keeps it.
struct Writer {
    stream: ChatStream,
    answer: Message,
    begun: Instant,
    first_token_ms: Option<u64>,
    context_tokens: Option<u64>,
    kept: Option<(ConversationStore, Running)>,
}

/// How an answer ended.
enum Ending {
    Done(Box<ChatDone>),
    Failed(ApiError),
    Stopped,
}

impl Writer {
    fn new(stream: ChatStream, answer: Message) -> Self {
        Self { stream, answer, begun: Instant::now(), first_token_ms: None, context_tokens: None, kept: None }
    }

    fn respond(self, app: &App, start: Option<Event>) -> Response {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(self.write(sender, start));
        sse::response(app, Events(receiver))
    }

    async fn write(mut self, client: mpsc::Sender<Event>, start: Option<Event>) {
        if let Some(start) = start {
            let _ = client.send(start).await;
        }
        let stop = self.kept.as_ref().map(|(_, running)| Arc::clone(&running.stop));
        let stop = stop.unwrap_or_default();
        let ending = loop {
            let next = tokio::select! {
                next = self.stream.next() => next,
                () = stop.notified() => break Ending::Stopped,
                () = client.closed() => break Ending::Stopped,
            };
            match next {
                Some((_, ChatEvent::Done(done))) => break Ending::Done(done),
                Some((_, ChatEvent::Failed(error))) => break Ending::Failed(error),
                Some((_, event)) => {
                    let Some(event) = self.take(event) else { continue };
                    // A client that has gone is noticed above; one that is slow can still be stopped.
                    tokio::select! {
                        _ = client.send(event) => {}
                        () = stop.notified() => break Ending::Stopped,
                    }
                }
                None => break Ending::Failed(ApiError::internal("the model stopped without an answer: try again")),
            }
        };
        let last = self.finish(ending).await;
        let _ = client.send(last).await;
    }

    /// Adds what came to the answer, and makes an event of it.
    fn take(&mut self, event: ChatEvent) -> Option<Event> {
        let is_before_tokens = matches!(event, ChatEvent::Progress { .. } | ChatEvent::Experts(_));
        if self.first_token_ms.is_none() && !is_before_tokens {
            self.first_token_ms = u64::try_from(self.begun.elapsed().as_millis()).ok();
        }
        let text = match event {
            ChatEvent::Progress { read, total, .. } => {
                return Some(self::event("progress", &json!({ "read": read, "total": total })));
            }
            ChatEvent::Experts(names) => return Some(self::event("experts", &json!({ "names": names }))),
            ChatEvent::Reasoning(text) => {
                self.answer.reasoning.push_str(&text);
                return Some(self::event("reasoning", &json!({ "text": text })));
            }
            event => shown(event)?,
        };
        self.answer.text.push_str(&text);
        Some(self::event("delta", &json!({ "text": text })))
    }

    /// Keeps the answer, and says so.
    async fn finish(self, ending: Ending) -> Event {
        let Self { stream, mut answer, first_token_ms, context_tokens, kept, .. } = self;
        // Gives up what is not finished.
        drop(stream);
        let mut failed = None;
        match ending {
            Ending::Done(done) => complete(&mut answer, *done, first_token_ms, context_tokens),
            Ending::Stopped => answer.finish = Some(Finish::Stopped),
            Ending::Failed(error) => {
                answer.finish = Some(Finish::Failed);
                failed = Some(error);
            }
        }
        let is_empty = answer.text.is_empty() && answer.reasoning.is_empty() && answer.finish != Some(Finish::Stop);
        let (mut head, mut message) = (None, (!is_empty).then_some(answer));
        if let Some((store, running)) = kept {
            let id = running.id.clone();
            let answer = message.take();
            let result = blocking(move || match answer {
                Some(answer) => Ok(store.append(&id, answer, now_ms()).map(|(head, answer)| (head, Some(answer)))?),
                None => Ok((store.head(&id)?, None)),
            });
            match result.await {
                Ok((kept_head, kept)) => (head, message) = (Some(kept_head), kept),
                // What was asked cannot be kept: that comes before what the model said.
                Err(error) => failed = Some(error),
            }
            drop(running);
        }
        match failed {
            None => event("done", &json!({ "message": message, "conversation": head })),
            Some(error) => {
                let Json::Object(mut body) = error.body(Dialect::OpenAi) else { unreachable!("an error is an object") };
                body.insert("message".into(), json!(message));
                body.insert("conversation".into(), json!(head));
                event("error", &Json::Object(body))
            }
        }
    }
}

/// What of an event is text of the answer.
fn shown(event: ChatEvent) -> Option<String> {
    Some(match event {
        ChatEvent::Text(text) => text,
        // The page offers no tools. A model that calls one all the same is shown, not hidden.
        ChatEvent::ToolCallBegin { name, .. } => format!("\n\nCall of `{name}`:\n\n```json\n"),
        ChatEvent::ToolCallArguments { delta, .. } => delta,
        // One that breaks off ends, too: what comes after it is no part of the code.
        ChatEvent::ToolCallEnd { .. } | ChatEvent::ToolCallBroken { .. } => String::from("\n```\n"),
        _ => return None,
    })
}

/// Writes down how a whole answer ended and what it cost.
fn complete(answer: &mut Message, done: ChatDone, first_token_ms: Option<u64>, context_tokens: Option<u64>) {
    answer.finish = Some(match done.finish {
        ChatFinish::End | ChatFinish::Stop(_) | ChatFinish::ToolCalls => Finish::Stop,
        ChatFinish::Length | ChatFinish::ContextFull => Finish::Length,
        ChatFinish::Cancelled => Finish::Stopped,
    });
    // Shorter numbers, which come back from JSON as they were.
    let rounded = |value: f64, places: f64| (value * places).round() / places;
    let speed = done.stats.decode_tokens_per_s();
    let has_speed = done.completion_tokens > 1 && speed.is_finite() && speed < 1e6;
    answer.usage = Some(Usage {
        prompt_tokens: done.prompt_tokens as u64,
        cached_tokens: done.cached_tokens as u64,
        completion_tokens: done.completion_tokens as u64,
        tokens_per_s: has_speed.then(|| rounded(speed, 10.0)),
        first_token_ms,
        context_tokens,
    });
    answer.experts = done
        .answered_by
        .into_iter()
        .map(|by| Answerer { name: by.expert, weight: rounded(f64::from(by.weight), 1e4), reason: by.why })
        .collect();
    answer.notes = done.notes;
}

fn event(name: &str, data: &Json) -> Event {
    Event::default().event(name).data(data.to_string())
}

struct Events(mpsc::Receiver<Event>);

impl EventSource for Events {
    async fn next(&mut self) -> Option<Vec<Event>> {
        Some(vec![self.0.recv().await?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_breaks_off_does_not_make_code_of_what_follows() {
        for end in [ChatEvent::ToolCallEnd { index: 0 }, ChatEvent::ToolCallBroken { index: 0 }] {
            let events = [
                ChatEvent::ToolCallBegin { index: 0, id: "1".into(), name: "f".into() },
                ChatEvent::ToolCallArguments { index: 0, delta: "{\"a".into() },
                end,
                ChatEvent::Text("Sorry.".into()),
            ];
            let text: String = events.into_iter().filter_map(shown).collect();
            assert_eq!(text, "\n\nCall of `f`:\n\n```json\n{\"a\n```\nSorry.");
        }
    }
}
