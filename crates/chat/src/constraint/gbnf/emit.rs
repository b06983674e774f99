//! A plan written down as Lark.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::lexemes::{Node, Plan, Terminal, is_nullable};
use super::{Class, Expr};

/// Groups nested deeper than this get a name of their own: `llguidance` takes 30.
const DEPTH_MAX: usize = 10;

/// A plan as Lark: `start`, rules `r…` and what they were cut from `t…`, terminals `T…` and the regular rules `R…` that
/// these name; `n…` and `N…` are groups that were nested too deeply.
pub fn lark(plan: &Plan) -> String {
    let mut writer = Writer { plan, out: String::new(), named: BTreeSet::new(), nodes: Vec::new(), exprs: Vec::new() };
    let _ = writeln!(writer.out, "start: r{}", plan.root);
    for (rule, body) in plan.rules.iter().enumerate() {
        if let Some(body) = body {
            writer.definition(&format!("r{rule}"), |writer| writer.node(body, 0));
        }
    }
    for (number, terminal) in plan.terminals.iter().enumerate() {
        match terminal {
            Terminal::Cut(body) => writer.definition(&format!("t{number}"), |writer| writer.node(body, 0)),
            Terminal::Whole(body) => writer.definition(&format!("T{number}"), |writer| {
                writer.expr(body, 0);
                // A terminal must not be empty: its uses are optional instead.
                if is_nullable(body, &plan.nullable) {
                    writer.out.push_str(" & /(?s:.+)/");
                }
            }),
        }
    }
    let mut written = BTreeSet::new();
    let (mut nodes, mut exprs) = (0, 0);
    loop {
        if let Some(&body) = writer.nodes.get(nodes) {
            writer.definition(&format!("n{nodes}"), |writer| writer.node(body, 0));
            nodes += 1;
        } else if let Some(&body) = writer.exprs.get(exprs) {
            writer.definition(&format!("N{exprs}"), |writer| writer.expr(body, 0));
            exprs += 1;
        } else if let Some(rule) = writer.named.difference(&written).next().copied() {
            written.insert(rule);
            writer.definition(&format!("R{rule}"), |writer| writer.expr(&plan.regular[rule], 0));
        } else {
            return writer.out;
        }
    }
}

struct Writer<'p> {
    plan: &'p Plan,
    out: String,
    /// Regular rules that terminals name.
    named: BTreeSet<usize>,
    /// Groups that are defined later.
    nodes: Vec<&'p Node>,
    exprs: Vec<&'p Expr>,
}

impl<'p> Writer<'p> {
    fn definition(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        let _ = write!(self.out, "{name}: ");
        body(self);
        self.out.push('\n');
    }

    fn group<T>(&mut self, items: &'p [T], separator: &str, mut write: impl FnMut(&mut Self, &'p T)) {
        self.out.push('(');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push_str(separator);
            }
            write(self, item);
        }
        if items.is_empty() {
            self.out.push_str("\"\"");
        }
        self.out.push(')');
    }

    fn node(&mut self, body: &'p Node, depth: usize) {
        let compound = matches!(body, Node::Sequence(_) | Node::Choice(_) | Node::Repeat { .. });
        if depth >= DEPTH_MAX && compound {
            let _ = write!(self.out, "n{}", self.nodes.len());
            self.nodes.push(body);
            return;
        }
        match body {
            Node::Terminal(number) => {
                let _ = match &self.plan.terminals[*number] {
                    Terminal::Cut(_) => write!(self.out, "t{number}"),
                    Terminal::Whole(body) if is_nullable(body, &self.plan.nullable) => {
                        write!(self.out, "(T{number})?")
                    }
                    Terminal::Whole(_) => write!(self.out, "T{number}"),
                };
            }
            Node::Rule(rule) => {
                let _ = write!(self.out, "r{rule}");
            }
            Node::Token { id, negated } => {
                let _ = write!(self.out, "<[{}{id}]>", if *negated { "^" } else { "" });
            }
            Node::Sequence(items) => self.group(items, " ", |writer, item| writer.node(item, depth + 1)),
            Node::Choice(items) => self.group(items, " | ", |writer, item| writer.node(item, depth + 1)),
            Node::Repeat { item, min, max } => {
                let one = std::slice::from_ref(&**item);
                self.group(one, "", |writer, item| writer.node(item, depth + 1));
                self.out.push_str(&times(*min, *max));
            }
        }
    }

    fn expr(&mut self, body: &'p Expr, depth: usize) {
        let compound = matches!(body, Expr::Sequence(_) | Expr::Choice(_) | Expr::Repeat { .. });
        if depth >= DEPTH_MAX && compound {
            let _ = write!(self.out, "N{}", self.exprs.len());
            self.exprs.push(body);
            return;
        }
        match body {
            Expr::Literal(text) => self.out.push_str(&quote(text)),
            Expr::Class(class) => self.out.push_str(&regex(class)),
            Expr::Sequence(items) => self.group(items, " ", |writer, item| writer.expr(item, depth + 1)),
            Expr::Choice(items) => self.group(items, " | ", |writer, item| writer.expr(item, depth + 1)),
            Expr::Repeat { item, min, max } => {
                let one = std::slice::from_ref(&**item);
                self.group(one, "", |writer, item| writer.expr(item, depth + 1));
                self.out.push_str(&times(*min, *max));
            }
            Expr::Rule(rule) => {
                self.named.insert(*rule);
                let _ = write!(self.out, "R{rule}");
            }
            Expr::Token { .. } => unreachable!("a terminal has no tokens in it"),
        }
    }
}

fn times(min: u32, max: Option<u32>) -> String {
    match (min, max) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (min, None) => format!("{{{min},}}"),
        (min, Some(max)) => format!("{{{min},{max}}}"),
    }
}

/// A class as a regular expression.
fn regex(class: &Class) -> String {
    let mut text = String::from("/[");
    for &(low, high) in class.ranges() {
        let _ = write!(text, "\\x{{{:x}}}-\\x{{{:x}}}", u32::from(low), u32::from(high));
    }
    text.push_str("]/");
    text
}

/// A text as a literal of Lark.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
