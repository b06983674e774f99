//! The client itself.

use std::fmt;
#[cfg(feature = "tls")]
use std::path::Path;
use std::time::Duration;

use super::stream::Stream;
use crate::ai::address::Address;
use crate::ai::backend::Backend;
use crate::ai::error::{Attempt, Error, Result};
use crate::ai::http::Http;
use crate::ai::message::Message;
use crate::ai::options::GenerateOptions;
use crate::ai::response::Response;
#[cfg(feature = "tls")]
use crate::ai::tls::{CA_FILE_VARIABLE, Trust};
use crate::wire::openai::{
    ChatCompletionRequest, EmbeddingInput, EmbeddingList, EmbeddingRequest, EmbeddingVector, EncodingFormat, Model,
};
use crate::wire::own::{
    DetokenizeRequest, Health, KeepAlive, LoadRequest, ProcessList, TokenizeRequest, UnloadRequest,
};

/// How long a service may take to say that it is well.
const HEALTH_MAX: Duration = Duration::from_secs(5);

/// A client of the service, or of an engine in this process. Cheap to clone; clones share nothing that one could change for the
/// others.
#[derive(Clone)]
pub struct AiClient {
    backend: Backend,
    /// Empty for the service's default.
    model: String,
}

impl AiClient {
    /// Connects to where `HUBLAB_HOST` says; without it to the socket of a service that the user started
    /// (`$XDG_RUNTIME_DIR/hublab.sock`), to that of one that the system started (`/run/hublab.sock`), or to
    /// `http://127.0.0.1:11434`, whichever answers first. The key is in `HUBLAB_API_KEY`, where one is needed;
    /// `HUBLAB_CA_FILE` is for a service at `https://` what `with_ca_file` is.
    ///
    /// # Errors
    /// [`Error::CannotConnect`] says what was tried, and what to do.
    pub async fn connect() -> Result<Self> {
        let env = |name: &str| std::env::var(name).ok();
        let key = env("HUBLAB_API_KEY").filter(|key| !key.is_empty());
        let addresses = Address::candidates(env)?;
        let client = |address| Http { key: key.clone(), ..Http::new(address) };
        #[cfg(feature = "tls")]
        let trust = match env(CA_FILE_VARIABLE).filter(|file| !file.is_empty()) {
            Some(file) if addresses.iter().any(Address::is_tls) => Trust::of_file(file.as_ref())?,
            _ => Trust::default(),
        };
        #[cfg(feature = "tls")]
        let client = |address| Http { trust: trust.clone(), ..client(address) };
        Self::connect_to(addresses.into_iter().map(client), HEALTH_MAX).await
    }

    /// Takes the first that answers within `health_max`: one that is silent must not keep the others from being tried.
    async fn connect_to(services: impl IntoIterator<Item = Http>, health_max: Duration) -> Result<Self> {
        let mut tried = Vec::new();
        for http in services {
            let text = http.address.to_string();
            let client = Self::new(Backend::Service(http));
            let problem = match client.clone().with_timeout(health_max).health().await {
                Ok(health) if health.status == "ok" => return Ok(client),
                Ok(health) => format!("its health is `{}`", health.status),
                Err(Error::TimedOut { after, .. }) => format!("silent for {} s", after.as_secs_f64()),
                Err(Error::CannotConnect { tried }) => {
                    tried.into_iter().map(|attempt| attempt.problem).collect::<Vec<_>>().join(", ")
                }
                // What stands there is a service, and not a well one or none of ours.
                Err(error) => error.to_string(),
            };
            tried.push(Attempt { address: text, problem });
        }
        Err(Error::CannotConnect { tried })
    }

    /// A client of the service at `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`. Does not connect yet, and takes no key from the
    /// environment.
    ///
    /// # Errors
    /// [`Error::BadAddress`].
    pub fn at(address: &str) -> Result<Self> {
        Ok(Self::new(Backend::Service(Http::new(Address::parse(address)?))))
    }

