//! Numbers as Go's decoder of unstructured objects has them: whole ones that fit are 64-bit integers, everything
//! else is a double.

use serde_json::{Number, Value};

/// A copy of a value with its numbers in Go's form.
pub fn normalized(value: &Value) -> Value {
    let mut value = value.clone();
    normalize(&mut value);
    value
}

/// Brings numbers into Go's form: `2.0` is written as `2`, integers beyond 63 bits become doubles.
pub fn normalize(value: &mut Value) {
    match value {
        Value::Number(number) if !number.is_i64() => {
            let Some(float) = number.as_f64() else { return };
            // 2^63 is exact as a double; whole doubles below it are integers once written and read again.
            if float.fract() == 0.0 && float.abs() < 9_223_372_036_854_775_808.0 {
                *number = Number::from(float as i64);
            } else if let Some(double) = Number::from_f64(float) {
                *number = double;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(normalize),
        Value::Object(map) => map.values_mut().for_each(normalize),
        _ => {}
    }
}

/// A double cut to an integer as Go does it on amd64: whatever does not fit is the smallest one.
pub fn truncate(float: f64) -> i64 {
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&float) {
        float as i64
    } else {
        i64::MIN
    }
}

/// Whether go-openapi takes a double for an integer: a whole number within 53 bits, or as good as one.
pub fn is_json_integer(float: f64) -> bool {
    const MAX: f64 = 9_007_199_254_740_991.0;
    const EPSILON: f64 = 1e-9;
    if !float.is_finite() || !(-MAX..=MAX).contains(&float) {
        return false;
    }
    let rounded = float.round();
    float == rounded || (rounded != 0.0 && (float - rounded).abs() < EPSILON * rounded.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_take_gos_form() {
        let value = json!([2.0, 1.5, -3.0, 18_446_744_073_709_551_615u64, i64::MIN, {"a": 1e3}]);
        let text = normalized(&value).to_string();
        assert_eq!(text, r#"[2,1.5,-3,1.8446744073709552e+19,-9223372036854775808,{"a":1000}]"#);
    }

    #[test]
    fn doubles_are_cut_as_in_go() {
        for (float, want) in [(1.9, 1), (-1.9, -1), (1e19, i64::MIN), (-1e19, i64::MIN), (f64::NAN, i64::MIN)]
        {
            assert_eq!(truncate(float), want);
        }
    }

    #[test]
    fn whole_doubles_are_integers() {
        for (float, want) in [
            (1.0, true),
            (1.5, false),
            (1e16, false),
            (0.0, true),
            (1e-12, false),
            (2.000_000_000_000_1, true),
        ] {
            assert_eq!(is_json_integer(float), want, "{float}");
        }
    }
}
