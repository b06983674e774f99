//! Models that Ollama has fetched, read where they lie and never changed.
//!
//! `manifests/HOST/NAMESPACE/NAME/TAG` is a JSON that names layers by their SHA-256; the layer of the model is a GGUF file under
//! `blobs`. The form is that of container images (OCI image manifest, Docker registry v2), with Ollama's own media types.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::records::bounded;

/// Where Ollama's own models come from; its names leave this out, and the namespace too.
pub(super) const HOST: &str = "registry.ollama.ai";
pub(super) const NAMESPACE: &str = "library";
/// The tag of a name without one.
pub(super) const TAG: &str = "latest";
/// Longest manifest; real ones have two kilobytes.
pub(super) const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Manifests in one store.
const MANIFESTS_MAX: usize = 10_000;

const MODEL: &str = "application/vnd.ollama.image.model";
const ADAPTER: &str = "application/vnd.ollama.image.adapter";

/// A name as Ollama has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OllamaName {
    pub host: String,
    pub namespace: String,
    pub model: String,
    pub tag: String,
}

impl OllamaName {
    /// `[[HOST/]NAMESPACE/]NAME[:TAG]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, tag) = match text.rsplit_once(':') {
            // A colon in front of the last `/` is that of a port.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let pieces: Vec<&str> = path.split('/').collect();
        let (host, namespace, model) = match pieces[..] {
            [model] => (HOST, NAMESPACE, model),
            [namespace, model] => (HOST, namespace, model),
            [host, namespace, model] => (host, namespace, model),
            _ => return None,
        };
        let piece = |piece: &str, more: &[char]| {
            (1..=128).contains(&piece.len())
                && piece.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && piece.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || more.contains(&c))
        };
        let fine = piece(host, &[':']) && piece(namespace, &[]) && piece(model, &[]) && piece(tag, &[]);
        fine.then(|| Self { host: host.into(), namespace: namespace.into(), model: model.into(), tag: tag.into() })
    }

    fn manifest(&self, store: &Path) -> PathBuf {
        store.join("manifests").join(&self.host).join(&self.namespace).join(&self.model).join(&self.tag)
    }
}

/// As it is listed: without what is Ollama's default.
impl std::fmt::Display for OllamaName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host != HOST {
            write!(f, "{}/", self.host)?;
        }
        if self.host != HOST || self.namespace != NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

/// What a manifest says of the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelLayer {
    /// SHA-256 of the file, in small hexadecimal digits.
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
}

/// The weights that a manifest names.
pub(super) fn parse_manifest(bytes: &[u8]) -> Result<ModelLayer, String> {
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| format!("the manifest cannot be understood: {error}"))?;
    if manifest.layers.iter().any(|layer| layer.media_type == ADAPTER) {
        return Err(
            "the model has an adapter, which would be left out: fetch its base model and the adapter, and give \
                    the adapter with --lora"
                .into(),
        );
    }
    let mut models = manifest.layers.iter().filter(|layer| layer.media_type == MODEL);
    let (Some(model), None) = (models.next(), models.next()) else {
        return Err("the manifest does not name one GGUF file: models in other forms cannot be read".into());
    };
    let sha256 = digest(&model.digest).ok_or("the manifest names its model by no SHA-256")?;
    Ok(ModelLayer { sha256, bytes: model.size })
}

/// The hexadecimal digits of `sha256:…`.
fn digest(text: &str) -> Option<String> {
    let digits = text.strip_prefix("sha256:")?;
    super::is_sha256(digits).then(|| digits.to_ascii_lowercase())
}

/// A model of Ollama's.
#[derive(Clone, Debug)]
pub(super) struct OllamaModel {
    pub name: String,
    /// Its file, or what is wrong.
    pub file: Result<(PathBuf, ModelLayer), String>,
}

