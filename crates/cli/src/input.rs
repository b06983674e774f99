//! Standard input: prompts, texts and token ids; and the small text files that flags name.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use hublabio_runtime::ai::tokenizer::TokenId;
use serde::{Deserialize, Serialize};

use crate::Usage;

/// Most that is read from standard input: what the tokenizer takes in one call.
const INPUT_BYTES_MAX: u64 = 1 << 30;

/// Token ids as they travel between verbs: `{"ids":[…]}`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    pub ids: Vec<u32>,
}

/// Longest template, schema, grammar, list of tools or list of messages that is read.
const TEXT_FILE_BYTES_MAX: u64 = 1 << 26;

/// The text of a file that a flag names.
pub fn text_file(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a longer file; a device has no length to look at before.
    File::open(path)
        .and_then(|file| file.take(TEXT_FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > TEXT_FILE_BYTES_MAX {
        bail!("{} is longer than {TEXT_FILE_BYTES_MAX} bytes: is it the right file?", path.display());
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8: convert it first", path.display()))
}

/// All of standard input.
pub fn bytes() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.context("cannot read standard input")?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        bail!("standard input is longer than {INPUT_BYTES_MAX} bytes: split it");
    }
    Ok(bytes)
}

/// The prompt that standard input holds, for the verb `verb`; `talk` is the one for conversations.
pub fn prompt(verb: &str, talk: &str) -> Result<String> {
    if io::stdin().is_terminal() {
        return Err(Usage(format!(
            "there is no prompt: give one (`{verb} \"…\"`) or pipe it in; `{talk}` is for a conversation"
        ))
        .into());
    }
    String::from_utf8(bytes()?).map_err(|error| {
        anyhow::anyhow!(
            "the prompt on standard input is not UTF-8: byte {} starts no valid character, convert it first",
            error.utf8_error().valid_up_to()
        )
    })
}

/// The token ids that standard input holds: `{"ids":[…]}`, or numbers between white space unless `only_json`.
pub fn ids(only_json: bool) -> Result<Vec<TokenId>> {
    parse_ids(&bytes()?, only_json)
}

/// As [`ids`], of bytes that were read already.
pub fn parse_ids(bytes: &[u8], only_json: bool) -> Result<Vec<TokenId>> {
    let ids = if only_json || bytes.trim_ascii_start().starts_with(b"{") {
        let parsed: Ids = serde_json::from_slice(bytes)
            .context("standard input holds no token ids: give JSON like {\"ids\":[1,15043]}")?;
        parsed.ids
    } else {
        let number = |word: &[u8]| std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        let words = bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let parsed: Result<_> = words
            .map(|word| {
                number(word).with_context(|| {
                    let word = crate::output::one_line(&String::from_utf8_lossy(word), 20);
                    format!("{word:?} on standard input is no token id: give {{\"ids\":[1,15043]}} or plain numbers")
                })
            })
            .collect();
        parsed?
    };
    Ok(ids.into_iter().map(TokenId).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_as_json_or_as_plain_numbers() {
        let ids = |text: &str, only_json| parse_ids(text.as_bytes(), only_json);
        let expected = [TokenId(1), TokenId(15043)];
        assert_eq!(ids(" {\"ids\": [1, 15043]}\n", true).unwrap(), expected);
        assert_eq!(ids("{\"ids\":[1,15043]}", false).unwrap(), expected);
        assert_eq!(ids(" 1\n15043 ", false).unwrap(), expected);
        assert_eq!(ids("", false).unwrap(), []);
        for bad in [
            "[1]",
            "{\"ids\":[-1]}",
            "{\"ids\":[4294967296]}",
            "{\"ids\":[1],\"more\":2}",
            "{\"ids\":[1]} x",
            "{}",
            "1",
        ] {
            assert!(ids(bad, true).is_err(), "{bad}");
        }
        for bad in ["1 -2", "1,2", "x", "4294967296", "{\"ids\":1}"] {
            assert!(ids(bad, false).is_err(), "{bad}");
        }
    }
}
