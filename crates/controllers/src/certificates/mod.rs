//! Certificate signing requests (certificates.k8s.io/v1): approving those of kubelets, signing for the four built-in
//! signers, and deleting those that are done with.
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>

mod approver;
mod cleaner;
mod der;
mod request;
mod rules;
mod serving;
mod signer;

pub use approver::start as start_approving;
pub use cleaner::start as start_cleaner;
pub use serving::start as start_kubelet_serving;
pub use signer::{SIGNING_DURATION, SigningCa, start as start_signing};

use knarr_api::certificates::v1::CertificateSigningRequest;

/// Certificates by which nodes prove who they are to the API server.
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Certificates by which anybody does.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Certificates of the servers of kubelets.
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Certificates without any promise, for requests from before signers had names.
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Whether a request has a condition of a type, whatever its status.
fn has_condition(csr: &CertificateSigningRequest, kind: &str) -> bool {
    csr.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == kind)
}

fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}
