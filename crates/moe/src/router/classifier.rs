//! The classifier: whose example questions and terms a question resembles.
//!
//! For each hashed feature it keeps how often each expert's texts have it, in whole numbers, so that taking out what
//! was put in restores the state exactly, in any order. A question's score for expert `e` is a naive Bayes log
//! likelihood ratio against all experts' texts together, in nats:
//!
//! ```text
//! L(e) = Σ over features f of w(f) · [ ln(1 + share(e, f) / κ) - ln(1 + share(e) / κ) ]
//!   share(e, f) = count(e, f) / count(f)            how much of the feature is the expert's
//!   share(e)    = count(e) / count                  how much of everything (of that kind) is the expert's
//!   w(f)        = w(kind of f) · count(f) / (count(f) + β)        the less, the less often it was seen
//! ```
//!
//! It is the Dirichlet-smoothed unigram model of Zhai and Lafferty (2001) with κ times the collection as its prior
//! sample: free of scale, without a prior for larger experts, and 0 for a question that says nothing. The first term
//! vanishes where the expert lacks the feature, so a question costs as much as its features have owners. A feature of
//! more than [`FEATURE_EXPERTS_MAX`] experts is nobody's and passed over; of the others the rarest come first, until
//! [`POSTINGS_MAX`] owners were visited.
//!
//! It knows nothing of probabilities: `super::signals` makes numbers between experts of the scores.

use super::features::{KINDS, kind_of};
use super::words::HashTable;

/// Owners of features that one question visits at most, rarest features first.
pub const POSTINGS_MAX: usize = 8_192;

/// A feature of more experts than this speaks for none of them and is passed over.
pub const FEATURE_EXPERTS_MAX: usize = 64;

/// What one example question counts.
pub(super) const EXAMPLE_UNITS: i32 = 4;
/// What one text of the corpus counts.
pub(super) const CORPUS_UNITS: i32 = 1;

/// κ: the share below which being an owner says little.
const PRIOR_SHARE: f32 = 0.005;
/// β: so many units of a feature earn half of the trust in it.
const TRUST_UNITS: f32 = 8.0;
/// How much a feature of each kind (word, pair, piece, symbol) weighs.
const KIND_WEIGHTS: [f32; KINDS] = [1.0, 0.7, 0.25, 0.75];

/// How often one expert has a feature. Negative where feedback speaks against it; that counts as 0.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Posting {
    slot: u32,
    units: i32,
}

/// The owners of a feature.
#[derive(Clone, Debug, Default, PartialEq)]
struct Postings {
    /// The sum of all positive counts.
    units: u64,
    /// By slot, ascending.
    owners: Vec<Posting>,
}

impl Postings {
    /// How much the feature weighs.
    fn weight(&self, kind: usize) -> f32 {
        let units = self.units as f32;
        KIND_WEIGHTS[kind] * units / (units + TRUST_UNITS)
    }
}

/// What the classifier keeps of one expert.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Learned {
    /// Features that this expert has an entry of, in the order in which they came.
    features: Vec<u64>,
    /// The sum of its positive counts, by kind.
    units: [u64; KINDS],
}

impl Learned {
    /// The sum of its positive counts, by kind.
    pub fn units(&self) -> [f32; KINDS] {
        self.units.map(|units| units as f32)
    }

    /// Whether it has learned anything that speaks for it.
    pub fn is_empty(&self) -> bool {
        self.units.iter().all(|units| *units == 0)
    }
}

/// All experts' counts.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Classifier {
    features: HashTable<Postings>,
    units: [u64; KINDS],
}

/// What a question amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Weighed {
    /// The weight of the features whose owners were visited.
    pub visited: f32,
    /// The weight of the features that somebody has.
    pub known: f32,
    /// The weight of all.
    pub all: f32,
}

impl Classifier {
    /// Counts a text's features, `units` each; negative against the expert.
    pub fn learn(&mut self, slot: u32, learned: &mut Learned, features: &[u64], units: i32) {
        for feature in features {
            let kind = kind_of(*feature);
            let postings = self.features.entry(*feature).or_default();
            let at = match postings.owners.binary_search_by_key(&slot, |posting| posting.slot) {
                Ok(at) => at,
                Err(at) => {
                    postings.owners.insert(at, Posting { slot, units: 0 });
                    learned.features.push(*feature);
                    at
                }
            };
            let posting = &mut postings.owners[at];
            let before = posting.units.max(0) as u64;
            posting.units = posting.units.saturating_add(units);
            let after = posting.units.max(0) as u64;
            for sum in [&mut postings.units, &mut learned.units[kind], &mut self.units[kind]] {
                *sum = *sum + after - before;
            }
        }
    }

