//! The forward pass: one straight list of steps over a batch of rows.

use std::sync::Arc;

use hublabio_kernels::{
    ActivationForms, Activations, AttentionRow, Isa, NormKind, PAGE_POSITIONS, Product, RopeTable, ThreadTeam,
    activate, add_assign, add_scaled, attention, gated, layer_norm, matmul, norm_heads, rms_norm, rope, scale,
    soft_cap, write_page,
};

use crate::TokenIndex;
use crate::adapter::ActiveAdapter;
use crate::error::{Error, Result};
use crate::experts::ExpertBuffers;
use crate::kv::{KvCache, PageView, SequenceId};
use crate::model::{FeedForward, HeadNorm, Layer, Linear, Matrix, Mlp, Model, Norm};
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

/// What comes out of a shard's last layer, where it is the model's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goal {
    Logits,
    /// The residual stream after the last norm.
    States,
}

/// Runs a model (or a shard of one) on a thread team. Holds the buffers of the pass.
pub struct Runner {
    model: Arc<Model>,
    team: Arc<ThreadTeam>,
    isa: Isa,
    buffers: Buffers,
    adapters: Vec<ActiveAdapter>,
}

/// Everything that a pass writes, kept from one to the next. Shapes are `[rows of the batch, …]`.
#[derive(Default)]
pub(crate) struct Buffers {
    /// The residual stream, `[d_model]`.
    pub x: Vec<f32>,
    /// What a half-layer reads of it, normalised, `[d_model]`.
    normed: Vec<f32>,
    /// What a half-layer adds to it, `[d_model]`.
    delta: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    activations: Activations,
    /// Rotations of layers that see everything, and of those that see a window.
    rope: [RopeTable; 2],
    pub experts: ExpertBuffers,
    /// Products with the two matrices of an adapter.
    low_rank: [Vec<f32>; 2],
    low_rank_activations: Activations,
    /// Logits `[wanted rows, vocab_size]`, or the residual stream where the shard has no head.
    result: Vec<f32>,
}

impl Runner {
    /// For `model`, with `threads` threads in all, on the instruction set `isa`. Neither changes any result.
    #[must_use]
    pub fn new(model: Arc<Model>, threads: usize, isa: Isa) -> Self {
        Self::on_team(model, Arc::new(ThreadTeam::new(threads)), isa)
    }

    /// For `model`, on a team that other runners use, too: one computes at a time, and idle threads of one model never
    /// stand in the way of another.
    #[must_use]
    pub fn on_team(model: Arc<Model>, team: Arc<ThreadTeam>, isa: Isa) -> Self {
        Self { model, team, isa, buffers: Buffers::default(), adapters: Vec::new() }
    }

