//! Packers of the k-quants: the sub-blocks of a super-block side by side, eight to a group, one lane each.
//!
//! Three stages, each of which keeps the best that it has seen:
//! 1. Every sub-block gets the real-valued step and minimum that suit it best: a grid of ranges is rounded to, each rounding
//!    is answered by its weighted least-squares step and minimum, and the winner is rounded and fitted again.
//! 2. Half-precision super-scales are tried in pairs. What the whole-numbered steps and minimums cost under a pair is
//!    estimated from the sums of stage 1, without a look at the weights.
//! 3. Under the best pair the true error decides: steps and minimums walk to better neighbours, the weights being rounded
//!    anew for each, and the super-scales are fitted to the result by least squares. Walks from more than one pair lower
//!    the error too little for their time.
//!
//! Knows the ranges of the whole numbers; where their bits go is said at the bottom, one packer for each format.

use super::lanes::{TOO_SMALL_FOR_F16, at_least, at_most, capped_f16, inverse, largest_magnitude, round};
use crate::blocks::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, K_BLOCK_LEN};
use crate::half::F16;

/// Sub-blocks side by side. Eight single-precision numbers fill a register of AVX2.
const LANES: usize = 8;

/// One number for each sub-block of a group.
type Lanes = [f32; LANES];

/// The whole numbers of a format and the places where its search begins.
///
/// A weight is `step · quant - minimum`, where `step = scale · s` and `minimum = min_scale · m`.
trait Ranges {
    /// The smallest quant; negative in formats without minimums.
    const LOW: f32;
    /// The largest quant.
    const HIGH: f32;
    /// The smallest `s`.
    const STEP_LOW: f32;
    /// The largest `s`.
    const STEP_HIGH: f32;
    /// The largest `m`; zero in formats without minimums.
    const MIN_HIGH: f32;
    /// Stage 1. With minimums: which quants the smallest and the largest weight of the sub-block become before they are cut
    /// off to the range. Without: what the weight of largest magnitude becomes, and nothing.
    const STARTS: &'static [[f32; 2]];
    /// Stage 1: how often the winner is rounded and fitted again.
    const REFITS: usize;
    /// Stage 2: which `s` the sub-block with the largest step would get.
    const STEP_TOPS: &'static [f32];
    /// Stage 2: which `m` the sub-block with the largest minimum would get.
    const MIN_TOPS: &'static [f32];
    /// Stage 3: how often the steps walk and the super-scales are fitted.
    const ROUNDS: usize;
    /// Whether there are minimums.
    const AFFINE: bool = Self::MIN_HIGH > 0.0;
}

/// Eight sub-blocks; row `i` holds the weights `i` of all of them.
struct Group<const LEN: usize> {
    weights: [Lanes; LEN],
    importance: [Lanes; LEN],
    /// `Σ importance`.
    mass: Lanes,
    /// `Σ importance · weight`.
    sum: Lanes,
    /// `Σ importance · weight²`.
    power: Lanes,
}

/// Sums over the quants that a step and a minimum give.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// `Σ importance · quant`.
    quants: Lanes,
    /// `Σ importance · quant²`.
    squares: Lanes,
    /// `Σ importance · quant · weight`.
    products: Lanes,
}

/// The best real-valued steps and minimums of a group, the sums of the quants they were fitted to, and by how much they
/// lower the error below that of zeros.
#[derive(Clone, Copy, Default)]
struct Fit {
    steps: Lanes,
    mins: Lanes,
    gains: Lanes,
    sums: Sums,
}

/// Whole-numbered steps and minimums of a group, and the errors of its sub-blocks.
#[derive(Clone, Copy, Default)]
struct Choice {
    steps: Lanes,
    mins: Lanes,
    errors: Lanes,
}

/// What is stored: super-scales, and whole numbers by sub-block and weight. `quants` count from the smallest.
struct Packed {
    scale: F16,
    min_scale: F16,
    steps: [i8; 16],
    mins: [u8; 16],
    quants: [u8; K_BLOCK_LEN],
}

