//! Matrix products: weights `[rows, cols]` of any format × activations `[n, cols]` → `[n, rows]`.
//!
//! The rule that makes results the same on every machine, for every batch and thread count:
//! an exact integer sum per scale block, then one fused multiply-add per block and output, blocks
//! in the order of the columns. A row of weights belongs to one lane, so no sum is ever
//! split. Float weights use sixteen lanes over the columns and one fixed fold.
//!
//! Work is cut into *slabs* of rows. A thread takes a slab, walks its chunks of 256 columns,
//! unpacks each once into the L1 cache and multiplies it with every tile of activations. For one
//! column that is a plain stream over the weights; for hundreds it is a GEMM.

use std::cell::RefCell;

use hublabio_gguf::{GgmlType, decode_row};

use crate::activations::{ActivationForms, Activations, tiles};
use crate::float_matmul;
use crate::integer_form::{FlatForm, SuperForm};
use crate::panel::{BLOCKS, CHUNK, Format, Panel, Q4_0, Q4K, Q5_0, Q6K, Q8_0, Scaling};
use crate::simd::{Isa, LANES, Operation, Simd};
use crate::stream::{FlatDot, Prefetch, SuperDot};
use crate::team::{SharedMut, ThreadTeam};
use crate::{Error, Result};

/// A matrix of weights as it lies in the file, rows one after the other.
#[derive(Clone, Copy)]
pub struct WeightMatrix<'a> {
    pub(crate) ty: GgmlType,
    pub(crate) data: &'a [u8],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_bytes: usize,
}

impl<'a> WeightMatrix<'a> {
    /// Wraps `data`, which holds `rows` rows of `cols` weights.
    ///
    /// # Errors
    /// When there are no kernels for `ty`, `cols` is no multiple of its block, or `data` is too short or too long.
    pub fn new(ty: GgmlType, data: &'a [u8], rows: usize, cols: usize) -> Result<Self> {
        if forms_of(ty).is_none() {
            return Err(Error::UnsupportedType { ty: ty.name() });
        }
        let row_bytes = ty.row_bytes(cols).filter(|_| cols > 0).ok_or(Error::BadRow { ty: ty.name(), cols })?;
        let expected = row_bytes.checked_mul(rows);
        if expected != Some(data.len()) {
            return Err(Error::BadSize { ty: ty.name(), rows, cols, bytes: data.len() });
        }
        Ok(Self { ty, data, rows, cols, row_bytes })
    }

    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that a product with one column streams from memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Rows `first … first + n - 1` as a matrix of their own: one of several matrices that were fused into this one, or
    /// one expert of a stack `[cols, rows, experts]` that was wrapped as `experts · rows` rows.
    ///
    /// # Panics
    /// When there are fewer rows.
    #[must_use]
    pub fn rows_range(&self, first: usize, n: usize) -> Self {
        assert!(first <= self.rows && n <= self.rows - first, "rows {first}+{n} of {}", self.rows);
        Self { data: &self.data[first * self.row_bytes..][..n * self.row_bytes], rows: n, ..*self }
    }

    /// The forms of activations that a product with this matrix reads.
    #[must_use]
    pub fn forms(&self) -> ActivationForms {
        forms_of(self.ty).unwrap_or_default()
    }
}

/// How the products of a type are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Float weights times float activations.
    Float,
    /// Decoded to single precision, then as float weights: formats whose scales do not fit the integer sums.
    Decoded,
    /// Integer sums per 32 weights.
    Flat,
    /// Integer sums per 256 weights.
    Super,
}

