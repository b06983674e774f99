//! From the fields of a request to a question.

use std::collections::HashMap;

use hublabio_runtime::ai::{Content, Json, Message, Tool, ToolCall};

use crate::chat::{AnswerFormat, ChatRequest, Input, SamplingChanges, ToolChoice};
use crate::error::ApiError;
use crate::fields::{Fields, in_short, unknown_word, unsupported_word, wrong_type};
use crate::openai::request;
use crate::state::App;
use crate::thinking::Thinking;

/// Fields that change nothing here by their nature: who asks, where a hosted service would compute or bill it, and caching, which
/// happens anyway.
const INERT: [&str; 4] = ["metadata", "service_tier", "cache_control", "inference_geo"];
/// The same, of tools.
const TOOL_INERT: [&str; 2] = ["cache_control", "eager_input_streaming"];
/// What stands between texts that become one.
const BETWEEN: &str = "\n";

/// A question, whether the answer comes in pieces, and what is said about thinking.
pub struct Asked {
    pub request: ChatRequest,
    pub stream: bool,
    pub thinking: Option<Thinking>,
}

/// Reads a request's fields, every one of them. Where tokens are only counted there is no `max_tokens`.
pub fn read(app: &App, body: &Json, counts_only: bool) -> Result<Asked, ApiError> {
    let fields = Fields::of_body(body)?;
    let model = fields.required("model", fields.text("model")?)?.to_owned();
    let (tool_choice, parallel_tool_calls) = tool_choice(&fields)?;
    let max_tokens = match fields.count("max_tokens")? {
        Some(0) => return Err(ApiError::field("max_tokens", "`max_tokens` is 0: an answer has at least one token")),
        None if !counts_only => return fields.required("max_tokens", None),
        given => given,
    };
    let thinking = thinking(&fields)?;
    let swarm = request::hublab(&fields)?;
    let request = ChatRequest {
        tools: tools(&fields)?,
        tool_choice,
        parallel_tool_calls,
        format: answer_format(&fields)?,
        sampling: SamplingChanges {
            temperature: fields.number("temperature")?,
            top_p: fields.number("top_p")?,
            top_k: fields.count("top_k")?,
            ..SamplingChanges::default()
        },
        max_tokens,
        stop: match fields.list("stop_sequences")? {
            Some(_) => fields.texts("stop_sequences")?.unwrap_or_default(),
            None => Vec::new(),
        },
        swarm,
        ..ChatRequest::new(Some(model), Input::Messages(messages(app, &fields)?))
    };
    let stream = fields.flag("stream")?.unwrap_or(false);
    fields.finish(&INERT)?;
    Ok(Asked { request, stream, thinking })
}

fn thinking(fields: &Fields<'_>) -> Result<Option<Thinking>, ApiError> {
    let Some(given) = fields.object("thinking")? else { return Ok(None) };
    let kind = given.required("type", given.text("type")?)?;
    let thinking = match kind {
        "disabled" => Some(Thinking::Off),
        "adaptive" => None,
        "enabled" => {
            // A target, and no limit, in Anthropic's words, too; the limit is `max_tokens`.
            given.required("budget_tokens", given.count("budget_tokens")?)?;
            Some(Thinking::On)
        }
        _ => return Err(unknown_word("thinking.type", kind, "`enabled`, `disabled` or `adaptive`")),
    };
    given.finish(&[])?;
    Ok(thinking)
}

fn tool_choice(fields: &Fields<'_>) -> Result<(ToolChoice, Option<bool>), ApiError> {
    let Some(given) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, None)) };
    let kind = given.required("type", given.text("type")?)?;
    let choice = match kind {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(given.required("name", given.text("name")?)?.to_owned()),
        _ => return Err(unknown_word("tool_choice.type", kind, "`auto`, `any`, `tool` or `none`")),
    };
    let parallel = match choice {
        ToolChoice::None => None,
        _ => given.flag("disable_parallel_tool_use")?.map(|disable| !disable),
    };
    given.finish(&[])?;
    Ok((choice, parallel))
}

fn tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    const SCHEMA: &str = "input_schema";
    let mut tools = Vec::new();
    for (at, given) in fields.list("tools")?.unwrap_or_default().iter().enumerate() {
        let given = Fields::of(given, format!("tools[{at}]"))?;
        if let Some(kind) = given.text("type")?.filter(|&kind| kind != "custom") {
            let why = "tools that a hosted service runs are not here, define your own";
            return Err(unsupported_word(given.path("type"), kind, why));
        }
        tools.push(request::flat_tool(&given, SCHEMA)?);
        given.required(SCHEMA, given.get(SCHEMA))?;
        given.finish(&TOOL_INERT)?;
    }
    Tool::list_from_json(&Json::Array(tools)).map_err(|error| ApiError::field("tools", error.to_string()))
}

