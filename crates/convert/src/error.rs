//! The one error type of this room: what is wrong, where, and what to do about it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Everything that can go wrong while a checkpoint folder becomes a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// An error inside the named file.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        cause: Box<Error>,
    },
    /// Text that is no JSON.
    #[error("not valid JSON: {cause}; fetch the file again")]
    Json {
        /// What the parser says, with line and column.
        cause: serde_json::Error,
    },
    /// A file holds something that its format does not allow.
    #[error("{problem}: {advice}")]
    Malformed {
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
    /// A configuration key is missing.
    #[error("`{key}` is missing: the configuration is incomplete, fetch the checkpoint again")]
    MissingKey {
        /// The key, with a dot between levels.
        key: String,
    },
    /// A configuration key holds something that cannot be used.
    #[error("`{key}` is {found}: {advice}")]
    BadKey {
        /// The key.
        key: String,
        /// Its value, printed.
        found: String,
        /// What is expected, or what to do.
        advice: String,
    },
    /// No family is made for this architecture.
    #[error("the architecture `{found}` cannot be converted; these can: {}", known.join(", "))]
    UnknownArchitecture {
        /// The name in `architectures`.
        found: String,
        /// All names that are known.
        known: Vec<&'static str>,
    },
    /// Something is wrong with one tensor.
    #[error("tensor `{name}`: {problem}: {advice}")]
    Tensor {
        /// The tensor's name in the checkpoint.
        name: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
    /// Tensors that the family needs and the checkpoint lacks.
    #[error(
        "the checkpoint lacks {}: {}; fetch it again, or check `config.json`", counted(names.len()), listed(names)
    )]
    MissingTensors {
        /// Their names.
        names: Vec<String>,
    },
    /// Tensors that no rule of the family names.
    #[error(
        "the checkpoint has {} that this architecture does not have, and nothing is left out in silence: {}; \
         this is another kind of model than `config.json` says, or one that cannot be converted yet",
        counted(names.len()), listed(names)
    )]
    UnknownTensors {
        /// Their names.
        names: Vec<String>,
    },
    /// Tensors of an adapter that belong to no matrix of its base.
    #[error(
        "the adapter has {} that cannot be added to a matrix of this base: {}; it is for another base than --base says, \
         or trains what a GGUF adapter cannot hold (experts, norms, whole layers): merge it into its base",
        counted(names.len()), listed(names)
    )]
    NotOfBase {
        /// Their names.
        names: Vec<String>,
    },
    /// The output is there already.
    #[error("{} exists: give another name, or --force to replace it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The caller's progress function asked to stop.
    #[error("stopped: nothing was written")]
    Stopped,
    /// The GGUF side refused.
    #[error(transparent)]
    Gguf(#[from] hublabio_gguf::Error),
}

fn counted(n: usize) -> String {
    if n == 1 { "1 tensor".to_owned() } else { format!("{n} tensors") }
}

/// How many names a message lists before it counts.
const LISTED_NAMES: usize = 5;

fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(LISTED_NAMES).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_NAMES {
        let _ = write!(text, " and {} more", names.len() - LISTED_NAMES);
    }
    text
}

impl Error {
    pub(crate) fn in_file(self, path: &Path) -> Self {
        Self::InFile { path: path.to_path_buf(), cause: Box::new(self) }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::Io { action, path: path.to_path_buf(), cause }
    }

    pub(crate) fn malformed(problem: impl Into<String>, advice: &'static str) -> Self {
        Self::Malformed { problem: problem.into(), advice }
    }

    pub(crate) fn bad_key(key: impl Into<String>, found: impl std::fmt::Display, advice: impl Into<String>) -> Self {
        Self::BadKey { key: key.into(), found: found.to_string(), advice: advice.into() }
    }
}