    /// Takes out all that an expert has learned.
    pub fn forget(&mut self, slot: u32, learned: &Learned) {
        for feature in &learned.features {
            let Some(postings) = self.features.get_mut(feature) else { continue };
            if let Ok(at) = postings.owners.binary_search_by_key(&slot, |posting| posting.slot) {
                postings.units -= postings.owners.remove(at).units.max(0) as u64;
            }
            if postings.owners.is_empty() {
                self.features.remove(feature);
            }
        }
        for (sum, units) in self.units.iter_mut().zip(learned.units) {
            *sum -= units;
        }
    }

    /// Adds to `scores` (`[slots]`) the sparse part of L for every expert that has one of the features, and notes those
    /// whose `scores` were 0 before in `touched`.
    ///
    /// [`norm`](Self::norm) gives what is then to be taken off.
    pub fn score(
        &self,
        features: &[u64],
        scores: &mut [f32],
        touched: &mut Vec<u32>,
        weights: &mut [f32; KINDS],
    ) -> Weighed {
        let mut weighed = Weighed::default();
        *weights = [0.0; KINDS];
        let order = self.to_visit(features, &mut weighed);
        for (_, feature, postings) in order {
            let kind = kind_of(feature);
            let weight = postings.weight(kind);
            weighed.visited += weight;
            weights[kind] += weight;
            let scale = 1.0 / (postings.units as f32 * PRIOR_SHARE);
            for posting in postings.owners.iter().filter(|posting| posting.units > 0) {
                let score = &mut scores[posting.slot as usize];
                if *score == 0.0 {
                    touched.push(posting.slot);
                }
                // Never 0, which would mean untouched.
                *score += (weight * ln_fast(1.0 + posting.units as f32 * scale)).max(1e-12);
            }
        }
        weighed
    }

    /// The features whose owners are visited, as (owners, feature, postings).
    fn to_visit(&self, features: &[u64], weighed: &mut Weighed) -> Vec<(u32, u64, &Postings)> {
        let mut order = Vec::with_capacity(features.len());
        let mut visits = 0;
        for feature in features {
            weighed.all += KIND_WEIGHTS[kind_of(*feature)];
            let Some(postings) = self.features.get(feature).filter(|postings| postings.units > 0) else { continue };
            weighed.known += postings.weight(kind_of(*feature));
            if postings.owners.len() > FEATURE_EXPERTS_MAX {
                continue;
            }
            visits += postings.owners.len();
            order.push((postings.owners.len() as u32, *feature, postings));
        }
        if visits > POSTINGS_MAX {
            order.sort_unstable_by_key(|(owners, feature, _)| (*owners, *feature));
            let mut left = POSTINGS_MAX;
            let fits = order.iter().take_while(|(owners, ..)| {
                left = left.saturating_sub(*owners as usize);
                left > 0
            });
            let fits = fits.count();
            order.truncate(fits);
        }
        order
    }

    /// What [`norm`](Self::norm) is for the mean of `experts` experts.
    pub fn mean_norm(experts: usize, weights: &[f32; KINDS]) -> f32 {
        weights.iter().sum::<f32>() * ln_fast(1.0 + 1.0 / (experts.max(1) as f32 * PRIOR_SHARE))
    }

    /// What is taken off the sparse part, for features that weigh `weights` by kind.
    pub fn norm(&self, learned: &Learned, weights: &[f32; KINDS]) -> f32 {
        Self::norm_of(&learned.units(), &self.norm_scales(), weights)
    }

    /// By kind, what a unit is of 1 / κ: for [`norm_of`](Self::norm_of).
    pub fn norm_scales(&self) -> [f32; KINDS] {
        self.units.map(|units| 1.0 / (units.max(1) as f32 * PRIOR_SHARE))
    }

    /// [`norm`](Self::norm) for an expert with so many units of each kind.
    pub fn norm_of(units: &[f32; KINDS], scales: &[f32; KINDS], weights: &[f32; KINDS]) -> f32 {
        (0..KINDS).map(|kind| weights[kind] * ln_fast(1.0 + units[kind] * scales[kind])).sum()
    }

