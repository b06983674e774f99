#!/usr/bin/env python3
"""Converts a checkpoint folder with nothing but public packages: what `hublab convert` is compared with.

    python3 reference.py FOLDER OUT.gguf [--type auto|F32|F16|BF16|Q8_0]

Written from the format facts (docs/CONVERT.md names them), not from the Rust code: weights come through `safetensors` and
PyTorch, SentencePiece models through the protobuf class of `sentencepiece`, the file goes through `gguf.GGUFWriter`.
"""

import argparse
import json
import math
import re
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open
from sentencepiece import sentencepiece_model_pb2

ARCH = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3", "GemmaForCausalLM": "gemma", "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3", "MixtralForCausalLM": "llama", "Qwen2MoeForCausalLM": "qwen2moe",
    "Qwen3MoeForCausalLM": "qwen3moe", "Olmo2ForCausalLM": "olmo2", "GraniteForCausalLM": "granite",
    "GraniteMoeForCausalLM": "granitemoe", "StableLmForCausalLM": "stablelm",
    "SmolLM3ForCausalLM": "smollm3", "Starcoder2ForCausalLM": "starcoder2", "PhiForCausalLM": "phi2",
}
ENCODERS = {"BertModel": "bert", "BertForMaskedLM": "bert", "NomicBertModel": "nomic-bert"}
ENCODER_TENSORS = {
    "embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd", "embeddings.LayerNorm": "token_embd_norm", "emb_ln": "token_embd_norm",
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
    "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "norm1": "attn_output_norm", "norm2": "layer_output_norm",
    "mlp.fc11": "ffn_up", "mlp.fc12": "ffn_gate", "mlp.fc2": "ffn_down",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "attn_output_norm",
    "post_mlp_layernorm": "layer_output_norm", "mlp.up_proj": "ffn_up", "mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down",
}
PERMUTED = ("llama", "smollm3", "granite", "granitemoe")
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
TENSORS = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "self_attn.dense": "attn_output", "model.final_layernorm": "output_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
    "block_sparse_moe.gate": "ffn_gate_inp", "block_sparse_moe.router.layer": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "experts.w1": "ffn_gate_exps", "experts.w3": "ffn_up_exps", "experts.w2": "ffn_down_exps",
    "experts.gate_proj": "ffn_gate_exps", "experts.up_proj": "ffn_up_exps", "experts.down_proj": "ffn_down_exps",
}
ALWAYS_F32 = ("position_embd.weight", "token_types.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "_norm.weight")
PRE = [  # (a piece that only this pattern has, name)
    (r"\p{N}{1,3}", "llama-bpe"),
    (r"\p{N}|", "qwen2"),
]


def sentencepiece_model(path):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


class Folder:
    def __init__(self, path):
        self.path = path
        self.root = load(path / "config.json")
        self.config = self.root | self.root.get("text_config", {})
        self.architecture = self.root["architectures"][0]
        self.arch = (ARCH | ENCODERS)[self.architecture]
        self.gemma = self.arch.startswith("gemma")
        self.tokenizer_config = load(path / "tokenizer_config.json")
        self.tokenizer_json = load(path / "tokenizer.json")
        rope = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        self.local_rope = rope.get("sliding_attention", {})
        self.rope = rope.get("full_attention", rope)
        self.theta = self.rope.get("rope_theta", self.config.get("rope_theta", 10000.0))

    def tensors(self):
        found = {}
        for path in sorted(self.path.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys()}
        return found


def add_hyperparameters(writer, folder):
    config, arch = folder.config, folder.arch
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    if arch == "stablelm":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_parallel_residual(config["use_parallel_residual"])
        writer.add_rope_dimension_count(int(head_dim * folder.rope["partial_rotary_factor"]))
    elif arch == "starcoder2":
        writer.add_layer_norm_eps(config["norm_epsilon"])
    elif arch == "phi2":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_rope_dimension_count(int(folder.rope["partial_rotary_factor"] * config["hidden_size"]) // heads)
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    silent = ("smollm3", "starcoder2", "phi2", "phi3", "qwen2", "qwen2moe", "qwen3moe", "olmo2", "granite", "granitemoe", "stablelm")
    if arch not in silent or (arch == "qwen3moe" and "head_dim" in config):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch not in ("gemma", "gemma2") and not (arch in ("stablelm", "phi2") and folder.theta == 10000):
        writer.add_rope_freq_base(folder.theta)
    if arch in PERMUTED:
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim)
    if arch.startswith("granite"):
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if arch.startswith("qwen") and config.get("use_sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if folder.architecture in ("MixtralForCausalLM", "MistralForCausalLM", "Starcoder2ForCausalLM"):
        writer.add_sliding_window(config["sliding_window"])
    experts = config.get("num_local_experts", config.get("num_experts"))
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if arch in ("qwen2moe", "qwen3moe"):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        if config["norm_topk_prob"] != (arch == "qwen3moe"):
            writer.add_expert_weights_norm(config["norm_topk_prob"])
    if arch == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if arch not in ("phi3", "gemma3"):
        add_rope_scaling(writer, folder)
    if arch == "phi3":
        original = config["original_max_position_embeddings"]
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_sliding_window(config["sliding_window"] or 0)
        if folder.rope["rope_type"] == "longrope":
            scale = config["max_position_embeddings"] / original
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
    if arch in ("gemma2", "gemma3"):
        writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch == "gemma3":
        writer.add_rope_freq_base_swa(folder.local_rope["rope_theta"])
        if folder.rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(folder.rope["factor"])


def add_encoder(writer, folder):
    """Everything but the tensors, for both spellings of nomic-bert's settings."""
    config = folder.config
    first = lambda *keys: next(config[key] for key in keys if key in config)
    writer.add_block_count(first("num_hidden_layers", "n_layer"))
    writer.add_context_length(2048 if "n_positions" in config else config["max_position_embeddings"])
    writer.add_embedding_length(first("hidden_size", "n_embd"))
    writer.add_feed_forward_length(first("intermediate_size", "n_inner"))
    writer.add_head_count(first("num_attention_heads", "n_head"))
    writer.add_layer_norm_eps(first("layer_norm_eps", "layer_norm_epsilon"))
    writer.add_causal_attention(False)
    if folder.arch == "nomic-bert":
        writer.add_rope_freq_base(config.get("rotary_emb_base") or config["rope_parameters"]["rope_theta"])
        if "head_dim" in config:
            writer.add_key_length(config["head_dim"])
            writer.add_value_length(config["head_dim"])
    pooling = load(folder.path / "1_Pooling" / "config.json")
    for mode, kind in (("mean_tokens", gguf.PoolingType.MEAN), ("cls_token", gguf.PoolingType.CLS)):
        if pooling.get(f"pooling_mode_{mode}"):
            writer.add_pooling_type(kind)
    document = folder.tokenizer_json
    texts = [f"[PAD{id}]" for id in range(config["vocab_size"])]
    types = [UNUSED] * len(texts)
    for text, id in document["model"]["vocab"].items():
        special = any(token["id"] == id for token in document["added_tokens"])
        types[id] = CONTROL if special else NORMAL
        texts[id] = text if special else text[2:] if text.startswith("##") else "▁" + text
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    for text, adds in (("[CLS]", ["bos"]), ("[SEP]", ["eos", "sep"]), ("[UNK]", ["unk"]), ("[PAD]", ["pad"]), ("[MASK]", ["mask"])):
        for role in adds:
            getattr(writer, f"add_{role}_token_id")(texts.index(text))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", document["normalizer"]["lowercase"])


def add_encoder_tensors(writer, folder, kind):
    found = {re.sub(r"^bert\.", "", name): values for name, values in folder.tensors().items()}
    for layer in range(99):
        apart = [found.pop(f"layers.{layer}.self_attn.{letter}_proj.weight", None) for letter in "qkv"]
        if apart[0] is not None:
            found[f"layers.{layer}.attn.Wqkv.weight"] = torch.cat(apart)
    for name, values in found.items():
        if name.startswith(("pooler.", "cls.")):
            continue
        stem, part = name.rsplit(".", 1)
        match = re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)\.(.+)", stem)
        ours = f"blk.{match[1]}.{ENCODER_TENSORS[match[2]]}.{part}" if match else f"{ENCODER_TENSORS[stem]}.{part}"
        rows = values.to(torch.float32).numpy()
        theirs = kind if rows.ndim > 1 and not ours.endswith(ALWAYS_F32) else gguf.GGMLQuantizationType.F32
        writer.add_tensor(ours, gguf.quants.quantize(rows, theirs), raw_dtype=theirs)


def add_rope_scaling(writer, folder):
    rope, context = folder.rope, folder.config["max_position_embeddings"]
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn", "longrope"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_factor(rope["factor"])
    if kind in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "yarn":
        # The configuration's factor is the whole one, a file's multiplies what readers derive.
        writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"] / (0.1 * math.log(rope["factor"]) + 1))
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(context / original) / math.log(original)))


