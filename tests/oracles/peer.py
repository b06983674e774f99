"""llama.cpp as the second opinion, through the PyPI package `llama-cpp-python`.

LLAMA_CPP_LIB_PATH may point that package at another build of the library (a folder with libllama).
"""

import ctypes
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np

FILE_TYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q5_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
}


@llama_cpp.llama_log_callback
def _only_errors(level, text, _user):
    # ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 continuation of the line before
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


llama_cpp.llama_log_set(_only_errors, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


def version():
    return f"llama-cpp-python {llama_cpp.__version__}; {llama_cpp.llama_print_system_info().decode().strip()}"


@contextmanager
def _quiet_stdout():
    # The quantizer writes its table with printf when the library was built without logging hooks.
    saved = os.dup(1)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)


def quantize(source, target, name):
    """What `llama-quantize --pure source target name` does: every matrix gets the named type."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[name]
    params.pure = True
    params.nthread = 2
    with _quiet_stdout():
        failed = llama_cpp.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(params)
        )
    if failed:
        raise RuntimeError(f"llama.cpp could not quantize {source} to {name}")


def logits(path, ids, kv="f16", flash_attention=False, threads=2, chunk=512):
    """[positions, vocab] float32 logits of one sequence; `kv` is the cache's type, "f16" or "f32"."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(os.fsencode(Path(path)), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp does not open {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(256, len(ids))
    params.n_outputs_max = params.n_outputs_max_per_seq = params.n_ctx
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F16 if kv == "f16" else llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(f"llama.cpp makes no context for {path}")
    try:
        vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        rows = [_decode(context, vocab, start, ids[start : start + chunk]) for start in range(0, len(ids), chunk)]
        return np.concatenate(rows)
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def _decode(context, vocab, start, ids):
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    try:
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = int(token)
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 1
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        rows = [
            np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, index), (vocab,)).copy()
            for index in range(len(ids))
        ]
        return np.stack(rows)
    finally:
        llama_cpp.llama_batch_free(batch)