    /// A client of an engine in this process, with the settings that it has by default: no service, no sockets. Models are files,
    /// by their paths, and the built-in one.
    ///
    /// # Errors
    /// When its thread cannot be started.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self> {
        crate::ai::embedded::Embedded::start().map(Self::of_engine)
    }

    /// A client of this node. Its models are those of the node's catalogue.
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded_on(node: hublabio_runtime::node::Node) -> Self {
        Self::of_engine(crate::ai::embedded::Embedded::on(node))
    }

    #[cfg(feature = "embedded")]
    fn of_engine(engine: crate::ai::embedded::Embedded) -> Self {
        Self::new(Backend::Embedded(engine.into()))
    }

    fn new(backend: Backend) -> Self {
        Self { backend, model: String::new() }
    }

    /// The same with a key, where the service asks for one.
    #[must_use]
    pub fn with_api_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.with_http(|http| http.key = Some(key))
    }

    /// The same, which trusts the authorities in this file of certificates (PEM) in place of the system's, where the service is at
    /// `https://`.
    ///
    /// # Errors
    /// [`Error::BadAuthorities`].
    #[cfg(feature = "tls")]
    pub fn with_ca_file(self, path: impl AsRef<Path>) -> Result<Self> {
        let trust = Trust::of_file(path.as_ref())?;
        Ok(self.with_http(|http| http.trust = trust))
    }

    /// The same with another limit on silence: how long nothing may come from the service, 10 minutes at first. An answer that
    /// is not streamed is silent until it is complete.
    #[must_use]
    pub fn with_timeout(self, silence_max: Duration) -> Self {
        self.with_http(|http| http.silence_max = silence_max)
    }

    /// The same with another limit on connecting, 5 seconds at first.
    #[must_use]
    pub fn with_connect_timeout(self, connect_max: Duration) -> Self {
        self.with_http(|http| http.connect_max = connect_max)
    }

    /// The same with another model, without loading it.
    #[must_use]
    pub fn with_model(self, name: impl Into<String>) -> Self {
        Self { model: name.into(), ..self }
    }

    /// An engine in this process has no connection to set.
    #[cfg_attr(not(feature = "embedded"), allow(irrefutable_let_patterns, reason = "a service is all there is"))]
    fn with_http(mut self, set: impl FnOnce(&mut Http)) -> Self {
        if let Backend::Service(http) = &mut self.backend {
            set(http);
        }
        self
    }

    /// The model that is asked where [`GenerateOptions::model`] names no other; `None` for the service's default.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        Some(self.model.as_str()).filter(|model| !model.is_empty())
    }

    /// A conversation as a request.
    pub(crate) fn request(
        &self,
        messages: &[Message],
        options: &GenerateOptions,
        stream: bool,
    ) -> ChatCompletionRequest {
        options.request(&self.model, messages, stream)
    }

    /// Where the service is; `None` for an engine in this process.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        match &self.backend {
            Backend::Service(http) => Some(http.address.to_string()),
            #[cfg(feature = "embedded")]
            Backend::Embedded(_) => None,
        }
    }

    /// Brings a model into memory, and asks it from now on. A service takes the names of its store, and of a path the name of the
    /// file: `/models/NAME.gguf` is `NAME`.
    ///
    /// # Errors
    /// When there is no such model, or no memory for it.
    pub async fn load_model(&mut self, path_or_name: &str) -> Result<()> {
        self.load_model_for(path_or_name, None).await
    }

    /// As [`load_model`](Self::load_model), and says how long the model stays in memory after its last answer, in whole seconds,
    /// rounded up.
    ///
    /// # Errors
    /// As [`load_model`](Self::load_model).
    pub async fn load_model_for(&mut self, path_or_name: &str, keep_alive: Option<Duration>) -> Result<()> {
        // Up to a whole second: half a one is no wish to free the model now.
        let seconds = |after: Duration| after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0));
        let keep_alive = keep_alive.map(|after| KeepAlive::Seconds(i64::try_from(seconds(after)).unwrap_or(-1)));
        self.model = self.backend.load(LoadRequest { model: path_or_name.into(), keep_alive }).await?.model;
        Ok(())
    }

    /// Frees a model, when its running answers have ended. Whether it was in memory.
    ///
    /// # Errors
    /// When there is no such model.
    pub async fn unload_model(&self, name: &str) -> Result<bool> {
        Ok(self.backend.unload(UnloadRequest { model: name.into() }).await?.was_loaded)
    }

    /// Answers a message.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn generate(&self, prompt: &str) -> Result<Response> {
        self.generate_with(prompt, &GenerateOptions::default()).await
    }

    /// Answers a message.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn generate_with(&self, prompt: &str, options: &GenerateOptions) -> Result<Response> {
        self.chat(&[Message::user(prompt)], options).await
    }

    /// Answers a message, in pieces.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn stream(&self, prompt: &str, options: &GenerateOptions) -> Result<Stream> {
        self.chat_stream(&[Message::user(prompt)], options).await
    }

    /// Goes on with a conversation.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn chat(&self, messages: &[Message], options: &GenerateOptions) -> Result<Response> {
        self.send(self.request(messages, options, false)).await
    }

    /// Goes on with a conversation, in pieces.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn chat_stream(&self, messages: &[Message], options: &GenerateOptions) -> Result<Stream> {
        self.send_streamed(self.request(messages, options, true)).await
    }

    pub(crate) async fn send(&self, request: ChatCompletionRequest) -> Result<Response> {
        match &self.backend {
            Backend::Service(http) => Response::of_wire(http.post("/v1/chat/completions", &request).await?),
            #[cfg(feature = "embedded")]
            Backend::Embedded(_) => self.send_streamed(request).await?.finish().await,
        }
    }

    pub(crate) async fn send_streamed(&self, request: ChatCompletionRequest) -> Result<Stream> {
        Ok(Stream::new(self.backend.chat_stream(request).await?))
    }

    /// Vectors of texts, each of length 1, in the order of the texts.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        self.embed_texts(texts.iter().map(|text| text.as_ref().to_owned()).collect()).await
    }

    pub(crate) async fn embed_texts(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let asked = texts.len();
        if asked == 0 {
            return Ok(Vec::new());
        }
        let (input, encoding_format) = (EmbeddingInput::Texts(texts), Some(EncodingFormat::Float));
        let request = EmbeddingRequest { model: self.model.clone(), input, encoding_format, dimensions: None };
        vectors(self.backend.embed(request).await?, asked)
    }

    /// The tokens of a text, without any that the model wants around it; control tokens in it stay text.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let (model, text) = (self.model.clone(), text.to_owned());
        let request = TokenizeRequest { model, text, add_special: Some(false), parse_special: Some(false) };
        Ok(self.backend.tokenize(request).await?.ids)
    }

    /// The text of tokens, with � for what is no whole character.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn detokenize(&self, ids: &[u32]) -> Result<String> {
        let request = DetokenizeRequest { model: self.model.clone(), ids: ids.to_vec() };
        Ok(self.backend.detokenize(request).await?.text)
    }

    /// All models and swarms that can be asked.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn models(&self) -> Result<Vec<Model>> {
        Ok(self.backend.models().await?.data)
    }

    /// Describes a model or a swarm, by any name that requests may give it: an alias, one of Ollama's without its tag.
    ///
    /// # Errors
    /// When there is none of that name, or the service cannot be reached.
    pub async fn describe_model(&self, name: &str) -> Result<Model> {
        self.backend.describe_model(name).await
    }

    /// The models in memory, and what the service is at.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn ps(&self) -> Result<ProcessList> {
        self.backend.ps().await
    }

    /// Whether the service runs, and which version.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn health(&self) -> Result<Health> {
        self.backend.health().await
    }
}

