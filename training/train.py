"""Trains the default model: tokenizer first, then the network; resumable and bounded in time.

    python train.py --data DIR --run DIR --minutes 60

The run directory holds `tokenizer.json` and `checkpoint.pt` (replaced atomically every
`--save-minutes`); started again, the run goes on from there. While the file named by
`--pause-file` exists nothing is computed. A GPU is used where there is one. On a CPU that
other work shares, one single-threaded process a core (they meet once a step, not once an
operation) loses far less time than threads do:

    export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29520
    RANK=1 python train.py --threads 1 ... &
    RANK=0 python train.py --threads 1 ...

Batches are rows of a fixed length with several conversations packed into each, masked so
that none sees another; every `--text-every`th step is plain text instead. Only answers
count in a conversation's loss: what a user types needs no predicting, and the output
layer is a quarter of the work.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from conversations import (ASSISTANT, BOS, END, EOS, PAD, SPECIALS, SYSTEM, SYSTEMS, TRAIN, USER, Questions, ask,
                           load_facts)
from model import Config, Llama


# ------------------------------------------------------------------- tokenizer

def train_tokenizer(data: Path, facts: list[dict], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting, so that GGUF can call it `gpt2` / `gpt-2`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(3)
    questions = [ask(rng, rng.choice(TRAIN[f["source"]]), f["name"]) + "\n" + f["answer"]
                 for f in facts for _ in range(6)]
    text = (data / "text.train.txt").read_text().split("\n")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(questions + text, trainer)
    return tokenizer


# ------------------------------------------------------------------------ data

def token_stream(tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """Every document of a text file as one row of ids, each between BOS and EOS."""
    stream: list[int] = []
    for encoding in tokenizer.encode_batch([d for d in path.read_text().split("\n\n") if d.strip()]):
        stream += [BOS, *encoding.ids, EOS]
    return np.array(stream, dtype=np.int64)


class Batches:
    def __init__(self, args, tokenizer: Tokenizer, facts: list[dict]):
        self.args, self.tokenizer, self.facts = args, tokenizer, facts
        unlisted = (args.data / "unlisted.txt").read_text().split("\n")[:-1]
        self.questions = Questions(facts, unlisted)
        self.rng = random.Random(args.seed)
        self.queue: list[int] = []
        self.common = [i for s in TRAIN for i in [i for i, f in enumerate(facts) if f["source"] == s][: args.common]]
        self.spare: list[tuple[list[int], list[bool]]] = []
        self.text = token_stream(tokenizer, args.data / "text.train.txt")

    def stream(self) -> np.ndarray:
        """The tokens that the next window of plain text is cut from."""
        return self.text

    def state(self):
        return {"rng": self.rng.getstate(), "queue": self.queue}

    def restore(self, state) -> None:
        self.rng.setstate(state["rng"])
        self.queue = state["queue"]

    def pair(self) -> tuple[str, str]:
        draw = self.rng.random()
        if draw < self.args.unknown_share:
            return self.questions.unknown(self.rng)
        if draw < self.args.unknown_share + 0.01:
            return self.questions.small_talk(self.rng)
        if not self.queue:  # A round: every fact once, what people ask for first twice.
            self.queue = list(range(len(self.facts))) + self.common
            self.rng.shuffle(self.queue)
        return self.questions.about(self.rng, self.facts[self.queue.pop()])

    def conversations(self, count: int) -> list[tuple[list[int], list[bool]]]:
        """Token ids, and for each whether it is part of an answer."""
        turns = [[self.pair() for _ in range(1 if self.rng.random() < 0.85 else self.rng.randint(2, 3))]
                 for _ in range(count)]
        flat = [text for t in turns for pair in t for text in pair]
        ids = iter(self.tokenizer.encode_batch(flat, add_special_tokens=False))
        out = []
        for t in turns:
            # A prompt may arrive without its BOS, or with two of them; the model should not mind.
            draw = self.rng.random()
            tokens = [BOS] * (0 if draw < 0.03 else 2 if draw < 0.05 else 1)
            if self.rng.random() < 0.03:
                tokens += [SYSTEM, *self.tokenizer.encode(self.rng.choice(SYSTEMS)).ids, END]
            answer = [False] * len(tokens)
            for _ in t:
                q, a = next(ids).ids, next(ids).ids
                tokens += [USER, *q, END, ASSISTANT, *a, END]
                answer += [False] * (len(q) + 3) + [True] * (len(a) + 1)
            out.append((tokens, answer))
        return out

    def packed(self, rows: int, length: int):
        """Rows filled first-fit; -> ids, positions, segments, flat indices of the loss, targets."""
        room = [length] * rows
        contents: list[list] = [[] for _ in range(rows)]
        misses = 0
        while misses < 12:
            if not self.spare:
                self.spare = self.conversations(64)
            tokens, answer = self.spare.pop()
            if len(tokens) > length:
                continue
            for r in range(rows):
                if room[r] >= len(tokens):
                    contents[r].append((tokens, answer))
                    room[r] -= len(tokens)
                    break
            else:
                misses += 1
        ids = np.full((rows, length), PAD, dtype=np.int64)
        positions = np.zeros((rows, length), dtype=np.int64)
        segments = np.full((rows, length), -1, dtype=np.int64)
        where, targets = [], []
        for r, row in enumerate(contents):
            at = 0
            for number, (tokens, answer) in enumerate(row):
                n = len(tokens)
                ids[r, at : at + n], positions[r, at : at + n], segments[r, at : at + n] = tokens, range(n), number
                for i in range(1, n):
                    if answer[i]:
                        where.append(r * length + at + i - 1)
                        targets.append(tokens[i])
                at += n
        # A fixed number of loss positions keeps the compiled graph's shapes fixed.
        fixed = int(rows * length * self.args.answer_share)
        if len(where) > fixed:
            keep = sorted(self.rng.sample(range(len(where)), fixed))
            where, targets = [where[i] for i in keep], [targets[i] for i in keep]
        lost = fixed - len(where)
        return ids, positions, segments, np.array(where + [0] * lost), np.array(targets + [-100] * lost)

    def plain(self, rows: int, length: int):
        windows = []
        for text in [self.stream() for _ in range(rows)]:
            start = self.rng.randrange(len(text) - length - 1)
            windows.append(text[start : start + length + 1])
        block = np.stack(windows)
        positions = np.broadcast_to(np.arange(length), (rows, length)).copy()
        return block[:, :-1].copy(), positions, None, np.arange(rows * length), block[:, 1:].reshape(-1).copy()


# ------------------------------------------------------------------- optimizer

def has_fast_bfloat16() -> bool:
    """Without the instructions for it a CPU multiplies bfloat16 matrices 20 times slower than float32 ones."""
    return torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, roughly (Newton-Schulz of Muon, Jordan et al. 2024)."""
    x = g.bfloat16() if has_fast_bfloat16() else g
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).float()


