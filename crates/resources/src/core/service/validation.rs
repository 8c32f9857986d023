//! Validation of services: validateService and what may change, in upstream's order.

use crate::core::pod::validation::containers::port_number;
use crate::core::pod::validation::{label_map, one_of};
use crate::util::{Errs, Items, Number, Pairs, Text, ip};
use knarr_api::IntOrString;
use knarr_api::core::v1::{Service, ServicePort, ServiceSpec};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;

const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
/// The longest session affinity: a day.
const MAX_AFFINITY_SECONDS: i64 = 86400;

fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ips.items(), [one] if one == "None")
}

fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.text()
}

fn is_balanced(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer"
}

fn is_external(spec: &ServiceSpec) -> bool {
    matches!(kind(spec), "LoadBalancer" | "NodePort")
        || (kind(spec) == "ClusterIP" && !spec.external_ips.items().is_empty())
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    is_balanced(spec) && spec.external_traffic_policy.text() == "Local"
}

/// Errors of a service as it is.
pub fn service(service: &Service, old: Option<&Service>) -> ErrorList {
    let mut errs = ErrorList::default();
    let (empty, path) = (ServiceSpec::default(), Path::new("spec"));
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let old_spec = old.and_then(|o| o.spec.as_ref());
    let annotations = &service.metadata.annotations;
    if let (Some(hints), Some(mode)) = (annotations.at(HINTS), annotations.at(MODE))
        && hints != mode
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errs.add_invalid(&Path::new("metadata").child("annotations").key(MODE), mode, detail);
    }
    let (ports, headless) = (spec.ports.items(), is_headless(spec));
    if ports.is_empty() && !headless && kind(spec) != "ExternalName" {
        errs.add_required(&path.child("ports"), "");
    }
    match kind(spec) {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {} services", kind(spec));
            errs.add_invalid(&path.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => external_name(&mut errs, spec, &path),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        validate_port(&mut errs, port, ports.len() > 1, &mut names, &path.child("ports").index(i));
    }
    errs.extend(label_map(spec.selector.pairs(), &path.child("selector")));
    affinity(&mut errs, spec, &path);
    errs.extend(cluster_ips(service, old));
    let before = old_spec.map(|s| s.external_ips.items()).unwrap_or_default();
    for (i, address) in spec.external_ips.items().iter().enumerate() {
        let path = path.child("externalIPs").index(i);
        let own = ip::validate_legacy(&path, address, before);
        let own = if own.is_empty() { ip::validate_endpoint(&path, address) } else { own };
        errs.extend(own);
    }
    one_of(
        &mut errs,
        kind(spec),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        &path.child("type"),
    );
    node_ports(&mut errs, spec, &path.child("ports"));
    source_ranges(&mut errs, service, spec, old, &path);
    let at = path.child("allocateLoadBalancerNodePorts");
    match (is_balanced(spec), spec.allocate_load_balancer_node_ports.is_some()) {
        (false, true) => errs.add_forbidden(&at, "may only be used when `type` is 'LoadBalancer'"),
        (true, false) => errs.add_required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    balancer_class(&mut errs, None, spec);
    traffic(&mut errs, spec, &path);
    errs
}

fn external_name(errs: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let detail = "may not be set for ExternalName services";
    for (field, set) in [
        ("clusterIPs", !spec.cluster_ips.items().is_empty()),
        ("ipFamilies", !spec.ip_families.items().is_empty()),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if set {
            errs.add_forbidden(&path.child(field), detail);
        }
    }
    let name = spec.external_name.text();
    let name = name.strip_suffix('.').unwrap_or(name);
    let path = path.child("externalName");
    if name.is_empty() {
        errs.add_required(&path, "");
    } else {
        errs.add_all(&path, name, validate::dns1123_subdomain(name));
    }
}

fn validate_port<'a>(
    errs: &mut ErrorList,
    port: &'a ServicePort,
    require_name: bool,
    names: &mut BTreeSet<&'a str>,
    path: &Path,
) {
    let name = port.name.text();
    if !name.is_empty() {
        errs.add_all_at(|| path.child("name"), name, validate::dns1123_label(name));
        if !names.insert(name) {
            errs.add_duplicate(&path.child("name"), name);
        }
    } else if require_name {
        errs.add_required(&path.child("name"), "");
    }
    port_number(errs, port.port, || path.child("port"));
    one_of(errs, port.protocol.text(), &["SCTP", "TCP", "UDP"], &path.child("protocol"));
    let target = path.child("targetPort");
    match &port.target_port {
        None => port_number(errs, 0, || target),
        Some(IntOrString::Int(number)) => port_number(errs, *number, || target),
        Some(IntOrString::String(name)) => errs.add_all(&target, name, validate::port_name(name)),
    }
    if let Some(protocol) = &port.app_protocol {
        errs.add_all(&path.child("appProtocol"), protocol, validate::qualified_name(protocol));
    }
}

