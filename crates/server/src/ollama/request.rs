//! What the requests of Ollama's dialect have in common, read field by field.

use std::time::Duration;

use hublabio_runtime::Error;
use hublabio_runtime::ai::Json;
use hublabio_runtime::node::KeepAlive;

use crate::chat::{AnswerFormat, SamplingChanges, SwarmWishes, model_name};
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};
use crate::openai;
use crate::own::models::keep_alive;
use crate::state::{App, blocking};
use crate::thinking::Thinking;

/// The tag that a name without one has in Ollama.
const LATEST: &str = ":latest";
/// Options that say how a machine computes, not what: they change no answer here. Nothing is ever thrown out of a context, so there
/// is nothing to keep either.
const INERT_OPTIONS: [&str; 10] = [
    "numa",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "use_mmap",
    "use_mlock",
    "num_thread",
    "draft_num_predict",
    "num_keep",
];
/// Options that have one value here.
const FIXED_OPTIONS: [(&str, bool); 5] = [
    ("penalize_newline", true),
    ("f16_kv", true),
    ("logits_all", false),
    ("vocab_only", false),
    ("embedding_only", false),
];

/// The model of a request, by its older name, too.
pub fn model_field<'j>(fields: &Fields<'j>) -> Result<&'j str, ApiError> {
    let older = fields.text("name")?;
    let name = fields.text("model")?.or(older).filter(|name| !name.is_empty());
    fields.required("model", name)
}

/// How an answer is wanted: what `/api/generate` and `/api/chat` have in common beside the options.
pub struct Manner<'j> {
    /// The model's name, as it was given.
    pub model: &'j str,
    /// In pieces, a line each.
    pub in_lines: bool,
    pub thinking: Option<Thinking>,
    pub stay: KeepAlive,
    pub format: AnswerFormat,
    pub logprobs: Option<usize>,
    pub swarm: SwarmWishes,
}

impl<'j> Manner<'j> {
    /// Reads all of it.
    pub fn read(fields: &Fields<'j>) -> Result<Self, ApiError> {
        no_truncation(fields)?;
        Ok(Self {
            model: model_field(fields)?,
            in_lines: fields.flag("stream")?.unwrap_or(true),
            thinking: think(fields)?,
            stay: stay(fields)?,
            format: format(fields)?,
            logprobs: logprobs(fields)?,
            swarm: openai::request::hublab(fields)?,
        })
    }
}

/// A model that a request means.
pub struct Meant {
    /// Its name, or that of a swarm.
    pub name: String,
    /// Positions of a conversation; `None` for a swarm.
    pub context: Option<usize>,
}

/// Finds the model: `name:latest` means `name` where there is none of the whole name.
pub async fn find(app: &App, given: &str) -> Result<Meant, ApiError> {
    let name = model_name(given, app)?;
    let plain = name.strip_suffix(LATEST).map(str::to_owned);
    for name in [Some(&name), plain.as_ref()].into_iter().flatten() {
        if app.swarm_source(name).is_some() {
            return Ok(Meant { name: name.clone(), context: None });
        }
    }
    let app = app.clone();
    blocking(move || {
        let found = match (app.node().model(&name), plain) {
            (Err(Error::NoSuchModel { .. }), Some(plain)) => app.node().model(&plain)?,
            (found, _) => found?,
        };
        Ok(Meant { name: found.name().to_owned(), context: Some(found.facts().context) })
    })
    .await
}

/// What options say.
#[derive(Default)]
pub struct Options {
    pub sampling: SamplingChanges,
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
    /// What the reader of the answer should know.
    pub notes: Vec<String>,
}

