//! ConfigMaps (core/v1): pkg/registry/core/configmap, and the rules that Secrets share with them.

use crate::util::{Errs, Flag, Pairs, cells};
use knarr_api::core::v1::ConfigMap;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::time::SystemTime;

/// Bytes all values of a ConfigMap or Secret may have together (MaxSecretSize).
pub const MAX_SIZE: usize = 1024 * 1024;

struct ConfigMaps;

impl Strategy for ConfigMaps {
    type Object = ConfigMap;

    fn validate(&self, _cx: &RequestCx, obj: &ConfigMap) -> ErrorList {
        let mut errs = ErrorList::default();
        let mut size = 0;
        for (key, value) in obj.data.pairs() {
            let path = || Path::new("data").key(key);
            errs.add_all_at(path, key, validate::config_map_key(key));
            if obj.binary_data.at(key).is_some() {
                errs.add_invalid(&path(), key, "duplicate of key present in binaryData");
            }
            size += value.len();
        }
        for (key, value) in obj.binary_data.pairs() {
            errs.add_all_at(|| Path::new("binaryData").key(key), key, validate::config_map_key(key));
            size += value.0.len();
        }
        if size > MAX_SIZE {
            errs.add_too_long(&Path::new(""), MAX_SIZE);
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &ConfigMap, old: &ConfigMap) -> ErrorList {
        let mut errs = ErrorList::default();
        if old.immutable.on() {
            let detail = "field is immutable when `immutable` is set";
            if !new.immutable.on() {
                errs.add_forbidden(&Path::new("immutable"), detail);
            }
            if new.data != old.data {
                errs.add_forbidden(&Path::new("data"), detail);
            }
            if new.binary_data != old.binary_data {
                errs.add_forbidden(&Path::new("binaryData"), detail);
            }
        }
        errs.extend(self.validate(cx, new));
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let count = |field: &str| obj[field].as_object().map_or(0, serde_json::Map::len);
    vec![cells::name(obj), (count("data") + count("binaryData")).into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ConfigMaps).cells(cells).fixture(include_str!("testdata/configmap.yaml"))
}
