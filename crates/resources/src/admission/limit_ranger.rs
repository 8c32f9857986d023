//! LimitRanger: a namespace's limit ranges give containers their default amounts, and bound what containers,
//! pods and claims may ask for.

use super::forbidden;
use crate::core::pod::aggregate::{amounts, total};
use crate::util::value::{Object, each, ensure, list, object, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::quantity::Quantity;
use knarr_meta::status::Status;
use serde_json::Value;
use std::collections::BTreeMap;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

/// The plugin.
pub struct LimitRanger;

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        group.is_empty()
            && matches!(
                (operation, resource, subresource),
                (Operation::Create, "pods" | "persistentvolumeclaims", "")
                    | (Operation::Update, "pods", "resize")
                    | (Operation::Update, "persistentvolumeclaims", "")
            )
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        if write.cx.info.resource == "pods" {
            for range in write.cx.reader.list("", "limitranges", write.namespace) {
                set_defaults(write.object, &range);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(check(write)))
    }
}

fn items(range: &Value) -> &[Value] {
    list(range, &["spec", "limits"])
}

fn quantities(value: &Value, field: &str) -> Amounts {
    let map = value.get(field).and_then(Value::as_object);
    let parse = |v: &Value| Quantity::from_json(v).ok();
    map.into_iter().flatten().filter_map(|(name, v)| Some((name.clone(), parse(v)?))).collect()
}

/// Fills absent limits and requests, and says so in an annotation.
fn set_defaults(pod: &mut Value, range: &Value) {
    let mut defaults = [("limits", Object::new()), ("requests", Object::new())];
    for item in items(range).iter().filter(|i| text(i, &["type"]) == "Container") {
        for ((_, all), field) in defaults.iter_mut().zip(["default", "defaultRequest"]) {
            all.extend(item[field].as_object().cloned().unwrap_or_default());
        }
    }
    if defaults.iter().all(|(_, amounts)| amounts.is_empty()) {
        return;
    }
    let mut notes = Vec::new();
    let pod = object(pod);
    for (field, called) in [("containers", "container"), ("initContainers", "init container")] {
        each(ensure(pod, "spec"), field, |container| {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let resources = ensure(container, "resources");
            let mut set = Vec::new();
            for (kind, amounts) in &defaults {
                if amounts.is_empty() {
                    continue;
                }
                let own = ensure(resources, kind);
                let missing: Vec<_> = amounts.iter().filter(|(n, _)| !own.contains_key(*n)).collect();
                let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
                if !names.is_empty() {
                    let kind = kind.trim_end_matches('s');
                    set.push(format!("{} {kind} for {called} {name}", names.join(", ")));
                }
                own.extend(missing.into_iter().map(|(name, amount)| (name.clone(), amount.clone())));
            }
            // Requests are told first.
            notes.extend(set.into_iter().rev());
        });
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        ensure(ensure(pod, "metadata"), "annotations").insert(ANNOTATION.to_owned(), note.into());
    }
}

fn check(write: &Write<'_>) -> Result<(), Status> {
    let deleted = write.old.is_some_and(|old| !text(old, &["metadata", "deletionTimestamp"]).is_empty());
    if deleted {
        return Ok(());
    }
    for range in write.cx.reader.list("", "limitranges", write.namespace) {
        let mut problems = match write.cx.info.resource.as_str() {
            "pods" => pod_problems(write.object, &range),
            _ => claim_problems(write.object, &range),
        };
        problems.dedup();
        match problems.as_slice() {
            [] => {}
            [one] => return Err(forbidden(write, one.as_str())),
            many => return Err(forbidden(write, format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

fn pod_problems(pod: &Value, range: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for item in items(range) {
        match text(item, &["type"]) {
            "Container" => {
                for field in ["containers", "initContainers"] {
                    for container in list(pod, &["spec", field]) {
                        let (requests, limits) =
                            (amounts(container, "requests"), amounts(container, "limits"));
                        out.extend(bounds("Container", item, &requests, &limits));
                    }
                }
            }
            "Pod" => {
                if let Some(spec) = pod["spec"].as_object() {
                    let pod_level = |field: &str| {
                        let mut sum = total(spec, field);
                        sum.extend(amounts(&pod["spec"], field));
                        sum
                    };
                    out.extend(bounds("Pod", item, &pod_level("requests"), &pod_level("limits")));
                }
            }
            _ => {}
        }
    }
    out
}

fn claim_problems(claim: &Value, range: &Value) -> Vec<String> {
    let kind = "PersistentVolumeClaim";
    let requests = amounts(&claim["spec"], "requests");
    let mut out = Vec::new();
    for item in items(range).iter().filter(|item| text(item, &["type"]) == kind) {
        out.extend(at_least(kind, &quantities(item, "min"), &requests, &Amounts::new()));
        for (name, max) in quantities(item, "max") {
            let start = format!("maximum {name} usage per {kind} is {max}");
            match requests.get(&name) {
                None => out.push(format!("{start}.  No request is specified")),
                Some(request) if *request > max => out.push(format!("{start}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    out
}

fn at_least(kind: &str, bounds: &Amounts, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut out = Vec::new();
    for (name, min) in bounds {
        let start = format!("minimum {name} usage per {kind} is {min}");
        match (requests.get(name), limits.get(name)) {
            (None, _) => out.push(format!("{start}.  No request is specified")),
            (Some(request), _) if request < min => out.push(format!("{start}, but request is {request}")),
            (_, Some(limit)) if limit < min => out.push(format!("{start}, but limit is {limit}")),
            _ => {}
        }
    }
    out
}

fn bounds(kind: &str, item: &Value, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut out = at_least(kind, &quantities(item, "min"), requests, limits);
    for (name, max) in quantities(item, "max") {
        let start = format!("maximum {name} usage per {kind} is {max}");
        match (limits.get(&name), requests.get(&name)) {
            (None, _) => out.push(format!("{start}.  No limit is specified")),
            (Some(limit), _) if *limit > max => out.push(format!("{start}, but limit is {limit}")),
            (_, Some(request)) if *request > max => out.push(format!("{start}, but request is {request}")),
            _ => {}
        }
    }
    for (name, ratio) in quantities(item, "maxLimitRequestRatio") {
        let start = format!("{name} max limit to request ratio per {kind} is {ratio}");
        let of = |amounts: &Amounts| amounts.get(&name).filter(|q| !q.is_zero()).map(Quantity::as_f64);
        match (of(requests), of(limits)) {
            (None, _) => out.push(format!("{start}, but no request is specified or request is 0")),
            (_, None) => out.push(format!("{start}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) if limit / request > ratio.as_f64() => {
                out.push(format!("{start}, but provided ratio is {:.6}", limit / request));
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_filled_in_and_noted() {
        let range = json!({"spec": {"limits": [{"type": "Container",
            "default": {"cpu": "2", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m", "memory": "1Gi"}}]}});
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}]}});
        set_defaults(&mut pod, &range);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "100m");
        assert_eq!(pod["spec"]["containers"][1]["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
        let note = "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; memory request for container b; memory limit for container b";
        assert_eq!(pod["metadata"]["annotations"][ANNOTATION], note);
    }

    #[test]
    fn bounds_in_upstreams_words() {
        let range = json!({"spec": {"limits": [
            {"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}},
            {"type": "Pod", "max": {"memory": "1Gi"}}]}});
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "2", "memory": "2Gi"}}}]}});
        assert_eq!(
            pod_problems(&pod, &range),
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 40.000000",
                "maximum memory usage per Pod is 1Gi, but limit is 2Gi",
            ]
        );
    }
}