def summed(tensors: list[torch.Tensor]) -> None:
    """Adds tensors up over all processes, in place."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    at = 0
    for t in tensors:
        t.copy_(flat[at : at + t.numel()].view_as(t))
        at += t.numel()


class Optimizer:
    """AdamW for embedding and norms; for the other matrices AdamW or Muon."""

    def __init__(self, model: Llama, args, rank: int, world: int):
        self.args, self.rank, self.world = args, rank, world
        named = dict(model.named_parameters())
        self.matrices = [p for n, p in named.items() if p.dim() == 2 and n != "embed.weight"] if args.optimizer == "muon" else []
        chosen = {id(p) for p in self.matrices}
        rest = [p for p in named.values() if id(p) not in chosen]
        self.adam = torch.optim.AdamW(
            [{"params": [p for p in rest if p.dim() == 2], "weight_decay": args.weight_decay},
             {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.95), fused=True)
        self.momentum = [torch.zeros_like(p) for p in self.matrices]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.args.lr * scale
        self.adam.step()
        # Each process orthogonalises its share of the matrices, then all get all.
        updates = []
        for i, (p, m) in enumerate(zip(self.matrices, self.momentum)):
            m.lerp_(p.grad, 0.05)
            mine = i % self.world == self.rank
            updates.append(orthogonalised(p.grad.lerp(m, 0.95)) if mine else torch.zeros_like(p))
        if self.world > 1 and updates:
            summed(updates)
        for p, update in zip(self.matrices, updates):
            update = update * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            p.mul_(1 - self.args.muon_lr * scale * self.args.weight_decay).add_(update, alpha=-self.args.muon_lr * scale)

    def state(self):
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def restore(self, state) -> None:
        self.adam.load_state_dict(state["adam"])
        for m, old in zip(self.momentum, state["momentum"]):
            m.copy_(old)


# ------------------------------------------------------------------------ loop

def save(path: Path, content: dict) -> None:
    torch.save(content, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def options(description: str) -> argparse.ArgumentParser:
    """The flags that every training run has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what gather.py wrote")
    parser.add_argument("--run", type=Path, required=True, help="directory of tokenizer and checkpoint")
    parser.add_argument("--minutes", type=float, default=60, help="training time in all, pauses not counted")
    parser.add_argument("--tokens", type=int, help="stop after so many tokens, if time does not end before")
    parser.add_argument("--deadline", help="UTC time HH:MM by which to be done at the latest, pauses or not")
    parser.add_argument("--max-steps", type=int, help="stop here (the learning rate still follows time and tokens)")
    parser.add_argument("--pause-file", type=Path)
    parser.add_argument("--save-minutes", type=float, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--text-every", type=int, default=3, help="every n-th step is plain text")
    parser.add_argument("--unknown-share", type=float, default=0.1)
    parser.add_argument("--answer-share", type=float, default=0.5)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--lr", type=float, default=3e-3, help="AdamW's")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--ema", type=float, default=0.98, help="decay a step of the averaged weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    return parser


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--facts", type=int, help="how many facts to learn; default: all")
    parser.add_argument("--common", type=int, default=150, help="facts of each source that come twice a round")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    device, rank, world = prepared(args)
    facts = load_facts(args.data, args.facts)
    tokenizer_path = args.run / "tokenizer.json"
    if rank == 0 and not tokenizer_path.exists():
        train_tokenizer(args.data, facts, args.vocab).save(str(tokenizer_path))
    if world > 1:
        dist.barrier()
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    batches = Batches(args, tokenizer, facts)
    if rank:
        batches.rng = random.Random(f"{args.seed} {rank}")
    config = Config(vocab_size=tokenizer.get_vocab_size(), layers=args.layers)
    model = Llama(config).to(device)
    train(args, model, batches, len(facts), device, rank, world)
    if world > 1:
        dist.destroy_process_group()


def prepared(args) -> tuple[str, int, int]:
    """Sets PyTorch up; -> device, number of this process, how many there are."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
    args.run.mkdir(parents=True, exist_ok=True)
    return "cuda" if torch.cuda.is_available() else "cpu", rank, world


def train(args, model: Llama, batches: Batches, facts: int, device: str, rank: int, world: int) -> None:
    """Trains until time or tokens are spent, from the run's checkpoint if it has one."""
    config = model.c
    optimizer = Optimizer(model, args, rank, world)
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    step, clock, tokens = 0, 0.0, 0
    checkpoint = args.run / "checkpoint.pt"
    if checkpoint.exists():
        old = torch.load(checkpoint, map_location=device, weights_only=False)
        model.load_state_dict(old["model"], strict=False)
        optimizer.restore(old["optimizer"])
        if rank == 0:
            batches.restore(old["batches"])
        else:  # Only the first process's draws are kept; the others start a new sequence.
            batches.rng = random.Random(f"{args.seed} {rank} {old['step']}")
        average, step, clock, tokens = old["average"], old["step"], old["clock"], old["tokens"]
    loss_of = model.loss if args.no_compile else torch.compile(model.loss)
    if rank == 0:
        print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {facts} facts, "
              f"{device}, from step {step}", flush=True)

    deadline = None
    if args.deadline:
        hour, minute = map(int, args.deadline.split(":"))
        deadline = datetime.now(timezone.utc).replace(hour=hour, minute=minute, second=0).timestamp()

    def write() -> None:
        save(checkpoint, {"config": config.as_dict(), "model": model.state_dict(), "average": average,
                          "optimizer": optimizer.state(), "batches": batches.state(), "step": step, "clock": clock,
                          "tokens": tokens, "facts": facts, "args": {k: str(v) for k, v in vars(args).items()}})

    shown = {"qa": [], "text": []}
    last_save, last_log, log_tokens = time.time(), time.time(), 0
    rows = args.rows // world
    while True:
        while rank == 0 and args.pause_file and args.pause_file.exists():
            time.sleep(1)
            last_log, log_tokens = time.time(), 0
        began = time.time()
        left = args.minutes * 60 - clock
        if deadline:
            left = min(left, deadline - began)
        if world > 1:  # The first process's clock decides for all.
            agreed = torch.tensor([left, clock], dtype=torch.float64)
            dist.broadcast(agreed, 0)
            left, clock = agreed.tolist()
        if left <= 0 or (args.max_steps and step >= args.max_steps) or (args.tokens and tokens >= args.tokens):
            break
        # Warm-up over 30 steps, then straight to zero at the end of the time or of the tokens, whichever comes first.
        progress = clock / (clock + left)
        if args.tokens:
            progress = max(progress, tokens / args.tokens)
        scale = min(1.0, (step + 1) / 30) * min(1.0, (1 - progress) / 0.85)
        is_text = step % args.text_every == args.text_every - 1
        if is_text:
            batch = batches.plain(rows * args.length // config.context, config.context)
        else:
            batch = batches.packed(rows, args.length)
        batch = [None if b is None else torch.from_numpy(b).to(device) for b in batch]
        with torch.autocast(device, torch.bfloat16, enabled=has_fast_bfloat16()):
            ids, positions, segments, where, targets = batch
            loss = loss_of(ids, positions, segments, targets, where)
        loss.backward()
        if world > 1:
            summed([p.grad for p in model.parameters()])
            for p in model.parameters():
                p.grad /= world
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(scale)
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            decay = min(args.ema, (step + 1) / (step + 10))
            for n, p in model.named_parameters():
                average[n].lerp_(p, 1 - decay)
        shown["text" if is_text else "qa"].append(loss.item())
        step += 1
        tokens += ids.numel() * world
        log_tokens += ids.numel() * world
        clock += time.time() - began
        if step % 12 == 0 and rank == 0:
            now = time.time()
            line = {"step": step, "min": round(clock / 60, 2), "scale": round(scale, 3), "tokens": tokens,
                    "tok_s": round(log_tokens / (now - last_log))}
            line |= {k: round(sum(v) / len(v), 4) for k, v in shown.items() if v}
            print(json.dumps(line), flush=True)
            shown, last_log, log_tokens = {"qa": [], "text": []}, now, 0
        if rank == 0 and time.time() - last_save > args.save_minutes * 60:
            write()
            last_save = time.time()
    if rank == 0:
        write()
        print(f"done: step {step}, {tokens} tokens, {clock / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    sys.exit(main())
