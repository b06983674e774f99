//! Who answers: a service, or an engine in this process. Both take and give the same wire types.

#[cfg(feature = "embedded")]
use std::sync::Arc;

use super::asynchronous::ChunkStream;
use super::error::Result;
use super::http::Http;
use crate::wire::openai::{ChatCompletionRequest, EmbeddingList, EmbeddingRequest, ModelList};
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
