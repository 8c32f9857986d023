//! How much there is of each resource, for the estimate of what a list costs.

use super::Registry;
use crate::front::flowcontrol::Sizes;

impl Sizes for Registry {
    fn sizes(&self, group: &str, resource: &str) -> Option<(u64, u64)> {
        let (count, bytes) = self.resource(group, resource)?.cache.sizes()?;
        Some((count as u64, bytes as u64))
    }
}
