"""Writes a trained checkpoint as GGUF: architecture `llama`, weights Q8_0, norms F32.

    python export.py --run DIR --out ../models/default.gguf

Q and K rows are reordered from the half-split rotary pairing of model.py to the
interleaved one that `llama` means in GGUF. The output matrix is tied to the embedding
and therefore not written. `--type f32` writes plain floats (to compare graphs).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch

from conversations import BOS, END, EOS, PAD, SPECIALS, UNK
from model import Config

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

DESCRIPTION = (
    "A tiny model that shows the engine at work offline; not an assistant. It has learned by heart short entries: "
    "names and one-line descriptions from manual pages, the Rust standard library's documentation and the Python "
    "standard library's docstrings, each under the licence of its source."
)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from order 0..n/2, n/2..n to 0, n/2, 1, n/2+1, ..."""
    out, inner = weight.shape
    return weight.reshape(heads, 2, out // heads // 2, inner).swapaxes(1, 2).reshape(out, inner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", choices=["average", "last"], default="average")
    parser.add_argument("--type", choices=["q8_0", "f32"], default="q8_0")
    parser.add_argument("--blend", type=Path, help="an earlier checkpoint of the run: write the mean of both weights")
    parser.add_argument("--name", default="HubLab Tiny Docs")
    parser.add_argument("--description", default=DESCRIPTION)
    args = parser.parse_args()

    checkpoint = torch.load(args.run / "checkpoint.pt", map_location="cpu", weights_only=False)
    c = Config(**checkpoint["config"])
    weights = checkpoint["average"] if args.weights == "average" else checkpoint["model"]
    weights = {k: v.float().numpy() for k, v in weights.items()}
    if args.blend:
        other = torch.load(args.blend, map_location="cpu", weights_only=False)["average"]
        weights = {k: (v + other[k].float().numpy()) / 2 for k, v in weights.items()}
    parts = json.loads((args.run / "tokenizer.json").read_text())["model"]
    tokens = [t for t, _ in sorted(parts["vocab"].items(), key=lambda kv: kv[1])]
    assert tokens[: len(SPECIALS)] == SPECIALS and len(tokens) == c.vocab_size
    merges = [" ".join(m) if isinstance(m, list) else m for m in parts["merges"]]

    unfinished = args.out.with_name(args.out.name + ".tmp")
    w = gguf.GGUFWriter(unfinished, "llama")
    w.add_type("model")
    w.add_name(args.name)
    w.add_description(args.description)
    w.add_license("MIT OR Apache-2.0")
    w.add_license_name("Weights as trained here. Memorised entries: see the description.")
    w.add_size_label(f"{checkpoint_millions(weights):.1f}M")
    w.add_languages(["en"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if args.type == "q8_0" else gguf.LlamaFileType.ALL_F32)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_vocab_size(c.vocab_size)
    w.add_context_length(c.context)
    w.add_embedding_length(c.width)
    w.add_block_count(c.layers)
    w.add_feed_forward_length(c.feed_forward)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(c.rope_base)
    w.add_layer_norm_rms_eps(c.norm_eps)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.UNKNOWN if i == UNK else gguf.TokenType.CONTROL if i < len(SPECIALS)
                       else gguf.TokenType.NORMAL for i in range(len(tokens))])
    w.add_token_merges(merges)
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    w.add_eot_token_id(END)
    w.add_unk_token_id(UNK)
    w.add_pad_token_id(PAD)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, value: np.ndarray) -> None:
        value = np.ascontiguousarray(value, dtype=np.float32)
        if args.type == "q8_0" and value.ndim == 2:
            q = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            w.add_tensor(name, q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            w.add_tensor(name, value)

    add("token_embd.weight", weights["embed.weight"])
    add("output_norm.weight", weights["norm.weight"])
    names = {"attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
             "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    for i in range(c.layers):
        for ours, theirs in names.items():
            value = weights[f"blocks.{i}.{ours}.weight"]
            if ours in ("q", "k"):
                value = interleaved(value, c.heads if ours == "q" else c.kv_heads)
            add(f"blk.{i}.{theirs}.weight", value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(unfinished, args.out)
    print(f"{args.out}: {args.out.stat().st_size} bytes, step {checkpoint['step']}")


def checkpoint_millions(weights: dict[str, np.ndarray]) -> float:
    return sum(v.size for v in weights.values()) / 1e6


if __name__ == "__main__":
    main()
