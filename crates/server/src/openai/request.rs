//! What the requests of OpenAI's dialect have in common, read field by field.

use hublabio_runtime::ai::constraint::ConstraintSource;
use hublabio_runtime::ai::sampling::SamplerStep;
use hublabio_runtime::ai::{Content, Json, Message, Tool};
use serde_json::{Map, json};

use crate::chat::{AnswerFormat, SamplingChanges, SwarmWishes, ToolChoice};
use crate::error::ApiError;
use crate::fields::{Fields, in_short, unknown_word, wrong_type};
use crate::state::App;

/// Fields that change nothing here by their nature: who asks, what for, where a hosted service would keep or bill it, and
/// caching, which happens anyway.
pub const INERT: [&str; 12] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "prediction",
    "cache_prompt",
    "id_slot",
    "cache_control",
];

/// How an answer is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// In pieces.
    pub stream: bool,
    /// With a last piece that has the usage.
    pub include_usage: bool,
    /// With pieces that tell how much of the prompt has been read.
    pub progress: bool,
}

impl Delivery {
    /// Reads `stream`, `stream_options`, `return_progress` and `timings_per_token`.
    ///
    /// # Errors
    /// 400; so do all of these.
    pub fn read(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let stream = fields.flag("stream")?.unwrap_or(false);
        let mut include_usage = false;
        if let Some(options) = fields.object("stream_options")? {
            include_usage = options.flag("include_usage")?.unwrap_or(false);
            // Padding against listeners on the line, which a local service has no use for.
            options.finish(&["include_obfuscation"])?;
            if !stream {
                let message = "`stream_options` is only for answers with `stream`: true";
                return Err(ApiError::field("stream_options", message).coded("invalid_value"));
            }
        }
        let progress = fields.flag("return_progress")?.unwrap_or(false);
        if fields.flag("timings_per_token")? == Some(true) {
            let message = "`timings_per_token` can only be false: the last piece has the timings, in `hublab.timings`";
            return Err(ApiError::field("timings_per_token", message).coded("unsupported_value"));
        }
        Ok(Self { stream, include_usage, progress })
    }
}

/// How tokens are chosen.
pub fn sampling(fields: &Fields<'_>) -> Result<SamplingChanges, ApiError> {
    Ok(SamplingChanges {
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        top_k: fields.window("top_k")?.map(|k| if k == usize::MAX { 0 } else { k }),
        min_p: fields.number("min_p")?,
        typical_p: fields.number("typical_p")?,
        top_n_sigma: fields.number("top_n_sigma")?,
        xtc_probability: fields.number("xtc_probability")?,
        xtc_threshold: fields.number("xtc_threshold")?,
        dynatemp_range: fields.number("dynatemp_range")?,
        dynatemp_exponent: fields.number("dynatemp_exponent")?,
        mirostat: fields.count("mirostat")?,
        mirostat_tau: fields.number("mirostat_tau")?,
        mirostat_eta: fields.number("mirostat_eta")?,
        repeat_penalty: fields.number("repeat_penalty")?,
        repeat_last_n: fields.window("repeat_last_n")?,
        frequency_penalty: fields.number("frequency_penalty")?,
        presence_penalty: fields.number("presence_penalty")?,
        dry_multiplier: fields.number("dry_multiplier")?,
        dry_base: fields.number("dry_base")?,
        dry_allowed_length: fields.count("dry_allowed_length")?,
        dry_penalty_last_n: fields.window("dry_penalty_last_n")?,
        dry_sequence_breakers: fields.texts("dry_sequence_breakers")?,
        logit_bias: logit_bias(fields)?,
        min_keep: fields.count("min_keep")?,
        samplers: samplers(fields)?,
        seed: fields.seed("seed")?,
    })
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let bad = |message: String| ApiError::field("logit_bias", message).coded("invalid_value");
    let Some(given) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let Json::Object(map) = given else { return Err(wrong_type("logit_bias", "an object", given)) };
    let pair = |(id, bias): (&String, &Json)| {
        let id = id
            .parse::<u32>()
            .map_err(|_| bad(format!("`logit_bias` has the key `{}`, which is no token id", in_short(id))))?;
        match bias.as_f64() {
            // OpenAI's lowest value stands for never.
            Some(-100.0) => Ok((id, f32::NEG_INFINITY)),
            Some(bias) if (-100.0..=100.0).contains(&bias) => Ok((id, bias as f32)),
            _ => Err(bad(format!("the bias of token {id} is no number between -100 and 100"))),
        }
    };
    map.iter().map(pair).collect()
}

