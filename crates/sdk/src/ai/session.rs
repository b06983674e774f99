//! Conversations that remember, for the blocking client.

use super::asynchronous::Canceller;
use super::blocking::{AiClient, Stream};
use super::error::Result;
use super::history::{Cut, History, Turn};
use super::message::{Message, ToolCall};
use super::options::GenerateOptions;
use super::response::{Piece, Response};

/// A conversation that remembers what was said. When it grows too long for the model its oldest turns are left out, whole ones
/// and never the system prompt, and [`Response::notes`] says so.
#[derive(Debug)]
pub struct ChatSession {
    client: AiClient,
    history: History,
    options: GenerateOptions,
}

impl ChatSession {
    /// A conversation that has not begun.
    #[must_use]
    pub fn new(client: AiClient) -> Self {
        Self { client, history: History::default(), options: GenerateOptions::default() }
    }

    /// Goes on with a conversation; a message of the system at its beginning is the system prompt.
    #[must_use]
    pub fn with_history(client: AiClient, messages: Vec<Message>) -> Self {
        Self { history: History::of_messages(messages), ..Self::new(client) }
    }

    /// Says what the assistant should be like.
    pub fn set_system_prompt(&mut self, prompt: impl Into<String>) {
        self.history.system = Some(prompt.into());
    }

    /// How answers are generated.
    pub fn options_mut(&mut self) -> &mut GenerateOptions {
        &mut self.options
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &AiClient {
        &self.client
    }

    /// What was said and not left out, without the system prompt.
    #[must_use]
    pub fn history(&self) -> &[Message] {
        &self.history.messages
    }

    /// How many turns were left out since the beginning.
    #[must_use]
    pub fn trimmed_turns(&self) -> usize {
        self.history.trimmed_turns
    }

    /// Forgets all but the system prompt.
    pub fn reset(&mut self) {
        self.history.reset();
    }

    /// Answers a message of the user. When it fails, the conversation is as before.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn chat(&mut self, text: &str) -> Result<Response> {
        self.turn(vec![Message::user(text)])
    }

    /// Answers a message of the user, in pieces. The conversation remembers both when the last piece has been taken.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn chat_stream(&mut self, text: &str) -> Result<SessionStream<'_>> {
        self.turn_streamed(vec![Message::user(text)])
    }

    /// Adds what a tool answered; when all have, [`answer`](Self::answer) goes on.
    pub fn add_tool_result(&mut self, call: &ToolCall, result: impl Into<String>) {
        self.history.messages.push(Message::tool_result(call, result));
    }

    /// Goes on without a message of the user: after the results of tools.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn answer(&mut self) -> Result<Response> {
        self.turn(Vec::new())
    }

    /// As [`answer`](Self::answer), in pieces.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn answer_stream(&mut self) -> Result<SessionStream<'_>> {
        self.turn_streamed(Vec::new())
    }

    fn turn(&mut self, new: Vec<Message>) -> Result<Response> {
        let mut cut = Cut::default();
        loop {
            match self.client.chat(&self.history.request(&cut, &new), &self.options) {
                Ok(mut response) => {
                    self.history.commit(&cut, new, &mut response);
                    return Ok(response);
                }
                Err(error) => cut = self.history.cut_more(&cut, &new, error)?,
            }
        }
    }

    fn turn_streamed(&mut self, new: Vec<Message>) -> Result<SessionStream<'_>> {
        let mut cut = Cut::default();
        loop {
            match self.client.chat_stream(&self.history.request(&cut, &new), &self.options) {
                Ok(stream) => return Ok(SessionStream { session: self, stream, turn: Turn::new(cut, new) }),
                Err(error) => cut = self.history.cut_more(&cut, &new, error)?,
            }
        }
    }
}

/// A streamed answer in a conversation: an iterator over its pieces. Dropped before its end, or failed, it leaves the conversation as it
/// was before.
#[derive(Debug)]
pub struct SessionStream<'s> {
    session: &'s mut ChatSession,
    stream: Stream,
    turn: Turn,
}

impl SessionStream<'_> {
    /// Reads what is left, and gives the whole answer.
    ///
    /// # Errors
    /// As its pieces.
    pub fn finish(mut self) -> Result<Response> {
        for piece in &mut self {
            piece?;
        }
        self.turn.finish(&mut self.session.history, || self.stream.response())
    }

    /// Ends the answer here; the conversation remembers it as far as it has come.
    pub fn keep(self) -> Response {
        self.turn.keep(&mut self.session.history, || self.stream.response())
    }

    /// What gives the answer up from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.stream.canceller()
    }
}

impl Iterator for SessionStream<'_> {
    type Item = Result<Piece>;

    /// The next piece; `None` when the answer has ended. The conversation remembers one that has ended well.
    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.stream.next();
        self.turn.see(piece.as_ref(), &mut self.session.history, || self.stream.response());
        piece
    }
}
