//! What each strategy asks of the experts, and how their answers reach the caller.

use std::collections::VecDeque;

use super::SwarmPiece;
use super::run::{Question, Run, Sink};
use crate::synthesis::{heading, same_answer};
use crate::{
    DebateConfig, ExpertFailure, ExpertId, ExpertResponse, Flow, MEMBERS_MAX, Mixture, MixtureConfig, Reducer, Result,
    SummarizeFallback, Synthesis, SynthesisStrategy, Synthesizer,
};

/// Makes the answer.
pub(super) fn answer(run: &mut Run<'_>, synthesizer: &Synthesizer) -> Result<Synthesis> {
    let strategy = run.request.synthesis.unwrap_or(synthesizer.strategy);
    let synthesizer = Synthesizer { strategy, ..synthesizer.clone() };
    let debate = run.request.debate.or(synthesizer.debate);
    let _ = run.sink.emit(SwarmPiece::Routed(run.decision));
    run.sink.check()?;
    let selected = run.selected()?;
    let mut synthesis = match (debate, strategy) {
        (Some(config), _) => hold_debate(run, &synthesizer, config, selected)?,
        (None, SynthesisStrategy::Best) => best(run, &synthesizer, selected)?,
        (None, SynthesisStrategy::WeightedAverage) => weighted_average(run, &synthesizer, selected)?,
        (None, SynthesisStrategy::Concatenate) => concatenate(run, &synthesizer, selected)?,
        (None, SynthesisStrategy::Voting) => {
            let responses = collect(run, selected)?;
            synthesizer.join(&run.request.text, &responses)?
        }
        (None, SynthesisStrategy::Summarize) => summarize(run, &synthesizer, selected)?,
    };
    if run.sink.written.is_empty() {
        let _ = run.sink.text(&synthesis.text);
    }
    run.sink.check()?;
    synthesis.text.clone_from(&run.sink.written);
    synthesis.notes.splice(0..0, std::mem::take(&mut run.notes));
    Ok(synthesis)
}

/// Asks one after the other until one answers; its text is handed over as it comes.
fn best(run: &mut Run<'_>, synthesizer: &Synthesizer, selected: Vec<ExpertId>) -> Result<Synthesis> {
    let mut queue = VecDeque::from(selected);
    while let Some(expert) = queue.pop_front() {
        let begin = run.sink.written.len();
        let question = run.question(expert);
        let result = run.ask(&[question], &mut |sink, _, text| sink.streamed(text))?.remove(0);
        match result {
            Ok(response) => {
                finish_text(&mut run.sink, begin, &response.text)?;
                return synthesizer.join_as(SynthesisStrategy::Best, &run.request.text, &[response]);
            }
            Err(failure) => {
                if let Some(fallback) = run.fallback(expert) {
                    queue.retain(|other| *other != fallback);
                    queue.push_front(fallback);
                } else if queue.is_empty() {
                    queue.extend(run.free_generalist());
                }
                let instead = queue.front().copied();
                let interrupted = !run.sink.written[begin..].trim().is_empty();
                interrupt(run, expert, &failure, interrupted)?;
                run.fail(expert, &failure, instead)?;
                if let Some(other) = instead.filter(|_| interrupted) {
                    let line = format!("\n\n[{}; {} answers:]\n\n", broke_off(run, expert, &failure), run.name(other));
                    let _ = run.sink.text(&line);
                }
            }
        }
    }
    Err(run.all_failed())
}

/// Hands over what of a finished text the pieces did not have.
fn finish_text(sink: &mut Sink<'_>, begin: usize, whole: &str) -> Result<()> {
    let rest = whole.strip_prefix(&sink.written[begin..]).unwrap_or_default().to_owned();
    let _ = sink.text(&rest);
    sink.check()
}

fn broke_off(run: &Run<'_>, expert: ExpertId, failure: &ExpertFailure) -> String {
    format!("{} broke off: {failure}", run.name(expert))
}

/// Tells that an expert failed of which text was handed over already.
fn interrupt(run: &mut Run<'_>, expert: ExpertId, failure: &ExpertFailure, interrupted: bool) -> Result<()> {
    if interrupted {
        let (name, reason) = (run.name(expert), failure.to_string());
        let _ = run.sink.emit(SwarmPiece::Interrupted { expert, name: &name, reason: &reason });
        run.notes.push(format!("the text of {name} broke off and stands as far as it came"));
    }
    run.sink.check()
}

