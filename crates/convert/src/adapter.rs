//! A PEFT adapter folder to a GGUF adapter, in the form that llama.cpp's converter gives it.
//!
//! An adapter names matrices of its base model and holds two thin ones for each: A `[rank, columns]` and B
//! `[rows, rank]`, of which B · A, times alpha / rank, is added to the base's matrix. The file has the base's
//! architecture, no tokenizer, and `NAME.lora_a` and `NAME.lora_b` under the names of the base's own file. Where the rows
//! of the base's matrix are reordered, those of B are, too. Of the base only `config.json` is read.
//!
//! What this form cannot say (weights that were trained as a whole, `DoRA`, biases, experts, …) is refused by the name of
//! the setting. Source: the `LoraConfig` of `peft`; Hu et al. 2021 (arXiv:2106.09685).

use std::collections::BTreeMap;
use std::path::Path;

use hublabio_gguf::{Metadata, Writer};
use serde_json::Value;

use crate::checkpoint::{self, Place, Weights};
use crate::config::Config;
use crate::error::Error;
use crate::family::Family;
use crate::model::{Model, positive};
use crate::plan::{OutputType, Plan, file_type, fitting, resolve};
use crate::rules::{Form, Rule, rules};
use crate::tensors::{Change, Part, Source, Tensor, spellings};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What `peft` puts in front of the base's own name.
const PREFIX: &str = "base_model.model.";

/// The largest rank that is read. Published adapters have up to 256; a full matrix has some thousand.
const MAX_RANK: u32 = 1 << 16;

impl Plan {
    /// Reads the folder of a PEFT adapter (`adapter_config.json`, `adapter_model.safetensors`) that was made for the
    /// model of the folder `base`. With [`OutputType::Auto`] the matrices are F32.
    ///
    /// # Errors
    /// Whatever is wrong with the folders, and settings that a GGUF adapter cannot express, by name.
    pub fn adapter(folder: &Path, base: &Path, ty: OutputType) -> Result<Self, Error> {
        let (config, in_config) = read_config(folder, CONFIG, "give the folder of a PEFT adapter")?;
        let settings = Settings::read(&config).map_err(|error| error.in_file(&in_config))?;
        let (config, in_base) = read_config(base, "config.json", "give the folder of the adapter's base with --base")?;
        let of_base = |error: Error| error.in_file(&in_base);
        let family = config.architecture().and_then(Family::of).map_err(of_base)?;
        let model = Model::read(family, &config).map_err(of_base)?;

        let weights = Weights::open_file(&folder.join(WEIGHTS))?;
        let pairs = pairs(&model, &weights)?;
        let alpha = settings.alpha(&pairs).map_err(|error| error.in_file(&in_config))?;

        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", family.gguf_name());
        metadata.insert("general.type", "adapter");
        if let Some(name) = checkpoint::folder_name(folder) {
            metadata.insert("general.name", name);
        }
        metadata.insert("adapter.type", "lora");
        metadata.insert("adapter.lora.alpha", alpha);

        let tensors: Vec<Tensor> = pairs.into_iter().flat_map(Pair::tensors).collect();
        let ty = resolve(if ty == OutputType::Auto { OutputType::F32 } else { ty }, &tensors, &weights);
        metadata.insert("general.file_type", file_type(ty));
        metadata.insert("general.quantization_version", 2u32);
        let mut notes = Vec::new();
        let mut writer = Writer::with_metadata(metadata);
        let mut typed = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let its = fitting(&tensor, ty, &mut notes);
            let dims: Vec<u64> = tensor.shape.iter().rev().copied().collect();
            writer.add_tensor(&tensor.name, &dims, its)?;
            typed.push((tensor, its));
        }
        Ok(Self { folder: folder.to_path_buf(), writer, tensors: typed, weights, family, ty, notes })
    }
}

fn read_config(folder: &Path, name: &str, advice: &'static str) -> Result<(Config, std::path::PathBuf), Error> {
    let path = folder.join(name);
    let document = checkpoint::read_json(&path)?
        .ok_or_else(|| Error::malformed(format!("there is no {name} in {}", folder.display()), advice))?;
    let config = Config::new(document).map_err(|error| error.in_file(&path))?;
    Ok((config, path))
}

