//! The way of a request: audit id, request info, authentication, impersonation, authorization, then a document
//! or the registry; with limits on requests at once, time and body size, panics caught, metrics and compression on the way back.
//! Requests from within the process take the same way from impersonation on.

use super::aggregate::Aggregator;
use super::authn::{Authenticator, CertificateUser, impersonate, strip_credentials};
use super::authz::{self, attributes, forbidden};
use super::documents::Documents;
use super::flowcontrol::{Admitted, FlowControl, Marks, Question, Refused};
use super::metrics::RequestMetrics;
use super::{info, respond, stream, websocket};
use crate::admission::AdmissionCx;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use crate::request::{Reader, RequestCx, RequestInfo, UserInfo, WhileInitializing};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_client::{Body, Client};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long a request that is not a watch or a stream may take, as upstream's --request-timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest body, as upstream's.
const BODY_LIMIT_BYTES: usize = 3 * 1024 * 1024;

const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// The server's own name, under which its nested calls are made.
pub const OWN_NAME: &str = "system:apiserver";

/// A request's body as it arrives.
pub enum RequestBody {
    /// In whole, from within the process.
    Bytes(Bytes),
    /// From a connection.
    Network(hyper::body::Incoming),
}

/// What is known of who asks before the request is read.
#[derive(Clone)]
pub enum Identity {
    /// A connection, with its client certificate if that verified.
    Connection(Option<CertificateUser>),
    /// A part of this process, under an identity it was given when its client was made.
    Established(Arc<UserInfo>),
}

/// What all requests share.
pub struct Chain {
    pub(crate) ctx: Ctx,
    pub(crate) registry: Arc<Registry>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Arc<authz::Chain>,
    pub(crate) documents: Documents,
    pub(crate) aggregator: Arc<Aggregator>,
    pub(crate) metrics: RequestMetrics,
    pub(crate) flow: Arc<FlowControl>,
    pub(crate) loopback: OnceLock<Client>,
}

struct Call {
    parts: http::request::Parts,
    body: RequestBody,
    info: RequestInfo,
    query: Vec<(String, String)>,
    identity: Identity,
    /// How long it may wait for its turn, if it waits at all.
    wait_limit: Option<Duration>,
    /// When the request will be given up.
    deadline: Option<Instant>,
}

