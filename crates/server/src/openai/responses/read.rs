//! From the fields of a request to a question: items become messages.

use std::collections::HashMap;

use hublabio_runtime::ai::{Content, Json, Message, Tool, ToolCall};
use serde_json::json;

use super::write::Echo;
use crate::chat::{AnswerFormat, ChatRequest, Input};
use crate::error::ApiError;
use crate::fields::{Fields, in_short, unknown_word, unsupported_word, wrong_type};
use crate::openai::request;
use crate::state::App;
use crate::thinking::Thinking;

/// Fields that change nothing here by their nature: who asks, where a hosted service would compute or bill it, caching, which
/// happens anyway, and how many tools the service itself may call, as it calls none.
const INERT: [&str; 8] = [
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "max_tool_calls",
    "cache_control",
];
/// What stands between texts that become one.
const BETWEEN: &str = "\n";
/// Pairs of `metadata`, and the longest name and value.
const METADATA_MAX: usize = 16;
const METADATA_KEY_MAX: usize = 64;
const METADATA_VALUE_MAX: usize = 512;

/// A question, and what its answer repeats.
pub struct Asked {
    pub request: ChatRequest,
    pub stream: bool,
    pub store: bool,
    pub thinking: Option<Thinking>,
    /// Items of this question, each with an id.
    pub input: Vec<Json>,
    pub echo: Echo,
    pub with_logprobs: bool,
}

/// Reads a request's fields, every one of them. `before` are the items of the conversation that it goes on from.
pub fn read(app: &App, before: &[Json], body: &Json) -> Result<Asked, ApiError> {
    let fields = Fields::of_body(body)?;
    let model = request::model(&fields)?;
    let input = input_items(app, &fields)?;
    let instructions = fields.text("instructions")?;
    let (format, format_echo) = text_format(&fields)?;
    let (thinking, effort) = reasoning(&fields)?;
    let with_logprobs = include(&fields)?;
    let top_logprobs = fields.count("top_logprobs")?;
    let swarm = request::hublab(&fields)?;
    let tools = tools(&fields)?;
    let tool_choice = request::tool_choice(&fields)?;
    let parallel_tool_calls = fields.flag("parallel_tool_calls")?;
    let max_tokens = request::max_tokens(&fields, &["max_output_tokens"])?;
    let mut reader = Reader::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        reader.messages.push(Message::new("system", instructions));
    }
    for item in before {
        reader.item(item, "previous_response_id")?;
    }
    for (at, item) in input.iter().enumerate() {
        reader.item(item, &format!("input[{at}]"))?;
    }
    let messages = reader.finish(app)?;
    let metadata = metadata(&fields)?;
    let sampling = request::sampling(&fields)?;
    let echo = Echo {
        instructions: instructions.map(str::to_owned),
        max_output_tokens: max_tokens,
        metadata,
        parallel_tool_calls: parallel_tool_calls.unwrap_or(true),
        previous_response_id: fields.text("previous_response_id")?.map(str::to_owned),
        effort,
        store: fields.flag("store")?.unwrap_or(true),
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_logprobs: top_logprobs.unwrap_or(0),
        format: format_echo,
        tool_choice: fields.get("tool_choice").cloned().unwrap_or_else(|| "auto".into()),
        tools: tools.iter().map(flat_tool).collect(),
    };
    let stream = stream(&fields)?;
    let request = ChatRequest {
        notes: request::strict_note(&tools, &tool_choice).into_iter().collect(),
        tools,
        tool_choice,
        parallel_tool_calls,
        format,
        sampling,
        max_tokens,
        stop: fields.texts("stop")?.unwrap_or_default(),
        logprobs: (with_logprobs || top_logprobs.is_some()).then(|| top_logprobs.unwrap_or(0)),
        swarm,
        ..ChatRequest::new(model, Input::Messages(messages))
    };
    only(&fields, "background", &json!(false), "an answer is made while its request waits")?;
    only(&fields, "truncation", &json!("disabled"), "a prompt that does not fit is refused, and never cut")?;
    fields.finish(&INERT)?;
    let store = echo.store;
    let with_logprobs = request.logprobs.is_some();
    Ok(Asked { request, stream, store, thinking, input, echo, with_logprobs })
}

/// Refuses a field unless it has the one value that is honoured.
fn only(fields: &Fields<'_>, name: &'static str, value: &Json, why: &str) -> Result<(), ApiError> {
    match fields.get(name) {
        Some(given) if given != value => {
            let message = format!("`{name}` can only be {value}: {why}");
            Err(ApiError::field(name, message).coded("unsupported_value"))
        }
        _ => Ok(()),
    }
}

