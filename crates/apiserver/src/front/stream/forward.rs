//! Passing one HTTP request on: hop-by-hop headers (RFC 9110, section 7.6.1) stay here, bodies stream in both
//! directions, and an upgraded connection is joined byte by byte.

use super::kubelets::{Kubelets, Target};
use super::{Incoming, RequestBody};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, request};
use http_body_util::{BodyStream, Either, Full};
use hyper_util::rt::TokioIo;
use knarr_base::Ctx;
use knarr_client::Body;
use knarr_meta::status::{Reason, Status};

/// Headers between two neighbours only.
pub(in crate::front) const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

type Outgoing = Either<hyper::body::Incoming, Full<Bytes>>;

/// Whether the client asks to upgrade the connection.
pub(in crate::front) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        && headers.contains_key(header::UPGRADE)
}

/// How it is said that the other end cannot be reached.
pub(super) enum Unreachable {
    /// Proxies: 503.
    Service,
    /// Sessions: 500, as upstream's upgrade handler.
    Backend,
    /// Logs: 500, as Go's HTTP client says it.
    Get,
}

impl Unreachable {
    fn status(&self, target: &Target, path: &str, error: &str) -> Status {
        match self {
            Self::Service => Status::service_unavailable(format!("error trying to reach service: {error}")),
            Self::Backend => Status::new(500, Reason::Unknown, format!("error dialing backend: {error}")),
            Self::Get => {
                let url = format!("https://{}{path}", target.address());
                Status::new(500, Reason::Unknown, format!("Get \"{url}\": {error}"))
            }
        }
    }
}

/// Sends the request to `target` at `path_and_query` and hands back what comes.
pub(super) async fn forward(
    kubelets: &Kubelets,
    target: &Target,
    path_and_query: &str,
    mut parts: request::Parts,
    unreachable: Unreachable,
) -> Result<Response<Body>, Status> {
    let upgrade = wants_upgrade(&parts.headers);
    let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    if upgrade && client.is_none() {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let body = match parts.extensions.remove::<Incoming>().and_then(|incoming| incoming.take()) {
        Some(RequestBody::Network(body)) if !upgrade => Either::Left(body),
        Some(RequestBody::Bytes(body)) => Either::Right(Full::new(body)),
        _ => Either::Right(Full::new(Bytes::new())),
    };
    let request = outgoing(&parts, target, path_and_query, body, upgrade)?;
    let failed = |error: String| unreachable.status(target, path_and_query, &error);
    let io = kubelets.connect(target).await.map_err(failed)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| failed(e.to_string()))?;
    kubelets.ctx.tasks.spawn_until_stopped("proxied connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection broke off");
        }
    });
    let mut response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err(Status::internal("the other end upgraded a connection that was not to be upgraded"));
        };
        let server = hyper::upgrade::on(&mut response);
        join(&kubelets.ctx, client, server);
        let (head, _) = response.into_parts();
        return Ok(Response::from_parts(head, Body::empty()));
    }
    Ok(plain_response(response, sender))
}

/// The response as it comes, without what concerned this hop only. The sender is kept with the body: dropping
/// it would end the connection.
pub(in crate::front) fn plain_response<T: Send + 'static>(
    response: Response<hyper::body::Incoming>,
    sender: T,
) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    for name in HOP_BY_HOP {
        head.headers.remove(name);
    }
    let mut plain = Response::new(());
    *plain.status_mut() = head.status;
    *plain.headers_mut() = head.headers;
    let frames = BodyStream::new(body)
        .map_err(Into::into)
        .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) });
    let stream = frames.map(move |item| {
        let _open = &sender;
        item
    });
    plain.map(|()| Body::stream(Stick(Box::pin(stream))))
}

/// A stream whose `Sync`ness does not matter to its body.
struct Stick<T>(std::pin::Pin<Box<dyn futures_util::Stream<Item = T> + Send>>);

impl<T> futures_util::Stream for Stick<T> {
    type Item = T;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.as_mut().poll_next(cx)
    }
}

fn outgoing(
    parts: &request::Parts,
    target: &Target,
    path_and_query: &str,
    body: Outgoing,
    upgrade: bool,
) -> Result<Request<Outgoing>, Status> {
    let uri: Uri = path_and_query
        .parse()
        .map_err(|e| Status::bad_request(format!("the path cannot be passed on: {e}")))?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    for (name, value) in &parts.headers {
        if !HOP_BY_HOP.contains(name)
            && *name != header::HOST
            && *name != header::AUTHORIZATION
            && *name != header::UPGRADE
        {
            headers.append(name, value.clone());
        }
    }
    let host = HeaderValue::from_str(&target.address().to_string()).expect("an address is valid in a header");
    headers.insert(header::HOST, host);
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        for value in parts.headers.get_all(header::UPGRADE) {
            headers.append(header::UPGRADE, value.clone());
        }
    }
    Ok(request)
}

/// Copies between the two ends until both are done.
pub(in crate::front) fn join(
    ctx: &Ctx,
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
) {
    ctx.tasks.spawn_until_stopped("upgraded connection", async move {
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "an upgrade was not completed");
                return;
            }
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
            tracing::debug!(%error, "an upgraded connection broke off");
        }
    });
}

/// Reads the start of an error's text.
pub(super) async fn error_text(body: Body) -> String {
    const LIMIT_BYTES: usize = 2000;
    let mut text = Vec::new();
    let mut body = body;
    while let Some(Ok(chunk)) = body.next().await {
        text.extend_from_slice(&chunk);
        if text.len() >= LIMIT_BYTES {
            text.truncate(LIMIT_BYTES);
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
