//! ControllerRevisions (apps/v1): pkg/registry/apps/controllerrevision.

use crate::util::value::{flag, list, text};
use crate::util::{Errs, cells};
use knarr_api::apps::v1::ControllerRevision;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    type Object = ControllerRevision;

    fn validate(&self, _cx: &RequestCx, obj: &ControllerRevision) -> ErrorList {
        let mut errs = ErrorList::default();
        errs.add_negative(&Path::new("revision"), obj.revision);
        match obj.data.as_ref().map(|d| &d.0) {
            None | Some(Value::Null) => errs.add_required(&Path::new("data"), "data is mandatory"),
            Some(Value::Object(_)) => {}
            Some(_) => errs.add_required(&Path::new("data"), "data must be a valid JSON object"),
        }
        errs
    }

    fn validate_update(
        &self,
        _cx: &RequestCx,
        new: &ControllerRevision,
        old: &ControllerRevision,
    ) -> ErrorList {
        let mut errs = ErrorList::default();
        errs.add_negative(&Path::new("revision"), new.revision);
        if new.data != old.data {
            let value = new.data.as_ref().map(|d| d.0.clone()).unwrap_or_default();
            errs.add_invalid(&Path::new("data"), value, "field is immutable");
        }
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let owners = list(obj, &["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|o| flag(o, &["controller"])).map(|owner| {
        let group = text(owner, &["apiVersion"]).rsplit_once('/').map(|(group, _)| group).unwrap_or_default();
        let kind = text(owner, &["kind"]);
        let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        format!("{}/{}", kind.to_lowercase(), text(owner, &["name"]))
    });
    vec![
        cells::name(obj),
        cells::or_none(controller.unwrap_or_default()),
        cells::count(obj, &["revision"]),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ControllerRevisions)
        .cells(cells)
        .fixture(include_str!("testdata/controllerrevision.yaml"))
}
