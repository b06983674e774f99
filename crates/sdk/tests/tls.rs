//! The client over TLS, with the real service and the built-in model.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use hublabio_sdk::ai::{AiClient, Error, GenerateOptions, asynchronous};

#[path = "support/builtin_service.rs"]
mod builtin_service;

use builtin_service::{Service, fixture};

const QUESTION: &str = "What does tar do?";
const ANSWER: &str = "An archiving utility.";

#[track_caller]
fn check_refused(client: &AiClient, words: &[&str]) {
    let error = client.health().expect_err("must be refused").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn a_service_is_spoken_with_by_tls() {
    let service = Service::start_with_certificate();
    for host in ["127.0.0.1", "localhost"] {
        let client = service.client("https", host).with_ca_file(fixture("authority.pem")).unwrap();
        assert_eq!(client.health().unwrap().status, "ok");
        assert_eq!(client.generate(QUESTION).unwrap(), ANSWER);
        let mut stream = client.stream(QUESTION, &GenerateOptions::default()).unwrap();
        assert!(stream.next().unwrap().is_ok());
        assert_eq!(stream.finish().unwrap(), ANSWER);
        // One that is given up, and the next.
        drop(client.stream(QUESTION, &GenerateOptions::default()).unwrap());
        assert_eq!(client.generate(QUESTION).unwrap(), ANSWER);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = format!("https://localhost:{}", service.port);
    runtime.block_on(async {
        let client = asynchronous::AiClient::at(&address).unwrap().with_ca_file(fixture("authority.pem")).unwrap();
        assert_eq!(client.generate(QUESTION).await.unwrap(), ANSWER);
    });
}

#[test]
fn who_nobody_vouches_for_is_not_spoken_with() {
    let service = Service::start_with_certificate();
    // Nothing is sent to it, and a key least of all.
    check_refused(&service.client("https", "127.0.0.1"), &["UnknownIssuer", "HUBLAB_CA_FILE"]);
    let stranger = service.client("https", "localhost").with_ca_file(fixture("stranger.pem")).unwrap();
    check_refused(&stranger.with_api_key("secret"), &["UnknownIssuer"]);
    // The authority is trusted, and vouches for other names.
    let client = AiClient::at(&format!("https://127.0.0.2:{}", service.port)).unwrap();
    let client = client.with_ca_file(fixture("authority.pem")).unwrap();
    assert!(matches!(client.health(), Err(Error::CannotConnect { .. })));
}

#[test]
fn plain_and_tls_do_not_meet() {
    let service = Service::start_with_certificate();
    assert!(service.client("http", "127.0.0.1").health().is_err());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let plain = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    check_refused(&AiClient::at(&address).unwrap().with_ca_file(fixture("authority.pem")).unwrap(), &["speak TLS"]);
    plain.join().unwrap();
}

#[test]
fn files_that_hold_no_authority_are_refused_by_name() {
    let client = || AiClient::at("https://localhost").unwrap();
    for (path, word) in [
        (fixture("none.pem"), "none.pem"),
        (fixture("service.key"), "holds no certificate"),
        (fixture("make_certificates.sh"), "holds no certificate"),
        (fixture(""), "cannot trust"),
    ] {
        let error = client().with_ca_file(&path).unwrap_err();
        assert!(matches!(error, Error::BadAuthorities { .. }) && error.to_string().contains(word), "{error}");
    }
    let broken = std::env::temp_dir().join(format!("hublab-sdk-broken-{}.pem", std::process::id()));
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let error = client().with_ca_file(&broken).unwrap_err();
    std::fs::remove_file(&broken).unwrap();
    assert!(matches!(error, Error::BadAuthorities { .. }), "{error}");
}
