//! Tiny models of every family, with any sizes, changed anywhere: metadata, names, shapes, types and bytes of tensors, and
//! the description itself. A model is refused with a message or runs: three tokens, at once and one by one with the same
//! bits, with an adapter that is made and changed in the same way.
#![no_main]

use std::sync::Arc;

use hublabio_engine::architecture::{Factor, Pairing, Presence, WindowPattern};
use hublabio_engine::{
    ActiveAdapter, Adapter, Architecture, Input, Isa, Model, Result, Row, Runner, Shard, find_architecture,
};
use hublabio_gguf::{Array, GgmlType, GgufFile, Metadata, Value, Writer};
use libfuzzer_sys::fuzz_target;

const FAMILIES: [&str; 18] = [
    "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "phi3", "gemma", "gemma2", "gemma3", "smollm3", "olmo2", "granite",
    "granitemoe", "stablelm", "starcoder2", "phi2", "bert", "nomic-bert",
];
/// Small, odd, and whole blocks of the quantized formats.
const WIDTHS: [usize; 8] = [1, 2, 3, 8, 17, 32, 64, 256];
/// Keys that are set to anything, without the family's prefix.
const KEYS: [&str; 40] = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "context_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "attention.causal",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "pooling_type",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_weights_norm",
    "expert_weights_scale",
    "expert_gating_func",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "vocab_size",
];
/// No tensor is made larger.
const TENSOR_BYTES_MAX: usize = 256 * 1024;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let (file, description) = make(&mut bytes);
    let Ok(model) = Model::open_described(Arc::new(file), &Shard::whole(), description) else { return };
    let model = Arc::new(model);
    let adapter = make_adapter(&mut bytes, &model).and_then(|file| Adapter::open(Arc::new(file), &model).ok());
    run(&model, adapter.map(Arc::new));
});

/// What the fuzzer gives; zeros after its end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }
    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }
    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
    fn width(&mut self) -> usize {
        WIDTHS[self.below(WIDTHS.len())]
    }
}

struct Tensor {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    data: Vec<u8>,
}

/// The tensors of a model in the making; `bytes` decides what the description leaves open.
struct Parts<'a, 'b> {
    bytes: &'a mut Bytes<'b>,
    tensors: Vec<Tensor>,
    /// Of matrices.
    ty: GgmlType,
}

impl Parts<'_, '_> {
    fn has(&mut self, presence: Presence) -> bool {
        presence == Presence::Required || presence == Presence::Optional && self.bytes.flag()
    }

    fn add(&mut self, name: String, dims: &[usize], ty: GgmlType) {
        let dims: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        let Some(n) = tensor_bytes(&dims, ty) else { return };
        // Any small numbers: what matters is shapes. Quantized blocks have scales that may overflow.
        let mut state = self.tensors.len() as u32 + 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        let data = match ty {
            GgmlType::F32 => (0..n / 4).flat_map(|_| ((next() as f32 / 65536.0 - 0.4) * 0.7).to_le_bytes()).collect(),
            _ => (0..n).map(|_| (next() & 0x37) as u8).collect(),
        };
        self.tensors.push(Tensor { name, dims, ty, data });
    }

    fn vector(&mut self, name: String, n: usize, presence: Presence) {
        if self.has(presence) {
            self.add(name, &[n], GgmlType::F32);
        }
    }

    fn matrix(&mut self, name: String, dims: &[usize]) {
        let ty = if self.ty.row_bytes(dims[0]).is_some() { self.ty } else { GgmlType::F32 };
        self.add(name + ".weight", dims, ty);
    }

    fn linear(&mut self, name: String, cols: usize, rows: usize, bias: Presence) {
        self.matrix(name.clone(), &[cols, rows]);
        self.vector(name + ".bias", rows, bias);
    }
}

fn tensor_bytes(dims: &[u64], ty: GgmlType) -> Option<usize> {
    let row = ty.row_bytes(usize::try_from(*dims.first()?).ok()?)?;
    let rows = dims[1..].iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))?;
    row.checked_mul(rows).filter(|&n| n <= TENSOR_BYTES_MAX)
}

