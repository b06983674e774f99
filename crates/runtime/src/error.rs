//! The one error type of this room.

/// What a node refuses or fails at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] hublabio_gguf::Error),
    /// The model is at fault, or a batch does not fit it.
    #[error(transparent)]
    Engine(#[from] hublabio_engine::Error),
    /// The tokenizer is at fault, or a text cannot be expressed.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] hublabio_tokenizer::Error),
    /// The chat template is at fault, or refuses the conversation.
    #[error("chat template: {0}")]
    Chat(#[from] hublabio_chat::Error),
    /// A constraint cannot be honoured, or not be followed any further.
    #[error(transparent)]
    Constraint(#[from] hublabio_chat::constraint::ConstraintError),
    /// A question that cannot be meant as it is.
    #[error("`{field}` {problem}")]
    BadQuestion {
        /// What of it, as requests name it.
        field: &'static str,
        /// What is wrong with that.
        problem: String,
    },
    /// A chat template that neither the file nor this program has.
    #[error("there is no chat template `{name}`: the file has {}, built in are {builtin}", if .in_file.is_empty() { "none" } else { .in_file })]
    NoSuchTemplate {
        /// What was asked for.
        name: String,
        /// Names of those in the file.
        in_file: String,
        /// Names of the built-in ones.
        builtin: String,
    },
    /// The file has weights only.
    #[error(
        "the file holds no tokenizer (no key `tokenizer.ggml.model`): text can neither be read nor written with it"
    )]
    NoTokenizer,
    /// The file's tokenizer is of a kind that is not implemented.
    #[error("the file's tokenizer is of kind `{kind}`; this version reads `llama`, `gpt2`, `gemma4`, `bert` and `t5`")]
    UnknownTokenizer {
        /// `tokenizer.ggml.model`.
        kind: String,
    },
    /// A key of the file's tokenizer that must be there is not.
    #[error("the file's tokenizer is incomplete: metadata key `{key}` is missing")]
    IncompleteTokenizer {
        /// The key.
        key: String,
    },
    /// The tokenizer makes tokens that the model has no embedding for.
    #[error(
        "the file's tokenizer has {n_tokens} tokens, its model embeds {vocab_size}: the conversion lost some, convert it again"
    )]
    VocabularyTooLarge {
        /// Tokens in the tokenizer.
        n_tokens: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// An adapter does not fit the model.
    #[error("{}: {cause}", path.display())]
    Adapter {
        /// The adapter's file.
        path: std::path::PathBuf,
        /// Why not.
        cause: Box<hublabio_engine::Error>,
    },
    /// How much of an adapter is added is no number.
    #[error("{}: its scale is {scale}, not a number", path.display())]
    AdapterScale {
        /// The adapter's file.
        path: std::path::PathBuf,
        /// As given.
        scale: f32,
    },
    /// A description of an architecture cannot be read.
    #[error("{origin}: {problem}")]
    Description {
        /// The file or key that it is in.
        origin: String,
        /// What is wrong with it, with its place.
        problem: String,
    },
    /// Text or logits of a model that makes embeddings only.
    #[error(
        "a model of architecture `{architecture}` turns text into embeddings and generates none: use `hublab embed`"
    )]
    NoLogits {
        /// The model's architecture.
        architecture: String,
    },
    /// Nothing to continue.
    #[error("the prompt is empty: there is nothing to continue")]
    EmptyPrompt,
    /// The prompt leaves no room for a single new token.
    #[error("the prompt has {prompt} tokens, the context holds {context}, the answer included: shorten the prompt{}", if .context < .trained { " or raise --ctx" } else { "" })]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt: usize,
        /// Positions in the context.
        context: usize,
        /// Positions that the model was trained for.
        trained: usize,
    },
    /// Stop strings that cannot be.
    #[error("stop strings: {problem}")]
    BadStop {
        /// What is wrong with them.
        problem: String,
    },
    /// Breakers of DRY that cannot be.
    #[error("DRY breakers: {problem}")]
    BadDryBreaker {
        /// What is wrong with them.
        problem: String,
    },
    /// More alternatives than anyone reads.
    #[error("log probabilities of {asked} alternatives are asked for, at most {max} are possible")]
    TooManyLogProbs {
        /// As asked for.
        asked: usize,
        /// The most.
        max: usize,
    },
    /// A logit bias for a token that the model does not have.
    #[error("a logit bias is given for token {token}, but the model has the tokens 0 to {}", n_tokens - 1)]
    BiasOfUnknownToken {
        /// The token.
        token: u32,
        /// Tokens that the model has.
        n_tokens: usize,
    },
    /// More context than the model was trained for.
    #[error("a context of {asked} tokens is more than the {trained} that this model was trained for")]
    ContextTooLong {
        /// As asked for.
        asked: usize,
        /// `context_length` of the file.
        trained: usize,
    },
    /// A measurement needs more tokens.
    #[error("{what} needs at least {needed} tokens, there are {found}")]
    TooFewTokens {
        /// Which measurement.
        what: &'static str,
        /// The least it needs.
        needed: usize,
        /// What there is.
        found: usize,
    },
    /// A file with an importance matrix is at fault.
    #[error("importance matrix {}: {problem}", path.display())]
    ImportanceMatrix {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An importance matrix and a tensor have different shapes.
    #[error(
        "the importance matrix has {found} columns for `{tensor}`, whose {matrices} × {columns} it does not fit: it was made for another model"
    )]
    ImportanceShape {
        /// The tensor.
        tensor: String,
        /// Columns of all its matrices, in the importance matrix.
        found: usize,
        /// Columns of a matrix.
        columns: usize,
        /// Matrices in the tensor.
        matrices: usize,
    },
    /// A matrix that has lost precision already would lose more.
    #[error(
        "tensor `{tensor}` is {from} already, and packing it as {to} loses precision twice: quantize from the original F16, BF16 or F32 file, or give --allow-requantize"
    )]
    Requantize {
        /// The tensor.
        tensor: String,
        /// The type that it has.
        from: &'static str,
        /// The type that it should get.
        to: &'static str,
    },
    /// A rule for tensor types that no matrix needs.
    #[error(
        "the tensor rule `{pattern}` matches no matrix of this model: `hublab show MODEL --tensors` lists the names"
    )]
    TensorRuleUnused {
        /// Its expression.
        pattern: String,
    },
    /// A weight that is not finite, or that the type cannot hold.
    #[error(
        "tensor `{tensor}`: weight {index} is {value}, which {ty} cannot hold: repair the model, or convert it again"
    )]
    BadWeight {
        /// The tensor.
        tensor: String,
        /// Index in the tensor's weights, in memory order.
        index: u64,
        /// The weight.
        value: f32,
        /// The type.
        ty: &'static str,
    },
    /// A tensor's bytes cannot be read.
    #[error("cannot read tensor `{tensor}`: {cause}")]
    ReadTensor {
        /// The tensor.
        tensor: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// A file would be written over itself.
    #[error("{} is the input: give another output", path.display())]
    OutputIsInput {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A folder or a device lies where a file should be written.
    #[error("{} is no regular file and cannot be replaced: give the name of a file", path.display())]
    OutputIsNoFile {
        /// What lies there.
        path: std::path::PathBuf,
    },
    /// A file lies where one should be written.
    #[error("{} exists: give another output, or --force to replace it", path.display())]
    OutputExists {
        /// What lies there.
        path: std::path::PathBuf,
    },
    /// More bytes than a file can have.
    #[error("the output would exceed 2^64 bytes: check the shapes of the tensors")]
    OutputTooLarge,
    /// An expert of a swarm cannot do its part.
    #[error("{0}")]
    Expert(String),
    /// What describes a swarm or an expert cannot be used.
    #[error("{origin}: {problem}")]
    SwarmFile {
        /// The file.
        origin: String,
        /// What is wrong with it: with line, column and key where there are any.
        problem: String,
    },
    /// The configuration cannot be used.
    #[error("{origin}: {problem}")]
    Config {
        /// The file, variable or flag.
        origin: String,
        /// What is wrong with it: with line and key where there are any.
        problem: String,
    },
    /// A swarm refuses, or fails.
    #[error(transparent)]
    Swarm(#[from] hublabio_moe::Error),
    /// There is no model of that name.
    #[error("there is no model `{name}`: there are {known}")]
    NoSuchModel {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The store of models refuses, or fails.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Too many requests wait.
    #[error("{waiting} requests are waiting already: try again later")]
    Busy {
        /// So many.
        waiting: usize,
    },
    /// A model that no memory is given to.
    #[error(
        "model `{model}` needs {:.1} GiB with its context, {:.1} GiB are allowed: raise max_memory, or choose a smaller model or context",
        *bytes as f64 / (1u64 << 30) as f64, *max_memory as f64 / (1u64 << 30) as f64
    )]
    ModelTooLarge {
        /// Its name.
        model: String,
        /// File, keys and values.
        bytes: u64,
        /// What models may take.
        max_memory: u64,
    },
    /// A model that was there cannot be loaded.
    #[error("model `{model}` cannot be loaded: {reason}")]
    LoadFailed {
        /// Its name.
        model: String,
        /// Why not.
        reason: String,
    },
    /// A defect of this program, found while it computed.
    #[error("the computation crashed: {what}; this is a defect of hublab, and the service goes on")]
    Crashed {
        /// What the panic said.
        what: String,
    },
    /// The system gives no thread.
    #[error("no thread could be started: {cause}")]
    NoThread {
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The node takes no more requests.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// The work was stopped from outside.
    #[error("stopped")]
    Cancelled,
}

/// The result of this room's functions.
pub type Result<T> = std::result::Result<T, Error>;
