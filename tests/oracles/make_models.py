#!/usr/bin/env python3
"""Makes the oracle's models, their GGUF files and the logits that they must give.

    python3 make_models.py --out /tmp/oracle              # everything
    python3 make_models.py --out fixtures --committed     # only what the repository keeps

Per float model: NAME-F32.gguf with the logits of the `transformers` graph. Per quantized file: the
logits of the same graph run in F32 on the weights that the file's blocks decode to, and in quant.json
what llama.cpp makes of that file. llama.cpp also checks the conversion: its logits on every F32 file
must be within TOLERANCE of the `transformers` graph.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import convert
import expect
import models
import peer

TOLERANCE = 1e-3
QUANTS = ("Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q6_K")
# Its defaults are an F16 cache and flash attention; the others show how much of a figure is chance.
PEER_SETTINGS = {
    "default": {"flash_attention": True},
    "no_flash": {},
    "no_flash_f32_cache": {"kv": "f32"},
}
# What the repository keeps beside the float models' F32 files.
COMMITTED = {
    "llama-gqa": ("F16",),
    "qwen2-gqa": ("F16",),
    "quant-llama": QUANTS,
    "quant-qwen2": ("Q8_0", "Q4_K"),
}


def check_float(spec, path, ids, truth, model):
    """Prints how far llama.cpp, and the graph in float64, are from the F32 graph."""
    wide = models.logits_of(model.double(), ids)
    model.float()
    exact = np.abs(peer.logits(path, ids, kv="f32") - truth).max()
    halved = np.abs(peer.logits(path, ids) - truth).max()
    print(f"  llama.cpp F32 cache {exact:.1e}, F16 cache {halved:.1e}; float64 graph {np.abs(wide - truth).max():.1e}")
    assert exact <= TOLERANCE, (spec.name, exact)


def measure_peer(path, ids, truth):
    """llama.cpp's distance from the reference on a quantized or F16 file."""
    entry = {}
    for label, settings in PEER_SETTINGS.items():
        logits = peer.logits(path, ids, **settings)
        clear, wrong = expect.top1(truth, logits)
        entry[label] = {
            "kl_mean": float(expect.kl(truth, logits).mean()),
            "rms": expect.rms_error(truth, logits),
            "top1_clear": clear,
            "top1_wrong": wrong,
        }
    return entry


def make_coded(path, spec, results):
    """Writes the expectation of a file whose weights are not F32, and measures llama.cpp on it."""
    types = convert.tensor_types(path)
    wanted = path.stem.rsplit("-", 1)[1]
    odd = {name: kind for name, kind in types.items() if kind not in (wanted, "F32")}
    assert not odd, (path, odd)
    ids = models.token_ids(spec, models.CODED_POSITIONS)
    truth = models.logits_of(models.build(spec, convert.decoded_weights(path, spec)), ids)
    expect.write_expect(path.with_suffix(".expect"), ids, truth)
    entry = measure_peer(path, ids, truth)
    results[path.stem] = {"format": wanted, "positions": len(ids), "llama_cpp": entry}
    print("  " + path.stem + ": llama.cpp KL " + ", ".join(f"{k} {v['kl_mean']:.3e}" for k, v in entry.items()))


def make_spec(spec, out, scratch, committed, results):
    model, scores, logit_sigma = models.make(spec)
    ids = models.token_ids(spec)
    truth = models.logits_of(model, ids)
    weights = models.weights_of(model, spec)
    print(f"{spec.name}: score σ {', '.join(f'{s:.2f}' for s in scores)}; logit σ {logit_sigma:.2f}")

    quantized = spec in models.QUANT_SPECS
    wanted = COMMITTED.get(spec.name, ()) if committed else ("F16", *(QUANTS if quantized else ()))
    # The repository has no room for the quantized models' F32 files.
    f32 = (scratch if quantized and committed else out) / f"{spec.name}-F32.gguf"
    convert.write_gguf(f32, spec, weights, models.CONTEXT)
    check_float(spec, f32, ids, truth, model)
    if f32.parent == out:
        expect.write_expect(f32.with_suffix(".expect"), ids, truth)
    for kind in wanted:
        path = out / f"{spec.name}-{kind}.gguf"
        if kind == "F16":
            convert.write_gguf(path, spec, weights, models.CONTEXT, half=True)
        else:
            peer.quantize(f32, path, kind)
        make_coded(path, spec, results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--committed", action="store_true", help="only the files the repository keeps")
    options = parser.parse_args()
    torch.set_num_threads(2)
    options.out.mkdir(parents=True, exist_ok=True)

    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for spec in models.SPECS.values():
            make_spec(spec, options.out, Path(scratch), options.committed, results)
    document = {"peer": peer.version(), "tolerance_f32": TOLERANCE, "kl_ratio_max": 1.1, "files": results}
    (options.out / "quant.json").write_text(json.dumps(document, indent=1) + "\n")
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {total} bytes")


if __name__ == "__main__":
    main()
