//! Puts file, environment and flags together, and remembers where each value came from.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::SystemConfig;
use super::keys::{KEYS, Key};
use super::values::{Given, Place};
use crate::error::{Error, Result};
use crate::machine::Memory;
use crate::toml_text;

/// A page or two.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Names the file where no flag does.
const FILE_VARIABLE: &str = "HUBLAB_CONFIG";
/// Folders with models as in `PATH`: the short way to say `HUBLAB_STORE_FOLDERS`, which wins over it.
const MODELS_VARIABLE: &str = "HUBLAB_MODELS";
/// The machine's own file, where the user has none.
const SYSTEM_FILE: &str = "/etc/hublab/system.toml";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag, by its name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// What a configuration is made from. Nothing else is looked at: not the program's own environment, not the current folder.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    /// The file that is asked for; without one, `HUBLAB_CONFIG`, the user's and the system's file are looked for.
    pub file: Option<PathBuf>,
    /// The system's file; `/etc/hublab/system.toml` but in tests.
    pub system_file: PathBuf,
    /// What the machine has: less than the usual budget makes the default of `runtime.max_memory` less.
    pub memory: Option<Memory>,
    environment: HashMap<OsString, OsString>,
    flags: Vec<Flag>,
}

#[derive(Clone, Debug)]
struct Flag {
    key: &'static str,
    name: String,
    value: String,
}

impl ConfigSource {
    /// With this environment, such as `std::env::vars_os()`.
    pub fn new<N: Into<OsString>, V: Into<OsString>>(environment: impl IntoIterator<Item = (N, V)>) -> Self {
        Self {
            file: None,
            system_file: SYSTEM_FILE.into(),
            memory: None,
            environment: environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            flags: Vec::new(),
        }
    }

    /// With this file, in place of those that would be looked for.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// On a machine with this memory.
    #[must_use]
    pub fn with_memory(self, memory: Option<Memory>) -> Self {
        Self { memory, ..self }
    }

    /// Adds the value that a flag gives to a key. Of several for one key the last counts.
    pub fn flag(&mut self, key: &'static str, flag: &str, value: impl Into<String>) {
        self.flags.push(Flag { key, name: flag.to_owned(), value: value.into() });
    }

    /// A variable's value, unless it is empty.
    fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment.get(&OsString::from(name)).filter(|value| !value.is_empty())
    }

    fn folder(&self, variable: &str) -> Option<PathBuf> {
        self.variable(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// A folder of the XDG base directory specification: `variable`, else `below` the home folder.
    fn base(&self, variable: &str, below: &str) -> Option<PathBuf> {
        self.folder(variable).or_else(|| Some(self.folder("HOME")?.join(below)))
    }

    /// The file to read, if there is one.
    ///
    /// # Errors
    /// When one is asked for that is not there.
    fn find_file(&self) -> Result<Option<PathBuf>> {
        let asked = match (&self.file, self.variable(FILE_VARIABLE)) {
            (Some(path), _) => Some((path.clone(), "--config")),
            (None, Some(path)) => Some((path.into(), FILE_VARIABLE)),
            (None, None) => None,
        };
        if let Some((path, by)) = asked {
            let exists = path.exists();
            let problem = || format!("there is no such file: {by} asks for it");
            return if exists { Ok(Some(path)) } else { Err(error(path.display(), problem())) };
        }
        let own = self.base("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("hublab/system.toml"));
        Ok(own.into_iter().chain([self.system_file.clone()]).find(|path| path.exists()))
    }
}

/// A configuration, with the origin of each of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveConfig {
    /// The values.
    pub config: SystemConfig,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Of each of [`KEYS`].
    origins: Vec<Origin>,
    /// Where a service or a user keeps data.
    data_home: Option<PathBuf>,
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub struct EffectiveValue<'a> {
    /// Its key.
    pub key: &'static Key,
    /// The value, as [`Key::value`] has it.
    pub value: Json,
    /// Where it came from.
    pub origin: &'a Origin,
}

impl EffectiveConfig {
    /// All values, in the order of [`KEYS`].
    pub fn values(&self) -> impl Iterator<Item = EffectiveValue<'_>> {
        let with_origin = KEYS.iter().zip(&self.origins);
        with_origin.map(|(key, origin)| EffectiveValue { key, value: key.value(&self.config), origin })
    }

    /// Where the value of a key such as `server.port` came from.
    ///
    /// # Panics
    /// When there is no such key.
    #[must_use]
    pub fn origin(&self, path: &str) -> &Origin {
        let at = KEYS.iter().position(|key| key.path == path).expect("the key is one of `KEYS`");
        &self.origins[at]
    }

    /// Where conversations, responses and models are kept: `server.data_folder`, else what systemd gives the service
    /// (`STATE_DIRECTORY`), else `hublab` in `XDG_DATA_HOME` (`~/.local/share`). `None` where there is no home.
    #[must_use]
    pub fn data_folder(&self) -> Option<PathBuf> {
        self.config.server.data_folder.clone().or_else(|| self.data_home.clone())
    }

    /// Folders with models: `store.folders`, else `models` in the service's or the user's own data folder. New ones go into the
    /// first.
    #[must_use]
    pub fn model_folders(&self) -> Vec<PathBuf> {
        match self.config.store.folders.as_slice() {
            [] => self.data_home.iter().map(|folder| folder.join("models")).collect(),
            folders => folders.to_vec(),
        }
    }
}

