//! Metadata values: thirteen types, arrays typed and possibly nested.

use std::fmt;

macro_rules! value_kinds {
    ($($(#[$doc:meta])* $kind:ident = $id:literal, $name:literal;)+) => {
        /// The type of a metadata value; the discriminant is the id in the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ValueKind {
            $($(#[$doc])* $kind = $id,)+
        }

        impl ValueKind {
            /// The kind with this id in a file.
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$kind),)+
                    _ => None,
                }
            }

            /// The id in a file.
            pub const fn id(self) -> u32 {
                self as u32
            }

            /// A short name, e.g. `u32`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }
        }
    };
}

value_kinds! {
    /// Unsigned, 8 bits.
    U8 = 0, "u8";
    /// Signed, 8 bits.
    I8 = 1, "i8";
    /// Unsigned, 16 bits.
    U16 = 2, "u16";
    /// Signed, 16 bits.
    I16 = 3, "i16";
    /// Unsigned, 32 bits.
    U32 = 4, "u32";
    /// Signed, 32 bits.
    I32 = 5, "i32";
    /// Single precision.
    F32 = 6, "f32";
    /// One byte, 0 or 1.
    Bool = 7, "bool";
    /// UTF-8 with a length in front.
    String = 8, "string";
    /// Values of one type.
    Array = 9, "array";
    /// Unsigned, 64 bits.
    U64 = 10, "u64";
    /// Signed, 64 bits.
    I64 = 11, "i64";
    /// Double precision.
    F64 = 12, "f64";
}

impl ValueKind {
    /// The fewest bytes that one value of this kind takes in a file.
    pub(crate) const fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are those of ValueKind
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array value; all elements have one type. Arrays of arrays may mix the types of the inner ones.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are those of ValueKind
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// The value's type.
    pub const fn kind(&self) -> ValueKind {
        match self {
            Self::U8(_) => ValueKind::U8,
            Self::I8(_) => ValueKind::I8,
            Self::U16(_) => ValueKind::U16,
            Self::I16(_) => ValueKind::I16,
            Self::U32(_) => ValueKind::U32,
            Self::I32(_) => ValueKind::I32,
            Self::F32(_) => ValueKind::F32,
            Self::Bool(_) => ValueKind::Bool,
            Self::String(_) => ValueKind::String,
            Self::Array(_) => ValueKind::Array,
            Self::U64(_) => ValueKind::U64,
            Self::I64(_) => ValueKind::I64,
            Self::F64(_) => ValueKind::F64,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Any integer type, if not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U64(v) => Some(v),
            _ => u64::try_from(self.as_i64()?).ok(),
        }
    }

