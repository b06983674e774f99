//! A question to a swarm of experts.

use std::sync::atomic::Ordering;
use std::time::Instant;

use hublabio_runtime::Error;
use hublabio_runtime::ai::{Message, SamplingConfig, Stats};
use hublabio_runtime::moe::{AnswerOptions, Error as MoeError, Flow, SessionId, SwarmAnswer, SwarmPiece, SwarmRequest};
use hublabio_runtime::node::AnswerSink as _;

use super::channel::{Raw, channel};
use super::{AnswerFormat, AnsweredBy, ChatDone, ChatEvent, ChatFinish, ChatRequest, ChatStream, Input, ToolChoice};
use crate::config::SwarmSource;
use crate::error::ApiError;
use crate::state::{App, blocking};

/// Puts a question to a swarm.
pub(super) async fn start(
    app: &App,
    name: String,
    source: SwarmSource,
    request: ChatRequest,
) -> Result<ChatStream, ApiError> {
    let asked = Instant::now();
    let question = Question::read(&request)?;
    let opener = app.clone();
    let swarm = blocking(move || opener.open_swarm(&source)).await?;
    let pinned = match &request.swarm.expert {
        Some(expert) => {
            let unknown = |error: Error| ApiError::field("hublab.expert", error.to_string()).coded("invalid_value");
            Some(swarm.expert_id(expert).map_err(unknown)?)
        }
        None => None,
    };
    let generation = if request.sampling.is_empty() && request.stop.is_empty() {
        // Each expert has its own.
        None
    } else {
        let mut config = request.sampling.apply(&SamplingConfig::default(), false)?;
        config.stop.clone_from(&request.stop);
        Some(config)
    };
    let queue_max = app.node().config().queue_max;
    let waiting = app.swarm_questions().fetch_add(1, Ordering::Relaxed);
    let place = Place(app.clone());
    if waiting >= queue_max {
        return Err(Error::Busy { waiting }.into());
    }
    let (sender, receiver) = channel(app.heap());
    let asked_for = SwarmRequest {
        pinned,
        session: request.swarm.session.map(SessionId),
        max_tokens: request.max_tokens,
        ..SwarmRequest::new(question.text)
    };
    let options = AnswerOptions { history: question.history, generation };
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut at_work: Vec<String> = Vec::new();
        let answer = swarm.answer(&asked_for, &options, &mut |piece| {
            let event = match piece {
                SwarmPiece::Text(text) if !text.is_empty() => Some(ChatEvent::Text(text.to_owned())),
                SwarmPiece::Started { name, .. } if !at_work.iter().any(|other| other == name) => {
                    at_work.push(name.to_owned());
                    Some(ChatEvent::Experts(at_work.clone()))
                }
                SwarmPiece::Failed { name, .. } => {
                    // Who is asked in its place starts next; without anyone the end says what happened.
                    at_work.retain(|other| other != name);
                    None
                }
                _ => None,
            };
            match event {
                Some(event) => sender.send(Raw::Event(event)),
                None if sender.is_closed() => Flow::Break(()),
                None => Flow::Continue(()),
            }
        });
        // Who is gone needs no answer.
        let _ = sender.send(Raw::Event(last_event(answer, asked)));
    });
    Ok(ChatStream::of_events(app, name, receiver, asked))
}

/// A place in the queue of questions to swarms.
struct Place(App);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.swarm_questions().fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a swarm can be asked.
struct Question {
    text: String,
    history: Vec<Message>,
}

impl Question {
    fn read(request: &ChatRequest) -> Result<Self, ApiError> {
        let not_here = |field: &str, present: bool| {
            let message = format!("`{field}` cannot be honoured by a swarm: take it out, or ask a single model");
            if present { Err(ApiError::field(field, message).coded("unsupported_parameter")) } else { Ok(()) }
        };
        not_here("tools", !request.tools.is_empty() && request.tool_choice != ToolChoice::None)?;
        not_here("response_format", request.format != AnswerFormat::Text)?;
        not_here("logprobs", request.logprobs.is_some())?;
        not_here("n", request.n != 1)?;
        not_here("chat_template_kwargs", !request.template_variables.is_empty())?;
        // Experts have different tokens.
        not_here("logit_bias", !request.sampling.logit_bias.is_empty())?;
        let mut history = match &request.input {
            Input::Messages(messages) => messages.clone(),
            Input::Text(text) => vec![Message::new("user", text.as_str())],
            Input::Tokens(_) => {
                return not_here("prompt", true).map(|()| Self { text: String::new(), history: Vec::new() });
            }
        };
        match history.pop() {
            Some(last) if last.role == "user" && last.content.text().trim().is_empty() => {
                Err(ApiError::field("messages", "the question is empty: a swarm has nothing to choose an expert by"))
            }
            Some(last) if last.role == "user" => Ok(Self { text: last.content.text().into_owned(), history }),
            _ => Err(ApiError::field("messages", "a swarm answers a question: the last message must be the user's")),
        }
    }
}

fn last_event(answer: Result<SwarmAnswer, Error>, asked: Instant) -> ChatEvent {
    match answer {
        Ok(answer) => ChatEvent::Done(Box::new(done(answer, asked))),
        Err(Error::Swarm(MoeError::Cancelled)) => ChatEvent::Failed(ApiError::internal("the question was given up")),
        Err(error) => ChatEvent::Failed(error.into()),
    }
}

fn done(answer: SwarmAnswer, asked: Instant) -> ChatDone {
    let completion_tokens = answer.tokens;
    let contributions = answer.synthesis.contributions;
    let mut ends = answer
        .usage
        .iter()
        .filter(|(id, usage)| usage.failure.is_none() && contributions.iter().any(|part| part.expert == *id))
        .map(|(_, usage)| usage.cut)
        .peekable();
    let cut = ends.peek().is_some() && ends.all(|cut| cut);
    let stats =
        Stats { generated_tokens: completion_tokens, decode_s: asked.elapsed().as_secs_f64(), ..Stats::default() };
    ChatDone {
        finish: if cut { ChatFinish::Length } else { ChatFinish::End },
        prompt_tokens: answer.prompt_tokens,
        cached_tokens: 0,
        completion_tokens,
        reasoning_tokens: 0,
        stats,
        answered_by: contributions
            .into_iter()
            .map(|part| AnsweredBy { expert: part.name, weight: part.weight, why: part.why })
            .collect(),
        notes: answer.synthesis.notes,
    }
}
