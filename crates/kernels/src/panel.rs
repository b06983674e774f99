//! Unpackers: sixteen rows of any block format → one panel of int8, in the order the GEMM reads.
//!
//! A panel holds a *chunk* of 256 weights of each of 16 rows. Quants are interleaved so that one
//! vector holds four consecutive weights of every row:
//!
//! ```text
//! quants[g] = | row 0: w[4g] w[4g+1] w[4g+2] w[4g+3] | row 1: … | … | row 15: … |     g = 0 … 63
//! ```
//!
//! An unpacker hands its vectors to a [`Sink`]: a [`Panel`] stores them for a GEMM, a product with one column
//! multiplies them as they come, so that they never leave the registers.
//!
//! Nothing is stored between calls: the weights stay in the file's own layout, and a panel lives
//! in the L1 cache for as long as the chunk is used. Formats without an unpacker here go through their scalar integer
//! form (`integer_form.rs`). To make one fast, write its unpacker; the GEMM and the tests pick it up through [`Format`].

use crate::simd::{LANES, Simd};

/// Weights of one row in a chunk.
pub(crate) const CHUNK: usize = 256;
/// Vectors of quants in a panel.
const GROUPS: usize = CHUNK / 4;
/// Blocks of 32 weights in a chunk.
pub(crate) const BLOCKS: usize = CHUNK / 32;

/// One chunk of 16 rows.
#[repr(C, align(64))]
pub(crate) struct Panel {
    /// `[64 groups][16 rows]`, four weights in each.
    pub quants: [u32; GROUPS * LANES],
    /// Flat formats: `[8 blocks][16 rows]`. Super-block formats: `[16 rows]` d, then `[16 rows]` dmin.
    pub scales: [f32; BLOCKS * LANES],
    /// Super-block formats: integer sub-scales, `[8 or 16 sub-blocks][16 rows]`.
    pub sub_scales: [u32; 16 * LANES],
    /// Super-block formats: integer mins as pairs of i16, one for each half of a block of 32:
    /// `[8 blocks][16 rows]`.
    pub mins: [u32; BLOCKS * LANES],
    /// Flat formats with a minimum: its negative, `[8 blocks][16 rows]`.
    pub negative_mins: [f32; BLOCKS * LANES],
}

impl Panel {
    pub(crate) const fn zeroed() -> Self {
        Self {
            quants: [0; GROUPS * LANES],
            scales: [0.0; BLOCKS * LANES],
            sub_scales: [0; 16 * LANES],
            mins: [0; BLOCKS * LANES],
            negative_mins: [0.0; BLOCKS * LANES],
        }
    }
}

/// How the scales of a format enter the product, which is what the GEMM must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scaling {
    /// One float scale per 32 weights; `zero` is what the stored quants have too much. With `min`, each block also adds a
    /// float of its own to every weight.
    Flat { zero: u32, min: bool },
    /// One float scale per 256 weights, integer scales per `sub_block` weights, integer mins per
    /// 16, which have their own float scale where `float_min`, else share the first.
    Super { sub_block: usize, float_min: bool },
}

/// A block format that the int8 GEMM can read.
pub(crate) trait Format: Copy + Send + Sync + 'static {
    /// Bytes of a chunk of one row.
    fn chunk_bytes(self) -> usize;
    fn scaling<S: Simd>(self) -> Scaling;
    /// Gives `out` what `blocks` blocks of 32 weights of 16 rows hold, from `offset` in each row.
    /// # Safety
    /// Each row has `blocks` blocks readable at `offset`.
    unsafe fn unpack<S: Simd>(
        self,
        s: S,
        rows: &[*const u8; LANES],
        offset: usize,
        blocks: usize,
        out: &mut impl Sink<S>,
    );
}

/// Where an unpacker's vectors go. A *part* is what shares one scale: 32 weights of a flat format, a sub-block of a
/// super-block format.
pub(crate) trait Sink<S: Simd> {
    /// Float scale of block `row` (flat), or d (0) and dmin (1). Comes before the quants it belongs to.
    fn scale(&mut self, s: S, row: usize, f: S::F);
    /// The negative minimum of block `row` of a flat format. Comes before the quants it belongs to.
    fn negative_min(&mut self, s: S, row: usize, f: S::F);
    /// Integer scale of a sub-block. All come before the quants.
    fn sub_scale(&mut self, s: S, sub: usize, v: S::V);
    /// Integer mins of the two halves of a block of 32, as two i16.
    fn mins(&mut self, s: S, block: usize, v: S::V);
    /// Weights `4·group … 4·group + 3`. `slot` tells apart the parts that are under way at the same time.
    fn quants(&mut self, s: S, group: usize, slot: usize, v: S::V);
    /// All quants of `part` were given, in `slot`.
    fn end(&mut self, s: S, part: usize, slot: usize);
}

