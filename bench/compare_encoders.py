#!/usr/bin/env python3
"""Compares our encoders with llama.cpp's on the same weights: (weighted) RMSE and speed.

compare_encoders.py --ggml PATH/libggml-base.so --encode PATH/examples/encode [--types Q4_K,IQ2_XS] [--model F.gguf]

Build the second with `cargo build --release -p hublabio-kernels --example encode`. Needs numpy and gguf of PyPI. Every
data set is [rows, 1024]: Gaussian, Laplacian and heavy-tailed (Student t, 4 degrees of freedom) numbers of deviation 0.02,
and with --model the matrices of a file. Importance is log-normal, one number a column; without it, types that llama.cpp
packs only with an importance matrix get a uniform one. RMSE: sqrt(sum i·(w - w')² / sum i), decoded by llama.cpp.
"""
import argparse
import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19, "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23,
    "IQ1_M": 29, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41, "Q2_0": 42,
}
BYTES = {  # of a block, and its weights
    "Q4_0": (18, 32), "Q4_1": (20, 32), "Q5_0": (22, 32), "Q5_1": (24, 32), "Q8_0": (34, 32), "Q2_K": (84, 256),
    "Q3_K": (110, 256), "Q4_K": (144, 256), "Q5_K": (176, 256), "Q6_K": (210, 256), "IQ2_XXS": (66, 256),
    "IQ2_XS": (74, 256), "IQ3_XXS": (98, 256), "IQ1_S": (50, 256), "IQ4_NL": (18, 32), "IQ3_S": (110, 256),
    "IQ2_S": (82, 256), "IQ4_XS": (136, 256), "IQ1_M": (56, 256), "TQ1_0": (54, 256), "TQ2_0": (66, 256),
    "MXFP4": (17, 32), "NVFP4": (36, 64), "Q1_0": (18, 128), "Q2_0": (18, 64),
}
DEMANDS = {"IQ2_XXS", "IQ2_XS", "IQ1_S"}  # llama.cpp refuses these without an importance matrix


class Ggml:
    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        self.library.ggml_quantize_init.argtypes = [ctypes.c_int]

    def encode(self, name, weights, importance):
        size, length = BYTES[name]
        self.library.ggml_quantize_init(TYPES[name])
        out = np.zeros(weights.size // length * size, dtype=np.uint8)
        pointer = None if importance is None else importance.ctypes.data
        start = time.perf_counter()
        self.library.ggml_quantize_chunk(
            TYPES[name], weights.ctypes.data, out.ctypes.data, 0, weights.shape[0], weights.shape[1], pointer)
        return out, time.perf_counter() - start

    def decode(self, name, packed, shape):
        spelled = name[0].lower() + name[1:] if name[0] == "Q" else name.lower()
        function = getattr(self.library, f"dequantize_row_{spelled}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
        out = np.zeros(shape, dtype=np.float32)
        function(packed.ctypes.data, out.ctypes.data, out.size)
        return out


def ours(program, name, weights, importance, folder):
    weights.tofile(folder / "weights")
    command = [program, name, str(weights.shape[1]), folder / "weights", folder / "packed"]
    if importance is not None:
        importance.tofile(folder / "importance")
        command.append(folder / "importance")
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return np.fromfile(folder / "packed", dtype=np.uint8), float(said.split()[1])


def rmse(weights, decoded, importance):
    columns = np.ones(weights.shape[1]) if importance is None else importance.astype(np.float64)
    error = (weights.astype(np.float64) - decoded) ** 2
    return float(np.sqrt((error * columns).sum() / (columns.sum() * len(weights))))


def data_sets(rows, model):
    rng = np.random.default_rng(3)
    shape = (rows, 1024)
    sets = {
        "gaussian": rng.standard_normal(shape),
        "laplacian": rng.laplace(size=shape) / np.sqrt(2),
        "heavy": rng.standard_t(4, size=shape) / np.sqrt(2),
    }
    sets = {name: (0.02 * values).astype(np.float32) for name, values in sets.items()}
    if model:
        from gguf import GGUFReader
        from gguf.quants import dequantize
        tensors = [t for t in GGUFReader(model).tensors if len(t.shape) == 2 and t.shape[0] % 256 == 0]
        # One matrix of each kind, so that the set stays small; rows joined where the lengths agree.
        chosen = {t.name.split(".")[-2]: t for t in tensors}
        for name, tensor in chosen.items():
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            values = values.reshape(-1, int(tensor.shape[0]))[: max(1, rows * 256 // int(tensor.shape[0]))]
            sets[name] = np.ascontiguousarray(values)
    return sets


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ggml", type=Path, required=True)
    parser.add_argument("--encode", type=Path, required=True)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    ggml = Ggml(options.ggml)
    rng = np.random.default_rng(5)
    sets = data_sets(options.rows, options.model)
    print("| type | data | importance | RMSE llama.cpp | RMSE ours | ratio | Mweights/s llama.cpp | ours |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.types.split(","):
            for data, weights in sets.items():
                columns = np.exp(rng.standard_normal(weights.shape[1])).astype(np.float32)
                for label, importance in (("none", None), ("log-normal", columns)):
                    theirs = importance
                    if importance is None and name in DEMANDS:
                        theirs = np.ones(weights.shape[1], dtype=np.float32)
                    packed, seconds = ggml.encode(name, weights, theirs)
                    reference = rmse(weights, ggml.decode(name, packed, weights.shape), importance)
                    packed, own_seconds = ours(options.encode, name, weights, importance, Path(folder))
                    found = rmse(weights, ggml.decode(name, packed, weights.shape), importance)
                    speed = [weights.size / max(s, 1e-4) / 1e6 for s in (seconds, own_seconds)]
                    # Weights that were packed in this type before come back exactly.
                    ratio = f"{found / reference:.4f}" if reference else "both exact" if not found else "WORSE"
                    print(f"| {name} | {data} | {label} | {reference:.6g} | {found:.6g} | {ratio} "
                          f"| {speed[0]:.2f} | {speed[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