fn answer_format(fields: &Fields<'_>) -> Result<AnswerFormat, ApiError> {
    let Some(config) = fields.object("output_config")? else { return Ok(AnswerFormat::Text) };
    let mut found = AnswerFormat::Text;
    if let Some(format) = config.object("format")? {
        let kind = format.required("type", format.text("type")?)?;
        if kind != "json_schema" {
            return Err(unknown_word("output_config.format.type", kind, "`json_schema`"));
        }
        found = AnswerFormat::JsonSchema(format.required("schema", format.get("schema"))?.clone());
        format.finish(&[])?;
    }
    config.finish(&[])?;
    Ok(found)
}

fn messages(app: &App, fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let list = fields.list_within("messages", app.config().limits.messages)?;
    let list = fields.required("messages", list)?;
    let mut reader = Reader::default();
    if let Some(system) = fields.get("system") {
        let text = texts(system, "system")?;
        if !text.is_empty() {
            reader.messages.push(Message::new("system", text));
        }
    }
    for (at, given) in list.iter().enumerate() {
        let place = format!("messages[{at}]");
        let given = Fields::of(given, place.clone())?;
        let role = given.required("role", given.text("role")?)?;
        let content = given.required("content", given.get("content"))?;
        given.finish(&[])?;
        match role {
            "user" => reader.user(content, &place)?,
            "assistant" => reader.assistant(content, &place)?,
            _ => return Err(unknown_word(format!("{place}.role"), role, "`user` or `assistant`")),
        }
    }
    match reader.messages.last().map(|last| last.role.as_str()) {
        None | Some("system") => Err(ApiError::field("messages", "`messages` is empty: there is nothing to answer")),
        Some("assistant") => {
            let message =
                "the last message is the assistant's: an answer cannot be begun for the model, so end with `user`";
            Err(ApiError::field("messages", message).coded("unsupported_value"))
        }
        Some(_) => Ok(reader.messages),
    }
}

/// Blocks of the type `text`, or a text; several become one.
fn texts(value: &Json, place: &str) -> Result<String, ApiError> {
    let blocks = match value {
        Json::String(text) => return Ok(text.clone()),
        Json::Array(blocks) => blocks,
        other => return Err(wrong_type(place, "a string or a list of blocks", other)),
    };
    let mut found = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.iter().enumerate() {
        let block = Fields::of(block, format!("{place}[{at}]"))?;
        let kind = block.required("type", block.text("type")?)?;
        if kind != "text" {
            return Err(not_here(&block, kind));
        }
        found.push(text_of(&block)?);
    }
    Ok(found.join(BETWEEN))
}

fn text_of<'j>(block: &Fields<'j>) -> Result<&'j str, ApiError> {
    let text = block.required("text", block.text("text")?)?;
    // Where a text came from is not told to a model.
    block.finish(&["cache_control", "citations"])?;
    Ok(text)
}

fn not_here(block: &Fields<'_>, kind: &str) -> ApiError {
    let why = match kind {
        "image" | "document" | "search_result" | "container_upload" => {
            "images and documents are not read here, send their text"
        }
        _ => "such blocks are not supported here",
    };
    unsupported_word(block.path("type"), kind, why)
}

/// A conversation that is read.
#[derive(Default)]
struct Reader {
    messages: Vec<Message>,
    /// Which tool a call was for.
    tools: HashMap<String, String>,
}

impl Reader {
    /// Turns of one speaker become one, as many templates insist on it.
    fn say(&mut self, role: &str, text: &str) {
        match self.messages.last_mut().filter(|last| last.role == role) {
            Some(last) => {
                let before = last.content.text().into_owned();
                let between = if before.is_empty() { "" } else { BETWEEN };
                last.content = format!("{before}{between}{text}").into();
            }
            None => self.messages.push(Message::new(role, text)),
        }
    }

    fn user(&mut self, content: &Json, place: &str) -> Result<(), ApiError> {
        let blocks = match content {
            Json::String(text) => {
                self.say("user", text);
                return Ok(());
            }
            Json::Array(blocks) => blocks,
            other => return Err(wrong_type(&format!("{place}.content"), "a string or a list of blocks", other)),
        };
        for (at, block) in blocks.iter().enumerate() {
            let place = format!("{place}.content[{at}]");
            let block = Fields::of(block, place.clone())?;
            match block.required("type", block.text("type")?)? {
                "text" => self.say("user", text_of(&block)?),
                "tool_result" => self.tool_result(&block, &place)?,
                kind => return Err(not_here(&block, kind)),
            }
        }
        Ok(())
    }

