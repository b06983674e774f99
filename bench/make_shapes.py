#!/usr/bin/env python3
"""Writes GGUF files with the exact shapes of well-known models and random weights.

Speed depends on shapes and formats, not on what the weights say, so a benchmark needs no download:
the files made here have every dimension, tensor and metadata key of the model they are named after,
and noise inside. They cannot answer anything.

Needs the PyPI packages `gguf` and `numpy`; with --quantize also llama.cpp's `llama-quantize`.
Memory stays near one slab of one tensor (SLAB_WEIGHTS): tensors are generated while they are written.

    python3 bench/make_shapes.py --out /tmp/shapes --vocab-dir ../shared/vocab \\
        --quantize path/to/llama-quantize
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

SLAB_WEIGHTS = 1 << 24


@dataclass(frozen=True)
class Shape:
    """One model's dimensions, as its published config.json states them."""

    name: str
    arch: str
    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float
    rms_eps: float
    qkv_bias: bool
    vocab_file: str
    tokenizer_pre: str
    # (factor, low_freq_factor, high_freq_factor, original context), None without Llama-3 scaling
    llama3_rope: tuple | None = None
    quants: tuple = field(default=("Q8_0", "Q4_0", "Q4_K_M"))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="qwen2.5-0.5b",
            arch="qwen2",
            layers=24,
            width=896,
            ffn=4864,
            heads=14,
            kv_heads=2,
            head_dim=64,
            vocab=151_936,
            context=32_768,
            rope_theta=1_000_000.0,
            rms_eps=1e-6,
            qkv_bias=True,
            vocab_file="ggml-vocab-qwen2.gguf",
            tokenizer_pre="qwen2",
        ),
        Shape(
            name="llama-3.2-1b",
            arch="llama",
            layers=16,
            width=2048,
            ffn=8192,
            heads=32,
            kv_heads=8,
            head_dim=64,
            vocab=128_256,
            context=131_072,
            rope_theta=500_000.0,
            rms_eps=1e-5,
            qkv_bias=False,
            vocab_file="ggml-vocab-llama-bpe.gguf",
            tokenizer_pre="llama-bpe",
            llama3_rope=(32.0, 1.0, 4.0, 8192),
        ),
    )
}


