//! Unpackers for any block format, through the scalar integer form that the format room defines.
//!
//! Sixteen rows are unpacked one after the other into a stage, from which vectors are gathered as the panel wants them.
//! Right for every format and the same numbers as an unpacker of its own would give; such a one, in `panel.rs`, only
//! makes it faster.

use std::marker::PhantomData;
use std::mem::offset_of;

use hublabio_gguf::blocks::{Format as BlockFormat, Integers};
use hublabio_gguf::{GgmlType, with_format};

use crate::panel::{BLOCKS, CHUNK, Format, Scaling, Sink};
use crate::simd::{Isa, LANES, Operation, Simd};

/// What is added to the signed quants of super-block formats: their products take unsigned bytes of at most 127.
const SUPER_ZERO: i8 = 64;

/// A format with one scale, and perhaps one minimum, per 32 weights.
#[derive(Clone, Copy)]
pub(crate) struct FlatForm(Filler);

/// A format with integer scales inside blocks of 256 weights. With minimums, which have a float scale of their own, its
/// quants are not negative; else they are signed, within ±63.
#[derive(Clone, Copy)]
pub(crate) struct SuperForm(Filler);

impl FlatForm {
    pub(crate) fn of(isa: Isa, ty: GgmlType) -> Self {
        Self(Filler::of(isa, ty))
    }
}

impl SuperForm {
    pub(crate) fn of(isa: Isa, ty: GgmlType) -> Self {
        assert!(ty.block_len() == CHUNK, "a super-block is a chunk");
        Self(Filler::of(isa, ty))
    }
}

/// How the rows of one format come into a stage. Behind a pointer, so that the products are compiled once and not for
/// every format; only the unpacking is.
#[derive(Clone, Copy)]
struct Filler {
    isa: Isa,
    fill: unsafe fn(Isa, &[*const u8; LANES], usize, usize, &mut Stage),
    chunk_bytes: usize,
    /// Whether the format has minimums.
    min: bool,
}

impl Filler {
    fn of(isa: Isa, ty: GgmlType) -> Self {
        let fill = with_format!(ty, F => fill::<F>, else unreachable!("{ty} has no blocks"));
        let min = matches!(ty, GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q2_K | GgmlType::Q4_K | GgmlType::Q5_K);
        Self { isa, fill, chunk_bytes: CHUNK / ty.block_len() * ty.block_bytes(), min }
    }

    /// # Safety
    /// Each row has `blocks` blocks of 32 weights readable at `offset`, a whole number of the format's own.
    #[inline(always)]
    unsafe fn stage(self, rows: &[*const u8; LANES], offset: usize, blocks: usize) -> Stage {
        let mut stage = Stage([[Integers::default(); BLOCKS]; LANES]);
        // SAFETY: the caller's promise.
        unsafe { (self.fill)(self.isa, rows, offset, blocks, &mut stage) };
        stage
    }
}

/// One chunk of sixteen rows in integer form.
struct Stage([[Integers; BLOCKS]; LANES]);

impl Stage {
    #[inline(always)]
    fn rows(&self) -> StageRows<'_> {
        StageRows { rows: std::array::from_fn(|row| (&raw const self.0[row]).cast()), stage: PhantomData }
    }
}

/// Where the rows of a stage begin. Only a stage makes one, so every pointer has [`BLOCKS`] blocks behind it.
struct StageRows<'a> {
    rows: [*const u8; LANES],
    stage: PhantomData<&'a Stage>,
}

/// # Safety
/// As [`Filler::stage`].
unsafe fn fill<F: BlockFormat>(isa: Isa, rows: &[*const u8; LANES], offset: usize, blocks: usize, stage: &mut Stage) {
    let n_bytes = blocks * 32 / F::TYPE.block_len() * F::TYPE.block_bytes();
    // SAFETY: the caller's promise.
    let rows = rows.map(|row| unsafe { std::slice::from_raw_parts(row.add(offset), n_bytes) });
    isa.run(Fill::<F> { rows: &rows, blocks, stage, format: PhantomData });
}

struct Fill<'a, F> {
    rows: &'a [&'a [u8]; LANES],
    blocks: usize,
    stage: &'a mut Stage,
    format: PhantomData<F>,
}

impl<F: BlockFormat> Operation for Fill<'_, F> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, _s: S) {
        let (parts, bytes) = const { (F::TYPE.block_len() / 32, F::TYPE.block_bytes()) };
        for (row, out) in self.rows.iter().zip(&mut self.stage.0) {
            for (block, out) in row.chunks_exact(bytes).zip(out[..self.blocks].chunks_exact_mut(parts)) {
                F::unpack(block, out);
            }
        }
    }
}

