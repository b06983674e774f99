//! What stands in for the compiler in a build without the feature `constraints`: it refuses by name.

use hublabio_tokenizer::{TokenId, Tokenizer};

use super::{ConstraintConfig, ConstraintError};

/// Refuses every constraint: this build has none.
#[derive(Debug, Clone)]
pub struct ConstraintCompiler;

/// Never made: this build has no constraints.
#[derive(Debug, Clone)]
pub enum Constraint {}

impl ConstraintCompiler {
    /// A compiler that refuses everything.
    ///
    /// # Errors
    /// Always [`ConstraintError::NotBuilt`].
    pub fn new(_tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        Err(ConstraintError::NotBuilt)
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always [`ConstraintError::NotBuilt`].
    pub fn compile(&self, _config: &ConstraintConfig) -> Result<Constraint, ConstraintError> {
        Err(ConstraintError::NotBuilt)
    }
}

impl Constraint {
    /// There is no constraint to ask.
    ///
    /// # Errors
    /// None: there is no value of this type.
    pub fn mask(&mut self) -> Result<&[u32], ConstraintError> {
        match *self {}
    }

    /// There is no constraint to tell.
    ///
    /// # Errors
    /// None: there is no value of this type.
    pub fn accept(&mut self, _token: TokenId) -> Result<(), ConstraintError> {
        match *self {}
    }

    /// There is no constraint to ask.
    pub fn may_end(&mut self) -> bool {
        match *self {}
    }

    /// There is no constraint to ask.
    pub fn is_finished(&self) -> bool {
        match *self {}
    }

    /// There is no constraint to ask.
    pub fn warnings(&self) -> &[String] {
        match *self {}
    }
}
