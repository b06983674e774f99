//! How often the router is right: each stage alone and the cascade, on labelled questions that nothing was learned
//! from.
//!
//! ```text
//! cargo run --release -p hublabio-moe --example route_accuracy -- QUESTIONS.jsonl CALIBRATION.toml|- EXPERT…
//! ```
//!
//! An EXPERT is `NAME=FILE[,FILE…]`. Of a `.jsonl` file of topics the questions but the last of each are examples; of a
//! `.txt` file the lines are: examples if its name begins with `questions`, keywords if it begins with `keywords`,
//! terms otherwise. The expert called `general` is the generalist. QUESTIONS has lines with `question`, `label`,
//! `ambiguous`, `words` (length class) and `set`: the router is calibrated on the set `calibration`, the table is of
//! the set `test`. With `--set calibration` the table is of that set instead, cross-fitted: each fifth under a
//! calibration of the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hublabio_moe::{
    Calibration, ExpertConfig, ExpertDomain, ExpertId, ExpertProfile, RouteQuery, Router, RouterConfig,
    RoutingStrategy, expected_calibration_error,
};

type Failure = Box<dyn std::error::Error>;

struct Question {
    text: String,
    label: ExpertId,
    ambiguous: bool,
    words: String,
    set: String,
}

/// What the router said to one question.
struct Answer<'a> {
    question: &'a Question,
    /// Under `Single`, with the experts' thresholds.
    chosen: Option<ExpertId>,
    /// All probabilities, highest first.
    confidence: Vec<(ExpertId, f32)>,
}

fn main() -> Result<(), Failure> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut set = "test".to_owned();
    if let Some(at) = args.iter().position(|arg| arg == "--set") {
        args.remove(at);
        set = args.remove(at);
    }
    let wrong = args.iter().position(|arg| arg == "--wrong").map(|at| args.remove(at)).is_some();
    let [questions, calibration_file, experts @ ..] = &*args else {
        return Err(
            "usage: route_accuracy [--set SET] [--wrong] QUESTIONS.jsonl CALIBRATION.toml|- NAME=FILE,… …".into()
        );
    };
    let mut names = BTreeMap::new();
    let mut swarm = Vec::new();
    for (at, expert) in experts.iter().enumerate() {
        let (name, files) = expert.split_once('=').ok_or("an expert is NAME=FILE,…")?;
        let id = ExpertId(at as u32 + 1);
        names.insert(name.to_owned(), id);
        swarm.push(read_expert(id, name, files)?);
    }
    let questions = read_questions(questions, &names)?;
    println!(
        "stages        all  unambiguous  8 words  32 words  128 words  ambiguous  chosen@0.5  ECE top  ECE all  log loss"
    );
    for (stages, keywords, classifier) in
        [("keywords", true, false), ("classifier", false, true), ("cascade", true, true)]
    {
        let mut router = Router::new(RouterConfig { keywords, classifier, ..RouterConfig::default() })?;
        for (config, profile) in &swarm {
            router.register_with(config.clone(), profile.clone());
        }
        let answers = answer(&mut router, &questions, &set)?;
        print_row(stages, &answers);
        if stages == "cascade" {
            if calibration_file != "-" {
                fs::write(calibration_file, router.calibration().to_text())?;
            }
            print_confusion(&answers, &names);
            if wrong {
                print_wrong(&answers, &names);
            }
        }
    }
    Ok(())
}

fn labelled(questions: &[&Question]) -> Vec<(String, Option<ExpertId>)> {
    questions.iter().map(|question| (question.text.clone(), Some(question.label))).collect()
}

/// Answers to the questions of a set, under a calibration that has seen none of them.
fn answer<'a>(router: &mut Router, questions: &'a [Question], set: &str) -> Result<Vec<Answer<'a>>, Failure> {
    const FOLDS: usize = 5;
    let calibration: Vec<&Question> = questions.iter().filter(|question| question.set == "calibration").collect();
    let mut answers = Vec::new();
    let folds = if set == "calibration" { FOLDS } else { 1 };
    for fold in 0..folds {
        let is_held = |at: usize| folds > 1 && at % folds == fold;
        let fitted: Vec<&Question> =
            calibration.iter().enumerate().filter(|(at, _)| !is_held(*at)).map(|(_, q)| *q).collect();
        router.set_calibration(Calibration::fit(router, &labelled(&fitted))?)?;
        let of_set = questions.iter().filter(|question| question.set == set).enumerate();
        for (_, question) in of_set.filter(|(at, _)| folds == 1 || is_held(*at)) {
            let query = RouteQuery { text: &question.text, ..RouteQuery::default() };
            let decision = router.route(&query, RoutingStrategy::Single, None)?;
            let chosen = decision.selected.first().copied();
            answers.push(Answer { question, chosen, confidence: decision.confidence });
        }
    }
    Ok(answers)
}

fn share(hits: usize, of: usize) -> f32 {
    hits as f32 / of.max(1) as f32
}

