//! MutatingAdmissionPolicy: bound policies change the object, one after the other, and again where the object
//! changed after them and they ask for it (upstream's `policy/mutating/dispatcher.go`).

use super::merge::{self, Unfit};
use super::source::{Binding, Hook, Source};
use super::{is_excluded, namespace, params};
use crate::admission::forbidden;
use crate::admission::webhook::Rounds;
use crate::expressions::{Compiled, Conditions, Input, Matched, Returns, Seen, Stop, evaluate};
use crate::util::value::{list, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Endpoint, Operation, Plugin, Write};
use knarr_cel::{Composition, RUNTIME_COST_BUDGET};
use knarr_meta::status::{Cause, Reason, Status};
use serde_json::Value;
use std::sync::Arc;

const NAME: &str = "MutatingAdmissionPolicy";

/// The plugin.
pub struct MutatingAdmissionPolicy(Source<Mutator>);

impl Default for MutatingAdmissionPolicy {
    fn default() -> Self {
        Self(Source::new("mutatingadmissionpolicies", "mutatingadmissionpolicybindings", Mutator::new))
    }
}

impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, operation: Operation, _group: &str, _resource: &str, _subresource: &str) -> bool {
        operation != Operation::Delete
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.0.current(write.cx);
        if hooks.is_empty() || is_excluded(write) {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(ask_all(write, hooks))
    }
}

/// A compiled policy.
struct Mutator {
    composition: Composition,
    conditions: Conditions,
    mutations: Vec<Mutation>,
    reinvoke: bool,
}

enum Mutation {
    Apply(Compiled),
    Patch(Compiled),
}

impl Mutator {
    fn new(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let seen = Seen { params: spec["paramKind"].is_object(), authorizer: true, patches: false };
        let mut composition = Composition::new(seen.env());
        for variable in list(spec, &["variables"]) {
            // What is wrong is told where the variable is used.
            let _ = composition.add(text(variable, &["name"]), text(variable, &["expression"]));
        }
        let patches = composition.env().clone().with_patch_types();
        let mutation = |m: &Value| match text(m, &["patchType"]) {
            "JSONPatch" => {
                let expression = text(m, &["jsonPatch", "expression"]);
                Mutation::Patch(Compiled::new(&patches, expression, Returns::Operations))
            }
            _ => {
                let expression = text(m, &["applyConfiguration", "expression"]);
                Mutation::Apply(Compiled::new(&patches, expression, Returns::Object))
            }
        };
        Self {
            conditions: Conditions::new(composition.env(), list(spec, &["matchConditions"])),
            mutations: list(spec, &["mutations"]).iter().map(mutation).collect(),
            reinvoke: text(spec, &["reinvocationPolicy"]) == "IfNeeded",
            composition,
        }
    }
}

/// What is wrong, and whose fault it is.
struct Problem {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: Option<Reason>,
}

impl Problem {
    fn text(&self) -> String {
        match &self.binding {
            Some(binding) => {
                format!("policy '{}' with binding '{binding}' denied request: {}", self.policy, self.message)
            }
            None => {
                let policy = knarr_meta::go::quote(&self.policy);
                format!("policy {policy} denied request: {}", self.message)
            }
        }
    }
}

/// A policy that is to see the write, with one parameter.
struct Invocation<'a> {
    hook: &'a Hook<Mutator>,
    binding: &'a Binding,
    param: Option<Arc<Value>>,
    endpoint: Endpoint,
}

impl Invocation<'_> {
    /// What tells it from others between the rounds.
    fn key(&self) -> String {
        let param = self.param.as_deref().map_or(String::new(), |param| {
            format!("{}/{}", text(param, &["metadata", "namespace"]), text(param, &["metadata", "name"]))
        });
        format!("{}/{}/{param}", self.hook.name, self.binding.name)
    }
}

async fn ask_all(write: &mut Write<'_>, hooks: Arc<Vec<Hook<Mutator>>>) -> Result<(), Status> {
    let mut problems = Vec::new();
    let invocations = select(write, &hooks, &mut problems);
    if !invocations.is_empty() {
        invoke_all(write, &invocations, &mut problems).await?;
    }
    refuse(write, problems)
}

