//! What resource claims use (KEP-4381, KEP-5004): their number, devices by class, and the extended resources that a
//! class stands for.

use crate::amounts::{Amounts, whole};
use crate::names::{DEVICE_CLASS, DEVICES_OF_CLASS, REQUESTS, extended_in_quota};
use knarr_api::core::v1::Pod;
use knarr_api::resource::v1::ResourceClaim;
use knarr_meta::quantity::Quantity;
use std::time::SystemTime;

const COUNT: &str = "count/resourceclaims.resource.k8s.io";
/// How many devices one claim can be given at most: what a request for all devices counts as.
const MOST_DEVICES: i64 = 32;

/// What must be known of other objects to tell what a resource claim uses.
pub trait Devices: Send + Sync {
    /// The extended resource that a device class offers, by the name of the class.
    fn extended_resource(&self, class: &str) -> Option<String>;
    /// Whether a device class offers the extended resource.
    fn has_class_for(&self, extended_resource: &str) -> bool;
    /// What the pod uses for whose extended resources the claim was made; `None` for any other claim.
    fn usage_of_owner(&self, claim: &ResourceClaim) -> Option<Amounts>;
}

/// The annotation of claims that were made for the extended resources of a pod.
const FOR_EXTENDED_RESOURCES: &str = "resource.kubernetes.io/extended-resource-claim";

/// The pod for whose extended resources a claim was made: its name and UID.
pub fn owner(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let meta = &claim.metadata;
    if meta.annotations.as_ref()?.get(FOR_EXTENDED_RESOURCES)? != "true" {
        return None;
    }
    let owner = meta.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))?;
    (owner.kind == "Pod" && owner.api_version == "v1").then_some((&*owner.name, &*owner.uid))
}

/// What the owner of a claim uses, if the pod of that name is the owner and means this claim: its status names it,
/// or no other claim of `siblings` (claims of the namespace) was made for the pod before.
pub fn usage_of_owner<'a>(
    claim: &ResourceClaim,
    pod: &Pod,
    mut siblings: impl Iterator<Item = &'a ResourceClaim>,
    now: SystemTime,
) -> Option<Amounts> {
    let (_, uid) = owner(claim)?;
    if pod.metadata.uid.as_deref() != Some(uid) {
        return None;
    }
    let named = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    let means_it = match named {
        Some(named) => Some(&named.resource_claim_name) == claim.metadata.name.as_ref(),
        None => {
            let age = |claim: &ResourceClaim| {
                let meta = &claim.metadata;
                (meta.creation_timestamp.as_ref().map(|t| t.0), meta.name.clone())
            };
            !siblings.any(|other| owner(other).is_some_and(|(_, u)| u == uid) && age(other) < age(claim))
        }
    };
    means_it.then(|| crate::pods::usage(pod, now))
}

/// Whether a quota's name is about resource claims.
pub fn matches(name: &str, devices: &dyn Devices) -> bool {
    if name == COUNT || name.ends_with(DEVICES_OF_CLASS) {
        return true;
    }
    let Some(resource) = extended_in_quota(name) else { return false };
    let implied = resource.strip_prefix(DEVICE_CLASS);
    implied.is_some_and(|class| devices.extended_resource(class).is_some()) || devices.has_class_for(resource)
}

/// Whether a quota's name may be about resource claims, whatever device classes there are.
pub fn may_concern(name: &str) -> bool {
    name == COUNT || name.ends_with(DEVICES_OF_CLASS) || extended_in_quota(name).is_some()
}

/// What a claim uses. Of alternatives the worst counts, for each class.
pub fn usage(claim: &ResourceClaim, devices: &dyn Devices) -> Amounts {
    let mut used = Amounts::from([(COUNT.to_owned(), whole(1))]);
    let requests = claim.spec.devices.iter().flat_map(|d| d.requests.iter().flatten());
    for request in requests {
        let mut worst = Amounts::new();
        let alternatives = request.first_available.iter().flatten();
        let alternatives =
            alternatives.map(|sub| (&sub.device_class_name, sub.allocation_mode.as_deref(), sub.count));
        let exact = request.exactly.iter().filter(|_| request.first_available.iter().flatten().count() == 0);
        let exact = exact.map(|e| (&e.device_class_name, e.allocation_mode.as_deref(), e.count));
        for (class, mode, count) in alternatives.chain(exact) {
            let count = whole(match mode {
                Some("ExactCount") => count.unwrap_or_default(),
                Some("All") => MOST_DEVICES,
                // A mode of a later version.
                _ => 0,
            });
            let of_class = worst.entry(format!("{class}{DEVICES_OF_CLASS}")).or_default();
            if count > *of_class {
                *of_class = count;
            }
        }
        crate::amounts::add(&mut used, &worst);
    }
    add_extended(&mut used, claim, devices);
    used
}

/// Devices count as the extended resources of their class too, as far as the pod itself does not.
fn add_extended(used: &mut Amounts, claim: &ResourceClaim, devices: &dyn Devices) {
    let classes: Vec<(String, Quantity)> = used
        .iter()
        .filter_map(|(name, count)| Some((name.strip_suffix(DEVICES_OF_CLASS)?.to_owned(), count.clone())))
        .filter(|(class, _)| !class.is_empty())
        .collect();
    if classes.is_empty() {
        return;
    }
    let of_pod = devices.usage_of_owner(claim).unwrap_or_default();
    for (class, count) in classes {
        let offered = devices.extended_resource(&class).map(|name| format!("{REQUESTS}{name}"));
        for name in [Some(format!("{REQUESTS}{DEVICE_CLASS}{class}")), offered].into_iter().flatten() {
            let mut count = count.clone();
            if let Some(counted) = of_pod.get(&name) {
                count.sub(counted);
            }
            if count.sign() > 0 {
                used.insert(name, count);
            }
        }
    }
}