fn print_row(stages: &str, answers: &[Answer<'_>]) {
    let right = |answer: &Answer<'_>| answer.confidence[0].0 == answer.question.label;
    let accuracy = |wanted: &dyn Fn(&Question) -> bool| {
        let of: Vec<_> = answers.iter().filter(|answer| wanted(answer.question)).collect();
        share(of.iter().filter(|answer| right(answer)).count(), of.len())
    };
    let chosen = answers.iter().filter(|answer| answer.chosen == Some(answer.question.label)).count();
    let top: Vec<_> = answers.iter().map(|answer| (answer.confidence[0].1, right(answer))).collect();
    let all: Vec<_> = answers
        .iter()
        .flat_map(|answer| answer.confidence.iter().map(|(id, p)| (*p, *id == answer.question.label)))
        .collect();
    let loss = |answer: &Answer<'_>| {
        let of_label = answer.confidence.iter().find(|(id, _)| *id == answer.question.label);
        let sum: f32 = answer.confidence.iter().map(|(_, p)| p).sum();
        -(of_label.map_or(0.0, |(_, p)| *p) / sum).ln()
    };
    println!(
        "{stages:<11} {:>6.3} {:>11.3}  {:>7.3}  {:>8.3}  {:>9.3}  {:>9.3}  {:>10.3}  {:>7.3}  {:>7.3}  {:>8.4}",
        accuracy(&|_| true),
        accuracy(&|question| !question.ambiguous),
        accuracy(&|question| question.words == "8"),
        accuracy(&|question| question.words == "32"),
        accuracy(&|question| question.words == "128"),
        accuracy(&|question| question.ambiguous),
        share(chosen, answers.len()),
        expected_calibration_error(&top),
        expected_calibration_error(&all),
        answers.iter().map(loss).sum::<f32>() / answers.len().max(1) as f32,
    );
}

fn name_of(names: &BTreeMap<String, ExpertId>, id: ExpertId) -> &str {
    names.iter().find(|(_, known)| **known == id).map_or("?", |(name, _)| name)
}

fn columns(cells: impl Iterator<Item = impl std::fmt::Display>) -> String {
    cells.map(|cell| format!("{cell:>8}")).collect::<Vec<_>>().concat()
}

fn print_confusion(answers: &[Answer<'_>], names: &BTreeMap<String, ExpertId>) {
    println!("\n{} questions; right answer by row, cascade's by column:", answers.len());
    println!("{:>10} {}", "", columns(names.keys()));
    for (name, label) in names {
        let of_label = || answers.iter().filter(|answer| answer.question.label == *label);
        let counts = names.values().map(|id| of_label().filter(|answer| answer.confidence[0].0 == *id).count());
        println!("{name:>10} {}", columns(counts));
    }
}

fn print_wrong(answers: &[Answer<'_>], names: &BTreeMap<String, ExpertId>) {
    for answer in answers.iter().filter(|answer| answer.confidence[0].0 != answer.question.label) {
        let confidence: Vec<String> =
            answer.confidence.iter().map(|(id, p)| format!("{} {p:.2}", name_of(names, *id))).collect();
        let text: String = answer.question.text.chars().take(160).map(|c| if c == '\n' { ' ' } else { c }).collect();
        let ambiguous = if answer.question.ambiguous { "?" } else { " " };
        println!("{ambiguous}{:<8} {:<60} {text}", name_of(names, answer.question.label), confidence.join(" "));
    }
}

fn read_expert(id: ExpertId, name: &str, files: &str) -> Result<(ExpertConfig, ExpertProfile), Failure> {
    let mut profile = ExpertProfile { generalist: name == "general", ..ExpertProfile::default() };
    let mut keywords = Vec::new();
    for file in files.split(',') {
        let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
        if Path::new(file).extension().is_some_and(|extension| extension == "jsonl") {
            for line in text.lines() {
                let topic: serde_json::Value = serde_json::from_str(line)?;
                let questions = topic["questions"].as_array().ok_or("a topic without questions")?;
                // The last phrasing is held out of everything that is trained.
                let examples = questions.split_last().map_or(&[][..], |(_, examples)| examples);
                profile.examples.extend(examples.iter().filter_map(|q| q.as_str()).map(str::to_owned));
            }
            continue;
        }
        let lines = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned);
        if stem.starts_with("questions") {
            profile.examples.extend(lines);
        } else if stem.starts_with("keywords") {
            keywords.extend(lines);
        } else {
            profile.corpus.extend(lines);
        }
    }
    let config = ExpertConfig {
        id,
        name: name.to_owned(),
        description: String::new(),
        domain: ExpertDomain { name: name.to_owned(), keywords, threshold: 0.5 },
        model_path: String::new(),
        node_id: None,
        priority: 0,
    };
    Router::check_expert(&config, &profile)?;
    Ok((config, profile))
}

fn read_questions(path: &str, names: &BTreeMap<String, ExpertId>) -> Result<Vec<Question>, Failure> {
    let mut questions = Vec::new();
    for line in fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let text = |key: &str| line[key].as_str().map(str::to_owned).ok_or_else(|| format!("a question without {key}"));
        let label = text("label")?;
        questions.push(Question {
            text: text("question")?,
            label: *names.get(&label).ok_or_else(|| format!("no expert is called {label}"))?,
            ambiguous: line["ambiguous"].as_bool().unwrap_or(false),
            words: text("words")?,
            set: text("set")?,
        });
    }
    Ok(questions)
}
