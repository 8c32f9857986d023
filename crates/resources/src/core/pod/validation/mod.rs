//! Validation of pods and pod templates: pkg/apis/core/validation, in its order and words.

pub mod containers;
mod env;
mod network;
mod probes;
mod projected;
pub mod resources;
pub mod scheduling;
mod security;
pub mod status;
pub mod update;
pub mod volumes;

use crate::util::{Errs, Flag, Items, Number, Pairs, Text};
use knarr_api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodTemplateSpec};
use knarr_api::meta::v1::ObjectMeta;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use std::borrow::Cow;

/// The annotation that marks the API's copy of a static pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Errors of a new pod, without those of its metadata that every kind has.
pub fn create(pod: &Pod) -> ErrorList {
    let mut errs = metadata_and_spec(pod);
    let Some(spec) = &pod.spec else { return errs };
    let path = Path::new("spec");
    if !spec.ephemeral_containers.items().is_empty() {
        errs.add_forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.node_name.text().is_empty() && !spec.scheduling_gates.items().is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errs.add_forbidden(&path.child("nodeName"), detail);
    }
    errs.extend(security::annotations_match_fields(&pod.metadata, spec, &path));
    errs
}

/// Errors that a pod may have at any time.
pub fn metadata_and_spec(pod: &Pod) -> ErrorList {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let mut errs = annotations(&pod.metadata, spec, &Path::new("metadata").child("annotations"));
    errs.extend(pod_spec(spec, Some(&pod.metadata), &path, true));
    if spec.service_account_name.text().is_empty() {
        for (i, volume) in spec.volumes.items().iter().enumerate() {
            let Some(projected) = &volume.projected else { continue };
            for (j, source) in projected.sources.items().iter().enumerate() {
                if source.service_account_token.is_some() {
                    let sources = path.child("volumes").index(i).child("projected").child("sources");
                    let detail = "must not be specified when serviceAccountName is not set";
                    errs.add_forbidden(&sources.index(j).child("serviceAccountToken"), detail);
                }
            }
        }
    }
    for (field, containers) in
        [("containers", &spec.containers[..]), ("initContainers", spec.init_containers.items())]
    {
        for (i, container) in containers.iter().enumerate() {
            containers::image_whitespace(&mut errs, container.image.text(), || path.child(field).index(i));
        }
    }
    errs
}

/// Errors of a pod template.
pub fn template(template: &PodTemplateSpec, path: &Path) -> ErrorList {
    let (no_meta, no_spec) = (ObjectMeta::default(), PodSpec::default());
    let meta = template.metadata.as_ref().unwrap_or(&no_meta);
    let spec = template.spec.as_ref().unwrap_or(&no_spec);
    let mut errs = labels(meta, path);
    errs.extend(annotations(meta, spec, &path.child("annotations")));
    let spec_path = path.child("spec");
    errs.extend(pod_spec(spec, None, &spec_path, false));
    errs.extend(security::annotations_match_fields(meta, spec, &spec_path));
    if !spec.ephemeral_containers.items().is_empty() {
        let path = spec_path.child("ephemeralContainers");
        errs.add_forbidden(&path, "ephemeral containers not allowed in pod template");
    }
    errs
}

/// Errors of a template's labels and annotations.
fn labels(meta: &ObjectMeta, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    errs.extend(label_map(meta.labels.pairs(), &path.child("labels")));
    errs.extend(annotation_map(meta, &path.child("annotations")));
    errs
}

/// Errors of a map of labels.
pub fn label_map<'a>(labels: impl Iterator<Item = (&'a str, &'a String)>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (key, value) in labels {
        errs.add_all(path, key, validate::qualified_name(key));
        errs.add_all(path, value, validate::label_value(value));
    }
    errs
}

/// Errors of annotations that hold for all kinds.
pub fn annotation_map(meta: &ObjectMeta, path: &Path) -> ErrorList {
    const TOTAL_SIZE: usize = 256 * 1024;
    let mut errs = ErrorList::default();
    let mut size = 0;
    for (key, value) in meta.annotations.pairs() {
        errs.add_all(path, key, validate::qualified_name(&key.to_lowercase()));
        size += key.len() + value.len();
    }
    if size > TOTAL_SIZE {
        errs.add_too_long(path, TOTAL_SIZE);
    }
    errs
}

fn annotations(meta: &ObjectMeta, spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    if let Some(value) = meta.annotations.at(MIRROR_ANNOTATION)
        && spec.node_name.text().is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errs.add_invalid(&path.key(MIRROR_ANNOTATION), value, detail);
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(value) = meta.annotations.at(COST) {
        let digits = value.strip_prefix('-').unwrap_or(value);
        let plain = digits == "0" || (!digits.starts_with('0') && !digits.starts_with('+'));
        if !plain || value == "-0" || value.parse::<i32>().is_err() {
            errs.add_invalid(&path.key(COST), value, "must be a 32bit integer");
        }
    }
    errs.extend(security::annotations(meta, spec, path));
    errs
}