impl Chain {
    /// Answers one request. Never fails: whatever goes wrong is rendered as a Status.
    pub async fn serve(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        identity: Identity,
    ) -> Response<Body> {
        let started = self.ctx.clock.instant();
        let (mut parts, body) = request.into_parts();
        // Within the process nobody reads it.
        let audit_id = match &identity {
            Identity::Connection(_) => {
                Some(parts.headers.get(AUDIT_ID).cloned().unwrap_or_else(|| self.new_audit_id()))
            }
            Identity::Established(_) => None,
        };
        if let Some(audit_id) = &audit_id {
            parts.headers.insert(AUDIT_ID, audit_id.clone());
        }
        let query = info::parse_query(parts.uri.query().unwrap_or_default());
        let info = info::resolve(&parts.method, parts.uri.path(), &query);
        let long_running = info::is_long_running(&info, &query);
        let def = match info.is_resource {
            true => self.registry.def(&info.group, &info.resource, &info.version),
            false => None,
        };
        let labels = self.metrics.labels(&info, def.as_deref());
        let dry_run = query.iter().any(|(key, _)| key == "dryRun");
        let inflight = self.metrics.begin(&labels, long_running);
        let gzip = !long_running && respond::takes_gzip(&parts.headers);
        let logs = info.resource == "pods" && info.subresource == "log";
        let socket = if info.verb == "watch" || logs { websocket::wanted(&mut parts) } else { None };
        let negotiation = negotiation_headers(&parts.headers);
        let (method, uri) = (parts.method.clone(), parts.uri.clone());

        let limit = time_limit(&query);
        let watched = (info.verb == "watch").then(|| self.flow.count_watch(&info, &query)).flatten();
        let wait_limit = match &identity {
            // Streams are not held up, nor are the server's own calls: they may be nested in one that is counted.
            _ if long_running && info.verb != "watch" => None,
            Identity::Established(user) if user.name == OWN_NAME => None,
            _ if long_running => Some(REQUEST_TIMEOUT / 4),
            _ => limit.as_ref().ok().map(|limit| *limit / 4),
        };
        let deadline = limit.as_ref().ok().filter(|_| !long_running).map(|limit| started + *limit);
        let call = Call { parts, body, info, query, identity, wait_limit, deadline };
        let mut marks = None;
        let outcome = {
            let work = AssertUnwindSafe(self.filtered(call, &mut marks)).catch_unwind();
            match limit {
                _ if long_running => Some(work.await),
                Ok(limit) => timeout(&*self.ctx.clock, limit, work).await,
                Err(status) => Some(Ok(Err(status))),
            }
        };
        let mut response = match outcome {
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(status))) => respond::status(&status, &negotiation),
            Some(Err(_panic)) => {
                tracing::error!(%uri, "a request panicked");
                self.metrics.panicked();
                let text = "This request caused apiserver to panic. Look in the logs for details.\n";
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
            None => {
                let status = Status::timeout("request did not complete within the allotted timeout", 0);
                respond::status(&status, &negotiation)
            }
        };
        if gzip {
            response = respond::compress(response).await;
        }
        let took = self.ctx.clock.instant() - started;
        tracing::debug!(%method, %uri, code = response.status().as_u16(), ?took, "answered");
        self.metrics.answered(&labels, dry_run, response.status().as_u16(), took, long_running);
        if let Some(audit_id) = audit_id {
            response.headers_mut().insert(AUDIT_ID, audit_id);
            if let Some(Marks { schema_uid, level_uid }) = marks {
                response.headers_mut().insert(FLOW_SCHEMA_UID, schema_uid);
                response.headers_mut().insert(PRIORITY_LEVEL_UID, level_uid);
            }
        }
        if !response.headers().contains_key(header::CACHE_CONTROL) {
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        if long_running {
            response = self.end_with_server(response, (inflight, watched));
        }
        if let Some(wanted) = socket {
            response = websocket::upgrade(response, wanted, &self.ctx);
        }
        response
    }

    /// Streams end when the server drains; until then the request counts as running.
    fn end_with_server(&self, response: Response<Body>, inflight: impl Send + 'static) -> Response<Body> {
        let (parts, body) = response.into_parts();
        let body = match body {
            Body::Stream(stream) => {
                let tasks = self.ctx.tasks.clone();
                let stop = async move { tasks.stopping().await };
                let counted = stream.take_until(Box::pin(stop)).map(move |item| {
                    let _running = &inflight;
                    item
                });
                Body::stream(counted)
            }
            whole => whole,
        };
        Response::from_parts(parts, body)
    }

    fn new_audit_id(&self) -> HeaderValue {
        HeaderValue::from_str(&self.ctx.rng.uuid()).expect("a UUID is valid in a header")
    }

