use serde_json::json;

use super::*;

fn tools() -> Vec<Tool> {
    Tool::list_from_json(&json!([
        { "name": "get_weather", "parameters": { "type": "object", "properties": {
            "city": { "type": "string" }, "days": { "type": "integer" }, "exact": { "type": "boolean" },
            "filters": { "type": "object" }
        } } },
        { "name": "now", "parameters": { "type": "object", "properties": {} } },
    ]))
    .unwrap()
}

fn parser(format: ToolFormat) -> OutputParser {
    OutputParser::new(format, &tools())
}

/// Takes a text apart at once, byte by byte (as whole characters), and in pieces of several sizes: all the same.
fn parse_with(parser: &OutputParser, text: &str) -> Answer {
    let whole = parser.clone().parse(text);
    let chars: Vec<char> = text.chars().collect();
    for size in [1, 2, 3, 5, 7, 64] {
        let mut streamed = parser.clone();
        let mut events = Vec::new();
        for piece in chars.chunks(size) {
            events.extend(streamed.push(&piece.iter().collect::<String>()));
        }
        events.extend(streamed.finish());
        check_growth(&events);
        let mut answer = Answer::default();
        events.into_iter().for_each(|event| answer.add(event));
        assert_eq!(answer, whole, "pieces of {size}: {text:?}");
    }
    whole
}

/// What was told of a call before its end is what it is in the end.
fn check_growth(events: &[Event]) {
    let mut begun: Option<(&str, String)> = None;
    for event in events {
        match (event, &mut begun) {
            (Event::CallBegin { name, .. }, None) => begun = Some((name, String::new())),
            (Event::CallArguments(text), Some((_, arguments))) => arguments.push_str(text),
            (Event::ToolCall(call), Some((name, arguments))) => {
                assert_eq!(
                    (*name, serde_json::from_str(arguments).ok().as_ref()),
                    (&*call.name, Some(&call.arguments))
                );
                begun = None;
            }
            (Event::Malformed(_), _) => begun = None,
            (Event::Content(_) | Event::Reasoning(_) | Event::ToolCall(_), None) => {}
            _ => panic!("{event:?} with {begun:?} begun, in {events:?}"),
        }
    }
    assert_eq!(begun, None);
}

fn parse(format: ToolFormat, text: &str) -> Answer {
    parse_with(&parser(format), text)
}

fn call(name: &str, arguments: Json) -> ToolCall {
    ToolCall { id: None, name: name.into(), arguments }
}

use serde_json::Value as Json;

