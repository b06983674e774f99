//! Swarms as users ask them: who would answer, answers, conversations, what is learned. What the experts say is theirs;
//! these tests hold who answers, and the shape of what is printed.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::program::{Outcome, command, fails, folder, hublab_with, succeeds, succeeds_with, wait};
use crate::tiny::Tiny;

/// A question that the built-in expert for Python should answer.
const PYTHON: &str = "How do I reverse a list in Python?";
/// One that nobody knows a word of.
const UNKNOWN: &str = "Zorkmid frobnication of the quux?";

/// An empty experts folder.
pub fn experts(test: &str) -> String {
    let folder = folder(test).join("experts");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the build folder can be written");
    folder.into_os_string().into_string().expect("the path is text")
}

/// A file in an experts folder.
pub fn write(folder: &str, name: &str, text: &str) {
    let path = std::path::Path::new(folder).join(name);
    std::fs::create_dir_all(path.parent().expect("it is in a folder")).unwrap();
    std::fs::write(path, text).expect("the build folder can be written");
}

/// The names in a list of objects.
pub fn names(list: &Value) -> Vec<&str> {
    let name = |entry: &'_ Value| entry["name"].as_str().map(str::len);
    let entries = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    assert!(entries.iter().all(|entry| name(entry).is_some()), "{list}");
    entries.iter().filter_map(|entry| entry["name"].as_str()).collect()
}

