//! Errors of the policy by which a device's capacity is shared between requests (KEP-5075).

use super::set_of;
use crate::core::resource::parse;
use crate::util::{Errs, Items};
use knarr_api::Quantity as ApiQuantity;
use knarr_api::resource::v1::{CapacityRequestPolicy, CapacityRequestPolicyRange};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::Quantity;

const MAX_OPTIONS: usize = 10;

/// Errors of a policy over a capacity.
pub fn request_policy(
    errs: &mut ErrorList,
    capacity: &ApiQuantity,
    policy: &CapacityRequestPolicy,
    path: &Path,
) {
    let (values, capacity) = (policy.valid_values.items(), parse(capacity));
    let default = policy.default.as_ref().map(parse);
    match (&policy.valid_range, values.is_empty()) {
        (Some(_), false) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errs.add_forbidden(path, detail);
        }
        (None, false) => match default {
            None => errs.add_required(&path.child("default"), "required when validValues is defined"),
            Some(default) => options(errs, &default, &capacity, values, &path.child("validValues")),
        },
        (Some(limits), true) => match default {
            None => errs.add_required(&path.child("default"), "required when validRange is defined"),
            Some(default) => range(errs, &default, &capacity, limits, &path.child("validRange")),
        },
        (None, true) => {}
    }
}

fn options(
    errs: &mut ErrorList,
    default: &Quantity,
    capacity: &Quantity,
    values: &[ApiQuantity],
    path: &Path,
) {
    let values: Vec<Quantity> = values.iter().map(parse).collect();
    for (i, pair) in values.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let detail = "values must be sorted in ascending order";
            errs.add_invalid(&path.index(i + 1), pair[1].to_string(), detail);
        }
    }
    let key = |value: &Quantity| value.value().to_string();
    set_of(errs, &values, Some(MAX_OPTIONS), path, key, |errs, option, path| {
        if option > capacity {
            let detail = format!("option is larger than capacity value: {capacity}");
            errs.add_invalid(path, option.to_string(), detail);
        }
    });
    // Too many options are not looked at, so that the default is not found among them either.
    if values.len() > MAX_OPTIONS || !values.contains(default) {
        let detail = "default value is not valid according to the requestPolicy";
        errs.add_invalid(path, default.to_string(), detail);
    }
}

fn range(
    errs: &mut ErrorList,
    default: &Quantity,
    capacity: &Quantity,
    limits: &CapacityRequestPolicyRange,
    path: &Path,
) {
    let at = path.child("min");
    if limits.min.0.is_empty() {
        errs.add_required(&at, "required when validRange is defined");
        return;
    }
    let min = parse(&limits.min);
    if min > *capacity {
        errs.add_invalid(&at, min.to_string(), format!("min is larger than capacity value: {capacity}"));
    }
    if *default < min {
        errs.add_invalid(&at, default.to_string(), format!("default is less than min: {min}"));
    }
    let max = limits.max.as_ref().map(parse);
    if let Some(max) = &max {
        let at = path.child("max");
        if min > *max {
            errs.add_invalid(&at, min.to_string(), format!("min is larger than max: {max}"));
        }
        if max > capacity {
            errs.add_invalid(&at, max.to_string(), format!("max is larger than capacity value: {capacity}"));
        }
        if default > max {
            errs.add_invalid(&at, default.to_string(), format!("default is more than max: {max}"));
        }
    }
    if let Some(step) = limits.step.as_ref().map(parse) {
        let at = path.child("step");
        let mut one = min.clone();
        one.add(&step);
        if one > *capacity {
            let detail = format!("one step {one} is larger than capacity value: {capacity}");
            errs.add_invalid(&at, step.to_string(), detail);
        }
        for value in [Some(default), max.as_ref()].into_iter().flatten() {
            // A step of nothing divides nothing.
            let off = (value.value() - min.value()).checked_rem(step.value());
            if off != Some(0) {
                let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
                errs.add_invalid(&at, value.to_string(), detail);
            }
        }
    }
}
