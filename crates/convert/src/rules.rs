//! Which tensors a family has, what they are called on both sides, and how they are shaped.

use crate::family::Family;
use crate::model::Model;
use crate::tensors::Change;

/// How checkpoints keep what is one tensor of the file.
#[derive(Clone, Debug)]
pub enum Form {
    /// One tensor of the same shape.
    Whole(String),
    /// One tensor for each index of the slowest dimension: `before`, the index, `after`.
    Stacked { before: String, after: String, count: u32 },
    /// Tensors of so many rows each, one behind the other.
    Joined(Vec<(String, u64)>),
    /// A stack of matrices that have twice the rows: the first or the second half of each.
    Halves { name: String, second: bool },
}

impl Form {
    /// The name of a tensor that is there where the checkpoint is in this form.
    pub fn first_name(&self) -> String {
        match self {
            Self::Whole(name) | Self::Halves { name, .. } => name.clone(),
            Self::Stacked { before, after, .. } => format!("{before}0{after}"),
            Self::Joined(list) => list[0].0.clone(),
        }
    }
}

/// A tensor that the family has.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The forms in which checkpoints have it, the published one first.
    pub forms: Vec<Form>,
    pub ours: String,
    /// Slowest dimension first.
    pub shape: Vec<u64>,
    pub change: Change,
}

/// The rules of one place of the model: a name in front on both sides.
struct Place<'a> {
    rules: &'a mut Vec<Rule>,
    theirs: String,
    ours: String,
}

impl Place<'_> {
    fn add(&mut self, theirs: &str, ours: &str, shape: &[u64], change: Change) {
        self.forms(vec![Form::Whole(format!("{}{theirs}", self.theirs))], ours, shape, change);
    }

    fn keep(&mut self, theirs: &str, ours: &str, shape: &[u64]) {
        self.add(theirs, ours, shape, Change::Keep);
    }

    /// The two vectors of a `LayerNorm`.
    fn layer_norm(&mut self, theirs: &str, ours: &str, width: u64) {
        self.linear(theirs, ours, &[width], true);
    }

    /// A weight, and where it has one, its bias: one number for each row of a matrix.
    fn linear(&mut self, theirs: &str, ours: &str, shape: &[u64], bias: bool) {
        self.keep(&format!("{theirs}.weight"), &format!("{ours}.weight"), shape);
        if bias {
            self.keep(&format!("{theirs}.bias"), &format!("{ours}.bias"), &shape[..1]);
        }
    }

    fn forms(&mut self, forms: Vec<Form>, ours: &str, shape: &[u64], change: Change) {
        self.rules.push(Rule { forms, ours: format!("{}{ours}", self.ours), shape: shape.to_vec(), change });
    }

    fn stacked(&self, before: &str, after: &str, count: u32) -> Form {
        Form::Stacked { before: format!("{}{before}", self.theirs), after: after.to_owned(), count }
    }
}

/// All tensors of a model but those that are computed.
pub fn rules(model: &Model) -> Vec<Rule> {
    if model.family.is_encoder() {
        return encoder_rules(model);
    }
    let [n_embd, n_vocab] = [model.n_embd, model.n_vocab].map(u64::from);
    let norm = if model.family.is_gemma() { Change::AddOne } else { Change::Keep };
    let mut rules = Vec::new();
    let mut outer = Place { rules: &mut rules, theirs: String::new(), ours: String::new() };
    outer.keep("model.embed_tokens.weight", "token_embd.weight", &[n_vocab, n_embd]);
    for layer in 0..model.n_layer {
        let (theirs, ours) = (format!("model.layers.{layer}."), format!("blk.{layer}."));
        let mut place = Place { rules: outer.rules, theirs, ours };
        norms(model, &mut place, norm);
        attention(model, &mut place, norm);
        feed_forward(model, &mut place);
    }
    let last = if model.family == Family::Phi { "model.final_layernorm" } else { "model.norm" };
    outer.add(&format!("{last}.weight"), "output_norm.weight", &[n_embd], norm);
    if model.family.has_layer_norm() {
        outer.keep(&format!("{last}.bias"), "output_norm.bias", &[n_embd]);
    }
    if !model.tied {
        outer.linear("lm_head", "output", &[n_vocab, n_embd], model.family == Family::Phi);
    }
    rules
}

