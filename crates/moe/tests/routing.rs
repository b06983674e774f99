//! The router by its public face: what is chosen, what is refused, and why.

use hublabio_moe::{
    Calibration, Error, EvidenceRequest, ExpertConfig, ExpertDomain, ExpertId, ExpertProfile, GatheredEvidence,
    PRIORITY_BIAS, QUERY_BYTES_MAX, ROUTED_BYTES_MAX, RouteQuery, RouteStep, Router, RouterConfig, RoutingDecision,
    RoutingEvidence, RoutingStrategy, SessionId, Stage, StageStatus, expected_calibration_error,
};
use proptest::prelude::*;

const GENERALIST: ExpertId = ExpertId(0);
const RUST: ExpertId = ExpertId(1);
const PYTHON: ExpertId = ExpertId(2);
const LINUX: ExpertId = ExpertId(3);

fn config(id: ExpertId, name: &str, keywords: &[&str]) -> ExpertConfig {
    ExpertConfig {
        id,
        name: name.to_owned(),
        description: format!("{name} specialist"),
        domain: ExpertDomain {
            name: name.to_owned(),
            keywords: keywords.iter().map(|k| (*k).to_owned()).collect(),
            threshold: 0.5,
        },
        model_path: String::new(),
        node_id: None,
        priority: 0,
    }
}

fn profile(examples: &[&str]) -> ExpertProfile {
    ExpertProfile { examples: examples.iter().map(|e| (*e).to_owned()).collect(), ..ExpertProfile::default() }
}

/// Keywords only, no generalist.
fn specialists() -> Router {
    let mut router = Router::default();
    router.register(config(RUST, "rust", &["rust", "cargo", "borrow checker", "shared"]));
    router.register(config(PYTHON, "python", &["python", "django", "list", "shared"]));
    router.register(config(LINUX, "linux", &["linux", "grep", "systemd"]));
    router
}

fn with_generalist() -> Router {
    let mut router = specialists();
    router.register_with(
        config(GENERALIST, "general", &[]),
        ExpertProfile { generalist: true, ..ExpertProfile::default() },
    );
    router
}

const EXAMPLES: [(ExpertId, &str, &[&str]); 4] = [
    (GENERALIST, "general", &["what is the capital of France", "write a poem about rain", "how long do I boil an egg"]),
    (RUST, "rust", &["how do I fix a lifetime error", "why does the compiler move my vector", "match on an enum"]),
    (PYTHON, "python", &["how do I reverse a list", "sort a dictionary by value", "read a csv into a dataframe"]),
    (LINUX, "linux", &["how do I mount a disk", "restart a failed service", "which process uses port 80"]),
];

/// Examples only.
fn learners() -> Router {
    let mut router = Router::default();
    for (id, name, examples) in EXAMPLES {
        let profile = ExpertProfile { generalist: id == GENERALIST, ..profile(examples) };
        router.register_with(config(id, name, &[]), profile);
    }
    router
}

fn route(router: &Router, text: &str, strategy: RoutingStrategy) -> RoutingDecision {
    router.route(&RouteQuery { text, ..RouteQuery::default() }, strategy, None).unwrap()
}

fn single(router: &Router, text: &str) -> Vec<ExpertId> {
    route(router, text, RoutingStrategy::Single).selected
}

fn confidence(decision: &RoutingDecision, id: ExpertId) -> f32 {
    decision.confidence.iter().find(|(known, _)| *known == id).unwrap().1
}

// What is chosen.

#[test]
fn one_unambiguous_keyword_is_enough_and_no_signal_is_not() {
    let mut router = Router::default();
    router.register(ExpertConfig { priority: 10, ..config(RUST, "python-expert", &["python", "django", "flask"]) });
    let decision = route(&router, "How do I use Django ORM?", RoutingStrategy::TopK(3));
    assert_eq!(decision.selected, [RUST]);
    assert!(decision.confidence[0].1 >= 0.5, "{decision:?}");
    assert_eq!(decision.reasons, ["keywords of python-expert: django"]);
    for router in [router, specialists()] {
        let decision = route(&router, "What is the capital of France?", RoutingStrategy::Threshold(0.0));
        assert!(decision.confidence.iter().all(|(_, p)| *p < 0.5), "{decision:?}");
        assert_eq!(decision.selected, []);
        assert_eq!(decision.reasons, ["no expert fits, and there is no generalist"]);
    }
}

#[test]
fn where_nobody_fits_the_generalist_stands_in_and_says_so() {
    let mut router = with_generalist();
    let decision = route(&router, "What is the capital of France?", RoutingStrategy::Single);
    // It is likely enough by itself that nobody else is meant.
    assert_eq!((decision.selected, decision.fallback), (vec![GENERALIST], false));
    // Two experts that share the question's only keyword: neither reaches its threshold, nor does the generalist.
    let decision = route(&router, "a shared thing", RoutingStrategy::Single);
    assert!(decision.confidence.iter().all(|(_, p)| *p < 0.5), "{decision:?}");
    assert_eq!((decision.selected, decision.fallback), (vec![GENERALIST], true));
    assert!(decision.reasons.last().unwrap().contains("general stands in"), "{:?}", decision.reasons);
    router.remove(GENERALIST);
    assert_eq!(single(&router, "a shared thing"), []);
}

