#!/usr/bin/env python3
"""Checks the evaluation questions beside this file and prints how many there are of each kind.

Knows the fields, counts, lengths and limits that `README.md` promises. Refuses to know what a router or an expert says:
it judges the files, not the answers. Exit status 0 when every promise holds, 1 with one line a fault otherwise.
"""

import collections
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
DOMAINS = ("rust", "python", "linux")
LABELS = DOMAINS + ("general",)
LENGTHS = {"8": (4, 14), "32": (22, 45), "128": (95, 170)}  # name: fewest and most words between white space
SHARES = {"8": 0.40, "32": 0.35, "128": 0.25}  # least share of the questions of one set and label
AMBIGUOUS = (0.09, 0.15)  # share of a set; the aim is 12 %
UNNAMED = (0.45, 0.65)  # share of a set's domain questions that name none of the three domains; the aim is a half
LEAST = {
    "test": {"rust": 110, "python": 110, "linux": 110, "general": 90},
    # The shares of the test set, for 360 questions in all: at least 94 a domain, 77 general.
    "calibration": {"rust": 94, "python": 94, "linux": 94, "general": 77},
}
LEAST_IN_SET = {"test": 420, "calibration": 360}
SIMILAR = 0.6  # word sets that overlap by more (intersection over union) count as the same question
LEAST_ANSWERS = 60  # a domain
CHARS_MAX = 2000
FILE_BYTES_MAX = 4 << 20


def load(name, types, faults):
    """The objects of a JSON Lines file whose fields are exactly those of `types`; a fault for each other line."""
    path = HERE / name
    if path.stat().st_size > FILE_BYTES_MAX:
        sys.exit(f"{name}: more than {FILE_BYTES_MAX} bytes: split it")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            faults.append(f"{name}:{number}: not JSON: {error}")
            continue
        good = isinstance(row, dict) and row.keys() == types.keys()
        if not good or not all(type(row[key]) is kind for key, kind in types.items()):
            faults.append(f"{name}:{number}: needs exactly the fields {', '.join(types)} with their types")
        elif not 0 < len(row["question"]) <= CHARS_MAX or row["question"] != row["question"].strip():
            faults.append(f"{name}:{number}: question is empty, too long, or has blanks at an end")
        else:
            rows.append((f"{name}:{number}", row))
    return rows


def words(text):
    """The set of lower-case words of a text, without punctuation."""
    return frozenset(re.findall(r"\w+", text.lower()))


def occurs(keyword, answer):
    """Whether a keyword stands in an answer as a whole word, in any case: the rule of `accept` in `README.md`."""
    return re.search(rf"(?<![\w]){re.escape(keyword)}(?![\w])", answer, re.IGNORECASE) is not None


def check_duplicates(rows, faults):
    """No two questions of one file share nearly all of their words, whatever their sets."""
    bags = [(where, words(row["question"])) for where, row in rows]
    for index, (where, bag) in enumerate(bags):
        for other, earlier in bags[:index]:
            small, large = sorted((len(bag), len(earlier)))
            if small <= SIMILAR * large:
                continue
            common = len(bag & earlier)
            if common > SIMILAR * (small + large - common):
                faults.append(f"{where}: nearly the same words as {other}")


def check_routing(rows, faults):
    """Every line's own promises: known label, set and length name, and as many words as the name says."""
    for where, row in rows:
        for key, known in (("label", LABELS), ("set", LEAST), ("words", LENGTHS)):
            if row[key] not in known:
                faults.append(f"{where}: {key} {row[key]!r} is none of {', '.join(known)}")
                break
        else:
            least, most = LENGTHS[row["words"]]
            count = len(row["question"].split())
            if not least <= count <= most:
                faults.append(f"{where}: {count} words, want {least} to {most}: {row['question'][:60]!r}")


def check_share(name, part, whole, limits, faults):
    """`part` of `whole` lies between two shares."""
    share = part / max(whole, 1)
    if not limits[0] <= share <= limits[1]:
        faults.append(f"{name}: {share:.1%}, want {limits[0]:.0%} to {limits[1]:.0%}")


