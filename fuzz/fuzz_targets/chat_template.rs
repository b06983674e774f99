//! Any template: compiling and rendering end in a prompt or an error, within the limits. The input is the template; if
//! it has a line of `---`, what follows is the user's message, a text or a list of messages in JSON.
#![no_main]

use hublabio_chat::{ChatTemplate, Json, Message, RenderOptions, Timestamp, Tool};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, content) = text.split_once("\n---\n").unwrap_or((text, "Hello"));
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else { return };
    let list = serde_json::from_str::<Json>(content).ok().and_then(|list| Message::list_from_json(&list).ok());
    let messages = list.unwrap_or_else(|| vec![Message::new("system", "Be brief."), Message::new("user", content)]);
    let definitions = serde_json::json!([{ "name": "f", "parameters": { "properties": { "a": { "type": "string" } } } }]);
    let tools = Tool::list_from_json(&definitions).expect("a good definition");
    let tools = if template.takes_tools() { tools.as_slice() } else { &[] };
    let options =
        RenderOptions { add_generation_prompt: true, tools, now: Some(Timestamp(0)), ..RenderOptions::default() };
    if let Ok(prompt) = template.render_with(&messages, &options) {
        assert!(prompt.len() <= (1 << 20) + 64 * (content.len() + 1024));
        assert_eq!(template.render_with(&messages, &options).as_ref(), Ok(&prompt));
    }
});