impl<S: Simd> Sink<S> for Panel {
    #[inline(always)]
    fn scale(&mut self, s: S, row: usize, f: S::F) {
        debug_assert!(row < BLOCKS);
        // SAFETY: `row` is below 8 in every unpacker (asserted in debug builds), 16 lanes each.
        unsafe { s.fstore(self.scales.as_mut_ptr().add(row * LANES), f) }
    }
    #[inline(always)]
    fn negative_min(&mut self, s: S, row: usize, f: S::F) {
        debug_assert!(row < BLOCKS);
        // SAFETY: `row` is below 8 in every unpacker (asserted in debug builds), 16 lanes each.
        unsafe { s.fstore(self.negative_mins.as_mut_ptr().add(row * LANES), f) }
    }
    #[inline(always)]
    fn sub_scale(&mut self, s: S, sub: usize, v: S::V) {
        debug_assert!(sub < 16);
        // SAFETY: `sub` is below 16 in every unpacker (asserted in debug builds), 16 lanes each.
        unsafe { s.store(self.sub_scales.as_mut_ptr().add(sub * LANES), v) }
    }
    #[inline(always)]
    fn mins(&mut self, s: S, block: usize, v: S::V) {
        debug_assert!(block < BLOCKS);
        // SAFETY: `block` is below 8 in every unpacker (asserted in debug builds), 16 lanes each.
        unsafe { s.store(self.mins.as_mut_ptr().add(block * LANES), v) }
    }
    #[inline(always)]
    fn quants(&mut self, s: S, group: usize, _slot: usize, v: S::V) {
        debug_assert!(group < GROUPS);
        // SAFETY: `group` is below 64 in every unpacker (asserted in debug builds), 16 lanes each.
        unsafe { s.store(self.quants.as_mut_ptr().add(group * LANES), v) }
    }
    #[inline(always)]
    fn end(&mut self, _s: S, _part: usize, _slot: usize) {}
}

/// `{ f16 d; i8 qs[32] }`
#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

impl Format for Q8_0 {
    #[inline(always)]
    fn chunk_bytes(self) -> usize {
        8 * 34
    }
    #[inline(always)]
    fn scaling<S: Simd>(self) -> Scaling {
        Scaling::Flat { zero: if S::SIGNED_PANEL { 0 } else { 128 }, min: false }
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
        let flip = s.splat(if S::SIGNED_PANEL { 0 } else { 0x8080_8080 });
        for b in 0..blocks {
            let at = offset + b * 34;
            // SAFETY: a block of 34 bytes is readable at `at`.
            let (d, low, high) =
                unsafe { (s.gather_u16(rows, at), s.load_transposed(rows, at + 2), s.load_transposed(rows, at + 18)) };
            out.scale(s, b, s.f16_to_f32(d));
            for i in 0..4 {
                out.quants(s, 8 * b + i, 0, s.xor(low[i], flip));
                out.quants(s, 8 * b + 4 + i, 0, s.xor(high[i], flip));
            }
            out.end(s, b, 0);
        }
    }
}

/// `{ f16 d; u8 qs[16] }`: byte j holds weight j low, weight j+16 high.
#[derive(Clone, Copy)]
pub(crate) struct Q4_0;

impl Format for Q4_0 {
    #[inline(always)]
    fn chunk_bytes(self) -> usize {
        8 * 18
    }
    #[inline(always)]
    fn scaling<S: Simd>(self) -> Scaling {
        Scaling::Flat { zero: 8, min: false }
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
        let nibble = s.splat(0x0f0f_0f0f);
        for b in 0..blocks {
            let at = offset + b * 18;
            // SAFETY: a block of 18 bytes is readable at `at`.
            let (d, qs) = unsafe { (s.gather_u16(rows, at), s.load_transposed(rows, at + 2)) };
            out.scale(s, b, s.f16_to_f32(d));
            for i in 0..4 {
                out.quants(s, 8 * b + i, 0, s.and(qs[i], nibble));
                out.quants(s, 8 * b + 4 + i, 0, s.and(s.shr::<4>(qs[i]), nibble));
            }
            out.end(s, b, 0);
        }
    }
}

