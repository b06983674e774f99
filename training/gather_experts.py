"""Gathers what the experts learn and what they are measured on: facts, text and held-out text by domain.

    python gather.py --out ../data
    python gather_experts.py --base ../data --out ../data-experts --python-docs DIR

`--base` is what gather.py wrote: an expert must not lose what the model it starts from
knows, so its facts are the base's and more. `--python-docs` is the unpacked HTML manual
of Python (Debian: `apt-get download python3.11-doc && dpkg-deb -x *.deb DIR`); without it
the domain `python` has docstrings only. Everything else is on the machine already.

Writes into the output directory (not meant to be committed, see docs/MODEL_TRAINING.md),
for each domain of `rust`, `python`, `linux`:

* `facts.DOMAIN.jsonl`   the base's facts first, then new ones;
* `text.DOMAIN.txt`      training text;
* `valid.DOMAIN.txt`     held-out text; `valid.mixed.txt` changes domain every 1 to 3 paragraphs

and `unlisted.txt` (names without an entry), `unlisted.test.txt` (the same, never trained
on), `sources.json` (counts). A document is held out by the hash of gather.py, so nothing
the base was trained on is; a held-out paragraph that repeats training text is dropped.

This file knows nothing about models or tokens: next is train_experts.py.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import random
import re
import subprocess
import sys
import sysconfig
import warnings
from collections import Counter
from pathlib import Path

import gather
from conversations import Questions

DOMAINS = {"rust": "rust", "python": "python", "linux": "man"}  # Domain -> `source` of its facts.
# Documents of 256 that are held out. Rust has the least text, so more of it: what of that the base was trained on
# is dropped again by `without_repetitions`. No domain may have fewer than gather.py's 13.
HELD_OUT_OF_256 = {"rust": 32, "python": 13, "linux": 13}
PACKAGE_BYTES = 200_000  # Text of one Debian package at most: perf, git and systemd would fill the rest.
SHINGLE = 8  # Words in a row that make a held-out paragraph a repetition of training text...
REPEATED_MAX = 0.2  # ...where more than this share of its shingles is in it.
RUST_BOOKS = ("book reference rust-by-example nomicon cargo edition-guide rustc rustdoc clippy embedded-book "
              "error_codes style-guide").split()
RUST_SKIPPED = re.compile(r"/(?:simd|intrinsics|arch|f16|f128|os)/|/print\.html|/all\.html|/index\.html\?")
PYTHON_SKIPPED = re.compile(r"(?:^|[./])(?:test|tests|idlelib|lib2to3|pydoc_data|site-packages|__pycache__|turtledemo|"
                            r"encodings)(?:[./]|$)")
SECTIONS = ("1", "5", "7", "8")
Document = tuple[str, list[str]]  # Name and paragraphs.


# ------------------------------------------------------------------- documents

def packages() -> dict[str, str]:
    """Path of a manual page -> the Debian package that owns it."""
    owner = {}
    for listing in Path("/var/lib/dpkg/info").glob("*.list"):
        for line in listing.read_text("utf-8", "replace").splitlines():
            if "/man/man" in line:
                owner[line] = listing.stem.split(":")[0]
    return owner


def linux_documents(root: Path) -> list[Document]:
    owner, used, documents = packages(), Counter(), []
    pages = [p for s in SECTIONS for p in (root / f"man{s}").glob("*") if not p.name.startswith("gcloud")]
    # Which pages of a package fit under its cap is decided by a hash, not by the alphabet.
    for path in sorted(pages, key=lambda p: hashlib.sha256(p.name.encode()).digest()):
        try:
            page = gather.read_page(path)
        except (OSError, EOFError):
            continue
        package = owner.get(str(path), "unpackaged")
        if page.startswith(".so ") or len(page) < 200 or path.is_symlink() or used[package] > PACKAGE_BYTES:
            continue
        paragraphs = [p for p in gather.man_paragraphs(page) if gather.usable_paragraph(p)]
        used[package] += sum(map(len, paragraphs))
        documents.append(("man:" + re.sub(r"\.[1578]\w*(\.gz)?$", "", path.name), paragraphs))
    return documents


def rust_documents(root: Path) -> list[Document]:
    """Documentation comments of std, and the books. Names as in gather.py."""
    documents = []
    for path in sorted((root / "std").rglob("*.html")):
        if not RUST_SKIPPED.search(str(path)):
            page = path.read_text("utf-8", "replace")
            end = re.search(r'<h2 id="(?:trait-implementations|deref-methods|foreign-impls)', page)
            own = page[: end.start()] if end else page
            documents.append((f"rust:{path.relative_to(root)}", gather.rust_paragraphs(own)))
    for book in RUST_BOOKS:
        for path in sorted((root / book).rglob("*.html")):
            if not RUST_SKIPPED.search(str(path)):
                page = path.read_text("utf-8", "replace")
                body = page[page.find("<main"):]
                documents.append((f"rust:{path.relative_to(root)}",
                                  [gather.html_text(p) for p in re.findall(r"<p>(.*?)</p>", body, re.S)]))
    return documents


def docstrings(path: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(path.read_text("utf-8", "replace"))
        except (SyntaxError, ValueError):
            return []
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, nodes)]
    return [gather.clean(p) for text in texts for p in text.split("\n\n") if ">>>" not in p]


def python_documents(manual: Path | None) -> list[Document]:
    """Docstrings of the standard library, read without importing it, then the manual's pages.

    A page about a module is split like the module: both have the name `python:MODULE`.
    """
    documents, root = [], Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if not PYTHON_SKIPPED.search(module):
            documents.append((f"python:{module}", docstrings(path)))
    for path in sorted(manual.rglob("*.html")) if manual else []:
        name = "/".join(path.parts[-2:]).removesuffix(".html")
        if re.match(r"_|.*/(?:genindex|search|contents|changelog|index$)", name):
            continue
        page = path.read_text("utf-8", "replace")
        found = re.findall(r"<(p|dd|li)>(.*?)(?=</p>|</dd>|<p>|<ul|<div)", page[page.find('<div class="body"'):], re.S)
        name = name.removeprefix("library/") if name.startswith("library/") else name
        documents.append((f"python:{name}", [gather.html_text(text) for _, text in found]))
    return documents


# ----------------------------------------------------------------------- split

def hash_byte(salt: str, name: str) -> int:
    return hashlib.sha256((salt + name).encode()).digest()[0]


def shingles(text: str) -> list[int]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [hash(tuple(words[i : i + SHINGLE])) for i in range(max(1, len(words) - SHINGLE + 1))]


def split(documents: list[Document], held_out_of_256: int) -> tuple[list[list[str]], list[Document]]:
    """Training documents and named held-out ones, chosen by a hash of the name, as in gather.py."""
    seen: set[str] = set()
    train, held_out = [], []
    for name, paragraphs in documents:
        out = hash_byte("split", name) < held_out_of_256
        kept = [p for p in paragraphs if gather.usable_paragraph(p) and (out or p not in seen)]
        if not out:
            kept = list(dict.fromkeys(kept))
            seen.update(kept)
        if kept:
            held_out.append((name, kept)) if out else train.append(kept)
    return train, held_out


def without_repetitions(held_out: list[Document], trained: set[int]) -> tuple[list[Document], int]:
    """Drops held-out paragraphs that training text, a fact or an earlier held-out paragraph has too."""
    own: set[int] = set()
    kept_documents, dropped = [], 0
    for name, paragraphs in held_out:
        kept = []
        for paragraph in paragraphs:
            parts = shingles(paragraph)
            if sum(s in trained or s in own for s in parts) > REPEATED_MAX * len(parts):
                dropped += 1
                continue
            own.update(parts)
            kept.append(paragraph)
        if kept:
            kept_documents.append((name, kept))
    return kept_documents, dropped


def mixed(pools: dict[str, list[Document]], limit: int) -> list[list[str]]:
    """Documents of 6 to 12 paragraphs that change domain every 1 to 3 paragraphs."""
    rng = random.Random(5)
    left = {d: [p for _, paragraphs in docs for p in paragraphs][::-1] for d, docs in pools.items()}
    out, size, last = [], 0, ""
    while size < limit and sum(len(p) > 12 for p in left.values()) == len(left):
        document: list[str] = []
        wanted = rng.randint(6, 12)
        while len(document) < wanted:
            last = rng.choice([d for d in left if d != last])
            document += [left[last].pop() for _ in range(rng.randint(1, 3)) if left[last]]
        size += sum(map(len, document))
        out.append(document)
    return out


# ----------------------------------------------------------------------- facts

def man_page_facts(root: Path) -> list[dict]:
    """File formats and overviews (sections 5 and 7): the NAME line, as gather.py takes it for commands."""
    facts = {}
    for section, kind in (("5", "file format"), ("7", "topic")):
        for path in sorted((root / f"man{section}").glob(f"*.{section}.gz")):
            name = path.name.removesuffix(f".{section}.gz")
            try:
                found = gather.name_line(gather.read_page(path))
            except (OSError, EOFError):
                continue
            answer = found and gather.as_answer(gather.first_sentence(found[1]))
            named = not path.is_symlink() and re.fullmatch(r"[a-z0-9][A-Za-z0-9_.+-]*", name)
            if answer and named and name not in facts:
                facts[name] = {"source": "man", "kind": kind, "name": name, "aliases": [], "answer": answer}
    return sorted(facts.values(), key=lambda f: (f["name"].startswith(("systemd", "pam_", "git", "deb")), f["name"]))


def more_facts(base: list[dict], candidates: list[dict], reserved: set[str], limit: int) -> list[dict]:
    """The base's facts of one source, then candidates up to `limit`."""
    taken = {f["name"].lower() for f in base} | reserved
    answers = Counter(f["answer"] for f in base)
    return base + gather.choose(candidates, max(0, limit - len(base)), taken, answers)


