//! A chat template: compiled once, rendered for each conversation within limits.

use std::borrow::Cow;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::{Value as Json, json};

use crate::builtin::Builtin;
use crate::error::Place;
use crate::generation_blocks::without_marks;
use crate::message::{Content, Message, Tool, ToolCall};
use crate::python::DEPTH_MAX;
use crate::time::Timestamp;
use crate::{Error, filters, python};

/// Longest template; real ones are below 30 kB.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Work that any template may do, in the engine's units (about an instruction, or 64 bytes of data), and what each
/// byte of the conversation adds to it. Real templates need a few hundred units a message.
const FUEL_BASE: u64 = 1_000_000;
const FUEL_PER_BYTE: u64 = 8;
/// Prompt bytes that any template may write, and what each byte of the conversation adds.
const OUTPUT_BYTES_BASE: usize = 1 << 20;
const OUTPUT_BYTES_PER_BYTE: usize = 4;

const NAME: &str = "chat template";
/// Opens the detail of errors that the template raised itself.
const RAISED: &str = "raised by the template: ";

/// What a template may not be told by a variable, because the conversation fills it in.
const RESERVED: [&str; 5] = ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"];

/// A compiled chat template of one model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    builtin: Option<&'static str>,
    bos: String,
    eos: String,
    arguments_as_text: bool,
}

/// How a conversation is rendered, the messages aside.
#[derive(Clone, Copy, Default)]
pub struct RenderOptions<'a> {
    /// End where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Tools that the model may call.
    pub tools: &'a [Tool],
    /// What else the template should know: `enable_thinking`, `documents`, … Its own defaults hold for the rest.
    pub variables: &'a [(String, Json)],
    /// What `strftime_now` tells; without it the template sees no such function.
    pub now: Option<Timestamp>,
    /// Applied to every text of messages, tools and variables before the template sees it: there the caller takes the
    /// meaning of control tokens from what users and tools wrote.
    pub shield: Option<&'a dyn Fn(&str) -> String>,
}

