//! A file's tensors bound to an architecture: checked once when the model is opened, borrowed from the
//! memory map ever after.

use std::ops::Range;
use std::sync::Arc;

use hublabio_gguf::{GgmlType, GgufFile, TensorView, decode_row};
use hublabio_kernels::{AttentionShape, KvType, WeightMatrix};

use crate::architecture::Architecture;
use crate::bind::Binder;
use crate::error::{Error, Result};
use crate::hyperparameters::{Hyperparameters, LayerKind};
use crate::kv::KvCache;
use crate::rope::Frequencies;

/// The part of a model that one node holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shard {
    /// Transformer blocks; `None` for all. The first block comes with the embeddings, the last with the output head.
    pub layers: Option<Range<usize>>,
    /// Which part of every matrix, for tensor parallelism: this rank …
    pub rank: usize,
    /// … of so many; 0 and 1 both mean that matrices are whole.
    pub ranks: usize,
}

impl Shard {
    /// The whole model.
    #[must_use]
    pub fn whole() -> Self {
        Self::default()
    }

    /// Some layers, whole matrices.
    #[must_use]
    pub fn of_layers(layers: Range<usize>) -> Self {
        Self { layers: Some(layers), ..Self::default() }
    }
}

/// A matrix in the file: rows of a tensor, all of them or a part, and its checked shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub tensor: usize,
    pub first_row: usize,
    pub rows: usize,
    pub cols: usize,
    /// Rows of the whole tensor.
    pub tensor_rows: usize,
}

impl Mlp {
    fn matrices(&self) -> impl Iterator<Item = Matrix> {
        [self.gate.as_ref(), Some(&self.up), Some(&self.down)].into_iter().flatten().map(|linear| linear.weight)
    }
}

impl Matrix {
    /// The matrix of expert `i`, where this is the first of a stack.
    pub fn expert(self, i: usize) -> Self {
        Self { first_row: self.first_row + i * self.rows, ..self }
    }
}

/// A matrix and its bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub weight: Matrix,
    /// `[rows]`
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Its rows `first … first + n` alone.
    pub fn rows(&self, first: usize, n: usize) -> Self {
        let weight = Matrix { first_row: self.weight.first_row + first, rows: n, ..self.weight };
        Self { weight, bias: self.bias.as_ref().map(|bias| bias[first..first + n].to_vec()) }
    }
}

/// A norm of the residual stream.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    /// `[d_model]`
    pub weight: Vec<f32>,
    /// `[d_model]`, of a `LayerNorm`.
    pub bias: Option<Vec<f32>>,
}

/// A norm of queries or keys.
#[derive(Clone, Debug)]
pub(crate) struct HeadNorm {
    /// `[dim]`, or `[heads · dim]` where each head has its own.
    pub weight: Vec<f32>,
    /// Values that are normalised together: a head, or all of them.
    pub dim: usize,
}

/// One transformer block.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub kind: LayerKind,
    pub attention_norm: Option<Norm>,
    /// `[n_heads · key_dim, d_model]`
    pub query: Linear,
    /// `[n_kv_heads · key_dim, d_model]`
    pub key: Linear,
    /// `[n_kv_heads · value_dim, d_model]`
    pub value: Linear,
    pub query_norm: Option<HeadNorm>,
    pub key_norm: Option<HeadNorm>,
    /// `[d_model, n_heads · value_dim]`
    pub output: Linear,
    pub post_attention_norm: Option<Norm>,
    pub attention_output_norm: Option<Norm>,
    pub ff_norm: Option<Norm>,
    pub feed_forward: FeedForward,
    pub post_ff_norm: Option<Norm>,
    pub output_norm: Option<Norm>,
}

/// The feed-forward half of a block.
#[derive(Clone, Debug)]
pub(crate) enum FeedForward {
    Dense(Mlp),
    Experts(Box<Experts>),
}

/// Two or three matrices around an activation.
#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    /// `[d_ff, d_model]`
    pub gate: Option<Linear>,
    /// `[d_ff, d_model]`
    pub up: Linear,
    /// `[d_model, d_ff]`
    pub down: Linear,
}

/// A sparse mixture of experts. The stacks hold one matrix per expert, [`Matrix::expert`].
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    /// `[n_experts, d_model]`
    pub router: Matrix,
    /// `[n_experts][d_ff, d_model]`
    pub gate: Option<Matrix>,
    /// `[n_experts][d_ff, d_model]`
    pub up: Matrix,
    /// `[n_experts][d_model, d_ff]`
    pub down: Matrix,
    pub shared: Option<SharedExpert>,
}

/// The expert that takes part in every token.
#[derive(Clone, Debug)]
pub(crate) struct SharedExpert {
    /// `[1, d_model]`: its weight is the sigmoid of this product.
    pub router: Option<Matrix>,
    pub mlp: Mlp,
}

