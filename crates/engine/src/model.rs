//! A file's tensors bound to an architecture: checked once when the model is opened, borrowed from the
//! memory map ever after.

use std::ops::Range;
use std::sync::Arc;

use hublabio_gguf::{GgmlType, GgufFile, TensorView, decode_row};
use hublabio_kernels::{AttentionShape, KvType, WeightMatrix};

use crate::architecture::Presence;
use crate::error::{Error, Result};
use crate::hyperparameters::Hyperparameters;
use crate::kv::KvCache;

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

/// A matrix in the file: which tensor, and its checked shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    tensor: usize,
    pub rows: usize,
    pub cols: usize,
}

/// A matrix and its bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub weight: Matrix,
    /// `[rows]`
    pub bias: Option<Vec<f32>>,
}

/// One transformer block.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// `[d_model]`
    pub attention_norm: Vec<f32>,
    /// `[n_heads · key_dim, d_model]`
    pub query: Linear,
    /// `[n_kv_heads · key_dim, d_model]`
    pub key: Linear,
    /// `[n_kv_heads · value_dim, d_model]`
    pub value: Linear,
    /// `[d_model, n_heads · value_dim]`
    pub output: Linear,
    /// `[d_model]`
    pub ff_norm: Vec<f32>,
    /// `[d_ff, d_model]`
    pub gate: Matrix,
    /// `[d_ff, d_model]`
    pub up: Matrix,
    /// `[d_model, d_ff]`
    pub down: Matrix,
}

/// What turns the residual stream into logits.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// `[d_model]`
    pub norm: Vec<f32>,
    /// `[vocab_size, d_model]`; the embeddings where the file ties them.
    pub output: Matrix,
}

/// A model, or the shard of one, ready for [`Runner`](crate::Runner).
pub struct Model {
    file: Arc<GgufFile>,
    hyperparameters: Hyperparameters,
    pub(crate) layer_range: Range<usize>,
    /// `[vocab_size, d_model]`, where the shard begins with the first layer.
    pub(crate) embedding: Option<Matrix>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) head: Option<Head>,
    pub(crate) inverse_frequencies: Vec<f32>,
}

impl Model {
    /// Binds and checks the tensors of `shard`. Weights stay in the file; only norms and biases are copied.
    ///
    /// # Errors
    /// Names the key or tensor that is missing, has the wrong shape or a type without kernels, and
    /// any tensor of a block that the forward pass would ignore.
    pub fn open(file: Arc<GgufFile>, shard: &Shard) -> Result<Self> {
        let hyperparameters = Hyperparameters::read(&file)?;
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
        let mut binder = Binder { file: &file, used: vec![false; file.tensors().len()] };
        let embedding = binder.matrix("token_embd.weight", h.vocab_size, h.d_model)?;
        let layers = layer_range.clone().map(|i| binder.layer(i, h)).collect::<Result<_>>()?;
        let head = (layer_range.end == h.n_layers).then(|| binder.head(h, embedding)).transpose()?;
        let factors = binder.optional_vector("rope_freqs.weight", h.rope_dims / 2)?;
        if let Some(bad) = factors.iter().flatten().find(|f| !f.is_finite() || **f <= 0.0) {
            let problem = format!("`rope_freqs.weight` holds {bad}, not a positive number");
            return Err(Error::BadKey { key: "rope_freqs.weight".into(), problem });
        }
        binder.refuse_unused(h, &layer_range)?;
        let inverse_frequencies = h.inverse_frequencies(factors.as_deref());
        let embedding = (layer_range.start == 0).then_some(embedding);
        Ok(Self { file, hyperparameters, layer_range, embedding, layers, head, inverse_frequencies })
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

    /// An empty cache with room for `positions_max` positions over all its sequences.
    #[must_use]
    pub fn new_cache(&self, positions_max: usize, kv: KvType) -> KvCache {
        KvCache::new(self.attention_shape(kv), self.layers.len(), positions_max)
    }

    /// The precision of keys and values that suits the weights: single where every matrix is (such a file is a
    /// reference, and half precision would be its largest error), else half.
    #[must_use]
    pub fn default_kv(&self) -> KvType {
        let all_single = self.file.tensors().iter().all(|t| t.ty == GgmlType::F32);
        if all_single { KvType::F32 } else { KvType::F16 }
    }

    /// Bytes of weights that one decoded token streams from memory.
    #[must_use]
    pub fn bytes_per_token(&self) -> u64 {
        let layer = |l: &Layer| {
            [l.query.weight, l.key.weight, l.value.weight, l.output.weight, l.gate, l.up, l.down]
                .map(|m| self.matrix_bytes(m))
                .iter()
                .sum::<u64>()
        };
        self.layers.iter().map(layer).sum::<u64>() + self.head.iter().map(|h| self.matrix_bytes(h.output)).sum::<u64>()
    }

    fn matrix_bytes(&self, matrix: Matrix) -> u64 {
        self.file.tensors()[matrix.tensor].n_bytes()
    }

    pub(crate) fn attention_shape(&self, kv: KvType) -> AttentionShape {
        let h = &self.hyperparameters;
        AttentionShape {
            heads: h.n_heads,
            kv_heads: h.n_kv_heads,
            key_dim: h.key_dim,
            value_dim: h.value_dim,
            scale: 1.0 / (h.key_dim as f32).sqrt(),
            soft_cap: 0.0,
            kv,
        }
    }

    pub(crate) fn weights(&self, matrix: Matrix) -> WeightMatrix<'_> {
        let view = self.view(matrix);
        WeightMatrix::new(view.info.ty, view.data, matrix.rows, matrix.cols).expect("checked when the model was opened")
    }

