//! Holding values against schemas as kube-openapi's validator does, and telling what is wrong in the words in which
//! upstream's custom resources tell it.
//!
//! The validator's quirks are kept where clients see them: `anyOf` reports the alternative that went furthest, whole
//! doubles are integers, bounds of integers are cut to integers, nulls are never in an enum.

mod correlate;
mod email;
mod failure;
mod formats;
mod numbers;
mod uri;

pub use correlate::Correlation;
pub(crate) use correlate::list_key;
pub use formats::Format;

use crate::schema::{Schema, SchemaOrBool};
use failure::{Detail, Failure, Outcome};
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Map, Value};
use std::fmt;

/// For what a schema is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Custom resources: formats that upstream does not know mean nothing, int-or-string is a pair of types.
    Resource,
    /// Their status through its subresource: the same with the formats of upstream's first version.
    Status,
    /// Defaults within CRDs: the schema as it stands.
    Default,
}

/// Checks a new value. Errors stand below `path`.
pub fn validate(value: &Value, schema: &Schema, purpose: Use, path: &Path) -> ErrorList {
    Validator { purpose }.schema(value, schema, &Place::ROOT, None).into_errors(path)
}

/// Checks a value that replaces another: what is wrong in parts that did not change is forgiven (KEP-4008).
pub fn validate_update(
    value: &Value,
    schema: &Schema,
    purpose: Use,
    path: &Path,
    correlation: &Correlation<'_>,
) -> ErrorList {
    Validator { purpose }.ratcheted(value, schema, &Place::ROOT, correlation).into_errors(path)
}

/// Where a value stands; printed only when something is wrong.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    Field(&'a str),
    /// A field that the schema does not name: the validator puts a dot before it even at the root.
    Other(&'a str),
    Index(usize),
}

impl Place<'_> {
    const ROOT: Place<'static> = Place { parent: None, step: Step::Root };

    fn field<'a>(&'a self, name: &'a str) -> Place<'a> {
        Place { parent: Some(self), step: Step::Field(name) }
    }

    fn other<'a>(&'a self, name: &'a str) -> Place<'a> {
        Place { parent: Some(self), step: Step::Other(name) }
    }

    fn index(&self, index: usize) -> Place<'_> {
        Place { parent: Some(self), step: Step::Index(index) }
    }

    fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if self.parent.is_none_or(Place::is_root) => f.write_str(name),
            Step::Field(name) | Step::Other(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// The types that a schema asks for.
#[derive(Clone, Copy)]
struct Types<'s> {
    first: &'s str,
    second: &'s str,
}

impl Types<'_> {
    fn contains(&self, type_: &str) -> bool {
        !self.first.is_empty() && (self.first == type_ || self.second == type_)
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    fn single(&self) -> &str {
        if self.second.is_empty() { self.first } else { "" }
    }
}

impl fmt::Display for Types<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.first)?;
        if self.second.is_empty() { Ok(()) } else { write!(f, ",{}", self.second) }
    }
}

struct Validator {
    purpose: Use,
}

