//! `hublab swarm feedback` and `hublab swarm calibrate`: what the router learns.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hublabio_runtime::Error;
use hublabio_runtime::moe::{
    CALIBRATION_FILE, Calibration, ExpertBackend as _, ExpertId, FIT_QUESTIONS_MIN, FleetBackend, GatheredEvidence,
    RouteQuery, RouteStep, Router, RoutingEvidence, RoutingStrategy, SwarmEngine, expected_calibration_error,
};
use serde::{Deserialize, Serialize};

use super::route::load_experts;
use super::{given, make, open, question};
use crate::args::{FleetArgs, SwarmCalibrateArgs, SwarmFeedbackArgs, Verdict};
use crate::input::text_file;
use crate::output::{self, Progress};

/// Parts of the questions of which each is measured with a fit of the others.
const FOLDS: usize = 5;
/// So many questions that four parts of them are enough for a fit.
const QUESTIONS_MIN: usize = FIT_QUESTIONS_MIN * FOLDS / (FOLDS - 1);

pub fn feedback(args: &SwarmFeedbackArgs) -> Result<ExitCode> {
    let query = given(args.query.as_deref())?;
    let folder = args.folder.to_write()?;
    make(&folder)?;
    let swarm = open(Some(&folder), &FleetArgs::default())?;
    let id = swarm.expert_id(&args.expert)?;
    let text = question(query, &format!("feedback {}", args.expert))?;
    let before = probability(&swarm, &text, id)?;
    swarm.feedback(&text, &args.expert, args.verdict == Verdict::Good)?;
    let after = probability(&swarm, &text, id)?;
    output::message(&format!("{}: probability {after:.3} for this question, {before:.3} before", args.expert));
    Ok(ExitCode::SUCCESS)
}

fn probability(swarm: &SwarmEngine, text: &str, id: ExpertId) -> Result<f32> {
    let query = RouteQuery { text, ..RouteQuery::default() };
    let decision = swarm.route(&query, Some(RoutingStrategy::All), false)?;
    Ok(decision.confidence.iter().find(|(other, _)| *other == id).map_or(0.0, |(_, p)| *p))
}

/// A line of the questions' file.
#[derive(Deserialize)]
struct Line {
    question: String,
    label: String,
    set: Option<String>,
}

#[derive(Serialize)]
struct Report {
    questions: usize,
    left_out: usize,
    accuracy: f32,
    ece_likeliest: f32,
    ece_all: f32,
    file: String,
}

pub fn calibrate(args: &SwarmCalibrateArgs) -> Result<ExitCode> {
    let folder = args.folder.to_write()?;
    let text = text_file(&args.questions)?;
    make(&folder)?;
    let swarm = open(Some(&folder), &args.fleet)?;
    let (questions, left_out) = read_questions(&swarm, &args.questions, &text)?;
    let evidence = if args.models { gather(&swarm, &questions)? } else { vec![None; questions.len()] };
    let measured = swarm.router().write(|router| measure(router, &questions, &evidence))?;
    let fitted = swarm
        .router()
        .read(|router| Calibration::fit_with_evidence(router, &questions, &mut |at| evidence[at].clone()));
    swarm.set_calibration(fitted.map_err(Error::from)?)?;
    let share = |hits: usize| hits as f32 / questions.len() as f32;
    let likeliest: Vec<(f32, bool)> = measured.iter().map(|outcomes| outcomes[0]).collect();
    let report = Report {
        questions: questions.len(),
        left_out,
        accuracy: share(likeliest.iter().filter(|(_, hit)| *hit).count()),
        ece_likeliest: expected_calibration_error(&likeliest),
        ece_all: expected_calibration_error(&measured.concat()),
        file: folder.join(CALIBRATION_FILE).display().to_string(),
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::bytes(
            format!(
                "questions                   {:>6}\nleft out                    {:>6}\n\
                 likeliest expert is right   {:>6.3}\ncalibration error, likeliest {:>5.3}\n\
                 calibration error, all      {:>6.3}\n",
                report.questions, report.left_out, report.accuracy, report.ece_likeliest, report.ece_all
            )
            .as_bytes(),
        )?;
        output::message(&format!("The fit of all questions is in {}.", report.file));
    }
    Ok(ExitCode::SUCCESS)
}

