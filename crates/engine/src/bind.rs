//! Binds a file's tensors to a description: finds them by name, checks their shapes, and refuses what nothing would read.

use std::cell::Cell;
use std::ops::Range;

use hublabio_gguf::GgufFile;
use hublabio_kernels::{NormKind, WeightMatrix};

use crate::architecture::{Presence, TENSORS, tensor_name};
use crate::error::{Error, Result};
use crate::hyperparameters::{ExpertNumbers, Hyperparameters};
use crate::model::{Embedding, Experts, FeedForward, Head, HeadNorm, Layer, Linear, Matrix, Mlp, Norm, SharedExpert};
use crate::rope::FrequencyFactors;

/// Values of vectors that stand for those of a file without weights; the largest models have some ten million. A file that is
/// not here costs nothing to make larger.
const ABSENT_VALUES_MAX: usize = 1 << 26;

/// Finds tensors by name, checks their shapes, and remembers which were asked for.
pub(crate) struct Binder<'a> {
    file: &'a GgufFile,
    h: &'a Hyperparameters,
    absent_values: Cell<usize>,
    used: Vec<bool>,
    /// Tensors in the order in which they were asked for: that of the forward pass.
    order: Vec<usize>,
}

impl<'a> Binder<'a> {
    pub fn new(file: &'a GgufFile, h: &'a Hyperparameters) -> Self {
        Self { file, h, absent_values: Cell::new(0), used: vec![false; file.tensors().len()], order: Vec::new() }
    }

    /// Tensors in the order of the forward pass.
    pub fn into_order(self) -> Vec<usize> {
        self.order
    }

    fn name(&self, name: &str, layer: Option<usize>) -> String {
        tensor_name(&self.h.architecture, name, layer)
    }

    /// The tensor called `name`, if its dimensions are one of `shapes` (contiguous first). Returns which.
    fn find(&mut self, name: &str, shapes: &[&[usize]]) -> Result<Option<(usize, usize)>> {
        let Some(index) = self.file.tensor_index(name) else { return Ok(None) };
        let info = &self.file.tensors()[index];
        // Writers pad with dimensions of 1, or leave them out.
        let significant = |dims: &[u64]| dims.iter().rposition(|&d| d != 1).map_or(0, |last| last + 1);
        let fits = |shape: &&[usize]| {
            let shape: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
            info.dims[..significant(&info.dims)] == shape[..significant(&shape)]
        };
        let Some(which) = shapes.iter().position(fits) else {
            let expected = shapes[0].iter().map(|&d| d as u64).collect();
            return Err(Error::WrongShape { tensor: name.to_owned(), found: info.dims.clone(), expected });
        };
        self.mark(index);
        Ok(Some((index, which)))
    }

    fn mark(&mut self, index: usize) {
        if !std::mem::replace(&mut self.used[index], true) {
            self.order.push(index);
        }
    }

    /// A stack of matrices `[rows, cols]`: experts, of which `Matrix::expert` picks one.
    fn optional_stack(&mut self, name: &str, (rows, cols): (usize, usize), n: usize) -> Result<Option<Matrix>> {
        let dims: &[usize] = if n == 1 { &[cols, rows] } else { &[cols, rows, n] };
        let Some((tensor, _)) = self.find(name, &[dims])? else { return Ok(None) };
        let view = self.file.tensor_at(tensor).expect("the index comes from this file");
        WeightMatrix::new(view.info.ty, view.data, rows * n, cols)
            .map_err(|cause| Error::Tensor { tensor: name.to_owned(), cause })?;
        Ok(Some(Matrix { tensor, first_row: 0, rows, cols, tensor_rows: rows * n }))
    }

    fn optional_matrix(&mut self, name: &str, shape: (usize, usize)) -> Result<Option<Matrix>> {
        self.optional_stack(name, shape, 1)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.optional_matrix(name, (rows, cols))?.ok_or_else(|| Error::MissingTensor { tensor: name.to_owned() })
    }

    fn stack(&mut self, name: &str, shape: (usize, usize), n: usize) -> Result<Matrix> {
        self.optional_stack(name, shape, n)?.ok_or_else(|| Error::MissingTensor { tensor: name.to_owned() })
    }

    fn values(&self, index: usize) -> Result<Vec<f32>> {
        if !self.file.has_weights() {
            return self.absent(index);
        }
        Ok(self.file.tensor_at(index).expect("the index comes from this file").to_f32()?)
    }

