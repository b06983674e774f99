//! What the engine's tests share: the oracle's fixtures, and edits of a file's metadata and tensors.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::Arc;

use hublabio_engine::{Input, Isa, KvType, Model, Result, Row, Runner, SequenceId, Shard};
use hublabio_gguf::{GgmlType, GgufFile, Metadata, Writer};

/// `tests/oracles/fixtures`, made by the scripts beside it.
pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/fixtures")
}

/// What [`open_fixture`] calls the shipped model.
pub const SHIPPED: &str = "shipped";

/// Names of the fixtures that end in `suffix`, without the extension.
pub fn fixture_names(suffix: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(fixtures())
        .expect("the fixtures are part of the repository")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".gguf").map(str::to_owned))
        .filter(|name| name.ends_with(suffix))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no fixture ends in {suffix}");
    names
}

/// Whether the fixture's expectation is that of an encoder, which `crates/runtime/tests/embeddings.rs` checks.
pub fn is_encoder(name: &str) -> bool {
    std::fs::read(fixtures().join(format!("{name}.expect"))).unwrap().starts_with(b"HLE1")
}

/// A fixture, or the model that is shipped with the binary.
pub fn open_fixture(name: &str) -> GgufFile {
    if name == SHIPPED {
        return GgufFile::open(&fixtures().join("../../../models/default.gguf")).unwrap();
    }
    GgufFile::open(&fixtures().join(format!("{name}.gguf"))).unwrap()
}

/// What the oracle expects: token ids, and the logits after each.
pub struct Expected {
    pub ids: Vec<u32>,
    pub logits: Vec<Vec<f32>>,
}

/// Reads `NAME.expect`: `HLX1`, u32 n, u32 vocab, n ids, n·vocab logits, little-endian.
pub fn expected(name: &str) -> Expected {
    let bytes = std::fs::read(fixtures().join(format!("{name}.expect"))).unwrap();
    assert_eq!(&bytes[..4], b"HLX1");
    let words: Vec<u32> = bytes[4..].chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
    let (n, vocab) = (words[0] as usize, words[1] as usize);
    let ids = words[2..2 + n].to_vec();
    let logits: Vec<f32> = words[2 + n..].iter().map(|&w| f32::from_bits(w)).collect();
    assert_eq!(logits.len(), n * vocab);
    Expected { ids, logits: logits.chunks_exact(vocab).map(<[f32]>::to_vec).collect() }
}

/// An encoder's token ids and states, from `HLE1`, u32 n, u32 d, n ids, the embedding `[d]`, states `[n, d]`.
pub fn expected_states(name: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let bytes = std::fs::read(fixtures().join(format!("{name}.expect"))).unwrap();
    assert_eq!(&bytes[..4], b"HLE1");
    let words: Vec<u32> = bytes[4..].chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
    let (n, d) = (words[0] as usize, words[1] as usize);
    let states: Vec<f32> = words[2 + n + d..].iter().map(|&w| f32::from_bits(w)).collect();
    assert_eq!(states.len(), n * d);
    (words[2..2 + n].to_vec(), states.chunks_exact(d).map(<[f32]>::to_vec).collect())
}

/// How a test runs a model; results must not depend on the first three.
#[derive(Clone, Copy)]
pub struct Setup {
    pub threads: usize,
    pub isa: Isa,
    pub chunk: usize,
    pub kv: Option<KvType>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { threads: 2, isa: Isa::best(), chunk: 64, kv: None }
    }
}

pub fn rows(sequence: SequenceId, first: usize, tokens: &[u32]) -> Vec<Row> {
    let row = |(i, &token): (usize, &u32)| Row { sequence, position: (first + i) as u32, token, wanted: true };
    tokens.iter().enumerate().map(row).collect()
}

/// The logits after every one of `ids`, or of an encoder the states.
pub fn logits(file: GgufFile, ids: &[u32], setup: Setup) -> Result<Vec<Vec<f32>>> {
    logits_of(&Arc::new(Model::open(Arc::new(file), &Shard::whole())?), ids, setup)
}

/// As [`logits`], of a model that is open.
pub fn logits_of(model: &Arc<Model>, ids: &[u32], setup: Setup) -> Result<Vec<Vec<f32>>> {
    let h = model.hyperparameters();
    let vocab = if model.has_logits() { h.vocab_size } else { h.d_model };
    let mut cache = model.new_cache(ids.len(), setup.kv.unwrap_or_else(|| model.default_kv()));
    let mut runner = Runner::new(Arc::clone(model), setup.threads, setup.isa);
    let sequence = cache.create();
    let mut out = Vec::new();
    for chunk in ids.chunks(setup.chunk) {
        let logits = runner.forward(&mut cache, &rows(sequence, out.len(), chunk), Input::Tokens)?;
        out.extend(logits.chunks_exact(vocab).map(<[f32]>::to_vec));
    }
    Ok(out)
}

/// The largest difference; not a number where one of them is.
pub fn max_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp).unwrap_or(0.0)
}

/// A model file taken apart, to be changed and put together again.
pub struct Parts {
    pub metadata: Metadata,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub ty: GgmlType,
    pub data: Vec<u8>,
}

impl Parts {
    pub fn of(file: &GgufFile) -> Self {
        let tensors = file.views().map(|view| Tensor {
            name: view.info.name.clone(),
            dims: view.info.dims.clone(),
            ty: view.info.ty,
            data: view.data.to_vec(),
        });
        Self { metadata: file.metadata().clone(), tensors: tensors.collect() }
    }

    pub fn fixture(name: &str) -> Self {
        Self::of(&open_fixture(name))
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|t| t.name != name);
    }

    /// Changes the values of an F32 tensor.
    pub fn map_f32(&mut self, name: &str, f: impl Fn(usize, f32) -> f32) {
        let tensor = self.tensor(name);
        assert_eq!(tensor.ty, GgmlType::F32);
        for (i, value) in tensor.data.chunks_exact_mut(4).enumerate() {
            let new = f(i, f32::from_le_bytes(value.try_into().unwrap()));
            value.copy_from_slice(&new.to_le_bytes());
        }
    }

    pub fn build(&self) -> GgufFile {
        GgufFile::from_vec(self.bytes()).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_metadata(self.metadata.clone());
        for t in &self.tensors {
            writer.add_tensor(&t.name, &t.dims, t.ty).unwrap();
        }
        writer.to_bytes(self.tensors.iter().map(|t| t.data.as_slice())).unwrap()
    }
}
