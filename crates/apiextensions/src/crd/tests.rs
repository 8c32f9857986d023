//! Definitions and what is wrong with them, in upstream's words.

use super::*;

fn crd(change: impl FnOnce(&mut Value)) -> Value {
    let mut crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "tabs", "kind": "Tab"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    default(&mut crd);
    change(&mut crd);
    crd
}

fn with_schema(schema: Value) -> Value {
    crd(|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema)
}

fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_are_filled_in() {
    let crd = crd(|_| {});
    assert_eq!(
        crd["spec"]["names"],
        json!({"plural": "tabs", "kind": "Tab", "singular": "tab", "listKind": "TabList"})
    );
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let mut hooked = json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"service": {"name": "x"}}}}}});
    default(&mut hooked);
    assert_eq!(hooked["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["port"], 443);
    let mut moved = json!({"spec": {"versions": [{"name": "v2", "storage": true}]}, "status": {"storedVersions": ["v1"]}});
    mark_stored(&mut moved);
    mark_stored(&mut moved);
    assert_eq!(moved["status"]["storedVersions"], json!(["v1", "v2"]));
}

#[test]
fn a_good_definition_passes() {
    assert_eq!(texts(&validate(&crd(|_| {}))), [""; 0]);
    let rich = with_schema(json!({"type": "object", "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 10}}},
        "spec": {"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "integer", "default": 3},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
                {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
                "default": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}}}}}}));
    assert_eq!(texts(&validate(&rich)), [""; 0]);
}

