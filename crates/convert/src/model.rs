//! A model's dimensions and settings, read from its configuration and checked.
//!
//! Defaults are those of the configuration classes of `transformers`: published checkpoints leave out what has its
//! default.

use serde_json::Value;

use crate::config::{Config, as_f64};
use crate::error::Error;
use crate::family::Family;
use crate::rope::Rope;

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
    /// ε of the norms, `LayerNorm`'s or `RMSNorm`'s.
    pub norm_epsilon: f64,
    /// Whether the embeddings are the output matrix, too.
    pub tied: bool,
    /// Biases of Q, K and V.
    pub qkv_bias: bool,
    /// Bias of attention's output matrix.
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// `StableLM` only: norms of Q and K, each head with weights of its own.
    pub head_norms: bool,
    /// `StableLM` and Phi only: attention and feed-forward read the same norm.
    pub parallel: bool,
    pub experts: Option<Experts>,
    /// Kinds of text that an encoder tells apart, each with a row that is added to its tokens.
    pub n_token_types: u32,
    pub rope: Rope,
    /// Whether the file says how long a head is: where it is not width / heads by the family's own rule.
    pub says_head_dim: bool,
}

/// A sparse mixture of experts.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    pub count: u32,
    /// How many take part in each token.
    pub used: u32,
    /// Width of one expert.
    pub n_ff: u32,
    /// Width of the expert that always takes part; 0 for none.
    pub n_ff_shared: u32,
    /// Whether the weights of those that take part are divided by their sum.
    pub normalized: bool,
}

/// No published model has as many layers; a limit keeps a hostile count from filling the memory with names.
const MAX_LAYERS: u32 = 4096;

/// No published model has as many tokens; each costs memory here before any weight is read.
const MAX_VOCAB: u32 = 4 << 20;

/// No published model has as many experts in a layer.
const MAX_EXPERTS: u32 = 4096;

