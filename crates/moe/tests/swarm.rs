//! Whole answers of swarms whose experts are scripts: exact texts, events, notes and what each expert was asked.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use hublabio_moe::{
    ASKED_MAX, DebateConfig, Error, ExpertBackend, ExpertConfig, ExpertDomain, ExpertFailure, ExpertId, ExpertJob,
    ExpertProfile, ExpertResponse, ExpertStates, Flow, Mixture, MixtureJob, PieceSink, RoutingDecision,
    RoutingStrategy, SummarizeConfig, SummarizeFallback, Swarm, SwarmAnswer, SwarmPiece, SwarmRequest,
    SynthesisStrategy,
};

const PYTHON: ExpertId = ExpertId(1);
const LINUX: ExpertId = ExpertId(2);
const RUST: ExpertId = ExpertId(3);
const GENERAL: ExpertId = ExpertId(9);
const QUERY: &str = "What is 2 to the tenth?";

/// What a scripted expert does when it is asked.
#[derive(Clone, Debug)]
enum Turn {
    /// Says this, word by word.
    Says(&'static str),
    /// Says this at once, without pieces.
    Blurts(&'static str),
    Fails(ExpertFailure),
    /// Says this, then fails.
    Breaks(&'static str),
}

fn unavailable(why: &str) -> ExpertFailure {
    ExpertFailure::Unavailable(why.into())
}

/// Words that the mixtures choose from.
const WORDS: [&str; 3] = ["left ", "middle ", "right "];

#[derive(Default)]
struct Script {
    turns: BTreeMap<ExpertId, VecDeque<Turn>>,
    /// Probabilities of [`WORDS`] for mixtures.
    distributions: BTreeMap<ExpertId, [f32; 3]>,
    hashes: BTreeMap<ExpertId, u64>,
    /// Members that fail at a token of a mixture, before it is computed.
    fails_at: BTreeMap<ExpertId, usize>,
    /// Everything that was asked.
    asked: Vec<ExpertJob>,
    mixed: Vec<Vec<ExpertId>>,
    states: Option<ExpertStates>,
}

impl Script {
    fn says(mut self, expert: ExpertId, turns: &[Turn]) -> Self {
        self.turns.insert(expert, turns.iter().cloned().collect());
        self
    }

    fn gives(mut self, expert: ExpertId, probabilities: [f32; 3]) -> Self {
        self.distributions.insert(expert, probabilities);
        self
    }

    fn names(&self) -> Vec<u32> {
        self.asked.iter().map(|job| job.expert.0).collect()
    }

    fn response(expert: ExpertId, text: &str) -> ExpertResponse {
        ExpertResponse {
            expert,
            name: String::from("the swarm fills it in"),
            text: text.into(),
            confidence: f32::NAN,
            mean_logprob: Some(-1.0),
            prompt_tokens: 7,
            tokens: text.split_whitespace().count(),
            latency_ms: 10.0 * expert.0 as f32,
            cut: false,
        }
    }

    fn turn(
        &mut self,
        index: usize,
        job: &ExpertJob,
        on_piece: &mut PieceSink<'_>,
    ) -> Result<ExpertResponse, ExpertFailure> {
        let turns = self.turns.entry(job.expert).or_default();
        let turn = if turns.len() > 1 { turns.pop_front() } else { turns.front().cloned() };
        let mut say = |text: &str| {
            for word in text.split_inclusive(' ') {
                if on_piece(index, word).is_break() {
                    return Err(ExpertFailure::Cancelled);
                }
            }
            Ok(())
        };
        match turn {
            Some(Turn::Says(text)) => say(text).map(|()| Self::response(job.expert, text)),
            Some(Turn::Blurts(text)) => Ok(Self::response(job.expert, text)),
            Some(Turn::Fails(failure)) => Err(failure),
            Some(Turn::Breaks(text)) => say(text).and(Err(ExpertFailure::Failed("the script says so".into()))),
            None => Err(unavailable("no script")),
        }
    }
}

impl ExpertBackend for Script {
    fn run(&mut self, jobs: &[ExpertJob], on_piece: &mut PieceSink<'_>) -> Vec<Result<ExpertResponse, ExpertFailure>> {
        if let Some(states) = &self.states {
            for id in [PYTHON, LINUX, RUST, GENERAL] {
                assert_eq!(
                    states.get(id).busy,
                    jobs.iter().any(|job| job.expert == id),
                    "{id} is busy while it is asked"
                );
            }
        }
        self.asked.extend_from_slice(jobs);
        jobs.iter().enumerate().map(|(index, job)| self.turn(index, job, on_piece)).collect()
    }

    fn tokenizer_hash(&mut self, expert: ExpertId) -> Result<u64, ExpertFailure> {
        self.hashes.get(&expert).copied().ok_or_else(|| unavailable("no file"))
    }

    fn mix(
        &mut self,
        job: &MixtureJob,
        mixture: &mut Mixture,
        failed: &mut Vec<(ExpertId, ExpertFailure)>,
        on_piece: &mut PieceSink<'_>,
    ) -> Result<ExpertResponse, ExpertFailure> {
        self.mixed.push(job.experts.clone());
        let logits = |id: &ExpertId| self.distributions[id].map(f32::ln);
        let mut text = String::new();
        for at in 0..4 {
            let mixed = loop {
                let wanted = mixture.wanted().to_vec();
                if wanted.is_empty() {
                    return Err(ExpertFailure::Failed("no member is left".into()));
                }
                let failing =
                    wanted.iter().find(|m| self.fails_at.get(&job.experts[**m]).is_some_and(|from| at >= *from));
                if let Some(&member) = failing {
                    mixture.drop_expert(member);
                    failed.push((job.experts[member], ExpertFailure::TimedOut { limit_ms: 50 }));
                    continue;
                }
                let computed: Vec<Option<[f32; 3]>> =
                    job.experts.iter().enumerate().map(|(m, id)| wanted.contains(&m).then(|| logits(id))).collect();
                let mixed =
                    mixture.mix(&computed.iter().map(|l| l.as_ref().map(<[f32; 3]>::as_slice)).collect::<Vec<_>>());
                if !mixed.is_empty() {
                    break mixed.to_vec();
                }
            };
            let best = (0..WORDS.len()).reduce(|a, b| if mixed[b] > mixed[a] { b } else { a }).unwrap();
            mixture.accept(best as u32);
            text += WORDS[best];
            if on_piece(0, WORDS[best]).is_break() {
                return Err(ExpertFailure::Cancelled);
            }
        }
        Ok(Self::response(job.experts[0], &text))
    }

    fn prompt_logprobs(&mut self, experts: &[ExpertId], _: &str) -> Vec<Option<f32>> {
        vec![None; experts.len()]
    }
}

type Experts = Vec<(ExpertConfig, ExpertProfile)>;

fn expert(id: ExpertId, name: &str, profile: ExpertProfile) -> (ExpertConfig, ExpertProfile) {
    let domain = ExpertDomain { name: name.into(), keywords: vec![], threshold: 0.5 };
    let config = ExpertConfig {
        id,
        name: name.into(),
        description: String::new(),
        domain,
        model_path: String::new(),
        node_id: None,
        priority: 0,
    };
    (config, profile)
}

fn experts() -> Experts {
    let profile = |generalist| ExpertProfile { generalist, active_parameters: 100, ..ExpertProfile::default() };
    vec![
        expert(PYTHON, "python", profile(false)),
        expert(LINUX, "linux", profile(false)),
        expert(RUST, "rust", profile(false)),
        expert(GENERAL, "general", profile(true)),
    ]
}

fn with_fallbacks(pairs: &[(ExpertId, ExpertId)]) -> Experts {
    let mut experts = experts();
    for (config, profile) in &mut experts {
        profile.fallback = pairs.iter().find(|(from, _)| *from == config.id).map(|(_, to)| *to);
    }
    experts
}

/// Python, linux and rust are chosen; the router also weighed the generalist.
fn decision(selected: &[ExpertId]) -> RoutingDecision {
    RoutingDecision {
        selected: selected.to_vec(),
        confidence: vec![(PYTHON, 0.4), (LINUX, 0.35), (RUST, 0.25), (GENERAL, 0.1)],
        reasons: vec!["a test says so".into()],
        ..RoutingDecision::default()
    }
}

const ALL: [ExpertId; 3] = [PYTHON, LINUX, RUST];

fn panel() -> Script {
    Script::default()
        .says(PYTHON, &[Turn::Says("It is 512.")])
        .says(LINUX, &[Turn::Says("1,024")])
        .says(RUST, &[Turn::Says("The answer is 1024.")])
        .says(GENERAL, &[Turn::Says("Two to the tenth is 1024.")])
}

/// A piece in short.
fn line(piece: &SwarmPiece<'_>) -> String {
    match piece {
        SwarmPiece::Routed(decision) => format!("routed to {}", decision.selected.len()),
        SwarmPiece::Started { name, .. } => format!("{name} started"),
        SwarmPiece::Draft { expert, text } => format!("{expert}: {text}"),
        SwarmPiece::Finished { name, tokens, .. } => format!("{name} finished, {tokens}"),
        SwarmPiece::Failed { name, reason, instead, .. } => format!("{name} failed, {reason}, {instead:?}"),
        SwarmPiece::Interrupted { name, reason, .. } => format!("{name} interrupted, {reason}"),
        SwarmPiece::Round { round, rounds } => format!("round {round} of {rounds}"),
        SwarmPiece::Text(text) => format!("text {text}"),
        other => format!("{other:?}"),
    }
}

struct Case {
    swarm: Swarm,
    experts: Experts,
    request: SwarmRequest,
    selected: Vec<ExpertId>,
}

impl Case {
    fn new(strategy: SynthesisStrategy) -> Self {
        Self {
            swarm: Swarm::new(RoutingStrategy::All, strategy),
            experts: experts(),
            request: SwarmRequest::new(QUERY),
            selected: ALL.to_vec(),
        }
    }

    fn selected(strategy: SynthesisStrategy, selected: &[ExpertId]) -> Self {
        Self { selected: selected.to_vec(), ..Self::new(strategy) }
    }

    fn debate(config: DebateConfig) -> Self {
        let mut case = Self::new(SynthesisStrategy::Best);
        case.request.debate = Some(config);
        case
    }

    /// The answer and all pieces; what was streamed is the answer's text, and the caller may break off at piece `stop`.
    fn run(&self, script: &mut Script, stop: usize) -> (Result<SwarmAnswer, Error>, Vec<String>) {
        let mut pieces = Vec::new();
        let mut streamed = String::new();
        let mut on_piece = |piece: SwarmPiece<'_>| {
            pieces.push(line(&piece));
            if let SwarmPiece::Text(text) = piece {
                streamed.push_str(text);
            }
            if pieces.len() > stop { Flow::Break(()) } else { Flow::Continue(()) }
        };
        let decision = decision(&self.selected);
        let answer = self.swarm.answer_decided(&self.experts, script, &self.request, decision, &mut on_piece);
        if let Ok(answer) = &answer {
            assert_eq!(answer.synthesis.text, streamed, "what is streamed is the answer");
            let sum: f32 = answer.synthesis.contributions.iter().map(|contribution| contribution.weight).sum();
            assert!((sum - 1.0).abs() < 1e-5);
        }
        for id in [PYTHON, LINUX, RUST, GENERAL] {
            assert!(!self.swarm.states().get(id).busy, "nobody is busy afterwards");
        }
        (answer, pieces)
    }

    fn answer(&self, script: &mut Script) -> SwarmAnswer {
        self.run(script, usize::MAX).0.unwrap()
    }

    /// Asserts the text, the strategy and the notes.
    fn check(&self, script: &mut Script, text: &str, strategy: SynthesisStrategy, notes: &[&str]) -> SwarmAnswer {
        let answer = self.answer(script);
        assert_eq!((answer.synthesis.text.as_str(), answer.synthesis.strategy), (text, strategy));
        assert_eq!(answer.synthesis.notes, notes);
        answer
    }
}

fn weights(answer: &SwarmAnswer) -> Vec<(u32, f32)> {
    let round = |weight: f32| (weight * 1000.0).round() / 1000.0;
    answer.synthesis.contributions.iter().map(|c| (c.expert.0, round(c.weight))).collect()
}

#[test]
fn best_asks_the_first_alone_and_streams_it() {
    let mut script = panel();
    let case = Case::new(SynthesisStrategy::Best);
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    let answer = answer.unwrap();
    assert_eq!((answer.synthesis.text.as_str(), script.names()), ("It is 512.", vec![1]));
    assert_eq!(pieces, ["routed to 3", "python started", "text It ", "text is ", "text 512.", "python finished, 3"]);
    assert_eq!(weights(&answer), [(1, 1.0)]);
    assert_eq!(answer.decision, decision(&ALL));
    let job = ExpertJob { expert: PYTHON, prompt: QUERY.into(), bare: false, max_tokens: None };
    assert_eq!(script.asked, [job]);
}

#[test]
fn text_that_came_without_pieces_is_streamed_at_the_end() {
    let mut script = panel().says(PYTHON, &[Turn::Blurts("It is 512.")]);
    let (answer, pieces) = Case::new(SynthesisStrategy::Best).run(&mut script, usize::MAX);
    assert_eq!(answer.unwrap().synthesis.text, "It is 512.");
    assert_eq!(pieces[2..], ["python finished, 3", "text It is 512."]);
}

#[test]
fn the_limit_of_tokens_reaches_the_experts() {
    let mut script = panel();
    let mut case = Case::new(SynthesisStrategy::Voting);
    case.request.max_tokens = Some(7);
    case.answer(&mut script);
    assert!(script.asked.iter().all(|job| job.max_tokens == Some(7)));
}

#[test]
fn best_goes_to_the_fallback_then_to_the_next_then_to_the_generalist() {
    let down = |why: &str| [Turn::Fails(unavailable(why))];
    let mut case = Case::selected(SynthesisStrategy::Best, &[PYTHON, LINUX]);
    case.experts = with_fallbacks(&[(PYTHON, RUST)]);
    let mut script = panel().says(PYTHON, &down("no file"));
    let notes = ["python did not answer (unavailable: no file); rust was asked in its place"];
    let answer = case.check(&mut script, "The answer is 1024.", SynthesisStrategy::Best, &notes);
    assert_eq!(script.names(), [1, 3]);
    assert_eq!(answer.usage[0].1.failure.as_deref(), Some("unavailable: no file"));

    let mut script = panel().says(PYTHON, &down("a")).says(RUST, &[Turn::Says(" ")]).says(LINUX, &down("c"));
    let notes = [
        "python did not answer (unavailable: a); rust was asked in its place",
        "rust did not answer (failed: it answered nothing); linux was asked in its place",
        "linux did not answer (unavailable: c); general was asked in its place",
    ];
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    let synthesis = answer.unwrap().synthesis;
    assert_eq!((synthesis.text.trim(), script.names()), ("Two to the tenth is 1024.", vec![1, 3, 2, 9]));
    assert_eq!(synthesis.notes, notes);
    assert!(pieces.contains(&String::from("python failed, unavailable: a, Some(ExpertId(3))")));

    let mut script = Script::default().says(GENERAL, &[Turn::Fails(ExpertFailure::TimedOut { limit_ms: 50 })]);
    let all = ["python: unavailable: no script", "rust: unavailable: no script", "linux: unavailable: no script"];
    let mut all: Vec<String> = all.map(String::from).to_vec();
    all.push("general: no answer within 50 ms".into());
    assert_eq!(case.run(&mut script, usize::MAX).0, Err(Error::AllFailed(all)));

    // Where nothing but its length is in the way, the question is at fault, and the widest expert says by how much.
    let too_long = |context| Turn::Fails(ExpertFailure::TooLong { prompt: 300, context });
    let mut script = Script::default();
    for (expert, context) in [(PYTHON, 128), (LINUX, 256), (RUST, 128), (GENERAL, 64)] {
        script = script.says(expert, &[too_long(context)]);
    }
    assert_eq!(case.run(&mut script, usize::MAX).0, Err(Error::TooLong { prompt: 300, context: 256 }));
    let mut script = script.says(GENERAL, &[Turn::Fails(unavailable("gone"))]);
    assert!(matches!(case.run(&mut script, usize::MAX).0, Err(Error::AllFailed(all)) if all.len() == 4));
}

#[test]
fn a_text_that_has_begun_is_never_swapped_unseen() {
    let case = Case::selected(SynthesisStrategy::Best, &[PYTHON]);
    let mut script = panel().says(PYTHON, &[Turn::Breaks("It is")]);
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    let synthesis = answer.unwrap().synthesis;
    let text = "It is\n\n[python broke off: failed: the script says so; general answers:]\n\nTwo to the tenth is 1024.";
    assert_eq!(synthesis.text, text);
    let notes = [
        "the text of python broke off and stands as far as it came",
        "python did not answer (failed: the script says so); general was asked in its place",
    ];
    assert_eq!(synthesis.notes, notes);
    assert_eq!(pieces[4], "python interrupted, failed: the script says so");
    assert_eq!(pieces[5], "python failed, failed: the script says so, Some(ExpertId(9))");
    // With nobody left the error says so, though text has been streamed.
    let mut script = Script::default().says(PYTHON, &[Turn::Breaks("It is")]);
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    assert!(matches!(answer, Err(Error::AllFailed(_))));
    assert_eq!(pieces.iter().filter(|piece| piece.contains("interrupted")).count(), 1);
}

#[test]
fn voting_takes_what_two_of_three_say() {
    let mut script = panel();
    let case = Case::new(SynthesisStrategy::Voting);
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    let answer = answer.unwrap();
    assert_eq!((answer.synthesis.text.as_str(), answer.synthesis.strategy), ("1,024", SynthesisStrategy::Voting));
    assert_eq!(weights(&answer), [(1, 0.0), (2, 0.583), (3, 0.417)]);
    assert_eq!(script.names(), [1, 2, 3]);
    let expected = [
        "routed to 3",
        "python started",
        "linux started",
        "rust started",
        "1: It ",
        "1: is ",
        "1: 512.",
        "2: 1,024",
        "3: The ",
        "3: answer ",
        "3: is ",
        "3: 1024.",
        "python finished, 3",
        "linux finished, 1",
        "rust finished, 4",
        "text 1,024",
    ];
    assert_eq!(pieces, expected);
}

#[test]
fn those_who_fail_are_replaced_once_and_the_others_serve() {
    let mut case = Case::new(SynthesisStrategy::Voting);
    let mut script =
        panel().says(PYTHON, &[Turn::Breaks("It")]).says(LINUX, &[Turn::Fails(unavailable("broken file"))]);
    let notes = [
        "python did not answer (failed: the script says so); general was asked in its place",
        "linux did not answer (unavailable: broken file)",
    ];
    let answer = case.check(&mut script, "The answer is 1024.", SynthesisStrategy::Voting, &notes);
    assert_eq!(script.names(), [1, 2, 3, 9]);
    assert_eq!(weights(&answer), [(3, 0.714), (9, 0.286)]);
    case.selected = vec![PYTHON];
    let mut script = Script::default();
    let (answer, _) = case.run(&mut script, usize::MAX);
    let all = ["python: unavailable: no script", "general: unavailable: no script"].map(String::from).to_vec();
    assert_eq!(answer, Err(Error::AllFailed(all)));
}

#[test]
fn concatenate_streams_expert_by_expert() {
    let case = Case::selected(SynthesisStrategy::Concatenate, &[RUST, PYTHON, LINUX]);
    let mut script = panel();
    let text = "**python:**\n\nIt is 512.\n\n**linux:**\n\n1,024\n\n**rust:**\n\nThe answer is 1024.";
    let answer = case.check(&mut script, text, SynthesisStrategy::Concatenate, &[]);
    assert_eq!(weights(&answer), [(1, 0.4), (2, 0.35), (3, 0.25)]);
    let (_, pieces) = case.run(&mut panel(), usize::MAX);
    let begin =
        ["routed to 3", "python started", "text **python:**\n\nIt", "text  is", "text  512.", "python finished, 3"];
    assert_eq!(pieces[..6], begin);
}

#[test]
fn an_answer_that_was_given_before_is_named_and_not_repeated() {
    let mut script =
        panel().says(LINUX, &[Turn::Says("It is  512.\n")]).says(RUST, &[Turn::Says(" It is 512. Or so.  ")]);
    let text =
        "**python:**\n\nIt is 512.\n\n**linux:**\n\nThe same answer as python.\n\n**rust:**\n\nIt is 512. Or so.";
    script.turns.insert(LINUX, VecDeque::from([Turn::Says("It is 512.\n")]));
    Case::new(SynthesisStrategy::Concatenate).check(&mut script, text, SynthesisStrategy::Concatenate, &[]);
}

#[test]
fn a_section_that_broke_off_is_marked_and_its_stand_in_has_its_own() {
    let mut script = panel().says(LINUX, &[Turn::Breaks("1,0 ")]);
    let text = "**python:**\n\nIt is 512.\n\n**linux:**\n\n1,0\n\n[linux broke off: failed: the script says so]\n\n\
        **general:**\n\nTwo to the tenth is 1024.\n\n**rust:**\n\nThe answer is 1024.";
    let notes = [
        "the text of linux broke off and stands as far as it came",
        "linux did not answer (failed: the script says so); general was asked in its place",
    ];
    Case::new(SynthesisStrategy::Concatenate).check(&mut script, text, SynthesisStrategy::Concatenate, &notes);
    // Who fails before its first word has no heading.
    let mut script = panel().says(LINUX, &[Turn::Fails(unavailable("x"))]).says(GENERAL, &[]);
    let text = "**python:**\n\nIt is 512.\n\n**rust:**\n\nThe answer is 1024.";
    let notes = [
        "linux did not answer (unavailable: x); general was asked in its place",
        "general did not answer (unavailable: no script)",
    ];
    Case::new(SynthesisStrategy::Concatenate).check(&mut script, text, SynthesisStrategy::Concatenate, &notes);
}

/// Python would say left, linux right: only their mixture says middle.
fn mixable() -> Script {
    let mut script = panel()
        .gives(PYTHON, [0.5, 0.4, 0.1])
        .gives(LINUX, [0.1, 0.4, 0.5])
        .gives(RUST, [0.1, 0.4, 0.5])
        .gives(GENERAL, [0.1, 0.4, 0.5]);
    script.hashes.extend([(PYTHON, 7), (LINUX, 7), (RUST, 7), (GENERAL, 7)]);
    script
}

#[test]
fn weighted_average_says_what_no_member_would() {
    let mut case = Case::selected(SynthesisStrategy::WeightedAverage, &[PYTHON]);
    case.swarm.synthesizer.mixture.tau = 0.0;
    case.swarm.synthesizer.mixture.keep_share_min = 0.5;
    // The generalist is kept in, with a share of at least a half.
    let mut script = mixable();
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    let answer = answer.unwrap();
    assert_eq!(answer.synthesis.text, "middle middle middle middle ");
    assert_eq!(answer.synthesis.strategy, SynthesisStrategy::WeightedAverage);
    assert_eq!((weights(&answer), script.mixed), (vec![(1, 0.5), (9, 0.5)], vec![vec![PYTHON, GENERAL]]));
    assert_eq!(script.asked, []);
    let streamed = ["routed to 1", "python started", "general started", "text middle ", "text middle "];
    assert_eq!(pieces[..5], streamed);
    assert_eq!(answer.usage.iter().map(|(id, usage)| (id.0, usage.tokens)).collect::<Vec<_>>(), [(1, 4), (9, 4)]);
    assert_eq!(answer.tokens, 4, "written once");
}

#[test]
fn only_members_whose_tokens_mean_the_same_are_mixed() {
    let mut case = Case::new(SynthesisStrategy::WeightedAverage);
    case.swarm.synthesizer.mixture.tau = 0.0;
    case.experts[1].1.tokenizer_hash = Some(8); // Linux, by its profile.
    let mut script = mixable();
    script.hashes.remove(&RUST);
    script.distributions.insert(GENERAL, [0.0, 0.4, 0.6]);
    let answer = case.answer(&mut script);
    assert_eq!(script.mixed, [[PYTHON, GENERAL]]);
    // Priors 0.4 and 0.1.
    assert_eq!((answer.synthesis.text.as_str(), weights(&answer)), ("left left left left ", vec![(1, 0.8), (9, 0.2)]));
    let notes = [
        "rust did not answer (unavailable: no file)",
        "linux was not mixed: its tokens do not mean what those of general do",
    ];
    assert_eq!(answer.synthesis.notes, notes);

    // One left: Best, said aloud.
    script.hashes.insert(GENERAL, 5);
    let notes = [
        "rust did not answer (unavailable: no file)",
        "python was not mixed: its tokens do not mean what those of general do",
        "linux was not mixed: its tokens do not mean what those of general do",
        "fewer than two experts can be mixed: the most trusted expert answers",
    ];
    case.check(&mut script, "It is 512.", SynthesisStrategy::Best, &notes);
}

#[test]
fn a_member_that_fails_leaves_the_mixture_to_the_others() {
    let mut case = Case::new(SynthesisStrategy::WeightedAverage);
    case.swarm.synthesizer.mixture.tau = 0.0;
    let mut script = mixable();
    script.fails_at.insert(RUST, 0);
    script.distributions.insert(GENERAL, [f32::NAN, 0.5, 0.5]);
    let notes = [
        "rust did not answer (no answer within 50 ms)",
        "general did not answer (failed: a logit is not a number or plus infinity)",
    ];
    let text = "middle middle middle middle ";
    let answer = case.check(&mut script, text, SynthesisStrategy::WeightedAverage, &notes);
    assert_eq!(weights(&answer), [(1, 0.533), (2, 0.467)], "of those who had a part in it");
    assert_eq!(answer.usage[2].1.failure.as_deref(), Some("no answer within 50 ms"));
}

#[test]
fn a_mixture_that_ends_is_told_before_one_expert_answers() {
    let case = Case::selected(SynthesisStrategy::WeightedAverage, &[PYTHON, LINUX]);
    let mut script = mixable();
    for id in [PYTHON, LINUX, GENERAL] {
        script.fails_at.insert(id, 0);
    }
    // Nobody who failed in the mixture is asked again.
    let (answer, _) = case.run(&mut script, usize::MAX);
    assert!(matches!(answer, Err(Error::AllFailed(all)) if all.len() == 3));
    assert_eq!(script.asked, []);
    // After two tokens, with linux left over by its tokenizer.
    let mut script = mixable();
    script.hashes.insert(LINUX, 1);
    for id in [PYTHON, GENERAL] {
        script.fails_at.insert(id, 2);
    }
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    let synthesis = answer.unwrap().synthesis;
    let text = synthesis.text.as_str();
    assert!(text.starts_with("left left "), "{text}");
    let marked = "\n\n[the mixture broke off: failed: no member is left; one expert answers:]\n\n1,024";
    assert!(text.ends_with(marked), "{text}");
    assert_eq!(synthesis.strategy, SynthesisStrategy::Best);
    assert!(pieces.contains(&String::from("the mixture interrupted, failed: no member is left")));
}

#[test]
fn summarize_puts_the_answers_to_the_reducer() {
    let mut script = panel();
    let case = Case::new(SynthesisStrategy::Summarize);
    let answer = case.check(&mut script, "Two to the tenth is 1024.", SynthesisStrategy::Summarize, &[]);
    assert_eq!(script.names(), [1, 2, 3, 9]);
    let asked = &script.asked[3];
    assert!(asked.bare && asked.prompt.contains("Answer of linux:\n1,024\n"), "{}", asked.prompt);
    assert_eq!(weights(&answer), [(1, 0.4), (2, 0.35), (3, 0.25)]);
    assert_eq!(answer.usage.last().unwrap().0, GENERAL);
}

#[test]
fn a_reducer_that_is_weaker_fails_or_is_missing_is_not_hidden() {
    let mut case = Case::new(SynthesisStrategy::Summarize);
    let voted = |case: &Case, script: &mut Script, notes: &[&str]| {
        case.check(script, "1,024", SynthesisStrategy::Voting, notes);
    };
    let note = "not summarised, but put to the vote: the reducer general: unavailable: x";
    let mut script = panel().says(GENERAL, &[Turn::Fails(unavailable("x"))]);
    voted(&case, &mut script, &["general did not answer (unavailable: x)", note]);

    case.experts[3].1.active_parameters = 99;
    let weaker = "the reducer general is weaker than an expert (99 active parameters, 100)";
    voted(&case, &mut panel(), &[&format!("not summarised, but put to the vote: {weaker}")]);

    case.swarm.synthesizer.summarize.fallback = SummarizeFallback::Refuse;
    let mut script = panel();
    assert_eq!(case.run(&mut script, usize::MAX).0, Err(Error::NoReducer(weaker.into())));
    assert_eq!(script.asked, [], "nobody works in vain");

    case.swarm.synthesizer.summarize.allow_weaker = true;
    let text = "Two to the tenth is 1024.";
    case.check(&mut panel(), text, SynthesisStrategy::Summarize, &[]);

    case.swarm.synthesizer.summarize = SummarizeConfig { reducer: Some(ExpertId(77)), ..SummarizeConfig::default() };
    voted(&case, &mut panel(), &["not summarised, but put to the vote: the reducer 77 is not in this swarm"]);
    case.swarm.synthesizer.summarize.reducer = None;
    case.experts.pop();
    let none = "not summarised, but put to the vote: there is no reducer: no generalist, and none is named";
    voted(&case, &mut panel(), &[none]);
    // One answer needs no reducer.
    case.selected = vec![LINUX];
    let note = "there is one answer: nothing to summarise";
    case.check(&mut panel(), "1,024", SynthesisStrategy::Best, &[note]);
}

#[test]
fn a_debate_ends_when_all_agree() {
    let mut script = panel().says(PYTHON, &[Turn::Says("It is 512."), Turn::Says("1024 it is, of course")]);
    script.turns.insert(PYTHON, VecDeque::from([Turn::Says("It is 512."), Turn::Says("It is 1024.")]));
    let case = Case::debate(DebateConfig { rounds: 3, ..DebateConfig::default() });
    let (answer, pieces) = case.run(&mut script, usize::MAX);
    let answer = answer.unwrap();
    assert_eq!((answer.synthesis.text.as_str(), answer.synthesis.strategy), ("It is 1024.", SynthesisStrategy::Voting));
    assert_eq!(answer.synthesis.notes, ["3 experts debated for 1 round"]);
    assert_eq!(answer.synthesis.agreement, Some(1.0));
    assert_eq!(script.names(), [1, 2, 3, 1, 2, 3]);
    let prompt = "What is 2 to the tenth?\n\nYour earlier answer:\n1,024\n\nThe answer of python:\nIt is 512.\n\n\
        The answer of rust:\nThe answer is 1024.\n\nKeep your answer where it is right, and correct it where the \
        others show that it is wrong. Answer the question again, in full.";
    assert_eq!((script.asked[4].prompt.as_str(), script.asked[4].bare), (prompt, true));
    assert_eq!(pieces.iter().filter(|piece| piece.starts_with("round")).collect::<Vec<_>>(), ["round 1 of 3"]);
    assert_eq!(answer.usage[0].1.calls, 2);
}

#[test]
fn a_debate_has_bounded_rounds_and_then_votes() {
    // Python changes its mind to something else each time, linux and rust do not move.
    let mut script = panel().says(PYTHON, &[Turn::Says("1"), Turn::Says("2"), Turn::Says("3"), Turn::Says("4")]);
    let case = Case::debate(DebateConfig { rounds: 2, ..DebateConfig::default() });
    case.check(&mut script, "1,024", SynthesisStrategy::Voting, &["3 experts debated for 2 rounds"]);
    assert_eq!(script.asked.len(), 9);
    // Who fails in a round keeps its answer; long answers are shortened.
    let long = "An answer with many words that goes on and on and on, and then on, and still further, without end or \
        aim; and more of it, and more, and more, so that in all it has more bytes than an expert may be shown of it, \
        by far, even if nobody else had said anything at all, which is not so.";
    let failing = [Turn::Says("1,024"), Turn::Fails(ExpertFailure::TimedOut { limit_ms: 50 })];
    let mut script = panel().says(PYTHON, &[Turn::Says(long)]).says(LINUX, &failing);
    let case = Case::debate(DebateConfig { rounds: 1, shown_bytes_max: 256 });
    let notes = [
        "linux did not answer (no answer within 50 ms)",
        "linux keeps its earlier answer",
        "3 experts debated for 1 round",
        "answers were shortened where experts read each other's",
    ];
    case.check(&mut script, "1,024", SynthesisStrategy::Voting, &notes);
    for (rounds, shown_bytes_max) in [(0, 4000), (5, 4000), (1, 10)] {
        let case = Case::debate(DebateConfig { rounds, shown_bytes_max });
        assert!(matches!(case.run(&mut panel(), usize::MAX).0, Err(Error::OutOfRange { .. })));
    }
    // One expert has nobody to debate with.
    let mut case = Case::debate(DebateConfig::default());
    case.selected = vec![PYTHON];
    case.check(
        &mut panel(),
        "It is 512.",
        SynthesisStrategy::Voting,
        &["one expert answered: it had nobody to debate with"],
    );
}

/// The strategies with a script for each, debates last.
fn every_strategy() -> Vec<(Case, fn() -> Script)> {
    let strategies = [
        SynthesisStrategy::Best,
        SynthesisStrategy::WeightedAverage,
        SynthesisStrategy::Voting,
        SynthesisStrategy::Concatenate,
        SynthesisStrategy::Summarize,
    ];
    let failing: fn() -> Script = || mixable().says(PYTHON, &[Turn::Breaks("It is")]);
    let cases =
        strategies.into_iter().flat_map(|s| [(Case::new(s), mixable as fn() -> Script), (Case::new(s), failing)]);
    cases.chain([(Case::debate(DebateConfig::default()), mixable as fn() -> Script)]).collect()
}

#[test]
fn the_caller_can_break_off_at_every_step() {
    for (case, script) in every_strategy() {
        let mut whole = script();
        let (answer, pieces) = case.run(&mut whole, usize::MAX);
        assert!(answer.is_ok());
        assert!(pieces.len() > 5);
        for stop in 0..pieces.len() {
            let mut script = script();
            let (answer, until) = case.run(&mut script, stop);
            assert_eq!(answer, Err(Error::Cancelled), "at {stop}: {}", pieces[stop]);
            assert_eq!(until, pieces[..=stop], "nothing comes after a break");
            let started = until.iter().filter(|piece| piece.ends_with(" started")).count();
            assert!(script.asked.len() <= started);
        }
        // Twice the same, to the byte.
        assert_eq!(case.run(&mut script(), usize::MAX).1, pieces);
    }
}

#[test]
fn no_strategy_passes_for_another() {
    let mut seen = BTreeMap::new();
    for (case, script) in every_strategy() {
        let answer = case.answer(&mut script());
        let mut shown = String::new();
        let _ =
            write!(shown, "{:?} {:?} {}", case.swarm.synthesizer.strategy, case.request.debate, answer.synthesis.text);
        let of_panel = script().turns[&PYTHON].len() == 1 && matches!(script().turns[&PYTHON][0], Turn::Says(_));
        if of_panel && case.request.debate.is_none() {
            assert!(seen.insert(answer.synthesis.text.clone(), shown.clone()).is_none(), "{shown} {seen:?}");
        }
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn states_tell_who_is_busy_and_how_it_is_doing() {
    let case = Case::new(SynthesisStrategy::Voting);
    let states = case.swarm.states();
    let mut script = panel().says(RUST, &[Turn::Fails(unavailable("x"))]);
    script.states = Some(states.clone());
    states.set_loaded(RUST, true);
    case.answer(&mut script);
    case.answer(&mut script);
    let (python, rust) = (states.get(PYTHON), states.get(RUST));
    assert_eq!((python.loaded, python.busy, python.total_queries, python.avg_latency_ms), (true, false, 2, 10.0));
    assert_eq!((rust.loaded, rust.total_queries), (false, 0));
    assert_eq!(case.swarm.state(ExpertId(1234)), None, "an expert that is not in the router");
}

#[test]
fn fallbacks_are_followed_a_few_steps_and_never_in_a_circle() {
    let down = || Script::default().says(GENERAL, &[Turn::Says("42")]);
    let mut case = Case::selected(SynthesisStrategy::Best, &[PYTHON]);
    case.experts = with_fallbacks(&[(PYTHON, LINUX), (LINUX, RUST), (RUST, PYTHON)]);
    let notes = [
        "python did not answer (unavailable: no script); linux was asked in its place",
        "linux did not answer (unavailable: no script); rust was asked in its place",
        "the fallbacks of rust lead in a circle, back to rust",
        "rust did not answer (unavailable: no script); general was asked in its place",
    ];
    case.check(&mut down(), "42", SynthesisStrategy::Best, &notes);
    // Six in a row, all of whom fail: from the first, four steps are followed.
    let mut row = Case::new(SynthesisStrategy::Voting);
    row.selected = (11..=16).map(ExpertId).collect();
    row.experts.extend(row.selected.iter().map(|&id| {
        let fallback = (id.0 < 16).then_some(ExpertId(id.0 + 1));
        expert(id, &format!("e{id}"), ExpertProfile { fallback, ..ExpertProfile::default() })
    }));
    let notes = row.answer(&mut down()).synthesis.notes;
    assert_eq!(notes[0], "the fallbacks of e11 go on for more than 4 steps");
    assert_eq!(notes.iter().filter(|note| note.contains("more than 4 steps")).count(), 1);
    case.experts = with_fallbacks(&[(PYTHON, ExpertId(55))]);
    let notes = case.answer(&mut down()).synthesis.notes;
    assert!(notes.contains(&String::from("the fallback 55 of python is not in this swarm")), "{notes:?}");
}

#[test]
fn decisions_that_name_nobody_strangers_or_one_twice() {
    let none = Case::selected(SynthesisStrategy::Best, &[]);
    assert_eq!(none.run(&mut panel(), usize::MAX).0, Err(Error::NoneFits));
    let stranger = Case::selected(SynthesisStrategy::Best, &[ExpertId(50)]);
    assert_eq!(stranger.run(&mut panel(), usize::MAX).0, Err(Error::NoSuchExpert(ExpertId(50))));
    let mixed = Case::selected(SynthesisStrategy::Voting, &[LINUX, ExpertId(50), LINUX]);
    let note = "expert 50 was chosen and is not in this swarm any more";
    let mut script = panel();
    mixed.check(&mut script, "1,024", SynthesisStrategy::Voting, &[note]);
    assert_eq!(script.names(), [2]);
    let mut empty = Case::new(SynthesisStrategy::Best);
    empty.request.text = " \n".into();
    assert_eq!(empty.run(&mut panel(), usize::MAX).0, Err(Error::EmptyQuery));
}

#[test]
fn no_more_experts_are_asked_than_the_limit() {
    let mut case = Case::new(SynthesisStrategy::Voting);
    case.selected = (100..180).map(ExpertId).collect();
    let named = |id: &ExpertId| expert(*id, &format!("e{id}"), ExpertProfile::default());
    case.experts.extend(case.selected.iter().map(named));
    let mut script = Script::default();
    for id in &case.selected {
        script = script.says(*id, &[Turn::Says("5")]);
    }
    let note = "80 experts were chosen, and only the first 64 asked";
    case.check(&mut script, "5", SynthesisStrategy::Voting, &[note]);
    assert_eq!(script.asked.len(), ASKED_MAX);
}

/// A swarm whose router does choose: experts by a keyword each, and a generalist.
fn routed(synthesis: SynthesisStrategy) -> Swarm {
    let mut swarm = Swarm::new(RoutingStrategy::Single, synthesis);
    for (mut config, profile) in experts() {
        config.domain.keywords = match config.name.as_str() {
            "general" => vec![],
            name => vec![name.into(), format!("{name}ic")],
        };
        swarm.router.register_with(config, profile);
    }
    swarm
}

#[test]
fn a_question_is_routed_and_answered() {
    let mut swarm = routed(SynthesisStrategy::Best);
    let mut script = panel();
    let mut ask = |swarm: &mut Swarm, request: &SwarmRequest| {
        swarm.answer(&mut script, request, &mut |_| Flow::Continue(())).map(|answer| answer.synthesis.text)
    };
    assert_eq!(ask(&mut swarm, &SwarmRequest::new("Is linux linuxic?")).unwrap(), "1,024");
    assert_eq!(swarm.process("Is linux linuxic?"), [LINUX]);
    // Nobody fits: the generalist.
    assert_eq!(ask(&mut swarm, &SwarmRequest::new("Who was Ada?")).unwrap(), "Two to the tenth is 1024.");
    let pinned = SwarmRequest { pinned: Some(RUST), ..SwarmRequest::new("Is linux linuxic?") };
    assert_eq!(ask(&mut swarm, &pinned).unwrap(), "The answer is 1024.");
    let other =
        SwarmRequest { routing: Some(RoutingStrategy::All), synthesis: Some(SynthesisStrategy::Voting), ..pinned };
    let all = SwarmRequest { pinned: None, ..other };
    assert!(ask(&mut swarm, &all).unwrap().contains("24"), "three of four say so");
    assert_eq!(ask(&mut swarm, &SwarmRequest::new("  ")), Err(Error::EmptyQuery));
    assert_eq!(script.names()[..3], [2, 9, 3]);
    assert_eq!(script.names().len(), 7);
    let states = [LINUX, RUST, GENERAL, ExpertId(5)].map(|id| swarm.state(id).map(|state| state.total_queries));
    assert_eq!(states, [Some(2), Some(2), Some(2), None]);
}

#[test]
fn a_pinned_expert_is_not_mixed_with_the_generalist_and_is_replaced_by_it() {
    let mut swarm = routed(SynthesisStrategy::WeightedAverage);
    let pinned = SwarmRequest { pinned: Some(PYTHON), ..SwarmRequest::new("Is linux linuxic?") };
    let mut script = mixable().says(PYTHON, &[Turn::Fails(unavailable("x"))]);
    let answer = swarm.answer(&mut script, &pinned, &mut |_| Flow::Continue(())).unwrap();
    assert_eq!((answer.synthesis.text.as_str(), script.mixed.len()), ("Two to the tenth is 1024.", 0));
    assert_eq!(script.names(), [1, 9]);
}

#[test]
fn a_request_may_ask_for_another_strategy() {
    let mut case = Case::new(SynthesisStrategy::Best);
    case.request.synthesis = Some(SynthesisStrategy::Voting);
    case.check(&mut panel(), "1,024", SynthesisStrategy::Voting, &[]);
}
