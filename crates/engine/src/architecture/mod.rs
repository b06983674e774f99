//! Model families as data. One forward pass serves them all; a description says only where a family differs.
//!
//! A description is plain data: the built-in ones are in `families.rs`, others are read from a file's metadata or from a
//! TOML beside it (`docs/CUSTOM.md` lists every entry). What a piece *means* is in `forward.rs`, which numbers go
//! with it in `hyperparameters.rs`, which tensors in `bind.rs`. This file refuses to know files and numbers.

mod families;

use std::borrow::Cow;
use std::collections::BTreeMap;

use hublabio_kernels::{Activation, NormKind, RopePairing};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use families::find_architecture;
pub(crate) use families::names;

/// Whether a family has a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// A file that has it is another variant, and refused.
    #[default]
    Absent,
    /// Used where the file has it.
    Optional,
    /// A file without it is broken.
    Required,
}

/// What differs between model families. The default is a plain decoder block with norms before attention and
/// feed-forward, `RMSNorm`, no biases, rotary embedding of halves and SwiGLU.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Architecture {
    /// `general.architecture` of its files, and the prefix of their metadata keys.
    pub name: Cow<'static, str>,
    /// The kind of all norms of the residual stream.
    #[serde(with = "NormKindName")]
    pub norm: NormKind,
    /// Added to every norm weight: 1 for files that keep them as their distance from one.
    pub norm_weight_offset: f32,
    /// How tokens enter the residual stream.
    pub embedding: Embedding,
    /// The attention half of a block.
    pub attention: Attention,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The other half of a block.
    pub feed_forward: FeedForward,
    /// What a half-block adds to the residual stream is multiplied by this.
    pub residual_scale: Factor,
    /// From the residual stream to logits.
    pub head: Head,
    /// Where a number comes from, by the name that it has in GGUF without the prefix: another key, or the number itself.
    pub keys: BTreeMap<String, KeySource>,
    /// What the file calls a tensor, by its name in GGUF without `blk.N.` and `.weight`; `{layer}` is the layer's index.
    pub tensors: BTreeMap<String, String>,
}

/// How tokens enter the residual stream.
#[derive(Clone, Debug, PartialEq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Embedding {
    /// Multiplies the rows of `token_embd`; its key is `embedding_scale`.
    pub scale: Factor,
    /// Learned positions, `position_embd`, are added.
    pub positions: Presence,
    /// The first row of `token_types` is added.
    pub token_types: Presence,
    /// A norm over the sum, `token_embd_norm`.
    pub norm: Presence,
}

/// The attention half of a block.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Attention {
    /// Whether a token sees only itself and what is before it. The key `attention.causal` overrides it.
    pub causal: bool,
    /// Norm of what attention reads, `attn_norm`.
    pub norm: Presence,
    /// Norm of what attention adds to the stream, `post_attention_norm`.
    pub post_norm: Presence,
    /// Norm of the stream after attention was added, `attn_output_norm`.
    pub output_norm: Presence,
    /// Biases of `attn_q`, `attn_k` and `attn_v`, or of `attn_qkv` where a file has the three in one.
    pub qkv_bias: Presence,
    /// Bias of `attn_output`.
    pub output_bias: Presence,
    /// Norms of queries and keys before the rotation, `attn_q_norm` and `attn_k_norm`. The shape of the weight says over
    /// what: one head, each head with weights of its own, or all heads together.
    pub query_key_norm: Presence,
    /// Their kind.
    #[serde(with = "NormKindName")]
    pub query_key_norm_kind: NormKind,
    /// What scores are multiplied by, unless the file has `attention.scale`.
    pub scale: AttentionScale,
    /// Scores become `cap · tanh(score / cap)`; the key is `attn_logit_softcapping`, this the cap of files without it.
    pub soft_cap: Option<f32>,
    /// Which layers see only a window, `attention.sliding_window` positions; without that key none.
    pub window: WindowPattern,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rope {
    /// Which values of a head turn together; `none` for models without.
    pub pairing: Pairing,
    /// Base of the layers that see only a window, unscaled; the key is `rope.freq_base_swa`. Without it they
    /// turn as the others do.
    pub local_base: Option<f32>,
    /// Every layer whose number, counted from 1, is a multiple of this does not turn; 0 for none.
    pub skip_every: usize,
}

