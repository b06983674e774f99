//! Schemas with valid and invalid instances, as JSONSchemaBench's MaskBench has them: how many compile, what is accepted
//! and rejected, and how long a mask takes, next to plain `llguidance` in the same run.
//!
//! ```text
//! cargo run --release -p hublabio-chat --example mask_bench -- FOLDER VOCABULARY.gguf [EVERY] [OUT.json] [INDENT]
//! ```
//!
//! FOLDER holds files `{"schema": …, "tests": [{"valid": true, "data": …}, …]}`; every EVERY-th of them is read. The data
//! is at <https://github.com/guidance-ai/jsonschemabench>, folder `maskbench/data`. An instance is written as MaskBench
//! writes it, in one line, or with INDENT in lines indented by so many blanks a level. It is cut into the model's own
//! tokens, and given to both: it is accepted if each token is in the mask before it and the answer may end behind the
//! last one. Who goes first changes from schema to schema.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use std::{env, fs};

use hublabio_chat::constraint::{ConstraintCompiler, ConstraintError, ConstraintSource};
use hublabio_gguf::GgufFile;
use hublabio_tokenizer::{EncodeOptions, TokenId, TokenType, Tokenizer, Vocabulary, VocabularyKind};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde::Serialize;
use serde_json::{Map, Value, json};

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [folder, vocabulary, rest @ ..] = args.as_slice() else {
        return Err("usage: mask_bench FOLDER VOCABULARY.gguf [EVERY] [OUT.json] [INDENT]".into());
    };
    let every: usize = rest.first().map_or(Ok(1), |every| every.parse())?;
    let indent: Option<usize> = rest.get(2).map(|indent| indent.parse()).transpose()?;
    let tokenizer = Tokenizer::new(read_vocabulary(Path::new(vocabulary))?)?;
    let start = Instant::now();
    let compiler = ConstraintCompiler::new(&tokenizer)?;
    let ready_s = start.elapsed().as_secs_f64();
    let plain = plain_factory(&tokenizer)?;

    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, AnyError>>()?;
    files.sort();
    let mut bench = Bench {
        tokenizer,
        compiler,
        plain,
        indent,
        ours: Side::default(),
        theirs: Side::default(),
        schemas: 0,
        refused_for: BTreeMap::new(),
        only_ours: Vec::new(),
        only_plain: Vec::new(),
        wrong: Vec::new(),
    };
    for (at, path) in files.iter().step_by(every.max(1)).enumerate() {
        bench.file(path, at % 2 == 0)?;
    }
    let mut report = bench.report();
    report["vocabulary"] = json!({
        "file": Path::new(vocabulary).file_name().map(|name| name.to_string_lossy()),
        "tokens": bench.tokenizer.n_tokens(),
        "ready_s": ready_s,
    });
    println!("{report:#}");
    if let Some(out) = rest.get(1) {
        fs::write(out, format!("{report:#}\n"))?;
    }
    Ok(())
}

/// What one of the two did.
#[derive(Default)]
struct Side {
    compiled: usize,
    compile_us: Vec<f64>,
    mask_us: Vec<f64>,
    valid: usize,
    valid_accepted: usize,
    invalid: usize,
    invalid_rejected: usize,
}

