//! Which type each tensor of a model gets: a mix's rules, the user's own, and what the shapes allow.

use hublabio_gguf::{GgmlType, GgufFile, TensorInfo};
use regex_lite::Regex;

use super::mix::{self, Mix, Role, When};
use super::{KeptReason, QuantizeOptions};
use crate::{Error, Result};

/// Pieces of the names of matrices that stay as they are: they are small, or steer what large ones compute.
const KEPT: &[&str] = &[
    "_norm.weight",
    // Which expert gets a token.
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    // Positions and token kinds of encoders.
    "position_embd",
    "token_types.weight",
    "attn_rel_b.weight",
    // Convolutions over a few positions.
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // The low-rank factors of RWKV.
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // Parts of image and audio encoders.
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// `REGEX=TYPE`: tensors whose name the expression finds get the type.
#[derive(Clone, Debug)]
pub struct TensorTypeRule {
    pattern: Regex,
    ty: GgmlType,
}

impl TensorTypeRule {
    /// Reads `REGEX=TYPE`, such as `ffn_down=Q6_K`. The expression may match any part of a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let Some((pattern, ty)) = text.rsplit_once('=').filter(|(pattern, _)| !pattern.is_empty()) else {
            return Err("give REGEX=TYPE, such as ffn_down=Q6_K".to_owned());
        };
        let pattern = Regex::new(pattern).map_err(|error| format!("`{pattern}` is no regular expression: {error}"))?;
        Ok(Self { pattern, ty: tensor_type(ty)? })
    }

    /// The expression.
    #[must_use]
    pub fn pattern(&self) -> &str {
        self.pattern.as_str()
    }

    /// The type.
    #[must_use]
    pub fn ty(&self) -> GgmlType {
        self.ty
    }
}

/// The tensor type of this name, in any letter case, if files can be written in it.
///
/// # Errors
/// The types that there are.
pub fn tensor_type(name: &str) -> std::result::Result<GgmlType, String> {
    GgmlType::from_name(name).filter(|ty| ty.can_encode()).ok_or_else(|| {
        let names: Vec<_> = GgmlType::ALL.iter().filter(|ty| ty.can_encode()).map(|ty| ty.name()).collect();
        format!("`{name}` is no type that tensors can be written in: give one of {}", names.join(", "))
    })
}

/// What becomes of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its shape, the contiguous dimension first.
    pub dims: Vec<u64>,
    /// The type that it has.
    pub from: GgmlType,
    /// The type that it gets.
    pub to: GgmlType,
    /// The type that it would have got if its rows were a whole number of such blocks.
    pub wanted: Option<GgmlType>,
    /// Why it is no candidate for another type, if so.
    pub kept: Option<KeptReason>,
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
}

impl PlannedTensor {
    /// Weights in it.
    #[must_use]
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Size in the source.
    #[must_use]
    pub fn bytes_before(&self) -> u64 {
        self.bytes_before
    }

    /// Size in the output.
    #[must_use]
    pub fn bytes_after(&self) -> u64 {
        self.bytes_after
    }

    /// Whether its bytes are copied as they are.
    #[must_use]
    pub fn is_copied(&self) -> bool {
        self.from == self.to
    }

    /// Weights in a row, and rows.
    pub(super) fn shape(&self) -> (u64, u64) {
        (self.dims.first().copied().unwrap_or(1), self.dims.iter().skip(1).product())
    }
}

