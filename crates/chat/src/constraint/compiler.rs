//! From a constraint to masks: the vocabulary as a trie, limits, and when an answer may end.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use hublabio_tokenizer::{TokenId, TokenType, Tokenizer};
use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory, TokenParser};
use serde_json::json;

use super::{ConstraintConfig, ConstraintError, ConstraintSource, gbnf, schema};

/// Stack of the thread that compiles: compiling recurses over the nesting of the input, and long chains of rules nest as
/// deeply as fits into the longest text. Only what is used of it becomes memory.
const STACK_BYTES: usize = 512 << 20;
/// What has at most so many values (of a schema) or bytes (of a grammar, or a string in a schema) is compiled on the
/// caller's stack: however it is nested, it needs less than 1 MiB, as the tests try.
const SMALL_VALUES: usize = 64;
const SMALL_BYTES: usize = 256;
/// What a caller has left of its stack at least; threads have 2 MiB unless they are made otherwise.
#[cfg(test)]
pub(super) const SMALL_STACK_BYTES: usize = 1 << 20;
/// Longest token that the trie can hold is 1024 bytes; longer ones (none is known) are never allowed.
const TOKEN_BYTES_MAX: usize = 1000;
/// Nodes of the trie: sizes of its subtrees have 22 bits.
const TRIE_NODES_MAX: usize = 1 << 22;
/// Tokens: ids in the trie have 24 bits, one value is taken.
const TOKENS_MAX: usize = (1 << 24) - 1;

