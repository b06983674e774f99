//! What a conversation remembers, and what it leaves out when it grows too long. Asks nobody: the sessions do.

use super::error::{Error, Result};
use super::message::Message;
use super::response::{Piece, Response};

/// A conversation. A turn is a message of the user and everything up to the next one.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub system: Option<String>,
    pub messages: Vec<Message>,
    /// Turns that were left out since the beginning.
    pub trimmed_turns: usize,
}

/// How much of a history goes into a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Turns that are left out.
    turns: usize,
    /// The first message that is not.
    begin: usize,
    /// Why, by what the service last said about its limit.
    reason: String,
}

impl History {
    /// Takes a conversation over. A message of the system at its beginning is the system prompt.
    pub fn of_messages(mut messages: Vec<Message>) -> Self {
        let is_system = messages.first().is_some_and(|first| first.role == "system");
        let system = is_system.then(|| messages.remove(0).content.unwrap_or_default());
        Self { system, messages, trimmed_turns: 0 }
    }

    /// The messages of a request: the system prompt, what is not cut off, and what is new.
    pub fn request(&self, cut: &Cut, new: &[Message]) -> Vec<Message> {
        let system = self.system.as_ref().map(Message::system);
        system.into_iter().chain(self.messages[cut.begin..].iter().cloned()).chain(new.iter().cloned()).collect()
    }

    /// After an error: leaves more of the oldest turns out, if it is about the length and there are more.
    ///
    /// Of the bytes that are sent, about the share goes by which the prompt is too long, so that a long conversation is not sent
    /// once for every turn too many.
    pub fn cut_more(&self, cut: &Cut, new: &[Message], error: Error) -> Result<Cut> {
        let Error::ContextTooLong { prompt_tokens, context_tokens, message } = &error else { return Err(error) };
        let messages: Vec<&Message> = self.messages[cut.begin..].iter().chain(new).collect();
        let total: usize = messages.iter().map(|message| message.bytes()).sum();
        let excess = match (prompt_tokens, context_tokens) {
            (Some(prompt), Some(context)) if *prompt > 0 => prompt.saturating_sub(*context) as f64 / *prompt as f64,
            _ => 0.0,
        };
        let reason = match (prompt_tokens, context_tokens) {
            (Some(prompt), Some(context)) => format!("the prompt has {prompt} tokens, the context holds {context}"),
            _ => message.clone(),
        };
        let (mut bytes, mut next) = (0, Cut { reason, ..cut.clone() });
        let turns = messages.iter().enumerate().skip(1).filter(|(_, message)| message.role == "user").map(|(at, _)| at);
        for at in turns {
            // The last turn is the one that waits for its answer.
            bytes += self.messages[next.begin..cut.begin + at].iter().map(Message::bytes).sum::<usize>();
            next.begin = cut.begin + at;
            next.turns += 1;
            if bytes as f64 >= excess * total as f64 {
                break;
            }
        }
        if next.turns == cut.turns { Err(error) } else { Ok(next) }
    }

    /// Remembers an answer and what it was an answer to; what was cut off is forgotten, and said in the answer.
    pub fn commit(&mut self, cut: &Cut, new: Vec<Message>, response: &mut Response) {
        if cut.turns > 0 {
            let (turns, were) = if cut.turns == 1 { ("turn", "was") } else { ("turns", "were") };
            let Cut { turns: n, reason, .. } = cut;
            response.notes.push(format!("the oldest {n} {turns} of the conversation {were} left out: {reason}"));
        }
        self.messages.drain(..cut.begin);
        self.trimmed_turns += cut.turns;
        self.messages.extend(new);
        self.messages.push(response.to_message());
    }

    /// Forgets all but the system prompt.
    pub fn reset(&mut self) {
        self.messages.clear();
        self.trimmed_turns = 0;
    }
}

/// A turn whose answer comes in pieces. It is remembered once, when the answer has ended well or is kept.
#[derive(Debug)]
pub(crate) struct Turn {
    cut: Cut,
    new: Vec<Message>,
    kept: Option<Response>,
    has_failed: bool,
}

impl Turn {
    pub fn new(cut: Cut, new: Vec<Message>) -> Self {
        Self { cut, new, kept: None, has_failed: false }
    }

    /// Takes note of what came. A stream that has failed ends, too, and its end is none that is remembered.
    pub fn see(&mut self, piece: Option<&Result<Piece>>, history: &mut History, response: impl FnOnce() -> Response) {
        match piece {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.has_failed = true,
            None if self.has_failed => {}
            None => self.commit(history, response),
        }
    }

