//! A question in a conversation, with tools and a form for its answer: the prompt that asks it, what the answer is held to, and
//! how it is taken apart. The service and an engine inside of a program share it, so that both give the same answers.
//!
//! It refuses to know dialects: who asks has read the request already.

use hublabio_chat::constraint::{ConstraintConfig, ConstraintSource, ToolSchema};
use hublabio_chat::{CallForm, Json, Message, OutputParser, Tool, ToolFormat};
use hublabio_tokenizer::TokenId;
use serde_json::json;

use super::{ChatOptions, ChatPrompt, ModelText};
use crate::error::{Error, Result};

/// Calls of one answer where a call is enforced and several are allowed.
const PARALLEL_CALLS_MAX: usize = 8;
/// Tags around reasoning that a prompt may end with.
const REASONING_TAGS: [(&str, &str); 4] =
    [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]")];

/// Whether tools are to be called. What is asked for is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// None; the model does not see them.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// A question in a conversation.
#[derive(Clone, Debug)]
pub struct ChatQuestion<'a> {
    /// The conversation, the question last.
    pub messages: &'a [Message],
    /// Tools that the model may call.
    pub tools: &'a [Tool],
    /// Whether it has to.
    pub tool_choice: &'a ToolChoice,
    /// Whether it may call several at once. Where it has to call and nothing is said here, it calls one.
    pub parallel_tool_calls: Option<bool>,
    /// What its text must look like.
    pub format: Option<ConstraintSource>,
    /// What else its template should know (`enable_thinking`, …).
    pub variables: &'a [(String, Json)],
}

/// A question as a model gets it.
#[derive(Clone, Debug)]
pub struct PreparedQuestion {
    /// The prompt.
    pub prompt: ChatPrompt,
    /// What takes the answer apart.
    pub parser: OutputParser,
    /// Control tokens that the parser needs to see.
    pub shown_tokens: Vec<TokenId>,
    /// What the answer is held to, calls included.
    pub constraint: Option<ConstraintConfig>,
    /// Whether a call must come.
    pub call_is_forced: bool,
    /// What was done otherwise than may be expected, in sentences.
    pub notes: Vec<String>,
}

impl ModelText {
    /// Makes a prompt of a question. The constraint is not compiled yet.
    ///
    /// # Errors
    /// [`Error::BadQuestion`], [`Error::Constraint`] for tools whose parameters cannot be enforced, and those of
    /// [`chat_prompt_with`](Self::chat_prompt_with).
    pub fn prepare(&self, question: &ChatQuestion<'_>) -> Result<PreparedQuestion> {
        let tools = question.offered()?;
        let template = self.chat_template()?;
        let messages = question.messages;
        let mut options =
            ChatOptions { tools: tools.to_vec(), variables: question.variables.to_vec(), tool_format: None };
        let uses_tools = !tools.is_empty() || messages.iter().any(|message| !message.tool_calls.is_empty());
        let mut notes = Vec::new();
        let (prompt, format) = if uses_tools && !template.takes_tools() {
            // A model that was never told of tools may still be able to follow a description.
            notes.push("the model's template knows no tools: they are described to it in words".into());
            let told = in_words(messages, tools);
            options.tool_format = Some(ToolFormat::Json);
            let prompt = self.chat_prompt_with(&told, &ChatOptions { tools: Vec::new(), ..options.clone() })?;
            (prompt, ToolFormat::Json)
        } else {
            (self.chat_prompt_with(messages, &options)?, ToolFormat::of_template(template.source()))
        };
        let parser = self.output_parser(&prompt, &options)?;
        let constraint = question.constraint(format)?.map(|source| ConstraintConfig { source, after: opened(&prompt) });
        let call_is_forced = matches!(question.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        Ok(PreparedQuestion { shown_tokens: self.marks(&parser), prompt, parser, constraint, call_is_forced, notes })
    }
}

impl<'a> ChatQuestion<'a> {
    /// The tools that the model is told of; refuses what cannot be meant.
    fn offered(&self) -> Result<&'a [Tool]> {
        let bad = |field, problem: String| Err(Error::BadQuestion { field, problem });
        if self.messages.is_empty() {
            return bad("messages", "is empty: there is nothing to answer".into());
        }
        match self.tool_choice {
            ToolChoice::None => Ok(&[]),
            ToolChoice::Named(name) if !self.tools.iter().any(|tool| tool.name() == name) => {
                bad("tool_choice", format!("names `{name}`, which is none of the tools"))
            }
            ToolChoice::Required if self.tools.is_empty() => {
                bad("tool_choice", "asks for a call, but there are no `tools`".into())
            }
            _ => Ok(self.tools),
        }
    }

