//! Namespaces (core/v1): pkg/registry/core/namespace. A namespace that is deleted stays Terminating until
//! the namespace controller has emptied it and removed `kubernetes` from spec.finalizers by the `finalize`
//! subresource.

use crate::util::value::{ensure, keep, keep_at, list, object, set_default, text};
use crate::util::{Errs, Items, Text, cells};
use knarr_api::core::v1::Namespace;
use knarr_apiserver::def::{ResourceDef, Strategy, SubKind, Subresource};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

struct Namespaces;

impl Strategy for Namespaces {
    type Object = Namespace;

    fn default(&self, obj: &mut Value) {
        let name = text(obj, &["metadata", "name"]).to_owned();
        let obj = object(obj);
        if !name.is_empty() {
            let labels = ensure(ensure(obj, "metadata"), "labels");
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
        set_default(ensure(obj, "status"), "phase", "Active");
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        // The name may have been generated since defaulting.
        self.default(obj);
        let obj = object(obj);
        obj.insert("status".to_owned(), json!({"phase": "Active"}));
        let spec = ensure(obj, "spec");
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Value::Array(finalizers) = finalizers
            && !finalizers.iter().any(|f| f == "kubernetes")
        {
            finalizers.push("kubernetes".into());
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &Namespace) -> ErrorList {
        let mut errs = ErrorList::default();
        let path = Path::new("spec").child("finalizers");
        for finalizer in obj.spec.as_ref().map(|s| s.finalizers.items()).unwrap_or_default() {
            validate_finalizer(&mut errs, finalizer, &path);
        }
        errs
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        keep_at(new, old, &["spec", "finalizers"]);
        keep(new, old, "status");
    }

    fn validate_update(&self, cx: &RequestCx, new: &Namespace, _old: &Namespace) -> ErrorList {
        let mut errs = ErrorList::default();
        if cx.info.subresource == "finalize" {
            let path = Path::new("spec").child("finalizers");
            for (i, finalizer) in
                new.spec.as_ref().map(|s| s.finalizers.items()).unwrap_or_default().iter().enumerate()
            {
                validate_finalizer(&mut errs, finalizer, &path.index(i));
            }
        }
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &Namespace, _old: &Namespace) -> ErrorList {
        let mut errs = ErrorList::default();
        let path = Path::new("status").child("Phase");
        let phase = new.status.as_ref().map(|s| s.phase.text()).unwrap_or_default();
        if new.metadata.deletion_timestamp.is_none() {
            if phase != "Active" {
                errs.add_invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
        } else if phase != "Terminating" {
            errs.add_invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
        }
        errs
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        validate::dns1123_label(name)
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn has_finalizers(&self, obj: &Value) -> bool {
        !list(obj, &["metadata", "finalizers"]).is_empty() || !list(obj, &["spec", "finalizers"]).is_empty()
    }

    fn mark_deleted(&self, _cx: &RequestCx, obj: &mut Value) {
        ensure(object(obj), "status").insert("phase".to_owned(), "Terminating".into());
    }
}

/// A finalizer is a qualified name with a slash, or one of the standard ones.
fn validate_finalizer(errs: &mut ErrorList, finalizer: &str, path: &Path) {
    errs.add_all(path, finalizer, validate::qualified_name(finalizer));
    if !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errs.add_invalid(path, finalizer, detail);
    }
}

/// `finalize` changes spec.finalizers (and metadata.finalizers) alone.
fn prepare_finalize(_cx: &RequestCx, new: &mut Value, old: &Value) {
    keep(new, old, "status");
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), text(obj, &["status", "phase"]).into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Namespaces)
        .status()
        .subresource(Subresource {
            name: "finalize",
            kind: ("", "v1", "Namespace"),
            verbs: &["update"],
            serve: SubKind::Partial(prepare_finalize),
        })
        .cells(cells)
        .selectable(&[("status.phase", &["status", "phase"], "")])
        .fixture(include_str!("testdata/namespace.yaml"))
}
