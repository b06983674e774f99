//! A running service in place of a model in this process: what `--service` and `HUBLAB_HOST` mean to `run` and `chat`, and the
//! verbs `ps` and `stop`. All of it goes through the SDK.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use hublabio_runtime::ai::constraint::ConstraintSource;
use hublabio_runtime::ai::{self, Content, Event, Message};
use hublabio_sdk::ai::{self as sdk, AiClient, AnswerFormat, FinishReason, GenerateOptions, Piece, Response, Sampling};
use hublabio_sdk::wire::openai::TokenLogprob;
use hublabio_sdk::wire::own::RunningModel;
use serde_json::{Map, json};

use crate::args::{
    ChatArgs, GenerationArgs, Preset, PromptArgs, PsArgs, RunArgs, Samplers, SamplingArgs, ServiceArgs, StopArgs,
};
use crate::chat::{self, Speaker};
use crate::interrupt::Interrupt;
use crate::prompt::{self, AnswerView};
use crate::{EXIT_INTERRUPTED, Usage, input, output};

/// Where the service is, for all verbs.
const HOST_VARIABLE: &str = "HUBLAB_HOST";
/// Names a file of authorities, as --ca-file does.
const CA_FILE_VARIABLE: &str = "HUBLAB_CA_FILE";
/// How long a service may take to say that it is well.
const HEALTH_MAX: Duration = Duration::from_secs(5);
/// What is longer is no name of a model.
const NAME_BYTES_MAX: usize = 512;
/// How often Ctrl-C is looked for while the service computes.
const POLL: Duration = Duration::from_millis(50);

impl ServiceArgs {
    /// Whether a service is to answer.
    pub fn is_wanted(&self) -> bool {
        self.service.is_some() || std::env::var_os(HOST_VARIABLE).is_some_and(|host| !host.is_empty())
    }

    /// A client of that service, which has been heard of.
    pub fn connect(&self) -> Result<AiClient> {
        let named = self.service.clone().filter(|address| !address.is_empty());
        let address = match (named, &self.ca_file) {
            (Some(address), _) => address,
            (None, None) => return Ok(AiClient::connect()?),
            (None, Some(_)) => variable(HOST_VARIABLE)
                .ok_or_else(|| Usage("--ca-file is for a service at https://: name it with --service=".into()))?,
        };
        let mut client = AiClient::at(&address).map_err(|error| Usage(error.to_string()))?;
        if let Some(key) = variable("HUBLAB_API_KEY") {
            client = client.with_api_key(key);
        }
        let is_tls = client.address().is_some_and(|address| address.starts_with("https:"));
        if is_tls {
            let file = self.ca_file.clone().or_else(|| variable(CA_FILE_VARIABLE).map(PathBuf::from));
            if let Some(file) = file {
                client = trusting(client, &file)?;
            }
        } else if self.ca_file.is_some() {
            return Err(Usage(format!("--ca-file is for a service at https://, and this one is at {address}")).into());
        }
        // The answer may take its time; that there is somebody must be known soon.
        client.clone().with_timeout(HEALTH_MAX).health()?;
        Ok(client)
    }
}

/// An environment variable's value, unless it is empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

#[cfg(feature = "tls")]
fn trusting(client: AiClient, file: &Path) -> Result<AiClient> {
    Ok(client.with_ca_file(file)?)
}

#[cfg(not(feature = "tls"))]
fn trusting(client: AiClient, _: &Path) -> Result<AiClient> {
    // An address at https:// has been refused.
    Ok(client)
}

/// Refuses flags that a service has no ear for: they would be ignored.
fn refuse(flags: &[(&str, bool)]) -> Result<()> {
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Usage(format!(
            "{flag} is for a model in this process, and a service answers here: leave it out, or --service and {HOST_VARIABLE}"
        ))
        .into()),
        None => Ok(()),
    }
}

