//! An untrained model of a hundred kilobytes: its weights are arbitrary, and so is what it writes. Its template knows tools.

use hublabio_gguf::{GgmlType, Metadata, Writer};

const D_MODEL: u64 = 64;
const D_FF: u64 = 128;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const LAYERS: u32 = 2;
/// Positions of a conversation.
pub const CONTEXT: u32 = 4096;
/// The token that ends an answer.
pub const EOS: u32 = 2;

const TEMPLATE: &str = "{% if tools %}<tool_call> {{ tools | tojson }} </tool_call>\n{% endif %}\
    {% for m in messages %}{{ m.role }}: {% if m.content %}{{ m.content }}{% endif %}\
    {% for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}\n\
    {% endfor %}assistant:";

struct Tensor {
    name: String,
    dims: Vec<u64>,
    bytes: Vec<u8>,
}

/// The file to be.
pub struct Tiny {
    metadata: Metadata,
    tensors: Vec<Tensor>,
}

impl Tiny {
    pub fn new() -> Self {
        Self::with_template(TEMPLATE)
    }

    pub fn with_template(template: &str) -> Self {
        let mut random = Random(7);
        let tokens = tokens();
        let embeddings = random.weights(D_MODEL * tokens.len() as u64);
        let mut tiny = Self::of_layers(&tokens, template, embeddings, |n| random.weights(n));
        tiny.add("output.weight", &[D_MODEL, tokens.len() as u64], random.weights(D_MODEL * tokens.len() as u64));
        tiny
    }

    /// A model that answers whatever it is asked with these pieces, one a token, and then ends. Its layers add nothing, so that
    /// the next token depends on the last one alone; each piece is a direction of its own.
    pub fn saying(script: &[&str]) -> Self {
        // The direction of every token that is not of the script.
        const ANY: usize = D_MODEL as usize - 1;
        assert!((1..ANY).contains(&script.len()));
        let mut tokens = tokens();
        let first = tokens.len();
        tokens.extend(script.iter().map(|piece| piece.replace(' ', "▁")));
        let mut embeddings = vec![0.0; tokens.len() * D_MODEL as usize];
        let mut output = embeddings.clone();
        for token in 0..tokens.len() {
            let row = token * D_MODEL as usize;
            embeddings[row + token.checked_sub(first).unwrap_or(ANY)] = 1.0;
            if let Some(place) = token.checked_sub(first) {
                output[row + place.checked_sub(1).unwrap_or(ANY)] = 1.0;
            }
        }
        output[EOS as usize * D_MODEL as usize + script.len() - 1] = 1.0;
        let mut tiny = Self::of_layers(&tokens, TEMPLATE, embeddings, |n| vec![0.0; n as usize]);
        tiny.add("output.weight", &[D_MODEL, tokens.len() as u64], output);
        tiny
    }

    /// All but the output.
    fn of_layers(
        tokens: &[String],
        template: &str,
        embeddings: Vec<f32>,
        mut weights: impl FnMut(u64) -> Vec<f32>,
    ) -> Self {
        let mut tiny = Self { metadata: metadata(tokens, template), tensors: Vec::new() };
        let kv = D_MODEL / u64::from(HEADS) * u64::from(KV_HEADS);
        tiny.add("token_embd.weight", &[D_MODEL, tokens.len() as u64], embeddings);
        for layer in 0..LAYERS {
            for (name, dims) in [
                ("attn_q", [D_MODEL, D_MODEL]),
                ("attn_k", [D_MODEL, kv]),
                ("attn_v", [D_MODEL, kv]),
                ("attn_output", [D_MODEL, D_MODEL]),
                ("ffn_gate", [D_MODEL, D_FF]),
                ("ffn_up", [D_MODEL, D_FF]),
                ("ffn_down", [D_FF, D_MODEL]),
            ] {
                tiny.add(&format!("blk.{layer}.{name}.weight"), &dims, weights(dims[0] * dims[1]));
            }
            for name in ["attn_norm", "ffn_norm"] {
                tiny.add(&format!("blk.{layer}.{name}.weight"), &[D_MODEL], vec![1.0; D_MODEL as usize]);
            }
        }
        tiny.add("output_norm.weight", &[D_MODEL], vec![1.0; D_MODEL as usize]);
        tiny
    }

    fn add(&mut self, name: &str, dims: &[u64], weights: Vec<f32>) {
        let bytes = weights.into_iter().flat_map(f32::to_le_bytes).collect();
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), bytes });
    }

    /// One weight that is no number: the model fails when it computes.
    pub fn poisoned(mut self) -> Self {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.name == "output.weight").unwrap();
        tensor.bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_metadata(self.metadata.clone());
        for tensor in &self.tensors {
            writer.add_tensor(&tensor.name, &tensor.dims, GgmlType::F32).unwrap();
        }
        writer.to_bytes(self.tensors.iter().map(|tensor| tensor.bytes.as_slice())).unwrap()
    }
}

/// Unknown, BOS, EOS, the bytes, the space, the letters.
fn tokens() -> Vec<String> {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.push("▁".to_owned());
    tokens.extend(('a'..='z').map(String::from));
    tokens
}

fn metadata(tokens: &[String], template: &str) -> Metadata {
    let mut types = vec![1i32; tokens.len()];
    types[..3].copy_from_slice(&[2, 3, 3]);
    types[3..259].fill(6);
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("general.name", "tiny");
    metadata.insert("llama.block_count", LAYERS);
    metadata.insert("llama.context_length", CONTEXT);
    metadata.insert("llama.embedding_length", D_MODEL as u32);
    metadata.insert("llama.feed_forward_length", D_FF as u32);
    metadata.insert("llama.attention.head_count", HEADS);
    metadata.insert("llama.attention.head_count_kv", KV_HEADS);
    metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    metadata.insert("llama.rope.freq_base", 10000f32);
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.scores", vec![0f32; tokens.len()]);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.unknown_token_id", 0u32);
    metadata.insert("tokenizer.ggml.bos_token_id", 1u32);
    metadata.insert("tokenizer.ggml.eos_token_id", EOS);
    metadata.insert("tokenizer.ggml.tokens", tokens.to_vec());
    metadata.insert("tokenizer.chat_template", template);
    metadata
}

/// Reproducible weights between -1/4 and 1/4: a 64-bit linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn weights(&mut self, n: u64) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) / 2.0
        };
        (0..n).map(|_| next()).collect()
    }
}
