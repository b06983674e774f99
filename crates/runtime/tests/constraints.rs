//! The shipped model under constraints: whatever it would rather say, its answer has the form that was asked for.

use std::ops::ControlFlow;

use hublabio_runtime::Error;
use hublabio_runtime::ai::constraint::{
    ConstraintConfig, ConstraintError, ConstraintSource, ToolCallShape, ToolSchema,
};
use hublabio_runtime::ai::{
    Finish, Generation, GenerationConfig, InferenceEngine, Message, ModelConfig, OutputParser, Tool, ToolFormat,
};
use serde_json::{Value, json};

fn open() -> InferenceEngine {
    InferenceEngine::open_default(&ModelConfig::default()).unwrap()
}

fn answer(engine: &mut InferenceEngine, config: &GenerationConfig) -> Result<Generation, Error> {
    let prompt = engine.chat_prompt(&[Message::new("user", "What does tar do?")])?;
    engine.generate(&prompt, config, &mut |_| ControlFlow::Continue(()))
}

fn constrained(source: ConstraintSource, base: GenerationConfig) -> GenerationConfig {
    GenerationConfig { constraint: Some(source.into()), max_tokens: Some(400), ..base }
}

#[test]
fn an_answer_obeys_its_schema() {
    let mut engine = open();
    let schema = json!({
        "type": "object",
        "properties": {
            "summary": { "type": "string", "maxLength": 30 },
            "kind": { "enum": ["tool", "function"] },
            "size": { "type": "integer", "minimum": 10, "maximum": 99 },
        },
        "required": ["summary", "kind", "size"],
        "additionalProperties": false,
    });
    for (at, base) in [GenerationConfig::greedy(), GenerationConfig::creative()].into_iter().enumerate() {
        let config = constrained(ConstraintSource::JsonSchema(schema.clone()), base);
        let generation = answer(&mut engine, &config).unwrap();
        assert_eq!(generation.finish, Finish::EndOfText, "{at}: {}", generation.text);
        let value: Value =
            serde_json::from_str(&generation.text).unwrap_or_else(|e| panic!("{e}: {}", generation.text));
        assert!(value["summary"].as_str().unwrap().chars().count() <= 30);
        assert!(["tool", "function"].contains(&value["kind"].as_str().unwrap()));
        assert!((10..=99).contains(&value["size"].as_i64().unwrap()));
        assert_eq!(value.as_object().unwrap().len(), 3);
    }
    // Without a constraint the same engine answers as ever.
    assert_eq!(answer(&mut engine, &GenerationConfig::greedy()).unwrap().text, "An archiving utility.");
}

#[test]
fn expressions_and_grammars_hold() {
    let mut engine = open();
    let mut text = |source| answer(&mut engine, &constrained(source, GenerationConfig::greedy())).unwrap().text;
    let number = text(ConstraintSource::Regex("[0-9]{4}-[0-9]{2}".to_owned()));
    assert!(number.len() == 7 && number.as_bytes()[4] == b'-', "{number}");
    let gbnf = "root ::= \"(\" root \")\" | \"[\" [xyz]{3} \"]\"";
    let nested = text(ConstraintSource::Gbnf(gbnf.to_owned()));
    let core = nested.trim_matches(['(', ')']);
    assert!(core.len() == 5 && core.starts_with('[') && core.ends_with(']'), "{nested}");
    let choice = text(ConstraintSource::Choice(vec!["yes".to_owned(), "no".to_owned()]));
    assert!(["yes", "no"].contains(&choice.as_str()), "{choice}");
    let lark = text(ConstraintSource::Lark("start: \"<\" %json {\"type\": \"boolean\"} \">\"".to_owned()));
    assert!(["<true>", "<false>"].contains(&lark.as_str()), "{lark}");
}

#[test]
fn an_answer_may_begin_freely() {
    let mut engine = open();
    let source = ConstraintSource::Choice(vec!["yes".to_owned(), "no".to_owned()]);
    let config = ConstraintConfig { source, after: Some(".".to_owned()) };
    let config = GenerationConfig { constraint: Some(config), max_tokens: Some(200), ..GenerationConfig::greedy() };
    let text = answer(&mut engine, &config).unwrap().text;
    let (free, rest) = text.split_once('.').unwrap();
    assert_eq!(free, "An archiving utility");
    assert!(["yes", "no"].contains(&rest.trim()), "{text}");
}

#[test]
fn what_cannot_be_honoured_is_refused_before_anything_is_computed() {
    let mut engine = open();
    let prompt = engine.chat_prompt(&[Message::new("user", "What does tar do?")]).unwrap();
    let config =
        constrained(ConstraintSource::JsonSchema(json!({ "items": { "not": {} } })), GenerationConfig::greedy());
    let error = engine.generate(&prompt, &config, &mut |_| panic!("nothing may be generated")).unwrap_err();
    assert!(matches!(error, Error::Constraint(ConstraintError::UnsupportedKeywords { .. })), "{error}");
    assert!(error.to_string().contains("`not` at #/items"), "{error}");
    // Not a single position was computed: the next answer finds nothing of the prompt in the cache.
    let generation = answer(&mut engine, &GenerationConfig::greedy()).unwrap();
    assert_eq!(generation.stats.cached_tokens, 0);
}

#[test]
fn a_tool_is_called_with_its_arguments() {
    let parameters = json!({
        "type": "object",
        "properties": { "page": { "type": "string", "pattern": "^[a-z]{1,12}$" }, "section": { "enum": [1, 8] } },
        "required": ["page", "section"],
        "additionalProperties": false,
    });
    let tools = Tool::list_from_json(&json!([{ "name": "man", "parameters": parameters }, { "name": "now" }])).unwrap();
    let schemas = [
        ToolSchema { name: "man".to_owned(), parameters },
        ToolSchema { name: "now".to_owned(), parameters: json!({ "type": "object", "maxProperties": 0 }) },
    ];
    let shape = ToolCallShape {
        before: "<tool_call>\n".to_owned(),
        after: "\n</tool_call>".to_owned(),
        ..ToolCallShape::default()
    };
    let mut engine = open();
    // Either of the two, and the one that is named.
    for (offered, names) in [(&schemas[..], &["man", "now"][..]), (&schemas[..1], &["man"][..])] {
        let source = ConstraintSource::tool_call(offered, &shape).unwrap();
        let generation = answer(&mut engine, &constrained(source, GenerationConfig::greedy())).unwrap();
        let parsed = OutputParser::new(ToolFormat::Hermes, &tools).parse(&generation.text);
        let [call] = parsed.tool_calls.as_slice() else { panic!("{parsed:?} of {:?}", generation.text) };
        assert_eq!(generation.finish, Finish::EndOfText);
        assert!(parsed.content.trim().is_empty() && parsed.malformed.is_empty(), "{parsed:?}");
        assert!(names.contains(&call.name.as_str()), "{}", call.name);
        let arguments = serde_json::to_value(&call.arguments).unwrap();
        let arguments = arguments.as_object().unwrap();
        if call.name == "man" {
            let page = arguments["page"].as_str().unwrap();
            assert!((1..=12).contains(&page.len()) && page.bytes().all(|byte| byte.is_ascii_lowercase()), "{page}");
            assert!(arguments["section"] == 1 || arguments["section"] == 8);
            assert_eq!(arguments.len(), 2);
        } else {
            assert!(arguments.is_empty());
        }
    }
}
