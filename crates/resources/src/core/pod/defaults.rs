//! Defaults of pods and pod templates: SetDefaults_* of pkg/apis/core/v1/defaults.go. The template kinds call
//! [`spec`]; pods also have [`pod`], whose defaults never show in templates.

use super::aggregate;
use crate::util::value::{Object, each, ensure, set_absent, set_default, sub};
use knarr_meta::quantity::Quantity;
use serde_json::{Value, json};

/// File mode 0644 of files in secret, configMap, downwardAPI and projected volumes.
const FILE_MODE: i64 = 0o644;

/// Defaults of a pod (not of a template).
pub fn pod(obj: &mut Object) {
    let spec_map = ensure(obj, "spec");
    spec(spec_map);
    for field in ["containers", "initContainers"] {
        each(spec_map, field, |container| {
            if let Some(resources) = sub(container, "resources") {
                requests_from_limits(resources);
            }
        });
    }
    // A conversion of upstream's rather than a default.
    if spec_map.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
        spec_map.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
    pod_level_resources(spec_map);
    set_absent(spec_map, "enableServiceLinks", true);
    if spec_map.get("hostNetwork") == Some(&Value::Bool(true)) {
        for field in ["containers", "initContainers"] {
            each(spec_map, field, |container| {
                each(container, "ports", |port| {
                    if let Some(number) = port.get("containerPort").cloned() {
                        set_default(port, "hostPort", number);
                    }
                });
            });
        }
    }
}

/// Defaults of a pod template (`{metadata, spec}`).
pub fn template(template: &mut Object) {
    spec(ensure(template, "spec"));
}

/// Defaults of a pod spec, in pods and in templates.
pub fn spec(spec: &mut Object) {
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "restartPolicy", "Always");
    set_absent(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "schedulerName", "default-scheduler");
    set_absent(spec, "securityContext", json!({}));
    // The deprecated alias and the field are kept equal, the field winning.
    let account = [spec.get("serviceAccountName"), spec.get("serviceAccount")]
        .into_iter()
        .flatten()
        .find(|v| v.as_str().is_some_and(|s| !s.is_empty()))
        .cloned();
    if let Some(name) = account {
        spec.insert("serviceAccountName".to_owned(), name.clone());
        spec.insert("serviceAccount".to_owned(), name);
    }
    each(spec, "volumes", volume);
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, field, container);
    }
}