#[inline(always)]
fn fold(lanes: &Lanes) -> f32 {
    let [a, b, c, d, e, f, g, h] = *lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[inline(always)]
fn inverses(steps: &Lanes) -> Lanes {
    let mut inverses = [0.0; LANES];
    for lane in 0..LANES {
        inverses[lane] = inverse(steps[lane]);
    }
    inverses
}

#[inline(always)]
fn scaled(lanes: &Lanes, factor: f32) -> Lanes {
    let mut scaled = [0.0; LANES];
    for lane in 0..LANES {
        scaled[lane] = lanes[lane] * factor;
    }
    scaled
}

/// Every lane plus `change`, kept between `low` and `high`.
#[inline(always)]
fn moved(lanes: &Lanes, change: f32, low: f32, high: f32) -> Lanes {
    let mut moved = [0.0; LANES];
    for lane in 0..LANES {
        moved[lane] = at_most(at_least(lanes[lane] + change, low), high);
    }
    moved
}

#[inline(always)]
fn select(condition: bool, yes: f32, no: f32) -> f32 {
    if condition { yes } else { no }
}

impl<const LEN: usize> Group<LEN> {
    const EMPTY: Self = Self {
        weights: [[0.0; LANES]; LEN],
        importance: [[1.0; LANES]; LEN],
        mass: [0.0; LANES],
        sum: [0.0; LANES],
        power: [0.0; LANES],
    };

    /// An empty group takes its weights, sub-block after sub-block.
    #[inline(always)]
    fn fill(&mut self, weights: &[f32], importance: Option<&[f32]>) {
        for lane in 0..LANES {
            for i in 0..LEN {
                self.weights[i][lane] = weights[lane * LEN + i];
            }
        }
        if let Some(importance) = importance {
            for lane in 0..LANES {
                for i in 0..LEN {
                    self.importance[i][lane] = importance[lane * LEN + i];
                }
            }
        }
        for i in 0..LEN {
            let (weights, importance) = (&self.weights[i], &self.importance[i]);
            for lane in 0..LANES {
                let weighted = importance[lane] * weights[lane];
                self.mass[lane] += importance[lane];
                self.sum[lane] += weighted;
                self.power[lane] += weighted * weights[lane];
            }
        }
    }

    /// Sums of the quants that `(weight + min) · inverse` rounds to.
    #[inline(always)]
    fn sums<R: Ranges>(&self, inverses: &Lanes, mins: &Lanes) -> Sums {
        let (mut quants, mut squares, mut products) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for i in 0..LEN {
            let (weights, importance) = (&self.weights[i], &self.importance[i]);
            for lane in 0..LANES {
                let quant = quant::<R>(weights[lane], inverses[lane], mins[lane]);
                let weighted = importance[lane] * quant;
                if R::AFFINE {
                    quants[lane] += weighted;
                }
                squares[lane] += weighted * quant;
                products[lane] += weighted * weights[lane];
            }
        }
        Sums { quants, squares, products }
    }

    /// The true errors of what decodes to `step · quant - min`.
    #[inline(always)]
    fn errors<R: Ranges>(&self, steps: &Lanes, mins: &Lanes) -> Lanes {
        let inverses = inverses(steps);
        let mut errors = [0.0; LANES];
        for i in 0..LEN {
            let (weights, importance) = (&self.weights[i], &self.importance[i]);
            for lane in 0..LANES {
                let quant = quant::<R>(weights[lane], inverses[lane], mins[lane]);
                let decoded = if R::AFFINE { steps[lane] * quant - mins[lane] } else { steps[lane] * quant };
                let error = weights[lane] - decoded;
                errors[lane] += importance[lane] * error * error;
            }
        }
        errors
    }

    /// Fits steps and minimums to quants by weighted least squares, and keeps them where they beat `best`.
    #[inline(always)]
    fn improve<R: Ranges>(&self, sums: &Sums, best: &mut Fit) {
        for lane in 0..LANES {
            let (quants, squares, products) = (sums.quants[lane], sums.squares[lane], sums.products[lane]);
            // The best step without a minimum.
            let mut step = products / squares;
            let mut min = 0.0;
            let mut gain = step * products;
            if R::AFFINE {
                let (mass, sum) = (self.mass[lane], self.sum[lane]);
                let determinant = mass * squares - quants * quants;
                let over = 1.0 / determinant;
                let both = (mass * products - sum * quants) * over;
                let negative = (quants * products - squares * sum) * over;
                // Equal quants leave the two undetermined, and what is then left of the determinant is noise.
                let free = determinant > 1e-5 * mass * squares && negative > 0.0;
                step = select(free, both, step);
                min = select(free, negative, min);
                gain = select(free, both * products - negative * sum, gain);
            }
            // Not so when all quants are zero, which makes the quotient NaN.
            let better = gain > best.gains[lane] && (!R::AFFINE || step > 0.0);
            best.steps[lane] = select(better, step, best.steps[lane]);
            best.mins[lane] = select(better, min, best.mins[lane]);
            best.gains[lane] = select(better, gain, best.gains[lane]);
            best.sums.quants[lane] = select(better, quants, best.sums.quants[lane]);
            best.sums.squares[lane] = select(better, squares, best.sums.squares[lane]);
            best.sums.products[lane] = select(better, products, best.sums.products[lane]);
        }
    }

    /// Stage 1.
    #[inline(always)]
    fn fit<R: Ranges>(&self) -> Fit {
        let mut best = Fit::default();
        let (mut low, mut high) = ([0.0f32; LANES], [f32::MIN; LANES]);
        for weights in &self.weights {
            for lane in 0..LANES {
                low[lane] = at_most(weights[lane], low[lane]);
                high[lane] = at_least(weights[lane], high[lane]);
            }
        }
        if R::AFFINE {
            // Nothing but a minimum.
            for lane in 0..LANES {
                best.mins[lane] = at_least(-self.sum[lane] / self.mass[lane], 0.0);
                best.gains[lane] = -best.mins[lane] * self.sum[lane];
            }
        }
        for &[first, last] in R::STARTS {
            let (mut inverses, mut mins) = ([0.0; LANES], [0.0; LANES]);
            for lane in 0..LANES {
                if R::AFFINE {
                    let range = high[lane] - low[lane];
                    let step = range * (1.0 / (last - first));
                    inverses[lane] = select(range > 0.0, (last - first) / range, 0.0);
                    mins[lane] = at_least(-low[lane] + first * step, 0.0);
                } else {
                    let largest = select(high[lane] > -low[lane], high[lane], low[lane]);
                    inverses[lane] = select(largest == 0.0, 0.0, first / largest);
                }
            }
            self.improve::<R>(&self.sums::<R>(&inverses, &mins), &mut best);
        }
        for _ in 0..R::REFITS {
            let sums = self.sums::<R>(&inverses(&best.steps), &best.mins);
            self.improve::<R>(&sums, &mut best);
        }
        best
    }

    /// Whole numbers under given super-scales for `fit`, by the shape of the error around it: the steps below and above,
    /// each with its own best minimum. The errors are what they add to that of `fit`.
    #[inline(always)]
    fn estimate<R: Ranges>(&self, fit: &Fit, scale: f32, min_scale: f32) -> Choice {
        let (over, min_over) = (inverse(scale), inverse(min_scale));
        let mut best = Choice::default();
        for lane in 0..LANES {
            let (mass, quants, squares) = (self.mass[lane], fit.sums.quants[lane], fit.sums.squares[lane]);
            let nearest = round(fit.steps[lane] * over);
            let other = nearest + select(fit.steps[lane] * over > nearest, 1.0, -1.0);
            let mut kept = f32::INFINITY;
            for step in [nearest, other] {
                let step = at_most(at_least(step, R::STEP_LOW), R::STEP_HIGH);
                let change = step * scale - fit.steps[lane];
                let mut error = change * change * squares;
                let mut min = 0.0;
                if R::AFFINE {
                    let wanted = fit.mins[lane] + change * quants / mass;
                    min = at_most(at_least(round(wanted * min_over), 0.0), R::MIN_HIGH);
                    let min_change = min * min_scale - fit.mins[lane];
                    error += min_change * (min_change * mass - 2.0 * change * quants);
                }
                let better = error < kept;
                kept = select(better, error, kept);
                best.steps[lane] = select(better, step, best.steps[lane]);
                best.mins[lane] = select(better, min, best.mins[lane]);
            }
            best.errors[lane] = kept;
        }
        best
    }

    /// Keeps `steps` and `mins` where they beat `best`; whether they did anywhere.
    #[inline(always)]
    fn keep_better<R: Ranges>(&self, scale: f32, min_scale: f32, steps: Lanes, mins: Lanes, best: &mut Choice) -> bool {
        let errors = self.errors::<R>(&scaled(&steps, scale), &scaled(&mins, min_scale));
        let mut any = false;
        for lane in 0..LANES {
            let better = errors[lane] < best.errors[lane];
            best.steps[lane] = select(better, steps[lane], best.steps[lane]);
            best.mins[lane] = select(better, mins[lane], best.mins[lane]);
            best.errors[lane] = select(better, errors[lane], best.errors[lane]);
            any |= better;
        }
        any
    }

    /// One move of all sub-blocks to their best neighbours; whether any moved.
    #[inline(always)]
    fn walk<R: Ranges>(&self, scale: f32, min_scale: f32, best: &mut Choice) -> bool {
        let from = *best;
        let mut any = false;
        let reach = i32::from(R::AFFINE);
        for min_move in -reach..=reach {
            for step_move in -1..=1 {
                if (step_move, min_move) == (0, 0) {
                    continue;
                }
                let steps = moved(&from.steps, step_move as f32, R::STEP_LOW, R::STEP_HIGH);
                let mins = moved(&from.mins, min_move as f32, 0.0, R::MIN_HIGH);
                any |= self.keep_better::<R>(scale, min_scale, steps, mins, best);
            }
        }
        any
    }
}

/// The quant nearest to `(weight + min) · inverse`.
#[inline(always)]
fn quant<R: Ranges>(weight: f32, inverse: f32, min: f32) -> f32 {
    let value = if R::AFFINE { (weight + min) * inverse } else { weight * inverse };
    round(at_most(at_least(value, R::LOW), R::HIGH))
}

/// Stage 2: the pair of super-scales with the least estimated error.
#[inline(always)]
fn super_scales<R: Ranges, const LEN: usize, const GROUPS: usize>(
    groups: &[Group<LEN>; GROUPS],
    fits: &[Fit; GROUPS],
    (largest_step, largest_min): (f32, f32),
) -> (f32, f32) {
    let mut best = (0.0, 0.0);
    let mut least = f32::INFINITY;
    for &top in R::STEP_TOPS {
        let scale = capped_f16(largest_step / top).to_f32();
        for &min_top in R::MIN_TOPS {
            let min_scale = if R::AFFINE { capped_f16(largest_min / min_top).to_f32() } else { 0.0 };
            let mut error = 0.0;
            for g in 0..GROUPS {
                error += fold(&groups[g].estimate::<R>(&fits[g], scale, min_scale).errors);
            }
            if error < least {
                (least, best) = (error, (scale, min_scale));
            }
        }
    }
    best
}

/// The super-scales that fit given whole numbers best, by least squares; unchanged where they are undetermined.
#[inline(always)]
fn refit<R: Ranges, const LEN: usize, const GROUPS: usize>(
    groups: &[Group<LEN>; GROUPS],
    choices: &[Choice; GROUPS],
    (scale, min_scale): (f32, f32),
) -> (f32, f32) {
    // With the weights x, the normal equations of x = scale · (s q) - min_scale · m.
    let (mut ss, mut sm, mut mm, mut sx, mut mx) =
        ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for (group, choice) in groups.iter().zip(choices) {
        let sums = group.sums::<R>(&inverses(&scaled(&choice.steps, scale)), &scaled(&choice.mins, min_scale));
        for lane in 0..LANES {
            let (step, min) = (choice.steps[lane], choice.mins[lane]);
            ss[lane] += step * step * sums.squares[lane];
            sx[lane] += step * sums.products[lane];
            sm[lane] += step * min * sums.quants[lane];
            mm[lane] += min * min * group.mass[lane];
            mx[lane] += min * group.sum[lane];
        }
    }
    let (ss, sm, mm) = (f64::from(fold(&ss)), f64::from(fold(&sm)), f64::from(fold(&mm)));
    let (sx, mx) = (f64::from(fold(&sx)), f64::from(fold(&mx)));
    let determinant = ss * mm - sm * sm;
    let (new, new_min) = if R::AFFINE && determinant > 1e-5 * ss * mm {
        ((sx * mm - sm * mx) / determinant, (sm * sx - ss * mx) / determinant)
    } else if ss > 0.0 {
        ((sx + f64::from(min_scale) * sm) / ss, f64::from(min_scale))
    } else {
        (f64::from(scale), f64::from(min_scale))
    };
    (usable::<R>(new as f32, scale), usable::<R>(new_min as f32, min_scale))
}

/// A super-scale as it is stored, or the `old` one where the new cannot be.
#[inline(always)]
fn usable<R: Ranges>(new: f32, old: f32) -> f32 {
    let new = F16::from_f32(new).to_f32();
    if new.is_finite() && (!R::AFFINE || new >= 0.0) { new } else { old }
}

#[inline(always)]
fn total<const GROUPS: usize>(choices: &[Choice; GROUPS]) -> f32 {
    let mut sum = 0.0;
    for choice in choices {
        sum += fold(&choice.errors);
    }
    sum
}

/// Stage 3: from these super-scales to better ones, and the whole numbers under them.
#[inline(always)]
fn settle<R: Ranges, const LEN: usize, const GROUPS: usize>(
    groups: &[Group<LEN>; GROUPS],
    fits: &[Fit; GROUPS],
    mut scales: (f32, f32),
) -> ((f32, f32), [Choice; GROUPS]) {
    let mut choices = [Choice::default(); GROUPS];
    for g in 0..GROUPS {
        // Zeros are always possible.
        choices[g].errors = groups[g].power;
        let start = groups[g].estimate::<R>(&fits[g], scales.0, scales.1);
        groups[g].keep_better::<R>(scales.0, scales.1, start.steps, start.mins, &mut choices[g]);
    }
    for _ in 0..R::ROUNDS {
        let mut moved = false;
        for (group, choice) in groups.iter().zip(&mut choices) {
            moved |= group.walk::<R>(scales.0, scales.1, choice);
        }
        let new = refit::<R, LEN, GROUPS>(groups, &choices, scales);
        if new != scales {
            let mut fitted = choices;
            for g in 0..GROUPS {
                let (steps, mins) = (scaled(&choices[g].steps, new.0), scaled(&choices[g].mins, new.1));
                fitted[g].errors = groups[g].errors::<R>(&steps, &mins);
            }
            if total(&fitted) < total(&choices) {
                (choices, scales, moved) = (fitted, new, true);
            }
        }
        if !moved {
            break;
        }
    }
    (scales, choices)
}

/// Whether super-scales in half precision reach this step and minimum.
#[inline(always)]
fn reaches<R: Ranges>(step: f32, min: f32) -> bool {
    let scale = F16::from_f32(step / at_least(R::STEP_HIGH, -R::STEP_LOW));
    let min_scale = if R::AFFINE { F16::from_f32(min / R::MIN_HIGH) } else { F16(0) };
    scale.to_f32().is_finite() && min_scale.to_f32().is_finite()
}

/// Whether they reach the smallest and the largest weight of each sub-block.
#[inline(never)]
fn reaches_ends<R: Ranges>(weights: &[f32; K_BLOCK_LEN], sub_block: usize) -> bool {
    weights.chunks_exact(sub_block).all(|weights| {
        let low = weights.iter().copied().fold(0.0, f32::min);
        let high = weights.iter().copied().fold(f32::MIN, f32::max);
        if R::AFFINE { reaches::<R>((high - low) / R::HIGH, -low) } else { reaches::<R>(high.max(-low) / -R::LOW, 0.0) }
    })
}

/// All three stages.
///
/// # Errors
/// The index of the first weight that is not finite, or of the largest when a super-scale overflows.
#[inline(always)]
fn pack<R: Ranges, const LEN: usize, const GROUPS: usize>(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<Packed, usize> {
    const { assert!(LEN * GROUPS * LANES == K_BLOCK_LEN) };
    let largest = largest_magnitude(weights)?;
    let magnitude = weights[largest].abs();
    let zero = R::LOW.abs() as u8;
    let mut packed =
        Packed { scale: F16(0), min_scale: F16(0), steps: [0; 16], mins: [0; 16], quants: [zero; K_BLOCK_LEN] };
    if magnitude < TOO_SMALL_FOR_F16 {
        return Ok(packed);
    }
    // Far from what fits, squares overflow; what is just too large is found out below.
    if magnitude > 65_504.0 * 128.0 * 64.0 {
        return Err(largest);
    }
    let mut groups = [const { Group::<LEN>::EMPTY }; GROUPS];
    let mut fits = [Fit::default(); GROUPS];
    for g in 0..GROUPS {
        let range = g * LEN * LANES..(g + 1) * LEN * LANES;
        let importance = importance.map(|values| &values[range.clone()]);
        groups[g].fill(&weights[range], importance);
        fits[g] = groups[g].fit::<R>();
    }
    let (mut largest_step, mut largest_min) = (0.0f32, 0.0f32);
    for fit in &fits {
        for lane in 0..LANES {
            largest_step = select(fit.steps[lane].abs() > largest_step.abs(), fit.steps[lane], largest_step);
            largest_min = at_least(fit.mins[lane], largest_min);
        }
    }
    // A fit may go beyond what the range of the weights asks for: it is cut off then.
    if !reaches::<R>(largest_step, largest_min) && !reaches_ends::<R>(weights, LEN) {
        return Err(largest);
    }
    let scales = super_scales::<R, LEN, GROUPS>(&groups, &fits, (largest_step, largest_min));
    let ((scale, min_scale), choices) = settle::<R, LEN, GROUPS>(&groups, &fits, scales);
    packed.scale = F16::from_f32(scale);
    packed.min_scale = F16::from_f32(min_scale);
    for (g, (group, choice)) in groups.iter().zip(&choices).enumerate() {
        let inverses = inverses(&scaled(&choice.steps, scale));
        let mins = scaled(&choice.mins, min_scale);
        for lane in 0..LANES {
            packed.steps[g * LANES + lane] = choice.steps[lane] as i8;
            packed.mins[g * LANES + lane] = choice.mins[lane] as u8;
            let quants = &mut packed.quants[(g * LANES + lane) * LEN..][..LEN];
            for (row, stored) in quants.iter_mut().enumerate() {
                *stored = (quant::<R>(group.weights[row][lane], inverses[lane], mins[lane]) - R::LOW) as u8;
            }
        }
    }
    Ok(packed)
}

/// `A · B` starts: every `first` with every `last`.
const fn grid<const A: usize, const B: usize, const N: usize>(firsts: [f32; A], lasts: [f32; B]) -> [[f32; 2]; N] {
    assert!(A * B == N);
    let mut starts = [[0.0; 2]; N];
    let mut i = 0;
    while i < N {
        starts[i] = [firsts[i / B], lasts[i % B]];
        i += 1;
    }
    starts
}

/// `N` numbers, evenly spaced.
const fn evenly<const N: usize>(from: f32, to: f32) -> [f32; N] {
    let mut values = [from; N];
    let mut i = 0;
    while i < N {
        values[i] = from + (to - from) * i as f32 / (N - 1) as f32;
        i += 1;
    }
    values
}

/// Starts of formats without minimums: evenly spaced for either sign of the step.
const fn both_signs<const N: usize>(negative: (f32, f32), positive: (f32, f32)) -> [[f32; 2]; N] {
    let mut starts = [[0.0; 2]; N];
    let mut i = 0;
    while i < N {
        let (from, to) = if i % 2 == 0 { negative } else { positive };
        starts[i] = [from + (to - from) * (i / 2) as f32 / (N / 2 - 1) as f32, 0.0];
        i += 1;
    }
    starts
}

/// Both lists.
const fn joined<T: Copy, const A: usize, const B: usize, const N: usize>(first: [T; A], second: [T; B]) -> [T; N] {
    assert!(A + B == N);
    let mut values = [first[0]; N];
    let mut i = 0;
    while i < N {
        values[i] = if i < A { first[i] } else { second[i - A] };
        i += 1;
    }
    values
}

// Ranges of bell-shaped weights are cut off a little, or not quite used. The one start more that
// Q2_K has puts the middle of the range on a level, for weights of three values.

struct RangesQ2K;
impl Ranges for RangesQ2K {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 3.0;
    const STEP_LOW: f32 = 0.0;
    const STEP_HIGH: f32 = 15.0;
    const MIN_HIGH: f32 = 15.0;
    const STARTS: &'static [[f32; 2]] =
        &joined::<_, 20, 1, 21>(grid::<4, 5, 20>(evenly(-0.8, 0.3), evenly(2.6, 4.0)), [[0.0, 2.0]]);
    const REFITS: usize = 2;
    const STEP_TOPS: &'static [f32] = &evenly::<10>(9.0, 18.0);
    const MIN_TOPS: &'static [f32] = &evenly::<10>(9.0, 18.0);
    const ROUNDS: usize = 3;
}

struct RangesQ3K;
impl Ranges for RangesQ3K {
    const LOW: f32 = -4.0;
    const HIGH: f32 = 3.0;
    const STEP_LOW: f32 = -32.0;
    const STEP_HIGH: f32 = 31.0;
    const MIN_HIGH: f32 = 0.0;
    const STARTS: &'static [[f32; 2]] = &both_signs::<14>((-5.5, -3.0), (4.5, 2.4));
    const REFITS: usize = 1;
    const STEP_TOPS: &'static [f32] = &joined::<_, 16, 16, 32>(evenly(-34.0, -22.0), evenly(33.0, 21.0));
    const MIN_TOPS: &'static [f32] = &[1.0];
    const ROUNDS: usize = 2;
}

struct RangesQ4K;
impl Ranges for RangesQ4K {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 15.0;
    const STEP_LOW: f32 = 0.0;
    const STEP_HIGH: f32 = 63.0;
    const MIN_HIGH: f32 = 63.0;
    const STARTS: &'static [[f32; 2]] = &grid::<5, 6, 30>(evenly(-0.7, 0.6), evenly(14.4, 15.8));
    const REFITS: usize = 2;
    const STEP_TOPS: &'static [f32] = &evenly::<12>(63.0, 49.0);
    const MIN_TOPS: &'static [f32] = &evenly::<12>(63.0, 49.0);
    const ROUNDS: usize = 2;
}

struct RangesQ5K;
impl Ranges for RangesQ5K {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 31.0;
    const STEP_LOW: f32 = 0.0;
    const STEP_HIGH: f32 = 63.0;
    const MIN_HIGH: f32 = 63.0;
    const STARTS: &'static [[f32; 2]] = &grid::<5, 6, 30>(evenly(-0.7, 0.6), evenly(30.4, 31.8));
    const REFITS: usize = 2;
    const STEP_TOPS: &'static [f32] = &evenly::<12>(63.0, 49.0);
    const MIN_TOPS: &'static [f32] = &evenly::<12>(63.0, 49.0);
    const ROUNDS: usize = 2;
}

struct RangesQ6K;
impl Ranges for RangesQ6K {
    const LOW: f32 = -32.0;
    const HIGH: f32 = 31.0;
    const STEP_LOW: f32 = -128.0;
    const STEP_HIGH: f32 = 127.0;
    const MIN_HIGH: f32 = 0.0;
    const STARTS: &'static [[f32; 2]] = &both_signs::<20>((-33.5, -28.0), (32.5, 27.0));
    const REFITS: usize = 1;
    const STEP_TOPS: &'static [f32] = &joined::<_, 16, 16, 32>(evenly(-129.0, -100.0), evenly(128.0, 99.0));
    const MIN_TOPS: &'static [f32] = &[1.0];
    const ROUNDS: usize = 2;
}

/// Packs 256 weights.
///
/// # Errors
/// The index of a weight that is not finite, or of the largest when the super-scales do not fit half precision.
#[inline(always)]
pub fn quantize_q2_k(weights: &[f32; K_BLOCK_LEN], importance: Option<&[f32; K_BLOCK_LEN]>) -> Result<BlockQ2K, usize> {
    let Packed { scale, min_scale, steps, mins, quants } = pack::<RangesQ2K, 16, 2>(weights, importance)?;
    let scales = std::array::from_fn(|sub| steps[sub] as u8 | mins[sub] << 4);
    Ok(BlockQ2K { scales, quants: two_bits(&quants), scale, min_scale })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_q2_k`].
#[inline(always)]
pub fn quantize_q3_k(weights: &[f32; K_BLOCK_LEN], importance: Option<&[f32; K_BLOCK_LEN]>) -> Result<BlockQ3K, usize> {
    let Packed { scale, steps, quants, .. } = pack::<RangesQ3K, 16, 2>(weights, importance)?;
    let steps = steps.map(|step| (step + 32) as u8);
    let mut scales = [0; 12];
    for (j, &step) in steps.iter().enumerate() {
        scales[j % 8] |= (step & 15) << (4 * (j / 8));
        scales[8 + j % 4] |= (step >> 4) << (2 * (j / 4));
    }
    Ok(BlockQ3K { high: eighth_bits(&quants, 2), low: two_bits(&quants.map(|quant| quant & 3)), scales, scale })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_q2_k`].
#[inline(always)]
pub fn quantize_q4_k(weights: &[f32; K_BLOCK_LEN], importance: Option<&[f32; K_BLOCK_LEN]>) -> Result<BlockQ4K, usize> {
    let Packed { scale, min_scale, steps, mins, quants } = pack::<RangesQ4K, 32, 1>(weights, importance)?;
    Ok(BlockQ4K { scale, min_scale, scales: six_bits(&steps, &mins), quants: nibbles(&quants) })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_q2_k`].
#[inline(always)]
pub fn quantize_q5_k(weights: &[f32; K_BLOCK_LEN], importance: Option<&[f32; K_BLOCK_LEN]>) -> Result<BlockQ5K, usize> {
    let Packed { scale, min_scale, steps, mins, quants } = pack::<RangesQ5K, 32, 1>(weights, importance)?;
    let high = eighth_bits(&quants, 4);
    Ok(BlockQ5K { scale, min_scale, scales: six_bits(&steps, &mins), high, quants: nibbles(&quants) })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_q2_k`].
#[inline(always)]
pub fn quantize_q6_k(weights: &[f32; K_BLOCK_LEN], importance: Option<&[f32; K_BLOCK_LEN]>) -> Result<BlockQ6K, usize> {
    let Packed { scale, steps, quants, .. } = pack::<RangesQ6K, 16, 2>(weights, importance)?;
    let mut low = [0; 128];
    for (j, byte) in low.iter_mut().enumerate() {
        let at = j + j / 64 * 64;
        *byte = quants[at] & 15 | (quants[at + 64] & 15) << 4;
    }
    Ok(BlockQ6K { low, high: two_bits(&quants.map(|quant| quant >> 4)), scales: steps, scale })
}

/// Four weights per byte, as in [`BlockQ2K`].
#[inline(always)]
fn two_bits(quants: &[u8; K_BLOCK_LEN]) -> [u8; 64] {
    std::array::from_fn(|j| {
        let at = j + j / 32 * 96;
        quants[at] | quants[at + 32] << 2 | quants[at + 64] << 4 | quants[at + 96] << 6
    })
}

/// Bits 0 to 3 of two weights per byte, as in [`BlockQ4K`].
#[inline(always)]
fn nibbles(quants: &[u8; K_BLOCK_LEN]) -> [u8; 128] {
    std::array::from_fn(|j| {
        let at = j + j / 32 * 32;
        quants[at] & 15 | (quants[at + 32] & 15) << 4
    })
}

/// One bit of eight weights per byte, as in [`BlockQ3K`].
#[inline(always)]
fn eighth_bits(quants: &[u8; K_BLOCK_LEN], bit: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (i, quants) in quants.as_chunks::<32>().0.iter().enumerate() {
        for (byte, quant) in bytes.iter_mut().zip(quants) {
            *byte |= (quant >> bit & 1) << i;
        }
    }
    bytes
}

/// The inverse of [`scales_and_mins_k4`](crate::blocks::scales_and_mins_k4).
#[inline(always)]
fn six_bits(steps: &[i8; 16], mins: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = steps[j] as u8 | (steps[j + 4] as u8 >> 4) << 6;
        packed[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        packed[j + 8] = steps[j + 4] as u8 & 15 | (mins[j + 4] & 15) << 4;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Encode;
    use crate::encode::lanes::samples;

    /// Rounds to the nearest, one range after the other: each sub-block of `len` weights has a step and a minimum of its
    /// own, whole multiples of super-scales that make the largest of them `step_high` and `min_high`.
    fn plain_affine<const HIGH: u8, const STEPS: u8>(weights: &[f32], len: usize) -> Vec<f32> {
        let ranges: Vec<(f32, f32)> = weights
            .chunks(len)
            .map(|chunk| {
                let low = chunk.iter().copied().fold(0.0, f32::min);
                (low, (chunk.iter().copied().fold(0.0, f32::max) - low) / f32::from(HIGH))
            })
            .collect();
        let scale = ranges.iter().map(|range| range.1).fold(0.0, f32::max) / f32::from(STEPS);
        let min_scale = ranges.iter().map(|range| -range.0).fold(0.0, f32::max) / f32::from(STEPS);
        let parts = weights.chunks(len).zip(&ranges).flat_map(|(chunk, (low, step))| {
            let (step, min) = ((step / scale).round() * scale, (-low / min_scale).round() * min_scale);
            let values: Vec<f32> = (0..=HIGH).map(|quant| step * f32::from(quant) - min).collect();
            samples::to_nearest(chunk, &values)
        });
        parts.collect()
    }

    /// The same without minimums: the largest magnitude of each 16 weights becomes the lowest quant.
    fn plain_symmetric<const LOW: i8, const STEPS: i16>(weights: &[f32]) -> Vec<f32> {
        let steps: Vec<f32> = weights.chunks(16).map(|chunk| samples::largest(chunk) / f32::from(LOW)).collect();
        let scale = samples::largest(&steps) / -f32::from(STEPS);
        let parts = weights.chunks(16).zip(&steps).flat_map(|(chunk, step)| {
            let step = (step / scale).round().min(f32::from(STEPS - 1)) * scale;
            let values: Vec<f32> = (LOW..-LOW).map(|quant| step * f32::from(quant)).collect();
            samples::to_nearest(chunk, &values)
        });
        parts.collect()
    }

    #[test]
    fn beats_rounding_to_the_nearest() {
        samples::check::<BlockQ2K>(|weights| plain_affine::<3, 15>(weights, 16));
        samples::check::<BlockQ3K>(plain_symmetric::<-4, 32>);
        samples::check::<BlockQ4K>(|weights| plain_affine::<15, 63>(weights, 32));
        samples::check::<BlockQ5K>(|weights| plain_affine::<31, 63>(weights, 32));
        samples::check::<BlockQ6K>(plain_symmetric::<-32, 128>);
    }

    /// Blocks that use their whole range come back with a small part of the error that a block of other weights has: what
    /// is packed once loses little when it is packed again.
    #[test]
    fn packs_what_was_packed_with_little_loss() {
        fn check<F: Encode>() {
            let weights = samples::weights(200 * 256, 3);
            let once = samples::round_trip::<F>(&weights, None);
            let twice = samples::round_trip::<F>(&once, None);
            let (first, second) = (samples::error(&weights, &once, None), samples::error(&once, &twice, None));
            assert!(second < 0.1 * first, "{}: {second} after {first}", F::TYPE);
        }
        check::<BlockQ2K>();
        check::<BlockQ3K>();
        check::<BlockQ4K>();
        check::<BlockQ5K>();
        check::<BlockQ6K>();
    }

    /// The error moves to where it does not matter.
    #[test]
    fn important_weights_come_back_better() {
        fn check<F: Encode>() {
            let weights = samples::weights(200 * 256, 4);
            let importance: Vec<f32> = (0..weights.len()).map(|i| if i % 4 == 0 { 50.0 } else { 0.1 }).collect();
            let important: Vec<f32> = (0..weights.len()).map(|i| if i % 4 == 0 { 1.0 } else { 0.0 }).collect();
            let error = |importance: Option<&[f32]>| {
                samples::error(&weights, &samples::round_trip::<F>(&weights, importance), Some(&important))
            };
            let (with, without) = (error(Some(&importance)), error(None));
            assert!(with < 0.8 * without, "{}: {with}, without importance {without}", F::TYPE);
        }
        check::<BlockQ2K>();
        check::<BlockQ3K>();
        check::<BlockQ4K>();
        check::<BlockQ5K>();
        check::<BlockQ6K>();
    }

    /// -1, 0 and 1, with little between: the levels are few enough for every format, whatever their places.
    #[test]
    fn three_values_come_back() {
        fn check<F: Encode>() {
            let n = 100 * K_BLOCK_LEN;
            let noise = samples::weights(n, 5);
            let weights: Vec<f32> = samples::weights(n, 6)
                .iter()
                .zip(&noise)
                .map(|(&weight, noise)| if weight.abs() < 0.03 { noise * 1e-4 } else { weight.signum() })
                .collect();
            let lopsided: Vec<f32> = samples::importance(n, 9).iter().map(|value| value.powi(3)).collect();
            for importance in [None, Some(&lopsided[..])] {
                let zeros = samples::error(&weights, &vec![0.0; n], importance);
                let found = samples::error(&weights, &samples::round_trip::<F>(&weights, importance), importance);
                assert!(found < 5e-3 * zeros, "{}: {found} of {zeros}", F::TYPE);
            }
        }
        check::<BlockQ2K>();
        check::<BlockQ3K>();
        check::<BlockQ4K>();
        check::<BlockQ5K>();
        check::<BlockQ6K>();
    }

    /// Weights near the largest that the super-scales reach, and beyond.
    #[test]
    fn refuses_weights_beyond_half_precision() {
        fn check<F: Encode>(largest: f32) {
            let mut bytes = vec![0; F::TYPE.block_bytes()];
            let mut decoded = [0.0; K_BLOCK_LEN];
            let mut weights: [f32; K_BLOCK_LEN] = std::array::from_fn(|i| (i % 16) as f32 / 16.0);
            for (factor, fits) in [(0.9, true), (0.98, true), (1.05, false), (1e10, false), (1e28, false)] {
                weights[77] = factor * largest;
                assert_eq!(F::encode(&weights, None, &mut bytes), if fits { Ok(()) } else { Err(77) }, "{}", F::TYPE);
                if fits {
                    F::decode(&bytes, &mut decoded);
                    assert!((decoded[77] / weights[77] - 1.0).abs() < 0.02, "{}: {}", F::TYPE, decoded[77]);
                }
            }
        }
        check::<BlockQ2K>(65_504.0 * 15.0 * 3.0);
        check::<BlockQ2K>(-65_504.0 * 15.0);
        check::<BlockQ3K>(65_504.0 * 32.0 * 4.0);
        check::<BlockQ4K>(65_504.0 * 63.0 * 15.0);
        check::<BlockQ4K>(-65_504.0 * 63.0);
        check::<BlockQ5K>(65_504.0 * 63.0 * 31.0);
        check::<BlockQ6K>(-65_504.0 * 128.0 * 32.0);
    }
}