# Tokens: lists of text, score and type, one entry for each embedding.


def control_by_looks(text):
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or re.fullmatch(r"<\|.*\|>|<｜.*｜>|<unused.*>", text)


def added(text, special):
    if special or control_by_looks(text):
        return text, -1000.0, CONTROL
    return text.replace("▁", " "), -1000.0, USER


def configured_tokens(folder):
    tokens = {id: (text, False) for text, id in load(folder.path / "added_tokens.json").items()}
    for id, token in folder.tokenizer_config.get("added_tokens_decoder", {}).items():
        tokens[int(id)] = (token["content"], token.get("special", False))
    return tokens


def piece_tokens(folder, table):
    model = sentencepiece_model(folder.path / "tokenizer.model")
    kinds = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: USER, 5: UNUSED, 6: BYTE}
    for id, piece in enumerate(model.pieces):
        text = piece.piece.replace("▁", " ") if piece.type == 4 else piece.piece
        table[id] = (text, piece.score, kinds[piece.type])
    for id, token in configured_tokens(folder).items():
        table[id] = added(*token)


def json_tokens(folder, table, byte_level):
    model = folder.tokenizer_json["model"]
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    ranks = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    for text, id in model["vocab"].items():
        if byte_level:
            table[id] = (text, 0.0, NORMAL)
        elif re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", text):
            table[id] = (text, 0.0, BYTE)
        else:
            table[id] = (text, float(-ranks.get(text, len(pairs))), NORMAL)
    for token in folder.tokenizer_json["added_tokens"]:
        table[token["id"]] = added(token["content"], token["special"])
        if not byte_level and token["content"] == model["unk_token"]:
            table[token["id"]] = (token["content"], 0.0, UNKNOWN)
    return [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]