    /// What the answer must look like, tool calls included.
    fn constraint(&self, format: ToolFormat) -> Result<Option<ConstraintSource>> {
        let answer = self.format.clone();
        let only = match self.tool_choice {
            _ if self.tools.is_empty() => return Ok(answer),
            ToolChoice::None => return Ok(answer),
            ToolChoice::Auto if answer.is_none() => return Ok(None),
            ToolChoice::Named(name) => Some(name),
            ToolChoice::Auto | ToolChoice::Required => None,
        };
        let schema =
            |tool: &Tool| ToolSchema { name: tool.name().to_owned(), parameters: arguments_schema(tool.parameters()) };
        let chosen = self.tools.iter().filter(|tool| only.is_none_or(|name| tool.name() == name));
        let schemas: Vec<ToolSchema> = chosen.map(schema).collect();
        let several = self.parallel_tool_calls == Some(true) && only.is_none();
        let calls_max = if several { PARALLEL_CALLS_MAX } else { 1 };
        let or = answer.as_ref().filter(|_| *self.tool_choice == ToolChoice::Auto);
        Ok(Some(ConstraintSource::tool_calls(&schemas, &CallForm::of(format), calls_max, or)?))
    }
}

/// The end of the reasoning that a prompt has begun: before it nothing is held to a form.
fn opened(prompt: &ChatPrompt) -> Option<String> {
    let text = prompt.text.trim_end();
    REASONING_TAGS.iter().find(|(open, _)| text.ends_with(open)).map(|(_, close)| (*close).into())
}

/// The schema of a call's arguments, which are an object; without parameters a function takes none.
fn arguments_schema(parameters: Option<&Json>) -> Json {
    let mut schema = parameters.cloned().unwrap_or_else(|| json!({ "properties": {} }));
    if let Json::Object(members) = &mut schema {
        members.entry("type").or_insert("object".into());
        // As Go's clients write that there are none.
        if let Some(properties @ Json::Null) = members.get_mut("properties") {
            *properties = json!({});
        }
        members.retain(|_, member| !member.is_null());
    }
    schema
}

/// A conversation for a template that knows no tools: they are described by the system, calls and results are texts.
fn in_words(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
    let mut told: Vec<Message> = messages.iter().map(message_in_words).collect();
    if tools.is_empty() {
        return told;
    }
    let tools: Vec<&Json> = tools.iter().map(|tool| &tool.as_json()["function"]).collect();
    let words = format!(
        "You can call these functions: {}\nTo call one, answer with nothing but JSON of this form: \
         {{\"name\": \"NAME\", \"arguments\": {{…}}}}",
        json!(tools)
    );
    match told.first_mut().filter(|first| first.role == "system") {
        Some(first) => first.content = format!("{}\n\n{words}", first.content.text()).into(),
        None => told.insert(0, Message::new("system", words)),
    }
    told
}

fn message_in_words(message: &Message) -> Message {
    if message.role == "tool" {
        let name = message.name.as_deref().or(message.tool_call_id.as_deref()).unwrap_or("the function");
        return Message::new("user", format!("Result of {name}: {}", message.content.text()));
    }
    if message.tool_calls.is_empty() {
        return message.clone();
    }
    let mut text = message.content.text().into_owned();
    for call in &message.tool_calls {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&json!({ "name": call.name, "arguments": call.arguments }).to_string());
    }
    Message { content: text.into(), tool_calls: Vec::new(), ..message.clone() }
}
