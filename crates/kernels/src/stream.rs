//! Products with one column: sinks that multiply an unpacker's vectors as they come.
//!
//! The arithmetic is that of the GEMM to the bit: exact integer sums per scale block, then one fused
//! multiply-add per block and row, in the order of the columns.

use crate::activations::Quantized;
use crate::panel::{BLOCKS, CHUNK, Sink};
use crate::simd::{LANES, Simd};

/// Asks for memory that will be needed a slab later, a share at a time, in the order of memory and into the second
/// level. The sixteen rows of a slab are more streams than the hardware follows, the slabs themselves are one. Shares
/// are small, because a burst fills the miss queue and stalls the loads that are needed now. Measured on two Zen 4
/// cores, 1B Q4_0, tokens/s: no prefetch 16, the same shares into the first level 21, a burst per chunk 28, this 33.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    next: *const u8,
    share: usize,
}

impl Prefetch {
    #[inline(always)]
    pub(crate) fn new(next: *const u8, share: usize) -> Self {
        Self { next, share }
    }

    /// Asks for the lines that begin in the next share.
    #[inline(always)]
    pub(crate) fn step<S: Simd>(&mut self, s: S) {
        const LINE: usize = 64;
        let mut at = (self.next as usize).wrapping_neg() % LINE;
        while at < self.share {
            s.prefetch(self.next.wrapping_add(at));
            at += LINE;
        }
        self.next = self.next.wrapping_add(self.share);
    }
}

/// One float scale per 32 weights.
pub(crate) struct FlatDot<'a, S: Simd> {
    prefetch: Prefetch,
    values: &'a [u32],
    scales: &'a [f32],
    negative_sums: &'a [u32],
    zero: S::V,
    /// Two chains, so that one waits less for the other.
    dot: [S::V; 2],
    d: S::F,
    negative_min: Option<S::F>,
    /// The sums of the 16 rows so far.
    pub acc: S::F,
}

impl<'a, S: Simd> FlatDot<'a, S> {
    #[inline(always)]
    pub(crate) fn new(
        s: S,
        x: &'a Quantized,
        (chunk, blocks): (usize, usize),
        zero: u32,
        acc: S::F,
        prefetch: Prefetch,
    ) -> Self {
        Self {
            prefetch,
            values: &x.values[chunk * CHUNK / 4..][..blocks * 8],
            scales: &x.scales[chunk * BLOCKS..][..blocks],
            negative_sums: &x.sums[chunk * BLOCKS..][..blocks],
            zero: s.splat(zero),
            dot: [s.splat(0); 2],
            d: s.fsplat(0.0),
            negative_min: None,
            acc,
        }
    }
}

impl<S: Simd> Sink<S> for FlatDot<'_, S> {
    #[inline(always)]
    fn scale(&mut self, s: S, row: usize, f: S::F) {
        debug_assert!(row < self.negative_sums.len());
        self.d = f;
        // SAFETY: an unpacker of `blocks` blocks names rows below `blocks` (asserted in debug builds).
        let sum = unsafe { *self.negative_sums.get_unchecked(row) };
        self.dot = [s.mul(s.splat(sum), self.zero), s.splat(0)];
    }
    #[inline(always)]
    fn negative_min(&mut self, _s: S, _row: usize, f: S::F) {
        self.negative_min = Some(f);
    }
    #[inline(always)]
    fn sub_scale(&mut self, _s: S, _sub: usize, _v: S::V) {}
    #[inline(always)]
    fn mins(&mut self, _s: S, _block: usize, _v: S::V) {}
    #[inline(always)]
    fn quants(&mut self, s: S, group: usize, _slot: usize, v: S::V) {
        debug_assert!(group < self.values.len());
        // SAFETY: an unpacker of `blocks` blocks names groups below `8 · blocks` (asserted in debug builds).
        let x = s.splat(unsafe { *self.values.get_unchecked(group) });
        let dot = &mut self.dot[group % 2];
        *dot = if S::SIGNED_PANEL { s.dot_i8(*dot, v, x) } else { s.dot_u8(*dot, v, x) };
    }
    #[inline(always)]
    fn end(&mut self, s: S, part: usize, _slot: usize) {
        self.prefetch.step(s);
        debug_assert!(part < self.scales.len());
        // SAFETY: an unpacker of `blocks` blocks ends parts below `blocks` (asserted in debug builds).
        let a = s.fsplat(unsafe { *self.scales.get_unchecked(part) });
        self.acc = s.fma(s.fmul(self.d, a), s.to_f32(s.add(self.dot[0], self.dot[1])), self.acc);
        if let Some(negative_min) = self.negative_min {
            let negative_sum = s.to_f32(s.splat(self.negative_sums[part]));
            self.acc = s.fma(s.fmul(negative_min, a), negative_sum, self.acc);
        }
    }
}

