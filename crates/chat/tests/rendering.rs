//! Chat templates rendered as PyPI `jinja2` renders them (see `oracle_jinja2.py`).
//!
//! A case is a line `role: content` for each message, `> true` or `> false` for the generation prompt, and the outcome:
//! `= ` and the text, `! ` and the message that the template raised, or `?` for any other error. Line ends, carriage
//! returns, NUL and backslashes are escaped.

use std::path::Path;

use hublabio_chat::{BUILTINS, Builtin, ChatTemplate, Error, Message};

#[test]
fn every_template_renders_as_jinja2_does() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut cases = 0;
    let mut templates = 0;
    for entry in std::fs::read_dir(data.join("rendered")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let from_model = || {
            let source = std::fs::read_to_string(data.join(format!("templates/{name}.jinja"))).unwrap();
            ChatTemplate::new(&source, "<s>", "</s>").unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let builtin = Builtin::find(name).map(|builtin| ChatTemplate::builtin(builtin, "<s>", "</s>"));
        let template = builtin.unwrap_or_else(from_model);
        cases += check(name, &template, &std::fs::read_to_string(&path).unwrap());
        templates += 1;
    }
    assert_eq!(templates, 20);
    assert_eq!(cases, templates * 26);
}

/// Checks every case of a file and returns their number.
fn check(name: &str, template: &ChatTemplate, file: &str) -> usize {
    let mut messages = Vec::new();
    let mut lines = file.lines();
    let mut cases = 0;
    while let Some(line) = lines.next() {
        let Some(generation) = line.strip_prefix("> ") else {
            let (role, content) = line.split_once(": ").unwrap();
            messages.push(Message::new(role, unescape(content)));
            continue;
        };
        let expected = lines.next().unwrap();
        let found = template.render(&messages, generation == "true");
        match (expected.split_at(expected.len().min(2)), found) {
            (("= ", text), Ok(found)) => assert_eq!(found, unescape(text), "{name}: {messages:?}"),
            (("! ", message), Err(Error::Refused { message: found, .. })) => assert_eq!(found, unescape(message)),
            // A built-in template may refuse, but not fail.
            (("?", ""), Err(_)) if template.builtin_name().is_none() => {}
            (_, found) => panic!("{name}: {messages:?}\n expected {expected}\n found    {found:?}"),
        }
        messages.clear();
        cases += 1;
    }
    cases
}

fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('0') => '\0',
                other => other.expect("a character after the escape"),
            },
            c => c,
        });
    }
    text
}

fn user(content: &str) -> Vec<Message> {
    vec![Message::new("user", content)]
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap()
}

#[test]
fn a_file_without_a_template_gets_its_familys() {
    for (architecture, tokens, name) in [
        ("llama", &[][..], "llama2"),
        ("llama", &["<|start_header_id|>"], "llama3"),
        ("llama", &["<|im_start|>"], "chatml"),
        ("llama", &["[INST]", "[/INST]"], "mistral"),
        ("llama", &["[INST]"], "llama2"),
        ("llama", &["<|user|>", "<|end|>"], "phi3"),
        ("llama", &["<｜User｜>"], "deepseek"),
        ("llama4", &[], "llama3"),
        ("qwen2", &[], "chatml"),
        ("phi3", &[], "phi3"),
        ("phi3", &["<|im_start|>", "<|im_sep|>"], "phi4"),
        ("gemma2", &[], "gemma"),
        ("mistral3", &[], "mistral"),
        ("granite", &[], "granite"),
        ("stablelm", &[], "zephyr"),
        ("olmo2", &[], "olmo2"),
        ("deepseek2", &[], "deepseek"),
        ("command-r", &[], "command-r"),
        ("chatglm", &[], "glm4"),
        ("never-heard-of", &[], "chatml"),
    ] {
        let builtin = Builtin::for_model(architecture, |token| tokens.contains(&token));
        assert_eq!(builtin.name, name, "{architecture} {tokens:?}");
        let fallback = ChatTemplate::builtin(builtin, "", "");
        assert_eq!(fallback.builtin_name(), Some(name));
        assert!(fallback.render(&user("Hello"), true).unwrap().contains("Hello"));
    }
    assert_eq!(BUILTINS.len(), 13);
    assert_eq!(template("x").builtin_name(), None);
}

