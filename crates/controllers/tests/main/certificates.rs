//! Certificate signing requests from their creation to a certificate that logs somebody in.

use crate::{LIMIT, Running};
use http::Method;
use knarr_api::Kind;
use knarr_api::certificates::v1::CertificateSigningRequest;
use knarr_api::rbac::v1::ClusterRoleBinding;
use knarr_client::Client;
use knarr_testkit::wait_for;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

fn request(user: &str, group: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let key = KeyPair::generate().expect("a key");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    serde_json::to_value(knarr_api::ByteString(pem.into_bytes())).expect("bytes")
}

async fn create(client: &Client, name: &str, signer: &str, request: Value, usages: Value) {
    let csr = json!({ "metadata": { "name": name }, "spec": { "request": request, "signerName": signer, "usages": usages } });
    let csr = CertificateSigningRequest::from_value(&csr).expect("a request");
    client.create(&csr).await.expect("it can be created");
}

impl Running {
    async fn csr(&self, name: &str, what: &str, met: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("request {name}: {what}"), LIMIT, || async {
            let csr =
                self.client.get::<CertificateSigningRequest>("", name).await.map_err(|e| e.to_string())?;
            let csr = csr.to_value();
            if met(&csr["status"]) { Ok(csr["status"].clone()) } else { Err(csr.to_string()) }
        })
        .await
    }

    async fn decide(&self, name: &str, kind: &str) {
        let mut csr =
            self.client.get::<CertificateSigningRequest>("", name).await.expect("it is there").to_value();
        csr["status"]["conditions"] = json!([{ "type": kind, "status": "True", "reason": "Test" }]);
        let url = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/approval");
        self.client.call(Method::PUT, &url, &csr).await.expect("it can be decided");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_approved_signed_or_refused() {
    let running = Running::start().await;
    let node = running.cluster.client_as("system:node:beta", &["system:nodes"]);
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    let usages = json!(["digital signature", "client auth"]);

    // As kubeadm binds it.
    let role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let binding = json!({ "metadata": { "name": "rotation" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes" }] });
    running.create::<ClusterRoleBinding>(binding).await;

    // A node's own certificate is renewed without anybody's word.
    create(&node, "own", kubelet, request("system:node:beta", "system:nodes"), usages.clone()).await;
    let signed = running.csr("own", "signed", |s| s["certificate"].is_string()).await;
    assert_eq!(signed["conditions"][0]["reason"], "AutoApproved");
    let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
    assert_eq!(signed["conditions"][0]["message"], message);

    // Anybody else's waits for a decision, and is signed for whom it names.
    let client = "kubernetes.io/kube-apiserver-client";
    create(&running.client, "jane", client, request("jane", "devs"), json!(["client auth"])).await;
    running.decide("jane", "Approved").await;
    let signed = running.csr("jane", "signed", |s| s["certificate"].is_string()).await;
    let pem: knarr_api::ByteString = serde_json::from_value(signed["certificate"].clone()).expect("bytes");
    assert!(pem.0.starts_with(b"-----BEGIN CERTIFICATE-----\n"));

    // Approved is not enough where the signer's rules are broken.
    create(&running.client, "odd", client, request("jane", "devs"), json!(["server auth"])).await;
    running.decide("odd", "Approved").await;
    let failed = running.csr("odd", "failed", |s| s["conditions"][1]["type"] == "Failed").await;
    assert_eq!(failed["conditions"][1]["reason"], "SignerValidationFailure");
    assert_eq!(failed["conditions"][1]["message"], "invalid usage for client certificate: server auth");
    assert!(failed["certificate"].is_null());

    // Others' signers are left to them, and what is denied stays so.
    create(&running.client, "other", "example.com/signer", request("jane", "devs"), json!(["any"])).await;
    running.decide("other", "Approved").await;
    create(&running.client, "denied", client, request("jane", "devs"), json!(["client auth"])).await;
    running.decide("denied", "Denied").await;
    create(&running.client, "last", client, request("jane", "devs"), json!(["client auth"])).await;
    running.decide("last", "Approved").await;
    running.csr("last", "signed", |s| s["certificate"].is_string()).await;
    for name in ["other", "denied"] {
        let csr = running.client.get::<CertificateSigningRequest>("", name).await.expect("it is there");
        assert!(csr.to_value()["status"]["certificate"].is_null(), "{name}");
    }
    running.cluster.stop().await;
}
