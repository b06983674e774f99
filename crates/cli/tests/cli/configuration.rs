//! The configuration as users have it: files, variables and flags of the program, `doctor`, the log and the manual.

use std::path::Path;

use serde_json::Value;

use crate::program::{Outcome, command, fails, file, folder, succeeds, wait};
use crate::tiny::Tiny;

const QUESTION: &str = "What does the command tar do?";
const COMMITTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/system.toml"));

/// Runs the program with these variables.
fn with(variables: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    wait(command(arguments).envs(variables.iter().copied()).spawn().expect("the program starts"))
}

/// Runs `doctor --json`, whatever its exit code.
fn doctor(variables: &[(&str, &str)], more: &[&str]) -> (i32, Value) {
    let outcome = with(variables, &[&["doctor", "--json"], more].concat());
    (outcome.code, outcome.json())
}

/// The value and origin of a key.
fn setting<'a>(report: &'a Value, key: &str) -> (&'a Value, &'a str) {
    let values = report["config"]["values"].as_array().unwrap();
    let found = values.iter().find(|setting| setting["key"] == key).unwrap();
    (&found["value"], found["origin"].as_str().unwrap())
}

#[test]
fn a_file_with_every_default_changes_nothing() {
    let committed = file("config_defaults", "system.toml", COMMITTED.as_bytes());
    let plain = succeeds(&["run", QUESTION]);
    let configured = succeeds(&["run", QUESTION, "--config", &committed]);
    assert_eq!((configured.text(), configured.stderr.as_str()), (plain.text(), ""));
    assert_eq!(succeeds(&["--config", &committed, "run", QUESTION]).text(), plain.text(), "the flag is global");
}

#[test]
fn a_configuration_that_cannot_be_used_stops_every_verb_that_reads_it() {
    let wrong = file("config_wrong", "system.toml", b"[runtime]\nmax_memroy = 1\n");
    let says = ["system.toml", "line 2", "max_memroy", "max_memory"];
    for verb in [&["run", QUESTION][..], &["show"], &["swarm", "ls"]] {
        fails(&[verb, &["--config", &wrong]].concat(), b"", 1, &says);
    }
    fails(&["run", QUESTION, "--config", "/no/such.toml"], b"", 1, &["/no/such.toml", "--config"]);
    succeeds(&["completions", "bash", "--config", &wrong]);
    let variable = with(&[("HUBLAB_SERVER_PROT", "1")], &["run", QUESTION]);
    assert_eq!(variable.code, 1);
    assert!(variable.stderr.contains("HUBLAB_SERVER_PORT"), "{}", variable.stderr);
}

#[test]
fn the_default_model_answers_where_none_is_named() {
    let model = Tiny::new().save("config_model");
    let name = Path::new(&model).file_name().unwrap().to_str().unwrap();
    // Relative to the file, not to where the program is started.
    let text = format!("[ai]\ndefault_model = \"./{name}\"\n");
    let config = Path::new(&model).with_file_name("system.toml");
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let by_name = succeeds(&["run", &model, "abc", "--raw", "-n", "9", "--temp", "0"]);
    let arguments = ["run", "abc", "--raw", "-n", "9", "--temp", "0", "--config", config];
    assert_eq!(succeeds(&arguments).text(), by_name.text());
    let shown = |arguments: &[&str]| succeeds(&[arguments, &["--config", config, "--json"]].concat()).json();
    assert_eq!(shown(&["show"])["path"], model);
    assert_ne!(shown(&["show", "default"])["path"], model, "the word is the built-in model");
    let tokens = |model: &[&str]| succeeds(&[&["tokenize", "--config", config], model].concat()).text().to_owned();
    assert_eq!(tokens(&[]), tokens(&[&model]));
}

#[test]
fn a_default_model_that_is_not_there_is_named_when_it_is_needed() {
    let missing = [("HUBLAB_AI_DEFAULT_MODEL", "/no/such/model.gguf")];
    for arguments in [&["run", QUESTION][..], &["run"], &["chat"], &["show"]] {
        let outcome = with(&missing, arguments);
        assert_eq!(outcome.code, 1, "{arguments:?}: {}", outcome.stderr);
        for part in ["/no/such/model.gguf", "ai.default_model", "HUBLAB_AI_DEFAULT_MODEL"] {
            assert!(outcome.stderr.contains(part), "{arguments:?}: {}", outcome.stderr);
        }
    }
    for arguments in [&["run", "default", QUESTION][..], &["show", "default"], &["show", "--types"]] {
        assert_eq!(with(&missing, arguments).code, 0, "{arguments:?}");
    }
}

