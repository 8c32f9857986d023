//! The names of resources: pkg/apis/core/v1/helper.

/// Prefix of amounts that are asked for.
pub const REQUESTS: &str = "requests.";
/// Prefix of huge pages.
pub const HUGE_PAGES: &str = "hugepages-";
/// Prefix of the extended resource that every device class stands for (KEP-5004).
pub const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// Suffix of the devices of a class.
pub const DEVICES_OF_CLASS: &str = ".deviceclass.resource.k8s.io/devices";

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a container that asks for it asks for a vendor's resource, or for devices of a class.
pub fn is_extended(name: &str) -> bool {
    let vendors = !is_native(name)
        && !name.starts_with(REQUESTS)
        && knarr_meta::validate::qualified_name(&format!("{REQUESTS}{name}")).is_empty();
    vendors || name.starts_with(DEVICE_CLASS)
}

/// What a quota calls such a resource: the vendor's name after `requests.`.
pub fn extended_in_quota(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(REQUESTS)?;
    (!is_native(name) || rest.starts_with(DEVICE_CLASS)).then_some(rest)
}
