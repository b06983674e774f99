//! The weighted average of finished answers: the mean of numbers, the label with the largest sum.

use super::canonical::{AnswerKind, CanonicalAnswer, groups};
use super::{Answers, Synthesis, SynthesisStrategy, best};

/// The most decimals of a mean.
const DECIMALS_MAX: usize = 12;

/// The mean, the label, or, where the answers have neither in common, the most trusted answer with a note.
pub(super) fn join(query: &str, answers: &Answers<'_>) -> Synthesis {
    let given: Vec<_> = answers.responses.iter().map(|response| CanonicalAnswer::of(&response.text)).collect();
    let label = |kind| matches!(kind, AnswerKind::Choice | AnswerKind::YesNo | AnswerKind::Short);
    let averaged = if given.iter().all(|answer| answer.kind == AnswerKind::Number) {
        mean(&given, answers)
    } else if given.iter().all(|answer| label(answer.kind)) {
        Ok(sum(query, answers))
    } else {
        Err("the answers are neither all numbers nor all labels".to_owned())
    };
    averaged.unwrap_or_else(|why| {
        let mut synthesis = best::join(answers);
        synthesis.notes.push(format!("{why}, so there is nothing to average: the most trusted expert's answer stands"));
        synthesis
    })
}

/// Σ share · value, with two more decimals than the most exact of the answers, final zeros left out.
fn mean(given: &[CanonicalAnswer], answers: &Answers<'_>) -> Result<Synthesis, String> {
    let units: Vec<&String> = given.iter().filter_map(|answer| answer.unit.as_ref()).collect();
    if let Some(other) = units.iter().find(|unit| **unit != units[0]) {
        return Err(format!("the answers are in different units ({} and {other})", units[0]));
    }
    let values: Vec<f64> = given.iter().filter_map(|answer| answer.value).collect();
    let value: f64 = values.iter().zip(&answers.shares).map(|(value, share)| value * share).sum();
    let decimals = (given.iter().map(|answer| answer.decimals).max().unwrap_or(0) + 2).min(DECIMALS_MAX);
    let digits = format!("{value:.decimals$}");
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    let digits = if digits == "-0" { "0" } else { digits };
    let text = match units.first().map(|unit| unit.as_str()) {
        None => digits.to_owned(),
        Some("%") => format!("{digits}%"),
        Some(sign @ ("$" | "€" | "£" | "¥")) => format!("{sign}{digits}"),
        Some(unit) => format!("{digits} {unit}"),
    };
    let why = |index: usize| (answers.shares[index], format!("said {}", given[index].key));
    Ok(Synthesis {
        text,
        strategy: SynthesisStrategy::WeightedAverage,
        contributions: answers.contributions(why),
        agreement: None,
        notes: Vec::new(),
    })
}

/// The label with the largest sum of shares, however small; of equal sums the most trusted expert's. The text is that
/// of the most trusted who gave it.
fn sum(query: &str, answers: &Answers<'_>) -> Synthesis {
    let texts: Vec<&str> = answers.responses.iter().map(|response| response.text.as_str()).collect();
    let groups = groups(query, &texts, &answers.shares);
    let sum = |members: &[usize]| members.iter().map(|&member| answers.shares[member]).sum::<f64>();
    let most = groups.iter().map(|group| sum(&group.members)).fold(0.0, f64::max);
    let heaviest = groups.iter().filter(|group| sum(&group.members) >= most - 1e-9);
    let speaker =
        answers.best_of(heaviest.flat_map(|group| group.members.iter().copied())).expect("one is the heaviest");
    let winner = groups.iter().find(|group| group.members.contains(&speaker)).expect("every answer is in a group");
    let given = |index: usize| {
        let group = groups.iter().find(|group| group.members.contains(&index)).expect("every answer is in a group");
        let weight = if !winner.members.contains(&index) {
            0.0
        } else if most > 0.0 {
            answers.shares[index] / most
        } else {
            1.0 / winner.members.len() as f64
        };
        (weight, format!("said `{}`, which has {:.2} of all confidence", group.label, sum(&group.members)))
    };
    Synthesis {
        text: answers.responses[speaker].text.clone(),
        strategy: SynthesisStrategy::WeightedAverage,
        contributions: answers.contributions(given),
        agreement: Some(most as f32),
        notes: Vec::new(),
    }
}
