//! Activations on their way into a matrix product: quantized once, to 8 bits, whatever the number
//! of matrices that read them.
//!
//! Two forms exist because weights come in two: one scale per 32 for the flat formats, one per 256
//! for the super-block formats. Rounding is to nearest even of `x · (127 / amax)`. Values are laid out in
//! *tiles* of columns (a column is one row of the batch), four bytes of each column side by side,
//! which is the order in which the GEMM broadcasts them.

use crate::simd::{Isa, LANES, Operation, Simd};
use crate::team::{SharedMut, ThreadTeam};

/// Below this a block counts as all zeros: 127 divided by it must stay finite.
const AMAX_MIN: f32 = 1e-30;
/// Tile widths that the GEMM is stamped out for, widest first.
pub(crate) const TILE_WIDTHS: [usize; 7] = [12, 8, 6, 4, 3, 2, 1];

/// Which forms a set of weights needs.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct ActivationForms {
    /// As they are, for float weights.
    pub float: bool,
    /// One scale per 32 values.
    pub per32: bool,
    /// One scale per 256 values.
    pub per256: bool,
}

/// A run of columns that the GEMM takes at once.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub first: usize,
    pub width: usize,
}

/// The tiles of `n` columns: as wide as the ISA allows, then narrower ones for the rest.
pub(crate) fn tiles(n: usize, tile_cols: usize) -> impl Iterator<Item = Tile> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let width = *TILE_WIDTHS.iter().find(|&&w| w <= tile_cols && w <= n - first)?;
        let tile = Tile { first, width };
        first += width;
        Some(tile)
    })
}

/// One quantized form: `values` four to a word, `scales` per block, `sums` per 32 values.
#[derive(Default)]
pub(crate) struct Quantized {
    pub values: Vec<u32>,
    pub scales: Vec<f32>,
    /// Per 32: the negated sum as `i32`. Per 256: the sums of both halves of 16 as two `i16`.
    pub sums: Vec<u32>,
}

/// A batch of activations `[n, k]`, in every form that the coming products need.
#[derive(Default)]
pub struct Activations {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) tile_cols: usize,
    pub(crate) forms: ActivationForms,
    pub(crate) float: Vec<f32>,
    pub(crate) per32: Quantized,
    pub(crate) per256: Quantized,
}

impl Activations {
    /// Empty; buffers grow at the first use and are kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over `x`, `[n, k]` row by row.
    ///
    /// # Panics
    /// When `x` does not hold `n·k` values, or `k` is no multiple of the block of a form asked for.
    pub fn set(&mut self, team: &ThreadTeam, isa: Isa, x: &[f32], k: usize, forms: ActivationForms) {
        assert!(k > 0 && x.len().is_multiple_of(k), "{} activations are no rows of {k}", x.len());
        assert!(!forms.per32 || k.is_multiple_of(32), "rows of {k} are no blocks of 32");
        assert!(!forms.per256 || k.is_multiple_of(256), "rows of {k} are no blocks of 256");
        self.n = x.len() / k;
        self.k = k;
        self.tile_cols = isa.tile_cols();
        self.forms = forms;
        if forms.float {
            self.float.clear();
            self.float.extend_from_slice(x);
        }
        let (n, tile_cols) = (self.n, self.tile_cols);
        if forms.per32 {
            quantize::<32>(team, isa, x, (n, k, tile_cols), &mut self.per32);
        }
        if forms.per256 {
            quantize::<256>(team, isa, x, (n, k, tile_cols), &mut self.per256);
        }
    }
}

