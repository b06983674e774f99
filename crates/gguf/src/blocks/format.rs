//! What all block formats have in common, so that rows, kernels and tests are written once.

use crate::types::GgmlType;

/// A block format. Implemented by the block structs; `with_format!` goes from a [`GgmlType`] to one.
///
/// Everything is `#[inline(always)]` down to the arithmetic: the kernels room compiles the same code for each
/// instruction set. It uses no fused multiply-add and fixed lanes, so the bytes are the same on all of them.
pub trait Format: Copy + Send + Sync + 'static {
    /// The type in files.
    const TYPE: GgmlType;

    /// Decodes one block: `block_bytes` bytes to `block_len` weights.
    fn decode(bytes: &[u8], weights: &mut [f32]);

    /// The integer form of one block, see [`Integers`].
    fn unpack(bytes: &[u8], out: &mut [Integers]);
}

/// A format that can be written.
pub trait Encode: Format {
    /// Packs `block_len` weights into `block_bytes` bytes, so that `Σ importance · (weight - decoded)²` is small.
    /// Without importance every weight counts the same; with it, every entry is finite and positive.
    ///
    /// # Errors
    /// The index of a weight that the format cannot hold: not finite, or too large for the block's scale.
    fn encode(weights: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) -> Result<(), usize>;
}

/// Thirty-two weights as whole numbers, for products in integer arithmetic:
/// `w[i] = scale · steps[i / 16] · quants[i] + min_scale · mins[i / 16]`, up to the rounding of that expression.
///
/// The parts of a super-block of 256 weights share `scale` and `min_scale`, in formats of smaller blocks the steps are 1.
/// `steps · Σ quants · activation` of 256 weights and 8-bit activations fits 32 bits in every format but NVFP4.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Integers {
    /// Signed, at least -127 but for Q8_0, Q8_1 and Q8_K of foreign origin.
    pub quants: [i8; 32],
    /// One for each half.
    pub steps: [i32; 2],
    /// One for each half.
    pub mins: [i32; 2],
    /// Of the steps.
    pub scale: f32,
    /// Of the mins; negative where the format subtracts.
    pub min_scale: f32,
}

impl Default for Integers {
    fn default() -> Self {
        Self { quants: [0; 32], steps: [1; 2], mins: [0; 2], scale: 0.0, min_scale: 0.0 }
    }
}

/// Implements [`Format`], and [`Encode`] where a packer is given, from functions over whole blocks:
/// `dequantize(&Block, &mut [f32; LEN])`, `unpack(&Block, &mut [Integers; LEN / 32])` and
/// `quantize(&[f32; LEN], Option<&[f32; LEN]>) -> Result<Block, usize>`.
macro_rules! block_format {
    ($block:ident = $ty:ident, $dequantize:ident, $unpack:ident $(, $quantize:ident)?) => {
        impl $crate::blocks::Format for $block {
            const TYPE: $crate::GgmlType = $crate::GgmlType::$ty;
            #[inline(always)]
            fn decode(bytes: &[u8], weights: &mut [f32]) {
                let block = Self::from_bytes(bytes.try_into().expect("one whole block"));
                $dequantize(&block, weights.try_into().expect("one whole block"));
            }
            #[inline(always)]
            fn unpack(bytes: &[u8], out: &mut [$crate::blocks::Integers]) {
                let block = Self::from_bytes(bytes.try_into().expect("one whole block"));
                $unpack(&block, out.try_into().expect("one whole block"));
            }
        }
        $(impl $crate::blocks::Encode for $block {
            #[inline(always)]
            fn encode(weights: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) -> Result<(), usize> {
                let whole = "one whole block";
                let importance = importance.map(|values| values.try_into().expect(whole));
                let block = $quantize(weights.try_into().expect(whole), importance)?;
                bytes.copy_from_slice(&block.to_bytes());
                Ok(())
            }
        })?
    };
}
pub(crate) use block_format;
