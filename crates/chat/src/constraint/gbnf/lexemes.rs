//! Which parts of a grammar become terminals.
//!
//! A lexer reads on as long as any terminal that is allowed can go on, and then takes what matched. That is the same as
//! trying everything if this never happens: a terminal `a` could end here, a terminal `b` goes on with the next
//! character, and the grammar has that character after `a` as well. So for all pairs of terminals it is asked whether
//! some text of `a` followed by a character that may come after `a` begins a text of `b`. Where it does, `b` is cut into
//! its parts and all is asked again. Terminals of one character never run into anything, so this comes to an end.
//!
//! The characters that may come after a terminal are those that the grammar allows after any of its uses, and all
//! terminals count as allowed at once. Both err on the side of cutting.

use std::cell::Cell;
use std::collections::HashMap;

use super::positions::{Alphabet, Letters, Positions, join};
use super::{ConstraintError, Expr, Grammar, KIND};

/// Most terminals. Every pair is looked at in each round.
const TERMINALS_MAX: usize = 1500;
/// Most words of sets of letters that are compared for pairs of places in all; some tenths of a second.
const PAIRS_MAX: usize = 50_000_000;
/// Most words of sets of letters that are looked at to learn what comes after what, in all rounds.
const FACTS_MAX: usize = 500_000_000;
/// Most words and transitions in the automata of all terminals.
const SPACE_MAX: usize = 8_000_000;

/// Rules over terminals.
#[derive(Debug)]
pub struct Plan {
    /// All rules as they were written, by number; terminals may name the regular ones.
    pub regular: Vec<Expr>,
    /// Which of them match the empty text.
    pub nullable: Vec<bool>,
    /// Rules that were cut, or are not regular, by number.
    pub rules: Vec<Option<Node>>,
    /// Terminals by number.
    pub terminals: Vec<Terminal>,
    /// Where it begins.
    pub root: usize,
}

/// A terminal, or what it was cut into.
#[derive(Debug)]
pub enum Terminal {
    /// A regular expression.
    Whole(Expr),
    /// Cut.
    Cut(Node),
}

/// What a rule stands for, in terminals.
#[derive(Debug, Clone)]
pub enum Node {
    /// A terminal.
    Terminal(usize),
    /// Another rule.
    Rule(usize),
    /// A token of the vocabulary, or any but this one.
    Token { id: u32, negated: bool },
    /// One after the other.
    Sequence(Vec<Node>),
    /// One of these.
    Choice(Vec<Node>),
    /// So often.
    Repeat { item: Box<Node>, min: u32, max: Option<u32> },
}

/// Chooses the terminals of a grammar.
///
/// # Errors
/// [`ConstraintError::TooLarge`].
pub fn plan(grammar: Grammar) -> Result<Plan, ConstraintError> {
    let Grammar { mut rules, root } = grammar;
    for rule in 0..rules.len() {
        if let Some(loops) = without_tail_recursion(&rules[rule], rule) {
            rules[rule] = loops;
        }
    }
    let alphabet = Alphabet::of(&rules);
    let is_regular = regular_rules(&rules);
    let nullable = nullable_rules(&rules);
    let mut planner = Planner {
        alphabet,
        is_regular,
        plan: Plan { rules: vec![None; rules.len()], regular: rules, nullable, terminals: Vec::new(), root },
        numbers: HashMap::new(),
        positions: Vec::new(),
        budget: PAIRS_MAX,
        facts: FACTS_MAX,
        space: SPACE_MAX,
    };
    let mut open = vec![root];
    while let Some(rule) = open.pop() {
        planner.rule(rule, &mut open);
    }
    planner.cut_until_exact()?;
    Ok(planner.plan)
}

/// `A ::= x A | y` as `x* y`, which is regular where `x` and `y` are. `None` where `A` stands elsewhere, or not at all.
fn without_tail_recursion(body: &Expr, rule: usize) -> Option<Expr> {
    let is_self = |expr: &Expr| *expr == Expr::Rule(rule);
    if !body.any(&is_self) {
        return None;
    }
    let (loops, ends) = split_tail(body, rule)?;
    let again = Expr::Repeat { item: Box::new(Expr::Choice(loops)), min: 0, max: None };
    Some(Expr::Sequence(vec![again, Expr::Choice(ends)]))
}

