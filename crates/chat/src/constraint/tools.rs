//! Tool calls as constraints: the answer must call one of some tools, with arguments that obey that tool's schema.

use serde_json::{Map, Value, json};

use super::{ConstraintError, ConstraintSource, json_options};

/// Deepest nesting that references are rewritten in; what is deeper is refused by the compiler anyway.
const DEPTH_MAX: usize = 512;

/// A tool as a constraint needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSchema {
    /// Its name.
    pub name: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

/// How a model family writes a call: `before`, then an object with the two keys, then `after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallShape {
    /// Text before the object, such as `<tool_call>\n`. Control tokens are not recognised in it.
    pub before: String,
    /// Text after the object, such as `\n</tool_call>`.
    pub after: String,
    /// Key of the tool's name.
    pub name_key: String,
    /// Key of its arguments.
    pub arguments_key: String,
}

impl Default for ToolCallShape {
    /// The bare object, with `name` and `arguments`.
    fn default() -> Self {
        Self {
            before: String::new(),
            after: String::new(),
            name_key: "name".to_owned(),
            arguments_key: "arguments".to_owned(),
        }
    }
}

impl ConstraintSource {
    /// Exactly one call of one of `tools`: what `tool_choice: "required"` asks for, and with a single tool what naming
    /// it does.
    ///
    /// Each tool's schema stays a document of its own: `#/$defs/…` in it means its own definitions.
    ///
    /// # Errors
    /// No tools, or two of one name.
    pub fn tool_call(tools: &[ToolSchema], shape: &ToolCallShape) -> Result<Self, ConstraintError> {
        let invalid = |problem: String| Err(ConstraintError::Invalid { kind: "tool call", problem });
        if tools.is_empty() {
            return invalid("there is no tool to call".to_owned());
        }
        let mut definitions = Map::new();
        let mut calls = Vec::with_capacity(tools.len());
        for (at, tool) in tools.iter().enumerate() {
            if tools[..at].iter().any(|other| other.name == tool.name) {
                return invalid(format!("two tools are called `{}`", tool.name));
            }
            let key = format!("tool-{at}");
            let mut parameters = tool.parameters.clone();
            rebase(&mut parameters, &format!("#/$defs/{key}"), 0);
            definitions.insert(key.clone(), parameters);
            calls.push(json!({
                "type": "object",
                "properties": {
                    shape.name_key.as_str(): { "const": tool.name },
                    shape.arguments_key.as_str(): { "$ref": format!("#/$defs/{key}") },
                },
                "required": [shape.name_key, shape.arguments_key],
                "additionalProperties": false,
            }));
        }
        let schema = json!({ "anyOf": calls, "$defs": definitions });
        if shape.before.is_empty() && shape.after.is_empty() {
            return Ok(Self::JsonSchema(schema));
        }
        let mut schema = schema;
        schema["x-guidance"] = json_options();
        let text = |text: &str| Value::from(text).to_string();
        Ok(Self::Lark(format!("start: {} call {}\ncall: %json {schema}\n", text(&shape.before), text(&shape.after))))
    }
}

/// Makes references to the root of `schema` point to where it is put.
fn rebase(schema: &mut Value, root: &str, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                // What an instance must be equal to is no schema, whatever it holds.
                if matches!(key.as_str(), "const" | "enum" | "default" | "examples") {
                    continue;
                }
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(rest) = target.strip_prefix('#')
                            && (rest.is_empty() || rest.starts_with('/'))
                        {
                            *target = format!("{root}{rest}");
                        }
                    }
                    value => rebase(value, root, depth + 1),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, root, depth + 1)),
        _ => {}
    }
}