    /// The team.
    #[must_use]
    pub fn team(&self) -> &Arc<ThreadTeam> {
        &self.team
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

    /// Computes with these adapters from now on, in place of those before. Sequences that were computed with others go on as
    /// if they had been computed with these: begin new ones.
    ///
    /// # Panics
    /// When one of them was opened for a model of other shapes.
    pub fn set_adapters(&mut self, adapters: Vec<ActiveAdapter>) {
        let fit = adapters.iter().all(|active| active.adapter.fits(&self.model));
        assert!(fit, "the adapter was opened for another model");
        self.adapters = adapters;
    }

    /// Appends `rows` to their sequences and computes them. Returns the logits of the wanted rows,
    /// `[wanted, vocab_size]`; for an encoder their states, `[wanted, d_model]`; or of all rows the residual stream
    /// `[rows, d_model]` where this shard does not end with the last layer. The rows of an encoder's text come in
    /// one batch, because each sees all others.
    ///
    /// # Errors
    /// When a row does not continue its sequence, a token is out of the vocabulary, the cache is full, or a logit is
    /// not finite. The sequences are then as they were.
    ///
    /// # Panics
    /// When `cache` was made for another model.
    pub fn forward(&mut self, cache: &mut KvCache, rows: &[Row], input: Input<'_>) -> Result<&[f32]> {
        self.append(cache, rows, input, Goal::Logits, None)?;
        Ok(&self.buffers.result)
    }

    /// Swaps what the last pass returned against `other`, whose memory the next pass uses: its owner can go on with the one
    /// while the other is computed, and nothing is copied.
    pub fn swap_result(&mut self, other: &mut Vec<f32>) {
        std::mem::swap(&mut self.buffers.result, other);
    }

    /// As [`Self::forward`], for the states after the last norm in place of logits, `[wanted, d_model]`: what embeddings
    /// are pooled from.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    ///
    /// # Panics
    /// When `cache` was made for another model.
    pub fn states(&mut self, cache: &mut KvCache, rows: &[Row], input: Input<'_>) -> Result<&[f32]> {
        self.append(cache, rows, input, Goal::States, None)?;
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
        let goal = if observer.wants_head() { Goal::Logits } else { Goal::States };
        self.append(cache, rows, input, goal, Some(observer))
    }

    fn append(
        &mut self,
        cache: &mut KvCache,
        rows: &[Row],
        input: Input<'_>,
        goal: Goal,
        observer: Option<&mut dyn ProductObserver>,
    ) -> Result<()> {
        let appends = self.check(cache, rows, input)?;
        cache.reserve(&appends)?;
        if let Err(error) = self.compute(cache, rows, input, goal, observer) {
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
        goal: Goal,
        observer: Option<&mut dyn ProductObserver>,
    ) -> Result<()> {
        let Self { model, team, isa, buffers, adapters } = self;
        let model = &**model;
        // Others may compute on the same team: passes alternate.
        let _turn = team.turn();
        let mut pass = Pass { model, team, isa: *isa, b: buffers, adapters, observer };

        // 1. The residual stream begins as the embeddings, or as what the shard before left.
        pass.begin(rows, input)?;
        // 2. Two tables of rotations serve every layer.
        pass.rotations(cache, rows)?;
        for (i, layer) in model.layers.iter().enumerate() {
            // 3. Attention reads all rows; what follows it in the last layer only the wanted ones.
            pass.attend(i, layer, cache, rows)?;
            if model.head.is_some() && i + 1 == model.layers.len() && pass.observer.is_none() {
                pass.keep_wanted(rows);
            }
            pass.project_attended(layer);
            // 4. The feed-forward half.
            pass.feed_forward(layer);
        }
        // 5. Logits.
        pass.finish(goal);
        check_finite(model, adapters, &self.buffers.result)
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
        let positions_max = self.model.embedding.as_ref().and_then(|e| e.positions).map_or(usize::MAX, |p| p.rows);
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
            let before = cache.len(row.sequence)?;
            if row.position as usize != before + appends[at].1 {
                let expected = before + appends[at].1;
                return bad(format!("position {} does not continue a sequence of {expected} tokens", row.position));
            }
            if row.position as usize >= positions_max {
                return bad(format!("the model knows {positions_max} positions, and this is number {}", row.position));
            }
            if !h.causal && before > 0 {
                return bad("an encoder reads a text at once: it cannot be continued".into());
            }
            appends[at].1 += 1;
        }
        Ok(appends)
    }
}

/// Refuses what a weight that is not finite leaves behind.
fn check_finite(model: &Model, adapters: &[ActiveAdapter], values: &[f32]) -> Result<()> {
    let largest = values.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff));
    if f32::from_bits(largest).is_finite() {
        return Ok(());
    }
    let in_adapters = || adapters.iter().find_map(|active| active.adapter.first_non_finite());
    Err(Error::NonFinite { tensor: model.first_non_finite().or_else(in_adapters) })
}

/// One pass: the model, the machine, the buffers, and who looks.
pub(crate) struct Pass<'a, 'o> {
    pub model: &'a Model,
    pub team: &'a ThreadTeam,
    pub isa: Isa,
    pub b: &'a mut Buffers,
    pub adapters: &'a [ActiveAdapter],
    pub observer: Option<&'a mut (dyn ProductObserver + 'o)>,
}

/// A product to compute: the weights, their bias, and where the result goes.
type Target<'a> = (Matrix, Option<&'a [f32]>, &'a mut Vec<f32>);

