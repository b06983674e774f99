//! Collecting an importance matrix: a text through the model, and the squares of what meets each matrix summed up.
//!
//! The file formats are in `importance_matrix.rs`; the engine shows its products through
//! [`ProductObserver`].

use std::ops::ControlFlow;

use hublabio_engine::ProductObserver;
use hublabio_tokenizer::TokenId;

use super::engine::{LOGIT_ROWS, PREFILL_ROWS};
use super::{ImportanceMatrix, InferenceEngine};
use crate::error::{Error, Result};

/// Which tokens an importance matrix is collected from, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionOptions {
    /// Tokens in a chunk.
    pub chunk_size: usize,
    /// Only so many chunks, from the beginning.
    pub chunks_max: Option<usize>,
    /// Whether `output.weight` is looked at too. llama.cpp leaves it out unless asked: quantizers treat it apart.
    pub process_output: bool,
}

impl InferenceEngine {
    /// Runs `tokens` through the model in chunks that do not overlap, each starting anew (with BOS in place of its first
    /// token where the model wants BOS), and adds what it learns to `matrix` under the name `dataset`. A last chunk that
    /// is not full is left out. As llama.cpp does it, only matrices of blocks count, all tokens of a chunk count, and
    /// a tied output head counts as the embedding that it is: not at all.
    ///
    /// Sums are kept in double precision and added in the order of the text: neither threads nor instruction sets
    /// change a bit of them. `progress` gets (chunks done, chunks). Returns the chunks that were taken.
    ///
    /// # Errors
    /// When there is no full chunk, a chunk is longer than the context, the model computes numbers that are not finite,
    /// `matrix` was made for another model, or the caller breaks off. What was added until then stays in `matrix`.
    pub fn collect_importance(
        &mut self,
        tokens: &[TokenId],
        options: CollectionOptions,
        dataset: &str,
        matrix: &mut ImportanceMatrix,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<usize> {
        self.check_logits()?;
        let size = options.chunk_size;
        if size > self.context() {
            let trained = self.model().hyperparameters().context_length;
            return Err(Error::PromptTooLong { prompt: size, context: self.context(), trained });
        }
        if size == 0 || tokens.len() < size {
            return Err(Error::TooFewTokens { what: "an importance matrix", needed: size.max(1), found: tokens.len() });
        }
        let tokenizer = self.tokenizer()?;
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let chunks = (tokens.len() / size).min(options.chunks_max.unwrap_or(usize::MAX));
        let rows_max = if options.process_output { LOGIT_ROWS } else { PREFILL_ROWS };
        let mut collector =
            Collector { matrix, process_output: options.process_output, sums: Vec::new(), failed: Ok(()) };
        for (i, text) in tokens.chunks_exact(size).take(chunks).enumerate() {
            if progress(i, chunks).is_break() {
                return Err(Error::Cancelled);
            }
            let mut input = text.to_vec();
            if let Some(bos) = bos {
                input[0] = bos;
            }
            self.keep(0)?;
            for rows in input.chunks(rows_max) {
                self.append_observed(rows, &mut collector)?;
                std::mem::replace(&mut collector.failed, Ok(()))?;
            }
        }
        matrix.finish_dataset(dataset, chunks as u64);
        // Done: whether the caller wants to stop changes nothing.
        let _ = progress(chunks, chunks);
        Ok(chunks)
    }
}

/// Adds the squares of the rows that it is shown to an importance matrix.
struct Collector<'a> {
    matrix: &'a mut ImportanceMatrix,
    process_output: bool,
    /// Sums over the rows of one product.
    sums: Vec<f64>,
    /// What went wrong in the pass: an observer cannot stop it.
    failed: Result<()>,
}

impl ProductObserver for Collector<'_> {
    fn products(&mut self, tensors: &[&str], rows: &[f32], columns: usize) {
        self.record(tensors, (0, 1), rows, columns);
    }

    fn expert_products(&mut self, tensors: &[&str], expert: (usize, usize), rows: &[f32], columns: usize) {
        self.record(tensors, expert, rows, columns);
    }

    fn wants_head(&self) -> bool {
        self.process_output
    }
}

impl Collector<'_> {
    fn record(&mut self, tensors: &[&str], expert: (usize, usize), rows: &[f32], columns: usize) {
        let process_output = self.process_output;
        let counted = |name: &str| name.starts_with("blk.") || (process_output && name == "output.weight");
        if self.failed.is_err() || !tensors.iter().any(|name| counted(name)) {
            return;
        }
        self.sums.clear();
        self.sums.resize(columns, 0.0);
        for row in rows.chunks_exact(columns) {
            for (sum, &x) in self.sums.iter_mut().zip(row) {
                // The square of a single-precision number is exact in double precision.
                *sum += f64::from(x) * f64::from(x);
            }
        }
        let n_rows = (rows.len() / columns) as u64;
        for name in tensors.iter().filter(|name| counted(name)) {
            if let Err(error) = self.matrix.record(name, expert, &self.sums, n_rows) {
                self.failed = Err(error);
            }
        }
    }
}
