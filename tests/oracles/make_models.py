#!/usr/bin/env python3
"""Makes the oracle's models, their GGUF files and the logits that they must give.

    python3 make_models.py --group first --out fixtures --committed                # what the repository keeps
    python3 make_models.py --group families --out fixtures --committed             # the same
    python3 make_models.py --group families --out /tmp/oracle                      # every format

Per float model: NAME-F32.gguf with the logits of the `transformers` graph. Per quantized file: the
logits of the same graph run in F32 on the weights that the file's blocks decode to, and in quant.json
what llama.cpp makes of that file. llama.cpp also checks the conversion: its logits on every F32 file
must be within TOLERANCE of the `transformers` graph.
"""

import argparse
import fnmatch
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import checkpoints
import convert
import expect
import models
import peer
import specs

TOLERANCE = 1e-3
COSINE_TOLERANCE = 1e-4
KL_RATIO_MAX = 1.1
QUANTS = ("Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q6_K")
FAMILY_QUANTS = ("Q8_0", "Q4_K")
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
    "quant-gemma2": ("Q4_K",),
    "quant-gemma3": ("Q4_0",),
    "quant-qwen3moe": ("Q4_K",),
    "quant-phi": ("Q8_0",),
}


def check_float(spec, path, ids, truth, model, weights):
    """Prints how far llama.cpp, and the graph in float64, are from the F32 graph.

    Where llama.cpp differs by design, it is compared with the graph changed in the same way: what is checked
    is the file, and that nothing else differs. Its GELU rounds through F16, so that the least difference before
    it may be a step of that table behind it: there, as much is allowed as the table itself moves the graph.
    """
    wide = models.outputs_of(model.double(), ids)
    model.float()
    same = models.build(spec, weights, **spec.peer_changes)
    theirs = models.outputs_of(same, ids) if spec.peer_changes else truth
    allowed = TOLERANCE
    notes = [] if spec.peer == specs.PEER_SAME else [spec.peer]
    if models.with_table_gelu(same):
        stepped = models.outputs_of(same, ids)
        allowed = max(allowed, float(np.abs(stepped - theirs).max()))
        notes.append(f"its GELU alone moves the graph by {np.abs(stepped - theirs).max():.1e}")
        theirs = stepped
    if spec.pooling:
        pooled, states = peer.embeddings(path, ids, spec.pooling)
        exact = np.abs(states - theirs).max()
        pooled_error = expect.cosine_distance(pooled, models.pool(theirs, spec.pooling))
        assert pooled_error <= COSINE_TOLERANCE, (spec.name, pooled_error)
    else:
        exact = np.abs(peer.logits(path, ids, kv="f32", **spec.peer_context) - theirs).max()
    print(
        f"  llama.cpp, F32 cache {exact:.1e}; float64 graph {np.abs(wide - truth).max():.1e}"
        + "".join(f"; {note}" for note in notes)
    )
    assert exact <= allowed, (spec.name, exact, allowed)


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
    ids = models.token_ids(spec, specs.CODED_POSITIONS)
    truth = models.outputs_of(models.build(spec, convert.decoded_weights(path, spec)), ids)
    expect.write_expect(path.with_suffix(".expect"), ids, truth)
    entry = measure_peer(path, ids, truth)
    results[path.stem] = {"format": wanted, "positions": len(ids), "peer": peer.version(), "llama_cpp": entry}
    print("  " + path.stem + ": llama.cpp KL " + ", ".join(f"{k} {v['kl_mean']:.3e}" for k, v in entry.items()))


def all_formats(spec):
    """The formats beside F32. Where llama.cpp computes something else, its KL measures nothing."""
    if spec.pooling or spec.peer != specs.PEER_SAME:
        return ()
    if spec in specs.FAMILY_QUANT_SPECS:
        return "F16", *FAMILY_QUANTS
    return "F16", *(QUANTS if spec in specs.QUANT_SPECS else ())


def make_spec(spec, out, scratch, options, results):
    model, scores, sigma = models.make(spec)
    ids = models.token_ids(spec)
    truth = models.outputs_of(model, ids)
    weights = models.weights_of(model, spec)
    print(f"{spec.name}: score σ {', '.join(f'{s:.2f}' for s in scores)}; output σ {sigma:.2f}", flush=True)

    quantized = spec in specs.QUANT_SPECS + specs.FAMILY_QUANT_SPECS
    wanted = COMMITTED.get(spec.name, ()) if options.committed else all_formats(spec)
    # The repository has no room for the quantized models' F32 files.
    f32 = (scratch if quantized and options.committed else out) / f"{spec.name}-F32.gguf"
    convert.write_gguf(f32, spec, weights)
    check_float(spec, f32, ids, truth, model, weights)
    if options.checkpoints:
        checkpoints.save(options.checkpoints / spec.name, spec, model)
    if f32.parent == out:
        if spec.pooling:
            expect.write_encoder_expect(f32.with_suffix(".expect"), ids, models.pool(truth, spec.pooling), truth)
        else:
            expect.write_expect(f32.with_suffix(".expect"), ids, truth)
    for kind in wanted:
        path = out / f"{spec.name}-{kind}.gguf"
        if kind == "F16":
            convert.write_gguf(path, spec, weights, half=True)
        else:
            peer.quantize(f32, path, kind)
        make_coded(path, spec, results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--committed", action="store_true", help="only the files the repository keeps")
    parser.add_argument("--group", choices=specs.GROUPS, required=True)
    parser.add_argument("--only", default="*", help="pattern of model names; the other entries of quant.json stay")
    parser.add_argument("--checkpoints", type=Path, help="also save each model as a Hugging Face folder in here")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    options.out.mkdir(parents=True, exist_ok=True)

    index = options.out / "quant.json"
    document = json.loads(index.read_text()) if index.exists() else {"files": {}}
    chosen = [spec for spec in specs.GROUPS[options.group] if fnmatch.fnmatch(spec.name, options.only)]
    assert chosen, f"no model is called {options.only}"
    with tempfile.TemporaryDirectory() as scratch:
        for spec in chosen:
            make_spec(spec, options.out, Path(scratch), options, document["files"])
    limits = {"tolerance_f32": TOLERANCE, "tolerance_cosine": COSINE_TOLERANCE, "kl_ratio_max": KL_RATIO_MAX}
    document = limits | {"files": dict(sorted(document["files"].items()))}
    index.write_text(json.dumps(document, indent=1) + "\n")
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {total} bytes")


if __name__ == "__main__":
    main()
