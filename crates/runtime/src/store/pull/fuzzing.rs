//! What `fuzz/fuzz_targets/store.rs` asks of parsers that nobody else outside may call. Each takes anything, and panics where a
//! promise of its parser is broken.

use super::super::ollama::{OllamaName, parse_manifest};
use super::super::records::Records;
use super::client::{parse_content_range, parse_retry_after};
use super::part::Version;
use super::reference::{Reference, Source, Url};
use super::{is_sha256, name};

/// A manifest of Ollama's names one file by its SHA-256, in small digits, or is refused.
pub fn manifest(bytes: &[u8]) {
    match parse_manifest(bytes) {
        Ok(layer) => assert!(is_sha256(&layer.sha256) && !layer.sha256.contains(|c: char| c.is_ascii_uppercase())),
        Err(problem) => assert!(!problem.is_empty()),
    }
}

/// What the store wrote down is refused, or comes back as the same when it is written again.
pub fn records(bytes: &[u8]) {
    match Records::parse(bytes) {
        Ok(records) => {
            let text = serde_json::to_vec(&records).expect("names and numbers are JSON");
            assert_eq!(Records::parse(&text).as_ref(), Ok(&records));
        }
        Err(problem) => assert!(!problem.is_empty()),
    }
}

/// What is written beside an unfinished download: whoever differs from it is not its continuation.
pub fn sidecar(bytes: &[u8]) {
    let Ok(version) = serde_json::from_slice::<Version>(bytes) else { return };
    let tells = version.sha256.is_some() || version.etag.is_some() || version.last_modified.is_some();
    assert_eq!(version.is_same(&version), tells);
    assert!(
        version.validator().is_none_or(|validator| !validator.starts_with("W/") || version.last_modified.is_some())
    );
}

/// A reference is refused, or means files at absolute addresses of one server; written down it means the same.
pub fn reference(text: &str) {
    let Ok(reference) = Reference::parse(text) else { return };
    let registry = Url::parse("https://registry.example/base").expect("an address");
    let parts = reference.parts();
    assert!((1..=1000).contains(&parts.len()));
    for part in &parts {
        assert_eq!(part.parts().len(), parts.len());
        match &part.source {
            Source::Ollama(name) => {
                // A server's name may be none that an address can have.
                let _ = name.base(&registry);
            }
            _ => assert!(part.url(&registry).is_some_and(|url| url.path.starts_with('/'))),
        }
    }
    let written = reference.to_string();
    match Reference::parse(&written) {
        Ok(again) => assert_eq!(again.to_string(), written),
        // With its scheme it may be longer than what was given.
        Err(error) => assert!(text.len() + 64 > 4096, "{written}: {error}"),
    }
    let given = reference.default_name();
    if name::check(&given).is_ok() {
        assert!(!given.split('/').any(|piece| matches!(piece, "" | "." | "..")));
    }
    if let Some(name) = OllamaName::parse(text) {
        assert_eq!(OllamaName::parse(&name.to_string()), Some(name));
    }
}

/// Headers of an answer, one a line: a place in a file, a time to wait, and where a redirect leads, which is never from one
/// scheme to another without saying so.
pub fn headers(text: &str) {
    for line in text.lines().take(64) {
        let _ = (parse_content_range(line), parse_retry_after(line));
        for from in ["https://a.example/x/y?z", "http://b.example"] {
            let from = Url::parse(from).expect("an address");
            let Ok(to) = from.join(line) else { continue };
            assert!(to.path.starts_with('/') && !to.authority.is_empty() && !to.authority.contains('@'));
            assert!(line.contains("://") || to.tls == from.tls, "{line}");
            assert_eq!(Url::parse(&to.to_string()).as_ref(), Ok(&to));
        }
    }
}
