//! A [`Calibration`] as text: the TOML that [`Calibration::to_text`] writes, and no more of TOML than that.
//!
//! ```toml
//! version = 1
//!
//! [[curve]]
//! stages = "keywords+classifier"
//! generalist = false
//! bias = -2.5
//! weights = [3.5, 2.0, 0.5, 1.5, 0.0, 0.0, 0.0, 0.0]
//! knots = [[-3.0, 0.02], [0.5, 0.6], [4.0, 0.98]]
//! ```
//!
//! Weights are in the order of [`super::Signal`]. Next: [`super::calibration`], which says what the numbers mean.

use std::fmt::Write as _;

use super::calibration::{Calibration, Curve, SIGNALS, StageSet};
use crate::{Error, Result};

/// The longest text that is read, in bytes.
pub const CALIBRATION_BYTES_MAX: usize = 1 << 20;

/// The most knots of a curve.
pub const KNOTS_MAX: usize = 1024;

const VERSION: &str = "1";

fn broken<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Calibration(what.into()))
}

impl Calibration {
    /// Whether it is one: every number finite, knots ascending, probabilities within 0 to 1 and never descending, at
    /// most [`KNOTS_MAX`] knots, one curve for each set of stages and kind.
    ///
    /// # Errors
    /// [`Error::Calibration`], which names the curve.
    pub fn check(&self) -> Result<()> {
        for (at, curve) in self.curves.iter().enumerate() {
            let kind = if curve.generalist { "generalist's curve" } else { "curve" };
            let name = format!("the {kind} of {}", curve.stages);
            let twin = |other: &Curve| other.stages == curve.stages && other.generalist == curve.generalist;
            if self.curves[..at].iter().any(twin) {
                return broken(format!("{name} is there twice"));
            }
            let knots = curve.knots.iter().flat_map(|(z, p)| [z, p]);
            if !curve.weights.iter().chain([&curve.bias]).chain(knots).all(|number| number.is_finite()) {
                return broken(format!("{name} holds a number that is not finite"));
            }
            if !curve.knots.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
                return broken(format!("the knots of {name} do not ascend"));
            }
            if !curve.knots.iter().all(|(_, p)| (0.0..=1.0).contains(p)) {
                return broken(format!("{name} holds a probability that is not within 0 to 1"));
            }
            if curve.knots.len() > KNOTS_MAX {
                return broken(format!("{name} has {} knots, more than {KNOTS_MAX}", curve.knots.len()));
            }
        }
        Ok(())
    }

    /// As text; [`from_text`](Self::from_text) reads it back to the bit.
    pub fn to_text(&self) -> String {
        let mut text = format!("# How this swarm's router turns signals into probabilities.\nversion = {VERSION}\n");
        for curve in &self.curves {
            let numbers = |numbers: &[f32]| {
                let listed: Vec<String> = numbers.iter().map(|number| format!("{number:?}")).collect();
                format!("[{}]", listed.join(", "))
            };
            let knots: Vec<String> = curve.knots.iter().map(|(z, p)| numbers(&[*z, *p])).collect();
            let Curve { stages, generalist, bias, weights, .. } = curve;
            write!(
                text,
                "\n[[curve]]\nstages = \"{stages}\"\ngeneralist = {generalist}\nbias = {bias:?}\n\
                 weights = {}\nknots = [{}]\n",
                numbers(weights),
                knots.join(", "),
            )
            .expect("a String takes all that is written");
        }
        text
    }

    /// Reads what [`to_text`](Self::to_text) wrote: its keys on a line each, comments and empty lines between.
    ///
    /// # Errors
    /// [`Error::Calibration`] with the line, for anything else; what [`check`](Self::check) refuses is refused here.
    pub fn from_text(text: &str) -> Result<Self> {
        if text.len() > CALIBRATION_BYTES_MAX {
            return broken(format!("{} bytes of text, more than {CALIBRATION_BYTES_MAX}", text.len()));
        }
        let mut version = None;
        let mut drafts: Vec<Draft> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            let number = at + 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line == "[[curve]]" {
                drafts.push(Draft { line: number, ..Draft::default() });
                continue;
            }
            let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
                return broken(format!("line {number}: expected `key = value`"));
            };
            let set = match drafts.last_mut() {
                Some(draft) => draft.set(key, value),
                None if key == "version" => version.replace(value).is_none().then_some(()),
                None => None,
            };
            if set.is_none() {
                return broken(format!("line {number}: `{key}` is unknown, there already, or has no such value"));
            }
        }
        if version != Some(VERSION) {
            return broken(format!("`version` is {}, not {VERSION}", version.unwrap_or("missing")));
        }
        let curves: Result<_> = drafts.into_iter().map(Draft::finish).collect();
        let calibration = Self { curves: curves? };
        calibration.check()?;
        Ok(calibration)
    }
}

/// A curve of which not all keys were read yet.
#[derive(Debug, Default)]
struct Draft {
    line: usize,
    stages: Option<StageSet>,
    generalist: Option<bool>,
    bias: Option<f32>,
    weights: Option<[f32; SIGNALS]>,
    knots: Option<Vec<(f32, f32)>>,
}

