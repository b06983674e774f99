//! What most say: a vote over canonical answers, weighted by confidence, or the medoid of free texts.

use super::canonical::{AnswerKind, Group, groups};
use super::similarity::{grams, overlap};
use super::{Answers, Synthesis, SynthesisStrategy};

/// Votes. Where more than half of the answers are free text that nobody else said, their medoid stands for a vote.
pub(super) fn join(query: &str, answers: &Answers<'_>, majority: f32) -> Synthesis {
    let texts: Vec<&str> = answers.responses.iter().map(|response| response.text.as_str()).collect();
    let groups = groups(query, &texts, &answers.shares);
    let free = groups.iter().filter(|group| group.kind == AnswerKind::Text && group.members.len() == 1).count();
    if free * 2 > texts.len() { medoid(&texts, answers, majority) } else { vote(&groups, answers, majority) }
}

/// The answer with more than `majority` of all confidence; none such: the most trusted expert's. Of those who gave the
/// winner, the most trusted one's text stands.
fn vote(groups: &[Group], answers: &Answers<'_>, majority: f32) -> Synthesis {
    let share = |group: &Group| group.members.iter().map(|&member| answers.shares[member]).sum::<f64>();
    let heaviest = groups.iter().find(|group| share(group) > f64::from(majority) + 1e-9);
    let mut notes = Vec::new();
    let winner = heaviest.unwrap_or_else(|| {
        notes.push("no answer has a majority: the most trusted expert's stands".to_owned());
        let best = answers.best();
        groups.iter().find(|group| group.members.contains(&best)).expect("every answer is in a group")
    });
    let speaker = answers.best_of(winner.members.iter().copied()).expect("no group is empty");
    let agreement = share(winner);
    let given = |index: usize| {
        let weight = match (winner.members.contains(&index), agreement > 0.0) {
            (false, _) => 0.0,
            (true, true) => answers.shares[index] / agreement,
            (true, false) => 1.0 / winner.members.len() as f64,
        };
        let label =
            &groups.iter().find(|group| group.members.contains(&index)).expect("every answer is in a group").label;
        (weight, format!("voted for `{}`", super::shorten(label, 80)))
    };
    Synthesis {
        text: answers.responses[speaker].text.clone(),
        strategy: SynthesisStrategy::Voting,
        contributions: answers.contributions(given),
        agreement: Some(agreement as f32),
        notes,
    }
}

/// The text that is most like the others, weighted by confidence; of equally central ones the most trusted. Its
/// agreement is the weighted mean of its likeness to all, itself included; where that is no majority, the most trusted
/// text stands.
fn medoid(texts: &[&str], answers: &Answers<'_>, majority: f32) -> Synthesis {
    let grams: Vec<_> = texts.iter().map(|text| grams(text)).collect();
    let likeness: Vec<Vec<f64>> = grams.iter().map(|a| grams.iter().map(|b| overlap(a, b)).collect()).collect();
    let agreement = |index: usize| answers.shares.iter().zip(&likeness[index]).map(|(share, like)| share * like).sum();
    // Without itself: else an expert of great confidence would be central however alone it is.
    let centrality = |index: usize| {
        let others: f64 = 1.0 - answers.shares[index];
        let all: f64 = agreement(index);
        if others > 1e-9 { (all - answers.shares[index]) / others } else { all }
    };
    let most = (0..texts.len()).map(centrality).fold(0.0, f64::max);
    let central = answers.best_of((0..texts.len()).filter(|&index| centrality(index) >= most - 1e-9));
    let mut chosen = central.expect("there is an answer, and one is the most central");
    let mut notes = Vec::new();
    if agreement(chosen) <= f64::from(majority) + 1e-9 {
        chosen = answers.best();
        notes.push("the answers differ too much for a vote: the most trusted expert's stands".to_owned());
    }
    let total = agreement(chosen);
    let given = |index: usize| {
        let like = likeness[chosen][index];
        let weight = if total > 0.0 { answers.shares[index] * like / total } else { f64::from(index == chosen) };
        (weight, format!("{:.0} % like the answer", like * 100.0))
    };
    Synthesis {
        text: answers.responses[chosen].text.clone(),
        strategy: SynthesisStrategy::Voting,
        contributions: answers.contributions(given),
        agreement: Some(total as f32),
        notes,
    }
}

/// What all of several answers say, if it is one thing.
pub(super) fn unanimous(query: &str, texts: &[&str]) -> bool {
    let shares = vec![1.0 / texts.len().max(1) as f64; texts.len()];
    groups(query, texts, &shares).len() == 1
}
