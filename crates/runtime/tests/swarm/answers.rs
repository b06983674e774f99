//! Who answers, and what comes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hublabio_runtime::ai::{GenerationConfig, InferenceEngine, Message, ModelConfig};
use hublabio_runtime::node::{BuiltinCatalog, KeepAlive, Node, NodeConfig};

use super::models::{broken_model, other_tokenizer, random_adapter};
use super::moe::{ExpertId, RouteQuery, RoutingStrategy, SessionId, SynthesisStrategy};
use super::*;

#[test]
fn the_swarm_of_the_binary_answers() {
    let swarm = SwarmEngine::open(None, &FleetConfig::default()).unwrap();
    for (question, expert) in [
        ("How do I reverse a list in Python?", "python"),
        ("Why does the borrow checker refuse two mutable references?", "rust"),
        ("Which command shows the free space of my disks?", "linux"),
        ("How long do I boil an egg?", "general"),
    ] {
        let answer = ask(&swarm, question);
        assert_eq!(names(&answer), [expert], "{question}: {:?}", answer.decision);
        assert!(!answer.synthesis.text.is_empty());
    }
    let states = swarm.experts();
    let python = states.iter().find(|(spec, _)| spec.config.name == "python").unwrap();
    assert!(python.1.state.loaded && python.1.state.total_queries == 1 && python.1.state.avg_latency_ms > 0.0);
}

#[test]
fn a_conversation_stays_with_its_expert() {
    let swarm = SwarmEngine::open(None, &FleetConfig::default()).unwrap();
    let turn =
        |text: &str| SwarmRequest { session: Some(SessionId(5)), max_tokens: Some(8), ..SwarmRequest::new(text) };
    assert_eq!(names(&answer(&swarm, &turn("How do I sort a list in Python?")).unwrap()), ["python"]);
    assert_eq!(names(&answer(&swarm, &turn("And then?")).unwrap()), ["python"]);
    // Without the conversation nobody would know.
    assert_eq!(names(&ask(&swarm, "And then?")), ["general"]);
}

/// What the default model says by itself.
fn alone(question: &str) -> String {
    let mut engine = InferenceEngine::open_default(&ModelConfig::default()).unwrap();
    let prompt = engine.chat_prompt(&[Message::new("user", question)]).unwrap();
    let config = GenerationConfig { max_tokens: Some(24), ..GenerationConfig::greedy() };
    engine.generate(&prompt, &config, &mut |_| Flow::Continue(())).unwrap().text
}

#[test]
fn a_mixture_of_equals_says_what_one_says() {
    let folder = folder("equals");
    folder.expert("first", "builtin:default", "");
    folder.expert("second", "builtin:default", "");
    let swarm = open(&folder);
    let question = "What does tar do?";
    let request = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::WeightedAverage),
        max_tokens: Some(24),
        ..SwarmRequest::new(question)
    };
    let mixed = answer(&swarm, &request).unwrap();
    assert_eq!(mixed.synthesis.strategy, SynthesisStrategy::WeightedAverage, "{:?}", mixed.synthesis.notes);
    assert_eq!(mixed.synthesis.text, alone(question));
    assert_eq!(names(&mixed).len(), 3);
    let weights: f32 = mixed.synthesis.contributions.iter().map(|c| c.weight).sum();
    assert!((weights - 1.0).abs() < 1e-5);
    // One expert alone is that expert.
    let one = SwarmRequest { pinned: Some(swarm.expert_id("first").unwrap()), ..request };
    assert_eq!(answer(&swarm, &one).unwrap().synthesis.text, alone(question));
}

#[test]
fn a_mixture_leans_to_who_foretells_the_text() {
    let swarm = SwarmEngine::open(None, &FleetConfig::default()).unwrap();
    let request = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::WeightedAverage),
        max_tokens: Some(40),
        ..SwarmRequest::new("How do I reverse a list in Python?")
    };
    let mixed = answer(&swarm, &request).unwrap();
    assert_eq!(mixed.synthesis.strategy, SynthesisStrategy::WeightedAverage, "{:?}", mixed.synthesis.notes);
    let best = mixed.synthesis.contributions.iter().max_by(|a, b| a.weight.total_cmp(&b.weight)).unwrap();
    assert_eq!(best.name, "python", "{:?}", mixed.synthesis.contributions);
}

