//! PodSecurity: a namespace's labels say which of the Pod Security Standards its pods must meet, and which
//! ones clients are warned about.

mod checks;
mod policy;

use super::forbidden;
use crate::util::value::{at, list, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use policy::{Level, Policy, describe, of_existing};
use serde_json::Value;

/// Where the kinds with pods in them have the template.
const TEMPLATES: &[(&str, &str, &[&str])] = &[
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
];

/// The plugin.
pub struct PodSecurity;

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        let changes = matches!(operation, Operation::Create | Operation::Update);
        changes
            && match (group, resource, subresource) {
                ("", "pods", sub) => matches!(sub, "" | "ephemeralcontainers" | "resize"),
                ("", "namespaces", "") => true,
                (_, _, "") => TEMPLATES.iter().any(|(g, r, _)| *g == group && *r == resource),
                _ => false,
            }
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let verdict = match write.cx.info.resource.as_str() {
            "namespaces" => namespace(write),
            "pods" => pod(write),
            _ => template(write),
        };
        Box::pin(std::future::ready(verdict))
    }
}

fn policy_of(write: &Write<'_>) -> Option<Policy> {
    let namespace = write.cx.reader.get("", "namespaces", "", write.namespace)?;
    Some(Policy::of(&namespace).0).filter(|policy| !policy.is_open())
}

fn pod(write: &Write<'_>) -> Result<(), Status> {
    let Some(policy) = policy_of(write) else { return Ok(()) };
    if write.old.is_some_and(|old| !is_significant(write.object, old)) {
        return Ok(());
    }
    let (meta, spec) = (&write.object["metadata"], &write.object["spec"]);
    let violations = policy.enforce.violations(meta, spec);
    if !violations.is_empty() {
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, describe(&violations));
        return Err(forbidden(write, why));
    }
    warn(write, &policy, meta, spec);
    Ok(())
}

fn template(write: &Write<'_>) -> Result<(), Status> {
    let info = &write.cx.info;
    let path = TEMPLATES.iter().find(|(g, r, _)| *g == info.group && *r == info.resource).map(|t| t.2);
    if let Some(policy) = policy_of(write)
        && let Some(template) = path.and_then(|path| at(write.object, path))
    {
        warn(write, &policy, &template["metadata"], &template["spec"]);
    }
    Ok(())
}

fn warn(write: &Write<'_>, policy: &Policy, meta: &Value, spec: &Value) {
    let violations = policy.warn.violations(meta, spec);
    if !violations.is_empty() {
        let what = describe(&violations);
        write.cx.warn(format!("would violate PodSecurity \"{}\": {what}", policy.warn));
    }
}

/// Whether an update changes what runs.
fn is_significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, field: &str| -> Vec<(String, String)> {
        let containers = list(pod, &["spec", field]).iter();
        containers.map(|c| (text(c, &["name"]).to_owned(), text(c, &["image"]).to_owned())).collect()
    };
    let differ = |field: &str| {
        let of = |pod: &Value| images(pod, field).into_iter().map(|(_, image)| image).collect::<Vec<_>>();
        of(new) != of(old)
    };
    let known = images(old, "ephemeralContainers");
    differ("containers")
        || differ("initContainers")
        || images(new, "ephemeralContainers").iter().any(|container| !known.contains(container))
}

fn namespace(write: &Write<'_>) -> Result<(), Status> {
    let (new, errs) = Policy::of(write.object);
    let (old, old_errs) = write.old.map(Policy::of).unwrap_or_else(|| Policy::of(&Value::Null));
    if !errs.is_empty() && (write.old.is_none() || errs != old_errs) {
        let name = text(write.object, &["metadata", "name"]);
        return Err(Status::invalid("", "Namespace", name, errs));
    }
    let stricter = new.enforce.level > old.enforce.level || new.enforce.version != old.enforce.version;
    if write.old.is_some() && new.enforce.level != Level::Privileged && stricter {
        let name = text(write.object, &["metadata", "name"]);
        let pods = write.cx.reader.list("", "pods", name);
        for warning in of_existing(name, new.enforce, &pods) {
            write.cx.warn(warning);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(level: &str, version: &str, spec: Value) -> String {
        let labels = json!({"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version});
        let (policy, errs) = Policy::of(&json!({"metadata": {"labels": labels}}));
        assert!(errs.is_empty());
        describe(&policy.enforce.violations(&Value::Null, &spec))
    }

    #[test]
    fn an_ordinary_pod_is_baseline_but_not_restricted() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(judged("privileged", "latest", spec.clone()), "");
        assert_eq!(judged("baseline", "latest", spec.clone()), "");
        assert_eq!(
            judged("restricted", "latest", spec),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn a_confined_pod_is_restricted() {
        let spec = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "projected": {}}],
            "containers": [{"name": "a", "securityContext":
                {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]});
        assert_eq!(judged("restricted", "latest", spec), "");
    }

    #[test]
    fn the_host_is_off_limits_in_the_baseline() {
        let spec = json!({"hostNetwork": true, "hostPID": true,
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "securityContext": {"sysctls": [{"name": "kernel.msgmax"}], "seLinuxOptions": {"type": "spc_t", "user": "u"}},
            "containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 81}],
                "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]},
                    "seccompProfile": {"type": "Unconfined"}}}]});
        assert_eq!(
            judged("baseline", "latest", spec),
            "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add), \
             host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"v\"), \
             hostPort (container \"a\" uses hostPorts 80, 81), \
             privileged (container \"a\" must not set securityContext.privileged=true), \
             seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set), \
             seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\"), \
             forbidden sysctls (kernel.msgmax)"
        );
    }

    #[test]
    fn older_versions_ask_for_less() {
        let spec = json!({"containers": [{"name": "a", "securityContext": {"runAsNonRoot": true}}]});
        assert_eq!(judged("restricted", "v1.7", spec), "");
    }

    #[test]
    fn labels_are_checked() {
        let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "strict",
            "pod-security.kubernetes.io/warn-version": "1.20"}}});
        let (policy, errs) = Policy::of(&namespace);
        assert_eq!(policy.enforce.level, Level::Restricted);
        let texts: Vec<String> = errs.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.20\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