/// Errors of a pod spec; `is_pod` is false in templates.
pub fn pod_spec(spec: &PodSpec, meta: Option<&ObjectMeta>, path: &Path, is_pod: bool) -> ErrorList {
    let mut errs = ErrorList::default();
    if spec.termination_grace_period_seconds.is_none() {
        errs.add_required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let (volumes, volume_errs) = volumes::validate(spec.volumes.items(), meta, &path.child("volumes"));
    errs.extend(volume_errs);
    errs.extend(resources::claims(meta, spec.resource_claims.items(), &path.child("resourceClaims")));
    let cx = containers::Context::new(spec, &volumes);
    errs.extend(containers::regular(&cx, &path.child("containers")));
    errs.extend(containers::init(&cx, &path.child("initContainers")));
    errs.extend(containers::ephemeral(&cx, &path.child("ephemeralContainers")));
    errs.extend(resources::pod_level(spec, path));
    if spec.host_network.on() {
        errs.extend(network::host_ports(spec, &path.child("containers"), is_pod));
    }
    let restart = &["Always", "OnFailure", "Never"];
    one_of(&mut errs, spec.restart_policy.text(), restart, &path.child("restartPolicy"));
    let dns = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&mut errs, spec.dns_policy.text(), dns, &path.child("dnsPolicy"));
    errs.extend(label_map(spec.node_selector.pairs(), &path.child("nodeSelector")));
    errs.extend(security::pod(spec, path));
    if let Some(affinity) = &spec.affinity {
        errs.extend(scheduling::affinity(affinity, &path.child("affinity")));
    }
    errs.extend(network::dns_config(spec, &path.child("dnsConfig")));
    for (i, gate) in spec.readiness_gates.items().iter().enumerate() {
        let at = || path.child("readinessGates").index(i).child("conditionType");
        errs.add_all_at(at, &gate.condition_type, validate::qualified_name(&gate.condition_type));
    }
    let gates = spec.scheduling_gates.items();
    for (i, gate) in gates.iter().enumerate() {
        let path = path.child("schedulingGates").index(i);
        errs.add_all(&path, &gate.name, validate::qualified_name(&gate.name));
        if gates[..i].iter().any(|g| g.name == gate.name) {
            errs.add_duplicate(&path, &gate.name);
        }
    }
    let constraints = spec.topology_spread_constraints.items();
    errs.extend(scheduling::topology_spread(constraints, &path.child("topologySpreadConstraints")));
    errs.extend(security::windows_host_process(spec, path));
    errs.extend(security::host_users(spec, path));
    errs.extend(network::hostname_override(spec, path));
    let name = spec.service_account_name.text();
    if !name.is_empty() {
        errs.add_all_at(|| path.child("serviceAccountName"), name, validate::dns1123_subdomain(name));
    }
    let name = spec.node_name.text();
    if !name.is_empty() {
        errs.add_all_at(|| path.child("nodeName"), name, validate::dns1123_subdomain(name));
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errs.add_invalid(&path.child("activeDeadlineSeconds"), seconds, detail);
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !value.text().is_empty() {
            errs.add_all_at(|| path.child(field), value.text(), validate::dns1123_label(value.text()));
        }
    }
    errs.extend(scheduling::tolerations(spec.tolerations.items(), &path.child("tolerations")));
    errs.extend(network::host_aliases(spec.host_aliases.items(), &path.child("hostAliases")));
    let name = spec.priority_class_name.text();
    if !name.is_empty() {
        errs.add_all_at(|| path.child("priorityClassName"), name, validate::dns1123_subdomain(name));
    }
    if let Some(name) = &spec.runtime_class_name {
        errs.add_all_at(|| path.child("runtimeClassName"), name, validate::dns1123_subdomain(name));
    }
    if let Some(policy) = &spec.preemption_policy {
        one_of(&mut errs, policy, &["PreemptLowerPriority", "Never"], &path.child("preemptionPolicy"));
    }
    if spec.overhead.is_some() {
        errs.extend(resources::overhead(&spec.overhead, &path.child("overhead")));
    }
    errs.extend(security::operating_system(spec, path));
    if let Some(group) = &spec.scheduling_group {
        let path = path.child("schedulingGroup").child("podGroupName");
        match group.pod_group_name.as_deref() {
            None => errs.add_required(&path, ""),
            Some(name) => errs.add_all(&path, name, validate::dns1123_subdomain(name)),
        }
    }
    errs.extend(env::file_keys_have_volumes(spec, path));
    errs
}

/// A required value out of a few.
pub fn one_of(errs: &mut ErrorList, value: &str, supported: &[&str], path: &Path) {
    if value.is_empty() {
        errs.add_required(path, "");
    } else if !supported.contains(&value) {
        errs.add_not_supported(path, value, supported);
    }
}

/// An ephemeral container seen as a container: what it has more is its target.
pub fn as_container(c: &EphemeralContainer) -> Container {
    let c = c.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}

/// All containers with their paths in the order in which upstream visits them: init, regular, ephemeral.
pub fn visit<'a>(spec: &'a PodSpec, path: &Path) -> Vec<(Cow<'a, Container>, Path)> {
    let init = path.child("initContainers");
    let regular = path.child("containers");
    let init =
        spec.init_containers.items().iter().enumerate().map(|(i, c)| (Cow::Borrowed(c), init.index(i)));
    let regular = spec.containers.iter().enumerate().map(|(i, c)| (Cow::Borrowed(c), regular.index(i)));
    let ephemeral = spec.ephemeral_containers.items().iter().enumerate();
    let ephemeral =
        ephemeral.map(|(i, c)| (Cow::Owned(as_container(c)), path.child("ephemeralContainers").index(i)));
    init.chain(regular).chain(ephemeral).collect()
}

/// The grace period that handlers are measured against.
fn grace(spec: &PodSpec) -> Option<i64> {
    spec.termination_grace_period_seconds.map(|_| spec.termination_grace_period_seconds.number())
}