/// The feed-forward half of a block.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FeedForward {
    /// Norm of what it reads, `ffn_norm`.
    pub norm: Presence,
    /// In a layer without `ffn_norm` it reads what attention read, beside it, and not what attention left.
    pub parallel: bool,
    /// Norm of what it adds to the stream, `post_ffw_norm`.
    pub post_norm: Presence,
    /// Norm of the stream after that was added, `layer_output_norm`.
    pub output_norm: Presence,
    /// The activation.
    #[serde(with = "ActivationName")]
    pub activation: Activation,
    /// Whether `ffn_gate` goes through the activation and multiplies `ffn_up`; else `ffn_up` goes through it. In a file with
    /// no `ffn_gate`, `ffn_up` holds both, the gate first.
    pub gated: bool,
    /// Biases of its matrices.
    pub bias: Presence,
    /// Layers with `ffn_gate_inp`, a sparse mixture of experts (`expert_count`, of which `expert_used_count` take part).
    pub experts: Presence,
    /// Whether the weights of the chosen experts are divided by their sum; the key is `expert_weights_norm`.
    pub normalize_expert_weights: bool,
    /// An expert that always takes part, `ffn_gate_shexp` and so on; where `ffn_gate_inp_shexp` is there, weighed by the
    /// sigmoid of that.
    pub shared_expert: Presence,
}

/// From the residual stream to logits.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Head {
    /// Whether there are logits at all: an encoder's result is the residual stream.
    pub logits: bool,
    /// The last norm, `output_norm`.
    pub norm: Presence,
    /// Bias of the output matrix.
    pub bias: Presence,
    /// Multiplies the logits; the key is `logit_scale`.
    pub scale: Factor,
    /// Logits become `cap · tanh(logit / cap)`; the key is `final_logit_softcapping`, this the cap of files without it.
    pub soft_cap: Option<f32>,
}

/// A factor of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Factor {
    /// Nothing is multiplied.
    #[default]
    One,
    /// The square root of the model's width.
    SqrtWidth,
    /// What the file says under its key; a file without it has none.
    Key,
    /// One through what the file says.
    InverseKey,
}

/// What attention scores are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionScale {
    /// `1 / sqrt(key_length)`
    #[default]
    Head,
    /// `1 / sqrt(embedding_length / head_count)` in the model of so many layers, else as `Head`: what the largest Gemma 2
    /// and 3 do, whose files do not say it.
    WidthPerHeadAt(usize),
}

/// Which layers see only a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WindowPattern {
    /// Every layer, where the file has a window.
    #[default]
    All,
    /// None but those that the file lists.
    None,
    /// All but every so many-th; `attention.sliding_window_pattern` overrides it.
    AllButEvery(usize),
}

/// Which values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// None: the model has no rotary embedding.
    None,
    /// Neighbours.
    Adjacent,
    /// The first half with the second.
    #[default]
    Halves,
}

impl Pairing {
    pub(crate) fn kernel(self) -> Option<RopePairing> {
        match self {
            Self::None => None,
            Self::Adjacent => Some(RopePairing::Adjacent),
            Self::Halves => Some(RopePairing::Halves),
        }
    }
}

