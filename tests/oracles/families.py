"""What distinguishes the model families: their classes in `transformers` and their names in GGUF files.

Nothing here runs a model; models.py builds them, convert.py moves weights by these tables.
"""

from dataclasses import dataclass, field
from types import ModuleType

import transformers
from transformers.models.bert import modeling_bert
from transformers.models.gemma import modeling_gemma
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.granite import modeling_granite
from transformers.models.granitemoe import modeling_granitemoe
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.mixtral import modeling_mixtral
from transformers.models.nomic_bert import modeling_nomic_bert
from transformers.models.olmo2 import modeling_olmo2
from transformers.models.phi import modeling_phi
from transformers.models.phi3 import modeling_phi3
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen2_moe import modeling_qwen2_moe
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_moe import modeling_qwen3_moe
from transformers.models.smollm3 import modeling_smollm3
from transformers.models.stablelm import modeling_stablelm
from transformers.models.starcoder2 import modeling_starcoder2

# Stems of parameter names, theirs → GGUF's; those of a layer without "model.layers.N." and "blk.N.".
DECODER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
EXPERTS = {"mlp.gate": "ffn_gate_inp", "mlp.experts": "ffn_*_exps"}
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
POST_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
BERT = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
NOMIC = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "attn_output_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_mlp_layernorm": "layer_output_norm",
}


@dataclass(frozen=True)
class Family:
    """One `transformers` model type. Several may share a GGUF architecture."""

    arch: str
    config: type
    model: type
    # The module of the graph: attention scores are recorded and mutations patched in there.
    graph: ModuleType
    names: dict = field(default_factory=lambda: DECODER)
    # Rows of Q and K are reordered, because GGUF's rotation of these works on pairs (2i, 2i + 1).
    pairs: bool = False
    # The graph multiplies by 1 + weight; GGUF files hold the sum.
    norm_offset: float = 0.0
    layers: str = "model.layers"
    encoder: bool = False
    # The file holds Q, K and V of a layer in one tensor, the `transformers` model in three.
    joined_qkv: bool = False


def _decoder(arch, stem, graph, names=None, **rest):
    config = getattr(transformers, f"{stem}Config")
    model = getattr(transformers, f"{stem.removesuffix('Text')}ForCausalLM")
    return Family(arch, config, model, graph, DECODER | (names or {}), **rest)


FAMILIES = {
    "llama": _decoder("llama", "Llama", modeling_llama, pairs=True),
    "mistral": _decoder("llama", "Mistral", modeling_mistral, pairs=True),
    "mixtral": _decoder("llama", "Mixtral", modeling_mixtral, EXPERTS, pairs=True),
    "qwen2": _decoder("qwen2", "Qwen2", modeling_qwen2),
    "qwen2moe": _decoder(
        "qwen2moe",
        "Qwen2Moe",
        modeling_qwen2_moe,
        EXPERTS
        | {
            "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
            "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
            "mlp.shared_expert.up_proj": "ffn_up_shexp",
            "mlp.shared_expert.down_proj": "ffn_down_shexp",
        },
    ),
    "qwen3": _decoder("qwen3", "Qwen3", modeling_qwen3, HEAD_NORMS),
    "qwen3moe": _decoder("qwen3moe", "Qwen3Moe", modeling_qwen3_moe, HEAD_NORMS | EXPERTS),
    "phi3": _decoder(
        "phi3", "Phi3", modeling_phi3, {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
    ),
    "gemma": _decoder("gemma", "Gemma", modeling_gemma, norm_offset=1.0),
    "gemma2": _decoder("gemma2", "Gemma2", modeling_gemma2, POST_NORMS, norm_offset=1.0),
    "gemma3": _decoder("gemma3", "Gemma3Text", modeling_gemma3, POST_NORMS | HEAD_NORMS, norm_offset=1.0),
    "olmo2": _decoder("olmo2", "Olmo2", modeling_olmo2, POST_NORMS | HEAD_NORMS),
    "granite": _decoder("granite", "Granite", modeling_granite, pairs=True),
    "granitemoe": _decoder(
        "granitemoe",
        "GraniteMoe",
        modeling_granitemoe,
        {"block_sparse_moe.router": "ffn_gate_inp", "block_sparse_moe.experts": "ffn_*_exps"},
        pairs=True,
    ),
    "stablelm": _decoder(
        "stablelm",
        "StableLm",
        modeling_stablelm,
        {"self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm"},
    ),
    "smollm3": _decoder("smollm3", "SmolLM3", modeling_smollm3, pairs=True),
    "starcoder2": _decoder(
        "starcoder2", "Starcoder2", modeling_starcoder2, {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    ),
    "phi": _decoder(
        "phi2",
        "Phi",
        modeling_phi,
        {
            "model.final_layernorm": "output_norm",
            "self_attn.dense": "attn_output",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
    ),
    "bert": Family(
        "bert",
        transformers.BertConfig,
        transformers.BertModel,
        modeling_bert,
        BERT,
        layers="encoder.layer",
        encoder=True,
    ),
    "nomic": Family(
        "nomic-bert",
        transformers.NomicBertConfig,
        transformers.NomicBertModel,
        modeling_nomic_bert,
        NOMIC,
        layers="layers",
        encoder=True,
        joined_qkv=True,
    ),
}
