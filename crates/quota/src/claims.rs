//! What volume claims use: their number and the storage they ask for, in all and by storage class.

use crate::amounts::{Amounts, whole};
use crate::scopes::meets;
use knarr_api::core::v1::{PersistentVolumeClaim, ScopedResourceSelectorRequirement};
use knarr_meta::quantity::Quantity;
use std::collections::BTreeSet;

const COUNT: &str = "count/persistentvolumeclaims";
const CLAIMS: &str = "persistentvolumeclaims";
const STORAGE: &str = "requests.storage";
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
/// The annotation that named a claim's class before the field did.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Whether a quota's name is about claims.
pub fn matches(name: &str) -> bool {
    let of_class =
        |resource: &str| name.strip_suffix(resource).is_some_and(|start| start.ends_with(OF_CLASS));
    matches!(name, COUNT | CLAIMS | STORAGE) || of_class(CLAIMS) || of_class(STORAGE)
}

/// What a claim uses.
pub fn usage(claim: &PersistentVolumeClaim) -> Amounts {
    let mut used: Amounts = [COUNT, CLAIMS].into_iter().map(|name| (name.to_owned(), whole(1))).collect();
    let class = class_of(claim).filter(|class| !class.is_empty());
    if let Some(class) = class {
        used.insert(format!("{class}{OF_CLASS}{CLAIMS}"), whole(1));
    }
    if let Some(storage) = storage(claim) {
        if let Some(class) = class {
            used.insert(format!("{class}{OF_CLASS}{STORAGE}"), storage.clone());
        }
        used.insert(STORAGE.to_owned(), storage);
    }
    used
}

fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    annotated.or(claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// What is asked for, or what was allocated if that is more (an expansion that was taken back), in whole bytes.
fn storage(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let whole_bytes = |text: &knarr_api::Quantity| {
        let amount = Quantity::parse(&text.0).unwrap_or_default();
        if amount.is_whole() { amount } else { Quantity::from_value(amount.value(), amount.format()) }
    };
    let asked =
        claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").map(whole_bytes)?;
    let allocated = claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref()?.get("storage"));
    Some(allocated.map(whole_bytes).filter(|allocated| *allocated > asked).unwrap_or(asked))
}

/// The attributes classes that a claim has, had, or is to have.
fn attributes_classes(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let current = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|s| s.modify_volume_status.as_ref());
    let target = target.and_then(|m| m.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

/// Whether a claim is in a scope.
pub fn in_scope(scope: &ScopedResourceSelectorRequirement, claim: &PersistentVolumeClaim) -> bool {
    if scope.scope_name != "VolumeAttributesClass" {
        return false;
    }
    let classes = attributes_classes(claim);
    if classes.is_empty() {
        meets(scope, None)
    } else {
        classes.iter().any(|class| meets(scope, Some(class)))
    }
}

/// Whether the change of a claim may set something free.
pub fn frees(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> bool {
    let allocated = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref()?.get("storage").cloned())
    };
    allocated(old) != allocated(new) || attributes_classes(old) != attributes_classes(new)
}
