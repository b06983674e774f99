"""Random texts through PyPI `tokenizers` and `sentencepiece`, as cases for the test `oracle.rs`.

    python oracle_tokenizers.py VOCABULARIES TARGET [--texts 10000] [--seed 1]

VOCABULARIES is a folder with llama.cpp's `ggml-vocab-*.gguf`, beside which those of `data/vocab` (made by
`train_vocabularies.py`) are used; one case file for each tokenizer below is written into
TARGET. `HUBLAB_ORACLE_CASES=TARGET cargo test -p hublabio-tokenizer --test oracle` then compares. The committed sample
in `data/oracle` was made with `--texts 40 --committed`, which leaves out long texts and what needs vocabularies that are
not committed. Needs PyPI `gguf`, `tokenizers`, `sentencepiece`.

The oracle is built from the vocabulary in the file and the pre-tokenizer pattern that the models' own tokenizer.json
publishes. A case file changes a vocabulary in ways that its header states, so that unusual ones are tested too.
"""

import argparse
import functools
import pathlib
import random
import struct
import tempfile
import zlib

import sentencepiece
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

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
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+SUFFIX|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*SUFFIX"
    rf"|\p{{N}}DIGITS| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{REST}"
)
GPT4O = O200K.replace("SUFFIX", CONTRACTION + "?").replace("DIGITS", "{1,3}")
NO_HAN = [c[:-1] + r"&&[^\p{Han}]]" for c in (UPPER, LOWER)]
KIMI = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{NO_HAN[0]}*{NO_HAN[1]}+{CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{NO_HAN[0]}+{NO_HAN[1]}*{CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}"
)
ASCII_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
DEEPSEEK3 = rf"{ASCII_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{REST}"
# Written as numbers, because editors and networks normalize some of these letters.
CASED_LETTERS = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-"
    "\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]"
)
ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CHINESE_JAPANESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
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
    "jais-2": [
        rf"{CONTRACTION}|{WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
        r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)"
        r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
    ],
    "minicpm5": [r"\p{N}{1,3}", CL100K.replace("DIGITS", "+")],
    "bailingmoe": [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ],
    "seed-coder": [rf"{CONTRACTION}|{WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{REST}"],
    "ufakzeka": [rf"{WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}"],
    "laguna": [r"[^\n]+|[\n]+", CL100K.replace("DIGITS", "")],
    "exaone-moe": [
        rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
    ],
    "gpt-4o": [GPT4O],
    "tekken": [O200K.replace("SUFFIX", "").replace("DIGITS", "")],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
    "youtu": [
        "[\uac00-\ud7a3\u3131-\u318e]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + CHINESE_JAPANESE,
        O200K.replace("SUFFIX", CONTRACTION + "?").replace("DIGITS", ""),
    ],
    "kimi-k2": [KIMI],
    "deepseek-llm": [
        r"[\r\n]", r"\s?" + CASED_LETTERS + "+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", ASIAN, r"\p{N}",
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ASIAN, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", CHINESE_JAPANESE, DEEPSEEK3],
    "spark2_5": [
        r"\p{N}{1,3}", CHINESE_JAPANESE, rf"{ASCII_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}",
    ],
    # llama.cpp's grouping of digits as a regex.
    "afmoe": [
        r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
        "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
        "\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
        DEEPSEEK3,
    ],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "chameleon": [
        r"<sentinel:[0-9]+>", r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]", GPT2,
    ],
}
IGNORES_MERGES = {"llama-bpe", "minicpm5", "tekken", "youtu"}

# name of the case file: vocabulary, header directives
CASES = {
    "gpt-2": ("gpt-2", {}),
    "gpt-2-as-llama-bpe": ("gpt-2", {"pre": "llama-bpe"}),
    "gpt-2-as-qwen2": ("gpt-2", {"pre": "qwen2"}),
    "gpt-2-as-qwen35": ("gpt-2", {"pre": "qwen35"}),
    "gpt-2-as-starcoder": ("gpt-2", {"pre": "starcoder"}),
    "gpt-2-as-falcon": ("gpt-2", {"pre": "falcon"}),
    "gpt-2-as-default": ("gpt-2", {"pre": "default"}),
    **{
        f"gpt-2-as-{pre}": ("gpt-2", {"pre": pre})
        for pre in PATTERNS
        if pre not in ("gpt-2", "llama-bpe", "qwen2", "qwen35", "starcoder", "falcon", "default", "dbrx", "mpt")
    },
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
    "deepseek-llm": ("deepseek-llm", {}),
    "bert-bge": ("bert-bge", {}),
    "wordpiece": ("wordpiece", {}),
    "wordpiece-cased": ("wordpiece-cased", {}),
    "unigram": ("unigram", {}),
    "unigram-suffix": ("unigram", {"space_suffix": "true"}),
    "unigram-no-prefix": ("unigram", {"space_prefix": "false"}),
    "unigram-keeps-spaces": ("unigram", {"merge_spaces": "false"}),
    "unigram-identity": ("unigram-identity", {}),
    "unigram-unused": ("unigram-identity", {"type": [(UNUSED, 260, 3)]}),
    "gemma4": ("gemma4", {}),
    "gemma4-merges-reversed": ("gemma4", {"merges": "reversed"}),
}
TRAINED = ["wordpiece", "wordpiece-cased", "unigram", "unigram-identity", "gemma4"]
COMMITTED = ["gpt-2", "llama-spm", *TRAINED]


def unpacked(path):
    """A GGUF file for one that is compressed."""
    target = pathlib.Path(tempfile.mkdtemp()) / path.stem
    target.write_bytes(zlib.decompress(path.read_bytes()))
    return target


