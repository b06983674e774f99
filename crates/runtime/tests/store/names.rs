//! Names and small files from outside, whatever they are: nothing panics, and nothing outside the folders is found.

use std::fs;

use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::ModelCatalog as _;
use proptest::prelude::*;

use crate::folder::{Folder, model_bytes};

/// Names made of what leads elsewhere.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("/".to_owned()),
        Just("\\".to_owned()),
        Just("outside".to_owned()),
        Just("inside".to_owned()),
        Just("models".to_owned()),
        Just(".gguf".to_owned()),
        Just(":".to_owned()),
        Just("\0".to_owned()),
        Just("-00001-of-00002".to_owned()),
        Just("-00001-of-00001".to_owned()),
        ".{0,3}",
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn no_name_leads_out_of_the_folders() {
    let folder = Folder::new("escape");
    folder.write("models/inside.gguf", &model_bytes(1, 0));
    folder.write("outside.gguf", &model_bytes(1, 0));
    folder.write("outside", b"");
    let store = folder.store();
    let models = folder.models();
    proptest!(ProptestConfig::with_cases(2000), |(name in hostile())| {
        for found in [store.find(&name), store.find_for_path(&name)].into_iter().flatten() {
            match found.source {
                ModelSource::File(path) => {
                    let real = fs::canonicalize(path).unwrap();
                    prop_assert!(real.starts_with(fs::canonicalize(&models).unwrap()), "{name:?}: {real:?}");
                }
                ModelSource::Builtin(_) => {}
            }
        }
        // `inside` may be found; nothing may be removed or made elsewhere.
        if !name.contains("inside") {
            let _ = store.remove(&name);
        }
        prop_assert!(folder.0.join("outside.gguf").exists() && models.join("inside.gguf").exists());
    });
}

#[test]
fn records_and_manifests_may_hold_anything() {
    let folder = Folder::new("hostile");
    let store = folder.store();
    let json = prop_oneof![
        ".{0,40}",
        hostile().prop_map(|name| serde_json::json!({ "aliases": { name.clone(): name } }).to_string()),
        (hostile(), any::<u64>()).prop_map(|(digest, size)| serde_json::json!({ "layers": [{
            "mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{digest}"), "size": size }] })
        .to_string()),
    ];
    proptest!(ProptestConfig::with_cases(300), |(text in json, name in hostile())| {
        folder.write("models/.hublab-store.json", text.as_bytes());
        folder.write("ollama/manifests/registry.ollama.ai/library/m/latest", text.as_bytes());
        let _ = (store.list(), store.find("m"), store.find(&name));
    });
}