fn affinity(errs: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let at = path.child("sessionAffinityConfig");
    one_of(errs, spec.session_affinity.text(), &["ClientIP", "None"], &path.child("sessionAffinity"));
    match spec.session_affinity.text() {
        "ClientIP" => {
            let detail = "when session affinity type is ClientIP";
            let Some(config) = &spec.session_affinity_config else {
                errs.add_required(&at, detail);
                return;
            };
            let at = at.child("clientIP");
            let Some(client) = &config.client_ip else {
                errs.add_required(&at, detail);
                return;
            };
            let at = at.child("timeoutSeconds");
            match client.timeout_seconds.map(i64::from) {
                None => errs.add_required(&at, detail),
                Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                    let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errs.add_invalid(&at, seconds, detail);
                }
                Some(_) => {}
            }
        }
        "None" if spec.session_affinity_config.is_some() => {
            errs.add_forbidden(&at, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn node_ports(errs: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let ports = spec.ports.items();
    if kind(spec) == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, p)| p.node_port.number() != 0) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errs.add_forbidden(&path.index(i).child("nodePort"), detail);
        }
    }
    for (i, port) in ports.iter().enumerate().filter(|(_, p)| p.node_port.number() != 0) {
        if ports[..i].iter().any(|p| p.protocol == port.protocol && p.node_port == port.node_port) {
            errs.add_duplicate(&path.index(i).child("nodePort"), port.node_port.number());
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if ports[..i].iter().any(|p| p.protocol == port.protocol && p.port == port.port) {
            let value = json!({"port": port.port, "protocol": port.protocol, "targetPort": 0});
            errs.add_duplicate(&path.index(i), value);
        }
    }
}

fn source_ranges(
    errs: &mut ErrorList,
    service: &Service,
    spec: &ServiceSpec,
    old: Option<&Service>,
    path: &Path,
) {
    let detail = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.load_balancer_source_ranges.items();
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !is_balanced(spec) {
            errs.add_forbidden(&path, detail);
        }
        let before = old.and_then(|o| o.spec.as_ref()).map(|s| s.load_balancer_source_ranges.items());
        let before: Vec<String> = before.unwrap_or_default().iter().map(|r| r.trim().to_owned()).collect();
        for (i, range) in ranges.iter().enumerate() {
            errs.extend(ip::validate_cidr_legacy(&path.index(i), range.trim(), &before));
        }
    } else if let Some(value) = service.metadata.annotations.at(SOURCE_RANGES) {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !is_balanced(spec) {
            errs.add_forbidden(&path, detail);
        }
        let before = old.and_then(|o| o.metadata.annotations.at(SOURCE_RANGES));
        if before != Some(value) && !value.trim().is_empty() {
            for range in value.trim().split(',') {
                errs.extend(ip::validate_cidr_legacy(&path, range.trim(), &[]));
            }
        }
    }
}

