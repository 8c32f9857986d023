//! CertificateSigningRequests (certificates.k8s.io/v1): pkg/registry/certificates.

use crate::util::value::{Object, at, ensure, keep, list, object, sub, text};
use crate::util::{Errs, Items, cells};
use knarr_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_apiserver::def::{ResourceDef, Strategy, SubKind, Subresource};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::{time, validate};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const MIN_SECONDS: i32 = 600;
const MAX_DOMAIN: usize = 253;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const DECISIONS: &[&str] = &["Approved", "Denied"];

struct Requests;

impl Strategy for Requests {
    type Object = CertificateSigningRequest;

    fn prepare_for_create(&self, cx: &RequestCx, obj: &mut Value) {
        let obj = object(obj);
        obj.insert("status".to_owned(), json!({}));
        let spec = ensure(obj, "spec");
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        let user = &cx.user;
        spec.insert("username".to_owned(), user.name.as_str().into());
        if !user.uid.is_empty() {
            spec.insert("uid".to_owned(), user.uid.as_str().into());
        }
        if !user.groups.is_empty() {
            spec.insert("groups".to_owned(), json!(user.groups));
        }
        if !user.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(user.extra));
        }
    }

    fn prepare_for_update(&self, cx: &RequestCx, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        if cx.info.subresource.is_empty() {
            keep(new, old, "status");
        }
    }

    fn prepare_for_status_update(&self, cx: &RequestCx, new: &mut Value, old: &Value) {
        for decision in DECISIONS {
            keep_conditions(new, old, decision);
        }
        stamp(cx, new, old);
    }

    fn validate(&self, _cx: &RequestCx, obj: &CertificateSigningRequest) -> ErrorList {
        let mut errs = spec(obj);
        errs.extend(conditions(obj, false));
        errs
    }

    fn validate_update(
        &self,
        cx: &RequestCx,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> ErrorList {
        update(new, old, if cx.info.subresource == "approval" { Change::Approval } else { Change::None })
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> ErrorList {
        update(new, old, Change::Certificate)
    }

    fn validate_name(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// What an update may set in the status.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    None,
    Approval,
    Certificate,
}

/// The `approval` subresource changes conditions, and nothing else.
fn approval() -> Subresource {
    Subresource {
        name: "approval",
        kind: ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
        verbs: &["get", "patch", "update"],
        serve: SubKind::Partial(|cx, new, old| {
            stamp(cx, new, old);
            let conditions = at(new, &["status", "conditions"]).cloned();
            keep(new, old, "spec");
            keep(new, old, "status");
            let status = ensure(object(new), "status");
            match conditions {
                Some(conditions) => status.insert("conditions".to_owned(), conditions),
                None => status.remove("conditions"),
            };
        }),
    }
}

fn indices(obj: &Value, kind: &str) -> Vec<usize> {
    let conditions = list(obj, &["status", "conditions"]).iter().enumerate();
    conditions.filter(|(_, c)| text(c, &["type"]) == kind).map(|(i, _)| i).collect()
}

/// Decisions are not the status writer's.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let (of_new, of_old) = (indices(new, kind), indices(old, kind));
    if of_new.len() == of_old.len() {
        for (new_at, old_at) in of_new.into_iter().zip(of_old) {
            new["status"]["conditions"][new_at] = old["status"]["conditions"][old_at].clone();
        }
    }
}

/// Fills the times of conditions.
fn stamp(cx: &RequestCx, new: &mut Value, old: &Value) {
    let now = time::rfc3339(cx.ctx.clock.now());
    let absent = |c: &Object, field: &str| c.get(field).is_none_or(|v| v.is_null() || v == "");
    let Some(conditions) = sub(object(new), "status").and_then(|s| s.get_mut("conditions")) else { return };
    for condition in conditions.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if absent(condition, "lastUpdateTime") {
            condition.insert("lastUpdateTime".to_owned(), now.as_str().into());
        }
        if absent(condition, "lastTransitionTime") {
            let same = |c: &&Value| {
                ["type", "status"].iter().all(|field| c.get(*field) == condition.get(*field))
                    && c["lastTransitionTime"].is_string()
            };
            let before = list(old, &["status", "conditions"]).iter().find(same);
            let since = before.map_or_else(|| now.as_str().into(), |c| c["lastTransitionTime"].clone());
            condition.insert("lastTransitionTime".to_owned(), since);
        }
    }
}

fn spec(csr: &CertificateSigningRequest) -> ErrorList {
    let mut errs = ErrorList::default();
    let (spec, path) = (&csr.spec, Path::new("spec"));
    if let Err(problem) = parse(&spec.request.0) {
        let value = serde_json::to_value(&spec.request).unwrap_or_default();
        errs.add_invalid(&path.child("request"), value, problem);
    }
    let (usages, at) = (spec.usages.items(), path.child("usages"));
    if usages.is_empty() {
        errs.add_required(&at, "");
    }
    for (i, usage) in usages.iter().enumerate().filter(|(_, u)| !USAGES.contains(&u.as_str())) {
        errs.add_not_supported(&at.index(i), usage, USAGES);
    }
    for (i, usage) in usages.iter().enumerate().filter(|(i, u)| usages[..*i].contains(u)) {
        errs.add_duplicate(&at.index(i), usage);
    }
    let at = path.child("signerName");
    if spec.signer_name == LEGACY_SIGNER {
        let detail = "the legacy signerName is not allowed via this API version";
        errs.add_invalid(&at, &spec.signer_name, detail);
    } else {
        signer_name(&mut errs, &spec.signer_name, &at);
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|s| *s < MIN_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errs.add_invalid(&path.child("expirationSeconds"), seconds, detail);
    }
    errs
}

