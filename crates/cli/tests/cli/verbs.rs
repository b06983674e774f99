//! What every verb does when all is well, mostly on the built-in model.

use std::process::Stdio;

use serde_json::Value;

use crate::program::{command, file, folder, succeeds, succeeds_with, wait};
use crate::tiny::{CONTEXT, Tiny};

const QUESTION: &str = "What does the command tar do?";

/// The names of an object's fields, sorted.
fn keys(json: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = json.as_object().expect("a JSON object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn run_answers_the_same_however_it_is_asked() {
    let answer = succeeds(&["run", QUESTION]);
    assert!(answer.text().trim().len() > 3, "{}", answer.text());
    assert!(answer.text().ends_with('\n') && !answer.text().ends_with("\n\n"), "{:?}", answer.text());
    assert_eq!(answer.stderr, "");
    let same = |arguments: &[&str], stdin: &str| {
        assert_eq!(succeeds_with(arguments, stdin.as_bytes()).text(), answer.text(), "{arguments:?}");
    };
    same(&["run", "default", QUESTION], "");
    same(&["run", "default"], QUESTION);
    same(&["run"], &format!("{QUESTION}\n"));
    same(&["run", QUESTION], "standard input is not read when there is a prompt");
    same(&["run", QUESTION, "--preset", "greedy", "--threads", "1"], "");
    same(&["run", QUESTION, "--isa", "portable"], "");
    same(&["run", "--temp", "0", "--", QUESTION], "");
}

#[test]
fn no_file_name_is_magic() {
    let garbage = file("magic", "default.gguf", b"garbage");
    file("magic", "default", b"garbage");
    let run = |arguments: &[&str]| {
        let folder = std::path::Path::new(&garbage).parent().unwrap().to_owned();
        wait(command(arguments).current_dir(folder).spawn().unwrap())
    };
    let expected = succeeds(&["run", QUESTION]);
    for arguments in [&["run", QUESTION][..], &["run", "default", QUESTION]] {
        assert_eq!(run(arguments).text(), expected.text(), "{arguments:?}");
    }
    assert_eq!(run(&["run", "./default", QUESTION]).code, 1);
}

#[test]
fn run_writes_statistics_to_standard_error_when_asked() {
    let outcome = succeeds(&["run", QUESTION, "--stats"]);
    assert_eq!(outcome.text(), succeeds(&["run", QUESTION]).text());
    for part in ["load", "prompt", "decode", "tokens/s", "GB/s"] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
}

#[test]
fn run_obeys_its_flags() {
    let model = Tiny::new().save("run_flags");
    let text = |more: &[&str]| {
        let base = ["run", &model, "abc", "--raw", "-n", "40"];
        succeeds(&[&base[..], more].concat()).text().to_owned()
    };
    let greedy = text(&["--temp", "0"]);
    assert_eq!(greedy.trim_end().chars().count(), 40, "each token of the tiny model is a letter: {greedy}");
    assert_eq!(text(&["--preset", "greedy"]), greedy);
    assert_eq!(text(&["--top-k", "1", "--seed", "3"]), greedy);
    assert_eq!(text(&["--min-p", "1"]), greedy);
    assert_eq!(text(&["--top-p", "0.000001"]), greedy);
    let drawn = text(&["--temp", "2", "--top-k", "0", "--top-p", "1", "--seed", "1"]);
    assert_eq!(text(&["--temp", "2", "--top-k", "0", "--top-p", "1", "--seed", "1"]), drawn);
    assert_ne!(text(&["--temp", "2", "--top-k", "0", "--top-p", "1", "--seed", "2"]), drawn);
    assert_ne!(text(&["--temp", "0", "--presence-penalty", "100"]), greedy);
    assert_ne!(text(&["--temp", "0", "--frequency-penalty", "100"]), greedy);
    assert_ne!(text(&["--temp", "0", "--repeat-penalty", "100"]), greedy);

    // The template of the tiny model puts a space after each message.
    let chat = succeeds(&["run", &model, "abc", "-n", "40", "--temp", "0"]);
    assert_eq!(chat.text(), succeeds(&["run", &model, "abc ", "--raw", "-n", "40", "--temp", "0"]).text());
    let system = succeeds(&["run", &model, "abc", "--system", "xyz", "-n", "40", "--temp", "0"]);
    assert_eq!(system.text(), succeeds(&["run", &model, "xyz abc ", "--raw", "-n", "40", "--temp", "0"]).text());

    // A control token is text unless asked for otherwise: then the BOS of the prompt is the one that the model wants.
    let spelled = succeeds(&["run", &model, "<s>abc", "--raw", "--parse-special", "-n", "40", "--temp", "0"]);
    let plain = succeeds(&["run", &model, "<s>abc", "--raw", "-n", "40", "--temp", "0"]);
    assert_ne!(spelled.text(), plain.text());
}

#[test]
fn run_says_when_the_context_cut_the_answer() {
    let model = Tiny::new().save("context_cut");
    let outcome = succeeds(&["run", &model, "abc", "--raw", "--ctx", "32"]);
    assert!(outcome.stderr.starts_with("note: ") && outcome.stderr.contains("of 32 tokens is full: raise --ctx"));
    let asked = succeeds(&["run", &model, "abc", "--raw", "--ctx", "32", "-n", "5"]);
    assert_eq!(asked.stderr, "");
}

#[test]
fn chat_remembers_forgets_and_saves() {
    let model = Tiny::new().save("chat");
    let saved = folder("chat").join("talk.json");
    let text = folder("chat").join("talk.txt");
    let script = format!("abc\n\ndef\n/save {}\n/save {}\n/reset\nabc\n/exit\nabc\n", saved.display(), text.display());
    let outcome = succeeds_with(&["chat", &model, "-n", "20", "--temp", "0", "--system", "xyz"], script.as_bytes());
    let answers: Vec<_> = outcome.text().lines().collect();
    let &[first, second, third] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(first, third, "after /reset the conversation begins anew");
    let run = |prompt: &str| {
        succeeds(&["run", &model, prompt, "--raw", "-n", "20", "--temp", "0"]).text().trim_end().to_owned()
    };
    assert_eq!(first, run("xyz abc "));
    assert_eq!(second, run(&format!("xyz abc {first} def ")));

    let json: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let messages: Vec<_> = json["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| (message["role"].as_str().unwrap(), message["content"].as_str().unwrap()))
        .collect();
    let expected = [("system", "xyz"), ("user", "abc"), ("assistant", first), ("user", "def"), ("assistant", second)];
    assert_eq!(messages, expected);
    let expected = expected.map(|(role, content)| format!("{role}: {content}\n")).join("\n");
    assert_eq!(std::fs::read_to_string(&text).unwrap(), expected);
}

#[test]
fn chat_takes_a_line_that_starts_with_a_space_as_a_message() {
    let outcome = succeeds_with(&["chat", "-n", "3"], b" /exit\n/help\n");
    assert!(!outcome.text().trim().is_empty());
    assert!(outcome.stderr.contains("/reset"), "{}", outcome.stderr);
}

#[test]
fn show_describes_the_built_in_model() {
    let outcome = succeeds(&["show"]);
    for part in ["architecture   llama", "parameters", "context", "chat template  yes", "Q8_0", "general.name"] {
        assert!(outcome.text().contains(part), "{part} is not in: {}", outcome.text());
    }
    assert!(!outcome.text().contains("blk.0.attn_q.weight"));
    assert!(succeeds(&["show", "default", "--tensors"]).text().contains("blk.0.attn_q.weight"));
    let json = succeeds(&["show", "default", "--json", "--tensors"]).json();
    assert_eq!(json["architecture"], "llama");
    assert_eq!(json["path"], Value::Null);
    assert_eq!(json["chat_template"], true);
    let parameters: u64 = json["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| tensor["dims"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).product::<u64>())
        .sum();
    assert_eq!(json["parameters"], parameters);
    let bytes: u64 = json["by_type"].as_array().unwrap().iter().map(|share| share["bytes"].as_u64().unwrap()).sum();
    assert!(bytes > 0 && bytes <= json["bytes"].as_u64().unwrap());
    let tokens = json["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len();
    assert_eq!(json["tokenizer"]["tokens"], tokens);
}

#[test]
fn show_describes_what_cannot_be_run() {
    let mut tiny = Tiny::new();
    tiny.metadata.insert("general.architecture", "not-yet");
    tiny.metadata.insert("not-yet.context_length", 77u64);
    tiny.metadata.insert("not-yet.block_count", "seven");
    tiny.metadata.insert("general.name", "a\u{1b}[2Jb\nc");
    let path = tiny.save("show_unknown");
    let text = succeeds(&["show", &path]);
    for part in ["architecture   not-yet", "context        77 tokens", "a␛[2Jb\\nc", "F32", "u64"] {
        assert!(text.text().contains(part), "{part} is not in: {}", text.text());
    }
    let json = succeeds(&["show", &path, "--json"]).json();
    assert_eq!(json["context_length"], 77);
    assert_eq!(json["layers"], Value::Null);
    assert_eq!(json["metadata"]["general.name"], "a\u{1b}[2Jb\nc");
    assert_eq!(json["metadata"]["llama.attention.layer_norm_rms_epsilon"].to_string(), "0.00001");
    assert_eq!(json.get("tensors"), None);

    tiny.remove_tensors();
    let path = tiny.save("show_vocabulary");
    let text = succeeds(&["show", &path, "--tensors"]);
    assert!(text.text().contains("parameters     0 in 0 tensors"), "{}", text.text());
    assert!(text.text().contains("tokenizer      llama, 285 tokens"), "{}", text.text());
}

#[test]
fn tokenize_takes_bytes_and_gives_them_back() {
    let text = "Hello, wörld!\r\n\ttabs and  spaces \u{1F999}\0 <s> end\n";
    let json = succeeds_with(&["tokenize", "default", "--json"], text.as_bytes());
    assert_eq!(keys(&json.json()), ["ids"]);
    assert_eq!(json.text().lines().count(), 1);
    let plain = succeeds_with(&["tokenize"], text.as_bytes());
    let listed: Vec<u32> = plain.text().split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(json.json()["ids"], serde_json::json!(listed));
    for (ids, flags) in [(&json, &["--decode", "--json"][..]), (&json, &["--decode"]), (&plain, &["--decode"])] {
        let back = succeeds_with(&[&["tokenize", "default"], flags].concat(), &ids.stdout);
        assert_eq!(back.text(), text);
    }
    assert_eq!(succeeds_with(&["tokenize", "--json"], b"").text(), "{\"ids\":[]}\n");
    assert_eq!(succeeds_with(&["tokenize", "--decode"], b"{\"ids\":[]}").text(), "");
}

#[test]
fn tokenize_adds_and_recognises_only_what_it_is_told_to() {
    let mut tiny = Tiny::new();
    tiny.remove_tensors();
    tiny.metadata.insert("tokenizer.ggml.add_space_prefix", false);
    tiny.metadata.insert("tokenizer.ggml.eos_token_id", 258u32);
    let path = tiny.save("tokenize");
    let ids = |flags: &[&str], text: &str| {
        succeeds_with(&[&["tokenize", &path], flags].concat(), text.as_bytes()).text().trim_end().to_owned()
    };
    assert_eq!(ids(&[], "abc"), "259 260 261");
    assert_eq!(ids(&["--bos"], "abc"), "1 259 260 261");
    assert_eq!(ids(&["--eos"], "abc"), "259 260 261 258");
    assert_eq!(ids(&["--parse-special"], "<s>abc"), "1 259 260 261");
    // `<` and `>` have byte tokens only, which start at 2.
    assert_eq!(ids(&[], "<s>"), "62 277 64");
    let decode = |flags: &[&str], ids: &str| {
        succeeds_with(&[&["tokenize", &path, "--decode"], flags].concat(), ids.as_bytes()).stdout
    };
    assert_eq!(decode(&[], "1 259 260"), b"ab");
    assert_eq!(decode(&["--parse-special"], "1 259 260"), b"<s>ab");
    // Bytes come out as they are, UTF-8 or not.
    assert_eq!(decode(&[], "{\"ids\":[257,2]}"), [0xFF, 0]);
}

#[test]
fn perplexity_reports_what_its_contract_says() {
    let sentences: Vec<_> = (0..400).map(|i| format!("The function returns the number {i}.")).collect();
    let text = sentences.join(" ");
    let path = file("perplexity", "text.txt", text.as_bytes());
    let json = succeeds(&["perplexity", "default", &path, "--json", "--ctx", "64"]).json();
    assert_eq!(keys(&json), ["bits_per_byte", "nll_mean", "perplexity", "tokens_scored"]);
    let (perplexity, nll) = (json["perplexity"].as_f64().unwrap(), json["nll_mean"].as_f64().unwrap());
    assert!(perplexity > 1.0 && (nll.exp() / perplexity - 1.0).abs() < 1e-9, "{json}");
    assert!(json["tokens_scored"].as_u64().unwrap() > 100);
    // The built-in model can be left out, and standard input be the text.
    assert_eq!(succeeds(&["perplexity", &path, "--json", "--ctx", "64"]).json(), json);
    assert_eq!(succeeds_with(&["perplexity", "-", "--json", "--ctx", "64"], text.as_bytes()).json(), json);
    let people = succeeds(&["perplexity", &path, "--ctx", "64"]);
    assert!(people.text().starts_with(&format!("perplexity     {perplexity:.4}\n")), "{}", people.text());
}

#[test]
fn bench_reports_what_its_contract_says() {
    let flags = ["bench", "default", "--pp", "32", "--tg", "4", "--depth", "16", "--repeat", "3", "--threads", "2"];
    let json = succeeds(&[&flags[..], &["--json"]].concat()).json();
    assert_eq!(keys(&json), ["decode", "isa", "load_s", "prefill", "rss_peak_bytes", "threads"]);
    assert_eq!(keys(&json["prefill"]), ["median", "tokens", "tokens_per_s"]);
    assert_eq!(keys(&json["decode"]), ["gb_per_s", "median", "tokens", "tokens_per_s"]);
    assert_eq!(
        (&json["threads"], &json["prefill"]["tokens"], &json["decode"]["tokens"]),
        (&2.into(), &32.into(), &4.into())
    );
    for series in ["prefill", "decode"] {
        let mut speeds: Vec<_> =
            json[series]["tokens_per_s"].as_array().unwrap().iter().map(|speed| speed.as_f64().unwrap()).collect();
        speeds.sort_by(f64::total_cmp);
        assert_eq!(speeds.len(), 3);
        assert!(speeds[0] > 0.0);
        assert_eq!(json[series]["median"], speeds[1]);
    }
    assert!(json["load_s"].as_f64().unwrap() > 0.0 && json["decode"]["gb_per_s"].as_f64().unwrap() > 0.0);
    let people = succeeds(&flags);
    for part in ["2 threads", "prefill", "32 tokens, median of 3", "GB/s"] {
        assert!(people.text().contains(part), "{part} is not in: {}", people.text());
    }
}

#[test]
fn logits_predict_what_run_writes() {
    let ids = succeeds_with(&["tokenize", "--json", "--bos"], b"The function returns");
    let last = succeeds_with(&["logits"], &ids.stdout).json();
    assert_eq!(keys(&last), ["logits", "vocab"]);
    let row: Vec<f64> = last["logits"].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap()).collect();
    assert_eq!(last["vocab"], row.len());
    let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();

    let all = succeeds_with(&["logits", "default", "--all"], &ids.stdout).json();
    assert_eq!(all["vocab"], last["vocab"]);
    let rows = all["logits"].as_array().unwrap();
    assert_eq!(rows.len(), ids.json()["ids"].as_array().unwrap().len());
    assert_eq!(rows.last(), Some(&last["logits"]));
    assert_ne!(rows.first(), rows.last());
    assert_ne!(succeeds_with(&["logits", "--kv", "f32"], &ids.stdout).json()["logits"], last["logits"]);

    let next = succeeds_with(&["tokenize", "--decode"], best.to_string().as_bytes());
    // With its BOS in the ids and its raw prompt the model is in the same state, whether or not it wants a BOS itself.
    let prompt = "<s>The function returns";
    let run = succeeds(&["run", "default", prompt, "--raw", "--parse-special", "-n", "1", "--temp", "0"]);
    assert_eq!(run.text().trim_end(), next.text().trim_end());
}

#[test]
fn logits_and_bench_need_no_tokenizer() {
    let mut tiny = Tiny::new();
    let ids = b"{\"ids\":[1,259,260]}";
    let expected = succeeds_with(&["logits", &tiny.save("logits_whole")], ids).json();
    tiny.remove_tokenizer();
    let path = tiny.save("logits_bare");
    assert_eq!(succeeds_with(&["logits", &path], ids).json(), expected);
    succeeds(&["bench", &path, "--pp", "8", "--tg", "2", "--repeat", "1"]);
    assert!(succeeds(&["show", &path]).text().contains("tokenizer      none"));
}

#[test]
fn completions_are_scripts_that_name_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeds(&["completions", shell]);
        for verb in ["run", "chat", "show", "tokenize", "perplexity", "bench", "logits", "completions"] {
            assert!(script.text().contains(verb), "{shell}: {verb}");
        }
    }
    let bash = folder("completions").join("hublab.bash");
    std::fs::write(&bash, succeeds(&["completions", "bash"]).stdout).unwrap();
    // Where there is a bash, it takes the script.
    if let Ok(status) = std::process::Command::new("bash").arg("-n").arg(&bash).status() {
        assert!(status.success());
    }
}

#[test]
fn version_and_help_go_to_standard_output() {
    assert_eq!(succeeds(&["--version"]).text(), format!("hublab {}\n", env!("CARGO_PKG_VERSION")));
    let help = succeeds(&["--help"]);
    assert!(help.text().contains("Usage: hublab") && help.stderr.is_empty());
}

#[test]
fn output_that_is_no_terminal_has_no_escape_codes() {
    for arguments in [
        &["run", QUESTION, "--stats"][..],
        &["chat"],
        &["show", "--tensors"],
        &["perplexity", "default", env!("CARGO_MANIFEST_PATH"), "--ctx", "32"],
        &["bench", "--pp", "8", "--tg", "2", "--repeat", "1"],
        &["completions", "fish"],
        &["--help"],
        &["run", "--help"],
        &["run", "--no-such-flag"],
        &["run", "no-such-file.gguf"],
    ] {
        // A terminal's name alone makes no terminal.
        let child = command(arguments).env("TERM", "xterm-256color").stdin(Stdio::null()).spawn().unwrap();
        let outcome = wait(child);
        assert!(!outcome.stdout.contains(&0x1b) && !outcome.stderr.contains('\x1b'), "{arguments:?}");
        assert!(!outcome.stdout.contains(&b'\r') && !outcome.stderr.contains('\r'), "{arguments:?}");
    }
}

#[test]
fn the_context_can_be_as_long_as_the_model_was_trained_for() {
    let model = Tiny::new().save("context");
    succeeds(&["run", &model, "abc", "-n", "2", "--ctx", &CONTEXT.to_string()]);
}
