//! The standard streams as this program writes them.
//!
//! Standard output carries answers and data, standard error all else. Writing never panics: a failure on standard output
//! is an error that the verb returns, one on standard error is nobody's to hear. Escape codes are written only to a
//! terminal and only by this program: control characters in foreign text (a model's answer, a name in a file) cannot
//! steer the terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use hublabio_runtime::config::LogLevel;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Writing to standard output failed.
#[derive(Debug)]
pub struct StdoutError(pub io::Error);

impl std::fmt::Display for StdoutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for StdoutError {}

/// Whether the error is that whoever read standard output has left, which is no failure.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StdoutError>().is_some_and(|StdoutError(cause)| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes bytes as they are.
pub fn bytes(bytes: &[u8]) -> Result<(), StdoutError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(StdoutError)
}

/// Writes one line of JSON. Floats get the fewest digits that read back as the same number.
pub fn json(value: &impl Serialize) -> Result<(), StdoutError> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    serde_json::to_writer(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(StdoutError)
}

/// Streams an answer: every piece is visible at once.
pub struct AnswerWriter {
    out: io::StdoutLock<'static>,
    terminal: bool,
    line_open: bool,
}

impl AnswerWriter {
    pub fn new() -> Self {
        let out = io::stdout().lock();
        Self { terminal: out.is_terminal(), out, line_open: false }
    }

    /// Writes and flushes a piece of text.
    pub fn piece(&mut self, text: &str) -> Result<(), StdoutError> {
        let Some(last) = text.chars().next_back() else { return Ok(()) };
        self.line_open = last != '\n';
        let shown = if self.terminal { without_controls(text) } else { Cow::Borrowed(text) };
        self.out.write_all(shown.as_bytes()).and_then(|()| self.out.flush()).map_err(StdoutError)
    }

    /// Ends the answer's last line, unless it has ended.
    pub fn end_line(&mut self) -> Result<(), StdoutError> {
        if std::mem::take(&mut self.line_open) {
            self.out.write_all(b"\n").and_then(|()| self.out.flush()).map_err(StdoutError)?;
        }
        Ok(())
    }
}

/// Streams what a model thinks to standard error, dimmed on a terminal.
pub struct ThoughtWriter {
    open: bool,
    styled: bool,
}

impl ThoughtWriter {
    pub fn new() -> Self {
        Self { open: false, styled: colors(&io::stderr()) }
    }

    /// Writes and flushes a piece of text.
    pub fn piece(&mut self, text: &str) {
        let mut err = io::stderr().lock();
        let dim = Style::new().dimmed();
        self.open = true;
        let text = without_controls(text);
        let written = if self.styled { write!(err, "{dim}{text}{dim:#}") } else { write!(err, "{text}") };
        // As with all of standard error, a failure is nobody's to hear.
        let _ = written.and_then(|()| err.flush());
    }

    /// Ends what was thought with an empty line, if anything was.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = io::stderr().lock().write_all(b"\n\n");
        }
    }
}

/// Help, version or a usage error, as clap made it. Returns its exit code.
pub fn clap_message(message: &clap::Error) -> anyhow::Result<ExitCode> {
    let code = ExitCode::from(message.exit_code() as u8);
    match message.print() {
        Err(cause) if !message.use_stderr() => Err(StdoutError(cause).into()),
        _ => Ok(code),
    }
}

/// Prints an error and what led to it.
pub fn error(error: &anyhow::Error) {
    labelled("error:", AnsiColor::Red, &whole_story(error));
}