fn draft(sink: &mut Sink<'_>, expert: ExpertId, text: &str) -> Flow {
    sink.emit(SwarmPiece::Draft { expert, text })
}

/// Asks all at once, then those that stand in for the ones that failed. At least one answer.
fn collect(run: &mut Run<'_>, selected: Vec<ExpertId>) -> Result<Vec<ExpertResponse>> {
    let mut responses = Vec::new();
    let mut asked = selected;
    while !asked.is_empty() {
        let questions: Vec<Question> = asked.iter().map(|expert| run.question(*expert)).collect();
        let results = run.ask(&questions, &mut draft)?;
        let mut next = Vec::new();
        for (expert, result) in asked.into_iter().zip(results) {
            match result {
                Ok(response) => responses.push(response),
                Err(failure) => {
                    let instead = run.stand_in(expert).filter(|other| !next.contains(other));
                    run.fail(expert, &failure, instead)?;
                    next.extend(instead);
                }
            }
        }
        asked = next;
    }
    if responses.is_empty() { Err(run.all_failed()) } else { Ok(responses) }
}

/// The mixture of all whose tokens mean the same as the generalist's, or the first one's; Best if that is fewer than
/// two. The generalist is a member, unless the caller insists on an expert.
fn weighted_average(run: &mut Run<'_>, synthesizer: &Synthesizer, selected: Vec<ExpertId>) -> Result<Synthesis> {
    let generalist = run.generalist();
    let mut candidates = selected.clone();
    candidates.truncate(MEMBERS_MAX - 1);
    candidates.extend(generalist.filter(|id| run.request.pinned.is_none() && !candidates.contains(id)));
    if candidates.len() < selected.len() {
        run.notes.push(format!("only the first {} of {} experts were mixed", candidates.len(), selected.len()));
    }
    let members = alike(run, generalist, &candidates)?;
    let mut left = selected;
    if members.len() >= 2 {
        let keep = members.iter().position(|member| Some(*member) == generalist);
        let config = MixtureConfig { keep, ..synthesizer.mixture };
        let priors: Vec<f32> = members.iter().map(|member| run.confidence(*member)).collect();
        let mut mixture = Mixture::new(config, &priors)?;
        let mut failed = Vec::new();
        let result = run.mix(&members, &mut mixture, &mut failed)?;
        for (expert, failure) in &failed {
            run.fail(*expert, failure, None)?;
        }
        match result {
            Ok(response) if !response.text.trim().is_empty() || !run.sink.written.is_empty() => {
                finish_text(&mut run.sink, 0, &response.text)?;
                return Ok(mixed(run, &members, &mixture, &response));
            }
            result => {
                let why = result.map_or_else(|failure| failure.to_string(), |_| "it answered nothing".to_owned());
                run.notes.push(format!("the mixture ended ({why}): the most trusted expert answers"));
                if !run.sink.written.is_empty() {
                    let name = "the mixture";
                    let expert = members[0];
                    let _ = run.sink.emit(SwarmPiece::Interrupted { expert, name, reason: &why });
                    let _ = run.sink.text(&format!("\n\n[the mixture broke off: {why}; one expert answers:]\n\n"));
                    run.sink.check()?;
                }
            }
        }
    } else {
        run.notes.push("fewer than two experts can be mixed: the most trusted expert answers".to_owned());
    }
    left.extend(generalist.filter(|id| !left.contains(id)));
    left.retain(|expert| !run.has_failed(*expert));
    best(run, synthesizer, left)
}

/// Those of the candidates whose tokenizers hash like the reference's; the others are named.
fn alike(run: &mut Run<'_>, generalist: Option<ExpertId>, candidates: &[ExpertId]) -> Result<Vec<ExpertId>> {
    let mut hashes = Vec::new();
    for &expert in candidates {
        match run.tokenizer_hash(expert) {
            Ok(hash) => hashes.push((expert, hash)),
            Err(failure) => run.fail(expert, &failure, None)?,
        }
    }
    let reference = hashes.iter().find(|(expert, _)| Some(*expert) == generalist).or(hashes.first()).copied();
    let Some((reference, hash)) = reference else { return Ok(Vec::new()) };
    for (expert, _) in hashes.iter().filter(|(_, other)| *other != hash) {
        let (name, other) = (run.name(*expert), run.name(reference));
        run.notes.push(format!("{name} was not mixed: its tokens do not mean what those of {other} do"));
    }
    Ok(hashes.into_iter().filter(|(_, other)| *other == hash).map(|(expert, _)| expert).collect())
}