fn quantize<const BLOCK: usize>(
    team: &ThreadTeam,
    isa: Isa,
    x: &[f32],
    (n, k, tile_cols): (usize, usize, usize),
    out: &mut Quantized,
) {
    out.values.resize(n * k / 4, 0);
    out.scales.resize(n * k / BLOCK, 0.0);
    out.sums.resize(n * k / 32, 0);
    let tiles: Vec<Tile> = tiles(n, tile_cols).collect();
    let values = SharedMut::new(&mut out.values);
    let scales = SharedMut::new(&mut out.scales);
    let sums = SharedMut::new(&mut out.sums);
    let one_tile = |i: usize| {
        let Tile { first, width } = tiles[i];
        // SAFETY: tiles are disjoint runs of columns, and every chunk is one tile.
        let (values, scales, sums) = unsafe {
            (
                values.slice(first * k / 4, width * k / 4),
                scales.slice(first * k / BLOCK, width * k / BLOCK),
                sums.slice(first * k / 32, width * k / 32),
            )
        };
        isa.run(QuantizeTile::<BLOCK> { x: &x[first * k..(first + width) * k], k, width, values, scales, sums });
    };
    // A single row is quantized in about the time that waking the others takes.
    if n * k < 16 * 1024 { (0..tiles.len()).for_each(one_tile) } else { team.run(tiles.len(), one_tile) }
}

struct QuantizeTile<'a, const BLOCK: usize> {
    x: &'a [f32],
    k: usize,
    width: usize,
    values: &'a mut [u32],
    scales: &'a mut [f32],
    sums: &'a mut [u32],
}

impl<const BLOCK: usize> Operation for QuantizeTile<'_, BLOCK> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Self { x, k, width, values, scales, sums } = self;
        for c in 0..width {
            for (b, block) in x[c * k..(c + 1) * k].chunks_exact(BLOCK).enumerate() {
                let amax = absolute_max(s, block);
                let (scale, inverse) = if amax < AMAX_MIN { (0.0, 0.0) } else { (amax / 127.0, 127.0 / amax) };
                scales[b * width + c] = scale;
                for (i, half_pair) in block.chunks_exact(32).enumerate() {
                    let b32 = b * (BLOCK / 32) + i;
                    let (bytes, [low, high]) = quantize32(s, half_pair, inverse);
                    for (g, word) in bytes.chunks_exact(4).enumerate() {
                        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                        values[(b32 * 8 + g) * width + c] = word;
                    }
                    sums[b32 * width + c] = if BLOCK == 32 {
                        (-(low + high)) as u32
                    } else {
                        (low as u32 & 0xffff) | ((high as u32) << 16)
                    };
                }
            }
        }
    }
}

/// The largest magnitude, compared as bits so that a NaN wins and is seen downstream.
#[inline(always)]
fn absolute_max<S: Simd>(s: S, block: &[f32]) -> f32 {
    let magnitude = s.splat(0x7fff_ffff);
    let mut max = s.splat(0);
    for lane in block.chunks_exact(LANES) {
        // SAFETY: `chunks_exact` gives 16 values.
        max = s.max_u32(max, s.and(s.bits(unsafe { s.fload(lane.as_ptr()) }), magnitude));
    }
    let mut lanes = [0u32; LANES];
    // SAFETY: 16 words.
    unsafe { s.store(lanes.as_mut_ptr(), max) };
    f32::from_bits(lanes.into_iter().fold(0, u32::max))
}

/// 32 values to int8; with the sums of both halves.
#[inline(always)]
fn quantize32<S: Simd>(s: S, x: &[f32], inverse: f32) -> ([u8; 32], [i32; 2]) {
    let mut bytes = [0u8; 32];
    let inverse = s.fsplat(inverse);
    let mut sums = [0i32; 2];
    for half in 0..2 {
        let at = half * LANES;
        // SAFETY: `x` holds 32 values (asserted by the slice below), `bytes` 32.
        let q = unsafe { s.to_i32(s.fmul(s.fload(x[at..at + LANES].as_ptr()), inverse)) };
        // SAFETY: as above.
        unsafe { s.store_low_bytes(bytes[at..at + LANES].as_mut_ptr(), q) };
        for &b in &bytes[at..at + LANES] {
            sums[half] += i32::from(b as i8);
        }
    }
    (bytes, sums)
}
