"""What other samplers leave of random logits, for `fixtures/sampling.json`.

Rows of logits come from a generator that the Rust test has too (`row`), so that only its seeds are written down. For each
case: the settings under our names, the tokens of the sequence so far, and for each seed the tokens that are left with
their probabilities. `transformers` computes in double precision with its logits processors; llama.cpp, for what
`transformers` does not have and for whole chains, in single precision through the library in the PyPI package `xllamacpp`.

    venv/bin/python make_sampling.py --out fixtures/sampling.json
"""

import argparse
import ctypes
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from transformers.generation import logits_process as hf

N_VOCAB = 48
MASK = 2**64 - 1


def row(seed):
    """Logits in steps of 2^-20 from -8 to 8, by splitmix64; all different."""
    logits, state = [], seed
    for _ in range(N_VOCAB):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
        logits.append((z >> 40) / 2.0**20 - 8.0)
    assert len(set(logits)) == N_VOCAB
    return np.array(logits)


def support(logits):
    """[[token, probability], …] of what has a probability, by rising token."""
    logits = {t: float(x) for t, x in logits.items() if x > -np.inf}
    top = max(logits.values())
    total = sum(np.exp(x - top) for x in logits.values())
    return [[t, round(float(np.exp(x - top) / total), 9)] for t, x in sorted(logits.items())]


# transformers ---------------------------------------------------------------------------------------------------------

# name, settings, history, processors. Settings name the order where it is not ours: transformers applies temperature first
# in `generate`, but a list of processors has whatever order one gives it.
HF_CASES = [
    ("temperature", {"temperature": 0.6}, [], [hf.TemperatureLogitsWarper(0.6)]),
    ("temperature above 1", {"temperature": 1.9}, [], [hf.TemperatureLogitsWarper(1.9)]),
    ("top-k", {"top_k": 5}, [], [hf.TopKLogitsWarper(5)]),
    ("top-k of more than there are", {"top_k": 500}, [], [hf.TopKLogitsWarper(500)]),
    ("top-p", {"top_p": 0.9}, [], [hf.TopPLogitsWarper(0.9)]),
    ("top-p, small", {"top_p": 0.05}, [], [hf.TopPLogitsWarper(0.05)]),
    ("top-p, large", {"top_p": 0.9999}, [], [hf.TopPLogitsWarper(0.9999)]),
    ("top-p, at least 4", {"top_p": 0.3, "min_keep": 4}, [], [hf.TopPLogitsWarper(0.3, min_tokens_to_keep=4)]),
    ("min-p", {"min_p": 0.05}, [], [hf.MinPLogitsWarper(0.05)]),
    ("min-p, at least 6", {"min_p": 0.5, "min_keep": 6}, [], [hf.MinPLogitsWarper(0.5, min_tokens_to_keep=6)]),
    ("typical", {"typical_p": 0.9}, [], [hf.TypicalLogitsWarper(0.9)]),
    ("typical, small", {"typical_p": 0.2}, [], [hf.TypicalLogitsWarper(0.2)]),
    ("typical, at least 5", {"typical_p": 0.1, "min_keep": 5}, [],
     [hf.TypicalLogitsWarper(0.1, min_tokens_to_keep=5)]),
    ("repetition penalty", {"repetition_penalty": 1.3}, [3, 3, 7, 11, 40],
     [hf.RepetitionPenaltyLogitsProcessor(1.3)]),
    ("repetition reward", {"repetition_penalty": 0.8}, [1, 2, 2, 47], [hf.RepetitionPenaltyLogitsProcessor(0.8)]),
    ("logit bias", {"logit_bias": [[4, 3.5], [9, -2.0], [30, 6.25]]}, [0],
     [hf.SequenceBiasLogitsProcessor([[[4], 3.5], [[9], -2.0], [[30], 6.25]])]),
    ("forbidden tokens", {"logit_bias": [[t, "-inf"] for t in range(0, 48, 2)]}, [],
     [hf.SuppressTokensLogitsProcessor(list(range(0, 48, 2)))]),
    ("top-k, top-p, then temperature", {"top_k": 12, "top_p": 0.8, "temperature": 0.7}, [],
     [hf.TopKLogitsWarper(12), hf.TopPLogitsWarper(0.8), hf.TemperatureLogitsWarper(0.7)]),
    ("as generate orders them",
     {"repetition_penalty": 1.2, "temperature": 1.4, "top_k": 20, "top_p": 0.92, "min_p": 0.02, "typical_p": 0.95,
      "order": "penalties,temperature,top_k,top_p,min_p,typ_p"}, [5, 17, 17, 31],
     [hf.RepetitionPenaltyLogitsProcessor(1.2), hf.TemperatureLogitsWarper(1.4), hf.TopKLogitsWarper(20),
      hf.TopPLogitsWarper(0.92), hf.MinPLogitsWarper(0.02), hf.TypicalLogitsWarper(0.95)]),
    ("typical, then top-k", {"typical_p": 0.8, "top_k": 4, "order": "typ_p,top_k"}, [],
     [hf.TypicalLogitsWarper(0.8), hf.TopKLogitsWarper(4)]),
]


