"""Scores the experts, the model they branched from and the comparator on each domain's held-out text and questions.

    python score_experts.py --base-data ../data --data ../data-experts --out expert_scores.json \\
        base=../models/default.gguf python=../models/experts/python.gguf ...

For each file (read back from GGUF, Q8_0 decoded, computed in float32, greedy):

* bits per byte of held-out text of each domain and of the text that changes domain;
* how-to questions of each domain, in a phrasing that was trained on (the first) and in the
  one that was held out (the last);
* facts of each domain, those the base knows and those only experts were taught, in a
  trained and in a new phrasing, and, in reverse, in a new phrasing: the name wanted;
* names without an entry: the share answered "I have no entry for that name."

*Exact* means the same text; *near-exact* is `conversations.near_exact`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import torch

from conversations import HELD_OUT, TRAIN, UNKNOWN, Questions, ask, near_exact, reverse_question
from gather_experts import DOMAINS
from score import InProcess, bits_per_byte, from_gguf
from train_experts import read_lines, reversible


def share(answer: InProcess, asked: list[tuple[str, str]]) -> dict:
    """Of (question, wanted answer) pairs: how many there are, shares of exact and near-exact answers."""
    if not asked:
        return {"asked": 0}
    answers = answer([q for q, _ in asked])
    exact = sum(a == wanted for a, (_, wanted) in zip(answers, asked))
    near = sum(near_exact(a, wanted) for a, (_, wanted) in zip(answers, asked))
    return {"asked": len(asked), "exact": round(exact / len(asked), 4), "near_exact": round(near / len(asked), 4)}


def question_sets(args, base_names: set[str]) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Domain -> name of the set -> (question, wanted answer). The same questions for every model."""
    sets = {}
    for domain, source in DOMAINS.items():
        rng = random.Random(f"score {domain}")
        howto = read_lines(args.howto / f"{domain}.jsonl")
        facts = read_lines(args.data / f"facts.{domain}.jsonl")
        mine: dict[str, list] = {
            "howto_trained_phrasing": [(line["questions"][0], line["answer"]) for line in howto],
            "howto_held_out_phrasing": [(line["questions"][-1], line["answer"]) for line in howto],
        }
        for kind, chosen in (("base_facts", [f for f in facts if f["name"] in base_names]),
                             ("new_facts", [f for f in facts if f["name"] not in base_names])):
            chosen = rng.sample(chosen, min(args.sample, len(chosen)))
            for phrasing, table in (("trained", TRAIN), ("new", HELD_OUT)):
                asked = [(ask(rng, rng.choice(table[source]), f["name"]), f["answer"]) for f in chosen]
                mine[f"{kind}_{phrasing}_phrasing"] = asked
        names = reversible(facts)
        names = rng.sample(names, min(args.sample, len(names)))
        mine["reverse_new_phrasing"] = [reverse_question(rng, f, held_out=True) for f in names]
        sets[domain] = mine
    return sets


def unknown_names(args) -> dict[str, list[tuple[str, str]]]:
    """Real names that no training question used, and invented ones, as score.py asks them."""
    known = Questions([f for d in DOMAINS for f in read_lines(args.data / f"facts.{d}.jsonl")], [])
    known.unlisted_test = (args.data / "unlisted.test.txt").read_text().split("\n")[:-1]
    rng = random.Random(99)
    source = lambda n: "rust" if "::" in n else "python" if "." in n else "man"
    invented = [known.made_up_name(rng, s) for s in ("man", "rust", "python") for _ in range(50)]
    return {kind: [(ask(rng, rng.choice(HELD_OUT[source(n)]), n), UNKNOWN) for n in names]
            for kind, names in (("real_names", known.unlisted_test), ("invented_names", invented))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--base-data", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--howto", type=Path, default=Path(__file__).parent / "howto")
    parser.add_argument("--sample", type=int, default=300, help="facts of a kind and domain to ask about")
    parser.add_argument("--text-bytes", type=int, default=10**9, help="held-out text of each kind to read")
    parser.add_argument("--text-only", action="store_true", help="bits per byte alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the result as JSON; models it has already are kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base_names = {f["name"] for f in read_lines(args.base_data / "facts.jsonl")}
    sets, unknown = question_sets(args, base_names), unknown_names(args)
    result = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name, path in (m.split("=", 1) for m in args.models):
        model, tokenizer, info = from_gguf(Path(path))
        answer = InProcess(model, tokenizer)
        text = {t: bits_per_byte(model, tokenizer, args.data / f"valid.{t}.txt", args.text_bytes)
                for t in (*DOMAINS, "mixed")}
        info["bits_per_byte"] = {t: measured["bits_per_byte"] for t, measured in text.items()}
        if not args.text_only:
            info["questions"] = {d: {kind: share(answer, asked) for kind, asked in mine.items()}
                                 for d, mine in sets.items()}
            info["says_no_entry"] = {kind: share(answer, asked) for kind, asked in unknown.items()}
        result[name] = info
        print(name, json.dumps(info), flush=True)
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