#[test]
fn tokens_of_another_meaning_are_not_mixed() {
    let folder = folder("tokens");
    folder.write("other.gguf", other_tokenizer());
    folder.expert("same", "builtin:default", "");
    folder.expert("other", "other.gguf", "");
    let swarm = open(&folder);
    let request = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::WeightedAverage),
        max_tokens: Some(16),
        ..SwarmRequest::new("What does tar do?")
    };
    let mixed = answer(&swarm, &request).unwrap();
    assert_eq!(mixed.synthesis.strategy, SynthesisStrategy::WeightedAverage);
    assert!(mixed.synthesis.notes.iter().any(|note| note.contains("other")), "{:?}", mixed.synthesis.notes);
    assert!(!names(&mixed).contains(&"other"));
    // Where nobody else is left, one answers alone, and that is said.
    let folder = self::folder("tokens-alone");
    folder.write("other.gguf", other_tokenizer());
    folder.expert("other", "other.gguf", "");
    let swarm = open(&folder);
    let downgraded = answer(&swarm, &request).unwrap();
    assert_eq!(downgraded.synthesis.strategy, SynthesisStrategy::Best);
    assert!(!downgraded.synthesis.notes.is_empty());
}

#[test]
fn others_answer_for_an_expert_that_fails() {
    let folder = folder("fails");
    folder.write("broken.gguf", broken_model());
    folder.write("garbage.gguf", "GGUF and no more");
    folder.expert("broken", "broken.gguf", "");
    folder.expert("garbage", "garbage.gguf", "");
    folder.expert("missing", "no-such.gguf", "");
    folder.expert("slow", "builtin:default", "timeout_s = 0.000001");
    folder.expert("second", "builtin:default", "");
    folder.expert("careful", "broken.gguf", "fallback = \"second\"");
    let swarm = open(&folder);
    let check = |expert: &str, instead: &str, says: &[&str]| {
        let request = SwarmRequest {
            pinned: Some(swarm.expert_id(expert).unwrap()),
            max_tokens: Some(16),
            ..SwarmRequest::new("What does tar do?")
        };
        let answer = answer(&swarm, &request).unwrap();
        assert_eq!(names(&answer), [instead], "{expert}");
        assert!(!answer.synthesis.text.is_empty());
        let notes = answer.synthesis.notes.join("\n");
        says.iter().for_each(|part| assert!(notes.contains(part), "{expert}: `{notes}` does not say `{part}`"));
    };
    check("broken", "general", &["broken", "not finite"]);
    check("garbage", "general", &["garbage", "garbage.gguf"]);
    check("missing", "general", &["missing", "no-such.gguf"]);
    check("slow", "general", &["slow", "no answer within"]);
    check("careful", "second", &["careful"]);
    // All of them at once: who can speaks, who cannot is named.
    let all = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::Concatenate),
        max_tokens: Some(16),
        ..SwarmRequest::new("What does tar do?")
    };
    let all = answer(&swarm, &all).unwrap();
    let notes = all.synthesis.notes.join("\n");
    ["broken", "garbage", "missing", "slow"].iter().for_each(|name| assert!(notes.contains(name), "{notes}"));
    // In a mixture, too.
    let mixture = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::WeightedAverage),
        max_tokens: Some(16),
        ..SwarmRequest::new("What does tar do?")
    };
    let mixed = answer(&swarm, &mixture).unwrap();
    assert_eq!(mixed.synthesis.text, alone("What does tar do?"));
    assert!(mixed.synthesis.notes.iter().any(|note| note.contains("missing")), "{:?}", mixed.synthesis.notes);
    let unavailable: Vec<String> = swarm
        .experts()
        .into_iter()
        .filter(|(_, status)| status.unavailable.is_some())
        .map(|(spec, _)| spec.config.name)
        .collect();
    assert!(unavailable.contains(&"missing".to_owned()) && unavailable.contains(&"garbage".to_owned()));
}

