//! Names and quantities of resources (cpu, memory, hugepages-2Mi, vendor.example/gpu): pkg/apis/core/helper
//! and the resource parts of pkg/apis/core/validation.

use crate::util::Errs;
use knarr_api::Quantity as ApiQuantity;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::Quantity;
use knarr_meta::validate;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const INTEGER: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// A quantity of the API as a number; what does not parse was refused by the schema check and counts as 0.
pub fn parse(q: &ApiQuantity) -> Quantity {
    Quantity::parse(&q.0).unwrap_or_default()
}

/// Whether the name is `hugepages-<size>`.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether the name belongs to Kubernetes itself.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether the name is a vendor's, such as `vendor.example/gpu`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && validate::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether requests may be below limits.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Whether only whole numbers make sense.
pub fn is_integer(name: &str) -> bool {
    INTEGER.contains(&name) || is_extended(name)
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// Whether a quota may limit the (prefix-less) resource.
pub fn is_standard_for_quota(name: &str) -> bool {
    is_standard(name) && name != "storage"
}

/// Whether a single container may ask for the (prefix-less) resource.
pub fn is_standard_for_containers(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

/// Errors of any resource's name.
pub fn validate_name(path: &Path, name: &str) -> ErrorList {
    let mut errs = ErrorList::default();
    errs.add_all(path, name, validate::qualified_name(name));
    if errs.is_empty() && !name.contains('/') && !is_standard(name) {
        errs.add_invalid(path, name, "must be a standard resource type or fully qualified");
    }
    errs
}

/// Errors of the name of a resource that a container asks for.
pub fn validate_container_name(path: &Path, name: &str) -> ErrorList {
    let mut errs = validate_name(path, name);
    if !name.contains('/') {
        if !is_standard_for_containers(name) {
            errs.add_invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errs.add_invalid(path, name, "doesn't follow extended resource name standard");
    }
    errs
}

/// Errors of the name of a resource asked for by a whole pod.
pub fn validate_pod_name(path: &Path, name: &str) -> ErrorList {
    let mut errs = validate_name(path, name);
    if errs.is_empty() && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        errs.add_not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
    errs
}

/// Errors of the name of a resource under quota.
pub fn validate_quota_name(path: &Path, name: &str) -> ErrorList {
    let mut errs = validate_name(path, name);
    if !name.contains('/') && !is_standard_for_quota(name) {
        errs.add_invalid(path, name, "must be a standard resource for quota");
    }
    errs
}

/// Errors of an amount of a resource.
pub fn validate_value(path: &Path, name: &str, value: &ApiQuantity) -> ErrorList {
    let mut errs = ErrorList::default();
    let amount = parse(value);
    if amount < Quantity::default() {
        errs.add_invalid(path, &value.0, "must be greater than or equal to 0");
    }
    if is_integer(name) && amount.milli_value() % 1000 != 0 {
        errs.add_invalid(path, &value.0, "must be an integer");
    }
    errs
}

/// Errors of an amount of huge pages: it must be a multiple of the page size.
pub fn validate_huge_page_value(path: &Path, name: &str, value: &ApiQuantity) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(size) = name.strip_prefix("hugepages-") else { return errs };
    let page = Quantity::parse(size).map(|q| q.value()).unwrap_or_default();
    let amount = parse(value).value();
    if page == 0 || amount < 0 || amount % page != 0 {
        let detail = format!("{} is not positive integer multiple of {name}", value.0);
        errs.add_invalid(path, &value.0, detail);
    }
    errs
}
