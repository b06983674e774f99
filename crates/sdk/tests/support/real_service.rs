// The service itself, with a store that holds `qwen2-0.5b-q4` (the built-in model under that name): what the design's example
// talks with. Included by the doctest of `hublabio_sdk::ai`.

struct RealService {
    address: String,
    folder: std::path::PathBuf,
    stopper: hublabio_server::Stopper,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RealService {
    fn start() -> Self {
        use hublabio_runtime::node::{Node, NodeConfig};
        use hublabio_runtime::store::{ModelStore, StoreConfig};
        use hublabio_server::{Listen, Server, ServerConfig};
        let folder = std::env::temp_dir().join(format!("hublab-sdk-example-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("qwen2-0.5b-q4.gguf"), hublabio_runtime::ai::DEFAULT_MODEL).unwrap();
        let store = ModelStore::open(StoreConfig { folder: Some(folder.clone()), ..StoreConfig::default() });
        let node = Node::start(std::sync::Arc::new(store), NodeConfig::default()).unwrap();
        let listen = vec![Listen::Tcp(([127, 0, 0, 1], 0).into())];
        let server = Server::bind(ServerConfig { listen, ..ServerConfig::default() }, node).unwrap();
        let address = format!("http://{}", server.addresses()[0]);
        let stopper = server.stopper();
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self { address, folder, stopper, thread: Some(thread) }
    }
}

impl Drop for RealService {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}
