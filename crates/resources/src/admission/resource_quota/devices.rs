//! What the accounting of device claims must know of other objects, from the watch cache.

use crate::util::value::text;
use knarr_api::Kind;
use knarr_api::resource::v1::ResourceClaim;
use knarr_apiserver::request::Reader;
use knarr_quota::{Amounts, Devices};
use std::sync::Arc;
use std::time::SystemTime;

const GROUP: &str = "resource.k8s.io";

/// Looks device classes, pods and claims up.
pub struct Cached {
    /// The watch cache.
    pub reader: Arc<dyn Reader>,
    /// Now.
    pub now: SystemTime,
}

impl Devices for Cached {
    fn extended_resource(&self, class: &str) -> Option<String> {
        let class = self.reader.get(GROUP, "deviceclasses", "", class)?;
        Some(text(&class, &["spec", "extendedResourceName"]).to_owned()).filter(|name| !name.is_empty())
    }

    fn has_class_for(&self, extended_resource: &str) -> bool {
        let classes = self.reader.list(GROUP, "deviceclasses", "");
        classes.iter().any(|class| text(class, &["spec", "extendedResourceName"]) == extended_resource)
    }

    fn usage_of_owner(&self, claim: &ResourceClaim) -> Option<Amounts> {
        let (name, _) = knarr_quota::devices::owner(claim)?;
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let pod = Kind::from_value(&*self.reader.get("", "pods", namespace, name)?).ok()?;
        let siblings = self.reader.list(GROUP, "resourceclaims", namespace);
        let siblings: Vec<_> = siblings.iter().filter_map(|c| ResourceClaim::from_value(c).ok()).collect();
        knarr_quota::devices::usage_of_owner(claim, &pod, siblings.iter(), self.now)
    }
}
