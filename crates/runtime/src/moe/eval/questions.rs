//! Answers to questions whose answers can be checked: every expert alone, routed, by oracle, and every synthesis.

use serde::Deserialize;

use super::resample::{Interval, ratio};
use crate::error::{Error, Result};

/// Questions of one file.
const QUESTIONS_MAX: usize = 100_000;
/// Words that must agree, as F1 (counted with repeats, case and punctuation aside), for a text to be right.
const TEXT_F1_MIN: f64 = 0.9;

/// How an answer is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerCheck {
    /// One of the accepted words occurs in it as a whole word.
    Short,
    /// Its first capital letter A to D that stands alone is the accepted one.
    Choice,
    /// Its first number is the accepted one.
    Number,
    /// Its words are those of an accepted answer, to an F1 of 0.9.
    Text,
}

/// A question with answers that are right.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// The domain that it belongs to; no expert's domain for one that none should answer.
    pub label: String,
    /// What a right answer has: one of these is enough.
    pub accept: Vec<String>,
    /// How it is checked.
    pub kind: AnswerCheck,
}

/// Reads questions, a JSON object a line.
///
/// # Errors
/// With the line: what is no question, or has nothing that could be right.
pub fn parse_questions(text: &str, origin: &str) -> Result<Vec<Question>> {
    let bad = |line: usize, what: String| Error::SwarmFile {
        origin: origin.to_owned(),
        problem: format!("line {line}: {what}"),
    };
    let mut questions = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let question: Question = serde_json::from_str(line).map_err(|error| bad(i + 1, error.to_string()))?;
        if question.question.trim().is_empty() || question.accept.iter().all(|a| a.trim().is_empty()) {
            return Err(bad(i + 1, "a question needs a text and something to accept".into()));
        }
        if questions.len() >= QUESTIONS_MAX {
            return Err(bad(i + 1, format!("more than {QUESTIONS_MAX} questions")));
        }
        questions.push(question);
    }
    Ok(questions)
}

impl Question {
    /// Whether an answer is right.
    #[must_use]
    pub fn accepts(&self, answer: &str) -> bool {
        match self.kind {
            AnswerCheck::Short => self.accept.iter().any(|accepted| has_word(answer, accepted)),
            AnswerCheck::Choice => {
                let chosen = first_choice(answer);
                chosen.is_some_and(|letter| self.accept.iter().any(|a| a.trim().eq_ignore_ascii_case(letter)))
            }
            AnswerCheck::Number => {
                let found = first_number(answer);
                found.is_some_and(|n| self.accept.iter().any(|a| first_number(a) == Some(n)))
            }
            AnswerCheck::Text => self.accept.iter().any(|accepted| word_f1(answer, accepted) >= TEXT_F1_MIN),
        }
    }
}

/// Whether `word` occurs with no letter, digit or underscore on either side, in any case.
fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), word.trim().to_lowercase());
    let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    !word.is_empty()
        && text.match_indices(&word).any(|(at, found)| {
            !is_inside(text[..at].chars().next_back()) && !is_inside(text[at + found.len()..].chars().next())
        })
}

fn first_choice(text: &str) -> Option<&str> {
    let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(['A', 'B', 'C', 'D'])
        .find(|(at, letter)| {
            !is_inside(text[..*at].chars().next_back()) && !is_inside(text[at + letter.len()..].chars().next())
        })
        .map(|(_, letter)| letter)
}

fn first_number(text: &str) -> Option<f64> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let rest = &text[start..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(rest.len());
    let digits: String = rest[..end].trim_end_matches(['.', ',']).chars().filter(|&c| c != ',').collect();
    let number: f64 = digits.parse().ok()?;
    Some(if text[..start].ends_with('-') { -number } else { number })
}

/// The F1 of two texts' words.
fn word_f1(a: &str, b: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let mut words: Vec<String> = text
            .to_lowercase()
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        words.sort_unstable();
        words
    };
    let (a, b) = (words(a), words(b));
    let (mut i, mut j, mut common) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
        }
    }
    if a.len() + b.len() == 0 { 0.0 } else { 2.0 * f64::from(common) / (a.len() + b.len()) as f64 }
}

/// A way to answer, and how often it was right.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AnswerRow {
    /// What it is.
    pub system: String,
    /// The share of right answers.
    pub right: Interval,
    /// The share of right answers for each label, in the order of the table's labels.
    pub right_by_label: Vec<f64>,
    /// How much larger (or, below 0, smaller) the share is than the best single member's, over the same questions.
    pub above_best_member: Interval,
    /// Mean milliseconds for an answer.
    pub ms: f64,
    /// Answers that ended in an error.
    pub errors: usize,
}

/// All ways on one file of questions.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AnswerTable {
    /// The file.
    pub set: String,
    /// Questions asked.
    pub questions: usize,
    /// Their labels.
    pub labels: Vec<String>,
    /// The ways.
    pub rows: Vec<AnswerRow>,
}

