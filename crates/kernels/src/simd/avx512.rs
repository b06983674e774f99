//! AVX-512 with VNNI: one zmm register is the sixteen lanes.

use std::arch::x86_64::*;

use super::avx2::quad;
use super::{LANES, Operation, Simd};

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI (and what every such CPU has: AVX2, FMA, F16C).
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    #[inline(always)]
    pub(crate) fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }
}

/// # Safety
/// The CPU has the features below; an [`Avx512`] proves it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run<O: Operation>(op: O, simd: Avx512) -> O::Output {
    op.eval(simd)
}

/// As [`run`], never inlined.
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
unsafe fn call<O: Operation>(op: O, simd: Avx512) -> O::Output {
    op.eval(simd)
}

// Plain functions, not closures: a closure does not inherit the attributes of the function around it, and what it
// calls would not be inlined.

/// Sixteen bytes of rows `i`, `i+4`, `i+8`, `i+12`, one in each 128-bit lane, so that a 4×4 transposition inside the
/// lanes leaves the rows in their natural order.
/// # Safety
/// The CPU has AVX-512 F; each row has 16 readable bytes at `offset`.
#[inline(always)]
unsafe fn spread(rows: &[*const u8; LANES], i: usize, offset: usize) -> __m512i {
    // SAFETY: the caller promises both.
    unsafe {
        let v = _mm512_castsi128_si512(_mm_loadu_si128(rows[i].add(offset).cast()));
        let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(rows[i + 4].add(offset).cast()));
        let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(rows[i + 8].add(offset).cast()));
        _mm512_inserti32x4::<3>(v, _mm_loadu_si128(rows[i + 12].add(offset).cast()))
    }
}

/// A register operation: `self` proves that the CPU has the instructions.
macro_rules! register_ops {
    ($($(#[$attr:meta])* fn $name:ident $(<const $n:ident: u32>)? ($($arg:ident: $ty:ty),*) -> $ret:ty { $body:expr })*) => {
        $(
            #[inline(always)]
            $(#[$attr])*
            fn $name $(<const $n: u32>)? (self, $($arg: $ty),*) -> $ret {
                // SAFETY: no memory is touched, and `self` proves that the CPU has the instructions.
                unsafe { $body }
            }
        )*
    };
}

impl Simd for Avx512 {
    type V = __m512i;
    type F = __m512;
    const SIGNED_PANEL: bool = false;
    const TILE_COLS: usize = 12;

    register_ops! {
        fn splat(x: u32) -> __m512i { _mm512_set1_epi32(x as i32) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn add(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sub(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn mul(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
        fn shl<const N: u32>(a: __m512i) -> __m512i { _mm512_slli_epi32::<N>(a) }
        fn shr<const N: u32>(a: __m512i) -> __m512i { _mm512_srli_epi32::<N>(a) }
        fn sra<const N: u32>(a: __m512i) -> __m512i { _mm512_srai_epi32::<N>(a) }
        fn max_u32(a: __m512i, b: __m512i) -> __m512i { _mm512_max_epu32(a, b) }
        fn dot_u8(acc: __m512i, u: __m512i, s: __m512i) -> __m512i { _mm512_dpbusd_epi32(acc, u, s) }
        fn dot_i16(acc: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_dpwssd_epi32(acc, a, b) }

        fn fsplat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn fadd(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn fsub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn fmul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn fdiv(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn fmax(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn select_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
        }
        fn fold_add(a: __m512) -> f32 {{
            let b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }}
        fn fold_max(a: __m512) -> f32 {{
            let b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }}
        fn to_f32(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn to_i32(a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
        fn bits(a: __m512) -> __m512i { _mm512_castps_si512(a) }
        fn as_float(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn f16_to_f32(a: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    }

    #[inline(always)]
    fn dot_i8(self, _acc: __m512i, _w: __m512i, _s: __m512i) -> __m512i {
        unreachable!("panels of this ISA hold unsigned bytes")
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u32) -> __m512i {
        // SAFETY: the caller promises the range.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u32, a: __m512i) {
        // SAFETY: the caller promises the range.
        unsafe { _mm512_storeu_si512(p.cast(), a) }
    }
    #[inline(always)]
    unsafe fn fload(self, p: *const f32) -> __m512 {
        // SAFETY: the caller promises the range.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn fstore(self, p: *mut f32, a: __m512) {
        // SAFETY: the caller promises the range.
        unsafe { _mm512_storeu_ps(p, a) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m512 {
        // SAFETY: the caller promises the range.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u16) -> __m512i {
        // SAFETY: the caller promises the range.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, a: __m512) {
        // SAFETY: the caller promises the range.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, a: __m512i) {
        // SAFETY: the caller promises the range.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(a)) }
    }
    #[inline(always)]
    unsafe fn gather_u16(self, rows: &[*const u8; LANES], offset: usize) -> __m512i {
        // SAFETY: the caller promises two bytes at `offset` of each row.
        unsafe {
            let at = |r: usize| rows[r].add(offset).cast::<i16>().read_unaligned();
            _mm512_cvtepu16_epi32(_mm256_setr_epi16(
                at(0),
                at(1),
                at(2),
                at(3),
                at(4),
                at(5),
                at(6),
                at(7),
                at(8),
                at(9),
                at(10),
                at(11),
                at(12),
                at(13),
                at(14),
                at(15),
            ))
        }
    }
    #[inline(always)]
    unsafe fn gather_u32(self, rows: &[*const u8; LANES], offset: usize) -> __m512i {
        // SAFETY: the caller promises four bytes at `offset` of each row.
        unsafe {
            let low =
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quad(rows, 0, offset)), quad(rows, 4, offset));
            let high =
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quad(rows, 8, offset)), quad(rows, 12, offset));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }
    #[inline(always)]
    unsafe fn load_transposed(self, rows: &[*const u8; LANES], offset: usize) -> [__m512i; 4] {
        // SAFETY: the caller promises sixteen bytes at `offset` of each row.
        unsafe {
            let (a, b) = (spread(rows, 0, offset), spread(rows, 1, offset));
            let (c, d) = (spread(rows, 2, offset), spread(rows, 3, offset));
            let (ab_lo, ab_hi) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_lo, cd_hi) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_lo, cd_lo),
                _mm512_unpackhi_epi64(ab_lo, cd_lo),
                _mm512_unpacklo_epi64(ab_hi, cd_hi),
                _mm512_unpackhi_epi64(ab_hi, cd_hi),
            ]
        }
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