fn mixed(run: &Run<'_>, members: &[ExpertId], mixture: &Mixture, response: &ExpertResponse) -> Synthesis {
    let contribution = |(member, weight): (&ExpertId, f32)| crate::Contribution {
        expert: *member,
        name: run.name(*member),
        weight,
        why: format!("mean weight over {} tokens, from confidence {:.2}", response.tokens, run.confidence(*member)),
    };
    let cut = response.cut.then(|| "the answer was cut off by a limit".to_owned());
    Synthesis {
        text: response.text.clone(),
        strategy: SynthesisStrategy::WeightedAverage,
        contributions: members
            .iter()
            .zip(mixture.mean_weights())
            // Who failed later had a part in the beginning.
            .filter(|(member, weight)| *weight > 0.0 || !run.has_failed(**member))
            .map(contribution)
            .collect(),
        agreement: None,
        notes: cut.into_iter().collect(),
    }
}

/// A section of an answer that is handed over while it is written: its heading comes with its first word, spaces at its
/// end never come, and nothing comes while it could still be what an earlier section says.
struct Section<'a> {
    name: String,
    /// What was said before, and by whom.
    earlier: &'a [ExpertResponse],
    held: String,
    begun: bool,
}

impl Section<'_> {
    fn push(&mut self, sink: &mut Sink<'_>, text: &str) -> Flow {
        self.held.push_str(text);
        let said = self.held.trim_start();
        let repeats = |response: &ExpertResponse| response.text.trim().starts_with(said.trim_end());
        if said.is_empty() || (!self.begun && self.earlier.iter().any(repeats)) {
            return Flow::Continue(());
        }
        self.release(sink)
    }

    fn release(&mut self, sink: &mut Sink<'_>) -> Flow {
        if !self.begun {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
            if self.held.is_empty() {
                return Flow::Continue(());
            }
            self.begun = true;
            let space = if sink.written.is_empty() { "" } else { "\n\n" };
            self.held.insert_str(0, &format!("{space}{}", heading(&[&self.name])));
        }
        let rest = self.held.split_off(self.held.trim_end().len());
        let text = std::mem::replace(&mut self.held, rest);
        sink.text(&text)
    }
}

/// One expert after the other, each under its name.
fn concatenate(run: &mut Run<'_>, synthesizer: &Synthesizer, selected: Vec<ExpertId>) -> Result<Synthesis> {
    let mut responses: Vec<ExpertResponse> = Vec::new();
    let mut queue = VecDeque::from(run.by_confidence(selected));
    while let Some(expert) = queue.pop_front() {
        let name = run.name(expert);
        let mut section = Section { name: name.clone(), earlier: &responses, held: String::new(), begun: false };
        let mut said = String::new();
        let question = run.question(expert);
        let mut on_text = |sink: &mut Sink<'_>, _, text: &str| {
            said.push_str(text);
            section.push(sink, text)
        };
        match run.ask(&[question], &mut on_text)?.remove(0) {
            Ok(response) => {
                let rest = response.text.strip_prefix(said.as_str()).unwrap_or_default();
                let _ = section.push(&mut run.sink, rest);
                let same = responses.iter().find(|earlier| same_answer(&earlier.text, &response.text));
                if let Some(same) = same.filter(|_| !section.begun) {
                    section.held = format!("The same answer as {}.", same.name);
                }
                let _ = section.release(&mut run.sink);
                responses.push(response);
            }
            Err(failure) => {
                let begun = section.begun;
                interrupt(run, expert, &failure, begun)?;
                if begun {
                    let line = format!("\n\n[{}]", broke_off(run, expert, &failure));
                    let _ = run.sink.text(&line);
                }
                let instead = run.stand_in(expert).filter(|other| !queue.contains(other));
                run.fail(expert, &failure, instead)?;
                if let Some(instead) = instead {
                    queue.push_front(instead);
                }
            }
        }
        run.sink.check()?;
    }
    if responses.is_empty() {
        return Err(run.all_failed());
    }
    synthesizer.join_as(SynthesisStrategy::Concatenate, &run.request.text, &responses)
}

