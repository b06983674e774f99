//! One answer of a swarm: asked for, streamed, told about. Shared by `query` and `chat`.

use anyhow::Result;
use hublabio_runtime::ai::Message;
use hublabio_runtime::moe::{
    self, AnswerOptions, DebateConfig, Flow, RoutingStrategy, SessionId, SwarmAnswer, SwarmEngine, SwarmPiece,
    SwarmRequest, SynthesisStrategy,
};

use super::report::{AnswerJson, Names, strip, who};
use crate::args::AskArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, AnswerWriter, Progress, StdoutError};

/// How an attempt at an answer ended.
pub enum Outcome {
    /// There is one.
    Answered(Box<SwarmAnswer>),
    /// Ctrl-C ended it; this is what was written.
    Stopped(String),
}

/// A question and its conversation.
pub struct Question<'a> {
    pub text: &'a str,
    /// The expert that must answer, by its name.
    pub expert: Option<&'a str>,
    pub session: Option<SessionId>,
    pub history: &'a [Message],
}

impl AskArgs {
    /// How experts are chosen.
    fn routing(&self, swarm: &SwarmEngine) -> RoutingStrategy {
        self.strategy.unwrap_or(swarm.spec().settings.routing)
    }

    /// Asks, streams the answer, and says afterwards what the flags want said.
    ///
    /// # Errors
    /// When nobody can answer, or standard output cannot be written.
    pub fn ask(&self, swarm: &SwarmEngine, question: &Question<'_>, interrupt: &Interrupt) -> Result<Outcome> {
        let request = SwarmRequest {
            text: question.text.to_owned(),
            pinned: question.expert.map(|name| swarm.expert_id(name)).transpose()?,
            session: question.session,
            routing: self.strategy,
            synthesis: self.synthesis,
            max_tokens: self.max_tokens,
            debate: self.debate.map(|rounds| DebateConfig { rounds, ..DebateConfig::default() }),
        };
        say_what_is_idle(swarm, &request);
        let options = AnswerOptions { history: question.history.to_vec(), generation: self.sampling.generation() };
        let mut view = View::new(!self.json);
        let result = swarm.answer(&request, &options, &mut |piece| {
            view.take(&piece);
            if view.result.is_err() || interrupt.requested() { Flow::Break(()) } else { Flow::Continue(()) }
        });
        // Whatever happened, the cursor does not stay in the middle of a line.
        let written = view.finish()?;
        let answer = match result {
            Err(hublabio_runtime::Error::Swarm(moe::Error::Cancelled)) if interrupt.requested() => {
                return Ok(Outcome::Stopped(written));
            }
            result => result?,
        };
        self.tell(swarm, &answer)?;
        Ok(Outcome::Answered(Box::new(answer)))
    }

    fn tell(&self, swarm: &SwarmEngine, answer: &SwarmAnswer) -> Result<(), StdoutError> {
        let names = Names::of(swarm);
        if self.json {
            output::json(&AnswerJson::new(answer, self.routing(swarm), &names))?;
        }
        for note in &answer.synthesis.notes {
            output::note(note);
        }
        if self.who {
            output::message(&who(answer, &names));
        } else if !self.json && output::is_watched() {
            output::aside(&strip(answer));
        }
        if self.stats {
            print_stats(swarm, answer, &names);
        }
        Ok(())
    }
}

/// Says where a strategy for several answers will have one.
fn say_what_is_idle(swarm: &SwarmEngine, request: &SwarmRequest) {
    let settings = swarm.spec().settings;
    let one = request.pinned.is_some() || request.routing.unwrap_or(settings.routing) == RoutingStrategy::Single;
    let synthesis = request.synthesis.unwrap_or(settings.synthesis);
    let joins = !matches!(synthesis, SynthesisStrategy::Best | SynthesisStrategy::WeightedAverage);
    if one && (joins || request.debate.is_some()) {
        let what = if request.debate.is_some() { "a debate" } else { moe::synthesis_name(synthesis) };
        output::note(&format!("one expert answers, so that {what} changes nothing: add --strategy top:N or all"));
    }
}

/// The lines of `--stats`.
fn print_stats(swarm: &SwarmEngine, answer: &SwarmAnswer, names: &Names) {
    for (id, usage) in &answer.usage {
        let seconds = f64::from(usage.latency_ms) / 1e3;
        let speed = if seconds > 0.0 { usage.tokens as f64 / seconds } else { 0.0 };
        output::message(&format!(
            "{:<16} {:>8.3} s  {:>6} tokens  {speed:>8.1} tokens/s  asked {}",
            names.name(*id),
            seconds,
            usage.tokens,
            match usage.calls {
                1 => "once".into(),
                calls => format!("{calls} times"),
            },
        ));
    }
    let fleet = swarm.fleet();
    let stats = fleet.stats();
    output::message(&format!(
        "memory  {}  loads {}  evictions {}  longest wait {:.3} s",
        output::byte_size(fleet.bytes_held()),
        stats.loads,
        stats.evictions,
        stats.wait_ms_longest as f64 / 1e3,
    ));
}

/// Shows an answer while it is made.
struct View {
    writer: Option<AnswerWriter>,
    /// Until the answer's first text.
    progress: Option<Progress>,
    written: String,
    result: Result<(), StdoutError>,
}

impl View {
    fn new(stream: bool) -> Self {
        Self {
            writer: stream.then(AnswerWriter::new),
            progress: Some(Progress::new()),
            written: String::new(),
            result: Ok(()),
        }
    }

    fn take(&mut self, piece: &SwarmPiece<'_>) {
        match piece {
            SwarmPiece::Text(text) => {
                // The line goes before the text comes.
                self.progress = None;
                self.written.push_str(text);
                if let Some(writer) = self.writer.as_mut().filter(|_| self.result.is_ok()) {
                    self.result = writer.piece(text);
                }
            }
            SwarmPiece::Started { name, .. } => self.show(&format!("{name} is asked …")),
            SwarmPiece::Finished { name, tokens, .. } => self.show(&format!("{name} answered, {tokens} tokens …")),
            SwarmPiece::Failed { name, .. } => self.show(&format!("{name} did not answer …")),
            SwarmPiece::Round { round, rounds } => self.show(&format!("round {round} of at most {rounds} …")),
            _ => {}
        }
    }

    fn show(&mut self, text: &str) {
        if let Some(progress) = &mut self.progress {
            progress.show(&output::without_controls(text));
        }
    }

    /// Ends the last line; what was written.
    fn finish(self) -> Result<String, StdoutError> {
        drop(self.progress);
        let ended = self.writer.map_or(Ok(()), |mut writer| writer.end_line());
        self.result.and(ended)?;
        Ok(self.written)
    }
}
