//! Packers of the grid quants of less than two bits.

use std::sync::OnceLock;

use super::grid_search::{Book, Candidate, GridFormat, LANES, UNIT, Unit, at_most, cheapest, search};
use crate::blocks::grids::IQ1_S_GRID;
use crate::blocks::{BlockIQ1M, BlockIQ1S, K_BLOCK_LEN};

/// Scales at which the code book is searched: the time is in proportion.
const TRIALS: usize = 2;
/// Points of the code book.
const POINTS: usize = 2048;
/// The bit of a code that says that the point is moved down.
const DOWN: u32 = 1 << 11;

/// Eight times the levels, so that the shift is ±1: `q` of a moved point `g ± 1` is `Σ a·(g² ± 2·g)`, plus `Σ a`.
struct Moved {
    book: Book<UNIT, POINTS>,
    /// `g² + 2·g` and `g² - 2·g` of every level.
    up_and_down: [Box<[[[f32; LANES]; UNIT]]>; 2],
    /// Their sums.
    norms: [[f32; POINTS]; 2],
}

impl Moved {
    fn shared() -> &'static Self {
        static MOVED: OnceLock<Moved> = OnceLock::new();
        MOVED.get_or_init(|| {
            let book = Book::new(&IQ1_S_GRID.map(|point| point.map(|level| 8 * level)));
            let moved = |double: f32| {
                let square = |level: f32| level * (level + double);
                book.groups.iter().map(|group| group.map(|row| row.map(square))).collect::<Box<[_]>>()
            };
            let up_and_down = [moved(2.0), moved(-2.0)];
            let mut norms = [[0.0; POINTS]; 2];
            for (norms, groups) in norms.iter_mut().zip(&up_and_down) {
                for (i, norm) in norms.iter_mut().enumerate() {
                    *norm = groups[i / LANES].iter().map(|row| row[i % LANES]).sum();
                }
            }
            Self { book, up_and_down, norms }
        })
    }

    /// Fills in the sums of the units. The code book is larger than the innermost cache: it is read once for all units.
    #[inline(always)]
    fn prepare<const N: usize>(&self, units: &[Unit; N], sums: &mut [Sums; N]) {
        let mut moments = [[0.0; UNIT]; N];
        for (unit, (moments, sums)) in units.iter().zip(moments.iter_mut().zip(sums.iter_mut())) {
            (sums.importance, sums.moment) = (0.0, 0.0);
            for i in 0..UNIT {
                moments[i] = -2.0 * (unit.importance[i] * unit.weights[i]);
                sums.importance += unit.importance[i];
                sums.moment += moments[i];
            }
        }
        for (g, group) in self.book.groups.iter().enumerate() {
            for u in 0..N {
                let mut p = [0.0; LANES];
                for d in 0..UNIT {
                    for l in 0..LANES {
                        p[l] += moments[u][d] * group[d][l];
                    }
                }
                sums[u].p.as_chunks_mut::<LANES>().0[g] = p;
            }
        }
        if !units[0].weighted {
            return;
        }
        for g in 0..POINTS / LANES {
            for u in 0..N {
                let squares = &self.up_and_down[sums[u].down][g];
                let mut q = [0.0; LANES];
                for d in 0..UNIT {
                    for l in 0..LANES {
                        q[l] += units[u].importance[d] * squares[d][l];
                    }
                }
                sums[u].q.as_chunks_mut::<LANES>().0[g] = q;
            }
        }
    }

    /// The best points at the scales.
    #[inline(always)]
    fn best(&self, unit: &Unit, sums: &Sums, scales: [f32; TRIALS]) -> [Candidate; TRIALS] {
        let q = if unit.weighted { &sums.q } else { &self.norms[sums.down] };
        let moment = if sums.down == 1 { -sums.moment } else { sums.moment };
        let offsets = scales.map(|scale| unit.offset() + scale * (scale * sums.importance + moment));
        cheapest(&sums.p, q, &scales, &offsets).map(|(point, _)| Candidate {
            p: sums.p[point] + moment,
            q: q[point] + sums.importance,
            code: point as u32 | (sums.down as u32 * DOWN),
        })
    }
}

/// What is summed up once for a unit.
#[derive(Clone, Copy)]
struct Sums {
    /// Of the points where they are.
    p: [f32; POINTS],
    /// Of the points moved, less `Σ a`. Unused without importance.
    q: [f32; POINTS],
    /// `Σ a`.
    importance: f32,
    /// `-2·Σ a·w`.
    moment: f32,
    /// The direction: 0 is up, 1 is down.
    down: usize,
}

/// How much better (negative: worse) a unit is moved up than down, if every weight could take any level. To search the
/// code book in both directions instead would double the search.
#[inline(always)]
fn preference(unit: &Unit, scale: f32) -> f32 {
    let mut sum = 0.0;
    for i in 0..UNIT {
        let mut least = [f32::MAX; 2];
        for level in [-7.0, 1.0, 9.0] {
            let (up, down) = (unit.weights[i] - scale * level, unit.weights[i] + scale * level);
            least = [at_most(up * up, least[0]), at_most(down * down, least[1])];
        }
        sum += unit.importance[i] * (least[1] - least[0]);
    }
    sum
}

