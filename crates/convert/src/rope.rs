//! Rotary position embedding: what a configuration says about it, under its old names and its new ones.
//!
//! Older files have `rope_theta` and `rope_scaling` at the top; newer ones one object `rope_parameters`, for models
//! with two kinds of layers one object for each kind in it.

use serde_json::Value;

use crate::config::{Config, as_f64, as_u32, missing};
use crate::error::Error;

/// Rotary embedding of the layers with full attention, and the base of those with a window.
#[derive(Clone, Debug)]
pub struct Rope {
    /// θ.
    pub base: f64,
    /// θ of layers with a sliding window, where it differs.
    pub base_local: Option<f64>,
    /// Share of a head's dimensions that rotate.
    pub partial: f64,
    /// Whether the configuration says that share.
    pub says_partial: bool,
    /// How positions beyond the original context are squeezed.
    pub scaling: Scaling,
}

/// The kinds of scaling that GGUF can say.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// None.
    None,
    /// Positions divided by a factor (Chen et al. 2023).
    Linear { factor: f64 },
    /// YaRN (Peng et al. 2023).
    Yarn {
        factor: f64,
        original: u32,
        extrapolation: Option<f64>,
        /// By how much attention is scaled beyond what every reader derives from `factor`.
        attention: Option<f64>,
        fast: Option<f64>,
        slow: Option<f64>,
    },
    /// Llama 3.1: one divisor for each frequency, kept as a tensor.
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    /// Phi-3: two lists of divisors, for short and for long contexts, kept as tensors.
    Long { short: Vec<f32>, long: Vec<f32>, original: u32, attention: Option<f64> },
}

/// Where a value of the scaling is looked up.
struct Keys<'a> {
    name: &'static str,
    object: Option<&'a Value>,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.object.and_then(|object| object.get(key)).filter(|value| !value.is_null())
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn number_opt(&self, key: &str) -> Result<Option<f64>, Error> {
        self.get(key).map(|value| as_f64(&self.full(key), value)).transpose()
    }

    fn number(&self, key: &str) -> Result<f64, Error> {
        self.number_opt(key)?.ok_or_else(|| missing(&self.full(key)))
    }

    fn positive(&self, key: &str) -> Result<f64, Error> {
        let value = self.number(key)?;
        above_zero(&self.full(key), value)
    }

    fn list(&self, key: &str) -> Result<Vec<f32>, Error> {
        let full = self.full(key);
        let list = self.get(key).ok_or_else(|| missing(&full))?;
        let list = list.as_array().ok_or_else(|| Error::bad_key(&full, list, "expected a list of numbers"))?;
        let divisor = |value| Ok(above_zero(&full, as_f64(&full, value)?)? as f32);
        list.iter().map(divisor).collect()
    }
}

/// What a frequency is made of or divided by. It must not vanish in the 32 bits of a file either.
fn above_zero(key: &str, value: f64) -> Result<f64, Error> {
    if value as f32 > 0.0 { Ok(value) } else { Err(Error::bad_key(key, value, "expected a number above 0")) }
}

impl Rope {
    /// Reads a configuration; `base_default` is θ where it says nothing.
    pub fn read(config: &Config, base_default: f64, base_local_default: Option<f64>) -> Result<Self, Error> {
        let parameters = config.get("rope_parameters");
        let full = parameters.and_then(|parameters| parameters.get("full_attention"));
        let local = Keys {
            name: "rope_parameters.sliding_attention",
            object: parameters.and_then(|parameters| parameters.get("sliding_attention")),
        };
        let keys = match (full, parameters, config.get("rope_scaling")) {
            (Some(_), ..) => Keys { name: "rope_parameters.full_attention", object: full },
            (None, Some(_), _) => Keys { name: "rope_parameters", object: parameters },
            (None, None, object) => Keys { name: "rope_scaling", object },
        };
        let base = match keys.number_opt("rope_theta")? {
            Some(base) => base,
            None => config.f64_opt("rope_theta")?.unwrap_or(base_default),
        };
        let base_local = match local.number_opt("rope_theta")? {
            Some(base) => Some(base),
            None => config.f64_opt("rope_local_base_freq")?.or(base_local_default),
        };
        let partial = match keys.number_opt("partial_rotary_factor")? {
            Some(partial) => Some(partial),
            None => config.f64_opt("partial_rotary_factor")?,
        };
        let (says_partial, partial) = (partial.is_some(), partial.unwrap_or(1.0));
        above_zero("rope_theta", base)?;
        base_local.map(|base| above_zero("rope_local_base_freq", base)).transpose()?;
        if above_zero("partial_rotary_factor", partial)? > 1.0 {
            return Err(Error::bad_key("partial_rotary_factor", partial, "expected a share, at most 1"));
        }
        if Scaling::read(config, &local)? != Scaling::None {
            let advice = "GGUF can say no scaling for the layers with a window: remove it";
            return Err(Error::bad_key(local.full("rope_type"), "a kind of scaling", advice));
        }
        Ok(Self { base, base_local, partial, says_partial, scaling: Scaling::read(config, &keys)? })
    }
}

