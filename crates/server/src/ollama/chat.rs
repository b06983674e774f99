//! `/api/chat`.

use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use hublabio_runtime::ai::{Content, Json, Message, ToolCall};
use hublabio_sdk::wire::ollama::{ChatRequest as AskedFor, ChatResponse};

use super::answer::{self, Asked, Kind, Question};
use super::request::{self, Manner};
use crate::chat::Input;
use crate::error::ApiError;
use crate::fields::{Fields, unknown_word, wrong_type};
use crate::limits::JsonBody;
use crate::openai;
use crate::state::App;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/api/chat",
    tag = "ollama",
    request_body = AskedFor,
    responses((status = 200, description = "The answer, in lines unless `stream` is false", content(
        (ChatResponse = "application/x-ndjson"),
        (ChatResponse = "application/json"),
    )))
)]
pub async fn chat(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let fields = Fields::of_body(&body)?;
    let manner = Manner::read(&fields)?;
    let messages = messages(&app, &fields)?;
    let tools = openai::request::tools(&fields)?;
    // Without the name a request's options could not be judged; with a wrong one they need not be.
    let meant = request::find(&app, manner.model).await?;
    let options = request::options(&fields, meant.context)?;
    fields.finish(&[])?;
    let question = (!messages.is_empty()).then_some(Question { input: Input::Messages(messages), tools });
    answer::answer(&app, Asked { kind: Kind::Chat, begun, meant, manner, options, question }).await
}

fn messages(app: &App, fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let list = fields.list_within("messages", app.config().limits.messages)?.unwrap_or_default();
    let mut reader = Reader::default();
    for (at, given) in list.iter().enumerate() {
        reader.read(given, &format!("messages[{at}]"))?;
    }
    if reader.messages.last().is_some_and(|last| last.role == "assistant") {
        let message =
            "the last message is the assistant's: an answer cannot be begun for the model, so end with `user`";
        return Err(ApiError::field("messages", message).coded("unsupported_value"));
    }
    Ok(reader.messages)
}

/// A conversation that is read.
#[derive(Default)]
struct Reader {
    messages: Vec<Message>,
    /// Calls that are not answered: their ids and tools.
    open: Vec<(String, String)>,
    calls: usize,
}

impl Reader {
    fn read(&mut self, given: &Json, place: &str) -> Result<(), ApiError> {
        const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
        let given = Fields::of(given, place)?;
        let role = given.required("role", given.text("role")?)?;
        if !ROLES.contains(&role) {
            return Err(unknown_word(given.path("role"), role, &format!("one of {}", ROLES.join(", "))));
        }
        let content = given.text("content")?;
        let thinking = given.text("thinking")?.filter(|text| !text.is_empty());
        request::says_nothing(&given, "images", "is not supported: images are not read here")?;
        let calls = given.list("tool_calls")?.unwrap_or_default();
        let tool_name = given.text("tool_name")?.or(given.text("name")?);
        let id = given.text("tool_call_id")?.filter(|id| !id.is_empty());
        given.finish(&[])?;
        let mut message =
            Message { role: role.to_owned(), reasoning: thinking.map(str::to_owned), ..Message::default() };
        for (at, call) in calls.iter().enumerate() {
            message.tool_calls.push(self.call(call, format!("{place}.tool_calls[{at}]"))?);
        }
        if content.is_some_and(|content| !content.is_empty()) || message.tool_calls.is_empty() {
            message.content = Content::Text(content.unwrap_or_default().to_owned());
        }
        if role == "tool" {
            // Ollama's clients say which tool answers; templates may want to know which call.
            let answered = self.open.iter().position(|(call, tool)| match id {
                Some(id) => call == id,
                None => tool_name.is_none_or(|name| name == tool),
            });
            let answered = answered.map(|at| self.open.remove(at));
            message.name = tool_name.map(str::to_owned).or(answered.as_ref().map(|(_, tool)| tool.clone()));
            message.tool_call_id = id.map(str::to_owned).or(answered.map(|(call, _)| call));
        } else {
            message.name = tool_name.map(str::to_owned);
        }
        self.messages.push(message);
        Ok(())
    }

    fn call(&mut self, call: &Json, place: String) -> Result<ToolCall, ApiError> {
        let call = Fields::of(call, place)?;
        let id = call.text("id")?.filter(|id| !id.is_empty()).map(str::to_owned);
        let function = call.required("function", call.object("function")?)?;
        let name = function.required("name", function.text("name")?)?.to_owned();
        let arguments = match function.get("arguments") {
            None => serde_json::json!({}),
            Some(arguments @ Json::Object(_)) => arguments.clone(),
            Some(other) => return Err(wrong_type(&function.path("arguments"), "an object", other)),
        };
        function.finish(&["index"])?;
        call.finish(&["type"])?;
        // The same conversation gives the same prompt, so the ids are counted. Nine characters, as Mistral's templates insist.
        let id = id.unwrap_or_else(|| format!("call{:05}", self.calls));
        self.calls += 1;
        self.open.push((id.clone(), name.clone()));
        Ok(ToolCall { id: Some(id), name, arguments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(list: &Json) -> Result<Json, ApiError> {
        let mut reader = Reader::default();
        for message in list.as_array().unwrap() {
            reader.read(message, "m")?;
        }
        Ok(reader.messages.iter().map(Message::to_json).collect())
    }

    #[test]
    fn answers_of_tools_find_their_calls() {
        let found = read(&json!([
            { "role": "user", "content": "a", "images": [] },
            { "role": "assistant", "content": "", "tool_calls": [
                { "function": { "name": "f", "arguments": { "x": 1 } } },
                { "function": { "name": "g", "arguments": {} } },
            ] },
            { "role": "tool", "content": "2", "tool_name": "g" },
            { "role": "tool", "content": "1" },
        ]));
        let expected = json!([
            { "role": "user", "content": "a" },
            { "role": "assistant", "tool_calls": [
                { "id": "call00000", "type": "function", "function": { "name": "f", "arguments": { "x": 1 } } },
                { "id": "call00001", "type": "function", "function": { "name": "g", "arguments": {} } },
            ] },
            { "role": "tool", "content": "2", "tool_call_id": "call00001", "name": "g" },
            { "role": "tool", "content": "1", "tool_call_id": "call00000", "name": "f" },
        ]);
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_place() {
        for (message, param) in [
            (json!({ "role": "user", "content": "a", "images": ["x"] }), "m.images"),
            (json!({ "role": "critic", "content": "a" }), "m.role"),
            (json!({ "role": "user", "content": ["a"] }), "m.content"),
            (json!({ "role": "user", "content": "a", "mood": "x" }), "m.mood"),
            (
                json!({ "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": "x" } }] }),
                "m.tool_calls[0].function.arguments",
            ),
        ] {
            assert_eq!(read(&json!([message])).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
