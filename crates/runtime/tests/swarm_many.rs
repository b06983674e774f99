//! Many questions at once: the same answers as one at a time, and nobody in another's way.

use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use hublabio_runtime::Error;
use hublabio_runtime::ai::{DEFAULT_MODEL, GenerationConfig, InferenceEngine, ModelConfig, SamplingConfig, TokenId};
use hublabio_runtime::moe::{
    self, AnswerOptions, DebateConfig, ExpertBackend as _, ExpertFailure, ExpertId, ExpertJob, FleetConfig, Flow,
    RoutingStrategy, SwarmAnswer, SwarmEngine, SwarmPiece, SwarmRequest, SwarmSettings, SynthesisStrategy,
};

// The other swarms' tests measure the memory of their process, and so these have one of their own.
#[path = "swarm/models.rs"]
#[allow(dead_code)]
mod models;

use models::Folder;

/// The default model for longer conversations than it was trained for.
fn with_context(context: u32) -> Vec<u8> {
    let key = b"llama.context_length";
    let at = DEFAULT_MODEL.windows(key.len()).position(|window| window == key).expect("the key is there");
    // After the key comes the type of the value, then the value.
    let at = at + key.len() + 4;
    let mut bytes = DEFAULT_MODEL.to_vec();
    bytes[at..at + 4].copy_from_slice(&context.to_le_bytes());
    bytes
}

/// Positions of an answer that nobody waits for.
const ENDLESS: u32 = 100_000;

const QUESTIONS: [&str; 12] = [
    "How do I reverse a list in Python?",
    "What is a slice in Rust? Please say it in one or two sentences, and then give me an example of how one is used.",
    "Which command shows the free space of my disks?",
    "How long do I boil an egg?",
    "What does tar do?",
    "Why does the borrow checker refuse two mutable references?",
    "How do I list files?",
    "Say hello.",
    "How do I sort a dictionary by its values?",
    "Why?",
    "What is a trait object?",
    "How do I see who is logged in?",
];

/// What is the same of an answer however it was computed: its text, who said how much of it, and what each spent.
type Essence = (String, Vec<(String, u32)>, Vec<(ExpertId, usize, usize)>);

fn essence(answer: &SwarmAnswer) -> Essence {
    let contributions = &answer.synthesis.contributions;
    (
        answer.synthesis.text.clone(),
        contributions.iter().map(|part| (part.name.clone(), part.weight.to_bits())).collect(),
        answer.usage.iter().map(|(id, usage)| (*id, usage.calls, usage.tokens)).collect(),
    )
}

fn put(swarm: &SwarmEngine, request: &SwarmRequest, generation: Option<GenerationConfig>) -> SwarmAnswer {
    let options = AnswerOptions { generation, ..AnswerOptions::default() };
    swarm.answer(request, &options, &mut |_| Flow::Continue(())).unwrap()
}

fn seeded(seed: u64) -> GenerationConfig {
    GenerationConfig {
        sampling: SamplingConfig { seed: Some(seed), temperature: 1.0, ..SamplingConfig::default() },
        max_tokens: Some(20 + 3 * seed as usize),
        ..GenerationConfig::default()
    }
}

/// Ends only where the context does, or what is asked for.
fn endless() -> GenerationConfig {
    let engine = InferenceEngine::open_default(&ModelConfig::default()).unwrap();
    let tokenizer = engine.tokenizer().unwrap();
    let ends = (0..tokenizer.n_tokens() as u32).filter(|&id| tokenizer.is_end_of_generation(TokenId(id)));
    let logit_bias = ends.map(|id| (id, f32::NEG_INFINITY)).collect();
    GenerationConfig {
        sampling: SamplingConfig { logit_bias, ..SamplingConfig::greedy() },
        ..GenerationConfig::default()
    }
}

/// All experts of this swarm are in memory.
fn warm(swarm: &SwarmEngine) -> Vec<ExpertId> {
    let experts: Vec<ExpertId> = swarm.experts().iter().map(|(spec, _)| spec.config.id).collect();
    for &id in &experts {
        let request = SwarmRequest { pinned: Some(id), max_tokens: Some(2), ..SwarmRequest::new("Hello") };
        put(swarm, &request, None);
    }
    experts
}

/// The swarm of the binary, all of it in memory.
fn builtin() -> SwarmEngine {
    let swarm = SwarmEngine::open(None, &FleetConfig::default()).unwrap();
    warm(&swarm);
    swarm
}

fn open(folder: &Folder) -> SwarmEngine {
    SwarmEngine::open(Some(&folder.0), &FleetConfig::default()).unwrap()
}