    /// Any integer type, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::U64(v) => i64::try_from(v).ok(),
            Self::I64(v) => Some(v),
            _ => None,
        }
    }

    /// A float of either precision, rounded to single.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A float of either precision.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// An array of any element type.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl Array {
    /// The type of the elements.
    pub const fn kind(&self) -> ValueKind {
        match self {
            Self::U8(_) => ValueKind::U8,
            Self::I8(_) => ValueKind::I8,
            Self::U16(_) => ValueKind::U16,
            Self::I16(_) => ValueKind::I16,
            Self::U32(_) => ValueKind::U32,
            Self::I32(_) => ValueKind::I32,
            Self::F32(_) => ValueKind::F32,
            Self::Bool(_) => ValueKind::Bool,
            Self::String(_) => ValueKind::String,
            Self::Array(_) => ValueKind::Array,
            Self::U64(_) => ValueKind::U64,
            Self::I64(_) => ValueKind::I64,
            Self::F64(_) => ValueKind::F64,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(items) => items.len(),
            Self::I8(items) => items.len(),
            Self::U16(items) => items.len(),
            Self::I16(items) => items.len(),
            Self::U32(items) => items.len(),
            Self::I32(items) => items.len(),
            Self::F32(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::String(items) => items.len(),
            Self::Array(items) => items.len(),
            Self::U64(items) => items.len(),
            Self::I64(items) => items.len(),
            Self::F64(items) => items.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index` as a value of its own.
    pub fn get(&self, index: usize) -> Option<Value> {
        match self {
            Self::U8(items) => items.get(index).map(|&v| Value::U8(v)),
            Self::I8(items) => items.get(index).map(|&v| Value::I8(v)),
            Self::U16(items) => items.get(index).map(|&v| Value::U16(v)),
            Self::I16(items) => items.get(index).map(|&v| Value::I16(v)),
            Self::U32(items) => items.get(index).map(|&v| Value::U32(v)),
            Self::I32(items) => items.get(index).map(|&v| Value::I32(v)),
            Self::F32(items) => items.get(index).map(|&v| Value::F32(v)),
            Self::Bool(items) => items.get(index).map(|&v| Value::Bool(v)),
            Self::String(items) => items.get(index).map(|v| Value::String(v.clone())),
            Self::Array(items) => items.get(index).map(|v| Value::Array(v.clone())),
            Self::U64(items) => items.get(index).map(|&v| Value::U64(v)),
            Self::I64(items) => items.get(index).map(|&v| Value::I64(v)),
            Self::F64(items) => items.get(index).map(|&v| Value::F64(v)),
        }
    }

    /// The strings of a string array.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::String(items) => Some(items),
            _ => None,
        }
    }
}

/// How many elements of an array are printed before it is cut.
const PRINTED_ELEMENTS: usize = 8;

/// Strings as they are, arrays as `[first, …, 9 more]`: meant for people, not for parsing.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => write!(f, "{v}"),
            Self::I8(v) => write!(f, "{v}"),
            Self::U16(v) => write!(f, "{v}"),
            Self::I16(v) => write!(f, "{v}"),
            Self::U32(v) => write!(f, "{v}"),
            Self::I32(v) => write!(f, "{v}"),
            Self::F32(v) => write!(f, "{v}"),
            Self::Bool(v) => write!(f, "{v}"),
            Self::String(v) => f.write_str(v),
            Self::Array(v) => v.fmt(f),
            Self::U64(v) => write!(f, "{v}"),
            Self::I64(v) => write!(f, "{v}"),
            Self::F64(v) => write!(f, "{v}"),
        }
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for index in 0..self.len().min(PRINTED_ELEMENTS) {
            if index > 0 {
                f.write_str(", ")?;
            }
            match self.get(index) {
                Some(Value::String(text)) => write!(f, "{text:?}")?,
                Some(value) => value.fmt(f)?,
                None => {}
            }
        }
        if self.len() > PRINTED_ELEMENTS {
            write!(f, ", … {} more", self.len() - PRINTED_ELEMENTS)?;
        }
        f.write_str("]")
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident;)+) => {
        $(
            impl From<$from> for Value {
                fn from(value: $from) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$from>> for Value {
                fn from(items: Vec<$from>) -> Self {
                    Self::Array(Array::$variant(items))
                }
            }
        )+
    };
}

value_from! {
    u8 => U8; i8 => I8; u16 => U16; i16 => I16; u32 => U32; i32 => I32; f32 => F32; bool => Bool;
    String => String; u64 => U64; i64 => I64; f64 => F64; Array => Array;
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_read_as_each_other() {
        assert_eq!(Value::U8(5).as_i64(), Some(5));
        assert_eq!(Value::I16(-5).as_u64(), None);
        assert_eq!(Value::U64(u64::MAX).as_u64(), Some(u64::MAX));
        assert_eq!(Value::U64(u64::MAX).as_i64(), None);
        assert_eq!(Value::F32(1.0).as_u64(), None);
        assert_eq!(Value::Bool(true).as_u64(), None);
        assert_eq!(Value::F64(0.5).as_f32(), Some(0.5));
        assert_eq!(Value::U32(1).as_f32(), None);
    }

    #[test]
    fn long_arrays_are_printed_short() {
        let check = |value: Value, expected: &str| assert_eq!(value.to_string(), expected);
        check("a b".into(), "a b");
        check(1.5f32.into(), "1.5");
        check(vec!["a\n".to_owned()].into(), "[\"a\\n\"]");
        check((0..20u32).collect::<Vec<_>>().into(), "[0, 1, 2, 3, 4, 5, 6, 7, … 12 more]");
        check(vec![Array::Bool(vec![true]), Array::U8(vec![])].into(), "[[true], []]");
    }

    #[test]
    fn kinds_have_the_ids_of_the_format() {
        let names: Vec<&str> = (0..13).map(|id| ValueKind::from_id(id).unwrap().name()).collect();
        let expected = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"];
        assert_eq!(names, expected);
        assert_eq!(ValueKind::from_id(13), None);
    }
}