/// What the flags say to a service.
fn options(generation: &GenerationArgs, template: &PromptArgs) -> Result<GenerateOptions> {
    let GenerationArgs { max_tokens, ctx, stop, stats: _, constraint, sampling, machine } = generation;
    refuse(&[
        ("--ctx", ctx.is_some()),
        ("--threads", machine.threads.is_some()),
        ("--isa", machine.isa.is_some()),
        ("--kv", machine.kv.is_some()),
        ("--lora", !machine.lora.is_empty()),
        ("--arch", machine.arch.is_some()),
        ("--template", template.template.is_some()),
        ("--template-name", template.template_name.is_some()),
        ("--tool-format", template.tool_format.is_some()),
        ("--constrain-after", constraint.constrain_after.is_some()),
        ("--regex", constraint.regex.is_some()),
    ])?;
    let format = match constraint.config()?.map(|config| config.source) {
        None => AnswerFormat::Text,
        Some(ConstraintSource::JsonSchema(schema)) => AnswerFormat::JsonSchema(schema),
        Some(ConstraintSource::JsonObject) => AnswerFormat::JsonObject,
        Some(ConstraintSource::Gbnf(grammar)) => AnswerFormat::Grammar(grammar),
        Some(_) => return Err(Usage("a service takes grammars in the form of GBNF only".into()).into()),
    };
    let tools = match &template.tools {
        Some(path) => {
            let tools = prompt::tools_file(path)?;
            tools.iter().map(|tool| Ok(serde_json::from_value(tool.as_json().clone())?)).collect::<Result<_>>()?
        }
        None => Vec::new(),
    };
    Ok(GenerateOptions {
        max_tokens: max_tokens.map(|n| n as u64),
        stop: stop.clone(),
        sampling: sampling.for_service()?,
        format,
        tools,
        template_variables: template.template_vars.iter().cloned().collect::<Map<_, _>>(),
        ..GenerateOptions::default()
    })
}

impl SamplingArgs {
    /// What is given, and nothing else: the rest is as the service has it.
    fn for_service(&self) -> Result<Sampling> {
        self.check_samplers()?;
        let preset = match self.preset {
            None => Sampling::default(),
            Some(Preset::Greedy) => GenerateOptions::greedy().sampling,
            Some(Preset::Precise) => GenerateOptions::precise().sampling,
            Some(Preset::Creative) => GenerateOptions::creative().sampling,
            Some(Preset::Default) => {
                let usual = ai::SamplingConfig::default();
                Sampling {
                    temperature: Some(usual.temperature),
                    top_p: Some(usual.top_p),
                    top_k: Some(usual.top_k as u32),
                    ..Sampling::default()
                }
            }
        };
        if let Some((id, bias)) = self.logit_bias.iter().find(|(_, bias)| bias.is_finite() && bias.abs() > 100.0) {
            bail!(Usage(format!("--logit-bias {id}={bias}: a service takes -100 to 100")));
        }
        // -inf is what -100 means to a service: never.
        let bias = self.logit_bias.iter().map(|(id, bias)| (id.to_string(), bias.clamp(-100.0, 100.0))).collect();
        let tokens = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Sampling {
            temperature: self.temp.or(preset.temperature),
            top_p: self.top_p.or(preset.top_p),
            top_k: self.top_k.map(tokens).or(preset.top_k),
            seed: self.seed,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: (!self.logit_bias.is_empty()).then_some(bias),
            min_p: self.min_p,
            typical_p: self.typical,
            top_n_sigma: self.top_n_sigma,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n.map(tokens),
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length.map(tokens),
            dry_penalty_last_n: self.dry_last_n.map(|n| i64::try_from(n).unwrap_or(-1)),
            dry_sequence_breakers: (!self.dry_breaker.is_empty()).then(|| self.dry_breaker.clone()),
            mirostat: self.mirostat.then_some(2),
            mirostat_tau: self.mirostat_target,
            mirostat_eta: self.mirostat_rate,
            dynatemp_range: self.dynatemp_range,
            dynatemp_exponent: self.dynatemp_exponent,
            min_keep: self.min_keep.map(tokens),
            samplers: self.samplers.as_ref().map(|Samplers(order)| order.iter().map(ToString::to_string).collect()),
        })
    }
}

