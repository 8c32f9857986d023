//! The kinds that answer a question instead of being stored: access reviews (authorization.k8s.io), token and
//! self reviews (authentication.k8s.io), and the `token` subresource of service accounts.

mod access;
mod identity;
mod token_request;

use super::authn::Tokens;
use super::authz;
use crate::def::{Handler, ResourceDef, Strategy, SubKind, Subresource};
use knarr_api::Kind;
use knarr_api::authentication::v1::{SelfSubjectReview, TokenReview};
use knarr_api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

/// What the reviews ask. The authorizer reads from the registry, which is made of the declarations these
/// handlers are part of, so it is set afterwards.
pub struct Late {
    /// The authorizers, set before the first request.
    pub authorizer: OnceLock<Arc<authz::Chain>>,
    /// Tokens.
    pub tokens: Arc<Tokens>,
}

impl Late {
    fn authorizer(&self) -> &authz::Chain {
        self.authorizer.get().expect("the authorizer is set before the first request")
    }
}

/// Reviews have no behaviour beside their handler.
struct Review<K>(PhantomData<K>);

impl<K: Kind> Strategy for Review<K> {
    type Object = K;
    fn has_generation(&self) -> bool {
        false
    }
}

fn review<K: Kind>(handler: impl Handler + 'static, fixture: &'static str) -> ResourceDef {
    let mut def = ResourceDef::new(Review::<K>(PhantomData)).fixture(fixture);
    def.create_only = Some(Box::new(handler));
    def
}

/// The declarations of all reviews.
pub fn defs(late: &Arc<Late>) -> Vec<ResourceDef> {
    let access = |kind| access::AccessReview { late: late.clone(), kind };
    vec![
        review::<SubjectAccessReview>(access(access::ReviewKind::Subject), SUBJECT),
        review::<LocalSubjectAccessReview>(access(access::ReviewKind::Local), LOCAL),
        review::<SelfSubjectAccessReview>(access(access::ReviewKind::Own), OWN),
        review::<SelfSubjectRulesReview>(access::RulesReview { late: late.clone() }, RULES),
        review::<SelfSubjectReview>(identity::SelfReview, SELF),
        review::<TokenReview>(identity::Review { late: late.clone() }, TOKEN),
    ]
}

/// The `token` subresource of service accounts.
pub fn token_subresource(late: &Arc<Late>) -> Subresource {
    Subresource {
        name: "token",
        kind: ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs: &["create"],
        serve: SubKind::Custom(Box::new(token_request::TokenRequests { late: late.clone() })),
    }
}

const SUBJECT: &str = "apiVersion: authorization.k8s.io/v1\nkind: SubjectAccessReview\nspec: {user: bob, resourceAttributes: {verb: get, resource: pods, namespace: default}}\n";
const LOCAL: &str = "apiVersion: authorization.k8s.io/v1\nkind: LocalSubjectAccessReview\nmetadata: {namespace: default}\nspec: {user: bob, resourceAttributes: {verb: get, resource: pods, namespace: default}}\n";
const OWN: &str = "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectAccessReview\nspec: {resourceAttributes: {verb: get, resource: pods, namespace: default}}\n";
const RULES: &str =
    "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectRulesReview\nspec: {namespace: default}\n";
const SELF: &str = "apiVersion: authentication.k8s.io/v1\nkind: SelfSubjectReview\n";
const TOKEN: &str = "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {token: abc}\n";