fn samplers(fields: &Fields<'_>) -> Result<Option<Vec<SamplerStep>>, ApiError> {
    let Some(names) = fields.texts("samplers")? else { return Ok(None) };
    SamplerStep::parse_order(&names.join(","))
        .map(Some)
        .map_err(|error| ApiError::field("samplers", error.to_string()).coded("invalid_value"))
}

/// The limit of tokens under one of several names; -1 for none.
pub fn max_tokens(fields: &Fields<'_>, names: &[&'static str]) -> Result<Option<usize>, ApiError> {
    let mut limit: Option<(usize, &str)> = None;
    for name in names.iter().copied() {
        match fields.window(name)? {
            Some(0) => {
                let message = format!("`{name}` is 0: an answer has at least one token");
                return Err(ApiError::field(name, message).coded("invalid_value"));
            }
            Some(n) => {
                if let Some((_, other)) = limit.filter(|(said, _)| *said != n) {
                    let message = format!("`{name}` says something else than `{other}`: give one of them");
                    return Err(ApiError::field(name, message).coded("invalid_value"));
                }
                limit = Some((n, name));
            }
            None => {}
        }
    }
    Ok(limit.map(|(n, _)| n).filter(|&n| n != usize::MAX))
}

/// The conversation.
pub fn messages(app: &App, fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
    let list = fields.list_within("messages", app.config().limits.messages)?;
    let list = fields.required("messages", list)?;
    if list.is_empty() {
        let message = "`messages` is empty: there is nothing to answer";
        return Err(ApiError::field("messages", message).coded("invalid_value"));
    }
    let list: Json = list.iter().map(plain_message).collect();
    let mut messages = Message::list_from_json(&list).map_err(|error| named_place(&error.to_string()))?;
    for (at, message) in messages.iter_mut().enumerate() {
        if !ROLES.contains(&message.role.as_str()) {
            let known = format!("one of {}", ROLES.join(", "));
            return Err(unknown_word(format!("messages[{at}].role"), &message.role, &known));
        }
        if message.role == "developer" {
            // The newer name of the same role.
            message.role = "system".into();
        }
        if let Content::Parts(parts) = &message.content {
            // Few templates know lists of texts.
            message.content = parts.join("\n").into();
        }
    }
    Ok(messages)
}

/// An error that begins with its place.
pub fn named_place(text: &str) -> ApiError {
    let error = ApiError::bad_request(text).coded("invalid_value");
    match text.split_once(": ") {
        Some((place, _)) if place.starts_with("messages") || place.starts_with("tools") => error.about(place),
        _ => error,
    }
}

/// A message without what clients send back of an answer although it says nothing, and without hints about caching.
fn plain_message(message: &Json) -> Json {
    const EMPTY: [&str; 3] = ["annotations", "refusal", "audio"];
    let Json::Object(fields) = message else { return message.clone() };
    let says_nothing = |value: &Json| match value {
        Json::Null => true,
        Json::Array(items) => items.is_empty(),
        Json::String(text) => text.is_empty(),
        _ => false,
    };
    let mut plain = Map::new();
    for (name, value) in fields {
        if name == "cache_control" || EMPTY.contains(&name.as_str()) && says_nothing(value) {
            continue;
        }
        let value = match value {
            Json::Array(parts) if name == "content" => parts.iter().map(plain_part).collect(),
            value => value.clone(),
        };
        plain.insert(name.clone(), value);
    }
    Json::Object(plain)
}

