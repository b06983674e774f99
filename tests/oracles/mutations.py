#!/usr/bin/env python3
"""Proves that the expected outputs notice mistakes: each feature switched off, one at a time.

    python3 mutations.py                     # every architecture; exit status 1 if one mistake would pass
    python3 mutations.py --only 'gemma*'

A fixture that a broken graph also passes shows nothing. Every row here breaks the `transformers` graph
of a float model in one way and must move its logits (an encoder: its token states) by at least 100 × the
tolerance of the comparison. A few mistakes are by nature smaller; their rows say which multiple they must reach.
"""

import argparse
import fnmatch
import sys
from contextlib import contextmanager

import numpy as np
import torch
import transformers

import models
import specs
from families import FAMILIES

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
    return models.outputs_of(models.build(spec, weights, **changes), models.token_ids(spec))


def with_config(**changes):
    """A mutation of the configuration; values may be functions of the spec."""

    def mutate(spec, weights):
        values = {name: value(spec) if callable(value) else value for name, value in changes.items()}
        return run(spec, weights, **values)

    return mutate


def with_weights(change):
    """A mutation that edits a copy of the state dict."""

    def mutate(spec, weights):
        weights = {name: tensor.clone() for name, tensor in weights.items()}
        change(spec, weights)
        return run(spec, weights)

    return mutate


def with_model(change):
    """A mutation that edits the built model: change(model)."""

    @torch.no_grad()
    def mutate(spec, weights):
        model = models.build(spec, weights)
        change(model)
        return models.outputs_of(model, models.token_ids(spec))

    return mutate


def with_patch(name, make):
    """A mutation that replaces one function of the graph's module: make(original) → replacement."""

    def mutate(spec, weights):
        graph = FAMILIES[spec.family].graph
        with patched(graph, name, make(getattr(graph, name))):
            return run(spec, weights)

    return mutate


def has(ending):
    return lambda _, weights: any(name.endswith(ending) for name in weights)


def zeroed(ending):
    def change(_, weights):
        for name in weights:
            if name.endswith(ending):
                weights[name].zero_()

    return has(ending), with_weights(change)


def flat(ending):
    """Norm weights that multiply by 1."""

    def change(spec, weights):
        for name in weights:
            if name.endswith(ending):
                weights[name].fill_(1.0 - FAMILIES[spec.family].norm_offset)

    return has(ending), with_weights(change)


def without(module_name):
    """Modules of this name replaced by nothing."""

    def change(model):
        for module in model.modules():
            if isinstance(getattr(module, module_name, None), torch.nn.Module):
                setattr(module, module_name, torch.nn.Identity())

    return lambda _, weights: any(f".{module_name}." in name for name in weights), with_model(change)


# --- Positions ---------------------------------------------------------------------------------------------


def no_rotation(original):
    return lambda query, key, cos, sin, *rest: original(query, key, torch.ones_like(cos), torch.zeros_like(sin), *rest)


def one_position_late(original):
    # Only the keys: a shift of both would change nothing, since rotation is relative.
    def rotate(query, key, cos, sin, *rest):
        return original(query, key, cos, sin, *rest)[0], original(query, key, cos.roll(1, -2), sin.roll(1, -2), *rest)[1]

    return rotate


def neighbour_pairs(original):
    """Rotates pairs (2i, 2i+1) where the graph means (i, i + n/2): Q/K rows not reordered."""

    def rotate(query, key, cos, sin, *rest):
        rotated, width = cos.shape[-1], query.shape[-1]
        index = torch.cat([torch.arange(0, rotated, 2), torch.arange(1, rotated, 2), torch.arange(rotated, width)])
        return original(query[..., index], key[..., index], cos, sin, *rest)

    return rotate


def rope_of(spec, **changes):
    """The model's own `rope_parameters` with entries of the (gemma3: global) set changed."""
    rope = models.rope_of(spec)
    if spec.family == "gemma3":
        return rope | {"full_attention": rope["full_attention"] | changes}
    return rope | changes


