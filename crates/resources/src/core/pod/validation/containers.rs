//! Containers of all three sorts: validateContainers, validateInitContainers, validateEphemeralContainers.

use super::volumes::{Source, Volumes};
use super::{as_container, env, one_of, probes, resources, security};
use crate::util::{Errs, Flag, Items, Number, Text};
use knarr_api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, PodSpec, VolumeDevice, VolumeMount,
};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use std::collections::BTreeSet;

/// What the rules of a container look at beside it.
pub struct Context<'a> {
    spec: &'a PodSpec,
    volumes: &'a Volumes<'a>,
    claims: BTreeSet<&'a str>,
    grace: Option<i64>,
    os: Option<&'a str>,
    host_users: bool,
}

impl<'a> Context<'a> {
    /// The surroundings in `spec` with its valid `volumes`.
    pub fn new(spec: &'a PodSpec, volumes: &'a Volumes<'a>) -> Self {
        let claims = spec.resource_claims.items().iter().map(|c| c.name.as_str()).filter(|n| !n.is_empty());
        Self {
            spec,
            volumes,
            claims: claims.collect(),
            grace: super::grace(spec),
            os: spec.os.as_ref().map(|os| os.name.as_str()),
            host_users: spec.host_users != Some(false),
        }
    }
}

/// Errors of `spec.containers`.
pub fn regular(cx: &Context<'_>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let containers = &cx.spec.containers;
    if containers.is_empty() {
        errs.add_required(path, "");
        return errs;
    }
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        errs.extend(common(cx, container, &at));
        if containers[..i].iter().any(|c| c.name == container.name) {
            errs.add_duplicate(&at.child("name"), &container.name);
        }
        lifecycle_and_probes(&mut errs, cx, container, &at);
        let rules = container.restart_policy_rules.items();
        errs.extend(restart_policy(container.restart_policy.as_deref(), rules, &at));
    }
    errs.extend(host_port_conflicts(containers, path));
    errs
}

/// Errors of `spec.initContainers`.
pub fn init(cx: &Context<'_>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let mut names: BTreeSet<&str> = cx.spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in cx.spec.init_containers.items().iter().enumerate() {
        let at = path.index(i);
        errs.extend(common(cx, container, &at));
        let rules = container.restart_policy_rules.items();
        errs.extend(restart_policy(container.restart_policy.as_deref(), rules, &at));
        if !container.name.is_empty() && !names.insert(&container.name) {
            errs.add_duplicate(&at.child("name"), &container.name);
        }
        errs.extend(host_port_conflicts(std::slice::from_ref(container), path));
        let sidecar = container.restart_policy.text() == "Always";
        if sidecar {
            lifecycle_and_probes(&mut errs, cx, container, &at);
        } else {
            let detail = "may not be set for init containers without restartPolicy=Always";
            for (field, set) in [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ] {
                if set {
                    errs.add_forbidden(&at.child(field), detail);
                }
            }
            for (j, policy) in container.resize_policy.items().iter().enumerate() {
                if policy.restart_policy == "RestartContainer" {
                    let path = at.child("resizePolicy").index(j).child("restartPolicy");
                    let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errs.add_invalid(&path, &policy.restart_policy, detail);
                }
            }
        }
    }
    errs
}