#[test]
fn a_swarm_without_generalist_says_that_nobody_fits() {
    let folder = Folder::new("nobody");
    folder.write("swarm.toml", "builtin = false\n");
    folder.expert("python", "builtin:default", "");
    let swarm = open(&folder);
    let error = answer(&swarm, &SwarmRequest::new("How long do I boil an egg?")).unwrap_err().to_string();
    assert!(error.contains("generalist"), "{error}");
    let query = RouteQuery { text: "python", pinned: Some(ExpertId(1)), ..RouteQuery::default() };
    assert!(swarm.route(&query, None, false).is_err(), "there is no expert 1");
}

#[test]
fn questions_that_cannot_be_routed_are_refused() {
    let swarm = open(&folder("refused"));
    for text in ["", " \n\t"] {
        let error = answer(&swarm, &SwarmRequest::new(text)).unwrap_err().to_string();
        assert!(error.contains("empty"), "{error}");
    }
    // A megabyte is routed, but fits into no context; more is refused by the router.
    let error = answer(&swarm, &SwarmRequest::new("a b ".repeat(1 << 18))).unwrap_err();
    let is_length = matches!(error, Error::Swarm(moe::Error::TooLong { prompt: 524_289.., context: 512 }));
    assert!(is_length, "{error}");
    let error = answer(&swarm, &SwarmRequest::new("a b ".repeat(1 << 19))).unwrap_err().to_string();
    assert!(error.contains("2097152"), "{error}");
}

#[test]
fn a_caller_can_break_off_anywhere() {
    let swarm = SwarmEngine::open(None, &FleetConfig::default()).unwrap();
    let run = |synthesis, stop_at: usize| {
        let mut pieces = 0;
        let request = SwarmRequest {
            routing: Some(RoutingStrategy::TopK(2)),
            synthesis: Some(synthesis),
            max_tokens: Some(12),
            ..SwarmRequest::new("How do I sort a list in Python?")
        };
        let result = swarm.answer(&request, &AnswerOptions::default(), &mut |_| {
            pieces += 1;
            if pieces > stop_at { Flow::Break(()) } else { Flow::Continue(()) }
        });
        (result, pieces)
    };
    for synthesis in [SynthesisStrategy::Best, SynthesisStrategy::WeightedAverage, SynthesisStrategy::Voting] {
        for stop_at in [0, 1, 3] {
            let (result, _) = run(synthesis, stop_at);
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Swarm(moe::Error::Cancelled)), "{synthesis:?} {stop_at}: {error}");
        }
        // The experts are free again.
        assert!(run(synthesis, usize::MAX).0.is_ok());
    }
}

#[test]
fn adapters_share_one_base() {
    let folder = folder("adapters");
    for (i, name) in ["one", "two", "three"].iter().enumerate() {
        random_adapter(&folder.0.join(format!("{name}.gguf")), i as u64 + 1);
        let text = format!(
            "name = \"{name}\"\nbase = \"builtin:default\"\nadapter = \"{name}.gguf\"\n[domain]\nname = \"{name}\"\n\
             keywords = [\"{name}\"]\n[sampling]\npreset = \"greedy\"\n"
        );
        folder.write(&format!("{name}.toml"), text);
    }
    let swarm = open(&folder);
    let say = |name: &str| {
        let pinned = Some(swarm.expert_id(name).unwrap());
        let request = SwarmRequest { pinned, max_tokens: Some(24), ..SwarmRequest::new("What does tar do?") };
        answer(&swarm, &request).unwrap().synthesis.text
    };
    let first: Vec<String> = ["one", "two", "three", "general"].iter().map(|name| say(name)).collect();
    assert_eq!(first[3], alone("What does tar do?"), "the base itself is untouched");
    assert!(first[..3].iter().all(|text| *text != first[3]), "adapters change what is said: {first:?}");
    for _ in 0..3 {
        let again: Vec<String> = ["one", "two", "three", "general"].iter().map(|name| say(name)).collect();
        assert_eq!(again, first);
    }
    assert_eq!(swarm.fleet().stats().base_loads, 1, "the base was loaded once");
    // Numbers of tokens and their meaning are the base's, so adapters can be mixed.
    let mixture = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::WeightedAverage),
        max_tokens: Some(8),
        ..SwarmRequest::new("What does tar do?")
    };
    let mixed = answer(&swarm, &mixture).unwrap();
    assert_eq!(mixed.synthesis.strategy, SynthesisStrategy::WeightedAverage, "{:?}", mixed.synthesis.notes);
    assert_eq!(swarm.fleet().stats().base_loads, 1);
}

