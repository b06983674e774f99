//! The syntax of GBNF, with the line and column of whatever is wrong.

use std::collections::HashMap;

use super::{Class, ConstraintError, Expr, Grammar};

/// Deepest nesting of groups: what reads an expression recurses.
const DEPTH_MAX: usize = 200;
/// Most repetitions of one item (`"a"?*+`), which nest as well.
const REPEATED_MAX: usize = 4;
/// Largest bound of a repetition that is read (what it may grow to is limited where it is compiled).
const REPEAT_MAX: u32 = 100_000;

/// Reads a grammar.
///
/// # Errors
/// [`ConstraintError::Gbnf`].
pub fn parse(text: &str, token_of: &dyn Fn(&str) -> Option<u32>) -> Result<Grammar, ConstraintError> {
    let mut parser = Parser { rest: text, text, names: HashMap::new(), uses: Vec::new(), rules: Vec::new(), token_of };
    parser.space(true);
    while !parser.rest.is_empty() {
        parser.rule()?;
    }
    let root = parser.names.get("root").copied().filter(|&rule| parser.rules[rule].is_some());
    let Some(root) = root else {
        return Err(parser.wrong_at(text, "there is no rule `root`, where the grammar would begin"));
    };
    let undefined = parser.uses.iter().find(|(_, rule)| parser.rules[*rule].is_none());
    if let Some(&(place, rule)) = undefined {
        let name = parser.names.iter().find(|(_, number)| **number == rule).map_or("?", |(name, _)| name);
        return Err(parser.wrong_at(place, &format!("there is no rule `{name}`")));
    }
    let rules = parser.rules.into_iter().flatten().collect();
    Ok(Grammar { rules, root })
}

struct Parser<'t> {
    text: &'t str,
    rest: &'t str,
    names: HashMap<&'t str, usize>,
    /// Where a rule is used, as what follows there.
    uses: Vec<(&'t str, usize)>,
    /// By number; `None` while only used.
    rules: Vec<Option<Expr>>,
    token_of: &'t dyn Fn(&str) -> Option<u32>,
}

impl<'t> Parser<'t> {
    /// An error at the place from where on `rest` is left.
    fn wrong_at(&self, rest: &str, problem: &str) -> ConstraintError {
        let before = &self.text[..self.text.len() - rest.len()];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConstraintError::Gbnf {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            problem: problem.to_owned(),
        }
    }

    fn wrong(&self, problem: &str) -> ConstraintError {
        self.wrong_at(self.rest, problem)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Skips blanks and comments, and line ends where they do not end the rule.
    fn space(&mut self, lines: bool) {
        loop {
            let blanks: &[char] = if lines { &[' ', '\t', '\r', '\n'] } else { &[' ', '\t'] };
            self.rest = self.rest.trim_start_matches(blanks);
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.trim_start_matches(|c| c != '\n' && c != '\r');
        }
    }

    fn name(&mut self) -> Option<&'t str> {
        let end = self.rest.find(|c: char| !is_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    fn number_of(&mut self, name: &'t str) -> usize {
        let next = self.rules.len();
        let number = *self.names.entry(name).or_insert(next);
        if number == next {
            self.rules.push(None);
        }
        number
    }

    fn rule(&mut self) -> Result<(), ConstraintError> {
        let place = self.rest;
        let name = self.name().ok_or_else(|| self.wrong("expected the name of a rule"))?;
        let number = self.number_of(name);
        self.space(false);
        if !self.eat("::=") {
            return Err(self.wrong("expected `::=`"));
        }
        if self.rules[number].is_some() {
            return Err(self.wrong_at(place, &format!("the rule `{name}` is there twice")));
        }
        self.space(true);
        let body = self.choice(0)?;
        self.rules[number] = Some(body);
        if !self.rest.is_empty() && !self.rest.starts_with(['\n', '\r']) {
            return Err(self.wrong("expected the end of the rule, or `|`"));
        }
        self.space(true);
        Ok(())
    }

    fn choice(&mut self, depth: usize) -> Result<Expr, ConstraintError> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("groups are nested too deeply"));
        }
        let mut items = vec![self.sequence(depth)?];
        while self.eat("|") {
            self.space(true);
            items.push(self.sequence(depth)?);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Expr::Choice(items) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Expr, ConstraintError> {
        let nested = depth > 0;
        let mut items = Vec::new();
        while let Some(mut item) = self.item(depth)? {
            self.space(nested);
            let mut stacked = 0;
            while let Some((min, max)) = self.repetition(nested)? {
                stacked += 1;
                if stacked > REPEATED_MAX {
                    return Err(self.wrong("too many repetitions of one item: put them into one"));
                }
                item = Expr::Repeat { item: Box::new(item), min, max };
                self.space(nested);
            }
            items.push(item);
        }
        if let Some(sign @ ('*' | '+' | '?' | '{')) = self.peek() {
            return Err(self.wrong(&format!("there is nothing before `{sign}` that it could repeat")));
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Expr::Sequence(items) })
    }

