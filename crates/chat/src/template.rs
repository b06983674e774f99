//! A chat template: compiled once, rendered for each conversation within limits.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, context};

use crate::builtin::Builtin;
use crate::error::Place;
use crate::{Error, Message, filters};

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

/// A compiled chat template of one model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    builtin: Option<&'static str>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles a Jinja template as model files carry it, with the texts of the model's BOS and EOS tokens (empty where
    /// there is none).
    ///
    /// The language is that of Hugging Face's `apply_chat_template`: blocks are trimmed (`trim_blocks`,
    /// `lstrip_blocks`), `break` and `continue` work, Python's methods on strings and dictionaries are there, and
    /// `raise_exception(message)` refuses a conversation. The template sees `messages`, `add_generation_prompt`,
    /// `bos_token`, `eos_token`, and `tools` and `documents`, which are none.
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
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", filters::tojson);
        environment.add_filter("indent", filters::indent);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| Error::Syntax { place: place_of(&error), reason: reason_of(&error) })?;
        Ok(Self { environment, source: source.to_owned(), builtin: None, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// A built-in template.
    pub fn builtin(builtin: Builtin, bos: &str, eos: &str) -> Self {
        let mut template = Self::new(builtin.source, bos, eos).expect("built-in templates are tested to compile");
        template.builtin = Some(builtin.name);
        template
    }

    /// The template for a file that has none, by its GGUF architecture. The caller says aloud that, and which
    /// ([`ChatTemplate::builtin_name`]), was taken.
    pub fn fallback(architecture: &str, bos: &str, eos: &str) -> Self {
        Self::builtin(Builtin::for_architecture(architecture), bos, eos)
    }

    /// The name of the built-in template that this is, or `None` for one that came with a model.
    pub fn builtin_name(&self) -> Option<&'static str> {
        self.builtin
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes a conversation as the prompt that the model was trained on; with `add_generation_prompt`, up to where the
    /// assistant's answer begins.
    ///
    /// # Errors
    /// [`Error::Refused`] when the template raises an exception, [`Error::Render`] when it fails, [`Error::Endless`]
    /// and [`Error::OutputTooLong`] when it exceeds its limits, which grow with the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let input_bytes: usize = messages.iter().map(|message| message.role.len() + message.content.len()).sum();
        let max = OUTPUT_BYTES_BASE.saturating_add(input_bytes.saturating_mul(OUTPUT_BYTES_PER_BYTE));
        let mut output = Bounded { bytes: Vec::new(), max };

        // Fuel is a property of the environment, whose copy is cheap next to a rendering.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL_BASE.saturating_add((input_bytes as u64).saturating_mul(FUEL_PER_BYTE))));
        let template = environment.get_template(NAME).expect("it was added when this was made");
        let values = context! {
            messages => messages.iter().map(value_of).collect::<Vec<Value>>(),
            add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        template.render_captured_to(values, &mut output).map_err(|error| render_error(&error, max))?;
        Ok(String::from_utf8(output.bytes).expect("the engine writes whole strings"))
    }
}

fn value_of(message: &Message) -> Value {
    context! { role => message.role.as_str(), content => message.content.as_str() }
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