fn whole_story(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // The rooms below put the cause into their messages, other libraries do not.
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

/// Sends the log to standard error: of this program down to `level`, of the libraries warnings at most.
pub fn start_logging(level: LogLevel) {
    let own = level.name();
    let others = if level == LogLevel::Error { "error" } else { "warn" };
    let filter = EnvFilter::new(format!("{others},hublab={own}"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Whoever sees a log twice, as tests may, has one already.
    let _ = log.with_ansi(colors(&io::stderr())).try_init();
}

/// Prints something that the user should know.
pub fn note(text: &str) {
    labelled("note:", AnsiColor::Cyan, text);
}

fn labelled(label: &str, color: AnsiColor, text: &str) {
    let mut err = io::stderr().lock();
    let text = without_controls(text);
    let _ = if colors(&err) {
        let style = Style::new().bold().fg_color(Some(color.into()));
        writeln!(err, "{style}{label}{style:#} {text}")
    } else {
        writeln!(err, "{label} {text}")
    };
}

fn colors(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints a line on standard error.
pub fn message(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", without_controls(text));
}

/// Whether a person reads standard error.
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Prints a line on standard error that is beside the matter: dimmed on a terminal.
pub fn aside(text: &str) {
    let mut err = io::stderr().lock();
    let text = without_controls(text);
    let _ = if colors(&err) {
        let dim = Style::new().dimmed();
        writeln!(err, "{dim}{text}{dim:#}")
    } else {
        writeln!(err, "{text}")
    };
}

/// A line on standard error that is overwritten as work goes on. Nothing, where that is no terminal.
pub struct Progress {
    shown: bool,
    width: usize,
}

impl Progress {
    pub fn new() -> Self {
        Self { shown: io::stderr().is_terminal(), width: 0 }
    }

    /// Replaces the line.
    pub fn show(&mut self, text: &str) {
        if self.shown {
            let width = text.chars().count();
            let padding = self.width.saturating_sub(width);
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r{text}{:padding$}", "").and_then(|()| err.flush());
            self.width = width;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.width > 0 {
            let _ = write!(io::stderr().lock(), "\r{:1$}\r", "", self.width);
        }
    }
}

/// `text` with pictures (`␛`) in place of control characters, other than line feed and tab.
pub fn without_controls(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let picture = |c: char| match c as u32 {
        code @ 0..0x20 => char::from_u32(0x2400 + code).expect("the pictures lie in a row"),
        0x7F => '␡',
        _ => char::REPLACEMENT_CHARACTER,
    };
    text.chars().map(|c| if steers(c) { picture(c) } else { c }).collect()
}

/// `text` on one line: line breaks and tabs are escaped, control characters pictured, and what exceeds `chars_max`
/// characters is replaced by `…`.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == chars_max {
            line.push('…');
            break;
        }
        match c {
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            '\r' => line.push_str("\\r"),
            c => line.push(c),
        }
    }
    without_controls(&line).into_owned()
}

/// A table under a blank line; the last column is not padded.
pub fn table<const N: usize>(text: &mut String, head: [&str; N], rows: Vec<[String; N]>) {
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    text.push('\n');
    for row in std::iter::once(head.map(str::to_owned)).chain(rows) {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
}

/// A number of bytes for people: `512 B`, `1.5 KB`, `4.2 GB` (powers of 1000).
pub fn byte_size(bytes: u64) -> String {
    scaled(bytes, &["B", "KB", "MB", "GB", "TB", "PB", "EB"])
}

/// A count for people: `512`, `1.5 K`, `7.2 B`.
pub fn count(n: u64) -> String {
    scaled(n, &["", "K", "M", "B", "T", "Q", "QQ"]).trim_end().to_owned()
}

fn scaled(n: u64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // What would print as 1000.0 belongs to the next unit.
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} {}", units[0]) } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(without_controls("a\tb\nc"), "a\tb\nc");
        assert_eq!(without_controls("\x1b[2J\x07\x7f\u{9b}1m\r"), "␛[2J␇␡\u{FFFD}1m␍");
        assert_eq!(one_line("a\nb\x1b", 10), "a\\nb␛");
        assert_eq!(one_line("abcdef", 3), "abc…");
    }

    #[test]
    fn sizes_are_readable() {
        for (n, expected) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (999_960, "1.0 MB"), (4_210_000_000, "4.2 GB")]
        {
            assert_eq!(byte_size(n), expected);
        }
        assert_eq!(byte_size(u64::MAX), "18.4 EB");
        assert_eq!(count(7_240_000_000), "7.2 B");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn an_error_tells_each_cause_once() {
        let told = anyhow::Error::new(io::Error::other("disk on fire")).context("cannot save: disk on fire");
        assert_eq!(whole_story(&told), "cannot save: disk on fire");
        let untold = anyhow::Error::new(io::Error::other("disk on fire")).context("cannot save");
        assert_eq!(whole_story(&untold), "cannot save: disk on fire");
    }
}
