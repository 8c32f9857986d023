//! ValidatingAdmissionPolicy: refuses, warns of or records what bound policies find wrong (upstream's
//! `policy/validating/dispatcher.go`).

use super::params::{self, Place};
use super::source::{Binding, Hook, Source};
use super::validator::{Annotation, Denial, Validator};
use super::{is_excluded, namespace};
use crate::admission::forbidden;
use crate::expressions::Input;
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Endpoint, Operation, Plugin, Write};
use knarr_meta::status::{Cause, Reason, Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest value of an annotation.
const MAX_ANNOTATION_BYTES: usize = 10 * 1024;

/// The plugin.
pub struct ValidatingAdmissionPolicy(Source<Validator>);

impl Default for ValidatingAdmissionPolicy {
    fn default() -> Self {
        Self(Source::new("validatingadmissionpolicies", "validatingadmissionpolicybindings", Validator::new))
    }
}

impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _operation: Operation, _group: &str, _resource: &str, _subresource: &str) -> bool {
        true
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.0.current(write.cx);
        if hooks.is_empty() || is_excluded(write) {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(ask_all(write, hooks))
    }
}

/// A refusal, and whose it is.
struct Refusal {
    policy: String,
    binding: Option<String>,
    denial: Denial,
}

async fn ask_all(write: &Write<'_>, hooks: Arc<Vec<Hook<Validator>>>) -> Result<(), Status> {
    let mut refusals = Vec::new();
    for hook in hooks.iter() {
        let mut misconfigured = |what: &str, binding: Option<&Binding>, error: String| {
            if !hook.ignore {
                refusals.push(Refusal {
                    policy: hook.name.clone(),
                    binding: binding.map(|binding| binding.name.clone()),
                    denial: Denial {
                        message: format!("failed to configure {what}: {error}"),
                        ..Denial::default()
                    },
                });
            }
        };
        let endpoint = match hook.matching.endpoint(write) {
            Ok(Some(endpoint)) => endpoint,
            Ok(None) => continue,
            Err(status) => {
                misconfigured("policy", None, status.message);
                continue;
            }
        };
        let place = match params::place(write, hook.param_kind.as_ref()) {
            Ok(place) => place,
            Err(error) => {
                misconfigured("policy", None, error);
                continue;
            }
        };
        let mut found = Vec::new();
        for binding in &hook.bindings {
            match selected(write, place.as_ref(), binding) {
                Ok(params) if params.is_empty() => {}
                Ok(params) => found.push((binding, params)),
                Err(error) => misconfigured("binding", Some(binding), error),
            }
        }
        if !found.is_empty() {
            evaluate(write, hook, &endpoint, found, &mut refusals).await?;
        }
    }
    refusals.into_iter().next().map_or(Ok(()), |refusal| Err(status(write, refusal)))
}

type Params = Vec<Option<Arc<Value>>>;

/// The parameters of a binding; none when it is not about the write.
fn selected(write: &Write<'_>, place: Option<&Place>, binding: &Binding) -> Result<Params, String> {
    match binding.matches(write) {
        Ok(true) => params::collect(write, place, binding),
        Ok(false) => Ok(Vec::new()),
        Err(status) => Err(status.message),
    }
}

async fn evaluate(
    write: &Write<'_>,
    hook: &Hook<Validator>,
    endpoint: &Endpoint,
    bindings: Vec<(&Binding, Params)>,
    refusals: &mut Vec<Refusal>,
) -> Result<(), Status> {
    let object = super::merge::shown(write, Some(&*write.object), endpoint).await?;
    let old = super::merge::shown(write, write.old, endpoint).await?;
    let namespace = namespace(write)?;
    let input = Input::new(write, endpoint, (object, old), namespace.as_deref());
    let mut published: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (binding, params) in bindings {
        for param in params {
            let verdict = hook.evaluator.validate(&input, param.as_deref(), hook.ignore);
            for denial in verdict.denials {
                act(write, hook, binding, denial, refusals);
            }
            for annotation in verdict.annotations {
                match annotation {
                    Annotation::Publish(key, mut value) => {
                        let end = value.floor_char_boundary(MAX_ANNOTATION_BYTES);
                        value.truncate(end);
                        let values = published.entry(key).or_default();
                        if !values.contains(&value) {
                            values.push(value);
                        }
                    }
                    Annotation::Error(message) => refusals.push(Refusal {
                        policy: hook.name.clone(),
                        binding: Some(binding.name.clone()),
                        denial: Denial { message, ..Denial::default() },
                    }),
                }
            }
        }
    }
    for (key, values) in published {
        write.cx.admission.annotate(format!("{}/{key}", hook.name), values.join(", "));
    }
    Ok(())
}

/// Does what the binding wants done about what is wrong.
fn act(
    write: &Write<'_>,
    hook: &Hook<Validator>,
    binding: &Binding,
    denial: Denial,
    refusals: &mut Vec<Refusal>,
) {
    for action in &binding.actions {
        match action.as_str() {
            "Deny" => refusals.push(Refusal {
                policy: hook.name.clone(),
                binding: Some(binding.name.clone()),
                denial: denial.clone(),
            }),
            "Warn" => write.cx.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                hook.name, binding.name, denial.message
            )),
            _ => {
                let failure = json!([{
                    "message": denial.message,
                    "policy": hook.name,
                    "binding": binding.name,
                    "expressionIndex": denial.index,
                    "validationActions": binding.actions,
                }]);
                let key = "validation.policy.admission.k8s.io/validation_failure";
                write.cx.admission.annotate(key, failure.to_string());
            }
        }
    }
}

fn status(write: &Write<'_>, refusal: Refusal) -> Status {
    let Refusal { policy, binding, denial } = refusal;
    let with = binding.map_or(String::new(), |binding| format!(" with binding '{binding}'"));
    let message = format!("ValidatingAdmissionPolicy '{policy}'{with} denied request: {}", denial.message);
    let mut status = forbidden(write, message.as_str());
    (status.code, status.reason) = match denial.reason.as_str() {
        "Forbidden" => (403, Reason::Forbidden),
        "Unauthorized" => (401, Reason::Unauthorized),
        "RequestEntityTooLarge" => (413, Reason::RequestEntityTooLarge),
        _ => (422, Reason::Invalid),
    };
    if let Some(details) = &mut status.details {
        details.causes.push(Cause { message, ..Cause::default() });
    }
    status
}