/// The keys of an object, sorted.
pub fn keys(object: &Value) -> Vec<&str> {
    let object = object.as_object().unwrap_or_else(|| panic!("no object: {object}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// What is on standard error beside notes about answers that `-n` cut.
pub fn told(outcome: &Outcome) -> String {
    let cut = |line: &&str| line.starts_with("note: the answer of ") && line.ends_with("was cut off by a limit");
    outcome.stderr.lines().filter(|line| !cut(line)).collect()
}

fn probability(route: &Value, name: &str) -> f64 {
    let experts = route["experts"].as_array().unwrap();
    let found = experts.iter().find(|expert| expert["name"] == name).unwrap_or_else(|| panic!("no {name}: {route}"));
    found["probability"].as_f64().unwrap()
}

#[test]
fn the_built_in_experts_are_there() {
    let listed = succeeds(&["swarm", "ls", "--json"]).json();
    assert_eq!(keys(&listed), ["experts", "folder", "memory_bytes_max", "strategy", "synthesis"]);
    assert_eq!((&listed["folder"], &listed["synthesis"]), (&Value::Null, &Value::from("best")));
    assert_eq!(names(&listed["experts"]), ["general", "linux", "python", "rust"]);
    for expert in listed["experts"].as_array().unwrap() {
        let wanted = [
            "adapter",
            "available",
            "bytes",
            "description",
            "domain",
            "examples",
            "fallback",
            "file",
            "generalist",
            "id",
            "keywords",
            "model",
            "name",
            "node",
            "pinned",
            "priority",
            "threshold",
            "unavailable",
        ];
        assert_eq!(keys(expert), wanted);
        assert_eq!(expert["available"], true, "{expert}");
        assert!(expert["bytes"].as_u64().unwrap() > 1 << 20, "{expert}");
        assert_eq!(expert["generalist"], expert["name"] == "general", "{expert}");
    }
    let table = succeeds(&["swarm", "ls"]);
    let lines: Vec<&str> = table.text().lines().collect();
    assert!(lines[0].starts_with("EXPERT") && lines[1].starts_with("general") && lines[1].contains("generalist"));
    assert!(lines.last().unwrap().starts_with("from the binary;"), "{}", table.text());
}

#[test]
fn a_folder_is_found_by_flag_variable_and_configuration() {
    let folder = experts("swarm_places");
    write(&folder, "swarm.toml", "[routing]\nstrategy = \"top:2\"\n");
    let listed = |mut command: std::process::Command| {
        let outcome = wait(command.spawn().unwrap());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.json()["strategy"].as_str().unwrap().to_owned()
    };
    assert_eq!(listed(command(&["swarm", "ls", "--json", "--experts", &folder])), "top:2");
    let mut by_variable = command(&["swarm", "ls", "--json"]);
    by_variable.env("HUBLAB_EXPERTS", &folder);
    assert_eq!(listed(by_variable), "top:2");
    let mut by_configuration = command(&["swarm", "ls", "--json"]);
    let config = std::path::Path::new(&folder).join("config");
    write(config.to_str().unwrap(), "hublab/experts/swarm.toml", "[routing]\nstrategy = \"all\"\n");
    by_configuration.env("XDG_CONFIG_HOME", &config);
    assert_eq!(listed(by_configuration), "all");
    fails(&["swarm", "ls", "--experts", "no/such/folder"], b"", 1, &["there is no folder no/such/folder", "swarm add"]);
}

#[test]
fn routing_says_who_and_why() {
    let route = succeeds(&["swarm", "route", PYTHON, "--json"]).json();
    assert_eq!(keys(&route), ["experts", "fallback", "reasons", "selected", "strategy"]);
    assert_eq!((names(&route["selected"]), &route["strategy"]), (vec!["python"], &Value::from("single")));
    assert_eq!(route["fallback"], false);
    let weighed = route["experts"].as_array().unwrap();
    let probabilities: Vec<f64> = weighed.iter().map(|expert| expert["probability"].as_f64().unwrap()).collect();
    assert!(weighed.len() == 4 && probabilities.is_sorted_by(|a, b| a >= b), "{route}");
    assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{route}");
    assert!(!route["reasons"].as_array().unwrap().is_empty());

    // What belongs to no domain is the generalist's.
    let route = succeeds(&["swarm", "route", UNKNOWN, "--json"]).json();
    assert_eq!(names(&route["selected"]), ["general"], "{route}");
    // Nobody fits: there the generalist stands in.
    let folder = experts("swarm_stands_in");
    write(&folder, "swarm.toml", "builtin = false\n");
    let general =
        "name = \"g\"\nmodel = \"builtin:default\"\ngeneralist = true\n[domain]\nname = \"all\"\nthreshold = 1.0\n";
    write(&folder, "g.toml", general);
    write(&folder, "sql.toml", "name = \"sql\"\nmodel = \"x.gguf\"\n[domain]\nname = \"sql\"\nkeywords = [\"sql\"]\n");
    let route = succeeds(&["swarm", "route", UNKNOWN, "--json", "--experts", &folder]).json();
    assert_eq!((names(&route["selected"]), &route["fallback"]), (vec!["g"], &Value::Bool(true)), "{route}");

    for (strategy, chosen) in [("all", 4), ("top:1", 1), ("threshold:0", 1)] {
        let route = succeeds(&["swarm", "route", PYTHON, "--json", "--strategy", strategy]).json();
        assert!(names(&route["selected"]).len() >= chosen, "{strategy}: {route}");
        assert_eq!(names(&route["selected"])[0], "python", "{strategy}: {route}");
    }
    let text = succeeds(&["swarm", "route", PYTHON]);
    let line = text.text().lines().find(|line| line.starts_with("python")).unwrap();
    assert!(line.ends_with("answers"), "{}", text.text());
    // The same question from standard input.
    assert_eq!(succeeds_with(&["swarm", "route"], PYTHON.as_bytes()).text(), text.text());
}

#[test]
fn routing_explains_every_stage() {
    let route = succeeds(&["swarm", "route", PYTHON, "--json", "--explain"]).json();
    let stages = route["stages"].as_array().unwrap();
    let stage_names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stage_names, ["pin", "session", "keywords", "classifier", "likelihood", "embedding"]);
    for stage in stages {
        assert!(["ran", "off", "skipped"].contains(&stage["status"].as_str().unwrap()), "{stage}");
        assert_eq!(stage["status"] == "skipped", stage["why"].is_string(), "{stage}");
    }
    let keywords = &stages[2];
    assert_eq!((&keywords["status"], &keywords["scores"][0]["name"]), (&Value::from("ran"), &Value::from("python")));
    assert_eq!(keys(&keywords["scores"][0]), ["id", "name", "score"]);
    assert_eq!(keys(&keywords["matches"][0]), ["id", "name", "weight", "what"]);
    assert!(keywords["matches"].as_array().unwrap().iter().any(|found| found["what"] == "python"), "{keywords}");

    let text = succeeds(&["swarm", "route", PYTHON, "--explain"]);
    for part in ["keywords (ran)", "pin (skipped: ", "python"] {
        assert!(text.text().contains(part), "{part}: {}", text.text());
    }

    // Where there is doubt, as between two that look alike, models that are loaded have a say.
    let folder = experts("swarm_doubt");
    let model = Tiny::new().save("swarm_doubt");
    write(&folder, "swarm.toml", "builtin = false\n");
    for name in ["a", "b"] {
        let text =
            format!("name = \"{name}\"\nmodel = \"{model}\"\n[domain]\nname = \"x\"\nkeywords = [\"zorkmid\"]\n");
        write(&folder, &format!("{name}.toml"), &text);
    }
    let route = ["swarm", "route", UNKNOWN, "--json", "--explain", "--experts", &folder];
    assert_eq!(succeeds(&route).json()["stages"][4]["status"], "skipped");
    let asked = succeeds(&[&route[..], &["--models", "--threads", "1"]].concat()).json();
    assert_eq!(asked["stages"][4]["status"], "ran", "{}", asked["stages"][4]);
}

#[test]
fn the_right_expert_answers() {
    let query = ["swarm", "query", PYTHON, "-n", "8", "--preset", "greedy"];
    let answer = succeeds(&[&query[..], &["--json"]].concat());
    assert_eq!(told(&answer), "");
    let answer = answer.json();
    assert_eq!(keys(&answer), ["agreement", "contributions", "notes", "routing", "synthesis", "text", "usage"]);
    assert_eq!((names(&answer["contributions"]), &answer["synthesis"]), (vec!["python"], &Value::from("best")));
    assert_eq!(keys(&answer["contributions"][0]), ["id", "name", "weight", "why"]);
    assert_eq!(names(&answer["routing"]["selected"]), ["python"]);
    assert_eq!(keys(&answer["usage"][0]), ["calls", "failure", "id", "latency_ms", "name", "tokens"]);
    let text = answer["text"].as_str().unwrap();
    assert!(!text.trim().is_empty());

    // Streamed it is the same text, on its own line, and nothing but what is asked for beside it.
    let streamed = succeeds(&query);
    assert_eq!((streamed.text().trim_end(), told(&streamed).as_str()), (text.trim_end(), ""));
    assert!(streamed.text().ends_with('\n'));
    let piped = succeeds_with(&["swarm", "query", "-n", "8", "--preset", "greedy"], PYTHON.as_bytes());
    assert_eq!(piped.text(), streamed.text());
    let who = succeeds(&[&query[..], &["--who", "--stats"]].concat());
    assert_eq!(who.text(), streamed.text());
    for part in ["EXPERT", "WEIGHT", "python", "synthesis: best", "routing: ", "tokens/s", "loads "] {
        assert!(who.stderr.contains(part), "{part}: {}", who.stderr);
    }
}

#[test]
fn an_expert_can_be_asked_by_name() {
    let answer = succeeds(&["swarm", "query", PYTHON, "--expert", "linux", "-n", "4", "--json"]).json();
    assert_eq!((names(&answer["contributions"]), &answer["routing"]["fallback"]), (vec!["linux"], &Value::Bool(false)));
    let parts = ["there is no expert `nobody`", "general, linux, python, rust"];
    fails(&["swarm", "query", PYTHON, "--expert", "nobody"], b"", 1, &parts);
    fails(&["swarm", "query", PYTHON, "--expert", "linux", "--strategy", "all"], b"", 2, &["--strategy"]);
}

#[test]
fn answers_become_one_in_every_way() {
    let ask = |more: &[&str]| -> Outcome {
        let query = ["swarm", "query", PYTHON, "-n", "6", "--preset", "greedy", "--strategy", "all", "--json"];
        succeeds(&[&query[..], more].concat())
    };
    let weights = |answer: &Value| -> f64 {
        let parts = answer["contributions"].as_array().unwrap();
        parts.iter().map(|part| part["weight"].as_f64().unwrap()).sum()
    };
    for synthesis in ["mixture", "voting", "concatenate", "summarize"] {
        let answer = ask(&["--synthesis", synthesis]).json();
        assert!(!answer["text"].as_str().unwrap().trim().is_empty(), "{answer}");
        let taking_part = if synthesis == "mixture" { 2 } else { 4 };
        assert!(names(&answer["contributions"]).len() >= taking_part, "{synthesis}: {answer}");
        assert!((weights(&answer) - 1.0).abs() < 1e-3, "{synthesis}: {answer}");
        // What was done in place of what was asked for is said.
        let told = !answer["notes"].as_array().unwrap().is_empty();
        assert!(answer["synthesis"] == synthesis || told, "{synthesis}: {answer}");
        if synthesis == "voting" {
            assert!(answer["agreement"].is_number(), "{answer}");
        }
        if synthesis == "concatenate" {
            assert!(answer["text"].as_str().unwrap().contains("**python"), "{answer}");
        }
    }
    let debated = ask(&["--debate", "1"]).json();
    assert_eq!(debated["synthesis"], "voting", "{debated}");
    assert!(debated["notes"].to_string().contains("debate"), "{debated}");

    // One expert alone has nobody to be joined with.
    let alone = succeeds(&["swarm", "query", PYTHON, "-n", "2", "--synthesis", "voting"]);
    assert!(alone.stderr.contains("note: one expert answers, so that voting changes nothing"), "{}", alone.stderr);
}

#[test]
fn a_conversation_has_a_history_and_commands() {
    let chat = |arguments: &[&str], lines: &str| {
        hublab_with(&[&["swarm", "chat", "-n", "4"], arguments].concat(), lines.as_bytes())
    };
    let lines = format!(
        "{PYTHON}\n/why\n/good\n/expert linux\nWhat now?\n/expert\n/experts\n/clear\n/help\n\n /exit is a question\n/exit\nno\n"
    );
    let outcome = chat(&["--json"], &lines);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let answers: Vec<Value> = outcome.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3, "{}", outcome.text());
    assert_eq!(names(&answers[0]["contributions"]), ["python"]);
    assert_eq!(names(&answers[1]["contributions"]), ["linux"]);
    for part in [
        "EXPERT  WEIGHT",
        "Noted: python is the right one",
        "for this conversation only",
        "linux answers from now on.",
        "The router chooses.",
        "generalist",
        "The conversation is forgotten.",
        "/expert NAME",
    ] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
    // A script must not go on after an error.
    for (line, part) in [
        ("/nothing", "there is no command /nothing"),
        ("/why", "nothing was answered yet"),
        ("/bad", "nothing was answered yet"),
        ("/clear it", "takes nothing after it"),
        ("/expert nobody", "there is no expert `nobody`"),
    ] {
        let outcome = chat(&[], &format!("{line}\n{PYTHON}\n"));
        assert_eq!((outcome.code, outcome.text()), (1, ""), "{line}");
        assert!(outcome.stderr.contains(part), "{line}: {}", outcome.stderr);
    }
    fails(&["swarm", "chat", "--expert", "nobody"], b"", 1, &["there is no expert `nobody`"]);
}

#[test]
fn a_conversation_stays_with_its_expert() {
    let folder = experts("swarm_session");
    let model = Tiny::new().save("swarm_session");
    write(&folder, "swarm.toml", "builtin = false\n");
    for (name, keyword) in [("a", "zorkmid"), ("b", "quux")] {
        let text =
            format!("name = \"{name}\"\nmodel = \"{model}\"\n[domain]\nname = \"x\"\nkeywords = [\"{keyword}\"]\n");
        write(&folder, &format!("{name}.toml"), &text);
    }
    // The second question says nothing to anybody; after `/clear` there is nobody who keeps it.
    let lines = b"zorkmid?\nAnd then?\nquux?\nAnd then?\n";
    let chat = ["swarm", "chat", "-n", "4", "--json", "--experts", &folder];
    let outcome = succeeds_with(&chat, lines);
    let answers = outcome.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let selected: Vec<String> = answers.map(|answer| names(&answer["routing"]["selected"]).join(",")).collect();
    assert_eq!(selected, ["a", "a", "b", "b"], "{}", outcome.text());
    let cleared = hublab_with(&chat, b"zorkmid?\n/clear\nAnd then?\n");
    assert_eq!(cleared.code, 1, "{}", cleared.stderr);
    assert!(cleared.stderr.contains("no expert fits"), "{}", cleared.stderr);
}

#[test]
fn a_conversation_sees_files_that_change() {
    let folder = experts("swarm_reload");
    let model = Tiny::new().save("swarm_reload");
    let arguments = ["swarm", "chat", "-n", "4", "--json", "--experts", &folder];
    let mut child = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |question: &str| -> Value {
        writeln!(stdin, "{question}").unwrap();
        serde_json::from_str(&answers.next().expect("there is an answer").unwrap()).unwrap()
    };
    assert_eq!(names(&ask(UNKNOWN)["contributions"]), ["general"]);
    let expert = |keyword: &str| {
        format!(
            "name = \"zork\"\nmodel = \"{model}\"\n[domain]\nname = \"zork\"\nkeywords = [\"{keyword}\"]\nthreshold = 0.1\n"
        )
    };
    write(&folder, "zork.toml", &expert("zorkmid"));
    assert_eq!(names(&ask(UNKNOWN)["contributions"]), ["zork"]);
    // A broken file is said, once, and the experts as they were serve on.
    write(&folder, "zork.toml", "name = \"zork\"\nmodle = 1\n");
    assert_eq!(names(&ask(UNKNOWN)["contributions"]), ["zork"]);
    assert_eq!(names(&ask(UNKNOWN)["contributions"]), ["zork"]);
    std::fs::remove_file(std::path::Path::new(&folder).join("zork.toml")).unwrap();
    assert_eq!(names(&ask(UNKNOWN)["contributions"]), ["general"]);
    drop(stdin);
    let outcome = wait(child);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("modle").count(), 1, "{}", outcome.stderr);
    for part in ["zork.toml: line 2", "serve on", "read again: general, linux, python, rust, zork"] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
}