fn traffic(errs: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let (at, policy) = (path.child("externalTrafficPolicy"), spec.external_traffic_policy.text());
    if is_external(spec) {
        one_of(errs, policy, &["Cluster", "Local"], &at);
    } else if !policy.is_empty() {
        errs.add_invalid(&at, policy, "may only be set for externally-accessible services");
    }
    let (at, port) = (path.child("healthCheckNodePort"), spec.health_check_node_port.unwrap_or_default());
    match (needs_health_check(spec), port) {
        (true, 0) => errs.add_required(&at, ""),
        (true, port) => port_number(errs, port, || at),
        (false, 0) => {}
        (false, port) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errs.add_invalid(&at, port, detail);
        }
    }
    let at = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if matches!(kind(spec), "NodePort" | "LoadBalancer" | "ClusterIP") => errs.add_required(&at, ""),
        Some(policy) if !["Cluster", "Local"].contains(&policy.as_str()) => {
            errs.add_not_supported(&at, policy, &["Cluster", "Local"]);
        }
        _ => {}
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(wanted) = &spec.traffic_distribution
        && !DISTRIBUTIONS.contains(&wanted.as_str())
    {
        errs.add_not_supported(&path.child("trafficDistribution"), wanted, DISTRIBUTIONS);
    }
}

/// Errors among clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy.
pub fn cluster_ips(service: &Service, old: Option<&Service>) -> ErrorList {
    let mut errs = ErrorList::default();
    let (empty, path) = (ServiceSpec::default(), Path::new("spec"));
    let spec = service.spec.as_ref().unwrap_or(&empty);
    if kind(spec) == "ExternalName" {
        return errs;
    }
    let (single, all) = (spec.cluster_ip.text(), spec.cluster_ips.items());
    let (families, at) = (spec.ip_families.items(), path.child("clusterIPs"));
    match (single.is_empty(), all.first()) {
        (false, None) => errs.add_required(&at, ""),
        (false, Some(first)) if first != single => {
            errs.add_invalid(&at, all, "first value must match `clusterIP`");
        }
        (true, Some(_)) => errs.add_invalid(&at, all, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            errs.add_not_supported(&path, family, &["IPv4", "IPv6"]);
        }
        if families[..i].contains(family) {
            errs.add_duplicate(&path, family);
        }
    }
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = &spec.ip_family_policy
        && !POLICIES.contains(&policy.as_str())
    {
        errs.add_not_supported(&path.child("ipFamilyPolicy"), policy, POLICIES);
    }
    let before = old.and_then(|o| o.spec.as_ref()).map(|s| s.cluster_ips.items()).unwrap_or_default();
    let mut malformed = false;
    for (i, address) in all.iter().enumerate() {
        if i == 0 && address == "None" {
            if all.len() > 1 {
                malformed = true;
                errs.add_invalid(&at, all, "'None' must be the first and only value");
            }
            continue;
        }
        let own = ip::validate_legacy(&at.index(i), address, before);
        malformed |= !own.is_empty();
        errs.extend(own);
    }
    if all.len() > 2 {
        errs.add_invalid(&at, all, "may only hold up to 2 values");
    }
    if malformed {
        return errs;
    }
    let parsed: Vec<Option<IpAddr>> = all.iter().map(|a| ip::parse_sloppy(a)).collect();
    if all.len() > 1 {
        let v4 = parsed.iter().flatten().filter(|ip| ip.is_ipv4()).count();
        if v4 == 0 || v4 == all.len() {
            errs.add_invalid(&at, all, "may specify no more than one IP for each IP family");
        }
    }
    if !is_headless(spec) {
        for (i, (address, family)) in parsed.iter().zip(families).enumerate() {
            let v6 = address.is_some_and(|ip| ip.is_ipv6());
            if (family == "IPv4" && v6) || (family == "IPv6" && !v6) {
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                errs.add_invalid(&at.index(i), &all[i], detail);
            }
        }
    }
    errs
}

fn balancer_class(errs: &mut ErrorList, old: Option<&ServiceSpec>, new: &ServiceSpec) {
    let path = Path::new("spec").child("loadBalancerClass");
    if let Some(old) = old
        && is_balanced(old)
        && is_balanced(new)
        && old.load_balancer_class != new.load_balancer_class
    {
        errs.add_invalid(&path, &new.load_balancer_class, "may not change once set");
    }
    match (&new.load_balancer_class, is_balanced(new)) {
        (Some(class), true) => errs.add_all(&path, class, validate::qualified_name(class)),
        (Some(_), false) => errs.add_forbidden(&path, "may only be used when `type` is 'LoadBalancer'"),
        (None, _) => {}
    }
}

