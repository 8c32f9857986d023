//! `serviceaccounts/token` (authentication.k8s.io/v1 TokenRequest, KEP-1205): a token for a service account,
//! bound to a pod, a secret or a node, for some audiences and a time.

use super::super::authn::tokens::{Claims, Private, Ref, epoch_seconds};
use super::Late;
use crate::def::{Handler, Reply, SubRequest};
use crate::request::RequestCx;
use futures_util::future::BoxFuture;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Seconds a token is valid when nothing is asked for.
const DEFAULT_SECONDS: i64 = 3600;
/// The fewest seconds.
const MIN_SECONDS: i64 = 600;
/// The most seconds.
const MAX_SECONDS: i64 = 1 << 32;
/// What kubelets ask for on behalf of clients that may not know that tokens expire: such tokens live for a
/// year, and use after the time asked for is remarked on.
const WARN_ONLY_SECONDS: i64 = 3607;
/// How long those live.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Issues tokens.
pub(super) struct TokenRequests {
    pub(super) late: Arc<Late>,
}

impl Handler for TokenRequests {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(std::future::ready(self.answer(request)))
    }
}

impl TokenRequests {
    fn answer(&self, request: SubRequest<'_>) -> Result<Reply, Status> {
        let cx = request.cx;
        let name = cx.info.name.as_str();
        let account = request
            .parent
            .ok_or_else(|| Status::not_found(&GroupResource::new("", "serviceaccounts"), name))?;
        let mut review = request.body;
        if !review.is_object() {
            review = json!({});
        }
        for (field, expected) in [("name", name), ("namespace", cx.info.namespace.as_str())] {
            let given = review["metadata"][field].as_str().unwrap_or_default();
            if !given.is_empty() && given != expected {
                return Err(Status::bad_request(format!(
                    "the {field} of the provided object does not match the {field} sent on the request"
                )));
            }
        }
        let seconds = review["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        validate(seconds, name)?;
        let mut audiences: Vec<String> = review["spec"]["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        if audiences.is_empty() {
            audiences = self.late.tokens.audiences().to_vec();
        }
        let mut private = bind(cx, name, &review["spec"]["boundObjectRef"])?;
        private.namespace = cx.info.namespace.clone();
        private.serviceaccount = reference(&account);

        let now = epoch_seconds(cx.ctx.clock.now());
        let own = self.late.tokens.audiences();
        let extend = seconds == WARN_ONLY_SECONDS
            && private.pod.is_some()
            && audiences.iter().all(|a| own.contains(a));
        if extend {
            private.warnafter = Some(now + seconds);
        }
        let token = self.late.tokens.sign(Claims {
            aud: audiences.clone(),
            exp: Some(now + if extend { EXTENDED_SECONDS } else { seconds }),
            iat: Some(now),
            nbf: Some(now),
            jti: cx.ctx.rng.uuid(),
            sub: format!("system:serviceaccount:{}:{name}", private.namespace),
            kubernetes: Some(private),
            ..Claims::default()
        });
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs((now + seconds).unsigned_abs());
        review["apiVersion"] = json!("authentication.k8s.io/v1");
        review["kind"] = json!("TokenRequest");
        review["metadata"]["name"] = json!(name);
        review["metadata"]["namespace"] = json!(cx.info.namespace);
        review["spec"]["audiences"] = json!(audiences);
        review["spec"]["expirationSeconds"] = json!(seconds);
        review["status"] = json!({"token": token, "expirationTimestamp": knarr_meta::time::rfc3339(expires)});
        Ok(Reply::Object(201, review))
    }
}

fn validate(seconds: i64, name: &str) -> Result<(), Status> {
    let path = Path::new("spec").child("expirationSeconds");
    let mut errors = ErrorList::default();
    if seconds < MIN_SECONDS {
        errors.0.push(field::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MAX_SECONDS {
        errors.0.push(field::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    if errors.0.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, errors))
    }
}

fn reference(object: &Value) -> Ref {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Ref { name: text("name"), uid: text("uid") }
}

/// The claims about what the token is bound to.
fn bind(cx: &RequestCx, account: &str, wanted: &Value) -> Result<Private, Status> {
    let mut private = Private::default();
    if !wanted.is_object() {
        return Ok(private);
    }
    let text = |field: &str| wanted[field].as_str().unwrap_or_default();
    let (api_version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let (resource, namespace) = match (api_version, kind) {
        ("v1", "Pod") => ("pods", cx.info.namespace.as_str()),
        ("v1", "Secret") => ("secrets", cx.info.namespace.as_str()),
        ("v1", "Node") => ("nodes", ""),
        _ => {
            let (group, version) = knarr_meta::gvk::parse_api_version(api_version);
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let object = cx
        .reader
        .get("", resource, namespace, name)
        .ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))?;
    let bound = reference(&object);
    if !text("uid").is_empty() && text("uid") != bound.uid {
        return Err(Status::conflict(
            &GroupResource::new("", kind.to_owned()),
            name,
            format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text("uid")
            ),
        ));
    }
    match kind {
        "Pod" => {
            if object["spec"]["serviceAccountName"].as_str() != Some(account) {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            if let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let live = cx.reader.get("", "nodes", "", node);
                let uid = live.map(|node| reference(&node).uid).unwrap_or_default();
                private.node = Some(Ref { name: node.to_owned(), uid });
            }
            private.pod = Some(bound);
        }
        "Secret" => private.secret = Some(bound),
        _ => private.node = Some(bound),
    }
    Ok(private)
}
