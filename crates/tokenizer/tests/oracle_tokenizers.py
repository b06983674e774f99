"""Random texts through PyPI `tokenizers` and `sentencepiece`, as cases for the test `oracle.rs`.

    python oracle_tokenizers.py VOCABULARIES TARGET [--texts 10000] [--seed 1]

VOCABULARIES is a folder with llama.cpp's `ggml-vocab-*.gguf`; one case file for each tokenizer below is written into
TARGET. `HUBLAB_ORACLE_CASES=TARGET cargo test -p hublabio-tokenizer --test oracle` then compares. The committed sample
in `data/oracle` was made with `--texts 60 --committed`, which leaves out long texts and what needs vocabularies that are
not committed. Needs PyPI `gguf`, `tokenizers`, `sentencepiece`.

The oracle is built from the vocabulary in the file and the pre-tokenizer pattern that the models' own tokenizer.json
publishes. A case file changes a vocabulary in ways that its header states, so that unusual ones are tested too.
"""

import argparse
import pathlib
import random
import struct

import sentencepiece
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt-2": [GPT2],
    "llama-bpe": [CL100K.replace("DIGITS", "{1,3}")],
    "dbrx": [CL100K.replace("DIGITS", "{1,3}")],
    "qwen2": [CL100K.replace("DIGITS", "")],
    "qwen35": [QWEN35],
    "mpt": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
}
IGNORES_MERGES = {"llama-bpe"}

# name of the case file: vocabulary, header directives
CASES = {
    "gpt-2": ("gpt-2", {}),
    "gpt-2-as-llama-bpe": ("gpt-2", {"pre": "llama-bpe"}),
    "gpt-2-as-qwen2": ("gpt-2", {"pre": "qwen2"}),
    "gpt-2-as-qwen35": ("gpt-2", {"pre": "qwen35"}),
    "gpt-2-as-starcoder": ("gpt-2", {"pre": "starcoder"}),
    "gpt-2-as-falcon": ("gpt-2", {"pre": "falcon"}),
    "gpt-2-as-default": ("gpt-2", {"pre": "default"}),
    "gpt-2-user-defined": ("gpt-2", {"type": [(USER_DEFINED, 300, 61)]}),
    "gpt-2-merges-reversed": ("gpt-2", {"merges": "reversed"}),
    "llama-bpe": ("llama-bpe", {}),
    "llama-bpe-with-merges": ("llama-bpe", {"pre": "dbrx"}),
    "qwen2": ("qwen2", {}),
    "mpt": ("mpt", {}),
    "starcoder": ("starcoder", {}),
    "llama-spm": ("llama-spm", {}),
    "llama-spm-no-prefix": ("llama-spm", {"space_prefix": "false"}),
    "llama-spm-ties": ("llama-spm", {"scores": 7}),
    "llama-spm-no-bytes": ("llama-spm", {"type": [(CONTROL, 3, 1, 259)]}),
    "llama-spm-user-defined": ("llama-spm", {"space_prefix": "false", "type": [(USER_DEFINED, 300, 61)]}),
    "llama-spm-unused": ("llama-spm", {"type": [(UNUSED, 260, 3)]}),
}
COMMITTED = ["gpt-2", "llama-spm"]


class Vocabulary:
    def __init__(self, path, directives):
        fields = GGUFReader(path).fields
        get = lambda key: fields[f"tokenizer.ggml.{key}"].contents() if f"tokenizer.ggml.{key}" in fields else None
        self.spm = get("model") == "llama"
        self.tokens, self.types, self.scores, self.merges = map(get, ["tokens", "token_type", "scores", "merges"])
        self.pre = directives.get("pre", get("pre"))
        self.space_prefix = directives.get("space_prefix") != "false"
        for kind, first, step, *end in directives.get("type", []):
            for i in range(first, end[0] if end else len(self.tokens), step):
                if self.types[i] != CONTROL:
                    self.types[i] = kind
        if "scores" in directives:
            for i in range(259, len(self.tokens)):
                self.scores[i] = -float(i % directives["scores"])
        if directives.get("merges") == "reversed":
            self.merges.reverse()


def byte_level_tokenizer(v):
    """tokenizers' BPE over the vocabulary, as tokenizer.json would build it."""
    special = (CONTROL, UNKNOWN, USER_DEFINED)
    # A user-defined token that the merges also make stays in the model's own vocabulary.
    made = {m.replace(" ", "") for m in v.merges}
    vocab = {t: i for i, t in enumerate(v.tokens) if v.types[i] not in special or t in made}
    merges = [tuple(m.split(" ")) for m in v.merges]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=v.pre in IGNORES_MERGES))
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in PATTERNS[v.pre]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    added = [t for i, t in enumerate(v.tokens) if v.types[i] == USER_DEFINED]
    ids = {t: i for i, t in enumerate(v.tokens)}
    # `add_tokens` gives new ids to tokens that the model lacks; they are mapped back by text.
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in added])
    return lambda text: [ids[t] for t in tokenizer.encode(text, add_special_tokens=False).tokens]


def sentencepiece_model(v):
    """SentencePiece's model file, written field by field (sentencepiece_model.proto)."""

    def varint(n):
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])

    def field(number, value):
        if isinstance(value, float):
            return varint(number << 3 | 5) + struct.pack("<f", value)
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    has_bytes = BYTE in v.types
    model = b""
    for token, score, kind in zip(v.tokens, v.scores, v.types):
        model += field(1, field(1, token.encode()) + field(2, float(score)) + field(3, int(kind)))
    # model_type BPE, vocab_size, byte_fallback, unk_id, bos_id, eos_id
    model += field(2, field(3, 2) + field(4, len(v.tokens)) + field(35, int(has_bytes)) + field(40, 0) + field(41, 1) + field(42, 2))
    # name, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    model += field(3, field(1, b"identity") + field(3, int(v.space_prefix)) + field(4, 0) + field(5, 1))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return lambda text: processor.encode(text, out_type=int)


