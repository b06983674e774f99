//! Plain Rust: the instruction set that every machine has, and the twin that the others are tested against.

use hublabio_gguf::F16;

use super::{LANES, Operation, Simd};

/// Needs no proof.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type V = [u32; LANES];
type F = [f32; LANES];

#[inline(always)]
fn map<A: Copy, B: Copy, C>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> C) -> [C; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn fold(a: F, f: impl Fn(f32, f32) -> f32) -> f32 {
    let b: [f32; 8] = std::array::from_fn(|i| f(a[i], a[i + 8]));
    let c: [f32; 4] = std::array::from_fn(|i| f(b[i], b[i + 4]));
    let d: [f32; 2] = std::array::from_fn(|i| f(c[i], c[i + 2]));
    f(d[0], d[1])
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

impl Simd for Portable {
    type V = V;
    type F = F;
    const SIGNED_PANEL: bool = false;
    const TILE_COLS: usize = 4;

    #[inline(always)]
    fn splat(self, x: u32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn and(self, a: V, b: V) -> V {
        map(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: V, b: V) -> V {
        map(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, a: V, b: V) -> V {
        map(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map(a, b, u32::wrapping_sub)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map(a, b, u32::wrapping_mul)
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: V) -> V {
        a.map(|a| a << N)
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: V) -> V {
        a.map(|a| a >> N)
    }
    #[inline(always)]
    fn sra<const N: u32>(self, a: V) -> V {
        a.map(|a| (a as i32 >> N) as u32)
    }
    #[inline(always)]
    fn max_u32(self, a: V, b: V) -> V {
        map(a, b, Ord::max)
    }
    #[inline(always)]
    fn dot_u8(self, acc: V, u: V, s: V) -> V {
        std::array::from_fn(|i| {
            let (u, s) = (u[i].to_le_bytes(), s[i].to_le_bytes());
            let sum: i32 = (0..4).map(|j| i32::from(u[j]) * i32::from(s[j] as i8)).sum();
            acc[i].wrapping_add(sum as u32)
        })
    }
    #[inline(always)]
    fn dot_i8(self, _acc: V, _w: V, _s: V) -> V {
        unreachable!("panels of this ISA hold unsigned bytes")
    }
    #[inline(always)]
    fn dot_i16(self, acc: V, a: V, b: V) -> V {
        std::array::from_fn(|i| {
            let product = |shift: u32| i32::from((a[i] >> shift) as i16) * i32::from((b[i] >> shift) as i16);
            acc[i].wrapping_add(product(0) as u32).wrapping_add(product(16) as u32)
        })
    }
    #[inline(always)]
    fn fsplat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    fn fadd(self, a: F, b: F) -> F {
        map(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn fsub(self, a: F, b: F) -> F {
        map(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn fmul(self, a: F, b: F) -> F {
        map(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn fdiv(self, a: F, b: F) -> F {
        map(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn fmax(self, a: F, b: F) -> F {
        map(a, b, max)
    }
    #[inline(always)]
    fn select_lt(self, a: F, b: F, x: F, y: F) -> F {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn fold_add(self, a: F) -> f32 {
        fold(a, |a, b| a + b)
    }
    #[inline(always)]
    fn fold_max(self, a: F) -> f32 {
        fold(a, max)
    }
    #[inline(always)]
    fn to_f32(self, a: V) -> F {
        a.map(|a| a as i32 as f32)
    }
    #[inline(always)]
    fn to_i32(self, a: F) -> V {
        a.map(|a| a.round_ties_even() as i32 as u32)
    }
    #[inline(always)]
    fn bits(self, a: F) -> V {
        a.map(f32::to_bits)
    }
    #[inline(always)]
    fn as_float(self, a: V) -> F {
        a.map(f32::from_bits)
    }
    #[inline(always)]
    fn f16_to_f32(self, a: V) -> F {
        a.map(|a| F16(a as u16).to_f32())
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u32) -> V {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u32, a: V) {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<V>().write_unaligned(a) }
    }
    #[inline(always)]
    unsafe fn fload(self, p: *const f32) -> F {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn fstore(self, p: *mut f32, a: F) {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<F>().write_unaligned(a) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|h| F16(h).to_f32())
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u16) -> V {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(u32::from)
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, a: F) {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(a.map(|x| F16::from_f32(x).0)) }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, a: V) {
        // SAFETY: the caller promises the range.
        unsafe { p.cast::<[u8; LANES]>().write_unaligned(a.map(|x| x as u8)) }
    }
    #[inline(always)]
    unsafe fn gather_u16(self, rows: &[*const u8; LANES], offset: usize) -> V {
        // SAFETY: the caller promises two bytes at `offset` of each row.
        rows.map(|row| u32::from(u16::from_le(unsafe { row.add(offset).cast::<u16>().read_unaligned() })))
    }
    #[inline(always)]
    unsafe fn gather_u32(self, rows: &[*const u8; LANES], offset: usize) -> V {
        // SAFETY: the caller promises four bytes at `offset` of each row.
        rows.map(|row| u32::from_le(unsafe { row.add(offset).cast::<u32>().read_unaligned() }))
    }
    #[inline(always)]
    unsafe fn load_transposed(self, rows: &[*const u8; LANES], offset: usize) -> [V; 4] {
        // SAFETY: the caller promises sixteen bytes at `offset` of each row.
        std::array::from_fn(|i| unsafe { self.gather_u32(rows, offset + 4 * i) })
    }
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
    #[inline(always)]
    fn call<O: Operation>(self, op: O) -> O::Output {
        call(op, self)
    }
}

#[inline(never)]
fn call<O: Operation>(op: O, simd: Portable) -> O::Output {
    op.eval(simd)
}
