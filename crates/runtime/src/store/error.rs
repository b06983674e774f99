//! What the store refuses or fails at: names, folders, files, servers.

use std::path::PathBuf;

/// Why a model cannot be had, kept, removed or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A name that no model can have.
    #[error("{name:?} is no name of a model: {problem}")]
    BadName {
        /// As given, shortened.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A path where names are asked for.
    #[error("{path:?} is outside the store: only its models can be asked for, and none is called {name:?}")]
    OutsideStore {
        /// As given, shortened.
        path: String,
        /// The name that was looked for in its place.
        name: String,
    },
    /// There is a model of that name already.
    #[error("there is a model `{name}` already ({place}): give another name, or remove it first (`hublab rm {name}`)")]
    Exists {
        /// The name.
        name: String,
        /// What it is.
        place: String,
    },
    /// A model that is not the store's to remove.
    #[error("`{name}` cannot be removed: {why}")]
    NotRemovable {
        /// The model.
        name: String,
        /// Whose it is, and what to do.
        why: String,
    },
    /// There is nowhere to write to.
    #[error("there is no folder to keep models in: set HUBLAB_MODELS to one")]
    NoFolder,
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// A small file of the store, or of Ollama's, cannot be understood.
    #[error("{origin}: {problem}")]
    BadRecord {
        /// The file, or the address it came from.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What should be fetched is not said in a way that can be understood.
    #[error("cannot pull {reference:?}: {problem}")]
    BadReference {
        /// As given, shortened.
        reference: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The same model is fetched or removed at this moment.
    #[error("`{name}` is being pulled already: wait for it, or end it")]
    Locked {
        /// The model.
        name: String,
    },
    /// A proxy that cannot be used.
    #[error(
        "{variable} names a proxy that cannot be used: http://HOST:PORT and https://HOST:PORT can, SOCKS cannot; correct or unset it"
    )]
    BadProxy {
        /// The environment variable.
        variable: &'static str,
    },
    /// A server says no.
    #[error("{url}: the server answers {status}: {advice}")]
    Refused {
        /// The address that was asked.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// What to do about it.
        advice: String,
    },
    /// A server cannot be reached, or breaks off each time.
    #[error("{url}: {problem}, {attempts} times in a row: what has come is kept, pull again to go on with it")]
    Unreachable {
        /// The address.
        url: String,
        /// What happened last.
        problem: String,
        /// How often.
        attempts: u32,
    },
    /// An answer that cannot be used.
    #[error("{url}: {problem}")]
    BadAnswer {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The bytes are not those that were promised.
    #[error(
        "{name}: the SHA-256 of what came is {found}, it should be {expected}: it was deleted; pull again, and if it comes \
         out wrong again, do not trust the source"
    )]
    WrongHash {
        /// The file.
        name: String,
        /// As promised, in hexadecimal.
        expected: String,
        /// As computed.
        found: String,
    },
    /// What came is whole, and no model.
    #[error("what came is no model, it was deleted: {cause}")]
    NotAModel {
        /// What the reader of model files says.
        cause: String,
    },
    /// The disk is too small.
    #[error(
        "`{name}` needs {needed} bytes more in {}, where {free} are free: remove something (`hublab ls`, `hublab rm`), or set HUBLAB_MODELS to a \
         folder on a larger disk", folder.display()
    )]
    DiskTooSmall {
        /// The model.
        name: String,
        /// Bytes that are still to come, and some room.
        needed: u64,
        /// Bytes that there are.
        free: u64,
        /// Where.
        folder: PathBuf,
    },
    /// The machine's memory is too small to run the model.
    #[error(
        "running `{name}` takes {needed} bytes of memory, and this machine has {total}: pull a smaller quantization, or give --force to \
         fetch it all the same"
    )]
    MemoryTooSmall {
        /// The model.
        name: String,
        /// What running it takes at least.
        needed: u64,
        /// What the machine has.
        total: u64,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::Io { action, path, cause }
    }
}
