//! How an answer ends, and what is told about it: stop strings, log probabilities, settings that cannot be.

use std::ops::ControlFlow;

use hublabio_runtime::Error;
use hublabio_runtime::ai::sampling::{Dry, SamplingConfig};
use hublabio_runtime::ai::{Finish, Generation, GenerationConfig, InferenceEngine, Message, ModelConfig, TokenId};

const QUESTION: &str = "What does tar do?";
const ANSWER: &str = "An archiving utility.";

fn open() -> InferenceEngine {
    InferenceEngine::open_default(&ModelConfig { threads: Some(1), ..ModelConfig::default() }).unwrap()
}

/// The answer, what was streamed of it, and the tokens that were streamed.
fn ask(engine: &mut InferenceEngine, config: &GenerationConfig) -> (Generation, Vec<String>, Vec<TokenId>) {
    let prompt = engine.chat_prompt(&[Message::new("user", QUESTION)]).unwrap();
    let (mut texts, mut tokens) = (Vec::new(), Vec::new());
    let generation = engine
        .generate_pieces(&prompt, config, &mut |piece| {
            texts.push(piece.text.to_owned());
            tokens.extend(piece.token);
            assert_eq!(piece.logprobs.is_some(), config.logprobs.is_some() && piece.token.is_some());
            assert!(piece.logprobs.is_none_or(|l| Some(l.token) == piece.token));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(texts.concat(), generation.text, "what is streamed is the answer");
    (generation, texts, tokens)
}

fn stopping(stop: &[&str]) -> GenerationConfig {
    GenerationConfig { stop: stop.iter().map(|s| (*s).to_owned()).collect(), ..GenerationConfig::greedy() }
}

#[test]
fn an_answer_ends_before_a_stop_string_wherever_it_lies() {
    let mut engine = open();
    let (whole, _, tokens) = ask(&mut engine, &GenerationConfig::greedy());
    assert_eq!((whole.text.as_str(), whole.finish), (ANSWER, Finish::EndOfText));
    assert_eq!(tokens, whole.tokens, "the token that ends the answer is streamed too");
    // Every part of the answer, so that some lie across the borders of tokens.
    for (start, _) in ANSWER.char_indices() {
        for end in [start + 1, start + 3, start + 9].into_iter().filter(|&end| end <= ANSWER.len()) {
            let part = &ANSWER[start..end];
            let (cut, ..) = ask(&mut engine, &stopping(&["never", part]));
            let first = ANSWER.find(part).unwrap();
            assert_eq!((cut.text.as_str(), cut.finish), (&ANSWER[..first], Finish::Stop(1)), "{part:?}");
        }
    }
    assert_eq!(ask(&mut engine, &GenerationConfig::greedy()).0.text, ANSWER, "a stop leaves no trace");
}

#[test]
fn what_only_begins_a_stop_string_is_shown_in_the_end() {
    let mut engine = open();
    let (generation, texts, _) = ask(&mut engine, &stopping(&["utility.\nNo", "archives"]));
    assert_eq!((generation.text.as_str(), generation.finish), (ANSWER, Finish::EndOfText));
    assert_eq!(texts.last().map(String::as_str), Some("utility."), "{texts:?}");
    let limited = GenerationConfig { max_tokens: Some(generation.tokens.len() - 2), ..stopping(&["utility.\nNo"]) };
    let (cut, ..) = ask(&mut engine, &limited);
    assert_eq!(cut.finish, Finish::Length);
    assert!(ANSWER.starts_with(&cut.text) && cut.text.len() > "An archiving ".len(), "{:?}", cut.text);
}

#[test]
fn log_probabilities_are_those_of_the_model_whatever_is_sampled() {
    let mut engine = open();
    let (plain, ..) = ask(&mut engine, &GenerationConfig { logprobs: Some(3), ..GenerationConfig::greedy() });
    assert_eq!(plain.logprobs.len(), plain.tokens.len());
    let prompt = engine.chat_prompt(&[Message::new("user", QUESTION)]).unwrap();
    let rows = engine.logits(&[prompt.as_slice(), &plain.tokens].concat(), true).unwrap();
    for (i, found) in plain.logprobs.iter().enumerate() {
        let row = &rows[prompt.len() - 1 + i];
        let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let expected = f64::from(row[found.token.0 as usize]) - total.ln();
        assert!((f64::from(found.logprob) - expected).abs() < 1e-5, "{found:?} is not {expected}");
        assert_eq!(found.top[0], (plain.tokens[i], found.logprob), "greedy takes the likeliest");
        assert!(found.top.len() == 3 && found.top.is_sorted_by(|a, b| a.1 >= b.1), "{found:?}");
    }
    // A bias changes the choice, not what the model believes.
    let first = plain.tokens[0].0;
    let config = GenerationConfig {
        sampling: SamplingConfig { logit_bias: vec![(first, f32::NEG_INFINITY)], ..SamplingConfig::greedy() },
        max_tokens: Some(1),
        logprobs: Some(2),
        ..GenerationConfig::default()
    };
    let (biased, ..) = ask(&mut engine, &config);
    assert_eq!(biased.logprobs[0].top, plain.logprobs[0].top[..2]);
    assert_eq!(biased.logprobs[0].token, plain.logprobs[0].top[1].0);
    assert!(ask(&mut engine, &GenerationConfig::greedy()).0.logprobs.is_empty());
}

#[test]
fn dry_keeps_a_text_from_going_round_and_a_breaker_lets_it() {
    let mut engine = open();
    let ids = engine.raw_prompt("alpha beta gamma delta").unwrap();
    let (repeated, next) = (&ids[ids.len() - 4..ids.len() - 1], ids[ids.len() - 1]);
    let prompt = [repeated, &[next], repeated].concat();
    let last = engine.tokenizer().unwrap().token_bytes(repeated[2]).unwrap().to_vec();
    // A bias makes the model want to go on with the repetition.
    let mut goes_on = |dry: Option<Dry>, dry_breakers: Vec<String>| {
        let sampling = SamplingConfig { dry, logit_bias: vec![(next.0, 1000.0)], ..SamplingConfig::greedy() };
        let config = GenerationConfig { sampling, max_tokens: Some(1), dry_breakers, ..GenerationConfig::default() };
        engine.generate(&prompt, &config, &mut |_| ControlFlow::Continue(())).unwrap().tokens[0] == next
    };
    let dry = || Some(Dry { multiplier: 1e5, ..Dry::default() });
    let default = GenerationConfig::default().dry_breakers;
    assert!(goes_on(None, default.clone()));
    assert!(!goes_on(dry(), default));
    assert!(goes_on(dry(), vec![String::from_utf8(last).unwrap()]));
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let mut engine = open();
    let prompt = engine.raw_prompt("x").unwrap();
    let n_tokens = engine.tokenizer().unwrap().n_tokens() as u32;
    let mut refused =
        |config: GenerationConfig| engine.generate(&prompt, &config, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(refused(stopping(&[""])), Error::BadStop { .. }));
    let logprobs = GenerationConfig { logprobs: Some(101), ..GenerationConfig::default() };
    assert!(refused(logprobs).to_string().contains("at most 100"));
    let sampling = SamplingConfig { logit_bias: vec![(n_tokens, 1.0)], ..SamplingConfig::default() };
    let bias = GenerationConfig { sampling, ..GenerationConfig::default() };
    assert!(matches!(refused(bias), Error::BiasOfUnknownToken { .. }));
    let sampling = SamplingConfig { dry: Some(Dry::default()), ..SamplingConfig::default() };
    let breakers = GenerationConfig { sampling, dry_breakers: vec![String::new()], ..GenerationConfig::default() };
    assert!(matches!(refused(breakers), Error::BadDryBreaker { .. }));
}
