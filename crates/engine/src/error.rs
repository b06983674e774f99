//! The one error type of this room.

/// What the engine refuses or fails at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file itself is at fault.
    #[error(transparent)]
    File(#[from] hublabio_gguf::Error),
    /// A kernel refuses a tensor.
    #[error("tensor `{tensor}`: {cause}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What the kernel says.
        cause: hublabio_kernels::Error,
    },
    /// The file does not say what kind of model it holds.
    #[error("the file has no metadata key `general.architecture`: it is no model, or its conversion was cut short")]
    NoArchitecture,
    /// No description for this family.
    #[error("architecture `{name}` is not supported; this version runs: {known}")]
    UnknownArchitecture {
        /// As the file names it.
        name: String,
        /// Those that run.
        known: String,
    },
    /// A key that every model of the family needs is missing.
    #[error("metadata key `{key}` is missing: the file is incomplete, convert it again")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key has a value that cannot be.
    #[error("metadata key `{key}`: {problem}")]
    BadKey {
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A tensor that the family needs is missing.
    #[error("tensor `{tensor}` is missing: the file is incomplete, or is a vocabulary only")]
    MissingTensor {
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor has another shape than the metadata say.
    #[error("tensor `{tensor}` has shape {found:?}, the metadata ask for {expected:?}")]
    WrongShape {
        /// The tensor's name.
        tensor: String,
        /// Dimensions in the file, contiguous first.
        found: Vec<u64>,
        /// Dimensions that the metadata give.
        expected: Vec<u64>,
    },
    /// A tensor that no step of the forward pass would read: the output would be silently wrong.
    #[error(
        "tensor `{tensor}` belongs to a part of the model that architecture `{architecture}` does not have here: this variant is not supported"
    )]
    UnusedTensor {
        /// The tensor's name.
        tensor: String,
        /// The family.
        architecture: &'static str,
    },
    /// A shard that the model cannot be cut into.
    #[error("a shard of {problem}")]
    BadShard {
        /// What is wrong with it.
        problem: String,
    },
    /// A row of a batch that cannot be computed.
    #[error("batch row {row}: {problem}")]
    BadRow {
        /// Index in the batch.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The batch would need more pages than the cache may hold.
    #[error(
        "the key-value cache is full: {needed} more pages of {page_positions} positions are needed, {free} of {limit} are free"
    )]
    CacheFull {
        /// Pages that the batch needs.
        needed: usize,
        /// Pages free.
        free: usize,
        /// Pages in all.
        limit: usize,
        /// Positions of a page.
        page_positions: usize,
    },
    /// A sequence that was never made, or is gone.
    #[error("there is no sequence {id}")]
    NoSequence {
        /// Its number.
        id: u32,
    },
    /// The logits hold an infinity or not-a-number.
    #[error("the model computed a number that is not finite{}", .tensor.as_ref().map_or_else(
        || ": every weight is finite, so the activations overflowed".to_owned(),
        |t| format!(": tensor `{t}` holds a weight that is not finite, so the file is damaged or badly converted")
    ))]
    NonFinite {
        /// The first tensor, in the order of the forward pass, with a weight that is not finite.
        tensor: Option<String>,
    },
    /// A sampling setting out of its range.
    #[error("{setting} is {value}, but must be {range}")]
    BadSampling {
        /// The setting.
        setting: &'static str,
        /// As given.
        value: f32,
        /// What is possible.
        range: &'static str,
    },
    /// A list of sampling steps that is none.
    #[error("{problem}")]
    BadSamplerOrder {
        /// What is wrong with it.
        problem: String,
    },
    /// Mask, biases and logits together leave no token to choose.
    #[error(
        "no token is possible here: those that the constraint allows are forbidden by a logit bias of -inf, or the model gives them none"
    )]
    NothingPossible,
    /// A constraint leaves no token to choose.
    #[error(
        "the constraint allows none of the {n_tokens} tokens here: it and the vocabulary do not fit together, or it has ended"
    )]
    NothingAllowed {
        /// Tokens of the vocabulary.
        n_tokens: usize,
    },
}

/// The result of this room's functions.
pub type Result<T> = std::result::Result<T, Error>;
