//! Tokens in secrets: those of service accounts, and those by which nodes join.

use crate::{LIMIT, Running};
use knarr_api::core::v1::{ConfigMap, Secret, ServiceAccount};
use knarr_client::DeleteOptions;
use knarr_testkit::wait_for;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn token_secrets_are_filled_and_go_with_their_account() {
    let running = Running::start().await;
    let account = json!({ "metadata": { "name": "robot", "namespace": "default" },
        "secrets": [{ "name": "robot-token" }] });
    let account = running.create::<ServiceAccount>(account).await;
    let secret = |name: &str, account: &str| {
        json!({ "metadata": { "name": name, "namespace": "default",
            "annotations": { "kubernetes.io/service-account.name": account } },
            "type": "kubernetes.io/service-account-token" })
    };
    running.create::<Secret>(secret("robot-token", "robot")).await;
    let filled = running
        .until::<Secret>("robot-token", "filled", |s| {
            s.data.as_ref().is_some_and(|d| d.contains_key("token"))
        })
        .await;
    let data = filled.data.clone().unwrap_or_default();
    assert_eq!(data["namespace"].0, b"default");
    assert_eq!(data["ca.crt"].0, running.cluster.server.pki().ca().expect("there is a CA").as_bytes());
    let annotations = filled.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(Some(&annotations["kubernetes.io/service-account.uid"]), account.metadata.uid.as_ref());
    // The token logs its account in.
    let token = String::from_utf8(data["token"].0.clone()).expect("text");
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
    let url = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = running.client.call(http::Method::POST, url, &review).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:robot", "{answer}");

    // One that is deleted is no longer the account's.
    let now = DeleteOptions::default();
    running.client.delete::<Secret>("default", "robot-token", &now).await.expect("it goes");
    running
        .until::<ServiceAccount>("robot", "no secrets", |a| a.secrets.iter().flatten().next().is_none())
        .await;
    running.create::<Secret>(secret("robot-token", "robot")).await;
    running
        .until::<Secret>("robot-token", "filled", |s| {
            s.data.as_ref().is_some_and(|d| d.contains_key("token"))
        })
        .await;
    running.client.delete::<ServiceAccount>("default", "robot", &now).await.expect("it goes");
    gone(&running, "default", "robot-token").await;
    running.cluster.stop().await;
}

async fn gone(running: &Running, namespace: &str, name: &str) {
    wait_for(&format!("secret {name} to go"), LIMIT, || async {
        match running.client.get_opt::<Secret>(namespace, name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_tokens_sign_and_expire() {
    let running = Running::start().await;
    let info = json!({ "metadata": { "name": "cluster-info", "namespace": "kube-public" },
        "data": { "kubeconfig": "Hello from the other side. I must have called a thousand times." } });
    running.create::<ConfigMap>(info).await;
    let token = |id: &str, expiration: &str| {
        json!({ "metadata": { "name": format!("bootstrap-token-{id}"), "namespace": "kube-system" },
            "type": "bootstrap.kubernetes.io/token", "stringData": { "token-id": id,
                "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": expiration } })
    };
    let signatures = |what: &'static str, wanted: Vec<&'static str>| {
        let client = running.client.clone();
        async move {
            wait_for(what, LIMIT, || async {
                let info = client
                    .get::<ConfigMap>("kube-public", "cluster-info")
                    .await
                    .map_err(|e| e.to_string())?;
                let keys: Vec<String> = info.data.unwrap_or_default().into_keys().collect();
                if keys == wanted { Ok(()) } else { Err(format!("{keys:?}")) }
            })
            .await;
        }
    };
    running.create::<Secret>(token("abcdef", "2999-01-01T00:00:00Z")).await;
    signatures("a signature", vec!["jws-kubeconfig-abcdef", "kubeconfig"]).await;
    running.create::<Secret>(token("fedcba", "2001-01-01T00:00:00Z")).await;
    gone(&running, "kube-system", "bootstrap-token-fedcba").await;
    running
        .client
        .delete::<Secret>("kube-system", "bootstrap-token-abcdef", &DeleteOptions::default())
        .await
        .expect("it goes");
    signatures("no signature", vec!["kubeconfig"]).await;
    running.cluster.stop().await;
}
