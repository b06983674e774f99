//! How a call is written that must come: one form of each family that the parser reads.

use serde_json::Value as Json;

use super::ToolFormat;

/// The texts around the calls of an answer, their names and their arguments:
/// `open`, calls with `separator` between them, `close`; a call is `before_name`, the name, `after_name`, the arguments as
/// JSON, `after_arguments`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallForm {
    /// Before the first call.
    pub open: &'static str,
    /// Before a call's name.
    pub before_name: &'static str,
    /// Between name and arguments.
    pub after_name: &'static str,
    /// Behind the arguments.
    pub after_arguments: &'static str,
    /// Between two calls.
    pub separator: &'static str,
    /// Behind the last call.
    pub close: &'static str,
    /// Whether the name stands in quotes of JSON.
    quoted: bool,
}

const OBJECT: CallForm = CallForm {
    open: "",
    before_name: "{\"name\": \"",
    after_name: "\", \"arguments\": ",
    after_arguments: "}",
    separator: "\n",
    close: "",
    quoted: true,
};
const LIST: CallForm = CallForm { open: "[", separator: ", ", close: "]", ..OBJECT };
const PARAMETERS: CallForm = CallForm { after_name: "\", \"parameters\": ", separator: "; ", ..OBJECT };

impl CallForm {
    /// The form of a family.
    pub fn of(format: ToolFormat) -> Self {
        match format {
            ToolFormat::Hermes | ToolFormat::QwenXml => {
                Self { before_name: "<tool_call>\n{\"name\": \"", after_arguments: "}\n</tool_call>", ..OBJECT }
            }
            ToolFormat::Llama3 | ToolFormat::Gemma => PARAMETERS,
            ToolFormat::Mistral => Self { open: "[TOOL_CALLS][", ..LIST },
            ToolFormat::Phi => Self { open: "functools[", ..LIST },
            ToolFormat::DeepSeek => Self {
                open: "<｜tool▁calls▁begin｜>",
                before_name: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                after_name: "\n```json\n",
                after_arguments: "\n```<｜tool▁call▁end｜>",
                separator: "\n",
                close: "<｜tool▁calls▁end｜>",
                quoted: false,
            },
            ToolFormat::CommandR => Self {
                open: "Action:\n```json\n[",
                before_name: "{\"tool_name\": \"",
                after_name: "\", \"parameters\": ",
                close: "]\n```",
                ..LIST
            },
            ToolFormat::Python => LIST,
            ToolFormat::Json => OBJECT,
        }
    }

    /// A name as it stands in a call.
    pub(crate) fn name(&self, name: &str) -> String {
        if !self.quoted {
            return name.to_owned();
        }
        let quoted = Json::from(name).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    }
}
