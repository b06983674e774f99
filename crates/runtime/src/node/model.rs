//! What is known of a model without its weights: enough to make prompts for it, to check requests and to describe it.

use std::sync::Arc;
use std::time::SystemTime;

use hublabio_engine::{Model, Pooling, Shard};
use hublabio_gguf::{GgmlType, GgufFile, Metadata};
use hublabio_tokenizer::TokenId;

use super::NodeConfig;
use super::catalog::CatalogModel;
use crate::ai::{DEFAULT_CONTEXT_MAX, ModelText, find_description};
use crate::error::{Error, Result};
use crate::moe::{ModelSource, open_source};

/// A context that is not asked for is not made shorter than this, so that the model fits; `hublab doctor` counts with it.
const CONTEXT_MIN: usize = 4096;

/// Facts of a model's file.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// The family.
    pub architecture: String,
    /// All weights.
    pub parameters: u64,
    /// The tensor type that holds most of them, as ggml writes it.
    pub tensor_type: &'static str,
    /// Positions of a conversation, the answer included.
    pub context: usize,
    /// Positions that the model was trained for.
    pub trained_context: usize,
    /// Width of an embedding.
    pub d_model: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Rows of the output head.
    pub vocab_size: usize,
    /// Whether it generates text; one that does not makes embeddings only.
    pub generates: bool,
    /// How its embeddings are pooled where nothing else is asked for.
    pub pooling: Pooling,
    /// Bytes of keys and values for a whole context.
    pub kv_bytes: u64,
}

/// A model that requests may name, without its weights.
pub struct ServedModel {
    name: String,
    source: ModelSource,
    bytes: u64,
    modified: Option<SystemTime>,
    sha256: Option<String>,
    text: Option<ModelText>,
    facts: ModelFacts,
    metadata: Metadata,
    notices: Vec<String>,
}

impl ServedModel {
    /// Reads a file's description and vocabulary, but no weights. A context that is not asked for is as long as the memory of the
    /// node allows.
    pub(super) fn read(found: &CatalogModel, config: &NodeConfig) -> Result<Self> {
        let mut file = open_source(&found.source)?;
        let mut notices = Vec::new();
        let text = ModelText::take(&mut file, &mut notices)?;
        let file = Arc::new(file);
        let model = Model::open_described(Arc::clone(&file), &Shard::whole(), find_description(&file)?)?;
        let h = model.hyperparameters();
        let trained_context = h.context_length;
        // A service has many models: a limit that one of them does not reach is no error for it.
        let wanted = config.context.unwrap_or(DEFAULT_CONTEXT_MAX).min(trained_context);
        let kv = config.kv.unwrap_or_else(|| model.default_kv());
        let kv_bytes_of = |context: usize| model.new_cache(context, kv).bytes_of(context) as u64;
        let (mut context, mut kv_bytes) = (wanted, kv_bytes_of(wanted));
        while config.context.is_none() && found.bytes + kv_bytes > config.max_memory && context > CONTEXT_MIN {
            context = (context / 2).max(CONTEXT_MIN);
            kv_bytes = kv_bytes_of(context);
        }
        if context < wanted {
            notices.push(format!(
                "a conversation has {context} tokens instead of {wanted}, so that it fits into `runtime.max_memory`: raise that, \
                 or say with `server.context` how many there are to be"
            ));
        }
        let facts = ModelFacts {
            architecture: h.architecture.name.to_string(),
            parameters: file.tensors().iter().map(hublabio_gguf::TensorInfo::n_elements).sum(),
            tensor_type: commonest_type(&file).map_or("none", GgmlType::name),
            context,
            trained_context,
            d_model: h.d_model,
            n_layers: h.n_layers,
            vocab_size: h.vocab_size,
            generates: model.has_logits(),
            pooling: h.pooling.unwrap_or(if h.causal { Pooling::Last } else { Pooling::Mean }),
            kv_bytes,
        };
        Ok(Self {
            name: found.name.clone(),
            source: found.source.clone(),
            bytes: found.bytes,
            modified: found.modified,
            sha256: found.sha256.clone(),
            text,
            facts,
            metadata: file.metadata().clone(),
            notices,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its weights are.
    #[must_use]
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// Bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When its file was last changed; `None` for one of the binary.
    #[must_use]
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// SHA-256 of its file, where it is known.
    #[must_use]
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// Tokenizer, chat template and constraints.
    ///
    /// # Errors
    /// When the file holds no tokenizer.
    pub fn text(&self) -> Result<&ModelText> {
        self.text.as_ref().ok_or(Error::NoTokenizer)
    }

    /// Facts of its file.
    #[must_use]
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// The file's metadata, without the vocabulary.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its file as it is now: with the vocabulary and the list of tensors.
    ///
    /// # Errors
    /// When it cannot be read any more.
    pub fn open_file(&self) -> Result<GgufFile> {
        open_source(&self.source)
    }

    /// What the user should know about how the file is read.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    pub(super) fn is_same_file(&self, found: &CatalogModel) -> bool {
        (&self.source, self.bytes, self.modified) == (&found.source, found.bytes, found.modified)
    }

    /// Refuses a request that could not be honoured, before it is queued.
    pub(super) fn check(&self, prompt: &[TokenId]) -> Result<()> {
        if !self.facts.generates {
            return Err(Error::NoLogits { architecture: self.facts.architecture.clone() });
        }
        // The answer needs room, too.
        self.check_length(prompt, self.facts.context - 1)
    }

    /// The same for a text that becomes a vector.
    pub(super) fn check_embedding(&self, prompt: &[TokenId]) -> Result<()> {
        self.check_length(prompt, self.facts.context)
    }

    fn check_length(&self, prompt: &[TokenId], max: usize) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > max {
            let (context, trained) = (self.facts.context, self.facts.trained_context);
            return Err(Error::PromptTooLong { prompt: prompt.len(), context, trained });
        }
        Ok(())
    }
}

/// The type that holds most weights.
fn commonest_type(file: &GgufFile) -> Option<GgmlType> {
    let mut counts: Vec<(GgmlType, u64)> = Vec::new();
    for tensor in file.tensors() {
        match counts.iter_mut().find(|(ty, _)| *ty == tensor.ty) {
            Some((_, count)) => *count += tensor.n_elements(),
            None => counts.push((tensor.ty, tensor.n_elements())),
        }
    }
    counts.into_iter().max_by_key(|&(_, count)| count).map(|(ty, _)| ty)
}