impl StageRows<'_> {
    /// Sixteen words, one of each row: the field of block `b` that stands at `field` bytes.
    #[inline(always)]
    fn words<S: Simd>(&self, s: S, b: usize, field: usize) -> S::V {
        assert!(b < BLOCKS && field + 4 <= size_of::<Integers>());
        // SAFETY: every row is 8 blocks of `size_of::<Integers>()` bytes, and the word lies in block b by the assert.
        unsafe { s.gather_u32(&self.rows, b * size_of::<Integers>() + field) }
    }

    /// The quants of block `b`, `half` 0 or 1: sixteen bytes of each row, transposed.
    #[inline(always)]
    fn quants<S: Simd>(&self, s: S, b: usize, half: usize) -> [S::V; 4] {
        assert!(b < BLOCKS && half < 2);
        // SAFETY: as in `words`; 32 quants stand at `offset_of!(Integers, quants)`.
        unsafe { s.load_transposed(&self.rows, b * size_of::<Integers>() + offset_of!(Integers, quants) + 16 * half) }
    }
}

const STEPS: usize = offset_of!(Integers, steps);
const MINS: usize = offset_of!(Integers, mins);
const SCALE: usize = offset_of!(Integers, scale);
const MIN_SCALE: usize = offset_of!(Integers, min_scale);

impl Format for FlatForm {
    #[inline(always)]
    fn chunk_bytes(self) -> usize {
        self.0.chunk_bytes
    }
    #[inline(always)]
    fn scaling<S: Simd>(self) -> Scaling {
        Scaling::Flat { zero: if S::SIGNED_PANEL { 0 } else { 128 }, min: self.0.min }
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(
        self,
        s: S,
        rows: &[*const u8; LANES],
        offset: usize,
        blocks: usize,
        out: &mut impl Sink<S>,
    ) {
        // SAFETY: the caller's promise.
        let stage = unsafe { self.0.stage(rows, offset, blocks) };
        let rows = stage.rows();
        let flip = s.splat(if S::SIGNED_PANEL { 0 } else { 0x8080_8080 });
        for b in 0..blocks {
            let step = s.to_f32(rows.words(s, b, STEPS));
            out.scale(s, b, s.fmul(s.as_float(rows.words(s, b, SCALE)), step));
            if self.0.min {
                let min = s.fmul(s.as_float(rows.words(s, b, MIN_SCALE)), s.to_f32(rows.words(s, b, MINS)));
                out.negative_min(s, b, s.fsub(s.fsplat(0.0), min));
            }
            for half in 0..2 {
                let vectors = rows.quants(s, b, half);
                for i in 0..4 {
                    out.quants(s, 8 * b + 4 * half + i, 0, s.xor(vectors[i], flip));
                }
            }
            out.end(s, b, 0);
        }
    }
}

impl Format for SuperForm {
    #[inline(always)]
    fn chunk_bytes(self) -> usize {
        self.0.chunk_bytes
    }
    #[inline(always)]
    fn scaling<S: Simd>(self) -> Scaling {
        Scaling::Super { sub_block: 16, float_min: self.0.min }
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(
        self,
        s: S,
        rows: &[*const u8; LANES],
        offset: usize,
        _blocks: usize,
        out: &mut impl Sink<S>,
    ) {
        // SAFETY: the caller's promise; a chunk is one block of the format.
        let mut stage = unsafe { self.0.stage(rows, offset, BLOCKS) };
        if !self.0.min {
            for quant in stage.0.as_flattened_mut().iter_mut().flat_map(|part| &mut part.quants) {
                *quant = quant.wrapping_add(SUPER_ZERO);
            }
        }
        let rows = stage.rows();
        out.scale(s, 0, s.as_float(rows.words(s, 0, SCALE)));
        if self.0.min {
            out.scale(s, 1, s.fsub(s.fsplat(0.0), s.as_float(rows.words(s, 0, MIN_SCALE))));
        }
        let low_half = s.splat(0xffff);
        for b in 0..BLOCKS {
            let steps = [rows.words(s, b, STEPS), rows.words(s, b, STEPS + 4)];
            let mins = if self.0.min {
                [rows.words(s, b, MINS), rows.words(s, b, MINS + 4)]
            } else {
                let zero = s.splat(SUPER_ZERO as u32);
                [s.mul(steps[0], zero), s.mul(steps[1], zero)]
            };
            out.sub_scale(s, 2 * b, steps[0]);
            out.sub_scale(s, 2 * b + 1, steps[1]);
            out.mins(s, b, s.or(s.and(mins[0], low_half), s.shl::<16>(mins[1])));
        }
        for b in 0..BLOCKS {
            for half in 0..2 {
                let vectors = rows.quants(s, b, half);
                for i in 0..4 {
                    out.quants(s, 8 * b + 4 * half + i, 0, vectors[i]);
                }
                out.end(s, 2 * b + half, 0);
            }
        }
    }
}
