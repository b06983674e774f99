//! `hublab bench`: how fast a model is on this machine.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Result;
use hublabio_runtime::ai::{BenchOptions, BenchReport, Series};
use serde::Serialize;

use crate::EXIT_INTERRUPTED;
use crate::args::BenchArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, Progress};

/// The JSON of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    threads: usize,
    prefill: Prefill<'a>,
    decode: Decode<'a>,
    rss_peak_bytes: u64,
    load_s: f64,
    isa: &'a str,
}

#[derive(Serialize)]
struct Prefill<'a> {
    tokens: usize,
    tokens_per_s: &'a [f64],
    median: f64,
}

#[derive(Serialize)]
struct Decode<'a> {
    tokens: usize,
    tokens_per_s: &'a [f64],
    median: f64,
    gb_per_s: f64,
}

pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    let context = args.depth.saturating_add(args.pp.max(args.tg));
    let mut model = args.model.open(&args.machine.model_config(Some(context)), "--depth, --pp or --tg")?;
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new();
    let options = BenchOptions { prefill: args.pp, decode: args.tg, depth: args.depth, repeat: args.repeat };
    let measured = model.engine.bench(&options, &mut |done, rounds| {
        progress.show(&format!("round {done} of {rounds}"));
        if interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(progress);
    if interrupt.requested() {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    let measured = measured?;
    if args.json {
        output::json(&as_json(&measured))?;
    } else {
        output::bytes(as_text(args, &measured).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(report: &BenchReport) -> Report<'_> {
    Report {
        threads: report.threads,
        prefill: Prefill {
            tokens: report.prefill.tokens,
            tokens_per_s: &report.prefill.tokens_per_s,
            median: report.prefill.median,
        },
        decode: Decode {
            tokens: report.decode.tokens,
            tokens_per_s: &report.decode.tokens_per_s,
            median: report.decode.median,
            gb_per_s: report.decode_gb_per_s,
        },
        rss_peak_bytes: report.rss_peak_bytes,
        load_s: report.load_s,
        isa: report.isa,
    }
}

fn as_text(args: &BenchArgs, report: &BenchReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<8}  {value}").expect("a String takes any text");
    };
    line("model", output::one_line(&args.model.to_string(), 200));
    line("machine", format!("{} threads, {}", report.threads, report.isa));
    line("load", format!("{:.3} s", report.load_s));
    if args.depth > 0 {
        line("depth", format!("{} tokens", args.depth));
    }
    line("prefill", speed(&report.prefill));
    line("decode", format!("{}, {:.2} GB/s", speed(&report.decode), report.decode_gb_per_s));
    line("memory", format!("{} at most", output::byte_size(report.rss_peak_bytes)));
    text
}

fn speed(series: &Series) -> String {
    let slowest = series.tokens_per_s.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = series.tokens_per_s.iter().copied().fold(0.0, f64::max);
    format!(
        "{:>9.1} tokens/s  {} tokens, median of {} ({slowest:.1} to {fastest:.1})",
        series.median,
        series.tokens,
        series.tokens_per_s.len(),
    )
}
