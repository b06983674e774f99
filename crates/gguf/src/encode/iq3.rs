//! Packers of the grid quants of about three bits.

use std::sync::OnceLock;

use super::grid_search::{Book, Candidate, GridFormat, UNIT, Unit, cheapest, search};
use crate::blocks::grids::{IQ3_S_GRID, IQ3_XXS_GRID};
use crate::blocks::{BlockIQ3S, BlockIQ3XXS, K_BLOCK_LEN};

/// Scales at which the code book is searched: the time is in proportion.
const TRIALS: usize = 6;
/// Bits of a point in a code; that of the second four weights is above that of the first.
const CODE_BITS: u32 = 16;

/// A code book of four magnitudes a point; `EVEN` where the number of negative weights in a unit is.
struct Magnitudes<const POINTS: usize, const EVEN: bool>(Book<4, POINTS>);

/// Sums over the points for each half of a unit.
struct Scratch<const POINTS: usize> {
    p: [[f32; POINTS]; 2],
    /// With a wrong sign.
    flipped: [[f32; POINTS]; 2],
    norms: [[f32; POINTS]; 2],
}

/// The candidates of half a unit and their costs.
type Half = [(Candidate, f32); TRIALS];

#[inline(always)]
fn half<const POINTS: usize>(p: &[f32; POINTS], q: &[f32; POINTS], scales: &[f32; TRIALS], unit: &Unit) -> Half {
    cheapest(p, q, scales, &[unit.offset(); TRIALS])
        .map(|(point, cost)| (Candidate { p: p[point], q: q[point], code: point as u32 }, cost))
}

#[inline(always)]
fn four(values: &[f32; UNIT], half: usize) -> [f32; 4] {
    let mut out = [0.0; 4];
    out.copy_from_slice(&values[4 * half..][..4]);
    out
}

#[inline(always)]
fn join((a, _): (Candidate, f32), (b, _): (Candidate, f32)) -> Candidate {
    Candidate { p: a.p + b.p, q: a.q + b.q, code: a.code | b.code << CODE_BITS }
}

impl<const POINTS: usize, const EVEN: bool> GridFormat<TRIALS> for Magnitudes<POINTS, EVEN> {
    const SUB_UNITS: usize = 4;
    const STEPS: usize = 16;
    const FACTOR: f32 = if EVEN { 0.25 } else { 1.0 };
    const LEVELS: &'static [f32] = if EVEN {
        &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0]
    } else {
        &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0]
    };
    const EVEN_LEVELS: &'static [f32] = if EVEN { &[4.0, 20.0] } else { &[1.0] };
    const SPREAD: (f32, f32) = (0.82, 1.08);
    type Scratch = Scratch<POINTS>;

    #[inline(always)]
    fn scratch() -> Scratch<POINTS> {
        Scratch { p: [[0.0; POINTS]; 2], flipped: [[0.0; POINTS]; 2], norms: [[0.0; POINTS]; 2] }
    }

    #[inline(always)]
    fn candidates(
        &self,
        units: &[Unit],
        scales: &[f32; TRIALS],
        scratch: &mut Scratch<POINTS>,
        out: &mut [[Candidate; TRIALS]],
    ) {
        for (unit, out) in units.iter().zip(out) {
            let moments = unit.moments();
            let moments = [four(&moments, 0), four(&moments, 1)];
            for h in 0..2 {
                self.0.products(&moments[h], &mut scratch.p[h]);
                if unit.weighted {
                    self.0.norms(&four(&unit.importance, h), &mut scratch.norms[h]);
                }
            }
            let [q0, q1] = if unit.weighted { [&scratch.norms[0], &scratch.norms[1]] } else { [&self.0.squares; 2] };
            let right = [half(&scratch.p[0], q0, scales, unit), half(&scratch.p[1], q1, scales, unit)];
            for k in 0..TRIALS {
                out[k] = join(right[0][k], right[1][k]);
            }
            if EVEN && !unit.signs().count_ones().is_multiple_of(2) {
                // One sign must be wrong, in the one half or in the other.
                for h in 0..2 {
                    self.0.products_flipped(&moments[h], &mut scratch.flipped[h]);
                }
                let wrong = [half(&scratch.flipped[0], q0, scales, unit), half(&scratch.flipped[1], q1, scales, unit)];
                for k in 0..TRIALS {
                    let first = wrong[0][k].1 + right[1][k].1 < right[0][k].1 + wrong[1][k].1;
                    out[k] = if first { join(wrong[0][k], right[1][k]) } else { join(right[0][k], wrong[1][k]) };
                }
            }
        }
    }
}

