//! Reading a request's fields by name, so that none is ignored: what was not asked for is refused with its name.
//!
//! A field whose value is `null` counts as one that is not there, as official clients send it that way.

use std::cell::RefCell;

use serde_json::{Map, Value as Json};

use crate::error::ApiError;

/// An object of a request, and which of its fields were read.
pub struct Fields<'j> {
    map: &'j Map<String, Json>,
    /// Where it is: empty for the body, else `response_format` and the like.
    place: String,
    known: RefCell<Vec<&'static str>>,
}

impl<'j> Fields<'j> {
    /// The fields of a body.
    ///
    /// # Errors
    /// When it is no object.
    pub fn of_body(body: &'j Json) -> Result<Self, ApiError> {
        match body {
            Json::Object(map) => Ok(Self::new(map, String::new())),
            _ => Err(ApiError::bad_request("the body is no JSON object").coded("invalid_json")),
        }
    }

    /// The fields of an object within.
    ///
    /// # Errors
    /// When it is no object.
    pub fn of(value: &'j Json, place: impl Into<String>) -> Result<Self, ApiError> {
        let place = place.into();
        match value {
            Json::Object(map) => Ok(Self::new(map, place)),
            other => Err(wrong_type(&place, "an object", other)),
        }
    }

    fn new(map: &'j Map<String, Json>, place: String) -> Self {
        Self { map, place, known: RefCell::default() }
    }

