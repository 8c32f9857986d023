//! PodTemplates (core/v1): pkg/registry/core/podtemplate.

use super::pod::{defaults, validation, warnings};
use crate::util::cells;
use crate::util::value::{ensure, object};
use knarr_api::core::v1::PodTemplate;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

struct PodTemplates;

impl Strategy for PodTemplates {
    type Object = PodTemplate;

    fn default(&self, obj: &mut Value) {
        defaults::template(ensure(object(obj), "template"));
    }

    fn validate(&self, _cx: &RequestCx, obj: &PodTemplate) -> ErrorList {
        validation::template(&obj.template.clone().unwrap_or_default(), &Path::new("template"))
    }

    fn warnings(&self, _cx: &RequestCx, new: &PodTemplate, _old: Option<&PodTemplate>) -> Vec<String> {
        new.template.as_ref().map(|t| warnings::of_template(t, &Path::new("template"))).unwrap_or_default()
    }
}

fn cells(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let (names, images) = cells::containers(&obj["template"]["spec"]);
    vec![cells::name(obj), names, images, cells::labels(&obj["template"]["metadata"]["labels"]).into()]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(PodTemplates).cells(cells).fixture(include_str!("testdata/podtemplate.yaml"))
}
