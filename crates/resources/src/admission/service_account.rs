//! ServiceAccount: a pod without one gets the namespace's `default`, the account's pull secrets and, unless
//! it declines, a volume with a token, the API server's CA and the namespace.

use super::forbidden;
use crate::util::value::{Object, at, each, ensure, list, object, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use serde_json::{Value, json};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// An hour and seven seconds: recognizable as injected, so that the issuer may extend it for old clients.
const TOKEN_SECONDS: i64 = 3607;

/// The plugin.
pub struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create && group.is_empty() && resource == "pods" && subresource.is_empty()
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if write
                .cx
                .reader
                .get("", "serviceaccounts", write.namespace, account_name(write.object))
                .is_none()
            {
                // Another server may have made it a moment ago.
                let (namespace, name) = (write.namespace, account_name(write.object));
                write.cx.reader.look_for("", "serviceaccounts", namespace, name).await;
            }
            admit(write)
        })
    }
}

fn account_name(pod: &Value) -> &str {
    match text(pod, &["spec", "serviceAccountName"]) {
        "" => "default",
        name => name,
    }
}

fn admit(write: &mut Write<'_>) -> Result<(), Status> {
    if write.object["metadata"]["annotations"].get(MIRROR).is_some() {
        return mirror(write);
    }
    let name = account_name(write.object).to_owned();
    let namespace = write.namespace;
    let Some(account) = write.cx.reader.get("", "serviceaccounts", namespace, &name) else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        return Err(forbidden(write, why));
    };
    let wants = |v: Option<&Value>| v.and_then(Value::as_bool);
    let mount = wants(at(write.object, &["spec", "automountServiceAccountToken"]))
        .or(wants(account.get("automountServiceAccountToken")))
        .unwrap_or(true);
    let volume = existing_volume(write.object);
    let generated = format!("{VOLUME_PREFIX}{}", write.cx.ctx.rng.name_suffix(5));
    let spec = ensure(object(write.object), "spec");
    spec.insert("serviceAccountName".to_owned(), name.as_str().into());
    spec.insert("serviceAccount".to_owned(), name.into());
    if mount {
        mount_token(spec, volume, generated);
    }
    let none = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if let (true, Some(secrets)) = (none, account.get("imagePullSecrets").filter(|s| s.is_array())) {
        spec.insert("imagePullSecrets".to_owned(), secrets.clone());
    }
    Ok(())
}

/// Pods that stand in for static ones have no account and no secrets.
fn mirror(write: &Write<'_>) -> Result<(), Status> {
    if !text(write.object, &["spec", "serviceAccountName"]).is_empty() {
        return Err(forbidden(write, "a mirror pod may not reference service accounts"));
    }
    for volume in list(write.object, &["spec", "volumes"]) {
        let projects_token =
            list(volume, &["projected", "sources"]).iter().any(|s| s.get("serviceAccountToken").is_some());
        if projects_token {
            return Err(forbidden(write, "a mirror pod may not use ServiceAccountToken volume projections"));
        }
        if volume.get("secret").is_some() {
            return Err(forbidden(write, "a mirror pod may not reference secrets"));
        }
    }
    Ok(())
}

/// A token volume that a client brings along (as when a pod is copied) is used again.
fn existing_volume(pod: &Value) -> Option<String> {
    let volumes = list(pod, &["spec", "volumes"]);
    let found = volumes
        .iter()
        .find(|v| text(v, &["name"]).starts_with(VOLUME_PREFIX) && v.get("projected").is_some())?;
    Some(text(found, &["name"]).to_owned())
}

fn mount_token(spec: &mut Object, existing: Option<String>, generated: String) {
    let is_new = existing.is_none();
    let volume = existing.unwrap_or(generated);
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        each(spec, field, |container| {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Value::Array(mounts) = mounts else { return };
            if mounts.iter().any(|m| text(m, &["mountPath"]) == MOUNT_PATH) {
                return;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            mounted = true;
        });
    }
    if mounted && is_new {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Value::Array(volumes) = volumes {
            volumes.push(token_volume(&volume));
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_gets_the_mount_unless_it_has_one() {
        let mut pod = json!({"containers":[{"name":"a"},{"name":"b","volumeMounts":[
            {"name":"own","mountPath":MOUNT_PATH}]}],"initContainers":[{"name":"i"}]});
        mount_token(pod.as_object_mut().unwrap(), None, "kube-api-access-abcde".to_owned());
        assert_eq!(pod["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["initContainers"][0]["volumeMounts"][0]["readOnly"], true);
        assert_eq!(pod["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(
            pod["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
            3607
        );
    }
}
