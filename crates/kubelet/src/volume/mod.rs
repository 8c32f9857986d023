//! Volumes: what a pod's containers find mounted. Paths follow upstream's layout below the root directory.
//! Preparing a pod's volumes again is how they are refreshed: what did not change is left alone.

mod atomic;
mod empty_dir;
mod host_path;
mod ownership;
mod projected;
pub(crate) mod subpath;
pub(crate) mod token;

use crate::kubelet::Shared;
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, Volume};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A pod's volumes, ready to be mounted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    /// By volume name.
    pub(crate) sources: BTreeMap<String, Mounted>,
    /// A token among them must be renewed then.
    pub(crate) refresh_at: Option<SystemTime>,
}

/// One volume on the host.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    /// Containers get it read-only whatever they ask for.
    pub(crate) read_only: bool,
}

/// Why a volume cannot be made: a message in upstream's words.
#[derive(Clone, Debug)]
pub(crate) struct VolumeError(pub(crate) String);

/// Directory of a pod's files.
pub(crate) fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

fn volume_dir(root: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
    pod_dir(root, uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// Makes or refreshes all volumes of a pod.
pub(crate) async fn prepare(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    ips: &[IpAddr],
) -> Result<Prepared, VolumeError> {
    let mut prepared = Prepared::default();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let made = one(kubelet, pod, volume, ips, &mut prepared.refresh_at).await;
        let mounted = made.map_err(|e| {
            VolumeError(format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name))
        })?;
        prepared.sources.insert(volume.name.clone(), mounted);
    }
    Ok(prepared)
}

async fn one(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    volume: &Volume,
    ips: &[IpAddr],
    refresh_at: &mut Option<SystemTime>,
) -> Result<Mounted, String> {
    let root = &kubelet.config.root_dir;
    if let Some(source) = &volume.host_path {
        return Ok(Mounted { path: host_path::check(source)?, read_only: false });
    }
    if let Some(source) = &volume.empty_dir {
        let path = volume_dir(root, pod.uid(), "empty-dir", &volume.name);
        empty_dir::make(&path, source)?;
        ownership::apply(pod, &path, false)?;
        return Ok(Mounted { path, read_only: false });
    }
    if volume.image.is_some() {
        // Pulled and mounted when the first container that wants it starts.
        let path = crate::container::image_volume::path(root, pod.uid(), &volume.name);
        return Ok(Mounted { path, read_only: true });
    }
    let plugin = match volume {
        Volume { config_map: Some(_), .. } => "configmap",
        Volume { secret: Some(_), .. } => "secret",
        Volume { downward_api: Some(_), .. } => "downward-api",
        Volume { projected: Some(_), .. } => "projected",
        Volume { persistent_volume_claim: Some(_), .. } => {
            return Err("persistent volume claims are not supported by this kubelet yet".to_owned());
        }
        _ => return Err("this kind of volume is not supported by this kubelet".to_owned()),
    };
    let path = volume_dir(root, pod.uid(), plugin, &volume.name);
    let payload = projected::collect(kubelet, pod, volume, ips, refresh_at).await?;
    if projected::is_secret(volume) {
        // What is secret is never written to a disk.
        empty_dir::mount_tmpfs(&path, "mode=0777,size=64m")?;
    }
    atomic::write(&path, &payload).map_err(|e| format!("{}: {e}", path.display()))?;
    ownership::apply(pod, &path, true)?;
    Ok(Mounted { path, read_only: true })
}

/// Unmounts and deletes everything a pod had on disk, its logs excepted.
pub(crate) fn remove(root: &Path, uid: &str) -> std::io::Result<()> {
    let dir = pod_dir(root, uid);
    if !dir.exists() {
        return Ok(());
    }
    unmount_below(&dir);
    std::fs::remove_dir_all(&dir)
}

/// Unmounts every mount below a directory, deepest first.
pub(crate) fn unmount_below(dir: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = mount_points(&table).filter(|p| p.starts_with(dir)).collect();
    points.sort();
    for point in points.iter().rev() {
        if let Err(error) = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH) {
            tracing::warn!(path = %point.display(), %error, "cannot unmount");
        }
    }
}

fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> + '_ {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| {
        // Spaces and the like are written as three octal digits.
        let mut text = Vec::new();
        let mut rest = field.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            let octal = tail.get(..3).filter(|_| *first == b'\\');
            match octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok()) {
                Some(byte) => {
                    text.push(byte);
                    rest = &tail[3..];
                }
                None => {
                    text.push(*first);
                    rest = tail;
                }
            }
        }
        use std::os::unix::ffi::OsStringExt;
        PathBuf::from(std::ffi::OsString::from_vec(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let table = "1 2 0:3 / /a\\040b rw - tmpfs t rw\n4 5 0:6 / /c rw - ext4 d rw\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), [PathBuf::from("/a b"), PathBuf::from("/c")]);
    }
}
