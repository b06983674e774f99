//! What is different on a terminal, which here is a pseudo-terminal.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{PATIENCE, command, folder};
use crate::tiny::Tiny;

/// The program on a terminal, and someone who types.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        // Closed on exec, as all else here: a program of another test that inherited a side would keep it open.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("there are terminals");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("the terminal is ours");
        let path = ptsname_r(&master).expect("the terminal has a name");
        let open = || OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(&path);
        let stream = || Stdio::from(open().expect("the terminal can be opened"));
        command.env("TERM", "xterm-256color").stdin(stream()).stdout(stream()).stderr(stream());
        let child = command.spawn().expect("the program starts");
        // Its sides of the terminal are the child's alone.
        drop(command);
        let keyboard = File::from(OwnedFd::from(master));
        let mut display = keyboard.try_clone().expect("the terminal can be opened again");
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 4096];
            loop {
                match display.read(&mut bytes) {
                    Ok(n) if n > 0 => drop(sender.send(bytes[..n].to_vec())),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // Linux says so when the other side is closed.
                    _ => return,
                }
            }
        });
        Self { child, keyboard, screen, seen: String::new() }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits for `text` on the screen and takes it as looked at.
    fn waits_for(&mut self, text: &str) {
        self.waits_until(|seen| seen.contains(text));
        let at = self.seen.find(text).expect("it was waited for");
        self.seen.drain(..at + text.len());
    }

    /// Waits until what was not looked at yet is as wanted.
    fn waits_until(&mut self, wanted: impl Fn(&str) -> bool) {
        while !wanted(&self.seen) {
            let next = self.screen.recv_timeout(PATIENCE);
            let bytes = next.unwrap_or_else(|error| panic!("it does not come ({error}): {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// The exit code, and what was not looked at yet.
    fn ends(mut self) -> (i32, String) {
        while let Ok(bytes) = self.screen.recv_timeout(PATIENCE) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        // The screen is closed, or PATIENCE is over.
        let Some(status) = self.child.try_wait().expect("the program can be asked").or_else(|| {
            std::thread::sleep(std::time::Duration::from_secs(1));
            self.child.try_wait().expect("the program can be asked")
        }) else {
            panic!("the program does not end: {:?}", self.seen)
        };
        (status.code().expect("no signal ended it"), std::mem::take(&mut self.seen))
    }
}

/// A test that fails leaves no program behind.
impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    let run = |no_color: Option<&str>, arguments: &[&str]| {
        let mut command = command(arguments);
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        Terminal::start(command).ends()
    };
    for arguments in [&["run", "no-such-file.gguf"][..], &["run", "--no-such-flag"]] {
        let (code, screen) = run(None, arguments);
        assert!(code != 0 && screen.contains('\x1b') && screen.contains("error:"), "{screen:?}");
        let (_, screen) = run(Some("1"), arguments);
        assert!(!screen.contains('\x1b') && screen.contains("error:"), "{screen:?}");
    }
    assert!(run(None, &["--help"]).1.contains('\x1b'));
    assert!(!run(Some("1"), &["--help"]).1.contains('\x1b'));
}

#[test]
fn what_a_model_writes_cannot_steer_the_terminal() {
    let letters: Vec<_> = ('a'..='z').map(|letter| format!("{letter}\u{1b}]0;\u{7}")).collect();
    let model = Tiny::writing(&letters).save("steer");
    let mut terminal = Terminal::start(command(&["run", &model, "x", "--raw", "-n", "3", "--temp", "0"]));
    terminal.waits_for("␛]0;␇");
    let (code, screen) = terminal.ends();
    assert!(code == 0 && !screen.contains('\x1b'), "{screen:?}");
}

#[test]
fn run_asks_for_a_prompt_instead_of_waiting_for_keys() {
    let mut command = command(&["run"]);
    command.env("NO_COLOR", "1");
    let (code, screen) = Terminal::start(command).ends();
    assert!(code == 2 && screen.contains("there is no prompt") && screen.contains("hublab chat"), "{screen:?}");
}

#[test]
fn chat_edits_lines_keeps_a_history_and_survives_ctrl_c() {
    let model = Tiny::new().save("chat_terminal");
    let state = folder("chat_terminal").join("state");
    let _ = std::fs::remove_dir_all(&state);
    let chat = || {
        let mut command = command(&["chat", &model, "--ctx", "1000000"]);
        command.env("XDG_STATE_HOME", &state).env("NO_COLOR", "1");
        Terminal::start(command)
    };

    let mut terminal = chat();
    terminal.waits_for("/help lists the commands");
    terminal.waits_for("> ");
    // A typing error, and the way back to it: the line is `/help`.
    terminal.types("/hxlp\x1b[D\x1b[D\x7fe\r");
    terminal.waits_for("/save FILE");
    terminal.waits_for("> ");
    // An error is no end.
    terminal.types("/save /no/such/folder/x\r");
    terminal.waits_for("error: there is nothing to save yet");
    terminal.waits_for("> ");
    // Nor is Ctrl-C, neither while typing …
    terminal.types("abc\x03");
    terminal.waits_for("Ctrl-D or /exit ends the chat");
    terminal.waits_for("> ");
    // … nor during an answer that would not end.
    terminal.types("hello there\r");
    terminal.waits_for("hello there");
    terminal.waits_for("\n");
    terminal.waits_until(|seen| seen.chars().filter(char::is_ascii_lowercase).count() > 2);
    kill(Pid::from_raw(terminal.child.id().cast_signed()), Signal::SIGINT).unwrap();
    terminal.waits_for("> ");
    // What is typed ahead is not lost.
    terminal.types(" abc\r/help\r/reset\r");
    terminal.waits_for("abc");
    terminal.waits_until(|seen| seen.chars().filter(char::is_ascii_lowercase).count() > 2);
    kill(Pid::from_raw(terminal.child.id().cast_signed()), Signal::SIGINT).unwrap();
    terminal.waits_for("/save FILE");
    terminal.waits_for("The conversation is forgotten.");
    // Ctrl-D is a key only where lines are edited; before the prompt the terminal would swallow it.
    terminal.waits_for("> ");
    terminal.types("\x04");
    assert_eq!(terminal.ends().0, 0);

    let history = std::fs::read_to_string(state.join("hublab/chat_history")).unwrap();
    let lines: Vec<_> = history.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["/help", "/save /no/such/folder/x", "hello there", " abc", "/help", "/reset"]);

    // The next chat remembers: twice up is the line before the last.
    let mut terminal = chat();
    terminal.waits_for("> ");
    terminal.types("\x1b[A\x1b[A\r");
    terminal.waits_for("forget the conversation");
    terminal.types("/exit\r");
    assert_eq!(terminal.ends().0, 0);
}

#[test]
fn a_swarm_says_on_a_terminal_who_answered() {
    let query = ["swarm", "query", "How do I reverse a list in Python?", "-n", "4", "--preset", "greedy"];
    let mut terminal = Terminal::start(command(&query));
    terminal.waits_for("— python");
    let (code, screen) = terminal.ends();
    assert_eq!(code, 0, "{screen:?}");

    let mut terminal = Terminal::start(command(&["swarm", "chat", "-n", "4", "--preset", "greedy"]));
    terminal.waits_for("general, linux, python, rust");
    terminal.waits_for("> ");
    terminal.types("/expert rust\r");
    terminal.waits_for("rust answers from now on");
    terminal.waits_for("> ");
    terminal.types("What is a trait?\r");
    terminal.waits_for("— rust");
    terminal.waits_for("> ");
    // An error is no end.
    terminal.types("/expert nobody\r");
    terminal.waits_for("there is no expert");
    terminal.waits_for("> ");
    terminal.types("/exit\r");
    assert_eq!(terminal.ends().0, 0);
}
