//! How a block struct is declared: fields in the file's order, bytes in and out made from them.

use crate::half::F16;

/// A field of a block: fixed size, little-endian.
pub(crate) trait Field: Copy {
    /// From exactly `size_of::<Self>()` bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Into exactly `size_of::<Self>()` bytes.
    fn write(self, bytes: &mut [u8]);
}

macro_rules! number_fields {
    ($($number:ty),+) => {$(
        impl Field for $number {
            #[inline(always)]
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("a field gets its own bytes"))
            }
            #[inline(always)]
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )+};
}
number_fields!(u8, i8, u16, i16, u32, f32, F16);

impl<T: Field, const N: usize> Field for [T; N] {
    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        let width = size_of::<T>();
        std::array::from_fn(|i| T::read(&bytes[i * width..(i + 1) * width]))
    }
    #[inline(always)]
    fn write(self, bytes: &mut [u8]) {
        let width = size_of::<T>();
        for (i, value) in self.into_iter().enumerate() {
            value.write(&mut bytes[i * width..(i + 1) * width]);
        }
    }
}

/// Declares block structs: `struct NAME: BYTES { fields }`. Each mirrors the C struct of `ggml-common.h`; the size is
/// asserted, so there is no padding and the fields lie one after the other.
macro_rules! layout {
    ($($(#[$doc:meta])* pub struct $name:ident: $bytes:literal {
        $($(#[$field_doc:meta])* pub $field:ident: $ty:ty,)+
    })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)+
        }
        const _: () = assert!(size_of::<$name>() == $bytes);

        impl $name {
            /// From the bytes of a file.
            #[inline(always)]
            pub fn from_bytes(bytes: &[u8; $bytes]) -> Self {
                $(let $field = <$ty as $crate::blocks::layout::Field>::read(
                    &bytes[std::mem::offset_of!(Self, $field)..][..size_of::<$ty>()]);)+
                Self { $($field,)+ }
            }

            /// As the bytes of a file.
            #[inline(always)]
            pub fn to_bytes(&self) -> [u8; $bytes] {
                let mut bytes = [0; $bytes];
                $(<$ty as $crate::blocks::layout::Field>::write(
                    self.$field,
                    &mut bytes[std::mem::offset_of!(Self, $field)..][..size_of::<$ty>()]);)+
                bytes
            }
        }
    )+};
}
pub(crate) use layout;
