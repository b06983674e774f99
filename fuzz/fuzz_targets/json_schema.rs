//! Any text as a JSON Schema: refused with a message, or found fit to be compiled. Then as the parameters of tools, whose
//! constraint is as fit.
#![no_main]

use hublabio_chat::constraint::{ConstraintSource, ToolCallShape, ToolSchema};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let source = match ConstraintSource::json_schema(text) {
        Ok(source) => source,
        Err(error) => {
            assert!(error.to_string().contains("line"), "{error}");
            return;
        }
    };
    let checked = source.check();
    if let Err(error) = &checked {
        assert!(!error.to_string().is_empty());
    }
    let ConstraintSource::JsonSchema(parameters) = source else { unreachable!("it was read as one") };
    let tools = ["a", "b/~"].map(|name| ToolSchema { name: name.to_owned(), parameters: parameters.clone() });
    let _ = ConstraintSource::tool_call(&tools, &ToolCallShape::default()).expect("two tools").check();
});