fn stream(fields: &Fields<'_>) -> Result<bool, ApiError> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    if let Some(options) = fields.object("stream_options")? {
        // Padding against listeners on the line, which a local service has no use for.
        options.finish(&["include_obfuscation"])?;
    }
    Ok(stream)
}

/// What is asked, as items with ids; a text is one message.
fn input_items(app: &App, fields: &Fields<'_>) -> Result<Vec<Json>, ApiError> {
    let input = fields.required("input", fields.get("input"))?;
    let mut items = match input {
        Json::String(text) => vec![json!({ "type": "message", "role": "user", "content": text })],
        Json::Array(items) => items.clone(),
        other => return Err(wrong_type("input", "a string or a list of items", other)),
    };
    let limit = app.config().limits.messages;
    if items.len() > limit {
        let message = format!("`input` has {} items, at most {limit} are taken", items.len());
        return Err(ApiError::field("input", message).coded("invalid_value"));
    }
    for (at, item) in items.iter_mut().enumerate() {
        let Json::Object(members) = item else { return Err(wrong_type(&format!("input[{at}]"), "an object", item)) };
        if !members.contains_key("type") && members.contains_key("role") {
            members.insert("type".into(), "message".into());
        }
        if members.get("id").is_none_or(Json::is_null) {
            members.insert("id".into(), app.new_id("item_").into());
        }
        if members.get("type").is_some_and(|kind| kind == "message")
            && let Some(Json::String(text)) = members.get("content")
        {
            // As lists of items are given back in this form.
            let kind = if members.get("role") == Some(&json!("assistant")) { "output_text" } else { "input_text" };
            let part = json!([{ "type": kind, "text": text }]);
            members.insert("content".into(), part);
        }
    }
    Ok(items)
}

/// The tools, which are flat here.
fn tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let mut found = Vec::new();
    for (at, given) in fields.list("tools")?.unwrap_or_default().iter().enumerate() {
        let given = Fields::of(given, format!("tools[{at}]"))?;
        let kind = given.required("type", given.text("type")?)?;
        if kind != "function" {
            return Err(unsupported_word(given.path("type"), kind, "only functions are called here, define your own"));
        }
        found.push(request::flat_tool(&given, "parameters")?);
        given.finish(&["cache_control"])?;
    }
    Tool::list_from_json(&Json::Array(found)).map_err(|error| request::named_place(&error.to_string()))
}

fn flat_tool(tool: &Tool) -> Json {
    let function = &tool.as_json()["function"];
    json!({
        "type": "function",
        "name": tool.name(),
        "description": function.get("description"),
        "parameters": tool.parameters(),
        "strict": true,
    })
}

/// The form of the answer, and how the answer repeats it.
fn text_format(fields: &Fields<'_>) -> Result<(AnswerFormat, Json), ApiError> {
    let plain = || json!({ "type": "text" });
    let Some(text) = fields.object("text")? else { return Ok((AnswerFormat::Text, plain())) };
    request::no_verbosity(&text)?;
    let format = text.object("format")?;
    text.finish(&[])?;
    let Some(format) = format else { return Ok((AnswerFormat::Text, plain())) };
    let kind = format.required("type", format.text("type")?)?;
    let found = match kind {
        "text" => (AnswerFormat::Text, plain()),
        "json_object" => (AnswerFormat::JsonObject, json!({ "type": "json_object" })),
        "json_schema" => {
            let name = format.text("name")?.unwrap_or("answer");
            let description = format.text("description")?;
            // It is always enforced.
            format.flag("strict")?;
            let schema = format.required("schema", format.get("schema"))?;
            let echo = json!({
                "type": "json_schema", "name": name, "description": description, "schema": schema, "strict": true,
            });
            (AnswerFormat::JsonSchema(schema.clone()), echo)
        }
        other => return Err(unknown_word("text.format.type", other, "`text`, `json_object` or `json_schema`")),
    };
    format.finish(&[])?;
    Ok(found)
}

fn reasoning(fields: &Fields<'_>) -> Result<(Option<Thinking>, Option<String>), ApiError> {
    let Some(given) = fields.object("reasoning")? else { return Ok((None, None)) };
    let effort = given.text("effort")?;
    for name in ["summary", "generate_summary"] {
        if given.get(name).is_some() {
            let message = format!("`reasoning.{name}` is not supported: what a model thinks is given as it is");
            return Err(ApiError::field(format!("reasoning.{name}"), message).coded("unsupported_parameter"));
        }
    }
    given.finish(&[])?;
    Ok((effort.map(Thinking::of_effort), effort.map(str::to_owned)))
}

