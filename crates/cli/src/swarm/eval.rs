//! `hublab swarm eval`: whether the swarm pays.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use hublabio_runtime::moe::eval::{AnswerTable, EvalOptions, EvalReport, Interval, TextTable};

use super::{cell, open};
use crate::args::SwarmEvalArgs;
use crate::model::ModelName;
use crate::output::{self, Progress};

pub fn eval(args: &SwarmEvalArgs) -> Result<ExitCode> {
    let folder = args.folder.to_read()?;
    let swarm = open(folder.as_deref(), &args.fleet)?;
    let options = EvalOptions {
        texts: args.text.clone(),
        questions: args.questions.clone(),
        generalist: args.generalist.as_ref().map(ModelName::file).transpose()?,
        syntheses: args.synthesis.clone(),
        text_bytes: args.text_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        question_count: args.count,
    };
    let mut progress = Progress::new();
    let report = swarm.evaluate(&options, &mut |what, done| progress.show(&format!("{what}: {done}")));
    drop(progress);
    let report = report?;
    if args.json {
        output::json(&report)?;
    } else {
        output::bytes(text_of(&report).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text_of(report: &EvalReport) -> String {
    let mut text = String::new();
    for table in &report.texts {
        write_text_table(&mut text, table);
        text.push('\n');
    }
    for table in &report.answers {
        write_answer_table(&mut text, table);
        text.push('\n');
    }
    for sentence in &report.verdict {
        text.push_str(sentence);
        text.push('\n');
    }
    text
}

/// Writing into a `String` cannot fail, so the results are dropped.
fn write_text_table(text: &mut String, table: &TextTable) {
    let _ = write!(text, "{}: {} bytes in {} windows", cell(&table.set), table.bytes, table.windows);
    let _ = match table.routed_right {
        Some(share) => writeln!(text, ", {:.1} % of them routed to their expert", 100.0 * share),
        None => writeln!(text),
    };
    let rows = table
        .rows
        .iter()
        .map(|row| {
            let bits = &row.bits_per_byte;
            [
                cell(&row.system),
                format!("{:.4}", bits.value),
                format!("{:.4} to {:.4}", bits.low, bits.high),
                signed(&row.percent_above_fusion),
                format!("{:.2}", row.compute),
                format!("{:.3}", row.ms_per_token),
            ]
        })
        .collect();
    let head = ["system", "bits/byte", "95 %", "% above fusion", "compute", "ms/token"];
    output::table(text, head, rows);
}

fn write_answer_table(text: &mut String, table: &AnswerTable) {
    let _ = writeln!(text, "{}: {} questions ({})", cell(&table.set), table.questions, table.labels.join(", "));
    let rows = table
        .rows
        .iter()
        .map(|row| {
            let percent = |share: f64| format!("{:.1}", 100.0 * share);
            let by_label: Vec<String> = row.right_by_label.iter().map(|share| percent(*share)).collect();
            let points = Interval {
                value: 100.0 * row.above_best_member.value,
                low: 100.0 * row.above_best_member.low,
                high: 100.0 * row.above_best_member.high,
            };
            [
                cell(&row.system),
                percent(row.right.value),
                format!("{} to {}", percent(row.right.low), percent(row.right.high)),
                by_label.join(" / "),
                signed(&points),
                format!("{:.1}", row.ms),
                row.errors.to_string(),
            ]
        })
        .collect();
    let head = ["system", "right %", "95 %", "by label", "points above best member", "ms", "errors"];
    output::table(text, head, rows);
}

fn signed(interval: &Interval) -> String {
    format!("{:+.1} ({:+.1} to {:+.1})", interval.value, interval.low, interval.high)
}
