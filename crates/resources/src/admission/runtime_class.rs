//! RuntimeClass: a pod takes over its class's overhead, node selector and tolerations.

use super::forbidden;
use crate::util::value::{ensure, object, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The plugin.
pub struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create && group.is_empty() && resource == "pods" && subresource.is_empty()
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(admit(write)))
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(check(write)))
    }
}

fn class_of(write: &Write<'_>) -> Result<Option<Arc<Value>>, Status> {
    let name = text(write.object, &["spec", "runtimeClassName"]);
    if name.is_empty() {
        return Ok(None);
    }
    match write.cx.reader.get("node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(forbidden(write, format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}

fn filled(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object().filter(|map| !map.is_empty())
}

fn admit(write: &mut Write<'_>) -> Result<(), Status> {
    let Some(class) = class_of(write)? else { return Ok(()) };
    let pod = &write.object["spec"];
    if let (Some(overhead), Some(own)) = (filled(&class["overhead"]["podFixed"]), filled(&pod["overhead"]))
        && overhead != own
    {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(forbidden(write, why));
    }
    let rules = &class["scheduling"];
    for (key, value) in filled(&rules["nodeSelector"]).into_iter().flatten() {
        if let Some(own) = pod["nodeSelector"].get(key).filter(|own| *own != value) {
            let (value, own) = (value.as_str().unwrap_or_default(), own.as_str().unwrap_or_default());
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(forbidden(write, why));
        }
    }
    let spec = ensure(object(write.object), "spec");
    if let Some(overhead) = filled(&class["overhead"]["podFixed"]) {
        spec.insert("overhead".to_owned(), overhead.clone().into());
    }
    if let Some(selector) = filled(&rules["nodeSelector"]) {
        ensure(spec, "nodeSelector").extend(selector.clone());
    }
    if let Some(more) = rules["tolerations"].as_array().filter(|more| !more.is_empty()) {
        let own = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Value::Array(own) = own {
            for toleration in more {
                if !own.contains(toleration) {
                    own.push(toleration.clone());
                }
            }
        }
    }
    Ok(())
}

fn check(write: &Write<'_>) -> Result<(), Status> {
    let class = class_of(write)?;
    let wanted = class.as_ref().and_then(|class| filled(&class["overhead"]["podFixed"]));
    let why = match (wanted, filled(&write.object["spec"]["overhead"])) {
        (Some(wanted), Some(own)) if wanted == own => return Ok(()),
        (None, None) => return Ok(()),
        (Some(_), _) => "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        (None, Some(_)) => {
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        }
    };
    Err(forbidden(write, why))
}
