//! Grouped-query attention over keys and values that lie in pages.
//!
//! A page holds [`PAGE_POSITIONS`] positions of one layer, in half or single precision ([`KvType`]), laid out so
//! that neither product needs a horizontal sum:
//!
//! ```text
//! keys    [kv_head][2 half pages][head_dim][16 positions]   lanes are positions: score += q[d] · k[d]
//! values  [kv_head][32 positions][head_dim, padded to 16]   lanes are dimensions: out += p · v
//! ```
//!
//! A row of the batch walks its pages in order and merges them by online softmax (Milakov and
//! Gimelshein, 2018). Pages begin at multiples of 32 whatever the batch was, so the sum is the same
//! however a prompt was cut. All query heads of a group share one pass over their keys and values.

use std::cell::RefCell;
use std::ops::Range;

use crate::math::{exp_lanes, exp_one};
use crate::ops::SoftCap;
use crate::simd::{Isa, LANES, Operation, Simd};
use crate::team::{SharedMut, ThreadTeam};

/// Positions in a page.
pub const PAGE_POSITIONS: usize = 32;
const HALVES: usize = PAGE_POSITIONS / LANES;
/// Query heads that one pass over keys and values serves; larger groups take several.
const HEADS_MAX: usize = 8;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half precision: what every engine does, and half the memory.
    #[default]
    F16,
    /// Single precision: no rounding beyond that of the products.
    F32,
}

impl KvType {
    /// `f16` or `f32`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "f16" => Some(Self::F16),
            "f32" => Some(Self::F32),
            _ => None,
        }
    }

    /// As [`by_name`](Self::by_name) reads it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// 16-bit words that one value takes in a page.
    const fn words(self) -> usize {
        match self {
            Self::F16 => 1,
            Self::F32 => 2,
        }
    }
}

/// A stored number, as the kernels see it.
trait Stored: Copy {
    const WORDS: usize;
    /// The sixteen values from value number `at` of `page` on.
    /// # Safety
    /// `(at + 16) · WORDS` words are readable.
    unsafe fn load<S: Simd>(s: S, page: *const u16, at: usize) -> S::F;
    /// Writes the first `n` values of `x` from value number `at` on, `stride` values apart.
    fn put<S: Simd>(s: S, page: &mut [u16], at: usize, stride: usize, x: &[f32; LANES], n: usize);
}

#[derive(Clone, Copy)]
struct Half;
#[derive(Clone, Copy)]
struct Single;

impl Stored for Half {
    const WORDS: usize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, page: *const u16, at: usize) -> S::F {
        // SAFETY: the caller promises the range.
        unsafe { s.load_f16(page.add(at)) }
    }
    #[inline(always)]
    fn put<S: Simd>(s: S, page: &mut [u16], at: usize, stride: usize, x: &[f32; LANES], n: usize) {
        let mut words = [0u16; LANES];
        // SAFETY: 16 values of each.
        unsafe { s.store_f16(words.as_mut_ptr(), s.fload(x.as_ptr())) };
        for (i, word) in words.into_iter().take(n).enumerate() {
            page[at + i * stride] = word;
        }
    }
}

impl Stored for Single {
    const WORDS: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, page: *const u16, at: usize) -> S::F {
        // SAFETY: the caller promises the range; loads need no alignment.
        unsafe { s.fload(page.add(2 * at).cast()) }
    }
    #[inline(always)]
    fn put<S: Simd>(_s: S, page: &mut [u16], at: usize, stride: usize, x: &[f32; LANES], n: usize) {
        for (i, value) in x.iter().take(n).enumerate() {
            let bytes = value.to_ne_bytes();
            let word = 2 * (at + i * stride);
            page[word] = u16::from_ne_bytes([bytes[0], bytes[1]]);
            page[word + 1] = u16::from_ne_bytes([bytes[2], bytes[3]]);
        }
    }
}

/// The shape of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Factor on the scores, `1/√key_dim` as a rule.
    pub scale: f32,
    /// Scaled scores become `soft_cap · tanh(score / soft_cap)` (Gemma 2); 0 leaves them as they are.
    pub soft_cap: f32,
    /// How keys and values are stored.
    pub kv: KvType,
}

