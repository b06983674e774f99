//! Filters whose results in Python's Jinja2, for which chat templates are written, differ from the engine's own.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::python::{self, DEPTH_MAX};

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

    let lines = python::lines(text);
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

/// `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`: Python's `json.dumps` as
/// `transformers` calls it, nothing escaped for HTML (the engine's own filter escapes `<`, `>`, `&`, `'`).
#[expect(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
pub fn tojson(state: &State, value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |at: usize, name: &str| {
        let value = match positional.get(at) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok::<_, Error>(value.filter(|value| !value.is_none()))
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(bounded(usize::try_from(indent)?)?),
        }),
    };
    let (item_separator, key_separator) = match argument(2, "separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => {
            let text = |at: usize| {
                let item = pair.get_item_by_index(at)?;
                item.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the separators of `tojson` are two texts"))
            };
            (text(0)?, text(1)?)
        }
    };
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    bounded(indent.as_ref().map_or(0, String::len).max(item_separator.len()).max(key_separator.len()))?;
    let mut writer =
        Writer { state, out: String::new(), indent, item_separator, key_separator, ensure_ascii, sort_keys };
    writer.write(value, 0)?;
    Ok(Value::from(writer.out))
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
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
            ValueKind::Number => match python::number(value).as_str() {
                "nan" => self.out.push_str("NaN"),
                "inf" => self.out.push_str("Infinity"),
                "-inf" => self.out.push_str("-Infinity"),
                number => self.out.push_str(number),
            },
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
                // As `json.dumps` makes texts of other keys.
                None => match key.kind() {
                    ValueKind::None => self.write_string("null")?,
                    ValueKind::Bool => self.write_string(if key.is_true() { "true" } else { "false" })?,
                    _ => self.write_string(&python::number(key))?,
                },
            }
            self.out.push_str(&self.key_separator);
            self.write(&map.get_item(key)?, depth + 1)?;
        }
        self.close('}', keys.is_empty(), depth)
    }

    fn separate(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.out.push_str(&self.item_separator);
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
        let Some(indent) = &self.indent else { return Ok(()) };
        self.state.consume_fuel((indent.len() * depth) as u64 / 64)?;
        self.out.push('\n');
        for _ in 0..depth {
            self.out.push_str(indent);
        }
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
