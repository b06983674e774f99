//! A running estimate of how long something takes: mean and deviation, both exponentially averaged, as RFC 6298 does
//! for round trips.

/// The share of a new observation.
const GAIN: f64 = 0.25;
/// The deviation, as a share of the mean, as long as nothing better is known.
const FIRST_DEVIATION: f64 = 0.125;

/// How many deviations are added to a mean to be on the safe side.
pub(super) const DEVIATIONS: f64 = 2.0;

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) mean_ms: f64,
    /// Mean absolute deviation.
    pub(super) deviation_ms: f64,
    observed: bool,
}

impl Estimate {
    /// What somebody said; the first observation replaces it.
    pub(super) fn guess(ms: u64) -> Self {
        let mean_ms = ms as f64;
        Self { mean_ms, deviation_ms: mean_ms * FIRST_DEVIATION, observed: false }
    }

    /// The longest that it is likely to take.
    pub(super) fn latest_ms(&self) -> f64 {
        self.mean_ms + DEVIATIONS * self.deviation_ms
    }

    /// Whether it is more than a guess.
    pub(super) fn observed(&self) -> bool {
        self.observed
    }

    pub(super) fn observe(&mut self, ms: u64) {
        let ms = ms as f64;
        if self.observed {
            self.deviation_ms += GAIN * ((ms - self.mean_ms).abs() - self.deviation_ms);
            self.mean_ms += GAIN * (ms - self.mean_ms);
        } else {
            *self = Self { mean_ms: ms, deviation_ms: ms * FIRST_DEVIATION, observed: true };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Estimate;

    #[test]
    fn follows_what_is_observed() {
        let mut estimate = Estimate::guess(10);
        estimate.observe(1000);
        assert_eq!(estimate.mean_ms, 1000.0);
        for _ in 0..40 {
            estimate.observe(200);
        }
        assert!((estimate.mean_ms - 200.0).abs() < 1.0, "{estimate:?}");
        assert!(estimate.deviation_ms < 2.0, "{estimate:?}");
    }
}