/// What stands before a last `Rule(rule)`, and the alternatives without it.
fn split_tail(expr: &Expr, rule: usize) -> Option<(Vec<Expr>, Vec<Expr>)> {
    let is_self = |expr: &Expr| *expr == Expr::Rule(rule);
    if !expr.any(&is_self) {
        return Some((Vec::new(), vec![expr.clone()]));
    }
    match expr {
        Expr::Rule(_) => Some((vec![Expr::empty()], Vec::new())),
        Expr::Choice(items) => {
            let mut all = (Vec::new(), Vec::new());
            for item in items {
                let (loops, ends) = split_tail(item, rule)?;
                all.0.extend(loops);
                all.1.extend(ends);
            }
            Some(all)
        }
        Expr::Repeat { item, min: 0, max: Some(1) } => {
            let (loops, mut ends) = split_tail(item, rule)?;
            ends.push(Expr::empty());
            Some((loops, ends))
        }
        Expr::Sequence(items) => {
            let (last, before) = items.split_last()?;
            if before.iter().any(|item| item.any(&is_self)) {
                return None;
            }
            let (loops, ends) = split_tail(last, rule)?;
            // Together, so that what stands before is copied once and not for each of them.
            let with = |mut tails: Vec<Expr>| {
                let tail = if tails.len() > 1 { Expr::Choice(tails) } else { tails.pop()? };
                Some(Expr::Sequence(before.iter().cloned().chain([tail]).collect()))
            };
            Some((with(loops).into_iter().collect(), with(ends).into_iter().collect()))
        }
        _ => None,
    }
}

/// Rules without tokens that do not lead back to themselves.
fn regular_rules(rules: &[Expr]) -> Vec<bool> {
    // The greatest set would keep rules that lead back to themselves, so this grows the least one.
    let mut regular = vec![false; rules.len()];
    loop {
        let mut changed = false;
        for rule in (0..rules.len()).rev() {
            if !regular[rule] && is_regular(&rules[rule], &regular) {
                regular[rule] = true;
                changed = true;
            }
        }
        if !changed {
            return regular;
        }
    }
}

fn is_regular(expr: &Expr, regular: &[bool]) -> bool {
    !expr.any(&|expr| match expr {
        Expr::Token { .. } => true,
        Expr::Rule(rule) => !regular[*rule],
        _ => false,
    })
}

struct Planner {
    alphabet: Alphabet,
    is_regular: Vec<bool>,
    plan: Plan,
    numbers: HashMap<Expr, usize>,
    /// Of the terminals; `None` where there are too many, or they were cut.
    positions: Vec<Option<Positions>>,
    /// What is left of [`PAIRS_MAX`], [`FACTS_MAX`] and [`SPACE_MAX`].
    budget: usize,
    facts: usize,
    space: usize,
}

impl Planner {
    /// Makes a rule of its own out of `rule`, if it is none yet; rules that it needs are put on `open`.
    fn rule(&mut self, rule: usize, open: &mut Vec<usize>) {
        if self.plan.rules[rule].is_some() {
            return;
        }
        let body = self.plan.regular[rule].clone();
        let node = self.node(&body, open);
        self.plan.rules[rule] = Some(node);
    }

    fn node(&mut self, expr: &Expr, open: &mut Vec<usize>) -> Node {
        if is_regular(expr, &self.is_regular) {
            return self.terminal(expr);
        }
        match expr {
            Expr::Rule(rule) => {
                open.push(*rule);
                Node::Rule(*rule)
            }
            Expr::Token { id, negated } => Node::Token { id: *id, negated: *negated },
            Expr::Repeat { item, min, max } => {
                Node::Repeat { item: Box::new(self.node(item, open)), min: *min, max: *max }
            }
            Expr::Sequence(items) => {
                let mut nodes = Vec::new();
                let mut run: Vec<Expr> = Vec::new();
                for item in items {
                    if is_regular(item, &self.is_regular) {
                        run.push(item.clone());
                        continue;
                    }
                    self.end_run(&mut run, &mut nodes);
                    nodes.push(self.node(item, open));
                }
                self.end_run(&mut run, &mut nodes);
                Node::Sequence(nodes)
            }
            Expr::Choice(items) => {
                let (regular, other): (Vec<&Expr>, Vec<&Expr>) =
                    items.iter().partition(|item| is_regular(item, &self.is_regular));
                let mut nodes: Vec<Node> = other.into_iter().map(|item| self.node(item, open)).collect();
                match regular.len() {
                    0 => {}
                    1 => nodes.push(self.terminal(regular[0])),
                    _ => nodes.push(self.terminal(&Expr::Choice(regular.into_iter().cloned().collect()))),
                }
                Node::Choice(nodes)
            }
            Expr::Literal(_) | Expr::Class(_) => unreachable!("they are regular"),
        }
    }

    fn end_run(&mut self, run: &mut Vec<Expr>, nodes: &mut Vec<Node>) {
        match run.len() {
            0 => {}
            1 => nodes.push(self.terminal(&run[0])),
            _ => nodes.push(self.terminal(&Expr::Sequence(run.clone()))),
        }
        run.clear();
    }