def other_theta(spec, weights):
    theta = 500_000.0 if spec.rope_theta == 10_000.0 else 10_000.0
    return run(spec, weights, rope_parameters=rope_of(spec, rope_theta=theta))


def unscaled(spec, weights):
    rope = models.rope_of(spec)
    if spec.family == "gemma3":
        rope["full_attention"] = {"rope_type": "default", "rope_theta": spec.rope_theta}
    else:
        kept = ("rope_theta", "partial_rotary_factor")
        rope = {"rope_type": "default"} | {name: value for name, value in rope.items() if name in kept}
    return run(spec, weights, rope_parameters=rope)


def scaled(kind=None):
    def applies(spec, _):
        found = "llama3" if spec.llama3_rope else spec.rope.get("rope_type")
        return found is not None and kind in (None, found)

    return applies


def linear_instead(spec):
    return {"rope_type": "linear", "rope_theta": spec.rope_theta, "factor": spec.rope["factor"]}


def other_longrope_factors(spec):
    swapped = {"long_factor": spec.rope["short_factor"], "short_factor": spec.rope["long_factor"]}
    return rope_of(spec, **swapped)


def rotate_all(spec):
    rope = rope_of(spec, partial_rotary_factor=1.0)
    for name in ("short_factor", "long_factor"):
        if name in rope:
            missing = spec.head_width // 2 - len(rope[name])
            rope[name] = rope[name] + rope[name][-1:] * missing
    return rope


def partial(spec, _):
    return spec.rope.get("partial_rotary_factor", 1.0) < 1


# --- Attention ---------------------------------------------------------------------------------------------


def tiled_heads(_):
    """Query head h reads KV head h mod n where it should read h div group."""
    return lambda states, groups: states.repeat(1, groups, 1, 1)


def rescaled(scale_of):
    def make(original):
        def attend(module, query, key, value, mask, **rest):
            return original(module, query, key, value, mask, **rest | {"scaling": scale_of(module, query)})

        return attend

    return with_patch("eager_attention_forward", make)


def no_mask(original):
    def attend(module, query, key, value, mask, **rest):
        return original(module, query, key, value, None, **rest)

    return attend


def causal_mask(original):
    def attend(module, query, key, value, mask, **rest):
        positions = query.shape[-2]
        hidden = torch.full((positions, positions), torch.finfo(torch.float32).min).triu(1)
        return original(module, query, key, value, hidden[None, None], **rest)

    return attend


def windowed(spec, _):
    return bool(spec.config.get("sliding_window"))


def mixed_layers(spec, _):
    return spec.family in ("gemma2", "gemma3")


def other_layers(spec):
    kinds = {"sliding_attention": "full_attention", "full_attention": "sliding_attention"}
    return [kinds[kind] for kind in models.config_of(spec).layer_types]


def grouped(spec, _):
    # With one KV head or with as many as query heads, both mappings are the same.
    return 1 < spec.kv_heads < spec.heads


def local_theta_global(spec):
    rope = models.rope_of(spec)
    return rope | {"sliding_attention": {"rope_type": "default", "rope_theta": spec.rope_theta}}


def local_scaled_too(spec):
    rope = models.rope_of(spec)
    local = rope["full_attention"] | {"rope_theta": rope["sliding_attention"]["rope_theta"]}
    return rope | {"sliding_attention": local}


# --- Everything else ---------------------------------------------------------------------------------------


