//! Folders and small model files for the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use hublabio_gguf::{GgmlType, Writer};
use hublabio_runtime::store::{ModelStore, StoreConfig};

/// A folder of its own; removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    /// An empty one with `models` in it.
    pub fn new(test: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("hublab-store-{test}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("models")).unwrap();
        Self(folder)
    }

    /// Where models lie.
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// Writes a file below the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A store of `models`, a second folder `more` and Ollama's `ollama`.
    pub fn store(&self) -> ModelStore {
        ModelStore::open(StoreConfig {
            folder: Some(self.models()),
            more_folders: vec![self.0.join("more")],
            ollama: vec![self.0.join("ollama")],
        })
    }

    /// A model of Ollama's: its manifest and its blob. Returns the blob.
    pub fn ollama(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let hash = sha256(bytes);
        self.write(&format!("ollama/manifests/{path}"), manifest(&hash, bytes.len()).as_bytes());
        self.write(&format!("ollama/blobs/sha256-{hash}"), bytes)
    }

    /// The names of all files below `models`, records and locks left out.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.models(), &self.models(), &mut found);
        found.sort();
        found
    }
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            collect(root, &path, found);
        } else if !name.starts_with(".hublab-store") {
            found.push(name);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn manifest(hash: &str, bytes: usize) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"sha256:00","size":1}},"layers":[
            {{"mediaType":"application/vnd.ollama.image.license","digest":"sha256:00","size":1}},
            {{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{hash}","size":{bytes}}}]}}"#
    )
}

/// A file of some `kilobytes` that is a model as far as its form goes. Different seeds make different files of one size.
pub fn model_bytes(kilobytes: usize, seed: u8) -> Vec<u8> {
    part_bytes(kilobytes, seed, None)
}

/// As [`model_bytes`], part `no` of `count`.
pub fn part_bytes(kilobytes: usize, seed: u8, split: Option<(u64, u64)>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.metadata_mut().insert("general.architecture", "llama");
    writer.metadata_mut().insert("general.file_type", 15u32);
    if let Some((no, count)) = split {
        writer.metadata_mut().insert("split.no", no);
        writer.metadata_mut().insert("split.count", count);
    }
    let name = format!("tensor.{}", split.map_or(0, |(no, _)| no));
    writer.add_tensor(&name, &[256 * kilobytes as u64], GgmlType::F32).unwrap();
    let weights: Vec<u8> = (0..kilobytes * 1024).map(|i| ((i / 251) as u8).wrapping_mul(31) ^ seed).collect();
    writer.to_bytes([weights.as_slice()]).unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    hublabio_runtime::store::sha256_of(bytes)
}