/// What else the answer should hold. Whether that is log probabilities.
fn include(fields: &Fields<'_>) -> Result<bool, ApiError> {
    const LOGPROBS: &str = "message.output_text.logprobs";
    let Some(list) = fields.list("include")? else { return Ok(false) };
    for given in list {
        let Some(name) = given.as_str() else { return Err(wrong_type("include", "a list of strings", given)) };
        if name != LOGPROBS {
            let message = format!("`include` asks for `{}`: only `{LOGPROBS}` is supported", in_short(name));
            return Err(ApiError::field("include", message).coded("unsupported_value"));
        }
    }
    Ok(!list.is_empty())
}

fn metadata(fields: &Fields<'_>) -> Result<Json, ApiError> {
    let bad = |message: String| Err(ApiError::field("metadata", message).coded("invalid_value"));
    match fields.get("metadata") {
        None => Ok(json!({})),
        Some(Json::Object(members)) if members.len() > METADATA_MAX => {
            bad(format!("`metadata` has {} pairs, at most {METADATA_MAX} are kept", members.len()))
        }
        Some(given @ Json::Object(members)) => {
            let fits = |(name, value): (&String, &Json)| {
                name.chars().count() <= METADATA_KEY_MAX
                    && value.as_str().is_some_and(|value| value.chars().count() <= METADATA_VALUE_MAX)
            };
            if members.iter().all(fits) {
                return Ok(given.clone());
            }
            bad(format!(
                "`metadata` must hold texts of at most {METADATA_VALUE_MAX} characters, under names of at most {METADATA_KEY_MAX}"
            ))
        }
        Some(other) => Err(wrong_type("metadata", "an object", other)),
    }
}

/// A conversation that is read.
#[derive(Default)]
struct Reader {
    messages: Vec<Message>,
    /// Which tool a call was for.
    tools: HashMap<String, String>,
    /// What was thought before the next thing that the assistant says.
    reasoning: Option<String>,
}

impl Reader {
    fn item(&mut self, item: &Json, place: &str) -> Result<(), ApiError> {
        let item = Fields::of(item, place)?;
        match item.required("type", item.text("type")?)? {
            "message" => self.message(&item, place),
            "function_call" => self.call(&item),
            "function_call_output" => self.output(&item, place),
            "reasoning" => self.reasoning(&item, place),
            kind => {
                let why = "such items are not supported, give `message`, `function_call`, `function_call_output` or `reasoning`";
                Err(unsupported_word(item.path("type"), kind, why))
            }
        }
    }

    fn message(&mut self, item: &Fields<'_>, place: &str) -> Result<(), ApiError> {
        let role = item.required("role", item.text("role")?)?;
        let role = match role {
            "user" | "assistant" | "system" => role,
            "developer" => "system",
            _ => return Err(unknown_word(item.path("role"), role, "`user`, `assistant`, `system` or `developer`")),
        };
        let content = item.required("content", item.get("content"))?;
        let text = texts(content, &format!("{place}.content"))?;
        // What an answer says of itself.
        item.finish(&["id", "status", "phase"])?;
        if role == "assistant" {
            self.assistant().content = Content::Text(text);
        } else {
            self.reasoning = None;
            self.messages.push(Message::new(role, text));
        }
        Ok(())
    }

    /// The message of the assistant that what follows belongs to: text begins a new one.
    fn assistant(&mut self) -> &mut Message {
        let reasoning = self.reasoning.take();
        self.messages.push(Message { role: "assistant".into(), reasoning, ..Message::default() });
        self.messages.last_mut().expect("it was just put in")
    }

