//! What a model said, taken apart while it says it: content, reasoning, tool calls.
//!
//! [`OutputParser`] is a state machine: text in, events out, in whatever pieces the text comes. Which marks stand for a
//! call is in `format.rs`, what stands between them in `calls.rs` and `python.rs`, and what is told of a call before it is
//! complete in `growing.rs`. Nothing is lost: what looks like a call and is none comes out as [`Malformed`], with its text
//! and what is wrong with it.

mod calls;
mod form;
mod format;
mod growing;
mod json_prefix;
mod python;

use std::fmt;

pub use form::CallForm;
pub use format::ToolFormat;
use format::{Body, End, Section};
use growing::Growing;

use crate::message::{Content, Message, Tool, ToolCall};

/// A call longer than this is none.
const CALL_BYTES_MAX: usize = 1 << 20;

/// Tags around reasoning, recognised where an answer begins.
const REASONING_TAGS: [(&str, &str); 6] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
];
/// Granite 3.2 has words instead of tags, which are recognised only if the template speaks of them.
const GRANITE_TAGS: (&str, &str) = ("Here is my thought process:", "Here is my response:");

/// What became known of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More of what is said.
    Content(String),
    /// More of what is thought.
    Reasoning(String),
    /// A call has begun whose arguments come piece by piece. Its end is the next [`ToolCall`](Event::ToolCall), or
    /// [`Malformed`](Event::Malformed). Not every call is told before it is complete.
    CallBegin {
        /// Its id, if the model gave it one before the arguments.
        id: Option<String>,
        /// Which tool.
        name: String,
    },
    /// More of the arguments of the call that has begun: of the text of a JSON object, as the model writes it. What came so
    /// far can always still become one.
    CallArguments(String),
    /// A tool is to be called: the call is complete.
    ToolCall(ToolCall),
    /// Something looked like a call and is none. A call that has begun is none, either.
    Malformed(Malformed),
}

/// A tool call of the wrong shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// All of its text, marks included.
    pub raw: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model's tool call cannot be read: {}", self.reason)
    }
}

/// A whole answer, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What is said.
    pub content: String,
    /// What is thought, where that is set apart.
    pub reasoning: Option<String>,
    /// Tools to be called.
    pub tool_calls: Vec<ToolCall>,
    /// What looked like calls and is none.
    pub malformed: Vec<Malformed>,
}

impl Answer {
    /// Adds an event.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Content(text) => self.content.push_str(&text),
            Event::Reasoning(text) => self.reasoning.get_or_insert_default().push_str(&text),
            // It comes again when it is complete.
            Event::CallBegin { .. } | Event::CallArguments(_) => {}
            Event::ToolCall(call) => self.tool_calls.push(call),
            Event::Malformed(malformed) => self.malformed.push(malformed),
        }
    }

    /// The answer as the assistant's message, to go on with. What could not be read as a call is content there, so that
    /// the model sees what it wrote.
    pub fn into_message(self) -> Message {
        let mut text = self.content;
        for malformed in &self.malformed {
            text.push_str(&malformed.raw);
        }
        let content =
            if text.is_empty() && !self.tool_calls.is_empty() { Content::Absent } else { Content::Text(text) };
        Message {
            role: "assistant".into(),
            content,
            reasoning: self.reasoning,
            tool_calls: self.tool_calls,
            ..Message::default()
        }
    }
}

/// Takes an answer apart as it comes.
#[derive(Debug, Clone)]
pub struct OutputParser {
    sections: &'static [Section],
    tags: Vec<(&'static str, &'static str)>,
    tools: Vec<Tool>,
    state: State,
    /// What is not decided yet.
    buffer: String,
    /// White space that is said only if something follows it.
    spaces: String,
    /// Nothing but white space came since the answer, or what follows a section, began.
    at_start: bool,
    /// A section came: white space right behind it separates and says nothing.
    after_section: bool,
}