def add_tokenizer(writer, folder):
    size = folder.config["vocab_size"]
    table = [(f"[PAD{id}]", -10000.0, UNUSED) for id in range(size)]
    pieces = (folder.path / "tokenizer.model").exists()
    byte_level = not pieces and (folder.tokenizer_json.get("decoder") or {}).get("type") == "ByteLevel"
    merges = piece_tokens(folder, table) if pieces else json_tokens(folder, table, byte_level)
    texts, scores, types = zip(*table)
    writer.add_tokenizer_model("gpt2" if byte_level else "llama")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    if byte_level:
        pattern = folder.tokenizer_json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        writer.add_tokenizer_pre(next(name for piece, name in PRE if piece in pattern))
        writer.add_token_merges(merges)
    else:
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores)
    if folder.gemma:
        writer.add_add_space_prefix(False)
    elif folder.arch in PERMUTED and "add_prefix_space" in folder.tokenizer_config:
        writer.add_add_space_prefix(folder.tokenizer_config["add_prefix_space"])
    add_special_tokens(writer, folder, texts, types)
    template = folder.tokenizer_config.get("chat_template")
    if template is None and (folder.path / "chat_template.jinja").exists():
        template = (folder.path / "chat_template.jinja").read_text()
    if template is not None:
        writer.add_chat_template(template)


