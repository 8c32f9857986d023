//! ResourceClaimTemplates (resource.k8s.io/v1): pkg/registry/resource/resourceclaimtemplate.

use super::resourceclaim::admin_access;
use super::validation::claim;
use crate::core::pod::validation::{annotation_map, label_map};
use crate::util::value::{object, sub};
use crate::util::{Errs, Pairs, cells};
use knarr_api::meta::v1::ObjectMeta;
use knarr_api::resource::v1::ResourceClaimTemplate;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

struct Templates;

impl Strategy for Templates {
    type Object = ResourceClaimTemplate;

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = sub(object(obj), "spec").and_then(|spec| sub(spec, "spec")) {
            super::default_claim_spec(spec);
        }
    }

    fn validate(&self, cx: &RequestCx, obj: &ResourceClaimTemplate) -> ErrorList {
        let mut errs = admin_access(cx, &obj.spec.spec);
        errs.extend(spec(obj));
        errs
    }

    fn validate_update(
        &self,
        _cx: &RequestCx,
        new: &ResourceClaimTemplate,
        old: &ResourceClaimTemplate,
    ) -> ErrorList {
        let mut errs = spec(new);
        errs.add_changed(&Path::new("spec"), &new.spec, &old.spec);
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn spec(obj: &ResourceClaimTemplate) -> ErrorList {
    let path = Path::new("spec");
    let at = path.child("metadata");
    let meta = obj.spec.metadata.clone().unwrap_or_default();
    let mut errs = annotation_map(&meta, &at.child("annotations"));
    errs.extend(label_map(meta.labels.pairs(), &at.child("labels")));
    let others = ObjectMeta { labels: None, annotations: None, ..meta };
    if let Ok(Value::Object(fields)) = serde_json::to_value(&others) {
        for field in fields.keys() {
            errs.add_forbidden(&at.child(field.clone()), "cannot be set");
        }
    }
    claim::spec(&mut errs, &obj.spec.spec, &path.child("spec"));
    errs
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Templates).cells(cells).fixture(include_str!("testdata/resourceclaimtemplate.yaml"))
}