#[test]
fn temperature_and_top_p_are_used_unless_flags_say_otherwise() {
    let model = Tiny::new().save("config_sampling");
    let text = |variables: &[(&str, &str)], more: &[&str]| {
        let base = ["run", &model, "abc", "--raw", "-n", "40", "--seed", "3"];
        with(variables, &[&base[..], more].concat()).text().to_owned()
    };
    let hot = [("HUBLAB_AI_TEMPERATURE", "3"), ("HUBLAB_AI_TOP_P", "1")];
    let cold = [("HUBLAB_AI_TEMPERATURE", "0")];
    let narrow = [("HUBLAB_AI_TOP_P", "0.000001")];
    assert_eq!(text(&hot, &[]), text(&[], &["--temp", "3", "--top-p", "1"]));
    assert_ne!(text(&hot, &[]), text(&[], &[]));
    let greedy = text(&[], &["--temp", "0"]);
    assert_eq!(text(&cold, &[]), greedy);
    assert_eq!(text(&narrow, &[]), greedy);
    assert_eq!(text(&hot, &["--temp", "0"]), greedy, "the flag wins");
    assert_eq!(text(&hot, &["--preset", "greedy"]), greedy, "and so does a preset");
    assert_eq!(text(&cold, &["--preset", "creative"]), text(&[], &["--preset", "creative"]));
    // What a flag could not be combined with is left alone.
    assert_eq!(text(&hot, &["--mirostat"]), text(&[], &["--mirostat"]));
    assert_eq!(text(&hot, &["--samplers", "top_k"]), text(&[], &["--samplers", "top_k"]));
}

#[test]
fn threads_and_memory_are_used() {
    let bench = ["bench", "--pp", "4", "--tg", "1", "--repeat", "1", "--json"];
    let one = [("HUBLAB_RUNTIME_NUM_THREADS", "1")];
    assert_eq!(with(&one, &bench).json()["threads"], 1);
    assert_eq!(with(&one, &[&bench[..], &["--threads", "2"]].concat()).json()["threads"], 2);
    let query = ["swarm", "query", "How do I reverse a list in Python?"];
    let little = with(&[("HUBLAB_RUNTIME_MAX_MEMORY", "1MiB")], &query);
    assert_eq!(little.code, 1, "{}", little.stderr);
    let enough = with(&[("HUBLAB_RUNTIME_MAX_MEMORY", "1MiB")], &[&query[..], &["--max-memory", "1GiB"]].concat());
    assert_eq!(enough.code, 0, "{}", enough.stderr);
}

#[test]
fn the_log_is_silent_until_asked_for() {
    assert_eq!(succeeds(&["run", QUESTION]).stderr, "");
    let config = file("config_log", "system.toml", b"kernel.log_level = \"debug\"");
    let debug = succeeds(&["run", QUESTION, "--config", &config]);
    assert!(debug.stderr.contains("DEBUG") && debug.stderr.contains("system.toml"), "{}", debug.stderr);
    assert_eq!(debug.text(), succeeds(&["run", QUESTION]).text());
    let info = with(&[("HUBLAB_KERNEL_LOG_LEVEL", "info")], &["run", QUESTION, "--config", &config]);
    assert!(info.stderr.contains("INFO") && !info.stderr.contains("DEBUG"), "{}", info.stderr);
}

#[test]
fn doctor_says_what_is_in_force_and_from_where() {
    let config = file("config_doctor", "system.toml", b"[server]\nport = 8080\nqueue_max = 9\n");
    let variables = [("HUBLAB_SERVER_PORT", "8081"), ("HUBLAB_MODELS", "/no/such/models")];
    let (code, report) = doctor(&variables, &["--config", &config]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(setting(&report, "server.port"), (&8081.into(), "HUBLAB_SERVER_PORT"));
    assert_eq!(setting(&report, "server.queue_max"), (&9.into(), format!("{config}:3").as_str()));
    assert_eq!(setting(&report, "kernel.log_level"), (&"warn".into(), "default"));
    assert_eq!(report["config"]["file"], config);
    assert_eq!(report["folders"][0]["path"], "/no/such/models");
    assert_eq!(report["folders"][0]["exists"], false);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["isas"].as_array().unwrap().contains(&report["isa"]), "{report}");
    assert!(report["cores"].as_u64() >= Some(1) && report["problems"].as_array().unwrap().is_empty(), "{report}");
    let text = with(&variables, &["doctor", "--config", &config]);
    for part in ["hublab ", "cores", "kernels", "memory", "/no/such/models", "TYPICAL", "server.port", "8081", &config]
    {
        assert!(text.text().contains(part), "{part}: {}", text.text());
    }
    assert!(text.text().contains("No problem was found."), "{}", text.text());
}

