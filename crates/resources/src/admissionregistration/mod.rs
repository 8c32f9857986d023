//! The group admissionregistration.k8s.io, v1: which webhooks and which policies are asked about a write
//! (pkg/apis/admissionregistration and pkg/registry/admissionregistration).

pub mod mutatingadmissionpolicy;
pub mod mutatingadmissionpolicybinding;
pub mod mutatingwebhookconfiguration;
pub mod validatingadmissionpolicy;
pub mod validatingadmissionpolicybinding;
pub mod validatingwebhookconfiguration;

mod params;
mod policy;
mod rules;
mod webhooks;

use crate::util::cells;
use crate::util::value::{keep_at, list, text};
use serde_json::Value;
use std::time::SystemTime;

/// The end of names that upstream keeps for configurations out of files.
const STATIC_SUFFIX: &str = ".static.k8s.io";

/// What upstream warns of such names.
fn static_warnings(name: &str) -> Vec<String> {
    if !name.ends_with(STATIC_SUFFIX) {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: names ending with {STATIC_SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    )]
}

/// What a status update does not change of the metadata (ResetObjectMetaForStatus).
fn keep_metadata(new: &mut Value, old: &Value) {
    for field in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        keep_at(new, old, &["metadata", field]);
    }
}

fn webhook_cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), list(obj, &["webhooks"]).len().into(), cells::age(obj, now)]
}

fn policy_cells(obj: &Value, what: &str, now: SystemTime) -> Vec<Value> {
    let kind = match obj["spec"].get("paramKind") {
        Some(kind) => format!("{}/{}", text(kind, &["apiVersion"]), text(kind, &["kind"])),
        None => "<unset>".to_owned(),
    };
    vec![cells::name(obj), list(obj, &["spec", what]).len().into(), kind.into(), cells::age(obj, now)]
}

fn binding_cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let param = match obj["spec"].get("paramRef") {
        Some(param) if !text(param, &["name"]).is_empty() => {
            let namespace = text(param, &["namespace"]);
            let namespace = if namespace.is_empty() { "*" } else { namespace };
            format!("{namespace}/{}", text(param, &["name"]))
        }
        Some(param) if param.get("selector").is_some() => selector_text(&param["selector"]),
        _ => "<unset>".to_owned(),
    };
    vec![cells::name(obj), text(obj, &["spec", "policyName"]).into(), param.into(), cells::age(obj, now)]
}

/// A label selector as the Go type prints itself.
fn selector_text(selector: &Value) -> String {
    let labels: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    let expressions: Vec<String> = list(selector, &["matchExpressions"])
        .iter()
        .map(|e| {
            let values: Vec<&str> = list(e, &["values"]).iter().filter_map(Value::as_str).collect();
            let (key, operator) = (text(e, &["key"]), text(e, &["operator"]));
            format!(
                "LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},",
                values.join(" ")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.concat(),
        expressions.concat()
    )
}
