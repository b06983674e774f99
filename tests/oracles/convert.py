"""Between `transformers` weights and GGUF files, in both directions.

Names and metadata follow llama.cpp's converter. The one thing that is more than a rename: for `llama`
the rows of Q and K are reordered, because the file's rotation works on pairs (2i, 2i+1) and the
`transformers` graph on (i, i + head_dim/2).
"""

import gguf
import numpy as np
import torch

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
BACK = {theirs: ours for ours, theirs in NAMES.items()}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, index, rest = stem.split(".", 3)
        return f"blk.{index}.{NAMES[rest]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def transformers_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("blk."):
        _, index, rest = stem.split(".", 2)
        return f"model.layers.{index}.{BACK[rest]}.{kind}"
    return f"{BACK[stem]}.{kind}"


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
    if spec.arch != "llama":
        return None
    if ".attn_q." in name:
        return spec.heads
    return spec.kv_heads if ".attn_k." in name else None


def llama3_rope_factors(spec):
    """`rope_freqs.weight`, [head_dim / 2]: by how much Llama-3 scaling divides each frequency."""
    factor, low, high, original = spec.llama3_rope
    half = np.arange(0, spec.head_width, 2, dtype=np.float64) / spec.head_width
    wavelength = 2 * np.pi * spec.rope_theta**half
    smooth = (original / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    scaled = np.where(wavelength > original / low, factor, between)
    return np.where(wavelength < original / high, 1.0, scaled).astype(np.float32)


def add_hyperparameters(writer, spec, context, file_type):
    writer.add_name(spec.name)
    writer.add_file_type(file_type)
    writer.add_block_count(spec.layers)
    writer.add_context_length(context)
    writer.add_embedding_length(spec.width)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_rope_freq_base(spec.rope_theta)
    writer.add_layer_norm_rms_eps(spec.rms_eps)
    if spec.head_dim:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)
    if spec.arch == "llama":
        writer.add_vocab_size(spec.vocab)
        writer.add_rope_dimension_count(spec.head_width)


def byte_alphabet():
    """The 256 characters with which byte-level BPE spells bytes, by byte value (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def add_tokenizer(writer, spec):
    """The smallest byte-level BPE that loads: bytes from 0 up, one merge, unused filling, BOS and EOS.

    A vocabulary under 259 leaves the upper bytes out; ids, not text, go through these models.
    """
    tokens = byte_alphabet()[: spec.vocab - 3]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    tokens.append("ab")
    types.append(gguf.TokenType.NORMAL)
    while len(tokens) < spec.vocab - 2:
        tokens.append(f"<unused{len(tokens)}>")
        types.append(gguf.TokenType.UNUSED)
    tokens += ["<|begin|>", "<|end|>"]
    types += [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe" if spec.arch == "llama" else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(spec.vocab - 2)
    writer.add_eos_token_id(spec.vocab - 1)


def write_gguf(path, spec, weights, context, half=False):
    """Writes the state dict `weights`; matrices as F16 when `half`, everything else F32."""
    file_type = gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32
    writer = gguf.GGUFWriter(path, spec.arch)
    add_hyperparameters(writer, spec, context, file_type)
    add_tokenizer(writer, spec)
    if spec.llama3_rope:
        writer.add_tensor("rope_freqs.weight", llama3_rope_factors(spec))
    for name, tensor in weights.items():
        target = gguf_name(name)
        rows = tensor.numpy()
        if heads := rotated_heads(spec, target):
            rows = halves_to_pairs(rows, heads)
        writer.add_tensor(target, rows.astype(np.float16 if half and rows.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_types(path):
    """{tensor name: type name} of a GGUF file."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def decoded_weights(path, spec):
    """The file's weights, decoded by the `gguf` package, as a state dict for `models.build`."""
    weights = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        rows = rows.reshape([int(n) for n in reversed(tensor.shape)])
        if heads := rotated_heads(spec, tensor.name):
            rows = pairs_to_halves(rows, heads)
        weights[transformers_name(tensor.name)] = torch.from_numpy(rows)
    return weights