#[test]
fn every_family_is_read() {
    use ToolFormat::*;
    let one = || vec![call("get_weather", json!({ "city": "Zürich", "days": 3 }))];
    let two = || vec![one().remove(0), call("now", json!({}))];
    let json = r#"{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}"#;
    let now = r#"{"name": "now", "arguments": {}}"#;
    let llama = json.replace("arguments", "parameters");
    for (format, text, content, expected) in [
        (Hermes, format!("<tool_call>\n{json}\n</tool_call>"), "", one()),
        (Hermes, format!("Let me look.\n<tool_call>{json}</tool_call>\n<tool_call>{now}</tool_call>\n"), "Let me look.", two()),
        // The end of the text closes it, too.
        (Hermes, format!("<tool_call>\n{json}"), "", one()),
        (Hermes, "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Zürich</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>".into(), "", one()),
        (QwenXml, "Look:\n<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>".into(), "Look:", one()),
        (QwenXml, "<function=get_weather>\n<parameter=city>Zürich</parameter><parameter=days>3</parameter>\n</function>".into(), "", one()),
        (Llama3, llama.clone(), "", one()),
        (Llama3, format!("\n{llama}; {now}"), "", two()),
        (Llama3, format!("<|python_tag|>{llama}"), "", one()),
        (Llama3, "<|python_tag|>get_weather.call(city=\"Zürich\", days=3)".into(), "", one()),
        (Llama3, "<function=get_weather>{\"city\": \"Zürich\", \"days\": 3}</function>".into(), "", one()),
        (Mistral, format!("[TOOL_CALLS][{json}, {now}]"), "", two()),
        (Mistral, format!("[TOOL_CALLS] [{json}]"), "", one()),
        (Mistral, "ok [TOOL_CALLS]get_weather[ARGS]{\"city\": \"Zürich\", \"days\": 3}[TOOL_CALLS]now[ARGS]{}".into(), "ok", two()),
        (Phi, format!("functools[{json}]"), "", one()),
        (Phi, format!("<|tool_call|>[{json},{now}]<|/tool_call|>"), "", two()),
        (Phi, format!("<|tool_call|>[{json}]"), "", one()),
        (Gemma, "```tool_code\nprint(get_weather(city='Zürich', days=3))\n```".into(), "", one()),
        (Gemma, "I call:\n```tool_code\nget_weather(\"Zürich\", 3)\nnow()\n```\nWait.".into(), "I call:Wait.", two()),
        (Gemma, format!("```json\n[{json}]\n```"), "", one()),
        (Gemma, llama.clone(), "", one()),
        (DeepSeek, "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Zürich\", \"days\": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>".into(), "Hm.", two()),
        (CommandR, format!("Plan\nAction:\n```json\n[\n{}\n]\n```", json.replace("name", "tool_name").replace("arguments", "parameters")), "Plan", one()),
        (Python, "[get_weather(city=\"Z\\u00fcrich\", days=+3), now()]".into(), "", two()),
        (Json, json.into(), "", one()),
        (Json, format!(" ```json\n{json}\n``` "), "", one()),
        (Json, format!("{{\"tool_calls\": [{{\"type\": \"function\", \"function\": {}}}]}}", json.replace("{\"city\": \"Zürich\", \"days\": 3}", "\"{\\\"city\\\": \\\"Zürich\\\", \\\"days\\\": 3}\"")), "", one()),
    ] {
        let answer = parse(format, &text);
        assert_eq!(answer.tool_calls, expected, "{format}: {text}\n{answer:?}");
        assert_eq!((answer.content.as_str(), answer.malformed.as_slice()), (content, &[][..]), "{format}: {text}");
    }
}

