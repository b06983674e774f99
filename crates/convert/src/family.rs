//! The model families: their names on both sides, and the few facts that decide which tensors and keys they have.
//!
//! `model.rs` reads their configurations, `metadata.rs` writes their keys, `tensors.rs` names their tensors.

use crate::error::Error;

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the families' own names
pub enum Family {
    Llama,
    Mistral,
    Mixtral,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    Phi3,
    Gemma,
    Gemma2,
    Gemma3,
    SmolLm3,
    Olmo2,
    Granite,
    GraniteMoe,
    StableLm,
    Starcoder2,
    Phi,
    Bert,
    NomicBert,
}

/// The names under `architectures` in `config.json`.
const ARCHITECTURES: [(&str, Family); 23] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Mistral),
    ("MixtralForCausalLM", Family::Mixtral),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen2MoeForCausalLM", Family::Qwen2Moe),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("Qwen3MoeForCausalLM", Family::Qwen3Moe),
    ("Phi3ForCausalLM", Family::Phi3),
    ("GemmaForCausalLM", Family::Gemma),
    ("Gemma2ForCausalLM", Family::Gemma2),
    ("Gemma3ForCausalLM", Family::Gemma3),
    ("Gemma3ForConditionalGeneration", Family::Gemma3),
    ("SmolLM3ForCausalLM", Family::SmolLm3),
    ("Olmo2ForCausalLM", Family::Olmo2),
    ("GraniteForCausalLM", Family::Granite),
    ("GraniteMoeForCausalLM", Family::GraniteMoe),
    ("StableLmForCausalLM", Family::StableLm),
    ("StableLMEpochForCausalLM", Family::StableLm),
    ("Starcoder2ForCausalLM", Family::Starcoder2),
    ("PhiForCausalLM", Family::Phi),
    ("BertModel", Family::Bert),
    ("BertForMaskedLM", Family::Bert),
    ("NomicBertModel", Family::NomicBert),
];

impl Family {
    /// The family of a name under `architectures`.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], which lists the known ones.
    pub fn of(architecture: &str) -> Result<Self, Error> {
        let found = ARCHITECTURES.iter().find(|row| row.0 == architecture);
        found.map(|row| row.1).ok_or_else(|| Error::UnknownArchitecture {
            found: architecture.to_owned(),
            known: ARCHITECTURES.iter().map(|row| row.0).collect(),
        })
    }

    /// `general.architecture`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Self::Llama | Self::Mistral | Self::Mixtral => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen2Moe => "qwen2moe",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::Phi3 => "phi3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::SmolLm3 => "smollm3",
            Self::Olmo2 => "olmo2",
            Self::Granite => "granite",
            Self::GraniteMoe => "granitemoe",
            Self::StableLm => "stablelm",
            Self::Starcoder2 => "starcoder2",
            Self::Phi => "phi2",
            Self::Bert => "bert",
            Self::NomicBert => "nomic-bert",
        }
    }

    /// Whether the graph is one of the Gemmas.
    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// Whether the graph is one of the Granites.
    pub fn is_granite(self) -> bool {
        matches!(self, Self::Granite | Self::GraniteMoe)
    }

    /// Whether the model makes embeddings of texts and no text: no output matrix, attention both ways.
    pub fn is_encoder(self) -> bool {
        matches!(self, Self::Bert | Self::NomicBert)
    }

    /// Whether readers of the file rotate dimensions (2i, 2i + 1) together, where `transformers` rotates
    /// (i, i + head / 2): the rows of Q and K are reordered.
    pub fn rotates_neighbours(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral | Self::Mixtral | Self::SmolLm3) || self.is_granite()
    }

    /// Whether its norms subtract the mean and have biases.
    pub fn has_layer_norm(self) -> bool {
        matches!(self, Self::StableLm | Self::Starcoder2 | Self::Phi) || self.is_encoder()
    }

    /// Whether its feed-forward layers choose among experts.
    pub fn has_experts(self) -> bool {
        matches!(self, Self::Mixtral | Self::Qwen2Moe | Self::Qwen3Moe | Self::GraniteMoe)
    }
}
