//! HTTPS: a client that trusts the certificate is answered; what is no certificate, or not its key, is refused with its name.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::program::{PATIENCE, command, file, hublab, wait};
use crate::serve::{ask, end, get_request, started};

/// A file of the certificate, which `make.sh` there makes.
fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name);
    path.into_os_string().into_string().unwrap()
}

fn serving() -> (Child, String) {
    let (certificate, key) = (fixture("cert.pem"), fixture("key.pem"));
    started(&mut command(&["serve", "--port", "0", "--tls-cert", &certificate, "--tls-key", &key]), "https")
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection for which only our certificate counts.
fn encrypted(address: &str, version: &'static SupportedProtocolVersion) -> StreamOwned<ClientConnection, TcpStream> {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_file(fixture("cert.pem")).unwrap()).unwrap();
    let versions = ClientConfig::builder_with_protocol_versions(&[version]);
    let config = versions.with_root_certificates(trusted).with_no_client_auth();
    let name = ServerName::from(address.parse::<SocketAddr>().unwrap().ip());
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(address))
}

#[test]
fn a_client_that_trusts_the_certificate_is_answered() {
    let (child, address) = serving();
    for (version, name) in [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)] {
        let mut stream = encrypted(&address, version);
        assert!(ask(&mut stream, &get_request("/health")).starts_with("HTTP/1.1 200"));
        assert_eq!(stream.conn.protocol_version(), Some(name));
    }
    // Who speaks no TLS learns nothing, and the next one is served all the same.
    let mut plain = connect(&address);
    plain.write_all(get_request("/health").as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    assert!(ask(encrypted(&address, &TLS13), &get_request("/ready")).starts_with("HTTP/1.1 "));
    end(&child);
    let outcome = wait(child);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn what_is_no_certificate_or_not_its_key_is_refused_with_its_name() {
    let (certificate, key, other) = (fixture("cert.pem"), fixture("key.pem"), fixture("other_key.pem"));
    let text = file("tls", "text.pem", b"no PEM");
    for (certificate, key, named, said) in [
        (&certificate, &other, "other_key.pem", "does not belong to the certificate"),
        (&certificate, &certificate, "cert.pem", "private key"),
        (&certificate, &text, "text.pem", "private key"),
        (&key, &key, "key.pem", "certificate"),
        (&text, &key, "text.pem", "certificate"),
        (&certificate, &"no/such.pem".to_owned(), "no/such.pem", "cannot be read"),
        (&"no/such.pem".to_owned(), &key, "no/such.pem", "cannot be read"),
    ] {
        let outcome = hublab(&["serve", "--port", "0", "--tls-cert", certificate, "--tls-key", key]);
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(named) && outcome.stderr.contains(said), "{named}: {}", outcome.stderr);
    }
}