/// A swarm of one expert, the generalist, whose answers can be as long as nobody waits for.
fn long_winded(name: &str) -> (Folder, SwarmEngine) {
    let folder = Folder::new(name);
    folder.write("swarm.toml", "builtin = false\n");
    folder.write("long.gguf", with_context(ENDLESS));
    folder.expert("general", "long.gguf", &format!("generalist = true\ncontext = {ENDLESS}"));
    let swarm = open(&folder);
    (folder, swarm)
}

/// Runs all of it at once, each on a thread of its own.
fn at_once<T: Send>(n: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(n);
    thread::scope(|scope| {
        let (run, barrier) = (&run, &barrier);
        let start = |i| {
            scope.spawn(move || {
                barrier.wait();
                run(i)
            })
        };
        let threads: Vec<_> = (0..n).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Asks for an answer without end; `began` hears of its first text. It ends when nobody listens there any more.
fn ask_without_end(swarm: &SwarmEngine, began: &Sender<()>) -> Result<SwarmAnswer, Error> {
    let options = AnswerOptions { generation: Some(endless()), ..AnswerOptions::default() };
    swarm.answer(&SwarmRequest::new("What does tar do?"), &options, &mut |piece| {
        let is_text = matches!(piece, SwarmPiece::Text(text) if !text.is_empty());
        if is_text && began.send(()).is_err() { Flow::Break(()) } else { Flow::Continue(()) }
    })
}

#[test]
fn twelve_questions_at_once_get_the_answers_that_each_gets_alone() {
    let swarm = builtin();
    let ask = |i: usize| essence(&put(&swarm, &SwarmRequest::new(QUESTIONS[i]), Some(seeded(i as u64))));
    let alone: Vec<Essence> = (0..QUESTIONS.len()).map(ask).collect();
    for _ in 0..3 {
        assert_eq!(at_once(QUESTIONS.len(), ask), alone);
    }
    let experts: std::collections::BTreeSet<&str> = alone.iter().map(|answer| answer.1[0].0.as_str()).collect();
    assert!(experts.len() >= 3, "several experts are asked: {experts:?}");
}

#[test]
fn a_short_question_is_answered_while_a_long_answer_runs() {
    let (_folder, swarm) = long_winded("short-beside-long");
    let (began, begun) = channel();
    let events = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let (events, swarm) = (&events, &swarm);
        scope.spawn(move || {
            let error = ask_without_end(swarm, &began).unwrap_err();
            assert!(matches!(error, Error::Swarm(moe::Error::Cancelled)), "{error}");
            events.lock().unwrap().push("long");
        });
        begun.recv().unwrap();
        let request = SwarmRequest { max_tokens: Some(24), ..SwarmRequest::new("What does tar do?") };
        assert_eq!(put(swarm, &request, None).synthesis.text, "An archiving utility.");
        events.lock().unwrap().push("short");
        drop(begun);
    });
    assert_eq!(*events.lock().unwrap(), ["short", "long"]);
}

#[test]
fn a_question_that_is_given_up_ends_alone() {
    let (_folder, swarm) = long_winded("given-up");
    let ask = |i: usize| essence(&put(&swarm, &SwarmRequest::new(QUESTIONS[i]), Some(seeded(i as u64))));
    let alone: Vec<Essence> = (0..6).map(ask).collect();
    let together = at_once(7, |i| {
        if i < 6 {
            return Some(ask(i));
        }
        let (began, begun) = channel();
        drop(begun);
        let error = ask_without_end(&swarm, &began).unwrap_err();
        assert!(matches!(error, Error::Swarm(moe::Error::Cancelled)), "{error}");
        None
    });
    assert_eq!(together.into_iter().flatten().collect::<Vec<_>>(), alone);
}

#[test]
fn an_answer_that_takes_too_long_ends_alone() {
    let folder = Folder::new("too-long");
    folder.write("swarm.toml", "builtin = false\n");
    folder.expert("general", "builtin:default", "generalist = true");
    folder.write("long.gguf", with_context(ENDLESS));
    folder.expert("slow", "long.gguf", &format!("context = {ENDLESS}\ntimeout_s = 0.2"));
    let swarm = open(&folder);
    warm(&swarm);
    let job = |expert: &str, max_tokens| ExpertJob {
        expert: swarm.expert_id(expert).unwrap(),
        prompt: "What does tar do?".into(),
        bare: true,
        max_tokens,
    };
    let jobs = [job("slow", None), job("general", Some(40)), job("slow", None), job("general", Some(7))];
    let mut backend = swarm.fleet().backend(Vec::new(), Some(endless()));
    let results = backend.run(&jobs, &mut |_, _| Flow::Continue(()));
    for (job, result) in jobs.iter().zip(&results) {
        match job.max_tokens {
            Some(n) => assert_eq!(result.as_ref().unwrap().tokens, n),
            None => assert_eq!(*result, Err(ExpertFailure::TimedOut { limit_ms: 200 })),
        }
    }
}

#[test]
fn experts_of_one_question_speak_at_once() {
    let swarm = builtin();
    let request = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::Voting),
        max_tokens: Some(120),
        ..SwarmRequest::new("How do I list files?")
    };
    let mut drafts: Vec<(ExpertId, String)> = Vec::new();
    let options = AnswerOptions { generation: Some(endless()), ..AnswerOptions::default() };
    let voted = swarm.answer(&request, &options, &mut |piece| {
        if let SwarmPiece::Draft { expert, text } = piece
            && !text.is_empty()
        {
            drafts.push((expert, text.to_owned()));
        }
        Flow::Continue(())
    });
    let voted = voted.unwrap();
    assert_eq!(voted.usage.len(), 4);
    let turns = 1 + drafts.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    assert!(turns > 4, "they take turns: {drafts:?}");
    for (id, usage) in &voted.usage {
        assert_eq!((usage.calls, usage.tokens), (1, 120));
        let said: String = drafts.iter().filter(|(of, _)| of == id).map(|(_, text)| text.as_str()).collect();
        let alone = SwarmRequest { pinned: Some(*id), synthesis: None, ..request.clone() };
        assert_eq!(put(&swarm, &alone, Some(endless())).synthesis.text, said);
    }
    // The same experts once more, and for several clients.
    let again = at_once(4, |_| essence(&put(&swarm, &request, Some(endless()))));
    assert!(again.iter().all(|other| *other == essence(&voted)));
}

