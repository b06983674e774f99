"""Importance matrices as llama.cpp makes them, for `fixtures/imatrix`.

`llama-imatrix` runs over `text.txt` with committed models, and with a small mixture of experts that is made here
and thrown away: its sixth expert is never chosen. The Rust tests read only what is committed.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent
CHUNK = 32
EXPERTS = 7
# name, model, further flags
CASES = [
    ("dense.gguf", "llama-gqa-F32", []),
    ("dense.dat", "llama-gqa-F32", ["--output-format", "dat"]),
    ("output.gguf", "llama-gqa-F32", ["--process-output"]),
    ("tied.gguf", "llama-mha-tied-F32", ["--process-output"]),
    ("biased.gguf", "qwen2-gqa-F32", []),
    ("q8.gguf", "quant-llama-Q8_0", []),
    ("experts.gguf", None, []),
    ("experts.dat", None, ["--output-format", "dat"]),
]


def make_experts(source, target):
    """The dense model with EXPERTS copies of each feed-forward matrix, changed a little, two of them used."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=sub)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    random = np.random.default_rng(5)
    for tensor in reader.tensors:
        name, data = tensor.name, np.array(tensor.data)
        if ".ffn_" not in name or "norm" in name:
            writer.add_tensor(name, data)
            continue
        copies = [data + random.normal(0, 0.02, data.shape).astype(np.float32) for _ in range(EXPERTS)]
        writer.add_tensor(name.replace(".weight", "_exps.weight"), np.stack(copies))
        if "gate" in name:
            # Opposite pairs: one of each is above zero, so an expert whose row is zero is never among the first two.
            rows = random.normal(0, 0.5, (EXPERTS // 2, data.shape[1])).astype(np.float32)
            router = np.concatenate([rows, -rows])
            router = np.insert(router, 5, 0, axis=0)
            writer.add_tensor(name.replace("ffn_gate", "ffn_gate_inp"), router)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-imatrix", default="llama-imatrix", help="llama.cpp's tool [default: from PATH]")
    parser.add_argument("--out", type=Path, default=HERE / "fixtures" / "imatrix")
    args = parser.parse_args()
    text = HERE / "fixtures" / "imatrix" / "text.txt"
    with tempfile.TemporaryDirectory() as folder:
        experts = Path(folder) / "experts.gguf"
        make_experts(HERE / "fixtures" / "llama-gqa-F32.gguf", experts)
        for name, model, flags in CASES:
            model = HERE / "fixtures" / f"{model}.gguf" if model else experts
            out = (args.out / name).resolve()
            command = [args.llama_imatrix, "-m", model.resolve(), "-f", text.name, "-o", out, "--no-ppl"]
            # The cache as the engine has it for such files, one chunk in a batch.
            command += ["-c", str(CHUNK), "-b", str(CHUNK), "-t", "2", "-fa", "off", "-ctk", "f32", "-ctv", "f32"]
            subprocess.run([*command, *flags], check=True, cwd=text.parent, capture_output=True)
            print(f"{out.stat().st_size:7} {name}")


if __name__ == "__main__":
    main()
