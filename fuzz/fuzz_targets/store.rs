//! What the store and the configuration read: `system.toml`, one of its values, manifests of Ollama's, the store's own
//! records, what to fetch, and what servers say of it. The first byte says which.
#![no_main]

use std::path::Path;

use hublabio_runtime::config::{ConfigSource, EffectiveConfig, KEYS, SystemConfig};
use hublabio_runtime::store::pull::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 7 {
        0 => file(&text),
        1 => value(&text),
        2 => fuzzing::manifest(rest),
        3 => fuzzing::records(rest),
        4 => fuzzing::sidecar(rest),
        5 => fuzzing::reference(&text),
        _ => fuzzing::headers(&text),
    }
});

/// A configuration is refused with a message that names the file, or what is shown of it is read as the same.
fn file(text: &str) {
    let path = Path::new("/etc/hublab/system.toml");
    match SystemConfig::parse(text, path) {
        Ok(read) => {
            let written = written(&read);
            let again = SystemConfig::parse(&written, path).unwrap_or_else(|error| panic!("{error}: {written}"));
            assert_eq!(self::written(&again), written);
        }
        Err(error) => assert!(error.to_string().contains("system.toml"), "{error}"),
    }
}

/// All values as a file has them.
fn written(config: &EffectiveConfig) -> String {
    let mut text = String::new();
    for value in config.values() {
        let (table, name) = value.key.path.split_once('.').expect("a key is in a table");
        // A text of JSON is one of TOML, but for one character.
        let shown = value.value.to_string().replace('\u{7f}', "\\u007f");
        text += &format!("{table}.{name} = {shown}\n");
    }
    text
}

/// A line for the variable of each key: refused with a message that names the variable, or taken.
fn value(text: &str) {
    for (key, line) in KEYS.iter().zip(text.lines()) {
        let variable = key.variable();
        let mut source = ConfigSource::new([(variable.as_str(), line)]);
        source.system_file = "/no/such/file".into();
        if let Err(error) = SystemConfig::load(&source) {
            assert!(error.to_string().contains(&variable), "{error}");
        }
    }
}
