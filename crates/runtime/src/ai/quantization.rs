//! Quantization: the block formats, packing and unpacking of rows and blocks, and making smaller files out of models.
//!
//! ```
//! use hublabio_runtime::ai::quantization::{dequantize_q4_0, quantize_q4_0};
//!
//! let weights: [f32; 32] = std::array::from_fn(|i| (i as f32 - 15.5) / 10.0);
//! let block = quantize_q4_0(&weights, None).expect("finite weights can be packed");
//! // Sixteen bytes hold 32 quants of four bits; `scale` is what one step is worth.
//! assert_eq!(block.quants.len(), 16);
//! let mut decoded = [0.0; 32];
//! dequantize_q4_0(&block, &mut decoded);
//! let step = block.scale.to_f32().abs();
//! assert!(weights.iter().zip(decoded).all(|(weight, decoded)| (weight - decoded).abs() <= step));
//! ```

pub use hublabio_gguf::blocks::*;
pub use hublabio_gguf::encode::few_bits::{quantize_q1_0, quantize_q2_0};
pub use hublabio_gguf::encode::float4::{quantize_mxfp4, quantize_nvfp4};
pub use hublabio_gguf::encode::iq1::{quantize_iq1_m, quantize_iq1_s};
pub use hublabio_gguf::encode::iq2::{quantize_iq2_s, quantize_iq2_xs, quantize_iq2_xxs};
pub use hublabio_gguf::encode::iq3::{quantize_iq3_s, quantize_iq3_xxs};
pub use hublabio_gguf::encode::iq4::{quantize_iq4_nl, quantize_iq4_xs};
pub use hublabio_gguf::encode::k_quants::{quantize_q2_k, quantize_q3_k, quantize_q4_k, quantize_q5_k, quantize_q6_k};
pub use hublabio_gguf::encode::legacy::{quantize_q4_0, quantize_q4_1, quantize_q5_0, quantize_q5_1, quantize_q8_0};
pub use hublabio_gguf::encode::ternary::{quantize_tq1_0, quantize_tq2_0};
pub use hublabio_gguf::{BF16, F16, GgmlType, Importance, SplitLimit, decode_row, encode_row};

pub use super::quantize::{
    KeptReason, MIXES, Mix, PlannedTensor, QuantizeOptions, QuantizePlan, QuantizeProgress, QuantizeReport,
    TensorError, TensorTypeRule, quantize, tensor_type,
};

/// One line of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TypeSize {
    /// The type.
    pub ty: GgmlType,
    /// Bits that a weight takes, scales included.
    pub bits_per_weight: f64,
    /// Weights in a block; 1 for plain numbers.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// Every tensor type with its size, by id.
pub const TABLE: [TypeSize; GgmlType::ALL.len()] = {
    const fn size(ty: GgmlType) -> TypeSize {
        TypeSize { ty, bits_per_weight: ty.bits_per_weight(), block_len: ty.block_len(), block_bytes: ty.block_bytes() }
    }
    let mut table = [size(GgmlType::F32); GgmlType::ALL.len()];
    let mut i = 0;
    while i < table.len() {
        table[i] = size(GgmlType::ALL[i]);
        i += 1;
    }
    table
};
