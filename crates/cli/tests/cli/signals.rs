//! Ctrl-C and readers that leave.

use std::io::Read;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{command, file, output, succeeds, wait};
use crate::tiny::Tiny;

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("the program is there");
}

/// A program that writes without end, caught in the act: it has written at least one letter.
fn writing(test: &str) -> Child {
    let model = Tiny::new().save(test);
    command(&["run", &model, "abc", "--raw", "--ctx", "1000000", "--temp", "0"]).spawn().unwrap()
}

#[test]
fn ctrl_c_ends_an_answer_and_keeps_what_was_written() {
    let mut child = writing("ctrl_c");
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    interrupt(&child);
    let outcome = wait(child);
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    assert!(first[0].is_ascii_lowercase());
    let (end, letters) = outcome.stdout.split_last().unwrap();
    assert!(*end == b'\n' && letters.iter().all(u8::is_ascii_lowercase), "{:?}", outcome.text());
    assert_eq!(outcome.stderr, "");
}

#[test]
fn ctrl_c_ends_an_answer_of_the_chat_but_not_the_chat() {
    use std::io::Write;
    let model = Tiny::new().save("ctrl_c_chat");
    let mut child =
        command(&["chat", &model, "--ctx", "1000000", "--temp", "0", "--stats"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut lines = Vec::new();
    for _ in 0..2 {
        stdin.write_all(b"abc\n").unwrap();
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        interrupt(&child);
        let mut line = vec![byte[0]];
        while byte[0] != b'\n' {
            stdout.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        lines.push(line);
    }
    drop(stdin);
    let outcome = wait(child);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(lines.iter().all(|line| line.len() > 1));
    assert_eq!(outcome.stderr.matches("decode").count(), 2, "{}", outcome.stderr);
}

#[test]
fn ctrl_c_ends_measurements() {
    let model = Tiny::new().save("ctrl_c_bench");
    let text = file("ctrl_c_bench", "text.txt", "abc ".repeat(100_000).as_bytes());
    for arguments in [&["bench", &model, "--repeat", "1000000"][..], &["perplexity", &model, &text, "--ctx", "64"]] {
        let child = command(arguments).spawn().unwrap();
        // Whenever it comes, before the program listens or after, it ends the program.
        std::thread::sleep(std::time::Duration::from_millis(500));
        interrupt(&child);
        let output = output(child);
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(output.status.code().is_none_or(|code| code == 130), "{arguments:?}: {}", output.status);
    }
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let mut child = writing("closed_pipe");
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let outcome = wait(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));

    let text = file("closed_pipe", "text.txt", "some text ".repeat(200).as_bytes());
    let ids = file("closed_pipe", "ids.json", b"{\"ids\":[1,2,3,4,5,6,7,8]}");
    for arguments in [
        &["show", "--json"][..],
        &["show", "--tensors"],
        &["tokenize", "--decode"],
        &["logits", "--all"],
        &["perplexity", &text, "--ctx", "32"],
        &["chat"],
        &["completions", "zsh"],
        &["--help"],
        &["run", "--help"],
    ] {
        let stdin = std::fs::File::open(&ids).unwrap();
        let mut child = command(arguments).stdin(Stdio::from(stdin)).spawn().unwrap();
        drop(child.stdout.take());
        let outcome = wait(child);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
    }
    // The same without a reader that hurries away.
    assert!(succeeds(&["show", "--json"]).stdout.len() > 1 << 16, "more than a pipe holds");
}
