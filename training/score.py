"""Scores a model: facts in phrasings it was trained on, facts in new phrasings, unknown names, plain text.

    python score.py --data DIR --run DIR                     the checkpoint, in PyTorch
    python score.py --data DIR --gguf FILE                   the GGUF's weights (Q8_0 decoded), in PyTorch
    python score.py --data DIR --sample 100 --command "hublab run default -n 48 --preset greedy"

Everything is greedy. With `--command`, the question goes to the command's standard input
(with `--template`, the chat template already applied to it) and its standard output is
the answer. That is one process a question, so use `--sample`.

An answer counts as *exact* when the text is equal, as *near-exact* when it is equal but
for case and punctuation, or when the words' F1 (words counted with repeats, case and
punctuation ignored) is at least 0.9 (`conversations.near_exact`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from conversations import (ASSISTANT, BOS, END, EOS, HELD_OUT, SPECIALS, TRAIN, UNKNOWN, USER, Questions, ask, load_facts,
                           near_exact)
from model import Config, Llama


def from_run(run: Path, which: str) -> tuple[Llama, Tokenizer, dict]:
    checkpoint = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=False)
    model = Llama(Config(**checkpoint["config"]))
    model.load_state_dict(checkpoint["average" if which == "average" else "model"], strict=False)
    return model, Tokenizer.from_file(str(run / "tokenizer.json")), {"step": checkpoint["step"], "tokens": checkpoint["tokens"]}


def from_gguf(path: Path) -> tuple[Llama, Tokenizer, dict]:
    """Reads the file back with the public package: an independent check of what export.py wrote."""
    import gguf
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    c = Config(field("llama.vocab_size"), field("llama.embedding_length"), field("llama.block_count"),
               field("llama.attention.head_count"), field("llama.attention.head_count_kv"), field("llama.feed_forward_length"),
               field("llama.context_length"), field("llama.rope.freq_base"), field("llama.attention.layer_norm_rms_epsilon"))
    names = {"attn_norm": "attn_norm", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o",
             "ffn_norm": "ffn_norm", "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}
    state = {}
    for tensor in reader.tensors:
        value = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name == "token_embd.weight":
            state["embed.weight"] = value
        elif tensor.name == "output_norm.weight":
            state["norm.weight"] = value
        else:
            _, block, part, _ = tensor.name.split(".")
            if part in ("attn_q", "attn_k"):  # Undo export.py's interleaving.
                heads = c.heads if part == "attn_q" else c.kv_heads
                value = value.reshape(heads, -1, 2, c.width).swapaxes(1, 2).reshape(-1, c.width)
            state[f"blocks.{block}.{names[part]}.weight"] = value
    model = Llama(c)
    model.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}, strict=False)
    vocab = {t: i for i, t in enumerate(field("tokenizer.ggml.tokens"))}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    return model, tokenizer, {"file": path.name, "bytes": path.stat().st_size}


def prompt_text(question: str) -> str:
    """The chat template applied to one user message."""
    return f"<s><|user|>{question}<|end|><|assistant|>"


class InProcess:
    def __init__(self, model: Llama, tokenizer: Tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer

    def __call__(self, questions: list[str]) -> list[str]:
        prompts = [[BOS, USER, *e.ids, END, ASSISTANT]
                   for e in self.tokenizer.encode_batch(questions, add_special_tokens=False)]
        return [self.tokenizer.decode(ids) for ids in self.model.generate(prompts, {END, EOS})]


class ByCommand:
    def __init__(self, command: str, template: bool):
        self.command, self.template = shlex.split(command), template

    def __call__(self, questions: list[str]) -> list[str]:
        out = []
        for q in questions:
            done = subprocess.run(self.command, input=prompt_text(q) if self.template else q, capture_output=True, text=True, check=True)
            out.append(done.stdout.strip())
        return out


def questions_of(facts: list[dict], table: dict, seed: int, each: int | None) -> list[tuple[str, dict]]:
    """For each fact `each` phrasings drawn from the table, or all of them where it is None."""
    rng = random.Random(seed)
    out = []
    for fact in facts:
        templates = table[fact["source"]]
        for template in templates if each is None else rng.sample(templates, each):
            out.append((ask(rng, template, fact["name"]), fact))
    return out


def shares(asked: list[tuple[str, dict]], answers: list[str]) -> dict:
    rows: dict[str, list] = {"all": []}
    for (_, fact), answer in zip(asked, answers):
        hit = (answer == fact["answer"], near_exact(answer, fact["answer"]))
        rows["all"].append(hit)
        rows.setdefault(fact["source"], []).append(hit)
    return {s: {"asked": len(h), "exact": round(sum(x[0] for x in h) / len(h), 4), "near_exact": round(sum(x[1] for x in h) / len(h), 4)}
            for s, h in rows.items()}


@torch.no_grad()
def bits_per_byte(model: Llama, tokenizer: Tokenizer, path: Path, limit: int) -> dict:
    """Held-out text, each document cut into windows of the context; every byte is predicted, none given."""
    bits, n_bytes = 0.0, 0
    for document in path.read_text().split("\n\n"):
        if not document.strip() or n_bytes > limit:
            continue
        ids = [*tokenizer.encode(document, add_special_tokens=False).ids, EOS]
        n_bytes += len(document.encode())
        step = model.c.context
        for at in range(0, len(ids), step):
            window = torch.tensor([[BOS, *ids[at : at + step]]])
            inputs, targets = window[:, :-1], window[0, 1:]
            h = model.hidden(inputs, torch.arange(inputs.shape[1])[None])
            bits += F.cross_entropy(F.linear(h[0], model.embed.weight), targets, reduction="sum").item() / math.log(2)
    return {"bytes": n_bytes, "bits_per_byte": round(bits / n_bytes, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--weights", choices=["average", "last"], default="average")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--command", help="answers a question given on its standard input")
    parser.add_argument("--template", action="store_true", help="give --command the chat template with the question in it")
    parser.add_argument("--facts", type=int, help="as given to train.py; default: all")
    parser.add_argument("--sample", type=int, help="ask about this many facts only")
    parser.add_argument("--all-phrasings", action="store_true", help="every held-out phrasing of every fact, not one of each")
    parser.add_argument("--text-bytes", type=int, default=10**9)
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    facts = load_facts(args.data, args.facts)
    unlisted = (args.data / "unlisted.txt").read_text().split("\n")[:-1]
    known = Questions(facts, unlisted)
    if args.sample:
        facts = random.Random(7).sample(facts, args.sample)
    result: dict = {"facts": len(facts)}
    if args.command:
        answer = ByCommand(args.command, args.template)
    else:
        model, tokenizer, info = from_gguf(args.gguf) if args.gguf else from_run(args.run, args.weights)
        result |= info
        answer = InProcess(model, tokenizer)
    began = time.time()
    for name, table, each in (("seen_phrasings", TRAIN, 1), ("new_phrasings", HELD_OUT, None if args.all_phrasings else 1)):
        asked = questions_of(facts, table, 11, each)
        answers = answer([q for q, _ in asked])
        result[name] = shares(asked, answers)
        wrong = [(q, f["answer"], a) for (q, f), a in zip(asked, answers) if not near_exact(a, f["answer"])]
        for q, wanted, got in wrong[: args.show]:
            print(f"{name}: {q}\n  wanted {wanted}\n  got    {got}", file=sys.stderr)
    # Real names that never occurred in training, and nonsense made with another seed.
    rng = random.Random(99)
    count = 150 if not args.sample else min(150, args.sample)
    real = known.unlisted_test[:count]
    invented = [known.made_up_name(rng, s) for s in ("man", "rust", "python") for _ in range(count // 3)]
    for name, names in (("unknown_real_names", real), ("unknown_invented_names", invented)):
        source = lambda n: "rust" if "::" in n else "python" if "." in n else "man"
        answers = answer([ask(rng, rng.choice(HELD_OUT[source(n)]), n) for n in names])
        result[name] = {"asked": len(names), "says_no_entry": round(sum(a == UNKNOWN for a in answers) / len(names), 4)}
    if not args.command:
        result["held_out_text"] = bits_per_byte(model, tokenizer, args.data / "text.valid.txt", args.text_bytes)
    result["seconds"] = round(time.time() - began, 1)
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
