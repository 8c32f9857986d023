//! Changes of a pod's status: ValidatePodStatusUpdate.

use crate::core::pod::validation::update::annotation_changes;
use crate::util::{Errs, Items, Number, Text, ip};
use knarr_api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use std::net::IpAddr;

/// Errors of a changed status.
pub fn update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errs = annotation_changes(new, old);
    let (empty, no_spec) = (PodStatus::default(), PodSpec::default());
    let (new_status, old_status) =
        (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let old_spec = old.spec.as_ref().unwrap_or(&no_spec);
    let path = Path::new("status");
    for (i, condition) in new_status.conditions.items().iter().enumerate() {
        let path = path.child("conditions").index(i);
        if condition.observed_generation.number() < 0 {
            let detail = "must be a non-negative integer";
            errs.add_invalid(&path.child("observedGeneration"), condition.observed_generation, detail);
        }
        if !["PodScheduled", "Ready", "Initialized"].contains(&condition.type_.as_str()) {
            let problems = validate::qualified_name(&condition.type_);
            errs.add_all_at(|| path.child("Type"), &condition.type_, problems);
        }
    }
    let nominated = new_status.nominated_node_name.text();
    if !nominated.is_empty() && nominated != old_status.nominated_node_name.text() {
        let path = path.child("nominatedNodeName");
        errs.add_all(&path, nominated, validate::dns1123_subdomain(nominated));
        if !old_spec.node_name.text().is_empty() {
            errs.add_forbidden(&path, "may not be set on pods that are already bound to a node");
        }
    }
    if new_status.observed_generation.number() < 0 {
        let detail = "must be a non-negative integer";
        errs.add_invalid(&path.child("observedGeneration"), new_status.observed_generation, detail);
    }
    errs.add_changed(&path.child("qosClass"), &new_status.qos_class, &old_status.qos_class);
    if !could_restart_all(old_spec) {
        for (field, new, old, containers) in [
            (
                "containerStatuses",
                new_status.container_statuses.items(),
                old_status.container_statuses.items(),
                &old_spec.containers[..],
            ),
            (
                "initContainerStatuses",
                new_status.init_container_statuses.items(),
                old_status.init_container_statuses.items(),
                old_spec.init_containers.items(),
            ),
        ] {
            let may_restart = |name: &str, code: i32| {
                containers.iter().find(|c| c.name == name).is_some_and(|c| should_restart(c, old_spec, code))
            };
            transitions(&mut errs, new, old, may_restart, &path.child(field));
        }
    }
    let (new_ephemeral, old_ephemeral) =
        (new_status.ephemeral_container_statuses.items(), old_status.ephemeral_container_statuses.items());
    transitions(
        &mut errs,
        new_ephemeral,
        old_ephemeral,
        |_, _| false,
        &path.child("ephemeralContainerStatuses"),
    );
    errs.extend(addresses(new_status, old_status));
    errs
}

/// Whether the rules of some container restart all of them.
fn could_restart_all(spec: &PodSpec) -> bool {
    let rules =
        |c: &Container| c.restart_policy_rules.items().iter().any(|r| r.action == "RestartAllContainers");
    spec.containers.iter().chain(spec.init_containers.items()).any(rules)
}

fn should_restart(container: &Container, spec: &PodSpec, code: i32) -> bool {
    if container.restart_policy.is_some() {
        for rule in container.restart_policy_rules.items() {
            let Some(codes) = &rule.exit_codes else { continue };
            let listed = codes.values.items().contains(&code);
            if listed == (codes.operator == "In") && rule.action.starts_with("Restart") {
                return true;
            }
        }
    }
    match container.restart_policy.as_deref().unwrap_or(spec.restart_policy.text()) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// A container that has ended stays ended, unless it is to be restarted.
fn transitions(
    errs: &mut ErrorList,
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    may_restart: impl Fn(&str, i32) -> bool,
    path: &Path,
) {
    let ended =
        |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    for (i, old) in old.iter().enumerate() {
        let Some(code) = ended(old) else { continue };
        let revived = new.iter().find(|n| n.name == old.name).is_some_and(|n| ended(n).is_none());
        if revived && !may_restart(&old.name, code) {
            let detail = "may not be transitioned to non-terminated state";
            errs.add_forbidden(&path.index(i).child("state"), detail);
        }
    }
}

fn addresses(new: &PodStatus, old: &PodStatus) -> ErrorList {
    let mut errs = ErrorList::default();
    let pod = |s: &PodStatus| s.pod_ips.items().iter().map(|p| p.ip.clone()).collect::<Vec<_>>();
    let host = |s: &PodStatus| s.host_ips.items().iter().map(|p| p.ip.clone()).collect::<Vec<_>>();
    list(&mut errs, &pod(new), &pod(old), &Path::new("status").child("podIPs"));
    let hosts = host(new);
    let path = Path::new("status").child("hostIPs");
    if let Some(first) = hosts.first()
        && first != new.host_ip.text()
    {
        errs.add_invalid(&path.index(0).child("ip"), first, "must be equal to `hostIP`");
    }
    list(&mut errs, &hosts, &host(old), &path);
    errs
}

fn list(errs: &mut ErrorList, new: &[String], old: &[String], path: &Path) {
    for (i, address) in new.iter().enumerate() {
        errs.extend(ip::validate_legacy(&path.index(i), address, old));
    }
    if new.len() > 1 {
        let v4 = new.iter().filter_map(|a| ip::parse_sloppy(a)).filter(IpAddr::is_ipv4).count();
        if new.len() > 2 || v4 != 1 {
            let value: Vec<serde_json::Value> = new.iter().map(|a| serde_json::json!({"ip": a})).collect();
            errs.add_invalid(path, value, "may specify no more than one IP for each IP family");
        }
    }
}
