//! `hublab chat`: a conversation, line by line. The lines serve `hublab swarm chat`, too.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hublabio_runtime::ai::{ChatOptions, Content, GenerationConfig, Json, Message};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use serde_json::json;

use crate::args::{ChatArgs, PromptArgs};
use crate::interrupt::Interrupt;
use crate::model::OpenModel;
use crate::prompt::answer_json;
use crate::{generate, output, remote};

const PROMPT: &str = "> ";
const HISTORY_LINES_MAX: usize = 1000;
/// Longest line of a piped conversation.
const LINE_BYTES_MAX: u64 = 1 << 24;

const COMMANDS: &str = "\
/reset      forget the conversation, keep the system message
/save FILE  write the conversation to FILE: JSON if it ends in .json, else text
/result X   answer the first tool call that is open with X
/help       list the commands
/exit       end; so does Ctrl-D
A line that starts with a space is a message even if a / follows. Ctrl-C stops an answer.";

pub fn chat(args: &ChatArgs) -> Result<ExitCode> {
    if args.service.is_wanted() {
        return remote::chat(args);
    }
    let config = args.generation.generation_config(&args.model)?;
    let mut model = args.generation.open(&args.model)?;
    model.engine.tokenizer().map_err(|error| args.model.in_file(error))?;
    let options = args.template.apply(&args.model, &mut model)?;
    let speaker = Local { model, args: &args.template, options, config, stats: args.generation.stats };
    converse(Box::new(speaker), args.system.as_deref(), &args.model.to_string())
}

/// Who answers in a conversation.
pub trait Speaker {
    /// The next turn, shown as it comes.
    ///
    /// # Errors
    /// When there is none; what Ctrl-C leaves of one is one.
    fn speak(&mut self, messages: &[Message], interrupt: &Interrupt) -> Result<Message>;
}

/// The lines of a conversation until their end. `name` is who answers, for people.
pub fn converse(speaker: Box<dyn Speaker + '_>, system: Option<&str>, name: &str) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let mut lines = Lines::open()?;
    if lines.is_editor() {
        output::message(&format!(
            "hublab {}, {name}. /help lists the commands, Ctrl-D ends.",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let messages = system.map(|system| Message::new("system", system)).into_iter().collect();
    let mut conversation = Conversation { speaker, messages };
    while let Some(line) = lines.next(&interrupt)? {
        match conversation.take_line(&line, &interrupt) {
            Ok(Next::Continue) => {}
            Ok(Next::End) => break,
            // A person can go on after an error; a script must not.
            Err(error) if lines.is_editor() && !error.is::<output::StdoutError>() => output::error(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(ExitCode::SUCCESS)
}

enum Next {
    Continue,
    End,
}

struct Conversation<'a> {
    speaker: Box<dyn Speaker + 'a>,
    messages: Vec<Message>,
}

impl Conversation<'_> {
    fn take_line(&mut self, line: &str, interrupt: &Interrupt) -> Result<Next> {
        let Some(command) = line.strip_prefix('/') else {
            if !line.trim().is_empty() {
                self.answer(Message::new("user", line.trim()), interrupt)?;
            }
            return Ok(Next::Continue);
        };
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("exit" | "quit", "") => return Ok(Next::End),
            ("help", "") => output::message(COMMANDS),
            ("reset", "") => {
                self.messages.retain(|message| message.role == "system");
                output::message("The conversation is forgotten.");
            }
            ("result", result) => match open_call(&self.messages) {
                Some(call) => self.answer_call(call, result, interrupt)?,
                None => bail!("no tool call is open: /result answers a call of the model"),
            },
            ("save", "") => bail!("/save needs a file name: /save FILE"),
            ("save", path) => self.save(Path::new(path))?,
            ("exit" | "quit" | "help" | "reset", rest) => bail!("/{word} takes nothing after it, but got {rest:?}"),
            _ => bail!("there is no command /{word}: /help lists them; a space in front makes the line a message"),
        }
        Ok(Next::Continue)
    }

    /// Adds what a tool gave; the model goes on when no other call is open.
    fn answer_call(&mut self, (id, name): (String, String), result: &str, interrupt: &Interrupt) -> Result<()> {
        let message = Message::tool_result(Some(id), Some(name), result);
        self.messages.push(message.clone());
        if open_call(&self.messages).is_some() {
            return Ok(());
        }
        self.messages.pop();
        self.answer(message, interrupt)
    }

    fn answer(&mut self, message: Message, interrupt: &Interrupt) -> Result<()> {
        self.messages.push(message);
        let answered = self.speaker.speak(&self.messages, interrupt);
        if answered.is_err() {
            // The model has not seen the message.
            self.messages.pop();
        }
        // What Ctrl-C left of an answer was seen, so it is part of the conversation.
        self.messages.push(answered?);
        Ok(())
    }

    fn save(&self, path: &Path) -> Result<()> {
        if self.messages.is_empty() {
            bail!("there is nothing to save yet");
        }
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let text = if json { as_json(&self.messages) } else { as_text(&self.messages) };
        fs::write(path, text).with_context(|| format!("cannot save the conversation to {}", path.display()))?;
        output::message(&format!("{} messages are saved in {}.", self.messages.len(), path.display()));
        Ok(())
    }
}

/// A model in this process.
struct Local<'a> {
    model: OpenModel,
    args: &'a PromptArgs,
    options: ChatOptions,
    config: GenerationConfig,
    stats: bool,
}

impl Speaker for Local<'_> {
    fn speak(&mut self, messages: &[Message], interrupt: &Interrupt) -> Result<Message> {
        let prompt = self.model.engine.chat_prompt_with(messages, &self.options)?;
        self.model.say_notices();
        let view = self.args.view(&self.model, &self.options, &prompt, &mut self.config)?;
        let calls_before = messages.iter().map(|message| message.tool_calls.len()).sum();
        let (generation, answer) =
            generate::answer(&mut self.model, &prompt.tokens, &self.config, interrupt, view, calls_before)?;
        if self.args.json {
            output::json(&answer_json(&self.model, answer.clone(), &generation, &self.config)?)?;
        }
        if self.stats {
            generate::print_stats(&self.model, &generation.stats);
        }
        Ok(answer.into_message())
    }
}

/// Id and name of the first call of the last turn that has no result yet.
fn open_call(messages: &[Message]) -> Option<(String, String)> {
    let results = messages.iter().rev().take_while(|message| message.role == "tool").count();
    let calls = &messages[..messages.len() - results].last()?.tool_calls;
    let call = calls.get(results)?;
    Some((call.id.clone().unwrap_or_default(), call.name.clone()))
}

fn as_json(messages: &[Message]) -> String {
    let messages: Vec<Json> = messages.iter().map(Message::to_json).collect();
    format!("{:#}\n", json!({ "messages": messages }))
}

fn as_text(messages: &[Message]) -> String {
    let mut text = String::new();
    for (index, message) in messages.iter().enumerate() {
        let gap = if index > 0 { "\n" } else { "" };
        let calls = message.tool_calls.iter().map(|call| format!("{}({})", call.name, call.arguments));
        let content = match &message.content {
            Content::Absent => None,
            content => Some(content.text().trim().to_owned()),
        };
        let lines: Vec<String> = content.into_iter().chain(calls).collect();
        writeln!(text, "{gap}{}: {}", message.role, lines.join("\n")).expect("a String takes any text");
    }
    text
}

/// Where the lines come from: an editor on a terminal, else standard input as it is.
pub enum Lines {
    Editor { editor: Box<Editor<(), FileHistory>>, history: Option<PathBuf> },
    Plain,
}

impl Lines {
    /// On a terminal, with its history.
    pub fn open() -> Result<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Self::Plain);
        }
        let config = Config::builder()
            .max_history_size(HISTORY_LINES_MAX)?
            .history_ignore_dups(true)?
            .auto_add_history(true)
            .build();
        let history = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history).context("cannot edit lines on this terminal")?;
        let history = history_path().filter(|path| match open_history(&mut editor, path) {
            Ok(()) => true,
            Err(error) => {
                output::note(&format!("the history of this chat is not kept in {}: {error}", path.display()));
                false
            }
        });
        Ok(Self::Editor { editor: Box::new(editor), history })
    }

    /// Whether a person edits them.
    pub fn is_editor(&self) -> bool {
        matches!(self, Self::Editor { .. })
    }

    /// The next line without its end, `None` after the last.
    pub fn next(&mut self, interrupt: &Interrupt) -> Result<Option<String>> {
        let Self::Editor { editor, history } = self else { return interrupt.while_idle(plain_line) };
        loop {
            // Before, not after the line: a Ctrl-C right after it means the answer.
            interrupt.clear();
            match editor.readline(PROMPT) {
                Ok(line) => {
                    if let Some(path) = history {
                        // Appended at once: a conversation that ends badly is remembered too.
                        let _ = editor.append_history(path);
                    }
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) => output::message("Ctrl-D or /exit ends the chat."),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error).context("cannot read a line from the terminal"),
            }
        }
    }
}