/// `{ f16 d; u8 qh[4]; u8 qs[16] }`: nibbles as in Q4_0, bit j of qh is the fifth bit of weight j.
#[derive(Clone, Copy)]
pub(crate) struct Q5_0;

/// Bits `SHIFT … SHIFT+3` of each lane become bit 4 of its bytes 0 … 3.
#[inline(always)]
fn fifth_bits<S: Simd, const SHIFT: u32>(s: S, qh: S::V) -> S::V {
    let four = s.and(s.shr::<SHIFT>(qh), s.splat(0xf));
    // The factor puts copies of the four bits 7 apart, so that bit i of the first stands at 8i.
    let spread = s.and(s.mul(four, s.splat(0x0020_4081)), s.splat(0x0101_0101));
    s.shl::<4>(spread)
}

impl Format for Q5_0 {
    #[inline(always)]
    fn chunk_bytes(self) -> usize {
        8 * 22
    }
    #[inline(always)]
    fn scaling<S: Simd>(self) -> Scaling {
        Scaling::Flat { zero: 16, min: false }
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
        let nibble = s.splat(0x0f0f_0f0f);
        for b in 0..blocks {
            let at = offset + b * 22;
            // SAFETY: a block of 22 bytes is readable at `at`.
            let (d, qh, qs) =
                unsafe { (s.gather_u16(rows, at), s.gather_u32(rows, at + 2), s.load_transposed(rows, at + 6)) };
            out.scale(s, b, s.f16_to_f32(d));
            out.quants(s, 8 * b, 0, s.or(s.and(qs[0], nibble), fifth_bits::<S, 0>(s, qh)));
            out.quants(s, 8 * b + 1, 0, s.or(s.and(qs[1], nibble), fifth_bits::<S, 4>(s, qh)));
            out.quants(s, 8 * b + 2, 0, s.or(s.and(qs[2], nibble), fifth_bits::<S, 8>(s, qh)));
            out.quants(s, 8 * b + 3, 0, s.or(s.and(qs[3], nibble), fifth_bits::<S, 12>(s, qh)));
            out.quants(s, 8 * b + 4, 0, s.or(s.and(s.shr::<4>(qs[0]), nibble), fifth_bits::<S, 16>(s, qh)));
            out.quants(s, 8 * b + 5, 0, s.or(s.and(s.shr::<4>(qs[1]), nibble), fifth_bits::<S, 20>(s, qh)));
            out.quants(s, 8 * b + 6, 0, s.or(s.and(s.shr::<4>(qs[2]), nibble), fifth_bits::<S, 24>(s, qh)));
            out.quants(s, 8 * b + 7, 0, s.or(s.and(s.shr::<4>(qs[3]), nibble), fifth_bits::<S, 28>(s, qh)));
            out.end(s, b, 0);
        }
    }
}

/// The low half of each lane in both halves.
#[inline(always)]
fn twice<S: Simd>(s: S, v: S::V) -> S::V {
    s.or(v, s.shl::<16>(v))
}

/// `{ f16 d; f16 dmin; u8 scales[12]; u8 qs[128] }`: eight sub-blocks of 32.
#[derive(Clone, Copy)]
pub(crate) struct Q4K;

