//! `config.json` with errors that name the key.
//!
//! A configuration that holds several models (text and vision) has the text model's keys under `text_config`; they come
//! first, the outer ones behind them.

use serde_json::{Map, Value};

use crate::error::Error;

/// The keys of a configuration.
#[derive(Clone, Debug)]
pub struct Config {
    root: Map<String, Value>,
}

impl Config {
    /// Takes a parsed document.
    pub fn new(document: Value) -> Result<Self, Error> {
        match document {
            Value::Object(root) => Ok(Self { root }),
            _ => Err(Error::malformed("not a JSON object", "fetch the file again")),
        }
    }

    /// The value of a key; `null` counts as missing.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let present = |value: &&Value| !value.is_null();
        let text = self.root.get("text_config").and_then(|text| text.get(key)).filter(present);
        text.or_else(|| self.root.get(key).filter(present))
    }

    /// Whether a key is there and says `null`: "none" where a missing key means the default.
    pub fn is_null(&self, key: &str) -> bool {
        let text = self.root.get("text_config").and_then(|text| text.get(key));
        self.get(key).is_none() && (text.is_some() || self.root.contains_key(key))
    }

    /// The first name under `architectures`.
    pub fn architecture(&self) -> Result<&str, Error> {
        let names = self.root.get("architectures").ok_or_else(|| missing("architectures"))?;
        names.get(0).and_then(Value::as_str).ok_or_else(|| {
            Error::bad_key("architectures", names, "expected a list of names, such as [\"LlamaForCausalLM\"]")
        })
    }

    /// A whole number that fits 32 bits.
    pub fn u32_opt(&self, key: &str) -> Result<Option<u32>, Error> {
        self.get(key).map(|value| as_u32(key, value)).transpose()
    }

    /// As [`Self::u32_opt`], required.
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.u32_opt(key)?.ok_or_else(|| missing(key))
    }

    /// A number as `f64`.
    pub fn f64_opt(&self, key: &str) -> Result<Option<f64>, Error> {
        self.get(key).map(|value| as_f64(key, value)).transpose()
    }

    /// A truth value.
    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>, Error> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| Error::bad_key(key, value, "expected true or false"));
        self.get(key).map(read).transpose()
    }

    /// A text.
    pub fn str_opt(&self, key: &str) -> Result<Option<&str>, Error> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| Error::bad_key(key, value, "expected a text")))
            .transpose()
    }
}

pub fn missing(key: &str) -> Error {
    Error::MissingKey { key: key.to_owned() }
}

pub fn as_u32(key: &str, value: &Value) -> Result<u32, Error> {
    let whole = value.as_u64().or_else(|| value.as_f64().filter(|v| v.fract() == 0.0 && *v >= 0.0).map(|v| v as u64));
    whole
        .and_then(|whole| u32::try_from(whole).ok())
        .ok_or_else(|| Error::bad_key(key, value, "expected a whole number from 0 to 4294967295"))
}

pub fn as_f64(key: &str, value: &Value) -> Result<f64, Error> {
    // A file holds 32 bits of it: what becomes infinite there is no setting.
    let number = value.as_f64().filter(|number| (*number as f32).is_finite());
    number.ok_or_else(|| Error::bad_key(key, value, "expected a number that fits F32"))
}
