"""Writes the routing vocabulary of each domain: names from its facts, one a line.

    python terms.py --data ../data-experts --out ../experts/terms

A qualified name (`HashMap::entry`, `itertools.groupby`, `apt-get`) always counts. A bare
word (`grep`, `Vec`, `len`) counts only where it is this domain's own: in the texts of the
other domains it must be `RARER` times rarer than in this one's, whatever its case, so that
`test`, `file` or `String` send no question anywhere. Of a method the bare name counts too
where it has an underscore and only one domain has it (`unwrap_or_else`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from gather_experts import DOMAINS
from train_experts import read_lines

RARER = 8
TERMS_MAX = 2500
# English words that documentation uses less than people do, and names of one domain that all of them talk about.
ORDINARY = set("""
box clone instant pin receiver slice fn abc exception calendar fractions logging pickle threading callable traceback
boot bridge cat col comm ed faked fold less look login man mesg mount nice netdevice packet page pinky poweroff
reboot seq service shred splain split strings tic top unexpand watch write yes icmp bootup keyrings pkeys script free
cut sum date join sort host link kill id who mailaddr
""".split())


def rates(data: Path, domain: str) -> dict[str, float]:
    """Lower-case word -> how often a word of the domain's text is this one."""
    words = re.findall(r"[A-Za-z0-9_]+", (data / f"text.{domain}.txt").read_text().lower())
    return {w: n / len(words) for w, n in Counter(words).items()}


def is_qualified(name: str) -> bool:
    return bool(re.search(r"::|[a-z0-9]\.[A-Za-z]|[a-z0-9]-[a-z]|_|!$", name)) and len(name) > 3


def terms_of(domain: str, facts: dict[str, list[dict]], rate: dict[str, dict[str, float]]) -> list[str]:
    others = [d for d in DOMAINS if d != domain]
    elsewhere = {part.lower() for d in others for f in facts[d]
                 for part in (f["name"], re.split(r"::|\.", f["name"])[-1])}

    def is_own(word: str) -> bool:
        word = word.lower()
        if len(word) < 2 or word in elsewhere or word in ORDINARY:
            return False
        most = max(rate[d].get(word, 0.0) for d in others)
        # A word that no text has at all is a name too (`ntpdate`); one that all have is ordinary.
        return RARER * most < rate[domain].get(word, 0.0) or (most == 0.0 and len(word) > 3)

    names: dict[str, None] = {}
    for fact in facts[domain]:
        for name in [fact["name"], *fact["aliases"]]:
            if is_qualified(name) and name.lower() not in elsewhere or is_own(name):
                names[name] = None
    for fact in facts[domain]:
        last = re.split(r"::|\.", fact["name"])[-1]
        if "_" in last and last.lower() not in elsewhere:
            names[last] = None
    return sorted(list(names)[:TERMS_MAX])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what gather_experts.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {d: read_lines(args.data / f"facts.{d}.jsonl") for d in DOMAINS}
    rate = {d: rates(args.data, d) for d in DOMAINS}
    for domain in DOMAINS:
        terms = terms_of(domain, facts, rate)
        (args.out / f"{domain}.txt").write_text("".join(f"{t}\n" for t in terms))
        print(f"{domain}: {len(terms)} terms of {len(facts[domain])} facts")


if __name__ == "__main__":
    sys.exit(main())
