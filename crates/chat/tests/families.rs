//! Templates of over thirty families, rendered as `transformers` renders them (see `oracle_transformers.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hublabio_chat::{ChatTemplate, Error, Json, Message, RenderOptions, Timestamp, Tool};
use serde_json::from_str;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(data().join(path)).unwrap()
}

fn family(name: &str) -> ChatTemplate {
    let source = read(&format!("families/{name}.jinja"));
    ChatTemplate::new(&source, "<s>", "</s>").unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// 2026-02-03 04:05:06.
const NOW: Timestamp = Timestamp(1_770_091_506);

struct Conversation {
    name: String,
    messages: Vec<Message>,
    tools: bool,
    variables: Vec<(String, Json)>,
    generation: bool,
}

fn conversations() -> Vec<Conversation> {
    let read = |conversation: &Json| Conversation {
        name: conversation["name"].as_str().unwrap().to_owned(),
        messages: Message::list_from_json(&conversation["messages"]).unwrap(),
        tools: conversation.get("tools").is_some(),
        variables: conversation["variables"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        generation: conversation["generation"].as_bool().unwrap(),
    };
    let list: Vec<Json> = from_str(&self::read("conversations.json")).unwrap();
    list.iter().map(read).collect()
}

#[test]
fn every_family_renders_as_transformers_does() {
    let conversations = conversations();
    let tools = Tool::list_from_json(&from_str(&read("tools.json")).unwrap()).unwrap();
    let outcomes: BTreeMap<String, Vec<Json>> = from_str(&read("families.json")).unwrap();
    let (mut texts, mut refusals, mut failures) = (0, 0, Vec::new());
    for (name, outcomes) in &outcomes {
        let template = family(name);
        assert_eq!(outcomes.len(), conversations.len(), "{name}");
        assert_eq!(template.arguments_as_text(), name.starts_with("deepseek_v3") || name == "deepseek_r1", "{name}");
        for (conversation, expected) in conversations.iter().zip(outcomes) {
            // `transformers` lets a template ignore tools; here that is an error, with a test of its own.
            let takes_tools = conversation.tools && template.takes_tools();
            let options = RenderOptions {
                add_generation_prompt: conversation.generation,
                tools: if takes_tools { &tools } else { &[] },
                variables: &conversation.variables,
                now: Some(NOW),
                shield: None,
            };
            let found = template.render_with(&conversation.messages, &options);
            let same = match (expected, &found) {
                (Json::String(text), Ok(found)) => {
                    texts += 1;
                    text == found
                }
                (Json::Object(raised), Err(Error::Refused { message, .. })) => {
                    refusals += 1;
                    raised["raised"] == **message
                }
                (Json::Null, Err(Error::Render { .. } | Error::Endless { .. })) => true,
                _ => false,
            };
            if !same {
                let found = found.map(Json::String);
                failures.push(format!("{name}, {}:\n expected {expected}\n found    {found:?}", conversation.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
    assert!(
        outcomes.len() >= 40 && texts >= 600 && refusals >= 60,
        "{} templates, {texts}, {refusals}",
        outcomes.len()
    );
}
