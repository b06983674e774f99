//! `hublab run`: one prompt, one answer.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use hublabio_runtime::ai::Finish;
use hublabio_runtime::ai::Message;
use hublabio_runtime::ai::tokenizer::{EncodeOptions, TokenId};

use crate::args::RunArgs;
use crate::interrupt::Interrupt;
use crate::model::{ModelName, OpenModel};
use crate::{EXIT_INTERRUPTED, Usage, generate, input, output};

pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let (name, prompt) = positionals(args.model.as_deref(), args.prompt.as_deref())?;
    let given = prompt.map(|prompt| check_prompt(&prompt, args.raw)).transpose()?;
    let mut config = args.generation.generation_config(&name)?;
    config.logprobs = args.logprobs;
    let mut model = args.generation.open(&name)?;
    // Standard input is read last, so that a wrong model is said before someone has typed or piped anything.
    let prompt = match given {
        Some(prompt) => prompt,
        None => check_prompt(&input::prompt()?, args.raw)?,
    };
    let ids = prompt_ids(&name, &mut model, args, &prompt)?;
    let interrupt = Interrupt::listen()?;
    let generation = if args.json {
        let generation = generate::silent_answer(&mut model, &ids, &config, &interrupt)?;
        output::json(&generate::as_json(&model, &generation, &config)?)?;
        generation
    } else {
        generate::answer(&mut model, &ids, &config, &interrupt)?
    };
    if args.generation.stats {
        generate::print_stats(&model, &generation.stats);
    }
    Ok(match generation.finish {
        Finish::Cancelled => ExitCode::from(EXIT_INTERRUPTED),
        _ => ExitCode::SUCCESS,
    })
}

/// What the two optional arguments mean: a lone one may be either.
fn positionals(first: Option<&OsStr>, second: Option<&OsStr>) -> Result<(ModelName, Option<String>)> {
    let prompt_text = |argument: &OsStr| match argument.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Usage("the prompt is not UTF-8: convert it first".into())),
    };
    Ok(match (first, second) {
        (None, _) => (ModelName::Default, None),
        (Some(first), None) if ModelName::is_meant_by(first) => (ModelName::from(first), None),
        (Some(prompt), None) => (ModelName::Default, Some(prompt_text(prompt)?)),
        (Some(model), Some(prompt)) if ModelName::is_meant_by(model) || Path::new(model).exists() => {
            (ModelName::from(model), Some(prompt_text(prompt)?))
        }
        (Some(model), Some(_)) => bail!(
            "there is no model file {}: give the path of a .gguf file, or put a prompt of several words in quotes",
            model.display()
        ),
    })
}

/// Refuses an empty prompt. A shell's `echo` ends a piped prompt with a line break, which is no part of the message.
fn check_prompt(prompt: &str, raw: bool) -> Result<String> {
    if if raw { prompt.is_empty() } else { prompt.trim().is_empty() } {
        return Err(Usage("the prompt is empty: give some text".into()).into());
    }
    if raw {
        return Ok(prompt.to_owned());
    }
    let message = prompt.strip_suffix('\n').map_or(prompt, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(message.to_owned())
}

fn prompt_ids(name: &ModelName, model: &mut OpenModel, args: &RunArgs, prompt: &str) -> Result<Vec<TokenId>> {
    if args.raw {
        let options = EncodeOptions { add_bos: None, add_eos: Some(false), parse_special: args.parse_special };
        return Ok(model.engine.tokenizer().map_err(|error| name.in_file(error))?.encode(prompt, options)?);
    }
    let system = args.system.iter().map(|system| Message::new("system", system.as_str()));
    let messages: Vec<_> = system.chain([Message::new("user", prompt)]).collect();
    let ids = model.engine.chat_prompt(&messages).map_err(|error| name.in_file(error))?;
    model.say_notices();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_argument_is_a_model_only_if_it_looks_like_one() {
        let check = |first: Option<&str>, second: Option<&str>| {
            positionals(first.map(OsStr::new), second.map(OsStr::new)).map_err(|error| error.to_string())
        };
        let file = |path: &str| ModelName::File(path.into());
        assert_eq!(check(None, None), Ok((ModelName::Default, None)));
        assert_eq!(check(Some("default"), None), Ok((ModelName::Default, None)));
        assert_eq!(check(Some("no/such.gguf"), None), Ok((file("no/such.gguf"), None)));
        assert_eq!(check(Some("no/such.GGUF"), None), Ok((file("no/such.GGUF"), None)));
        let this = concat!(env!("CARGO_MANIFEST_DIR"), "/src/run.rs");
        assert_eq!(check(Some(this), None), Ok((file(this), None)));
        // A folder is no model.
        assert_eq!(check(Some("/"), None), Ok((ModelName::Default, Some("/".into()))));
        assert_eq!(check(Some("What?"), None), Ok((ModelName::Default, Some("What?".into()))));
        assert_eq!(check(Some("default"), Some("What?")), Ok((ModelName::Default, Some("What?".into()))));
        assert_eq!(check(Some("a.gguf"), Some("b.gguf")), Ok((file("a.gguf"), Some("b.gguf".into()))));
        assert!(check(Some("two"), Some("words")).unwrap_err().contains("quotes"));
    }

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_a_message() {
        let check = |prompt: &str, raw| check_prompt(prompt, raw).map_err(|error| error.to_string());
        assert_eq!(check("a\n", false).unwrap(), "a");
        assert_eq!(check("a\r\n", false).unwrap(), "a");
        assert_eq!(check("a\n\n", false).unwrap(), "a\n");
        assert_eq!(check("a\n", true).unwrap(), "a\n");
        assert_eq!(check("\n", true).unwrap(), "\n");
        for empty in ["", "\n", " \t\n"] {
            assert!(check(empty, false).unwrap_err().contains("empty"));
        }
        assert!(check("", true).is_err());
    }
}