    /// Whether a model could be run is asked before it is here: any numbers will do that could be such.
    fn absent(&self, index: usize) -> Result<Vec<f32>> {
        let info = &self.file.tensors()[index];
        let n = info.n_elements() as usize;
        self.absent_values.set(self.absent_values.get().saturating_add(n));
        if self.absent_values.get() > ABSENT_VALUES_MAX {
            let problem = format!("norms and biases of more than {ABSENT_VALUES_MAX} values together");
            let advice = "fetch another file of the model";
            let cause = Box::new(hublabio_gguf::Error::BadTensor { problem, advice });
            return Err(hublabio_gguf::Error::InTensor { name: info.name.clone(), cause }.into());
        }
        Ok(vec![1.0; n])
    }

    fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.find(name, &[&[len]])?.map(|(index, _)| self.values(index)).transpose()
    }

    /// A vector that a description asks for, allows or forbids. A forbidden one is found by [`Self::refuse_unused`].
    fn vector(&mut self, name: &str, len: usize, presence: Presence) -> Result<Option<Vec<f32>>> {
        match presence {
            Presence::Absent => Ok(None),
            Presence::Optional => self.optional_vector(name, len),
            Presence::Required => match self.optional_vector(name, len)? {
                Some(vector) => Ok(Some(vector)),
                None => Err(Error::MissingTensor { tensor: name.to_owned() }),
            },
        }
    }

    fn linear(&mut self, name: &str, (rows, cols): (usize, usize), bias: Presence) -> Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols)?;
        Ok(Linear { weight, bias: self.vector(&format!("{name}.bias"), rows, bias)? })
    }

    fn norm(&mut self, name: &str, layer: Option<usize>, presence: Presence) -> Result<Option<Norm>> {
        let name = self.name(name, layer);
        let d = self.h.d_model;
        let Some(mut weight) = self.vector(&format!("{name}.weight"), d, presence)? else { return Ok(None) };
        weight.iter_mut().for_each(|w| *w += self.h.architecture.norm_weight_offset);
        let bias = match self.h.architecture.norm {
            NormKind::Rms => None,
            NormKind::Layer => self.optional_vector(&format!("{name}.bias"), d)?,
        };
        Ok(Some(Norm { weight, bias }))
    }

    /// A norm of queries or keys over one head, over each head with weights of its own, or over all heads together.
    fn head_norm(&mut self, name: &str, layer: usize, heads: usize) -> Result<Option<HeadNorm>> {
        let (dim, presence) = (self.h.key_dim, self.h.architecture.attention.query_key_norm);
        let name = self.name(name, Some(layer)) + ".weight";
        if presence == Presence::Absent {
            return Ok(None);
        }
        let Some((index, which)) = self.find(&name, &[&[dim], &[dim, heads], &[dim * heads]])? else {
            let missing = Err(Error::MissingTensor { tensor: name });
            return if presence == Presence::Required { missing } else { Ok(None) };
        };
        let mut weight = self.values(index)?;
        weight.iter_mut().for_each(|w| *w += self.h.architecture.norm_weight_offset);
        Ok(Some(HeadNorm { weight, dim: if which == 2 { dim * heads } else { dim } }))
    }

    pub fn embedding(&mut self) -> Result<Embedding> {
        let h = self.h;
        let description = &h.architecture.embedding;
        let tokens = self.matrix(&(self.name("token_embd", None) + ".weight"), h.vocab_size, h.d_model)?;
        let token_type = match self.table("token_types", description.token_types, 1)? {
            // Every token of a text is of the first type.
            Some(types) => {
                let view = self.file.tensor_at(types.tensor).expect("the index comes from this file");
                let mut row = vec![0.0; h.d_model];
                hublabio_gguf::decode_row(view.info.ty, view.row(0).expect("there is at least one row"), &mut row)?;
                Some(row)
            }
            None => None,
        };
        Ok(Embedding {
            tokens,
            positions: self.table("position_embd", description.positions, h.context_length)?,
            token_type,
            norm: self.norm("token_embd_norm", None, description.norm)?,
        })
    }

    /// A table of rows of the model's width, at least `rows_min` of them.
    fn table(&mut self, name: &str, presence: Presence, rows_min: usize) -> Result<Option<Matrix>> {
        if presence == Presence::Absent {
            return Ok(None);
        }
        let name = self.name(name, None) + ".weight";
        let Some(index) = self.file.tensor_index(&name) else {
            let missing = Err(Error::MissingTensor { tensor: name });
            return if presence == Presence::Required { missing } else { Ok(None) };
        };
        let rows = (self.file.tensors()[index].n_rows() as usize).max(rows_min);
        self.optional_matrix(&name, (rows, self.h.d_model))
    }

    pub fn layer(&mut self, i: usize) -> Result<Layer> {
        let h = self.h;
        let (attention, feed_forward) = (&h.architecture.attention, &h.architecture.feed_forward);
        let layer = Some(i);
        let attention_norm = self.norm("attn_norm", layer, attention.norm)?;
        let [query, key, value] = self.query_key_value(i)?;
        let query_norm = self.head_norm("attn_q_norm", i, h.n_heads)?;
        let key_norm = self.head_norm("attn_k_norm", i, h.n_kv_heads)?;
        let output_shape = (h.d_model, h.n_heads * h.value_dim);
        Ok(Layer {
            kind: h.layers[i],
            attention_norm,
            query,
            key,
            value,
            query_norm,
            key_norm,
            output: self.linear(&self.name("attn_output", layer), output_shape, attention.output_bias)?,
            post_attention_norm: self.norm("post_attention_norm", layer, attention.post_norm)?,
            attention_output_norm: self.norm("attn_output_norm", layer, attention.output_norm)?,
            ff_norm: self.norm("ffn_norm", layer, feed_forward.norm)?,
            feed_forward: self.feed_forward(i)?,
            post_ff_norm: self.norm("post_ffw_norm", layer, feed_forward.post_norm)?,
            output_norm: self.norm("layer_output_norm", layer, feed_forward.output_norm)?,
        })
    }

    /// The three projections, which some files keep in one tensor, one below the other.
    fn query_key_value(&mut self, i: usize) -> Result<[Linear; 3]> {
        let h = self.h;
        let bias = h.architecture.attention.qkv_bias;
        let rows = [h.n_heads * h.key_dim, h.n_kv_heads * h.key_dim, h.n_kv_heads * h.value_dim];
        let fused = self.name("attn_qkv", Some(i));
        if self.file.tensor_index(&format!("{fused}.weight")).is_some() {
            let whole = self.linear(&fused, (rows.iter().sum(), h.d_model), bias)?;
            let mut first = 0;
            return Ok(rows.map(|n| {
                first += n;
                whole.rows(first - n, n)
            }));
        }
        let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|name| self.name(name, Some(i)));
        Ok([
            self.linear(&q, (rows[0], h.d_model), bias)?,
            self.linear(&k, (rows[1], h.d_model), bias)?,
            self.linear(&v, (rows[2], h.d_model), bias)?,
        ])
    }

    fn feed_forward(&mut self, i: usize) -> Result<FeedForward> {
        let h = self.h;
        let router = self.name("ffn_gate_inp", Some(i)) + ".weight";
        if let Some(experts) = h.experts.filter(|_| self.file.tensor_index(&router).is_some()) {
            return self.experts(i, &router, experts).map(|experts| FeedForward::Experts(Box::new(experts)));
        }
        if h.d_ff == 0 {
            return Err(Error::MissingTensor { tensor: router });
        }
        self.mlp(i, ["ffn_gate", "ffn_up", "ffn_down"], h.d_ff).map(FeedForward::Dense)
    }

    fn mlp(&mut self, i: usize, names: [&str; 3], d_ff: usize) -> Result<Mlp> {
        let description = &self.h.architecture.feed_forward;
        let (bias, d) = (description.bias, self.h.d_model);
        let [gate, up, down] = names.map(|name| self.name(name, Some(i)));
        let down = |binder: &mut Self| binder.linear(&down, (d, d_ff), bias);
        if !description.gated {
            return Ok(Mlp { gate: None, up: self.linear(&up, (d_ff, d), bias)?, down: down(self)? });
        }
        if self.file.tensor_index(&format!("{gate}.weight")).is_some() {
            let gate = self.linear(&gate, (d_ff, d), bias)?;
            return Ok(Mlp { gate: Some(gate), up: self.linear(&up, (d_ff, d), bias)?, down: down(self)? });
        }
        // A file whose `ffn_up` is no taller than the plain one has lost its gate.
        let plain = [d as u64, d_ff as u64];
        if self.file.tensor(&format!("{up}.weight")).is_none_or(|up| up.info.dims.starts_with(&plain)) {
            return Err(Error::MissingTensor { tensor: format!("{gate}.weight") });
        }
        let both = self.linear(&up, (2 * d_ff, d), bias)?;
        Ok(Mlp { gate: Some(both.rows(0, d_ff)), up: both.rows(d_ff, d_ff), down: down(self)? })
    }

    fn experts(&mut self, i: usize, router: &str, numbers: ExpertNumbers) -> Result<Experts> {
        let (n, d, d_ff) = (numbers.n_experts, self.h.d_model, numbers.d_ff);
        let router = self.matrix(router, n, d)?;
        let [gate, up, down] =
            ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].map(|name| self.name(name, Some(i)) + ".weight");
        let gated = self.h.architecture.feed_forward.gated;
        Ok(Experts {
            router,
            gate: if gated { Some(self.stack(&gate, (d_ff, d), n)?) } else { None },
            up: self.stack(&up, (d_ff, d), n)?,
            down: self.stack(&down, (d, d_ff), n)?,
            shared: self.shared_expert(i, numbers)?,
        })
    }

    fn shared_expert(&mut self, i: usize, numbers: ExpertNumbers) -> Result<Option<SharedExpert>> {
        let presence = self.h.architecture.feed_forward.shared_expert;
        let up = self.name("ffn_up_shexp", Some(i)) + ".weight";
        if presence == Presence::Absent || presence == Presence::Optional && self.file.tensor_index(&up).is_none() {
            return Ok(None);
        }
        // Older files do not say how wide it is, but their tensor does.
        let rows = |tensor: hublabio_gguf::TensorView<'_>| tensor.info.n_rows() as usize;
        let d_ff = match numbers.d_ff_shared {
            0 => self.file.tensor(&up).map(rows).ok_or(Error::MissingTensor { tensor: up })?,
            d_ff => d_ff,
        };
        let router = self.name("ffn_gate_inp_shexp", Some(i)) + ".weight";
        Ok(Some(SharedExpert {
            router: self.optional_matrix(&router, (1, self.h.d_model))?,
            mlp: self.mlp(i, ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"], d_ff)?,
        }))
    }

    pub fn head(&mut self, embedding: &Embedding) -> Result<Head> {
        let h = self.h;
        let norm = self.norm("output_norm", None, h.architecture.head.norm)?;
        if !h.architecture.head.logits {
            return Ok(Head { norm, output: None });
        }
        let name = self.name("output", None);
        let tied = self.file.tensor(&format!("{name}.weight")).is_none();
        let weight =
            if tied { embedding.tokens } else { self.matrix(&format!("{name}.weight"), h.vocab_size, h.d_model)? };
        let bias = self.vector(&format!("{name}.bias"), h.vocab_size, h.architecture.head.bias)?;
        Ok(Head { norm, output: Some(Linear { weight, bias }) })
    }

    /// Factors by which the file divides rotary frequencies.
    pub fn frequency_factors(&mut self) -> Result<FrequencyFactors> {
        let mut factors = |name: &str| -> Result<Option<Vec<f32>>> {
            let name = self.name(name, None) + ".weight";
            let factors = self.optional_vector(&name, self.h.rope_dims / 2)?;
            match factors.iter().flatten().find(|f| !f.is_finite() || **f <= 0.0) {
                Some(bad) => {
                    let problem = format!("`{name}` holds {bad}, not a positive number");
                    Err(Error::BadKey { key: name, problem })
                }
                None => Ok(factors),
            }
        };
        let (all, short, long) =
            (factors("rope_freqs")?, factors("rope_factors_short")?, factors("rope_factors_long")?);
        if short.is_some() != long.is_some() {
            let missing = if short.is_some() { "rope_factors_long" } else { "rope_factors_short" };
            return Err(Error::MissingTensor { tensor: self.name(missing, None) + ".weight" });
        }
        Ok(FrequencyFactors { all, short, long })
    }

    /// Takes note of the tensors that other shards read: the layers outside `layers`, and what the last of them ends with.
    pub fn leave_to_others(&mut self, layers: &Range<usize>) {
        let n_layers = self.h.n_layers;
        let h = self.h;
        let mut left = |name: &str, layer: Option<usize>| {
            let name = tensor_name(&h.architecture, name, layer);
            for part in ["weight", "bias"] {
                if let Some(index) = self.file.tensor_index(&format!("{name}.{part}")) {
                    self.used[index] = true;
                }
            }
        };
        for (name, in_layers) in TENSORS {
            if in_layers {
                (0..n_layers).filter(|i| !layers.contains(i)).for_each(|i| left(name, Some(i)));
            } else if layers.end != n_layers && name.starts_with("output") {
                left(name, None);
            }
        }
    }

    /// A tensor that nothing reads would make the output silently wrong.
    pub fn refuse_unused(&self) -> Result<()> {
        for (info, used) in self.file.tensors().iter().zip(&self.used) {
            // Old converters left the rotary frequencies of each block in the file: derived data, not weights.
            if !used && !info.name.contains("attn_rot_embd") {
                let architecture = self.h.architecture.name.to_string();
                return Err(Error::UnusedTensor { tensor: info.name.clone(), architecture });
            }
        }
        Ok(())
    }
}
