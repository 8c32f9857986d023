//! Validation of resource.k8s.io (pkg/apis/resource/validation): lists and sets with limits, names, taints and what
//! else the kinds of the group share.

pub mod allocation;
pub mod claim;
pub mod device;
pub mod policy;
pub mod selector;

use crate::core::pod::validation::volumes::csi_driver_name;
use crate::util::{Errs, Items, Text};
use knarr_api::RawExtension;
use knarr_api::resource::v1::{DeviceTaint, DeviceToleration};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::{go, validate};
use serde::Serialize;
use serde_json::Value;

const MAX_POOL_NAME: usize = 253;
const MAX_BINDING_CONDITIONS: usize = 4;
/// The longest domain and identifier of an attribute's name, and both with a slash.
const MAX_ID: usize = 32;
const MAX_QUALIFIED_NAME: usize = 63 + 1 + MAX_ID;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Errors of a list: of its length alone if there are too many items, else of each item.
pub fn each_of<T>(
    errs: &mut ErrorList,
    items: &[T],
    max: Option<usize>,
    path: &Path,
    mut check: impl FnMut(&mut ErrorList, &T, &Path),
) {
    if let Some(max) = max.filter(|max| items.len() > *max) {
        errs.add_too_many(path, items.len(), max);
        return;
    }
    for (i, item) in items.iter().enumerate() {
        check(errs, item, &path.index(i));
    }
}

/// The same for a list without duplicates.
pub fn set_of<T, K: PartialEq + Serialize>(
    errs: &mut ErrorList,
    items: &[T],
    max: Option<usize>,
    path: &Path,
    key: impl Fn(&T) -> K,
    check: impl FnMut(&mut ErrorList, &T, &Path),
) {
    each_of(errs, items, max, path, check);
    if max.is_some_and(|max| items.len() > max) {
        return;
    }
    let keys: Vec<K> = items.iter().map(key).collect();
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errs.add_duplicate(&path.index(i), key);
        }
    }
}

/// A map's key in a path, shortened in its middle as upstream does.
pub fn key_path(path: &Path, key: &str, max: usize) -> Path {
    let max = max.max(16);
    if key.len() <= max {
        return path.key(key);
    }
    let left = max - 3;
    let (head, tail) = (key.get(..left.div_ceil(2)), key.get(key.len() - left / 2..));
    path.key(format!("{}...{}", head.unwrap_or_default(), tail.unwrap_or_default()))
}

/// Errors of a label: requests, devices, counters.
pub fn label(errs: &mut ErrorList, name: &str, path: &Path) {
    errs.add_all(path, name, validate::dns1123_label(name));
}

/// Errors of a driver's name.
pub fn driver_name(errs: &mut ErrorList, name: &str, path: &Path) {
    csi_driver_name(errs, name, path);
}

/// Errors of a pool's name.
pub fn pool_name(errs: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errs.add_required(path, "");
        return;
    }
    if name.len() > MAX_POOL_NAME {
        errs.add_too_long(path, MAX_POOL_NAME);
    }
    for part in name.split('/') {
        errs.add_all(path, part, validate::dns1123_subdomain(part));
    }
}

/// Errors of a name that may have a domain before a slash.
pub fn qualified_name(errs: &mut ErrorList, name: &str, path: &Path) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => identifier(errs, id, path),
        [domain, id] => {
            if domain.is_empty() {
                errs.add_invalid(path, "", "the domain must not be empty");
            } else {
                driver_name(errs, domain, path);
            }
            if id.is_empty() {
                errs.add_invalid(path, "", "the name must not be empty");
            } else {
                identifier(errs, id, path);
            }
        }
        // Upstream lets names with more slashes pass.
        _ => {}
    }
}

/// Errors of a name that must have a domain.
pub fn fully_qualified_name(errs: &mut ErrorList, name: &str, path: &Path) {
    qualified_name(errs, name, path);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errs.add_invalid(path, name, detail);
    }
}

fn identifier(errs: &mut ErrorList, id: &str, path: &Path) {
    if id.len() > MAX_ID {
        errs.add_too_long(path, MAX_ID);
    }
    errs.add_all(path, id, validate::c_identifier(id));
}

