//! A service and an engine in this process answer the same, whatever they are asked for.

use hublabio_sdk::ai::{
    AiClient, AnswerFormat, Error, FinishReason, GenerateOptions, Message, Response, Sampling, Tool, ToolCall,
    ToolChoice,
};
use serde_json::{Value as Json, json};

#[path = "support/builtin_service.rs"]
mod builtin_service;

use builtin_service::{Service, builtin_node};

/// What must be the same of two answers: all but names of calls, times, what was cached, and rounding.
fn comparable(mut response: Response) -> Response {
    response.timings = None;
    response.tool_calls.iter_mut().for_each(|call| call.id.clear());
    response.usage.prompt_tokens_details = None;
    // They are single precision; JSON's numbers are read to all digits but the last.
    for token in &mut response.logprobs {
        let tops = token.top_logprobs.iter_mut().map(|top| &mut top.logprob);
        tops.chain([&mut token.logprob]).for_each(|logprob| *logprob = f64::from(*logprob as f32));
    }
    response
}

struct Both {
    _service: Service,
    there: AiClient,
    here: AiClient,
}

impl Both {
    fn start() -> Self {
        let service = Service::start();
        let there = service.client("http", "127.0.0.1");
        Self { _service: service, there, here: AiClient::embedded_on(builtin_node()).unwrap() }
    }

    /// The answer that both give, whole and in pieces.
    #[track_caller]
    fn answer(&self, what: &str, messages: &[Message], options: &GenerateOptions) -> Response {
        let whole = |client: &AiClient| comparable(client.chat(messages, options).unwrap());
        let streamed = |client: &AiClient| comparable(client.chat_stream(messages, options).unwrap().finish().unwrap());
        let answer = whole(&self.there);
        assert_eq!(whole(&self.here), answer, "{what}");
        // What a call would have been that is cut is text in a whole answer; in pieces it was told as a call's, and is dropped.
        let is_cut = !answer.tool_calls.is_empty() && answer.finish == Some(FinishReason::Length);
        let mut in_pieces = answer.clone();
        if is_cut {
            in_pieces.text.clear();
        }
        assert_eq!(streamed(&self.there), in_pieces, "{what}");
        assert_eq!(streamed(&self.here), in_pieces, "{what}");
        answer
    }

    /// Both refuse it, for the same reason.
    #[track_caller]
    fn refuse(&self, what: &str, messages: &[Message], options: &GenerateOptions, field: &str) {
        let refused = |client: &AiClient| match client.chat(messages, options) {
            Err(Error::Refused { message, param, .. }) => (message, param),
            other => panic!("{what}: {other:?}"),
        };
        let there = refused(&self.there);
        assert_eq!(there.1.as_deref(), Some(field), "{what}: {there:?}");
        assert_eq!(refused(&self.here).1, there.1, "{what}");
    }
}

fn question() -> Vec<Message> {
    vec![Message::user("What does tar do?")]
}

fn schema() -> Json {
    json!({ "type": "object", "properties": { "ok": { "type": "boolean" } },
        "required": ["ok"], "additionalProperties": false })
}

fn tools() -> Vec<Tool> {
    let parameters = |name: &str| {
        json!({ "type": "object", "properties": { name: { "type": "integer", "minimum": 1, "maximum": 9 } },
            "required": [name], "additionalProperties": false })
    };
    vec![
        Tool::function("count", "Counts to a number.", parameters("to")),
        Tool::function("wait", "Waits for some seconds.", parameters("seconds")),
    ]
}

fn with_tools(tool_choice: ToolChoice) -> GenerateOptions {
    GenerateOptions {
        tools: tools(),
        tool_choice: Some(tool_choice),
        max_tokens: Some(60),
        ..GenerateOptions::default()
    }
}

