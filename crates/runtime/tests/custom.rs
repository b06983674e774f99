//! Architectures that are not built in: a Qwen2 file under foreign names runs through a description in TOML, and gives
//! the same bits as the file that it was made from.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hublabio_gguf::{GgufFile, Value, Writer};
use hublabio_runtime::ai::tokenizer::TokenId;
use hublabio_runtime::ai::{InferenceEngine, ModelConfig, parse_architecture};

/// What the foreign file calls the tensors of Qwen2.
const NAMES: [(&str, &str); 12] = [
    ("token_embd", "wte"),
    ("output_norm", "ln_f"),
    ("output", "lm_head"),
    ("attn_norm", "h.{layer}.ln_1"),
    ("attn_q", "h.{layer}.attn.query"),
    ("attn_k", "h.{layer}.attn.key"),
    ("attn_v", "h.{layer}.attn.value"),
    ("attn_output", "h.{layer}.attn.proj"),
    ("ffn_norm", "h.{layer}.ln_2"),
    ("ffn_gate", "h.{layer}.mlp.gate"),
    ("ffn_up", "h.{layer}.mlp.up"),
    ("ffn_down", "h.{layer}.mlp.down"),
];

/// Everything that makes it a Qwen2, said in so many words.
const DESCRIPTION: &str = r#"
name = "mine"
norm = "rms"

[attention]
qkv-bias = "required"

[rope]
pairing = "halves"

[feed-forward]
activation = "silu"
gated = true

[keys]
"attention.layer_norm_rms_epsilon" = "mine.epsilon"
"attention.head_count_kv" = 2
"rope.freq_base" = "mine.theta"
"#;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/fixtures/qwen2-gqa-F32.gguf")
}

fn description() -> String {
    let mut text = DESCRIPTION.to_owned() + "\n[tensors]\n";
    for (name, foreign) in NAMES {
        writeln!(text, "{name} = \"{foreign}\"").unwrap();
    }
    text
}

/// A tensor's name in the foreign file.
fn foreign_name(name: &str) -> String {
    let (stem, part) = name.rsplit_once('.').unwrap();
    let (layer, stem) = match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, stem)) => (layer, stem),
        None => ("", stem),
    };
    let (_, foreign) = NAMES.iter().find(|(known, _)| *known == stem).unwrap_or_else(|| panic!("{name}"));
    format!("{}.{part}", foreign.replace("{layer}", layer))
}

/// The fixture under foreign names, without `dropped`, with `extra` metadata.
fn foreign(folder: &Path, dropped: Option<&str>, extra: &[(&str, Value)]) -> PathBuf {
    let file = GgufFile::open(&fixture()).unwrap();
    let mut metadata = hublabio_gguf::Metadata::new();
    for (key, value) in file.metadata().iter() {
        let key = match key {
            "qwen2.attention.layer_norm_rms_epsilon" => "mine.epsilon".to_owned(),
            "qwen2.rope.freq_base" => "mine.theta".to_owned(),
            "qwen2.attention.head_count_kv" => continue,
            key => key.replace("qwen2.", "mine."),
        };
        metadata.insert(key, value.clone());
    }
    metadata.insert("general.architecture", Value::String("mine".into()));
    for (key, value) in extra {
        metadata.insert(*key, value.clone());
    }
    let views: Vec<_> = file.views().filter(|view| Some(view.info.name.as_str()) != dropped).collect();
    let mut writer = Writer::with_metadata(metadata);
    for view in &views {
        writer.add_tensor(&foreign_name(&view.info.name), &view.info.dims, view.info.ty).unwrap();
    }
    let path = folder.join("mine.gguf");
    std::fs::write(&path, writer.to_bytes(views.iter().map(|view| view.data)).unwrap()).unwrap();
    path
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hublab-custom-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn logits(path: &Path, config: &ModelConfig) -> Result<Vec<Vec<f32>>, String> {
    let ids: Vec<TokenId> = (0..64).map(|i| TokenId(i * 7 % 149)).collect();
    let mut engine = InferenceEngine::open(path, config).map_err(|error| error.to_string())?;
    engine.logits(&ids, true).map_err(|error| error.to_string())
}

#[test]
fn a_described_qwen2_gives_the_bits_of_the_built_in_one() {
    let expected = logits(&fixture(), &ModelConfig::default()).unwrap();
    let folder = folder("same");
    // Named by the caller …
    let path = foreign(&folder, None, &[]);
    let architecture = parse_architecture(&description(), "here").unwrap();
    let config = ModelConfig { architecture: Some(architecture), ..ModelConfig::default() };
    assert_eq!(logits(&path, &config).unwrap(), expected);
    // … in the file's metadata …
    let path = foreign(&folder, None, &[("hublab.architecture", Value::String(description()))]);
    assert_eq!(logits(&path, &ModelConfig::default()).unwrap(), expected);
    // … or beside it.
    let path = foreign(&folder, None, &[]);
    let error = logits(&path, &ModelConfig::default()).unwrap_err();
    assert!(error.contains("`mine` is not supported"), "{error}");
    std::fs::write(folder.join("mine.arch.toml"), description()).unwrap();
    assert_eq!(logits(&path, &ModelConfig::default()).unwrap(), expected);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_description_and_a_file_that_disagree_are_refused_by_name() {
    let folder = folder("refused");
    let check = |dropped: Option<&str>, edit: fn(String) -> String, says: &[&str]| {
        let path = foreign(&folder, dropped, &[("hublab.architecture", Value::String(edit(description())))]);
        let error = logits(&path, &ModelConfig::default()).unwrap_err();
        for part in says {
            assert!(error.contains(part), "`{error}` does not say `{part}`");
        }
    };
    let same = |text: String| text;
    check(Some("blk.1.ffn_down.weight"), same, &["h.1.mlp.down.weight", "missing"]);
    check(Some("blk.0.attn_q.bias"), same, &["h.0.attn.query.bias", "missing"]);
    check(None, |text| text.replace("qkv-bias = \"required\"", ""), &["h.0.attn.query.bias", "`mine`"]);
    check(None, |text| text.replace("ffn_up = ", "ffn_upp = "), &["ffn_upp", "ffn_up"]);
    check(None, |text| text.replace("\"mine.epsilon\"", "\"mine.eps\""), &["mine.eps", "missing"]);
    check(None, |text| text.replace("head_count_kv\" = 2", "head_count_kv\" = 5"), &["5"]);
    check(None, |text| text.replace("gated = true", "gated = maybe"), &["hublab.architecture", "line 13"]);
    std::fs::remove_dir_all(&folder).unwrap();
}
