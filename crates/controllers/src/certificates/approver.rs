//! csrapproving: approves requests for kubelets' client certificates, if whoever made them may have one
//! (`create` on certificatesigningrequests/nodeclient, or /selfnodeclient for a node's own).

use super::{KUBELET_CLIENT, has_condition, is_issued, request, rules};
use crate::framework::{Next, Reconcile, Start, run};
use http::Method;
use knarr_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Error, Informer, ResourcePath, WorkQueue};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// A node that may not have a certificate yet is asked about again after this long: its rights may come later.
const ASK_AGAIN: Duration = Duration::from_secs(60);

struct Approving {
    start: Start,
    requests: Informer<CertificateSigningRequest>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let requests = start.informers.get::<CertificateSigningRequest>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_request = queue.clone();
    requests.on_change(move |change: &Change<CertificateSigningRequest>| {
        if change.new.as_ref().is_some_and(|csr| is_open(csr)) {
            on_request.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let requests = requests.clone();
        async move { requests.synced().await }
    };
    let controller = Arc::new(Approving { start: start.clone(), requests });
    run(&start, "csrapproving", WORKERS, queue, ready, controller);
}

/// Whether a request is for a kubelet and nobody has decided about it.
fn is_open(csr: &CertificateSigningRequest) -> bool {
    csr.spec.signer_name == KUBELET_CLIENT
        && !is_issued(csr)
        && !has_condition(csr, "Approved")
        && !has_condition(csr, "Denied")
}

impl Approving {
    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
        let spec = &csr.spec;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": { "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
                "resourceAttributes": { "group": "certificates.k8s.io", "version": "*", "verb": "create",
                    "resource": "certificatesigningrequests", "subresource": subresource } },
        });
        let url = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = self.start.client.call(Method::POST, url, &review).await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|e| Error::Protocol(format!("{url}: {e}")))?;
        Ok(answer["status"]["allowed"] == true)
    }

    async fn approve(&self, csr: &CertificateSigningRequest, message: &str) -> Result<(), Error> {
        let mut approved = csr.clone();
        let status = approved.status.get_or_insert_default();
        status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(message.into()),
            ..Default::default()
        });
        let name = csr.metadata.name.as_deref().unwrap_or_default();
        let url = ResourcePath::of::<CertificateSigningRequest>().url("", name, "approval");
        let body = knarr_api::Kind::to_value(&approved);
        self.start.client.call(Method::PUT, &url, &body).await.map(drop)
    }
}

impl Reconcile for Approving {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(csr) = self.requests.get_key(key).filter(|csr| is_open(csr)) else {
                return Ok(Next::Done);
            };
            let request = request::parse(&csr.spec.request.0)
                .map_err(|e| Error::Protocol(format!("unable to parse csr \"{}\": {e}", key.name)))?;
            let usages = csr.spec.usages.clone().unwrap_or_default();
            if rules::kubelet_client(&request, &usages).is_err() {
                return Ok(Next::Done);
            }
            let own = csr.spec.username.as_deref() == Some(&request.common_name);
            if own && self.may(&csr, "selfnodeclient").await? {
                let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
                self.approve(&csr, message).await?;
            } else if self.may(&csr, "nodeclient").await? {
                let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
                self.approve(&csr, message).await?;
            } else {
                tracing::debug!(csr = key.name, "recognized, but whoever made it may not have a certificate");
                return Ok(Next::After(ASK_AGAIN));
            }
            Ok(Next::Done)
        })
    }
}
