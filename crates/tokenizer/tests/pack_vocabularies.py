"""Packs the two vocabularies that the tests always have at hand: GGUF in, zlib-compressed text out.

    python pack_vocabularies.py FOLDER_WITH_GGUF

FOLDER_WITH_GGUF holds llama.cpp's `models/ggml-vocab-{llama-spm,gpt-2}.gguf` with their `.inp` and `.out` files
(also in the source distribution of the PyPI package llama-cpp-python). Needs PyPI `gguf`. The format is described in
`data/vocab/README.md`; the script checks that nothing is lost by it.
"""

import pathlib
import shutil
import sys
import zlib

from gguf import GGUFReader


def byte_alphabet():
    return [chr(c) for c in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)]]


def pack_gpt2(field):
    tokens, merges = field("tokens"), field("merges")
    assert tokens == byte_alphabet() + [m.replace(" ", "") for m in merges] + ["<|endoftext|>"]
    assert field("token_type") == [1] * (len(tokens) - 1) + [3]
    return merges


def pack_llama_spm(field):
    tokens, scores, types = field("tokens"), field("scores"), field("token_type")
    first = 259
    assert tokens[:first] == ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    assert types == [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - first)
    assert scores[:first] == [0.0] * first
    lines = []
    for i in range(first, len(tokens)):
        assert not set(tokens[i]) & {"\n", "\t"}
        usual = scores[i] == -float(i - first)
        lines.append(tokens[i] if usual else f"{tokens[i]}\t{scores[i]}")
    return lines


def main():
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(__file__).parent / "data" / "vocab"
    for name, pack in {"gpt-2": pack_gpt2, "llama-spm": pack_llama_spm}.items():
        path = source / f"ggml-vocab-{name}.gguf"
        fields = GGUFReader(path).fields
        lines = pack(lambda key: fields[f"tokenizer.ggml.{key}"].contents())
        packed = zlib.compress("\n".join(lines).encode(), 9)
        (target / f"{name}.zlib").write_bytes(packed)
        for end in ["inp", "out"]:
            shutil.copyfile(f"{path}.{end}", target / f"{name}.{end}")
        print(name, len(lines), "lines,", len(packed), "bytes")


main()
