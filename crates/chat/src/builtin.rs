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
    Builtin { name: "phi4", source: include_str!("templates/phi4.jinja") },
    Builtin { name: "granite", source: include_str!("templates/granite.jinja") },
    Builtin { name: "zephyr", source: include_str!("templates/zephyr.jinja") },
    Builtin { name: "olmo2", source: include_str!("templates/olmo2.jinja") },
    Builtin { name: "deepseek", source: include_str!("templates/deepseek.jinja") },
    Builtin { name: "command-r", source: include_str!("templates/command-r.jinja") },
    Builtin { name: "glm4", source: include_str!("templates/glm4.jinja") },
];

impl Builtin {
    /// The built-in template called `name`.
    pub fn find(name: &str) -> Option<Self> {
        BUILTINS.iter().copied().find(|builtin| builtin.name == name)
    }

    /// The template that suits a file without one of its own: by the control tokens in its vocabulary, which only chat
    /// needs, then by its GGUF architecture. `ChatML` where nothing better is known; `llama` covers many families, and
    /// Llama 2's format is the one that needs no special tokens.
    pub fn for_model(architecture: &str, has_token: impl Fn(&str) -> bool) -> Self {
        // All of the tokens of one row have to be there; the most telling row goes first.
        const MARKS: [(&[&str], &str); 9] = [
            (&["<|im_start|>", "<|im_sep|>"], "phi4"),
            (&["<|im_start|>"], "chatml"),
            (&["<|start_header_id|>"], "llama3"),
            (&["<start_of_turn>"], "gemma"),
            (&["<|start_of_role|>"], "granite"),
            (&["<｜User｜>"], "deepseek"),
            (&["<|START_OF_TURN_TOKEN|>"], "command-r"),
            (&["[gMASK]", "<sop>"], "glm4"),
            (&["[INST]", "[/INST]"], "mistral"),
        ];
        let marked = MARKS.iter().find(|(tokens, _)| tokens.iter().all(|token| has_token(token)));
        let by_architecture = || match architecture {
            // Phi-3's marks are in the vocabularies of many models that use others.
            "llama" if has_token("<|end|>") && has_token("<|user|>") => "phi3",
            "llama" => "llama2",
            "llama4" => "llama3",
            "phi3" => "phi3",
            "gemma" | "gemma2" | "gemma3" | "gemma3n" => "gemma",
            "mistral3" => "mistral",
            "granite" | "granitemoe" | "granitehybrid" => "granite",
            "stablelm" => "zephyr",
            "olmo2" | "olmoe" => "olmo2",
            "deepseek" | "deepseek2" => "deepseek",
            "command-r" | "cohere2" => "command-r",
            "chatglm" | "glm4" => "glm4",
            _ => "chatml",
        };
        let name = marked.map_or_else(by_architecture, |(_, name)| *name);
        Self::find(name).expect("every name above is in the table")
    }
}