impl Side {
    fn report(&mut self) -> Value {
        json!({
            "compiled": self.compiled,
            "compile_us_median": quantile(&mut self.compile_us, 0.5),
            "compile_us_p99": quantile(&mut self.compile_us, 0.99),
            "valid": self.valid,
            "valid_accepted": self.valid_accepted,
            "invalid": self.invalid,
            "invalid_rejected": self.invalid_rejected,
            "masks": self.mask_us.len(),
            "mask_us_mean": self.mask_us.iter().sum::<f64>() / self.mask_us.len().max(1) as f64,
            "mask_us_median": quantile(&mut self.mask_us, 0.5),
            "mask_us_p99": quantile(&mut self.mask_us, 0.99),
            "mask_us_max": quantile(&mut self.mask_us, 1.0),
        })
    }
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// An instance as tokens, whether it is valid, and its text.
type Instance = (Vec<TokenId>, bool, String);

struct Bench {
    tokenizer: Tokenizer,
    compiler: ConstraintCompiler,
    plain: ParserFactory,
    indent: Option<usize>,
    ours: Side,
    theirs: Side,
    schemas: usize,
    refused_for: BTreeMap<String, usize>,
    /// Schemas that only one of the two compiled.
    only_ours: Vec<String>,
    only_plain: Vec<String>,
    wrong: Vec<String>,
}

impl Bench {
    fn file(&mut self, path: &Path, ours_first: bool) -> Result<(), AnyError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let case: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let Some(schema) = case.get("schema") else { return Err(format!("{name} has no schema").into()) };
        self.schemas += 1;
        let mut tests = Vec::new();
        for test in case.get("tests").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
            let text = match self.indent {
                None => spaced(&test["data"]),
                Some(indent) => indented(&test["data"], indent)?,
            };
            let tokens = self.tokenizer.encode(&text, EncodeOptions::plain())?;
            tests.push((tokens, test["valid"] == true, text));
        }
        let (ours, theirs) = if ours_first {
            let ours = self.run_ours(&name, schema, &tests);
            (ours, self.run_plain(schema, &tests))
        } else {
            let theirs = self.run_plain(schema, &tests);
            (self.run_ours(&name, schema, &tests), theirs)
        };
        match (ours, theirs) {
            (true, false) => self.only_ours.push(name),
            (false, true) => self.only_plain.push(name),
            _ => {}
        }
        Ok(())
    }

    fn run_ours(&mut self, name: &str, schema: &Value, tests: &[Instance]) -> bool {
        let source = ConstraintSource::JsonSchema(schema.clone());
        let start = Instant::now();
        let constraint = match self.compiler.compile(&source.into()) {
            Ok(constraint) => constraint,
            Err(error) => {
                for reason in reasons(&error) {
                    *self.refused_for.entry(reason).or_default() += 1;
                }
                return false;
            }
        };
        self.ours.compiled += 1;
        self.ours.compile_us.push(start.elapsed().as_secs_f64() * 1e6);
        for (tokens, valid, text) in tests {
            let mut at = constraint.clone();
            let mut accepted = tokens.iter().all(|&token| {
                let start = Instant::now();
                let allowed = at.mask().is_ok_and(|mask| mask[token.0 as usize / 32] >> (token.0 % 32) & 1 == 1);
                self.ours.mask_us.push(start.elapsed().as_secs_f64() * 1e6);
                allowed && at.accept(token).is_ok()
            });
            accepted &= at.may_end();
            count(&mut self.ours, *valid, accepted);
            if *valid != accepted {
                let kind = if *valid { "valid, refused" } else { "invalid, accepted" };
                self.wrong.push(format!("{name}: {kind}: {}", text.chars().take(100).collect::<String>()));
            }
        }
        true
    }

    fn run_plain(&mut self, schema: &Value, tests: &[Instance]) -> bool {
        let start = Instant::now();
        let matcher = Matcher::new(self.plain.create_parser(TopLevelGrammar::from_json_schema(schema.clone())));
        // As ours: compiled means that there is a first mask.
        if matcher.is_error() || matcher.clone().compute_mask_or_eos().is_err() {
            return false;
        }
        self.theirs.compiled += 1;
        self.theirs.compile_us.push(start.elapsed().as_secs_f64() * 1e6);
        for (tokens, valid, _) in tests {
            let mut at = matcher.clone();
            let mut accepted = tokens.iter().all(|&token| {
                let start = Instant::now();
                let allowed = at.compute_mask_or_eos().is_ok_and(|mask| mask.is_allowed(token.0));
                self.theirs.mask_us.push(start.elapsed().as_secs_f64() * 1e6);
                allowed && at.consume_token(token.0).is_ok()
            });
            accepted &= at.is_stopped() || at.is_accepting().unwrap_or(false);
            count(&mut self.theirs, *valid, accepted);
        }
        true
    }

    fn report(&mut self) -> Value {
        let mut refused: Vec<(&String, &usize)> = self.refused_for.iter().collect();
        refused.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let refused: Map<String, Value> =
            refused.into_iter().take(25).map(|(reason, count)| (reason.clone(), json!(count))).collect();
        json!({
            "schemas": self.schemas,
            "ours": self.ours.report(),
            "plain_llguidance": self.theirs.report(),
            "compiled_by_ours_only": self.only_ours.len(),
            "compiled_by_plain_only": self.only_plain,
            "refused_for": refused,
            "wrong": self.wrong,
        })
    }
}

