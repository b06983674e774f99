//! The service itself with the built-in model, on a port of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use hublabio_runtime::node::{BuiltinCatalog, Node, NodeConfig};
use hublabio_sdk::ai::AiClient;
use hublabio_server::{Listen, Server, ServerConfig, Stopper, TlsFiles};

/// A running service; it ends when this is dropped.
pub struct Service {
    pub port: u16,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

#[allow(dead_code, reason = "not every test needs all of it")]
impl Service {
    /// One without a certificate.
    pub fn start() -> Self {
        Self::serve(None)
    }

    /// One with the certificate of the fixtures.
    pub fn start_with_certificate() -> Self {
        Self::serve(Some(TlsFiles { certificate: fixture("service.pem"), key: fixture("service.key") }))
    }

    fn serve(tls: Option<TlsFiles>) -> Self {
        let listen = vec![Listen::Tcp(([127, 0, 0, 1], 0).into())];
        let server = Server::bind(ServerConfig { listen, tls, ..ServerConfig::default() }, builtin_node()).unwrap();
        let port = server.addresses()[0].port();
        let stopper = server.stopper();
        Self { port, stopper, thread: Some(std::thread::spawn(move || server.run().unwrap())) }
    }

    pub fn client(&self, scheme: &str, host: &str) -> AiClient {
        AiClient::at(&format!("{scheme}://{host}:{}", self.port)).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A node with the built-in model.
pub fn builtin_node() -> Node {
    Node::start(Arc::new(BuiltinCatalog), NodeConfig::default()).unwrap()
}

#[allow(dead_code, reason = "not every test needs all of it")]
pub fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures", name].iter().collect()
}