/// Sub-blocks of `UNITS` units, of which `TOGETHER` are moved in one direction.
struct Format<const UNITS: usize, const TOGETHER: usize>(&'static Moved);

impl<const UNITS: usize, const TOGETHER: usize> GridFormat<TRIALS> for Format<UNITS, TOGETHER> {
    const SUB_UNITS: usize = UNITS;
    const STEPS: usize = 8;
    const FACTOR: f32 = 0.125;
    const LEVELS: &'static [f32] = &[0.0, 8.0];
    const EVEN_LEVELS: &'static [f32] = &[];
    const SPREAD: (f32, f32) = (1.0, 1.12);
    type Scratch = [Sums; UNITS];

    #[inline(always)]
    fn scratch() -> Self::Scratch {
        [Sums { p: [0.0; POINTS], q: [0.0; POINTS], importance: 0.0, moment: 0.0, down: 0 }; UNITS]
    }

    #[inline(always)]
    fn candidates(
        &self,
        units: &[Unit],
        scales: &[f32; TRIALS],
        scratch: &mut Self::Scratch,
        out: &mut [[Candidate; TRIALS]],
    ) {
        let units: &[Unit; UNITS] = units.try_into().expect("a whole sub-block");
        for (units, sums) in units.chunks_exact(TOGETHER).zip(scratch.chunks_exact_mut(TOGETHER)) {
            let mut sum = 0.0;
            for unit in units {
                sum += preference(unit, scales[0]);
            }
            for sums in sums {
                sums.down = usize::from(sum < 0.0);
            }
        }
        self.0.prepare(units, scratch);
        for (unit, (sums, out)) in units.iter().zip(scratch.iter().zip(out)) {
            *out = self.0.best(unit, sums, *scales);
        }
    }
}

/// Packs 256 weights.
///
/// # Errors
/// The index of a weight that is not finite or whose block scale does not fit half precision.
#[inline(always)]
pub fn quantize_iq1_s(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ1S, usize> {
    let choice = search(&Format::<4, 4>(Moved::shared()), weights, importance)?;
    let (mut points, mut high_bits) = ([0; 32], [0; 8]);
    for (unit, &code) in choice.codes.iter().enumerate() {
        points[unit] = code as u8;
        high_bits[unit / 4] |= (code as u16 >> 8 & 7) << (3 * (unit % 4));
    }
    for (sub, word) in high_bits.iter_mut().enumerate() {
        *word |= u16::from(choice.steps[sub]) << 12 | u16::from(choice.codes[4 * sub] & DOWN != 0) << 15;
    }
    Ok(BlockIQ1S { scale: choice.scale, points, high_bits })
}

/// Packs 256 weights.
///
/// # Errors
/// As [`quantize_iq1_s`].
#[inline(always)]
pub fn quantize_iq1_m(
    weights: &[f32; K_BLOCK_LEN],
    importance: Option<&[f32; K_BLOCK_LEN]>,
) -> Result<BlockIQ1M, usize> {
    let choice = search(&Format::<2, 1>(Moved::shared()), weights, importance)?;
    let (mut points, mut high_bits, mut scales) = ([0; 32], [0; 16], [0; 4]);
    for (unit, &code) in choice.codes.iter().enumerate() {
        points[unit] = code as u8;
        high_bits[unit / 2] |= (code as u16 >> 8 & 15) << (4 * (unit % 2));
    }
    for (sub, &step) in choice.steps.iter().enumerate() {
        scales[sub / 4] |= u16::from(step) << (3 * (sub % 4));
    }
    for (i, word) in scales.iter_mut().enumerate() {
        *word |= (choice.scale.0 >> (4 * i) & 15) << 12;
    }
    Ok(BlockIQ1M { points, high_bits: high_bits.map(|byte: u16| byte as u8), scales })
}

#[cfg(test)]
mod tests {
    use super::super::grid_search::tests::{cost, normals, unit};
    use super::*;

    /// In its direction no point is better than the candidate.
    #[test]
    fn candidates_are_the_best_of_their_direction() {
        let format = Format::<2, 1>(Moved::shared());
        for seed in 0..20 {
            let importance: Vec<f32> = normals(UNIT, seed).iter().map(|x| x.exp()).collect();
            let units = [0, 1].map(|i| unit(&normals(UNIT, seed + 100 + i), &importance));
            let scales = std::array::from_fn(|k| 0.1 * 1.3f32.powi(k as i32));
            let mut out = [[Candidate::default(); TRIALS]; 2];
            format.candidates(&units, &scales, &mut Format::<2, 1>::scratch(), &mut out);
            for (unit, out) in units.iter().zip(&out) {
                for (candidate, &scale) in out.iter().zip(&scales) {
                    let shift = if candidate.code & DOWN == 0 { 1.0 } else { -1.0 };
                    let at = |point: usize| cost(unit, scale, |i| 8.0 * f32::from(IQ1_S_GRID[point][i]) + shift);
                    let least = (0..POINTS).map(at).fold(f64::MAX, f64::min);
                    let found = at((candidate.code & (DOWN - 1)) as usize);
                    assert!(found <= least * 1.001, "{found}, the best is {least}");
                    let sums = f64::from(unit.power + scale * (candidate.p + scale * candidate.q));
                    assert!((sums - found).abs() < 1e-4 * f64::from(unit.power), "{sums} by the sums, it is {found}");
                }
            }
        }
    }
}
