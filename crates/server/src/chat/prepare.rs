//! From a request to a prompt and its settings.

use std::path::Path;
use std::sync::Arc;

use hublabio_runtime::Error;
use hublabio_runtime::ai::constraint::{ConstraintConfig, ConstraintSource};
use hublabio_runtime::ai::{ChatQuestion, GenerationConfig, Json, ModelText, OutputParser, TokenId};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::ServedModel;
use hublabio_runtime::store::name_of_path;

use super::{AnswerFormat, ChatRequest, Input};
use crate::error::ApiError;
use crate::fields::in_short;
use crate::state::App;

/// What a path to a model ends with.
const MODEL_PATH_SUFFIX: &str = ".gguf";

/// The name in the store that a request means. A path is not followed outside of the store: `/models/NAME.gguf` means the
/// model `NAME`, so that programs written for a folder of files work with a store that has the model.
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
    let climbs = given.split(['/', '\\']).any(|part| part == "..");
    let name = name_of_path(given);
    if name.is_empty() || climbs || !Path::new(given).is_absolute() {
        return refuse("paths outside the store are not followed");
    }
    // Only the store's folders are looked at. A model that is not there is missed by its name, as any other.
    let found = app.node().store().and_then(|store| store.find_for_path(given).ok());
    Ok(found.map_or_else(|| name.to_owned(), |model| model.name))
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
        let error = Error::NoLogits { architecture: model.facts().architecture.clone() };
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
        Input::Messages(messages) => {
            let asked = text.prepare(&ChatQuestion {
                messages,
                tools: &request.tools,
                tool_choice: &request.tool_choice,
                parallel_tool_calls: request.parallel_tool_calls,
                format: answer_constraint(&request.format),
                variables: &request.template_variables,
            });
            let asked = asked.map_err(of_question)?;
            (config.constraint, config.shown_tokens, notes) = (asked.constraint, asked.shown_tokens, asked.notes);
            notes.extend(unused_variables(text, &request.template_variables));
            (asked.prompt.tokens, Some(asked.parser), asked.call_is_forced)
        }
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

/// Says which variables change nothing, as the template never names them. Programs send them to whatever model there is.
fn unused_variables(text: &ModelText, variables: &[(String, Json)]) -> Vec<String> {
    let Ok(template) = text.chat_template() else { return Vec::new() };
    let unused = variables.iter().filter(|(name, _)| !template.source().contains(name.as_str()));
    unused
        .map(|(name, _)| {
            let name = in_short(name);
            format!("`chat_template_kwargs.{name}` changes nothing: the model's template does not know it")
        })
        .collect()
}

/// Of all constraints only that of the tools is made with the question.
fn of_question(error: Error) -> ApiError {
    match error {
        Error::Constraint(cause) => ApiError::field("tools", cause.to_string()).coded("constraint_refused"),
        error => error.into(),
    }
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

fn answer_constraint(format: &AnswerFormat) -> Option<ConstraintSource> {
    match format {
        AnswerFormat::Text => None,
        AnswerFormat::JsonObject => Some(ConstraintSource::JsonObject),
        AnswerFormat::JsonSchema(schema) => Some(ConstraintSource::JsonSchema(schema.clone())),
        AnswerFormat::Other(source) => Some(source.clone()),
    }
}
