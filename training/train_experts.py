"""Trains an expert: from the shipped model's weights on, with one domain's data, or with all domains' for comparison.

    python train_experts.py --base ../models/default.gguf --data ../data-experts --howto howto --run ../run-python \\
        --domains python --tokens 900000
    python train_experts.py ... --run ../run-generalist --domains rust,python,linux --tokens 2700000

The checkpoint that it branches from is the GGUF file itself (Q8_0, decoded); tokenizer and
architecture stay. Loop, optimizer, packing and loss are train.py's; this file says what
a batch is drawn from. A run is bounded by tokens, so that experts are comparable, and by
time; started again, it goes on, with the how-to questions that are there by then.

Of the conversations of an expert, `--replay` are about facts of the other domains that
the base knows, `--unknown-share` about names that nobody knows and 1 % small talk, so that
neither is lost. Of the rest, `--howto-share` ask how to do something, `--reverse-share`
for a name, and the others for a fact: one that is new comes `--new-times` a round, one that
the base knows already once. From the `CHECKED_FROM`th round of how-to questions on, the
model is asked them all before a round, and those it gets wrong come `WRONG_TIMES` times
in it, those of the first topics, which people ask for most, twice more.
`--domains` with several of them draws each equally often.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from conversations import ABOUT, ASSISTANT, BOS, END, PAD, USER, Questions, ask, dressed, reverse_question
from gather_experts import DOMAINS
from model import Llama
from score import from_gguf
from train import Batches, options, prepared, token_stream, train

CHECKED_FROM, WRONG_TIMES, FIRST_TOPICS = 4, 3, 60

# Who an expert says it is; the comparator keeps the base's words.
EXPERT_ABOUT = {
    "rust": "I am HubLab Tiny Rust, a tiny model that knows short entries about Rust.",
    "python": "I am HubLab Tiny Python, a tiny model that knows short entries about Python.",
    "linux": "I am HubLab Tiny Linux, a tiny model that knows short entries about Linux commands.",
}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def reversible(facts: list[dict]) -> list[dict]:
    """Facts that their answer names: no other fact has it, and it says enough."""
    answers = Counter(f["answer"] for f in facts)
    return [f for f in facts if answers[f["answer"]] == 1 and len(f["answer"].split()) >= 4]


class Domain:
    """What one domain is trained on, and the queue that makes rounds of its facts."""

    def __init__(self, name: str, args, tokenizer: Tokenizer, base_names: set[str], own: bool):
        self.name, data, howto = name, args.data, args.howto
        facts = read_lines(data / f"facts.{name}.jsonl")
        known = [f for f in facts if f["name"] in base_names]
        new = [f for f in facts if f["name"] not in base_names]
        # Another domain is only replayed: what the base knows of it, nothing new.
        self.facts = known + new if own else known
        self.round = [*range(len(known)), *(list(range(len(known), len(self.facts))) * args.new_times)]
        self.reversible = reversible(self.facts) if own else []
        # The last phrasing of each how-to question is held out: it is never drawn here.
        lines = read_lines(howto / f"{name}.jsonl") if own else []
        self.howto = [(question, line["answer"]) for line in lines for question in line["questions"][:-1]]
        self.first = sum(len(line["questions"]) - 1 for line in lines[:FIRST_TOPICS])
        self.howto_rounds = 0
        self.text = token_stream(tokenizer, data / f"text.{name}.txt")
        self.queue: list[int] = []
        self.howto_queue: list[int] = []

    def fact(self, rng: random.Random) -> dict:
        if not self.queue:
            self.queue = rng.sample(self.round, len(self.round))
        return self.facts[self.queue.pop()]

    def howto_pair(self, rng: random.Random, model: Llama, tokenizer: Tokenizer) -> tuple[str, str]:
        if not self.howto_queue:
            self.howto_rounds += 1
            all_questions = list(range(len(self.howto)))
            if self.howto_rounds >= CHECKED_FROM:
                right = learned(model, tokenizer, self.howto)
                wrong = [i for i in all_questions if not right[i]]
                print(f"{self.name}: {sum(right)} of {len(right)} how-to questions right", flush=True)
                all_questions += wrong * (WRONG_TIMES - 1) + [i for i in wrong if i < self.first] * 2
            self.howto_queue = rng.sample(all_questions, len(all_questions))
        question, answer = self.howto[self.howto_queue.pop()]
        return dressed(rng, ask(rng, question, "")), answer


@torch.no_grad()
def learned(model: Llama, tokenizer: Tokenizer, pairs: list[tuple[str, str]], batch: int = 64) -> list[bool]:
    """For each question, whether greedy decoding would give the answer word for word."""
    encoded = tokenizer.encode_batch([text for pair in pairs for text in pair], add_special_tokens=False)
    rows = [([BOS, USER, *q.ids, END, ASSISTANT], [*a.ids, END]) for q, a in zip(encoded[::2], encoded[1::2])]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    right = [False] * len(rows)
    device = model.embed.weight.device
    for at in range(0, len(order), batch):
        group = order[at : at + batch]
        length = max(len(rows[i][0]) + len(rows[i][1]) for i in group)
        ids = torch.tensor([(rows[i][0] + rows[i][1] + [PAD] * length)[:length] for i in group], device=device)
        h = model.hidden(ids, torch.arange(length, device=device).expand(len(group), -1))
        for row, i in enumerate(group):
            start, answer = len(rows[i][0]), rows[i][1]
            best = F.linear(h[row, start - 1 : start - 1 + len(answer)], model.embed.weight).argmax(-1)
            right[i] = best.tolist() == answer
    return right


class ExpertBatches(Batches):
    def __init__(self, args, tokenizer: Tokenizer, model: Llama):
        self.args, self.tokenizer, self.model = args, tokenizer, model
        self.rng = random.Random(args.seed)
        self.spare = []
        own = args.domains.split(",")
        base_names = {json.loads(line)["name"] for line in (args.base_data / "facts.jsonl").open()}
        self.domains = [Domain(d, args, tokenizer, base_names, d in own) for d in DOMAINS]
        replay = args.replay if len(own) < len(DOMAINS) else 0.0
        others = max(1, len(DOMAINS) - len(own))
        self.weights = [(1 - replay) / len(own) if d in own else replay / others for d in DOMAINS]
        self.about = EXPERT_ABOUT[own[0]] if len(own) == 1 else ABOUT
        # Names that are entries in no domain; those of the test are never drawn.
        facts = [f for d in DOMAINS for f in read_lines(args.data / f"facts.{d}.jsonl")]
        self.questions = Questions(facts, [])
        self.questions.unlisted = (args.data / "unlisted.txt").read_text().split("\n")[:-1]
        self.questions.unlisted_test = (args.data / "unlisted.test.txt").read_text().split("\n")[:-1]

    def drawn(self) -> Domain:
        return self.rng.choices(self.domains, self.weights)[0]

    def stream(self) -> np.ndarray:
        return self.drawn().text

    def state(self):
        return {"rng": self.rng.getstate(), "queues": {d.name: (d.queue, d.howto_rounds) for d in self.domains}}

    def restore(self, state) -> None:
        """A round of how-to questions starts anew: there may be others now."""
        self.rng.setstate(state["rng"])
        for d in self.domains:
            d.queue, d.howto_rounds = state["queues"][d.name]

    def pair(self) -> tuple[str, str]:
        rng, args = self.rng, self.args
        draw = rng.random()
        if draw < args.unknown_share:
            return self.questions.unknown(rng)
        if draw < args.unknown_share + 0.01:
            question, answer = self.questions.small_talk(rng)
            return question, self.about if answer == ABOUT else answer
        domain, draw = self.drawn(), rng.random()
        if draw < args.howto_share and domain.howto:
            return domain.howto_pair(rng, self.model, self.tokenizer)
        if draw > 1 - args.reverse_share and domain.reversible:
            return reverse_question(rng, rng.choice(domain.reversible))
        return self.questions.about(rng, domain.fact(rng))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="the GGUF file to branch from")
    parser.add_argument("--base-data", type=Path, required=True, help="what gather.py wrote for it")
    parser.add_argument("--howto", type=Path, default=Path(__file__).parent / "howto")
    parser.add_argument("--domains", required=True, help="one of rust, python, linux, or all of them with commas")
    parser.add_argument("--replay", type=float, default=0.05)
    parser.add_argument("--howto-share", type=float, default=0.5)
    parser.add_argument("--reverse-share", type=float, default=0.07)
    parser.add_argument("--new-times", type=int, default=3, help="times that a new fact comes for each of an old one")
    parser.set_defaults(minutes=600, threads=1, rows=24, unknown_share=0.08, ema=0.95)
    args = parser.parse_args()
    device, rank, world = prepared(args)
    model, tokenizer, _ = from_gguf(args.base)
    model = model.to(device)
    tokenizer.save(str(args.run / "tokenizer.json"))
    batches = ExpertBatches(args, tokenizer, model)
    if rank:
        batches.rng = random.Random(f"{args.seed} {rank}")
    for d, weight in zip(batches.domains, batches.weights):
        print(f"{d.name}: weight {weight:.3f}, {len(d.facts)} facts, {len(d.reversible)} reversible, "
              f"{len(d.howto)} how-to questions, {len(d.text)} tokens of text", flush=True)
    train(args, model, batches, sum(len(d.facts) for d in batches.domains), device, rank, world)


if __name__ == "__main__":
    sys.exit(main())