/// The settings of an adapter that its file says, or that decide what it says.
struct Settings {
    alpha: f64,
    /// Whether B · A is scaled by alpha / √rank instead of alpha / rank (Kalajdzievski 2023, arXiv:2312.03732).
    root_of_rank: bool,
}

impl Settings {
    fn read(config: &Config) -> Result<Self, Error> {
        let kind = config.str_opt("peft_type")?.unwrap_or("LORA");
        if kind != "LORA" {
            return Err(Error::bad_key("peft_type", format!("`{kind}`"), "only LORA adapters can be converted"));
        }
        // (setting, what it means for the file)
        for (key, advice) in [
            ("use_dora", "a GGUF adapter has no magnitudes: merge it into its base with `merge_and_unload`"),
            ("use_qalora", "a GGUF adapter has no pooled inputs: merge it into its base"),
            ("use_bdlora", "a GGUF adapter has no blocks: merge it into its base"),
            ("lora_bias", "a GGUF adapter has no biases: merge it into its base"),
            ("fan_in_fan_out", "matrices of the base would be transposed: no family here has such"),
            ("modules_to_save", "a GGUF adapter has no whole layers: merge it into its base"),
            ("trainable_token_indices", "a GGUF adapter has no single embeddings: merge it into its base"),
            ("layer_replication", "a GGUF adapter repeats no layers: merge it into its base"),
            ("target_parameters", "adapters of stacked experts are not converted: merge it into its base"),
            ("alpha_pattern", "a GGUF adapter has one alpha for all matrices: merge it into its base"),
            ("kasa_config", "a GGUF adapter has no singular values: merge it into its base"),
            ("velora_config", "a GGUF adapter has no projections of inputs: merge it into its base"),
            ("monteclora_config", "a GGUF adapter has no samples: merge it into its base"),
            ("arrow_config", "it routes among other adapters: convert each of them"),
            ("megatron_config", "weights of Megatron are laid out otherwise"),
            ("alora_invocation_tokens", "it would work from the first token on, not from these"),
        ] {
            if let Some(found) = config.get(key).filter(|found| is_set(found)) {
                return Err(Error::bad_key(key, found, advice));
            }
        }
        if let Some(bias) = config.str_opt("bias")?.filter(|&bias| bias != "none") {
            return Err(Error::bad_key(
                "bias",
                format!("`{bias}`"),
                "a GGUF adapter has no biases: merge it into its base",
            ));
        }
        // These begin with another base than the one that the adapter is for.
        match config.get("init_lora_weights") {
            Some(Value::String(how)) if !["gaussian", "eva", "orthogonal"].contains(&how.as_str()) => {
                let advice = "such an adapter belongs to changed base weights: convert it in `peft` first";
                return Err(Error::bad_key("init_lora_weights", format!("`{how}`"), advice));
            }
            _ => {}
        }
        let rank = positive(config, "r", config.u32_opt("r")?.unwrap_or(8))?;
        if rank > MAX_RANK {
            return Err(Error::bad_key("r", rank, format!("at most {MAX_RANK} is converted")));
        }
        let alpha = config.f64_opt("lora_alpha")?.unwrap_or(8.0);
        Ok(Self { alpha, root_of_rank: config.bool_opt("use_rslora")?.unwrap_or(false) })
    }

    /// `adapter.lora.alpha`: readers divide it by the rank of each pair.
    fn alpha(&self, pairs: &[Pair]) -> Result<f32, Error> {
        if !self.root_of_rank {
            return Ok(self.alpha as f32);
        }
        let rank = pairs.first().map_or(1, |pair| pair.rank);
        if pairs.iter().any(|pair| pair.rank != rank) {
            let advice = "with matrices of several ranks one alpha cannot say it: merge the adapter into its base";
            return Err(Error::bad_key("use_rslora", true, advice));
        }
        Ok((self.alpha * (rank as f64).sqrt()) as f32)
    }
}