#[test]
fn feedback_changes_the_routing() {
    let folder = experts("swarm_feedback");
    let route = || succeeds(&["swarm", "route", UNKNOWN, "--json", "--experts", &folder]).json();
    let before = route();
    assert_eq!(names(&before["selected"]), ["general"]);
    for _ in 0..4 {
        let said = succeeds(&["swarm", "feedback", "linux", "good", UNKNOWN, "--experts", &folder]);
        assert!(said.text().is_empty() && said.stderr.contains("linux: probability"), "{}", said.stderr);
    }
    let after = route();
    assert!(probability(&after, "linux") > probability(&before, "linux") + 0.1, "{before} {after}");
    assert_eq!(after["experts"][0]["name"], "linux", "{after}");
    for _ in 0..4 {
        succeeds_with(&["swarm", "feedback", "linux", "bad", "--experts", &folder], UNKNOWN.as_bytes());
    }
    assert!(probability(&route(), "linux") < probability(&after, "linux") - 0.1);
    fails(
        &["swarm", "feedback", "nobody", "good", "x", "--experts", &folder],
        b"",
        1,
        &["no expert `nobody`", "linux"],
    );
    fails(&["swarm", "feedback", "linux", "so-so", "x", "--experts", &folder], b"", 2, &["so-so", "good"]);
}

