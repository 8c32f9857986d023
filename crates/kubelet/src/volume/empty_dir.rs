//! emptyDir: a directory, or a tmpfs for the medium `Memory`.

use knarr_api::core::v1::EmptyDirVolumeSource;
use rustix::mount::MountFlags;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

pub(super) fn make(path: &Path, source: &EmptyDirVolumeSource) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let new = !path.exists();
    fs::create_dir_all(path).map_err(fail)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let limit = source.size_limit.as_ref().map(crate::util::value).filter(|b| *b > 0);
            let size = limit.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            mount_tmpfs(path, &format!("mode=0777{size}"))?;
        }
        other => return Err(format!("the medium {other:?} is not supported by this kubelet")),
    }
    if new {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(fail)?;
    }
    Ok(())
}

/// Mounts a tmpfs, unless something is mounted there already.
pub(super) fn mount_tmpfs(path: &Path, options: &str) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if is_mount(path) {
        return Ok(());
    }
    let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
        .map_err(|e| format!("{}: mount tmpfs: {e}", path.display()))
}

fn is_mount(path: &Path) -> bool {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}