fn norms(model: &Model, place: &mut Place<'_>, norm: Change) {
    let n_embd = u64::from(model.n_embd);
    match model.family {
        Family::Olmo2 => {
            place.keep("post_attention_layernorm.weight", "post_attention_norm.weight", &[n_embd]);
            place.keep("post_feedforward_layernorm.weight", "post_ffw_norm.weight", &[n_embd]);
        }
        Family::StableLm | Family::Starcoder2 | Family::Phi => {
            place.layer_norm("input_layernorm", "attn_norm", n_embd);
            if !model.parallel {
                place.layer_norm("post_attention_layernorm", "ffn_norm", n_embd);
            }
        }
        Family::Gemma2 | Family::Gemma3 => {
            place.add("input_layernorm.weight", "attn_norm.weight", &[n_embd], norm);
            place.add("post_attention_layernorm.weight", "post_attention_norm.weight", &[n_embd], norm);
            place.add("pre_feedforward_layernorm.weight", "ffn_norm.weight", &[n_embd], norm);
            place.add("post_feedforward_layernorm.weight", "post_ffw_norm.weight", &[n_embd], norm);
        }
        _ => {
            place.add("input_layernorm.weight", "attn_norm.weight", &[n_embd], norm);
            place.add("post_attention_layernorm.weight", "ffn_norm.weight", &[n_embd], norm);
        }
    }
}

fn attention(model: &Model, place: &mut Place<'_>, norm: Change) {
    let [n_embd, head] = [model.n_embd, model.head_dim].map(u64::from);
    let [q_rows, kv_rows] = [model.n_head, model.n_head_kv].map(|heads| u64::from(heads) * head);
    let rotated =
        if model.family.rotates_neighbours() { Change::Interleave { rows_per_head: head } } else { Change::Keep };
    if model.family == Family::Phi3 {
        place.keep("self_attn.qkv_proj.weight", "attn_qkv.weight", &[q_rows + 2 * kv_rows, n_embd]);
    } else {
        place.add("self_attn.q_proj.weight", "attn_q.weight", &[q_rows, n_embd], rotated);
        place.add("self_attn.k_proj.weight", "attn_k.weight", &[kv_rows, n_embd], rotated);
        place.keep("self_attn.v_proj.weight", "attn_v.weight", &[kv_rows, n_embd]);
    }
    let output = if model.family == Family::Phi { "self_attn.dense" } else { "self_attn.o_proj" };
    place.linear(output, "attn_output", &[n_embd, q_rows], model.output_bias);
    if model.qkv_bias {
        place.add("self_attn.q_proj.bias", "attn_q.bias", &[q_rows], rotated);
        place.add("self_attn.k_proj.bias", "attn_k.bias", &[kv_rows], rotated);
        place.keep("self_attn.v_proj.bias", "attn_v.bias", &[kv_rows]);
    }
    match model.family {
        Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3 => {
            place.add("self_attn.q_norm.weight", "attn_q_norm.weight", &[head], norm);
            place.add("self_attn.k_norm.weight", "attn_k_norm.weight", &[head], norm);
        }
        // All heads together.
        Family::Olmo2 => {
            place.keep("self_attn.q_norm.weight", "attn_q_norm.weight", &[q_rows]);
            place.keep("self_attn.k_norm.weight", "attn_k_norm.weight", &[kv_rows]);
        }
        _ => {}
    }
    if model.head_norms {
        for (letter, heads) in [("q", model.n_head), ("k", model.n_head_kv)] {
            let form = place.stacked(&format!("self_attn.{letter}_layernorm.norms."), ".weight", heads);
            let ours = format!("attn_{letter}_norm.weight");
            place.forms(vec![form], &ours, &[u64::from(heads), head], Change::Keep);
        }
    }
}

