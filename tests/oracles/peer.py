"""llama.cpp as the second opinion, through the shared library inside the PyPI package `xllamacpp`.

That package's extension module exports llama.cpp's C interface, so nothing has to be compiled. Only the
two parameter structures are laid out here; `_check_layout` compares their defaults with known ones, so a
package built from another llama.h is refused instead of misread. LLAMA_CPP_LIB names another library.
"""

import ctypes
import importlib.util
import os
import sys
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref
from ctypes import c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path

import gguf
import numpy as np

# ggml's type and llama.cpp's file type (`general.file_type`) of each format that `quantize` makes.
FORMATS = {
    "Q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    "Q5_0": (gguf.GGMLQuantizationType.Q5_0, gguf.LlamaFileType.MOSTLY_Q5_0),
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "Q4_K": (gguf.GGMLQuantizationType.Q4_K, gguf.LlamaFileType.MOSTLY_Q4_K_S),
    "Q6_K": (gguf.GGMLQuantizationType.Q6_K, gguf.LlamaFileType.MOSTLY_Q6_K),
}
# Matrices that `llama-quantize` never touches, even with --pure.
KEPT = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")
GGML_TYPES = {"f32": 0, "f16": 1}
FLASH_ATTENTION = {False: 0, True: 1}
EMBEDDING_POOLING = {None: 0, "mean": 1, "cls": 2}


def _fields(*groups):
    return [(name, kind) for kind, names in groups for name in names.split()]


class _ModelParams(Structure):
    _fields_ = _fields(
        (c_void_p, "devices tensor_buft_overrides"),
        (c_int32, "n_gpu_layers split_mode load_mode lazy_mode main_gpu"),
        (c_void_p, "tensor_split progress_callback progress_callback_user_data kv_overrides"),
        (c_bool, "vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp"),
    )


