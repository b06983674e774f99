//! What `hublab serve` shares with the system: sockets that systemd opened, socket files, and when it says that it is ready. And
//! what becomes of answers when it is asked to end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::program::{PATIENCE, command, command_by, file, hublab, wait};
use crate::serve::{ask, end, get, get_request, post_request, serving, started};
use crate::tiny::Tiny;

/// Where a socket can be: paths of sockets are short.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("hublab-cli-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn ended(child: Child) {
    end(&child);
    let outcome = wait(child);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

/// Starts the program as systemd does: the standard input becomes the first socket, and the shell becomes the program, so that
/// `$$` is its id.
fn handed_over(pid: &str) -> String {
    format!("export LISTEN_FDS=1 LISTEN_PID={pid}; exec \"$@\" 3<&0 0</dev/null")
}

#[test]
fn sockets_of_systemd_are_served_and_no_others() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = command_by(&handed_over("$$"), &["serve", "--port", "0"]);
    let (child, listened) = started(command.stdin(OwnedFd::from(listener)), "http");
    assert_eq!(listened, address);
    assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
    ended(child);

    let path = socket_path("handed");
    let listener = UnixListener::bind(&path).unwrap();
    // It waits in the queue until the service is there.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let child = command_by(&handed_over("$$"), &["serve"]).stdin(OwnedFd::from(listener)).spawn().unwrap();
    assert!(ask(&mut stream, &get_request("/health")).starts_with("HTTP/1.1 200"));
    ended(child);
    assert!(path.exists(), "the file is systemd's");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn sockets_for_another_program_are_not_ours() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = command_by(&handed_over("1"), &["serve", "--port", "0"]);
    let (child, listened) = started(command.stdin(OwnedFd::from(listener)), "http");
    assert_ne!(listened, address);
    assert!(get(&listened, "/health").starts_with("HTTP/1.1 200"));
    ended(child);
}

#[test]
fn what_is_handed_over_and_is_no_socket_is_refused() {
    for (script, said) in [
        (handed_over("$$"), "socket 0 of systemd"),
        ("export LISTEN_FDS=none LISTEN_PID=$$; exec \"$@\"".to_owned(), "no socket"),
    ] {
        let outcome = wait(command_by(&script, &["serve"]).spawn().unwrap());
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    }
}

#[test]
fn systemd_hears_when_it_is_ready_and_when_it_ends() {
    let path = socket_path("notify");
    let mut sockets = vec![(path.display().to_string(), UnixDatagram::bind(&path).unwrap())];
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("hublab-cli-{}-notify", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        sockets.push((format!("@{name}"), UnixDatagram::bind_addr(&address).unwrap()));
    }
    for (name, socket) in sockets {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let hear = || {
            let mut bytes = [0; 100];
            let n = socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..n]).into_owned()
        };
        let (child, address) = started(command(&["serve", "--port", "0"]).env("NOTIFY_SOCKET", name), "http");
        assert_eq!(hear(), "READY=1");
        assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
        end(&child);
        assert_eq!(hear(), "STOPPING=1");
        let outcome = wait(child);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_socket_file_comes_and_goes_with_the_service() {
    let path = socket_path("file");
    let name = path.to_str().unwrap();
    // Left behind by a service that was killed.
    drop(UnixListener::bind(&path).unwrap());
    for (flags, mode) in [(&[][..], 0o600), (&["--socket-group"], 0o660)] {
        let (child, _) = serving(&[&["--socket", name], flags].concat());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        assert!(ask(UnixStream::connect(&path).unwrap(), &get_request("/health")).starts_with("HTTP/1.1 200"));
        let second = hublab(&["serve", "--port", "0", "--socket", name]);
        assert_eq!(second.code, 1);
        assert!(second.stderr.contains("a service that runs"), "{}", second.stderr);
        assert!(UnixStream::connect(&path).is_ok(), "the second took the first one's socket away");
        ended(child);
        assert!(!path.exists());
    }
    let file = file("sockets", "no_socket", b"a file");
    let outcome = hublab(&["serve", "--port", "0", "--socket", &file]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("is no socket"), "{}", outcome.stderr);
    assert_eq!(std::fs::read(file).unwrap(), b"a file");
}

/// An answer that is being written, of so many tokens.
fn answering(address: &str, max_tokens: usize) -> TcpStream {
    let body = format!("{{\"prompt\":\"abc\",\"stream\":true,\"max_tokens\":{max_tokens}}}");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(post_request("/v1/completions", &body).as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"data: {") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
}

#[test]
fn an_answer_is_written_to_its_end_before_the_service_ends() {
    let model = Tiny::new().save("drain");
    let (child, address) = serving(&[&model, "--drain", "600"]);
    let mut stream = answering(&address, 500);
    end(&child);
    let start = Instant::now();
    while TcpStream::connect(&address).is_ok() {
        assert!(start.elapsed() < PATIENCE, "it takes connections after it was asked to end");
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"), "{rest}");
    let outcome = wait(child);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn no_answer_keeps_the_service_for_longer_than_it_may() {
    let model = Tiny::new().save("drain_cut");
    for drain in ["0", "600"] {
        let (mut child, address) = serving(&[&model, "--ctx", "1000000", "--drain", drain]);
        let mut stream = answering(&address, 999_000);
        end(&child);
        // A second signal does not wait; two at once are one.
        let start = Instant::now();
        while drain != "0" && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "a second signal does not end it");
            std::thread::sleep(Duration::from_millis(20));
            end(&child);
        }
        let mut rest = Vec::new();
        // The connection ends in the middle of the answer, or breaks.
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
        let outcome = wait(child);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
}
