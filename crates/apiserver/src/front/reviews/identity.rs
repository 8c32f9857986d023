//! TokenReview and SelfSubjectReview (authentication.k8s.io/v1).

use super::Late;
use crate::def::{Handler, Reply, SubRequest};
use crate::front::authn::verify_token;
use crate::request::UserInfo;
use futures_util::future::BoxFuture;
use knarr_meta::status::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// Says who is asking.
pub(super) struct SelfReview;

impl Handler for SelfReview {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        let mut review = request.body;
        if !review.is_object() {
            review = json!({});
        }
        review["apiVersion"] = json!("authentication.k8s.io/v1");
        review["kind"] = json!("SelfSubjectReview");
        review["status"] = json!({"userInfo": user(&request.cx.user)});
        Box::pin(std::future::ready(Ok(Reply::Object(201, review))))
    }
}

fn user(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Says whose a token is.
pub(super) struct Review {
    pub(super) late: Arc<Late>,
}

impl Handler for Review {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(self.answer(request))
    }
}

impl Review {
    async fn answer(&self, request: SubRequest<'_>) -> Result<Reply, Status> {
        let mut review = request.body;
        let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let tokens = &self.late.tokens;
        let mut audiences: Vec<String> = review["spec"]["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        if audiences.is_empty() {
            audiences = tokens.audiences().to_vec();
        }
        let now = request.cx.ctx.clock.now();
        let reader = &*request.cx.reader;
        let mut verified = verify_token(tokens, &token, &audiences, now, reader);
        if verified.is_none() && tokens.look_for(&token, reader).await {
            verified = verify_token(tokens, &token, &audiences, now, reader);
        }
        review["status"] = match verified {
            Some(verified) => json!({
                "authenticated": true,
                "user": user(&verified.user),
                "audiences": verified.audiences,
            }),
            None => json!({"user": {}, "error": "invalid bearer token"}),
        };
        review["apiVersion"] = json!("authentication.k8s.io/v1");
        review["kind"] = json!("TokenReview");
        Ok(Reply::Object(201, review))
    }
}
