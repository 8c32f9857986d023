//! Warnings about pods and pod templates: pkg/api/pod/warnings.go.

use super::validation::visit;
use crate::core::resource;
use crate::util::{Items, Number, Pairs, Text, ip};
use knarr_api::Quantity;
use knarr_api::core::v1::{ContainerPort, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};
use knarr_api::meta::v1::ObjectMeta;
use knarr_meta::field::Path;
use std::collections::BTreeMap;

/// Labels of nodes that have been replaced.
const OLD_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];

fn deprecated(label: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(old, _)| *old == label).map(|(_, message)| *message)
}

/// The warnings about a pod, or (with the path of the template) about a template.
pub fn of(template: Option<&Path>, meta: &ObjectMeta, spec: &PodSpec) -> Vec<String> {
    let mut out = Vec::new();
    let root = |name: &'static str| template.map_or_else(|| Path::new(name), |t| t.child(name));
    let path = root("spec");
    for (key, _) in spec.node_selector.pairs() {
        if let Some(message) = deprecated(key) {
            out.push(format!("{}: {message}", path.child("nodeSelector").key(key)));
        }
    }
    node_affinity(&mut out, spec, &path);
    for (i, c) in spec.topology_spread_constraints.items().iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        if let Some(message) = deprecated(&c.topology_key) {
            out.push(format!("{}: {} is {message}", path.child("topologyKey"), c.topology_key));
        }
        if c.label_selector.is_none() {
            out.push(format!(
                "{}: a null labelSelector results in matching no pod",
                path.child("labelSelector")
            ));
        }
    }
    let annotations = root("metadata").child("annotations");
    for (key, message) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        (
            "security.alpha.kubernetes.io/sysctls",
            "non-functional in v1.11+; use the \"sysctls\" field instead",
        ),
        (
            "security.alpha.kubernetes.io/unsafe-sysctls",
            "non-functional in v1.11+; use the \"sysctls\" field instead",
        ),
    ] {
        if meta.annotations.at(key).is_some() {
            out.push(format!("{}: {message}", annotations.key(key)));
        }
    }
    volumes(&mut out, spec, &path);
    for (i, alias) in spec.host_aliases.items().iter().enumerate() {
        if spec.host_aliases.items()[..i].iter().any(|a| a.ip == alias.ip) {
            out.push(format!(
                "{}: duplicate ip {:?}",
                path.child("hostAliases").index(i).child("ip"),
                alias.ip
            ));
        }
    }
    let secrets = spec.image_pull_secrets.items();
    for (i, secret) in secrets.iter().enumerate() {
        if secrets[..i].iter().any(|s| s.name == secret.name) {
            let path = path.child("imagePullSecrets").index(i).child("name");
            out.push(format!("{path}: duplicate name {:?}", secret.name));
        }
    }
    for (i, _) in secrets.iter().enumerate().filter(|(_, s)| s.name.is_empty()) {
        out.push(format!(
            "{}: invalid empty name \"\"",
            path.child("imagePullSecrets").index(i).child("name")
        ));
    }
    fractional(&mut out, &spec.overhead, &path.child("overhead"));
    seccomp(&mut out, meta, spec, &path, &annotations);
    for (container, at) in visit(spec, &path) {
        if let Some(resources) = &container.resources {
            fractional(&mut out, &resources.limits, &at.child("resources").child("limits"));
            fractional(&mut out, &resources.requests, &at.child("resources").child("requests"));
        }
        let vars = container.env.items();
        for (i, var) in vars.iter().enumerate() {
            let hides = vars[..i].iter().any(|v| v.name == var.name);
            let reference = format!("$({})", var.name);
            let value = var.value.text();
            if hides && (var.value_from.is_some() || value == reference || !value.contains(&reference)) {
                out.push(format!(
                    "{}: hides previous definition of {:?}, which may be dropped when using apply",
                    at.child("env").index(i),
                    var.name
                ));
            }
        }
    }
    ports(&mut out, spec, &path);
    if spec.termination_grace_period_seconds.number() < 0 {
        let path = path.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    if let Some(affinity) = &spec.affinity {
        let path = path.child("affinity");
        if let Some(a) = &affinity.pod_affinity {
            terms(
                &mut out,
                a.required_during_scheduling_ignored_during_execution.items(),
                a.preferred_during_scheduling_ignored_during_execution.items(),
                &path.child("podAffinity"),
            );
        }
        if let Some(a) = &affinity.pod_anti_affinity {
            terms(
                &mut out,
                a.required_during_scheduling_ignored_during_execution.items(),
                a.preferred_during_scheduling_ignored_during_execution.items(),
                &path.child("podAntiAffinity"),
            );
        }
    }
    if let Some(dns) = &spec.dns_config {
        for (i, server) in dns.nameservers.items().iter().enumerate() {
            out.extend(ip::warning(&path.child("dnsConfig").child("nameservers").index(i), server));
        }
    }
    for (i, alias) in spec.host_aliases.items().iter().enumerate() {
        out.extend(ip::warning(&path.child("hostAliases").index(i).child("ip"), &alias.ip));
    }
    out
}