/// Types for all tensors of `file`, in the file's order.
pub(super) fn plan(file: &GgufFile, options: &QuantizeOptions) -> Result<Vec<PlannedTensor>> {
    let model = ModelFacts::of(file, options.importance.is_some());
    let positions = positions(file.tensors(), &model);
    let mut matched = vec![false; options.tensor_types.len()];
    let mut planned = Vec::with_capacity(file.tensors().len());
    for (tensor, position) in file.tensors().iter().zip(positions) {
        let kept = kept_reason(tensor);
        let (to, wanted) = if kept.is_some() {
            (tensor.ty, None)
        } else {
            let site = Site { role: role(&tensor.name, &model), position, tensor, model: &model };
            choose(&site, options, &mut matched)
        };
        let (from, row_len) = (tensor.ty, tensor.row_len() as usize);
        let floats = matches!(from, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::F64);
        if from != to {
            let in_tensor =
                |cause| hublabio_gguf::Error::InTensor { name: tensor.name.clone(), cause: Box::new(cause) };
            if !to.can_encode() {
                return Err(in_tensor(hublabio_gguf::Error::CannotEncode { ty: to }).into());
            }
            if !from.can_decode() {
                return Err(in_tensor(hublabio_gguf::Error::CannotDecode { ty: from }).into());
            }
            if !floats && !options.allow_requantize {
                return Err(Error::Requantize { tensor: tensor.name.clone(), from: from.name(), to: to.name() });
            }
        }
        let row_bytes = to.row_bytes(row_len).expect("a type whose blocks fit the rows was chosen") as u64;
        planned.push(PlannedTensor {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            from,
            to,
            wanted,
            kept,
            bytes_before: tensor.n_bytes(),
            bytes_after: row_bytes.checked_mul(tensor.n_rows()).ok_or(Error::OutputTooLarge)?,
        });
    }
    if let Some(rule) = options.tensor_types.iter().zip(matched).find(|(_, matched)| !matched) {
        return Err(Error::TensorRuleUnused { pattern: rule.0.pattern().to_owned() });
    }
    Ok(planned)
}

/// The type of a matrix, and the one that its shape ruled out.
fn choose(site: &Site, options: &QuantizeOptions, matched: &mut [bool]) -> (GgmlType, Option<GgmlType>) {
    let name = &site.tensor.name;
    let rule = options.tensor_types.iter().position(|rule| rule.pattern.is_match(name));
    if let Some(rule) = rule {
        matched[rule] = true;
    }
    let is_embedding = is_embedding(name);
    let wanted = if let Some(ty) = options.token_embedding_type.filter(|_| is_embedding) {
        ty
    } else if let Some(ty) = options.output_type.filter(|_| site.role == Role::Output) {
        ty
    } else if let Some(rule) = rule {
        options.tensor_types[rule].ty
    } else if options.pure {
        options.mix.base
    } else {
        site.mixed(options.mix)
    };
    let row_len = site.tensor.row_len() as usize;
    let fits = |ty: &GgmlType| row_len.is_multiple_of(ty.block_len());
    if fits(&wanted) {
        return (wanted, None);
    }
    // What suffers most is not given fewer bits than it would have got.
    let second = if site.role == Role::Output { GgmlType::Q8_0 } else { mix::fallback(wanted) };
    (if fits(&second) { second } else { GgmlType::F16 }, Some(wanted))
}

/// A matrix, where it stands, and in which model.
struct Site<'a> {
    role: Role,
    position: Position,
    tensor: &'a TensorInfo,
    model: &'a ModelFacts,
}

impl Site<'_> {
    fn mixed(&self, mix: &Mix) -> GgmlType {
        let fits = |(role, when, _): &&mix::Rule| self.is(*role) && when.iter().all(|&when| self.holds(when));
        mix.rules.iter().find(fits).map_or(mix.base, |(_, _, ty)| *ty)
    }

    fn is(&self, role: Role) -> bool {
        match role {
            Role::Any => true,
            Role::Experts => self.role != Role::Output && self.tensor.dims.get(2).is_some_and(|&n| n > 1),
            role => role == self.role,
        }
    }

    fn holds(&self, when: When) -> bool {
        let Position { index, of } = self.position;
        // The number of layers is foreign: it may be anything.
        let (first_eighth, last_eighth) = (index < of / 8, index >= of.saturating_mul(7) / 8);
        match when {
            When::First(n) => index < n,
            When::FirstOf(n) => index < of / n,
            When::Middle => !first_eighth && !last_eighth,
            When::MoreBits => first_eighth || last_eighth || (index - of / 8) % 3 == 2,
            When::Shared(n) => self.model.shared_heads >= n,
            When::EightExperts => self.model.experts == 8,
            When::FourExperts => self.model.experts >= 4,
            When::Llama70b => self.model.is_llama_70b,
            When::WithImportance => self.model.has_importance,
            When::WithoutImportance => !self.model.has_importance,
        }
    }
}

/// The `index`-th of `of` layers.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    index: usize,
    of: usize,
}

