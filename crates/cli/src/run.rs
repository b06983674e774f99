//! `hublab run`: one prompt, one answer.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use hublabio_runtime::ai::tokenizer::EncodeOptions;
use hublabio_runtime::ai::{ChatOptions, ChatPrompt, Finish, Message};
use serde_json::json;

use crate::args::RunArgs;
use crate::interrupt::Interrupt;
use crate::model::{ModelName, OpenModel};
use crate::prompt::{self, AnswerView};
use crate::{EXIT_INTERRUPTED, Usage, generate, input, output, remote};

pub fn run(args: &RunArgs) -> Result<ExitCode> {
    if args.service.is_wanted() {
        return remote::run(args);
    }
    let (name, given) = positionals(args.model.as_deref(), args.prompt.as_deref())?;
    let name = args.default_model.clone().unwrap_or(name);
    let given = given.map(|prompt| check_prompt(&prompt, args.raw)).transpose()?;
    let mut config = args.generation.generation_config(&name)?;
    config.logprobs = args.logprobs;
    let mut messages = args.messages.as_deref().map(prompt::messages_file).transpose()?.unwrap_or_default();
    let mut model = args.generation.open(&name)?;
    let options = args.template.apply(&name, &mut model)?;
    // Standard input is read last, so that a wrong model is said before someone has typed or piped anything.
    let prompt = match given {
        Some(prompt) => Some(prompt),
        None if args.messages.is_some() => None,
        None => Some(check_prompt(&input::prompt("hublab run", "hublab chat")?, args.raw)?),
    };
    let prompt = if args.raw {
        raw_prompt(&name, &model, args.parse_special, prompt.unwrap_or_default())?
    } else {
        if let Some(system) = &args.system {
            messages.insert(0, Message::new("system", system.as_str()));
        }
        messages.extend(prompt.map(|prompt| Message::new("user", prompt)));
        chat_prompt(&name, &mut model, &messages, &options)?
    };
    if args.dry_run {
        if args.template.json {
            let ids: Vec<u32> = prompt.tokens.iter().map(|token| token.0).collect();
            output::json(&json!({ "prompt": prompt.text, "ids": ids }))?;
        } else {
            output::bytes(prompt.text.as_bytes())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let interrupt = Interrupt::listen()?;
    let view = if args.raw {
        AnswerView::new(None, false, args.template.json)
    } else {
        args.template.view(&model, &options, &prompt, &mut config)?
    };
    let calls_before = messages.iter().map(|message| message.tool_calls.len()).sum();
    let (generation, answer) = generate::answer(&mut model, &prompt.tokens, &config, &interrupt, view, calls_before)?;
    if args.template.json {
        output::json(&prompt::answer_json(&model, answer, &generation, &config)?)?;
    }
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
            "there is neither a model file {0} nor a model of that name: give the path of a .gguf file or a name that \
             `hublab ls` lists, or put a prompt of several words in quotes",
            model.display()
        ),
    })
}

/// Refuses an empty prompt. A shell's `echo` ends a piped prompt with a line break, which is no part of the message.
pub fn check_prompt(prompt: &str, raw: bool) -> Result<String> {
    if if raw { prompt.is_empty() } else { prompt.trim().is_empty() } {
        return Err(Usage("the prompt is empty: give some text".into()).into());
    }
    if raw {
        return Ok(prompt.to_owned());
    }
    let message = prompt.strip_suffix('\n').map_or(prompt, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(message.to_owned())
}

fn raw_prompt(name: &ModelName, model: &OpenModel, parse_special: bool, text: String) -> Result<ChatPrompt> {
    let options = EncodeOptions { add_bos: None, add_eos: Some(false), parse_special };
    let tokens = model.engine.tokenizer().map_err(|error| name.in_file(error))?.encode(&text, options)?;
    Ok(ChatPrompt { text, tokens })
}

fn chat_prompt(
    name: &ModelName,
    model: &mut OpenModel,
    messages: &[Message],
    options: &ChatOptions,
) -> Result<ChatPrompt> {
    let prompt = model.engine.chat_prompt_with(messages, options).map_err(|error| name.in_file(error))?;
    model.say_notices();
    Ok(prompt)
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
