//! EndpointSlices (discovery.k8s.io/v1): pkg/registry/discovery/endpointslice.

use crate::core::pod::validation::{label_map, one_of};
use crate::util::value::{at, each, list, object, set_absent, text};
use crate::util::{Errs, Items, Pairs, Text, cells, ip};
use knarr_api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::SystemTime;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20000;
const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_HINTS: usize = 8;

struct EndpointSlices;

impl Strategy for EndpointSlices {
    type Object = EndpointSlice;

    fn default(&self, obj: &mut Value) {
        each(object(obj), "ports", |port| {
            set_absent(port, "name", "");
            set_absent(port, "protocol", "TCP");
        });
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        each(object(obj), "endpoints", |endpoint| {
            endpoint.remove("deprecatedTopology");
        });
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        if new["endpoints"] != old["endpoints"] {
            each(object(new), "endpoints", |endpoint| {
                endpoint.remove("deprecatedTopology");
            });
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &EndpointSlice) -> ErrorList {
        let mut errs = shape(obj);
        errs.extend(endpoints(obj.endpoints.items(), &obj.address_type));
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &EndpointSlice, old: &EndpointSlice) -> ErrorList {
        let mut errs = shape(new);
        if new.endpoints != old.endpoints {
            errs.extend(endpoints(new.endpoints.items(), &new.address_type));
        }
        errs.add_changed(&Path::new("addressType"), &new.address_type, &old.address_type);
        errs
    }

    fn warnings(&self, _cx: &RequestCx, new: &EndpointSlice, old: Option<&EndpointSlice>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_none() && new.address_type == "FQDN" {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let manager = new.metadata.labels.at("endpointslice.kubernetes.io/managed-by");
        let own = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
        if manager.is_some_and(|m| own.contains(&m.as_str())) {
            return out;
        }
        for (i, endpoint) in new.endpoints.items().iter().enumerate() {
            for (j, address) in endpoint.addresses.iter().enumerate() {
                let path = Path::new("endpoints").index(i).child("addresses").index(j);
                if new.address_type != "FQDN" {
                    out.extend(ip::warning(&path, address));
                }
            }
        }
        out
    }
}

fn shape(slice: &EndpointSlice) -> ErrorList {
    let mut errs = ErrorList::default();
    one_of(&mut errs, &slice.address_type, &["FQDN", "IPv4", "IPv6"], &Path::new("addressType"));
    errs.extend(ports(slice.ports.items()));
    errs
}

fn ports(ports: &[EndpointPort]) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("ports");
    if ports.len() > MAX_PORTS {
        errs.add_too_many(&path, ports.len(), MAX_PORTS);
        return errs;
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = port.name.text();
        if !name.is_empty() {
            errs.add_all_at(|| path.child("name"), name, validate::dns1123_label(name));
        }
        if !names.insert(name) {
            errs.add_duplicate(&path.child("name"), name);
        }
        one_of(&mut errs, port.protocol.text(), &["SCTP", "TCP", "UDP"], &path.child("protocol"));
        if let Some(protocol) = &port.app_protocol {
            errs.add_all(&path.child("appProtocol"), protocol, validate::qualified_name(protocol));
        }
    }
    errs
}

fn endpoints(endpoints: &[Endpoint], address_type: &str) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errs.add_too_many(&path, endpoints.len(), MAX_ENDPOINTS);
        return errs;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i);
        let at = path.child("addresses");
        if endpoint.addresses.is_empty() {
            errs.add_required(&at, "must contain at least 1 address");
        } else if endpoint.addresses.len() > MAX_ADDRESSES {
            errs.add_too_many(&at, endpoint.addresses.len(), MAX_ADDRESSES);
        }
        for (j, address) in endpoint.addresses.iter().enumerate() {
            validate_address(&mut errs, address, address_type, &at, j);
        }
        if let Some(node) = &endpoint.node_name {
            errs.add_all_at(|| path.child("nodeName"), node, validate::dns1123_subdomain(node));
        }
        let topology = path.child("deprecatedTopology");
        if let Some(labels) = endpoint.deprecated_topology.as_ref().filter(|l| l.len() > MAX_TOPOLOGY_LABELS)
        {
            errs.add_too_many(&topology, labels.len(), MAX_TOPOLOGY_LABELS);
        }
        errs.extend(label_map(endpoint.deprecated_topology.pairs(), &topology));
        if let Some(hostname) = &endpoint.hostname {
            errs.add_all_at(|| path.child("hostname"), hostname, validate::dns1123_label(hostname));
        }
        if let Some(hints) = &endpoint.hints {
            let path = path.child("hints");
            let zones: Vec<&str> = hints.for_zones.items().iter().map(|z| z.name.as_str()).collect();
            validate_hints(&mut errs, &zones, validate::label_value, &path.child("forZones"));
            let nodes: Vec<&str> = hints.for_nodes.items().iter().map(|n| n.name.as_str()).collect();
            validate_hints(&mut errs, &nodes, validate::dns1123_subdomain, &path.child("forNodes"));
        }
    }
    errs
}

