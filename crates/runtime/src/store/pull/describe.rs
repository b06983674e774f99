//! What a model is, from the first bytes of its files: before the rest of them comes.

use std::sync::Arc;

use hublabio_gguf::{GgufFile, Head, Value};

use super::super::Facts;
use super::Remote;
use super::download::Downloader;
use super::part::Part;
use crate::error::Result;
use crate::machine::ModelNeeds;

/// First bytes in which a description is looked for, and more where it is longer. Large vocabularies take some 10 MB.
const HEAD_BYTES: [u64; 4] = [1 << 20, 4 << 20, 16 << 20, 64 << 20];
/// Positions of the conversation whose keys and values are counted, or as many as the model was trained for.
const CONTEXT: usize = 4096;

/// What a model is that has not come yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its architecture, where it names one.
    pub architecture: Option<String>,
    /// The type of most of its weights, as `quantize` names it.
    pub quantization: Option<String>,
    /// Weights.
    pub parameters: u64,
    /// Positions that it was trained for, where it says so.
    pub context_length: Option<u64>,
    /// What it takes in memory, if this program can run it.
    pub needs: Option<ModelNeeds>,
    /// Why this program cannot run it.
    pub problem: Option<String>,
}

impl Description {
    fn of(file: GgufFile) -> Self {
        let Facts { architecture, quantization, parameters } = Facts::of(&file);
        let context_length = architecture.as_deref().and_then(|architecture| {
            file.metadata().get(&format!("{architecture}.context_length")).and_then(Value::as_u64)
        });
        let (needs, problem) = match ModelNeeds::of_file(&Arc::new(file), CONTEXT) {
            Ok(needs) => (Some(needs), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { architecture, quantization, parameters, context_length, needs, problem }
    }
}

/// Brings the beginning of every file and reads it. `None` where it does not say what the model is, or nobody knows how long the
/// files are: whether they are a model is then seen when they are whole.
///
/// # Errors
/// Those of a download.
pub(super) fn describe(
    remotes: &[Remote],
    parts: &mut [Part],
    downloader: &mut Downloader<'_>,
) -> Result<Option<Description>> {
    let mut heads = Vec::with_capacity(parts.len());
    for (remote, part) in remotes.iter().zip(parts) {
        match head(remote, part, downloader)? {
            Some(head) => heads.push(head),
            None => return Ok(None),
        }
    }
    Ok(GgufFile::from_heads(heads).ok().map(Description::of))
}

/// The description of one file.
fn head(remote: &Remote, part: &mut Part, downloader: &mut Downloader<'_>) -> Result<Option<Head>> {
    for wanted in HEAD_BYTES {
        downloader.beginning(remote, part, wanted)?;
        let Some(file_bytes) = part.version.bytes else { return Ok(None) };
        // What fails may only be cut: no error is told before the file is whole.
        if let Ok(head) = Head::parse(&part.first(wanted)?, file_bytes) {
            return Ok(Some(head));
        }
        if part.bytes >= file_bytes {
            break;
        }
    }
    Ok(None)
}
