//! HTTPS: a certificate and its key from files.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig as RustlsConfig;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{StartError, TlsFiles};

/// What turns a TCP connection into an encrypted one.
pub type Acceptor = TlsAcceptor;

/// Reads the files.
///
/// # Errors
/// When one cannot be read, or they do not belong together.
pub fn acceptor(files: &TlsFiles) -> Result<Acceptor, StartError> {
    let bad = |path: &Path, problem: String| StartError::Tls { path: path.to_owned(), problem };
    let unread = |path: &Path, what: &str, error: pem::Error| match error {
        pem::Error::Io(cause) => bad(path, format!("cannot be read: {cause}")),
        error => bad(path, format!("is no {what} in PEM: {error}")),
    };
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unread(&files.certificate, "certificate", error))?;
    if certificates.is_empty() {
        return Err(bad(&files.certificate, "holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unread(&files.key, "private key", error))?;
    let config = RustlsConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| bad(&files.key, format!("does not belong to the certificate: {error}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