impl Validator {
    fn types<'s>(&self, schema: &'s Schema) -> Types<'s> {
        if schema.int_or_string && self.purpose != Use::Default {
            return Types { first: "integer", second: "string" };
        }
        Types { first: &schema.type_, second: "" }
    }

    /// The format as far as it means something.
    fn format<'s>(&self, schema: &'s Schema, types: Types<'_>) -> &'s str {
        let known = match (self.purpose, types.single()) {
            (Use::Default, _) => true,
            (purpose, "" | "string") => {
                schema.known_format.is_some_and(|format| purpose == Use::Resource || format.is_original())
            }
            (_, "integer") => matches!(schema.format.as_str(), "int32" | "int64"),
            (_, "number") => matches!(schema.format.as_str(), "float" | "double"),
            _ => false,
        };
        if known { &schema.format } else { "" }
    }

    /// A value that may have a predecessor.
    fn ratcheted(
        &self,
        value: &Value,
        schema: &Schema,
        place: &Place<'_>,
        correlation: &Correlation<'_>,
    ) -> Outcome {
        let outcome = self.schema(value, schema, place, Some(correlation));
        if !outcome.is_valid() && correlation.is_equal(value) {
            return Outcome { failures: Vec::new(), matches: outcome.matches };
        }
        outcome
    }

    fn schema(
        &self,
        value: &Value,
        schema: &Schema,
        place: &Place<'_>,
        correlation: Option<&Correlation<'_>>,
    ) -> Outcome {
        let types = self.types(schema);
        let format = self.format(schema, types);
        let mut outcome = Outcome::default();
        if value.is_null() {
            outcome.merge(self.null_type(schema, types, place));
            if let Some(failure) = enumerated(value, schema, place) {
                outcome.add(failure);
            }
            return outcome;
        }
        if !types.is_empty() || !format.is_empty() {
            outcome.merge(value_type(value, types, format, place));
            outcome.count();
        }
        outcome.merge(self.combinations(value, schema, place));
        outcome.count();
        match value {
            Value::String(text) => {
                if let Some(failure) = string(text, schema, place) {
                    outcome.add(failure);
                }
                outcome.count();
                if !format.is_empty()
                    && let Some(known) = schema.known_format
                {
                    if !known.matches(text) {
                        let detail = Detail::Type { expected: format.to_owned(), actual: text.clone() };
                        outcome.add(Failure::at(place, detail));
                    }
                    outcome.count();
                }
            }
            Value::Number(number) => {
                outcome.merge(numbers::validate(number, schema, types.single(), format, place));
                outcome.count();
            }
            Value::Array(list) => {
                outcome.merge(self.list(list, schema, place, correlation));
                outcome.count();
            }
            _ => {}
        }
        if let Some(failure) = enumerated(value, schema, place) {
            outcome.add(failure);
        }
        outcome.count();
        if let Value::Object(map) = value {
            outcome.merge(self.object(map, schema, place, correlation));
            outcome.count();
        }
        outcome.count();
        outcome
    }

    fn null_type(&self, schema: &Schema, types: Types<'_>, place: &Place<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        if !types.is_empty() && !types.contains("null") && !schema.nullable {
            let detail = Detail::Type { expected: types.to_string(), actual: "null".into() };
            outcome.add(Failure::at(place, detail));
        } else {
            outcome.count();
        }
        outcome
    }

    fn list(
        &self,
        list: &[Value],
        schema: &Schema,
        place: &Place<'_>,
        correlation: Option<&Correlation<'_>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(items) = schema.items.as_deref() {
            for (index, value) in list.iter().enumerate() {
                let at = place.index(index);
                outcome.merge(match correlation.and_then(|correlation| correlation.index(value)) {
                    Some(child) => self.ratcheted(value, items, &at, &child),
                    None => self.schema(value, items, &at, None),
                });
            }
        }
        let size = list.len() as i64;
        if let Some(min) = schema.min_items.filter(|min| size < *min) {
            outcome.add(Failure::at(place, Detail::TooFewItems { min, size }));
        }
        if let Some(max) = schema.max_items.filter(|max| size > *max) {
            outcome.add(Failure::at(place, Detail::TooManyItems { max, size }));
        }
        if schema.unique_items && has_duplicates(list) {
            outcome.add(Failure::at(place, Detail::Duplicates));
        }
        outcome.count();
        outcome
    }

    fn object(
        &self,
        map: &Map<String, Value>,
        schema: &Schema,
        place: &Place<'_>,
        correlation: Option<&Correlation<'_>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let size = map.len() as i64;
        if let Some(min) = schema.min_properties.filter(|min| size < *min) {
            outcome.add(Failure::at(place, Detail::TooFewProperties { min, size }));
        }
        if let Some(max) = schema.max_properties.filter(|max| size > *max) {
            outcome.add(Failure::at(place, Detail::TooManyProperties { max, size }));
        }
        let child = |name: &str, value: &Value, field: &Schema, at: &Place<'_>| {
            // The object's own type is never compared with what it was.
            let skip = place.is_root() && (name == "kind" || name == "apiVersion");
            match correlation.filter(|_| !skip).and_then(|correlation| correlation.key(name)) {
                Some(child) => self.ratcheted(value, field, at, &child),
                None => self.schema(value, field, at, None),
            }
        };
        match &schema.additional_properties {
            Some(SchemaOrBool::Bool(false)) => {
                for name in map.keys().filter(|name| !schema.properties.contains_key(*name)) {
                    outcome.add(Failure::at(place, Detail::Forbidden { name: name.clone() }));
                }
            }
            Some(SchemaOrBool::Schema(other)) => {
                for (name, value) in map.iter().filter(|(name, _)| !schema.properties.contains_key(*name)) {
                    outcome.merge(child(name, value, other, &place.other(name)));
                }
            }
            _ => {}
        }
        for (name, field) in &schema.properties {
            if let Some(value) = map.get(name) {
                outcome.merge(child(name, value, field, &place.field(name)));
            }
        }
        for name in schema.required.iter().filter(|name| !map.contains_key(*name)) {
            outcome.add(Failure::at(&place.other(name), Detail::Required));
        }
        outcome
    }

    fn combinations(&self, value: &Value, schema: &Schema, place: &Place<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let check = |schema: &Schema| self.schema(value, schema, place, None);
        if !schema.any_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let success = schema.any_of.iter().map(check).find_map(|result| {
                if result.is_valid() {
                    return Some(result);
                }
                if best.as_ref().is_none_or(|best| result.matches > best.matches) {
                    best = Some(result);
                }
                None
            });
            match (success, best) {
                (Some(success), _) => outcome.merge(success),
                (None, best) => {
                    outcome.add(Failure::general(format!(
                        "\"{place}\" must validate at least one schema (anyOf)"
                    )));
                    outcome.merge(best.unwrap_or_default());
                }
            }
        }
        if !schema.one_of.is_empty() {
            let (mut best, mut success, mut valid): (Option<Outcome>, Option<Outcome>, usize) =
                (None, None, 0);
            for result in schema.one_of.iter().map(check) {
                if result.is_valid() {
                    valid += 1;
                    best = None;
                    success.get_or_insert(result);
                } else if valid == 0 && best.as_ref().is_none_or(|best| result.matches > best.matches) {
                    best = Some(result);
                }
            }
            if valid == 1 {
                outcome.merge(success.unwrap_or_default());
            } else {
                let found = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                outcome.add(Failure::general(format!(
                    "\"{place}\" must validate one and only one schema (oneOf). {found}"
                )));
                outcome.merge(best.unwrap_or_default());
            }
        }
        if !schema.all_of.is_empty() {
            let mut valid = 0;
            for result in schema.all_of.iter().map(check) {
                valid += usize::from(result.is_valid());
                outcome.merge(result);
            }
            if valid != schema.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                outcome.add(Failure::general(format!(
                    "\"{place}\" must validate all the schemas (allOf){none}"
                )));
            }
        }
        if let Some(not) = &schema.not
            && check(not).is_valid()
        {
            outcome.add(Failure::general(format!("\"{place}\" must not validate the schema (not)")));
        }
        outcome.count();
        outcome
    }
}

