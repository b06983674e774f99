//! What a caller can ask of a sampler: settings, their ranges, their presets, and the order of the steps.
//!
//! What a step does with a setting is in `filters.rs`, `penalties.rs` and `dry.rs`.

use std::fmt;

use crate::TokenIndex;
use crate::error::{Error, Result};

/// Most tokens that may have a bias of their own.
pub const LOGIT_BIAS_MAX: usize = 1 << 20;
/// Most sequences that may end a repetition for DRY.
pub const DRY_BREAKERS_MAX: usize = 1 << 20;
/// Most tokens in a sequence that ends a repetition.
pub const DRY_BREAKER_TOKENS_MAX: usize = 64;

/// How the next token is chosen. The four presets are [`greedy`](Self::greedy), [`precise`](Self::precise),
/// [`default`](Self::default) and [`creative`](Self::creative).
///
/// Logits pass these stages: the mask of a constraint, [`logit_bias`](Self::logit_bias), the steps of
/// [`order`](Self::order) one after the other, then one draw from what is left, in proportion to its probability.
/// Each filter renormalizes: it sees the probabilities of what the steps before it left, and no others.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingConfig {
    /// Divides the logits: below 1 sharper, above 1 flatter. 0 takes the most likely token.
    pub temperature: f32,
    /// Lets the temperature follow the entropy; `None` for the same temperature always.
    pub dynamic_temperature: Option<DynamicTemperature>,
    /// Only this many of the most likely tokens are possible (Fan et al., 2018); 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability are possible
    /// (nucleus sampling, Holtzman et al., 2020); 1 for all.
    pub top_p: f32,
    /// Only tokens at least this likely, relative to the most likely one, are possible
    /// (Nguyen et al., 2024); 0 for all.
    pub min_p: f32,
    /// Only the tokens whose surprise is nearest to the expected one, that together reach this probability, are
    /// possible (locally typical sampling, Meister et al., 2022); 1 for all.
    pub typical_p: f32,
    /// Only tokens whose logit is within so many standard deviations of the largest are possible
    /// (Tang et al., 2024); 0 for all.
    pub top_n_sigma: f32,
    /// Sometimes leaves out the most likely tokens; `None` for never.
    pub xtc: Option<Xtc>,
    /// Positive logits of tokens in the window are divided by this, others multiplied (Keskar et al., 2019);
    /// 1 for no effect.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time it is in the window; 0 for no effect.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it is in the window; 0 for no effect.
    pub presence_penalty: f32,
    /// How many of the last tokens, prompt included, the three penalties above look at.
    pub penalty_window: usize,
    /// Penalizes what would go on with a repetition; `None` for no effect.
    pub dry: Option<Dry>,
    /// Chooses the filter anew for each token, so that the surprise stays the same. It takes the place of every
    /// filter: of the steps, only penalties, DRY and temperature act beside it.
    pub mirostat: Option<Mirostat>,
    /// Added to the logits of these tokens, before all steps; negative infinity forbids a token.
    /// Tokens that the vocabulary does not have are left out.
    pub logit_bias: Vec<(TokenIndex, f32)>,
    /// Top-p, min-p, typical, top-n-sigma and XTC leave at least so many tokens, if there are as many.
    pub min_keep: usize,
    /// The steps in their order, each at most once. A step that is not in the list does not act, whatever its setting.
    pub order: Vec<SamplerStep>,
    /// The same seed gives the same draws; `None` asks the operating system.
    pub seed: Option<u64>,
}

/// A temperature between `temperature - range` (but at least 0) and `temperature + range`: low where the model is sure,
/// high where it is not, by the entropy in relation to its maximum, to the power of `exponent`
/// (entropy-based dynamic temperature as llama.cpp has it, after kalomaze, 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicTemperature {
    /// Distance of both ends from the temperature, above 0.
    pub range: f32,
    /// Power of the relative entropy, above 0; 1 for proportional.
    pub exponent: f32,
}

/// Exclude Top Choices (p-e-w, 2024, <https://github.com/oobabooga/text-generation-webui/pull/6335>): with `probability`,
/// all tokens at least as likely as `threshold` but the least likely of them are left out. Where fewer than two are,
/// nothing happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    /// How often, from 0 (never) to 1 (always).
    pub probability: f32,
    /// Above 0 and at most 0.5: above that there cannot be two.
    pub threshold: f32,
}

