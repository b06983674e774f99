//! Descriptions of architectures that are not built in: a TOML beside the model file, in its metadata, or named by the
//! caller. `docs/CUSTOM.md` lists the entries; what they mean is in [`Architecture`].

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use hublabio_engine::{Architecture, find_architecture};
use hublabio_gguf::GgufFile;

use crate::error::{Error, Result};
use crate::toml_text::problem;

/// The metadata key under which a model file can carry its own description.
const KEY: &str = "hublab.architecture";
/// A description is a page, not a book.
const BYTES_MAX: usize = 64 * 1024;

/// Reads a description. `base = "NAME"` begins with a built-in one, whose entries stay where the text has none.
/// `origin` is what errors call it.
///
/// # Errors
/// With line and column: text that is no TOML, entries that there are not, values that an entry cannot have.
pub fn parse_architecture(text: &str, origin: &str) -> Result<Architecture> {
    let bad = |problem: String| Error::Description { origin: origin.to_owned(), problem };
    if text.len() > BYTES_MAX {
        return Err(bad(format!("it is longer than {BYTES_MAX} bytes")));
    }
    let mut table: toml::Table = toml::from_str(text).map_err(|error| bad(problem(&error, text)))?;
    let Some(base) = table.remove("base") else {
        // Straight from the text, so that an error has its place.
        let architecture: Architecture = toml::from_str(text).map_err(|error| bad(problem(&error, text)))?;
        return checked(architecture);
    };
    let Some(name) = base.as_str() else {
        return Err(bad("`base` is no name of an architecture".into()));
    };
    let Some(built_in) = find_architecture(name) else {
        return Err(bad(format!("`base` = `{name}`: there is no built-in architecture of that name")));
    };
    let mut merged = toml::Table::try_from(&built_in).map_err(|error| bad(error.to_string()))?;
    merge(&mut merged, table);
    checked(merged.try_into().map_err(|error: toml::de::Error| bad(error.message().to_owned()))?)
}

fn checked(architecture: Architecture) -> Result<Architecture> {
    architecture.check()?;
    Ok(architecture)
}

/// Entries of `over` take the place of those in `under`, table by table.
fn merge(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) if !is_choice(&key) => merge(below, above),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Entries whose value is one of several tables: they are replaced whole.
fn is_choice(key: &str) -> bool {
    matches!(key, "scale" | "window")
}

/// The description that goes with a file: `MODEL.arch.toml` beside `MODEL.gguf`, or the one in its metadata.
pub(crate) fn find_description(file: &GgufFile) -> Result<Option<Architecture>> {
    if let Some(path) = file.path().map(beside)
        && path.is_file()
    {
        return read_architecture(&path).map(Some);
    }
    let text = file.metadata().str(KEY)?;
    text.map(|text| parse_architecture(text, &format!("metadata key `{KEY}`"))).transpose()
}

fn beside(model: &Path) -> PathBuf {
    model.with_extension("arch.toml")
}

/// Reads a description from a file.
///
/// # Errors
/// When the file cannot be read, and those of [`parse_architecture`].
pub fn read_architecture(path: &Path) -> Result<Architecture> {
    let origin = path.display().to_string();
    let bad = |problem: String| Error::Description { origin: origin.clone(), problem };
    let mut text = String::new();
    // One byte more than allowed, so that `parse_architecture` sees that it is too long; a device has no end.
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|cause| bad(format!("cannot be read: {cause}")))?;
    parse_architecture(&text, &origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_begins_with_its_base() {
        let text = "name = \"mine\"\nbase = \"gemma2\"\n[attention]\nsoft-cap = 20.0\nscale = \"head\"\nwindow = \"all\"\n\
                    [tensors]\nattn_q = \"h.{layer}.q\"\n";
        let mine = parse_architecture(text, "here").unwrap();
        let mut expected = find_architecture("gemma2").unwrap();
        expected.name = "mine".into();
        expected.attention.soft_cap = Some(20.0);
        expected.attention.scale = hublabio_engine::architecture::AttentionScale::Head;
        expected.attention.window = hublabio_engine::architecture::WindowPattern::All;
        expected.tensors.insert("attn_q".into(), "h.{layer}.q".into());
        assert_eq!(mine, expected);
    }

    #[test]
    fn every_built_in_description_can_be_written_as_text() {
        for name in ["llama", "qwen2moe", "gemma3", "stablelm", "bert", "nomic-bert", "granite"] {
            let built_in = find_architecture(name).unwrap();
            let text = toml::to_string(&built_in).unwrap();
            assert_eq!(parse_architecture(&text, name).unwrap(), built_in, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let check = |text: &str, says: &[&str]| {
            let message = parse_architecture(text, "mine.toml").unwrap_err().to_string();
            for part in says {
                assert!(message.contains(part), "`{message}` does not say `{part}`");
            }
        };
        check("name = ", &["mine.toml", "line 1"]);
        check("name = \"a\"\n[attention]\ncasual = true\n", &["line 3", "casual", "causal"]);
        check("name = \"a\"\nnorm = \"batch\"\n", &["line 2", "batch", "rms"]);
        check("base = \"gpt5\"\nname = \"a\"", &["gpt5"]);
        check("base = \"llama\"\nname = \"a\"\nnrom = \"rms\"", &["nrom"]);
        check("norm = \"rms\"", &["`name` is missing"]);
        check("name = \"a\"\n[tensors]\nattn_x = \"y.{layer}\"", &["attn_x", "attn_qkv"]);
        check("name = \"a\"\n[tensors]\nattn_q = \"q\"", &["attn_q", "{layer}"]);
        check(&"#".repeat(BYTES_MAX + 1), &["65536"]);
        check("name = \"a\"\n[keys]\n\"attention.heads\" = 3", &["attention.heads", "attention.head_count"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_without_end_is_refused() {
        let message = read_architecture(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(message.contains("/dev/zero") && message.contains("65536"), "{message}");
    }
}
