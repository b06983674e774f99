"""Validates the how-to questions of the expert models (rust, python, linux) beside this file and prints counts.

One line of a file is one topic: {"topic": "reverse-list", "questions": [7 phrasings], "answer": "..."}. The first
phrasing is the plainest; the last one is held out: train on `questions[:-1]`, score on `questions[-1]`.

Refuses a file with fewer than 220 topics, a topic without exactly 7 phrasings, a question that occurs twice
(in one file or in two; case, punctuation and spaces do not count), text that is not printable ASCII, an answer
outside 20 to 160 characters, and a held-out phrasing that is nearly an earlier one of its topic. It cannot see
whether an answer is true. The other training data is described in docs/MODEL_TRAINING.md.

    python training/howto/check.py
"""

import json
import re
import sys
from pathlib import Path

DOMAINS = ("rust", "python", "linux")
TOPICS_MIN, PHRASINGS = 220, 7
ANSWER_CHARS, QUESTION_CHARS = (20, 160), (8, 160)
HELD_OUT_OVERLAP_MAX = 0.8  # shared words over all words of the two phrasings


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def is_plain(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isprintable() and text == text.strip()


def overlap(a: str, b: str) -> float:
    first, second = set(words(a)), set(words(b))
    return len(first & second) / max(1, len(first | second))


def entry_faults(entry: object) -> list[str]:
    """What is wrong with one line by itself; the lines together are compared in `main`."""
    if not isinstance(entry, dict) or set(entry) != {"topic", "questions", "answer"}:
        return ["wants an object with exactly topic, questions and answer"]
    questions, answer = entry["questions"], entry["answer"]
    if not isinstance(questions, list) or not all(is_plain(t) for t in [entry["topic"], answer, *questions]):
        return ["text that is not one line of trimmed, printable ASCII"]
    faults = []
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry["topic"]):
        faults.append(f"topic {entry['topic']!r} is not words-joined-by-hyphens")
    if len(questions) != PHRASINGS:
        return [*faults, f"{len(questions)} questions, wants {PHRASINGS}"]
    if not ANSWER_CHARS[0] <= len(answer) <= ANSWER_CHARS[1]:
        faults.append(f"answer of {len(answer)} characters, wants {ANSWER_CHARS[0]} to {ANSWER_CHARS[1]}")
    if answer.count("`") % 2:
        faults.append("answer with an odd number of backticks")
    for question in questions:
        if not QUESTION_CHARS[0] <= len(question) <= QUESTION_CHARS[1]:
            faults.append(f"question of {len(question)} characters: {question!r}")
    for question in questions[:-1]:
        if overlap(question, questions[-1]) > HELD_OUT_OVERLAP_MAX:
            faults.append(f"held-out phrasing is nearly {question!r}")
    return faults


def main() -> int:
    folder, faults, asked = Path(__file__).resolve().parent, [], {}
    for domain in DOMAINS:
        topics, answers, total, named = set(), set(), 0, 0
        lines = (folder / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            where = f"{domain}.jsonl:{number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                faults.append(f"{where}: not JSON: {error}")
                continue
            found = entry_faults(entry)
            faults += [f"{where}: {fault}" for fault in found]
            if found:
                continue
            for kind, value, seen in (("topic", entry["topic"], topics), ("answer", entry["answer"], answers)):
                if value in seen:
                    faults.append(f"{where}: {kind} occurs twice: {value!r}")
                seen.add(value)
            for question in entry["questions"]:
                key = " ".join(words(question))
                if key in asked:
                    faults.append(f"{where}: question occurs twice, first in {asked[key]}: {question!r}")
                asked.setdefault(key, where)
                total += 1
                named += not set(DOMAINS).isdisjoint(words(question))
        if len(topics) < TOPICS_MIN:
            faults.append(f"{domain}.jsonl: {len(topics)} sound topics, wants at least {TOPICS_MIN}")
        print(f"{domain}: {len(topics)} topics, {total} questions, {100 * named / max(1, total):.0f} % name a domain")
    print("\n".join(faults) or "all sound")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
