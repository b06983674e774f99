//! The flags that say what an answer must look like.

use std::path::Path;

use anyhow::{Context, Result};
use hublabio_runtime::ai::constraint::{ConstraintConfig, ConstraintSource};

use crate::Usage;
use crate::args::ConstraintArgs;
use crate::input::text_file;

impl ConstraintArgs {
    /// The constraint that the flags ask for, its file read.
    pub fn config(&self) -> Result<Option<ConstraintConfig>> {
        let source = if let Some(schema) = &self.json_schema {
            json_schema(schema)?
        } else if let Some(regex) = &self.regex {
            ConstraintSource::Regex(regex.clone())
        } else if let Some(path) = &self.grammar {
            grammar(path)?
        } else {
            return Ok(None);
        };
        Ok(Some(ConstraintConfig { source, after: self.constrain_after.clone() }))
    }
}

/// A schema is an object or a boolean; no file has such a name.
fn json_schema(argument: &str) -> Result<ConstraintSource> {
    if argument.trim_start().starts_with('{') || ["true", "false"].contains(&argument.trim()) {
        return Ok(ConstraintSource::json_schema(argument)?);
    }
    let text = text_file(Path::new(argument)).context("--json-schema")?;
    ConstraintSource::json_schema(&text).with_context(|| argument.to_owned())
}

fn grammar(path: &Path) -> Result<ConstraintSource> {
    let is = |extension: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
    if is("gbnf") {
        Ok(ConstraintSource::Gbnf(text_file(path).context("--grammar")?))
    } else if is("lark") {
        Ok(ConstraintSource::Lark(text_file(path).context("--grammar")?))
    } else {
        let problem = "the name of a grammar must end in .gbnf (llama.cpp's form) or .lark (llguidance's)";
        Err(Usage(format!("--grammar {}: {problem}", path.display())).into())
    }
}
