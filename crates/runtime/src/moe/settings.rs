//! The settings of a swarm as a whole: `swarm.toml` in its folder. `docs/SWARM.md` lists the entries.

use std::path::Path;

use hublabio_moe::{DEBATE_ROUNDS_MAX, DebateConfig, MixtureConfig, RoutingStrategy, SynthesisStrategy, Synthesizer};
use serde::Deserialize;

use super::expert_file::read_bounded;
use super::folder::{SETTINGS_FILE, SwarmSpec};
use crate::config::parse_bytes;
use crate::error::{Error, Result};
use crate::toml_text;

/// A page.
const BYTES_MAX: u64 = 1 << 20;
/// What experts may take together where nothing is said: 4 GiB.
const DEFAULT_BYTES_MAX: u64 = 4 << 30;

/// Parameters of a reducer. Models below that put words together that nobody said: as the reducer of four experts of its own
/// size, the built-in generalist of 5 million made no right answer of any, where the best expert had 6 %.
const REDUCER_PARAMETERS_MIN: u64 = 300_000_000;

/// How a swarm routes, joins and keeps its experts.
#[derive(Clone, Debug, PartialEq)]
pub struct SwarmSettings {
    /// Whether the experts of the binary belong to it.
    pub builtin: bool,
    /// How many experts are chosen.
    pub routing: RoutingStrategy,
    /// How their answers become one.
    pub synthesis: SynthesisStrategy,
    /// The router's stages that are switched on; all if `None`.
    pub stages: Option<Vec<String>>,
    /// The embedding model of the stage `embedding`: a GGUF file.
    pub embedding_model: Option<String>,
    /// The expert that summarizes; the generalist if `None`.
    pub reducer: Option<String>,
    /// Whether a reducer may summarize that is weaker than those whose answers it reads.
    pub allow_weaker_reducer: bool,
    /// Rounds in which experts see each other's answers before they vote; `None` for no debate.
    pub debate_rounds: Option<usize>,
    /// How probabilities are mixed.
    pub mixture: MixtureConfig,
    /// Bytes that experts may take together.
    pub bytes_max: u64,
    /// The longest that a question waits for experts in memory to be served first, in milliseconds.
    pub wait_ms_max: u64,
    /// Questions that may wait.
    pub queue_max: usize,
}

