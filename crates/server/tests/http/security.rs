//! Who may ask.

use std::net::SocketAddr;
use std::path::PathBuf;

use hublabio_runtime::node::NodeConfig;
use hublabio_server::{Listen, ServerConfig, StartError};

use crate::client::{Reply, Service, folder};

const ADA: &str = "ada-key-0123456789abcdef";
const BOB: &str = "bob-key-0123456789abcdef";

fn request(headers: &str) -> String {
    format!("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n")
}

fn with_keys(test: &str, text: &str) -> (Service, PathBuf) {
    let path = folder(test).join("keys");
    std::fs::write(&path, text).unwrap();
    let config = ServerConfig { api_key_file: Some(path.clone()), ..ServerConfig::default() };
    (Service::with(config, NodeConfig::default(), &[]), path)
}

#[test]
fn a_service_with_keys_wants_one() {
    let (service, path) = with_keys("keys", &format!("ada {ADA}\nbob {BOB} requests_per_minute=2\n"));
    let ask = |headers: &str| Reply::parse(&service.raw(request(headers)));
    let refused = ask("");
    assert_eq!(refused.error(401)["code"], "invalid_api_key");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    for wrong in
        ["Bearer nothing", "Basic YTpi", "Bearer", "Bearer ada-key-0123456789abcdeg", "ada-key-0123456789abcdef"]
    {
        ask(&format!("Authorization: {wrong}\r\n")).error(401);
    }
    ask(&format!("Authorization: Bearer {ADA}\r\n")).ok();
    ask(&format!("authorization: bearer {ADA}\r\n")).ok();
    ask(&format!("x-api-key: {ADA}\r\n")).ok();
    // That it is there is no secret.
    service.get("/health").ok();
    service.get("/ready").ok();
    for path in ["/metrics", "/favicon.ico", "/ui/x"] {
        service.get(path).error(401);
    }
    for _ in 0..2 {
        ask(&format!("x-api-key: {BOB}\r\n")).ok();
    }
    let limited = ask(&format!("x-api-key: {BOB}\r\n"));
    assert_eq!(limited.error(429)["code"], "rate_limit_exceeded");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
    // Keys come and go while the service runs; the file is looked at once a second.
    std::fs::write(&path, "eve eve-key-0123456789abcdef\n").unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    ask("x-api-key: eve-key-0123456789abcdef\r\n").ok();
    ask(&format!("x-api-key: {ADA}\r\n")).error(401);
    // A file that became unreadable changes nothing.
    std::fs::write(&path, "broken\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    ask("x-api-key: eve-key-0123456789abcdef\r\n").ok();
}

#[test]
fn only_this_machines_names_are_answered() {
    let config = ServerConfig { allowed_hosts: vec!["hub.lan".into()], ..ServerConfig::default() };
    let service = Service::with(config, NodeConfig::default(), &[]);
    let ask = |host: &str| {
        Reply::parse(&service.raw(format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")))
    };
    for host in ["localhost", "127.0.0.1:9", "[::1]:8", "hub.lan:80", "HUB.LAN"] {
        ask(host).ok();
    }
    for host in ["evil.example", "localhost.evil.example", "hub.lan.evil.example:80"] {
        assert_eq!(ask(host).error(403)["code"], "host_not_allowed", "{host}");
    }
    let absolute =
        service.raw("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    Reply::parse(&absolute).error(403);
}

#[test]
fn pages_of_other_origins_may_not_call_unless_they_are_allowed() {
    let config = ServerConfig { cors_origins: vec!["https://app.example".into()], ..ServerConfig::default() };
    let service = Service::with(config, NodeConfig::default(), &[]);
    let post = |origin: &str| {
        service.post_with("/api/tokenize", &format!("Origin: {origin}\r\n"), b"{\"model\":\"default\",\"text\":\"x\"}")
    };
    for origin in ["https://evil.example", "null", "http://localhost:1"] {
        assert_eq!(post(origin).error(403)["code"], "origin_not_allowed", "{origin}");
    }
    // The page's own service.
    post("http://localhost").ok();
    let allowed = post("https://app.example");
    allowed.ok();
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(post("https://app.example").header("vary"), "Origin");
    let preflight = |origin: &str| {
        let text = format!(
            "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n"
        );
        Reply::parse(&service.raw(text))
    };
    let fine = preflight("https://app.example");
    assert_eq!((fine.status, fine.header("access-control-allow-origin")), (204, "https://app.example"));
    assert_eq!(preflight("https://evil.example").status, 403);
    // Reading is no change, but the page does not see it.
    let read = Reply::parse(&service.raw(request("Origin: https://evil.example\r\n")));
    assert_eq!((read.status, read.header("access-control-allow-origin")), (200, ""));
}

#[test]
fn an_open_address_needs_keys() {
    let node = || {
        hublabio_runtime::node::Node::start(
            std::sync::Arc::new(hublabio_runtime::node::BuiltinCatalog),
            NodeConfig::default(),
        )
        .unwrap()
    };
    let open =
        ServerConfig { listen: vec![Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 0)))], ..ServerConfig::default() };
    let error = hublabio_server::Server::bind(open.clone(), node()).err().unwrap();
    assert!(matches!(error, StartError::OpenToAll { .. }) && error.to_string().contains("--api-key-file"), "{error}");
    let missing = ServerConfig { api_key_file: Some("/nonexistent/keys".into()), ..open };
    let error = hublabio_server::Server::bind(missing, node()).err().unwrap();
    assert!(matches!(error, StartError::Keys { .. }), "{error}");
    let nothing = ServerConfig { listen: Vec::new(), ..ServerConfig::default() };
    assert!(matches!(hublabio_server::Server::bind(nothing, node()).err(), Some(StartError::NothingToListenOn)));
}

#[cfg(unix)]
#[test]
fn a_socket_file_is_for_who_may_write_to_it() {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};
    let folder = folder("socket");
    let path = folder.join("hub.sock");
    let keys = folder.join("keys");
    std::fs::write(&keys, format!("ada {ADA}\n")).unwrap();
    // Left behind by a service that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let config = ServerConfig {
        listen: vec![Listen::Unix { path: path.clone(), mode: 0o600 }],
        api_key_file: Some(keys),
        ..ServerConfig::default()
    };
    let service = Service::with(config.clone(), NodeConfig::default(), &[]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n").unwrap();
    Reply::parse(&crate::client::read_all(&mut stream)).ok();
    let node = || {
        hublabio_runtime::node::Node::start(
            std::sync::Arc::new(hublabio_runtime::node::BuiltinCatalog),
            NodeConfig::default(),
        )
        .unwrap()
    };
    let second = hublabio_server::Server::bind(config.clone(), node()).err().unwrap();
    assert!(matches!(second, StartError::SocketInUse { .. }), "{second}");
    service.stop();
    service.wait();
    assert!(!path.exists());
    std::fs::write(&path, "a file").unwrap();
    let file = hublabio_server::Server::bind(config, node()).err().unwrap();
    assert!(matches!(file, StartError::NotASocket { .. }), "{file}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}