#[test]
fn ids_are_kept() {
    let answer = parse(ToolFormat::Mistral, r#"[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "a1b2c3d4e"}]"#);
    assert_eq!(answer.tool_calls[0].id.as_deref(), Some("a1b2c3d4e"));
    let answer = parse(ToolFormat::Mistral, "[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{}");
    assert_eq!(answer.tool_calls[0].id.as_deref(), Some("a1b2c3d4e"));
}

#[test]
fn arguments_without_quotes_get_the_type_of_the_schema() {
    let text = "<tool_call><function=get_weather><parameter=city>\n 12 \n</parameter><parameter=days>12</parameter>\
        <parameter=exact>True</parameter><parameter=filters>{\"a\": [1]}</parameter><parameter=other>12</parameter>\
        </function></tool_call>";
    let arguments = json!({ "city": " 12 ", "days": 12, "exact": true, "filters": { "a": [1] }, "other": "12" });
    assert_eq!(parse(ToolFormat::QwenXml, text).tool_calls, [call("get_weather", arguments)]);
}

#[test]
fn wrong_shapes_are_named_and_nothing_is_lost() {
    use ToolFormat::*;
    for (format, text, reason) in [
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": {}</tool_call>", "not valid JSON"),
        (Hermes, "<tool_call>{\"arguments\": {}}</tool_call>", "no `name`"),
        (Hermes, "<tool_call>{\"name\": 7}</tool_call>", "its `name` is a number"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": [1]}</tool_call>", "the arguments of `now` are a list"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": \"x\"}</tool_call>", "a text that is no JSON"),
        (Hermes, "<tool_call>now()</tool_call>", "not valid JSON"),
        (Hermes, "<tool_call>[1]</tool_call>", "the list of calls holds a number"),
        (Hermes, "<tool_call></tool_call>", "it is empty"),
        (Hermes, "<tool_call>{\"name\": \"n", "not complete"),
        (Hermes, "<tool_call>", "not complete"),
        (QwenXml, "<tool_call><function=now><parameter=a>1</function></tool_call>", "has no `</parameter>`"),
        (QwenXml, "<tool_call><function=now>text</function></tool_call>", "between the parameters"),
        (QwenXml, "<tool_call><function=></function></tool_call>", "names no tool"),
        (Llama3, "<|python_tag|>now(", "expected `)`, but it ends"),
        (Llama3, "{\"name\": \"now\", \"parameters\": [1]}", "are a list"),
        (Llama3, "{\"name\": \"now\", \"parameters\": {", "not complete"),
        (Llama3, "<function=now{}</function>", "not closed with `>`"),
        (Mistral, "[TOOL_CALLS]now", "nor a name and `[ARGS]`"),
        (Mistral, "[TOOL_CALLS]now[ARGS]{\"a\":", "the arguments of `now` are not valid JSON"),
        (Phi, "functools[{\"name\": }]", "not valid JSON"),
        (Gemma, "```tool_code\nnow(a=1+2)\n```", "expected a number"),
        (Gemma, "```tool_code\nunknown(1)\n```", "has no name"),
        (Gemma, "```tool_code\nx = 3\n```", "expected `(`"),
        (DeepSeek, "<｜tool▁call▁begin｜>now<｜tool▁call▁end｜>", "`<｜tool▁sep｜>` is missing"),
    ] {
        let answer = parse(format, text);
        assert_eq!(answer.malformed.len(), 1, "{format} {text}: {answer:?}");
        assert_eq!(answer.malformed[0].raw, text, "{format}");
        assert!(answer.malformed[0].reason.contains(reason), "{format} {text}: {}", answer.malformed[0].reason);
        assert!(answer.tool_calls.is_empty() && answer.content.is_empty(), "{format} {text}: {answer:?}");
        assert_eq!(answer.into_message().content.text(), text);
    }
    // What comes after goes on.
    let answer = parse(ToolFormat::Hermes, "a <tool_call>x</tool_call> b <tool_call>{\"name\":\"now\"}</tool_call>");
    assert_eq!((answer.content.as_str(), answer.malformed.len(), answer.tool_calls.len()), ("ab", 1, 1));
}

#[test]
fn answers_that_only_look_like_calls_stay_answers() {
    use ToolFormat::*;
    for (format, text) in [
        (Llama3, "{\"name\": \"Ada\", \"age\": 36}"),
        (Llama3, "{\"name\": \"no_such_tool\", \"parameters\": {}}"),
        (Llama3, "{not json} at all"),
        (Llama3, "As JSON: {\"name\": \"now\", \"parameters\": {}}"),
        (Json, "[1, 2, 3]\n"),
        (Json, "```json\n{\"a\": 1}\n```\n\nThat is it. "),
        (Json, "{"),
        (Gemma, "[see below](x) {y}"),
        (Hermes, "The tag <tool_cal> and < tool_call> and <"),
        (Mistral, "[TOOL_CALL]"),
        (Hermes, " leading and trailing \n"),
        (Json, ""),
        (Json, " \n"),
    ] {
        let answer = parse(format, text);
        assert_eq!(answer, Answer { content: text.into(), ..Answer::default() }, "{format}");
    }
    // Where no tools were offered, nothing is a call.
    let text = "<tool_call>{\"name\": \"now\"}</tool_call>";
    assert_eq!(OutputParser::new(Hermes, &[]).parse(text).content, text);
}

