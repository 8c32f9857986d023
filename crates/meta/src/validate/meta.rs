//! What is checked of every object's metadata, and of label selectors.

use super::{dns1123_label, label_value, mask_trailing_dash, qualified_name};
use crate::field::{self, ErrorList, Path};
use crate::object::get_path;
use serde_json::{Map, Value};

const TOTAL_ANNOTATIONS_MAX_BYTES: usize = 256 << 10;
const SUBRESOURCE_MAX_BYTES: usize = 256;

static NULL: Value = Value::Null;

fn text<'a>(meta: &'a Value, name: &str) -> &'a str {
    meta.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(meta: &'a Value, name: &str) -> &'a [Value] {
    meta.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Checks the `metadata` of a new object, its name generated already. `name_fn` checks a name (for
/// `generateName` it is called with a trailing dash masked, as upstream does with `prefix`).
pub fn validate_object_meta(
    meta: &Value,
    namespaced: bool,
    name_fn: impl Fn(&str) -> Vec<String>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let generate_name = text(meta, "generateName");
    if !generate_name.is_empty() {
        let messages = name_fn(&mask_trailing_dash(generate_name));
        errors.invalid_each(&path.child("generateName"), generate_name, messages);
    }
    let name = text(meta, "name");
    if name.is_empty() {
        errors.push(field::required(&path.child("name"), "name or generateName is required"));
    } else {
        let messages = name_fn(name);
        if !messages.is_empty() {
            errors.invalid_each(&path.child("name"), name, messages);
        }
    }
    let namespace = text(meta, "namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(field::required(&path.child("namespace"), "")),
        (true, false) => {
            let messages = dns1123_label(namespace);
            if !messages.is_empty() {
                errors.invalid_each(&path.child("namespace"), namespace, messages);
            }
        }
        (false, true) => {}
        (false, false) => errors.push(field::forbidden(&path.child("namespace"), "not allowed on this type")),
    }
    let generation = meta.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(field::invalid(&path.child("generation"), generation, detail));
    }
    validate_common(meta, path, &mut errors);
    let finalizers = list(meta, "finalizers");
    if !finalizers.is_empty() {
        let path = path.child("finalizers");
        for finalizer in finalizers.iter().filter_map(Value::as_str) {
            errors.invalid_each(&path, finalizer, qualified_name(finalizer));
        }
        let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
        if has("orphan") && has("foregroundDeletion") {
            let detail = "finalizer orphan and foregroundDeletion cannot be both set";
            errors.push(field::invalid(&path, finalizers, detail));
        }
    }
    errors
}

/// Checks the `metadata` of an object that replaces another.
pub fn validate_object_meta_update(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if !text(old, "deletionTimestamp").is_empty() {
        let old_finalizers = list(old, "finalizers");
        let mut extra: Vec<&str> = list(new, "finalizers")
            .iter()
            .filter(|finalizer| !old_finalizers.contains(finalizer))
            .filter_map(Value::as_str)
            .collect();
        if !extra.is_empty() {
            extra.sort_unstable();
            extra.dedup();
            let quoted: Vec<String> = extra.into_iter().map(crate::go::quote).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            errors.push(field::forbidden(&path.child("finalizers"), detail));
        }
    }
    if text(new, "resourceVersion").is_empty() {
        errors.push(field::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = |meta: &Value| meta.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation(new) < generation(old) {
        errors.push(field::invalid(&path.child("generation"), generation(new), "must not be decremented"));
    }
    for name in ["name", "namespace", "uid"] {
        if text(new, name) != text(old, name) {
            errors.push(field::invalid(&path.child(name), text(new, name), "field is immutable"));
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let value = new.get(name).unwrap_or(&NULL);
        if value != old.get(name).unwrap_or(&NULL) {
            errors.push(field::invalid(&path.child(name), value, "field is immutable"));
        }
    }
    validate_common(new, path, &mut errors);
    errors
}

fn validate_common(meta: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(labels) = meta.get("labels").and_then(Value::as_object) {
        errors.extend(validate_labels(labels, &path.child("labels")));
    }
    if let Some(annotations) = meta.get("annotations").and_then(Value::as_object) {
        errors.extend(validate_annotations(annotations, &path.child("annotations")));
    }
    let owners = list(meta, "ownerReferences");
    if !owners.is_empty() {
        errors.extend(validate_owner_references(owners, &path.child("ownerReferences")));
    }
    let managed = list(meta, "managedFields");
    if !managed.is_empty() {
        errors.extend(validate_managed_fields(managed, &path.child("managedFields")));
    }
}

/// Checks keys and values of labels.
pub fn validate_labels(labels: &Map<String, Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels {
        let messages = qualified_name(key);
        if !messages.is_empty() {
            errors.invalid_each(path, key, messages);
        }
        let value = value.as_str().unwrap_or_default();
        let messages = label_value(value);
        if !messages.is_empty() {
            errors.invalid_each(path, value, messages);
        }
    }
    errors
}

/// Checks keys of annotations (whose case does not matter) and their size altogether.
pub fn validate_annotations(annotations: &Map<String, Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut total = 0;
    for (key, value) in annotations {
        total += key.len() + value.as_str().map_or(0, str::len);
        let messages = if key.bytes().any(|b| b.is_ascii_uppercase()) || !key.is_ascii() {
            qualified_name(&key.to_lowercase())
        } else {
            qualified_name(key)
        };
        if !messages.is_empty() {
            errors.invalid_each(path, key, messages);
        }
    }
    if total > TOTAL_ANNOTATIONS_MAX_BYTES {
        errors.push(field::too_long(path, "", TOTAL_ANNOTATIONS_MAX_BYTES));
    }
    errors
}

/// Checks `metadata.ownerReferences`. As upstream does in 1.36, errors name the list, not the element.
pub fn validate_owner_references(owners: &[Value], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controller: Option<String> = None;
    for owner in owners {
        let api_version = text(owner, "apiVersion");
        let (group, version) = crate::gvk::parse_api_version(api_version);
        if version.is_empty() {
            errors.push(field::invalid(&path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for name in ["kind", "name", "uid"] {
            if text(owner, name).is_empty() {
                errors.push(field::invalid(&path.child(name), "", "must not be empty"));
            }
        }
        let kind = text(owner, "kind");
        if (group, version, kind) == ("", "v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(field::invalid(path, owner, detail));
        }
        if owner["controller"] == true {
            let this = format!("{kind}/{}", text(owner, "name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(field::invalid(path, owners, detail));
                }
            }
        }
    }
    errors
}

/// Checks `metadata.managedFields` except for the fields themselves.
pub fn validate_managed_fields(entries: &[Value], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, entry) in entries.iter().enumerate() {
        let operation = text(entry, "operation");
        if operation != "Apply" && operation != "Update" {
            let path = path.index(i).child("operation");
            errors.push(field::invalid(&path, operation, "must be `Apply` or `Update`"));
        }
        let fields_type = text(entry, "fieldsType");
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.push(field::invalid(
                &path.index(i).child("fieldsType"),
                fields_type,
                "must be `FieldsV1`",
            ));
        }
        errors.extend(super::validate_field_manager(text(entry, "manager"), &path.index(i).child("manager")));
        if text(entry, "subresource").len() > SUBRESOURCE_MAX_BYTES {
            errors.push(field::too_long(&path.index(i).child("subresource"), "", SUBRESOURCE_MAX_BYTES));
        }
    }
    errors
}

/// Checks a label selector; null is fine.
pub fn validate_label_selector(selector: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(labels) = get_path(selector, &["matchLabels"]).and_then(Value::as_object) {
        errors.extend(validate_labels(labels, &path.child("matchLabels")));
    }
    for (i, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(field::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(field::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(field::invalid(&path.child("operator"), other, "not a valid selector operator"))
            }
        }
        let key = text(requirement, "key");
        errors.invalid_each(&path.child("key"), key, qualified_name(key));
        for (i, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(&path.child("values").index(i), value, label_value(value));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::dns1123_subdomain;
    use serde_json::json;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn metadata_of_new_objects_is_checked() {
        let path = Path::new("metadata");
        for (meta, namespaced, want) in [
            (
                json!({"name": "a", "namespace": "b", "labels": {"x": "y"}, "annotations": {"X.y/Z": ""}}),
                true,
                vec![],
            ),
            (json!({"name": "a"}), false, vec![]),
            (json!({"name": "a-xyz", "generateName": "a-"}), false, vec![]),
            (
                json!({}),
                true,
                vec![
                    "metadata.name: Required value: name or generateName is required",
                    "metadata.namespace: Required value",
                ],
            ),
            (
                json!({"name": "a", "namespace": "b"}),
                false,
                vec!["metadata.namespace: Forbidden: not allowed on this type"],
            ),
            (
                json!({"name": "a", "generation": -1}),
                false,
                vec!["metadata.generation: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}),
                false,
                vec![
                    "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
                ],
            ),
            (
                json!({"name": "a", "annotations": {"a": "x".repeat(256 << 10)}}),
                false,
                vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
            (
                json!({"name": "a", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1", "controller": true},
                {"apiVersion": "a/b/c", "kind": "", "name": "p", "uid": "1"}]}),
                false,
                vec![
                    "metadata.ownerReferences.apiVersion: Invalid value: \"a/b/c\": version must not be empty",
                    "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty",
                ],
            ),
        ] {
            assert_eq!(
                texts(validate_object_meta(&meta, namespaced, dns1123_subdomain, &path)),
                want,
                "{meta}"
            );
        }
    }

    #[test]
    fn metadata_of_updates_is_checked() {
        let old = json!({"name": "a", "uid": "1", "resourceVersion": "5", "generation": 3,
            "deletionTimestamp": "2026-11-21T09:00:00Z", "finalizers": ["x/y"]});
        let path = Path::new("metadata");
        assert_eq!(texts(validate_object_meta_update(&old, &old, &path)), [""; 0]);
        let new = json!({"name": "b", "uid": "2", "generation": 2, "finalizers": ["x/y", "x/z"]});
        assert_eq!(
            texts(validate_object_meta_update(&new, &old, &path)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/z\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 2: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }

    #[test]
    fn label_selectors_are_checked() {
        let path = Path::new("s");
        let fine = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["b"]}, {"key": "a", "operator": "Exists"}]});
        assert_eq!(texts(validate_label_selector(&fine, &path)), [""; 0]);
        assert_eq!(texts(validate_label_selector(&Value::Null, &path)), [""; 0]);
        let wrong = json!({"matchExpressions": [{"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["b"]}, {"key": "a", "operator": "Gt", "values": ["1"]}]});
        assert_eq!(
            texts(validate_label_selector(&wrong, &path)),
            [
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "s.matchExpressions[2].operator: Invalid value: \"Gt\": not a valid selector operator",
            ]
        );
    }
}
