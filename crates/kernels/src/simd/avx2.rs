//! AVX2 with FMA and F16C: two ymm registers are the sixteen lanes.

use std::arch::x86_64::*;

use super::{LANES, Operation, Simd};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[inline(always)]
    pub(crate) fn new() -> Option<Self> {
        let present =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }
}

/// # Safety
/// The CPU has the features below; an [`Avx2`] proves it.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<O: Operation>(op: O, simd: Avx2) -> O::Output {
    op.eval(simd)
}

/// As [`run`], never inlined.
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn call<O: Operation>(op: O, simd: Avx2) -> O::Output {
    op.eval(simd)
}

/// Lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct V(__m256i, __m256i);
/// Lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct F(__m256, __m256);

/// An operation that is the same on both halves.
macro_rules! halfwise {
    ($($pair:ident: fn $name:ident $(<const $n:ident: u32>)? ($($arg:ident),*) { $body:expr })*) => {
        $(
            #[inline(always)]
            fn $name $(<const $n: u32>)? (self, $($arg: $pair),*) -> $pair {
                // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
                unsafe {
                    let low = { $(let $arg = $arg.0;)* $body };
                    let high = { $(let $arg = $arg.1;)* $body };
                    $pair(low, high)
                }
            }
        )*
    };
}

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn dot_u8_half(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
    // SAFETY: the caller has AVX2. Pairs stay below 2^15, so the saturating add never saturates.
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1))) }
}

/// The low 16 bits of each of 8 lanes.
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn low_words(a: __m256i) -> __m128i {
    // SAFETY: the caller has AVX2.
    unsafe {
        let masked = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(masked, masked)))
    }
}

// Plain functions, not closures: a closure does not inherit the attributes of the function around it, and what it
// calls would not be inlined.

/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn pair(low: __m128i, high: __m128i) -> __m256i {
    // SAFETY: the caller has AVX.
    unsafe { _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high) }
}

/// One `u32` of rows `r … r+3`.
/// # Safety
/// The CPU has SSE4.1; each row has 4 readable bytes at `offset`.
#[inline(always)]
pub(super) unsafe fn quad(rows: &[*const u8; LANES], r: usize, offset: usize) -> __m128i {
    // SAFETY: the caller promises both.
    unsafe {
        _mm_setr_epi32(
            rows[r].add(offset).cast::<i32>().read_unaligned(),
            rows[r + 1].add(offset).cast::<i32>().read_unaligned(),
            rows[r + 2].add(offset).cast::<i32>().read_unaligned(),
            rows[r + 3].add(offset).cast::<i32>().read_unaligned(),
        )
    }
}

/// One `u16` of rows `r … r+7`, widened.
/// # Safety
/// The CPU has AVX2; each row has 2 readable bytes at `offset`.
#[inline(always)]
unsafe fn eight_words(rows: &[*const u8; LANES], r: usize, offset: usize) -> __m256i {
    // SAFETY: the caller promises both.
    unsafe {
        _mm256_cvtepu16_epi32(_mm_setr_epi16(
            rows[r].add(offset).cast::<i16>().read_unaligned(),
            rows[r + 1].add(offset).cast::<i16>().read_unaligned(),
            rows[r + 2].add(offset).cast::<i16>().read_unaligned(),
            rows[r + 3].add(offset).cast::<i16>().read_unaligned(),
            rows[r + 4].add(offset).cast::<i16>().read_unaligned(),
            rows[r + 5].add(offset).cast::<i16>().read_unaligned(),
            rows[r + 6].add(offset).cast::<i16>().read_unaligned(),
            rows[r + 7].add(offset).cast::<i16>().read_unaligned(),
        ))
    }
}

