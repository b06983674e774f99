#!/usr/bin/env python3
"""Makes seeds/gguf_reader, small files that reach every branch of the GGUF reader, seeds/block_formats and seeds/model.

Needs `pip install gguf==0.19.0` (MIT; brings numpy).
"""
import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFEndian, GGUFWriter, GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES

here = Path(__file__).parent
seeds = here / "seeds" / "gguf_reader"
fixtures = here.parent / "crates" / "gguf" / "tests" / "fixtures"
seeds.mkdir(parents=True, exist_ok=True)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


shutil.copy(fixtures / "all-types.gguf", seeds / "all-types.gguf")
shutil.copy(fixtures / "split-00002-of-00003.gguf", seeds / "split-part.gguf")

rng = np.random.default_rng(1)
writer = GGUFWriter(seeds / "one-block-each.gguf", "llama")
for ty, (_, size) in GGML_QUANT_SIZES.items():
    if ty is T.Q8_1:  # this package has another size for it than ggml
        continue
    writer.add_tensor(ty.name, rng.integers(0, 256, (1, size), dtype=np.uint8), raw_dtype=ty)
finish(writer)

writer = GGUFWriter(seeds / "vocabulary.gguf", "llama")
writer.add_token_list(["<unk>", "<s>", "</s>", "▁the", "a"])
writer.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0])
writer.add_token_types([2, 3, 3, 1, 1])
writer.add_bos_token_id(1)
finish(writer)

version_2 = bytearray((seeds / "vocabulary.gguf").read_bytes())
version_2[4] = 2
(seeds / "version-2.gguf").write_bytes(version_2)

writer = GGUFWriter(seeds / "big-endian.gguf", "llama", endianess=GGUFEndian.BIG)
writer.add_uint32("llama.block_count", 1)
finish(writer)

# seeds/block_formats: for each type its place in the list of types, then 256 plausible weights, whose bytes are blocks too.
folder = here / "seeds" / "block_formats"
folder.mkdir(parents=True, exist_ok=True)
weights = np.random.default_rng(1).standard_normal(256).astype("<f4") * np.float32(0.02)
for place in range(35):
    (folder / f"type-{place:02}").write_bytes(bytes([place]) + weights.tobytes())

# seeds/model: a model of each family that opens, in single precision and in Q8_0. What each byte decides stands in
# fuzz_targets/model.rs, in the order in which `make` and `build` read them.
folder = here / "seeds" / "model"
folder.mkdir(parents=True, exist_ok=True)
for family in range(18):
    for name, ty in ("F32", 0), ("Q8_0", 6):
        sizes = [1, 5, 5, 20, 1, 1, 3, 3, 40, 3, 5, 4, 8]  # two layers of width 32, 2 × 2 heads of 8, a window of 4
        used = [1] if family in (0, 2, 4, 9, 11, 12) else []  # families whose layers may be mixtures of experts
        pieces = [1, 0] * 60  # which optional pieces there are
        seed = bytes([family, 0, *sizes, *used, ty, *pieces])
        (folder / f"family-{family:02}-{name}").write_bytes(seed)

# seeds/swarm: the first byte says what the rest is: descriptions and settings, a calibration, a question to experts, answers.
folder = here / "seeds" / "swarm"
folder.mkdir(parents=True, exist_ok=True)
root = here.parent
for name in ("general", "python"):
    (folder / f"expert-{name}").write_bytes(b"\0" + (root / "experts" / f"{name}.toml").read_bytes())
(folder / "settings").write_bytes(b"\0" + b"""builtin = false
[routing]
strategy = "top:2"
stages = ["keywords", "classifier"]
[synthesis]
strategy = "summarize"
reducer = "general"
[mixture]
tau = 2.0
[memory]
max = "512 MiB"
wait_ms_max = 100
""")
(folder / "calibration").write_bytes(b"\1" + (root / "experts" / "calibration.toml").read_bytes())
(folder / "route").write_bytes(b"\2" + "python\nHow do I sort a list?\nlist.sort\nrust\nWhy is this moved?\nBox::new\n"
                               "c++ templates\nWas ist ein Straßenfest?\nstd::vec\nHow do I sort a Vec in C++?\n".encode())
(folder / "answers").write_bytes(b"\3" + "How many bits has a u16?\n16\nIt has 16 bits.\n1,024.5 KiB\nThe answer is (B).\n"
                                 "yes\n\n`list.sort()` sorts in place\n-3e2\n".encode())