/// The type of a value and its format, as the validator calls them.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Number(number) if number.is_f64() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn value_type(value: &Value, types: Types<'_>, format: &str, place: &Place<'_>) -> Outcome {
    let (type_, value_format) = type_of(value);
    let textual = value.is_string() || value.is_array();
    let float_int = matches!(value, Value::Number(number) if number.is_f64()
        && number.as_f64().is_some_and(crate::number::is_json_integer))
        && types.contains("integer");
    let int_float = type_ == "integer" && types.contains("number");
    let mut outcome = Outcome::default();
    let fits = types.contains(type_) || float_int || int_float;
    if !(textual || format.is_empty() || value_format == format || fits) {
        let detail = Detail::Type { expected: format.to_owned(), actual: value_format.to_owned() };
        outcome.add(Failure::at(place, detail));
        return outcome;
    }
    let numeric = types.contains("number") || types.contains("integer");
    let left_to_format = !numeric && !format.is_empty() && textual;
    if !(left_to_format || fits) {
        let detail = Detail::Type { expected: types.to_string(), actual: type_.to_owned() };
        outcome.add(Failure::at(place, detail));
        return outcome;
    }
    outcome.count();
    outcome
}

fn string(text: &str, schema: &Schema, place: &Place<'_>) -> Option<Failure> {
    let value = || text.to_owned();
    if schema.max_length.is_some() || schema.min_length.is_some() {
        let length = text.chars().count() as i64;
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            return Some(Failure::at(place, Detail::TooLong { max }));
        }
        if let Some(min) = schema.min_length.filter(|min| length < *min) {
            return Some(Failure::at(place, Detail::TooShort { min, value: value() }));
        }
    }
    let pattern = schema.pattern.as_ref()?;
    let shown = match pattern.regex() {
        Ok(regex) if regex.is_match(text) => return None,
        Ok(_) => pattern.text().to_owned(),
        Err(error) => format!("{}, but pattern is invalid: {error}", pattern.text()),
    };
    Some(Failure::at(place, Detail::Pattern { pattern: shown, value: value() }))
}

fn enumerated(value: &Value, schema: &Schema, place: &Place<'_>) -> Option<Failure> {
    if schema.enum_.is_empty() || schema.enum_.iter().any(|allowed| converts_to(value, allowed)) {
        return None;
    }
    let detail = Detail::Enum { value: value.clone(), allowed: schema.enum_.clone() };
    Some(Failure::at(place, detail))
}

/// Whether a value, converted by Go to the type of an allowed one, is that one.
fn converts_to(value: &Value, allowed: &Value) -> bool {
    match (value, allowed) {
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Number(value), Value::Number(allowed)) => match (value.as_i64(), allowed.as_i64()) {
            (Some(value), Some(allowed)) => value == allowed,
            (None, Some(allowed)) => {
                value.as_f64().is_some_and(|value| crate::number::truncate(value) == allowed)
            }
            _ => value.as_f64() == allowed.as_f64(),
        },
        // An integer becomes the text of that character.
        (Value::Number(value), Value::String(allowed)) => {
            let character = value.as_i64().and_then(|n| u32::try_from(n).ok()).and_then(char::from_u32);
            character.is_some_and(|c| allowed.strip_prefix(c) == Some(""))
        }
        _ => value == allowed,
    }
}

fn has_duplicates(list: &[Value]) -> bool {
    let mut seen = std::collections::HashSet::with_capacity(list.len());
    list.iter().any(|value| !seen.insert(value.to_string()))
}

#[cfg(test)]
mod tests;
