//! `hublab imatrix`: collects an importance matrix from a text, joins several, or says what one holds.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use hublabio_runtime::Error;
use hublabio_runtime::ai::tokenizer::EncodeOptions;
use hublabio_runtime::ai::{CollectionOptions, ImportanceMatrix};
use serde::Serialize;

use crate::args::ImatrixArgs;
use crate::interrupt::Interrupt;
use crate::model::ModelName;
use crate::output::{self, Progress};
use crate::{EXIT_INTERRUPTED, Usage, input};

/// Where the result goes unless -o says otherwise; llama.cpp has the same.
const OUT_DEFAULT: &str = "imatrix.gguf";

/// The JSON of `--json`.
#[derive(Serialize)]
struct Report {
    path: String,
    entries: usize,
    chunks: u64,
    chunk_size: u64,
    datasets: Vec<String>,
    /// Tokens that this run took in, and those at the end that make no full chunk or are beyond --chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_left_out: Option<usize>,
}

/// The JSON of `--show --json`.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    report: Report,
    /// `rows`, or `chunks` where the file counts those.
    counts: &'static str,
    tensors: Vec<Tensor>,
}

/// What one matrix's columns are like.
#[derive(Serialize)]
struct Tensor {
    name: String,
    /// Matrices with a count of their own: experts.
    matrices: usize,
    columns: usize,
    /// What was summed up, in the unit of `counts`; of experts, the least and the most.
    count_min: u64,
    count_max: u64,
    mean_square: f64,
    mean_square_max: f64,
}