impl Model {
    /// Reads a configuration.
    pub fn read(family: Family, config: &Config) -> Result<Self, Error> {
        refuse_unsupported(family, config)?;
        let is = |other: Family| family == other;
        let names = Names { of_nomic: is(Family::NomicBert) && config.get("hidden_size").is_none() };
        let or_default = |key: &str, default: Option<u32>| match (config.u32_opt(key)?, default) {
            (Some(value), _) | (None, Some(value)) => Ok(value),
            (None, None) => config.u32(key),
        };
        let required = |key: &str| positive(config, names.of(key), config.u32(names.of(key))?);
        let n_embd = required("hidden_size")?;
        let heads_key = names.of("num_attention_heads");
        let n_head = or_default(heads_key, is(Family::Gemma3).then_some(8))?;
        let n_head = positive(config, heads_key, n_head)?;
        let kv_default = match family {
            Family::Llama | Family::Phi3 | Family::Olmo2 | Family::Granite | Family::GraniteMoe | Family::Phi => {
                Some(n_head)
            }
            Family::Mistral | Family::Mixtral => Some(8),
            Family::Gemma3 | Family::Qwen3Moe | Family::SmolLm3 => Some(4),
            Family::Starcoder2 => Some(2),
            Family::Qwen2Moe => Some(16),
            Family::StableLm => Some(32),
            _ => None,
        };
        let n_head_kv = if family.is_encoder() { n_head } else { or_default("num_key_value_heads", kv_default)? };
        let n_head_kv = positive(config, "num_key_value_heads", n_head_kv)?;
        if !n_head.is_multiple_of(n_head_kv) {
            let advice = format!("expected a divisor of the {n_head} attention heads");
            return Err(Error::bad_key("num_key_value_heads", n_head_kv, advice));
        }
        // Some graphs have no such setting.
        let fixed_head =
            matches!(family, Family::Phi3 | Family::StableLm | Family::Starcoder2 | Family::Phi | Family::Bert);
        let given_head_dim = config.u32_opt("head_dim")?.filter(|_| !fixed_head);
        let head_dim = match (given_head_dim, family) {
            (Some(head_dim), _) => head_dim,
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
        let n_layer = required("num_hidden_layers")?;
        if n_layer > MAX_LAYERS {
            return Err(Error::bad_key("num_hidden_layers", n_layer, format!("at most {MAX_LAYERS} are converted")));
        }
        let n_vocab = or_default("vocab_size", is(Family::Gemma3).then_some(262_208))?;
        if n_vocab > MAX_VOCAB {
            return Err(Error::bad_key("vocab_size", n_vocab, format!("at most {MAX_VOCAB} are converted")));
        }
        let n_ff = required("intermediate_size")?;
        let (attention_bias, mlp_bias) = biases(family, config)?;
        Ok(Self {
            family,
            n_layer,
            n_embd,
            n_ff,
            n_head,
            n_head_kv,
            head_dim: positive(config, "head_dim", head_dim)?,
            n_vocab: positive(config, "vocab_size", n_vocab)?,
            context: context(family, config, &names)?,
            norm_epsilon: norm_epsilon(family, config)?,
            tied: config
                .bool_opt("tie_word_embeddings")?
                .unwrap_or(family.is_gemma() || matches!(family, Family::SmolLm3 | Family::Starcoder2)),
            qkv_bias: attention_bias.0,
            output_bias: attention_bias.1,
            mlp_bias,
            head_norms: is(Family::StableLm) && config.bool_opt("qk_layernorm")?.unwrap_or(false),
            parallel: is(Family::Phi)
                || is(Family::StableLm) && config.bool_opt("use_parallel_residual")?.unwrap_or(false),
            experts: if family.has_experts() { Some(Experts::read(family, config, n_ff)?) } else { None },
            n_token_types: if family.is_encoder() { token_types(config)? } else { 0 },
            rope: read_rope(family, config)?,
            says_head_dim: match family {
                _ if fixed_head => false,
                Family::Qwen2
                | Family::Qwen2Moe
                | Family::Qwen3Moe
                | Family::Mixtral
                | Family::SmolLm3
                | Family::Olmo2
                | Family::NomicBert => given_head_dim.is_some(),
                // llama.cpp's converter never says it; readers take width / heads.
                Family::Granite | Family::GraniteMoe => u64::from(head_dim) * u64::from(n_head) != u64::from(n_embd),
                _ => true,
            },
        })
    }

    /// Dimensions of a head that rotate.
    pub fn rope_dimensions(&self) -> u32 {
        match self.family {
            // In the order in which the configuration's users round.
            Family::Phi3 => (self.rope.partial * f64::from(self.n_embd)) as u32 / self.n_head,
            Family::StableLm | Family::Phi => (self.rope.partial * f64::from(self.head_dim)) as u32,
            _ => self.head_dim,
        }
    }

    /// The window of attention, where the model has one, and whether a layer sees only it.
    ///
    /// Only for the families whose layers are listed one by one; the Gemmas have a period.
    pub fn window(&self, config: &Config) -> Result<Option<(u32, Vec<bool>)>, Error> {
        let all = |window: u32| Some((window, vec![true; self.n_layer as usize]));
        let window = |default: Option<u32>| -> Result<Option<u32>, Error> {
            let window = match config.u32_opt("sliding_window")? {
                None if !config.is_null("sliding_window") => default,
                window => window,
            };
            window.map(|window| positive(config, "sliding_window", window)).transpose()
        };
        Ok(match self.family {
            Family::Mistral => window(Some(4096))?.and_then(all),
            Family::Mixtral | Family::Starcoder2 => window(None)?.and_then(all),
            Family::Qwen2 | Family::Qwen2Moe | Family::Qwen3 | Family::Qwen3Moe
                if config.bool_opt("use_sliding_window")?.unwrap_or(false) =>
            {
                let Some(window) = window(Some(4096))? else { return Ok(None) };
                let dense = config.u32_opt("max_window_layers")?.unwrap_or(28);
                let windowed = match (layer_types(config, self.n_layer)?, self.family) {
                    // Its graph has one kind of layers, whatever the configuration lists.
                    (_, Family::Qwen3Moe) => vec![true; self.n_layer as usize],
                    (Some(full), _) => full.into_iter().map(|full| !full).collect(),
                    (None, Family::Qwen2Moe) => {
                        (0..self.n_layer).map(|layer| layer.is_multiple_of(2) && layer < dense).collect()
                    }
                    (None, _) => (0..self.n_layer).map(|layer| layer >= dense).collect(),
                };
                windowed.contains(&true).then_some((window, windowed))
            }
            _ => None,
        })
    }
}

impl Experts {
    fn read(family: Family, config: &Config, n_ff: u32) -> Result<Self, Error> {
        let (count, used) = match family {
            Family::Qwen2Moe => (60, 4),
            Family::Qwen3Moe => (128, 8),
            _ => (8, 2),
        };
        let key = if config.get("num_local_experts").is_some() { "num_local_experts" } else { "num_experts" };
        let count = positive(config, key, config.u32_opt(key)?.unwrap_or(count))?;
        if count > MAX_EXPERTS {
            return Err(Error::bad_key(key, count, format!("at most {MAX_EXPERTS} are converted")));
        }
        let used_key = "num_experts_per_tok";
        let used = positive(config, used_key, config.u32_opt(used_key)?.unwrap_or(used))?;
        if used > count {
            return Err(Error::bad_key(used_key, used, format!("there are {count} experts")));
        }
        let width = |key: &str, default| positive(config, key, config.u32_opt(key)?.unwrap_or(default));
        let (n_ff, n_ff_shared, normalized) = match family {
            Family::Qwen2Moe => (
                width("moe_intermediate_size", 1408)?,
                width("shared_expert_intermediate_size", 5632)?,
                config.bool_opt("norm_topk_prob")?.unwrap_or(false),
            ),
            Family::Qwen3Moe => {
                (width("moe_intermediate_size", 768)?, 0, config.bool_opt("norm_topk_prob")?.unwrap_or(false))
            }
            _ => (n_ff, 0, true),
        };
        Ok(Self { count, used, n_ff, n_ff_shared, normalized })
    }
}

/// What a setting is called: the first configurations of nomic-embed-text have names of their own.
struct Names {
    of_nomic: bool,
}

impl Names {
    fn of<'a>(&self, key: &'a str) -> &'a str {
        match key {
            _ if !self.of_nomic => key,
            "hidden_size" => "n_embd",
            "num_hidden_layers" => "n_layer",
            "num_attention_heads" => "n_head",
            "intermediate_size" => "n_inner",
            "max_position_embeddings" => "n_positions",
            key => key,
        }
    }
}

