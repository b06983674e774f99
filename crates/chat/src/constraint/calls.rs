//! Tool calls that must come: in the form that a family of models writes them in, so that what is enforced is what
//! [`OutputParser`](crate::OutputParser) reads.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::schema::prepare;
use super::{ConstraintError, ConstraintSource, ToolSchema};
use crate::output::CallForm;

/// Most calls of one answer.
pub const CALLS_MAX: usize = 16;
/// Deepest level at which objects are closed; deeper ones stay as they are.
const DEPTH_MAX: usize = 64;

impl ConstraintSource {
    /// One to `calls_max` calls of `tools` in the form of a family; where `or` is given, an answer of that form will do, too.
    ///
    /// JSON is written without choice of white space. An object that lists its properties and does not say whether there may be
    /// others gets no others: a small model would make some up.
    ///
    /// # Errors
    /// No tools, two of one name, a schema that cannot be honoured, or an `or` that is no JSON.
    pub fn tool_calls(
        tools: &[ToolSchema],
        form: &CallForm,
        calls_max: usize,
        or: Option<&ConstraintSource>,
    ) -> Result<Self, ConstraintError> {
        let invalid = |problem: String| Err(ConstraintError::Invalid { kind: "tool call", problem });
        if tools.is_empty() {
            return invalid("there is no tool to call".to_owned());
        }
        let text = |text: &str| Value::from(text).to_string();
        // An empty text is no part of a grammar.
        let part = |fixed: &str| if fixed.is_empty() { String::new() } else { format!("{} ", text(fixed)) };
        let more = match calls_max.min(CALLS_MAX) {
            0 | 1 => String::new(),
            n => format!("({}call){{0,{}}} ", part(form.separator), n - 1),
        };
        let calls = format!("{}call {more}{}", part(form.open), part(form.close));
        let mut grammar = match or {
            None => format!("start: {calls}\n"),
            Some(or) => {
                let schema = match or {
                    Self::JsonSchema(schema) => schema.clone(),
                    Self::JsonObject => json!({ "type": "object" }),
                    _ => return invalid("beside tool calls only JSON can be asked for".to_owned()),
                };
                format!("start: calls | answer\ncalls: {calls}\nanswer: %json {}\n", prepare(&schema)?)
            }
        };
        let names: Vec<String> = (0..tools.len()).map(|at| format!("call{at}")).collect();
        let _ = writeln!(grammar, "call: {}", names.join(" | "));
        for (at, tool) in tools.iter().enumerate() {
            if tools[..at].iter().any(|other| other.name == tool.name) {
                return invalid(format!("two tools are called `{}`", tool.name));
            }
            let mut schema = tool.parameters.clone();
            close_objects(&mut schema, 0);
            let mut schema = prepare(&schema)?;
            schema["x-guidance"] =
                json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
            let before = format!("{}{}{}", form.before_name, form.name(&tool.name), form.after_name);
            let _ = writeln!(grammar, "call{at}: {}%json {schema} {}", part(&before), part(form.after_arguments));
        }
        Ok(Self::Lark(grammar))
    }
}

/// Says of objects that list their properties that there are no others, where nothing else is said.
fn close_objects(schema: &mut Value, depth: usize) {
    const OPEN_ENDED: [&str; 9] = [
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
        "if",
        "minProperties",
    ];
    let Value::Object(members) = schema else { return };
    if depth > DEPTH_MAX {
        return;
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(|property| close_objects(property, depth + 1));
    }
    if let Some(items) = members.get_mut("items") {
        close_objects(items, depth + 1);
    }
    if members.contains_key("properties") && OPEN_ENDED.iter().all(|key| !members.contains_key(*key)) {
        members.insert("additionalProperties".into(), false.into());
    }
}
