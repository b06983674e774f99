//! From a folder to the description of a file: everything is read and checked but the weights.

use std::path::{Path, PathBuf};

use hublabio_gguf::{GgmlType, Metadata, Writer};

use crate::checkpoint::{self, Weights};
use crate::config::Config;
use crate::error::Error;
use crate::family::Family;
use crate::metadata;
use crate::model::Model;
use crate::safetensors::DType;
use crate::tensors::{self, Source, Tensor};
use crate::tokenizer;

/// The type of the matrices; vectors and norms are always F32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputType {
    /// BF16 where most of the checkpoint is, else F16.
    #[default]
    Auto,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// 8 bits and a scale for each 32 weights.
    Q8_0,
}

/// A file that is ready to be written.
#[derive(Debug)]
pub struct Plan {
    pub(crate) folder: PathBuf,
    pub(crate) writer: Writer,
    pub(crate) tensors: Vec<(Tensor, GgmlType)>,
    pub(crate) weights: Weights,
    pub(crate) family: Family,
    pub(crate) ty: GgmlType,
    pub(crate) notes: Vec<String>,
}

impl Plan {
    /// Reads a checkpoint folder: configuration, tokenizer, and the headers of the weights.
    ///
    /// # Errors
    /// Whatever is wrong with the folder; the message says where and what to do.
    pub fn new(folder: &Path, ty: OutputType) -> Result<Self, Error> {
        let config_path = folder.join("config.json");
        let config = checkpoint::read_json(&config_path)?.ok_or_else(|| {
            let problem = format!("there is no config.json in {}", folder.display());
            Error::malformed(problem, "give the folder of a Hugging Face checkpoint")
        })?;
        let in_config = |error: Error| error.in_file(&config_path);
        let config = Config::new(config).map_err(in_config)?;
        let family = config.architecture().and_then(Family::of).map_err(in_config)?;
        let model = Model::read(family, &config).map_err(in_config)?;

        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", family.gguf_name());
        metadata.insert("general.type", "model");
        if let Some(name) = checkpoint::folder_name(folder) {
            metadata.insert("general.name", name);
        }
        let mut notes = write_sampling(folder, &mut metadata)?;
        notes.extend(model.write_metadata(&config, &mut metadata).map_err(in_config)?);

        if family.is_encoder()
            && let Some(kind) = metadata::pooling(folder)?
        {
            metadata.insert(format!("{}.pooling_type", family.gguf_name()), kind);
        }

        let weights = Weights::open(folder)?;
        let (tensors, left_out) = tensors::arrange(&model, &weights)?;
        notes.extend(left_out);
        let ty = resolve(ty, &tensors, &weights);
        metadata.insert("general.file_type", file_type(ty));
        metadata.insert("general.quantization_version", 2u32);

        let tokenizer = tokenizer::read(folder, &config, family, model.n_vocab)?;
        notes.extend(tokenizer.notes);
        for (key, value) in tokenizer.entries {
            metadata.insert(key, value);
        }

        let mut writer = Writer::with_metadata(metadata);
        let mut typed = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let its = fitting(&tensor, ty, &mut notes);
            let dims: Vec<u64> = tensor.shape.iter().rev().copied().collect();
            writer.add_tensor(&tensor.name, &dims, its)?;
            typed.push((tensor, its));
        }
        let folder = folder.to_path_buf();
        Ok(Self { folder, writer, tensors: typed, weights, family, ty, notes })
    }

    /// The family that the checkpoint belongs to.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The type of the matrices.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// The metadata of the file to be.
    pub fn metadata(&self) -> &Metadata {
        self.writer.metadata()
    }

    /// Number of tensors of the file to be.
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// What the user should know: what is left out, and what the format cannot say.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Small tensors that many numbers hang on, and those that kernels read as they are: vectors, norms, routers of
/// experts, and what is added to the embeddings of tokens. llama.cpp's converter has the same list.
fn is_f32_always(tensor: &Tensor) -> bool {
    const NAMES: [&str; 5] = [
        "_norm.weight",
        "ffn_gate_inp.weight",
        "ffn_gate_inp_shexp.weight",
        "position_embd.weight",
        "token_types.weight",
    ];
    tensor.shape.len() < 2 || NAMES.iter().any(|name| tensor.name.ends_with(name))
}

/// The type that a tensor gets where matrices get `ty`; a note where it is neither that nor F32.
pub fn fitting(tensor: &Tensor, ty: GgmlType, notes: &mut Vec<String>) -> GgmlType {
    let its = if is_f32_always(tensor) { GgmlType::F32 } else { ty };
    let columns = *tensor.shape.last().expect("a rule's shape has a dimension");
    if columns.is_multiple_of(its.block_len() as u64) {
        return its;
    }
    let block = its.block_len();
    notes.push(format!("{} is F16: its rows of {columns} are no multiple of {block}", tensor.name));
    GgmlType::F16
}

/// The type that `Auto` means: that of most of the weights.
pub fn resolve(ty: OutputType, tensors: &[Tensor], weights: &Weights) -> GgmlType {
    match ty {
        OutputType::F32 => GgmlType::F32,
        OutputType::F16 => GgmlType::F16,
        OutputType::Bf16 => GgmlType::BF16,
        OutputType::Q8_0 => GgmlType::Q8_0,
        OutputType::Auto => {
            let (mut bf16, mut all) = (0u64, 0u64);
            for tensor in tensors {
                let Source::Checkpoint { parts, .. } = &tensor.source else { continue };
                for part in parts {
                    let info = weights.info(part.place);
                    let n = part.rows * info.shape.last().copied().unwrap_or(1);
                    all += n;
                    bf16 += if info.dtype == DType::BF16 { n } else { 0 };
                }
            }
            if bf16 > all / 2 { GgmlType::BF16 } else { GgmlType::F16 }
        }
    }
}

/// `general.file_type`: the number that llama.cpp has for files that are mostly of a type.
pub fn file_type(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q8_0 => 7,
        _ => 32, // BF16, the last one that `resolve` returns
    }
}

/// The checkpoint's own sampling settings, from `generation_config.json`. They are hints: one that cannot be used is
/// left out, with a note.
fn write_sampling(folder: &Path, metadata: &mut Metadata) -> Result<Vec<String>, Error> {
    let path = folder.join("generation_config.json");
    let Some(settings) = checkpoint::read_json(&path)? else { return Ok(Vec::new()) };
    let settings = Config::new(settings).map_err(|error| error.in_file(&path))?;
    let mut notes = Vec::new();
    let mut left_out = |key: &str| {
        if let Some(value) = settings.get(key) {
            notes.push(format!("`{key}` in generation_config.json is {value}, which cannot be used; it is left out"));
        }
    };
    if let Some(top_k) = settings.u32_opt("top_k").ok().flatten().and_then(|top_k| i32::try_from(top_k).ok()) {
        metadata.insert("general.sampling.top_k", top_k);
    } else {
        left_out("top_k");
    }
    for (theirs, ours, range) in [
        ("top_p", "top_p", 0.0..=1.0),
        ("min_p", "min_p", 0.0..=1.0),
        ("temperature", "temp", 0.0..=f64::MAX),
        ("repetition_penalty", "penalty_repeat", f64::from(f32::MIN_POSITIVE)..=f64::MAX),
    ] {
        if let Some(value) = settings.f64_opt(theirs).ok().flatten().filter(|value| range.contains(value)) {
            metadata.insert(format!("general.sampling.{ours}"), value as f32);
        } else {
            left_out(theirs);
        }
    }
    Ok(notes)
}