WHITE = [" ", " ", "\n", "\r", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\u0085", "\u000b", "\u000c", "\u1680", "\u200b", "\u2009", "\u202f", "\u001f"]
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'ve", "'vE", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D", "'ſ", "'", "’s", "'ſt", "'l", "'r", "'v", "''s"]
EMOJI = ["🦙", "😶\u200d🌫️", "👩🏽\u200d🚀", "🇩🇪", "1️⃣", "☺️", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"]
CODE = [
    "fn main() {\n    println!(\"{}\", x[0]);\n}\n",
    "for (int i = 0; i < n; ++i) { a[i] += 0x1F; }\r\n",
    "def f(x):\n\treturn x**2  # ok\n\n\n",
    "<div class=\"a-b\">&nbsp;</div>",
    "SELECT * FROM t WHERE a>=10 AND b!='x';",
    "https://example.org/a_b?c=d&e=%20#f",
    "1,234,567.89 + 3.14e-10 = 0b1010",
]
WORDS = "the of and tokenizer Hello World naïve Äpfel straße über niño нещо на Български 我想在 工作 日本語 テスト 한국어 ประเทศ हिन्दी العربية עברית ខ្មែរ Việt ½ ² ٣٤ Ⅷ 𝟘𝟙 e\u0301 o\u0308 ǅ ſt ﬁ".split()


def random_text(rng, v):
    def any_char():
        while True:
            # Half from the planes where characters are, half from anywhere.
            c = rng.choice([rng.randrange(0x30), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x20000), rng.randrange(0x110000)])
            if not 0xD800 <= c <= 0xDFFF:
                return chr(c)

    def token():
        i = rng.randrange(len(v.tokens))
        text = v.tokens[i]
        return text.replace("▁", " ") if v.spm else text.replace("Ġ", " ").replace("Ċ", "\n")

    def user_defined():
        marked = [t for t, kind in zip(v.tokens, v.types) if kind == USER_DEFINED]
        return rng.choice(marked) if marked else "▁"

    parts = {
        "any": any_char,
        "ascii": lambda: "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 12))),
        "control": lambda: chr(rng.randrange(32)),
        "white": lambda: "".join(rng.choice(WHITE) for _ in range(rng.randrange(1, 6))),
        "spaces": lambda: " " * rng.randrange(1, 40),
        "contraction": lambda: rng.choice(CONTRACTIONS) + rng.choice(["", "x", " ", "t"]),
        "run": lambda: any_char() * rng.choice([2, 3, 5, 17, 60, 300]),
        "ascii run": lambda: rng.choice("a0 =-_\n.e") * rng.choice([2, 3, 5, 17, 60, 300]),
        "digits": lambda: "".join(rng.choice("0123456789٣४²Ⅷ") for _ in range(rng.randrange(1, 12))),
        "emoji": lambda: rng.choice(EMOJI),
        "code": lambda: rng.choice(CODE),
        "word": lambda: rng.choice([" ", ""]) + rng.choice(WORDS),
        "token": token,
        "user defined": user_defined,
        "marks": lambda: "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(rng.randrange(1, 4))),
    }
    kinds = list(parts)
    # A text draws on a few kinds of parts, so that each kind also meets itself.
    chosen = rng.sample(kinds, rng.randrange(1, 5))
    return "".join(parts[rng.choice(chosen)]() for _ in range(rng.randrange(0, 14)))


def count_classes():
    """Prints how many code points the oracle's regex engine puts into each class (see `src/unicode.rs`)."""
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    for pattern in [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\s"]:
        split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        chunks = ("".join(every[i : i + 4096]) for i in range(0, len(every), 4096))
        print(pattern, sum(len(piece) for chunk in chunks for piece, _ in split.pre_tokenize_str(chunk)))


def escape(text):
    # A leading `#` would read as part of the header.
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return "\\" + text if text.startswith("#") else text


def write_cases(name, source, target, texts, seed, bytes_max):
    vocabulary, directives = CASES[name]
    v = Vocabulary(source / f"ggml-vocab-{vocabulary}.gguf", directives)
    encode = sentencepiece_model(v) if v.spm else byte_level_tokenizer(v)
    rng = random.Random(f"{seed} {name}")
    lines = [f"# vocabulary {vocabulary}"]
    for key, value in directives.items():
        for entry in value if isinstance(value, list) else [(value,)]:
            lines.append(f"# {key} {' '.join(map(str, entry))}")
    for _ in range(texts):
        while len((text := random_text(rng, v)).encode()) > bytes_max:
            pass
        lines += [escape(text), " ".join(map(str, encode(text)))]
    (target / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print(f"{name}: {texts} texts", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--texts", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--committed", action="store_true", help="only what the committed vocabularies suffice for")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--classes", action="store_true", help="also count the oracle's character classes")
    args = parser.parse_args()
    if args.classes:
        count_classes()
    args.target.mkdir(parents=True, exist_ok=True)
    for name, (vocabulary, _) in CASES.items():
        if (args.only and name not in args.only) or (args.committed and vocabulary not in COMMITTED):
            continue
        write_cases(name, args.source, args.target, args.texts, args.seed, 150 if args.committed else 1 << 20)


main()
