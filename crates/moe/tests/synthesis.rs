//! Each strategy on answers that are known, to the exact text. The five answers of [`panel`] are such that no two
//! strategies make the same of them: one that fell back to Best would fail.

use hublabio_moe::{
    Error, ExpertId, ExpertResponse, Reducer, SummarizeConfig, SummarizeFallback, Synthesis, SynthesisStrategy,
    Synthesizer,
};
use proptest::prelude::*;

fn response(id: u32, name: &str, text: &str, confidence: f32) -> ExpertResponse {
    ExpertResponse {
        expert: ExpertId(id),
        name: name.into(),
        text: text.into(),
        confidence,
        mean_logprob: None,
        prompt_tokens: 7,
        tokens: 3,
        latency_ms: 1.0,
        cut: false,
    }
}

fn join(strategy: SynthesisStrategy, query: &str, responses: &[ExpertResponse]) -> Synthesis {
    let synthesis = Synthesizer::new(strategy).join(query, responses).unwrap();
    let sum: f32 = synthesis.contributions.iter().map(|contribution| contribution.weight).sum();
    assert!((sum - 1.0).abs() < 1e-5, "shares sum to {sum}");
    assert!(synthesis.contributions.iter().all(|c| c.weight >= 0.0 && !c.why.is_empty()));
    synthesis
}

fn weights(synthesis: &Synthesis) -> Vec<f32> {
    synthesis.contributions.iter().map(|contribution| (contribution.weight * 1000.0).round() / 1000.0).collect()
}

/// The most trusted is alone with its number, the other two agree.
fn panel() -> [ExpertResponse; 3] {
    [
        response(1, "python", "It is 512.", 0.4),
        response(2, "linux", "1,024", 0.35),
        response(3, "rust", "The answer is 1024.", 0.25),
    ]
}

const QUERY: &str = "What is 2 to the tenth?";

#[test]
fn every_strategy_makes_its_own_of_the_same_answers() {
    let check = |strategy, text: &str, expected: &[f32]| {
        let synthesis = join(strategy, QUERY, &panel());
        assert_eq!((synthesis.text.as_str(), synthesis.strategy), (text, strategy));
        assert_eq!(weights(&synthesis), expected);
        assert_eq!(synthesis.notes, [""; 0]);
        synthesis
    };
    check(SynthesisStrategy::Best, "It is 512.", &[1.0, 0.0, 0.0]);
    let voted = check(SynthesisStrategy::Voting, "1,024", &[0.0, 0.583, 0.417]);
    assert!((voted.agreement.unwrap() - 0.6).abs() < 1e-6);
    // 0.4 · 512 + 0.6 · 1024
    check(SynthesisStrategy::WeightedAverage, "819.2", &[0.4, 0.35, 0.25]);
    let all = "**python:**\n\nIt is 512.\n\n**linux:**\n\n1,024\n\n**rust:**\n\nThe answer is 1024.";
    check(SynthesisStrategy::Concatenate, all, &[0.4, 0.35, 0.25]);
}

#[test]
fn best_breaks_ties_by_log_probability_and_then_by_order() {
    let check = |given: &[(f32, Option<f32>)], expected: usize| {
        let responses: Vec<_> = given
            .iter()
            .enumerate()
            .map(|(index, &(confidence, mean_logprob))| ExpertResponse {
                mean_logprob,
                ..response(index as u32, "x", &index.to_string(), confidence)
            })
            .collect();
        assert_eq!(join(SynthesisStrategy::Best, "", &responses).text, expected.to_string(), "{given:?}");
    };
    check(&[(0.5, None), (0.6, None)], 1);
    check(&[(0.5, Some(-2.0)), (0.5, Some(-1.0))], 1);
    check(&[(0.5, None), (0.5, Some(-9.0))], 1);
    check(&[(0.5, Some(f32::NAN)), (0.5, Some(-9.0))], 1);
    check(&[(0.5, Some(-1.0)), (0.5, Some(-1.0))], 0);
    check(&[(f32::NAN, Some(-0.1)), (0.1, None)], 1);
    check(&[(f32::NAN, None), (f32::NAN, None)], 0);
    check(&[(1.0, None), (7.0, None)], 0);
    check(&[(-3.0, None), (0.0, Some(-1.0))], 1);
}

#[test]
fn voting_counts_confidence_and_not_heads() {
    let answers = [response(1, "a", "B", 0.7), response(2, "b", "(c)", 0.15), response(3, "c", "C.", 0.15)];
    let synthesis = join(SynthesisStrategy::Voting, "", &answers);
    assert_eq!((synthesis.text.as_str(), synthesis.agreement), ("B", Some(0.7)));
    assert_eq!(synthesis.notes, [""; 0]);
}