impl Scaling {
    fn read_yarn(keys: &Keys<'_>, original: u32) -> Result<Self, Error> {
        let factor = keys.positive("factor")?;
        if keys.get("truncate").is_some_and(|truncate| truncate.as_bool() != Some(true)) {
            let advice = "GGUF means that the ramp begins and ends at whole dimensions: remove the scaling";
            return Err(Error::bad_key(keys.full("truncate"), "not true", advice));
        }
        // What the configuration says stands for the whole factor, what a file says multiplies the derived one.
        let whole = match keys.number_opt("attention_factor")?.or(keys.number_opt("attn_factor")?) {
            Some(given) => Some(given),
            None => match (keys.number_opt("mscale")?, keys.number_opt("mscale_all_dim")?) {
                (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                    Some(yarn_attention(factor, mscale) / yarn_attention(factor, all))
                }
                _ => None,
            },
        };
        let attention = whole.map(|whole| above_zero(&keys.full("attention_factor"), whole)).transpose()?;
        Ok(Self::Yarn {
            factor,
            original,
            extrapolation: keys.number_opt("extrapolation_factor")?,
            attention: attention.map(|whole| whole / yarn_attention(factor, 1.0)),
            fast: keys.number_opt("beta_fast")?,
            slow: keys.number_opt("beta_slow")?,
        })
    }

    fn read(config: &Config, keys: &Keys<'_>) -> Result<Self, Error> {
        let kind = keys.get("rope_type").or_else(|| keys.get("type"));
        let name = match kind.map(|kind| kind.as_str().ok_or(kind)).transpose() {
            Ok(name) => name.unwrap_or("default"),
            Err(kind) => return Err(Error::bad_key(keys.full("rope_type"), kind, "expected a text")),
        };
        let original = || match keys.get("original_max_position_embeddings") {
            Some(value) => as_u32(&keys.full("original_max_position_embeddings"), value),
            None => config.u32("original_max_position_embeddings"),
        };
        Ok(match name {
            "default" | "none" => Self::None,
            "linear" => Self::Linear { factor: keys.positive("factor")? },
            // `transformers` takes the trained context where nothing else is said.
            "yarn" => match original() {
                Err(Error::MissingKey { .. }) => Self::read_yarn(keys, config.u32("max_position_embeddings")?)?,
                original => Self::read_yarn(keys, original?)?,
            },
            "llama3" => {
                let (low, high) = (keys.positive("low_freq_factor")?, keys.positive("high_freq_factor")?);
                if high <= low {
                    let advice = format!("expected more than low_freq_factor, which is {low}");
                    return Err(Error::bad_key(keys.full("high_freq_factor"), high, advice));
                }
                let original = keys.positive("original_max_position_embeddings")?;
                Self::Llama3 { factor: keys.positive("factor")?, low, high, original }
            }
            "longrope" | "su" => Self::Long {
                short: keys.list("short_factor")?,
                long: keys.list("long_factor")?,
                original: original()?,
                attention: keys.number_opt("attention_factor")?,
            },
            _ => {
                let advice = "GGUF can say linear, yarn, llama3 and longrope: set one of them, or remove the scaling";
                return Err(Error::bad_key(keys.full("rope_type"), format!("`{name}`"), advice));
            }
        })
    }
}

/// Yarn's factor on attention as readers derive it (Peng et al. 2023, equation 22).
fn yarn_attention(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// `rope_freqs.weight`, `[dimensions / 2]`: by how much Llama 3.1's scaling divides each frequency. Wavelengths of
/// which the original context holds more than `high` keep theirs, those of which it holds fewer than `low` are divided
/// by `factor`, and between the two the change is smooth.
pub fn llama3_factors(dimensions: u32, base: f64, (factor, low, high, original): (f64, f64, f64, f64)) -> Vec<f32> {
    let divisor = |pair: u32| {
        let wavelength = std::f64::consts::TAU * base.powf(f64::from(2 * pair) / f64::from(dimensions));
        let periods = original / wavelength;
        if periods > high {
            1.0
        } else if periods < low {
            factor
        } else {
            let smooth = (periods - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..dimensions / 2).map(|pair| divisor(pair) as f32).collect()
}

/// The factor on attention that goes with Phi-3's longer contexts (Ding et al. 2024, as `transformers` has it).
pub fn long_attention_factor(context: u32, original: u32) -> f32 {
    let scale = f64::from(context) / f64::from(original);
    if scale <= 1.0 { 1.0 } else { (1.0 + scale.ln() / f64::from(original).ln()).sqrt() as f32 }
}
