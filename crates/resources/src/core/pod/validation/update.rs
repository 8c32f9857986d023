//! What may change of a pod: ValidatePodUpdate, ValidatePodEphemeralContainersUpdate and ValidatePodResize.

use super::{MIRROR_ANNOTATION, metadata_and_spec};
use crate::core::pod::qos;
use crate::util::{Errs, Items, Number, Pairs, Text};
use knarr_api::Kind;
use knarr_api::Quantity;
use knarr_api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, Toleration};
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::collections::BTreeMap;

const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Errors of an ordinary update.
pub fn pod(new: &Pod, old: &Pod) -> ErrorList {
    let mut errs = metadata_and_spec(new);
    errs.extend(annotation_changes(new, old));
    let empty = PodSpec::default();
    let (new, old) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let path = Path::new("spec");
    let (new_init, old_init) = (new.init_containers.items(), old.init_containers.items());
    for (field, new, old) in
        [("containers", &new.containers[..], &old.containers[..]), ("initContainers", new_init, old_init)]
    {
        let path = path.child(field);
        if new.len() != old.len() {
            errs.add_forbidden(&path, "pod updates may not add or remove containers");
            return errs;
        }
        for (i, container) in new.iter().enumerate() {
            if container.image.text().is_empty() {
                errs.add_required(&path.index(i).child("image"), "");
            }
            super::containers::image_whitespace(&mut errs, container.image.text(), || path.index(i));
        }
    }
    let at = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errs.add_invalid(&at, new, format!("must be between 0 and {}, inclusive", i32::MAX));
            return errs;
        }
        (Some(new), Some(old)) if old < new => {
            errs.add_invalid(&at, new, "must be less than or equal to previous value");
            return errs;
        }
        (None, Some(_)) => {
            errs.add_invalid(&at, None::<i64>, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    errs.extend(only_added_tolerations(new.tolerations.items(), old.tolerations.items()));
    for (i, gate) in new.scheduling_gates.items().iter().enumerate() {
        if !old.scheduling_gates.items().iter().any(|o| o.name == gate.name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errs.add_forbidden(&path.child("schedulingGates").index(i).child("name"), detail);
        }
    }
    if new == old {
        return errs;
    }

    // What may change is taken from the old specification; what then still differs may not.
    let mut munged = new.clone();
    for (new, old) in munged.containers.iter_mut().zip(&old.containers) {
        new.image.clone_from(&old.image);
    }
    for (new, old) in munged.init_containers.iter_mut().flatten().zip(old_init) {
        new.image.clone_from(&old.image);
    }
    munged.active_deadline_seconds = old.active_deadline_seconds;
    munged.scheduling_gates.clone_from(&old.scheduling_gates);
    munged.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.number() < 0 && munged.termination_grace_period_seconds == Some(1)
    {
        munged.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !old.scheduling_gates.items().is_empty() {
        gated(&mut errs, &mut munged, old, &path);
    }
    if munged != *old {
        let diff = diff(&pod_value(&munged), &pod_value(old));
        errs.add_forbidden(
            &path,
            format!("pod updates may not change fields other than {UPDATABLE}\n{diff}"),
        );
    }
    errs
}

/// KEP-3838: while it is gated, a pod's node selection may be narrowed.
fn gated(errs: &mut ErrorList, munged: &mut PodSpec, old: &PodSpec, path: &Path) {
    if munged.node_selector != old.node_selector {
        if old.node_selector.pairs().any(|(k, v)| munged.node_selector.at(k) != Some(v)) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errs.add_invalid(&path.child("nodeSelector"), &munged.node_selector, detail);
        }
        munged.node_selector.clone_from(&old.node_selector);
    }
    let node_affinity = |spec: &PodSpec| spec.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let (new_affinity, old_affinity) = (node_affinity(munged), node_affinity(old));
    if new_affinity == old_affinity {
        return;
    }
    let terms = |affinity: &Option<knarr_api::core::v1::NodeAffinity>| {
        let required = affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
        Some(required.node_selector_terms.clone())
    };
    if let Some(old_terms) = terms(&old_affinity) {
        let new_terms = terms(&new_affinity).unwrap_or_default();
        let path = path
            .child("affinity")
            .child("nodeAffinity")
            .child("requiredDuringSchedulingIgnoredDuringExecution")
            .child("nodeSelectorTerms");
        if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
            let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
            errs.add_invalid(&path, serde_json::to_value(&new_terms).unwrap_or_default(), detail);
        } else {
            for (i, (new, old)) in new_terms.iter().zip(&old_terms).enumerate() {
                let (new_exprs, old_exprs) = (new.match_expressions.items(), old.match_expressions.items());
                let (new_fields, old_fields) = (new.match_fields.items(), old.match_fields.items());
                let nothing = old_exprs.is_empty() && old_fields.is_empty();
                let grows = new_exprs.starts_with(old_exprs) && new_fields.starts_with(old_fields);
                if !grows || (nothing && !(new_exprs.is_empty() && new_fields.is_empty())) {
                    let detail = "only additions are allowed (no mutations or deletions)";
                    errs.add_invalid(&path.index(i), serde_json::to_value(new).unwrap_or_default(), detail);
                }
            }
        }
    }
    match (&mut munged.affinity, &old.affinity) {
        (Some(new), Some(_)) => new.node_affinity = old_affinity,
        (Some(new), None) if new.pod_affinity.is_none() && new.pod_anti_affinity.is_none() => {
            munged.affinity = None;
        }
        (Some(new), None) => new.node_affinity = None,
        (None, _) => {
            let affinity = old_affinity.map(|node| knarr_api::core::v1::Affinity {
                node_affinity: Some(node),
                ..Default::default()
            });
            munged.affinity = affinity;
        }
    }
}

