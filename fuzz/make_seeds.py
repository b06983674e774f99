#!/usr/bin/env python3
"""Makes seeds/gguf_reader, small files that reach every branch of the GGUF reader, and those of block_formats, model, swarm,
service, sse and store.

Needs `pip install gguf==0.19.0` (MIT; brings numpy).
"""
import json
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

# seeds/service: the first byte says what the rest is: the place of a path in fuzz_targets/service.rs, or a file of conversations.
folder = here / "seeds" / "service"
folder.mkdir(parents=True, exist_ok=True)
parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
function = {"name": "weather", "description": "Tells it.", "parameters": parameters}
sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["x"], "stream": True}
openai_call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
ollama_call = {"function": {"name": "weather", "arguments": {"city": "Ulm"}}}
bodies = {
    "chat": (0, {"model": "default", "messages": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 5, "n": 2, "logprobs": True,
                 "top_logprobs": 2, "logit_bias": {"5": -100}, "stream_options": {"include_usage": True}, **sampling}),
    "chat-tools": (0, {"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": None, "tool_calls": [openai_call]},
                       {"role": "tool", "tool_call_id": "c1", "content": "rain"}],
                       "tools": [{"type": "function", "function": function}], "tool_choice": "required"}),
    "chat-schema": (0, {"messages": [{"role": "user", "content": "Hi"}], "response_format": {
                        "type": "json_schema", "json_schema": {"name": "a", "schema": parameters}}}),
    "completions": (1, {"model": "default", "prompt": ["a", "b"], "echo": True, "best_of": 1, **sampling}),
    "completions-tokens": (1, {"prompt": [1, 2, 3], "max_tokens": -1, "grammar": 'root ::= "a"'}),
    "embeddings": (2, {"model": "default", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 64}),
    "responses": (3, {"model": "default", "instructions": "Be brief.", "input": [
                      {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                      {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
                      {"type": "function_call_output", "call_id": "c1", "output": "rain"}],
                      "tools": [{"type": "function", **function}], "text": {"format": {"type": "text"}},
                      "reasoning": {"effort": "none"}, "max_output_tokens": 5, "metadata": {"a": "b"}}),
    "messages": (4, {"model": "default", "max_tokens": 5, "system": [{"type": "text", "text": "Be brief."}], "messages": [
                     {"role": "user", "content": "Hi"}], "stop_sequences": ["x"], "thinking": {"type": "disabled"}}),
    "messages-tools": (5, {"model": "default", "messages": [{"role": "user", "content": "Hi"},
                           {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {}}]},
                           {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "rain"}]}],
                           "tools": [{"name": "weather", "input_schema": parameters}], "tool_choice": {"type": "any"}}),
    "generate": (6, {"model": "default", "prompt": "Hi", "system": "Be brief.", "format": "json", "think": False,
                     "keep_alive": "5m", "options": {"num_predict": 5, "temperature": 0.5, "num_ctx": 64, "stop": ["x"]}}),
    "generate-raw": (6, {"model": "default:latest", "prompt": "Hi", "raw": True, "logprobs": True, "top_logprobs": 1}),
    "ollama-chat": (7, {"model": "default", "messages": [{"role": "user", "content": "Hi", "images": []},
                        {"role": "assistant", "content": "", "tool_calls": [ollama_call]},
                        {"role": "tool", "tool_name": "weather", "content": "rain"}],
                        "tools": [{"type": "function", "function": function}], "stream": False}),
    "embed": (8, {"model": "default", "input": ["a", "b"], "truncate": False, "keep_alive": -1}),
    "ollama-embeddings": (9, {"model": "default", "prompt": "a"}),
    "show": (10, {"model": "default", "verbose": True}),
    "tokenize": (11, {"model": "default", "text": "a <s>", "add_special": True, "parse_special": True}),
    "detokenize": (12, {"model": "default", "ids": [1, 2, 3]}),
    "load": (13, {"model": "default", "keep_alive": "1h30m"}),
    "unload": (14, {"model": "default"}),
    "create": (15, {"model": "b", "from": "default"}),
    "pull": (16, {"model": "hf://o/r/f.gguf", "stream": False}),
    "conversations": (255, {"format": "hublab-conversations", "version": 1, "conversations": [
                            {"title": "a", "created": 1, "updated": 2, "settings": {"temperature": 0.5}, "active": 3, "messages": [
                             {"id": 1, "created": 1, "role": "user", "text": "Hi", "attachments": [{"name": "a", "text": "`b`"}]},
                             {"id": 3, "parent": 1, "created": 2, "role": "assistant", "text": "Ho", "finish": "stop",
                              "usage": {"prompt_tokens": 1, "completion_tokens": 2}, "experts": [{"name": "rust", "weight": 0.5}]},
                             {"id": 4, "parent": 1, "created": 2, "role": "assistant", "text": ""}]}]}),
}
for name, (kind, body) in bodies.items():
    (folder / name).write_bytes(bytes([kind]) + json.dumps(body).encode())

