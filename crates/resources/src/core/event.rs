//! Events, served by core/v1 and by events.k8s.io/v1 over one key: pkg/registry/core/event. They are stored
//! in their core form for an hour.

use crate::util::value::{Object, number, object, text};
use crate::util::{Errs, Number, Text, cells};
use knarr_api::core::v1::Event;
use knarr_api::events::v1::Event as NewEvent;
use knarr_apiserver::def::{ResourceDef, ServedVersion, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::status::Status;
use knarr_meta::validate;
use serde_json::Value;
use std::time::SystemTime;

const GROUP: &str = "events.k8s.io";
/// How long the store keeps an event after its last change (--event-ttl).
const TTL_SECONDS: u64 = 3600;
const SHORT_TEXT: usize = 128;
const NOTE: usize = 1024;

struct Events;

impl Strategy for Events {
    type Object = Event;

    fn validate(&self, cx: &RequestCx, obj: &Event) -> ErrorList {
        let mut errs = legacy(obj, &cx.info.group);
        if cx.info.group != GROUP {
            return errs;
        }
        series(&mut errs, obj);
        if obj.event_time.is_none() {
            errs.add_required(&Path::new("eventTime"), "");
        }
        let kind = obj.type_.text();
        if kind != "Normal" && kind != "Warning" {
            errs.add_invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
        }
        let source = obj.source.clone().unwrap_or_default();
        for (field, set) in [
            ("firstTimestamp", obj.first_timestamp.is_some()),
            ("lastTimestamp", obj.last_timestamp.is_some()),
            ("count", obj.count.number() != 0),
            ("source", !source.component.text().is_empty() || !source.host.text().is_empty()),
        ] {
            if set {
                errs.add_invalid(&Path::new(field), "", "needs to be unset");
            }
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &Event, old: &Event) -> ErrorList {
        let mut errs = legacy(new, &cx.info.group);
        if cx.info.group != GROUP {
            return errs;
        }
        if new.series != old.series {
            series(&mut errs, new);
        }
        let same = [
            ("involvedObject", new.involved_object == old.involved_object),
            ("reason", new.reason == old.reason),
            ("message", new.message == old.message),
            ("source", new.source == old.source),
            ("firstTimestamp", new.first_timestamp == old.first_timestamp),
            ("lastTimestamp", new.last_timestamp == old.last_timestamp),
            ("count", new.count == old.count),
            ("type", new.type_ == old.type_),
            ("eventTime", new.event_time == old.event_time),
            ("action", new.action == old.action),
            ("related", new.related == old.related),
            ("reportingController", new.reporting_component == old.reporting_component),
            ("reportingInstance", new.reporting_instance == old.reporting_instance),
        ];
        let value = serde_json::to_value(new).unwrap_or_default();
        for (field, same) in same {
            if !same {
                let key = if field == "reportingController" { "reportingComponent" } else { field };
                errs.add_invalid(&Path::new(field), value[key].clone(), "field is immutable");
            }
        }
        errs
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn ttl_seconds(&self, _obj: &Value) -> Option<u64> {
        Some(TTL_SECONDS)
    }
}

fn legacy(event: &Event, group: &str) -> ErrorList {
    let mut errs = ErrorList::default();
    let namespace = event.metadata.namespace.text();
    let involved = event.involved_object.namespace.text();
    let path = Path::new("involvedObject").child("namespace");
    let detail = "does not match event.namespace";
    if event.event_time.is_none() {
        let default = namespace.is_empty() || namespace == "default";
        if (involved.is_empty() && !default) || (!involved.is_empty() && involved != namespace) {
            errs.add_invalid(&path, involved, detail);
        }
    } else {
        if involved.is_empty() && !["default", "kube-system"].contains(&namespace) {
            errs.add_invalid(&path, involved, detail);
        }
        let controller = event.reporting_component.text();
        let path = Path::new(if group.is_empty() { "reportingComponent" } else { "reportingController" });
        if controller.is_empty() {
            errs.add_required(&path, "");
        }
        errs.add_all(&path, controller, validate::qualified_name(controller));
        for (field, value) in [
            ("reportingInstance", event.reporting_instance.text()),
            ("action", event.action.text()),
            ("reason", event.reason.text()),
        ] {
            if value.is_empty() {
                errs.add_required(&Path::new(field), "");
            }
            if value.len() > SHORT_TEXT {
                errs.add_invalid(&Path::new(field), "", format!("can have at most {SHORT_TEXT} characters"));
            }
        }
        if event.message.text().len() > NOTE {
            errs.add_invalid(&Path::new("message"), "", format!("can have at most {NOTE} characters"));
        }
    }
    errs.add_all(&Path::new("namespace"), namespace, validate::dns1123_subdomain(namespace));
    errs
}

fn series(errs: &mut ErrorList, event: &Event) {
    let Some(series) = &event.series else { return };
    if series.count.number() < 2 {
        errs.add_invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if series.last_observed_time.is_none() {
        errs.add_required(&Path::new("series.lastObservedTime"), "");
    }
}

/// Fields by their names in events.k8s.io and in core.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn rename(obj: &mut Object, from: &str, to: &str) {
    if let Some(value) = obj.remove(from) {
        obj.insert(to.to_owned(), value);
    }
}

fn to_core(mut obj: Value) -> Result<Value, Status> {
    let map = object(&mut obj);
    for (new, core) in NAMES {
        rename(map, new, core);
    }
    map.insert("apiVersion".to_owned(), "v1".into());
    Ok(obj)
}

fn from_core(mut obj: Value) -> Result<Value, Status> {
    let map = object(&mut obj);
    for (new, core) in NAMES {
        rename(map, core, new);
    }
    map.insert("apiVersion".to_owned(), "events.k8s.io/v1".into());
    Ok(obj)
}

/// The field by its core name, or by its name in events.k8s.io.
fn either<'a>(obj: &'a Value, core: &str) -> &'a Value {
    let new = NAMES.iter().find(|(_, c)| *c == core).map(|(new, _)| *new).unwrap_or(core);
    obj.get(core).or_else(|| obj.get(new)).unwrap_or(&Value::Null)
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let mut first = cells::since(either(obj, "firstTimestamp"), now);
    if either(obj, "firstTimestamp").is_null() {
        first = cells::since(&obj["eventTime"], now);
    }
    let mut last = cells::since(either(obj, "lastTimestamp"), now);
    if either(obj, "lastTimestamp").is_null() {
        last.clone_from(&first);
    }
    let mut count = either(obj, "count").as_i64().unwrap_or_default();
    if obj["series"].is_object() {
        last = cells::since(&obj["series"]["lastObservedTime"], now);
        count = number(obj, &["series", "count"]);
    } else if count == 0 {
        count = 1;
    }
    let involved = either(obj, "involvedObject");
    let kind = text(involved, &["kind"]).to_lowercase();
    let target = match text(involved, &["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = either(obj, "source");
    let (mut component, mut instance) = (text(source, &["component"]), text(source, &["host"]));
    if component.is_empty() {
        component = either(obj, "reportingComponent").as_str().unwrap_or_default();
        instance = text(obj, &["reportingInstance"]);
    }
    let source = if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
    let message = either(obj, "message").as_str().unwrap_or_default();
    vec![
        last.into(),
        text(obj, &["type"]).into(),
        text(obj, &["reason"]).into(),
        target.into(),
        text(involved, &["fieldPath"]).into(),
        source.into(),
        message.trim().into(),
        first.into(),
        count.into(),
        cells::name(obj),
    ]
}

const SELECTABLE: &[(&str, &[&str], &str)] = &[
    ("involvedObject.kind", &["involvedObject", "kind"], ""),
    ("involvedObject.namespace", &["involvedObject", "namespace"], ""),
    ("involvedObject.name", &["involvedObject", "name"], ""),
    ("involvedObject.uid", &["involvedObject", "uid"], ""),
    ("involvedObject.apiVersion", &["involvedObject", "apiVersion"], ""),
    ("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"], ""),
    ("involvedObject.fieldPath", &["involvedObject", "fieldPath"], ""),
    ("reason", &["reason"], ""),
    ("reportingComponent", &["reportingComponent"], ""),
    ("source", &["source", "component"], ""),
    ("type", &["type"], ""),
];

const NEWER_SELECTABLE: &[(&str, &[&str], &str)] = &[
    ("regarding.kind", &["involvedObject", "kind"], ""),
    ("regarding.namespace", &["involvedObject", "namespace"], ""),
    ("regarding.name", &["involvedObject", "name"], ""),
    ("regarding.uid", &["involvedObject", "uid"], ""),
    ("regarding.apiVersion", &["involvedObject", "apiVersion"], ""),
    ("regarding.resourceVersion", &["involvedObject", "resourceVersion"], ""),
    ("regarding.fieldPath", &["involvedObject", "fieldPath"], ""),
    ("reason", &["reason"], ""),
    ("reportingController", &["reportingComponent"], ""),
    ("type", &["type"], ""),
];

/// The declaration in the core group.
pub fn def() -> ResourceDef {
    // Events of the newer API have no source: their controller is what `source` selects.
    ResourceDef::new(Events)
        .cells(cells)
        .selectable(SELECTABLE)
        .selectable_fallback("source", "reportingComponent")
        .fixture(include_str!("testdata/event.yaml"))
}

/// Names the kind of events.k8s.io; [`Events`] has the rules, over the stored form.
struct Newer;

impl Strategy for Newer {
    type Object = NewEvent;
}

/// The declaration in events.k8s.io.
pub fn newer_def() -> ResourceDef {
    let def = ResourceDef::new(Newer)
        .cells(cells)
        .selectable(NEWER_SELECTABLE)
        .fixture(include_str!("testdata/event-newer.yaml"));
    let version = ServedVersion { version: "v1".into(), to_hub: Some(to_core), from_hub: Some(from_core) };
    ResourceDef { strategy: Box::new(Events), versions: vec![version], storage_group: "".into(), ..def }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_convert_into_each_other() {
        let core = json!({"apiVersion":"v1","kind":"Event","message":"m","count":2,"source":{"component":"c"},
            "reportingComponent":"r","involvedObject":{"name":"p"},"reason":"x"});
        let newer = from_core(core.clone()).unwrap();
        assert_eq!(newer["note"], "m");
        assert_eq!(newer["regarding"]["name"], "p");
        assert_eq!(newer["deprecatedCount"], 2);
        assert_eq!(newer["reportingController"], "r");
        assert_eq!(to_core(newer).unwrap(), core);
    }
}
