//! Templates of well-known families, for files that bring none. Written here from the formats that the families
//! publish (`templates/`); a template that is in the file always goes first.

/// A built-in template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// Name by which users choose it.
    pub name: &'static str,
    /// Jinja source.
    pub source: &'static str,
}

/// Every built-in template.
pub const BUILTINS: &[Builtin] = &[
    Builtin { name: "chatml", source: include_str!("templates/chatml.jinja") },
    Builtin { name: "llama2", source: include_str!("templates/llama2.jinja") },
    Builtin { name: "llama3", source: include_str!("templates/llama3.jinja") },
    Builtin { name: "phi3", source: include_str!("templates/phi3.jinja") },
    Builtin { name: "gemma", source: include_str!("templates/gemma.jinja") },
    Builtin { name: "mistral", source: include_str!("templates/mistral.jinja") },
];

impl Builtin {
    /// The built-in template called `name`.
    pub fn find(name: &str) -> Option<Self> {
        BUILTINS.iter().copied().find(|builtin| builtin.name == name)
    }

    /// The template that suits a file of this GGUF architecture without a template of its own. `ChatML` where nothing
    /// better is known; `llama` covers many families, and Llama 2's format is the one that needs no special tokens.
    pub fn for_architecture(architecture: &str) -> Self {
        let name = match architecture {
            "llama" => "llama2",
            "llama4" => "llama3",
            "phi3" => "phi3",
            "gemma" | "gemma2" | "gemma3" | "gemma3n" => "gemma",
            "mistral3" => "mistral",
            _ => "chatml",
        };
        Self::find(name).expect("every name above is in the table")
    }
}
