//! Permission checks from expressions: the libraries `authz` and `authzSelectors` (KEP-3488, KEP-4601). Whoever
//! evaluates hands in the authorizer.

use super::opaque::Opaque;
use super::{Args, Outcome, no_overload, text};
use crate::error::EvalError;
use crate::value::Value;
use knarr_meta::selector::{FieldSelector, LabelSelector};
use knarr_meta::validate as checks;
use std::fmt;
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizerUser {
    /// The name.
    pub name: String,
    /// The id, where known.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What authenticators added.
    pub extra: Vec<(String, Vec<String>)>,
}

/// What is asked about.
#[derive(Clone, Debug, Default)]
pub struct AuthorizerAttributes {
    /// Who asks.
    pub user: AuthorizerUser,
    /// The verb.
    pub verb: String,
    /// Whether a resource is meant; else `path` counts.
    pub is_resource: bool,
    /// The API group.
    pub group: String,
    /// The API version: `*` for resources.
    pub version: String,
    /// The resource.
    pub resource: String,
    /// The subresource or empty.
    pub subresource: String,
    /// The namespace or empty.
    pub namespace: String,
    /// The object's name or empty.
    pub name: String,
    /// The path of a request that names no resource.
    pub path: String,
    /// The field selector, or why it cannot be read.
    pub field_selector: Option<Result<FieldSelector, String>>,
    /// The label selector, or why it cannot be read.
    pub label_selector: Option<Result<LabelSelector, String>>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizerDecision {
    /// Whether it is permitted.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while deciding.
    pub error: Option<String>,
}

/// Answers questions of expressions about permissions, from memory.
pub trait Authorizer: Send + Sync {
    /// Decides about one request.
    fn authorize(&self, attributes: &AuthorizerAttributes) -> AuthorizerDecision;
}

/// A resource about which [`Value::resource_check`] asks.
#[derive(Clone, Debug, Default)]
pub struct ResourceCheck {
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource or empty.
    pub subresource: String,
    /// The namespace or empty.
    pub namespace: String,
    /// The object's name or empty.
    pub name: String,
}

/// A value of the library.
#[derive(Clone)]
pub(crate) enum Authz {
    Authorizer(Asker),
    Path(Asker, Arc<str>),
    Group(Asker, Arc<str>),
    Resource(Asker, Arc<Question>),
    Decision(Arc<AuthorizerDecision>),
}

/// An authorizer and who asks it.
#[derive(Clone)]
pub(crate) struct Asker {
    authorizer: Arc<dyn Authorizer>,
    user: Arc<AuthorizerUser>,
}

/// A question about a resource.
#[derive(Clone, Default)]
pub(crate) struct Question {
    check: ResourceCheck,
    field_selector: String,
    label_selector: String,
}

impl fmt::Debug for Authz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

impl Authz {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Path(..) => "kubernetes.authorization.PathCheck",
            Self::Group(..) => "kubernetes.authorization.GroupCheck",
            Self::Resource(..) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

impl Value<'_> {
    /// The variable `authorizer` for a user.
    pub fn authorizer(authorizer: Arc<dyn Authorizer>, user: AuthorizerUser) -> Self {
        Self::opaque(Opaque::Authz(Authz::Authorizer(Asker { authorizer, user: Arc::new(user) })))
    }

