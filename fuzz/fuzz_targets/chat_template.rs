//! Any template: compiling and rendering end in a prompt or an error, within the limits. The input is the template; if
//! it has a line of `---`, what follows is the user's message.
#![no_main]

use hublabio_chat::{ChatTemplate, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, content) = text.split_once("\n---\n").unwrap_or((text, "Hello"));
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else { return };
    let messages = [Message::new("system", "Be brief."), Message::new("user", content)];
    if let Ok(prompt) = template.render(&messages, true) {
        assert!(prompt.len() <= (1 << 20) + 4 * (content.len() + 64));
        assert_eq!(template.render(&messages, true).as_ref(), Ok(&prompt));
    }
});