    fn item(&mut self, depth: usize) -> Result<Option<Expr>, ConstraintError> {
        let place = self.rest;
        Ok(Some(match self.peek() {
            Some('"') => Expr::Literal(self.literal()?),
            Some('[') => Expr::Class(self.class()?),
            Some('.') => {
                self.take();
                Expr::Class(Class::all())
            }
            Some('(') => {
                self.take();
                self.space(true);
                let inner = self.choice(depth + 1)?;
                if !self.eat(")") {
                    return Err(self.wrong("expected `)` or `|`"));
                }
                inner
            }
            Some('<' | '!') => self.token()?,
            Some(c) if is_name(c) => {
                let name = self.name().expect("it begins here");
                let number = self.number_of(name);
                self.uses.push((place, number));
                Expr::Rule(number)
            }
            _ => return Ok(None),
        }))
    }

    fn repetition(&mut self, nested: bool) -> Result<Option<(u32, Option<u32>)>, ConstraintError> {
        let place = self.rest;
        let simple = match self.peek() {
            Some('*') => Some((0, None)),
            Some('+') => Some((1, None)),
            Some('?') => Some((0, Some(1))),
            Some('{') => None,
            _ => return Ok(None),
        };
        self.take();
        if simple.is_some() {
            return Ok(simple);
        }
        self.space(nested);
        let min = self.count()?.ok_or_else(|| self.wrong("expected how often"))?;
        self.space(nested);
        let mut max = Some(min);
        if self.eat(",") {
            self.space(nested);
            max = self.count()?;
            self.space(nested);
        }
        if !self.eat("}") {
            return Err(self.wrong("expected `}`"));
        }
        if max.is_some_and(|max| max < min) {
            return Err(self.wrong_at(place, "the larger number stands first"));
        }
        Ok(Some((min, max)))
    }

    fn count(&mut self) -> Result<Option<u32>, ConstraintError> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        if end == 0 {
            return Ok(None);
        }
        let number = self.rest[..end].parse().ok().filter(|&number: &u32| number <= REPEAT_MAX);
        let Some(number) = number else {
            return Err(self.wrong(&format!("more repetitions than {REPEAT_MAX}")));
        };
        self.rest = &self.rest[end..];
        Ok(Some(number))
    }

    fn literal(&mut self) -> Result<String, ConstraintError> {
        self.take();
        let mut text = String::new();
        loop {
            let place = self.rest;
            if self.eat("\"") {
                return Ok(text);
            }
            let number = self.character("the `\"` that ends the text")?;
            let Some(c) = char::from_u32(number) else {
                return Err(self.wrong_at(place, "this number is no Unicode character"));
            };
            text.push(c);
        }
    }

    fn class(&mut self) -> Result<Class, ConstraintError> {
        let place = self.rest;
        self.take();
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        loop {
            if self.eat("]") {
                break;
            }
            let start = self.rest;
            let low = self.character("the `]` that ends the class")?;
            let mut high = low;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.take();
                high = self.character("the end of the range")?;
                if high < low {
                    return Err(self.wrong_at(start, "the range ends before it begins"));
                }
            }
            ranges.push((low, high));
        }
        let class = Class::from_numbers(&ranges);
        let class = if negated { class.negated() } else { class };
        if class.is_empty() {
            return Err(self.wrong_at(place, "no character is in this class"));
        }
        Ok(class)
    }

    /// A character of a literal or a class, as a number.
    fn character(&mut self, wanted: &str) -> Result<u32, ConstraintError> {
        let place = self.rest;
        let c = self.take().ok_or_else(|| self.wrong(&format!("the grammar ends before {wanted}")))?;
        if c != '\\' {
            return Ok(u32::from(c));
        }
        let digits = match self.take() {
            Some('n') => return Ok(u32::from('\n')),
            Some('r') => return Ok(u32::from('\r')),
            Some('t') => return Ok(u32::from('\t')),
            Some(c @ ('\\' | '"' | '[' | ']' | '-')) => return Ok(u32::from(c)),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                return Err(
                    self.wrong_at(place, "unknown escape: there are \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\x \\u \\U")
                );
            }
        };
        let hex = self.rest.get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let number = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some(number) = number else {
            return Err(self.wrong_at(place, &format!("expected {digits} hexadecimal digits")));
        };
        self.rest = &self.rest[digits..];
        Ok(number)
    }

    fn token(&mut self) -> Result<Expr, ConstraintError> {
        let place = self.rest;
        let negated = self.eat("!");
        let start = self.rest;
        if !self.rest.starts_with('<') {
            return Err(self.wrong("expected a token such as <think> or <[1000]> after `!`"));
        }
        let Some(end) = self.rest.find('>') else {
            return Err(self.wrong_at(place, "the token has no `>`"));
        };
        self.rest = &self.rest[end + 1..];
        let name = &start[..=end];
        let id = match name.strip_prefix("<[").and_then(|name| name.strip_suffix("]>")) {
            Some(number) => number.parse().ok(),
            None => (self.token_of)(name),
        };
        match id {
            Some(id) => Ok(Expr::Token { id, negated }),
            None => Err(self.wrong_at(place, &format!("{name} is no special token of this model"))),
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}