# seeds/sse: the first two bytes say where the stream is cut.
folder = here / "seeds" / "sse"
folder.mkdir(parents=True, exist_ok=True)
(folder / "lines").write_bytes(b"\x05\0" + b'data: {"a":1}\n\nevent: error\r\ndata: x\r\ndata\r\n\r\n: ping\n\ndata: [DONE]\n\n')
(folder / "returns").write_bytes(b"\x09\0" + "\ufeffdata:a\r\rdata: é\n\nid: 1\nretry: 5\n\n".encode())

# seeds/store: the first byte says what the rest is, in the order of fuzz_targets/store.rs.
folder = here / "seeds" / "store"
folder.mkdir(parents=True, exist_ok=True)
(folder / "configuration").write_bytes(b"\0" + (root / "config" / "system.toml").read_bytes())
(folder / "configuration-set").write_bytes(b"\0" + b"""[kernel]
log_level = "info"
[server]
address = ["127.0.0.1", "::1"]
keep_alive = "1h30m"
unix_socket = "~/hublab.sock"
cors_origins = ["https://a.example"]
[ai]
default_model = "./a.gguf"
temperature = 0.25
[runtime]
max_memory = "1.5 GB"
""")
(folder / "values").write_bytes(b"\1" + b"warn\n1GiB\ntrue\na.gguf\n4GiB\n2\nfalse\n0.5\n0.9\n::1\n80\n5m\n")
digest = "sha256:" + "ab" * 32
layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 7}
(folder / "manifest").write_bytes(b"\2" + json.dumps({"schemaVersion": 2, "layers": [layer]}).encode())
version = {"from": "hf://o/r/f.gguf@main", "bytes": 7, "sha256": "ab" * 32, "etag": '"a"', "last_modified": None}
pulled = {"from": "hf://o/r/f.gguf@main", "sha256": ["ab" * 32], "etags": ['"a"'], "bytes": 7, "modified_ms": 1}
(folder / "records").write_bytes(b"\3" + json.dumps({"aliases": {"a": "b"}, "pulled": {"b": pulled}}).encode())
(folder / "sidecar").write_bytes(b"\4" + json.dumps(version).encode())
for name, reference in {
    "hugging-face": "hf://o/r/d/f-00001-of-00003.gguf@refs/pr/1#sha256=" + "ab" * 32,
    "page": "https://huggingface.co/o/r/blob/main/d/f%20g.gguf?x=1",
    "address": "http://h:80/a/My%20Model.gguf?sig=1",
    "ollama": "localhost:5000/library/x:1b",
}.items():
    (folder / f"reference-{name}").write_bytes(b"\5" + reference.encode())
(folder / "headers").write_bytes(b"\6" + b"bytes 0-99/1234\nbytes */7\n120\n/y?u=http://x\n//x/y\n?z\ny\nhttps://x/y#z\n")
