//! SubjectAccessReview, LocalSubjectAccessReview, SelfSubjectAccessReview and SelfSubjectRulesReview
//! (authorization.k8s.io/v1).

use super::Late;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::def::{Handler, Reply, SubRequest};
use crate::request::UserInfo;
use futures_util::future::BoxFuture;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::status::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// Which of the three kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReviewKind {
    Subject,
    Local,
    Own,
}

impl ReviewKind {
    fn name(self) -> &'static str {
        match self {
            Self::Subject => "SubjectAccessReview",
            Self::Local => "LocalSubjectAccessReview",
            Self::Own => "SelfSubjectAccessReview",
        }
    }
}

/// Answers whether somebody may do something.
pub(super) struct AccessReview {
    pub(super) late: Arc<Late>,
    pub(super) kind: ReviewKind,
}

impl Handler for AccessReview {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(std::future::ready(self.answer(request)))
    }
}

impl AccessReview {
    fn answer(&self, request: SubRequest<'_>) -> Result<Reply, Status> {
        let mut review = request.body;
        let spec = &review["spec"];
        let errors = validate(self.kind, spec);
        if !errors.0.is_empty() {
            return Err(Status::invalid("authorization.k8s.io", self.kind.name(), "", errors));
        }
        if self.kind == ReviewKind::Local {
            let namespace = &request.cx.info.namespace;
            if spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default() != namespace {
                return Err(Status::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {namespace}"
                )));
            }
        }
        let user = match self.kind {
            ReviewKind::Own => request.cx.user.clone(),
            _ => Arc::new(spec_user(spec)),
        };
        let status = status(&self.late.authorizer().authorize(&asked(spec, user)));
        review["apiVersion"] = json!("authorization.k8s.io/v1");
        review["kind"] = json!(self.kind.name());
        review["status"] = status;
        Ok(Reply::Object(201, review))
    }
}

fn validate(kind: ReviewKind, spec: &Value) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = ErrorList::default();
    let (resource, other) =
        (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object());
    if resource && other {
        let path = path.child("nonResourceAttributes");
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.0.push(field::invalid(&path, &spec["nonResourceAttributes"], detail));
    }
    if !resource && !other {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.0.push(field::invalid(&path.child("resourceAttributes"), Value::Null, detail));
    }
    if kind == ReviewKind::Local && other {
        let detail = "disallowed on this kind of request";
        errors.0.push(field::invalid(
            &path.child("nonResourceAttributes"),
            &spec["nonResourceAttributes"],
            detail,
        ));
    }
    let nobody = spec["user"].as_str().unwrap_or_default().is_empty()
        && spec["groups"].as_array().is_none_or(|groups| groups.is_empty());
    if kind != ReviewKind::Own && nobody {
        let user = spec["user"].as_str().unwrap_or_default();
        errors.0.push(field::invalid(
            &path.child("user"),
            user,
            "at least one of user or group must be specified",
        ));
    }
    errors
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn spec_user(spec: &Value) -> UserInfo {
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text(&spec["user"]),
        uid: text(&spec["uid"]),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.to_ascii_lowercase(), texts(values))).collect(),
    }
}

/// The question of a review's spec.
fn asked(spec: &Value, user: Arc<UserInfo>) -> Attributes {
    let resource = &spec["resourceAttributes"];
    if !resource.is_object() {
        let other = &spec["nonResourceAttributes"];
        return Attributes {
            user,
            verb: text(&other["verb"]),
            path: text(&other["path"]),
            ..Attributes::default()
        };
    }
    Attributes {
        user,
        is_resource: true,
        verb: text(&resource["verb"]),
        group: text(&resource["group"]),
        version: text(&resource["version"]),
        resource: text(&resource["resource"]),
        subresource: text(&resource["subresource"]),
        namespace: text(&resource["namespace"]),
        name: text(&resource["name"]),
        path: String::new(),
        fields: field_requirements(&resource["fieldSelector"]),
    }
}

fn field_requirements(selector: &Value) -> Vec<(String, String)> {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return crate::front::info::exact_fields(raw);
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    requirements
        .filter(|r| r["operator"] == "In")
        .filter_map(|r| match texts(&r["values"]).as_slice() {
            [only] => Some((text(&r["key"]), only.clone())),
            _ => None,
        })
        .collect()
}

fn status(decision: &Decision) -> Value {
    let (allowed, denied, reason) = match decision {
        Decision::Allow(reason) => (true, false, reason),
        Decision::Deny(reason) => (false, true, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = json!(true);
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}

/// Lists what the requester may do in a namespace.
pub(super) struct RulesReview {
    pub(super) late: Arc<Late>,
}

impl Handler for RulesReview {
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>> {
        Box::pin(std::future::ready(self.answer(request)))
    }
}

impl RulesReview {
    fn answer(&self, request: SubRequest<'_>) -> Result<Reply, Status> {
        let mut review = request.body;
        let namespace = text(&review["spec"]["namespace"]);
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let user = &request.cx.user;
        let (mut rules, mut errors) = self.late.authorizer().rbac().rules_for(user, &namespace);
        if user.in_group("system:masters") {
            let everything = super::super::authz::rules::Rule {
                verbs: vec!["*".into()],
                groups: vec!["*".into()],
                resources: vec!["*".into()],
                ..Default::default()
            };
            let paths = super::super::authz::rules::Rule {
                verbs: vec!["*".into()],
                paths: vec!["*".into()],
                ..Default::default()
            };
            rules.extend([everything, paths]);
        }
        if super::super::authz::node::node_identity(user).is_some() {
            errors.push("node authorizer does not support user rule resolution".into());
        }
        let (paths, resources): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| !rule.paths.is_empty());
        let list = |rules: Vec<&super::super::authz::rules::Rule>| -> Vec<Value> {
            rules.into_iter().map(|rule| rule.to_review()).collect()
        };
        let mut status = json!({
            "resourceRules": list(resources),
            "nonResourceRules": list(paths),
            "incomplete": !errors.is_empty(),
        });
        if !errors.is_empty() {
            status["evaluationError"] = json!(errors.join(", "));
        }
        review["apiVersion"] = json!("authorization.k8s.io/v1");
        review["kind"] = json!("SelfSubjectRulesReview");
        review["status"] = status;
        Ok(Reply::Object(201, review))
    }
}