/// Errors of the change itself.
pub fn update(new: &Service, old: &Service) -> ErrorList {
    let mut errs = ErrorList::default();
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return errs };
    if kind(new) != "ExternalName" && kind(old) != "ExternalName" {
        let (now, was) = (new.cluster_ips.items(), old.cluster_ips.items());
        if !(is_headless(new) && is_headless(old)) {
            let releasing = "must be set to 'SingleStack' when releasing the secondary clusterIP";
            changed_list(&mut errs, "clusterIPs", now, was, new, releasing, true);
        }
        if !is_headless(new) && !is_headless(old) {
            let (now, was) = (new.ip_families.items(), old.ip_families.items());
            let releasing = "must be set to 'SingleStack' when releasing the secondary ipFamily";
            changed_list(&mut errs, "ipFamilies", now, was, new, releasing, false);
        }
    }
    balancer_class(&mut errs, Some(old), new);
    if needs_health_check(old)
        && needs_health_check(new)
        && old.health_check_node_port != new.health_check_node_port
    {
        errs.add_forbidden(&Path::new("spec").child("healthCheckNodePort"), "field is immutable");
    }
    errs
}

/// The first of the list stays; a second may come, or go when the policy says single.
fn changed_list(
    errs: &mut ErrorList,
    field: &'static str,
    now: &[String],
    was: &[String],
    new: &ServiceSpec,
    releasing: &str,
    addresses: bool,
) {
    let spec = Path::new("spec");
    let path = spec.child(field);
    if now.len() == was.len() {
        for (i, _) in now.iter().zip(was).enumerate().filter(|(_, (n, w))| n != w) {
            let at = path.index(if addresses { i } else { 0 });
            errs.add_invalid(&at, now, "may not change once set");
        }
        return;
    }
    if was.len() > now.len() && new.cluster_ips.items().is_empty() {
        let what = if addresses { "clusterIP" } else { "ipFamily" };
        errs.add_invalid(&path.index(0), now, format!("primary {what} can not be unset"));
    }
    if let (Some(new_first), Some(old_first)) = (now.first(), was.first())
        && new_first != old_first
    {
        errs.add_invalid(&path.index(0), new.cluster_ips.items(), "may not change once set");
    }
    if was.len() > now.len() && now.len() == 1 && new.ip_family_policy.text() != "SingleStack" {
        errs.add_invalid(&spec.child("ipFamilyPolicy"), &new.ip_family_policy, releasing);
    }
}

/// Errors of a changed status.
pub fn load_balancer(new: &Service, old: &Service) -> ErrorList {
    let mut errs = ErrorList::default();
    let ingress = |s: &Service| {
        let balancer = s.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        balancer.map(|b| b.ingress.items().to_vec()).unwrap_or_default()
    };
    let (now, was) = (ingress(new), ingress(old));
    let path = Path::new("status").child("loadBalancer").child("ingress");
    if !new.spec.as_ref().is_some_and(is_balanced) && !now.is_empty() {
        errs.add_forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return errs;
    }
    let before: Vec<String> = was.iter().filter_map(|i| i.ip.clone()).collect();
    for (i, ingress) in now.iter().enumerate() {
        let path = path.index(i);
        let (address, hostname) = (ingress.ip.text(), ingress.hostname.text());
        if !address.is_empty() {
            errs.extend(ip::validate_legacy(&path.child("ip"), address, &before));
        }
        match (&ingress.ip_mode, address.is_empty()) {
            (None, false) => errs.add_required(&path.child("ipMode"), "must be specified when `ip` is set"),
            (Some(_), true) => {
                errs.add_forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
            }
            (Some(mode), false) if !["Proxy", "VIP"].contains(&mode.as_str()) => {
                errs.add_not_supported(&path.child("ipMode"), mode, &["Proxy", "VIP"]);
            }
            _ => {}
        }
        if !hostname.is_empty() {
            errs.add_all(&path.child("hostname"), hostname, validate::dns1123_subdomain(hostname));
            if ip::parse_sloppy(hostname).is_some() {
                errs.add_invalid(&path.child("hostname"), hostname, "must be a DNS name, not an IP address");
            }
        }
    }
    errs
}
