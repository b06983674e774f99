use std::sync::atomic::AtomicBool;

use hublabio_moe::MixtureConfig;

use super::super::folder::SwarmSpec;
use super::*;
use crate::ai::GenerationConfig;
use crate::node::{AnswerEvent, AnswerSink};

/// Longer than anything here takes, so that a defect ends the test.
const PATIENCE: Duration = Duration::from_secs(120);

/// A sink that breaks.
struct Broken;

impl AnswerSink for Broken {
    fn take(&mut self, _: AnswerEvent) -> ControlFlow<()> {
        panic!("the sink breaks");
    }
}

/// A worker on this thread.
struct Bench {
    worker: Worker,
    inbox: Receiver<Command>,
    reply: Sender<(usize, Reply)>,
    replies: Receiver<(usize, Reply)>,
    done: BTreeMap<usize, Box<Done>>,
}

impl Bench {
    fn new() -> Self {
        let (own, inbox) = channel();
        let mut worker = Worker::new(&FleetConfig::default(), None, Arc::default(), own).unwrap();
        worker.set_experts(SwarmSpec::builtin().unwrap().experts.into_iter().map(Arc::new).collect());
        let (reply, replies) = channel();
        Self { worker, inbox, reply, replies, done: BTreeMap::new() }
    }

    fn expert(&self, name: &str) -> ExpertId {
        let mut known = self.worker.experts.iter();
        *known.find(|(_, entry)| entry.spec.config.name == name).unwrap().0
    }

    fn ask(&mut self, index: usize, names: &[&str]) {
        let experts: Vec<ExpertId> = names.iter().map(|name| self.expert(name)).collect();
        let priors = vec![1.0; experts.len()];
        let mixture = (names.len() > 1).then(|| Mixture::new(MixtureConfig::default(), &priors).unwrap());
        let generation = Some(GenerationConfig::greedy());
        let text = "How do I list files?".to_owned();
        let question = Question { text, generation, max_tokens: Some(30), ..Question::default() };
        let cancelled = Arc::new(AtomicBool::new(false));
        let reply = ReplyTo { index, sender: self.reply.clone(), cancelled };
        let request = self.worker.shared.next_request();
        let asked = Asked { request, experts, question, mixture, reply };
        assert!(self.worker.take(Command::Ask(Box::new(asked))).is_continue());
    }

    fn drive(&mut self, until: impl Fn(&Self) -> bool) {
        while !until(self) {
            let is_busy = self.worker.round();
            for (index, reply) in self.replies.try_iter() {
                if let Reply::Done(done) = reply {
                    self.done.insert(index, done);
                }
            }
            if !is_busy && !until(self) {
                let command = self.inbox.recv_timeout(PATIENCE).expect("something is still on its way");
                assert!(self.worker.take(command).is_continue());
            } else if let Ok(command) = self.inbox.try_recv() {
                assert!(self.worker.take(command).is_continue());
            }
        }
    }
}

#[test]
fn a_crash_ends_what_one_expert_is_at_and_nothing_else() {
    let mut bench = Bench::new();
    bench.ask(0, &["python"]);
    bench.ask(1, &["rust"]);
    bench.ask(2, &["rust", "python"]);
    bench.drive(|bench| bench.worker.running.len() == 3 && bench.worker.loaded.values().any(|it| it.lane.has_work()));
    assert!(bench.done.is_empty());
    // Somebody asks for the expert whose computation breaks.
    let python = bench.expert("python");
    let loads = bench.worker.cache.stats().loads;
    let spec = Arc::clone(&bench.worker.experts[&python].spec);
    let resident = bench.worker.loaded.get_mut(&python).unwrap();
    let question = Question { text: "Why?".into(), ..Question::default() };
    let prompt = resident.prompt(&question, &spec).unwrap();
    let (answer, _) = resident.begin(&question, &spec, &prompt).unwrap();
    resident.lane.add(Active::new(RequestId(u64::MAX), answer, Box::new(Broken), prompt.tokens));
    bench.drive(|bench| bench.done.len() == 3);
    let failure = |done: &Done| done.result.as_ref().err().map(ToString::to_string);
    let said = failure(&bench.done[&0]).expect("its answers fail");
    assert!(said.contains("it crashed"), "{said}");
    assert_eq!(failure(&bench.done[&1]), None);
    // A mixture goes on with the others.
    assert_eq!(failure(&bench.done[&2]), None);
    let lost = &bench.done[&2].failed;
    assert!(matches!(&lost[..], [(id, ExpertFailure::Failed(_))] if *id == python), "{lost:?}");
    // The expert is loaded anew.
    bench.ask(3, &["python"]);
    bench.drive(|bench| bench.done.len() == 4);
    assert_eq!(failure(&bench.done[&3]), None);
    assert_eq!(bench.worker.cache.stats().loads, loads + 1, "and its base is still there");
}

#[test]
fn an_expert_that_nobody_asks_leaves_while_another_is_busy() {
    let mut bench = Bench::new();
    bench.ask(0, &["linux"]);
    bench.drive(|bench| bench.done.len() == 1);
    let linux = bench.expert("linux");
    assert!(bench.worker.loaded.contains_key(&linux));
    bench.worker.keep_alive = Some(Duration::ZERO);
    bench.ask(1, &["python"]);
    bench.drive(|bench| !bench.worker.loaded.contains_key(&linux));
    assert!(!bench.done.contains_key(&1), "the other is still busy");
    bench.drive(|bench| bench.done.len() == 2);
    assert!(bench.done[&1].result.is_ok());
}
