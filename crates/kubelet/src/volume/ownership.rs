//! fsGroup: the volume belongs to the group, and what is made in it too (security-context task page).

use knarr_api::core::v1::Pod;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Gives a volume to the pod's fsGroup, if it has one.
pub(super) fn apply(pod: &Pod, path: &Path, read_only: bool) -> Result<(), String> {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let Some(group) = context.and_then(|c| c.fs_group) else { return Ok(()) };
    let group = u32::try_from(group).map_err(|_| format!("fsGroup {group} is not a group id"))?;
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    if policy == Some("OnRootMismatch")
        && fs::metadata(path).is_ok_and(|m| m.gid() == group && m.mode() & 0o2000 != 0)
    {
        return Ok(());
    }
    walk(path, group, read_only).map_err(|e| format!("applyFSGroup failed for {}: {e}", path.display()))
}

fn walk(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let wanted = match (meta.is_dir(), read_only) {
        (true, true) => 0o2550,
        (true, false) => 0o2770,
        (false, true) => 0o440,
        (false, false) => 0o660,
    };
    let mode = meta.mode() & 0o7777;
    // Changing the group may have cleared bits, so the mode is set again then.
    if mode | wanted != mode || meta.gid() != group {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | wanted))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod;
    use serde_json::json;

    #[test]
    fn everything_in_the_volume_belongs_to_the_group() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), "").unwrap();
        fs::set_permissions(dir.path().join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
        let pod = pod(json!({"securityContext": {"fsGroup": 1234}, "containers": []}));
        apply(&pod, dir.path(), false).unwrap();
        let meta = |p: &str| fs::metadata(dir.path().join(p)).unwrap();
        assert_eq!((meta("d/f").gid(), meta("d/f").mode() & 0o7777), (1234, 0o660));
        assert_eq!((meta("d").gid(), meta("d").mode() & 0o2070), (1234, 0o2070));
    }
}