/// `None` where there is no kernel: types that hold no weights.
fn route_of(ty: GgmlType) -> Option<Route> {
    use GgmlType as T;
    Some(match ty {
        T::F32 | T::F16 | T::BF16 => Route::Float,
        T::F64 | T::NVFP4 | T::Q8_1 | T::Q8_K => Route::Decoded,
        T::Q8_0 | T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::IQ4_NL | T::IQ4_XS | T::MXFP4 | T::Q1_0 | T::Q2_0 => {
            Route::Flat
        }
        T::Q2_K
        | T::Q3_K
        | T::Q4_K
        | T::Q5_K
        | T::Q6_K
        | T::TQ1_0
        | T::TQ2_0
        | T::IQ1_S
        | T::IQ1_M
        | T::IQ2_XXS
        | T::IQ2_XS
        | T::IQ2_S
        | T::IQ3_XXS
        | T::IQ3_S => Route::Super,
        _ => return None,
    })
}

/// The activation form a type multiplies with; `None` where there is no kernel.
fn forms_of(ty: GgmlType) -> Option<ActivationForms> {
    let none = ActivationForms::default();
    Some(match route_of(ty)? {
        Route::Float | Route::Decoded => ActivationForms { float: true, ..none },
        Route::Flat => ActivationForms { per32: true, ..none },
        Route::Super => ActivationForms { per256: true, ..none },
    })
}

/// Whether [`WeightMatrix`] can hold this type.
#[must_use]
pub fn has_kernel(ty: GgmlType) -> bool {
    forms_of(ty).is_some()
}

/// One product of a call: `out[n, rows] = x · weightsᵀ + bias`.
pub struct Product<'a> {
    /// The activations `[n, cols]`.
    pub x: &'a Activations,
    /// The weights `[rows, cols]`.
    pub weights: WeightMatrix<'a>,
    /// `[rows]`, added at the end.
    pub bias: Option<&'a [f32]>,
    /// `[n, rows]`, overwritten.
    pub out: &'a mut [f32],
}

/// Up to this many columns a slab is one panel and memory is the limit; above, a few panels share
/// each tile of activations while it is in the L1 cache.
const COLS_STREAMING: usize = 12;
const PANELS_MAX: usize = 4;

/// Computes several products at once, sharing the threads. They may have different activations: one call serves the
/// query, key and value of a layer, or all experts that its tokens chose. What shares a call changes no result.
///
/// # Panics
/// When the shapes of a product do not fit together or its `x` lacks a form that its matrix needs.
pub fn matmul(team: &ThreadTeam, isa: Isa, products: &mut [Product<'_>]) {
    let mut jobs = Vec::with_capacity(products.len());
    let mut n_slabs = 0;
    for Product { x, weights, bias, out } in products.iter_mut() {
        assert_eq!(weights.cols, x.k, "weights of {} columns, activations of {}", weights.cols, x.k);
        assert_eq!(out.len(), x.n * weights.rows, "the output holds n·rows values");
        assert!(bias.is_none_or(|b| b.len() == weights.rows), "a bias per row");
        let need = weights.forms();
        assert!(
            (!need.float || x.forms.float) && (!need.per32 || x.forms.per32) && (!need.per256 || x.forms.per256),
            "activations were not prepared for {}",
            weights.ty.name()
        );
        if out.is_empty() {
            continue;
        }
        let panels = if x.n <= COLS_STREAMING { 1 } else { PANELS_MAX };
        let job = Job {
            x,
            weights: *weights,
            bias: *bias,
            out: SharedMut::new(out),
            slab_rows: panels * LANES,
            first_slab: n_slabs,
        };
        n_slabs += job.weights.rows.div_ceil(job.slab_rows);
        jobs.push(job);
    }
    // Several slabs per hand-out where there are many: neighbours stream better, and the cursor rests.
    let per_chunk = (n_slabs / (team.n_threads() * 8)).clamp(1, 32);
    let chunks = n_slabs.div_ceil(per_chunk);
    let work = |i: usize| {
        for slab in i * per_chunk..((i + 1) * per_chunk).min(n_slabs) {
            let job = &jobs[jobs.partition_point(|j| j.first_slab <= slab) - 1];
            let first_row = (slab - job.first_slab) * job.slab_rows;
            let rows = job.slab_rows.min(job.weights.rows - first_row);
            job.slab(isa, first_row, rows);
        }
    };
    // Below this many multiply-adds waking the team costs more than it saves.
    let small = jobs.iter().map(|j| j.weights.rows * j.weights.cols * j.x.n).sum::<usize>() < 64 * 1024;
    if small { (0..chunks).for_each(work) } else { team.run(chunks, work) }
}

struct Job<'a> {
    x: &'a Activations,
    weights: WeightMatrix<'a>,
    bias: Option<&'a [f32]>,
    out: SharedMut<'a, f32>,
    /// Rows of a slab, by the number of columns.
    slab_rows: usize,
    /// The number of its first slab among those of the call.
    first_slab: usize,
}

