//! Tool calls written as Python: `get_weather(city="Paris", days=3)`, alone, in a list, or one per line.
//!
//! Only calls with literals are read; nothing is computed.

use serde_json::{Map, Number, Value as Json};

use crate::message::{Tool, ToolCall};

/// Nesting beyond this is refused.
const DEPTH_MAX: usize = 64;

/// Reads calls. The error says what is wrong and where, for people.
pub(super) fn calls(text: &str, tools: &[Tool]) -> Result<Vec<ToolCall>, String> {
    let mut reader = Reader { text, at: 0, tools };
    let mut calls = Vec::new();
    reader.spaces();
    let in_list = reader.take('[');
    loop {
        reader.spaces();
        if in_list && reader.take(']') {
            break;
        }
        if !in_list && reader.rest().is_empty() {
            break;
        }
        calls.push(reader.call(0)?);
        reader.spaces();
        while reader.take(',') || reader.take(';') {
            reader.spaces();
        }
    }
    reader.spaces();
    if !reader.rest().is_empty() {
        return Err(reader.expected("the end"));
    }
    if calls.is_empty() { Err("it holds no call".to_owned()) } else { Ok(calls) }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    tools: &'t [Tool],
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn expected(&self, what: &str) -> String {
        let character = self.text[..self.at].chars().count() + 1;
        match self.rest().chars().next() {
            Some(found) => format!("expected {what} at its character {character}, found {found:?}"),
            None => format!("expected {what}, but it ends"),
        }
    }

    /// A name with dots, as far as it goes.
    fn name(&mut self) -> Result<&'t str, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.' || c == '-')).unwrap_or(rest.len());
        if end == 0 || rest.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') {
            return Err(self.expected("the name of a tool"));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn call(&mut self, depth: usize) -> Result<ToolCall, String> {
        let name = self.name()?;
        self.spaces();
        if !self.take('(') {
            return Err(self.expected("`(`"));
        }
        self.spaces();
        // Gemma prints what a call returns.
        if name == "print" && depth == 0 && !self.tools.iter().any(|tool| tool.name() == "print") {
            let call = self.call(depth + 1)?;
            self.spaces();
            return if self.take(')') { Ok(call) } else { Err(self.expected("`)`")) };
        }
        // Llama's own tools have a method of that name.
        let name = name.strip_suffix(".call").unwrap_or(name);
        let mut arguments = Map::new();
        let mut position = 0;
        while !self.take(')') {
            if self.rest().is_empty() {
                return Err(self.expected("`)`"));
            }
            let key = if let Some(key) = self.keyword() {
                key.to_owned()
            } else {
                position += 1;
                self.positional(name, position - 1)?
            };
            let value = self.value(0)?;
            arguments.insert(key, value);
            self.spaces();
            if !self.take(',') && !self.rest().starts_with(')') {
                return Err(self.expected("`,` or `)`"));
            }
            self.spaces();
        }
        Ok(ToolCall { id: None, name: name.to_owned(), arguments: Json::Object(arguments) })
    }

    /// `KEY=` of an argument with a name.
    fn keyword(&mut self) -> Option<&'t str> {
        let before = self.at;
        if let Ok(name) = self.name() {
            self.spaces();
            if self.take('=') {
                self.spaces();
                return Some(name);
            }
        }
        self.at = before;
        None
    }

    /// The name of an argument without one, by the tool's schema.
    fn positional(&self, tool: &str, position: usize) -> Result<String, String> {
        let schema = self.tools.iter().find(|known| known.name() == tool).and_then(Tool::parameters);
        let names = schema.and_then(|schema| schema.get("properties")?.as_object());
        names
            .and_then(|names| names.keys().nth(position).cloned())
            .ok_or_else(|| format!("argument {} of `{tool}` has no name, and its schema has none for it", position + 1))
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > DEPTH_MAX {
            return Err(format!("its arguments are nested more than {DEPTH_MAX} deep"));
        }
        let rest = self.rest();
        match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => self.text_literal(quote).map(Json::String),
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some('{') => self.dict(depth),
            Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            _ => {
                let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
                let value = match &rest[..end] {
                    "True" | "true" => Json::Bool(true),
                    "False" | "false" => Json::Bool(false),
                    "None" | "null" => Json::Null,
                    _ => return Err(self.expected("a text, number, list, dictionary, True, False or None")),
                };
                self.at += end;
                Ok(value)
            }
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Result<Json, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.spaces();
        while !self.take(close) {
            items.push(self.value(depth + 1)?);
            self.spaces();
            if !self.take(',') && !self.rest().starts_with(close) {
                return Err(self.expected(&format!("`,` or `{close}`")));
            }
            self.spaces();
        }
        Ok(Json::Array(items))
    }

    fn dict(&mut self, depth: usize) -> Result<Json, String> {
        self.at += 1;
        let mut fields = Map::new();
        self.spaces();
        while !self.take('}') {
            let key = match self.rest().chars().next() {
                Some(quote @ ('"' | '\'')) => self.text_literal(quote)?,
                _ => return Err(self.expected("a key in quotes")),
            };
            self.spaces();
            if !self.take(':') {
                return Err(self.expected("`:`"));
            }
            self.spaces();
            fields.insert(key, self.value(depth + 1)?);
            self.spaces();
            if !self.take(',') && !self.rest().starts_with('}') {
                return Err(self.expected("`,` or `}`"));
            }
            self.spaces();
        }
        Ok(Json::Object(fields))
    }

    fn number(&mut self) -> Result<Json, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
        let digits = rest[..end].replace('_', "");
        let digits = digits.strip_prefix('+').unwrap_or(&digits);
        let integer = digits.parse::<i64>().ok().map(Json::from);
        let float = || Number::from_f64(digits.parse().ok()?).map(Json::Number);
        let value = integer.or_else(float).ok_or_else(|| self.expected("a number"))?;
        self.at += end;
        Ok(value)
    }

    fn text_literal(&mut self, quote: char) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += at + 1;
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, letter @ ('x' | 'u' | 'U'))) => {
                        let length = match letter {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let digits: String = chars.by_ref().take(length).map(|(_, c)| c).collect();
                        let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                        out.push(
                            code.ok_or_else(|| format!("`\\{letter}{digits}` in a text stands for no character"))?,
                        );
                    }
                    Some((_, '\n')) => {}
                    Some((_, c @ ('\\' | '\'' | '"'))) => out.push(c),
                    Some((_, c)) => out.extend(['\\', c]),
                    None => break,
                },
                c => out.push(c),
            }
        }
        Err("a text in it is not closed".to_owned())
    }
}