/// Whether Q, K and V have biases, whether attention's output matrix has one; and those of the feed-forward layer.
fn biases(family: Family, config: &Config) -> Result<((bool, bool), bool), Error> {
    let flag = |key: &str, default| Ok::<bool, Error>(config.bool_opt(key)?.unwrap_or(default));
    Ok(match family {
        Family::Llama | Family::Mistral | Family::SmolLm3 | Family::Granite => {
            let attention = flag("attention_bias", false)?;
            ((attention, attention), flag("mlp_bias", false)?)
        }
        Family::GraniteMoe => {
            let attention = flag("attention_bias", false)?;
            ((attention, attention), false)
        }
        Family::Qwen2 => ((true, false), false),
        Family::Qwen2Moe => ((flag("qkv_bias", true)?, false), false),
        Family::StableLm => ((flag("use_qkv_bias", false)?, false), false),
        Family::Starcoder2 => {
            let all = flag("use_bias", true)?;
            ((all, all), all)
        }
        Family::Phi | Family::Bert => ((true, true), true),
        _ => ((false, false), false),
    })
}

fn norm_epsilon(family: Family, config: &Config) -> Result<f64, Error> {
    let (keys, default): (&[&str], f64) = match family {
        Family::Bert | Family::NomicBert => (&["layer_norm_eps", "layer_norm_epsilon"], 1e-12),
        Family::StableLm => (&["layer_norm_eps", "norm_eps"], 1e-5),
        Family::Starcoder2 => (&["norm_epsilon"], 1e-5),
        Family::Phi => (&["layer_norm_eps"], 1e-5),
        Family::Phi3 | Family::Mixtral | Family::Olmo2 => (&["rms_norm_eps"], 1e-5),
        _ => (&["rms_norm_eps"], 1e-6),
    };
    for key in keys {
        if let Some(epsilon) = config.f64_opt(key)? {
            return Ok(epsilon);
        }
    }
    Ok(default)
}

