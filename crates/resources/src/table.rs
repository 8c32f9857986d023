//! The table of kinds. A test finds files of kinds that are missing here.

use crate::core;
use knarr_apiserver::def::ResourceDef;

/// The declarations of all built-in kinds. Each call makes new ones: strategies that keep state (allocators)
/// keep that of one control plane.
pub fn all() -> Vec<ResourceDef> {
    vec![
        core::configmap::def(),
        core::namespace::def(),
        core::node::def(),
        core::pod::bindings_def(),
        core::pod::def(),
    ]
}
