//! Authorization: always-allowed paths, `system:masters`, then the node authorizer and RBAC, in upstream's
//! default order, and upstream's words for a refusal.

pub mod escalation;
pub mod node;
pub mod rbac;
pub mod rules;

use super::authn::is_health_path;
use super::info::exact_fields;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::request::{Reader, RequestInfo, UserInfo};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use std::sync::Arc;

/// All authorizers in their order; the first that has an opinion decides.
pub struct Chain {
    node: node::NodeAuthorizer,
    rbac: Arc<rbac::Rbac>,
}

impl Chain {
    /// The default chain over the objects of `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        let rbac = Arc::new(rbac::Rbac::new(reader.clone()));
        Self { node: node::NodeAuthorizer::new(reader), rbac }
    }

    /// The RBAC authorizer, for lists of rules.
    pub fn rbac(&self) -> &Arc<rbac::Rbac> {
        &self.rbac
    }
}

impl Authorizer for Chain {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        if !attributes.is_resource && is_health_path(&attributes.path) {
            return Decision::Allow(String::new());
        }
        if attributes.user.in_group("system:masters") {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        let authorizers: [&dyn Authorizer; 2] = [&self.node, &*self.rbac];
        for authorizer in authorizers {
            match authorizer.authorize(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

/// The question a request puts to the authorizers.
pub fn attributes(info: &RequestInfo, query: &[(String, String)], user: Arc<UserInfo>) -> Attributes {
    let selects = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    let fields = query
        .iter()
        .find(|(key, _)| selects && key == "fieldSelector")
        .map(|(_, selector)| exact_fields(selector))
        .unwrap_or_default();
    Attributes {
        user,
        verb: info.verb.clone(),
        is_resource: info.is_resource,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        fields,
    }
}

/// Upstream's answer to a request that nobody permits.
pub fn forbidden(a: &Attributes, reason: &str) -> Status {
    let mut message = describe(a);
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    let resource = if a.is_resource { a.resource.as_str() } else { "" };
    Status::forbidden(&GroupResource::new(a.group.clone(), resource.to_owned()), &a.name, &message)
}

/// Go's `%q` of a text without control characters.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serializes")
}

fn describe(a: &Attributes) -> String {
    let user = format!("User {}", quoted(&a.user.name));
    if !a.is_resource {
        return format!("{user} cannot {} path {}", a.verb, quoted(&a.path));
    }
    let mut resource = a.resource.clone();
    if !a.subresource.is_empty() {
        resource = format!("{resource}/{}", a.subresource);
    }
    let place = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quoted(&a.namespace))
    };
    format!(
        "{user} cannot {} resource {} in API group {} {place}",
        a.verb,
        quoted(&resource),
        quoted(&a.group)
    )
}

#[cfg(test)]
pub(crate) mod tests;