fn feed_forward(model: &Model, place: &mut Place<'_>) {
    let [n_embd, n_ff] = [model.n_embd, model.n_ff].map(u64::from);
    if model.experts.is_some() {
        return experts(model, place);
    }
    // Two matrices, without a gate.
    if let Some([up, down]) = match model.family {
        Family::Starcoder2 => Some(["mlp.c_fc", "mlp.c_proj"]),
        Family::Phi => Some(["mlp.fc1", "mlp.fc2"]),
        _ => None,
    } {
        place.linear(up, "ffn_up", &[n_ff, n_embd], model.mlp_bias);
        place.linear(down, "ffn_down", &[n_embd, n_ff], model.mlp_bias);
        return;
    }
    if model.family == Family::Phi3 {
        place.keep("mlp.gate_up_proj.weight", "ffn_up.weight", &[2 * n_ff, n_embd]);
    } else {
        place.linear("mlp.gate_proj", "ffn_gate", &[n_ff, n_embd], model.mlp_bias);
        place.linear("mlp.up_proj", "ffn_up", &[n_ff, n_embd], model.mlp_bias);
    }
    place.linear("mlp.down_proj", "ffn_down", &[n_embd, n_ff], model.mlp_bias && model.family != Family::Phi3);
}

/// Experts are one stack for each of the three matrices, `[n_experts, rows, columns]`. Published checkpoints have a
/// tensor for each expert; `transformers` 5 holds one stack for gate and up together, and can save it so.
fn experts(model: &Model, place: &mut Place<'_>) {
    let Some(experts) = model.experts else { return };
    let n_embd = u64::from(model.n_embd);
    let [n_ff, count] = [experts.n_ff, experts.count].map(u64::from);
    // (theirs of gate, up and down; where they and the router are)
    let (names, room, router) = match model.family {
        Family::Mixtral => (["w1", "w3", "w2"], "block_sparse_moe", "block_sparse_moe.gate.weight"),
        Family::GraniteMoe => (["gate", "up", "down"], "block_sparse_moe", "block_sparse_moe.router.layer.weight"),
        _ => (["gate_proj", "up_proj", "down_proj"], "mlp", "mlp.gate.weight"),
    };
    let other_routers = ["mlp.gate.weight", "block_sparse_moe.router.weight"];
    let routers = std::iter::once(router).chain(other_routers);
    let routers = routers.map(|name| Form::Whole(format!("{}{name}", place.theirs))).collect();
    place.forms(routers, "ffn_gate_inp.weight", &[count, n_embd], Change::Keep);

    let whole = |name: &str| format!("{}{name}", place.theirs);
    let rooms = ["mlp", "block_sparse_moe"];
    let mut forms: [Vec<Form>; 3] = names.map(|name| {
        if model.family == Family::GraniteMoe {
            return Vec::new();
        }
        vec![place.stacked(&format!("{room}.experts."), &format!(".{name}.weight"), experts.count)]
    });
    let [gate, up, down] = &mut forms;
    let both = ["block_sparse_moe.input_linear.weight".to_owned()].into_iter();
    for name in both.chain(rooms.map(|room| format!("{room}.experts.gate_up_proj"))) {
        gate.push(Form::Halves { name: whole(&name), second: false });
        up.push(Form::Halves { name: whole(&name), second: true });
    }
    down.push(Form::Whole(whole("block_sparse_moe.output_linear.weight")));
    down.extend(rooms.map(|room| Form::Whole(whole(&format!("{room}.experts.down_proj")))));
    let shapes = [[count, n_ff, n_embd], [count, n_ff, n_embd], [count, n_embd, n_ff]];
    for ((forms, ours), shape) in forms.into_iter().zip(["gate", "up", "down"]).zip(shapes) {
        place.forms(forms, &format!("ffn_{ours}_exps.weight"), &shape, Change::Keep);
    }

    if experts.n_ff_shared > 0 {
        let n_ff = u64::from(experts.n_ff_shared);
        place.keep("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", &[1, n_embd]);
        place.keep("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", &[n_ff, n_embd]);
        place.keep("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", &[n_ff, n_embd]);
        place.keep("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", &[n_embd, n_ff]);
    }
}