/// Errors of `spec.ephemeralContainers`.
pub fn ephemeral(cx: &Context<'_>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let containers = cx.spec.ephemeral_containers.items();
    if containers.is_empty() {
        return errs;
    }
    let others = cx.spec.containers.iter().chain(cx.spec.init_containers.items()).map(|c| c.name.as_str());
    let others: BTreeSet<&str> = others.collect();
    let mut names = others.clone();
    for (i, ephemeral) in containers.iter().enumerate() {
        let at = path.index(i);
        let container = as_container(ephemeral);
        errs.extend(common(cx, &container, &at));
        image_whitespace(&mut errs, container.image.text(), || at.clone());
        if !names.insert(&ephemeral.name) {
            errs.add_duplicate(&at.child("name"), &ephemeral.name);
        }
        let target = ephemeral.target_container_name.text();
        if !target.is_empty() && !others.contains(target) {
            errs.add_not_found(&at.child("targetContainerName"), target);
        }
        let resources = container.resources.as_ref();
        let has_resources = resources
            .is_some_and(|r| r.limits.is_some() || r.requests.is_some() || !r.claims.items().is_empty());
        for (field, set) in [
            ("ports", !container.ports.items().is_empty()),
            ("resources", has_resources),
            ("resizePolicy", !container.resize_policy.items().is_empty()),
            ("restartPolicy", container.restart_policy.is_some()),
            ("restartPolicyRules", !container.restart_policy_rules.items().is_empty()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
        ] {
            if set {
                errs.add_forbidden(&at.child(field), "cannot be set for an Ephemeral Container");
            }
        }
        for (j, mount) in container.volume_mounts.items().iter().enumerate() {
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !value.text().is_empty() {
                    let path = at.child("volumeMounts").index(j).child(field);
                    errs.add_forbidden(&path, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
    errs
}

/// Image names of pods have no blanks around them.
pub fn image_whitespace(errs: &mut ErrorList, image: &str, path: impl FnOnce() -> Path) {
    if image.trim() != image {
        errs.add_invalid(&path().child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn common(cx: &Context<'_>, container: &Container, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let name = &container.name;
    if name.is_empty() {
        errs.add_required(&path.child("name"), "");
    } else {
        errs.add_all_at(|| path.child("name"), name, validate::dns1123_label(name));
    }
    if container.image.text().is_empty() {
        errs.add_required(&path.child("image"), "");
    }
    let policy = container.termination_message_policy.text();
    one_of(&mut errs, policy, &["File", "FallbackToLogsOnError"], &path.child("terminationMessagePolicy"));
    errs.extend(ports(container.ports.items(), &path.child("ports")));
    errs.extend(env::variables(container.env.items(), &path.child("env")));
    errs.extend(env::from(container.env_from.items(), &path.child("envFrom")));
    errs.extend(volume_mounts(cx, container, &path.child("volumeMounts")));
    errs.extend(volume_devices(cx, container, &path.child("volumeDevices")));
    let pull = container.image_pull_policy.text();
    one_of(&mut errs, pull, &["Always", "IfNotPresent", "Never"], &path.child("imagePullPolicy"));
    if let Some(requirements) = &container.resources {
        errs.extend(resources::container(requirements, &cx.claims, &path.child("resources")));
    }
    errs.extend(resize_policy(cx, container.resize_policy.items(), &path.child("resizePolicy")));
    if let Some(context) = &container.security_context {
        errs.extend(security::container(context, &path.child("securityContext"), cx.host_users));
    }
    errs
}

fn lifecycle_and_probes(errs: &mut ErrorList, cx: &Context<'_>, container: &Container, path: &Path) {
    if let Some(lifecycle) = &container.lifecycle {
        errs.extend(probes::lifecycle(lifecycle, cx.grace, cx.os, &path.child("lifecycle")));
    }
    if let Some(probe) = &container.liveness_probe {
        errs.extend(probes::liveness_or_startup(probe, cx.grace, &path.child("livenessProbe")));
    }
    if let Some(probe) = &container.readiness_probe {
        errs.extend(probes::readiness(probe, cx.grace, &path.child("readinessProbe")));
    }
    if let Some(probe) = &container.startup_probe {
        errs.extend(probes::liveness_or_startup(probe, cx.grace, &path.child("startupProbe")));
    }
}

fn ports(ports: &[ContainerPort], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = port.name.text();
        if !name.is_empty() {
            let problems = validate::port_name(name);
            if !problems.is_empty() {
                errs.add_all(&path.child("name"), name, problems);
            } else if !names.insert(name) {
                errs.add_duplicate(&path.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errs.add_required(&path.child("containerPort"), "");
        } else {
            port_number(&mut errs, port.container_port, || path.child("containerPort"));
        }
        if let Some(number) = port.host_port.filter(|p| *p != 0) {
            port_number(&mut errs, number, || path.child("hostPort"));
        }
        one_of(&mut errs, port.protocol.text(), &["SCTP", "TCP", "UDP"], &path.child("protocol"));
    }
    errs
}

/// Errors of a port number.
pub fn port_number(errs: &mut ErrorList, number: i32, path: impl FnOnce() -> Path) {
    if !(1..=65535).contains(&number) {
        errs.add_invalid(&path(), number, "must be between 1 and 65535, inclusive");
    }
}

fn host_port_conflicts(containers: &[Container], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.items().iter().enumerate() {
            let number = port.host_port.number();
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.protocol.text(), port.host_ip.text());
            if !taken.insert(key.clone()) {
                errs.add_duplicate(&path.index(i).child("ports").index(j).child("hostPort"), key);
            }
        }
    }
    errs
}

fn volume_mounts(cx: &Context<'_>, container: &Container, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let devices = container.volume_devices.items();
    let mut points = BTreeSet::new();
    for (i, mount) in container.volume_mounts.items().iter().enumerate() {
        let at = path.index(i);
        if mount.name.is_empty() {
            errs.add_required(&at.child("name"), "");
        }
        if !cx.volumes.contains_key(mount.name.as_str()) {
            errs.add_not_found(&at.child("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errs.add_required(&at.child("mountPath"), "");
        }
        if !points.insert(&mount.mount_path) {
            errs.add_invalid(&at.child("mountPath"), &mount.mount_path, "must be unique");
        }
        if devices.iter().any(|d| d.name == mount.name) {
            errs.add_invalid(&at.child("name"), &mount.name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d.device_path == mount.mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            errs.add_invalid(&at.child("mountPath"), &mount.mount_path, detail);
        }
        let (sub, expr) = (mount.sub_path.text(), mount.sub_path_expr.text());
        if !sub.is_empty() {
            super::volumes::local_descending_path(&mut errs, sub, &path.child("subPath"));
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errs.add_invalid(&at.child("subPathExpr"), expr, detail);
            }
            super::volumes::local_descending_path(&mut errs, expr, &path.child("subPathExpr"));
        }
        mount_options(&mut errs, mount, container, path);
    }
    errs
}

fn mount_options(errs: &mut ErrorList, mount: &VolumeMount, container: &Container, path: &Path) {
    if let Some(mode) = mount.mount_propagation.as_deref() {
        let path = path.child("mountPropagation");
        let modes = &["Bidirectional", "HostToContainer", "None"];
        if !modes.contains(&mode) {
            errs.add_not_supported(&path, mode, modes);
        }
        let privileged = container.security_context.as_ref().is_some_and(|s| s.privileged.on());
        if mode == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errs.add_forbidden(&path, detail);
        }
    }
    let path = path.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.read_only.on() {
                errs.add_forbidden(&path, "may only be specified when readOnly is true");
            }
            if mount.mount_propagation.as_deref().is_some_and(|m| m != "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errs.add_forbidden(&path, detail);
            }
        }
        Some(other) => errs.add_not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn volume_devices(cx: &Context<'_>, container: &Container, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let mounts = container.volume_mounts.items();
    let mut paths = BTreeSet::new();
    for (i, VolumeDevice { name, device_path }) in container.volume_devices.items().iter().enumerate() {
        let at = path.index(i);
        let source = cx.volumes.get(name.as_str());
        if name.is_empty() {
            errs.add_required(&at.child("name"), "");
        }
        match source {
            Some(Source::Claim) => {}
            Some(_) => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errs.add_invalid(&at.child("name"), name, detail);
            }
            None => errs.add_not_found(&at.child("name"), name),
        }
        if device_path.is_empty() {
            errs.add_required(&at.child("devicePath"), "");
        }
        if paths.contains(device_path) {
            errs.add_invalid(&at.child("devicePath"), device_path, "must be unique");
        }
        if device_path.split('/').any(|part| part == "..") {
            errs.add_invalid(&at.child("devicePath"), device_path, "can not contain backsteps ('..')");
        } else {
            paths.insert(device_path);
        }
        if mounts.iter().any(|m| m.name == *name) {
            errs.add_invalid(&at.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.mount_path == *device_path) {
            let detail = "must not already exist as a path in volumeMounts";
            errs.add_invalid(&at.child("devicePath"), device_path, detail);
        }
    }
    errs
}

fn resize_policy(cx: &Context<'_>, policies: &[ContainerResizePolicy], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, policy) in policies.iter().enumerate() {
        if policies[..i].iter().any(|p| p.resource_name == policy.resource_name) {
            errs.add_duplicate(&path.index(i), &policy.resource_name);
        }
        one_of(&mut errs, &policy.resource_name, &["cpu", "memory"], path);
        one_of(&mut errs, &policy.restart_policy, &["NotRequired", "RestartContainer"], path);
        if cx.spec.restart_policy.text() == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errs.add_invalid(path, &policy.restart_policy, detail);
        }
    }
    errs
}

fn restart_policy(policy: Option<&str>, rules: &[ContainerRestartRule], path: &Path) -> ErrorList {
    const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
    let mut errs = ErrorList::default();
    match policy {
        None if rules.is_empty() => return errs,
        None => {
            let detail = "must specify restartPolicy when restart rules are used";
            errs.add_required(&path.child("restartPolicy"), detail);
        }
        Some(policy) if !POLICIES.contains(&policy) => {
            errs.add_not_supported(&path.child("restartPolicy"), policy, POLICIES);
        }
        Some(_) => {}
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errs.add_too_many(&path, rules.len(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let actions = &["Restart", "RestartAllContainers"];
        if !actions.contains(&rule.action.as_str()) {
            errs.add_not_supported(&path.child("action"), &rule.action, actions);
        }
        let path = path.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errs.add_required(&path, "must be specified");
            continue;
        };
        if !["In", "NotIn"].contains(&codes.operator.as_str()) {
            errs.add_not_supported(&path.child("operator"), &codes.operator, &["In", "NotIn"]);
        }
        let values = codes.values.items();
        if values.len() > 255 {
            errs.add_too_many(&path.child("values"), values.len(), 255);
        }
    }
    errs
}
