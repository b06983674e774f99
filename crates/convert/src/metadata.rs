//! The metadata that a file of each family has under its architecture's name.
//!
//! The keys are those that llama.cpp's converter writes for the family, and where the graph of `transformers` needs one
//! that it leaves out, that one, too (`docs/CONVERT.md` lists them). What no key can say is refused.

use std::path::{Component, Path};

use hublabio_gguf::Metadata;
use serde_json::Value;

use crate::checkpoint;
use crate::config::Config;
use crate::error::Error;
use crate::family::Family;
use crate::model::{Model, layer_types, positive};
use crate::rope::{self, Scaling};

impl Model {
    /// The architecture's metadata, and what the user should know of what it cannot say.
    pub fn write_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        if self.family.is_encoder() {
            // llama.cpp's converter counts them among the tokenizer's keys.
            metadata.insert("tokenizer.ggml.token_type_count", self.n_token_types);
        }
        let mut keys = Keys { arch: self.family.gguf_name(), metadata };
        keys.u32("block_count", self.n_layer);
        keys.u32("context_length", self.context);
        keys.u32("embedding_length", self.n_embd);
        keys.u32("feed_forward_length", self.n_ff);
        keys.u32("attention.head_count", self.n_head);
        if !self.family.is_encoder() {
            keys.u32("attention.head_count_kv", self.n_head_kv);
        }
        keys.f32(
            if self.family.has_layer_norm() {
                "attention.layer_norm_epsilon"
            } else {
                "attention.layer_norm_rms_epsilon"
            },
            self.norm_epsilon,
        );
        if self.says_head_dim {
            keys.u32("attention.key_length", self.head_dim);
            keys.u32("attention.value_length", self.head_dim);
        }
        match self.family {
            Family::Llama
            | Family::Mistral
            | Family::Mixtral
            | Family::SmolLm3
            | Family::Granite
            | Family::GraniteMoe => {
                keys.u32("vocab_size", self.n_vocab);
                keys.u32("rope.dimension_count", self.rope_dimensions());
                notes.extend(self.write_rope(&mut keys)?);
            }
            Family::Qwen2
            | Family::Qwen2Moe
            | Family::Qwen3
            | Family::Qwen3Moe
            | Family::Olmo2
            | Family::Starcoder2 => {
                notes.extend(self.write_rope(&mut keys)?);
            }
            Family::Phi3 => self.write_phi3(config, &mut keys)?,
            Family::Gemma => self.write_gemma_rope(&mut keys)?,
            Family::Gemma2 => {
                self.write_gemma_rope(&mut keys)?;
                for (key, default) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
                    keys.f32(key, soft_cap(config, key, default)?);
                }
                self.write_window(config, &mut keys, 2)?;
                notes.extend(self.write_attention_scale(config, &mut keys, 46)?);
            }
            Family::Gemma3 => {
                notes.extend(self.write_rope(&mut keys)?);
                if let Some(cap) = config.f64_opt("attn_logit_softcapping")? {
                    let advice = "Gemma 3 has no cap on attention logits: remove the key";
                    return Err(Error::bad_key("attn_logit_softcapping", cap, advice));
                }
                if let Some(cap) = config.f64_opt("final_logit_softcapping")?.filter(|&cap| cap != 0.0) {
                    keys.f32("final_logit_softcapping", cap);
                }
                self.write_window(config, &mut keys, 6)?;
                notes.extend(self.write_attention_scale(config, &mut keys, 62)?);
            }
            Family::StableLm => {
                keys.u32("rope.dimension_count", self.rope_dimensions());
                keys.bool("use_parallel_residual", self.parallel);
                // llama.cpp's converter leaves the base out: readers take 10000.
                if self.rope.base != 1e4 {
                    keys.f32("rope.freq_base", self.rope.base);
                }
                notes.extend(self.write_scaling(&mut keys)?);
            }
            Family::Phi => {
                keys.u32("rope.dimension_count", self.rope_dimensions());
                // As with StableLM.
                if self.rope.base != 1e4 {
                    keys.f32("rope.freq_base", self.rope.base);
                }
                notes.extend(self.write_scaling(&mut keys)?);
            }
            Family::Bert => keys.bool("attention.causal", false),
            Family::NomicBert => {
                keys.bool("attention.causal", false);
                notes.extend(self.write_rope(&mut keys)?);
            }
        }
        if self.family.is_granite() {
            write_granite(config, &mut keys)?;
        }
        notes.extend(self.write_experts(&mut keys));
        if let Some((window, windowed)) = self.window(config)? {
            keys.u32("attention.sliding_window", window);
            if windowed.contains(&false) {
                keys.metadata.insert(format!("{}.attention.sliding_window_pattern", keys.arch), windowed);
            }
            if window < self.context {
                notes.push(format!(
                    "the sliding window of {window} tokens is in the file; llama.cpp does not apply it to `{}` models",
                    keys.arch
                ));
            }
        }
        Ok(notes)
    }

    fn write_rope(&self, keys: &mut Keys<'_>) -> Result<Option<String>, Error> {
        if self.rope.partial != 1.0 {
            let advice = format!("a `{}` file cannot say that a part of a head rotates", keys.arch);
            return Err(Error::bad_key("partial_rotary_factor", self.rope.partial, advice));
        }
        keys.f32("rope.freq_base", self.rope.base);
        if let Some(base) = self.rope.base_local {
            keys.f32("rope.freq_base_swa", base);
        }
        self.write_scaling(keys)
    }

    /// The scaling of positions, and a note where only some readers know it in this architecture.
    fn write_scaling(&self, keys: &mut Keys<'_>) -> Result<Option<String>, Error> {
        match &self.rope.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => {
                keys.text("rope.scaling.type", "linear");
                keys.f32("rope.scaling.factor", *factor);
            }
            &Scaling::Yarn { factor, original, extrapolation, attention, fast, slow } => {
                keys.text("rope.scaling.type", "yarn");
                keys.f32("rope.scaling.factor", factor);
                keys.u32("rope.scaling.original_context_length", original);
                for (key, value) in [
                    ("rope.scaling.yarn_ext_factor", extrapolation),
                    ("rope.scaling.yarn_attn_factor", attention),
                    ("rope.scaling.yarn_beta_fast", fast),
                    ("rope.scaling.yarn_beta_slow", slow),
                ] {
                    if let Some(value) = value {
                        keys.f32(key, value);
                    }
                }
            }
            // It is a tensor.
            Scaling::Llama3 { .. } => return self.factors_note(keys.arch, "llama3"),
            Scaling::Long { original, .. } => {
                keys.text("rope.scaling.type", "longrope");
                keys.u32("rope.scaling.original_context_length", *original);
                self.write_long(keys)?;
                return self.factors_note(keys.arch, "longrope");
            }
        }
        Ok(None)
    }

    /// llama.cpp refuses the tensors of such a scaling in architectures whose published models have none.
    fn factors_note(&self, arch: &str, kind: &str) -> Result<Option<String>, Error> {
        if self.family.is_gemma() || self.family.is_encoder() {
            return Err(self.no_scaling(kind));
        }
        Ok((arch != "llama").then(|| {
            format!("the {kind} scaling of positions is in the file; llama.cpp does not know it in `{arch}` files")
        }))
    }

    fn write_experts(&self, keys: &mut Keys<'_>) -> Option<String> {
        let experts = self.experts?;
        keys.u32("expert_count", experts.count);
        keys.u32("expert_used_count", experts.used);
        if matches!(self.family, Family::Qwen2Moe | Family::Qwen3Moe) {
            keys.u32("expert_feed_forward_length", experts.n_ff);
        }
        if experts.n_ff_shared > 0 {
            keys.u32("expert_shared_feed_forward_length", experts.n_ff_shared);
        }
        // Readers divide the weights of the chosen experts by their sum, but for `qwen2moe`.
        let usual = self.family != Family::Qwen2Moe;
        if experts.normalized == usual {
            return None;
        }
        keys.bool("expert_weights_norm", experts.normalized);
        let does = if usual { "divides" } else { "does not divide" };
        Some(format!(
            "`norm_topk_prob` is {}, which the file says; llama.cpp {does} the experts' weights by their sum in every \
             `{}` model",
            experts.normalized, keys.arch
        ))
    }

    fn write_phi3(&self, config: &Config, keys: &mut Keys<'_>) -> Result<(), Error> {
        let original = match &self.rope.scaling {
            Scaling::Long { original, .. } => *original,
            // Without two lists of divisors nothing is chosen by it.
            _ => config.u32_opt("original_max_position_embeddings")?.unwrap_or(4096),
        };
        keys.u32("rope.scaling.original_context_length", original);
        keys.u32("rope.dimension_count", self.rope_dimensions());
        keys.f32("rope.freq_base", self.rope.base);
        // Zero says that there is none, as llama.cpp reads it.
        keys.u32("attention.sliding_window", config.u32_opt("sliding_window")?.unwrap_or(0));
        match &self.rope.scaling {
            Scaling::None => {}
            Scaling::Long { .. } => self.write_long(keys)?,
            _ => return Err(self.no_scaling("this kind of scaling")),
        }
        Ok(())
    }

    /// What goes with the two lists of divisors: they themselves are tensors.
    fn write_long(&self, keys: &mut Keys<'_>) -> Result<(), Error> {
        let Scaling::Long { short, long, original, attention } = &self.rope.scaling else { return Ok(()) };
        let expected = (self.rope_dimensions() / 2) as usize;
        for (key, list) in [("short_factor", short), ("long_factor", long)] {
            if list.len() != expected {
                let found = format!("a list of {} numbers", list.len());
                return Err(Error::bad_key(key, found, format!("expected {expected}, one for each frequency")));
            }
        }
        if *original < 2 {
            return Err(Error::bad_key("original_max_position_embeddings", original, "expected at least 2"));
        }
        let factor = match attention {
            Some(given) => *given,
            None => f64::from(rope::long_attention_factor(self.context, *original)),
        };
        keys.f32("rope.scaling.attn_factor", factor);
        Ok(())
    }

    /// Published models of Gemma 1 and 2 have θ = 10,000, which readers take where a file does not say it.
    fn write_gemma_rope(&self, keys: &mut Keys<'_>) -> Result<(), Error> {
        if self.rope.base != 1e4 {
            keys.f32("rope.freq_base", self.rope.base);
        }
        if self.rope.scaling == Scaling::None { Ok(()) } else { Err(self.no_scaling("scaling")) }
    }

    fn no_scaling(&self, what: &str) -> Error {
        let advice = format!("a `{}` file cannot say it: remove the scaling", self.family.gguf_name());
        Error::bad_key("rope_scaling", what, advice)
    }

    /// The sliding window, and every how many layers one attends to everything, where that is not `usual`.
    fn write_window(&self, config: &Config, keys: &mut Keys<'_>, usual: u32) -> Result<(), Error> {
        let pattern = self.window_pattern(config, usual)?;
        // A pattern of one is a model without a window; without the key, readers apply none.
        if pattern != 1 {
            if config.is_null("sliding_window") {
                let advice = format!(
                    "a `{}` file cannot say that there is no window, readers take 4096: set the window that the model \
                     was trained with, or remove the key if it is that of `transformers`, 4096",
                    self.family.gguf_name()
                );
                return Err(Error::bad_key("sliding_window", "null", advice));
            }
            let window = config.u32_opt("sliding_window")?.unwrap_or(4096);
            let window = positive(config, "sliding_window", window)?;
            keys.u32("attention.sliding_window", window);
        }
        if pattern != usual && pattern != 1 {
            keys.u32("attention.sliding_window_pattern", pattern);
        }
        if pattern == 1 && self.family == Family::Gemma2 {
            return Err(Error::bad_key("layer_types", "full_attention throughout", "Gemma 2 needs a sliding window"));
        }
        Ok(())
    }

    fn window_pattern(&self, config: &Config, usual: u32) -> Result<u32, Error> {
        let Some(full) = layer_types(config, self.n_layer)? else {
            let given = config.u32_opt("sliding_window_pattern")?.or(config.u32_opt("_sliding_window_pattern")?);
            return positive(config, "sliding_window_pattern", given.unwrap_or(usual));
        };
        let fits = |period: u32| full.iter().zip(1..).all(|(&full, layer)| full == u32::is_multiple_of(layer, period));
        std::iter::once(usual).chain(1..=self.n_layer + 1).find(|&period| fits(period)).ok_or_else(|| {
            let advice = "GGUF can say that every n-th layer attends to everything, not this order";
            Error::bad_key("layer_types", config.get("layer_types").unwrap_or(&Value::Null), advice)
        })
    }

    /// The scale of attention where it is another one than readers derive: 1/√head, of the one largest model
    /// 1/√(width / heads).
    fn write_attention_scale(
        &self,
        config: &Config,
        keys: &mut Keys<'_>,
        layers_of_largest: u32,
    ) -> Result<Option<String>, Error> {
        let key = "query_pre_attn_scalar";
        let scalar = config.f64_opt(key)?.unwrap_or(256.0);
        let derived = if self.n_layer == layers_of_largest { self.n_embd / self.n_head } else { self.head_dim };
        if scalar == f64::from(derived) {
            return Ok(None);
        }
        if scalar as f32 <= 0.0 {
            return Err(Error::bad_key(key, scalar, "expected a number above 0"));
        }
        keys.f32("attention.scale", scalar.sqrt().recip());
        Ok(Some(format!("`{key}` is {scalar}, which the file says; llama.cpp takes {derived} in a model of this size")))
    }
}

