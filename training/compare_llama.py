"""Asks llama.cpp (PyPI `xllamacpp`) and PyTorch the same questions about one GGUF file, greedily.

    python compare_llama.py ../models/default.gguf

PyTorch computes in float32 with the file's own Q8_0 weights decoded. llama.cpp is asked
twice: through its chat endpoint (the file's template, its own tokenizer) and with token
ids. Ends with status 1 if any answer differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import xllamacpp

from conversations import ASSISTANT, BOS, END, USER
from score import InProcess, from_gguf

QUESTIONS = [
    "What does the command `tar` do?", "What does `Vec::push` do?", "What does `os.path.join` do?", "What does `grep` do?",
    "What does `HashMap::insert` do?", "What does `Option::unwrap_or` do?", "What does `re.compile` do?", "What is ls?",
    "What does `len` do?", "What is curl?", "Who are you?", "hello", "What is the purpose of the sed command?",
    "What does `frobnicate` do?", "tell me what Vec::pop does", "Why would I use json.dumps in Python?",
    "What is the capital of France?", "Explain `str.join`.", "What does HashMap::push do?", "What is `println!`?",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer, _ = from_gguf(args.gguf)
    wanted = InProcess(model, tokenizer)(QUESTIONS)

    params = xllamacpp.CommonParams()
    params.model.path = str(args.gguf)
    params.n_ctx, params.n_gpu_layers, params.warmup = 512, 0, False
    params.cpuparams.n_threads = args.threads
    server = xllamacpp.Server(params)
    greedy = {"temperature": 0, "max_tokens": 48, "cache_prompt": False}
    read = lambda reply: json.loads(reply) if isinstance(reply, (str, bytes)) else reply
    different = 0
    for question, answer in zip(QUESTIONS, wanted):
        chat = read(server.handle_chat_completions({"messages": [{"role": "user", "content": question}], **greedy}))
        ids = [BOS, USER, *tokenizer.encode(question, add_special_tokens=False).ids, END, ASSISTANT]
        raw = read(server.handle_completions({"prompt": ids, **greedy}))
        texts = {answer, chat["choices"][0]["message"]["content"], raw["choices"][0]["text"]}
        different += len(texts) > 1
        print(f"{'same' if len(texts) == 1 else 'DIFFERENT'}\t{question}\t{' | '.join(sorted(texts))}")
    print(f"{len(QUESTIONS)} questions, {different} differ")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