@functools.cache
def read_fields(path):
    """The metadata of a GGUF file, compressed or not."""
    path = unpacked(path) if path.suffix == ".zlib" else path
    fields = GGUFReader(path).fields.items()
    return {name: field.contents() for name, field in fields if name.startswith("tokenizer.ggml.")}


class Vocabulary:
    def __init__(self, path, directives):
        fields = read_fields(path)
        # Lists are changed below, and those that were read are kept for the next case.
        copy = lambda value: list(value) if isinstance(value, list) else value
        get = lambda key: copy(fields.get(f"tokenizer.ggml.{key}"))
        self.model = get("model")
        self.spm = self.model == "llama"
        flag = lambda name, key, default: directives.get(name, str(default if get(key) is None else get(key))).lower() == "true"
        self.merge_spaces = flag("merge_spaces", "remove_extra_whitespaces", not self.spm)
        self.space_suffix = directives.get("space_suffix") == "true"
        self.charsmap = bytes(get("precompiled_charsmap") or [])
        self.lowercase = flag("lowercase", "normalizer.lowercase", True)
        self.tokens, self.types, self.scores, self.merges = map(get, ["tokens", "token_type", "scores", "merges"])
        self.pre = directives.get("pre", get("pre"))
        self.space_prefix = flag("space_prefix", "add_space_prefix", True)
        for kind, first, step, *end in directives.get("type", []):
            for i in range(first, end[0] if end else len(self.tokens), step):
                if self.types[i] != CONTROL:
                    self.types[i] = kind
        if "scores" in directives:
            for i in range(259, len(self.tokens)):
                self.scores[i] = -float(i % directives["scores"])
        if directives.get("merges") == "reversed":
            self.merges.reverse()


class Oracle:
    """What the library does with a text (`raw`), and the ids of that in the vocabulary."""

    def __init__(self, raw, ids):
        self.raw, self.ids = raw, ids

    def __call__(self, text):
        return self.ids(self.raw(text))


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
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    return Oracle(encode, lambda encoding: [ids[t] for t in encoding.tokens])


def character_bpe_tokenizer(v):
    """tokenizers' BPE over characters with byte fallback, as Gemma's tokenizer.json has it."""
    special = (CONTROL, USER_DEFINED)
    vocab = {t: i for i, t in enumerate(v.tokens) if v.types[i] not in special}
    merges = [tuple(m.split(" ")) for m in v.merges]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    ids = {t: i for i, t in enumerate(v.tokens)}
    # A run of spaces is found in the text as it is, and as the vocabulary spells it.
    added = [t for i, t in enumerate(v.tokens) if v.types[i] == USER_DEFINED]
    added += [t.replace("▁", " ") for t in added if "▁" in t]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in added])
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    return Oracle(encode, lambda encoding: [ids[t.replace(" ", "▁")] for t in encoding.tokens])


def wordpiece_tokenizer(v):
    """tokenizers' WordPiece, with the marks of GGUF turned back into BERT's."""
    special = (CONTROL, UNKNOWN)
    plain = lambda i, t: t if v.types[i] in special else t[1:] if t.startswith("▁") else "##" + t
    vocab = {plain(i, t): i for i, t in enumerate(v.tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=v.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Oracle(lambda text: tokenizer.encode(text, add_special_tokens=False), lambda encoding: encoding.ids)


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
    # model_type BPE or unigram, vocab_size, treat_whitespace_as_suffix, byte_fallback, unk_id, bos_id, eos_id
    kind = field(3, 2 if v.spm else 1) + field(4, len(v.tokens)) + field(24, int(v.space_suffix))
    ids = field(40, 0) + field(41, 1) + field(42, 2) if v.spm else field(40, 2) + field(41, -1 & (1 << 64) - 1) + field(42, 1)
    model += field(2, kind + field(35, int(has_bytes)) + ids)
    # name, precompiled_charsmap, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    name = field(1, b"nmt_nfkc" if v.charsmap else b"identity") + field(2, v.charsmap)
    model += field(3, name + field(3, int(v.space_prefix)) + field(4, int(v.merge_spaces)) + field(5, 1))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return Oracle(lambda text: processor.encode(text, out_type=int), lambda ids: ids)


ORACLES = {
    "llama": sentencepiece_model,
    "t5": sentencepiece_model,
    "gpt2": byte_level_tokenizer,
    "gemma4": character_bpe_tokenizer,
    "bert": wordpiece_tokenizer,
}

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
        return text.replace("Ġ", " ").replace("Ċ", "\n") if v.model == "gpt2" else text.replace("▁", " ")

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
        "cased": lambda: "".join(rng.choice("abXYZǅʰאמ日\u0301é's") for _ in range(rng.randrange(2, 9))),
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
    classes = r"\p{L} \p{N} \p{M} \p{P} \p{S} \s \p{Lu} \p{Lt} \p{Ll} \p{Lm} \p{Lo} \p{Nd} \d \w \p{Han}"
    for pattern in classes.split():
        split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        chunks = ("".join(every[i : i + 4096]) for i in range(0, len(every), 4096))
        print(pattern, sum(len(piece) for chunk in chunks for piece, _ in split.pre_tokenize_str(chunk)))


def escape(text):
    # A leading `#` would read as part of the header.
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return "\\" + text if text.startswith("#") else text


def write_cases(name, source, target, texts, seed, bytes_max):
    vocabulary, directives = CASES[name]
    trained = pathlib.Path(__file__).parent / "data" / "vocab" / f"{vocabulary}.gguf.zlib"
    v = Vocabulary(trained if vocabulary in TRAINED else source / f"ggml-vocab-{vocabulary}.gguf", directives)
    encode = ORACLES[v.model](v)
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


if __name__ == "__main__":
    main()
