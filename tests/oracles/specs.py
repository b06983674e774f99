"""The random models by name: dimensions and the switches that each one is there for.

Odd widths (72, 40, heads of 12 and 24) are there on purpose: tails of SIMD loops. Windows are shorter than the
sequences, original contexts too, and soft-caps are near the spread of what they cap, so that all of them bite.
"""

from dataclasses import dataclass, field

from families import FAMILIES

SCORE_SIGMA = 3.0
SCORE_SIGMA_MIN = 2.0
LOGIT_SIGMA = 4.0
LOGIT_SIGMA_MIN = 3.0
CONTEXT = 1024
# Positions of a float model's expectation, and of a quantized file's: a mean KL over 128 positions still
# moves by ±6 % between two equally good implementations (measured), over 512 by ±2 %.
FLOAT_POSITIONS = 96
LONG_POSITIONS = 132
CODED_POSITIONS = 512

PEER_SAME = "same"


@dataclass(frozen=True)
class Spec:
    """One random model. Tensor widths follow from these; `head_dim` may differ from width / heads."""

    name: str
    family: str
    seed: int
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    rope_theta: float
    norm_eps: float
    head_dim: int | None = None
    # (factor, low_freq_factor, high_freq_factor, original context) of Llama-3 scaling
    llama3_rope: tuple | None = None
    # Further entries of the `transformers` configuration, and of its `rope_parameters`.
    config: dict = field(default_factory=dict, hash=False)
    rope: dict = field(default_factory=dict, hash=False)
    context: int = CONTEXT
    positions: int = FLOAT_POSITIONS
    # Spread of the embeddings' entries; families that scale embeddings up get smaller ones.
    embed_sigma: float = 0.5
    # Spread of a router's logits. Where it is large, the last chosen expert has little weight, and which one
    # it is matters less: a quantized mixture's KL is then not a count of the positions that chose another.
    router_sigma: float = 1.2
    # Spread of the attention scores and of the logits before a soft-cap.
    score_sigma: float = SCORE_SIGMA
    logit_sigma: float = LOGIT_SIGMA
    # Encoders: how token states become one embedding.
    pooling: str | None = None
    # PEER_SAME where llama.cpp computes the same as `transformers`; else what it does otherwise by design.
    peer: str = PEER_SAME
    # Changes of the configuration with which `transformers` does the same as llama.cpp, and parameters of
    # llama.cpp's context with which it does the same as `transformers`.
    peer_changes: dict = field(default_factory=dict, hash=False)
    peer_context: dict = field(default_factory=dict, hash=False)

    @property
    def arch(self):
        return FAMILIES[self.family].arch

    @property
    def head_width(self):
        return self.head_dim or self.width // self.heads

    @property
    def experts(self):
        return self.config.get("num_local_experts") or self.config.get("num_experts")


def _short(name, family, seed, *dimensions, **rest):
    return Spec(name, family, seed, *dimensions, **({"positions": LONG_POSITIONS} | rest))


def _moe(experts, used, width=None, shared=None, **rest):
    """Configuration of a mixture; `width` of one expert where it is not `intermediate_size`."""
    entries = {"num_local_experts": experts, "num_experts_per_tok": used}
    if width:
        entries = {"num_experts": experts, "num_experts_per_tok": used, "moe_intermediate_size": width}
    if shared:
        entries["shared_expert_intermediate_size"] = shared
    return entries | rest


WINDOW_IGNORED = {
    "peer": "llama.cpp ignores the sliding window",
    "peer_changes": {"sliding_window": None},
}


def _scale_ignored(head_width):
    return {
        "peer": "llama.cpp takes the attention scale from the head width",
        "peer_changes": {"query_pre_attn_scalar": head_width},
    }


def _router_fixed(normed):
    return {
        "peer": f"llama.cpp always has norm_topk_prob {str(normed).lower()} here",
        "peer_changes": {"norm_topk_prob": normed},
    }


LLAMA_SPECS = (
    Spec("llama-gqa", "llama", 11, 64, 128, 2, 8, 2, 151, False, 10_000.0, 1e-2),
    Spec("llama-mha-tied", "llama", 12, 64, 96, 2, 4, 4, 133, True, 50_000.0, 3e-2),
    Spec("llama-rope3", "llama", 13, 72, 104, 2, 6, 3, 140, False, 10_000.0, 2e-2, llama3_rope=(8.0, 1.0, 4.0, 64)),
    Spec("llama-wide-head", "llama", 14, 64, 96, 2, 4, 2, 139, True, 500_000.0, 5e-2, head_dim=24),
    Spec("qwen2-mqa-tied", "qwen2", 21, 64, 96, 3, 4, 1, 137, True, 1_000_000.0, 1e-2),
    Spec("qwen2-gqa", "qwen2", 22, 72, 104, 2, 6, 2, 149, False, 10_000.0, 4e-2),
)