# ------------------------------------------------------------------------ main

def write_text(path: Path, documents: list[list[str]]) -> int:
    text = "".join("\n".join(d) + "\n\n" for d in documents)
    path.write_text(text)
    return len(text)


def gathered_facts(args: argparse.Namespace, rust_root: Path) -> tuple[dict[str, list[dict]], list[str], list[str]]:
    base = [json.loads(line) for line in (args.base / "facts.jsonl").open()]
    unlisted = (args.base / "unlisted.txt").read_text().split("\n")[:-1]
    # The 150 names that score.py asks the base about stay without an entry here too.
    test = Questions(base, unlisted).unlisted_test
    found = {"man": gather.man_facts(args.man), "rust": gather.rust_facts(rust_root), "python": gather.python_facts()}
    candidates = {
        "linux": found["man"][0] + man_page_facts(args.man),
        "rust": gather.cap_per_owner(found["rust"][0], 45),
        "python": gather.cap_per_owner(found["python"][0], 24),
    }
    facts = {}
    for domain, source in DOMAINS.items():
        mine = [f for f in base if f["source"] == source]
        facts[domain] = more_facts(mine, candidates[domain], {n.lower() for n in test}, args.facts)
    known = {n.lower() for fs in facts.values() for f in fs for n in [f["name"], *f["aliases"]]}
    rest = sorted({n for n in unlisted if n.lower() not in known} - set(test))
    return facts, rest, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="what gather.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"))
    parser.add_argument("--rust-html", type=Path, help="default: share/doc/rust/html of the active toolchain")
    parser.add_argument("--python-docs", type=Path, help="Python's manual as HTML files")
    parser.add_argument("--facts", type=int, default=1500, help="facts of a domain, the base's included")
    parser.add_argument("--valid-kb", type=int, default=220, help="held-out text of a domain, kB")
    parser.add_argument("--mixed-kb", type=int, default=200)
    args = parser.parse_args()
    root = args.rust_html or Path(subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True,
                                                 text=True).stdout.strip()) / "share/doc/rust/html"
    if not (root / "std").is_dir():
        sys.exit(f"no Rust documentation under {root}: try `rustup component add rust-docs`")
    args.out.mkdir(parents=True, exist_ok=True)
    facts, unlisted, unlisted_test = gathered_facts(args, root)
    documents = {"rust": rust_documents(root), "python": python_documents(args.python_docs),
                 "linux": linux_documents(args.man)}
    parts = {domain: split(docs, HELD_OUT_OF_256[domain]) for domain, docs in documents.items()}
    base_text = (args.base / "text.train.txt").read_text().split("\n")
    trained = {s for p in base_text for s in shingles(p)}
    trained |= {s for train, _ in parts.values() for d in train for p in d for s in shingles(p)}
    trained |= {s for fs in facts.values() for f in fs for s in shingles(f["answer"])}
    counts, pools = {}, {}
    for domain, (train, held_out) in parts.items():
        held_out.sort(key=lambda d: hashlib.sha256(d[0].encode()).digest())
        held_out, dropped = without_repetitions(held_out, trained)
        # Separate documents for the mixed text, so that it tests something the domain's text did not.
        pools[domain] = [d for d in held_out if hash_byte("mixed", d[0]) < 80]
        valid, size = [], 0
        for name, paragraphs in (d for d in held_out if hash_byte("mixed", d[0]) >= 80):
            if size < args.valid_kb * 1000:
                valid.append(paragraphs)
                size += sum(map(len, paragraphs))
        random.Random(1).shuffle(train)
        counts[domain] = {
            "facts": len(facts[domain]), "documents": len(train),
            "train_bytes": write_text(args.out / f"text.{domain}.txt", train),
            "held_out_documents": len(held_out), "held_out_paragraphs_dropped": dropped,
            "valid_bytes": write_text(args.out / f"valid.{domain}.txt", valid)}
        with (args.out / f"facts.{domain}.jsonl").open("w") as out:
            out.writelines(json.dumps(f) + "\n" for f in facts[domain])
    counts["mixed"] = {"valid_bytes": write_text(args.out / "valid.mixed.txt", mixed(pools, args.mixed_kb * 1000))}
    (args.out / "unlisted.txt").write_text("".join(f"{n}\n" for n in unlisted))
    (args.out / "unlisted.test.txt").write_text("".join(f"{n}\n" for n in unlisted_test))
    (args.out / "sources.json").write_text(json.dumps(counts, indent=1) + "\n")
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
