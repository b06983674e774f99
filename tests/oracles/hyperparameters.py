"""What a GGUF file says about a model apart from its tensors, with the keys that llama.cpp's converter writes.

Keys that it does not write but that a file needs to tell two models of an architecture apart are marked: the
window of `llama`, and what the graph of an architecture takes for granted elsewhere.
"""

import math

import gguf

# Decoders whose norms subtract the mean; what `transformers` calls their epsilon.
LAYER_NORM = {"stablelm": "layer_norm_eps", "starcoder2": "norm_epsilon", "phi": "layer_norm_eps"}


def add_hyperparameters(writer, spec, config, file_type):
    writer.add_name(spec.name)
    writer.add_file_type(file_type)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.width)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    if spec.pooling:
        _add_encoder(writer, spec)
        return
    writer.add_head_count_kv(spec.kv_heads)
    if spec.family in LAYER_NORM:
        writer.add_layer_norm_eps(spec.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(spec.norm_eps)
    # The converter's own code for these writes no base.
    if spec.family not in ("gemma", "gemma2", "phi") or spec.rope_theta != 10_000.0:
        writer.add_rope_freq_base(spec.rope_theta)
    if spec.head_dim:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)
    if spec.arch in ("llama", "smollm3", "granite", "granitemoe"):
        writer.add_vocab_size(spec.vocab)
        writer.add_rope_dimension_count(spec.head_width)
    _add_rope_scaling(writer, spec)
    _add_experts(writer, spec)
    _add_attention(writer, spec, config)
    _add_multipliers(writer, spec)


def _add_encoder(writer, spec):
    writer.add_layer_norm_eps(spec.norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN if spec.pooling == "mean" else gguf.PoolingType.CLS)
    if spec.rope_theta:
        writer.add_rope_freq_base(spec.rope_theta)


def _add_rope_scaling(writer, spec):
    rope = spec.rope
    if spec.family == "stablelm" or "partial_rotary_factor" in rope or spec.family == "phi3":
        writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * spec.width) // spec.heads)
    kind = rope.get("rope_type")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    elif kind == "longrope":
        writer.add_rope_scaling_attn_factors(longrope_attention_factor(spec))
    if spec.family == "phi3":
        writer.add_rope_scaling_orig_ctx_len(spec.config.get("original_max_position_embeddings", 4096))
    if "local_theta" in rope:
        writer.add_rope_freq_base_swa(rope["local_theta"])


def longrope_attention_factor(spec):
    """By how much longrope's cosines and sines are lengthened."""
    original = spec.config["original_max_position_embeddings"]
    scale = spec.context / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def _add_experts(writer, spec):
    config = spec.config
    if not spec.experts:
        return
    writer.add_expert_count(spec.experts)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    # Without the key: true for qwen3moe, false for qwen2moe, as the released models are.
    usual = spec.family == "qwen3moe"
    if config.get("norm_topk_prob", usual) != usual:
        writer.add_expert_weights_norm(not usual)


def _add_attention(writer, spec, config):
    window = spec.config.get("sliding_window")
    if window:
        # Not written by the converter for `llama`; Phi-3 without a window says 0.
        writer.add_sliding_window(window)
    elif spec.family == "phi3":
        writer.add_sliding_window(0)
    if pattern := spec.config.get("sliding_window_pattern"):
        writer.add_sliding_window_pattern(pattern)
    if cap := spec.config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(cap)
    if cap := spec.config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(cap)
    scalar = spec.config.get("query_pre_attn_scalar")
    if scalar and scalar != spec.head_width:
        # Not written by the converter, which leaves the scale to the engine.
        writer.add_attention_scale(scalar**-0.5)
    if spec.family == "stablelm":
        writer.add_parallel_residual(bool(config.use_parallel_residual))


def _add_multipliers(writer, spec):
    add = {
        "attention_multiplier": writer.add_attention_scale,
        "embedding_multiplier": writer.add_embedding_scale,
        "residual_multiplier": writer.add_residual_scale,
        "logits_scaling": writer.add_logit_scale,
    }
    for name, write in add.items():
        if name in spec.config:
            write(spec.config[name])


def byte_alphabet():
    """The 256 characters with which byte-level BPE spells bytes, by byte value (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def vocabulary(spec):
    """(tokens, types) of the smallest byte-level BPE that loads: bytes from 0 up, one merge, unused filling,
    BOS and EOS. A vocabulary under 259 leaves the upper bytes out; ids, not text, go through these models."""
    tokens = byte_alphabet()[: spec.vocab - 3]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    tokens.append("ab")
    types.append(gguf.TokenType.NORMAL)
    while len(tokens) < spec.vocab - 2:
        tokens.append(f"<unused{len(tokens)}>")
        types.append(gguf.TokenType.UNUSED)
    tokens += ["<|begin|>", "<|end|>"]
    types += [gguf.TokenType.CONTROL] * 2
    return tokens, types


WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def wordpieces(spec):
    """An encoder's vocabulary in the form of BERT's `vocab.txt`: special tokens, characters, continuations."""
    tokens = list(WORDPIECE_SPECIALS)
    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
    tokens += [*characters, *(f"##{character}" for character in characters)]
    tokens += [f"word{index}" for index in range(spec.vocab - len(tokens))]
    return tokens[: spec.vocab]


def add_tokenizer(writer, spec):
    if spec.pooling:
        tokens = wordpieces(spec)
        special = set(WORDPIECE_SPECIALS)
        # As in converted files: a word's start is marked, its continuation is not.
        marked = [t if t in special else t[2:] if t.startswith("##") else "\u2581" + t for t in tokens]
        types = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("jina-v2-en")
        writer.add_token_list(marked)
        writer.add_token_types(types)
        writer.add_token_type_count(2)
        writer.add_pad_token_id(0)
        writer.add_unk_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_sep_token_id(3)
        writer.add_mask_token_id(4)
        return
    tokens, types = vocabulary(spec)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe" if spec.arch == "llama" else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(spec.vocab - 2)
    writer.add_eos_token_id(spec.vocab - 1)
