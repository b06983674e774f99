//! Bootstrap intervals: how much a figure would change with other texts or questions of the same kind
//! (Efron, 1979; percentile intervals).

/// Resamplings of an interval.
const RESAMPLINGS: usize = 2000;

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// The figure itself.
    pub value: f64,
    /// 2.5 % of the resamplings are below.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
}

/// The ratio of two sums over cases, `Σ top / Σ bottom`, with its interval over resampled cases. The same cases are drawn at
/// every call with as many of them, so that figures of one set of cases can be compared. NaN without cases.
pub(super) fn ratio(cases: &[(f64, f64)]) -> Interval {
    let of = |picked: &mut dyn Iterator<Item = usize>| {
        let (top, bottom) = picked.fold((0.0, 0.0), |(t, b), i| (t + cases[i].0, b + cases[i].1));
        top / bottom
    };
    let value = of(&mut (0..cases.len()));
    if cases.is_empty() {
        return Interval { value, low: value, high: value };
    }
    let mut random = SplitMix(7);
    let mut values: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| of(&mut (0..cases.len()).map(|_| random.below(cases.len())).collect::<Vec<_>>().into_iter()))
        .collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((RESAMPLINGS - 1) as f64 * share) as usize];
    Interval { value, low: at(0.025), high: at(0.975) }
}

/// splitmix64 (Steele, Lea and Flood, 2014).
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_statistics_says() {
        // 400 cases of mean 0.5 and standard deviation 0.5: the standard error is 0.025, the interval ±1.96 of it.
        let cases: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i % 2), 1.0)).collect();
        let Interval { value, low, high } = ratio(&cases);
        assert_eq!(value, 0.5);
        assert!((0.5 - low - 0.049).abs() < 0.006 && (high - 0.5 - 0.049).abs() < 0.006, "{low} {high}");
        // No spread, no interval; weights count.
        assert_eq!(ratio(&[(2.0, 4.0); 9]), Interval { value: 0.5, low: 0.5, high: 0.5 });
        assert_eq!(ratio(&[(1.0, 1.0), (0.0, 3.0)]).value, 0.25);
        assert!(ratio(&[]).value.is_nan());
    }
}
