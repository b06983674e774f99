//! llama.cpp's GBNF, turned into Lark for `llguidance`.
//!
//! GBNF matches character by character and follows every way to read a text. `llguidance` reads terminals with a lexer
//! that takes the longest match, and a whole rule made of characters one by one would be too slow over a vocabulary. So
//! the parts of a grammar that are regular become terminals where the longest match is the only one (`lexemes.rs` shows
//! how that is decided), and everything else stays rules. The language is the same.
//!
//! Read from: `grammars/README.md` and `src/llama-grammar.cpp` of llama.cpp. Beyond these, left recursion is allowed.
//!
//! Where to go next: `parse.rs` for the syntax, `lexemes.rs` for the choice of terminals, `emit.rs` for the Lark.

mod class;
mod emit;
mod lexemes;
mod parse;
mod positions;

#[cfg(feature = "constraints")]
pub use emit::quote;

use class::Class;

use super::ConstraintError;

/// Most rules. What is known of them is worked out in rounds.
const RULES_MAX: usize = 2000;
const KIND: &str = "GBNF grammar";

/// A grammar as it was written.
#[derive(Debug)]
struct Grammar {
    /// Bodies of the rules; [`Expr::Rule`] counts through them.
    rules: Vec<Expr>,
    root: usize,
}

/// What a rule stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Expr {
    /// These characters.
    Literal(String),
    /// One character out of a class.
    Class(Class),
    /// One after the other; the empty text if there are none.
    Sequence(Vec<Expr>),
    /// One of these.
    Choice(Vec<Expr>),
    /// So often; without end if there is no `max`.
    Repeat { item: Box<Expr>, min: u32, max: Option<u32> },
    /// Another rule.
    Rule(usize),
    /// This token of the vocabulary, or any but this one.
    Token { id: u32, negated: bool },
}

impl Expr {
    fn empty() -> Self {
        Self::Sequence(Vec::new())
    }

    fn children(&self) -> &[Expr] {
        match self {
            Self::Sequence(items) | Self::Choice(items) => items,
            Self::Repeat { item, .. } => std::slice::from_ref(item),
            Self::Literal(_) | Self::Class(_) | Self::Rule(_) | Self::Token { .. } => &[],
        }
    }

    /// Whether `found` holds for this expression or one in it, other rules not looked into.
    fn any(&self, found: &dyn Fn(&Expr) -> bool) -> bool {
        found(self) || self.children().iter().any(|child| child.any(found))
    }
}

/// Turns a GBNF grammar into Lark. `token_of` finds the special token that is written so.
///
/// # Errors
/// [`ConstraintError::Gbnf`] with line and column; a grammar without a complete text, or one over the limits.
pub fn to_lark(text: &str, token_of: impl Fn(&str) -> Option<u32>) -> Result<String, ConstraintError> {
    let grammar = parse::parse(text, &token_of)?;
    if grammar.rules.len() > RULES_MAX {
        return Err(ConstraintError::TooLarge { kind: KIND, what: "the number of its rules", max: RULES_MAX });
    }
    let grammar = without_dead_ends(&grammar)?;
    let plan = lexemes::plan(grammar)?;
    Ok(emit::lark(&plan))
}

/// Drops alternatives that no text completes, which would otherwise lead an answer to where it cannot end.
fn without_dead_ends(grammar: &Grammar) -> Result<Grammar, ConstraintError> {
    let mut alive = vec![false; grammar.rules.len()];
    loop {
        let before = alive.iter().filter(|&&alive| alive).count();
        // Later rules are usually used by earlier ones.
        for rule in (0..alive.len()).rev() {
            alive[rule] = alive[rule] || has_text(&grammar.rules[rule], &alive);
        }
        if alive.iter().filter(|&&alive| alive).count() == before {
            break;
        }
    }
    if !alive[grammar.root] {
        return Err(ConstraintError::Invalid {
            kind: KIND,
            problem: "no text completes `root`: a rule needs itself in each of its alternatives".to_owned(),
        });
    }
    let rules = grammar.rules.iter().map(|body| pruned(body, &alive).unwrap_or_else(Expr::empty)).collect();
    Ok(Grammar { rules, root: grammar.root })
}

fn has_text(expr: &Expr, alive: &[bool]) -> bool {
    match expr {
        Expr::Literal(_) | Expr::Class(_) | Expr::Token { .. } => true,
        Expr::Rule(rule) => alive[*rule],
        Expr::Sequence(items) => items.iter().all(|item| has_text(item, alive)),
        Expr::Choice(items) => items.iter().any(|item| has_text(item, alive)),
        Expr::Repeat { item, min, .. } => *min == 0 || has_text(item, alive),
    }
}

/// The expression without what has no text; `None` if nothing is left.
fn pruned(expr: &Expr, alive: &[bool]) -> Option<Expr> {
    match expr {
        Expr::Rule(rule) => alive[*rule].then(|| expr.clone()),
        Expr::Literal(_) | Expr::Class(_) | Expr::Token { .. } => Some(expr.clone()),
        Expr::Sequence(items) => {
            items.iter().map(|item| pruned(item, alive)).collect::<Option<_>>().map(Expr::Sequence)
        }
        Expr::Choice(items) => {
            let left: Vec<Expr> = items.iter().filter_map(|item| pruned(item, alive)).collect();
            (!left.is_empty()).then_some(Expr::Choice(left))
        }
        Expr::Repeat { item, min, max } => match pruned(item, alive) {
            Some(item) => Some(Expr::Repeat { item: Box::new(item), min: *min, max: *max }),
            None => (*min == 0).then(Expr::empty),
        },
    }
}
