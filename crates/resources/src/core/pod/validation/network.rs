//! Host ports, DNS settings, host names and aliases of a pod.

use crate::util::{Errs, Flag, Items, Number, Text, ip};
use knarr_api::core::v1::{HostAlias, PodSpec};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCH_PATHS: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// On the host's network a port is the host's port.
pub fn host_ports(spec: &PodSpec, path: &Path, is_pod: bool) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, container) in spec.containers.iter().enumerate() {
        for (j, port) in container.ports.items().iter().enumerate() {
            let host = port.host_port.number();
            if (is_pod || host != 0) && host != i64::from(port.container_port) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errs.add_invalid(&path, host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
    errs
}

/// Errors of `spec.dnsConfig`.
pub fn dns_config(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let config = spec.dns_config.as_ref();
    if spec.dns_policy.text() == "None" {
        let Some(config) = config else {
            errs.add_required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return errs;
        };
        if config.nameservers.items().is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errs.add_required(&path.child("nameservers"), detail);
            return errs;
        }
    }
    let Some(config) = config else { return errs };
    let nameservers = config.nameservers.items();
    if nameservers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errs.add_invalid(&path.child("nameservers"), nameservers, detail);
    }
    for (i, server) in nameservers.iter().enumerate() {
        errs.extend(ip::validate_legacy(&path.child("nameservers").index(i), server, &[]));
    }
    let searches = config.searches.items();
    let path_searches = path.child("searches");
    if searches.len() > MAX_SEARCH_PATHS {
        let detail = format!("must not have more than {MAX_SEARCH_PATHS} search paths");
        errs.add_invalid(&path_searches, searches, detail);
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errs.add_invalid(&path_searches, searches, detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errs.add_all(&path_searches.index(i), search, validate::dns1123_subdomain_with_underscore(search));
    }
    for (i, option) in config.options.items().iter().enumerate() {
        if option.name.text().is_empty() {
            errs.add_required(&path.child("options").index(i), "must not be empty");
        }
    }
    errs
}

/// Errors of `spec.hostnameOverride` (KEP-4762).
pub fn hostname_override(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(name) = &spec.hostname_override else { return errs };
    let path = path.child("hostnameOverride");
    if spec.set_hostname_as_fqdn.on() {
        errs.add_forbidden(&path, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.host_network.on() {
        errs.add_forbidden(&path, "may not be specified when hostNetwork is true");
    }
    if name.len() > 64 {
        errs.add_too_long(&path, 64);
    }
    errs.add_all(&path, name, validate::dns1123_subdomain(name));
    errs
}

/// Errors of `spec.hostAliases`.
pub fn host_aliases(aliases: &[HostAlias], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, alias) in aliases.iter().enumerate() {
        let path = path.index(i);
        errs.extend(ip::validate_legacy(&path.child("ip"), &alias.ip, &[]));
        for (j, name) in alias.hostnames.items().iter().enumerate() {
            errs.add_all_at(|| path.child("hostnames").index(j), name, validate::dns1123_subdomain(name));
        }
    }
    errs
}
