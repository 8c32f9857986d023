//! CONTRACT. The question an authorizer answers.

use crate::request::UserInfo;
use std::sync::Arc;

/// What is to be permitted.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Who.
    pub user: Arc<UserInfo>,
    /// Verb in lower case.
    pub verb: String,
    /// Whether the rest names a resource; otherwise `path` counts.
    pub is_resource: bool,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Resource.
    pub resource: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Name or empty.
    pub name: String,
    /// Non-resource path.
    pub path: String,
    /// The `field=value` requirements of the request's field selector (KEP-4601).
    pub fields: Vec<(String, String)>,
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Permitted, and why.
    Allow(String),
    /// Not permitted, whatever other authorizers say.
    Deny(String),
    /// No opinion; the next authorizer is asked, and if none allows, the request is refused.
    NoOpinion(String),
}

/// Answers from memory; never waits.
pub trait Authorizer: Send + Sync {
    /// Decides about one request.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}
