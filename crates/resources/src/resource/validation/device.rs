//! Errors of the devices in a slice and of the counters they share.

use super::policy::request_policy;
use super::{
    MAX_QUALIFIED_NAME, binding_conditions, each_of, key_path, label, qualified_name, set_of, taint,
};
use crate::core::pod::validation::scheduling::node_selector;
use crate::util::{Errs, Flag, Items, Pairs};
use knarr_api::resource::v1::{Counter, CounterSet, Device, DeviceAttribute, DeviceCounterConsumption};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use std::collections::BTreeMap;

const MAX_ATTRIBUTES_AND_CAPACITIES: usize = 32;
const MAX_ATTRIBUTE_VALUES: usize = 48;
const MAX_VALUE: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_COUNTERS: usize = 32;
const PER_DEVICE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";

/// Errors of a device. One that the slice had before may keep its taints.
pub fn device(
    errs: &mut ErrorList,
    device: &Device,
    old: Option<&Device>,
    path: &Path,
    per_device_selection: bool,
) {
    label(errs, &device.name, &path.child("name"));
    let count = device.attributes.as_ref().map_or(0, BTreeMap::len)
        + device.capacity.as_ref().map_or(0, BTreeMap::len);
    if count > MAX_ATTRIBUTES_AND_CAPACITIES {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}"
        );
        errs.add_invalid(path, count, detail);
    }
    let values: usize = device.attributes.iter().flatten().map(|(_, attribute)| entries(attribute)).sum();
    if values > MAX_ATTRIBUTE_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MAX_ATTRIBUTE_VALUES}");
        errs.add_invalid(path, values, detail);
    }
    let at = path.child("attributes");
    for (name, value) in device.attributes.pairs() {
        qualified_name(errs, name, &at);
        attribute(errs, value, &key_path(&at, name, MAX_QUALIFIED_NAME));
    }
    let at = path.child("capacity");
    let shared = device.allow_multiple_allocations.on();
    for (name, capacity) in device.capacity.pairs() {
        qualified_name(errs, name, &at);
        let Some(policy) = &capacity.request_policy else { continue };
        let at = key_path(&at, name, MAX_QUALIFIED_NAME).child("requestPolicy");
        if shared {
            request_policy(errs, &capacity.value, policy, &at);
        } else {
            errs.add_forbidden(&at, "allowMultipleAllocations must be true");
        }
    }
    if old.is_none_or(|old| old.taints != device.taints) {
        each_of(errs, device.taints.items(), Some(MAX_TAINTS), &path.child("taints"), taint);
    }
    let at = path.child("consumesCounters");
    let key = |c: &DeviceCounterConsumption| c.counter_set.clone();
    set_of(errs, device.consumes_counters.items(), Some(MAX_CONSUMPTIONS), &at, key, |errs, c, path| {
        counters(errs, &c.counter_set, "counterSet", &c.counters, path);
    });
    if per_device_selection {
        selection(errs, device, path);
    } else if device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some() {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        errs.add_invalid(path, "null", detail);
    }
    binding_conditions(errs, &device.binding_conditions, &device.binding_failure_conditions, path);
}

/// Where a device can be used, said by the device itself.
fn selection(errs: &mut ErrorList, device: &Device, path: &Path) {
    let mut set = Vec::new();
    if let Some(name) = &device.node_name {
        let at = path.child("nodeName");
        if name.is_empty() {
            errs.add_invalid(&at, name, "must not be empty");
        } else {
            set.push("`nodeName`");
            errs.add_all(&at, name, validate::dns1123_subdomain(name));
        }
    }
    if let Some(selector) = &device.node_selector {
        set.push("`nodeSelector`");
        errs.extend(node_selector(selector, &path.child("nodeSelector")));
    }
    match device.all_nodes {
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            errs.add_invalid(&path.child("allNodes"), false, "must be either unset or set to true");
        }
        None => {}
    }
    match set.len() {
        0 => errs.add_required(path, PER_DEVICE),
        1 => {}
        _ => errs.add_invalid(path, format!("{{{}}}", set.join(", ")), PER_DEVICE),
    }
}

/// Errors of a set of counters.
pub fn counter_set(errs: &mut ErrorList, set: &CounterSet, path: &Path) {
    counters(errs, &set.name, "name", &set.counters, path);
}

fn counters(
    errs: &mut ErrorList,
    name: &str,
    field: &'static str,
    counters: &BTreeMap<String, Counter>,
    path: &Path,
) {
    if name.is_empty() {
        errs.add_required(&path.child(field), "");
    } else {
        label(errs, name, &path.child(field));
    }
    let at = path.child("counters");
    match counters.len() {
        0 => errs.add_required(&at, ""),
        len if len > MAX_COUNTERS => errs.add_too_many(&at, len, MAX_COUNTERS),
        _ => counters.keys().for_each(|name| label(errs, name, &at)),
    }
}

/// How many values an attribute has.
fn entries(attribute: &DeviceAttribute) -> usize {
    let lists = attribute.bools.items().len()
        + attribute.ints.items().len()
        + attribute.strings.items().len()
        + attribute.versions.items().len();
    lists.max(1)
}

fn attribute(errs: &mut ErrorList, attribute: &DeviceAttribute, path: &Path) {
    if let Some(text) = &attribute.string {
        too_long(errs, text, &path.child("string"));
    }
    if let Some(text) = &attribute.version {
        let at = path.child("version");
        if !is_semantic_version(text) {
            errs.add_invalid(&at, text, "must be a string compatible with semver.org spec 2.0.0");
        }
        too_long(errs, text, &at);
    }
    let set = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
    ];
    match set.into_iter().filter(|set| *set).count() {
        0 => errs.add_invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errs.add_invalid(path, attribute, "exactly one value must be specified"),
    }
}

fn too_long(errs: &mut ErrorList, text: &str, path: &Path) {
    if text.len() > MAX_VALUE {
        errs.add_too_long(path, MAX_VALUE);
    }
}

/// Whether the text is a version by semver.org 2.0.0.
fn is_semantic_version(text: &str) -> bool {
    let numeric = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let core: Vec<&str> = core.split('.').collect();
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    core.len() == 3
        && core.iter().all(|part| numeric(part))
        && pre.is_none_or(|pre| pre.split('.').all(|p| word(p) && (!digits(p) || numeric(p))))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_semver() {
        for (text, valid) in [
            ("1.2.3", true),
            ("0.0.0", true),
            ("1.2.3-alpha.1+build.007", true),
            ("1.2.3+x-y", true),
            ("1.2.3--1", true),
            ("1.2", false),
            ("01.2.3", false),
            ("1.2.3-", false),
            ("1.2.3-01", false),
            ("1.2.3-01a", true),
            ("1.2.3+", false),
            ("v1.2.3", false),
        ] {
            assert_eq!(is_semantic_version(text), valid, "{text}");
        }
    }
}