    async fn filtered(
        self: &Arc<Self>,
        mut call: Call,
        marks: &mut Option<Marks>,
    ) -> Result<Response<Body>, Status> {
        let user = self.identify(&mut call).await?;
        let _admitted = match self.wait(&mut call, &user, marks).await {
            Ok(admitted) => admitted,
            Err(Refused { retry_after }) => return Ok(too_many_requests(retry_after)),
        };
        let question = attributes(&call.info, &call.query, user.clone());
        match self.authorizer.authorize(&question) {
            Decision::Allow(_) => self.metrics.authorized(true),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                self.metrics.authorized(false);
                return Err(forbidden(&question, &reason));
            }
        }
        if stream::is_session(&call.info) && question.verb != "create" {
            self.authorize_session(&question)?;
        }
        let path = &call.info.path;
        let elsewhere = self.aggregator.owner(&call.info).or_else(|| self.documents.openapi.owner(path));
        if let Some(service) = elsewhere {
            let Call { parts, body, info, .. } = call;
            return Ok(self.aggregator.proxy(&service, parts, body, &info, &user).await);
        }
        if !call.info.is_resource {
            let Call { parts, info, query, .. } = call;
            return Ok(self.documents.serve(&parts.method, &info.path, &query, &parts.headers).await);
        }
        self.dispatch(call, user).await
    }

    /// Waits for the request's turn. What is held by the result is given back when it is dropped; what a watch holds
    /// travels with it.
    async fn wait(
        &self,
        call: &mut Call,
        user: &UserInfo,
        marks: &mut Option<Marks>,
    ) -> Result<Option<Admitted>, Refused> {
        let Some(limit) = call.wait_limit else { return Ok(None) };
        let (info, query) = (&call.info, call.query.as_slice());
        let (found, admitted) = self.flow.admit(Question { info, user, query, limit }).await;
        *marks = Some(found);
        let admitted = admitted?;
        if info.verb != "watch" {
            return Ok(Some(admitted));
        }
        call.parts.extensions.insert(WhileInitializing::new(Box::new(admitted)));
        Ok(None)
    }

    /// A session changes what runs in the pod, by whatever method it is asked for (a WebSocket only by GET), so it
    /// needs `create` too.
    fn authorize_session(&self, question: &Attributes) -> Result<(), Status> {
        match self.authorizer.authorize(&Attributes { verb: "create".into(), ..question.clone() }) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                let resource = GroupResource::new(question.group.clone(), question.resource.clone());
                Err(Status::forbidden(&resource, &question.name, &reason))
            }
        }
    }

    async fn identify(&self, call: &mut Call) -> Result<Arc<UserInfo>, Status> {
        let requester = match &call.identity {
            Identity::Established(user) => user.clone(),
            Identity::Connection(certificate) => {
                let authenticate = || {
                    self.authenticator.authenticate(
                        &call.parts.headers,
                        certificate.as_ref(),
                        &call.info,
                        &*self.reader,
                        self.ctx.clock.now(),
                    )
                };
                let mut user = authenticate();
                if user.is_none() && self.authenticator.look_for(&call.parts.headers, &*self.reader).await {
                    user = authenticate();
                }
                self.metrics.authenticated(user.is_some());
                strip_credentials(&mut call.parts.headers);
                user.ok_or_else(|| Status::unauthorized("Unauthorized"))?
            }
        };
        let request = attributes(&call.info, &call.query, requester);
        impersonate::resolve(&mut call.parts.headers, &request, &*self.authorizer)
    }

    async fn dispatch(self: &Arc<Self>, call: Call, user: Arc<UserInfo>) -> Result<Response<Body>, Status> {
        let Call { mut parts, body, mut info, query, deadline, .. } = call;
        valid_segments(&info)?;
        let body = if stream::is_streaming(&info) {
            stream::prepare(&mut parts, &mut info, body);
            Bytes::new()
        } else {
            collect(&parts.headers, body).await?
        };
        let cx = RequestCx {
            dry_run: query.iter().any(|(key, value)| key == "dryRun" && value == "All"),
            info,
            user,
            query,
            ctx: self.ctx.clone(),
            reader: self.reader.clone(),
            loopback: self
                .loopback
                .get()
                .expect("the loopback client is set before the first request")
                .clone(),
            warnings: Mutex::default(),
            admission: AdmissionCx {
                authorizer: Some(self.authorizer.clone()),
                deadline,
                ..AdmissionCx::default()
            },
        };
        Ok(self.registry.serve(cx, parts, body).await)
    }
}

