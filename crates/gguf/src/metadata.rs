//! The key-value pairs of a file, in the file's order, with getters that tell "missing" from "wrong type".

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::Error;
use crate::value::{Array, Value};

/// Ordered metadata. Keys are unique.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Key to position in `entries`.
    index: HashMap<String, usize>,
}

/// Same keys and values in the same order.
impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    /// Whether the key exists.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// Entries in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets a key: a new one goes to the end, an existing one keeps its place. Returns the value it replaced.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        if let Some(&at) = self.index.get(&key) {
            return Some(std::mem::replace(&mut self.entries[at].1, value));
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        None
    }

    /// Removes a key and keeps the order of the rest.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key)?;
        let (_, value) = self.entries.remove(at);
        for place in self.index.values_mut() {
            if *place > at {
                *place -= 1;
            }
        }
        Some(value)
    }

    /// Any integer type that fits `u32`.
    ///
    /// `Ok(None)` when the key is missing, here and in all getters below.
    ///
    /// # Errors
    /// [`Error::WrongValueType`] for another type, [`Error::ValueOutOfRange`] for an integer that does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.integer(key, "an unsigned 32-bit integer")
    }

    /// Any integer type that fits `u64`. Errors as in [`Self::u32`].
    pub fn u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.integer(key, "an unsigned 64-bit integer")
    }

    /// Any integer type that fits `i32`. Errors as in [`Self::u32`].
    pub fn i32(&self, key: &str) -> Result<Option<i32>, Error> {
        self.integer(key, "a signed 32-bit integer")
    }

    /// A float of either precision. Errors as in [`Self::u32`].
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a float", Value::as_f32)
    }

    /// A boolean. Errors as in [`Self::u32`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a bool", Value::as_bool)
    }

    /// A string. Errors as in [`Self::u32`].
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An array of any type. Errors as in [`Self::u32`].
    pub fn array(&self, key: &str) -> Result<Option<&Array>, Error> {
        self.typed(key, "an array", Value::as_array)
    }

    /// An array of strings. An empty array of another element type counts as an empty one. Errors as in [`Self::u32`].
    pub fn str_array(&self, key: &str) -> Result<Option<&[String]>, Error> {
        self.typed_array(key, "an array of strings", |array| match array {
            Array::String(items) => Some(items.as_slice()),
            other if other.is_empty() => Some(&[]),
            _ => None,
        })
    }

    /// An array of floats; double precision is rounded. Errors as in [`Self::u32`].
    pub fn f32_array(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
        self.typed_array(key, "an array of floats", |array| match array {
            Array::F32(items) => Some(Cow::Borrowed(items.as_slice())),
            Array::F64(items) => Some(Cow::Owned(items.iter().map(|&v| v as f32).collect())),
            other if other.is_empty() => Some(Cow::Borrowed(&[])),
            _ => None,
        })
    }

    /// An array of booleans. Errors as in [`Self::u32`].
    pub fn bool_array(&self, key: &str) -> Result<Option<&[bool]>, Error> {
        self.typed_array(key, "an array of bools", |array| match array {
            Array::Bool(items) => Some(items.as_slice()),
            other if other.is_empty() => Some(&[]),
            _ => None,
        })
    }

    /// An array of any integer type whose elements fit `i32`. Errors as in [`Self::u32`].
    pub fn i32_array(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, Error> {
        match self.get(key) {
            Some(Value::Array(Array::I32(items))) => Ok(Some(Cow::Borrowed(items))),
            _ => Ok(self.integers(key, "an array of signed 32-bit integers")?.map(Cow::Owned)),
        }
    }

    /// An array of any integer type whose elements fit `u32`. Errors as in [`Self::u32`].
    pub fn u32_array(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>, Error> {
        match self.get(key) {
            Some(Value::Array(Array::U32(items))) => Ok(Some(Cow::Borrowed(items))),
            _ => Ok(self.integers(key, "an array of unsigned 32-bit integers")?.map(Cow::Owned)),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(Error::WrongValueType { key: key.to_owned(), expected, found: value.kind() }),
        }
    }

    fn typed_array<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Array) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(array) = self.array(key)? else {
            return Ok(None);
        };
        match read(array) {
            Some(typed) => Ok(Some(typed)),
            None => Err(Error::WrongElementType { key: key.to_owned(), expected, found: array.kind() }),
        }
    }

    fn integer<T: TryFrom<i64> + TryFrom<u64>>(&self, key: &str, expected: &'static str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        if value.as_i64().is_none() && value.as_u64().is_none() {
            return Err(Error::WrongValueType { key: key.to_owned(), expected, found: value.kind() });
        }
        let fits = value
            .as_i64()
            .and_then(|v| T::try_from(v).ok())
            .or_else(|| value.as_u64().and_then(|v| T::try_from(v).ok()));
        match fits {
            Some(number) => Ok(Some(number)),
            None => Err(Error::ValueOutOfRange { key: key.to_owned(), value: value.to_string(), expected }),
        }
    }

    fn integers<T: TryFrom<i64>>(&self, key: &str, expected: &'static str) -> Result<Option<Vec<T>>, Error> {
        let Some(array) = self.array(key)? else {
            return Ok(None);
        };
        (0..array.len())
            .map(|at| {
                let value = array.get(at).expect("the index is below the array's length");
                if value.as_i64().is_none() && value.as_u64().is_none() {
                    return Err(Error::WrongElementType { key: key.to_owned(), expected, found: array.kind() });
                }
                value.as_i64().and_then(|v| T::try_from(v).ok()).ok_or_else(|| Error::ValueOutOfRange {
                    key: key.to_owned(),
                    value: value.to_string(),
                    expected,
                })
            })
            .collect::<Result<Vec<T>, Error>>()
            .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("u8", 7u8);
        metadata.insert("i64", -1i64);
        metadata.insert("u64", u64::MAX);
        metadata.insert("f64", 0.5f64);
        metadata.insert("text", "x");
        metadata.insert("flag", true);
        metadata.insert("words", vec!["a".to_owned()]);
        metadata.insert("types", vec![1i32, 2]);
        metadata.insert("bytes", vec![1u8, 255]);
        metadata.insert("large", vec![1u64, u64::MAX]);
        metadata.insert("scores", vec![1.5f64]);
        metadata.insert("empty", Vec::<u8>::new());
        metadata
    }

    #[test]
    fn missing_is_not_an_error() {
        let metadata = sample();
        assert!(metadata.get("none").is_none());
        assert!(matches!(metadata.u32("none"), Ok(None)));
        assert!(matches!(metadata.str("none"), Ok(None)));
        assert!(matches!(metadata.f32_array("none"), Ok(None)));
        assert!(matches!(metadata.i32_array("none"), Ok(None)));
    }

    #[test]
    fn integers_of_any_width_are_taken_if_they_fit() {
        let metadata = sample();
        assert_eq!(metadata.u32("u8").unwrap(), Some(7));
        assert_eq!(metadata.i32("i64").unwrap(), Some(-1));
        assert_eq!(metadata.u64("u64").unwrap(), Some(u64::MAX));
        for error in
            [metadata.u32("i64").unwrap_err(), metadata.u32("u64").unwrap_err(), metadata.i32("u64").unwrap_err()]
        {
            assert!(matches!(error, Error::ValueOutOfRange { .. }), "{error}");
        }
    }

    #[test]
    fn the_wrong_type_is_an_error_that_names_both() {
        let metadata = sample();
        for (error, words) in [
            (metadata.u32("text").unwrap_err(), ["`text`", "holds string", "unsigned 32-bit"]),
            (metadata.u32("f64").unwrap_err(), ["`f64`", "holds f64", "unsigned 32-bit"]),
            (metadata.f32("u8").unwrap_err(), ["`u8`", "holds u8", "a float"]),
            (metadata.bool("u8").unwrap_err(), ["`u8`", "holds u8", "a bool"]),
            (metadata.str("flag").unwrap_err(), ["`flag`", "holds bool", "a string"]),
            (metadata.str_array("text").unwrap_err(), ["`text`", "holds string", "an array"]),
            (metadata.str_array("types").unwrap_err(), ["`types`", "array of i32", "strings"]),
            (metadata.i32_array("words").unwrap_err(), ["`words`", "array of string", "32-bit"]),
            (metadata.f32_array("types").unwrap_err(), ["`types`", "array of i32", "floats"]),
        ] {
            let message = error.to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn arrays_convert_losslessly() {
        let metadata = sample();
        assert_eq!(metadata.f32("f64").unwrap(), Some(0.5));
        assert_eq!(metadata.str_array("words").unwrap(), Some(&["a".to_owned()][..]));
        assert!(matches!(metadata.i32_array("types").unwrap(), Some(Cow::Borrowed(&[1, 2]))));
        assert_eq!(metadata.i32_array("bytes").unwrap().unwrap(), [1, 255].as_slice());
        assert_eq!(metadata.u32_array("types").unwrap().unwrap(), [1, 2].as_slice());
        assert_eq!(metadata.f32_array("scores").unwrap().unwrap(), [1.5].as_slice());
        assert!(matches!(metadata.u32_array("large"), Err(Error::ValueOutOfRange { .. })));
        assert_eq!(metadata.str_array("empty").unwrap(), Some(&[][..]));
        assert_eq!(metadata.f32_array("empty").unwrap().unwrap(), [].as_slice());
    }

    #[test]
    fn order_survives_replacing_and_removing() {
        let mut metadata = Metadata::new();
        for (i, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
            assert_eq!(metadata.insert(key, i as u32), None);
        }
        assert_eq!(metadata.insert("b", "new"), Some(Value::U32(1)));
        assert_eq!(metadata.remove("a"), Some(Value::U32(0)));
        assert_eq!(metadata.remove("a"), None);
        metadata.insert("a", 9u8);
        let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["b", "c", "d", "a"]);
        assert_eq!((metadata.len(), metadata.get("d")), (4, Some(&Value::U32(3))));
        assert_eq!(metadata.get("b"), Some(&Value::from("new")));
    }
}
