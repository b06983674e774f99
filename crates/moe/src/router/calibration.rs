//! Signals → one probability that means what it says.
//!
//! For each question and expert the stages give a handful of signals. A [`Curve`] turns them into a probability: a
//! weighted sum (log-odds `z`), then a monotone map of `z` that isotonic regression found on other questions than the
//! weights. There is a curve for each set of stages that have something on an expert, so a stage that did not run is
//! not taken for one that found nothing; the generalist, who is right when nobody else is, has curves of its own.
//!
//! Without calibration data the default curves stand in: logistic, with weights chosen by hand so that one keyword of a
//! single expert gives about 0.85, the same against a keyword of another expert about 0.5, and nothing at all about
//! 0.1.
//!
//! It knows nothing of text. Next: `super::fit`, which learns curves; `super::calibration_text`, which writes them.

/// The signals, in the order of [`Curve::weights`].
///
/// "Margin" is the difference to the largest value of any other expert; all are 0 where a stage has nothing on an
/// expert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Saturated keyword score, 0 to 1.
    Keyword = 0,
    /// Its margin.
    KeywordMargin = 1,
    /// Classifier log likelihood ratio over the root of the features' weight, at least 0.
    Class = 2,
    /// Its margin.
    ClassMargin = 3,
    /// The share of the question's features that the classifier knows, the same for all experts.
    Known = 4,
    /// Margin of the prompt's mean log probability per byte, times the root of the bytes, at most [`SIGNAL_MAX`] either
    /// way.
    Likelihood = 5,
    /// Cosine between question and centroid.
    Cosine = 6,
    /// Its margin.
    CosineMargin = 7,
}

/// How many signals there are.
pub const SIGNALS: usize = 8;

/// Signals are cut at this size.
pub const SIGNAL_MAX: f32 = 8.0;

/// The signals of one question and expert, indexed by [`Signal`].
pub(super) type Signals = [f32; SIGNALS];

/// A set of the stages that give signals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StageSet(u8);

impl StageSet {
    /// Keywords.
    pub const KEYWORDS: Self = Self(1);
    /// The classifier.
    pub const CLASSIFIER: Self = Self(2);
    /// Likelihood of the prompt.
    pub const LIKELIHOOD: Self = Self(4);
    /// Similarity of embeddings.
    pub const EMBEDDING: Self = Self(8);

    /// All, with their names.
    pub(super) const NAMED: [(Self, &'static str); 4] = [
        (Self::KEYWORDS, "keywords"),
        (Self::CLASSIFIER, "classifier"),
        (Self::LIKELIHOOD, "likelihood"),
        (Self::EMBEDDING, "embedding"),
    ];

    /// Those of both.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` are in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a signal belongs to one of the stages.
    pub(super) fn gives(self, signal: usize) -> bool {
        let stage = match signal {
            0 | 1 => Self::KEYWORDS,
            2..=4 => Self::CLASSIFIER,
            5 => Self::LIKELIHOOD,
            _ => Self::EMBEDDING,
        };
        self.contains(stage)
    }

    /// Every set, the empty one first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..16).map(Self)
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The names of the stages with `+` between; `none` for the empty set.
impl std::fmt::Display for StageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut between = "";
        for (stage, name) in Self::NAMED {
            if self.contains(stage) {
                write!(f, "{between}{name}")?;
                between = "+";
            }
        }
        if between.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// How much of a fitted probability is the plain logistic one: it keeps steps of the isotonic map apart.
const LOGISTIC_SHARE: f32 = 0.02;

/// How signals of one set of stages become a probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The stages that have something on the expert.
    pub stages: StageSet,
    /// Whether it is the generalist's.
    pub generalist: bool,
    /// Log-odds where all signals are 0.
    pub bias: f32,
    /// Log-odds for each signal, indexed by [`Signal`].
    pub weights: [f32; SIGNALS],
    /// The monotone map: log-odds, ascending, and probabilities, not descending; straight between and level outside.
    /// Without knots the map is the logistic function.
    pub knots: Vec<(f32, f32)>,
}

impl Curve {
    /// The weighted sum.
    pub(super) fn log_odds(&self, signals: &Signals) -> f32 {
        self.bias + self.weights.iter().zip(signals).map(|(weight, signal)| weight * signal).sum::<f32>()
    }