/// Integer scales inside a block of 256.
pub(crate) struct SuperDot<'a, S: Simd> {
    prefetch: Prefetch,
    values: &'a [u32; CHUNK / 4],
    half_sums: &'a [u32; BLOCKS],
    scale: f32,
    sub_scales: [u32; 16 * LANES],
    dot: [S::V; 4],
    total: S::V,
    least: S::V,
    d: [S::F; 2],
}

impl<'a, S: Simd> SuperDot<'a, S> {
    #[inline(always)]
    pub(crate) fn new(s: S, x: &'a Quantized, chunk: usize, prefetch: Prefetch) -> Self {
        let values = x.values[chunk * CHUNK / 4..].first_chunk().expect("activations are whole blocks of 256");
        let half_sums = x.sums[chunk * BLOCKS..].first_chunk().expect("activations are whole blocks of 256");
        Self {
            prefetch,
            values,
            half_sums,
            scale: x.scales[chunk],
            sub_scales: [0; 16 * LANES],
            dot: [s.splat(0); 4],
            total: s.splat(0),
            least: s.splat(0),
            d: [s.fsplat(0.0); 2],
        }
    }

    /// The sums of the 16 rows, this block added.
    #[inline(always)]
    pub(crate) fn finish(self, s: S, float_min: bool, acc: S::F) -> S::F {
        let a = s.fsplat(self.scale);
        let scale = s.fmul(self.d[0], a);
        if float_min {
            let negative_min = s.fmul(self.d[1], s.fsub(s.fsplat(0.0), a));
            s.fma(negative_min, s.to_f32(self.least), s.fma(scale, s.to_f32(self.total), acc))
        } else {
            s.fma(scale, s.to_f32(s.sub(self.total, self.least)), acc)
        }
    }
}

impl<S: Simd> Sink<S> for SuperDot<'_, S> {
    #[inline(always)]
    fn scale(&mut self, _s: S, row: usize, f: S::F) {
        self.d[row] = f;
    }
    #[inline(always)]
    fn negative_min(&mut self, _s: S, _row: usize, _f: S::F) {}
    #[inline(always)]
    fn sub_scale(&mut self, s: S, sub: usize, v: S::V) {
        let place = &mut self.sub_scales[sub * LANES..(sub + 1) * LANES];
        // SAFETY: 16 words.
        unsafe { s.store(place.as_mut_ptr(), v) };
    }
    #[inline(always)]
    fn mins(&mut self, s: S, block: usize, v: S::V) {
        self.least = s.dot_i16(self.least, v, s.splat(self.half_sums[block]));
    }
    #[inline(always)]
    fn quants(&mut self, s: S, group: usize, slot: usize, v: S::V) {
        self.dot[slot] = s.dot_u8(self.dot[slot], v, s.splat(self.values[group]));
    }
    #[inline(always)]
    fn end(&mut self, s: S, part: usize, slot: usize) {
        self.prefetch.step(s);
        let place = &self.sub_scales[part * LANES..(part + 1) * LANES];
        // SAFETY: 16 words.
        let sub_scale = unsafe { s.load(place.as_ptr()) };
        self.total = s.add(self.total, s.mul(self.dot[slot], sub_scale));
        self.dot[slot] = s.splat(0);
    }
}
