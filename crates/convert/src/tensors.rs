//! From the tensors of a checkpoint to those of the file: which is made of which, and what is done to them on the way.
//!
//! `rules.rs` names the tensors of each family on both sides; here they are looked up and checked.

use std::collections::BTreeSet;

use crate::checkpoint::{Place, Weights};
use crate::error::Error;
use crate::family::Family;
use crate::model::Model;
use crate::rope::{self, Scaling};
use crate::rules::{Form, Rule, rules};

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

/// Some rows of a tensor of the checkpoint. A row has as many numbers as the tensor's last dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub place: Place,
    pub first_row: u64,
    pub rows: u64,
}

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Tensors of the checkpoint, one behind the other. They are written part by part: a stack of experts is never
    /// held in memory.
    Checkpoint { parts: Vec<Part>, change: Change },
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

/// Names of the parts of a checkpoint that are another model beside the text model.
const OTHER_MODELS: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

/// Parts of an encoder's checkpoint that make no embeddings: what it was trained with.
const ENCODER_HEADS: [&str; 3] = ["pooler.dense.", "cls.predictions.", "cls.seq_relationship."];

/// How many missing tensors of one stack are named: it may say that it has any number.
const MISSING_OF_STACK: usize = 8;

/// The tensors of the file, and what the user should know of what is left out.
pub fn arrange(model: &Model, weights: &Weights) -> Result<(Vec<Tensor>, Vec<String>), Error> {
    let mut left: BTreeSet<&str> = weights.names().collect();
    let mut notes = Vec::new();
    let mut tensors = Vec::new();
    let mut missing = Vec::new();
    for rule in rules(model) {
        let lookup = Lookup { family: model.family, weights };
        let parts = lookup.parts(&rule, &mut missing)?;
        for part in &parts {
            left.remove(weights.info(part.place).name.as_str());
        }
        let source = Source::Checkpoint { parts, change: rule.change };
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
    if model.family.is_encoder() {
        let parts = left.len();
        left.retain(|name| !ENCODER_HEADS.iter().any(|head| without_model(name).starts_with(head)));
        if left.len() < parts {
            let skipped = parts - left.len();
            notes.push(format!("{skipped} tensors of the training head are left out: embeddings are made without it"));
        }
    }
    if !left.is_empty() {
        return Err(Error::UnknownTensors { names: left.into_iter().map(str::to_owned).collect() });
    }
    tensors.extend(computed(model));
    Ok((tensors, notes))
}

/// Where tensors of a checkpoint are looked up.
struct Lookup<'a> {
    family: Family,
    weights: &'a Weights,
}

impl Lookup<'_> {
    /// What a tensor of the file is made of. Names that are not there go to `missing`.
    fn parts(&self, rule: &Rule, missing: &mut Vec<String>) -> Result<Vec<Part>, Error> {
        // The form of which the checkpoint has the beginning is the one that it is in.
        let form = rule.forms.iter().find(|form| self.find(&form.first_name()).is_some());
        let form = form.unwrap_or(&rule.forms[0]);
        match form {
            Form::Whole(name) => self.whole(name, &rule.shape, missing),
            Form::Stacked { before, after, count } => {
                let mut parts = Vec::new();
                let mut absent = Vec::new();
                for index in 0..*count {
                    parts.extend(self.whole(&format!("{before}{index}{after}"), &rule.shape[1..], &mut absent)?);
                    if absent.len() >= MISSING_OF_STACK {
                        break;
                    }
                }
                missing.append(&mut absent);
                Ok(parts)
            }
            Form::Joined(list) => {
                let mut parts = Vec::new();
                for (name, rows) in list {
                    parts.extend(self.whole(name, &[*rows, rule.shape[1]], missing)?);
                }
                Ok(parts)
            }
            Form::Halves { name, second } => {
                let [count, rows, columns] = rule.shape[..] else { unreachable!("such a rule is of a stack") };
                let Some(place) = self.find(name) else {
                    missing.push(name.clone());
                    return Ok(Vec::new());
                };
                self.check(place, &[count, 2 * rows, columns])?;
                let first = if *second { rows } else { 0 };
                Ok((0..count).map(|index| Part { place, first_row: index * 2 * rows + first, rows }).collect())
            }
        }
    }

    /// One tensor with all its rows.
    fn whole(&self, name: &str, shape: &[u64], missing: &mut Vec<String>) -> Result<Vec<Part>, Error> {
        let Some(place) = self.find(name) else {
            missing.push(name.to_owned());
            return Ok(Vec::new());
        };
        self.check(place, shape)?;
        let rows = shape[..shape.len() - 1].iter().product();
        Ok(vec![Part { place, first_row: 0, rows }])
    }

    fn find(&self, name: &str) -> Option<Place> {
        spellings(self.family, name).iter().find_map(|name| self.weights.find(name))
    }

    fn check(&self, place: Place, shape: &[u64]) -> Result<(), Error> {
        let info = self.weights.info(place);
        let bad = |problem: String, advice| Error::Tensor { name: info.name.clone(), problem, advice };
        if info.shape != shape {
            let problem = format!("its shape is {:?}, the configuration says {shape:?}", info.shape);
            return Err(bad(problem, "config.json and weights are of two models, fetch the checkpoint again"));
        }
        if !info.dtype.is_float() {
            let problem = format!("its numbers are {}", info.dtype.name());
            return Err(bad(problem, "F64, F32, F16 and BF16 can be converted: get the checkpoint in one of them"));
        }
        Ok(())
    }
}

/// Tensors of a checkpoint that hold nothing of their own: positions' frequencies and masks, which every program
/// computes, and a second copy of embeddings that are the output matrix, too.
fn is_no_weight(model: &Model, name: &str) -> bool {
    let buffer = [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias", "embeddings.position_ids"];
    let tied = model.tied && spellings(model.family, "lm_head.weight").iter().any(|head| head == name);
    tied || buffer.iter().any(|end| name.ends_with(end))
}

/// A name without that of the encoder in a model that has more.
fn without_model(name: &str) -> &str {
    let prefixes = ["bert.", "nomic_bert."];
    prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// The names under which checkpoints have a tensor. A model that is a part of another one has a name in front.
pub fn spellings(family: Family, name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    match family {
        Family::Gemma3 => {
            names.push(format!("language_model.{name}"));
            if let Some(rest) = name.strip_prefix("model.") {
                names.push(format!("model.language_model.{rest}"));
            }
        }
        Family::Bert => {
            // The first checkpoints were converted from TensorFlow and call the two numbers of a norm by their letters.
            let letters = [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")];
            let old = letters.iter().find_map(|(new, old)| Some(name.strip_suffix(new)?.to_owned() + old));
            names.extend(old);
            let within: Vec<_> = names.iter().map(|name| format!("bert.{name}")).collect();
            names.extend(within);
        }
        Family::NomicBert => names.push(format!("nomic_bert.{name}")),
        _ => {}
    }
    names
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