    /// The probability for log-odds `z`: never descending in `z`, above 0 and below 1. Not a number counts as 0.
    pub fn probability(&self, z: f32) -> f32 {
        let z = if z.is_nan() { 0.0 } else { z.clamp(-15.0, 15.0) };
        let logistic = 1.0 / (1.0 + (-z).exp());
        let (Some(first), Some(last)) = (self.knots.first(), self.knots.last()) else { return logistic };
        let above = self.knots.partition_point(|(at, _)| *at <= z);
        let mapped = if above == 0 {
            first.1
        } else if above == self.knots.len() {
            last.1
        } else {
            let ((z0, p0), (z1, p1)) = (self.knots[above - 1], self.knots[above]);
            // Never beyond the next knot, whatever rounding does.
            (p0 + (p1 - p0) * (z - z0) / (z1 - z0)).clamp(p0, p1)
        };
        (1.0 - LOGISTIC_SHARE) * mapped + LOGISTIC_SHARE * logistic
    }
}

/// How signals become probabilities: plain data, stored with the swarm.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// A curve for each set of stages that was seen. For others the default stands in, and where likelihood or
    /// embedding were not seen, the curve of the other stages with the default weights of these.
    pub curves: Vec<Curve>,
}

/// The documented default: logistic curves, see the module.
impl Default for Calibration {
    fn default() -> Self {
        Self { curves: Vec::new() }
    }
}

/// The default weights of an expert: see the module. Signals of likelihood and embedding are margins or near 0 without
/// evidence, so they need no bias of their own, but for the cosine.
const EXPERT_WEIGHTS: [f32; SIGNALS] = [4.5, 3.4, 0.0, 0.8, 0.0, 1.0, 2.0, 8.0];
/// The default weights of the generalist: only margins count, because it is right where others are not.
const GENERALIST_WEIGHTS: [f32; SIGNALS] = [0.0, 6.2, 0.0, 0.8, 0.0, 1.0, 0.0, 8.0];
const EXPERT_BIAS: f32 = -2.2;
const GENERALIST_BIAS: f32 = 1.4;

/// The default curve for a set of stages.
fn default_curve(stages: StageSet, generalist: bool) -> Curve {
    let (all, bias) = if generalist { (GENERALIST_WEIGHTS, GENERALIST_BIAS) } else { (EXPERT_WEIGHTS, EXPERT_BIAS) };
    let mut weights = [0.0; SIGNALS];
    for signal in (0..SIGNALS).filter(|signal| stages.gives(*signal)) {
        weights[signal] = all[signal];
    }
    Curve { stages, generalist, bias, weights, knots: Vec::new() }
}

/// A curve for every set of stages, ready to be looked up.
#[derive(Clone, Debug)]
pub(super) struct Curves(Vec<Curve>);

impl Curves {
    pub fn new(calibration: &Calibration) -> Self {
        let given = |stages: StageSet, generalist: bool| {
            calibration.curves.iter().find(|c| c.stages == stages && c.generalist == generalist).cloned()
        };
        let cheap = StageSet::KEYWORDS.with(StageSet::CLASSIFIER);
        let mut curves = Vec::new();
        for generalist in [false, true] {
            for stages in StageSet::all() {
                let curve = given(stages, generalist).or_else(|| {
                    let mut curve = given(stages.and(cheap), generalist)?;
                    let default = default_curve(stages, generalist);
                    for signal in [Signal::Likelihood, Signal::Cosine, Signal::CosineMargin].map(|s| s as usize) {
                        curve.weights[signal] = default.weights[signal];
                    }
                    Some(curve)
                });
                curves.push(curve.unwrap_or_else(|| default_curve(stages, generalist)));
            }
        }
        Self(curves)
    }

    pub fn of(&self, stages: StageSet, generalist: bool) -> &Curve {
        &self.0[usize::from(generalist) * 16 + stages.index()]
    }
}

impl Default for Curves {
    fn default() -> Self {
        Self::new(&Calibration::default())
    }
}

/// The expected calibration error: outcomes in ten bins of equal width by their probability, and the mean over outcomes
/// of the distance between a bin's mean probability and its share of hits (Naeini et al. 2015). 0 without outcomes;
/// probabilities that are not numbers count as 0, others are cut to 0 to 1.
pub fn expected_calibration_error(outcomes: &[(f32, bool)]) -> f32 {
    const BINS: usize = 10;
    let mut bins = [(0.0f64, 0.0f64); BINS];
    for (probability, hit) in outcomes {
        let p = if probability.is_nan() { 0.0 } else { f64::from(probability.clamp(0.0, 1.0)) };
        let bin = &mut bins[((p * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += p;
        bin.1 += f64::from(*hit);
    }
    // |Σp - Σhits| is count × |mean p - share of hits|.
    let apart: f64 = bins.iter().map(|(probability, hits)| (probability - hits).abs()).sum();
    (apart / outcomes.len().max(1) as f64) as f32
}