thread_local! {
    /// Sums of the slab in work, `[panels][n][16 rows]`, and the unpacked panels.
    static SCRATCH: RefCell<(Vec<f32>, Box<[Panel; PANELS_MAX]>)> =
        RefCell::new((Vec::new(), Box::new([const { Panel::zeroed() }; PANELS_MAX])));
    /// The rows of the slab in work, for formats that are multiplied in single precision.
    static DECODED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Job<'_> {
    fn slab(&self, isa: Isa, first_row: usize, rows: usize) {
        let x = self.x;
        SCRATCH.with_borrow_mut(|(sums, panels)| {
            sums.clear();
            sums.resize(rows.div_ceil(LANES) * x.n * LANES, 0.0);
            let slab = Slab { weights: self.weights, x, first_row, rows, sums, panels };
            use GgmlType as T;
            match self.weights.ty {
                T::Q8_0 => isa.run(Int8Slab(slab, Q8_0)),
                T::Q4_0 => isa.run(Int8Slab(slab, Q4_0)),
                T::Q5_0 => isa.run(Int8Slab(slab, Q5_0)),
                T::Q4_K => isa.run(Int8Slab(slab, Q4K)),
                T::Q6_K => isa.run(Int8Slab(slab, Q6K)),
                ty if route_of(ty) == Some(Route::Flat) => isa.run(Int8Slab(slab, FlatForm::of(isa, ty))),
                ty if route_of(ty) == Some(Route::Super) => isa.run(Int8Slab(slab, SuperForm::of(isa, ty))),
                ty if route_of(ty) == Some(Route::Decoded) => DECODED.with_borrow_mut(|decoded| {
                    let data =
                        &self.weights.data[first_row * self.weights.row_bytes..][..rows * self.weights.row_bytes];
                    decoded.resize(rows * self.weights.cols, 0.0);
                    decode_row(ty, data, decoded).expect("`WeightMatrix::new` checked type and size");
                    float_matmul::decoded_slab(isa, decoded, rows, x, sums);
                }),
                _ => float_matmul::slab(isa, &self.weights, x, (first_row, rows), sums),
            }
            // One copy out: the sums of a row panel are contiguous per column.
            for c in 0..x.n {
                // SAFETY: rows of different slabs are disjoint, columns too.
                let out = unsafe { self.out.slice(c * self.weights.rows + first_row, rows) };
                for (p, piece) in out.chunks_mut(LANES).enumerate() {
                    let at = (p * x.n + c) * LANES;
                    piece.copy_from_slice(&sums[at..at + piece.len()]);
                }
                if let Some(bias) = self.bias {
                    out.iter_mut().zip(&bias[first_row..]).for_each(|(o, b)| *o += b);
                }
            }
        });
    }
}

/// Up to `PANELS_MAX` panels of 16 rows, all columns of the batch.
struct Slab<'a> {
    weights: WeightMatrix<'a>,
    x: &'a Activations,
    first_row: usize,
    rows: usize,
    /// `[panels][n][16]`, zeroed.
    sums: &'a mut [f32],
    panels: &'a mut [Panel; PANELS_MAX],
}

struct Int8Slab<'a, T>(Slab<'a>, T);