/// Limits on hostile constraints; all are counts of work, so the same input is refused on every machine.
/// The speeds are those that `llguidance` states.
const LIMITS: ParserLimits = ParserLimits {
    // Branches of the grammar at one point.
    max_items_in_row: 2000,
    // Nodes of all regular expressions (about 50 a µs).
    initial_lexer_fuel: 1_000_000,
    // Derivatives for one mask (about 14 a µs): 1,000,000 are some 70 ms.
    step_lexer_fuel: 1_000_000,
    // Earley items for one mask (about 20 a µs): 500,000 are some 25 ms.
    step_max_items: 500_000,
    // 1 to 2 kB each.
    max_lexer_states: 250_000,
    max_grammar_size: 500_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// A model's vocabulary, ready for constraints. Built once for a model (some 0.1 s for 150,000 tokens); clones share it.
#[derive(Clone)]
pub struct ConstraintCompiler {
    shared: Arc<Shared>,
}

struct Shared {
    factory: ParserFactory,
    n_tokens: usize,
    /// Sorted; not empty.
    ends: Vec<TokenId>,
    /// Texts of special tokens with their ids, sorted by text.
    special: Vec<(String, TokenId)>,
}

/// The trie as `llguidance` wants it. Forced text is left to the model to tokenize, as any token that fits is allowed.
struct Environment {
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

impl ConstraintCompiler {
    /// Builds the trie of a vocabulary.
    ///
    /// Ordinary, byte and user-defined tokens stand for their bytes. Control tokens are allowed only where a grammar
    /// names them (`<|tool|>`), and the end tokens ([`Tokenizer::is_end_of_generation`]) where an answer may end.
    ///
    /// # Errors
    /// [`ConstraintError::Vocabulary`]: no end token, or more tokens or bytes than the trie can hold.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        let n_tokens = tokenizer.n_tokens();
        let refuse = |problem: String| Err(ConstraintError::Vocabulary { problem });
        if n_tokens >= TOKENS_MAX {
            return refuse(format!("{n_tokens} tokens, at most {TOKENS_MAX} fit"));
        }
        let ids = || (0..n_tokens as u32).map(TokenId);
        let ends: Vec<TokenId> = ids().filter(|&id| tokenizer.is_end_of_generation(id)).collect();
        let Some(first_end) = tokenizer.eos().or(ends.first().copied()).filter(|end| ends.contains(end)) else {
            return refuse("it has no end token, so an answer could not end".to_owned());
        };
        let words: Vec<Vec<u8>> = ids().map(|id| word(tokenizer, id)).collect();
        let nodes = trie_nodes(&words);
        if nodes >= TRIE_NODES_MAX {
            return refuse(format!("its tokens make a trie of {nodes} nodes, at most {TRIE_NODES_MAX} fit"));
        }
        let mut info = TokRxInfo::new(n_tokens as u32, first_end.0);
        info.tok_bos = tokenizer.bos().map(|id| id.0);
        let mut ordered = vec![first_end.0];
        ordered.extend(ends.iter().map(|id| id.0).filter(|&id| id != first_end.0));
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ordered);
        let environment: TokEnv = Arc::new(Environment { trie });

        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
        let mut factory = match factory {
            Ok(factory) => factory,
            Err(error) => return refuse(message(&error)),
        };
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        let mut special: Vec<(String, TokenId)> = ids()
            .filter(|&id| {
                matches!(
                    tokenizer.token_type(id),
                    Some(TokenType::Control | TokenType::Unknown | TokenType::UserDefined)
                )
            })
            .filter_map(|id| Some((tokenizer.piece(id)?.to_owned(), id)))
            .collect();
        special.sort();
        Ok(Self { shared: Arc::new(Shared { factory, n_tokens, ends, special }) })
    }

    /// Compiles a constraint, and looks whether an answer can begin under it.
    ///
    /// # Errors
    /// Whatever cannot be honoured, by name; see [`ConstraintError`].
    pub fn compile(&self, config: &ConstraintConfig) -> Result<Constraint, ConstraintError> {
        let parser = if is_small(config) { self.parser_or_error(config) } else { self.parser_on_deep_stack(config) }?;
        let mut constraint = Constraint {
            matcher: Matcher::new(Ok(parser)),
            shared: Arc::clone(&self.shared),
            mask: SimpleVob::new(),
            warnings: Vec::new(),
            finished: false,
        };
        constraint.warnings = constraint.matcher.grammar_warnings();
        match constraint.mask() {
            Ok(_) => Ok(constraint),
            Err(ConstraintError::Step { problem }) => match config.source {
                ConstraintSource::JsonSchema(_) => Err(ConstraintError::Unsatisfiable { problem }),
                _ => Err(ConstraintError::Invalid { kind: config.source.kind(), problem }),
            },
            Err(other) => Err(other),
        }
    }

    /// On a thread of its own, which on a busy machine waits for a core.
    fn parser_on_deep_stack(&self, config: &ConstraintConfig) -> Result<TokenParser, ConstraintError> {
        thread::scope(|scope| {
            let work = thread::Builder::new().name("constraint".into()).stack_size(STACK_BYTES);
            let problem = || "there is no memory for a thread to compile it".to_owned();
            work.spawn_scoped(scope, || self.parser_or_error(config))
                .map_err(|_| ConstraintError::Invalid { kind: config.source.kind(), problem: problem() })?
                .join()
                .unwrap_or_else(|_| Err(failed(config)))
        })
    }

    fn parser_or_error(&self, config: &ConstraintConfig) -> Result<TokenParser, ConstraintError> {
        // Nothing that is shared changes while it compiles.
        panic::catch_unwind(AssertUnwindSafe(|| self.parser(config))).unwrap_or_else(|_| Err(failed(config)))
    }

    fn parser(&self, config: &ConstraintConfig) -> Result<TokenParser, ConstraintError> {
        let source = &config.source;
        let kind = source.kind();
        let mut answer = match source {
            ConstraintSource::JsonSchema(value) => GrammarWithLexer::from_json_schema(schema::prepare(value)?),
            ConstraintSource::JsonObject => {
                GrammarWithLexer::from_json_schema(schema::prepare(&json!({ "type": "object" }))?)
            }
            ConstraintSource::Regex(regex) => {
                source.check()?;
                GrammarWithLexer::from_regex(regex)
            }
            ConstraintSource::Lark(lark) => {
                source.check()?;
                GrammarWithLexer::from_lark(lark.clone())
            }
            ConstraintSource::Gbnf(text) => {
                source.check_length(text)?;
                GrammarWithLexer::from_lark(gbnf::to_lark(text, |name| self.special_token(name))?)
            }
            ConstraintSource::Choice(choices) => {
                source.check()?;
                GrammarWithLexer::from_lark(choice(choices))
            }
        };
        let mut grammars = Vec::with_capacity(2);
        if let Some(marker) = &config.after {
            answer.name = Some("answer".to_owned());
            let mut first = GrammarWithLexer::from_lark(self.free_until(marker)?);
            first.name = Some("free".to_owned());
            grammars.push(first);
        }
        grammars.push(answer);
        let parser = self.shared.factory.create_parser(TopLevelGrammar { grammars, max_tokens: None });
        parser.map_err(|error| match source {
            ConstraintSource::JsonSchema(value) => schema::explain(value, message(&error)),
            _ => ConstraintError::Invalid { kind, problem: message(&error) },
        })
    }

    /// Free text up to `marker`, then the grammar called `answer`.
    fn free_until(&self, marker: &str) -> Result<String, ConstraintError> {
        if marker.trim().is_empty() {
            return Err(ConstraintError::Invalid {
                kind: "start of the constrained part",
                problem: "it is empty: leave it out, or give a text such as </think>".to_owned(),
            });
        }
        let quoted = json!(marker).to_string();
        // A control token leaves no text, so it is matched as itself; any other marker by its text, however it is cut
        // into tokens.
        Ok(match self.control_token(marker) {
            Some(id) => {
                format!("start: TEXT? <[{id}]> SPACE? @answer\nTEXT: /(?s:.+)/\nSPACE: /[ \\t\\r\\n]{{1,8}}/\n")
            }
            None => {
                format!("start: free SPACE? @answer\nfree[suffix={quoted}]: /(?s:.*)/\nSPACE: /[ \\t\\r\\n]{{1,8}}/\n")
            }
        })
    }

    fn special_token(&self, name: &str) -> Option<u32> {
        let special = &self.shared.special;
        let at = special.binary_search_by(|(text, _)| text.as_str().cmp(name)).ok()?;
        Some(special[at].1.0)
    }

    /// As `special_token`, where the trie holds it as a special token, not as text.
    fn control_token(&self, name: &str) -> Option<u32> {
        let id = self.special_token(name)?;
        let trie = self.shared.factory.tok_env().tok_trie();
        trie.token(id).first().is_some_and(|&byte| byte == TokTrie::SPECIAL_TOKEN_MARKER).then_some(id)
    }
}

