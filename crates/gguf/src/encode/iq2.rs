//! Packers of the grid quants of about two bits.

use std::sync::OnceLock;

use super::grid_search::{Book, Candidate, Choice, GridFormat, UNIT, Unit, cheapest, search};
use crate::blocks::grids::{IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID};
use crate::blocks::{BlockIQ2S, BlockIQ2XS, BlockIQ2XXS, K_BLOCK_LEN};

/// Scales at which the code book is searched: the time is in proportion.
const TRIALS: usize = 6;

/// A code book of eight magnitudes a point; `EVEN` where the number of negative weights is.
struct Magnitudes<const POINTS: usize, const SUB_UNITS: usize, const EVEN: bool>(Book<UNIT, POINTS>);

impl<const POINTS: usize, const SUB_UNITS: usize, const EVEN: bool> GridFormat<TRIALS>
    for Magnitudes<POINTS, SUB_UNITS, EVEN>
{
    const SUB_UNITS: usize = SUB_UNITS;
    const STEPS: usize = 16;
    const FACTOR: f32 = 0.125;
    const LEVELS: &'static [f32] = &[8.0, 25.0, 43.0];
    const EVEN_LEVELS: &'static [f32] = &[8.0, 43.0];
    const SPREAD: (f32, f32) = (0.82, 1.08);

    type Scratch = [[f32; POINTS]; 2];

    #[inline(always)]
    fn scratch() -> Self::Scratch {
        [[0.0; POINTS]; 2]
    }

    #[inline(always)]
    fn candidates(
        &self,
        units: &[Unit],
        scales: &[f32; TRIALS],
        [p, norms]: &mut Self::Scratch,
        out: &mut [[Candidate; TRIALS]],
    ) {
        for (unit, out) in units.iter().zip(out) {
            if EVEN && !unit.signs().count_ones().is_multiple_of(2) {
                self.0.products_flipped(&unit.moments(), p);
            } else {
                self.0.products(&unit.moments(), p);
            }
            let q = if unit.weighted {
                self.0.norms(&unit.importance, norms);
                &*norms
            } else {
                &self.0.squares
            };
            let found = cheapest(p, q, scales, &[unit.offset(); TRIALS]);
            for (candidate, (point, _)) in out.iter_mut().zip(found) {
                *candidate = Candidate { p: p[point], q: q[point], code: point as u32 };
            }
        }
    }
}

/// The seven stored bits of the signs of a unit at a point of `grid`.
#[inline(always)]
fn seven_signs<const POINTS: usize>(choice: &Choice, unit: usize, grid: &[[i8; UNIT]; POINTS]) -> u8 {
    choice.units[unit].even_signs(&grid[choice.codes[unit] as usize].map(f32::from)) & 127
}