#[test]
fn strategies_choose_as_many_as_they_say() {
    let router = with_generalist();
    let text = "python or rust, on linux with grep?";
    let all = route(&router, text, RoutingStrategy::All);
    assert_eq!(all.selected, all.confidence.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(all.selected.len(), 4);
    assert_eq!(all.selected[0], LINUX);
    assert_eq!(route(&router, text, RoutingStrategy::Single).selected, [LINUX]);
    let fitting: Vec<_> = all.confidence.iter().filter(|(_, p)| *p >= 0.5).map(|(id, _)| *id).collect();
    for n in 1..6 {
        let expected = &fitting[..n.min(fitting.len())];
        assert_eq!(route(&router, text, RoutingStrategy::TopK(n)).selected, expected);
    }
    for t in [0.0, 0.3, 0.5, 0.6, 0.9, 1.0] {
        let decision = route(&router, text, RoutingStrategy::Threshold(t));
        let expected: Vec<_> = all.confidence.iter().filter(|(_, p)| *p >= 0.5f32.max(t)).map(|(id, _)| *id).collect();
        let expected = if expected.is_empty() { vec![GENERALIST] } else { expected };
        assert_eq!(decision.selected, expected, "threshold {t}");
    }
}

#[test]
fn an_expert_is_chosen_only_above_its_own_threshold() {
    for (threshold, expected) in [(0.0, true), (0.5, true), (0.99, false), (1.0, false), (f32::NAN, false)] {
        let mut router = Router::default();
        let mut expert = config(RUST, "rust", &["rust"]);
        expert.domain.threshold = threshold;
        router.register(expert);
        for strategy in [RoutingStrategy::Single, RoutingStrategy::TopK(2), RoutingStrategy::Threshold(0.1)] {
            assert_eq!(!route(&router, "rust?", strategy).selected.is_empty(), expected, "{threshold} {strategy:?}");
        }
        assert_eq!(route(&router, "rust?", RoutingStrategy::All).selected, [RUST], "All asks nobody's leave");
    }
}

#[test]
fn priority_adds_to_the_log_odds_and_breaks_ties() {
    let mut router = Router::default();
    for (id, priority) in [(5, 0), (3, 0), (4, 7), (9, -3)] {
        router.register(ExpertConfig { priority, ..config(ExpertId(id), "twin", &["word"]) });
    }
    for text in ["a word", "nothing"] {
        let decision = route(&router, text, RoutingStrategy::All);
        assert_eq!(decision.selected, [4, 3, 5, 9].map(ExpertId), "{text}");
        let odds = |id| {
            let p = confidence(&decision, ExpertId(id));
            (p / (1.0 - p)).ln()
        };
        assert!((odds(4) - odds(3) - 7.0 * PRIORITY_BIAS).abs() < 1e-4);
        assert!((odds(9) - odds(3) + 3.0 * PRIORITY_BIAS).abs() < 1e-4);
        assert_eq!(confidence(&decision, ExpertId(3)), confidence(&decision, ExpertId(5)));
    }
    // Priorities of any size leave probabilities.
    router.register(ExpertConfig { priority: i32::MAX, ..config(ExpertId(1), "first", &[]) });
    router.register(ExpertConfig { priority: i32::MIN, ..config(ExpertId(2), "last", &[]) });
    let decision = route(&router, "nothing", RoutingStrategy::All);
    assert_eq!((decision.selected[0], decision.selected[5]), (ExpertId(1), ExpertId(2)));
    assert!(decision.confidence.iter().all(|(_, p)| (0.0..=1.0).contains(p)), "{decision:?}");
}

// What is refused.

#[test]
fn what_cannot_be_routed_is_refused_by_name() {
    let ask = |router: &Router, text: &str, strategy| {
        router.route(&RouteQuery { text, ..RouteQuery::default() }, strategy, None).unwrap_err()
    };
    let router = specialists();
    for text in ["", "  \n\t", "\u{0}\u{7f}"] {
        assert_eq!(ask(&router, text, RoutingStrategy::Single), Error::EmptyQuery);
    }
    assert_eq!(ask(&Router::default(), "hello", RoutingStrategy::Single), Error::NoExperts);
    let too_long = "x".repeat(QUERY_BYTES_MAX + 1);
    let expected = Error::QueryTooLong { bytes: QUERY_BYTES_MAX + 1, max: QUERY_BYTES_MAX };
    assert_eq!(ask(&router, &too_long, RoutingStrategy::Single), expected);
    for strategy in [
        RoutingStrategy::TopK(0),
        RoutingStrategy::Threshold(f32::NAN),
        RoutingStrategy::Threshold(-0.1),
        RoutingStrategy::Threshold(1.1),
        RoutingStrategy::Threshold(f32::INFINITY),
    ] {
        assert!(matches!(ask(&router, "rust", strategy), Error::OutOfRange { .. }), "{strategy:?}");
    }
}

#[test]
fn a_megabyte_is_routed_by_its_beginning_and_its_end() {
    let router = with_generalist();
    let filler = "ö ".repeat(166_000);
    for (text, expected) in [
        (format!("rust {filler}{filler}"), RUST),
        (format!("{filler}{filler} rust"), RUST),
        (format!("{filler} rust {filler}"), GENERALIST),
    ] {
        assert!(text.len() > 15 * ROUTED_BYTES_MAX && text.len() <= QUERY_BYTES_MAX, "{}", text.len());
        assert_eq!(single(&router, &text), [expected]);
    }
    // No phrase reaches across what is left out.
    let text = format!("borrow{}checker", " ".repeat(2 * ROUTED_BYTES_MAX));
    assert_eq!(single(&router, &text), [RUST], "white space is no text: both words are in the parts that are read");
    let text = format!("borrow {filler} checker");
    assert_eq!(single(&router, &text), [GENERALIST]);
}

#[test]
fn settings_out_of_range_are_refused() {
    let default = RouterConfig::default;
    for config in [
        RouterConfig { session_margin: f32::NAN, ..default() },
        RouterConfig { session_margin: -0.1, ..default() },
        RouterConfig { doubt_margin: 1.5, ..default() },
        RouterConfig { candidates_max: 1, ..default() },
        RouterConfig { candidates_max: 1000, ..default() },
        RouterConfig { sessions_max: usize::MAX, ..default() },
    ] {
        assert!(matches!(Router::new(config.clone()), Err(Error::OutOfRange { .. })), "{config:?}");
    }
    assert!(Router::new(RouterConfig { sessions_max: 0, session_margin: 1.0, ..default() }).is_ok());
}

#[test]
fn what_of_an_expert_cannot_be_used_is_told() {
    let mut router = Router::default();
    let long = "word ".repeat(17);
    router.register(config(RUST, "rust", &["rust", "", &long]));
    assert_eq!(router.refused(RUST), ["keyword \"\"".to_owned(), format!("keyword {long:?}")]);
    assert_eq!(router.refused(PYTHON), [] as [String; 0]);
    let check = |keywords: &[&str], threshold| {
        let mut expert = config(RUST, "rust", keywords);
        expert.domain.threshold = threshold;
        Router::check_expert(&expert, &ExpertProfile::default())
    };
    assert_eq!(check(&["rust", "c++", "std::vec::Vec<T>"], 0.5), Ok(()));
    for (keywords, threshold) in [(&["rust", " "][..], 0.5), (&[&long], 0.5), (&["rust"], f32::NAN), (&["rust"], 1.1)] {
        assert!(matches!(check(keywords, threshold), Err(Error::OutOfRange { .. })), "{keywords:?} {threshold}");
    }
}

// Who is there.

#[test]
fn experts_keep_the_order_of_their_registration() {
    let mut router = with_generalist();
    let ids = |router: &Router| router.iter().map(|(config, _)| config.id).collect::<Vec<_>>();
    assert_eq!(ids(&router), [RUST, PYTHON, LINUX, GENERALIST]);
    router.register(config(PYTHON, "snake", &[]));
    assert_eq!(ids(&router), [RUST, PYTHON, LINUX, GENERALIST], "a replaced expert keeps its place");
    assert!(router.remove(RUST) && !router.remove(RUST));
    router.register(config(RUST, "snake", &[]));
    assert_eq!(ids(&router), [PYTHON, LINUX, GENERALIST, RUST], "one that comes again is last");
    assert_eq!(router.len(), 4);
    assert_eq!(router.by_name("snake"), Some(PYTHON), "the first of that name");
    assert_eq!(router.by_name("Snake"), None);
    assert_eq!(router.get(LINUX).unwrap().0.name, "linux");
    assert!(router.get(ExpertId(77)).is_none());
}

#[test]
fn a_duplicate_id_replaces_the_expert_and_what_it_learned() {
    let mut router = learners();
    let before = router.generation(PYTHON);
    router.feedback("boil the kettle", PYTHON, true).unwrap();
    router.register_with(config(PYTHON, "python", &[]), profile(EXAMPLES[2].2));
    assert_ne!(router.generation(PYTHON), before);
    let (one, other) = (learners(), router);
    for text in ["boil the kettle", "how do I reverse a list", "mount"] {
        assert_eq!(
            route(&one, text, RoutingStrategy::All).confidence,
            route(&other, text, RoutingStrategy::All).confidence
        );
    }
}

#[test]
fn a_decision_is_current_until_an_expert_is_removed_or_replaced() {
    let mut router = specialists();
    let decision = route(&router, "rust", RoutingStrategy::Single);
    assert!(router.is_current(&decision));
    router.remove(PYTHON);
    assert!(router.is_current(&decision), "another expert does not matter");
    router.register(config(RUST, "rust", &["rust"]));
    assert!(!router.is_current(&decision), "the same id, but another expert");
    assert!(router.is_current(&route(&router, "rust", RoutingStrategy::Single)));
    let decision = route(&router, "rust", RoutingStrategy::Single);
    router.remove(RUST);
    assert!(!router.is_current(&decision));
}

#[test]
fn the_first_of_several_generalists_is_it() {
    let mut router = specialists();
    for id in [8, 7] {
        let generalist = ExpertProfile { generalist: true, ..ExpertProfile::default() };
        router.register_with(config(ExpertId(id), "general", &[]), generalist);
    }
    assert_eq!(router.generalist(), Some(ExpertId(8)));
    assert_eq!(single(&router, "bread"), [ExpertId(8)]);
    router.remove(ExpertId(8));
    assert_eq!(router.generalist(), Some(ExpertId(7)));
    assert_eq!(single(&router, "bread"), [ExpertId(7)]);
    router.remove(ExpertId(7));
    assert_eq!(router.generalist(), None);
}

// Pins and conversations.

#[test]
fn a_pinned_expert_is_chosen_whatever_the_question() {
    let mut router = specialists();
    let pinned = |id| RouteQuery { text: "rust", pinned: Some(id), ..RouteQuery::default() };
    let decision = router.route(&pinned(LINUX), RoutingStrategy::TopK(3), None).unwrap();
    assert_eq!((decision.selected, decision.confidence), (vec![LINUX], vec![(LINUX, 1.0)]));
    let unknown = router.route(&pinned(ExpertId(9)), RoutingStrategy::Single, None);
    assert_eq!(unknown, Err(Error::NoSuchExpert(ExpertId(9))));
    router.set_config(RouterConfig { pin: false, ..RouterConfig::default() }).unwrap();
    let refused = router.route(&pinned(LINUX), RoutingStrategy::Single, None);
    assert!(matches!(refused, Err(Error::OutOfRange { name: "pinned", .. })));
}

#[test]
fn a_conversation_stays_until_it_clearly_belongs_elsewhere() {
    let router = with_generalist();
    let ask = |session, text| {
        let query = RouteQuery { text, session: Some(SessionId(session)), ..RouteQuery::default() };
        router.route(&query, RoutingStrategy::Single, None).unwrap().selected
    };
    assert_eq!(ask(1, "a question on rust"), [RUST]);
    assert_eq!(ask(1, "and how do I do it backwards?"), [RUST], "a question without a signal stays");
    assert_eq!(ask(2, "and how do I do it backwards?"), [GENERALIST], "in another conversation it does not");
    assert_eq!(ask(1, "does rust or linux do that?"), [RUST], "as likely as another: stays");
    assert_eq!(ask(1, "now python and django"), [PYTHON], "clearly elsewhere: moves");
    assert_eq!(ask(1, "and backwards?"), [PYTHON]);
    assert_eq!(ask(2, "cargo"), [RUST], "the generalist keeps nobody");
    assert!(router.forget_session(SessionId(1)) && !router.forget_session(SessionId(1)));
    assert_eq!(ask(1, "and backwards?"), [GENERALIST]);
}

#[test]
fn the_generalist_takes_over_what_its_own_examples_speak_for() {
    let router = learners();
    let ask = |text| {
        let query = RouteQuery { text, session: Some(SessionId(1)), ..RouteQuery::default() };
        router.route(&query, RoutingStrategy::Single, None).unwrap().selected
    };
    assert_eq!(ask("how do I reverse a list by value?"), [PYTHON]);
    assert_eq!(ask("hm, please?"), [PYTHON]);
    assert_eq!(ask("write a poem about rain in the capital of France"), [GENERALIST]);
}

#[test]
fn a_conversation_forgets_an_expert_that_was_replaced() {
    let mut router = with_generalist();
    let query = |text| RouteQuery { text, session: Some(SessionId(1)), ..RouteQuery::default() };
    router.route(&query("rust"), RoutingStrategy::Single, None).unwrap();
    router.register(config(RUST, "rust", &["rust"]));
    let decision = router.route(&query("and now?"), RoutingStrategy::Single, None).unwrap();
    assert_eq!(decision.selected, [GENERALIST]);
}

#[test]
fn a_pin_is_remembered_and_sessions_are_bounded_and_can_be_off() {
    let mut router = with_generalist();
    router.set_config(RouterConfig { sessions_max: 2, ..RouterConfig::default() }).unwrap();
    let ask = |router: &Router, session, text, pinned| {
        let query = RouteQuery { text, session: Some(SessionId(session)), pinned, ..RouteQuery::default() };
        router.route(&query, RoutingStrategy::Single, None).unwrap().selected
    };
    assert_eq!(ask(&router, 1, "hello", Some(LINUX)), [LINUX]);
    assert_eq!(ask(&router, 1, "and then?", None), [LINUX]);
    ask(&router, 2, "rust", None);
    ask(&router, 3, "rust", None);
    assert_eq!(router.sessions_len(), 2);
    assert_eq!(ask(&router, 1, "and then?", None), [GENERALIST], "forgotten for newer ones");
    router.set_config(RouterConfig { session: false, ..RouterConfig::default() }).unwrap();
    ask(&router, 5, "rust", None);
    assert_eq!(ask(&router, 5, "and then?", None), [GENERALIST]);
}

// The classifier.

#[test]
fn questions_go_to_whose_examples_they_resemble() {
    let router = learners();
    for (text, expected) in [
        ("How do I reverse a list of names?", PYTHON),
        ("my vector was moved by the compiler", RUST),
        ("restarting a service that failed", LINUX),
        ("a poem about eggs", GENERALIST),
    ] {
        assert_eq!(route(&router, text, RoutingStrategy::All).selected[0], expected, "{text}");
    }
}

#[test]
fn feedback_moves_a_question_and_its_likes() {
    let mut router = learners();
    let text = "configure the frobnicator quickly";
    let of = |router: &Router, id| confidence(&route(router, text, RoutingStrategy::All), id);
    let before = of(&router, LINUX);
    for _ in 0..3 {
        router.feedback("how to configure a frobnicator", LINUX, true).unwrap();
    }
    let after = of(&router, LINUX);
    assert!(after > before && after > 0.5, "{before} {after}");
    for _ in 0..3 {
        router.feedback("how to configure a frobnicator", LINUX, false).unwrap();
    }
    assert_eq!(of(&router, LINUX), before, "the same feedback the other way round takes it back");
    // Against what was never learned it does nothing.
    router.feedback("an unknown zyxword", LINUX, false).unwrap();
    assert_eq!(of(&router, LINUX), before);
    assert_eq!(router.feedback("x", ExpertId(9), true), Err(Error::NoSuchExpert(ExpertId(9))));
    assert_eq!(router.feedback(" ", LINUX, true), Err(Error::EmptyQuery));
}

#[test]
fn terms_of_the_corpus_count_less_than_examples() {
    let mut router = learners();
    let more = |corpus: &[&str], examples: &[&str]| ExpertProfile {
        corpus: corpus.iter().map(|t| (*t).to_owned()).collect(),
        ..profile(examples)
    };
    router.register_with(config(ExpertId(10), "terms", &[]), more(&["flubber"], &["one two three"]));
    router.register_with(config(ExpertId(11), "examples", &[]), more(&["one two three"], &["flubber"]));
    let decision = route(&router, "flubber", RoutingStrategy::All);
    let [terms, examples, none] = [10, 11, 1].map(|id| confidence(&decision, ExpertId(id)));
    assert!(examples > terms && terms > none, "{decision:?}");
}

#[test]
fn stages_can_be_switched_off() {
    let mut router = learners();
    router.register_with(config(RUST, "rust", &["list"]), profile(EXAMPLES[1].2));
    let with = |router: &mut Router, keywords, classifier| {
        router.set_config(RouterConfig { keywords, classifier, ..RouterConfig::default() }).unwrap();
        route(router, "reverse a list", RoutingStrategy::All).selected[0]
    };
    assert_eq!(with(&mut router, true, false), RUST);
    assert_eq!(with(&mut router, false, true), PYTHON);
    assert_eq!(with(&mut router, false, false), GENERALIST);
}

#[test]
fn an_expert_without_examples_is_not_judged_by_their_absence() {
    let mut router = learners();
    router.register(config(ExpertId(20), "sql", &["postgres"]));
    let decision = route(&router, "postgres?", RoutingStrategy::Single);
    assert_eq!(decision.selected, [ExpertId(20)]);
    // As sure as it would be among experts that have keywords only.
    let mut plain = Router::default();
    plain.register(config(ExpertId(20), "sql", &["postgres"]));
    let alone = confidence(&route(&plain, "postgres?", RoutingStrategy::Single), ExpertId(20));
    assert_eq!(confidence(&decision, ExpertId(20)), alone);
}

// Evidence of models.

/// Answers with fixed values, and notes what was asked.
#[derive(Default)]
struct Scripted {
    logprobs: Vec<(ExpertId, f32)>,
    embedding: Option<Vec<f32>>,
    asked: Vec<Vec<ExpertId>>,
    embeddings_asked: usize,
}

impl RoutingEvidence for Scripted {
    fn prompt_logprobs(&mut self, candidates: &[ExpertId]) -> Vec<Option<f32>> {
        self.asked.push(candidates.to_vec());
        let of = |id: &ExpertId| self.logprobs.iter().find(|(known, _)| known == id).map(|(_, logprob)| *logprob);
        candidates.iter().map(of).collect()
    }
    fn embedding(&mut self) -> Option<Vec<f32>> {
        self.embeddings_asked += 1;
        self.embedding.clone()
    }
}

fn with_evidence(router: &Router, text: &str, evidence: &mut Scripted) -> RoutingDecision {
    let query = RouteQuery { text, explain: true, ..RouteQuery::default() };
    router.route(&query, RoutingStrategy::Single, Some(evidence)).unwrap()
}

#[test]
fn models_are_asked_only_in_doubt_and_settle_it() {
    let router = with_generalist();
    let mut evidence = Scripted { logprobs: vec![(RUST, -1.2), (PYTHON, -0.4), (GENERALIST, -1.0)], ..<_>::default() };
    assert_eq!(with_evidence(&router, "cargo", &mut evidence).selected, [RUST]);
    assert!(evidence.asked.is_empty(), "a clear question costs no model's work");
    let doubt = "is rust like python in this respect?";
    let decision = with_evidence(&router, doubt, &mut evidence);
    assert_eq!(evidence.asked, [vec![RUST, PYTHON, LINUX, GENERALIST]], "three candidates and the generalist, once");
    assert_eq!(evidence.embeddings_asked, 0, "nobody has a centroid");
    assert_eq!(decision.selected, [PYTHON]);
    assert!(decision.reasons.contains(&"the model of python finds it likeliest".to_owned()), "{:?}", decision.reasons);
    evidence.logprobs = vec![(RUST, -0.4), (PYTHON, -1.2)];
    assert_eq!(with_evidence(&router, doubt, &mut evidence).selected, [RUST]);
}

#[test]
fn evidence_that_says_nothing_changes_nothing() {
    let router = with_generalist();
    let doubt = "is rust like python in this respect?";
    let plain = route(&router, doubt, RoutingStrategy::Single);
    for logprobs in [
        vec![],
        vec![(RUST, -1.0)],
        vec![(RUST, f32::NAN), (PYTHON, -1.0)],
        vec![(RUST, f32::INFINITY), (PYTHON, -1.0)],
        vec![(RUST, f32::NEG_INFINITY), (PYTHON, -1.0)],
        vec![(RUST, 0.5), (PYTHON, -1.0)],
    ] {
        let mut evidence = Scripted { logprobs: logprobs.clone(), ..<_>::default() };
        let decision = with_evidence(&router, doubt, &mut evidence);
        assert_eq!(decision.confidence, plain.confidence, "{logprobs:?}");
        let likelihood = decision.stages.iter().find(|report| report.stage == Stage::Likelihood).unwrap();
        assert!(matches!(&likelihood.status, StageStatus::Skipped(why) if why.contains("in memory")), "{likelihood:?}");
    }
}

#[test]
fn embeddings_are_compared_with_centroids() {
    let mut router = with_generalist();
    let doubt = "is rust like python in this respect?";
    router.set_centroid(RUST, vec![2.0, 0.0, 0.0]).unwrap();
    router.set_centroid(PYTHON, vec![0.0, 3.0, 0.0]).unwrap();
    let plain = route(&router, doubt, RoutingStrategy::Single);
    let ask = |router: &Router, embedding: Vec<f32>| {
        with_evidence(router, doubt, &mut Scripted { embedding: Some(embedding), ..<_>::default() })
    };
    assert_eq!(ask(&router, vec![0.9, 0.1, 0.2]).selected, [RUST]);
    assert_eq!(ask(&router, vec![0.1, 9.0, 0.2]).selected, [PYTHON]);
    for embedding in [vec![], vec![0.0; 3], vec![f32::NAN; 3], vec![f32::INFINITY; 3], vec![1.0; 2]] {
        assert_eq!(ask(&router, embedding.clone()).confidence, plain.confidence, "{embedding:?}");
    }
    for centroid in [vec![], vec![0.0; 3], vec![f32::NAN], vec![f32::INFINITY], vec![1.0; 65_537]] {
        let refused = router.set_centroid(RUST, centroid);
        assert!(matches!(refused, Err(Error::OutOfRange { name: "centroid", .. })), "{refused:?}");
    }
    assert_eq!(router.set_centroid(ExpertId(9), vec![1.0]), Err(Error::NoSuchExpert(ExpertId(9))));
    // An expert that is replaced loses its centroid.
    router.register(config(RUST, "rust", &["rust"]));
    router.register(config(PYTHON, "python", &["python"]));
    let decision = ask(&router, vec![0.1, 9.0, 0.2]);
    let embedding = decision.stages.iter().find(|report| report.stage == Stage::Embedding).unwrap();
    assert!(matches!(embedding.status, StageStatus::Skipped(_)), "{embedding:?}");
}

#[test]
fn evidence_for_an_expert_that_was_replaced_counts_for_nothing() {
    let mut router = with_generalist();
    let query = RouteQuery { text: "rust or python", ..RouteQuery::default() };
    let Ok(RouteStep::Ask(request)) = router.route_step(&query, RoutingStrategy::Single) else { panic!("no doubt?") };
    let EvidenceRequest { candidates, embedding } = request.clone();
    assert!(!embedding && candidates.len() == 4);
    let mut scripted = Scripted { logprobs: vec![(RUST, -3.0), (PYTHON, -0.1)], ..<_>::default() };
    let evidence: GatheredEvidence = request.gather(&mut scripted);
    let with = |router: &Router| router.route_with_evidence(&query, RoutingStrategy::All, Some(&evidence)).unwrap();
    assert_eq!(with(&router).selected[0], PYTHON);
    router.register(config(PYTHON, "python", &["python", "django", "list", "shared"]));
    assert_eq!(with(&router).confidence, route(&router, "rust or python", RoutingStrategy::All).confidence);
}

// Explanations.

#[test]
fn an_explained_decision_shows_what_every_stage_found() {
    let mut router = learners();
    router.register_with(config(PYTHON, "python", &["list", "data"]), profile(EXAMPLES[2].2));
    router.register_with(config(LINUX, "linux", &["data"]), profile(EXAMPLES[3].2));
    let query = RouteQuery { text: "Reverse a list of data, twice: list?", explain: true, ..RouteQuery::default() };
    let decision = router.route(&query, RoutingStrategy::Single, None).unwrap();
    let stages: Vec<Stage> = decision.stages.iter().map(|report| report.stage).collect();
    use Stage::*;
    assert_eq!(stages, [Pin, Session, Keywords, Classifier, Likelihood, Embedding]);
    let keywords = &decision.stages[2];
    assert_eq!(keywords.status, StageStatus::Ran);
    let matches: Vec<_> = keywords.matches.iter().map(|m| (m.expert, m.what.as_str())).collect();
    assert_eq!(matches, [(PYTHON, "list"), (PYTHON, "data"), (LINUX, "data")]);
    assert!(keywords.matches[0].weight > keywords.matches[1].weight, "rarer is stronger");
    assert_eq!(keywords.scores.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [PYTHON, LINUX]);
    let classifier = &decision.stages[3];
    assert_eq!(classifier.scores[0].0, PYTHON);
    assert!(classifier.matches.iter().any(|m| m.expert == PYTHON && m.what == "reverse"), "{classifier:?}");
    for skipped in [0, 1, 4, 5] {
        assert!(matches!(decision.stages[skipped].status, StageStatus::Skipped(_)));
    }
    let plain = router.route(&RouteQuery { explain: false, ..query }, RoutingStrategy::Single, None).unwrap();
    assert!(plain.stages.is_empty());
    assert_eq!((plain.selected, plain.confidence), (decision.selected, decision.confidence));
    let pinned = RouteQuery { pinned: Some(LINUX), ..query };
    let decision = router.route(&pinned, RoutingStrategy::Single, None).unwrap();
    assert_eq!(decision.stages.len(), 6);
    assert_eq!(decision.stages[0].status, StageStatus::Ran);
    let all_off = RouterConfig { pin: false, session: false, keywords: false, ..RouterConfig::default() };
    router.set_config(RouterConfig { classifier: false, likelihood: false, embedding: false, ..all_off }).unwrap();
    let decision = router.route(&query, RoutingStrategy::Single, None).unwrap();
    assert!(decision.stages.iter().all(|report| report.status == StageStatus::Off), "{:?}", decision.stages);
}

// Calibration.

fn draw(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % n
}

/// Questions with one expert's keyword, of which only `honest` in 100 belong to that expert; the rest belong to nobody.
fn noisy_questions(n: usize, honest: u64, mut seed: u64) -> Vec<(String, Option<ExpertId>)> {
    let words = ["rust", "python", "linux", "bread"];
    (0..n)
        .map(|at| {
            let which = draw(&mut seed, 4) as usize;
            let right = [Some(RUST), Some(PYTHON), Some(LINUX), None][which];
            let label = if draw(&mut seed, 100) < honest { right } else { None };
            (format!("question {at} about {} number {}", words[which], draw(&mut seed, 50)), label)
        })
        .collect()
}

fn calibration_error(router: &Router, questions: &[(String, Option<ExpertId>)]) -> f32 {
    let mut outcomes = Vec::new();
    for (text, label) in questions {
        let right = label.unwrap_or(GENERALIST);
        outcomes.extend(route(router, text, RoutingStrategy::All).confidence.iter().map(|(id, p)| (*p, *id == right)));
    }
    expected_calibration_error(&outcomes)
}

#[test]
fn a_fitted_calibration_means_what_it_says() {
    for honest in [95, 60] {
        let mut router = with_generalist();
        let fresh = noisy_questions(600, honest, 99);
        let before = calibration_error(&router, &fresh);
        let calibration = Calibration::fit(&router, &noisy_questions(600, honest, 7)).unwrap();
        router.set_calibration(calibration).unwrap();
        let after = calibration_error(&router, &fresh);
        assert!(after <= 0.03 && after < before, "{honest} %: {before} to {after}");
        let p = confidence(&route(&router, "rust", RoutingStrategy::All), RUST);
        assert!((p - honest as f32 / 100.0).abs() < 0.06, "{honest} %: {p}");
    }
}

#[test]
fn a_calibration_does_not_depend_on_the_order_and_survives_as_text() {
    let mut router = learners();
    let mut questions = Vec::new();
    for round in 0..12 {
        for (id, _, examples) in EXAMPLES {
            questions.extend(examples.iter().map(|text| (format!("{text} {round}"), Some(id))));
        }
    }
    let forward = Calibration::fit(&router, &questions).unwrap();
    questions.reverse();
    let backward = Calibration::fit(&router, &questions).unwrap();
    for (a, b) in forward.curves.iter().zip(&backward.curves) {
        assert_eq!((a.stages, a.generalist, a.knots.len()), (b.stages, b.generalist, b.knots.len()));
        let close = |x: f32, y: f32| (x - y).abs() < 1e-4;
        assert!(a.weights.iter().zip(b.weights).all(|(x, y)| close(*x, y)) && close(a.bias, b.bias));
    }
    let text = forward.to_text();
    assert_eq!(Calibration::from_text(&text).unwrap(), forward);
    router.set_calibration(forward).unwrap();
    assert_eq!(route(&router, "how do I reverse a list 3", RoutingStrategy::Single).selected, [PYTHON]);
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let router = specialists();
    let good = noisy_questions(40, 90, 1);
    let refused = |questions: &[_]| Calibration::fit(&router, questions).unwrap_err();
    assert!(matches!(refused(&good[..19]), Error::Calibration(_)));
    let mut unknown = good.clone();
    unknown[3].1 = Some(ExpertId(44));
    assert_eq!(refused(&unknown), Error::NoSuchExpert(ExpertId(44)));
    let mut empty = good.clone();
    empty[3].0 = " ".to_owned();
    assert_eq!(refused(&empty), Error::EmptyQuery);
    assert_eq!(Calibration::fit(&Router::default(), &good), Err(Error::NoExperts));
    let mut router = specialists();
    let mut broken = Calibration::fit(&router, &good).unwrap();
    broken.curves[0].bias = f32::NAN;
    assert!(matches!(router.set_calibration(broken), Err(Error::Calibration(_))));
    assert_eq!(router.calibration(), &Calibration::default());
}

#[test]
fn the_calibration_error_is_the_definition() {
    assert_eq!(expected_calibration_error(&[]), 0.0);
    // Two bins: 0.25 with one hit of two, 0.75 with one of two.
    let outcomes = [(0.25, true), (0.25, false), (0.75, true), (0.75, false)];
    assert!((expected_calibration_error(&outcomes) - 0.25).abs() < 1e-6);
    assert_eq!(expected_calibration_error(&[(1.0, true), (0.0, false)]), 0.0);
    assert_eq!(expected_calibration_error(&[(f32::NAN, false), (7.0, true)]), 0.0);
}

// Properties.

fn words() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-e]{1,3}", 1..6).prop_map(|words| words.join(" "))
}

