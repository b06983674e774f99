//! What makes two answers the same answer: numbers, choices, yes and no, and short answers lose what does not matter to
//! them; answers that are sentences are held against the short ones.
//!
//! These are rules about the shape of English answers, not understanding: what they cannot tell is free text, for which
//! `voting.rs` has another measure. A number in words is a word.

use super::number::{self, Number};

/// The longest answer that is looked at as a short one, in bytes.
const SENTENCE_BYTES_MAX: usize = 240;
/// The longest short answer, in words and bytes.
const SHORT_WORDS_MAX: usize = 6;
const SHORT_BYTES_MAX: usize = 64;

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerKind {
    /// A number, perhaps with a unit.
    Number,
    /// One of several choices, by its letter.
    Choice,
    /// Yes or no.
    YesNo,
    /// A few words.
    Short,
    /// Anything else.
    Text,
}

/// An answer without what does not matter.
///
/// ```
/// use hublabio_moe::{AnswerKind, CanonicalAnswer};
///
/// assert_eq!(CanonicalAnswer::of("1,024 bytes").key, "1024");
/// assert_eq!(CanonicalAnswer::of("Answer: (b).").kind, AnswerKind::Choice);
/// assert_eq!(CanonicalAnswer::of("It is called `Deque`.").key, "deque");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CanonicalAnswer {
    /// What it is.
    pub kind: AnswerKind,
    /// Equal for equal answers; of numbers without their unit.
    pub key: String,
    /// A number's value.
    pub value: Option<f64>,
    /// A number's unit, in lower case and singular, `%` and currency signs included.
    pub unit: Option<String>,
    /// Digits behind a number's decimal point, as it was written.
    pub decimals: usize,
}

impl CanonicalAnswer {
    /// Of a text.
    pub fn of(text: &str) -> Self {
        let plain = |kind, key| Self { kind, key, value: None, unit: None, decimals: 0 };
        let Some(core) = core(text) else { return plain(AnswerKind::Text, folded(text)) };
        if let Some(letter) = choice(core) {
            return plain(AnswerKind::Choice, letter.to_string());
        }
        if let Some(word) = yes_or_no(core) {
            return plain(AnswerKind::YesNo, word.to_owned());
        }
        let rest = without_lead(core);
        if let Some(number) = Self::number(rest) {
            return number;
        }
        let key = code_span(core).map_or_else(|| short_key(rest), short_key);
        let short = key.len() <= SHORT_BYTES_MAX && (1..=SHORT_WORDS_MAX).contains(&key.split(' ').count());
        if short && !key.is_empty() { plain(AnswerKind::Short, key) } else { plain(AnswerKind::Text, folded(text)) }
    }

    fn number(text: &str) -> Option<Self> {
        let text = bare(text);
        let (currency, text) = match text.chars().next().filter(|c| "$€£¥".contains(*c)) {
            Some(sign) => (Some(sign.to_string()), text[sign.len_utf8()..].trim_start()),
            None => (None, text),
        };
        let number = number::read(text)?;
        let after = &text[number.bytes..];
        let glued = after.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | ':' | '/'));
        let unit = bare(after);
        let letters = |c: char| c.is_alphabetic() || " %°²³µ/€$£¥".contains(c);
        if glued || unit.len() > 24 || unit.split_whitespace().count() > 2 || !unit.chars().all(letters) {
            return None;
        }
        let unit = currency.or_else(|| (!unit.is_empty()).then(|| singular(&unit.to_lowercase())));
        Some(Self::of_number(number.value, unit, number.decimals))
    }

    fn of_number(value: f64, unit: Option<String>, decimals: usize) -> Self {
        // Adding 0 makes minus zero zero.
        let value = value + 0.0;
        let key = if value.abs() < 1e15 { value.to_string() } else { format!("{value:e}") };
        Self { kind: AnswerKind::Number, key, value: Some(value), unit, decimals }
    }
}

