//! From a container of a pod's spec to what the runtime is asked for.

pub(crate) mod env;
mod env_file;
pub(crate) mod expand;
pub(crate) mod files;
pub(crate) mod image_volume;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod spec;
