//! The blocking client: it drives the asynchronous one on a thread of its own, so that it also works where the calling thread
//! belongs to somebody's runtime.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::asynchronous::{self, Canceller};
use super::error::{Error, Result};
use super::message::Message;
use super::options::GenerateOptions;
use super::response::{Piece, Response};
use crate::wire::openai::Model;
use crate::wire::own::{Health, ProcessList};

/// The thread of a client and its clones. It ends when the last of them is dropped.
struct Driver {
    runtime: Handle,
    /// Dropped with the driver; that is what the thread waits for.
    _end: oneshot::Sender<()>,
}

impl Driver {
    fn start() -> Result<Arc<Self>> {
        let failed = |error: std::io::Error| Error::Thread(format!("no thread for it: {error}"));
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
        let (end, ended) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("hublab-client".into());
        let run = move || {
            // An error is what says that the sender is gone.
            let _ = runtime.block_on(ended);
            // A look-up of a name that hangs must not hold the program up.
            runtime.shutdown_background();
        };
        thread.spawn(run).map_err(failed)?;
        Ok(Arc::new(Self { runtime: handle, _end: end }))
    }

    /// Waits for a future. The calling thread may belong to another runtime, which then waits, too.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (reply, answer) = mpsc::channel();
        self.runtime.spawn(async move {
            // Nobody listens only if the caller's thread is gone.
            let _ = reply.send(future.await);
        });
        answer.recv().unwrap_or_else(|_| Err(Error::Thread("its thread has stopped".into())))
    }
}

/// A client of the service, or of an engine in this process. Calls wait for their answers; they may come from inside of an
/// asynchronous runtime, where [`asynchronous::AiClient`] would be the better choice. Cheap to clone; clones share nothing that
/// one could change for the others.
#[derive(Clone)]
pub struct AiClient {
    driver: Arc<Driver>,
    inner: asynchronous::AiClient,
}

impl AiClient {
    /// Connects to where `HUBLAB_HOST` says; without it to the socket of a service that the user started
    /// (`$XDG_RUNTIME_DIR/hublab.sock`), to that of one that the system started (`/run/hublab.sock`), or to
    /// `http://127.0.0.1:11434`, whichever answers first. The key is in `HUBLAB_API_KEY`, where one is needed;
    /// `HUBLAB_CA_FILE` is for a service at `https://` what `with_ca_file` is.
    ///
    /// # Errors
    /// [`Error::CannotConnect`] says what was tried, and what to do.
    pub fn connect() -> Result<Self> {
        let driver = Driver::start()?;
        let inner = driver.wait(asynchronous::AiClient::connect())?;
        Ok(Self { driver, inner })
    }

    /// A client of the service at `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`. Does not connect yet, and takes no key from the
    /// environment.
    ///
    /// # Errors
    /// [`Error::BadAddress`].
    pub fn at(address: &str) -> Result<Self> {
        Self::of(asynchronous::AiClient::at(address)?)
    }