/// "Don't repeat yourself" (p-e-w, 2024, <https://github.com/oobabooga/text-generation-webui/pull/5677>): a token that
/// would extend a repetition of `n` tokens, `n` at least `allowed_length`, loses `multiplier · base^(n - allowed_length)`.
/// Repetitions do not reach over a breaker.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// Penalty of the shortest repetition that counts, 0 for no effect.
    pub multiplier: f32,
    /// At least 1.
    pub base: f32,
    /// Shorter repetitions do not count.
    pub allowed_length: usize,
    /// How many of the last tokens are searched; `None` for all.
    pub range: Option<usize>,
    /// Sequences of tokens over which no repetition reaches. What is a word or a line is for a caller to know that
    /// sees text.
    pub breakers: Vec<Vec<TokenIndex>>,
}

impl Default for Dry {
    /// The proposal's values: multiplier 0.8, base 1.75, allowed length 2, all tokens, no breakers.
    fn default() -> Self {
        Self { multiplier: 0.8, base: 1.75, allowed_length: 2, range: None, breakers: Vec::new() }
    }
}

/// Mirostat 2 (Basu et al., 2021): tokens whose surprise is above a moving limit are left out; the limit, twice the
/// target at first, falls by `rate` times what the surprise of each draw was above the target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// The surprise to keep, in bits per token.
    pub target: f32,
    /// How fast the limit follows, from 0 to 1.
    pub rate: f32,
}

impl Default for Mirostat {
    /// llama.cpp's values: 5 bits, rate 0.1.
    fn default() -> Self {
        Self { target: 5.0, rate: 0.1 }
    }
}

/// A step of sampling, by the names that llama.cpp has for them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SamplerStep {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// DRY.
    Dry,
    /// Top-n-sigma.
    TopNSigma,
    /// Top-k.
    TopK,
    /// Locally typical sampling.
    TypicalP,
    /// Nucleus sampling.
    TopP,
    /// Min-p.
    MinP,
    /// Exclude Top Choices.
    Xtc,
    /// Temperature, dynamic or not.
    Temperature,
}

impl SamplerStep {
    /// llama.cpp's order: penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature.
    pub const DEFAULT_ORDER: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::TypicalP,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];

    /// `penalties`, `dry`, `top_n_sigma`, `top_k`, `typ_p`, `top_p`, `min_p`, `xtc` or `temperature`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top_n_sigma",
            Self::TopK => "top_k",
            Self::TypicalP => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
        }
    }

    /// The step of that [`name`](Self::name).
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::DEFAULT_ORDER.into_iter().find(|step| step.name() == name)
    }

    /// Reads names with commas or semicolons between them.
    ///
    /// ```
    /// use hublabio_engine::sampling::SamplerStep;
    /// let order = SamplerStep::parse_order("top_k,min_p,temperature")?;
    /// assert_eq!(order, [SamplerStep::TopK, SamplerStep::MinP, SamplerStep::Temperature]);
    /// assert!(SamplerStep::parse_order("top_k,top_q").unwrap_err().to_string().contains("`top_q`"));
    /// # Ok::<(), hublabio_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// When a name is none of a step, or comes twice.
    pub fn parse_order(text: &str) -> Result<Vec<Self>> {
        let mut order = Vec::new();
        for name in text.split([',', ';']).map(str::trim) {
            let step = Self::by_name(name).ok_or_else(|| {
                let known = Self::DEFAULT_ORDER.map(Self::name).join(", ");
                Error::BadSamplerOrder { problem: format!("there is no sampler `{name}`; there are {known}") }
            })?;
            order.push(step);
        }
        check_order(&order)?;
        Ok(order)
    }
}

impl fmt::Display for SamplerStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl SamplingConfig {
    fn preset(temperature: f32, top_p: f32, top_k: usize) -> Self {
        Self { temperature, top_k, top_p, ..Self::plain() }
    }