/// Experts of random keywords and examples: (id, keywords, examples).
fn experts() -> impl Strategy<Value = Vec<(u32, Vec<String>, Vec<String>)>> {
    let expert = (0..6u32, proptest::collection::vec(words(), 0..4), proptest::collection::vec(words(), 0..4));
    proptest::collection::vec(expert, 1..6)
}

fn add(router: &mut Router, (id, keywords, examples): &(u32, Vec<String>, Vec<String>)) {
    let keywords: Vec<&str> = keywords.iter().map(String::as_str).collect();
    let examples: Vec<&str> = examples.iter().map(String::as_str).collect();
    let profile = ExpertProfile { generalist: *id == 0, ..profile(&examples) };
    router.register_with(config(ExpertId(*id), "any", &keywords), profile);
}

proptest! {
    #[test]
    fn removing_restores_what_was_before(kept in experts(), gone in experts(), text in words()) {
        let (mut plain, mut router) = (Router::default(), Router::default());
        for expert in &kept {
            add(&mut plain, expert);
            add(&mut router, expert);
        }
        for (id, keywords, examples) in &gone {
            let expert = (id + 100, keywords.clone(), examples.clone());
            add(&mut router, &expert);
            router.feedback(&text, ExpertId(id + 100), *id > 2).unwrap();
        }
        for (id, ..) in &gone {
            router.remove(ExpertId(id + 100));
        }
        prop_assert_eq!(route(&router, &text, RoutingStrategy::All).confidence,
            route(&plain, &text, RoutingStrategy::All).confidence);
    }

    #[test]
    fn the_order_of_registration_does_not_matter(experts in experts(), text in words()) {
        let mut distinct = experts;
        distinct.sort_by_key(|(id, ..)| *id);
        distinct.dedup_by_key(|(id, ..)| *id);
        let (mut forward, mut backward) = (Router::default(), Router::default());
        distinct.iter().for_each(|expert| add(&mut forward, expert));
        distinct.iter().rev().for_each(|expert| add(&mut backward, expert));
        prop_assert_eq!(route(&forward, &text, RoutingStrategy::All).confidence,
            route(&backward, &text, RoutingStrategy::All).confidence);
    }

    #[test]
    fn any_question_is_routed_or_refused(experts in experts(), text in "\\PC{0,80}", top in 0..4usize, t in -1.0..2f32) {
        let mut router = Router::default();
        experts.iter().for_each(|expert| add(&mut router, expert));
        for strategy in
            [RoutingStrategy::TopK(top), RoutingStrategy::Threshold(t), RoutingStrategy::Single, RoutingStrategy::All]
        {
            let query = RouteQuery { text: &text, explain: true, session: Some(SessionId(1)), ..RouteQuery::default() };
            let Ok(decision) = router.route(&query, strategy, None) else { continue };
            prop_assert_eq!(decision.confidence.len(), router.len());
            prop_assert!(decision.confidence.iter().all(|(_, p)| *p > 0.0 && *p < 1.0));
            prop_assert!(decision.confidence.is_sorted_by(|a, b| a.1 >= b.1));
            prop_assert!(router.is_current(&decision));
            let mut once = decision.selected.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), decision.selected.len());
        }
    }

    #[test]
    fn more_of_an_experts_keywords_never_make_it_less_likely(n in 0..3usize, more in 0..3usize) {
        let router = specialists();
        let keywords = ["python", "django", "list"];
        let text = |n: usize| format!("question {}", keywords[..n].join(" "));
        let of = |n| confidence(&route(&router, &text(n), RoutingStrategy::All), PYTHON);
        let most = (n + more).min(3);
        prop_assert!(of(most) >= of(n));
    }
}
