#!/usr/bin/env python3
"""Makes the small GGUF files that the reader and writer tests compare with, through the PyPI package `gguf`.

Needs `pip install gguf==0.19.0` (MIT; brings numpy). Usage: oracle_files.py [FOLDER]
    all-types.gguf               every metadata type, arrays of every type, nested arrays, tensors of several types
    split-0000N-of-00003.gguf    five tensors in three parts
The values are written down again in tests/reader.rs and tests/split.rs.
"""
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T, GGUFValueType as V
from gguf.quants import quantize

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "fixtures"


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


writer = GGUFWriter(folder / "all-types.gguf", "fixture")
writer.add_custom_alignment(64)
writer.add_uint8("t.u8", 200)
writer.add_int8("t.i8", -100)
writer.add_uint16("t.u16", 60000)
writer.add_int16("t.i16", -30000)
writer.add_uint32("t.u32", 4000000000)
writer.add_int32("t.i32", -2000000000)
writer.add_float32("t.f32", 0.1)
writer.add_bool("t.bool", True)
writer.add_string("t.string", "▁grüß Gott\n\0 🦀")
writer.add_uint64("t.u64", 2**63 + 1)
writer.add_int64("t.i64", -(2**63))
writer.add_float64("t.f64", 0.1)
arrays = {
    "u8": (V.UINT8, [0, 255]), "i8": (V.INT8, [-128, 127]), "u16": (V.UINT16, [65535]), "i16": (V.INT16, [-32768, 1, 2]),
    "u32": (V.UINT32, [1, 2**32 - 1]), "i32": (V.INT32, [-1, 7]), "f32": (V.FLOAT32, [1.5, -0.25]),
    "bool": (V.BOOL, [True, False, True]), "string": (V.STRING, ["", "a", "Ġthe", "日本"]),
    "u64": (V.UINT64, [2**64 - 1]), "i64": (V.INT64, [-(2**63)]), "f64": (V.FLOAT64, [1e300]),
}
for name, (kind, items) in arrays.items():
    writer.add_key_value(f"a.{name}", items, V.ARRAY, sub_type=kind)
writer.add_array("a.nested", [[1, 2], [3]])
writer.add_array("a.mixed", [["x", "y"], [[0.5], [True, False]]])

weights = (np.arange(3 * 64, dtype=np.float32).reshape(3, 64) - 90) / 16
writer.add_tensor("scalar", np.array(2.5, dtype=np.float32))
writer.add_tensor("vector", np.arange(5, dtype=np.float32))
writer.add_tensor("four", np.arange(24, dtype=np.int16).reshape(2, 3, 1, 4))
for ty in (T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q5_0, T.Q4_1):
    data = quantize(weights, ty)
    writer.add_tensor(f"w.{ty.name.lower()}", data.view(np.uint8), raw_dtype=ty)
finish(writer)

writer = GGUFWriter(folder / "split.gguf", "fixture", split_max_tensors=2)
writer.add_uint32("fixture.answer", 42)
for i in range(5):
    writer.add_tensor(f"t.{i}", np.full(3 + i, i, dtype=np.float32))
finish(writer)
