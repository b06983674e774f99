//! `hublab swarm route`: who would answer, and why.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use hublabio_runtime::moe::{
    ExpertBackend as _, ExpertId, ExpertJob, Flow, RouteQuery, Router, RoutingDecision, RoutingStrategy, StageReport,
    SwarmEngine,
};

use super::report::{DecisionJson, Names, status};
use super::{cell, given, open, question};
use crate::args::SwarmRouteArgs;
use crate::output;

/// Experts that are listed for people, beside those chosen.
const LISTED_MAX: usize = 12;
/// Experts whose models are loaded for `--models`: as many as the router compares.
const LOADED_MAX: usize = 4;

pub fn route(args: &SwarmRouteArgs) -> Result<ExitCode> {
    let query = given(args.query.as_deref())?;
    let folder = args.folder.to_read()?;
    let swarm = open(folder.as_deref(), &args.fleet)?;
    let text = question(query, "route")?;
    let query = RouteQuery { text: &text, explain: args.explain, ..RouteQuery::default() };
    let strategy = args.strategy.unwrap_or(swarm.spec().settings.routing);
    if args.models {
        let first = swarm.route(&RouteQuery { explain: false, ..query }, Some(RoutingStrategy::Single), false)?;
        load(&swarm, &first, &text);
    }
    let decision = swarm.route(&query, Some(strategy), args.models)?;
    let names = Names::of(&swarm);
    if args.json {
        output::json(&DecisionJson::new(&decision, strategy, &names))?;
    } else {
        output::bytes(as_text(&decision, &names).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads the likeliest experts and the generalist, as far as memory allows.
fn load(swarm: &SwarmEngine, decision: &RoutingDecision, text: &str) {
    let generalist = swarm.router().read(Router::generalist);
    let likely = decision.confidence.iter().map(|(id, _)| *id).filter(|id| Some(*id) != generalist);
    load_experts(swarm, likely.take(LOADED_MAX - 1).chain(generalist), text);
}

/// Brings experts into memory by asking each for a token. One that cannot be loaded has no say, as in any answer.
pub fn load_experts(swarm: &SwarmEngine, experts: impl Iterator<Item = ExpertId>, text: &str) {
    let job = |expert| ExpertJob { expert, prompt: text.to_owned(), bare: false, max_tokens: Some(1) };
    let jobs: Vec<ExpertJob> = experts.map(job).collect();
    let outcomes = swarm.fleet().backend(Vec::new(), None).run(&jobs, &mut |_, _| Flow::Continue(()));
    let names = Names::of(swarm);
    for (job, outcome) in jobs.iter().zip(outcomes) {
        if let Err(failure) = outcome {
            output::note(&format!("the model of {} has no say: {failure}", names.name(job.expert)));
        }
    }
}

fn as_text(decision: &RoutingDecision, names: &Names) -> String {
    let mut text = String::new();
    let mut rows = Vec::new();
    for (place, (id, probability)) in decision.confidence.iter().enumerate() {
        let chosen = decision.selected.contains(id);
        if place < LISTED_MAX || chosen {
            let role = if chosen { "answers" } else { "" };
            rows.push([cell(&names.name(*id)), format!("{probability:.3}"), role.to_owned()]);
        }
    }
    let left = decision.confidence.len() - rows.len();
    output::table(&mut text, ["EXPERT", "PROBABILITY", ""], rows);
    if left > 0 {
        let _ = writeln!(text, "and {left} more");
    }
    text.push('\n');
    for reason in &decision.reasons {
        let _ = writeln!(text, "{}", output::one_line(reason, 400));
    }
    for report in &decision.stages {
        stage(&mut text, report, names);
    }
    text.trim_start_matches('\n').to_owned()
}

fn stage(text: &mut String, report: &StageReport, names: &Names) {
    let (word, why) = status(&report.status);
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let _ = writeln!(text, "\n{} ({word}{why})", report.stage);
    for (id, score) in &report.scores {
        let found = report.matches.iter().filter(|found| found.expert == *id);
        let found: Vec<String> =
            found.take(8).map(|found| format!("{} {:.2}", output::one_line(&found.what, 40), found.weight)).collect();
        let line = format!("  {:<16} {score:>8.3}  {}", cell(&names.name(*id)), found.join(", "));
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
