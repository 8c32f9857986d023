//! Errors of a claim's status: what was allocated, for whom it is reserved, what drivers say of the devices.

use super::claim::{MAX_CONFIG, RequestNames, configuration};
use super::{binding_conditions, driver_name, each_of, label, pool_name, raw_extension, set_of, uid};
use crate::core::pod::validation::scheduling::node_selector;
use crate::util::ip::{Cidr, parse_sloppy};
use crate::util::{Errs, Items, Text, conditions};
use knarr_api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult,
    DeviceRequestAllocationResult, NetworkDeviceData, ResourceClaimConsumerReference, ResourceClaimStatus,
};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::go;

const MAX_CONSUMERS: usize = 256;
const MAX_RESULTS: usize = 32;
const MAX_CONDITIONS: usize = 8;
const MAX_DATA: usize = 10 * 1024;
const MAX_ADDRESSES: usize = 16;
const MAX_INTERFACE_NAME: usize = 256;
const MAX_HARDWARE_ADDRESS: usize = 128;
const SOURCES: &[&str] = &["FromClaim", "FromClass"];

/// A device as errors name it: driver, pool, device and, for shared ones, the share.
pub fn device_id(driver: &str, pool: &str, device: &str, share: Option<&String>) -> String {
    let id = format!("{driver}/{pool}/{device}");
    match share.filter(|share| !share.is_empty()) {
        Some(share) => format!("{id}/{share}"),
        None => id,
    }
}

/// The device of a result.
pub fn result_id(result: &DeviceRequestAllocationResult) -> String {
    device_id(&result.driver, &result.pool, &result.device, result.share_id.as_ref())
}

/// The device that a driver's status is about.
pub fn status_id(status: &AllocatedDeviceStatus) -> String {
    device_id(&status.driver, &status.pool, &status.device, status.share_id.as_ref())
}

/// The results in a status.
pub fn results(status: &ResourceClaimStatus) -> &[DeviceRequestAllocationResult] {
    let devices = status.allocation.as_ref().and_then(|a| a.devices.as_ref());
    devices.map(|d| d.results.items()).unwrap_or_default()
}

/// Errors of a changed status; `deleting` says whether the claim is on its way out.
pub fn status(
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    deleting: bool,
    names: &RequestNames<'_>,
    path: &Path,
) -> ErrorList {
    let mut errs = ErrorList::default();
    let at = path.child("reservedFor");
    let consumers = new.reserved_for.items();
    set_of(&mut errs, consumers, Some(MAX_CONSUMERS), &at, |c| c.uid.clone(), consumer);
    let allocated: Vec<String> = results(new).iter().map(result_id).collect();
    // The name of a device is shown bare, not as a string.
    let devices = path.child("devices");
    each_of(&mut errs, new.devices.items(), None, &devices, |errs, d, path| {
        device_status(errs, d, path, &allocated);
    });
    let ids: Vec<String> = new.devices.items().iter().map(status_id).collect();
    for (i, id) in ids.iter().enumerate().filter(|(i, id)| ids[..*i].contains(id)) {
        bare(&mut errs, |errs| errs.add_duplicate(&devices.index(i), id), id);
    }
    if !consumers.is_empty() {
        if new.allocation.is_none() {
            errs.add_forbidden(&at, "may not be specified when `allocated` is not set");
        } else if deleting && consumers.iter().any(|c| !old.reserved_for.items().contains(c)) {
            let detail =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errs.add_forbidden(&at, detail);
        }
    }
    let at = path.child("allocation");
    match (&new.allocation, &old.allocation) {
        (Some(new), Some(old)) => errs.add_changed(&at, new, old),
        (Some(new), None) => allocation(&mut errs, new, &at, names),
        (None, _) => {}
    }
    errs
}

/// Adds an error and shows its value without quotes, as Go shows what has a text of its own.
fn bare(errs: &mut ErrorList, add: impl FnOnce(&mut ErrorList), text: &str) {
    add(errs);
    if let Some(last) = errs.0.last_mut() {
        last.value = Some(text.to_owned());
    }
}

fn consumer(errs: &mut ErrorList, consumer: &ResourceClaimConsumerReference, path: &Path) {
    for (field, value) in [("resource", &consumer.resource), ("name", &consumer.name), ("uid", &consumer.uid)]
    {
        if value.is_empty() {
            errs.add_required(&path.child(field), "");
        }
    }
}

