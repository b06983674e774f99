//! The forward pass: one straight list of steps over a batch of rows.

use std::sync::Arc;

use hublabio_kernels::{
    Activation, ActivationForms, Activations, AttentionRow, Isa, PAGE_POSITIONS, Product, RopeTable, ThreadTeam,
    add_assign, attention, gated, matmul, rms_norm, rope, write_page,
};

use crate::TokenIndex;
use crate::error::{Error, Result};
use crate::kv::{KvCache, SequenceId};
use crate::model::{Layer, Linear, Matrix, Model};
use crate::observer::ProductObserver;

/// One row of a batch: a token of a sequence, appended at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The sequence that the token belongs to.
    pub sequence: SequenceId,
    /// Its position: the rows of a sequence continue where the sequence ends, in order.
    pub position: u32,
    /// The token, below the vocabulary size.
    pub token: TokenIndex,
    /// Whether the result of this row is wanted.
    pub wanted: bool,
}

/// What goes into a shard's first layer.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The rows' tokens: for a shard that begins with the first layer.
    Tokens,
    /// The residual stream that the shard before computed, `[rows, d_model]`.
    Hidden(&'a [f32]),
}

/// Runs a model (or a shard of one) on a thread team. Holds the buffers of the pass.
pub struct Runner {
    model: Arc<Model>,
    team: ThreadTeam,
    isa: Isa,
    buffers: Buffers,
}

/// Everything that a pass writes, kept from one to the next. Shapes are `[rows of the batch, …]`.
#[derive(Default)]
struct Buffers {
    /// The residual stream, `[d_model]`.
    x: Vec<f32>,
    /// What a half-layer adds to it, `[d_model]`.
    delta: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    activations: Activations,
    rope: RopeTable,
    /// Logits `[wanted rows, vocab_size]`, or the residual stream where the shard has no head.
    result: Vec<f32>,
}

impl Runner {
    /// For `model`, with `threads` threads in all, on the instruction set `isa`. Neither changes any result.
    #[must_use]
    pub fn new(model: Arc<Model>, threads: usize, isa: Isa) -> Self {
        Self { model, team: ThreadTeam::new(threads), isa, buffers: Buffers::default() }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Threads in the team.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.team.n_threads()
    }

    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Appends `rows` to their sequences and computes them. Returns the logits of the wanted rows,
    /// `[wanted, vocab_size]`, or of all rows the residual stream `[rows, d_model]` where this
    /// shard does not end with the last layer.
    ///
    /// # Errors
    /// When a row does not continue its sequence, a token is out of the vocabulary, the cache is full, or a logit is
    /// not finite. The sequences are then as they were.
    ///
    /// # Panics
    /// When `cache` was made for another model.
    pub fn forward(&mut self, cache: &mut KvCache, rows: &[Row], input: Input<'_>) -> Result<&[f32]> {
        self.append(cache, rows, input, None)?;
        Ok(&self.buffers.result)
    }

    /// Appends `rows` to their sequences and computes them, showing the input of every product to `observer`. All rows
    /// go through all layers, wanted or not; logits are computed only for an observer that wants the head, and not
    /// returned.
    ///
    /// # Errors
    /// As [`Self::forward`]; without the head, a residual stream that is not finite takes the place of a logit.
    ///
    /// # Panics
    /// When `cache` was made for another model.
    pub fn observe(
        &mut self,
        cache: &mut KvCache,
        rows: &[Row],
        input: Input<'_>,
        observer: &mut dyn ProductObserver,
    ) -> Result<()> {
        self.append(cache, rows, input, Some(observer))
    }

    fn append(
        &mut self,
        cache: &mut KvCache,
        rows: &[Row],
        input: Input<'_>,
        observer: Option<&mut dyn ProductObserver>,
    ) -> Result<()> {
        let appends = self.check(cache, rows, input)?;
        cache.reserve(&appends)?;
        if let Err(error) = self.compute(cache, rows, input, observer) {
            for &(id, _) in &appends {
                let len = cache.len(id)?;
                cache.truncate(id, len)?;
            }
            return Err(error);
        }
        cache.grow(&appends)
    }