fn select<'a>(
    write: &Write<'_>,
    hooks: &'a [Hook<Mutator>],
    problems: &mut Vec<Problem>,
) -> Vec<Invocation<'a>> {
    let mut invocations = Vec::new();
    for hook in hooks {
        let mut misconfigured = |what: &str, binding: Option<&Binding>, error: String| {
            if !hook.ignore {
                problems.push(Problem {
                    policy: hook.name.clone(),
                    binding: binding.map(|binding| binding.name.clone()),
                    message: format!("failed to configure {what}: {error}"),
                    reason: None,
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
        for binding in &hook.bindings {
            let params = match binding.matches(write) {
                Ok(false) => continue,
                Ok(true) => params::collect(write, place.as_ref(), binding),
                Err(status) => Err(status.message),
            };
            match params {
                Ok(params) => invocations.extend(params.into_iter().map(|param| Invocation {
                    hook,
                    binding,
                    param,
                    endpoint: endpoint.clone(),
                })),
                Err(error) => misconfigured("binding", Some(binding), error),
            }
        }
    }
    invocations
}

async fn invoke_all(
    write: &mut Write<'_>,
    invocations: &[Invocation<'_>],
    problems: &mut Vec<Problem>,
) -> Result<(), Status> {
    let notes = write.reinvocation;
    if notes.is_again() {
        notes.keep(NAME, |rounds: &mut Rounds| rounds.begin_again(write.object));
    }
    let namespace = namespace(write)?;
    for invocation in invocations {
        let key = invocation.key();
        let due = !notes.is_again() || notes.keep(NAME, |rounds: &mut Rounds| rounds.is_due(&key));
        let mut problem = |message: String| {
            if !invocation.hook.ignore {
                problems.push(Problem {
                    policy: invocation.hook.name.clone(),
                    binding: Some(invocation.binding.name.clone()),
                    message,
                    reason: Some(Reason::Invalid),
                });
            }
        };
        let mutator = &*invocation.hook.evaluator;
        let mut input = input(write, &invocation.endpoint, namespace.as_deref()).await?;
        let matched = {
            let bindings = input.bindings(invocation.param.as_deref(), true, Some(&mutator.composition));
            mutator.conditions.evaluate(&bindings, invocation.hook.ignore)
        };
        match matched {
            Matched::Yes if due => {}
            Matched::Yes | Matched::No => continue,
            Matched::Error(error) => {
                problem(error);
                continue;
            }
        }
        let before = input.object.clone();
        for mutation in &mutator.mutations {
            if input.object.is_null() {
                continue;
            }
            match patched(write, invocation, mutation, &input) {
                Ok(None) => {}
                Ok(Some(object)) => {
                    *write.object = write.interfaces.adopt(object, &invocation.endpoint).await?;
                    input = self::input(write, &invocation.endpoint, namespace.as_deref()).await?;
                }
                Err(Unfit::Status(status)) => return Err(status),
                Err(Unfit::Text(error)) => problem(error),
            }
        }
        if input.object != before {
            notes.keep(NAME, |rounds: &mut Rounds| rounds.changed());
            notes.want();
        }
        if mutator.reinvoke {
            notes.keep(NAME, |rounds: &mut Rounds| rounds.invoked(&key));
        }
    }
    notes.keep(NAME, |rounds: &mut Rounds| rounds.leave(write.object));
    Ok(())
}

async fn input(write: &Write<'_>, endpoint: &Endpoint, namespace: Option<&Value>) -> Result<Input, Status> {
    let object = merge::shown(write, Some(&*write.object), endpoint).await?;
    let old = merge::shown(write, write.old, endpoint).await?;
    Ok(Input::new(write, endpoint, (object, old), namespace))
}

/// What a mutation makes of the object; none when it is to stay as it is.
fn patched(
    write: &Write<'_>,
    invocation: &Invocation<'_>,
    mutation: &Mutation,
    input: &Input,
) -> Result<Option<Value>, Unfit> {
    let (Mutation::Apply(expression) | Mutation::Patch(expression)) = mutation;
    if let Err(failure) = &expression.program {
        return Err(Unfit::Text(failure.to_string()));
    }
    let composition = &invocation.hook.evaluator.composition;
    let bindings = input.bindings(invocation.param.as_deref(), true, Some(composition));
    let mut budget = RUNTIME_COST_BUDGET;
    let value = evaluate(expression, &bindings, &mut budget)
        .map_err(|Stop(error)| Unfit::Text(error))?
        .map_err(Unfit::Text)?;
    match mutation {
        Mutation::Apply(_) => {
            value.check_object_type_names().map_err(|e| Unfit::Text(format!("type mismatch: {e}")))?;
            let configuration = value.to_json().map_err(|e| Unfit::Text(e.to_string()))?;
            let schema = write.interfaces.schema(&invocation.endpoint).ok_or_else(|| {
                let Endpoint { kind_group, kind_version, kind, .. } = &invocation.endpoint;
                Unfit::Status(Status::service_unavailable(format!(
                    "Resource kind {kind_group}/{kind_version}, Kind={kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
                )))
            })?;
            merge::apply(&schema, &input.object, configuration).map(Some)
        }
        Mutation::Patch(_) => {
            let operations = value.as_json_patches().map_err(|e| Unfit::Text(e.to_string()))?;
            merge::patch(&input.object, operations)
        }
    }
}

fn refuse(write: &Write<'_>, problems: Vec<Problem>) -> Result<(), Status> {
    let Some(first) = problems.first() else { return Ok(()) };
    let mut status = forbidden(write, "admission request denied by policy");
    status.message = first.text();
    if let Some(reason) = first.reason {
        status.reason = reason;
    }
    if let Some(details) = &mut status.details {
        let causes = problems.iter().map(|problem| Cause { message: problem.text(), ..Cause::default() });
        details.causes.extend(causes);
    }
    Err(status)
}
