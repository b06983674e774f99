"""Random models built with `transformers`: the graphs whose outputs are the truth for the engine.

Every parameter is random, norm weights and biases too, so that nothing can be left out unnoticed.
Two things are then tuned, because plain random weights hide errors: each layer's attention scores get
a row-wise standard deviation of about SCORE_SIGMA (a flat softmax averages every position mistake away), and
the logits get LOGIT_SIGMA. `calibrate` measures both, behind any soft-cap, and asserts them.
"""

import numpy as np
import torch

import specs
from families import FAMILIES
from hyperparameters import LAYER_NORM


def config_of(spec, **changes):
    """The `transformers` configuration of a spec; `changes` override single entries (mutations)."""
    family = FAMILIES[spec.family]
    entries = {
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": spec.ffn,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "max_position_embeddings": spec.context,
        "attn_implementation": "eager",
    }
    if spec.experts:
        entries["experts_implementation"] = "eager"
    if spec.family == "bert":
        entries |= {"layer_norm_eps": spec.norm_eps}
    elif family.encoder:
        entries |= {"layer_norm_eps": spec.norm_eps, "rope_parameters": rope_of(spec)}
    else:
        entries |= {
            "num_key_value_heads": spec.kv_heads,
            LAYER_NORM.get(spec.family, "rms_norm_eps"): spec.norm_eps,
            "tie_word_embeddings": spec.tied,
            "rope_parameters": rope_of(spec),
            "bos_token_id": None,
            "eos_token_id": None,
        }
    # Defaults of some families lie beyond these vocabularies.
    if spec.family in ("phi3", "smollm3"):
        entries |= {"pad_token_id": None}
    if spec.head_dim:
        entries["head_dim"] = spec.head_dim
    return family.config(**(entries | spec.config | changes))


def rope_of(spec):
    """`rope_parameters`; for gemma3 one set for each kind of layer."""
    rope = {"rope_type": "default", "rope_theta": spec.rope_theta} | spec.rope
    if spec.llama3_rope:
        factor, low, high, original = spec.llama3_rope
        rope |= {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
    if spec.family == "gemma3":
        local = {"rope_type": "default", "rope_theta": rope.pop("local_theta")}
        return {"full_attention": rope, "sliding_attention": local}
    return rope


def build(spec, weights=None, **changes):
    """A float32 model on the CPU; `weights` is a state dict without the tied copy of the embedding."""
    family = FAMILIES[spec.family]
    config = config_of(spec, **changes)
    rest = {"add_pooling_layer": False} if family.encoder else {}
    model = family.model(config, **rest).float().eval()
    if weights is not None:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected, unexpected
        tied = not family.encoder and config.tie_word_embeddings
        assert set(missing) <= ({"lm_head.weight"} if tied else set()), missing
        if not family.encoder:
            model.tie_weights()
    return model


def token_ids(spec, positions=None, sequence=0):
    """Random prompt number `sequence` of a spec, fixed by its seed."""
    rng = np.random.default_rng([spec.seed, sequence])
    return rng.integers(0, spec.vocab, positions or spec.positions)


@torch.no_grad()
def outputs_of(model, ids):
    """[positions, vocab] float32 logits of one sequence from an empty cache; an encoder's token states."""
    ids = torch.as_tensor(np.asarray(ids, dtype=np.int64))[None]
    if hasattr(model, "lm_head"):
        return model(input_ids=ids, use_cache=False).logits[0].float().numpy()
    return model(input_ids=ids).last_hidden_state[0].float().numpy()


def uncapped_logits_of(model, ids):
    """The logits before the final soft-cap, of those families that have one."""
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is None:
        return outputs_of(model, ids)
    model.config.final_logit_softcapping = None
    try:
        return outputs_of(model, ids)
    finally:
        model.config.final_logit_softcapping = cap


def pool(states, pooling):
    """One embedding of length 1 from token states, as `sentence-transformers` pools and normalises."""
    states = states.astype(np.float64)
    pooled = states.mean(0) if pooling == "mean" else states[0]
    return (pooled / np.linalg.norm(pooled)).astype(np.float32)


class TableGelu(torch.nn.Module):
    """GELU as llama.cpp's CPU code has it: the tanh form, through a table with F16 arguments and results."""

    def forward(self, values):
        rounded = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
        return torch.where(values <= -10, torch.zeros_like(values), torch.where(values >= 10, values, rounded))


def with_table_gelu(model):
    """The model with llama.cpp's GELU, if GELU is what it has; True in that case."""
    changed = False
    for module in model.modules():
        for name in ("act_fn", "act", "activation_fn", "intermediate_act_fn"):
            if "gelu" in type(getattr(module, name, None)).__name__.lower():
                setattr(module, name, TableGelu())
                changed = True
    return changed


class ScoreRecorder:
    """Collects, per layer, the spread of the attention scores (behind a soft-cap) while a model runs."""

    def __init__(self, spec):
        self.graph = FAMILIES[spec.family].graph
        self.sigma = []
        self.raw_sigma = []

    def __enter__(self):
        self.original = self.graph.eager_attention_forward

        def recording(module, query, key, value, mask, **rest):
            keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
            scores = (query @ keys.transpose(2, 3) * rest["scaling"])[0].double()
            self.raw_sigma.append(row_sigma(scores, mask))
            if cap := rest.get("softcap"):
                scores = cap * torch.tanh(scores / cap)
            self.sigma.append(row_sigma(scores, mask))
            return self.original(module, query, key, value, mask, **rest)

        self.graph.eager_attention_forward = recording
        return self

    def __exit__(self, *_):
        self.graph.eager_attention_forward = self.original


def row_sigma(scores, mask):
    """RMS over heads and rows of each row's standard deviation among the positions it may see."""
    seen = torch.ones(scores.shape[-2:], dtype=torch.float64)
    if mask is not None:
        seen = (mask[0, 0, :, : scores.shape[-1]] > -1).double()
    count = seen.sum(-1)
    mean = (scores * seen).sum(-1) / count
    variance = ((scores - mean[..., None]) ** 2 * seen).sum(-1) / count
    # The first rows see too few positions to have a spread worth the name.
    return variance[:, 8:].mean().sqrt().item()


def randomise(model, spec):
    """Fills every parameter from the spec's seed, by name, independent of torch's generators."""
    rng = np.random.default_rng(spec.seed)
    centre = 1 - FAMILIES[spec.family].norm_offset
    for name, parameter in model.named_parameters():
        noise = rng.standard_normal(tuple(parameter.shape), dtype=np.float32)
        if name.endswith(".bias"):
            # Comparable with what the matrix before it makes of a normalised row.
            value = 0.7 * noise
        elif parameter.ndim == 1:
            value = centre + 0.3 * noise
        elif "embed" in name:
            value = spec.embed_sigma * noise
        else:
            sigma = spec.router_sigma if name.endswith(("mlp.gate.weight", "router.weight")) else 1.2
            value = noise * np.float32(sigma / np.sqrt(parameter.shape[-1]))
        parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))