/// What an answer says, without what leads to it: behind a marker of answers, or the whole where that is short.
fn core(text: &str) -> Option<&str> {
    const MARKERS: [&str; 6] = ["answer is", "answer:", "answer**:", "result is", "result:", "####"];
    let text = text.trim();
    // Lower case in ASCII only, so that places are the same in both.
    let lower = text.to_ascii_lowercase();
    if let Some(at) = lower.rfind("\\boxed{") {
        let inside = &text[at + "\\boxed{".len()..];
        return inside.split_once('}').map(|(inside, _)| inside.trim());
    }
    let marked = MARKERS.iter().filter_map(|marker| lower.rfind(marker).map(|at| at + marker.len())).max();
    if let Some(begin) = marked {
        let line = text[begin..].trim_start_matches([':', '*', ' ', '\t']).lines().next().unwrap_or_default().trim();
        let line = line.split_once(". ").filter(|(first, _)| first.len() > 1).map_or(line, |(first, _)| first);
        if !bare(line).is_empty() && line.len() <= SENTENCE_BYTES_MAX {
            return Some(line);
        }
    }
    let one_line = text.lines().filter(|line| !line.trim().is_empty()).count() == 1;
    (one_line && text.len() <= SENTENCE_BYTES_MAX).then_some(text)
}

/// Without spaces, quotes, emphasis and final punctuation around it.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "`*\"'“”‘’".contains(c) || "!?,;:=~≈".contains(c))
        .trim_end_matches(|c: char| c.is_whitespace() || ".`*\"'“”‘’".contains(c))
}

/// In lower case, with single spaces.
fn folded(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

fn singular(unit: &str) -> String {
    let plural = unit.len() > 2 && unit.ends_with('s') && !unit.ends_with("ss");
    unit[..unit.len() - usize::from(plural)].to_owned()
}

/// The letter of a choice: `B`, `(b)`, `option B`, `B. Paris`, `b) Paris`, `B, because`.
fn choice(text: &str) -> Option<char> {
    let text = text.trim().trim_matches(['*', '`', '"']);
    let lower = text.to_ascii_lowercase();
    let lower = ["option ", "choice "].iter().find_map(|word| lower.strip_prefix(word)).unwrap_or(&lower);
    let opened = lower.strip_prefix(['(', '[']);
    let mut rest = opened.unwrap_or(lower).chars();
    let letter = rest.next().filter(|c| ('a'..='h').contains(c))?;
    let rest = rest.as_str();
    let closed = rest.strip_prefix([')', ']']);
    let fine = match closed.unwrap_or(rest).trim_start_matches(['*']) {
        "" | "." | ":" => opened.is_none() || closed.is_some(),
        after if closed.is_some() => after.starts_with([' ', '.', ':', ',']),
        after => opened.is_none() && [". ", ": ", ", "].iter().any(|mark| after.starts_with(mark)),
    };
    fine.then_some(letter)
}

fn yes_or_no(text: &str) -> Option<&'static str> {
    let lower = bare(text).to_lowercase();
    let words = [("yes", "yes"), ("no", "no"), ("true", "true"), ("false", "false"), ("yeah", "yes"), ("nope", "no")];
    words.into_iter().find_map(|(word, means)| {
        let rest = lower.strip_prefix(word)?;
        let ends = rest.is_empty()
            || rest.starts_with([',', '.', ';', ':', '!', '*'])
            || rest.trim_start().starts_with(['—', '–'])
            || rest.starts_with(" - ");
        ends.then_some(means)
    })
}

/// Without the beginning of a sentence that repeats the question: `It is called`, `The command is`.
fn without_lead(text: &str) -> &str {
    const LEADS: [&str; 6] = ["it is ", "it's ", "this is ", "that is ", "they are ", "that would be "];
    const VERBS: [&str; 4] = [" is ", " are ", " was ", " were "];
    const MORE: [&str; 8] =
        ["called ", "named ", "known as ", "about ", "approximately ", "roughly ", "exactly ", "just "];
    let lower = text.to_ascii_lowercase();
    let mut begin = LEADS.iter().find(|lead| lower.starts_with(**lead)).map_or(0, |lead| lead.len());
    if begin == 0 && ["the ", "its ", "your "].iter().any(|word| lower.starts_with(word)) {
        let verb = VERBS.iter().filter_map(|verb| lower.find(verb).map(|at| (at, at + verb.len()))).min();
        begin = verb.filter(|(at, _)| lower[..*at].split(' ').count() <= 5).map_or(0, |(_, end)| end);
    }
    while let Some(more) = MORE.iter().find(|more| lower[begin..].starts_with(**more)) {
        begin += more.len();
    }
    &text[begin..]
}