impl Pass<'_, '_> {
    fn begin(&mut self, rows: &[Row], input: Input<'_>) -> Result<()> {
        let h = self.model.hyperparameters();
        let d = h.d_model;
        self.b.x.resize(rows.len() * d, 0.0);
        let Some(embedding) = self.model.embedding.as_ref().filter(|_| matches!(input, Input::Tokens)) else {
            let Input::Hidden(x) = input else { unreachable!("check() refuses tokens without embeddings") };
            self.b.x.copy_from_slice(x);
            return Ok(());
        };
        for (row, x) in rows.iter().zip(self.b.x.chunks_exact_mut(d)) {
            self.model.row(embedding.tokens, row.token as usize, x)?;
        }
        if h.factors.embedding != 1.0 {
            scale(self.team, &mut self.b.x, h.factors.embedding);
        }
        if let Some(token_type) = &embedding.token_type {
            self.b.x.chunks_exact_mut(d).for_each(|x| x.iter_mut().zip(token_type).for_each(|(x, t)| *x += t));
        }
        if let Some(positions) = embedding.positions {
            let mut position = vec![0.0; d];
            for (row, x) in rows.iter().zip(self.b.x.chunks_exact_mut(d)) {
                self.model.row(positions, row.position as usize, &mut position)?;
                x.iter_mut().zip(&position).for_each(|(x, p)| *x += p);
            }
        }
        if let Some(norm) = &embedding.norm {
            self.norm_stream(norm);
        }
        Ok(())
    }

    /// The rotation of every row. A sequence past the original context has its own factors, from its first token on.
    fn rotations(&mut self, cache: &KvCache, rows: &[Row]) -> Result<()> {
        let h = self.model.hyperparameters();
        for (local, table) in
            self.b.rope.iter_mut().enumerate().take(1 + usize::from(self.model.local_rotations_differ))
        {
            table.begin(h.rope_dims / 2);
            for row in rows {
                let long = usize::from(cache.context(row.sequence)? > h.rope.original_context);
                let rotations = &self.model.rotations[long];
                let frequencies = if local == 1 { &rotations.local } else { &rotations.global };
                table.push(row.position, &frequencies.inverse, frequencies.magnitude);
            }
        }
        Ok(())
    }