/// All models of a store of Ollama's, by name, and what could not be looked at.
pub(super) fn scan(store: &Path) -> (Vec<OllamaModel>, Vec<String>) {
    let (mut models, mut notices) = (Vec::new(), Vec::new());
    let folders = |path: &Path| entries(path).filter(|(_, path)| path.is_dir());
    for (host, path) in folders(&store.join("manifests")) {
        for (namespace, path) in folders(&path) {
            for (model, path) in folders(&path) {
                for (tag, _) in entries(&path) {
                    let text = format!("{host}/{namespace}/{model}:{tag}");
                    let Some(name) = OllamaName::parse(&text) else { continue };
                    if models.len() >= MANIFESTS_MAX {
                        notices.push(format!("{} has more than {MANIFESTS_MAX} models", store.display()));
                        return (models, notices);
                    }
                    models.push(OllamaModel { name: name.to_string(), file: read(store, &name) });
                }
            }
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    (models, notices)
}

fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = fs::read_dir(folder).ok().into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    named.filter(|(name, _)| !name.starts_with('.')).take(MANIFESTS_MAX)
}

/// The model of this name, if there is one.
pub(super) fn locate(store: &Path, name: &str) -> Option<OllamaModel> {
    let name = OllamaName::parse(name)?;
    let path = name.manifest(store);
    path.is_file().then(|| OllamaModel { name: name.to_string(), file: read(store, &name) })
}

fn read(store: &Path, name: &OllamaName) -> Result<(PathBuf, ModelLayer), String> {
    let path = name.manifest(store);
    let bytes =
        bounded(&path, MANIFEST_BYTES_MAX).map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    let layer = parse_manifest(&bytes)?;
    let blob = store.join("blobs").join(format!("sha256-{}", layer.sha256));
    match fs::metadata(&blob) {
        Ok(found) if found.is_file() && found.len() == layer.bytes => Ok((blob, layer)),
        Ok(_) => Err(format!("{} is not the file that the manifest names: let Ollama fetch it again", blob.display())),
        Err(cause) => Err(format!("cannot open {}: {cause}", blob.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_ollama_writes_them() {
        for (text, whole) in [
            ("llama3.2", Some("llama3.2:latest")),
            ("llama3.2:1b", Some("llama3.2:1b")),
            ("library/llama3.2:1b", Some("llama3.2:1b")),
            ("user/x", Some("user/x:latest")),
            ("hf.co/user/repo:Q4_K_M", Some("hf.co/user/repo:Q4_K_M")),
            ("localhost:5000/library/x:y", Some("localhost:5000/library/x:y")),
            ("a/b/c/d", None),
            ("", None),
            (":x", None),
            ("..", None),
            ("../x", None),
            ("x:..", None),
            ("x:", None),
            ("x y", None),
            ("x/", None),
        ] {
            assert_eq!(OllamaName::parse(text).map(|name| name.to_string()).as_deref(), whole, "{text:?}");
        }
    }

    #[test]
    fn a_manifest_names_one_file_by_its_hash() {
        let hash = "aB".repeat(32);
        let layer = |media: &str, digest: &str| format!(r#"{{"mediaType":"{media}","digest":"{digest}","size":7}}"#);
        let check = |layers: &[String]| parse_manifest(format!(r#"{{"layers":[{}]}}"#, layers.join(",")).as_bytes());
        let model = layer(MODEL, &format!("sha256:{hash}"));
        let template = layer("application/vnd.ollama.image.template", "sha256:00");
        let found = check(&[template.clone(), model.clone()]).unwrap();
        assert_eq!(found, ModelLayer { sha256: "ab".repeat(32), bytes: 7 });
        assert!(check(&[]).is_err());
        assert!(check(&[model.clone(), model.clone()]).is_err());
        assert!(check(&[model.clone(), layer(ADAPTER, "sha256:00")]).unwrap_err().contains("--lora"));
        for digest in ["", "sha256:", "sha256:../../etc/passwd", &format!("md5:{hash}"), &format!("sha256:{hash}0")] {
            assert!(check(&[layer(MODEL, digest)]).unwrap_err().contains("SHA-256"), "{digest}");
        }
        for bytes in ["", "[]", "{\"layers\":1}", "{\"layers\":[{}]}"] {
            assert!(parse_manifest(bytes.as_bytes()).is_err());
        }
    }
}
