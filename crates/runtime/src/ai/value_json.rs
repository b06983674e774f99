//! Metadata of a GGUF file in any form that serde knows, such as JSON.

use hublabio_gguf::{Array, Value};
use serde::{Serialize, Serializer};

/// A value of a GGUF file's metadata; serialized, it is a number, text, truth value or list. A number that is not finite is `null`
/// in JSON.
#[derive(Clone, Copy, Debug)]
pub struct ValueJson<'a>(pub &'a Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(v) => v.serialize(serializer),
            Value::I8(v) => v.serialize(serializer),
            Value::U16(v) => v.serialize(serializer),
            Value::I16(v) => v.serialize(serializer),
            Value::U32(v) => v.serialize(serializer),
            Value::I32(v) => v.serialize(serializer),
            Value::F32(v) => v.serialize(serializer),
            Value::Bool(v) => v.serialize(serializer),
            Value::String(v) => v.serialize(serializer),
            Value::Array(v) => ArrayJson(v).serialize(serializer),
            Value::U64(v) => v.serialize(serializer),
            Value::I64(v) => v.serialize(serializer),
            Value::F64(v) => v.serialize(serializer),
        }
    }
}

struct ArrayJson<'a>(&'a Array);

impl Serialize for ArrayJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Array::U8(items) => items.serialize(serializer),
            Array::I8(items) => items.serialize(serializer),
            Array::U16(items) => items.serialize(serializer),
            Array::I16(items) => items.serialize(serializer),
            Array::U32(items) => items.serialize(serializer),
            Array::I32(items) => items.serialize(serializer),
            Array::F32(items) => items.serialize(serializer),
            Array::Bool(items) => items.serialize(serializer),
            Array::String(items) => items.serialize(serializer),
            Array::Array(items) => serializer.collect_seq(items.iter().map(ArrayJson)),
            Array::U64(items) => items.serialize(serializer),
            Array::I64(items) => items.serialize(serializer),
            Array::F64(items) => items.serialize(serializer),
        }
    }
}
