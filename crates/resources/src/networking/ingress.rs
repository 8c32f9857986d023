//! Ingresses (networking.k8s.io/v1): pkg/registry/networking/ingress.

use super::ingressclass::typed_reference;
use crate::util::value::{list, object, text};
use crate::util::{Errs, Items, Pairs, Text, cells, ip};
use knarr_api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressTLS};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::SystemTime;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: &[&str] = &["/..", "/."];
/// Hosts shown in a table cell.
const SHOWN_HOSTS: usize = 3;
/// Characters of addresses shown in a table cell.
const SHOWN_ADDRESSES: usize = 16;

struct Ingresses;

impl Strategy for Ingresses {
    type Object = Ingress;

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({"loadBalancer": {}}));
    }

    fn validate(&self, cx: &RequestCx, obj: &Ingress) -> ErrorList {
        let mut errs = self.validate_update(cx, obj, &Ingress::default());
        let class = obj.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref());
        if let (Some(annotation), Some(class)) = (obj.metadata.annotations.at(CLASS_ANNOTATION), class)
            && annotation != class
        {
            let at = Path::new("annotations").child(CLASS_ANNOTATION);
            errs.add_invalid(&at, annotation, "must match `ingressClassName` when both are specified");
        }
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &Ingress, _old: &Ingress) -> ErrorList {
        let mut errs = ErrorList::default();
        let spec = new.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let rules = spec.rules.items();
        if rules.is_empty() && spec.default_backend.is_none() {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errs.add_invalid(&path, json!([]), detail);
        }
        if let Some(backend) = &spec.default_backend {
            validate_backend(&mut errs, backend, &path.child("defaultBackend"));
        }
        for (i, rule) in rules.iter().enumerate() {
            validate_rule(&mut errs, rule, &path.child("rules").index(i));
        }
        for (i, tls) in spec.tls.items().iter().enumerate() {
            validate_tls(&mut errs, tls, &path.child("tls").index(i));
        }
        if let Some(class) = &spec.ingress_class_name {
            errs.add_all(&path.child("ingressClassName"), class, validate::dns1123_subdomain(class));
        }
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &Ingress, old: &Ingress) -> ErrorList {
        let mut errs = ErrorList::default();
        let points = |ingress: &Ingress| {
            let status = ingress.status.clone().and_then(|s| s.load_balancer);
            status.and_then(|b| b.ingress).unwrap_or_default()
        };
        let known: Vec<String> = points(old).into_iter().filter_map(|p| p.ip).collect();
        let path = Path::new("status").child("loadBalancer").child("ingress");
        for (i, point) in points(new).iter().enumerate() {
            let (address, host) = (point.ip.text(), point.hostname.text());
            let path = path.index(i);
            if !address.is_empty() {
                errs.extend(ip::validate_legacy(&path.child("ip"), address, &known));
            }
            if !host.is_empty() {
                let at = path.child("hostname");
                errs.add_all(&at, host, validate::dns1123_subdomain(host));
                not_an_address(&mut errs, host, &at);
            }
        }
        errs
    }

    fn warnings(&self, _cx: &RequestCx, new: &Ingress, old: Option<&Ingress>) -> Vec<String> {
        let class = new.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref());
        let deprecated = new.metadata.annotations.at(CLASS_ANNOTATION).is_some() && class.is_none();
        if old.is_none() && deprecated {
            vec![format!(
                "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
            )]
        } else {
            Vec::new()
        }
    }
}

fn not_an_address(errs: &mut ErrorList, host: &str, path: &Path) {
    if ip::parse_sloppy(host).is_some() {
        errs.add_invalid(path, host, "must be a DNS name, not an IP address");
    }
}

fn host_name(errs: &mut ErrorList, host: &str, path: &Path) {
    let problems = if host.contains('*') {
        validate::wildcard_dns1123_subdomain(host)
    } else {
        validate::dns1123_subdomain(host)
    };
    errs.add_all(path, host, problems);
}

