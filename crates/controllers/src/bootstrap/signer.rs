//! bootstrap-signer: keeps a signature of `cluster-info` by every token that may sign, as a JWS with its content left
//! out (RFC 7515, appendix F).

use super::{data, left, tokens};
use crate::framework::{Next, Reconcile, Start, run};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use knarr_api::core::v1::{ConfigMap, Secret};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Error, Informer, WorkQueue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
/// What is signed.
const CONTENT: &str = "kubeconfig";
/// What the names of signatures begin with; the token's identifier follows.
const SIGNATURE: &str = "jws-kubeconfig-";

struct Signer {
    start: Start,
    secrets: Informer<Secret>,
    maps: Informer<ConfigMap>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let secrets = tokens(&start);
    let maps = start.informers.filtered::<ConfigMap>(NAMESPACE, "", &format!("metadata.name={NAME}"));
    let queue = WorkQueue::new(start.ctx.clone());
    let (on_secret, on_map) = (queue.clone(), queue.clone());
    secrets.on_change(move |_| on_secret.add(Key::new(NAMESPACE, NAME)));
    maps.on_change(move |_| on_map.add(Key::new(NAMESPACE, NAME)));
    let ready = {
        let (secrets, maps) = (secrets.clone(), maps.clone());
        async move {
            secrets.synced().await;
            maps.synced().await;
        }
    };
    let controller = Arc::new(Signer { start: start.clone(), secrets, maps });
    run(&start, "bootstrap-signer", 1, queue, ready, controller);
}

/// The signature of a text by a token.
fn sign(content: &str, id: &str, key: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.as_bytes());
    let signature = ring::hmac::sign(&key, message.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Identifier and key of a token that may sign now.
fn signing(secret: &Secret, now: SystemTime) -> Option<(String, String)> {
    let id = secret.metadata.name.as_deref()?.strip_prefix("bootstrap-token-")?;
    let plain = id.len() == 6 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let key = data(secret, "token-secret");
    let may = data(secret, "token-id") == id
        && !key.is_empty()
        && data(secret, "usage-bootstrap-signing") == "true"
        && left(secret, now).is_none_or(|left| !left.is_zero());
    (plain && may).then(|| (id.to_owned(), key))
}

/// The data with the signatures that it is to have.
fn signed(
    data: &BTreeMap<String, String>,
    secrets: &[Arc<Secret>],
    now: SystemTime,
) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let mut signed: BTreeMap<String, String> = data
        .iter()
        .filter(|(key, _)| !key.starts_with(SIGNATURE))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for (id, key) in secrets.iter().filter_map(|secret| signing(secret, now)) {
        signed.insert(format!("{SIGNATURE}{id}"), sign(content, &id, &key));
    }
    Some(signed)
}

impl Reconcile for Signer {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(map) = self.maps.get_key(key) else { return Ok(Next::Done) };
            let data = map.data.clone().unwrap_or_default();
            let secrets = self.secrets.list("");
            let now = self.start.ctx.clock.now();
            if let Some(signed) = signed(&data, &secrets, now).filter(|signed| *signed != data) {
                let changed = ConfigMap { data: Some(signed), ..(*map).clone() };
                match self.start.client.update(&changed).await {
                    Err(error) if !error.is_conflict() && !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            Ok(Next::Done)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    #[test]
    fn signatures_are_made_and_taken_away() {
        let token = |id: &str, usage: &str| {
            let text = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
            let secret = json!({ "metadata": { "name": format!("bootstrap-token-{id}") }, "data": {
                "token-id": text(id), "token-secret": text("0123456789abcdef"), "usage-bootstrap-signing": text(usage) } });
            Arc::new(Secret::from_value(&secret).expect("a secret"))
        };
        let data = BTreeMap::from([
            (CONTENT.to_owned(), "content".to_owned()),
            (format!("{SIGNATURE}fedcba"), "old".to_owned()),
        ]);
        let tokens = [token("abcdef", "true"), token("aaaaaa", "false")];
        let signed = signed(&data, &tokens, SystemTime::UNIX_EPOCH).expect("there is something to sign");
        assert_eq!(signed.keys().collect::<Vec<_>>(), ["jws-kubeconfig-abcdef", "kubeconfig"]);
        // The header of {"alg":"HS256","kid":"abcdef"}; upstream's tests know the signature of this content.
        assert!(signed["jws-kubeconfig-abcdef"].starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."));
        assert!(super::signed(&BTreeMap::new(), &tokens, SystemTime::UNIX_EPOCH).is_none());
        let known = sign(
            "Hello from the other side. I must have called a thousand times.",
            "joshua",
            "my voice is my passcode",
        );
        assert_eq!(
            known,
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }
}
