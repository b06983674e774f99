//! What stands between the marks of a tool call: names and arguments in JSON, or in tags.

use serde_json::{Map, Value as Json};

use super::format::Body;
use super::python;
use crate::message::{Tool, ToolCall};

/// Reads the body of a section. The error says what is wrong, for people.
pub(super) fn read(kind: Body, body: &str, tools: &[Tool]) -> Result<Vec<ToolCall>, String> {
    let trimmed = body.trim();
    match kind {
        Body::Nothing => Ok(Vec::new()),
        Body::Python => python::calls(trimmed, tools),
        Body::JsonOrPython => {
            // A list of calls in Python begins as a list in JSON does.
            let json_like =
                trimmed.starts_with('{') || trimmed.trim_start_matches('[').trim_start().starts_with(['{', '"']);
            if json_like { of_json_text(trimmed) } else { python::calls(trimmed, tools) }
        }
        Body::Tagged if trimmed.starts_with("<function=") => {
            let inside = &trimmed["<function=".len()..];
            of_function_xml(inside.strip_suffix("</function>").unwrap_or(inside), tools).map(|call| vec![call])
        }
        Body::Tagged if trimmed.contains("<arg_key>") => of_keys_and_values(trimmed, tools).map(|call| vec![call]),
        Body::Tagged | Body::Json => of_json_text(trimmed),
        Body::FunctionXml => of_function_xml(trimmed, tools).map(|call| vec![call]),
        Body::Function => of_function(trimmed).map(|call| vec![call]),
        Body::Mistral => of_mistral(trimmed),
        Body::DeepSeek => of_deepseek(trimmed).map(|call| vec![call]),
    }
}

/// Whether a text that is not marked as a call and cannot be read was meant as one.
pub(super) fn looks_like_call(text: &str) -> bool {
    text.contains("\"name\"") && ["\"arguments\"", "\"parameters\""].iter().any(|key| text.contains(key))
}

fn of_json_text(text: &str) -> Result<Vec<ToolCall>, String> {
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Json>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) => return Err(format!("it is not valid JSON: {error}")),
            None => break,
        };
        let end = values.byte_offset();
        of_json(&value, &mut calls)?;
        // Several calls stand one after the other, or with semicolons between them.
        rest = rest[end..].trim_start_matches(|c: char| c.is_whitespace() || c == ';');
    }
    if calls.is_empty() && text.is_empty() { Err("it is empty".to_owned()) } else { Ok(calls) }
}

fn of_json(value: &Json, calls: &mut Vec<ToolCall>) -> Result<(), String> {
    match value {
        Json::Array(items) => items.iter().try_for_each(|item| match item {
            Json::Object(_) => of_json(item, calls),
            other => Err(format!("the list of calls holds {}, not an object", kind(other))),
        }),
        Json::Object(fields) => {
            if let Some(list @ Json::Array(_)) = fields.get("tool_calls") {
                return of_json(list, calls);
            }
            calls.push(of_object(fields)?);
            Ok(())
        }
        other => Err(format!("it is {}, not an object with a name and arguments", kind(other))),
    }
}

fn of_object(fields: &Map<String, Json>) -> Result<ToolCall, String> {
    let id = ["id", "call_id", "tool_call_id"].iter().find_map(|key| match fields.get(*key) {
        Some(Json::String(id)) => Some(id.clone()),
        Some(Json::Number(id)) => Some(id.to_string()),
        _ => None,
    });
    // OpenAI's interface has name and arguments one level down.
    let inner = match fields.get("function") {
        Some(Json::Object(function)) => function,
        _ => fields,
    };
    let name = ["name", "tool_name", "function"].iter().find_map(|key| inner.get(*key));
    let name = match name {
        Some(Json::String(name)) if !name.is_empty() => name.clone(),
        Some(Json::String(_)) => return Err("its `name` is empty".to_owned()),
        Some(other) => return Err(format!("its `name` is {}, not a text", kind(other))),
        None => return Err("it has no `name`".to_owned()),
    };
    let given = ["arguments", "parameters", "args"].iter().find_map(|key| inner.get(*key));
    Ok(ToolCall { id, arguments: arguments(given.unwrap_or(&Json::Null), &name)?, name })
}

/// The arguments as an object; a text is read as JSON first.
fn arguments(value: &Json, name: &str) -> Result<Json, String> {
    match value {
        Json::Null => Ok(Json::Object(Map::new())),
        Json::Object(_) => Ok(value.clone()),
        Json::String(text) => match serde_json::from_str(text) {
            Ok(value @ Json::Object(_)) => Ok(value),
            Ok(other) => Err(format!("the arguments of `{name}` are {}, not an object", kind(&other))),
            Err(error) => Err(format!("the arguments of `{name}` are a text that is no JSON: {error}")),
        },
        other => Err(format!("the arguments of `{name}` are {}, not an object", kind(other))),
    }
}

