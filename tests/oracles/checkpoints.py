"""Models as Hugging Face folders: `config.json`, `model.safetensors` and a tokenizer, what `hublab convert` reads."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from hyperparameters import WORDPIECE_SPECIALS, vocabulary, wordpieces


def save(folder, spec, model):
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (_wordpiece(spec) if spec.pooling else _byte_level(spec)).save_pretrained(folder)
    if spec.pooling:
        _save_pooling(folder, spec)


def _save_pooling(folder, spec):
    """How `sentence-transformers` describes what becomes of the token states."""
    stages = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(stages)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")
    pooling = {
        "word_embedding_dimension": spec.width,
        "pooling_mode_cls_token": spec.pooling == "cls",
        "pooling_mode_mean_tokens": spec.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2) + "\n")


def _byte_level(spec):
    """The tokenizer of the GGUF files: bytes, one merge, BOS and EOS."""
    tokens, _ = vocabulary(spec)
    ordinary = {token: index for index, token in enumerate(tokens[:-2])}
    tokenizer = Tokenizer(models.BPE(vocab=ordinary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=tokens[-2], eos_token=tokens[-1])


def _wordpiece(spec):
    tokens = {token: index for index, token in enumerate(wordpieces(spec))}
    tokenizer = Tokenizer(models.WordPiece(vocab=tokens, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, tokens[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.add_special_tokens(list(WORDPIECE_SPECIALS))
    return BertTokenizerFast(tokenizer_object=tokenizer)