impl AttentionShape {
    fn padded_value_dim(&self) -> usize {
        self.value_dim.next_multiple_of(LANES)
    }
    /// Words of the keys in a page.
    fn keys_len(&self) -> usize {
        self.kv_heads * self.key_dim * PAGE_POSITIONS * self.kv.words()
    }
}

/// 16-bit words in one layer's page.
#[must_use]
pub fn page_len(shape: &AttentionShape) -> usize {
    shape.keys_len() + shape.kv_heads * shape.padded_value_dim() * PAGE_POSITIONS * shape.kv.words()
}

/// One row of the batch: pages of its sequence, and which of their positions it may see.
///
/// Positions count from the first of the given pages. A causal row sees `0 … own position`, one with a sliding window
/// skips what lies before it, a row of an encoder sees its whole sequence. Pages before the first visible position are
/// not touched and may be left out, with `skip` and `len` lessened by 32 for each: the result has the same bits. It
/// depends on where pages begin, which is at multiples of 32 of the sequence.
#[derive(Clone, Copy)]
pub struct AttentionRow<'a> {
    /// In order of position, each of [`page_len`].
    pub pages: &'a [&'a [u16]],
    /// The first position that is attended to.
    pub skip: usize,
    /// Positions `skip … len - 1` are attended to.
    pub len: usize,
}

/// Writes one position's key `[kv_heads, key_dim]` and value `[kv_heads, value_dim]` into its slot of a page.
///
/// # Panics
/// When the shapes do not fit.
pub fn write_page(isa: Isa, shape: &AttentionShape, page: &mut [u16], slot: usize, key: &[f32], value: &[f32]) {
    assert!(slot < PAGE_POSITIONS && page.len() == page_len(shape), "a slot of a page of this shape");
    assert_eq!((key.len(), value.len()), (shape.kv_heads * shape.key_dim, shape.kv_heads * shape.value_dim));
    let write = WritePage { shape, page, slot, key, value };
    match shape.kv {
        KvType::F16 => isa.run(Typed(write, Half)),
        KvType::F32 => isa.run(Typed(write, Single)),
    }
}

/// An operation and how it stores numbers.
struct Typed<O, T>(O, T);

struct WritePage<'a> {
    shape: &'a AttentionShape,
    page: &'a mut [u16],
    slot: usize,
    key: &'a [f32],
    value: &'a [f32],
}

impl<T: Stored> Operation for Typed<WritePage<'_>, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let WritePage { shape, page, slot, key, value } = self.0;
        let (keys, values) = page.split_at_mut(shape.keys_len());
        let lanes = |x: &[f32]| {
            let mut lanes = [0.0f32; LANES];
            lanes[..x.len()].copy_from_slice(x);
            lanes
        };
        let dim = shape.key_dim;
        for (head, key) in key.chunks_exact(dim).enumerate() {
            let half = (head * HALVES + slot / LANES) * dim * LANES;
            for (i, part) in key.chunks(LANES).enumerate() {
                T::put(s, keys, half + i * LANES * LANES + slot % LANES, LANES, &lanes(part), part.len());
            }
        }
        let padded = shape.padded_value_dim();
        for (head, value) in value.chunks_exact(shape.value_dim).enumerate() {
            for (i, part) in value.chunks(LANES).enumerate() {
                let at = (head * PAGE_POSITIONS + slot) * padded + i * LANES;
                T::put(s, values, at, 1, &lanes(part), LANES);
            }
        }
    }
}