/// Upstream's answer of an overloaded server.
fn too_many_requests(retry_after: u64) -> Response<Body> {
    let text = "Too many requests, please try again later.\n";
    let mut response = respond::text(StatusCode::TOO_MANY_REQUESTS, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
    response
}

/// How long a request may take: what its `timeout` parameter says, at most [`REQUEST_TIMEOUT`].
fn time_limit(query: &[(String, String)]) -> Result<Duration, Status> {
    let asked = query.iter().find(|(key, value)| key == "timeout" && !value.is_empty());
    let Some((_, text)) = asked else { return Ok(REQUEST_TIMEOUT) };
    let parsed = info::parse_duration(text).map_err(|why| {
        Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))
    })?;
    Ok(if parsed.is_zero() { REQUEST_TIMEOUT } else { parsed.min(REQUEST_TIMEOUT) })
}

/// Refuses names that no object can have and that would read as other paths.
fn valid_segments(info: &RequestInfo) -> Result<(), Status> {
    for text in [&info.name, &info.namespace] {
        let problem = match text.as_str() {
            "." | ".." => format!("may not be '{text}'"),
            text if text.contains('/') => "may not contain '/'".to_owned(),
            text if text.contains('%') => "may not contain '%'".to_owned(),
            _ => continue,
        };
        return Err(Status::bad_request(format!("invalid resource name {text:?}: [{problem}]")));
    }
    Ok(())
}

/// The headers that errors are negotiated with, kept while the request itself is handed on.
fn negotiation_headers(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    if let Some(accept) = headers.get(header::ACCEPT) {
        kept.insert(header::ACCEPT, accept.clone());
    }
    kept
}

/// The whole body, at most [`BODY_LIMIT_BYTES`].
async fn collect(headers: &HeaderMap, body: RequestBody) -> Result<Bytes, Status> {
    let too_large = || Status::too_large(format!("limit is {BODY_LIMIT_BYTES}"));
    let mut incoming = match body {
        RequestBody::Bytes(bytes) if bytes.len() > BODY_LIMIT_BYTES => return Err(too_large()),
        RequestBody::Bytes(bytes) => return Ok(bytes),
        RequestBody::Network(incoming) => incoming,
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|len| len > BODY_LIMIT_BYTES) {
        drain(&mut incoming).await;
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("the body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        match &mut rest {
            None if first.is_empty() => first = data,
            None => {
                let mut all = BytesMut::with_capacity(announced.unwrap_or(first.len() + data.len()));
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                rest = Some(all);
            }
            Some(all) => all.extend_from_slice(&data),
        }
        if rest.as_ref().map_or(first.len(), BytesMut::len) > BODY_LIMIT_BYTES {
            drain(&mut incoming).await;
            return Err(too_large());
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

/// Reads on a little and throws it away: an HTTP/2 client whose stream is reset while it still sends may never see
/// the answer.
async fn drain(incoming: &mut hyper::body::Incoming) {
    let mut left = 4 * BODY_LIMIT_BYTES;
    while let Some(Ok(frame)) = incoming.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// A transport within the process: the chain after authentication.
pub struct InProcess {
    pub(crate) chain: std::sync::Weak<Chain>,
    pub(crate) user: Arc<UserInfo>,
}

impl knarr_client::Transport for InProcess {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> futures_util::future::BoxFuture<'static, Result<Response<Body>, knarr_client::Error>> {
        let (chain, user) = (self.chain.upgrade(), self.user.clone());
        Box::pin(async move {
            let Some(chain) = chain else {
                return Err(knarr_client::Error::Connect {
                    server: IN_PROCESS.into(),
                    source: "the API server has ended".into(),
                });
            };
            Ok(chain.serve(request.map(RequestBody::Bytes), Identity::Established(user)).await)
        })
    }

    fn server(&self) -> String {
        IN_PROCESS.into()
    }
}

/// How the in-process server is called in messages.
const IN_PROCESS: &str = "the API server in this process";
