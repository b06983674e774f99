//! What descriptions may say, what is wrong with others, and files that change while the swarm runs.

use super::moe::{RouteQuery, SwarmSpec};
use super::*;

#[test]
fn broken_descriptions_are_named_with_file_line_and_key() {
    let check = |name: &str, text: &str, says: &[&str]| {
        let folder = folder("broken");
        folder.write(&format!("more/{name}.toml"), text);
        let message = SwarmSpec::read(&folder.0).unwrap_err().to_string();
        let file = format!("{name}.toml");
        for part in says.iter().copied().chain([file.as_str()]) {
            assert!(message.contains(part), "`{message}` does not say `{part}`");
        }
    };
    let fine = "name = \"x\"\nmodel = \"builtin:default\"\n[domain]\nname = \"x\"\n";
    check("syntax", "name = \n", &["line 1"]);
    check("unknown", &format!("{fine}keyword = [\"a\"]\n"), &["line 5", "keyword", "keywords"]);
    check("type", &fine.replace("[domain]", "priority = \"high\"\n[domain]"), &["line 3", "key `priority`"]);
    check("name", &fine.replace("name = \"x\"\nmodel", "name = \"../x\"\nmodel"), &["key `name`", "../x"]);
    check("model", &fine.replace("builtin:default", "builtin:nothing"), &["key `model`", "nothing", "python"]);
    check("both", &fine.replace("model", "base"), &["`model`", "`adapter`"]);
    check("threshold", &format!("{fine}threshold = 1.5\n"), &["domain.threshold", "1.5"]);
    check("timeout", &fine.replace("[domain]", "timeout_s = -1\n[domain]"), &["timeout_s", "-1"]);
    check("list", &format!("{fine}examples_file = \"none.txt\"\n"), &["domain.examples_file", "none.txt"]);
    check("preset", &format!("{fine}[sampling]\npreset = \"wild\"\n"), &["sampling.preset", "wild", "greedy"]);
    check("sampling", &format!("{fine}[sampling]\ntop_p = 2.0\n"), &["`sampling`", "top-p is 2"]);
    check("twice", &fine.replace("\"x\"", "\"general\""), &["general", "too"]);
    check("generalist", &fine.replace("[domain]", "generalist = true\n[domain]"), &["generalist", "general"]);
    check("fallback", &fine.replace("[domain]", "fallback = \"y\"\n[domain]"), &["fallback", "`y`"]);
    check("self", &fine.replace("[domain]", "fallback = \"x\"\n[domain]"), &["circle", "x → x"]);
    let id = "name = \"a\"\nid = 7\nmodel = \"builtin:default\"\n[domain]\nname = \"a\"\n";
    let folder = folder("ids");
    folder.write("a.toml", id);
    folder.write("b.toml", id.replace("\"a\"", "\"b\""));
    let message = SwarmSpec::read(&folder.0).unwrap_err().to_string();
    assert!(message.contains("key `id`") && message.contains('7') && message.contains("`a`"), "{message}");
}

#[test]
fn a_circle_of_fallbacks_is_told() {
    let folder = folder("circle");
    folder.expert("a", "builtin:default", "fallback = \"b\"");
    folder.expert("b", "builtin:default", "fallback = \"c\"");
    folder.expert("c", "builtin:default", "fallback = \"a\"");
    let message = SwarmSpec::read(&folder.0).unwrap_err().to_string();
    assert!(message.contains("a → b → c → a") && message.contains("a.toml"), "{message}");
}

#[test]
fn a_folder_adds_to_the_built_in_experts_and_takes_from_them() {
    let names = |folder: &Folder| -> Vec<String> {
        SwarmSpec::read(&folder.0).unwrap().experts.into_iter().map(|spec| spec.config.name).collect()
    };
    let folder = Folder::new("adds");
    assert_eq!(names(&folder), ["general", "linux", "python", "rust"]);
    folder.expert("gardening", "builtin:default", "");
    folder.write("rust.toml", "name = \"rust\"\nenabled = false\n[domain]\nname = \"rust\"\n");
    folder
        .write("deep/er/python.toml", "name = \"python\"\nmodel = \"builtin:default\"\n[domain]\nname = \"snakes\"\n");
    assert_eq!(names(&folder), ["gardening", "general", "linux", "python"]);
    assert_eq!(SwarmSpec::read(&folder.0).unwrap().expert("python").unwrap().config.domain.name, "snakes");
    folder.write("swarm.toml", "builtin = false\n");
    assert_eq!(names(&folder), ["gardening", "python"]);
}

