#!/usr/bin/env python3
"""Asks llama.cpp's `llama-quantize` which type each tensor gets in each kind of file.

Models here have the layers, heads, experts and row lengths that the choice depends on, and nothing else: their
other dimensions are tiny, and `--dry-run` reads no weights. What comes out is `tensor_types.json`, which
`crates/runtime/tests/quantize.rs` compares with. It holds, for each model, the facts that a test needs to build the same
model, and for each kind of file, types → tensor names → layers.

    python3 tests/oracles/tensor_types.py --quantize path/to/llama-quantize \\
        --out crates/runtime/tests/fixtures/tensor_types.json

Needs the PyPI packages `gguf` and `numpy`.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np

KINDS = (
    "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4_MOE Q3_K_L Q3_K_M Q3_K_S "
    "IQ3_M IQ3_S IQ3_XS IQ3_XXS Q2_K Q2_K_S IQ2_M IQ2_S IQ2_XS IQ2_XXS TQ2_0 TQ1_0 IQ1_M IQ1_S Q2_0 Q1_0 F16 BF16"
).split()

# Row lengths matter (whole blocks or not), so widths are those of real models or multiples of a block; numbers of rows
# do not, but loaders check some of them.
MODELS = {
    # Four query heads share a key-value head; an output of its own.
    "llama-gqa": dict(arch="llama", layers=16, width=256, ffn=512, heads=8, kv_heads=2, tied=False),
    # No sharing, another number of layers, tied.
    "llama-mha-tied": dict(arch="llama", layers=26, width=256, ffn=256, heads=4, kv_heads=4, tied=True),
    # Rows of 896 and 4864, as in Qwen2-0.5B: 896 is no multiple of 256.
    "qwen2-0.5b": dict(arch="qwen2", layers=24, width=896, ffn=4864, heads=14, kv_heads=2, tied=True),
    # Rows that only plain numbers fit.
    "llama-odd": dict(arch="llama", layers=8, width=80, ffn=208, heads=2, kv_heads=1, tied=False),
    # Eighty layers with shared heads, as in Llama-2-70B.
    "llama-70b": dict(arch="llama", layers=80, width=256, ffn=256, heads=16, kv_heads=2, tied=False),
    # Eight experts, as in Mixtral.
    "mixtral": dict(arch="llama", layers=32, width=256, ffn=256, heads=8, kv_heads=2, tied=False, experts=8),
    # Many experts.
    "qwen3moe": dict(arch="qwen3moe", layers=24, width=256, ffn=256, heads=8, kv_heads=2, tied=False, experts=16),
}
VOCAB = 32


def write_model(path, model):
    arch, width, heads = model["arch"], model["width"], model["heads"]
    head_dim = width // heads
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_block_count(model["layers"])
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(model["ffn"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(model["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    if "experts" in model:
        writer.add_expert_count(model["experts"])
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(model["ffn"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(VOCAB)])
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([1] * VOCAB)
    for name, shape in tensors(model, head_dim).items():
        dtype = np.float32 if len(shape) == 1 else np.float16
        writer.add_tensor(name, np.zeros(shape[::-1], dtype=dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(model, head_dim):
    """Name → shape, contiguous dimension first."""
    width, ffn, kv = model["width"], model["ffn"], model["kv_heads"] * head_dim
    found = {"token_embd.weight": [width, VOCAB], "output_norm.weight": [width]}
    if not model["tied"]:
        found["output.weight"] = [width, VOCAB]
    for layer in range(model["layers"]):
        block = {
            "attn_norm": [width],
            "attn_q": [width, width],
            "attn_k": [width, kv],
            "attn_v": [width, kv],
            "attn_output": [width, width],
            "ffn_norm": [width],
        }
        if "experts" in model:
            experts = model["experts"]
            block |= {
                "ffn_gate_inp": [width, experts],
                "ffn_gate_exps": [width, ffn, experts],
                "ffn_up_exps": [width, ffn, experts],
                "ffn_down_exps": [ffn, width, experts],
            }
        else:
            block |= {"ffn_gate": [width, ffn], "ffn_up": [width, ffn], "ffn_down": [ffn, width]}
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return found


def types_of(quantize, path, kind, imatrix):
    command = [quantize, "--dry-run", *(["--imatrix", str(imatrix)] if imatrix else []), str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout + done.stderr
    if "no tensor type fallback is defined" in text:
        return None
    assert done.returncode == 0, text
    found = {}
    # "[  3/ 147]  blk.0.attn_k.weight - [ 256, 64, 1, 1], type = f16, size = … MiB -> … MiB (q4_K)"; without arrow: kept
    line = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[[^\]]*\], type = +(\S+), (.*)")
    for name, before, rest in line.findall(text):
        arrow = re.search(r"-> .*\((\S+)\)", rest)
        found[name] = (arrow.group(1) if arrow else before).upper()
    return found


def write_imatrix(path, model):
    """An importance matrix for one tensor: that there is one is what matters to the choice."""
    writer = gguf.GGUFWriter(str(path), "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["nothing"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 128)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, model["width"]), dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ranges(layers):
    """[0, 1, 2, 5] → "0-2,5"."""
    runs = []
    for layer in sorted(layers):
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def compact(types):
    """Types → names, with layers apart: {"Q6_K": {"output.weight": "", "attn_v.weight": "0-1,31"}}."""
    groups = {}
    for name, ty in types.items():
        block = re.fullmatch(r"blk\.(\d+)\.(.*)", name)
        layers = groups.setdefault(ty, {}).setdefault(block.group(2) if block else name, [])
        if block:
            layers.append(int(block.group(1)))
    return {ty: {name: ranges(layers) for name, layers in sorted(names.items())} for ty, names in sorted(groups.items())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantize", required=True, help="llama.cpp's llama-quantize")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            path, imatrix = Path(folder, f"{name}.gguf"), Path(folder, f"{name}.imatrix.gguf")
            write_model(path, model)
            write_imatrix(imatrix, model)
            shapes = tensors(model, model["width"] // model["heads"])
            kinds = {}
            for kind in KINDS:
                for with_imatrix in (False, True):
                    types = types_of(arguments.quantize, path, kind, imatrix if with_imatrix else None)
                    if types is None:
                        print(f"{name}: llama-quantize refuses {kind}")
                        continue
                    assert set(types) == set(shapes), (name, kind, set(types) ^ set(shapes))
                    kinds[kind + "+imatrix" * with_imatrix] = compact(types)
                if kind in kinds and kinds[kind] == kinds[f"{kind}+imatrix"]:
                    del kinds[f"{kind}+imatrix"]
            result[name] = {"model": model, "types": kinds}
            print(f"{name}: {len(shapes)} tensors, {len(kinds)} kinds of files")
            path.unlink()
    arguments.out.write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
