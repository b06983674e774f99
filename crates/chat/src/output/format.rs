//! How each family marks its tool calls.

use std::fmt;
use std::str::FromStr;

/// The way in which a family of models writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3, SmolLM3; GLM's keys and values, too.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen3-Coder.
    QwenXml,
    /// `{"name": …, "parameters": …}` as the whole answer, or after `<|python_tag|>`; `<function=NAME>{…}</function>`.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`, and `[TOOL_CALLS]NAME[ARGS]{…}` of newer models.
    Mistral,
    /// `functools[{…}]`, `<|tool_call|>[{…}]<|/tool_call|>`; Granite's `<|tool_call|>[{…}]`.
    Phi,
    /// A block ` ```tool_code ` with a call in Python, or ` ```json ` with an object.
    Gemma,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, then the arguments in a block ` ```json `.
    DeepSeek,
    /// `Action:` and a block ` ```json ` with a list of `{"tool_name": …, "parameters": …}`; Command-R.
    CommandR,
    /// Calls in Python, in a list: `[get_weather(city="Paris")]`.
    Python,
    /// The whole answer is JSON with a name and arguments, or a list of such.
    Json,
}

/// A stretch of an answer that is a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// What it begins with.
    pub open: &'static str,
    /// How many bytes at the end of `open` are part of the body.
    pub kept: usize,
    /// Whether it is recognised only where an answer begins, or behind another section.
    pub start_only: bool,
    /// Whether an ordinary answer may look like this: it is a call only if it has the shape of one and names a tool.
    pub unmarked: bool,
    pub end: End,
    pub body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At once.
    Nothing,
    /// Before this mark, which is dropped.
    Mark(&'static str),
    /// With the JSON value that begins here.
    Json,
    /// With the JSON value that begins here or, if a name comes first, behind this mark.
    NamedJson(&'static str),
    /// With the answer.
    Rest,
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Nothing,
    /// JSON, or one of the forms with tags.
    Tagged,
    /// JSON: an object, a list, or several.
    Json,
    /// JSON that calls in the form of Python may stand in for.
    JsonOrPython,
    Python,
    /// `NAME>{…}`, behind `<function=`.
    Function,
    /// `NAME>` and parameters in tags, behind `<function=`.
    FunctionXml,
    Mistral,
    DeepSeek,
}

const fn section(open: &'static str, end: End, body: Body) -> Section {
    Section { open, kept: 0, start_only: false, unmarked: false, end, body }
}

/// An answer that is nothing but a call, without a mark.
const fn whole(open: &'static str, kept: usize, end: End, body: Body) -> Section {
    Section { open, kept, start_only: true, unmarked: true, end, body }
}

const TOOL_CALL: Section = section("<tool_call>", End::Mark("</tool_call>"), Body::Tagged);
const OBJECT: Section = whole("{", 1, End::Json, Body::Json);
const LIST: Section = whole("[", 1, End::Json, Body::Json);
const JSON_BLOCK: Section = whole("```json", 0, End::Mark("```"), Body::Json);

const HERMES: [Section; 1] = [TOOL_CALL];
const QWEN_XML: [Section; 2] = [TOOL_CALL, section("<function=", End::Mark("</function>"), Body::FunctionXml)];
const LLAMA3: [Section; 3] = [
    section("<|python_tag|>", End::Rest, Body::JsonOrPython),
    section("<function=", End::Mark("</function>"), Body::Function),
    OBJECT,
];
const MISTRAL: [Section; 1] = [section("[TOOL_CALLS]", End::NamedJson("[ARGS]"), Body::Mistral)];
const PHI: [Section; 3] = [
    Section { kept: 1, ..section("functools[", End::Json, Body::Json) },
    section("<|tool_call|>", End::Json, Body::Json),
    section("<|/tool_call|>", End::Nothing, Body::Nothing),
];
const GEMMA: [Section; 5] = [
    section("```tool_code", End::Mark("```"), Body::JsonOrPython),
    section("```tool_call", End::Mark("```"), Body::JsonOrPython),
    JSON_BLOCK,
    OBJECT,
    whole("[", 1, End::Json, Body::JsonOrPython),
];
const DEEPSEEK: [Section; 3] = [
    section("<｜tool▁calls▁begin｜>", End::Nothing, Body::Nothing),
    section("<｜tool▁calls▁end｜>", End::Nothing, Body::Nothing),
    section("<｜tool▁call▁begin｜>", End::Mark("<｜tool▁call▁end｜>"), Body::DeepSeek),
];
const COMMAND_R: [Section; 2] = [
    section("Action:\n```json", End::Mark("```"), Body::Json),
    section("<|START_ACTION|>", End::Mark("<|END_ACTION|>"), Body::Json),
];
const PYTHON: [Section; 2] =
    [section("<|python_tag|>", End::Rest, Body::Python), whole("[", 1, End::Json, Body::JsonOrPython)];
const JSON: [Section; 3] = [JSON_BLOCK, OBJECT, LIST];

/// Marks within sections, of which models may have control tokens.
pub(super) const INNER_MARKS: [&str; 3] = ["[ARGS]", "[CALL_ID]", "<｜tool▁sep｜>"];

/// Every format and its name.
const NAMES: [(&str, ToolFormat); 10] = [
    ("hermes", ToolFormat::Hermes),
    ("qwen-xml", ToolFormat::QwenXml),
    ("llama3", ToolFormat::Llama3),
    ("mistral", ToolFormat::Mistral),
    ("phi", ToolFormat::Phi),
    ("gemma", ToolFormat::Gemma),
    ("deepseek", ToolFormat::DeepSeek),
    ("command-r", ToolFormat::CommandR),
    ("python", ToolFormat::Python),
    ("json", ToolFormat::Json),
];

impl ToolFormat {
    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(_, format)| *format)
    }

    /// The format that a template tells its model to use, by the marks in it; JSON without marks if there are none.
    pub fn of_template(source: &str) -> Self {
        let has = |mark: &str| source.contains(mark);
        if has("[TOOL_CALLS]") {
            Self::Mistral
        } else if has("<function=") && has("<parameter=") {
            Self::QwenXml
        } else if has("<tool_call>") {
            Self::Hermes
        } else if has("<｜tool▁call") {
            Self::DeepSeek
        } else if has("functools[") || has("<|tool_call|>") {
            Self::Phi
        } else if has("Action:") && has("tool_name") || has("<|START_ACTION|>") {
            Self::CommandR
        } else if has("<|python_tag|>") || has("<function=") || has("<|start_header_id|>") {
            Self::Llama3
        } else if has("tool_code") || has("<start_of_turn>") {
            Self::Gemma
        } else {
            Self::Json
        }
    }

    pub(super) fn sections(self) -> &'static [Section] {
        match self {
            Self::Hermes => &HERMES,
            Self::QwenXml => &QWEN_XML,
            Self::Llama3 => &LLAMA3,
            Self::Mistral => &MISTRAL,
            Self::Phi => &PHI,
            Self::Gemma => &GEMMA,
            Self::DeepSeek => &DEEPSEEK,
            Self::CommandR => &COMMAND_R,
            Self::Python => &PYTHON,
            Self::Json => &JSON,
        }
    }
}

impl fmt::Display for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = NAMES.iter().find(|(_, format)| format == self).expect("every format has a name");
        f.write_str(name)
    }
}

impl FromStr for ToolFormat {
    type Err = String;

    /// # Errors
    /// The names that there are.
    fn from_str(name: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, format)| *format).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("give one of {}", names.join(", "))
        })
    }
}
