//! The ggml tensor types: id, name, and the size of one block.
//!
//! Ids and sizes follow `ggml.h` and the C structs of `ggml-common.h`. Types that ggml removed, and types that
//! only forks have, are refused by name in [`GgmlType::from_id`].

use std::fmt;

use crate::error::Error;

macro_rules! ggml_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $len:literal weights in $bytes:literal bytes;)+) => {
        /// How the weights of a tensor are packed. The discriminant is the id in the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum GgmlType {
            $($(#[$doc])* $variant = $id,)+
        }

        impl GgmlType {
            /// Every live type, by id.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            const fn from_live_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The type's usual name, e.g. `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Weights per block (1 for the plain number types).
            pub const fn block_len(self) -> usize {
                match self { $(Self::$variant => $len,)+ }
            }

            /// Bytes per block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes,)+ }
            }
        }
    };
}

ggml_types! {
    /// IEEE single precision.
    F32 = 0, "F32", 1 weights in 4 bytes;
    /// IEEE half precision.
    F16 = 1, "F16", 1 weights in 2 bytes;
    /// 4-bit, one scale per 32.
    Q4_0 = 2, "Q4_0", 32 weights in 18 bytes;
    /// 4-bit, scale and minimum per 32.
    Q4_1 = 3, "Q4_1", 32 weights in 20 bytes;
    /// 5-bit, one scale per 32.
    Q5_0 = 6, "Q5_0", 32 weights in 22 bytes;
    /// 5-bit, scale and minimum per 32.
    Q5_1 = 7, "Q5_1", 32 weights in 24 bytes;
    /// 8-bit, one scale per 32.
    Q8_0 = 8, "Q8_0", 32 weights in 34 bytes;
    /// 8-bit with the block's sum; an activation format, rare in files. The C struct has 36 bytes.
    Q8_1 = 9, "Q8_1", 32 weights in 36 bytes;
    /// 2-bit k-quant.
    Q2_K = 10, "Q2_K", 256 weights in 84 bytes;
    /// 3-bit k-quant.
    Q3_K = 11, "Q3_K", 256 weights in 110 bytes;
    /// 4-bit k-quant.
    Q4_K = 12, "Q4_K", 256 weights in 144 bytes;
    /// 5-bit k-quant.
    Q5_K = 13, "Q5_K", 256 weights in 176 bytes;
    /// 6-bit k-quant.
    Q6_K = 14, "Q6_K", 256 weights in 210 bytes;
    /// 8-bit k-quant; an activation format, rare in files.
    Q8_K = 15, "Q8_K", 256 weights in 292 bytes;
    /// 2.06-bit grid quant.
    IQ2_XXS = 16, "IQ2_XXS", 256 weights in 66 bytes;
    /// 2.31-bit grid quant.
    IQ2_XS = 17, "IQ2_XS", 256 weights in 74 bytes;
    /// 3.06-bit grid quant.
    IQ3_XXS = 18, "IQ3_XXS", 256 weights in 98 bytes;
    /// 1.56-bit grid quant.
    IQ1_S = 19, "IQ1_S", 256 weights in 50 bytes;
    /// 4-bit, non-linear code book, one scale per 32.
    IQ4_NL = 20, "IQ4_NL", 32 weights in 18 bytes;
    /// 3.44-bit grid quant.
    IQ3_S = 21, "IQ3_S", 256 weights in 110 bytes;
    /// 2.56-bit grid quant.
    IQ2_S = 22, "IQ2_S", 256 weights in 82 bytes;
    /// 4.25-bit, non-linear code book, super-blocks of 256.
    IQ4_XS = 23, "IQ4_XS", 256 weights in 136 bytes;
    /// Signed 8-bit integers.
    I8 = 24, "I8", 1 weights in 1 bytes;
    /// Signed 16-bit integers.
    I16 = 25, "I16", 1 weights in 2 bytes;
    /// Signed 32-bit integers.
    I32 = 26, "I32", 1 weights in 4 bytes;
    /// Signed 64-bit integers.
    I64 = 27, "I64", 1 weights in 8 bytes;
    /// IEEE double precision.
    F64 = 28, "F64", 1 weights in 8 bytes;
    /// 1.75-bit grid quant.
    IQ1_M = 29, "IQ1_M", 256 weights in 56 bytes;
    /// The upper half of IEEE single precision.
    BF16 = 30, "BF16", 1 weights in 2 bytes;
    /// Ternary, 1.69 bit.
    TQ1_0 = 34, "TQ1_0", 256 weights in 54 bytes;
    /// Ternary, 2.06 bit.
    TQ2_0 = 35, "TQ2_0", 256 weights in 66 bytes;
    /// Microscaling 4-bit float, E8M0 scale per 32.
    MXFP4 = 39, "MXFP4", 32 weights in 17 bytes;
    /// 4-bit float, UE4M3 scale per 16.
    NVFP4 = 40, "NVFP4", 64 weights in 36 bytes;
    /// 1-bit, one scale per 128.
    Q1_0 = 41, "Q1_0", 128 weights in 18 bytes;
    /// 2-bit, one scale per 64.
    Q2_0 = 42, "Q2_0", 64 weights in 18 bytes;
}

