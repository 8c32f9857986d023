//! `pods/ephemeralcontainers` (KEP-277) and `pods/resize` (KEP-1287): views on the whole pod that may change
//! one part of it.

use crate::util::value::{keep, keep_at, list, object, text};
use knarr_apiserver::def::{SubKind, Subresource};
use knarr_apiserver::request::RequestCx;
use serde_json::{Value, json};

/// The `ephemeralcontainers` subresource.
pub fn ephemeral_containers() -> Subresource {
    Subresource {
        name: "ephemeralcontainers",
        kind: ("", "v1", "Pod"),
        verbs: &["get", "patch", "update"],
        serve: SubKind::Partial(prepare_ephemeral_containers),
    }
}

/// The `resize` subresource.
pub fn resize() -> Subresource {
    Subresource {
        name: "resize",
        kind: ("", "v1", "Pod"),
        verbs: &["get", "patch", "update"],
        serve: SubKind::Partial(prepare_resize),
    }
}

/// What a subresource does not change of the metadata (ResetObjectMetaForStatus).
fn keep_metadata(new: &mut Value, old: &Value) {
    for field in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        keep_at(new, old, &["metadata", field]);
    }
}

fn bump_generation(new: &mut Value, old: &Value) {
    if new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

fn prepare_ephemeral_containers(_cx: &RequestCx, new: &mut Value, old: &Value) {
    let wanted = new["spec"]["ephemeralContainers"].clone();
    keep(new, old, "spec");
    keep(new, old, "status");
    keep_metadata(new, old);
    if let Some(spec) = object(new).get_mut("spec").and_then(Value::as_object_mut) {
        match wanted {
            Value::Null => spec.remove("ephemeralContainers"),
            wanted => spec.insert("ephemeralContainers".to_owned(), wanted),
        };
    }
    bump_generation(new, old);
}

fn prepare_resize(_cx: &RequestCx, new: &mut Value, old: &Value) {
    let (containers, init) = (["spec", "containers"], ["spec", "initContainers"]);
    let same_names = |path: &[&str]| {
        let (new, old) = (list(new, path), list(old, path));
        new.len() == old.len() && new.iter().zip(old).all(|(n, o)| text(n, &["name"]) == text(o, &["name"]))
    };
    // Added, removed or renamed containers are left in for validation to refuse.
    if !same_names(&containers) || !same_names(&init) {
        return;
    }
    let wanted: Vec<(Value, Value)> = list(new, &init)
        .iter()
        .chain(list(new, &containers))
        .map(|c| (c["resources"].clone(), c["resizePolicy"].clone()))
        .collect();
    let pod_resources = new["spec"]["resources"].clone();
    keep(new, old, "spec");
    keep(new, old, "status");
    keep_metadata(new, old);
    let mut wanted = wanted.into_iter();
    for field in ["initContainers", "containers"] {
        let Some(Value::Array(list)) = new["spec"].get_mut(field) else { continue };
        for (container, (resources, policy)) in list.iter_mut().zip(&mut wanted) {
            let container = object(container);
            container.insert("resources".to_owned(), if resources.is_null() { json!({}) } else { resources });
            match policy {
                Value::Null => container.remove("resizePolicy"),
                policy => container.insert("resizePolicy".to_owned(), policy),
            };
        }
    }
    if let Some(spec) = object(new).get_mut("spec").and_then(Value::as_object_mut) {
        match pod_resources {
            Value::Null => spec.remove("resources"),
            resources => spec.insert("resources".to_owned(), resources),
        };
    }
    bump_generation(new, old);
}
