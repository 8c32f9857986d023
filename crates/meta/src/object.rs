//! Reading and writing an object's metadata while it is a plain JSON value.
//!
//! Readers answer with nothing (empty text, empty list, none) for whatever is missing or has another type.

use serde_json::{Map, Value};

/// The value at a path of fields; none where it is missing.
pub fn get_path<'a>(obj: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(obj, |value, step| value.get(step))
}

/// The value at a path of fields, to be changed; none where it is missing.
pub fn get_path_mut<'a>(obj: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(obj, |value, step| value.get_mut(step))
}

/// The text at a path of fields; empty where it is missing.
pub fn get_str<'a>(obj: &'a Value, path: &[&str]) -> &'a str {
    get_path(obj, path).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a path of fields.
pub fn get_i64(obj: &Value, path: &[&str]) -> Option<i64> {
    get_path(obj, path).and_then(Value::as_i64)
}

/// Sets the value at a path of fields, making objects on the way (whatever else stood there goes).
pub fn set_path(obj: &mut Value, path: &[&str], new: Value) {
    let mut at = obj;
    for step in path {
        at = as_map(at).entry(*step).or_insert(Value::Null);
    }
    *at = new;
}

/// Removes the value at a path of fields and hands it back.
pub fn remove_path(obj: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    get_path_mut(obj, parents)?.as_object_mut()?.remove(*last)
}

/// The map inside a value; anything else is replaced by an empty one.
fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made an object")
}

/// `metadata`, if there is one.
pub fn metadata(obj: &Value) -> Option<&Map<String, Value>> {
    obj.get("metadata").and_then(Value::as_object)
}

/// `metadata`, made if there is none.
pub fn metadata_mut(obj: &mut Value) -> &mut Map<String, Value> {
    as_map(as_map(obj).entry("metadata").or_insert(Value::Null))
}

fn meta_str<'a>(obj: &'a Value, name: &str) -> &'a str {
    metadata(obj).and_then(|meta| meta.get(name)).and_then(Value::as_str).unwrap_or_default()
}

fn set_meta_str(obj: &mut Value, name: &str, text: &str) {
    if text.is_empty() {
        if let Some(meta) = obj.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove(name);
        }
    } else {
        metadata_mut(obj).insert(name.to_owned(), text.into());
    }
}

macro_rules! text_accessors {
    ($($get:ident $set:ident $name:literal;)*) => {$(
        #[doc = concat!("`metadata.", $name, "`; empty if there is none.")]
        pub fn $get(obj: &Value) -> &str { meta_str(obj, $name) }

        #[doc = concat!("Sets `metadata.", $name, "`; an empty text removes it.")]
        pub fn $set(obj: &mut Value, text: &str) { set_meta_str(obj, $name, text) }
    )*};
}

text_accessors! {
    name set_name "name";
    generate_name set_generate_name "generateName";
    namespace set_namespace "namespace";
    uid set_uid "uid";
    resource_version set_resource_version "resourceVersion";
    creation_timestamp set_creation_timestamp "creationTimestamp";
    deletion_timestamp set_deletion_timestamp "deletionTimestamp";
}

/// `kind`.
pub fn kind(obj: &Value) -> &str {
    get_str(obj, &["kind"])
}

/// `apiVersion`.
pub fn api_version(obj: &Value) -> &str {
    get_str(obj, &["apiVersion"])
}

/// Sets `apiVersion` and `kind`.
pub fn set_type(obj: &mut Value, api_version: &str, kind: &str) {
    let map = as_map(obj);
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
}

/// Whether the object is being deleted.
pub fn is_deleting(obj: &Value) -> bool {
    !deletion_timestamp(obj).is_empty()
}

/// `metadata.generation`; 0 if there is none.
pub fn generation(obj: &Value) -> i64 {
    get_i64(obj, &["metadata", "generation"]).unwrap_or(0)
}

/// Sets `metadata.generation`; 0 removes it.
pub fn set_generation(obj: &mut Value, generation: i64) {
    if generation == 0 {
        remove_path(obj, &["metadata", "generation"]);
    } else {
        metadata_mut(obj).insert("generation".into(), generation.into());
    }
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(obj: &Value) -> Option<i64> {
    get_i64(obj, &["metadata", "deletionGracePeriodSeconds"])
}

/// Sets `metadata.deletionGracePeriodSeconds`; none removes it.
pub fn set_deletion_grace_period_seconds(obj: &mut Value, seconds: Option<i64>) {
    match seconds {
        None => {
            remove_path(obj, &["metadata", "deletionGracePeriodSeconds"]);
        }
        Some(seconds) => {
            metadata_mut(obj).insert("deletionGracePeriodSeconds".into(), seconds.into());
        }
    }
}

/// `metadata.labels`.
pub fn labels(obj: &Value) -> Option<&Map<String, Value>> {
    metadata(obj).and_then(|meta| meta.get("labels")).and_then(Value::as_object)
}

/// One label.
pub fn label<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    labels(obj).and_then(|labels| labels.get(key)).and_then(Value::as_str)
}

