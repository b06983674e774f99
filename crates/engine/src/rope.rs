//! The angles of the rotary position embedding: bases, and the scalings by which models reach past the context that they
//! were first trained for.
//!
//! Formulas as in `transformers`, which is where models are trained; the rotation itself is in the kernels.

use crate::error::Result;
use crate::hyperparameters::Keys;

/// The frequencies of one kind of layer, and by what cosines and sines are multiplied.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Frequencies {
    /// Angle per position of each turned pair, `[rope_dims / 2]`.
    pub inverse: Vec<f32>,
    pub magnitude: f32,
}

/// How the angles follow from the position.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RopeScaling {
    base: f32,
    /// Of the layers that see only a window, where they have their own; unscaled.
    local_base: Option<f32>,
    /// Low frequencies are divided by this, or all without a ramp.
    factor: f32,
    /// Cosines and sines are multiplied by this.
    magnitude: f32,
    ramp: Option<Ramp>,
    /// Positions of the original training, past which long factors count.
    pub original_context: usize,
}

/// `YaRN` (Peng et al., 2023, arXiv:2309.00071): pairs that turn often within the original context stay as they are, those
/// that turn seldom are divided, with a ramp between.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Ramp {
    /// Turns from which on a pair stays.
    fast: f32,
    /// Turns up to which it is divided.
    slow: f32,
}

/// Factors by which the file divides frequencies, `[rope_dims / 2]` each.
#[derive(Clone, Debug, Default)]
pub(crate) struct FrequencyFactors {
    /// `rope_freqs`: always.
    pub all: Option<Vec<f32>>,
    /// `rope_factors_short`: for sequences within the original context.
    pub short: Option<Vec<f32>>,
    /// `rope_factors_long`: for the others.
    pub long: Option<Vec<f32>>,
}

impl RopeScaling {
    pub fn read(keys: &Keys<'_>, rope_dims: usize, context: usize) -> Result<Self> {
        let name = "rope.scaling.type";
        let factor = || -> Result<f32> {
            // The first files had one key for the linear factor.
            Ok(match keys.float("rope.scaling.factor")? {
                Some(factor) => factor,
                None => keys.float("rope.scale_linear")?.unwrap_or(1.0),
            })
        };
        let original_context = keys.optional("rope.scaling.original_context_length")?.unwrap_or(context);
        let attention = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let (factor, magnitude, ramp) = match keys.word(name)? {
            // A factor without a type is linear. Factors for each pair (Llama 3; longrope: Ding et al., 2024,
            // arXiv:2402.13753) are tensors, which count whether or not a type is named.
            None | Some("linear") => (factor()?, attention, None),
            Some("none" | "longrope" | "su" | "llama3") => (1.0, attention, None),
            Some("yarn") => {
                if rope_dims < 4 {
                    return keys.bad(name, format!("yarn needs at least 4 turned values, not {rope_dims}"));
                }
                if keys.float("rope.scaling.yarn_ext_factor")?.is_some_and(|mix| mix != 1.0) {
                    return keys.bad("rope.scaling.yarn_ext_factor", "only 1, a full ramp, is supported");
                }
                let factor = factor()?;
                let attention = keys.float("rope.scaling.yarn_attn_factor")?.unwrap_or(attention);
                // A factor below 1 stretches nothing, so it has nothing to make up for.
                let magnitude = attention * (1.0 + 0.1 * libm::log(f64::from(factor).max(1.0))) as f32;
                let ramp = Ramp {
                    fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                };
                (factor, magnitude, Some(ramp))
            }
            Some(other) => return keys.bad(name, format!("RoPE scaling `{other}` is not supported")),
        };
        let base = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
        let local_base = match keys.architecture().rope.local_base {
            Some(default) => Some(keys.float("rope.freq_base_swa")?.unwrap_or(default)),
            None => None,
        };
        Ok(Self { base, local_base, factor, magnitude, ramp, original_context })
    }

    /// The frequencies of `dims / 2` pairs in layers that see everything.
    pub fn global(&self, dims: usize, factors: &FrequencyFactors, long: bool) -> Frequencies {
        let own = if long { &factors.long } else { &factors.short };
        let divided = |i: usize, frequency: f64| {
            let by = |list: &Option<Vec<f32>>| list.as_ref().map_or(1.0, |list| f64::from(list[i]));
            frequency / (by(&factors.all) * by(own))
        };
        let factor = f64::from(self.factor);
        let ends = self.ramp.map(|ramp| self.ends(dims, ramp));
        let inverse = plain(self.base, dims).enumerate().map(|(i, frequency)| {
            let whole = divided(i, frequency);
            // How much of the divided frequency there is in it.
            let share = ends.map_or(1.0, |(low, high)| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0));
            (whole / factor * share + whole * (1.0 - share)) as f32
        });
        Frequencies { inverse: inverse.collect(), magnitude: self.magnitude }
    }

    /// The frequencies in layers that see a window: those of their own base where the family has one.
    pub fn local(&self, dims: usize, factors: &FrequencyFactors, long: bool) -> Frequencies {
        match self.local_base {
            Some(base) => Frequencies { inverse: plain(base, dims).map(|f| f as f32).collect(), magnitude: 1.0 },
            None => self.global(dims, factors, long),
        }
    }

    /// Between which pairs the ramp goes from whole to divided frequencies.
    fn ends(&self, dims: usize, ramp: Ramp) -> (f64, f64) {
        // The pair that turns `turns` times within the original context.
        let pair = |turns: f32| {
            let wavelength = self.original_context as f64 / (f64::from(turns) * 2.0 * std::f64::consts::PI);
            dims as f64 * libm::log(wavelength) / (2.0 * libm::log(f64::from(self.base)))
        };
        let low = pair(ramp.fast).floor().max(0.0);
        let high = pair(ramp.slow).ceil().min(dims as f64 - 1.0);
        // Equal ends would divide by zero.
        (low, if low == high { high + 0.001 } else { high })
    }
}

/// `base^(-2i / dims)` of each pair.
fn plain(base: f32, dims: usize) -> impl Iterator<Item = f64> {
    (0..dims / 2).map(move |i| libm::pow(f64::from(base), -(2.0 * i as f64) / dims as f64))
}