#[test]
fn mistakes_in_the_spec_are_told() {
    let label = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let cases: Vec<(Value, Vec<String>)> = vec![
        (
            crd(|crd| crd["metadata"]["name"] = "other".into()),
            vec![r#"metadata.name: Invalid value: "other": must be spec.names.plural+"."+spec.group"#.into()],
        ),
        (
            crd(|crd| {
                crd["spec"]["group"] = "nodots".into();
                crd["metadata"]["name"] = "tabs.nodots".into();
                crd["spec"]["scope"] = "Galaxy".into();
            }),
            vec![
                r#"spec.group: Invalid value: "nodots": should be a domain with at least one dot"#.into(),
                r#"spec.scope: Unsupported value: "Galaxy": supported values: "Cluster", "Namespaced""#.into(),
            ],
        ),
        (
            crd(|crd| crd["spec"]["versions"][0]["name"] = "V1".into()),
            vec![
                format!(r#"spec.versions[0].name: Invalid value: "V1": {label}"#),
                format!(r#"spec.version: Invalid value: "V1": {label}"#),
                r#"status.storedVersions: Invalid value: ["v1"]: must have the storage version V1"#.into(),
                r#"status.storedVersions[0]: Invalid value: "v1": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions"#.into(),
            ],
        ),
        (
            crd(|crd| crd["spec"]["versions"][0]["storage"] = false.into()),
            vec![
                r#"spec.versions: Invalid value: [{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]: must have exactly one version marked as storage version"#.into(),
            ],
        ),
        (
            crd(|crd| {
                crd["spec"]["names"]["kind"] = "a_b".into();
                crd["spec"]["names"]["listKind"] = "a_b".into();
                crd["spec"]["names"]["shortNames"] = json!(["OK"]);
            }),
            vec![
                format!(r#"spec.names.kind: Invalid value: "a_b": may have mixed case, but should otherwise match: {label}"#),
                format!(r#"spec.names.listKind: Invalid value: "a_b": may have mixed case, but should otherwise match: {label}"#),
                format!(r#"spec.names.shortNames[0]: Invalid value: "OK": {label}"#),
                r#"spec.names.listKind: Invalid value: "a_b": kind and listKind may not be the same"#.into(),
            ],
        ),
        (
            crd(|crd| {
                crd["spec"]["versions"][0].as_object_mut().unwrap().remove("schema");
            }),
            vec!["spec.versions[0].schema.openAPIV3Schema: Required value".into()],
        ),
        (
            crd(|crd| crd["spec"]["preserveUnknownFields"] = true.into()),
            vec![
                "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead".into(),
            ],
        ),
        (
            crd(|crd| crd["spec"]["versions"][0]["deprecationWarning"] = "x".into()),
            vec![r#"spec.versions[0].deprecationWarning: Invalid value: "x": can only be set for deprecated versions"#.into()],
        ),
        (
            crd(|crd| {
                crd["spec"]["versions"][0]["additionalPrinterColumns"] =
                    json!([{"name": "", "type": "text", "format": "x", "jsonPath": "spec"}]);
                crd["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".x", "labelSelectorPath": "a"}});
            }),
            vec![
                r#"spec.subresources.scale.specReplicasPath: Invalid value: ".x": should be a json path under .spec"#.into(),
                "spec.subresources.scale.statusReplicasPath: Required value".into(),
                r#"spec.subresources.scale.labelSelectorPath: Invalid value: "a": must be a simple json path starting with ."#.into(),
                "spec.additionalPrinterColumns[0].name: Required value".into(),
                r#"spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#.into(),
                r#"spec.additionalPrinterColumns[0].format: Invalid value: "x": must be one of byte,date,date-time,double,float,int32,int64,password"#.into(),
                r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with ."#.into(),
            ],
        ),
        (
            crd(|crd| crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v0"]}})),
            vec![
                "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook".into(),
                r#"spec.conversion.conversionReviewVersions: Invalid value: ["v0"]: must include at least one of v1, v1beta1"#.into(),
            ],
        ),
        (
            crd(|crd| {
                crd["spec"]["group"] = "x.k8s.io".into();
                crd["metadata"]["name"] = "tabs.x.k8s.io".into();
            }),
            vec![
                r#"metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation "api-approved.kubernetes.io", see https://github.com/kubernetes/enhancements/pull/1111"#.into(),
            ],
        ),
    ];
    for (crd, want) in cases {
        assert_eq!(texts(&validate(&crd)), want);
    }
}

#[test]
fn mistakes_in_schemas_are_told() {
    let at = "spec.validation.openAPIV3Schema";
    let field = |name: &str, schema: Value| json!({"type": "object", "properties": {name: schema}});
    for (schema, want) in [
        (json!({"type": "string"}), vec![r#".type: Invalid value: "string": must be object at the root"#]),
        (
            json!({"type": "object", "nullable": true}),
            vec![".nullable: Forbidden: nullable cannot be true at the root"],
        ),
        (
            field("a", json!({"type": "text"})),
            vec![
                r#".properties[a].type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string""#,
            ],
        ),
        (
            field("a", json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}})),
            vec![
                ".properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            field("a", json!({"type": "string", "default": 5})),
            vec![
                r#".properties[a].default: Invalid value: "integer": spec.validation.openAPIV3Schema.properties[a].default in body must be of type string: "integer""#,
            ],
        ),
        (
            field(
                "a",
                json!({"type": "object", "properties": {"x": {"type": "string"}}, "default": {"y": 1}}),
            ),
            vec![r#".properties[a].default: Invalid value: {"y":1}: must not have unknown fields"#],
        ),
        (
            field(
                "metadata",
                json!({"type": "object", "properties": {"name": {"type": "string", "default": "x"}}}),
            ),
            vec![
                ".properties[metadata].properties[name].default: Forbidden: must not be set in top-level metadata",
            ],
        ),
        (
            field(
                "a",
                json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            ),
            vec![
                ".properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ],
        ),
        (
            field(
                "a",
                json!({"type": "string", "x-kubernetes-list-type": "bag", "x-kubernetes-map-type": "odd"}),
            ),
            vec![
                r#".properties[a].type: Invalid value: "string": must be object if x-kubernetes-map-type is specified"#,
                r#".properties[a].x-kubernetes-map-type: Unsupported value: "odd": supported values: "atomic", "granular""#,
                r#".properties[a].type: Invalid value: "string": must be array if x-kubernetes-list-type is specified"#,
                r#".properties[a].x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map""#,
            ],
        ),
        (
            field(
                "a",
                json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            ),
            vec![
                ".properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        ),
        (
            field(
                "a",
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "z"],
                "items": {"type": "object", "properties": {"k": {"type": "string", "nullable": true}}}}),
            ),
            vec![
                r#".properties[a].x-kubernetes-list-map-keys: Invalid value: ["k","z"]: entries must all be names of item properties"#,
                ".properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                ".properties[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            ],
        ),
        (
            field(
                "a",
                json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
            ),
            vec![
                ".properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            field("a", json!({"type": "string", "x-kubernetes-preserve-unknown-fields": false})),
            vec![
                ".properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
            ],
        ),
        (
            field("a", json!({"type": "string", "$ref": "#/x"})),
            vec![".properties[a].$ref: Forbidden: $ref is not supported"],
        ),
        (
            field(
                "a",
                json!({"type": "object", "x-kubernetes-validations": [
                {"rule": " "}, {"rule": "a\nb"}, {"rule": "true", "message": " ", "reason": "Because", "fieldPath": ".nope"}]}),
            ),
            vec![
                ".properties[a].x-kubernetes-validations[0].rule: Required value: rule is not specified",
                ".properties[a].x-kubernetes-validations[1].message: Required value: message must be specified if rule contains line breaks",
                r#".properties[a].x-kubernetes-validations[2].message: Invalid value: " ": must be non-empty if specified"#,
                r#".properties[a].x-kubernetes-validations[2].reason: Unsupported value: "Because": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired""#,
                r#".properties[a].x-kubernetes-validations[2].fieldPath: Invalid value: ".nope": must be a valid path"#,
            ],
        ),
    ] {
        let want: Vec<String> = want.iter().map(|text| format!("{at}{text}")).collect();
        let found: Vec<String> = texts(&validate(&with_schema(schema.clone())))
            .into_iter()
            .map(|text| {
                text.replace("spec.validation.openAPIV3Schema.properties[a].default in body", " in body")
                    .replace(":  in body", ": spec.validation.openAPIV3Schema.properties[a].default in body")
            })
            .collect();
        assert_eq!(found, want, "{schema}");
    }
}

#[test]
fn versions_that_differ_are_named_one_by_one() {
    let crd = crd(|crd| {
        crd["spec"]["versions"] = json!([
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
            {"name": "v2", "served": true, "storage": false, "subresources": {"status": {}}, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"a": {}}, "not": {}}}, "selectableFields": [{"jsonPath": ".a"}, {"jsonPath": ".metadata.x"}]}]);
    });
    let found = texts(&validate(&crd));
    assert!(found[0].starts_with(r#"spec.versions[1].schema.openAPIV3Schema: Invalid value: {"ID":"","Schema":"","Ref":null,"Description":"","Type":"object","#), "{}", found[0]);
    assert!(
        found[0]
            .contains("fields are allowed at the root of the schema if the status subresource is enabled")
    );
    assert_eq!(
        found[1..],
        [
            "spec.versions[1].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
            r#"spec.versions[1].selectableFields[0].jsonPath: Invalid value: ".a": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."#,
            r#"spec.versions[1].selectableFields[1].jsonPath: Invalid value: ".metadata.x": is an invalid path: does not refer to a valid field"#,
        ]
    );
}

#[test]
fn what_is_established_does_not_change() {
    let old = crd(|crd| crd["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]));
    let mut new = old.clone();
    new["spec"]["scope"] = "Cluster".into();
    new["spec"]["names"]["kind"] = "Tub".into();
    new["spec"]["names"]["plural"] = "tubs".into();
    assert_eq!(
        texts(&validate_update(&new, &old)),
        [
            r#"spec.scope: Invalid value: "Cluster": field is immutable"#,
            r#"spec.names.kind: Invalid value: "Tub": field is immutable"#,
            r#"spec.names.plural: Invalid value: "tubs": field is immutable"#,
        ]
    );
    let mut unestablished = old.clone();
    unestablished["status"]["conditions"] = json!([]);
    new["spec"]["names"]["plural"] = "tabs".into();
    assert_eq!(texts(&validate_update(&new, &unestablished)), [""; 0]);
}

#[test]
fn what_was_allowed_once_stays() {
    let old = with_schema(
        json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}}}),
    );
    assert_eq!(texts(&validate(&old)).len(), 1);
    assert_eq!(texts(&validate_update(&old, &old)), [""; 0]);
}

#[test]
fn formats_that_mean_nothing_are_warned_about() {
    let new =
        with_schema(json!({"type": "object", "properties": {"a": {"type": "string", "format": "made-up"},
        "b": {"type": "integer", "format": "int32"}, "c": {"type": "boolean", "format": "x"}}}));
    assert_eq!(warnings(&new, None), [r#"unrecognized format "made-up""#, r#"unrecognized format "x""#]);
    assert_eq!(warnings(&new, Some(&new)), [""; 0]);
}

#[test]
fn schemas_without_structure_are_told_in_a_condition() {
    assert_eq!(non_structural(&crd(|_| {})), None);
    let found = non_structural(&with_schema(json!({"properties": {"a": {}}}))).unwrap();
    assert_eq!(
        (found.status, found.reason, found.message.as_str()),
        (
            "True",
            "Violations",
            "[spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields, spec.versions[0].schema.openAPIV3Schema.type: Required value: must not be empty at the root]"
        )
    );
    let found = non_structural(&with_schema(json!({"$ref": "x"}))).unwrap();
    assert_eq!((found.status, found.reason), ("Unknown", "StructuralError"));
}

#[test]
fn rules_are_compiled_and_weighed() {
    let at = "spec.validation.openAPIV3Schema.properties[a]";
    let with = |schema: Value| with_schema(json!({"type": "object", "properties": {"a": schema}}));
    let tail = ",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}";
    let budget = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    for (schema, want) in [
        (json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1"}]}), vec![]),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self.x"}, {"rule": "self + 1"}]}),
            vec![
                format!(
                    "{at}.x-kubernetes-validations[0].rule: Invalid value: {{\"Rule\":\"self.x\"{tail}: compilation failed: ERROR: <input>:1:5: type 'int' does not support field selection\n | self.x\n | ....^"
                ),
                format!(
                    "{at}.x-kubernetes-validations[1].rule: Invalid value: {{\"Rule\":\"self + 1\"{tail}: cel expression must evaluate to a bool"
                ),
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}, "maxItems": 5}),
            vec![format!(
                "{at}.items.x-kubernetes-validations[0].rule: Invalid value: \"self > oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within {at}"
            )],
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "optionalOldSelf": true}]}),
            vec![format!(
                "{at}.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            )],
        ),
        (
            json!({"type": "integer", "default": 0, "x-kubernetes-validations": [{"rule": "self > 1"}]}),
            vec![format!("{at}.default: Invalid value: 0: failed rule: self > 1")],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}),
            vec![
                format!(
                    "{at}.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {budget}"
                ),
                format!(
                    "{at}.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
                ),
                format!(
                    "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {budget}"
                ),
            ],
        ),
    ] {
        let found = texts(&validate(&with(schema.clone())));
        assert_eq!(found, want, "{schema}");
    }
    // Rules that cost too much once may stay as they are.
    let old = with(json!({"type": "array", "items": {"type": "string", "maxLength": 1000}, "maxItems": 300,
        "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}));
    let new = validate(&old);
    assert_eq!(new.len(), 1, "{new}");
    assert!(new[0].detail.starts_with("estimated rule cost exceeds budget by factor of "), "{new}");
    assert_eq!(texts(&validate_update(&old, &old)), [""; 0]);
}
