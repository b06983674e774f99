"""Random models built with `transformers`: the graphs whose logits are the truth for the engine.

Every parameter is random, norm weights and biases too, so that nothing can be left out unnoticed.
Two things are then tuned, because plain random weights hide errors: each layer's attention scores get
a row-wise standard deviation of SCORE_SIGMA (a flat softmax averages every position mistake away), and
the logits get LOGIT_SIGMA. `calibrate` prints and asserts both.
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

SCORE_SIGMA = 3.0
SCORE_SIGMA_MIN = 2.0
LOGIT_SIGMA = 4.0
LOGIT_SIGMA_MIN = 3.0
CONTEXT = 1024
# Positions of a float model's expectation, and of a quantized file's: a mean KL over 128 positions still
# moves by ±6 % between two equally good implementations (measured), over 512 by ±2 %.
FLOAT_POSITIONS = 96
CODED_POSITIONS = 512

# The `transformers` module that holds each architecture's graph, where mutations are patched in.
GRAPHS = {"llama": modeling_llama, "qwen2": modeling_qwen2}


@dataclass(frozen=True)
class Spec:
    """One random model. Tensor widths follow from these; `head_dim` may differ from width / heads."""

    name: str
    arch: str
    seed: int
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    rope_theta: float
    rms_eps: float
    head_dim: int | None = None
    # (factor, low_freq_factor, high_freq_factor, original context) of Llama-3 scaling
    llama3_rope: tuple | None = None

    @property
    def head_width(self):
        return self.head_dim or self.width // self.heads


# Odd widths (72, heads of 12 and 24) are there on purpose: tails of SIMD loops.
FLOAT_SPECS = (
    Spec("llama-gqa", "llama", 11, 64, 128, 2, 8, 2, 151, False, 10_000.0, 1e-2),
    Spec("llama-mha-tied", "llama", 12, 64, 96, 2, 4, 4, 133, True, 50_000.0, 3e-2),
    Spec("llama-rope3", "llama", 13, 72, 104, 2, 6, 3, 140, False, 10_000.0, 2e-2,
         llama3_rope=(8.0, 1.0, 4.0, 64)),
    Spec("llama-wide-head", "llama", 14, 64, 96, 2, 4, 2, 139, True, 500_000.0, 5e-2, head_dim=24),
    Spec("qwen2-mqa-tied", "qwen2", 21, 64, 96, 3, 4, 1, 137, True, 1_000_000.0, 1e-2),
    Spec("qwen2-gqa", "qwen2", 22, 72, 104, 2, 6, 2, 149, False, 10_000.0, 4e-2),
)

# Widths are multiples of 256, so that k-quants are what they say they are in every matrix.
QUANT_SPECS = (
    Spec("quant-llama", "llama", 31, 256, 256, 1, 8, 2, 136, False, 10_000.0, 1e-3),
    Spec("quant-qwen2", "qwen2", 32, 256, 256, 1, 4, 2, 136, False, 1_000_000.0, 1e-3),
)

SPECS = {spec.name: spec for spec in FLOAT_SPECS + QUANT_SPECS}


def config_of(spec, **changes):
    """The `transformers` configuration of a spec; `changes` override single entries (mutations)."""
    rope = {"rope_type": "default", "rope_theta": spec.rope_theta}
    if spec.llama3_rope:
        factor, low, high, original = spec.llama3_rope
        rope |= {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
    entries = {
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": spec.ffn,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": spec.rms_eps,
        "tie_word_embeddings": spec.tied,
        "rope_parameters": rope,
        "attn_implementation": "eager",
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if spec.head_dim:
        entries["head_dim"] = spec.head_dim
    return (LlamaConfig if spec.arch == "llama" else Qwen2Config)(**(entries | changes))


def build(spec, weights=None, **changes):
    """A float32 model on the CPU; `weights` is a state dict without the tied copy of the embedding."""
    config = config_of(spec, **changes)
    model = (LlamaForCausalLM if spec.arch == "llama" else Qwen2ForCausalLM)(config).float().eval()
    if weights is not None:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set()), missing
        model.tie_weights()
    return model


def token_ids(spec, positions=FLOAT_POSITIONS, sequence=0):
    """Random prompt number `sequence` of a spec, fixed by its seed."""
    rng = np.random.default_rng([spec.seed, sequence])
    return rng.integers(0, spec.vocab, positions)


@torch.no_grad()
def logits_of(model, ids):
    """[positions, vocab] float32 logits of one sequence from an empty cache."""
    ids = torch.as_tensor(np.asarray(ids, dtype=np.int64))[None]
    return model(input_ids=ids, use_cache=False).logits[0].float().numpy()


class ScoreRecorder:
    """Collects, per layer, the spread of the attention scores while a model runs."""

    def __init__(self, arch):
        self.graph = GRAPHS[arch]
        self.sigma = {}

    def __enter__(self):
        self.original = self.graph.eager_attention_forward

        def recording(module, query, key, value, mask, scaling, **rest):
            keys = self.graph.repeat_kv(key, module.num_key_value_groups)
            scores = (query @ keys.transpose(2, 3) * scaling)[0].double()
            self.sigma[module.layer_idx] = causal_row_sigma(scores)
            return self.original(module, query, key, value, mask, scaling, **rest)

        self.graph.eager_attention_forward = recording
        return self

    def __exit__(self, *_):
        self.graph.eager_attention_forward = self.original


def causal_row_sigma(scores):
    """RMS over heads and rows of each row's standard deviation among the positions it may see."""
    seen = torch.tril(torch.ones(scores.shape[-2:], dtype=torch.float64))
    count = seen.sum(-1)
    mean = (scores * seen).sum(-1) / count
    variance = ((scores - mean[..., None]) ** 2 * seen).sum(-1) / count
    # The first rows see too few positions to have a spread worth the name.
    return variance[:, 8:].mean().sqrt().item()