/// Where a number of the description comes from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum KeySource {
    /// The number itself.
    Integer(u32),
    /// The number itself.
    Float(f32),
    /// The word itself (`rope.scaling.type`) for keys that hold words, else the key that the file has it under.
    Name(String),
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "NormKind", rename_all = "kebab-case")]
enum NormKindName {
    Rms,
    Layer,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Activation", rename_all = "kebab-case")]
enum ActivationName {
    Silu,
    GeluTanh,
    GeluErf,
    Relu,
    ReluSquared,
}

impl Default for Architecture {
    fn default() -> Self {
        Self {
            name: Cow::Borrowed(""),
            norm: NormKind::Rms,
            norm_weight_offset: 0.0,
            embedding: Embedding::default(),
            attention: Attention::default(),
            rope: Rope::default(),
            feed_forward: FeedForward::default(),
            residual_scale: Factor::One,
            head: Head::default(),
            keys: BTreeMap::new(),
            tensors: BTreeMap::new(),
        }
    }
}

impl Default for Attention {
    fn default() -> Self {
        Self {
            causal: true,
            norm: Presence::Required,
            post_norm: Presence::Absent,
            output_norm: Presence::Absent,
            qkv_bias: Presence::Absent,
            output_bias: Presence::Absent,
            query_key_norm: Presence::Absent,
            query_key_norm_kind: NormKind::Rms,
            scale: AttentionScale::Head,
            soft_cap: None,
            window: WindowPattern::All,
        }
    }
}

impl Default for Rope {
    fn default() -> Self {
        Self { pairing: Pairing::Halves, local_base: None, skip_every: 0 }
    }
}

impl Default for FeedForward {
    fn default() -> Self {
        Self {
            norm: Presence::Required,
            parallel: false,
            post_norm: Presence::Absent,
            output_norm: Presence::Absent,
            activation: Activation::Silu,
            gated: true,
            bias: Presence::Absent,
            experts: Presence::Absent,
            normalize_expert_weights: true,
            shared_expert: Presence::Absent,
        }
    }
}

impl Default for Head {
    fn default() -> Self {
        Self { logits: true, norm: Presence::Required, bias: Presence::Absent, scale: Factor::One, soft_cap: None }
    }
}

/// Every tensor that a description can name, `(name, whether each layer has one)`, in the order of the forward pass.
pub(crate) const TENSORS: [(&str, bool); 33] = [
    ("token_embd", false),
    ("position_embd", false),
    ("token_types", false),
    ("token_embd_norm", false),
    ("rope_freqs", false),
    ("rope_factors_short", false),
    ("rope_factors_long", false),
    ("attn_norm", true),
    ("attn_qkv", true),
    ("attn_q", true),
    ("attn_k", true),
    ("attn_v", true),
    ("attn_q_norm", true),
    ("attn_k_norm", true),
    ("attn_output", true),
    ("post_attention_norm", true),
    ("attn_output_norm", true),
    ("ffn_norm", true),
    ("ffn_gate_inp", true),
    ("ffn_gate_exps", true),
    ("ffn_up_exps", true),
    ("ffn_down_exps", true),
    ("ffn_gate_inp_shexp", true),
    ("ffn_gate_shexp", true),
    ("ffn_up_shexp", true),
    ("ffn_down_shexp", true),
    ("ffn_gate", true),
    ("ffn_up", true),
    ("ffn_down", true),
    ("post_ffw_norm", true),
    ("layer_output_norm", true),
    ("output_norm", false),
    ("output", false),
];

/// Every number and word that a model is made of, as GGUF calls it, without the family's prefix.
pub(crate) const KEYS: [&str; 39] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.causal",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_gating_func",
    "expert_weights_norm",
    "expert_weights_scale",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "pooling_type",
];

/// What the file calls a tensor, without `.weight` and `.bias`. `layer` for those that each layer has.
pub(crate) fn tensor_name(architecture: &Architecture, name: &str, layer: Option<usize>) -> String {
    match (architecture.tensors.get(name), layer) {
        (Some(pattern), Some(layer)) => pattern.replace("{layer}", &layer.to_string()),
        (Some(name), None) => name.clone(),
        (None, Some(layer)) => format!("blk.{layer}.{name}"),
        (None, None) => name.to_owned(),
    }
}

impl Architecture {
    /// Checks what the types cannot say: names of tensors and keys that there are, patterns with their layer, numbers in
    /// their ranges.
    ///
    /// # Errors
    /// [`Error::BadDescription`] names the entry.
    pub fn check(&self) -> Result<()> {
        let bad = |problem: String| Err(Error::BadDescription { architecture: self.name.to_string(), problem });
        if self.name.is_empty() {
            return bad("`name` is missing: the prefix of the metadata keys".into());
        }
        for (name, pattern) in &self.tensors {
            let Some((_, in_layers)) = TENSORS.iter().find(|(known, _)| known == name) else {
                let known: Vec<&str> = TENSORS.iter().map(|(known, _)| *known).collect();
                return bad(format!("`tensors.{name}` is not one of {}", known.join(", ")));
            };
            if *in_layers && !pattern.contains("{layer}") {
                return bad(format!("`tensors.{name}` = `{pattern}` lacks `{{layer}}`: every layer has this tensor"));
            }
        }
        if let Some(name) = self.keys.keys().find(|name| !KEYS.contains(&name.as_str())) {
            return bad(format!("`keys.{name}` is not one of {}", KEYS.join(", ")));
        }
        if self.attention.window == WindowPattern::AllButEvery(0) {
            return bad("`attention.window` must be at least 1, not 0".into());
        }
        if !self.norm_weight_offset.is_finite() {
            return bad("`norm-weight-offset` is not a number".into());
        }
        let caps = [("attention.soft-cap", self.attention.soft_cap), ("head.soft-cap", self.head.soft_cap)];
        for (entry, cap) in caps {
            if let Some(cap) = cap.filter(|cap| !cap.is_finite() || *cap < 0.0) {
                return bad(format!("`{entry}` is {cap}: neither a positive number nor 0 for none"));
            }
        }
        if let Some(base) = self.rope.local_base.filter(|base| !base.is_finite() || *base <= 0.0) {
            return bad(format!("`rope.local-base` is {base}, not a positive number"));
        }
        Ok(())
    }
}