    /// What the file calls it.
    pub(crate) fn name(&self, matrix: Matrix) -> &str {
        &self.file.tensors()[matrix.tensor].name
    }

    fn view(&self, matrix: Matrix) -> TensorView<'_> {
        self.file.tensor_at(matrix.tensor).expect("the index comes from this file")
    }

    /// Decodes the embedding of `token` into `out`, `[d_model]`.
    pub(crate) fn embed(&self, matrix: Matrix, token: usize, out: &mut [f32]) -> Result<()> {
        let view = self.view(matrix);
        let row = view.row(token).expect("the caller checked the token against the vocabulary");
        Ok(decode_row(view.info.ty, row, out)?)
    }

    /// The first tensor, in the order of the forward pass, with a weight that is not finite. Reads every weight.
    pub(crate) fn first_non_finite(&self) -> Option<String> {
        let blocks = self.layer_range.clone().flat_map(|i| {
            BLOCK_TENSORS.iter().flat_map(move |t| [format!("blk.{i}.{t}.weight"), format!("blk.{i}.{t}.bias")])
        });
        let ends = ["output_norm.weight", "output.weight"].map(String::from);
        std::iter::once("token_embd.weight".to_owned()).chain(blocks).chain(ends).find(|name| {
            self.file.tensor(name).is_some_and(|tensor| {
                let mut row = vec![0.0; tensor.info.row_len() as usize];
                (0..tensor.info.n_rows() as usize).filter_map(|i| tensor.row(i)).any(|bytes| {
                    decode_row(tensor.info.ty, bytes, &mut row).is_ok() && row.iter().any(|w| !w.is_finite())
                })
            })
        })
    }
}

/// In the order of the forward pass.
const BLOCK_TENSORS: [&str; 9] =
    ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"];

/// Finds tensors by name, checks their shapes, and remembers which were asked for.
struct Binder<'a> {
    file: &'a GgufFile,
    used: Vec<bool>,
}

impl Binder<'_> {
    fn find(&mut self, name: &str, dims: &[usize]) -> Result<Option<usize>> {
        let Some(index) = self.file.tensor_index(name) else { return Ok(None) };
        let info = &self.file.tensors()[index];
        let expected: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        // Writers may pad with dimensions of 1.
        let significant = info.dims.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1).max(dims.len());
        if info.dims.get(..significant) != Some(&expected[..]) {
            return Err(Error::WrongShape { tensor: name.to_owned(), found: info.dims.clone(), expected });
        }
        self.used[index] = true;
        Ok(Some(index))
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let tensor = self.find(name, &[cols, rows])?.ok_or_else(|| Error::MissingTensor { tensor: name.to_owned() })?;
        let view = self.file.tensor_at(tensor).expect("the index comes from this file");
        WeightMatrix::new(view.info.ty, view.data, rows, cols)
            .map_err(|cause| Error::Tensor { tensor: name.to_owned(), cause })?;
        Ok(Matrix { tensor, rows, cols })
    }

    fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(index) = self.find(name, &[len])? else { return Ok(None) };
        Ok(Some(self.file.tensor_at(index).expect("the index comes from this file").to_f32()?))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.optional_vector(name, len)?.ok_or_else(|| Error::MissingTensor { tensor: name.to_owned() })
    }

    fn linear(&mut self, name: &str, (rows, cols): (usize, usize), bias: Presence) -> Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias_name = format!("{name}.bias");
        let bias = match bias {
            Presence::Required => Some(self.vector(&bias_name, rows)?),
            Presence::Optional => self.optional_vector(&bias_name, rows)?,
        };
        Ok(Linear { weight, bias })
    }

    fn layer(&mut self, i: usize, h: &Hyperparameters) -> Result<Layer> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let (d, q, kv) = (h.d_model, h.n_heads * h.key_dim, h.n_kv_heads);
        let qkv_bias = h.architecture.qkv_bias;
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), d)?,
            query: self.linear(&name("attn_q"), (q, d), qkv_bias)?,
            key: self.linear(&name("attn_k"), (kv * h.key_dim, d), qkv_bias)?,
            value: self.linear(&name("attn_v"), (kv * h.value_dim, d), qkv_bias)?,
            output: self.linear(&name("attn_output"), (d, h.n_heads * h.value_dim), Presence::Optional)?,
            ff_norm: self.vector(&name("ffn_norm.weight"), d)?,
            gate: self.matrix(&name("ffn_gate.weight"), h.d_ff, d)?,
            up: self.matrix(&name("ffn_up.weight"), h.d_ff, d)?,
            down: self.matrix(&name("ffn_down.weight"), d, h.d_ff)?,
        })
    }

    fn head(&mut self, h: &Hyperparameters, embedding: Matrix) -> Result<Head> {
        let tied = self.file.tensor("output.weight").is_none();
        let output = if tied { embedding } else { self.matrix("output.weight", h.vocab_size, h.d_model)? };
        Ok(Head { norm: self.vector("output_norm.weight", h.d_model)?, output })
    }

    /// A tensor of one of our blocks that nothing reads would make the output silently wrong.
    fn refuse_unused(&self, h: &Hyperparameters, layers: &Range<usize>) -> Result<()> {
        for (info, used) in self.file.tensors().iter().zip(&self.used) {
            let block = info.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
            // Old converters left the rotary frequencies of each block in the file: derived data, not weights.
            let derived = info.name.contains("attn_rot_embd");
            if !used && !derived && block.is_none_or(|b: usize| layers.contains(&b) || b >= h.n_layers) {
                let elsewhere = ["output_norm.weight", "output.weight"].contains(&info.name.as_str());
                if !elsewhere {
                    return Err(Error::UnusedTensor { tensor: info.name.clone(), architecture: h.architecture.name });
                }
            }
        }
        Ok(())
    }
}
