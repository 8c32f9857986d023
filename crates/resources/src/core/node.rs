//! Nodes (core/v1): pkg/registry/core/node.

use super::resource;
use crate::util::value::{at, flag, keep_at, list, object, sub, text};
use crate::util::{Errs, Items, Pairs, Text, cells, ip};
use knarr_api::core::v1::{Node, Taint};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::SystemTime;

struct Nodes;

impl Strategy for Nodes {
    type Object = Node;

    fn default(&self, obj: &mut Value) {
        if let Some(status) = sub(object(obj), "status")
            && let Some(capacity) = status.get("capacity").cloned()
        {
            status.entry("allocatable").or_insert(capacity);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        if let Some(spec) = sub(object(obj), "spec") {
            spec.remove("configSource");
        }
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        if at(old, &["spec", "configSource"]).is_none() {
            keep_at(new, old, &["spec", "configSource"]);
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &Node) -> ErrorList {
        let mut errs = ErrorList::default();
        let metadata = Path::new("metadata");
        let spec = obj.spec.as_ref();
        let taints = spec.map(|s| s.taints.items()).unwrap_or_default();
        errs.extend(validate_taints(taints, &metadata.child("taints")));
        errs.extend(validate_resources(obj));
        errs.extend(validate_declared_features(obj));
        let cidrs = spec.map(|s| s.pod_cidrs.items()).unwrap_or_default();
        let path = Path::new("spec").child("podCIDRs");
        for (i, cidr) in cidrs.iter().enumerate() {
            errs.extend(ip::validate_cidr_legacy(&path.index(i), cidr, &[]));
        }
        if cidrs.len() > 1 {
            let families: BTreeSet<bool> =
                cidrs.iter().filter_map(|c| ip::Cidr::parse(c)).map(|c| c.network.is_ipv4()).collect();
            if families.len() != 2 || cidrs.len() > 2 {
                errs.add_invalid(&path, cidrs, "may specify no more than one CIDR for each IP family");
            }
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &Node, old: &Node) -> ErrorList {
        let mut errs = self.validate(cx, new);
        errs.extend(validate_changes(new, old));
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &Node, old: &Node) -> ErrorList {
        validate_changes(new, old)
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn validate_resources(node: &Node) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(status) = &node.status else { return errs };
    for (field, resources) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (name, value) in resources.pairs() {
            let path = Path::new("status").child(field).child(name.to_owned());
            errs.extend(resource::validate_value(&path, name, value));
        }
    }
    errs
}

fn validate_declared_features(node: &Node) -> ErrorList {
    let mut errs = ErrorList::default();
    let features = node.status.as_ref().map(|s| s.declared_features.items()).unwrap_or_default();
    let path = Path::new("status").child("declaredFeatures");
    for (i, feature) in features.iter().enumerate() {
        if let Some(previous) = i.checked_sub(1).map(|p| &features[p]) {
            if previous == feature {
                errs.add_duplicate(&path.index(i), feature);
            } else if previous > feature {
                errs.add_invalid(&path.index(i), feature, "list must be sorted alphabetically");
            }
        }
    }
    errs
}

fn validate_changes(new: &Node, old: &Node) -> ErrorList {
    let mut errs = ErrorList::default();
    errs.extend(validate_resources(new));
    errs.extend(validate_declared_features(new));
    let addresses = new.status.as_ref().map(|s| s.addresses.items()).unwrap_or_default();
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            let value = serde_json::json!({"type": address.type_, "address": address.address});
            errs.add_duplicate(&Path::new("status").child("addresses").index(i), value);
        }
    }
    let (new_spec, old_spec) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let old_cidrs = old_spec.pod_cidrs.items();
    if !old_cidrs.is_empty() {
        let path = Path::new("spec").child("podCIDRs");
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        let new_cidrs = new_spec.pod_cidrs.items();
        if old_cidrs.len() != new_cidrs.len() {
            errs.add_forbidden(&path, detail);
        } else {
            for _ in old_cidrs.iter().zip(new_cidrs).filter(|(o, n)| o != n) {
                errs.add_forbidden(&path, detail);
            }
        }
    }
    if !old_spec.provider_id.text().is_empty() && old_spec.provider_id != new_spec.provider_id {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errs.add_forbidden(&Path::new("spec").child("providerID"), detail);
    }
    errs.extend(validate_taints(new_spec.taints.items(), &Path::new("metadata").child("taints")));
    if new_spec.external_id.text() != old_spec.external_id.text() {
        errs.add_forbidden(&Path::new("spec").child("externalID"), "may not be updated");
    }
    errs
}

fn validate_taints(taints: &[Taint], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        errs.add_all(&path.child("key"), &taint.key, validate::qualified_name(&taint.key));
        let value = validate::label_value(taint.value.text());
        if !value.is_empty() {
            errs.add_invalid(&path.child("value"), taint.value.text(), value.join(";"));
        }
        validate_taint_effect(&mut errs, &taint.effect, &path.child("effect"));
        if taints[..i].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            errs.add_duplicate_because(
                &path,
                taint_value(taint),
                "taints must be unique by key and effect pair",
            );
        }
    }
    errs
}

fn taint_value(taint: &Taint) -> Value {
    let mut value = serde_json::json!({"key": taint.key, "effect": taint.effect});
    if !taint.value.text().is_empty() {
        value["value"] = taint.value.text().into();
    }
    value
}

/// Errors of a taint's (or a toleration's non-empty) effect.
pub fn validate_taint_effect(errs: &mut ErrorList, effect: &str, path: &Path) {
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if effect.is_empty() {
        errs.add_required(path, "");
    } else if !EFFECTS.contains(&effect) {
        errs.add_not_supported(path, effect, EFFECTS);
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let ready = list(obj, &["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Ready");
    let mut status = match ready.map(|c| text(c, &["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if flag(obj, &["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = list(obj, &["status", "addresses"]).iter().find(|a| text(a, &["type"]) == kind);
        cells::or_none(found.map(|a| text(a, &["address"])).unwrap_or_default())
    };
    let info = |field: &str| {
        let value = text(obj, &["status", "nodeInfo", field]);
        Value::from(if value.is_empty() { "<unknown>" } else { value })
    };
    let mut kernel = info("kernelVersion").as_str().unwrap_or_default().to_owned();
    let arch = text(obj, &["status", "nodeInfo", "architecture"]);
    if !arch.is_empty() {
        kernel = format!("{kernel} ({arch})");
    }
    vec![
        cells::name(obj),
        status.into(),
        cells::or_none(roles(obj)),
        cells::age(obj, now),
        text(obj, &["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        kernel.into(),
        info("containerRuntimeVersion"),
    ]
}

fn roles(obj: &Value) -> String {
    let roles: BTreeSet<&str> = obj["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()),
            _ => None,
        })
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

/// The declaration. `nodes/proxy` is served by the front half.
pub fn def() -> ResourceDef {
    ResourceDef::new(Nodes)
        .status()
        .cells(cells)
        .selectable(&[("spec.unschedulable", &["spec", "unschedulable"], "false")])
        .fixture(include_str!("testdata/node.yaml"))
}
