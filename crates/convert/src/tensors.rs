//! Which tensors a family has, what they are called on both sides, and what is done to them on the way.

use std::collections::BTreeSet;

use crate::checkpoint::{Place, Weights};
use crate::error::Error;
use crate::family::{Family, Model};
use crate::rope::{self, Scaling};

/// What happens to a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// One is added: Gemma's norms multiply by 1 + weight, those of GGUF by the weight.
    AddOne,
    /// The rows of each head are reordered. `transformers` rotates dimensions (i, i + head / 2) together, a `llama`
    /// file (2i, 2i + 1): row 2i + j comes from row j · head / 2 + i.
    Interleave { rows_per_head: u64 },
}

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A tensor of the checkpoint.
    Checkpoint { place: Place, change: Change },
    /// Computed from the configuration.
    Values(Vec<f32>),
}

/// A tensor of the file to be.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    /// Slowest dimension first, as in the checkpoint.
    pub shape: Vec<u64>,
    pub source: Source,
}

/// A tensor that the family has.
struct Rule {
    theirs: String,
    ours: String,
    shape: Vec<u64>,
    change: Change,
}

/// Names of the parts of a checkpoint that are another model beside the text model.
const OTHER_MODELS: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

/// The tensors of the file, and what the user should know of what is left out.
pub fn arrange(model: &Model, weights: &Weights) -> Result<(Vec<Tensor>, Vec<String>), Error> {
    let mut left: BTreeSet<&str> = weights.names().collect();
    let mut notes = Vec::new();
    let mut tensors = Vec::new();
    let mut missing = Vec::new();
    for rule in rules(model) {
        let spellings = spellings(model.family, &rule.theirs);
        let Some((name, place)) = spellings.iter().find_map(|name| Some((name, weights.find(name)?))) else {
            missing.push(rule.theirs);
            continue;
        };
        left.remove(name.as_str());
        let info = weights.info(place);
        let bad = |problem: String, advice| Error::Tensor { name: name.clone(), problem, advice };
        if info.shape != rule.shape {
            let problem = format!("its shape is {:?}, the configuration says {:?}", info.shape, rule.shape);
            return Err(bad(problem, "config.json and weights are of two models, fetch the checkpoint again"));
        }
        if !info.dtype.is_float() {
            let problem = format!("its numbers are {}", info.dtype.name());
            return Err(bad(problem, "F64, F32, F16 and BF16 can be converted: get the checkpoint in one of them"));
        }
        let source = Source::Checkpoint { place, change: rule.change };
        tensors.push(Tensor { name: rule.ours, shape: rule.shape, source });
    }
    if !missing.is_empty() {
        return Err(Error::MissingTensors { names: missing });
    }
    let parts = left.len();
    left.retain(|name| model.family != Family::Gemma3 || !OTHER_MODELS.iter().any(|other| name.starts_with(other)));
    if left.len() < parts {
        let skipped = parts - left.len();
        notes.push(format!("{skipped} tensors of the vision model are left out: the file holds the text model"));
    }
    left.retain(|name| !is_no_weight(model, name));
    if !left.is_empty() {
        return Err(Error::UnknownTensors { names: left.into_iter().map(str::to_owned).collect() });
    }
    tensors.extend(computed(model));
    Ok((tensors, notes))
}

/// Tensors of a checkpoint that hold nothing of their own: positions' frequencies and masks, which every program
/// computes, and a second copy of embeddings that are the output matrix, too.
fn is_no_weight(model: &Model, name: &str) -> bool {
    let buffer = [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];
    let tied = model.tied && spellings(model.family, "lm_head.weight").iter().any(|head| head == name);
    tied || buffer.iter().any(|end| name.ends_with(end))
}

/// The names under which checkpoints have a tensor. The text part of a model with several parts has a name in front.
fn spellings(family: Family, name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if family == Family::Gemma3 {
        names.push(format!("language_model.{name}"));
        if let Some(rest) = name.strip_prefix("model.") {
            names.push(format!("model.language_model.{rest}"));
        }
    }
    names
}