fn plain_part(part: &Json) -> Json {
    let mut part = part.clone();
    if let Json::Object(fields) = &mut part {
        fields.remove("cache_control");
        // An input of the newer interface.
        if fields.get("type").is_some_and(|kind| kind == "input_text" || kind == "output_text") {
            fields.insert("type".into(), "text".into());
        }
    }
    part
}

/// A tool without parameters that are `null`, which counts as none.
fn plain_tool(tool: &Json) -> Json {
    let mut tool = tool.clone();
    if let Some(Json::Object(function)) = tool.get_mut("function") {
        function.retain(|name, value| name != "parameters" || !value.is_null());
    }
    tool
}

/// The tools.
pub fn tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let Some(list) = fields.list("tools")? else { return Ok(Vec::new()) };
    let tools = Tool::list_from_json(&list.iter().map(plain_tool).collect())
        .map_err(|error| named_place(&error.to_string()))?;
    for (at, tool) in tools.iter().enumerate() {
        let function = Fields::of(&tool.as_json()["function"], format!("tools[{at}].function"))?;
        function.text("name")?;
        function.text("description")?;
        // It stays in the definition: what it means depends on the choice of tools.
        function.flag("strict")?;
        if let Some(parameters) = function.get("parameters") {
            check_arguments_schema(&function.path("parameters"), parameters)?;
        }
        // A definition without the outer object has its type within.
        function.finish(&["cache_control", "type"])?;
    }
    Ok(tools)
}

/// What is to be said of `strict`: calls that are enforced always follow their schema, of free ones nobody can promise it.
/// Clients send it with every tool, so it is no reason to refuse.
pub fn strict_note(tools: &[Tool], choice: &ToolChoice) -> Option<String> {
    let is_strict = |tool: &Tool| tool.as_json()["function"]["strict"] == true;
    let name = tools.iter().find(|tool| is_strict(tool)).filter(|_| *choice == ToolChoice::Auto)?.name();
    let name = in_short(name);
    Some(format!("`strict` of the tool `{name}`: only calls that `tool_choice` forces are held to their schema"))
}

/// A tool in the form that templates know, of a definition whose members stand side by side; `schema` is the name of the one that
/// describes its arguments. What else the definition may hold is the caller's to read.
pub fn flat_tool(given: &Fields<'_>, schema: &'static str) -> Result<Json, ApiError> {
    let mut function = Map::new();
    function.insert("name".into(), given.required("name", given.text("name")?)?.into());
    if let Some(description) = given.text("description")? {
        function.insert("description".into(), description.into());
    }
    if let Some(parameters) = given.get(schema) {
        check_arguments_schema(&given.path(schema), parameters)?;
        function.insert("parameters".into(), parameters.clone());
    }
    if given.flag("strict")? == Some(true) {
        function.insert("strict".into(), true.into());
    }
    Ok(json!({ "type": "function", "function": function }))
}

/// Arguments are an object, so their schema must be one's.
fn check_arguments_schema(path: &str, schema: &Json) -> Result<(), ApiError> {
    let Json::Object(members) = schema else { return Err(wrong_type(path, "an object", schema)) };
    match members.get("type").filter(|kind| !kind.is_null()) {
        Some(kind) if kind != "object" => {
            let message = format!("`{path}` must be the schema of an object, and its type is {kind}");
            Err(ApiError::field(path, message).coded("invalid_value"))
        }
        _ => Ok(()),
    }
}