fn context(family: Family, config: &Config, names: &Names) -> Result<u32, Error> {
    let key = names.of("max_position_embeddings");
    let context = match (config.u32_opt(key)?, family) {
        (Some(context), _) => context,
        (None, Family::Gemma3 | Family::Mixtral) => 131_072,
        (None, _) => config.u32(key)?,
    };
    // The first nomic-embed-text says what its tables hold, and beside it what it was trained on.
    let trained = if names.of_nomic { config.u32_opt("max_trained_positions")?.unwrap_or(2048) } else { context };
    Ok(context.min(trained))
}

fn token_types(config: &Config) -> Result<u32, Error> {
    positive(config, "type_vocab_size", config.u32_opt("type_vocab_size")?.unwrap_or(2))
}

fn read_rope(family: Family, config: &Config) -> Result<Rope, Error> {
    let (base, local) = match family {
        Family::Gemma3 => (1e6, Some(1e4)),
        Family::Mixtral => (1e6, None),
        Family::SmolLm3 => (2e6, None),
        Family::NomicBert => {
            let key = "rotary_emb_base";
            let own = config.get(key).map(|value| as_f64(key, value)).transpose()?;
            (own.unwrap_or(1000.0), None)
        }
        _ => (1e4, None),
    };
    let mut rope = Rope::read(config, base, local)?;
    if family != Family::Gemma3 {
        rope.base_local = None;
    }
    if family == Family::Phi && !rope.says_partial {
        rope.partial = 0.5;
    }
    if family == Family::StableLm && !rope.says_partial {
        // As the first StableLM's configuration calls it.
        rope.partial = config.f64_opt("rope_pct")?.unwrap_or(0.25);
        if !(rope.partial > 0.0 && rope.partial <= 1.0) {
            return Err(Error::bad_key("rope_pct", rope.partial, "expected a share above 0, at most 1"));
        }
    }
    Ok(rope)
}

/// Whether each layer attends to everything, from `layer_types`.
pub fn layer_types(config: &Config, n_layer: u32) -> Result<Option<Vec<bool>>, Error> {
    let Some(types) = config.get("layer_types") else { return Ok(None) };
    let bad = |advice: &str| Error::bad_key("layer_types", types, advice);
    let list = types.as_array().filter(|list| list.len() == n_layer as usize);
    let list = list.ok_or_else(|| bad("expected one entry for each layer"))?;
    let full = list.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(true),
        Some("sliding_attention") => Ok(false),
        _ => Err(bad("expected full_attention or sliding_attention")),
    });
    full.collect::<Result<_, _>>().map(Some)
}

