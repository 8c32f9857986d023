//! The group resource.k8s.io, v1 (dynamic resource allocation, KEP-4381): device classes, claims, templates of claims
//! and the slices in which drivers publish their devices.

pub mod deviceclass;
pub mod resourceclaim;
pub mod resourceclaimtemplate;
pub mod resourceslice;
mod validation;

use crate::util::value::{Object, each, set_default, sub};

/// Defaults of a claim's spec.
fn default_claim_spec(spec: &mut Object) {
    let Some(devices) = sub(spec, "devices") else { return };
    each(devices, "requests", |request| {
        if let Some(exactly) = sub(request, "exactly") {
            default_request(exactly);
        }
        each(request, "firstAvailable", default_request);
    });
}

fn default_request(request: &mut Object) {
    set_default(request, "allocationMode", "ExactCount");
    if request.get("allocationMode").is_some_and(|mode| mode == "ExactCount") {
        set_default(request, "count", 1);
    }
}
