"""How fast the example `throughput` is next to PyPI `tokenizers` and `sentencepiece`: same text, same run, one thread.

    cargo build --release -p hublabio-tokenizer --example throughput
    python throughput_peers.py VOCABULARIES TEXT [--only NAME…] [--rounds 5]

VOCABULARIES is the folder of `ggml-vocab-*.gguf`. The peers are built from the same files by `oracle_tokenizers.py`. Both
sides take the text as one string, and then line by line with one call for each line: some peers are slow on a long
string. The sides take turns, each round giving the best of several runs; figures are the medians of the rounds, and the
ratio is the median of theirs.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from oracle_tokenizers import ORACLES, TRAINED, Oracle, Vocabulary, unpacked  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers  # noqa: E402

NAMES = (
    "gpt-2 llama-bpe qwen2 deepseek-llm starcoder mpt llama-spm bert-bge wordpiece unigram unigram-identity gemma4"
).split()


def ours(path, text):
    """MB/s for each form of the text."""
    example = HERE.parents[2] / "target" / "release" / "examples" / "throughput"
    lines = subprocess.run([example, text, path], check=True, capture_output=True, text=True).stdout.splitlines()
    rate = lambda form: float(next(l for l in lines if l.startswith(f"  {form}:")).split("encode ")[1].split(" ")[0])
    return {form: rate(form) for form in ("text", "lines")}


def unigram_tokenizer(v):
    """tokenizers' Unigram, as T5's tokenizer.json builds it."""
    pieces = [(t, s) for t, s in zip(v.tokens, v.scores)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(v.charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return Oracle(lambda text: tokenizer.encode(text, add_special_tokens=False), lambda encoding: encoding.ids)


def peer(v, library):
    return unigram_tokenizer(v) if (library, v.model) == ("tokenizers", "t5") else ORACLES[v.model](v)


def rate(encode, texts):
    """MB/s, from the best of three runs or as many as fit into half a second, in CPU time.

    On a busy machine long runs are interrupted and short ones are not; by the clock the slower side would lose twice."""
    durations, started = [], time.perf_counter()
    while len(durations) < 3 or time.perf_counter() - started < 0.5:
        before = time.process_time()
        for text in texts:
            encode.raw(text)
        durations.append(time.process_time() - before)
    return sum(len(text.encode()) for text in texts) / 1e6 / min(durations)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    data = args.text.read_bytes().decode("utf-8")
    # As Rust's `lines`: other characters that Python ends lines at do not.
    forms = {"text": [data], "lines": data.replace("\r\n", "\n").removesuffix("\n").split("\n")}
    print("vocabulary | peer | form | peer MB/s | ours MB/s | ratio")
    for name in args.only:
        trained = HERE.parent / "tests" / "data" / "vocab" / f"{name}.gguf.zlib"
        path = unpacked(trained) if name in TRAINED else args.source / f"ggml-vocab-{name}.gguf"
        v = Vocabulary(path, {})
        libraries = {"llama": ["sentencepiece"], "t5": ["tokenizers", "sentencepiece"]}.get(v.model, ["tokenizers"])
        # tokenizers' Precompiled normalizer needs a map.
        libraries = [library for library in libraries if v.model != "t5" or library != "tokenizers" or v.charsmap]
        peers = {library: peer(v, library) for library in libraries}
        rounds = []
        for _ in range(args.rounds):
            mine = ours(path, args.text)
            rounds += [
                (library, form, rate(encode, texts), mine[form])
                for library, encode in peers.items()
                for form, texts in forms.items()
            ]
        for library in libraries:
            for form in forms:
                pairs = [(theirs, mine) for l, f, theirs, mine in rounds if (l, f) == (library, form)]
                theirs, mine = (statistics.median(column) for column in zip(*pairs))
                ratio = statistics.median(mine / theirs for theirs, mine in pairs)
                print(f"{name} | {library} | {form} | {theirs:.2f} | {mine:.2f} | {ratio:.1f}", flush=True)


main()
