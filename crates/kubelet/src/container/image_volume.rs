//! Image volumes (KEP-4639): the files of an image, mounted read-only below the pod's directory, from where
//! containers get them as any other volume. The layers are held like a container's until the pod is gone.

use crate::kubelet::Shared;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_image::{Image, RootFs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PLUGIN: &str = "kubernetes.io~image";
const HOLD: &str = "volume_";

/// Where the volume is mounted.
pub(crate) fn path(root: &Path, uid: &str, volume: &str) -> PathBuf {
    dir(root, uid).join(volume)
}

fn dir(root: &Path, uid: &str) -> PathBuf {
    crate::volume::pod_dir(root, uid).join("volumes").join(PLUGIN)
}

fn hold(uid: &str, volume: &str) -> String {
    format!("{HOLD}{uid}_{volume}")
}

/// The pod for whose volume something is held in the image store, if it is for one.
pub(crate) fn holder(hold: &str) -> Option<&str> {
    Some(hold.strip_prefix(HOLD)?.split_once('_')?.0)
}

/// Mounts the image's files, unless they are mounted already.
pub(crate) async fn mount(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    volume: &str,
    image: &Image,
) -> Result<(), String> {
    // Containers of a pod start side by side and may want the same volume.
    let _one = kubelet.image_volumes.lock().await;
    let target = path(&kubelet.config.root_dir, pod.uid(), volume);
    let (images, image, hold) = (kubelet.config.images.clone(), image.id.clone(), hold(pod.uid(), volume));
    let mounted = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
        if is_mounted(&target) {
            return Ok(());
        }
        let files = images.prepare(&image, &hold).map_err(|e| e.to_string())?;
        overlay(&files, &target).map_err(|e| format!("mount image: {e}"))
    });
    mounted.await.map_err(|e| e.to_string())?
}

fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

/// The layers below an empty directory, nothing writable: a volume is no place for programs either.
fn overlay(files: &RootFs, target: &Path) -> rustix::io::Result<()> {
    let layers: Vec<&Path> =
        std::iter::once(&files.upper).chain(&files.lower).map(PathBuf::as_path).collect();
    match by_options(&layers) {
        Ok(mount) => {
            move_mount(mount.as_fd(), "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        }
        // Kernels before 6.7 know no `lowerdir+`, and those before 6.5 say so only when the file system is made. They
        // take one text of 256 bytes here, and of a page by mount(2).
        Err(_) => by_mount(&layers, target),
    }
}

fn by_options(layers: &[&Path]) -> rustix::io::Result<OwnedFd> {
    let config = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fd = config.as_fd();
    fsconfig_set_string(fd, "source", "overlay")?;
    layers.iter().try_for_each(|layer| fsconfig_set_string(fd, "lowerdir+", *layer))?;
    fsconfig_create(fd)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn by_mount(layers: &[&Path], target: &Path) -> rustix::io::Result<()> {
    use rustix::mount::MountFlags;
    let escaped =
        |p: &&Path| p.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let lower = layers.iter().map(escaped).collect::<Vec<_>>().join(":");
    let options =
        std::ffi::CString::new(format!("lowerdir={lower}")).map_err(|_| rustix::io::Errno::INVAL)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
}

/// Whether the pod has image volumes.
pub(crate) fn any(root: &Path, uid: &str) -> bool {
    dir(root, uid).exists()
}

/// Gives back what the pod's volumes hold, once they are unmounted.
pub(crate) fn release(kubelet: &Shared, uid: &str) {
    let images = &kubelet.config.images;
    for held in images.containers().iter().filter(|held| holder(held) == Some(uid)) {
        if let Err(error) = images.release(held) {
            tracing::warn!(pod = uid, %error, "cannot release an image volume");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_names_its_pod() {
        let uid = "0b7a3c0e-3c6f-4a51-9b0a-5d1f0a5b6c7d";
        assert_eq!(holder(&hold(uid, "a-volume")), Some(uid));
        assert_eq!(holder(&"c".repeat(64)), None);
    }
}