#[test]
fn without_a_majority_the_most_trusted_expert_stands() {
    // The two that agree have the largest share, but not more than half.
    let answers = [
        response(1, "a", "Yes", 0.3),
        response(2, "b", "No", 0.2),
        response(3, "c", "No.", 0.2),
        response(4, "d", "It depends", 0.3),
    ];
    let synthesis = join(SynthesisStrategy::Voting, "", &answers);
    assert_eq!((synthesis.text.as_str(), synthesis.agreement), ("Yes", Some(0.3)));
    assert_eq!(synthesis.notes, ["no answer has a majority: the most trusted expert's stands"]);
    // The same as labels: the largest sum, however small.
    let average = join(SynthesisStrategy::WeightedAverage, "", &answers);
    assert_eq!((average.text.as_str(), average.strategy), ("No", SynthesisStrategy::WeightedAverage));
    assert_eq!(weights(&average), [0.0, 0.5, 0.5, 0.0]);
    // Exactly half is no majority.
    let half = [response(1, "a", "3", 0.5), response(2, "b", "4", 0.25), response(3, "c", "4.0", 0.25)];
    assert_eq!(join(SynthesisStrategy::Voting, "", &half).text, "3");
    let lower = Synthesizer { majority: 0.3, ..Synthesizer::new(SynthesisStrategy::Voting) };
    assert_eq!(lower.join("", &answers).unwrap().text, "No");
}

#[test]
fn the_winning_text_is_that_of_its_most_trusted_speaker() {
    let answers = [
        response(1, "a", "It is called `sorted`.", 0.2),
        response(2, "b", "reverse", 0.3),
        response(3, "c", "sorted()", 0.25),
    ];
    let synthesis = join(SynthesisStrategy::Voting, "Which function?", &answers);
    assert_eq!(synthesis.text, "sorted()");
    assert_eq!(synthesis.contributions[0].why, "voted for `sorted`");
}

#[test]
fn free_text_is_decided_by_its_medoid() {
    let answers = [
        response(1, "a", "Delete the whole folder and begin again from nothing, nothing else ever helps.", 0.3),
        response(2, "b", "Call the method reverse on the list; it turns the list around in place.", 0.28),
        response(3, "c", "Call the method reverse on the list: it turns the list around.", 0.27),
        response(4, "d", "Call reverse on the list and it turns the list around in place.", 0.15),
    ];
    let synthesis = join(SynthesisStrategy::Voting, "How do I reverse a list?", &answers);
    assert_eq!((synthesis.text.as_str(), synthesis.strategy), (answers[1].text.as_str(), SynthesisStrategy::Voting));
    assert!(synthesis.agreement.unwrap() > 0.5 && synthesis.notes.is_empty(), "{synthesis:?}");
    // Four texts that have nothing in common: no majority.
    let strangers = ["red fox runs", "blue whale swims deep", "green tree grows", "white snow falls down"];
    let answers: Vec<_> = (0..4)
        .map(|i| response(i, "x", &format!("{0}, {0} and then {0}.", strangers[i as usize]), 0.2 + i as f32 * 0.01))
        .collect();
    let synthesis = join(SynthesisStrategy::Voting, "", &answers);
    assert_eq!(synthesis.text, answers[3].text);
    assert_eq!(synthesis.notes, ["the answers differ too much for a vote: the most trusted expert's stands"]);
}

#[test]
fn equal_confidences_of_zero_count_alike() {
    let answers = [response(1, "a", "5", 0.0), response(2, "b", "6", f32::NAN), response(3, "c", "6", -1.0)];
    assert_eq!(join(SynthesisStrategy::Voting, "", &answers).text, "6");
    assert_eq!(join(SynthesisStrategy::WeightedAverage, "", &answers).text, "5.67");
}

#[test]
fn concatenate_orders_by_confidence_and_merges_what_is_equal() {
    let answers = [
        response(1, "rust", "Use  iter().rev().", 0.2),
        response(2, "python", "Use reversed().", 0.5),
        response(3, "linux", " Use reversed().\n", 0.3),
    ];
    let synthesis = join(SynthesisStrategy::Concatenate, "", &answers);
    assert_eq!(synthesis.text, "**python, linux:**\n\nUse reversed().\n\n**rust:**\n\nUse  iter().rev().");
    assert_eq!(weights(&synthesis), [0.2, 0.5, 0.3]);
}

