//! Rules over values, in upstream's words.

use super::*;
use serde_json::json;

struct Case {
    schema: Value,
    new: Value,
    old: Option<Value>,
    errors: Vec<&'static str>,
    warnings: Vec<&'static str>,
}

fn case(schema: Value, new: Value, old: Option<Value>, errors: Vec<&'static str>) -> Case {
    Case { schema, new, old, errors, warnings: Vec::new() }
}

fn rule(rule: &str) -> Value {
    json!([{"rule": rule}])
}

/// An object with one field.
fn object(name: &str, schema: Value) -> Value {
    json!({"type": "object", "properties": {name: schema}})
}

fn run(schema: &Value, new: &Value, old: Option<&Value>) -> Findings {
    let parsed = Schema::parse(schema).unwrap();
    let validator = Validator::new(&parsed, schema, false).unwrap();
    let correlation = old.map(|old| Correlation::new(old, &parsed));
    validator.validate(new, old, correlation, &Path::nil())
}

#[test]
fn rules_are_checked_where_they_stand() {
    let string = |rules: Value| json!({"type": "string", "x-kubernetes-validations": rules});
    let keyed = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
        {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "x-kubernetes-validations": rule("self >= oldSelf")}}}});
    for case in [
        case(object("a", string(rule("self == 'x'"))), json!({"a": "x"}), None, vec![]),
        case(
            object("a", string(rule("self == 'x'"))),
            json!({"a": "y"}),
            None,
            vec![r#"a: Invalid value: "y": failed rule: self == 'x'"#],
        ),
        case(object("a", string(rule("self == 'x'"))), json!({}), None, vec![]),
        case(
            object(
                "a",
                string(
                    json!([{"rule": "self == 'x'", "message": " be x "}, {"rule": "self != 'y'", "messageExpression": "'not ' + self"}]),
                ),
            ),
            json!({"a": "y"}),
            None,
            vec![r#"a: Invalid value: "y": be x"#, r#"a: Invalid value: "y": not y"#],
        ),
        case(
            object(
                "a",
                string(
                    json!([{"rule": "false", "reason": "FieldValueForbidden"}, {"rule": "false", "reason": "FieldValueRequired", "message": "m"},
                {"rule": "false", "reason": "FieldValueDuplicate"}]),
                ),
            ),
            json!({"a": "y"}),
            None,
            vec!["a: Forbidden: failed rule: false", "a: Required value: m", r#"a: Duplicate value: "y""#],
        ),
        // What is large is not shown, and a field within may be blamed.
        case(
            object(
                "a",
                json!({"type": "object", "properties": {"b": {"type": "integer"}}, "x-kubernetes-validations": [
                {"rule": "self.b > 1", "fieldPath": ".b"}, {"rule": "has(self.c) || true"}, {"rule": "self.b > 2"}]}),
            ),
            json!({"a": {"b": 1}}),
            None,
            vec![
                "a.b: Invalid value: failed rule: self.b > 1",
                "a: Invalid value: \"object\": rule compile error: compilation failed: ERROR: <input>:1:4: undefined field 'c'\n | has(self.c) || true\n | ...^",
                "a: Invalid value: failed rule: self.b > 2",
            ],
        ),
        case(
            object(
                "l",
                json!({"type": "array", "items": {"type": "integer", "x-kubernetes-validations": rule("self < 5")}}),
            ),
            json!({"l": [1, 7]}),
            None,
            vec!["l[1]: Invalid value: 7: failed rule: self < 5"],
        ),
        case(
            object(
                "m",
                json!({"type": "object", "additionalProperties": {"type": "integer", "x-kubernetes-validations": rule("self < 5")}}),
            ),
            json!({"m": {"k": 7}}),
            None,
            vec!["m[k]: Invalid value: 7: failed rule: self < 5"],
        ),
        // Names that are no identifiers are escaped.
        case(
            object(
                "a",
                json!({"type": "object", "properties": {"x-y": {"type": "string"}, "namespace": {"type": "string"}},
                "x-kubernetes-validations": rule("self.x__dash__y == self.__namespace__")}),
            ),
            json!({"a": {"x-y": "1", "namespace": "1"}}),
            None,
            vec![],
        ),
        // Transition rules are for changes alone.
        case(object("a", string(rule("self == oldSelf"))), json!({"a": "y"}), None, vec![]),
        case(
            object("a", string(rule("self == oldSelf"))),
            json!({"a": "y"}),
            Some(json!({"a": "x"})),
            vec![r#"a: Invalid value: "y": failed rule: self == oldSelf"#],
        ),
        case(object("a", string(rule("self == oldSelf"))), json!({"a": "y"}), Some(json!({})), vec![]),
        case(
            object(
                "a",
                string(json!([{"rule": "oldSelf.hasValue() || self == 'new'", "optionalOldSelf": true}])),
            ),
            json!({"a": "y"}),
            None,
            vec![r#"a: Invalid value: "y": failed rule: oldSelf.hasValue() || self == 'new'"#],
        ),
        case(
            object("l", keyed.clone()),
            json!({"l": [{"k": "b", "v": 1}, {"k": "a", "v": 1}]}),
            Some(json!({"l": [{"k": "a", "v": 2}]})),
            vec!["l[1].v: Invalid value: 1: failed rule: self >= oldSelf"],
        ),
        // Errors of evaluation.
        case(
            object("a", json!({"type": "integer", "x-kubernetes-validations": rule("10 / self > 1")})),
            json!({"a": 0}),
            None,
            vec![r#"a: Invalid value: "integer": division by zero evaluating rule: 10 / self > 1"#],
        ),
        // What did not change is warned about.
        Case {
            schema: object(
                "a",
                json!({"type": "object", "properties": {"b": {"type": "integer", "x-kubernetes-validations": rule("self > 1")}, "c": {"type": "integer"}}}),
            ),
            new: json!({"a": {"b": 1, "c": 2}}),
            old: Some(json!({"a": {"b": 1, "c": 1}})),
            errors: vec![],
            warnings: vec!["a.b: Invalid value: 1: failed rule: self > 1"],
        },
    ] {
        let found = run(&case.schema, &case.new, case.old.as_ref());
        let texts: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, case.errors, "{} on {}", case.schema, case.new);
        assert_eq!(found.warnings, case.warnings, "{} on {}", case.schema, case.new);
    }
}

#[test]
fn the_budget_ends_validation() {
    let schema = object(
        "l",
        json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": rule("self.contains('x')")}}),
    );
    let parsed = Schema::parse(&schema).unwrap();
    let validator = Validator::new(&parsed, &schema, false).unwrap();
    let value = json!({"l": ["x", "x", "x", "x"]});
    let mut budget = 3;
    let found = validator.validate_within(&value, None, None, &Path::nil(), &mut budget).errors;
    assert!(budget < 0);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].to_string().ends_with(&format!("Invalid value: \"string\": {NO_BUDGET}")),
        "{}",
        found[0]
    );
}

#[test]
fn schemas_without_rules_have_no_validator() {
    let schema = object("a", json!({"type": "string"}));
    assert!(Validator::new(&Schema::parse(&schema).unwrap(), &schema, true).is_none());
}
