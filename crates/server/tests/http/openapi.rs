//! `docs/openapi.json` is what the service says of itself; `HUBLAB_BLESS=1 cargo test -p hublabio-server` writes it anew.

use crate::client::Service;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

#[test]
fn the_committed_description_is_the_services_own() {
    let generated = hublabio_server::openapi_text();
    if std::env::var_os("HUBLAB_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(PATH, &generated).expect("docs/openapi.json can be written");
    }
    let committed = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        committed == generated,
        "docs/openapi.json is out of date: run HUBLAB_BLESS=1 cargo test -p hublabio-server"
    );
    assert_eq!(Service::start().get("/openapi.json").text(), generated);
}

#[test]
fn every_operation_says_what_can_go_wrong() {
    let described: serde_json::Value = serde_json::from_str(&hublabio_server::openapi_text()).unwrap();
    let paths = described["paths"].as_object().unwrap();
    assert!(paths.len() >= 12);
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            let succeeds = responses.keys().any(|status| status.starts_with('2'));
            assert!(succeeds && responses.contains_key("401"), "{method} {path}");
            let has_body = operation.get("requestBody").is_some();
            assert_eq!(responses.contains_key("413"), has_body, "{method} {path}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let service = Service::start();
    let document = service.get("/openapi.json").ok();
    let known = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    let references: Vec<&str> =
        text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(references.len() > 100, "only {} references", references.len());
    for reference in references {
        assert!(known.contains_key(reference), "{reference}");
    }
}