fn mixture(text: &str) -> SwarmRequest {
    SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::WeightedAverage),
        max_tokens: Some(70),
        ..SwarmRequest::new(text)
    }
}

/// Mixtures, plain answers and a debate.
fn all_kinds() -> Vec<SwarmRequest> {
    let debate = SwarmRequest { debate: Some(DebateConfig::default()), ..mixture(QUESTIONS[2]) };
    let plain = QUESTIONS.iter().map(|text| SwarmRequest { max_tokens: Some(40), ..SwarmRequest::new(*text) });
    [mixture(QUESTIONS[0]), mixture(QUESTIONS[4]), mixture(QUESTIONS[1]), debate].into_iter().chain(plain).collect()
}

#[test]
fn mixtures_beside_other_answers_are_the_same_as_alone() {
    let swarm = builtin();
    let requests = all_kinds();
    for generation in [None, Some(GenerationConfig { max_tokens: Some(70), ..endless() })] {
        let ask = |i: usize| essence(&put(&swarm, &requests[i], generation.clone()));
        let alone: Vec<Essence> = (0..requests.len()).map(ask).collect();
        assert_eq!(at_once(requests.len(), ask), alone);
    }
}

#[test]
fn answers_that_memory_is_short_for_are_the_same() {
    // Room for one conversation of each expert, and for hardly another.
    let folder = Folder::new("short");
    folder.write("swarm.toml", "builtin = false\n");
    for model in ["default", "linux", "python", "rust"] {
        let generalist = if model == "default" { "generalist = true\n" } else { "" };
        folder.expert(model, &format!("builtin:{model}"), &format!("{generalist}context = 160"));
    }
    let open = |bytes_max| {
        let config = FleetConfig { bytes_max: Some(bytes_max), ..FleetConfig::default() };
        SwarmEngine::open(Some(&folder.0), &config).unwrap()
    };
    let bytes_of_all = |swarm: &SwarmEngine| {
        let mut backend = swarm.fleet().backend(Vec::new(), None);
        let ids = swarm.experts().into_iter().map(|(spec, _)| spec.config.id);
        ids.for_each(|id| assert!(backend.tokenizer_hash(id).is_ok()));
        swarm.experts().iter().map(|(_, status)| status.bytes.unwrap()).sum::<u64>()
    };
    let least = bytes_of_all(&open(0));
    let (narrow, wide) = (open(least), open(4 << 30));
    assert_eq!(bytes_of_all(&narrow), least);
    assert!(bytes_of_all(&wide) > least);
    warm(&wide);
    warm(&narrow);
    let requests = all_kinds();
    let ask = |swarm: &SwarmEngine, i: usize| essence(&put(swarm, &requests[i], None));
    let alone: Vec<Essence> = (0..requests.len()).map(|i| ask(&wide, i)).collect();
    assert_eq!(at_once(requests.len(), |i| ask(&wide, i)), alone);
    assert_eq!(at_once(requests.len(), |i| ask(&narrow, i)), alone);
    assert!(narrow.fleet().bytes_held() <= least);
}

