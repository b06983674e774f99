//! Conversations: messages, tools and tool calls.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::error::{Error, Result};
use crate::wire::openai as wire;

pub use wire::{Tool, ToolChoice};

/// A turn of a conversation.
///
/// ```
/// use hublabio_sdk::ai::Message;
/// let conversation = [Message::system("You are brief."), Message::user("What does tar do?")];
/// assert_eq!(conversation[1].role, "user");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said; `None` for a message that only calls tools.
    pub content: Option<String>,
    /// What the assistant thought before it spoke.
    pub reasoning: Option<String>,
    /// Tools that the assistant wants to be called.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a message of the role `tool` answers.
    pub tool_call_id: Option<String>,
    /// Name of the speaker, or of the tool that answers.
    pub name: Option<String>,
}

impl Message {
    fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), ..Self::default() }
    }

    /// What the assistant should be like.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the assistant said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// What a tool answered.
    pub fn tool_result(call: &ToolCall, content: impl Into<String>) -> Self {
        Self { tool_call_id: Some(call.id.clone()), name: Some(call.name.clone()), ..Self::new("tool", content) }
    }

    pub(crate) fn to_wire(&self) -> wire::RequestMessage {
        wire::RequestMessage {
            role: self.role.clone(),
            content: self.content.clone().map(wire::MessageContent::Text),
            reasoning_content: self.reasoning.clone(),
            name: self.name.clone(),
            tool_calls: self.tool_calls.iter().map(ToolCall::to_wire).collect(),
            tool_call_id: self.tool_call_id.clone(),
        }
    }

    /// Bytes of its texts, to compare how much room messages take.
    pub(crate) fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let calls: usize = self.tool_calls.iter().map(|call| call.name.len() + call.arguments.to_string().len()).sum();
        text(&self.content) + text(&self.reasoning) + calls
    }
}

/// A call of a tool, as the model asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Name of this call, to which the tool's answer refers.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// Its arguments: a JSON object, unless the model wrote something else, which is then a JSON text.
    pub arguments: Json,
}

impl ToolCall {
    /// The arguments as a type of the program.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when they are something else. It is worth telling the model, as the tool's result.
    pub fn arguments_as<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.arguments)
            .map_err(|error| Error::Mismatch { what: "the arguments of a tool call", problem: error.to_string() })
    }

    pub(crate) fn of_wire(call: wire::ToolCall) -> Self {
        let wire::FunctionCall { name, arguments } = call.function;
        // A function without parameters is called with `{}` or with nothing.
        let arguments = match arguments.trim() {
            "" => Json::Object(Map::new()),
            text => serde_json::from_str(text).unwrap_or(Json::String(arguments)),
        };
        Self { id: call.id, name, arguments }
    }

    fn to_wire(&self) -> wire::ToolCall {
        let arguments = match &self.arguments {
            Json::String(text) => text.clone(),
            arguments => arguments.to_string(),
        };
        wire::ToolCall {
            id: self.id.clone(),
            kind: "function".into(),
            function: wire::FunctionCall { name: self.name.clone(), arguments },
        }
    }
}

impl fmt::Display for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, self.arguments)
    }
}

impl Tool {
    /// A function that the model may call; `parameters` is the JSON Schema of its arguments, an object.
    pub fn function(name: impl Into<String>, description: impl Into<String>, parameters: Json) -> Self {
        Self {
            kind: "function".into(),
            function: wire::FunctionDefinition {
                name: name.into(),
                description: Some(description.into()),
                parameters: Some(parameters),
                strict: None,
            },
        }
    }
}

impl ToolChoice {
    /// The model must not call tools.
    pub const NONE: Self = Self::Mode(wire::ToolChoiceMode::None);
    /// The model calls tools as it likes.
    pub const AUTO: Self = Self::Mode(wire::ToolChoiceMode::Auto);
    /// The model must call at least one tool.
    pub const REQUIRED: Self = Self::Mode(wire::ToolChoiceMode::Required);

    /// The model must call this tool.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Named { kind: "function".into(), function: wire::NamedFunction { name: name.into() } }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_read_and_written_as_text() {
        let wire = |arguments: &str| wire::ToolCall {
            id: "1".into(),
            kind: "function".into(),
            function: wire::FunctionCall { name: "f".into(), arguments: arguments.into() },
        };
        for (text, expected) in [(r#"{"a":1}"#, json!({ "a": 1 })), (" ", json!({})), ("{broken", json!("{broken"))] {
            let call = ToolCall::of_wire(wire(text));
            assert_eq!(call.arguments, expected);
            if text != " " {
                assert_eq!(call.to_wire().function.arguments, text);
            }
        }
        let call = ToolCall::of_wire(wire(r#"{"a":1}"#));
        assert_eq!(call.arguments_as::<std::collections::BTreeMap<String, u8>>().unwrap()["a"], 1);
        let error = call.arguments_as::<Vec<u8>>().unwrap_err().to_string();
        assert!(error.starts_with("the arguments of a tool call cannot be read"), "{error}");
    }
}
