//! A ResourceQuota with its amounts read.

use crate::amounts::{self, Amounts};
use crate::scopes::requirements;
use knarr_api::core::v1::{ResourceQuota, ResourceQuotaStatus, ScopedResourceSelectorRequirement};

/// A quota while its use changes.
#[derive(Clone)]
pub struct Quota {
    object: ResourceQuota,
    /// The limits that its status shows; the spec's count once the controller has taken them over.
    pub hard: Amounts,
    /// What is used of them.
    pub used: Amounts,
    /// What an object must match for the quota to be about it.
    pub scopes: Vec<ScopedResourceSelectorRequirement>,
}

impl Quota {
    /// Reads a quota.
    pub fn new(object: ResourceQuota) -> Self {
        let status = object.status.as_ref();
        Self {
            hard: amounts::read(status.and_then(|s| s.hard.as_ref())),
            used: amounts::read(status.and_then(|s| s.used.as_ref())),
            scopes: requirements(object.spec.as_ref()),
            object,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// The object as it was read.
    pub fn object(&self) -> &ResourceQuota {
        &self.object
    }

    /// The limits that its spec asks for.
    pub fn wanted(&self) -> Amounts {
        amounts::read(self.object.spec.as_ref().and_then(|s| s.hard.as_ref()))
    }

    /// The object with a status of these limits and what is used of them.
    pub fn with_status(&self, hard: &Amounts, used: &Amounts) -> ResourceQuota {
        let status =
            ResourceQuotaStatus { hard: Some(amounts::write(hard)), used: Some(amounts::write(used)) };
        ResourceQuota { status: Some(status), ..self.object.clone() }
    }
}