    /// The path of a field.
    pub fn path(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// A field of any type.
    pub fn get(&self, name: &'static str) -> Option<&'j Json> {
        self.known.borrow_mut().push(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        name: &'static str,
        wanted: &str,
        read: impl FnOnce(&'j Json) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| wrong_type(&self.path(name), wanted, value)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// 400 for another type; so do all of these.
    pub fn text(&self, name: &'static str) -> Result<Option<&'j str>, ApiError> {
        self.typed(name, "a string", Json::as_str)
    }

    /// A truth value.
    pub fn flag(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "true or false", Json::as_bool)
    }

    /// A number.
    pub fn number(&self, name: &'static str) -> Result<Option<f32>, ApiError> {
        self.typed(name, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    /// A whole number from 0; `1.0` is one.
    pub fn count(&self, name: &'static str) -> Result<Option<usize>, ApiError> {
        self.typed(name, "a whole number, 0 or above", |value| whole(value).and_then(|n| usize::try_from(n).ok()))
    }

    /// A whole number that may be negative.
    pub fn integer(&self, name: &'static str) -> Result<Option<i64>, ApiError> {
        self.typed(name, "a whole number", whole)
    }

    /// A count, -1 standing for no limit.
    pub fn window(&self, name: &'static str) -> Result<Option<usize>, ApiError> {
        match self.integer(name)? {
            None => Ok(None),
            Some(-1) => Ok(Some(usize::MAX)),
            Some(n) => usize::try_from(n).map(Some).map_err(|_| {
                ApiError::field(self.path(name), format!("`{}` is {n}: give -1 for all, 0 or more", self.path(name)))
            }),
        }
    }

    /// A seed: any whole number of 64 bits.
    pub fn seed(&self, name: &'static str) -> Result<Option<u64>, ApiError> {
        self.typed(name, "a whole number", |value| value.as_u64().or_else(|| whole(value).map(|n| n as u64)))
    }

    /// A list.
    pub fn list(&self, name: &'static str) -> Result<Option<&'j [Json]>, ApiError> {
        self.typed(name, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// A list of at most so many entries.
    pub fn list_within(&self, name: &'static str, entries_max: usize) -> Result<Option<&'j [Json]>, ApiError> {
        let list = self.list(name)?;
        match list.filter(|list| list.len() > entries_max) {
            None => Ok(list),
            Some(list) => {
                let path = self.path(name);
                let message = format!("`{path}` has {} entries, at most {entries_max} are taken", list.len());
                Err(ApiError::field(path, message).coded("invalid_value"))
            }
        }
    }

    /// An object.
    pub fn object(&self, name: &'static str) -> Result<Option<Fields<'j>>, ApiError> {
        self.get(name).map(|value| Fields::of(value, self.path(name))).transpose()
    }

    /// One text, or several.
    pub fn texts(&self, name: &'static str) -> Result<Option<Vec<String>>, ApiError> {
        self.typed(name, "a string or a list of strings", |value| match value {
            Json::String(text) => Some(vec![text.clone()]),
            Json::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        })
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// 400 if it is not.
    pub fn required<T>(&self, name: &'static str, found: Option<T>) -> Result<T, ApiError> {
        found.ok_or_else(|| {
            let path = self.path(name);
            ApiError::field(path.clone(), format!("`{path}` is missing")).coded("missing_required_parameter")
        })
    }

    /// Refuses what was not read, unless it is `inert`: fields that by nature change nothing here.
    ///
    /// # Errors
    /// 400 with the field's name and the known one that is nearest.
    pub fn finish(&self, inert: &[&str]) -> Result<(), ApiError> {
        let known = self.known.borrow();
        let strange = |(name, value): &(&String, &Json)| {
            !value.is_null() && !known.contains(&name.as_str()) && !inert.contains(&name.as_str())
        };
        let Some((name, _)) = self.map.iter().find(strange) else { return Ok(()) };
        let path = self.path(in_short(name));
        let advice = match nearest(name, known.iter().copied().chain(inert.iter().copied())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "take it out".to_owned(),
        };
        Err(ApiError::field(path.clone(), format!("`{path}` is not supported and would be ignored: {advice}"))
            .coded("unsupported_parameter"))
    }
}

/// An error about a value of the wrong type.
pub fn wrong_type(path: &str, wanted: &str, found: &Json) -> ApiError {
    let found = match found {
        Json::Null => "null",
        Json::Bool(_) => "a truth value",
        Json::Number(_) => "another number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    };
    ApiError::field(path, format!("`{path}` must be {wanted}, and is {found}")).coded("invalid_type")
}

/// An error about a word that is none of those that are known.
pub fn unknown_word(path: impl Into<String>, given: &str, known: &str) -> ApiError {
    let path = path.into();
    let message = format!("`{path}` is `{}`: give {known}", in_short(given));
    ApiError::field(path, message).coded("invalid_value")
}

/// An error about a word that has a meaning elsewhere, but none here.
pub fn unsupported_word(path: impl Into<String>, given: &str, why: &str) -> ApiError {
    let path = path.into();
    let message = format!("`{path}` is `{}`: {why}", in_short(given));
    ApiError::field(path, message).coded("unsupported_value")
}

/// The beginning of what a client sent, for messages.
pub fn in_short(text: &str) -> &str {
    const CHARACTERS_MAX: usize = 100;
    text.char_indices().nth(CHARACTERS_MAX).map_or(text, |(at, _)| &text[..at])
}

/// A number without a fraction. Some clients write whole numbers as `1.0`.
fn whole(value: &Json) -> Option<i64> {
    const EXACT: f64 = (1u64 << 53) as f64;
    value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= EXACT).map(|n| n as i64))
}

/// The name that is nearest to `name`, if it is near: at most a third of its letters are otherwise.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const LENGTH_MAX: usize = 40;
    if name.len() > LENGTH_MAX {
        return None;
    }
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, _)| distance * 3 <= name.len())
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_that_nobody_reads_is_refused_with_its_neighbour() {
        let body = json!({ "temperature": 1, "temprature": 1 });
        let fields = Fields::of_body(&body).unwrap();
        assert_eq!(fields.number("temperature").unwrap(), Some(1.0));
        let error = fields.finish(&["user"]).unwrap_err();
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("temprature")));
        assert!(error.message.contains("did you mean `temperature`?"), "{error}");
        let body = json!({ "user": "x", "nothing": null });
        Fields::of_body(&body).unwrap().finish(&["user"]).unwrap();
    }

    #[test]
    fn types_are_checked_with_the_path() {
        let body = json!({ "a": { "n": "1", "m": 1.0, "k": 1.5, "w": -1, "t": ["x", 1] } });
        let fields = Fields::of_body(&body).unwrap().object("a").unwrap().unwrap();
        assert_eq!(fields.number("n").unwrap_err().param.as_deref(), Some("a.n"));
        assert_eq!(fields.count("m").unwrap(), Some(1));
        assert!(fields.count("k").unwrap_err().message.contains("whole number"));
        assert_eq!(fields.window("w").unwrap(), Some(usize::MAX));
        assert!(fields.texts("t").is_err());
        assert!(Fields::of_body(&json!([])).is_err());
    }
}
