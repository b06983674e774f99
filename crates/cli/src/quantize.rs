//! `hublab quantize`: writes a model in smaller types.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use hublabio_runtime::Error;
use hublabio_runtime::ai::ImportanceMatrix;
use hublabio_runtime::ai::quantization::{
    GgmlType, KeptReason, PlannedTensor, QuantizeOptions, QuantizePlan, QuantizeProgress, QuantizeReport, TensorError,
};
use serde::Serialize;

use crate::args::QuantizeArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, Progress};
use crate::{EXIT_INTERRUPTED, Usage};

/// Longest name that the table shows.
const NAME_CHARS_MAX: usize = 64;

/// The JSON of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    input: String,
    /// Nothing, where nothing was written.
    files: Vec<String>,
    r#type: &'static str,
    parameters: u64,
    bytes_before: u64,
    bytes_after: u64,
    bits_per_weight_before: f64,
    bits_per_weight: f64,
    /// Size of the files, descriptions included.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    notices: &'a [String],
    tensors: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    dims: &'a [u64],
    from: &'static str,
    to: &'static str,
    bits_per_weight: f64,
    /// The type that the rows of this tensor ruled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead_of: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'static str>,
    /// Of packed tensors: the error, relative to the root mean square of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    rmse: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weighted_rmse: Option<f64>,
}

