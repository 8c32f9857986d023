//! What pods use: memory and processes from their cgroups, disk by walking what they can write to. A walk costs, so
//! it is made for pods that have a limit, and for all only when disk runs short.

use crate::container::spec::log_dir;
use crate::kubelet::Shared;
use crate::util::defs;
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, Volume};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Room taken on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl AddAssign for Disk {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerUsage {
    pub(crate) memory_bytes: u64,
    /// What it wrote over its image.
    pub(crate) rootfs: Disk,
    pub(crate) logs: Disk,
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodUsage {
    /// The working set.
    pub(crate) memory_bytes: u64,
    pub(crate) pids: u64,
    /// By container name.
    pub(crate) containers: BTreeMap<String, ContainerUsage>,
    /// Volumes that are on the node's own disk, by name.
    pub(crate) volumes: BTreeMap<String, Disk>,
}

/// Memory and processes of a pod; `None` when it does not run.
pub(crate) async fn of_cgroups(kubelet: &Shared, uid: &str) -> Option<PodUsage> {
    let runtime = &kubelet.config.runtime;
    let sandbox = runtime.sandbox(uid)?;
    let pod = runtime.usage(uid, None).await.ok()?;
    let mut usage =
        PodUsage { memory_bytes: pod.memory_working_set_bytes, pids: pod.pids, ..PodUsage::default() };
    for container in sandbox.containers.iter().filter(|c| c.state == knarr_runtime::spec::State::Running) {
        let memory_bytes = match runtime.usage(uid, Some(&container.id)).await {
            Ok(used) => used.memory_working_set_bytes,
            Err(_) => continue,
        };
        usage
            .containers
            .insert(container.name.clone(), ContainerUsage { memory_bytes, ..Default::default() });
    }
    Some(usage)
}

/// Adds what a pod takes on disk. Walks directories: to be called where blocking is allowed.
pub(crate) fn add_disk(kubelet: &Shared, pod: &Pod, ids: &BTreeMap<String, String>, usage: &mut PodUsage) {
    let config = &kubelet.config;
    for def in defs(pod) {
        let name = &def.spec.name;
        let upper = ids.get(name).and_then(|id| config.images.upper(id).ok());
        let container = usage.containers.entry(name.clone()).or_default();
        container.rootfs = upper.map(|dir| walk(&dir)).unwrap_or_default();
        container.logs = walk(&log_dir(&config.log_dir, pod, name));
    }
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        if let Some(dir) = local_volume(&config.root_dir, pod.uid(), volume) {
            usage.volumes.insert(volume.name.clone(), walk(&dir));
        }
    }
}

/// Where a volume that takes room of the node's disk is.
fn local_volume(root: &Path, uid: &str, volume: &Volume) -> Option<PathBuf> {
    let plugin = match volume {
        Volume { empty_dir: Some(source), .. } if source.medium.as_deref().unwrap_or_default().is_empty() => {
            "empty-dir"
        }
        Volume { config_map: Some(_), .. } => "configmap",
        Volume { secret: Some(_), .. } => "secret",
        Volume { downward_api: Some(_), .. } => "downward-api",
        _ => return None,
    };
    Some(crate::volume::volume_dir(root, uid, plugin, &volume.name))
}

/// What is in a directory, as `du -x` counts: allocated blocks, hard links once, nothing that is mounted into it.
pub(crate) fn walk(dir: &Path) -> Disk {
    let mut sum = Disk::default();
    let Ok(top) = fs::symlink_metadata(dir) else { return sum };
    let device = top.dev();
    let mut linked = HashSet::new();
    let mut dirs = vec![dir.to_owned()];
    let mut add = |metadata: &fs::Metadata, sum: &mut Disk| {
        if metadata.is_dir() || metadata.nlink() < 2 || linked.insert(metadata.ino()) {
            *sum += Disk { bytes: metadata.blocks() * 512, inodes: 1 };
        }
    };
    add(&top, &mut sum);
    // What cannot be read, or goes meanwhile, does not count.
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != device {
                continue;
            }
            add(&metadata, &mut sum);
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    sum
}

/// A running pod with the identifiers of its containers.
pub(crate) struct Active {
    pub(crate) pod: Arc<Pod>,
    pub(crate) ids: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_and_sparse_files_what_they_take() {
        let dir = tempfile::tempdir().unwrap();
        let empty = walk(dir.path());
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let full = walk(dir.path());
        assert_eq!(full.inodes - empty.inodes, 4);
        assert!((100_000..150_000).contains(&(full.bytes - empty.bytes)), "{full:?}");
        assert_eq!(walk(&dir.path().join("none")), Disk::default());
    }
}