/// Whether tools are to be called: `"none"`, `"auto"`, `"required"`, or one by its name.
pub fn tool_choice(fields: &Fields<'_>) -> Result<ToolChoice, ApiError> {
    const PATH: &str = "tool_choice";
    let wanted = "`none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\": …}}";
    match fields.get(PATH) {
        None => Ok(ToolChoice::Auto),
        Some(Json::String(word)) => match word.as_str() {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" | "any" => Ok(ToolChoice::Required),
            _ => Err(ApiError::field(PATH, format!("`tool_choice` must be {wanted}")).coded("invalid_value")),
        },
        Some(value @ Json::Object(_)) => {
            let choice = Fields::of(value, PATH)?;
            let kind = choice.text("type")?.unwrap_or("function");
            let function = choice.object("function")?;
            let name = match &function {
                Some(function) => {
                    let name = function.required("name", function.text("name")?)?;
                    function.finish(&[])?;
                    name
                }
                None => choice.required("name", choice.text("name")?)?,
            };
            choice.finish(&[])?;
            if kind != "function" {
                return Err(ApiError::field(PATH, format!("`tool_choice` must be {wanted}")).coded("invalid_value"));
            }
            Ok(ToolChoice::Named(name.to_owned()))
        }
        Some(other) => Err(wrong_type(PATH, wanted, other)),
    }
}

/// The form that the answer's text must have: `response_format`, or llama.cpp's `grammar` and `json_schema`.
pub fn answer_format(fields: &Fields<'_>) -> Result<AnswerFormat, ApiError> {
    let mut found = None;
    if let Some(format) = fields.object("response_format")? {
        found = Some(response_format(&format)?).filter(|format| *format != AnswerFormat::Text);
    }
    let grammar = fields.text("grammar")?.filter(|grammar| !grammar.is_empty());
    let schema = fields.get("json_schema");
    let others = [
        grammar.map(|grammar| ("grammar", AnswerFormat::Other(ConstraintSource::Gbnf(grammar.to_owned())))),
        schema.map(|schema| ("json_schema", AnswerFormat::JsonSchema(schema.clone()))),
    ];
    for (name, format) in others.into_iter().flatten() {
        if found.is_some() {
            let message = format!("`{name}` and another form of the answer are asked for: give one of them");
            return Err(ApiError::field(name, message).coded("invalid_value"));
        }
        found = Some(format);
    }
    Ok(found.unwrap_or_default())
}

fn response_format(format: &Fields<'_>) -> Result<AnswerFormat, ApiError> {
    let kind = format.required("type", format.text("type")?)?;
    let found = match kind {
        "text" => AnswerFormat::Text,
        "json_object" => match format.get("schema") {
            Some(schema) => AnswerFormat::JsonSchema(schema.clone()),
            None => AnswerFormat::JsonObject,
        },
        "json_schema" => {
            let given = format.required("json_schema", format.object("json_schema")?)?;
            given.text("name")?;
            given.text("description")?;
            // It is always enforced.
            given.flag("strict")?;
            let schema = given.required("schema", given.get("schema"))?;
            given.finish(&[])?;
            AnswerFormat::JsonSchema(schema.clone())
        }
        other => return Err(unknown_word("response_format.type", other, "`text`, `json_object` or `json_schema`")),
    };
    format.finish(&[])?;
    Ok(found)
}

/// Refuses another length of answers than the one that models have by themselves.
pub fn no_verbosity(fields: &Fields<'_>) -> Result<(), ApiError> {
    const NAME: &str = "verbosity";
    match fields.text(NAME)? {
        None | Some("medium") => Ok(()),
        Some(_) => {
            let path = fields.path(NAME);
            let message = format!("`{path}` is not supported: say in words how long the answer should be");
            Err(ApiError::field(path, message).coded("unsupported_value"))
        }
    }
}

/// Which model.
pub fn model(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    Ok(fields.text("model")?.map(str::to_owned))
}

/// How many answers.
pub fn n(fields: &Fields<'_>) -> Result<usize, ApiError> {
    Ok(fields.count("n")?.unwrap_or(1))
}

/// Our own field: the conversation and the expert, for swarms.
pub fn hublab(fields: &Fields<'_>) -> Result<SwarmWishes, ApiError> {
    let Some(own) = fields.object("hublab")? else { return Ok(SwarmWishes::default()) };
    let wishes = SwarmWishes { session: own.seed("session")?, expert: own.text("expert")?.map(str::to_owned) };
    own.finish(&[])?;
    Ok(wishes)
}
