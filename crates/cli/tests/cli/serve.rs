//! `hublab serve`, spawned: that it listens at once, answers, and ends as it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{command, hublab, wait};
use crate::tiny::Tiny;

/// A service on a free port, and its address.
pub fn serving(arguments: &[&str]) -> (Child, String) {
    let mut child = command(&[&["serve", "--port", "0"], arguments].concat()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}")).to_owned();
    (child, address)
}

/// Asks a service to end.
pub fn end(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

#[test]
fn it_serves_until_a_signal_and_ends_well() {
    let model = Tiny::new().save("serve");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (child, address) = serving(&[&model]);
        assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
        let models = get(&address, "/v1/models");
        assert!(models.contains("\"id\":\"tiny\"") && models.contains("\"id\":\"default\""), "{models}");
        // The file of the command line answers where no model is named.
        let body = "{\"prompt\":\"abc\",\"max_tokens\":3}";
        let length = body.len();
        let request = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = ask(&address, &request);
        assert!(answer.contains("\"model\":\"tiny\""), "{answer}");
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let outcome = wait(child);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
}

#[test]
fn what_it_cannot_serve_with_is_said_at_once() {
    for (arguments, code, said) in [
        (&["--host", "0.0.0.0"][..], 1, "--api-key-file"),
        (&["--host", "nowhere"], 1, "--host"),
        (&["--port", "70000"], 1, "--port"),
        (&["--tls-cert", "cert.pem"], 2, "--tls-key"),
        (&["no/such.gguf"], 1, "no/such.gguf"),
        (&["--api-key-file", "/nonexistent/keys"], 1, "/nonexistent/keys"),
        (&["--swarm", "a/b=x"], 2, "NAME=FOLDER"),
    ] {
        let port = if arguments.contains(&"--port") { &[][..] } else { &["--port", "0"] };
        let outcome = hublab(&[&["serve"], port, arguments].concat());
        assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "{arguments:?}: {}", outcome.stderr);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let outcome = hublab(&["serve", "--port", &port]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("cannot listen"), "{}", outcome.stderr);
}