fn validate_address(errs: &mut ErrorList, address: &str, address_type: &str, list: &Path, index: usize) {
    let path = list.index(index);
    let (own, v4) = match address_type {
        "IPv4" => (ip::validate_legacy(&path, address, &[]), true),
        "IPv6" => (ip::validate(&path, address), false),
        "FQDN" => {
            let name = address.strip_suffix('.').unwrap_or(address);
            if address.is_empty() {
                errs.add_required(&path, "");
            } else if !validate::dns1123_subdomain(name).is_empty() {
                errs.add_all(&path, address, validate::dns1123_subdomain(name));
            } else if name.split('.').count() < 2 {
                let detail = "should be a domain with at least two segments separated by dots";
                errs.add_invalid(&path, address, detail);
            }
            return;
        }
        _ => return,
    };
    if !own.is_empty() {
        errs.extend(own);
        return;
    }
    if ip::parse_sloppy(address).is_some_and(|ip| ip.is_ipv4() != v4) {
        let family = if v4 { "IPv4" } else { "IPv6" };
        errs.add_invalid(list, address, format!("must be an {family} address"));
    }
    errs.extend(ip::validate_endpoint(&path, address));
}

fn validate_hints(errs: &mut ErrorList, names: &[&str], rule: fn(&str) -> Vec<String>, path: &Path) {
    if names.len() > MAX_HINTS {
        errs.add_too_many(path, names.len(), MAX_HINTS);
        return;
    }
    for (i, name) in names.iter().enumerate() {
        let path = path.index(i).child("name");
        if names[..i].contains(name) {
            errs.add_duplicate(&path, name);
        }
        errs.add_all(&path, name, rule(name));
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let ports = list(obj, &["ports"]).iter().map(|p| match at(p, &["port"]).and_then(Value::as_i64) {
        Some(port) => port.to_string(),
        None => match p.get("name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => "*".to_owned(),
        },
    });
    let addresses = list(obj, &["endpoints"]).iter().flat_map(|e| list(e, &["addresses"]));
    let addresses = addresses.filter_map(Value::as_str).map(str::to_owned);
    vec![
        cells::name(obj),
        text(obj, &["addressType"]).into(),
        three(ports).into(),
        three(addresses).into(),
        cells::age(obj, now),
    ]
}

/// Three items and how many more there are.
fn three(items: impl Iterator<Item = String>) -> String {
    const MAX: usize = 3;
    let items: Vec<String> = items.collect();
    let shown = items[..items.len().min(MAX)].join(",");
    match items.len() {
        n if n > MAX => format!("{shown} + {} more...", n - MAX),
        _ if shown.is_empty() => "<unset>".to_owned(),
        _ => shown,
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(EndpointSlices).cells(cells).fixture(include_str!("testdata/endpointslice.yaml"))
}
