//! Which model a command line means, and opening it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParserFactory};
use hublabio_gguf::GgufFile;
use hublabio_runtime::Error;
use hublabio_runtime::ai::{self, InferenceEngine, ModelConfig};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::ModelCatalog as _;
use hublabio_runtime::store::StoreError;

use crate::args::MachineArgs;
use crate::{Usage, output, store};

/// A MODEL argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// The model that is built in.
    Default,
    /// A GGUF file.
    File(PathBuf),
    /// A model of the store.
    Stored(String),
}

impl MachineArgs {
    pub fn model_config(&self, context: Option<usize>) -> ModelConfig {
        ModelConfig {
            context,
            threads: self.threads,
            isa: self.isa,
            kv: self.kv,
            architecture: self.arch.clone(),
            adapters: self.lora.clone(),
        }
    }
}

impl From<&OsStr> for ModelName {
    /// The word `default` is the built-in model, whatever files there are: `./default` is a file. What ends in `.gguf` or is there
    /// is a path, all else a name.
    fn from(argument: &OsStr) -> Self {
        match argument.to_str() {
            Some("default") => Self::Default,
            Some(name) if !ends_in_gguf(argument) && !Path::new(argument).exists() => Self::Stored(name.to_owned()),
            _ => Self::File(argument.into()),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "{} (built in)", ai::DEFAULT_MODEL_NAME),
            Self::File(path) => path.display().fmt(f),
            Self::Stored(name) => name.fmt(f),
        }
    }
}

impl ValueParserFactory for ModelName {
    type Parser = clap::builder::MapValueParser<OsStringValueParser, fn(OsString) -> Self>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().map(|argument| Self::from(argument.as_os_str()))
    }
}

impl ModelName {
    /// Whether a lone argument of `run` names a model: it is `default`, ends in `.gguf`, is a file, or is called like a model
    /// of the store.
    pub fn is_meant_by(argument: &OsStr) -> bool {
        argument == "default"
            || ends_in_gguf(argument)
            || Path::new(argument).is_file()
            || argument.to_str().is_some_and(|name| store::open().contains(name))
    }

    /// How a service knows it; `None` for its default.
    pub fn service_name(&self) -> Result<Option<String>> {
        match self {
            Self::Default => Ok(None),
            Self::Stored(name) => Ok(Some(name.clone())),
            Self::File(path) => Err(Usage(format!(
                "{} is a file, and a service knows models by name: give the name, or leave --service out",
                path.display()
            ))
            .into()),
        }
    }

    /// Opens the file without an engine: metadata and tensors only.
    pub fn open_file(&self) -> Result<GgufFile> {
        Ok(match self.source()? {
            ModelSource::Builtin(_) => GgufFile::from_static(ai::DEFAULT_MODEL)?,
            ModelSource::File(path) => GgufFile::open(&path)?,
        })
    }

    /// Opens the model to run it, and says what there is to be said about it. `context_flags` are those that decide
    /// how much context is asked for.
    pub fn open(&self, config: &ModelConfig, context_flags: &str) -> Result<OpenModel> {
        let opened = match self.source()? {
            ModelSource::Builtin(_) => InferenceEngine::open_default(config),
            ModelSource::File(path) => InferenceEngine::open(&path, config),
        };
        let engine = opened.map_err(|error| match error {
            Error::ContextTooLong { .. } => anyhow!("{error}: lower {context_flags}"),
            error => self.in_file(error),
        })?;
        tracing::info!(
            model = %self,
            load_s = engine.load_s(),
            context = engine.context(),
            "model is open"
        );
        let mut model = OpenModel { engine, notices_said: 0 };
        model.say_notices();
        Ok(model)
    }

    /// Names the file in errors about its content, where the error does not.
    pub fn in_file(&self, error: Error) -> anyhow::Error {
        use hublabio_gguf::Error::{InFile, Io, NotAFile};
        if matches!(error, Error::File(InFile { .. } | Io { .. } | NotAFile { .. })) {
            error.into()
        } else {
            anyhow!("{self}: {error}")
        }
    }

    /// Its file, for what takes nothing else.
    pub fn file(&self) -> Result<PathBuf> {
        match self.source()? {
            ModelSource::File(path) => Ok(path),
            ModelSource::Builtin(name) => {
                Err(Usage(format!("`{name}` is built in and has no file: give another")).into())
            }
        }
    }

    /// Refuses a model that is not there.
    pub fn check(&self) -> Result<()> {
        self.source().map(drop)
    }

    /// Where the weights are. Refuses what does not exist, with advice that the reader of files cannot give.
    pub fn source(&self) -> Result<ModelSource> {
        match self {
            Self::Default => Ok(ModelSource::Builtin(ai::DEFAULT_MODEL_NAME)),
            Self::File(path) if !path.exists() => bail!(
                "there is no file {}: give the path of a .gguf file, a name that `hublab ls` lists, or `default` for the \
                 built-in model",
                path.display()
            ),
            Self::File(path) => Ok(ModelSource::File(path.clone())),
            Self::Stored(name) => match store::open().find(name) {
                Ok(model) => Ok(model.source),
                Err(Error::NoSuchModel { name, known }) => {
                    bail!("there is neither a file {name} nor a model of that name; of models there are {known}")
                }
                // What looks like a path is none of the store's.
                Err(Error::Store(StoreError::BadName { name, problem })) => bail!(
                    "there is no file {name}: give the path of a .gguf file, a name that `hublab ls` lists, or `default` for \
                     the built-in model; {name} is no such name: {problem}"
                ),
                Err(error) => Err(error.into()),
            },
        }
    }
}

fn ends_in_gguf(argument: &OsStr) -> bool {
    Path::new(argument).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// A model that is ready to run.
pub struct OpenModel {
    pub engine: InferenceEngine,
    notices_said: usize,
}

impl OpenModel {
    /// Says those notices of the engine that are new.
    pub fn say_notices(&mut self) {
        let notices = self.engine.notices();
        for notice in notices.iter().skip(self.notices_said) {
            output::note(notice);
        }
        self.notices_said = notices.len();
    }
}
