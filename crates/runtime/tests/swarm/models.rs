//! Models and folders for the tests: the default model with something changed, and larger ones of random weights.

use std::fs;
use std::path::{Path, PathBuf};

use hublabio_gguf::{GgmlType, GgufFile, Metadata, Writer};
use hublabio_runtime::ai::DEFAULT_MODEL;

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hublab-swarm-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// An expert with one keyword, its own name, and greedy sampling.
    pub fn expert(&self, name: &str, model: &str, more: &str) {
        let text = format!(
            "name = \"{name}\"\nmodel = \"{model}\"\n{more}\n[domain]\nname = \"{name}\"\nkeywords = [\"{name}\"]\n\
             [sampling]\npreset = \"greedy\"\n"
        );
        self.write(&format!("{name}.toml"), text);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The default model with the bytes of one tensor replaced.
pub fn with_tensor(name: &str, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let file = GgufFile::from_static(DEFAULT_MODEL).unwrap();
    let data = file.tensor(name).unwrap().data;
    let at = data.as_ptr() as usize - DEFAULT_MODEL.as_ptr() as usize;
    let len = data.len();
    let mut bytes = DEFAULT_MODEL.to_vec();
    change(&mut bytes[at..at + len]);
    bytes
}

/// The default model, whose last norm is not a number: every logit is refused.
pub fn broken_model() -> Vec<u8> {
    with_tensor("output_norm.weight", |bytes| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()))
}

/// The default model with tokens of another meaning: a text in the metadata is replaced by one of the same length.
pub fn other_tokenizer() -> Vec<u8> {
    let (from, to) = (b"tokenizer.ggml.pre\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00gpt-2", b"qwen2");
    let at = DEFAULT_MODEL.windows(from.len()).position(|window| window == from).expect("the key is there");
    let mut bytes = DEFAULT_MODEL.to_vec();
    bytes[at + from.len() - to.len()..at + from.len()].copy_from_slice(to);
    bytes
}

/// Numbers that look random, xorshift64*.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    }
}

fn metadata() -> Metadata {
    GgufFile::from_static(DEFAULT_MODEL).unwrap().metadata().clone()
}

/// A Llama of random Q8_0 weights with the default model's tokens: `layers` layers of width 1024, about 12 MB each.
pub fn random_model(path: &Path, layers: u32, seed: u64) {
    const WIDTH: u64 = 1024;
    const FEED_FORWARD: u64 = 2048;
    let mut metadata = metadata();
    let vocabulary = u64::from(metadata.u32("llama.vocab_size").unwrap().unwrap());
    metadata.insert("llama.block_count", layers);
    metadata.insert("llama.embedding_length", WIDTH as u32);
    metadata.insert("llama.feed_forward_length", FEED_FORWARD as u32);
    metadata.insert("llama.attention.head_count", 16u32);
    metadata.insert("llama.attention.head_count_kv", 4u32);
    let mut writer = Writer::with_metadata(metadata);
    let mut plan = vec![("token_embd.weight".to_owned(), vec![WIDTH, vocabulary])];
    for layer in 0..layers {
        let mut add = |name: &str, dims: &[u64]| plan.push((format!("blk.{layer}.{name}.weight"), dims.to_vec()));
        add("attn_norm", &[WIDTH]);
        add("attn_q", &[WIDTH, WIDTH]);
        add("attn_k", &[WIDTH, 256]);
        add("attn_v", &[WIDTH, 256]);
        add("attn_output", &[WIDTH, WIDTH]);
        add("ffn_norm", &[WIDTH]);
        add("ffn_gate", &[WIDTH, FEED_FORWARD]);
        add("ffn_up", &[WIDTH, FEED_FORWARD]);
        add("ffn_down", &[FEED_FORWARD, WIDTH]);
    }
    plan.push(("output_norm.weight".to_owned(), vec![WIDTH]));
    for (name, dims) in &plan {
        writer.add_tensor(name, dims, if dims.len() == 1 { GgmlType::F32 } else { GgmlType::Q8_0 }).unwrap();
    }
    let mut random = Random(seed | 1);
    let mut out = writer.begin(std::io::BufWriter::new(fs::File::create(path).unwrap())).unwrap();
    for (_, dims) in &plan {
        let n: u64 = dims.iter().product();
        let bytes: Vec<u8> = if dims.len() == 1 {
            (0..n).flat_map(|_| 1f32.to_le_bytes()).collect()
        } else {
            // Half precision 2^-11 as the scale of each block.
            (0..n / 32)
                .flat_map(|_| [0x00, 0x10].into_iter().chain(std::array::from_fn::<u8, 32, _>(|_| random.byte())))
                .collect()
        };
        out.tensor(&bytes).unwrap();
    }
    out.finish().unwrap();
}

/// A LoRA adapter of rank 4 for the default model's first feed-forward layer, of random weights.
pub fn random_adapter(path: &Path, seed: u64) {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama".to_owned());
    metadata.insert("general.type", "adapter".to_owned());
    metadata.insert("adapter.type", "lora".to_owned());
    metadata.insert("adapter.lora.alpha", 4f32);
    let mut writer = Writer::with_metadata(metadata);
    writer.add_tensor("blk.0.ffn_up.weight.lora_a", &[256, 4], GgmlType::F32).unwrap();
    writer.add_tensor("blk.0.ffn_up.weight.lora_b", &[4, 768], GgmlType::F32).unwrap();
    let mut random = Random(seed | 1);
    let mut weights =
        |n: usize| -> Vec<u8> { (0..n).flat_map(|_| (f32::from(random.byte() as i8) / 64.0).to_le_bytes()).collect() };
    let data = [weights(256 * 4), weights(4 * 768)];
    fs::write(path, writer.to_bytes(data.iter().map(Vec::as_slice)).unwrap()).unwrap();
}
