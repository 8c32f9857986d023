//! get and list of kinds that are made when they are asked for instead of being stored.

use super::Call;
use super::render::Answer;
use crate::def::Computed;
use knarr_meta::gvk::GroupResource;
use knarr_meta::object;
use knarr_meta::selector::{FieldSelector, LabelSelector};
use knarr_meta::status::Status;

/// Serves a read.
pub async fn read(call: &Call<'_>, computed: &dyn Computed, verb: &str) -> Result<Answer, Status> {
    let (cx, def) = (call.cx, &call.resource.def);
    let mut objects = computed.list(cx).await;
    if !cx.info.namespace.is_empty() {
        objects.retain(|o| object::namespace(o) == cx.info.namespace);
    }
    if verb == "get" {
        // Upstream names what is missing by the singular here.
        let missing = || {
            if let Some(status) = computed.missing(cx) {
                return status;
            }
            let gr = GroupResource::new(def.group.to_string(), def.singular.to_string());
            Status::not_found(&gr, &cx.info.name)
        };
        let found = objects.into_iter().find(|o| object::name(o) == cx.info.name);
        return Ok(Answer::Hub(200, found.ok_or_else(missing)?));
    }
    let bad = |e: String| Status::bad_request(e);
    if let Some(text) = cx.query("labelSelector").filter(|text| !text.is_empty()) {
        let selector = LabelSelector::parse(text).map_err(|e| bad(e.to_string()))?;
        objects.retain(|o| selector.matches_object(o));
    }
    if let Some(text) = cx.query("fieldSelector").filter(|text| !text.is_empty()) {
        let selector = FieldSelector::parse(text).map_err(|e| bad(e.to_string()))?;
        objects.retain(|o| {
            selector.matches(|field| match field {
                "metadata.name" => Some(object::name(o)),
                "metadata.namespace" if call.resource.namespaced() => Some(object::namespace(o)),
                _ => None,
            })
        });
    }
    Ok(Answer::Computed(objects))
}