type Labelled = Vec<(String, Option<ExpertId>)>;

/// Questions with the expert of each, `None` for the generalist; and how many lines were left out.
fn read_questions(swarm: &SwarmEngine, path: &Path, text: &str) -> Result<(Labelled, usize)> {
    let generalist = swarm.router().read(Router::generalist);
    let mut questions = Vec::new();
    let mut left_out = 0;
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}: line {}", path.display(), at + 1);
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("{}: give {{\"question\":…,\"label\":…}}", place()))?;
        if line.set.is_some_and(|set| set != "calibration") {
            left_out += 1;
            continue;
        }
        if line.question.trim().is_empty() {
            bail!("{}: the question is empty", place());
        }
        let label = match swarm.expert_id(&line.label) {
            Ok(id) => Some(id).filter(|id| Some(*id) != generalist),
            Err(_) if line.label == "general" => None,
            Err(error) => return Err(error).with_context(place),
        };
        questions.push((line.question, label));
    }
    if questions.len() < QUESTIONS_MIN {
        bail!(
            "{} holds {} questions to calibrate with, at least {QUESTIONS_MIN} are needed",
            path.display(),
            questions.len()
        );
    }
    Ok((questions, left_out))
}

/// What models tell of a question.
struct Models<'a> {
    backend: &'a mut FleetBackend,
    text: &'a str,
}

impl RoutingEvidence for Models<'_> {
    fn prompt_logprobs(&mut self, candidates: &[ExpertId]) -> Vec<Option<f32>> {
        self.backend.prompt_logprobs(candidates, self.text)
    }

    fn embedding(&mut self) -> Option<Vec<f32>> {
        None
    }
}

/// Asks the models where there is doubt, as routing does.
fn gather(swarm: &SwarmEngine, questions: &Labelled) -> Result<Vec<Option<GatheredEvidence>>> {
    let experts = swarm.spec().experts;
    load_experts(swarm, experts.iter().map(|expert| expert.config.id), "Hello");
    let mut backend = swarm.fleet().backend(Vec::new(), None);
    let mut progress = Progress::new();
    let mut found = Vec::with_capacity(questions.len());
    for (at, (text, _)) in questions.iter().enumerate() {
        progress.show(&format!("question {} of {}", at + 1, questions.len()));
        let query = RouteQuery { text, ..RouteQuery::default() };
        let step = swarm.router().read(|router| router.route_step(&query, RoutingStrategy::All));
        found.push(match step.map_err(Error::from)? {
            RouteStep::Ask(request) => Some(request.gather(&mut Models { backend: &mut backend, text })),
            RouteStep::Done(_) => None,
        });
    }
    Ok(found)
}

/// For each question every expert's probability, likeliest first, and whether it is the right one, by a fit that did
/// not see the question.
fn measure(
    router: &mut Router,
    questions: &Labelled,
    evidence: &[Option<GatheredEvidence>],
) -> Result<Vec<Vec<(f32, bool)>>, Error> {
    let generalist = router.generalist();
    let own = router.calibration().clone();
    let mut measured = vec![Vec::new(); questions.len()];
    for fold in 0..FOLDS {
        let (held, rest): (Vec<usize>, Vec<usize>) = (0..questions.len()).partition(|at| at % FOLDS == fold);
        let others: Labelled = rest.iter().map(|at| questions[*at].clone()).collect();
        let fitted = Calibration::fit_with_evidence(router, &others, &mut |at| evidence[rest[at]].clone())?;
        router.set_calibration(fitted)?;
        for at in held {
            let (text, label) = &questions[at];
            let query = RouteQuery { text, ..RouteQuery::default() };
            let decision = router.route_with_evidence(&query, RoutingStrategy::All, evidence[at].as_ref())?;
            let right = label.or(generalist);
            measured[at] = decision.confidence.iter().map(|(id, p)| (*p, Some(*id) == right)).collect();
        }
    }
    router.set_calibration(own)?;
    Ok(measured)
}
