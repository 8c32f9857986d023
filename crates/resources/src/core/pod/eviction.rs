//! `pods/eviction`: deletion that a PodDisruptionBudget may refuse (pkg/registry/core/pod/storage/eviction.go).

use super::set_condition;
use crate::util::status_of;
use crate::util::value::{at, list, number, text};
use futures_util::future::BoxFuture;
use http::Method;
use knarr_apiserver::def::{Handler, Reply, SubKind, SubRequest, Subresource};
use knarr_apiserver::request::RequestCx;
use knarr_meta::selector::LabelSelector;
use knarr_meta::status::{Cause, Status};
use knarr_meta::time;
use serde_json::{Value, json};
use std::sync::Arc;

/// Tries against a budget whose status changes meanwhile.
const TRIES: usize = 20;
/// Names of evicted pods a budget remembers at most.
const MAX_DISRUPTED: usize = 2000;

/// The subresource.
pub fn subresource() -> Subresource {
    Subresource {
        name: "eviction",
        kind: ("policy", "v1", "Eviction"),
        verbs: &["create"],
        serve: SubKind::Custom(Box::new(Evict)),
    }
}

struct Evict;

impl Handler for Evict {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(async move {
            let pod = request.parent.unwrap_or_default();
            evict(request.cx, &request.body, &pod).await?;
            let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
            Ok(Reply::Object(201, success))
        })
    }
}

async fn evict(cx: &RequestCx, eviction: &Value, pod: &Value) -> Result<(), Status> {
    let (namespace, name) = (text(pod, &["metadata", "namespace"]), text(pod, &["metadata", "name"]));
    if text(eviction, &["metadata", "name"]) != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = eviction["deleteOptions"].clone();
    if !options.is_object() {
        options = json!({});
    }
    let dry_run = cx.dry_run || !list(&options, &["dryRun"]).is_empty();
    let deleting = !text(pod, &["metadata", "deletionTimestamp"]).is_empty();
    let terminal = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if deleting || terminal || text(pod, &["status", "phase"]) == "Pending" {
        // A pod that does not run cannot be disrupted; but it must not have started meanwhile.
        let pin = (!deleting && !terminal).then(|| text(pod, &["metadata", "resourceVersion"]));
        return delete(cx, pod, options, pin, dry_run).await;
    }

    let budgets = budgets_of(cx, namespace, pod);
    let pin = match budgets.as_slice() {
        [] => None,
        [budget] => {
            if may_evict_unhealthy(pod, budget) {
                Some(text(pod, &["metadata", "resourceVersion"]))
            } else {
                consume(cx, namespace, name, text(budget, &["metadata", "name"]), dry_run).await?;
                None
            }
        }
        _ => {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, knarr_meta::status::Reason::Unknown, message));
        }
    };
    delete(cx, pod, options, pin, dry_run).await
}

fn budgets_of(cx: &RequestCx, namespace: &str, pod: &Value) -> Vec<Arc<Value>> {
    cx.reader
        .list("policy", "poddisruptionbudgets", namespace)
        .into_iter()
        .filter(|budget| {
            LabelSelector::from_label_selector(&budget["spec"]["selector"])
                .is_ok_and(|selector| selector.matches_object(pod))
        })
        .collect()
}

/// A pod that is not ready may go when the budget says so, or when the rest is healthy enough.
fn may_evict_unhealthy(pod: &Value, budget: &Value) -> bool {
    let ready = list(pod, &["status", "conditions"])
        .iter()
        .any(|c| text(c, &["type"]) == "Ready" && text(c, &["status"]) == "True");
    if ready {
        return false;
    }
    let desired = number(budget, &["status", "desiredHealthy"]);
    text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || (number(budget, &["status", "currentHealthy"]) >= desired && desired > 0)
}