pub fn imatrix(args: &ImatrixArgs) -> Result<ExitCode> {
    if let Some(file) = &args.show {
        return show(file, args.json);
    }
    let source = match (args.model.as_deref(), args.text.as_deref()) {
        (Some(model), Some(text)) => Some((ModelName::from(model), PathBuf::from(text))),
        (Some(lone), None) if !is_text(lone) && ModelName::is_meant_by(lone) => {
            let model = lone.display();
            return Err(Usage(format!("there is no text for {model}: give one behind the model")).into());
        }
        (Some(text), None) => Some((ModelName::Default, PathBuf::from(text))),
        _ if args.inputs.is_empty() => {
            return Err(Usage("there is no text: give one, or --in FILE, or --show FILE".into()).into());
        }
        _ => None,
    };
    let out = args.output.clone().unwrap_or_else(|| OUT_DEFAULT.into());
    check_output(&out, args.force)?;

    let mut matrix = ImportanceMatrix::new(args.ctx as u64);
    for file in &args.inputs {
        let other = ImportanceMatrix::open(file)?;
        matrix.add(&other).with_context(|| format!("cannot add {}", file.display()))?;
    }
    let (mut tokens, mut tokens_left_out) = (None, None);
    if let Some((model, text)) = source {
        let Some((taken, left_out)) = collect(args, &model, &text, &mut matrix)? else {
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        };
        (tokens, tokens_left_out) = (Some(taken), Some(left_out));
    }
    matrix.save(&out)?;
    let report = Report { tokens, tokens_left_out, ..Report::of(&out, &matrix) };
    if args.json {
        output::json(&report)?;
    } else {
        let mut text = report.as_text();
        if let Some(tokens) = tokens {
            writeln!(text, "tokens      {tokens}").expect("a String takes any text");
        }
        output::bytes(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a lone argument is a text for the built-in model: a file that is no model, or `-`.
fn is_text(argument: &OsStr) -> bool {
    let path = Path::new(argument);
    argument == "-"
        || path.is_file() && path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("gguf"))
}

/// Refuses an output that cannot be meant, before any work is done.
fn check_output(out: &Path, force: bool) -> Result<()> {
    if out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("dat")) {
        return Err(Usage(format!(
            "{}: the older .dat format is only read: give a name that ends in .gguf",
            out.display()
        ))
        .into());
    }
    if out.is_dir() {
        bail!("{} is a folder: give the name of a file", out.display());
    }
    if out.exists() && !out.is_file() {
        bail!("{} is no regular file and cannot be replaced: give the name of a file", out.display());
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("there is no folder {}: make it first, or give another name with -o", folder.display());
    }
    if !force && fs::symlink_metadata(out).is_ok() {
        bail!("{} exists: give another name with -o, or --force to replace it", out.display());
    }
    Ok(())
}

/// Runs the text through the model. The tokens that were taken and those left out; `None` when Ctrl-C ended it.
fn collect(
    args: &ImatrixArgs,
    name: &ModelName,
    file: &Path,
    matrix: &mut ImportanceMatrix,
) -> Result<Option<(usize, usize)>> {
    let mut model = name.open(&args.machine.model_config(Some(args.ctx)), "--ctx")?;
    let (text, dataset) = if file == Path::new("-") {
        (input::bytes()?, "-".to_owned())
    } else {
        let text = fs::read(file).with_context(|| format!("cannot read the text {}", file.display()))?;
        (text, file.display().to_string())
    };
    // The text as a prompt would be, as llama.cpp does it: with BOS where the model wants it.
    let encode = EncodeOptions { add_eos: Some(false), parse_special: args.parse_special, ..EncodeOptions::default() };
    let tokens = model
        .engine
        .tokenizer()
        .map_err(|error| name.in_file(error))?
        .encode_bytes(&text, encode)
        .with_context(|| format!("cannot tokenize {}", file.display()))?;
    let options =
        CollectionOptions { chunk_size: args.ctx, chunks_max: args.chunks, process_output: args.process_output };
    if args.process_output && model.engine.file().tensor("output.weight").is_none() {
        output::note("the output head is the embedding, which is never collected: --process-output adds nothing");
    }
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new();
    let collected = model.engine.collect_importance(&tokens, options, &dataset, matrix, &mut |done, chunks| {
        progress.show(&format!("chunk {done} of {chunks}"));
        if interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(progress);
    if interrupt.requested() {
        return Ok(None);
    }
    let chunks = collected.map_err(|error| match error {
        Error::TooFewTokens { .. } => anyhow!("{}: {error}: give a longer text or lower --ctx", file.display()),
        error => error.into(),
    })?;
    let taken = chunks * args.ctx;
    let tail = tokens.len() % args.ctx;
    if tail > 0 && chunks == tokens.len() / args.ctx {
        output::note(&format!("the last {tail} tokens make no full chunk of {}: they were left out", args.ctx));
    }
    Ok(Some((taken, tokens.len() - taken)))
}

fn show(file: &Path, json: bool) -> Result<ExitCode> {
    let matrix = ImportanceMatrix::open(file)?;
    let tensors: Vec<Tensor> = matrix.names().filter_map(|name| Tensor::of(&matrix, name)).collect();
    let report = Report::of(file, &matrix);
    let counts = if matrix.counts_chunks() { "chunks" } else { "rows" };
    if json {
        output::json(&Shown { report, counts, tensors })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = report.as_text();
    let width = tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0).clamp(6, 80);
    let mut line = |row: std::fmt::Arguments<'_>| text.write_fmt(row).expect("a String takes any text");
    line(format_args!(
        "\n{:width$}  {:>8}  {:>8}  {:>12}  {:>12}  {:>12}\n",
        "tensor", "matrices", "columns", counts, "mean square", "largest"
    ));
    for tensor in &tensors {
        let count = match (tensor.count_min, tensor.count_max) {
            (min, max) if min == max => max.to_string(),
            (min, max) => format!("{min}–{max}"),
        };
        let name = output::one_line(&tensor.name, 80);
        line(format_args!(
            "{name:width$}  {:>8}  {:>8}  {count:>12}  {:>12.5}  {:>12.5}\n",
            tensor.matrices, tensor.columns, tensor.mean_square, tensor.mean_square_max
        ));
    }
    output::bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn of(path: &Path, matrix: &ImportanceMatrix) -> Self {
        Self {
            path: path.display().to_string(),
            entries: matrix.n_entries(),
            chunks: matrix.chunk_count(),
            chunk_size: matrix.chunk_size(),
            datasets: matrix.datasets().to_vec(),
            tokens: None,
            tokens_left_out: None,
        }
    }

    fn as_text(&self) -> String {
        let chunk_size = match self.chunk_size {
            0 => "unknown size".to_owned(),
            size => format!("{size} tokens"),
        };
        let datasets: Vec<String> = self.datasets.iter().map(|name| output::one_line(name, 80)).collect();
        format!(
            "file        {}\nentries     {}\nchunks      {} of {chunk_size}\ntexts       {}\n",
            output::without_controls(&self.path),
            self.entries,
            self.chunks,
            datasets.join(", ")
        )
    }
}

impl Tensor {
    fn of(matrix: &ImportanceMatrix, name: &str) -> Option<Self> {
        let (sums, counts) = matrix.sums(name)?;
        let columns = sums.len() / counts.len();
        // Experts that were never reached say nothing about the columns.
        let means: Vec<f64> = sums
            .chunks_exact(columns)
            .zip(counts)
            .filter(|&(_, &count)| count > 0)
            .flat_map(|(sums, &count)| sums.iter().map(move |sum| sum / count as f64))
            .collect();
        Some(Self {
            name: name.to_owned(),
            matrices: counts.len(),
            columns,
            count_min: counts.iter().copied().min()?,
            count_max: counts.iter().copied().max()?,
            mean_square: means.iter().sum::<f64>() / means.len().max(1) as f64,
            mean_square_max: means.iter().copied().fold(0.0, f64::max),
        })
    }
}
