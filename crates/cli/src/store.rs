//! `hublab ls`, `cp` and `rm`: the models of this machine.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use hublabio_runtime::config::EffectiveConfig;
use hublabio_runtime::store::{ModelKind, ModelStore, StoreConfig, StoredModel};
use serde::Serialize;

use crate::args::{CpArgs, LsArgs, RmArgs};
use crate::output;

/// Longest name and longest reason that the table shows.
const NAME_CHARS_MAX: usize = 80;
const PROBLEM_CHARS_MAX: usize = 300;

/// What was configured when the program started.
static CONFIG: OnceLock<StoreConfig> = OnceLock::new();

/// Opens stores with this configuration from now on.
pub fn configure(effective: &EffectiveConfig) {
    // It is set once: the program is configured once.
    let _ = CONFIG.set(config(effective));
}

/// The store of the configuration.
pub fn open() -> ModelStore {
    ModelStore::open(CONFIG.get().cloned().unwrap_or_else(of_environment))
}

/// The folders with models: those of the configuration, else those that the environment names.
pub fn config(effective: &EffectiveConfig) -> StoreConfig {
    let found = of_environment();
    if effective.config.store.folders.is_empty() && std::env::var_os("HUBLAB_MODELS").is_some() {
        return found;
    }
    let mut folders = effective.model_folders().into_iter();
    StoreConfig { folder: folders.next(), more_folders: folders.collect(), ..found }
}

fn of_environment() -> StoreConfig {
    StoreConfig::from_environment(|name| std::env::var_os(name))
}

/// One model of `--json`.
#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    kind: &'static str,
    alias_of: Option<&'a str>,
    path: Option<String>,
    bytes: u64,
    modified: Option<u64>,
    architecture: Option<&'a str>,
    quantization: Option<&'a str>,
    parameters: Option<u64>,
    sha256: Option<&'a str>,
    problem: Option<&'a str>,
}

impl<'a> From<&'a StoredModel> for Model<'a> {
    fn from(model: &'a StoredModel) -> Self {
        Self {
            name: &model.name,
            kind: model.kind.word(),
            alias_of: match &model.kind {
                ModelKind::Alias { of } => Some(of),
                _ => None,
            },
            path: model.path.as_ref().map(|path| path.display().to_string()),
            bytes: model.bytes,
            modified: model.modified.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())),
            architecture: model.architecture.as_deref(),
            quantization: model.quantization.as_deref(),
            parameters: model.parameters,
            sha256: model.sha256.as_deref(),
            problem: model.problem.as_deref(),
        }
    }
}

pub fn list(args: &LsArgs) -> Result<ExitCode> {
    let listing = open().list();
    for notice in &listing.notices {
        output::note(notice);
    }
    if args.json {
        output::json(&listing.models.iter().map(Model::from).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemTime::now();
    let rows = listing.models.iter().map(|model| {
        let content = match (&model.architecture, &model.quantization) {
            (Some(architecture), Some(quantization)) => format!("{architecture} {quantization}"),
            (architecture, quantization) => architecture.clone().or(quantization.clone()).unwrap_or_default(),
        };
        let origin = match &model.kind {
            ModelKind::Alias { of } => format!("alias of {of}"),
            kind => kind.word().to_owned(),
        };
        [
            output::one_line(&model.name, NAME_CHARS_MAX),
            output::byte_size(model.bytes),
            output::one_line(&content, NAME_CHARS_MAX),
            model.parameters.map(output::count).unwrap_or_default(),
            model.modified.map(|time| age(now, time)).unwrap_or_default(),
            output::one_line(&origin, NAME_CHARS_MAX),
            model.problem.as_deref().map(|problem| output::one_line(problem, PROBLEM_CHARS_MAX)).unwrap_or_default(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let problem = if rows.iter().any(|row| !row[6].is_empty()) { "PROBLEM" } else { "" };
    let mut text = String::new();
    output::table(&mut text, ["NAME", "SIZE", "TYPE", "PARAMETERS", "CHANGED", "KIND", problem], rows);
    output::bytes(text.trim_start().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// How long ago something was, roughly.
fn age(now: SystemTime, then: SystemTime) -> String {
    let Ok(ago) = now.duration_since(then) else { return "in the future".to_owned() };
    let seconds = ago.as_secs();
    let (n, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..5_184_000 => (seconds / 86_400, "day"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

pub fn copy(args: &CpArgs) -> Result<ExitCode> {
    open().add_alias(&args.from, &args.to)?;
    output::message(&format!("`{}` is another name for `{}`.", args.to, args.from));
    Ok(ExitCode::SUCCESS)
}

pub fn remove(args: &RmArgs) -> Result<ExitCode> {
    let store = open();
    for name in &args.names {
        let removed = store.remove(name)?;
        for file in &removed.files {
            output::message(&format!("{} is removed.", file.display()));
        }
        if removed.files.is_empty() {
            output::message(&format!("The alias `{name}` is removed; the model stays."));
        } else if !removed.aliases.is_empty() {
            output::note(&format!("its aliases are gone with it: {}", removed.aliases.join(", ")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ages_are_rough() {
        let then = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (seconds, expected) in [
            (59, "just now"),
            (60, "1 minute ago"),
            (7200, "2 hours ago"),
            (86_400, "1 day ago"),
            (5_184_000, "2 months ago"),
            (63_072_000, "2 years ago"),
        ] {
            assert_eq!(age(then + Duration::from_secs(seconds), then), expected);
        }
        assert_eq!(age(then, then + Duration::from_secs(1)), "in the future");
    }
}
