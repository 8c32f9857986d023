//! `pods/log`, `exec`, `attach` and `portforward`: found on the kubelet of the pod's node, with upstream's
//! mapping of the query to the kubelet's API.

use super::forward::{Unreachable, error_text, forward, wants_upgrade};
use super::kubelets::{Kubelets, Target};
use crate::def::{Handler, Reply, SubRequest};
use crate::front::info::truthy;
use crate::request::RequestCx;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::sync::Arc;

fn parent(pod: Option<Value>, cx: &RequestCx) -> Result<Value, Status> {
    pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), &cx.info.name))
}

/// The kubelet that runs the pod; `None` when it is not bound to a node yet.
fn kubelet(kubelets: &Kubelets, cx: &RequestCx, pod: &Value) -> Result<Option<Target>, Status> {
    let Some(name) = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let node = cx
        .reader
        .get("", "nodes", "", name)
        .ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), name))?;
    kubelets.of_node(&node).map(Some)
}

fn names(containers: &Value) -> Vec<&str> {
    containers.as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
}

/// The container that is meant.
fn container(asked: &str, pod: &Value) -> Result<String, Status> {
    let spec = &pod["spec"];
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let (usual, init) = (names(&spec["containers"]), names(&spec["initContainers"]));
    let ephemeral = names(&spec["ephemeralContainers"]);
    if !asked.is_empty() {
        let known = [&usual, &init, &ephemeral].iter().any(|list| list.contains(&asked));
        if known {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}")));
    }
    match usual.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {pod_name}"))),
        many => {
            let mut text = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                many.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

fn encode_query(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let joined: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    if joined.is_empty() { String::new() } else { format!("?{}", joined.join("&")) }
}

/// `pods/log`.
pub(super) struct Logs(pub(super) Arc<Kubelets>);

impl Handler for Logs {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(self.answer(request))
    }
}

/// The options of a log request that are passed on as they are.
const LOG_OPTIONS: [&str; 7] =
    ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes"];

impl Logs {
    async fn answer(&self, request: SubRequest<'_>) -> Result<Reply, Status> {
        let cx = request.cx;
        let pod = parent(request.parent, cx)?;
        validate_log_options(cx)?;
        let container = container(cx.query("container").unwrap_or_default(), &pod)?;
        let Some(target) = kubelet(&self.0, cx, &pod)? else {
            return Ok(Reply::Raw(crate::front::respond::text(StatusCode::OK, "")));
        };
        let mut query = Vec::new();
        for option in LOG_OPTIONS {
            let Some(value) = cx.query(option) else { continue };
            match option {
                "follow" | "previous" | "timestamps" if truthy(value) => query.push((option, "true")),
                "follow" | "previous" | "timestamps" => {}
                _ => query.push((option, value)),
            }
        }
        if let Some(stream) = cx.query("stream").filter(|stream| *stream != "All") {
            query.push(("stream", stream));
        }
        let path = format!(
            "/containerLogs/{}/{}/{container}{}",
            cx.info.namespace,
            cx.info.name,
            encode_query(&query)
        );
        let mut parts = request.parts;
        parts.method = Method::GET;
        parts.headers.remove(header::ACCEPT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
        // Who wants the log over a WebSocket gets it so from here.
        parts.headers.remove(header::UPGRADE);
        parts.headers.remove(header::CONNECTION);
        let response = forward(&self.0, &target, &path, parts, Unreachable::Get).await?;
        let status = response.status();
        if !status.is_success() {
            let text = error_text(response.into_body()).await;
            return Err(match status {
                StatusCode::BAD_REQUEST => Status::bad_request(text),
                StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
                code => {
                    let pods = GroupResource::new("", "pods/log");
                    Status::generic_server_response(code.as_u16(), "", &pods, &cx.info.name, &text)
                }
            });
        }
        let mut plain = http::Response::new(response.into_body());
        plain.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(Reply::Raw(plain))
    }
}

/// Upstream's ValidatePodLogOptions.
fn validate_log_options(cx: &RequestCx) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    let mut number = |name: &'static str, least: i64, words: &str| -> Result<(), Status> {
        let Some(text) = cx.query(name) else { return Ok(()) };
        let value: i64 = text.parse().map_err(|_| {
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        })?;
        if value < least {
            errors.0.push(field::invalid(&Path::new(name), value, words));
        }
        Ok(())
    };
    number("tailLines", 0, "must be greater than or equal to 0")?;
    number("limitBytes", 1, "must be greater than 0")?;
    number("sinceSeconds", 1, "must be greater than 0")?;
    if cx.query("sinceSeconds").is_some() && cx.query("sinceTime").is_some() {
        let words = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.0.push(field::forbidden(&Path::nil(), words));
    }
    if errors.0.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("", "PodLogOptions", &cx.info.name, errors))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exec,
    Attach,
    PortForward,
}

/// `pods/exec`, `attach`, `portforward`: sessions over an upgraded connection.
pub(super) struct Session {
    kubelets: Arc<Kubelets>,
    kind: Kind,
}

impl Session {
    pub(super) fn exec(kubelets: &Arc<Kubelets>) -> Self {
        Self { kubelets: kubelets.clone(), kind: Kind::Exec }
    }
    pub(super) fn attach(kubelets: &Arc<Kubelets>) -> Self {
        Self { kubelets: kubelets.clone(), kind: Kind::Attach }
    }
    pub(super) fn port_forward(kubelets: &Arc<Kubelets>) -> Self {
        Self { kubelets: kubelets.clone(), kind: Kind::PortForward }
    }

    async fn answer(&self, request: SubRequest<'_>) -> Result<Reply, Status> {
        let cx = request.cx;
        let pod = parent(request.parent, cx)?;
        let path = kubelet_path(self.kind, cx, &pod)?;
        let Some(target) = kubelet(&self.kubelets, cx, &pod)? else {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", cx.info.name)));
        };
        if !wants_upgrade(&request.parts.headers) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        forward(&self.kubelets, &target, &path, request.parts, Unreachable::Backend).await.map(Reply::Raw)
    }
}

impl Handler for Session {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(self.answer(request))
    }
}

/// The kubelet's path and query for a session.
fn kubelet_path(kind: Kind, cx: &RequestCx, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (&cx.info.namespace, &cx.info.name);
    let mut query: Vec<(&str, &str)> = Vec::new();
    if kind == Kind::PortForward {
        let ports: Vec<&str> =
            cx.query.iter().filter(|(key, _)| key == "ports").map(|(_, v)| v.as_str()).collect();
        let joined = ports.join(",");
        if !joined.is_empty() {
            query.push(("port", &joined));
        }
        return Ok(format!("/portForward/{namespace}/{name}{}", encode_query(&query)));
    }
    let container = container(cx.query("container").unwrap_or_default(), pod)?;
    for (option, parameter) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
    {
        if cx.query(option).is_some_and(truthy) {
            query.push((parameter, "1"));
        }
    }
    if query.iter().all(|(parameter, _)| *parameter == "tty") {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if kind == Kind::Exec {
        let command: Vec<&str> =
            cx.query.iter().filter(|(key, _)| key == "command").map(|(_, v)| v.as_str()).collect();
        if command.is_empty() {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
        query.extend(command.into_iter().map(|word| ("command", word)));
    }
    let verb = if kind == Kind::Exec { "exec" } else { "attach" };
    Ok(format!("/{verb}/{namespace}/{name}/{container}{}", encode_query(&query)))
}