/// Whether the service has a model of this name, or one that the name means: an alias, a name without its tag.
fn knows(client: &AiClient, name: &str) -> Result<bool> {
    // What no model is called is not asked for: an address may be written down on its way.
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Ok(false);
    }
    match client.describe_model(name) {
        Ok(_) => Ok(true),
        // Any text may be asked for, most are no names.
        Err(sdk::Error::Refused { status: Some(400 | 404), .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `hublab run` with a service.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    refuse(&[("--raw", args.raw), ("--dry-run", args.dry_run)])?;
    let logprobs = args.logprobs.map(|n| n as u32);
    let options = GenerateOptions { logprobs, ..options(&args.generation, &args.template)? };
    let client = args.service.connect()?;
    let text = |argument: &std::ffi::OsString| {
        argument.to_str().map(str::to_owned).ok_or_else(|| Usage("an argument is not UTF-8: convert it first".into()))
    };
    // A lone argument is a model if the service has one of that name.
    let (model, given) = match (&args.model, &args.prompt) {
        (None, _) => (None, None),
        (Some(model), Some(prompt)) => (Some(text(model)?), Some(text(prompt)?)),
        (Some(lone), None) => {
            let lone = text(lone)?;
            if knows(&client, &lone)? { (Some(lone), None) } else { (None, Some(lone)) }
        }
    };
    let mut messages = args.messages.as_deref().map(prompt::messages_file).transpose()?.unwrap_or_default();
    if let Some(system) = &args.system {
        messages.insert(0, Message::new("system", system.as_str()));
    }
    let given = match given {
        Some(prompt) => Some(prompt),
        None if args.messages.is_some() => None,
        None => Some(input::prompt("hublab run", "hublab chat")?),
    };
    messages.extend(given.map(|prompt| Message::new("user", prompt)));
    let interrupt = Interrupt::listen()?;
    let mut speaker = Remote {
        client,
        options: GenerateOptions { model, ..options },
        hide_reasoning: args.template.hide_reasoning,
        json: args.template.json,
        stats: args.generation.stats,
    };
    let (_, finished) = speaker.ask(&messages, &interrupt)?;
    Ok(if finished { ExitCode::SUCCESS } else { ExitCode::from(EXIT_INTERRUPTED) })
}

/// `hublab chat` with a service.
pub fn chat(args: &ChatArgs) -> Result<ExitCode> {
    let options = options(&args.generation, &args.template)?;
    let client = args.service.connect()?;
    let model = args.model.service_name()?;
    if let Some(model) = &model
        && !knows(&client, model)?
    {
        bail!("the service has no model `{model}`: `curl …/v1/models` and `hublab ls` list those that there are");
    }
    let name = model.clone().unwrap_or_else(|| "the service's default model".into());
    let at = client.address().unwrap_or_default();
    let speaker = Remote {
        client,
        options: GenerateOptions { model, ..options },
        hide_reasoning: args.template.hide_reasoning,
        json: args.template.json,
        stats: args.generation.stats,
    };
    chat::converse(Box::new(speaker), args.system.as_deref(), &format!("{name} at {at}"))
}

/// A service that speaks.
struct Remote {
    client: AiClient,
    options: GenerateOptions,
    hide_reasoning: bool,
    json: bool,
    stats: bool,
}

impl Speaker for Remote {
    fn speak(&mut self, messages: &[Message], interrupt: &Interrupt) -> Result<Message> {
        Ok(self.ask(messages, interrupt)?.0)
    }
}

impl Remote {
    /// The answer, shown as it comes, and whether it was heard to its end.
    fn ask(&mut self, messages: &[Message], interrupt: &Interrupt) -> Result<(Message, bool)> {
        let messages: Vec<sdk::Message> = messages.iter().map(to_service).collect();
        let mut view = AnswerView::new(None, self.hide_reasoning, self.json);
        let mut stream = self.client.chat_stream(&messages, &self.options)?;
        let canceller = stream.canceller();
        let over = AtomicBool::new(false);
        let mut heard = Ok(());
        std::thread::scope(|scope| {
            // The stream sleeps until the service says something: somebody else must listen for Ctrl-C.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if interrupt.requested() {
                        return canceller.cancel();
                    }
                    std::thread::sleep(POLL);
                }
            });
            heard = show(&mut stream, &mut view);
            over.store(true, Ordering::Relaxed);
        });
        let response = stream.response();
        for call in &response.tool_calls {
            let call =
                ai::ToolCall { id: Some(call.id.clone()), name: call.name.clone(), arguments: call.arguments.clone() };
            view.event(Event::ToolCall(call))?;
        }
        let (answer, ended) = view.finish(0);
        ended?;
        let interrupted = interrupt.requested();
        if !interrupted {
            heard?;
        }
        for note in &response.notes {
            output::note(note);
        }
        let message = answer.into_message();
        if self.json {
            output::json(&line(&response, &message, interrupted, self.options.logprobs.is_some()))?;
        }
        if self.stats
            && let Some(timings) = &response.timings
        {
            output::message(&format!(
                "prompt  {:>8.3} s  {:>6} tokens",
                timings.prompt_s, response.usage.prompt_tokens
            ));
            output::message(&format!(
                "decode  {:>8.3} s  {:>6} tokens  {:>8.1} tokens/s",
                timings.decode_s, response.usage.completion_tokens, timings.tokens_per_s
            ));
        }
        Ok((message, !interrupted))
    }
}

