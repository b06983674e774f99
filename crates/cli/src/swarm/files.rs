//! `hublab swarm add` and `hublab swarm rm`: the files that describe experts.
//!
//! A change stays only if the swarm can be read with it: otherwise what was there is put back, and the error says what
//! is wrong. Files appear whole: they are written beside their place and renamed.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use hublabio_runtime::moe::{ExpertBackend as _, ModelSource, SwarmEngine, SwarmSpec};

use super::{check_file_name, make};
use crate::args::{SwarmAddArgs, SwarmRmArgs};
use crate::model::ModelName;
use crate::output;

/// How models of the binary are named, in place of a file.
const BUILTIN_PREFIX: &str = "builtin:";

pub fn add(args: &SwarmAddArgs) -> Result<ExitCode> {
    check_file_name(&args.name)?;
    let folder = args.folder.to_write()?;
    let text = description(args)?;
    make(&folder)?;
    let spec = SwarmSpec::read(&folder);
    let known = spec.as_ref().ok().and_then(|spec| spec.expert(&args.name));
    let own = folder.join(format!("{}.toml", args.name));
    // An expert may be described anywhere below the folder.
    let path = known.and_then(|expert| expert.file.clone()).unwrap_or_else(|| own.clone());
    if !args.force {
        if let Some(expert) = known {
            let place = expert.file.as_ref().map_or("built in".into(), |path| format!("in {}", path.display()));
            bail!("there is an expert `{}` already ({place}): give another name, or --force to replace it", args.name);
        }
        // A file that no expert comes from is one that is switched off, unless another one is described in it.
        if path.exists()
            && spec.as_ref().map_or(true, |spec| spec.experts.iter().any(|e| e.file.as_ref() == Some(&own)))
        {
            bail!("{} exists: give another name, or --force to replace it", path.display());
        }
    }
    change(&folder, &path, Some(text.as_bytes()), |swarm| {
        let id = swarm.expert_id(&args.name)?;
        let looked_at = swarm.fleet().backend(Vec::new(), None).tokenizer_hash(id);
        looked_at.map(drop).map_err(|failure| anyhow!("its model cannot be used: {failure}"))
    })
    .with_context(|| format!("`{}` was not added", args.name))?;
    output::message(&format!("`{}` is in {}.", args.name, path.display()));
    Ok(ExitCode::SUCCESS)
}

