//! ResourceSlices (resource.k8s.io/v1): pkg/registry/resource/resourceslice. A driver's devices in one pool.

use super::validation::{device, driver_name, pool_name, set_of};
use crate::core::pod::validation::scheduling::node_selector;
use crate::util::value::{each, object, set_absent, sub, text};
use crate::util::{Errs, Flag, Items, cells};
use knarr_api::resource::v1::{Device, ResourcePool, ResourceSlice, ResourceSliceSpec};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::{go, time, validate};
use serde_json::Value;
use std::time::SystemTime;

const MAX_DEVICES: usize = 128;
/// Of devices with taints or shared counters.
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const ONE_OF: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

struct Slices;

impl Strategy for Slices {
    type Object = ResourceSlice;

    fn prepare_for_create(&self, cx: &RequestCx, obj: &mut Value) {
        prepare(cx, obj);
    }

    fn prepare_for_update(&self, cx: &RequestCx, new: &mut Value, _old: &Value) {
        prepare(cx, new);
    }

    fn validate(&self, _cx: &RequestCx, obj: &ResourceSlice) -> ErrorList {
        spec(&obj.spec, None)
    }

    fn validate_update(&self, _cx: &RequestCx, new: &ResourceSlice, old: &ResourceSlice) -> ErrorList {
        spec(&new.spec, Some(&old.spec))
    }

    fn warnings(&self, _cx: &RequestCx, new: &ResourceSlice, _old: Option<&ResourceSlice>) -> Vec<String> {
        let driver = &new.spec.driver;
        if *driver == driver.to_lowercase() {
            return Vec::new();
        }
        vec![format!(
            "spec.driver: driver names should be lowercase; {} contains uppercase characters",
            go::quote(driver)
        )]
    }
}

/// Takes out what is behind gates that are off (DRANodeAllocatableResources, DRAListTypeAttributes), and says since
/// when new taints are there (upstream does that among the defaults).
fn prepare(cx: &RequestCx, obj: &mut Value) {
    let Some(spec) = sub(object(obj), "spec") else { return };
    each(spec, "devices", |device| {
        device.remove("nodeAllocatableResourceMappings");
        for (_, attribute) in sub(device, "attributes").into_iter().flatten() {
            for list in ["bools", "ints", "strings", "versions"] {
                if let Some(attribute) = attribute.as_object_mut() {
                    attribute.remove(list);
                }
            }
        }
        each(device, "taints", |taint| {
            set_absent(taint, "timeAdded", time::rfc3339(cx.ctx.clock.now()));
        });
    });
}

fn spec(spec: &ResourceSliceSpec, old: Option<&ResourceSliceSpec>) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    driver_name(&mut errs, &spec.driver, &path.child("driver"));
    pool(&mut errs, &spec.pool, &path.child("pool"));
    if let Some(old) = old {
        errs.add_changed(&path.child("pool").child("name"), &spec.pool.name, &old.pool.name);
        errs.add_changed(&path.child("driver"), &spec.driver, &old.driver);
        errs.add_changed(&path.child("nodeName"), &spec.node_name, &old.node_name);
    }
    selection(&mut errs, spec, &path);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errs.add_invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = |d: &Device| !d.taints.items().is_empty() || !d.consumes_counters.items().is_empty();
    let devices = spec.devices.items();
    let max = if devices.iter().any(advanced) { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    let per_device = spec.per_device_node_selection.on();
    set_of(
        &mut errs,
        devices,
        Some(max),
        &path.child("devices"),
        |d| d.name.clone(),
        |errs, d, path| {
            let before = old.and_then(|old| old.devices.items().iter().find(|o| o.name == d.name));
            device::device(errs, d, before, path, per_device);
        },
    );
    let at = path.child("sharedCounters");
    let sets = spec.shared_counters.items();
    set_of(&mut errs, sets, Some(MAX_COUNTER_SETS), &at, |s| s.name.clone(), device::counter_set);
    errs
}

fn pool(errs: &mut ErrorList, pool: &ResourcePool, path: &Path) {
    pool_name(errs, &pool.name, &path.child("name"));
    if pool.resource_slice_count <= 0 {
        let at = path.child("resourceSliceCount");
        errs.add_invalid(&at, pool.resource_slice_count, "must be greater than zero");
    }
    if pool.generation < 0 {
        let at = path.child("generation");
        errs.add_invalid(&at, pool.generation, "must be greater than or equal to zero");
    }
}

/// Where the devices can be used.
fn selection(errs: &mut ErrorList, spec: &ResourceSliceSpec, path: &Path) {
    let mut set = Vec::new();
    if let Some(name) = &spec.node_name {
        let at = path.child("nodeName");
        if name.is_empty() {
            errs.add_invalid(&at, name, "must be either unset or set to a non-empty string");
        } else {
            set.push("`nodeName`");
            errs.add_all(&at, name, validate::dns1123_subdomain(name));
        }
    }
    if let Some(selector) = &spec.node_selector {
        set.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        errs.extend(node_selector(selector, &at));
        if selector.node_selector_terms.len() != 1 {
            let at = at.child("nodeSelectorTerms");
            let detail = "must have exactly one node selector term";
            errs.add_invalid(&at, &selector.node_selector_terms, detail);
        }
    }
    for (field, value, shown) in [
        ("allNodes", spec.all_nodes, "`allNodes`"),
        ("perDeviceNodeSelection", spec.per_device_node_selection, "`perDeviceNodeSelection`"),
    ] {
        match value {
            Some(true) => set.push(shown),
            Some(false) => {
                errs.add_invalid(&path.child(field), false, "must be either unset or set to true");
            }
            None => {}
        }
    }
    match set.len() {
        0 => errs.add_required(path, ONE_OF),
        1 => {}
        _ => {
            let detail = format!("{ONE_OF}, but multiple fields are set");
            errs.add_invalid(path, format!("{{{}}}", set.join(", ")), detail);
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![
        cells::name(obj),
        text(obj, &["spec", "nodeName"]).into(),
        text(obj, &["spec", "driver"]).into(),
        text(obj, &["spec", "pool", "name"]).into(),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Slices)
        .cells(cells)
        .selectable(&[("spec.nodeName", &["spec", "nodeName"], ""), ("spec.driver", &["spec", "driver"], "")])
        .fixture(include_str!("testdata/resourceslice.yaml"))
}
