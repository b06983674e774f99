//! What a swarm reads: descriptions of experts, settings, calibrations, questions, and answers that are joined. The first
//! byte says which.
#![no_main]

use std::path::Path;

use hublabio_moe::{
    Calibration, ExpertConfig, ExpertDomain, ExpertId, ExpertProfile, ExpertResponse, RouteQuery, Router, RoutingStrategy,
    SynthesisStrategy, Synthesizer,
};
use hublabio_runtime::moe::{ExpertSpec, SwarmSettings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 4 {
        0 => files(&text),
        1 => calibration(&text),
        2 => routing(&text),
        _ => joining(&text),
    }
});

/// Descriptions are read or refused with a message that names the file.
fn files(text: &str) {
    if let Err(error) = ExpertSpec::parse(text, "expert.toml", Path::new("/nowhere")) {
        assert!(error.to_string().contains("expert.toml"), "{error}");
    }
    if let Err(error) = SwarmSettings::parse(text, "swarm.toml") {
        assert!(error.to_string().contains("swarm.toml"), "{error}");
    }
}

/// What is read can be written, and is then read as the same.
fn calibration(text: &str) {
    if let Ok(read) = Calibration::from_text(text) {
        let again = Calibration::from_text(&read.to_text()).expect("what was written is read");
        assert_eq!(again, read);
        Router::default().set_calibration(read).expect("what is read is sound");
    }
}

/// Lines become experts in turn with a keyword, an example and a term each; the last line is the question. Probabilities are
/// probabilities, in order, and leaving experts leave nothing behind.
fn routing(text: &str) {
    let mut lines: Vec<&str> = text.lines().take(40).collect();
    let question = lines.pop().unwrap_or_default();
    let mut router = Router::default();
    for (i, words) in lines.chunks(3).enumerate() {
        let list = |at: usize| words.get(at).map(|word| (*word).to_owned()).into_iter().collect::<Vec<_>>();
        let config = ExpertConfig {
            id: ExpertId(i as u32),
            name: format!("expert-{i}"),
            description: String::new(),
            domain: ExpertDomain { name: String::new(), keywords: list(0), threshold: 0.5 },
            model_path: String::new(),
            node_id: None,
            priority: i as i32 - 3,
        };
        let profile =
            ExpertProfile { generalist: i == 1, examples: list(1), corpus: list(2), ..ExpertProfile::default() };
        router.register_with(config, profile);
    }
    let query = RouteQuery { text: question, explain: true, ..RouteQuery::default() };
    let route = |router: &Router, strategy| router.route(&query, strategy, None);
    for strategy in [RoutingStrategy::Single, RoutingStrategy::TopK(2), RoutingStrategy::Threshold(0.3), RoutingStrategy::All]
    {
        let Ok(decision) = route(&router, strategy) else { continue };
        assert!(decision.confidence.iter().all(|(_, p)| (0.0..=1.0).contains(p)));
        assert!(decision.confidence.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        assert!(decision.selected.iter().all(|id| router.get(*id).is_some()));
    }
    let first = router.iter().map(|(config, _)| config.id).next();
    if let Some(id) = first {
        let _ = router.feedback(question, id, true);
        router.remove(id);
        if let Ok(decision) = route(&router, RoutingStrategy::All) {
            assert!(!decision.selected.contains(&id));
        }
    }
}

/// Lines are answers. Shares sum to one, and nothing is made up: Best and a vote give one of the answers.
fn joining(text: &str) {
    let mut lines = text.lines();
    let question = lines.next().unwrap_or_default();
    let responses: Vec<ExpertResponse> = lines
        .take(12)
        .enumerate()
        .map(|(i, text)| ExpertResponse {
            expert: ExpertId(i as u32),
            name: format!("expert-{i}"),
            text: text.to_owned(),
            confidence: [0.5, 0.25, f32::NAN, 1.0, 0.0][i % 5],
            mean_logprob: (i % 2 == 0).then_some(-1.0),
            prompt_tokens: 7,
            tokens: text.len(),
            latency_ms: 1.0,
            cut: i % 7 == 6,
        })
        .collect();
    for strategy in [
        SynthesisStrategy::Best,
        SynthesisStrategy::WeightedAverage,
        SynthesisStrategy::Voting,
        SynthesisStrategy::Concatenate,
    ] {
        let Ok(joined) = Synthesizer::new(strategy).join(question, &responses) else {
            assert!(responses.is_empty());
            continue;
        };
        let sum: f32 = joined.contributions.iter().map(|c| c.weight).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{strategy:?}: shares sum to {sum}");
        if matches!(joined.strategy, SynthesisStrategy::Best | SynthesisStrategy::Voting) {
            assert!(responses.iter().any(|response| response.text == joined.text), "{strategy:?}: {}", joined.text);
        }
    }
}