/// The points of a unit's two halves.
#[inline(always)]
fn points_of(code: u32) -> [usize; 2] {
    [(code & ((1 << CODE_BITS) - 1)) as usize, (code >> CODE_BITS) as usize]
}

/// Packs 256 weights.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
#[inline(always)]
pub fn quantize_iq3_xxs(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ3XXS, usize> {
    static BOOK: OnceLock<Magnitudes<256, true>> = OnceLock::new();
    let choice = search(BOOK.get_or_init(|| Magnitudes(Book::new(&IQ3_XXS_GRID))), weights, importance)?;
    let (mut points, mut words) = ([0; 64], [0u32; 8]);
    for unit in 0..32 {
        let [a, b] = points_of(choice.codes[unit]);
        points[2 * unit] = a as u8;
        points[2 * unit + 1] = b as u8;
        let mut levels = [0.0; UNIT];
        for j in 0..4 {
            levels[j] = f32::from(IQ3_XXS_GRID[a][j]);
            levels[j + 4] = f32::from(IQ3_XXS_GRID[b][j]);
        }
        words[unit / 4] |= u32::from(choice.units[unit].even_signs(&levels) & 127) << (7 * (unit % 4));
    }
    for (word, &step) in words.iter_mut().zip(&choice.steps) {
        *word |= u32::from(step) << 28;
    }
    Ok(BlockIQ3XXS { scale: choice.scale, points, signs_and_scales: words.map(u32::to_le_bytes) })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_iq3_xxs`].
#[inline(always)]
pub fn quantize_iq3_s(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ3S, usize> {
    static BOOK: OnceLock<Magnitudes<512, false>> = OnceLock::new();
    let choice = search(BOOK.get_or_init(|| Magnitudes(Book::new(&IQ3_S_GRID))), weights, importance)?;
    let (mut points, mut high_bits, mut signs, mut scales) = ([0; 64], [0; 8], [0; 32], [0; 4]);
    for unit in 0..32 {
        for (half, point) in points_of(choice.codes[unit]).into_iter().enumerate() {
            let at = 2 * unit + half;
            points[at] = point as u8;
            high_bits[at / 8] |= ((point >> 8) << (at % 8)) as u8;
        }
        signs[unit] = choice.units[unit].signs();
    }
    for (byte, pair) in scales.iter_mut().zip(choice.steps.chunks_exact(2)) {
        *byte = pair[0] | pair[1] << 4;
    }
    Ok(BlockIQ3S { scale: choice.scale, points, high_bits, signs, scales })
}

#[cfg(test)]
mod tests {
    use super::super::grid_search::tests::{cost, normals, unit};
    use super::*;

    /// No pair of points with an even number of negative signs is better than the candidate.
    #[test]
    fn candidates_are_the_best_of_all() {
        type Format = Magnitudes<256, true>;
        let format: Format = Magnitudes(Book::new(&IQ3_XXS_GRID));
        for seed in 0..20 {
            let importance: Vec<f32> = normals(UNIT, seed).iter().map(|x| x.exp()).collect();
            let unit = unit(&normals(UNIT, seed + 100), &importance);
            let scales = std::array::from_fn(|k| 0.02 * 1.3f32.powi(k as i32));
            let mut out = [[Candidate::default(); TRIALS]];
            format.candidates(&[unit], &scales, &mut Format::scratch(), &mut out);
            for (candidate, &scale) in out[0].iter().zip(&scales) {
                // Of each half the best point for an even and for an odd number of negative signs.
                let mut halves = [[f64::MAX; 2]; 2];
                for (half, least) in halves.iter_mut().enumerate() {
                    for point in &IQ3_XXS_GRID {
                        for signs in 0..16u32 {
                            let sum: f64 = (0..4)
                                .map(|i| {
                                    let level = scale * f32::from(point[i]);
                                    let at = 4 * half + i;
                                    let off = unit.weights[at] - if signs >> i & 1 == 1 { -level } else { level };
                                    f64::from(unit.importance[at]) * f64::from(off).powi(2)
                                })
                                .sum();
                            let odd = signs.count_ones() as usize % 2;
                            least[odd] = least[odd].min(sum);
                        }
                    }
                }
                let least = (halves[0][0] + halves[1][0]).min(halves[0][1] + halves[1][1]);
                let [a, b] = points_of(candidate.code);
                let level = |i: usize| f32::from(if i < 4 { IQ3_XXS_GRID[a][i] } else { IQ3_XXS_GRID[b][i - 4] });
                let signs = unit.even_signs(&std::array::from_fn(level));
                let found = cost(&unit, scale, |i| if signs >> i & 1 == 1 { -level(i) } else { level(i) });
                assert!(found <= least * 1.001, "{found}, the best is {least}");
            }
        }
    }
}
