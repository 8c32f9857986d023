//! Tables of schemas and values: what is wrong with them, in upstream's words.

use super::*;
use serde_json::json;

fn texts(schema: &Value, value: &Value, purpose: Use) -> Vec<String> {
    let schema = Schema::parse(schema).unwrap();
    validate(value, &schema, purpose, &Path::nil()).iter().map(ToString::to_string).collect()
}

#[test]
fn errors_are_upstreams() {
    let object = |name: &str, schema: Value| json!({"type": "object", "properties": {name: schema}});
    for (schema, value, want) in [
        (json!({"type": "object"}), json!({}), vec![]),
        (
            json!({"type": "object"}),
            json!([]),
            vec![r#"<nil>: Invalid value: "array":  in body must be of type object: "array""#],
        ),
        (
            object("x", json!({"type": "integer"})),
            json!({"x": "s"}),
            vec![r#"x: Invalid value: "string": x in body must be of type integer: "string""#],
        ),
        (
            object("x", json!({"type": "integer"})),
            json!({"x": 1.5}),
            vec![
                r#"x: Invalid value: "number": x in body must be of type integer: "number""#,
                r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in x"#,
            ],
        ),
        (object("x", json!({"type": "number"})), json!({"x": 3}), vec![]),
        (
            object("x", json!({"type": "string"})),
            json!({"x": null}),
            vec![r#"x: Invalid value: "null": x in body must be of type string: "null""#],
        ),
        (object("x", json!({"type": "string", "nullable": true})), json!({"x": null}), vec![]),
        (object("x", json!({"x-kubernetes-int-or-string": true})), json!({"x": 1}), vec![]),
        (
            object("x", json!({"x-kubernetes-int-or-string": true})),
            json!({"x": true}),
            vec![r#"x: Invalid value: "boolean": x in body must be of type integer,string: "boolean""#],
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"b": {"type": "object", "required": ["c"]}}}),
            json!({"b": {}}),
            vec!["b.c: Required value", "a: Required value"],
        ),
        (
            object("x", json!({"type": "string", "enum": ["a", "b"]})),
            json!({"x": "c"}),
            vec![r#"x: Unsupported value: "c": supported values: "a", "b""#],
        ),
        (
            object("x", json!({"type": "integer", "enum": [1, 2]})),
            json!({"x": "y"}),
            vec![
                r#"x: Invalid value: "string": x in body must be of type integer: "string""#,
                r#"x: Unsupported value: "y": supported values: "1", "2""#,
            ],
        ),
        (
            object("x", json!({"type": "string", "nullable": true, "enum": ["a", null]})),
            json!({"x": null}),
            vec![r#"x: Unsupported value: null: supported values: "a", "null""#],
        ),
        (
            object("x", json!({"type": "string", "maxLength": 2})),
            json!({"x": "äöü"}),
            vec!["x: Too long: may not be more than 2 bytes"],
        ),
        (
            object("x", json!({"type": "string", "minLength": 2})),
            json!({"x": "a"}),
            vec![r#"x: Invalid value: "a": x in body should be at least 2 chars long"#],
        ),
        (
            object("x", json!({"type": "string", "pattern": "^b$"})),
            json!({"x": "a"}),
            vec![r#"x: Invalid value: "a": x in body should match '^b$'"#],
        ),
        (
            object("x", json!({"type": "string", "format": "date"})),
            json!({"x": "a"}),
            vec![r#"x: Invalid value: "a": x in body must be of type date: "a""#],
        ),
        (object("x", json!({"type": "string", "format": "made-up"})), json!({"x": "a"}), vec![]),
        (
            object("x", json!({"type": "string", "format": "k8s-short-name"})),
            json!({"x": "a-"}),
            vec![r#"x: Invalid value: "a-": x in body must be of type k8s-short-name: "a-""#],
        ),
        (
            object("x", json!({"type": "string", "format": "date"})),
            json!({"x": 1}),
            vec![r#"x: Invalid value: "int64": x in body must be of type date: "int64""#],
        ),
        (
            object("x", json!({"type": "array", "maxItems": 2, "items": {"type": "string"}})),
            json!({"x": ["a", "b", 3]}),
            vec![
                r#"x[2]: Invalid value: "integer": x[2] in body must be of type string: "integer""#,
                "x: Too many: 3: must have at most 2 items",
            ],
        ),
        (
            object("x", json!({"type": "array", "minItems": 2, "items": {"type": "string"}})),
            json!({"x": ["a"]}),
            vec!["x: Invalid value: 1: x in body should have at least 2 items"],
        ),
        (
            object("x", json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}})),
            json!({"x": ["a", "a"]}),
            vec![r#"x: Invalid value: "": x in body shouldn't contain duplicates"#],
        ),
        (
            object("x", json!({"type": "object", "maxProperties": 1})),
            json!({"x": {"a": 1, "b": 2}}),
            vec!["x: Too many: 2: must have at most 1 item"],
        ),
        (
            object("x", json!({"type": "object", "minProperties": 1})),
            json!({"x": {}}),
            vec!["x: Invalid value: 0: x in body should have at least 1 properties"],
        ),
        (
            object("x", json!({"type": "object", "additionalProperties": {"type": "string"}})),
            json!({"x": {"k.y": 1}}),
            vec![r#"x.k.y: Invalid value: "integer": x.k.y in body must be of type string: "integer""#],
        ),
        (
            object("x", json!({"type": "object", "additionalProperties": false})),
            json!({"x": {"k": 1}}),
            vec![r#"x: Invalid value: "k": x.k in body is a forbidden property"#],
        ),
        (
            object("x", json!({"type": "integer", "minimum": 1, "maximum": 3})),
            json!({"x": 0}),
            vec!["x: Invalid value: 0: x in body should be greater than or equal to 1"],
        ),
        (
            object("x", json!({"type": "integer", "maximum": 3, "exclusiveMaximum": true})),
            json!({"x": 3}),
            vec!["x: Invalid value: 3: x in body should be less than 3"],
        ),
        (
            object("x", json!({"type": "number", "minimum": 0.5})),
            json!({"x": 0.25}),
            vec!["x: Invalid value: 0.25: x in body should be greater than or equal to 0.5"],
        ),
        (
            object("x", json!({"type": "integer", "multipleOf": 3})),
            json!({"x": 4}),
            vec!["x: Invalid value: 4: x in body should be a multiple of 3"],
        ),
        (object("x", json!({"type": "number", "multipleOf": 0.1})), json!({"x": 0.7}), vec![]),
        (
            object("x", json!({"type": "integer", "format": "int32"})),
            json!({"x": 2_147_483_648_i64}),
            vec![r#"<nil>: Invalid value: "": Checked value must be of type integer with format int32 in x"#],
        ),
        (
            object("x", json!({"type": "integer", "format": "int64"})),
            json!({"x": 1e19}),
            vec![
                r#"x: Invalid value: "float64": x in body must be of type int64: "float64""#,
                r#"<nil>: Invalid value: "": Checked value must be of type integer with format int64 in x"#,
            ],
        ),
        // A bound that is no integer makes a double of the value.
        (
            object("x", json!({"type": "integer", "maximum": 2.5})),
            json!({"x": 3_000_000}),
            vec![
                r#"<nil>: Invalid value: "": Maximum boundary value must be of type integer (default format) in x"#,
                "x: Invalid value: 3e+06: x in body should be less than or equal to 2.5",
            ],
        ),
        (
            object("x", json!({"type": "number", "format": "float"})),
            json!({"x": 1e39}),
            vec![r#"<nil>: Invalid value: "": Checked value must be of type number with format float in x"#],
        ),
        (
            object("x", json!({"type": "string", "anyOf": [{"pattern": "a"}, {"enum": ["b"]}]})),
            json!({"x": "c"}),
            vec![
                r#"<nil>: Invalid value: "": "x" must validate at least one schema (anyOf)"#,
                r#"x: Invalid value: "c": x in body should match 'a'"#,
            ],
        ),
        (
            object("x", json!({"type": "string", "oneOf": [{"pattern": "a"}, {"pattern": "b"}]})),
            json!({"x": "ab"}),
            vec![
                r#"<nil>: Invalid value: "": "x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        ),
        (
            object("x", json!({"type": "string", "oneOf": [{"pattern": "a"}, {"pattern": "b"}]})),
            json!({"x": "c"}),
            vec![
                r#"<nil>: Invalid value: "": "x" must validate one and only one schema (oneOf). Found none valid"#,
                r#"x: Invalid value: "c": x in body should match 'a'"#,
            ],
        ),
        (
            object("x", json!({"type": "string", "allOf": [{"pattern": "a"}, {"pattern": "b"}]})),
            json!({"x": "c"}),
            vec![
                r#"x: Invalid value: "c": x in body should match 'a'"#,
                r#"x: Invalid value: "c": x in body should match 'b'"#,
                r#"<nil>: Invalid value: "": "x" must validate all the schemas (allOf). None validated"#,
            ],
        ),
        (
            object("x", json!({"type": "string", "not": {"enum": ["c"]}})),
            json!({"x": "c"}),
            vec![r#"<nil>: Invalid value: "": "x" must not validate the schema (not)"#],
        ),
    ] {
        assert_eq!(texts(&schema, &value, Use::Resource), want, "{schema} on {value}");
    }
}

#[test]
fn the_status_endpoint_knows_the_older_formats_only() {
    let schema = json!({"type": "string", "format": "k8s-short-name"});
    assert_eq!(texts(&schema, &json!("a-"), Use::Status), [""; 0]);
    assert_eq!(texts(&schema, &json!("a-"), Use::Resource).len(), 1);
}

#[test]
fn what_did_not_change_is_forgiven() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "object", "required": ["z"], "properties": {"c": {"type": "integer"}, "d": {"type": "string"}}},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
            {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
        "p": {"type": "array", "items": {"type": "integer", "maximum": 1}}}});
    let parsed = Schema::parse(&schema).unwrap();
    for (old, new, want) in [
        (json!({"a": "xx"}), json!({"a": "xx"}), vec![]),
        (json!({"a": "xx"}), json!({"a": "yy"}), vec!["a: Too long: may not be more than 1 bytes"]),
        (json!({}), json!({"a": "xx"}), vec!["a: Too long: may not be more than 1 bytes"]),
        (json!({"b": {"c": "x", "d": "1"}}), json!({"b": {"c": "x", "d": "2"}}), vec!["b.z: Required value"]),
        (json!({"l": [{"k": "a", "v": 5}]}), json!({"l": [{"k": "b", "v": 1}, {"k": "a", "v": 5}]}), vec![]),
        (
            json!({"l": [{"k": "a", "v": 5}]}),
            json!({"l": [{"k": "b", "v": 5}]}),
            vec!["l[0].v: Invalid value: 5: l[0].v in body should be less than or equal to 1"],
        ),
        (json!({"p": [5]}), json!({"p": [5]}), vec![]),
        (
            json!({"p": [5]}),
            json!({"p": [5, 1]}),
            vec!["p[0]: Invalid value: 5: p[0] in body should be less than or equal to 1"],
        ),
    ] {
        let correlation = Correlation::new(&old, &parsed);
        let errors = validate_update(&new, &parsed, Use::Resource, &Path::nil(), &correlation);
        let texts: Vec<String> = errors
            .iter()
            .map(|e| e.to_string().replace("1 byte", "1 bytes").replace("bytess", "bytes"))
            .collect();
        assert_eq!(texts, want, "{old} to {new}");
    }
}
