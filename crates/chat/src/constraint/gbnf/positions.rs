//! The automaton of a regular expression whose states are its character classes, one for each place they stand at
//! (Glushkov 1961, "The abstract theory of automata"). It shows which characters may extend a match.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Class, Expr};

/// Most places of one expression. What has more is not made a terminal.
const PLACES_MAX: usize = 3000;
/// Most transitions of one expression, most parts looked at to make it, and most words of its sets of letters.
const STEPS_MAX: usize = 200_000;
/// Deepest nesting of parts, the rules that they name included.
const DEPTH_MAX: usize = 2000;

/// A set of the alphabet's letters, one bit each.
pub type Letters = Vec<u64>;

/// Whether two sets have a letter in common.
pub fn meet(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).any(|(a, b)| a & b != 0)
}

/// Adds a set to another one; says whether that changed it.
pub fn join(into: &mut [u64], from: &[u64]) -> bool {
    let mut changed = false;
    for (into, from) in into.iter_mut().zip(from) {
        changed |= from & !*into != 0;
        *into |= from;
    }
    changed
}

/// The characters of a grammar in groups that none of its classes tells apart, so that sets of them are short.
#[derive(Debug)]
pub struct Alphabet {
    /// Where a letter begins, sorted; it ends before the next one.
    starts: Vec<char>,
}

impl Alphabet {
    /// The alphabet of all classes and literals in some expressions.
    pub fn of(exprs: &[Expr]) -> Self {
        let mut starts = BTreeSet::from(['\0']);
        exprs.iter().for_each(|expr| collect(expr, &mut starts));
        Self { starts: starts.into_iter().collect() }
    }

    /// No letters.
    pub fn none(&self) -> Letters {
        vec![0; self.words()]
    }

    /// Words of a set.
    pub fn words(&self) -> usize {
        self.starts.len().div_ceil(64)
    }

    /// All letters.
    pub fn all(&self) -> Letters {
        self.letters(&Class::all())
    }

    fn letters(&self, class: &Class) -> Letters {
        let mut letters = self.none();
        for &(low, high) in class.ranges() {
            let first = self.starts.partition_point(|&start| start < low);
            let end = self.starts.partition_point(|&start| start <= high);
            for letter in first..end {
                letters[letter / 64] |= 1 << (letter % 64);
            }
        }
        letters
    }
}

fn collect(expr: &Expr, starts: &mut BTreeSet<char>) {
    let mut add = |class: &Class| {
        starts.extend(class.ranges().iter().map(|range| range.0));
        // The first character behind a range begins another letter; the complement knows the gap of the surrogates.
        starts.extend(class.negated().ranges().iter().map(|range| range.0));
    };
    match expr {
        Expr::Class(class) => add(class),
        Expr::Literal(text) => text.chars().for_each(|c| add(&Class::one(c))),
        other => other.children().iter().for_each(|child| collect(child, starts)),
    }
}

/// The automaton of a regular expression.
#[derive(Debug, Default)]
pub struct Positions {
    /// The letters that each place takes.
    pub letters: Vec<Letters>,
    /// Places that can follow a place.
    pub next: Vec<Vec<u32>>,
    /// Places that a match can begin with.
    pub first: Vec<u32>,
    /// Whether a match can end with a place.
    pub last: Vec<bool>,
}

/// A part of an expression: the places that begin it and end it.
#[derive(Clone)]
struct Part {
    first: Vec<u32>,
    last: Vec<u32>,
    nullable: bool,
}

impl Part {
    fn empty() -> Self {
        Self { first: Vec::new(), last: Vec::new(), nullable: true }
    }
}

impl Positions {
    /// The automaton of `expr`, the rules of `rules` put in for their names; `None` if it is too large.
    pub fn of(expr: &Expr, rules: &[Expr], alphabet: &Alphabet) -> Option<Self> {
        let mut build = Build { rules, alphabet, out: Self::default(), steps: 0, depth: 0, classes: HashMap::new() };
        let whole = build.part(expr)?;
        let mut out = build.out;
        out.first = whole.first;
        out.last = vec![false; out.letters.len()];
        whole.last.iter().for_each(|&place| out.last[place as usize] = true);
        Some(out)
    }

    /// Letters that a match can begin with.
    pub fn first_letters(&self, alphabet: &Alphabet) -> Letters {
        let mut letters = alphabet.none();
        for &place in &self.first {
            join(&mut letters, &self.letters[place as usize]);
        }
        letters
    }

