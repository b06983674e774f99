//! An expert's description in TOML: `docs/SWARM.md` lists the entries. Which files belong to a swarm is `folder.rs`'s
//! business.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hublabio_moe::{ExpertConfig, ExpertDomain, ExpertId, ExpertProfile};
use serde::Deserialize;

use crate::ai::{AdapterConfig, GenerationConfig, SamplingConfig};
use crate::error::{Error, Result};
use crate::toml_text;
pub(super) use crate::toml_text::read_bounded;

/// A description is a few pages.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Lists of examples and terms beside it may be longer.
const LIST_BYTES_MAX: u64 = 16 << 20;
/// Lines in such a list.
const LIST_LINES_MAX: usize = 200_000;
/// Keywords, examples and terms of one expert are at most so many bytes each.
const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// How long an expert may take for an answer where nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest timeout: a day.
const TIMEOUT_S_MAX: f64 = 86_400.0;
/// An expert's probability must reach this where nothing is said.
const DEFAULT_THRESHOLD: f32 = 0.5;
/// Positions of an expert's context where nothing is said; an expert's memory counts with all of them.
pub(super) const DEFAULT_CONTEXT_MAX: usize = 4096;

/// Where an expert's weights are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModelSource {
    /// A GGUF file.
    File(PathBuf),
    /// A model that comes with the binary, by its name.
    Builtin(&'static str),
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Builtin(name) => write!(f, "{BUILTIN_PREFIX}{name}"),
        }
    }
}

/// How a description names a model of the binary.
pub(super) const BUILTIN_PREFIX: &str = "builtin:";

/// An expert as its file describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertSpec {
    /// What the router knows.
    pub config: ExpertConfig,
    /// What it knows besides.
    pub profile: ExpertProfile,
    /// Its weights, or those of the base that its adapter is for.
    pub source: ModelSource,
    /// Its LoRA adapter.
    pub adapter: Option<AdapterConfig>,
    /// The first message of its conversations.
    pub system_prompt: Option<String>,
    /// How it chooses tokens, and how many at most.
    pub generation: GenerationConfig,
    /// Positions of its context; by default what the model was trained for, at most 4,096.
    pub context: Option<usize>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether it stays in memory.
    pub pinned: bool,
    /// The name of the expert that answers where this one cannot.
    pub fallback: Option<String>,
    /// Where it is described; `None` for those of the binary.
    pub file: Option<PathBuf>,
}

impl ExpertSpec {
    /// Whether it is one of the binary's.
    #[must_use]
    pub fn is_builtin(&self) -> bool {
        self.file.is_none()
    }