fn plain_line() -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = io::stdin().lock().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
    if read.context("cannot read standard input")? == 0 {
        return Ok(None);
    }
    if line.len() as u64 > LINE_BYTES_MAX {
        bail!("a line on standard input is longer than {LINE_BYTES_MAX} bytes: split it");
    }
    let line = String::from_utf8(line).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "a line on standard input is not UTF-8: its byte {offset} starts no valid character, convert it"
        )
    })?;
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

fn open_history(editor: &mut Editor<(), FileHistory>, path: &Path) -> rustyline::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match editor.load_history(path) {
        Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// State files go where the XDG base directory specification wants them.
fn history_path() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("hublab/chat_history"))
}

#[cfg(test)]
mod tests {
    use hublabio_runtime::ai::ToolCall;

    use super::*;

    #[test]
    fn a_conversation_is_saved_in_two_forms() {
        let messages = [Message::new("user", "a \"b\""), Message::new("assistant", "c\nd\n")];
        assert_eq!(as_text(&messages), "user: a \"b\"\n\nassistant: c\nd\n");
        let parsed: serde_json::Value = serde_json::from_str(&as_json(&messages)).unwrap();
        assert_eq!(parsed["messages"][0], json!({ "role": "user", "content": "a \"b\"" }));
        assert_eq!(parsed["messages"][1]["content"], "c\nd\n");
    }

    #[test]
    fn calls_are_answered_in_their_order() {
        let call = |id: &str| ToolCall { id: Some(id.into()), name: "now".into(), arguments: json!({ "zone": "UTC" }) };
        let calling =
            Message { role: "assistant".into(), tool_calls: vec![call("1"), call("2")], ..Message::default() };
        let mut messages = vec![Message::new("user", "When?"), calling];
        assert_eq!(as_text(&messages[1..]), "assistant: now({\"zone\":\"UTC\"})\nnow({\"zone\":\"UTC\"})\n");
        for id in ["1", "2"] {
            assert_eq!(open_call(&messages), Some((id.into(), "now".into())));
            messages.push(Message::tool_result(Some(id.into()), None, "noon"));
        }
        assert_eq!(open_call(&messages), None);
        assert_eq!(open_call(&messages[..1]), None);
        assert_eq!(open_call(&[]), None);
    }
}