    /// The pass itself; pages are reserved, lengths are not yet grown.
    fn compute(
        &mut self,
        cache: &mut KvCache,
        rows: &[Row],
        input: Input<'_>,
        observer: Option<&mut dyn ProductObserver>,
    ) -> Result<()> {
        let Self { model, team, isa, buffers } = self;
        let model = &**model;
        let h = model.hyperparameters();
        let mut pass = Pass { model, team, isa: *isa, b: buffers, observer };

        // 1. The residual stream begins as the embeddings, or as what the shard before left.
        pass.begin(rows, input)?;
        // 2. One table of rotations serves every layer.
        pass.b.rope.set(rows.iter().map(|r| r.position), &model.inverse_frequencies, 1.0);
        for (i, layer) in model.layers.iter().enumerate() {
            // 3. Attention reads all rows; what follows it in the last layer only the wanted ones.
            pass.attend(i, layer, cache, rows)?;
            if model.head.is_some() && i + 1 == model.layers.len() && pass.observer.is_none() {
                pass.keep_wanted(rows);
            }
            pass.project_attended(&layer.output);
            // 4. The feed-forward half.
            pass.feed_forward(layer);
        }
        // 5. Logits.
        let Pass { b, observer, .. } = pass;
        if observer.as_ref().is_some_and(|observer| !observer.wants_head()) {
            return check_finite(model, &b.x);
        }
        if let Some(head) = &model.head {
            b.delta.resize(b.x.len(), 0.0);
            rms_norm(team, *isa, &b.x, &head.norm, h.norm_eps, &mut b.delta);
            let weights = model.weights(head.output);
            if let Some(observer) = observer {
                observer.products(&[model.name(head.output)], &b.delta, h.d_model);
            }
            b.activations.set(team, *isa, &b.delta, h.d_model, weights.forms());
            b.result.resize(b.x.len() / h.d_model * h.vocab_size, 0.0);
            matmul(team, *isa, &mut [Product { x: &b.activations, weights, bias: None, out: &mut b.result }]);
            check_finite(model, &b.result)?;
        } else {
            b.result.clone_from(&b.x);
        }
        Ok(())
    }

    /// Checks a batch against the model and the cache; how many tokens each sequence gets.
    fn check(&self, cache: &KvCache, rows: &[Row], input: Input<'_>) -> Result<Vec<(SequenceId, usize)>> {
        let h = self.model.hyperparameters();
        assert!(
            *cache.shape() == self.model.attention_shape(cache.shape().kv) && cache.layers() == self.model.layers.len(),
            "the cache was made for another model"
        );
        match input {
            Input::Tokens if self.model.embedding.is_none() => {
                let problem = "the middle of a model takes the residual stream, not tokens".into();
                return Err(Error::BadShard { problem });
            }
            Input::Hidden(x) if x.len() != rows.len() * h.d_model => {
                let problem =
                    format!("{} values are no residual stream of {} rows × {}", x.len(), rows.len(), h.d_model);
                return Err(Error::BadShard { problem });
            }
            _ => {}
        }
        let mut appends: Vec<(SequenceId, usize)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let bad = |problem: String| Err(Error::BadRow { row: i, problem });
            if row.token as usize >= h.vocab_size {
                return bad(format!("token {} is not in the vocabulary of {}", row.token, h.vocab_size));
            }
            let at = appends.iter().position(|(id, _)| *id == row.sequence).unwrap_or_else(|| {
                appends.push((row.sequence, 0));
                appends.len() - 1
            });
            let expected = cache.len(row.sequence)? + appends[at].1;
            if row.position as usize != expected {
                return bad(format!("position {} does not continue a sequence of {expected} tokens", row.position));
            }
            appends[at].1 += 1;
        }
        Ok(appends)
    }
}

/// Refuses what a weight that is not finite leaves behind.
fn check_finite(model: &Model, values: &[f32]) -> Result<()> {
    let largest = values.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff));
    if f32::from_bits(largest).is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite { tensor: model.first_non_finite() })
}

/// One pass: the model, the machine, the buffers, and who looks.
struct Pass<'a, 'o> {
    model: &'a Model,
    team: &'a ThreadTeam,
    isa: Isa,
    b: &'a mut Buffers,
    observer: Option<&'a mut (dyn ProductObserver + 'o)>,
}

/// A product to compute: the weights, their bias, and where the result goes.
type Target<'a> = (Matrix, Option<&'a [f32]>, &'a mut Vec<f32>);

impl Pass<'_, '_> {
    fn begin(&mut self, rows: &[Row], input: Input<'_>) -> Result<()> {
        let d = self.model.hyperparameters().d_model;
        self.b.x.resize(rows.len() * d, 0.0);
        match (input, self.model.embedding) {
            (Input::Hidden(x), _) => self.b.x.copy_from_slice(x),
            (Input::Tokens, Some(embedding)) => {
                for (row, x) in rows.iter().zip(self.b.x.chunks_exact_mut(d)) {
                    self.model.embed(embedding, row.token as usize, x)?;
                }
            }
            (Input::Tokens, None) => unreachable!("check() refuses tokens without embeddings"),
        }
        Ok(())
    }

