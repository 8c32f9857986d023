//! Volumes: what a pod's containers find mounted. Paths follow upstream's layout below the root directory.
//! Preparing a pod's volumes again is how they are refreshed: what did not change is left alone.

mod atomic;
pub(crate) mod claim;
mod device;
mod empty_dir;
mod host_path;
pub(crate) mod local_path;
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
    /// It is a device, not a directory.
    pub(crate) block: bool,
    /// A group that containers must be in to use it.
    pub(crate) group: Option<u32>,
}

impl Mounted {
    fn new(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, block: false, group: None }
    }
}

/// Why a volume cannot be made: a message in upstream's words.
#[derive(Clone, Debug)]
pub(crate) struct VolumeError(pub(crate) String);

/// Directory of a pod's files.
pub(crate) fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

pub(crate) fn volume_dir(root: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
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
        let mounted = if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
            claimed(kubelet, pod, volume).await.map_err(VolumeError)?
        } else {
            let made = one(kubelet, pod, volume, ips, &mut prepared.refresh_at).await;
            made.map_err(|e| {
                VolumeError(format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name))
            })?
        };
        prepared.sources.insert(volume.name.clone(), mounted);
    }
    Ok(prepared)
}

/// Gives a volume to the pod's group when the pod gets it, and never again: what containers make of it since is theirs,
/// also over a restart of the kubelet. A file that says so lies where upstream has it.
fn own_once(root: &Path, pod: &Pod, plugin: &str, name: &str, path: &Path, new: bool) -> Result<(), String> {
    let dir = pod_dir(root, pod.uid()).join("plugins").join(format!("kubernetes.io~{plugin}")).join(name);
    let ready = dir.join("ready");
    if !new && ready.exists() {
        return Ok(());
    }
    ownership::apply(pod, path, false)?;
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&ready, ""))
        .map_err(|e| format!("{}: {e}", ready.display()))
}

/// A volume behind a claim, or the whole message that says why not.
async fn claimed(kubelet: &Arc<Shared>, pod: &Pod, volume: &Volume) -> Result<Mounted, String> {
    let mut found = claim::find(kubelet, pod, volume).await?;
    if let Some((name, device)) = found.device.take() {
        // A mount of the pod's own: the kernel shares a device's file system, and the pod's end ends it.
        let target = volume_dir(&kubelet.config.root_dir, pod.uid(), "local-volume", &name);
        let (source, at) = (device.path.clone(), target.clone());
        let kind = device.fs_type.clone();
        let mounted = tokio::task::spawn_blocking(move || device::mount(&device, &at)).await;
        mounted.unwrap_or_else(|_| Err("the work was cut off".to_owned())).map_err(|e| {
            let (source, at) = (source.display(), target.display());
            format!(
                "MountVolume.MountDevice failed for volume \"{name}\" : local: failed to mount device {source} at {at} (fstype: \
                 {kind}), error {e}"
            )
        })?;
        found.path = target;
    }
    if found.owned {
        let (pod, path, name) = (pod.clone(), found.path.clone(), volume.name.clone());
        let root = kubelet.config.root_dir.clone();
        // There may be much in it.
        let owned =
            tokio::task::spawn_blocking(move || own_once(&root, &pod, "local-volume", &name, &path, false));
        let owned = owned.await.unwrap_or_else(|_| Err("the work was cut off".to_owned()));
        owned.map_err(|e| format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name))?;
    }
    let claim::Found { path, read_only, block, group, .. } = found;
    Ok(Mounted { path, read_only, block, group })
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
        return Ok(Mounted::new(host_path::check(source)?, false));
    }
    if let Some(source) = &volume.empty_dir {
        let path = volume_dir(root, pod.uid(), "empty-dir", &volume.name);
        let new = empty_dir::make(&path, source, empty_dir::memory_bytes(pod, &kubelet.config))?;
        own_once(root, pod, "empty-dir", &volume.name, &path, new)?;
        return Ok(Mounted::new(path, false));
    }
    if volume.image.is_some() {
        // Pulled and mounted when the first container that wants it starts.
        let path = crate::container::image_volume::path(root, pod.uid(), &volume.name);
        return Ok(Mounted::new(path, true));
    }
    let plugin = match volume {
        Volume { config_map: Some(_), .. } => "configmap",
        Volume { secret: Some(_), .. } => "secret",
        Volume { downward_api: Some(_), .. } => "downward-api",
        Volume { projected: Some(_), .. } => "projected",
        _ => {
            let name = &volume.name;
            return Err(format!(
                "failed to get Plugin from volumeSpec for volume \"{name}\" err=no volume plugin matched"
            ));
        }
    };
    let path = volume_dir(root, pod.uid(), plugin, &volume.name);
    let payload = projected::collect(kubelet, pod, volume, ips, refresh_at).await?;
    if projected::is_secret(volume) {
        // What is secret is never written to a disk.
        empty_dir::mount_tmpfs(&path, "mode=0777,size=64m")?;
    }
    let group = ownership::group(pod)?;
    // What becomes visible belongs to the group from the first moment.
    let give = |version: &Path| match group {
        Some(group) => ownership::give(version, group, true).map_err(std::io::Error::other),
        None => Ok(()),
    };
    atomic::write(&path, &payload, give).map_err(|e| format!("{}: {e}", path.display()))?;
    ownership::apply(pod, &path, true)?;
    Ok(Mounted::new(path, true))
}

/// Unmounts and deletes everything a pod had on disk, its logs excepted.
pub(crate) fn remove(root: &Path, uid: &str) -> std::io::Result<()> {
    let dir = pod_dir(root, uid);
    if !dir.exists() {
        return Ok(());
    }
    unmount_below(&dir);
    // Deleting through a mount would delete what is the host's or a volume's.
    if has_mounts(&dir) {
        return Err(std::io::Error::other(format!("something is still mounted below {}", dir.display())));
    }
    std::fs::remove_dir_all(&dir)
}

/// Whether anything is mounted at or below a directory.
pub(crate) fn has_mounts(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mount_points(&table).any(|point| point.starts_with(dir))
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
    fn a_volume_is_given_to_the_group_once() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        let file = volume.join("f");
        let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        let private = || {
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        let spec = serde_json::json!({"securityContext": {"fsGroup": 77}, "containers": []});
        let pod = crate::pod::phase::tests::pod(spec);
        for (new, expected) in [(false, 0o660), (false, 0o600), (true, 0o660)] {
            private();
            own_once(root.path(), &pod, "empty-dir", "v", &volume, new).unwrap();
            assert_eq!(mode(), expected);
        }
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table = "1 2 0:3 / /a\\040b rw - tmpfs t rw\n4 5 0:6 / /c rw - ext4 d rw\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), [PathBuf::from("/a b"), PathBuf::from("/c")]);
    }
}