    /// `out = x · weightsᵀ + bias` for several weights over the same rows.
    pub fn products(&mut self, x: &[f32], targets: &mut [Target<'_>]) {
        let cols = targets[0].0.cols;
        let forms = self.forms(targets.iter().map(|(matrix, _, _)| *matrix));
        if let Some(observer) = &mut self.observer {
            let mut names: Vec<&str> = targets.iter().map(|(matrix, _, _)| self.model.name(*matrix)).collect();
            names.dedup();
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
        for adapter in self.adapters {
            self.adapt(adapter, x, targets);
        }
    }

    /// The forms of activations that products with these matrices read.
    pub fn forms(&self, matrices: impl Iterator<Item = Matrix>) -> ActivationForms {
        matrices.map(|matrix| self.model.weights(matrix).forms()).fold(ActivationForms::default(), |all, need| {
            ActivationForms {
                float: all.float || need.float,
                per32: all.per32 || need.per32,
                per256: all.per256 || need.per256,
            }
        })
    }

    /// `out += scale · B · A · x` for each of the products that an adapter changes.
    fn adapt(&mut self, adapter: &ActiveAdapter, x: &[f32], targets: &mut [Target<'_>]) {
        for (matrix, _, out) in targets.iter_mut() {
            let Some((a, b, scale)) = adapter.pair(matrix.tensor) else { continue };
            let b = b.rows_range(matrix.first_row, matrix.rows);
            let [low, high] = &mut self.b.low_rank;
            let inner = &mut self.b.low_rank_activations;
            low.resize(x.len() / matrix.cols * a.rows(), 0.0);
            high.resize(out.len(), 0.0);
            inner.set(self.team, self.isa, x, matrix.cols, a.forms());
            matmul(self.team, self.isa, &mut [Product { x: inner, weights: a, bias: None, out: low }]);
            inner.set(self.team, self.isa, low, a.rows(), b.forms());
            matmul(self.team, self.isa, &mut [Product { x: inner, weights: b, bias: None, out: high }]);
            add_scaled(self.team, out, high, scale);
        }
    }

    fn norm_into(&self, norm: &Norm, x: &[f32], out: &mut Vec<f32>) {
        let h = self.model.hyperparameters();
        out.resize(x.len(), 0.0);
        match h.architecture.norm {
            NormKind::Rms => rms_norm(self.team, self.isa, x, &norm.weight, h.norm_eps, out),
            NormKind::Layer => {
                layer_norm(self.team, self.isa, x, &norm.weight, norm.bias.as_deref(), h.norm_eps, out);
            }
        }
    }

    /// Normalises the residual stream in its place. `normed` stays: the other half-layer may read it yet.
    fn norm_stream(&mut self, norm: &Norm) {
        let mut out = std::mem::take(&mut self.b.delta);
        self.norm_into(norm, &self.b.x, &mut out);
        std::mem::swap(&mut self.b.x, &mut out);
        self.b.delta = out;
    }

    /// What a half-layer reads: the residual stream, normalised where there is a norm before it.
    fn read_stream(&mut self, norm: Option<&Norm>) {
        let mut out = std::mem::take(&mut self.b.normed);
        match norm {
            Some(norm) => self.norm_into(norm, &self.b.x, &mut out),
            None => out.clone_from(&self.b.x),
        }
        self.b.normed = out;
    }

    /// Adds `delta` to the residual stream, through the norms after a half-layer.
    fn add_delta(&mut self, mut delta: Vec<f32>, post_norm: Option<&Norm>, output_norm: Option<&Norm>) {
        if let Some(norm) = post_norm {
            let mut normed = std::mem::take(&mut self.b.query);
            self.norm_into(norm, &delta, &mut normed);
            std::mem::swap(&mut delta, &mut normed);
            self.b.query = normed;
        }
        let factor = self.model.hyperparameters().factors.residual;
        if factor == 1.0 {
            add_assign(self.team, &mut self.b.x, &delta);
        } else {
            add_scaled(self.team, &mut self.b.x, &delta, factor);
        }
        self.b.delta = delta;
        if let Some(norm) = output_norm {
            self.norm_stream(norm);
        }
    }

    /// Attention of all rows: reads `x`, leaves `attended` `[rows, n_heads · value_dim]`.
    fn attend(&mut self, index: usize, layer: &Layer, cache: &mut KvCache, rows: &[Row]) -> Result<()> {
        let h = self.model.hyperparameters();
        let shape = *cache.shape();
        self.read_stream(layer.attention_norm.as_ref());
        let normed = std::mem::take(&mut self.b.normed);
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
        let norm_of_heads = |norm: &Option<HeadNorm>, x: &mut [f32]| {
            if let Some(norm) = norm {
                let kind = h.architecture.attention.query_key_norm_kind;
                norm_heads(self.team, self.isa, kind, x, &norm.weight, norm.dim, h.norm_eps);
            }
        };
        norm_of_heads(&layer.query_norm, &mut query);
        norm_of_heads(&layer.key_norm, &mut key);
        let (q_width, k_width, v_width) = (h.n_heads * h.key_dim, h.n_kv_heads * h.key_dim, h.n_kv_heads * h.value_dim);
        if let Some(pairing) = h.architecture.rope.pairing.kernel().filter(|_| layer.kind.turns) {
            let table = &self.b.rope[usize::from(layer.kind.windowed && self.model.local_rotations_differ)];
            rope(self.team, &mut query, h.key_dim, q_width, table, pairing);
            rope(self.team, &mut key, h.key_dim, k_width, table, pairing);
        }

        for (row, (k, v)) in rows.iter().zip(key.chunks_exact(k_width).zip(value.chunks_exact(v_width))) {
            let position = row.position as usize;
            let page = cache.page_mut(row.sequence, position, index)?;
            write_page(self.isa, &shape, page, position % PAGE_POSITIONS, k, v);
        }
        // The pages of each sequence, and how long it is with this batch.
        let mut sequences: Vec<(SequenceId, PageView<'_>, usize)> = Vec::new();
        for row in rows {
            let end = row.position as usize + 1;
            match sequences.iter_mut().find(|(id, ..)| *id == row.sequence) {
                Some((_, _, len)) => *len = end,
                None => sequences.push((row.sequence, cache.pages(row.sequence, index)?, end)),
            }
        }
        let views: Vec<AttentionRow<'_>> = rows
            .iter()
            .map(|row| {
                let (_, view, len) =
                    sequences.iter().find(|(id, ..)| *id == row.sequence).expect("collected from the same rows");
                let position = row.position as usize;
                let (pages, skip, len) = view.seen(position, if h.causal { position + 1 } else { *len });
                AttentionRow { pages, skip, len }
            })
            .collect();
        self.b.attended.resize(rows.len() * h.n_heads * h.value_dim, 0.0);
        attention(self.team, self.isa, &shape, &query, &views, &mut self.b.attended);
        self.b.query = query;
        self.b.key = key;
        self.b.value = value;
        self.b.normed = normed;
        Ok(())
    }

    /// Drops the rows that nobody wants from `x` and `attended`, and from what attention read.
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
        keep(&mut self.b.normed);
        keep(&mut self.b.attended);
    }

    /// `x += attended · outputᵀ`
    fn project_attended(&mut self, layer: &Layer) {
        let attended = std::mem::take(&mut self.b.attended);
        let mut delta = std::mem::take(&mut self.b.delta);
        self.products(&attended, &mut [(layer.output.weight, layer.output.bias.as_deref(), &mut delta)]);
        self.b.attended = attended;
        self.add_delta(delta, layer.post_attention_norm.as_ref(), layer.attention_output_norm.as_ref());
    }

    /// `x += feed_forward(norm(x))`
    fn feed_forward(&mut self, layer: &Layer) {
        let beside = self.model.hyperparameters().architecture.feed_forward.parallel && layer.ff_norm.is_none();
        if !beside {
            self.read_stream(layer.ff_norm.as_ref());
        }
        let normed = std::mem::take(&mut self.b.normed);
        let mut delta = std::mem::take(&mut self.b.delta);
        match &layer.feed_forward {
            FeedForward::Dense(mlp) => self.mlp(mlp, &normed, &mut delta),
            FeedForward::Experts(experts) => self.mixture(experts, &normed, &mut delta),
        }
        self.b.normed = normed;
        self.add_delta(delta, layer.post_ff_norm.as_ref(), layer.output_norm.as_ref());
    }

    /// `out = down(act(gate(x)) · up(x))`, or `down(act(up(x)))` without a gate.
    pub fn mlp(&mut self, mlp: &Mlp, x: &[f32], out: &mut Vec<f32>) {
        let activation = self.model.hyperparameters().architecture.feed_forward.activation;
        let mut up = std::mem::take(&mut self.b.up);
        let mut gate = std::mem::take(&mut self.b.gate);
        let width = mlp.up.weight.rows;
        let up_target = |up| (mlp.up.weight, mlp.up.bias.as_deref(), up);
        let inner = if let Some(linear) = &mlp.gate {
            let gate_target = (linear.weight, linear.bias.as_deref(), &mut gate);
            self.products(x, &mut [gate_target, up_target(&mut up)]);
            gated(self.team, self.isa, activation, &mut gate, &up, width);
            &gate
        } else {
            self.products(x, &mut [up_target(&mut up)]);
            activate(self.team, self.isa, activation, &mut up, width);
            &up
        };
        self.products(inner, &mut [(mlp.down.weight, mlp.down.bias.as_deref(), out)]);
        self.b.gate = gate;
        self.b.up = up;
    }

    /// The residual stream becomes the result: logits, states, or itself.
    fn finish(&mut self, goal: Goal) {
        let Some(head) = &self.model.head else {
            self.b.result.clone_from(&self.b.x);
            return;
        };
        // A pass that is watched for its blocks alone needs no head: the stream shows whether all went well.
        if self.observer.is_some() && goal == Goal::States {
            self.b.result.clone_from(&self.b.x);
            return;
        }
        self.read_stream(head.norm.as_ref());
        let states = std::mem::take(&mut self.b.normed);
        let mut result = std::mem::take(&mut self.b.result);
        match &head.output {
            Some(Linear { weight, bias }) if goal == Goal::Logits => {
                self.products(&states, &mut [(*weight, bias.as_deref(), &mut result)]);
                let factors = self.model.hyperparameters().factors;
                if factors.logits != 1.0 {
                    scale(self.team, &mut result, factors.logits);
                }
                if factors.logit_cap > 0.0 {
                    soft_cap(self.team, self.isa, &mut result, factors.logit_cap);
                }
            }
            _ => result.clone_from(&states),
        }
        self.b.normed = states;
        self.b.result = result;
    }
}
