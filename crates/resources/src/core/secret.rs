//! Secrets (core/v1): pkg/registry/core/secret.

use super::configmap::MAX_SIZE;
use crate::util::value::{Object, ensure, object, set_default, text};
use crate::util::{Errs, Flag, Pairs, Text, cells};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_api::ByteString;
use knarr_api::core::v1::Secret;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::time::SystemTime;

struct Secrets;

impl Strategy for Secrets {
    type Object = Secret;

    fn default(&self, obj: &mut Value) {
        let obj = object(obj);
        set_default(obj, "type", "Opaque");
        // stringData is write-only: it goes over data, and is never seen again.
        if let Some(Value::Object(strings)) = obj.remove("stringData")
            && !strings.is_empty()
        {
            let encoded = strings.into_iter().map(|(key, value)| {
                let value = STANDARD.encode(value.as_str().unwrap_or_default());
                (key, Value::from(value))
            });
            let encoded: Object = encoded.collect();
            ensure(obj, "data").extend(encoded);
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &Secret) -> ErrorList {
        let mut errs = ErrorList::default();
        let data = Path::new("data");
        let mut size = 0;
        for (key, value) in obj.data.pairs() {
            errs.add_all_at(|| data.key(key), key, validate::config_map_key(key));
            size += value.0.len();
        }
        if size > MAX_SIZE {
            errs.add_too_long(&data, MAX_SIZE);
        }
        let has = |key: &str| obj.data.at(key).is_some();
        match obj.type_.text() {
            "kubernetes.io/service-account-token" => {
                const KEY: &str = "kubernetes.io/service-account.name";
                if obj.metadata.annotations.at(KEY).is_none_or(String::is_empty) {
                    errs.add_required(&Path::new("metadata").child("annotations").key(KEY), "");
                }
            }
            "kubernetes.io/dockercfg" => json_object(&mut errs, obj, ".dockercfg"),
            "kubernetes.io/dockerconfigjson" => json_object(&mut errs, obj, ".dockerconfigjson"),
            "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
                errs.add_required(&data.key("username"), "");
                errs.add_required(&data.key("password"), "");
            }
            "kubernetes.io/ssh-auth" if obj.data.at("ssh-privatekey").is_none_or(|v| v.0.is_empty()) => {
                errs.add_required(&data.key("ssh-privatekey"), "");
            }
            "kubernetes.io/tls" => {
                for key in ["tls.crt", "tls.key"] {
                    if !has(key) {
                        errs.add_required(&data.key(key), "");
                    }
                }
            }
            _ => {}
        }
        errs
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        // A client that leaves the type out keeps it.
        let old_type = text(old, &["type"]);
        if text(new, &["type"]).is_empty() && !old_type.is_empty() {
            object(new).insert("type".to_owned(), old_type.into());
        }
    }

    fn validate_update(&self, cx: &RequestCx, new: &Secret, old: &Secret) -> ErrorList {
        let mut errs = ErrorList::default();
        errs.add_changed(&Path::new("type"), &new.type_, &old.type_);
        if old.immutable.on() {
            let detail = "field is immutable when `immutable` is set";
            if !new.immutable.on() {
                errs.add_forbidden(&Path::new("immutable"), detail);
            }
            if new.data != old.data {
                errs.add_forbidden(&Path::new("data"), detail);
            }
        }
        errs.extend(self.validate(cx, new));
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn json_object(errs: &mut ErrorList, secret: &Secret, key: &str) {
    let path = Path::new("data").key(key);
    match secret.data.at(key) {
        None => errs.add_required(&path, ""),
        Some(ByteString(bytes)) => {
            if let Err(err) = serde_json::from_slice::<Object>(bytes) {
                errs.add_invalid(&path, "<secret contents redacted>", err.to_string());
            }
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let count = obj["data"].as_object().map_or(0, serde_json::Map::len);
    vec![cells::name(obj), text(obj, &["type"]).into(), count.into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Secrets)
        .cells(cells)
        .selectable(&[("type", &["type"], "")])
        .fixture(include_str!("testdata/secret.yaml"))
}