    fn call(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        let id = item.required("call_id", item.text("call_id")?)?;
        let name = item.required("name", item.text("name")?)?;
        let text = item.required("arguments", item.text("arguments")?)?;
        let is_cut = item.text("status")? == Some("incomplete");
        item.finish(&["id"])?;
        if is_cut {
            // The limit of an earlier answer cut it: it was never made.
            return Ok(());
        }
        let arguments: Json = serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.to_owned()));
        self.tools.insert(id.to_owned(), name.to_owned());
        let call = ToolCall { id: Some(id.to_owned()), name: name.to_owned(), arguments };
        // Calls that follow each other, and what was said before them, are one turn.
        match self.messages.last_mut().filter(|last| last.role == "assistant") {
            Some(last) => last.tool_calls.push(call),
            None => self.assistant().tool_calls.push(call),
        }
        Ok(())
    }

    fn output(&mut self, item: &Fields<'_>, place: &str) -> Result<(), ApiError> {
        let id = item.required("call_id", item.text("call_id")?)?;
        let output = item.required("output", item.get("output"))?;
        let text = texts(output, &format!("{place}.output"))?;
        item.finish(&["id", "status"])?;
        let Some(name) = self.tools.get(id).cloned() else {
            let path = item.path("call_id");
            let message = format!("`{path}` is `{}`, and no `function_call` before it has that id", in_short(id));
            return Err(ApiError::field(path, message).coded("invalid_value"));
        };
        self.messages.push(Message::tool_result(Some(id.to_owned()), Some(name), text));
        Ok(())
    }

    fn reasoning(&mut self, item: &Fields<'_>, place: &str) -> Result<(), ApiError> {
        if item.get("encrypted_content").is_some() {
            let message =
                format!("`{}` cannot be read here: send the text of the reasoning", item.path("encrypted_content"));
            return Err(ApiError::field(item.path("encrypted_content"), message).coded("unsupported_parameter"));
        }
        let content = item.get("content").map(|content| texts(content, &format!("{place}.content"))).transpose()?;
        let summary = item.get("summary").map(|summary| texts(summary, &format!("{place}.summary"))).transpose()?;
        item.finish(&["id", "status"])?;
        self.reasoning = content.filter(|text| !text.is_empty()).or(summary.filter(|text| !text.is_empty()));
        Ok(())
    }

    fn finish(self, app: &App) -> Result<Vec<Message>, ApiError> {
        let limit = app.config().limits.messages;
        if self.messages.len() > limit {
            let message = format!("the conversation has {} messages, at most {limit} are taken", self.messages.len());
            return Err(ApiError::field("input", message).coded("invalid_value"));
        }
        match self.messages.last().map(|last| last.role.as_str()) {
            None => {
                Err(ApiError::field("input", "`input` is empty: there is nothing to answer").coded("invalid_value"))
            }
            Some("assistant") => {
                let message = "the last item is the assistant's: an answer cannot be begun for the model";
                Err(ApiError::field("input", message).coded("unsupported_value"))
            }
            Some(_) => Ok(self.messages),
        }
    }
}

/// A text, or parts of text; several become one.
fn texts(value: &Json, place: &str) -> Result<String, ApiError> {
    let parts = match value {
        Json::String(text) => return Ok(text.clone()),
        Json::Array(parts) => parts,
        other => return Err(wrong_type(place, "a string or a list of parts", other)),
    };
    let mut found = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let part = Fields::of(part, format!("{place}[{at}]"))?;
        let kind = part.required("type", part.text("type")?)?;
        if !["input_text", "output_text", "text", "reasoning_text", "summary_text"].contains(&kind) {
            let why = "images, sound and files are not read here, send text";
            return Err(unsupported_word(part.path("type"), kind, why));
        }
        found.push(part.required("text", part.text("text")?)?);
        part.finish(&["annotations", "logprobs", "cache_control"])?;
    }
    Ok(found.join(BETWEEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let mut reader = Reader::default();
        for item in [
            json!({ "type": "message", "role": "developer", "content": "s" }),
            json!({ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "a" }] }),
            json!({ "type": "reasoning", "id": "rs", "summary": [], "content": [{ "type": "reasoning_text", "text": "hm" }] }),
            json!({ "type": "message", "role": "assistant", "id": "m", "status": "completed",
                "content": [{ "type": "output_text", "text": "b", "annotations": [], "logprobs": [] }] }),
            json!({ "type": "function_call", "call_id": "b", "name": "f", "arguments": "{\"x", "status": "incomplete" }),
            json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"x\":1}", "status": "completed" }),
            json!({ "type": "function_call_output", "call_id": "c", "output": "1" }),
        ] {
            reader.item(&item, "input[0]").unwrap();
        }
        let found: Json = reader.messages.iter().map(Message::to_json).collect();
        let expected = json!([
            { "role": "system", "content": "s" },
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "b", "reasoning_content": "hm", "tool_calls": [
                { "id": "c", "type": "function", "function": { "name": "f", "arguments": { "x": 1 } } },
            ] },
            { "role": "tool", "content": "1", "tool_call_id": "c", "name": "f" },
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_place() {
        for (item, param) in [
            (json!({ "type": "web_search_call" }), "i.type"),
            (json!({ "type": "message", "role": "user", "content": [{ "type": "input_image" }] }), "i.content[0].type"),
            (json!({ "type": "function_call_output", "call_id": "x", "output": "1" }), "i.call_id"),
            (json!({ "type": "message", "role": "critic", "content": "a" }), "i.role"),
            (json!({ "type": "message", "role": "user", "content": "a", "mood": 1 }), "i.mood"),
            (json!({ "type": "reasoning", "encrypted_content": "x" }), "i.encrypted_content"),
        ] {
            assert_eq!(Reader::default().item(&item, "i").unwrap_err().param.as_deref(), Some(param), "{item}");
        }
    }
}