/// Takes one disruption from the budget, or says why not.
async fn consume(
    cx: &RequestCx,
    namespace: &str,
    pod: &str,
    budget: &str,
    dry_run: bool,
) -> Result<(), Status> {
    let url = format!("/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{budget}");
    for _ in 0..TRIES {
        let current = cx.loopback.call(Method::GET, &url, &Value::Null).await.map_err(status_of)?;
        let mut current: Value = serde_json::from_slice(&current).map_err(Status::internal)?;
        if number(&current, &["status", "observedGeneration"]) < number(&current, &["metadata", "generation"])
        {
            return Err(too_many(format!(
                "The disruption budget {budget} is still being processed by the server."
            )));
        }
        let allowed = number(&current, &["status", "disruptionsAllowed"]);
        if allowed < 0 {
            let message = "pdb disruptions allowed is negative".to_owned();
            let resource = knarr_meta::gvk::GroupResource::new("policy", "poddisruptionbudgets");
            return Err(Status::forbidden(&resource, budget, message));
        }
        if at(&current, &["status", "disruptedPods"])
            .and_then(Value::as_object)
            .is_some_and(|m| m.len() > MAX_DISRUPTED)
        {
            let resource = knarr_meta::gvk::GroupResource::new("policy", "poddisruptionbudgets");
            let message = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
            return Err(Status::forbidden(&resource, budget, message));
        }
        if allowed == 0 {
            return Err(too_many(format!(
                "The disruption budget {budget} needs {} healthy pods and has {} currently",
                number(&current, &["status", "desiredHealthy"]),
                number(&current, &["status", "currentHealthy"])
            )));
        }
        if dry_run {
            return Ok(());
        }
        current["status"]["disruptionsAllowed"] = (allowed - 1).into();
        current["status"]["disruptedPods"][pod] = time::rfc3339(cx.ctx.clock.now()).into();
        match cx.loopback.call(Method::PUT, &format!("{url}/status"), &current).await {
            Ok(_) => return Ok(()),
            Err(err) if err.is_conflict() => {}
            Err(err) => return Err(status_of(err)),
        }
    }
    Err(Status::timeout(format!("couldn't update PodDisruptionBudget \"{budget}\" due to conflicts"), 10))
}

fn too_many(cause: String) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(message, if cause.contains("still being") { 10 } else { 0 });
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message: cause, field: String::new() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

/// Notes on the pod why it goes, then deletes it. `pin` is the version the decision was made on.
async fn delete(
    cx: &RequestCx,
    pod: &Value,
    mut options: Value,
    pin: Option<&str>,
    dry_run: bool,
) -> Result<(), Status> {
    let (namespace, name) = (text(pod, &["metadata", "namespace"]), text(pod, &["metadata", "name"]));
    let url = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let wanted = text(&options, &["preconditions", "resourceVersion"]).to_owned();
    let mut pin = pin.map(str::to_owned).or((!wanted.is_empty()).then_some(wanted));
    if !dry_run {
        let mut noted = pod.clone();
        let now = time::rfc3339(cx.ctx.clock.now());
        let message = "Eviction API: evicting";
        set_condition(&mut noted, &now, "DisruptionTarget", "True", "EvictionByEvictionAPI", message);
        let conditions = list(&noted, &["status", "conditions"]);
        let condition = conditions.iter().find(|c| text(c, &["type"]) == "DisruptionTarget");
        let mut patch =
            json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [condition]}});
        if let Some(version) = &pin {
            patch["metadata"]["resourceVersion"] = version.as_str().into();
        }
        let patch = knarr_client::Patch::Strategic(patch);
        let path = knarr_client::ResourcePath::of::<knarr_api::core::v1::Pod>();
        let patched =
            cx.loopback.patch_raw(&path, namespace, name, "status", &patch).await.map_err(status_of)?;
        let patched: Value = serde_json::from_slice(&patched).map_err(Status::internal)?;
        if pin.is_some() {
            pin = Some(text(&patched, &["metadata", "resourceVersion"]).to_owned());
        }
    }
    options["kind"] = "DeleteOptions".into();
    options["apiVersion"] = "v1".into();
    if let Some(version) = pin {
        options["preconditions"]["resourceVersion"] = version.into();
    }
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    cx.loopback.call(Method::DELETE, &url, &options).await.map(drop).map_err(status_of)
}
