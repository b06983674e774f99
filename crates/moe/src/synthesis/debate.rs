//! Experts that see each other's answers and answer again: prompts, limits, and when there is nothing left to say (Du
//! et al. 2023, "Improving factuality and reasoning in language models through multiagent debate").

use super::shorten::{fair_shares, shorten};
use super::{Synthesizer, voting};
use crate::{Error, ExpertResponse, Result};

/// The most rounds of a debate.
pub const DEBATE_ROUNDS_MAX: usize = 4;

/// How experts see each other's answers before they vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebateConfig {
    /// Rounds after the first, independent answers, 1 to [`DEBATE_ROUNDS_MAX`]. Fewer are held where all agree.
    pub rounds: usize,
    /// Bytes of earlier answers that an expert is shown, its own included; long ones share them alike.
    pub shown_bytes_max: usize,
}

impl Default for DebateConfig {
    fn default() -> Self {
        Self { rounds: 2, shown_bytes_max: 4000 }
    }
}

impl DebateConfig {
    /// # Errors
    /// [`Error::OutOfRange`] for a setting that is not in its range.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |name, value: usize, range| Err(Error::OutOfRange { name, value: value.to_string(), range });
        if !(1..=DEBATE_ROUNDS_MAX).contains(&self.rounds) {
            return refuse("debate.rounds", self.rounds, "1 to 4");
        }
        if self.shown_bytes_max < 256 {
            return refuse("debate.shown_bytes_max", self.shown_bytes_max, "at least 256");
        }
        Ok(())
    }

    /// What the expert whose answer is `responses[own]` is asked in the next round, and whether answers were shortened.
    pub(crate) fn prompt(&self, query: &str, responses: &[ExpertResponse], own: usize) -> (String, bool) {
        let lengths: Vec<usize> = responses.iter().map(|response| response.text.trim().len()).collect();
        let shares = fair_shares(&lengths, self.shown_bytes_max);
        let text = |index: usize| shorten(&responses[index].text, shares[index]);
        let mut prompt = format!("{query}\n\nYour earlier answer:\n{}", text(own));
        for (index, response) in responses.iter().enumerate().filter(|(index, _)| *index != own) {
            prompt.extend(["\n\nThe answer of ", &response.name, ":\n", &text(index)]);
        }
        prompt += "\n\nKeep your answer where it is right, and correct it where the others show that it is wrong. \
            Answer the question again, in full.";
        (prompt, shares.iter().zip(&lengths).any(|(share, length)| share < length))
    }
}

impl Synthesizer {
    /// Whether all answers to a question say the same.
    pub(crate) fn agree(query: &str, responses: &[ExpertResponse]) -> bool {
        let texts: Vec<&str> = responses.iter().map(|response| response.text.as_str()).collect();
        voting::unanimous(query, &texts)
    }
}
