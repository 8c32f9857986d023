//! CSINodes (storage.k8s.io/v1): pkg/registry/storage/csinode.

use crate::core::pod::validation::volumes::csi_driver_name;
use crate::util::value::list;
use crate::util::{Errs, Items, Number, cells};
use knarr_api::storage::v1::{CSINode, CSINodeDriver};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::time::SystemTime;

const MAX_NODE_ID: usize = 192;

struct CsiNodes;

impl Strategy for CsiNodes {
    type Object = CSINode;

    fn validate(&self, _cx: &RequestCx, obj: &CSINode) -> ErrorList {
        let mut errs = ErrorList::default();
        let path = Path::new("spec").child("drivers");
        for (i, driver) in obj.spec.drivers.iter().enumerate() {
            validate_driver(&mut errs, driver, &obj.spec.drivers[..i], &path.index(i));
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &CSINode, old: &CSINode) -> ErrorList {
        let mut errs = self.validate(cx, new);
        for old in &old.spec.drivers {
            for new in new.spec.drivers.iter().filter(|new| new.name == old.name) {
                let new = CSINodeDriver { allocatable: None, ..new.clone() };
                let old = CSINodeDriver { allocatable: None, ..old.clone() };
                errs.add_changed(&Path::new("spec").child("drivers"), &new, &old);
            }
        }
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn validate_driver(errs: &mut ErrorList, driver: &CSINodeDriver, before: &[CSINodeDriver], path: &Path) {
    csi_driver_name(errs, &driver.name, &path.child("name"));
    let at = path.child("nodeID");
    if driver.node_id.is_empty() {
        errs.add_required(&at, "");
    }
    if driver.node_id.len() > MAX_NODE_ID {
        errs.add_invalid(&at, &driver.node_id, format!("must be {MAX_NODE_ID} characters or less"));
    }
    if let Some(allocatable) = &driver.allocatable {
        errs.add_negative(&path.child("allocatable").child("count"), allocatable.count.number());
    }
    if before.iter().any(|d| d.name == driver.name) {
        errs.add_duplicate(&path.child("name"), &driver.name);
    }
    let keys = driver.topology_keys.items();
    for (i, key) in keys.iter().enumerate() {
        if key.is_empty() {
            errs.add_required(path, "");
        }
        if keys[..i].contains(key) {
            errs.add_duplicate(path, key);
        }
        errs.add_all(path, key, validate::qualified_name(key));
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), list(obj, &["spec", "drivers"]).len().into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(CsiNodes).cells(cells).fixture(include_str!("testdata/csinode.yaml"))
}
