#!/usr/bin/env python3
"""Checks a `hublab` binary against the expected logits of a folder of models.

    python3 compare.py --hublab ../../target/release/hublab
    python3 compare.py --hublab … --lora fixtures/lora
    python3 compare.py --hublab … --dir /tmp/oracle --sequences 4
    python3 compare.py --hublab … --checkpoints /tmp/checkpoints --lora fixtures/lora

Encoders go through `hublab embed`, adapters of --lora through `hublab logits --lora`. Needs only `numpy`. With --sequences, `transformers` and llama.cpp also run, on that many further
prompts per quantized file, which makes the KL ratio steadier.
With --checkpoints, the folders that make_models.py and make_lora.py save are checked instead of the files: `hublab convert` makes a file
of each, whose outputs must be those that --dir expects. Exit status 1 when anything misses its limit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import expect


def hublab(options, verb, path, ids, arguments=()):
    """The JSON that `hublab VERB MODEL …` answers to token ids on its standard input."""
    command = [options.hublab, verb, path, *options.argument, *arguments]
    prompt = json.dumps({"ids": [int(token) for token in ids]})
    done = subprocess.run(command, input=prompt, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def hublab_logits(options, path, ids, arguments=()):
    """[positions, vocab] from `hublab logits MODEL --all`."""
    answer = hublab(options, "logits", path, ids, ("--all", *arguments))
    logits = np.array(answer["logits"], dtype=np.float64)
    if logits.shape != (len(ids), answer["vocab"]):
        raise RuntimeError(f"logits of shape {logits.shape} for {len(ids)} ids, vocab {answer['vocab']}")
    return logits


def expectation_of(options, path):
    """The `.expect` of a file, which a converted one does not have beside it."""
    folder = options.lora if path.stem.endswith("-lora") else options.dir
    return folder / f"{path.stem}.expect"


def check_float(options, path, tolerance):
    ids, truth = expect.read_expect(expectation_of(options, path))
    difference = np.abs(hublab_logits(options, path, ids, options.f32_argument) - truth)
    passed = bool(difference.max() <= tolerance)
    return passed, f"{difference.max():.2e} | {np.sqrt((difference**2).mean()):.2e} | {len(ids)}"


def check_encoder(options, path, tolerance):
    """`hublab embed` prints {"embeddings": [[…]]}: one pooled, normalised row per text."""
    ids, pooled, _ = expect.read_encoder_expect(expectation_of(options, path))
    (row,) = hublab(options, "embed", path, ids, options.f32_argument)["embeddings"]
    row = np.array(row, dtype=np.float64)
    if row.shape != pooled.shape:
        raise RuntimeError(f"an embedding of shape {row.shape}, expected {pooled.shape}")
    distance, length = expect.cosine_distance(row, pooled), np.linalg.norm(row)
    passed = bool(distance <= tolerance and abs(length - 1) <= tolerance)
    return passed, f"{distance:.2e} | {length:.6f} | {len(ids)}"


def check_adapter(options, path, tolerance):
    bases = path.parent if options.checkpoints else options.lora.parent
    base = bases / f"{path.stem.removesuffix('-lora')}-F32.gguf"
    ids, truth = expect.read_expect(expectation_of(options, path))
    logits = hublab_logits(options, base, ids, (*options.f32_argument, f"--lora={path}"))
    difference = np.abs(logits - truth)
    passed = bool(difference.max() <= tolerance)
    return passed, f"{difference.max():.2e} | {np.sqrt((difference**2).mean()):.2e} | {len(ids)}"


def converted(options, folder, scratch):
    """The F32 file that `hublab convert` makes of a folder; an adapter is made for the base beside it."""
    adapter = (folder / "adapter_config.json").exists()
    path = scratch / (f"{folder.name}.gguf" if adapter else f"{folder.name}-F32.gguf")
    base = ("--base", folder.with_name(folder.name.removesuffix("-lora"))) if adapter else ()
    command = [options.hublab, "convert", folder, path, "--type", "F32", *base]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"convert, exit status {done.returncode}: {done.stderr.strip()}")
    return path


def check_checkpoint(options, folder, scratch, document):
    path = converted(options, folder, scratch)
    if path.stem.endswith("-lora"):
        if not options.lora:
            raise RuntimeError("--lora says where the expectations of adapters are")
        return check_adapter(options, path, document["tolerance_f32"])
    if expect.is_encoder(expectation_of(options, path)):
        return check_encoder(options, path, document["tolerance_cosine"])
    return check_float(options, path, document["tolerance_f32"])


def check_checkpoints(options, document):
    """The folders whose F32 expectation is in --dir, bases before their adapters; returns how many failed."""
    folders = [path for path in sorted(options.checkpoints.iterdir()) if (path / "config.json").exists()]
    folders = [path for path in folders if (options.dir / f"{path.name}-F32.expect").exists()]
    folders += sorted(path.parent for path in options.checkpoints.glob("*/adapter_config.json"))
    assert folders, f"no folder in {options.checkpoints} belongs to a file of {options.dir}"
    with tempfile.TemporaryDirectory() as scratch:
        return table(
            f"Converted checkpoints: as their F32 files (logits within {document['tolerance_f32']}, embeddings within a "
            f"cosine distance of {document['tolerance_cosine']})",
            "largest, or cosine distance | RMS, or length | positions",
            [
                (folder.name, lambda folder=folder: check_checkpoint(options, folder, Path(scratch), document))
                for folder in folders
            ],
        )


class Tally:
    """KL and top-1 figures over one or several prompts."""

    def __init__(self):
        self.kl, self.rms, self.clear, self.wrong = [], [], 0, 0

    def add(self, truth, logits):
        self.kl.append(expect.kl(truth, logits))
        self.rms.append(expect.rms_error(truth, logits))
        clear, wrong = expect.top1(truth, logits)
        self.clear += clear
        self.wrong += wrong

    @property
    def kl_mean(self):
        return float(np.concatenate(self.kl).mean())

    @property
    def rms_mean(self):
        return float(np.mean(self.rms))


def more_prompts(options, path, name, ours, theirs):
    """Adds --sequences prompts beyond the stored one to both tallies; `theirs` restarts from truth."""
    import convert
    import models
    import peer
    import specs

    spec = specs.SPECS[name]
    graph = models.build(spec, convert.decoded_weights(path, spec))
    for sequence in range(options.sequences + 1):
        ids = models.token_ids(spec, specs.CODED_POSITIONS, sequence)
        truth = models.outputs_of(graph, ids)
        theirs.add(truth, peer.logits(path, ids, flash_attention=True))
        if sequence:
            ours.add(truth, hublab_logits(options, path, ids))


def check_coded(options, path, entry, ratio_max):
    ids, truth = expect.read_expect(path.with_suffix(".expect"))
    ours = Tally()
    ours.add(truth, hublab_logits(options, path, ids))
    stored = entry["llama_cpp"]["default"]
    peer_kl, peer_rms = stored["kl_mean"], stored["rms"]
    if options.sequences:
        theirs = Tally()
        more_prompts(options, path, path.stem.rsplit("-", 1)[0], ours, theirs)
        peer_kl, peer_rms = theirs.kl_mean, theirs.rms_mean
    ratio = ours.kl_mean / peer_kl
    passed = bool(ratio <= ratio_max) and ours.wrong == 0
    cells = (
        f"{ours.kl_mean:.3e} | {peer_kl:.3e} | {ratio:.3f} | {ours.rms_mean:.2e} | {peer_rms:.2e} | "
        f"{ours.clear - ours.wrong} of {ours.clear} | {sum(map(len, ours.kl))}"
    )
    return passed, cells


def table(title, columns, checks):
    """Runs (label, check) pairs, prints a Markdown table; returns how many failed."""
    print(f"\n{title}\n\n| model | {columns} | |\n|{'---|' * (columns.count('|') + 3)}")
    failed = 0
    for label, check in checks:
        try:
            passed, cells = check()
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            passed, cells = False, str(error).replace("\n", " ") + " |" * columns.count("|")
        failed += not passed
        print(f"| {label} | {cells} | {'ok' if passed else 'FAIL'} |", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hublab", type=Path, required=True)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--sequences", type=int, default=0, help="further prompts per file, checked live")
    parser.add_argument("--argument", action="append", default=[], help="passed on to hublab, e.g. --argument=--threads=1")
    parser.add_argument("--f32-argument", action="append", default=[], help="the same, for F32 files only: an F32 cache")
    parser.add_argument("--lora", type=Path, help="a folder of adapters, whose bases are in the folder above it")
    parser.add_argument("--checkpoints", type=Path, help="a folder of Hugging Face folders, to be converted and checked")
    options = parser.parse_args()

    document = json.loads((options.dir / "quant.json").read_text())
    tolerance, ratio_max = document["tolerance_f32"], document["kl_ratio_max"]
    if options.checkpoints:
        finish(check_checkpoints(options, document))
    everything = sorted(options.dir.glob("*-F32.gguf"))
    encoders = [path for path in everything if expect.is_encoder(path.with_suffix(".expect"))]
    floats = [path for path in everything if path not in encoders]
    coded = sorted(document["files"].items(), key=lambda item: (item[1]["format"], item[0]))
    assert floats and coded, f"nothing to check in {options.dir}"

    failed = table(
        f"F32 files: logits against `transformers` (largest difference allowed {tolerance})",
        "largest | RMS | positions",
        [(path.stem, lambda path=path: check_float(options, path, tolerance)) for path in floats],
    )
    if encoders:
        failed += table(
            f"Encoders: embeddings against `transformers` (cosine distance allowed {document['tolerance_cosine']})",
            "cosine distance | length | positions",
            [
                (path.stem, lambda path=path: check_encoder(options, path, document["tolerance_cosine"]))
                for path in encoders
            ],
        )
    if options.lora:
        failed += table(
            f"Adapters: logits against `transformers` with merged weights (largest difference allowed {tolerance})",
            "largest | RMS | positions",
            [
                (path.stem, lambda path=path: check_adapter(options, path, tolerance))
                for path in sorted(options.lora.glob("*-lora.gguf"))
            ],
        )
    failed += table(
        f"Other formats: against the F32 graph on the decoded weights (KL ratio allowed {ratio_max})",
        "KL ours | KL llama.cpp | ratio | RMS ours | RMS llama.cpp | top-1 where clear | positions",
        [
            (name, lambda name=name, entry=entry: check_coded(options, options.dir / f"{name}.gguf", entry, ratio_max))
            for name, entry in coded
        ],
    )
    finish(failed)


def finish(failed):
    print(f"\n{failed} failed" if failed else "\nall passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
