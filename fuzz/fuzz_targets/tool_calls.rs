//! Any answer: it is taken apart the same at once and in pieces, and what is neither called nor thought is said. The
//! input is a line with the name of a format, then the answer.
#![no_main]

use hublabio_chat::{Answer, OutputParser, Tool, ToolFormat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((name, text)) = text.split_once('\n') else { return };
    let definitions = serde_json::json!([
        { "name": "f", "parameters": { "properties": { "a": { "type": "string" }, "b": { "type": "integer" } } } },
        { "name": "now" },
    ]);
    let tools = Tool::list_from_json(&definitions).expect("a good definition");
    let format = name.parse::<ToolFormat>().unwrap_or(ToolFormat::Json);
    let prompt = if name.is_empty() { "<think>\n" } else { "" };
    let parser = OutputParser::new(format, &tools).after_prompt("", prompt);
    let whole = parser.clone().parse(text);

    let mut streamed = parser;
    let mut answer = Answer::default();
    for c in text.chars() {
        streamed.push(c.encode_utf8(&mut [0; 4])).into_iter().for_each(|event| answer.add(event));
    }
    streamed.finish().into_iter().for_each(|event| answer.add(event));
    assert_eq!(answer, whole);

    // White space at the beginning of reasoning leaves nothing.
    if !name.is_empty() && whole.tool_calls.is_empty() && whole.reasoning.is_none() && whole.malformed.is_empty() {
        // Marks without anything between them leave nothing; white space around them neither.
        let lost = text.len() - whole.content.len();
        assert!(lost == 0 || text.contains(['<', '[']), "{text:?} became {:?}", whole.content);
    }
    for malformed in &whole.malformed {
        assert!(text.contains(&malformed.raw), "{:?} is not in {text:?}", malformed.raw);
    }
});