impl GgmlType {
    /// The type with this id in a file.
    ///
    /// # Errors
    /// [`Error::UnsupportedType`] for ids that ggml removed, that only a fork uses, or that nobody uses; the
    /// message names the type and says what to do.
    pub fn from_id(id: u32) -> Result<Self, Error> {
        Self::from_live_id(id).ok_or_else(|| unsupported(id))
    }

    /// The id in a file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The type with this name, in any letter case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of `n` weights. `None` when `n` is no multiple of the block length, or on overflow.
    pub const fn row_bytes(self, n: usize) -> Option<usize> {
        if n.is_multiple_of(self.block_len()) { (n / self.block_len()).checked_mul(self.block_bytes()) } else { None }
    }

    /// Whether [`crate::decode_row`] knows this type.
    pub const fn can_decode(self) -> bool {
        crate::with_format!(self, _F => true, else self.block_len() == 1)
    }

    /// Whether [`crate::encode_row`] knows this type.
    pub const fn can_encode(self) -> bool {
        crate::with_encoder!(self, _F => true, else matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64))
    }

    /// Bits that a weight takes, scales included.
    pub const fn bits_per_weight(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block_len() as f64
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

const REMOVED: &str = "ggml removed this type; quantize the model again from its original weights";
const RUNTIME_REPACK: &str = "this interleaved layout was removed from ggml; quantize the model again to Q4_0 or IQ4_NL, which are packed for the CPU at load";
const FORK: &str =
    "this type exists only in the ik_llama.cpp fork; get the model in a type of mainline ggml, such as Q4_K";
const UNKNOWN: &str = "no such type is known; the file is damaged or newer than this program";

fn unsupported(id: u32) -> Error {
    let (name, advice) = match id {
        4 => ("Q4_2", REMOVED),
        5 => ("Q4_3", REMOVED),
        31 => ("Q4_0_4_4", RUNTIME_REPACK),
        32 => ("Q4_0_4_8", RUNTIME_REPACK),
        33 => ("Q4_0_8_8", RUNTIME_REPACK),
        36 => ("IQ4_NL_4_4, or I2_S of ik_llama.cpp and BitNet", RUNTIME_REPACK),
        37 => ("IQ4_NL_4_8", RUNTIME_REPACK),
        38 => ("IQ4_NL_8_8", RUNTIME_REPACK),
        _ => match fork_name(id) {
            Some(name) => (name, FORK),
            None => ("unknown", UNKNOWN),
        },
    };
    Error::UnsupportedType { id, name, advice }
}

/// Names of the ids that only the ik_llama.cpp fork uses (its `ggml.h`).
fn fork_name(id: u32) -> Option<&'static str> {
    Some(match id {
        97 => "Q8_0_X4",
        98 => "Q8_1_X4",
        99 => "Q8_2_X4",
        133 => "Q6_0",
        134 => "IQ1_BN",
        135 => "IQ2_BN",
        136 => "Q8_K64",
        137 => "IQ2_K",
        138 => "IQ3_K",
        139 => "IQ4_K",
        140 => "IQ5_K",
        141 => "IQ6_K",
        142 => "IQ2_TN",
        143 => "IQ1_TN",
        144 => "IQ4_KS",
        145 => "IQ2_KS",
        146 => "IQ4_KSS",
        147 => "Q8_K16",
        148 => "Q8_K32",
        149 => "Q8_KR8",
        150 => "Q8_K128",
        151 => "Q8_KV",
        152 => "IQ5_KS",
        153 => "IQ2_KT",
        154 => "IQ3_KT",
        155 => "IQ4_KT",
        156 => "IQ3_KS",
        157 => "IQ2_KL",
        158 => "IQ1_KT",
        202 => "Q4_0_R8",
        206 => "Q5_0_R4",
        208 => "Q8_0_R8",
        210 => "Q2_K_R4",
        211 => "Q3_K_R4",
        212 => "Q4_K_R4",
        213 => "Q5_K_R4",
        214 => "Q6_K_R4",
        216 => "IQ2_XXS_R4",
        217 => "IQ2_XS_R4",
        218 => "IQ3_XXS_R4",
        219 => "IQ1_S_R4",
        220 => "IQ4_NL_R4",
        221 => "IQ3_S_R4",
        222 => "IQ2_S_R4",
        223 => "IQ4_XS_R8",
        229 => "IQ1_M_R4",
        230 => "BF16_R16",
        233 => "Q6_0_R4",
        335 => "IQ2_BN_R4",
        337 => "IQ2_K_R4",
        338 => "IQ3_K_R4",
        339 => "IQ4_K_R4",
        340 => "IQ5_K_R4",
        344 => "IQ4_KS_R4",
        352 => "IQ5_KS_R4",
        353 => "MXFP4_R8",
        397 => "Q8_K_R16",
        398 => "Q8_KV_R8",
        399 => "Q8_K_R8",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits per weight of every type as ggml documents them; the table above says blocks and bytes.
    #[test]
    fn sizes_are_those_of_ggml() {
        #[rustfmt::skip]
        let documented = [
            ("F32", 32.0), ("F16", 16.0), ("Q4_0", 4.5), ("Q4_1", 5.0), ("Q5_0", 5.5), ("Q5_1", 6.0), ("Q8_0", 8.5),
            ("Q8_1", 9.0), ("Q2_K", 2.625), ("Q3_K", 3.4375), ("Q4_K", 4.5), ("Q5_K", 5.5), ("Q6_K", 6.5625),
            ("Q8_K", 9.125), ("IQ2_XXS", 2.0625), ("IQ2_XS", 2.3125), ("IQ3_XXS", 3.0625), ("IQ1_S", 1.5625),
            ("IQ4_NL", 4.5), ("IQ3_S", 3.4375), ("IQ2_S", 2.5625), ("IQ4_XS", 4.25), ("I8", 8.0), ("I16", 16.0),
            ("I32", 32.0), ("I64", 64.0), ("F64", 64.0), ("IQ1_M", 1.75), ("BF16", 16.0), ("TQ1_0", 1.6875),
            ("TQ2_0", 2.0625), ("MXFP4", 4.25), ("NVFP4", 4.5), ("Q1_0", 1.125), ("Q2_0", 2.25),
        ];
        let table: Vec<(&str, f64)> =
            GgmlType::ALL.iter().map(|ty| (ty.name(), 8.0 * ty.block_bytes() as f64 / ty.block_len() as f64)).collect();
        assert_eq!(table, documented);
    }

    #[test]
    fn every_id_is_a_type_or_an_error_with_advice() {
        for id in 0..1000 {
            match GgmlType::from_id(id) {
                Ok(ty) => {
                    assert_eq!(ty.id(), id);
                    assert_eq!(GgmlType::from_name(ty.name()), Some(ty));
                    assert_eq!(GgmlType::from_name(&ty.name().to_lowercase()), Some(ty));
                }
                Err(error) => assert!(error.to_string().contains(&format!("ggml type {id} (")), "{error}"),
            }
        }
        assert_eq!((0..1000).filter(|&id| GgmlType::from_id(id).is_ok()).count(), GgmlType::ALL.len());
        assert_eq!(GgmlType::from_name("Q4_2"), None);
    }

    #[test]
    fn row_bytes_are_checked() {
        assert_eq!(GgmlType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(GgmlType::Q4_K.row_bytes(0), Some(0));
        assert_eq!(GgmlType::Q4_K.row_bytes(255), None);
        assert_eq!(GgmlType::F32.row_bytes(usize::MAX), None);
    }
}