fn only_added_tolerations(new: &[Toleration], old: &[Toleration]) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec").child("tolerations");
    for old in old {
        let same = |n: &Toleration| {
            Toleration { toleration_seconds: None, ..n.clone() }
                == Toleration { toleration_seconds: None, ..old.clone() }
        };
        if !new.iter().any(same) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            errs.add_forbidden(&path, detail);
            return errs;
        }
    }
    errs.extend(super::scheduling::tolerations(new, &path));
    errs
}

/// Annotations that a pod keeps for life.
pub fn annotation_changes(new: &Pod, old: &Pod) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("metadata").child("annotations");
    let (new, old) = (&new.metadata.annotations, &old.metadata.annotations);
    let kept = |key: &str| {
        if key == MIRROR_ANNOTATION {
            Some("mirror pod annotation")
        } else {
            key.starts_with(APPARMOR_ANNOTATION).then_some("AppArmor annotations")
        }
    };
    for (key, value) in old.pairs() {
        if let Some(what) = kept(key)
            && new.at(key) != Some(value)
        {
            errs.add_forbidden(&path.key(key), format!("may not remove or update {what}"));
        }
    }
    for (key, _) in new.pairs() {
        if let Some(what) = kept(key)
            && old.at(key).is_none()
        {
            errs.add_forbidden(&path.key(key), format!("may not add {what}"));
        }
    }
    errs
}

/// Errors of an update by `ephemeralcontainers`.
pub fn ephemeral_containers(new: &Pod, old: &Pod) -> ErrorList {
    if old.metadata.annotations.at(MIRROR_ANNOTATION).is_some() {
        let mut errs = ErrorList::default();
        errs.add_forbidden(&Path::new(""), "static pods do not support ephemeral containers");
        return errs;
    }
    let mut errs = metadata_and_spec(new);
    errs.extend(annotation_changes(new, old));
    let list =
        |pod: &Pod| pod.spec.as_ref().map(|s| s.ephemeral_containers.items().to_vec()).unwrap_or_default();
    let new = list(new);
    let path = Path::new("spec").child("ephemeralContainers");
    for old in list(old) {
        match new.iter().find(|n| n.name == old.name) {
            None => {
                let detail = format!("existing ephemeral containers \"{}\" may not be removed\n", old.name);
                errs.add_forbidden(&path, detail);
            }
            Some(new) if *new != old => {
                let value = |c| serde_json::to_value(c).unwrap_or_default();
                let diff = diff(&value(new), &value(&old));
                let detail =
                    format!("existing ephemeral containers \"{}\" may not be changed\n{diff}", old.name);
                errs.add_forbidden(&path, detail);
            }
            Some(_) => {}
        }
    }
    errs
}

