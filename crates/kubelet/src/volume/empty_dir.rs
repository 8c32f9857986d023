//! emptyDir: a directory, or a tmpfs for the medium `Memory`.

use crate::config::KubeletConfig;
use knarr_api::core::v1::{EmptyDirVolumeSource, Pod, ResourceRequirements};
use rustix::mount::MountFlags;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Bytes that a volume in memory may hold when it does not say: the pod's memory limit, or what the node has to give
/// (KEP-1967).
pub(super) fn memory_bytes(pod: &Pod, config: &KubeletConfig) -> u64 {
    let all = crate::node::allocatable(config).memory_bytes;
    let spec = pod.spec.as_ref();
    let limit = |resources: Option<&ResourceRequirements>| {
        resources?.limits.as_ref()?.get("memory").map(crate::util::value).and_then(|b| u64::try_from(b).ok())
    };
    let containers = || spec?.containers.iter().map(|c| limit(c.resources.as_ref())).sum::<Option<u64>>();
    limit(spec.and_then(|s| s.resources.as_ref()))
        .or_else(containers)
        .filter(|b| *b > 0)
        .map_or(all, |b| b.min(all))
}

/// Makes the volume; one in memory holds `memory_bytes` at most. Whether it is new, and so empty.
pub(super) fn make(path: &Path, source: &EmptyDirVolumeSource, memory_bytes: u64) -> Result<bool, String> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut new = !path.exists();
    fs::create_dir_all(path).map_err(fail)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let limit = source.size_limit.as_ref().map(crate::util::value);
            let limit = limit.and_then(|b| u64::try_from(b).ok()).filter(|b| *b > 0);
            let size = limit.map_or(memory_bytes, |limit| limit.min(memory_bytes));
            new |= mount_tmpfs(path, &format!("mode=0777,size={size}"))?;
        }
        other => return Err(format!("the medium {other:?} is not supported by this kubelet")),
    }
    if new {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(fail)?;
    }
    Ok(new)
}

/// Mounts a tmpfs, unless something is mounted there already. Whether it did.
pub(super) fn mount_tmpfs(path: &Path, options: &str) -> Result<bool, String> {
    fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if is_mount(path) {
        return Ok(false);
    }
    let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
        .map(|()| true)
        .map_err(|e| format!("{}: mount tmpfs: {e}", path.display()))
}

fn is_mount(path: &Path) -> bool {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}
