//! A model file of a hundred kilobytes that runs, and can be broken in one place.
//!
//! Its weights are arbitrary, but it only ever writes the letters a to z: the output rows of all other tokens are zero,
//! and the letters come in pairs of opposite rows, so that one of them is always above zero. It has no token that ends an
//! answer: it writes until it is stopped.

use hublabio_gguf::{GgmlType, Metadata, Writer};

pub const D_MODEL: u64 = 64;
const D_FF: u64 = 128;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const LAYERS: u32 = 2;
pub const CONTEXT: u32 = 1 << 20;

struct Tensor {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    bytes: Vec<u8>,
}

/// The file to be.
pub struct Tiny {
    pub metadata: Metadata,
    tensors: Vec<Tensor>,
}

impl Tiny {
    pub fn new() -> Self {
        let tokens = tokens(&('a'..='z').map(String::from).collect::<Vec<_>>());
        let mut tiny = Self { metadata: metadata(&tokens), tensors: Vec::new() };
        let vocab = tokens.len() as u64;
        let mut random = Random(1);
        let kv = D_MODEL / u64::from(HEADS) * u64::from(KV_HEADS);
        tiny.add("token_embd.weight", &[D_MODEL, vocab], random.weights(D_MODEL * vocab));
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
                tiny.add(&format!("blk.{layer}.{name}.weight"), &dims, random.weights(dims[0] * dims[1]));
            }
            for name in ["attn_norm", "ffn_norm"] {
                tiny.add(&format!("blk.{layer}.{name}.weight"), &[D_MODEL], vec![1.0; D_MODEL as usize]);
            }
        }
        tiny.add("output_norm.weight", &[D_MODEL], vec![1.0; D_MODEL as usize]);
        let mut output = vec![0.0; ((vocab - 26) * D_MODEL) as usize];
        for _ in 0..13 {
            let row = random.weights(D_MODEL);
            output.extend(&row);
            output.extend(row.iter().map(|weight| -weight));
        }
        tiny.add("output.weight", &[D_MODEL, vocab], output);
        tiny
    }

    /// The same model with other texts in place of the 26 letters.
    pub fn writing(letters: &[String]) -> Self {
        let mut tiny = Self::new();
        assert_eq!(letters.len(), 26);
        tiny.metadata.insert("tokenizer.ggml.tokens", tokens(letters));
        tiny
    }

    fn add(&mut self, name: &str, dims: &[u64], weights: Vec<f32>) {
        let bytes = weights.into_iter().flat_map(f32::to_le_bytes).collect();
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), ty: GgmlType::F32, bytes });
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("the model has this tensor")
    }

    /// Another shape for the same weights.
    pub fn reshape(&mut self, name: &str, dims: &[u64]) {
        let tensor = self.tensor(name);
        assert_eq!(tensor.dims.iter().product::<u64>(), dims.iter().product::<u64>());
        tensor.dims = dims.to_vec();
    }

    /// Zeros of another type.
    pub fn retype(&mut self, name: &str, ty: GgmlType) {
        let tensor = self.tensor(name);
        let weights = tensor.dims.iter().product::<u64>() as usize;
        tensor.bytes = vec![0; ty.row_bytes(weights).expect("the type has single weights")];
        tensor.ty = ty;
    }

    /// One weight that is no number.
    pub fn poison(&mut self, name: &str) {
        self.tensor(name).bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|tensor| tensor.name != name);
    }

    /// No weights at all: a vocabulary.
    pub fn remove_tensors(&mut self) {
        self.tensors.clear();
    }

    /// The same model with one more key.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key, value);
        self
    }

    /// The same model without one of its keys.
    pub fn without(mut self, key: &str) -> Self {
        self.metadata.remove(key);
        self
    }

    pub fn remove_tokenizer(&mut self) {
        let keys: Vec<_> = self.metadata.iter().map(|(key, _)| key.to_owned()).collect();
        for key in keys.iter().filter(|key| key.starts_with("tokenizer.")) {
            self.metadata.remove(key);
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_metadata(self.metadata.clone());
        for tensor in &self.tensors {
            writer.add_tensor(&tensor.name, &tensor.dims, tensor.ty).expect("the tensor can be described");
        }
        writer.to_bytes(self.tensors.iter().map(|tensor| tensor.bytes.as_slice())).expect("the file can be written")
    }

    /// Writes the file into a test's folder and returns its path.
    pub fn save(&self, test: &str) -> String {
        crate::program::file(test, "tiny.gguf", &self.bytes())
    }
}

/// Unknown, BOS, the bytes, the space, the letters.
fn tokens(letters: &[String]) -> Vec<String> {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.push("▁".to_owned());
    tokens.extend_from_slice(letters);
    tokens
}

fn metadata(tokens: &[String]) -> Metadata {
    let mut types = vec![1i32; tokens.len()];
    types[..2].copy_from_slice(&[2, 3]);
    types[2..258].fill(6);
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
    metadata.insert("tokenizer.ggml.bos_token_id", 1u32);
    metadata.insert("tokenizer.ggml.unknown_token_id", 0u32);
    metadata.insert("tokenizer.ggml.tokens", tokens.to_vec());
    metadata.insert("tokenizer.chat_template", "{% for m in messages %}{{ m.content }} {% endfor %}");
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
