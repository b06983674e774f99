//! The vector unit as kernels see it: sixteen 32-bit lanes on every instruction set.
//!
//! A kernel is written once over [`Simd`] and stamped out per instruction set by [`Isa::run`].
//! Sixteen lanes are the widest register of the fastest ISA here; narrower ones use pairs. Because
//! every ISA has the same number of lanes and the same rounding of each operation (IEEE fused
//! multiply-add included), a kernel gives the same bits everywhere.
//!
//! [`Isa`] values exist only for instruction sets that this CPU has: that is what makes it sound to
//! run the attributed code behind them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Lanes of every vector.
pub(crate) const LANES: usize = 16;

/// Sixteen 32-bit lanes. A value of an implementing type proves that the CPU has the instructions.
///
/// Operations on registers are safe; those that touch memory take raw pointers and are not.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `u32`/`i32`, or 64 bytes.
    type V: Copy;
    /// Sixteen `f32`.
    type F: Copy;

    /// Whether int8 weights stay signed in a panel ([`dot_i8`](Self::dot_i8)), or are stored with
    /// 128 added ([`dot_u8`](Self::dot_u8)): whichever this ISA multiplies exactly and fast.
    const SIGNED_PANEL: bool;
    /// Columns (activation rows) of one register tile of the int8 GEMM.
    const TILE_COLS: usize;

    fn splat(self, x: u32) -> Self::V;
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// Low 32 bits of each product.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn shl<const N: u32>(self, a: Self::V) -> Self::V;
    /// Logical shift right.
    fn shr<const N: u32>(self, a: Self::V) -> Self::V;
    /// Arithmetic shift right.
    fn sra<const N: u32>(self, a: Self::V) -> Self::V;
    /// Unsigned maximum.
    fn max_u32(self, a: Self::V, b: Self::V) -> Self::V;
    /// `acc + Σ u·s` over the four bytes of each lane, `u` unsigned, `s` signed, exact.
    /// Where [`SIGNED_PANEL`](Self::SIGNED_PANEL) holds, `u` must be at most 127.
    fn dot_u8(self, acc: Self::V, u: Self::V, s: Self::V) -> Self::V;
    /// `acc + Σ w·s` over the four signed bytes of each lane, exact, `s` ≥ -127.
    /// Called only where [`SIGNED_PANEL`](Self::SIGNED_PANEL) holds.
    fn dot_i8(self, acc: Self::V, w: Self::V, s: Self::V) -> Self::V;
    /// `acc + Σ a·b` over the two signed 16-bit halves of each lane.
    fn dot_i16(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;

    fn fsplat(self, x: f32) -> Self::F;
    fn fadd(self, a: Self::F, b: Self::F) -> Self::F;
    fn fsub(self, a: Self::F, b: Self::F) -> Self::F;
    fn fmul(self, a: Self::F, b: Self::F) -> Self::F;
    fn fdiv(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b` in each lane: a NaN in `b` stays.
    fn fmax(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? x : y` in each lane; a NaN compares false.
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Sum of all lanes in the one order that every ISA uses: lane i with i+8, then +4, +2, +1.
    fn fold_add(self, a: Self::F) -> f32;
    /// Largest lane, folded as [`fold_add`](Self::fold_add) folds; NaN lanes may or may not win.
    fn fold_max(self, a: Self::F) -> f32;

    /// Signed integers to floats, rounded to nearest even.
    fn to_f32(self, a: Self::V) -> Self::F;
    /// Floats to signed integers, rounded to nearest even. In range only.
    fn to_i32(self, a: Self::F) -> Self::V;
    fn bits(self, a: Self::F) -> Self::V;
    fn as_float(self, a: Self::V) -> Self::F;
    /// The low 16 bits of each lane, read as IEEE half precision.
    fn f16_to_f32(self, a: Self::V) -> Self::F;

    /// # Safety
    /// `p` points to 16 readable `u32`.
    unsafe fn load(self, p: *const u32) -> Self::V;
    /// # Safety
    /// `p` points to 16 writable `u32`.
    unsafe fn store(self, p: *mut u32, a: Self::V);
    /// # Safety
    /// `p` points to 16 readable `f32`.
    unsafe fn fload(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `p` points to 16 writable `f32`.
    unsafe fn fstore(self, p: *mut f32, a: Self::F);
    /// Sixteen half-precision floats, widened.
    /// # Safety
    /// `p` points to 16 readable `u16`.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Sixteen 16-bit values, widened with zeros.
    /// # Safety
    /// `p` points to 16 readable `u16`.
    unsafe fn load_u16(self, p: *const u16) -> Self::V;
    /// Narrowed to half precision, to nearest even.
    /// # Safety
    /// `p` points to 16 writable `u16`.
    unsafe fn store_f16(self, p: *mut u16, a: Self::F);
    /// The low byte of each lane.
    /// # Safety
    /// `p` points to 16 writable bytes.
    unsafe fn store_low_bytes(self, p: *mut u8, a: Self::V);
    /// One little-endian `u16` from each of 16 rows, at `offset` bytes, widened with zeros.
    /// # Safety
    /// Each row has 2 readable bytes at `offset`.
    unsafe fn gather_u16(self, rows: &[*const u8; LANES], offset: usize) -> Self::V;
    /// One little-endian `u32` from each of 16 rows.
    /// # Safety
    /// Each row has 4 readable bytes at `offset`.
    unsafe fn gather_u32(self, rows: &[*const u8; LANES], offset: usize) -> Self::V;
    /// Sixteen bytes from each of 16 rows, transposed: lane r of result i is bytes `4i..4i+4` of row r.
    /// # Safety
    /// Each row has 16 readable bytes at `offset`.
    unsafe fn load_transposed(self, rows: &[*const u8; LANES], offset: usize) -> [Self::V; 4];
    /// Asks for the cache line at `p`, into the second level; any address is allowed.
    fn prefetch(self, p: *const u8);
    /// Runs `op` for the same instruction set as a function of its own: many callers share one copy of its code.
    fn call<O: Operation>(self, op: O) -> O::Output;
}

/// One operation, written for any instruction set. `eval` must be `#[inline(always)]`, so that its
/// body is compiled inside the attributed function that [`Isa::run`] stamps out.
pub(crate) trait Operation {
    type Output;
    fn eval<S: Simd>(self, simd: S) -> Self::Output;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// An instruction set that this CPU has. There is no way to make one that it lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Kind);

impl Isa {
    /// The fastest one.
    #[must_use]
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Every instruction set that this CPU has kernels for, fastest first. The portable one, plain
    /// Rust, is always there.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut isas = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if Avx512::new().is_some() {
                isas.push(Self(Kind::Avx512));
            }
            if Avx2::new().is_some() {
                isas.push(Self(Kind::Avx2));
            }
        }
        isas.push(Self(Kind::Portable));
        isas
    }

    /// The one of that [`name`](Self::name), if this CPU has it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `avx512-vnni`, `avx2` or `portable`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
        }
    }

    /// Columns of one register tile of the int8 GEMM on this ISA.
    pub(crate) fn tile_cols(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => Avx512::TILE_COLS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => Avx2::TILE_COLS,
            Kind::Portable => Portable::TILE_COLS,
        }
    }

    /// Runs `op` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<O: Operation>(self, op: O) -> O::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => {
                let simd = Avx512::new().expect("an Isa is only made for what the CPU has");
                // SAFETY: `simd` proves the features.
                unsafe { avx512::run(op, simd) }
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => {
                let simd = Avx2::new().expect("an Isa is only made for what the CPU has");
                // SAFETY: `simd` proves the features.
                unsafe { avx2::run(op, simd) }
            }
            Kind::Portable => op.eval(Portable),
        }
    }
}

impl Default for Isa {
    fn default() -> Self {
        Self::best()
    }
}
