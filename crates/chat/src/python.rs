//! Where Python's Jinja2, for which chat templates are written, prints, tests and trims differently from the engine.

use std::fmt::Write as _;

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

/// Nesting beyond this is refused. JSON that serde reads has at most 128 levels.
pub const DEPTH_MAX: usize = 200;

/// Makes an environment behave as Jinja2 under Python.
pub fn install(environment: &mut Environment<'static>) {
    environment.set_formatter(|out: &mut Output, state: &mut State, value: &Value| {
        match value.as_str() {
            Some(text) => out.write_str(text)?,
            None => out.write_str(&str_of(state, value)?)?,
        }
        Ok(())
    });
    environment.set_unknown_method_callback(method);
    environment.add_filter("string", |state: &State, value: &Value| str_of(state, value));
    environment.add_filter("trim", |state: &State, value: &Value, chars: Option<&str>| {
        Ok::<_, Error>(strip(&str_of(state, value)?, chars, true, true).to_owned())
    });
    // In Python a text is iterable, and whatever has a length and items is a sequence: mappings and texts too.
    environment.add_test("iterable", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | Iterable | Map | String | Undefined)
    });
    environment.add_test("sequence", |value: &Value| {
        use ValueKind::{Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | Map | String | Undefined)
    });
    environment.add_test("callable", |value: &Value| matches!(value.kind(), ValueKind::Plain));
}

/// What `str(value)` gives in Python; an undefined value is empty, as Jinja2 prints it.
pub fn str_of(state: &State, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    if !value.is_undefined() {
        repr(state, value, &mut out, 0)?;
    }
    Ok(out)
}

fn repr(state: &State, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply to be printed"));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => repr_text(state, value.as_str().unwrap_or_default(), out)?,
        ValueKind::Seq => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                repr(state, &item, out, depth + 1)?;
                count += 1;
            }
            out.push_str(if tuple && count == 1 {
                ",)"
            } else if tuple {
                ")"
            } else {
                "]"
            });
        }
        // Objects of the engine (a loop, a macro, a namespace) print as it prints them.
        ValueKind::Map if value.downcast_object_ref::<minijinja::value::Kwargs>().is_none() => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                repr(state, &key, out, depth + 1)?;
                out.push_str(": ");
                repr(state, &value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Iterable => {
            let items: Value = value.try_iter()?.collect();
            repr(state, &items, out, depth + 1)?;
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// A text as Python's `repr` quotes it.
fn repr_text(state: &State, text: &str, out: &mut String) -> Result<(), Error> {
    state.consume_fuel(text.len() as u64 / 64)?;
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7F..0xA1).contains(&(c as u32)) || c == '\u{AD}' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            // Separators other than the space, and what formats or has no meaning, is not printable to Python.
            c @ ('\u{1680}'
            | '\u{2000}'..='\u{200F}'
            | '\u{2028}'..='\u{202F}'
            | '\u{205F}'..='\u{2064}'
            | '\u{3000}'
            | '\u{FEFF}') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    Ok(())
}

/// A number as Python prints it.
pub fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => float(number),
        _ => value.to_string(),
    }
}

/// What `repr` makes of a float: the shortest digits that read back, with an exponent from 1e16 and below 1e-4.
pub fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => {
            let plain = format!("{number}");
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// `str.title`: the first letter after anything that is no letter in title case, the others in lower case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        let cased = c.is_lowercase() || c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ');
        match c {
            c if inside => out.extend(c.to_lowercase()),
            // The four letters whose title case is a character of its own.
            'Ǆ'..='ǆ' => out.push('ǅ'),
            'Ǉ'..='ǉ' => out.push('ǈ'),
            'Ǌ'..='ǌ' => out.push('ǋ'),
            'Ǳ'..='ǳ' => out.push('ǲ'),
            c => {
                let mut upper = c.to_uppercase();
                out.extend(upper.next());
                out.extend(upper.flat_map(char::to_lowercase));
            }
        }
        inside = cased;
    }
    out
}

/// What `str.isspace` says of a character: Unicode's white space and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}

/// `str.strip`, `lstrip`, `rstrip`: white space, or any of `chars`.
fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let wanted = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(wanted) } else { text };
    if right { text.trim_end_matches(wanted) } else { text }
}

/// `(text + '\n').splitlines()` in Python: never empty, and a last line end leaves an empty line behind.
pub fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = lines_with_ends(text).into_iter().map(|(line, _)| line).collect();
    if text.is_empty() || text.ends_with(LINE_ENDS) {
        lines.push("");
    }
    lines
}

const LINE_ENDS: [char; 10] =
    ['\n', '\r', '\u{B}', '\u{C}', '\u{1C}', '\u{1D}', '\u{1E}', '\u{85}', '\u{2028}', '\u{2029}'];