impl<T: Format> Operation for Int8Slab<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Self(Slab { weights, x, first_row, rows, sums, panels }, format) = self;
        let n_panels = rows.div_ceil(LANES);
        let n_chunks = weights.cols.div_ceil(CHUNK);
        let mut pointers = [[std::ptr::null::<u8>(); LANES]; PANELS_MAX];
        for (row, pointer) in pointers.as_flattened_mut()[..n_panels * LANES].iter_mut().enumerate() {
            // Lanes past the last row read it once more; their sums are dropped.
            *pointer = weights.data[(first_row + row.min(rows - 1)) * weights.row_bytes..].as_ptr();
        }
        if x.n == 1 {
            stream(s, format, &weights, x, &pointers[0], sums);
            return;
        }
        let streaming = x.n <= COLS_STREAMING;
        let scaling = format.scaling::<S>();
        for chunk in 0..n_chunks {
            let blocks = BLOCKS.min((weights.cols - chunk * CHUNK) / 32);
            let offset = chunk * format.chunk_bytes();
            for p in 0..n_panels {
                if streaming {
                    let next = pointers[p][0].wrapping_add(LANES * (weights.row_bytes + offset));
                    Prefetch::new(next, LANES * format.chunk_bytes()).step(s);
                }
                // SAFETY: `WeightMatrix::new` checked that every row holds `cols` weights, of which
                // this chunk has `blocks` blocks of 32.
                unsafe { format.unpack(s, &pointers[p], offset, blocks, &mut panels[p]) };
            }
            for tile in tiles(x.n, x.tile_cols) {
                for p in 0..n_panels {
                    let at = (p * x.n + tile.first) * LANES;
                    let sums = &mut sums[at..at + tile.width * LANES];
                    let place = Place { first_col: tile.first, chunk, blocks };
                    match tile.width {
                        12 => chunk_times_tile::<S, 12>(s, scaling, &panels[p], x, place, sums),
                        8 => chunk_times_tile::<S, 8>(s, scaling, &panels[p], x, place, sums),
                        6 => chunk_times_tile::<S, 6>(s, scaling, &panels[p], x, place, sums),
                        4 => chunk_times_tile::<S, 4>(s, scaling, &panels[p], x, place, sums),
                        3 => chunk_times_tile::<S, 3>(s, scaling, &panels[p], x, place, sums),
                        2 => chunk_times_tile::<S, 2>(s, scaling, &panels[p], x, place, sums),
                        1 => chunk_times_tile::<S, 1>(s, scaling, &panels[p], x, place, sums),
                        _ => unreachable!("tiles() gives only the widths above"),
                    }
                }
            }
        }
    }
}

/// Sixteen rows times one column: every vector is multiplied as it is unpacked.
#[inline(always)]
fn stream<S: Simd, T: Format>(
    s: S,
    format: T,
    weights: &WeightMatrix<'_>,
    x: &Activations,
    rows: &[*const u8; LANES],
    sums: &mut [f32],
) {
    assert!(sums.len() == LANES);
    let n_chunks = weights.cols.div_ceil(CHUNK);
    let mut acc = s.fsplat(0.0);
    for chunk in 0..n_chunks {
        let blocks = BLOCKS.min((weights.cols - chunk * CHUNK) / 32);
        let offset = chunk * format.chunk_bytes();
        // The next sixteen rows follow in memory: this chunk's share of them.
        let next = rows[0].wrapping_add(LANES * (weights.row_bytes + offset));
        // Both: `WeightMatrix::new` checked that every row holds `cols` weights, of which this chunk
        // has `blocks` blocks of 32.
        match format.scaling::<S>() {
            Scaling::Flat { zero, .. } => {
                let prefetch = Prefetch::new(next, LANES * format.chunk_bytes() / BLOCKS);
                let mut dot = FlatDot::new(s, &x.per32, (chunk, blocks), zero, acc, prefetch);
                // SAFETY: as above.
                unsafe { format.unpack(s, rows, offset, blocks, &mut dot) };
                acc = dot.acc;
            }
            Scaling::Super { sub_block, float_min } => {
                let prefetch = Prefetch::new(next, LANES * format.chunk_bytes() * sub_block / CHUNK);
                let mut dot = SuperDot::new(s, &x.per256, chunk, prefetch);
                // SAFETY: as above.
                unsafe { format.unpack(s, rows, offset, blocks, &mut dot) };
                acc = dot.finish(s, float_min, acc);
            }
        }
    }
    // SAFETY: 16 values, asserted above.
    unsafe { s.fstore(sums.as_mut_ptr(), acc) };
}

