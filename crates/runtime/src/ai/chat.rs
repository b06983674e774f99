//! Conversations in, answers taken apart: which template a file is used with, what becomes text and what control tokens,
//! and how the text of an answer becomes reasoning, content and tool calls.
//!
//! The language of templates and the formats of tool calls are the room `chat`'s; this file joins it to a tokenizer and
//! to the clock.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use hublabio_chat::constraint::{Constraint, ConstraintCompiler, ConstraintConfig};
use hublabio_chat::{
    BUILTINS, Builtin, ChatTemplate, Json, Message, OutputParser, RenderOptions, Timestamp, Tool, ToolFormat,
};
use hublabio_engine::sampling::Sampler;
use hublabio_gguf::{Array, GgufFile, Metadata, Value};
use hublabio_tokenizer::{EncodeOptions, TokenId, TokenType, Tokenizer};

use super::dry_breakers::dry_breakers;
use super::vocabulary::take_tokenizer;
use super::{GenerationConfig, InferenceEngine, LOGPROBS_MAX};
use crate::error::{Error, Result};

/// The metadata key of a file's template; named ones have theirs after a dot.
const TEMPLATE_KEY: &str = "tokenizer.chat_template";
/// The named template that is meant for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// A file's template, or why it cannot be used: a broken template stops chat, not the rest.
type TemplateResult = std::result::Result<ChatTemplate, hublabio_chat::Error>;

/// What goes into a prompt besides the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatOptions {
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// What else the template should know (`enable_thinking`, …), its own defaults holding for the rest.
    pub variables: Vec<(String, Json)>,
    /// How the model writes tool calls; by default what its template tells it.
    pub tool_format: Option<ToolFormat>,
}

/// A conversation as the model gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The text, without the BOS token that the tokenizer may add.
    pub text: String,
    /// The tokens. What users and tools wrote never became a control token, whatever it spells.
    pub tokens: Vec<TokenId>,
}

/// A template and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSource {
    /// Its name: `default` for the file's own one.
    pub name: String,
    /// The Jinja source.
    pub source: String,
    /// Whether it is a built-in one.
    pub builtin: bool,
}

/// The chat templates of a file, the default one first; for a file that has no default, the built-in one that is used
/// in its place, by architecture and the control tokens in the vocabulary.
///
/// # Errors
/// When a template is no text.
pub fn chat_templates(file: &GgufFile) -> Result<Vec<TemplateSource>> {
    let metadata = file.metadata();
    let mut templates = named_templates(metadata)?;
    let default = if let Some(source) = metadata.str(TEMPLATE_KEY)? {
        TemplateSource { name: "default".into(), source: source.into(), builtin: false }
    } else {
        let tokens = match metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array) {
            Some(Array::String(tokens)) => tokens.as_slice(),
            _ => &[],
        };
        let builtin = Builtin::for_model(architecture(metadata)?, |text| tokens.iter().any(|token| token == text));
        TemplateSource { name: builtin.name.into(), source: builtin.source.into(), builtin: true }
    };
    templates.insert(0, default);
    Ok(templates)
}

fn named_templates(metadata: &Metadata) -> Result<Vec<TemplateSource>> {
    let mut templates = Vec::new();
    for (key, _) in metadata.iter() {
        let Some(name) = key.strip_prefix(TEMPLATE_KEY).and_then(|name| name.strip_prefix('.')) else { continue };
        if let Some(source) = metadata.str(key)? {
            templates.push(TemplateSource { name: name.into(), source: source.into(), builtin: false });
        }
    }
    Ok(templates)
}

fn architecture(metadata: &Metadata) -> Result<&str> {
    Ok(metadata.str("general.architecture")?.unwrap_or_default())
}

/// The texts of BOS and EOS, which templates print.
fn ends(tokenizer: &Tokenizer) -> (&str, &str) {
    let text = |id: Option<TokenId>| id.and_then(|id| tokenizer.piece(id)).unwrap_or_default();
    (text(tokenizer.bos()), text(tokenizer.eos()))
}

/// The template that a file is used with.
fn template_of(file: &GgufFile, tokenizer: &Tokenizer, notices: &mut Vec<String>) -> Result<TemplateResult> {
    let metadata = file.metadata();
    let (bos, eos) = ends(tokenizer);
    if let Some(source) = metadata.str(TEMPLATE_KEY)? {
        return Ok(ChatTemplate::new(source, bos, eos));
    }
    let builtin = Builtin::for_model(architecture(metadata)?, |text| tokenizer.special_token(text).is_some());
    notices.push(format!(
        "the file has no chat template: chat uses the built-in `{}` (--template-name takes another, run --raw sends a \
         prompt as it stands)",
        builtin.name
    ));
    Ok(Ok(ChatTemplate::builtin(builtin, bos, eos)))
}

/// A model without its weights: what turns conversations into tokens and tokens into text. Cheap to clone, and shared freely
/// between threads, so that prompts are made while others compute.
#[derive(Clone)]
pub struct ModelText {
    tokenizer: Arc<Tokenizer>,
    template: Arc<TemplateResult>,
    /// The vocabulary as constraints need it, once one was asked for.
    constraints: Arc<OnceLock<ConstraintCompiler>>,
}

