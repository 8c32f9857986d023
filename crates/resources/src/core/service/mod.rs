//! Services (core/v1): pkg/registry/core/service. Addresses are IPAddress objects under the ServiceCIDRs
//! (KEP-1880), node ports are what the services themselves say; both are reserved before a write and given
//! back when it fails. `services/proxy` is served by the streaming part of the front half.

mod addresses;
mod allocate;
mod families;
mod ports;
mod validation;

pub use addresses::{address_object, is_managed};
pub use ports::NODE_PORTS;

use crate::util::value::{
    Object, each, ensure, flag, list, number, object, set_absent, set_default, sub, text,
};
use crate::util::{Items, Text, cells, ip};
use allocate::Allocator;
use futures_util::future::BoxFuture;
use knarr_api::core::v1::Service;
use knarr_apiserver::def::{Reservation, ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::status::Status;
use knarr_meta::validate;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

/// Seconds a client stays with its endpoint unless the service says otherwise (three hours).
const AFFINITY_SECONDS: i64 = 10800;

#[derive(Default)]
struct Services {
    allocator: Arc<Allocator>,
}

impl Strategy for Services {
    type Object = Service;

    fn default(&self, obj: &mut Value) {
        default(object(obj));
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({"loadBalancer": {}}));
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        drop_type_dependent_fields(new, old);
    }

    fn validate(&self, _cx: &RequestCx, obj: &Service) -> ErrorList {
        validation::service(obj, None)
    }

    fn validate_update(&self, _cx: &RequestCx, new: &Service, old: &Service) -> ErrorList {
        let mut errs = validation::update(new, old);
        errs.extend(validation::service(new, Some(old)));
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &Service, old: &Service) -> ErrorList {
        validation::load_balancer(new, old)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        validate::dns1123_label(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn warnings(&self, _cx: &RequestCx, new: &Service, old: Option<&Service>) -> Vec<String> {
        let mut out = Vec::new();
        let Some(spec) = &new.spec else { return out };
        const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
        if new.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(HINTS)) {
            out.push(format!(
                "metadata.annotations[{HINTS}]: annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
            ));
        }
        let path = Path::new("spec");
        let families_before = old.and_then(|o| o.spec.as_ref());
        if families_before.is_none_or(|o| o.cluster_ips != spec.cluster_ips) {
            for (i, address) in spec.cluster_ips.items().iter().enumerate().filter(|(_, a)| *a != "None") {
                out.extend(ip::warning(&path.child("clusterIPs").index(i), address));
            }
        }
        for (i, address) in spec.external_ips.items().iter().enumerate() {
            out.extend(ip::warning(&path.child("externalIPs").index(i), address));
        }
        if !spec.load_balancer_ip.text().is_empty() {
            out.extend(ip::warning(&path.child("loadBalancerIP"), spec.load_balancer_ip.text()));
        }
        let headless = spec.cluster_ip.text() == "None";
        if headless && spec.session_affinity.text() == "ClientIP" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
        if spec.type_.text() == "ExternalName" && !spec.external_ips.items().is_empty() {
            out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
        }
        if spec.type_.text() != "ExternalName" && !spec.external_name.text().is_empty() {
            out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
        }
        out
    }

    fn begin_create<'a>(
        &'a self,
        cx: &'a RequestCx,
        obj: &'a mut Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(self.allocator.create(cx, obj))
    }

    fn begin_update<'a>(
        &'a self,
        cx: &'a RequestCx,
        new: &'a mut Value,
        old: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(self.allocator.update(cx, new, old))
    }

    fn after_delete<'a>(&'a self, cx: &'a RequestCx, obj: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (namespace, name) = (text(obj, &["metadata", "namespace"]), text(obj, &["metadata", "name"]));
            for address in list(obj, &["spec", "clusterIPs"]).iter().filter_map(Value::as_str) {
                addresses::release(cx, namespace, name, address).await;
            }
            let url = format!("/api/v1/namespaces/{namespace}/endpoints/{name}");
            if cx.reader.get("", "endpoints", namespace, name).is_some() {
                addresses::forget(cx.loopback.call(http::Method::DELETE, &url, &Value::Null).await, &url);
            }
        })
    }
}