# Smaller than the first ones, since there are many: about 250 KB in F32 at most.
FAMILY_SPECS = (
    _short("mistral-window", "mistral", 101, 64, 56, 2, 4, 2, 104, False, 10_000.0, 1e-2,
           config={"sliding_window": 24}, **WINDOW_IGNORED),
    _short("mistral-window-tied", "mistral", 102, 72, 40, 2, 6, 2, 111, True, 100_000.0, 2e-2,
           config={"sliding_window": 17}, **WINDOW_IGNORED),
    _short("mixtral-4of2", "mixtral", 103, 64, 16, 2, 4, 2, 103, False, 10_000.0, 1e-2, config=_moe(4, 2)),
    _short("mixtral-window", "mixtral", 104, 48, 24, 2, 4, 1, 107, True, 10_000.0, 2e-2,
           config=_moe(5, 3, sliding_window=20), **WINDOW_IGNORED),
    _short("llama-small-tied", "llama", 105, 72, 20, 3, 9, 3, 105, True, 100_000.0, 1e-2),
    _short("llama-biased", "llama", 106, 64, 48, 2, 4, 2, 103, False, 10_000.0, 1e-2,
           config={"attention_bias": True, "mlp_bias": True}),
    _short("llama-rope-linear", "llama", 107, 64, 48, 2, 4, 2, 104, False, 10_000.0, 1e-2,
           rope={"rope_type": "linear", "factor": 4.0}, context=256),
    _short("llama-rope-yarn", "llama", 108, 64, 48, 2, 4, 2, 102, False, 10_000.0, 1e-2, context=192,
           rope={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48,
                 "beta_fast": 4.0, "beta_slow": 0.5},
           peer="llama.cpp does not read this architecture's yarn_beta_fast and yarn_beta_slow",
           peer_context={"yarn_beta_fast": 4.0, "yarn_beta_slow": 0.5}),
    _short("qwen2-rope-linear", "qwen2", 109, 64, 48, 2, 4, 2, 104, False, 100_000.0, 1e-2,
           rope={"rope_type": "linear", "factor": 2.5}, context=160),
    _short("qwen2-rope-yarn", "qwen2", 110, 72, 32, 2, 3, 1, 106, True, 10_000.0, 1e-2, context=256,
           rope={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}),
    _short("qwen2moe-shared", "qwen2moe", 121, 48, 64, 2, 4, 2, 104, False, 10_000.0, 1e-2,
           config=_moe(5, 2, 16, 24, norm_topk_prob=False)),
    _short("qwen2moe-normed", "qwen2moe", 122, 48, 64, 2, 4, 4, 103, False, 100_000.0, 2e-2,
           config=_moe(5, 3, 18, 22, norm_topk_prob=True), **_router_fixed(False)),
    _short("qwen3-wide-head", "qwen3", 131, 64, 48, 2, 4, 2, 103, True, 1_000_000.0, 1e-2, head_dim=24),
    _short("qwen3-own-output", "qwen3", 132, 72, 40, 2, 3, 1, 109, False, 10_000.0, 2e-2, head_dim=20),
    _short("qwen3moe-normed", "qwen3moe", 133, 56, 64, 2, 4, 2, 104, True, 1_000_000.0, 1e-2, head_dim=20,
           config=_moe(6, 2, 12, norm_topk_prob=True)),
    _short("qwen3moe-raw", "qwen3moe", 134, 48, 64, 2, 3, 1, 110, False, 10_000.0, 2e-2, head_dim=12,
           config=_moe(5, 3, 24, norm_topk_prob=False), **_router_fixed(True)),
    _short("phi-window", "phi3", 141, 64, 44, 2, 4, 4, 104, False, 10_000.0, 1e-2,
           config={"sliding_window": 24}, **WINDOW_IGNORED),
    _short("phi-longrope", "phi3", 142, 64, 56, 2, 4, 2, 104, False, 10_000.0, 1e-2, context=256,
           config={"original_max_position_embeddings": 64},
           rope={"rope_type": "longrope",
                 "short_factor": [1.0, 1.02, 1.05, 1.1, 1.25, 1.4, 1.6, 1.9],
                 "long_factor": [1.1, 1.3, 1.8, 2.6, 3.9, 5.5, 8.0, 11.0]}),
    _short("phi-shortrope", "phi3", 143, 64, 56, 2, 4, 2, 103, False, 10_000.0, 1e-2, context=1280,
           config={"original_max_position_embeddings": 320},
           rope={"rope_type": "longrope",
                 "short_factor": [1.05, 1.1, 1.3, 1.5, 1.75, 2.1, 2.6, 3.0],
                 "long_factor": [1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0, 16.0]}),
    _short("phi-partial", "phi3", 144, 72, 40, 2, 3, 1, 107, True, 10_000.0, 2e-2, context=512,
           config={"original_max_position_embeddings": 64},
           rope={"rope_type": "longrope", "partial_rotary_factor": 0.75,
                 "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7],
                 "long_factor": [1.2, 1.5, 2.0, 2.9, 4.2, 6.0, 8.5, 12.0, 16.0]}),
    _short("gemma-mqa", "gemma", 151, 64, 56, 2, 4, 1, 110, True, 10_000.0, 1e-2, head_dim=16, embed_sigma=0.03),
    _short("gemma-wide-head", "gemma", 152, 72, 40, 2, 3, 3, 104, True, 100_000.0, 2e-2, head_dim=20,
           embed_sigma=0.03),
    _short("gemma2-caps", "gemma2", 153, 64, 56, 2, 4, 2, 104, True, 10_000.0, 1e-2, head_dim=16, embed_sigma=0.03,
           config={"attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0, "sliding_window": 24,
                   "query_pre_attn_scalar": 16}),
    _short("gemma2-scaled", "gemma2", 154, 48, 40, 4, 4, 2, 107, True, 10_000.0, 2e-2, head_dim=12,
           embed_sigma=0.035, score_sigma=5.0, logit_sigma=5.0,
           config={"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0, "sliding_window": 17,
                   "query_pre_attn_scalar": 30}, **_scale_ignored(12)),
    _short("gemma3-six", "gemma3", 155, 40, 28, 7, 2, 1, 102, True, 1_000_000.0, 1e-2, head_dim=16, embed_sigma=0.1,
           config={"sliding_window": 20, "query_pre_attn_scalar": 16},
           rope={"local_theta": 10_000.0, "rope_type": "linear", "factor": 8.0}),
    _short("gemma3-two", "gemma3", 156, 48, 40, 4, 4, 2, 105, True, 100_000.0, 2e-2, head_dim=12, embed_sigma=0.035,
           config={"sliding_window": 31, "query_pre_attn_scalar": 30, "sliding_window_pattern": 2},
           rope={"local_theta": 500.0}, **_scale_ignored(12)),
    _short("olmo2-mha", "olmo2", 161, 64, 44, 2, 4, 4, 104, False, 500_000.0, 1e-2),
    _short("olmo2-gqa", "olmo2", 162, 72, 40, 2, 6, 2, 106, False, 10_000.0, 2e-2),
    _short("granite-scaled", "granite", 163, 64, 48, 2, 4, 2, 104, False, 10_000.0, 1e-2, embed_sigma=0.1,
           config={"embedding_multiplier": 6.0, "residual_multiplier": 0.4, "attention_multiplier": 0.11,
                   "logits_scaling": 5.0}),
    _short("granite-tied", "granite", 164, 72, 40, 2, 6, 2, 109, True, 100_000.0, 2e-2, embed_sigma=0.015,
           config={"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.4,
                   "logits_scaling": 0.5}),
    _short("granitemoe-scaled", "granitemoe", 165, 64, 16, 2, 4, 2, 104, True, 10_000.0, 1e-2, embed_sigma=0.02,
           config=_moe(4, 2, embedding_multiplier=6.0, residual_multiplier=0.4, attention_multiplier=0.11,
                       logits_scaling=5.0)),
    _short("granitemoe-six", "granitemoe", 166, 48, 20, 2, 4, 4, 104, False, 100_000.0, 2e-2, embed_sigma=0.05,
           config=_moe(6, 3, embedding_multiplier=12.0, residual_multiplier=0.3, attention_multiplier=0.3,
                       logits_scaling=0.5)),
    _short("stablelm-biased", "stablelm", 171, 64, 44, 2, 4, 4, 103, False, 10_000.0, 1e-2,
           config={"use_qkv_bias": True}, rope={"partial_rotary_factor": 0.25}),
    _short("stablelm-parallel", "stablelm", 172, 72, 40, 2, 6, 2, 104, False, 10_000.0, 2e-2,
           config={"qk_layernorm": True, "use_parallel_residual": True}, rope={"partial_rotary_factor": 0.5}),
    _short("stablelm-head-norms", "stablelm", 173, 64, 40, 2, 4, 2, 104, False, 100_000.0, 2e-2,
           config={"qk_layernorm": True, "use_qkv_bias": True}, rope={"partial_rotary_factor": 0.5}),
    _short("smollm3-five", "smollm3", 191, 40, 24, 5, 4, 2, 103, True, 100_000.0, 1e-2),
    _short("smollm3-own-output", "smollm3", 192, 48, 16, 4, 4, 1, 104, False, 10_000.0, 2e-2),
    _short("starcoder2-tied", "starcoder2", 193, 64, 48, 2, 4, 2, 103, True, 10_000.0, 1e-2),
    _short("starcoder2-window", "starcoder2", 194, 48, 64, 2, 6, 1, 104, False, 100_000.0, 2e-2,
           config={"sliding_window": 24}, **WINDOW_IGNORED),
    _short("phi2-half", "phi", 195, 48, 64, 2, 3, 3, 103, False, 10_000.0, 1e-2,
           rope={"partial_rotary_factor": 0.5}),
    _short("phi2-two-fifths", "phi", 196, 40, 72, 3, 2, 2, 104, False, 10_000.0, 2e-2,
           rope={"partial_rotary_factor": 0.4}),
    _short("bert-mean", "bert", 181, 64, 48, 2, 4, 4, 103, True, 0.0, 0.15, context=160, pooling="mean"),
    _short("bert-cls", "bert", 182, 72, 20, 2, 6, 6, 104, True, 0.0, 0.2, context=144, pooling="cls"),
    _short("nomic-mean", "nomic", 183, 64, 48, 2, 4, 4, 103, True, 1_000.0, 0.05, pooling="mean"),
    _short("nomic-cls", "nomic", 184, 72, 28, 2, 6, 6, 104, True, 10_000.0, 0.06, pooling="cls"),
)
FLOAT_SPECS = LLAMA_SPECS + FAMILY_SPECS

