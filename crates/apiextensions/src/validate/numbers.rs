//! Bounds, multiples and ranges of numbers, with the validator's habits: a bound or factor is cut to an integer where
//! the value is one.

use super::Place;
use super::failure::{Detail, Failure, Outcome};
use crate::number::{is_json_integer, truncate};
use crate::schema::Schema;
use knarr_meta::go;
use serde_json::{Number, Value};
use std::fmt::Display;

/// Checks a number. `type_` is the one type of the schema, empty where it has none or several.
pub(super) fn validate(
    number: &Number,
    schema: &Schema,
    type_: &str,
    format: &str,
    place: &Place<'_>,
) -> Outcome {
    let fits = matches!((type_, format), ("integer", "int32" | "int64") | ("number", "float" | "double"));
    let check = Check { number, type_, format: if fits { format } else { "" }, place };
    let mut outcome = Outcome::default();
    check.in_range(number, "Checked", &mut outcome);
    if let Some(factor) = schema.multiple_of {
        let mut result = Outcome::default();
        if check.bound_in_range(factor, "MultipleOf", &mut result) && number.is_i64() {
            check.multiple_of_int(factor, &mut result);
        } else {
            check.multiple_of(factor, &mut result);
        }
        outcome.merge(result);
    }
    let (minimum, maximum) = (schema.minimum, schema.maximum);
    if let Some(min) = minimum {
        check.bound(min, schema.exclusive_minimum, false, "Minimum boundary", &mut outcome);
    }
    if let Some(max) = maximum {
        check.bound(max, schema.exclusive_maximum, true, "Maximum boundary", &mut outcome);
    }
    outcome.count();
    outcome
}

struct Check<'a> {
    number: &'a Number,
    type_: &'a str,
    format: &'a str,
    place: &'a Place<'a>,
}

impl Check<'_> {
    fn fail(&self, text: String, outcome: &mut Outcome) {
        self.fail_showing(Value::Number(self.number.clone()), text, outcome);
    }

    /// Where the value was compared as a double it is shown as one.
    fn fail_as_double(&self, text: String, outcome: &mut Outcome) {
        self.fail_showing(self.float().into(), text, outcome);
    }

    fn fail_showing(&self, value: Value, text: String, outcome: &mut Outcome) {
        let detail = Detail::Number { value, text };
        outcome.add(Failure::at(self.place, detail));
    }

    fn float(&self) -> f64 {
        self.number.as_f64().unwrap_or_default()
    }

    /// Whether a number fits the type and format; the failure has no place of its own.
    fn in_range(&self, number: &Number, prefix: &str, outcome: &mut Outcome) -> bool {
        let fits = match (self.type_, self.format) {
            ("integer", "int32") => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            ("integer", _) => number.is_i64(),
            (_, "float") => number.as_f64().is_none_or(|n| n.abs() <= f64::from(f32::MAX)),
            _ => true,
        };
        if !fits {
            let (type_, place) = (self.type_, self.place);
            let format = match self.format {
                "" => "(default format)".to_owned(),
                format => format!("with format {format}"),
            };
            outcome
                .add(Failure::general(format!("{prefix} value must be of type {type_} {format} in {place}")));
        }
        fits
    }

    fn bound_in_range(&self, bound: f64, prefix: &str, outcome: &mut Outcome) -> bool {
        // A whole bound prints without a fraction and is an integer again.
        let whole = bound.fract() == 0.0 && bound.abs() < 9_223_372_036_854_775_808.0;
        let number = if whole { Some(Number::from(bound as i64)) } else { Number::from_f64(bound) };
        number.is_none_or(|number| self.in_range(&number, prefix, outcome))
    }

    fn multiple_of_int(&self, factor: f64, outcome: &mut Outcome) {
        let (value, factor) = (self.number.as_i64().unwrap_or_default(), truncate(factor));
        if factor <= 0 {
            self.not_positive(factor, outcome);
        } else if value % factor != 0 {
            self.fail(format!("{{name}} in body should be a multiple of {factor}"), outcome);
        }
    }

    fn multiple_of(&self, factor: f64, outcome: &mut Outcome) {
        if factor <= 0.0 {
            self.not_positive(go::float(factor), outcome);
            return;
        }
        let value = self.float();
        let quotient = if factor < 1.0 { 1.0 / factor * value } else { value / factor };
        if !is_json_integer(quotient) {
            self.fail_as_double(
                format!("{{name}} in body should be a multiple of {}", go::float(factor)),
                outcome,
            );
        }
    }

    fn not_positive(&self, factor: impl Display, outcome: &mut Outcome) {
        // The factor, not the value, is what is shown.
        let text = format!("factor MultipleOf declared for {{name}} must be positive: {factor}");
        let value = factor.to_string().parse().map_or(Value::Null, Value::Number);
        outcome.add(Failure::at(self.place, Detail::Number { value, text }));
    }

    fn bound(&self, bound: f64, exclusive: bool, is_max: bool, prefix: &str, outcome: &mut Outcome) {
        let mut result = Outcome::default();
        let fits = self.bound_in_range(bound, prefix, &mut result);
        let words = match (is_max, exclusive) {
            (true, false) => "less than or equal to",
            (true, true) => "less than",
            (false, false) => "greater than or equal to",
            (false, true) => "greater than",
        };
        let text = |shown: String| format!("{{name}} in body should be {words} {shown}");
        match self.number.as_i64() {
            Some(value) if fits => {
                let bound = truncate(bound);
                if is_beyond(value, bound, exclusive, is_max) {
                    self.fail(text(bound.to_string()), &mut result);
                }
            }
            _ => {
                if is_beyond(self.float(), bound, exclusive, is_max) {
                    self.fail_as_double(text(go::float(bound)), &mut result);
                }
            }
        }
        outcome.merge(result);
    }
}

fn is_beyond<T: PartialOrd>(value: T, bound: T, exclusive: bool, is_max: bool) -> bool {
    (exclusive && value == bound) || if is_max { value > bound } else { value < bound }
}
