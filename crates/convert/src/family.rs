//! What differs between model families: defaults of their configurations, and the metadata that a file of theirs has.
//!
//! Defaults are those of the configuration classes of `transformers`: published checkpoints leave out what has its
//! default. The keys are those that llama.cpp's converter writes for the family, no more and no fewer.

use hublabio_gguf::Metadata;
use serde_json::Value;

use crate::config::Config;
use crate::error::Error;
use crate::rope::{self, Rope, Scaling};

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the families' own names
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Phi3,
    Gemma,
    Gemma2,
    Gemma3,
}

/// The names under `architectures` in `config.json`.
const ARCHITECTURES: [(&str, Family); 9] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Mistral),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("Phi3ForCausalLM", Family::Phi3),
    ("GemmaForCausalLM", Family::Gemma),
    ("Gemma2ForCausalLM", Family::Gemma2),
    ("Gemma3ForCausalLM", Family::Gemma3),
    ("Gemma3ForConditionalGeneration", Family::Gemma3),
];

impl Family {
    /// The family of a name under `architectures`.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], which lists the known ones.
    pub fn of(architecture: &str) -> Result<Self, Error> {
        let found = ARCHITECTURES.iter().find(|row| row.0 == architecture);
        found.map(|row| row.1).ok_or_else(|| Error::UnknownArchitecture {
            found: architecture.to_owned(),
            known: ARCHITECTURES.iter().map(|row| row.0).collect(),
        })
    }

    /// `general.architecture`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Self::Llama | Self::Mistral => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Phi3 => "phi3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
        }
    }

    /// Whether the graph is one of the Gemmas.
    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }
}

/// A model's dimensions and settings, checked.
#[derive(Clone, Debug)]
pub struct Model {
    pub family: Family,
    pub n_layer: u32,
    pub n_embd: u32,
    pub n_ff: u32,
    pub n_head: u32,
    pub n_head_kv: u32,
    pub head_dim: u32,
    pub n_vocab: u32,
    pub context: u32,
    pub rms_epsilon: f64,
    /// Whether the embeddings are the output matrix, too.
    pub tied: bool,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub rope: Rope,
    /// Whether the file says how long a head is. Qwen2 has no such key unless its configuration does.
    says_head_dim: bool,
}

/// No published model has as many layers; a limit keeps a hostile count from filling the memory with names.
const MAX_LAYERS: u32 = 4096;

/// No published model has as many tokens; each costs memory here before any weight is read.
const MAX_VOCAB: u32 = 4 << 20;

impl Model {
    /// Reads a configuration.
    pub fn read(family: Family, config: &Config) -> Result<Self, Error> {
        refuse_unsupported(family, config)?;
        let is = |other: Family| family == other;
        let or_default = |key: &str, default: Option<u32>| match (config.u32_opt(key)?, default) {
            (Some(value), _) | (None, Some(value)) => Ok(value),
            (None, None) => config.u32(key),
        };
        let n_embd = positive(config, "hidden_size", config.u32("hidden_size")?)?;
        let n_head = or_default("num_attention_heads", is(Family::Gemma3).then_some(8))?;
        let n_head = positive(config, "num_attention_heads", n_head)?;
        let kv_default = match family {
            Family::Llama | Family::Phi3 => Some(n_head),
            Family::Mistral => Some(8),
            Family::Gemma3 => Some(4),
            _ => None,
        };
        let n_head_kv = positive(config, "num_key_value_heads", or_default("num_key_value_heads", kv_default)?)?;
        if !n_head.is_multiple_of(n_head_kv) {
            let advice = format!("expected a divisor of the {n_head} attention heads");
            return Err(Error::bad_key("num_key_value_heads", n_head_kv, advice));
        }
        let given_head_dim = config.u32_opt("head_dim")?;
        let head_dim = match (given_head_dim, family) {
            // Phi3's graph has no such setting.
            (Some(head_dim), family) if family != Family::Phi3 => head_dim,
            (_, Family::Qwen3) => 128,
            (_, Family::Gemma | Family::Gemma2 | Family::Gemma3) => 256,
            _ if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            _ => {
                let advice = format!("{n_head} heads do not divide it: set head_dim");
                return Err(Error::bad_key("hidden_size", n_embd, advice));
            }
        };
        if n_head.checked_mul(head_dim).is_none() {
            let advice = format!("with {n_head} heads, attention would have 2^32 dimensions or more");
            return Err(Error::bad_key("head_dim", head_dim, advice));
        }
        let n_layer = positive(config, "num_hidden_layers", config.u32("num_hidden_layers")?)?;
        if n_layer > MAX_LAYERS {
            return Err(Error::bad_key("num_hidden_layers", n_layer, format!("at most {MAX_LAYERS} are converted")));
        }
        let n_vocab = or_default("vocab_size", is(Family::Gemma3).then_some(262_208))?;
        if n_vocab > MAX_VOCAB {
            return Err(Error::bad_key("vocab_size", n_vocab, format!("at most {MAX_VOCAB} are converted")));
        }
        let (base, base_local) = if is(Family::Gemma3) { (1e6, Some(1e4)) } else { (1e4, None) };
        let mut rope = Rope::read(config, base, base_local)?;
        if !is(Family::Gemma3) {
            rope.base_local = None;
        }
        Ok(Self {
            family,
            n_layer,
            n_embd,
            n_ff: positive(config, "intermediate_size", config.u32("intermediate_size")?)?,
            n_head,
            n_head_kv,
            head_dim: positive(config, "head_dim", head_dim)?,
            n_vocab: positive(config, "vocab_size", n_vocab)?,
            context: or_default("max_position_embeddings", is(Family::Gemma3).then_some(131_072))?,
            rms_epsilon: config.f64_opt("rms_norm_eps")?.unwrap_or(if is(Family::Phi3) { 1e-5 } else { 1e-6 }),
            tied: config.bool_opt("tie_word_embeddings")?.unwrap_or(family.is_gemma()),
            attention_bias: config.bool_opt("attention_bias")?.unwrap_or(false),
            mlp_bias: config.bool_opt("mlp_bias")?.unwrap_or(false),
            rope,
            says_head_dim: given_head_dim.is_some() || family != Family::Qwen2,
        })
    }

