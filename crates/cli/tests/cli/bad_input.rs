//! Every way of being wrong ends with one clear error, the right exit code, and no panic.

use hublabio_gguf::GgmlType;

use crate::program::{fails, file, folder, hublab, hublab_with, succeeds_with};
use crate::tiny::{D_MODEL, Tiny};

/// Runs each verb that opens a model, and expects one error that contains all `parts`.
fn every_verb_fails(path: &str, parts: &[&str]) {
    let text = file("bad_input", "text.txt", "some text ".repeat(200).as_bytes());
    for arguments in [
        &["run", path, "hello"][..],
        &["chat", path],
        &["show", path],
        &["tokenize", path],
        &["perplexity", path, &text],
        &["bench", path],
        &["logits", path],
    ] {
        fails(arguments, b"{\"ids\":[1]}", 1, &[parts, &[path]].concat());
    }
}

#[test]
fn a_file_that_is_missing() {
    every_verb_fails("no/such/file.gguf", &["there is no file", "give the path of a .gguf file"]);
    fails(&["run", "no-such-file", "hello"], b"", 1, &["no-such-file", "quotes"]);
    fails(&["perplexity", "default", "no/such/text.txt"], b"", 1, &["cannot read the text no/such/text.txt"]);
}

#[test]
fn a_file_that_is_no_gguf() {
    every_verb_fails(
        &file("no_gguf", "text.gguf", b"This is no model, but a text that is long enough."),
        &["not a GGUF file"],
    );
    every_verb_fails(&file("no_gguf", "empty.gguf", b""), &[]);
    every_verb_fails(folder("no_gguf").to_str().unwrap(), &["not a regular file"]);
}

#[test]
fn a_file_that_is_cut_anywhere() {
    let whole = Tiny::new().bytes();
    for cut in 1..=20 {
        let path = file("cut", &format!("{cut}.gguf"), &whole[..whole.len() * cut / 21]);
        for arguments in [&["run", &path, "hello"][..], &["show", &path], &["tokenize", &path]] {
            fails(arguments, b"", 1, &[&path, "truncated"]);
        }
    }
    // Cut inside the four letters it begins with, or right after them.
    for length in [2, 4, 7] {
        let path = file("cut", &format!("head{length}.gguf"), &whole[..length]);
        fails(&["show", &path], b"", 1, &[&path]);
    }
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    let mut tiny = Tiny::new();
    tiny.reshape("blk.1.attn_k.weight", &[D_MODEL / 2, D_MODEL]);
    let path = tiny.save("wrong_shape");
    let shapes = ["blk.1.attn_k.weight", "[32, 64]", "[64, 32]"];
    fails(&["run", &path, "abc"], b"", 1, &[&path, shapes[0], shapes[1], shapes[2]]);
    fails(&["bench", &path], b"", 1, &shapes);
}

#[test]
fn a_tensor_that_is_missing() {
    let mut tiny = Tiny::new();
    tiny.remove("blk.1.ffn_down.weight");
    fails(&["run", &tiny.save("missing_tensor"), "abc"], b"", 1, &["blk.1.ffn_down.weight", "missing"]);
    tiny.remove_tensors();
    fails(&["run", &tiny.save("vocabulary_only"), "abc"], b"", 1, &["vocabulary"]);
}

#[test]
fn an_architecture_that_is_unknown() {
    let mut tiny = Tiny::new();
    tiny.metadata.insert("general.architecture", "not-yet");
    let path = tiny.save("unknown_architecture");
    fails(&["run", &path, "abc"], b"", 1, &[&path, "`not-yet`", "llama", "qwen2"]);
    tiny.metadata.remove("general.architecture");
    fails(&["run", &tiny.save("no_architecture"), "abc"], b"", 1, &["general.architecture"]);
}

#[test]
fn a_tensor_type_that_is_not_supported() {
    // One that no matrix of weights has.
    let mut tiny = Tiny::new();
    tiny.retype("blk.0.ffn_up.weight", GgmlType::I64);
    fails(&["run", &tiny.save("type_i64"), "abc"], b"", 1, &["blk.0.ffn_up.weight", "I64"]);

    // One that only a fork has: the four bytes of the type follow the name and the dimensions.
    let mut bytes = Tiny::new().bytes();
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 2 * 8;
    assert_eq!(bytes[at..at + 4], [0; 4], "F32 is type 0");
    bytes[at] = 137;
    let path = file("type_fork", "tiny.gguf", &bytes);
    every_verb_fails(&path, &["blk.0.ffn_up.weight", "IQ2_K", "ik_llama.cpp"]);
}

