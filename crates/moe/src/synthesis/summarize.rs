//! One text that a reducer model makes of all answers: whether the reducer may, what it is asked, and what becomes of
//! what it says. The reducer itself is run by `swarm`.

use super::shorten::{fair_shares, shorten};
use super::{Answers, Synthesis, SynthesisStrategy, Synthesizer};
use crate::{Error, ExpertId, ExpertResponse, Result};

/// The least bytes of a prompt for each answer: below, its answers would say nothing.
const ANSWER_BYTES_MIN: usize = 64;

/// What is done where no reducer may or can summarise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SummarizeFallback {
    /// The request fails by name.
    Refuse,
    /// The answers are put to the vote, and the notes say so.
    #[default]
    Downgrade,
}

/// How summaries are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummarizeConfig {
    /// The reducer; the generalist if `None`.
    pub reducer: Option<ExpertId>,
    /// Whether a reducer may summarise that is weaker than an expert whose answer it reads, or of unknown strength.
    pub allow_weaker: bool,
    /// Parameters that a reducer must have to be trusted with other people's answers, unless weaker ones are allowed.
    pub parameters_min: u64,
    /// The longest prompt for the reducer, in bytes; a token of English text has about four.
    pub prompt_bytes_max: usize,
    /// What is done where there is no reducer that may, or it fails.
    pub fallback: SummarizeFallback,
}

impl Default for SummarizeConfig {
    fn default() -> Self {
        Self {
            reducer: None,
            allow_weaker: false,
            parameters_min: 0,
            prompt_bytes_max: 6000,
            fallback: SummarizeFallback::Downgrade,
        }
    }
}

/// The strength of those who take part in a summary, in parameters that compute a token; 0 where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reducer<'a> {
    /// The reducer's name.
    pub name: &'a str,
    /// Its strength.
    pub active_parameters: u64,
    /// The strength of each expert whose answer it reads.
    pub members: Vec<u64>,
}

/// What the reducer is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduction {
    /// The prompt.
    pub prompt: String,
    /// What was shortened.
    pub notes: Vec<String>,
}

impl SummarizeConfig {
    /// Why this reducer may not summarise; `None` where it may: it is at least as strong as each member, all strengths
    /// being known, or weaker ones are allowed.
    pub fn objection(&self, reducer: &Reducer<'_>) -> Option<String> {
        let name = reducer.name;
        let strongest = reducer.members.iter().copied().max().unwrap_or(0);
        if self.allow_weaker {
            None
        } else if reducer.active_parameters == 0 {
            Some(format!("the strength of the reducer {name} is unknown"))
        } else if reducer.members.contains(&0) {
            Some(format!("the strength of an expert is unknown, so that {name} may be weaker"))
        } else if reducer.active_parameters < strongest {
            let own = reducer.active_parameters;
            Some(format!("the reducer {name} is weaker than an expert ({own} active parameters, {strongest})"))
        } else if reducer.active_parameters < self.parameters_min {
            let (own, least) = (reducer.active_parameters, self.parameters_min);
            Some(format!("the reducer {name} is too small ({own} active parameters, {least} are needed)"))
        } else {
            None
        }
    }
}

impl Synthesizer {
    /// The prompt for a reducer: the question and all answers, within
    /// [`prompt_bytes_max`](SummarizeConfig::prompt_bytes_max). A question takes at most half of that, long answers
    /// share what is left alike; both are cut at words, and the notes say which.
    ///
    /// # Errors
    /// [`Error::NoExperts`] without answers; [`Error::OutOfRange`] where the limit is too small for so many answers.
    pub fn reduction(&self, query: &str, responses: &[ExpertResponse]) -> Result<Reduction> {
        const TASK: &str = "Several experts answered the same question. Write the one best answer from theirs: keep \
            what is right, leave out what is wrong or said twice, add nothing, and do not mention the experts.";
        const END: &str = "\n\nThe one answer:";
        // What was empty or cut is told with the summary.
        let (answers, _) = Answers::new(responses)?;
        let mut notes = Vec::new();
        let head = |index: usize| format!("\n\nAnswer of {}:\n", answers.responses[index].name);
        let count = answers.responses.len();
        let frame = TASK.len() + "\n\nQuestion: ".len() + END.len() + (0..count).map(|i| head(i).len()).sum::<usize>();
        let max = self.summarize.prompt_bytes_max;
        let room = max.saturating_sub(frame);
        if room < ANSWER_BYTES_MIN * (count + 1) {
            let (name, value) = ("prompt_bytes_max", max.to_string());
            return Err(Error::OutOfRange {
                name,
                value,
                range: "64 bytes for the question and each answer, beside 400",
            });
        }
        let question = shorten(query, room / 2);
        if question.len() < query.trim().len() {
            notes.push("the question was shortened for the reducer".to_owned());
        }
        let texts: Vec<&str> = answers.responses.iter().map(|response| response.text.trim()).collect();
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let mut prompt = format!("{TASK}\n\nQuestion: {question}");
        for (index, bytes) in fair_shares(&lengths, room - question.len()).into_iter().enumerate() {
            let text = shorten(texts[index], bytes);
            if text.len() < texts[index].len() {
                let name = &answers.responses[index].name;
                notes.push(format!(
                    "the answer of {name} was shortened for the reducer: {} of {} bytes",
                    text.len(),
                    lengths[index]
                ));
            }
            prompt += &head(index);
            prompt += &text;
        }
        prompt += END;
        Ok(Reduction { prompt, notes })
    }

    /// The summary from what the reducer said: its text; where that is empty, the fallback. A summary that was cut off
    /// stands, and the notes say so.
    ///
    /// # Errors
    /// [`Error::NoReducer`] where the reducer said nothing and the fallback is to refuse.
    pub fn reduced(&self, query: &str, responses: &[ExpertResponse], summary: &ExpertResponse) -> Result<Synthesis> {
        if summary.text.trim().is_empty() {
            return self.without_reducer(query, responses, &format!("the reducer {} answered nothing", summary.name));
        }
        let (answers, mut notes) = Answers::new(responses)?;
        if summary.cut {
            notes.push(format!("the summary by {} was cut off by a limit", summary.name));
        }
        let given = |index: usize| (answers.shares[index], format!("summarised by {}", summary.name));
        Ok(Synthesis {
            text: summary.text.trim().to_owned(),
            strategy: SynthesisStrategy::Summarize,
            contributions: answers.contributions(given),
            agreement: None,
            notes,
        })
    }

    /// What stands for a summary that cannot be had, by the configured fallback: the vote, with the reason in the
    /// notes.
    ///
    /// # Errors
    /// [`Error::NoReducer`] where the fallback is to refuse.
    pub fn without_reducer(&self, query: &str, responses: &[ExpertResponse], why: &str) -> Result<Synthesis> {
        match self.summarize.fallback {
            SummarizeFallback::Refuse => Err(Error::NoReducer(why.to_owned())),
            SummarizeFallback::Downgrade => {
                let mut synthesis = self.join_as(SynthesisStrategy::Voting, query, responses)?;
                synthesis.notes.insert(0, format!("not summarised, but put to the vote: {why}"));
                Ok(synthesis)
            }
        }
    }
}
