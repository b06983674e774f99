//! The swarm that comes with the binary: the folder `experts/` of the repository, and its models.

use super::expert_file::{Described, ModelSource, Neighbours, parse_expert};
use super::folder::SwarmSpec;
use super::settings::SwarmSettings;
use crate::ai::{DEFAULT_MODEL, DEFAULT_MODEL_NAME};
use crate::error::Result;

macro_rules! root {
    ($path:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../", $path)
    };
}

/// Names of the models in the binary.
pub(super) const MODEL_NAMES: [&str; 4] = [DEFAULT_MODEL_NAME, "linux", "python", "rust"];

/// The descriptions, with their paths in the repository.
const EXPERTS: [(&str, &str); 4] = [
    ("experts/general.toml", include_str!(root!("experts/general.toml"))),
    ("experts/linux.toml", include_str!(root!("experts/linux.toml"))),
    ("experts/python.toml", include_str!(root!("experts/python.toml"))),
    ("experts/rust.toml", include_str!(root!("experts/rust.toml"))),
];

/// Lists that they name.
const LISTS: [(&str, &str); 11] = [
    ("routing/keywords_general.txt", include_str!(root!("experts/routing/keywords_general.txt"))),
    ("routing/keywords_linux.txt", include_str!(root!("experts/routing/keywords_linux.txt"))),
    ("routing/keywords_python.txt", include_str!(root!("experts/routing/keywords_python.txt"))),
    ("routing/keywords_rust.txt", include_str!(root!("experts/routing/keywords_rust.txt"))),
    ("routing/questions_general.txt", include_str!(root!("experts/routing/questions_general.txt"))),
    ("routing/questions_linux.txt", include_str!(root!("experts/routing/questions_linux.txt"))),
    ("routing/questions_python.txt", include_str!(root!("experts/routing/questions_python.txt"))),
    ("routing/questions_rust.txt", include_str!(root!("experts/routing/questions_rust.txt"))),
    ("terms/linux.txt", include_str!(root!("experts/terms/linux.txt"))),
    ("terms/python.txt", include_str!(root!("experts/terms/python.txt"))),
    ("terms/rust.txt", include_str!(root!("experts/terms/rust.txt"))),
];

/// What the probabilities of its router were calibrated to.
pub(super) const CALIBRATION: &str = include_str!(root!("experts/calibration.toml"));

const SETTINGS: &str = include_str!(root!("experts/swarm.toml"));

// Each has one place: of a constant, every part of the program that names it would carry a copy.
static LINUX: &[u8] = include_bytes!(root!("models/experts/linux.gguf"));
static PYTHON: &[u8] = include_bytes!(root!("models/experts/python.gguf"));
static RUST: &[u8] = include_bytes!(root!("models/experts/rust.gguf"));

/// The model of this name.
pub(super) fn model_name(name: &str) -> Option<&'static str> {
    MODEL_NAMES.into_iter().find(|known| *known == name)
}

/// A model's GGUF file.
pub(super) fn model_bytes(name: &str) -> Option<&'static [u8]> {
    Some(match name {
        DEFAULT_MODEL_NAME => DEFAULT_MODEL,
        "linux" => LINUX,
        "python" => PYTHON,
        "rust" => RUST,
        _ => return None,
    })
}

struct InBinary;

impl Neighbours for InBinary {
    fn list(&self, name: &str) -> std::result::Result<String, String> {
        let found = LISTS.iter().find(|(path, _)| *path == name);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| format!("there is no list `{name}` in the binary"))
    }

    fn model(&self, name: &str) -> std::result::Result<ModelSource, String> {
        let stem = name.rsplit('/').next().and_then(|file| file.strip_suffix(".gguf")).unwrap_or(name);
        model_name(stem).map(ModelSource::Builtin).ok_or_else(|| format!("there is no model `{name}` in the binary"))
    }

    fn adapter(&self, name: &str) -> std::result::Result<std::path::PathBuf, String> {
        Err(format!("there is no adapter `{name}` in the binary"))
    }
}

/// The swarm of the binary.
pub(super) fn swarm() -> Result<SwarmSpec> {
    let settings = SwarmSettings::parse(SETTINGS, "experts/swarm.toml")?;
    let mut experts = Vec::with_capacity(EXPERTS.len());
    for (path, text) in EXPERTS {
        if let Described::Expert(spec) = parse_expert(text, path, &InBinary)? {
            experts.push(*spec);
        }
    }
    Ok(SwarmSpec { experts, settings, files: Vec::new() })
}
