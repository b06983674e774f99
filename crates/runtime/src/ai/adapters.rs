//! LoRA adapters of a running model: which are in use, and how much of each.

use std::path::PathBuf;
use std::sync::Arc;

use hublabio_engine::{ActiveAdapter, Adapter};
use hublabio_gguf::GgufFile;

use super::InferenceEngine;
use crate::error::{Error, Result};

/// A LoRA adapter in a GGUF file, and how much of it is added to the model.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The file, as `hublab convert ADAPTER OUT --base BASE` makes it.
    pub path: PathBuf,
    /// 1 for all of it, 0 for nothing; negative takes away.
    pub scale: f32,
}

impl InferenceEngine {
    /// Computes with these adapters from now on, in place of those before; with none, as the model is. The conversation's
    /// keys and values are forgotten, because the next answer must not be made of two models. After an error all is as
    /// it was.
    ///
    /// # Errors
    /// When a file is no LoRA adapter, was made for another base, or a scale is no number.
    pub fn set_adapters(&mut self, adapters: &[AdapterConfig]) -> Result<()> {
        let mut active = Vec::with_capacity(adapters.len());
        for AdapterConfig { path, scale } in adapters {
            let in_file = |cause| Error::Adapter { path: path.clone(), cause: Box::new(cause) };
            if !scale.is_finite() {
                return Err(Error::AdapterScale { path: path.clone(), scale: *scale });
            }
            let file = GgufFile::open(path)?;
            let adapter = Adapter::open(Arc::new(file), self.model()).map_err(in_file)?;
            active.push(ActiveAdapter { adapter: Arc::new(adapter), scale: *scale });
        }
        self.keep(0)?;
        self.runner.set_adapters(active);
        Ok(())
    }
}
