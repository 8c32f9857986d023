//! Leases (coordination.k8s.io/v1): pkg/registry/coordination/lease.

use crate::util::value::text;
use crate::util::{Errs, Text, cells};
use knarr_api::coordination::v1::Lease;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

struct Leases;

impl Strategy for Leases {
    type Object = Lease;

    fn validate(&self, _cx: &RequestCx, obj: &Lease) -> ErrorList {
        let mut errs = ErrorList::default();
        let Some(spec) = &obj.spec else { return errs };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errs.add_invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = spec.lease_transitions.filter(|c| *c < 0) {
            let detail = "must be greater than or equal to 0";
            errs.add_invalid(&path.child("leaseTransitions"), count, detail);
        }
        if let Some(strategy) = &spec.strategy {
            let problems = knarr_meta::validate::qualified_name(strategy);
            errs.add_all(&path.child("strategy"), strategy, problems);
        }
        if !spec.preferred_holder.text().is_empty() && spec.strategy.text().is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            errs.add_forbidden(&path.child("preferredHolder"), detail);
        }
        errs
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), text(obj, &["spec", "holderIdentity"]).into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Leases).cells(cells).fixture(include_str!("testdata/lease.yaml"))
}
