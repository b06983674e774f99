//! The client with an engine in its own process and the built-in model.

use hublabio_sdk::ai::{AiClient, AnswerFormat, ChatSession, Error, FinishReason, GenerateOptions, Piece};
use serde_json::json;

const QUESTION: &str = "What does tar do?";
const ANSWER: &str = "An archiving utility.";

#[test]
fn a_question_is_answered_whole_and_in_pieces() {
    let mut client = AiClient::embedded().unwrap();
    assert_eq!(client.health().unwrap().status, "ok");
    client.load_model("default").unwrap();
    let whole = client.generate(QUESTION).unwrap();
    assert_eq!((&*whole, whole.finish.clone()), (ANSWER, Some(FinishReason::Stop)));
    assert!(whole.usage.completion_tokens > 0 && whole.timings.is_some());
    let options = GenerateOptions { progress: true, logprobs: Some(2), ..GenerateOptions::default() };
    let mut stream = client.stream(QUESTION, &options).unwrap();
    let pieces: Vec<Piece> = stream.by_ref().map(Result::unwrap).collect();
    assert_eq!(pieces.iter().map(Piece::text).collect::<String>(), ANSWER);
    assert!(pieces.len() > 1);
    let streamed = stream.response();
    assert_eq!(streamed.usage.completion_tokens, whole.usage.completion_tokens);
    assert_eq!(streamed.logprobs.len() as u64, streamed.usage.completion_tokens);
    assert!(streamed.logprobs.iter().all(|token| token.top_logprobs.len() == 2));
    assert_eq!(client.models().unwrap()[0].id, "default");
    assert!(client.ps().unwrap().hublab.unwrap().loads > 0);
}

#[test]
fn tokens_vectors_and_files() {
    let mut client = AiClient::embedded().unwrap();
    let ids = client.tokenize("archiving utility").unwrap();
    assert_eq!(client.detokenize(&ids).unwrap().trim(), "archiving utility");
    let vectors = client.embed(&["a", "list files"]).unwrap();
    assert_eq!((vectors.len(), vectors[0].len()), (2, vectors[1].len()));
    client.load_model(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/default.gguf")).unwrap();
    let answer = client.generate_with(QUESTION, &GenerateOptions::greedy()).unwrap();
    assert_eq!(answer, ANSWER);
    let described = client.describe_model("default").unwrap();
    assert_eq!((described.id.as_str(), described.hublab.unwrap().context_tokens), ("default", Some(512)));
    assert!(client.describe_model("/no/such.gguf").is_err());
    let error = client.load_model("/no/such.gguf").unwrap_err().to_string();
    assert!(error.contains("/no/such.gguf"), "{error}");
    assert_eq!(
        client.generate_with(QUESTION, &GenerateOptions::greedy()).unwrap(),
        ANSWER,
        "the model is the last one"
    );
}

#[test]
fn a_conversation_leaves_out_what_does_not_fit() {
    let mut chat = ChatSession::new(AiClient::embedded().unwrap());
    chat.options_mut().max_tokens = Some(4);
    let long = "list files ".repeat(60);
    let mut notes = Vec::new();
    for _ in 0..20 {
        notes = chat.chat(&long).unwrap().notes;
        if !notes.is_empty() {
            break;
        }
    }
    assert!(notes[0].contains("left out: the prompt has"), "{notes:?}");
    assert!(chat.trimmed_turns() > 0);
    let error = chat.chat(&"list files ".repeat(20_000)).unwrap_err();
    assert!(matches!(error, Error::ContextTooLong { prompt_tokens: Some(_), context_tokens: Some(_), .. }), "{error}");
}

#[test]
fn a_form_is_kept_and_what_cannot_be_is_refused() {
    let client = AiClient::embedded().unwrap();
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } },
        "required": ["ok"], "additionalProperties": false });
    let format = AnswerFormat::JsonSchema(schema);
    let options = GenerateOptions { format, max_tokens: Some(64), ..GenerateOptions::default() };
    let answer = client.generate_with(QUESTION, &options).unwrap();
    assert!(answer.json::<serde_json::Value>().unwrap()["ok"].is_boolean());
    let pinned = GenerateOptions { expert: Some("python".into()), ..GenerateOptions::default() };
    let error = client.generate_with(QUESTION, &pinned).unwrap_err().to_string();
    assert!(error.contains("`hublab.expert`"), "{error}");
    let routed = GenerateOptions { session: Some(1), ..GenerateOptions::default() };
    let error = client.generate_with(QUESTION, &routed).unwrap_err().to_string();
    assert!(error.contains("`hublab.session`"), "{error}");
    let mut options = GenerateOptions::default();
    options.sampling.temperature = Some(-1.0);
    assert!(matches!(client.generate_with(QUESTION, &options), Err(Error::Engine(_))));
    options.sampling.temperature = None;
    options.sampling.samplers = Some(vec!["top_q".into()]);
    let error = client.generate_with(QUESTION, &options).unwrap_err().to_string();
    assert!(error.contains("`samplers`") && error.contains("`top_q`"), "{error}");
}

#[test]
fn a_dropped_or_cancelled_answer_frees_the_engine() {
    let client = AiClient::embedded().unwrap();
    let mut stream = client.stream(QUESTION, &GenerateOptions::default()).unwrap();
    stream.next().unwrap().unwrap();
    stream.canceller().cancel();
    assert!(matches!(stream.next(), Some(Err(Error::Cancelled))));
    drop(client.stream(QUESTION, &GenerateOptions::default()).unwrap());
    assert_eq!(client.generate(QUESTION).unwrap(), ANSWER);
}
