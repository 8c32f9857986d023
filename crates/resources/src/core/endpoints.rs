//! Endpoints (core/v1), replaced by EndpointSlices but still served: pkg/registry/core/endpoint.

use super::pod::validation::containers::port_number;
use super::pod::validation::one_of;
use crate::util::value::{each, list, number, object, set_default, text};
use crate::util::{Errs, Items, Text, cells, ip};
use knarr_api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::time::SystemTime;

struct AllEndpoints;

impl Strategy for AllEndpoints {
    type Object = Endpoints;

    fn default(&self, obj: &mut Value) {
        each(object(obj), "subsets", |subset| {
            each(subset, "ports", |port| set_default(port, "protocol", "TCP"));
        });
    }

    fn validate(&self, _cx: &RequestCx, obj: &Endpoints) -> ErrorList {
        subsets(obj.subsets.items())
    }

    fn validate_update(&self, _cx: &RequestCx, new: &Endpoints, old: &Endpoints) -> ErrorList {
        // What was accepted once stays acceptable.
        if new.subsets == old.subsets { ErrorList::default() } else { subsets(new.subsets.items()) }
    }

    fn warnings(&self, _cx: &RequestCx, new: &Endpoints, _old: Option<&Endpoints>) -> Vec<String> {
        let mut out =
            vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()];
        for (i, subset) in new.subsets.items().iter().enumerate() {
            for (field, addresses) in
                [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
            {
                for (j, address) in addresses.items().iter().enumerate() {
                    let path = Path::new("subsets").index(i).child(field).index(j).child("ip");
                    out.extend(ip::warning(&path, &address.ip));
                }
            }
        }
        out
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn subsets(subsets: &[EndpointSubset]) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, subset) in subsets.iter().enumerate() {
        let path = Path::new("subsets").index(i);
        let (ready, not_ready) = (subset.addresses.items(), subset.not_ready_addresses.items());
        if ready.is_empty() && not_ready.is_empty() {
            errs.add_required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (j, address) in addresses.iter().enumerate() {
                validate_address(&mut errs, address, &path.child(field).index(j));
            }
        }
        let ports = subset.ports.items();
        for (j, port) in ports.iter().enumerate() {
            validate_port(&mut errs, port, ports.len() > 1, &path.child("ports").index(j));
        }
    }
    errs
}

fn validate_address(errs: &mut ErrorList, address: &EndpointAddress, path: &Path) {
    errs.extend(ip::validate_legacy(&path.child("ip"), &address.ip, &[]));
    let hostname = address.hostname.text();
    if !hostname.is_empty() {
        errs.add_all(&path.child("hostname"), hostname, validate::dns1123_label(hostname));
    }
    if let Some(node) = &address.node_name {
        errs.add_all(&path.child("nodeName"), node, validate::dns1123_subdomain(node));
    }
    errs.extend(ip::validate_endpoint(&path.child("ip"), &address.ip));
}

fn validate_port(errs: &mut ErrorList, port: &EndpointPort, require_name: bool, path: &Path) {
    let name = port.name.text();
    if !name.is_empty() {
        errs.add_all(&path.child("name"), name, validate::dns1123_label(name));
    } else if require_name {
        errs.add_required(&path.child("name"), "");
    }
    port_number(errs, port.port, || path.child("port"));
    one_of(errs, port.protocol.text(), &["SCTP", "TCP", "UDP"], &path.child("protocol"));
    if let Some(protocol) = &port.app_protocol {
        errs.add_all(&path.child("appProtocol"), protocol, validate::qualified_name(protocol));
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), format(obj).into(), cells::age(obj, now)]
}

/// Three addresses with their ports, and how many more there are.
fn format(obj: &Value) -> String {
    const MAX: usize = 3;
    let subsets = list(obj, &["subsets"]);
    if subsets.is_empty() {
        return cells::NONE.to_owned();
    }
    let (mut shown, mut count) = (Vec::new(), 0);
    for subset in subsets {
        let addresses = list(subset, &["addresses"]);
        let ports = list(subset, &["ports"]);
        let lines: Vec<Option<i64>> = if ports.is_empty() {
            vec![None]
        } else {
            ports.iter().map(|p| Some(number(p, &["port"]))).collect()
        };
        for port in lines {
            count += addresses.len();
            for address in addresses {
                if shown.len() < MAX {
                    let ip = text(address, &["ip"]);
                    shown.push(match port {
                        None => ip.to_owned(),
                        Some(port) if ip.contains(':') => format!("[{ip}]:{port}"),
                        Some(port) => format!("{ip}:{port}"),
                    });
                }
            }
        }
    }
    let text = shown.join(",");
    if count > MAX { format!("{text} + {} more...", count - MAX) } else { text }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(AllEndpoints).cells(cells).fixture(include_str!("testdata/endpoints.yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_beyond_three_are_counted() {
        let address = |n: u8| json!({"ip": format!("10.0.0.{n}")});
        let few = json!({"subsets":[{"addresses":[address(1)],"ports":[{"port":80}]}]});
        assert_eq!(format(&few), "10.0.0.1:80");
        let many = json!({"subsets":[{"addresses":(1..=5).map(address).collect::<Vec<_>>()}]});
        assert_eq!(format(&many), "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...");
        assert_eq!(format(&json!({})), "<none>");
    }
}