impl ChatTemplate {
    /// Compiles a Jinja template as model files carry it, with the texts of the model's BOS and EOS tokens (empty where
    /// there is none).
    ///
    /// The language is that of Hugging Face's `apply_chat_template`: blocks are trimmed (`trim_blocks`,
    /// `lstrip_blocks`), `break` and `continue` work, Python's methods on strings and dictionaries are there, and
    /// `raise_exception(message)` refuses a conversation, `strftime_now(format)` tells the time and `{% generation %}`
    /// is a block without effect. The template sees `messages`, `tools` and `documents` (none where there are none),
    /// `add_generation_prompt`, `bos_token`, `eos_token`, and the variables of [`RenderOptions`].
    ///
    /// # Errors
    /// [`Error::Syntax`] with line and column, [`Error::SourceTooLong`].
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Error::SourceTooLong { bytes: source.len(), max: SOURCE_BYTES_MAX });
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the delimiters are the default ones"));
        environment.set_debug(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        python::install(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", filters::tojson);
        environment.add_filter("indent", filters::indent);
        environment
            .add_template_owned(NAME, without_marks(source).into_owned())
            .map_err(|error| Error::Syntax { place: place_of(&error), reason: reason_of(&error) })?;
        let (source, bos, eos) = (source.to_owned(), bos.to_owned(), eos.to_owned());
        let mut template = Self { environment, source, builtin: None, bos, eos, arguments_as_text: false };
        template.arguments_as_text = template.wants_arguments_as_text();
        Ok(template)
    }

    /// A built-in template.
    pub fn builtin(builtin: Builtin, bos: &str, eos: &str) -> Self {
        let mut template = Self::new(builtin.source, bos, eos).expect("built-in templates are tested to compile");
        template.builtin = Some(builtin.name);
        template
    }

    /// The name of the built-in template that this is, or `None` for one that came with a model.
    pub fn builtin_name(&self) -> Option<&'static str> {
        self.builtin
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template has any use for tool definitions.
    pub fn takes_tools(&self) -> bool {
        // A template cannot see them by any other name.
        self.source.contains("tools")
    }

    /// Whether the template expects the arguments of tool calls as the text of a JSON object, as OpenAI's interface
    /// has them, and fails with the object itself. Found out by trying; [`ChatTemplate::render`] does what it expects.
    pub fn arguments_as_text(&self) -> bool {
        self.arguments_as_text
    }

    fn wants_arguments_as_text(&self) -> bool {
        if !self.source.contains("arguments") {
            return false;
        }
        const NEEDLE: &str = "c9f2";
        let call = |arguments: Json| {
            let call = ToolCall { id: Some("call00001".into()), name: "f".into(), arguments };
            let assistant =
                |content| Message { tool_calls: vec![call.clone()], content, ..Message::new("assistant", "") };
            let result = Message::tool_result(Some("call00001".into()), Some("f".into()), "x");
            // Some templates fail on calls without content, others on calls with it.
            [Content::Text(String::new()), Content::Absent].into_iter().any(|content| {
                let messages = [Message::new("user", "x"), assistant(content), result.clone()];
                let options = RenderOptions { now: Some(Timestamp(0)), ..RenderOptions::default() };
                self.render_with(&messages, &options).is_ok_and(|prompt| prompt.contains(NEEDLE))
            })
        };
        !call(json!({ "a": NEEDLE })) && call(json!({ "a": NEEDLE }).to_string().into())
    }

    /// Writes a conversation as the prompt that the model was trained on; with `add_generation_prompt`, up to where the
    /// assistant's answer begins.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_with`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        self.render_with(messages, &RenderOptions { add_generation_prompt, ..RenderOptions::default() })
    }

    /// Writes a conversation as the prompt that the model was trained on.
    ///
    /// # Errors
    /// [`Error::Refused`] when the template raises an exception, [`Error::Render`] when it fails, [`Error::Endless`]
    /// and [`Error::OutputTooLong`] when it exceeds its limits, which grow with the conversation;
    /// [`Error::NoTools`] when there are tools that it would ignore, [`Error::ReservedVariable`].
    pub fn render_with(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<String, Error> {
        if !options.tools.is_empty() && !self.takes_tools() {
            return Err(Error::NoTools);
        }
        if let Some((name, _)) = options.variables.iter().find(|(name, _)| RESERVED.contains(&name.as_str())) {
            return Err(Error::ReservedVariable { name: name.clone() });
        }
        let mut values = Values { shield: options.shield, bytes: 0 };
        let messages: Vec<Value> =
            messages.iter().map(|message| values.message(message, self.arguments_as_text)).collect::<Result<_, _>>()?;
        let tools = match options.tools {
            [] => Value::from(()),
            tools => tools.iter().map(|tool| values.json(tool.as_json(), 0)).collect::<Result<_, _>>()?,
        };
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), messages.into()),
            ("tools".into(), tools),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), options.add_generation_prompt.into()),
            ("bos_token".into(), self.bos.as_str().into()),
            ("eos_token".into(), self.eos.as_str().into()),
        ];
        if let Some(now) = options.now {
            let strftime_now = move |pattern: &str| now.format(pattern);
            context.push(("strftime_now".into(), Value::from_function(strftime_now)));
        }
        for (name, value) in options.variables {
            context.push((name.clone(), values.json(value, 0)?));
        }

        let input_bytes = values.bytes;
        let max = OUTPUT_BYTES_BASE.saturating_add(input_bytes.saturating_mul(OUTPUT_BYTES_PER_BYTE));
        let mut output = Bounded { bytes: Vec::new(), max };
        // Fuel is a property of the environment, whose copy is cheap next to a rendering.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL_BASE.saturating_add((input_bytes as u64).saturating_mul(FUEL_PER_BYTE))));
        let template = environment.get_template(NAME).expect("it was added when this was made");
        template
            .render_captured_to(Value::from_pairs(context), &mut output)
            .map_err(|error| render_error(&error, max))?;
        Ok(String::from_utf8(output.bytes).expect("the engine writes whole strings"))
    }
}

