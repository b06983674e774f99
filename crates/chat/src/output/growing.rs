//! Calls that are told while they are written: the name as soon as it is certain, the arguments as they grow.
//!
//! This looks ahead into a section that has no end yet. What a section holds is decided by `calls.rs`, call by call where
//! several stand in a list; what was told before must agree with it, or the call is none. Told ahead are calls that have their
//! name first and then their arguments as a JSON object. All others (Python, values in tags, arguments as a text, blocks and lists
//! that may just as well be an ordinary answer) are told when they are whole.

use serde_json::Value as Json;

use super::format::{Body, Section};
use super::json_prefix::{JsonPrefix, Progress};
use super::{Event, JsonScan, calls, floor_boundary};
use crate::message::{Tool, ToolCall};

/// What stands before the arguments of a call is at most so long.
const HEAD_BYTES_MAX: usize = 1024;

/// The calls of one section.
#[derive(Debug, Clone, Default)]
pub(super) struct Growing {
    /// Bytes of the body that are done with.
    at: usize,
    stage: Stage,
    /// Calls that were told to their end.
    complete: usize,
    /// Where the last of them ended.
    complete_to: usize,
    /// The call that has begun.
    begun: Option<Begun>,
}

#[derive(Debug, Clone, Default)]
enum Stage {
    /// A call may begin.
    #[default]
    Before,
    Arguments(JsonPrefix),
    /// Behind the arguments, within the object of the call.
    Behind(JsonScan),
    /// Nothing more is certain before the section is whole.
    Blind,
}

#[derive(Debug, Clone)]
struct Begun {
    name: String,
    /// Where its form begins.
    from: usize,
    /// Where its arguments are.
    arguments_from: usize,
    arguments_to: usize,
}

impl Begun {
    /// Whether a call that was read whole is the one that was told.
    fn is(&self, call: &ToolCall, body: &str) -> bool {
        let told = serde_json::from_str::<Json>(&body[self.arguments_from..self.arguments_to]);
        call.name == self.name && told.is_ok_and(|told| told == call.arguments)
    }
}