/// The piece between backticks, where there is one only and the sentence does not deny it.
fn code_span(text: &str) -> Option<&str> {
    let mut pieces = text.split('`');
    let (_, span, _) = (pieces.next()?, pieces.next()?, pieces.next()?);
    (pieces.next().is_none() && !span.trim().is_empty() && !denies(text)).then_some(span)
}

fn denies(text: &str) -> bool {
    let lower = text.to_lowercase().replace('’', "'");
    lower.contains("n't")
        || lower.split(|c: char| !c.is_alphanumeric()).any(|w| matches!(w, "not" | "never" | "cannot"))
}

/// The words of a short answer: no article, no quotes, no final punctuation, no empty call brackets, lower case.
fn short_key(text: &str) -> String {
    let mut key = folded(bare(text)).replace(['`', '"', '“', '”'], "");
    for article in ["the ", "an ", "a "] {
        if let Some(rest) = key.strip_prefix(article) {
            key = rest.to_owned();
            break;
        }
    }
    key.strip_suffix("()").map_or_else(|| key.clone(), str::to_owned)
}

/// Answers that are one answer.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub kind: AnswerKind,
    /// What they say, for people.
    pub label: String,
    /// Who says it, in order.
    pub members: Vec<usize>,
    key: String,
    value: Option<f64>,
    pub unit: Option<String>,
}