#[test]
fn files_that_change_are_read_again_and_broken_ones_change_nothing() {
    let folder = folder("reload");
    let swarm = open(&folder);
    let first = |text: &str| {
        let query = RouteQuery { text, ..RouteQuery::default() };
        let selected = swarm.route(&query, None, false).unwrap().selected;
        let name = |id| swarm.router().get(id).unwrap().0.name;
        name(selected[0])
    };
    assert!(!swarm.reload().unwrap());
    assert_eq!(first("tell me about gardening"), "general");
    folder.expert("gardening", "builtin:default", "");
    assert!(swarm.reload().unwrap());
    assert_eq!(first("tell me about gardening"), "gardening");
    folder.write("cooking.toml", "name = \"cooking\"\nmodle = \"x\"\n");
    let message = swarm.reload().unwrap_err().to_string();
    assert!(message.contains("cooking.toml") && message.contains("modle"), "{message}");
    assert_eq!(first("tell me about gardening"), "gardening", "the old swarm serves on");
    std::fs::remove_file(folder.0.join("cooking.toml")).unwrap();
    std::fs::remove_file(folder.0.join("gardening.toml")).unwrap();
    assert!(swarm.reload().unwrap());
    assert_eq!(first("tell me about gardening"), "general");
    assert_eq!(swarm.router().read(super::moe::Router::len), 1);
}

#[test]
fn settings_that_change_hold_and_broken_ones_change_nothing() {
    let folder = folder("settings");
    let swarm = open(&folder);
    folder.write("swarm.toml", "builtin = false\n[memory]\nmax = \"64 MiB\"\n");
    assert!(swarm.reload().unwrap());
    ask(&swarm, "What does tar do?");
    assert_eq!(swarm.fleet().bytes_max(), 64 << 20);
    // What is refused last changes nothing either: neither the router nor the models hear of the new expert.
    folder.expert("gardening", "builtin:default", "");
    folder.write("swarm.toml", "builtin = false\n[memory]\nmax = \"32 MiB\"\n[synthesis]\nreducer = \"nobody\"\n");
    let message = swarm.reload().unwrap_err().to_string();
    assert!(message.contains("synthesis.reducer") && message.contains("nobody"), "{message}");
    assert_eq!(swarm.router().read(super::moe::Router::len), 1);
    assert_eq!((swarm.fleet().status().len(), swarm.fleet().bytes_max()), (1, 64 << 20));
    // A budget that the opener gave is nobody else's to change.
    let config = FleetConfig { bytes_max: Some(48 << 20), ..FleetConfig::default() };
    folder.write("swarm.toml", "builtin = false\n");
    let bounded = SwarmEngine::open(Some(&folder.0), &config).unwrap();
    folder.write("swarm.toml", "builtin = false\n[memory]\nmax = \"2 GiB\"\n");
    assert!(bounded.reload().unwrap());
    ask(&bounded, "What does tar do?");
    assert_eq!(bounded.fleet().bytes_max(), 48 << 20);
}

#[test]
fn feedback_is_learned_and_kept() {
    let folder = Folder::new("feedback");
    let question = "Is the tumbler upside down?";
    let chosen = |swarm: &SwarmEngine| {
        let query = RouteQuery { text: question, ..RouteQuery::default() };
        let decision = swarm.route(&query, None, false).unwrap();
        swarm.router().get(decision.selected[0]).unwrap().0.name
    };
    let swarm = open(&folder);
    assert_eq!(chosen(&swarm), "general");
    for _ in 0..12 {
        swarm.feedback(question, "linux", true).unwrap();
    }
    assert_eq!(chosen(&swarm), "linux");
    assert_eq!(chosen(&open(&folder)), "linux", "another process knows it, too");
    let error = swarm.feedback(question, "nobody", true).unwrap_err().to_string();
    assert!(error.contains("nobody") && error.contains("linux"), "{error}");
    folder.write("feedback.jsonl", "{\"question\":\"q\",\"expert\":\"linux\",\"good\":true}\nnonsense\n");
    let error = SwarmEngine::open(Some(&folder.0), &FleetConfig::default()).err().unwrap().to_string();
    assert!(error.contains("feedback.jsonl") && error.contains("line 2"), "{error}");
    let error = SwarmEngine::open(None, &FleetConfig::default()).unwrap().feedback("q", "linux", true).unwrap_err();
    assert!(error.to_string().contains("--experts"), "{error}");
}