    /// The variable `authorizer.requestResource`.
    pub fn resource_check(
        authorizer: Arc<dyn Authorizer>,
        user: AuthorizerUser,
        check: ResourceCheck,
    ) -> Self {
        let asker = Asker { authorizer, user: Arc::new(user) };
        let question = Question { check, ..Question::default() };
        Self::opaque(Opaque::Authz(Authz::Resource(asker, Arc::new(question))))
    }
}

fn authz<'v>(value: &'v Value<'_>) -> Result<&'v Authz, EvalError> {
    match value {
        Value::Opaque(opaque) => match &opaque.0 {
            Opaque::Authz(authz) => Ok(authz),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

fn made<'a>(authz: Authz) -> Outcome<'a> {
    Ok(Value::opaque(Opaque::Authz(authz)))
}

pub(super) fn path<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let Authz::Authorizer(asker) = authz(&args[0])? else { return Err(no_overload()) };
    let path = text(&args[1])?;
    if path.trim().is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    made(Authz::Path(asker.clone(), path.into()))
}

pub(super) fn group<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let Authz::Authorizer(asker) = authz(&args[0])? else { return Err(no_overload()) };
    made(Authz::Group(asker.clone(), text(&args[1])?.into()))
}

pub(super) fn service_account<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let Authz::Authorizer(asker) = authz(&args[0])? else { return Err(no_overload()) };
    let (namespace, name) = (text(&args[1])?, text(&args[2])?);
    if !checks::dns1123_subdomain(name).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !checks::dns1123_label(namespace).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let user = AuthorizerUser {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        ..AuthorizerUser::default()
    };
    made(Authz::Authorizer(Asker { authorizer: asker.authorizer.clone(), user: Arc::new(user) }))
}

pub(super) fn resource<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let Authz::Group(asker, group) = authz(&args[0])? else { return Err(no_overload()) };
    let resource = text(&args[1])?;
    if resource.trim().is_empty() {
        return Err(EvalError::new("resource must not be empty"));
    }
    let check =
        ResourceCheck { group: group.to_string(), resource: resource.to_owned(), ..ResourceCheck::default() };
    made(Authz::Resource(asker.clone(), Arc::new(Question { check, ..Question::default() })))
}

/// The question with one part changed.
fn with<'a>(args: &[Value<'a>], change: impl FnOnce(&mut Question, String)) -> Outcome<'a> {
    let Authz::Resource(asker, question) = authz(&args[0])? else { return Err(no_overload()) };
    let mut question = (**question).clone();
    change(&mut question, text(&args[1])?.to_owned());
    made(Authz::Resource(asker.clone(), Arc::new(question)))
}

pub(super) fn subresource<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    with(args, |question, value| question.check.subresource = value)
}

pub(super) fn namespace<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    with(args, |question, value| question.check.namespace = value)
}

pub(super) fn name<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    with(args, |question, value| question.check.name = value)
}

pub(super) fn field_selector<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    with(args, |question, value| question.field_selector = value)
}

pub(super) fn label_selector<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    with(args, |question, value| question.label_selector = value)
}

pub(super) fn check<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let verb = text(&args[1])?.to_owned();
    let (asker, mut attributes) = match authz(&args[0])? {
        Authz::Path(asker, path) => {
            (asker, AuthorizerAttributes { path: path.to_string(), ..AuthorizerAttributes::default() })
        }
        Authz::Resource(asker, question) => {
            let check = question.check.clone();
            let fields = Some(&question.field_selector).filter(|text| !text.is_empty());
            let labels = Some(&question.label_selector).filter(|text| !text.is_empty());
            let attributes = AuthorizerAttributes {
                is_resource: true,
                group: check.group,
                version: "*".to_owned(),
                resource: check.resource,
                subresource: check.subresource,
                namespace: check.namespace,
                name: check.name,
                field_selector: fields.map(|text| FieldSelector::parse(text).map_err(|why| why.to_string())),
                label_selector: labels.map(|text| LabelSelector::parse(text).map_err(|why| why.to_string())),
                ..AuthorizerAttributes::default()
            };
            (asker, attributes)
        }
        _ => return Err(no_overload()),
    };
    attributes.verb = verb;
    attributes.user = (*asker.user).clone();
    made(Authz::Decision(Arc::new(asker.authorizer.authorize(&attributes))))
}

fn decision<'v>(value: &'v Value<'_>) -> Result<&'v AuthorizerDecision, EvalError> {
    match authz(value)? {
        Authz::Decision(decision) => Ok(decision),
        _ => Err(no_overload()),
    }
}

pub(super) fn allowed<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(decision(&args[0])?.allowed))
}

pub(super) fn reason<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(decision(&args[0])?.reason.as_str()))
}

pub(super) fn errored<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(decision(&args[0])?.error.is_some()))
}

pub(super) fn error<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(decision(&args[0])?.error.clone().unwrap_or_default()))
}