    /// A client of an engine in this process, with the settings that it has by default: no service, no sockets. Models are files,
    /// by their paths, and the built-in one.
    ///
    /// ```
    /// use hublabio_sdk::ai::AiClient;
    /// let client = AiClient::embedded()?;
    /// assert_eq!(client.generate("What does tar do?")?, "An archiving utility.");
    /// # Ok::<(), hublabio_sdk::ai::Error>(())
    /// ```
    ///
    /// # Errors
    /// When its thread cannot be started.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self> {
        Self::of(asynchronous::AiClient::embedded()?)
    }

    /// A client of this node. Its models are those of the node's catalogue.
    ///
    /// # Errors
    /// When the client's thread cannot be started.
    #[cfg(feature = "embedded")]
    pub fn embedded_on(node: hublabio_runtime::node::Node) -> Result<Self> {
        Self::of(asynchronous::AiClient::embedded_on(node))
    }

    fn of(inner: asynchronous::AiClient) -> Result<Self> {
        Ok(Self { driver: Driver::start()?, inner })
    }

    /// The same with a key, where the service asks for one.
    #[must_use]
    pub fn with_api_key(self, key: impl Into<String>) -> Self {
        Self { inner: self.inner.with_api_key(key), ..self }
    }

    /// The same, which trusts the authorities in this file of certificates (PEM) in place of the system's, where the service is at
    /// `https://`.
    ///
    /// # Errors
    /// [`Error::BadAuthorities`].
    #[cfg(feature = "tls")]
    pub fn with_ca_file(self, path: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(Self { inner: self.inner.with_ca_file(path)?, ..self })
    }

    /// The same with another limit on silence: how long nothing may come from the service, 10 minutes at first. An answer that
    /// is not streamed is silent until it is complete.
    #[must_use]
    pub fn with_timeout(self, silence_max: Duration) -> Self {
        Self { inner: self.inner.with_timeout(silence_max), ..self }
    }

    /// The same with another limit on connecting, 5 seconds at first.
    #[must_use]
    pub fn with_connect_timeout(self, connect_max: Duration) -> Self {
        Self { inner: self.inner.with_connect_timeout(connect_max), ..self }
    }

    /// The same with another model, without loading it.
    #[must_use]
    pub fn with_model(self, name: impl Into<String>) -> Self {
        Self { inner: self.inner.with_model(name), ..self }
    }

    /// The model that is asked where [`GenerateOptions::model`] names no other; `None` for the service's default.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.inner.model()
    }

    /// Where the service is; `None` for an engine in this process.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.inner.address()
    }

    /// Brings a model into memory, and asks it from now on. A service takes the names of its store, and of a path the name of the
    /// file: `/models/NAME.gguf` is `NAME`.
    ///
    /// # Errors
    /// When there is no such model, or no memory for it.
    pub fn load_model(&mut self, path_or_name: &str) -> Result<()> {
        self.load_model_for(path_or_name, None)
    }

    /// As [`load_model`](Self::load_model), and says how long the model stays in memory after its last answer, in whole seconds,
    /// rounded up.
    ///
    /// # Errors
    /// As [`load_model`](Self::load_model).
    pub fn load_model_for(&mut self, path_or_name: &str, keep_alive: Option<Duration>) -> Result<()> {
        let (mut inner, name) = (self.inner.clone(), path_or_name.to_owned());
        let loading = async move { inner.load_model_for(&name, keep_alive).await.map(|()| inner) };
        self.inner = self.driver.wait(loading)?;
        Ok(())
    }

    /// Frees a model, when its running answers have ended. Whether it was in memory.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn unload_model(&self, name: &str) -> Result<bool> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        self.driver.wait(async move { inner.unload_model(&name).await })
    }

    /// Answers a message.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn generate(&self, prompt: &str) -> Result<Response> {
        self.generate_with(prompt, &GenerateOptions::default())
    }

    /// Answers a message.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn generate_with(&self, prompt: &str, options: &GenerateOptions) -> Result<Response> {
        self.chat(&[Message::user(prompt)], options)
    }

    /// Answers a message, in pieces.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn stream(&self, prompt: &str, options: &GenerateOptions) -> Result<Stream> {
        self.chat_stream(&[Message::user(prompt)], options)
    }

    /// Goes on with a conversation.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn chat(&self, messages: &[Message], options: &GenerateOptions) -> Result<Response> {
        let (inner, request) = (self.inner.clone(), self.inner.request(messages, options, false));
        self.driver.wait(async move { inner.send(request).await })
    }

    /// Goes on with a conversation, in pieces.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn chat_stream(&self, messages: &[Message], options: &GenerateOptions) -> Result<Stream> {
        let (inner, request) = (self.inner.clone(), self.inner.request(messages, options, true));
        let stream = self.driver.wait(async move { inner.send_streamed(request).await })?;
        let canceller = stream.canceller();
        Ok(Stream { driver: Arc::clone(&self.driver), inner: Some(stream), canceller })
    }

    /// Vectors of texts, each of length 1, in the order of the texts.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        let inner = self.inner.clone();
        let texts = texts.iter().map(|text| text.as_ref().to_owned()).collect();
        self.driver.wait(async move { inner.embed_texts(texts).await })
    }

    /// The tokens of a text, without any that the model wants around it; control tokens in it stay text.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let (inner, text) = (self.inner.clone(), text.to_owned());
        self.driver.wait(async move { inner.tokenize(&text).await })
    }

    /// The text of tokens, with � for what is no whole character.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String> {
        let (inner, ids) = (self.inner.clone(), ids.to_vec());
        self.driver.wait(async move { inner.detokenize(&ids).await })
    }

    /// All models and swarms that can be asked.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn models(&self) -> Result<Vec<Model>> {
        let inner = self.inner.clone();
        self.driver.wait(async move { inner.models().await })
    }

    /// Describes a model or a swarm, by any name that requests may give it: an alias, one of Ollama's without its tag.
    ///
    /// # Errors
    /// When there is none of that name, or the service cannot be reached.
    pub fn describe_model(&self, name: &str) -> Result<Model> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        self.driver.wait(async move { inner.describe_model(&name).await })
    }

    /// The models in memory, and what the service is at.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub fn ps(&self) -> Result<ProcessList> {
        let inner = self.inner.clone();
        self.driver.wait(async move { inner.ps().await })
    }

    /// Whether the service runs, and which version.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn health(&self) -> Result<Health> {
        let inner = self.inner.clone();
        self.driver.wait(async move { inner.health().await })
    }
}

impl fmt::Debug for AiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A streamed answer: an iterator over its pieces.
///
/// Dropping it closes the connection, and the service stops working on the answer within a step.
pub struct Stream {
    driver: Arc<Driver>,
    /// Away while a piece is waited for, and for good if the driver has failed.
    inner: Option<asynchronous::Stream>,
    canceller: Canceller,
}

impl Stream {
    /// Reads what is left, and gives the whole answer.
    ///
    /// # Errors
    /// As its pieces.
    pub fn finish(mut self) -> Result<Response> {
        for piece in &mut self {
            piece?;
        }
        Ok(self.response())
    }

    /// The answer as far as it has come. Tool calls are in it when the answer has ended.
    #[must_use]
    pub fn response(&self) -> Response {
        self.inner.as_ref().map(asynchronous::Stream::response).unwrap_or_default()
    }

    /// What gives the answer up from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl Iterator for Stream {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut stream = self.inner.take()?;
        let next = async move {
            let piece = stream.next().await;
            Ok((stream, piece))
        };
        match self.driver.wait(next) {
            Ok((stream, piece)) => {
                self.inner = Some(stream);
                piece
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