    /// What one feature adds to an expert's L, norm included; `None` where the expert lacks it.
    pub fn contribution(&self, slot: u32, learned: &Learned, feature: u64) -> Option<f32> {
        let postings = self.features.get(&feature)?;
        let at = postings.owners.binary_search_by_key(&slot, |posting| posting.slot).ok()?;
        let units = postings.owners[at].units;
        if units <= 0 {
            return None;
        }
        let kind = kind_of(feature);
        let mut weights = [0.0; KINDS];
        weights[kind] = postings.weight(kind);
        let share = units as f32 / postings.units as f32;
        Some(weights[kind] * ln_fast(1.0 + share / PRIOR_SHARE) - self.norm(learned, &weights))
    }
}

/// The natural logarithm of a positive, finite, normal number, to 1e-5 absolute: a handful of operations without a
/// branch, and the same digits on every machine.
pub(super) fn ln_fast(x: f32) -> f32 {
    let bits = x.to_bits();
    // The exponent, and the mantissa moved to sqrt(1/2) .. sqrt(2), where the series converges fast.
    let exponent = (bits.wrapping_sub(0x3f35_04f3) as i32) >> 23;
    let mantissa = f32::from_bits(bits.wrapping_sub((exponent as u32) << 23));
    // ln m = 2 artanh((m - 1) / (m + 1)).
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let t2 = t * t;
    let series = t * (2.0 + t2 * (0.666_666_7 + t2 * (0.4 + t2 * 0.285_714_3)));
    exponent as f32 * std::f32::consts::LN_2 + series
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::features::extract;
    use super::super::words::Words;
    use super::*;

    fn features(text: &str) -> Vec<u64> {
        let mut features = Vec::new();
        extract(&Words::of(text), &mut features);
        features
    }

    /// A classifier that learned texts of (slot, text, units).
    fn trained(texts: &[(u32, &str, i32)]) -> (Classifier, Vec<Learned>) {
        let mut classifier = Classifier::default();
        let mut learned = vec![Learned::default(); 8];
        for (slot, text, units) in texts {
            classifier.learn(*slot, &mut learned[*slot as usize], &features(text), *units);
        }
        (classifier, learned)
    }

    fn scores(classifier: &Classifier, learned: &[Learned], text: &str) -> Vec<f32> {
        let mut scores = vec![0.0; learned.len()];
        let (mut touched, mut weights) = (Vec::new(), [0.0; KINDS]);
        classifier.score(&features(text), &mut scores, &mut touched, &mut weights);
        for slot in touched {
            scores[slot as usize] -= classifier.norm(&learned[slot as usize], &weights);
        }
        scores
    }

    #[test]
    fn the_logarithm_is_close() {
        for n in 1..200_000u32 {
            let x = 1e-3 * n as f32 * n as f32;
            assert!((ln_fast(x) - x.ln()).abs() < 1e-5 * (1.0 + x.ln().abs()), "ln {x}");
        }
        assert_eq!(ln_fast(1.0), 0.0);
    }

    #[test]
    fn a_score_is_the_formula() {
        let (classifier, learned) = trained(&[(0, "alpha beta", 4), (1, "alpha gamma", 4), (1, "gamma", 1)]);
        // Of "beta gamma": the words, the pair with nothing before "beta" (unknown), and no pieces of known words.
        let mut expected = [0.0f64; 2];
        for feature in features("beta gamma") {
            let Some(postings) = classifier.features.get(&feature) else { continue };
            let kind = kind_of(feature);
            for (slot, sum) in expected.iter_mut().enumerate() {
                let units = postings.owners.iter().find(|p| p.slot == slot as u32).map_or(0, |p| p.units);
                let share = f64::from(units) / postings.units as f64;
                let trust = postings.units as f64 / (postings.units as f64 + f64::from(TRUST_UNITS));
                let whole = learned[slot].units[kind] as f64 / classifier.units[kind] as f64;
                let prior = f64::from(PRIOR_SHARE);
                *sum +=
                    trust * f64::from(KIND_WEIGHTS[kind]) * ((1.0 + share / prior).ln() - (1.0 + whole / prior).ln());
            }
        }
        let found = scores(&classifier, &learned, "beta gamma");
        for slot in 0..2 {
            assert!((f64::from(found[slot]) - expected[slot]).abs() < 1e-4, "{found:?} {expected:?}");
        }
        assert_eq!(found[2], 0.0);
    }

    #[test]
    fn resemblance_decides_and_size_does_not() {
        let mut texts = vec![(0, "borrow checker lifetime", 4), (1, "list comprehension", 4)];
        texts.extend(std::iter::repeat_n((1, "generator expression tuple", 4), 50));
        let (classifier, learned) = trained(&texts);
        let found = scores(&classifier, &learned, "explain the borrow checker");
        assert!(found[0] > 1.0 && found[1] <= 0.0, "{found:?}");
        let found = scores(&classifier, &learned, "a list comprehension");
        assert!(found[1] > 0.0 && found[0] <= 0.0, "{found:?}");
    }

    #[test]
    fn features_of_many_are_passed_over() {
        let mut classifier = Classifier::default();
        let mut learned = vec![Learned::default(); FEATURE_EXPERTS_MAX + 1];
        for (slot, learned) in learned.iter_mut().enumerate() {
            classifier.learn(slot as u32, learned, &features("the of and"), 4);
        }
        classifier.learn(7, &mut learned[7], &features("zyx"), 4);
        let mut found = vec![0.0; learned.len()];
        let mut touched = Vec::new();
        let all = features("the of and zyx");
        let weighed = classifier.score(&all, &mut found, &mut touched, &mut [0.0; KINDS]);
        assert_eq!(touched, [7]);
        assert!(weighed.known > weighed.visited && weighed.all > weighed.known, "{weighed:?}");
    }

    #[test]
    fn at_most_so_many_owners_are_visited_and_the_rare_ones_first() {
        let (mut classifier, mut learned) = (Classifier::default(), vec![Learned::default(); FEATURE_EXPERTS_MAX]);
        let words: Vec<String> = (0..300).map(|n| format!("w{n}x")).collect();
        let common = features(&words.join(" "));
        for (slot, learned) in learned.iter_mut().enumerate() {
            classifier.learn(slot as u32, learned, &common, 4);
        }
        let rare = features("zyx");
        classifier.learn(7, &mut learned[7], &rare, 4);
        let all = features(&format!("{} zyx", words.join(" ")));
        let order = classifier.to_visit(&all, &mut Weighed::default());
        let visited: usize = order.iter().map(|(owners, ..)| *owners as usize).sum();
        assert!(visited < POSTINGS_MAX && visited > POSTINGS_MAX - 2 * FEATURE_EXPERTS_MAX, "{visited}");
        let is_visited = |rare: &u64| order.iter().any(|(owners, feature, _)| *owners == 1 && feature == rare);
        assert!(rare.iter().filter(|f| kind_of(**f) == 0).all(is_visited));
    }

    proptest! {
        #[test]
        fn forgetting_restores_the_state_exactly(
            kept in proptest::collection::vec(("[a-d ]{1,12}", -3..5i32), 0..6),
            gone in proptest::collection::vec(("[a-d ]{1,12}", -3..5i32), 0..6),
        ) {
            let mut classifier = Classifier::default();
            let (mut one, mut two) = (Learned::default(), Learned::default());
            for (text, units) in &kept {
                classifier.learn(0, &mut one, &features(text), *units);
            }
            let mut both = Classifier::default();
            let mut again = Learned::default();
            for (text, units) in &gone {
                both.learn(1, &mut two, &features(text), *units);
            }
            for (text, units) in &kept {
                both.learn(0, &mut again, &features(text), *units);
            }
            both.forget(1, &two);
            prop_assert_eq!(both, classifier);
            prop_assert_eq!(again, one);
        }

        #[test]
        fn the_order_of_learning_does_not_matter(
            texts in proptest::collection::vec((0..3u32, "[a-d ]{1,12}", -3..5i32), 0..8),
        ) {
            let forward: Vec<_> = texts.iter().map(|(s, t, u)| (*s, t.as_str(), *u)).collect();
            let backward: Vec<_> = forward.iter().rev().copied().collect();
            let ((a, la), (b, lb)) = (trained(&forward), trained(&backward));
            prop_assert_eq!(&a, &b);
            for (mut x, mut y) in la.into_iter().zip(lb) {
                x.features.sort_unstable();
                y.features.sort_unstable();
                prop_assert_eq!(x, y);
            }
        }
    }
}
