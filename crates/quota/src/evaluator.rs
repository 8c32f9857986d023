//! Evaluators: what the objects of one resource use of quotas.

use crate::amounts::{Amounts, whole};
use crate::devices::{self, Devices};
use crate::{claims, count_name, pods, services};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolumeClaim, Pod, ScopedResourceSelectorRequirement, Service};
use knarr_api::resource::v1::ResourceClaim;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Resources that quotas count under a plain name too.
const ALIASED: &[&str] = &["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// How the objects of a resource are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// Claims to volumes.
    Claims,
    /// Claims to devices.
    ResourceClaims,
    /// Everything else is counted, under these names.
    Count(Vec<String>),
}

/// An object to be measured.
#[derive(Clone, Copy)]
pub enum Item<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// A service.
    Service(&'a Service),
    /// A claim to a volume.
    Claim(&'a PersistentVolumeClaim),
    /// A claim to devices.
    ResourceClaim(&'a ResourceClaim),
    /// One that is counted.
    Counted,
}

/// The same, read from JSON.
pub enum Owned {
    /// A pod.
    Pod(Box<Pod>),
    /// A service.
    Service(Box<Service>),
    /// A claim to a volume.
    Claim(Box<PersistentVolumeClaim>),
    /// A claim to devices.
    ResourceClaim(Box<ResourceClaim>),
    /// One that is counted.
    Counted,
}

impl Owned {
    /// The object.
    pub fn item(&self) -> Item<'_> {
        match self {
            Owned::Pod(pod) => Item::Pod(pod),
            Owned::Service(service) => Item::Service(service),
            Owned::Claim(claim) => Item::Claim(claim),
            Owned::ResourceClaim(claim) => Item::ResourceClaim(claim),
            Owned::Counted => Item::Counted,
        }
    }
}

impl Evaluator {
    /// That of a resource.
    pub fn of(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::ResourceClaims,
            _ => {
                let alias = (group.is_empty() && ALIASED.contains(&resource)).then(|| resource.to_owned());
                Self::Count([Some(count_name(group, resource)), alias].into_iter().flatten().collect())
            }
        }
    }

    /// The resource that is counted under a quota's name, if the name says so: group and plural name.
    pub fn counted_by(name: &str) -> Option<(&str, &str)> {
        let alias = || ALIASED.contains(&name).then_some(("", name));
        crate::counted(name).or_else(alias)
    }

    /// Reads an object of the resource; the error is for the client.
    pub fn read(&self, object: &Value) -> Result<Owned, String> {
        fn read<K: Kind>(object: &Value) -> Result<Box<K>, String> {
            K::from_value(object).map(Box::new).map_err(|e| e.to_string())
        }
        Ok(match self {
            Self::Pods => Owned::Pod(read(object)?),
            Self::Services => Owned::Service(read(object)?),
            Self::Claims => Owned::Claim(read(object)?),
            Self::ResourceClaims => Owned::ResourceClaim(read(object)?),
            Self::Count(_) => Owned::Counted,
        })
    }

    /// Whether a quota's name is about the resource.
    pub fn is_about(&self, name: &str, devices: &dyn Devices) -> bool {
        match self {
            Self::Pods => pods::matches(name),
            Self::Services => services::NAMES.contains(&name),
            Self::Claims => claims::matches(name),
            Self::ResourceClaims => devices::matches(name, devices),
            Self::Count(names) => names.iter().any(|n| n == name),
        }
    }

    /// Those of a quota's names that are about the resource.
    pub fn matching<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
        devices: &dyn Devices,
    ) -> BTreeSet<String> {
        names.filter(|name| self.is_about(name, devices)).cloned().collect()
    }

    /// Whether the object says what quotas over `required` demand it to say.
    pub fn constraints(&self, required: &BTreeSet<String>, item: Item<'_>) -> Result<(), String> {
        match item {
            Item::Pod(pod) => pods::constraints(required, pod),
            _ => Ok(()),
        }
    }

    /// Whether an object is in a scope.
    pub fn in_scope(&self, scope: &ScopedResourceSelectorRequirement, item: Item<'_>) -> bool {
        match item {
            Item::Pod(pod) => pods::in_scope(scope, pod),
            Item::Claim(claim) => claims::in_scope(scope, claim),
            _ => false,
        }
    }

    /// What an object uses.
    pub fn usage(&self, item: Item<'_>, devices: &dyn Devices, now: SystemTime) -> Amounts {
        match (self, item) {
            (_, Item::Pod(pod)) => pods::usage(pod, now),
            (_, Item::Service(service)) => services::usage(service),
            (_, Item::Claim(claim)) => claims::usage(claim),
            (_, Item::ResourceClaim(claim)) => devices::usage(claim, devices),
            (Self::Count(names), Item::Counted) => names.iter().map(|n| (n.clone(), whole(1))).collect(),
            (_, Item::Counted) => Amounts::new(),
        }
    }

    /// Whether a change of an object (other than its deletion) may have changed what it uses.
    pub fn frees(&self, old: Item<'_>, new: Item<'_>, now: SystemTime) -> bool {
        match (old, new) {
            (Item::Pod(old), Item::Pod(new)) => pods::frees(old, new, now),
            (Item::Service(old), Item::Service(new)) => services::frees(old, new),
            (Item::Claim(old), Item::Claim(new)) => claims::frees(old, new),
            _ => false,
        }
    }
}