    fn tool_result(&mut self, block: &Fields<'_>, place: &str) -> Result<(), ApiError> {
        let id = block.required("tool_use_id", block.text("tool_use_id")?)?;
        let content = match block.get("content") {
            Some(content) => texts(content, &format!("{place}.content"))?,
            None => String::new(),
        };
        let failed = block.flag("is_error")?.unwrap_or(false);
        block.finish(&["cache_control"])?;
        let Some(name) = self.tools.get(id).cloned() else {
            let path = format!("{place}.tool_use_id");
            let message = format!("`{path}` is `{}`, and no `tool_use` before it has that id", in_short(id));
            return Err(ApiError::field(path, message).coded("invalid_value"));
        };
        // Templates know no failed results; the model reads it in words.
        let content = if failed { format!("Error: {content}") } else { content };
        self.messages.push(Message::tool_result(Some(id.to_owned()), Some(name), content));
        Ok(())
    }

    fn assistant(&mut self, content: &Json, place: &str) -> Result<(), ApiError> {
        if self.messages.last().is_none_or(|last| last.role != "assistant") {
            self.messages.push(Message { role: "assistant".into(), ..Message::default() });
        }
        let blocks = match content {
            Json::String(text) => {
                self.say("assistant", text);
                return Ok(());
            }
            Json::Array(blocks) => blocks,
            other => return Err(wrong_type(&format!("{place}.content"), "a string or a list of blocks", other)),
        };
        for (at, block) in blocks.iter().enumerate() {
            let block = Fields::of(block, format!("{place}.content[{at}]"))?;
            match block.required("type", block.text("type")?)? {
                "text" => self.say("assistant", text_of(&block)?),
                "thinking" => {
                    let text = block.required("thinking", block.text("thinking")?)?;
                    // It would prove that a hosted model wrote this.
                    block.finish(&["signature", "cache_control"])?;
                    let last = self.messages.last_mut().expect("it was just put in");
                    last.reasoning.get_or_insert_default().push_str(text);
                }
                "tool_use" => self.tool_use(&block)?,
                kind => return Err(not_here(&block, kind)),
            }
        }
        let last = self.messages.last_mut().expect("it was just put in");
        if last.tool_calls.is_empty() && last.content == Content::Absent {
            last.content = Content::Text(String::new());
        }
        Ok(())
    }

    fn tool_use(&mut self, block: &Fields<'_>) -> Result<(), ApiError> {
        let id = block.required("id", block.text("id")?)?;
        let name = block.required("name", block.text("name")?)?;
        let input = block.required("input", block.get("input"))?;
        if !input.is_object() {
            return Err(wrong_type(&block.path("input"), "an object", input));
        }
        block.finish(&["cache_control", "caller"])?;
        self.tools.insert(id.to_owned(), name.to_owned());
        let last = self.messages.last_mut().expect("it was just put in");
        last.tool_calls.push(ToolCall { id: Some(id.to_owned()), name: name.to_owned(), arguments: input.clone() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_turns(turns: &[(&str, Json)]) -> Result<Json, ApiError> {
        let mut reader = Reader::default();
        for (role, content) in turns {
            if *role == "user" { reader.user(content, "m")? } else { reader.assistant(content, "m")? }
        }
        Ok(reader.messages.iter().map(Message::to_json).collect())
    }

    #[test]
    fn blocks_become_messages() {
        let found = read_turns(&[
            ("user", json!("a")),
            ("user", json!([{ "type": "text", "text": "b", "cache_control": { "type": "ephemeral" } }])),
            (
                "assistant",
                json!([
                    { "type": "thinking", "thinking": "hm", "signature": "" },
                    { "type": "text", "text": "c" },
                    { "type": "tool_use", "id": "t1", "name": "f", "input": { "x": 1 } },
                ]),
            ),
            (
                "user",
                json!([
                    { "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "no" }], "is_error": true },
                    { "type": "text", "text": "d" },
                ]),
            ),
        ]);
        let expected = json!([
            { "role": "user", "content": "a\nb" },
            { "role": "assistant", "content": "c", "reasoning_content": "hm", "tool_calls": [
                { "id": "t1", "type": "function", "function": { "name": "f", "arguments": { "x": 1 } } },
            ] },
            { "role": "tool", "content": "Error: no", "tool_call_id": "t1", "name": "f" },
            { "role": "user", "content": "d" },
        ]);
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_place() {
        for (role, block, said) in [
            ("user", json!({ "type": "image", "source": {} }), "images and documents"),
            ("user", json!({ "type": "tool_result", "tool_use_id": "x" }), "no `tool_use` before it"),
            ("user", json!({ "type": "text", "text": "a", "lang": "de" }), "`m.content[0].lang` is not supported"),
            ("user", json!({ "type": "text" }), "`m.content[0].text` is missing"),
            ("assistant", json!({ "type": "redacted_thinking", "data": "x" }), "redacted_thinking"),
            ("assistant", json!({ "type": "tool_use", "id": "1", "name": "f", "input": "x" }), "must be an object"),
        ] {
            let error = read_turns(&[(role, json!([block]))]).unwrap_err();
            assert!(error.message.contains(said), "{error}");
            assert!(error.param.unwrap().starts_with("m.content[0]"));
        }
    }
}