#[test]
fn reading_a_question_beside_an_answer_changes_neither() {
    let (_folder, swarm) = long_winded("reading");
    let experts = warm(&swarm);
    let backend = || swarm.fleet().backend(Vec::new(), None);
    // One that is new, one that takes more than a pass, and one that is being answered.
    let long = QUESTIONS.join(" ").repeat(4);
    let texts = ["Which command shows the free space of my disks?", &long, "What does tar do?"];
    let told: Vec<Vec<Option<f32>>> = texts.iter().map(|text| backend().prompt_logprobs(&experts, text)).collect();
    assert!(told.iter().flatten().all(|logprob| logprob.is_some_and(|logprob| logprob < 0.0)), "{told:?}");
    let request = SwarmRequest::new("What does tar do?");
    let generation = GenerationConfig { max_tokens: Some(400), ..endless() };
    let alone = put(&swarm, &request, Some(generation)).synthesis.text;
    // The last character may have lacked a byte.
    let alone = alone.trim_end_matches('\u{FFFD}');
    let mut unread = texts.iter().zip(&told);
    let mut beside = String::new();
    let options = AnswerOptions { generation: Some(endless()), ..AnswerOptions::default() };
    let given_up = swarm.answer(&request, &options, &mut |piece| {
        if let SwarmPiece::Text(text) = piece
            && !text.is_empty()
        {
            beside.push_str(text);
            if let Some((text, told)) = unread.next() {
                assert!(swarm.experts()[0].1.state.busy, "it is still being answered");
                assert_eq!(backend().prompt_logprobs(&experts, text), *told);
            }
        }
        if beside.len() < alone.len() { Flow::Continue(()) } else { Flow::Break(()) }
    });
    assert!(given_up.is_err() && unread.next().is_none());
    assert!(beside.starts_with(alone), "{beside}\n{alone}");
    // Who is not in memory says nothing.
    let cold = SwarmEngine::open(None, &FleetConfig::default()).unwrap();
    let experts: Vec<ExpertId> = cold.experts().iter().map(|(spec, _)| spec.config.id).collect();
    assert_eq!(cold.fleet().backend(Vec::new(), None).prompt_logprobs(&experts, "Why?"), [None; 4]);
}

#[test]
fn one_question_to_many_experts_is_not_too_many_questions() {
    let settings = SwarmSettings { queue_max: 1, ..SwarmSettings::default() };
    let config = FleetConfig { settings: Some(settings), ..FleetConfig::default() };
    let swarm = SwarmEngine::open(None, &config).unwrap();
    let request = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::Voting),
        max_tokens: Some(16),
        ..SwarmRequest::new("What does tar do?")
    };
    // None of the four is in memory.
    let voted = put(&swarm, &request, None);
    assert!(voted.usage.iter().all(|(_, usage)| usage.failure.is_none()), "{:?}", voted.synthesis.notes);
    assert_eq!(voted.usage.len(), 4);
}

#[test]
fn an_expert_that_is_removed_ends_what_it_is_at() {
    let (folder, swarm) = long_winded("removed");
    folder.expert("other", "builtin:default", "");
    swarm.reload().unwrap();
    let swarm = Arc::new(swarm);
    let generation = GenerationConfig { max_tokens: Some(300), ..endless() };
    let id = swarm.expert_id("general").unwrap();
    let request = SwarmRequest { pinned: Some(id), ..SwarmRequest::new("What does tar do?") };
    let alone = put(&swarm, &request, Some(generation.clone())).synthesis.text;
    let options = AnswerOptions { generation: Some(generation), ..AnswerOptions::default() };
    let mut is_removed = false;
    let answer = swarm.answer(&request, &options, &mut |piece| {
        if !is_removed && matches!(piece, SwarmPiece::Text(text) if !text.is_empty()) {
            is_removed = true;
            std::fs::remove_file(folder.0.join("general.toml")).unwrap();
            assert!(swarm.reload().unwrap());
        }
        ControlFlow::Continue(())
    });
    assert_eq!(answer.unwrap().synthesis.text, alone);
    assert!(swarm.expert_id("general").is_err());
}
