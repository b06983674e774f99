//! Constraints over small vocabularies: what is allowed, what is refused, and that hostile input ends in an error.

use std::thread;

use hublabio_tokenizer::{TokenId, TokenType, Tokenizer, Vocabulary, VocabularyKind};
use serde_json::{Value, json};

use super::{
    Constraint, ConstraintCompiler, ConstraintConfig, ConstraintError, ConstraintSource, ToolCallShape, ToolSchema,
};

const EOS: TokenId = TokenId(256);
const EOT: TokenId = TokenId(257);

/// A token for each byte, two ends, a control token, and some tokens of several bytes.
fn tokenizer() -> Tokenizer {
    let mut tokens: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut types = vec![TokenType::Byte; 256];
    for name in ["</s>", "<|eot|>", "<|tool|>", "</think>"] {
        tokens.push(name.to_owned());
        types.push(TokenType::Control);
    }
    for text in ["{\"", "\":", "true", "▁\"", "ab", "abc", "</answer>", "12"] {
        tokens.push(text.to_owned());
        types.push(TokenType::Normal);
    }
    tokens.push("<unused>".to_owned());
    types.push(TokenType::Unused);
    let mut vocabulary = Vocabulary::new(VocabularyKind::Spm, tokens);
    vocabulary.scores = vec![0.0; types.len()];
    vocabulary.types = types;
    vocabulary.eos = Some(EOS);
    vocabulary.eot = Some(EOT);
    Tokenizer::new(vocabulary).unwrap()
}

fn compiler() -> ConstraintCompiler {
    ConstraintCompiler::new(&tokenizer()).unwrap()
}

fn compile(source: ConstraintSource) -> Result<Constraint, ConstraintError> {
    compiler().compile(&source.into())
}

fn schema(value: Value) -> Result<Constraint, ConstraintError> {
    compile(ConstraintSource::JsonSchema(value))
}

fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let mask = constraint.mask().unwrap().to_vec();
    (0..mask.len() as u32 * 32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

/// Feeds bytes one token each; every one must be in the mask exactly when it is accepted.
fn feed(constraint: &mut Constraint, text: &str) -> bool {
    text.bytes().all(|byte| {
        let in_mask = constraint.mask().is_ok_and(|mask| mask[byte as usize / 32] >> (byte % 32) & 1 == 1);
        let accepted = constraint.accept(TokenId(u32::from(byte))).is_ok();
        assert_eq!(in_mask, accepted, "byte {byte:?} of {text:?}");
        accepted
    })
}

fn accepts(constraint: &Constraint, text: &str) -> bool {
    let mut constraint = constraint.clone();
    feed(&mut constraint, text) && constraint.may_end()
}

fn check(constraint: &Constraint, yes: &[&str], no: &[&str]) {
    for text in yes {
        assert!(accepts(constraint, text), "{text:?} is refused");
    }
    for text in no {
        assert!(!accepts(constraint, text), "{text:?} is accepted");
    }
}

fn joined(count: usize, part: impl Fn(usize) -> String) -> String {
    (0..count).map(part).collect::<Vec<_>>().concat()
}

fn has_type(name: &str) -> Value {
    json!({ "type": name })
}

fn refusal(result: Result<Constraint, ConstraintError>) -> ConstraintError {
    result.expect_err("it should be refused")
}

#[test]
fn a_schema_allows_what_obeys_it() {
    let constraint = schema(json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 3 }, "age": { "type": "integer", "minimum": 0 } },
        "required": ["name"],
        "additionalProperties": false,
    }))
    .unwrap();
    check(
        &constraint,
        &[r#"{"name":"Ada"}"#, r#"{"name": "é\n", "age": 7}"#, "{\n  \"name\": \"\"\n}"],
        &[r#"{"name":"Adam"}"#, r#"{"age":7}"#, r#"{"name":"A","x":1}"#, r#"{"name":"A","age":-1}"#, r#"{"name":"A""#],
    );
}

#[test]
fn the_end_is_allowed_only_where_it_may_be() {
    let mut constraint = schema(json!({ "enum": ["ab", 12] })).unwrap();
    let ends = |constraint: &mut Constraint| {
        let allowed = allowed(constraint);
        (allowed.contains(&EOS.0), allowed.contains(&EOT.0), allowed.iter().any(|id| !(256..=257).contains(id)))
    };
    assert_eq!(ends(&mut constraint), (false, false, true));
    assert!(!constraint.may_end());
    assert_eq!(constraint.accept(EOS), Err(ConstraintError::NotAllowed { token: EOS.0 }));
    assert!(feed(&mut constraint, "\"ab\""));
    assert!(constraint.may_end());
    let (eos, eot, _) = ends(&mut constraint);
    assert!(eos && eot, "both end tokens end an answer");
    constraint.accept(EOT).unwrap();
    assert!(constraint.is_finished());
    assert_eq!(allowed(&mut constraint), [EOS.0, EOT.0]);
    assert!(constraint.accept(TokenId(65)).is_err(), "nothing follows an end");

    // Where nothing can follow, only an end is allowed.
    let mut constraint = compile(ConstraintSource::Regex("ab".to_owned())).unwrap();
    assert!(feed(&mut constraint, "ab"));
    assert!(constraint.is_finished());
    assert_eq!(allowed(&mut constraint), [EOS.0, EOT.0]);
    constraint.accept(EOS).unwrap();
}

#[test]
fn tokens_of_several_bytes_are_allowed_where_all_of_them_fit() {
    let tokenizer = tokenizer();
    let id =
        |text: &str| (0..tokenizer.n_tokens() as u32).find(|&id| tokenizer.piece(TokenId(id)) == Some(text)).unwrap();
    let mut constraint = compile(ConstraintSource::Regex("ab|ad".to_owned())).unwrap();
    assert_eq!(allowed(&mut constraint), [u32::from(b'a'), id("ab")]);
    constraint.accept(TokenId(id("ab"))).unwrap();
    assert!(constraint.is_finished());
    // A token out of the mask changes nothing.
    let mut constraint = compile(ConstraintSource::Regex("abc".to_owned())).unwrap();
    assert!(constraint.accept(TokenId(id("true"))).is_err());
    assert!(constraint.accept(TokenId(9999)).is_err());
    assert_eq!(constraint.forced_bytes(), b"abc");
    constraint.accept(TokenId(id("abc"))).unwrap();
    assert!(constraint.is_finished());
    // Unused and control tokens are never text.
    let mut anything = compile(ConstraintSource::Regex("(?s:.*)".to_owned())).unwrap();
    let all = allowed(&mut anything);
    for name in ["<unused>", "<|tool|>", "</think>"] {
        assert!(!all.contains(&id(name)), "{name}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name_and_place() {
    let cases = [
        (json!({ "type": "array", "uniqueItems": true }), "`uniqueItems` at #"),
        (json!({ "properties": { "a/b": { "items": [{ "not": {} }] } } }), "`not` at #/properties/a~1b/items/0"),
        (
            json!({ "$ref": "#/$defs/x", "$defs": { "x": { "if": {}, "then": false } } }),
            "`if` at #/$defs/x, `then` at #/$defs/x",
        ),
        (json!({ "type": "string", "format": "regex" }), "`format: \"regex\"` at #"),
        (
            json!({ "properties": { "a": { "$ref": "https://example.com/schema" } } }),
            "`$ref: \"https://example.com/schema\"` at #/properties/a",
        ),
        (json!({ "x-guidance": { "lenient": true }, "not": {} }), "`x-guidance` at #"),
    ];
    for (value, expected) in cases {
        let error = refusal(schema(value.clone()));
        assert!(matches!(error, ConstraintError::UnsupportedKeywords { .. }), "{value}: {error}");
        assert!(error.to_string().contains(expected), "{value}: {error}");
    }
}

#[test]
fn keywords_that_say_nothing_are_no_reason_to_refuse() {
    let constraint = schema(json!({
        "type": "array",
        "uniqueItems": false,
        "minContains": 3,
        "then": { "not": {} },
        "items": { "type": "object", "propertyNames": true, "dependencies": {}, "properties": {
            // A property of that name is no keyword.
            "uniqueItems": { "const": 1 },
            "not": { "enum": [{ "uniqueItems": false }] },
        }, "additionalProperties": false },
        "$defs": { "unused": { "not": {} } },
    }))
    .unwrap();
    check(
        &constraint,
        &["[]", r#"[{"uniqueItems":1}]"#, r#"[{"not":{"uniqueItems":false}}]"#],
        &[r#"[{"uniqueItems":2}]"#, r#"[{"not":{}}]"#],
    );
}

#[test]
fn schemas_without_values_are_refused() {
    let cases = [
        json!(false),
        json!({ "allOf": [has_type("string"), has_type("integer")] }),
        json!({ "type": "integer", "minimum": 3, "maximum": 2 }),
        json!({ "type": "object", "properties": { "a": false }, "required": ["a"] }),
        json!({ "type": "string", "pattern": "^a$", "maxLength": 0 }),
        // Values that would have to contain themselves.
        json!({ "type": "object", "properties": { "a": { "$ref": "#" } }, "required": ["a"] }),
        json!({ "type": "array", "items": { "$ref": "#" }, "minItems": 1 }),
        json!({ "$ref": "#/$defs/a", "$defs": {
            "a": { "anyOf": [{ "$ref": "#/$defs/b" }] },
            "b": { "type": "array", "prefixItems": [{ "$ref": "#/$defs/a" }], "minItems": 1 },
        } }),
    ];
    for value in cases {
        let error = refusal(schema(value.clone()));
        assert!(matches!(error, ConstraintError::Unsatisfiable { .. }), "{value}: {error}");
    }
    // Those that contain themselves where they need not are fine.
    let tree = schema(json!({
        "type": "object",
        "properties": { "left": { "anyOf": [{ "$ref": "#" }, { "type": "null" }] }, "rest": { "items": { "$ref": "#" } } },
        "required": ["left", "rest"],
        "additionalProperties": false,
    }))
    .unwrap();
    check(&tree, &[r#"{"left":{"left":null,"rest":[]},"rest":[]}"#], &[r#"{"left":1,"rest":[]}"#]);
}

#[test]
fn wrong_schemas_are_refused() {
    for (value, expected) in [
        (json!([1]), "an object or a boolean"),
        (json!({ "type": "text" }), "text"),
        (json!({ "type": "string", "pattern": "(" }), "("),
        (json!({ "required": 1 }), "required"),
        (json!({ "$ref": "#/nowhere" }), "#/nowhere"),
    ] {
        let error = refusal(schema(value.clone())).to_string();
        assert!(error.contains(expected), "{value}: {error}");
        assert!(!error.contains("<state>") && !error.contains("<non-verbose"), "{value}: {error}");
    }
    let error = ConstraintSource::json_schema("{\n \"type\": }").unwrap_err();
    assert!(error.to_string().contains("line 2 column"), "{error}");
}

#[test]
fn a_json_object_is_any_object() {
    let constraint = compile(ConstraintSource::JsonObject).unwrap();
    check(&constraint, &["{}", r#"{"a":[1,{"b":null}]}"#], &["[]", "1", "{", "{a:1}"]);
    // White space as people and programs write it, but not without end.
    check(&constraint, &["{ }", "{\n    \"a\": [1, 2],\r\n\t\"b\" : 3\n}"], &["{   }", "{\n\n}", "{ "]);
}

#[test]
fn regular_expressions_match_as_a_whole() {
    let constraint = compile(ConstraintSource::Regex(r"(a/b|\d{2,3})\n?".to_owned())).unwrap();
    check(&constraint, &["a/b", "12", "123\n"], &["a", "1", "1234", "xa/b"]);
    for (text, expected) in
        [("(", "unclosed group"), ("a(?=b)", "look-around"), (r"(a)\1", "backreferences"), ("", "empty")]
    {
        let error = refusal(compile(ConstraintSource::Regex(text.to_owned()))).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn lark_may_name_control_tokens() {
    let lark = "start: <|tool|> NAME \"(\" %json {\"type\": \"integer\"} \")\"\nNAME: /[a-z]+/\n";
    let mut constraint = compile(ConstraintSource::Lark(lark.to_owned())).unwrap();
    assert_eq!(allowed(&mut constraint), [258]);
    constraint.accept(TokenId(258)).unwrap();
    check(&constraint, &["f(1)", "abc(-20)"], &["f()", "1(1)", "f(1"]);
    for (text, expected) in [
        ("start: x", "x"),
        ("start: \"a", "1(10)"),
        ("begin: \"a\"", "start"),
        ("start: <|none|>", "<|none|>"),
        ("", "empty"),
    ] {
        let error = refusal(compile(ConstraintSource::Lark(text.to_owned()))).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let choice = |texts: &[&str]| compile(ConstraintSource::Choice(texts.iter().map(|&t| t.to_owned()).collect()));
    check(&choice(&["yes", "yes, \"but\"\n", "no"]).unwrap(), &["yes", "yes, \"but\"\n", "no"], &["", "ye", "yesno"]);
    check(&choice(&["", "a"]).unwrap(), &["", "a"], &["aa"]);
    assert!(choice(&[]).is_err());
}

#[test]
fn an_answer_may_be_free_until_a_marker() {
    let source = ConstraintSource::JsonSchema(json!({ "type": "array", "items": has_type("integer") }));
    // As text, however it is cut into tokens.
    let config = ConstraintConfig { source: source.clone(), after: Some("</answer>".to_owned()) };
    let constraint = compiler().compile(&config).unwrap();
    let yes = ["I think {so.</answer>[1]", "</answer>\n\n[1,2]", "</ans</answer>[]"];
    check(&constraint, &yes, &["[1]", "", "x</answer>", "x</answer>{}", "x</answer>y[1]"]);
    let mut whole = constraint.clone();
    assert!(feed(&mut whole, "so"));
    whole.accept(TokenId(266)).unwrap();
    check(&whole, &["[1]"], &["so", ""]);
    // As a control token, which has no text.
    let config = ConstraintConfig { source, after: Some("</think>".to_owned()) };
    let mut constraint = compiler().compile(&config).unwrap();
    assert!(!allowed(&mut constraint).contains(&EOS.0), "the answer must not end in its free part");
    assert!(feed(&mut constraint, "hm, [ "));
    assert!(!constraint.may_end());
    constraint.accept(TokenId(259)).unwrap();
    check(&constraint, &["[1]", "\n\n[]"], &["", "{}"]);
    // At once, too.
    let mut constraint = compiler().compile(&config).unwrap();
    constraint.accept(TokenId(259)).unwrap();
    check(&constraint, &["[7]"], &["7"]);
    let config = ConstraintConfig { source: ConstraintSource::JsonObject, after: Some(" ".to_owned()) };
    assert!(compiler().compile(&config).is_err());
}

#[test]
fn tool_calls_call_a_tool_with_its_arguments() {
    let tools = [
        ToolSchema {
            name: "weather".to_owned(),
            parameters: json!({
                "type": "object",
                "properties": { "city": { "$ref": "#/$defs/city" } },
                "required": ["city"],
                "additionalProperties": false,
                "$defs": { "city": { "enum": ["Oslo", "Rome"] } },
            }),
        },
        ToolSchema { name: "time".to_owned(), parameters: json!({ "type": "object", "maxProperties": 0 }) },
    ];
    let yes = [r#"{"name":"weather","arguments":{"city":"Oslo"}}"#, r#"{"name": "time", "arguments": {}}"#];
    let no = [
        r#"{"name":"weather","arguments":{}}"#,
        r#"{"name":"time","arguments":{"city":"Oslo"}}"#,
        r#"{"name":"else","arguments":{}}"#,
        r#"{"name":"time"}"#,
        "",
    ];
    let bare = ConstraintSource::tool_call(&tools, &ToolCallShape::default()).unwrap();
    check(&compile(bare).unwrap(), &yes, &no);
    let shape = ToolCallShape {
        before: "<call>\n".to_owned(),
        after: "\n</call>".to_owned(),
        arguments_key: "parameters".to_owned(),
        ..ToolCallShape::default()
    };
    let wrapped = compile(ConstraintSource::tool_call(&tools, &shape).unwrap()).unwrap();
    check(&wrapped, &["<call>\n{\"name\":\"time\",\"parameters\":{}}\n</call>"], &[yes[1], "<call>\n</call>"]);
    assert!(ConstraintSource::tool_call(&[], &shape).is_err());
    assert!(ConstraintSource::tool_call(&[tools[1].clone(), tools[1].clone()], &shape).is_err());
}

#[test]
fn calls_that_must_come_are_those_that_the_parser_reads() {
    let schemas = [
        ToolSchema { name: "now".to_owned(), parameters: json!({ "type": "object", "properties": {} }) },
        ToolSchema {
            name: "add".to_owned(),
            parameters: json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/n" } }, "required": ["a"],
                "$defs": { "n": { "type": "integer" } } }),
        },
    ];
    let definitions = json!([{ "name": "now" }, { "name": "add" }]);
    let tools = crate::Tool::list_from_json(&definitions).unwrap();
    for format in crate::ToolFormat::all() {
        let form = crate::CallForm::of(format);
        let one = |name: &str, arguments: &str| {
            [form.before_name, name, form.after_name, arguments, form.after_arguments].concat()
        };
        let whole = |calls: &[String]| [form.open, &calls.join(form.separator), form.close].concat();
        let constraint = compile(ConstraintSource::tool_calls(&schemas, &form, 2, None).unwrap()).unwrap();
        let (now, add) = (one("now", "{}"), one("add", "{\"a\": 12}"));
        let both = whole(&[now.clone(), add.clone()]);
        let no = [
            whole(&[one("sub", "{}")]),
            whole(&[one("add", "{}")]),
            whole(&[one("add", "{\"a\":12}")]),
            whole(&[one("now", "{\"b\": 1}")]),
            whole(&[now.clone(), now.clone(), now.clone()]),
            String::new(),
        ];
        check(&constraint, &[&both, &whole(std::slice::from_ref(&add))], &no.each_ref().map(String::as_str));
        let answer = crate::OutputParser::new(format, &tools).parse(&both);
        let read: Vec<_> = answer.tool_calls.iter().map(|call| (call.name.as_str(), call.arguments.clone())).collect();
        assert_eq!(read, [("now", json!({})), ("add", json!({ "a": 12 }))], "{format}: {answer:?}");
        assert_eq!((answer.content.as_str(), answer.malformed.len()), ("", 0), "{format}");
    }
    let form = crate::CallForm::of(crate::ToolFormat::Hermes);
    let or = ConstraintSource::JsonSchema(json!({ "type": "array", "maxItems": 0 }));
    let either = compile(ConstraintSource::tool_calls(&schemas, &form, 1, Some(&or)).unwrap()).unwrap();
    check(&either, &["[]", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"], &["", "[1]", "x"]);
    let refused = |tools: &[ToolSchema]| ConstraintSource::tool_calls(tools, &form, 1, None).unwrap_err().to_string();
    assert!(refused(&[]).contains("no tool"));
    assert!(refused(&[schemas[0].clone(), schemas[0].clone()]).contains("two tools are called `now`"));
    let parameters = json!({ "type": "object", "not": {} });
    let source = ConstraintSource::tool_calls(&[ToolSchema { name: "f".to_owned(), parameters }], &form, 1, None);
    assert!(refusal(compile(source.unwrap())).to_string().contains("not"));
}

#[test]
fn a_vocabulary_without_an_end_is_refused() {
    let tokens = ["<unk>", "a", "b"].map(str::to_owned).to_vec();
    let mut vocabulary = Vocabulary::new(VocabularyKind::Spm, tokens);
    vocabulary.scores = vec![0.0; 3];
    let error = ConstraintCompiler::new(&Tokenizer::new(vocabulary).unwrap()).unwrap_err();
    assert!(error.to_string().contains("end token"), "{error}");
}

/// Neither a hang nor a crash, and where an error is expected, one.
fn bounded(name: &str, source: ConstraintSource, refused: bool) {
    let result = compile(source);
    let outcome = match &result {
        Ok(_) => "compiled".to_owned(),
        Err(error) => error.to_string().chars().take(120).collect(),
    };
    println!("{name}: {outcome}");
    assert_eq!(result.is_err(), refused, "{name}: {outcome}");
    if let Ok(mut constraint) = result {
        // Masks are bounded as well; whether one is refused depends on the grammar.
        for _ in 0..20 {
            let Ok(mask) = constraint.mask() else { break };
            let Some(byte) = (0..256u32).find(|byte| mask[*byte as usize / 32] >> (byte % 32) & 1 == 1) else { break };
            if constraint.accept(TokenId(byte)).is_err() {
                break;
            }
        }
    }
}

#[test]
fn hostile_schemas_end_in_errors() {
    let nested = |depth: usize, inner: Value| {
        (0..depth).fold(inner, |inner, _| json!({ "type": "object", "properties": { "a": inner }, "required": ["a"] }))
    };
    let json = |value| ConstraintSource::JsonSchema(value);
    bounded("nested 700", json(nested(700, has_type("null"))), false);
    bounded("nested 900", json(nested(900, has_type("null"))), true);
    let chain = |length: usize| {
        let mut defs = serde_json::Map::new();
        for at in 0..length {
            defs.insert(format!("d{at}"), json!({ "$ref": format!("#/$defs/d{}", at + 1) }));
        }
        defs.insert(format!("d{length}"), has_type("null"));
        json!({ "$ref": "#/$defs/d0", "$defs": defs })
    };
    bounded("chain of 1000 references", json(chain(1000)), false);
    bounded("chain of 20000 references", json(chain(20_000)), true);
    bounded("a reference to itself", json(json!({ "$ref": "#" })), true);
    bounded("huge repeats", json(json!({ "type": "string", "pattern": "^((a{1000}){1000}){1000}$" })), false);
    bounded("huge length", json(json!({ "type": "string", "minLength": 2_000_000_000 })), false);
    let many: Vec<String> = (0..200_000).map(|at| format!("value number {at}")).collect();
    bounded("huge enum", json(json!({ "enum": many })), true);
    bounded("large enum", json(json!({ "enum": many[..50_000] })), false);
    let properties: serde_json::Map<String, Value> =
        (0..100_000).map(|at| (format!("p{at}"), has_type("string"))).collect();
    bounded("huge object", json(json!({ "type": "object", "properties": properties })), true);
    let doubled = |depth: usize| {
        let mut defs = serde_json::Map::new();
        for at in 0..depth {
            let next = json!({ "$ref": format!("#/$defs/d{}", at + 1) });
            defs.insert(format!("d{at}"), json!({ "allOf": [next, { "anyOf": [next, next] }] }));
        }
        defs.insert(format!("d{depth}"), json!({ "type": "object", "properties": { "a": has_type("string") } }));
        json!({ "$ref": "#/$defs/d0", "$defs": defs })
    };
    bounded("doubled 40 times", json(doubled(40)), true);
    bounded(
        "large items",
        json(json!({ "type": "array", "minItems": 1_000_000_000, "items": has_type("null") })),
        false,
    );
}

#[test]
fn hostile_expressions_and_grammars_end_in_errors() {
    let regex = |text: &str| ConstraintSource::Regex(text.to_owned());
    bounded("nested repeats", regex("((a{1000}){1000}){1000}"), false);
    bounded("exponential states", regex("(a|b)*a(a|b){60}"), false);
    bounded("nested groups", regex(&format!("{}a{}", "(".repeat(5000), ")".repeat(5000))), true);
    bounded("long", regex(&"a".repeat(300_000)), true);
    let lark = |text: String| ConstraintSource::Lark(text);
    bounded("Lark groups", lark(format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000))), true);
    let chain = joined(20_000, |at| format!("r{at}: r{}\n", at + 1));
    bounded("Lark chain", lark(format!("start: r0\n{}", &chain[..chain.len().min(200_000)])), true);
    let mut chain = joined(15_000, |at| format!("r{at}: r{}\n", at + 1));
    chain.push_str("r15000: \"a\"\n");
    bounded("long Lark chain", lark(format!("start: r0\n{chain}")), false);
    bounded("Lark loop", lark("start: start \"a\"".to_owned()), true);
    let gbnf = |text: String| ConstraintSource::Gbnf(text);
    bounded("GBNF groups", gbnf(format!("root ::= {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000))), true);
    let doubled = joined(60, |at| format!("r{at} ::= r{} r{}\n", at + 1, at + 1));
    bounded("GBNF doubled", gbnf(format!("root ::= r0\n{doubled}r60 ::= \"a\"\n")), false);
    bounded("GBNF doubled nothing", gbnf(format!("root ::= r0 \"x\"\n{doubled}r60 ::= \"\"\n")), false);
    bounded("GBNF repeats", gbnf("root ::= (([a-z]{100000}){100000}){100000}".to_owned()), false);
    let rules = joined(5000, |at| format!("r{at} ::= r{} | \"a\"\n", at + 1));
    bounded("GBNF rules", gbnf(format!("root ::= r0\n{rules}r5000 ::= \"a\"\n")), true);
    let words = joined(20_000, |at| format!("\"w{at}\" | "));
    bounded("GBNF words", gbnf(format!("root ::= \"(\" root \")\" | {words} \"x\"")), true);
}

/// What llama.cpp accepts: `tests/oracle_gbnf.py` wrote it down.
#[test]
fn gbnf_accepts_what_llama_cpp_accepts() {
    let cases: Value = serde_json::from_str(include_str!("../../tests/data/gbnf/cases.json")).unwrap();
    let compiler = compiler();
    let (mut texts, mut wrong) = (0, Vec::new());
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let grammar = case["grammar"].as_str().unwrap().to_owned();
        let result = compiler.compile(&ConstraintSource::Gbnf(grammar).into());
        if case["refused"] == true {
            let error = result.expect_err(name);
            assert!(matches!(error, ConstraintError::Gbnf { .. }), "{name}: {error}");
            continue;
        }
        let constraint = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        for text in case["texts"].as_array().unwrap() {
            let value = text[0].as_str().unwrap();
            let mut at = constraint.clone();
            let followed = value.chars().take_while(|c| feed(&mut at, c.encode_utf8(&mut [0; 4]))).count();
            let accepted = followed == value.chars().count() && at.may_end();
            texts += 1;
            if (Value::from(followed), Value::from(accepted)) != (text[1].clone(), text[2].clone()) {
                wrong.push(format!("{name}: {text}, here {followed} {accepted}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {texts} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(texts > 1500, "only {texts} texts");
}

#[test]
fn gbnf_errors_say_where() {
    let cases = [
        ("root ::= \"a\"\n  )", 2, 3, "expected the name of a rule"),
        ("root ::= \"a\" (\n \"b\" | missing\n)", 2, 8, "no rule `missing`"),
        ("root ::= \"é\" \"\\q\"", 1, 15, "unknown escape"),
        ("root ::= [z-a]", 1, 11, "ends before it begins"),
        ("root ::= [\\uD800]", 1, 10, "no character"),
        ("root ::= \"\\uD800\"", 1, 11, "no Unicode character"),
        ("root ::= \"a\"{3,2}", 1, 13, "larger number"),
        ("root ::= \"a\"{99999999999}", 1, 14, "more repetitions"),
        ("root ::= <|none|>", 1, 10, "no special token"),
        ("root ::= \"a\"\nroot ::= \"b\"", 2, 1, "twice"),
        ("x ::= \"a\"", 1, 1, "no rule `root`"),
    ];
    for (text, line, column, expected) in cases {
        match refusal(compile(ConstraintSource::Gbnf(text.to_owned()))) {
            ConstraintError::Gbnf { line: found_line, column: found_column, problem } => {
                assert_eq!((found_line, found_column), (line, column), "{text}: {problem}");
                assert!(problem.contains(expected), "{text}: {problem}");
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn gbnf_beyond_llama_cpp() {
    // Left recursion, and alternatives that never end.
    let gbnf = |text: &str| compile(ConstraintSource::Gbnf(text.to_owned()));
    let sum = gbnf("root ::= root \"+\" term | term\nterm ::= [0-9]+ | \"(\" root \")\"").unwrap();
    check(&sum, &["1", "1+22", "(1+2)+3"], &["+1", "1+", "(1"]);
    let ends = gbnf("root ::= \"a\" | \"b\" endless\nendless ::= \"c\" endless").unwrap();
    check(&ends, &["a"], &["b", "bc"]);
    assert!(!feed(&mut ends.clone(), "b"), "nothing completes a text that begins so");
    let error = refusal(gbnf("root ::= \"(\" root \")\""));
    assert!(error.to_string().contains("completes `root`"), "{error}");
    // Tokens by name and number, and any other.
    let mut tool = gbnf("root ::= <|tool|> !<[258]> <[65]>").unwrap();
    assert_eq!(allowed(&mut tool), [258]);
    tool.accept(TokenId(258)).unwrap();
    assert!(tool.clone().accept(TokenId(258)).is_err());
    tool.accept(TokenId(66)).unwrap();
    assert_eq!(allowed(&mut tool), [65]);
}

#[test]
fn broken_gbnf_is_an_error_or_another_grammar() {
    let cases: Value = serde_json::from_str(include_str!("../../tests/data/gbnf/cases.json")).unwrap();
    let alphabet: Vec<char> = "\"[]()<>{}|*+?.,^-\\#!:= \nxuU09azé\u{10FFFF}root".chars().collect();
    // A linear congruential generator (Knuth, MMIX) is random enough.
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let (mut fine, mut broken) = (0, 0);
    for case in cases.as_array().unwrap() {
        let grammar: Vec<char> = case["grammar"].as_str().unwrap().chars().collect();
        for _ in 0..60 {
            let mut changed = grammar.clone();
            for _ in 0..=random(3) {
                let at = random(changed.len());
                match random(3) {
                    0 => drop(changed.remove(at)),
                    1 => changed.insert(at, alphabet[random(alphabet.len())]),
                    _ => changed[at] = alphabet[random(alphabet.len())],
                }
            }
            let text: String = changed.into_iter().collect();
            match super::gbnf::to_lark(&text, |_| None) {
                Ok(_) => fine += 1,
                Err(ConstraintError::Gbnf { line, column, .. }) => {
                    let lines: Vec<&str> = text.split('\n').collect();
                    let length = lines.get(line - 1).expect("a line of the grammar").chars().count();
                    assert!(column <= length + 1, "line {line}, column {column} of {text:?}");
                    broken += 1;
                }
                Err(_) => broken += 1,
            }
        }
    }
    assert!(fine > 100 && broken > 100, "{fine} fine, {broken} broken");
}

/// A stack that overflows ends the whole test program.
#[test]
fn small_inputs_need_little_stack() {
    let compiler = compiler();
    let nested = |count: usize, wrap: &dyn Fn(Value) -> Value| {
        ConstraintSource::JsonSchema((0..count).fold(has_type("null"), |inner, _| wrap(inner)))
    };
    let mut definitions: serde_json::Map<String, Value> =
        (0..25).map(|at| (format!("d{at}"), json!({ "$ref": format!("#/$defs/d{}", at + 1) }))).collect();
    definitions.insert("d25".to_owned(), has_type("null"));
    let mut rules = joined(30, |at| format!("r{at}:r{}\n", at + 1));
    rules.push_str("r30:\"a\"");
    let cases = [
        nested(62, &|inner| json!({ "items": inner })),
        nested(62, &|inner| json!({ "additionalProperties": inner })),
        nested(31, &|inner| json!({ "properties": { "a": inner } })),
        nested(31, &|inner| json!({ "allOf": [inner] })),
        nested(15, &|inner| json!({ "anyOf": [inner, { "items": {} }] })),
        ConstraintSource::JsonSchema(json!({ "$ref": "#/$defs/d0", "$defs": definitions })),
        ConstraintSource::JsonSchema(json!({ "type": "string", "pattern": "(a|".repeat(62) + &")".repeat(62) })),
        ConstraintSource::Regex("(a|".repeat(62) + "b" + &")".repeat(62)),
        ConstraintSource::Lark(format!("start:r0\n{rules}")),
        ConstraintSource::Lark(format!("start: %json {}{{}}{}", "{\"items\":".repeat(24), "}".repeat(24))),
        ConstraintSource::Gbnf(format!("root ::= {}\"a\"{}", "(\"b\"|".repeat(35), ")".repeat(35))),
    ];
    for (at, source) in cases.into_iter().enumerate() {
        let config = source.into();
        assert!(super::compiler::is_small(&config), "case {at}");
        thread::scope(|scope| {
            let small = thread::Builder::new().stack_size(super::compiler::SMALL_STACK_BYTES);
            let work = small.spawn_scoped(scope, || compiler.compile(&config).map(drop)).unwrap();
            // Some are refused for their nesting; what counts is that there is an answer.
            let _ = work.join().unwrap();
        });
    }
    let large = nested(64, &|inner| json!({ "items": inner })).into();
    assert!(!super::compiler::is_small(&large));
}

#[test]
fn gbnf_that_grows_is_refused_early() {
    let check = |text: String| ConstraintSource::Gbnf(text).check();
    let repeated = check(format!("root ::= !<a> \"a\"{}", "?".repeat(100_000))).unwrap_err();
    assert!(repeated.to_string().contains("too many repetitions of one item"), "{repeated}");
    // Alternatives behind a long text, all of which lead back.
    check(format!("root ::= {} ({} \"a\")", ".".repeat(30_000), "root|".repeat(20_000))).unwrap();
    // Automata of many letters.
    let letters: String = (0..20_000).filter_map(|at| char::from_u32(0x4e00 + at)).collect();
    let many = joined(1000, |at| format!("([^a-z]{{2{at:03}}}) | "));
    let large = check(format!("root ::= <a> ({many} \"{letters}\") root | \"a\"")).unwrap_err();
    assert!(matches!(large, ConstraintError::TooLarge { .. }), "{large}");
    // Rules that name each other, last first.
    let chain = joined(900, |at| format!("r{} ::= r{at} [a-z]\n", at + 1));
    check(format!("root ::= r900\nr0 ::= \"a\"\n{chain}")).unwrap();
}

#[test]
fn what_is_wrong_in_any_case_is_told_without_a_vocabulary() {
    let wrong = [
        ConstraintSource::Regex(String::new()),
        ConstraintSource::Lark(" ".to_owned()),
        ConstraintSource::Gbnf("root ::= (".to_owned()),
        ConstraintSource::Choice(Vec::new()),
        ConstraintSource::JsonSchema(json!(false)),
    ];
    for source in wrong {
        let told = source.check().unwrap_err();
        assert_eq!(told, refusal(compile(source)));
    }
    ConstraintSource::Gbnf("root ::= <any> | !<other>".to_owned()).check().unwrap();
    ConstraintSource::JsonObject.check().unwrap();
}