/// Reads `options`, every one of them.
pub fn options(fields: &Fields<'_>, context: Option<usize>) -> Result<Options, ApiError> {
    let Some(given) = fields.object("options")? else { return Ok(Options::default()) };
    for (name, value) in FIXED_OPTIONS {
        if given.flag(name)?.is_some_and(|given| given != value) {
            let message = format!("`options.{name}` can only be {value}: take it out");
            return Err(ApiError::field(given.path(name), message).coded("unsupported_value"));
        }
    }
    if given.number("tfs_z")?.is_some_and(|z| z != 1.0) {
        let message = "`options.tfs_z` can only be 1: tail-free sampling is not here, `min_p` does its work";
        return Err(ApiError::field("options.tfs_z", message).coded("unsupported_value"));
    }
    let mut notes = Vec::new();
    match (given.count("num_ctx")?, context) {
        (Some(asked), Some(context)) if asked > context => {
            let message = format!("`options.num_ctx` is {asked}: this service has {context} positions for the model");
            return Err(ApiError::field("options.num_ctx", message).coded("unsupported_value"));
        }
        // Programs send it with every question.
        (Some(_), None) => notes
            .push("`options.num_ctx` changes nothing: each expert of the swarm has a context of its own".to_owned()),
        _ => {}
    }
    let max_tokens = match given.integer("num_predict")? {
        // Without limit, and up to the end of the context, which is one and the same here.
        None | Some(-1 | -2) => None,
        Some(n) => match usize::try_from(n) {
            Ok(n) if n > 0 => Some(n),
            _ => {
                let message = format!("`options.num_predict` is {n}: give a number above 0, or -1 for no limit");
                return Err(ApiError::field("options.num_predict", message).coded("invalid_value"));
            }
        },
    };
    let sampling = SamplingChanges {
        temperature: given.number("temperature")?,
        top_k: given.count("top_k")?,
        top_p: given.number("top_p")?,
        min_p: given.number("min_p")?,
        typical_p: given.number("typical_p")?,
        repeat_last_n: given.window("repeat_last_n")?,
        repeat_penalty: given.number("repeat_penalty")?,
        presence_penalty: given.number("presence_penalty")?,
        frequency_penalty: given.number("frequency_penalty")?,
        mirostat: given.count("mirostat")?,
        mirostat_tau: given.number("mirostat_tau")?,
        mirostat_eta: given.number("mirostat_eta")?,
        // -1 asks for another one each time.
        seed: given.integer("seed")?.filter(|&seed| seed != -1).map(|seed| seed as u64),
        ..SamplingChanges::default()
    };
    let stop = given.texts("stop")?.unwrap_or_default();
    given.finish(&INERT_OPTIONS)?;
    Ok(Options { sampling, max_tokens, stop, notes })
}

/// The form that an answer must have: `"json"`, or a schema.
fn format(fields: &Fields<'_>) -> Result<AnswerFormat, ApiError> {
    match fields.get("format") {
        None => Ok(AnswerFormat::Text),
        Some(Json::String(word)) => match word.as_str() {
            "" => Ok(AnswerFormat::Text),
            "json" => Ok(AnswerFormat::JsonObject),
            _ => Err(ApiError::field("format", "`format` must be `json` or a JSON schema").coded("invalid_value")),
        },
        Some(schema @ Json::Object(_)) => Ok(AnswerFormat::JsonSchema(schema.clone())),
        Some(other) => Err(wrong_type("format", "`json` or a JSON schema", other)),
    }
}

/// Whether the model is to think.
fn think(fields: &Fields<'_>) -> Result<Option<Thinking>, ApiError> {
    match fields.get("think") {
        None => Ok(None),
        Some(Json::Bool(true)) => Ok(Some(Thinking::On)),
        Some(Json::Bool(false)) => Ok(Some(Thinking::Off)),
        Some(Json::String(effort)) if !effort.is_empty() => Ok(Some(Thinking::Effort(effort.clone()))),
        Some(other) => Err(wrong_type("think", "true, false, or a text such as `high`", other)),
    }
}