def randomise(model, spec):
    """Fills every parameter from the spec's seed, by name, independent of torch's generators."""
    rng = np.random.default_rng(spec.seed)
    for name, parameter in model.named_parameters():
        noise = rng.standard_normal(tuple(parameter.shape), dtype=np.float32)
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * noise
        elif name.endswith(".bias"):
            # Comparable with what the matrix before it makes of a normalised row.
            value = 0.7 * noise
        elif name.endswith("embed_tokens.weight"):
            value = 0.5 * noise
        else:
            value = noise * np.float32(1.2 / np.sqrt(parameter.shape[1]))
        parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))


@torch.no_grad()
def calibrate(model, spec):
    """Scales Q and K layer by layer, then the logits; returns (score sigmas, logit sigma)."""
    ids = token_ids(spec)
    for index, layer in enumerate(model.model.layers):
        # A layer's scores depend on earlier layers only, so one pass per layer is exact.
        with ScoreRecorder(spec.arch) as recorder:
            logits_of(model, ids)
        factor = (SCORE_SIGMA / recorder.sigma[index]) ** 0.5
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.mul_(factor)
            if projection.bias is not None:
                projection.bias.mul_(factor)
    # Scaling a tied output would scale the embedding too; the last norm serves instead.
    last = model.model.norm if spec.tied else model.lm_head
    last.weight.mul_(LOGIT_SIGMA / float(logits_of(model, ids).std()))

    with ScoreRecorder(spec.arch) as recorder:
        logit_sigma = float(logits_of(model, ids).std())
    scores = [recorder.sigma[index] for index in range(spec.layers)]
    assert min(scores) >= SCORE_SIGMA_MIN, (spec.name, scores)
    assert logit_sigma >= LOGIT_SIGMA_MIN, (spec.name, logit_sigma)
    return scores, logit_sigma


def make(spec):
    """The spec's model, randomised and calibrated, with the two measured spreads."""
    model = build(spec)
    randomise(model, spec)
    return model, *calibrate(model, spec)


def weights_of(model, spec):
    """State dict as NumPy-backed tensors, without the tied duplicate."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if spec.tied:
        state.pop("lm_head.weight", None)
    return state