def layers_of(model, spec):
    return model.get_submodule(FAMILIES[spec.family].layers)


def scale_scores(layer, spec, factor):
    """Multiplies a layer's attention scores by factor², through the last parameters before the product."""
    attention = getattr(layer, "self_attn", None) or layer.attention.self
    offset = FAMILIES[spec.family].norm_offset
    if hasattr(attention, "q_norm"):
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.copy_((norm.weight + offset) * factor - offset)
    elif getattr(attention, "qk_layernorm", False):
        for norm in (*attention.q_layernorm.norms, *attention.k_layernorm.norms):
            norm.weight.mul_(factor)
    elif hasattr(attention, "qkv_proj"):
        attention.qkv_proj.weight[: (spec.heads + spec.kv_heads) * spec.head_width].mul_(factor)
    else:
        names = ("q_proj", "k_proj") if hasattr(attention, "q_proj") else ("query", "key")
        for projection in (getattr(attention, name) for name in names):
            projection.weight.mul_(factor)
            if projection.bias is not None:
                projection.bias.mul_(factor)


def scale_logits(model, spec, factor):
    if not spec.tied:
        model.lm_head.weight.mul_(factor)
        if model.lm_head.bias is not None:
            model.lm_head.bias.mul_(factor)
        return
    # Scaling a tied output would scale the embedding too; the last norm serves instead.
    offset = FAMILIES[spec.family].norm_offset
    norm = model.model.norm
    norm.weight.copy_((norm.weight + offset) * factor - offset)
    if getattr(norm, "bias", None) is not None:
        norm.bias.mul_(factor)


@torch.no_grad()
def calibrate(model, spec):
    """Scales Q and K layer by layer, then the logits; returns (score sigmas, output sigma)."""
    ids = token_ids(spec)
    for index, layer in enumerate(layers_of(model, spec)):
        # A layer's scores depend on earlier layers only, so one pass per layer is exact.
        with ScoreRecorder(spec) as recorder:
            outputs_of(model, ids)
        scale_scores(layer, spec, (spec.score_sigma / recorder.raw_sigma[index]) ** 0.5)
    if not spec.pooling:
        scale_logits(model, spec, spec.logit_sigma / float(uncapped_logits_of(model, ids).std()))

    with ScoreRecorder(spec) as recorder:
        output_sigma = float(outputs_of(model, ids).std())
    assert len(recorder.sigma) == spec.layers, (spec.name, recorder.sigma)
    assert min(recorder.sigma) >= specs.SCORE_SIGMA_MIN, (spec.name, recorder.sigma)
    # An encoder's states leave a norm: their spread is that norm's.
    assert spec.pooling or output_sigma >= specs.LOGIT_SIGMA_MIN, (spec.name, output_sigma)
    return recorder.sigma, output_sigma


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
