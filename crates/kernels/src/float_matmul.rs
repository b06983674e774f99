//! Products with float weights: F32, F16 and BF16, accumulated in f32.
//!
//! Sixteen lanes run over the columns, `acc[i % 16] += w[i] · x[i]` with one fused multiply-add
//! each, and are folded once at the end, in the order of [`Simd::fold_add`]. A tail shorter than sixteen is
//! padded with zeros. So the result of a row and a column depends on nothing else.

use hublabio_gguf::GgmlType;

use crate::activations::Activations;
use crate::matmul::WeightMatrix;
use crate::simd::{Isa, LANES, Operation, Simd};

/// Rows times columns of a register tile.
const TILE_ROWS: usize = 4;
const TILE_COLS: usize = 4;

/// Fills `sums` `[panels of 16 rows][n][16]` with the products of `rows` rows from `first_row`.
pub(crate) fn slab(
    isa: Isa,
    weights: &WeightMatrix<'_>,
    x: &Activations,
    (first_row, rows): (usize, usize),
    sums: &mut [f32],
) {
    let data = &weights.data[first_row * weights.row_bytes..(first_row + rows) * weights.row_bytes];
    let slab = FloatSlab { data, rows, row_bytes: weights.row_bytes, x, sums };
    match weights.ty {
        GgmlType::F32 => isa.run(Typed(slab, F32)),
        GgmlType::F16 => isa.run(Typed(slab, F16)),
        GgmlType::BF16 => isa.run(Typed(slab, BF16)),
        other => unreachable!("WeightMatrix::new refuses {}", other.name()),
    }
}

/// As [`slab`], of `rows` rows that were decoded to single precision.
pub(crate) fn decoded_slab(isa: Isa, decoded: &[f32], rows: usize, x: &Activations, sums: &mut [f32]) {
    // SAFETY: the same memory as bytes, for the same lifetime; every f32 is four bytes, and bytes need no alignment.
    let data = unsafe { std::slice::from_raw_parts(decoded.as_ptr().cast::<u8>(), size_of_val(decoded)) };
    let slab = FloatSlab { data, rows, row_bytes: data.len() / rows, x, sums };
    isa.run(Typed(slab, F32));
}

struct FloatSlab<'a> {
    data: &'a [u8],
    rows: usize,
    row_bytes: usize,
    x: &'a Activations,
    sums: &'a mut [f32],
}

struct Typed<'a, T>(FloatSlab<'a>, T);

trait Float: Copy {
    const BYTES: usize;
    /// # Safety
    /// 16 values are readable at `p`.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;
}

#[derive(Clone, Copy)]
struct F32;
#[derive(Clone, Copy)]
struct F16;
#[derive(Clone, Copy)]
struct BF16;

impl Float for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller promises 16 values; loads need no alignment.
        unsafe { s.fload(p.cast()) }
    }
}
impl Float for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller promises 16 values; loads need no alignment.
        unsafe { s.load_f16(p.cast()) }
    }
}
impl Float for BF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller promises 16 values; loads need no alignment.
        unsafe { s.as_float(s.shl::<16>(s.load_u16(p.cast()))) }
    }
}

impl<T: Float> Operation for Typed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let FloatSlab { data, rows, row_bytes, x, sums } = self.0;
        let mut col = 0;
        while col < x.n {
            let cols = TILE_COLS.min(x.n - col);
            let activations = &x.float[col * x.k..(col + cols) * x.k];
            let mut row = 0;
            while row < rows {
                let height = if rows - row >= TILE_ROWS { TILE_ROWS } else { 1 };
                let weights = &data[row * row_bytes..(row + height) * row_bytes];
                let mut put = |r: usize, c: usize, value: f32| {
                    let row = row + r;
                    sums[((row / LANES) * x.n + col + c) * LANES + row % LANES] = value;
                };
                match (height, cols) {
                    (TILE_ROWS, 4) => tile::<S, T, TILE_ROWS, 4>(s, weights, activations, x.k, &mut put),
                    (TILE_ROWS, 3) => tile::<S, T, TILE_ROWS, 3>(s, weights, activations, x.k, &mut put),
                    (TILE_ROWS, 2) => tile::<S, T, TILE_ROWS, 2>(s, weights, activations, x.k, &mut put),
                    (TILE_ROWS, _) => tile::<S, T, TILE_ROWS, 1>(s, weights, activations, x.k, &mut put),
                    _ => {
                        for c in 0..cols {
                            let one = &activations[c * x.k..(c + 1) * x.k];
                            tile::<S, T, 1, 1>(s, weights, one, x.k, &mut |r, _, value| put(r, c, value));
                        }
                    }
                }
                row += height;
            }
            col += cols;
        }
    }
}

#[inline(always)]
fn tile<S: Simd, T: Float, const R: usize, const C: usize>(
    s: S,
    weights: &[u8],
    x: &[f32],
    k: usize,
    put: &mut impl FnMut(usize, usize, f32),
) {
    let row_bytes = k * T::BYTES;
    assert!(weights.len() == R * row_bytes && x.len() == C * k);
    let zero = s.fsplat(0.0);
    let mut acc = [[zero; C]; R];
    let whole = k / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let mut column = [zero; C];
        for c in 0..C {
            // SAFETY: i + 16 ≤ k, within every row by the assert above.
            column[c] = unsafe { s.fload(x.as_ptr().add(c * k + i)) };
        }
        for r in 0..R {
            // SAFETY: as above.
            let w = unsafe { T::load(s, weights.as_ptr().add(r * row_bytes + i * T::BYTES)) };
            for c in 0..C {
                acc[r][c] = s.fma(w, column[c], acc[r][c]);
            }
        }
    }
    if whole < k {
        let mut column = [zero; C];
        for c in 0..C {
            let mut lanes = [0.0f32; LANES];
            lanes[..k - whole].copy_from_slice(&x[c * k + whole..(c + 1) * k]);
            // SAFETY: 16 values.
            column[c] = unsafe { s.fload(lanes.as_ptr()) };
        }
        for r in 0..R {
            let mut bytes = [0u8; 4 * LANES];
            let tail = &weights[r * row_bytes + whole * T::BYTES..(r + 1) * row_bytes];
            bytes[..tail.len()].copy_from_slice(tail);
            // SAFETY: 64 bytes hold 16 values of any of the types.
            let w = unsafe { T::load(s, bytes.as_ptr()) };
            for c in 0..C {
                acc[r][c] = s.fma(w, column[c], acc[r][c]);
            }
        }
    }
    for (r, row) in acc.into_iter().enumerate() {
        for (c, lanes) in row.into_iter().enumerate() {
            put(r, c, s.fold_add(lanes));
        }
    }
}
