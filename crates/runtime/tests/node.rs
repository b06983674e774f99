//! A node under many clients: the same answers as one at a time, and nobody in another's way.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hublabio_runtime::ai::constraint::ConstraintSource;
use hublabio_runtime::ai::{
    ChatOptions, Finish, Generation, GenerationConfig, InferenceEngine, Message, ModelConfig, Pooling, SamplingConfig,
    TokenId,
};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::{
    AnswerEvent, AnswerSink, BuiltinCatalog, CatalogModel, EmbedRequest, GenerationRequest, KeepAlive, ModelCatalog,
    Node, NodeConfig, RequestId, ServedModel,
};
use hublabio_runtime::{Error, Result};

/// Longer than anything here takes, so that a defect ends the test.
const PATIENCE: Duration = Duration::from_secs(120);

/// The models of the binary.
struct Four;

impl ModelCatalog for Four {
    fn find(&self, name: &str) -> Result<CatalogModel> {
        let known = ["default", "rust", "python", "linux"];
        let name = known.into_iter().find(|known| *known == name);
        let name = name.ok_or_else(|| Error::NoSuchModel { name: "?".into(), known: known.join(", ") })?;
        Ok(CatalogModel { name: name.into(), source: ModelSource::Builtin(name), ..BuiltinCatalog::default_model() })
    }

    fn list(&self) -> Result<Vec<CatalogModel>> {
        ["default", "rust", "python", "linux"].into_iter().map(|name| self.find(name)).collect()
    }
}

fn node(mut config: NodeConfig) -> Node {
    config.threads = Some(2);
    Node::start(Arc::new(Four), config).unwrap()
}

fn prompt(model: &ServedModel, text: &str) -> Vec<TokenId> {
    model.text().unwrap().chat_prompt_with(&[Message::new("user", text)], &ChatOptions::default()).unwrap().tokens
}

fn ask(node: &Node, model: &str, text: &str, config: &GenerationConfig) -> Receiver<AnswerEvent> {
    let model = node.model(model).unwrap();
    let prompt = prompt(&model, text);
    let (sink, events) = channel();
    node.submit(GenerationRequest::new(model, prompt, config.clone()), Box::new(sink)).unwrap();
    events
}

/// Waits for the end; what was streamed must be what is told in the end.
fn answer(events: &Receiver<AnswerEvent>) -> Result<Generation> {
    let mut streamed = String::new();
    loop {
        match events.recv_timeout(PATIENCE).expect("every request ends") {
            AnswerEvent::Piece { text, .. } => streamed.push_str(&text),
            AnswerEvent::Done(generation) => {
                assert_eq!(generation.text, streamed);
                return Ok(*generation);
            }
            AnswerEvent::Failed(error) => return Err(error),
            _ => {}
        }
    }
}