fn arguments_text(text: &str, name: &str) -> Result<Json, String> {
    if text.trim().is_empty() {
        return Ok(Json::Object(Map::new()));
    }
    match serde_json::from_str(text.trim()) {
        Ok(value) => arguments(&value, name),
        Err(error) => Err(format!("the arguments of `{name}` are not valid JSON: {error}")),
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a truth value",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// A name, which must be there.
fn named(name: &str) -> Result<String, String> {
    match name.trim() {
        "" => Err("it names no tool".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// `NAME>{…}`
fn of_function(text: &str) -> Result<ToolCall, String> {
    let (name, json) = text.split_once('>').ok_or("the name of the tool is not closed with `>`")?;
    let name = named(name)?;
    Ok(ToolCall { id: None, arguments: arguments_text(json, &name)?, name })
}

/// `NAME><parameter=KEY>VALUE</parameter>…`
fn of_function_xml(text: &str, tools: &[Tool]) -> Result<ToolCall, String> {
    let (name, mut rest) = text.split_once('>').ok_or("the name of the function is not closed with `>`")?;
    let name = named(name)?;
    let mut fields = Map::new();
    while let Some((between, parameter)) = rest.split_once("<parameter=") {
        nothing_between(between, &name)?;
        let (key, value) = parameter.split_once('>').ok_or("the name of a parameter is not closed with `>`")?;
        let (value, after) = value
            .split_once("</parameter>")
            .ok_or_else(|| format!("the parameter `{key}` of `{name}` has no `</parameter>`"))?;
        // The value stands on lines of its own.
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        fields.insert(key.trim().to_owned(), typed(value, &name, key.trim(), tools));
        rest = after;
    }
    nothing_between(rest, &name)?;
    Ok(ToolCall { id: None, name, arguments: Json::Object(fields) })
}

fn nothing_between(text: &str, name: &str) -> Result<(), String> {
    match text.trim() {
        "" => Ok(()),
        text => {
            let start: String = text.chars().take(40).collect();
            Err(format!("between the parameters of `{name}` stands {start:?}"))
        }
    }
}

/// `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…`, as GLM writes it.
fn of_keys_and_values(text: &str, tools: &[Tool]) -> Result<ToolCall, String> {
    let (name, rest) = text.split_once("<arg_key>").unwrap_or((text, ""));
    let name = named(name)?;
    let mut fields = Map::new();
    for pair in rest.split("<arg_key>") {
        let (key, value) = pair.split_once("</arg_key>").ok_or("a key is not closed with `</arg_key>`")?;
        let value = value.trim();
        let value = value.strip_prefix("<arg_value>").and_then(|value| value.strip_suffix("</arg_value>")).ok_or_else(
            || format!("the argument `{key}` of `{name}` is not between `<arg_value>` and `</arg_value>`"),
        )?;
        fields.insert(key.trim().to_owned(), typed(value, &name, key.trim(), tools));
    }
    Ok(ToolCall { id: None, name, arguments: Json::Object(fields) })
}

/// A value that is written without quotes: a text if the tool's schema says so, else what it is as JSON.
fn typed(text: &str, tool: &str, key: &str, tools: &[Tool]) -> Json {
    let schema = tools.iter().find(|known| known.name() == tool).and_then(Tool::parameters);
    let ty = schema.and_then(|schema| schema.get("properties")?.get(key)?.get("type"));
    let is_text =
        |ty: &Json| ty == "string" || ty.as_array().is_some_and(|types| types.iter().any(|ty| ty == "string"));
    match ty {
        // Without a type nothing says that `1` is a number.
        Some(ty) if !is_text(ty) => {
            // Python's way of writing them, which models confuse with JSON's.
            let text = match text.trim() {
                "True" => "true",
                "False" => "false",
                "None" => "null",
                text => text,
            };
            serde_json::from_str(text).unwrap_or_else(|_| text.into())
        }
        _ => text.into(),
    }
}

/// A list or an object in JSON, or `NAME[CALL_ID]ID[ARGS]{…}`, the id being optional.
fn of_mistral(text: &str) -> Result<Vec<ToolCall>, String> {
    let Some((head, json)) = text.split_once("[ARGS]").filter(|_| !text.starts_with(['[', '{'])) else {
        if !text.starts_with(['[', '{']) {
            return Err("neither a list of calls nor a name and `[ARGS]` follows `[TOOL_CALLS]`".to_owned());
        }
        return of_json_text(text);
    };
    let (name, id) = match head.split_once("[CALL_ID]") {
        Some((name, id)) => (name, Some(id.trim().to_owned())),
        None => (head, None),
    };
    let name = named(name)?;
    Ok(vec![ToolCall { id, arguments: arguments_text(json, &name)?, name }])
}

/// `function<｜tool▁sep｜>NAME` and a block of JSON, or `NAME<｜tool▁sep｜>{…}` as of version 3.1.
fn of_deepseek(text: &str) -> Result<ToolCall, String> {
    let (head, rest) = text.split_once("<｜tool▁sep｜>").ok_or("`<｜tool▁sep｜>` is missing")?;
    let (name, json) = match rest.split_once("```json") {
        Some((name, block)) => {
            let block = block.trim_end();
            (name, block.strip_suffix("```").unwrap_or(block))
        }
        None => (head, rest),
    };
    let name = named(name)?;
    Ok(ToolCall { id: None, arguments: arguments_text(json, &name)?, name })
}