impl Format for Q4K {
    #[inline(always)]
    fn chunk_bytes(self) -> usize {
        144
    }
    #[inline(always)]
    fn scaling<S: Simd>(self) -> Scaling {
        Scaling::Super { sub_block: 32, float_min: true }
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
        // The first 16 bytes are d, dmin and the packed scales: words d|dmin, A, B, C.
        // SAFETY: a block of 144 bytes is readable at `offset`.
        let [dd, a, b, c] = unsafe { s.load_transposed(rows, offset) };
        out.scale(s, 0, s.f16_to_f32(dd));
        out.scale(s, 1, s.f16_to_f32(s.shr::<16>(dd)));
        // Sub-blocks 0–3: scale = A & 63, min = B & 63. Sub-blocks 4–7: low nibbles of C | top bits
        // of A, high nibbles of C | top bits of B. All four at once, a byte each.
        let six = s.splat(0x3f3f_3f3f);
        let nibble = s.splat(0x0f0f_0f0f);
        let top = s.splat(0x3030_3030);
        let scales = [s.and(a, six), s.or(s.and(c, nibble), s.and(s.shr::<2>(a), top))];
        let mins = [s.and(b, six), s.or(s.and(s.shr::<4>(c), nibble), s.and(s.shr::<2>(b), top))];
        let byte = s.splat(0xff);
        for half in 0..2 {
            let (sc, mn) = (scales[half], mins[half]);
            out.sub_scale(s, 4 * half, s.and(sc, byte));
            out.sub_scale(s, 4 * half + 1, s.and(s.shr::<8>(sc), byte));
            out.sub_scale(s, 4 * half + 2, s.and(s.shr::<16>(sc), byte));
            out.sub_scale(s, 4 * half + 3, s.shr::<24>(sc));
            out.mins(s, 4 * half, twice(s, s.and(mn, byte)));
            out.mins(s, 4 * half + 1, twice(s, s.and(s.shr::<8>(mn), byte)));
            out.mins(s, 4 * half + 2, twice(s, s.and(s.shr::<16>(mn), byte)));
            out.mins(s, 4 * half + 3, twice(s, s.shr::<24>(mn)));
        }
        // 32 bytes hold 64 weights: low nibbles the first 32, high nibbles the next.
        for pair in 0..4 {
            for l in 0..2 {
                // SAFETY: 16 + 4·32 = 144 bytes are readable at `offset`.
                let qs = unsafe { s.load_transposed(rows, offset + 16 + 32 * pair + 16 * l) };
                let group = 16 * pair + 4 * l;
                for i in 0..4 {
                    out.quants(s, group + i, 0, s.and(qs[i], nibble));
                    out.quants(s, group + 8 + i, 1, s.and(s.shr::<4>(qs[i]), nibble));
                }
            }
            out.end(s, 2 * pair, 0);
            out.end(s, 2 * pair + 1, 1);
        }
    }
}

/// `{ u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d }`: sixteen sub-blocks of 16, weights minus 32.
#[derive(Clone, Copy)]
pub(crate) struct Q6K;

impl Format for Q6K {
    #[inline(always)]
    fn chunk_bytes(self) -> usize {
        210
    }
    #[inline(always)]
    fn scaling<S: Simd>(self) -> Scaling {
        Scaling::Super { sub_block: 16, float_min: false }
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
        // SAFETY: a block of 210 bytes is readable at `offset`.
        let (d, scales) = unsafe { (s.gather_u16(rows, offset + 208), s.load_transposed(rows, offset + 192)) };
        out.scale(s, 0, s.f16_to_f32(d));
        let low_half = s.splat(0xffff);
        for q in 0..4 {
            let sc = scales[q];
            let sub = [
                s.sra::<24>(s.shl::<24>(sc)),
                s.sra::<24>(s.shl::<16>(sc)),
                s.sra::<24>(s.shl::<8>(sc)),
                s.sra::<24>(sc),
            ];
            for (i, &v) in sub.iter().enumerate() {
                out.sub_scale(s, 4 * q + i, v);
            }
            // The min of a sub-block is 32 times its scale.
            out.mins(s, 2 * q, s.or(s.and(s.shl::<5>(sub[0]), low_half), s.shl::<21>(sub[1])));
            out.mins(s, 2 * q + 1, s.or(s.and(s.shl::<5>(sub[2]), low_half), s.shl::<21>(sub[3])));
        }
        let nibble = s.splat(0x0f0f_0f0f);
        let top = s.splat(0x3030_3030);
        for half in 0..2 {
            for l in 0..2 {
                // SAFETY: ql ends at 128 and qh at 192, inside the block.
                let (ql0, ql1, qh) = unsafe {
                    (
                        s.load_transposed(rows, offset + 64 * half + 16 * l),
                        s.load_transposed(rows, offset + 64 * half + 32 + 16 * l),
                        s.load_transposed(rows, offset + 128 + 32 * half + 16 * l),
                    )
                };
                let group = 32 * half + 4 * l;
                for i in 0..4 {
                    let h = qh[i];
                    out.quants(s, group + i, 0, s.or(s.and(ql0[i], nibble), s.and(s.shl::<4>(h), top)));
                    out.quants(s, group + 8 + i, 1, s.or(s.and(ql1[i], nibble), s.and(s.shl::<2>(h), top)));
                    out.quants(s, group + 16 + i, 2, s.or(s.and(s.shr::<4>(ql0[i]), nibble), s.and(h, top)));
                    out.quants(
                        s,
                        group + 24 + i,
                        3,
                        s.or(s.and(s.shr::<4>(ql1[i]), nibble), s.and(s.shr::<2>(h), top)),
                    );
                }
                for slot in 0..4 {
                    out.end(s, 8 * half + l + 2 * slot, slot);
                }
            }
        }
    }
}
