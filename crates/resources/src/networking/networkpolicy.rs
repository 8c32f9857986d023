//! NetworkPolicies (networking.k8s.io/v1): pkg/registry/networking/networkpolicy.

use crate::core::pod::validation::scheduling::label_selector;
use crate::util::value::{Object, each, ensure, object, set_default};
use crate::util::{Errs, Items, cells, ip};
use knarr_api::IntOrString;
use knarr_api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const TYPES: &[&str] = &["Ingress", "Egress"];

struct NetworkPolicies;

impl Strategy for NetworkPolicies {
    type Object = NetworkPolicy;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        let has = |spec: &Object, field: &str| {
            spec.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
        };
        if !has(spec, "policyTypes") {
            let types = if has(spec, "egress") { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            spec.insert("policyTypes".to_owned(), types);
        }
        for direction in ["ingress", "egress"] {
            each(spec, direction, |rule| {
                each(rule, "ports", |port| set_default(port, "protocol", "TCP"));
            });
        }
    }

    fn validate(&self, cx: &RequestCx, obj: &NetworkPolicy) -> ErrorList {
        self.validate_update(cx, obj, &NetworkPolicy::default())
    }

    fn validate_update(&self, _cx: &RequestCx, new: &NetworkPolicy, old: &NetworkPolicy) -> ErrorList {
        let known = old.spec.as_ref().map(ranges).unwrap_or_default();
        validate_spec(&new.spec.clone().unwrap_or_default(), &known)
    }

    fn warnings(&self, _cx: &RequestCx, new: &NetworkPolicy, _old: Option<&NetworkPolicy>) -> Vec<String> {
        let Some(spec) = &new.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut out = Vec::new();
        for (i, rule) in spec.ingress.items().iter().enumerate() {
            out.extend(peer_warnings(rule.from.items(), &path.child("ingress").index(i).child("from")));
        }
        for (i, rule) in spec.egress.items().iter().enumerate() {
            out.extend(peer_warnings(rule.to.items(), &path.child("egress").index(i).child("to")));
        }
        out
    }
}

fn peer_warnings(peers: &[NetworkPolicyPeer], path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for (i, block) in peers.iter().enumerate().filter_map(|(i, peer)| Some((i, peer.ip_block.as_ref()?))) {
        let path = path.index(i).child("ipBlock");
        out.extend(ip::cidr_warnings(&path.child("cidr"), &block.cidr));
        for (i, except) in block.except.items().iter().enumerate() {
            out.extend(ip::cidr_warnings(&path.child("except").index(i), except));
        }
    }
    out
}

/// All ranges in a policy, which an update may keep even if they are no longer valid.
fn ranges(spec: &NetworkPolicySpec) -> Vec<String> {
    let from = spec.ingress.items().iter().flat_map(|rule| rule.from.items());
    let to = spec.egress.items().iter().flat_map(|rule| rule.to.items());
    from.chain(to)
        .filter_map(|peer| peer.ip_block.as_ref())
        .flat_map(|block| std::iter::once(&block.cidr).chain(block.except.items()))
        .cloned()
        .collect()
}

fn validate_spec(spec: &NetworkPolicySpec, known: &[String]) -> ErrorList {
    let path = Path::new("spec");
    let mut errs = label_selector(spec.pod_selector.as_ref(), &path.child("podSelector"));
    for (i, rule) in spec.ingress.items().iter().enumerate() {
        let path = path.child("ingress").index(i);
        validate_rule(&mut errs, rule.ports.items(), rule.from.items(), "from", known, &path);
    }
    for (i, rule) in spec.egress.items().iter().enumerate() {
        let path = path.child("egress").index(i);
        validate_rule(&mut errs, rule.ports.items(), rule.to.items(), "to", known, &path);
    }
    let types = spec.policy_types.items();
    let path = path.child("policyTypes");
    if types.len() > TYPES.len() {
        errs.add_invalid(&path, types, "may not specify more than two policyTypes");
        return errs;
    }
    for (i, kind) in types.iter().enumerate() {
        if !TYPES.contains(&kind.as_str()) {
            errs.add_not_supported(&path.index(i), kind, TYPES);
        }
    }
    errs
}

fn validate_rule(
    errs: &mut ErrorList,
    ports: &[NetworkPolicyPort],
    peers: &[NetworkPolicyPeer],
    field: &'static str,
    known: &[String],
    path: &Path,
) {
    for (i, port) in ports.iter().enumerate() {
        validate_port(errs, port, &path.child("ports").index(i));
    }
    for (i, peer) in peers.iter().enumerate() {
        validate_peer(errs, peer, known, &path.child(field).index(i));
    }
}

fn validate_port(errs: &mut ErrorList, port: &NetworkPolicyPort, path: &Path) {
    if let Some(protocol) = &port.protocol
        && !PROTOCOLS.contains(&protocol.as_str())
    {
        errs.add_not_supported(&path.child("protocol"), protocol, PROTOCOLS);
    }
    let (at, end_at) = (path.child("port"), path.child("endPort"));
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(number)), end) => {
            for detail in validate::port_num(i64::from(*number)) {
                errs.add_invalid(&at, number, detail);
            }
            let Some(end) = end else { return };
            if end < *number {
                errs.add_invalid(&end_at, number, "must be greater than or equal to `port`");
            }
            for detail in validate::port_num(i64::from(end)) {
                errs.add_invalid(&end_at, end, detail);
            }
        }
        (Some(IntOrString::String(name)), end) => {
            if let Some(end) = end {
                errs.add_invalid(&end_at, end, "may not be specified when `port` is non-numeric");
            }
            errs.add_all(&at, name, validate::port_name(name));
        }
        (None, Some(end)) => {
            errs.add_invalid(&end_at, end, "may not be specified when `port` is not specified");
        }
        (None, None) => {}
    }
}

fn validate_peer(errs: &mut ErrorList, peer: &NetworkPolicyPeer, known: &[String], path: &Path) {
    if let Some(selector) = &peer.pod_selector {
        errs.extend(label_selector(Some(selector), &path.child("podSelector")));
    }
    if let Some(selector) = &peer.namespace_selector {
        errs.extend(label_selector(Some(selector), &path.child("namespaceSelector")));
    }
    if let Some(block) = &peer.ip_block {
        validate_block(errs, block, known, &path.child("ipBlock"));
    }
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match (&peer.ip_block, selects) {
        (None, false) => errs.add_required(path, "must specify a peer"),
        (Some(_), true) => errs.add_forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn validate_block(errs: &mut ErrorList, block: &IPBlock, known: &[String], path: &Path) {
    if block.cidr.is_empty() {
        errs.add_required(&path.child("cidr"), "");
        return;
    }
    errs.extend(ip::validate_cidr_legacy(&path.child("cidr"), &block.cidr, known));
    let Some(range) = ip::Cidr::parse(&block.cidr) else { return };
    for (i, except) in block.except.items().iter().enumerate() {
        let at = path.child("except").index(i);
        errs.extend(ip::validate_cidr_legacy(&at, except, known));
        let Some(inner) = ip::Cidr::parse(except) else { continue };
        if !range.contains(&inner.network) || range.prefix >= inner.prefix {
            errs.add_invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), cells::selector(&obj["spec"]["podSelector"]).into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(NetworkPolicies).cells(cells).fixture(include_str!("testdata/networkpolicy.yaml"))
}