def check_counts(rows, faults):
    """Promises on how many questions of each set, label and length there are. Prints the table."""
    plain = [row for _, row in rows]
    print(f"{'set':12} {'label':8} {'8':>5} {'32':>5} {'128':>5} {'all':>5} {'ambiguous':>9} {'unnamed':>8}")
    for name, least in LEAST.items():
        of_set = [row for row in plain if row["set"] == name]
        if len(of_set) < LEAST_IN_SET[name]:
            faults.append(f"{name}: {len(of_set)} questions, want {LEAST_IN_SET[name]}")
        named = re.compile(r"\b(rust|python|linux)\b", re.IGNORECASE)
        for label in LABELS:
            group = [row for row in of_set if row["label"] == label]
            lengths = collections.Counter(row["words"] for row in group)
            unsure = sum(row["ambiguous"] for row in group)
            bare = sum(not named.search(row["question"]) for row in group)
            cells = " ".join(f"{lengths[length]:5}" for length in LENGTHS)
            print(f"{name:12} {label:8} {cells} {len(group):5} {unsure:9} {bare:8}")
            if len(group) < least[label]:
                faults.append(f"{name}, {label}: {len(group)} questions, want {least[label]}")
            for length, share in SHARES.items():
                check_share(f"{name}, {label}, {length} words", lengths[length], len(group), (share, 1), faults)
        check_share(f"{name}, ambiguous", sum(row["ambiguous"] for row in of_set), len(of_set), AMBIGUOUS, faults)
        domain = [row for row in of_set if row["label"] in DOMAINS]
        bare = sum(not named.search(row["question"]) for row in domain)
        check_share(f"{name}, domain not named", bare, len(domain), UNNAMED, faults)


def check_answer(where, row, faults):
    """One checkable question: known label and kind, answers of the kind's form that the question does not give away."""
    question, accept, kind = row["question"], row["accept"], row["kind"]
    if row["label"] not in DOMAINS:
        faults.append(f"{where}: label {row['label']!r} is none of {', '.join(DOMAINS)}")
    if not accept or not all(isinstance(word, str) and word and word == word.strip() for word in accept):
        faults.append(f"{where}: accept must hold words, without blanks at their ends")
        return
    if len({word.lower() for word in accept}) != len(accept):
        faults.append(f"{where}: accept repeats a word")
    if kind == "choice":
        options = re.findall(r"(?<!\S)([A-Z])\) ", question)
        if options != list("ABCD") or len(accept) != 1 or accept[0] not in options:
            faults.append(f"{where}: a choice has the options A) to D), in order, and accepts one of these letters")
    elif kind in ("short", "number"):
        given = [word for word in accept if occurs(word, question)]
        if given and kind == "short":
            faults.append(f"{where}: the question contains its answer {given[0]!r}")
        if kind == "number" and not re.fullmatch(r"-?\d+", accept[0]):
            faults.append(f"{where}: a number's first accepted answer is written in digits")
    else:
        faults.append(f"{where}: kind {kind!r} is none of short, choice, number")


def check_answers(rows, faults):
    """Promises on the checkable questions. Prints the table."""
    for where, row in rows:
        check_answer(where, row, faults)
    count = collections.Counter((row["label"], row["kind"]) for _, row in rows)
    letters = collections.Counter(row["accept"][0] for _, row in rows if row["kind"] == "choice")
    print(f"\n{'answers':12} {'short':>6} {'choice':>6} {'number':>6} {'all':>5}")
    for label in DOMAINS:
        cells = [count[label, kind] for kind in ("short", "choice", "number")]
        print(f"{label:12} {cells[0]:6} {cells[1]:6} {cells[2]:6} {sum(cells):5}")
        if sum(cells) < LEAST_ANSWERS or not all(cells):
            faults.append(f"answers, {label}: want {LEAST_ANSWERS} questions and every kind among them")
    total = sum(letters.values())
    for letter in "ABCD":
        # Always answering with one letter must not pay.
        check_share(f"answers, letter {letter}", letters[letter], total, (0.2, 0.3), faults)


def main():
    """Checks both files; returns the exit status."""
    faults = []
    routing = load(
        "routing.jsonl", {"question": str, "label": str, "ambiguous": bool, "set": str, "words": str}, faults
    )
    answers = load("answers.jsonl", {"question": str, "label": str, "accept": list, "kind": str}, faults)
    check_routing(routing, faults)
    check_counts(routing, faults)
    check_duplicates(routing, faults)
    check_answers(answers, faults)
    check_duplicates(answers, faults)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"\n{len(routing)} routing questions, {len(answers)} checkable ones, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
