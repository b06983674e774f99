//! What a request may say about how tokens are chosen.

use hublabio_runtime::ai::sampling::{Dry, DynamicTemperature, Mirostat, SamplerStep, Xtc};
use hublabio_runtime::ai::{GenerationConfig, SamplingConfig};

use crate::error::ApiError;

/// Changes to the service's settings; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // The names and their meaning are those of `SamplingConfig`.
pub struct SamplingChanges {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub min_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub top_n_sigma: Option<f32>,
    pub xtc_probability: Option<f32>,
    pub xtc_threshold: Option<f32>,
    pub dynatemp_range: Option<f32>,
    pub dynatemp_exponent: Option<f32>,
    /// 0 for none, 2 for mirostat 2.
    pub mirostat: Option<usize>,
    pub mirostat_tau: Option<f32>,
    pub mirostat_eta: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub repeat_last_n: Option<usize>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub dry_multiplier: Option<f32>,
    pub dry_base: Option<f32>,
    pub dry_allowed_length: Option<usize>,
    /// `usize::MAX` for all tokens.
    pub dry_penalty_last_n: Option<usize>,
    pub dry_sequence_breakers: Option<Vec<String>>,
    pub logit_bias: Vec<(u32, f32)>,
    pub min_keep: Option<usize>,
    pub samplers: Option<Vec<SamplerStep>>,
    pub seed: Option<u64>,
}

impl SamplingChanges {
    /// Whether a setting asks for chance, so that a model which is greedy by default is not.
    fn asks_for_chance(&self) -> bool {
        self.temperature.is_some()
            || self.seed.is_some()
            || self.top_p.is_some()
            || self.top_k.is_some()
            || self.min_p.is_some()
            || self.typical_p.is_some()
            || self.top_n_sigma.is_some()
            || self.xtc_probability.is_some()
            || self.mirostat.is_some_and(|version| version > 0)
            || self.dynatemp_range.is_some()
            || self.samplers.is_some()
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The settings for a model that is `greedy` where nothing is said, or as `base` has it.
    ///
    /// # Errors
    /// 400 for a value that is none.
    pub fn apply(&self, base: &SamplingConfig, greedy: bool) -> Result<GenerationConfig, ApiError> {
        let base = if greedy && !self.asks_for_chance() { SamplingConfig::greedy() } else { base.clone() };
        let xtc = base.xtc.unwrap_or(Xtc { probability: 0.0, threshold: 0.1 });
        let xtc = Xtc {
            probability: self.xtc_probability.unwrap_or(xtc.probability),
            threshold: self.xtc_threshold.unwrap_or(xtc.threshold),
        };
        let dynamic = base.dynamic_temperature.unwrap_or(DynamicTemperature { range: 0.0, exponent: 1.0 });
        let dynamic = DynamicTemperature {
            range: self.dynatemp_range.unwrap_or(dynamic.range),
            exponent: self.dynatemp_exponent.unwrap_or(dynamic.exponent),
        };
        let mirostat = match self.mirostat {
            None => base.mirostat,
            Some(0) => None,
            Some(2) => Some(base.mirostat.unwrap_or_default()),
            Some(other) => {
                let message = format!("`mirostat` is {other}: give 2, or 0 for none");
                return Err(ApiError::field("mirostat", message).coded("invalid_value"));
            }
        };
        let dry = Dry {
            multiplier: self.dry_multiplier.unwrap_or(base.dry.as_ref().map_or(0.0, |dry| dry.multiplier)),
            base: self.dry_base.unwrap_or(Dry::default().base),
            allowed_length: self.dry_allowed_length.unwrap_or(Dry::default().allowed_length),
            range: self.dry_penalty_last_n.filter(|&n| n != usize::MAX),
            breakers: Vec::new(),
        };
        let sampling = SamplingConfig {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_p: self.top_p.unwrap_or(base.top_p),
            top_k: self.top_k.unwrap_or(base.top_k),
            min_p: self.min_p.unwrap_or(base.min_p),
            typical_p: self.typical_p.unwrap_or(base.typical_p),
            top_n_sigma: self.top_n_sigma.unwrap_or(base.top_n_sigma),
            xtc: (xtc.probability != 0.0).then_some(xtc),
            dynamic_temperature: (dynamic.range != 0.0).then_some(dynamic),
            mirostat: mirostat.map(|mirostat| Mirostat {
                target: self.mirostat_tau.unwrap_or(mirostat.target),
                rate: self.mirostat_eta.unwrap_or(mirostat.rate),
            }),
            repetition_penalty: self.repeat_penalty.unwrap_or(base.repetition_penalty),
            penalty_window: self.repeat_last_n.unwrap_or(base.penalty_window),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            dry: (dry.multiplier != 0.0).then_some(dry),
            logit_bias: if self.logit_bias.is_empty() { base.logit_bias } else { self.logit_bias.clone() },
            min_keep: self.min_keep.unwrap_or(base.min_keep),
            order: self.samplers.clone().unwrap_or(base.order),
            seed: self.seed.or(base.seed),
        };
        sampling.validate().map_err(|error| ApiError::bad_request(error.to_string()).coded("invalid_value"))?;
        let mut config = GenerationConfig { sampling, ..GenerationConfig::default() };
        if let Some(breakers) = &self.dry_sequence_breakers {
            config.dry_breakers.clone_from(breakers);
        }
        Ok(config)
    }
}