#[derive(Debug, Clone)]
enum State {
    Content,
    /// Until this tag.
    Reasoning(&'static str),
    Call(&'static Section, Scan),
}

/// How far the end of a call has been searched, so that no byte is searched twice, and what was told of it.
#[derive(Debug, Clone, Default)]
struct Scan {
    searched: usize,
    json: JsonScan,
    growing: Growing,
}

impl OutputParser {
    /// A parser for an answer with tool calls in this format, if any tools were offered; their schemas say which
    /// arguments are texts where the format does not.
    pub fn new(format: ToolFormat, tools: &[Tool]) -> Self {
        let sections = if tools.is_empty() { &[] } else { format.sections() };
        Self {
            sections,
            tags: REASONING_TAGS.to_vec(),
            tools: tools.to_vec(),
            state: State::Content,
            buffer: String::new(),
            spaces: String::new(),
            at_start: true,
            after_section: false,
        }
    }

    /// Fits the parser to the template, and to the prompt that was made with it: if that ends with the tag that opens
    /// reasoning, the answer begins within.
    #[must_use]
    pub fn after_prompt(mut self, template_source: &str, prompt: &str) -> Self {
        if template_source.contains(GRANITE_TAGS.0) || template_source.contains(GRANITE_TAGS.1) {
            self.tags.push(GRANITE_TAGS);
        }
        let prompt = prompt.trim_end();
        if let Some((_, close)) = self.tags.iter().find(|(open, _)| prompt.ends_with(open)) {
            self.state = State::Reasoning(close);
            self.after_section = true;
        }
        self
    }

    /// Leaves reasoning where it is, as content.
    #[must_use]
    pub fn without_reasoning(mut self) -> Self {
        self.tags.clear();
        self.state = State::Content;
        self
    }

    /// Texts of which an answer may hold control tokens: whoever decodes it shows those, and not the others.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> {
        let of_section = |section: &'static Section| {
            let end = match section.end {
                End::Mark(mark) => Some(mark),
                _ => None,
            };
            [Some(section.open), end].into_iter().flatten()
        };
        let tags = self.tags.clone().into_iter().flat_map(|(open, close)| [open, close]);
        self.sections.iter().flat_map(of_section).chain(tags).chain(format::INNER_MARKS.iter().copied())
    }

    /// Takes more of the answer, and returns what that makes known.
    pub fn push(&mut self, text: &str) -> Vec<Event> {
        self.buffer.push_str(text);
        let mut events = Vec::new();
        while self.step(false, &mut events) {}
        events
    }

    /// The answer is over: returns the rest.
    pub fn finish(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.step(true, &mut events) {}
        if !self.after_section || !self.at_start {
            let spaces = std::mem::take(&mut self.spaces);
            match self.state {
                State::Content if !spaces.is_empty() => events.push(Event::Content(spaces)),
                _ => {}
            }
        }
        events
    }

    /// Takes a whole answer apart.
    pub fn parse(mut self, text: &str) -> Answer {
        let mut answer = Answer::default();
        for event in self.push(text).into_iter().chain(self.finish()) {
            answer.add(event);
        }
        answer
    }

