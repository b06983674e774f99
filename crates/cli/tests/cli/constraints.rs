//! `run` under --json-schema, --regex and --grammar.

use crate::program::{file, hublab, succeeds};

const QUESTION: &str = "What does tar do?";

#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    let schema = r#"{"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 3}"#;
    let path = file("constraints", "schema.json", schema.as_bytes());
    for argument in [schema, path.as_str()] {
        let answer = succeeds(&["run", QUESTION, "--json-schema", argument]).json();
        let items = answer.as_array().expect("an array");
        assert!((2..=3).contains(&items.len()) && items.iter().all(|item| item == "a" || item == "b"), "{answer}");
    }
    let answer = succeeds(&["run", QUESTION, "--regex", "[0-9]{3}!"]);
    assert!(answer.text().trim_end().len() == 4 && answer.text().starts_with(|c: char| c.is_ascii_digit()));
    let gbnf = file("constraints", "g.gbnf", b"root ::= (\"yes\" | \"no\") \".\"");
    assert!(["yes.\n", "no.\n"].contains(&succeeds(&["run", QUESTION, "--grammar", &gbnf]).text()));
    let lark = file("constraints", "g.lark", b"start: \"<\" WORD \">\"\nWORD: /[a-z]{1,9}/");
    assert!(succeeds(&["run", QUESTION, "--grammar", &lark]).text().starts_with('<'));
    let after = succeeds(&["run", QUESTION, "--regex", "yes|no", "--constrain-after", "."]);
    assert!(after.text().trim_end().ends_with("yes") || after.text().trim_end().ends_with("no"), "{}", after.text());
}

#[test]
fn what_cannot_be_honoured_is_said() {
    let grammar = file("constraints", "bad.gbnf", b"root ::= \"a\" |\n  missing\n");
    let other = file("constraints", "g.txt", b"root ::= \"a\"");
    let cases: [(&[&str], &str); 8] = [
        (&["--json-schema", r#"{"items": {"uniqueItems": true}}"#], "`uniqueItems` at #/items"),
        (&["--json-schema", r#"{"type": }"#], "line 1 column 10"),
        (&["--json-schema", "no/such/file.json"], "no/such/file.json"),
        (&["--json-schema", "false"], "cannot be satisfied"),
        (&["--regex", "("], "unclosed group"),
        (&["--grammar", &grammar], "line 2, column 3: there is no rule `missing`"),
        (&["--grammar", &other], "must end in .gbnf"),
        (&["--regex", "a", "--json-schema", "true"], "cannot be used with"),
    ];
    for (arguments, expected) in cases {
        let outcome = hublab(&[&["run", QUESTION], arguments].concat());
        assert_ne!(outcome.code, 0, "{arguments:?}");
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.text(), "", "{arguments:?}");
    }
    assert!(hublab(&["run", QUESTION, "--constrain-after", "x"]).stderr.contains("required"));
}