    fn terminal(&mut self, expr: &Expr) -> Node {
        if let Some(&number) = self.numbers.get(expr) {
            return Node::Terminal(number);
        }
        let number = self.plan.terminals.len();
        self.numbers.insert(expr.clone(), number);
        // Without space or numbers left, the grammar is refused.
        let positions = if self.space == 0 || number > TERMINALS_MAX {
            None
        } else {
            Positions::of(expr, &self.plan.regular, &self.alphabet)
        };
        if let Some(positions) = &positions {
            self.space = self.space.saturating_sub(positions.size());
        }
        self.plan.terminals.push(Terminal::Whole(expr.clone()));
        self.positions.push(positions);
        Node::Terminal(number)
    }

    fn cut_until_exact(&mut self) -> Result<(), ConstraintError> {
        loop {
            let count = self.plan.terminals.len();
            if count > TERMINALS_MAX {
                return Err(ConstraintError::TooLarge {
                    kind: KIND,
                    what: "the number of its terminals",
                    max: TERMINALS_MAX,
                });
            }
            if self.space == 0 {
                return Err(ConstraintError::TooLarge {
                    kind: KIND,
                    what: "the size of its terminals",
                    max: SPACE_MAX,
                });
            }
            let too_large: Vec<usize> = (0..count).filter(|&number| self.is_too_large(number)).collect();
            let mut cut = too_large;
            if cut.is_empty() {
                cut = self.ambiguous()?;
            }
            if cut.is_empty() {
                return Ok(());
            }
            for number in cut {
                self.cut(number);
            }
        }
    }

    fn is_too_large(&self, number: usize) -> bool {
        matches!(self.plan.terminals[number], Terminal::Whole(_)) && self.positions[number].is_none()
    }

    /// Terminals that another one, or they themselves, run into.
    fn ambiguous(&mut self) -> Result<Vec<usize>, ConstraintError> {
        let after = self.letters_after()?;
        let mut budget = self.budget;
        let positions = |number: usize| self.positions[number].as_ref();
        let mut found = Vec::new();
        for (b, _) in self.plan.terminals.iter().enumerate() {
            let Some(long) = positions(b) else { continue };
            let runs_into = |a: usize| positions(a).is_some_and(|short| short.runs_into(long, &after[a], &mut budget));
            // One place has no next one: nothing to cut.
            if long.next.iter().any(|next| !next.is_empty()) && (0..self.plan.terminals.len()).any(runs_into) {
                found.push(b);
            }
        }
        self.budget = budget;
        Ok(found)
    }

    /// Replaces a terminal by its parts.
    fn cut(&mut self, number: usize) {
        let Terminal::Whole(expr) = &self.plan.terminals[number] else { return };
        let expr = expr.clone();
        let mut open = Vec::new();
        let node = match &expr {
            Expr::Literal(text) => {
                Node::Sequence(text.chars().map(|c| self.terminal(&Expr::Literal(c.into()))).collect())
            }
            Expr::Sequence(items) => Node::Sequence(items.iter().map(|item| self.terminal(item)).collect()),
            Expr::Choice(items) => Node::Choice(items.iter().map(|item| self.terminal(item)).collect()),
            Expr::Repeat { item, min, max } => {
                Node::Repeat { item: Box::new(self.terminal(item)), min: *min, max: *max }
            }
            Expr::Rule(rule) => {
                self.rule(*rule, &mut open);
                Node::Rule(*rule)
            }
            Expr::Class(_) | Expr::Token { .. } => return,
        };
        debug_assert!(open.is_empty(), "a regular rule needs no others");
        self.plan.terminals[number] = Terminal::Cut(node);
        self.positions[number] = None;
    }

    /// For each terminal the letters that may come after one of its uses.
    fn letters_after(&mut self) -> Result<Vec<Letters>, ConstraintError> {
        let none = self.alphabet.none();
        let mut facts = Facts {
            planner: self,
            first: vec![(none.clone(), false); self.plan.rules.len()],
            after_rule: vec![none.clone(); self.plan.rules.len()],
            after: vec![none.clone(); self.plan.terminals.len()],
            left: Cell::new(self.facts),
        };
        loop {
            let mut changed = false;
            for rule in (0..self.plan.rules.len()).rev() {
                let Some(body) = &self.plan.rules[rule] else { continue };
                let (letters, nullable) = facts.first(body);
                changed |= join(&mut facts.first[rule].0, &letters) || nullable != facts.first[rule].1;
                facts.first[rule].1 |= nullable;
            }
            if !changed {
                break;
            }
        }
        loop {
            let mut changed = false;
            for (rule, body) in self.plan.rules.iter().enumerate() {
                let Some(body) = body else { continue };
                let behind = facts.after_rule[rule].clone();
                changed |= facts.spread(body, &behind);
            }
            if !changed {
                break;
            }
        }
        let Facts { after, left, .. } = facts;
        self.facts = left.get();
        if self.facts == 0 {
            let what = "the work to learn what comes after its terminals";
            return Err(ConstraintError::TooLarge { kind: KIND, what, max: FACTS_MAX });
        }
        Ok(after)
    }
}