def add_special_tokens(writer, folder, texts, types):
    config = folder.tokenizer_config
    ids = {}
    for role in ("bos", "eos", "unk", "pad"):
        text = config.get(f"{role}_token")
        text = text["content"] if isinstance(text, dict) else text
        if text in texts:
            ids[role] = texts.index(text)
        elif folder.config.get(f"{role}_token_id") is not None:
            ids[role] = folder.config[f"{role}_token_id"]
        if role in ids:
            getattr(writer, f"add_{role}_token_id")(ids[role])
    for text in ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"):
        if text in texts and types[texts.index(text)] == CONTROL:
            if texts.index(text) != ids["eos"]:
                writer.add_eot_token_id(texts.index(text))
            break
    processor = folder.tokenizer_json.get("post_processor")
    if processor is None:
        add_bos, add_eos = config.get("add_bos_token"), config.get("add_eos_token")
    else:
        steps = processor.get("processors", [processor])
        add_bos = add_eos = False if any(step["type"] == "ByteLevel" for step in steps) else None
        for step in steps:
            if step["type"] == "TemplateProcessing" and step["single"][0].get("SpecialToken", {}).get("id") == config["bos_token"]:
                add_bos = True
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    if add_eos is not None:
        writer.add_add_eos_token(add_eos)


def new_name(name, arch):
    stem, kind = name.rsplit(".", 1)
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    if not match:
        return f"{TENSORS[stem]}.{kind}"
    layer, part = match.groups()
    if part == "post_attention_layernorm":
        ours = "post_attention_norm" if arch in ("gemma2", "gemma3", "olmo2") else "ffn_norm"
    else:
        ours = TENSORS[part]
    return f"blk.{layer}.{ours}.{kind}"