/// Waits until a node is as wanted.
fn wait_for(node: &Node, what: &str, mut is_so: impl FnMut(&Node) -> bool) {
    let start = Instant::now();
    while !is_so(node) {
        assert!(start.elapsed() < PATIENCE, "{what}: {:?}", node.status());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn seeded(seed: u64, max_tokens: usize) -> GenerationConfig {
    GenerationConfig {
        sampling: SamplingConfig { seed: Some(seed), temperature: 1.0, ..SamplingConfig::default() },
        max_tokens: Some(max_tokens),
        logprobs: Some(3),
        ..GenerationConfig::default()
    }
}

/// Ends only where the context does.
fn endless(node: &Node) -> GenerationConfig {
    let model = node.model("default").unwrap();
    let tokenizer = model.text().unwrap().tokenizer();
    let ends = (0..tokenizer.n_tokens() as u32).filter(|&id| tokenizer.is_end_of_generation(TokenId(id)));
    let logit_bias = ends.map(|id| (id, f32::NEG_INFINITY)).collect();
    GenerationConfig {
        sampling: SamplingConfig { logit_bias, ..SamplingConfig::greedy() },
        ..GenerationConfig::default()
    }
}

/// Slows the node down, so that what it is at lasts some seconds.
struct Slow(std::sync::mpsc::Sender<AnswerEvent>);

impl AnswerSink for Slow {
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()> {
        std::thread::sleep(Duration::from_millis(5));
        self.0.take(event)
    }
}

/// A request that runs for seconds, until its receiver is dropped.
fn keep_busy(node: &Node) -> Receiver<AnswerEvent> {
    let model = node.model("default").unwrap();
    let prompt = prompt(&model, QUESTIONS[0]);
    let (sink, events) = channel();
    node.submit(GenerationRequest::new(model, prompt, endless(node)), Box::new(Slow(sink))).unwrap();
    events
}

const QUESTIONS: [&str; 6] = [
    "What does tar do?",
    "How do I list files?",
    "What is a slice in Rust? Please say it in one or two sentences, and then give me an example of how one is used.",
    "Say hello.",
    "Why?",
    "How do I reverse a list in Python?",
];

#[test]
fn a_batch_gives_the_bits_that_each_answer_has_alone() {
    let node = node(NodeConfig::default());
    let mut engine = InferenceEngine::open_default(&ModelConfig::default()).unwrap();
    let requests: Vec<(usize, GenerationConfig)> =
        (0..24).map(|i| (i % QUESTIONS.len(), seeded(i as u64, 10 + 3 * i))).collect();
    let running: Vec<_> = requests.iter().map(|(q, config)| ask(&node, "default", QUESTIONS[*q], config)).collect();
    for ((question, config), events) in requests.iter().zip(running) {
        let together = answer(&events).unwrap();
        let prompt = engine.chat_prompt(&[Message::new("user", QUESTIONS[*question])]).unwrap();
        let alone = engine.generate(&prompt, config, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(together.tokens, alone.tokens);
        assert_eq!(together.text, alone.text);
        assert_eq!(together.finish, alone.finish);
        let bits = |generation: &Generation| -> Vec<u32> {
            generation.logprobs.iter().flat_map(|l| l.top.iter().map(|(_, p)| p.to_bits())).collect()
        };
        assert_eq!(bits(&together), bits(&alone));
        assert_eq!(together.stats.prompt_tokens, prompt.len());
    }
    let status = node.status();
    assert!(status.work.steps < status.work.generated_tokens / 2, "they were computed in batches: {status:?}");
}

#[test]
fn a_conversation_goes_on_from_what_is_in_memory() {
    let node = node(NodeConfig::default());
    let model = node.model("default").unwrap();
    let text = model.text().unwrap();
    let mut messages = vec![Message::new("user", QUESTIONS[2])];
    let mut engine = InferenceEngine::open_default(&ModelConfig::default()).unwrap();
    for turn in 0..3 {
        let prompt = text.chat_prompt_with(&messages, &ChatOptions::default()).unwrap().tokens;
        let request = GenerationRequest::new(Arc::clone(&model), prompt.clone(), seeded(turn, 20));
        let said = node.generate(request, &mut |_| ControlFlow::Continue(())).unwrap();
        let cached = said.stats.cached_tokens;
        assert!(if turn == 0 { cached == 0 } else { cached * 2 > prompt.len() }, "{cached} of {}", prompt.len());
        engine.generate(&[TokenId(5)], &seeded(0, 1), &mut |_| ControlFlow::Continue(())).unwrap();
        let fresh = engine.generate(&prompt, &seeded(turn, 20), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(said.tokens, fresh.tokens);
        messages.push(Message::new("assistant", said.text));
        messages.push(Message::new("user", "And then?"));
    }
}

#[test]
fn who_hangs_up_stops_at_once_and_alone() {
    let node = node(NodeConfig::default());
    let gone = keep_busy(&node);
    let stays = ask(&node, "default", QUESTIONS[1], &seeded(1, 60));
    let AnswerEvent::Piece { .. } = gone.recv_timeout(PATIENCE).unwrap() else {
        panic!("a short prompt has no progress")
    };
    drop(gone);
    let alone = answer(&ask(&node, "default", QUESTIONS[1], &seeded(1, 60))).unwrap();
    assert_eq!(answer(&stays).unwrap().tokens, alone.tokens);
    wait_for(&node, "the first is given up", |node| node.status().work.requests_cancelled == 1);
    wait_for(&node, "nobody runs", |node| node.status().work.running == 0);
}

#[test]
fn a_request_can_be_cancelled_by_its_number() {
    let node = node(NodeConfig::default());
    let model = node.model("default").unwrap();
    let prompt = prompt(&model, QUESTIONS[0]);
    let (sink, events) = channel();
    let id = node.submit(GenerationRequest::new(model, prompt, endless(&node)), Box::new(sink)).unwrap();
    assert!(matches!(events.recv_timeout(PATIENCE).unwrap(), AnswerEvent::Piece { .. }));
    node.cancel(id);
    let mut last = events.recv_timeout(PATIENCE).unwrap();
    while let AnswerEvent::Piece { .. } = last {
        last = events.recv_timeout(PATIENCE).unwrap();
    }
    let AnswerEvent::Done(generation) = last else { panic!("{last:?}") };
    assert_eq!(generation.finish, Finish::Cancelled);
    assert!(!generation.tokens.is_empty());
    // Gone already: nothing happens.
    node.cancel(id);
}

#[test]
fn more_than_the_queue_holds_are_refused() {
    let node = node(NodeConfig { running_max: 2, queue_max: 3, ..NodeConfig::default() });
    let running: Vec<_> = (0..2).map(|_| keep_busy(&node)).collect();
    wait_for(&node, "two run", |node| node.status().work.running == 2);
    let waiting: Vec<_> = (0..3).map(|_| ask(&node, "default", QUESTIONS[1], &seeded(1, 5))).collect();
    wait_for(&node, "three wait", |node| node.status().work.waiting == 3);
    let model = node.model("default").unwrap();
    let prompt = prompt(&model, QUESTIONS[0]);
    let refused = node.submit(GenerationRequest::new(model, prompt, endless(&node)), Box::new(channel().0));
    assert_eq!(refused.unwrap_err().to_string(), "3 requests are waiting already: try again later");
    drop(running);
    for events in waiting {
        answer(&events).unwrap();
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_at_once() {
    let node = node(NodeConfig { context: Some(64), ..NodeConfig::default() });
    let model = node.model("default").unwrap();
    let refusal = |prompt: Vec<TokenId>, config: GenerationConfig| {
        let request = GenerationRequest::new(Arc::clone(&model), prompt, config);
        node.submit(request, Box::new(channel().0)).unwrap_err().to_string()
    };
    let config = GenerationConfig::greedy;
    assert!(refusal(vec![], config()).contains("the prompt is empty"));
    assert!(refusal(vec![TokenId(9); 64], config()).contains("the prompt has 64 tokens, the context holds 64"));
    let bias = SamplingConfig { logit_bias: vec![(1 << 30, 1.0)], ..SamplingConfig::greedy() };
    assert!(refusal(vec![TokenId(9)], GenerationConfig { sampling: bias, ..config() }).contains("logit bias"));
    let stop = GenerationConfig { stop: vec![String::new()], ..config() };
    assert!(refusal(vec![TokenId(9)], stop).contains("stop strings"));
    assert!(node.model("no-such-model").is_err_and(|error| error.to_string().contains("there is no model")));
    assert_eq!(node.status().work.loads, 0, "nothing was loaded for that");
}

#[test]
fn no_tokens_and_a_full_context_are_ends_too() {
    let node = node(NodeConfig { context: Some(64), ..NodeConfig::default() });
    let none = answer(&ask(&node, "default", QUESTIONS[0], &seeded(1, 0))).unwrap();
    assert_eq!((none.finish, none.tokens.len()), (Finish::Length, 0));
    let full = answer(&ask(&node, "default", QUESTIONS[0], &endless(&node))).unwrap();
    assert_eq!(full.finish, Finish::Context);
    assert_eq!(full.stats.prompt_tokens + full.tokens.len(), 65, "the last token needs no place");
}

/// A sink that breaks.
struct Broken;

impl AnswerSink for Broken {
    fn take(&mut self, _: AnswerEvent) -> ControlFlow<()> {
        panic!("the sink breaks");
    }
}

#[test]
fn a_crash_ends_its_model_and_not_the_node() {
    let node = node(NodeConfig::default());
    let other = ask(&node, "rust", QUESTIONS[2], &seeded(1, 40));
    let model = node.model("default").unwrap();
    let prompt = prompt(&model, QUESTIONS[0]);
    node.submit(GenerationRequest::new(model, prompt, endless(&node)), Box::new(Broken)).unwrap();
    assert!(answer(&other).is_ok(), "another model does not notice");
    wait_for(&node, "it failed", |node| node.status().work.requests_failed == 1);
    assert_eq!(
        answer(&ask(&node, "default", QUESTIONS[0], &GenerationConfig::greedy())).unwrap().text,
        "An archiving utility."
    );
}

#[test]
fn answers_that_memory_is_short_for_are_the_same() {
    // Half of what the file leaves is a little more than one context.
    let probe = node(NodeConfig::default());
    let model = probe.model("default").unwrap();
    let (file, context) = (model.bytes(), model.facts().kv_bytes);
    let config = NodeConfig { max_memory: file + 2 * context + context / 2, ..NodeConfig::default() };
    let long = |seed| GenerationConfig { max_tokens: Some(300), ..seeded(seed, 0) };
    let node = node(config);
    let running: Vec<_> = (0..6).map(|seed| ask(&node, "default", QUESTIONS[2], &long(seed))).collect();
    for (seed, events) in running.iter().enumerate() {
        let short = answer(events).unwrap();
        let plenty = answer(&ask(&probe, "default", QUESTIONS[2], &long(seed as u64))).unwrap();
        assert_eq!(short.tokens, plenty.tokens);
    }
    let held = node.status().models[0].kv_bytes;
    assert!(held <= context + context / 4, "{held} of {context}");
}

#[test]
fn models_come_and_go_within_the_budget() {
    let one = {
        let node = node(NodeConfig { context: Some(128), ..NodeConfig::default() });
        let model = node.model("default").unwrap();
        model.bytes() + model.facts().kv_bytes
    };
    // Two of four fit.
    let config = NodeConfig { context: Some(128), max_memory: one * 5 / 2, ..NodeConfig::default() };
    let node = node(config);
    let names = ["default", "rust", "python", "linux"];
    let running: Vec<_> = (0..40).map(|i| ask(&node, names[i % 4], QUESTIONS[i % 6], &seeded(i as u64, 20))).collect();
    for events in &running {
        answer(events).unwrap();
    }
    let status = node.status();
    assert!(status.models.len() <= 2, "{status:?}");
    assert!(status.work.loads <= 12, "requests are grouped by model: {} loads for 40", status.work.loads);
    wait_for(&node, "all are done", |node| node.status().work.requests_done == 40);
    let too_large = Node::start(Arc::new(Four), NodeConfig { max_memory: one / 2, ..NodeConfig::default() }).unwrap();
    let refused = answer(&ask(&too_large, "default", QUESTIONS[0], &seeded(1, 5))).unwrap_err().to_string();
    assert!(refused.starts_with("model `default` needs") && refused.contains("raise max_memory"), "{refused}");
}

#[test]
fn models_stay_as_long_as_they_are_told() {
    let node = node(NodeConfig { keep_alive: Some(Duration::from_millis(50)), ..NodeConfig::default() });
    node.load("default", KeepAlive::AsBefore).unwrap();
    wait_for(&node, "it is freed", |node| node.status().models.is_empty());
    node.load("default", KeepAlive::Forever).unwrap();
    node.load("rust", KeepAlive::For(Duration::from_secs(3600))).unwrap();
    std::thread::sleep(Duration::from_millis(120));
    let names: Vec<String> = node.status().models.into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["default", "rust"]);
    assert!(node.unload("default").unwrap());
    wait_for(&node, "it is freed", |node| node.status().models.len() == 1);
    assert!(!node.unload("default").unwrap(), "it was not in memory");
    assert!(node.unload("rust").unwrap());
    // One that answers is freed when it has answered.
    node.load("default", KeepAlive::Forever).unwrap();
    let events = keep_busy(&node);
    wait_for(&node, "it runs", |node| node.status().work.running == 1);
    assert!(node.unload("default").unwrap());
    assert!(answer(&events).is_ok());
    wait_for(&node, "it is freed", |node| node.status().models.is_empty());
}

/// Texts of these lengths, of tokens that every vocabulary has.
fn texts(lengths: &[usize]) -> Vec<Vec<TokenId>> {
    let token = |text: usize, at: usize| TokenId((10 + (text * 31 + at * 7) % 200) as u32);
    lengths.iter().enumerate().map(|(text, &n)| (0..n).map(|at| token(text, at)).collect()).collect()
}

/// Hands texts over; what comes back says when.
fn embed(node: &Node, prompts: Vec<Vec<TokenId>>) -> (RequestId, Receiver<Result<Vec<Vec<f32>>>>) {
    let (reply, vectors) = channel();
    let request = EmbedRequest::new(node.model("default").unwrap(), prompts);
    (node.submit_embed(request, move |found| drop(reply.send(found))).unwrap(), vectors)
}

#[test]
fn embeddings_are_those_of_an_engine() {
    let node = node(NodeConfig::default());
    let model = node.model("default").unwrap();
    let mut engine = InferenceEngine::open_default(&ModelConfig::default()).unwrap();
    let context = model.facts().context;
    // Several in one pass, one in several passes, and a full one.
    let prompts = texts(&[5, 1, 90, 31, 32, 33, 300, 2, 7, 64, context, 4]);
    let busy = keep_busy(&node);
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        let request = EmbedRequest { pooling: Some(pooling), ..EmbedRequest::new(Arc::clone(&model), prompts.clone()) };
        let found = node.embed(request).unwrap();
        assert_eq!(found.len(), prompts.len());
        for (prompt, found) in prompts.iter().zip(found) {
            assert_eq!(engine.embed(prompt, pooling).unwrap(), found, "{pooling:?} of {} tokens", prompt.len());
        }
    }
    drop(busy);
    for wrong in [0, context + 1] {
        let request = EmbedRequest::new(Arc::clone(&model), texts(&[3, wrong]));
        assert!(node.embed(request).is_err(), "a text of {wrong} tokens");
    }
    assert_eq!(node.embed(EmbedRequest::new(model, Vec::new())).unwrap(), Vec::<Vec<f32>>::new());
}

#[test]
fn a_list_of_texts_holds_nobody_up() {
    let node = node(NodeConfig::default());
    let (_, many) = embed(&node, texts(&[20; 1000]));
    wait_for(&node, "it runs", |node| node.status().work.running == 1);
    let (_, one) = embed(&node, texts(&[20]));
    let events = ask(&node, "default", QUESTIONS[0], &seeded(1, 20));
    assert_eq!(one.recv_timeout(PATIENCE).unwrap().unwrap().len(), 1);
    answer(&events).unwrap();
    assert!(many.try_recv().is_err(), "who came later was served first");
    let found = many.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(found.len(), 1000);
    assert_eq!(found[1], found[201], "texts of the same tokens");
}

#[test]
fn embeddings_end_when_nobody_wants_them() {
    let node = node(NodeConfig::default());
    let (id, vectors) = embed(&node, texts(&vec![300; 10_000]));
    wait_for(&node, "it runs", |node| node.status().work.prompt_tokens > 0);
    node.cancel(id);
    assert!(matches!(vectors.recv_timeout(PATIENCE).unwrap(), Err(Error::Cancelled)));
    wait_for(&node, "nothing is left", |node| node.status().work.running == 0);
    let status = node.status();
    assert_eq!((status.work.requests_cancelled, status.work.requests_failed), (1, 0));
    assert!(status.work.prompt_tokens < 3_000_000);
    // And the memory of what was begun is there for others.
    assert_eq!(node.embed(EmbedRequest::new(node.model("default").unwrap(), texts(&[300; 3]))).unwrap().len(), 3);
}

#[test]
fn texts_that_fail_fail_alone() {
    let node = node(NodeConfig::default());
    let (_, first) = embed(&node, texts(&[20; 500]));
    let mut wrong = texts(&[8; 3]);
    wrong[1][4] = TokenId(u32::MAX);
    let (_, second) = embed(&node, wrong);
    let (_, third) = embed(&node, texts(&[9; 2]));
    assert!(second.recv_timeout(PATIENCE).unwrap().is_err());
    assert_eq!(first.recv_timeout(PATIENCE).unwrap().unwrap().len(), 500);
    assert_eq!(third.recv_timeout(PATIENCE).unwrap().unwrap().len(), 2);
    let counts = |node: &Node| (node.status().work.requests_done, node.status().work.requests_failed);
    wait_for(&node, "two are done and one has failed", |node| counts(node) == (2, 1));
}

#[test]
fn a_constraint_holds_for_its_own_request() {
    let node = node(NodeConfig::default());
    let constrained = GenerationConfig {
        constraint: Some(ConstraintSource::Regex("[0-9]{3}-[0-9]{3}".into()).into()),
        ..seeded(3, 60)
    };
    let free = GenerationConfig { constraint: None, ..constrained.clone() };
    let config = |i: usize| if i.is_multiple_of(2) { &constrained } else { &free };
    let running: Vec<_> = (0..8).map(|i| ask(&node, "default", QUESTIONS[i % 6], config(i))).collect();
    for (i, events) in running.iter().enumerate() {
        let text = answer(events).unwrap().text;
        let digits = text.len() == 7 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        assert_eq!(digits, i.is_multiple_of(2), "{text:?}");
    }
}

#[test]
fn a_node_that_ends_lets_answers_end() {
    let node = node(NodeConfig::default());
    let long = keep_busy(&node);
    let short = ask(&node, "default", QUESTIONS[1], &seeded(1, 30));
    wait_for(&node, "they run", |node| node.status().work.running == 2);
    let ended = Arc::new(AtomicBool::new(false));
    let ending = {
        let (node, ended) = (node.clone(), Arc::clone(&ended));
        std::thread::spawn(move || {
            node.shut_down(Duration::from_secs(1));
            ended.store(true, Ordering::SeqCst);
        })
    };
    assert!(answer(&short).is_ok(), "what can end in time ends");
    assert!(matches!(answer(&long), Err(Error::ShuttingDown)));
    ending.join().unwrap();
    assert!(ended.load(Ordering::SeqCst));
    let model = node.model("default").unwrap();
    let prompt = prompt(&model, QUESTIONS[0]);
    let refused = node.submit(GenerationRequest::new(model, prompt, endless(&node)), Box::new(channel().0));
    assert!(matches!(refused, Err(Error::ShuttingDown)));
}

/// Counts, and closes after so many.
struct Counting {
    left: usize,
    seen: Arc<Mutex<Vec<usize>>>,
}

impl AnswerSink for Counting {
    fn take(&mut self, event: AnswerEvent) -> ControlFlow<()> {
        if let AnswerEvent::Progress { read, total, .. } = event {
            assert!(read < total);
            self.seen.lock().unwrap().push(read);
            self.left = self.left.saturating_sub(1);
        }
        ControlFlow::Continue(())
    }

    fn is_closed(&self) -> bool {
        self.left == 0
    }
}

#[test]
fn a_long_prompt_is_read_in_parts_beside_an_answer_and_can_be_given_up() {
    let node = node(NodeConfig::default());
    let model = node.model("default").unwrap();
    let context = model.facts().context;
    let busy = keep_busy(&node);
    wait_for(&node, "it runs", |node| node.status().work.running == 1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let prompt = vec![TokenId(40); context - 8];
    let sink = Counting { left: 2, seen: Arc::clone(&seen) };
    node.submit(GenerationRequest::new(model, prompt, seeded(1, 4)), Box::new(sink)).unwrap();
    wait_for(&node, "it is given up", |node| node.status().work.requests_cancelled == 1);
    assert_eq!(*seen.lock().unwrap(), [64, 128], "64 rows beside an answer");
    drop(busy);
}