/// What the rules ask of a model.
struct ModelFacts {
    layers: usize,
    experts: usize,
    /// Query heads for each key-value head.
    shared_heads: usize,
    is_llama_70b: bool,
    has_output: bool,
    has_importance: bool,
}

impl ModelFacts {
    /// A file that does not say counts as a plain model: any GGUF file can be quantized.
    fn of(file: &GgufFile, has_importance: bool) -> Self {
        let metadata = file.metadata();
        let architecture = metadata.get("general.architecture").and_then(|value| value.as_str()).unwrap_or_default();
        // Heads may be given for each layer; the first stands for all.
        let number = |key: &str| {
            let key = format!("{architecture}.{key}");
            let first = || metadata.u32_array(&key).ok().flatten().and_then(|list| list.first().copied());
            metadata.u64(&key).ok().flatten().or_else(|| first().map(u64::from)).map(|n| n as usize)
        };
        let heads = number("attention.head_count").unwrap_or(0);
        let key_value_heads = number("attention.head_count_kv").unwrap_or(heads);
        let named_layers =
            || file.tensors().iter().filter_map(|tensor| layer(&tensor.name)).max().map_or(0, |n| n.saturating_add(1));
        let layers = number("block_count").unwrap_or_else(named_layers);
        Self {
            layers,
            experts: number("expert_count").unwrap_or(0),
            shared_heads: heads.checked_div(key_value_heads).unwrap_or(0),
            is_llama_70b: architecture == "llama" && layers == 80 && heads != key_value_heads,
            has_output: file.tensor_index("output.weight").is_some(),
            has_importance,
        }
    }
}

/// Where each tensor stands among those of its role, in the order of the layers. In a mixture of experts a layer may have
/// several such tensors, so that the number in the name counts.
fn positions(tensors: &[TensorInfo], model: &ModelFacts) -> Vec<Position> {
    let mut order: Vec<usize> = (0..tensors.len()).filter(|&i| kept_reason(&tensors[i]).is_none()).collect();
    order.sort_by_key(|&i| (layer(&tensors[i].name), &tensors[i].name));
    let mut positions = vec![Position::default(); tensors.len()];
    for counted in [Role::Value, Role::Down, Role::Gate, Role::Up] {
        let of_role: Vec<usize> = order.iter().copied().filter(|&i| role(&tensors[i].name, model) == counted).collect();
        for (n, &i) in of_role.iter().enumerate() {
            let named = layer(&tensors[i].name).filter(|_| model.experts > 1);
            positions[i] = match counted {
                Role::Value => Position { index: n, of: of_role.len() },
                _ => Position { index: named.unwrap_or(n), of: model.layers },
            };
        }
    }
    positions
}

/// The number in `blk.7.…`.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Embeddings are looked up, not multiplied.
pub(super) fn is_embedding(name: &str) -> bool {
    matches!(name, "token_embd.weight" | "per_layer_token_embd.weight")
}

fn role(name: &str, model: &ModelFacts) -> Role {
    const PARTS: &[(&str, Role)] = &[
        ("attn_qkv.weight", Role::Value),
        ("attn_kv_b.weight", Role::Value),
        ("attn_v.weight", Role::Value),
        ("attn_k.weight", Role::Key),
        ("attn_q.weight", Role::Query),
        ("attn_output.weight", Role::AttentionOutput),
        ("ffn_up", Role::Up),
        ("ffn_gate", Role::Gate),
        ("ffn_down", Role::Down),
    ];
    match name {
        "output.weight" => Role::Output,
        name if is_embedding(name) => {
            if model.has_output {
                Role::Embedding
            } else {
                Role::Output
            }
        }
        name => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Role::Any, |(_, role)| *role),
    }
}

/// Why a tensor stays as it is; `None` for matrices of weights.
fn kept_reason(tensor: &TensorInfo) -> Option<KeptReason> {
    let integers = matches!(tensor.ty, GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64);
    if integers {
        Some(KeptReason::Integers)
    } else if tensor.dims.iter().skip(1).all(|&n| n == 1) {
        Some(KeptReason::Vector)
    } else if !tensor.name.ends_with("weight") || KEPT.iter().any(|part| tensor.name.contains(part)) {
        Some(KeptReason::Name)
    } else {
        None
    }
}
