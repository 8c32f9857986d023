//! seccomp filters.

use crate::spec::ContainerSpec;
use crate::sys::SockFilter;

/// The filter of a container; empty for none.
pub fn filter(spec: &ContainerSpec) -> Result<Vec<SockFilter>, String> {
    let _ = spec;
    Ok(Vec::new())
}
