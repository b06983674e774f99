//! `hublab pull`: fetches a model, and says how it goes: on a terminal in one line that changes, otherwise in a line for each
//! tenth.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use hublabio_runtime::Error;
use hublabio_runtime::store::pull::{Description, PullConfig, PullEvent, PullLimits, PullOptions};
use serde::Serialize;

use crate::args::PullArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, Progress};
use crate::{EXIT_INTERRUPTED, store};

/// How often the line changes.
const REDRAW: Duration = Duration::from_millis(100);

/// The JSON of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    from: &'a str,
    files: Vec<String>,
    bytes: u64,
    bytes_fetched: u64,
    sha256: &'a [String],
    model: Option<Model<'a>>,
    already_there: bool,
    seconds: f64,
}

/// What was fetched, and what it takes.
#[derive(Serialize)]
struct Model<'a> {
    architecture: Option<&'a str>,
    parameters: u64,
    quantization: Option<&'a str>,
    context_length: Option<u64>,
    weight_bytes: Option<u64>,
    kv_bytes: Option<u64>,
    context: Option<usize>,
    problem: Option<&'a str>,
}

impl<'a> From<&'a Description> for Model<'a> {
    fn from(description: &'a Description) -> Self {
        let needs = description.needs;
        Self {
            architecture: description.architecture.as_deref(),
            parameters: description.parameters,
            quantization: description.quantization.as_deref(),
            context_length: description.context_length,
            weight_bytes: needs.map(|needs| needs.weight_bytes),
            kv_bytes: needs.map(|needs| needs.kv_bytes),
            context: needs.map(|needs| needs.context),
            problem: description.problem.as_deref(),
        }
    }
}

