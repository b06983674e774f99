#!/usr/bin/env python3
"""Makes small random checkpoint folders, one or more for each family that `hublab convert` knows.

    python3 make_models.py --out /tmp/models
    python3 make_models.py --out fixtures --expect     # what the repository keeps

Weights come from `transformers`, every one of them random, norms and biases too. Tokenizers are trained on the
repository's own pages. With --expect, `reference.py` converts each folder and what came of it is written to
NAME/expected.json, which the Rust test reads.
"""

import argparse
import json
import shutil
from pathlib import Path

import sentencepiece
import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import reference

ROOT = Path(__file__).resolve().parents[3]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"

BASE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "attention_dropout": 0.0,
}
GEMMA = {"head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = [round(1 + 0.75 * i, 2) for i in range(4)]
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": LONG,
    "original_max_position_embeddings": 64,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
YARN_ROPE = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.25,
    "beta_fast": 24.0, "beta_slow": 2.0,
}
EXPERTS = {"hidden_size": 16, "intermediate_size": 24, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
ENCODER = {"hidden_size": 24, "intermediate_size": 40, "max_position_embeddings": 64, "num_key_value_heads": None,
           "bos_token_id": None, "eos_token_id": None, "attention_dropout": None, "pad_token_id": 0}
GRANITE = {"attention_multiplier": 0.25, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}


def corpus():
    return [(ROOT / name).read_text() for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]


def write_json(path, document):
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


# Tokenizers: each writes its files and returns how many tokens there are.


def pieces(folder, size=400, gemma=False, added=(), bos_first=True):
    text = folder / "corpus.txt"
    text.write_text("\n".join(corpus()))
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3} if gemma else {"unk_id": 0, "bos_id": 1, "eos_id": 2}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=size, model_type="bpe", byte_fallback=True,
        character_coverage=0.995, add_dummy_prefix=not gemma, remove_extra_whitespaces=False, split_digits=True, normalization_rule_name="identity",
        user_defined_symbols=["▁▁", "\t"] if gemma else [], num_threads=1, minloglevel=2, **ids)
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    names = ["<pad>", "<eos>", "<bos>", "<unk>"] if gemma else ["<unk>", "<s>", "</s>"]
    if gemma:
        model = reference.sentencepiece_model(folder / "tokenizer.model")
        for id, name in ((0, "<pad>"), (1, "<eos>"), (2, "<bos>"), (3, "<unk>")):
            model.pieces[id].piece = name
        (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    decoder = {str(id): {"content": name, "special": True} for id, name in enumerate(names)}
    decoder |= {str(size + n): {"content": text, "special": special} for n, (text, special) in enumerate(added)}
    roles = {"unk_token": "<unk>", "bos_token": names[2 if gemma else 1], "eos_token": names[1 if gemma else 2]}
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "GemmaTokenizer" if gemma else "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
        "added_tokens_decoder": decoder, "chat_template": TEMPLATE, **roles,
        **({"pad_token": {"content": "<pad>", "special": True}} if gemma else {})})
    write_json(folder / "special_tokens_map.json", roles)
    return size + len(added)


def byte_level(folder, pattern, bos=None, specials=("<|endoftext|>",), size=384, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = None if bos else normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(list(specials))
    tokenizer.add_tokens(["<tool_call>"])
    if bos:
        id = tokenizer.token_to_id(bos)
        template = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, id)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": specials[-1],
        "pad_token": specials[0], "model_max_length": 256})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return tokenizer.get_vocab_size()