impl SystemConfig {
    /// Reads what there is to read.
    ///
    /// # Errors
    /// When a file that is asked for is not there or cannot be read; with file and line, or with the variable or flag: what is no
    /// TOML, keys that there are not, values that a key cannot have, values that cannot be together.
    pub fn load(source: &ConfigSource) -> Result<EffectiveConfig> {
        let state = source.variable("STATE_DIRECTORY").and_then(|list| std::env::split_paths(list).next());
        let data_home =
            state.or_else(|| source.base("XDG_DATA_HOME", ".local/share").map(|folder| folder.join("hublab")));
        let mut effective = EffectiveConfig::new(source.find_file()?, data_home);
        if let Some(path) = effective.file.clone() {
            let text = toml_text::read_bounded(&path, FILE_BYTES_MAX).map_err(|why| error("configuration", why))?;
            effective.take_file(&path, &text, source)?;
        }
        effective.take_environment(source)?;
        effective.take_flags(source)?;
        if let Some(memory) = source.memory.filter(|_| *effective.origin("runtime.max_memory") == Origin::Default) {
            let budget = &mut effective.config.runtime.max_memory;
            *budget = usize::try_from(memory.budget(*budget as u64)).unwrap_or(*budget);
        }
        effective.check()?;
        Ok(effective)
    }

    /// Reads `text` as the file `path`, which errors name and paths in it are relative to. No file is opened, and nothing else is
    /// looked at.
    ///
    /// # Errors
    /// As [`load`](Self::load), with the line.
    pub fn parse(text: &str, path: &Path) -> Result<EffectiveConfig> {
        let mut effective = EffectiveConfig::new(Some(path.to_owned()), None);
        effective.take_file(path, text, &ConfigSource::default())?;
        effective.check()?;
        Ok(effective)
    }
}

impl EffectiveConfig {
    /// The defaults.
    fn new(file: Option<PathBuf>, data_home: Option<PathBuf>) -> Self {
        Self { config: SystemConfig::default(), file, origins: vec![Origin::Default; KEYS.len()], data_home }
    }

    /// Refuses values that cannot be together, in the name of who set the one that somebody did set.
    fn check(&self) -> Result<()> {
        self.config.check().map_err(|conflict| {
            let origins = conflict.keys.iter().map(|key| self.origin(key));
            let origin = origins.clone().find(|origin| **origin != Origin::Default).unwrap_or(&Origin::Default);
            error(origin, conflict.problem)
        })
    }

    fn take_file(&mut self, path: &Path, text: &str, source: &ConfigSource) -> Result<()> {
        let bad = |problem: String| error(path.display(), problem);
        let home = source.folder("HOME");
        // A path beside the file stays right wherever the program is started.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let place = Place { folder: absolute.parent(), home: home.as_deref() };
        let tables = DeTable::parse(text).map_err(|error| bad(toml_text::problem(&error, text)))?;
        let at = |span: std::ops::Range<usize>| text[..span.start].matches('\n').count() + 1;
        for (table, entries) in tables.get_ref() {
            let line = at(table.span());
            let name = table.get_ref().as_ref();
            if !is_table(name) {
                return Err(bad(format!("line {line}: {}", unknown_table(name))));
            }
            let Some(entries) = entries.get_ref().as_table() else {
                return Err(bad(format!("line {line}: `{name}` is a table: write [{name}] and its keys below")));
            };
            for (key, value) in entries {
                let line = at(key.span());
                let bad = |problem: String| error(path.display(), format!("line {line}, {problem}"));
                let (index, found) = find(name, key.get_ref()).ok_or_else(|| bad(unknown_key(name, key.get_ref())))?;
                let read = (found.read)(&mut self.config, &given(value), place);
                read.map_err(|why| bad(format!("key `{}`: {why}", found.path)))?;
                self.origins[index] = Origin::File { path: path.to_owned(), line };
            }
        }
        Ok(())
    }