impl std::fmt::Debug for ConstraintCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConstraintCompiler").field("n_tokens", &self.shared.n_tokens).finish_non_exhaustive()
    }
}

/// A constraint on one answer, and how far the answer has come. A clone goes its own way from here.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    shared: Arc<Shared>,
    mask: SimpleVob,
    warnings: Vec<String>,
    /// An end token was accepted.
    finished: bool,
}

impl Constraint {
    /// The tokens allowed next: bit `i % 32` of word `i / 32` is token `i`; `n_tokens / 32` words, rounded up.
    ///
    /// End tokens are in it only where the answer may end, and nothing else is where it must. It always allows a token.
    ///
    /// # Errors
    /// [`ConstraintError::Step`]: no token fits any more, or the work exceeds its limit. The answer cannot go on.
    pub fn mask(&mut self) -> Result<&[u32], ConstraintError> {
        self.mask = if self.finished {
            self.end_mask()
        } else {
            let mask = self.matcher.compute_mask_or_eos();
            mask.map_err(|error| ConstraintError::Step { problem: message(&error) })?
        };
        Ok(&self.mask.as_slice()[..self.shared.n_tokens.div_ceil(32)])
    }

    fn end_mask(&self) -> SimpleVob {
        self.shared.factory.tok_env().tok_trie().eos_token_set()
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// [`ConstraintError::NotAllowed`] for a token outside of the mask; nothing has changed then.
    /// [`ConstraintError::Step`] when the work exceeds its limit.
    pub fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        let step = |error| ConstraintError::Step { problem: message(&error) };
        let refused = ConstraintError::NotAllowed { token: token.0 };
        if self.shared.ends.binary_search(&token).is_ok() {
            if !self.may_end() {
                return Err(refused);
            }
            self.finished = true;
            return Ok(());
        }
        if self.finished || token.0 as usize >= self.shared.n_tokens {
            return Err(refused);
        }
        if self.matcher.validate_tokens(&[token.0]).map_err(step)? == 0 {
            return Err(refused);
        }
        self.matcher.consume_token(token.0).map_err(step)
    }