fn rules(model: &Model) -> Vec<Rule> {
    let [n_embd, n_ff, n_vocab, head] = [model.n_embd, model.n_ff, model.n_vocab, model.head_dim].map(u64::from);
    let [q_rows, kv_rows] = [model.n_head, model.n_head_kv].map(|heads| u64::from(heads) * head);
    let norm = if model.family.is_gemma() { Change::AddOne } else { Change::Keep };
    let rotated = match model.family {
        Family::Llama | Family::Mistral => Change::Interleave { rows_per_head: head },
        _ => Change::Keep,
    };
    let mut rules = Vec::new();
    let mut rule = |theirs: String, ours: String, shape: &[u64], change| {
        rules.push(Rule { theirs, ours, shape: shape.to_vec(), change });
    };
    rule("model.embed_tokens.weight".into(), "token_embd.weight".into(), &[n_vocab, n_embd], Change::Keep);
    for layer in 0..model.n_layer {
        let mut rule = |theirs: &str, ours: &str, shape: &[u64], change| {
            rule(format!("model.layers.{layer}.{theirs}"), format!("blk.{layer}.{ours}"), shape, change);
        };
        rule("input_layernorm.weight", "attn_norm.weight", &[n_embd], norm);
        if model.family == Family::Phi3 {
            rule("self_attn.qkv_proj.weight", "attn_qkv.weight", &[q_rows + 2 * kv_rows, n_embd], Change::Keep);
        } else {
            rule("self_attn.q_proj.weight", "attn_q.weight", &[q_rows, n_embd], rotated);
            rule("self_attn.k_proj.weight", "attn_k.weight", &[kv_rows, n_embd], rotated);
            rule("self_attn.v_proj.weight", "attn_v.weight", &[kv_rows, n_embd], Change::Keep);
        }
        rule("self_attn.o_proj.weight", "attn_output.weight", &[n_embd, q_rows], Change::Keep);
        let llama = matches!(model.family, Family::Llama | Family::Mistral);
        if model.family == Family::Qwen2 || (llama && model.attention_bias) {
            rule("self_attn.q_proj.bias", "attn_q.bias", &[q_rows], rotated);
            rule("self_attn.k_proj.bias", "attn_k.bias", &[kv_rows], rotated);
            rule("self_attn.v_proj.bias", "attn_v.bias", &[kv_rows], Change::Keep);
        }
        if llama && model.attention_bias {
            rule("self_attn.o_proj.bias", "attn_output.bias", &[n_embd], Change::Keep);
        }
        if matches!(model.family, Family::Qwen3 | Family::Gemma3) {
            rule("self_attn.q_norm.weight", "attn_q_norm.weight", &[head], norm);
            rule("self_attn.k_norm.weight", "attn_k_norm.weight", &[head], norm);
        }
        if matches!(model.family, Family::Gemma2 | Family::Gemma3) {
            rule("post_attention_layernorm.weight", "post_attention_norm.weight", &[n_embd], norm);
            rule("pre_feedforward_layernorm.weight", "ffn_norm.weight", &[n_embd], norm);
            rule("post_feedforward_layernorm.weight", "post_ffw_norm.weight", &[n_embd], norm);
        } else {
            rule("post_attention_layernorm.weight", "ffn_norm.weight", &[n_embd], norm);
        }
        if model.family == Family::Phi3 {
            rule("mlp.gate_up_proj.weight", "ffn_up.weight", &[2 * n_ff, n_embd], Change::Keep);
        } else {
            rule("mlp.gate_proj.weight", "ffn_gate.weight", &[n_ff, n_embd], Change::Keep);
            rule("mlp.up_proj.weight", "ffn_up.weight", &[n_ff, n_embd], Change::Keep);
        }
        rule("mlp.down_proj.weight", "ffn_down.weight", &[n_embd, n_ff], Change::Keep);
        if llama && model.mlp_bias {
            rule("mlp.gate_proj.bias", "ffn_gate.bias", &[n_ff], Change::Keep);
            rule("mlp.up_proj.bias", "ffn_up.bias", &[n_ff], Change::Keep);
            rule("mlp.down_proj.bias", "ffn_down.bias", &[n_embd], Change::Keep);
        }
    }
    rule("model.norm.weight".into(), "output_norm.weight".into(), &[n_embd], norm);
    if !model.tied {
        rule("lm_head.weight".into(), "output.weight".into(), &[n_vocab, n_embd], Change::Keep);
    }
    rules
}

/// Tensors that are made from the configuration.
fn computed(model: &Model) -> Vec<Tensor> {
    let tensor = |name: &str, values: &[f32]| Tensor {
        name: name.to_owned(),
        shape: vec![values.len() as u64],
        source: Source::Values(values.to_vec()),
    };
    match &model.rope.scaling {
        &Scaling::Llama3 { factor, low, high, original } => {
            let scaling = (factor, low, high, original);
            let factors = rope::llama3_factors(model.rope_dimensions(), model.rope.base, scaling);
            vec![tensor("rope_freqs.weight", &factors)]
        }
        Scaling::Long { short, long, .. } => {
            vec![tensor("rope_factors_long.weight", long), tensor("rope_factors_short.weight", short)]
        }
        _ => Vec::new(),
    }
}