#[test]
fn probabilities_are_fitted_to_questions() {
    let folder = experts("swarm_calibrate");
    let questions = |lines: &[String]| {
        write(&folder, "questions.jsonl", &lines.join("\n"));
        format!("{folder}/questions.jsonl")
    };
    let line =
        |question: &str, label: &str| format!("{{\"question\":\"{question}\",\"label\":\"{label}\",\"more\":1}}");
    let mut lines = Vec::new();
    for n in 0..12 {
        for language in ["python", "rust", "linux"] {
            lines.push(line(&format!("How do I do task {n} in {language}?"), language));
        }
        lines.push(line(&format!("What is the capital of country {n}?"), "general"));
    }
    lines.push("{\"question\":\"?\",\"label\":\"python\",\"set\":\"test\"}".into());
    let path = questions(&lines);
    let report = succeeds(&["swarm", "calibrate", &path, "--json", "--experts", &folder]).json();
    assert_eq!(keys(&report), ["accuracy", "ece_all", "ece_likeliest", "file", "left_out", "questions"]);
    assert_eq!((&report["questions"], &report["left_out"]), (&Value::from(48), &Value::from(1)));
    assert!(report["accuracy"].as_f64().unwrap() > 0.9, "{report}");
    assert!((0.0..=1.0).contains(&report["ece_all"].as_f64().unwrap()), "{report}");
    assert!(std::fs::metadata(report["file"].as_str().unwrap()).unwrap().len() > 20);
    // The folder is still a swarm, and uses it.
    let route = succeeds(&["swarm", "route", PYTHON, "--json", "--experts", &folder]).json();
    let built_in = succeeds(&["swarm", "route", PYTHON, "--json"]).json();
    assert_eq!(names(&route["selected"]), ["python"]);
    assert_ne!(probability(&route, "python").to_bits(), probability(&built_in, "python").to_bits());
    let text = succeeds(&["swarm", "calibrate", &path, "--experts", &folder]);
    assert!(text.text().contains("calibration error") && text.stderr.contains("calibration.toml"), "{}", text.text());

    let check = |lines: &[String], parts: &[&str]| {
        fails(&["swarm", "calibrate", &questions(lines), "--experts", &folder], b"", 1, parts);
    };
    check(&lines[..8], &["questions.jsonl holds 8 questions", "25"]);
    check(&[line("a", "rust"), line("b", "nobody")], &["questions.jsonl: line 2", "no expert `nobody`"]);
    check(&[line("a", "rust"), "{\"question\":1}".into()], &["questions.jsonl: line 2", "\"label\""]);
    check(&[line(" ", "rust")], &["line 1", "empty"]);
    fails(&["swarm", "calibrate", "no/such.jsonl", "--experts", &folder], b"", 1, &["cannot read no/such.jsonl"]);
}

