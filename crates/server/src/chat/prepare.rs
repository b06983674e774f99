//! From a request to a prompt and its settings.

use std::path::Path;
use std::sync::Arc;

use hublabio_runtime::ai::constraint::{ConstraintConfig, ConstraintSource, ToolSchema};
use hublabio_runtime::ai::{
    CallForm, ChatOptions, ChatPrompt, GenerationConfig, Json, Message, ModelText, OutputParser, TokenId, ToolFormat,
};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::ServedModel;
use serde_json::json;

use super::{AnswerFormat, ChatRequest, Input, ToolChoice};
use crate::error::ApiError;
use crate::state::App;

/// What a path to a model ends with.
pub const MODEL_PATH_SUFFIX: &str = ".gguf";
/// Calls of one answer where a call is enforced and several are allowed.
const PARALLEL_CALLS_MAX: usize = 8;
/// Tags around reasoning that a prompt may end with.
const REASONING_TAGS: [(&str, &str); 4] =
    [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]")];

/// The name in the store that a request means. A path is not followed: `/models/NAME.gguf` means the model `NAME`, so that
/// programs written for a folder of files work with a store that has the model.
///
/// # Errors
/// 400 for a path that could be meant otherwise.
pub fn model_name(given: &str, app: &App) -> Result<String, ApiError> {
    let refuse = |why: &str| {
        let shown: String = given.chars().take(200).collect();
        let message = format!("`{shown}` is no name of a model: {why}; GET /v1/models lists the names");
        Err(ApiError::field("model", message).coded("invalid_model_name"))
    };
    if given.is_empty() {
        return refuse("it is empty");
    }
    if app.swarm_source(given).is_some() || !given.contains(['/', '\\']) {
        return Ok(given.to_owned());
    }
    let ending = given.len().checked_sub(MODEL_PATH_SUFFIX.len()).and_then(|at| given.get(at..));
    if !ending.is_some_and(|ending| ending.eq_ignore_ascii_case(MODEL_PATH_SUFFIX)) {
        // Names of a store may have folders in them (`org/model`), absolute paths and ways up may not.
        if given.starts_with(['/', '\\']) || given.split(['/', '\\']).any(|part| part == "..") {
            return refuse("paths outside the store are not followed");
        }
        return Ok(given.to_owned());
    }
    let path = Path::new(given);
    let climbs = given.split(['/', '\\']).any(|part| part == "..");
    match path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| !stem.is_empty()) {
        Some(stem) if path.is_absolute() && !climbs => Ok(stem.to_owned()),
        _ => refuse("paths outside the store are not followed"),
    }
}

/// What is needed to generate an answer and to take it apart.
pub struct Prepared {
    /// The model.
    pub model: Arc<ServedModel>,
    /// The prompt.
    pub prompt: Vec<TokenId>,
    /// The settings, without the seeds of single answers.
    pub config: GenerationConfig,
    /// What takes the answer apart; `None` where all of it is text.
    pub parser: Option<OutputParser>,
    /// Whether a call must come.
    pub call_is_forced: bool,
    /// What was done otherwise than the request may expect.
    pub notes: Vec<String>,
}

/// Makes the prompt and the settings. Reads files and computes: call it where waiting is allowed.
///
/// # Errors
/// Whatever is wrong with the request.
pub fn prepare(app: &App, name: &str, request: &ChatRequest) -> Result<Prepared, ApiError> {
    let model = app.node().model(name)?;
    if !model.facts().generates {
        let error = hublabio_runtime::Error::NoLogits { architecture: model.facts().architecture.clone() };
        return Err(error.into());
    }
    let text = model.text().map_err(|error| ApiError::bad_request(error.to_string()).about("model"))?;
    let greedy = matches!(model.source(), ModelSource::Builtin(_));
    let mut config = request.sampling.apply(&app.config().sampling, greedy)?;
    config.max_tokens = request.max_tokens.or(app.config().limits.answer_tokens);
    config.stop.clone_from(&request.stop);
    config.logprobs = request.logprobs;
    let mut notes = Vec::new();
    let (prompt, parser, call_is_forced) = match &request.input {
        Input::Messages(messages) => chat_prompt(text, messages, request, &mut config, &mut notes)?,
        Input::Text(raw) => {
            config.constraint = answer_constraint(&request.format).map(ConstraintConfig::from);
            (text.raw_prompt(raw).map_err(|error| ApiError::field("prompt", error.to_string()))?, None, false)
        }
        Input::Tokens(tokens) => {
            check_tokens(text, tokens)?;
            config.constraint = answer_constraint(&request.format).map(ConstraintConfig::from);
            (tokens.clone(), None, false)
        }
    };
    if let Some(constraint) = &config.constraint {
        // Compiled here, so that what cannot be honoured is refused with a status.
        text.compile_constraint(constraint)?;
    }
    Ok(Prepared { model, prompt, config, parser, call_is_forced, notes })
}

/// Refuses ids that the model does not have.
pub fn check_tokens(text: &ModelText, tokens: &[TokenId]) -> Result<(), ApiError> {
    let n_tokens = text.tokenizer().n_tokens();
    match tokens.iter().find(|token| token.0 as usize >= n_tokens) {
        Some(token) => {
            let message = format!("there is no token {}: this model has the tokens 0 to {}", token.0, n_tokens - 1);
            Err(ApiError::field("prompt", message).coded("invalid_value"))
        }
        None => Ok(()),
    }
}

type ChatParts = (Vec<TokenId>, Option<OutputParser>, bool);