    /// Dimensions of a head that rotate.
    pub fn rope_dimensions(&self) -> u32 {
        match self.family {
            // In the order in which the configuration's users round.
            Family::Phi3 => (self.rope.partial * f64::from(self.n_embd)) as u32 / self.n_head,
            _ => self.head_dim,
        }
    }

    /// The architecture's metadata, and what the user should know of what it cannot say.
    pub fn write_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        let mut keys = Keys { arch: self.family.gguf_name(), metadata };
        keys.u32("block_count", self.n_layer);
        keys.u32("context_length", self.context);
        keys.u32("embedding_length", self.n_embd);
        keys.u32("feed_forward_length", self.n_ff);
        keys.u32("attention.head_count", self.n_head);
        keys.u32("attention.head_count_kv", self.n_head_kv);
        keys.f32("attention.layer_norm_rms_epsilon", self.rms_epsilon);
        if self.says_head_dim && self.family != Family::Phi3 {
            keys.u32("attention.key_length", self.head_dim);
            keys.u32("attention.value_length", self.head_dim);
        }
        match self.family {
            Family::Llama | Family::Mistral => {
                keys.u32("vocab_size", self.n_vocab);
                keys.u32("rope.dimension_count", self.rope_dimensions());
                self.write_rope(&mut keys)?;
                let window = match config.u32_opt("sliding_window")? {
                    None if self.family == Family::Mistral && !config.is_null("sliding_window") => Some(4096),
                    window => window,
                };
                if let Some(window) = window
                    && window < self.context
                {
                    notes.push(format!(
                        "the sliding window of {window} tokens has no place in a `llama` file: beyond it, \
                         attention goes further back than the model was trained for"
                    ));
                }
            }
            Family::Qwen2 | Family::Qwen3 => {
                self.write_rope(&mut keys)?;
                if config.bool_opt("use_sliding_window")?.unwrap_or(false) {
                    notes.push("the sliding window has no place in this format and is off in the file".to_owned());
                }
            }
            Family::Phi3 => self.write_phi3(config, &mut keys)?,
            Family::Gemma => self.refuse_rope_changes()?,
            Family::Gemma2 => {
                self.refuse_rope_changes()?;
                for (key, default) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
                    keys.f32(key, soft_cap(config, key, default)?);
                }
                self.write_window(config, &mut keys, 2)?;
                self.check_attention_scale(config, 46)?;
            }
            Family::Gemma3 => {
                self.write_rope(&mut keys)?;
                if let Some(cap) = config.f64_opt("attn_logit_softcapping")? {
                    let advice = "Gemma 3 has no cap on attention logits: remove the key";
                    return Err(Error::bad_key("attn_logit_softcapping", cap, advice));
                }
                if let Some(cap) = config.f64_opt("final_logit_softcapping")?.filter(|&cap| cap != 0.0) {
                    keys.f32("final_logit_softcapping", cap);
                }
                self.write_window(config, &mut keys, 6)?;
                self.check_attention_scale(config, 62)?;
            }
        }
        Ok(notes)
    }

    fn write_rope(&self, keys: &mut Keys<'_>) -> Result<(), Error> {
        if self.rope.partial != 1.0 {
            let advice = format!("a `{}` file cannot say that a part of a head rotates", keys.arch);
            return Err(Error::bad_key("partial_rotary_factor", self.rope.partial, advice));
        }
        keys.f32("rope.freq_base", self.rope.base);
        if let Some(base) = self.rope.base_local {
            keys.f32("rope.freq_base_swa", base);
        }
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
            Scaling::Llama3 { .. } if keys.arch == "llama" => {} // It is a tensor.
            Scaling::Llama3 { .. } => return Err(self.no_scaling("llama3")),
            Scaling::Long { .. } => return Err(self.no_scaling("longrope")),
        }
        Ok(())
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
            Scaling::Long { short, long, .. } => {
                let expected = (self.rope_dimensions() / 2) as usize;
                for (key, list) in [("short_factor", short), ("long_factor", long)] {
                    if list.len() != expected {
                        let found = format!("a list of {} numbers", list.len());
                        return Err(Error::bad_key(key, found, format!("expected {expected}, one for each frequency")));
                    }
                }
                if original < 2 {
                    return Err(Error::bad_key("original_max_position_embeddings", original, "expected at least 2"));
                }
                let factor = rope::long_attention_factor(self.context, original);
                keys.f32("rope.scaling.attn_factor", f64::from(factor));
            }
            _ => return Err(self.no_scaling("this kind of scaling")),
        }
        Ok(())
    }

    /// Files of Gemma 1 and 2 say nothing about rotation: readers take θ = 10,000 and no scaling.
    fn refuse_rope_changes(&self) -> Result<(), Error> {
        if self.rope.base != 1e4 {
            let advice = format!("a `{}` file cannot say it, readers take 10000", self.family.gguf_name());
            return Err(Error::bad_key("rope_theta", self.rope.base, advice));
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
        let Some(types) = config.get("layer_types") else {
            let given = config.u32_opt("sliding_window_pattern")?.or(config.u32_opt("_sliding_window_pattern")?);
            return positive(config, "sliding_window_pattern", given.unwrap_or(usual));
        };
        let bad = |advice: &str| Error::bad_key("layer_types", types, advice);
        let list = types.as_array().filter(|list| list.len() == self.n_layer as usize);
        let list = list.ok_or_else(|| bad("expected one entry for each layer"))?;
        let full: Vec<bool> = list
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(true),
                Some("sliding_attention") => Ok(false),
                _ => Err(bad("expected full_attention or sliding_attention")),
            })
            .collect::<Result<_, _>>()?;
        let fits = |period: u32| full.iter().zip(1..).all(|(&full, layer)| full == u32::is_multiple_of(layer, period));
        std::iter::once(usual)
            .chain(1..=self.n_layer + 1)
            .find(|&period| fits(period))
            .ok_or_else(|| bad("GGUF can say that every n-th layer attends to everything, not this order"))
    }

    /// Files do not hold the scale of attention: readers take 1/√head, of the one largest model 1/√(width / heads).
    fn check_attention_scale(&self, config: &Config, layers_of_largest: u32) -> Result<(), Error> {
        let scalar = config.f64_opt("query_pre_attn_scalar")?.unwrap_or(256.0);
        let read = if self.n_layer == layers_of_largest { self.n_embd / self.n_head } else { self.head_dim };
        if scalar == f64::from(read) {
            return Ok(());
        }
        let advice =
            format!("a `{}` file of this size means {read}, and cannot say anything else", self.family.gguf_name());
        Err(Error::bad_key("query_pre_attn_scalar", scalar, advice))
    }
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