pub fn pull(args: &PullArgs) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let options = PullOptions {
        name: args.name.clone(),
        sha256: args.sha256.clone(),
        force: args.force,
        config: PullConfig::from_environment(|name| std::env::var_os(name)),
        limits: PullLimits::default(),
        stop: Some(interrupt.flag()),
    };
    let mut view = View::new();
    let result = store::open().pull(&args.reference, &options, &mut |event| {
        view.show(event);
        ControlFlow::Continue(())
    });
    let begun = view.begun;
    drop(view);
    let report = match result {
        Err(Error::Cancelled) => {
            if begun {
                output::note("stopped: what has come is kept, the same command goes on with it");
            }
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
        result => result?,
    };
    if args.json {
        output::json(&Report {
            name: &report.name,
            from: &report.from,
            files: report.files.iter().map(|path| path.display().to_string()).collect(),
            bytes: report.bytes,
            bytes_fetched: report.bytes_fetched,
            sha256: &report.sha256,
            model: report.description.as_ref().map(Model::from),
            already_there: report.already_there,
            seconds: report.seconds,
        })?;
    } else if report.already_there {
        output::message(&format!("`{}` is there already, in the version that the server has.", report.name));
    } else {
        output::message(&format!(
            "`{}` is there: {}. Try `hublab run {0} \"Hello\"`.",
            report.name,
            output::byte_size(report.bytes)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

struct View {
    line: Progress,
    drawn: Option<Instant>,
    /// Tenths that have been said, where there is no terminal.
    tenths: u64,
    begun: bool,
}

impl View {
    fn new() -> Self {
        Self { line: Progress::new(), drawn: None, tenths: 0, begun: false }
    }

    fn show(&mut self, event: PullEvent) {
        match event {
            PullEvent::Planned { name, files, bytes, bytes_there } => {
                self.begun = true;
                let parts = if files > 1 { format!(" in {files} files") } else { String::new() };
                let size = bytes.map_or_else(|| "of unknown size".to_owned(), output::byte_size);
                let there = if bytes_there > 0 {
                    format!("; {} are there already", output::byte_size(bytes_there))
                } else {
                    String::new()
                };
                self.say(&format!("Pulling `{name}`: {size}{parts}{there}."));
                self.tenths = bytes.map_or(0, |bytes| tenths(bytes_there, bytes));
            }
            PullEvent::Described(description) => {
                self.say(&summary(&description));
                if let Some(problem) = description.problem {
                    output::note(&format!("this program cannot run it: {problem}"));
                }
            }
            PullEvent::Checking { bytes_done, bytes_total } => {
                let percent = bytes_done as f64 / bytes_total.max(1) as f64 * 100.0;
                self.draw(&format!("reading what is there: {percent:.0} %"));
            }
            PullEvent::Progress { bytes_done, bytes_total, bytes_per_s } => {
                if output::is_watched() {
                    self.draw(&progress_line(bytes_done, bytes_total, bytes_per_s));
                } else if let Some(total) = bytes_total.filter(|total| tenths(bytes_done, *total) > self.tenths) {
                    self.tenths = tenths(bytes_done, total);
                    let (done, total) = (output::byte_size(bytes_done), output::byte_size(total));
                    output::message(&format!("{done} of {total}, {}/s", output::byte_size(bytes_per_s as u64)));
                }
            }
            PullEvent::Restarted { reason } => self.say(&format!("Beginning anew: {reason}.")),
            PullEvent::Waiting { problem, wait, failures, failures_max } => {
                let seconds = wait.as_secs_f64();
                self.say(&format!("{problem}; again in {seconds:.0} s ({failures} of {failures_max})"));
            }
            _ => {}
        }
    }

    /// A line that stays.
    fn say(&mut self, text: &str) {
        self.line = Progress::new();
        self.drawn = None;
        output::message(text);
    }

    /// The line that changes.
    fn draw(&mut self, text: &str) {
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
            self.line.show(text);
            self.drawn = Some(Instant::now());
        }
    }
}

/// What is known of a model before it has come.
fn summary(description: &Description) -> String {
    let architecture = description.architecture.as_deref().unwrap_or("of unknown architecture");
    let mut text = format!("It is {architecture}, {} parameters", output::count(description.parameters));
    if let Some(quantization) = &description.quantization {
        let _ = write!(text, " in {quantization}");
    }
    if let Some(context) = description.context_length {
        let _ = write!(text, ", context {context}");
    }
    if let Some(needs) = description.needs {
        let bytes = output::byte_size(needs.bytes());
        let _ = write!(text, "; it takes {bytes} of memory with {} tokens of conversation", needs.context);
    }
    text + "."
}

fn tenths(done: u64, total: u64) -> u64 {
    done.saturating_mul(10) / total.max(1)
}

fn progress_line(done: u64, total: Option<u64>, per_s: f64) -> String {
    let rate = format!("{}/s", output::byte_size(per_s as u64));
    let Some(total) = total else { return format!("{}, {rate}", output::byte_size(done)) };
    let share = done as f64 / total.max(1) as f64;
    let filled = (share * 20.0) as usize;
    let bar: String = (0..20).map(|i| if i < filled { '#' } else { '.' }).collect();
    let left = if per_s >= 1.0 { total.saturating_sub(done) as f64 / per_s } else { f64::INFINITY };
    let left = match left {
        left if left < 90.0 => format!(", {left:.0} s left"),
        left if left < 5400.0 => format!(", {:.0} min left", left / 60.0),
        left if left.is_finite() => format!(", {:.1} h left", left / 3600.0),
        _ => String::new(),
    };
    let (done, total) = (output::byte_size(done), output::byte_size(total));
    format!("[{bar}] {:3.0} %  {done} of {total}, {rate}{left}", share * 100.0)
}

#[cfg(test)]
mod tests {
    use hublabio_runtime::machine::ModelNeeds;

    use super::*;

    #[test]
    fn what_is_known_of_a_model_is_said() {
        let needs = ModelNeeds { weight_bytes: 398_000_000, kv_bytes: 50_000_000, context: 4096 };
        let known = Description {
            architecture: Some("qwen2".into()),
            quantization: Some("Q4_K_M".into()),
            parameters: 494_000_000,
            context_length: Some(32768),
            needs: Some(needs),
            problem: None,
        };
        let text = "It is qwen2, 494.0 M parameters in Q4_K_M, context 32768; it takes 448.0 MB of memory with 4096 tokens of \
                    conversation.";
        assert_eq!(summary(&known), text);
        let unknown =
            Description { architecture: None, quantization: None, context_length: None, needs: None, ..known };
        assert_eq!(summary(&unknown), "It is of unknown architecture, 494.0 M parameters.");
    }

    #[test]
    fn the_line_says_how_much_and_how_long() {
        assert_eq!(progress_line(500, None, 2.0), "500 B, 2 B/s");
        let line = progress_line(50_000_000, Some(100_000_000), 1e6);
        assert_eq!(line, "[##########..........]  50 %  50.0 MB of 100.0 MB, 1.0 MB/s, 50 s left");
        assert!(progress_line(0, Some(10_000_000_000), 1e6).ends_with("2.8 h left"));
        assert!(progress_line(0, Some(0), 0.0).ends_with("0 B/s"));
        assert_eq!((tenths(5, 10), tenths(0, 0), tenths(10, 10)), (5, 0, 10));
    }
}