/// Log probabilities, with so many alternatives.
fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs")?.unwrap_or(0);
    if top > 0 && !wanted {
        return Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs`: true").coded("invalid_value"));
    }
    Ok(wanted.then_some(top))
}

/// Refuses what other programs do with a context that is full: here a prompt that does not fit is refused, always.
fn no_truncation(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in ["truncate", "shift"] {
        if fields.flag(name)? == Some(true) {
            let message = format!("`{name}` can only be false: a prompt that does not fit is refused, and never cut");
            return Err(ApiError::field(name, message).coded("unsupported_value"));
        }
    }
    Ok(())
}

/// Refuses a field unless it says nothing: empty texts, lists and objects, as Go's clients send them.
pub fn says_nothing(fields: &Fields<'_>, name: &'static str, why: &str) -> Result<(), ApiError> {
    let empty = match fields.get(name) {
        None => true,
        Some(Json::String(text)) => text.is_empty(),
        Some(Json::Array(items)) => items.is_empty(),
        Some(Json::Object(members)) => members.is_empty(),
        Some(_) => false,
    };
    let refused = || ApiError::field(fields.path(name), format!("`{}` {why}", fields.path(name)));
    if empty { Ok(()) } else { Err(refused().coded("unsupported_parameter")) }
}

/// Reads `keep_alive`.
pub fn stay(fields: &Fields<'_>) -> Result<KeepAlive, ApiError> {
    keep_alive("keep_alive", fields.get("keep_alive"))
}

/// Loads a model, or frees it where it is to stay for no time. The word for what was done.
pub async fn load(app: &App, meant: Meant, stay: KeepAlive) -> Result<&'static str, ApiError> {
    let app = app.clone();
    let free = stay == KeepAlive::For(Duration::ZERO);
    blocking(move || {
        match app.swarm_source(&meant.name).cloned() {
            Some(_) if free => {
                let message = "the experts of a swarm leave memory by themselves (`server.keep_alive`): `keep_alive` cannot be 0 here";
                return Err(ApiError::field("keep_alive", message).coded("unsupported_value"));
            }
            Some(source) => app.open_swarm(&source).map(drop)?,
            None if free => drop(app.node().unload(&meant.name)?),
            None => app.node().load(&meant.name, stay)?,
        }
        Ok(if free { "unload" } else { "load" })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_honoured_inert_or_refused() {
        let read = |given: Json| {
            let body = json!({ "options": given });
            let fields = Fields::of_body(&body)?;
            options(&fields, Some(2048))
        };
        let found = read(json!({
            "num_predict": 7, "stop": "x", "seed": -1, "top_k": 3, "repeat_last_n": -1, "num_ctx": 2048, "num_gpu": 1, "num_keep": 4,
            "tfs_z": 1.0, "f16_kv": true,
        }))
        .unwrap();
        assert_eq!((found.max_tokens, found.stop, found.sampling.seed), (Some(7), vec!["x".to_owned()], None));
        assert_eq!((found.sampling.top_k, found.sampling.repeat_last_n), (Some(3), Some(usize::MAX)));
        assert_eq!(read(json!({ "num_predict": -2 })).unwrap().max_tokens, None);
        for (given, param) in [
            (json!({ "num_ctx": 4096 }), "options.num_ctx"),
            (json!({ "num_predict": 0 }), "options.num_predict"),
            (json!({ "tfs_z": 0.5 }), "options.tfs_z"),
            (json!({ "logits_all": true }), "options.logits_all"),
            (json!({ "rope_frequency_base": 1 }), "options.rope_frequency_base"),
            (json!({ "temperature": "hot" }), "options.temperature"),
        ] {
            assert_eq!(read(given).err().unwrap().param.as_deref(), Some(param));
        }
    }

    #[test]
    fn fields_that_say_nothing_pass() {
        let body = json!({ "context": [], "suffix": "", "template": null, "images": ["x"] });
        let fields = Fields::of_body(&body).unwrap();
        for name in ["context", "suffix", "template"] {
            says_nothing(&fields, name, "is not here").unwrap();
        }
        assert_eq!(says_nothing(&fields, "images", "is not here").unwrap_err().message, "`images` is not here");
    }
}