/// Turns what the caller gives into what the template sees, and counts its bytes.
struct Values<'a> {
    shield: Option<&'a dyn Fn(&str) -> String>,
    bytes: usize,
}

impl Values<'_> {
    fn text(&mut self, text: &str) -> Value {
        self.bytes += text.len();
        match self.shield {
            Some(shield) => shield(text).into(),
            None => text.into(),
        }
    }

    fn json(&mut self, value: &Json, depth: usize) -> Result<Value, Error> {
        if depth > DEPTH_MAX {
            let problem = "it is nested too deeply".to_owned();
            return Err(Error::Message { place: "a JSON value of the conversation".to_owned(), problem });
        }
        self.bytes += 1;
        Ok(match value {
            Json::Null => Value::from(()),
            Json::Bool(value) => Value::from(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => number.into(),
                (_, Some(number)) => number.into(),
                _ => number.as_f64().unwrap_or(f64::NAN).into(),
            },
            Json::String(text) => self.text(text),
            Json::Array(items) => items.iter().map(|item| self.json(item, depth + 1)).collect::<Result<_, _>>()?,
            Json::Object(fields) => {
                let mut pairs = Vec::with_capacity(fields.len());
                for (key, value) in fields {
                    pairs.push((self.text(key), self.json(value, depth + 1)?));
                }
                Value::from_pairs(pairs)
            }
        })
    }

    /// The message as [`Message::to_json`] has it, and its reasoning under the older name `thinking` too, as
    /// `transformers` offers it.
    fn message(&mut self, message: &Message, arguments_as_text: bool) -> Result<Value, Error> {
        let mut message = Cow::Borrowed(message);
        if let Content::Parts(parts) = &message.content {
            // Templates put parts side by side, where halves of a control token would meet.
            let whole = parts.concat();
            if self
                .shield
                .is_some_and(|shield| shield(&whole) != parts.iter().map(|part| shield(part)).collect::<String>())
            {
                message.to_mut().content = Content::Parts(vec![whole]);
            }
        }
        if arguments_as_text {
            for at in 0..message.tool_calls.len() {
                if !message.tool_calls[at].arguments.is_string() {
                    let text = python_json(&message.tool_calls[at].arguments);
                    message.to_mut().tool_calls[at].arguments = text.into();
                }
            }
        }
        let mut json = message.to_json();
        if let (Json::Object(fields), Some(reasoning)) = (&mut json, &message.reasoning) {
            let rest = std::mem::take(fields);
            fields.insert("thinking".into(), reasoning.as_str().into());
            fields.extend(rest);
        }
        self.json(&json, 0)
    }
}

/// JSON with a space behind each comma and colon, as `json.dumps` writes it and models were trained on it.
fn python_json(value: &Json) -> String {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
            out.write_all(python::float(value).as_bytes())
        }
        fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
            out.write_all(b": ")
        }
    }
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    serde::Serialize::serialize(value, &mut serializer).expect("a Vec takes any JSON");
    String::from_utf8(bytes).expect("serde_json writes UTF-8")
}

fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

fn render_error(error: &minijinja::Error, max: usize) -> Error {
    let place = place_of(error);
    if let Some(message) = error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
        return Error::Refused { place, message: message.to_owned() };
    }
    match error.kind() {
        ErrorKind::OutOfFuel => Error::Endless { place },
        // Only the output's limit makes a write fail.
        ErrorKind::WriteFailure => Error::OutputTooLong { max },
        _ => Error::Render { place, reason: reason_of(error) },
    }
}

fn place_of(error: &minijinja::Error) -> Place {
    let column = error.template_source().zip(error.range()).and_then(|(source, range)| {
        let before = source.get(..range.start)?;
        Some(before.rsplit('\n').next().unwrap_or(before).chars().count() + 1)
    });
    Place { line: error.line().unwrap_or(0), column: column.unwrap_or(0) }
}

fn reason_of(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// An output that refuses to grow beyond a limit.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max - self.bytes.len() {
            return Err(io::Error::other("the output is full"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
