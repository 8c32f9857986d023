//! Errors of a claim's spec: requests, constraints, configuration, and the selectors that classes have too.

use super::selector;
use super::{driver_name, each_of, fully_qualified_name, label, raw_extension, set_of, toleration};
use crate::util::{Errs, Items, Text};
use knarr_api::resource::v1::{
    DeviceClaim, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceToleration,
    OpaqueDeviceConfiguration, ResourceClaimSpec,
};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use std::collections::{BTreeMap, BTreeSet};

/// Configurations of a claim or class.
pub const MAX_CONFIG: usize = 32;
const MAX_REQUESTS: usize = 32;
const MAX_CONSTRAINTS: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_PARAMETERS: usize = 10 * 1024;
const MODES: &[&str] = &["All", "ExactCount"];
const REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The names of a claim's requests, each with those of its alternatives.
pub struct RequestNames<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> RequestNames<'a> {
    /// The names in `claim`.
    pub fn of(claim: &'a DeviceClaim) -> Self {
        let requests = claim.requests.items().iter();
        Self(
            requests
                .map(|r| {
                    let alternatives = r.first_available.items().iter();
                    (r.name.as_str(), alternatives.map(|s| s.name.as_str()).collect())
                })
                .collect(),
        )
    }

    fn has(&self, reference: &str) -> bool {
        match reference.split_once('/') {
            None => self.0.contains_key(reference),
            Some((request, alternative)) => self.0.get(request).is_some_and(|s| s.contains(alternative)),
        }
    }

    /// Errors of a reference to a request.
    pub fn reference(&self, errs: &mut ErrorList, name: &str, path: &Path) {
        if name.split('/').count() > 2 {
            errs.add_invalid(path, name, REFERENCE);
            return;
        }
        for segment in name.split('/') {
            label(errs, segment, path);
        }
        if !self.has(name) {
            errs.add_invalid(path, name, REFERENCE);
        }
    }

    /// Errors of a set of references.
    pub fn references(&self, errs: &mut ErrorList, names: &[String], path: &Path) {
        set_of(errs, names, Some(MAX_REQUESTS), path, String::clone, |errs, name, path| {
            self.reference(errs, name, path);
        });
    }
}

/// Errors of a claim's spec.
pub fn spec(errs: &mut ErrorList, spec: &ResourceClaimSpec, path: &Path) {
    let none = DeviceClaim::default();
    let claim = spec.devices.as_ref().unwrap_or(&none);
    let path = path.child("devices");
    let names = RequestNames::of(claim);
    let key = |request: &DeviceRequest| request.name.clone();
    set_of(errs, claim.requests.items(), Some(MAX_REQUESTS), &path.child("requests"), key, request);
    let at = path.child("constraints");
    each_of(errs, claim.constraints.items(), Some(MAX_CONSTRAINTS), &at, |errs, c, path| {
        constraint(errs, c, path, &names);
    });
    each_of(errs, claim.config.items(), Some(MAX_CONFIG), &path.child("config"), |errs, config, path| {
        names.references(errs, config.requests.items(), &path.child("requests"));
        configuration(errs, config.opaque.as_ref(), path, false);
    });
}

fn request(errs: &mut ErrorList, request: &DeviceRequest, path: &Path) {
    label(errs, &request.name, &path.child("name"));
    let alternatives = request.first_available.items();
    match (&request.exactly, alternatives.is_empty()) {
        (None, true) => {
            errs.add_required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (Some(_), false) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errs.add_invalid(path, "null", detail);
        }
        (Some(exact), true) => {
            let device = Wanted {
                class: &exact.device_class_name,
                selectors: exact.selectors.items(),
                mode: exact.allocation_mode.text(),
                count: exact.count.unwrap_or_default(),
                tolerations: exact.tolerations.items(),
            };
            device.check(errs, &path.child("exactly"));
        }
        (None, false) => {
            let at = path.child("firstAvailable");
            let key = |s: &knarr_api::resource::v1::DeviceSubRequest| s.name.clone();
            set_of(errs, alternatives, Some(MAX_ALTERNATIVES), &at, key, |errs, sub, path| {
                label(errs, &sub.name, &path.child("name"));
                let device = Wanted {
                    class: &sub.device_class_name,
                    selectors: sub.selectors.items(),
                    mode: sub.allocation_mode.text(),
                    count: sub.count.unwrap_or_default(),
                    tolerations: sub.tolerations.items(),
                };
                device.check(errs, path);
            });
        }
    }
}

/// What exact requests and alternatives have in common.
struct Wanted<'a> {
    class: &'a str,
    selectors: &'a [DeviceSelector],
    mode: &'a str,
    count: i64,
    tolerations: &'a [DeviceToleration],
}

impl Wanted<'_> {
    fn check(&self, errs: &mut ErrorList, path: &Path) {
        let at = path.child("deviceClassName");
        if self.class.is_empty() {
            errs.add_required(&at, "");
        } else {
            errs.add_all(&at, self.class, validate::dns1123_subdomain(self.class));
        }
        selectors(errs, self.selectors, &path.child("selectors"));
        let at = path.child("count");
        match self.mode {
            "All" if self.count != 0 => {
                errs.add_invalid(&at, self.count, "must not be specified when allocationMode is 'All'");
            }
            "ExactCount" if self.count <= 0 => {
                errs.add_invalid(&at, self.count, "must be greater than zero");
            }
            "All" | "ExactCount" => {}
            other => errs.add_not_supported(&path.child("allocationMode"), other, MODES),
        }
        each_of(errs, self.tolerations, None, &path.child("tolerations"), toleration);
    }
}

/// Errors of selectors.
pub fn selectors(errs: &mut ErrorList, selectors: &[DeviceSelector], path: &Path) {
    each_of(errs, selectors, Some(MAX_SELECTORS), path, |errs, selector, path| {
        let at = path.child("cel");
        match &selector.cel {
            None => errs.add_required(&at, ""),
            Some(cel) => selector::check(errs, &cel.expression, &at.child("expression")),
        }
    });
}

fn constraint(errs: &mut ErrorList, constraint: &DeviceConstraint, path: &Path, names: &RequestNames<'_>) {
    names.references(errs, constraint.requests.items(), &path.child("requests"));
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => fully_qualified_name(errs, name, &path.child("matchAttribute")),
        (None, Some(name)) => fully_qualified_name(errs, name, &path.child("distinctAttribute")),
        (None, None) => {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errs.add_required(path, detail);
        }
    }
}

/// Errors of a configuration; one that is `kept` from before may be larger.
pub fn configuration(
    errs: &mut ErrorList,
    opaque: Option<&OpaqueDeviceConfiguration>,
    path: &Path,
    kept: bool,
) {
    let at = path.child("opaque");
    let Some(opaque) = opaque else {
        errs.add_required(&at, "");
        return;
    };
    driver_name(errs, &opaque.driver, &at.child("driver"));
    raw_extension(errs, &opaque.parameters, MAX_PARAMETERS, &at.child("parameters"), kept);
}
