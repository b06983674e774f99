//! Which experts a swarm has: the files of a folder, and those of the binary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hublabio_moe::ExpertId;

use super::builtin;
use super::engine::CALIBRATION_FILE;
use super::expert_file::{Described, ExpertSpec, ModelSource, read_expert};
use super::settings::SwarmSettings;
use crate::error::{Error, Result};

/// The file with the swarm's settings.
pub(super) const SETTINGS_FILE: &str = "swarm.toml";
/// Folders within folders.
const DEPTH_MAX: usize = 8;
/// Files of one swarm.
const FILES_MAX: usize = 4096;

/// A swarm as its files describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct SwarmSpec {
    /// The experts, by their names.
    pub experts: Vec<ExpertSpec>,
    /// The settings.
    pub settings: SwarmSettings,
    /// The files that were read, each with when it was changed last: what tells whether to read again.
    pub(super) files: Vec<Stamp>,
}

/// A file, its length, and when it was changed last.
pub(super) type Stamp = (PathBuf, u64, Option<SystemTime>);

impl SwarmSpec {
    /// The swarm of the binary.
    ///
    /// # Errors
    /// Never, but for a binary with broken descriptions.
    pub fn builtin() -> Result<Self> {
        builtin::swarm()?.checked()
    }

    /// The swarm of a folder: every `*.toml` in it and in folders below is an expert, `swarm.toml` its settings. The
    /// experts of the binary belong to it, too, unless `builtin = false` is set there; an expert of the folder takes the
    /// place of the built-in one of its name, and one with `enabled = false` leaves it out.
    ///
    /// # Errors
    /// When the folder or a file cannot be read, or says what cannot be: with file, line and key.
    pub fn read(folder: &Path) -> Result<Self> {
        let files = stamps(folder)?;
        let settings_path = folder.join(SETTINGS_FILE);
        let builtin = builtin::swarm()?;
        let settings =
            if settings_path.is_file() { SwarmSettings::read(&settings_path)? } else { builtin.settings.clone() };
        let mut experts: BTreeMap<String, ExpertSpec> = BTreeMap::new();
        if settings.builtin {
            experts.extend(builtin.experts.into_iter().map(|spec| (spec.config.name.clone(), spec)));
        }
        let mut own: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (path, ..) in &files {
            let is_other = *path == settings_path || path.file_name().is_some_and(|name| name == CALIBRATION_FILE);
            if is_other || path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let described = read_expert(path)?;
            let name = match &described {
                Described::Expert(spec) => spec.config.name.clone(),
                Described::Disabled(name) => name.clone(),
            };
            if let Some(other) = own.insert(name.clone(), path.clone()) {
                return Err(Error::SwarmFile {
                    origin: path.display().to_string(),
                    problem: format!("key `name`: {} describes an expert `{name}`, too", other.display()),
                });
            }
            match described {
                Described::Expert(spec) => experts.insert(name, *spec),
                Described::Disabled(name) => experts.remove(&name),
            };
        }
        Self { experts: experts.into_values().collect(), settings, files }.checked()
    }

    /// Whether a file of the folder came, went or changed since it was read.
    #[must_use]
    pub fn is_stale(&self, folder: &Path) -> bool {
        stamps(folder).map_or(true, |now| now != self.files)
    }

    /// The expert of this name.
    #[must_use]
    pub fn expert(&self, name: &str) -> Option<&ExpertSpec> {
        self.experts.iter().find(|spec| spec.config.name == name)
    }

    /// What one file cannot see: numbers that meet, two generalists, fallbacks that lead nowhere or in a circle.
    fn checked(mut self) -> Result<Self> {
        let origin = |spec: &ExpertSpec| match &spec.file {
            Some(path) => path.display().to_string(),
            None => format!("built-in expert `{}`", spec.config.name),
        };
        let bad = |spec: &ExpertSpec, problem: String| Error::SwarmFile { origin: origin(spec), problem };
        let mut ids: BTreeMap<ExpertId, &ExpertSpec> = BTreeMap::new();
        let mut generalist: Option<&ExpertSpec> = None;
        // Of two that cannot both be there, the one that can be changed is at fault.
        let at_fault = |a, b| if ExpertSpec::is_builtin(a) { (b, a) } else { (a, b) };
        for spec in &self.experts {
            if let Some(other) = ids.insert(spec.config.id, spec) {
                let (spec, other) = at_fault(spec, other);
                let (id, other) = (spec.config.id, &other.config.name);
                return Err(bad(
                    spec,
                    format!("key `id`: the expert `{other}` has the number {id}, too: give another"),
                ));
            }
            if spec.profile.generalist
                && let Some(other) = generalist.replace(spec)
            {
                let (spec, other) = at_fault(spec, other);
                return Err(bad(spec, format!("key `generalist`: `{}` is the generalist already", other.config.name)));
            }
        }
        let by_name: BTreeMap<String, ExpertId> =
            self.experts.iter().map(|spec| (spec.config.name.clone(), spec.config.id)).collect();
        for spec in &self.experts {
            let mut way = vec![spec.config.name.as_str()];
            let mut at = spec;
            while let Some(next) = &at.fallback {
                let Some(found) = self.expert(next) else {
                    return Err(bad(at, format!("key `fallback`: there is no expert `{next}`")));
                };
                way.push(next);
                if way[..way.len() - 1].contains(&next.as_str()) {
                    return Err(bad(spec, format!("key `fallback`: it leads in a circle: {}", way.join(" → "))));
                }
                at = found;
            }
        }
        for spec in &mut self.experts {
            spec.profile.fallback = spec.fallback.as_ref().map(|name| by_name[name]);
        }
        Ok(self)
    }
}

/// All files of a folder, in order.
fn stamps(folder: &Path) -> Result<Vec<Stamp>> {
    let mut found = Vec::new();
    collect(folder, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<Stamp>) -> Result<()> {
    let bad = |problem: String| Error::SwarmFile { origin: folder.display().to_string(), problem };
    let io = |cause: std::io::Error| bad(format!("cannot be read: {cause}"));
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let Ok(facts) = std::fs::metadata(&path) else { continue };
        if facts.is_dir() {
            if depth + 1 > DEPTH_MAX {
                return Err(bad(format!("has folders more than {DEPTH_MAX} deep")));
            }
            collect(&path, depth + 1, found)?;
        } else if path.extension().is_some_and(|extension| extension == "toml" || extension == "txt") {
            if found.len() >= FILES_MAX {
                return Err(bad(format!("has more than {FILES_MAX} files")));
            }
            found.push((path, facts.len(), facts.modified().ok()));
        }
    }
    Ok(())
}

/// Length and age of the files that an expert's weights are in.
pub(super) fn expert_stamps(spec: &ExpertSpec) -> Vec<Stamp> {
    let stamp = |path: PathBuf| {
        let facts = std::fs::metadata(&path).ok();
        let bytes = facts.as_ref().map_or(0, std::fs::Metadata::len);
        (path, bytes, facts.and_then(|facts| facts.modified().ok()))
    };
    let model = match &spec.source {
        ModelSource::File(path) => stamp(path.clone()),
        ModelSource::Builtin(name) => {
            (name.into(), builtin::model_bytes(name).map_or(0, |file| file.len() as u64), None)
        }
    };
    let adapter = spec.adapter.iter().map(|adapter| stamp(adapter.path.clone()));
    std::iter::once(model).chain(adapter).collect()
}