pub fn remove(args: &SwarmRmArgs) -> Result<ExitCode> {
    let name = &args.name;
    let folder = args.folder.to_write()?;
    let spec = if folder.is_dir() { SwarmSpec::read(&folder)? } else { SwarmSpec::builtin()? };
    let builtin = SwarmSpec::builtin()?;
    let Some(expert) = spec.expert(name) else {
        if builtin.expert(name).is_some() {
            bail!("the built-in expert `{name}` is switched off already");
        }
        let names: Vec<&str> = spec.experts.iter().map(|expert| expert.config.name.as_str()).collect();
        bail!("there is no expert `{name}`: {}", names.join(", "));
    };
    let failed = || format!("`{name}` was not removed");
    if let Some(path) = &expert.file {
        change(&folder, path, None, |_| Ok(())).with_context(failed)?;
        output::message(&format!("{} is removed.", path.display()));
        if spec.settings.builtin && builtin.expert(name).is_some() {
            output::note(&format!(
                "the built-in expert `{name}` is back in its place: `hublab swarm rm {name}` switches it off"
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = folder.join(format!("{name}.toml"));
    if path.exists() {
        bail!("{} describes another expert: move it, so that a file there can switch `{name}` off", path.display());
    }
    let mut text = String::from("# The built-in expert of this name is switched off.\n");
    let _ = writeln!(text, "name = {}\nenabled = false\n\n[domain]\nname = {}", quoted(name), quoted(name));
    make(&folder)?;
    change(&folder, &path, Some(text.as_bytes()), |_| Ok(())).with_context(failed)?;
    output::message(&format!("The built-in expert `{name}` is switched off by {}.", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Replaces (or, for `None`, removes) a file of the folder, if the swarm can be read after that and `check` likes it.
fn change(
    folder: &Path,
    path: &Path,
    bytes: Option<&[u8]>,
    check: impl FnOnce(&SwarmEngine) -> Result<()>,
) -> Result<()> {
    let before = match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    put(path, bytes)?;
    let opened = SwarmEngine::open(Some(folder), &hublabio_runtime::moe::FleetConfig::default());
    let checked = opened.map_err(anyhow::Error::from).and_then(|swarm| check(&swarm));
    if checked.is_err() {
        put(path, before.as_deref()).context("and what was there before could not be put back")?;
    }
    checked
}

/// Makes a file be these bytes, or not be.
fn put(path: &Path, bytes: Option<&[u8]>) -> Result<()> {
    let Some(bytes) = bytes else {
        return fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Files that begin with a dot are no experts.
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fs::File::create_new(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The file of a new expert.
fn description(args: &SwarmAddArgs) -> Result<String> {
    let mut text = String::from("# Written by `hublab swarm add`. docs/SWARM.md lists every key.\n");
    let mut entry = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}");
    };
    entry("name", quoted(&args.name));
    let texts =
        [("description", &args.description), ("system_prompt", &args.system_prompt), ("fallback", &args.fallback)];
    for (key, value) in texts {
        if let Some(value) = value {
            entry(key, quoted(value));
        }
    }
    for (key, value) in [("model", &args.model), ("base", &args.base)] {
        if let Some(value) = value {
            entry(key, quoted(&weights(value)?));
        }
    }
    if let Some(path) = &args.adapter {
        entry("adapter", quoted(&existing(Path::new(path))?));
    }
    if let Some(priority) = args.priority {
        entry("priority", priority.to_string());
    }
    if let Some(node) = args.node {
        entry("node", node.to_string());
    }
    if args.generalist {
        entry("generalist", "true".into());
    }
    text.push_str("\n[domain]\n");
    let mut entry = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}");
    };
    entry("name", quoted(args.domain.as_ref().unwrap_or(&args.name)));
    let keywords: Vec<String> =
        args.keywords.iter().map(|word| word.trim()).filter(|word| !word.is_empty()).map(quoted).collect();
    if !keywords.is_empty() {
        entry("keywords", format!("[{}]", keywords.join(", ")));
    }
    if let Some(path) = &args.examples {
        entry("examples_file", quoted(&existing(path)?));
    }
    if let Some(threshold) = args.threshold {
        entry("threshold", format!("{threshold:?}"));
    }
    Ok(text)
}

/// A model as its description names it: from wherever the folder is, the same file.
fn weights(given: &str) -> Result<String> {
    if given.starts_with(BUILTIN_PREFIX) {
        return Ok(given.to_owned());
    }
    match ModelName::from(OsStr::new(given)).source()? {
        ModelSource::File(path) => existing(&path),
        ModelSource::Builtin(name) => Ok(format!("{BUILTIN_PREFIX}{name}")),
    }
}

/// The whole path of a file that must be there.
fn existing(path: &Path) -> Result<String> {
    if !path.is_file() {
        bail!("there is no file {}", path.display());
    }
    let whole: PathBuf = std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    whole.into_os_string().into_string().map_err(|path| {
        anyhow!("{} cannot stand in a TOML file, as it is not UTF-8: rename it", Path::new(&path).display())
    })
}

/// A text as TOML's basic string: JSON's form, which leaves one character bare that TOML does not.
fn quoted(text: &(impl AsRef<str> + ?Sized)) -> String {
    serde_json::to_string(text.as_ref()).expect("a text is JSON").replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_toml_reads_them() {
        assert_eq!(quoted("a \"b\"\\\n\t\u{1}\u{7f}é"), "\"a \\\"b\\\"\\\\\\n\\t\\u0001\\u007fé\"");
    }
}