/// What makes tokens the residual stream.
#[derive(Clone, Debug)]
pub(crate) struct Embedding {
    /// `[vocab_size, d_model]`
    pub tokens: Matrix,
    /// `[at least context_length, d_model]`
    pub positions: Option<Matrix>,
    /// `[d_model]`, added to every token.
    pub token_type: Option<Vec<f32>>,
    pub norm: Option<Norm>,
}

/// What ends the last layer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub norm: Option<Norm>,
    /// `[vocab_size, d_model]`, the embeddings where the file ties them; an encoder has none.
    pub output: Option<Linear>,
}

/// A model, or the shard of one, ready for [`Runner`](crate::Runner).
pub struct Model {
    file: Arc<GgufFile>,
    hyperparameters: Hyperparameters,
    pub(crate) layer_range: Range<usize>,
    /// Where the shard begins with the first layer.
    pub(crate) embedding: Option<Embedding>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) head: Option<Head>,
    /// Rotations of sequences within the original context, and of longer ones: one and the same unless the file has two
    /// sets of factors.
    pub(crate) rotations: [Rotations; 2],
    /// Whether layers with a window turn otherwise than those without.
    pub(crate) local_rotations_differ: bool,
    /// Tensors in the order of the forward pass.
    order: Vec<usize>,
}

/// The rotary frequencies of layers that see everything, and of those that see a window.
pub(crate) struct Rotations {
    pub global: Frequencies,
    pub local: Frequencies,
}

impl Model {
    /// Binds and checks the tensors of `shard`, as the built-in description of the file's family says. Weights stay in the
    /// file; only norms and biases are copied.
    ///
    /// # Errors
    /// Names the key or tensor that is missing, has the wrong shape or a type without kernels, and
    /// any tensor of the file that the forward pass would ignore.
    pub fn open(file: Arc<GgufFile>, shard: &Shard) -> Result<Self> {
        Self::open_described(file, shard, None)
    }

    /// As [`Self::open`], as `description` says where there is one.
    ///
    /// # Errors
    /// Those of [`Self::open`] and of [`Architecture::check`].
    pub fn open_described(file: Arc<GgufFile>, shard: &Shard, description: Option<Architecture>) -> Result<Self> {
        if let Some(description) = &description {
            description.check()?;
        }
        let hyperparameters = Hyperparameters::read(&file, description.map(Arc::new))?;
        let h = &hyperparameters;
        let layer_range = shard.layers.clone().unwrap_or(0..h.n_layers);
        if layer_range.is_empty() || layer_range.end > h.n_layers {
            let problem =
                format!("layers {layer_range:?} of a model with {} layers is empty or out of range", h.n_layers);
            return Err(Error::BadShard { problem });
        }
        if shard.ranks > 1 {
            let problem = format!(
                "rank {} of {}: matrices cannot be split in this version, only layers",
                shard.rank, shard.ranks
            );
            return Err(Error::BadShard { problem });
        }
        let mut binder = Binder::new(&file, h);
        let embedding = binder.embedding()?;
        let factors = binder.frequency_factors()?;
        let layers = layer_range.clone().map(|i| binder.layer(i)).collect::<Result<_>>()?;
        let head = (layer_range.end == h.n_layers).then(|| binder.head(&embedding)).transpose()?;
        binder.leave_to_others(&layer_range);
        binder.refuse_unused()?;
        let order = binder.into_order();
        let rotations = [false, true].map(|long| Rotations {
            global: h.rope.global(h.rope_dims, &factors, long),
            local: h.rope.local(h.rope_dims, &factors, long),
        });
        let local_rotations_differ = rotations.iter().any(|r| r.global != r.local);
        let embedding = (layer_range.start == 0).then_some(embedding);
        Ok(Self {
            file,
            hyperparameters,
            layer_range,
            embedding,
            layers,
            head,
            rotations,
            local_rotations_differ,
            order,
        })
    }

    /// The file that holds the weights.
    #[must_use]
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// The model's numbers.
    #[must_use]
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// The layers that this shard holds.
    #[must_use]
    pub fn layers(&self) -> Range<usize> {
        self.layer_range.clone()
    }

