//! RuntimeClasses (node.k8s.io/v1): pkg/registry/node/runtimeclass.

use crate::core::pod::validation::{label_map, resources, scheduling};
use crate::util::value::text;
use crate::util::{Errs, Items, Pairs, cells};
use knarr_api::core::v1::ResourceRequirements;
use knarr_api::node::v1::RuntimeClass;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::SystemTime;

struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    type Object = RuntimeClass;

    fn validate(&self, _cx: &RequestCx, obj: &RuntimeClass) -> ErrorList {
        let mut errs = ErrorList::default();
        let at = Path::new("handler");
        if obj.handler.is_empty() {
            errs.add_required(&at, "");
        } else {
            errs.add_all(&at, &obj.handler, validate::dns1123_label(&obj.handler));
        }
        if let Some(overhead) = &obj.overhead {
            let limits = ResourceRequirements {
                limits: overhead.pod_fixed.clone(),
                ..ResourceRequirements::default()
            };
            errs.extend(resources::container(&limits, &BTreeSet::new(), &Path::new("overhead")));
        }
        if let Some(rules) = &obj.scheduling {
            let path = Path::new("scheduling");
            errs.extend(label_map(rules.node_selector.pairs(), &path.child("nodeSelector")));
            errs.extend(scheduling::tolerations(rules.tolerations.items(), &path.child("tolerations")));
        }
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &RuntimeClass, old: &RuntimeClass) -> ErrorList {
        let mut errs = ErrorList::default();
        errs.add_changed(&Path::new("handler"), &new.handler, &old.handler);
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), text(obj, &["handler"]).into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(RuntimeClasses).cells(cells).fixture(include_str!("testdata/runtimeclass.yaml"))
}