def swap_gate_up(_, weights):
    for name in list(weights):
        if name.endswith("gate_proj.weight"):
            other = name.replace("gate_proj", "up_proj")
            weights[name], weights[other] = weights[other], weights[name]
        elif name.endswith("gate_up_proj") or name.endswith("gate_up_proj.weight"):
            axis = weights[name].ndim - 2
            weights[name] = weights[name].roll(weights[name].shape[axis] // 2, axis)


def gated(_, weights):
    return any(name.endswith(("gate_proj.weight", "gate_up_proj", "gate_up_proj.weight")) for name in weights)


def own_output(spec, weights):
    """Random output rows, as spread out as the embedding's, in place of the tied ones."""
    embedding = weights["model.embed_tokens.weight"]
    noise = np.random.default_rng(spec.seed + 5).standard_normal(tuple(embedding.shape), dtype=np.float32)
    weights = weights | {"lm_head.weight": torch.from_numpy(noise) * embedding.std()}
    return run(spec, weights, tie_word_embeddings=False)


def tie_output(spec, weights):
    weights = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    return run(spec, weights, tie_word_embeddings=True)


def other_activation(name):
    def change(model):
        for module in model.modules():
            for attribute in ("act_fn", "act", "activation_fn", "intermediate_act_fn"):
                if isinstance(getattr(module, attribute, None), torch.nn.Module):
                    setattr(module, attribute, transformers.activations.ACT2FN[name])

    return with_model(change)


def uses_gelu(spec, _):
    return spec.family.startswith("gemma") or spec.family in ("starcoder2", "phi", "bert")


def epsilon(value):
    def mutate(spec, weights):
        config = models.config_of(spec)
        name = next(name for name in ("rms_norm_eps", "norm_epsilon", "layer_norm_eps") if hasattr(config, name))
        return run(spec, weights, **{name: value})

    return mutate


def roll_experts(_, weights):
    for name in weights:
        if ".experts." in name:
            weights[name] = weights[name].roll(1, 0)


def equal_expert_weights(model):
    for module in model.modules():
        if "TopKRouter" in type(module).__name__:
            module.register_forward_hook(
                lambda _module, _inputs, outputs: tuple(
                    torch.full_like(part, 1 / part.shape[-1])
                    if part.is_floating_point() and part.shape[-1] < outputs[0].shape[-1]
                    else part
                    for part in outputs
                )
            )


def mixture(spec, _):
    return bool(spec.experts)


def shared(spec, _):
    return "shared_expert_intermediate_size" in spec.config


def open_shared_gate(model):
    for module in model.modules():
        if hasattr(module, "shared_expert_gate"):
            # sigmoid(40) is 1 in F32.
            module.shared_expert_gate.register_forward_hook(lambda _m, _i, output: torch.full_like(output, 40.0))


def unscaled_embedding(model):
    model.model.embed_tokens.embed_scale.fill_(1.0)


class MeanKeepingNorm(torch.nn.Module):
    """LayerNorm that forgets to subtract the mean."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, states):
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.norm.eps)
        result = states * scale * self.norm.weight
        return result if self.norm.bias is None else result + self.norm.bias


def keep_means(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, MeanKeepingNorm(child))


def layer_norms(spec, _):
    return spec.family in ("stablelm", "starcoder2", "phi", "bert", "nomic")


def sequential(spec, weights):
    weights = dict(weights)
    for name in list(weights):
        if ".input_layernorm." in name:
            weights[name.replace("input_layernorm", "post_attention_layernorm")] = weights[name]
    return run(spec, weights, use_parallel_residual=False)


def in_sequence(model):
    """Phi's feed-forward half reads what attention left in the stream, through the same norm."""
    for layer in model.model.layers:
        stream = {}
        layer.register_forward_pre_hook(lambda _m, inputs, stream=stream: stream.update(before=inputs[0]))
        layer.self_attn.register_forward_hook(lambda _m, _i, output, stream=stream: stream.update(added=output[0]))
        layer.mlp.register_forward_pre_hook(
            lambda _m, _i, layer=layer, stream=stream: (layer.input_layernorm(stream["before"] + stream["added"]),)
        )


def shift_positions(_, weights):
    name = "embeddings.position_embeddings.weight"
    weights[name] = weights[name].roll(-2, 0)


def second_type(_, weights):
    name = "embeddings.token_type_embeddings.weight"
    weights[name] = weights[name].roll(1, 0)


def offset_family(spec, _):
    return bool(FAMILIES[spec.family].norm_offset)


def offset_off(_, weights):
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] -= 1.0