def byte_fallback(folder):
    """What SentencePiece's merging looks like in tokenizer.json, with no tokenizer.model beside it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))],
                                  limit_alphabet=90, show_progress=False)
    words = [line for text in corpus() for line in text.split()]
    tokenizer.train_from_iterator(words, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    document["post_processor"] = {
        "type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    write_json(folder / "tokenizer.json", document)
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_prefix_space": True,
        "chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "tool use", "template": "{{ tools }}"}]})
    return tokenizer.get_vocab_size()


def phi3_pieces(folder):
    size = pieces(folder, added=[("<|endoftext|>", True), ("<|user|>", True), ("<|end|>", True), ("</note>", False)])
    write_json(folder / "added_tokens.json", {"<|endoftext|>": 400, "<|user|>": 401, "<|end|>": 402})
    return size


def llama3(folder):
    specials = ("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>")
    return byte_level(folder, LLAMA3, bos="<|begin_of_text|>", specials=specials, ignore_merges=True)


def qwen(folder):
    return byte_level(folder, QWEN2, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


def wordpiece(folder, lowercase=True, pooling=None):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(corpus(), trainers.WordPieceTrainer(
        vocab_size=300, limit_alphabet=70, special_tokens=specials, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, **roles})
    if pooling:
        write_json(folder / "modules.json", [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}])
        (folder / "1_Pooling").mkdir()
        modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **modes})
    return tokenizer.get_vocab_size()


# Name: configuration class, model class, tokenizer, number type, settings, ids without a token at the end.
SPECS = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, pieces, "float32", {"shards": "60KB"}, 0),
    "llama3": (hf.LlamaConfig, hf.LlamaForCausalLM, llama3, "bfloat16",
               {"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE, "head_dim": 16}, 3),
    "llama-bias": (hf.LlamaConfig, hf.LlamaForCausalLM, pieces, "float32", {"attention_bias": True, "mlp_bias": True}, 0),
    "mistral": (hf.MistralConfig, hf.MistralForCausalLM, byte_fallback, "float16", {"sliding_window": 48}, 0),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, qwen, "float32", {"tie_word_embeddings": True}, 2),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, qwen, "bfloat16", {"head_dim": 16, "shards": "40KB"}, 0),
    "phi3": (hf.Phi3Config, hf.Phi3ForCausalLM, phi3_pieces, "float32",
             {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 64, "sliding_window": 100}, 0),
    "mixtral": (hf.MixtralConfig, hf.MixtralForCausalLM, byte_fallback, "bfloat16",
                EXPERTS | {"num_local_experts": 3, "sliding_window": 40, "head_dim": 8}, 0),
    "qwen2moe": (hf.Qwen2MoeConfig, hf.Qwen2MoeForCausalLM, qwen, "bfloat16",
                 EXPERTS | {"num_experts": 5, "shared_expert_intermediate_size": 12, "tie_word_embeddings": True,
                            "shards": "20KB"}, 0),
    "qwen2moe-fused": (hf.Qwen2MoeConfig, hf.Qwen2MoeForCausalLM, qwen, "float32",
                       EXPERTS | {"num_experts": 3, "shared_expert_intermediate_size": 12, "tie_word_embeddings": True,
                                  "norm_topk_prob": True, "use_sliding_window": True, "sliding_window": 32,
                                  "layer_types": ["full_attention", "sliding_attention"], "fused": True}, 0),
    "qwen3moe": (hf.Qwen3MoeConfig, hf.Qwen3MoeForCausalLM, qwen, "float16",
                 EXPERTS | {"num_experts": 4, "head_dim": 8, "norm_topk_prob": True, "tie_word_embeddings": True,
                            "rope_parameters": YARN_ROPE}, 0),
    "olmo2": (hf.Olmo2Config, hf.Olmo2ForCausalLM, qwen, "bfloat16",
              {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}}, 0),
    "granite": (hf.GraniteConfig, hf.GraniteForCausalLM, qwen, "bfloat16",
                GRANITE | {"tie_word_embeddings": True, "rope_parameters": LONG_ROPE, "attention_bias": True,
                           "original_max_position_embeddings": 64}, 0),
    "granitemoe": (hf.GraniteMoeConfig, hf.GraniteMoeForCausalLM, qwen, "bfloat16",
                   GRANITE | {"hidden_size": 16, "intermediate_size": 8, "num_local_experts": 4, "tie_word_embeddings": True,
                              "rope_parameters": LLAMA3_ROPE}, 0),
    "stablelm": (hf.StableLmConfig, hf.StableLmForCausalLM, qwen, "bfloat16",
                 {"qk_layernorm": True, "rope_parameters": {"rope_theta": 20000.0, "partial_rotary_factor": 0.5}}, 0),
    "stablelm-parallel": (hf.StableLmConfig, hf.StableLmForCausalLM, qwen, "float16",
                          {"use_qkv_bias": True, "use_parallel_residual": True, "tie_word_embeddings": True}, 0),
    "smollm3": (hf.SmolLM3Config, hf.SmolLM3ForCausalLM, llama3, "bfloat16",
                {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "attention_bias": True}, 0),
    "starcoder2": (hf.Starcoder2Config, hf.Starcoder2ForCausalLM, qwen, "float16", {"hidden_size": 24, "sliding_window": 40}, 0),
    "phi2": (hf.PhiConfig, hf.PhiForCausalLM, qwen, "float32",
             {"hidden_size": 24, "intermediate_size": 40, "num_key_value_heads": 4, "num_attention_heads": 4,
              "hidden_act": "gelu_new", "rope_parameters": {"rope_theta": 20000.0, "partial_rotary_factor": 0.34}}, 0),
    "bert": (hf.BertConfig, hf.BertModel, lambda folder: wordpiece(folder, pooling="cls_token"), "float32",
             ENCODER | {"hidden_act": "gelu"}, 4),
    "bert-trained": (hf.BertConfig, hf.BertForMaskedLM, lambda folder: wordpiece(folder, lowercase=False), "float16", ENCODER, 0),
    "nomic-bert": (hf.NomicBertConfig, hf.NomicBertModel, lambda folder: wordpiece(folder, pooling="mean_tokens"), "bfloat16",
                   ENCODER, 0),
    "nomic-bert-apart": (hf.NomicBertConfig, hf.NomicBertModel, wordpiece, "bfloat16", ENCODER | {"fused": True}, 0),
    "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, lambda folder: pieces(folder, gemma=True), "float32", GEMMA, 0),
    "gemma2": (hf.Gemma2Config, hf.Gemma2ForCausalLM, lambda folder: pieces(folder, gemma=True), "float32",
               GEMMA | {"query_pre_attn_scalar": 16, "sliding_window": 32}, 4),
    "gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, lambda folder: pieces(folder, gemma=True), "bfloat16",
               GEMMA | {"num_hidden_layers": 7, "query_pre_attn_scalar": 16, "sliding_window": 32,
                        "rope_parameters": GEMMA3_ROPE}, 0),
    "gemma3-vision": (hf.Gemma3Config, hf.Gemma3ForConditionalGeneration,
                      lambda folder: pieces(folder, gemma=True), "float32",
                      GEMMA | {"query_pre_attn_scalar": 16, "sliding_window": 32, "rope_parameters": GEMMA3_ROPE}, 0),
}


def randomise(model, gemma):
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        norm = "norm" in name and parameter.dim() == 1
        centre, spread = (0.0 if gemma else 1.0, 0.3) if norm else (0.0, 0.3 if parameter.dim() == 1 else 0.15)
        parameter.data = centre + spread * values


def older_configuration(folder):
    """The spelling of rotary embedding before `rope_parameters`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope.get("rope_type") != "default" else None
    write_json(path, config)


