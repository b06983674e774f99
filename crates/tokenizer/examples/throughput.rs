//! Prints how fast texts become tokens and tokens text.
//!
//!     cargo run --release -p hublabio-tokenizer --example throughput -- [TEXT [VOCABULARY.gguf…]]
//!
//! Without arguments: this crate's own sources through the vocabularies that the tests carry. `throughput_peers.py`
//! beside this runs it next to PyPI `tokenizers` and `sentencepiece`. A text is taken as one string and line by line,
//! one call each. Each figure is the best of at least five runs, single-threaded. Without arguments, long runs of one
//! character come too, because they make a naive merge loop quadratic.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use hublabio_tokenizer::{EncodeOptions, Tokenizer};

const OWN_SOURCES: &str = concat!(
    include_str!("../src/tokenizer.rs"),
    include_str!("../src/merge.rs"),
    include_str!("../src/pre.rs"),
    include_str!("../src/spm.rs"),
    include_str!("../src/bpe.rs"),
    include_str!("../src/specials.rs"),
    include_str!("../src/vocabulary.rs"),
);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = arguments.first().map_or_else(
        || OWN_SOURCES.to_owned(),
        |path| String::from_utf8_lossy(&std::fs::read(path).expect("TEXT can be read")).into_owned(),
    );
    let vocabularies: Vec<_> = match arguments.get(1..).unwrap_or_default() {
        [] => support::COMMITTED.iter().map(|&name| (name.to_owned(), support::committed(name))).collect(),
        paths => paths.iter().map(|path| (path.clone(), support::read_gguf(Path::new(path)))).collect(),
    };
    for (name, vocabulary) in vocabularies {
        let started = Instant::now();
        let tokenizer = Tokenizer::new(vocabulary).expect("a sound vocabulary");
        println!("{name}: {} tokens, built in {:.1} ms", tokenizer.n_tokens(), started.elapsed().as_secs_f64() * 1e3);
        measure(&tokenizer, "text", &[&text]);
        measure(&tokenizer, "lines", &text.lines().collect::<Vec<_>>());
        if !arguments.is_empty() {
            continue;
        }
        for run in ["a", " ", "\n", "é", "=", "0"] {
            measure(&tokenizer, &format!("1 MB of {run:?}"), &[&run.repeat(1_000_000 / run.len())]);
        }
    }
}

fn measure(tokenizer: &Tokenizer, label: &str, texts: &[&str]) {
    let encode = |text: &&str| tokenizer.encode(text, EncodeOptions::plain()).expect("the text can be expressed");
    let ids: Vec<_> = texts.iter().map(encode).collect();
    let encoding = best_of(&|| texts.iter().for_each(|text| drop(encode(text))));
    let decoding = best_of(&|| ids.iter().for_each(|ids| drop(tokenizer.decode(ids).expect("ids of this vocabulary"))));
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    let rate = |duration: Duration| bytes as f64 / 1e6 / duration.as_secs_f64();
    println!(
        "  {label}: {bytes} bytes, {} tokens; encode {:.1} MB/s ({:.1} ms), decode {:.1} MB/s",
        ids.iter().map(Vec::len).sum::<usize>(),
        rate(encoding),
        encoding.as_secs_f64() * 1e3,
        rate(decoding),
    );
}

/// The shortest of the runs that fit into half a second, at least five: what other programs of the machine slow is out.
fn best_of(run: &dyn Fn()) -> Duration {
    let started = Instant::now();
    let (mut best, mut count) = (Duration::MAX, 0);
    while count < 5 || started.elapsed() < Duration::from_millis(500) {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed());
        count += 1;
    }
    best
}
