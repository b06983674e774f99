//! Conversations as data: messages, tool calls and tool definitions, in the form that OpenAI's interface made common.
//!
//! Reading is strict: a field that this version would ignore is refused by name, because a prompt that silently lacks
//! something looks like a worse model.

use serde_json::{Map, Value as Json, json};

use crate::Error;

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the model's template knows.
    pub role: String,
    /// What is said.
    pub content: Content,
    /// What the assistant thought before it spoke. Templates see it as `reasoning_content` (and `thinking`).
    pub reasoning: Option<String>,
    /// Tools that the assistant wants to be called.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a message of the role `tool` answers.
    pub tool_call_id: Option<String>,
    /// Name of the speaker, or of the tool that answers.
    pub name: Option<String>,
}

/// What a message says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Content {
    /// Nothing, which is not the empty text: templates see no `content` at all. For messages that only call tools.
    #[default]
    Absent,
    /// A text.
    Text(String),
    /// Several texts: templates see a list of `{"type": "text", "text": …}`.
    Parts(Vec<String>),
}

impl Content {
    /// All of the text, parts one after the other.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Absent => "".into(),
            Self::Text(text) => text.into(),
            Self::Parts(parts) => parts.concat().into(),
        }
    }
}

impl<T: Into<String>> From<T> for Content {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// A call of a tool, as the assistant asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Name of this call, to which the tool's answer refers. Most models give none.
    pub id: Option<String>,
    /// Which tool.
    pub name: String,
    /// Its arguments: a JSON object, unless the model wrote something else.
    pub arguments: Json,
}

impl ToolCall {
    /// `{"id": …, "type": "function", "function": {"name": …, "arguments": …}}`, the arguments as JSON, not as text.
    pub fn to_json(&self) -> Json {
        let mut call = Map::new();
        if let Some(id) = &self.id {
            call.insert("id".into(), id.as_str().into());
        }
        call.insert("type".into(), "function".into());
        call.insert("function".into(), json!({ "name": self.name, "arguments": self.arguments }));
        Json::Object(call)
    }

    fn from_json(call: &Json, place: &str) -> Result<Self, Error> {
        let call = object(call, place)?;
        let function_place = format!("{place}.function");
        let function = if let Some(function) = call.get("function") {
            known_fields(call, &["id", "type", "function", "index"], place)?;
            let function = object(function, &function_place)?;
            known_fields(function, &["name", "arguments"], &function_place)?;
            function
        } else {
            known_fields(call, &["id", "type", "name", "arguments"], place)?;
            call
        };
        // OpenAI's interface carries arguments as the text of a JSON object.
        let arguments = match function.get("arguments") {
            None | Some(Json::Null) => Json::Object(Map::new()),
            Some(Json::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.clone())),
            Some(arguments) => arguments.clone(),
        };
        let name = string(function, "name", place)?.ok_or_else(|| bad(place, "it has no `name`"))?;
        Ok(Self { id: string(call, "id", place)?, name, arguments })
    }
}

