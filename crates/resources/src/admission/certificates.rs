//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who approves or signs requests
//! needs that verb on their signer, and no client certificate makes a `system:masters`.

use super::forbidden;
use crate::util::value::text;
use base64::Engine;
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_apiserver::escalation;
use knarr_meta::status::Status;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Guards the `approval` subresource.
pub struct CertificateApproval;

impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Update && group == GROUP && resource == RESOURCE && subresource == "approval"
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(confirm(write, "approve")))
    }
}

/// Guards what the `status` subresource says.
pub struct CertificateSigning;

impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Update && group == GROUP && resource == RESOURCE && subresource == "status"
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let same =
            |field: &str| write.old.is_none_or(|old| old["status"][field] == write.object["status"][field]);
        let verdict = if same("certificate") && same("conditions") { Ok(()) } else { confirm(write, "sign") };
        Box::pin(std::future::ready(verdict))
    }
}

/// Guards the subject of client certificates.
pub struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create && group == GROUP && resource == RESOURCE && subresource.is_empty()
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(subject(write)))
    }
}

/// The verb on the request's signer, or on all signers of its domain.
fn confirm(write: &Write<'_>, verb: &str) -> Result<(), Status> {
    let signer = write.old.map(|old| text(old, &["spec", "signerName"])).unwrap_or_default();
    let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
    let mut names = std::iter::once(signer).chain(domain.as_deref());
    if names.any(|name| escalation::may(write.cx, verb, GROUP, "signers", name)) {
        return Ok(());
    }
    Err(forbidden(write, format!("user not permitted to {verb} requests with signerName \"{signer}\"")))
}

fn subject(write: &Write<'_>) -> Result<(), Status> {
    if text(write.object, &["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let Some(organizations) = organizations(write.object) else {
        let why = "failed to parse CSR: PEM block type must be CERTIFICATE REQUEST";
        return Err(forbidden(write, why));
    };
    if organizations.iter().any(|o| o == "system:masters") {
        let why = format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed");
        return Err(forbidden(write, why));
    }
    Ok(())
}

fn organizations(csr: &Value) -> Option<Vec<String>> {
    let pem = base64::engine::general_purpose::STANDARD.decode(text(csr, &["spec", "request"])).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    Some(subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect())
}