#[test]
fn reasoning_is_set_apart() {
    let plain = parser(ToolFormat::Hermes);
    let opened = parser(ToolFormat::Hermes).after_prompt("", "<|im_start|>assistant\n<think>\n");
    let json = parser(ToolFormat::Json);
    let granite = parser(ToolFormat::Phi).after_prompt("… Here is my response: …", "");
    for (parser, text, reasoning, content) in [
        (&plain, "<think>\nFirst.\n\nSecond.\n</think>\n\nDone.\n", Some("First.\n\nSecond."), "Done.\n"),
        (&plain, "\n<think></think>Done.", None, "Done."),
        (&plain, "[THINK]a[/THINK]b", Some("a"), "b"),
        (&json, "[THINK]a[/THINK][1]", Some("a"), "[1]"),
        (&json, "<thinking>a</thinking>{}", Some("a"), "{}"),
        (&plain, "<|START_THINKING|>a<|END_THINKING|>b", Some("a"), "b"),
        (&plain, "<think>never ends", Some("never ends"), ""),
        (&plain, "Say <think>x</think>.", None, "Say <think>x</think>."),
        (&opened, "Hm.\n</think>\n\nYes.", Some("Hm."), "Yes."),
        (&opened, " no end </thin", Some("no end </thin"), ""),
        (&granite, "Here is my thought process: a\nHere is my response: b", Some("a"), "b"),
        (&plain, "Here is my thought process: a", None, "Here is my thought process: a"),
    ] {
        let answer = parse_with(parser, text);
        assert_eq!((answer.reasoning.as_deref(), answer.content.as_str()), (reasoning, content), "{text}");
    }
    let answer = parse_with(&opened, "Call it.</think>\n<tool_call>\n{\"name\": \"now\"}\n</tool_call>");
    assert_eq!(answer.tool_calls, [call("now", json!({}))]);
    assert_eq!(answer.reasoning.as_deref(), Some("Call it."));
    let untouched = opened.without_reasoning();
    assert_eq!(parse_with(&untouched, "<think>a</think>b").content, "<think>a</think>b");
}

#[test]
fn text_comes_as_soon_as_it_is_certain() {
    let mut parser = parser(ToolFormat::Hermes);
    assert_eq!(parser.push("Hello <"), [Event::Content("Hello".into())]);
    assert_eq!(parser.push("tool"), []);
    assert_eq!(parser.push("box> "), [Event::Content(" <toolbox>".into())]);
    assert_eq!(parser.push("<tool_call>{\"name\":"), []);
    assert_eq!(parser.push("\"now\"}</tool_call>"), [Event::ToolCall(call("now", json!({})))]);
    assert_eq!(parser.finish(), []);
}

/// The events of a text that comes character by character, arguments joined.
fn told(format: ToolFormat, text: &str) -> Vec<Event> {
    let mut parser = parser(format);
    let mut joined: Vec<Event> = Vec::new();
    let pieces: Vec<Event> = text.chars().flat_map(|c| parser.push(&c.to_string())).collect();
    for event in pieces {
        match (joined.last_mut(), event) {
            (Some(Event::CallArguments(all)), Event::CallArguments(more)) => all.push_str(&more),
            (_, event) => joined.push(event),
        }
    }
    joined
}