pub fn positive(config: &Config, key: &str, value: u32) -> Result<u32, Error> {
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
    let newer = "hidden_activation";
    let key = match family {
        _ if family.is_gemma() && config.get(newer).is_some() => newer,
        Family::NomicBert if config.get("activation_function").is_some() => "activation_function",
        _ => "hidden_act",
    };
    let expected: &[&str] = match family {
        // The first checkpoints say `gelu` and mean its tanh form, as `transformers` reads them. The newer key means
        // what it says.
        Family::Gemma if key == "hidden_act" => &["gelu_pytorch_tanh", "gelu"],
        Family::Gemma | Family::Gemma2 | Family::Gemma3 => &["gelu_pytorch_tanh"],
        // Three names of one function.
        Family::Starcoder2 | Family::Phi => &["gelu_pytorch_tanh", "gelu_new", "gelu_fast"],
        Family::Bert => &["gelu"],
        Family::NomicBert if key == "activation_function" => &["swiglu"],
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
    if family.has_experts() {
        refuse_dense_layers(config)?;
    }
    if family == Family::SmolLm3 {
        refuse_other_rotation(config)?;
    }
    if family == Family::Phi && config.bool_opt("qk_layernorm")?.unwrap_or(false) {
        return Err(Error::bad_key("qk_layernorm", true, "a `phi2` file has no norms of queries and keys"));
    }
    if family.is_encoder() {
        refuse_other_encoders(config)?;
    }
    Ok(())
}

/// Of a `smollm3` file readers turn all layers but every fourth, and see no window.
fn refuse_other_rotation(config: &Config) -> Result<(), Error> {
    let advice = "readers of a `smollm3` file turn all layers but every fourth";
    if let Some(list) = config.get("no_rope_layers") {
        // One for a layer that turns, despite the name.
        let turns = |(entry, layer): (&Value, usize)| entry.as_u64() == Some(u64::from(!layer.is_multiple_of(4)));
        if !list.as_array().is_some_and(|list| list.iter().zip(1..).all(turns)) {
            return Err(Error::bad_key("no_rope_layers", list, advice));
        }
    } else if let Some(every) = config.u32_opt("no_rope_layer_interval")?.filter(|&every| every != 4) {
        return Err(Error::bad_key("no_rope_layer_interval", every, advice));
    }
    if config.bool_opt("use_sliding_window")?.unwrap_or(false) && config.u32_opt("sliding_window")?.is_some() {
        return Err(Error::bad_key("use_sliding_window", true, "a `smollm3` file has no window"));
    }
    Ok(())
}

/// A file of experts has them in every layer.
fn refuse_dense_layers(config: &Config) -> Result<(), Error> {
    let advice = "a file can say that every layer has experts, not that some have none";
    if let Some(step) = config.u32_opt("decoder_sparse_step")?.filter(|&step| step != 1) {
        return Err(Error::bad_key("decoder_sparse_step", step, advice));
    }
    match config.get("mlp_only_layers") {
        Some(layers) if layers.as_array().is_none_or(|layers| !layers.is_empty()) => {
            Err(Error::bad_key("mlp_only_layers", layers, advice))
        }
        _ => Ok(()),
    }
}

/// Variants of BERT of which a file can say nothing.
fn refuse_other_encoders(config: &Config) -> Result<(), Error> {
    let advice = "a file of an encoder means another graph";
    let flags = ["is_decoder", "causal", "prenorm", "parallel_block", "use_rms_norm", "rotary_emb_interleaved"];
    let of_matrices = ["qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"];
    for key in flags.iter().chain(&of_matrices) {
        if config.bool_opt(key)?.unwrap_or(false) {
            return Err(Error::bad_key(*key, true, advice));
        }
    }
    for (key, only) in [("rotary_emb_fraction", 1.0), ("moe_every_n_layers", 0.0)] {
        if let Some(found) = config.f64_opt(key)?.filter(|&found| found != only) {
            return Err(Error::bad_key(key, found, advice));
        }
    }
    for key in ["rotary_emb_scale_base", "rotary_scaling_factor"] {
        if let Some(found) = config.get(key) {
            return Err(Error::bad_key(key, found, advice));
        }
    }
    match config.str_opt("position_embedding_type")? {
        None | Some("absolute") => Ok(()),
        Some(other) => Err(Error::bad_key("position_embedding_type", format!("`{other}`"), advice)),
    }
}