/// Errors of a UID, in the words of the library that upstream parses it with.
pub fn uid(errs: &mut ErrorList, uid: &str, path: &Path) {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let dashed = |text: &str| {
        let parts: Vec<&str> = text.split('-').collect();
        parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|p| hex(p))
    };
    let invalid = || "invalid UUID format".to_owned();
    let problem = match uid.len() {
        36 => (!dashed(uid)).then(invalid),
        45 if !uid.get(..9).is_some_and(|p| p.eq_ignore_ascii_case("urn:uuid:")) => {
            Some(format!("invalid urn prefix: {}", go::quote(uid.get(..9).unwrap_or_default())))
        }
        38 if !(uid.starts_with('{') && uid.ends_with('}')) => {
            Some("invalid bracketed UUID format".to_owned())
        }
        32 => (!hex(uid)).then(invalid),
        // Upstream looks at the length before it cuts prefix or brackets off, so nothing more is found.
        45 | 38 => {
            let inner = if uid.len() == 45 { uid.get(9..) } else { uid.get(1..37) };
            (!inner.is_some_and(dashed)).then(invalid)
        }
        len => Some(format!("invalid UUID length: {len}")),
    };
    match problem {
        Some(problem) => errs.add_invalid(path, uid, format!("error validating uid: {problem}")),
        None if uid.len() != 36 || uid != uid.to_ascii_lowercase() => {
            let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
            errs.add_invalid(path, uid, detail);
        }
        None => {}
    }
}

/// Errors of parameters that only a driver understands; `kept` ones may be larger than is allowed now.
pub fn raw_extension(errs: &mut ErrorList, raw: &RawExtension, max: usize, path: &Path, kept: bool) {
    let size = serde_json::to_string(&raw.0).map_or(0, |text| text.len());
    match &raw.0 {
        Value::Null => errs.add_required(path, ""),
        _ if !kept && size > max => errs.add_too_long(path, max),
        Value::Object(_) => {}
        _ => errs.add_invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

/// Errors of a taint.
pub fn taint(errs: &mut ErrorList, taint: &DeviceTaint, path: &Path) {
    errs.add_all(&path.child("key"), &taint.key, validate::qualified_name(&taint.key));
    let value = taint.value.text();
    if !value.is_empty() {
        errs.add_all(&path.child("value"), value, validate::label_value(value));
    }
    if taint.effect.is_empty() {
        errs.add_required(&path.child("effect"), "");
    } else {
        effect(errs, &taint.effect, path);
    }
}

fn effect(errs: &mut ErrorList, effect: &str, path: &Path) {
    if !EFFECTS.contains(&effect) {
        errs.add_not_supported(&path.child("effect"), effect, EFFECTS);
    }
}

/// Errors of a toleration.
pub fn toleration(errs: &mut ErrorList, toleration: &DeviceToleration, path: &Path) {
    let (key, value) = (toleration.key.text(), toleration.value.text());
    if !key.is_empty() {
        errs.add_all(&path.child("key"), key, validate::qualified_name(key));
    }
    let at = path.child("value");
    match toleration.operator.text() {
        "Exists" if !value.is_empty() => {
            errs.add_invalid(&at, value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => errs.add_all(&at, value, validate::label_value(value)),
        "" => errs.add_required(&path.child("operator"), ""),
        other => errs.add_not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    if !toleration.effect.text().is_empty() {
        effect(errs, toleration.effect.text(), path);
    }
}

/// Errors of the conditions that a device is to have before a pod is bound, and of those that end the waiting.
pub fn binding_conditions(
    errs: &mut ErrorList,
    wanted: &Option<Vec<String>>,
    failures: &Option<Vec<String>>,
    path: &Path,
) {
    let at = [path.child("bindingConditions"), path.child("bindingFailureConditions")];
    let lists = [wanted.items(), failures.items()];
    for (list, at) in lists.iter().zip(&at) {
        each_of(errs, list, Some(MAX_BINDING_CONDITIONS), at, |errs, name, path| {
            errs.add_all(path, name, validate::qualified_name(name));
        });
    }
    for (list, at) in lists.iter().zip(&at) {
        for (i, name) in list.iter().enumerate() {
            if list[..i].contains(name) {
                errs.add_duplicate(&at.index(i), name);
            }
        }
    }
    for (i, name) in lists[1].iter().enumerate() {
        if lists[0].contains(name) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errs.add_invalid(&at[1].index(i), name, detail);
        }
    }
    if lists[0].is_empty() && !lists[1].is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errs.add_invalid(&at[0], wanted, detail);
    }
    if lists[1].is_empty() && !lists[0].is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errs.add_invalid(&at[1], failures, detail);
    }
}