/// `out[r] = softmax(cap(scale · q[r] · keysᵀ)) · values` for each row and head, over the positions that the row sees;
/// whatever the others hold is not looked at. `q` is `[n, heads · key_dim]`, `out` `[n, heads · value_dim]`.
///
/// # Panics
/// When the shapes do not fit, a row sees nothing, or a row has too few pages.
pub fn attention(
    team: &ThreadTeam,
    isa: Isa,
    shape: &AttentionShape,
    q: &[f32],
    rows: &[AttentionRow<'_>],
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, key_dim, value_dim, .. } = *shape;
    assert!(kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads share {kv_heads} keys");
    assert_eq!((q.len(), out.len()), (rows.len() * heads * key_dim, rows.len() * heads * value_dim));
    for row in rows {
        assert!(row.skip < row.len && row.pages.len() * PAGE_POSITIONS >= row.len, "pages for every position");
        assert!(row.pages.iter().all(|p| p.len() == page_len(shape)), "pages of this shape");
    }
    let group = heads / kv_heads;
    // One pass over keys and values serves as many heads of a group as it can, unless threads would have nothing to do:
    // heads do not see one another, so how they are shared out changes no result.
    let parts = team.n_threads().div_ceil((rows.len() * kv_heads).max(1)).min(group);
    let width = group.div_ceil(parts).min(HEADS_MAX);
    let passes = group.div_ceil(width);
    let out = SharedMut::new(out);
    let work = |i: usize| {
        // Later rows see more: hand out the long ones first.
        let (r, i) = (rows.len() - 1 - i / (kv_heads * passes), i % (kv_heads * passes));
        let (kv_head, first) = (i / passes, i % passes * width);
        let (head, width) = (kv_head * group + first, width.min(group - first));
        let q = &q[(r * heads + head) * key_dim..][..width * key_dim];
        // SAFETY: heads and rows are disjoint pieces of the output.
        let out = unsafe { out.slice((r * heads + head) * value_dim, width * value_dim) };
        SUMS.with_borrow_mut(|sums| {
            let heads = Heads { shape, row: rows[r], kv_head, q, out, sums };
            match shape.kv {
                KvType::F16 => isa.run(Typed(heads, Half)),
                KvType::F32 => isa.run(Typed(heads, Single)),
            }
        });
    };
    let items = rows.len() * kv_heads * passes;
    let positions: usize = rows.iter().map(|r| r.len - r.skip).sum();
    if positions * heads * (key_dim + value_dim) < 32 * 1024 {
        (0..items).for_each(work);
    } else {
        team.run(items, work);
    }
}

/// Up to eight query heads of one group, one row.
struct Heads<'a> {
    shape: &'a AttentionShape,
    row: AttentionRow<'a>,
    kv_head: usize,
    q: &'a [f32],
    out: &'a mut [f32],
    /// Sums of the values, `[heads of the pass][padded value_dim]`.
    sums: &'a mut Vec<f32>,
}

thread_local! {
    /// [`Heads::sums`], kept from call to call.
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<T: Stored> Operation for Typed<Heads<'_>, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let heads = self.0;
        match heads.q.len() / heads.shape.key_dim {
            1 => pass::<S, T, 1>(s, heads),
            2 => pass::<S, T, 2>(s, heads),
            3 => pass::<S, T, 3>(s, heads),
            4 => pass::<S, T, 4>(s, heads),
            5 => pass::<S, T, 5>(s, heads),
            6 => pass::<S, T, 6>(s, heads),
            7 => pass::<S, T, 7>(s, heads),
            8 => pass::<S, T, 8>(s, heads),
            _ => unreachable!("a pass has 1 to {HEADS_MAX} heads"),
        }
    }
}

