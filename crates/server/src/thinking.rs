//! Whether a model thinks before it speaks, as a request may say it.

use hublabio_runtime::ai::Json;

use crate::chat::{ChatRequest, model_name};
use crate::error::ApiError;
use crate::state::{App, blocking};

/// The variable by which templates switch reasoning on and off.
const SWITCH: &str = "enable_thinking";
/// The one by which others say how much.
const EFFORT: &str = "reasoning_effort";
/// What the templates of models that think have in them.
const SIGNS: [&str; 5] = [SWITCH, EFFORT, "<think>", "[THINK]", "reasoning_content"];

/// What a request says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// It shall.
    On,
    /// It shall not.
    Off,
    /// So much: `low`, `medium`, `high`, …
    Effort(String),
}

impl Thinking {
    /// What OpenAI's word for an effort means.
    pub fn of_effort(effort: &str) -> Self {
        match effort {
            "none" => Self::Off,
            effort => Self::Effort(effort.to_owned()),
        }
    }
}

/// Whether a template is one of a model that thinks.
pub fn is_known_to(template: &str) -> bool {
    SIGNS.iter().any(|sign| template.contains(sign))
}

/// Tells the model's template what a request says, which was in the field `path`.
///
/// # Errors
/// 400 where the model does not think, or cannot be told how much; and whatever is wrong with the model's name.
pub async fn apply(
    app: &App,
    request: &mut ChatRequest,
    thinking: Option<Thinking>,
    path: &'static str,
) -> Result<(), ApiError> {
    let Some(thinking) = thinking else { return Ok(()) };
    let name = model_name(request.model.as_deref().unwrap_or(&app.config().default_model), app)?;
    let refuse = |why: String| Err(ApiError::field(path, why).coded("unsupported_value"));
    let template = if app.swarm_source(&name).is_some() {
        String::new()
    } else {
        let (app, name) = (app.clone(), name.clone());
        blocking(move || {
            let model = app.node().model(&name)?;
            let text = model.text().map_err(|error| ApiError::bad_request(error.to_string()).about("model"))?;
            Ok(text.chat_template().map(|template| template.source().to_owned()).unwrap_or_default())
        })
        .await?
    };
    match thinking {
        Thinking::Off if template.contains(SWITCH) => {
            request.template_variables.push((SWITCH.into(), Json::Bool(false)));
            Ok(())
        }
        // Nothing keeps these from thinking, so it is not promised.
        Thinking::Off if template.contains("<think>") => {
            refuse(format!("`{path}`: the template of `{name}` cannot switch thinking off: leave it out"))
        }
        Thinking::Off => Ok(()),
        Thinking::On if template.contains(SWITCH) => {
            request.template_variables.push((SWITCH.into(), Json::Bool(true)));
            Ok(())
        }
        Thinking::On if is_known_to(&template) => Ok(()),
        Thinking::On => refuse(format!("`{path}`: `{name}` does not support thinking: leave it out")),
        Thinking::Effort(effort) if template.contains(EFFORT) => {
            request.template_variables.push((EFFORT.into(), effort.into()));
            Ok(())
        }
        Thinking::Effort(effort) => {
            refuse(format!("`{path}`: `{name}` cannot be told to think with the effort `{effort}`: leave it out"))
        }
    }
}
