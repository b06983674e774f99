//! TLS: whose word is taken for a service's certificate, and the handshake.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};

use super::error::{Error, Result};

/// Names a file of authorities in PEM that are trusted in place of the system's.
pub(crate) const CA_FILE_VARIABLE: &str = "HUBLAB_CA_FILE";
/// A file with all public authorities has some 200 KB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The authorities that are trusted; by default the system's, which are read at the first connection.
#[derive(Clone, Default)]
pub(crate) struct Trust(Option<Arc<ClientConfig>>);

impl Trust {
    /// Those of a file in PEM, and no others.
    pub fn of_file(path: &Path) -> Result<Self> {
        let bad = |problem: String| Error::BadAuthorities { path: path.to_owned(), problem };
        let file = File::open(path).map_err(|cause| bad(cause.to_string()))?;
        let mut reader = BufReader::new(file.take(FILE_BYTES_MAX));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_reader_iter(&mut reader) {
            let certificate = certificate.map_err(|cause| bad(cause.to_string()))?;
            roots.add(certificate).map_err(|cause| bad(cause.to_string()))?;
        }
        if roots.is_empty() {
            return Err(bad("it holds no certificate in PEM".into()));
        }
        Ok(Self(Some(client_config(roots))))
    }

    /// Speaks TLS with `host`, if a trusted authority vouches for it.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let config = match &self.0 {
            Some(config) => Arc::clone(config),
            None => of_system().await?,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await.map_err(with_advice)
    }
}

/// Trusts the authorities of this system, which are read once.
async fn of_system() -> io::Result<Arc<ClientConfig>> {
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = SYSTEM.get() {
        return Ok(Arc::clone(config));
    }
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await.map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    // Old stores hold certificates that nobody can read any more.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = format!("this system names no authorities to trust: name a file of them with {CA_FILE_VARIABLE}");
        return Err(io::Error::other(problem));
    }
    Ok(Arc::clone(SYSTEM.get_or_init(|| client_config(roots))))
}

fn client_config(roots: RootCertStore) -> Arc<ClientConfig> {
    // Named, as a program may have several providers, and then none by default.
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// What to do about a handshake that failed.
fn with_advice(error: io::Error) -> io::Error {
    let advice = match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            format!("; if it is your own authority's, name that one's certificate with {CA_FILE_VARIABLE}")
        }
        Some(rustls::Error::InvalidMessage(_)) => "; does the service speak TLS there?".to_owned(),
        _ => return error,
    };
    io::Error::other(format!("{error}{advice}"))
}