    /// The model's own distribution: temperature 1, no filter, no penalty.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            temperature: 1.0,
            dynamic_temperature: None,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            dry: None,
            mirostat: None,
            logit_bias: Vec::new(),
            min_keep: 1,
            order: SamplerStep::DEFAULT_ORDER.to_vec(),
            seed: None,
        }
    }

    /// Always the most likely token: temperature 0.
    #[must_use]
    pub fn greedy() -> Self {
        Self::preset(0.0, 1.0, 1)
    }

    /// Facts and code: temperature 0.2, top-p 0.8, top-k 20.
    #[must_use]
    pub fn precise() -> Self {
        Self::preset(0.2, 0.8, 20)
    }

    /// Stories: temperature 1, top-p 0.95, top-k 50.
    #[must_use]
    pub fn creative() -> Self {
        Self::preset(1.0, 0.95, 50)
    }

    /// The preset of that name: `greedy`, `precise`, `default` or `creative`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "greedy" => Some(Self::greedy()),
            "precise" => Some(Self::precise()),
            "default" => Some(Self::default()),
            "creative" => Some(Self::creative()),
            _ => None,
        }
    }

    /// Whether the three penalties can change anything.
    pub(super) fn has_penalties(&self) -> bool {
        self.penalty_window > 0
            && (self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0)
    }

    /// Checks every setting, those of steps that do not act too.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        check("temperature", self.temperature, within(0.0, 100.0), "between 0 and 100")?;
        check("top-p", self.top_p, above(0.0, 1.0), "above 0 and at most 1")?;
        check("min-p", self.min_p, within(0.0, 1.0), "between 0 and 1")?;
        check("typical-p", self.typical_p, above(0.0, 1.0), "above 0 and at most 1")?;
        check("top-n-sigma", self.top_n_sigma, within(0.0, 1000.0), "between 0 and 1000")?;
        check("repetition penalty", self.repetition_penalty, above(0.0, 100.0), "above 0 and at most 100")?;
        check("frequency penalty", self.frequency_penalty, within(-1e6, 1e6), "between -1000000 and 1000000")?;
        check("presence penalty", self.presence_penalty, within(-1e6, 1e6), "between -1000000 and 1000000")?;
        if let Some(dynamic) = self.dynamic_temperature {
            check("range of the dynamic temperature", dynamic.range, above(0.0, 100.0), "above 0 and at most 100")?;
            check(
                "exponent of the dynamic temperature",
                dynamic.exponent,
                above(0.0, 100.0),
                "above 0 and at most 100",
            )?;
        }
        if let Some(xtc) = self.xtc {
            check("XTC probability", xtc.probability, within(0.0, 1.0), "between 0 and 1")?;
            check("XTC threshold", xtc.threshold, above(0.0, 0.5), "above 0 and at most 0.5")?;
        }
        if let Some(dry) = &self.dry {
            check("DRY multiplier", dry.multiplier, within(0.0, 1e6), "between 0 and 1000000")?;
            check("DRY base", dry.base, within(1.0, 100.0), "between 1 and 100")?;
            let n = dry.breakers.len();
            check("number of DRY breakers", n as f32, |_| n <= DRY_BREAKERS_MAX, "at most 1048576")?;
            for breaker in &dry.breakers {
                let n = breaker.len();
                let fits = |_| (1..=DRY_BREAKER_TOKENS_MAX).contains(&n);
                check("number of tokens in a DRY breaker", n as f32, fits, "from 1 to 64")?;
            }
        }
        if let Some(mirostat) = self.mirostat {
            check("mirostat target", mirostat.target, above(0.0, 100.0), "above 0 and at most 100")?;
            check("mirostat rate", mirostat.rate, within(0.0, 1.0), "between 0 and 1")?;
            check("temperature", self.temperature, |t| t > 0.0, "above 0 with mirostat, which draws")?;
        }
        let n = self.logit_bias.len();
        check("number of logit biases", n as f32, |_| n <= LOGIT_BIAS_MAX, "at most 1048576")?;
        for &(_, bias) in &self.logit_bias {
            let fine = |bias: f32| bias == f32::NEG_INFINITY || (-1e6..=1e6).contains(&bias);
            check("logit bias", bias, fine, "between -1000000 and 1000000, or -inf to forbid the token")?;
        }
        check_order(&self.order)
    }
}

impl Default for SamplingConfig {
    /// Conversation: temperature 0.7, top-p 0.9, top-k 40.
    fn default() -> Self {
        Self::preset(0.7, 0.9, 40)
    }
}

/// NaN is in no range.
fn within(least: f32, most: f32) -> impl Fn(f32) -> bool {
    move |value| (least..=most).contains(&value)
}