#[inline(always)]
fn pass<S: Simd, T: Stored, const G: usize>(s: S, heads: Heads<'_>) {
    let Heads { shape, row, kv_head, q, out, sums } = heads;
    let padded = shape.padded_value_dim();
    sums.clear();
    sums.resize(G * padded, 0.0);
    let mut max = [f32::NEG_INFINITY; G];
    let mut total = [0.0f32; G];
    for p in row.skip / PAGE_POSITIONS..row.len.div_ceil(PAGE_POSITIONS) {
        let (page, start) = (row.pages[p], p * PAGE_POSITIONS);
        let visible = row.skip.saturating_sub(start)..PAGE_POSITIONS.min(row.len - start);
        let (keys, values) = page.split_at(shape.keys_len());
        let (keys_len, values_len) = (shape.key_dim * PAGE_POSITIONS * T::WORDS, padded * PAGE_POSITIONS * T::WORDS);
        let keys = &keys[kv_head * keys_len..][..keys_len];
        let values = &values[kv_head * values_len..][..values_len];
        // 1. Scores of 32 positions, those that the row does not see masked.
        let mut weights = [[0.0f32; PAGE_POSITIONS]; G];
        let mut scores = scores::<S, T, G>(s, shape, q, keys);
        if shape.soft_cap > 0.0 {
            cap::<S, G>(s, shape.soft_cap, &mut scores, &mut weights);
        }
        mask(s, &mut scores, &visible);
        // 2. The new maximum; what was summed so far shrinks by `shrink`.
        let mut shrink = [0.0f32; G];
        for g in 0..G {
            let page_max = s.fold_max(s.fmax(scores[g][0], scores[g][1]));
            let new_max = if page_max > max[g] { page_max } else { max[g] };
            shrink[g] = exp_one(s, max[g] - new_max);
            max[g] = new_max;
            let mut sum = s.fsplat(0.0);
            for half in 0..HALVES {
                let e = exp_lanes(s, s.fsub(scores[g][half], s.fsplat(new_max)));
                sum = s.fadd(sum, e);
                // SAFETY: 16 of 32 values, from 0 or 16.
                unsafe { s.fstore(weights[g].as_mut_ptr().add(half * LANES), e) };
            }
            total[g] = total[g] * shrink[g] + s.fold_add(sum);
        }
        // 3. Values, weighted.
        let mut d = 0;
        while d < padded {
            if d + 2 * LANES <= padded {
                weigh::<S, T, G, 2>(s, values, (d, padded, &visible), &weights, &shrink, sums);
                d += 2 * LANES;
            } else {
                weigh::<S, T, G, 1>(s, values, (d, padded, &visible), &weights, &shrink, sums);
                d += LANES;
            }
        }
    }
    for g in 0..G {
        let inverse = 1.0 / total[g];
        let out = &mut out[g * shape.value_dim..(g + 1) * shape.value_dim];
        out.iter_mut().zip(&sums[g * padded..]).for_each(|(o, &x)| *o = x * inverse);
    }
}

#[inline(always)]
fn scores<S: Simd, T: Stored, const G: usize>(
    s: S,
    shape: &AttentionShape,
    q: &[f32],
    keys: &[u16],
) -> [[S::F; HALVES]; G] {
    let dim = shape.key_dim;
    assert!(q.len() == G * dim && keys.len() == dim * PAGE_POSITIONS * T::WORDS);
    let mut scores = [[s.fsplat(0.0); HALVES]; G];
    for d in 0..dim {
        // SAFETY: `keys` is [2][dim][16], checked above.
        let k: [S::F; HALVES] =
            unsafe { [T::load(s, keys.as_ptr(), d * LANES), T::load(s, keys.as_ptr(), (dim + d) * LANES)] };
        for g in 0..G {
            // SAFETY: `q` is [G][dim], checked above.
            let x = s.fsplat(unsafe { *q.get_unchecked(g * dim + d) });
            for half in 0..HALVES {
                scores[g][half] = s.fma(x, k[half], scores[g][half]);
            }
        }
    }
    for row in &mut scores {
        for score in row {
            let scaled = s.fmul(*score, s.fsplat(shape.scale));
            // A key that overflowed half precision may score -∞, which would hide it: 0 · ±∞ makes it NaN.
            *score = s.fma(scaled, s.fsplat(0.0), scaled);
        }
    }
    scores
}

/// Soft-caps the scores, by way of `buffer` and one shared copy of the code.
#[inline(always)]
fn cap<S: Simd, const G: usize>(
    s: S,
    cap: f32,
    scores: &mut [[S::F; HALVES]; G],
    buffer: &mut [[f32; PAGE_POSITIONS]; G],
) {
    let places = |g: usize, half: usize| (g * HALVES + half) * LANES;
    let buffer = buffer.as_flattened_mut();
    for (g, row) in scores.iter().enumerate() {
        for (half, score) in row.iter().enumerate() {
            let place = &mut buffer[places(g, half)..][..LANES];
            // SAFETY: 16 values.
            unsafe { s.fstore(place.as_mut_ptr(), *score) };
        }
    }
    s.call(SoftCap { x: buffer, cap });
    for (g, row) in scores.iter_mut().enumerate() {
        for (half, score) in row.iter_mut().enumerate() {
            let place = &buffer[places(g, half)..][..LANES];
            // SAFETY: 16 values.
            *score = unsafe { s.fload(place.as_ptr()) };
        }
    }
}

