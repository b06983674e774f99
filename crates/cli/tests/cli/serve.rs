//! `hublab serve`, spawned: that it listens at once, answers, and ends as it is asked to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{command, hublab, wait};
use crate::tiny::Tiny;

/// A service on a free port, and its address.
pub fn serving(arguments: &[&str]) -> (Child, String) {
    started(&mut command(&[&["serve", "--port", "0"], arguments].concat()), "http")
}

/// The next line, and no byte more: what else comes is read at the end.
fn line(stream: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// A service that is to be, and its first address with this scheme.
pub fn started(command: &mut Command, scheme: &str) -> (Child, String) {
    let mut child = command.spawn().unwrap();
    // Services of other tests may have the data folder to themselves, which is warned of first.
    let start = format!("listening on {scheme}://");
    let address = loop {
        let line = line(child.stderr.as_mut().unwrap());
        match line.strip_prefix(&start) {
            Some(address) => break address.to_owned(),
            None => assert!(line.contains("in use by another process"), "{line}"),
        }
    };
    (child, address)
}

/// Asks a service to end.
pub fn end(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
}

/// Sends a request that is the connection's last, and reads the answer.
pub fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The request for a page.
pub fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// A request with a body of JSON.
pub fn post_request(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

pub fn get(address: &str, path: &str) -> String {
    ask(TcpStream::connect(address).unwrap(), &get_request(path))
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
        let request = post_request("/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":3}");
        let answer = ask(TcpStream::connect(&address).unwrap(), &request);
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

#[test]
fn the_configured_model_answers_where_none_is_named() {
    let model = Tiny::new().save("serve-configured");
    let file = crate::program::folder("serve-configured-file").join("system.toml");
    let arguments = ["--config", file.to_str().unwrap()];
    std::fs::write(&file, format!("[ai]\ndefault_model = {model:?}\n")).unwrap();
    let (child, address) = serving(&arguments);
    let request = post_request("/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":3}");
    let answer = ask(TcpStream::connect(&address).unwrap(), &request);
    assert!(answer.contains("\"model\":\"tiny\""), "{answer}");
    end(&child);
    assert_eq!(wait(child).code, 0);
    // A file that is not there is told at the start, a name that is not in the store when it is asked for: it may be pulled.
    std::fs::write(&file, "[ai]\ndefault_model = \"no/such.gguf\"\n").unwrap();
    let outcome = hublab(&["serve", "--port", "0", arguments[0], arguments[1]]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.contains("ai.default_model") && outcome.stderr.contains("no/such.gguf"),
        "{}",
        outcome.stderr
    );
    std::fs::write(&file, "[ai]\ndefault_model = \"nobody\"\n").unwrap();
    let (child, address) = serving(&arguments);
    let answer = ask(TcpStream::connect(&address).unwrap(), &request);
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("nobody"), "{answer}");
    end(&child);
    assert_eq!(wait(child).code, 0);
}

#[test]
fn a_conversation_is_as_long_as_the_memory_allows() {
    let model = Tiny::new().save("serve-context");
    let request = post_request("/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":3}");
    let context_of = |arguments: &[&str]| {
        let (child, address) = serving(&[&[&*model], arguments].concat());
        let answer = ask(TcpStream::connect(&address).unwrap(), &request);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let running = get(&address, "/api/ps");
        let (_, context) = running.split_once("\"context_length\":").unwrap();
        let context = context.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<usize>().unwrap();
        end(&child);
        (context, wait(child).stderr)
    };
    assert_eq!(context_of(&[]).0, 32768);
    let (context, said) = context_of(&["--max-memory", "4MiB"]);
    assert!((4096..32768).contains(&context), "{context}");
    assert!(said.contains(&format!("{context} tokens instead of 32768")), "{said}");
    assert_eq!(context_of(&["--ctx", "100"]).0, 100);
}

#[test]
fn the_configuration_can_let_clients_have_models_fetched() {
    let file = crate::program::folder("serve-pull").join("system.toml");
    // Addresses are never taken from clients, but what is refused first tells whether anything is.
    for (value, said) in [("false", "--allow-pull"), ("true", "Hugging Face and Ollama's registry only")] {
        std::fs::write(&file, format!("[server]\nallow_pull = {value}\n")).unwrap();
        let (child, address) = serving(&["--config", file.to_str().unwrap()]);
        for reference in ["https://example.org/model.gguf", "10.0.0.5:8443/owner/model", "ollama://nas/owner/model"] {
            let request = post_request("/api/pull", &format!("{{\"model\":\"{reference}\"}}"));
            let answer = ask(TcpStream::connect(&address).unwrap(), &request);
            assert!(answer.starts_with("HTTP/1.1 403") && answer.contains(said), "{reference}: {answer}");
        }
        end(&child);
        assert_eq!(wait(child).code, 0);
    }
}