fn validate_rule(errs: &mut ErrorList, rule: &IngressRule, path: &Path) {
    let host = rule.host.text();
    if !host.is_empty() {
        let at = path.child("host");
        not_an_address(errs, host, &at);
        host_name(errs, host, &at);
    }
    let Some(http) = &rule.http else { return };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        errs.add_required(&path, "");
    }
    for (i, item) in http.paths.iter().enumerate() {
        validate_path(errs, item, &path.index(i));
    }
}

fn validate_path(errs: &mut ErrorList, item: &HTTPIngressPath, path: &Path) {
    let (target, at) = (item.path.text(), path.child("path"));
    match item.path_type.as_str() {
        "" => {
            errs.add_required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                errs.add_invalid(&at, target, "must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| target.contains(**bad)) {
                errs.add_invalid(&at, target, format!("must not contain '{bad}'"));
            }
            for bad in BAD_SUFFIXES.iter().filter(|bad| target.ends_with(**bad)) {
                errs.add_invalid(&at, target, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                errs.add_invalid(&at, target, "must be an absolute path");
            }
        }
        other => errs.add_not_supported(&path.child("pathType"), other, PATH_TYPES),
    }
    validate_backend(errs, &item.backend, &path.child("backend"));
}

fn validate_backend(errs: &mut ErrorList, backend: &IngressBackend, path: &Path) {
    let service = match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            errs.add_invalid(path, "", "cannot set both resource and service backends");
            return;
        }
        (Some(resource), None) => {
            let path = path.child("resource");
            typed_reference(errs, resource.api_group.as_deref(), &resource.kind, &resource.name, &path);
            return;
        }
        (None, None) => {
            errs.add_invalid(path, "", "resource or service backend is required");
            return;
        }
        (None, Some(service)) => service,
    };
    let at = path.child("service");
    if service.name.is_empty() {
        errs.add_required(&at.child("name"), "");
    } else {
        errs.add_all(&at.child("name"), &service.name, validate::dns1123_label(&service.name));
    }
    let port = service.port.clone().unwrap_or_default();
    let at = at.child("port");
    match (port.name.text(), port.number.unwrap_or_default()) {
        ("", 0) => errs.add_required(path, "port name or number is required"),
        ("", number) => {
            for detail in validate::port_num(i64::from(number)) {
                errs.add_invalid(&at.child("number"), number, detail);
            }
        }
        (name, 0) => errs.add_all(&at.child("name"), name, validate::port_name(name)),
        _ => errs.add_invalid(path, "", "cannot set both port name & port number"),
    }
}

fn validate_tls(errs: &mut ErrorList, tls: &IngressTLS, path: &Path) {
    for (i, host) in tls.hosts.items().iter().enumerate() {
        host_name(errs, host, &path.child("hosts").index(i));
    }
    let secret = tls.secret_name.text();
    if !secret.is_empty() {
        errs.add_all(&path.child("secretName"), secret, validate::dns1123_subdomain(secret));
    }
}

fn hosts(rules: &[Value]) -> String {
    let mut hosts = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == SHOWN_HOSTS;
        let host = text(rule, &["host"]);
        if !more && !host.is_empty() {
            hosts.push(host);
        }
    }
    match (hosts.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - SHOWN_HOSTS),
        (false, false) => hosts.join(","),
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let addresses: BTreeSet<&str> = list(obj, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|point| match text(point, &["ip"]) {
            "" => text(point, &["hostname"]),
            address => address,
        })
        .filter(|address| !address.is_empty())
        .collect();
    let mut addresses = addresses.into_iter().collect::<Vec<_>>().join(",");
    if addresses.len() > SHOWN_ADDRESSES {
        addresses.truncate(SHOWN_ADDRESSES - 3);
        addresses.push_str("...");
    }
    let class = obj["spec"].get("ingressClassName").and_then(Value::as_str).unwrap_or(cells::NONE);
    vec![
        cells::name(obj),
        class.into(),
        hosts(list(obj, &["spec", "rules"])).into(),
        addresses.into(),
        if list(obj, &["spec", "tls"]).is_empty() { "80".into() } else { "80, 443".into() },
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Ingresses).status().cells(cells).fixture(include_str!("testdata/ingress.yaml"))
}
