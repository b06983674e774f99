//! Ids that PyPI `tokenizers` and `sentencepiece` gave for random texts (see `oracle_tokenizers.py`): a committed
//! sample, and any number more in the folder that `HUBLAB_ORACLE_CASES` names.

mod support;

use std::fmt::Write as _;
use std::path::Path;

use hublabio_tokenizer::{EncodeOptions, TokenId, TokenType, Tokenizer, Vocabulary, VocabularyKind};
use support::{COMMITTED, committed, read_gguf, shared_folder};

#[test]
fn the_committed_sample_agrees() {
    let files = check_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/oracle"));
    assert!(files >= 45, "only {files} case files");
}

#[test]
fn the_folder_of_the_environment_agrees() {
    if let Some(folder) = std::env::var_os("HUBLAB_ORACLE_CASES") {
        let files = check_folder(Path::new(&folder));
        assert!(files > 0, "HUBLAB_ORACLE_CASES names a folder without cases");
    }
}

fn check_folder(folder: &Path) -> usize {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let mut report = String::new();
    for path in &paths {
        check_file(path, &mut report);
    }
    assert!(report.is_empty(), "{report}");
    paths.len()
}

/// Appends the first differences to `report`, so that one run shows where all the case files stand.
fn check_file(path: &Path, report: &mut String) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.strip_suffix('\n').unwrap().split('\n').peekable();
    let mut header = Vec::new();
    while let Some(directive) = lines.peek().and_then(|line| line.strip_prefix("# ")) {
        header.push(directive.split(' ').collect::<Vec<_>>());
        lines.next();
    }
    let Some(vocabulary) = read_vocabulary(&header) else { return };
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    // A token that is matched as a whole and also made by merges stands for two texts.
    let ambiguous = header.iter().any(|directive| directive[0] == "type");
    let reversible = reversible(&tokenizer) && !ambiguous;
    let (mut cases, mut differences) = (0, 0);
    while let Some(line) = lines.next() {
        let text = unescape(line);
        let ids = lines.next().expect("a line of ids after each text");
        let expected: Vec<TokenId> = ids.split_whitespace().map(|id| TokenId(id.parse().unwrap())).collect();
        let found = tokenizer.encode(&text, EncodeOptions::plain()).unwrap();
        cases += 1;
        if reversible {
            let decoded = tokenizer.decode(&found).unwrap();
            assert_eq!(decoded, text.as_bytes(), "{}: {text:?} does not come back", path.display());
        }
        if found != expected {
            differences += 1;
            if differences <= 5 {
                writeln!(report, "{}: {text:?}\n expected {expected:?}\n found    {found:?}", path.display()).unwrap();
            }
        }
    }
    assert!(cases > 0, "{} has no cases", path.display());
    if differences > 0 {
        writeln!(report, "{}: {differences} of {cases} texts differ", path.display()).unwrap();
    } else {
        println!("{}: {cases} texts agree", path.display());
    }
}

/// Whether the kind keeps every text, and the vocabulary has every byte.
fn reversible(tokenizer: &Tokenizer) -> bool {
    let complete = tokenizer.warnings().is_empty() && tokenizer.unk().is_none();
    tokenizer.kind() == VocabularyKind::Bpe && complete
}

/// The vocabulary that the header names, changed as it says; `None` where it is not at hand.
fn read_vocabulary(header: &[Vec<&str>]) -> Option<Vocabulary> {
    let name = header[0][1];
    let mut vocabulary = if COMMITTED.contains(&name) {
        committed(name)
    } else {
        read_gguf(&shared_folder()?.join(format!("ggml-vocab-{name}.gguf")))
    };
    let n_tokens = vocabulary.tokens.len();
    for directive in &header[1..] {
        match directive[..] {
            ["pre", name] => vocabulary.pre = Some(name.to_owned()),
            ["space_prefix", value] => vocabulary.add_space_prefix = Some(value.parse().unwrap()),
            ["space_suffix", value] => vocabulary.whitespace_as_suffix = Some(value.parse().unwrap()),
            ["merge_spaces", value] => vocabulary.remove_extra_whitespaces = Some(value.parse().unwrap()),
            ["merges", "reversed"] => vocabulary.merges.reverse(),
            ["scores", modulus] => {
                let modulus: usize = modulus.parse().unwrap();
                for id in 259..n_tokens {
                    vocabulary.scores[id] = -((id % modulus) as f32);
                }
            }
            ["type", kind, first, step, ref end @ ..] => {
                let kind = TokenType::from_gguf(kind.parse().unwrap());
                let end = end.first().map_or(n_tokens, |end| end.parse().unwrap());
                for id in (first.parse().unwrap()..end).step_by(step.parse().unwrap()) {
                    if vocabulary.types[id] != TokenType::Control {
                        vocabulary.types[id] = kind;
                    }
                }
            }
            _ => panic!("unknown directive {directive:?}"),
        }
    }
    Some(vocabulary)
}

fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                other => other.expect("a character after the escape"),
            },
            c => c,
        });
    }
    text
}
