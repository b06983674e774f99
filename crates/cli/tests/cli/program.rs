//! Runs `hublab` and says what came of it.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest that a test waits for the program. Far above what any of them needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a run left behind.
pub struct Outcome {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("standard output is text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is no JSON ({error}): {}", self.text()))
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("standard error is text");
        let mut report = String::new();
        write!(report, "{}\n{}{stderr}", output.status, String::from_utf8_lossy(&output.stdout)).unwrap();
        assert!(!stderr.contains("panicked"), "{report}");
        let code = output.status.code().unwrap_or_else(|| panic!("ended by a signal: {report}"));
        Self { code, stdout: output.stdout, stderr }
    }
}

/// The program with these arguments, away from the user's own settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hublab"));
    command.args(arguments);
    away(command)
}

/// As [`command`], started by a script of the shell, whose `"$@"` is the program and its arguments.
#[cfg(unix)]
pub fn command_by(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_hublab")]).args(arguments);
    away(command)
}

/// Away from the user's own settings.
fn away(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"] {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", folder("state"));
    // No test has experts, models or settings where a user has them, but for those that make some. An empty file of the
    // user's own keeps the machine's from being read.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("HUBLAB_")) {
            command.env_remove(name);
        }
    }
    let config = folder("config/hublab").join("system.toml");
    if !config.exists() {
        std::fs::write(&config, "").expect("the build folder can be written");
    }
    command.env("XDG_CONFIG_HOME", folder("config")).env("XDG_DATA_HOME", folder("data")).env_remove("STATE_DIRECTORY");
    for name in ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    command.env("HUBLAB_MODELS", folder("models")).env("OLLAMA_MODELS", folder("ollama"));
    command
}

/// Runs the program to its end with nothing on standard input.
pub fn hublab(arguments: &[&str]) -> Outcome {
    hublab_with(arguments, b"")
}

/// Runs the program to its end with this standard input.
pub fn hublab_with(arguments: &[&str], stdin: &[u8]) -> Outcome {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut pipe = child.stdin.take().expect("standard input is a pipe");
    let stdin = stdin.to_vec();
    // The program may end without reading: then nobody misses the rest.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let outcome = wait(child);
    writer.join().expect("the writer ends with its pipe");
    outcome
}

/// Runs the program and expects it to succeed.
pub fn succeeds(arguments: &[&str]) -> Outcome {
    succeeds_with(arguments, b"")
}

/// As [`succeeds`], with standard input.
pub fn succeeds_with(arguments: &[&str], stdin: &[u8]) -> Outcome {
    let outcome = hublab_with(arguments, stdin);
    assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
    outcome
}

/// Expects exit code `code`, nothing on standard output, and one error that contains all `parts`.
pub fn fails(arguments: &[&str], stdin: &[u8], code: i32, parts: &[&str]) {
    let outcome = hublab_with(arguments, stdin);
    let stderr = &outcome.stderr;
    assert_eq!(outcome.code, code, "{arguments:?}: {stderr}");
    assert_eq!(outcome.text(), "", "{arguments:?}");
    assert_eq!(stderr.matches("error:").count(), 1, "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: {part:?} is not in: {stderr}");
    }
}

/// Waits for the program's end, with an end to patience.
pub fn wait(child: Child) -> Outcome {
    output(child).into()
}

/// As [`wait`], for a program that a signal may end.
pub fn output(mut child: Child) -> Output {
    // Both streams are read all the time: a full pipe would stop the program.
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the program can be waited for") {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().expect("the program can be ended");
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let bytes = |reader: Option<JoinHandle<Vec<u8>>>| {
        reader.map_or_else(Vec::new, |reader| reader.join().expect("the reader ends with its pipe"))
    };
    Output { status, stdout: bytes(stdout), stderr: bytes(stderr) }
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the pipe can be read");
        bytes
    })
}

/// A folder for a test's files.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
    std::fs::create_dir_all(&folder).expect("the build folder can be written");
    folder
}

/// A file with these bytes in the test's folder.
pub fn file(test: &str, name: &str, bytes: &[u8]) -> String {
    let path = folder(test).join(name);
    std::fs::write(&path, bytes).expect("the build folder can be written");
    path.into_os_string().into_string().expect("the path is text")
}
