//! The numbers that make a family into one model, read from a file's metadata under the names that the family's
//! description gives them.

use std::sync::Arc;

use hublabio_gguf::{GgufFile, Metadata};
use hublabio_kernels::NormKind;

use crate::architecture::{self, Architecture, AttentionScale, Factor, KeySource, Pairing, Presence, WindowPattern};
use crate::error::{Error, Result};
use crate::rope::RopeScaling;

/// More layers than this is a damaged file.
const LAYERS_MAX: u32 = 4096;
/// A width, head count or context beyond this is a damaged file.
const WIDTH_MAX: u32 = 1 << 24;

/// The numbers of one model.
#[derive(Clone, Debug)]
pub struct Hyperparameters {
    /// The family.
    pub architecture: Arc<Architecture>,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the feed-forward layer; 0 where every layer is a mixture of experts.
    pub d_ff: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads, a divisor of `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a query or key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Added to the mean square (or the variance) in the norms.
    pub norm_eps: f32,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Whether a token sees only itself and what is before it.
    pub causal: bool,
    /// Positions that a layer with a window sees, the token's own included.
    pub window: Option<usize>,
    /// Values of a head that the rotary embedding turns; 0 without one.
    pub rope_dims: usize,
    /// How the rotary embedding turns.
    pub(crate) rope: RopeScaling,
    /// What each layer does of its own.
    pub(crate) layers: Vec<LayerKind>,
    /// Experts of a mixture; `None` without.
    pub experts: Option<ExpertNumbers>,
    /// The factors and caps of the graph.
    pub(crate) factors: Factors,
    /// How the states of a text become one embedding, as the file says it (`pooling_type`).
    pub pooling: Option<Pooling>,
}

/// What one layer does of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LayerKind {
    /// Whether it sees only the window.
    pub windowed: bool,
    /// Whether its queries and keys turn.
    pub turns: bool,
}

/// The numbers of a sparse mixture of experts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ExpertNumbers {
    /// Experts in a layer.
    pub n_experts: usize,
    /// Experts that take part in a token.
    pub n_used: usize,
    /// Width of an expert's feed-forward layer.
    pub d_ff: usize,
    /// Width of the expert that always takes part; 0 where the file does not say it.
    pub d_ff_shared: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalize: bool,
    /// The weights are multiplied by this at the end.
    pub scale: f32,
}

/// Factors and caps of the graph: 1 and 0 where there are none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Factors {
    pub embedding: f32,
    pub residual: f32,
    pub attention: f32,
    pub attention_cap: f32,
    pub logits: f32,
    pub logit_cap: f32,
}

/// How the states of a text's tokens become one embedding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// Looks numbers up under the names that the description gives them.
pub(crate) struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a Architecture,
}

impl Keys<'_> {
    /// What the file calls it.
    pub fn key(&self, name: &str) -> String {
        debug_assert!(
            architecture::KEYS.contains(&name),
            "`{name}` is not in the list that descriptions are checked with"
        );
        match self.architecture.keys.get(name) {
            Some(KeySource::Name(key)) => key.clone(),
            _ => format!("{}.{name}", self.architecture.name),
        }
    }

    /// Whether the description has the number itself.
    fn is_literal(&self, name: &str) -> bool {
        matches!(self.architecture.keys.get(name), Some(KeySource::Integer(_) | KeySource::Float(_)))
    }

    /// A whole number, whatever it is.
    fn integer(&self, name: &str) -> Result<Option<u32>> {
        match self.architecture.keys.get(name) {
            Some(KeySource::Integer(value)) => Ok(Some(*value)),
            Some(KeySource::Float(value)) => self.bad(name, format!("{value} is no whole number")),
            _ => Ok(self.metadata.u32(&self.key(name))?),
        }
    }

    /// A number, whatever it is.
    fn number(&self, name: &str) -> Result<Option<f32>> {
        match self.architecture.keys.get(name) {
            Some(KeySource::Integer(value)) => Ok(Some(*value as f32)),
            Some(KeySource::Float(value)) => Ok(Some(*value)),
            _ => Ok(self.metadata.f32(&self.key(name))?),
        }
    }

    /// A size: at least 1, and no more than a file can mean.
    pub fn optional(&self, name: &str) -> Result<Option<usize>> {
        match self.integer(name)? {
            Some(value) if value == 0 || value > WIDTH_MAX => {
                self.bad(name, format!("{value} is not between 1 and {WIDTH_MAX}"))
            }
            value => Ok(value.map(|value| value as usize)),
        }
    }

    fn required(&self, name: &str) -> Result<usize> {
        self.optional(name)?.ok_or_else(|| Error::MissingKey { key: self.key(name) })
    }

    /// As [`Self::optional`], where files write 0 for none.
    fn unless_zero(&self, name: &str) -> Result<Option<usize>> {
        if self.integer(name)? == Some(0) { Ok(None) } else { self.optional(name) }
    }

    /// A positive number.
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        match self.number(name)? {
            Some(value) if !value.is_finite() || value <= 0.0 => {
                self.bad(name, format!("{value} is not a positive number"))
            }
            value => Ok(value),
        }
    }

    /// A positive number, or 0 for none: also what stands for it where nothing is said.
    fn float_or_none(&self, name: &str, default: f32) -> Result<f32> {
        if self.number(name)? == Some(0.0) { Ok(0.0) } else { Ok(self.float(name)?.unwrap_or(default)) }
    }

    fn factor(&self, name: &str, factor: Factor, d_model: usize) -> Result<f32> {
        Ok(match factor {
            Factor::One => 1.0,
            Factor::SqrtWidth => (d_model as f32).sqrt(),
            Factor::Key => self.float(name)?.unwrap_or(1.0),
            Factor::InverseKey => 1.0 / self.float(name)?.unwrap_or(1.0),
        })
    }

    pub fn word(&self, name: &str) -> Result<Option<&str>> {
        match self.architecture.keys.get(name) {
            // A description can say the word itself: there is no file with such a key.
            Some(KeySource::Name(word)) if !self.metadata.contains(word) => Ok(Some(word)),
            Some(KeySource::Integer(_) | KeySource::Float(_)) => self.bad(name, "a number is no word"),
            _ => Ok(self.metadata.str(&self.key(name))?),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        if self.is_literal(name) {
            return Ok(self.integer(name)?.map(|value| value != 0));
        }
        Ok(self.metadata.bool(&self.key(name))?)
    }

    /// Whether the file has a list, where the description does not say the number itself.
    fn is_list(&self, name: &str) -> bool {
        !self.is_literal(name) && self.metadata.get(&self.key(name)).is_some_and(|value| value.as_array().is_some())
    }

    /// A number that some files give once per layer; only one value for all layers is supported.
    fn same_for_all_layers(&self, name: &str, default: Option<usize>) -> Result<usize> {
        if !self.is_list(name) {
            return match default {
                Some(default) => Ok(self.optional(name)?.unwrap_or(default)),
                None => self.required(name),
            };
        }
        let values = self.metadata.u32_array(&self.key(name))?.unwrap_or_default();
        match values.first() {
            Some(&first) if values.iter().any(|&v| v != first) => {
                self.bad(name, "different values per layer are not supported")
            }
            Some(&first) if first == 0 || first > WIDTH_MAX => {
                self.bad(name, format!("{first} is not between 1 and {WIDTH_MAX}"))
            }
            Some(&first) => Ok(first as usize),
            None => self.bad(name, "the list is empty"),
        }
    }

    pub fn architecture(&self) -> &Architecture {
        self.architecture
    }

    pub fn bad<T>(&self, name: &str, problem: impl Into<String>) -> Result<T> {
        Err(Error::BadKey { key: self.key(name), problem: problem.into() })
    }
}

impl Hyperparameters {
    /// Reads and checks the metadata of a model file, as `description` says or else the built-in one of the family that
    /// the file names.
    ///
    /// # Errors
    /// Names the key that is missing, impossible, or asks for something that is not supported.
    pub fn read(file: &GgufFile, description: Option<Arc<Architecture>>) -> Result<Self> {
        let metadata = file.metadata();
        let architecture =
            if let Some(description) = description {
                description
            } else {
                let name = metadata.str("general.architecture")?.ok_or(Error::NoArchitecture)?;
                Arc::new(architecture::find_architecture(name).ok_or_else(|| Error::UnknownArchitecture {
                    name: name.to_owned(),
                    known: architecture::names(),
                })?)
            };
        let keys = Keys { metadata, architecture: &architecture };
        let n_layers = keys.required("block_count")?;
        if n_layers > LAYERS_MAX as usize {
            return keys.bad("block_count", format!("{n_layers} layers are more than {LAYERS_MAX}"));
        }
        let d_model = keys.required("embedding_length")?;
        let n_heads = keys.same_for_all_layers("attention.head_count", None)?;
        let n_kv_heads = keys.same_for_all_layers("attention.head_count_kv", Some(n_heads))?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            let problem = format!("{n_heads} query heads cannot share {n_kv_heads} key heads evenly");
            return keys.bad("attention.head_count_kv", problem);
        }
        let head_dim = || {
            if d_model.is_multiple_of(n_heads) {
                return Ok(d_model / n_heads);
            }
            let problem = format!("{n_heads} heads do not divide a width of {d_model}, and no key length is given");
            keys.bad("attention.head_count", problem)
        };
        let key_dim = keys.optional("attention.key_length")?.map_or_else(head_dim, Ok)?;
        let value_dim = keys.optional("attention.value_length")?.map_or_else(head_dim, Ok)?;
        for (name, heads, dim) in
            [("attention.key_length", n_heads, key_dim), ("attention.value_length", n_heads, value_dim)]
        {
            if heads as u64 * dim as u64 > u64::from(WIDTH_MAX) {
                return keys.bad(name, format!("{heads} heads of {dim} values are wider than {WIDTH_MAX}"));
            }
        }
        let rope_dims = rope_dims(&keys, key_dim)?;
        let context_length = keys.required("context_length")?;
        let experts = experts(&keys)?;
        let embedding = architecture::tensor_name(&architecture, "token_embd", None) + ".weight";
        let vocab_size =
            file.tensor(&embedding).ok_or(Error::MissingTensor { tensor: embedding })?.info.n_rows() as usize;
        let eps_key = match architecture.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        // A mixture of experts in every layer leaves no use for the width of a plain layer; some writers leave it out.
        let d_ff = match keys.integer("feed_forward_length") {
            Ok(None | Some(0)) if experts.is_some() => 0,
            _ => keys.same_for_all_layers("feed_forward_length", None)?,
        };
        let (window, layers) = layers(&keys, n_layers)?;
        let causal = keys.flag("attention.causal")?.unwrap_or(architecture.attention.causal);
        if !causal && layers.iter().any(|layer| layer.windowed) {
            // There a window reaches to both sides, which is computed otherwise.
            return keys
                .bad("attention.sliding_window", "a window of a model that sees both directions is not supported");
        }
        Ok(Self {
            n_layers,
            d_model,
            d_ff,
            n_heads,
            n_kv_heads,
            key_dim,
            value_dim,
            norm_eps: keys.float(eps_key)?.ok_or_else(|| Error::MissingKey { key: keys.key(eps_key) })?,
            context_length,
            vocab_size,
            causal,
            window,
            rope_dims,
            rope: RopeScaling::read(&keys, rope_dims, context_length)?,
            layers,
            experts,
            factors: Factors {
                embedding: keys.factor("embedding_scale", architecture.embedding.scale, d_model)?,
                residual: keys.factor("residual_scale", architecture.residual_scale, d_model)?,
                attention: match (keys.float("attention.scale")?, architecture.attention.scale) {
                    (Some(scale), _) => scale,
                    (None, AttentionScale::WidthPerHeadAt(layers)) if layers == n_layers => {
                        1.0 / (d_model as f32 / n_heads as f32).sqrt()
                    }
                    (None, _) => 1.0 / (key_dim as f32).sqrt(),
                },
                attention_cap: keys
                    .float_or_none("attn_logit_softcapping", architecture.attention.soft_cap.unwrap_or(0.0))?,
                logits: keys.factor("logit_scale", architecture.head.scale, d_model)?,
                logit_cap: keys.float_or_none("final_logit_softcapping", architecture.head.soft_cap.unwrap_or(0.0))?,
            },
            pooling: match keys.integer("pooling_type")? {
                None | Some(0) => None,
                Some(1) => Some(Pooling::Mean),
                Some(2) => Some(Pooling::First),
                Some(3) => Some(Pooling::Last),
                Some(other) => {
                    return keys.bad("pooling_type", format!("{other} is not supported (1 mean, 2 first, 3 last)"));
                }
            },
            architecture: Arc::clone(&architecture),
        })
    }

    /// How many positions each layer sees, its own included; `None` for all before it.
    pub fn layer_windows(&self) -> impl Iterator<Item = Option<usize>> {
        self.layers.iter().map(|layer| self.window.filter(|_| layer.windowed))
    }
}

fn rope_dims(keys: &Keys<'_>, key_dim: usize) -> Result<usize> {
    if keys.architecture.rope.pairing == Pairing::None {
        return Ok(0);
    }
    match keys.integer("rope.dimension_count")? {
        None if key_dim.is_multiple_of(2) => Ok(key_dim),
        None => keys.bad("attention.key_length", format!("heads of {key_dim} values cannot be turned in pairs")),
        Some(dims) if dims as usize <= key_dim && dims.is_multiple_of(2) => Ok(dims as usize),
        Some(dims) => {
            keys.bad("rope.dimension_count", format!("{dims} is not an even number up to the head width {key_dim}"))
        }
    }
}

fn experts(keys: &Keys<'_>) -> Result<Option<ExpertNumbers>> {
    let presence = keys.architecture.feed_forward.experts;
    let n_experts = keys.unless_zero("expert_count")?;
    let Some(n_experts) = n_experts else {
        if presence == Presence::Required {
            return Err(Error::MissingKey { key: keys.key("expert_count") });
        }
        return Ok(None);
    };
    if presence == Presence::Absent {
        let problem = format!("a mixture of {n_experts} experts is another variant of this architecture");
        return keys.bad("expert_count", problem);
    }
    let n_used = keys.required("expert_used_count")?;
    if n_used > n_experts {
        return keys.bad("expert_used_count", format!("{n_used} of {n_experts} experts cannot take part"));
    }
    // 1 is the softmax; what others do (2, the sigmoid; groups of experts) is computed otherwise.
    if let Some(function) = keys.integer("expert_gating_func")?.filter(|&f| f > 1) {
        return keys.bad("expert_gating_func", format!("{function} is not supported: only 1, the softmax"));
    }
    let d_ff = match keys.optional("expert_feed_forward_length")? {
        Some(d_ff) => d_ff,
        None => keys.same_for_all_layers("feed_forward_length", None)?,
    };
    Ok(Some(ExpertNumbers {
        n_experts,
        n_used,
        d_ff,
        d_ff_shared: keys.unless_zero("expert_shared_feed_forward_length")?.unwrap_or(0),
        normalize: keys.flag("expert_weights_norm")?.unwrap_or(keys.architecture.feed_forward.normalize_expert_weights),
        scale: match keys.float_or_none("expert_weights_scale", 1.0)? {
            0.0 => 1.0,
            scale => scale,
        },
    }))
}

/// The window, and which layers see only that.
fn layers(keys: &Keys<'_>, n_layers: usize) -> Result<(Option<usize>, Vec<LayerKind>)> {
    let description = keys.architecture;
    let window = keys.unless_zero("attention.sliding_window")?;
    let name = "attention.sliding_window_pattern";
    let windowed: Vec<bool> = if window.is_none() {
        vec![false; n_layers]
    } else if keys.is_list(name) {
        let key = keys.key(name);
        let list = match keys.metadata.bool_array(&key) {
            Ok(list) => list.unwrap_or_default().to_vec(),
            Err(_) => keys.metadata.u32_array(&key)?.unwrap_or_default().iter().map(|&flag| flag != 0).collect(),
        };
        if list.len() < n_layers {
            return keys.bad(name, format!("{} entries for {n_layers} layers", list.len()));
        }
        list[..n_layers].to_vec()
    } else {
        let every = match (keys.integer(name)?, description.attention.window) {
            (Some(every), _) => Some(every as usize),
            (None, WindowPattern::AllButEvery(every)) => Some(every),
            (None, WindowPattern::All) => Some(0),
            (None, WindowPattern::None) => None,
        };
        (0..n_layers).map(|i| every.is_some_and(|every| every == 0 || i % every + 1 < every)).collect()
    };
    let skip = description.rope.skip_every;
    let turns = |i: usize| description.rope.pairing != Pairing::None && (skip == 0 || !(i + 1).is_multiple_of(skip));
    let kinds = windowed.into_iter().enumerate().map(|(i, windowed)| LayerKind { windowed, turns: turns(i) });
    Ok((window, kinds.collect()))
}