fn node_affinity(out: &mut Vec<String>, spec: &PodSpec, path: &Path) {
    let Some(affinity) = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()) else { return };
    let path = path.child("affinity").child("nodeAffinity");
    let required = affinity.required_during_scheduling_ignored_during_execution.iter();
    let required = required.flat_map(|s| s.node_selector_terms.iter()).enumerate().map(|(i, term)| {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        (path.index(i), term)
    });
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.items().iter().enumerate();
    let preferred = preferred.map(|(i, term)| {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution").index(i);
        (path.child("preference"), &term.preference)
    });
    for (path, term) in required.chain(preferred) {
        for (i, expression) in term.match_expressions.items().iter().enumerate() {
            if let Some(message) = deprecated(&expression.key) {
                let path = path.child("matchExpressions").index(i).child("key");
                out.push(format!("{path}: {} is {message}", expression.key));
            }
        }
    }
}

fn volumes(out: &mut Vec<String>, spec: &PodSpec, path: &Path) {
    for (i, v) in spec.volumes.items().iter().enumerate() {
        for (field, set, message) in [
            (
                "photonPersistentDisk",
                v.photon_persistent_disk.is_some(),
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            ("gitRepo", v.git_repo.is_some(), "deprecated in v1.11, and disabled by default in v1.33+"),
            ("scaleIO", v.scale_io.is_some(), "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", v.flocker.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("storageOS", v.storageos.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", v.quobyte.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", v.glusterfs.is_some(), "deprecated in v1.25, non-functional in v1.26+"),
            ("cephfs", v.cephfs.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", v.rbd.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if set {
                out.push(format!("{}: {message}", path.child("volumes").index(i).child(field)));
            }
        }
    }
}

fn fractional(out: &mut Vec<String>, list: &Option<BTreeMap<String, Quantity>>, path: &Path) {
    for name in ["memory", "ephemeral-storage"] {
        if let Some(amount) = list.at(name)
            && !resource::parse(amount).is_whole()
        {
            let value = &amount.0;
            out.push(format!(
                "{}: fractional byte value {value:?} is invalid, must be an integer",
                path.key(name)
            ));
        }
    }
}

fn seccomp(out: &mut Vec<String>, meta: &ObjectMeta, spec: &PodSpec, path: &Path, annotations: &Path) {
    if meta.annotations.is_none() {
        return;
    }
    let message = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    let key = "seccomp.security.alpha.kubernetes.io/pod";
    let in_pod = spec.security_context.as_ref().is_some_and(|c| c.seccomp_profile.is_some());
    if !in_pod && meta.annotations.at(key).is_some() {
        out.push(format!("{}: {message}", annotations.key(key)));
    }
    for (container, _) in visit(spec, path) {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", container.name);
        let in_field = container.security_context.as_ref().is_some_and(|c| c.seccomp_profile.is_some());
        if !in_field && meta.annotations.at(&key).is_some() {
            out.push(format!("{}: {message}", annotations.key(&key)));
        }
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", container.name);
        let in_field = container.security_context.as_ref().is_some_and(|c| c.app_armor_profile.is_some())
            || spec.security_context.as_ref().is_some_and(|c| c.app_armor_profile.is_some());
        if !in_field && meta.annotations.at(&key).is_some() {
            let path = annotations.key(&key);
            out.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        }
    }
}

fn ports(out: &mut Vec<String>, spec: &PodSpec, path: &Path) {
    let mut seen: Vec<(Path, ContainerPort)> = Vec::new();
    let mut names: BTreeMap<String, Path> = BTreeMap::new();
    let mut name_warnings = Vec::new();
    for (container, at) in visit(spec, path) {
        for (i, port) in container.ports.items().iter().enumerate() {
            let at = at.child("ports").index(i);
            let (ip, host) = (port.host_ip.text(), port.host_port.number());
            if !ip.is_empty() && host == 0 {
                out.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{ip}}}",
                    port.name.text(),
                    port.container_port,
                    port.protocol.text()
                ));
            }
            for (other_at, other) in &seen {
                if other.container_port != port.container_port || other.protocol != port.protocol {
                    continue;
                }
                let (other_ip, other_host) = (other.host_ip.text(), other.host_port.number());
                if ip == other_ip && host == other_host {
                    out.push(format!("{at}: duplicate port definition with {other_at}"));
                } else if host == 0 || other_host == 0 {
                    out.push(format!("{at}: overlapping port definition with {other_at}"));
                } else if host == other_host && (ip.is_empty() != other_ip.is_empty()) {
                    out.push(format!("{at}: dangerously ambiguous port definition with {other_at}"));
                }
            }
            seen.push((at.clone(), port.clone()));
            let name = port.name.text();
            if name.is_empty() {
                continue;
            }
            if let Some(other) = names.get(name) {
                name_warnings.push(format!(
                    "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                ));
            } else {
                names.insert(name.to_owned(), at);
            }
        }
    }
    out.extend(name_warnings);
}

fn terms(
    out: &mut Vec<String>,
    required: &[PodAffinityTerm],
    preferred: &[WeightedPodAffinityTerm],
    path: &Path,
) {
    let message = "a null labelSelector results in matching no pod";
    for (i, _) in required.iter().enumerate().filter(|(_, t)| t.label_selector.is_none()) {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").index(i);
        out.push(format!("{}: {message}", path.child("labelSelector")));
    }
    for (i, _) in preferred.iter().enumerate().filter(|(_, t)| t.pod_affinity_term.label_selector.is_none()) {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution").index(i);
        out.push(format!("{}: {message}", path.child("podAffinityTerm").child("labelSelector")));
    }
}

/// The warnings about a template.
pub fn of_template(template: &knarr_api::core::v1::PodTemplateSpec, path: &Path) -> Vec<String> {
    let (meta, spec) = (template.metadata.clone().unwrap_or_default(), template.spec.as_ref());
    spec.map(|spec| of(Some(path), &meta, spec)).unwrap_or_default()
}