class _ContextParams(Structure):
    _fields_ = _fields(
        (c_uint32, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq"),
        (c_int32, "n_threads n_threads_batch"),
        (c_int32, "ctx_type rope_scaling_type pooling_type attention_type flash_attn_type"),
        (c_float, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"),
        (c_uint32, "yarn_orig_ctx"),
        (c_float, "defrag_thold"),
        (c_void_p, "cb_eval cb_eval_user_data"),
        (c_int32, "type_k type_v"),
        # The released header has one word more here than the one this was read from; it is zero by default.
        (c_void_p, "unnamed abort_callback abort_callback_data"),
        (c_bool, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"),
        (c_void_p, "samplers"),
        (c_size_t, "n_samplers"),
        (c_void_p, "ctx_other"),
    )


class _Batch(Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


def _library_path():
    if "LLAMA_CPP_LIB" in os.environ:
        return os.environ["LLAMA_CPP_LIB"]
    package = importlib.util.find_spec("xllamacpp")
    assert package, "install requirements.txt, or set LLAMA_CPP_LIB to a libllama"
    return next(Path(package.origin).parent.glob("xllamacpp*.so"))


def _load():
    library = ctypes.CDLL(str(_library_path()))
    signatures = {
        "llama_backend_init": (None,),
        "llama_version": (c_char_p,),
        "llama_print_system_info": (c_char_p,),
        "llama_model_default_params": (_ModelParams,),
        "llama_context_default_params": (_ContextParams,),
        "llama_model_load_from_file": (c_void_p, c_char_p, _ModelParams),
        "llama_model_free": (None, c_void_p),
        "llama_model_n_embd": (c_int32, c_void_p),
        "llama_model_get_vocab": (c_void_p, c_void_p),
        "llama_vocab_n_tokens": (c_int32, c_void_p),
        "llama_init_from_model": (c_void_p, c_void_p, _ContextParams),
        "llama_free": (None, c_void_p),
        "llama_batch_init": (_Batch, c_int32, c_int32, c_int32),
        "llama_batch_free": (None, _Batch),
        "llama_decode": (c_int32, c_void_p, _Batch),
        "llama_encode": (c_int32, c_void_p, _Batch),
        "llama_get_logits_ith": (POINTER(c_float), c_void_p, c_int32),
        "llama_get_embeddings_ith": (POINTER(c_float), c_void_p, c_int32),
        "llama_get_embeddings_seq": (POINTER(c_float), c_void_p, c_int32),
        "llama_adapter_lora_init": (c_void_p, c_void_p, c_char_p),
        "llama_set_adapters_lora": (c_int32, c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)),
        "ggml_quantize_chunk": (c_size_t, c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
        "ggml_row_size": (c_size_t, c_int, c_int64),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _check_layout():
    model, context = _lib.llama_model_default_params(), _lib.llama_context_default_params()
    assert (model.n_gpu_layers, model.use_extra_bufts, model.vocab_only) == (-1, True, False), "another llama.h"
    known = (context.n_ctx, context.n_batch, context.flash_attn_type, context.type_k, context.type_v)
    assert known == (512, 2048, -1, GGML_TYPES["f16"], GGML_TYPES["f16"]), "another llama.h"
    flags = (context.embeddings, context.offload_kqv, context.no_perf, context.op_offload, context.swa_full)
    assert flags == (False, True, True, True, True) and not context.samplers, "another llama.h"


@ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
def _only_errors(level, text, _user):
    # ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 continuation of the line before
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


_lib = _load()
_check_layout()
_lib.llama_log_set(_only_errors, None)
_lib.llama_backend_init()


def version():
    return f"llama.cpp {_lib.llama_version().decode()}; {_lib.llama_print_system_info().decode().strip()}"


def quantize(source, target, name):
    """What `llama-quantize --pure source target name` does: every matrix gets the named type."""
    kind, file_type = FORMATS[name]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kinds = field.types
        writer.add_key_value(field.name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    writer.add_file_type(file_type)
    writer.add_uint32("general.quantization_version", gguf.GGML_QUANT_VERSION)
    for tensor in reader.tensors:
        if len(tensor.shape) < 2 or tensor.name.endswith(KEPT):
            writer.add_tensor(tensor.name, tensor.data)
        else:
            writer.add_tensor(tensor.name, quantize_rows(np.array(tensor.data), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize_rows(values, kind):
    """uint8 [..., bytes per row] of a float32 array whose last axis is a row, by ggml's own packer."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    width = values.shape[-1]
    packed = np.empty((*values.shape[:-1], _lib.ggml_row_size(kind, width)), dtype=np.uint8)
    written = _lib.ggml_quantize_chunk(
        kind, values.ctypes.data, packed.ctypes.data, 0, values.size // width, width, None
    )
    assert written == packed.nbytes, (kind, written, packed.nbytes)
    return packed


@contextmanager
def _context(path, ids, threads=2, adapter=None, **changes):
    """A model and a context that holds all of `ids` in one batch; `changes` are entries of its parameters."""
    model_params = _lib.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = _lib.llama_model_load_from_file(os.fsencode(path), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp does not open {path}")
    params = _lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(256, len(ids))
    params.n_outputs_max = params.n_outputs_max_per_seq = params.n_ctx
    params.n_threads = params.n_threads_batch = threads
    for name, value in changes.items():
        setattr(params, name, value)
    context = _lib.llama_init_from_model(model, params)
    try:
        if not context:
            raise RuntimeError(f"llama.cpp makes no context for {path}")
        if adapter:
            lora = _lib.llama_adapter_lora_init(model, os.fsencode(adapter))
            if not lora:
                raise RuntimeError(f"llama.cpp does not open the adapter {adapter}")
            if _lib.llama_set_adapters_lora(context, byref(c_void_p(lora)), 1, byref(c_float(1.0))):
                raise RuntimeError(f"llama.cpp does not apply the adapter {adapter}")
        yield model, context
    finally:
        if context:
            _lib.llama_free(context)
        _lib.llama_model_free(model)


@contextmanager
def _batch(ids, start=0):
    batch = _lib.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for index, token in enumerate(ids):
        batch.token[index] = int(token)
        batch.pos[index] = start + index
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = 0
        batch.logits[index] = 1
    try:
        yield batch
    finally:
        _lib.llama_batch_free(batch)


def logits(path, ids, kv="f16", flash_attention=False, threads=2, chunk=512, adapter=None, **changes):
    """[positions, vocab] float32 logits of one sequence.

    `kv` is the cache's type, "f16" or "f32"; `adapter` the path of a LoRA file at scale 1; `changes` are
    entries of the context's parameters, e.g. `n_ctx`, which decides between the two sets of longrope factors.
    """
    with _context(
        path,
        ids,
        threads,
        adapter,
        type_k=GGML_TYPES[kv],
        type_v=GGML_TYPES[kv],
        flash_attn_type=FLASH_ATTENTION[flash_attention],
        **changes,
    ) as (model, running):
        vocab = _lib.llama_vocab_n_tokens(_lib.llama_model_get_vocab(model))
        rows = []
        for start in range(0, len(ids), chunk):
            with _batch(ids[start : start + chunk], start) as batch:
                if _lib.llama_decode(running, batch) != 0:
                    raise RuntimeError("llama_decode failed")
                rows += [
                    np.ctypeslib.as_array(_lib.llama_get_logits_ith(running, index), (vocab,)).copy()
                    for index in range(batch.n_tokens)
                ]
        return np.stack(rows)


def embeddings(path, ids, pooling, threads=2):
    """(pooled [width], token states [positions, width]) of an encoder, neither of them normalised."""
    results = []
    for kind in (pooling, None):
        with _context(
            path,
            ids,
            threads,
            embeddings=True,
            pooling_type=EMBEDDING_POOLING[kind],
            flash_attn_type=FLASH_ATTENTION[False],
        ) as (model, running), _batch(ids) as batch:
            width = _lib.llama_model_n_embd(model)
            if _lib.llama_encode(running, batch) != 0:
                raise RuntimeError("llama_encode failed")
            if kind:
                results.append(np.ctypeslib.as_array(_lib.llama_get_embeddings_seq(running, 0), (width,)).copy())
            else:
                rows = (_lib.llama_get_embeddings_ith(running, index) for index in range(len(ids)))
                results.append(np.stack([np.ctypeslib.as_array(row, (width,)).copy() for row in rows]))
    return tuple(results)