pub fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let out = match &args.output {
        _ if args.dry_run => None,
        Some(out) => Some(out),
        None => return Err(Usage("there is no output: give OUT between IN and TYPE, or --dry-run".into()).into()),
    };
    let file = args.input.open_file()?;
    let options = options(args)?;
    let plan = QuantizePlan::new(&file, &options).map_err(|error| in_file(args, error))?;
    for notice in &plan.notices {
        output::note(notice);
    }
    let Some(out) = out else {
        print(args, &options, &plan, None)?;
        return Ok(ExitCode::SUCCESS);
    };
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new();
    let start = Instant::now();
    let result = plan.carry_out(&file, out, &options, &mut |at| {
        progress.show(&progress_line(&at, start));
        if interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(progress);
    let report = match result {
        Err(Error::Cancelled) => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
        result => result.map_err(|error| in_file(args, error))?,
    };
    print(args, &options, &report.plan, Some(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn options(args: &QuantizeArgs) -> Result<QuantizeOptions> {
    let importance = |path: &PathBuf| ImportanceMatrix::open(path).map(|matrix| (path.clone(), matrix));
    Ok(QuantizeOptions {
        pure: args.pure,
        tensor_types: args.tensor_types.clone(),
        output_type: args.output_type,
        token_embedding_type: args.token_embedding_type,
        allow_requantize: args.allow_requantize,
        importance: args.imatrix.as_ref().map(importance).transpose()?,
        threads: args.threads,
        split: args.split(),
        overwrite: args.force,
        ..QuantizeOptions::new(args.mix)
    })
}

/// Names the input in errors that are about it.
fn in_file(args: &QuantizeArgs, error: Error) -> anyhow::Error {
    match error {
        Error::ImportanceMatrix { .. }
        | Error::OutputExists { .. }
        | Error::OutputIsInput { .. }
        | Error::OutputIsNoFile { .. } => error.into(),
        error => args.input.in_file(error),
    }
}

fn progress_line(at: &QuantizeProgress, start: Instant) -> String {
    let share = at.bytes_done as f64 / at.bytes_total.max(1) as f64;
    let filled = (share * 20.0) as usize;
    let bar: String = (0..20).map(|i| if i < filled { '#' } else { '.' }).collect();
    let elapsed = start.elapsed().as_secs_f64();
    // Of the first bytes nothing can be foreseen, and what is soon over needs no forecast.
    let left = if share > 0.02 && elapsed > 2.0 {
        format!(", {:.0} s left", elapsed / share - elapsed)
    } else {
        String::new()
    };
    let name = output::one_line(at.tensor, NAME_CHARS_MAX);
    format!("[{bar}] {:3.0} %  {}/{} {name}{left}", share * 100.0, at.number, at.tensors)
}

fn print(
    args: &QuantizeArgs,
    options: &QuantizeOptions,
    plan: &QuantizePlan,
    report: Option<&QuantizeReport>,
) -> Result<()> {
    if args.json {
        output::json(&as_json(args, options, plan, report))?;
    } else {
        output::bytes(as_text(plan, report).as_bytes())?;
    }
    Ok(())
}

/// What was measured of each tensor; nothing in a dry run.
fn measured<'a>(
    plan: &'a QuantizePlan,
    report: Option<&'a QuantizeReport>,
) -> impl Iterator<Item = (&'a PlannedTensor, Option<TensorError>)> {
    plan.tensors.iter().enumerate().map(move |(i, tensor)| (tensor, report.and_then(|report| report.errors[i])))
}

fn as_json<'a>(
    args: &QuantizeArgs,
    options: &QuantizeOptions,
    plan: &'a QuantizePlan,
    report: Option<&'a QuantizeReport>,
) -> Report<'a> {
    let tensors = measured(plan, report).map(|(tensor, error)| Tensor {
        name: &tensor.name,
        dims: &tensor.dims,
        from: tensor.from.name(),
        to: tensor.to.name(),
        bits_per_weight: tensor.to.bits_per_weight(),
        instead_of: tensor.wanted.map(GgmlType::name),
        kept: tensor.kept.map(kept),
        rmse: error.map(|error| error.rmse),
        weighted_rmse: error.and_then(|error| error.weighted_rmse),
    });
    Report {
        input: args.input.to_string(),
        files: report.map_or_else(Vec::new, |report| report.files.iter().map(|path| shown(path)).collect()),
        r#type: options.mix.name,
        parameters: plan.n_elements(),
        bytes_before: plan.bytes_before(),
        bytes_after: plan.bytes_after(),
        bits_per_weight_before: bits(plan.bytes_before(), plan),
        bits_per_weight: bits(plan.bytes_after(), plan),
        file_bytes: report.map(|report| report.file_bytes),
        seconds: report.map(|report| report.seconds),
        notices: &plan.notices,
        tensors: tensors.collect(),
    }
}

fn as_text(plan: &QuantizePlan, report: Option<&QuantizeReport>) -> String {
    let mut text = String::new();
    let weighted = report.is_some_and(|report| report.errors.iter().flatten().any(|e| e.weighted_rmse.is_some()));
    let rows = measured(plan, report).map(|(tensor, error)| {
        let dims: Vec<_> = tensor.dims.iter().map(u64::to_string).collect();
        let percent = |error: Option<f64>| error.map_or_else(String::new, |error| format!("{:.3} %", error * 100.0));
        let plain = percent(error.map(|error| error.rmse));
        let by_importance = percent(error.and_then(|error| error.weighted_rmse));
        let why = match (tensor.wanted, tensor.kept) {
            (Some(wanted), _) => format!("rows of {} are no whole {wanted} blocks", tensor.dims[0]),
            (_, Some(reason)) => format!("kept: {}", kept(reason)),
            _ => String::new(),
        };
        [
            output::one_line(&tensor.name, NAME_CHARS_MAX),
            dims.join(" x "),
            tensor.from.name().to_owned(),
            tensor.to.name().to_owned(),
            format!("{}", tensor.to.bits_per_weight()),
            plain,
            by_importance,
            why,
        ]
    });
    let by_importance = if weighted { "BY IMPORTANCE" } else { "" };
    let error = if report.is_some() { "ERROR" } else { "" };
    let head = ["TENSOR", "SHAPE", "FROM", "TO", "BITS", error, by_importance, ""];
    output::table(&mut text, head, rows.collect());
    let mut text = text.trim_start().to_owned();
    text.push('\n');
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<11}  {value}").expect("a String takes any text");
    };
    let (before, after) = (plan.bytes_before(), plan.bytes_after());
    let sized = |bytes| format!("{}, {:.3} bits per weight", output::byte_size(bytes), bits(bytes, plan));
    line("before", sized(before));
    line("after", sized(after));
    if let Some(report) = report {
        for path in &report.files {
            line("file", output::one_line(&shown(path), 200));
        }
        line("took", format!("{:.1} s", report.seconds));
    }
    text
}

fn bits(bytes: u64, plan: &QuantizePlan) -> f64 {
    bytes as f64 * 8.0 / plan.n_elements().max(1) as f64
}

fn kept(reason: KeptReason) -> &'static str {
    match reason {
        KeptReason::Vector => "one row",
        KeptReason::Integers => "whole numbers",
        _ => "small or delicate",
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
