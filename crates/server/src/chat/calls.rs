//! The calls of an answer: from what the parser tells of them to the events that dialects write.

use hublabio_runtime::ai::ToolCall;

use super::{CalledTool, ChatEvent};

/// The calls of one answer.
pub(super) struct Calls {
    /// More are left out, and that is noted.
    max: usize,
    /// Each is told when it is complete, and none that is not.
    whole: bool,
    /// Calls that were begun, complete or not.
    begun: usize,
    complete: usize,
    open: Option<Open>,
}

/// The call that is being written.
enum Open {
    /// The reader knows of it, by this place.
    Told(usize),
    /// It is told when it is complete.
    Held(CalledTool),
    /// It is one too many.
    LeftOut,
}

impl Calls {
    /// None yet, and at most so many.
    pub fn new(max: usize) -> Self {
        Self { max, whole: false, begun: 0, complete: 0, open: None }
    }

    /// Tells calls when they are complete, from now on.
    pub fn hold(&mut self) {
        self.whole = true;
    }

    /// Whether there is one that is complete.
    pub fn has_complete(&self) -> bool {
        self.complete > 0
    }

    /// A call begins whose arguments come piece by piece.
    pub fn begin(&mut self, id: String, name: String) -> Option<ChatEvent> {
        if self.complete >= self.max {
            self.open = Some(Open::LeftOut);
            return None;
        }
        if self.whole {
            self.open = Some(Open::Held(CalledTool { id, name, arguments: String::new() }));
            return None;
        }
        let index = self.begun;
        self.begun += 1;
        self.open = Some(Open::Told(index));
        Some(ChatEvent::ToolCallBegin { index, id, name })
    }

    /// Its arguments grow.
    pub fn grow(&mut self, delta: String) -> Option<ChatEvent> {
        match self.open.as_mut()? {
            Open::Told(index) => Some(ChatEvent::ToolCallArguments { index: *index, delta }),
            Open::Held(call) => {
                call.arguments.push_str(&delta);
                None
            }
            Open::LeftOut => None,
        }
    }

    /// A call is complete: the one that has begun, or one of which nothing was told. One too many is noted.
    pub fn end(&mut self, call: ToolCall, new_id: impl FnOnce() -> String, notes: &mut Vec<String>) -> Vec<ChatEvent> {
        if self.complete >= self.max {
            self.open = None;
            notes.push(format!("the model wanted to call `{}`, too: one call was allowed", call.name));
            return Vec::new();
        }
        self.complete += 1;
        let CalledTool { id, name, arguments } = match self.open.take() {
            Some(Open::Told(index)) => return vec![ChatEvent::ToolCallEnd { index }],
            Some(Open::Held(held)) => held,
            Some(Open::LeftOut) | None => CalledTool {
                id: call.id.unwrap_or_else(new_id),
                name: call.name,
                arguments: call.arguments.to_string(),
            },
        };
        let index = self.begun;
        self.begun += 1;
        vec![
            ChatEvent::ToolCallBegin { index, id, name },
            ChatEvent::ToolCallArguments { index, delta: arguments },
            ChatEvent::ToolCallEnd { index },
        ]
    }

    /// What looked like a call is none. Its text is text, unless the reader was told that it is a call.
    pub fn give_up(&mut self, raw: String) -> Option<ChatEvent> {
        match self.open.take() {
            Some(Open::Told(index)) => Some(ChatEvent::ToolCallBroken { index }),
            _ => (!raw.trim().is_empty()).then_some(ChatEvent::Text(raw)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(name: &str) -> ToolCall {
        ToolCall { id: None, name: name.into(), arguments: json!({ "a": 1 }) }
    }

    fn begin(index: usize, id: &str, name: &str) -> ChatEvent {
        ChatEvent::ToolCallBegin { index, id: id.into(), name: name.into() }
    }

    fn arguments(index: usize, delta: &str) -> ChatEvent {
        ChatEvent::ToolCallArguments { index, delta: delta.into() }
    }

    #[test]
    fn calls_are_told_as_they_come_or_whole() {
        for whole in [false, true] {
            let mut calls = Calls::new(usize::MAX);
            if whole {
                calls.hold();
            }
            let mut events: Vec<ChatEvent> = Vec::new();
            events.extend(calls.begin("1".into(), "f".into()));
            events.extend(calls.grow("{\"a\":".into()));
            assert_eq!(events.len(), if whole { 0 } else { 2 });
            events.extend(calls.grow(" 1}".into()));
            events.extend(calls.end(call("f"), || panic!("it has one"), &mut Vec::new()));
            // One of which nothing was told before.
            events.extend(calls.end(call("g"), || "2".into(), &mut Vec::new()));
            let first = if whole {
                vec![arguments(0, "{\"a\": 1}")]
            } else {
                vec![arguments(0, "{\"a\":"), arguments(0, " 1}")]
            };
            let rest = [
                ChatEvent::ToolCallEnd { index: 0 },
                begin(1, "2", "g"),
                arguments(1, "{\"a\":1}"),
                ChatEvent::ToolCallEnd { index: 1 },
            ];
            assert_eq!(events, [vec![begin(0, "1", "f")], first, rest.to_vec()].concat());
            assert!(calls.has_complete());
        }
    }

    #[test]
    fn one_that_breaks_off_is_no_call() {
        let mut calls = Calls::new(1);
        assert_eq!(calls.begin("1".into(), "f".into()), Some(begin(0, "1", "f")));
        assert_eq!(calls.give_up("raw".into()), Some(ChatEvent::ToolCallBroken { index: 0 }));
        assert!(!calls.has_complete());
        // It does not count, but for its place.
        assert_eq!(calls.begin("2".into(), "f".into()), Some(begin(1, "2", "f")));
        let mut held = Calls::new(1);
        held.hold();
        assert_eq!(held.begin("1".into(), "f".into()), None);
        assert_eq!(held.give_up("raw".into()), Some(ChatEvent::Text("raw".into())));
        assert_eq!(held.give_up(" ".into()), None);
        assert_eq!(held.end(call("f"), || "2".into(), &mut Vec::new())[0], begin(0, "2", "f"));
    }

    #[test]
    fn one_too_many_is_noted() {
        let mut calls = Calls::new(1);
        let mut notes = Vec::new();
        calls.end(call("f"), || "1".into(), &mut notes);
        assert_eq!((calls.begin("2".into(), "g".into()), calls.grow("{}".into())), (None, None));
        assert_eq!(calls.end(call("g"), || "2".into(), &mut notes), []);
        assert_eq!(calls.end(call("h"), || "3".into(), &mut notes), []);
        assert!(notes.len() == 2 && notes[0].contains("`g`") && notes[1].contains("`h`"), "{notes:?}");
    }
}