fn container(container: &mut Object) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let pull = pull_policy(image);
    set_default(container, "imagePullPolicy", pull);
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_absent(container, "resources", json!({}));
    each(container, "ports", |port| set_default(port, "protocol", "TCP"));
    each(container, "env", |env| {
        if let Some(from) = sub(env, "valueFrom") {
            if let Some(field) = sub(from, "fieldRef") {
                set_default(field, "apiVersion", "v1");
            }
            if let Some(resource) = sub(from, "resourceFieldRef") {
                set_default(resource, "divisor", "0");
            }
            if let Some(file) = sub(from, "fileKeyRef") {
                set_absent(file, "optional", false);
            }
        }
    });
    if let Some(Value::Object(resources)) = container.get_mut("resources") {
        for list in ["limits", "requests"] {
            round_up_to_milli(resources, list);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = sub(container, field) {
            set_default(probe, "timeoutSeconds", 1);
            set_default(probe, "periodSeconds", 10);
            set_default(probe, "successThreshold", 1);
            set_default(probe, "failureThreshold", 3);
            http_get(probe);
            if let Some(grpc) = sub(probe, "grpc") {
                set_absent(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = sub(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(handler) = sub(lifecycle, field) {
                http_get(handler);
            }
        }
    }
}

/// Upstream rounds quantities finer than a thousandth up.
fn round_up_to_milli(resources: &mut Object, list: &str) {
    let Some(list) = sub(resources, list) else { return };
    for value in list.values_mut() {
        let Some(text) = value.as_str() else { continue };
        if (text.ends_with('n') || text.ends_with('u'))
            && let Ok(mut quantity) = Quantity::parse(text)
        {
            quantity.round_up_to_milli();
            *value = quantity.to_json();
        }
    }
}

fn http_get(handler: &mut Object) {
    if let Some(http) = sub(handler, "httpGet") {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
}

/// `Always` for images tagged latest, `IfNotPresent` for all others.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest && !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn volume(volume: &mut Object) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for field in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = sub(volume, field) {
            set_absent(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = sub(volume, "downwardAPI") {
        downward(source);
    }
    if let Some(source) = sub(volume, "projected") {
        each(source, "sources", |source| {
            if let Some(token) = sub(source, "serviceAccountToken") {
                set_absent(token, "expirationSeconds", 3600);
            }
            if let Some(source) = sub(source, "downwardAPI") {
                downward(source);
            }
        });
    }
    if let Some(source) = sub(volume, "image") {
        let reference = source.get("reference").and_then(Value::as_str).unwrap_or_default();
        let pull = pull_policy(reference);
        set_default(source, "pullPolicy", pull);
    }
    persistent_sources(volume);
    if let Some(source) = sub(volume, "ephemeral")
        && let Some(template) = sub(source, "volumeClaimTemplate")
        && let Some(spec) = sub(template, "spec")
    {
        set_default(spec, "volumeMode", "Filesystem");
    }
}

/// Defaults of the sources that persistent volumes have, too.
pub fn persistent_sources(volume: &mut Object) {
    if let Some(source) = sub(volume, "hostPath") {
        set_absent(source, "type", "");
    }
    if let Some(source) = sub(volume, "iscsi") {
        set_default(source, "iscsiInterface", "default");
    }
    if let Some(source) = sub(volume, "rbd") {
        set_default(source, "pool", "rbd");
        set_default(source, "user", "admin");
        set_default(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = sub(volume, "azureDisk") {
        set_default(source, "cachingMode", "ReadWrite");
        set_default(source, "kind", "Shared");
        set_default(source, "fsType", "ext4");
        set_absent(source, "readOnly", false);
    }
    if let Some(source) = sub(volume, "scaleIO") {
        set_default(source, "storageMode", "ThinProvisioned");
        set_default(source, "fsType", "xfs");
    }
}

fn downward(source: &mut Object) {
    each(source, "items", |item| {
        if let Some(field) = sub(item, "fieldRef") {
            set_default(field, "apiVersion", "v1");
        }
        if let Some(resource) = sub(item, "resourceFieldRef") {
            set_default(resource, "divisor", "0");
        }
    });
}

/// Every limit without a request becomes the request.
fn requests_from_limits(resources: &mut Object) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = ensure(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
    if requests.is_empty() {
        resources.remove("requests");
    }
}

/// KEP-2837: what a partly specified `spec.resources` takes from the containers.
fn pod_level_resources(spec: &mut Object) {
    let Some(resources) = spec.get("resources").and_then(Value::as_object) else { return };
    let has = |field: &str| resources.get(field).and_then(Value::as_object).is_some_and(|m| !m.is_empty());
    if !has("limits") && !has("requests") {
        return;
    }
    let container_limits = aggregate::total(spec, "limits");
    let container_requests = aggregate::total(spec, "requests");
    let resources = ensure(spec, "resources");
    let requests = resources.get("requests").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, amount) in container_limits {
        if name.starts_with("hugepages-") && !requests.contains_key(&name) {
            ensure(resources, "limits").entry(name).or_insert(amount.to_string().into());
        }
    }
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let requests = ensure(resources, "requests");
    for (name, amount) in container_requests {
        if name == "cpu" || name == "memory" {
            requests.entry(name).or_insert(amount.to_string().into());
        }
    }
    for (name, limit) in limits {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            requests.entry(name).or_insert(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        let cases = [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/busybox", "Always"),
            ("busybox@sha256:0123", "IfNotPresent"),
            ("busybox:latest@sha256:0123", "Always"),
        ];
        for (image, want) in cases {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }
}