def by_transformers(seed, history, processors):
    scores = torch.from_numpy(row(seed))[None]
    ids = torch.tensor([history or [0]], dtype=torch.long)
    for process in processors:
        scores = process(ids, scores)
    return support(dict(enumerate(scores[0].numpy())))


# llama.cpp ------------------------------------------------------------------------------------------------------------


class Token(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float)]


class Tokens(ctypes.Structure):
    _fields_ = [("data", ctypes.POINTER(Token)), ("size", ctypes.c_size_t), ("selected", ctypes.c_int64),
                ("sorted", ctypes.c_bool)]


class Bias(ctypes.Structure):
    _fields_ = [("token", ctypes.c_int32), ("bias", ctypes.c_float)]


class Vector(ctypes.Structure):
    """std::vector of libstdc++ and libc++: three pointers."""
    _fields_ = [("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p)]


def vector(array):
    begin = ctypes.addressof(array)
    return Vector(begin, begin + ctypes.sizeof(array), begin + ctypes.sizeof(array))


class Llama:
    DRY = "_Z30llama_sampler_init_dry_testingffiiRKSt6vectorIS_IiSaIiEESaIS1_EE"

    def __init__(self):
        folder = Path(importlib.util.find_spec("xllamacpp").origin).parent
        self.library = ctypes.CDLL(str(next(folder.glob("*.so"))))

    def make(self, name, *arguments):
        function = getattr(self.library, name)
        function.restype = ctypes.c_void_p
        return ctypes.c_void_p(function(*arguments))

    def sampler(self, kind, *values):
        i, f, n = ctypes.c_int32, ctypes.c_float, ctypes.c_size_t
        match kind:
            case "bias":
                biases = (Bias * len(values))(*values)
                return self.make("llama_sampler_init_logit_bias", i(N_VOCAB), i(len(values)), biases)
            case "penalties":
                return self.make("llama_sampler_init_penalties", i(N_VOCAB), i(values[0]), *map(f, values[1:]))
            case "dry":
                multiplier, base, allowed, window, breakers = values
                inner = [(i * len(b))(*b) for b in breakers]
                outer = (Vector * len(inner))(*map(vector, inner))
                whole = vector(outer)
                return self.make(self.DRY, f(multiplier), f(base), i(allowed), i(window), ctypes.byref(whole))
            case "top_n_sigma":
                return self.make("llama_sampler_init_top_n_sigma", f(*values))
            case "top_k":
                return self.make("llama_sampler_init_top_k", i(*values))
            case "typical" | "top_p" | "min_p":
                return self.make(f"llama_sampler_init_{kind}", f(values[0]), n(values[1]))
            case "xtc":
                return self.make("llama_sampler_init_xtc", f(values[0]), f(values[1]), n(values[2]), i(1))
            case "temperature":
                return self.make("llama_sampler_init_temp_ext", *map(f, values))
            case "mirostat":
                return self.make("llama_sampler_init_mirostat_v2", i(values[2]), f(values[0]), f(values[1]))

    def apply(self, samplers, logits):
        tokens = (Token * N_VOCAB)(*[Token(t, x, 0.0) for t, x in enumerate(logits)])
        array = Tokens(tokens, N_VOCAB, -1, False)
        for sampler in samplers:
            self.library.llama_sampler_apply(sampler, ctypes.byref(array))
        left = {array.data[i].id: array.data[i].logit for i in range(array.size)}
        selected = array.data[array.selected].id if array.selected >= 0 else None
        return support(left), selected

    def accept(self, samplers, history):
        for token in history:
            for sampler in samplers:
                self.library.llama_sampler_accept(sampler, ctypes.c_int32(token))


LOOP = [1, 2, 3, 4, 5, 9, 9, 1, 2, 3, 4, 6, 1, 2, 3, 4]
BREAKERS = [[2], [40, 41]]
# name, settings, history, samplers in their order.
LLAMA_CASES = [
    ("top-n-sigma 1", {"top_n_sigma": 1.0}, [], [("top_n_sigma", 1.0)]),
    ("top-n-sigma 2.5", {"top_n_sigma": 2.5}, [], [("top_n_sigma", 2.5)]),
    ("top-n-sigma of the hot logits", {"top_n_sigma": 1.5, "temperature": 2.0, "order": "temperature,top_n_sigma"}, [],
     [("temperature", 2.0, 0.0, 1.0), ("top_n_sigma", 1.5)]),
    ("XTC", {"xtc": [1.0, 0.1]}, [], [("xtc", 1.0, 0.1, 1)]),
    ("XTC, low threshold", {"xtc": [1.0, 0.01]}, [], [("xtc", 1.0, 0.01, 1)]),
    ("XTC after top-k, at least 4", {"xtc": [1.0, 0.02], "top_k": 7, "min_keep": 4}, [],
     [("top_k", 7), ("xtc", 1.0, 0.02, 4)]),
    ("dynamic temperature", {"temperature": 1.0, "dynamic": [0.8, 1.0]}, [], [("temperature", 1.0, 0.8, 1.0)]),
    ("dynamic temperature with exponent, after top-k", {"temperature": 0.7, "dynamic": [0.5, 2.5], "top_k": 10}, [],
     [("top_k", 10), ("temperature", 0.7, 0.5, 2.5)]),
    ("three penalties", {"repetition_penalty": 1.15, "frequency_penalty": 0.4, "presence_penalty": 0.25,
                         "penalty_window": 6}, LOOP, [("penalties", 6, 1.15, 0.4, 0.25)]),
    ("DRY", {"dry": [0.8, 1.75, 2, 64, [[47]]]}, LOOP, [("dry", 0.8, 1.75, 2, 64, [[47]])]),
    ("DRY, allowed length 4", {"dry": [1.5, 2.5, 4, 64, [[47]]]}, LOOP, [("dry", 1.5, 2.5, 4, 64, [[47]])]),
    ("DRY, range 9", {"dry": [0.8, 1.75, 2, 9, [[47]]]}, LOOP, [("dry", 0.8, 1.75, 2, 9, [[47]])]),
    ("DRY, broken by a token", {"dry": [0.8, 1.75, 1, 64, BREAKERS]}, LOOP, [("dry", 0.8, 1.75, 1, 64, BREAKERS)]),
    ("DRY, broken by two tokens", {"dry": [0.8, 1.75, 2, 64, BREAKERS]},
     [7, 40, 41, 5, 6, 8, 7, 40, 41, 5, 6], [("dry", 0.8, 1.75, 2, 64, BREAKERS)]),
    ("DRY, a breaker that is only begun", {"dry": [0.8, 1.75, 2, 64, BREAKERS]},
     [7, 40, 5, 6, 8, 7, 40, 5, 6], [("dry", 0.8, 1.75, 2, 64, BREAKERS)]),
    ("DRY, one token over and over", {"dry": [0.01, 1.75, 2, 64, [[47]]]}, [13] * 12,
     [("dry", 0.01, 1.75, 2, 64, [[47]])]),
    ("greedy", {"temperature": 0.0}, [], [("temperature", 0.0, 0.0, 1.0)]),
    # Top-k leaves fewer than top-n-sigma: llama.cpp keeps what top-n-sigma takes away with a probability of 0, whose
    # logarithm would turn the entropy of its typical sampler into NaN.
    ("the whole chain",
     {"logit_bias": [[8, 2.0]], "repetition_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.2,
      "penalty_window": 64, "dry": [0.8, 1.75, 2, 64, [[47]]], "top_n_sigma": 2.0, "top_k": 11, "typical_p": 0.97,
      "top_p": 0.95, "min_p": 0.01, "xtc": [1.0, 0.15], "temperature": 0.8, "dynamic": [0.3, 1.0], "min_keep": 2}, LOOP,
     [("bias", (8, 2.0)), ("penalties", 64, 1.1, 0.1, 0.2), ("dry", 0.8, 1.75, 2, 64, [[47]]), ("top_n_sigma", 2.0),
      ("top_k", 11), ("typical", 0.97, 2), ("top_p", 0.95, 2), ("min_p", 0.01, 2), ("xtc", 1.0, 0.15, 2),
      ("temperature", 0.8, 0.3, 1.0)]),
    ("the chain reversed",
     {"penalty_window": 64, "repetition_penalty": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.02, "temperature": 1.5,
      "order": "temperature,min_p,top_p,top_k,penalties"}, LOOP,
     [("temperature", 1.5, 0.0, 1.0), ("min_p", 0.02, 1), ("top_p", 0.9, 1), ("top_k", 9),
      ("penalties", 64, 1.3, 0.0, 0.0)]),
]
MIROSTAT_CASES = [("mirostat 2", 3.0, 0.1), ("mirostat 2, low", 1.0, 0.5), ("mirostat 2, high", 5.0, 0.9)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    llama, cases, seed = Llama(), [], 0
    for name, settings, history, processors in HF_CASES:
        seeds = range(seed := seed + 100, seed + 6)
        rows = [[s, by_transformers(s, history, processors)] for s in seeds]
        cases.append({"name": name, "oracle": "transformers", "settings": settings, "history": history, "rows": rows})
    for name, settings, history, kinds in LLAMA_CASES:
        samplers = [llama.sampler(*kind) for kind in kinds]
        llama.accept(samplers, history)
        seeds = range(seed := seed + 100, seed + 6)
        rows = [[s, llama.apply(samplers, row(s))[0]] for s in seeds]
        cases.append({"name": name, "oracle": "llama.cpp", "settings": settings, "history": history, "rows": rows})
    # Mirostat's limit follows what was drawn: three rows are one sequence, with the tokens that llama.cpp drew.
    for name, target, rate in MIROSTAT_CASES:
        for sequence in range(4):
            sampler = llama.sampler("mirostat", target, rate, 1000 + sequence)
            seeds = range(seed := seed + 100, seed + 3)
            rows = [[s, *llama.apply([sampler], row(s))] for s in seeds]
            cases.append({"name": name, "oracle": "llama.cpp", "settings": {"mirostat": [target, rate]}, "history": [],
                          "rows": rows})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    arguments.out.write_text(f'{{"n_vocab":{N_VOCAB},"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