#[test]
fn weighted_average_of_numbers_keeps_their_unit() {
    let check = |texts: [&str; 2], confidences: [f32; 2], expected: &str| {
        let answers = [response(1, "a", texts[0], confidences[0]), response(2, "b", texts[1], confidences[1])];
        let synthesis = join(SynthesisStrategy::WeightedAverage, "", &answers);
        assert_eq!((synthesis.text.as_str(), synthesis.strategy), (expected, SynthesisStrategy::WeightedAverage));
    };
    check(["10 km", "20 km"], [0.75, 0.25], "12.5 km");
    check(["10 km", "20"], [0.5, 0.5], "15 km");
    check(["50%", "60 %"], [0.5, 0.5], "55%");
    check(["$1,000", "$ 2000"], [0.5, 0.5], "$1500");
    check(["1", "2"], [0.2, 0.1], "1.33");
    check(["-0.004", "0.004"], [0.5, 0.5], "0");
    check(["100", "300"], [0.5, 0.5], "200");
}

#[test]
fn what_cannot_be_averaged_is_best_and_says_so() {
    let check = |texts: [&str; 2], why: &str| {
        let answers = [response(1, "a", texts[0], 0.3), response(2, "b", texts[1], 0.4)];
        let synthesis = join(SynthesisStrategy::WeightedAverage, "", &answers);
        assert_eq!((synthesis.text.as_str(), synthesis.strategy), (texts[1], SynthesisStrategy::Best));
        let note = format!("{why}, so there is nothing to average: the most trusted expert's answer stands");
        assert_eq!(synthesis.notes, [note]);
    };
    check(["5 km", "5 miles"], "the answers are in different units (km and mile)");
    check(["5", "Paris"], "the answers are neither all numbers nor all labels");
    let long =
        "A list is reversed in place by its method reverse, and a reversed copy comes from slicing it backwards.";
    check(["B", long], "the answers are neither all numbers nor all labels");
}

#[test]
fn empty_answers_take_no_part_and_cut_ones_are_told() {
    let answers = [
        response(1, "a", " \n", 0.9),
        ExpertResponse { cut: true, ..response(2, "b", "5", 0.2) },
        response(3, "c", "6", 0.1),
    ];
    for strategy in [SynthesisStrategy::Best, SynthesisStrategy::Voting] {
        let synthesis = join(strategy, "", &answers);
        assert_eq!(synthesis.text, "5");
        assert_eq!(synthesis.notes, ["a answered nothing", "the answer of b was cut off by a limit"]);
        assert_eq!(synthesis.contributions.len(), 2);
    }
    assert_eq!(join(SynthesisStrategy::Voting, "", &answers[..1]).text, " \n");
    for strategy in [SynthesisStrategy::Best, SynthesisStrategy::Concatenate, SynthesisStrategy::Summarize] {
        assert_eq!(Synthesizer::new(strategy).join("", &[]), Err(Error::NoExperts));
    }
    let wrong = Synthesizer { majority: f32::NAN, ..Synthesizer::new(SynthesisStrategy::Voting) };
    assert!(matches!(wrong.join("", &answers), Err(Error::OutOfRange { name: "majority", .. })));
}

fn summarizing(config: SummarizeConfig) -> Synthesizer {
    Synthesizer { summarize: config, ..Synthesizer::new(SynthesisStrategy::Summarize) }
}

#[test]
fn a_reducer_may_summarise_only_whom_it_equals() {
    let config = SummarizeConfig::default();
    let check = |own: u64, members: &[u64], expected: Option<&str>| {
        let reducer = Reducer { name: "general", active_parameters: own, members: members.to_vec() };
        assert_eq!(config.objection(&reducer).as_deref(), expected);
        let allowed = SummarizeConfig { allow_weaker: true, ..config };
        assert_eq!(allowed.objection(&reducer), None);
    };
    check(100, &[100, 99], None);
    check(100, &[], None);
    check(99, &[50, 100], Some("the reducer general is weaker than an expert (99 active parameters, 100)"));
    check(0, &[1], Some("the strength of the reducer general is unknown"));
    check(100, &[1, 0], Some("the strength of an expert is unknown, so that general may be weaker"));
}

#[test]
fn the_prompt_of_a_reducer_has_all_answers_where_they_fit() {
    let reduction = summarizing(SummarizeConfig::default()).reduction(QUERY, &panel()).unwrap();
    let expected = "Several experts answered the same question. Write the one best answer from theirs: keep \
        what is right, leave out what is wrong or said twice, add nothing, and do not mention the experts.\n\n\
        Question: What is 2 to the tenth?\n\nAnswer of python:\nIt is 512.\n\nAnswer of linux:\n1,024\n\n\
        Answer of rust:\nThe answer is 1024.\n\nThe one answer:";
    assert_eq!((reduction.prompt.as_str(), reduction.notes.len()), (expected, 0));
}

