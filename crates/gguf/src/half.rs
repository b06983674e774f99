//! The two 16-bit float formats, converted in software so that every machine gets the same bits.

/// IEEE 754 half precision: 1 sign, 5 exponent, 10 fraction bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct F16(pub u16);

impl F16 {
    /// From two little-endian bytes.
    pub const fn from_le_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_le_bytes(bytes))
    }

    /// As two little-endian bytes.
    pub const fn to_le_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }

    /// The exact value in single precision. A NaN keeps its payload and becomes quiet, as the conversion
    /// instructions of x86 and ARM do.
    #[inline]
    pub const fn to_f32(self) -> f32 {
        // Moving exponent and fraction into place leaves the exponent short by the difference of the biases
        // (127 - 15); one exact multiplication by 2^112 adds it, and normalises subnormals on the way.
        const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
        let magnitude = (self.0 as u32 & 0x7fff) << 13;
        let sign = (self.0 as u32 & 0x8000) << 16;
        let bits = if self.0 & 0x7c00 == 0x7c00 {
            let infinite = self.0 & 0x7fff == 0x7c00;
            magnitude | 0x7f80_0000 | if infinite { 0 } else { 0x0040_0000 }
        } else {
            (f32::from_bits(magnitude) * REBIAS).to_bits()
        };
        f32::from_bits(bits | sign)
    }

    /// Rounded to nearest, ties to even; beyond 65,504 (and its half step) to infinity. NaN stays NaN.
    #[inline]
    pub const fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let sign = (bits >> 16) as u16 & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        if magnitude > 0x7f80_0000 {
            return Self(sign | 0x7e00 | (magnitude >> 13) as u16 & 0x03ff);
        }
        // 65,520 is the tie between 65,504 and what would be the next value: it rounds away, to infinity.
        if magnitude >= 0x477f_f000 {
            return Self(sign | 0x7c00);
        }
        // Below 2^-14 the result is subnormal: adding 0.5 puts its unit (2^-24) at the last bit of the sum,
        // so the float addition itself rounds to nearest even.
        if magnitude < 0x3880_0000 {
            let sum = f32::from_bits(magnitude) + 0.5;
            return Self(sign | (sum.to_bits() - 0x3f00_0000) as u16);
        }
        // Normal: change the bias and round the 13 bits that go. A carry runs into the exponent, as it should.
        let odd = (magnitude >> 13) & 1;
        let rounded = magnitude - (112 << 23) + 0x0fff + odd;
        Self(sign | (rounded >> 13) as u16)
    }
}

/// bfloat16: the upper half of single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct BF16(pub u16);

impl BF16 {
    /// From two little-endian bytes.
    pub const fn from_le_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_le_bytes(bytes))
    }

    /// As two little-endian bytes.
    pub const fn to_le_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }

    /// The exact value in single precision.
    #[inline]
    pub const fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }

    /// Rounded to nearest, ties to even. NaN stays NaN and becomes quiet.
    #[inline]
    pub const fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        if bits & 0x7fff_ffff > 0x7f80_0000 {
            return Self((bits >> 16) as u16 | 0x0040);
        }
        let odd = (bits >> 16) & 1;
        Self(((bits + 0x7fff + odd) >> 16) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value from the definition, exact in double precision; `None` for infinities and NaN.
    fn f16_value(bits: u16) -> Option<f64> {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let magnitude = match exponent {
            31 => return None,
            0 => fraction * 2f64.powi(-24),
            _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
        };
        Some(if bits >> 15 == 1 { -magnitude } else { magnitude })
    }

    #[test]
    fn every_f16_widens_exactly_and_comes_back() {
        for bits in 0..=u16::MAX {
            let wide = F16(bits).to_f32();
            match f16_value(bits) {
                Some(value) => {
                    assert_eq!(f64::from(wide).to_bits(), value.to_bits(), "{bits:#06x}");
                    assert_eq!(F16::from_f32(wide), F16(bits), "{bits:#06x}");
                }
                None if bits & 0x7fff == 0x7c00 => {
                    assert!(wide.is_infinite() && wide.is_sign_negative() == (bits >> 15 == 1), "{bits:#06x}");
                    assert_eq!(F16::from_f32(wide), F16(bits));
                }
                None => {
                    assert!(wide.is_nan(), "{bits:#06x}");
                    // Quiet, sign and payload kept.
                    assert_eq!(F16::from_f32(wide), F16(bits | 0x0200), "{bits:#06x}");
                }
            }
        }
    }

    /// At the middle between two neighbours the even one wins; one step of f32 to either side decides otherwise.
    #[test]
    fn f16_rounds_to_nearest_even() {
        for low in 0..0x7c00u16 {
            let high = low + 1;
            let above = if high == 0x7c00 { 65536.0 } else { F16(high).to_f32() };
            let middle = f32::midpoint(F16(low).to_f32(), above);
            let even = if low % 2 == 0 { low } else { high };
            for sign in [0, 0x8000u16] {
                let signed = |value: f32| F16::from_f32(if sign == 0 { value } else { -value });
                assert_eq!(signed(middle), F16(even | sign), "{low:#06x}");
                assert_eq!(signed(middle.next_down()), F16(low | sign), "{low:#06x}");
                assert_eq!(signed(middle.next_up()), F16(high | sign), "{low:#06x}");
            }
        }
        for large in [65536.0, 1e10, f32::MAX, f32::INFINITY] {
            assert_eq!(F16::from_f32(large), F16(0x7c00));
        }
        assert_eq!(F16::from_f32(f32::MIN_POSITIVE), F16(0));
        assert_eq!(F16::from_f32(-f32::from_bits(1)), F16(0x8000));
    }

    #[test]
    fn every_bf16_widens_exactly_and_comes_back() {
        for bits in 0..=u16::MAX {
            let wide = BF16(bits).to_f32();
            assert_eq!(wide.to_bits(), u32::from(bits) << 16);
            let quiet = if wide.is_nan() { 0x0040 } else { 0 };
            assert_eq!(BF16::from_f32(wide), BF16(bits | quiet), "{bits:#06x}");
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for low in 0..0x7f80u16 {
            let middle = f32::from_bits(u32::from(low) << 16 | 0x8000);
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(BF16::from_f32(middle), BF16(even));
            assert_eq!(BF16::from_f32(middle.next_down()), BF16(low));
            assert_eq!(BF16::from_f32(-middle.next_up()), BF16((low + 1) | 0x8000));
        }
    }
}