fn above(least: f32, most: f32) -> impl Fn(f32) -> bool {
    move |value| value > least && value <= most
}

fn check(setting: &'static str, value: f32, fine: impl Fn(f32) -> bool, range: &'static str) -> Result<()> {
    if fine(value) { Ok(()) } else { Err(Error::BadSampling { setting, value, range }) }
}

fn check_order(order: &[SamplerStep]) -> Result<()> {
    match order.iter().enumerate().find(|(i, step)| order[..*i].contains(step)) {
        Some((_, step)) => {
            Err(Error::BadSamplerOrder { problem: format!("sampler `{step}` comes twice: name each at most once") })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let plain = SamplingConfig::plain;
        let xtc = |probability, threshold| Some(Xtc { probability, threshold });
        let dry = |f: fn(&mut Dry)| {
            let mut dry = Dry::default();
            f(&mut dry);
            Some(dry)
        };
        let mirostat = |target, rate| Some(Mirostat { target, rate });
        let dynamic = |range, exponent| Some(DynamicTemperature { range, exponent });
        for (config, setting) in [
            (SamplingConfig { temperature: -1.0, ..plain() }, "temperature"),
            (SamplingConfig { temperature: f32::NAN, ..plain() }, "temperature"),
            (SamplingConfig { top_p: 0.0, ..plain() }, "top-p"),
            (SamplingConfig { min_p: 1.5, ..plain() }, "min-p"),
            (SamplingConfig { typical_p: 0.0, ..plain() }, "typical-p"),
            (SamplingConfig { top_n_sigma: -1.0, ..plain() }, "top-n-sigma"),
            (SamplingConfig { repetition_penalty: 0.0, ..plain() }, "repetition penalty"),
            (SamplingConfig { frequency_penalty: f32::NAN, ..plain() }, "frequency penalty"),
            (SamplingConfig { presence_penalty: f32::INFINITY, ..plain() }, "presence penalty"),
            (SamplingConfig { dynamic_temperature: dynamic(0.0, 1.0), ..plain() }, "range of the dynamic"),
            (SamplingConfig { dynamic_temperature: dynamic(1.0, 0.0), ..plain() }, "exponent of the dynamic"),
            (SamplingConfig { xtc: xtc(1.1, 0.1), ..plain() }, "XTC probability"),
            (SamplingConfig { xtc: xtc(0.5, 0.6), ..plain() }, "XTC threshold"),
            (SamplingConfig { dry: dry(|d| d.multiplier = -1.0), ..plain() }, "DRY multiplier"),
            (SamplingConfig { dry: dry(|d| d.base = 0.5), ..plain() }, "DRY base"),
            (SamplingConfig { dry: dry(|d| d.breakers = vec![vec![]]), ..plain() }, "number of tokens in a DRY"),
            (SamplingConfig { mirostat: mirostat(0.0, 0.1), ..plain() }, "mirostat target"),
            (SamplingConfig { mirostat: mirostat(5.0, f32::NAN), ..plain() }, "mirostat rate"),
            (SamplingConfig { mirostat: mirostat(5.0, 0.1), temperature: 0.0, ..plain() }, "temperature is 0"),
            (SamplingConfig { logit_bias: vec![(3, f32::INFINITY)], ..plain() }, "logit bias"),
        ] {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(setting), "{message}");
        }
        for preset in ["greedy", "precise", "default", "creative"] {
            SamplingConfig::by_name(preset).unwrap().validate().unwrap();
        }
    }

    #[test]
    fn an_order_is_a_list_of_known_names_without_repetition() {
        for step in SamplerStep::DEFAULT_ORDER {
            assert_eq!(SamplerStep::by_name(step.name()), Some(step));
        }
        let all = SamplerStep::DEFAULT_ORDER.map(SamplerStep::name).join(";");
        assert_eq!(SamplerStep::parse_order(&all).unwrap(), SamplerStep::DEFAULT_ORDER);
        for (text, said) in
            [("", "``"), ("top_k,,top_p", "``"), ("Top_K", "`Top_K`"), ("xtc,top_k,xtc", "`xtc` comes twice")]
        {
            let message = SamplerStep::parse_order(text).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        let mut config = SamplingConfig::plain();
        config.order.push(SamplerStep::Dry);
        assert!(config.validate().unwrap_err().to_string().contains("`dry` comes twice"));
    }
}