/// One way's answers, before they are compared.
pub(super) struct Answered {
    pub system: String,
    pub member: bool,
    pub right: Vec<bool>,
    pub ms: f64,
    pub errors: usize,
}

/// Compares ways to answer the same questions.
pub(super) fn table(set: &str, questions: &[Question], answered: &[Answered]) -> AnswerTable {
    let mut labels: Vec<String> = questions.iter().map(|q| q.label.clone()).collect();
    labels.sort();
    labels.dedup();
    let score = |a: &Answered| a.right.iter().filter(|&&right| right).count();
    let best = answered.iter().filter(|a| a.member).max_by_key(|a| score(a)).map(|a| a.right.clone());
    let rows = answered
        .iter()
        .map(|a| {
            let case = |right: bool| (f64::from(u8::from(right)), 1.0);
            let by_label = |label: &String| {
                let of: Vec<bool> =
                    questions.iter().zip(&a.right).filter(|(q, _)| q.label == *label).map(|(_, &r)| r).collect();
                of.iter().filter(|&&right| right).count() as f64 / of.len().max(1) as f64
            };
            let differences: Vec<(f64, f64)> = match &best {
                Some(best) => a.right.iter().zip(best).map(|(&r, &b)| (case(r).0 - case(b).0, 1.0)).collect(),
                None => Vec::new(),
            };
            AnswerRow {
                system: a.system.clone(),
                right: ratio(&a.right.iter().map(|&right| case(right)).collect::<Vec<_>>()),
                right_by_label: labels.iter().map(by_label).collect(),
                above_best_member: ratio(&differences),
                ms: a.ms,
                errors: a.errors,
            }
        })
        .collect();
    AnswerTable { set: set.to_owned(), questions: questions.len(), labels, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_by_their_kind() {
        let check = |kind, accept: &[&str], answer: &str, expected: bool| {
            let accept = accept.iter().map(|a| (*a).to_owned()).collect();
            let question = Question { question: "?".into(), label: "x".into(), accept, kind };
            assert_eq!(question.accepts(answer), expected, "{kind:?} {answer}");
        };
        check(AnswerCheck::Short, &["ls"], "Use `ls`.", true);
        check(AnswerCheck::Short, &["ls", "dir"], "DIR lists it", true);
        check(AnswerCheck::Short, &["ls"], "false", false);
        check(AnswerCheck::Short, &["c++"], "It is C++.", true);
        check(AnswerCheck::Choice, &["B"], "The answer is B) because", true);
        check(AnswerCheck::Choice, &["B"], "A or B", false);
        check(AnswerCheck::Choice, &["B"], "Because", false);
        check(AnswerCheck::Number, &["16"], "It has 16 bits.", true);
        check(AnswerCheck::Number, &["1024"], "1,024.", true);
        check(AnswerCheck::Number, &["16"], "u16 has 15", true);
        check(AnswerCheck::Number, &["-1"], "it returns -1", true);
        check(AnswerCheck::Number, &["3"], "none", false);
        check(AnswerCheck::Text, &["Use `sorted(x)`."], "use sorted(x)", true);
        check(AnswerCheck::Text, &["Use `sorted(x)`."], "Use list.sort", false);
        check(AnswerCheck::Text, &["x"], "", false);
    }

    #[test]
    fn ways_are_compared_over_the_same_questions() {
        let question = |label: &str| Question {
            question: "?".into(),
            label: label.into(),
            accept: vec!["x".into()],
            kind: AnswerCheck::Short,
        };
        let questions = [question("a"), question("a"), question("b"), question("b")];
        let way = |system: &str, member, right: [bool; 4]| Answered {
            system: system.into(),
            member,
            right: right.to_vec(),
            ms: 1.0,
            errors: 0,
        };
        let ways = vec![
            way("one", true, [true, true, false, false]),
            way("two", true, [false, false, true, false]),
            way("routed", false, [true, true, true, false]),
        ];
        let table = table("set", &questions, &ways);
        assert_eq!(table.labels, ["a", "b"]);
        assert_eq!(table.rows[2].right.value, 0.75);
        assert_eq!(table.rows[2].right_by_label, [1.0, 0.5]);
        assert_eq!(table.rows[2].above_best_member.value, 0.25);
        assert_eq!(table.rows[0].above_best_member.value, 0.0);
        assert_eq!(table.rows[1].above_best_member.value, -0.25);
    }

    #[test]
    fn broken_questions_are_named_by_their_line() {
        let fine = "{\"question\":\"q\",\"label\":\"rust\",\"accept\":[\"a\"],\"kind\":\"short\"}\n";
        assert_eq!(parse_questions(fine, "f").unwrap().len(), 1);
        let check = |text: &str, says: &str| {
            let message = parse_questions(text, "f.jsonl").unwrap_err().to_string();
            assert!(message.contains("f.jsonl: line 2") && message.contains(says), "{message}");
        };
        check(&format!("{fine}nonsense"), "expected");
        check(&format!("{fine}{}", fine.replace("short", "long")), "long");
        check(&format!("{fine}{}", fine.replace("[\"a\"]", "[]")), "accept");
    }
}