    /// Whether the answer may end here.
    pub fn may_end(&mut self) -> bool {
        self.finished
            || (self.matcher.is_stopped() && !self.matcher.is_error())
            || self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether the answer is complete: nothing can follow but an end token, or one was taken.
    pub fn is_finished(&self) -> bool {
        self.finished || (self.matcher.is_stopped() && !self.matcher.is_error())
    }

    /// What must follow in any case, in bytes; empty where there is a choice. Whoever generates may append it without
    /// asking the model, or leave it to the mask.
    pub fn forced_bytes(&mut self) -> Vec<u8> {
        if self.is_finished() { Vec::new() } else { self.matcher.compute_ff_bytes() }
    }

    /// What the author of a grammar should know, such as rules that are never used. Usually empty.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("finished", &self.finished).finish_non_exhaustive()
    }
}

fn failed(config: &ConstraintConfig) -> ConstraintError {
    let problem = "compiling it failed unexpectedly".to_owned();
    ConstraintError::Invalid { kind: config.source.kind(), problem }
}

/// Whether compiling fits into the caller's stack, however its parts are nested.
pub(super) fn is_small(config: &ConstraintConfig) -> bool {
    let source = match &config.source {
        ConstraintSource::JsonSchema(schema) => schema::is_small(schema, SMALL_VALUES, SMALL_BYTES),
        ConstraintSource::JsonObject => true,
        ConstraintSource::Regex(text) | ConstraintSource::Lark(text) | ConstraintSource::Gbnf(text) => {
            text.len() <= SMALL_BYTES
        }
        ConstraintSource::Choice(choices) => choices.iter().map(|text| text.len() + 1).sum::<usize>() <= SMALL_BYTES,
    };
    source && config.after.as_ref().is_none_or(|marker| marker.len() <= SMALL_BYTES)
}

/// Lark for one of some texts.
fn choice(choices: &[String]) -> String {
    // One terminal: were they several, a text that begins another one would be cut off.
    let quoted: Vec<String> = choices.iter().filter(|text| !text.is_empty()).map(|text| gbnf::quote(text)).collect();
    let optional = if quoted.len() == choices.len() { "" } else { "?" };
    if quoted.is_empty() {
        return "start: \"\"\n".to_owned();
    }
    format!("start: CHOICE{optional}\nCHOICE: {}\n", quoted.join(" | "))
}

/// What a token stands for in the trie; empty where it may never be chosen.
fn word(tokenizer: &Tokenizer, id: TokenId) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if bytes.len() > TOKEN_BYTES_MAX {
        return Vec::new();
    }
    match tokenizer.token_type(id) {
        Some(TokenType::Control | TokenType::Unknown) => [&[MARKER], bytes].concat(),
        Some(TokenType::Unused) | None => Vec::new(),
        // The byte that marks special tokens is in no UTF-8 text.
        Some(_) if bytes.contains(&MARKER) => Vec::new(),
        Some(_) => bytes.to_vec(),
    }
}

/// Nodes of the trie of `words`, an upper bound.
fn trie_nodes(words: &[Vec<u8>]) -> usize {
    let mut sorted: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let shared = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let mut nodes = 1;
    let mut last: &[u8] = &[];
    for word in sorted {
        // A token that is written like another one has a leaf of its own.
        nodes += (word.len() - shared(last, word)).max(1);
        last = word;
    }
    nodes
}

/// An error of `llguidance` without its internals.
fn message(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let end = ["\n<state>", "\n<non-verbose/>", "\n<backtrace>"].iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].trim_end().to_owned()
}
