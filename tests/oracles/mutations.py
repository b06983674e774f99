#!/usr/bin/env python3
"""Proves that the expected logits notice mistakes: each feature switched off, one at a time.

A fixture that a broken graph also passes shows nothing. Every row here breaks the `transformers` graph
of a float model in one way and must move its logits by at least 100 × the tolerance of the comparison.
"""

import sys
from contextlib import contextmanager

import numpy as np
import torch

import models

TOLERANCE = 1e-3
FACTOR = 100


@contextmanager
def patched(target, name, value):
    original = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, original)


def run(spec, weights, **changes):
    return models.logits_of(models.build(spec, weights, **changes), models.token_ids(spec))


def with_weights(change):
    """A mutation that edits a copy of the state dict."""

    def mutate(spec, weights):
        weights = {name: tensor.clone() for name, tensor in weights.items()}
        change(spec, weights)
        return run(spec, weights)

    return mutate


def with_patch(name, make):
    """A mutation that replaces one function of the graph's module: make(original) → replacement."""

    def mutate(spec, weights):
        graph = models.GRAPHS[spec.arch]
        with patched(graph, name, make(getattr(graph, name))):
            return run(spec, weights)

    return mutate


def zero_biases(part):
    def change(_, weights):
        for name in weights:
            if name.endswith(f"{part}_proj.bias"):
                weights[name].zero_()

    return with_weights(change)


def flat_norms(which):
    def change(_, weights):
        for name in weights:
            if name.endswith(f"{which}.weight"):
                weights[name].fill_(1.0)

    return with_weights(change)


def no_rotation(original):
    return lambda query, key, cos, sin, *rest: original(query, key, torch.ones_like(cos), torch.zeros_like(sin), *rest)


def one_position_late(original):
    # Only the keys: a shift of both would change nothing, since rotation is relative.
    def rotate(query, key, cos, sin, *rest):
        return original(query, key, cos, sin, *rest)[0], original(query, key, cos.roll(1, -2), sin.roll(1, -2), *rest)[1]

    return rotate


def neighbour_pairs(original):
    """Rotates pairs (2i, 2i+1) where the graph means (i, i + n/2): Q/K rows not reordered."""

    def order(n):
        return torch.cat([torch.arange(0, n, 2), torch.arange(1, n, 2)])

    def rotate(query, key, cos, sin, *rest):
        index = order(query.shape[-1])
        return original(query[..., index], key[..., index], cos, sin, *rest)

    return rotate


def tiled_heads(_):
    """Query head h reads KV head h mod n where it should read h div group."""
    return lambda states, groups: states.repeat(1, groups, 1, 1)


def no_scale(original):
    def attend(module, query, key, value, mask, scaling, **rest):
        return original(module, query, key, value, mask, 1.0, **rest)

    return attend


def scale_by_width(original):
    """1/√(width / heads) where head_dim is set on its own."""

    def attend(module, query, key, value, mask, scaling, **rest):
        wrong = (module.config.hidden_size // module.config.num_attention_heads) ** -0.5
        return original(module, query, key, value, mask, wrong, **rest)

    return attend


def no_mask(original):
    def attend(module, query, key, value, mask, scaling, **rest):
        return original(module, query, key, value, None, scaling, **rest)

    return attend


def swap_gate_up(_, weights):
    for name in list(weights):
        if name.endswith("gate_proj.weight"):
            other = name.replace("gate_proj", "up_proj")
            weights[name], weights[other] = weights[other], weights[name]


def own_output(spec, weights):
    """Random output rows, as spread out as the embedding's, in place of the tied ones."""
    embedding = weights["model.embed_tokens.weight"]
    noise = np.random.default_rng(spec.seed + 5).standard_normal(tuple(embedding.shape), dtype=np.float32)
    weights = weights | {"lm_head.weight": torch.from_numpy(noise) * embedding.std()}
    return run(spec, weights, tie_word_embeddings=False)


def tie_output(spec, weights):
    weights = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    return run(spec, weights, tie_word_embeddings=True)


def plain_rope(spec, weights):
    return run(spec, weights, rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta})


def other_theta(spec, weights):
    theta = 500_000.0 if spec.rope_theta == 10_000.0 else 10_000.0
    rope = models.config_of(spec).rope_parameters | {"rope_theta": theta}
    return run(spec, weights, rope_parameters=rope)


def always(_):
    return True


def grouped(spec):
    # With one KV head or with as many as query heads, both mappings are the same.
    return 1 < spec.kv_heads < spec.heads


def biased(spec):
    return spec.arch == "qwen2"


MUTATIONS = (
    ("q bias off", biased, zero_biases("q")),
    ("k bias off", biased, zero_biases("k")),
    ("v bias off", biased, zero_biases("v")),
    ("RoPE off", always, with_patch("apply_rotary_pos_emb", no_rotation)),
    ("RoPE on the other pairs", always, with_patch("apply_rotary_pos_emb", neighbour_pairs)),
    ("keys rotated one late", always, with_patch("apply_rotary_pos_emb", one_position_late)),
    ("rope theta another", always, other_theta),
    ("rope_freqs off", lambda spec: spec.llama3_rope, plain_rope),
    ("eps 0", always, lambda spec, weights: run(spec, weights, rms_norm_eps=0.0)),
    ("eps 1e-5", always, lambda spec, weights: run(spec, weights, rms_norm_eps=1e-5)),
    ("GQA mapping tiled", grouped, with_patch("repeat_kv", tiled_heads)),
    ("tied output replaced", lambda spec: spec.tied, own_output),
    ("output ignored, tied", lambda spec: not spec.tied, tie_output),
    ("attention scale off", always, with_patch("eager_attention_forward", no_scale)),
    ("scale from width / heads", lambda spec: spec.head_dim, with_patch("eager_attention_forward", scale_by_width)),
    ("causal mask off", always, with_patch("eager_attention_forward", no_mask)),
    ("attention norm weight 1", always, flat_norms("input_layernorm")),
    ("FFN norm weight 1", always, flat_norms("post_attention_layernorm")),
    ("output norm weight 1", always, flat_norms("model.norm")),
    ("gate and up swapped", always, with_weights(swap_gate_up)),
    ("GELU for SiLU", always, lambda spec, weights: run(spec, weights, hidden_act="gelu_pytorch_tanh")),
)


def main():
    torch.set_num_threads(2)
    made = {}
    for spec in models.FLOAT_SPECS:
        model, _, _ = models.make(spec)
        made[spec] = models.weights_of(model, spec), models.logits_of(model, models.token_ids(spec))
    print("Largest logit change (required: " + f"{FACTOR * TOLERANCE}" + "), – where it does not apply\n")
    print("| mutation | " + " | ".join(spec.name for spec in made) + " |")
    print("|---" * (1 + len(made)) + "|")
    failures = []
    for name, applies, mutate in MUTATIONS:
        cells = []
        for spec, (weights, truth) in made.items():
            if not applies(spec):
                cells.append("–")
                continue
            moved = float(np.abs(mutate(spec, weights) - truth).max())
            cells.append(f"{moved:.2f}")
            if not moved >= FACTOR * TOLERANCE:
                failures.append((name, spec.name, moved))
        assert set(cells) != {"–"}, name
        print(f"| {name} | " + " | ".join(cells) + " |")
    # Unmutated, the same route must give the same logits, or the table shows nothing.
    for spec, (weights, truth) in made.items():
        same = np.abs(run(spec, weights) - truth).max()
        assert same <= TOLERANCE / 10, (spec.name, same)
    for failure in failures:
        print("too small:", *failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
