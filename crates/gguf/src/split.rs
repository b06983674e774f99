//! Models in several files: names `<stem>-00001-of-0000N.gguf`, counted from one; inside, `split.no` counts from zero.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::metadata::Metadata;

pub(crate) const NO: &str = "split.no";
pub(crate) const COUNT: &str = "split.count";
pub(crate) const TENSORS: &str = "split.tensors.count";

/// Most parts of one model: what five digits of the name can count.
pub(crate) const MAX_PARTS: u64 = 99_999;

const RENAME: &str = "keep the parts' original names, <name>-00001-of-0000N.gguf, in one folder";

/// The file name of part `part` (from 0) of `count`: `split_file_name("model", 0, 3)` is `model-00001-of-00003.gguf`.
pub fn split_file_name(stem: &str, part: usize, count: usize) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", part + 1)
}

/// Stem, part (from 0) and count of a file name made by [`split_file_name`].
pub fn parse_split_name(name: &str) -> Option<(&str, usize, usize)> {
    let rest = name.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok());
    let (number, count): (usize, usize) = (digits(number)??, digits(count)??);
    (1..=count).contains(&number).then(|| (stem, number - 1, count))
}

/// What one part says about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitKeys {
    pub part: u64,
    pub count: u64,
    pub n_tensors: Option<u64>,
}

/// The split keys of a part; `None` for a model in one file.
pub(crate) fn split_keys(metadata: &Metadata) -> Result<Option<SplitKeys>, Error> {
    let Some(count) = metadata.u64(COUNT)? else {
        return Ok(None);
    };
    if count <= 1 {
        return Ok(None);
    }
    if count > MAX_PARTS {
        return Err(Error::ValueOutOfRange {
            key: COUNT.into(),
            value: count.to_string(),
            expected: "1 to 99999 parts",
        });
    }
    let Some(part) = metadata.u64(NO)? else {
        return Err(Error::Split {
            problem: format!("{COUNT} is {count}, but {NO} is missing"),
            advice: "split the model again",
        });
    };
    if part >= count {
        return Err(Error::Split {
            problem: format!("{NO} is {part}, but there are only {count} parts (counted from 0)"),
            advice: "split the model again",
        });
    }
    Ok(Some(SplitKeys { part, count, n_tensors: metadata.u64(TENSORS)? }))
}

/// The paths of all parts, given the path and the keys of one. All are checked to exist, so that one error names
/// everything that is missing.
pub(crate) fn part_paths(opened: &Path, keys: SplitKeys) -> Result<Vec<PathBuf>, Error> {
    let name = opened.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((stem, part, count)) = parse_split_name(name) else {
        return Err(Error::Split {
            problem: format!(
                "this file is part {} of {}, but its name does not say where the others are",
                keys.part + 1,
                keys.count
            ),
            advice: RENAME,
        });
    };
    if (part as u64, count as u64) != (keys.part, keys.count) {
        return Err(Error::Split {
            problem: format!(
                "the name says part {} of {count}, the file itself says part {} of {}",
                part + 1,
                keys.part + 1,
                keys.count
            ),
            advice: RENAME,
        });
    }
    let paths: Vec<PathBuf> =
        (0..count).map(|part| opened.with_file_name(split_file_name(stem, part, count))).collect();
    let missing: Vec<&PathBuf> = paths.iter().filter(|path| !path.exists()).collect();
    if let Some(first) = missing.first() {
        return Err(Error::Split {
            problem: format!("{} of {count} parts are missing, the first is {}", missing.len(), first.display()),
            advice: "fetch the missing parts into the same folder",
        });
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(split_file_name("my-model", 0, 12), "my-model-00001-of-00012.gguf");
        assert_eq!(parse_split_name("my-model-00001-of-00012.gguf"), Some(("my-model", 0, 12)));
        for other in [
            "model.gguf",
            "model-00000-of-00002.gguf",
            "model-00003-of-00002.gguf",
            "model-1-of-2.gguf",
            "model-00001-of-00002.bin",
            "model-0000x-of-00002.gguf",
            "model-+0001-of-00002.gguf",
            "",
        ] {
            assert_eq!(parse_split_name(other), None, "{other}");
        }
    }
}