/// Scores outside `visible` become -∞, whatever they were.
#[inline(always)]
fn mask<S: Simd, const G: usize>(s: S, scores: &mut [[S::F; HALVES]; G], visible: &Range<usize>) {
    let lane: [f32; LANES] = std::array::from_fn(|i| i as f32);
    // SAFETY: 16 values.
    let lane = unsafe { s.fload(lane.as_ptr()) };
    let hidden = s.fsplat(f32::NEG_INFINITY);
    for half in 0..HALVES {
        let position = s.fadd(lane, s.fsplat((half * LANES) as f32));
        let (start, end) = (s.fsplat(visible.start as f32), s.fsplat(visible.end as f32));
        for row in &mut *scores {
            let seen = s.select_lt(position, end, row[half], hidden);
            row[half] = s.select_lt(position, start, hidden, seen);
        }
    }
}

/// `sums[g][d…] = sums · shrink + Σ weights · values` over `W` vectors of dimensions.
#[inline(always)]
fn weigh<S: Simd, T: Stored, const G: usize, const W: usize>(
    s: S,
    values: &[u16],
    (d, padded, visible): (usize, usize, &Range<usize>),
    weights: &[[f32; PAGE_POSITIONS]; G],
    shrink: &[f32; G],
    sums: &mut [f32],
) {
    assert!(visible.end <= PAGE_POSITIONS && values.len() == padded * PAGE_POSITIONS * T::WORDS);
    assert!(d + W * LANES <= padded && sums.len() == G * padded);
    // SAFETY: position < 32 and d + 16·W ≤ padded, checked above, bound every index.
    unsafe {
        let mut acc = [[s.fsplat(0.0); W]; G];
        for g in 0..G {
            for w in 0..W {
                let sum = s.fload(sums.as_ptr().add(g * padded + d + w * LANES));
                acc[g][w] = s.fmul(sum, s.fsplat(shrink[g]));
            }
        }
        for position in visible.clone() {
            let mut v = [s.fsplat(0.0); W];
            for w in 0..W {
                v[w] = T::load(s, values.as_ptr(), position * padded + d + w * LANES);
            }
            for g in 0..G {
                let weight = s.fsplat(*weights[g].get_unchecked(position));
                for w in 0..W {
                    acc[g][w] = s.fma(weight, v[w], acc[g][w]);
                }
            }
        }
        for g in 0..G {
            for w in 0..W {
                s.fstore(sums.as_mut_ptr().add(g * padded + d + w * LANES), acc[g][w]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hublabio_gguf::F16;
    use proptest::prelude::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin() * 1.5).collect()
    }

    /// Keys `[len, kv_heads, key_dim]`, values `[len, kv_heads, value_dim]`, and the pages that they lie in.
    struct Cache {
        keys: Vec<f32>,
        values: Vec<f32>,
        pages: Vec<Vec<u16>>,
    }

    impl Cache {
        /// The visible positions are written; all other slots hold NaN, which must not be read into a result.
        fn new(isa: Isa, shape: &AttentionShape, visible: Range<usize>) -> Self {
            let (k, v) = (shape.kv_heads * shape.key_dim, shape.kv_heads * shape.value_dim);
            let (keys, values) = (wave(visible.end * k, 0.31), wave(visible.end * v, 0.17));
            let mut pages = vec![vec![0x7fffu16; page_len(shape)]; visible.end.div_ceil(PAGE_POSITIONS)];
            for p in visible {
                let page = &mut pages[p / PAGE_POSITIONS];
                let (key, value) = (&keys[p * k..(p + 1) * k], &values[p * v..(p + 1) * v]);
                write_page(isa, shape, page, p % PAGE_POSITIONS, key, value);
            }
            Self { keys, values, pages }
        }

        fn pages(&self) -> Vec<&[u16]> {
            self.pages.iter().map(Vec::as_slice).collect()
        }
    }

    fn attend(isa: Isa, threads: usize, shape: &AttentionShape, q: &[f32], rows: &[AttentionRow<'_>]) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows.len() * shape.heads * shape.value_dim];
        attention(&ThreadTeam::new(threads), isa, shape, q, rows, &mut out);
        out
    }

    /// The definition, in f64, on stored keys and values.
    fn definition(shape: &AttentionShape, q: &[f32], cache: &Cache, visible: Range<usize>) -> Vec<f64> {
        let stored = |x: f32| match shape.kv {
            KvType::F16 => f64::from(F16::from_f32(x).to_f32()),
            KvType::F32 => f64::from(x),
        };
        let cap = f64::from(shape.soft_cap);
        let mut out = Vec::new();
        for (head, q) in q.chunks_exact(shape.key_dim).enumerate() {
            let kv = head / (shape.heads / shape.kv_heads);
            let score = |p: usize| -> f64 {
                let key = &cache.keys[(p * shape.kv_heads + kv) * shape.key_dim..];
                let dot: f64 = q.iter().zip(key).map(|(&q, &k)| f64::from(q) * stored(k)).sum();
                let score = dot * f64::from(shape.scale);
                if cap > 0.0 { cap * libm::tanh(score / cap) } else { score }
            };
            let scores: Vec<f64> = visible.clone().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..shape.value_dim {
                let value = |p: usize| stored(cache.values[(p * shape.kv_heads + kv) * shape.value_dim + d]);
                out.push(visible.clone().zip(&weights).map(|(p, w)| w * value(p)).sum::<f64>() / total);
            }
        }
        out
    }

    /// One row that sees `visible`: every instruction set against the definition and against the others.
    fn check(shape: &AttentionShape, visible: Range<usize>) {
        let q = wave(shape.heads * shape.key_dim, 0.11);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let cache = Cache::new(isa, shape, visible.clone());
            let exact = definition(shape, &q, &cache, visible.clone());
            let pages = cache.pages();
            let out =
                attend(isa, 2, shape, &q, &[AttentionRow { pages: &pages, skip: visible.start, len: visible.end }]);
            for (a, b) in out.iter().zip(&exact) {
                assert!((f64::from(*a) - b).abs() < 2e-5, "{} {shape:?} {visible:?}: {a} is not {b}", isa.name());
            }
            assert_eq!(*first.get_or_insert(out.clone()), out, "{}", isa.name());
        }
    }

    #[test]
    fn equals_the_definition_on_every_isa_for_every_group() {
        for (heads, kv_heads, key_dim, value_dim) in [
            (1, 1, 16, 16),
            (4, 2, 64, 64),
            (7, 1, 24, 40),
            (9, 1, 8, 8),
            (6, 2, 33, 17),
            (14, 2, 64, 64),
            (10, 1, 16, 48),
        ] {
            for len in [1usize, 5, 16, 17, 32, 33, 100] {
                for kv in [KvType::F16, KvType::F32] {
                    check(
                        &AttentionShape { heads, kv_heads, key_dim, value_dim, scale: 0.2, soft_cap: 0.0, kv },
                        0..len,
                    );
                }
            }
        }
    }

    #[test]
    fn wide_heads_windows_and_soft_caps_equal_the_definition() {
        for dim in [256, 512] {
            for soft_cap in [0.0, 1.5] {
                for visible in [0..40, 7..40, 31..33, 32..33, 33..97] {
                    let scale = 1.0 / (dim as f32).sqrt();
                    let kv = KvType::F16;
                    let shape =
                        AttentionShape { heads: 4, kv_heads: 2, key_dim: dim, value_dim: dim, scale, soft_cap, kv };
                    check(&shape, visible);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_shape_and_window_equals_the_definition(
            (kv_heads, group) in (1usize..4, 1usize..12),
            (key_dim, value_dim) in (1usize..50, 1usize..50),
            soft_cap in prop_oneof![Just(0.0f32), 0.3f32..20.0],
            single in any::<bool>(),
            (skip, seen) in (0usize..110, 1usize..110),
        ) {
            let kv = if single { KvType::F32 } else { KvType::F16 };
            let heads = kv_heads * group;
            check(&AttentionShape { heads, kv_heads, key_dim, value_dim, scale: 0.3, soft_cap, kv }, skip..skip + seen);
        }
    }

    /// A sliding window over a batch: what a row gets does not depend on threads, neighbours, or what they see.
    #[test]
    fn neighbours_and_threads_change_nothing() {
        let kv = KvType::F16;
        let shape = AttentionShape { heads: 6, kv_heads: 2, key_dim: 40, value_dim: 24, scale: 0.2, soft_cap: 3.0, kv };
        let (n, window) = (90, 37);
        let q = wave(n * shape.heads * shape.key_dim, 0.11);
        for isa in Isa::available() {
            let cache = Cache::new(isa, &shape, 0..n);
            let pages = cache.pages();
            // Only the pages that the window touches, as the engine gives them.
            let row = |i: usize| {
                let start = (i + 1usize).saturating_sub(window);
                let hidden = start / PAGE_POSITIONS;
                let (skip, len) = (start - hidden * PAGE_POSITIONS, i + 1 - hidden * PAGE_POSITIONS);
                AttentionRow { pages: &pages[hidden..], skip, len }
            };
            let rows: Vec<AttentionRow<'_>> = (0..n).map(row).collect();
            let whole = attend(isa, 1, &shape, &q, &rows);
            let all_pages = |i: usize| AttentionRow { pages: &pages, skip: (i + 1).saturating_sub(window), len: i + 1 };
            let with_hidden: Vec<AttentionRow<'_>> = (0..n).map(all_pages).collect();
            assert!(attend(isa, 1, &shape, &q, &with_hidden) == whole, "{}: hidden pages", isa.name());
            for threads in [2, 4] {
                assert!(attend(isa, threads, &shape, &q, &rows) == whole, "{threads} threads");
            }
            let (q_width, out_width) = (shape.heads * shape.key_dim, shape.heads * shape.value_dim);
            for i in 0..n {
                let q = &q[i * q_width..(i + 1) * q_width];
                let alone = attend(isa, 1, &shape, q, &rows[i..=i]);
                assert!(alone == whole[i * out_width..(i + 1) * out_width], "{} row {i}", isa.name());
                let start = (i + 1).saturating_sub(window);
                for (a, b) in alone.iter().zip(definition(&shape, q, &cache, start..i + 1)) {
                    assert!((f64::from(*a) - b).abs() < 2e-5, "{} row {i}: {a} is not {b}", isa.name());
                }
            }
        }
    }

    /// Encoders: every row sees the whole sequence.
    #[test]
    fn rows_that_see_all_are_equal_where_their_queries_are() {
        let kv = KvType::F32;
        let shape = AttentionShape { heads: 3, kv_heads: 3, key_dim: 32, value_dim: 32, scale: 0.2, soft_cap: 0.0, kv };
        let isa = Isa::best();
        let cache = Cache::new(isa, &shape, 0..45);
        let pages = cache.pages();
        let q = wave(shape.heads * shape.key_dim, 0.11);
        let rows = [AttentionRow { pages: &pages, skip: 0, len: 45 }; 45];
        let out = attend(isa, 2, &shape, &q.repeat(45), &rows);
        let exact = definition(&shape, &q, &cache, 0..45);
        for row in out.chunks_exact(exact.len()) {
            assert!(row.iter().zip(&exact).all(|(a, b)| (f64::from(*a) - b).abs() < 2e-5));
        }
    }

    #[test]
    fn what_is_not_finite_is_seen_where_it_is_visible_only() {
        let kv = KvType::F16;
        let isas = Isa::available();
        for soft_cap in [0.0, 2.0] {
            let shape = AttentionShape { heads: 2, kv_heads: 1, key_dim: 8, value_dim: 8, scale: 0.3, soft_cap, kv };
            let q: Vec<f32> = wave(16, 0.11).iter().map(|x| x.abs() + 0.1).collect();
            for (&isa, bad) in isas.iter().flat_map(|isa| [1e30f32, -1e30, f32::NAN].map(|bad| (isa, bad))) {
                let mut cache = Cache::new(isa, &shape, 0..70);
                // A key that overflows half precision at position 40.
                write_page(isa, &shape, &mut cache.pages[1], 40 - PAGE_POSITIONS, &[bad; 8], &[1.0; 8]);
                let pages = cache.pages();
                for (skip, len, hit) in [(0, 70, true), (40, 41, true), (0, 40, false), (41, 70, false), (3, 41, true)]
                {
                    let out = attend(isa, 1, &shape, &q, &[AttentionRow { pages: &pages, skip, len }]);
                    assert!(out.iter().all(|x| x.is_finite() != hit), "{} {bad} {skip}..{len}: {out:?}", isa.name());
                }
            }
        }
    }
}
