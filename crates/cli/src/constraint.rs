//! The flags that say what an answer must look like.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hublabio_runtime::ai::constraint::{ConstraintConfig, ConstraintSource};

use crate::Usage;
use crate::args::ConstraintArgs;

/// Largest file that is read as a schema or a grammar.
const FILE_BYTES_MAX: u64 = 16 << 20;

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
    let text = read(Path::new(argument), "--json-schema")?;
    ConstraintSource::json_schema(&text).with_context(|| argument.to_owned())
}

fn grammar(path: &Path) -> Result<ConstraintSource> {
    let is = |extension: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
    if is("gbnf") {
        Ok(ConstraintSource::Gbnf(read(path, "--grammar")?))
    } else if is("lark") {
        Ok(ConstraintSource::Lark(read(path, "--grammar")?))
    } else {
        let problem = "the name of a grammar must end in .gbnf (llama.cpp's form) or .lark (llguidance's)";
        Err(Usage(format!("--grammar {}: {problem}", path.display())).into())
    }
}

fn read(path: &Path, flag: &str) -> Result<String> {
    let named = || format!("{flag} {}", path.display());
    let bytes = fs::metadata(path).with_context(named)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(
            Usage(format!("{}: {bytes} bytes are more than the {FILE_BYTES_MAX} that are read", named())).into()
        );
    }
    fs::read_to_string(path).with_context(named)
}
