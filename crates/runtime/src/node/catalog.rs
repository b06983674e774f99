//! Which models there are, by name.

use std::time::SystemTime;

use crate::ai::{DEFAULT_MODEL, DEFAULT_MODEL_NAME};
use crate::error::{Error, Result};
use crate::moe::ModelSource;
use crate::store::ModelStore;

/// A model that can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogModel {
    /// Its name, the one by which it is listed.
    pub name: String,
    /// Where its weights are.
    pub source: ModelSource,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was last changed; `None` for one of the binary.
    pub modified: Option<SystemTime>,
    /// SHA-256 of its file, in hexadecimal, where it is known.
    pub sha256: Option<String>,
}

/// Names to models.
pub trait ModelCatalog: Send + Sync {
    /// The model of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`], or what is wrong with its file.
    fn find(&self, name: &str) -> Result<CatalogModel>;
    /// All of them, by name.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&self) -> Result<Vec<CatalogModel>>;
    /// The store behind it, which says more of its models, and lets them be renamed and removed.
    fn store(&self) -> Option<&ModelStore> {
        None
    }
}

/// The model of the binary, and no other.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltinCatalog;

impl BuiltinCatalog {
    /// The model of the binary.
    #[must_use]
    pub fn default_model() -> CatalogModel {
        CatalogModel {
            name: DEFAULT_MODEL_NAME.into(),
            source: ModelSource::Builtin(DEFAULT_MODEL_NAME),
            bytes: DEFAULT_MODEL.len() as u64,
            modified: None,
            sha256: None,
        }
    }
}

impl ModelCatalog for BuiltinCatalog {
    fn find(&self, name: &str) -> Result<CatalogModel> {
        let model = Self::default_model();
        if name == model.name { Ok(model) } else { Err(Error::NoSuchModel { name: name.into(), known: model.name }) }
    }

    fn list(&self) -> Result<Vec<CatalogModel>> {
        Ok(vec![Self::default_model()])
    }
}