impl Draft {
    /// `None` for a key that is unknown or was read before, and for a value that is none of its kind.
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
            place.replace(value).is_none().then_some(())
        }
        match key {
            "stages" => once(&mut self.stages, stages(value.strip_prefix('"')?.strip_suffix('"')?)?),
            "generalist" => once(&mut self.generalist, value.parse().ok()?),
            "bias" => once(&mut self.bias, value.parse().ok()?),
            "weights" => once(&mut self.weights, numbers(value)?.try_into().ok()?),
            "knots" => once(&mut self.knots, knots(value)?),
            _ => None,
        }
    }

    fn finish(self) -> Result<Curve> {
        let missing = || Error::Calibration(format!("line {}: the curve lacks a key", self.line));
        Ok(Curve {
            stages: self.stages.ok_or_else(missing)?,
            generalist: self.generalist.ok_or_else(missing)?,
            bias: self.bias.ok_or_else(missing)?,
            weights: self.weights.ok_or_else(missing)?,
            knots: self.knots.as_ref().ok_or_else(missing)?.clone(),
        })
    }
}

fn stages(names: &str) -> Option<StageSet> {
    if names == "none" {
        return Some(StageSet::default());
    }
    let mut set = StageSet::default();
    for name in names.split('+') {
        let (stage, _) = StageSet::NAMED.into_iter().find(|(_, known)| *known == name)?;
        set = set.with(stage);
    }
    Some(set)
}

fn numbers(list: &str) -> Option<Vec<f32>> {
    let inner = list.strip_prefix('[')?.strip_suffix(']')?;
    inner.split(',').map(|number| number.trim().parse().ok()).collect()
}

fn knots(list: &str) -> Option<Vec<(f32, f32)>> {
    let inner = list.strip_prefix('[')?.strip_suffix(']')?.trim();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let pairs = inner.strip_prefix('[')?.strip_suffix(']')?.split("],");
    pairs
        .map(|pair| {
            let (z, p) = pair.trim().trim_start_matches('[').split_once(',')?;
            Some((z.trim().parse().ok()?, p.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn curve(stages: StageSet, knots: Vec<(f32, f32)>) -> Curve {
        Curve { stages, generalist: true, bias: -0.5, weights: [1.0, 2.5, 0.0, 1e-9, 3e7, -4.0, 0.1, 8.0], knots }
    }

    #[test]
    fn what_is_written_is_read() {
        let both = StageSet::KEYWORDS.with(StageSet::CLASSIFIER);
        let calibration = Calibration {
            curves: vec![
                curve(StageSet::default(), vec![]),
                curve(StageSet::KEYWORDS, vec![(-1.25, 0.1)]),
                curve(both, vec![(-3.0, 0.0), (0.1, 0.3), (2.0, 0.3), (2.5, 1.0)]),
            ],
        };
        let text = calibration.to_text();
        assert_eq!(Calibration::from_text(&text), Ok(calibration), "{text}");
        assert_eq!(Calibration::from_text("version = 1"), Ok(Calibration::default()));
    }

    #[test]
    fn what_is_no_calibration_is_refused_with_its_place() {
        let good = Calibration { curves: vec![curve(StageSet::KEYWORDS, vec![(0.0, 0.5)])] }.to_text();
        let twice = format!("{good}{}", good.split_once("\n\n").unwrap().1);
        for (text, expected) in [
            (String::new(), "`version` is missing"),
            ("version = 2".to_owned(), "`version` is 2"),
            ("version = 1\nversion = 1".to_owned(), "line 2"),
            ("hello".to_owned(), "line 1"),
            (good.replace("bias = -0.5", "bias = much"), "line 7: `bias`"),
            (good.replace("bias = -0.5", "bias = NaN"), "not finite"),
            (good.replace("bias = -0.5\n", ""), "line 4: the curve lacks a key"),
            (good.replace("keywords", "feelings"), "line 5: `stages`"),
            (good.replace("[1.0, 2.5,", "[2.5,"), "line 8: `weights`"),
            (good.replace("[[0.0, 0.5]]", "[[0.0, 1.5]]"), "not within 0 to 1"),
            (good.replace("[[0.0, 0.5]]", "[[0.0, 0.5], [0.0, 0.6]]"), "do not ascend"),
            (good.replace("[[0.0, 0.5]]", "[[0.0, 0.5], [1.0, 0.4]]"), "do not ascend"),
            (twice, "twice"),
        ] {
            let error = Calibration::from_text(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\PC{0,20}\n){0,6}") {
            let _ = Calibration::from_text(&format!("version = 1\n[[curve]]\n{text}"));
        }

        #[test]
        fn any_value_is_read_or_refused(key in 0..5usize, value in "[\\[\\],0-9.e\"a-z+ -]{0,24}") {
            let key = ["stages", "generalist", "bias", "weights", "knots"][key];
            let _ = Calibration::from_text(&format!("version = 1\n[[curve]]\n{key} = {value}"));
        }
    }
}
