//! `hublab tokenize`: text to token ids and back. Opens the vocabulary only.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use hublabio_runtime::ai;
use hublabio_runtime::ai::tokenizer::{DecodeOptions, EncodeOptions};

use crate::args::TokenizeArgs;
use crate::{input, output};

pub fn tokenize(args: &TokenizeArgs) -> Result<ExitCode> {
    let tokenizer = ai::read_tokenizer(&args.model.open_file()?).map_err(|error| args.model.in_file(error))?;
    for warning in tokenizer.warnings() {
        output::note(warning);
    }
    if args.decode {
        let options = DecodeOptions { control_text: args.parse_special, ..DecodeOptions::default() };
        output::bytes(&tokenizer.decode_with(&input::ids(args.json)?, options)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = EncodeOptions { add_bos: Some(args.bos), add_eos: Some(args.eos), parse_special: args.parse_special };
    let ids: Vec<u32> = tokenizer.encode_bytes(&input::bytes()?, options)?.into_iter().map(|id| id.0).collect();
    if args.json {
        output::json(&input::Ids { ids })?;
    } else {
        let mut line = String::new();
        for id in ids {
            let gap = if line.is_empty() { "" } else { " " };
            write!(line, "{gap}{id}").expect("a String takes any text");
        }
        line.push('\n');
        output::bytes(line.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