impl Message {
    /// A message that is a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(content.into()), ..Self::default() }
    }

    /// What a tool answered to the call `tool_call_id`.
    pub fn tool_result(tool_call_id: Option<String>, name: Option<String>, content: impl Into<String>) -> Self {
        Self { tool_call_id, name, ..Self::new("tool", content) }
    }

    /// Reads a list of messages in the form of OpenAI's chat completions; `reasoning_content`, `reasoning` and
    /// `thinking` are one field.
    ///
    /// # Errors
    /// [`Error::Message`] with the place in the list: no list, a field of a wrong type or of an unknown name, content
    /// that is no text.
    pub fn list_from_json(list: &Json) -> Result<Vec<Self>, Error> {
        let list = list.as_array().ok_or_else(|| bad("messages", "it is no list"))?;
        list.iter().enumerate().map(|(at, message)| Self::from_json(message, &format!("messages[{at}]"))).collect()
    }

    fn from_json(message: &Json, place: &str) -> Result<Self, Error> {
        const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
        let fields = object(message, place)?;
        let known = ["role", "content", "tool_calls", "tool_call_id", "name", REASONING[0], REASONING[1], REASONING[2]];
        known_fields(fields, &known, place)?;
        let mut reasoning = None;
        for name in REASONING {
            reasoning = reasoning.or(string(fields, name, place)?);
        }
        let calls = match fields.get("tool_calls") {
            None | Some(Json::Null) => &[][..],
            Some(Json::Array(calls)) => calls,
            Some(_) => return Err(bad(place, "its `tool_calls` are no list")),
        };
        let call = |(at, call)| ToolCall::from_json(call, &format!("{place}.tool_calls[{at}]"));
        Ok(Self {
            role: string(fields, "role", place)?.ok_or_else(|| bad(place, "it has no `role`"))?,
            content: content(fields.get("content"), place)?,
            reasoning,
            tool_calls: calls.iter().enumerate().map(call).collect::<Result<_, _>>()?,
            tool_call_id: string(fields, "tool_call_id", place)?,
            name: string(fields, "name", place)?,
        })
    }

    /// The message in the form that [`Message::list_from_json`] reads, without the fields that are not set. This is
    /// also what templates see.
    pub fn to_json(&self) -> Json {
        let mut fields = Map::new();
        fields.insert("role".into(), self.role.as_str().into());
        match &self.content {
            Content::Absent => {}
            Content::Text(text) => {
                fields.insert("content".into(), text.as_str().into());
            }
            Content::Parts(parts) => {
                let parts = parts.iter().map(|text| json!({ "type": "text", "text": text })).collect();
                fields.insert("content".into(), Json::Array(parts));
            }
        }
        if let Some(reasoning) = &self.reasoning {
            fields.insert("reasoning_content".into(), reasoning.as_str().into());
        }
        if !self.tool_calls.is_empty() {
            fields.insert("tool_calls".into(), self.tool_calls.iter().map(ToolCall::to_json).collect());
        }
        for (name, value) in [("tool_call_id", &self.tool_call_id), ("name", &self.name)] {
            if let Some(value) = value {
                fields.insert(name.into(), value.as_str().into());
            }
        }
        Json::Object(fields)
    }
}

/// The definition of a tool: `{"type": "function", "function": {"name": …, "description": …, "parameters": …}}`, the
/// parameters being a JSON schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool(Json);

impl Tool {
    /// Reads a list of definitions. A definition without the outer object gets it.
    ///
    /// # Errors
    /// [`Error::Message`] with the place in the list: no list, no function, no name, parameters that are no object.
    pub fn list_from_json(list: &Json) -> Result<Vec<Self>, Error> {
        let list = list.as_array().ok_or_else(|| bad("tools", "it is no list"))?;
        list.iter().enumerate().map(|(at, tool)| Self::from_json(tool, &format!("tools[{at}]"))).collect()
    }

    fn from_json(tool: &Json, place: &str) -> Result<Self, Error> {
        let fields = object(tool, place)?;
        let (function, wrapped) = match fields.get("function") {
            Some(function) => {
                if fields.get("type").is_some_and(|ty| ty != "function") {
                    return Err(bad(place, "its `type` is not `function`: no other tools are supported"));
                }
                (object(function, place)?, tool.clone())
            }
            None => (fields, json!({ "type": "function", "function": tool })),
        };
        if string(function, "name", place)?.is_none_or(|name| name.is_empty()) {
            return Err(bad(place, "it has no `name`"));
        }
        if function.get("parameters").is_some_and(|parameters| !parameters.is_object()) {
            return Err(bad(place, "its `parameters` are no JSON object (a JSON schema)"));
        }
        Ok(Self(wrapped))
    }

    /// What a model calls it.
    pub fn name(&self) -> &str {
        self.0["function"]["name"].as_str().unwrap_or_default()
    }

    /// The JSON schema of its arguments, where there is one.
    pub fn parameters(&self) -> Option<&Json> {
        self.0["function"].get("parameters")
    }

    /// All of the definition.
    pub fn as_json(&self) -> &Json {
        &self.0
    }
}

