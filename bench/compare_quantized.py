#!/usr/bin/env python3
"""Quantizes one model with hublab and with llama.cpp and compares the perplexity of the files.

compare_quantized.py --hublab BIN --llama FOLDER --model F16.gguf --text FILE [--imatrix FILE] [--types Q4_K_M,IQ2_XS]

FOLDER holds llama-quantize and llama-perplexity; both files are scored by llama.cpp, ours also by hublab. A mix of the same
name must also give every tensor the same type and so a file of the same size; a difference is printed.
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MIXES = ("Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4_MOE Q3_K_L Q3_K_M Q3_K_S IQ3_M IQ3_S IQ3_XS "
         "IQ3_XXS Q2_K Q2_K_S IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S TQ2_0 TQ1_0").split()


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{command} failed:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
    return result.stdout + result.stderr


def peer_perplexity(options, model):
    said = run(options.llama / "llama-perplexity", "-m", model, "-f", options.text, "-c", "512", "-t", "2")
    return float(re.search(r"Final estimate: PPL = ([0-9.]+)", said)[1])


def tensor_types(path):
    from gguf import GGUFReader
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hublab", type=Path, required=True)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--types", default=",".join(MIXES))
    options = parser.parse_args()
    matrix = ["--imatrix", options.imatrix] if options.imatrix else []
    print(f"| type | llama.cpp's file, scored by llama.cpp | ours, by llama.cpp | difference | ours, by hublab | same tensor types |")
    print("|---|---|---|---|---|---|")
    print(f"| source | {peer_perplexity(options, options.model):.4f} | | | | |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for mix in options.types.split(","):
            theirs, ours = folder / "theirs.gguf", folder / "ours.gguf"
            result = subprocess.run(
                [str(part) for part in (options.llama / "llama-quantize", "--allow-requantize", *matrix, options.model, theirs, mix, "2")],
                capture_output=True, text=True)
            made = result.returncode == 0
            run(options.hublab, "quantize", options.model, ours, mix, "--allow-requantize", "--force", *matrix)
            own = peer_perplexity(options, ours)
            reference = peer_perplexity(options, theirs) if made else float("nan")
            scored = json.loads(subprocess.run(
                [str(options.hublab), "perplexity", str(ours), str(options.text), "--json"],
                capture_output=True, text=True, check=True).stdout)["perplexity"]
            same = "no file of llama.cpp" if not made else "yes" if tensor_types(ours) == tensor_types(theirs) else "NO"
            print(f"| {mix} | {reference:.4f} | {own:.4f} | {100 * (own / reference - 1):+.2f} % | {scored:.4f} | {same} |", flush=True)
            for path in (theirs, ours):
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
