//! All answers, each under the name of who gave it.

use super::{Answers, Synthesis, SynthesisStrategy, trust};

/// What stands above an answer.
pub(crate) fn heading(names: &[&str]) -> String {
    format!("**{}:**\n\n", names.join(", "))
}

/// Whether two answers differ in nothing but spaces.
pub(crate) fn same_answer(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

/// The most trusted first; answers that differ in nothing but spaces once, under all their names.
pub(super) fn join(answers: &Answers<'_>) -> Synthesis {
    let mut left: Vec<usize> = (0..answers.responses.len()).collect();
    let mut sections: Vec<Vec<usize>> = Vec::new();
    while let Some(next) = answers.best_of(left.iter().copied()) {
        left.retain(|&index| index != next);
        let text = |index: usize| &answers.responses[index].text;
        match sections.iter_mut().find(|section| same_answer(text(section[0]), text(next))) {
            Some(section) => section.push(next),
            None => sections.push(vec![next]),
        }
    }
    let write = |section: &Vec<usize>| {
        let names: Vec<&str> = section.iter().map(|&index| answers.responses[index].name.as_str()).collect();
        format!("{}{}", heading(&names), answers.responses[section[0]].text.trim())
    };
    let given = |index: usize| {
        (
            answers.shares[index],
            format!("its answer stands whole, confidence {:.2}", trust(answers.responses[index].confidence)),
        )
    };
    Synthesis {
        text: sections.iter().map(write).collect::<Vec<_>>().join("\n\n"),
        strategy: SynthesisStrategy::Concatenate,
        contributions: answers.contributions(given),
        agreement: None,
        notes: Vec::new(),
    }
}