/// Errors of an update by `resize`.
pub fn resize(new: &Pod, old: &Pod) -> ErrorList {
    let mut errs = metadata_and_spec(new);
    let empty = PodSpec::default();
    let (new_spec, old_spec) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let refuse = |detail: &str| {
        let mut errs = ErrorList::default();
        errs.add_forbidden(&Path::new(""), detail);
        errs
    };
    if old.metadata.annotations.at(MIRROR_ANNOTATION).is_some() {
        return refuse("static pods cannot be resized");
    }
    if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return refuse("windows pods cannot be resized");
    }
    let path = Path::new("spec");
    let (new_value, old_value) = (new.to_value(), old.to_value());
    if qos::of(&old_value) != qos::compute(&new_value["spec"]) {
        let class = new.status.as_ref().map(|s| s.qos_class.text()).unwrap_or_default();
        errs.add_invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    let statuses = old.status.as_ref().map(|s| s.container_statuses.items()).unwrap_or_default();
    let running = statuses.iter().find(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
    if running.is_some_and(|s| s.resources.is_none()) {
        errs.add_forbidden(&path, "Pod running on node without support for resize");
    }
    let mut munged = new_spec.clone();
    pod_level(&mut errs, &mut munged, old_spec, &path);

    let mut reordered = false;
    let (new_init, old_init) = (new_spec.init_containers.items(), old_spec.init_containers.items());
    for (field, new, old) in [
        ("containers", &new_spec.containers[..], &old_spec.containers[..]),
        ("initContainers", new_init, old_init),
    ] {
        if new.len() != old.len() {
            reordered = true;
            errs.add_forbidden(&path.child(field), format!("{field} may not be added or removed on resize"));
        } else {
            for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (n, o))| n.name != o.name) {
                reordered = true;
                let detail = format!("{field} may not be renamed or reordered on resize");
                errs.add_forbidden(&path.child(field).index(i).child("name"), detail);
            }
        }
    }
    if reordered {
        return errs;
    }
    let sidecar = |c: &Container| c.restart_policy.text() == "Always";
    for (i, (new, old)) in new_init.iter().zip(old_init).enumerate() {
        removed(
            &mut errs,
            &new.resources,
            &old.resources,
            &path.child("initContainers").index(i).child("resources"),
        );
    }
    for (i, (new, old)) in new_spec.containers.iter().zip(&old_spec.containers).enumerate() {
        removed(
            &mut errs,
            &new.resources,
            &old.resources,
            &path.child("containers").index(i).child("resources"),
        );
    }
    for (new, old) in munged.containers.iter_mut().zip(&old_spec.containers) {
        new.resources = with_old_compute(&new.resources, &old.resources);
        if new != old {
            errs.add_forbidden(&path, "only cpu and memory resources are mutable");
        }
    }
    for (i, (new, old)) in munged.init_containers.iter_mut().flatten().zip(old_init).enumerate() {
        let modified = new != old;
        new.resources = with_old_compute(&new.resources, &old.resources);
        let path = path.child("initContainers").index(i);
        if new != old {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errs.add_forbidden(&path, detail);
        }
        let restarts = new.resize_policy.items().iter().filter(|p| p.restart_policy == "RestartContainer");
        for _ in restarts.filter(|_| modified && !sidecar(new)) {
            let detail =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errs.add_forbidden(&path, detail);
        }
    }
    if errs.is_empty() && munged != *old_spec {
        errs.add_forbidden(&path, "only cpu and memory resources are mutable");
    }
    errs
}

