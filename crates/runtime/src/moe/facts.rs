//! What must be known of an expert's file before it runs: how much memory it will take, and what its tokens mean.

use std::sync::Arc;

use hublabio_engine::{Model, Shard};
use hublabio_gguf::{Array, GgufFile, Value};

use super::builtin;
use super::expert_file::{DEFAULT_CONTEXT_MAX, ExpertSpec, ModelSource};
use crate::ai::{LOGIT_ROWS, find_description};
use crate::error::{Error, Result};

/// Rows that a pass over a prompt computes at once; what its buffers are estimated with.
const PASS_ROWS: u64 = 256;

/// Facts of a model's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ModelFacts {
    /// Bytes of the file, which is mapped.
    pub file_bytes: u64,
    /// Bytes of keys and values for one conversation of the whole context.
    pub kv_bytes: u64,
    /// Bytes of the buffers of a pass, for all conversations together.
    pub pass_bytes: u64,
    /// A hash of everything that decides what tokens mean.
    pub tokenizer_hash: u64,
    /// Parameters that compute one token.
    pub active_parameters: u64,
    /// Positions that the context has.
    pub context: usize,
}

/// Opens an expert's model without reading its weights.
pub(super) fn facts(spec: &ExpertSpec) -> Result<ModelFacts> {
    facts_of(&spec.source, spec.context)
}

/// Opens a model without reading its weights, for a conversation of `context` positions.
pub(super) fn facts_of(source: &ModelSource, context: Option<usize>) -> Result<ModelFacts> {
    let file = Arc::new(open_source(source)?);
    let file_bytes = file.total_bytes();
    let tokenizer_hash = tokenizer_hash(&file);
    let model = Model::open_described(Arc::clone(&file), &Shard::whole(), find_description(&file)?)?;
    let h = model.hyperparameters();
    let context = context_of(context, h.context_length)?;
    let cache = model.new_cache(context, model.default_kv());
    let widest = file
        .tensors()
        .iter()
        .filter(|tensor| tensor.name.starts_with("blk.0."))
        .flat_map(|tensor| tensor.dims.iter().take(2).copied())
        .max()
        .unwrap_or(0);
    let pass_bytes = 4 * (PASS_ROWS * 8 * widest + LOGIT_ROWS as u64 * 2 * h.vocab_size as u64);
    Ok(ModelFacts {
        file_bytes,
        // A full context and the token after it.
        kv_bytes: cache.bytes_of(context + 1) as u64,
        pass_bytes,
        tokenizer_hash,
        active_parameters: active_parameters(&file, &model),
        context,
    })
}

fn context_of(asked: Option<usize>, trained: usize) -> Result<usize> {
    let context = asked.unwrap_or(trained.min(DEFAULT_CONTEXT_MAX));
    if context > trained { Err(Error::ContextTooLong { asked: context, trained }) } else { Ok(context) }
}

/// Opens a model's file.
pub(crate) fn open_source(source: &ModelSource) -> Result<GgufFile> {
    Ok(match source {
        ModelSource::File(path) => GgufFile::open(path)?,
        ModelSource::Builtin(name) => {
            let bytes =
                builtin::model_bytes(name).ok_or_else(|| Error::Expert(format!("no built-in model `{name}`")))?;
            GgufFile::from_static(bytes)?
        }
    })
}

/// FNV-1a over the keys `tokenizer.ggml.*` in the order of their names.
fn tokenizer_hash(file: &GgufFile) -> u64 {
    let mut keys: Vec<(&str, &Value)> =
        file.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.")).collect();
    keys.sort_by_key(|(key, _)| *key);
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for (key, value) in keys {
        hash.text(key);
        match value {
            Value::Array(Array::String(texts)) => texts.iter().for_each(|text| hash.text(text)),
            Value::Array(Array::F32(numbers)) => numbers.iter().for_each(|n| hash.bytes(&n.to_le_bytes())),
            Value::Array(Array::I32(numbers)) => numbers.iter().for_each(|n| hash.bytes(&n.to_le_bytes())),
            other => hash.text(&format!("{other:?}")),
        }
    }
    hash.0
}

struct Fnv(u64);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// A text and its length, so that texts cannot flow into one another.
    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }
}

/// All parameters but an embedding that is only looked up in, and of a mixture's experts those that a token uses.
fn active_parameters(file: &GgufFile, model: &Model) -> u64 {
    let untied = file.tensors().iter().any(|tensor| tensor.name == "output.weight");
    let experts = model.hyperparameters().experts.as_ref();
    let count = |tensor: &hublabio_gguf::TensorInfo| {
        let all: u64 = tensor.dims.iter().product();
        match experts {
            _ if untied && tensor.name == "token_embd.weight" => 0,
            Some(numbers) if tensor.name.contains("_exps") => {
                all / (numbers.n_experts.max(1) as u64) * numbers.n_used as u64
            }
            _ => all,
        }
    };
    file.tensors().iter().map(count).sum()
}
