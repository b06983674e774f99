//! Model families as data. One forward pass serves them all; a family says only where it differs.

use hublabio_kernels::RopePairing;

/// Whether a family has an optional piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// A file without it is broken.
    Required,
    /// Used where the file has it.
    Optional,
}

/// What differs between model families.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture`, and the prefix of the family's metadata keys.
    pub name: &'static str,
    /// Which values of a head the rotary embedding turns together.
    pub rope: RopePairing,
    /// Biases of the query, key and value projections.
    pub qkv_bias: Presence,
}

/// Llama 1–3, Mistral 7B and everything else that was published in their shape. The converter
/// permutes query and key rows so that neighbours turn together.
static LLAMA: Architecture = Architecture { name: "llama", rope: RopePairing::Adjacent, qkv_bias: Presence::Optional };

/// Qwen2 and Qwen2.5: Llama with biases on query, key and value.
static QWEN2: Architecture = Architecture { name: "qwen2", rope: RopePairing::Halves, qkv_bias: Presence::Required };

static ALL: [&Architecture; 2] = [&LLAMA, &QWEN2];

/// The family of that name.
#[must_use]
pub fn find_architecture(name: &str) -> Option<&'static Architecture> {
    ALL.into_iter().find(|a| a.name == name)
}

/// Names of all families, for messages.
pub(crate) fn names() -> String {
    ALL.map(|a| a.name).join(", ")
}
