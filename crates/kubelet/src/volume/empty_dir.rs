//! emptyDir: a directory, or a tmpfs for the medium `Memory`.

use knarr_api::core::v1::EmptyDirVolumeSource;
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
            if !is_mount(path) {
                let mut options = "mode=0777".to_owned();
                if let Some(limit) = source.size_limit.as_ref().map(crate::util::value).filter(|b| *b > 0) {
                    options.push_str(&format!(",size={limit}"));
                }
                let options = std::ffi::CString::new(options).expect("digits have no zero byte");
                let flags = rustix::mount::MountFlags::empty();
                rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
                    .map_err(|e| format!("{}: mount tmpfs: {e}", path.display()))?;
            }
        }
        other => return Err(format!("the medium {other:?} is not supported by this kubelet")),
    }
    if new {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(fail)?;
    }
    Ok(())
}

fn is_mount(path: &Path) -> bool {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}