/// Sets one label.
pub fn set_label(obj: &mut Value, key: &str, value: &str) {
    as_map(metadata_mut(obj).entry("labels").or_insert(Value::Null)).insert(key.to_owned(), value.into());
}

/// `metadata.annotations`.
pub fn annotations(obj: &Value) -> Option<&Map<String, Value>> {
    metadata(obj).and_then(|meta| meta.get("annotations")).and_then(Value::as_object)
}

/// One annotation.
pub fn annotation<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    annotations(obj).and_then(|annotations| annotations.get(key)).and_then(Value::as_str)
}

/// Sets one annotation.
pub fn set_annotation(obj: &mut Value, key: &str, value: &str) {
    as_map(metadata_mut(obj).entry("annotations").or_insert(Value::Null))
        .insert(key.to_owned(), value.into());
}

/// Removes one annotation, and the map when it was the last.
pub fn remove_annotation(obj: &mut Value, key: &str) -> Option<Value> {
    let removed = get_path_mut(obj, &["metadata", "annotations"])?.as_object_mut()?.remove(key);
    if annotations(obj).is_some_and(Map::is_empty) {
        remove_path(obj, &["metadata", "annotations"]);
    }
    removed
}

/// `metadata.ownerReferences`.
pub fn owner_refs(obj: &Value) -> &[Value] {
    metadata(obj)
        .and_then(|meta| meta.get("ownerReferences"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Sets `metadata.ownerReferences`; an empty list removes it.
pub fn set_owner_refs(obj: &mut Value, refs: Vec<Value>) {
    set_list(obj, "ownerReferences", refs);
}

/// The owner reference with `controller: true`.
pub fn controller_of(obj: &Value) -> Option<&Value> {
    owner_refs(obj).iter().find(|owner| owner["controller"] == true)
}

/// `metadata.finalizers`.
pub fn finalizers(obj: &Value) -> Vec<&str> {
    metadata(obj)
        .and_then(|meta| meta.get("finalizers"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether `metadata.finalizers` has an entry.
pub fn has_finalizer(obj: &Value, finalizer: &str) -> bool {
    get_path(obj, &["metadata", "finalizers"])
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().any(|entry| entry == finalizer))
}

/// Sets `metadata.finalizers`; an empty list removes it.
pub fn set_finalizers(obj: &mut Value, finalizers: impl IntoIterator<Item = impl Into<String>>) {
    set_list(obj, "finalizers", finalizers.into_iter().map(|name| Value::String(name.into())).collect());
}

/// `metadata.managedFields`.
pub fn managed_fields(obj: &Value) -> &[Value] {
    metadata(obj)
        .and_then(|meta| meta.get("managedFields"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Sets `metadata.managedFields`; an empty list removes it.
pub fn set_managed_fields(obj: &mut Value, entries: Vec<Value>) {
    set_list(obj, "managedFields", entries);
}

fn set_list(obj: &mut Value, name: &str, list: Vec<Value>) {
    if !list.is_empty() {
        metadata_mut(obj).insert(name.to_owned(), Value::Array(list));
    } else if let Some(meta) = obj.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_reads_as_nothing() {
        for obj in [
            json!({}),
            json!(null),
            json!({"metadata": 5}),
            json!({"metadata": {"name": 1, "finalizers": {}}}),
        ] {
            assert_eq!((name(&obj), generation(&obj)), ("", 0));
            assert!(finalizers(&obj).is_empty() && owner_refs(&obj).is_empty() && labels(&obj).is_none());
        }
    }

    #[test]
    fn metadata_is_written_and_removed() {
        let mut obj = json!({});
        set_name(&mut obj, "a");
        set_label(&mut obj, "x", "y");
        set_annotation(&mut obj, "p", "q");
        set_finalizers(&mut obj, ["f"]);
        set_generation(&mut obj, 2);
        set_path(&mut obj, &["spec", "replicas"], json!(3));
        assert_eq!(
            obj,
            json!({"metadata": {"name": "a", "labels": {"x": "y"}, "annotations": {"p": "q"}, "finalizers": ["f"],
                "generation": 2}, "spec": {"replicas": 3}})
        );
        assert!(has_finalizer(&obj, "f") && label(&obj, "x") == Some("y"));
        remove_annotation(&mut obj, "p");
        set_finalizers(&mut obj, [] as [&str; 0]);
        set_generation(&mut obj, 0);
        set_uid(&mut obj, "");
        assert_eq!(remove_path(&mut obj, &["spec", "replicas"]), Some(json!(3)));
        assert_eq!(obj, json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {}}));
    }
}