fn pod_level(errs: &mut ErrorList, munged: &mut PodSpec, old: &PodSpec, path: &Path) {
    let path_resources = path.child("resources");
    let (new, was) = (munged.resources.clone(), &old.resources);
    let (Some(new), was) = (new, was) else {
        if was.is_some() {
            errs.add_forbidden(&path_resources, "pod-level resources cannot be removed");
        }
        return;
    };
    if let Some(was) = was {
        for (field, what, new, was) in [
            ("requests", "pod-level resource requests cannot be removed", &new.requests, &was.requests),
            ("limits", "pod-level resource limits cannot be removed", &new.limits, &was.limits),
        ] {
            if was.pairs().any(|(name, _)| new.at(name).is_none()) {
                errs.add_forbidden(&path_resources.child(field), what);
            }
        }
    }
    let mut kept = with_old_compute(&Some(new), was);
    let is_empty = |r: &ResourceRequirements| {
        r.requests.pairs().next().is_none()
            && r.limits.pairs().next().is_none()
            && r.claims.items().is_empty()
    };
    if was.is_none() && kept.as_ref().is_some_and(is_empty) {
        kept = None;
    }
    if kept != *was {
        errs.add_forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
    munged.resources = kept;
}

fn removed(
    errs: &mut ErrorList,
    new: &Option<ResourceRequirements>,
    old: &Option<ResourceRequirements>,
    path: &Path,
) {
    let empty = ResourceRequirements::default();
    let (new, old) = (new.as_ref().unwrap_or(&empty), old.as_ref().unwrap_or(&empty));
    for (field, what, new, old) in [
        ("requests", "resource requests cannot be removed", &new.requests, &old.requests),
        ("limits", "resource limits cannot be removed", &new.limits, &old.limits),
    ] {
        if old.pairs().any(|(name, _)| new.at(name).is_none()) {
            errs.add_forbidden(&path.child(field), what);
        }
    }
}

/// The new requirements with the cpu and memory of the old ones.
fn with_old_compute(
    new: &Option<ResourceRequirements>,
    old: &Option<ResourceRequirements>,
) -> Option<ResourceRequirements> {
    let empty = ResourceRequirements::default();
    let (some_new, some_old) = (new.as_ref().unwrap_or(&empty), old.as_ref().unwrap_or(&empty));
    let merge = |new: &Option<BTreeMap<String, Quantity>>, old: &Option<BTreeMap<String, Quantity>>| {
        let mut map = new.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            match old.at(name) {
                Some(amount) => map.insert(name.to_owned(), amount.clone()),
                None => map.remove(name),
            };
        }
        (!map.is_empty()).then_some(map)
    };
    let merged = ResourceRequirements {
        limits: merge(&some_new.limits, &some_old.limits),
        requests: merge(&some_new.requests, &some_old.requests),
        claims: some_new.claims.clone(),
    };
    // An empty object and an absent one are the same to Go.
    if merged == empty && old.is_none() { None } else { Some(merged) }
}

fn pod_value(spec: &PodSpec) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

/// The lines in which two values differ, each with its path.
fn diff(new: &Value, old: &Value) -> String {
    fn walk(out: &mut String, path: &str, new: Option<&Value>, old: Option<&Value>) {
        match (new, old) {
            (a, b) if a == b => {}
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                for key in keys {
                    walk(out, &format!("{path}.{key}"), a.get(key), b.get(key));
                }
            }
            (Some(Value::Array(a)), Some(Value::Array(b))) => {
                for i in 0..a.len().max(b.len()) {
                    walk(out, &format!("{path}[{i}]"), a.get(i), b.get(i));
                }
            }
            (a, b) => {
                if let Some(b) = b {
                    out.push_str(&format!("- {path}: {b}\n"));
                }
                if let Some(a) = a {
                    out.push_str(&format!("+ {path}: {a}\n"));
                }
            }
        }
    }
    let mut out = String::new();
    walk(&mut out, "", Some(new), Some(old));
    out
}
