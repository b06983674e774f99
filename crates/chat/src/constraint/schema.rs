//! What of a JSON Schema is refused before it is compiled, and why the compiler refused the rest.
//!
//! `llguidance` refuses what it cannot enforce, but does not say where it stands. This file finds the place, bounds the
//! nesting, drops keywords that say nothing, and finds schemas that no finite value obeys.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{ConstraintError, UnsupportedKeyword, json_options};

/// Deepest nesting of a schema, references followed once each, as compiling it recurses.
const DEPTH_MAX: usize = 1500;
/// Most values in a schema, counted through all its nesting.
const VALUES_MAX: usize = 2_000_000;
/// Most values of one `enum`. The compiler has a limit of its own above this, which it takes seconds to reach.
const ENUM_MAX: usize = 50_000;
const KIND: &str = "JSON schema";

/// Keywords that constrain a value and cannot be enforced from left to right.
const UNSUPPORTED: [&str; 20] = [
    "not",
    "if",
    "then",
    "else",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "propertyNames",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
];

/// Formats that are enforced.
const FORMATS: [&str; 11] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"];

/// Keywords whose value is a schema.
const ONE: [&str; 10] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas (`items` was one, once).
const LIST: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
/// Keywords whose value is an object of schemas.
const OBJECT: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// The schema as it is given to the compiler: checked, and without keywords that say nothing.
///
/// # Errors
/// Nesting or size over the limits, a schema that is neither object nor boolean, options of the compiler in it, and a
/// schema that no finite value obeys.
pub fn prepare(schema: &Value) -> Result<Value, ConstraintError> {
    check_size(schema)?;
    match schema {
        Value::Bool(false) => return unsatisfiable("the schema is `false`"),
        Value::Bool(true) => {}
        Value::Object(root) => {
            if root.contains_key("x-guidance") {
                let keyword = UnsupportedKeyword { keyword: "x-guidance".to_owned(), path: "#".to_owned() };
                return Err(ConstraintError::UnsupportedKeywords { keywords: vec![keyword] });
            }
        }
        _ => return invalid("a schema is an object or a boolean"),
    }
    let mut simplified = schema.clone();
    simplify(&mut simplified);
    let mut walk = Walk::new(&simplified);
    walk.visit(&simplified, "#", 0)?;
    if !walk.has_value(&simplified) {
        return unsatisfiable("every value would have to contain itself, so none is ever complete");
    }
    if simplified == Value::Bool(true) {
        simplified = Value::Object(Map::new());
    }
    simplified["x-guidance"] = json_options();
    Ok(simplified)
}

/// Whether a schema has at most `values` values, and strings and names of at most `bytes` bytes.
#[cfg(feature = "constraints")]
pub fn is_small(schema: &Value, values: usize, bytes: usize) -> bool {
    let mut open = vec![schema];
    let mut count = 0;
    while let Some(value) = open.pop() {
        count += 1;
        let fits = match value {
            Value::String(text) => text.len() <= bytes,
            Value::Array(items) => {
                open.extend(items);
                true
            }
            Value::Object(members) => {
                open.extend(members.values());
                members.keys().all(|name| name.len() <= bytes)
            }
            _ => true,
        };
        if !fits || count + open.len() > values {
            return false;
        }
    }
    true
}

/// Why the compiler refused `schema`, with places where they can be found.
#[cfg(feature = "constraints")]
pub fn explain(schema: &Value, problem: String) -> ConstraintError {
    let mut simplified = schema.clone();
    simplify(&mut simplified);
    let mut walk = Walk::new(&simplified);
    // The same walk went through before.
    let _ = walk.visit(&simplified, "#", 0);
    if problem.contains("Unsatisfiable schema") {
        return ConstraintError::Unsatisfiable { problem: problem.replace("Unsatisfiable schema: ", "") };
    }
    if walk.unsupported.is_empty() {
        return ConstraintError::Invalid { kind: KIND, problem };
    }
    ConstraintError::UnsupportedKeywords { keywords: walk.unsupported }
}

fn invalid<T>(problem: &str) -> Result<T, ConstraintError> {
    Err(ConstraintError::Invalid { kind: KIND, problem: problem.to_owned() })
}

fn unsatisfiable<T>(problem: &str) -> Result<T, ConstraintError> {
    Err(ConstraintError::Unsatisfiable { problem: problem.to_owned() })
}

