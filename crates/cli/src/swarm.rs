//! `hublab swarm`: several expert models behind one router.
//!
//! Which folder the experts are in is decided here; each verb has a file under `swarm/`. What a swarm is made of and how
//! it decides is the runtime's business.

mod answer;
mod chat;
mod eval;
mod files;
mod learn;
mod list;
mod query;
mod report;
mod route;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use hublabio_runtime::moe::{FleetConfig, SwarmEngine};

use crate::args::{FleetArgs, FolderArgs, SwarmArgs, SwarmVerb};
use crate::{Usage, input, output, run};

/// Names the experts folder where no flag does.
const FOLDER_VARIABLE: &str = "HUBLAB_EXPERTS";

pub fn swarm(args: &SwarmArgs) -> Result<ExitCode> {
    match &args.verb {
        SwarmVerb::Ls(args) => list::list(args),
        SwarmVerb::Route(args) => route::route(args),
        SwarmVerb::Query(args) => query::query(args),
        SwarmVerb::Chat(args) => chat::chat(args),
        SwarmVerb::Add(args) => files::add(args),
        SwarmVerb::Rm(args) => files::remove(args),
        SwarmVerb::Feedback(args) => learn::feedback(args),
        SwarmVerb::Calibrate(args) => learn::calibrate(args),
        SwarmVerb::Eval(args) => eval::eval(args),
    }
}

impl FolderArgs {
    /// The folder to read; `None` for the swarm that is built in.
    ///
    /// # Errors
    /// When one is asked for that is not there.
    fn to_read(&self) -> Result<Option<PathBuf>> {
        match self.asked_for() {
            Some(folder) if folder.is_dir() => Ok(Some(folder)),
            Some(folder) => bail!(
                "there is no folder {}: `hublab swarm add` makes it; without --experts and {FOLDER_VARIABLE} \
                 the built-in experts answer",
                folder.display()
            ),
            None => Ok(default_folder().filter(|folder| folder.is_dir())),
        }
    }

    /// The folder to write to, which need not be there yet.
    ///
    /// # Errors
    /// When none is asked for and there is no home.
    fn to_write(&self) -> Result<PathBuf> {
        match self.asked_for().or_else(default_folder) {
            Some(folder) => Ok(folder),
            None => bail!("there is no home folder to keep experts in: give a folder with --experts"),
        }
    }

    fn asked_for(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.experts.clone().or_else(variable)
    }
}

/// Configuration goes where the XDG base directory specification wants it.
fn default_folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(base.join("hublab/experts"))
}

/// Makes the folder if it is not there.
fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|cause| anyhow::anyhow!("cannot make {}: {cause}", folder.display()))
}

/// Opens a swarm, and says what there is to be said about it.
fn open(folder: Option<&Path>, machine: &FleetArgs) -> Result<SwarmEngine> {
    let config = FleetConfig { threads: machine.threads, bytes_max: machine.max_memory, ..FleetConfig::default() };
    let swarm = SwarmEngine::open(folder, &config)?;
    for notice in swarm.notices() {
        output::note(&notice);
    }
    Ok(swarm)
}

/// A question as given, if it is.
///
/// # Errors
/// When it is empty.
fn given(query: Option<&str>) -> Result<Option<String>> {
    query.map(|text| run::check_prompt(text, false)).transpose()
}

/// The question of standard input, for `hublab swarm <verb>`, if none is given. Read after all else is known to be
/// right.
fn question(given: Option<String>, verb: &str) -> Result<String> {
    match given {
        Some(question) => Ok(question),
        None => run::check_prompt(&input::prompt(&format!("hublab swarm {verb}"), "hublab swarm chat")?, false),
    }
}

/// A table's cell, or a word of a line, that comes from a file.
fn cell(text: &str) -> String {
    output::one_line(text, 60)
}

/// Refuses what a file of experts cannot be called.
fn check_file_name(name: &str) -> Result<(), Usage> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) || name.starts_with(['.', '-']) {
        return Err(Usage(format!(
            "{name:?} is no name for an expert: give 1 to 64 letters, digits, `-`, `_` and `.`, beginning with \
             a letter or digit"
        )));
    }
    if matches!(name, "swarm" | "calibration") {
        return Err(Usage(format!("an expert cannot be called `{name}`: {name}.toml is the swarm's own file")));
    }
    Ok(())
}