    /// Whether its result is logits, and not the states of an encoder (or of a shard that is not the last).
    #[must_use]
    pub fn has_logits(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.output.is_some())
    }

    /// An empty cache with room for `positions_max` positions over all its sequences.
    #[must_use]
    pub fn new_cache(&self, positions_max: usize, kv: KvType) -> KvCache {
        let windows: Vec<_> = self.hyperparameters.layer_windows().collect();
        KvCache::new(self.attention_shape(kv), &windows[self.layer_range.clone()], positions_max)
    }

    /// The precision of keys and values that suits the weights: single where every matrix is (such a file is a
    /// reference, and half precision would be its largest error), else half.
    #[must_use]
    pub fn default_kv(&self) -> KvType {
        let all_single = self.file.tensors().iter().all(|t| t.ty == GgmlType::F32);
        if all_single { KvType::F32 } else { KvType::F16 }
    }

    /// Bytes of weights that one decoded token streams from memory: of a mixture, those of the experts that take part.
    #[must_use]
    pub fn bytes_per_token(&self) -> u64 {
        let mlp = |m: &Mlp| m.matrices().map(|matrix| self.matrix_bytes(matrix)).sum::<u64>();
        let layer = |l: &Layer| {
            let attention = [&l.query, &l.key, &l.value, &l.output].map(|linear| self.matrix_bytes(linear.weight));
            let feed_forward = match &l.feed_forward {
                FeedForward::Dense(dense) => mlp(dense),
                FeedForward::Experts(experts) => {
                    let used = self.hyperparameters.experts.map_or(0, |numbers| numbers.n_used) as u64;
                    let one: u64 = [experts.gate, Some(experts.up), Some(experts.down)]
                        .into_iter()
                        .flatten()
                        .map(|stack| self.matrix_bytes(stack))
                        .sum();
                    used * one
                        + self.matrix_bytes(experts.router)
                        + experts.shared.as_ref().map_or(0, |shared| mlp(&shared.mlp))
                }
            };
            attention.iter().sum::<u64>() + feed_forward
        };
        let output = self.head.as_ref().and_then(|head| head.output.as_ref());
        self.layers.iter().map(layer).sum::<u64>() + output.map_or(0, |output| self.matrix_bytes(output.weight))
    }

    /// Whether tensor `tensor` is a matrix that [`Runner`](crate::Runner) multiplies with and an adapter can change.
    pub(crate) fn adapts(&self, tensor: usize) -> bool {
        let mlp = |m: &Mlp| m.matrices().any(|matrix| matrix.tensor == tensor);
        let in_layer = |l: &Layer| {
            [&l.query, &l.key, &l.value, &l.output].iter().any(|l| l.weight.tensor == tensor)
                || match &l.feed_forward {
                    FeedForward::Dense(dense) => mlp(dense),
                    FeedForward::Experts(experts) => experts.shared.as_ref().is_some_and(|shared| mlp(&shared.mlp)),
                }
        };
        // A tied output is also the embedding, which an adapter would have to change as well.
        let output = self.head.as_ref().and_then(|head| head.output.as_ref()).map(|output| output.weight.tensor);
        let tied = self.embedding.as_ref().map(|embedding| embedding.tokens.tensor) == output;
        self.layers.iter().any(in_layer) || (!tied && output == Some(tensor))
    }

    fn matrix_bytes(&self, matrix: Matrix) -> u64 {
        self.file.tensors()[matrix.tensor].n_bytes() / matrix.tensor_rows as u64 * matrix.rows as u64
    }

    pub(crate) fn attention_shape(&self, kv: KvType) -> AttentionShape {
        let h = &self.hyperparameters;
        AttentionShape {
            heads: h.n_heads,
            kv_heads: h.n_kv_heads,
            key_dim: h.key_dim,
            value_dim: h.value_dim,
            scale: h.factors.attention,
            soft_cap: h.factors.attention_cap,
            kv,
        }
    }

    pub(crate) fn weights(&self, matrix: Matrix) -> WeightMatrix<'_> {
        let view = self.view(matrix);
        WeightMatrix::new(view.info.ty, view.data, matrix.tensor_rows, matrix.cols)
            .expect("checked when the model was opened")
            .rows_range(matrix.first_row, matrix.rows)
    }

    /// What the file calls it.
    pub(crate) fn name(&self, matrix: Matrix) -> &str {
        &self.file.tensors()[matrix.tensor].name
    }

    fn view(&self, matrix: Matrix) -> TensorView<'_> {
        self.file.tensor_at(matrix.tensor).expect("the index comes from this file")
    }

    /// Decodes row `row` of a table into `out`, `[d_model]`.
    pub(crate) fn row(&self, table: Matrix, row: usize, out: &mut [f32]) -> Result<()> {
        let view = self.view(table);
        let row = view.row(row).expect("the caller checked the row against the table");
        Ok(decode_row(view.info.ty, row, out)?)
    }

    /// The first tensor, in the order of the forward pass, with a weight that is not finite. Reads every weight.
    pub(crate) fn first_non_finite(&self) -> Option<String> {
        first_non_finite(&self.file, self.order.iter().copied())
    }
}

/// The first of the tensors `indices` with a weight that is not finite.
pub(crate) fn first_non_finite(file: &GgufFile, mut indices: impl Iterator<Item = usize>) -> Option<String> {
    let bad = |&index: &usize| {
        let tensor = file.tensor_at(index).expect("the index comes from this file");
        let mut row = vec![0.0; tensor.info.row_len() as usize];
        (0..tensor.info.n_rows() as usize)
            .filter_map(|i| tensor.row(i))
            .any(|bytes| decode_row(tensor.info.ty, bytes, &mut row).is_ok() && row.iter().any(|w| !w.is_finite()))
    };
    let index = indices.find(bad)?;
    Some(file.tensors()[index].name.clone())
}