fn default(obj: &mut Object) {
    let external = externally_accessible(&Value::Object(obj.clone()));
    let spec = ensure(obj, "spec");
    set_default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP" {
        let config = ensure(ensure(spec, "sessionAffinityConfig"), "clientIP");
        set_absent(config, "timeoutSeconds", AFFINITY_SECONDS);
    }
    set_default(spec, "type", "ClusterIP");
    each(spec, "ports", |port| {
        set_default(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            set_default(port, "targetPort", number);
        }
    });
    if external {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(status) = sub(obj, "status")
            && let Some(balancer) = sub(status, "loadBalancer")
        {
            each(balancer, "ingress", |ingress| {
                if ingress.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
                    set_absent(ingress, "ipMode", "VIP");
                }
            });
        }
    }
}

/// Whether clients outside the cluster reach the service.
fn externally_accessible(service: &Value) -> bool {
    match text(service, &["spec", "type"]) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" | "" => !list(service, &["spec", "externalIPs"]).is_empty(),
        _ => false,
    }
}

fn needs_cluster_ip(service: &Value) -> bool {
    text(service, &["spec", "type"]) != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    matches!(text(service, &["spec", "type"]), "NodePort" | "LoadBalancer")
}

fn needs_health_check(service: &Value) -> bool {
    text(service, &["spec", "type"]) == "LoadBalancer"
        && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn node_ports(service: &Value) -> BTreeSet<i64> {
    list(service, &["spec", "ports"]).iter().map(|p| number(p, &["nodePort"])).filter(|p| *p != 0).collect()
}

/// What only the old type had goes with it, unless the client changed it in the same request.
fn drop_type_dependent_fields(new: &mut Value, old: &Value) {
    let same = |new: &Value, field: &str| new["spec"][field] == old["spec"][field];
    let mut gone: Vec<&str> = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        if same(new, "clusterIP") && same(new, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| same(new, f)));
        // Upstream takes it out when it reads such a service.
        gone.extend(["internalTrafficPolicy"].into_iter().filter(|f| same(new, f)));
    }
    let lost_ports =
        has_node_ports(old) && !has_node_ports(new) && node_ports(old).is_superset(&node_ports(new));
    if needs_health_check(old) && !needs_health_check(new) && same(new, "healthCheckNodePort") {
        gone.push("healthCheckNodePort");
    }
    let balanced = |s: &Value| text(s, &["spec", "type"]) == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        gone.extend(
            ["allocateLoadBalancerNodePorts", "loadBalancerClass"].into_iter().filter(|f| same(new, f)),
        );
    }
    if externally_accessible(old) && !externally_accessible(new) && same(new, "externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    let drop_status = !balanced(new);
    let map = object(new);
    let spec = ensure(map, "spec");
    for field in gone {
        spec.remove(field);
    }
    if lost_ports {
        each(spec, "ports", |port| {
            port.remove("nodePort");
        });
    }
    if drop_status {
        ensure(map, "status").insert("loadBalancer".to_owned(), json!({}));
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let ports: Vec<String> = list(obj, &["spec", "ports"])
        .iter()
        .map(|p| {
            let (port, node_port) = (number(p, &["port"]), number(p, &["nodePort"]));
            let protocol = text(p, &["protocol"]);
            if node_port > 0 {
                format!("{port}:{node_port}/{protocol}")
            } else {
                format!("{port}/{protocol}")
            }
        })
        .collect();
    let address = list(obj, &["spec", "clusterIPs"]).first().and_then(Value::as_str);
    vec![
        cells::name(obj),
        text(obj, &["spec", "type"]).into(),
        address.unwrap_or(cells::NONE).into(),
        external_address(obj).into(),
        cells::or_none(ports.join(",")),
        cells::age(obj, now),
        cells::labels(&obj["spec"]["selector"]).into(),
    ]
}

fn external_address(obj: &Value) -> String {
    let external: Vec<&str> = list(obj, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match text(obj, &["spec", "type"]) {
        "ClusterIP" | "NodePort" if external.is_empty() => cells::NONE.to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let ingress = list(obj, &["status", "loadBalancer", "ingress"]).iter();
            let given: BTreeSet<&str> = ingress
                .map(|i| match text(i, &["ip"]) {
                    "" => text(i, &["hostname"]),
                    ip => ip,
                })
                .filter(|a| !a.is_empty())
                .collect();
            let all: Vec<&str> = given.into_iter().chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(obj, &["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Whether node ports are to be chosen for a service of its type.
fn allocates_node_ports(service: &Value) -> bool {
    match text(service, &["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => flag(service, &["spec", "allocateLoadBalancerNodePorts"]),
        _ => false,
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(<Services as Default>::default())
        .status()
        .cells(cells)
        .selectable(&[("spec.clusterIP", &["spec", "clusterIP"], ""), ("spec.type", &["spec", "type"], "")])
        .fixture(include_str!("../testdata/service.yaml"))
}