/// `text.splitlines()`: each line without its end, and with it.
fn lines_with_ends(text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(LINE_ENDS) {
        let end = &rest[at..];
        let length = if end.starts_with("\r\n") { 2 } else { end.chars().next().map_or(0, char::len_utf8) };
        lines.push((&rest[..at], &rest[..at + length]));
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push((rest, rest));
    }
    lines
}

/// Methods of Python's types that the engine lacks, or has with other results; the rest is `minijinja-contrib`'s.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        if value.kind() == ValueKind::Seq && name == "index" {
            return index_of(value, arguments);
        }
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments);
    };
    state.consume_fuel(text.len() as u64 / 64)?;
    let argument = |at: usize| arguments.get(at).filter(|value| !value.is_none());
    let text_argument = |at: usize| match argument(at) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("`{name}` takes a text, not a {}", value.kind()))
        }),
    };
    Ok(match (name, arguments.len()) {
        ("strip", 0..=1) => strip(text, text_argument(0)?, true, true).into(),
        ("lstrip", 0..=1) => strip(text, text_argument(0)?, true, false).into(),
        ("rstrip", 0..=1) => strip(text, text_argument(0)?, false, true).into(),
        ("title", 0) => title(text).into(),
        ("isspace", 0) => (!text.is_empty() && text.chars().all(is_space)).into(),
        ("removeprefix", 1) => {
            let prefix = text_argument(0)?.unwrap_or_default();
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        ("removesuffix", 1) => {
            let suffix = text_argument(0)?.unwrap_or_default();
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        ("splitlines", 0..=1) => {
            let keep = argument(0).is_some_and(Value::is_true);
            lines_with_ends(text).into_iter().map(|(line, whole)| if keep { whole } else { line }).collect()
        }
        ("partition" | "rpartition", 1) => {
            partition(text, text_argument(0)?.unwrap_or_default(), name == "rpartition")?
        }
        ("split", 0..=2) if argument(0).is_none() => split_at_spaces(text, argument(1))?,
        ("rsplit", 0..=2) => rsplit(text, text_argument(0)?, argument(1))?,
        ("index", 1) => match text.find(text_argument(0)?.unwrap_or_default()) {
            Some(at) => text[..at].chars().count().into(),
            None => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
        },
        ("zfill", 1) => {
            let width = usize::try_from(arguments[0].clone())?.min(1 << 16);
            let missing = width.saturating_sub(text.chars().count());
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(missing)).into()
        }
        ("join", 1) => return join(state, text, &arguments[0]),
        _ => return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    })
}

/// `separator.join(values)`, which in Python takes nothing but texts.
fn join(state: &State, separator: &str, values: &Value) -> Result<Value, Error> {
    let mut out = String::new();
    for (at, item) in values.try_iter()?.enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        let Some(text) = item.as_str() else {
            let detail = format!("item {at} of `join` is a {}, not a text", item.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        };
        state.consume_fuel(1 + (separator.len() + text.len()) as u64 / 64)?;
        out.push_str(text);
    }
    Ok(out.into())
}

fn index_of(list: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let wanted = arguments.first().ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    match list.try_iter()?.position(|item| item == *wanted) {
        Some(at) => Ok(at.into()),
        None => Err(Error::new(ErrorKind::InvalidOperation, "the value is not in the list")),
    }
}

fn partition(text: &str, separator: &str, last: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let parts = match if last { text.rsplit_once(separator) } else { text.split_once(separator) } {
        Some((before, after)) => [before, separator, after],
        None if last => ["", "", text],
        None => [text, "", ""],
    };
    Ok(minijinja::value::Tuple::from(parts.map(Value::from)).into())
}

/// How many pieces there may be, for Python's `maxsplit`.
fn pieces_max(most: Option<&Value>) -> Result<usize, Error> {
    let most = most.map(|most| i64::try_from(most.clone())).transpose()?.filter(|most| *most >= 0);
    Ok(most.map_or(usize::MAX, |most| most as usize).saturating_add(1))
}

fn split_at_spaces(text: &str, most: Option<&Value>) -> Result<Value, Error> {
    let most = pieces_max(most)?;
    let mut parts: Vec<Value> = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() + 1 == most { None } else { rest.find(is_space) };
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(part.into());
        rest = after.trim_start_matches(is_space);
    }
    Ok(parts.into())
}

fn rsplit(text: &str, separator: Option<&str>, most: Option<&Value>) -> Result<Value, Error> {
    let most = pieces_max(most)?;
    let mut parts: Vec<Value> = Vec::new();
    match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => parts.extend(text.rsplitn(most, separator).map(Value::from)),
        None => {
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                if parts.len() + 1 == most {
                    parts.push(rest.into());
                    break;
                }
                let start =
                    rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
                parts.push(rest[start..].into());
                rest = rest[..start].trim_end_matches(is_space);
            }
        }
    }
    parts.reverse();
    Ok(parts.into())
}