    /// The whole answer, of a stream that has ended.
    pub fn finish(mut self, history: &mut History, response: impl FnOnce() -> Response) -> Result<Response> {
        if self.has_failed && self.kept.is_none() {
            let problem = "it had failed before its end was asked for".to_owned();
            return Err(Error::Interrupted { place: "in the middle of a streamed answer".into(), problem });
        }
        self.commit(history, response);
        Ok(self.kept.unwrap_or_default())
    }

    /// The answer as far as it has come.
    pub fn keep(mut self, history: &mut History, response: impl FnOnce() -> Response) -> Response {
        self.commit(history, response);
        self.kept.unwrap_or_default()
    }

    fn commit(&mut self, history: &mut History, response: impl FnOnce() -> Response) {
        if self.kept.is_none() {
            let mut response = response();
            history.commit(&self.cut, std::mem::take(&mut self.new), &mut response);
            self.kept = Some(response);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_long(prompt: u64, context: u64) -> Error {
        Error::ContextTooLong {
            prompt_tokens: Some(prompt),
            context_tokens: Some(context),
            message: format!("{prompt} of {context}"),
        }
    }

    /// Turns of 10 bytes each: a message and its answer.
    fn history(turns: usize) -> History {
        let turn = || [Message::user("12345"), Message::assistant("67890")];
        History { system: Some("S".into()), messages: (0..turns).flat_map(|_| turn()).collect(), trimmed_turns: 0 }
    }

    #[test]
    fn the_oldest_turns_go_first_and_the_system_prompt_stays() {
        let (history, new) = (history(9), [Message::user("1234567890")]);
        // One token over a limit: a turn goes all the same.
        let cut = history.cut_more(&Cut::default(), &new, too_long(100, 100)).unwrap();
        assert_eq!((cut.turns, cut.begin), (1, 2));
        // A third too long: 30 of 90 bytes that are left.
        let cut = history.cut_more(&cut, &new, too_long(90, 60)).unwrap();
        assert_eq!((cut.turns, cut.begin), (4, 8));
        let request = history.request(&cut, &new);
        assert_eq!(request.len(), 1 + 10 + 1);
        assert_eq!((request[0].role.as_str(), request[1].role.as_str()), ("system", "user"));
        // Far too long: everything but the new message.
        let cut = history.cut_more(&cut, &new, too_long(1000, 1)).unwrap();
        assert_eq!(history.request(&cut, &new).len(), 2);
        let error = history.cut_more(&cut, &new, too_long(1000, 1)).unwrap_err();
        assert!(matches!(error, Error::ContextTooLong { prompt_tokens: Some(1000), .. }));
    }

    #[test]
    fn a_turn_with_tools_goes_as_a_whole_and_the_one_that_waits_stays() {
        let mut history = history(1);
        history.messages.splice(1..1, [Message::assistant(""), Message { role: "tool".into(), ..Message::default() }]);
        history.messages.push(Message::user("call"));
        history.messages.push(Message { role: "tool".into(), ..Message::default() });
        // Nothing new: a tool has answered.
        let cut = history.cut_more(&Cut::default(), &[], too_long(9, 1)).unwrap();
        assert_eq!((cut.turns, cut.begin), (1, 4));
        assert!(history.cut_more(&cut, &[], too_long(9, 1)).is_err());
        let other = Error::Busy { message: String::new(), retry_after: None };
        assert!(matches!(history.cut_more(&Cut::default(), &[], other), Err(Error::Busy { .. })));
    }

    #[test]
    fn what_was_left_out_is_said() {
        let mut history = history(3);
        let new = [Message::user("n")];
        let cut = history.cut_more(&Cut::default(), &new, too_long(40, 20)).unwrap();
        let mut response = Response { text: "a".into(), ..Response::default() };
        history.commit(&cut, new.to_vec(), &mut response);
        assert_eq!(
            response.notes,
            ["the oldest 2 turns of the conversation were left out: the prompt has 40 tokens, the context holds 20"]
        );
        assert_eq!((history.trimmed_turns, history.messages.len()), (2, 4));
        assert_eq!(history.messages.last().unwrap(), &Message::assistant("a"));
        history.reset();
        assert_eq!(history.request(&Cut::default(), &new).len(), 2);
    }

    #[test]
    fn a_conversation_is_taken_over() {
        let history = History::of_messages(vec![Message::system("S"), Message::user("u")]);
        assert_eq!((history.system.as_deref(), history.messages.len()), (Some("S"), 1));
        assert_eq!(History::of_messages(vec![Message::user("u")]).system, None);
    }
}