/// The answers by what they say, each in one group, groups in the order of their first answers. `shares` decide where a
/// number without a unit belongs if it was given with several.
pub(super) fn groups(query: &str, texts: &[&str], shares: &[f64]) -> Vec<Group> {
    let mut answers: Vec<CanonicalAnswer> = texts.iter().map(|text| CanonicalAnswer::of(text)).collect();
    if asks_for_a_number(query) {
        let asked = number::scan(query);
        for (answer, text) in answers.iter_mut().zip(texts) {
            if let Some(value) = the_number(answer, text, &asked) {
                *answer = CanonicalAnswer::of_number(value, None, 0);
            }
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    // Numbers with a unit first: those without join them.
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&index| answers[index].value.is_some() && answers[index].unit.is_none());
    for index in order {
        let answer = &answers[index];
        let weight = |group: &Group| group.members.iter().map(|&member| shares[member]).sum::<f64>();
        let home = groups
            .iter_mut()
            .filter(|group| belongs(answer, group))
            .reduce(|a, b| if weight(b) > weight(a) { b } else { a });
        match home {
            Some(group) => group.members.push(index),
            None => groups.push(Group {
                kind: answer.kind,
                label: [Some(answer.key.as_str()), answer.unit.as_deref()].map(Option::unwrap_or_default).join(" "),
                members: vec![index],
                key: answer.key.clone(),
                value: answer.value,
                unit: answer.unit.clone(),
            }),
        }
    }
    join_sentences(query, texts, &mut groups);
    for group in &mut groups {
        group.members.sort_unstable();
        group.label.truncate(group.label.trim_end().len());
    }
    groups.sort_by_key(|group| group.members[0]);
    groups
}

fn belongs(answer: &CanonicalAnswer, group: &Group) -> bool {
    match (answer.value, group.value) {
        (Some(a), Some(b)) => Number::same(a, b) && (answer.unit.is_none() || answer.unit == group.unit),
        (None, None) => answer.key == group.key,
        _ => false,
    }
}

fn asks_for_a_number(query: &str) -> bool {
    let lower = query.to_lowercase();
    ["how many", "how much", "what number", "what year", "which year", "how long", "how old", "calculate", "compute"]
        .iter()
        .any(|phrase| lower.contains(phrase))
}

/// The only number of a sentence that the question did not have already.
fn the_number(answer: &CanonicalAnswer, text: &str, asked: &[f64]) -> Option<f64> {
    if answer.kind == AnswerKind::Number || text.len() > SENTENCE_BYTES_MAX {
        return None;
    }
    match number::scan(text).into_iter().filter(|value| !asked.contains(value)).collect::<Vec<_>>()[..] {
        [value] => Some(value),
        _ => None,
    }
}

/// Lets sentences that nobody else said join the short answer that they contain: the only one, or the longest where one
/// is part of another. Not sentences that deny, and not answers that the question itself contains (`Is it A or B?`).
fn join_sentences(query: &str, texts: &[&str], groups: &mut Vec<Group>) {
    let query_words = words(query);
    let query_numbers = number::scan(query);
    let mut moves = Vec::new();
    for (from, group) in groups.iter().enumerate() {
        let &[member] = &group.members[..] else { continue };
        let text = texts[member];
        let sentence = matches!(group.kind, AnswerKind::Short | AnswerKind::Text);
        if !sentence || text.len() > SENTENCE_BYTES_MAX || denies(text) {
            continue;
        }
        let (text_words, text_numbers) = (words(text), number::scan(text));
        let says = |other: &Group| match (other.kind, other.value) {
            (AnswerKind::Number, Some(value)) => {
                let same = |x: &f64| Number::same(*x, value);
                text_numbers.iter().all(same) && !text_numbers.is_empty() && !query_numbers.iter().any(same)
            }
            (AnswerKind::Short, _) => {
                let key = words(&other.key);
                key.len() < text_words.len() && contains(&text_words, &key) && !contains(&query_words, &key)
            }
            _ => false,
        };
        let said: Vec<usize> = (0..groups.len()).filter(|&to| to != from && says(&groups[to])).collect();
        let longest = said.iter().copied().max_by_key(|&to| groups[to].key.len());
        let clear = |to: &usize| said.iter().all(|&part| contains(&words(&groups[*to].key), &words(&groups[part].key)));
        moves.extend(longest.filter(clear).map(|to| (from, to, member)));
    }
    // A sentence that others join stays where it is.
    let targets: Vec<usize> = moves.iter().map(|&(_, to, _)| to).collect();
    moves.retain(|(from, ..)| !targets.contains(from));
    for &(from, to, member) in &moves {
        groups[to].members.push(member);
        groups[from].members.clear();
    }
    groups.retain(|group| !group.members.is_empty());
}

fn words(text: &str) -> Vec<String> {
    let inside = |c: char| c.is_alphanumeric() || "_+#-./".contains(c);
    let word = |word: &str| word.trim_matches(['.', '-', '/']).to_lowercase();
    text.split(|c| !inside(c)).map(word).filter(|word| !word.is_empty()).collect()
}

fn contains(text: &[String], part: &[String]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: AnswerKind, key: &str, texts: &[&str]) {
        for text in texts {
            let answer = CanonicalAnswer::of(text);
            assert_eq!((answer.kind, answer.key.as_str()), (kind, key), "{text:?}");
        }
    }

    #[test]
    fn numbers() {
        let texts = ["1,024", "1024.0", "1.024e3", "It is 1024.", "**1024**", "The answer is 1,024 bytes.", "`1024`"];
        check(AnswerKind::Number, "1024", &texts);
        check(AnswerKind::Number, "-5", &["-5", "−5", "The result is -5.", "-5.00 °C"]);
        check(AnswerKind::Number, "0", &["0", "-0", "0.0"]);
        check(AnswerKind::Number, "42", &["6 * 7 gives the answer: 42", "\\boxed{42}", "So…\nit is 6·7.\n#### 42"]);
        check(AnswerKind::Short, "one thousand twenty-four", &["One thousand twenty-four"]);
        check(AnswerKind::Short, "3.11.2", &["3.11.2", "It is 3.11.2."]);
        check(AnswerKind::Short, "12:30", &["12:30"]);
        let unit = |text| CanonicalAnswer::of(text).unit;
        assert_eq!(unit("5 kilometres"), Some("kilometre".into()));
        assert_eq!((unit("50%"), unit("$ 5"), unit("5")), (Some("%".into()), Some("$".into()), None));
    }

    #[test]
    fn choices() {
        let texts = ["B", "b", "(b)", "B.", "Answer: B.", "the answer is B", "The answer is (B).", "**B**", "B) Paris"];
        check(AnswerKind::Choice, "b", &texts);
        check(
            AnswerKind::Choice,
            "b",
            &["B. Paris", "(b) Paris", "Option B", "B, because it is", "Answer: B. Paris it is"],
        );
        check(AnswerKind::Short, "big one", &["a big one", "Big one"]);
        check(AnswerKind::Short, "b-tree", &["B-tree", "a B-tree."]);
    }

    #[test]
    fn yes_and_no() {
        check(AnswerKind::YesNo, "yes", &["Yes", "yes.", "Yes, it does.", "**Yes** ", "Yeah!", "The answer is yes."]);
        check(AnswerKind::YesNo, "no", &["No", "No, never", "no — never", "No. It is not.", "Nope"]);
        check(AnswerKind::Short, "no module named x", &["No module named x"]);
    }

    #[test]
    fn short_answers() {
        let texts =
            ["sorted", "`sorted()`", "It is called `sorted`.", "The function is sorted.", "Sorted!", "“sorted”"];
        check(AnswerKind::Short, "sorted", &texts);
        check(AnswerKind::Short, "eiffel tower", &["The Eiffel Tower.", "eiffel  tower", "It's the Eiffel Tower"]);
        check(AnswerKind::Short, "ls -l", &["`ls -l`", "The command is `ls -l`.", "You can list them with `ls -l`."]);
        check(AnswerKind::Short, "c++", &["C++", "It is C++."]);
        assert_eq!(CanonicalAnswer::of("It is not `sorted` that you want.").key, "not sorted that you want");
        assert_eq!(CanonicalAnswer::of(&"long ".repeat(200)).kind, AnswerKind::Text);
        check(AnswerKind::Text, "", &["", "  \n"]);
    }

    fn sizes(query: &str, texts: &[&str]) -> Vec<Vec<usize>> {
        let shares = vec![1.0 / texts.len() as f64; texts.len()];
        groups(query, texts, &shares).into_iter().map(|group| group.members).collect()
    }

    #[test]
    fn units_are_stripped_when_equal() {
        assert_eq!(sizes("", &["5 km", "5", "5 km", "5 miles"]), [vec![0, 1, 2], vec![3]]);
        assert_eq!(sizes("", &["5", "6 km"]), [[0], [1]]);
    }

    #[test]
    fn sentences_join_the_short_answer_that_they_contain() {
        let question = "What is the capital of France?";
        assert_eq!(sizes(question, &["Paris is the capital of France.", "Paris", "Lyon"]), [vec![0, 1], vec![2]]);
        // Two answers in one sentence, or a denial: it stays by itself.
        assert_eq!(sizes(question, &["Not Paris", "Paris"]), [[0], [1]]);
        assert_eq!(sizes(question, &["Paris or perhaps it is Lyon", "Paris", "Lyon"]), [[0], [1], [2]]);
        // What the question itself offers is no evidence.
        let question = "Is a list or a tuple faster?";
        assert_eq!(sizes(question, &["A list is faster than a tuple", "tuple"]), [[0], [1]]);
        assert_eq!(sizes("Which command?", &["git", "Use git rebase for that", "git rebase"]), [vec![0], vec![1, 2]]);
        assert_eq!(sizes("How big?", &["It holds 1,024 of them", "1024"]), [[0, 1]]);
    }

    #[test]
    fn a_question_for_a_number_takes_the_only_new_one() {
        let question = "How many months are in 1 year?";
        assert_eq!(
            sizes(question, &["There are 12 months in 1 year.", "A year has 12 months.", "13"]),
            [vec![0, 1], vec![2]]
        );
        assert_eq!(sizes("Sort in Python 3", &["Python 3 has sorted for it", "In Python 3 call reversed"]).len(), 2);
    }
}
