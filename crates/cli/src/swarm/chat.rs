//! `hublab swarm chat`: a conversation with whoever knows most.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hublabio_runtime::ai::Message;
use hublabio_runtime::moe::{SessionId, SwarmAnswer, SwarmEngine};

use super::answer::{Outcome, Question};
use super::list::{looked_at, table};
use super::open;
use super::report::{Names, who};
use crate::args::{AskArgs, SwarmChatArgs};
use crate::chat::Lines;
use crate::interrupt::Interrupt;
use crate::output;

/// The one conversation of this program.
const SESSION: SessionId = SessionId(1);

const COMMANDS: &str = "\
/experts        list the experts
/expert NAME    ask this expert from now on; /expert alone: let the router choose again
/why            say why the last answer came from whom it came
/good, /bad     tell the router that its last choice was right, or wrong
/clear          forget the conversation
/help           list the commands
/exit           end; so does Ctrl-D
A line that starts with a space is a question even if a / follows. Ctrl-C stops an answer.";

pub fn chat(args: &SwarmChatArgs) -> Result<ExitCode> {
    let folder = args.folder.to_read()?;
    let swarm = open(folder.as_deref(), &args.ask.fleet)?;
    if let Some(name) = &args.ask.expert {
        swarm.expert_id(name)?;
    }
    let interrupt = Interrupt::listen()?;
    let mut lines = Lines::open()?;
    if lines.is_editor() {
        output::message(&format!(
            "hublab {}, a swarm of {}. /help lists the commands, Ctrl-D ends.",
            env!("CARGO_PKG_VERSION"),
            names(&swarm)
        ));
    }
    let mut conversation = Conversation {
        swarm,
        args: &args.ask,
        in_folder: folder.is_some(),
        expert: args.ask.expert.clone(),
        history: Vec::new(),
        last: None,
        broken: None,
    };
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

fn names(swarm: &SwarmEngine) -> String {
    let spec = swarm.spec();
    let names: Vec<&str> = spec.experts.iter().map(|expert| expert.config.name.as_str()).collect();
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

enum Next {
    Continue,
    End,
}

struct Conversation<'a> {
    swarm: SwarmEngine,
    args: &'a AskArgs,
    /// Whether what is learned can be kept.
    in_folder: bool,
    /// The expert that the user insists on.
    expert: Option<String>,
    history: Vec<Message>,
    /// The last question and its answer.
    last: Option<(String, Box<SwarmAnswer>)>,
    /// What is wrong with the folder, if it was said already.
    broken: Option<String>,
}

impl Conversation<'_> {
    fn take_line(&mut self, line: &str, interrupt: &Interrupt) -> Result<Next> {
        let Some(command) = line.strip_prefix('/') else {
            if !line.trim().is_empty() {
                self.answer(line.trim(), interrupt)?;
            }
            return Ok(Next::Continue);
        };
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("exit" | "quit", "") => return Ok(Next::End),
            ("help", "") => output::message(COMMANDS),
            ("clear", "") => {
                self.history.clear();
                self.last = None;
                self.forget_session();
                output::message("The conversation is forgotten.");
            }
            ("experts", "") => {
                self.reload();
                output::message(table(&looked_at(&self.swarm)).trim_end());
            }
            ("expert", "") => {
                self.expert = None;
                output::message("The router chooses.");
            }
            ("expert", name) => {
                self.reload();
                self.swarm.expert_id(name)?;
                self.expert = Some(name.to_owned());
                output::message(&format!("{name} answers from now on."));
            }
            ("why", "") => match &self.last {
                Some((_, answer)) => output::message(&who(answer, &Names::of(&self.swarm))),
                None => bail!("nothing was answered yet"),
            },
            ("good", "") => self.feedback(true)?,
            ("bad", "") => self.feedback(false)?,
            ("exit" | "quit" | "help" | "clear" | "experts" | "why" | "good" | "bad", rest) => {
                bail!("/{word} takes nothing after it, but got {rest:?}")
            }
            _ => bail!("there is no command /{word}: /help lists them; a space in front makes the line a question"),
        }
        Ok(Next::Continue)
    }

    /// Reads the folder again if it changed. What is wrong with it is said once; the swarm as it was serves on.
    fn reload(&mut self) {
        match self.swarm.reload() {
            Ok(false) if self.broken.is_none() => {}
            Ok(changed) => {
                self.broken = None;
                if changed {
                    output::note(&format!("the experts' files were read again: {}", names(&self.swarm)));
                }
                for notice in self.swarm.notices().iter().filter(|_| changed) {
                    output::note(notice);
                }
            }
            Err(error) => {
                let problem = error.to_string();
                if self.broken.as_ref() != Some(&problem) {
                    output::note(&format!("{problem}; the experts as they were before serve on"));
                }
                self.broken = Some(problem);
            }
        }
    }

    fn answer(&mut self, text: &str, interrupt: &Interrupt) -> Result<()> {
        self.reload();
        let question =
            Question { text, expert: self.expert.as_deref(), session: Some(SESSION), history: &self.history };
        let said = match self.args.ask(&self.swarm, &question, interrupt)? {
            Outcome::Answered(answer) => {
                let said = answer.synthesis.text.clone();
                self.last = Some((text.to_owned(), answer));
                said
            }
            // What Ctrl-C left of an answer was seen, so it is part of the conversation.
            Outcome::Stopped(written) => written,
        };
        self.history.push(Message::new("user", text));
        self.history.push(Message::new("assistant", said));
        Ok(())
    }

    /// Tells the router what the user thinks of its last choice: of the expert with the largest weight.
    fn feedback(&mut self, good: bool) -> Result<()> {
        let (question, answer) = self.last.as_ref().context("nothing was answered yet")?;
        let parts = answer.synthesis.contributions.iter();
        let first = parts.reduce(|most, part| if part.weight > most.weight { part } else { most });
        let first = first.context("nobody took part in the last answer")?;
        let (id, name) = (first.expert, first.name.clone());
        if self.in_folder {
            self.swarm.feedback(question, &name, good)?;
        } else {
            self.swarm.router().feedback(question, id, good).map_err(hublabio_runtime::Error::from)?;
            output::note("it is kept for this conversation only: the built-in swarm has no folder");
        }
        if !good {
            // The conversation would stay with the expert otherwise.
            self.forget_session();
        }
        let not = if good { "" } else { "not " };
        output::message(&format!("Noted: {name} is {not}the right one for such a question."));
        Ok(())
    }

    fn forget_session(&self) {
        self.swarm.router().read(|router| router.forget_session(SESSION));
    }
}
