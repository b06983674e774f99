//! How messages become a prompt, and the text of an answer what is shown: shared by `run` and `chat`.

use std::path::Path;

use anyhow::{Context, Result};
use hublabio_runtime::ai::tokenizer::TokenId;
use hublabio_runtime::ai::{
    Answer, ChatOptions, ChatPrompt, Event, Finish, Generation, GenerationConfig, Json, Message, OutputParser, Tool,
};
use serde_json::json;

use crate::args::PromptArgs;
use crate::input::text_file;
use crate::model::{ModelName, OpenModel};
use crate::output::{self, AnswerWriter, StdoutError, ThoughtWriter};

impl PromptArgs {
    /// Sets the template that is asked for, and reads what else goes into prompts.
    pub fn apply(&self, name: &ModelName, model: &mut OpenModel) -> Result<ChatOptions> {
        let tools = match &self.tools {
            Some(path) => tools_file(path)?,
            None => Vec::new(),
        };
        if let Some(path) = &self.template {
            let source = text_file(path)?;
            model.engine.set_chat_template(&source).with_context(|| format!("in {}", path.display()))?;
        } else if let Some(template) = &self.template_name {
            model.engine.select_chat_template(template).map_err(|error| name.in_file(error))?;
        } else if !tools.is_empty() {
            model.engine.prefer_tool_template().map_err(|error| name.in_file(error))?;
        }
        Ok(ChatOptions { tools, variables: self.template_vars.clone(), tool_format: self.tool_format })
    }

    /// What shows an answer to `prompt`; `config` is made to let the marks of tool calls and reasoning through.
    pub fn view(
        &self,
        model: &OpenModel,
        options: &ChatOptions,
        prompt: &ChatPrompt,
        config: &mut GenerationConfig,
    ) -> Result<AnswerView> {
        let parser = model.engine.output_parser(prompt, options)?;
        config.shown_tokens = model.engine.marks(&parser)?;
        Ok(AnswerView::new(Some(parser), self.hide_reasoning, self.json))
    }
}

/// The messages of a JSON file.
pub fn messages_file(path: &Path) -> Result<Vec<Message>> {
    Message::list_from_json(&json_file(path)?).with_context(|| format!("in {}", path.display()))
}

/// The tools of a JSON file.
pub fn tools_file(path: &Path) -> Result<Vec<Tool>> {
    Tool::list_from_json(&json_file(path)?).with_context(|| format!("in {}", path.display()))
}

fn json_file(path: &Path) -> Result<Json> {
    serde_json::from_str(&text_file(path)?).with_context(|| format!("{} is not valid JSON", path.display()))
}

/// `KEY=JSON` of a flag; what is no JSON is a text.
pub fn template_var(text: &str) -> Result<(String, Json), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
        }
        _ => Err("give KEY=JSON, such as enable_thinking=false".to_owned()),
    }
}

/// Shows an answer as it comes: content and tool calls on standard output, reasoning dimmed on standard error. With
/// JSON nothing is shown before the end.
pub struct AnswerView {
    parser: Option<OutputParser>,
    hide_reasoning: bool,
    json: bool,
    out: AnswerWriter,
    thoughts: ThoughtWriter,
    answer: Answer,
}

impl AnswerView {
    /// Without a parser all text is content.
    pub fn new(parser: Option<OutputParser>, hide_reasoning: bool, json: bool) -> Self {
        let (out, thoughts) = (AnswerWriter::new(), ThoughtWriter::new());
        Self { parser, hide_reasoning, json, out, thoughts, answer: Answer::default() }
    }

    /// Takes more of the text.
    pub fn piece(&mut self, text: &str) -> Result<(), StdoutError> {
        let events = match &mut self.parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Event::Content(text.to_owned())],
        };
        events.into_iter().try_for_each(|event| self.event(event))
    }

    /// Takes a part of the answer.
    pub fn event(&mut self, event: Event) -> Result<(), StdoutError> {
        let shown = !self.json;
        match &event {
            Event::Content(text) if shown => {
                self.thoughts.end();
                self.out.piece(text)?;
            }
            Event::Reasoning(text) if shown && !self.hide_reasoning => self.thoughts.piece(text),
            Event::ToolCall(call) if shown => {
                self.thoughts.end();
                self.out.end_line()?;
                let line = json!({ "tool_call": { "name": call.name, "arguments": call.arguments } });
                self.out.piece(&format!("{line}\n"))?;
            }
            Event::Malformed(malformed) if shown => {
                self.thoughts.end();
                self.out.piece(&malformed.raw)?;
                self.out.end_line()?;
                output::note(&malformed.to_string());
            }
            _ => {}
        }
        self.answer.add(event);
        Ok(())
    }

    /// The text is over: shows the rest, ends the line, and returns all of the answer. Calls that have no id get one,
    /// counted from `calls_before`.
    pub fn finish(mut self, calls_before: usize) -> (Answer, Result<(), StdoutError>) {
        let rest = self.parser.take().map(OutputParser::finish).unwrap_or_default();
        let mut written = Ok(());
        for event in rest {
            written = written.and(self.event(event));
        }
        self.thoughts.end();
        written = written.and(self.out.end_line());
        for (at, call) in self.answer.tool_calls.iter_mut().enumerate() {
            // Nine letters and digits, which is what Mistral's templates insist on.
            call.id.get_or_insert_with(|| format!("call{:05}", calls_before + at));
        }
        (self.answer, written)
    }
}

/// An answer as `--json` prints it.
pub fn answer_json(
    model: &OpenModel,
    answer: Answer,
    generation: &Generation,
    config: &GenerationConfig,
) -> Result<Json> {
    let (finish, stop) = match generation.finish {
        Finish::EndOfText if answer.tool_calls.is_empty() => ("end", None),
        Finish::EndOfText => ("tool_calls", None),
        Finish::Stop(index) => ("stop", config.stop.get(index)),
        Finish::Length => ("length", None),
        Finish::Context => ("context", None),
        Finish::Cancelled => ("cancelled", None),
    };
    let malformed: Vec<Json> =
        answer.malformed.iter().map(|call| json!({ "raw": call.raw, "reason": call.reason })).collect();
    let mut line = json!({ "message": answer.into_message().to_json(), "finish": finish, "stop": stop });
    if !malformed.is_empty() {
        line["malformed_tool_calls"] = Json::Array(malformed);
    }
    line["text"] = json!(generation.text);
    line["ids"] = generation.tokens.iter().map(|id| id.0).collect();
    line["prompt_tokens"] = json!(generation.stats.prompt_tokens);
    if config.logprobs.is_some() {
        let tokenizer = model.engine.tokenizer()?;
        let token = |id: TokenId, logprob: f32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            json!({ "id": id.0, "token": String::from_utf8_lossy(bytes), "bytes": bytes, "logprob": logprob })
        };
        let entries = generation.logprobs.iter().map(|found| {
            let mut entry = token(found.token, found.logprob);
            entry["top"] = found.top.iter().map(|&(id, logprob)| token(id, logprob)).collect();
            entry
        });
        line["logprobs"] = entries.collect();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_variable_is_json_or_text() {
        assert_eq!(template_var("enable_thinking=false"), Ok(("enable_thinking".into(), json!(false))));
        assert_eq!(template_var("a={\"b\": [1]}"), Ok(("a".into(), json!({ "b": [1] }))));
        assert_eq!(template_var("date_string=1 May 2026"), Ok(("date_string".into(), json!("1 May 2026"))));
        assert_eq!(template_var("x="), Ok(("x".into(), json!(""))));
        assert!(template_var("x").is_err() && template_var("=1").is_err());
    }
}