def llama3_rope_factors(shape):
    """Divisors of the rotation frequencies, [head_dim / 2], after the Llama 3.1 model card's rule."""
    factor, low, high, original = shape.llama3_rope
    half = np.arange(0, shape.head_dim, 2, dtype=np.float64)
    wavelength = 2 * np.pi * shape.rope_theta ** (half / shape.head_dim)
    smooth = (original / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    scaled = np.where(wavelength > original / low, factor, between)
    return np.where(wavelength < original / high, 1.0, scaled).astype(np.float32)


def tensors_of(shape):
    """(name, rows-first dims, kind, σ or mean) of every tensor, in file order.

    Kind "matrix" is F16 noise, "norm" F32 around 1, "bias" F32 around 0, "factors" the RoPE divisors.
    σ = 1/√fan_in keeps activations of order one; the two matrices that write to the residual stream
    are smaller by √(2 · layers), as at the start of training, so that 24 layers do not grow it.
    """
    width, ffn = shape.width, shape.ffn
    q_rows = shape.heads * shape.head_dim
    kv_rows = shape.kv_heads * shape.head_dim
    residual = (2 * shape.layers) ** -0.5
    yield "token_embd.weight", (shape.vocab, width), "matrix", 0.03
    if shape.llama3_rope:
        yield "rope_freqs.weight", (shape.head_dim // 2,), "factors", 0.0
    for index in range(shape.layers):
        block = f"blk.{index}."
        yield block + "attn_norm.weight", (width,), "norm", 1.0
        yield block + "attn_q.weight", (q_rows, width), "matrix", width**-0.5
        yield block + "attn_k.weight", (kv_rows, width), "matrix", width**-0.5
        yield block + "attn_v.weight", (kv_rows, width), "matrix", width**-0.5
        if shape.qkv_bias:
            yield block + "attn_q.bias", (q_rows,), "bias", 0.5
            yield block + "attn_k.bias", (kv_rows,), "bias", 0.5
            yield block + "attn_v.bias", (kv_rows,), "bias", 0.1
        yield block + "attn_output.weight", (width, q_rows), "matrix", residual * q_rows**-0.5
        yield block + "ffn_norm.weight", (width,), "norm", 1.0
        yield block + "ffn_gate.weight", (ffn, width), "matrix", width**-0.5
        yield block + "ffn_up.weight", (ffn, width), "matrix", width**-0.5
        yield block + "ffn_down.weight", (width, ffn), "matrix", 2 * residual * ffn**-0.5
    yield "output_norm.weight", (width,), "norm", 1.0


def add_hyperparameters(writer, shape):
    writer.add_name(f"{shape.name} shape, random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    if shape.arch == "llama":
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
        writer.add_vocab_size(shape.vocab)
        writer.add_rope_dimension_count(shape.head_dim)


def gpt2_byte_alphabet():
    """The 256 printable characters with which byte-level BPE spells bytes (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def add_synthetic_tokenizer(writer, shape):
    """Byte tokens, then padding up to the model's vocabulary size: enough to load and to encode."""
    tokens = [*gpt2_byte_alphabet(), "ĠĠ"]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    tokens += [f"<|pad_{index}|>" for index in range(len(tokens), shape.vocab)]
    types += [gguf.TokenType.UNUSED] * (len(tokens) - len(types))
    types[-1] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.tokenizer_pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # One merge, since loaders refuse a BPE vocabulary without the key.
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(shape.vocab - 1)


def add_real_tokenizer(writer, shape, vocab_path):
    """Copies every `tokenizer.*` key of a vocabulary-only GGUF."""
    reader = gguf.GGUFReader(vocab_path)
    for key, entry in reader.fields.items():
        if not key.startswith("tokenizer."):
            continue
        value = entry.contents()
        if key == "tokenizer.ggml.tokens" and len(value) != shape.vocab:
            sys.exit(f"{vocab_path}: {len(value)} tokens, {shape.name} needs {shape.vocab}")
        subtype = entry.types[1] if len(entry.types) > 1 else None
        writer.add_key_value(key, value, entry.types[0], sub_type=subtype)


def slabs(rng, dims, kind, scale):
    """The tensor's numbers in file order, in pieces of at most SLAB_WEIGHTS."""
    total = int(np.prod(dims))
    for start in range(0, total, SLAB_WEIGHTS):
        noise = rng.standard_normal(min(SLAB_WEIGHTS, total - start), dtype=np.float32)
        if kind == "matrix":
            yield (noise * np.float32(scale)).astype(np.float16)
        elif kind == "norm":
            yield (1 + 0.1 * noise).astype(np.float32)
        else:
            yield (noise * np.float32(scale)).astype(np.float32)


def write_f16(shape, path, vocab_path, seed):
    writer = gguf.GGUFWriter(path, shape.arch)
    add_hyperparameters(writer, shape)
    if vocab_path:
        add_real_tokenizer(writer, shape, vocab_path)
    else:
        add_synthetic_tokenizer(writer, shape)
    plan = list(tensors_of(shape))
    for name, dims, kind, _ in plan:
        dtype = np.dtype(np.float16 if kind == "matrix" else np.float32)
        writer.add_tensor_info(name, dims, dtype, int(np.prod(dims)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()

    # The tensor data is appended by hand, since GGUFWriter wants each tensor whole.
    rng = np.random.default_rng(seed)
    alignment = gguf.GGUF_DEFAULT_ALIGNMENT
    with open(path, "ab") as out:
        out.write(b"\0" * (-out.tell() % alignment))
        for _, dims, kind, scale in plan:
            if kind == "factors":
                llama3_rope_factors(shape).tofile(out)
            else:
                for slab in slabs(rng, dims, kind, scale):
                    slab.tofile(out)
            out.flush()
            out.write(b"\0" * (-out.tell() % alignment))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the GGUF files")
    parser.add_argument("--shape", choices=sorted(SHAPES), action="append", help="default: all")
    parser.add_argument("--vocab-dir", type=Path, help="folder with ggml-vocab-*.gguf (default: byte tokens)")
    parser.add_argument("--quantize", type=Path, help="llama.cpp's llama-quantize: makes the quantized files too")
    parser.add_argument("--quant", action="append", help="only these formats (default: the shape's list)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep-f16", action="store_true", help="keep the F16 file after quantizing")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.shape or sorted(SHAPES):
        shape = SHAPES[name]
        f16 = options.out / f"{name}-F16.gguf"
        vocab = options.vocab_dir / shape.vocab_file if options.vocab_dir else None
        if not f16.exists():
            partial = f16.with_suffix(".partial")
            write_f16(shape, partial, vocab, options.seed)
            partial.rename(f16)
        print(f"{f16}: {f16.stat().st_size} bytes", flush=True)
        if not options.quantize:
            continue
        for quant in options.quant or shape.quants:
            path = options.out / f"{name}-{quant}.gguf"
            partial = path.with_suffix(".partial")
            command = [options.quantize, f16, partial, quant, str(options.threads)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            partial.rename(path)
            print(f"{path}: {path.stat().st_size} bytes", flush=True)
        if not options.keep_f16:
            f16.unlink()


if __name__ == "__main__":
    main()
