//! `hublab swarm query`: one question, one answer.

use std::process::ExitCode;

use anyhow::Result;

use super::answer::{Outcome, Question};
use super::{given, open, question};
use crate::EXIT_INTERRUPTED;
use crate::args::SwarmQueryArgs;
use crate::interrupt::Interrupt;

pub fn query(args: &SwarmQueryArgs) -> Result<ExitCode> {
    let query = given(args.query.as_deref())?;
    let folder = args.folder.to_read()?;
    let swarm = open(folder.as_deref(), &args.ask.fleet)?;
    let expert = args.ask.expert.as_deref();
    if let Some(name) = expert {
        // Before someone types a question.
        swarm.expert_id(name)?;
    }
    let text = question(query, "query")?;
    let interrupt = Interrupt::listen()?;
    let question = Question { text: &text, expert, session: None, history: &[] };
    Ok(match args.ask.ask(&swarm, &question, &interrupt)? {
        Outcome::Answered(_) => ExitCode::SUCCESS,
        Outcome::Stopped(_) => ExitCode::from(EXIT_INTERRUPTED),
    })
}