def interleave(rows, heads):
    """Row j·half + i of each head becomes row 2i + j."""
    per_head = rows.shape[0] // heads
    order = [head * per_head + j * per_head // 2 + i for head in range(heads) for i in range(per_head // 2) for j in (0, 1)]
    return rows[order]


def llama3_factors(rope, head_dim):
    factors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * rope["theta"] ** (2 * pair / head_dim)
        low, high = (rope["original_max_position_embeddings"] / rope[key] for key in ("low_freq_factor", "high_freq_factor"))
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            share = (rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"])
            share /= rope["high_freq_factor"] - rope["low_freq_factor"]
            factors.append(1 / ((1 - share) / rope["factor"] + share))
    return np.array(factors, dtype=np.float32)


def with_stacks(found):
    """One tensor for all experts of a layer, or for the norms of all heads."""
    stacks, out = {}, {}
    for name, values in found.items():
        match = re.fullmatch(r"(model\.layers\.\d+)\.(?:\w+\.experts|(self_attn\.\w_layernorm)\.norms)\.(\d+)\.?(.*?)\.?weight", name)
        if match:
            layer, norm, index, part = match.groups()
            stacks.setdefault(f"{layer}.{norm or 'experts.' + part}.weight", {})[int(index)] = values
        elif re.search(r"experts\.gate_up_proj$|block_sparse_moe\.input_linear\.weight$", name):
            layer = re.match(r"model\.layers\.\d+", name).group()
            out[f"{layer}.experts.gate_proj.weight"], out[f"{layer}.experts.up_proj.weight"] = values.chunk(2, dim=1)
        elif re.search(r"experts\.down_proj$|block_sparse_moe\.output_linear\.weight$", name):
            out[re.match(r"model\.layers\.\d+", name).group() + ".experts.down_proj.weight"] = values
        else:
            out[name] = values
    return out | {name: torch.stack([parts[index] for index in range(len(parts))]) for name, parts in stacks.items()}


def add_tensors(writer, folder, kind):
    config = folder.config
    if folder.rope.get("rope_type") == "llama3":
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        writer.add_tensor("rope_freqs.weight", llama3_factors(folder.rope | {"theta": folder.theta}, head_dim))
    if folder.rope.get("rope_type") == "longrope":
        for which in ("long", "short"):
            writer.add_tensor(f"rope_factors_{which}.weight", np.array(folder.rope[f"{which}_factor"], dtype=np.float32))
    for name, values in with_stacks(folder.tensors()).items():
        name = re.sub(r"^(model\.language_model|language_model\.model)\.", "model.", name)
        name = name.removeprefix("language_model.")
        tied = config.get("tie_word_embeddings", folder.gemma)
        if "vision_tower" in name or "multi_modal_projector" in name or (tied and name == "lm_head.weight"):
            continue
        rows = values.to(torch.float32).numpy()
        if folder.arch in PERMUTED and ".self_attn.q_proj." in name:
            rows = interleave(rows, config["num_attention_heads"])
        if folder.arch in PERMUTED and ".self_attn.k_proj." in name:
            rows = interleave(rows, config["num_key_value_heads"])
        if folder.gemma and name.endswith("norm.weight"):
            rows = rows + np.float32(1)
        ours = new_name(name, folder.arch)
        theirs = kind if rows.ndim > 1 and not ours.endswith(ALWAYS_F32) else gguf.GGMLQuantizationType.F32
        writer.add_tensor(ours, gguf.quants.quantize(rows, theirs), raw_dtype=theirs)


def convert(path, out, kind="auto"):
    folder = Folder(path)
    kinds = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
    if kind == "auto":
        bf16 = all(values.dtype == torch.bfloat16 for values in folder.tensors().values())
        kind = "BF16" if bf16 else "F16"
    writer = gguf.GGUFWriter(out, folder.arch)
    writer.add_type("model")
    writer.add_name(path.resolve().name)
    sampling = load(path / "generation_config.json")
    for key, add in (("top_k", writer.add_sampling_top_k), ("top_p", writer.add_sampling_top_p),
                     ("temperature", writer.add_sampling_temp)):
        if key in sampling:
            add(sampling[key])
    writer.add_file_type(kinds[kind])
    writer.add_quantization_version(2)
    if folder.architecture in ENCODERS:
        add_encoder(writer, folder)
        add_encoder_tensors(writer, folder, gguf.GGMLQuantizationType[kind])
    else:
        add_hyperparameters(writer, folder)
        add_tokenizer(writer, folder)
        add_tensors(writer, folder, gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert_adapter(path, base, out):
    """A PEFT adapter as an F32 file: A as it is, B with its rows where the base's are."""
    folder, settings = Folder(base), load(path / "adapter_config.json")
    alpha = settings["lora_alpha"] * (math.sqrt(settings["r"]) if settings["use_rslora"] else 1)
    writer = gguf.GGUFWriter(out, folder.arch)
    writer.add_type("adapter")
    writer.add_name(path.resolve().name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_file_type(0)
    writer.add_quantization_version(2)
    with safe_open(path / "adapter_model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            rows = file.get_tensor(name).to(torch.float32).numpy()
            module, side = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name).groups()
            for which, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads")):
                if side == "B" and folder.arch in PERMUTED and module.endswith(f"self_attn.{which}_proj"):
                    rows = interleave(rows, folder.config[heads])
            writer.add_tensor(f"{new_name(module + '.weight', folder.arch)}.lora_{side.lower()}", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# expected.json: metadata with types, arrays and tensors as FNV-1a hashes of their bytes.


def fnv1a(data):
    state = 0xCBF29CE484222325
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{state:016x}"


def described(field):
    kinds = [kind.name for kind in field.types]
    value = field.contents()
    if kinds[0] != "ARRAY":
        return {"type": kinds[0], "value": value}
    if kinds[-1] == "STRING":
        data = b"".join(text.encode() + b"\0" for text in value)
    else:
        data = np.array(value, dtype={"FLOAT32": "<f4", "INT32": "<i4", "BOOL": "u1"}[kinds[-1]]).tobytes()
    return {"type": f"ARRAY {kinds[-1]}", "length": len(value), "fnv1a": fnv1a(data)}


def describe(path):
    reader = gguf.GGUFReader(path)
    metadata = {key: described(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {
        tensor.name: {"type": tensor.tensor_type.name, "dims": [int(dim) for dim in tensor.shape],
                      "fnv1a": fnv1a(tensor.data.tobytes())}
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}


def write_expected(folder, base=None):
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "reference.gguf"
        convert_adapter(folder, base, out) if base else convert(folder, out)
        (folder / "expected.json").write_text(json.dumps(describe(out), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="auto")
    options = parser.parse_args()
    convert(options.folder, options.out, options.type)