#[test]
fn a_tokenizer_that_is_missing_or_unknown() {
    let mut tiny = Tiny::new();
    tiny.metadata.insert("tokenizer.ggml.model", "rwkv");
    let path = tiny.save("unknown_tokenizer");
    fails(&["tokenize", &path], b"", 1, &[&path, "`rwkv`", "gpt2"]);
    fails(&["run", &path, "abc"], b"", 1, &[&path, "`rwkv`"]);
    tiny.remove_tokenizer();
    let path = tiny.save("no_tokenizer");
    let text = file("no_tokenizer", "text.txt", b"abc");
    for arguments in [
        &["run", &path, "abc"][..],
        &["run", &path, "abc", "--raw"],
        &["chat", &path],
        &["tokenize", &path],
        &["tokenize", &path, "--decode"],
        &["perplexity", &path, &text],
    ] {
        fails(arguments, b"abc", 1, &[&path, "no tokenizer"]);
    }
}

#[test]
fn weights_that_are_no_numbers() {
    let mut tiny = Tiny::new();
    tiny.poison("blk.1.ffn_up.weight");
    let path = tiny.save("poison");
    fails(&["run", &path, "abc"], b"", 1, &["blk.1.ffn_up.weight", "not finite"]);
    fails(&["logits", &path], b"{\"ids\":[1,259]}", 1, &["blk.1.ffn_up.weight"]);
}

#[test]
fn a_prompt_longer_than_the_context() {
    let model = Tiny::new().save("long_prompt");
    let prompt = "abcdefghijklmnopqrstuvwxyz";
    // The 26 letters, BOS and the space that this kind of tokenizer puts first.
    fails(&["run", &model, prompt, "--raw", "--ctx", "16"], b"", 1, &["28 tokens", "holds 16"]);
    fails(&["run", &model, prompt, "--raw", "--ctx", "28"], b"", 1, &["28 tokens", "holds 28"]);
    assert_eq!(hublab(&["run", &model, prompt, "--raw", "--ctx", "29"]).code, 0);
    fails(&["chat", &model, "--ctx", "16"], prompt.as_bytes(), 1, &["29 tokens", "holds 16"]);

    let long = "What does tar do? ".repeat(400);
    let ids = succeeds_with(&["tokenize", "--json"], long.as_bytes()).json();
    let n = ids["ids"].as_array().unwrap().len();
    assert!(n > 600, "{n}");
    let context = succeeds_with(&["show", "--json"], b"").json()["context_length"].as_u64().unwrap();
    fails(&["logits"], ids.to_string().as_bytes(), 1, &[&n.to_string(), &context.to_string()]);
    let outcome = hublab_with(&["run"], long.as_bytes());
    assert!(outcome.code == 1 && outcome.stderr.contains(&format!("holds {context}")), "{}", outcome.stderr);
}

#[test]
fn a_context_longer_than_the_model_can() {
    let context = succeeds_with(&["show", "--json"], b"").json()["context_length"].as_u64().unwrap();
    let (more, have) = ((context + 1).to_string(), context.to_string());
    let text = file("context_too_long", "text.txt", b"abc");
    fails(&["run", "hi", "--ctx", &more], b"", 1, &[&more, &have, "lower --ctx"]);
    fails(&["perplexity", &text, "--ctx", &more], b"", 1, &[&more, &have, "lower --ctx"]);
    fails(&["bench", "--depth", &usize::MAX.to_string()], b"", 1, &[&have, "lower --depth"]);
    fails(&["bench", "--depth", &more], b"", 1, &[&have, "lower --depth"]);
}

#[test]
fn a_prompt_that_is_empty() {
    for arguments in [&["run", ""][..], &["run", "default", " \n"], &["run", "default", "", "--raw"]] {
        fails(arguments, b"", 2, &["the prompt is empty"]);
    }
    fails(&["run"], b"\n", 2, &["the prompt is empty"]);
    fails(&["run", "--raw"], b"", 2, &["the prompt is empty"]);
}

#[test]
fn standard_input_that_is_wrong() {
    fails(&["run"], b"ab\xFFc", 1, &["not UTF-8", "byte 2"]);
    fails(&["tokenize"], b"abcd\xFF", 1, &["not UTF-8", "byte 4"]);
    fails(&["chat"], b"\xFF\n", 1, &["not UTF-8"]);
    fails(&["logits"], b"", 1, &["no token id"]);
    fails(&["logits"], b"{\"ids\":[]}", 1, &["no token id"]);
    fails(&["logits"], b"{\"ids\":[1,\"x\"]}", 1, &["{\"ids\":[1,15043]}"]);
    fails(&["logits"], b"{\"ids\":[1,4000000000]}", 1, &["4000000000"]);
    fails(&["tokenize", "--decode"], b"12 x\x1b[2J", 1, &["x␛[2J", "no token id"]);
    fails(&["tokenize", "--decode"], b"4000000000", 1, &["4000000000", "not in the vocabulary"]);
    fails(&["tokenize", "--decode", "--json"], b"1 2", 1, &["no token ids"]);
    fails(&["perplexity", "-"], b"too short", 1, &["512 tokens", "lower --ctx"]);
}