#[test]
fn a_broken_template_is_refused_with_line_and_column() {
    let error = ChatTemplate::new("{% for m in messages %}\n  {{ m.role ! }}\n{% endfor %}", "", "").unwrap_err();
    let Error::Syntax { place, .. } = &error else { panic!("{error:?}") };
    assert_eq!((place.line, place.column), (2, 13));
    assert!(error.to_string().contains("line 2, column 13"), "{error}");
    assert!(matches!(ChatTemplate::new("{% if x %}", "", ""), Err(Error::Syntax { .. })));
    let long = " ".repeat((1 << 20) + 1);
    assert_eq!(ChatTemplate::new(&long, "", "").unwrap_err(), Error::SourceTooLong { bytes: long.len(), max: 1 << 20 });
}

#[test]
fn a_failing_template_says_where_and_why() {
    let error = template("a\nb {{ messages[0].nothing.more }}").render(&user("x"), true).unwrap_err();
    let Error::Render { place, reason } = &error else { panic!("{error:?}") };
    assert_eq!(place.line, 2);
    assert!(reason.contains("undefined"), "{reason}");

    let error = template("{{ no_such_function() }}").render(&[], true).unwrap_err();
    assert!(error.to_string().contains("no_such_function"), "{error}");

    let error = template("\n\n{{ raise_exception('no: ' ~ messages[0].content) }}").render(&user("x"), true);
    let Err(Error::Refused { place, message }) = error else { panic!("{error:?}") };
    assert_eq!((place.line, message.as_str()), (3, "no: x"));
}

#[test]
fn a_template_without_end_is_stopped() {
    let endless = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'x' * 10000000000 }}",
        "{{ range(100000) | join('x' * 100000) }}",
        "{% set ns = namespace(v=range(100000)) %}{% for i in range(60) %}{% set ns.v = [ns.v] %}{% endfor %}\
         {{ ns.v | tojson(indent=64) }}",
        "{{ ('x\\n' * 100000) | indent(60) | indent(60) | indent(60) | indent(60) | indent(60) | indent(60) }}",
    ];
    for source in endless {
        let result = template(source).render(&user("x"), true);
        assert!(
            matches!(result, Err(Error::Endless { .. } | Error::Render { .. } | Error::OutputTooLong { .. })),
            "{source}: {result:?}"
        );
    }
}

#[test]
fn the_prompt_may_grow_with_the_conversation_but_not_without_bound() {
    let long = user(&"word ".repeat(1_000_000));
    // A long conversation fits as often as real templates copy it.
    assert!(template("{{ messages[0].content | trim }}").render(&long, true).is_ok());
    for builtin in BUILTINS {
        let rendered = ChatTemplate::builtin(*builtin, "", "").render(&long, true);
        assert!(rendered.is_ok(), "{}: {rendered:?}", builtin.name);
    }
    let five_times = template("{% for i in range(5) %}{{ messages[0].content }}{% endfor %}").render(&long, true);
    let Err(Error::OutputTooLong { max }) = five_times else { panic!("{five_times:?}") };
    assert!((20_000_000..22_000_000).contains(&max), "{max}");
    // Many small messages are no problem either.
    let many = vec![Message::new("user", "hi"); 20_000];
    assert!(template(Builtin::find("chatml").unwrap().source).render(&many, true).is_ok());
}

#[test]
fn messages_are_data_and_never_template() {
    let text = "{{ 7 * 7 }} {% for x in messages %}<b>&amp;{% endfor %}";
    assert_eq!(template("{{ messages[0].content }}").render(&user(text), true).unwrap(), text);
}
