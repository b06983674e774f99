//! `/v1/embeddings`: vectors of texts.

use serde::{Deserialize, Serialize};

/// What is asked of `/v1/embeddings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EmbeddingRequest {
    /// Which model, by its name in the list of models; empty, and then left out, for the service's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// What is embedded.
    pub input: EmbeddingInput,
    /// How numbers are written; `float` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<EncodingFormat>,
    /// The length of the vectors, if it is to be less than the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
}

/// Text or token ids, one or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum EmbeddingInput {
    /// A text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// How the numbers of a vector are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// As numbers.
    Float,
    /// As base64 of their bytes, each four of the little end first.
    Base64,
}

/// The vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EmbeddingList {
    /// `list`.
    pub object: String,
    /// A vector for each input.
    pub data: Vec<Embedding>,
    /// Which model made them.
    pub model: String,
    /// How many tokens it took.
    #[serde(default)]
    pub usage: EmbeddingUsage,
}

/// A vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Embedding {
    /// `embedding`.
    pub object: String,
    /// Place of its input.
    pub index: u32,
    /// Its numbers.
    pub embedding: EmbeddingVector,
}

/// The numbers of a vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// As numbers.
    Float(Vec<f32>),
    /// As base64 of their bytes, each four of the little end first.
    Base64(String),
}

/// How many tokens embedding took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: u64,
    /// The same.
    pub total_tokens: u64,
}
