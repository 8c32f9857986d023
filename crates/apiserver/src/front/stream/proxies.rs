//! `pods/proxy`, `services/proxy` and `nodes/proxy`: any HTTP request, upgraded connections included, passed
//! on to a pod, to one of a service's ready endpoints, or to a node.

use super::ProxyTarget;
use super::forward::{Unreachable, forward};
use super::kubelets::{Kubelets, Target, node_address};
use crate::def::{Handler, Reply, SubRequest};
use crate::request::RequestCx;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use knarr_client::Body;
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is to be requested at the other end.
enum Rest {
    /// This path and query.
    Path(String),
    /// The client is to ask again with a slash at the end, so that relative links work.
    Redirect(Response<Body>),
}

/// What follows `/proxy` in the path as it was sent, with the query.
fn rest(parts: &Parts, namespaced: bool) -> Rest {
    let path = parts.uri.path();
    let segments = if namespaced { 7 } else { 5 };
    let mut rest = path.trim_start_matches('/').splitn(segments + 1, '/').skip(segments);
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    match rest.next() {
        Some(rest) => Rest::Path(format!("/{rest}{query}")),
        None if matches!(parts.method, Method::GET | Method::HEAD)
            && !super::forward::wants_upgrade(&parts.headers) =>
        {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            if let Ok(location) = HeaderValue::from_str(&format!("{path}/{query}")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Rest::Redirect(response)
        }
        None => Rest::Path(format!("/{query}")),
    }
}

fn wanted(parts: &mut Parts) -> ProxyTarget {
    parts.extensions.remove::<ProxyTarget>().unwrap_or_default()
}

/// Refuses addresses a proxy must not be used to reach, as upstream's IsProxyableIP.
fn proxyable(ip: IpAddr) -> Result<IpAddr, Status> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(ip)
}

fn target(scheme: &str, address: SocketAddr) -> Target {
    if scheme == "https" { Target::Unverified(address) } else { Target::Plain(address) }
}

async fn pass(kubelets: &Kubelets, target: &Target, parts: Parts, namespaced: bool) -> Result<Reply, Status> {
    match rest(&parts, namespaced) {
        Rest::Path(path) => {
            forward(kubelets, target, &path, parts, Unreachable::Service).await.map(Reply::Raw)
        }
        Rest::Redirect(response) => Ok(Reply::Raw(response)),
    }
}

fn missing(resource: &'static str, cx: &RequestCx) -> Status {
    Status::not_found(&GroupResource::new("", resource), &cx.info.name)
}

/// `pods/proxy`.
pub(super) struct Pods(pub(super) Arc<Kubelets>);

impl Handler for Pods {
    fn handle<'a>(&'a self, mut request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(async move {
            let wanted = wanted(&mut request.parts);
            let pod = request.parent.ok_or_else(|| missing("pods", request.cx))?;
            let address = pod_address(&pod, &wanted.port)?;
            pass(&self.0, &target(&wanted.scheme, address), request.parts, true).await
        })
    }
}

fn pod_address(pod: &Value, port: &str) -> Result<SocketAddr, Status> {
    let ip: IpAddr = pod["status"]["podIP"]
        .as_str()
        .and_then(|ip| ip.parse().ok())
        .ok_or_else(|| Status::bad_request("address not allowed"))?;
    let containers = || pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = || containers().flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let number = match port {
        "" => ports()
            .find_map(|p| p["containerPort"].as_u64())
            .and_then(|p| u16::try_from(p).ok())
            .unwrap_or(80),
        text => match text.parse() {
            Ok(number) => number,
            Err(_) => ports()
                .find(|p| p["name"] == text)
                .and_then(|p| u16::try_from(p["containerPort"].as_u64()?).ok())
                .ok_or_else(|| Status::bad_request(format!("no container port named {text:?}")))?,
        },
    };
    Ok(SocketAddr::new(proxyable(ip)?, number))
}

/// `services/proxy`.
pub(super) struct Services(pub(super) Arc<Kubelets>);

impl Handler for Services {
    fn handle<'a>(&'a self, mut request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(async move {
            let wanted = wanted(&mut request.parts);
            let service = request.parent.ok_or_else(|| missing("services", request.cx))?;
            let address = service_address(request.cx, &service, &wanted.port)?;
            pass(&self.0, &target(&wanted.scheme, address), request.parts, true).await
        })
    }
}

/// One ready endpoint of the service behind the port of that name or number.
fn service_address(cx: &RequestCx, service: &Value, port: &str) -> Result<SocketAddr, Status> {
    let name = &cx.info.name;
    let ports: Vec<&Value> = service["spec"]["ports"].as_array().into_iter().flatten().collect();
    let chosen = match port {
        "" if ports.len() == 1 => ports.first().copied(),
        "" => ports.iter().find(|p| p["name"].is_null()).copied(),
        text => ports.iter().find(|p| p["name"] == text || p["port"].as_u64() == text.parse().ok()).copied(),
    };
    let none = || Status::service_unavailable(format!("no endpoints available for service {name:?}"));
    let chosen = chosen.ok_or_else(|| {
        Status::service_unavailable(format!("no service port {port:?} found for service {name:?}"))
    })?;
    let port_name = chosen["name"].as_str().unwrap_or_default();
    let mut candidates = Vec::new();
    for slice in cx.reader.list("discovery.k8s.io", "endpointslices", &cx.info.namespace) {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != name.as_str() {
            continue;
        }
        let ports = slice["ports"].as_array().into_iter().flatten();
        let Some(number) = ports
            .filter(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|p| u16::try_from(p["port"].as_u64()?).ok())
        else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            candidates.extend(
                addresses
                    .filter_map(|a| a.as_str()?.parse().ok())
                    .map(|ip: IpAddr| SocketAddr::new(ip, number)),
            );
        }
    }
    if candidates.is_empty() {
        return Err(none());
    }
    let index = cx.ctx.rng.below(candidates.len() as u64) as usize;
    let address = candidates[index];
    proxyable(address.ip())?;
    Ok(address)
}

/// `nodes/proxy`.
pub(super) struct Nodes(pub(super) Arc<Kubelets>);

impl Handler for Nodes {
    fn handle<'a>(&'a self, mut request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(async move {
            let wanted = wanted(&mut request.parts);
            let node = request.parent.ok_or_else(|| missing("nodes", request.cx))?;
            let kubelet = self.0.of_node(&node)?;
            let target = match wanted.port.parse::<u16>() {
                _ if wanted.port.is_empty() => kubelet,
                Ok(port) if port == kubelet.address().port() => kubelet,
                Ok(port) => {
                    let ip = node_address(&node).ok_or_else(|| Status::bad_request("address not allowed"))?;
                    target(&wanted.scheme, SocketAddr::new(proxyable(ip)?, port))
                }
                Err(_) => return Err(Status::bad_request(format!("invalid node port {:?}", wanted.port))),
            };
            pass(&self.0, &target, request.parts, false).await
        })
    }
}