impl ModelText {
    /// Takes the tokenizer out of an open file, and reads its template; `None` for a file without a tokenizer. What the user
    /// should know is pushed to `notices`.
    pub(crate) fn take(file: &mut GgufFile, notices: &mut Vec<String>) -> Result<Option<Self>> {
        let tokenizer = match take_tokenizer(file) {
            Ok(tokenizer) => Arc::new(tokenizer),
            Err(Error::NoTokenizer) => return Ok(None),
            Err(error) => return Err(error),
        };
        notices.extend(tokenizer.warnings().iter().cloned());
        // A broken template stops chat, not the rest.
        let template = Arc::new(template_of(file, &tokenizer, notices)?);
        Ok(Some(Self { tokenizer, template, constraints: Arc::default() }))
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The chat template.
    ///
    /// # Errors
    /// When it is no Jinja.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().as_ref().map_err(|error| Error::Chat(error.clone()))
    }

    /// A text as it stands as a prompt; BOS first where the model wants it.
    ///
    /// # Errors
    /// When the text cannot be expressed.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<TokenId>> {
        let options = EncodeOptions { add_eos: Some(false), ..EncodeOptions::default() };
        Ok(self.tokenizer.encode(text, options)?)
    }

    /// A text as an embedding model reads it, with the tokens that the model wants around it.
    ///
    /// # Errors
    /// When the text cannot be expressed.
    pub fn embedding_prompt(&self, text: &str) -> Result<Vec<TokenId>> {
        Ok(self.tokenizer.encode(text, EncodeOptions::default())?)
    }

    /// Compiles a constraint. The first time takes some 0.1 s for 150,000 tokens.
    ///
    /// # Errors
    /// When it cannot be honoured.
    pub fn compile_constraint(&self, config: &ConstraintConfig) -> Result<Constraint> {
        let compiler = if let Some(compiler) = self.constraints.get() {
            compiler
        } else {
            let made = ConstraintCompiler::new(&self.tokenizer)?;
            self.constraints.get_or_init(|| made)
        };
        Ok(compiler.compile(config)?)
    }

    /// A conversation with tools and template variables as the prompt for its next turn. Messages, names, arguments,
    /// results, tool definitions and variables that spell a control token stay text. `strftime_now` gives universal
    /// time.
    ///
    /// # Errors
    /// When the template refuses the conversation, or takes no tools though there are some.
    pub fn chat_prompt_with(&self, messages: &[Message], options: &ChatOptions) -> Result<ChatPrompt> {
        let tokenizer = &self.tokenizer;
        let template = self.chat_template()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let render = |shield: &dyn Fn(&str) -> String| {
            let rendered = template.render_with(
                messages,
                &RenderOptions {
                    add_generation_prompt: true,
                    tools: &options.tools,
                    variables: &options.variables,
                    now: Some(Timestamp(now)),
                    shield: Some(shield),
                },
            )?;
            let encoding = EncodeOptions { add_eos: Some(false), ..EncodeOptions::template() };
            let tokens = tokenizer.encode(&rendered, encoding)?;
            Ok::<_, Error>(ChatPrompt { text: tokenizer.unshield(&rendered).into_owned(), tokens })
        };
        // Shielded text can never match a control token, and is otherwise encoded as it stands.
        let may_be_cut = Cell::new(false);
        let prompt = render(&|text| {
            let shielded = tokenizer.shield(text).into_owned();
            may_be_cut.set(may_be_cut.get() || tokenizer.shield_cuts(text) != shielded);
            shielded
        })?;
        if may_be_cut.get() {
            // A template that cuts tags out of a text could join what is left of it to a control token. Then the text is
            // shielded in a way that no cut gets through, though it also hides tags that the template looks for.
            let control = |token: &&TokenId| tokenizer.token_type(**token) == Some(TokenType::Control);
            let safe = render(&|text| tokenizer.shield_cuts(text))?;
            if !prompt.tokens.iter().filter(control).eq(safe.tokens.iter().filter(control)) {
                return Ok(safe);
            }
        }
        Ok(prompt)
    }

    /// Takes the answer to a prompt apart: the format of tool calls is the template's unless `options` names another,
    /// and an answer to a prompt that ends with `<think>` begins with reasoning.
    ///
    /// # Errors
    /// As [`chat_template`](Self::chat_template).
    pub fn output_parser(&self, prompt: &ChatPrompt, options: &ChatOptions) -> Result<OutputParser> {
        let source = self.chat_template()?.source();
        let format = options.tool_format.unwrap_or_else(|| ToolFormat::of_template(source));
        Ok(OutputParser::new(format, &options.tools).after_prompt(source, &prompt.text))
    }

    /// The control tokens that a parser needs to see:
    /// [`GenerationConfig::shown_tokens`](super::GenerationConfig::shown_tokens).
    #[must_use]
    pub fn marks(&self, parser: &OutputParser) -> Vec<TokenId> {
        let tokenizer = &self.tokenizer;
        parser.marks().filter_map(|mark| tokenizer.special_token(mark)).collect()
    }

    /// The sampler for an answer; what the engine cannot check about it is checked here.
    pub(crate) fn sampler(&self, config: &GenerationConfig) -> Result<Sampler> {
        let n_tokens = self.tokenizer.n_tokens();
        if let Some(&(token, _)) = config.sampling.logit_bias.iter().find(|bias| bias.0 as usize >= n_tokens) {
            return Err(Error::BiasOfUnknownToken { token, n_tokens });
        }
        if let Some(asked) = config.logprobs.filter(|&n| n > LOGPROBS_MAX) {
            return Err(Error::TooManyLogProbs { asked, max: LOGPROBS_MAX });
        }
        let mut sampling = config.sampling.clone();
        if let Some(dry) = &mut sampling.dry {
            dry.breakers.extend(dry_breakers(&self.tokenizer, &config.dry_breakers)?);
        }
        Ok(Sampler::new(sampling)?)
    }

    /// The same with another Jinja template.
    fn with_template(&self, template: TemplateResult) -> Self {
        Self { template: Arc::new(template), ..self.clone() }
    }
}

