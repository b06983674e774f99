#!/usr/bin/env python3
"""Compares two GGUF files: metadata with types, tensors byte by byte.

    python3 compare.py OURS.gguf THEIRS.gguf [--allow KEY …]

Prints every difference and ends with status 1 if one is not allowed.
"""

import argparse
import re

import gguf
import numpy as np


def read(path):
    reader = gguf.GGUFReader(path)
    fields = {key: ([kind.name for kind in field.types], field.contents()) for key, field in reader.fields.items()
              if not key.startswith("GGUF.")}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def short(value):
    text = "nothing" if value is None else repr(value)
    return text if len(text) < 90 else text[:90] + " …"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours")
    parser.add_argument("theirs")
    parser.add_argument("--allow", nargs="*", default=[], help="regular expressions of keys and tensors that may differ")
    options = parser.parse_args()
    (fields, tensors), (their_fields, their_tensors) = read(options.ours), read(options.theirs)
    bad = 0

    def tell(name, ours, theirs):
        nonlocal bad
        allowed = any(re.fullmatch(pattern, name) for pattern in options.allow)
        bad += not allowed
        print(f"{'allowed' if allowed else 'DIFFERS'} {name}: {short(ours)} / {short(theirs)}")

    for key in sorted(fields.keys() | their_fields.keys()):
        ours, theirs = fields.get(key), their_fields.get(key)
        if ours != theirs or repr(ours) != repr(theirs):
            if ours and theirs and isinstance(ours[1], list) and len(ours[1]) == len(theirs[1]):
                at = [i for i, pair in enumerate(zip(ours[1], theirs[1])) if pair[0] != pair[1]]
                if at:
                    ours, theirs = [(i, ours[1][i]) for i in at], [theirs[1][i] for i in at]
            tell(key, ours, theirs)
    for name in sorted(tensors.keys() | their_tensors.keys()):
        ours, theirs = tensors.get(name), their_tensors.get(name)
        if ours is None or theirs is None:
            tell(name, ours and "there", theirs and "there")
        elif (ours.tensor_type, list(ours.shape)) != (theirs.tensor_type, list(theirs.shape)):
            tell(name, (ours.tensor_type.name, list(ours.shape)), (theirs.tensor_type.name, list(theirs.shape)))
        elif ours.data.tobytes() != theirs.data.tobytes():
            decoded = [gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in (ours, theirs)]
            tell(name, f"largest difference {np.abs(decoded[0] - decoded[1]).max():.3e}", "bytes differ")
    print(f"{len(fields)} keys, {len(tensors)} tensors: {bad} differences that are not allowed")
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
