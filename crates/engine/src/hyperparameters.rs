//! The numbers that make a family into one model, read from a file's metadata.

use hublabio_gguf::{GgufFile, Metadata};

use crate::architecture::{self, Architecture};
use crate::error::{Error, Result};

/// More layers than this is a damaged file.
const LAYERS_MAX: u32 = 4096;
/// A width, head count or context beyond this is a damaged file.
const WIDTH_MAX: u32 = 1 << 24;

/// The numbers of one model.
#[derive(Clone, Debug)]
pub struct Hyperparameters {
    /// The family.
    pub architecture: &'static Architecture,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads, a divisor of `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a query or key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Added to the mean square in the norms.
    pub norm_eps: f32,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Values of a head that the rotary embedding turns.
    pub rope_dims: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Linear scaling: positions are divided by this.
    pub rope_factor: f32,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
}

struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn optional(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        let Some(value) = self.metadata.u32(&key)? else { return Ok(None) };
        if value == 0 || value > WIDTH_MAX {
            return Err(Error::BadKey { key, problem: format!("{value} is not between 1 and {WIDTH_MAX}") });
        }
        Ok(Some(value as usize))
    }

    fn required(&self, name: &str) -> Result<usize> {
        self.optional(name)?.ok_or_else(|| Error::MissingKey { key: self.key(name) })
    }

    fn float(&self, name: &str) -> Result<Option<f32>> {
        let key = self.key(name);
        match self.metadata.f32(&key)? {
            Some(value) if !value.is_finite() || value <= 0.0 => {
                Err(Error::BadKey { key, problem: format!("{value} is not a positive number") })
            }
            value => Ok(value),
        }
    }

    /// A number that some files give once per layer; only one value for all layers is supported.
    fn same_for_all_layers(&self, name: &str, default: Option<usize>) -> Result<usize> {
        let key = self.key(name);
        let is_array = self.metadata.get(&key).is_some_and(|v| v.as_array().is_some());
        if !is_array {
            return match default {
                Some(default) => Ok(self.optional(name)?.unwrap_or(default)),
                None => self.required(name),
            };
        }
        let values = self.metadata.u32_array(&key)?.unwrap_or_default();
        match values.first() {
            Some(&first) if first > 0 && first <= WIDTH_MAX && values.iter().all(|&v| v == first) => Ok(first as usize),
            Some(&first) if values.iter().all(|&v| v == first) => {
                Err(Error::BadKey { key, problem: format!("{first} is not between 1 and {WIDTH_MAX}") })
            }
            Some(_) => Err(Error::BadKey { key, problem: "different values per layer are not supported".into() }),
            None => Err(Error::BadKey { key, problem: "the list is empty".into() }),
        }
    }
}

impl Hyperparameters {
    /// Reads and checks the metadata of a model file.
    ///
    /// # Errors
    /// Names the key that is missing, impossible, or asks for something that is not supported.
    pub fn read(file: &GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        let name = metadata.str("general.architecture")?.ok_or(Error::NoArchitecture)?;
        let architecture = architecture::find_architecture(name)
            .ok_or_else(|| Error::UnknownArchitecture { name: name.to_owned(), known: architecture::names() })?;
        let keys = Keys { metadata, prefix: architecture.name };
        let n_layers = keys.required("block_count")?;
        if n_layers > LAYERS_MAX as usize {
            let problem = format!("{n_layers} layers are more than {LAYERS_MAX}");
            return Err(Error::BadKey { key: keys.key("block_count"), problem });
        }
        let d_model = keys.required("embedding_length")?;
        let n_heads = keys.same_for_all_layers("attention.head_count", None)?;
        let n_kv_heads = keys.same_for_all_layers("attention.head_count_kv", Some(n_heads))?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            let problem = format!("{n_heads} query heads cannot share {n_kv_heads} key heads evenly");
            return Err(Error::BadKey { key: keys.key("attention.head_count_kv"), problem });
        }
        let head_dim = || {
            if d_model.is_multiple_of(n_heads) {
                return Ok(d_model / n_heads);
            }
            let problem = format!("{n_heads} heads do not divide a width of {d_model}, and no key length is given");
            Err(Error::BadKey { key: keys.key("attention.head_count"), problem })
        };
        let key_dim = keys.optional("attention.key_length")?.map_or_else(head_dim, Ok)?;
        let value_dim = keys.optional("attention.value_length")?.map_or_else(head_dim, Ok)?;
        let rope_dims = match metadata.u32(&keys.key("rope.dimension_count"))? {
            None if key_dim.is_multiple_of(2) => key_dim,
            None => {
                let problem = format!("heads of {key_dim} values cannot be turned in pairs");
                return Err(Error::BadKey { key: keys.key("attention.key_length"), problem });
            }
            Some(dims) if dims as usize <= key_dim && dims.is_multiple_of(2) => dims as usize,
            Some(dims) => {
                let problem = format!("{dims} is not an even number up to the head width {key_dim}");
                return Err(Error::BadKey { key: keys.key("rope.dimension_count"), problem });
            }
        };
        let vocab_size = file
            .tensor("token_embd.weight")
            .ok_or_else(|| Error::MissingTensor { tensor: "token_embd.weight".into() })?
            .info
            .n_rows() as usize;
        Ok(Self {
            architecture,
            n_layers,
            d_model,
            d_ff: keys.same_for_all_layers("feed_forward_length", None)?,
            n_heads,
            n_kv_heads,
            key_dim,
            value_dim,
            norm_eps: keys
                .float("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| Error::MissingKey { key: keys.key("attention.layer_norm_rms_epsilon") })?,
            context_length: keys.required("context_length")?,
            rope_dims,
            rope_base: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
            rope_factor: rope_factor(&keys)?,
            vocab_size,
        })
    }

    /// Angle per position of each turned pair, `base^(-2i/dims)`, divided by the linear factor and by
    /// `factors` (`rope_freqs.weight`, the Llama 3 scaling) where the file has them.
    pub(crate) fn inverse_frequencies(&self, factors: Option<&[f32]>) -> Vec<f32> {
        (0..self.rope_dims / 2)
            .map(|i| {
                let exponent = -(2.0 * i as f64) / self.rope_dims as f64;
                let frequency = libm::pow(f64::from(self.rope_base), exponent) / f64::from(self.rope_factor);
                (frequency / factors.map_or(1.0, |f| f64::from(f[i]))) as f32
            })
            .collect()
    }
}

fn rope_factor(keys: &Keys<'_>) -> Result<f32> {
    let key = keys.key("rope.scaling.type");
    match keys.metadata.str(&key)? {
        Some("none") => Ok(1.0),
        // A factor without a type is linear, and the first files had one key for it.
        None | Some("linear") => {
            let factor = keys.float("rope.scaling.factor")?;
            Ok(factor.map_or_else(|| keys.float("rope.scale_linear"), |f| Ok(Some(f)))?.unwrap_or(1.0))
        }
        Some(other) => Err(Error::BadKey { key, problem: format!("RoPE scaling `{other}` is not supported") }),
    }
}