    /// One step; `false` when more text is needed (or, at the end, nothing is left).
    fn step(&mut self, ended: bool, events: &mut Vec<Event>) -> bool {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Content => self.step_content(ended, events),
            State::Reasoning(close) => self.step_reasoning(close, ended, events),
            State::Call(section, scan) => self.step_call(section, scan, ended, events),
        }
    }

    fn step_content(&mut self, ended: bool, events: &mut Vec<Event>) -> bool {
        // Calls may stand with semicolons between them.
        let after_section = self.after_section;
        let separates = |c: char| c.is_whitespace() || after_section && c == ';';
        let leading = self.buffer.len() - self.buffer.trim_start_matches(separates).len();
        let mut longer_may_come = false;
        // The earliest mark, or where one may begin that is not complete.
        let mut found: Option<(usize, Opening)> = None;
        let mut hold = self.buffer.len();
        let tags = self.tags.iter().map(|&(open, close)| (open, true, Opening::Reasoning(open, close)));
        let sections = self.sections.iter().map(|section| (section.open, section.start_only, Opening::Call(section)));
        for (open, start_only, opening) in tags.chain(sections) {
            let at = if start_only {
                let rest = &self.buffer[leading..];
                if self.at_start && !rest.is_empty() && rest.len() < open.len() && open.starts_with(rest) {
                    (hold, longer_may_come) = (0, true);
                }
                (self.at_start && rest.starts_with(open)).then_some(leading)
            } else {
                hold = hold.min(self.buffer.len() - partial_suffix(&self.buffer, open));
                self.buffer.find(open)
            };
            let earlier = |at: usize| found.as_ref().is_none_or(|(best, _)| at < *best);
            if let Some(at) = at.filter(|at| earlier(*at)) {
                found = Some((at, opening));
            }
        }
        // A mark that may begin before the complete one could still become the earlier of the two.
        if let Some((at, opening)) = found.filter(|(at, _)| ended || *at <= hold && !longer_may_come) {
            let said: String = self.buffer.drain(..at).collect();
            if said.chars().all(separates) && self.at_start {
                // What only separates calls says nothing.
                if !self.after_section {
                    self.spaces.push_str(&said);
                }
            } else {
                self.say(&said, events);
            }
            match opening {
                Opening::Reasoning(open, close) => {
                    self.buffer.drain(..open.len());
                    self.spaces.clear();
                    self.after_section = true;
                    self.at_start = true;
                    self.state = State::Reasoning(close);
                }
                Opening::Call(section) => {
                    self.buffer.drain(..section.open.len() - section.kept);
                    self.state = State::Call(section, Scan::default());
                }
            }
            return true;
        }
        // What separates calls is said only when something else than a call follows.
        let undecided = self.at_start && hold <= leading;
        let certain = if ended {
            self.buffer.len()
        } else if undecided {
            0
        } else {
            hold
        };
        let said: String = self.buffer.drain(..certain).collect();
        self.say(&said, events);
        false
    }

    /// Says a text, its white space at the end only when more follows.
    fn say(&mut self, text: &str, events: &mut Vec<Event>) {
        let text = if self.after_section && self.at_start { text.trim_start() } else { text };
        let solid = text.trim_end();
        if solid.is_empty() {
            self.spaces.push_str(text);
            return;
        }
        let mut said = std::mem::take(&mut self.spaces);
        said.push_str(solid);
        self.spaces.push_str(&text[solid.len()..]);
        self.at_start = false;
        events.push(Event::Content(said));
    }

    fn step_reasoning(&mut self, close: &'static str, ended: bool, events: &mut Vec<Event>) -> bool {
        let closed = self.buffer.find(close);
        let certain = closed.unwrap_or_else(|| {
            if ended { self.buffer.len() } else { self.buffer.len() - partial_suffix(&self.buffer, close) }
        });
        let thought: String = self.buffer.drain(..certain).collect();
        // The tags stand on lines of their own.
        let thought = if self.at_start { thought.trim_start() } else { &thought };
        let solid = thought.trim_end();
        if !solid.is_empty() {
            let mut text = std::mem::take(&mut self.spaces);
            text.push_str(solid);
            self.at_start = false;
            events.push(Event::Reasoning(text));
        }
        self.spaces.push_str(&thought[solid.len()..]);
        if closed.is_none() {
            self.state = State::Reasoning(close);
            return false;
        }
        self.buffer.drain(..close.len());
        self.spaces.clear();
        self.at_start = true;
        self.after_section = true;
        true
    }

    fn step_call(&mut self, section: &'static Section, mut scan: Scan, ended: bool, events: &mut Vec<Event>) -> bool {
        let found = scan.section_end(section.end, &self.buffer, ended);
        let too_long = self.buffer.len() > CALL_BYTES_MAX;
        if found.is_none() && !ended && !too_long {
            let certain = match section.end {
                End::Mark(mark) => self.buffer.len() - partial_suffix(&self.buffer, mark),
                _ => self.buffer.len(),
            };
            scan.growing.advance(section, &self.buffer[..certain], &self.tools, events);
            self.state = State::Call(section, scan);
            return false;
        }
        let cut = floor_boundary(&self.buffer, CALL_BYTES_MAX.min(self.buffer.len()));
        let (length, mark_length) = found.unwrap_or((cut, 0));
        let body: String = self.buffer.drain(..length).collect();
        let mark: String = self.buffer.drain(..mark_length).collect();
        let mut growing = scan.growing;
        growing.advance(section, &body, &self.tools, events);
        let complete = found.is_some() || section.end == End::Rest;
        let parsed = match section.body {
            Body::Nothing => Ok(Vec::new()),
            _ if found.is_none() && too_long => Err(format!("it has no end within {CALL_BYTES_MAX} bytes")),
            body_kind => calls::read(body_kind, &body, &self.tools)
                .map_err(|reason| if complete { reason } else { format!("it is not complete ({reason})") }),
        };
        let opened = &section.open[..section.open.len() - section.kept];
        let is_answer = match &parsed {
            _ if !section.unmarked || growing.has_told() => false,
            Ok(calls) => calls.is_empty() || !self.all_offered(calls),
            Err(_) => !calls::looks_like_call(&body),
        };
        if is_answer {
            self.at_start = false;
            self.say_raw(&format!("{opened}{body}{mark}"), events);
            return true;
        }
        match parsed.and_then(|calls| growing.rest(calls, &body)) {
            Ok(calls) => events.extend(calls.into_iter().map(Event::ToolCall)),
            Err(reason) => {
                // Calls that were told to their end are calls, whatever follows them.
                let opened = if growing.has_complete() { "" } else { opened };
                let raw = format!("{opened}{}{mark}", growing.untold(&body));
                events.push(Event::Malformed(Malformed { raw, reason }));
            }
        }
        self.end_section();
        true
    }

    fn end_section(&mut self) {
        self.spaces.clear();
        self.at_start = true;
        self.after_section = true;
    }

    fn say_raw(&mut self, raw: &str, events: &mut Vec<Event>) {
        let solid = raw.trim_end().len();
        let mut said = std::mem::take(&mut self.spaces);
        said.push_str(&raw[..solid]);
        self.spaces.push_str(&raw[solid..]);
        events.push(Event::Content(said));
    }

    fn all_offered(&self, calls: &[ToolCall]) -> bool {
        calls.iter().all(|call| self.tools.iter().any(|tool| tool.name() == call.name))
    }
}