/// All answers, then the reducer's one.
fn summarize(run: &mut Run<'_>, synthesizer: &Synthesizer, selected: Vec<ExpertId>) -> Result<Synthesis> {
    let query = &run.request.text;
    let reducer = synthesizer.summarize.reducer.or_else(|| run.generalist());
    if synthesizer.summarize.fallback == SummarizeFallback::Refuse {
        // Before anybody has worked in vain.
        if let Some(why) = objection(run, synthesizer, reducer, &selected) {
            return synthesizer.without_reducer(query, &[], &why);
        }
    }
    let responses = collect(run, selected)?;
    if let [_] = responses[..] {
        run.notes.push("there is one answer: nothing to summarise".to_owned());
        return synthesizer.join_as(SynthesisStrategy::Best, query, &responses);
    }
    let members: Vec<ExpertId> = responses.iter().map(|response| response.expert).collect();
    let reducer = match (reducer, objection(run, synthesizer, reducer, &members)) {
        (Some(reducer), None) => reducer,
        (_, why) => return synthesizer.without_reducer(query, &responses, &why.unwrap_or_default()),
    };
    let reduction = match synthesizer.reduction(query, &responses) {
        Ok(reduction) => reduction,
        Err(error) => return synthesizer.without_reducer(query, &responses, &error.to_string()),
    };
    run.notes.extend(reduction.notes);
    let question = Question { expert: reducer, prompt: reduction.prompt, bare: true };
    match run.ask(&[question], &mut draft)?.remove(0) {
        Ok(summary) => synthesizer.reduced(query, &responses, &summary),
        Err(failure) => {
            let why = format!("the reducer {}: {failure}", run.name(reducer));
            run.fail(reducer, &failure, None)?;
            synthesizer.without_reducer(query, &responses, &why)
        }
    }
}

/// Why there is no summary of these members' answers by that reducer.
fn objection(
    run: &Run<'_>,
    synthesizer: &Synthesizer,
    reducer: Option<ExpertId>,
    members: &[ExpertId],
) -> Option<String> {
    let Some(reducer) = reducer else {
        return Some("there is no reducer: no generalist, and none is named".to_owned());
    };
    let Some(profile) = run.profile(reducer) else {
        return Some(format!("the reducer {reducer} is not in this swarm"));
    };
    let strength = |member: &ExpertId| run.profile(*member).map_or(0, |profile| profile.active_parameters);
    let name = run.name(reducer);
    let members = members.iter().map(strength).collect();
    synthesizer.summarize.objection(&Reducer { name: &name, active_parameters: profile.active_parameters, members })
}

/// Independent answers, then rounds in which everybody sees everybody's, until they agree; then the vote.
fn hold_debate(
    run: &mut Run<'_>,
    synthesizer: &Synthesizer,
    config: DebateConfig,
    selected: Vec<ExpertId>,
) -> Result<Synthesis> {
    config.check()?;
    let query = &run.request.text;
    let mut responses = collect(run, selected)?;
    let mut held = 0;
    let mut shortened = false;
    while held < config.rounds && !Synthesizer::agree(query, &responses) {
        held += 1;
        let _ = run.sink.emit(SwarmPiece::Round { round: held, rounds: config.rounds });
        let mut questions = Vec::new();
        for (own, response) in responses.iter().enumerate() {
            let (prompt, cut) = config.prompt(query, &responses, own);
            shortened |= cut;
            questions.push(Question { expert: response.expert, prompt, bare: true });
        }
        for (index, result) in run.ask(&questions, &mut draft)?.into_iter().enumerate() {
            match result {
                Ok(response) => responses[index] = response,
                Err(failure) => {
                    run.fail(responses[index].expert, &failure, None)?;
                    run.notes.push(format!("{} keeps its earlier answer", responses[index].name));
                }
            }
        }
    }
    run.notes.push(match (responses.len(), held) {
        (1, _) => "one expert answered: it had nobody to debate with".to_owned(),
        (_, 0) => "all agreed at once: there was no debate".to_owned(),
        (count, 1) => format!("{count} experts debated for 1 round"),
        (count, _) => format!("{count} experts debated for {held} rounds"),
    });
    if shortened {
        run.notes.push("answers were shortened where experts read each other's".to_owned());
    }
    synthesizer.join_as(SynthesisStrategy::Voting, query, &responses)
}
