//! Filters whose results in Python's Jinja2, for which chat templates are written, differ from the engine's own.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Nesting beyond this is refused; conversations are two or three levels deep.
const DEPTH_MAX: usize = 64;

/// Indentation beyond this is refused; nobody reads it.
const INDENT_MAX: usize = 64;

/// `text | indent(width=4, first=false, blank=false)`: a last line end stays (the engine's own filter drops it), and
/// whatever Python counts as a line end becomes `\n`.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
pub fn indent(state: &State, text: &str, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |at: usize, name: &str| match positional.get(at) {
        Some(value) => Ok::<_, Error>(Some(value.clone())),
        None => named.get::<Option<Value>>(name),
    };
    let indentation = match argument(0, "width")? {
        None => "    ".to_owned(),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(bounded(usize::try_from(width)?)?),
        },
    };
    let first = argument(1, "first")?.is_some_and(|value| value.is_true());
    let blank = argument(2, "blank")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;

    let lines = python_lines(text);
    state.consume_fuel((lines.len() * bounded(indentation.len())? + text.len()) as u64 / 64)?;
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if if at == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn bounded(indent: usize) -> Result<usize, Error> {
    if indent > INDENT_MAX {
        let detail = format!("an indentation of {indent} is over the limit of {INDENT_MAX}");
        return Err(Error::new(ErrorKind::InvalidOperation, detail));
    }
    Ok(indent)
}

/// `(text + '\n').splitlines()` in Python: never empty, and a last line end leaves an empty line behind.
fn python_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let ends = ['\n', '\r', '\u{B}', '\u{C}', '\u{1C}', '\u{1D}', '\u{1E}', '\u{85}', '\u{2028}', '\u{2029}'];
    while let Some(at) = rest.find(ends) {
        lines.push(&rest[..at]);
        let end = &rest[at..];
        let length = if end.starts_with("\r\n") { 2 } else { end.chars().next().map_or(0, char::len_utf8) };
        rest = &end[length..];
    }
    lines.push(rest);
    lines
}

/// `value | tojson`, `value | tojson(indent=4)`, `value | tojson(ensure_ascii=False)`: Python's `json.dumps` with
/// `ensure_ascii=False` unless asked for, nothing escaped for HTML (the engine's own filter escapes `<`, `>`, `&`, `'`).
#[expect(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
pub fn tojson(state: &State, value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let ensure_ascii: Option<bool> = arguments.get("ensure_ascii")?;
    let indent: Option<usize> = arguments.get("indent")?;
    let sort_keys: Option<bool> = arguments.get("sort_keys")?;
    arguments.assert_all_used()?;
    let mut writer = Writer {
        state,
        out: String::new(),
        indent: indent.map(bounded).transpose()?,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
    };
    writer.write(value, 0)?;
    Ok(Value::from(writer.out))
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    indent: Option<usize>,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer<'_, '_, '_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply for JSON"));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            // Numbers print as Python prints them, which is what json.dumps does.
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => self.write_list(value, depth)?,
            ValueKind::Map => self.write_map(value, depth)?,
            kind => return Err(Error::new(ErrorKind::BadSerialization, format!("JSON has no {kind}"))),
        }
        Ok(())
    }

    fn write_list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in list.try_iter()? {
            self.separate(empty, depth + 1)?;
            empty = false;
            self.write(&item, depth + 1)?;
        }
        self.close(']', empty, depth)
    }

    fn write_map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        for (at, key) in keys.iter().enumerate() {
            self.separate(at == 0, depth + 1)?;
            match key.as_str() {
                Some(text) => self.write_string(text)?,
                None => self.write_string(&key.to_string())?,
            }
            self.out.push_str(": ");
            self.write(&map.get_item(key)?, depth + 1)?;
        }
        self.close('}', keys.is_empty(), depth)
    }

    fn separate(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.out.push_str(if self.indent.is_some() { "," } else { ", " });
        }
        self.break_line(depth)
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) -> Result<(), Error> {
        if !empty {
            self.break_line(depth)?;
        }
        self.out.push(bracket);
        Ok(())
    }

    fn break_line(&mut self, depth: usize) -> Result<(), Error> {
        let Some(indent) = self.indent else { return Ok(()) };
        self.state.consume_fuel((indent * depth) as u64 / 64)?;
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', indent * depth));
        Ok(())
    }

    fn write_string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{C}' => self.out.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}