/// The line of `--json`.
fn line(response: &Response, message: &Message, interrupted: bool, with_logprobs: bool) -> serde_json::Value {
    let finish = match &response.finish {
        _ if interrupted => "cancelled",
        Some(FinishReason::Length) => "length",
        Some(FinishReason::ToolCalls) => "tool_calls",
        _ => "end",
    };
    let mut line = json!({
        "message": message.to_json(),
        "finish": finish,
        "model": response.model,
        "answered_by": response.answered_by,
        "prompt_tokens": response.usage.prompt_tokens,
        "completion_tokens": response.usage.completion_tokens,
    });
    if with_logprobs {
        line["logprobs"] = response.logprobs.iter().map(token_line).collect();
    }
    line
}

/// A token as `--logprobs` writes it; its id is the service's own affair.
fn token_line(found: &TokenLogprob) -> serde_json::Value {
    let token = |token: &str, bytes: &Option<Vec<u8>>, logprob: f64| json!({ "token": token, "bytes": bytes, "logprob": logprob });
    let mut line = token(&found.token, &found.bytes, found.logprob);
    line["top"] = found.top_logprobs.iter().map(|top| token(&top.token, &top.bytes, top.logprob)).collect();
    line
}

fn show(stream: &mut sdk::Stream, view: &mut AnswerView) -> Result<()> {
    for piece in stream {
        match piece? {
            Piece::Text(text) => view.event(Event::Content(text))?,
            Piece::Reasoning(text) => view.event(Event::Reasoning(text))?,
            // Calls are shown when they are whole.
            _ => {}
        }
    }
    Ok(())
}

fn to_service(message: &Message) -> sdk::Message {
    let call = |call: &ai::ToolCall| sdk::ToolCall {
        id: call.id.clone().unwrap_or_default(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    };
    sdk::Message {
        role: message.role.clone(),
        content: match &message.content {
            Content::Absent => None,
            content => Some(content.text().into_owned()),
        },
        reasoning: message.reasoning.clone(),
        tool_calls: message.tool_calls.iter().map(call).collect(),
        tool_call_id: message.tool_call_id.clone(),
        name: message.name.clone(),
    }
}

/// `hublab ps`: what a service has in memory.
pub fn ps(args: &PsArgs) -> Result<ExitCode> {
    let list = args.service.connect()?.ps()?;
    if args.json {
        output::json(&serde_json::to_value(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if list.models.is_empty() {
        output::message("no model is in memory: the first request loads one");
        return Ok(ExitCode::SUCCESS);
    }
    let row = |model: &RunningModel| {
        let state = model.hublab.as_ref();
        [
            model.name.clone(),
            output::byte_size(model.size),
            model.context_length.map_or_else(String::new, |n| n.to_string()),
            state.map_or_else(String::new, |state| state.running.to_string()),
            match state.and_then(|state| state.expires_in_s) {
                Some(seconds) => format!("{seconds:.0} s"),
                // Experts of a swarm leave one by one.
                None if model.details.family == "swarm" => "nobody asks".into(),
                None => "the memory is needed".into(),
            },
        ]
    };
    let mut text = String::new();
    output::table(
        &mut text,
        ["NAME", "SIZE", "CONTEXT", "RUNNING", "STAYS UNTIL"],
        list.models.iter().map(row).collect(),
    );
    // The table stands alone here.
    output::bytes(text.trim_start().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// `hublab stop`: frees a model of a service.
pub fn stop(args: &StopArgs) -> Result<ExitCode> {
    let client = args.service.connect()?;
    if client.unload_model(&args.model)? {
        output::message(&format!("{} is freed when its answers have ended", args.model));
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{} is not in memory: `hublab ps` lists what is", args.model)
}