fn count(side: &mut Side, valid: bool, accepted: bool) {
    if valid {
        side.valid += 1;
        side.valid_accepted += usize::from(accepted);
    } else {
        side.invalid += 1;
        side.invalid_rejected += usize::from(!accepted);
    }
}

/// JSON as Python's `json.dumps(…, ensure_ascii=False)` writes it: a space behind `,` and `:`.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| format!("{}: {}", json!(key), spaced(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn indented(value: &Value, indent: usize) -> Result<String, AnyError> {
    let blanks = " ".repeat(indent);
    let mut out = Vec::new();
    let pretty = serde_json::ser::PrettyFormatter::with_indent(blanks.as_bytes());
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))?;
    Ok(String::from_utf8(out)?)
}

/// Reasons for a refusal without what differs from schema to schema.
fn reasons(error: &ConstraintError) -> Vec<String> {
    match error {
        ConstraintError::UnsupportedKeywords { keywords } => {
            let mut names: Vec<String> = keywords.iter().map(|found| found.keyword.clone()).collect();
            names.sort();
            names.dedup();
            names
        }
        ConstraintError::Unsatisfiable { .. } => vec!["unsatisfiable".to_owned()],
        ConstraintError::Invalid { problem, .. } => {
            vec![problem.lines().next().unwrap_or_default().chars().take(60).collect()]
        }
        other => vec![other.to_string().chars().take(60).collect()],
    }
}

/// `llguidance` as its documentation sets it up, over the same tokens.
fn plain_factory(tokenizer: &Tokenizer) -> Result<ParserFactory, AnyError> {
    let words: Vec<Vec<u8>> = (0..tokenizer.n_tokens() as u32)
        .map(|id| {
            let bytes = tokenizer.token_bytes(TokenId(id)).unwrap_or_default();
            match tokenizer.token_type(TokenId(id)) {
                Some(TokenType::Control | TokenType::Unknown) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                _ => bytes.to_vec(),
            }
        })
        .collect();
    let eos = tokenizer.eos().ok_or("the vocabulary has no end token")?;
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, eos.0), &words);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment)?;
    factory.quiet();
    Ok(factory)
}

fn read_vocabulary(path: &Path) -> Result<Vocabulary, AnyError> {
    let file = GgufFile::open(path)?;
    let metadata = file.metadata();
    let model = metadata.str("tokenizer.ggml.model")?.ok_or("no vocabulary in the file")?;
    let kind = VocabularyKind::from_gguf_name(model).ok_or("this kind of vocabulary is not read here")?;
    let tokens = metadata.str_array("tokenizer.ggml.tokens")?.ok_or("no tokens in the file")?.to_vec();
    let mut vocabulary = Vocabulary::new(kind, tokens);
    vocabulary.pre = metadata.str("tokenizer.ggml.pre")?.map(str::to_owned);
    vocabulary.scores = metadata.f32_array("tokenizer.ggml.scores")?.unwrap_or_default().to_vec();
    let types = metadata.i32_array("tokenizer.ggml.token_type")?.unwrap_or_default();
    vocabulary.types = types.iter().map(|&value| TokenType::from_gguf(value)).collect();
    vocabulary.merges = metadata.str_array("tokenizer.ggml.merges")?.unwrap_or_default().to_vec();
    vocabulary.bos = metadata.u32("tokenizer.ggml.bos_token_id")?.map(TokenId);
    vocabulary.eos = metadata.u32("tokenizer.ggml.eos_token_id")?.map(TokenId);
    Ok(vocabulary)
}