impl Growing {
    /// Tells what is certain of `body`, which only ever grows.
    pub fn advance(&mut self, section: &Section, body: &str, tools: &[Tool], events: &mut Vec<Event>) {
        loop {
            let goes_on = match &self.stage {
                Stage::Before => self.begin(section, body, tools, events),
                Stage::Arguments(_) => self.grow(body, events),
                Stage::Behind(_) => self.close(body, tools, events),
                Stage::Blind => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Whether anything was told.
    pub fn has_told(&self) -> bool {
        self.complete > 0 || self.begun.is_some()
    }

    /// The part of the body that was not told to its end.
    pub fn untold<'b>(&self, body: &'b str) -> &'b str {
        &body[self.complete_to..]
    }

    /// Whether calls were told to their end.
    pub fn has_complete(&self) -> bool {
        self.complete > 0
    }

    /// Those of a whole section's calls that were not told to their end.
    ///
    /// # Errors
    /// When they contradict what was told.
    pub fn rest(&self, mut calls: Vec<ToolCall>, body: &str) -> Result<Vec<ToolCall>, String> {
        let rest = calls.split_off(self.complete.min(calls.len()));
        match &self.begun {
            Some(begun) if !rest.first().is_some_and(|call| begun.is(call, body)) => {
                Err(format!("what follows contradicts the call of `{}` that it began with", begun.name))
            }
            _ => Ok(rest),
        }
    }

    fn begin(&mut self, section: &Section, body: &str, tools: &[Tool], events: &mut Vec<Event>) -> bool {
        // What may be an ordinary answer is a call if it is one object that names a tool.
        if section.unmarked && section.open != "{" {
            self.stage = Stage::Blind;
            return false;
        }
        let rest = &body[self.at..];
        let window = &rest[..floor_boundary(rest, HEAD_BYTES_MAX.min(rest.len()))];
        let head = start(window, self.complete == 0)
            .and_then(|from| read_head(section.body, &window[from..]).map(|head| (from, head)));
        match head {
            Ok((_, head)) if section.unmarked && !tools.iter().any(|tool| tool.name() == head.name) => {}
            Ok((from, Head { id, name, length })) => {
                let (from, arguments_from) = (self.at + from, self.at + from + length);
                events.push(Event::CallBegin { id, name: name.clone() });
                self.at = arguments_from;
                self.begun = Some(Begun { name, from, arguments_from, arguments_to: arguments_from });
                self.stage = Stage::Arguments(JsonPrefix::default());
                return true;
            }
            Err(Stop::More) if rest.len() <= HEAD_BYTES_MAX => return false,
            Err(_) => {}
        }
        self.stage = Stage::Blind;
        false
    }

    fn grow(&mut self, body: &str, events: &mut Vec<Event>) -> bool {
        let (Stage::Arguments(json), Some(begun)) = (&mut self.stage, &mut self.begun) else { return false };
        let rest = &body[self.at..];
        let (length, progress) = json.read(rest);
        if length > 0 {
            events.push(Event::CallArguments(rest[..length].to_owned()));
        }
        self.at += length;
        begun.arguments_to = self.at;
        let in_object = body[begun.from..].starts_with('{');
        self.stage = match progress {
            Progress::More => return false,
            Progress::Complete if in_object => Stage::Behind(JsonScan::within_object()),
            Progress::Complete | Progress::Broken => Stage::Blind,
        };
        true
    }

    /// Looks for the end of the object that is the call.
    fn close(&mut self, body: &str, tools: &[Tool], events: &mut Vec<Event>) -> bool {
        let (Stage::Behind(scan), Some(begun)) = (&mut self.stage, &self.begun) else { return false };
        let Some(end) = body.as_bytes()[self.at..].iter().position(|&byte| scan.ends_with(byte)) else {
            self.at = body.len();
            return false;
        };
        self.at += end + 1;
        let found = calls::read(Body::Json, &body[begun.from..self.at], tools);
        let call = found.ok().and_then(|calls| <[ToolCall; 1]>::try_from(calls).ok());
        let Some([call]) = call.filter(|[call]| begun.is(call, body)) else {
            self.stage = Stage::Blind;
            return false;
        };
        events.push(Event::ToolCall(call));
        self.begun = None;
        self.complete += 1;
        self.complete_to = self.at;
        self.stage = Stage::Before;
        true
    }
}

/// What stands before the arguments of a call.
struct Head {
    id: Option<String>,
    name: String,
    /// Its bytes.
    length: usize,
}

/// Why there is no head.
enum Stop {
    /// More text may make it one.
    More,
    /// No text will.
    Never,
}

/// Where a call begins, behind what separates it from the one before or opens the list.
fn start(text: &str, is_first: bool) -> Result<usize, Stop> {
    let rest = text.trim_start_matches(|c: char| c.is_whitespace() || !is_first && matches!(c, ',' | ';'));
    let rest = match rest.strip_prefix('[').map(str::trim_start).filter(|_| is_first) {
        Some("") => return Err(Stop::More),
        Some(inside) if inside.starts_with('{') => inside,
        _ => rest,
    };
    Ok(text.len() - rest.len())
}

fn read_head(kind: Body, text: &str) -> Result<Head, Stop> {
    let first = *text.as_bytes().first().ok_or(Stop::More)?;
    match (kind, first) {
        (Body::Json | Body::JsonOrPython | Body::Tagged | Body::Mistral, b'{') => json_head(text),
        (Body::Function, _) => named_head(text, ">"),
        (Body::Mistral, first) if first != b'[' => mistral_head(text),
        (Body::DeepSeek, _) => deepseek_head(text),
        _ => Err(Stop::Never),
    }
}

/// `{"name": "NAME", "arguments": `, under any of the names that these members have.
fn json_head(text: &str) -> Result<Head, Stop> {
    let mut cursor = Cursor { text, at: 0 };
    let (mut id, mut name) = (None, None);
    cursor.expect(b'{')?;
    loop {
        let key = cursor.string()?;
        cursor.expect(b':')?;
        match key.as_str() {
            "id" | "call_id" | "tool_call_id" if id.is_none() => id = Some(cursor.string()?),
            "name" | "tool_name" | "function" if name.is_none() => name = Some(cursor.string()?),
            "type" => drop(cursor.string()?),
            "arguments" | "parameters" | "args" => {
                let name = name.filter(|name| !name.is_empty()).ok_or(Stop::Never)?;
                return match cursor.peek()? {
                    b'{' => Ok(Head { id, name, length: cursor.at }),
                    _ => Err(Stop::Never),
                };
            }
            _ => return Err(Stop::Never),
        }
        cursor.expect(b',')?;
    }
}

/// A name, `mark` and an object.
fn named_head(text: &str, mark: &str) -> Result<Head, Stop> {
    let (name, rest) = text.split_once(mark).ok_or(Stop::More)?;
    let (name, object) = (name.trim(), rest.trim_start());
    match object.as_bytes().first() {
        None => Err(Stop::More),
        Some(b'{') if !name.is_empty() => {
            Ok(Head { id: None, name: name.to_owned(), length: text.len() - object.len() })
        }
        Some(_) => Err(Stop::Never),
    }
}

/// `NAME[CALL_ID]ID[ARGS]{`, the id being optional.
fn mistral_head(text: &str) -> Result<Head, Stop> {
    let head = named_head(text, "[ARGS]")?;
    match head.name.split_once("[CALL_ID]") {
        Some((name, _)) if name.trim().is_empty() => Err(Stop::Never),
        Some((name, id)) => Ok(Head { id: Some(id.trim().to_owned()), name: name.trim().to_owned(), ..head }),
        None => Ok(head),
    }
}

/// `function<｜tool▁sep｜>NAME` and a block of JSON, or `NAME<｜tool▁sep｜>{`.
fn deepseek_head(text: &str) -> Result<Head, Stop> {
    const SEPARATOR: &str = "<｜tool▁sep｜>";
    let (head, rest) = text.split_once(SEPARATOR).ok_or(Stop::More)?;
    match rest.trim_start().as_bytes().first() {
        None => Err(Stop::More),
        Some(b'{') => named_head(text, SEPARATOR),
        Some(_) => {
            let found = named_head(rest, "```json")?;
            Ok(Head { length: head.len() + SEPARATOR.len() + found.length, ..found })
        }
    }
}

/// A place in JSON that may not be complete.
struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl Cursor<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Result<u8, Stop> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest.as_bytes().first().copied().ok_or(Stop::More)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek()? != byte {
            return Err(Stop::Never);
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<String, Stop> {
        if self.peek()? != b'"' {
            return Err(Stop::Never);
        }
        let mut escaped = false;
        let closes = |byte: &u8| {
            let closes = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            closes
        };
        let end = self.text.as_bytes()[self.at + 1..].iter().position(closes).ok_or(Stop::More)?;
        let quoted = &self.text[self.at..self.at + end + 2];
        self.at += quoted.len();
        serde_json::from_str(quoted).map_err(|_| Stop::Never)
    }
}