fn positive(config: &Config, key: &str, value: u32) -> Result<u32, Error> {
    let found = config.get(key).cloned().unwrap_or(Value::from(value));
    if value > 0 { Ok(value) } else { Err(Error::bad_key(key, found, "expected a number above 0")) }
}

/// Settings under which the family's graph is another one than GGUF means.
fn refuse_unsupported(family: Family, config: &Config) -> Result<(), Error> {
    if let Some(quantization) = config.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        let advice = "the weights are quantized already: get the checkpoint in F16, BF16 or F32";
        return Err(Error::bad_key("quantization_config", format!("`{method}`"), advice));
    }
    let key =
        if family.is_gemma() && config.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
    let expected: &[&str] = match family {
        // The first checkpoints say `gelu` and mean its tanh form, as `transformers` reads them. The newer key means
        // what it says.
        Family::Gemma if key == "hidden_act" => &["gelu_pytorch_tanh", "gelu"],
        Family::Gemma | Family::Gemma2 | Family::Gemma3 => &["gelu_pytorch_tanh"],
        _ => &["silu"],
    };
    if let Some(found) = config.str_opt(key)?
        && !expected.contains(&found)
    {
        return Err(Error::bad_key(key, format!("`{found}`"), format!("a file of this kind means {}", expected[0])));
    }
    if config.bool_opt("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(Error::bad_key("use_bidirectional_attention", true, "only causal models can be converted"));
    }
    Ok(())
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

    fn text(&mut self, key: &str, value: &str) {
        self.metadata.insert(format!("{}.{key}", self.arch), value);
    }
}