fn content(content: Option<&Json>, place: &str) -> Result<Content, Error> {
    Ok(match content {
        None | Some(Json::Null) => Content::Absent,
        Some(Json::String(text)) => Content::Text(text.clone()),
        Some(Json::Array(parts)) => {
            let part = |(at, part): (usize, &Json)| {
                let place = format!("{place}.content[{at}]");
                let fields = object(part, &place)?;
                if fields.get("type").is_some_and(|ty| ty != "text") {
                    return Err(bad(&place, "it is no text: images, sound and files are not supported"));
                }
                known_fields(fields, &["type", "text"], &place)?;
                string(fields, "text", &place)?.ok_or_else(|| bad(&place, "it has no `text`"))
            };
            Content::Parts(parts.iter().enumerate().map(part).collect::<Result<_, _>>()?)
        }
        Some(_) => return Err(bad(place, "its `content` is neither a text nor a list of texts")),
    })
}

fn bad(place: &str, problem: impl Into<String>) -> Error {
    Error::Message { place: place.to_owned(), problem: problem.into() }
}

fn object<'j>(value: &'j Json, place: &str) -> Result<&'j Map<String, Json>, Error> {
    value.as_object().ok_or_else(|| bad(place, "it is no JSON object"))
}

fn string(fields: &Map<String, Json>, name: &str, place: &str) -> Result<Option<String>, Error> {
    match fields.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(bad(place, format!("its `{name}` is no text"))),
    }
}

fn known_fields(fields: &Map<String, Json>, known: &[&str], place: &str) -> Result<(), Error> {
    match fields.iter().find(|(name, value)| !known.contains(&name.as_str()) && !value.is_null()) {
        Some((name, _)) => Err(bad(place, format!("it has a field `{name}`, which would be ignored: take it out"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way_to_json_and_back() {
        let list = json!([
            { "role": "system", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "assistant", "reasoning_content": "hm", "tool_calls": [
                { "id": "x1", "type": "function", "function": { "name": "f", "arguments": { "z": 1, "a": [true, null] } } }
            ]},
            { "role": "tool", "content": "", "tool_call_id": "x1", "name": "f" },
        ]);
        let messages = Message::list_from_json(&list).unwrap();
        assert_eq!(messages[0].content.text(), "ab");
        assert_eq!(messages[1].content, Content::Absent);
        let back: Json = messages.iter().map(Message::to_json).collect();
        assert_eq!(back.to_string(), list.to_string());
    }

    #[test]
    fn arguments_may_be_text_and_reasoning_has_several_names() {
        let list = json!([{ "role": "assistant", "content": null, "thinking": "t", "tool_calls": [
            { "id": "1", "function": { "name": "f", "arguments": "{\"a\": 1}" } },
            { "name": "g", "arguments": "no json" },
        ]}]);
        let message = &Message::list_from_json(&list).unwrap()[0];
        assert_eq!(message.reasoning.as_deref(), Some("t"));
        assert_eq!(message.tool_calls[0].arguments, json!({ "a": 1 }));
        assert_eq!(message.tool_calls[1].arguments, json!("no json"));
    }

    #[test]
    fn what_would_be_ignored_is_refused_by_name() {
        for (list, expected) in [
            (json!({}), "messages: it is no list"),
            (json!([1]), "messages[0]: it is no JSON object"),
            (json!([{ "content": "x" }]), "messages[0]: it has no `role`"),
            (json!([{ "role": 1 }]), "`role` is no text"),
            (json!([{ "role": "user", "audio": "x" }]), "a field `audio`"),
            (json!([{ "role": "user", "content": 5 }]), "neither a text nor a list"),
            (
                json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": "x" }] }]),
                "content[0]: it is no text",
            ),
            (json!([{ "role": "assistant", "tool_calls": {} }]), "`tool_calls` are no list"),
            (json!([{ "role": "assistant", "tool_calls": [{ "function": {} }] }]), "tool_calls[0]: it has no `name`"),
        ] {
            let error = Message::list_from_json(&list).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (list, expected) in [
            (json!("x"), "tools: it is no list"),
            (json!([{ "type": "web_search", "function": { "name": "f" } }]), "`type` is not `function`"),
            (json!([{ "type": "function", "function": { "description": "x" } }]), "tools[0]: it has no `name`"),
            (json!([{ "name": "f", "parameters": [] }]), "`parameters` are no JSON object"),
        ] {
            let error = Tool::list_from_json(&list).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let bare = Tool::list_from_json(&json!([{ "name": "f", "parameters": { "type": "object" } }])).unwrap();
        assert_eq!(bare[0].as_json()["type"], "function");
        assert_eq!(bare[0].name(), "f");
    }
}