fn parse(pem: &[u8]) -> Result<(), String> {
    let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
    let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|_| "asn1: structure error: malformed certificate request")?;
    request.verify_signature().map_err(|_| "x509: certificate request signature is not valid".to_owned())
}

/// Errors of the name of a signer, such as `example.com/signer`.
pub fn signer_name(errs: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errs.add_required(path, "");
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts.as_slice() else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errs.add_invalid(path, name, detail);
        return;
    };
    if domain.len() > MAX_DOMAIN {
        errs.add_too_long(path, MAX_DOMAIN);
    }
    first_bad_label(errs, domain, validate::dns1123_label, path);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errs.add_invalid(path, domain, detail);
    }
    first_bad_label(errs, rest, validate::dns1123_subdomain, path);
}

fn first_bad_label(errs: &mut ErrorList, value: &str, check: fn(&str) -> Vec<String>, path: &Path) {
    let bad = value.split('.').map(|label| (label, check(label))).find(|(_, problems)| !problems.is_empty());
    for (label, problem) in bad.iter().flat_map(|(label, problems)| problems.iter().map(move |p| (label, p)))
    {
        errs.add_invalid(path, value, format!("validating label \"{label}\": {problem}"));
    }
}

type Condition = CertificateSigningRequestCondition;

fn of(csr: &CertificateSigningRequest, kind: &str) -> Vec<Condition> {
    let status = csr.status.clone().unwrap_or_default();
    status.conditions.unwrap_or_default().into_iter().filter(|c| c.type_ == kind).collect()
}

fn conditions(csr: &CertificateSigningRequest, both_before: bool) -> ErrorList {
    let mut errs = ErrorList::default();
    let status = csr.status.clone().unwrap_or_default();
    let (conditions, path) = (status.conditions.items(), Path::new("status").child("conditions"));
    let seen = |i: usize, kind: &str| conditions[..i].iter().any(|c| c.type_ == kind);
    for (i, condition) in conditions.iter().enumerate() {
        let (kind, at) = (condition.type_.as_str(), path.index(i));
        if kind.is_empty() {
            errs.add_required(&at.child("type"), "");
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if condition.status.is_empty() {
            errs.add_required(&at.child("status"), "");
        } else if !allowed.contains(&condition.status.as_str()) {
            errs.add_not_supported(&at.child("status"), &condition.status, allowed);
        }
        let conflicts =
            (kind == "Approved" && seen(i, "Denied")) || (kind == "Denied" && seen(i, "Approved"));
        if conflicts && !both_before {
            errs.add_invalid(&path, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if seen(i, kind) {
            errs.add_duplicate(&at.child("type"), kind);
        }
    }
    errs
}

fn update(new: &CertificateSigningRequest, old: &CertificateSigningRequest, change: Change) -> ErrorList {
    let mut errs = ErrorList::default();
    let both = DECISIONS.iter().all(|decision| !of(old, decision).is_empty());
    errs.extend(conditions(new, both));
    let path = Path::new("status");
    let certificate = |csr: &CertificateSigningRequest| csr.status.clone().and_then(|s| s.certificate);
    let (issued, was_issued) = (certificate(new), certificate(old));
    if issued != was_issued
        && let Some(Err(problem)) = issued.as_ref().map(|pem| certificates(&pem.0))
    {
        errs.add_invalid(&path.child("certificate"), "<certificate data>", problem);
    }
    let at = path.child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            errs.add_forbidden(&at, format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
    for kind in DECISIONS.iter().filter(|_| change != Change::Approval) {
        let (now, before) = (of(new, kind), of(old, kind));
        if now.len() > before.len() {
            errs.add_forbidden(&at, format!("updates may not add a condition of type \"{kind}\""));
        } else if now.len() == before.len() && now != before {
            errs.add_forbidden(&at, format!("updates may not modify a condition of type \"{kind}\""));
        }
    }
    if issued != was_issued {
        let detail = match change {
            Change::Certificate if was_issued.is_none() => return errs,
            Change::Certificate => "updates may not modify existing certificate content",
            _ => "updates may not set certificate content",
        };
        errs.add_forbidden(&path.child("certificate"), detail);
    }
    errs
}

fn certificates(pem: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(pem).map_while(Result::ok) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found \"{}\"", block.label));
        }
        x509_parser::certificate::X509Certificate::from_der(&block.contents)
            .map_err(|_| "x509: malformed certificate")?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let has = |kind: &str| !indices(obj, kind).is_empty();
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(obj, &["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    let duration = obj["spec"]["expirationSeconds"].as_u64().map(Duration::from_secs);
    vec![
        cells::name(obj),
        cells::age(obj, now),
        cells::or_none(text(obj, &["spec", "signerName"])),
        text(obj, &["spec", "username"]).into(),
        cells::or_none(duration.map(time::human_duration).unwrap_or_default()),
        state.into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Requests)
        .status()
        .subresource(approval())
        .cells(cells)
        .selectable(&[("spec.signerName", &["spec", "signerName"], "")])
        .fixture(include_str!("testdata/certificatesigningrequest.yaml"))
}
