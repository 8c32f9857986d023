//! `authorizer` in expressions: the server's own authorizer, asked about the user of the request or a service
//! account.

use knarr_apiserver::authorize::{Attributes, Authorizer, Decision};
use knarr_apiserver::request::UserInfo;
use knarr_cel::{AuthorizerAttributes, AuthorizerDecision, AuthorizerUser};
use std::sync::Arc;

/// See the module's documentation.
pub struct Asker(pub Arc<dyn Authorizer>);

impl knarr_cel::Authorizer for Asker {
    fn authorize(&self, asked: &AuthorizerAttributes) -> AuthorizerDecision {
        let user = UserInfo {
            name: asked.user.name.clone(),
            uid: asked.user.uid.clone(),
            groups: asked.user.groups.clone(),
            extra: asked.user.extra.iter().cloned().collect(),
        };
        // A selector that cannot be read narrows nothing, as upstream's authorizers take it.
        let fields = match &asked.field_selector {
            Some(Ok(selector)) => selector.requirements().iter(),
            _ => [].iter(),
        };
        let exact = fields.filter(|requirement| !requirement.negated);
        let fields = exact.map(|r| (r.field.clone(), r.value.clone())).collect();
        let attributes = Attributes {
            user: Arc::new(user),
            verb: asked.verb.clone(),
            is_resource: asked.is_resource,
            group: asked.group.clone(),
            version: asked.version.clone(),
            resource: asked.resource.clone(),
            subresource: asked.subresource.clone(),
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            path: asked.path.clone(),
            fields,
        };
        let (allowed, reason) = match self.0.authorize(&attributes) {
            Decision::Allow(reason) => (true, reason),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => (false, reason),
        };
        AuthorizerDecision { allowed, reason, error: None }
    }
}

/// The user of a request.
pub fn user(user: &UserInfo) -> AuthorizerUser {
    AuthorizerUser {
        name: user.name.clone(),
        uid: user.uid.clone(),
        groups: user.groups.clone(),
        extra: user.extra.clone().into_iter().collect(),
    }
}
