#!/usr/bin/env python3
"""Makes tests/fixtures/blocks.gguf: packed blocks and what the PyPI package `gguf` makes of them.

Needs `pip install gguf==0.19.0` (MIT; brings numpy). Usage: oracle_blocks.py [--blocks N] [--out FILE]

The committed file has the default number of blocks. For a longer check, make a larger one and point the test at it:
    oracle_blocks.py --blocks 20000 --out /tmp/blocks.gguf
    HUBLAB_GGUF_BLOCKS=/tmp/blocks.gguf cargo test -p hublabio-gguf --test blocks

Tensors, for every type T in lower case:
    T.blocks   random blocks with finite scales, one block a row
    T.fnv      FNV-1a (64 bit) of the little-endian f32 bits of each decoded block, as I64
    T.first    the first blocks decoded, as F32, so that a failure shows values
    encode.input, encode.T    F32 rows of 32 weights and what gguf.quants.quantize makes of them
"""
import argparse
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

# Byte positions of the half-precision scales in a block.
SCALES = {
    T.F16: [0], T.BF16: [0], T.Q4_0: [0], T.Q5_0: [0], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q6_K: [208],
}
FIRST = 3


def random_blocks(rng, ty, n):
    _, size = GGML_QUANT_SIZES[ty]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in SCALES[ty]:
        half = blocks[:, at:at + 2].copy().view(np.uint16)
        # Exponent 31 is infinity or NaN (for BF16 any exponent below 255 would do; these are among them).
        half[(half & 0x7C00) == 0x7C00] &= 0xBFFF
        blocks[:, at:at + 2] = half.view(np.uint8)
    return blocks


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
    rows[1] = np.arange(-16, 16)          # ties in Q8_0 and Q4_0
    rows[2] = -np.arange(32) / 127 * 64
    rows[3] = 2.0 ** -20 * np.arange(32)  # subnormal half precision
    rows[4, 1::2] = -rows[4, 0::2]        # two weights of the same largest magnitude
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fixtures" / "blocks.gguf")
    options = parser.parse_args()
    rng = np.random.default_rng(20260821)

    writer = GGUFWriter(options.out, "fixture")
    writer.add_string("general.source", "PyPI gguf 0.19.0, crates/gguf/tests/oracle_blocks.py")
    for ty in SCALES:
        name = ty.name.lower()
        blocks = random_blocks(rng, ty, options.blocks)
        decoded = dequantize(blocks, ty)
        writer.add_tensor(f"{name}.blocks", blocks, raw_dtype=ty)
        writer.add_tensor(f"{name}.fnv", fnv1a(decoded))
        writer.add_tensor(f"{name}.first", decoded[:FIRST].copy())
    rows = encode_inputs(rng, max(options.blocks // 2, 8))
    writer.add_tensor("encode.input", rows)
    for ty in (T.F16, T.BF16, T.Q8_0, T.Q4_0):
        writer.add_tensor(f"encode.{ty.name.lower()}", quantize(rows, ty).view(np.uint8), raw_dtype=ty)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