    /// Words and transitions that it holds.
    pub fn size(&self) -> usize {
        self.letters.iter().map(Vec::len).sum::<usize>() + self.next.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether there is a text that `self` matches, and that with one of the letters `after` behind it begins a match of
    /// `other`: then a lexer that takes the longest match could run past the end of `self`. Each pair of places that is
    /// compared costs a set's words of `budget`; without any left the answer is yes.
    pub fn runs_into(&self, other: &Self, after: &[u64], budget: &mut usize) -> bool {
        let mut seen = HashSet::new();
        let mut open = Vec::new();
        let mut step = |all_a: &[u32], all_b: &[u32], open: &mut Vec<(u32, u32)>| {
            *budget = budget.saturating_sub((all_a.len() + 1) * all_b.len().max(1) * after.len());
            if *budget == 0 {
                return false;
            }
            for &a in all_a {
                for &b in all_b {
                    if meet(&self.letters[a as usize], &other.letters[b as usize]) && seen.insert((a, b)) {
                        open.push((a, b));
                    }
                }
            }
            true
        };
        if !step(&self.first, &other.first, &mut open) {
            return true;
        }
        while let Some((a, b)) = open.pop() {
            let (all_a, all_b) = (&self.next[a as usize], &other.next[b as usize]);
            if self.last[a as usize] && all_b.iter().any(|&b| meet(&other.letters[b as usize], after)) {
                return true;
            }
            if !step(all_a, all_b, &mut open) {
                return true;
            }
        }
        false
    }
}

struct Build<'g> {
    rules: &'g [Expr],
    alphabet: &'g Alphabet,
    out: Positions,
    steps: usize,
    depth: usize,
    /// Letters of classes that were met before.
    classes: HashMap<Class, Letters>,
}

impl Build<'_> {
    fn place(&mut self, class: &Class) -> Option<Part> {
        if self.out.letters.len() >= PLACES_MAX {
            return None;
        }
        let alphabet = self.alphabet;
        let letters = self.classes.entry(class.clone()).or_insert_with(|| alphabet.letters(class)).clone();
        let place = self.out.letters.len() as u32;
        // The first place is free, as what has one place is always a terminal.
        if place > 0 {
            self.spend(letters.len())?;
        }
        self.out.letters.push(letters);
        self.out.next.push(Vec::new());
        Some(Part { first: vec![place], last: vec![place], nullable: false })
    }

    fn connect(&mut self, from: &[u32], to: &[u32]) -> Option<()> {
        self.spend(from.len() * to.len())?;
        for &place in from {
            self.out.next[place as usize].extend_from_slice(to);
        }
        Some(())
    }

    fn then(&mut self, a: Part, b: Part) -> Option<Part> {
        self.connect(&a.last, &b.first)?;
        let mut first = a.first;
        if a.nullable {
            first.extend_from_slice(&b.first);
        }
        let mut last = b.last;
        if b.nullable {
            last.extend_from_slice(&a.last);
        }
        Some(Part { first, last, nullable: a.nullable && b.nullable })
    }

    fn spend(&mut self, steps: usize) -> Option<()> {
        self.steps += steps;
        (self.steps <= STEPS_MAX).then_some(())
    }

    fn part(&mut self, expr: &Expr) -> Option<Part> {
        self.spend(1)?;
        if self.depth == DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let part = self.part_of(expr);
        self.depth -= 1;
        part
    }

    fn part_of(&mut self, expr: &Expr) -> Option<Part> {
        match expr {
            Expr::Class(class) => self.place(class),
            Expr::Literal(text) => text.chars().try_fold(Part::empty(), |before, c| {
                let place = self.place(&Class::one(c))?;
                self.then(before, place)
            }),
            Expr::Sequence(items) => items.iter().try_fold(Part::empty(), |before, item| {
                let item = self.part(item)?;
                self.then(before, item)
            }),
            Expr::Choice(items) => {
                let mut all = Part { nullable: false, ..Part::empty() };
                for item in items {
                    let part = self.part(item)?;
                    all.first.extend(part.first);
                    all.last.extend(part.last);
                    all.nullable |= part.nullable;
                }
                Some(all)
            }
            Expr::Rule(rule) => {
                let rules = self.rules;
                self.part(&rules[*rule])
            }
            Expr::Repeat { item, min, max } => self.repeat(item, *min, *max),
            Expr::Token { .. } => None,
        }
    }

    fn repeat(&mut self, item: &Expr, min: u32, max: Option<u32>) -> Option<Part> {
        let mut all = Part::empty();
        for _ in 0..min {
            let copy = self.part(item)?;
            // An item without places could be repeated for ever.
            if copy.first.is_empty() {
                return Some(copy);
            }
            all = self.then(all, copy)?;
        }
        match max {
            None => {
                let mut copy = self.part(item)?;
                self.connect(&copy.last.clone(), &copy.first.clone())?;
                copy.nullable = true;
                self.then(all, copy)
            }
            Some(max) => {
                // (x (x (x)?)?)?, so that each copy is followed by the next one only.
                let mut rest = Part::empty();
                for _ in min..max {
                    let copy = self.part(item)?;
                    if copy.first.is_empty() {
                        break;
                    }
                    rest = self.then(copy, rest)?;
                    rest.nullable = true;
                }
                self.then(all, rest)
            }
        }
    }
}