fn chat_prompt(
    text: &ModelText,
    messages: &[Message],
    request: &ChatRequest,
    config: &mut GenerationConfig,
    notes: &mut Vec<String>,
) -> Result<ChatParts, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "`messages` is empty: there is nothing to answer"));
    }
    let offered = if request.tool_choice == ToolChoice::None { &[][..] } else { &request.tools };
    if let ToolChoice::Named(name) = &request.tool_choice
        && !offered.iter().any(|tool| tool.name() == name)
    {
        let message = format!("`tool_choice` names `{name}`, which is none of the tools");
        return Err(ApiError::field("tool_choice", message).coded("invalid_value"));
    }
    if request.tool_choice == ToolChoice::Required && offered.is_empty() {
        return Err(ApiError::field("tool_choice", "`tool_choice` asks for a call, but there are no `tools`"));
    }
    let template = text.chat_template()?;
    let mut options =
        ChatOptions { tools: offered.to_vec(), variables: request.template_variables.clone(), tool_format: None };
    let uses_tools = !offered.is_empty() || messages.iter().any(|message| !message.tool_calls.is_empty());
    let prompt: ChatPrompt = if uses_tools && !template.takes_tools() {
        // A model that was never told of tools may still be able to follow a description.
        notes.push("the model's template knows no tools: they are described to it in words".into());
        let told = in_words(messages, &options);
        text.chat_prompt_with(&told, &ChatOptions { tools: Vec::new(), ..options.clone() })?
    } else {
        text.chat_prompt_with(messages, &options)?
    };
    let format = if uses_tools && !template.takes_tools() {
        options.tool_format = Some(ToolFormat::Json);
        ToolFormat::Json
    } else {
        ToolFormat::of_template(template.source())
    };
    let parser = text.output_parser(&prompt, &options)?;
    config.shown_tokens = text.marks(&parser);
    let forced = matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    if let Some(source) = constraint(request, format)? {
        let thought = prompt.text.trim_end();
        let after = REASONING_TAGS.iter().find(|(open, _)| thought.ends_with(open)).map(|(_, close)| (*close).into());
        config.constraint = Some(ConstraintConfig { source, after });
    }
    Ok((prompt.tokens, Some(parser), forced))
}

fn answer_constraint(format: &AnswerFormat) -> Option<ConstraintSource> {
    match format {
        AnswerFormat::Text => None,
        AnswerFormat::JsonObject => Some(ConstraintSource::JsonObject),
        AnswerFormat::JsonSchema(schema) => Some(ConstraintSource::JsonSchema(schema.clone())),
        AnswerFormat::Other(source) => Some(source.clone()),
    }
}

/// What the answer must look like, tool calls included.
fn constraint(request: &ChatRequest, format: ToolFormat) -> Result<Option<ConstraintSource>, ApiError> {
    let answer = answer_constraint(&request.format);
    let only = match &request.tool_choice {
        _ if request.tools.is_empty() => return Ok(answer),
        ToolChoice::None => return Ok(answer),
        ToolChoice::Auto if answer.is_none() => return Ok(None),
        ToolChoice::Named(name) => Some(name),
        ToolChoice::Auto | ToolChoice::Required => None,
    };
    let schema = |tool: &hublabio_runtime::ai::Tool| ToolSchema {
        name: tool.name().to_owned(),
        parameters: arguments_schema(tool.parameters()),
    };
    let chosen = request.tools.iter().filter(|tool| only.is_none_or(|name| tool.name() == name));
    let schemas: Vec<ToolSchema> = chosen.map(schema).collect();
    let several = request.parallel_tool_calls == Some(true) && only.is_none();
    let calls_max = if several { PARALLEL_CALLS_MAX } else { 1 };
    let or = answer.as_ref().filter(|_| request.tool_choice == ToolChoice::Auto);
    ConstraintSource::tool_calls(&schemas, &CallForm::of(format), calls_max, or)
        .map(Some)
        .map_err(|error| ApiError::field("tools", error.to_string()).coded("constraint_refused"))
}

/// The schema of a call's arguments, which are an object; without parameters a function takes none.
fn arguments_schema(parameters: Option<&Json>) -> Json {
    let mut schema = parameters.cloned().unwrap_or_else(|| json!({ "properties": {} }));
    if let Json::Object(members) = &mut schema {
        members.entry("type").or_insert("object".into());
    }
    schema
}

/// A conversation for a template that knows no tools: they are described by the system, calls and results are texts.
fn in_words(messages: &[Message], options: &ChatOptions) -> Vec<Message> {
    let mut told: Vec<Message> = messages.iter().map(message_in_words).collect();
    if options.tools.is_empty() {
        return told;
    }
    let tools: Vec<&Json> = options.tools.iter().map(|tool| &tool.as_json()["function"]).collect();
    let words = format!(
        "You can call these functions: {}\nTo call one, answer with nothing but JSON of this form: \
         {{\"name\": \"NAME\", \"arguments\": {{…}}}}",
        json!(tools)
    );
    match told.first_mut().filter(|first| first.role == "system") {
        Some(first) => first.content = format!("{}\n\n{words}", first.content.text()).into(),
        None => told.insert(0, Message::new("system", words)),
    }
    told
}

fn message_in_words(message: &Message) -> Message {
    if message.role == "tool" {
        let name = message.name.as_deref().or(message.tool_call_id.as_deref()).unwrap_or("the function");
        return Message::new("user", format!("Result of {name}: {}", message.content.text()));
    }
    if message.tool_calls.is_empty() {
        return message.clone();
    }
    let mut text = message.content.text().into_owned();
    for call in &message.tool_calls {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&json!({ "name": call.name, "arguments": call.arguments }).to_string());
    }
    Message { content: text.into(), tool_calls: Vec::new(), ..message.clone() }
}
