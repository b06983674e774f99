#!/usr/bin/env python3
"""Makes LoRA adapters for two of the float models, and the logits of those models with the adapter merged in.

    python3 make_lora.py --out fixtures/lora

NAME-lora.gguf has the form that llama.cpp's `convert_lora_to_gguf` gives a PEFT adapter; NAME-lora.expect has
the logits of the `transformers` graph whose weights are W + alpha / rank · B·A. llama.cpp runs the base model
with the adapter and must agree. NAME-F32.gguf, the base, is in `fixtures`.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import convert
import expect
import models
import peer
import specs
from make_models import TOLERANCE

RANK = 4
ALPHA = 8.0
BASES = ("llama-gqa", "qwen2-gqa")
SEED = 977
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# At least so far must the adapter move the logits, or a run without it might pass.
MOVED = 100 * TOLERANCE


def adapter_of(spec, weights):
    """{parameter name: (A [rank, in], B [out, rank])}; together about half as large as the weights."""
    rng = np.random.default_rng([spec.seed, SEED])
    adapter = {}
    for name, rows in weights.items():
        if name.endswith(".weight") and name.split(".")[-2] in TARGETS:
            a = rng.standard_normal((RANK, rows.shape[1]), dtype=np.float32) / np.float32(np.sqrt(rows.shape[1]))
            b = rng.standard_normal((rows.shape[0], RANK), dtype=np.float32) * np.float32(0.15)
            adapter[name] = torch.from_numpy(a), torch.from_numpy(b)
    return adapter


def merged(weights, adapter):
    return weights | {name: weights[name] + ALPHA / RANK * (b @ a) for name, (a, b) in adapter.items()}


def write_adapter(path, spec, adapter):
    writer = gguf.GGUFWriter(path, spec.arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(f"{spec.name}-lora")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for name, (a, b) in adapter.items():
        # B's rows are the matrix's rows: what is reordered there is reordered here.
        (target, rows), = convert.gguf_tensors(spec, {name: b}).items()
        writer.add_tensor(f"{target}.lora_a", a.numpy())
        writer.add_tensor(f"{target}.lora_b", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_checkpoint(folder, spec, adapter):
    """The adapter as PEFT saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (a, b) in adapter.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = a, b
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bases", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--checkpoints", type=Path, help="also save each adapter as PEFT does in here")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in BASES:
        spec = specs.SPECS[name]
        base = options.bases / f"{name}-F32.gguf"
        # The committed file's weights, so that adapter and base belong together whatever made them.
        weights = convert.decoded_weights(base, spec)
        adapter = adapter_of(spec, weights)
        ids = models.token_ids(spec)
        truth = models.outputs_of(models.build(spec, merged(weights, adapter)), ids)
        path = options.out / f"{name}-lora.gguf"
        write_adapter(path, spec, adapter)
        expect.write_expect(path.with_suffix(".expect"), ids, truth)
        if options.checkpoints:
            save_checkpoint(options.checkpoints / f"{name}-lora", spec, adapter)
        moved = np.abs(truth - models.outputs_of(models.build(spec, weights), ids)).max()
        error = np.abs(peer.logits(base, ids, kv="f32", adapter=path) - truth).max()
        print(f"{name}: {len(adapter)} matrices; moves logits by {moved:.1f}; llama.cpp within {error:.1e}")
        assert moved >= MOVED and error <= TOLERANCE, (name, moved, error)


if __name__ == "__main__":
    main()