    /// `out = x · weightsᵀ + bias` for several weights over the same rows.
    fn products(&mut self, x: &[f32], targets: &mut [Target<'_>]) {
        let mut forms = ActivationForms::default();
        let cols = targets[0].0.cols;
        for (matrix, _, _) in targets.iter() {
            let need = self.model.weights(*matrix).forms();
            forms.float |= need.float;
            forms.per32 |= need.per32;
            forms.per256 |= need.per256;
        }
        if let Some(observer) = &mut self.observer {
            let names: Vec<&str> = targets.iter().map(|(matrix, _, _)| self.model.name(*matrix)).collect();
            observer.products(&names, x, cols);
        }
        let n = x.len() / cols;
        self.b.activations.set(self.team, self.isa, x, cols, forms);
        let mut products: Vec<Product<'_>> = targets
            .iter_mut()
            .map(|(matrix, bias, out)| {
                out.resize(n * matrix.rows, 0.0);
                let weights = self.model.weights(*matrix);
                Product { x: &self.b.activations, weights, bias: *bias, out: out.as_mut_slice() }
            })
            .collect();
        matmul(self.team, self.isa, &mut products);
    }

    fn norm(&mut self, weight: &[f32]) -> Vec<f32> {
        let eps = self.model.hyperparameters().norm_eps;
        let mut normed = std::mem::take(&mut self.b.delta);
        normed.resize(self.b.x.len(), 0.0);
        rms_norm(self.team, self.isa, &self.b.x, weight, eps, &mut normed);
        normed
    }

    /// Attention of all rows: reads `x`, leaves `attended` `[rows, n_heads · value_dim]`.
    fn attend(&mut self, index: usize, layer: &Layer, cache: &mut KvCache, rows: &[Row]) -> Result<()> {
        let h = self.model.hyperparameters();
        let shape = *cache.shape();
        let normed = self.norm(&layer.attention_norm);
        let mut query = std::mem::take(&mut self.b.query);
        let mut key = std::mem::take(&mut self.b.key);
        let mut value = std::mem::take(&mut self.b.value);
        self.products(
            &normed,
            &mut [
                (layer.query.weight, layer.query.bias.as_deref(), &mut query),
                (layer.key.weight, layer.key.bias.as_deref(), &mut key),
                (layer.value.weight, layer.value.bias.as_deref(), &mut value),
            ],
        );
        let (q_width, k_width, v_width) = (h.n_heads * h.key_dim, h.n_kv_heads * h.key_dim, h.n_kv_heads * h.value_dim);
        let pairing = h.architecture.rope;
        rope(self.team, &mut query, h.key_dim, q_width, &self.b.rope, pairing);
        rope(self.team, &mut key, h.key_dim, k_width, &self.b.rope, pairing);

        for (row, (k, v)) in rows.iter().zip(key.chunks_exact(k_width).zip(value.chunks_exact(v_width))) {
            let position = row.position as usize;
            let page = cache.page_mut(row.sequence, position, index)?;
            write_page(self.isa, &shape, page, position % PAGE_POSITIONS, k, v);
        }
        let mut sequences: Vec<(SequenceId, Vec<&[u16]>)> = Vec::new();
        for row in rows {
            if !sequences.iter().any(|(id, _)| *id == row.sequence) {
                sequences.push((row.sequence, cache.pages(row.sequence, index)?));
            }
        }
        let views: Vec<AttentionRow<'_>> = rows
            .iter()
            .map(|row| {
                let (_, pages) =
                    sequences.iter().find(|(id, _)| *id == row.sequence).expect("collected from the same rows");
                AttentionRow { pages, skip: 0, len: row.position as usize + 1 }
            })
            .collect();
        self.b.attended.resize(rows.len() * h.n_heads * h.value_dim, 0.0);
        attention(self.team, self.isa, &shape, &query, &views, &mut self.b.attended);
        self.b.query = query;
        self.b.key = key;
        self.b.value = value;
        self.b.delta = normed;
        Ok(())
    }

    /// Drops the rows that nobody wants from `x` and `attended`.
    fn keep_wanted(&mut self, rows: &[Row]) {
        let keep = |data: &mut Vec<f32>| {
            let width = data.len() / rows.len().max(1);
            let mut kept = 0;
            for (i, _) in rows.iter().enumerate().filter(|(_, row)| row.wanted) {
                data.copy_within(i * width..(i + 1) * width, kept);
                kept += width;
            }
            data.truncate(kept);
        };
        keep(&mut self.b.x);
        keep(&mut self.b.attended);
    }

    /// `x += attended · outputᵀ`
    fn project_attended(&mut self, output: &Linear) {
        let attended = std::mem::take(&mut self.b.attended);
        let mut delta = std::mem::take(&mut self.b.delta);
        self.products(&attended, &mut [(output.weight, output.bias.as_deref(), &mut delta)]);
        add_assign(self.team, &mut self.b.x, &delta);
        self.b.attended = attended;
        self.b.delta = delta;
    }

    /// `x += down(silu(gate(norm(x))) · up(norm(x)))`
    fn feed_forward(&mut self, layer: &Layer) {
        let mut delta = self.norm(&layer.ff_norm);
        let mut gate = std::mem::take(&mut self.b.gate);
        let mut up = std::mem::take(&mut self.b.up);
        self.products(&delta, &mut [(layer.gate, None, &mut gate), (layer.up, None, &mut up)]);
        if !gate.is_empty() {
            gated(self.team, self.isa, Activation::Silu, &mut gate, &up, layer.gate.rows);
        }
        self.products(&gate, &mut [(layer.down, None, &mut delta)]);
        add_assign(self.team, &mut self.b.x, &delta);
        self.b.gate = gate;
        self.b.up = up;
        self.b.delta = delta;
    }
}