/// Where in the product a micro-kernel works.
#[derive(Clone, Copy)]
struct Place {
    first_col: usize,
    chunk: usize,
    blocks: usize,
}

/// `sums[W][16] += panel · W columns`, over one chunk. The micro-kernels do not depend on the format, so the formats
/// share them.
#[inline(always)]
fn chunk_times_tile<S: Simd, const W: usize>(
    s: S,
    scaling: Scaling,
    panel: &Panel,
    x: &Activations,
    place: Place,
    sums: &mut [f32],
) {
    let tile = PanelTimesTile::<'_, W> { panel, x, place, sums };
    match scaling {
        Scaling::Flat { zero, min } => s.call(FlatTile { tile, zero, min }),
        Scaling::Super { sub_block: 16, float_min } => s.call(SuperTile::<W, 16> { tile, float_min }),
        Scaling::Super { float_min, .. } => s.call(SuperTile::<W, 32> { tile, float_min }),
    }
}

/// What a micro-kernel multiplies, and where the result goes.
struct PanelTimesTile<'a, const W: usize> {
    panel: &'a Panel,
    x: &'a Activations,
    place: Place,
    sums: &'a mut [f32],
}

struct FlatTile<'a, const W: usize> {
    tile: PanelTimesTile<'a, W>,
    zero: u32,
    min: bool,
}

struct SuperTile<'a, const W: usize, const SUB_BLOCK: usize> {
    tile: PanelTimesTile<'a, W>,
    float_min: bool,
}

impl<const W: usize> Operation for FlatTile<'_, W> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        if W > S::TILE_COLS {
            unreachable!("tiles() gives no wider tiles than the ISA has");
        }
        let PanelTimesTile { panel, x, place, sums } = self.tile;
        flat::<S, W>(s, panel, x, place, (self.zero, self.min), sums);
    }
}

impl<const W: usize, const SUB_BLOCK: usize> Operation for SuperTile<'_, W, SUB_BLOCK> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        if W > S::TILE_COLS {
            unreachable!("tiles() gives no wider tiles than the ISA has");
        }
        let PanelTimesTile { panel, x, place, sums } = self.tile;
        super_block::<S, W>(s, panel, x, place, (SUB_BLOCK, self.float_min), sums);
    }
}