def first_nomic_configuration(folder):
    """The spelling of the configuration that was published with the model."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    write_json(path, {
        "architectures": config["architectures"], "model_type": "nomic_bert", "activation_function": "swiglu", "causal": False,
        "n_embd": config["hidden_size"], "n_head": config["num_attention_heads"], "n_inner": config["intermediate_size"],
        "n_layer": config["num_hidden_layers"], "n_positions": 8192, "max_trained_positions": 2048,
        "layer_norm_epsilon": 1e-12, "prenorm": False, "parallel_block": False, "use_rms_norm": False,
        "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None, "type_vocab_size": 2, "vocab_size": config["vocab_size"]})


def make(name, out):
    config_class, model_class, tokenizer, dtype, settings, unused = SPECS[name]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocab = tokenizer(folder) + unused
    settings = {key: value for key, value in (BASE | {"vocab_size": vocab} | settings).items()
                if key == "pad_token_id" or key == "sliding_window" or value is not None}
    shards, fused = settings.pop("shards", "5GB"), settings.pop("fused", False)
    if config_class is hf.Gemma3Config:
        config = hf.Gemma3Config(text_config=settings, vision_config=VISION, mm_tokens_per_image=4,
                                 boi_token_index=10, eoi_token_index=11, image_token_index=12)
    else:
        config = config_class(**settings)
    model = model_class(config)
    if isinstance(model, hf.GenerationMixin):
        model.generation_config = hf.GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=40)
    randomise(model, gemma=name.startswith("gemma"))
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards, save_original_format=not fused)
    if name == "nomic-bert":
        first_nomic_configuration(folder)
    if name in ("llama3", "mistral"):
        older_configuration(folder)
    return folder


# Name of the base among SPECS: settings of the adapter.
ADAPTERS = {
    "llama": {"r": 3, "lora_alpha": 12, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]},
    "qwen2": {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "k_proj", "gate_proj", "up_proj"]},
    "gemma3": {"r": 2, "lora_alpha": 2, "rank_pattern": {"v_proj": 5}, "target_modules": ["v_proj", "up_proj"]},
}


def make_adapter(name, models, out):
    """An adapter that `peft` saves for a folder of `make`, every weight of it random."""
    import peft  # It is needed for nothing else.

    config = json.loads((models / name / "config.json").read_text())
    base = getattr(hf, config["architectures"][0]).from_pretrained(models / name, dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **ADAPTERS[name]))
    generator = torch.Generator().manual_seed(11)
    for key, parameter in model.named_parameters():
        if ".lora_" in key:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.base_model.peft_config["default"].base_model_name_or_path = name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(SPECS))
    parser.add_argument("--adapters", type=Path, help="make adapters for models of --out here, and no models")
    parser.add_argument("--expect", action="store_true", help="also write expected.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.adapters:
        for name in ADAPTERS:
            folder = make_adapter(name, options.out, options.adapters)
            if options.expect:
                reference.write_expected(folder, options.out / name)
        return
    for name in options.only:
        folder = make(name, options.out)
        if options.expect:
            reference.write_expected(folder)
        print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir())} bytes")


if __name__ == "__main__":
    main()
