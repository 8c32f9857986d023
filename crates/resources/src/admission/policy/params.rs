//! The parameters of a binding: objects of the policy's paramKind (upstream's `CollectParams`).

use super::source::{Binding, ParamKind};
use crate::util::value::text;
use knarr_apiserver::admission::Write;
use knarr_meta::gvk::parse_api_version;
use knarr_meta::selector::LabelSelector;
use serde_json::Value;
use std::sync::Arc;

/// Where the objects of a paramKind are: group, plural name, and whether in namespaces.
pub struct Place {
    group: String,
    resource: String,
    namespaced: bool,
}

/// Where a policy's parameters are; an error when no such kind is served.
pub fn place(write: &Write<'_>, kind: Option<&ParamKind>) -> Result<Option<Place>, String> {
    let Some(kind) = kind else { return Ok(None) };
    let (group, version) = parse_api_version(&kind.api_version);
    let found = write.cx.reader.resource_of(group, version, &kind.kind);
    let (resource, namespaced) = found.ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={}'", kind.kind)
    })?;
    Ok(Some(Place { group: group.to_owned(), resource, namespaced }))
}

/// The parameters to evaluate a binding with; one `None` where it has none.
pub fn collect(
    write: &Write<'_>,
    place: Option<&Place>,
    binding: &Binding,
) -> Result<Vec<Option<Arc<Value>>>, String> {
    let reference = &binding.param_ref;
    let Some(place) = place.filter(|_| reference.is_object()) else { return Ok(vec![None]) };
    let own = text(reference, &["namespace"]);
    let namespace = match (place.namespaced, own) {
        (false, "") => "",
        (false, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "") if write.namespace.is_empty() => {
            let text =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(text.to_owned());
        }
        (true, "") => write.namespace,
        (true, own) => own,
    };
    let reader = &write.cx.reader;
    let name = text(reference, &["name"]);
    let found: Vec<Arc<Value>> = if name.is_empty() {
        let selector =
            LabelSelector::from_label_selector(&reference["selector"]).map_err(|e| e.to_string())?;
        let all = reader.list(&place.group, &place.resource, namespace);
        all.into_iter().filter(|object| selector.matches_object(object)).collect()
    } else {
        reader.get(&place.group, &place.resource, namespace, name).into_iter().collect()
    };
    if found.is_empty() && text(reference, &["parameterNotFoundAction"]) == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found.into_iter().map(Some).collect())
}