#[test]
fn a_call_is_told_while_it_is_written() {
    let mut parser = parser(ToolFormat::Hermes);
    let begin = |name: &str| Event::CallBegin { id: None, name: name.into() };
    let arguments = |text: &str| Event::CallArguments(text.into());
    assert_eq!(parser.push("<tool_call>{\"name\": \"get_weather\", \"argum"), []);
    assert_eq!(parser.push("ents\": {\"ci"), [begin("get_weather"), arguments("{\"ci")]);
    assert_eq!(parser.push("ty\": \"Bern</"), [arguments("ty\": \"Bern")]);
    assert_eq!(parser.push("too\", \"days\": 1"), [arguments("</too\", \"days\": ")]);
    assert_eq!(parser.push("2}"), [arguments("12}")]);
    let whole = call("get_weather", json!({ "city": "Bern</too", "days": 12 }));
    assert_eq!(parser.push("}"), [Event::ToolCall(whole)]);
    assert_eq!(parser.push("</tool_call>"), []);
    // What cannot become arguments is not passed on.
    assert_eq!(
        parser.push("<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": True"),
        [begin("now"), arguments("{\"a\": ")]
    );
    assert!(matches!(&parser.push("}}</tool_call>")[..], [Event::Malformed(_)]));
}

#[test]
fn families_tell_their_calls_in_the_forms_that_allow_it() {
    use ToolFormat::*;
    let arguments = "{\"city\": \"Bern\", \"days\": 3}";
    let object = format!("{{\"name\": \"get_weather\", \"arguments\": {arguments}}}");
    let parameters = object.replace("arguments", "parameters");
    for (format, text) in [
        (Hermes, format!("<tool_call>\n{object}\n</tool_call>")),
        (QwenXml, format!("<tool_call>\n{object}\n</tool_call>")),
        (Llama3, parameters.clone()),
        (Llama3, format!("<|python_tag|>{parameters}")),
        (Llama3, format!("<function=get_weather>{arguments}</function>")),
        (Mistral, format!("[TOOL_CALLS] [{object}]")),
        (Mistral, format!("[TOOL_CALLS]get_weather[ARGS]{arguments}")),
        (Phi, format!("functools[{object}]")),
        (Phi, format!("<|tool_call|>[{object}]<|/tool_call|>")),
        (Gemma, parameters.clone()),
        (Gemma, format!("```tool_code\n{object}\n```")),
        (
            DeepSeek,
            format!(
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
            ),
        ),
        (DeepSeek, format!("<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>")),
        (CommandR, format!("Action:\n```json\n[\n{}\n]\n```", parameters.replace("name", "tool_name"))),
        (Json, object.clone()),
    ] {
        let whole = call("get_weather", json!({ "city": "Bern", "days": 3 }));
        let expected = [
            Event::CallBegin { id: None, name: "get_weather".into() },
            Event::CallArguments(arguments.into()),
            Event::ToolCall(whole),
        ];
        assert_eq!(told(format, &text), expected, "{format}: {text}");
    }
    // Several in one list, each as it comes; an id where it stands before the arguments.
    let list = "[TOOL_CALLS][{\"id\": \"a1\", \"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {}, \"id\": \"b2\"}";
    let ids: Vec<_> = told(Mistral, list)
        .into_iter()
        .map(|event| match event {
            Event::CallBegin { id, .. } => ("begin", id),
            Event::CallArguments(_) => ("arguments", None),
            Event::ToolCall(call) => ("call", call.id),
            other => panic!("{other:?}"),
        })
        .collect();
    let id = |id: &str| Some(id.to_owned());
    assert_eq!(ids[..3], [("begin", id("a1")), ("arguments", None), ("call", id("a1"))]);
    assert_eq!(ids[3..], [("begin", None), ("arguments", None), ("call", id("b2"))]);
    // These are told when they are whole.
    for (format, text) in [
        (Hermes, "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Bern</arg_value></tool_call>"),
        (QwenXml, "<function=now></function>"),
        (Gemma, "```tool_code\nnow()\n```"),
        (Python, "[now()]"),
        (Json, "```json\n{\"name\": \"now\", \"arguments\": {}}\n```"),
        (Json, "[{\"name\": \"now\", \"arguments\": {}}]"),
        (Hermes, "<tool_call>{\"arguments\": {}, \"name\": \"now\"}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": \"{}\"}</tool_call>"),
    ] {
        assert!(matches!(&told(format, text)[..], [Event::ToolCall(_)]), "{format}: {text}");
    }
}

#[test]
fn calls_that_were_told_stay_told() {
    let text = "functools[{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": [}]";
    let answer = parse(ToolFormat::Phi, text);
    assert_eq!(answer.tool_calls, [call("now", json!({}))]);
    assert_eq!(answer.malformed[0].raw, ", {\"name\": \"now\", \"arguments\": [}]");
    // One that contradicts its beginning is none.
    let text = "<tool_call>{\"name\": \"now\", \"arguments\": {}, \"arguments\": {\"a\": 1}}</tool_call>";
    let answer = parse(ToolFormat::Hermes, text);
    assert_eq!((answer.tool_calls.len(), answer.malformed[0].raw.as_str()), (0, text));
    assert!(answer.malformed[0].reason.contains("contradicts"), "{}", answer.malformed[0].reason);
}