    fn take_environment(&mut self, source: &ConfigSource) -> Result<()> {
        let home = source.folder("HOME");
        let place = Place { folder: None, home: home.as_deref() };
        if let Some(folders) = source.variable(MODELS_VARIABLE) {
            let folders = std::env::split_paths(folders).filter(|path| !path.as_os_str().is_empty());
            self.config.store.folders = folders.collect();
            let index = KEYS.iter().position(|key| key.path == "store.folders").expect("it is one of `KEYS`");
            self.origins[index] = Origin::Environment(MODELS_VARIABLE.to_owned());
        }
        // In the order of their names, so that of several errors always the same is told.
        let mut names: Vec<&str> = source.environment.keys().filter_map(|name| name.to_str()).collect();
        names.sort_unstable();
        for name in names {
            let Some(table) = variable_table(name) else { continue };
            let Some(value) = source.variable(name) else { continue };
            let bad = |problem: String| error(format_args!("environment variable {name}"), problem);
            let Some(index) = KEYS.iter().position(|key| key.variable() == name) else {
                let known: Vec<String> = KEYS.iter().filter(|key| key.table() == table).map(Key::variable).collect();
                let nearest = nearest(name, known.iter().map(String::as_str));
                return Err(bad(format!("there is no such setting{}", nearest.map_or_else(String::new, did_you_mean))));
            };
            let value = value.to_str().ok_or_else(|| bad("its value is not UTF-8".into()))?;
            (KEYS[index].read)(&mut self.config, &Given::Word(value.to_owned()), place).map_err(bad)?;
            self.origins[index] = Origin::Environment(name.to_owned());
        }
        Ok(())
    }

    fn take_flags(&mut self, source: &ConfigSource) -> Result<()> {
        let home = source.folder("HOME");
        let place = Place { folder: None, home: home.as_deref() };
        for Flag { key, name, value } in &source.flags {
            let index = KEYS.iter().position(|known| known.path == *key).expect("a flag is for one of `KEYS`");
            let read = (KEYS[index].read)(&mut self.config, &Given::Word(value.clone()), place);
            read.map_err(|why| error(name, why))?;
            self.origins[index] = Origin::Flag(name.clone());
        }
        Ok(())
    }
}

fn error(origin: impl fmt::Display, problem: String) -> Error {
    Error::Config { origin: origin.to_string(), problem }
}

/// A value of the file. Dates, tables and lists of anything but texts are nothing that a key could be.
fn given(value: &Spanned<DeValue>) -> Given {
    match value.get_ref() {
        DeValue::Boolean(on) => Given::Switch(*on),
        DeValue::Integer(n) => {
            i64::from_str_radix(n.as_str(), n.radix()).map_or(Given::Other("integer beyond 64 bits"), Given::Integer)
        }
        DeValue::Float(x) => x.as_str().parse().map_or(Given::Other("float"), Given::Float),
        DeValue::String(text) => Given::Text(text.to_string()),
        DeValue::Array(entries) => {
            let texts = entries.iter().map(|entry| entry.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map_or(Given::Other("list of other things than texts"), Given::List)
        }
        other => Given::Other(other.type_str()),
    }
}

fn find(table: &str, name: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.table() == table && key.name() == name)
}

/// The tables, each once.
fn tables() -> Vec<&'static str> {
    let mut tables: Vec<_> = KEYS.iter().map(Key::table).collect();
    tables.dedup();
    tables
}

fn is_table(name: &str) -> bool {
    tables().contains(&name)
}

/// The table that a variable's name speaks of, if it is one of the configuration's.
fn variable_table(name: &str) -> Option<&'static str> {
    let rest = name.strip_prefix("HUBLAB_")?;
    tables()
        .into_iter()
        .find(|table| rest.strip_prefix(&table.to_ascii_uppercase()).is_some_and(|rest| rest.starts_with('_')))
}

fn unknown_table(name: &str) -> String {
    if let Some(key) = KEYS.iter().find(|key| key.name() == name) {
        return format!("key `{name}` belongs into the table [{}]", key.table());
    }
    let hint = nearest(name, tables().into_iter()).map(|table| did_you_mean(format!("[{table}]")));
    let all = || format!(": there are {}", tables().join(", "));
    format!("there is no table `{name}`{}", hint.unwrap_or_else(all))
}

fn unknown_key(table: &str, name: &str) -> String {
    let of_table = || KEYS.iter().filter(|key| key.table() == table).map(Key::name);
    let hint = match (nearest(name, of_table()), KEYS.iter().find(|key| key.name() == name)) {
        (_, Some(elsewhere)) => format!(": it belongs into [{}]", elsewhere.table()),
        (Some(nearest), None) => did_you_mean(nearest),
        (None, None) => format!(": [{table}] has {}", of_table().collect::<Vec<_>>().join(", ")),
    };
    format!("key `{table}.{name}`: there is no such key{hint}")
}

fn did_you_mean(name: impl fmt::Display) -> String {
    format!(": did you mean `{name}`?")
}

/// The likeliest of `known`, if `name` could be a slip of the pen for it.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // As clap does it for flags. Names of any length are compared, but not of a length that costs time.
    let short: String = name.chars().take(64).collect();
    let scored = known.map(|known| (strsim::jaro(&short, known), known)).filter(|(score, _)| *score > 0.7);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}
