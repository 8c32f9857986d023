//! What a write leaves as it was: the parts of an object that the request is not about, and the metadata that
//! only the server sets.

use super::resource::Resource;
use super::write::Part;
use crate::request::RequestCx;
use knarr_meta::object;
use serde_json::Value;

/// Takes what the part may not change from the object as it was.
pub fn keep_other_parts(cx: &RequestCx, resource: &Resource, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Main if resource.has_status() => match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => {
                object::remove_path(new, &["status"]);
            }
        },
        Part::Status if resource.def.is_custom() => {
            // Not even metadata may be changed by way of the status; which version is meant still counts.
            let revision = object::resource_version(new).to_owned();
            let (api_version, kind) = (object::api_version(new).to_owned(), object::kind(new).to_owned());
            resource.hooks().prepare_for_status_update(cx, new, old);
            object::set_type(new, &api_version, &kind);
            object::set_resource_version(new, &revision);
        }
        Part::Status => {
            let (metadata, status) = (new["metadata"].take(), new.get_mut("status").map(Value::take));
            *new = old.clone();
            new["metadata"] = metadata;
            match status {
                Some(status) => new["status"] = status,
                None => {
                    object::remove_path(new, &["status"]);
                }
            }
        }
        Part::Main => {}
        Part::Partial(prepare) => prepare(cx, new, old),
    }
}

/// Fields of metadata that only the server sets.
pub fn wipe_system_fields(hub: &mut Value) {
    let metadata = object::metadata_mut(hub);
    for name in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(name);
    }
}

/// The same on an update: they stay what they were.
pub fn keep_system_fields(new: &mut Value, old: &Value) {
    let before = object::metadata(old).cloned().unwrap_or_default();
    let metadata = object::metadata_mut(new);
    metadata.remove("selfLink");
    if !metadata.contains_key("uid")
        && let Some(uid) = before.get("uid")
    {
        metadata.insert("uid".to_owned(), uid.clone());
    }
    for name in ["creationTimestamp", "deletionTimestamp"] {
        match before.get(name) {
            Some(value) if !value.is_null() => metadata.insert(name.to_owned(), value.clone()),
            _ if name == "deletionTimestamp" => metadata.remove(name),
            _ => None,
        };
    }
    if let Some(grace) = before.get("deletionGracePeriodSeconds")
        && !metadata.contains_key("deletionGracePeriodSeconds")
    {
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.clone());
    }
}

/// Whether anything but metadata and status differs.
pub fn spec_changed(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
    let counts =
        |(key, _): &(&String, &Value)| !matches!(key.as_str(), "metadata" | "status" | "kind" | "apiVersion");
    !new.iter().filter(counts).eq(old.iter().filter(counts))
}

/// An update that changes nothing but the times in managedFields is none: the old ones are put back.
pub fn keep_times(new: &mut Value, old: &Value) -> bool {
    let (before, now) = (object::managed_fields(old), object::managed_fields(new));
    if before == now || before.len() != now.len() {
        return false;
    }
    let timeless = |a: &Value, b: &Value| {
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
        let counts = |(key, _): &(&String, &Value)| key.as_str() != "time";
        a.iter().filter(counts).eq(b.iter().filter(counts))
    };
    if !before.iter().zip(now).all(|(a, b)| timeless(a, b)) {
        return false;
    }
    let same_elsewhere = {
        let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
        let rest = |(key, _): &(&String, &Value)| key.as_str() != "metadata";
        let meta = |(key, _): &(&String, &Value)| key.as_str() != "managedFields";
        new.iter().filter(rest).eq(old.iter().filter(rest))
            && match (
                new.get("metadata").and_then(Value::as_object),
                old.get("metadata").and_then(Value::as_object),
            ) {
                (Some(new), Some(old)) => new.iter().filter(meta).eq(old.iter().filter(meta)),
                _ => false,
            }
    };
    if same_elsewhere {
        object::set_managed_fields(new, before.to_vec());
    }
    same_elsewhere
}