# Widths are multiples of 256, so that k-quants are what they say they are in every matrix.
QUANT_SPECS = (
    Spec("quant-llama", "llama", 31, 256, 256, 1, 8, 2, 136, False, 10_000.0, 1e-3),
    Spec("quant-qwen2", "qwen2", 32, 256, 256, 1, 4, 2, 136, False, 1_000_000.0, 1e-3),
)


def _quant(name, family, seed, layers, heads, kv_heads, tied, **rest):
    return Spec(f"quant-{name}", family, seed, 256, 256, layers, heads, kv_heads, 103, tied, 10_000.0, 1e-3, **rest)


FAMILY_QUANT_SPECS = (
    _quant("gemma2", "gemma2", 301, 2, 4, 2, True, head_dim=64, embed_sigma=0.01,
           config={"attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0, "sliding_window": 100,
                   "query_pre_attn_scalar": 64}),
    _quant("gemma3", "gemma3", 302, 2, 4, 1, True, head_dim=64, embed_sigma=0.01,
           config={"sliding_window": 100, "query_pre_attn_scalar": 64, "sliding_window_pattern": 2},
           rope={"local_theta": 1_000.0, "rope_type": "linear", "factor": 4.0}),
    _quant("qwen3moe", "qwen3moe", 303, 1, 4, 2, False, head_dim=64, router_sigma=4.0,
           config=_moe(4, 2, 256, norm_topk_prob=True)),
    _quant("phi", "phi3", 304, 1, 8, 4, False, positions=LONG_POSITIONS, config={"original_max_position_embeddings": 128},
           rope={"rope_type": "longrope", "short_factor": [1 + 0.03 * i for i in range(16)],
                 "long_factor": [1.1 * 1.16**i for i in range(16)]}),
    _quant("mixtral", "mixtral", 305, 1, 8, 2, False, router_sigma=4.0, config=_moe(4, 2)),
    _quant("qwen2moe", "qwen2moe", 306, 1, 4, 2, False, router_sigma=4.0,
           config=_moe(4, 2, 256, 256, norm_topk_prob=False)),
    _quant("qwen3", "qwen3", 307, 1, 8, 2, False, head_dim=64),
    _quant("gemma", "gemma", 308, 1, 4, 1, True, head_dim=64, embed_sigma=0.01),
    _quant("olmo2", "olmo2", 309, 1, 8, 2, False),
    _quant("granite", "granite", 310, 1, 4, 2, False, embed_sigma=0.1,
           config={"embedding_multiplier": 6.0, "residual_multiplier": 0.4, "attention_multiplier": 0.11,
                   "logits_scaling": 5.0}),
    _quant("granitemoe", "granitemoe", 311, 1, 4, 2, False, embed_sigma=0.1, router_sigma=4.0,
           config=_moe(4, 2, embedding_multiplier=6.0, residual_multiplier=0.4, attention_multiplier=0.11,
                       logits_scaling=5.0)),
    _quant("stablelm", "stablelm", 312, 1, 8, 4, False, config={"use_qkv_bias": True},
           rope={"partial_rotary_factor": 0.25}),
)

# What `make_models.py --group` takes: the first two architectures, and all the others with their variants.
GROUPS = {"first": LLAMA_SPECS + QUANT_SPECS, "families": FAMILY_SPECS + FAMILY_QUANT_SPECS}

SPECS = {spec.name: spec for group in GROUPS.values() for spec in group}
