//! The descriptions that are built in. Each says in its comment what it is for, and only what differs from the default.

use std::borrow::Cow;

use hublabio_kernels::{Activation, NormKind};

use super::{
    Architecture, Attention, AttentionScale, Embedding, Factor, FeedForward, Head, Pairing, Presence, Rope,
    WindowPattern,
};

/// The built-in family of that name.
#[must_use]
pub fn find_architecture(name: &str) -> Option<Architecture> {
    FAMILIES.iter().find(|(known, _)| *known == name).map(|(known, describe)| named(known, describe()))
}

/// Names of all families, for messages.
pub(crate) fn names() -> String {
    FAMILIES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn named(name: &'static str, architecture: Architecture) -> Architecture {
    Architecture { name: Cow::Borrowed(name), ..architecture }
}

type Family = (&'static str, fn() -> Architecture);

static FAMILIES: [Family; 18] = [
    ("llama", llama),
    ("qwen2", qwen2),
    ("qwen2moe", qwen2moe),
    ("qwen3", qwen3),
    ("qwen3moe", qwen3moe),
    ("phi3", phi3),
    ("gemma", gemma),
    ("gemma2", gemma2),
    ("gemma3", gemma3),
    ("smollm3", smollm3),
    ("olmo2", olmo2),
    ("granite", granite),
    ("granitemoe", granitemoe),
    ("stablelm", stablelm),
    ("starcoder2", starcoder2),
    ("phi2", phi2),
    ("bert", bert),
    ("nomic-bert", nomic_bert),
];

/// Llama 1–3, Mistral 7B, Mixtral, SmolLM 1 and 2, and everything else that was published in their shape. The converter
/// permutes query and key rows so that neighbours turn together.
fn llama() -> Architecture {
    Architecture {
        attention: Attention { qkv_bias: Presence::Optional, output_bias: Presence::Optional, ..Attention::default() },
        rope: Rope { pairing: Pairing::Adjacent, ..Rope::default() },
        feed_forward: FeedForward { bias: Presence::Optional, experts: Presence::Optional, ..FeedForward::default() },
        ..Architecture::default()
    }
}

/// Qwen2 and Qwen2.5: biases on query, key and value.
fn qwen2() -> Architecture {
    Architecture {
        attention: Attention { qkv_bias: Presence::Required, ..Attention::default() },
        ..Architecture::default()
    }
}

/// Qwen2-MoE and Qwen1.5-MoE: experts whose weights stay as the softmax has them, and one for every token.
fn qwen2moe() -> Architecture {
    Architecture {
        feed_forward: FeedForward {
            experts: Presence::Optional,
            normalize_expert_weights: false,
            shared_expert: Presence::Optional,
            ..FeedForward::default()
        },
        ..qwen2()
    }
}

/// Qwen3: no biases, but norms of queries and keys.
fn qwen3() -> Architecture {
    Architecture {
        attention: Attention {
            query_key_norm: Presence::Required,
            qkv_bias: Presence::Optional,
            ..Attention::default()
        },
        ..Architecture::default()
    }
}

fn qwen3moe() -> Architecture {
    Architecture { feed_forward: FeedForward { experts: Presence::Optional, ..FeedForward::default() }, ..qwen3() }
}

/// Phi-3, Phi-3.5 and Phi-4: fused matrices, long rotary factors.
fn phi3() -> Architecture {
    Architecture {
        attention: Attention { qkv_bias: Presence::Optional, ..Attention::default() },
        ..Architecture::default()
    }
}

/// Gemma: scaled embeddings, GELU.
fn gemma() -> Architecture {
    Architecture {
        embedding: Embedding { scale: Factor::SqrtWidth, ..Embedding::default() },
        feed_forward: FeedForward { activation: Activation::GeluTanh, ..FeedForward::default() },
        ..Architecture::default()
    }
}

/// Gemma 2: norms before and after each half, soft caps, a window in every other layer.
fn gemma2() -> Architecture {
    let gemma = gemma();
    Architecture {
        attention: Attention {
            post_norm: Presence::Required,
            soft_cap: Some(50.0),
            scale: AttentionScale::WidthPerHeadAt(46),
            window: WindowPattern::AllButEvery(2),
            ..Attention::default()
        },
        feed_forward: FeedForward { post_norm: Presence::Required, ..gemma.feed_forward },
        head: Head { soft_cap: Some(30.0), ..Head::default() },
        ..gemma
    }
}

/// Gemma 3: norms of queries and keys instead of soft caps; five layers of six see a window and turn by another base.
fn gemma3() -> Architecture {
    let gemma = gemma();
    Architecture {
        attention: Attention {
            post_norm: Presence::Required,
            query_key_norm: Presence::Required,
            scale: AttentionScale::WidthPerHeadAt(62),
            window: WindowPattern::AllButEvery(6),
            ..Attention::default()
        },
        rope: Rope { local_base: Some(10_000.0), ..Rope::default() },
        feed_forward: FeedForward { post_norm: Presence::Required, ..gemma.feed_forward },
        ..gemma
    }
}

/// SmolLM3: every fourth layer knows no positions.
fn smollm3() -> Architecture {
    Architecture { rope: Rope { skip_every: 4, ..llama().rope }, ..llama() }
}

/// OLMo 2: no norm before a half, one after it; queries and keys are normalised over all heads together.
fn olmo2() -> Architecture {
    Architecture {
        attention: Attention {
            norm: Presence::Absent,
            post_norm: Presence::Required,
            query_key_norm: Presence::Required,
            ..Attention::default()
        },
        feed_forward: FeedForward { norm: Presence::Absent, post_norm: Presence::Required, ..FeedForward::default() },
        ..Architecture::default()
    }
}

/// Granite 3: Llama with four factors.
fn granite() -> Architecture {
    Architecture {
        embedding: Embedding { scale: Factor::Key, ..Embedding::default() },
        residual_scale: Factor::Key,
        head: Head { scale: Factor::InverseKey, ..Head::default() },
        ..llama()
    }
}

fn granitemoe() -> Architecture {
    let granite = granite();
    Architecture { feed_forward: FeedForward { experts: Presence::Required, ..granite.feed_forward }, ..granite }
}

/// StableLM 2 (and 3B): LayerNorm; the larger ones compute both halves from the same norm.
fn stablelm() -> Architecture {
    Architecture {
        norm: NormKind::Layer,
        attention: Attention {
            qkv_bias: Presence::Optional,
            query_key_norm: Presence::Optional,
            query_key_norm_kind: NormKind::Layer,
            ..Attention::default()
        },
        feed_forward: FeedForward { norm: Presence::Optional, parallel: true, ..FeedForward::default() },
        ..Architecture::default()
    }
}

/// StarCoder2: LayerNorm, biases everywhere, a plain feed-forward layer.
fn starcoder2() -> Architecture {
    Architecture {
        norm: NormKind::Layer,
        attention: Attention { qkv_bias: Presence::Optional, output_bias: Presence::Optional, ..Attention::default() },
        feed_forward: FeedForward {
            activation: Activation::GeluTanh,
            gated: false,
            bias: Presence::Optional,
            ..FeedForward::default()
        },
        ..Architecture::default()
    }
}

/// Phi-1.5 and Phi-2: both halves from one LayerNorm, biases everywhere, also of the output.
fn phi2() -> Architecture {
    let starcoder2 = starcoder2();
    Architecture {
        feed_forward: FeedForward { norm: Presence::Absent, parallel: true, ..starcoder2.feed_forward },
        head: Head { bias: Presence::Optional, ..Head::default() },
        ..starcoder2
    }
}

/// BERT and its likes as embedding models (BGE, E5, GTE, MiniLM): both directions, learned positions, LayerNorm after the
/// residual stream has grown.
fn bert() -> Architecture {
    Architecture {
        norm: NormKind::Layer,
        embedding: Embedding {
            positions: Presence::Required,
            token_types: Presence::Required,
            norm: Presence::Required,
            ..Embedding::default()
        },
        attention: Attention {
            causal: false,
            norm: Presence::Absent,
            output_norm: Presence::Required,
            qkv_bias: Presence::Optional,
            output_bias: Presence::Optional,
            ..Attention::default()
        },
        rope: Rope { pairing: Pairing::None, ..Rope::default() },
        feed_forward: FeedForward {
            norm: Presence::Absent,
            output_norm: Presence::Required,
            activation: Activation::GeluErf,
            gated: false,
            bias: Presence::Optional,
            ..FeedForward::default()
        },
        head: Head { logits: false, norm: Presence::Absent, ..Head::default() },
        ..Architecture::default()
    }
}

/// nomic-embed-text: BERT with rotary embedding and SwiGLU.
fn nomic_bert() -> Architecture {
    let bert = bert();
    Architecture {
        embedding: Embedding { positions: Presence::Absent, ..bert.embedding },
        rope: Rope::default(),
        feed_forward: FeedForward { activation: Activation::Silu, gated: true, ..bert.feed_forward },
        ..bert
    }
}
