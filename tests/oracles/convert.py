"""Between `transformers` weights and GGUF tensors, in both directions.

Names follow llama.cpp's converter. What is more than a rename:

- `pairs` families: the rows of Q and K are reordered, because the file's rotation works on pairs (2i, 2i+1) and
  the `transformers` graph on (i, i + head_dim/2);
- gemma: the file holds 1 + weight of every norm;
- experts: one [experts, rows, width] tensor per projection, where `transformers` joins gate and up;
- stablelm's head norms: [heads, head_dim], where `transformers` has one parameter per head;
- nomic: Q, K and V in one tensor.
"""

import gguf
import numpy as np
import torch

import models
from families import FAMILIES
from hyperparameters import add_hyperparameters, add_tokenizer

FACTOR_TENSORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


def halves_to_pairs(rows, heads):
    """Reorders the rows of every head from [first half, second half] to interleaved pairs."""
    head_dim = rows.shape[0] // heads
    split = rows.reshape(heads, 2, head_dim // 2, -1)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def pairs_to_halves(rows, heads):
    head_dim = rows.shape[0] // heads
    split = rows.reshape(heads, head_dim // 2, 2, -1)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def rotated_heads(spec, name):
    """How many heads the rows of this GGUF tensor form, if its rows are reordered; else None."""
    if not FAMILIES[spec.family].pairs:
        return None
    if ".attn_q." in name:
        return spec.heads
    return spec.kv_heads if ".attn_k." in name else None


def split_name(spec, name):
    """(block prefix, stem, kind) of a `transformers` parameter: "blk.0.", "self_attn.q_proj", "weight"."""
    prefix = FAMILIES[spec.family].layers + "."
    block = ""
    if name.startswith(prefix):
        index, name = name.removeprefix(prefix).split(".", 1)
        block = f"blk.{index}."
    stem, kind = name.rsplit(".", 1)
    return block, stem, kind


def gguf_tensors(spec, weights):
    """{GGUF name: float32 array} of a state dict."""
    family = FAMILIES[spec.family]
    tensors = {}
    for name, parameter in weights.items():
        block, stem, kind = split_name(spec, name)
        rows = parameter.float().numpy()
        if stem.endswith(".experts"):
            exps = block + family.names[stem].removesuffix("*_exps")
            if kind == "gate_up_proj":
                half = rows.shape[1] // 2
                tensors[f"{exps}gate_exps.weight"] = rows[:, :half]
                tensors[f"{exps}up_exps.weight"] = rows[:, half:]
            else:
                tensors[f"{exps}down_exps.weight"] = rows
            continue
        if ".norms." in name:
            # norms.0, norms.1 … arrive in order and become the rows of one tensor
            target = f"{block}{family.names[stem.split('.norms.')[0]]}.{kind}"
            tensors[target] = np.vstack([tensors[target], rows]) if target in tensors else rows[None]
            continue
        target = f"{block}{family.names[stem]}.{kind}"
        if family.norm_offset and target.endswith("norm.weight"):
            rows = rows + np.float32(family.norm_offset)
        if heads := rotated_heads(spec, target):
            rows = halves_to_pairs(rows, heads)
        if target.endswith("ffn_gate_inp_shexp.weight"):
            rows = rows[0]
        tensors[target] = rows
    if family.joined_qkv:
        for index in range(spec.layers):
            parts = [tensors.pop(f"blk.{index}.attn_{part}.weight") for part in "qkv"]
            tensors[f"blk.{index}.attn_qkv.weight"] = np.concatenate(parts)
    return {name: np.ascontiguousarray(rows, dtype=np.float32) for name, rows in tensors.items()}


def state_dict(spec, tensors):
    """The inverse of `gguf_tensors`, as a state dict for `models.build`."""
    family = FAMILIES[spec.family]
    back = {theirs: ours for ours, theirs in family.names.items()}
    weights = {}
    for name, rows in tensors.items():
        stem, kind = name.rsplit(".", 1)
        layer = ""
        if stem.startswith("blk."):
            _, index, stem = stem.split(".", 2)
            layer = f"{family.layers}.{index}."
        if stem.endswith("_exps"):
            experts = layer + back["ffn_*_exps"]
            if stem == "ffn_down_exps":
                weights[f"{experts}.down_proj"] = rows
            elif stem == "ffn_gate_exps":
                up = tensors[name.replace("gate", "up")]
                weights[f"{experts}.gate_up_proj"] = np.concatenate([rows, up], axis=1)
        elif stem in ("attn_q_norm", "attn_k_norm") and rows.ndim == 2:
            for head, row in enumerate(rows):
                weights[f"{layer}{back[stem]}.norms.{head}.{kind}"] = row
        elif stem == "attn_qkv" and family.joined_qkv:
            for part, third in zip("qkv", np.split(rows, 3)):
                weights[f"{layer}self_attn.{part}_proj.{kind}"] = third
        else:
            if family.norm_offset and name.endswith("norm.weight"):
                rows = rows - np.float32(family.norm_offset)
            if heads := rotated_heads(spec, name):
                rows = pairs_to_halves(rows, heads)
            if stem == "ffn_gate_inp_shexp":
                rows = rows[None]
            weights[f"{layer}{back[stem]}.{kind}"] = rows
    return {name: torch.from_numpy(np.array(rows, dtype=np.float32)) for name, rows in weights.items()}


def llama3_rope_factors(spec):
    """`rope_freqs.weight`, [head_dim / 2]: by how much Llama-3 scaling divides each frequency."""
    factor, low, high, original = spec.llama3_rope
    half = np.arange(0, spec.head_width, 2, dtype=np.float64) / spec.head_width
    wavelength = 2 * np.pi * spec.rope_theta**half
    smooth = (original / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    scaled = np.where(wavelength > original / low, factor, between)
    return np.where(wavelength < original / high, 1.0, scaled).astype(np.float32)


def factor_tensors(spec):
    """Tensors of RoPE factors, which are no parameters of the `transformers` model."""
    tensors = {}
    if spec.llama3_rope:
        tensors["rope_freqs.weight"] = llama3_rope_factors(spec)
    if spec.rope.get("rope_type") == "longrope":
        tensors["rope_factors_long.weight"] = np.array(spec.rope["long_factor"], dtype=np.float32)
        tensors["rope_factors_short.weight"] = np.array(spec.rope["short_factor"], dtype=np.float32)
    return tensors


def write_gguf(path, spec, weights, half=False):
    """Writes the state dict `weights`; matrices as F16 when `half`, everything else F32."""
    file_type = gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32
    writer = gguf.GGUFWriter(path, spec.arch)
    add_hyperparameters(writer, spec, models.config_of(spec), file_type)
    add_tokenizer(writer, spec)
    for name, rows in (factor_tensors(spec) | gguf_tensors(spec, weights)).items():
        writer.add_tensor(name, rows.astype(np.float16 if half and rows.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_types(path):
    """{tensor name: type name} of a GGUF file."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def decoded_weights(path, spec):
    """The file's weights, decoded by the `gguf` package, as a state dict for `models.build`."""
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name not in FACTOR_TENSORS:
            rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            tensors[tensor.name] = rows.reshape([int(n) for n in reversed(tensor.shape)])
    return state_dict(spec, tensors)