/// Sixteen bytes of rows `r … r+7`, transposed as [`Simd::load_transposed`] says.
/// # Safety
/// The CPU has AVX2; each row has 16 readable bytes at `offset`.
#[inline(always)]
unsafe fn transposed(rows: &[*const u8; LANES], r: usize, offset: usize) -> [__m256i; 4] {
    // SAFETY: the caller promises both.
    unsafe {
        // Row r+4L+i goes to 128-bit lane L of register i, so that a 4×4 transposition inside the lanes
        // leaves the rows in their natural order.
        let mut v = [_mm256_setzero_si256(); 4];
        for (i, v) in v.iter_mut().enumerate() {
            let low = _mm_loadu_si128(rows[r + i].add(offset).cast());
            *v = pair(low, _mm_loadu_si128(rows[r + i + 4].add(offset).cast()));
        }
        let (ab_lo, ab_hi) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
        let (cd_lo, cd_hi) = (_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
        [
            _mm256_unpacklo_epi64(ab_lo, cd_lo),
            _mm256_unpackhi_epi64(ab_lo, cd_lo),
            _mm256_unpacklo_epi64(ab_hi, cd_hi),
            _mm256_unpackhi_epi64(ab_hi, cd_hi),
        ]
    }
}

impl Simd for Avx2 {
    type V = V;
    type F = F;
    const SIGNED_PANEL: bool = true;
    const TILE_COLS: usize = 4;

    halfwise! {
        V: fn and(a, b) { _mm256_and_si256(a, b) }
        V: fn or(a, b) { _mm256_or_si256(a, b) }
        V: fn xor(a, b) { _mm256_xor_si256(a, b) }
        V: fn add(a, b) { _mm256_add_epi32(a, b) }
        V: fn sub(a, b) { _mm256_sub_epi32(a, b) }
        V: fn mul(a, b) { _mm256_mullo_epi32(a, b) }
        V: fn max_u32(a, b) { _mm256_max_epu32(a, b) }
        V: fn dot_u8(acc, u, s) { dot_u8_half(acc, u, s) }
        V: fn dot_i8(acc, w, s) { dot_u8_half(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(s, w)) }
        V: fn dot_i16(acc, a, b) { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
        F: fn fadd(a, b) { _mm256_add_ps(a, b) }
        F: fn fsub(a, b) { _mm256_sub_ps(a, b) }
        F: fn fmul(a, b) { _mm256_mul_ps(a, b) }
        F: fn fdiv(a, b) { _mm256_div_ps(a, b) }
        F: fn fma(a, b, c) { _mm256_fmadd_ps(a, b, c) }
        F: fn fmax(a, b) { _mm256_max_ps(a, b) }
        F: fn select_lt(a, b, x, y) { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: V) -> V {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            V(_mm256_sll_epi32(a.0, n), _mm256_sll_epi32(a.1, n))
        }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: V) -> V {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            V(_mm256_srl_epi32(a.0, n), _mm256_srl_epi32(a.1, n))
        }
    }
    #[inline(always)]
    fn sra<const N: u32>(self, a: V) -> V {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            V(_mm256_sra_epi32(a.0, n), _mm256_sra_epi32(a.1, n))
        }
    }
    #[inline(always)]
    fn splat(self, x: u32) -> V {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        let half = unsafe { _mm256_set1_epi32(x as i32) };
        V(half, half)
    }
    #[inline(always)]
    fn fsplat(self, x: f32) -> F {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        let half = unsafe { _mm256_set1_ps(x) };
        F(half, half)
    }
    #[inline(always)]
    fn fold_add(self, a: F) -> f32 {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe {
            let b = _mm256_add_ps(a.0, a.1);
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)]
    fn fold_max(self, a: F) -> f32 {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe {
            let b = _mm256_max_ps(a.0, a.1);
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)]
    fn to_f32(self, a: V) -> F {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe { F(_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1)) }
    }
    #[inline(always)]
    fn to_i32(self, a: F) -> V {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe { V(_mm256_cvtps_epi32(a.0), _mm256_cvtps_epi32(a.1)) }
    }
    #[inline(always)]
    fn bits(self, a: F) -> V {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe { V(_mm256_castps_si256(a.0), _mm256_castps_si256(a.1)) }
    }
    #[inline(always)]
    fn as_float(self, a: V) -> F {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe { F(_mm256_castsi256_ps(a.0), _mm256_castsi256_ps(a.1)) }
    }
    #[inline(always)]
    fn f16_to_f32(self, a: V) -> F {
        // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
        unsafe { F(_mm256_cvtph_ps(low_words(a.0)), _mm256_cvtph_ps(low_words(a.1))) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u32) -> V {
        // SAFETY: the caller promises the range.
        unsafe { V(_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u32, a: V) {
        // SAFETY: the caller promises the range.
        unsafe {
            _mm256_storeu_si256(p.cast(), a.0);
            _mm256_storeu_si256(p.add(8).cast(), a.1);
        }
    }
    #[inline(always)]
    unsafe fn fload(self, p: *const f32) -> F {
        // SAFETY: the caller promises the range.
        unsafe { F(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn fstore(self, p: *mut f32, a: F) {
        // SAFETY: the caller promises the range.
        unsafe {
            _mm256_storeu_ps(p, a.0);
            _mm256_storeu_ps(p.add(8), a.1);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller promises the range.
        unsafe { F(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u16) -> V {
        // SAFETY: the caller promises the range.
        unsafe {
            V(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, a: F) {
        // SAFETY: the caller promises the range.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a.0));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a.1));
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, a: V) {
        // SAFETY: the caller promises the range.
        unsafe {
            let byte = _mm_set1_epi16(0xff);
            let low = _mm_and_si128(low_words(a.0), byte);
            let high = _mm_and_si128(low_words(a.1), byte);
            _mm_storeu_si128(p.cast(), _mm_packus_epi16(low, high));
        }
    }
    #[inline(always)]
    unsafe fn gather_u16(self, rows: &[*const u8; LANES], offset: usize) -> V {
        // SAFETY: the caller promises two bytes at `offset` of each row.
        unsafe { V(eight_words(rows, 0, offset), eight_words(rows, 8, offset)) }
    }
    #[inline(always)]
    unsafe fn gather_u32(self, rows: &[*const u8; LANES], offset: usize) -> V {
        // SAFETY: the caller promises four bytes at `offset` of each row.
        unsafe {
            V(pair(quad(rows, 0, offset), quad(rows, 4, offset)), pair(quad(rows, 8, offset), quad(rows, 12, offset)))
        }
    }
    #[inline(always)]
    unsafe fn load_transposed(self, rows: &[*const u8; LANES], offset: usize) -> [V; 4] {
        // SAFETY: the caller promises sixteen bytes at `offset` of each row.
        let (a, b) = unsafe { (transposed(rows, 0, offset), transposed(rows, 8, offset)) };
        [V(a[0], b[0]), V(a[1], b[1]), V(a[2], b[2]), V(a[3], b[3])]
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn call<O: Operation>(self, op: O) -> O::Output {
        // SAFETY: `self` proves the features.
        unsafe { call(op, self) }
    }
}