/// Whether a setting is more than its "no": `false`, nothing, an empty list or object.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// The two matrices that belong to one of the base.
struct Pair {
    /// The base's matrix: name in its file, and shape `[rows, columns]`.
    rule: Rule,
    rank: u64,
    a: Place,
    b: Place,
}

impl Pair {
    fn tensors(self) -> [Tensor; 2] {
        let tensor = |end: &str, shape: [u64; 2], place, change| Tensor {
            name: format!("{}{end}", self.rule.ours),
            source: Source::Checkpoint { parts: vec![Part { place, first_row: 0, rows: shape[0] }], change },
            shape: shape.to_vec(),
        };
        let [rows, columns] = self.rule.shape[..] else { unreachable!("`pairs` takes matrices only") };
        [
            tensor(".lora_a", [self.rank, columns], self.a, Change::Keep),
            tensor(".lora_b", [rows, self.rank], self.b, self.rule.change),
        ]
    }
}

/// All pairs in the order of the base's tensors. Every tensor of the adapter belongs to one.
fn pairs(model: &Model, weights: &Weights) -> Result<Vec<Pair>, Error> {
    let mut found: BTreeMap<String, [Option<Place>; 2]> = BTreeMap::new();
    let mut unknown = Vec::new();
    for name in weights.names() {
        let inner = name.strip_prefix(PREFIX).unwrap_or(name);
        let which = [".lora_A.weight", ".lora_B.weight"].into_iter().zip(0..);
        match which.into_iter().find_map(|(end, which)| Some((inner.strip_suffix(end)?, which))) {
            Some((module, which)) => {
                found.entry(format!("{module}.weight")).or_default()[which] = weights.find(name);
            }
            None => unknown.push(name.to_owned()),
        }
    }
    let mut pairs = Vec::new();
    let mut missing = Vec::new();
    // A mixture has a rule for a whole stack, which no pair can be of.
    for rule in rules(model).into_iter().filter(|rule| rule.shape.len() == 2) {
        let Form::Whole(name) = &rule.forms[0] else { continue };
        let Some((name, pair)) =
            spellings(model.family, name).into_iter().find_map(|name| found.remove(&name).map(|pair| (name, pair)))
        else {
            continue;
        };
        let module = name.trim_end_matches(".weight");
        let [Some(a), Some(b)] = pair else {
            let which = if pair[0].is_none() { "A" } else { "B" };
            missing.push(format!("{PREFIX}{module}.lora_{which}.weight"));
            continue;
        };
        let rank = rank(weights, &rule, [a, b])?;
        pairs.push(Pair { rule, rank, a, b });
    }
    unknown.extend(found.into_keys().map(|name| format!("{PREFIX}{}.lora_A.weight", name.trim_end_matches(".weight"))));
    if !unknown.is_empty() {
        return Err(Error::NotOfBase { names: unknown });
    }
    if !missing.is_empty() {
        return Err(Error::MissingTensors { names: missing });
    }
    if pairs.is_empty() {
        return Err(Error::malformed("the adapter holds no matrices", "fetch it again"));
    }
    Ok(pairs)
}

/// The rank of a pair that fits the base's matrix.
fn rank(weights: &Weights, rule: &Rule, [a, b]: [Place; 2]) -> Result<u64, Error> {
    let [rows, columns] = rule.shape[..] else { unreachable!("`pairs` takes matrices only") };
    let rank = weights.info(a).shape.first().copied().unwrap_or(0);
    for (place, expected) in [(a, [rank, columns]), (b, [rows, rank])] {
        let info = weights.info(place);
        let bad = |problem: String, advice| Error::Tensor { name: info.name.clone(), problem, advice };
        if info.shape != expected || rank == 0 || rank > u64::from(MAX_RANK) {
            let problem = format!(
                "its shape is {:?}, the base's matrix is {rows} × {columns} and the pair's rank {rank}",
                info.shape
            );
            return Err(bad(problem, "this adapter is for another base: give that one with --base"));
        }
        if !info.dtype.is_float() {
            let problem = format!("its numbers are {}", info.dtype.name());
            return Err(bad(problem, "F64, F32, F16 and BF16 can be converted: get the adapter in one of them"));
        }
    }
    Ok(rank)
}
