//! Objects on their way through a version.

use super::*;
use crate::Definition;
use serde_json::json;

fn definition(version: Value) -> Definition {
    let mut version = version;
    version["name"] = "v1".into();
    version["served"] = true.into();
    version["storage"] = true.into();
    let crd = json!({"spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "tabs", "kind": "Tab", "listKind": "TabList"},
        "versions": [version]}});
    Definition::compile(&crd).unwrap()
}

fn with_status() -> Definition {
    definition(
        json!({"subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"a": {"type": "string", "default": "A"}, "n": {"type": "integer"},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {}, "x-kubernetes-preserve-unknown-fields": true}}},
        "status": {"type": "object", "properties": {"phase": {"type": "string", "enum": ["Up"]}}}}}}}),
    )
}

fn tab(rest: Value) -> Value {
    let mut object = json!({"apiVersion": "x.io/v1", "kind": "Tab"});
    for (name, value) in rest.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
}

#[test]
fn requests_are_coerced() {
    let definition = with_status();
    let version = definition.storage();
    let mut object = tab(json!({"metadata": {"name": "n", "bogus": 1, "creationTimestamp": null},
        "spec": {"n": 2.0, "x": 1, "a": null, "pod": {"kind": "Pod", "metadata": {"y": 1}}}, "other": {}}));
    let unknown = version.coerce(&mut object, Coerce::request(true)).unwrap();
    assert_eq!(unknown, ["metadata.bogus", "other", "spec.x", "spec.pod.metadata.y"]);
    version.default(&mut object);
    assert_eq!(
        object,
        tab(
            json!({"metadata": {"name": "n"}, "spec": {"n": 2, "a": "A", "pod": {"kind": "Pod", "metadata": {}}}})
        )
    );
    let mut object = tab(json!({"metadata": {"labels": {"a": 1}}}));
    let error = version.coerce(&mut object, Coerce::request(false)).unwrap_err();
    assert_eq!(error, "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string");
    version.coerce(&mut object, Coerce::stored()).unwrap();
    assert_eq!(object, tab(json!({"metadata": {"generation": 1}})));
}

#[test]
fn generations_follow_what_is_wanted() {
    let definition = with_status();
    let version = definition.storage();
    let mut old = tab(json!({"metadata": {}, "spec": {"n": 1}, "status": {"phase": "Up"}}));
    version.prepare_for_create(&mut old);
    assert_eq!(old, tab(json!({"metadata": {"generation": 1}, "spec": {"n": 1}})));
    old["status"] = json!({"phase": "Up"});
    let mut new = tab(
        json!({"metadata": {"generation": 1, "labels": {"a": "b"}}, "spec": {"n": 1}, "status": {"phase": "x"}}),
    );
    version.prepare_for_update(&mut new, &old);
    assert_eq!(new["status"], json!({"phase": "Up"}));
    assert_eq!(new["metadata"]["generation"], 1);
    new["spec"]["n"] = 2.into();
    version.prepare_for_update(&mut new, &old);
    assert_eq!(new["metadata"]["generation"], 2);
    let mut status = tab(
        json!({"metadata": {"labels": {"x": "y"}, "managedFields": [{"manager": "m"}]}, "spec": {"n": 9}, "status": {"phase": "New"}}),
    );
    version.prepare_for_status_update(&mut status, &old);
    assert_eq!(
        status,
        tab(
            json!({"metadata": {"generation": 1, "managedFields": [{"manager": "m"}]}, "spec": {"n": 1}, "status": {"phase": "New"}})
        )
    );
}

fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn objects_are_validated_as_upstream_does() {
    let definition = with_status();
    let version = definition.storage();
    for (object, want) in [
        (tab(json!({"spec": {"n": 1}})), vec![]),
        (
            json!({"apiVersion": "x.io/v2", "kind": "Tub"}),
            vec![
                r#"kind: Invalid value: "Tub": must be Tab"#,
                r#"apiVersion: Invalid value: "x.io/v2": must be x.io/v1"#,
            ],
        ),
        (
            tab(json!({"spec": {"n": "x", "pod": {}}})),
            vec![
                r#"spec.n: Invalid value: "string": spec.n in body must be of type integer: "string""#,
                "spec.pod.apiVersion: Required value",
                "spec.pod.kind: Required value",
            ],
        ),
    ] {
        assert_eq!(texts(&version.validate(&object)), want, "{object}");
    }
    let old = tab(json!({"status": {"phase": "Old"}}));
    let new = tab(json!({"status": {"phase": "Newer"}}));
    assert_eq!(
        texts(&version.validate_status_update(&new, &old)),
        [r#"status.phase: Unsupported value: "Newer": supported values: "Up""#]
    );
    assert!(version.validate_status_update(&old, &old).is_empty());
}

#[test]
fn finalizers_of_no_domain_are_warned_about() {
    let definition = with_status();
    let version = definition.storage();
    let object = tab(json!({"metadata": {"finalizers": ["orphan", "x.io/y", "plain", "dotted.io", "old"]}}));
    let old = tab(json!({"metadata": {"finalizers": ["old"]}}));
    assert_eq!(
        version.warnings(&object, Some(&old)),
        [
            r#"metadata.finalizers: "dotted.io": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"#,
            r#"metadata.finalizers: "plain": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"#,
        ]
    );
}