/// Factors of four places of the graph; `transformers` takes 1 where the configuration does not say.
fn write_granite(config: &Config, keys: &mut Keys<'_>) -> Result<(), Error> {
    for (theirs, ours) in [
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ] {
        let factor = config.f64_opt(theirs)?.unwrap_or(1.0);
        // Readers take zero for "no such factor", and divide by the last one.
        if factor as f32 == 0.0 {
            return Err(Error::bad_key(theirs, factor, "a `granite` file cannot say zero"));
        }
        keys.f32(ours, factor);
    }
    Ok(())
}

/// A cap that readers of `gemma2` always apply, whatever the file says.
fn soft_cap(config: &Config, key: &str, default: f64) -> Result<f64, Error> {
    let found = if config.is_null(key) { None } else { Some(config.f64_opt(key)?.unwrap_or(default)) };
    if let Some(cap) = found.filter(|&cap| cap as f32 > 0.0) {
        return Ok(cap);
    }
    let advice = format!(
        "a `gemma2` file cannot say that there is no cap, readers would apply {default}: set the cap that the model \
         was trained with, or remove the key if it is that one"
    );
    Err(Error::bad_key(key, found.map_or("null".to_owned(), |cap| cap.to_string()), advice))
}

/// `pooling_type`: how a text's tokens become one vector, from the folder of a `sentence-transformers` model. `None`
/// where the folder is of the encoder alone.
///
/// # Errors
/// A kind of pooling that GGUF has no number for.
pub fn pooling(folder: &Path) -> Result<Option<u32>, Error> {
    let modules_path = folder.join("modules.json");
    let Some(modules) = checkpoint::read_json(&modules_path)? else { return Ok(None) };
    let is_pooling =
        |module: &&Value| module.get("type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with(".Pooling"));
    let Some(module) = modules.as_array().into_iter().flatten().find(is_pooling) else { return Ok(None) };
    let name = module.get("path").and_then(Value::as_str).unwrap_or_default();
    let mut parts = Path::new(name).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        let problem = format!("the pooling is said to be in `{name}`, which is no folder's name");
        return Err(Error::malformed(problem, "fetch the checkpoint again").in_file(&modules_path));
    }
    let path = folder.join(name).join("config.json");
    let Some(settings) = checkpoint::read_json(&path)? else {
        let problem = format!("there is no {}", path.display());
        return Err(Error::malformed(problem, "fetch the checkpoint again").in_file(&modules_path));
    };
    let on = |key: &str| settings.get(key).and_then(Value::as_bool).unwrap_or(false);
    let mode = settings.get("pooling_mode").and_then(Value::as_str);
    let kinds = [("mean_tokens", "mean", 1), ("cls_token", "cls", 2), ("lasttoken", "lasttoken", 3)];
    let known: Vec<u32> = kinds
        .into_iter()
        .filter(|(old, new, _)| on(&format!("pooling_mode_{old}")) || mode == Some(new))
        .map(|kind| kind.2)
        .collect();
    // Several at once make a longer vector, one behind the other.
    let [kind] = known[..] else {
        let problem = "pooling is none of mean, first and last token, or several at once";
        return Err(Error::malformed(problem, "a file can say one of these three").in_file(&path));
    };
    Ok(Some(kind))
}

/// Metadata under the architecture's name.
struct Keys<'a> {
    arch: &'static str,
    metadata: &'a mut Metadata,
}

impl Keys<'_> {
    fn u32(&mut self, key: &str, value: u32) {
        self.metadata.insert(format!("{}.{key}", self.arch), value);
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.metadata.insert(format!("{}.{key}", self.arch), value as f32);
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.metadata.insert(format!("{}.{key}", self.arch), value);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.metadata.insert(format!("{}.{key}", self.arch), value);
    }
}
