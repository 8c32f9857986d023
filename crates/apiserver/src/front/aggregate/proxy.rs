//! Passing a request on to the extension API server that answers for its group version: kube-aggregator's proxy handler.
//! The request has been authenticated and authorized; it goes on under the front proxy's certificate with the user in
//! headers. Bodies stream both ways, upgraded connections are joined.

use super::service::{Remote, Service};
use super::transport::{Outgoing, SendError};
use super::{Aggregator, identity};
use crate::front::chain::RequestBody;
use crate::front::respond;
use crate::front::stream::forward::{HOP_BY_HOP, join, plain_response, wants_upgrade};
use crate::request::{RequestInfo, UserInfo};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, request};
use http_body_util::{Either, Full};
use hyper::upgrade::OnUpgrade;
use knarr_base::clock::timeout;
use knarr_client::Body;
use std::time::Duration;

/// Discovery of an extension API server must be quick: every client does it first (upstream's
/// aggregatedDiscoveryTimeout).
const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Upstream's answers of its own are plain text.
fn refuse(code: StatusCode, text: &str) -> Response<Body> {
    respond::text(code, format!("{text}\n"))
}

fn unavailable() -> Response<Body> {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "service unavailable")
}

impl Aggregator {
    /// Passes the request on to `service`'s backend.
    pub async fn proxy(
        &self,
        service: &Service,
        mut parts: request::Parts,
        body: RequestBody,
        info: &RequestInfo,
        user: &UserInfo,
    ) -> Response<Body> {
        let Some(remote) = service.remote.as_ref().filter(|remote| remote.available) else {
            return unavailable();
        };
        let upgrade = wants_upgrade(&parts.headers);
        let client = parts.extensions.remove::<OnUpgrade>();
        let body: Outgoing = match body {
            RequestBody::Network(body) if !upgrade => Either::Left(body),
            RequestBody::Network(_) => Either::Right(Full::new(Bytes::new())),
            RequestBody::Bytes(body) => Either::Right(Full::new(body)),
        };
        let request = match outgoing(&parts, body, user, upgrade) {
            Ok(request) => request,
            Err(text) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &text),
        };
        let work = self.pass(remote, request, client.filter(|_| upgrade));
        // `/apis/<group>/<version>` and nothing more.
        let discovery = !info.is_resource && info.path.trim_matches('/').split('/').count() == 3;
        if !discovery {
            return work.await;
        }
        match timeout(&*self.ctx.clock, DISCOVERY_LIMIT, work).await {
            Some(response) => response,
            None => unreachable_text("context deadline exceeded"),
        }
    }

    async fn pass(
        &self,
        remote: &Remote,
        request: Request<Outgoing>,
        upgraded: Option<OnUpgrade>,
    ) -> Response<Body> {
        let backend = match &remote.backend {
            Ok(backend) => backend,
            Err(text) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, text),
        };
        let Some(client) = upgraded else {
            return match backend.send(request).await {
                Ok(response) => response,
                Err(SendError::Unresolved(error)) => {
                    tracing::warn!(error, "the service of an API service cannot be resolved");
                    unavailable()
                }
                Err(SendError::Failed(error)) => unreachable_text(&error),
            };
        };
        let mut response = match backend.upgrade(request).await {
            Ok(response) => response,
            Err(SendError::Unresolved(_)) => return unavailable(),
            Err(SendError::Failed(error)) => {
                let text = format!("error dialing backend: {error}");
                return refuse(StatusCode::SERVICE_UNAVAILABLE, &text);
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return plain_response(response, ());
        }
        let server = hyper::upgrade::on(&mut response);
        join(&self.ctx, client, server);
        let (head, _) = response.into_parts();
        Response::from_parts(head, Body::empty())
    }
}

fn unreachable_text(error: &str) -> Response<Body> {
    let text = format!("error trying to reach service: {error}");
    refuse(StatusCode::SERVICE_UNAVAILABLE, &text)
}

/// The request as it goes out, addressed by path and query alone.
fn outgoing(
    parts: &request::Parts,
    body: Outgoing,
    user: &UserInfo,
    upgrade: bool,
) -> Result<Request<Outgoing>, String> {
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = path.parse().map_err(|e| format!("the path cannot be passed on: {e}"))?;
    let headers = request.headers_mut();
    for (name, value) in &parts.headers {
        let stays = HOP_BY_HOP.contains(name)
            || [header::HOST, header::AUTHORIZATION, header::UPGRADE, header::EXPECT].contains(name);
        if !stays {
            headers.append(name, value.clone());
        }
    }
    identity::set(headers, user)?;
    if let Ok(uri) = HeaderValue::from_str(parts.uri.path()) {
        headers.insert(FORWARDED_URI, uri);
    }
    let host = parts.headers.get(header::HOST).cloned().or_else(|| {
        parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    });
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        for value in parts.headers.get_all(header::UPGRADE) {
            headers.append(header::UPGRADE, value.clone());
        }
    }
    Ok(request)
}
