#!/usr/bin/env python3
"""Makes tests/fixtures/blocks.gguf: what the PyPI package `gguf`, and llama.cpp, decode from random blocks.

Needs `pip install gguf==0.19.0` (MIT; brings numpy), and for the types that the package lacks (Q8_K, Q1_0, Q2_0) a build of
llama.cpp (MIT): oracle_blocks.py --ggml PATH/libggml-base.so [--blocks N] [--out FILE]. With that library, every type is
also decoded by llama.cpp and both oracles are compared; the differences are printed and must be zero.

The blocks themselves are not stored: both sides draw them from the generator below. Tensors, for every type T in lower case:
    T.hash     FNV-1a (64 bit) of the little-endian f32 bits of every run of 64 decoded blocks, as I64
    T.first    the first blocks decoded, as F32, so that a failure shows values
    encode.input, encode.T    F32 rows of 32 weights and what gguf.quants.quantize makes of them
"""
import argparse
import ctypes
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

# Type: (id, weights and bytes of a block, byte positions of half-precision scales). The sizes are those of the C structs.
TYPES = {
    "F16": (1, 1, 2, [0]), "BF16": (30, 1, 2, [0]),
    "Q4_0": (2, 32, 18, [0]), "Q4_1": (3, 32, 20, [0, 2]), "Q5_0": (6, 32, 22, [0]), "Q5_1": (7, 32, 24, [0, 2]),
    "Q8_0": (8, 32, 34, [0]), "Q8_1": (9, 32, 36, [0, 2]),
    "Q2_K": (10, 256, 84, [80, 82]), "Q3_K": (11, 256, 110, [108]), "Q4_K": (12, 256, 144, [0, 2]),
    "Q5_K": (13, 256, 176, [0, 2]), "Q6_K": (14, 256, 210, [208]), "Q8_K": (15, 256, 292, []),
    "IQ2_XXS": (16, 256, 66, [0]), "IQ2_XS": (17, 256, 74, [0]), "IQ3_XXS": (18, 256, 98, [0]),
    "IQ1_S": (19, 256, 50, [0]), "IQ4_NL": (20, 32, 18, [0]), "IQ3_S": (21, 256, 110, [0]), "IQ2_S": (22, 256, 82, [0]),
    "IQ4_XS": (23, 256, 136, [0]), "IQ1_M": (29, 256, 56, []), "TQ1_0": (34, 256, 54, [52]), "TQ2_0": (35, 256, 66, [64]),
    "MXFP4": (39, 32, 17, []), "NVFP4": (40, 64, 36, []), "Q1_0": (41, 128, 18, [0]), "Q2_0": (42, 64, 18, [0]),
}
# Names of llama.cpp's scalar decoders; BF16 and F16 have others and need none.
GGML_NAMES = {name: f"dequantize_row_{name[0].lower() + name[1:] if name[0] == 'Q' else name.lower()}" for name in TYPES}
RUN = 64
FIRST = 3


def splitmix64(seed, n):
    """Words 1 … n of the generator: word i is the mix of seed + i · 0x9E3779B97F4A7C15."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def random_blocks(name, n):
    """[n, bytes] from the little-endian words of the generator seeded by the type's id, with finite scales."""
    ident, _, size, halves = TYPES[name]
    words = splitmix64(ident, (n * size + 7) // 8)
    blocks = words.view(np.uint8)[:n * size].reshape(n, size).copy()
    for at in halves:
        # Exponent 31 is infinity or NaN: its top bit goes.
        infinite = (blocks[:, at + 1] & 0x7C) == 0x7C
        blocks[infinite, at + 1] &= 0xBF
    if name == "IQ1_M":
        blocks[:, 55] &= 0xBF    # the top bits of the half-precision scale lie in the top nibble of the last scale
    if name == "Q8_K":
        blocks[:, 3] &= 0xBF     # single precision, at most 2
    if name == "MXFP4":
        blocks[blocks[:, 0] >= 252, 0] &= 0x7F    # beyond it the largest weights leave single precision
    if name == "NVFP4":
        blocks[:, :4] &= 0x7F    # the scale has no sign
        nan = blocks[:, :4] == 0x7F
        blocks[:, :4][nan] = 0
    return blocks


def decode_by_definition(name, blocks):
    """Q8_1, an activation format that neither oracle decodes: d · q."""
    assert name == "Q8_1"
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return d * blocks[:, 4:].view(np.int8).astype(np.float32)


def decode_by_gguf(name, blocks):
    if name in T.__members__:
        try:
            with np.errstate(over="ignore"):
                return dequantize(blocks, T[name]).astype(np.float32)
        except NotImplementedError:
            return None
    return None


def decode_by_ggml(library, name, blocks):
    function = getattr(library, GGML_NAMES[name], None)
    if function is None:
        return None
    out = np.zeros((len(blocks), TYPES[name][1]), dtype=np.float32)
    blocks = np.ascontiguousarray(blocks)
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function.restype = None
    function(blocks.ctypes.data, out.ctypes.data, out.size)
    return out


def fnv1a(rows):
    rows = np.ascontiguousarray(rows).view(np.uint8)
    value = np.full(rows.shape[0], 0xCBF29CE484222325, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in range(rows.shape[1]):
            value = (value ^ rows[:, column]) * np.uint64(0x100000001B3)
    return value.view(np.int64)


def encode_inputs(rng, n):
    rows = rng.standard_normal((n, 32), dtype=np.float32)
    rows *= np.exp2(rng.integers(-12, 10, (n, 1))).astype(np.float32)
    rows[0] = 0
    rows[1] = np.arange(-16, 16)
    rows[2] = -np.arange(32) / 127 * 64
    rows[3] = 2.0 ** -20 * np.arange(32)  # subnormal half precision
    rows[4, 1::2] = -rows[4, 0::2]
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=10_240, help="a multiple of 64")
    parser.add_argument("--ggml", type=Path, help="libggml-base.so of a llama.cpp build")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fixtures" / "blocks.gguf")
    options = parser.parse_args()
    library = ctypes.CDLL(str(options.ggml)) if options.ggml else None

    writer = GGUFWriter(options.out, "fixture")
    writer.add_string("general.source", "PyPI gguf 0.19.0 and llama.cpp, crates/gguf/tests/oracle_blocks.py")
    for name in TYPES:
        blocks = random_blocks(name, options.blocks)
        decoded = {}
        if (found := decode_by_gguf(name, blocks)) is not None:
            decoded["gguf"] = found
        if library and (found := decode_by_ggml(library, name, blocks)) is not None:
            decoded["ggml"] = found
        if name == "Q8_1":
            decoded["definition"] = decode_by_definition(name, blocks)
        assert decoded, f"no oracle for {name}"
        values = next(iter(decoded.values()))
        assert np.isfinite(values).all(), name
        differences = {who: int((other.view(np.uint32) != values.view(np.uint32)).sum()) for who, other in decoded.items()}
        print(f"{name}: {values.size} weights, bits that differ: {differences}")
        writer.add_tensor(f"{name.lower()}.hash", fnv1a(values.reshape(options.blocks // RUN, -1)))
        writer.add_tensor(f"{name.lower()}.first", values[:FIRST].copy())
    rng = np.random.default_rng(20260821)
    rows = encode_inputs(rng, 100)
    writer.add_tensor("encode.input", rows)
    for ty in (T.F16, T.BF16):
        writer.add_tensor(f"encode.{ty.name.lower()}", quantize(rows, ty).view(np.uint8), raw_dtype=ty)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