def family(*names):
    return lambda spec, _: spec.family in names


def configured(name):
    return lambda spec, _: bool(spec.config.get(name))


def decoder(spec, _):
    return not spec.pooling


def encoder(spec, _):
    return bool(spec.pooling)


def rotary(spec, _):
    return spec.family != "bert"


def always(*_):
    return True


ROPE = "apply_rotary_pos_emb"
ATTENTION = "eager_attention_forward"
# name, where it applies, what it does, and the multiple of the tolerance if it is not FACTOR
MUTATIONS = (
    ("q bias off", *zeroed(("q_proj.bias", "query.bias"))),
    ("k bias off", *zeroed("k_proj.bias")),
    ("v bias off", *zeroed(("v_proj.bias", "value.bias"))),
    ("attention output bias off", *zeroed(("o_proj.bias", "self_attn.dense.bias", "attention.output.dense.bias"))),
    ("gate bias off", *zeroed("gate_proj.bias")),
    ("up bias off", *zeroed(("up_proj.bias", "c_fc.bias", "fc1.bias", "intermediate.dense.bias"))),
    ("down bias off", *zeroed(("down_proj.bias", "c_proj.bias", "fc2.bias", "output.dense.bias"))),
    ("output bias off", *zeroed("lm_head.bias")),
    ("RoPE off", rotary, with_patch(ROPE, no_rotation)),
    ("RoPE on the other pairs", rotary, with_patch(ROPE, neighbour_pairs)),
    ("keys rotated one late", rotary, with_patch(ROPE, one_position_late)),
    ("rope theta another", rotary, other_theta),
    ("local theta = global theta", family("gemma3"), with_config(rope_parameters=local_theta_global)),
    ("local layers scaled too", lambda spec, _: spec.family == "gemma3" and "factor" in spec.rope,
     with_config(rope_parameters=local_scaled_too)),
    ("RoPE factors or scaling off", scaled(), unscaled),
    ("linear scaling for YaRN", scaled("yarn"), with_config(rope_parameters=linear_instead)),
    ("YaRN, longrope magnitude off", lambda spec, _: spec.rope.get("rope_type") in ("yarn", "longrope"),
     with_config(rope_parameters=lambda spec: rope_of(spec, attention_factor=1.0))),
    ("YaRN betas default", lambda spec, _: "beta_fast" in spec.rope,
     with_config(rope_parameters=lambda spec: rope_of(spec, beta_fast=32.0, beta_slow=1.0))),
    ("longrope's other factors", scaled("longrope"), with_config(rope_parameters=other_longrope_factors)),
    ("whole head rotated", partial, with_config(rope_parameters=rotate_all)),
    ("layers without positions turn", family("smollm3"), with_config(no_rope_layers=lambda spec: [1] * spec.layers)),
    ("layers without positions counted from 0", family("smollm3"),
     with_config(no_rope_layers=lambda spec: [int(layer % 4 != 0) for layer in range(spec.layers)])),
    ("window off", windowed, with_config(sliding_window=lambda spec: spec.context)),
    ("window one longer", windowed, with_config(sliding_window=lambda spec: spec.config["sliding_window"] + 1)),
    ("window one shorter", windowed, with_config(sliding_window=lambda spec: spec.config["sliding_window"] - 1)),
    ("windows on the other layers", mixed_layers, with_config(layer_types=other_layers)),
    ("windows on all layers", mixed_layers,
     with_config(layer_types=lambda spec: ["sliding_attention"] * spec.layers)),
    ("scores' soft-cap off", configured("attn_logit_softcapping"), with_config(attn_logit_softcapping=None)),
    ("logits' soft-cap off", configured("final_logit_softcapping"), with_config(final_logit_softcapping=None)),
    ("scale from head width", lambda spec, _: spec.config.get("query_pre_attn_scalar", spec.head_width) != spec.head_width,
     with_config(query_pre_attn_scalar=lambda spec: spec.head_width)),
    ("eps 0", always, epsilon(0.0)),
    ("eps 1e-5", always, epsilon(1e-5)),
    ("GQA mapping tiled", grouped, with_patch("repeat_kv", tiled_heads)),
    ("tied output replaced", lambda spec, _: decoder(spec, _) and spec.tied, own_output),
    ("output ignored, tied", lambda spec, _: decoder(spec, _) and not spec.tied, tie_output),
    ("attention scale off", always, rescaled(lambda _module, _query: 1.0)),
    ("scale from width / heads", lambda spec, _: spec.head_dim and spec.head_dim != spec.width // spec.heads,
     rescaled(lambda module, _query: (module.config.hidden_size // module.config.num_attention_heads) ** -0.5)),
    ("causal mask off", decoder, with_patch(ATTENTION, no_mask)),
    ("causal mask on", encoder, with_patch(ATTENTION, causal_mask)),
    ("attention norm weight 1", *flat("input_layernorm.weight")),
    ("FFN norm weight 1", *flat(("pre_feedforward_layernorm.weight", "post_attention_layernorm.weight"))),
    ("output norm weight 1", *flat(("model.norm.weight", "final_layernorm.weight"))),
    ("norm offset off", offset_family, with_weights(offset_off)),
    ("q norm off", *without("q_norm")),
    ("k norm off", *without("k_norm")),
    ("q norm weight 1", *flat("q_norm.weight")),
    ("k norm weight 1", *flat("k_norm.weight")),
    ("q head norms off", *without("q_layernorm")),
    ("k head norms off", *without("k_layernorm")),
    ("attention post-norm off", lambda spec, _: spec.family in ("gemma2", "gemma3", "olmo2"),
     without("post_attention_layernorm")[1]),
    ("FFN post-norm off", *without("post_feedforward_layernorm")),
    ("norm biases off", layer_norms, zeroed(("norm.bias", "LayerNorm.bias"))[1]),
    ("means not subtracted", layer_norms, with_model(keep_means)),
    ("halves in sequence", family("phi"), with_model(in_sequence)),
    ("sequential residual", configured("use_parallel_residual"), sequential),
    ("embedding scale off", lambda spec, _: spec.family.startswith("gemma"), with_model(unscaled_embedding)),
    ("embedding multiplier off", configured("embedding_multiplier"), with_config(embedding_multiplier=1.0)),
    ("residual multiplier off", configured("residual_multiplier"), with_config(residual_multiplier=1.0)),
    ("attention multiplier off", configured("attention_multiplier"),
     with_config(attention_multiplier=lambda spec: spec.head_width**-0.5)),
    ("logit multiplier off", configured("logits_scaling"), with_config(logits_scaling=1.0)),
    ("gate and up swapped", gated, with_weights(swap_gate_up)),
    ("GELU for SiLU", lambda spec, _: not uses_gelu(spec, _), other_activation("gelu_pytorch_tanh")),
    ("SiLU for GELU", uses_gelu, other_activation("silu")),
    # The two forms of GELU are alike to 5e-4. Behind BERT's norms that is less than the tolerance: no comparison of
    # outputs can tell them apart there, only a test of the function can.
    ("tanh GELU for erf, 0.1 ×", family("bert"), other_activation("gelu_pytorch_tanh"), 0.1),
    ("erf GELU for tanh, 1 ×", lambda spec, _: uses_gelu(spec, _) and spec.family != "bert", other_activation("gelu"), 1),
    ("expert weights normalised or not", lambda spec, _: "norm_topk_prob" in spec.config,
     with_config(norm_topk_prob=lambda spec: not spec.config["norm_topk_prob"])),
    ("expert weights equal", mixture, with_model(equal_expert_weights)),
    ("one expert fewer", mixture, with_config(num_experts_per_tok=lambda spec: spec.config["num_experts_per_tok"] - 1)),
    ("experts rolled by one", mixture, with_weights(roll_experts)),
    ("shared expert off", shared, zeroed("shared_expert.down_proj.weight")[1]),
    ("shared expert's gate open", shared, with_model(open_shared_gate)),
    ("positions off", *zeroed("position_embeddings.weight")),
    ("positions shifted by two", family("bert"), with_weights(shift_positions)),
    ("token types off", *zeroed("token_type_embeddings.weight")),
    ("other token type", encoder, with_weights(second_type)),
    ("embedding norm off", encoder, lambda spec, weights: with_model(
        lambda model: setattr(model.embeddings, "LayerNorm", torch.nn.Identity()))(spec, weights)),
)


def check(chosen):
    """Prints the table of one architecture's models; returns the rows that miss their limit."""
    made = {}
    for spec in chosen:
        model, _, _ = models.make(spec)
        weights, truth = models.weights_of(model, spec), models.outputs_of(model, models.token_ids(spec))
        # Unmutated, the same route must give the same logits, or the table shows nothing.
        same = np.abs(run(spec, weights) - truth).max()
        assert same <= TOLERANCE / 10, (spec.name, same)
        made[spec] = weights, truth
    print("| mutation | " + " | ".join(spec.name for spec in made) + " |")
    print("|---" * (1 + len(made)) + "|")
    failures = []
    for name, applies, mutate, *factor in MUTATIONS:
        factor = factor[0] if factor else FACTOR
        cells = []
        for spec, (weights, truth) in made.items():
            if not applies(spec, weights):
                cells.append("–")
                continue
            output = mutate(spec, weights)
            moved = float(np.abs(output - truth).max())
            cell = f"{moved:.2f}" if factor == FACTOR else f"{moved:.4f}"
            if spec.pooling:
                a, b = (models.pool(states, spec.pooling).astype(np.float64) for states in (output, truth))
                cell += f" ({1 - a @ b:.1e})"
            cells.append(cell)
            if not moved >= factor * TOLERANCE:
                failures.append((name, spec.name, moved))
        if set(cells) != {"–"}:
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="pattern of model names")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    chosen = [spec for spec in specs.FLOAT_SPECS if fnmatch.fnmatch(spec.name, options.only)]
    assert chosen, f"no model is called {options.only}"
    print(f"Largest change of the logits or token states (required: {FACTOR * TOLERANCE}), – where it does not apply")
    failures = []
    # Architectures that differ by little share a table.
    for arch in dict.fromkeys(table_of(spec) for spec in chosen):
        print(f"\n### {arch}\n")
        failures += check([spec for spec in chosen if table_of(spec) == arch])
    for failure in failures:
        print("too small:", *failure)
    sys.exit(bool(failures))


TABLES = {
    "mistral": "llama: windows and experts",
    "mixtral": "llama: windows and experts",
    "qwen3moe": "qwen3, qwen3moe",
    "qwen3": "qwen3, qwen3moe",
    "granitemoe": "granite, granitemoe",
    "granite": "granite, granitemoe",
    "bert": "bert, nomic-bert: token states, and the pooled embedding's cosine distance",
    "nomic": "bert, nomic-bert: token states, and the pooled embedding's cosine distance",
}


def table_of(spec):
    if spec in specs.LLAMA_SPECS:
        return "llama, qwen2"
    if spec.family in ("llama", "qwen2"):
        return "llama, qwen2: biases and scaled RoPE"
    return TABLES.get(spec.family, spec.family)


if __name__ == "__main__":
    main()