    /// Reads a description whose files lie in `folder`; `None` for one that is switched off. `origin` is what errors call it.
    ///
    /// # Errors
    /// With line and key: what is no TOML, keys that there are not, values that a key cannot have, lists that cannot be read.
    pub fn parse(text: &str, origin: &str, folder: &Path) -> Result<Option<Self>> {
        Ok(match parse_expert(text, origin, &Beside(folder))? {
            Described::Expert(spec) => Some(*spec),
            Described::Disabled(_) => None,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpertText {
    id: Option<u32>,
    name: String,
    #[serde(default)]
    description: String,
    domain: DomainText,
    model: Option<String>,
    base: Option<String>,
    adapter: Option<String>,
    adapter_scale: Option<f32>,
    system_prompt: Option<String>,
    #[serde(default)]
    sampling: SamplingText,
    max_tokens: Option<usize>,
    context: Option<usize>,
    timeout_s: Option<f64>,
    #[serde(default)]
    pinned: bool,
    node: Option<u32>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    generalist: bool,
    fallback: Option<String>,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainText {
    name: String,
    #[serde(default)]
    keywords: Vec<String>,
    keywords_file: Option<String>,
    #[serde(default)]
    examples: Vec<String>,
    examples_file: Option<String>,
    #[serde(default)]
    terms: Vec<String>,
    terms_file: Option<String>,
    threshold: Option<f32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SamplingText {
    preset: Option<String>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u64>,
}

/// Reads files that a description names: from a folder, or from the binary.
pub(super) trait Neighbours {
    /// The text of a list beside the description.
    fn list(&self, name: &str) -> std::result::Result<String, String>;
    /// What `model = "…"` means.
    fn model(&self, name: &str) -> std::result::Result<ModelSource, String>;
    /// What `adapter = "…"` means.
    fn adapter(&self, name: &str) -> std::result::Result<PathBuf, String>;
}

/// Files beside a description in a folder.
pub(super) struct Beside<'a>(pub &'a Path);

impl Neighbours for Beside<'_> {
    fn list(&self, name: &str) -> std::result::Result<String, String> {
        read_bounded(&self.0.join(name), LIST_BYTES_MAX)
    }

    fn model(&self, name: &str) -> std::result::Result<ModelSource, String> {
        let Some(builtin) = name.strip_prefix(BUILTIN_PREFIX) else {
            return Ok(ModelSource::File(self.0.join(name)));
        };
        super::builtin::model_name(builtin).map(ModelSource::Builtin).ok_or_else(|| {
            format!("there is no built-in model `{builtin}`: {} are there", super::builtin::MODEL_NAMES.join(", "))
        })
    }

    fn adapter(&self, name: &str) -> std::result::Result<PathBuf, String> {
        Ok(self.0.join(name))
    }
}

/// Reads a description from a file; `None` for one that is switched off (`enabled = false`), with its name.
pub(super) fn read_expert(path: &Path) -> Result<Described> {
    let origin = path.display().to_string();
    let text =
        read_bounded(path, FILE_BYTES_MAX).map_err(|problem| Error::SwarmFile { origin: origin.clone(), problem })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut described = parse_expert(&text, &origin, &Beside(folder))?;
    if let Described::Expert(spec) = &mut described {
        spec.file = Some(path.to_owned());
    }
    Ok(described)
}

/// What a file says.
pub(super) enum Described {
    /// There is this expert.
    Expert(Box<ExpertSpec>),
    /// There is no expert of this name.
    Disabled(String),
}

/// Reads a description. `origin` is what errors call it.
pub(super) fn parse_expert(text: &str, origin: &str, beside: &dyn Neighbours) -> Result<Described> {
    let bad = |problem: String| Error::SwarmFile { origin: origin.to_owned(), problem };
    let text: ExpertText = toml::from_str(text).map_err(|error| bad(toml_text::problem(&error, text)))?;
    check_name(&text.name).map_err(bad)?;
    if !text.enabled {
        return Ok(Described::Disabled(text.name));
    }
    let spec = spec_of(text, beside).map_err(bad)?;
    Ok(Described::Expert(Box::new(spec)))
}

/// Names stand in file names, command lines and model names.
pub(super) fn check_name(name: &str) -> std::result::Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) || name.starts_with(['.', '-']) {
        return Err(format!(
            "key `name`: `{}` is no name: 1 to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit",
            name.escape_debug()
        ));
    }
    Ok(())
}

fn spec_of(text: ExpertText, beside: &dyn Neighbours) -> std::result::Result<ExpertSpec, String> {
    let (source, adapter) = weights(&text, beside)?;
    let model_path = match &adapter {
        Some(AdapterConfig { path, .. }) => path.display().to_string(),
        None => source.to_string(),
    };
    let threshold = text.domain.threshold.unwrap_or(DEFAULT_THRESHOLD);
    if !(0.0..=1.0).contains(&threshold) {
        return Err(format!("key `domain.threshold`: {threshold} is no probability: give 0 to 1"));
    }
    let timeout = match text.timeout_s {
        None => DEFAULT_TIMEOUT,
        Some(seconds) if seconds > 0.0 && seconds <= TIMEOUT_S_MAX => Duration::from_secs_f64(seconds),
        Some(seconds) => return Err(format!("key `timeout_s`: {seconds} is out of range: above 0, at most 86400")),
    };
    if text.max_tokens == Some(0) {
        return Err("key `max_tokens`: 0 tokens are no answer: give at least 1".into());
    }
    let examples = entries("domain.examples", text.domain.examples, text.domain.examples_file.as_deref(), beside)?;
    let corpus = entries("domain.terms", text.domain.terms, text.domain.terms_file.as_deref(), beside)?;
    let keywords = entries("domain.keywords", text.domain.keywords, text.domain.keywords_file.as_deref(), beside)?;
    Ok(ExpertSpec {
        config: ExpertConfig {
            id: ExpertId(text.id.unwrap_or_else(|| id_of(&text.name))),
            name: text.name,
            description: text.description,
            domain: ExpertDomain { name: text.domain.name, keywords, threshold },
            model_path,
            node_id: text.node,
            priority: text.priority,
        },
        profile: ExpertProfile { generalist: text.generalist, examples, corpus, ..ExpertProfile::default() },
        source,
        adapter,
        system_prompt: text.system_prompt,
        generation: GenerationConfig {
            sampling: text.sampling.config()?,
            max_tokens: text.max_tokens,
            ..GenerationConfig::default()
        },
        context: text.context,
        timeout,
        pinned: text.pinned,
        fallback: text.fallback,
        file: None,
    })
}

/// The number of an expert that gives none: FNV-1a of its name, so that it is the same on every machine.
pub(super) fn id_of(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn weights(
    text: &ExpertText,
    beside: &dyn Neighbours,
) -> std::result::Result<(ModelSource, Option<AdapterConfig>), String> {
    match (&text.model, &text.base, &text.adapter) {
        (Some(model), None, None) => {
            if text.adapter_scale.is_some() {
                return Err("key `adapter_scale`: there is no `adapter` that it could scale".into());
            }
            Ok((beside.model(model).map_err(|problem| format!("key `model`: {problem}"))?, None))
        }
        (None, Some(base), Some(adapter)) => {
            let scale = text.adapter_scale.unwrap_or(1.0);
            if !scale.is_finite() {
                return Err(format!("key `adapter_scale`: {scale} is no number"));
            }
            let source = beside.model(base).map_err(|problem| format!("key `base`: {problem}"))?;
            let path = beside.adapter(adapter).map_err(|problem| format!("key `adapter`: {problem}"))?;
            Ok((source, Some(AdapterConfig { path, scale })))
        }
        _ => Err("give either `model`, or `base` and `adapter`".into()),
    }
}

/// The entries of a list, and of the file that adds one a line; empty lines and lines that begin with `#` and a space are left out.
fn entries(
    key: &str,
    mut given: Vec<String>,
    file: Option<&str>,
    beside: &dyn Neighbours,
) -> std::result::Result<Vec<String>, String> {
    if let Some(name) = file {
        let text = beside.list(name).map_err(|problem| format!("key `{key}_file`: {problem}"))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("# "));
        given.extend(lines.map(str::to_owned));
    }
    if given.len() > LIST_LINES_MAX {
        return Err(format!("key `{key}`: {} entries, at most {LIST_LINES_MAX} are possible", given.len()));
    }
    if let Some(long) = given.iter().find(|entry| entry.len() > ENTRY_BYTES_MAX) {
        return Err(format!("key `{key}`: an entry has {} bytes, at most {ENTRY_BYTES_MAX} are possible", long.len()));
    }
    Ok(given)
}

impl SamplingText {
    fn config(&self) -> std::result::Result<SamplingConfig, String> {
        let mut config = match self.preset.as_deref() {
            None | Some("default") => SamplingConfig::default(),
            Some("greedy") => SamplingConfig::greedy(),
            Some("precise") => SamplingConfig::precise(),
            Some("creative") => SamplingConfig::creative(),
            Some(other) => {
                return Err(format!(
                    "key `sampling.preset`: there is no preset `{other}`: greedy, precise, default, creative"
                ));
            }
        };
        config.temperature = self.temperature.unwrap_or(config.temperature);
        config.top_k = self.top_k.unwrap_or(config.top_k);
        config.top_p = self.top_p.unwrap_or(config.top_p);
        config.min_p = self.min_p.unwrap_or(config.min_p);
        config.repetition_penalty = self.repetition_penalty.unwrap_or(config.repetition_penalty);
        config.seed = self.seed;
        config.validate().map_err(|error| format!("table `sampling`: {error}"))?;
        Ok(config)
    }
}
