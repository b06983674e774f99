"""How fast the example `throughput` is next to PyPI `tokenizers` and `sentencepiece`: same text, same run, one thread.

    cargo build --release -p hublabio-tokenizer --example throughput
    python throughput_peers.py VOCABULARIES TEXT [--only NAME…]

VOCABULARIES is the folder of `ggml-vocab-*.gguf`. The peers are built from the same files by `oracle_tokenizers.py` and
take the text as one string, too. Each figure is the best of several runs.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from oracle_tokenizers import ORACLES, TRAINED, Oracle, Vocabulary, unpacked  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers  # noqa: E402

NAMES = "gpt-2 llama-bpe qwen2 deepseek-llm starcoder mpt llama-spm bert-bge unigram gemma4".split()


def ours(path, text):
    example = HERE.parents[2] / "target" / "release" / "examples" / "throughput"
    lines = subprocess.run([example, text, path], check=True, capture_output=True, text=True).stdout.splitlines()
    line = next(line for line in lines if line.startswith("  text:"))
    return float(line.split("encode ")[1].split(" ")[0])


def unigram_tokenizer(v):
    """tokenizers' Unigram, as T5's tokenizer.json builds it."""
    pieces = [(t, s) for t, s in zip(v.tokens, v.scores)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(v.charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return Oracle(lambda text: tokenizer.encode(text, add_special_tokens=False), lambda encoding: encoding.ids)


def peer(v, text, library):
    encode = unigram_tokenizer(v) if (library, v.model) == ("tokenizers", "t5") else ORACLES[v.model](v)
    data = text.read_text(encoding="utf-8")
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < 3:
        before = time.perf_counter()
        encode.raw(data)
        best = min(best, time.perf_counter() - before)
    return len(data.encode()) / 1e6 / best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", default=NAMES)
    args = parser.parse_args()
    print("vocabulary | peer | peer MB/s | ours MB/s | ratio")
    for name in args.only:
        trained = HERE.parent / "tests" / "data" / "vocab" / f"{name}.gguf.zlib"
        path = unpacked(trained) if name in TRAINED else args.source / f"ggml-vocab-{name}.gguf"
        v = Vocabulary(path, {})
        peers = {"llama": ["sentencepiece"], "t5": ["tokenizers", "sentencepiece"]}
        for library in peers.get(v.model, ["tokenizers"]):
            theirs, mine = peer(v, args.text, library), ours(path, args.text)
            print(f"{name} | {library} | {theirs:.2f} | {mine:.2f} | {mine / theirs:.1f}", flush=True)


main()