#[test]
fn a_reducer_that_is_too_small_is_refused_aloud() {
    let swarm = SwarmEngine::open(None, &FleetConfig::default()).unwrap();
    let request = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::Summarize),
        max_tokens: Some(16),
        ..SwarmRequest::new("What does tar do?")
    };
    let voted = answer(&swarm, &request).unwrap();
    assert_eq!(voted.synthesis.strategy, SynthesisStrategy::Voting);
    let notes = voted.synthesis.notes.join("\n");
    assert!(notes.contains("too small") && notes.contains("general"), "{notes}");
    assert_eq!(voted.synthesis.text, "An archiving utility.");
}

#[test]
fn experts_beside_a_node_take_of_its_memory_and_give_it_back_when_nobody_asks() {
    let config = NodeConfig { keep_alive: Some(Duration::from_secs(1)), ..NodeConfig::default() };
    let max_memory = config.max_memory;
    let node = Node::start(Arc::new(BuiltinCatalog), config).unwrap();
    let swarm = SwarmEngine::open_beside(&node, None, &FleetConfig::default()).unwrap();
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let first = ask(&swarm, "What does tar do?");
    assert!(first.usage[0].1.prompt_tokens > 0);
    until("the experts are freed", &|| swarm.fleet().bytes_held() == 0);
    until("the node has all of its memory", &|| node.status().max_memory == max_memory);
    assert!(swarm.fleet().status().iter().all(|expert| !expert.state.loaded));
    // Another is loaded, while an answer holds the first.
    let request = SwarmRequest { max_tokens: Some(24), ..SwarmRequest::new("What does tar do?") };
    let mut held = 0;
    let again = swarm.answer(&request, &AnswerOptions::default(), &mut |piece| {
        if matches!(piece, SwarmPiece::Text(text) if !text.is_empty()) {
            held = held.max(swarm.fleet().bytes_held());
            until("the node does without", &|| node.status().max_memory == max_memory - held);
        }
        Flow::Continue(())
    });
    assert_eq!(again.unwrap().synthesis.text, first.synthesis.text);
    assert!(held > 0);
    // A model that needs all of the memory is served beside experts that hold some of it.
    let whole = node.model("default").unwrap();
    let max_memory_of_one = whole.bytes() + whole.facts().kv_bytes;
    let narrow = NodeConfig { max_memory: max_memory_of_one, ..NodeConfig::default() };
    let narrow = Node::start(Arc::new(BuiltinCatalog), narrow).unwrap();
    let beside = FleetConfig { bytes_max: Some(1 << 30), ..FleetConfig::default() };
    let beside = SwarmEngine::open_beside(&narrow, None, &beside).unwrap();
    ask(&beside, "What does tar do?");
    until("experts hold some", &|| narrow.status().max_memory < max_memory_of_one);
    narrow.load("default", KeepAlive::AsBefore).unwrap();
    drop(swarm);
    until("the swarm has gone", &|| node.status().max_memory == max_memory);
}