#[test]
fn long_answers_are_shortened_alike_for_a_reducer() {
    let long = |word: &str| format!("{word} ").repeat(500);
    let answers =
        [response(1, "a", &long("alpha"), 0.5), response(2, "b", "Short.", 0.3), response(3, "c", &long("gamma"), 0.2)];
    let config = SummarizeConfig { prompt_bytes_max: 1200, ..SummarizeConfig::default() };
    let reduction = summarizing(config).reduction("Why?", &answers).unwrap();
    assert!(reduction.prompt.len() <= 1200 && reduction.prompt.len() > 1150, "{}", reduction.prompt.len());
    let count = |word| reduction.prompt.matches(word).count();
    assert!(count("alpha") > 50 && count("alpha") == count("gamma"), "{} {}", count("alpha"), count("gamma"));
    assert!(reduction.prompt.contains("Answer of b:\nShort.\n") && reduction.prompt.contains("alpha […]\n"));
    assert_eq!(reduction.notes.len(), 2);
    assert!(reduction.notes[0].starts_with("the answer of a was shortened for the reducer: "));
    // A long question takes half of the room at most.
    let reduction = summarizing(config).reduction(&long("why"), &answers).unwrap();
    assert!(reduction.prompt.len() <= 1200 && reduction.prompt.matches("alpha").count() > 20);
    assert_eq!(reduction.notes[0], "the question was shortened for the reducer");
    let small = SummarizeConfig { prompt_bytes_max: 300, ..config };
    let refused = summarizing(small).reduction("Why?", &answers);
    assert!(matches!(refused, Err(Error::OutOfRange { name: "prompt_bytes_max", .. })));
}

#[test]
fn a_summary_stands_and_an_empty_one_is_put_to_the_vote_or_refused() {
    let synthesizer = summarizing(SummarizeConfig::default());
    let summary = response(9, "general", " Two to the tenth is 1024.\n", 0.1);
    let synthesis = synthesizer.reduced(QUERY, &panel(), &summary).unwrap();
    assert_eq!(
        (synthesis.text.as_str(), synthesis.strategy),
        ("Two to the tenth is 1024.", SynthesisStrategy::Summarize)
    );
    assert_eq!(weights(&synthesis), [0.4, 0.35, 0.25]);
    let cut = synthesizer.reduced(QUERY, &panel(), &ExpertResponse { cut: true, ..summary }).unwrap();
    assert_eq!(cut.notes, ["the summary by general was cut off by a limit"]);
    let empty = response(9, "general", " ", 0.1);
    let voted = synthesizer.reduced(QUERY, &panel(), &empty).unwrap();
    assert_eq!((voted.text.as_str(), voted.strategy), ("1,024", SynthesisStrategy::Voting));
    assert_eq!(voted.notes, ["not summarised, but put to the vote: the reducer general answered nothing"]);
    let strict = summarizing(SummarizeConfig { fallback: SummarizeFallback::Refuse, ..SummarizeConfig::default() });
    let refused = Err(Error::NoReducer("the reducer general answered nothing".into()));
    assert_eq!(strict.reduced(QUERY, &panel(), &empty), refused);
    // Without a reducer at hand.
    let voted = join(SynthesisStrategy::Summarize, QUERY, &panel());
    assert_eq!(
        (voted.text.as_str(), voted.notes[0].as_str()),
        ("1,024", "not summarised, but put to the vote: there is no reducer")
    );
    assert_eq!(strict.join(QUERY, &panel()), Err(Error::NoReducer("there is no reducer".into())));
}

proptest! {
    #[test]
    fn any_answers_are_joined_without_panic_and_shares_sum_to_one(
        query in ".{0,40}",
        answers in proptest::collection::vec(
            ("(\\PC|[ 0-9.,eE()`*:+-]|Answer: |yes|not |the ){0,40}", proptest::num::f32::ANY),
            1..6,
        ),
    ) {
        let responses: Vec<_> = answers
            .iter()
            .enumerate()
            .map(|(index, (text, confidence))| response(index as u32, "x", text, *confidence))
            .collect();
        for strategy in [
            SynthesisStrategy::Best,
            SynthesisStrategy::WeightedAverage,
            SynthesisStrategy::Voting,
            SynthesisStrategy::Concatenate,
            SynthesisStrategy::Summarize,
        ] {
            join(strategy, &query, &responses);
        }
        summarizing(SummarizeConfig::default()).reduction(&query, &responses).unwrap();
    }
}
