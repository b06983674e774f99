//! The answer of the most trusted expert.

use super::{Answers, Synthesis, SynthesisStrategy, trust};

pub(super) fn join(answers: &Answers<'_>) -> Synthesis {
    let best = answers.best();
    let given = |index: usize| {
        let confidence = trust(answers.responses[index].confidence);
        if answers.responses.len() == 1 {
            (1.0, format!("the only answer, confidence {confidence:.2}"))
        } else if index == best {
            (1.0, format!("the most trusted, confidence {confidence:.2}"))
        } else {
            (0.0, format!("less trusted, confidence {confidence:.2}"))
        }
    };
    Synthesis {
        text: answers.responses[best].text.clone(),
        strategy: SynthesisStrategy::Best,
        contributions: answers.contributions(given),
        agreement: None,
        notes: Vec::new(),
    }
}
