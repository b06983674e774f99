#!/usr/bin/env python3
"""Runs what was converted: are the weights where the graphs look for them?

    python3 graphs.py MODELS --hublab HUBLAB [--perplexity LLAMA_PERPLEXITY] [--run llama qwen2 …]

For each folder of `make_models.py`: the tokens of a text against `sentencepiece` or `tokenizers`; the F32 conversion's logits in `hublab logits` against `transformers` (families that
--run names, as GGUF calls them; limit 1e-3), and llama.cpp's perplexity of a text against that of `transformers` on the same
tokens in the same windows.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer

import reference

CONTEXT = 96
TEXT = Path(__file__).resolve().parents[3] / "CONTRIBUTING.md"


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def model_of(folder):
    config = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def hublab_logits(hublab, path, ids):
    run = subprocess.run([hublab, "logits", path, "--all"], input=json.dumps({"ids": ids}), capture_output=True, text=True)
    return (None, run.stderr.strip()) if run.returncode else (np.array(json.loads(run.stdout)["logits"]), None)


def ids_of(folder, text):
    """The tokens of a text by the library that the tokenizer comes from."""
    if (folder / "tokenizer.model").exists():
        return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(text)
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def windows(hublab, path, text, folder):
    """Token windows as llama-perplexity cuts them: each begins with BOS where the file says so."""
    reader = reference.gguf.GGUFReader(path)
    add_bos = reader.get_field("tokenizer.ggml.add_bos_token")
    bos = reader.get_field("tokenizer.ggml.bos_token_id")
    bos = bos.contents() if add_bos is not None and add_bos.contents() else None
    output = subprocess.run([hublab, "tokenize", path, "--json"], input=text, capture_output=True, text=True, check=True)
    ids = json.loads(output.stdout)["ids"]
    assert ids == ids_of(folder, text), f"{folder.name}: other tokens than its own tokenizer's"
    ids = ([bos] if bos is not None else []) + ids
    cut = [ids[at:at + CONTEXT] for at in range(0, len(ids) - CONTEXT + 1, CONTEXT)]
    return [[bos, *window[1:]] if bos is not None else window for window in cut]


def perplexity(model, cut):
    total, count = 0.0, 0
    for ids in cut:
        logits = logits_of(model, ids)
        shifted = logits - logits.max(axis=1, keepdims=True)
        logprob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        scored = range(CONTEXT // 2, CONTEXT - 1)
        total -= sum(logprob[at, ids[at + 1]] for at in scored)
        count += len(scored)
    return float(np.exp(total / count))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--hublab", required=True)
    parser.add_argument("--perplexity")
    parser.add_argument("--run", nargs="*", default=sorted(set(reference.ARCH.values())))
    options = parser.parse_args()
    torch.set_num_threads(2)
    text = TEXT.read_text()[:4000]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "text.txt").write_text(text)
        for folder in sorted(path for path in options.models.iterdir() if path.is_dir()):
            if reference.Folder(folder).architecture in reference.ENCODERS:
                continue  # They have no logits.
            path = Path(scratch) / f"{folder.name}.gguf"
            subprocess.run([options.hublab, "convert", folder, path, "--type", "F32"], check=True, capture_output=True)
            model = model_of(folder)
            cut = windows(options.hublab, path, text, folder)
            line = f"{folder.name}:"
            if reference.Folder(folder).arch in options.run:
                ours, refusal = hublab_logits(options.hublab, path, cut[0])
                if refusal:
                    line += f" {refusal};"
                else:
                    theirs = logits_of(model, cut[0])
                    difference = np.abs(ours - theirs).max()
                    line += f" logits differ by at most {difference:.1e} (their σ {theirs.std():.2f});"
                    assert difference <= 1e-3, line
            if options.perplexity:
                run = subprocess.run([options.perplexity, "-m", path, "-f", f"{scratch}/text.txt", "-c", str(CONTEXT), "-b",
                                      str(CONTEXT), "-t", "2", "-fa", "off", "-ctk", "f32", "-ctv", "f32"],
                                     capture_output=True, text=True)
                found = re.search(r"Final estimate: PPL = ([\d.]+)", run.stdout + run.stderr)
                assert found, run.stderr[-2000:]
                line += f" perplexity: llama.cpp {float(found[1]):.4f}, transformers {perplexity(model, cut):.4f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
