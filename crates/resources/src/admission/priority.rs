//! Priority: the number and preemption policy of a pod come from its PriorityClass, and there is one default
//! class at most.

use super::forbidden;
use crate::util::value::{at, ensure, flag, number, object, set_absent, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "scheduling.k8s.io";

/// The plugin.
pub struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && ((group.is_empty() && resource == "pods") || (group == GROUP && resource == "priorityclasses"))
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { if write.kind == "Pod" { pod(write) } else { Ok(()) } })
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { if write.kind == "PriorityClass" { class(write) } else { Ok(()) } })
    }
}

fn pod(write: &mut Write<'_>) -> Result<(), Status> {
    if let Some(old) = write.old {
        let spec = ensure(object(write.object), "spec");
        for field in ["priority", "preemptionPolicy"] {
            if let Some(value) = at(old, &["spec", field]) {
                set_absent(spec, field, value.clone());
            }
        }
        return Ok(());
    }
    let reader = &write.cx.reader;
    let name = text(write.object, &["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        default_class(write)
    } else {
        match reader.get(GROUP, "priorityclasses", "", &name) {
            Some(class) => Some(class),
            None => return Err(forbidden(write, format!("no PriorityClass with name {name} was found"))),
        }
    };
    let (priority, policy) = match &class {
        Some(class) => (number(class, &["value"]), text(class, &["preemptionPolicy"]).to_owned()),
        None => (0, "PreemptLowerPriority".to_owned()),
    };
    if let Some(given) = at(write.object, &["spec", "priority"]).and_then(Value::as_i64)
        && given != priority
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        );
        return Err(forbidden(write, why));
    }
    let given = text(write.object, &["spec", "preemptionPolicy"]);
    if !given.is_empty() && !policy.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(forbidden(write, why));
    }
    let spec = ensure(object(write.object), "spec");
    if let (true, Some(class)) = (name.is_empty(), &class) {
        spec.insert("priorityClassName".to_owned(), text(class, &["metadata", "name"]).into());
    }
    spec.insert("priority".to_owned(), priority.into());
    if !policy.is_empty() {
        spec.insert("preemptionPolicy".to_owned(), policy.into());
    }
    Ok(())
}

/// The default class; of several (two servers may race) that of the lowest value.
fn default_class(write: &Write<'_>) -> Option<Arc<Value>> {
    let classes = write.cx.reader.list(GROUP, "priorityclasses", "").into_iter();
    classes.filter(|c| flag(c, &["globalDefault"])).min_by_key(|c| number(c, &["value"]))
}

fn class(write: &Write<'_>) -> Result<(), Status> {
    if !flag(write.object, &["globalDefault"]) {
        return Ok(());
    }
    let name = text(write.object, &["metadata", "name"]);
    match default_class(write) {
        Some(other) if text(&other, &["metadata", "name"]) != name => {
            let other = text(&other, &["metadata", "name"]);
            let why =
                format!("PriorityClass {other} is already marked as default. Only one default can exist");
            Err(forbidden(write, why))
        }
        _ => Ok(()),
    }
}
