//! Texts that a lane reads without answering: how likely their tokens were, and what comes next.
//!
//! They are in the batches of the answers and under their limits of memory. One that stays is gone on with by tokens that somebody
//! else chooses: a member of a mixture.

use std::ops::Range;
use std::sync::mpsc::Sender;

use hublabio_tokenizer::TokenId;

use crate::ai::mixed::{Reading, log_probability};
use crate::error::Result;

/// Where what was read is told, under a number that its receiver chose.
pub(crate) type ReadingReply = (usize, Sender<(usize, Result<Reading>)>);

/// A reader of a text.
pub(crate) struct Reader {
    /// Positions of tokens whose log probabilities are wanted and not known yet.
    scored: Range<usize>,
    logprobs: Vec<f64>,
    /// Whether the logits after the last token are owed.
    is_owed: bool,
    /// Whether it goes on when they are told.
    stays: bool,
    reply: ReadingReply,
}

impl Reader {
    /// Scores the tokens in `scored`; nothing predicts the first of a text.
    pub fn new(scored: Range<usize>, stays: bool, reply: ReadingReply) -> Self {
        let scored = scored.start.max(1)..scored.end;
        Self { scored, logprobs: Vec::new(), is_owed: true, stays, reply }
    }

    /// Whether the logits after the token at `position` are wanted, in a text of `len`.
    pub fn wants(&self, position: usize, len: usize) -> bool {
        self.scored.contains(&(position + 1)) || (self.is_owed && position + 1 == len)
    }

    /// The first position whose logits are wanted, in a text of `len`.
    pub fn first_wanted(&self, len: usize) -> usize {
        if self.scored.is_empty() { len - 1 } else { self.scored.start - 1 }
    }

    /// A text of `len` tokens is longer by `more`, of which all but the first are scored: that one was chosen from logits that are
    /// known.
    pub fn go_on(&mut self, len: usize, more: usize) {
        self.scored = len + 1..len + more;
        self.is_owed = true;
    }

    /// Takes the logits of the wanted positions among those that a pass computed of `text`. Whether this reader has ended.
    pub fn take(
        &mut self,
        text: &[TokenId],
        computed: Range<usize>,
        logits: &[f32],
        vocab_size: usize,
    ) -> Result<bool> {
        let mut rows = logits.chunks_exact(vocab_size);
        for position in computed {
            if !self.wants(position, text.len()) {
                continue;
            }
            let Some(row) = rows.next() else { break };
            if self.scored.contains(&(position + 1)) {
                self.logprobs.push(log_probability(row, text[position + 1])?);
                self.scored.start += 1;
            }
            if position + 1 == text.len() {
                self.is_owed = false;
                let reading = Reading { logprobs: std::mem::take(&mut self.logprobs), logits: row.to_vec() };
                // Nobody may wait for it any more: then it has ended, too.
                let told = self.reply.1.send((self.reply.0, Ok(reading)));
                return Ok(!self.stays || told.is_err());
            }
        }
        Ok(false)
    }

    /// Says how it ended, if that is no good end.
    pub fn finish(self, result: Result<()>) {
        if let Err(error) = result {
            let _ = self.reply.1.send((self.reply.0, Err(error)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use hublabio_moe::RequestId;

    use super::*;
    use crate::ai::decode::AnswerState;
    use crate::ai::{GenerationConfig, InferenceEngine, ModelConfig, SamplingConfig};
    use crate::node::lane::{Active, Lane, LaneConfig};

    const CONTEXT: usize = 256;

    /// What the model alone thinks of a text: logits after each token.
    fn alone(engine: &mut InferenceEngine, text: &[TokenId]) -> Vec<Vec<f32>> {
        engine.logits(text, true).unwrap()
    }

    fn logprobs(rows: &[Vec<f32>], text: &[TokenId], scored: Range<usize>) -> Vec<f64> {
        scored.map(|position| log_probability(&rows[position - 1], text[position]).unwrap()).collect()
    }

    #[test]
    fn a_reader_that_loses_its_memory_reads_again_and_goes_on() {
        let config = ModelConfig { context: Some(CONTEXT), ..ModelConfig::default() };
        let mut engine = InferenceEngine::open_default(&config).unwrap();
        let text = engine.raw_prompt(&"The command tar packs files into one archive. ".repeat(20)).unwrap();
        let rows = alone(&mut engine, &text[..95]);
        // Pages for one conversation: nine, of which the answer comes to have eight.
        let (kv, sibling) = (engine.model().default_kv(), engine.sibling());
        let config = LaneConfig { context: CONTEXT, kv, kv_bytes_max: 0, running_max: 8 };
        let mut lane = Lane::new(sibling.into_runner(), &config);
        let tokenizer = engine.tokenizer().unwrap();
        let ends = (0..tokenizer.n_tokens() as u32).filter(|&id| tokenizer.is_end_of_generation(TokenId(id)));
        let logit_bias = ends.map(|id| (id, f32::NEG_INFINITY)).collect();
        let sampling = SamplingConfig { logit_bias, ..SamplingConfig::greedy() };
        let generation = GenerationConfig { sampling, max_tokens: Some(150), ..GenerationConfig::default() };
        let answer = AnswerState::new(engine.text().unwrap(), &text[..100], &generation).unwrap();
        let (sink, events) = channel();
        lane.add(Active::new(RequestId(0), answer, Box::new(sink), text[..100].to_vec()));
        let (reply, readings) = channel();
        let reader = RequestId(1);
        lane.add(Active::reading(reader, Reader::new(10..50, true, (7, reply)), text[..60].to_vec()));
        let next = |lane: &mut Lane| {
            let step = |_| {
                lane.step();
                readings.try_recv().ok()
            };
            let (number, reading) = (0..1000).find_map(step).expect("it is told what it waits for");
            assert_eq!(number, 7);
            reading.unwrap()
        };
        let first = next(&mut lane);
        assert_eq!((first.logprobs, first.logits), (logprobs(&rows, &text, 10..50), rows[59].clone()));
        // It goes on at once, beside the answer.
        assert!(lane.go_on(reader, &text[60..61]));
        let second = next(&mut lane);
        assert_eq!((second.logprobs, second.logits), (vec![], rows[60].clone()));
        while lane.n_requests() == (2, 0) {
            lane.step();
        }
        assert_eq!(lane.n_requests(), (1, 1), "the answer needs its memory");
        assert!(lane.go_on(reader, &text[61..95]));
        let third = next(&mut lane);
        assert_eq!((third.logprobs, third.logits), (logprobs(&rows, &text, 62..95), rows[94].clone()));
        assert_eq!(lane.n_requests(), (1, 0), "it stays, and the answer has ended");
        drop(events);
        lane.give_up(reader);
        lane.step();
        assert!(!lane.has_work() && !lane.go_on(reader, &text[95..96]));
    }
}
