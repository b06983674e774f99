//! Which model a command line means, and opening it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParserFactory};
use hublabio_gguf::GgufFile;
use hublabio_runtime::Error;
use hublabio_runtime::ai::{self, InferenceEngine, ModelConfig};

use crate::args::MachineArgs;
use crate::output;

/// A MODEL argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// The model that is built in.
    Default,
    /// A GGUF file.
    File(PathBuf),
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
    /// The word `default` is the built-in model, whatever files there are: `./default` is a file.
    fn from(argument: &OsStr) -> Self {
        if argument == "default" { Self::Default } else { Self::File(argument.into()) }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "{} (built in)", ai::DEFAULT_MODEL_NAME),
            Self::File(path) => path.display().fmt(f),
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
    /// Whether a lone argument of `run` names a model: it is `default`, ends in `.gguf` or is a file.
    pub fn is_meant_by(argument: &OsStr) -> bool {
        let path = Path::new(argument);
        argument == "default"
            || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
            || path.is_file()
    }

    /// Opens the file without an engine: metadata and tensors only.
    pub fn open_file(&self) -> Result<GgufFile> {
        self.check()?;
        Ok(match self {
            Self::Default => GgufFile::from_static(ai::DEFAULT_MODEL)?,
            Self::File(path) => GgufFile::open(path)?,
        })
    }

    /// Opens the model to run it, and says what there is to be said about it. `context_flags` are those that decide
    /// how much context is asked for.
    pub fn open(&self, config: &ModelConfig, context_flags: &str) -> Result<OpenModel> {
        self.check()?;
        let opened = match self {
            Self::Default => InferenceEngine::open_default(config),
            Self::File(path) => InferenceEngine::open(path, config),
        };
        let engine = opened.map_err(|error| match error {
            Error::ContextTooLong { .. } => anyhow!("{error}: lower {context_flags}"),
            error => self.in_file(error),
        })?;
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

    /// Refuses a file that does not exist, with advice that the reader of files cannot give.
    fn check(&self) -> Result<()> {
        match self {
            Self::File(path) if !path.exists() => bail!(
                "there is no file {}: give the path of a .gguf file, or `default` for the built-in model",
                path.display()
            ),
            _ => Ok(()),
        }
    }
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
