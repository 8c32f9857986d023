//! `pods/binding` and `bindings`: a scheduler assigns a pod to a node.

use super::set_condition;
use crate::util::value::{ensure, list, object, text};
use futures_util::future::BoxFuture;
use knarr_api::core::v1::Binding;
use knarr_apiserver::def::{Handler, Reply, ResourceDef, Strategy, SubKind, SubRequest, Subresource};
use knarr_apiserver::request::RequestCx;
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use knarr_meta::time;
use serde_json::Value;

/// The subresource.
pub fn subresource() -> Subresource {
    Subresource {
        name: "binding",
        kind: ("", "v1", "Binding"),
        verbs: &["create"],
        serve: SubKind::Change(bind),
    }
}

fn bind(cx: &RequestCx, binding: &Value, pod: &mut Value) -> Result<(), Status> {
    let name = text(pod, &["metadata", "name"]).to_owned();
    if text(binding, &["metadata", "name"]) != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let node = text(binding, &["target", "name"]);
    let kind = text(binding, &["target", "kind"]);
    if !kind.is_empty() && kind != "Node" {
        let detail =
            format!("target.kind: Unsupported value: \"{kind}\": supported values: \"Node\", \"<empty>\"");
        return Err(Status::internal(detail));
    }
    if node.is_empty() {
        return Err(Status::internal("target.name: Required value"));
    }
    let resource = GroupResource::new("", "pods");
    for (field, label) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let (wanted, found) = (text(binding, &["metadata", field]), text(pod, &["metadata", field]));
        if !wanted.is_empty() && wanted != found {
            let what = format!(
                "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
            );
            return Err(Status::conflict(&resource, &name, what));
        }
    }
    let conflict = |what: String| Err(Status::conflict(&GroupResource::new("", "pods/binding"), &name, what));
    if !text(pod, &["metadata", "deletionTimestamp"]).is_empty() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let assigned = text(pod, &["spec", "nodeName"]);
    if !assigned.is_empty() {
        return conflict(format!("pod {name} is already assigned to node \"{assigned}\""));
    }
    if !list(pod, &["spec", "schedulingGates"]).is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let map = object(pod);
    ensure(map, "spec").insert("nodeName".to_owned(), node.into());
    ensure(map, "status").remove("nominatedNodeName");
    for field in ["annotations", "labels"] {
        if let Some(more) = binding["metadata"][field].as_object().filter(|m| !m.is_empty()) {
            ensure(ensure(map, "metadata"), field).extend(more.clone());
        }
    }
    let now = time::rfc3339(cx.ctx.clock.now());
    set_condition(pod, &now, "PodScheduled", "True", "", "");
    Ok(())
}

struct Bindings;

impl Strategy for Bindings {
    type Object = Binding;
}

/// Forwards to `pods/<name>/binding` in the name of the server; the caller was authorized for `bindings`.
struct Forward;

impl Handler for Forward {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(async move {
            let namespace = &request.cx.info.namespace;
            let name = text(&request.body, &["metadata", "name"]);
            let url = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
            let answer = request.cx.loopback.call(http::Method::POST, &url, &request.body).await;
            let answer = answer.map_err(crate::util::status_of)?;
            let answer = serde_json::from_slice(&answer).map_err(Status::internal)?;
            Ok(Reply::Object(201, answer))
        })
    }
}

/// The declaration of `bindings`.
pub fn def() -> ResourceDef {
    ResourceDef { create_only: Some(Box::new(Forward)), ..ResourceDef::new(Bindings) }
}
