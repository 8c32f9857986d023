//! Who may use the kubelet's API, decided as upstream's kubelet decides it with `--authentication-token-webhook` and
//! `--authorization-mode=Webhook`: clients prove who they are by a certificate of the cluster's CA or by a bearer token
//! that the API server reviews, and the API server says by a SubjectAccessReview whether they may. Nobody is let in
//! without a name, and nobody has a way of his own: the API server's certificate is asked about like any other.
//!
//! - [`identity`]: certificates and tokens.
//! - [`attributes`]: which resource of the Node a request is about (KEP-2862).
//! - [`expiring`]: answers that are kept for a while.

mod attributes;
mod expiring;
mod identity;

pub(super) use identity::User;

use attributes::{Subresources, subresources, verb};
use expiring::Expiring;
use http::{HeaderMap, Method, StatusCode, header};
use knarr_client::Client;
use serde_json::{Value, json};
use std::time::Duration;

/// Upstream's defaults of the kubelet's configuration (authentication.webhook.cacheTTL, authorization.webhook.*).
pub(super) const TOKEN_TTL: Duration = Duration::from_secs(120);
pub(super) const ALLOWED_TTL: Duration = Duration::from_secs(300);
pub(super) const REFUSED_TTL: Duration = Duration::from_secs(30);

/// What is asked of the API server: user, groups, verb, subresource.
type Question = (User, &'static str, &'static str);

/// Decides who may do what.
pub(super) struct Auth {
    client: Client,
    node: String,
    tokens: Expiring<String, Option<User>>,
    answers: Expiring<Question, bool>,
}

/// A request that is not let in: the code and the words.
pub(super) type Refusal = (StatusCode, String);

impl Auth {
    /// For the API of the node `node`; `client` asks the API server as the node.
    pub(super) fn new(client: Client, node: &str) -> Self {
        Self { client, node: node.to_owned(), tokens: Expiring::default(), answers: Expiring::default() }
    }

    /// Lets a request in, or says why not. `certificate` is the user that the connection's certificate names.
    pub(super) async fn admit(
        &self,
        certificate: Option<&User>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let user = match certificate {
            Some(user) => Some(user.clone()),
            None => self.bearer(headers).await,
        };
        let Some(user) = user else { return Err((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())) };
        let (verb, subresources) = (verb(method), subresources(path));
        for subresource in subresources.iter() {
            match self.allows(&user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, user = user.name, verb, subresource, "access could not be reviewed");
                    let text = format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                        user.name
                    );
                    return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
                }
            }
        }
        Err((StatusCode::FORBIDDEN, forbidden(&user.name, verb, &subresources)))
    }

    async fn bearer(&self, headers: &HeaderMap) -> Option<User> {
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return None;
        }
        let now = self.client.ctx().clock.instant();
        if let Some(known) = self.tokens.get(&token.to_owned(), now) {
            return known;
        }
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {},
            "spec": { "token": token },
        });
        let user = match self.review("/apis/authentication.k8s.io/v1/tokenreviews", &review).await {
            Ok(status) => User::reviewed(&status),
            Err(error) => {
                tracing::warn!(error, "a token could not be reviewed");
                return None;
            }
        };
        self.tokens.put(token.to_owned(), user.clone(), now, TOKEN_TTL);
        user
    }

    async fn allows(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, String> {
        let question = (user.clone(), verb, subresource);
        let now = self.client.ctx().clock.instant();
        if let Some(known) = self.answers.get(&question, now) {
            return Ok(known);
        }
        let review = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": {
                "user": user.name,
                "uid": user.uid,
                "groups": user.groups,
                "extra": user.extra,
                "resourceAttributes": {
                    "verb": verb,
                    "version": "v1",
                    "resource": "nodes",
                    "subresource": subresource,
                    "name": self.node,
                },
            },
        });
        let status = self.review("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
        let allowed = status["allowed"] == true && status["denied"] != true;
        let ttl = if allowed { ALLOWED_TTL } else { REFUSED_TTL };
        self.answers.put(question, allowed, now, ttl);
        Ok(allowed)
    }

    async fn review(&self, url: &str, review: &Value) -> Result<Value, String> {
        let answer = self.client.call(Method::POST, url, review).await.map_err(|e| e.to_string())?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        Ok(answer["status"].take())
    }
}

/// Upstream's words, with Go's way of printing a list.
fn forbidden(user: &str, verb: &str, subresources: &Subresources) -> String {
    let list = subresources.iter().collect::<Vec<_>>().join(" ");
    format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{list}])\n")
}

#[cfg(test)]
mod tests;
