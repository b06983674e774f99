//! Measuring: prompt and decode speed of an open model.

use std::ops::ControlFlow;
use std::time::Instant;

use hublabio_tokenizer::TokenId;

use super::InferenceEngine;
use super::engine::PREFILL_ROWS;
use crate::error::{Error, Result};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of the prompt; 0 skips it.
    pub prefill: usize,
    /// Tokens to decode one by one; 0 skips it.
    pub decode: usize,
    /// Tokens in the context before either starts.
    pub depth: usize,
    /// How often; the median counts.
    pub repeat: usize,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { prefill: 512, decode: 64, depth: 0, repeat: 5 }
    }
}

/// Repeated measurements of one thing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Tokens per run.
    pub tokens: usize,
    /// One per run, in order.
    pub tokens_per_s: Vec<f64>,
    /// The median of the runs; 0 where there are none.
    pub median: f64,
}

impl Series {
    fn new(tokens: usize, tokens_per_s: Vec<f64>) -> Self {
        let mut sorted = tokens_per_s.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Self { tokens, tokens_per_s, median }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchReport {
    /// Threads that computed.
    pub threads: usize,
    /// The instruction set.
    pub isa: &'static str,
    /// Seconds to open the model.
    pub load_s: f64,
    /// The prompt.
    pub prefill: Series,
    /// Single tokens.
    pub decode: Series,
    /// Memory traffic of the median decode, weights and keys and values, in 10⁹ bytes per second.
    pub decode_gb_per_s: f64,
    /// The process's peak resident memory in bytes; 0 where the system does not tell.
    pub rss_peak_bytes: u64,
}

impl InferenceEngine {
    /// Measures prompt and decode speed on arbitrary tokens, after one short unmeasured run. `progress` gets (steps done, steps).
    ///
    /// # Errors
    /// When the tokens do not fit in the context, or the caller breaks off.
    pub fn bench(
        &mut self,
        options: &BenchOptions,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<BenchReport> {
        let BenchOptions { prefill, decode, depth, repeat } = *options;
        self.check_logits()?;
        let longest = depth + prefill.max(decode);
        if longest > self.context() {
            let trained = self.model().hyperparameters().context_length;
            return Err(Error::PromptTooLong { prompt: longest, context: self.context(), trained });
        }
        let steps = 2 * repeat + 1;
        let mut done = 0;
        let mut step = |n| -> Result<()> {
            done += n;
            if progress(done, steps).is_break() { Err(Error::Cancelled) } else { Ok(()) }
        };
        let vocab = self.model().hyperparameters().vocab_size as u32;
        // Any tokens cost the same; these jump about, so that embeddings are not all in one page.
        let tokens: Vec<TokenId> =
            (0..longest.max(1) as u32).map(|i| TokenId(i.wrapping_mul(2_654_435_761) % vocab)).collect();
        // Touch every page of the file and wake the team.
        self.keep(0)?;
        self.append(&tokens[..1])?;
        self.append(&tokens[..1])?;
        step(1)?;
        let mut prefills = Vec::new();
        let mut decodes = Vec::new();
        for _ in 0..repeat {
            if prefill > 0 {
                self.fill(&tokens[..depth])?;
                let start = Instant::now();
                for rows in tokens[..prefill].chunks(PREFILL_ROWS) {
                    self.append(rows)?;
                }
                prefills.push(prefill as f64 / start.elapsed().as_secs_f64());
            }
            step(1)?;
            if decode > 0 {
                self.fill(&tokens[..depth])?;
                let start = Instant::now();
                for token in tokens[..decode].chunks(1) {
                    self.append(token)?;
                }
                decodes.push(decode as f64 / start.elapsed().as_secs_f64());
            }
            step(1)?;
        }
        let decode_series = Series::new(decode, decodes);
        let kv_bytes = self.cache.bytes_read_at(depth + decode / 2);
        Ok(BenchReport {
            threads: self.n_threads(),
            isa: self.runner.isa().name(),
            load_s: self.load_s,
            prefill: Series::new(prefill, prefills),
            decode_gb_per_s: decode_series.median * (self.weight_bytes() as f64 + kv_bytes as f64) / 1e9,
            decode: decode_series,
            rss_peak_bytes: rss_peak_bytes(),
        })
    }

    /// Begins anew with `tokens` in the context.
    fn fill(&mut self, tokens: &[TokenId]) -> Result<()> {
        self.keep(0)?;
        for rows in tokens.chunks(PREFILL_ROWS) {
            self.append_wanting(rows, |_| false)?;
        }
        Ok(())
    }
}

/// `VmHWM` of this process, where there is a `/proc`.
fn rss_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: Option<u64> = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse().ok());
    kib.unwrap_or(0) * 1024
}
