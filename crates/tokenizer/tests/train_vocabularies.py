"""Trains the small vocabularies of the kinds that have no published one which is small: WordPiece, Unigram, Gemma 4.

    python train_vocabularies.py [--size 1500]

Writes `data/vocab/NAME.gguf.zlib`, a GGUF file without tensors in the form that llama.cpp's converter gives that kind,
compressed. Needs PyPI `gguf`, `tokenizers`, `sentencepiece`. The text that is learned from is made of the words below
and of this repository's own pages, so that every script that the tests draw on has pieces.
"""

import argparse
import io
import pathlib
import random
import tempfile
import zlib

import sentencepiece
from gguf import GGUFWriter
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from oracle_tokenizers import CODE, CONTRACTIONS, EMOJI, WORDS

HERE = pathlib.Path(__file__).parent
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def corpus():
    rng = random.Random(7)
    pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/FORMATS.md"]
    root = HERE.parents[2]
    lines = [line for page in pages for line in (root / page).read_text(encoding="utf-8").splitlines()]
    for _ in range(3000):
        words = rng.choices([*WORDS, *CONTRACTIONS, *EMOJI, *CODE], k=rng.randrange(3, 12))
        lines.append(rng.choice(["", " ", "  "]).join(words).replace("\n", " "))
    return lines


def write(name, model, tokens, types, scores=None, **keys):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vocabulary.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(keys.pop("pre", "default"))
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if scores is not None:
            writer.add_token_scores(scores)
        for key, value in keys.items():
            key = f"tokenizer.ggml.{key.replace('__', '.')}"
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_array(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        data = path.read_bytes()
    packed = zlib.compress(data, 9)
    (HERE / "data" / "vocab" / f"{name}.gguf.zlib").write_bytes(packed)
    print(name, len(tokens), "tokens,", len(packed), "bytes")


def wordpiece(size, cased):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=size, special_tokens=special))
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    # As llama.cpp's converter: `##` goes, what begins a word gets a mark.
    marked = [t if t in special else t[2:] if t.startswith("##") else "▁" + t for t in tokens]
    types = [CONTROL if t in special else NORMAL for t in tokens]
    keys = {"cls_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0, "unknown_token_id": 1, "mask_token_id": 4}
    if cased:
        keys["normalizer__lowercase"] = False
    write("wordpiece-cased" if cased else "wordpiece", "bert", marked, types, **keys)


def unigram(size, name, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, model_type="unigram", vocab_size=size,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, **options,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    normalizer = proto.normalizer_spec
    keys = {
        "add_space_prefix": normalizer.add_dummy_prefix,
        "remove_extra_whitespaces": normalizer.remove_extra_whitespaces,
        "eos_token_id": 1, "unknown_token_id": 2, "padding_token_id": 0, "add_bos_token": False, "add_eos_token": True,
    }
    if normalizer.precompiled_charsmap:
        keys["precompiled_charsmap"] = normalizer.precompiled_charsmap
    pieces = proto.pieces
    write(name, "t5", [p.piece for p in pieces], [p.type for p in pieces], [p.score for p in pieces], **keys)


def gemma4(size):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # Learned word by word, as the published merges are; used over the whole text.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=["\n"])
    tokenizer.train_from_iterator(corpus(), trainer)
    model = __import__("json").loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    types = [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 260)
    # Runs of spaces and of line ends, as Gemma has them.
    runs = ["▁" * n for n in range(2, 9)] + ["\n" * n for n in range(2, 6)]
    runs = [run for run in runs if run not in tokens]
    tokens += runs
    types += [USER_DEFINED] * len(runs)
    merges = [" ".join(merge) for merge in model["merges"]]
    write("gemma4", "gemma4", tokens, types, [0.0] * len(tokens), merges=merges,
          bos_token_id=2, eos_token_id=1, unknown_token_id=3, padding_token_id=0, add_bos_token=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1500)
    size = parser.parse_args().size
    wordpiece(size, cased=False)
    wordpiece(size, cased=True)
    gemma4(size)
    unigram(size, "unigram", normalization_rule_name="nmt_nfkc")
    unigram(size, "unigram-identity", normalization_rule_name="identity", remove_extra_whitespaces=False,
            byte_fallback=True, add_dummy_prefix=False)


main()
