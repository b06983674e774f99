"""Makes files of the how-to questions: examples for the router, and held-out questions for `hublab swarm eval`.

    python3 training/howto/examples.py

Of each topic in `rust.jsonl`, `python.jsonl` and `linux.jsonl` beside it, all phrasings but the last are what experts are
trained on: they become `experts/routing/questions_<domain>.txt`, one a line. The last is held out: with the topic's
answer as what is right it becomes a line of `experts/eval/howto.jsonl`.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
EXPERTS = HERE.parent.parent / "experts"


def main() -> None:
    held_out = []
    for domain in ("linux", "python", "rust"):
        topics = [json.loads(line) for line in (HERE / f"{domain}.jsonl").read_text().splitlines()]
        questions = [question for topic in topics for question in topic["questions"][:-1]]
        (EXPERTS / "routing" / f"questions_{domain}.txt").write_text("\n".join(questions) + "\n")
        for topic in topics:
            held_out.append({"question": topic["questions"][-1], "label": domain, "accept": [topic["answer"]], "kind": "text"})
        print(f"{domain}: {len(questions)} questions of {len(topics)} topics")
    lines = [json.dumps(question, ensure_ascii=False) for question in held_out]
    (EXPERTS / "eval" / "howto.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
