//! Service-account tokens bound to a pod (KEP-1205), kept until four fifths of their time are over or a day
//! has passed.

use crate::kubelet::Shared;
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, ServiceAccount};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Tokens are renewed at least this often.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);

type Key = (String, String, i64);

/// Tokens in use, by pod UID, audience and lifetime.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, (String, SystemTime)>>);

impl Tokens {
    /// Forgets the tokens of a pod.
    pub(crate) fn release(&self, uid: &str) {
        self.0.lock().expect("token lock is never poisoned").retain(|key, _| key.0 != uid);
    }
}

/// A token for the pod, and when it must be renewed.
pub(super) async fn get(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    audience: Option<&str>,
    seconds: i64,
) -> Result<(String, SystemTime), String> {
    let key = (pod.uid().to_owned(), audience.unwrap_or_default().to_owned(), seconds);
    let now = kubelet.ctx.clock.now();
    if let Some((token, refresh)) = kubelet.tokens.0.lock().expect("token lock is never poisoned").get(&key)
        && *refresh > now
    {
        return Ok((token.clone(), *refresh));
    }
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let audiences: Vec<&str> = audience.into_iter().collect();
    let request = json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {},
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": pod.name(), "uid": pod.uid() },
        },
    });
    let answer = kubelet
        .client
        .create_subresource::<ServiceAccount>(pod.namespace(), account, "token", &request)
        .await
        .map_err(|e| format!("failed to fetch token: {e}"))?;
    let token =
        answer["status"]["token"].as_str().ok_or("failed to fetch token: the answer has none")?.to_owned();
    let expires =
        answer["status"]["expirationTimestamp"].as_str().and_then(|t| knarr_meta::time::parse(t).ok());
    let lifetime = expires.and_then(|e| e.duration_since(now).ok()).unwrap_or(Duration::from_secs(600));
    let refresh = now + (lifetime * 4 / 5).min(LONGEST_USE);
    let mut held = kubelet.tokens.0.lock().expect("token lock is never poisoned");
    held.insert(key, (token.clone(), refresh));
    Ok((token, refresh))
}