enum Opening {
    Reasoning(&'static str, &'static str),
    Call(&'static Section),
}

/// How many bytes at the end of `text` may be the beginning of `mark`.
fn partial_suffix(text: &str, mark: &str) -> usize {
    let ends = mark.char_indices().map(|(at, _)| at).skip(1).filter(|&length| text.ends_with(&mark[..length]));
    ends.max().unwrap_or(0)
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Where a JSON value ends, found byte by byte.
#[derive(Debug, Clone, Default)]
struct JsonScan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl JsonScan {
    /// A scan that begins behind the brace that opens an object.
    fn within_object() -> Self {
        Self { depth: 1, ..Self::default() }
    }

    /// Whether the value ends with this byte.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

impl Scan {
    /// Where a section ends, and the length of the mark that ends it; `None` as long as that is not known.
    fn section_end(&mut self, end: End, text: &str, ended: bool) -> Option<(usize, usize)> {
        match end {
            End::Nothing => Some((0, 0)),
            End::Rest => None,
            End::Mark(mark) => {
                // The mark may begin in what was searched before.
                let from = floor_boundary(text, self.searched.saturating_sub(mark.len()));
                self.searched = text.len();
                text[from..].find(mark).map(|at| (from + at, mark.len()))
            }
            End::Json => self.json_end(text, 0),
            End::NamedJson(mark) => {
                let begin = text.trim_start();
                let is_bare = begin.starts_with(['[', '{']) && !begin.starts_with(mark);
                // `[ARGS]` begins as a list does.
                let undecided = !ended && mark.starts_with(begin);
                match text.find(mark) {
                    _ if undecided => None,
                    _ if is_bare => self.json_end(text, 0),
                    Some(at) => self.json_end(text, at + mark.len()),
                    None => None,
                }
            }
        }
    }

    /// The end of the JSON object or list that begins at or after `from`, and no mark behind it.
    fn json_end(&mut self, text: &str, from: usize) -> Option<(usize, usize)> {
        self.searched = self.searched.max(from);
        let end = text.as_bytes()[self.searched..].iter().position(|&byte| self.json.ends_with(byte));
        let found = end.map(|end| (self.searched + end + 1, 0));
        self.searched = text.len();
        found
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