impl Default for SwarmSettings {
    fn default() -> Self {
        Self {
            builtin: true,
            routing: RoutingStrategy::Single,
            synthesis: SynthesisStrategy::Best,
            stages: None,
            embedding_model: None,
            reducer: None,
            allow_weaker_reducer: false,
            debate_rounds: None,
            mixture: MixtureConfig::default(),
            bytes_max: DEFAULT_BYTES_MAX,
            wait_ms_max: 10_000,
            queue_max: 256,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsText {
    builtin: Option<bool>,
    routing: RoutingText,
    synthesis: SynthesisText,
    mixture: MixtureText,
    memory: MemoryText,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RoutingText {
    strategy: Option<String>,
    stages: Option<Vec<String>>,
    embedding_model: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SynthesisText {
    strategy: Option<String>,
    reducer: Option<String>,
    allow_weaker_reducer: bool,
    debate_rounds: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MixtureText {
    tau: Option<f32>,
    decay: Option<f32>,
    active_max: Option<usize>,
    probe_every: Option<usize>,
    keep_share_min: Option<f32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MemoryText {
    max: Option<String>,
    wait_ms_max: Option<u64>,
    queue_max: Option<usize>,
}

impl SwarmSettings {
    /// Reads `swarm.toml`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let text =
            read_bounded(path, BYTES_MAX).map_err(|problem| Error::SwarmFile { origin: origin.clone(), problem })?;
        Self::parse(&text, &origin)
    }

    /// What a synthesizer needs of the settings.
    pub(super) fn synthesizer(&self, swarm: &SwarmSpec) -> Result<Synthesizer> {
        let mut synthesizer = Synthesizer::new(self.synthesis);
        synthesizer.mixture = self.mixture;
        synthesizer.summarize.allow_weaker = self.allow_weaker_reducer;
        synthesizer.summarize.parameters_min = REDUCER_PARAMETERS_MIN;
        if let Some(name) = &self.reducer {
            let found = swarm.expert(name).ok_or_else(|| Error::SwarmFile {
                origin: SETTINGS_FILE.into(),
                problem: format!("key `synthesis.reducer`: there is no expert `{name}`"),
            })?;
            synthesizer.summarize.reducer = Some(found.config.id);
        }
        synthesizer.debate = self.debate_rounds.map(|rounds| DebateConfig { rounds, ..DebateConfig::default() });
        Ok(synthesizer)
    }

    /// Reads a text; `origin` is what errors call it.
    ///
    /// # Errors
    /// With line and key: what is no TOML, keys that there are not, values that a key cannot have.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let bad = |problem: String| Error::SwarmFile { origin: origin.to_owned(), problem };
        let text: SettingsText = toml::from_str(text).map_err(|error| bad(toml_text::problem(&error, text)))?;
        Self::from_text(text).map_err(bad)
    }

    fn from_text(text: SettingsText) -> std::result::Result<Self, String> {
        let mut settings = Self::default();
        let SettingsText { builtin, routing, synthesis, mixture, memory } = text;
        settings.builtin = builtin.unwrap_or(true);
        if let Some(strategy) = routing.strategy {
            settings.routing = parse_routing(&strategy).map_err(|why| format!("key `routing.strategy`: {why}"))?;
        }
        settings.stages = routing.stages;
        settings.embedding_model = routing.embedding_model;
        if let Some(strategy) = synthesis.strategy {
            settings.synthesis =
                parse_synthesis(&strategy).map_err(|why| format!("key `synthesis.strategy`: {why}"))?;
        }
        settings.reducer = synthesis.reducer;
        settings.allow_weaker_reducer = synthesis.allow_weaker_reducer;
        settings.debate_rounds = synthesis.debate_rounds;
        if let Some(rounds) = settings.debate_rounds.filter(|rounds| !(1..=DEBATE_ROUNDS_MAX).contains(rounds)) {
            return Err(format!("key `synthesis.debate_rounds`: {rounds} is out of range: 1 to {DEBATE_ROUNDS_MAX}"));
        }
        let m = &mut settings.mixture;
        m.tau = mixture.tau.unwrap_or(m.tau);
        m.decay = mixture.decay.unwrap_or(m.decay);
        m.active_max = mixture.active_max.unwrap_or(m.active_max);
        m.probe_every = mixture.probe_every.unwrap_or(m.probe_every);
        m.keep_share_min = mixture.keep_share_min.unwrap_or(m.keep_share_min);
        // What a mixture of one member refuses, every mixture does.
        hublabio_moe::Mixture::new(*m, &[1.0]).map_err(|error| format!("table `mixture`: {error}"))?;
        if let Some(max) = memory.max {
            settings.bytes_max = parse_bytes(&max).map_err(|why| format!("key `memory.max`: {why}"))?;
        }
        settings.wait_ms_max = memory.wait_ms_max.unwrap_or(settings.wait_ms_max);
        settings.queue_max = memory.queue_max.unwrap_or(settings.queue_max);
        if settings.queue_max == 0 {
            return Err("key `memory.queue_max`: 0 questions may wait: give at least 1".into());
        }
        Ok(settings)
    }
}

/// `single`, `all`, `top:3` or `threshold:0.5`.
///
/// # Errors
/// When it is none of these, in words that say what is possible.
pub fn parse_routing(text: &str) -> std::result::Result<RoutingStrategy, String> {
    let bad = || {
        format!("`{text}` is no routing strategy: single, all, top:N with N at least 1, threshold:P with P from 0 to 1")
    };
    Ok(match text.split_once(':') {
        None if text == "single" => RoutingStrategy::Single,
        None if text == "all" => RoutingStrategy::All,
        Some(("top", n)) => RoutingStrategy::TopK(n.parse().ok().filter(|&n| n > 0).ok_or_else(bad)?),
        Some(("threshold", p)) => {
            RoutingStrategy::Threshold(p.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(bad)?)
        }
        _ => return Err(bad()),
    })
}

/// The names of [`SynthesisStrategy`].
const SYNTHESES: [(&str, SynthesisStrategy); 5] = [
    ("best", SynthesisStrategy::Best),
    ("mixture", SynthesisStrategy::WeightedAverage),
    ("voting", SynthesisStrategy::Voting),
    ("concatenate", SynthesisStrategy::Concatenate),
    ("summarize", SynthesisStrategy::Summarize),
];

/// `best`, `mixture` (also `weighted_average`), `voting`, `concatenate` or `summarize`.
///
/// # Errors
/// When it is none of these, in words that say what is possible.
pub fn parse_synthesis(text: &str) -> std::result::Result<SynthesisStrategy, String> {
    let text = text.to_ascii_lowercase().replace('-', "_");
    if text == "weighted_average" {
        return Ok(SynthesisStrategy::WeightedAverage);
    }
    let found = SYNTHESES.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, strategy)| *strategy)
        .ok_or_else(|| format!("`{text}` is no synthesis: best, mixture, voting, concatenate, summarize"))
}

/// A strategy's name, as [`parse_synthesis`] reads it.
#[must_use]
pub fn synthesis_name(strategy: SynthesisStrategy) -> &'static str {
    SYNTHESES.iter().find(|(_, known)| *known == strategy).map_or("best", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_read() {
        assert_eq!(parse_routing("single"), Ok(RoutingStrategy::Single));
        assert_eq!(parse_routing("top:3"), Ok(RoutingStrategy::TopK(3)));
        assert_eq!(parse_routing("threshold:0.25"), Ok(RoutingStrategy::Threshold(0.25)));
        for wrong in ["", "top", "top:0", "top:x", "threshold:2", "threshold:NaN", "threshold:-1", "some"] {
            assert!(parse_routing(wrong).unwrap_err().contains("single"), "{wrong}");
        }
        for (name, strategy) in SYNTHESES {
            assert_eq!(parse_synthesis(name), Ok(strategy));
            assert_eq!(synthesis_name(strategy), name);
        }
        assert_eq!(parse_synthesis("Weighted-Average"), Ok(SynthesisStrategy::WeightedAverage));
        assert!(parse_synthesis("mean").unwrap_err().contains("voting"));
    }

    #[test]
    fn settings_have_defaults_and_places_of_errors() {
        assert_eq!(SwarmSettings::parse("", "swarm.toml").unwrap(), SwarmSettings::default());
        let text = "builtin = false\n[routing]\nstrategy = \"top:2\"\n[synthesis]\nstrategy = \"voting\"\n\
                    [memory]\nmax = \"1 MiB\"\n[mixture]\ntau = 2.0\n";
        let settings = SwarmSettings::parse(text, "swarm.toml").unwrap();
        assert!(!settings.builtin && settings.bytes_max == 1 << 20 && settings.mixture.tau == 2.0);
        assert_eq!(settings.routing, RoutingStrategy::TopK(2));
        let check = |text: &str, says: &[&str]| {
            let message = SwarmSettings::parse(text, "my/swarm.toml").unwrap_err().to_string();
            says.iter().for_each(|part| assert!(message.contains(part), "`{message}` does not say `{part}`"));
        };
        check("[routing]\nstrategie = 1", &["my/swarm.toml", "line 2", "strategie", "strategy"]);
        check("\n[memory]\nwait_ms_max = \"long\"", &["line 3", "wait_ms_max"]);
        check("[routing]\nstrategy = \"best\"", &["routing.strategy", "single"]);
        check("[mixture]\ndecay = 1.5", &["mixture", "decay"]);
        check("[memory]\nmax = \"much\"", &["memory.max", "MiB"]);
    }
}