/// Without recursion, because nothing is known of the nesting yet.
fn check_size(schema: &Value) -> Result<(), ConstraintError> {
    let mut open = vec![(schema, 0)];
    let mut values = 0;
    while let Some((value, depth)) = open.pop() {
        values += 1;
        if values > VALUES_MAX {
            return Err(ConstraintError::TooLarge { kind: KIND, what: "the number of values in it", max: VALUES_MAX });
        }
        if depth > DEPTH_MAX {
            return Err(ConstraintError::TooLarge { kind: KIND, what: "its nesting", max: DEPTH_MAX });
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => open.extend(members.values().map(|member| (member, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

/// Drops keywords that every value obeys, which the compiler would refuse by name.
fn simplify(schema: &mut Value) {
    let Value::Object(members) = schema else { return };
    let no_branches = !members.contains_key("then") && !members.contains_key("else");
    let no_condition = !members.contains_key("if");
    let no_contains = !members.contains_key("contains");
    members.retain(|keyword, value| {
        let says_nothing = match keyword.as_str() {
            "uniqueItems" | "not" => *value == Value::Bool(false),
            "if" => no_branches,
            "then" | "else" => no_condition,
            "minContains" | "maxContains" => no_contains,
            "propertyNames" | "unevaluatedItems" | "unevaluatedProperties" => accepts_all(value),
            "dependencies" | "dependentRequired" | "dependentSchemas" => value.as_object().is_some_and(Map::is_empty),
            _ => false,
        };
        !says_nothing
    });
    for_each_child_mut(members, &mut simplify);
}

fn accepts_all(schema: &Value) -> bool {
    *schema == Value::Bool(true) || schema.as_object().is_some_and(Map::is_empty)
}

fn for_each_child_mut(members: &mut Map<String, Value>, visit: &mut dyn FnMut(&mut Value)) {
    for (keyword, value) in members {
        match value {
            Value::Array(items) if LIST.contains(&keyword.as_str()) => items.iter_mut().for_each(&mut *visit),
            Value::Object(schemas) if OBJECT.contains(&keyword.as_str()) => {
                schemas.values_mut().for_each(&mut *visit);
            }
            value if ONE.contains(&keyword.as_str()) => visit(value),
            _ => {}
        }
    }
}

/// A walk over the schemas that can be reached from the root, references within the document included.
struct Walk<'s> {
    root: &'s Value,
    /// Targets of references that were walked.
    seen: HashSet<&'s str>,
    unsupported: Vec<UnsupportedKeyword>,
    /// Schemas that some finite value is known to obey, by address.
    productive: HashSet<*const Value>,
    /// All schemas that were walked, outermost first.
    schemas: Vec<&'s Value>,
    targets: HashMap<&'s str, &'s Value>,
}

impl<'s> Walk<'s> {
    fn new(root: &'s Value) -> Self {
        Self {
            root,
            seen: HashSet::new(),
            unsupported: Vec::new(),
            productive: HashSet::new(),
            schemas: Vec::new(),
            targets: HashMap::new(),
        }
    }

    /// Notes what is unsupported in `schema` and below, except in definitions that nothing refers to.
    fn visit(&mut self, schema: &'s Value, path: &str, depth: usize) -> Result<(), ConstraintError> {
        if depth > DEPTH_MAX {
            return Err(ConstraintError::TooLarge { kind: KIND, what: "its nesting", max: DEPTH_MAX });
        }
        if self.schemas.len() >= VALUES_MAX {
            return Err(ConstraintError::TooLarge { kind: KIND, what: "what its references lead to", max: VALUES_MAX });
        }
        self.schemas.push(schema);
        let Value::Object(members) = schema else { return Ok(()) };
        if members.get("enum").and_then(Value::as_array).is_some_and(|values| values.len() > ENUM_MAX) {
            return Err(ConstraintError::TooLarge { kind: KIND, what: "the values of an `enum`", max: ENUM_MAX });
        }
        for (keyword, value) in members {
            let key = keyword.as_str();
            if UNSUPPORTED.contains(&key) {
                self.unsupported.push(UnsupportedKeyword { keyword: keyword.clone(), path: path.to_owned() });
                continue;
            }
            match value {
                Value::String(format)
                    if key == "format" && may_be(members, "string") && !FORMATS.contains(&format.as_str()) =>
                {
                    let keyword = format!("format: {value}");
                    self.unsupported.push(UnsupportedKeyword { keyword, path: path.to_owned() });
                }
                Value::String(target) if key == "$ref" => self.visit_target(target, path, depth)?,
                Value::Array(items) if LIST.contains(&key) => {
                    for (at, item) in items.iter().enumerate() {
                        self.visit(item, &format!("{path}/{keyword}/{at}"), depth + 1)?;
                    }
                }
                Value::Object(schemas) if OBJECT.contains(&key) => {
                    if matches!(key, "$defs" | "definitions") {
                        continue;
                    }
                    for (name, item) in schemas {
                        self.visit(item, &format!("{path}/{keyword}/{}", escape(name)), depth + 1)?;
                    }
                }
                value if ONE.contains(&key) => self.visit(value, &format!("{path}/{keyword}"), depth + 1)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn visit_target(&mut self, target: &'s str, path: &str, depth: usize) -> Result<(), ConstraintError> {
        if !self.seen.insert(target) {
            return Ok(());
        }
        let found = target.strip_prefix('#').and_then(|pointer| {
            let pointer = percent_decode(pointer);
            self.root.pointer(&pointer)
        });
        if let Some(schema) = found {
            self.targets.insert(target, schema);
            return self.visit(schema, target, depth + 1);
        }
        // An anchor or an identifier within the document, which the compiler resolves, or another document, which it
        // refuses: then this is the place.
        let keyword = format!("$ref: {}", Value::from(target));
        self.unsupported.push(UnsupportedKeyword { keyword, path: path.to_owned() });
        Ok(())
    }

    /// Whether some finite value obeys `schema`, as far as required properties, items and references tell. Errs on the
    /// side of yes.
    ///
    /// The least fixed point: a schema has a value if all that it needs has one already. Each round looks at all
    /// schemas, innermost first as they were walked outermost first, so that few rounds are needed.
    fn has_value(&mut self, schema: &Value) -> bool {
        const ROUNDS_MAX: usize = 64;
        for _ in 0..ROUNDS_MAX {
            let before = self.productive.len();
            for at in (0..self.schemas.len()).rev() {
                let schema = self.schemas[at];
                if !self.is_productive(schema) && self.obeyed(schema) {
                    self.productive.insert(std::ptr::from_ref(schema));
                }
            }
            if self.is_productive(schema) {
                return true;
            }
            if self.productive.len() == before {
                return false;
            }
        }
        true
    }

    fn is_productive(&self, schema: &Value) -> bool {
        self.productive.contains(&std::ptr::from_ref(schema))
    }

    /// Whether what `schema` needs has values, by what is known so far.
    fn obeyed(&self, schema: &Value) -> bool {
        let Value::Object(members) = schema else { return *schema != Value::Bool(false) };
        let list = |key: &str| members.get(key).and_then(Value::as_array);
        if let Some(target) = members.get("$ref").and_then(Value::as_str)
            && let Some(&target) = self.targets.get(target)
            && !self.is_productive(target)
        {
            return false;
        }
        if list("allOf").is_some_and(|all| !all.iter().all(|schema| self.is_productive(schema))) {
            return false;
        }
        for key in ["anyOf", "oneOf"] {
            if list(key).is_some_and(|any| !any.is_empty() && !any.iter().any(|schema| self.is_productive(schema))) {
                return false;
            }
        }
        // A type without needs is enough.
        if ["null", "boolean", "number", "integer", "string"].iter().any(|name| may_be(members, name)) {
            return true;
        }
        let object = may_be(members, "object") && self.object_obeyed(members);
        let array = may_be(members, "array") && self.array_obeyed(members);
        // A type that is none of these is refused by the compiler.
        let known = may_be(members, "object") || may_be(members, "array");
        object || array || !known
    }

    fn object_obeyed(&self, members: &Map<String, Value>) -> bool {
        let Some(required) = members.get("required").and_then(Value::as_array) else { return true };
        let properties = members.get("properties").and_then(Value::as_object);
        required.iter().filter_map(Value::as_str).all(|name| {
            let schema = properties.and_then(|properties| properties.get(name));
            schema.is_none_or(|schema| self.is_productive(schema))
        })
    }

    fn array_obeyed(&self, members: &Map<String, Value>) -> bool {
        let least = members.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let first = members.get("prefixItems").or(members.get("items")).and_then(Value::as_array);
        let first = first.map_or(&[][..], Vec::as_slice);
        let rest = members.get("items").filter(|items| !items.is_array());
        first.iter().take(least as usize).all(|schema| self.is_productive(schema))
            && (least <= first.len() as u64 || rest.is_none_or(|schema| self.is_productive(schema)))
    }
}

/// Whether values of this type obey the `type` of a schema.
fn may_be(members: &Map<String, Value>, name: &str) -> bool {
    match members.get("type") {
        None => true,
        Some(Value::String(only)) => only == name,
        Some(Value::Array(names)) => names.iter().any(|one| one == name),
        Some(_) => false,
    }
}

/// A key as a JSON pointer (RFC 6901) writes it.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A fragment of a reference is percent-encoded.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