#[test]
fn doctor_says_what_fits() {
    let model = Tiny::new().save("config_fits");
    let broken = file("config_fits", "broken.gguf", b"garbage");
    let (code, report) = doctor(&[("HUBLAB_RUNTIME_MAX_MEMORY", "1GiB")], &[&model, &broken]);
    assert_eq!(code, 0, "{report}");
    let models = report["models"].as_array().unwrap();
    let named = |name: &str| models.iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(named(&model)["weight_bytes"], std::fs::metadata(&model).unwrap().len());
    assert!(named("default (built in)")["kv_bytes"].as_u64() > Some(0));
    let large = named("8B in Q8_0");
    assert_eq!((&large["typical"], &large["within_max_memory"]), (&true.into(), &false.into()));
    // 32 blocks, 1024 values of keys and as many of values, 2 bytes each, 4096 positions.
    assert_eq!(large["kv_bytes"], 32 * 2 * 1024 * 2 * 4096);
    assert_eq!(models.iter().filter(|entry| entry["typical"] == true).count(), 8);
    #[cfg(target_os = "linux")]
    {
        assert_eq!(named(&model)["fit"], "fits");
        assert!(report["memory"]["total_bytes"].as_u64() > Some(0));
    }
    let problems = report["problems"].as_array().unwrap();
    assert!(problems.iter().any(|p| p["problem"].as_str().unwrap().contains("broken.gguf")), "{report}");
}

#[test]
fn doctor_finds_what_would_stop_the_service() {
    let check = |variables: &[(&str, &str)], more: &[&str], says: &[&str]| {
        let (code, report) = doctor(variables, more);
        assert_eq!(code, 1, "{report}");
        let fatal = report["problems"].as_array().unwrap().iter().filter(|problem| problem["fatal"] == true);
        let text = fatal.map(Value::to_string).collect::<String>();
        for part in says {
            assert!(text.contains(part), "{part}: {text}");
        }
        let shown = with(variables, &[&["doctor"], more].concat());
        assert_eq!(shown.code, 1);
        assert!(shown.text().contains("error: "), "{}", shown.text());
    };
    let wrong = file("config_stops", "system.toml", b"[servre]");
    check(&[], &["--config", &wrong], &["servre", "[server]"]);
    check(&[], &["--config", "/no/such.toml"], &["/no/such.toml"]);
    check(&[("HUBLAB_SERVER_ADDRESS", "0.0.0.0")], &[], &["0.0.0.0", "server.api_key_file"]);
    let key = [("HUBLAB_SERVER_API_KEY_FILE", "/no/such/keys"), ("HUBLAB_SERVER_ADDRESS", "0.0.0.0")];
    check(&key, &[], &["/no/such/keys", "HUBLAB_SERVER_API_KEY_FILE"]);
    check(&[("HUBLAB_AI_DEFAULT_MODEL", "/no/such.gguf")], &[], &["/no/such.gguf", "ai.default_model"]);
    check(&[("HUBLAB_MODELS", &wrong)], &[], &[&wrong, "no folder"]);
}

#[test]
fn doctor_warns_of_limits_beyond_the_machine() {
    let (code, report) =
        doctor(&[("HUBLAB_RUNTIME_NUM_THREADS", "1024"), ("HUBLAB_RUNTIME_MAX_MEMORY", "512TiB")], &[]);
    assert_eq!(code, 0, "{report}");
    let text = report["problems"].to_string();
    assert!(text.contains("runtime.num_threads"), "{text}");
    #[cfg(target_os = "linux")]
    assert!(text.contains("runtime.max_memory"), "{text}");
}

#[test]
fn the_manual_is_printed_and_written() {
    let page = succeeds(&["man"]);
    assert!(page.text().contains(".TH hublab 1") && page.text().contains("SUBCOMMANDS"), "{}", page.text());
    let folder = folder("man").join("man1");
    let outcome = succeeds(&["man", "--out", folder.to_str().unwrap()]);
    assert!(outcome.stderr.contains("pages are in"), "{}", outcome.stderr);
    for name in ["hublab.1", "hublab-run.1", "hublab-swarm-query.1"] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".nf"), "{name}");
    }
    let occupied = file("man", "occupied", b"");
    fails(&["man", "--out", &occupied], b"", 1, &["occupied"]);
}