impl InferenceEngine {
    /// The chat template: the file's own, the one that was set, or the built-in one that
    /// [`notices`](Self::notices) names.
    ///
    /// # Errors
    /// When the file holds no tokenizer, or a template that is no Jinja.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.text()?.chat_template()
    }

    /// Uses another Jinja template from now on.
    ///
    /// # Errors
    /// When it is no Jinja (with line and column), or the file holds no tokenizer.
    pub fn set_chat_template(&mut self, source: &str) -> Result<()> {
        let text = self.text()?;
        let (bos, eos) = ends(&text.tokenizer);
        let template = ChatTemplate::new(source, bos, eos)?;
        self.text = Some(text.with_template(Ok(template)));
        self.drop_fallback_notice();
        Ok(())
    }

    /// Uses another template by its name from now on: a named one of the file (`tool_use`, …), `default`, or a built-in
    /// one.
    ///
    /// # Errors
    /// When there is none of that name, or as [`set_chat_template`](Self::set_chat_template).
    pub fn select_chat_template(&mut self, name: &str) -> Result<()> {
        let mut in_file = named_templates(self.file().metadata())?;
        if let Some(source) = self.file().metadata().str(TEMPLATE_KEY)? {
            in_file.insert(0, TemplateSource { name: "default".into(), source: source.into(), builtin: false });
        }
        if let Some(found) = in_file.iter().find(|template| template.name == name) {
            return self.set_chat_template(&found.source);
        }
        let Some(builtin) = Builtin::find(name) else {
            let in_file: Vec<_> = in_file.iter().map(|template| template.name.as_str()).collect();
            let builtin: Vec<_> = BUILTINS.iter().map(|builtin| builtin.name).collect();
            return Err(Error::NoSuchTemplate {
                name: name.into(),
                in_file: in_file.join(", "),
                builtin: builtin.join(", "),
            });
        };
        let text = self.text()?;
        let (bos, eos) = ends(&text.tokenizer);
        self.text = Some(text.with_template(Ok(ChatTemplate::builtin(builtin, bos, eos))));
        self.drop_fallback_notice();
        Ok(())
    }

    /// Uses the file's template for tools where it has one and the other takes none, and says so.
    ///
    /// # Errors
    /// As [`select_chat_template`](Self::select_chat_template).
    pub fn prefer_tool_template(&mut self) -> Result<()> {
        let lacks = !self.chat_template().is_ok_and(ChatTemplate::takes_tools);
        if lacks && self.file().metadata().contains(&format!("{TEMPLATE_KEY}.{TOOL_USE}")) {
            self.select_chat_template(TOOL_USE)?;
            self.notices.push(format!("tools are given: chat uses the file's template `{TOOL_USE}`"));
        }
        Ok(())
    }

    fn drop_fallback_notice(&mut self) {
        self.notices.retain(|notice| !notice.starts_with("the file has no chat template"));
    }

    /// A conversation as the prompt for its next turn. A message that spells a control token stays text.
    ///
    /// # Errors
    /// When the template refuses the conversation, or the file holds no tokenizer.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<TokenId>> {
        Ok(self.chat_prompt_with(messages, &ChatOptions::default())?.tokens)
    }

    /// As [`ModelText::chat_prompt_with`].
    ///
    /// # Errors
    /// As there, and when the file holds no tokenizer.
    pub fn chat_prompt_with(&self, messages: &[Message], options: &ChatOptions) -> Result<ChatPrompt> {
        self.text()?.chat_prompt_with(messages, options)
    }

    /// As [`ModelText::output_parser`].
    ///
    /// # Errors
    /// As [`chat_template`](Self::chat_template).
    pub fn output_parser(&self, prompt: &ChatPrompt, options: &ChatOptions) -> Result<OutputParser> {
        self.text()?.output_parser(prompt, options)
    }

    /// As [`ModelText::marks`].
    ///
    /// # Errors
    /// When the file holds no tokenizer.
    pub fn marks(&self, parser: &OutputParser) -> Result<Vec<TokenId>> {
        Ok(self.text()?.marks(parser))
    }
}