#[test]
fn a_call_without_end_is_given_up() {
    let text = format!("<tool_call>{}", "x".repeat(CALL_BYTES_MAX + 100));
    let mut streamed = parser(ToolFormat::Hermes);
    let mut answer = Answer::default();
    for piece in text.as_bytes().chunks(1 << 12) {
        streamed.push(std::str::from_utf8(piece).unwrap()).into_iter().for_each(|event| answer.add(event));
    }
    streamed.finish().into_iter().for_each(|event| answer.add(event));
    assert!(answer.malformed[0].reason.contains("no end"), "{}", answer.malformed[0].reason);
    assert_eq!(answer.malformed[0].raw.len() + answer.content.len(), text.len());
}

#[test]
fn the_format_is_that_of_the_template() {
    use ToolFormat::*;
    for (source, expected) in [
        ("<tool_call>", Hermes),
        ("<tool_call> <function= <parameter=", QwenXml),
        ("<|start_header_id|>", Llama3),
        ("[TOOL_CALLS]", Mistral),
        ("<|tool_call|>", Phi),
        ("<start_of_turn>", Gemma),
        ("<｜tool▁calls▁begin｜>", DeepSeek),
        ("Action: tool_name", CommandR),
        ("<|im_start|>", Json),
    ] {
        assert_eq!(ToolFormat::of_template(source), expected);
    }
    for format in ToolFormat::all() {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert!("x".parse::<ToolFormat>().unwrap_err().contains("hermes"));
}

/// Pieces of answers, whole and broken.
const FRAGMENTS: [&str; 44] = [
    "<tool_call>",
    "</tool_call>",
    "<function=now>",
    "</function>",
    "<parameter=city>",
    "</parameter>",
    "<|python_tag|>",
    "{\"name\": \"now\", \"arguments\": {}}",
    "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"é\"}}",
    "{\"a\": \"}\\\"\"}",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    ";",
    " ",
    "\n",
    "text",
    "é",
    "[TOOL_CALLS]",
    "now",
    "[ARGS]",
    "[CALL_ID]",
    "functools",
    "<|tool_call|>",
    "<|/tool_call|>",
    "```tool_code\n",
    "```json\n",
    "```",
    "now()",
    "get_weather(city='x')",
    "<think>",
    "</think>",
    "<thinking>",
    "[THINK]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "Action:\n```json",
    "<",
];

proptest::proptest! {
    #[test]
    fn pieces_change_nothing(
        picks in proptest::collection::vec((0..FRAGMENTS.len(), 0usize..40), 0..14),
        thinking in proptest::bool::ANY,
    ) {
        // Most fragments whole, some cut.
        let piece = |&(at, cut): &(usize, usize)| {
            let fragment = FRAGMENTS[at];
            if cut < 8 { &fragment[..floor_boundary(fragment, cut.min(fragment.len()))] } else { fragment }
        };
        let text: String = picks.iter().map(piece).collect();
        for format in ToolFormat::all() {
            let parser = parser(format).after_prompt("", if thinking { "<think>" } else { "" });
            let answer = parse_with(&parser, &text);
            for malformed in &answer.malformed {
                proptest::prop_assert!(text.contains(&malformed.raw), "{}: {:?}", format, malformed);
            }
            let silent = answer.tool_calls.is_empty() && answer.malformed.is_empty() && answer.reasoning.is_none();
            if silent && !thinking && !text.contains(['<', '[']) {
                proptest::prop_assert_eq!(&answer.content, &text);
            }
        }
    }
}