/// A model, and the description that it is opened with.
fn make(bytes: &mut Bytes<'_>) -> (GgufFile, Option<Architecture>) {
    let name = FAMILIES[bytes.below(FAMILIES.len())];
    let mut architecture = find_architecture(name).expect("the list holds built-in names");
    let described = bytes.flag();
    if described {
        change_description(bytes, &mut architecture);
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", Value::String(name.to_owned()));
    let tensors = build(bytes, &architecture, &mut metadata);
    let file = change_and_write(bytes, name, metadata, tensors);
    (file, described.then_some(architecture))
}

fn change_description(bytes: &mut Bytes<'_>, a: &mut Architecture) {
    for _ in 0..bytes.below(6) {
        let presence = [Presence::Absent, Presence::Optional, Presence::Required][bytes.below(3)];
        let factor = [Factor::One, Factor::SqrtWidth, Factor::Key, Factor::InverseKey][bytes.below(4)];
        let number = f32::from_bits(bytes.word());
        match bytes.below(26) {
            0 => a.embedding.positions = presence,
            1 => a.embedding.token_types = presence,
            2 => a.embedding.norm = presence,
            3 => a.attention.norm = presence,
            4 => a.attention.post_norm = presence,
            5 => a.attention.output_norm = presence,
            6 => a.attention.qkv_bias = presence,
            7 => a.attention.query_key_norm = presence,
            8 => a.attention.causal = !a.attention.causal,
            9 => a.attention.soft_cap = Some(number),
            10 => a.attention.window = WindowPattern::AllButEvery(bytes.below(4)),
            11 => a.rope.pairing = [Pairing::None, Pairing::Adjacent, Pairing::Halves][bytes.below(3)],
            12 => a.rope.local_base = Some(number),
            13 => a.rope.skip_every = bytes.below(3),
            14 => a.feed_forward.norm = presence,
            15 => a.feed_forward.parallel = !a.feed_forward.parallel,
            16 => a.feed_forward.post_norm = presence,
            17 => a.feed_forward.output_norm = presence,
            18 => a.feed_forward.gated = !a.feed_forward.gated,
            19 => a.feed_forward.experts = presence,
            20 => a.feed_forward.shared_expert = presence,
            21 => a.head.logits = !a.head.logits,
            22 => a.head.norm = presence,
            23 => a.head.soft_cap = Some(number),
            24 => (a.embedding.scale, a.head.scale) = (factor, factor),
            _ => a.norm_weight_offset = number,
        }
    }
}

/// Metadata and tensors that belong together.
fn build(bytes: &mut Bytes<'_>, a: &Architecture, metadata: &mut Metadata) -> Vec<Tensor> {
    let name = a.name.clone();
    let mut set = |key: &str, value: Value| drop(metadata.insert(format!("{name}.{key}"), value));
    let n = |value: usize| Value::U32(value as u32);
    let (layers, d, d_ff, vocab) = (1 + bytes.below(2), bytes.width(), bytes.width(), 1 + bytes.below(33));
    let kv_heads = 1 + bytes.below(3);
    let heads = kv_heads * (1 + bytes.below(3));
    let (key_dim, value_dim, context) = (bytes.width().min(64), bytes.width().min(64), 1 + bytes.below(64));
    let (experts, shared) = (bytes.below(5), bytes.width());
    let experts = if a.feed_forward.experts == Presence::Absent { 0 } else { experts };
    set("block_count", n(layers));
    set("embedding_length", n(d));
    set("feed_forward_length", n(d_ff));
    set("context_length", n(context));
    set("attention.head_count", n(heads));
    set("attention.head_count_kv", n(kv_heads));
    set("attention.key_length", n(key_dim));
    set("attention.value_length", n(value_dim));
    set("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    set("attention.layer_norm_epsilon", Value::F32(1e-5));
    set("attention.sliding_window", n(bytes.below(8)));
    set("rope.dimension_count", n(bytes.below(key_dim + 1) / 2 * 2));
    if experts > 0 {
        set("expert_count", n(experts));
        set("expert_used_count", n(1 + bytes.below(experts)));
    }
    let ty = GgmlType::ALL[bytes.below(GgmlType::ALL.len())];
    let mut parts = Parts { bytes, tensors: Vec::new(), ty };
    let p = &mut parts;
    // Norms have a bias where the bytes say so, which `RMSNorm` refuses.
    let norm = |p: &mut Parts<'_, '_>, name: String, presence: Presence| {
        if p.has(presence) {
            p.add(name.clone() + ".weight", &[d], GgmlType::F32);
            if a.norm == hublabio_kernels::NormKind::Layer {
                p.vector(name + ".bias", d, Presence::Optional);
            }
        }
    };
    p.matrix("token_embd".into(), &[d, vocab]);
    for (table, presence, rows) in
        [("position_embd", a.embedding.positions, context), ("token_types", a.embedding.token_types, 2)]
    {
        if p.has(presence) {
            p.matrix(table.into(), &[d, rows]);
        }
    }
    norm(p, "token_embd_norm".into(), a.embedding.norm);
    for i in 0..layers {
        let at = |name: &str| format!("blk.{i}.{name}");
        norm(p, at("attn_norm"), a.attention.norm);
        let rows = [heads * key_dim, kv_heads * key_dim, kv_heads * value_dim];
        if p.bytes.flag() {
            p.linear(at("attn_qkv"), d, rows.iter().sum(), a.attention.qkv_bias);
        } else {
            for (name, rows) in ["attn_q", "attn_k", "attn_v"].into_iter().zip(rows) {
                p.linear(at(name), d, rows, a.attention.qkv_bias);
            }
        }
        if p.has(a.attention.query_key_norm) {
            let shape = p.bytes.below(3);
            for (name, heads) in [("attn_q_norm.weight", heads), ("attn_k_norm.weight", kv_heads)] {
                let shapes: [&[usize]; 3] = [&[key_dim], &[key_dim, heads], &[key_dim * heads]];
                p.add(at(name), shapes[shape], GgmlType::F32);
            }
        }
        p.linear(at("attn_output"), heads * value_dim, d, a.attention.output_bias);
        norm(p, at("post_attention_norm"), a.attention.post_norm);
        norm(p, at("attn_output_norm"), a.attention.output_norm);
        norm(p, at("ffn_norm"), a.feed_forward.norm);
        if experts > 0 {
            p.matrix(at("ffn_gate_inp"), &[d, experts]);
            p.matrix(at("ffn_up_exps"), &[d, d_ff, experts]);
            p.matrix(at("ffn_down_exps"), &[d_ff, d, experts]);
            if a.feed_forward.gated {
                p.matrix(at("ffn_gate_exps"), &[d, d_ff, experts]);
            }
            if p.has(a.feed_forward.shared_expert) {
                mlp(p, a, ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"].map(at), d, shared);
                if p.bytes.flag() {
                    p.matrix(at("ffn_gate_inp_shexp"), &[d, 1]);
                }
            }
        } else {
            mlp(p, a, ["ffn_gate", "ffn_up", "ffn_down"].map(at), d, d_ff);
        }
        norm(p, at("post_ffw_norm"), a.feed_forward.post_norm);
        norm(p, at("layer_output_norm"), a.feed_forward.output_norm);
    }
    norm(p, "output_norm".into(), a.head.norm);
    if a.head.logits && p.bytes.flag() {
        p.matrix("output".into(), &[d, vocab]);
    }
    p.vector("output.bias".into(), vocab, a.head.bias);
    parts.tensors
}

fn mlp(p: &mut Parts<'_, '_>, a: &Architecture, [gate, up, down]: [String; 3], d: usize, d_ff: usize) {
    let bias = a.feed_forward.bias;
    let fused = a.feed_forward.gated && p.bytes.flag();
    if a.feed_forward.gated && !fused {
        p.linear(gate, d, d_ff, bias);
    }
    p.linear(up, d, if fused { 2 * d_ff } else { d_ff }, bias);
    p.linear(down, d_ff, d, bias);
}

/// Changes that do not fit the rest, as many as there are bytes for.
fn change_and_write(bytes: &mut Bytes<'_>, prefix: &str, mut metadata: Metadata, mut tensors: Vec<Tensor>) -> GgufFile {
    for _ in 0..bytes.below(8) {
        let key = format!("{prefix}.{}", KEYS[bytes.below(KEYS.len())]);
        match bytes.below(12) {
            0 => drop(metadata.remove(&key)),
            1..6 => drop(metadata.insert(key, value(bytes))),
            _ => change_tensor(bytes, &mut tensors),
        }
    }
    write(metadata, &tensors)
}

fn value(bytes: &mut Bytes<'_>) -> Value {
    match bytes.below(8) {
        0 => Value::U32(bytes.word()),
        1 => Value::U32(u32::from(bytes.byte())),
        2 => Value::F32(f32::from_bits(bytes.word())),
        3 => Value::F32(f32::from(bytes.byte()) / 16.0),
        4 => Value::Bool(bytes.flag()),
        5 => Value::String(["linear", "yarn", "longrope", "none", "dynamic"][bytes.below(5)].into()),
        6 => Value::Array(Array::U32((0..bytes.below(4)).map(|_| bytes.word()).collect())),
        _ => Value::Array(Array::Bool((0..bytes.below(4)).map(|_| bytes.flag()).collect())),
    }
}

fn change_tensor(bytes: &mut Bytes<'_>, tensors: &mut Vec<Tensor>) {
    if tensors.is_empty() {
        return;
    }
    let at = bytes.below(tensors.len());
    let other = bytes.below(tensors.len());
    let tensor = &mut tensors[at];
    match bytes.below(7) {
        0 => drop(tensors.remove(at)),
        1 => {
            let name = tensors[other].name.clone();
            let factors = ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];
            tensors[at].name = factors.get(bytes.below(6)).map_or(name, |&name| name.to_owned());
        }
        2 | 3 => {
            let mut dims = tensor.dims.clone();
            let place = bytes.below(dims.len() + 1);
            let size = u64::from(bytes.byte()).max(1);
            if place < dims.len() { dims[place] = size } else if dims.len() < 4 { dims.push(size) }
            resize(tensor, dims, tensor.ty);
        }
        4 => {
            let dims = tensor.dims.clone();
            resize(tensor, dims, GgmlType::ALL[bytes.below(GgmlType::ALL.len())]);
        }
        _ => {
            let place = bytes.word() as usize % tensor.data.len().max(1);
            let word = bytes.word().to_le_bytes();
            tensor.data.iter_mut().skip(place / 4 * 4).zip(word).for_each(|(byte, new)| *byte = new);
        }
    }
}

fn resize(tensor: &mut Tensor, dims: Vec<u64>, ty: GgmlType) {
    if let Some(n) = tensor_bytes(&dims, ty) {
        tensor.data.resize(n, 0x2b);
        (tensor.dims, tensor.ty) = (dims, ty);
    }
}

fn write(metadata: Metadata, tensors: &[Tensor]) -> GgufFile {
    let mut writer = Writer::with_metadata(metadata);
    let mut data = Vec::new();
    for tensor in tensors {
        // A name that is there already is left out.
        if writer.add_tensor(&tensor.name, &tensor.dims, tensor.ty).is_ok() {
            data.push(tensor.data.as_slice());
        }
    }
    GgufFile::from_vec(writer.to_bytes(data).expect("keys and tensors are writable")).expect("what was written is read")
}

/// An adapter for some matrices of the model, changed here and there.
fn make_adapter(bytes: &mut Bytes<'_>, model: &Model) -> Option<GgufFile> {
    let mut metadata = Metadata::new();
    metadata.insert("general.type", Value::String("adapter".into()));
    metadata.insert("adapter.type", Value::String("lora".into()));
    metadata.insert("adapter.lora.alpha", Value::F32(f32::from(bytes.byte())));
    let mut parts = Parts { bytes, tensors: Vec::new(), ty: GgmlType::F32 };
    for _ in 0..1 + parts.bytes.below(4) {
        let base = &model.file().tensors()[parts.bytes.below(model.file().tensors().len())];
        let &[cols, rows] = &base.dims[..] else { continue };
        let rank = 1 + parts.bytes.below(4);
        parts.add(format!("{}.lora_a", base.name), &[cols as usize, rank], GgmlType::F32);
        parts.add(format!("{}.lora_b", base.name), &[rank, rows as usize], GgmlType::F32);
    }
    let Parts { bytes, mut tensors, .. } = parts;
    for _ in 0..bytes.below(3) {
        change_tensor(bytes, &mut tensors);
    }
    (!tensors.is_empty()).then(|| write(metadata, &tensors))
}

/// Three tokens at once and one by one: the same bits, or the same failure.
fn run(model: &Arc<Model>, adapter: Option<Arc<Adapter>>) {
    let vocab = model.hyperparameters().vocab_size as u32;
    let mut runner = Runner::new(Arc::clone(model), 1, Isa::best());
    if let Some(adapter) = adapter {
        runner.set_adapters(vec![ActiveAdapter { adapter, scale: 1.0 }]);
    }
    // A page of 32 positions for each sequence, and one for the fork.
    let mut cache = model.new_cache(128, model.default_kv());
    let (whole, pieces) = (cache.create(), cache.create());
    let row = |sequence, i: u32| Row { sequence, position: i, token: i % vocab, wanted: i != 1 };
    let together: Vec<Row> = (0..3).map(|i| row(whole, i)).collect();
    let bits = |out: Result<&[f32]>| out.map(|out| out.iter().map(|x| x.to_bits()).collect::<Vec<u32>>());
    let expected = bits(runner.forward(&mut cache, &together, Input::Tokens));
    if !model.hyperparameters().causal {
        return;
    }
    let mut got = Vec::new();
    for i in 0..3 {
        match bits(runner.forward(&mut cache, &[row(pieces, i)], Input::Tokens)) {
            Ok(out) => got.extend(out),
            Err(_) => return assert!(expected.is_err(), "one by one it fails"),
        }
    }
    assert!(expected.is_ok_and(|expected| expected == got), "one by one it is something else");
    // Back and on again, on a fork.
    let fork = cache.fork(pieces).expect("the sequence is there");
    assert!(cache.truncate(fork, 2).is_ok_and(|kept| kept == 2));
    let again = bits(runner.forward(&mut cache, &[row(fork, 2)], Input::Tokens)).expect("it went well before");
    assert!(got.ends_with(&again), "after a cut it is something else");
}