/// What is known of first letters and following letters so far.
struct Facts<'p> {
    planner: &'p Planner,
    /// Of each rule: letters it can begin with, and whether it can be empty.
    first: Vec<(Letters, bool)>,
    after_rule: Vec<Letters>,
    after: Vec<Letters>,
    /// Words that may still be looked at. Without any, nothing changes any more.
    left: Cell<usize>,
}

impl Facts<'_> {
    /// Pays for `sets` sets of letters; whether that was possible.
    fn pay(&self, sets: usize) -> bool {
        let words = self.planner.alphabet.words().saturating_mul(sets);
        self.left.set(self.left.get().saturating_sub(words));
        self.left.get() > 0
    }

    fn first(&self, node: &Node) -> (Letters, bool) {
        let alphabet = &self.planner.alphabet;
        if !self.pay(1) {
            return (alphabet.none(), false);
        }
        match node {
            Node::Terminal(number) => match &self.planner.plan.terminals[*number] {
                Terminal::Cut(node) => self.first(node),
                Terminal::Whole(expr) => {
                    let letters = match &self.planner.positions[*number] {
                        Some(positions) if self.pay(positions.first.len()) => positions.first_letters(alphabet),
                        _ => alphabet.all(),
                    };
                    (letters, is_nullable(expr, &self.planner.plan.nullable))
                }
            },
            Node::Rule(rule) => self.first[*rule].clone(),
            // A token may be one of text.
            Node::Token { .. } => (alphabet.all(), false),
            Node::Sequence(items) => {
                let mut letters = alphabet.none();
                for item in items {
                    let (first, nullable) = self.first(item);
                    join(&mut letters, &first);
                    if !nullable {
                        return (letters, false);
                    }
                }
                (letters, true)
            }
            Node::Choice(items) => {
                let mut all = (alphabet.none(), false);
                for item in items {
                    let (first, nullable) = self.first(item);
                    join(&mut all.0, &first);
                    all.1 |= nullable;
                }
                all
            }
            Node::Repeat { item, min, .. } => {
                let (letters, nullable) = self.first(item);
                (letters, nullable || *min == 0)
            }
        }
    }

    /// Hands the letters `behind` a node on to what is in it; says whether that was new.
    fn spread(&mut self, node: &Node, behind: &[u64]) -> bool {
        let planner = self.planner;
        if !self.pay(1) {
            return false;
        }
        match node {
            Node::Terminal(number) => {
                let mut changed = join(&mut self.after[*number], behind);
                if let Terminal::Cut(node) = &planner.plan.terminals[*number]
                    && changed
                {
                    let all = self.after[*number].clone();
                    changed |= self.spread(node, &all);
                }
                changed
            }
            Node::Rule(rule) => join(&mut self.after_rule[*rule], behind),
            Node::Token { .. } => false,
            Node::Sequence(items) => {
                let mut behind = behind.to_vec();
                let mut changed = false;
                for item in items.iter().rev() {
                    changed |= self.spread(item, &behind);
                    let (first, nullable) = self.first(item);
                    if nullable {
                        join(&mut behind, &first);
                    } else {
                        behind = first;
                    }
                }
                changed
            }
            Node::Choice(items) => {
                let mut changed = false;
                for item in items {
                    changed |= self.spread(item, behind);
                }
                changed
            }
            Node::Repeat { item, max, .. } => {
                let mut behind = behind.to_vec();
                if *max != Some(1) {
                    let (first, _) = self.first(item);
                    join(&mut behind, &first);
                }
                self.spread(item, &behind)
            }
        }
    }
}

fn nullable_rules(rules: &[Expr]) -> Vec<bool> {
    let mut nullable = vec![false; rules.len()];
    loop {
        let mut changed = false;
        for rule in (0..rules.len()).rev() {
            if !nullable[rule] && is_nullable(&rules[rule], &nullable) {
                nullable[rule] = true;
                changed = true;
            }
        }
        if !changed {
            return nullable;
        }
    }
}

/// Whether an expression matches the empty text, given which rules do.
pub fn is_nullable(expr: &Expr, rules: &[bool]) -> bool {
    match expr {
        Expr::Literal(text) => text.is_empty(),
        Expr::Class(_) | Expr::Token { .. } => false,
        Expr::Sequence(items) => items.iter().all(|item| is_nullable(item, rules)),
        Expr::Choice(items) => items.iter().any(|item| is_nullable(item, rules)),
        Expr::Repeat { item, min, max } => *min == 0 || *max == Some(0) || is_nullable(item, rules),
        Expr::Rule(rule) => rules[*rule],
    }
}