#[test]
fn questions_that_cannot_be_asked() {
    for verb in [&["query"][..], &["route"], &["feedback", "linux", "good"]] {
        let verb = [&["swarm"], verb].concat();
        fails(&[&verb[..], &[""]].concat(), b"", 2, &["the prompt is empty"]);
        fails(&[&verb[..], &[" \t "]].concat(), b"", 2, &["the prompt is empty"]);
    }
    fails(&["swarm", "query"], b"\n", 2, &["the prompt is empty"]);
    fails(&["swarm", "query"], b"a\xff", 1, &["not UTF-8"]);
    // A megabyte can be routed, but no expert here reads that much.
    let long = "how do I reverse a list in python? ".repeat(29_500);
    assert!(long.len() > 1_000_000 && long.len() < 1 << 20);
    let route = succeeds_with(&["swarm", "route", "--json"], long.as_bytes()).json();
    assert_eq!(names(&route["selected"]), ["python"]);
    fails(&["swarm", "query"], long.as_bytes(), 1, &["the experts hold 512", "tokens"]);
    let longer = "x ".repeat(1 << 20);
    fails(&["swarm", "query"], longer.as_bytes(), 1, &["2097152 bytes", "1048576", "shorten"]);
    for (flag, value) in [
        ("--strategy", "some"),
        ("--strategy", "top:0"),
        ("--synthesis", "mean"),
        ("--debate", "99"),
        ("--max-memory", "much"),
        ("--temp", "-1"),
        ("--max-tokens", "0"),
    ] {
        fails(&["swarm", "query", "x", flag, value], b"", 2, &[flag]);
    }
    fails(
        &["swarm", "query", PYTHON, "--max-memory", "1KiB"],
        b"",
        1,
        &["no expert could answer", "python", "general"],
    );
    let nothing = hublab_with(&["swarm"], b"");
    assert!(nothing.code == 2 && nothing.stderr.contains("calibrate"), "{}", nothing.stderr);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer_of_a_swarm() {
    use std::io::Read;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let folder = experts("swarm_ctrl_c");
    let model = Tiny::new().save("swarm_ctrl_c");
    let text = format!("name = \"endless\"\nmodel = \"{model}\"\ncontext = 400000\n[domain]\nname = \"letters\"\n");
    write(&folder, "endless.toml", &text);
    let query = ["swarm", "query", "abc", "--expert", "endless", "--preset", "greedy", "--experts", &folder];
    let mut child = command(&query).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let outcome = wait(child);
    assert_eq!((outcome.code, told(&outcome).as_str()), (130, ""));
    assert!(first[0].is_ascii_lowercase() && outcome.text().ends_with('\n'), "{}", outcome.text());
}

#[test]
fn eval_measures_and_says_whether_it_pays() {
    let folder = experts("swarm-eval");
    let path = |name: &str| format!("{folder}/{name}");
    let line = |question: &str, label: &str, accept: &str| {
        format!("{{\"question\":\"{question}\",\"label\":\"{label}\",\"accept\":[\"{accept}\"],\"kind\":\"short\"}}\n")
    };
    let questions =
        line("What does tar do?", "linux", "archiving") + &line("What does the command true do?", "linux", "nothing");
    write(&folder, "questions.jsonl", &questions);
    let questions = path("questions.jsonl");
    let text = "The tar program stores files in an archive and takes them out again, one after the other, with names, owners, \
                and times, so that a whole tree of directories travels as one file. ";
    write(&folder, "text/linux.txt", &text.repeat(4));
    let json = succeeds(&["swarm", "eval", "--questions", &questions, "--text", &path("text"), "--json"]).json();
    let rows = |table: &Value| -> Vec<String> {
        table["rows"].as_array().unwrap().iter().map(|row| row["system"].as_str().unwrap().to_owned()).collect()
    };
    let alone = ["general", "linux", "python", "rust", "routed top-1", "oracle label"];
    assert_eq!(rows(&json["answers"][0])[..6], alone);
    assert_eq!(rows(&json["answers"][0])[6..], ["mixture of all", "voting of all"]);
    assert_eq!(json["answers"][0]["questions"], 2);
    assert_eq!(json["answers"][0]["labels"], serde_json::json!(["linux"]));
    let texts = &json["texts"][0];
    let together = ["best per window in hindsight", "uniform mixture", "tempered fusion"];
    assert_eq!(rows(texts)[..6], alone);
    assert_eq!(rows(texts)[6..], together);
    let bits = |system: &str| {
        let row = texts["rows"].as_array().unwrap().iter().find(|row| row["system"] == system).unwrap();
        row["bits_per_byte"]["value"].as_f64().unwrap()
    };
    assert!(bits("general") > 0.5 && bits("general") < 8.0);
    assert!(bits("best per window in hindsight") <= bits("linux"));
    assert_eq!(bits("oracle label"), bits("linux"));
    assert_eq!(json["verdict"].as_array().unwrap().len(), 2);

    let report = succeeds(&["swarm", "eval", "--questions", &questions]);
    let report = report.text();
    assert!(report.contains("routed top-1") && report.contains("points above best member"), "{report}");
    fails(&["swarm", "eval"], b"", 2, &["--text"]);
    fails(&["swarm", "eval", "--text", &path("none")], b"", 1, &["none", "cannot be read"]);
    write(&folder, "broken.jsonl", "{\"question\":\"\"}\n");
    fails(&["swarm", "eval", "--questions", &path("broken.jsonl")], b"", 1, &["broken.jsonl", "line 1"]);
}