#[test]
fn plain_answers_are_the_same() {
    let both = Both::start();
    let usual = GenerateOptions::default;
    let answer = both.answer("plain", &question(), &usual());
    assert_eq!(answer, "An archiving utility.");
    let conversation = [
        Message { role: "developer".into(), ..Message::system("You are brief.") },
        Message::user("What does tar do?"),
        Message::assistant("An archiving utility."),
        Message::user("What does sed do?"),
    ];
    both.answer("a conversation", &conversation, &usual());
    let cut = both.answer("max_tokens", &question(), &usual().with_max_tokens(2));
    assert_eq!((cut.usage.completion_tokens, cut.finish), (2, Some(FinishReason::Length)));
    let stopped = both.answer("stop", &question(), &GenerateOptions { stop: vec!["utility".into()], ..usual() });
    assert_eq!((&*stopped, stopped.finish.clone()), ("An archiving ", Some(FinishReason::Stop)));
    let probable = both.answer("logprobs", &question(), &GenerateOptions { logprobs: Some(3), ..usual() });
    assert_eq!(probable.logprobs.len() as u64, probable.usage.completion_tokens);
    both.answer("creative", &question(), &GenerateOptions::creative().with_seed(7));
    for sampling in [
        Sampling { repeat_penalty: Some(1.3), ..Sampling::default() },
        Sampling { temperature: Some(1.5), seed: Some(3), min_p: Some(0.05), ..Sampling::default() },
        Sampling { mirostat: Some(2), seed: Some(3), ..Sampling::default() },
        Sampling { xtc_probability: Some(0.5), dry_multiplier: Some(0.8), seed: Some(3), ..Sampling::default() },
        Sampling { samplers: Some(vec!["top_k".into()]), top_k: Some(3), seed: Some(3), ..Sampling::default() },
    ] {
        let what = format!("{sampling:?}");
        both.answer(&what, &question(), &GenerateOptions { sampling, max_tokens: Some(20), ..usual() });
    }
}

#[test]
fn forms_are_the_same() {
    let both = Both::start();
    let formed = |format| GenerateOptions { format, max_tokens: Some(60), ..GenerateOptions::default() };
    let json = both.answer("json_schema", &question(), &formed(AnswerFormat::JsonSchema(schema())));
    assert!(json.json::<Json>().unwrap()["ok"].is_boolean(), "{json}");
    both.answer("json_object", &question(), &formed(AnswerFormat::JsonObject));
    let grammar = r#"root ::= "yes" | "no""#.to_owned();
    let answer = both.answer("grammar", &question(), &formed(AnswerFormat::Grammar(grammar)));
    assert!(answer == "yes" || answer == "no", "{answer}");
}

#[test]
fn tool_calls_are_the_same() {
    let both = Both::start();
    both.answer("auto", &question(), &with_tools(ToolChoice::AUTO));
    let none = both.answer("none", &question(), &with_tools(ToolChoice::NONE));
    assert!(none.tool_calls.is_empty());
    let required = both.answer("required", &question(), &with_tools(ToolChoice::REQUIRED));
    assert_eq!((required.tool_calls.len(), required.finish), (1, Some(FinishReason::ToolCalls)));
    let named = both.answer("named", &question(), &with_tools(ToolChoice::named("wait")));
    assert_eq!(named.tool_calls[0].name, "wait");
    assert!(named.tool_calls[0].arguments["seconds"].is_u64(), "{named:?}");
    for parallel in [true, false] {
        let options = GenerateOptions { parallel_tool_calls: Some(parallel), ..with_tools(ToolChoice::REQUIRED) };
        let answer = both.answer("parallel", &question(), &options);
        assert!(parallel || answer.tool_calls.len() == 1, "{answer:?}");
    }
    let formed = GenerateOptions { format: AnswerFormat::JsonSchema(schema()), ..with_tools(ToolChoice::AUTO) };
    let answer = both.answer("auto with a schema", &question(), &formed);
    assert!(!answer.tool_calls.is_empty() || answer.json::<Json>().unwrap()["ok"].is_boolean(), "{answer:?}");
    let call = ToolCall { id: "call_a".into(), name: "count".into(), arguments: json!({ "to": 3 }) };
    let conversation = [
        Message::user("Count to three."),
        Message { tool_calls: vec![call.clone()], content: None, ..Message::assistant("") },
        Message::tool_result(&call, "1 2 3"),
    ];
    both.answer("a result", &conversation, &with_tools(ToolChoice::AUTO));
    both.answer("a result without tools", &conversation, &GenerateOptions::default().with_max_tokens(20));
}

#[test]
fn ids_of_calls_are_not_used_twice() {
    let client = AiClient::embedded_on(builtin_node()).unwrap();
    let id = || client.chat(&question(), &with_tools(ToolChoice::REQUIRED)).unwrap().tool_calls[0].id.clone();
    assert_ne!(id(), id());
}

#[test]
fn what_cannot_be_meant_is_refused_by_both() {
    let both = Both::start();
    both.refuse("no such tool", &question(), &with_tools(ToolChoice::named("none")), "tool_choice");
    let no_tools = GenerateOptions { tools: Vec::new(), ..with_tools(ToolChoice::REQUIRED) };
    both.refuse("no tools", &question(), &no_tools, "tool_choice");
    both.refuse("no messages", &[], &GenerateOptions::default(), "messages");
    let odd = [Message { role: "narrator".into(), ..Message::user("Once") }];
    both.refuse("a role", &odd, &GenerateOptions::default(), "messages[0].role");
}