#[test]
fn a_model_file_that_changes_is_loaded_again() {
    let folder = folder("changes");
    folder.write("model.gguf", hublabio_runtime::ai::DEFAULT_MODEL);
    folder.expert("own", "model.gguf", "");
    let swarm = open(&folder);
    let request = SwarmRequest {
        pinned: Some(swarm.expert_id("own").unwrap()),
        max_tokens: Some(16),
        ..SwarmRequest::new("What does tar do?")
    };
    assert_eq!(names(&answer(&swarm, &request).unwrap()), ["own"]);
    // As programs replace files: a new one takes the name of the old.
    let new = folder.write("model.new", models::broken_model());
    std::fs::rename(new, folder.0.join("model.gguf")).unwrap();
    let answer = answer(&swarm, &request).unwrap();
    assert_eq!(names(&answer), ["general"]);
    assert!(answer.synthesis.notes.join(" ").contains("not finite"), "{:?}", answer.synthesis.notes);
}

#[test]
fn model_files_that_are_replaced_are_never_taken_for_each_other() {
    let folder = folder("replaced");
    let built_in = ["linux", "python", "rust"];
    for name in built_in {
        folder.expert(name, &format!("builtin:{name}"), "");
    }
    let put = |file: &str, model: &str| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/experts");
        let new = folder.write("model.new", std::fs::read(format!("{source}/{model}.gguf")).unwrap());
        std::fs::rename(new, folder.0.join(file)).unwrap();
    };
    put("a.gguf", "linux");
    put("b.gguf", "python");
    for (name, file) in [("first", "a.gguf"), ("second", "b.gguf"), ("third", "a.gguf")] {
        folder.expert(name, file, "");
    }
    let swarm = open(&folder);
    let say = |name: &str| {
        let pinned = Some(swarm.expert_id(name).unwrap());
        let request = SwarmRequest { pinned, max_tokens: Some(16), ..SwarmRequest::new("How do I list files?") };
        let answer = answer(&swarm, &request).unwrap();
        assert_eq!(names(&answer), [name]);
        answer.synthesis.text
    };
    let texts = built_in.map(say);
    let [linux, python, rust] = &texts;
    assert!(linux != python && python != rust && linux != rust, "{texts:?}");
    assert_eq!([&say("first"), &say("second")], [linux, python]);
    put("a.gguf", "python");
    put("b.gguf", "rust");
    // One that was never asked is the first to look at the new file.
    assert_eq!([&say("third"), &say("first"), &say("second")], [python, python, rust]);
    put("a.gguf", "rust");
    assert_eq!([&say("first"), &say("second"), &say("third")], [rust, rust, rust]);
    put("b.gguf", "linux");
    put("a.gguf", "linux");
    assert_eq!([&say("second"), &say("first"), &say("third")], [linux, linux, linux]);
}

#[test]
fn a_share_of_the_memory_bounds_what_the_settings_say() {
    let folder = folder("share");
    folder.write("swarm.toml", "builtin = false\n[memory]\nmax = \"64MiB\"\n");
    for (share, expected) in [(None, 64 << 20), (Some(128 << 20), 64 << 20), (Some(32 << 20), 32 << 20)] {
        let config = FleetConfig { share, ..FleetConfig::default() };
        let swarm = SwarmEngine::open(Some(&folder.0), &config).unwrap();
        assert_eq!(swarm.fleet().bytes_max(), expected);
    }
}