impl fmt::Debug for AiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, model) = (self.address(), self.model());
        f.debug_struct("AiClient").field("address", &address).field("model", &model).finish_non_exhaustive()
    }
}

fn vectors(list: EmbeddingList, asked: usize) -> Result<Vec<Vec<f32>>> {
    let broken = |problem: String| Error::broken("/v1/embeddings", problem);
    let mut found = vec![Vec::new(); asked];
    for embedding in list.data {
        let place = found.get_mut(embedding.index as usize).filter(|place| place.is_empty());
        let place = place.ok_or_else(|| broken(format!("it has a vector {} too many", embedding.index)))?;
        match embedding.embedding {
            EmbeddingVector::Float(vector) => *place = vector,
            EmbeddingVector::Base64(_) => return Err(broken("numbers were asked for, base64 came".into())),
        }
    }
    match found.iter().position(Vec::is_empty) {
        Some(missing) => Err(broken(format!("the vector of text {missing} is missing"))),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn who_is_silent_is_passed_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Connections to it wait for somebody to take them.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let silent = Address::parse(&listener.local_addr().unwrap().to_string()).unwrap();
            let refusing = Address::parse("127.0.0.1:1").unwrap();
            let services = [silent.clone(), refusing.clone()].map(Http::new);
            let error = AiClient::connect_to(services, Duration::from_millis(200)).await.unwrap_err();
            let text = error.to_string();
            let expected = format!("tried {silent} (silent for 0.2 s), {refusing} (");
            assert!(text.contains(&expected), "{text}");
        });
    }
}
