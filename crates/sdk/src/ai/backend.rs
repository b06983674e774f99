//! Who answers: a service, or an engine in this process. Both take and give the same wire types.

#[cfg(feature = "embedded")]
use std::sync::Arc;

use super::asynchronous::ChunkStream;
use super::error::Result;
use super::http::Http;
use crate::wire::openai::{ChatCompletionRequest, EmbeddingList, EmbeddingRequest, Model, ModelList};
use crate::wire::own::{
    DetokenizeRequest, DetokenizeResponse, Health, LoadRequest, LoadResponse, ProcessList, TokenizeRequest,
    TokenizeResponse, UnloadRequest, UnloadResponse,
};

#[derive(Clone)]
pub(crate) enum Backend {
    Service(Http),
    #[cfg(feature = "embedded")]
    Embedded(Arc<super::embedded::Embedded>),
}

macro_rules! endpoints {
    ($($(#[$doc:meta])* $name:ident, $method:ident $path:literal $(, $request:ty)? => $answer:ty;)*) => {
        impl Backend {
            $(
                $(#[$doc])*
                pub async fn $name(&self $(, request: $request)?) -> Result<$answer> {
                    match self {
                        Self::Service(http) => http.$method($path $(, &request as &$request)?).await,
                        #[cfg(feature = "embedded")]
                        Self::Embedded(engine) => {
                            let engine = Arc::clone(engine);
                            super::embedded::off_thread(move || engine.$name($(request as $request)?)).await
                        }
                    }
                }
            )*
        }
    };
}

endpoints! {
    embed, post "/v1/embeddings", EmbeddingRequest => EmbeddingList;
    models, get "/v1/models" => ModelList;
    load, post "/api/load", LoadRequest => LoadResponse;
    unload, post "/api/unload", UnloadRequest => UnloadResponse;
    tokenize, post "/api/tokenize", TokenizeRequest => TokenizeResponse;
    detokenize, post "/api/detokenize", DetokenizeRequest => DetokenizeResponse;
    ps, get "/api/ps" => ProcessList;
    health, get "/health" => Health;
}

impl Backend {
    /// Describes a model.
    pub async fn describe_model(&self, name: &str) -> Result<Model> {
        match self {
            Self::Service(http) => http.get(&format!("/v1/models/{}", in_path(name))).await,
            #[cfg(feature = "embedded")]
            Self::Embedded(engine) => {
                let (engine, name) = (Arc::clone(engine), name.to_owned());
                super::embedded::off_thread(move || engine.describe_model(&name)).await
            }
        }
    }

    pub async fn chat_stream(&self, request: ChatCompletionRequest) -> Result<ChunkStream> {
        match self {
            Self::Service(http) => {
                let (body, connection) = http.events("/v1/chat/completions", &request).await?;
                Ok(ChunkStream::of_service(body, connection, http.silence_max))
            }
            #[cfg(feature = "embedded")]
            Self::Embedded(engine) => {
                let engine = Arc::clone(engine);
                let (events, closed) = super::embedded::off_thread(move || engine.chat_stream(request)).await?;
                Ok(ChunkStream::of_engine(events, closed))
            }
        }
    }
}

/// A name as the end of a path: its slashes stay, what else has a meaning in an address is written as `%XX`.
fn in_path(name: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                path.push(byte as char)
            }
            _ => write!(path, "%{byte:02X}").expect("a text takes all"),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_keeps_its_meaning() {
        for (name, expected) in [
            ("org/phi-3:latest", "org/phi-3:latest"),
            ("What is 100%?", "What%20is%20100%25%3F"),
            ("ö\r\n#", "%C3%B6%0D%0A%23"),
        ] {
            assert_eq!(in_path(name), expected);
        }
    }
}