/// Packs 256 weights.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
#[inline(always)]
pub fn quantize_iq2_xxs(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ2XXS, usize> {
    static BOOK: OnceLock<Magnitudes<256, 4, true>> = OnceLock::new();
    let choice = search(BOOK.get_or_init(|| Magnitudes(Book::new(&IQ2_XXS_GRID))), weights, importance)?;
    let mut quants = [0; 32];
    for (sub, words) in quants.chunks_exact_mut(4).enumerate() {
        let mut bits = u64::from(choice.steps[sub]) << 60;
        for l in 0..4 {
            bits |= u64::from(choice.codes[4 * sub + l]) << (8 * l);
            bits |= u64::from(seven_signs(&choice, 4 * sub + l, &IQ2_XXS_GRID)) << (32 + 7 * l);
        }
        for (i, word) in words.iter_mut().enumerate() {
            *word = (bits >> (16 * i)) as u16;
        }
    }
    Ok(BlockIQ2XXS { scale: choice.scale, quants })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_iq2_xxs`].
#[inline(always)]
pub fn quantize_iq2_xs(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ2XS, usize> {
    static BOOK: OnceLock<Magnitudes<512, 2, true>> = OnceLock::new();
    let choice = search(BOOK.get_or_init(|| Magnitudes(Book::new(&IQ2_XS_GRID))), weights, importance)?;
    let mut quants = [0; 32];
    for (unit, word) in quants.iter_mut().enumerate() {
        *word = choice.codes[unit] as u16 | u16::from(seven_signs(&choice, unit, &IQ2_XS_GRID)) << 9;
    }
    Ok(BlockIQ2XS { scale: choice.scale, quants, scales: nibbles(&choice.steps) })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_iq2_xxs`].
#[inline(always)]
pub fn quantize_iq2_s(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ2S, usize> {
    static BOOK: OnceLock<Magnitudes<1024, 2, false>> = OnceLock::new();
    let choice = search(BOOK.get_or_init(|| Magnitudes(Book::new(&IQ2_S_GRID))), weights, importance)?;
    let (mut points, mut signs, mut high_bits) = ([0; 32], [0; 32], [0; 8]);
    for unit in 0..32 {
        points[unit] = choice.codes[unit] as u8;
        signs[unit] = choice.units[unit].signs();
        high_bits[unit / 4] |= ((choice.codes[unit] >> 8) << (2 * (unit % 4))) as u8;
    }
    Ok(BlockIQ2S { scale: choice.scale, points, signs, high_bits, scales: nibbles(&choice.steps) })
}

/// Two steps in each byte, the first in the low bits.
#[inline(always)]
fn nibbles(steps: &[u8; 16]) -> [u8; 8] {
    let mut packed = [0; 8];
    for (byte, pair) in packed.iter_mut().zip(steps.chunks_exact(2)) {
        *byte = pair[0] | pair[1] << 4;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::super::grid_search::tests::{cost, normals, unit};
    use super::*;

    /// No point with any allowed signs is better than the candidate.
    #[test]
    fn candidates_are_the_best_of_all() {
        fn check<const POINTS: usize, const EVEN: bool>(grid: &[[i8; UNIT]; POINTS]) {
            let format = Magnitudes::<POINTS, 4, EVEN>(Book::new(grid));
            for seed in 0..20 {
                let importance: Vec<f32> = normals(UNIT, seed).iter().map(|x| x.exp()).collect();
                let unit = unit(&normals(UNIT, seed + 100), &importance);
                let scales = std::array::from_fn(|k| 0.03 * 1.3f32.powi(k as i32));
                let mut out = [[Candidate::default(); TRIALS]];
                format.candidates(&[unit], &scales, &mut Magnitudes::<POINTS, 4, EVEN>::scratch(), &mut out);
                for (candidate, &scale) in out[0].iter().zip(&scales) {
                    let mut least = f64::MAX;
                    for point in grid {
                        for signs in (0..256u32).filter(|signs| !EVEN || signs.count_ones() % 2 == 0) {
                            let level = |i: usize| f32::from(point[i]) * if signs >> i & 1 == 1 { -1.0 } else { 1.0 };
                            least = least.min(cost(&unit, scale, level));
                        }
                    }
                    let point = grid[candidate.code as usize].map(f32::from);
                    let signs = if EVEN { unit.even_signs(&point) } else { unit.signs() };
                    assert!(!EVEN || signs.count_ones() % 2 == 0);
                    let found = cost(&unit, scale, |i| point[i] * if signs >> i & 1 == 1 { -1.0 } else { 1.0 });
                    assert!(found <= least * 1.001, "{found}, the best is {least}");
                    let sums = f64::from(unit.power + scale * (candidate.p + scale * candidate.q));
                    assert!((sums - found).abs() < 1e-4 * f64::from(unit.power), "{sums} by the sums, it is {found}");
                }
            }
        }
        check::<256, true>(&IQ2_XXS_GRID);
        check::<1024, false>(&IQ2_S_GRID);
    }
}