#[test]
fn commands_of_the_chat_that_are_wrong() {
    fails(&["chat"], b"/nothing\n", 1, &["no command /nothing", "/help"]);
    fails(&["chat"], b"/save\n", 1, &["/save needs a file name"]);
    fails(&["chat"], b"/reset now\n", 1, &["/reset takes nothing"]);
    let unwritable = folder("save").join("no/such/folder/talk.txt");
    let unwritable = unwritable.to_str().unwrap();
    let save = format!("/save {unwritable}\n");
    fails(&["chat"], save.as_bytes(), 1, &["nothing to save"]);
    fails(&["chat", "--system", "x"], save.as_bytes(), 1, &["cannot save the conversation to", unwritable]);
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written() {
    use crate::program::{command, wait};
    use std::fs::OpenOptions;
    use std::process::Stdio;

    let input = file("full", "input", b"{\"ids\":[300,301,302]}");
    let text = file("full", "text.txt", "some text ".repeat(200).as_bytes());
    for arguments in [
        &["run", "What does tar do?"][..],
        &["chat"],
        &["show"],
        &["show", "--json"],
        &["tokenize"],
        &["tokenize", "--decode"],
        &["perplexity", &text, "--ctx", "32"],
        &["bench", "--pp", "4", "--tg", "2", "--repeat", "1", "--json"],
        &["logits"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let stdin = std::fs::File::open(&input).unwrap();
        let outcome = wait(command(arguments).stdin(Stdio::from(stdin)).stdout(Stdio::from(full)).spawn().unwrap());
        assert_eq!(outcome.code, 1, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("cannot write to standard output: No space left"), "{}", outcome.stderr);
    }
    fails(&["chat", "--system", "x"], b"/save /dev/full\n", 1, &["cannot save the conversation to /dev/full"]);
    // Nobody hears what standard error cannot say; the exit code still counts.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(wait(command(&["run", "no.gguf"]).stderr(Stdio::from(full)).spawn().unwrap()).code, 1);
}

#[test]
fn a_command_line_that_is_wrong() {
    for arguments in [
        &["frobnicate"][..],
        &["run", "--no-such-flag"],
        &["run", "a.gguf", "b", "c"],
        &["run", "a", "--raw", "--system", "b"],
        &["run", "a", "--parse-special"],
        &["perplexity"],
        &["completions"],
        &["completions", "no-such-shell"],
        &["tokenize", "--decode", "--bos"],
        &["run", "a", "--preset", "wild"],
    ] {
        fails(arguments, b"", 2, &["--help"]);
    }
    let bare = hublab(&[]);
    assert!(bare.code == 2 && bare.stdout.is_empty() && bare.stderr.contains("Usage: hublab"));
}

#[test]
fn a_number_out_of_range() {
    for (verb, flag, values) in [
        ("run", "--temp", &["-1", "-0.1", "101", "nan", "inf", "warm", ""][..]),
        ("run", "--top-p", &["0", "-0.5", "1.01", "nan"]),
        ("run", "--top-k", &["-1", "2.5"]),
        ("run", "--min-p", &["-0.1", "1.5"]),
        ("run", "--repeat-penalty", &["0", "-1", "inf"]),
        ("run", "--frequency-penalty", &["nan", "inf", "1e9"]),
        ("run", "--presence-penalty", &["nan", "inf"]),
        ("run", "--seed", &["-1", "18446744073709551616"]),
        ("run", "--max-tokens", &["0", "-5"]),
        ("run", "--ctx", &["0", "-1"]),
        ("run", "--threads", &["0", "-2", "1025", "two"]),
        ("run", "--isa", &["", "mmx"]),
        ("logits", "--kv", &["f8"]),
        ("chat", "--temp", &["-1"]),
        ("perplexity", "--ctx", &["0", "3"]),
        ("bench", "--pp", &["0"]),
        ("bench", "--tg", &["0"]),
        ("bench", "--depth", &["-1"]),
        ("bench", "--repeat", &["0", "18446744073709551615"]),
        ("logits", "--threads", &["0"]),
    ] {
        for value in values {
            fails(&[verb, flag, value, "text"], b"", 2, &[flag, "give"][..if flag == "--isa" { 1 } else { 2 }]);
        }
    }
    fails(&["run", "-n", "0", "text"], b"", 2, &["--max-tokens"]);
}
