//! The flags about choosing tokens, from `--samplers` to `--logprobs`.

use serde_json::Value;

use crate::program::{fails, succeeds};

const QUESTION: &str = "What does the command tar do?";

fn json(flags: &[&str]) -> Value {
    serde_json::from_str(succeeds(&[&["run", QUESTION, "--json"], flags].concat()).text()).unwrap()
}

#[test]
fn an_answer_as_json_says_the_same_as_text() {
    let text = succeeds(&["run", QUESTION]);
    let answer = json(&[]);
    assert_eq!(answer["text"], text.text().trim_end_matches('\n'));
    assert_eq!((&answer["finish"], &answer["stop"]), (&Value::from("end"), &Value::Null));
    assert!(answer.get("logprobs").is_none());
    let detailed = json(&["--logprobs", "2", "-n", "3"]);
    assert_eq!(detailed["finish"], "length");
    assert_eq!(detailed["ids"].as_array().unwrap()[..], answer["ids"].as_array().unwrap()[..3]);
    for (i, entry) in detailed["logprobs"].as_array().unwrap().iter().enumerate() {
        assert_eq!(entry["id"], detailed["ids"][i]);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        assert_eq!(entry["top"][0]["id"], entry["id"], "the built-in model is greedy");
        assert_eq!(entry["top"].as_array().unwrap().len(), 2);
        let bytes: Vec<u8> = entry["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8).collect();
        assert_eq!(entry["token"], String::from_utf8_lossy(&bytes).as_ref());
    }
}

#[test]
fn a_stop_string_is_not_shown() {
    let text = succeeds(&["run", QUESTION]);
    let words: Vec<&str> = text.text().split_whitespace().collect();
    let stop = words[1];
    let cut = json(&["--stop", "never", "--stop", stop]);
    assert_eq!((&cut["finish"], &cut["stop"]), (&Value::from("stop"), &Value::from(stop)));
    assert_eq!(cut["text"], text.text().split_once(stop).unwrap().0);
}

#[test]
fn biases_forbid_and_seeds_repeat() {
    let answer = json(&[]);
    let first = answer["ids"][0].as_u64().unwrap();
    let other = json(&["--logit-bias", &format!("{first}=-inf"), "-n", "1"]);
    assert_ne!(other["ids"][0], answer["ids"][0]);
    fails(&["run", QUESTION, "--logit-bias", "999999999=1"], b"", 1, &["999999999", "tokens 0 to"]);
    let all = [
        "--seed",
        "7",
        "--samplers",
        "temperature,dry,penalties,typ_p,xtc,min_p",
        "--temp",
        "1.5",
        "--typical",
        "0.9",
        "--min-p",
        "0.01",
        "--xtc-probability",
        "0.5",
        "--dry-multiplier",
        "0.8",
        "--dry-breaker",
        ".",
        "--repeat-penalty",
        "1.1",
        "--repeat-last-n",
        "-1",
        "--dynatemp-range",
        "0.5",
    ];
    assert_eq!(json(&all), json(&all));
    let mirostat = ["--mirostat", "--mirostat-target", "3", "--seed", "1", "--temp", "1"];
    assert_eq!(json(&mirostat), json(&mirostat));
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let refused = |flags: &[&str], parts: &[&str]| {
        fails(&[&["run", QUESTION], flags].concat(), b"", 2, parts);
    };
    refused(&["--samplers", "top_k,nope"], &["`nope`", "typ_p"]);
    refused(&["--samplers", "top_k,top_k"], &["`top_k` comes twice"]);
    refused(&["--samplers", "top_k", "--top-p", "0.5"], &["--top-p", "--samplers", "`top_p`"]);
    refused(&["--samplers", "top_k", "--preset", "greedy"], &["--preset greedy", "`temperature`"]);
    refused(&["--mirostat", "--top-k", "5"], &["--top-k"]);
    refused(&["--mirostat-rate", "0.1"], &["--mirostat"]);
    refused(&["--logprobs", "2"], &["--json"]);
    refused(&["--logprobs", "101", "--json"], &["0 to 100"]);
    refused(&["--logit-bias", "5"], &["1234=-2.5"]);
    refused(&["--xtc-probability", "0.5", "--xtc-threshold", "0.6"], &["0.5"]);
    refused(&["--stop", ""], &["--stop"]);
}