#[inline(always)]
fn flat<S: Simd, const W: usize>(
    s: S,
    panel: &Panel,
    x: &Activations,
    place: Place,
    (zero, min): (u32, bool),
    sums: &mut [f32],
) {
    let Place { first_col, chunk, blocks } = place;
    let form = &x.per32;
    let values = &form.values[first_col * x.k / 4 + chunk * (CHUNK / 4) * W..][..blocks * 8 * W];
    let scales = &form.scales[first_col * x.k / 32 + chunk * BLOCKS * W..][..blocks * W];
    let negative_sums = &form.sums[first_col * x.k / 32 + chunk * BLOCKS * W..][..blocks * W];
    assert!(blocks <= BLOCKS && sums.len() == W * LANES);
    let zero = s.splat(zero);
    // SAFETY: lengths are checked by the slices and the assert above: block b < blocks ≤ 8,
    // group < 8·blocks ≤ 64, column c < W.
    unsafe {
        let mut acc = [s.fsplat(0.0); W];
        for c in 0..W {
            acc[c] = s.fload(sums.as_ptr().add(c * LANES));
        }
        for b in 0..blocks {
            let mut dot = [zero; W];
            for c in 0..W {
                dot[c] = s.mul(s.splat(*negative_sums.get_unchecked(b * W + c)), zero);
            }
            for g in 8 * b..8 * b + 8 {
                let w = s.load(panel.quants.as_ptr().add(g * LANES));
                for c in 0..W {
                    let a = s.splat(*values.get_unchecked(g * W + c));
                    dot[c] = if S::SIGNED_PANEL { s.dot_i8(dot[c], w, a) } else { s.dot_u8(dot[c], w, a) };
                }
            }
            let d = s.fload(panel.scales.as_ptr().add(b * LANES));
            for c in 0..W {
                let scale = s.fmul(d, s.fsplat(*scales.get_unchecked(b * W + c)));
                acc[c] = s.fma(scale, s.to_f32(dot[c]), acc[c]);
            }
            if min {
                let negative_min = s.fload(panel.negative_mins.as_ptr().add(b * LANES));
                for c in 0..W {
                    let scale = s.fmul(negative_min, s.fsplat(*scales.get_unchecked(b * W + c)));
                    let negative_sum = s.to_f32(s.splat(*negative_sums.get_unchecked(b * W + c)));
                    acc[c] = s.fma(scale, negative_sum, acc[c]);
                }
            }
        }
        for c in 0..W {
            s.fstore(sums.as_mut_ptr().add(c * LANES), acc[c]);
        }
    }
}

#[inline(always)]
fn super_block<S: Simd, const W: usize>(
    s: S,
    panel: &Panel,
    x: &Activations,
    place: Place,
    (sub_block, float_min): (usize, bool),
    sums: &mut [f32],
) {
    let Place { first_col, chunk, .. } = place;
    let form = &x.per256;
    let values = &form.values[first_col * x.k / 4 + chunk * (CHUNK / 4) * W..][..CHUNK / 4 * W];
    let scales = &form.scales[first_col * x.k / CHUNK + chunk * W..][..W];
    let half_sums = &form.sums[first_col * x.k / 32 + chunk * BLOCKS * W..][..BLOCKS * W];
    assert!(sums.len() == W * LANES);
    let groups = sub_block / 4;
    // SAFETY: lengths are checked by the slices and the assert above: group < 64, sub-block < 16,
    // block < 8, column c < W.
    unsafe {
        let mut total = [s.splat(0); W];
        for sub in 0..CHUNK / sub_block {
            let mut dot = [s.splat(0); W];
            for g in sub * groups..(sub + 1) * groups {
                let w = s.load(panel.quants.as_ptr().add(g * LANES));
                for c in 0..W {
                    dot[c] = s.dot_u8(dot[c], w, s.splat(*values.get_unchecked(g * W + c)));
                }
            }
            let scale = s.load(panel.sub_scales.as_ptr().add(sub * LANES));
            for c in 0..W {
                total[c] = s.add(total[c], s.mul(dot[c], scale));
            }
        }
        let mut least = [s.splat(0); W];
        for b in 0..BLOCKS {
            let m = s.load(panel.mins.as_ptr().add(b * LANES));
            for c in 0..W {
                least[c] = s.dot_i16(least[c], m, s.splat(*half_sums.get_unchecked(b * W + c)));
            }
        }
        let d = s.fload(panel.scales.as_ptr());
        for c in 0..W {
            let a = s.fsplat(*scales.get_unchecked(c));
            let place = sums.as_mut_ptr().add(c * LANES);
            let mut acc = s.fload(place);
            if float_min {
                let negative_min = s.fmul(s.fload(panel.scales.as_ptr().add(LANES)), s.fsub(s.fsplat(0.0), a));
                acc = s.fma(s.fmul(d, a), s.to_f32(total[c]), acc);
                acc = s.fma(negative_min, s.to_f32(least[c]), acc);
            } else {
                acc = s.fma(s.fmul(d, a), s.to_f32(s.sub(total[c], least[c])), acc);
            }
            s.fstore(place, acc);
        }
    }
}

#[cfg(test)]
#[path = "matmul_tests.rs"]
mod tests;