/// Encoders: norms come after a half was added, and there is no output matrix.
fn encoder_rules(model: &Model) -> Vec<Rule> {
    let [n_embd, n_ff, n_vocab] = [model.n_embd, model.n_ff, model.n_vocab].map(u64::from);
    let types = u64::from(model.n_token_types);
    let mut rules = Vec::new();
    let mut outer = Place { rules: &mut rules, theirs: String::new(), ours: String::new() };
    outer.keep("embeddings.word_embeddings.weight", "token_embd.weight", &[n_vocab, n_embd]);
    outer.keep("embeddings.token_type_embeddings.weight", "token_types.weight", &[types, n_embd]);
    if model.family == Family::Bert {
        let positions = u64::from(model.context);
        outer.keep("embeddings.position_embeddings.weight", "position_embd.weight", &[positions, n_embd]);
        outer.layer_norm("embeddings.LayerNorm", "token_embd_norm", n_embd);
        for layer in 0..model.n_layer {
            let (theirs, ours) = (format!("encoder.layer.{layer}."), format!("blk.{layer}."));
            let mut place = Place { rules: outer.rules, theirs, ours };
            for (theirs, ours) in [("query", "attn_q"), ("key", "attn_k"), ("value", "attn_v")] {
                place.linear(&format!("attention.self.{theirs}"), ours, &[n_embd, n_embd], true);
            }
            place.linear("attention.output.dense", "attn_output", &[n_embd, n_embd], true);
            place.layer_norm("attention.output.LayerNorm", "attn_output_norm", n_embd);
            place.linear("intermediate.dense", "ffn_up", &[n_ff, n_embd], true);
            place.linear("output.dense", "ffn_down", &[n_embd, n_ff], true);
            place.layer_norm("output.LayerNorm", "layer_output_norm", n_embd);
        }
        return rules;
    }
    // nomic-embed-text: the published names, or those of the graph in `transformers` 5.
    let both = |place: &mut Place<'_>, old: &str, new: &str, ours: &str, shape: &[u64]| {
        let names = [old, new].map(|name| Form::Whole(name.to_owned()));
        place.forms(names.to_vec(), ours, shape, Change::Keep);
    };
    for kind in ["weight", "bias"] {
        let (old, new) = (format!("emb_ln.{kind}"), format!("embeddings.LayerNorm.{kind}"));
        both(&mut outer, &old, &new, &format!("token_embd_norm.{kind}"), &[n_embd]);
    }
    let rows = u64::from(model.n_head) * u64::from(model.head_dim);
    for layer in 0..model.n_layer {
        let (old, new) = (format!("encoder.layers.{layer}."), format!("layers.{layer}."));
        let mut place = Place { rules: outer.rules, theirs: String::new(), ours: format!("blk.{layer}.") };
        let joined = ["q", "k", "v"].map(|letter| (format!("{new}self_attn.{letter}_proj.weight"), rows));
        let fused = vec![Form::Whole(format!("{old}attn.Wqkv.weight")), Form::Joined(joined.to_vec())];
        place.forms(fused, "attn_qkv.weight", &[3 * rows, n_embd], Change::Keep);
        for (old_name, new_name, ours, shape) in [
            ("attn.out_proj.weight", "self_attn.o_proj.weight", "attn_output.weight", &[n_embd, rows][..]),
            ("norm1.weight", "post_attention_layernorm.weight", "attn_output_norm.weight", &[n_embd]),
            ("norm1.bias", "post_attention_layernorm.bias", "attn_output_norm.bias", &[n_embd]),
            ("mlp.fc12.weight", "mlp.gate_proj.weight", "ffn_gate.weight", &[n_ff, n_embd]),
            ("mlp.fc11.weight", "mlp.up_proj.weight", "ffn_up.weight", &[n_ff, n_embd]),
            ("mlp.fc2.weight", "mlp.down_proj.weight", "ffn_down.weight", &[n_embd, n_ff]),
            ("norm2.weight", "post_mlp_layernorm.weight", "layer_output_norm.weight", &[n_embd]),
            ("norm2.bias", "post_mlp_layernorm.bias", "layer_output_norm.bias", &[n_embd]),
        ] {
            both(&mut place, &format!("{old}{old_name}"), &format!("{new}{new_name}"), ours, shape);
        }
    }
    rules
}