fn allocation(errs: &mut ErrorList, allocation: &AllocationResult, path: &Path, names: &RequestNames<'_>) {
    let none = DeviceAllocationResult::default();
    let devices = allocation.devices.as_ref().unwrap_or(&none);
    let at = path.child("devices");
    each_of(errs, devices.results.items(), Some(MAX_RESULTS), &at.child("results"), |errs, r, path| {
        result(errs, r, path, names);
    });
    each_of(errs, devices.config.items(), Some(2 * MAX_CONFIG), &at.child("config"), |errs, c, path| {
        allocated_configuration(errs, c, path, names);
    });
    if let Some(selector) = &allocation.node_selector {
        errs.extend(node_selector(selector, &path.child("nodeSelector")));
    }
}

fn result(
    errs: &mut ErrorList,
    result: &DeviceRequestAllocationResult,
    path: &Path,
    names: &RequestNames<'_>,
) {
    names.reference(errs, &result.request, &path.child("request"));
    driver_name(errs, &result.driver, &path.child("driver"));
    pool_name(errs, &result.pool, &path.child("pool"));
    label(errs, &result.device, &path.child("device"));
    binding_conditions(errs, &result.binding_conditions, &result.binding_failure_conditions, path);
    if let Some(share) = &result.share_id {
        uid(errs, share, &path.child("shareID"));
    }
}

fn allocated_configuration(
    errs: &mut ErrorList,
    config: &DeviceAllocationConfiguration,
    path: &Path,
    names: &RequestNames<'_>,
) {
    let at = path.child("source");
    match config.source.as_str() {
        "" => errs.add_required(&at, ""),
        source if !SOURCES.contains(&source) => errs.add_not_supported(&at, source, SOURCES),
        _ => {}
    }
    names.references(errs, config.requests.items(), &path.child("requests"));
    configuration(errs, config.opaque.as_ref(), path, false);
}

fn device_status(errs: &mut ErrorList, device: &AllocatedDeviceStatus, path: &Path, allocated: &[String]) {
    driver_name(errs, &device.driver, &path.child("driver"));
    pool_name(errs, &device.pool, &path.child("pool"));
    label(errs, &device.device, &path.child("device"));
    if let Some(share) = &device.share_id {
        uid(errs, share, &path.child("shareID"));
    }
    let id = status_id(device);
    if !allocated.contains(&id) {
        let detail = "must be an allocated device in the claim";
        bare(errs, |errs| errs.add_invalid(path, &id, detail), &id);
    }
    let at = path.child("conditions");
    let count = device.conditions.items().len();
    if count > MAX_CONDITIONS {
        errs.add_too_many(&at, count, MAX_CONDITIONS);
    }
    errs.extend(conditions::validate(&device.conditions, &at));
    if let Some(data) = &device.data {
        raw_extension(errs, data, MAX_DATA, &path.child("data"), false);
    }
    if let Some(data) = &device.network_data {
        network_data(errs, data, &path.child("networkData"));
    }
}

fn network_data(errs: &mut ErrorList, data: &NetworkDeviceData, path: &Path) {
    if data.interface_name.text().len() > MAX_INTERFACE_NAME {
        errs.add_too_long(&path.child("interfaceName"), MAX_INTERFACE_NAME);
    }
    if data.hardware_address.text().len() > MAX_HARDWARE_ADDRESS {
        errs.add_too_long(&path.child("hardwareAddress"), MAX_HARDWARE_ADDRESS);
    }
    let at = path.child("ips");
    set_of(errs, data.ips.items(), Some(MAX_ADDRESSES), &at, String::clone, interface_address);
}

/// Errors of an interface's address: an address with the length of its network's prefix.
fn interface_address(errs: &mut ErrorList, value: &String, path: &Path) {
    let parsed = Cidr::parse(value).zip(value.split_once('/').and_then(|(ip, _)| parse_sloppy(ip)));
    let Some((cidr, ip)) = parsed else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        errs.add_invalid(path, value, detail);
        return;
    };
    let (ip, prefix) = match ip {
        std::net::IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => (v4.into(), cidr.prefix.saturating_sub(96)),
            None => (ip, cidr.prefix),
        },
        v4 => (v4, cidr.prefix),
    };
    let canonical = format!("{ip}/{prefix}");
    if canonical != *value {
        errs.add_invalid(path, value, format!("must be in canonical form ({})", go::quote(&canonical)));
    }
}
